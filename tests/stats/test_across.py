"""Ranks, cliques, equivalence and rank frequencies against a published example, scipy, scikit-posthocs, brute force."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from qgbench.base.errors import QGBenchError
from qgbench.stats.across import average_ranks, cliques, friedman, least_p, rank_frequencies, rope, win_tie_loss
from qgbench.stats.crossed import Estimate

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


def test_friedman_of_demsars_example() -> None:
    # 9.28 is without the correction for ties: one set with four equal (4**3 - 4 = 60), three with two (2**3 - 2 = 6).
    corrected = 9.28 / (1 - (60 + 3 * 6) / (14 * (4**3 - 4)))
    assert friedman(DEMSAR) == pytest.approx(stats.chi2.sf(corrected, 3), abs=0.0001)


def test_friedman_by_hand() -> None:
    # Four data sets that agree on three methods: rank sums 4, 8, 12; chi2 = 12/(4*3*4) (16+64+144) - 3*4*4 = 8.
    matrix = np.array([[3.0, 2, 1]] * 4)
    assert friedman(matrix) == pytest.approx(math.exp(-4))


def test_friedman_needs_three_methods_and_two_sets() -> None:
    assert friedman(DEMSAR[:, :2]) is None
    assert friedman(DEMSAR[:1]) is None
    assert friedman(np.ones((4, 3))) == 1


@pytest.mark.parametrize("sets", [1, 2, 5, 6, 9])
def test_least_p_is_what_wilcoxon_gives_where_all_agree(sets: int) -> None:
    assert least_p(sets) == pytest.approx(stats.wilcoxon(np.arange(1.0, sets + 1)).pvalue)


def test_five_data_sets_cannot_reach_five_percent() -> None:
    assert least_p(5) == 0.0625
    matrix = np.arange(1.0, 6)[:, None] * np.array([1.0, 2.0])
    assert cliques(matrix) == [[1, 0]]
    assert cliques(np.arange(1.0, 7)[:, None] * np.array([1.0, 2.0])) == [[1], [0]]


def brute_force_cliques(matrix: np.ndarray, alpha: float) -> list[list[int]]:
    """All maximal runs of neighbours by rank without a significant pair, from scikit-posthocs' table of p-values."""
    import scikit_posthocs

    p = scikit_posthocs.posthoc_wilcoxon(matrix.T, p_adjust="holm").to_numpy()
    order = np.argsort(average_ranks(matrix), kind="stable")
    methods = len(order)
    runs = [
        set(range(i, j))
        for i in range(methods)
        for j in range(i + 1, methods + 1)
        if all(p[order[a], order[b]] >= alpha for a, b in itertools.combinations(range(i, j), 2))
    ]
    maximal = [run for run in runs if not any(run < other for other in runs)]
    return [[int(order[k]) for k in sorted(run)] for run in sorted(maximal, key=min)]


def test_cliques_equal_brute_force_over_scikit_posthocs() -> None:
    generator = np.random.default_rng(0)
    overlapping = alone = 0
    for _ in range(25):
        skill = generator.normal(scale=1.0, size=6)
        matrix = generator.normal(size=(20, 1)) + skill + generator.normal(size=(20, 6))
        found = cliques(matrix)
        assert found == brute_force_cliques(matrix, 0.05)
        overlapping += sum(map(len, found)) > 6
        alone += any(len(clique) == 1 for clique in found)
    assert overlapping
    assert alone


def test_cliques_of_demsars_example_hold_all_methods() -> None:
    # The best pair alone has p = 0.01 to 0.02; Holm over six pairs leaves one bar.
    assert cliques(DEMSAR) == brute_force_cliques(DEMSAR, 0.05) == [[3, 1, 2, 0]]


def test_overlapping_cliques() -> None:
    # Method 2 beats 0 on all twelve sets (p = 2 / 4096); 1 is above both on half of them and below both on the others.
    step = np.arange(12) / 100
    middle = 1 + np.where(np.arange(12) % 2, 1.5, -1.5) + step
    assert cliques(np.column_stack([step, middle, 2 + 2 * step])) == [[2, 1], [1, 0]]


def test_equal_methods_share_a_clique() -> None:
    column = np.random.default_rng(4).normal(size=(8, 1))
    assert cliques(np.repeat(column, 3, axis=1)) == [[0, 1, 2]]


def estimate_of(mean: float) -> Estimate:
    return Estimate(8, 3, mean, None, None, None, None, None, "")


def test_win_tie_loss() -> None:
    differences = [estimate_of(mean) for mean in (0.02, 0.01, -0.02, -0.01, 0.05)]
    assert win_tie_loss(differences, [0.01, 0.05, 0.04, 0.3, None]) == (1, 3, 1)
    assert win_tie_loss([], []) == (0, 0, 0)
    with pytest.raises(QGBenchError, match="for each contrast"):
        win_tie_loss(differences, [0.01])


class TestRope:
    def test_names_the_sides(self) -> None:
        gain, nil, loss = np.full(10, 0.05), np.full(10, 0.001), np.full(10, -0.05)
        assert rope(gain)[2] > 0.99
        assert rope(nil)[1] > 0.99
        assert rope(loss)[0] > 0.99
        assert sum(rope(np.array([0.03, -0.02, 0.0, 0.011]))) == pytest.approx(1)

    def test_is_mirrored_and_seeded(self) -> None:
        values = np.array([0.03, -0.02, 0.015, 0.0, 0.022])
        assert rope(values) == rope(values)
        assert rope(-values)[::-1] == pytest.approx(rope(values), abs=0.01)

    def test_wider_regions_hold_more(self) -> None:
        values = np.array([0.03, 0.012, 0.015, 0.004, 0.022])
        assert rope(values, rope=0.02)[1] > rope(values, rope=0.005)[1]

    def test_one_difference_by_hand(self) -> None:
        # Weights (w0, w1) ~ Dirichlet(1/2, 1); pairs (0, 0): within, (0, d): d/2 and (d, d): better, where d/2 > rope.
        # Better wins where 1 - w0**2 > 1/2, so where w0 < sqrt(1/2); w0 ~ Beta(1/2, 1) has P(w0 < x) = sqrt(x).
        assert rope(np.array([0.05]))[2] == pytest.approx(0.5**0.25, abs=0.007)

    @pytest.mark.parametrize(
        "values",
        [
            np.random.default_rng(0).normal(0.008, 0.02, 5),
            np.random.default_rng(1).normal(0.01, 0.01, 40),
            np.array([0.02, 0.0, 0.01, -0.02, 0.02, 0.03]),  # pairs exactly at the edges count half
        ],
    )
    def test_equals_baycomp_on_the_same_draws(self, values: np.ndarray) -> None:
        from baycomp import SignedRankTest

        judge = SignedRankTest.probs(np.zeros_like(values), values, 0.01, random_state=3)
        assert rope(values, seed=3) == pytest.approx(judge, abs=1e-4)

    @pytest.mark.parametrize(("values", "width"), [([], 0.01), ([np.nan], 0.01), ([0.1], 0.0)])
    def test_refuses(self, values: list[float], width: float) -> None:
        with pytest.raises(QGBenchError, match="rope > 0"):
            rope(np.array(values), rope=width)


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


@pytest.mark.parametrize("function", [average_ranks, friedman, cliques])
def test_matrices_with_holes_are_refused(function: object) -> None:
    assert callable(function)
    for matrix in (np.array([[1, np.nan]]), np.zeros((0, 3)), np.zeros(3)):
        with pytest.raises(QGBenchError, match="full matrix"):
            function(matrix)
