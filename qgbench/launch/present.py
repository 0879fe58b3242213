"""A plan on paper, and its progress in the terminal of the command that carries it out."""

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from qgbench.base.console import print_table
from qgbench.base.logs import QUIET, logger, verbosity
from qgbench.launch.drive import Drive
from qgbench.launch.estimate import Estimates
from qgbench.launch.plan import Plan
from qgbench.launch.status import Standing, Watcher, at_least, human, render, summary

_KINDS = ("data", "g", "run")


def print_jobs(plan: Plan, estimates: Estimates, console: Console) -> None:
    """Print every job with its status and what it is estimated to take."""
    table = Table(title="what runs share, each made once; then the runs in the order in which they matter", box=None)
    for heading in ("job", "block", "status", "time", "MiB"):
        table.add_column(heading, justify="right" if heading in ("time", "MiB") else "left")
    for job in sorted(plan.jobs, key=lambda job: _KINDS.index(job.kind)):
        cost = estimates.of(job)
        table.add_row(
            Text(job.words),
            plan.blocks.get(job.name, job.kind),
            job.folder.status() or "",
            "?" if cost.seconds is None else human(cost.seconds),
            "?" if cost.memory_mib is None else f"{cost.memory_mib:.0f}",
        )
    print_table(table, console)
    console.print()


def print_plan(plan: Plan, estimates: Estimates, slots: Sequence[str], console: Console) -> None:
    """Print a line a block, what the whole is estimated to take, and what the estimate rests on.

    Parameters
    ----------
    plan : Plan
    estimates : Estimates
    slots : sequence of str
        Jobs that run side by side on this machine.
    console : Console
    """
    costs = {job.name: estimates.of(job) for job in plan.jobs}
    status = {job.name: job.folder.status() for job in plan.jobs}
    blocks = Table(title=f"suite {plan.suite}: {plan.question}", title_justify="left")
    for heading in ("block", "jobs", "done", "failed", "to do", "time to do, one at a time"):
        blocks.add_column(heading, justify="left" if heading == "block" else "right")
    of_block: dict[str, list[str]] = {}
    for job in plan.jobs:
        of_block.setdefault(plan.block_of(job), []).append(job.name)
    for block, names in of_block.items():
        open_jobs = [name for name in names if status[name] not in ("done", "failed")]
        blocks.add_row(
            block,
            str(len(names)),
            str(sum(status[name] == "done" for name in names)),
            str(sum(status[name] == "failed" for name in names)),
            str(len(open_jobs)),
            _total([costs[name].seconds for name in open_jobs]),
        )
    print_table(blocks, console)
    left = [costs[name].seconds for name in status if status[name] not in ("done", "failed")]
    side_by_side = f"{len(slots)} side by side on this machine" if len(slots) > 1 else "one at a time on this machine"
    console.print(
        f"{len(plan.runs)} runs, {len(left)} jobs to do, {side_by_side}: {_total(left, len(slots))}", highlight=False
    )
    for basis, count in Counter(cost.basis for cost in costs.values()).most_common():
        console.print(Text(f"time of {count} job{'s' * (count > 1)}: {basis}"))
    if any(costs[job.name].seconds is None or costs[job.name].elsewhere for job in plan.jobs if job.kind != "data"):
        console.print("--measure times a few steps of every kind of run on this machine.", highlight=False)
    memory = [cost.memory_mib for cost in costs.values() if cost.memory_mib is not None]
    if memory:
        console.print(f"largest process: {max(memory):.0f} MiB", highlight=False)


def _total(seconds: Sequence[float | None], slots: int = 1) -> str:
    known = [each for each in seconds if each is not None]
    return at_least(sum(known) / slots, len(seconds) - len(known)) if seconds else "-"


class Display(AbstractContextManager["Display"]):
    """Progress of a suite: a table that is redrawn in a terminal, a line at each change elsewhere.

    Parameters
    ----------
    plan : Plan
    slots : int or None
        Jobs that run side by side; None where the engine decides: as many as are running.
    console : Console
    """

    def __init__(self, plan: Plan, slots: int | None, console: Console) -> None:
        self._watcher = Watcher(plan)
        self._slots = slots
        self._last = ""
        self._live: Live | None = None
        if console.is_terminal and verbosity() < QUIET:
            self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> "Display":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, drive: Drive) -> None:
        """Show what the jobs' statuses say now."""
        now = self._watcher.look(self._slots)
        if self._live is not None:
            self._live.update(render(now), refresh=True)
        elif not now.is_over and (counts := _counts(now)) != self._last:
            self._last = counts
            logger.info("%s", summary(now))


def _counts(now: Standing) -> str:
    return f"{now.count('done')} {now.count('failed')}"
