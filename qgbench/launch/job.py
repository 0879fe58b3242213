"""A job of a suite: what one process is to do, as data, and how it does it.

A job carries a RunSpec, never objects, and travels as JSON, so that any engine can hand it to any machine that has
qgbench. What became of it is in its folder's ``status``.
"""

import sys
from functools import cached_property
from pathlib import Path
from typing import Literal

from qgbench.base.errors import QGBenchError
from qgbench.base.interruption import Interrupted, interruptible
from qgbench.base.locks import BusyError
from qgbench.base.logs import QUIET, logged_to, set_verbosity
from qgbench.run.folder import TEXT_LOG_NAME, RunFolder
from qgbench.spec.regime import Regime
from qgbench.spec.run_spec import RunSpec
from qgbench.spec.settings import Settings

JOBS = "jobs"
"""Folder, beside the runs, of what data and predictors leave behind: status and text log."""
NOT_NOW = 75
"""Exit code of a job that somebody else is at, or whose needs are not there yet (EX_TEMPFAIL of sysexits.h)."""


class Job(Settings):
    """What one process does: prepare a data set or pool, train a quality predictor, or carry out a run."""

    kind: Literal["data", "g", "run"]
    name: str
    """Unique in an output folder; of a run its id."""
    spec: RunSpec
    """Of the run; of other kinds, that of the first run which needs it."""
    output: Path
    """Folder of all runs, absolute."""
    data_dir: Path | None = None
    source: str = ""
    """Data set or pool that a job of kind 'data' prepares."""
    needs: tuple[str, ...] = ()
    """Names of the jobs that come before."""
    tracker: str | None = None

    @property
    def folder(self) -> RunFolder:
        """Where its status is."""
        return RunFolder(self.output / self.name if self.kind == "run" else self.output / JOBS / self.name)

    @cached_property
    def words(self) -> str:
        """What it is, for people: ``fixmatch+qw on ph2 n28@grouped, unet, seed 0``."""
        spec = self.spec
        if self.kind == "data":
            return f"{self.source} at {spec.resolve().size} px"
        budget = Regime.parse(spec.regime).model_copy(update={"pools": ()})
        if self.kind == "g":
            return f"g on {spec.dataset} {budget}, seed {spec.seed}"
        method = spec.method + (f"+{spec.addon}" if spec.addon else "") + (f" ({spec.variant})" if spec.variant else "")
        return f"{method} on {spec.dataset} {spec.regime}, {spec.arch}, seed {spec.seed}"


class NotReadyError(QGBenchError):
    """What a job needs is not there yet."""


def carry_out(job: Job) -> None:
    """Do a job in this process. Its status says what became of it, also if it could not begin.

    Raises
    ------
    BusyError
        Another process is at it.
    NotReadyError
        A job that it needs is not done.
    QGBenchError
        It failed; its status says so and why.
    Interrupted
        A signal asked to stop; the next call continues.
    """
    set_verbosity(QUIET)  # a job speaks to its log, and to others only in trouble
    folder = job.folder
    try:
        _require(job)
        if job.kind == "run":
            # torch is imported by those who train, not by those who count jobs.
            from qgbench.report.cases import draw_if_missing
            from qgbench.run.carry_out import run

            outcome = run(job.spec, job.output, job.data_dir, tracker=job.tracker, wait=False)
            draw_if_missing(folder, outcome.source)
        else:
            _make_artefact(job)
    except (BusyError, NotReadyError):
        raise
    except Exception as error:
        if folder.status() not in ("failed", "done"):  # it could not begin
            folder.path.mkdir(parents=True, exist_ok=True)
            folder.set_spec(job.spec)
            folder.set_status("failed", str(error) or repr(error))
        raise


def _require(job: Job) -> None:
    """Refuse to begin without what comes before."""
    for name in job.needs:
        folder = RunFolder(job.output / JOBS / name)
        status = folder.status()
        if status == "failed":
            raise QGBenchError(f"needs {name}, which failed: {folder.cause()}")
        if status != "done":
            raise NotReadyError(f"{name} is not done ({status or 'not begun'}).")


def _make_artefact(job: Job) -> None:
    folder = job.folder
    with interruptible(), folder.locked(wait=False):
        if folder.status() == "done":
            return
        folder.set_spec(job.spec)
        folder.set_status("running")
        with logged_to(folder.path / TEXT_LOG_NAME):
            try:
                if job.kind == "data":
                    _prepare(job)
                else:
                    _fit(job)
            except (Interrupted, SystemExit):
                folder.set_status("interrupted")
                raise
            except Exception as error:
                folder.set_status("failed", str(error) or repr(error))
                raise
        folder.set_status("done")


def _prepare(job: Job) -> None:
    from qgbench.data.cache import prepare
    from qgbench.data.readers import open_any, open_pool, open_source

    spec = job.spec
    size = spec.resolve().size
    if job.source == spec.dataset:
        source = open_source(spec.dataset, job.data_dir)
        if source.extra is not None:
            prepare(source.extra, size)
    elif job.source in Regime.parse(spec.regime).pool_names:
        source = open_pool(job.source, job.data_dir)
    else:
        source = open_any(job.source, job.data_dir)
    prepare(source, size)


def _fit(job: Job) -> None:
    from qgbench.data.run_data import open_run_data
    from qgbench.engine.device import make_accelerator
    from qgbench.quality.store import find_or_fit

    spec = job.spec
    protocol = spec.resolve()
    # g sees the labelled images alone: pools, which decide nothing of it, are not opened.
    regime = Regime.parse(spec.regime).model_copy(update={"pools": ()})
    accelerator = make_accelerator(spec.device, spec.precision, spec.threads)
    data = open_run_data(spec.dataset, regime, spec.seed, protocol.size, protocol.fractions, job.data_dir)
    find_or_fit(job.name, spec, protocol, data, job.output, accelerator)


def main(job: str) -> int:
    """Carry out a job that is given as JSON, say on standard error why it ended, and return the exit code."""
    try:
        carry_out(Job.model_validate_json(job))
    except (BusyError, NotReadyError) as error:
        print(error, file=sys.stderr)
        return NOT_NOW
    except QGBenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except Interrupted as interruption:
        return 128 + interruption.number
    return 0
