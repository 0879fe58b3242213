"""Numbers and names as tables, figures and pages write them."""

import math
from collections import defaultdict
from collections.abc import Iterable

from qgbench.metrics.table import Metric
from qgbench.report.analysis import Analysis
from qgbench.report.contrasts import Contrast, Kind
from qgbench.spec.run_spec import Setting
from qgbench.stats.crossed import MIN_GROUPS, Estimate
from qgbench.stats.sets import Population

MISSING = "--"
MARK = "†"
"""Behind an interval that allows no verdict."""
MARK_RULE = (
    f"{MARK}: one seed or fewer than {MIN_GROUPS} test groups; p is withheld, and the interval allows no verdict."
)
NOT_A_REPLICATION = {"small", "smoke"}
RISING = {("small", 3): {"cps": (1.80, 1.17, 2.43)}}
"""By protocol and version, what the last doubling to its steps still gained: methods, points, 95 % interval.

Points are of validation Dice, in `python perf/small_settings.py doubling`; those of its methods are here whose interval
lies above 0.
"""


def number(value: float | None, scale: float = 1.0, digits: int = 1) -> str:
    """Return a number times `scale`, rounded, with a true minus sign, none before a zero; a dash if not finite."""
    if value is None or not math.isfinite(value):
        return "\N{EN DASH}"
    text = f"{scale * value:.{digits}f}"
    if float(text) == 0:
        return text.removeprefix("-")
    return text.replace("-", "\N{MINUS SIGN}")


def signed(value: float, scale: float = 1.0, digits: int = 1) -> str:
    """Return a difference times `scale`, rounded, with its sign unless it rounds to zero."""
    text = number(value, scale, digits)
    return f"+{text}" if any(char in "123456789" for char in text) and text[0].isdigit() else text


def in_points(found: Estimate | None, what: Metric) -> str:
    """Return an estimate with its interval, in the unit that people read, and a mark if that allows no verdict."""
    if found is None:
        return MISSING
    if found.interval is None:
        return f"{what.scale * found.mean:.2f}"
    low, high = (what.scale * end for end in found.interval)
    return f"{what.scale * found.mean:.2f} [{low:.2f}, {high:.2f}]{MARK if found.p_withheld else ''}"


def p_words(value: float | None) -> str:
    """Return a p-value with three decimals, or that it is withheld."""
    if value is None:
        return "withheld"
    return f"{value:.3f}" if value >= 0.0005 else "<0.001"


def q_words(sets: Population | None) -> str:
    """Return Cochran's Q and, in brackets, its p; a dash where sets have no error of their own."""
    if sets is None or sets.cochran_q is None:
        return MISSING
    return f"{sets.cochran_q:.2f} ({p_words(sets.cochran_p)})"


def tested_words(found: Estimate, p: float | None) -> str:
    """Return a p-value of an estimate in words; a dash where nobody tests it."""
    return MISSING if p is None and not found.p_withheld else p_words(p)


def by_reason(found: Iterable[tuple[str, Estimate | None]]) -> list[str]:
    """Return why something of named estimates is withheld: one sentence a reason, with the names."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for name, estimate in found:
        if estimate is not None and estimate.reason:
            reasons[estimate.reason].append(name)
    return [f"{reason} ({', '.join(dict.fromkeys(names))})." for reason, names in reasons.items()]


def pair_words(contrast: Contrast) -> tuple[str, str]:
    """Return the method that both sides share, or '', and the two sides: their add-ons, or all of their names."""
    one, other = contrast.name, contrast.reference
    if one.without_addon != other.without_addon:
        return "", f"{one} : {other}"
    return str(one.without_addon), f"{one.addon or 'base'} : {other.addon or 'base'}"


def setting_words(setting: Setting, analysis: Analysis) -> str:
    """Return a setting's data set and regime, and whatever else differs within the analysis."""
    settings = [section.setting for section in analysis.sections]
    words = [setting.dataset, setting.regime]
    for part, text in (
        (("arch",), setting.arch),
        (("encoder",), setting.encoder),
        (("protocol", "protocol_version"), f"{setting.protocol} v{setting.protocol_version}"),
    ):
        if len({tuple(getattr(other, field) for field in part) for other in settings}) > 1:
            words.append(text)
    return ", ".join([*words, *own_unit(setting.dataset, analysis)])


def own_unit(dataset: str, analysis: Analysis) -> list[str]:
    """Return the unit that a data set has the measure in, where it differs within the analysis; else nothing."""
    units = {s.measure.unit: None for s in analysis.sections if s.setting.dataset == dataset}
    return [*units] if analysis.mixes_units else []


def tested_line(analysis: Analysis) -> str:
    """Return which comparisons of cells are tested, and how many."""
    words: dict[Kind, str] = {"twin": "pairs of twins", "asked": "pairs asked for by name"}
    tested = analysis.tested
    counted = " and ".join(f"{tested[kind]} {words[kind]}" for kind in words if tested.get(kind))
    said = (
        f"Tested are {counted}, each kind adjusted for its number by Holm's method" if counted else "No pair is tested"
    )
    others = "a suite says which questions are" if analysis.answers is not None else "controls of the score are not"
    return f"{said}; {others}, and what is not tested is an estimate with its interval."


def protocol_line(protocol: str, version: int) -> str:
    """Return the protocol and its version, what it is not, and which methods its steps do not settle."""
    line = f"protocol {protocol} v{version}"
    if protocol in NOT_A_REPLICATION:
        worth = "its scores mean nothing; " if protocol == "smoke" else ""
        line += (
            f": {worth}not a replication of the paper's experiments (96 px or less, EfficientNet-Lite0, few "
            "steps, stand-in sets and pools)"
        )
    if rising := RISING.get((protocol, version)):
        gains = (f"{method} by {gain:.1f} [{low:.1f}, {high:.1f}]" for method, (gain, low, high) in rising.items())
        line += "; still rising when its steps were doubled to this number, in points of validation Dice: "
        line += ", ".join(gains)
    return line


def protocol_lines(settings: Iterable[Setting]) -> list[str]:
    """Return a line for each protocol of some settings."""
    return [protocol_line(*one) for one in sorted({(s.protocol, s.protocol_version) for s in settings})]
