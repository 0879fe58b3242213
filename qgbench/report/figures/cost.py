"""Cost: the measure against the time that a run takes to train, g's share marked."""

from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from qgbench.report.analysis import Analysis
from qgbench.report.collect import Name
from qgbench.report.contrasts import is_control
from qgbench.report.figures.style import (
    GREY,
    LINE,
    WIDTH,
    Looks,
    Plan,
    blank,
    fitted,
    line_handle,
    measure_words,
    place,
    sheets,
)
from qgbench.report.measures import Measure
from qgbench.report.sections import Section
from qgbench.report.wording import setting_words
from qgbench.stats.crossed import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CAPTION = (
    "The measure against wall-clock seconds of training, mean over a cell's runs. The horizontal bar is g's share (its "
    "training and that of its weak models), counted in full for each run even where several runs share one g; it ends "
    "at the total. Vertical bars: 95 % confidence intervals over test groups x seeds. Times are as recorded, on "
    "whatever machine and beside whatever else ran. Controls are not shown."
)

_METHODS = 17  # in one panel: what the legend holds
_PANELS = 3  # in one file
_LEFT, _PLOT, _HEIGHT, _BELOW = 0.5, 3.7, 2.3, 0.45


class _Cell(NamedTuple):
    """Seconds of training without g, and of g, with the measure of a cell."""

    name: Name
    train: float
    g: float
    estimate: Estimate


def plan(analysis: Analysis) -> Plan:
    """Lay out a panel or more for each setting."""
    panels = []
    for section in analysis.sections:
        by_method: dict[Name, list[_Cell]] = defaultdict(list)
        for cell in _cells(section):
            by_method[cell.name.without_addon].append(cell)
        for part in sheets(list(by_method.values()), _METHODS):
            panels.append((setting_words(section.setting, analysis), [cell for cells in part for cell in cells]))
    if not panels:
        return Plan([], ["no record has a time of training and a finite measure"])
    looks = Looks.of(analysis)
    return Plan([partial(_draw, part, looks, analysis.measure) for part in sheets(panels, _PANELS)])


def _cells(section: Section) -> list[_Cell]:
    cells = []
    runs = section.runs_of()
    for name, scores in section.cells.items():
        times = [run.record.times for run in runs[name]]
        train, g = float(np.mean([each.train for each in times])), float(np.mean([each.g for each in times]))
        if not is_control(name.addon) and np.isfinite([train, g, scores.estimate.mean]).all() and train > 0:
            cells.append(_Cell(name, train, g, scores.estimate))
    return cells


def _draw(panels: list[tuple[str, list[_Cell]]], looks: Looks, what: Measure) -> "Figure":
    head = LINE + 0.1
    pitch = head + _HEIGHT + _BELOW
    figure = blank(pitch * len(panels))
    for index, (setting, cells) in enumerate(panels):
        axes = place(figure, _LEFT, head + pitch * index, _PLOT, _HEIGHT)
        _panel(axes, cells, looks, what)
        axes.set_title(fitted(setting, _PLOT), loc="left", y=1)
    return figure


def _panel(axes: "Axes", cells: list[_Cell], looks: Looks, what: Measure) -> None:
    scale, addons = what.scale, looks.addons
    for cell in cells:
        color, marker = looks.of_method(cell.name)
        total, estimate = cell.train + cell.g, cell.estimate
        y = scale * estimate.mean
        if cell.g > 0:
            axes.plot([cell.train, total], [y, y], color=color, linewidth=0.9, zorder=2, gid="g")
            axes.plot([cell.train], [y], color=color, marker="|", markersize=4, zorder=2)
        if estimate.interval is not None:
            axes.plot([total, total], [scale * end for end in estimate.interval], color=color, linewidth=0.6, alpha=0.7)
        axes.plot(
            [total],
            [y],
            color=color,
            marker=marker,
            linestyle="none",
            markersize=4.5,
            markerfacecoloralt="white",
            fillstyle=addons[cell.name.addon].fillstyle,
            zorder=3,
            gid="cell",
        )
    axes.set_xlim(left=0)
    axes.set(xlabel="training of a run, g's included (s)", ylabel=measure_words(what))
    methods = list(dict.fromkeys(cell.name.without_addon for cell in cells))
    used = sorted({cell.name.addon for cell in cells})
    handles = [line_handle(*looks.of_method(name), "none") for name in methods]
    handles += [line_handle(GREY, "o", "none", addons[addon].fillstyle) for addon in used]
    labels = [str(name) for name in methods] + [f"+ {addon}" if addon else "without an add-on" for addon in used]
    axes.legend(
        handles,
        [fitted(label, WIDTH - _LEFT - _PLOT - 0.5) for label in labels],
        loc="upper left",
        bbox_to_anchor=(1.03, 1.05),
        frameon=False,
        borderpad=0,
        borderaxespad=0,
        labelspacing=0.2,
        handlelength=1.2,
    )
