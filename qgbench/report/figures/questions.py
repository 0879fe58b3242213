"""A suite's questions in one picture: the answer to each over data sets, and inside every data set."""

import math
from functools import partial
from typing import TYPE_CHECKING, Any

from qgbench.report.across import ROPE
from qgbench.report.analysis import Analysis
from qgbench.report.declared import Answer
from qgbench.report.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    LIGHT_GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    Plan,
    add_legend,
    blank,
    fitted,
    legend_height,
    line_handle,
    place,
    wrapped,
    write,
)
from qgbench.report.measures import Measure
from qgbench.report.wording import number, p_words, signed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTION = (
    "Answers to the questions that the suite asks, the primary one first. Diamonds: mean difference over pairs of "
    "cells and data sets, as wide as its 95 % confidence interval. Small markers: the mean inside each data set, "
    "without its interval; an arrow marks one beyond the axis. p is adjusted by Holm's method for all questions but "
    "the primary one, whose p is its own (*); where it is withheld, the diamond is hollow: its interval allows no "
    "verdict either. Grey band, for Dice: differences of one point or less."
)

_LABEL, _PLOT, _INTERVAL = 2.95, 2.1, 1.15
_ROW = 0.172
_HEIGHT = 47.0  # rows of one file, more or less, a row of two lines counting more
_TWO_LINES = 1.7
_COLUMNS = 4  # of the legend
_HEADER, _FOOTER = 0.22, 0.42
_DIAMOND: dict[str, Any] = {"facecolor": BLACK, "linewidth": 0}
_OPEN_DIAMOND: dict[str, Any] = {
    "facecolor": "white",
    "edgecolor": BLACK,
    "linewidth": 0.6,
}  # its interval allows no verdict
_LOOKS = ((BLUE, "o"), (VERMILLION, "s"), (GREEN, "^"), (ORANGE, "v"), (PURPLE, "P"), (SKY, "X"), (GREY, "<"))


def plan(analysis: Analysis) -> Plan:
    """Lay out every question that has an answer, as many in a file as a page is high."""
    if analysis.answers is None:
        return Plan([], ["questions are asked by a suite: report --suite"])
    found = [analysis.answers.primary, *analysis.answers.others]
    shown = [one for one in found if one.estimate is not None and one.estimate.interval is not None]
    if not shown:
        return Plan([], ["no question of the suite has an answer yet"])
    datasets = list(dict.fromkeys(dataset for one in shown for dataset in one.by_dataset))
    looks = {dataset: _LOOKS[index % len(_LOOKS)] for index, dataset in enumerate(datasets)}
    limit = analysis.measure.scale * _limit(shown)
    left_out = [f"questions without an answer: {len(found) - len(shown)}"] if len(shown) < len(found) else []
    return Plan([partial(_draw, part, analysis.measure, limit, looks) for part in _sheets(shown)], left_out)


def _lines(answer: Answer) -> list[str]:
    """Break a question into one line or two."""
    return wrapped(answer.question.text, _LABEL - 0.15, most=2)


def _row_height(answer: Answer) -> float:
    return _TWO_LINES if len(_lines(answer)) > 1 else 1.0


def _sheets(answers: list[Answer]) -> list[list[Answer]]:
    """Divide them among as few files as hold them, evenly."""
    heights = [_row_height(one) for one in answers]
    total = sum(heights)
    parts: list[list[Answer]] = [[] for _ in range(math.ceil(total / _HEIGHT))]
    middles = (sum(heights[:index]) + own / 2 for index, own in enumerate(heights))
    for one, middle in zip(answers, middles, strict=True):
        parts[int(len(parts) * middle / total)].append(one)
    return parts


def _limit(answers: list[Answer]) -> float:
    """Choose how far the axis goes on either side: all intervals over data sets are inside."""
    ends = [abs(end) for one in answers if one.estimate is not None for end in one.estimate.interval or ()]
    return 1.08 * max(*ends, 1e-6)


def _draw(answers: list[Answer], what: Measure, limit: float, looks: dict[str, tuple[str, str]]) -> "Figure":
    heights = [_row_height(one) for one in answers]
    middles = [sum(heights[:index]) + own / 2 for index, own in enumerate(heights)]
    figure = blank(_HEADER + _ROW * sum(heights) + _FOOTER + legend_height(1 + len(looks), _COLUMNS))
    axes = place(figure, _LABEL, _HEADER, _PLOT, _ROW * sum(heights))
    axes.set(xlim=(-limit, limit), ylim=(sum(heights), 0))
    axes.set_yticks(middles, ["\n".join(_lines(one)) for one in answers], linespacing=1.1)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.axvline(0, color=BLACK, linewidth=0.7, zorder=1)
    if what.name == "dice":
        band = min(ROPE * what.scale, limit)
        axes.axvspan(-band, band, color=LIGHT_GREY, linewidth=0, alpha=0.6, zorder=0, gid="rope")
    better = "right" if what.higher_is_better else "left"
    axes.set_xlabel(fitted(f"Difference of {what.label} ({what.difference_unit}); {better} of 0 is better", 2 * _PLOT))
    interval, p = _LABEL + _PLOT + 0.1, _LABEL + _PLOT + 0.1 + _INTERVAL
    for left, text in ((interval, f"{what.difference_unit} [95 % CI]"), (p, "p (Holm)")):
        write(figure, left, _HEADER, text, color=GREY, va="bottom")
    for row, one in zip(middles, answers, strict=True):
        found = one.estimate
        assert found is not None
        assert found.interval is not None
        low, mean, high = (what.scale * value for value in (found.interval[0], found.mean, found.interval[1]))
        corners = [(low, row), (mean, row - 0.3), (high, row), (mean, row + 0.3)]
        look = _OPEN_DIAMOND if found.p_withheld else _DIAMOND
        axes.fill(*zip(*corners, strict=True), **look, alpha=0.75, zorder=2, gid="answer")
        for index, (dataset, (color, marker)) in enumerate(looks.items()):
            if dataset not in one.by_dataset:
                continue
            inside = one.by_dataset[dataset]
            value = what.scale * inside.mean
            beyond = abs(value) > limit
            axes.plot(
                [max(-limit, min(limit, value))],
                [row + 0.5 * ((index + 0.5) / len(looks) - 0.5)],  # none hides another
                color=color,
                marker=(4 if value < 0 else 5) if beyond else marker,  # CARETLEFT, CARETRIGHT
                markeredgecolor="white",
                markeredgewidth=0.3,
                markersize=3,
                linestyle="none",
                clip_on=False,
                zorder=3,
                gid="dataset",
            )
        sides = [f"{signed(mean)} [{number(low)}, {number(high)}]", _p(one)]
        for left, text in zip((interval, p), sides, strict=True):
            x = (left - _LABEL) / _PLOT
            axes.text(x, row, text, transform=axes.get_yaxis_transform(), va="center_baseline")
    handles = [line_handle(BLACK, "D", "none"), *(line_handle(*look, "none") for look in looks.values())]
    add_legend(figure, handles, ["mean over data sets", *looks], _COLUMNS)
    return figure


def _p(answer: Answer) -> str:
    """Write p adjusted; of the primary question, which needs no adjustment, as it is, with an asterisk."""
    assert answer.estimate is not None
    if answer.holm_p is None and answer.estimate.p is not None:
        return f"{p_words(answer.estimate.p)}*"
    return p_words(answer.holm_p)
