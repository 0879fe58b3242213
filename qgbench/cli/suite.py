"""The verbs of ``qgbench suite``: thin, over `qgbench.launch`."""

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from qgbench.base.console import standard_output
from qgbench.base.cores import usable_cores
from qgbench.base.errors import UserError, refuse_unwritable
from qgbench.base.logs import logger
from qgbench.cli import completion
from qgbench.cli.options import DataDir, Output, Quiet, Verbose, name_or_path

if TYPE_CHECKING:
    from qgbench.launch.drive import Drive
    from qgbench.launch.estimate import Estimates
    from qgbench.launch.executor import Executor
    from qgbench.launch.plan import Plan

app = typer.Typer(
    no_args_is_help=True,
    help="Declared sets of runs: [bold]qgbench suite plan small[/bold] says what one takes, [bold]run[/bold] does it.",
)

Name = Annotated[
    str,
    typer.Argument(
        parser=name_or_path,
        help="A suite that ships (paper, small, smoke, ablations), or a .toml file.",
        autocompletion=completion.suites,
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Only = Annotated[
    list[str] | None,
    typer.Option(help="Only runs with this text in block, id or name: ph2, core, 'fixmatch+qw', k0; repeatable (or)."),
]
ExecutorName = Annotated[
    str, typer.Option("--executor", help="What starts the jobs: local, slurm, ray, or an executor of a package.")
]
Slots = Annotated[
    int | None,
    typer.Option(min=1, help="local: runs side by side. (default: the GPUs, or cores / threads of a run)"),
]
SlurmOptions = Annotated[
    list[str] | None,
    typer.Option("--slurm", help="slurm: a setting of sbatch, partition=gpu, time=120 (minutes), ...; repeatable."),
]
Address = Annotated[
    str | None, typer.Option(help="ray: an existing cluster, HOST:PORT or auto. (default: one is started here)")
]
Gpus = Annotated[float, typer.Option(min=0, help="slurm, ray: GPUs of one job; 0.5 lets two share one with ray.")]
MaxHours = Annotated[
    float | None, typer.Option(min=0, help="End after so many hours; what runs then saves its state first.")
]
Track = Annotated[str | None, typer.Option(help="Also send the curves of every run to a tracker, as qgbench run does.")]


@app.command()
def plan(
    name: Name,
    only: Only = None,
    data_dir: DataDir = None,
    device: Device = "auto",
    slots: Slots = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Time a few steps of every kind of run that was not timed here yet.")
    ] = False,
    every: Annotated[bool, typer.Option("--all", help="First list every run and what they share, one a line.")] = False,
    output: Output = Path("runs"),
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Count the runs of a suite by block: what is done, and what the rest takes. --all lists them.

    Example: [bold]qgbench suite plan small --measure[/bold]
    """
    from qgbench.launch.present import print_jobs, print_plan

    planned = _chosen(_plan(name, output, data_dir, device), only)
    if measure:
        from qgbench.launch.measure import measure as take

        take(planned)
    console = standard_output()
    estimates = _estimates(output)
    if every:
        print_jobs(planned, estimates, console)
    print_plan(planned, estimates, _slots(planned, estimates, slots), console)


@app.command()
def run(
    name: Name,
    only: Only = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be run; run nothing.")] = False,
    max_hours: MaxHours = None,
    executor: ExecutorName = "local",
    slots: Slots = None,
    slurm: SlurmOptions = None,
    address: Address = None,
    gpus: Gpus = 0,
    data_dir: DataDir = None,
    device: Device = "auto",
    track: Track = None,
    output: Output = Path("runs"),
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Run what is missing of a suite. The same command continues it; what failed is left to qgbench suite retry.

    Exits with 1 if a job failed or time or disk ran out.

    Example: [bold]nice qgbench suite run small --max-hours 8[/bold]
    """
    planned = _plan(name, output, data_dir, device, track)
    if dry_run:
        from qgbench.launch.present import print_jobs, print_plan

        estimates, chosen, console = _estimates(output), _chosen(planned, only), standard_output()
        print_jobs(chosen, estimates, console)
        print_plan(chosen, estimates, _slots(chosen, estimates, slots), console)
        return
    _carry_out(planned, only, name, False, max_hours, executor, slots, slurm or [], address, gpus)


@app.command()
def retry(
    name: Name,
    only: Only = None,
    max_hours: MaxHours = None,
    executor: ExecutorName = "local",
    slots: Slots = None,
    slurm: SlurmOptions = None,
    address: Address = None,
    gpus: Gpus = 0,
    data_dir: DataDir = None,
    device: Device = "auto",
    track: Track = None,
    output: Output = Path("runs"),
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Run what is missing of a suite, and what failed once more.

    Example: [bold]qgbench suite retry small[/bold]
    """
    planned = _plan(name, output, data_dir, device, track)
    _carry_out(planned, only, name, True, max_hours, executor, slots, slurm or [], address, gpus)


@app.command()
def status(
    name: Name,
    once: Annotated[
        bool, typer.Option("--once", help="Print once, also in a terminal, and name all failures.")
    ] = False,
    only: Only = None,
    output: Output = Path("runs"),
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Show how far a suite is: running, done, failed and why, time left. Works from any terminal, live.

    Example: [bold]qgbench suite status small[/bold]
    """
    from qgbench.launch.plan import load_plan
    from qgbench.launch.status import Watcher, render, watch

    planned = load_plan(Path(name).stem if name.endswith(".toml") else name, output).only(only or [])
    console = standard_output()

    watcher = Watcher(planned)
    now = watcher.look() if once or not console.is_terminal else watch(watcher.look, console)
    console.print(render(now, failures=None))


def _plan(name: str, output: Path, data_dir: Path | None, device: str, tracker: str | None = None) -> "Plan":
    from qgbench.launch.plan import make_plan
    from qgbench.spec.suite import load_suite

    if device not in ("auto", "cpu", "cuda", "mps"):
        raise UserError(f"--device {device}: expected auto, cpu, cuda or mps.")
    refuse_unwritable(output)
    return make_plan(load_suite(name), output, data_dir, device, tracker)


def _chosen(whole: "Plan", only: list[str] | None) -> "Plan":
    """Return what was asked for; refuse runs that are done with other data."""
    from qgbench.launch.plan import require_same_data

    chosen = whole.only(only or [])
    require_same_data(chosen)
    return chosen


def _estimates(output: Path) -> "Estimates":
    from qgbench.launch.estimate import Estimates

    return Estimates([output, Path("results")])  # what was submitted tells of times, too


def _slots(planned: "Plan", estimates: "Estimates", asked: int | None) -> list[str]:
    """Return the slots of this machine: GPUs by number, or '' for each share of the processor.

    A plan for GPUs that are elsewhere has one, or as many as are asked for.
    """
    import psutil

    from qgbench.launch.local import processor_slots

    first = planned.jobs[0].spec
    if first.device == "cuda":
        import torch  # late: it takes seconds

        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
        gpus = gpus or [""]
        return [gpus[number % len(gpus)] for number in range(asked or len(gpus))]
    memory = [estimates.of(job).memory_mib for job in planned.runs]
    largest = max((each for each in memory if each is not None), default=None)
    free = psutil.virtual_memory().available / 2**20
    return [""] * (asked or processor_slots(first.threads, largest, usable_cores(), free))


def _require_device(planned: "Plan", executor: str) -> None:
    """Refuse what every run would fail for, before data are prepared for it."""
    from qgbench.engine.here import best_device

    spec = planned.runs[0].spec
    if executor == "local" and spec.device not in ("cpu", best_device()):
        raise UserError(
            f"--device {spec.device}: this machine has '{best_device()}'. Give the command on one that has it, or "
            "--executor slurm or ray to carry the suite out elsewhere."
        )
    if spec.device == "cpu" and spec.precision == "fp16":
        raise UserError(
            f"the suite {planned.suite} trains in fp16, which needs a GPU, and its runs are for the processor. Give "
            "the command on a machine that has one, or --device cuda with --executor slurm or ray."
        )


def _executor(
    name: str, planned: "Plan", slots: int | None, slurm: list[str], address: str | None, gpus: float
) -> "Executor":
    from qgbench.launch.executor import Request
    from qgbench.plugins.registry import load

    output = planned.jobs[0].output
    on_this_machine = () if name in ("slurm", "ray") else tuple(_slots(planned, _estimates(output), slots))
    return load("executor", name).start(Request(output, on_this_machine, gpus, address, tuple(slurm)))


def _carry_out(
    whole: "Plan",
    only: list[str] | None,
    name: str,
    again: bool,
    max_hours: float | None,
    executor: str,
    slots: int | None,
    slurm: list[str],
    address: str | None,
    gpus: float,
) -> None:
    from qgbench.launch.drive import drive
    from qgbench.launch.present import Display

    planned = _chosen(whole, only)
    output = planned.jobs[0].output
    _require_device(planned, executor)
    engine = _executor(executor, planned, slots, slurm, address, gpus)
    whole.save(output)  # for other terminals
    with Display(planned, engine.slots, Console(stderr=True)) as display:
        found = drive(planned, engine, max_hours, again, display.update)
    _conclude(found, planned, name, output)


def _conclude(found: "Drive", planned: "Plan", name: str, output: Path) -> None:
    """Say how it ended; exit with 1 where something is missing."""
    states = list(found.states.values())
    logger.info("%d of %d jobs done, %d failed.", states.count("done"), len(states), len(found.failed))
    where = [] if output == Path("runs").absolute() else ["--output", str(output)]
    if blocked := sum(job.folder.status() is None for job in planned.jobs if job.name in found.causes):
        logger.info("%d of them were not begun, because they need one that failed.", blocked)
    if found.stopped:
        logger.warning(
            "stopped: %s. %s continues.", found.stopped, shlex.join(["qgbench", "suite", "run", name, *where])
        )
    if found.failed:
        logger.warning("%s begins them again.", shlex.join(["qgbench", "suite", "retry", name, *where]))
    if found.stopped or found.failed:
        sys.exit(1)
