"""Records with known truth: per-image Dice of a base method and its twins, to prove the statistics on.

The logit of method m's Dice on image i of group g in run s is

    mu + shift_m + slope_m (a_g + b_i) + c_mg + d_mi + t_s + r_ms + e_mgs + f_mis

with difficulty ``a_g + b_i`` that all methods share, the method's own taste ``c_mg + d_mi`` that every run brings back,
the labelled draw ``t_s`` that twins of a run share, run-to-run noise ``r_ms``, and noise ``e_mgs + f_mis`` of single
predictions; all normal. Of each pair (group, image) the group holds the share `Scenario.icc` of the variance, which is
the correlation between images of a group. Dice is the logistic function of that number, and 0 (a miss) below a cut:
bounded, skewed to the left, with a lump at 0.

Marginally each logit is normal, so that E Dice is a one-dimensional integral: the truth is exact, for an infinite
population of groups, images and runs. Every replicate draws all of them anew (sizes of groups stay), as a claim about
patients and training runs at large has it. Every image having the same expectation, means over groups and over images
have the same truth however unequal the groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize
from scipy.special import expit, ndtri

from qgbench.base.errors import QGBenchError


@dataclass(frozen=True)
class Scenario:
    """What is simulated. SDs named `run_sd` and `draw_sd` are in Dice of a run's mean, all others in logits."""

    images: int = 100
    """Test images, at least `groups`."""
    groups: int = 15
    """Test groups, of unequal sizes, each with an image at least."""
    seeds: int = 3
    """Runs of each method."""
    icc: float = 0.3
    """Share of each image-level variance that images of a group have in common, in [0, 1]."""
    run_sd: float = 0.01
    """Run-to-run noise of one method's mean Dice, >= 0; of a difference of two methods sqrt(2) times as much."""
    draw_sd: float = 0.04
    """Effect of the labelled draw on mean Dice, shared by twins, >= 0."""
    logit: float = 1.6
    """mu: 1.6 is a median Dice of 0.83."""
    difficulty: float = 1.0
    """SD of what an image is to all methods."""
    taste: float = 0.2
    """SD of what an image is to one method in all runs."""
    noise: float = 0.3
    """SD of what an image is to one method in one run."""
    missed: float = 0.03
    """Share of images of the base method with Dice 0, in [0, 1)."""
    leveling: float = 0.0
    """Share of the difficulty that a twin takes away, in [0, 1]: hard images gain and easy ones lose, so that
    differences are skewed, while the mean gain stays what it is said to be."""


@dataclass(frozen=True)
class Simulated:
    """Drawn records of M methods (the base method first), R replicates, N images, S seeds."""

    dice: np.ndarray
    """(M, R, N, S) in [0, 1]."""
    group_of: np.ndarray
    """(N,) int, ascending: the group of each image."""

    def by_group(self) -> np.ndarray:
        """Return the mean Dice of each group, shape (M, R, G, S), in [0, 1]."""
        starts = np.flatnonzero(np.diff(self.group_of, prepend=-1))
        sizes = np.bincount(self.group_of)
        return np.add.reduceat(self.dice, starts, axis=2) / sizes[:, None]


# Standard normal quadrature; its step is far below what a cut between two nodes could move a mean Dice by.
_NODES = np.linspace(-8, 8, 16_001)
_WEIGHTS = np.exp(-(_NODES**2) / 2) / np.exp(-(_NODES**2) / 2).sum()


def _mean_dice(centre: float, sd: float, cut: float) -> float:
    """Return the expected Dice of logits N(centre, sd**2) with a miss below `cut`."""
    logits = centre + sd * _NODES
    return float((_WEIGHTS * expit(logits) * (logits >= cut)).sum())


def _logit_for(mean: float, sd: float, cut: float) -> float:
    """Return the centre of the logits that has some mean Dice."""
    return float(optimize.brentq(lambda centre: _mean_dice(centre, sd, cut) - mean, -20, 20, xtol=1e-9))


def simulate(scenario: Scenario, replicates: int, gains: Sequence[float] = (0.0,), seed: int = 0) -> Simulated:
    """Return records drawn at random.

    Parameters
    ----------
    scenario : Scenario
        Sizes and spreads.
    replicates : int
        R, independent repetitions of the whole experiment.
    gains : sequence of float
        True mean gain in Dice of each twin over the base method, in the infinite population.
    seed : int
        Seed of everything; equal calls give equal arrays.

    Returns
    -------
    Simulated
        ``dice[0]`` is the base method, ``dice[k]`` has the k-th gain.

    Raises
    ------
    QGBenchError
        Fewer images than groups, or a gain that leaves no room in (0, 1).
    """
    if scenario.images < scenario.groups:
        raise QGBenchError(f"{scenario.images} images cannot fill {scenario.groups} groups")
    generator = np.random.default_rng(seed)
    n, g, s = scenario.images, scenario.groups, scenario.seeds
    shares = generator.dirichlet(np.full(g, 2.0))
    sizes = 1 + generator.multinomial(n - g, shares)
    group_of = np.repeat(np.arange(g), sizes)

    # The cut and the slope of mean Dice are those of the base method without run effects, which hardly change them.
    own = scenario.taste**2 + scenario.noise**2
    plain = np.sqrt(scenario.difficulty**2 + own)
    cut = scenario.logit + plain * float(ndtri(scenario.missed)) if scenario.missed > 0 else -np.inf
    rise = _mean_dice(scenario.logit + 0.01, plain, cut) - _mean_dice(scenario.logit - 0.01, plain, cut)
    draw, run = (sd * 0.02 / rise for sd in (scenario.draw_sd, scenario.run_sd))

    def clustered(sd: float, *shape: int) -> np.ndarray:
        """Return normal draws (..., N, k) with a part for each group: last two axes images and seeds (or 1)."""
        *lead, last = shape
        groups = generator.standard_normal((*lead, g, last))[..., group_of, :] * np.sqrt(scenario.icc)
        return sd * (groups + np.sqrt(1 - scenario.icc) * generator.standard_normal((*lead, n, last)))

    difficulty = clustered(scenario.difficulty, replicates, 1)
    shared = draw * generator.standard_normal((replicates, 1, s))
    base_mean = _mean_dice(scenario.logit, np.hypot(plain, np.hypot(draw, run)), cut)
    dice = np.empty((1 + len(gains), replicates, n, s))
    for index, gain in enumerate((0.0, *gains)):
        slope = 1 - scenario.leveling if index else 1.0
        if not 0 < base_mean + gain < 1:
            raise QGBenchError(f"a gain of {gain} on a mean Dice of {base_mean:.3f} leaves [0, 1]")
        sd = np.sqrt((slope * scenario.difficulty) ** 2 + own + draw**2 + run**2)
        logits = (
            _logit_for(base_mean + gain, sd, cut)
            + slope * difficulty
            + shared
            + run * generator.standard_normal((replicates, 1, s))
            + clustered(scenario.taste, replicates, 1)
            + clustered(scenario.noise, replicates, s)
        )
        dice[index] = np.where(logits >= cut, expit(logits), 0.0)
    return Simulated(dice, group_of)
