"""Rows of the leaderboard and of the list of comparisons, for the pages and as data."""

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from qgbench.report.analysis import Analysis, Contrast, Scores
from qgbench.report.collect import Name, Setting
from qgbench.report.page.charts import Axis, Bar, bar, bar_axis
from qgbench.report.page.names import contrast_slug, run_slug
from qgbench.report.page.words import addon_words, method_words, regime_words


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
    bar : Bar
    twin : Contrast or None
        With the same cell without an add-on; None for a cell without one.
    twin_page : str
        File name, without its folder and ending.
    twin_bar : Bar or None
    runs : list of (int, str)
        Seed and page of each run.
    disputed : frozenset of int
        Seeds of records that their rerun disagrees with.
    """

    setting: Setting
    name: Name
    scores: Scores
    best: bool
    bar: Bar
    twin: Contrast | None
    twin_page: str
    twin_bar: Bar | None
    runs: list[tuple[int, str]]
    disputed: frozenset[int]


@dataclass(frozen=True, eq=False)
class Comparison:
    """A line of the list of comparisons."""

    setting: Setting
    contrast: Contrast
    page: str
    bar: Bar | None


@dataclass(frozen=True)
class Filter:
    """A choice among the values of one column: pairs of value and words."""

    key: str
    label: str
    options: list[tuple[str, str]]


@dataclass(frozen=True, eq=False)
class Board:
    """Both lists, their axes and filters."""

    rows: list[Row]
    comparisons: list[Comparison]
    score_axis: Axis
    gain_axis: Axis
    filters: list[Filter]


def board(analysis: Analysis, titles: dict[str, str]) -> Board:
    """Lay out all cells and contrasts; `titles` gives the data sets' titles by name."""
    what = analysis.measure
    found = [scores.estimate for section in analysis.sections for scores in section.cells.values()]
    gains = [c.difference.estimate for s in analysis.sections for c in s.contrasts if c.difference is not None]
    score_axis, gain_axis = bar_axis(found, what.scale), bar_axis(gains, what.scale, zero=True)
    rows, comparisons = [], []
    for section in analysis.sections:
        twins = {}
        for contrast in section.contrasts:
            page = contrast_slug(section.setting, contrast)
            drawn = None if contrast.difference is None else bar(contrast.difference.estimate, what.scale, gain_axis)
            comparisons.append(Comparison(section.setting, contrast, page, drawn))
            if contrast.kind != "asked" and contrast.reference == contrast.name.without_addon:
                twins[contrast.name] = comparisons[-1]
        runs: dict[Name, list[tuple[int, str]]] = {}
        for run in sorted(section.runs, key=lambda run: run.seed):
            runs.setdefault(Name.of(run.record.cell), []).append((run.seed, run_slug(run)))
        best = set(section.best)
        for name, scores in section.cells.items():
            twin = twins.get(name) if name.addon else None
            rows.append(
                Row(
                    setting=section.setting,
                    name=name,
                    scores=scores,
                    best=name in best,
                    bar=bar(scores.estimate, what.scale, score_axis),
                    twin=twin.contrast if twin else None,
                    twin_page=twin.page if twin else "",
                    twin_bar=twin.bar if twin else None,
                    runs=runs[name],
                    disputed=frozenset(r.seed for r in section.runs if Name.of(r.record.cell) == name and r.disputed),
                )
            )
    return Board(rows, comparisons, score_axis, gain_axis, _filters(analysis, titles))


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


def board_json(rows: Sequence[Row], measure: str) -> str:
    """Write the leaderboard with full precision, as JSON: a list of objects."""
    return json.dumps([_flat(row, measure) for row in rows], indent=1, ensure_ascii=True) + "\n"


_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def board_csv(rows: Sequence[Row], measure: str) -> str:
    """Write the leaderboard with full precision, as CSV for people.

    Spreadsheet programs run a cell that begins with ``=``, ``+``, ``-``, ``@``, a tab or a line break as a formula:
    such a text gets an apostrophe in front. Programs read `board_json`, where names are as they are.
    """
    text = io.StringIO()
    guarded = [{key: _no_formula(value) for key, value in _flat(row, measure).items()} for row in rows]
    pd.DataFrame(guarded).to_csv(text, index=False, float_format="%.17g")
    return text.getvalue()


def _no_formula(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _flat(row: Row, measure: str) -> dict[str, Any]:
    low, high = row.scores.estimate.interval or (None, None)
    gain = row.twin.difference.estimate if row.twin is not None and row.twin.difference is not None else None
    gain_low, gain_high = (gain.interval if gain is not None else None) or (None, None)
    reasons = [row.scores.estimate.reason, f"refused: {row.twin.refused}" if row.twin and row.twin.refused else ""]
    return {
        **row.setting._asdict(),
        **row.name._asdict(),
        "label": method_words(row.name.method),
        "measure": measure,
        "mean": row.scores.estimate.mean,
        "ci_low": low,
        "ci_high": high,
        "best": row.best,
        "difference": None if gain is None else gain.mean,
        "difference_ci_low": gain_low,
        "difference_ci_high": gain_high,
        "p_withheld": None if gain is None else gain.p_withheld,
        "p": None if gain is None else gain.p,
        "p_holm": None if gain is None or row.twin is None else row.twin.holm_p,
        "p_false": None if gain is None else gain.p_false,
        "hd95": row.scores.means["hd95"],
        "hd95_percent": row.scores.means["hd95_percent"],
        "missed": row.scores.means["missed"],
        "seeds": " ".join(str(seed) for seed, _ in row.runs),
        "images": row.scores.images,
        "groups": len(row.scores.groups),
        "reason": "; ".join(filter(None, reasons)),
        "runs": " ".join(f"data/{page}" for _, page in row.runs),
    }
