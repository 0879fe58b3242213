"""Paired scatter: each test group with an add-on against the same group without."""

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from qgbench.report.analysis import Analysis, Contrast, Section
from qgbench.report.figures.style import BLUE, GREY, Layout, Plan, measure_words, setting_words, sheets

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTION = (
    "Each test group (patient, lesion, video; the image where none is known) with the add-on against the same group "
    "without it, one panel a twin contrast. A dot is a group's mean over its images and the common seeds; no error "
    "bars. On the line nothing changed. Panels of one setting have the same axes."
)

_LAYOUT = Layout(columns=3, rows=4, height=1.5, below=0.25, left=0.45, right=0.12)


def plan(analysis: Analysis) -> Plan:
    """Lay out a panel for each twin contrast with a difference."""
    panels = [
        (section, contrast)
        for section in analysis.sections
        for contrast in section.contrasts
        if contrast.kind == "twin" and contrast.difference is not None
    ]
    if not panels:
        return Plan([], ["no cell has a twin that it can be compared with"])
    return Plan([partial(_draw, part, analysis) for part in sheets(panels, _LAYOUT.panels)])


def _pairs(contrast: Contrast, scale: float) -> tuple[np.ndarray, np.ndarray]:
    assert contrast.scores is not None
    assert contrast.reference_scores is not None
    return scale * contrast.reference_scores.table.mean(axis=1), scale * contrast.scores.table.mean(axis=1)


def _range(section: Section, scale: float) -> tuple[float, float]:
    """Give the limits that all panels of a setting share."""
    pairs = [_pairs(c, scale) for c in section.contrasts if c.kind == "twin" and c.difference is not None]
    values = np.concatenate([side for pair in pairs for side in pair])
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 1.0
    margin = 0.05 * (values.max() - values.min()) or 1.0
    return float(values.min() - margin), float(values.max() + margin)


def _draw(panels: list[tuple[Section, Contrast]], analysis: Analysis) -> "Figure":
    what = analysis.measure
    figure, grid = _LAYOUT.draw(len(panels))
    ranges = {id(section): _range(section, what.scale) for section, _ in panels}
    for axes, (section, contrast) in zip(grid, panels, strict=True):
        without, with_addon = _pairs(contrast, what.scale)
        limits = ranges[id(section)]
        axes.plot(limits, limits, color=GREY, linewidth=0.7, zorder=1)
        axes.plot(without, with_addon, "o", color=BLUE, markersize=2.6, alpha=0.6, markeredgewidth=0, gid="groups")
        axes.set(xlim=limits, ylim=limits)
        axes.locator_params(nbins=4)
        gain = with_addon - without if what.higher_is_better else without - with_addon
        words = f"{int((gain > 0).sum())} of {len(gain)}\nbetter"
        # Where few dots are to be expected: on the side of the line where the add-on is worse.
        x, y, ha, va = (0.97, 0.04, "right", "bottom") if what.higher_is_better else (0.03, 0.98, "left", "top")
        axes.text(x, y, words, transform=axes.transAxes, ha=ha, va=va, linespacing=1.1)
        _LAYOUT.head(axes, str(contrast.name), setting_words(section.setting, analysis))
    _LAYOUT.label(grid, f"without: {measure_words(what)}", f"with: {measure_words(what)}")
    return figure
