"""A suite's questions in pictures: those that are tested with every data set below them, and the others."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from qgbench.metrics.table import Metric
from qgbench.report.analysis import Analysis
from qgbench.report.declared import Answer
from qgbench.report.figures import style
from qgbench.report.figures.differences import bar, beside, diamond, difference_axes, interval_words
from qgbench.report.wording import p_words
from qgbench.stats.crossed import Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONFIRM_CAPTION = (
    "Answers to the questions that the suite tests, in their order. Diamonds: mean difference over pairs of cells and "
    "these data sets (over images or volumes of a test group, groups and seeds), as wide as its 95 % confidence "
    "interval. Below each, squares: the same mean inside each data set, with its 95 % interval; an arrow marks one "
    "that goes on beyond the axis. Hollow: the interval allows no verdict. Grey band, for Dice: differences of one "
    "point or less."
)
EXPLORATORY_CAPTION = (
    "Answers to the other questions of the suite, without a test. Diamonds: mean difference over pairs of cells and "
    "these data sets (over images or volumes of a test group, groups and seeds), as wide as its 95 % confidence "
    "interval; hollow: the interval allows no verdict. Means inside each data set are in the tables. Grey band, for "
    "Dice: differences of one point or less."
)

_LABEL, _PLOT, _INTERVAL = 2.95, 2.1, 1.15
_ROW = 0.172
_HEIGHT = 47.0  # rows of one file, more or less, a row of two lines counting more
_TWO_LINES = 1.7
_HEADER, _FOOTER = 0.22, 0.42


@dataclass(frozen=True)
class _Row:
    """One line of a picture; `answer` is of a question over data sets, else the row is of one data set."""

    lines: list[str]
    estimate: Estimate
    p: str
    answer: bool = True

    @property
    def height(self) -> float:
        return _TWO_LINES if len(self.lines) > 1 else 1.0


def plan_confirm(analysis: Analysis) -> style.Plan:
    """Return a plan of the questions that are tested, each with its data sets below it."""
    if analysis.answers is None:
        return style.Plan([], ["questions are asked by a suite: report --suite"])
    return _plan(analysis, analysis.answers.confirm, with_datasets=True)


def plan_exploratory(analysis: Analysis) -> style.Plan:
    """Return a plan of the other questions that have an answer, as many in a file as a page is high."""
    if analysis.answers is None:
        return style.Plan([], ["questions are asked by a suite: report --suite"])
    return _plan(analysis, analysis.answers.others, with_datasets=False)


def _plan(analysis: Analysis, found: Sequence[Answer], with_datasets: bool) -> style.Plan:
    blocks = [_block(one, with_datasets) for one in found if one.estimate is not None and one.estimate.interval]
    if not blocks:
        return style.Plan([], ["no such question of the suite has an answer yet" if found else "the suite has none"])
    limit = analysis.measure.scale * _limit([row for block in blocks for row in block])
    left_out = [f"questions without an answer: {len(found) - len(blocks)}"] if len(blocks) < len(found) else []
    return style.Plan([partial(_draw, part, style.on_axes(analysis), limit) for part in _sheets(blocks)], left_out)


def _block(answer: Answer, with_datasets: bool) -> list[_Row]:
    """Return a question's row, and one for each of its data sets where it has several."""
    assert answer.estimate is not None
    rows = [_Row(style.wrapped(answer.question.text, _LABEL - 0.15, most=2), answer.estimate, _p(answer))]
    if with_datasets and len(answer.by_dataset) > 1:
        rows += [
            _Row([style.fitted(dataset, _LABEL - 0.15)], found, "", answer=False)
            for dataset, found in answer.by_dataset.items()
        ]
    return rows


def _sheets(blocks: Sequence[list[_Row]]) -> list[list[_Row]]:
    """Return the rows in as few files as hold them, evenly; a question and its data sets stay together."""
    heights = [sum(row.height for row in block) for block in blocks]
    total = sum(heights)
    parts: list[list[_Row]] = [[] for _ in range(math.ceil(total / _HEIGHT))]
    middles = (sum(heights[:index]) + own / 2 for index, own in enumerate(heights))
    for block, middle in zip(blocks, middles, strict=True):
        parts[int(len(parts) * middle / total)] += block
    return [part for part in parts if part]


def _limit(rows: Sequence[_Row]) -> float:
    """Return how far the axis goes on either side: all answers and means are inside, and intervals twice as wide."""
    ends = {
        answer: max([1e-6, *(abs(end) for row in rows if row.answer == answer for end in row.estimate.interval or ())])
        for answer in (True, False)
    }
    means = [abs(row.estimate.mean) for row in rows]
    return 1.08 * max(ends[True], *means, min(ends[False], 2 * ends[True]))


def _draw(rows: list[_Row], what: Metric, limit: float) -> "Figure":
    heights = [row.height for row in rows]
    middles = [sum(heights[:index]) + own / 2 for index, own in enumerate(heights)]
    figure = style.blank(_HEADER + _ROW * sum(heights) + _FOOTER)
    axes = difference_axes(figure, _LABEL, _HEADER, _PLOT, _ROW * sum(heights), limit, what)
    axes.set_ylim(sum(heights), 0)
    axes.set_yticks(middles, ["\n".join(row.lines) for row in rows], linespacing=1.1)
    axes.tick_params(axis="y", length=0)
    for row, label in zip(rows, axes.get_yticklabels(), strict=True):
        label.set_color(style.BLACK if row.answer else style.GREY)
    for left, text in (
        (0, f"{what.difference_unit} [95 % CI]"),
        (_INTERVAL, "p" if any(row.p for row in rows) else ""),
    ):
        style.write(figure, _LABEL + _PLOT + 0.1 + left, _HEADER, text, color=style.GREY, va="bottom")
    for middle, row in zip(middles, rows, strict=True):
        color = style.BLACK if row.answer else style.GREY
        if row.answer:
            diamond(axes, row.estimate, middle, 0.3, what, zorder=3, gid="answer")
        else:
            bar(axes, row.estimate, middle, limit, what, (style.BLUE, "s"))
        beside(axes, middle, _PLOT + 0.1, interval_words(row.estimate, what), color=color)
        beside(axes, middle, _PLOT + 0.1 + _INTERVAL, row.p)
    return figure


def _p(answer: Answer) -> str:
    """Return p of a question that is tested; of another nothing."""
    if answer.verdict is None or answer.estimate is None:
        return ""
    return p_words(answer.estimate.p) if answer.verdict.tested else "not tested"
