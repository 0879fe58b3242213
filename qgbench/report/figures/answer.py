"""The answer in one narrow picture: the first question with its data sets, or what the add-on does to each method."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from qgbench.metrics.table import Metric
from qgbench.report.analysis import Analysis
from qgbench.report.contrasts import is_control
from qgbench.report.figures import style
from qgbench.report.figures.differences import bar, beside, diamond, difference_axes, interval_words
from qgbench.report.standings import standings
from qgbench.stats.crossed import Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTION = (
    "Difference with its 95 % confidence interval. Diamond: the mean over these data sets. Squares: each data set, or "
    "each method, alone. Hollow: the interval allows no verdict. Grey band, for Dice: one point or less."
)

_WIDTH, _LABEL, _PLOT = 3.5, 1.2, 1.15
_ROW, _HEADER, _FOOTER = 0.19, 0.2, 0.4
_MOST = 10  # rows


class _Row(NamedTuple):
    label: str
    estimate: Estimate
    mean: bool


def plan(analysis: Analysis) -> style.Plan:
    """Return a plan of one file, as wide as a column of a paper or a telephone."""
    rows = [row for row in _answer_rows(analysis) or _method_rows(analysis) if row.estimate.interval]
    if not rows:
        return style.Plan([], ["no cell has a twin that it can be compared with"])
    left_out = [f"the first {_MOST} of {len(rows)} rows are drawn"] if len(rows) > _MOST else []
    return style.Plan([partial(_draw, rows[:_MOST], style.on_axes(analysis))], left_out)


def _answer_rows(analysis: Analysis) -> list[_Row]:
    """Return the suite's first confirmatory question and its data sets; nothing where it has no answer."""
    if analysis.answers is None or not analysis.answers.confirm:
        return []
    first = analysis.answers.confirm[0]
    if first.estimate is None:
        return []
    parts = [_Row(dataset, found, False) for dataset, found in first.by_dataset.items()]
    return [_Row("mean of all", first.estimate, True), *parts] if len(parts) > 1 else parts


def _method_rows(analysis: Analysis) -> list[_Row]:
    """Return what an add-on does over the settings of the short leaderboard: in the mean, then to each method."""
    found = standings(analysis)
    means = [
        _Row(f"mean of {addon.addon}", addon.combined, True)
        for addon in (found.across.addons if found.across else [])
        if addon.combined is not None and not is_control(addon.addon) and len(addon.methods) > 1
    ]
    return means + [
        _Row(str(row.name._replace(addon=row.addon)), row.gain, False) for row in found.rows if row.gain is not None
    ]


def _draw(rows: Sequence[_Row], what: Metric) -> "Figure":
    ends = [what.scale * abs(end) for row in rows for end in row.estimate.interval or ()]
    means = [what.scale * abs(row.estimate.mean) for row in rows]
    limit = 1.08 * max(1e-6, *means, min(max(ends), 4 * sorted(ends)[len(ends) // 2]))
    figure = style.blank(_HEADER + _ROW * len(rows) + _FOOTER, _WIDTH)
    axes = difference_axes(figure, _LABEL, _HEADER, _PLOT, _ROW * len(rows), limit, what)
    axes.set(ylim=(len(rows) - 0.5, -0.5), yticks=[])
    style.write(
        figure,
        _LABEL + _PLOT + 0.1,
        _HEADER - 0.03,
        f"{what.difference_unit} [95 % CI]",
        color=style.GREY,
        va="bottom",
    )
    for place, row in enumerate(rows):
        weight = "bold" if row.mean else "normal"
        beside(axes, place, 0.06 - _LABEL, style.fitted(row.label, _LABEL - 0.1, weight=weight), fontweight=weight)
        beside(axes, place, _PLOT + 0.1, interval_words(row.estimate, what), fontweight=weight)
        if row.mean:
            diamond(axes, row.estimate, place, 0.32, what, zorder=3, gid="answer")
        else:
            bar(axes, row.estimate, place, limit, what, (style.BLUE, "s"))
    return figure
