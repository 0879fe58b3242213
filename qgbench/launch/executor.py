"""The interface to the engines that start jobs: this machine's processes, Slurm, Ray.

An engine starts jobs and says which it still holds. What became of a job is never taken from its word: that is in the
job's folder (`qgbench.run.folder.RunFolder.status`), and `qgbench.launch.drive` reads it there.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Self

from qgbench.launch.job import Job


class Ending(NamedTuple):
    """What an engine knows of how a job's process ended."""

    code: int | None
    """Exit code, negative for a signal; None where the engine does not know it."""
    text: str
    """Last words, '' if there were none: 'killed by signal 9 (out of memory?)', or what was written to stderr."""


@dataclass(frozen=True)
class Request:
    """What a user asked of an engine; each takes what concerns it, and refuses what it cannot do.

    Attributes
    ----------
    output : Path
        Folder of all runs.
    slots : tuple of str
        One for each job side by side, for an engine that does not queue: the GPU's number, '' for the processor.
    gpus : float
        GPUs of one job.
    address : str or None
        Of an existing cluster.
    options : tuple of str
        ``KEY=VALUE``, for an engine that has settings of its own.
    """

    output: Path
    slots: tuple[str, ...] = ("",)
    gpus: float = 0.0
    address: str | None = None
    options: tuple[str, ...] = ()


class Executor(ABC):
    """An engine.

    Attributes
    ----------
    slots : int or None
        Jobs that it takes at a time; None if it queues any number by itself.
    queues : bool
        Whether it takes jobs whose needs are not done yet and begins them afterwards.
    """

    slots: int | None
    queues: bool

    @classmethod
    @abstractmethod
    def start(cls, request: Request) -> Self:
        """Return the engine, ready to take jobs.

        Raises
        ------
        UserError
            It is not here, or cannot do what is asked.
        """

    @abstractmethod
    def submit(self, jobs: Sequence[Job]) -> None:
        """Start jobs, or queue them.

        Where `queues`, what `Job.needs` names was submitted before, with an earlier call, or is done; the engine begins
        a job only when these have ended, whether well or not.

        Raises
        ------
        QGBenchError
            The engine does not answer.
        """

    @abstractmethod
    def alive(self) -> set[str]:
        """Return the names of submitted jobs that are queued or running.

        Raises
        ------
        QGBenchError
            The engine does not answer.
        """

    @abstractmethod
    def endings(self) -> dict[str, Ending]:
        """Return how jobs ended since the last call, by name; a job of which nothing is known may be missing."""

    @abstractmethod
    def stop(self) -> None:
        """End all jobs. Those that run are asked to save their state first; it is also called when all have ended."""


EXECUTORS: Mapping[str, str] = MappingProxyType(
    {
        "local": "qgbench.launch.local:LocalExecutor",
        "slurm": "qgbench.launch.slurm:SlurmExecutor",
        "ray": "qgbench.launch.ray:RayExecutor",
    }
)
"""By name, where the class is: its module imports an engine that may not be installed."""
