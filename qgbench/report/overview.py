"""Chapters that set all settings side by side: what the quality predictor is worth, and what a kind of split is."""

from collections.abc import Iterable, Sequence

from qgbench.report.analysis import Analysis, Section
from qgbench.report.audit import PREDICTS_RULE, SCORES, AuditRow, audit, not_predicted
from qgbench.report.measures import Measure
from qgbench.report.tables import MISSING, Chapter, Table, in_points, protocol_line

_GUIDED = "qw"  # by g: a control has no pseudo-labels that g weighed

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
    """Lay out what the quality predictor g and the free scores are worth, and what a split of images is.

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
    columns = [
        "Setting",
        *("Synth.\nr", "Synth.\nMAE", "Weak\nr", "Weak\nMAE"),
        *(f"Within r\n{score}" for score in SCORES),
        *(f"MAE\n{score}" for score in SCORES),
        "Pooled r\ng",
        "Kept\nshare",
        "Eff. sample\nsize",
        "g\n(s)",
        "Training (s)\nbase / + qw",
    ]
    rows = [row for section in analysis.sections if (row := _guidance_row(section))]
    table = Table("What the quality predictor g is worth, by setting", columns, rows, names=1, widths=(42,))
    below = [GUIDANCE_RULE, *_where_g_fails(analysis.sections)]
    return Chapter("Quality guidance", _protocols(analysis), [table] if len(rows) > 1 else [], below, [])


def _where_g_fails(sections: Sequence[Section]) -> list[str]:
    """Say in which settings, and in how many runs guided by g, g does not predict quality."""
    counts = []
    for section in sections:
        guided = [run.record for run in section.runs if run.record.cell.addon == _GUIDED]
        failed = sum(bool(not_predicted(record)) for record in guided)
        if failed:
            counts.append(f"{section.setting.dataset} {section.setting.regime}, {failed} of {len(guided)} runs")
    if not counts:
        return []
    return [
        f"g does not predict quality here: {'; '.join(counts)}. It would if {PREDICTS_RULE} on synthetic masks, on "
        "weak models' masks and on the pseudo-labels of the last checkpoint."
    ]


def _protocols(analysis: Analysis) -> list[str]:
    settings = [section.setting for section in analysis.sections]
    return [protocol_line(*one) for one in sorted({(s.protocol, s.protocol_version) for s in settings})]


def _guidance_row(section: Section) -> list[str]:
    rows = audit(section.runs)
    guided = [row for row in rows if row.name is not None and row.name.addon == _GUIDED]
    masks = [row for row in guided if row.part == "pseudo_labels"]
    if not masks:
        return []
    predictor = [row for row in rows if row.part == "predictor"]
    within = [row for row in masks if row.progress is not None]
    pooled = [row for row in masks if row.progress is None]
    runs = [row for row in guided if row.part == "run"]
    methods = {row.name.without_addon for row in guided if row.name is not None}
    twins = [row for row in rows if row.part == "run" and row.name in methods]
    return [
        f"{section.setting.dataset} {section.setting.regime}, {section.setting.arch}",
        *(_mean(predictor, name, 2) for name in ("synthetic_pearson", "synthetic_mae", "weak_pearson", "weak_mae")),
        *(_mean(within, f"{score}_pearson", 2) for score in SCORES),
        *(_mean(within, f"{score}_mae", 3) for score in SCORES),
        _mean(pooled, "g_pearson", 2),
        _mean(runs, "kept_share", 2),
        _mean(runs, "effective_sample_size", 2),
        _mean(runs, "g_seconds", 0),
        f"{_mean(twins, 'train_seconds', 0)} / {_mean(runs, 'train_seconds', 0)}",
    ]


def _mean(rows: Iterable[AuditRow], quantity: str, digits: int) -> str:
    """Average rows, each an average over seeds."""
    values = [value for row in rows if (value := row.averages[quantity].value) is not None]
    return f"{sum(values) / len(values):.{digits}f}" if values else MISSING


def _splits_chapter(analysis: Analysis) -> Chapter:
    what = analysis.measure
    columns = [
        "Cell",
        "Data set",
        "Labels",
        f"By group: {what.label} {what.unit},\nmean over groups",
        f"By image: {what.label} {what.unit},\nmean over groups",
    ]
    rows = list(_split_rows(analysis.sections, what))
    table = Table("The same cells on both kinds of split", columns, rows, names=2, widths=(50, 30))
    above = _protocols(analysis)
    return Chapter("What a split of images is worth", above, [table] if rows else [], [SPLITS_RULE], [])


def _split_rows(sections: Sequence[Section], what: Measure) -> Iterable[list[str]]:
    by_setting = {section.setting: section for section in sections}
    for setting, grouped in by_setting.items():
        budget, _, split = setting.regime.partition("@")
        other = by_setting.get(setting._replace(regime=f"{budget}@image"))
        if split != "grouped" or other is None:
            continue
        for name, scores in grouped.cells.items():
            if name in other.cells:
                both = (in_points(one.estimate, what) for one in (scores, other.cells[name]))
                yield [str(name), setting.dataset, budget, *both]
