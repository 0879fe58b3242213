"""The mean of several tables' true means: one answer over data sets, with the level of `qgbench.stats.crossed`.

Table d (one data set) has a true mean ``mu_d``; asked is ``mu = (mu_1 + ... + mu_D) / D``, equal weights, the D sets
being fixed: nothing is claimed of sets that were not run. Averages over methods are made before, inside a table, where
methods share groups and seeds.

**Interval.** With ``h_d`` the half-width of table d's own interval (`crossed.half_width`), the half-width is
``h = sqrt(sum h_d**2) / D``: each mean square of each table keeps the t quantile of its own degrees of freedom, as in
Banerjee's interval (Sankhya 22, 1960, 357-358). It holds its level by crossed.py's argument. Let ``V_d`` be the
variance of mean d, ``V = sum V_d / D**2`` that of their mean, ``w_d = V_d / (D**2 V)`` its shares, F the distribution
function of chi-square(1), which is concave. The tables being independent,

    P(covered) = E F(h**2 / V) = E F(sum w_d h_d**2 / V_d) >= sum w_d E F(h_d**2 / V_d) >= 1 - alpha

where the last step says that each table's interval holds its level. Price: where no table dominates, it covers more:
of five data sets with 3 seeds, a true null is rejected in 0.2 % of cases (``perf/null_simulation.py 6``).

**Independence.** Seed k draws labelled images, initial weights and batches in each data set by itself: run k on one set
tells nothing about run k on another, and tables of different data sets are independent though they count their seeds
alike. If seeds did carry over (tables of one data set: two methods, budgets or networks on the same draws), their
effects would add up instead of averaging out and the interval would be too narrow: average such cells inside one table.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy import optimize

from qgbench.errors import QGBenchError
from qgbench.stats import crossed
from qgbench.stats.crossed import MIN_GROUPS, Estimate, MeanSquares

_LEAST_LOG_P = -300.0  # at less, the squared t quantile of one degree of freedom overflows


def half_width(squares: Sequence[MeanSquares], alpha: float = 0.05) -> np.ndarray:
    """Half-width of the 1 - `alpha` interval of the mean of tables' means (module docstring).

    Parameters
    ----------
    squares : sequence of D MeanSquares
        One for each data set, arrays of shape (...): replicates, in simulations.

    Returns
    -------
    (...) float
        In the units of the values.
    """
    return np.sqrt(sum(crossed.half_width(each, alpha) ** 2 for each in squares)) / len(squares)


def estimate_mean_of(tables: Sequence[np.ndarray]) -> Estimate:
    """Infer the mean, with equal weights, of several independent tables' true means.

    Parameters
    ----------
    tables : sequence of D (G_d, S_d) float
        One table of each data set (`crossed.estimate`), for example differences of twins in Dice, in [-1, 1].

    Returns
    -------
    Estimate
        ``groups`` is the sum over tables, ``seeds`` the least. The p-values are withheld if any table has one seed or
        fewer than `MIN_GROUPS` groups, the interval if any table has one group: `Estimate.reason` names the tables,
        counted from 1. ``wilcoxon_p`` is always None: ranks over all groups would weigh data sets by their groups.

    Raises
    ------
    QGBenchError
        There is no table, or one is empty or not finite.
    """
    if not tables:
        raise QGBenchError("expected at least one table (groups, seeds), got none")
    values = [np.asarray(table, dtype=float) for table in tables]
    parts = [crossed.estimate(table) for table in values]
    mean = float(np.mean([part.mean for part in parts]))

    few = [f"{part.groups} in table {i}" for i, part in enumerate(parts, 1) if part.groups < MIN_GROUPS]
    single = [str(i) for i, part in enumerate(parts, 1) if part.seeds == 1]
    lone = [str(i) for i, part in enumerate(parts, 1) if part.groups == 1]
    reasons = []
    if few:
        reasons.append(f"p withheld: test groups are too few ({', '.join(few)}), at least {MIN_GROUPS} are needed")
    if single:
        reasons.append(f"p withheld: one seed says nothing about other seeds (table {', '.join(single)})")
    if lone:
        reasons.append(f"no interval: one test group (table {', '.join(lone)})")
    elif single:
        reasons.append(f"the interval is over test groups only in table {', '.join(single)}")

    widths = [(part.interval[1] - part.interval[0]) / 2 for part in parts if part.interval is not None]
    errors = [part.standard_error for part in parts if part.standard_error is not None]
    width = None if lone else math.hypot(*widths) / len(parts)
    p = None if few or single else _p_value([crossed.mean_squares(table) for table in values], mean)
    return Estimate(
        groups=sum(part.groups for part in parts),
        seeds=min(part.seeds for part in parts),
        mean=mean,
        interval=None if width is None else (mean - width, mean + width),
        standard_error=None if lone else math.hypot(*errors) / len(parts),
        p=p,
        p_false=None if p is None else p / 2,
        wilcoxon_p=None,
        reason="; ".join(reasons),
    )


def _p_value(squares: Sequence[MeanSquares], mean: float) -> float:
    """Level at which the interval just touches 0."""
    if mean == 0:
        return 1.0

    def beyond(log_p: float) -> float:
        return math.log(float(half_width(squares, math.exp(log_p))) / abs(mean))

    if not any(table.variance > 0 for table in squares):
        return 0.0
    if beyond(_LEAST_LOG_P) <= 0:
        return math.exp(_LEAST_LOG_P)
    return math.exp(optimize.brentq(beyond, _LEAST_LOG_P, -1e-12, xtol=1e-13))
