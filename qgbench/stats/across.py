"""Many methods on many data sets: ranks, and how sure they are.

A matrix has D data sets (rows) and M methods (columns), higher is better, and no holes: a method that lacks a data set
is left out by the caller, by name. scipy does the arithmetic.
"""

from collections.abc import Sequence

import numpy as np
import scipy

from qgbench.base.errors import QGBenchError


def average_ranks(matrix: np.ndarray) -> np.ndarray:
    """Return each method's rank, averaged over the data sets (Demsar, JMLR 7, 2006, 1-30, section 3.2.2).

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
