"""Places of marks in the drawings of the pages. The templates draw them, as inline SVG."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qgbench.report.analysis import Scores
from qgbench.report.measures import Measure
from qgbench.run.record import Record
from qgbench.stats.crossed import Estimate

LEFT, RIGHT, TOP, BOTTOM = 52, 628, 12, 208  # frame of a chart, whose view box is 640 x 250
BAR_START, BAR_END = 6.0, 114.0  # of a bar in a table, 120 wide


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis."""

    at: float
    label: str


@dataclass(frozen=True)
class Axis:
    """A linear scale from values to places.

    Attributes
    ----------
    low, high : float
        Values at its two ends.
    start, end : float
        Their places.
    """

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Place of a value, kept on the axis and rounded to a tenth."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + (self.end - self.start) * min(max(share, 0.0), 1.0), 1)

    def ticks(self, count: int = 4) -> list[Tick]:
        """Give round values, about so many."""
        step = _round_step((self.high - self.low) / count)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        values = [round(index * step, digits + 1) for index in range(first, last + 1)]
        return [Tick(self.at(value), f"{value:.{digits}f}".replace("-", "−")) for value in values]


def _round_step(least: float) -> float:
    """Give the least of 1, 2, 5 times a power of ten that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def axis(values: Iterable[float], start: float, end: float, *, zero: bool = False) -> Axis:
    """Make an axis that holds all finite values, with ends at round numbers; with `zero`, 0 is in its middle."""
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    if zero:
        high = max(abs(low), abs(high))
        low = -high
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    step = _round_step((high - low) / 5)
    return Axis(math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, start, end)


@dataclass(frozen=True)
class Bar:
    """A confidence interval in a table's row: places of its ends and its middle, and which ends the axis cuts off."""

    low: float
    middle: float
    high: float
    cut_low: bool
    cut_high: bool


def bar(found: Estimate, scale: float, frame: Axis) -> Bar:
    """Draw an estimate to scale; without an interval its two ends are its middle."""
    low, high = (scale * end for end in found.interval or (found.mean, found.mean))
    return Bar(frame.at(low), frame.at(scale * found.mean), frame.at(high), low < frame.low, high > frame.high)


def bar_axis(found: Iterable[Estimate], scale: float, *, zero: bool = False) -> Axis:
    """Make the axis that all bars of a column share: all means, and all but the longest few intervals, fit it."""
    estimates = list(found)
    means = [scale * each.mean for each in estimates]
    ends = np.array([[scale * end for end in each.interval] for each in estimates if each.interval is not None])
    if len(ends):
        means += [float(np.quantile(ends[:, 0], 0.02)), float(np.quantile(ends[:, 1], 0.98))]
    return axis(means, BAR_START, BAR_END, zero=zero)


@dataclass(frozen=True)
class Dot:
    """A mark, with what it says when pointed at."""

    x: float
    y: float
    title: str


@dataclass(frozen=True)
class Line:
    """A named curve: points as SVG writes them, and its marks."""

    name: str
    points: str
    dots: list[Dot]


@dataclass(frozen=True)
class Chart:
    """A drawing with two axes.

    Attributes
    ----------
    title, x_label, y_label : str
    x_ticks, y_ticks : list of Tick
    lines : list of Line
    dots : list of Dot
    band : (float, float) or None
        Upper and lower edge of an interval.
    mean, zero : float or None
        Heights of two lines across.
    """

    title: str
    x_label: str
    y_label: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Line]
    dots: list[Dot]
    band: tuple[float, float] | None = None
    mean: float | None = None
    zero: float | None = None


def group_chart(scores: Scores, what: Measure, is_difference: bool) -> Chart:
    """Draw the mean of each test group over seeds, sorted, with the mean of all and its interval."""
    values: NDArray[np.float64] = what.scale * scores.table.mean(axis=1)
    order = np.argsort(values, kind="stable")
    found = scores.estimate
    ends = [what.scale * end for end in found.interval or (found.mean, found.mean)]
    y = axis([*values.tolist(), *ends, *([0.0] if is_difference else [])], BOTTOM, TOP)
    x = Axis(0.5, len(values) + 0.5, LEFT, RIGHT)
    dots = [
        Dot(x.at(rank), y.at(float(values[index])), f"{scores.groups[index]}: {values[index]:.1f}")
        for rank, index in enumerate(order.tolist(), start=1)
    ]
    return Chart(
        title=f"{'Difference in ' if is_difference else ''}{what.label} of each test group, sorted",
        x_label="test groups",
        y_label=what.difference_unit if is_difference else what.unit,
        x_ticks=[],
        y_ticks=y.ticks(),
        lines=[],
        dots=dots,
        band=(y.at(ends[1]), y.at(ends[0])) if found.interval is not None else None,
        mean=y.at(what.scale * found.mean),
        zero=y.at(0.0) if is_difference else None,
    )


def learning_chart(record: Record) -> Chart | None:
    """Draw validation Dice over the steps of a run; None where none was logged."""
    steps = [float(step) for step, _ in record.val_dice]
    return _curves(
        "Validation Dice during training", "step", "%", steps, {"": [100 * dice for _, dice in record.val_dice]}
    )


def audit_chart(record: Record) -> Chart | None:
    """Draw how each score correlates with the true Dice of pseudo-labels over a run; None without an audit."""
    rows = [row for row in record.pseudo_labels if row.progress is not None]
    names = list(dict.fromkeys(name for row in rows for name in row.scores))
    curves = {
        name: [_or_nan(row.scores[name].pearson if name in row.scores else None) for row in rows] for name in names
    }
    progress = [100 * float(row.progress) for row in rows if row.progress is not None]
    return _curves(
        "Scores against the true Dice of pseudo-labels", "% of the run", "Pearson correlation", progress, curves
    )


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _curves(
    title: str, x_label: str, y_label: str, places: Sequence[float], curves: Mapping[str, Sequence[float]]
) -> Chart | None:
    """Draw curves over common places; NaN is a gap."""
    values = [value for curve in curves.values() for value in curve if math.isfinite(value)]
    if not places or not values:
        return None
    x, y = axis(places, LEFT, RIGHT), axis(values, BOTTOM, TOP)
    lines = []
    for name, curve in curves.items():
        dots = [
            Dot(x.at(place), y.at(value), f"{name} {value:.2f} at {place:g}".strip())
            for place, value in zip(places, curve, strict=True)
            if math.isfinite(value)
        ]
        lines.append(Line(name, " ".join(f"{dot.x},{dot.y}" for dot in dots), dots))
    return Chart(title, x_label, y_label, x.ticks(), y.ticks(), lines, [])
