"""Learning curves: validation Dice over the steps of training."""

from collections import defaultdict
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from qgbench.report.analysis import Analysis
from qgbench.report.contrasts import is_control
from qgbench.report.figures.style import Layout, Looks, Plan, fitted, sheets
from qgbench.report.sections import Section
from qgbench.report.wording import setting_words
from qgbench.spec.arm import ArmName

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CAPTION = (
    "Mean Dice over the validation images or slices, at the resolution of training, by step. Unit: runs; lines are "
    "means over seeds, bands their range. A method keeps its colour with an add-on; without one it is dashed. "
    "Settings with many cells take several panels. Controls are not shown."
)

_LINES = 8  # in one panel
_LAYOUT = Layout(columns=2, rows=3, height=1.75, below=0.33, left=0.45, right=0.12)
_ENTRIES = 2  # of a legend side by side


class _Curve(NamedTuple):
    """A cell's mean, least and largest validation Dice at each step, in per cent."""

    name: ArmName
    steps: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]


def plan(analysis: Analysis) -> Plan:
    """Return a plan of a panel or more for each setting with validation Dice at two steps or more."""
    panels = []
    for section in analysis.sections:
        parts = _parts(_curves(section))
        for index, part in enumerate(parts):
            words = f"part {index + 1} of {len(parts)}" if len(parts) > 1 else ""
            panels.append((setting_words(section.setting, analysis), words, part))
    if not panels:
        return Plan([], ["no record has validation Dice at two steps or more"])
    looks = Looks.of(analysis)
    return Plan([partial(_draw, part, looks) for part in sheets(panels, _LAYOUT.panels)])


def _curves(section: Section) -> list[_Curve]:
    runs = section.runs_of()
    curves = []
    for name in section.cells:
        if is_control(name.addon):
            continue
        by_step: dict[int, list[float]] = defaultdict(list)
        for run in runs[name]:
            for step, dice in run.record.val_dice:
                if np.isfinite(dice):
                    by_step[step].append(100 * dice)
        steps = sorted(by_step)
        if len(steps) > 1:
            values = [by_step[step] for step in steps]
            means = [float(np.mean(each)) for each in values]
            curves.append(_Curve(name, steps, means, [min(each) for each in values], [max(each) for each in values]))
    return curves


def _parts(curves: list[_Curve]) -> list[list[_Curve]]:
    """Return the curves of each panel, those of one method in the same as far as they fit."""
    by_method: dict[ArmName, list[_Curve]] = defaultdict(list)
    for curve in curves:
        by_method[curve.name.without_addon].append(curve)
    parts: list[list[_Curve]] = []
    for own in by_method.values():
        for some in sheets(own, _LINES):
            if not parts or len(parts[-1]) + len(some) > _LINES:
                parts.append([])
            parts[-1] += some
    return parts


def _draw(panels: list[tuple[str, str, list[_Curve]]], looks: Looks) -> "Figure":
    entries = max(-(-len(curves) // _ENTRIES) for *_, curves in panels)
    layout = replace(_LAYOUT, columns=min(_LAYOUT.columns, len(panels)), below=_LAYOUT.below + entries * 0.155)
    figure, grid = layout.draw(len(panels))
    for axes, (setting, words, curves) in zip(grid, panels, strict=True):
        _panel(axes, curves, looks, layout)
        layout.head(axes, setting, words)
    return figure


def _panel(axes: "Axes", curves: list[_Curve], looks: Looks, layout: Layout) -> None:
    for curve in curves:
        color, marker = looks.of_method(curve.name)
        dashes, fillstyle = looks.addons[curve.name.addon]
        axes.fill_between(curve.steps, curve.low, curve.high, color=color, alpha=0.1, linewidth=0)
        axes.plot(
            curve.steps,
            curve.mean,
            color=color,
            marker=marker,
            markevery=max(1, len(curve.steps) // 10),
            linestyle=dashes,
            fillstyle=fillstyle,
            gid=str(curve.name),
        )
    axes.margins(x=0.02)
    axes.set(xlabel="step", ylabel="validation Dice (%)")
    axes.legend(
        axes.lines,
        [fitted(str(curve.name), (layout.width + layout.left) / _ENTRIES - 0.5) for curve in curves],
        loc="upper left",
        bbox_to_anchor=((0.06 - layout.left) / layout.width, -0.2),
        ncols=_ENTRIES,
        handlelength=2.6,
        labelspacing=0.25,
        columnspacing=0.6,
    )
