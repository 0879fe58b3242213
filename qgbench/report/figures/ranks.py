"""Critical-difference diagram and rank frequencies: which cells rank above which over the settings of a protocol."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from qgbench.report.across import Across
from qgbench.report.analysis import Analysis
from qgbench.report.figures import style
from qgbench.report.wording import p_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CRITICAL_DIFFERENCE_CAPTION = (
    "Critical-difference diagram (Demsar, JMLR 7, 2006): average ranks over the settings, 1 is best; cells that a bar "
    "joins are not told apart by Wilcoxon's signed-rank test with Holm's correction. Unit: settings (data set and "
    "regime), each cell's mean over test groups and seeds; no error bars."
)
FREQUENCIES_CAPTION = (
    "How often each cell takes each rank: share of bootstrap draws over test groups and seeds, averaged over the "
    "settings; rows by average rank. A row that is spread over many ranks has no certain place."
)

_MOST_NAMES = 120
_MOST_WITH_NUMBERS = 20
_SIDE = 1.95  # room for names beside the axis


def plan_critical_difference(analysis: Analysis) -> style.Plan:
    """Return a plan of a diagram for each protocol, arch and encoder with at least two settings and two cells."""
    shown, left_out = _rankable(analysis)
    return style.Plan([partial(_draw_diagram, across, scope) for across, scope in shown], left_out)


def plan_frequencies(analysis: Analysis) -> style.Plan:
    """Return a plan of a heat map likewise, where the bootstrap could be made."""
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


def _draw_diagram(across: Across, scope: str) -> "Figure":
    count = len(across.names)
    left_count = -(-count // 2)
    place_of = {name: index for index, name in enumerate(across.names)}
    levels = _levels([sorted(place_of[name] for name in clique) for clique in across.cliques if len(clique) > 1])
    rank = across.ranks
    axis_top, bar_pitch, name_pitch = 0.42, 0.085, 0.165
    names_top = axis_top + 0.12 + bar_pitch * len(levels) + 0.06
    lines = [line for text in _notes(across, scope) for line in style.wrapped(text)]
    body = names_top + name_pitch * left_count + 0.1
    figure = style.blank(body + style.LINE * len(lines) + 0.06)
    axes = style.place(figure, 0, 0, style.WIDTH, body)
    axes.set(xlim=(0, style.WIDTH), ylim=(body, 0))
    axes.set_axis_off()

    scale = (style.WIDTH - 2 * _SIDE - 0.2) / (count - 1)

    def at(value: float) -> float:
        return _SIDE + 0.1 + (value - 1) * scale

    _rank_axis(axes, count, at, axis_top)
    for level, bars in enumerate(levels):
        y = axis_top + 0.12 + bar_pitch * level
        for first, last in bars:
            ends = [at(rank[first]) - 0.03, at(rank[last]) + 0.03]
            axes.plot(
                ends, [y, y], color=style.VERMILLION, linewidth=2.6, solid_capstyle="butt", zorder=3, gid="clique"
            )
    for index, name in enumerate(across.names):
        on_left = index < left_count
        y = names_top + name_pitch * (index if on_left else count - 1 - index)
        edge = _SIDE if on_left else style.WIDTH - _SIDE
        x = at(rank[index])
        axes.plot([x, x, edge], [axis_top, y, y], color=style.BLUE, linewidth=0.7, gid="rank")
        label = style.fitted(str(name), _SIDE - 0.45)
        text = f"{label}  {rank[index]:.2f}" if on_left else f"{rank[index]:.2f}  {label}"
        side = "right" if on_left else "left"
        axes.text(edge + (-0.04 if on_left else 0.04), y, text, ha=side, va="center_baseline")
    style.write_lines(figure, body, lines)
    return figure


def _rank_axis(axes: "Axes", count: int, at: Callable[[float], float], top: float) -> None:
    step = max(1, math.ceil(count / 20))
    axes.plot([at(1), at(count)], [top, top], color=style.BLACK, linewidth=0.9)
    for tick in range(1, count + 1):
        long = (tick - 1) % step == 0
        axes.plot([at(tick)] * 2, [top, top - (0.07 if long else 0.04)], color=style.BLACK, linewidth=0.7)
        if long:
            axes.text(at(tick), top - 0.09, str(tick), ha="center", va="bottom")
    axes.text(style.WIDTH / 2, top - 0.25, "average rank (1 is best)", ha="center", va="bottom")


def _levels(cliques: list[list[int]]) -> list[list[tuple[int, int]]]:
    """Return bars in levels, so that none touches another on its level; each is (first, last) in order of rank."""
    levels: list[list[tuple[int, int]]] = []
    for first, last in sorted((clique[0], clique[-1]) for clique in cliques):
        free = next((level for level in levels if level[-1][1] < first), None)
        if free is None:
            levels.append([(first, last)])
        else:
            free.append((first, last))
    return levels


def _notes(across: Across, scope: str) -> list[str]:
    blocks = len(across.settings)
    friedman = "not defined" if across.friedman_p is None else p_words(across.friedman_p)
    least = f"Least p that a signed-rank test over {blocks} settings can give: {across.least_p:.2g}"
    notes = [
        f"{scope}. Friedman's test of equal ranks over {blocks} settings: p {friedman}.",
        least + ("; no two cells can be told apart." if across.least_p >= 0.05 else "."),
    ]
    if across.left_out:
        absent = ", ".join(f"{name} ({lacking})" for name, lacking in across.left_out.items())
        notes.append(f"Not ranked, with the number of settings that lack them: {absent}.")
    return notes


def _draw_frequencies(across: Across, scope: str) -> "Figure":
    count = len(across.names)
    room = 1.95
    side = min(0.32, (style.WIDTH - room - 0.75) / count)
    pitch = max(side, 0.125)
    head, lines = 0.3, style.wrapped(f"{scope}; {len(across.settings)} settings.")
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
