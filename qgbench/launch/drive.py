"""Carry out a plan with an engine: hand out what is missing, retry what was lost, never stop for one that failed.

The truth about a job is its folder's status. A job whose process is gone and whose status says neither 'done' nor
'failed' was lost (killed, a node died, out of memory) and is handed out again, `_ATTEMPTS` times in all; it continues
from its checkpoint. A job that somebody else is at (two commands on one folder) is left to them and waited for.
"""

import shutil
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from qgbench.base.amounts import amount
from qgbench.base.errors import QGBenchError
from qgbench.base.logs import logger
from qgbench.launch.executor import Ending, Executor
from qgbench.launch.job import NOT_NOW, Job
from qgbench.launch.plan import Plan

_ATTEMPTS = 3
_LEAST_SPACE = 200 * 2**20
"""Bytes that the disk must have free before another job begins: checkpoints of a run in progress."""

State = Literal["waiting", "running", "elsewhere", "done", "failed"]


@dataclass
class Drive:
    """What has become of the jobs of a plan, as far as this process knows.

    Attributes
    ----------
    states : dict of name to state
        'elsewhere': another command is at it. 'waiting': not begun, or interrupted.
    causes : dict of name to text
        Why jobs failed.
    stopped : str
        Why nothing more was handed out, '' if all was.
    """

    states: dict[str, State]
    causes: dict[str, str] = field(default_factory=dict)
    stopped: str = ""

    @property
    def failed(self) -> list[str]:
        """Names of the jobs that failed."""
        return [name for name, state in self.states.items() if state == "failed"]


def drive(
    plan: Plan,
    executor: Executor,
    max_hours: float | None = None,
    retry: bool = False,
    on_change: Callable[[Drive], None] = lambda drive: None,
    poll: float = 1.0,
) -> Drive:
    """Hand out every job of a plan that is not done, until all have ended.

    Parameters
    ----------
    plan : Plan
    executor : Executor
    max_hours : float, optional
        After so long nothing more is handed out, and what runs is asked to save its state and end.
    retry : bool
        Also hand out the jobs that failed before.
    on_change : callable
        Called after each look at the jobs.
    poll : float
        Seconds between two looks.

    Returns
    -------
    Drive

    Raises
    ------
    QGBenchError
        The engine does not answer.
    Interrupted
        A signal asked to stop; the jobs were asked to save their state and end.
    """
    return _Driver(plan, executor, retry).run(max_hours, on_change, poll)


class _Driver:
    def __init__(self, plan: Plan, executor: Executor, retry: bool) -> None:
        self._executor = executor
        self._jobs = {job.name: job for job in plan.jobs}
        self._output = plan.jobs[0].output
        self._submitted: set[str] = set()  # of those, the engine has not said that they ended
        self._attempts: Counter[str] = Counter()
        self._drive = Drive({name: "waiting" for name in self._jobs})
        again = [job for job in plan.jobs if retry and job.folder.status() == "failed"]
        for job in again:
            job.folder.set_status("interrupted")
        self._look()

    def run(self, max_hours: float | None, on_change: Callable[[Drive], None], poll: float) -> Drive:
        deadline = None if max_hours is None else time.monotonic() + 3600 * max_hours
        try:
            while True:
                self._look()
                on_change(self._drive)
                if deadline is not None and time.monotonic() >= deadline:
                    self._drive.stopped = f"{max_hours:g} hours are over"
                    break
                if not self._drive.stopped:
                    self._hand_out()
                if not self._submitted and (self._drive.stopped or "elsewhere" not in self._drive.states.values()):
                    break
                time.sleep(poll)
        finally:
            self._executor.stop()
        self._look()
        on_change(self._drive)
        return self._drive

    def _look(self) -> None:
        """Read every job's status, and find those that were lost."""
        alive = self._executor.alive() if self._submitted else set()
        endings = self._executor.endings()
        states = self._drive.states
        ended = self._submitted - alive
        self._submitted &= alive
        for name, job in self._jobs.items():
            if states[name] in ("done", "failed"):
                continue
            gone = name in ended
            status = job.folder.status()
            if status == "done":
                states[name] = "done"
            elif status == "failed":
                self._fail(job, job.folder.cause())
            elif gone:
                states[name] = "waiting"
                self._account(job, endings.get(name))
            elif name in self._submitted:
                states[name] = "running" if status == "running" else "waiting"
            else:
                states[name] = "elsewhere" if status == "running" else "waiting"

    def _account(self, job: Job, ending: Ending | None) -> None:
        """Decide what becomes of a job that ended without a result."""
        if self._drive.stopped or (ending is not None and ending.code == NOT_NOW):
            return
        self._attempts[job.name] += 1
        said = ending.text if ending is not None else ""
        if ending is not None and ending.code is not None and 0 < ending.code <= 2:
            cause = said  # it refused, and could not write its status
        elif self._attempts[job.name] < _ATTEMPTS:
            logger.warning("%s ended without a result%s; it is begun again.", job.words, f": {said}" if said else "")
            return
        else:
            cause = f"ended {_ATTEMPTS} times without a result" + (f": {said}" if said else "")
        with suppress(QGBenchError):  # somebody else's folder, a full disk: the cause is kept here at least
            job.folder.set_status("failed", cause)
        self._fail(job, cause)

    def _fail(self, job: Job, cause: str) -> None:
        self._drive.states[job.name] = "failed"
        self._drive.causes[job.name] = cause
        logger.warning("failed: %s: %s", job.words, cause)

    def _hand_out(self) -> None:
        """Return the engine as many jobs as it takes, in the plan's order."""
        states = self._drive.states
        for name, job in self._jobs.items():
            broken = next((need for need in job.needs if states.get(need) == "failed"), None)
            if states[name] == "waiting" and name not in self._submitted and broken is not None:
                states[name] = "failed"
                self._drive.causes[name] = f"needs {self._jobs[broken].words}, which failed"
        waiting = [job for name, job in self._jobs.items() if states[name] == "waiting" and name not in self._submitted]
        if self._executor.queues:
            ready = [job for job in waiting if not any(states.get(need) == "elsewhere" for need in job.needs)]
        else:
            ready = [job for job in waiting if all(states.get(need, "done") == "done" for need in job.needs)]
        if self._executor.slots is not None:
            ready = ready[: max(0, self._executor.slots - len(self._submitted))]
        if not ready:
            return
        if (free := shutil.disk_usage(self._output).free) < _LEAST_SPACE:
            self._drive.stopped = (
                f"the disk of {self._output} has {amount(free)} left, and {amount(_LEAST_SPACE)} are needed; "
                "free space and give the command again"
            )
            return
        self._submitted.update(job.name for job in ready)
        self._executor.submit(ready)
