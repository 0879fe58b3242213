"""Paired scatter: each test group with an add-on against the same group without."""

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from qgbench.metrics.table import Metric
from qgbench.report.analysis import Analysis
from qgbench.report.contrasts import Contrast
from qgbench.report.figures.style import BLUE, GREY, Layout, Plan, measure_words, on_axes, sheets
from qgbench.report.sections import Section
from qgbench.report.wording import setting_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTION = (
    "Each test group (patient, lesion, video; the image or volume where none is known) with the add-on against the "
    "same group without it, one panel a twin contrast. A dot is a group's mean over its images or volumes and the "
    "common seeds; no error bars. On the line nothing changed. Panels of one setting have the same axes."
)

_LAYOUT = Layout(columns=3, rows=4, height=1.5, below=0.25, left=0.45, right=0.12)


class _Panel(NamedTuple):
    """A twin contrast: each group's mean without and with the add-on; the panels of a setting share their limits."""

    name: str
    setting: str
    without: np.ndarray
    with_addon: np.ndarray
    limits: tuple[float, float]


def plan(analysis: Analysis) -> Plan:
    """Return a plan of a panel for each twin contrast with a difference."""
    panels = [panel for section in analysis.sections for panel in _panels(section, analysis)]
    if not panels:
        return Plan([], ["no cell has a twin that it can be compared with"])
    return Plan([partial(_draw, part, on_axes(analysis)) for part in sheets(panels, _LAYOUT.panels)])


def _panels(section: Section, analysis: Analysis) -> list[_Panel]:
    twins = [c for c in section.contrasts if c.kind == "twin" and c.difference is not None]
    pairs = [_pair(contrast, analysis.measure.scale) for contrast in twins]
    limits, setting = _limits(pairs), setting_words(section.setting, analysis)
    return [_Panel(str(twin.name), setting, *pair, limits) for twin, pair in zip(twins, pairs, strict=True)]


def _pair(contrast: Contrast, scale: float) -> tuple[np.ndarray, np.ndarray]:
    assert contrast.scores is not None
    assert contrast.reference_scores is not None
    return scale * contrast.reference_scores.table.mean(axis=1), scale * contrast.scores.table.mean(axis=1)


def _limits(pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float]:
    values = np.concatenate([np.empty(0), *(side for pair in pairs for side in pair)])
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 1.0
    margin = 0.05 * (values.max() - values.min()) or 1.0
    return float(values.min() - margin), float(values.max() + margin)


def _draw(panels: list[_Panel], what: Metric) -> "Figure":
    figure, grid = _LAYOUT.draw(len(panels))
    for axes, panel in zip(grid, panels, strict=True):
        axes.plot(panel.limits, panel.limits, color=GREY, linewidth=0.7, zorder=1)
        axes.plot(
            panel.without,
            panel.with_addon,
            "o",
            color=BLUE,
            markersize=2.6,
            alpha=0.6,
            markeredgewidth=0,
            gid="groups",
        )
        axes.set(xlim=panel.limits, ylim=panel.limits)
        axes.locator_params(nbins=4)
        gain = panel.with_addon - panel.without if what.higher_is_better else panel.without - panel.with_addon
        words = f"{int((gain > 0).sum())} of {len(gain)}\nbetter"
        # Where few dots are to be expected: on the side of the line where the add-on is worse.
        x, y, ha, va = (0.97, 0.04, "right", "bottom") if what.higher_is_better else (0.03, 0.98, "left", "top")
        axes.text(x, y, words, transform=axes.transAxes, ha=ha, va=va, linespacing=1.1)
        _LAYOUT.head(axes, panel.name, panel.setting)
    _LAYOUT.label(grid, f"without: {measure_words(what)}", f"with: {measure_words(what)}")
    return figure
