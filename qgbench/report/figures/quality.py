"""What the scores of pseudo-labels are worth: g's audit by setting, and how it develops over training by cell."""

import math
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from qgbench.quality.audit import CheckpointAudit
from qgbench.report.analysis import Analysis
from qgbench.report.audit import SCORES, Average, audit, predictor_of
from qgbench.report.collect import Run
from qgbench.report.contrasts import is_control
from qgbench.report.figures import style
from qgbench.report.wording import setting_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AUDIT_CAPTION = (
    "How well g, confidence (mean probability of the predicted foreground) and agreement (Dice between the predictions "
    "of a view and its flip) tell the true Dice of masks. Synthetic and weak-model masks: mean over the predictors of "
    "a setting. Pseudo-labels, within each checkpoint and pooled over all: mean over the runs in which g was asked, "
    "bars are their range. Pooling flatters every score, because all of them rise with training."
)
TRAINING_CAPTION = (
    "Correlation (Pearson) of g, confidence and agreement with the true Dice of pseudo-labels at checkpoints of the "
    "run, and that Dice itself; one panel a cell. Unit: runs; lines are means over seeds, bands their range. Controls "
    "are not shown."
)


class _Style(NamedTuple):
    color: str
    marker: str
    dashes: style.Dashes


_STYLES = {
    "g": _Style(style.BLUE, "o", "-"),
    "confidence": _Style(style.VERMILLION, "s", (0, (4, 2))),
    "agreement": _Style(style.GREEN, "D", (0, (6, 1.5, 1, 1.5))),
}
_TRUE_DICE = _Style(style.BLACK, "x", (0, (1, 1.5)))
_AUDIT = style.Layout(columns=2, rows=4, height=1.4, below=0.35)
_SYNTHETIC, _WEAK, _FIRST, _GAP = 0.0, 1.7, 3.5, 0.6  # places on the axis: audits of g, pseudo-labels, pooled
_TRAINING = style.Layout(columns=3, rows=4, height=1.45, below=0.25, left=0.45, right=0.12)


class _Audit(NamedTuple):
    """Of one setting: means of each predictor's audit, and of all pseudo-labels that g scored."""

    setting: str
    predictors: list[dict[str, Average]]
    pseudo_labels: list[CheckpointAudit]


class _Point(NamedTuple):
    """A mean and the range around it."""

    mean: float
    low: float
    high: float


def _point(values: Iterable[float | None]) -> _Point | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return _Point(sum(known) / len(known), min(known), max(known)) if known else None


def _asked(runs: Iterable[Run]) -> list[CheckpointAudit]:
    """Return the audits of runs whose pseudo-labels were scored by g: there all scores judge the same masks."""
    of_g = [run for run in runs if predictor_of(run.record) == "g"]
    asked = [run for run in of_g if any("g" in each.scores for each in run.record.pseudo_labels)]
    return [each for run in asked for each in run.record.pseudo_labels]


def _at(audits: Iterable[CheckpointAudit], progress: float | None) -> list[CheckpointAudit]:
    return [each for each in audits if each.progress == progress]


def _moments(audits: Iterable[CheckpointAudit]) -> list[float]:
    return sorted({each.progress for each in audits if each.progress is not None})


def plan_audit(analysis: Analysis) -> style.Plan:
    """Return a plan of two panels (Pearson, MAE) for each setting with an audit."""
    shown = [
        _Audit(
            setting_words(section.setting, analysis),
            [row.averages for row in audit(section.runs) if row.predictor == "g"],
            _asked(section.runs),
        )
        for section in analysis.sections
        if _asked(section.runs) or any(run.record.audit for run in section.runs)
    ]
    if not shown:
        return style.Plan([], ["no record has an audit of g"])
    return style.Plan([partial(_draw_audit, part) for part in style.sheets(shown, _AUDIT.rows)])


def plan_training(analysis: Analysis) -> style.Plan:
    """Return a plan of a panel for each cell whose pseudo-labels were scored by g at two checkpoints or more."""
    panels = []
    for section in analysis.sections:
        runs = section.runs_of()
        setting = setting_words(section.setting, analysis)
        for name in section.cells:
            audits = _asked(runs[name])
            if len(_moments(audits)) > 1 and not is_control(name.addon):
                panels.append((str(name), setting, audits))
    if not panels:
        return style.Plan([], ["no record has pseudo-labels that g scored at two checkpoints or more"])
    return style.Plan([partial(_draw_training, part) for part in style.sheets(panels, _TRAINING.panels)])


def _draw_audit(audits: list[_Audit]) -> "Figure":
    figure, grid = _AUDIT.draw(2 * len(audits), style.legend_height(3, 3))
    for row, one in enumerate(audits):
        moments = _moments(one.pseudo_labels)
        for axes, quantity in ((grid[2 * row], "pearson"), (grid[2 * row + 1], "mae")):
            for place, kind in ((_SYNTHETIC, "synthetic"), (_WEAK, "weak")):
                for averages in one.predictors:
                    _mark(axes, place, "g", _point([averages[f"{kind}_{quantity}"].value]))
            for score in SCORES:
                for place, progress in enumerate([*moments, None]):
                    found = [each.scores[score] for each in _at(one.pseudo_labels, progress) if score in each.scores]
                    x = _FIRST + place + (_GAP if progress is None else 0) + 0.2 * (SCORES.index(score) - 1)
                    _mark(axes, x, score, _point(getattr(agreement, quantity) for agreement in found))
            last = _FIRST + len(moments) + _GAP
            ticks = {_SYNTHETIC: "synthetic", _WEAK: "weak\nmodels", last: "pooled"}
            ticks |= {_FIRST + i: f"{100 * moment:.0f}" for i, moment in enumerate(moments)}
            axes.set_xticks(list(ticks), list(ticks.values()))
            for edge in (_FIRST - 0.8, last - 0.8):
                axes.axvline(edge, color=style.LIGHT_GREY, linewidth=0.7, zorder=0)
            axes.set_xlim(-0.8, last + 0.5)
            low, high = axes.get_ylim()
            axes.set_ylim((min(low, 0), 1.02) if quantity == "pearson" else (0, 1.05 * high))
            if quantity == "pearson":
                axes.axhline(0, color=style.GREY, linewidth=0.6, zorder=0)
            axes.set_ylabel("Pearson correlation" if quantity == "pearson" else "mean absolute error (Dice)")
            _AUDIT.head(axes, one.setting, "")
    for axes in grid[-2:]:
        axes.set_xlabel("masks of g's audit; pseudo-labels by share of the run (%)")
    _legend(figure, list(_STYLES), 3)
    return figure


def _mark(axes: "Axes", x: float, score: str, point: _Point | None) -> None:
    if point is None:
        return
    color, marker, _ = _STYLES[score]
    axes.plot([x, x], [point.low, point.high], color=color, linewidth=0.9)
    axes.plot([x], [point.mean], color=color, marker=marker, linestyle="none", gid=score)


def _legend(figure: "Figure", scores: list[str], columns: int, *, dice: bool = False) -> None:
    looks = [_STYLES[score] for score in scores] + [_TRUE_DICE] * dice
    style.add_legend(
        figure,
        [style.line_handle(look.color, look.marker, look.dashes if dice else "-") for look in looks],
        scores + ["mean true Dice"] * dice,
        columns,
    )


def _draw_training(panels: list[tuple[str, str, list[CheckpointAudit]]]) -> "Figure":
    figure, grid = _TRAINING.draw(len(panels), style.legend_height(4, 4))
    for axes, (name, setting, audits) in zip(grid, panels, strict=True):
        moments = _moments(audits)
        for score, look in [*_STYLES.items(), ("", _TRUE_DICE)]:
            points = []
            for moment in moments:
                here = _at(audits, moment)
                values = [each.scores[score].pearson for each in here if score in each.scores] if score else []
                points.append((moment, _point(values if score else [each.mean_dice for each in here])))
            known = [(100 * moment, *point) for moment, point in points if point is not None]
            if known:
                x, mean, low, high = zip(*known, strict=True)
                axes.fill_between(x, low, high, color=look.color, alpha=0.13, linewidth=0)
                axes.plot(x, mean, color=look.color, marker=look.marker, linestyle=look.dashes, gid=score or "dice")
        axes.axhline(0, color=style.GREY, linewidth=0.6, zorder=0)
        axes.set_xlim(0, 104)
        axes.set_xticks([0, 25, 50, 75, 100])
        _TRAINING.head(axes, name, setting)
    lowest = min(axes.get_ylim()[0] for axes in grid)
    for axes in grid:
        axes.set_ylim(lowest, 1.02)
    _TRAINING.label(grid, "share of the run (%)", "correlation; Dice")
    _legend(figure, list(_STYLES), 4, dice=True)
    return figure
