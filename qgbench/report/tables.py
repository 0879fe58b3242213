"""Lay out comparisons and audits as tables of text, and render them as Markdown or LaTeX."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from qgbench.metrics.table import EMPTY_MASK_RULE
from qgbench.report.analysis import Across, AddonAcross, Analysis, Contrast, Scores, Section
from qgbench.report.audit import PREDICTS_RULE, SCORES, AuditRow, Average, audit
from qgbench.report.collect import Name, Problem, Run
from qgbench.report.declared import Answer, Answers
from qgbench.report.measures import Measure
from qgbench.stats.crossed import MIN_GROUPS, Estimate
from qgbench.trust.claims import Claim

MISSING = "--"
MARK = "†"
"""Behind an interval that allows no verdict."""
MARK_RULE = (
    f"{MARK}: one seed or fewer than {MIN_GROUPS} test groups; p is withheld, and the interval allows no verdict."
)
NOT_A_REPLICATION = {"small", "smoke"}
_SETS_ABREAST = 5  # columns of data sets that a landscape page holds
_ABREAST = 125  # characters of the columns of settings that a landscape page holds

UNIT_RULE = (
    "{label}: mean over test groups (patient, lesion, video; the image where none is known) and seeds of a group's mean"
    "{unit}, with its 95 % confidence interval. Interval, p and P(claim false), the probability that the true "
    "difference has the other sign, come from one model with crossed random effects of groups and seeds."
)
TEST_RULE = (
    "Both {label} columns of a row and their difference (add-on minus base, in {unit}) are over the same seeds. "
    "p (Holm): adjusted for all p-values of this table. p (Wilcoxon): signed-rank test on the groups' means over "
    "seeds, zeros by Pratt's rule; it does not see the variance of seeds."
)
BOLD_RULE = "Bold: every cell that is not told apart from the best one (Holm-adjusted p of 0.05 or more, or withheld)."
DISTANCE_RULE = (
    "HD95 (pixels of the original image; % of its diagonal) averages over test images and seeds; missed: images with a "
    "lesion of which nothing was predicted, for each seed."
)
EFFECT_RULE = (
    "Standard deviations: of images and of groups, averaged over seeds, and of the seeds' means. Improvement: "
    "probability that a test group is better with the add-on. Effect: standardised mean difference over groups "
    "(Hedges). Headroom: share of the distance from supervised training with the budget to supervised training with "
    "all labels."
)
CONTROL_RULE = (
    "Controls put another score in the place of g: if the oracle (true Dice) does not help, QW cannot; if shuffled "
    "scores help as much, g is not the cause; if confidence helps as much, g is not needed. 'qw : qw-confidence' is QW "
    "by g minus QW by confidence."
)
ACROSS_RULE = (
    "Ranks are over the cells that every setting has; 1 is best. Settings are taken as they are: a p-value or an "
    "interval here speaks of these data sets, averaged, not of others. {least}"
)
QUESTIONS_RULE = (
    "Questions: the mean, in {unit}, of the named pairs of cells inside each data set, then over data sets with equal "
    "weights. p (Holm) is adjusted for all questions but the primary one. The intervals of single data sets are those "
    "of the model with crossed random effects of groups and seeds."
)
OVER_SETS_RULE = (
    "Interval and p over data sets ({addons}): Student's t over the data sets' means, as four or more data sets have "
    "too few seeds each for intervals of their own. Its claim is about data sets like these."
)
AUDIT_RULE = (
    "Averages over records (one a seed), of seconds the median; a predictor that several runs share counts once. "
    "'(1 of 3)': defined in so many records only. Pooled: the masks of all checkpoints together. Predicts quality: "
    f"{PREDICTS_RULE}; of a predictor, on synthetic masks and on those of weak models."
)


@dataclass(frozen=True)
class Table:
    """Text in rows and columns; `columns` may hold line breaks; the first `names` columns hold free text."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    names: int
    bold: frozenset[tuple[int, int]] = frozenset()
    """Places (row, column) that are set in bold."""
    widths: tuple[int, ...] = (38, 18, 18)
    """Of the columns of free text on paper, mm."""
    prose: frozenset[int] = frozenset()
    """Columns of free text that are sentences, not names."""

    @property
    def footnote(self) -> str:
        """What the mark behind an interval says; empty where no interval has it."""
        cells = (cell for row in self.rows for cell in row[self.names :])
        return MARK_RULE if any(cell.endswith(MARK) for cell in cells) else ""


@dataclass(frozen=True)
class Chapter:
    """One setting of the report: what stands above the tables, the tables, and what stands below."""

    title: str
    above: list[str]
    tables: list[Table]
    below: list[str]
    problems: list[Problem]


def suite_chapter(answers: Answers, what: Measure) -> Chapter:
    """Lay out a suite's questions and their answers: what a report begins with."""
    absent = [Problem(cell, "no usable record") for cell in answers.absent]
    shown = suite_tables(answers, what)
    above = [protocol_line(answers.suite.protocol, answers.suite.version)] if shown else []
    return Chapter(f"Suite {answers.suite.name}", above, shown, suite_words(answers, what), absent)


def suite_words(answers: Answers, what: Measure) -> list[str]:
    """Say what a suite asked before its runs, and what they answer, a sentence each."""
    suite, primary = answers.suite, answers.primary
    question, found = primary.question, primary.estimate
    pairs = ", ".join(f"{first} : {second}" for first, second in question.pairs)
    lines = [f"Primary question, declared before the runs: {question.text}"]
    if found is None:
        cause = answers.reason or f"cells or seeds that it needs are missing ({'; '.join(primary.lacking)})"
        lines.append(f"Primary estimate: withheld, {cause}.")
    else:
        low, high = (f"{what.scale * end:.2f}" for end in found.interval or (math.nan, math.nan))
        mark = MARK if found.p_withheld else ""
        ends = f"95 % confidence interval {low} to {high}{mark}" if found.interval else "no interval"
        change = f"{what.scale * found.mean:+.2f} ({what.difference_unit}; {ends})"
        lines.append(
            f"Primary estimate: {what.label} differs by {change}, p {_p(found.p)}, P(claim false) {_p(found.p_false)}; "
            f"averaged over {pairs} inside each of {', '.join(question.regimes)}, then over these."
        )
        lines += [f"{found.reason}."] if found.reason else []
    if answers.others:
        lines.append(QUESTIONS_RULE.format(unit=what.difference_unit))
    by_sets = [one.question.name for one in (primary, *answers.others) if _over_sets(one)]
    lines += [OVER_SETS_RULE.format(addons=", ".join(by_sets))] if by_sets else []
    reasons: dict[str, list[str]] = defaultdict(list)
    for one in answers.others:
        if one.estimate is not None and one.estimate.reason:
            reasons[one.estimate.reason].append(one.question.name)
    lines += [f"{reason} ({', '.join(names)})." for reason, names in reasons.items()]
    open_ones = [one.question.name for one in answers.others if one.estimate is None]
    if open_ones and not answers.reason:
        lines.append(f"Not answered, cells or seeds are missing: {', '.join(open_ones)}.")
    lines.append("All other rows of this report are about cells, another family: p (Holm) is adjusted for all of them.")
    if answers.missing:
        lines.append(
            f"Unfinished: of the suite's {len(suite.places)} runs {answers.missing} have no usable record; "
            "they are listed, and no average stands for them."
        )
    return lines


def _over_sets(answer: Answer) -> bool:
    return answer.estimate is not None and answer.estimate.method == "t over sets"


def suite_tables(answers: Answers, what: Measure) -> list[Table]:
    """Lay out the answers over data sets, and inside each; a table without rows is left out."""
    tables = [_questions_table(answers, what), *_questions_by_dataset(answers, what)]
    return [table for table in tables if table.rows]


def _questions_table(answers: Answers, what: Measure) -> Table:
    """Lay out the answers to a suite's questions, each one number; questions without one are left out."""
    columns = [
        "Question",
        "Name",
        "Pairs",
        "Sets",
        f"Difference\n({what.difference_unit})",
        "p",
        "p\n(Holm)",
        "P(claim\nfalse)",
    ]
    rows = []
    for one in (answers.primary, *answers.others):
        found, question = one.estimate, one.question
        if found is not None:
            holm = MISSING if one is answers.primary else _p(one.holm_p)
            numbers = [str(len(question.pairs) * len(question.archs)), str(len(question.regimes))]
            tests = [in_points(found, what), _p(found.p), holm, _p(found.p_false)]
            rows.append([question.text, question.name, *numbers, *tests])
    title = "Questions that the suite asks, over data sets"
    return Table(title, columns, rows, names=2, widths=(92, 40), prose=frozenset({0}))


def _questions_by_dataset(answers: Answers, what: Measure) -> list[Table]:
    """Lay out the answers inside each data set, as many of these in a table as a page is wide."""
    found = [one for one in (answers.primary, *answers.others) if one.by_dataset]
    datasets = list(dict.fromkeys(dataset for one in found for dataset in one.by_dataset))
    parts = [datasets[start : start + _SETS_ABREAST] for start in range(0, len(datasets), _SETS_ABREAST)]
    title = f"The same in each data set ({what.difference_unit})"
    return [
        Table(
            title + (f", part {number} of {len(parts)}" if len(parts) > 1 else ""),
            ["Name", *part],
            [[one.question.name, *(_in_dataset(one, dataset, what) for dataset in part)] for one in found],
            names=1,
        )
        for number, part in enumerate(parts, start=1)
    ]


def _in_dataset(answer: Answer, dataset: str, what: Measure) -> str:
    found = answer.by_dataset.get(dataset)
    return MISSING if found is None else in_points(found, what)


def chapter(section: Section, audits: list[AuditRow], what: Measure) -> Chapter:
    """Lay out one setting."""
    setting = section.setting
    twins, controls, asked = ([c for c in section.contrasts if c.kind == kind] for kind in ("twin", "control", "asked"))
    tables = [
        _comparison(twins, section.best, what),
        _pairs("Controls of the quality score", controls, what),
        _pairs("Contrasts asked for", asked, what),
        _effects([c for c in section.contrasts if c.difference is not None], what),
        *_audit_tables(audits),
    ]
    audited_on = sorted({run.record.pseudo_labels_on for run in section.runs if run.record.pseudo_labels})
    unit = f", in {what.unit}"
    return Chapter(
        title=f"{setting.dataset}, {setting.regime}, {setting.arch}, {setting.encoder}",
        above=[protocol_line(setting.protocol, setting.protocol_version)],
        tables=[table for table in tables if table.rows],
        below=[
            f"Empty-mask rule ({EMPTY_MASK_RULE}).",
            f"Statistical unit: test groups x seeds. {UNIT_RULE.format(label=what.label, unit=unit)}",
            TEST_RULE.format(label=what.label, unit=what.difference_unit),
            BOLD_RULE,
            DISTANCE_RULE,
            *([CONTROL_RULE] if controls else []),
            *([EFFECT_RULE] if any(c.difference for c in section.contrasts) else []),
            *_withheld(section.contrasts),
            AUDIT_RULE,
            *([f"Pseudo-labels audited on: {', '.join(audited_on)}."] if audited_on else []),
            *reruns_in_words(section.runs),
        ],
        problems=section.problems,
    )


def reruns_in_words(runs: Sequence[Run]) -> list[str]:
    """Count what reruns of these records found, and name the records that a rerun disagrees with."""
    found = Counter(run.rerun.verdict for run in runs if run.rerun is not None)
    if not found:
        return []
    counted = ", ".join(f"{count} {verdict}" for verdict, count in sorted(found.items()))
    disputed = [
        f"{Name.of(run.record.cell)}, seed {run.seed}: {run.rerun.reason}"
        for run in runs
        if run.rerun is not None and run.disputed
    ]
    return [f"Reruns of these {len(runs)} records: {counted}.", *(f"Its rerun disagrees: {one}" for one in disputed)]


def protocol_line(protocol: str, version: int) -> str:
    """Name the protocol and its version, and what it is not."""
    line = f"protocol {protocol} v{version}"
    if protocol in NOT_A_REPLICATION:
        return (
            f"{line}: not a replication of the paper's experiments (96 px or less, EfficientNet-Lite0, few steps, "
            "stand-in sets and pools)"
        )
    return line


def _comparison(contrasts: list[Contrast], best: list[Name], what: Measure) -> Table:
    columns = [
        "Method",
        "Add-on",
        "Seeds",
        f"Base: {what.label} {what.unit},\nmean over groups",
        f"+ add-on: {what.label} {what.unit},\nmean over groups",
        f"Difference\n({what.difference_unit})",
        "p",
        "p\n(Holm)",
        "P(claim\nfalse)",
        "p\n(Wilcoxon)",
        "HD95\nbase / +",
        "HD95 % diag.\nbase / +",
        "Missed\nbase / +",
    ]
    bold = {
        (row, column)
        for row, contrast in enumerate(contrasts)
        for column, name, scores in (
            (3, contrast.reference, contrast.reference_scores),
            (4, contrast.name, contrast.scores),
        )
        if scores is not None and name in best
    }
    rows = [comparison_row(contrast, what) for contrast in contrasts]
    return Table("Methods with and without the add-on", columns, rows, names=2, bold=frozenset(bold))


def comparison_row(contrast: Contrast, what: Measure) -> list[str]:
    """Write a twin: method, add-on, seeds, both sides, difference, p, p (Holm), P(claim false), p (Wilcoxon), rest."""
    either = contrast.reference_scores or contrast.scores

    def pair(get: str, digits: int) -> str:
        sides = (contrast.reference_scores, contrast.scores)
        return " / ".join(MISSING if side is None else f"{side.means[get]:.{digits}f}" for side in sides)

    return [
        method_name(contrast.name),
        contrast.name.addon or MISSING,
        str(len(either.seeds)) if either else MISSING,
        _points(contrast.reference_scores, what),
        _points(contrast.scores, what),
        *_tests(contrast, what),
        pair("hd95", 1),
        pair("hd95_percent", 1),
        pair("missed", 1),
    ]


def method_name(name: Name) -> str:
    """Write a method and the settings that differ from the protocol's."""
    return name.method + (f" ({name.variant})" if name.variant else "")


def _tests(contrast: Contrast, what: Measure) -> list[str]:
    """Difference, p, adjusted p, P(claim false) and Wilcoxon's p."""
    if contrast.difference is None:
        return ["refused" if contrast.refused else MISSING] * 5
    found = contrast.difference.estimate
    return [_points(contrast.difference, what), *map(_p, (found.p, contrast.holm_p, found.p_false, found.wilcoxon_p))]


def pair_words(contrast: Contrast) -> tuple[str, str]:
    """Name the method that both sides share, or '', and the two sides: their add-ons, or all of their names."""
    one, other = contrast.name, contrast.reference
    if one.without_addon != other.without_addon:
        return "", f"{one} : {other}"
    return method_name(one), f"{one.addon or 'base'} : {other.addon or 'base'}"


def _pairs(title: str, contrasts: list[Contrast], what: Measure) -> Table:
    """Lay out contrasts that are no twins."""
    columns = [
        "Method",
        "Contrast",
        "Seeds",
        f"Difference\n({what.difference_unit})",
        "p",
        "p\n(Holm)",
        "P(claim\nfalse)",
        "p\n(Wilcoxon)",
    ]
    rows = []
    for contrast in contrasts:
        method, sides = pair_words(contrast)
        either = contrast.difference or contrast.reference_scores or contrast.scores
        seeds = str(len(either.seeds)) if either else MISSING
        rows.append([method or MISSING, sides, seeds, *_tests(contrast, what)])
    return Table(title, columns, rows, names=2)


def _effects(contrasts: list[Contrast], what: Measure) -> Table:
    unit = what.difference_unit
    columns = [
        "Contrast",
        f"SD images\n({unit})",
        f"SD groups\n({unit})",
        f"SD seeds\n({unit})",
        "Improvement",
        "Effect",
        "Headroom",
    ]
    rows = []
    for contrast in contrasts:
        assert contrast.difference is not None
        spread = contrast.difference.spread
        spreads = [
            MISSING if sd is None else f"{what.scale * sd:.2f}" for sd in (spread.images, spread.groups, spread.seeds)
        ]
        effects = [MISSING if value is None else f"{value:.2f}" for value in (contrast.improvement, contrast.effect)]
        headroom = MISSING if contrast.headroom is None else f"{100 * contrast.headroom:.0f} %"
        rows.append([f"{contrast.name} : {contrast.reference}", *spreads, *effects, headroom])
    return Table("Spread of the differences and size of the effects", columns, rows, names=1)


def summary(across: Across, what: Measure) -> Chapter:
    """Lay out what holds over the data sets and regimes of one protocol, architecture and encoder."""
    title = f"Across settings: {across.regimes}, {across.arch}, {across.encoder}"
    least = f"With {len(across.settings)} settings no signed-rank test can give p below {_p(across.least_p)}."
    columns = [
        "Add-on",
        "Methods",
        f"Combined\n({what.difference_unit})",
        "p",
        "P(claim\nfalse)",
        "Win / tie\n/ loss",
        "P(harm)",
        "P(within 1\npoint)",
        "P(gain)",
    ]
    addons = Table(
        "What the add-ons do over all settings", columns, [_addon_row(a, what) for a in across.addons], names=1
    )
    absent = [f"{name}: missing in {count} of {len(across.settings)}" for name, count in across.left_out.items()]
    combined = {addon.addon: addon.combined for addon in across.addons if addon.combined is not None}
    by_sets = [name for name, found in combined.items() if found.method == "t over sets"]
    withheld = [(name, found.reason) for name, found in combined.items() if found.reason]
    partly = [f"{addon.addon}: {'; '.join(addon.left_out)}" for addon in across.addons if addon.left_out]
    friedman = "" if across.friedman_p is None else f"Friedman's test of equal ranks: p {_p(across.friedman_p)}. "
    tied = "; ".join(", ".join(map(str, clique)) for clique in across.cliques if len(clique) > 1)
    return Chapter(
        title=title,
        above=[protocol_line(across.protocol, across.protocol_version)],
        tables=[table for table in (addons, *_rank_tables(across, what)) if table.rows],
        below=[
            friedman + ACROSS_RULE.format(least=least),
            *([f"Not told apart (Wilcoxon, Holm): {tied}."] if tied else []),
            "First: share of bootstrap draws over groups and seeds in which the cell has the best rank.",
            "Combined: mean difference over the methods that have it in every setting and over the settings, with "
            "equal weights. P(harm), P(gain): probability that the typical difference is below -1 or above +1 Dice "
            "point (Bayesian signed-rank test over the contrasts).",
            *([OVER_SETS_RULE.format(addons=", ".join(by_sets))] if by_sets else []),
            *(f"{reason} (combined, {name})." for name, reason in withheld),
            *([f"Left out of the ranks: {'; '.join(absent)}."] if absent else []),
            *([f"Left out of 'combined': {'; '.join(partly)}."] if partly else []),
        ],
        problems=[],
    )


def claims_chapter(analysis: Analysis) -> Chapter:
    """Lay out what papers claim, beside what was measured of the same."""
    predictors = [row for section in analysis.sections for row in audit(section.runs) if row.part == "predictor"]

    def measured(claim: Claim) -> str:
        if claim.about == "predictor":
            values = [
                row.averages[f"synthetic_{claim.metric}"].value
                for row in predictors
                if f"synthetic_{claim.metric}" in row.averages
            ]
            known = [value for value in values if value is not None]
            return f"{min(known):.3f} to {max(known):.3f}" if known else MISSING
        found = [
            f"{scores.means[claim.metric]:.3f} ({', '.join((setting.regime, setting.arch, setting.protocol))})"
            for section in analysis.sections
            for setting in (section.setting,)
            for name, scores in section.cells.items()
            if (name.method, name.addon) == (claim.method, claim.addon)
            and claim.dataset in ("", setting.dataset)
            and claim.metric in scores.means
        ]
        return "; ".join(found) or MISSING

    columns = ["Source", "About", "Metric", "Claimed", "Measured here\n(Dice: mean over images)"]
    rows = []
    for claim in analysis.claims:
        about = "g, synthetic masks" if claim.about == "predictor" else f"{claim.method} {claim.addon}".strip()
        where = ", ".join(filter(None, (claim.reference, claim.table, claim.note)))
        rows.append(
            [f"{claim.source} ({where})", f"{about} {claim.dataset}".strip(), claim.metric, claim.text, measured(claim)]
        )
    table = Table("Claimed by papers, not measured here", columns, rows, names=3)
    below = ["Claimed numbers are copied from their sources, whose data, protocol and metrics may differ from these."]
    return Chapter("Claims of papers", [], [table] if rows else [], below, [])


def _rank_tables(across: Across, what: Measure) -> list[Table]:
    """Lay out ranks beside the means of the settings, as many of these in a table as a page is wide."""
    parts: list[list[int]] = [[]]
    room = _ABREAST
    for index, setting in enumerate(across.settings):
        wide = max(len(setting.dataset), len(setting.regime)) + 2
        if parts[-1] and wide > room:
            parts.append([])
            room = _ABREAST
        parts[-1].append(index)
        room -= wide
    clique = _first_clique(across)
    title = f"Average ranks over {len(across.settings)} settings"
    columns = [f"{setting.dataset}\n{setting.regime}" for setting in across.settings]
    return [
        Table(
            title + (f", part {number} of {len(parts)}" if len(parts) > 1 else ""),
            [
                f"Cell ({what.label} {what.unit}: mean over groups)",
                "Average\nrank",
                "First",
                *(columns[index] for index in shown),
            ],
            [
                [
                    str(name),
                    f"{across.ranks[row]:.2f}",
                    MISSING if math.isnan(across.frequencies[row, 0]) else f"{across.frequencies[row, 0]:.2f}",
                    *(f"{what.scale * value:.2f}" for value in across.means[shown, row]),
                ]
                for row, name in enumerate(across.names)
            ],
            names=1,
            bold=frozenset((row, 1) for row, name in enumerate(across.names) if name in clique),
        )
        for number, shown in enumerate(parts, start=1)
    ]


def _first_clique(across: Across) -> list[Name]:
    """The names that are not told apart from the one of the best rank."""
    return next((clique for clique in across.cliques if across.names and across.names[0] in clique), across.names[:1])


def _addon_row(addon: AddonAcross, what: Measure) -> list[str]:
    combined = addon.combined
    tests = [MISSING] * 3 if combined is None else [in_points(combined, what), _p(combined.p), _p(combined.p_false)]
    rope = [MISSING] * 3 if addon.rope is None else [f"{value:.2f}" for value in addon.rope]
    return [addon.addon, str(len(addon.methods)), *tests, " / ".join(map(str, addon.win_tie_loss)), *rope]


def _points(scores: Scores | None, what: Measure) -> str:
    """Write a mean or a difference with its interval, in the unit that people read."""
    return MISSING if scores is None else in_points(scores.estimate, what)


def in_points(found: Estimate, what: Measure) -> str:
    """Write an estimate with its interval, in the unit that people read, and a mark if that allows no verdict."""
    if found.interval is None:
        return f"{what.scale * found.mean:.2f}"
    low, high = (what.scale * end for end in found.interval)
    return f"{what.scale * found.mean:.2f} [{low:.2f}, {high:.2f}]{MARK if found.p_withheld else ''}"


def _p(value: float | None) -> str:
    if value is None:
        return "withheld"
    return f"{value:.3f}" if value >= 0.0005 else "<0.001"


def _withheld(contrasts: list[Contrast]) -> list[str]:
    """Say what of the tables was withheld, and why: one sentence a reason."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for contrast in contrasts:
        shown = contrast.difference or contrast.reference_scores or contrast.scores
        if shown is not None and shown.estimate.reason:
            reasons[shown.estimate.reason].append(str(contrast.name))
    return [f"{reason} ({', '.join(dict.fromkeys(names))})." for reason, names in reasons.items()]


def _audit_tables(audits: list[AuditRow]) -> list[Table]:
    """Lay out the tables of the quality predictor audit; a table without rows is left out."""

    def rows(part: str) -> list[AuditRow]:
        return [row for row in audits if row.part == part]

    def named(row: AuditRow) -> list[str]:
        assert row.name is not None
        method, variant, addon = row.name
        return [method + (f" ({variant})" if variant else ""), addon or MISSING, str(row.records)]

    def numbers(row: AuditRow, digits: int, *quantities: str) -> list[str]:
        return [_average(row.averages[quantity], row.records, digits) for quantity in quantities]

    def count(row: AuditRow, quantity: str) -> str:
        found = row.averages[quantity]
        return MISSING if not found.defined else f"{round((found.value or 0) * found.defined)} of {found.defined}"

    def seconds(row: AuditRow) -> list[str]:
        g, *rest = numbers(row, 1, "g_seconds", "train_seconds", "evaluate_seconds")
        return [g, count(row, "g_reused"), *rest]

    measures = (
        *(f"synthetic_{name}" for name in ("pearson", "spearman", "mae")),
        *(f"weak_{name}" for name in ("pearson", "spearman", "mae")),
        "image_dependence",
    )
    predictors = Table(
        "Quality predictor audit: masks of validation images",
        [
            "Predictors",
            "Synthetic\nPearson",
            "Synthetic\nSpearman",
            "Synthetic\nMAE",
            "Weak models\nPearson",
            "Weak models\nSpearman",
            "Weak models\nMAE",
            "Image dependence\n(largest correlation)",
            "Depend on\nthe image",
            "Predict\nquality",
        ],
        [
            [
                str(row.records),
                *numbers(row, 3, *measures),
                *(count(row, verdict) for verdict in ("image_dependent", "predicts")),
            ]
            for row in rows("predictor")
        ],
        names=0,
    )
    scores = [f"{score}_{measure}" for measure in ("pearson", "mae") for score in SCORES]
    pseudo_labels = Table(
        "Quality predictor audit: pseudo-labels, scores against their true Dice",
        [
            "Method",
            "Add-on",
            "Records",
            "Progress",
            "Dice %, mean\nover masks",
            *(f"Pearson\n{score}" for score in SCORES),
            *(f"MAE\n{score}" for score in SCORES),
            "g predicts\nquality",
        ],
        [
            [
                *named(row),
                "pooled" if row.progress is None else f"{100 * row.progress:.0f} %",
                _average(row.averages["mean_dice"], row.records, 2, scale=100),
                *numbers(row, 3, *scores),
                MISSING if row.progress is None else count(row, "g_predicts"),
            ]
            for row in rows("pseudo_labels")
        ],
        names=2,
    )
    cost = Table(
        "Cost and guidance",
        [
            "Method",
            "Add-on",
            "Records",
            "g\n(s)",
            "g reused\nby",
            "Training\n(s)",
            "Evaluation\n(s)",
            "Kept\nshare",
            "Effective\nsample size",
        ],
        [[*named(row), *seconds(row), *numbers(row, 3, "kept_share", "effective_sample_size")] for row in rows("run")],
        names=2,
    )
    return [table for table in (predictors, pseudo_labels, cost) if table.rows]


def _average(average: Average, records: int, digits: int, scale: float = 1) -> str:
    if average.value is None:
        return MISSING
    partly = "" if average.defined == records else f" ({average.defined} of {records})"
    return f"{scale * average.value:.{digits}f}{partly}"


def markdown_table(table: Table) -> str:
    """Render a table in GitHub's Markdown; free text stands in code spans."""

    def line(cells: list[str]) -> str:
        return f"| {' | '.join(cells)} |"

    def cell(row: int, column: int, text: str) -> str:
        if column in table.prose:
            return markdown_plain(text)
        if column < table.names and text != MISSING:
            return markdown_name(text)
        return f"**{text}**" if (row, column) in table.bold else text

    rows = [[cell(place, i, text) for i, text in enumerate(row)] for place, row in enumerate(table.rows)]
    rule = ["---" if i < table.names else "---:" for i in range(len(table.columns))]
    lines = map(line, [[column.replace("\n", " ") for column in table.columns], rule, *rows])
    return "\n".join([*lines, *(["", table.footnote] if table.footnote else [])])


def markdown_name(text: str) -> str:
    """Write free text as a code span that cannot end early, nor end a table's cell."""
    return "`" + " ".join(text.split()).replace("`", "'").replace("|", "\\|") + "`"


def markdown_plain(text: str) -> str:
    """Keep Markdown from reading names within a sentence as markup."""
    for char in "\\`*_<>|":
        text = text.replace(char, f"\\{char}")
    return " ".join(text.split())


def latex_table(table: Table, above: list[str]) -> str:
    """Render a table, with its title and the lines above it, as a booktabs longtable, which may run over pages."""

    def cell(row: int, index: int, text: str) -> str:
        if text == MISSING:
            return text
        if index >= table.names:
            return rf"\textbf{{{_latex_numbers(text)}}}" if (row, index) in table.bold else _latex_numbers(text)
        return r"\raggedright " + re.sub("[,=]", r"\g<0>\\allowbreak{}", escape_latex(text))

    def spanning(text: str) -> str:
        # Of no width: a line longer than the table would push its last column to the right.
        return rf"\multicolumn{{{len(table.columns)}}}{{@{{}}l@{{}}}}{{\rlap{{{text}}}}} \\"

    head = [r"\toprule", " & ".join(map(_latex_header, table.columns)) + r" \\", r"\midrule"]
    footnote = [r"\bottomrule", spanning(escape_latex(table.footnote)), r"\endlastfoot"] if table.footnote else []
    widths = [f"p{{{width}mm}}" for width in table.widths[: table.names]]
    body = [
        " & ".join(cell(place, i, text) for i, text in enumerate(row)) + r" \\" for place, row in enumerate(table.rows)
    ]
    return "\n".join(
        [
            rf"\begin{{longtable}}{{@{{}}{''.join(widths)}{'r' * (len(table.columns) - table.names)}@{{}}}}",
            # The title is part of the table's first head, so that no page ends between the two.
            spanning(rf"\large\bfseries {escape_latex(table.title)}"),
            *(spanning(escape_latex(line)) for line in above),
            r"\addlinespace",
            *head,
            r"\endfirsthead",
            *head,
            r"\endhead",
            r"\bottomrule",
            r"\endfoot",
            *footnote,
            *body,
            r"\end{longtable}",
        ]
    )


def _latex_header(column: str) -> str:
    lines = [_latex_numbers(line) for line in column.split("\n")]
    return lines[0] if len(lines) == 1 else rf"\shortstack{{{lines[0]}\\{lines[1]}}}"


def _latex_numbers(text: str) -> str:
    """Escape a cell of numbers: true minus signs, "--" left as it is."""
    return re.sub(r"(?<![-\w])-(?=\d)", r"$-$", escape_latex(text).replace("-{}-", "--"))


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_\allowbreak{}",
    "/": r"/\allowbreak{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    # At the start of a row these would be taken for an option of the line break before it.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    MARK: r"$^\dagger$",
}


def escape_latex(text: str) -> str:
    r"""Write any text so that pdflatex sets it as it is.

    White space becomes single spaces, characters beyond ASCII become ``U+XXXX``, and long names may break after
    ``_`` and ``/``.
    """
    plain = "".join(
        _LATEX.get(char, char if char.isascii() else f"U+{ord(char):04X}") for char in " ".join(text.split())
    )
    return re.sub("-(?=-)", "-{}", "".join(char for char in plain if char.isprintable()))
