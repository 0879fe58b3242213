"""Chapters that set all settings side by side: what the quality predictor is worth, and what a kind of split is."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from qgbench.report.analysis import Analysis
from qgbench.report.audit import PREDICTS_RULE, SCORES, AuditRow, audit, not_predicted, predictor_of
from qgbench.report.chapters.table import Chapter, Columns, table
from qgbench.report.contrasts import is_control
from qgbench.report.sections import Section
from qgbench.report.wording import MISSING, in_points, own_unit, protocol_lines
from qgbench.run.record import Record
from qgbench.spec.arm import ArmName
from qgbench.stats.crossed import Estimate

GUIDANCE_RULE = (
    "g on validation images: masks by synthetic corruption, and masks of weak models. Within checkpoints: Pearson's "
    "correlation, and mean absolute error, of a score with the true Dice of the pseudo-labels of one checkpoint, "
    "averaged over checkpoints, seeds and all methods + qw; g, the mean probability of the predicted foreground "
    "(confidence) and the Dice of two predictions, one of the flipped image (agreement), score the same masks. Pooled: "
    "g's correlation over the masks of all checkpoints together, which also counts that late masks are better than "
    "early ones. Kept: share of pseudo-labels with q of tau or more. Effective sample size: (sum w)^2 / (B sum w^2) of "
    "the weights w of a step's B pseudo-labels, dropped ones included; near 1, QW changed little. Seconds: medians "
    "over seeds, averaged over methods, on the machine that made them; g, its weak models included, is trained once "
    "for all methods of a seed."
)
SPLITS_RULE = (
    "Where groups have several images, a split of images puts images of one group on both sides. Test images differ "
    "between the two splits, so that a difference has no test; both means have their own interval, in which a group of "
    "the image split is not a new one either."
)


def overview(analysis: Analysis) -> list[Chapter]:
    """Return what the quality predictor g and the free scores are worth, and what a split of images is.

    Parameters
    ----------
    analysis : Analysis

    Returns
    -------
    list of Chapter
        On g where two settings or more have QW (one setting's own tables say all of it), on splits where a cell was
        run on both kinds with the same budget.
    """
    return [part for part in (_guidance_chapter(analysis), _splits_chapter(analysis)) if part.tables]


def _guidance_chapter(analysis: Analysis) -> Chapter:
    columns: Columns[_Guided] = {
        "Setting": lambda one: one.setting,
        **{
            f"{masks}\n{label}": _mean("predictor", f"{kind}_{quantity}", 2)
            for kind, masks in (("synthetic", "Synth."), ("weak", "Weak"))
            for quantity, label in (("pearson", "r"), ("mae", "MAE"))
        },
        **{f"Within r\n{score}": _mean("within", f"{score}_pearson", 2) for score in SCORES},
        **{f"MAE\n{score}": _mean("within", f"{score}_mae", 3) for score in SCORES},
        "Pooled r\ng": _mean("pooled", "g_pearson", 2),
        "Kept\nshare": _mean("runs", "kept_share", 2),
        "Eff. sample\nsize": _mean("runs", "effective_sample_size", 2),
        "g\n(s)": _mean("runs", "g_seconds", 0),
        "Training (s)\nbase / + qw": lambda one: " / ".join(
            _mean(rows, "train_seconds", 0)(one) for rows in ("twins", "runs")
        ),
    }
    guided = [one for section in analysis.sections if (one := _guided(section)).within or one.pooled]
    title = "What the quality predictor g is worth, by setting"
    shown = table(title, columns, guided, names=1, widths=(42,), says=GUIDANCE_RULE)
    below = [*_where_g_fails(analysis.sections)]
    return Chapter(
        "Quality guidance",
        protocol_lines(section.setting for section in analysis.sections),
        [shown] if len(guided) > 1 else [],
        below,
        [],
    )


class _Guided(NamedTuple):
    """A setting, and rows of its audit: of the predictors, of runs with weights, and of their twins."""

    setting: str
    predictor: list[AuditRow]
    within: list[AuditRow]
    pooled: list[AuditRow]
    runs: list[AuditRow]
    twins: list[AuditRow]


def _guided(section: Section) -> _Guided:
    rows = audit(section.runs)
    names = {run.record.spec.arm for run in section.runs if _weighed(run.record)}
    guided = [row for row in rows if row.name in names]
    methods = {name.without_addon for name in names}
    return _Guided(
        setting=f"{section.setting.dataset} {section.setting.regime}, {section.setting.arch}",
        predictor=[row for row in rows if row.predictor == "g"],
        within=[row for row in guided if row.part == "pseudo_labels" and row.progress is not None and not row.of_class],
        pooled=[row for row in guided if row.part == "pseudo_labels" and row.progress is None and not row.of_class],
        runs=[row for row in guided if row.part == "run"],
        twins=[row for row in rows if row.part == "run" and row.name in methods],
    )


def _weighed(record: Record) -> bool:
    """Return whether g weighed pseudo-labels, no control and no other predictor; without weights the record says so."""
    none = record.guidance is not None and record.guidance.kept_share is None
    of_g = record.spec.addon != "" and not is_control(record.spec.addon) and predictor_of(record) == "g"
    return of_g and not none


def _mean(rows: str, quantity: str, digits: int) -> Callable[[_Guided], str]:
    """Return a cell that averages rows, each an average over seeds."""

    def cell(one: _Guided) -> str:
        values = [value for row in getattr(one, rows) if (value := row.averages[quantity].value) is not None]
        return f"{sum(values) / len(values):.{digits}f}" if values else MISSING

    return cell


def _where_g_fails(sections: Sequence[Section]) -> list[str]:
    """Return lines: in which settings, and in how many runs guided by g, g does not predict quality."""
    counts = []
    for section in sections:
        guided = [run.record for run in section.runs if _weighed(run.record)]
        failed = sum(bool(not_predicted(record)) for record in guided)
        if failed:
            counts.append(f"{section.setting.dataset} {section.setting.regime}, {failed} of {len(guided)} runs")
    if not counts:
        return []
    return [
        f"g does not predict quality here: {'; '.join(counts)}. It would if {PREDICTS_RULE} on synthetic masks, on "
        "weak models' masks and on the pseudo-labels of the last checkpoint."
    ]


def _splits_chapter(analysis: Analysis) -> Chapter:
    what = analysis.measure
    columns: Columns[_Both] = {
        "Cell": lambda both: str(both.name),
        "Data set": lambda both: ", ".join([both.dataset, *own_unit(both.dataset, analysis)]),
        "Labels": lambda both: both.budget,
        f"By group: {what.label} {what.unit},\nmean over groups": lambda both: in_points(both.grouped, what),
        f"By image: {what.label} {what.unit},\nmean over groups": lambda both: in_points(both.by_image, what),
    }
    cells = list(_on_both(analysis.sections))
    says = f"Mean over images of a test group, groups and seeds, with its 95 % interval. {SPLITS_RULE}"
    shown = table("The same cells on both kinds of split", columns, cells, names=2, widths=(50, 30), says=says)
    title = "What a split of images is worth"
    return Chapter(
        title,
        protocol_lines(section.setting for section in analysis.sections),
        [shown] if cells else [],
        [],
        [],
    )


class _Both(NamedTuple):
    """A cell on both kinds of split."""

    name: ArmName
    dataset: str
    budget: str
    grouped: Estimate
    by_image: Estimate


def _on_both(sections: Sequence[Section]) -> Iterator[_Both]:
    by_setting = {section.setting: section for section in sections}
    for setting, grouped in by_setting.items():
        budget, _, split = setting.regime.partition("@")
        other = by_setting.get(setting.model_copy(update={"regime": f"{budget}@image"}))
        if split != "grouped" or other is None:
            continue
        for name, scores in grouped.cells.items():
            if name in other.cells:
                yield _Both(name, setting.dataset, budget, scores.estimate, other.cells[name].estimate)
