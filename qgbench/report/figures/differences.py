"""What figures of differences share: their axis, the band of no practical use, diamonds, and numbers beside a row."""

from typing import TYPE_CHECKING, Any

from qgbench.metrics.table import Metric
from qgbench.report.across import ROPE, is_dice
from qgbench.report.figures.style import BLACK, GREY, LIGHT_GREY, fitted, place
from qgbench.report.wording import number, signed
from qgbench.stats.crossed import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def difference_axes(
    figure: "Figure", left: float, top: float, width: float, height: float, limit: float, what: Metric
) -> "Axes":
    """Add and return axes from `-limit` to `limit`, in the unit that people read, with 0 and Dice's band marked."""
    axes = place(figure, left, top, width, height)
    axes.set_xlim(-limit, limit)
    axes.spines["left"].set_visible(False)
    axes.axvline(0, color=BLACK, linewidth=0.7, zorder=1)
    if is_dice(what):
        band = min(ROPE * what.scale, limit)
        axes.axvspan(-band, band, color=LIGHT_GREY, linewidth=0, alpha=0.6, zorder=0, gid="rope")
    better = "right" if what.higher_is_better else "left"
    axes.set_xlabel(fitted(f"Difference of {what.label} ({what.difference_unit}); {better} of 0 is better", 2 * width))
    return axes


def scaled(found: Estimate, what: Metric) -> tuple[float, float, float]:
    """Return an estimate's lower end, mean and upper end in the unit that people read; the mean alone has no length."""
    low, high = found.interval or (found.mean, found.mean)
    return what.scale * low, what.scale * found.mean, what.scale * high


def diamond(axes: "Axes", found: Estimate, y: float, half: float, what: Metric, **look: Any) -> None:
    """Draw a mean that is as wide as its interval; hollow where that allows no verdict."""
    low, mean, high = scaled(found, what)
    corners = [(low, y), (mean, y - half), (high, y), (mean, y + half)]
    face, edge = ("white", GREY) if found.p_withheld else (BLACK, BLACK)
    axes.fill(*zip(*corners, strict=True), facecolor=face, edgecolor=edge, linewidth=0.6, **look)


def bar(axes: "Axes", found: Estimate, y: float, limit: float, what: Metric, look: tuple[str, str]) -> None:
    """Draw a mean, in a colour and with a marker, with its interval; grey and hollow where that allows no verdict.

    What lies beyond the axis, from `-limit` to `limit`, is cut, with an arrow at its end.
    """
    low, mean, high = scaled(found, what)
    color, marker = (GREY, look[1]) if found.p_withheld else look
    face = "white" if found.p_withheld else color
    axes.plot([max(low, -limit), min(high, limit)], [y, y], color=color, linewidth=1.1, gid="interval")
    if abs(mean) <= limit:
        axes.plot([mean], [y], color=color, marker=marker, markerfacecolor=face, linestyle="none", gid="mean", zorder=3)
    for end, arrow, beyond in ((-limit, 4, low < -limit), (limit, 5, high > limit)):  # CARETLEFT, CARETRIGHT
        if beyond:
            axes.plot([end], [y], color=color, marker=arrow, markersize=4, linestyle="none", clip_on=False)


def beside(axes: "Axes", y: float, left: float, text: str, **style: Any) -> None:
    """Write into a row, in inches from the left edge of the axes."""
    axes.text(
        left * axes.figure.dpi / axes.bbox.width,
        y,
        text,
        transform=axes.get_yaxis_transform(),
        va="center_baseline",
        **style,
    )


def interval_words(found: Estimate, what: Metric) -> str:
    """Return a difference and its interval, as text."""
    ends = [number(end, what.scale) for end in found.interval or ()]
    return f"{signed(found.mean, what.scale)} [{', '.join(ends) or 'none'}]"
