"""The results of one run as a table, and what ``qgbench run`` prints at its end."""

from pathlib import Path

from rich.table import Table
from rich.text import Text

from qgbench.base.console import standard_output
from qgbench.metrics.table import METRICS
from qgbench.quality.audit import Agreement
from qgbench.report.audit import PREDICTS_RULE, not_predicted, predictor_of
from qgbench.report.collect import DISTANCE_WORDS
from qgbench.run.record import Record
from qgbench.spec.task import MEAN


def print_outcome(record: Record, folder: Path, was_done: bool, twin: str) -> None:
    """Print a run's results as a table.

    Parameters
    ----------
    record : Record
    folder : Path
        Where the record is.
    was_done : bool
        The run was finished by an earlier command.
    twin : str
        The command of the run with the add-on instead of without it, or the other way round.
    """
    console = standard_output()
    if was_done:
        console.print("This run was done already; nothing was trained.")
    for table in outcome_tables(record):
        console.print(table)
    for line in (
        f"record: {folder / 'record.json'}",
        f"{'twin without the add-on' if record.spec.addon else 'twin with the add-on'}: {twin}",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def outcome_tables(record: Record) -> list[Table]:
    """Return what a record says, and of several classes the scores of each in a table of its own."""
    return [outcome_table(record), *([_class_table(record)] if len(record.classes) > 1 else [])]


def outcome_table(record: Record) -> Table:
    """Return what a record says: scores, what g is worth, what the add-on did, and what it took."""
    cell = record.spec
    name = cell.method + (f" + {cell.addon}" if cell.addon else "")
    table = Table(
        title=f"{name}, {cell.arch}, {cell.dataset} {cell.regime}, protocol {cell.protocol} v{cell.protocol_version}"
    )
    table.add_column("measure")
    table.add_column("value", justify="right")
    table.add_column("note")
    for rows in (_scores(record), _predictor(record), _pseudo_labels(record), _guidance(record), _cost(record)):
        if rows and table.rows:
            table.add_section()
        for row in rows:
            table.add_row(*row)
    return table


def _class_table(record: Record) -> Table:
    """Return Dice, HD95 and metrics that do not ship: a column for each class."""
    summary, unit = record.summary, DISTANCE_WORDS[record.distance_unit]
    table = Table(title=f"by class, mean over {summary.images} test {record.noun}s")
    table.add_column("measure")
    for name in (MEAN, *record.classes):
        table.add_column(Text(name), justify="right")
    for metric in (METRICS["dice"], METRICS["hd95"], *record.metrics.values()):
        shown = unit if metric.unit == "px" else metric.unit
        means = (summary.means, *(summary.by_class[name] for name in record.classes))
        table.add_row(f"{metric.label}, {shown}", *(f"{metric.scale * each[metric.name]:.2f}" for each in means))
    return table


Rows = list[tuple[str, str, str]]


def _scores(record: Record) -> Rows:
    summary, means = record.summary, record.summary.means
    others = ", ".join(
        f"{network.replace('_', ' ')} {100 * dice:.2f} ({100 * (dice - means['dice']):+.2f})"
        for network, dice in ((name, other.means["dice"]) for name, other in record.summaries.items())
        if network != "student"
    )
    classes, noun, unit = len(record.classes), record.noun, DISTANCE_WORDS[record.distance_unit]
    tested = f"{classes} classes and {summary.images}" if classes > 1 else f"{summary.images}"
    rows = classes * summary.images
    groups = "1 group" if summary.groups == 1 else f"{summary.groups} groups"
    over = f"mean over {tested} test {noun}s, not over their {groups}"
    lesion, lesions = ("such class", f"classes of {noun}s") if classes > 1 else ("lesion", "lesions")
    return [
        ("Dice", f"{100 * means['dice']:.2f} %", over),
        *([("Dice of other networks", others, "(difference from the student's)")] if others else []),
        ("HD95 (pooled)", f"{means['hd95']:.2f} {unit}", "both directed sets together, as medpy"),
        ("HD95 (max)", f"{means['hd95_max']:.2f} {unit}", "larger of the two directed, as MONAI"),
        ("HD95 of diagonal", f"{means['hd95_percent']:.2f} %", ""),
        *(
            (metric.label, f"{metric.scale * means[name]:.2f} {unit if metric.unit == 'px' else metric.unit}", "")
            for name, metric in record.metrics.items()
        ),
        ("missed", f"{summary.missed}", f"{lesions} without any prediction; Dice 0"),
        ("spurious", f"{summary.spurious}", f"predictions where there is no {lesion}; Dice 0"),
        *([("absent", f"{summary.absent}", f"of {rows} {lesions}, and not predicted; Dice 1")] if classes > 1 else []),
    ]


def _predictor(record: Record) -> Rows:
    audit = record.audit
    if audit is None:
        return []
    verdict = "below 0.70: depends on" if audit.image_dependent else "not below 0.70: judges shapes more than"
    failed = not_predicted(record)
    note = f"yes if {PREDICTS_RULE} on all masks" + (f"; it does not on {' and '.join(failed)}" if failed else "")
    of_test, judged, g = audit.synthetic_test, f"validation {record.picture}s", predictor_of(record)
    return [
        (f"{g}, synthetic masks", _numbers(audit.synthetic), judged),
        *([(f"{g}, test mixture", _numbers(of_test), f"{judged}, as the release tests g")] if of_test else []),
        (f"{g}, weak models' masks", _numbers(audit.weak_models), judged),
        (f"{g}, image dependence", f"{audit.image_dependence:.2f}", f"{verdict} the image"),
        (f"{g} predicts quality", "no" if failed else "yes", note),
    ]


def _pseudo_labels(record: Record) -> Rows:
    if not record.pseudo_labels:
        return []
    last, pooled = record.pseudo_labels[-2], record.pseudo_labels[-1]
    rows = []
    for score, found in last.scores.items():
        over_all = _number(pooled.scores[score].pearson)
        note = f"{found.masks} pseudo-labels at the end; pooled over checkpoints {over_all}"
        name = predictor_of(record) if score == "g" else score
        rows.append((f"{name} against true Dice", _numbers(found), note))
    return [*rows, ("", "", f"({record.audited_on})")]


def _guidance(record: Record) -> Rows:
    guidance = record.guidance
    if guidance is None or guidance.kept_share is None:
        return []
    return [
        ("kept share", _number(guidance.kept_share), "pseudo-labels with a weight above 0"),
        ("effective sample size", _number(guidance.effective_sample_size), "near 1: the weights changed little"),
    ]


def _cost(record: Record) -> Rows:
    times = record.times
    g_time = f"g {times.g:.0f} s{' (reused)' if times.g_reused else ''}, " if record.audit is not None else ""
    return [
        ("time", f"{g_time}training {times.train:.0f} s, evaluation {times.evaluate:.0f} s", ""),
        ("peak memory", f"{record.peak_memory_mib:.0f} MiB", ""),
    ]


def _number(value: float | None) -> str:
    return "--" if value is None else f"{value:.2f}"


def _numbers(found: Agreement) -> str:
    return f"r {_number(found.pearson)}, rho {_number(found.spearman)}, MAE {found.mae:.3f}"
