"""How large a difference is, and how far values spread, beside the inference of `qgbench.stats.crossed`.

All Dice in [0, 1]. G test groups, S seeds, N images; paired tables share groups (rows) and seeds (columns).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from qgbench.base.errors import QGBenchError


@dataclass(frozen=True)
class Spread:
    """Standard deviations (n - 1 in the denominator) of one cell, in the units of its values.

    None where there is one image, group or seed only.
    """

    images: float | None
    """Over images, of an image's mean over seeds."""
    groups: float | None
    """Over test groups, of a group's mean over its images and seeds."""
    seeds: float | None
    """Over seeds, of a run's mean over groups (each group's mean counts once, as in `crossed.estimate`)."""


@dataclass(frozen=True)
class Shape:
    """What a mean over images hides, in the units of the values; each is of a run, averaged over seeds.

    They describe the test images of a run, and have no interval.
    """

    median: float
    interquartile_mean: float
    """Mean of the middle half (a quarter cut off at each end, rounded down to whole images)."""
    worst_tenth: float
    """Mean of the worst 10 % of the images, rounded up to whole images."""


def shape(values: np.ndarray, higher_is_better: bool = True) -> Shape:
    """Return median, interquartile mean and worst tenth over images, averaged over seeds.

    The interquartile mean is that of Agarwal et al., Deep RL at the Edge of the Statistical Precipice, NeurIPS 2021.

    Parameters
    ----------
    values : (N, S) float
        Of each image, for each seed.
    higher_is_better : bool
        Which end is the worst.
    """
    ordered = np.sort(_full(np.asarray(values, dtype=float)), axis=0)
    worst = -(-len(ordered) // 10)
    tail = ordered[:worst] if higher_is_better else ordered[-worst:]
    return Shape(
        median=float(np.median(ordered, axis=0).mean()),
        interquartile_mean=float(scipy.stats.trim_mean(ordered, 0.25, axis=0).mean()),
        worst_tenth=float(tail.mean()),
    )


def spread(values: np.ndarray, groups: Sequence[str]) -> Spread:
    """Return how far images, test groups and runs of a cell lie apart.

    The three are descriptive and kept apart, because each answers another question (variance reporting: Bouthillier et
    al., Accounting for Variance in Machine Learning Benchmarks, MLSys 2021); none is a standard error.

    Parameters
    ----------
    values : (N, S) float
        One value for each image and seed, for example Dice in [0, 1].
    groups : sequence of N str
        The test group of each image.

    Raises
    ------
    QGBenchError
        The table is empty, holds what is not finite, or does not have a group for each image.
    """
    values = np.asarray(values, dtype=float)
    if values.ndim != 2 or values.size == 0 or len(groups) != len(values) or not np.isfinite(values).all():
        raise QGBenchError(
            f"expected finite values (images, seeds) and as many groups, got {values.shape}, {len(groups)}"
        )
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, index, values)
    by_group = sums / np.bincount(index)[:, None]
    return Spread(
        images=_deviation(values.mean(axis=1)),
        groups=_deviation(by_group.mean(axis=1)),
        seeds=_deviation(by_group.mean(axis=0)),
    )


def _deviation(values: np.ndarray) -> float | None:
    return float(values.std(ddof=1)) if len(values) > 1 else None


def probability_of_improvement(a: np.ndarray, b: np.ndarray) -> float:
    """Return an estimate of P(a > b) + P(a = b) / 2 for one test group in one run of each twin.

    The common-language effect size of paired data (McGraw & Wong, Psychological Bulletin 111, 1992, 361-365; for
    dependent samples Grissom & Kim, Effect Sizes for Research, 2005, ch. 5): the share of pairs with a > b, ties half.
    Pairs are (group, seed): twins meet the same groups after the same labelled draw, and pairing takes out what both
    find difficult (the unpaired share of rliable does not). Pairs are not averaged over seeds first, because then the
    number would go to 0 or 1 by running more seeds alone; this one estimates the same quantity with 2 seeds as with 20.

    Parameters
    ----------
    a, b : (G, S) float
        Group means of two twins, higher is better.

    Returns
    -------
    float
        In [0, 1]; 0.5 where neither is ahead.

    Raises
    ------
    QGBenchError
        The two differ in shape, or are empty or not finite.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.shape != b.shape:
        raise QGBenchError(f"expected two tables of one shape (groups, seeds), got {a.shape} and {b.shape}")
    return float((np.sign(_full(a - b)) / 2 + 0.5).mean())


def effect_size(differences: np.ndarray) -> float | None:
    """Return the standardised mean difference over test groups: d_z with Hedges' correction.

    ``d_z = mean / SD`` of the groups' differences averaged over seeds (Cohen, Statistical Power Analysis, 1988, 2.3.5),
    times ``J = gamma(m/2) / (sqrt(m/2) gamma((m-1)/2))``, m = G - 1, which removes the bias of few groups (Hedges,
    Journal of Educational Statistics 6, 1981, 107-128). It describes these runs: averaging more seeds raises it.

    Parameters
    ----------
    differences : (G, S) float
        Paired differences of group means.

    Returns
    -------
    float or None
        In standard deviations; None with fewer than 3 groups (J is undefined) or where all groups agree.

    Raises
    ------
    QGBenchError
        The table is empty or not finite.
    """
    groups = _full(np.asarray(differences, dtype=float)).mean(axis=1)
    m = len(groups) - 1
    if m < 2 or np.ptp(groups) == 0:
        return None
    correction = math.exp(scipy.special.gammaln(m / 2) - scipy.special.gammaln((m - 1) / 2)) / math.sqrt(m / 2)
    return float(correction * groups.mean() / groups.std(ddof=1))


def headroom_share(difference: float, budget: float, full: float) -> float | None:
    """Return the share that a difference makes up of what all labels would gain over the budget's labels.

    ``difference / (full - budget)``: the gap-closure ratio that label-efficient learning reports.

    Parameters
    ----------
    difference : float
        Gain in Dice, in [-1, 1].
    budget, full : float
        Dice in [0, 1] of supervised training on the labelled budget, and on all labels.

    Returns
    -------
    float or None
        1 where the gain equals the headroom, negative for a loss; None where the headroom is not positive.
    """
    headroom = full - budget
    return difference / headroom if headroom > 0 else None


def _full(table: np.ndarray) -> np.ndarray:
    if table.ndim != 2 or table.size == 0 or not np.isfinite(table).all():
        raise QGBenchError(f"expected a full table (groups, seeds) of finite values, got shape {table.shape}")
    return table
