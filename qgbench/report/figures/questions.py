"""A suite's questions in one picture: the answer to each over data sets, and inside every data set."""

import math
from functools import partial
from typing import TYPE_CHECKING

from qgbench.metrics.table import Metric
from qgbench.report.analysis import Analysis
from qgbench.report.declared import Answer
from qgbench.report.figures import style
from qgbench.report.figures.differences import beside, diamond, difference_axes, interval_words
from qgbench.report.wording import p_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CAPTION = (
    "Answers to the questions that the suite asks; those that are tested come first, in their order, and have a p; the "
    "others are exploratory. Diamonds: mean difference over pairs of cells and these data sets, as wide as its 95 % "
    "confidence interval. Small markers: the mean inside each data set, without its interval; an arrow marks one "
    "beyond the axis. A hollow diamond: its interval allows no verdict. Grey band, for Dice: differences "
    "of one point or less."
)

_LABEL, _PLOT, _INTERVAL = 2.95, 2.1, 1.15
_ROW = 0.172
_HEIGHT = 47.0  # rows of one file, more or less, a row of two lines counting more
_TWO_LINES = 1.7
_COLUMNS = 4  # of the legend
_HEADER, _FOOTER = 0.22, 0.42
_COLORS = (style.BLUE, style.VERMILLION, style.GREEN, style.ORANGE, style.PURPLE, style.SKY, style.GREY)
_LOOKS = tuple(zip(_COLORS, "os^vPX<", strict=True))


def plan(analysis: Analysis) -> style.Plan:
    """Return a plan of every question that has an answer, as many in a file as a page is high."""
    if analysis.answers is None:
        return style.Plan([], ["questions are asked by a suite: report --suite"])
    found = analysis.answers.all
    shown = [one for one in found if one.estimate is not None and one.estimate.interval is not None]
    if not shown:
        return style.Plan([], ["no question of the suite has an answer yet"])
    datasets = list(dict.fromkeys(dataset for one in shown for dataset in one.by_dataset))
    looks = {dataset: _LOOKS[index % len(_LOOKS)] for index, dataset in enumerate(datasets)}
    limit = analysis.measure.scale * _limit(shown)
    left_out = [f"questions without an answer: {len(found) - len(shown)}"] if len(shown) < len(found) else []
    return style.Plan(
        [partial(_draw, part, style.on_axes(analysis), limit, looks) for part in _sheets(shown)], left_out
    )


def _lines(answer: Answer) -> list[str]:
    """Return a question in one line or two."""
    return style.wrapped(answer.question.text, _LABEL - 0.15, most=2)


def _row_height(answer: Answer) -> float:
    return _TWO_LINES if len(_lines(answer)) > 1 else 1.0


def _sheets(answers: list[Answer]) -> list[list[Answer]]:
    """Return the answers in as few files as hold them, evenly."""
    heights = [_row_height(one) for one in answers]
    total = sum(heights)
    parts: list[list[Answer]] = [[] for _ in range(math.ceil(total / _HEIGHT))]
    middles = (sum(heights[:index]) + own / 2 for index, own in enumerate(heights))
    for one, middle in zip(answers, middles, strict=True):
        parts[int(len(parts) * middle / total)].append(one)
    return parts


def _limit(answers: list[Answer]) -> float:
    """Return how far the axis goes on either side: all intervals over data sets are inside."""
    ends = [abs(end) for one in answers if one.estimate is not None for end in one.estimate.interval or ()]
    return 1.08 * max(*ends, 1e-6)


def _draw(answers: list[Answer], what: Metric, limit: float, looks: dict[str, tuple[str, str]]) -> "Figure":
    heights = [_row_height(one) for one in answers]
    middles = [sum(heights[:index]) + own / 2 for index, own in enumerate(heights)]
    figure = style.blank(_HEADER + _ROW * sum(heights) + _FOOTER + style.legend_height(1 + len(looks), _COLUMNS))
    axes = difference_axes(figure, _LABEL, _HEADER, _PLOT, _ROW * sum(heights), limit, what)
    axes.set_ylim(sum(heights), 0)
    axes.set_yticks(middles, ["\n".join(_lines(one)) for one in answers], linespacing=1.1)
    axes.tick_params(axis="y", length=0)
    for left, text in ((0, f"{what.difference_unit} [95 % CI]"), (_INTERVAL, "p")):
        style.write(figure, _LABEL + _PLOT + 0.1 + left, _HEADER, text, color=style.GREY, va="bottom")
    for row, one in zip(middles, answers, strict=True):
        assert one.estimate is not None
        diamond(axes, one.estimate, row, 0.3, what, alpha=0.75, zorder=2, gid="answer")
        _inside(axes, row, one, what.scale, limit, looks)
        beside(axes, row, _PLOT + 0.1, interval_words(one.estimate, what))
        beside(axes, row, _PLOT + 0.1 + _INTERVAL, _p(one))
    handles = [style.line_handle(*look, "none") for look in ((style.BLACK, "D"), *looks.values())]
    style.add_legend(figure, handles, ["mean over data sets", *looks], _COLUMNS)
    return figure


def _inside(
    axes: "Axes", row: float, answer: Answer, scale: float, limit: float, looks: dict[str, tuple[str, str]]
) -> None:
    """Mark the mean inside each data set."""
    for index, (dataset, (color, marker)) in enumerate(looks.items()):
        if dataset not in answer.by_dataset:
            continue
        value = scale * answer.by_dataset[dataset].mean
        axes.plot(
            [max(-limit, min(limit, value))],
            [row + 0.5 * ((index + 0.5) / len(looks) - 0.5)],  # none hides another
            color=color,
            marker=marker if abs(value) <= limit else 4 if value < 0 else 5,  # CARETLEFT, CARETRIGHT
            markeredgecolor="white",
            markeredgewidth=0.3,
            markersize=3,
            linestyle="none",
            clip_on=False,
            zorder=3,
            gid="dataset",
        )


def _p(answer: Answer) -> str:
    """Return p of a question that is tested; of another nothing."""
    if answer.verdict is None or answer.estimate is None:
        return ""
    return p_words(answer.estimate.p) if answer.verdict.tested else "not tested"
