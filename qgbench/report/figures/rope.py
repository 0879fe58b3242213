"""Bars of the Bayesian signed-rank test: how probably an add-on harms, changes nothing of use, or gains."""

from functools import partial
from typing import TYPE_CHECKING

from qgbench.report.across import ROPE, Across
from qgbench.report.analysis import Analysis
from qgbench.report.figures.style import (
    BLUE,
    GREY,
    LIGHT_GREY,
    VERMILLION,
    WIDTH,
    Plan,
    add_legend,
    blank,
    fitted,
    legend_height,
    place,
    sheets,
    write,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTION = (
    "Bayesian signed-rank test of each add-on over its twins in all settings (Benavoli et al., JMLR 18, 2017): "
    "probability that the typical difference of Dice is a loss of more than one point, within one point, or a gain of "
    "more than one point. Unit: contrasts, each a mean over test groups and seeds."
)

_ROW = 0.24
_ROWS = 30
_LABEL, _BARS = 2.6, 2.35
_PARTS = ((VERMILLION, "////"), (LIGHT_GREY, ""), (BLUE, "...."))
_NAMES = ("harm: below \N{MINUS SIGN}{0}", "within {0}", "gain: above +{0}")
_COLUMNS = (1.14, 1.29, 1.43)  # where the numbers stand, in widths of the bars


def plan(analysis: Analysis) -> Plan:
    """Lay out a bar for each add-on that has the test."""
    if analysis.measure.name != "dice":
        return Plan([], ["the region of practical equivalence is defined for Dice only"])
    bars = [
        (f"{addon.addon} ({scope})" if (scope := _scope(across, analysis)) else addon.addon, addon)
        for across in analysis.across
        for addon in across.addons
    ]
    shown = [(label, addon.rope, len(addon.contrasts)) for label, addon in bars if addon.rope is not None]
    if not shown:
        return Plan([], ["the test needs two settings or more, and an add-on with two differences or more"])
    why = "fewer than two differences, or p is withheld for all"
    left_out = [f"{label}: {why}" for label, addon in bars if addon.rope is None]
    return Plan([partial(_draw, part) for part in sheets(shown, _ROWS)], left_out)


def _scope(across: Across, analysis: Analysis) -> str:
    """Name what tells this comparison across settings from the others."""

    def parts(one: Across) -> tuple[str, ...]:
        return one.regimes, one.arch, one.encoder, f"{one.protocol} v{one.protocol_version}"

    columns = zip(parts(across), *map(parts, analysis.across), strict=True)
    return ", ".join(own for own, *all_of_them in columns if len(set(all_of_them)) > 1)


def _draw(bars: list[tuple[str, tuple[float, float, float], int]]) -> "Figure":
    from matplotlib.patches import Patch

    top, bottom = 0.24, 0.42
    figure = blank(top + _ROW * len(bars) + bottom + legend_height(3, 3))
    axes = place(figure, _LABEL, top, _BARS, _ROW * len(bars))
    axes.set(xlim=(0, 1), ylim=(len(bars) - 0.5, -0.5), xlabel="probability")
    axes.set_yticks(range(len(bars)), [fitted(label, _LABEL - 0.15) for label, *_ in bars])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axis_to_page = axes.get_yaxis_transform()
    for row, (_, shares, contrasts) in enumerate(bars):
        left = 0.0
        for share, (color, hatch) in zip(shares, _PARTS, strict=True):
            axes.barh(row, share, 0.7, left, facecolor=color, hatch=hatch, edgecolor="white", linewidth=0.5)
            left += share
        texts = [*zip(_COLUMNS, [f"{share:.2f}" for share in shares], strict=True)]
        for x, text in [*texts, ((WIDTH - _LABEL - 0.06) / _BARS, str(contrasts))]:
            axes.text(x, row, text, transform=axis_to_page, ha="right", va="center_baseline")
    for x, text in zip(_COLUMNS, ("harm", "within", "gain"), strict=True):
        write(figure, _LABEL + x * _BARS, top, text, color=GREY, ha="right", va="bottom")
    write(figure, WIDTH - 0.06, top, "contrasts", color=GREY, ha="right", va="bottom")
    handles = [Patch(facecolor=color, hatch=hatch, edgecolor="white") for color, hatch in _PARTS]
    add_legend(figure, handles, [name.format(f"{100 * ROPE:g} point") for name in _NAMES], 3)
    return figure
