"""Many methods on many data sets: ranks, cliques, wins, equivalence. Source of most: Demsar, JMLR 7, 2006, 1-30.

A matrix has D data sets (rows) and M methods (columns), higher is better, and no holes: a method that lacks a data set
is left out by the caller, by name. scipy does the arithmetic.
"""

import itertools
from collections.abc import Sequence
from typing import Literal

import numpy as np
import scipy

from qgbench.base.errors import QGBenchError
from qgbench.stats.crossed import Estimate, holm

_PRIOR_STRENGTH = 0.5  # of the pseudo-observation at a difference of 0
_ROPE_DRAWS, _ROPE_BATCH = 50_000, 500


def average_ranks(matrix: np.ndarray) -> np.ndarray:
    """Return each method's rank, averaged over the data sets (Demsar 2006, section 3.2.2).

    Parameters
    ----------
    matrix : (D, M) float
        Mean Dice, higher is better.

    Returns
    -------
    (M,) float
        In [1, M]; 1 is best, ties share the mean of their ranks.

    Raises
    ------
    QGBenchError
        The matrix is empty or not finite.
    """
    return scipy.stats.rankdata(-_checked(matrix), axis=1).mean(axis=0)


def friedman(matrix: np.ndarray) -> float | None:
    """Return the p-value of "all methods are alike" (Friedman, JASA 32, 1937, 675-701), by scipy.

    The chi-square approximation with the correction for ties. With few data sets it rejects too rarely (Iman &
    Davenport, Communications in Statistics A9, 1980, 571-595), never too often, which is why it is taken and not their
    F, whose p is 0 as soon as five data sets agree.

    Parameters
    ----------
    matrix : (D, M) float
        Mean Dice, higher is better.

    Returns
    -------
    float or None
        None with fewer than 3 methods or 2 data sets; 1 where all methods tie everywhere.

    Raises
    ------
    QGBenchError
        The matrix is empty or not finite.
    """
    matrix = _checked(matrix)
    sets, methods = matrix.shape
    if methods < 3 or sets < 2:
        return None
    if (np.ptp(matrix, axis=1) == 0).all():
        return 1.0
    return float(scipy.stats.friedmanchisquare(*matrix.T).pvalue)


def least_p(sets: int) -> float:
    """Return the least two-sided p that Wilcoxon's signed-rank test can give with D data sets: ``2 / 2**D``, at most 1.

    All differences have one sign, which 2 of 2**D equally likely sign patterns do: 0.0625 with five data sets, so
    that five alone never reach 0.05.
    """
    return min(1.0, 2.0 ** (1 - sets))


def _wilcoxon(differences: np.ndarray) -> np.ndarray:
    """Return two-sided p, Pratt's zeros, of each column (D, P); never below what the non-zero differences can give."""
    p = np.ones(differences.shape[1])
    some = differences.any(axis=0)
    if some.any():
        found = scipy.stats.wilcoxon(differences[:, some], zero_method="pratt", axis=0).pvalue
        p[some] = np.maximum(found, 2.0 ** (1 - np.count_nonzero(differences[:, some], axis=0)))
    return np.minimum(p, 1.0)


def cliques(matrix: np.ndarray, alpha: float = 0.05) -> list[list[int]]:
    """Return groups of methods that the data sets do not tell apart: the bars of a critical-difference diagram.

    Each pair of methods is compared by Wilcoxon's signed-rank test over data sets, the p-values of all pairs are
    adjusted by Holm (Benavoli, Corani & Mangili, JMLR 17, 2016, 1-10, for why not by mean ranks). A clique is a run of
    methods, neighbours by average rank, of which no pair differs, and which no longer run contains.

    Parameters
    ----------
    matrix : (D, M) float
        Mean Dice, higher is better.
    alpha : float
        Level of the family of all pairs, in (0, 1).

    Returns
    -------
    list of list of int
        Column numbers, best rank first, within cliques and among them; the first is the top clique. Every method is in
        at least one; one that differs from both neighbours is alone in its own and gets no bar. Where even
        ``least_p(D)`` times the number of pairs is above `alpha`, one clique holds all: absence of evidence.

    Raises
    ------
    QGBenchError
        The matrix is empty or not finite.
    """
    matrix = _checked(matrix)
    order = [int(column) for column in np.argsort(average_ranks(matrix), kind="stable")]
    pairs = list(itertools.combinations(range(len(order)), 2))
    first_of, second_of = np.array(pairs, dtype=int).reshape(-1, 2).T
    ordered = matrix[:, order]
    adjusted = holm(_wilcoxon(ordered[:, first_of] - ordered[:, second_of]).tolist())
    differ = {pair for pair, p in zip(pairs, adjusted, strict=True) if p < alpha}

    found: list[list[int]] = []
    reach = 0  # one past the last method of the clique before
    for first in range(len(order)):
        end = first + 1
        while end < len(order) and not any((i, end) in differ for i in range(first, end)):
            end += 1
        if end > reach:
            found.append(order[first:end])
            reach = end
    return found


def win_tie_loss(
    differences: Sequence[Estimate], holm_p: Sequence[float | None], alpha: float = 0.05
) -> tuple[int, int, int]:
    """Return how many contrasts show a gain, nothing, and a loss.

    Parameters
    ----------
    differences : sequence of Estimate
        One for each contrast, positive is a gain.
    holm_p : sequence of float or None
        Their p-values, adjusted for the family; None where withheld.
    alpha : float
        A contrast below it is a win or a loss by the sign of its mean; all others are ties, withheld ones too.

    Returns
    -------
    (wins, ties, losses)

    Raises
    ------
    QGBenchError
        The two sequences differ in length.
    """
    if len(differences) != len(holm_p):
        raise QGBenchError(f"expected a p-value for each contrast, got {len(holm_p)} for {len(differences)}")
    shown = [each.mean for each, p in zip(differences, holm_p, strict=True) if p is not None and p < alpha]
    wins, losses = sum(mean > 0 for mean in shown), sum(mean < 0 for mean in shown)
    return wins, len(differences) - wins - losses, losses


def rope(differences: np.ndarray, rope: float = 0.01, seed: int = 0) -> tuple[float, float, float]:
    """Return the posterior probabilities of a loss, of practically nothing, and of a gain on a further data set.

    Bayesian signed-rank test with a region of practical equivalence (Benavoli et al., ICML 2014; Benavoli, Corani,
    Demsar & Zaffalon, JMLR 18(77), 2017, 1-36): 50,000 draws, prior strength 0.5 at a difference of 0, standard error
    of a probability at most 0.0022. The same draws and numbers as baycomp's ``SignedRankTest``, whose time grows with
    N squared (100 s for 1,000 differences) where this one's grows with N log N.

    Parameters
    ----------
    differences : (N,) float
        One mean difference in Dice for each data set (or cell), in [-1, 1].
    rope : float
        Half-width of the region, > 0, in Dice: 0.01 is one Dice point.
    seed : int
        Seed of the draws.

    Returns
    -------
    (worse, within, better) : float
        They sum to 1.

    Raises
    ------
    QGBenchError
        No difference, one that is not finite, or `rope` not positive.
    """
    differences = np.asarray(differences, dtype=float)
    if differences.ndim != 1 or differences.size == 0 or not np.isfinite(differences).all() or not rope > 0:
        raise QGBenchError(f"expected finite differences (N,) and a rope > 0, got {differences.shape} and {rope}")
    # Sorted, so that the pairs (i, j) with z_i + z_j beyond the region are, for each i, one end of the row of j.
    places = np.concatenate([[0.0], differences])
    strengths = np.where(np.arange(len(places)) == 0, _PRIOR_STRENGTH, 1.0)
    order = np.argsort(places, kind="stable")
    ordered = places[order]

    def ends(edge: float) -> list[np.ndarray]:
        sides: tuple[Literal["left", "right"], ...] = ("left", "right")
        return [np.array([np.searchsorted(z + ordered, edge, side) for z in places]) for side in sides]

    below, above = ends(-2 * rope), ends(2 * rope)
    generator = np.random.RandomState(seed)
    wins = np.zeros(3)
    for count in np.diff(np.arange(0, _ROPE_DRAWS + _ROPE_BATCH, _ROPE_BATCH).clip(max=_ROPE_DRAWS)):
        weights = generator.dirichlet(strengths, count)
        before = np.zeros((count, len(places) + 1))
        np.cumsum(weights[:, order], axis=1, out=before[:, 1:])
        # A pair exactly at the edge counts half: the mean of the masses with and without it.
        loss = (weights * (before[:, below[0]] + before[:, below[1]])).sum(axis=1) / 2
        gain = 1 - (weights * (before[:, above[0]] + before[:, above[1]])).sum(axis=1) / 2
        masses = np.column_stack([loss, 1 - loss - gain, gain])
        wins += np.bincount(masses.argmax(axis=1), minlength=3)
    worse, within, better = (float(share) for share in wins / _ROPE_DRAWS)
    return worse, within, better


def rank_frequencies(cells: Sequence[np.ndarray], draws: int = 2000, seed: int = 0) -> np.ndarray:
    """Return how often each method takes each rank when test groups and seeds are drawn anew.

    Bootstrap of ranks (Agarwal et al., Deep RL at the Edge of the Statistical Precipice, NeurIPS 2021, section 4.3): in
    each draw a data set's groups and seeds are resampled with replacement, the same for all methods, which keeps the
    pairing; methods are ranked by mean Dice on each data set, shares are averaged over data sets with equal weights. It
    describes; with few groups or seeds the bootstrap shows too little spread, and it is no test.

    Parameters
    ----------
    cells : sequence of D (M, G_d, S_d) float
        Group means of each data set: the same M methods in the same order, each set with its own groups and seeds.
    draws : int
        Bootstrap draws, > 0.
    seed : int
        Seed of the draws.

    Returns
    -------
    (M, M) float
        Row m, column r: share of draws in which method m has rank r + 1 (0 is best). A tie splits its share equally
        among the ranks it covers, so that rows and columns sum to 1.

    Raises
    ------
    QGBenchError
        No data set, methods that differ in number, or a cell that is empty or not finite.
    """
    arrays = [np.asarray(cell, dtype=float) for cell in cells]
    if not arrays or any(a.ndim != 3 or a.size == 0 or len(a) != len(arrays[0]) for a in arrays):
        raise QGBenchError(f"expected (methods, groups, seeds) of the same methods, got {[a.shape for a in arrays]}")
    if not all(np.isfinite(a).all() for a in arrays):
        raise QGBenchError("expected finite values: leave out what is missing, by name")
    generator = np.random.default_rng(seed)
    methods = len(arrays[0])
    edges = np.zeros((methods, methods + 1))  # where a share begins and where it ends, summed over all draws
    for cell in arrays:
        _, groups, seeds = cell.shape
        of_groups = generator.multinomial(groups, np.full(groups, 1 / groups), size=draws) / groups
        of_seeds = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws) / seeds
        # Rounded, so that equal methods tie whatever the order of summation.
        means = np.einsum("bg,mgs,bs->bm", of_groups, cell, of_seeds, optimize=True).round(12)
        low, high = (scipy.stats.rankdata(-means, method=side, axis=1).astype(int) for side in ("min", "max"))
        share = 1 / ((high - low + 1) * draws)
        rows = np.broadcast_to(np.arange(methods) * (methods + 1), low.shape)
        for at, sign in ((low - 1, 1), (high, -1)):
            edges += np.bincount((rows + at).ravel(), sign * share.ravel(), edges.size).reshape(edges.shape)
    # Sums that cancel leave last bits of either sign where there is no share.
    return np.maximum(edges.cumsum(axis=1)[:, :methods].round(12), 0) / len(arrays)


def _checked(matrix: np.ndarray) -> np.ndarray:
    matrix = np.asarray(matrix, dtype=float)
    if matrix.ndim != 2 or matrix.size == 0 or not np.isfinite(matrix).all():
        raise QGBenchError(f"expected a full matrix (data sets, methods) of finite values, got shape {matrix.shape}")
    return matrix
