"""Carry out a suite and the fixed computations anew, and give their numbers."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from qgbench.base.cores import usable_cores
from qgbench.base.errors import QGBenchError, UserError
from qgbench.data.content import CACHE_VARIABLE
from qgbench.launch.drive import drive
from qgbench.launch.executor import Executor
from qgbench.launch.local import LocalExecutor
from qgbench.launch.plan import Plan
from qgbench.launch.present import Display
from qgbench.regress.fixed import fixed_numbers
from qgbench.regress.outcome import numbers_of_runs
from qgbench.regress.reference import Numbers, Origin
from qgbench.run import provenance


def rerun(whole: Plan, executor: Executor, only: Sequence[str] = ()) -> Numbers:
    """Compute every number, in an empty folder and with an empty cache of prepared images.

    Parameters
    ----------
    whole : Plan
        Of a suite. Its folder holds no runs; the cache is made in it.
    executor : Executor
        Carries out the runs; how far they are goes to standard error.
    only : sequence of str
        Carry out a part of the runs, as `Plan.only`. The fixed computations are always those of the whole suite.

    Raises
    ------
    UserError
        The folder is not empty, so that what it holds might be compared in place of a rerun; the data are missing.
    QGBenchError
        A run failed.
    """
    plan, output = whole.only(only), whole.jobs[0].output
    if output.is_dir() and any(output.iterdir()):
        raise UserError(f"{output} is not empty, and a rerun begins with nothing; choose another --output.")
    output.mkdir(parents=True, exist_ok=True)
    with _own_cache(output / "cache"):
        numbers = fixed_numbers([job.spec for job in whole.runs], whole.jobs[0].data_dir)
        with Display(plan, executor.slots, Console(stderr=True)) as display:
            found = drive(plan, executor, on_change=display.update, poll=0.2)
    if found.failed or found.stopped:
        causes = [f"{name}: {cause}" for name, cause in found.causes.items()] or [found.stopped]
        raise QGBenchError("not everything could be rerun:\n  " + "\n  ".join(causes))
    return numbers | numbers_of_runs(plan.runs)


def this_machine(plan: Plan) -> LocalExecutor:
    """Return the processes that carry out a plan here: as many side by side as the cores carry."""
    return LocalExecutor([""] * max(1, usable_cores() // plan.jobs[0].spec.threads))


@contextmanager
def _own_cache(folder: Path) -> Iterator[None]:
    """Prepare images anew: arrays that an earlier code prepared would hide a defect in the reading of images."""
    before = os.environ.get(CACHE_VARIABLE)
    os.environ[CACHE_VARIABLE] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[CACHE_VARIABLE]
        else:
            os.environ[CACHE_VARIABLE] = before


def origin() -> Origin:
    """Return where numbers that are computed here come from."""
    packages = provenance.package_versions()
    packages.pop("qgbench", None)  # the very thing under test
    return Origin(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        git_commit=provenance.git_commit(),
        packages=packages,
        python=sys.version.split()[0],
        hardware=provenance.hardware(),
    )
