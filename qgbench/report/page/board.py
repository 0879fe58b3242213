"""Rows of the leaderboard and of the list of comparisons, for the pages and as a CSV for people."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from qgbench.report.analysis import Analysis
from qgbench.report.collect import Name, Setting
from qgbench.report.contrasts import Contrast
from qgbench.report.page.names import contrast_slug, run_slug
from qgbench.report.page.words import addon_words, method_words, regime_words
from qgbench.report.scores import Scores


@dataclass(frozen=True, eq=False)
class Comparison:
    """A line of the list of comparisons; `page` is a file's name, without its folder and ending."""

    setting: Setting
    contrast: Contrast
    page: str


@dataclass(frozen=True, eq=False)
class Row:
    """A line of the leaderboard.

    Attributes
    ----------
    setting : Setting
    name : Name
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
    name: Name
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
    """Lay out all cells and contrasts; `titles` gives the data sets' titles by name."""
    rows, comparisons = [], []
    for section in analysis.sections:
        own = [Comparison(section.setting, c, contrast_slug(section.setting, c)) for c in section.contrasts]
        comparisons += own
        twins = {one.contrast.name: one for one in own if one.contrast.against_twin}
        runs = section.runs_of()
        for name, scores in section.cells.items():
            by_seed = sorted(runs[name], key=lambda run: run.seed)
            rows.append(
                Row(
                    setting=section.setting,
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
    """Name the protocol, its version and the encoder."""
    return f"{setting.protocol} v{setting.protocol_version}, {setting.encoder}"


def _filter(key: str, label: str, values: Iterable[str], words: dict[str, str]) -> Filter:
    return Filter(key, label, [(value, words.get(value, value)) for value in sorted(set(values))])


_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def board_csv(rows: Sequence[Row], measure: str) -> str:
    """Return the leaderboard with full precision, as CSV for people.

    Spreadsheet programs run a cell that begins with ``=``, ``+``, ``-``, ``@``, a tab or a line break as a formula:
    such a text gets an apostrophe in front. Programs read ``results.csv`` or ``report.json``, where names are as they
    are.
    """
    guarded = [{key: _no_formula(value) for key, value in _flat(row, measure).items()} for row in rows]
    return pd.DataFrame(guarded).to_csv(index=False, float_format="%.17g")


def _no_formula(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _flat(row: Row, measure: str) -> dict[str, Any]:
    low, high = row.scores.estimate.interval or (None, None)
    contrast = row.twin.contrast if row.twin is not None else None
    gain = contrast.difference.estimate if contrast is not None and contrast.difference is not None else None
    gain_low, gain_high = (gain.interval if gain is not None else None) or (None, None)
    reasons = [row.scores.estimate.reason, f"refused: {contrast.refused}" if contrast and contrast.refused else ""]
    return {
        **row.setting._asdict(),
        **row.name._asdict(),
        "label": method_words(row.name.method),
        "measure": measure,
        "mean": row.scores.estimate.mean,
        "ci_low": low,
        "ci_high": high,
        "best": row.best,
        "difference": gain and gain.mean,
        "difference_ci_low": gain_low,
        "difference_ci_high": gain_high,
        "p_withheld": gain and gain.p_withheld,
        "p": gain and gain.p,
        "p_holm": gain and contrast and contrast.holm_p,
        "p_false": gain and gain.p_false,
        **{key: row.scores.means[key] for key in ("hd95", "hd95_percent", "missed")},
        "seeds": " ".join(str(seed) for seed, _ in row.runs),
        "images": row.scores.images,
        "groups": len(row.scores.groups),
        "reason": "; ".join(filter(None, reasons)),
        "runs": " ".join(f"data/{page}" for _, page in row.runs),
    }
