"""Crossed random effects of test groups x seeds: the one model behind every interval and p-value.

A table ``y`` of shape (G, S) holds one number for each test group (patient, lesion, video) and each seed: a group's
mean Dice, or the difference of two twins. Groups and seeds are both samples, each seed meets each group once, so

    y[g, s] = mu + a[g] + b[s] + e[g, s],     Var(mean) = (E MS_group + E MS_seed - E MS_res) / (G S)

(two-way random model without replication: Searle, Casella & McCulloch, Variance Components, 1992, ch. 4).

**Interval.** With ``t_x`` the two-sided Student quantile of x's degrees of freedom (group: G - 1, seed: S - 1,
res: (G - 1)(S - 1)), the half-width ``h`` of the interval around the grand mean is

    G S h**2 = max( t_group**2 max(MS_group - MS_res, 0) + t_seed**2 MS_seed,
                    t_group**2 MS_group,  t_seed**2 MS_seed,  t_res**2 MS_res )

(with more seeds than groups, MS_res is subtracted from MS_seed instead). Without the quantiles this is the usual
variance estimate with its floor, ``max(MS_group + MS_seed - MS_res, MS_group, MS_seed, MS_res)``: E MS_group and
E MS_seed are never below E MS_res, so the variance is never taken to be below any mean square over G S.

**Why not Satterthwaite's degrees of freedom** (Biometrics Bulletin 2, 1946, 110-114) for that variance, with one t
quantile for the whole: they are themselves estimated, and from few seeds badly. A seed mean square that is small by
chance makes the variance small *and* the degrees of freedom many. A true null at nominal 5 % is then rejected in up to
12.8 % of cases with 2 seeds, 7.8 % with 3, 5.8 % with 5 (``perf/null_simulation.py``). Here each mean square keeps a
quantile of its own degrees of freedom, as in Banerjee's interval for a sum of variances (Sankhya 22, 1960, 357-358).
It holds its level because the distribution function F of chi-square(1) is concave: with ``w_i`` the true shares of
the variance,

    P(covered) = E F(sum w_i t_i**2 MS_i / E MS_i) >= sum w_i E F(t_i**2 MS_i / E MS_i) = 1 - alpha

The subtraction of MS_res, which that proof lacks, is made from the mean square with more degrees of freedom. The proof
covers its limits (MS_res negligible; that factor without an effect), and between them no rejection rate above 5 %
was found beyond two standard errors of the search (0.2 points, same script). Price: where neither groups nor seeds
dominate, fewer true nulls are rejected than 5 % (least: 0.2 % with 2 seeds, 0.5 % with 3, 0.9 % with 5), and intervals
cover 95 to 99.8 %. Two seeds hardly ever show anything (t = 12.7): use five.

**Where the level breaks.** The model is normal. Where differences are strongly skewed and few groups carry them, the
interval is nearly Student's t over the groups, and p < 0.05 occurs in up to 8 % of true nulls (table 7 of
``perf/null_simulation.py``: 4 seeds or more, fewer than 20 groups; with more groups in up to 6 %). Remedies that hold
the level there cost 10 to 20 points of power where nothing is skewed (table 9); instead `Estimate.reason` carries a
warning wherever such a p is below 0.05.

**p** is the level at which the interval just touches 0. The **one-sided p** is half of it: p of "the true mean has not
the sign of the estimate", 0.5 where the estimate is 0.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import scipy

from qgbench.base.errors import QGBenchError

MIN_GROUPS = 6
"""Fewer test groups than this, and no p-value is given."""

# Where a claim may rest on the skewness of few groups (module docstring).
_FEW_GROUPS, _LEAST_SEEDS, _GROUPS_SHARE = 20, 4, 0.7
_TOO_SMALL = "p may be too small"

Method: TypeAlias = Literal["crossed", "these sets", "these sets, shared seeds", "sets like these"]
"""Crossed random effects of one table; the others are over several data sets (`qgbench.stats.sets`)."""

Component: TypeAlias = tuple[np.ndarray, int]
"""A mean square, shape (...), and its degrees of freedom."""


class MeanSquares(NamedTuple):
    """Two-way analysis of variance without replication; arrays of shape (...), one entry a table."""

    mean: np.ndarray
    group: np.ndarray
    seed: np.ndarray
    residual: np.ndarray
    groups: int
    seeds: int

    @property
    def parts(self) -> tuple[Component, Component]:
        """Groups' and seeds' parts of G S times the variance: their mean squares, MS_res subtracted from one."""
        group, seed = self.group, self.seed
        if self.groups >= self.seeds:
            group = np.maximum(group - self.residual, 0)
        else:
            seed = np.maximum(seed - self.residual, 0)
        return (group, self.groups - 1), (seed, self.seeds - 1)

    @property
    def floors(self) -> tuple[Component, Component, Component]:
        """Mean squares that G S times the variance is never below."""
        n_group, n_seed = self.groups - 1, self.seeds - 1
        return (self.group, n_group), (self.seed, n_seed), (self.residual, n_group * n_seed)

    @property
    def variance(self) -> np.ndarray:
        """Variance of the grand mean, floored (module docstring); shape (...), in squared units of the values."""
        (group, _), (seed, _) = self.parts
        return np.maximum.reduce([group + seed, *(floor for floor, _ in self.floors)]) / (self.groups * self.seeds)


@dataclass(frozen=True)
class Estimate:
    """A mean over test groups and seeds, and how sure it is. Units are those of the values."""

    groups: int
    seeds: int
    mean: float
    interval: tuple[float, float] | None
    """95 % confidence interval; None with one group. With one seed it is over groups only."""
    standard_error: float | None
    p: float | None
    """Two-sided p of "the true mean is 0"; None where withheld."""
    p_one_sided: float | None
    """p of "the true mean has not the sign of `mean`", half of `p`; None where that is."""
    wilcoxon_p: float | None
    """Wilcoxon signed-rank (Pratt) of the groups' means over seeds: blind to seed variance; None where `p` is."""
    reason: str
    """What is withheld and why, or why p may be too small, in words joined by "; "; empty if there is neither."""
    method: Method = "crossed"
    """Rule that gave interval and p."""
    p_withheld: bool = False
    """Whether one seed or few groups allow no p, asked for or not: then the interval allows no verdict either."""


def mean_squares(values: np.ndarray) -> MeanSquares:
    """Return the mean squares of tables.

    Parameters
    ----------
    values : (..., G, S) float
        Balanced tables, G >= 2 groups by S >= 2 seeds.

    Returns
    -------
    MeanSquares
        ``group = S sum_g (y[g,.] - y[.,.])**2 / (G-1)``, ``seed = G sum_s (y[.,s] - y[.,.])**2 / (S-1)``,
        ``residual = sum (y[g,s] - y[g,.] - y[.,s] + y[.,.])**2 / ((G-1)(S-1))``.
    """
    groups, seeds = values.shape[-2:]
    mean = values.mean(axis=(-2, -1))
    by_group = values.mean(axis=-1) - mean[..., None]
    by_seed = values.mean(axis=-2) - mean[..., None]
    residual = values - mean[..., None, None] - by_group[..., :, None] - by_seed[..., None, :]
    return MeanSquares(
        mean=mean,
        group=seeds * (by_group**2).sum(axis=-1) / (groups - 1),
        seed=groups * (by_seed**2).sum(axis=-1) / (seeds - 1),
        residual=(residual**2).sum(axis=(-2, -1)) / ((groups - 1) * (seeds - 1)),
        groups=groups,
        seeds=seeds,
    )


def half_width(squares: MeanSquares, alpha: float = 0.05) -> np.ndarray:
    """Return the half-width, shape (...), of the 1 - `alpha` interval of the grand mean (module docstring)."""
    tail = alpha / 2
    group, seed = (scipy.special.stdtrit(degrees, tail) ** 2 * part for part, degrees in squares.parts)
    floors = (scipy.special.stdtrit(degrees, tail) ** 2 * floor for floor, degrees in squares.floors)
    return np.sqrt(np.maximum.reduce([group + seed, *floors]) / (squares.groups * squares.seeds))


def _t_test(squared_sum: float, mean_square: float, degrees: int) -> float:
    """Return two-sided p of ``t**2 = squared_sum / mean_square``, where a mean square of 0 leaves no doubt."""
    return float(2 * scipy.special.stdtr(degrees, -math.sqrt(squared_sum / mean_square))) if mean_square > 0 else 0.0


def _p_value(squares: MeanSquares) -> float:
    """Return the level at which the interval of one table just touches 0."""
    target = float(squares.mean**2) * squares.groups * squares.seeds
    if target == 0:
        return 1.0

    (group, n_group), (seed, n_seed) = ((float(part), degrees) for part, degrees in squares.parts)

    def beyond(log_p: float) -> float:
        # scipy.special, not scipy.stats.t: the same numbers, and this is called for each of thousands of contrasts.
        tail = math.exp(log_p) / 2
        by_group, by_seed = scipy.special.stdtrit(n_group, tail), scipy.special.stdtrit(n_seed, tail)
        return float(by_group**2 * group + by_seed**2 * seed) - target

    # Either part alone gives a narrower interval than both, hence a lower bound of p.
    added = max(_t_test(target, group, n_group), _t_test(target, seed, n_seed))
    if added > 0 and group > 0 and seed > 0:
        added = math.exp(scipy.optimize.brentq(beyond, math.log(added) - 1e-6, 0.0, xtol=1e-13))
    return max([added, *(_t_test(target, float(floor), degrees) for floor, degrees in squares.floors)])


def rests_on_few_groups(squares: MeanSquares) -> np.ndarray:
    """Return whether the 95 % interval is nearly Student's over so few groups that skewed differences break its level.

    That is with fewer than 20 groups, 4 seeds or more, and a groups' part of at least 0.7 of the squared half-width;
    shape (...) bool.
    """
    by_groups = scipy.special.stdtrit(squares.groups - 1, 0.025) ** 2 * squares.group
    large = by_groups > _GROUPS_SHARE * half_width(squares) ** 2 * squares.groups * squares.seeds
    return large & (squares.groups < _FEW_GROUPS) & (squares.seeds >= _LEAST_SEEDS)


def estimate(values: np.ndarray, tested: bool = True) -> Estimate:
    """Return an estimate of the mean of one table.

    Parameters
    ----------
    values : (G, S) float
        One value for each test group and seed: group means of a cell, or paired differences of two twins.
    tested : bool
        False where nobody asks whether the mean is 0, as of a cell's Dice: the p-values are then None.

    Returns
    -------
    Estimate
        All-equal-to-zero values give mean 0, interval (0, 0), p = 1. With one seed the interval is Student's over
        groups, ``t_{G-1} SD / sqrt(G)``; with one group there is none; with one seed or fewer than `MIN_GROUPS` groups
        the p-values are withheld, and `Estimate.reason` says so. It also warns where p < 0.05 rests on fewer than 20
        groups (module docstring).

    Raises
    ------
    QGBenchError
        The table is empty or not finite.
    """
    values = np.asarray(values, dtype=float)
    if values.ndim != 2 or values.size == 0 or not np.isfinite(values).all():
        raise QGBenchError(f"expected a full table (groups, seeds) of finite values, got shape {values.shape}")
    groups, seeds = values.shape
    mean = float(values.mean())
    reasons = []
    if groups < MIN_GROUPS:
        counted = "1 test group" if groups == 1 else f"{groups} test groups"
        reasons.append(f"p withheld: {counted}, at least {MIN_GROUPS} are needed")
    if seeds == 1:
        reasons.append("p withheld: one seed says nothing about other seeds")
    if groups == 1:
        reasons.append("no interval: one test group")
    elif seeds == 1:
        reasons.append("the interval is over test groups only")

    width = error = p = wilcoxon = None
    if groups > 1 and seeds == 1:
        error = float(values.std(ddof=1)) / math.sqrt(groups)
        width = -float(scipy.special.stdtrit(groups - 1, 0.025)) * error
    elif groups > 1:
        squares = mean_squares(values)
        error = math.sqrt(float(squares.variance))
        width = float(half_width(squares))
        if groups >= MIN_GROUPS and tested:
            p = _p_value(squares)
            wilcoxon = _wilcoxon(values.mean(axis=1))
            if p < 0.05 and rests_on_few_groups(squares):
                reasons.append(
                    f"{_TOO_SMALL}: it rests on {groups} test groups, and where one or two of them carry a "
                    "difference p < 0.05 occurs in up to 8 % of true nulls"
                )
    return Estimate(
        groups=groups,
        seeds=seeds,
        mean=mean,
        interval=None if width is None else (mean - width, mean + width),
        standard_error=error,
        p=p,
        p_one_sided=None if p is None else p / 2,
        wilcoxon_p=wilcoxon,
        reason="; ".join(reasons),
        p_withheld=groups < MIN_GROUPS or seeds == 1,
    )


def without_p(found: Estimate) -> Estimate:
    """Return an estimate whose p nobody may read, without the warning of that p either."""
    reasons = [reason for reason in found.reason.split("; ") if not reason.startswith(_TOO_SMALL)]
    return replace(found, p=None, p_one_sided=None, wilcoxon_p=None, reason="; ".join(reasons))


def _wilcoxon(group_means: np.ndarray) -> float:
    """Return two-sided p of Wilcoxon's signed-rank test; zeros ranked, then dropped (Pratt, JASA 54, 1959, 655-667)."""
    return float(scipy.stats.wilcoxon(group_means, zero_method="pratt").pvalue) if group_means.any() else 1.0


def holm(p_values: list[float]) -> list[float]:
    """Return p-values adjusted for their number, in the order given (Holm, Scand. J. Statist. 6, 1979, 65-70).

    The i-th smallest of m (from 0) is multiplied by m - i, made no smaller than the one before it, and cut at 1.
    """
    order = np.argsort(p_values)
    factors = np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(np.asarray(p_values, dtype=float)[order] * factors), 1)
    return [float(p) for p in adjusted]
