"""The chapter of one setting: methods with and without the add-on, controls, sizes of effects, the audit of g."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from qgbench.metrics.table import EMPTY_MASK_RULE, METRICS, Metric
from qgbench.report.audit import AuditRow
from qgbench.report.chapters.audit import AUDIT_OF_CLASSES_RULE, AUDIT_RULE, audit_tables
from qgbench.report.chapters.suite import CLASSES_RULE
from qgbench.report.chapters.table import Chapter, Columns, Table, abreast, part_title, table
from qgbench.report.collect import Run, in_unit_of, of_class
from qgbench.report.contrasts import Contrast, Kind
from qgbench.report.scores import Scores
from qgbench.report.sections import Section
from qgbench.report.wording import MISSING, by_reason, in_points, p_words, pair_words, protocol_line
from qgbench.spec.arm import ArmName
from qgbench.spec.task import MEAN
from qgbench.stats.crossed import Estimate

UNIT_RULE = (
    "{label}: mean over test groups (patient, lesion, video; the image where none is known) and seeds of a group's mean"
    "{unit}, with its 95 % confidence interval, from one model with crossed random effects of groups and seeds."
)
SAME_SEEDS_RULE = (
    "Both {label} columns of a row and their difference (add-on minus base, in {unit}) are over the same seeds."
)
TEST_RULE = (
    "p and P(claim false), the probability that the true difference has the other sign, come from the same model. "
    "p (Holm): adjusted for all comparisons of this kind in the report, of which there are {tested}. p (Wilcoxon): "
    "signed-rank test on the groups' means over seeds, zeros by Pratt's rule; it does not see the variance of seeds."
)
BOLD_RULE = "Bold: every cell that is not told apart from the best one (Holm-adjusted p of 0.05 or more, or withheld)."
DISTANCE_RULE = "HD95 ({unit} diagonal) averages over {over} and seeds; missed: {missed}, for each seed."
MISSED = "{noun}s with a lesion of which nothing was predicted"
MISSED_OF_CLASSES = "{noun}s and classes of which there is something and nothing was predicted"
EFFECT_RULE = (
    "Standard deviations: of {noun}s and of groups, averaged over seeds, and of the seeds' means. Improvement: "
    "probability that a test group is better with the add-on. Effect: standardised mean difference over groups "
    "(Hedges). Headroom: share of the distance from supervised training with the budget to supervised training with "
    "all labels."
)
CONTROL_RULE = (
    "Controls put another score in the place of g: if the oracle (true Dice) does not help, QW cannot; if shuffled "
    "scores help as much, g is not the cause; if confidence helps as much, g is not needed. 'qw : qw-confidence' is QW "
    "by g minus QW by confidence."
)


def setting_chapter(section: Section, audits: list[AuditRow], tested: Mapping[Kind, int]) -> Chapter:
    """Return the chapter of one setting; `tested` are how many comparisons of a kind the report tests."""
    setting, what = section.setting, section.measure
    twins, controls, asked = ([c for c in section.contrasts if c.kind == kind] for kind in ("twin", "control", "asked"))
    compared = [c for c in section.contrasts if c.difference is not None]
    tables = [
        _comparison(twins, section.best, what, section.distance_unit),
        *class_tables(section),
        _pairs("Controls of the quality score", controls, what),
        _pairs("Contrasts asked for", asked, what),
        _effects(compared, what, section.noun),
        *audit_tables(audits),
    ]
    audited_on = sorted({run.record.pseudo_labels_on for run in section.runs if run.record.pseudo_labels})
    return Chapter(
        title=f"{setting.dataset}, {setting.regime}, {setting.arch}, {setting.encoder}",
        above=[protocol_line(setting.protocol, setting.protocol_version)],
        tables=[one for one in tables if one.rows],
        below=[
            f"Empty-mask rule ({EMPTY_MASK_RULE.replace('image', section.noun)}).",
            f"Statistical unit: test groups x seeds. {UNIT_RULE.format(label=what.label, unit=f', in {what.unit}')}",
            SAME_SEEDS_RULE.format(label=what.label, unit=what.difference_unit),
            *([TEST_RULE.format(tested=_counted(tested))] if any(one.tested for one in compared) else []),
            BOLD_RULE,
            *([CLASSES_RULE.format(label=what.label)] if section.over_classes else []),
            _distance_rule(section),
            *([CONTROL_RULE] if controls else []),
            *([EFFECT_RULE.format(noun=section.noun)] if compared else []),
            *by_reason((str(c.name), scores.estimate) for c in section.contrasts if (scores := c.any_scores)),
            AUDIT_RULE,
            *([AUDIT_OF_CLASSES_RULE] if any(row.of_class for row in audits) else []),
            *([f"Pseudo-labels audited on: {', '.join(audited_on)}."] if audited_on else []),
            *_reruns(section.runs),
        ],
        problems=section.problems,
    )


def _distance_rule(section: Section) -> str:
    """Return in what HD95 is, what it averages over, and what counts as missed."""
    noun, unit, several = section.noun, section.distance_unit, len(section.classes) > 1
    return DISTANCE_RULE.format(
        unit="pixels of the original image; % of its" if unit == "px" else f"{unit}; % of the {noun}'s",
        over=f"classes, test {noun}s" if several else f"test {noun}s",
        missed=MISSED_OF_CLASSES.format(noun=noun) if several else MISSED.format(noun=noun),
    )


def class_tables(section: Section) -> list[Table]:
    """Return the scores of every cell by class and their mean, as many in a table as a page is wide; [] for one class.

    Shown are Dice and HD95, and the measure where it is neither.
    """
    if len(section.classes) == 1:
        return []
    whole = section.measure.name.partition(":")[0]
    metrics = [in_unit_of(metric, section.runs) for metric in _metrics_of(section, "dice", "hd95", whole)]
    pieces: list[list[_Column]] = []  # columns that stay together
    for metric in metrics:
        head = f"{metric.label.removesuffix(' (pooled)')} {metric.unit}"
        own = [(of_class(metric, name), f"{head}\n{name}") for name in section.classes] + [(metric, f"{head}\n{MEAN}")]
        pieces += [[own[place] for place in part] for part in abreast(map(_width, own))]
    parts = abreast(sum(_width(one) + 2 for one in piece) - 2 for piece in pieces)
    title = f"Scores by class, mean over {section.noun}s and seeds"

    def score(metric: Metric, name: ArmName) -> str:
        found = section.cells[name].means.get(metric.name)
        return MISSING if found is None else f"{metric.scale * found:.2f}"

    tables = []
    for number, part in enumerate(parts, start=1):
        columns: Columns[ArmName] = {
            "Method": lambda name: str(name.without_addon),
            "Add-on": lambda name: name.addon or MISSING,
            "Seeds": lambda name: str(len(section.cells[name].seeds)),
            **{heading: partial(score, metric) for place in part for metric, heading in pieces[place]},
        }
        tables.append(table(part_title(title, number, len(parts)), columns, section.cells, names=2))
    return tables


_Column = tuple[Metric, str]
"""What is shown, and under which heading."""


def _width(column: _Column) -> int:
    return max(map(len, column[1].split("\n")))


def _metrics_of(section: Section, *names: str) -> list[Metric]:
    """Return metrics by name, each once, in their own unit."""
    known = {**METRICS, **{name: metric for run in section.runs for name, metric in run.record.metrics.items()}}
    return [known[name] for name in dict.fromkeys(names)]


def _reruns(runs: Sequence[Run]) -> list[str]:
    """Return what reruns of these records found, and the records that a rerun disagrees with."""
    found = Counter(run.rerun.verdict for run in runs if run.rerun is not None)
    if not found:
        return []
    counted = ", ".join(f"{count} {verdict}" for verdict, count in sorted(found.items()))
    disputed = [
        f"{run.record.spec.arm}, seed {run.seed}: {run.rerun.reason}"
        for run in runs
        if run.rerun is not None and run.disputed
    ]
    return [f"Reruns of these {len(runs)} records: {counted}.", *(f"Its rerun disagrees: {one}" for one in disputed)]


def _comparison(contrasts: list[Contrast], best: list[ArmName], what: Metric, unit: str) -> Table:
    told = "" if unit == "px" else f" {unit}"
    _, colon, name = what.name.partition(":")  # of one class alone
    one, of = colon + name, f" of {name}" if name else ""
    break_before, break_after = (" ", "\n") if what.unit in ("%", "px") else ("\n", " ")  # a narrow column
    over_groups = f"{what.label}{break_before}{what.unit},{break_after}mean over groups"
    columns: Columns[Contrast] = {
        "Method": lambda c: str(c.name.without_addon),
        "Add-on": lambda c: c.name.addon or MISSING,
        "Seeds": seeds_words,
        f"Base: {over_groups}": lambda c: _side(c.reference_scores, what),
        f"+ add-on: {over_groups}": lambda c: _side(c.scores, what),
        **_tests(what, contrasts),
        f"HD95{told}{of}\nbase / +": _both(f"hd95{one}"),
        f"HD95 % diag.{of}\nbase / +": _both(f"hd95_percent{one}"),
        **({} if one else {"Missed\nbase / +": _both("missed")}),  # counted over all classes
    }
    bold = {
        (row, column)
        for row, c in enumerate(contrasts)
        for column, name, scores in ((3, c.reference, c.reference_scores), (4, c.name, c.scores))
        if scores is not None and name in best
    }
    return table("Methods with and without the add-on", columns, contrasts, names=2, bold=frozenset(bold))


def _side(scores: Scores | None, what: Metric) -> str:
    return in_points(scores.estimate if scores else None, what)


def _pairs(title: str, contrasts: list[Contrast], what: Metric) -> Table:
    """Return contrasts that are no twins."""
    columns: Columns[Contrast] = {
        "Method": lambda c: pair_words(c)[0] or MISSING,
        "Contrast": lambda c: pair_words(c)[1],
        "Seeds": seeds_words,
        **_tests(what, contrasts),
    }
    return table(title, columns, contrasts, names=2)


def seeds_words(contrast: Contrast) -> str:
    """Return over how many seeds a contrast, or the side of it that is there, is."""
    return str(len(contrast.any_scores.seeds)) if contrast.any_scores else MISSING


def difference_words(contrast: Contrast, of: Callable[[Estimate], str]) -> str:
    """Return what `of` says of the difference, or why there is none."""
    if contrast.difference is None:
        return "refused" if contrast.refused else MISSING
    return of(contrast.difference.estimate)


def _counted(tested: Mapping[Kind, int]) -> str:
    words = {"twin": "pairs of twins", "control": "controls", "asked": "asked for"}
    return " and ".join(f"{count} {words[kind]}" for kind, count in tested.items() if count)


def _tests(what: Metric, contrasts: Sequence[Contrast]) -> Columns[Contrast]:
    """Return the difference, and its tests if any of the contrasts is tested."""
    difference: Columns[Contrast] = {
        f"Difference\n({what.difference_unit})": lambda c: difference_words(c, lambda found: in_points(found, what))
    }
    if not any(one.tested for one in contrasts):
        return difference
    return {
        **difference,
        "p": lambda c: difference_words(c, lambda found: p_words(found.p)),
        "p\n(Holm)": lambda c: difference_words(c, lambda _: p_words(c.holm_p)),
        "P(claim\nfalse)": lambda c: difference_words(c, lambda found: p_words(found.p_false)),
        "p\n(Wilcoxon)": lambda c: difference_words(c, lambda found: p_words(found.wilcoxon_p)),
    }


def _both(measure: str) -> Callable[[Contrast], str]:
    def cell(contrast: Contrast) -> str:
        sides = (contrast.reference_scores, contrast.scores)
        return " / ".join(MISSING if side is None else f"{side.means[measure]:.1f}" for side in sides)

    return cell


def _effects(contrasts: list[Contrast], what: Metric, noun: str) -> Table:
    def sd(over: str) -> Callable[[Contrast], str]:
        return lambda c: _optional(getattr(c.difference.spread, over) if c.difference else None, what.scale)

    unit = what.difference_unit
    columns: Columns[Contrast] = {
        "Contrast": lambda c: f"{c.name} : {c.reference}",
        f"SD {noun}s\n({unit})": sd("images"),
        f"SD groups\n({unit})": sd("groups"),
        f"SD seeds\n({unit})": sd("seeds"),
        "Improvement": lambda c: _optional(c.improvement),
        "Effect": lambda c: _optional(c.effect),
        "Headroom": lambda c: MISSING if c.headroom is None else f"{100 * c.headroom:.0f} %",
    }
    return table("Spread of the differences and size of the effects", columns, contrasts, names=1)


def _optional(value: float | None, scale: float = 1.0) -> str:
    return MISSING if value is None else f"{scale * value:.2f}"
