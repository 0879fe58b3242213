"""Rows of the leaderboard and of the list of comparisons."""

from collections.abc import Iterable
from dataclasses import dataclass

from qgbench.report.analysis import Analysis
from qgbench.report.contrasts import Contrast
from qgbench.report.page.names import contrast_slug, run_slug
from qgbench.report.page.words import addon_words, regime_words
from qgbench.report.scores import Scores
from qgbench.spec.arm import ArmName
from qgbench.spec.run_spec import Setting


@dataclass(frozen=True, eq=False)
class Comparison:
    """A line of the list of comparisons; `page` is a file's name, without its folder and ending."""

    setting: Setting
    contrast: Contrast
    page: str
    unit: str
    """Of the measure."""


@dataclass(frozen=True, eq=False)
class Row:
    """A line of the leaderboard.

    Attributes
    ----------
    setting : Setting
    unit : str
        Of the measure.
    distance_unit : str
    name : ArmName
    scores : Scores
    best : bool
        Not told apart from the best of its setting.
    twin : Comparison or None
        With the same cell without an add-on; None for a cell without one.
    runs : list of (int, str)
        Seed and page of each run.
    disputed : frozenset of int
        Seeds of records that their rerun disagrees with.
    """

    setting: Setting
    unit: str
    distance_unit: str
    name: ArmName
    scores: Scores
    best: bool
    twin: Comparison | None
    runs: list[tuple[int, str]]
    disputed: frozenset[int]


@dataclass(frozen=True)
class Filter:
    """A choice among the values of one column: pairs of value and words."""

    key: str
    label: str
    options: list[tuple[str, str]]


@dataclass(frozen=True, eq=False)
class Board:
    """Both lists and their filters."""

    rows: list[Row]
    comparisons: list[Comparison]
    filters: list[Filter]


def board(analysis: Analysis, titles: dict[str, str]) -> Board:
    """Return all cells and contrasts; `titles` gives the data sets' titles by name."""
    rows, comparisons = [], []
    for section in analysis.sections:
        unit = section.measure.unit
        own = [Comparison(section.setting, c, contrast_slug(section.setting, c), unit) for c in section.contrasts]
        comparisons += own
        twins = {one.contrast.name: one for one in own if one.contrast.against_twin}
        runs = section.runs_of()
        for name, scores in section.cells.items():
            by_seed = sorted(runs[name], key=lambda run: run.seed)
            rows.append(
                Row(
                    setting=section.setting,
                    unit=unit,
                    distance_unit=section.distance_unit,
                    name=name,
                    scores=scores,
                    best=name in section.best,
                    twin=twins.get(name) if name.addon else None,
                    runs=[(run.seed, run_slug(run)) for run in by_seed],
                    disputed=frozenset(run.seed for run in by_seed if run.disputed),
                )
            )
    return Board(rows, comparisons, _filters(analysis, titles))


def _filters(analysis: Analysis, titles: dict[str, str]) -> list[Filter]:
    settings = [section.setting for section in analysis.sections]
    addons = {name.addon for section in analysis.sections for c in section.contrasts for name in (c.name, c.reference)}
    filters = [
        _filter("dataset", "Data set", (s.dataset for s in settings), titles),
        _filter("regime", "Regime", (s.regime for s in settings), {s.regime: regime_words(s.regime) for s in settings}),
        _filter("arch", "Architecture", (s.arch for s in settings), {}),
        _filter("addon", "Add-on", (addon or NONE for addon in addons), {a: addon_words(a) for a in addons}),
    ]
    protocols = {protocol_words(s) for s in settings}
    if len(protocols) > 1:
        filters.append(_filter("protocol", "Protocol", protocols, {}))
    return filters


NONE = "none"
"""What the filter calls a cell without an add-on."""


def protocol_words(setting: Setting) -> str:
    """Return the protocol, its version and the encoder, as text."""
    return f"{setting.protocol} v{setting.protocol_version}, {setting.encoder}"


def _filter(key: str, label: str, values: Iterable[str], words: dict[str, str]) -> Filter:
    return Filter(key, label, [(value, words.get(value, value)) for value in sorted(set(values))])
