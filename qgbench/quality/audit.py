"""How well a score predicts true Dice."""

import numpy as np
from scipy import stats

from qgbench.records import Agreement, finite_or_none


def agreement(score: np.ndarray, dice: np.ndarray) -> Agreement:
    """Compare a score with the true Dice of the same masks.

    Parameters
    ----------
    score, dice : (N,) float in [0, 1]

    Returns
    -------
    Agreement
        Pearson's r and Spearman's rho are None where either side is constant or fewer than 3 masks are given.
    """
    score, dice = np.asarray(score, float), np.asarray(dice, float)
    varied = len(score) > 2 and np.ptp(score) > 0 and np.ptp(dice) > 0
    return Agreement(
        masks=len(score),
        pearson=finite_or_none(stats.pearsonr(score, dice).statistic) if varied else None,
        spearman=finite_or_none(stats.spearmanr(score, dice).statistic) if varied else None,
        mae=float(np.abs(score - dice).mean()),
    )


def correlations(dice: np.ndarray, **scores: np.ndarray) -> dict[str, float | None]:
    """Give ``pearson_<name>`` of every score with true Dice, as `agreement` does.

    Parameters
    ----------
    dice : (N,) float in [0, 1]
    **scores : (N,) float in [0, 1]
        By name.
    """
    return {f"pearson_{name}": agreement(score, dice).pearson for name, score in scores.items()}


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's r, 0 where either side is constant: a constant output carries nothing of the other."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(stats.pearsonr(first, second).statistic)
