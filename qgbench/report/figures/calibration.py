"""Whether the Dice that g predicts is the Dice that masks have: the calibration curve of an audit."""

from typing import TYPE_CHECKING

from qgbench.quality.audit import ScoreAudit
from qgbench.report.figures import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIDE, _BARS, _LEFT, _TOP = 2.6, 0.7, 0.55, 0.15


def draw_calibration(audit: ScoreAudit) -> "Figure":
    """Return mean true Dice by predicted Dice, with 95 % intervals over groups, above how many masks there are."""
    figure = style.blank(_TOP + _SIDE + 0.15 + _BARS + 0.45, _LEFT + _SIDE + 0.15)
    curve = style.place(figure, _LEFT, _TOP, _SIDE, _SIDE)
    counts = style.place(figure, _LEFT, _TOP + _SIDE + 0.15, _SIDE, _BARS)
    curve.plot([0, 1], [0, 1], color=style.GREY, linewidth=0.7, linestyle=(0, (4, 2)), gid="diagonal")
    known = [(each.mean_score, each.dice) for each in audit.calibration if each.mean_score is not None]
    for score, dice in known:
        if dice.low is not None and dice.high is not None:
            curve.plot([score, score], [dice.low, dice.high], color=style.BLUE, linewidth=0.9)
    points = [(score, dice.value) for score, dice in known]
    curve.plot(*zip(*points, strict=True), color=style.BLUE, marker="o", gid="curve")
    curve.set_xlim(0, 1)
    curve.set_ylim(0, 1)
    curve.set_xticklabels([])
    curve.set_ylabel("mean true Dice")
    edges = [each.low for each in audit.calibration]
    width = audit.calibration[0].high - audit.calibration[0].low
    counts.bar(edges, [each.masks for each in audit.calibration], width, align="edge", color=style.LIGHT_GREY)
    counts.set_xlim(0, 1)
    counts.set_xlabel("predicted Dice")
    counts.set_ylabel("masks")
    return figure
