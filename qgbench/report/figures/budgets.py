"""Budget curves: what more labelled images bring, with and without add-ons."""

import re
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from qgbench.metrics.table import Metric
from qgbench.report.analysis import Analysis
from qgbench.report.contrasts import is_control
from qgbench.report.figures import style
from qgbench.report.sections import Section, supervised_like
from qgbench.report.wording import setting_words
from qgbench.spec.arm import ArmName
from qgbench.spec.regime import GIVEN
from qgbench.spec.run_spec import Setting
from qgbench.stats.crossed import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CAPTION = (
    "The measure against the number of labelled images, which is the regime's budget; one panel a method, data set, "
    "pools and split. Unit: test groups x seeds; bars are 95 % confidence intervals of a cell, not of a difference "
    "(see the forest plot). Grey crosses: supervised training. Points at one budget are moved apart. Controls are not "
    "shown."
)

_LAYOUT = style.Layout(columns=3, rows=4, height=1.5, below=0.25, left=0.45, right=0.12)
_SUPERVISED = style.AddonLook((0, (1, 1.5)), "full")


class _Panel(NamedTuple):
    """A method in settings that differ only in their budget: estimates by add-on and number of labelled images."""

    method: ArmName
    words: str
    curves: dict[str, dict[float, Estimate]]
    supervised: dict[float, Estimate]


def plan(analysis: Analysis) -> style.Plan:
    """Return a plan of a panel for each method with two budgets or more."""
    families: dict[Setting, list[Section]] = defaultdict(list)
    for section in analysis.sections:
        families[_without_budget(section)].append(section)
    panels = [panel for sections in families.values() for panel in _panels(sections, analysis)]
    if not panels:
        return style.Plan([], ["no method was run with two numbers of labelled images or more, all else equal"])
    looks = style.Looks.of(analysis)
    counted = " or ".join(sorted({"slices" if s.noun == "volume" else "images" for s in analysis.sections}))
    return style.Plan(
        [partial(_draw, part, looks, style.on_axes(analysis), counted) for part in style.sheets(panels, _LAYOUT.panels)]
    )


def _without_budget(section: Section) -> Setting:
    pools, _, _ = _rest(section.setting.regime).rpartition("@")
    return section.setting.model_copy(update={"regime": f"{pools}@{section.partition}"})


def _rest(regime: str) -> str:
    """Return a regime without its budget: pools and split are left."""
    return re.sub(r"^[^+@]*", "", regime)


def _panels(sections: list[Section], analysis: Analysis) -> list[_Panel]:
    curves: dict[ArmName, dict[float, Estimate]] = defaultdict(dict)
    plain: dict[ArmName, ArmName] = {}
    for section in sections:
        runs = section.runs_of()
        for name, scores in section.cells.items():
            plain[name.without_addon] = supervised_like(runs[name][0].record.spec)
            ids = [len(r.record.provenance.labelled_ids) for r in runs[name]]
            if min(ids) > 0 and not is_control(name.addon) and np.isfinite(scores.estimate.mean):
                curves[name][float(np.mean(ids))] = scores.estimate
    setting = sections[0].setting
    rests = {_rest(section.setting.regime).lstrip("@+") for section in sections}
    rest = rests.pop() if len(rests) == 1 else re.sub(f"{GIVEN}.*", "given", min(rests))
    words = setting_words(setting.model_copy(update={"regime": rest}), analysis)
    panels = []
    for method in sorted({name.without_addon for name in curves}, key=lambda name: name.order):
        own = {name.addon: curve for name, curve in curves.items() if name.without_addon == method}
        if any(len(curve) > 1 for curve in own.values()):
            own = dict(sorted(own.items()))
            alone = plain[method]
            panels.append(_Panel(method, words, own, {} if method == alone else curves.get(alone, {})))
    return panels


def _draw(panels: list[_Panel], looks: style.Looks, what: Metric, counted: str) -> "Figure":
    addons = looks.addons
    used = sorted({addon for panel in panels for addon in panel.curves})
    handles = [style.line_handle(style.GREY, "o", addons[addon].dashes, addons[addon].fillstyle) for addon in used]
    labels = [f"+ {addon}" if addon else "without an add-on" for addon in used]
    if any(panel.supervised for panel in panels):
        handles.append(style.line_handle(style.GREY, "x", _SUPERVISED.dashes))
        labels.append("supervised")
    figure, grid = _LAYOUT.draw(len(panels), style.legend_height(len(handles), 4))
    for axes, panel in zip(grid, panels, strict=True):
        axes.set_xscale("log")
        color, marker = looks.of_method(panel.method)
        lines = [(panel.supervised, style.GREY, "x", _SUPERVISED)] if panel.supervised else []
        lines += [(curve, color, marker, addons[addon]) for addon, curve in panel.curves.items()]
        for index, (curve, shade, mark, look) in enumerate(lines):
            shift = 1.0 + 0.04 * (index - (len(lines) - 1) / 2)
            _curve(axes, curve, shift, what.scale, shade, mark, look)
        _ticks(axes, sorted({x for curve in [*panel.curves.values(), panel.supervised] for x in curve}))
        _LAYOUT.head(axes, str(panel.method), panel.words)
    for words in {panel.words for panel in panels}:
        own = [axes for axes, panel in zip(grid, panels, strict=True) if panel.words == words]
        lows, highs = zip(*(axes.get_ylim() for axes in own), strict=True)
        for axes in own:
            axes.set_ylim(min(lows), max(highs))
    _LAYOUT.label(grid, f"labelled {counted}", style.measure_words(what))
    style.add_legend(figure, handles, labels, 4)
    return figure


def _curve(
    axes: "Axes",
    curve: dict[float, Estimate],
    shift: float,
    scale: float,
    color: str,
    marker: str,
    look: style.AddonLook,
) -> None:
    budgets = sorted(curve)
    x = [budget * shift for budget in budgets]
    estimates = [curve[budget] for budget in budgets]
    means = [scale * estimate.mean for estimate in estimates]
    axes.plot(x, means, color=color, marker=marker, linestyle=look.dashes, fillstyle=look.fillstyle, gid="curve")
    for place, estimate in zip(x, estimates, strict=True):
        if estimate.interval is not None:
            axes.plot([place, place], [scale * end for end in estimate.interval], color=color, linewidth=0.7)


def _ticks(axes: "Axes", budgets: list[float]) -> None:
    """Write the budgets below a logarithmic axis, each that has room beside the one before."""
    from matplotlib.ticker import NullLocator

    low, high = budgets[0] / 1.3, budgets[-1] * 1.3
    inches = _LAYOUT.width / np.log(high / low)
    labels: list[str] = []
    last = -np.inf
    for budget in budgets:
        fits = inches * (np.log(budget) - last) > 0.3
        labels.append(f"{budget:.0f}" if fits else "")
        last = np.log(budget) if fits else last
    axes.set_xlim(low, high)
    axes.set_xticks(budgets, labels)
    axes.xaxis.set_minor_locator(NullLocator())
