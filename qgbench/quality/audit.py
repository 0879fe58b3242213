"""How well a score predicts true Dice. Imports no torch."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from qgbench.base.schema import Correlation, Part, Share, finite_or_none

if TYPE_CHECKING:
    import pandas as pd

LABEL_COLUMNS = ["progress", "id", "class", "dice"]
HELD = "held"
"""The column, of several classes, that says whether a label holds the class (1) or not (0)."""
AUDIT_QUARTERS = 4  # pseudo-labels are audited at 25, 50, 75 and 100 % of the budget, where a method makes any
FAILED = 0.7  # masks of a lower true Dice are failures, which AUROC asks a score to find
CALIBRATION_BINS = 10  # of equal width, from 0 to 1
_REPLICATES = 1000  # of a bootstrap
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


class Estimate(Part):
    """A number and its 95 % interval, of a bootstrap over groups; None where it cannot be computed."""

    value: float | None
    low: float | None
    high: float | None


class CalibrationBin(Part):
    """Masks whose score lies in one interval."""

    low: Share
    high: Share
    masks: int
    mean_score: Share | None = Field(description="None where there is no mask")
    dice: Estimate = Field(description="mean true Dice")


class ScoreAudit(Part):
    """How well a score predicts the true Dice of masks on images of several groups."""

    masks: int
    groups: int
    failures: int = Field(description=f"masks whose true Dice is below {FAILED}")
    mean_dice: Share
    pearson: Estimate
    spearman: Estimate
    mae: Estimate
    auroc: Estimate = Field(description="of finding failures: 0.5 is chance, 1 perfect")
    aurc: Estimate = Field(description="mean risk (1 - Dice) of the masks kept, over all shares kept; less is better")
    aurc_random: Share = Field(description="AURC of a score that knows nothing: the mean risk")
    aurc_best: Share = Field(description="AURC of the true Dice itself")
    image_dependence: Estimate | None = Field(description="as in `QualityAudit`; None where it was not asked")
    calibration: list[CalibrationBin]


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


def auroc(score: np.ndarray, dice: np.ndarray, failed: float = FAILED) -> float | None:
    """Return the chance that a failure has a lower score than a mask that is none; ties count one half.

    Parameters
    ----------
    score, dice : (N,) float in [0, 1]
    failed : float
        A mask fails whose true Dice is below it.

    Returns
    -------
    float or None
        Area under the ROC curve, 0 to 1; None where all masks are failures, or none is.
    """
    from scipy.stats import rankdata  # late, as above

    fails = np.asarray(dice) < failed
    bad = int(fails.sum())
    good = len(fails) - bad
    if not bad or not good:
        return None
    ranks = rankdata(score)
    return float((ranks[~fails].sum() - good * (good + 1) / 2) / (bad * good))


def aurc(score: np.ndarray, dice: np.ndarray) -> float:
    """Return the area under the risk-coverage curve (Geifman et al., 2019), of the risk 1 - Dice.

    Masks are kept from the highest score down; for each number kept the mean risk of these counts, and the area is the
    mean over all numbers from 1 to N. Among equal scores it is the mean over all orders.

    Parameters
    ----------
    score, dice : (N,) float in [0, 1]
        At least one.

    Returns
    -------
    float
        From 0 to 1; less is better.
    """
    _, place, count = np.unique(-np.asarray(score, float), return_inverse=True, return_counts=True)
    risk = np.bincount(place, 1 - np.asarray(dice, float)) / count  # a tie's mean: what any order gives on average
    in_order = np.repeat(risk, count)
    return float((np.cumsum(in_order) / np.arange(1, len(in_order) + 1)).mean())


def audit_score(
    score: np.ndarray, dice: np.ndarray, groups: Sequence[str], elsewhere: np.ndarray | None = None, seed: int = 0
) -> ScoreAudit:
    """Return how well a score predicts true Dice, each number with an interval over groups.

    Intervals are the 2.5 and 97.5 percentiles of 1000 bootstrap samples of whole groups. They are None where there is
    one group, and of few groups they are too narrow.

    Parameters
    ----------
    score, dice : (N,) float in [0, 1]
    groups : sequence of str, (N,)
        Patient, lesion or video of each mask's image.
    elsewhere : (2, N) float, optional
        The score of the same masks on other images, for the image dependence.
    seed : int
        Of the bootstrap.
    """
    from scipy.stats import rankdata  # late, as above

    score, dice = np.asarray(score, float), np.asarray(dice, float)
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    bin_of = np.clip(np.digitize(score, edges[1:-1]), 0, CALIBRATION_BINS - 1)

    def dependence(rows: NDArray[np.intp]) -> float | None:
        # A constant output carries nothing of the other, as in `correlation`.
        return None if elsewhere is None else max(_pearson(score[rows], other[rows]) or 0.0 for other in elsewhere)

    def mean_in(index: int) -> "_Statistic":
        def mean(rows: NDArray[np.intp]) -> float | None:
            inside = dice[rows][bin_of[rows] == index]
            return float(inside.mean()) if len(inside) else None

        return mean

    statistics: dict[str, _Statistic] = {
        "pearson": lambda rows: _pearson(score[rows], dice[rows]),
        "spearman": lambda rows: _pearson(rankdata(score[rows]), rankdata(dice[rows])),
        "mae": lambda rows: float(np.abs(score[rows] - dice[rows]).mean()),
        "auroc": lambda rows: auroc(score[rows], dice[rows]),
        "aurc": lambda rows: aurc(score[rows], dice[rows]),
        "dependence": dependence,
        **{f"bin {index}": mean_in(index) for index in range(CALIBRATION_BINS)},
    }
    found = _over_groups(statistics, groups, seed)
    bins = []
    for index in range(CALIBRATION_BINS):
        inside = score[bin_of == index]
        bins.append(
            CalibrationBin(
                low=edges[index],
                high=edges[index + 1],
                masks=len(inside),
                mean_score=float(inside.mean()) if len(inside) else None,
                dice=found[f"bin {index}"],
            )
        )
    return ScoreAudit(
        masks=len(score),
        groups=len(set(groups)),
        failures=int((dice < FAILED).sum()),
        mean_dice=float(dice.mean()),
        **{name: found[name] for name in ("pearson", "spearman", "mae", "auroc", "aurc")},
        aurc_random=float(1 - dice.mean()),
        aurc_best=aurc(dice, dice),
        image_dependence=None if elsewhere is None else found["dependence"],
        calibration=bins,
    )


def _pearson(first: np.ndarray, second: np.ndarray) -> float | None:
    """Return what `_statistic` does for 'pearsonr', but for last bits, without scipy's p, which takes a thousandth."""
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return finite_or_none(float(np.corrcoef(first, second)[0, 1]))


_Statistic = Callable[[NDArray[np.intp]], float | None]


def _over_groups(statistics: Mapping[str, _Statistic], groups: Sequence[str], seed: int) -> dict[str, Estimate]:
    """Return statistics of rows, and the percentiles of those of samples of groups, drawn with replacement."""
    _, group_of = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    members = [np.flatnonzero(group_of == group) for group in range(group_of.max() + 1)]
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {name: [] for name in statistics}
    for _ in range(_REPLICATES if len(members) > 1 else 0):
        rows = np.concatenate([members[group] for group in rng.integers(len(members), size=len(members))])
        for name, statistic in statistics.items():
            if (value := statistic(rows)) is not None:
                drawn[name].append(value)
    whole = np.arange(len(group_of))
    estimates = {}
    for name, statistic in statistics.items():
        value, values = statistic(whole), drawn[name]
        known = value is not None and len(values) > 1
        low, high = np.percentile(values, [2.5, 97.5]).tolist() if known else (None, None)
        estimates[name] = Estimate(value=value, low=low, high=high)
    return estimates
