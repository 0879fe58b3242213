"""Ranks and rank frequencies against a published example and brute force."""

import itertools

import numpy as np
import pytest

from qgbench.base.errors import QGBenchError
from qgbench.stats.across import average_ranks, rank_frequencies

# Demsar, JMLR 7, 2006, table 6: AUC of C4.5, C4.5+m, C4.5+cf, C4.5+m+cf on 14 data sets. Printed there: average ranks
# 3.143, 2.000, 2.893, 1.964; Friedman's chi-square 9.28.
DEMSAR = np.array(
    [
        [0.763, 0.768, 0.771, 0.798],
        [0.599, 0.591, 0.590, 0.569],
        [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898],
        [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685],
        [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000],
        [0.940, 0.962, 0.965, 0.962],
        [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.9751, 0.975],
        [0.957, 0.978, 0.946, 0.970],
    ]
)


def test_ranks_of_demsars_example() -> None:
    assert average_ranks(DEMSAR) == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=0.0005)


class TestRankFrequencies:
    def test_equals_brute_force_over_all_bootstrap_samples(self) -> None:
        cell = np.array([[[3, 1], [0, 2]], [[2, 2], [1, 0]], [[1, 2], [2, 1]]], dtype=float)
        shares = np.zeros((3, 3))
        for groups in itertools.product(range(2), repeat=2):
            for seeds in itertools.product(range(2), repeat=2):
                means = [cell[m][np.ix_(groups, seeds)].mean() for m in range(3)]
                for m, mean in enumerate(means):
                    better, equal = sum(x > mean for x in means), sum(x == mean for x in means)
                    shares[m, better : better + equal] += 1 / equal
        assert rank_frequencies([cell], draws=20_000) == pytest.approx(shares / 16, abs=0.015)

    def test_rows_and_columns_sum_to_one(self) -> None:
        generator = np.random.default_rng(0)
        cells = [generator.integers(0, 3, size=(4, groups, 3)).astype(float) for groups in (6, 15)]
        result = rank_frequencies(cells)
        assert result.sum(axis=0) == pytest.approx(np.ones(4))
        assert result.sum(axis=1) == pytest.approx(np.ones(4))
        assert np.array_equal(result, rank_frequencies(cells))
        assert not np.array_equal(result, rank_frequencies(cells, seed=1))

    def test_pairing_decides_what_difficulty_hides(self) -> None:
        difficulty = np.random.default_rng(1).normal(size=(1, 10, 3)) * 5
        cell = difficulty + np.array([0.0, 0.1])[:, None, None]
        assert rank_frequencies([cell]) == pytest.approx(np.array([[0, 1], [1, 0]]))

    def test_equal_methods_split_ranks(self) -> None:
        one = np.random.default_rng(2).normal(size=(1, 7, 3))
        result = rank_frequencies([np.concatenate([one, one, one - 1])])
        assert result == pytest.approx(np.array([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]]))

    def test_data_sets_weigh_equally(self) -> None:
        first, second = np.zeros((2, 50, 2)), np.zeros((2, 5, 3))
        first[0], second[1] = 1, 1
        assert rank_frequencies([first, second]) == pytest.approx(np.full((2, 2), 0.5))

    def test_refuses_methods_that_lack_a_set(self) -> None:
        with pytest.raises(QGBenchError, match="same methods"):
            rank_frequencies([np.zeros((2, 5, 3)), np.zeros((3, 5, 3))])
        with pytest.raises(QGBenchError, match="finite"):
            rank_frequencies([np.full((2, 5, 3), np.nan)])


def test_matrices_with_holes_are_refused() -> None:
    for matrix in (np.array([[1, np.nan]]), np.zeros((0, 3)), np.zeros(3)):
        with pytest.raises(QGBenchError, match="full matrix"):
            average_ranks(matrix)
