"""Forest plot: every contrast with its interval, and each add-on's combined estimate."""

import math
from dataclasses import dataclass
from functools import partial
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any, Literal

from qgbench.report.across import ROPE, Across, AddonAcross
from qgbench.report.analysis import Analysis
from qgbench.report.contrasts import Contrast, Kind
from qgbench.report.figures.style import (
    BLACK,
    BLUE,
    FONT_SIZE,
    GREEN,
    GREY,
    LIGHT_GREY,
    LINE,
    VERMILLION,
    WIDTH,
    Plan,
    blank,
    fitted,
    line_handle,
    place,
    wrapped,
    write,
    write_lines,
)
from qgbench.report.measures import Measure
from qgbench.report.wording import number, p_words, pair_words, setting_words, signed
from qgbench.stats.crossed import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CAPTION = (
    "Differences of every contrast, by setting: with the add-on minus without (twins), QW by g minus QW by another "
    "score (controls), and pairs asked for. Unit: test groups x seeds; bars are 95 % confidence intervals of the model "
    "with crossed random effects of both; an arrow marks an interval that goes on beyond the axis. p is adjusted by "
    "Holm's method within a setting and kind (in a suite's report: over all). Diamonds: each add-on's mean over "
    "methods and settings, as wide as its interval. Hollow and grey: p is withheld, and the interval allows no verdict "
    "either. Grey band, for Dice: differences of one point or less."
)

_LABEL, _PLOT, _INTERVAL, _P, _SIZE = 2.15, 2.15, 1.2, 0.72, 0.5  # widths of the columns; 0.18 is left for gaps
_ROW = 0.165
_ROWS = 48  # of one file
_HEADER, _FOOTER = 0.42, 0.4
_WHITE = {"facecolor": "white", "linewidth": 0, "pad": 0.8}
_LOOKS: dict[Kind, tuple[str, str, str]] = {  # colour, marker, name
    "twin": (BLUE, "o", "twins: add-on minus none"),
    "control": (VERMILLION, "s", "controls of the score"),
    "asked": (GREEN, "^", "asked for"),
}


@dataclass(frozen=True)
class _Row:
    """One line of the plot: a heading, an estimate, or words where there is none."""

    label: str
    kind: Kind | Literal["heading", "combined"]
    estimate: Estimate | None = None
    p: float | None = None
    words: str = ""
    note: str = ""


def plan(analysis: Analysis) -> Plan:
    """Lay out all contrasts, `_ROWS` lines a file; headings are repeated where a setting goes on in the next."""
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
        return Plan([], ["no contrast has a difference"])
    limit = _limit(estimates) * analysis.measure.scale
    return Plan([partial(_draw, page, analysis.measure, limit) for page in _pages(blocks)])


def contrast_words(contrast: Contrast) -> str:
    """Name a contrast in a line."""
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
    return _Row(label, contrast.kind, estimate, contrast.holm_p, note=estimate.reason)


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
    note = "one test an add-on: p is not adjusted"
    if estimate.method == "t over sets":
        note += "; Student's t over the data sets' means"
    if estimate.p is None:
        note = f"{estimate.reason}; tables count the settings above that have the add-on"
    return _Row(label, "combined", estimate, estimate.p, note=note)


def _limit(estimates: list[Estimate]) -> float:
    """Choose how far the axis goes on either side: all means are inside, and all intervals but the widest few."""
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


def _draw(rows: list[_Row], what: Measure, limit: float) -> "Figure":
    notes: dict[str, str] = {}
    for row in rows:
        if row.note:
            notes.setdefault(row.note, f"({_letter(len(notes))})")
    lines = [line for note, mark in notes.items() for line in wrapped(f"{mark} {note}")]
    height = _HEADER + _ROW * len(rows) + _FOOTER + LINE * len(lines)
    figure = blank(height)
    axes = place(figure, _LABEL, _HEADER, _PLOT, _ROW * len(rows))
    axes.set(xlim=(-limit, limit), ylim=(len(rows) - 0.5, -0.5), yticks=[])
    axes.spines["left"].set_visible(False)
    axes.axvline(0, color=BLACK, linewidth=0.7, zorder=1)
    if what.name == "dice":
        band = ROPE * what.scale
        axes.axvspan(
            max(-band, -limit), min(band, limit), color=LIGHT_GREY, linewidth=0, alpha=0.6, zorder=0, gid="rope"
        )
    better = "right" if what.higher_is_better else "left"
    axes.set_xlabel(fitted(f"Difference of {what.label} ({what.difference_unit}); {better} of 0 is better", 2 * _PLOT))
    _head(figure, rows, what)
    for index, row in enumerate(rows):
        if row.kind == "heading":
            _write_row(axes, index, 0.06, fitted(row.label, WIDTH - 0.2, weight="bold"), fontweight="bold", bbox=_WHITE)
            continue
        _write_row(axes, index, 0.14, fitted(row.label, _LABEL - 0.2))
        if row.estimate is None:
            room = WIDTH - _LABEL - 0.1
            _write_row(axes, index, _LABEL + 0.05, fitted(row.words, room), bbox=_WHITE)
            continue
        _write_row(axes, index, _LABEL + _PLOT + 0.1, _interval_words(row.estimate, what))
        mark = f" {notes[row.note]}" if row.note else ""
        _write_row(axes, index, _LABEL + _PLOT + 0.1 + _INTERVAL, p_words(row.p) + mark)
        size = f"{row.estimate.groups} × {row.estimate.seeds}"
        _write_row(axes, index, WIDTH - 0.06, size, horizontalalignment="right")
        _mark(axes, index, row, what, limit)
    write_lines(figure, height - LINE * len(lines) - 0.02, lines)
    return figure


def _letter(index: int) -> str:
    return ascii_lowercase[index] if index < 26 else str(index + 1)


def _head(figure: "Figure", rows: list[_Row], what: Measure) -> None:
    """Write the columns' names, and what the markers mean."""
    unit = what.difference_unit
    for left, text, side in (
        (_LABEL + _PLOT + 0.1, f"{unit} [95 % CI]", "left"),
        (_LABEL + _PLOT + 0.1 + _INTERVAL, "p (Holm)", "left"),
        (WIDTH - 0.06, "groups\n× seeds", "right"),
    ):
        write(figure, left, _HEADER, text, color=GREY, ha=side, va="bottom")
    looks = [look for kind, look in _LOOKS.items() if any(row.kind == kind and row.estimate for row in rows)]
    if any(row.kind == "combined" and row.estimate for row in rows):
        looks.append((BLACK, "D", "combined"))
    figure.legend(
        [line_handle(color, marker, "-") for color, marker, _ in looks],
        [name for *_, name in looks],
        loc="upper left",
        bbox_to_anchor=(0.06 / WIDTH, 1 - 0.03 / figure.get_figheight()),
        ncols=len(looks),
        frameon=False,
        borderpad=0,
        borderaxespad=0,
        columnspacing=1.2,
        handlelength=1.6,
    )


def _write_row(axes: "Axes", index: int, left: float, text: str, **style: Any) -> None:
    """Write into a row, in inches from the left edge of the page."""
    axes.text(
        (left - _LABEL) / _PLOT,
        index,
        text,
        transform=axes.get_yaxis_transform(),
        fontsize=FONT_SIZE,
        verticalalignment="center_baseline",
        **style,
    )


def _interval_words(estimate: Estimate, what: Measure) -> str:
    mean = signed(estimate.mean, what.scale)
    if estimate.interval is None:
        return f"{mean} [none]"
    low, high = (number(end, what.scale) for end in estimate.interval)
    return f"{mean} [{low}, {high}]"


def _mark(axes: "Axes", index: int, row: _Row, what: Measure, limit: float) -> None:
    assert row.estimate is not None
    is_open = row.estimate.p_withheld
    mean = what.scale * row.estimate.mean
    low, high = (what.scale * end for end in row.estimate.interval or (row.estimate.mean, row.estimate.mean))
    if row.kind == "combined":
        corners = [(low, index), (mean, index - 0.36), (high, index), (mean, index + 0.36)]
        face, edge = ("white", GREY) if is_open else (BLACK, BLACK)
        axes.fill(*zip(*corners, strict=True), facecolor=face, edgecolor=edge, linewidth=0.6, zorder=3, gid="combined")
        return
    assert row.kind != "heading"
    color, marker, _ = _LOOKS[row.kind]
    color = GREY if is_open else color
    axes.plot([max(low, -limit), min(high, limit)], [index, index], color=color, linewidth=1.1, gid="interval")
    face = "white" if is_open else color
    axes.plot([mean], [index], color=color, marker=marker, markerfacecolor=face, linestyle="none", gid="mean", zorder=3)
    for end, arrow, beyond in ((-limit, 4, low < -limit), (limit, 5, high > limit)):  # CARETLEFT, CARETRIGHT
        if beyond:
            axes.plot([end], [index], color=color, marker=arrow, markersize=4, linestyle="none", clip_on=False)
