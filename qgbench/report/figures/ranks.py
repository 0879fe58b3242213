"""Rank frequencies: which cells rank above which over the settings of a protocol, and how surely."""

import math
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from qgbench.report.across import Across
from qgbench.report.analysis import Analysis
from qgbench.report.figures import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FREQUENCIES_CAPTION = (
    "How often each cell takes each rank: share of bootstrap draws over test groups and seeds, averaged over the "
    "settings; rows by average rank. A row that is spread over many ranks has no certain place."
)

_MOST_NAMES = 120
_MOST_WITH_NUMBERS = 20


def plan_frequencies(analysis: Analysis) -> style.Plan:
    """Return a plan of a heat map for each protocol, arch and encoder with two settings and two cells or more."""
    shown, left_out = _rankable(analysis)
    known = [(across, scope) for across, scope in shown if np.isfinite(across.frequencies).all()]
    left_out += [
        f"{scope}: the cells of some setting share no seeds or differ in their test groups"
        for across, scope in shown
        if not np.isfinite(across.frequencies).all()
    ]
    return style.Plan([partial(_draw_frequencies, across, scope) for across, scope in known], left_out)


def _rankable(analysis: Analysis) -> tuple[list[tuple[Across, str]], list[str]]:
    """Return what can be ranked, each with its name, and why the rest cannot."""
    if not analysis.across:
        return [], ["ranks need two settings or more of one protocol, architecture and encoder"]
    shown, left_out = [], []
    for across in analysis.across:
        scope = across.scope
        count = len(across.names)
        if count < 2:
            left_out.append(f"{scope}: fewer than two cells are there in every setting")
        elif not np.isfinite(across.ranks).all():
            left_out.append(f"{scope}: some ranks are not finite numbers")
        elif count > _MOST_NAMES:
            left_out.append(f"{scope}: {count} cells, more than the {_MOST_NAMES} that a page holds")
        else:
            shown.append((replace(across, addons=[]), scope))
    return shown, left_out


def _notes(across: Across, scope: str) -> list[str]:
    notes = [f"{scope}; {len(across.settings)} settings."]
    if across.left_out:
        absent = ", ".join(f"{name} ({lacking})" for name, lacking in across.left_out.items())
        notes.append(f"Not ranked, with the number of settings that lack them: {absent}.")
    return notes


def _draw_frequencies(across: Across, scope: str) -> "Figure":
    count = len(across.names)
    room = 1.95
    side = min(0.32, (style.WIDTH - room - 0.75) / count)
    pitch = max(side, 0.125)
    head, lines = 0.3, [line for text in _notes(across, scope) for line in style.wrapped(text)]
    body = head + pitch * count
    figure = style.blank(body + 0.08 + style.LINE * len(lines) + 0.06)
    axes = style.place(figure, room, head, side * count, pitch * count)
    edges = np.arange(count + 1) - 0.5
    percents = 100 * across.frequencies
    darkest = percents.max()
    mesh = axes.pcolormesh(
        edges, edges, percents, cmap="Blues", vmin=0, vmax=darkest, gid="frequencies", rasterized=True
    )
    axes.set(ylim=(count - 0.5, -0.5), xlim=(-0.5, count - 0.5), xlabel="rank (1 is best)")
    step = max(1, math.ceil(0.2 / side))
    axes.set_xticks(range(0, count, step), [str(rank + 1) for rank in range(0, count, step)])
    axes.set_yticks(range(count), [style.fitted(str(name), room - 0.15) for name in across.names])
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.tick_params(length=0)
    if count <= _MOST_WITH_NUMBERS:
        for (row, column), percent in np.ndenumerate(percents):
            if percent >= 0.5:
                color = "white" if percent > 0.55 * darkest else style.BLACK
                axes.text(column, row, f"{percent:.0f}", ha="center", va="center", color=color)
    bar = style.place(figure, room + side * count + 0.12, head, 0.1, min(pitch * count, 1.6))
    figure.colorbar(mesh, cax=bar, label="share of draws (%)")
    bar.tick_params(color=style.GREY)
    style.write_lines(figure, body + 0.08, lines)
    return figure
