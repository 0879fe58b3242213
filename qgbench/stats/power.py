"""How many test groups and seeds a claim needs: the power of the very test that `qgbench.stats.crossed` makes.

The differences of two twins follow crossed.py's model with three standard deviations, in Dice: ``sd_group`` (what a
group's difference keeps from run to run), ``sd_seed`` (what all groups share in a run) and ``sd_residual`` (the rest of
a group's mean difference in one run). The grand mean is normal with variance
``sd_group**2 / G + sd_seed**2 / S + sd_residual**2 / (G S)``; the mean squares are independent of it and of each other,
each its expectation times chi-square over its degrees of freedom (Searle, Casella & McCulloch, Variance Components,
1992, ch. 4). Given the mean squares, the chance of |mean| > half-width is exact; it is averaged over 4,096 Sobol points
of the three chi-squares, always the same: powers repeat exactly, grow with the gain, and are within 0.001 of the truth.

Of records that are not normal (bounded Dice, misses, groups of unequal sizes) it is an approximation:
``perf/power_curves.py`` sets it beside simulated ones.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats
from scipy.stats import qmc

from qgbench.base.errors import QGBenchError, UserError
from qgbench.stats.crossed import MIN_GROUPS, MeanSquares, half_width, mean_squares

LEVEL = 0.05
_LOG2_POINTS = 12


@dataclass(frozen=True)
class Components:
    """Standard deviations of the differences of two twins, in Dice (0.01 is one point)."""

    sd_group: float
    """Of the groups' true differences."""
    sd_seed: float
    """Of what all groups share in one run: labelled draw, initial weights, batches."""
    sd_residual: float
    """Of what is left of a group's mean difference in one run."""


def components(differences: np.ndarray) -> Components:
    """Return a contrast's standard deviations, estimated from its table.

    Mean squares equated with their expectations (Searle, Casella & McCulloch 1992, ch. 4), cut at 0:
    ``sd_group**2 = (MS_group - MS_res) / S``, ``sd_seed**2 = (MS_seed - MS_res) / G``, ``sd_residual**2 = MS_res``.
    From few seeds they are rough.

    Parameters
    ----------
    differences : (G, S) float
        Paired differences of group means, Dice in [-1, 1].

    Raises
    ------
    UserError
        Fewer than 2 groups or 2 seeds: components cannot be told apart.
    QGBenchError
        The table is not two-dimensional or not finite.
    """
    differences = np.asarray(differences, dtype=float)
    if differences.ndim != 2 or not np.isfinite(differences).all():
        raise QGBenchError(f"expected a full table (groups, seeds) of finite values, got shape {differences.shape}")
    groups, seeds = differences.shape
    if groups < 2 or seeds < 2:
        raise UserError(
            f"{groups} test groups x {seeds} seeds do not tell group, run and residual spread apart; at least 2 x 2 "
            "are needed. Run more seeds, or state the standard deviations."
        )
    squares = mean_squares(differences)
    return Components(
        sd_group=math.sqrt(max(float(squares.group - squares.residual), 0) / seeds),
        sd_seed=math.sqrt(max(float(squares.seed - squares.residual), 0) / groups),
        sd_residual=math.sqrt(float(squares.residual)),
    )


def stated(
    group_sd: float, run_sd: float, image_sd: float, icc: float = 0.0, images_per_group: float = 1.0
) -> Components:
    """Return the components of standard deviations that a user states.

    ``sd_group = group_sd``, ``sd_seed = run_sd``, ``sd_residual**2 = image_sd**2 (icc + (1 - icc) / m)``: the variance
    of a mean of m equally correlated images (Kish, Survey Sampling, 1965, 5.4: the design effect over m).

    Parameters
    ----------
    group_sd, run_sd : float
        Standard deviations in Dice, >= 0: of the groups' true differences, and of what a run's groups share.
    image_sd : float
        Standard deviation in Dice, >= 0, of one image's difference in one run about its group's and run's.
    icc : float
        Correlation in [0, 1] of `image_sd`'s part between two images of a group in a run.
    images_per_group : float
        m, >= 1; of unequal groups the harmonic mean.

    Raises
    ------
    UserError
        A value is out of its range.
    """
    for name, value in (("group SD", group_sd), ("run SD", run_sd), ("image SD", image_sd)):
        if not 0 <= value < math.inf:
            raise UserError(f"{name} is {value}, expected a standard deviation in Dice >= 0 (0.01 is one point)")
    if not 0 <= icc <= 1:
        raise UserError(f"ICC is {icc}, expected a correlation in [0, 1]")
    if not 1 <= images_per_group < math.inf:
        raise UserError(f"images per group is {images_per_group}, expected at least 1")
    return Components(group_sd, run_sd, image_sd * math.sqrt(icc + (1 - icc) / images_per_group))


def power(gain: float, groups: int, seeds: int, components: Components) -> float:
    """Return the probability that the p of `crossed.estimate` is below 0.05.

    Parameters
    ----------
    gain : float
        True mean difference in Dice; its sign does not matter.
    groups, seeds : int
        Size of the experiment, G and S.
    components : Components
        Spread of the differences.

    Returns
    -------
    float
        In [0, 1], within 0.001 of the truth under the model; 0 where p would be withheld (fewer than `MIN_GROUPS`
        groups, or one seed). With gain 0 the rate of false claims.
    """
    if groups < MIN_GROUPS or seeds < 2:
        return 0.0
    return _Experiment(groups, seeds, components).power(gain)


def least_gain(groups: int, seeds: int, components: Components, power: float = 0.8) -> float:
    """Return the least true gain that an experiment shows with some probability.

    Parameters
    ----------
    groups, seeds : int
        Size of the experiment.
    components : Components
        Spread of the differences.
    power : float
        Probability that p < 0.05, in (0.05, 1).

    Returns
    -------
    float
        In Dice; infinite where p would be withheld, 0 where there is no spread at all.

    Raises
    ------
    UserError
        `power` is out of its range.
    """
    _check_power(power)
    if groups < MIN_GROUPS or seeds < 2:
        return math.inf
    experiment = _Experiment(groups, seeds, components)
    if experiment.error == 0:
        return 0.0
    high = experiment.error
    while experiment.power(high) < power:
        high *= 2
    return float(optimize.brentq(lambda gain: experiment.power(gain) - power, 0.0, high, xtol=1e-7))


def groups_needed(gain: float, seeds: int, components: Components, power: float = 0.8, most: int = 5000) -> int | None:
    """Return the fewest test groups with which a true gain is shown with some probability.

    Parameters
    ----------
    gain : float
        True mean difference in Dice; its sign does not matter.
    seeds : int
        Seeds of the experiment.
    components : Components
        Spread of the differences.
    power : float
        Probability that p < 0.05, in (0.05, 1).
    most : int
        No more groups than this are considered.

    Returns
    -------
    int or None
        At least `MIN_GROUPS`; None where `most` do not suffice: more groups do not average out what a run's groups
        share, more seeds do.

    Raises
    ------
    UserError
        `power` is out of its range.
    """
    _check_power(power)

    def reached(groups: int) -> bool:
        return _Experiment(groups, seeds, components).power(gain) >= power

    if seeds < 2 or most < MIN_GROUPS or not reached(most):
        return None
    low, high = MIN_GROUPS - 1, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


class _Experiment:
    """Half-widths that an experiment of some size may come to, and the standard error of its mean."""

    def __init__(self, groups: int, seeds: int, components: Components) -> None:
        group, seed, residual = (sd**2 for sd in (components.sd_group, components.sd_seed, components.sd_residual))
        degrees = np.array([groups - 1, seeds - 1, (groups - 1) * (seeds - 1)])
        expected = np.array([seeds * group + residual, groups * seed + residual, residual])
        points = qmc.Sobol(3, rng=np.random.default_rng(0)).random_base2(_LOG2_POINTS)
        by_group, by_seed, rest = (expected * stats.chi2.ppf(points, degrees) / degrees).T
        self.widths = half_width(MeanSquares(np.zeros_like(rest), by_group, by_seed, rest, groups, seeds), LEVEL)
        self.error = math.sqrt(group / groups + seed / seeds + residual / (groups * seeds))

    def power(self, gain: float) -> float:
        """Return the probability that a mean with this expectation lies outside its half-width on either side."""
        gain = abs(gain)
        if self.error == 0:
            return float(gain > 0)
        above = stats.norm.sf((self.widths - gain) / self.error)
        below = stats.norm.sf((self.widths + gain) / self.error)
        return float((above + below).mean())


def _check_power(power: float) -> None:
    if not LEVEL < power < 1:
        raise UserError(f"power is {power}, expected a probability above {LEVEL} and below 1, for example 0.8")
