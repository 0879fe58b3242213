"""Forest plot: every contrast with its interval, and each add-on's combined estimate."""

import math
from dataclasses import dataclass
from functools import partial
from string import ascii_lowercase
from typing import TYPE_CHECKING, Literal

from qgbench.metrics.table import Metric
from qgbench.report.across import Across, AddonAcross
from qgbench.report.analysis import Analysis
from qgbench.report.contrasts import Contrast, Kind
from qgbench.report.figures import style
from qgbench.report.figures.differences import bar, beside, diamond, difference_axes, interval_words
from qgbench.report.wording import pair_words, setting_words, tested_words
from qgbench.stats.crossed import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CAPTION = (
    "Differences of every contrast, by setting: with the add-on minus without (twins), QW by g minus QW by another "
    "score (controls), and pairs asked for. Unit: test groups x seeds; bars are 95 % confidence intervals of the model "
    "with crossed random effects of both; an arrow marks an interval that goes on beyond the axis. p, of what "
    "is tested, is adjusted by Holm's method for all of its kind in the report. Diamonds: each add-on's mean over "
    "methods and these data sets, as wide as its interval. Hollow and grey: the interval allows no verdict. Grey band, "
    "for Dice: differences of one point or less."
)

_LABEL, _PLOT, _INTERVAL, _P, _SIZE = 2.15, 2.15, 1.2, 0.72, 0.5  # widths of the columns; 0.18 is left for gaps
_ROW = 0.165
_ROWS = 48  # of one file
_HEADER, _FOOTER = 0.42, 0.4
_WHITE = {"facecolor": "white", "linewidth": 0, "pad": 0.8}
_LOOKS: dict[Kind, tuple[str, str, str]] = {  # colour, marker, name
    "twin": (style.BLUE, "o", "twins: add-on minus none"),
    "control": (style.VERMILLION, "s", "controls of the score"),
    "asked": (style.GREEN, "^", "asked for"),
}


@dataclass(frozen=True)
class _Row:
    """One line of the plot: a heading, an estimate, or words where there is none."""

    label: str
    kind: Kind | Literal["heading", "combined"]
    estimate: Estimate | None = None
    p: str = ""
    words: str = ""
    note: str = ""


def plan(analysis: Analysis) -> style.Plan:
    """Return a plan of all contrasts, `_ROWS` lines a file; headings are repeated where a setting goes on."""
    blocks = [
        [
            _Row(setting_words(section.setting, analysis), "heading"),
            *(_contrast_row(contrast) for contrast in section.contrasts),
        ]
        for section in analysis.sections
        if section.contrasts
    ]
    blocks += [
        [_Row(_scope(across, analysis), "heading"), *(_combined_row(addon) for addon in across.addons)]
        for across in analysis.across
        if across.addons
    ]
    estimates = [row.estimate for block in blocks for row in block if row.estimate is not None]
    if not estimates:
        return style.Plan([], ["no contrast has a difference"])
    limit = _limit(estimates) * analysis.measure.scale
    return style.Plan([partial(_draw, page, style.on_axes(analysis), limit) for page in _pages(blocks)])


def contrast_words(contrast: Contrast) -> str:
    """Return a contrast in a line of words."""
    if contrast.kind == "twin":
        return str(contrast.name)
    return ", ".join(filter(None, pair_words(contrast)))


def _contrast_row(contrast: Contrast) -> _Row:
    label = contrast_words(contrast)
    if contrast.difference is None:
        return _Row(
            label, contrast.kind, words=f"refused: {contrast.refused}" if contrast.refused else contrast.missing
        )
    estimate = contrast.difference.estimate
    if not math.isfinite(estimate.mean):
        return _Row(label, contrast.kind, words="the difference is not a finite number")
    return _Row(label, contrast.kind, estimate, tested_words(estimate, contrast.holm_p), note=estimate.reason)


def _scope(across: Across, analysis: Analysis) -> str:
    words = "combined over methods and settings"
    return words if len(analysis.across) == 1 else f"{words}: {across.scope}"


def _combined_row(addon: AddonAcross) -> _Row:
    count = len(addon.methods)
    settings = len({setting for setting, _ in addon.contrasts})
    label = f"{addon.addon}: methods {count}, settings {settings}"
    estimate = addon.combined
    if estimate is None or not math.isfinite(estimate.mean):
        words = "no method has a difference in every setting" if not count else "not estimable from these records"
        return _Row(label, "combined", words=f"no combined estimate: {words}")
    note = f"{estimate.reason}; tables count the settings above that have the add-on" if estimate.reason else ""
    return _Row(label, "combined", estimate, tested_words(estimate, None), note=note)


def _limit(estimates: list[Estimate]) -> float:
    """Return how far the axis goes on either side: all means are inside, and all intervals but the widest few."""
    reach = sorted(
        max(abs(end) for end in estimate.interval) if estimate.interval else abs(estimate.mean)
        for estimate in estimates
    )
    farthest = max(abs(estimate.mean) for estimate in estimates)
    common = min(reach[math.ceil(0.9 * (len(reach) - 1))], 4 * reach[len(reach) // 2])
    return 1.05 * max(1.1 * farthest, common, 1e-6)


def _pages(blocks: list[list[_Row]]) -> list[list[_Row]]:
    pages: list[list[_Row]] = [[]]
    for heading, *rows in blocks:
        if len(pages[-1]) + 2 > _ROWS:
            pages.append([])
        pages[-1].append(heading)
        for row in rows:
            if len(pages[-1]) == _ROWS:
                pages.append([_Row(f"{heading.label} (continued)", "heading")])
            pages[-1].append(row)
    return pages


def _draw(rows: list[_Row], what: Metric, limit: float) -> "Figure":
    notes: dict[str, str] = {}
    for row in rows:
        if row.note:
            notes.setdefault(row.note, f"({_letter(len(notes))})")
    lines = [line for note, mark in notes.items() for line in style.wrapped(f"{mark} {note}")]
    height = _HEADER + _ROW * len(rows) + _FOOTER + style.LINE * len(lines)
    figure = style.blank(height)
    axes = difference_axes(figure, _LABEL, _HEADER, _PLOT, _ROW * len(rows), limit, what)
    axes.set(ylim=(len(rows) - 0.5, -0.5), yticks=[])
    _head(figure, rows, what)
    for index, row in enumerate(rows):
        if row.kind == "heading":
            heading = style.fitted(row.label, style.WIDTH - 0.2, weight="bold")
            beside(axes, index, 0.06 - _LABEL, heading, fontweight="bold", bbox=_WHITE)
            continue
        beside(axes, index, 0.14 - _LABEL, style.fitted(row.label, _LABEL - 0.2))
        if row.estimate is None:
            beside(axes, index, 0.05, style.fitted(row.words, style.WIDTH - _LABEL - 0.1), bbox=_WHITE)
            continue
        beside(axes, index, _PLOT + 0.1, interval_words(row.estimate, what))
        mark = f" {notes[row.note]}" if row.note else ""
        beside(axes, index, _PLOT + 0.1 + _INTERVAL, row.p + mark)
        size = f"{row.estimate.groups} × {row.estimate.seeds}"
        beside(axes, index, style.WIDTH - _LABEL - 0.06, size, ha="right")
        _mark(axes, index, row, what, limit)
    style.write_lines(figure, height - style.LINE * len(lines) - 0.02, lines)
    return figure


def _letter(index: int) -> str:
    return ascii_lowercase[index] if index < 26 else str(index + 1)


def _head(figure: "Figure", rows: list[_Row], what: Metric) -> None:
    """Write the columns' names, and what the markers mean."""
    unit = what.difference_unit
    for left, text, side in (
        (_LABEL + _PLOT + 0.1, f"{unit} [95 % CI]", "left"),
        (_LABEL + _PLOT + 0.1 + _INTERVAL, "p (Holm)", "left"),
        (style.WIDTH - 0.06, "groups\n× seeds", "right"),
    ):
        style.write(figure, left, _HEADER, text, color=style.GREY, ha=side, va="bottom")
    looks = [look for kind, look in _LOOKS.items() if any(row.kind == kind and row.estimate for row in rows)]
    if any(row.kind == "combined" and row.estimate for row in rows):
        looks.append((style.BLACK, "D", "combined"))
    figure.legend(
        [style.line_handle(color, marker, "-") for color, marker, _ in looks],
        [name for *_, name in looks],
        loc="upper left",
        bbox_to_anchor=(0.06 / style.WIDTH, 1 - 0.03 / figure.get_figheight()),
        ncols=len(looks),
        columnspacing=1.2,
        handlelength=1.6,
    )


def _mark(axes: "Axes", index: int, row: _Row, what: Metric, limit: float) -> None:
    assert row.estimate is not None
    if row.kind == "combined":
        diamond(axes, row.estimate, index, 0.36, what, zorder=3, gid="combined")
        return
    assert row.kind != "heading"
    color, marker, _ = _LOOKS[row.kind]
    bar(axes, row.estimate, index, limit, what, (color, marker))
