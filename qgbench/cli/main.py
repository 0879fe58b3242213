"""The command line: thin verbs over the package. A verb imports what it needs: help and TAB wait for none of it."""

import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from qgbench import __version__
from qgbench.base.console import standard_output, written_out
from qgbench.base.cores import MOST_THREADS
from qgbench.base.errors import (
    DISK_FULL,
    AbsentDataError,
    QGBenchError,
    UnknownDataError,
    UserError,
    in_one_line,
    refuse_unwritable,
)
from qgbench.base.interruption import Interrupted, interruptible
from qgbench.base.logs import NORMAL, QUIET, SILENT, VERBOSE, logger, set_verbosity, verbosity
from qgbench.base.paths import expanded
from qgbench.base.seeds import LARGEST_SEED
from qgbench.cli import completion
from qgbench.cli import data as data_cli
from qgbench.cli import predict as predict_cli
from qgbench.cli import quality as quality_cli
from qgbench.cli import suite as suite_cli
from qgbench.cli.options import DataDir, Output, Quiet, Verbose, name_or_path

if TYPE_CHECKING:
    from qgbench.data.acquire.given import GivenSplit
    from qgbench.spec.arm import Arm
    from qgbench.spec.regime import Regime
    from qgbench.spec.run_spec import RunSpec

_WRONG_USAGE: Any = typer.BadParameter.__mro__[1]  # what is wrong with options; Typer exports no name for it

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Benchmark semi-supervised medical image segmentation with and without quality guidance (QG).",
    epilog="Begin with [bold]qgbench doctor[/bold]; then [bold]qgbench run --method fixmatch --arch unet[/bold], its "
    "twin [bold]qgbench run --method fixmatch --qg --arch unet[/bold], and [bold]qgbench report[/bold]. Each command's "
    "--help has an example.",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"qgbench {__version__}")
        raise typer.Exit


Plugin = Annotated[
    list[str] | None,
    typer.Option(
        parser=name_or_path, help="Also use the names in a .py file or an importable module of one's own; repeatable."
    ),
]

new_app = typer.Typer(no_args_is_help=True, help="Begin something of your own: [bold]qgbench new method mine[/bold].")
app.add_typer(new_app, name="new")
app.add_typer(data_cli.app, name="data")
app.add_typer(quality_cli.app, name="quality")
app.add_typer(suite_cli.app, name="suite")


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    # Processes that only share the work of the first one are silent, but for errors.
    set_verbosity(NORMAL if _is_main_process() else SILENT)


def _is_main_process() -> bool:
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


@app.command()
def run(
    method: Annotated[
        str,
        typer.Option(
            parser=name_or_path,
            help="Method: a name that qgbench methods lists, a .py file that defines one, or FILE_OR_MODULE:CLASS.",
            autocompletion=completion.methods,
        ),
    ],
    qg: Annotated[
        bool, typer.Option("--qg", help="Add quality guidance: QW where the method makes pseudo-labels, QAR where not.")
    ] = False,
    qg_mode: Annotated[
        str | None,
        typer.Option(
            parser=name_or_path,
            help="Choose the add-on: none, qw, qar, both, select, refine, or one of your own, lab.py:Mine.",
        ),
    ] = None,
    qg_score: Annotated[
        str,
        typer.Option(
            parser=name_or_path,
            help="What QW weighs by: g, another predictor (pixel, both, second, ensemble), a control (one, mean, "
            "shuffled, confidence, agreement, entropy, oracle), or one of your own.",
        ),
    ] = "g",
    qg_norm: Annotated[
        str, typer.Option(help="weighted: divide by the weights' sum (the paper's rule); none: by the unweighted sum.")
    ] = "weighted",
    dataset: Annotated[
        str | None,
        typer.Option(
            parser=name_or_path,
            help="Data set: a name, or the path of a folder with images/ and masks/, ./mine. (default: the protocol's)",
            autocompletion=completion.datasets,
        ),
    ] = None,
    data_dir: DataDir = None,
    regime: Annotated[
        str | None,
        typer.Option(
            help="Budget, pools, split: n28@grouped, p10+isic2020~5000@image. (default: the data set's budget)"
        ),
    ] = None,
    labelled: Annotated[
        str | None,
        typer.Option(
            help="Instead of --regime: number of labelled images (of volumes: patients), a share (10%), or all."
        ),
    ] = None,
    pool: Annotated[
        list[str] | None,
        typer.Option(
            help="Instead of --regime: external unlabelled pool, NAME~5000 for so many of its images; repeatable.",
            autocompletion=completion.pools,
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Instead of --regime: grouped or image. (default: grouped)")] = None,
    split_from: Annotated[
        list[Path] | None,
        typer.Option(
            parser=expanded,
            help="Published split: CSV or list files (or their folder) of train, val, test; repeatable.",
        ),
    ] = None,
    protocol: Annotated[
        str, typer.Option(help="Protocol: paper, small or smoke.", autocompletion=completion.protocols)
    ] = "small",
    arch: Annotated[
        str | None,
        typer.Option(
            parser=name_or_path,
            help="Segmentation network: a name that qgbench archs lists, a .py file, or FILE_OR_MODULE:NAME. "
            "(default: the protocol's)",
            autocompletion=completion.archs,
        ),
    ] = None,
    plugin: Plugin = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Encoder, a name of smp or timm. (default: the arch's own, else the protocol's)",
            autocompletion=completion.encoders,
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(min=0, max=LARGEST_SEED, help="Seed index k: labelled draw k, predictor g_k and training seed."),
    ] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16. (default: the protocol's)")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=MOST_THREADS, help="Processor threads. (default: the protocol's)")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps. (default: the protocol's)")] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(parser=name_or_path, help="Also measure a metric of your own, lab.py:depth; repeatable."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting: method.threshold=0.9, train.lr=1e-3, quality.steps=300, qg.tau=0.6."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only check what the run needs, and print its RunSpec and id as JSON."),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Redo a finished run in a new folder, ID~2, which counts from now on.")
    ] = False,
    track: Annotated[
        str | None,
        typer.Option(help="Also send the curves to a tracker: tensorboard, wandb, mlflow, ... (those of accelerate)."),
    ] = None,
    output: Output = Path("runs"),
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Train one method on one data set, with or without quality guidance, and measure it on the test images.

    The same command continues an interrupted run, and shows the result of a finished one.

    Example: [bold]qgbench run --method fixmatch --qg --arch unet[/bold]
    """
    from qgbench.spec.protocol import load_protocol

    known = load_protocol(protocol)
    dataset = dataset or known.dataset
    # Before torch is imported, which takes seconds: a wrong name is found at once.
    regime = _regime(dataset, data_dir, regime, labelled, pool or [], split, split_from or [])

    from qgbench.plugins.registry import resolve
    from qgbench.run.carry_out import rehearse
    from qgbench.run.carry_out import run as carry_out
    from qgbench.run.request import make_spec
    from qgbench.spec.settings import parse_assignments

    arm = _arm(method, qg, qg_mode, qg_score, qg_norm, plugin or [])
    arch = resolve("arch", arch, plugin or []) if arch is not None else known.arch
    _one_of("--device", device, ("auto", "cpu", "cuda", "mps"))
    _one_of("--precision", precision or known.precision, ("fp32", "bf16", "fp16"))
    overrides = parse_assignments(settings or [])
    if steps is not None:
        overrides["train.steps"] = steps
    spec = make_spec(
        protocol,
        dataset,
        regime,
        arm.model_copy(update={"overrides": overrides}),
        arch=arch,
        encoder=encoder,
        seed=seed,
        precision=precision,
        device=device,
        threads=threads,
    )
    metrics = [resolve("metric", name, plugin or []) for name in metric or []]
    if dry_run:
        print(json.dumps(rehearse(spec, output, data_dir, split_from or [], force, track, metrics), indent=1))
        return
    outcome = carry_out(
        spec, output, data_dir, force=force, tracker=track, split_from=split_from or [], metrics=metrics
    )
    if not _is_main_process():
        return
    from qgbench.report.cases import draw_if_missing
    from qgbench.report.outcome import print_outcome
    from qgbench.run.folder import RunFolder

    draw_if_missing(RunFolder(outcome.folder), outcome.source)
    if verbosity() == QUIET:
        print(outcome.folder / "record.json")
        return

    print_outcome(
        outcome.record, outcome.folder, outcome.was_done, _twin_command(spec, data_dir, split_from or [], output)
    )


def _arm(method: str, qg: bool, qg_mode: str | None, qg_score: str, qg_norm: str, plugins: list[str]) -> "Arm":
    """Return method and add-on, put together from the options."""
    from qgbench.plugins.registry import load, resolve
    from qgbench.spec.arm import Arm

    method = resolve("method", method, plugins)
    mode = qg_mode or "none"
    if qg and qg_mode is None:
        mode = "qw" if load("method", method).pseudo_labels else "qar"
    if mode not in ("none", "both"):
        mode = "+".join(resolve("addon", each, plugins) for each in mode.split("+"))
    qg_score = resolve("score", qg_score, plugins)
    _one_of("--qg-norm", qg_norm, ("weighted", "none"))
    if qg and qg_mode == "none":
        raise UserError("--qg and --qg-mode none contradict each other; give one of them.")
    if mode == "none" and (qg_score != "g" or qg_norm != "weighted"):
        raise UserError("--qg-score and --qg-norm say how QW works; add --qg or --qg-mode qw.")
    return Arm(method=method, qg_mode=mode, qg_score=qg_score, qg_norm=qg_norm)


def _one_of(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(f"{option} {value}: expected {', '.join(allowed[:-1])} or {allowed[-1]}.")


def _regime(
    dataset: str,
    data_dir: Path | None,
    regime: str | None,
    labelled: str | None,
    pools: list[str],
    split: str | None,
    split_from: list[Path],
) -> str:
    """Return the regime, put together from the options."""
    from qgbench.data.readers import find_card
    from qgbench.spec.regime import Regime

    if regime is not None and (labelled is not None or pools or split is not None):
        raise UserError("give either --regime or --labelled/--pool/--split, not both.")
    chosen = regime or "+".join((labelled or "all", *pools)) + (f"@{split}" if split else "")
    parsed = Regime.parse(chosen)
    given = _given(dataset, data_dir, parsed, split_from) if split_from and "@" not in chosen else None
    if given is not None:
        parsed = parsed.model_copy(update={"split": given.kind})
    if regime is not None or labelled == "all":
        return str(parsed)
    try:
        card = find_card(dataset, data_dir, "labelled")
    except (AbsentDataError, UnknownDataError):
        if labelled is None:
            raise
        return str(parsed)  # a finished run is shown without its data; others are refused where they are opened
    if labelled is None:
        budget = card.budget
        if given is not None and given.labelled is not None:
            chosen_rows = given.table["id"].isin(given.labelled)
            budget = len(given.labelled) if card.volumes is None else given.table.loc[chosen_rows, "group"].nunique()
        parsed = parsed.model_copy(update={"budget": budget})
    return str(parsed if card.volumes is None else parsed.of_volumes())


def _given(dataset: str, data_dir: Path | None, regime: "Regime", split_from: list[Path]) -> "GivenSplit":
    from qgbench.data.acquire.given import read_given
    from qgbench.data.readers import open_pool, open_source

    pools = [open_pool(name, data_dir) for name in regime.pool_names]
    return read_given(split_from, open_source(dataset, data_dir), pools)


def _twin_command(spec: "RunSpec", data_dir: Path | None, split_from: list[Path], output: Path) -> str:
    """Return the command of the same run with the add-on instead of without, or without instead of with."""
    from qgbench.spec.protocol import load_protocol

    known = load_protocol(spec.protocol)
    words = ["qgbench", "run", "--method", spec.method]
    if spec.qg_mode == "none":
        words.append("--qg")
    if spec.protocol != "small":
        words += ["--protocol", spec.protocol]
    if spec.dataset != known.dataset:
        words += ["--dataset", spec.dataset]
    if data_dir is not None:
        words += ["--data-dir", str(data_dir)]
    words += ["--regime", spec.regime]
    for path in split_from:
        words += ["--split-from", str(path)]
    for name in ("arch", "encoder", "precision", "threads"):
        if getattr(spec, name) != getattr(known, name):
            words += [f"--{name}", str(getattr(spec, name))]
    for key, value in spec.overrides.items():
        if not key.startswith(("qg.", "quality.")):
            words += ["--set", f"{key}={value}"]
    words += ["--seed", str(spec.seed)]
    if output != Path("runs"):
        words += ["--output", str(output)]
    return shlex.join(words)


@app.command()
def check(
    method: Annotated[
        str,
        typer.Argument(
            parser=name_or_path,
            help="Method, add-on, score or metric: a name, a .py file, or FILE_OR_MODULE:NAME.",
            autocompletion=completion.methods,
        ),
    ],
    plugin: Plugin = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Check that a method (gradients, teacher, resuming), an add-on, a score or a metric keeps its contract.

    Example: [bold]qgbench check fixmatch[/bold]
    """
    from qgbench.trust.conformance_of_plugins import findings

    console = standard_output()
    failed = 0
    for finding in findings(method, plugin or []):
        mark = "[green]ok[/green]  " if finding.passed else "[red]FAIL[/red]"
        console.print(
            f"{mark} {escape(finding.rule)}" + ("" if finding.passed else f": {escape(finding.detail)}"),
            highlight=False,
        )
        failed += not finding.passed
    if failed:
        raise UserError(f"{method} breaks {failed} of the rules above; docs/how-to/method.md explains them.")


@app.command()
def methods(
    name: Annotated[
        str | None,
        typer.Argument(
            parser=name_or_path,
            help="Show all about this one: text, settings, ranges.",
            autocompletion=completion.methods,
        ),
    ] = None,
    plugin: Plugin = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """List the methods: those of qgbench, of installed packages and of plug-ins; or show one with its settings.

    Example: [bold]qgbench methods fixmatch[/bold]
    """
    from qgbench.cli.listing import print_method, print_methods

    if name is None:
        print_methods(standard_output(), plugin or [])
    else:
        print_method(name, standard_output(), plugin or [])


@app.command()
def archs(
    name: Annotated[
        str | None,
        typer.Argument(parser=name_or_path, help="Show all about this one.", autocompletion=completion.archs),
    ] = None,
    plugin: Plugin = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """List the architectures: those of qgbench, of installed packages and of plug-ins; or show one.

    Example: [bold]qgbench archs unet[/bold]
    """
    from qgbench.cli.listing import print_arch, print_archs

    if name is None:
        print_archs(standard_output(), plugin or [])
    else:
        print_arch(name, standard_output(), plugin or [])


@new_app.command("method")
def new_method(
    name: Annotated[str, typer.Argument(help="Lower-case words joined by underscores, such as my_method.")],
    output: Annotated[Path, typer.Option(parser=expanded, help="Folder for the file.")] = Path(),
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Write NAME.py, a commented method that keeps the contract, to begin with.

    Example: [bold]qgbench new method mine && qgbench check mine.py[/bold]
    """
    from qgbench.cli.scaffold import write_method

    file = write_method(name, output)
    print(file)
    logger.info("next: edit it, then %s", shlex.join(["qgbench", "check", str(file)]))


app.command()(predict_cli.predict)
app.command()(predict_cli.export)


@app.command()
def report(
    folders: Annotated[
        list[Path] | None, typer.Argument(parser=expanded, help="Folders that hold records. (default: runs)")
    ] = None,
    output: Annotated[Path, typer.Option(parser=expanded, help="Folder for tables, figures and page.")] = Path(
        "report"
    ),
    suite: Annotated[
        str | None,
        typer.Option(
            parser=name_or_path,
            help="Only a suite's runs, its questions answered: a name or a .toml file.",
            autocompletion=completion.suites,
        ),
    ] = None,
    dataset: Annotated[list[str] | None, typer.Option(help="Only these data sets; repeatable.")] = None,
    regime: Annotated[list[str] | None, typer.Option(help="Only these regimes; repeatable.")] = None,
    arch: Annotated[list[str] | None, typer.Option(help="Only these architectures; repeatable.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Only these methods; repeatable.")] = None,
    metric: Annotated[
        str, typer.Option(help="What the statistics are about: dice, hd95, nsd_2px, ...; of one class dice:NAME.")
    ] = "dice",
    contrast: Annotated[
        list[str] | None,
        typer.Option(help="Also compare A:B, for example pseudo_label+qw:pseudo_label_confidence; repeatable."),
    ] = None,
    html: Annotated[bool, typer.Option("--html", help="Also write a page that opens from disk: OUTPUT/page.")] = False,
    run_pages: Annotated[
        bool, typer.Option(help="In the page, give each run a page and a copy of its data, some 80 KB.")
    ] = True,
    figures: Annotated[bool, typer.Option(help="Draw the figures.")] = True,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Write tables and figures of all records: methods with and without the add-on, differences, how sure these are.

    Prints the comparisons and where the files are; with --quiet the name of each file, for scripts.

    Example: [bold]qgbench report runs --output report --html[/bold]
    """
    from qgbench.report.analysis import analyse
    from qgbench.report.brief import print_report
    from qgbench.report.collect import collect
    from qgbench.report.declared import declared
    from qgbench.report.select import Filters
    from qgbench.report.write import write_report
    from qgbench.spec.suite import load_suite

    refuse_unwritable(output)
    filters = Filters(*(tuple(names or ()) for names in (dataset, regime, arch, method)))
    asked = None if suite is None else declared(load_suite(suite))
    found = analyse(collect(folders or [Path("runs")]), filters, metric, contrast or [], asked)
    written = write_report(found, output, figures=figures, html=html, run_pages=run_pages)
    if verbosity() >= QUIET:
        print(*written, sep="\n")
    else:
        print_report(found, written)


@app.command()
def power(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(parser=expanded, help="Folders of records whose spread is taken. (default: it is stated)"),
    ] = None,
    gain: Annotated[list[float] | None, typer.Option(help="Dice points; repeatable. (default: 0.5 1 2 4)")] = None,
    seeds: Annotated[list[int] | None, typer.Option(min=2, help="Seeds; repeatable. (default: 3 5 10)")] = None,
    groups: Annotated[
        list[int] | None, typer.Option(min=2, help="Test groups in the curves; repeatable. (default: 15 40 100)")
    ] = None,
    group_sd: Annotated[float | None, typer.Option(help="Stated: SD of the groups' true differences, points.")] = None,
    run_sd: Annotated[float | None, typer.Option(help="Stated: SD of what a run's groups share, points.")] = None,
    image_sd: Annotated[float | None, typer.Option(help="Stated: SD of one image's difference, points.")] = None,
    icc: Annotated[float, typer.Option(help="Stated: correlation of two images of a group, 0 to 1.")] = 0.0,
    images_per_group: Annotated[float, typer.Option(help="Stated: images in a group.")] = 1.0,
    dataset: Annotated[list[str] | None, typer.Option(help="Only these data sets; repeatable.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Only these methods; repeatable.")] = None,
    contrast: Annotated[list[str] | None, typer.Option(help="Also the contrast A:B; repeatable.")] = None,
    suite: Annotated[
        str | None, typer.Option(help="What the first question of this suite needs, by its records.")
    ] = None,
    half_width: Annotated[float, typer.Option(help="Of the suite's answer, points.")] = 0.3,
    output: Annotated[
        Path | None, typer.Option(parser=expanded, help="Write power.csv and each contrast's curves here.")
    ] = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Say how many test images, groups and seeds a claim of a gain needs, and what a contrast could have shown.

    The spread comes from records, or is stated in Dice points. With --suite: which seeds, sets and test groups its
    first question needs for an interval of +- --half-width and for a --gain, with what they cost in core-hours.

    Example: [bold]qgbench power runs --gain 1 --gain 2[/bold] or [bold]qgbench power --group-sd 2 --run-sd 1
    --image-sd 8[/bold]
    """
    from qgbench.base.files import write_atomically
    from qgbench.report.analysis import analyse
    from qgbench.report.collect import collect
    from qgbench.report.power import Case, cases_of, draw_power, power_rows, print_power
    from qgbench.report.select import Filters
    from qgbench.stats.power import stated

    spreads = (group_sd, run_sd, image_sd)
    if suite is not None:
        if any(other is not None for other in (*spreads, seeds, groups, dataset, method, contrast, output)):
            raise UserError("--suite goes with --gain and --half-width alone: it asks the suite's first question.")
        if len(gain or []) > 1:
            raise UserError("with --suite, give one --gain.")
        _power_of_suite(suite, folders or [Path("results")], half_width, (gain or [0.5])[0])
        return
    if any(spread is not None for spread in spreads) == bool(folders):
        raise UserError("give either folders of records, or all of --group-sd, --run-sd and --image-sd.")
    if folders:
        found = analyse(
            collect(folders), Filters(tuple(dataset or ()), method=tuple(method or ())), asked=contrast or []
        )
        cases, unknown = cases_of(found)
        for line in unknown:
            logger.warning("%s", line)
        if not cases:
            raise UserError(
                "no contrast of these records has 2 test groups and 2 seeds; run more seeds, or state spreads."
            )
    else:
        if group_sd is None or run_sd is None or image_sd is None:
            raise UserError("a stated spread needs all of --group-sd, --run-sd and --image-sd, in Dice points.")
        spread = stated(group_sd / 100, run_sd / 100, image_sd / 100, icc, images_per_group)
        cases = [Case("stated", spread, None, None, images_per_group)]
    gains = gain or [0.5, 1.0, 2.0, 4.0]
    if not all(points > 0 for points in gains):
        raise UserError("--gain is in Dice points and above 0.")
    table = power_rows(cases, [points / 100 for points in gains], seeds or [3, 5, 10])
    print_power(table, standard_output())
    if output is not None:
        write_atomically(output / "power.csv", table.to_csv(index=False, float_format="%.17g").encode())
        for file in (output / "power.csv", *draw_power(cases, groups or [15, 40, 100], seeds or [3, 5, 10], output)):
            print(file)


def _power_of_suite(name: str, folders: list[Path], half_width: float, gain: float) -> None:
    from qgbench.report.analysis import analyse
    from qgbench.report.answer_power import print_needs
    from qgbench.report.collect import collect
    from qgbench.report.declared import declared
    from qgbench.spec.suite import load_suite

    if not (half_width > 0 and gain > 0):
        raise UserError("--half-width and --gain are in points and above 0.")
    asked = declared(load_suite(name))
    found = analyse(collect(folders), metric=asked.metric, suite=asked)
    assert found.answers is not None
    print_needs(found.answers, found.measure, half_width, gain, standard_output())


@app.command()
def verify(
    folders: Annotated[list[Path], typer.Argument(parser=expanded, help="Folders that hold records: runs, results.")],
    judge: Annotated[
        str | None, typer.Option(help="medpy: measure kept predictions with that library, not qgbench.")
    ] = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Check records: numbers against the per-image tables, schema, protocol, fingerprints. Exits with 1 on a fault.

    Example: [bold]qgbench verify results[/bold]
    """
    from qgbench.base.progress import track
    from qgbench.trust.verify import print_faults, record_files, verify_records

    faults = verify_records(folders, judge, track)
    print_faults(faults, record_files(folders), standard_output())
    if any(fault.severity == "fault" for fault in faults):
        raise typer.Exit(1)


@app.command()
def reproduce(
    record: Annotated[
        Path, typer.Argument(parser=expanded, help="A run's folder, its record.json, or a seed<k>.json of results.")
    ],
    output: Annotated[Path, typer.Option(parser=expanded, help="Folder of all reruns.")] = Path("reproductions"),
    data_dir: DataDir = None,
    split_from: Annotated[
        list[Path] | None,
        typer.Option(parser=expanded, help="Files of the split, where the record's is a published one; repeatable."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only compare data, versions and machine; train nothing.")
    ] = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Repeat the run of a record, say whether the numbers are the same or alike, and mark the record.

    Refuses other data, splits or protocol versions. The same command continues an interrupted rerun. Exits with 1 if
    record and rerun disagree.

    Example: [bold]qgbench reproduce results/v1/small/ph2/n28@grouped/unet/fixmatch/seed0.json[/bold]
    """
    from qgbench.run.carry_out import foresee
    from qgbench.trust import reproduce as reproduction

    console = standard_output()
    console.quiet = not _is_main_process()
    original = reproduction.open_original(record)
    now = foresee(original.record.spec, data_dir, split_from=split_from or [])
    conditions = reproduction.compare_conditions(original.record, now)
    if verbosity() != QUIET:
        reproduction.print_conditions(conditions, console)
    reproduction.refuse_another_experiment(conditions)
    if dry_run:
        return
    rerun = reproduction.reproduce(original, output, data_dir, split_from=split_from or [])
    found = reproduction.judge(original, rerun)
    reproduction.print_reproduction(original, found, console)
    if _is_main_process():
        try:
            reproduction.mark(original.path, found)
        except QGBenchError as error:
            logger.warning("the record is not marked: %s", error)
    if found.verdict == "disagrees":
        raise typer.Exit(1)


@app.command()
def regress(
    suite: Annotated[
        str,
        typer.Option(
            parser=name_or_path,
            help="A suite that has a reference, or a .toml file with one beside it.",
            autocompletion=completion.suites,
        ),
    ] = "smoke",
    only: suite_cli.Only = None,
    update: Annotated[
        bool, typer.Option("--update", help="Make what is computed here the reference; --why is then needed.")
    ] = False,
    why: Annotated[str | None, typer.Option(help="Why the numbers changed; kept in the reference.")] = None,
    data_dir: DataDir = None,
    output: Annotated[
        Path | None,
        typer.Option(
            parser=expanded, help="Keep the rerun in this folder, which must be empty. (default: it is removed)"
        ),
    ] = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Rerun a short suite and compare every number with the committed reference. Exits with 1 on a difference.

    On the reference's processor and versions all must be equal, elsewhere equal within measured tolerances.

    Example: [bold]qgbench regress[/bold] or, where a change is meant, [bold]qgbench regress --update --why "the
    decoder is wider"[/bold]
    """
    from qgbench.regress.command import regress as carry_out
    from qgbench.regress.rerun import this_machine

    if update != bool((why or "").strip()):
        raise UserError("--update and --why TEXT go together: a reference says why it became another one.")
    try:
        same = carry_out(suite, only or [], why, data_dir, output, this_machine, standard_output())
    except Interrupted as interruption:
        print("interrupted; nothing was compared or written, and the same command begins anew.", file=sys.stderr)
        raise typer.Exit(128 + interruption.number) from interruption
    if not same:
        raise typer.Exit(1)


@app.command()
def submit(
    runs: Annotated[list[Path], typer.Argument(parser=expanded, help="Folders of finished runs.")],
    results: Annotated[Path, typer.Option(parser=expanded, help="Folder of the leaderboard's evidence.")] = Path(
        "results"
    ),
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Copy finished runs into results/, after the checks of qgbench verify; docs/how-to/submit.md says what comes next.

    Example: [bold]qgbench submit runs/small-ph2-n28@grouped-unet-fixmatch-k0-1a2b3c4d[/bold]
    """
    from qgbench.trust.submit import submit as copy

    for run in runs:
        for file in copy(run, results):
            print(file)


@app.command()
def runs(
    folder: Annotated[
        Path | None, typer.Argument(parser=expanded, help="Folder of runs. (default: that of --output)")
    ] = None,
    output: Output = Path("runs"),
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """List the runs in a folder: status, Dice, age.

    Example: [bold]qgbench runs runs[/bold]
    """
    from qgbench.report.runs import print_runs
    from qgbench.run.folder import find_runs

    print_runs(find_runs(folder or output), standard_output())


@app.command()
def show(
    run: Annotated[
        str,
        typer.Argument(
            parser=name_or_path, help="A run: its folder, its id, or a part of the id.", autocompletion=completion.runs
        ),
    ],
    output: Output = Path("runs"),
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Show one run, finished or not: its record and the end of its log.

    Example: [bold]qgbench show small-phantom-n12@grouped-unet-fixmatch[/bold]
    """
    from qgbench.report.runs import find_run, print_run

    print_run(find_run(output, run), standard_output())


@app.command()
def doctor(
    data_dir: DataDir = None,
    output: Output = Path("runs"),
    measure: Annotated[
        bool, typer.Option("--measure", help="Time a step in fp32 and in bf16, some seconds, and say which suits.")
    ] = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Check this machine: versions, device, precision, threads, disk, data, weights. Exits with 1 on an error.

    Example: [bold]qgbench doctor --data-dir ~/data[/bold]
    """
    from qgbench.cli.doctor import examine, print_findings

    if not print_findings(examine(data_dir, output, measure), standard_output()):
        raise typer.Exit(1)


def main() -> None:
    """Run the command line; whatever goes wrong becomes one message and an exit code."""
    # Threads that spin while they wait for each other burn cores that others need; sleeping waits change no result.
    if "OMP_WAIT_POLICY" not in os.environ:  # read when torch is imported
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "0")
    if not os.environ.get("TERMINAL_WIDTH", "1").isdecimal():  # Typer would fail on it
        del os.environ["TERMINAL_WIDTH"]
    try:
        with interruptible(), written_out():
            code = app(prog_name="qgbench", standalone_mode=False) or 0
    except Interrupted as interruption:
        print("interrupted; the same command continues where this one was.", file=sys.stderr)
        code = 128 + interruption.number
    except Exception as error:
        code = _tell(error)
    sys.exit(code)


def _tell(error: Exception) -> int:
    """Print an error, with its traceback if that is wanted, and return its exit code."""
    told = _explained(error)
    if str(told):
        console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
        if verbosity() == VERBOSE:
            console.print_exception()
        console.print("error: ", style="bold red", end="")
        console.print(str(told), markup=False)
    return told.exit_code


def _explained(error: Any) -> QGBenchError:
    if isinstance(error, QGBenchError):
        return error
    if isinstance(error, _WRONG_USAGE):
        message = " ".join(error.format_message().split())  # empty where the help was asked for, and printed
        end = "" if message.endswith(("?", ".")) else "."
        return UserError(message and f"{message}{end} See {error.ctx.command_path} --help.")
    if isinstance(error, OSError):
        where = "standard output" if error.errno in DISK_FULL else type(error).__name__
        return QGBenchError(f"{error.filename or where}: {error.strerror or error}.")
    return QGBenchError(
        f"{in_one_line(error)} (an error of qgbench: --verbose and the run.log have the traceback; "
        "please report it unless it ends in code of your own)."
    )
