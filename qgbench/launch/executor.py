"""The interface to the engines that start jobs: this machine's processes, Slurm, Ray.

An engine starts jobs and says which it still holds. What became of a job is never taken from its word: that is in the
job's folder (`qgbench.run.folder.RunFolder.status`), and `qgbench.launch.drive` reads it there.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from qgbench.launch.job import Job


class Ending(NamedTuple):
    """What an engine knows of how a job's process ended."""

    code: int | None
    """Exit code, negative for a signal; None where the engine does not know it."""
    text: str
    """Last words, '' if there were none: 'killed by signal 9 (out of memory?)', or what was written to stderr."""


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
        """Names of submitted jobs that are queued or running.

        Raises
        ------
        QGBenchError
            The engine does not answer.
        """

    @abstractmethod
    def endings(self) -> dict[str, Ending]:
        """How jobs ended since the last call, by name; a job of which nothing is known may be missing."""

    @abstractmethod
    def stop(self) -> None:
        """End all jobs. Those that run are asked to save their state first; it is also called when all have ended."""
