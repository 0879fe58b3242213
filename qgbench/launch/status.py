"""How far a suite is: one table, drawn by the command that carries it out and by any other terminal. No torch."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from qgbench.base.errors import QGBenchError
from qgbench.base.interruption import Interrupted
from qgbench.launch.estimate import UNKNOWN, Estimates
from qgbench.launch.job import Job
from qgbench.launch.plan import Plan
from qgbench.run.folder import Status

_STATES: tuple[Status | None, ...] = ("done", "running", "interrupted", "failed", None)
_COLOURS: Mapping[Status | None, str] = {"running": "cyan", "interrupted": "yellow", "failed": "red", "done": "green"}
_LISTED = 12  # failed jobs, at most, in the table that is redrawn
_SECONDS_BETWEEN_READINGS = 30.0


@dataclass(frozen=True)
class Standing:
    """What every job's status says now."""

    plan: Plan
    states: Mapping[str, Status | None]
    causes: Mapping[str, str]
    """Why jobs failed. A job that needs one which failed cannot begin, and counts as failed."""
    seconds_left: float
    """Until the last job ends, if nothing fails and the jobs of unknown time take none."""
    unknown: int
    """Jobs left whose time is not known."""

    def count(self, status: Status | None) -> int:
        """Return the number of jobs with a status."""
        return sum(state == status for state in self.states.values())

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to run or running."""
        return all(state in ("done", "failed") for state in self.states.values())


class Watcher:
    """Looks at a plan's jobs again and again.

    Parameters
    ----------
    plan : Plan
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._estimates = Estimates([plan.jobs[0].output])
        self._read = time.monotonic()
        self._done = 0

    def look(self, slots: int | None = None) -> Standing:
        """Read the status of every job.

        Parameters
        ----------
        slots : int, optional
            Jobs that run side by side; as many as are running now if not given.
        """
        plan = self._plan
        states: dict[str, Status | None] = {}
        causes: dict[str, str] = {}
        for job in plan.jobs:  # what is needed comes before its users
            states[job.name] = job.folder.status()
            broken = next((need for need in job.needs if states.get(need) == "failed"), None)
            if states[job.name] == "failed":
                causes[job.name] = job.folder.cause() or "without a word"
            elif states[job.name] is None and broken is not None:
                states[job.name] = "failed"
                causes[job.name] = f"needs {broken}, which failed"
        self._learn(sum(state == "done" for state in states.values()))
        left = [job for job in plan.jobs if states[job.name] not in ("done", "failed")]
        seconds = [
            whole * (1 - _share_done(job, states[job.name]))
            for job in left
            if (whole := self._estimates.of(job).seconds) is not None
        ]
        slots = slots or max(1, sum(state == "running" for state in states.values()))
        return Standing(plan, states, causes, sum(seconds) / slots, len(left) - len(seconds))

    def _learn(self, done: int) -> None:
        """Read what finished runs took, once there are more of them; not all the time, as there may be thousands."""
        now = time.monotonic()
        if done > self._done and now - self._read > _SECONDS_BETWEEN_READINGS:
            self._estimates, self._read, self._done = Estimates([self._plan.jobs[0].output]), now, done


def render(now: Standing, failures: int | None = _LISTED) -> RenderableType:
    """Return the standing as a table, a row a block, then what runs and what failed, with its cause.

    Parameters
    ----------
    now : Standing
    failures : int or None
        How many failed jobs are named at most; None names all.
    """
    plan = now.plan
    table = Table(title=f"suite {plan.suite}: {plan.question}", title_justify="left")
    table.add_column("block")
    for state in _STATES:
        table.add_column(state or "waiting", justify="right")
    blocks = {job.name: plan.block_of(job) for job in plan.jobs}
    for block in dict.fromkeys(blocks.values()):
        counts = Counter(now.states[name] for name, of in blocks.items() if of == block)
        table.add_row(block, *(Text(str(counts[state] or "."), style=_COLOURS.get(state, "")) for state in _STATES))
    parts: list[RenderableType] = [table]
    for job in plan.jobs:
        if now.states[job.name] == "running":
            parts.append(Text(f"running  {_progress(job)}{job.words}", style=_COLOURS["running"]))
    failed = [job for job in plan.jobs if now.states[job.name] == "failed"]
    for job in failed[:failures]:
        parts.append(Text(f"failed   {job.words}: {now.causes[job.name]}", style=_COLOURS["failed"]))
    if failures is not None and len(failed) > failures:
        parts.append(Text(f"... and {len(failed) - failures} more that failed", style=_COLOURS["failed"]))
    parts.append(Text(summary(now)))
    return Group(*parts)


def watch(look: Callable[[], Standing], console: Console, seconds: float = 2.0) -> Standing:
    """Redraw the table until the suite is over or the user stops watching."""
    now = look()
    with suppress(Interrupted), Live(render(now), console=console, auto_refresh=False, transient=True) as live:
        while not now.is_over:
            time.sleep(seconds)
            now = look()
            live.update(render(now), refresh=True)
    return now


def human(seconds: float) -> str:
    """Return a time for people: '40 s', '12 min', '3.5 h', '2.1 d'."""
    for unit, size, limit in (("s", 1, 90), ("min", 60, 5400), ("h", 3600, 48 * 3600)):
        if seconds < limit:
            return f"{seconds / size:.1f} h" if unit == "h" else f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.1f} d"


def at_least(seconds: float, unknown: int) -> str:
    """Return a sum of times for people: '3.5 h', 'at least 3.5 h, 2 jobs unknown', 'unknown'."""
    if not unknown:
        return human(seconds)
    return f"at least {human(seconds)}, {unknown} job{'s' * (unknown > 1)} unknown" if seconds > 0 else UNKNOWN


def summary(now: Standing) -> str:
    """Return in one line how far the suite is."""
    done, whole = now.count("done"), len(now.states)
    if now.is_over:
        return f"{done} of {whole} jobs done, {now.count('failed')} failed."
    left = at_least(now.seconds_left, now.unknown)
    return f"{done} of {whole} jobs done, {now.count('failed')} failed; time left: {left}."


def _steps(job: Job) -> tuple[int, int] | None:
    """Return the steps that a run has logged, and all its steps."""
    if job.kind != "run":
        return None
    try:
        log = job.folder.log()
        return int(log[-1]["step"]) if log else 0, job.spec.resolve().train.steps
    except (QGBenchError, ValueError, KeyError):  # a log that is being written, or is damaged
        return None


def _share_done(job: Job, status: Status | None) -> float:
    steps = _steps(job) if status in ("running", "interrupted") else None
    return 0.0 if steps is None else steps[0] / steps[1]


def _progress(job: Job) -> str:
    steps = _steps(job)
    return "" if steps is None else f"{steps[0]}/{steps[1]}  "
