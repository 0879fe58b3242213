"""The chapter of one setting: methods with and without the add-on, controls, sizes of effects, the audit of g."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from qgbench.metrics.table import EMPTY_MASK_RULE, METRICS, MISSED, Metric
from qgbench.report.audit import AuditRow
from qgbench.report.chapters.audit import audit_tables
from qgbench.report.chapters.suite import CLASSES_RULE
from qgbench.report.chapters.table import Chapter, Columns, Table, abreast, part_title, table
from qgbench.report.collect import Run, in_unit_of, of_class
from qgbench.report.contrasts import Contrast, Kind
from qgbench.report.scores import Scores
from qgbench.report.sections import COLLAPSE, Section
from qgbench.report.wording import MISSING, by_reason, in_points, p_words, pair_words, protocol_line
from qgbench.spec.arm import ArmName
from qgbench.spec.task import MEAN
from qgbench.stats.crossed import Estimate
from qgbench.stats.misses import LEAST_OF_DIFFERENCE, LEAST_OF_MEAN

AVERAGED_RULE = (
    "{label}, in {unit}: mean over {over} of a test group (patient, lesion, video; the image where none is known), "
    "then over groups and seeds, with its 95 % interval from one model with crossed random effects of groups and "
    "seeds."
)
SAME_SEEDS_RULE = "A row's columns are over the same seeds; the difference, in {unit}, is with the add-on minus base."
TEST_RULE = (
    "p (Holm): adjusted for all comparisons of this kind in the report, of which there are {tested}. p (one-sided): of "
    "'the true difference has not this sign', unadjusted. p (Wilcoxon): signed-rank test on the groups' means over "
    "seeds, zeros by Pratt's rule; it does not see the variance of seeds."
)
BOLD_RULE = (
    "Bold: the best mean of this setting, and each cell whose paired difference from it has a 95 % interval with 0 in "
    "it, or one that allows no verdict."
)
SHAPE_RULE = (
    "{label}, in {unit}, of the {over} of a run, each counting alike whatever its group, averaged over seeds: mean, "
    "median, mean of the middle half (interquartile), mean of the worst tenth. Collapsed: of the runs that have "
    "supervised training with their seed beside them, those whose mean Dice over groups is more than {collapse:.0f} "
    "points under it."
)
BESIDE_RULE = (
    "Means are over {over} of a test group, then over groups and seeds; the median is over the {noun}s of a run, "
    "then averaged over seeds. HD95 in {distance}, where one mask is empty the diagonal. Missed: % of {missed}. An "
    "interval of HD95 or missed is given where at least {least} groups have a miss (for HD95, one mask empty and the "
    "other not): else it would hold the truth far too rarely."
)
DIFFERENCES_RULE = (
    "First minus second, over common seeds: mean over {over} of a test group, then over groups and seeds, with its "
    "95 % interval from the same model as that of {label}; exploratory, without a test. Of HD95 and missed, less is "
    "better. An interval of these is given where at least {least} groups differ in what is missed: else it would hold "
    "the truth far too rarely. Of HD95 it is also given where none differs, and speaks of images that neither misses."
)
MISSED_OF_CLASSES = "{noun}s and classes of which there is something and nothing was predicted"
EFFECT_RULE = (
    "Of the differences in {label}, first minus second. Standard deviations: of {noun}s and of groups, averaged over "
    "seeds, and of the seeds' means. Improvement: probability that a test group is better in the first. Effect: "
    "standardised mean difference over groups (Hedges). Headroom: share of the distance from supervised training "
    "with the budget to supervised training with all labels."
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
        _comparison(twins, section, _test_rule(twins, tested)),
        *class_tables(section),
        _pairs("Controls of the quality score", controls, section, CONTROL_RULE),
        _pairs("Contrasts asked for", asked, section, _test_rule(asked, tested)),
        _shapes(section),
        _beside(section),
        _beside_differences(compared, section),
        _effects(compared, section),
        *audit_tables(audits),
    ]
    audited_on = sorted({run.record.audited_on for run in section.runs if run.record.pseudo_labels})
    return Chapter(
        title=f"{setting.dataset}, {setting.regime}, {setting.arch}, {setting.encoder}",
        above=[protocol_line(setting.protocol, setting.protocol_version)],
        tables=[one for one in tables if one.rows],
        below=[
            f"Empty-mask rule ({EMPTY_MASK_RULE.replace('image', section.noun)}).",
            *([CLASSES_RULE.format(label=what.label)] if section.over_classes else []),
            *by_reason((str(c.name), scores.estimate) for c in section.contrasts if (scores := c.any_scores)),
            *([f"Pseudo-labels audited on: {', '.join(audited_on)}."] if audited_on else []),
            *_reruns(section.runs),
        ],
        problems=section.problems,
    )


def _over(section: Section) -> str:
    """Return what a mean is over inside a group."""
    return f"classes and {section.noun}s" if section.over_classes else f"{section.noun}s"


def _averaged(section: Section) -> str:
    what = section.measure
    return AVERAGED_RULE.format(label=what.label, unit=what.unit, over=f"the {_over(section)}")


def _test_rule(contrasts: Sequence[Contrast], tested: Mapping[Kind, int]) -> str:
    return TEST_RULE.format(tested=_counted(tested)) if any(one.tested for one in contrasts) else ""


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
        own = [(of_class(metric, name), f"{head}\n{name}") for name in section.classes]
        mean = (metric, f"{head}\n{MEAN}")
        *widths, last = map(_width, own)
        pieces += [[own[place] for place in part] for part in abreast([*widths, last + _width(mean) + 2])]
        pieces[-1].append(mean)  # never alone
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
        says = f"Each {section.noun} counts alike, whatever its group; {MEAN}: over classes. No intervals."
        tables.append(table(part_title(title, number, len(parts)), columns, section.cells, names=2, says=says))
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


def _comparison(contrasts: list[Contrast], section: Section, test_rule: str) -> Table:
    what, best = section.measure, section.best
    break_before, break_after = (" ", "\n") if what.unit in ("%", "px") else ("\n", " ")  # a narrow column
    over_groups = f"{what.label}{break_before}{what.unit},{break_after}mean over groups"
    columns: Columns[Contrast] = {
        "Method": lambda c: str(c.name.without_addon),
        "Add-on": lambda c: c.name.addon or MISSING,
        "Seeds": seeds_words,
        f"Base: {over_groups}": lambda c: _side(c.reference_scores, what),
        f"+ add-on: {over_groups}": lambda c: _side(c.scores, what),
        **_tests(what, contrasts),
    }
    bold = {
        (row, column)
        for row, c in enumerate(contrasts)
        for column, name, scores in ((3, c.reference, c.reference_scores), (4, c.name, c.scores))
        if scores is not None and name in best
    }
    rules = (_averaged(section), SAME_SEEDS_RULE.format(unit=what.difference_unit), BOLD_RULE, test_rule)
    title = "Methods with and without the add-on"
    return table(title, columns, contrasts, names=2, bold=frozenset(bold), says=" ".join(filter(None, rules)))


def _cell_columns(section: Section) -> Columns[ArmName]:
    return {
        "Method": lambda name: str(name.without_addon),
        "Add-on": lambda name: name.addon or MISSING,
        "Seeds": lambda name: str(len(section.cells[name].seeds)),
    }


def _shapes(section: Section) -> Table:
    """Return what the mean over images hides, and runs that collapsed."""
    what = section.measure

    def of(part: str) -> Callable[[ArmName], str]:
        return lambda name: _optional(getattr(section.cells[name].shapes[what.name], part), what.scale)

    def collapsed(name: ArmName) -> str:
        found = section.collapsed.get(name)
        return MISSING if found is None else f"{found[0]} of {found[1]}"

    columns: Columns[ArmName] = {
        **_cell_columns(section),
        f"Mean over\n{section.noun}s": lambda name: _optional(section.cells[name].means[what.name], what.scale),
        "Median": of("median"),
        "Interquartile\nmean": of("interquartile_mean"),
        "Worst\n10 %": of("worst_tenth"),
        "Collapsed\nruns": collapsed,
    }
    says = SHAPE_RULE.format(label=what.label, unit=what.unit, over=f"{section.noun}s", collapse=100 * COLLAPSE)
    return table(
        f"{what.label} over {section.noun}s, and runs that collapsed", columns, section.cells, names=2, says=says
    )


def _beside(section: Section) -> Table:
    """Return distances, surfaces and misses of every cell."""
    unit = section.distance_unit
    hd95 = "hd95" + "".join(section.measure.name.partition(":")[1:])

    def mean(metric: Metric) -> Callable[[ArmName], str]:
        return lambda cell: in_points(section.cells[cell].beside[metric.name], metric)

    columns: Columns[ArmName] = {
        **_cell_columns(section),
        f"HD95 {unit}\nmean over groups": mean(METRICS["hd95"]),
        f"HD95 {unit}\nmedian over {section.noun}s": lambda cell: _optional(section.cells[cell].shapes[hd95].median),
        "HD95 % of diagonal\nmean over groups": mean(METRICS["hd95_percent"]),
        f"{_nsd(section)} %\nmean over groups": mean(METRICS["nsd_2px"]),
        "Missed %\nmean over groups": mean(MISSED),
    }
    says = BESIDE_RULE.format(
        over=_over(section),
        least=LEAST_OF_MEAN,
        noun=section.noun,
        distance="pixels of the original image" if unit == "px" else unit,
        missed=MISSED_OF_CLASSES.format(noun=section.noun)
        if section.over_classes
        else f"{section.noun}s, those without any prediction of a lesion that is there",
    )
    return table(f"Distances, surfaces and misses{_of(section)}", columns, section.cells, names=2, says=says)


def _beside_differences(contrasts: list[Contrast], section: Section) -> Table:
    """Return the differences in distances, surfaces and misses."""

    def of(metric: Metric) -> Callable[[Contrast], str]:
        return lambda c: in_points(c.difference.beside[metric.name] if c.difference else None, metric)

    columns: Columns[Contrast] = {
        "Contrast": lambda c: f"{c.name} : {c.reference}",
        "Seeds": seeds_words,
        f"HD95\n({section.distance_unit})": of(METRICS["hd95"]),
        "HD95 of diagonal\n(points)": of(METRICS["hd95_percent"]),
        f"{_nsd(section)}\n(points)": of(METRICS["nsd_2px"]),
        "Missed\n(points)": of(MISSED),
    }
    says = DIFFERENCES_RULE.format(over=_over(section), label=section.measure.label, least=LEAST_OF_DIFFERENCE)
    title = f"Differences in distances, surfaces and misses{_of(section)}"
    return table(title, columns, contrasts, names=1, widths=(60,), says=says)


def _nsd(section: Section) -> str:
    return in_unit_of(METRICS["nsd_2px"], section.runs).label


def _of(section: Section) -> str:
    """Return which class a table is of, where the report is of one."""
    name = section.measure.name.partition(":")[2]
    return f" of {name}" if name else ""


def _side(scores: Scores | None, what: Metric) -> str:
    return in_points(scores.estimate if scores else None, what)


def _pairs(title: str, contrasts: list[Contrast], section: Section, rule: str) -> Table:
    """Return contrasts that are no twins."""
    what = section.measure
    columns: Columns[Contrast] = {
        "Method": lambda c: pair_words(c)[0] or MISSING,
        "Contrast": lambda c: pair_words(c)[1],
        "Seeds": seeds_words,
        **_tests(what, contrasts),
    }
    says = " ".join(filter(None, (f"First minus second, over common seeds. {_averaged(section)}", rule)))
    return table(title, columns, contrasts, names=2, says=says)


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
    return " and ".join(f"{count} {words[kind]}" for kind, count in tested.items() if count) or "none"


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
        "p\n(one-sided)": lambda c: difference_words(c, lambda found: p_words(found.p_one_sided)),
        "p\n(Wilcoxon)": lambda c: difference_words(c, lambda found: p_words(found.wilcoxon_p)),
    }


def _effects(contrasts: list[Contrast], section: Section) -> Table:
    what, noun = section.measure, section.noun

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
    says = EFFECT_RULE.format(label=what.label, noun=noun)
    return table("Spread of the differences and size of the effects", columns, contrasts, names=1, says=says)


def _optional(value: float | None, scale: float = 1.0) -> str:
    return MISSING if value is None else f"{scale * value:.2f}"
