"""The mean of several data sets' true means: one answer over data sets, by one of two rules.

Table d (one data set) has a true mean ``mu_d``; asked is ``mu = (mu_1 + ... + mu_D) / D``, equal weights. Averages over
methods and regimes are made before, inside a table, where they share groups and seeds. Which rule is taken depends on
the plan of the experiment alone, never on its results: with 4 or more data sets of which one has fewer than 4 seeds
"t over sets", else "combined" (`Estimate.method`).

**"combined".** With ``h_d`` the half-width of table d's own interval (`crossed.half_width`), the half-width is
``h = sqrt(sum h_d**2) / D``: each mean square of each table keeps the t quantile of its own degrees of freedom, as in
Banerjee's interval (Sankhya 22, 1960, 357-358). It holds its level by crossed.py's argument. Let ``V_d`` be the
variance of mean d, ``V = sum V_d / D**2`` that of their mean, ``w_d = V_d / (D**2 V)`` its shares, F the distribution
function of chi-square(1), which is concave. The tables being independent,

    P(covered) = E F(h**2 / V) = E F(sum w_d h_d**2 / V_d) >= sum w_d E F(h_d**2 / V_d) >= 1 - alpha

where the last step says that each table's interval holds its level. It is about these D sets, however different their
``mu_d``. Price: where no table dominates, it covers more: of five data sets with 3 seeds, a true null is rejected in
0.2 % of cases (``perf/null_simulation.py 6``).

**"t over sets".** One-sample Student's t, D - 1 degrees of freedom, over the D tables' means. Of independent normal
means with any unequal variances it rejects in at most alpha for every alpha <= 0.083 (Bakirov & Szekely, J. Math. Sci.
139, 2006, 6497-6505; Ibragimov & Mueller, JBES 28, 2010, 453-468). Above 0.083 that is not proven, so a p above it is
only indicative. How a table's mean got its variance does not matter: one seed is enough. Each mean has to be about
normal, which is why tables of fewer than `MIN_GROUPS` groups withhold p here too (five sets of one group each, strongly
skewed: 7 % of true nulls rejected). Spread between the ``mu_d`` counts as noise: the claim is about data sets of which
these are a sample, the theorem covers it if the ``mu_d`` are normal too, and power falls where sets differ. For these
very sets, their ``mu_d`` unequal and fixed, the theorem does not hold: where the standard error of one mean is 5 or 10
times the others' and its ``mu_d`` lies apart, up to 9 or 15 % of true nulls are rejected; while standard errors differ
at most threefold no more than 5 % were found (same script, table 8).

**Why not one rule.** At +2 points, five sets of 3 seeds that are alike, the combined interval has 48 % power and t over
sets 79 %; from 4 seeds on combined has as much, and keeps it where sets differ (same script, table 6).

**Independence.** Both rules take tables of different data sets for independent, though they count their seeds alike. In
protocols 1 and 2 that does not hold: seed k starts all data sets from the same initial weights, with the same random
numbers for order and views. What a seed does on all sets adds up instead of averaging out, and the interval is too
narrow (BENCHMARK.md, "What these answers rest on"). Cells that also share labelled images (two methods, budgets or
networks on one data set) are averaged inside one table.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import scipy

from qgbench.base.errors import QGBenchError
from qgbench.stats import crossed
from qgbench.stats.crossed import MIN_GROUPS, Estimate, MeanSquares, Method

_LEAST_SETS, _ENOUGH_SEEDS = 4, 4
_LEAST_LOG_P = -300.0  # at less, the squared t quantile of one degree of freedom overflows


def rule(seeds: Sequence[int]) -> Method:
    """Return "combined" or "t over sets", by the numbers of seeds of D data sets (module docstring)."""
    return "t over sets" if len(seeds) >= _LEAST_SETS and min(seeds) < _ENOUGH_SEEDS else "combined"


def half_width(squares: Sequence[MeanSquares], alpha: float = 0.05) -> np.ndarray:
    """Return the half-width of the 1 - `alpha` interval of the mean of tables' means by the rule "combined".

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


def half_width_over_sets(means: np.ndarray, alpha: float = 0.05) -> np.ndarray:
    """Return the half-width of the 1 - `alpha` interval of the mean of tables' means by the rule "t over sets".

    Parameters
    ----------
    means : (D, ...) float
        Each data set's mean, D >= 2.
    alpha : float
        In (0, 0.083]; above, nothing is proven.

    Returns
    -------
    (...) float
        In the units of the values.
    """
    sets = len(means)
    return -scipy.special.stdtrit(sets - 1, alpha / 2) * means.std(axis=0, ddof=1) / math.sqrt(sets)


def estimate_mean_of(tables: Mapping[str, np.ndarray]) -> Estimate:
    """Return an estimate of the mean, with equal weights, of several independent data sets' true means.

    Parameters
    ----------
    tables : mapping of data set's name to (G_d, S_d) float
        One table of each data set (`crossed.estimate`), for example differences of twins in Dice, in [-1, 1].

    Returns
    -------
    Estimate
        Of one data set its `crossed.estimate`. Of several: ``groups`` is the sum over tables, ``seeds`` the least,
        ``method`` the rule. The p-values are withheld if any table has fewer than `MIN_GROUPS` groups; under "combined"
        also if any has one seed, and the interval if any has one group. `Estimate.reason` names the data sets. Under
        "t over sets" a p above 0.083 is only indicative. ``wilcoxon_p`` is None: ranks over all groups would weigh data
        sets by their groups.

    Raises
    ------
    QGBenchError
        There is no table, or one is empty or not finite.
    """
    if not tables:
        raise QGBenchError("expected at least one table (groups, seeds), got none")
    values = {name: np.asarray(table, dtype=float) for name, table in tables.items()}
    if len(values) == 1:
        return crossed.estimate(next(iter(values.values())))
    parts = {name: crossed.estimate(table, tested=False) for name, table in values.items()}
    means = np.array([part.mean for part in parts.values()])
    mean, seeds = float(means.mean()), [part.seeds for part in parts.values()]
    few = ", ".join(f"{part.groups} in {name}" for name, part in parts.items() if part.groups < MIN_GROUPS)
    reasons = [f"p withheld: too few test groups ({few}), at least {MIN_GROUPS} are needed"] if few else []

    width = error = p = None
    method = rule(seeds)
    if method == "t over sets":
        width, error = float(half_width_over_sets(means)), float(scipy.stats.sem(means))
        if not few:
            p = _student(mean, error, len(means) - 1)
    else:
        single = ", ".join(name for name, part in parts.items() if part.seeds == 1)
        lone = ", ".join(name for name, part in parts.items() if part.groups == 1)
        if single:
            reasons.append(f"p withheld: one seed says nothing about other seeds ({single})")
        if lone:
            reasons.append(f"no interval: one test group ({lone})")
        elif single:
            reasons.append(f"the interval is over test groups only in {single}")
        if not lone:
            widths = [(part.interval[1] - part.interval[0]) / 2 for part in parts.values() if part.interval is not None]
            errors = [part.standard_error for part in parts.values() if part.standard_error is not None]
            width, error = math.hypot(*widths) / len(means), math.hypot(*errors) / len(means)
        if not few and not single:
            p = _p_value([crossed.mean_squares(table) for table in values.values()], mean)
    return Estimate(
        groups=sum(part.groups for part in parts.values()),
        seeds=min(seeds),
        mean=mean,
        interval=None if width is None else (mean - width, mean + width),
        standard_error=error,
        p=p,
        p_false=None if p is None else p / 2,
        wilcoxon_p=None,
        reason="; ".join(reasons),
        method=method,
        p_withheld=p is None,
    )


def _student(mean: float, error: float, degrees: int) -> float:
    """Return two-sided p of ``t = mean / error``, where an error of 0 leaves no doubt."""
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * scipy.special.stdtr(degrees, -abs(mean) / error))


def _p_value(squares: Sequence[MeanSquares], mean: float) -> float:
    """Return the level at which the combined interval just touches 0."""
    if mean == 0:
        return 1.0

    def beyond(log_p: float) -> float:
        return math.log(float(half_width(squares, math.exp(log_p))) / abs(mean))

    if not any(table.variance > 0 for table in squares):
        return 0.0
    if beyond(_LEAST_LOG_P) <= 0:
        return math.exp(_LEAST_LOG_P)
    return math.exp(scipy.optimize.brentq(beyond, _LEAST_LOG_P, -1e-12, xtol=1e-13))
