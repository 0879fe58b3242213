"""Statistics in words and in short numbers, as the pages show them. Plain text: the templates escape it."""

from collections.abc import Mapping

from qgbench.base.errors import UserError
from qgbench.metrics.table import Metric
from qgbench.report.analysis import Analysis
from qgbench.report.contrasts import Contrast
from qgbench.report.declared import LEVEL, Answers, DeclaredQuestion
from qgbench.report.scores import Scores
from qgbench.report.standings import Standings
from qgbench.report.wording import MARK, number, signed
from qgbench.spec.arm import ArmName
from qgbench.spec.regime import Regime
from qgbench.stats.crossed import Estimate

MISSING = "–"

_METHODS = {
    "bcp": "BCP",
    "contrastive": "Contrastive",
    "corrmatch": "CorrMatch",
    "cps": "CPS",
    "fixmatch": "FixMatch",
    "ict": "ICT",
    "mean_teacher": "Mean Teacher",
    "pseudo_label": "Pseudo-label",
    "pseudo_label_confidence": "Pseudo-label by confidence",
    "supervised": "Supervised",
    "ua_mt": "UA-MT",
    "unimatch": "UniMatch",
    "unimatch_v2": "UniMatch V2",
}
_KINDS = {
    "twin": "a method with an add-on against itself without",
    "control": "a control of the quality score, with another score in the place of g",
    "asked": "asked for by name",
}


def method_words(method: str) -> str:
    """Return the usual spelling of a method's name; a name that has none stays as it is."""
    return _METHODS.get(method, method)


def addon_words(addon: str) -> str:
    """Return ``qw-shuffled`` as 'QW (shuffled)', ``qw+qar`` as 'QW+QAR', no add-on as ''."""
    mode, _, score = addon.partition("-")
    if mode not in ("qw", "qar", "qw+qar"):
        return addon
    return mode.upper() + (f" ({score})" if score else "")


def name_words(name: ArmName) -> str:
    """Return a cell's name: 'FixMatch (method.threshold=0.9) + QW'."""
    variant = f" ({name.variant})" if name.variant else ""
    return method_words(name.method) + variant + (f" + {addon_words(name.addon)}" if name.addon else "")


def regime_words(regime: str) -> str:
    """Return what a regime is: '28 labels', '10 % of the labels + isic_pool, image split'; what is no regime stays."""
    try:
        parsed = Regime.parse(regime)
    except UserError:
        return regime
    if parsed.percent is not None:
        labels = f"{parsed.percent:g} % of the labels"
    else:
        unit = "patient" if parsed.patients else "label"
        labels = "all labels" if parsed.budget is None else _counted(parsed.budget, unit)
    split = "" if parsed.split == "grouped" else f", {parsed.split} split"
    return " + ".join((labels, *parsed.pools)) + split


def where_words(best: Standings, titles: Mapping[str, str]) -> str:
    """Return what the rows of the short leaderboard are means over: 'PH2, 28 labels'; '5 data sets, 7 labels'."""
    settings = [section.setting for section in best.sections]
    datasets = dict.fromkeys(titles[setting.dataset] for setting in settings)
    regimes = dict.fromkeys(regime_words(setting.regime) for setting in settings)
    where = next(iter(datasets)) if len(datasets) == 1 else f"{len(datasets)} data sets"
    labels = " or " if len(settings) == len(datasets) else " and "
    return f"{where}, {labels.join(regimes) if len(regimes) < 4 else f'{len(regimes)} regimes'}"


def kind_words(kind: str) -> str:
    """Return what a kind of contrast compares."""
    return _KINDS[kind]


def interval(found: Estimate, scale: float, digits: int = 1) -> str:
    """Return a confidence interval, '0.4 to 2.2', with a mark if it allows no verdict; empty if there is none."""
    if found.interval is None:
        return ""
    return " to ".join(number(end, scale, digits) for end in found.interval) + (MARK if found.p_withheld else "")


def probability(value: float | None) -> str:
    """Return a probability rounded to two digits that count: '0.012'; 'below 0.001'; None is 'withheld'."""
    if value is None:
        return "withheld"
    if value < 0.001:
        return "below 0.001"
    return f"{value:.2g}" if value < 0.1 else f"{value:.2f}"


def first_words(analysis: Analysis) -> tuple[str, str]:
    """Return what a report asks first, and the answer in a sentence.

    Of a suite: its first confirmatory question. Else, of the pairs of twins: in how many the add-on is better.
    """
    answers = analysis.answers
    if answers is not None and answers.confirm:
        return answers.confirm[0].question.text, _answer(answers, analysis.measure)
    asked = "Pairs of twins: a method with its add-on against the same method without, on the same images and seeds."
    return asked, _twins(analysis)


def _answer(answers: Answers, what: Metric) -> str:
    """Return the answer to a suite's first confirmatory question."""
    first = answers.confirm[0]
    found, verdict, addon = first.estimate, first.verdict, _common_addon(first.question)
    what_changes = f"{addon} changes {what.label}" if addon else f"{what.label} differs"
    if found is None or verdict is None:
        return f"Not answered yet whether {what_changes}: {answers.reason or 'runs that it needs are missing'}."
    unit = answers.unit_of(first.question)
    margin = f"by less than {first.question.margin or 0:g} {unit}"
    if verdict.shown:
        risen = f"{addon} {'raises' if found.mean > 0 else 'lowers'} {what.label}" if addon else f"{what.label} differs"
        said = risen + (f", {margin}" if verdict.equivalent else "")
    elif verdict.equivalent:
        said = f"{what_changes} {margin}, if at all"
    elif verdict.tested:
        said = f"Not settled whether {what_changes}"
    else:
        said = f"Too few test groups or seeds to test whether {what_changes}"
    size = f"{signed(found.mean, what.scale)} {unit}"
    over = " on average" if len(first.question.pairs) * len(first.question.regimes) > 1 else ""
    ends = f"95 % interval {interval(found, what.scale)}" if found.interval else "without an interval"
    return f"{said}: {size}{over}, {ends}."


def _common_addon(question: DeclaredQuestion) -> str:
    """Return the add-on, in words, that all pairs of a question have and leave out; empty where they are no twins."""
    left = {one.removeprefix(f"{other}+") if one.startswith(f"{other}+") else "" for one, other in question.pairs}
    return addon_words(left.pop()) if len(left) == 1 else ""


def _twins(analysis: Analysis) -> str:
    """Return in how many pairs of twins the add-on is better and worse, and how many are not settled."""
    label, sign = analysis.measure.label, analysis.measure.sign
    pairs = [
        one for section in analysis.sections for one in section.contrasts if one.kind == "twin" and one.against_twin
    ]
    found = [(one.holm_p, sign * one.difference.estimate.mean) for one in pairs if one.difference is not None]
    tested = [(p, mean) for p, mean in found if p is not None]
    if not found:
        return "Only a leaderboard: " + (
            f"none of {_counted(len(pairs), 'pair')} can be compared."
            if pairs
            else "no method is here both with and without an add-on."
        )
    better, worse = (sum(p < LEVEL and way * mean > 0 for p, mean in tested) for way in (1, -1))
    of_pairs = f"of {_counted(len(found), 'pair')}"
    if not tested:
        higher = sum(mean > 0 for _, mean in found)
        return f"Estimates only: {label} is better with the add-on in {higher} {of_pairs}, untested."
    if not better + worse:
        return f"Not settled whether the add-on changes {label}: shown in none {of_pairs}."
    said = " and ".join(f"{word} in {count}" for word, count in (("better", better), ("worse", worse)) if count)
    rest = len(found) - better - worse
    return f"With the add-on {label} is {said} {of_pairs}; " + (
        f"not settled in {rest}." if rest else "all are settled."
    )


def headline(contrast: Contrast, where: str, what: Metric, noun: str = "image", over_classes: bool = False) -> str:
    """Return a contrast in one sentence.

    Parameters
    ----------
    contrast : Contrast
    where : str
        Data set and regime, 'PH2, 28 labels'.
    what : Metric
    noun : str
        What is tested one by one: 'image' or 'volume'.
    over_classes : bool
        Whether `what` is a mean over several classes.

    Returns
    -------
    str
        'FixMatch + QW against FixMatch on PH2, 28 labels: +1.3 Dice points, CI 0.4 to 2.2; 100 images, 3 seeds;
        one-sided p 0.01.' Where there is no difference, why not.
    """
    if contrast.name == contrast.reference:
        subject = f"{name_words(contrast.name)} on {where}"
    else:
        subject = f"{name_words(contrast.name)} against {name_words(contrast.reference)} on {where}"
    if contrast.refused:
        return f"{subject}: refused, {contrast.refused}."
    if contrast.difference is None:
        return f"{subject}: {contrast.missing}."
    return f"{subject}: {_claim(contrast.difference, what, noun, over_classes, contrast.tested)}."


def _claim(scores: Scores, what: Metric, noun: str, over_classes: bool, tested: bool) -> str:
    found = scores.estimate
    parts = [_amount(found, what, over_classes)]
    images = _counted(scores.images, noun)
    if found.groups != scores.images:
        images += f" in {_counted(found.groups, 'group')}"
    parts += [f"{images}, {_counted(found.seeds, 'seed')}", _doubt(found, tested)]
    return "; ".join(parts)


def _amount(found: Estimate, what: Metric, over_classes: bool) -> str:
    """Return a difference as text: '+1.3 Dice points, CI 0.4 to 2.2'."""
    size = signed(found.mean, what.scale)
    text = f"{size} {what.label} points" if what.unit == "%" else f"{size} {what.unit} {what.label}"
    text += ", mean over classes" if over_classes else ""
    return text + (f", CI {interval(found, what.scale)}" if found.interval else ", no CI")


def _doubt(found: Estimate, tested: bool) -> str:
    if not tested:
        return "an estimate that is not tested"
    if found.p_one_sided is None:
        return "p is withheld"
    return f"one-sided p {probability(found.p_one_sided)}"


def details(contrast: Contrast, what: Metric) -> list[str]:
    """Return what else is known of a difference, a sentence each; nothing where there is no difference."""
    if contrast.difference is None:
        return []
    found = contrast.difference.estimate
    lines = []
    if not what.higher_is_better:
        lines.append(f"Lower {what.label} is better: a negative difference is a gain.")
    lines += _test(found, contrast.holm_p)
    if contrast.improvement is not None:
        share = number(contrast.improvement, digits=2)
        lines.append(f"In one run of each, a test group does better with probability {share} (that of improvement).")
    if contrast.effect is not None:
        lines.append(f"Effect size: {number(contrast.effect, digits=2)} standard deviations over test groups.")
    if contrast.headroom is not None:
        lines.append(
            f"The difference covers {number(contrast.headroom, 100, 0)} % of the distance from supervised training "
            "with these labels to supervised training with all labels."
        )
    return lines


def _test(found: Estimate, holm_p: float | None) -> list[str]:
    lines = _withheld(found)
    if found.p is None or holm_p is None:
        return lines
    told = "tell" if holm_p < LEVEL else "do not tell"
    lines.append(
        f"{_p(found.p)}; adjusted by Holm's method for all comparisons of its kind in the report, {_p(holm_p)}: the "
        f"data {told} the two apart at the 5 % level."
    )
    if found.wilcoxon_p is not None:
        lines.append(
            f"Wilcoxon's signed-rank test on the means of test groups gives {_p(found.wilcoxon_p)}; it does not "
            "see how much results change from seed to seed."
        )
    return lines


def _withheld(found: Estimate) -> list[str]:
    """Return what of an estimate is withheld and why, a sentence each."""
    reasons = [part.replace("p withheld:", "p is withheld:") for part in found.reason.split("; ") if part]
    return [f"{part if part.startswith('p ') else part[0].upper() + part[1:]}." for part in reasons]


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {probability(value)}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
