"""The short leaderboard: methods without and with an add-on, over the settings that a report is mainly about."""

from collections.abc import Sequence
from dataclasses import dataclass

from qgbench.report.across import Across, by_set
from qgbench.report.analysis import Analysis
from qgbench.report.contrasts import is_control
from qgbench.report.scores import Scores
from qgbench.report.sections import Section
from qgbench.spec.arm import ArmName
from qgbench.stats.crossed import Estimate
from qgbench.stats.sets import these_sets


@dataclass(frozen=True, eq=False)
class Standing:
    """A method without and with one add-on: means over data sets with equal weights, in the measure's own unit.

    Attributes
    ----------
    name : ArmName
        Without the add-on.
    addon : str
        Empty where the method has none.
    plain, guided : Estimate or None
        Without and with it.
    gain : Estimate or None
        With it minus without; None where one is missing or the comparison is refused.
    """

    name: ArmName
    addon: str
    plain: Estimate | None
    guided: Estimate | None
    gain: Estimate | None


@dataclass(frozen=True, eq=False)
class Standings:
    """Rows, the best first, and the sections that all of them are means over; `across` is what holds over these."""

    sections: list[Section]
    across: Across | None
    rows: list[Standing]


def standings(analysis: Analysis) -> Standings:
    """Return the methods over the settings of the suite's first question, else over the most that have cells in common.

    Rows are of cells that all of these settings have; controls of the score are left out.
    """
    sections, across = _scope(analysis)
    names = {name for section in sections for name in section.cells}
    shown = sorted((name for name in names if not is_control(name.addon)), key=lambda name: name.order)
    guided = {name.without_addon for name in shown if name.addon}
    rows = [_standing(name, sections) for name in shown if name.addon or name not in guided]
    sign = analysis.measure.sign
    found = [row for row in rows if row.plain or row.guided]
    return Standings(sections, across, sorted(found, key=lambda row: -max(_means(row, sign))))


def _means(row: Standing, sign: int) -> list[float]:
    return [sign * one.mean for one in (row.plain, row.guided) if one is not None]


def _scope(analysis: Analysis) -> tuple[list[Section], Across | None]:
    across = max(analysis.across, key=lambda one: len(one.names) * len(one.settings), default=None)
    if analysis.answers is not None and analysis.answers.all:
        asked = analysis.answers.all[0].question
        sides = {dataset: regimes[0] for dataset, regimes in asked.regimes.items()}
        found = [
            section
            for section in analysis.sections
            if section.setting.arch in asked.archs and sides.get(section.setting.dataset) == section.setting.regime
        ]
        if found and len({section.measure.unit for section in found}) == 1:
            return found, None
    if across is not None and across.names:
        return [section for section in analysis.sections if section.setting in across.settings], across
    largest = max(analysis.sections, key=lambda section: len(section.cells), default=None)
    return [] if largest is None else [largest], None


def _standing(name: ArmName, sections: Sequence[Section]) -> Standing:
    def mean(of: ArmName) -> Estimate | None:
        return _over_sets(sections, [section.cells.get(of) for section in sections])

    gains = [
        next((one.difference for one in section.contrasts if one.name == name and one.against_twin), None)
        for section in sections
    ]
    return Standing(
        name=name.without_addon,
        addon=name.addon,
        plain=mean(name.without_addon),
        guided=mean(name) if name.addon else None,
        gain=_over_sets(sections, gains) if name.addon else None,
    )


def _over_sets(sections: Sequence[Section], scores: Sequence[Scores | None]) -> Estimate | None:
    """Return the mean over data sets; None where a section has no such scores."""
    cells = [(section.setting, one) for section, one in zip(sections, scores, strict=True) if one is not None]
    tables = by_set(cells) if len(cells) == len(sections) else None
    return None if tables is None else these_sets(*tables, tested=False)
