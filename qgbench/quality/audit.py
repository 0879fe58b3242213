"""How well a score predicts true Dice. Imports no torch."""

import math
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from qgbench.base.schema import Correlation, Part, Share, finite_or_none

if TYPE_CHECKING:
    import pandas as pd

LABEL_COLUMNS = ["progress", "id", "class", "dice"]
HELD = "held"
"""The column, of several classes, that says whether a label holds the class (1) or not (0)."""
AUDIT_QUARTERS = 4  # pseudo-labels are audited at 25, 50, 75 and 100 % of the budget, where a method makes any
IMAGE_DEPENDENCE_LIMIT = 0.7  # largest correlation with the output for a blacked-out or swapped image that passes


class Agreement(Part):
    """How well a score predicts true Dice over a set of masks."""

    masks: int = Field(ge=1)
    pearson: Correlation | None = Field(description="None where either side is constant")
    spearman: Correlation | None
    mae: Share


class CheckpointAudit(Part):
    """Scores against the true Dice of pseudo-labels, within one checkpoint of the run (or pooled over all of them)."""

    progress: Share | None = Field(description="fraction of the step budget; None for the pooled row")
    mean_dice: Share
    scores: dict[str, Agreement] = Field(description="by name of score: 'g', 'confidence', 'agreement'")


class QualityAudit(Part):
    """What g is worth: on synthetic masks of the validation images, and on this run's own pseudo-labels."""

    synthetic: Agreement = Field(description="on masks drawn as those of g's training")
    synthetic_test: Agreement | None = Field(
        None,
        description="on the mixture of the release's test script (12 % unchanged, 18 % of other images), on which the "
        "paper's r and error were measured; None for g of version 2 and before",
    )
    weak_models: Agreement = Field(description="on the outputs of all weak models for the validation images, pooled")
    image_dependence: Correlation = Field(
        description="largest correlation of q with q of a blacked-out or swapped image; < 0.7: it depends on the image"
    )
    image_dependent: bool


def audited_after(steps: int, pseudo_labels: bool) -> dict[int, float]:
    """Return the steps after which a run audits its labels, and the fraction of its budget that each stands for.

    Parameters
    ----------
    steps : int
        The run's budget.
    pseudo_labels : bool
        Whether its method makes any; else its predictions are audited once, at the end.
    """
    if not pseudo_labels:
        return {steps: 1.0}
    after = sorted({math.ceil(steps * quarter / AUDIT_QUARTERS) for quarter in range(1, AUDIT_QUARTERS + 1)})
    return {step: (part + 1) / AUDIT_QUARTERS for part, step in enumerate(after)}


def agreement(score: np.ndarray, dice: np.ndarray) -> Agreement:
    """Return how well a score agrees with the true Dice of the same masks.

    Parameters
    ----------
    score, dice : (N,) float in [0, 1]

    Returns
    -------
    Agreement
        Pearson's r and Spearman's rho are None where either side is constant or fewer than 3 masks are given.
    """
    score, dice = np.asarray(score, float), np.asarray(dice, float)
    return Agreement(
        masks=len(score),
        pearson=_statistic("pearsonr", score, dice),
        spearman=_statistic("spearmanr", score, dice),
        mae=float(np.abs(score - dice).mean()),
    )


def _statistic(name: str, score: np.ndarray, dice: np.ndarray) -> float | None:
    from scipy import stats  # late: who reads records computes nothing

    varied = len(score) > 2 and np.ptp(score) > 0 and np.ptp(dice) > 0
    return finite_or_none(getattr(stats, name)(score, dice).statistic) if varied else None


def audits_of(labels: "pd.DataFrame") -> list[CheckpointAudit]:
    """Return how well every score predicts true Dice within each checkpoint, then pooled over all of them.

    Of several classes it is the mean over the classes that a label holds, of Dice and of each score, as q is; over all
    where it holds none. Pooled over classes, a score would seem to know labels where it knew which class is the easier
    one.

    Parameters
    ----------
    labels : DataFrame
        A row per pseudo-label and class: `LABEL_COLUMNS` (fraction of the step budget, image, class, true Dice), then,
        of several classes, `HELD`, then one for each score.
    """
    if labels.empty:
        return []
    if labels["class"].nunique() > 1:
        held = labels[HELD] == 1
        none = ~held.groupby([labels["progress"], labels["id"]]).transform("any")
        counted = labels[held | none].drop(columns=["class", HELD])
        labels = counted.groupby(["progress", "id"], sort=False, as_index=False).mean()

    known = {*LABEL_COLUMNS, HELD}

    def audit(progress: float | None, rows: "pd.DataFrame") -> CheckpointAudit:
        dice = rows["dice"].to_numpy(float)
        scores = {name: agreement(rows[name].to_numpy(float), dice) for name in rows if name not in known}
        return CheckpointAudit(progress=progress, mean_dice=float(dice.mean()), scores=scores)

    moments = labels["progress"].unique().tolist()
    return [*(audit(moment, labels[labels["progress"] == moment]) for moment in moments), audit(None, labels)]


def correlations(dice: np.ndarray, **scores: np.ndarray) -> dict[str, float | None]:
    """Return ``pearson_<name>`` of every score with true Dice, as `agreement` does.

    Parameters
    ----------
    dice : (N,) float in [0, 1]
    **scores : (N,) float in [0, 1]
        By name.
    """
    truth = np.asarray(dice, float)
    return {
        f"pearson_{name}": _statistic("pearsonr", np.asarray(score, float), truth) for name, score in scores.items()
    }


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Return Pearson's r, 0 where either side is constant: a constant output carries nothing of the other."""
    from scipy import stats  # late, as above

    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(stats.pearsonr(first, second).statistic)
