"""Jobs as processes of this machine: one at a time in each slot, a slot being a GPU or some processor threads."""

import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Self

from qgbench.launch.executor import Ending, Executor, Request
from qgbench.launch.job import Job, main

_PATIENCE = 120.0  # seconds between asking a process to end and killing it; a step and a checkpoint take far less
_LAST_WORDS = 2000  # characters


@dataclass(frozen=True)
class _Process:
    job: Job
    slot: str
    process: BaseProcess
    errors: Path


class LocalExecutor(Executor):
    """Processes of this machine.

    On a processor they are forked from a server that has imported torch once, and begin in a moment; for GPUs they are
    started afresh, because a CUDA that was touched before a fork is lost in the child.

    Parameters
    ----------
    slots : sequence of str
        One entry a slot: the GPU's number for CUDA_VISIBLE_DEVICES, '' for a slot of the processor.
    """

    queues = False

    def __init__(self, slots: Sequence[str]) -> None:
        self._slots = list(slots)
        self.slots = len(self._slots)
        self._running: list[_Process] = []
        self._endings: dict[str, Ending] = {}
        # Threads that spin while they wait slow down their neighbours in other slots; sleeping waits change no result.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        forks = "forkserver" in multiprocessing.get_all_start_methods() and not any(slots)
        self._context: ForkServerContext | SpawnContext = (
            multiprocessing.get_context("forkserver") if forks else multiprocessing.get_context("spawn")
        )
        self._context.set_forkserver_preload(["qgbench.run.carry_out"])

    @classmethod
    def start(cls, request: Request) -> Self:
        """Return the engine, as `LocalExecutor` takes what is asked."""
        return cls(request.slots)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Start each job in a slot that is free."""
        for job in jobs:
            free = list(self._slots)
            for taken in self._running:
                free.remove(taken.slot)
            self._start(job, free[0])

    def alive(self) -> set[str]:
        """Return the names of jobs whose process has not ended."""
        for ended in [each for each in self._running if not each.process.is_alive()]:
            self._running.remove(ended)
            self._endings[ended.job.name] = _ending(ended)
        return {each.job.name for each in self._running}

    def endings(self) -> dict[str, Ending]:
        """Return how processes ended since the last call."""
        ended, self._endings = self._endings, {}
        return ended

    def stop(self) -> None:
        """Ask every process to save its state and end; kill those that do not."""
        for each in self._running:
            each.process.terminate()
        deadline = time.monotonic() + _PATIENCE
        for each in self._running:
            each.process.join(max(0.0, deadline - time.monotonic()))
            if each.process.is_alive():
                each.process.kill()
                each.process.join()
        self.alive()

    def _start(self, job: Job, slot: str) -> None:
        descriptor, errors = tempfile.mkstemp(prefix="qgbench-job-")
        os.close(descriptor)
        process = self._context.Process(target=_become, args=(job.model_dump_json(), slot, errors))
        process.start()
        self._running.append(_Process(job, slot, process, Path(errors)))


def _become(job: str, slot: str, errors: str) -> None:
    """Be the process of a job, in a session of its own: Ctrl-C reaches the driver alone, which stops all in order."""
    if hasattr(os, "setsid"):
        os.setsid()
    if slot:
        os.environ["CUDA_VISIBLE_DEVICES"] = slot
    nowhere = os.open(os.devnull, os.O_RDWR)
    words = os.open(errors, os.O_WRONLY)
    for number, target in ((0, nowhere), (1, nowhere), (2, words)):
        os.dup2(target, number)
    sys.exit(main(job))


def _ending(ended: _Process) -> Ending:
    code = ended.process.exitcode
    said = ended.errors.read_text(errors="replace")[-_LAST_WORDS:].strip()
    ended.errors.unlink()
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = " (out of memory?)" if -code == signal.SIGKILL else ""
        return Ending(code, f"its process was killed by {name}{hint}")
    return Ending(code, said)


def processor_slots(threads: int, memory_mib: float | None, cores: int, available_mib: float) -> int:
    """Return how many runs go side by side on a processor: as many as its cores and memory carry, at least 1.

    Parameters
    ----------
    threads : int
        Of one run.
    memory_mib : float or None
        What the largest run is estimated to take; None where nothing is known of it.
    cores : int
    available_mib : float
        Memory that is free.
    """
    by_cores = cores // threads
    by_memory = by_cores if not memory_mib else int(0.9 * available_mib / memory_mib)
    return max(1, min(by_cores, by_memory))
