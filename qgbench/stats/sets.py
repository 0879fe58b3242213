"""The mean over data sets: of these sets, and of a population of sets. Two questions, two answers.

Table d (one of D data sets) has a true mean ``mu_d``; averages over methods and regimes are made before, inside a
table, where they share groups and seeds. Asked is ``mu = (mu_1 + ... + mu_D) / D``, equal weights.

**These sets** (`these_sets`): these D data sets, new patients, new seeds. Each table follows crossed.py's model, so

    Var(mean) = sum_d V_d / D**2,    V_d = (E MS_group + E MS_seed - E MS_res) / (G_d S_d)

The parts of one kind, ``v_d = MS_d / (G_d S_d D**2)`` with ``n_d`` degrees of freedom each, are summed over sets.
Welch and Satterthwaite (Biometrika 29, 1938, 350-362; Biometrics Bulletin 2, 1946, 110-114) give their sum
``w = (sum v_d)**2 / sum(v_d**2 / n_d)`` degrees of freedom, never less than the least of one set, ``n = min n_d``.
Taken are ``n + (n - 1) / (n + 1) (w - n)``: n itself with two seeds, a third of the way from n to w with three, 3/5
with five.
With t the quantiles of these,

    h**2 = max( t_group**2 sum max(MS_group - MS_res, 0) / (G S D**2) + t_seed**2 sum MS_seed / (G S D**2),
                the same of MS_group alone, of MS_seed alone, of MS_res alone )

which is crossed.py's interval where D is 1, and each kind keeps a quantile of its own for the reason given there.

*Why not all of the way.* Satterthwaite's degrees of freedom for the whole variance, Welch's for each kind, and seeds
pooled over sets reject a true null too often: a mean square that is small by chance makes the variance small and the
degrees of freedom many. ``perf/null_simulation.py 6`` prints all of these side by side. Pooled seeds, D (S - 1) degrees
of freedom, hold 5 % only where all sets have the same seed variance, which 2 degrees of freedom a set cannot show: a
test of it before, at 25 %, leaves up to 7 % of true nulls rejected with 3 seeds. What is taken holds 5 % whatever the
sets' variances; its price with 3 seeds is power, with 5 hardly any.

**Seeds that sets share** (protocols 1 and 2: seed k starts every set from the same weights and orders). What a seed
does to all sets does not average out over sets. Sets and seeds are then crossed: the seeds' part is the variance of
the D sets' mean from seed to seed, with S - 1 degrees of freedom, in place of the sum above. It holds its level by the
argument of crossed.py; three seeds leave it two degrees of freedom.

**A population of sets** (`population`): data sets like these, of which these are a sample. Student's t over the sets'
means, D - 1 degrees of freedom; of shared seeds the crossed interval of sets x seeds. Its claim is wider, and so
should its interval be. It may come out narrower where a few means agree by chance: `Population.too_narrow` says so,
beside Cochran's Q (Biometrics 10, 1954, 101-129), which asks whether the sets' means differ by more than their own
errors. No p is given for it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy

from qgbench.base.errors import QGBenchError
from qgbench.stats import crossed
from qgbench.stats.crossed import MIN_GROUPS, Component, Estimate, MeanSquares, mean_squares

_LEAST_LOG_P = -200.0  # at less, scipy has no t quantile (NaN) of some degrees of freedom between 2 and 3

SeedsBySet = Mapping[str, Sequence[int]]
"""Of data sets that share their seeds: which seeds the columns of each table are."""


class Part(NamedTuple):
    """A part of the variance of the mean over sets, (...), and its degrees of freedom, (...)."""

    variance: np.ndarray
    degrees: np.ndarray

    def squared_width(self, alpha: float) -> np.ndarray:
        """Return the square of what the part alone is as a half-width."""
        return scipy.special.stdtrit(self.degrees, alpha / 2) ** 2 * self.variance


@dataclass(frozen=True)
class Population:
    """What the sets say of data sets like these."""

    estimate: Estimate
    cochran_q: float | None
    """None where a set has no error of its own: one group, or one seed."""
    cochran_p: float | None
    """Chi-square with D - 1 degrees of freedom; a rough one, as the sets' errors are estimates."""
    too_narrow: bool
    """Whether the sets' means lie closer together than the errors inside the sets allow: a matter of luck."""


def summed(components: Sequence[Component], scales: Sequence[float]) -> Part:
    """Return the sum over sets of mean squares times `scales`; sets whose mean square has no freedom have no part.

    Degrees of freedom lie between the least of one set and Welch's (module docstring).
    """
    known = [
        (scale * np.asarray(square, dtype=float), n)
        for (square, n), scale in zip(components, scales, strict=True)
        if n > 0
    ]
    if not known:
        return Part(np.zeros(()), np.ones(()))
    parts, degrees = (np.stack(np.broadcast_arrays(*each)) for each in zip(*known, strict=True))
    least, whole = degrees.min(axis=0).astype(float), parts.sum(axis=0)
    squared = np.stack([part**2 / n for part, n in zip(parts, degrees, strict=True)]).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        welch = np.where(squared > 0, whole**2 / squared, least)
    return Part(whole, least + (least - 1) / (least + 1) * (welch - least))


def _parts(squares: Sequence[MeanSquares], shared: Component | None) -> tuple[Part, Part, tuple[Part, ...]]:
    """Return the groups' and seeds' parts of the variance of the mean over sets, and parts it is never below."""
    scales = [1 / (each.groups * each.seeds * len(squares) ** 2) for each in squares]

    def of(components: Sequence[Component]) -> Part:
        return summed(components, scales)

    floors = tuple(of(kind) for kind in zip(*(each.floors for each in squares), strict=True))
    if shared is None:
        group, seed = (of(kind) for kind in zip(*(each.parts for each in squares), strict=True))
        return group, seed, floors
    group = of([(np.maximum(each.group - each.residual, 0), each.groups - 1) for each in squares])
    seed = Part(np.asarray(shared[0]), np.asarray(shared[1], dtype=float))
    return group, seed, (floors[0], seed, floors[2])


def half_width(squares: Sequence[MeanSquares], alpha: float = 0.05, shared: Component | None = None) -> np.ndarray:
    """Return the half-width of the 1 - `alpha` interval of the mean of these sets.

    Parameters
    ----------
    squares : sequence of D MeanSquares
        One for each data set, arrays of shape (...): replicates, in simulations.
    alpha : float
        In (0, 1).
    shared : Component, optional
        As `shared_seeds` gives it, where the sets share their seeds.

    Returns
    -------
    (...) float
        In the units of the values.
    """
    group, seed, floors = _parts(squares, shared)
    whole = group.squared_width(alpha) + seed.squared_width(alpha)
    return np.sqrt(np.maximum.reduce([whole, *(floor.squared_width(alpha) for floor in floors)]))


def variance(squares: Sequence[MeanSquares], shared: Component | None = None) -> np.ndarray:
    """Return the variance of the mean of these sets, floored; shape (...), in squared units of the values."""
    group, seed, floors = _parts(squares, shared)
    return np.maximum.reduce([group.variance + seed.variance, *(floor.variance for floor in floors)])


def shared_seeds(by_seed: np.ndarray) -> Component:
    """Return the seeds' part of the variance of the mean over sets that share seeds, and its degrees of freedom.

    Parameters
    ----------
    by_seed : (D, ..., S) float
        Each set's mean with each seed, S >= 2.
    """
    seeds = by_seed.shape[-1]
    return by_seed.mean(axis=0).var(axis=-1, ddof=1) / seeds, seeds - 1


def image_weighted(table: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Return a table whose plain mean, over groups, is that over images.

    ``m[s] + G w[g] (y[g, s] - m[s])`` with weights w, ``m[s] = sum_g w[g] y[g, s]``: the linearised mean of clusters of
    unequal size (Cochran, Sampling Techniques, 1977, 6.6), whose spread over groups is that of the weighted mean.

    Parameters
    ----------
    table : (G, S) float
        Means of groups.
    images : (G,) float
        How many images each group has.
    """
    weights = np.asarray(images, dtype=float) / np.sum(images)
    means = weights @ table
    return means + len(weights) * weights[:, None] * (table - means)


def these_sets(tables: Mapping[str, np.ndarray], seeds: SeedsBySet | None = None, tested: bool = True) -> Estimate:
    """Return an estimate of the mean, with equal weights, of these data sets' true means, over new groups and seeds.

    Parameters
    ----------
    tables : mapping of data set's name to (G_d, S_d) float
        One table of each data set (`crossed.estimate`), for example differences of twins in Dice, in [-1, 1].
    seeds : mapping of data set's name to S_d int, optional
        Where sets share their seeds (protocols 1 and 2); None where each set has its own.
    tested : bool
        False where nobody asks whether the mean is 0: the p-values are then None.

    Returns
    -------
    Estimate
        Of one data set its `crossed.estimate`. Of several: ``groups`` is the sum over tables, ``seeds`` the least,
        ``method`` the rule. The p-values are withheld if any table has fewer than `MIN_GROUPS` groups or one seed; the
        interval if any has one group, or if sets that share seeds have different ones. `Estimate.reason` names the
        sets. ``wilcoxon_p`` is None.

    Raises
    ------
    QGBenchError
        There is no table, or one is empty or not finite.
    """
    if not tables:
        raise QGBenchError("expected at least one table (groups, seeds), got none")
    values = {name: np.asarray(table, dtype=float) for name, table in tables.items()}
    if len(values) == 1:
        return crossed.estimate(next(iter(values.values())), tested)
    each = {name: crossed.estimate(table, tested=False) for name, table in values.items()}
    reasons, interval_known, p_known = _withheld(each, seeds)
    mean = float(np.mean([part.mean for part in each.values()]))
    width = error = p = None
    if interval_known:
        squares = [_squares(table) for table in values.values()]
        shared = None
        if seeds is not None and all(part.seeds > 1 for part in each.values()):
            shared = shared_seeds(np.stack([table.mean(axis=0) for table in values.values()]))
        width, error = float(half_width(squares, shared=shared)), math.sqrt(float(variance(squares, shared)))
        if p_known and tested:
            p = _p_value(squares, mean, shared)
    return Estimate(
        groups=sum(part.groups for part in each.values()),
        seeds=min(part.seeds for part in each.values()),
        mean=mean,
        interval=None if width is None else (mean - width, mean + width),
        standard_error=error,
        p=p,
        p_one_sided=None if p is None else p / 2,
        wilcoxon_p=None,
        reason="; ".join(reasons),
        method="these sets" if seeds is None else "these sets, shared seeds",
        p_withheld=not p_known,
    )


def interval(
    tables: Mapping[str, np.ndarray], seeds: SeedsBySet | None = None, alpha: float = 0.05
) -> tuple[float, float] | None:
    """Return the 1 - `alpha` interval of the mean of these sets; None where one seed or one group allows none.

    Parameters
    ----------
    tables, seeds
        As `these_sets` takes them.
    alpha : float
        In (0, 1); 0.1 for a test of equivalence at 5 %.
    """
    values = [np.asarray(table, dtype=float) for table in tables.values()]
    unlike = seeds is not None and len({tuple(seeds[name]) for name in tables}) > 1
    if unlike or any(min(table.shape) < 2 for table in values):
        return None
    shared = None
    if seeds is not None and len(values) > 1:
        shared = shared_seeds(np.stack([table.mean(axis=0) for table in values]))
    mean = float(np.mean([table.mean() for table in values]))
    width = float(half_width([mean_squares(table) for table in values], alpha, shared))
    return mean - width, mean + width


def population(tables: Mapping[str, np.ndarray], seeds: SeedsBySet | None = None) -> Population | None:
    """Return what tables say of data sets like these; None of fewer than two, or of shared seeds that are not the same.

    Parameters
    ----------
    tables, seeds
        As `these_sets` takes them.
    """
    values = {name: np.asarray(table, dtype=float) for name, table in tables.items()}
    if len(values) < 2:
        return None
    means = np.array([table.mean() for table in values.values()])
    inner = these_sets(values, seeds, tested=False)
    mean, sets = float(means.mean()), len(means)
    if seeds is None:
        error = float(scipy.stats.sem(means))
        width = -float(scipy.special.stdtrit(sets - 1, 0.025)) * error
    elif inner.interval is None or inner.seeds < 2:
        return None
    else:
        squares = mean_squares(np.stack([table.mean(axis=0) for table in values.values()]))
        error, width = math.sqrt(float(squares.variance)), float(crossed.half_width(squares))
    errors = [crossed.estimate(table, tested=False) for table in values.values()]
    q = q_p = None
    known = [one.standard_error for one in errors if one.standard_error and one.seeds > 1]
    if len(known) == sets:
        weights = np.array(known) ** -2
        q = float((weights * (means - weights @ means / weights.sum()) ** 2).sum())
        q_p = float(scipy.stats.chi2.sf(q, sets - 1))
    return Population(
        estimate=Estimate(
            groups=inner.groups,
            seeds=inner.seeds,
            mean=mean,
            interval=(mean - width, mean + width),
            standard_error=error,
            p=None,
            p_one_sided=None,
            wilcoxon_p=None,
            reason="",
            method="sets like these",
        ),
        cochran_q=q,
        cochran_p=q_p,
        too_narrow=inner.standard_error is not None and error < (1 - 1e-9) * inner.standard_error,  # equal: rounding
    )


def _withheld(each: Mapping[str, Estimate], seeds: SeedsBySet | None) -> tuple[list[str], bool, bool]:
    """Return why something is withheld, and whether there is an interval, and a p."""
    few = ", ".join(f"{part.groups} in {name}" for name, part in each.items() if part.groups < MIN_GROUPS)
    single = ", ".join(name for name, part in each.items() if part.seeds == 1)
    lone = ", ".join(name for name, part in each.items() if part.groups == 1)
    unlike = seeds is not None and len({tuple(seeds[name]) for name in each}) > 1
    reasons = [f"p withheld: too few test groups ({few}), at least {MIN_GROUPS} are needed"] if few else []
    if single:
        reasons.append(f"p withheld: one seed says nothing about other seeds ({single})")
    if lone:
        reasons.append(f"no interval: one test group ({lone})")
    if unlike:
        reasons.append("no interval: these data sets share their seeds, and their records have different ones")
    if single and not lone and not unlike:
        reasons.append(f"the interval is over test groups only in {single}")
    return reasons, not lone and not unlike, not few and not single and not lone and not unlike


def _squares(table: np.ndarray) -> MeanSquares:
    """Return the mean squares of a table; of one seed those of its groups, the others without degrees of freedom."""
    groups, seeds = table.shape
    if seeds > 1:
        return mean_squares(table)
    zero = np.zeros(())
    return MeanSquares(np.asarray(table.mean()), np.asarray(table.var(ddof=1)), zero, zero, groups, 1)


def _p_value(squares: Sequence[MeanSquares], mean: float, shared: Component | None) -> float:
    """Return the level at which the interval just touches 0."""
    if mean == 0:
        return 1.0
    if not float(variance(squares, shared)) > 0:
        return 0.0

    def beyond(log_p: float) -> float:
        return math.log(float(half_width(squares, math.exp(log_p), shared)) / abs(mean))

    if beyond(_LEAST_LOG_P) <= 0:
        return math.exp(_LEAST_LOG_P)
    return math.exp(scipy.optimize.brentq(beyond, _LEAST_LOG_P, -1e-12, xtol=1e-13))
