"""The crossed model against scipy, hand-computed tables and simulation."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from qgbench.base.errors import QGBenchError
from qgbench.stats.crossed import (
    MIN_GROUPS,
    MeanSquares,
    estimate,
    half_width,
    holm,
    mean_squares,
    rests_on_few_groups,
    without_p,
)

# Rows 6 groups, columns 2 seeds. Worked by hand: mean 4; group means 1, 2, 3, 5, 6, 7; seed means 3, 5.
# MS_group = 2 (9+4+1+1+4+9) / 5 = 11.2; MS_seed = 6 (1+1) / 1 = 12; residuals +-d with d = 1, 1, 0, 1, -1, -2
# (y[g,0] = group mean - 1 + d), so MS_res = 2 (1+1+0+1+1+4) / 5 = 3.2.
HAND = np.array([[1, 1], [2, 2], [2, 4], [5, 5], [4, 8], [4, 10]], dtype=float)


def student(squared_sum: float, mean_square: float, degrees: int) -> float:
    return 2 * stats.t.sf(math.sqrt(squared_sum / mean_square), degrees)


class TestAnalysisOfVariance:
    def test_hand_computed_table(self) -> None:
        squares = mean_squares(HAND)
        assert squares.mean == 4
        assert squares.group == pytest.approx(11.2)
        assert squares.seed == pytest.approx(12)
        assert squares.residual == pytest.approx(3.2)
        assert squares.variance == pytest.approx((11.2 + 12 - 3.2) / 12)

    def test_hand_computed_interval(self) -> None:
        t_group, t_seed = (
            2.5705818,
            12.7062047,
        )  # two-sided 5 % quantiles, 5 and 1 degrees of freedom, printed
        expected = math.sqrt((t_group**2 * (11.2 - 3.2) + t_seed**2 * 12) / 12)
        result = estimate(HAND)
        assert result.interval == pytest.approx((4 - expected, 4 + expected), rel=1e-7)
        assert result.standard_error == pytest.approx(math.sqrt(20 / 12))

    def test_mean_squares_add_up_to_the_total_sum_of_squares(self) -> None:
        values = np.random.default_rng(0).normal(size=(7, 5))
        squares = mean_squares(values)
        total = 6 * squares.group + 4 * squares.seed + 24 * squares.residual
        assert total == pytest.approx(((values - values.mean()) ** 2).sum())

    def test_many_tables_at_once_equal_one_by_one(self) -> None:
        values = np.random.default_rng(1).normal(size=(2, 3, 8, 3))
        widths = half_width(mean_squares(values))
        for index in np.ndindex(2, 3):
            result = estimate(values[index])
            assert result.interval is not None
            assert widths[index] == pytest.approx(result.interval[1] - result.mean, rel=1e-12)

    def test_variance_never_falls_below_the_residual(self) -> None:
        values = np.array([[1.0, -1], [-1, 1], [1, -1], [-1, 1], [1, -1], [-1, 1]])
        squares = mean_squares(values)
        assert squares.group == 0
        assert squares.seed == 0
        assert squares.residual == pytest.approx(12 / 5)
        assert squares.variance == pytest.approx(12 / 5 / 12)
        assert half_width(squares) == pytest.approx(stats.t.isf(0.025, 5) * math.sqrt(12 / 5 / 12))


class TestLimits:
    def test_seeds_that_agree_give_the_one_sample_t_test_over_groups(self) -> None:
        groups = np.random.default_rng(2).normal(0.4, 1, size=9)
        result = estimate(np.repeat(groups[:, None], 4, axis=1))
        judge = stats.ttest_1samp(groups, 0)
        assert result.p == pytest.approx(judge.pvalue, rel=1e-9)
        assert result.interval == pytest.approx(tuple(judge.confidence_interval()), rel=1e-9)

    def test_groups_that_agree_give_the_one_sample_t_test_over_seeds(self) -> None:
        seeds = np.random.default_rng(3).normal(0.4, 1, size=5)
        result = estimate(np.repeat(seeds[None, :], 9, axis=0))
        judge = stats.ttest_1samp(seeds, 0)
        assert result.p == pytest.approx(judge.pvalue, rel=1e-9)
        assert result.interval == pytest.approx(tuple(judge.confidence_interval()), rel=1e-9)

    def test_paired_differences_with_equal_seeds_give_the_paired_t_test(self) -> None:
        generator = np.random.default_rng(4)
        one, other = generator.normal(size=(2, 12))
        result = estimate(np.repeat((one - other)[:, None], 3, axis=1))
        assert result.p == pytest.approx(stats.ttest_rel(one, other).pvalue, rel=1e-9)

    def test_purely_additive_table_adds_the_squares_of_both_half_widths(self) -> None:
        generator = np.random.default_rng(5)
        groups, seeds = generator.normal(size=10), generator.normal(size=4)
        result = estimate(groups[:, None] + seeds[None, :])
        widths = [stats.ttest_1samp(x, 0).confidence_interval().high - x.mean() for x in (groups, seeds)]
        assert result.interval is not None
        assert np.diff(result.interval)[0] / 2 == pytest.approx(math.hypot(*widths), rel=1e-9)

    def test_all_zero(self) -> None:
        result = estimate(np.zeros((8, 3)))
        assert (result.mean, result.interval) == (0, (0, 0))
        assert (result.p, result.p_one_sided, result.wilcoxon_p) == (1, 0.5, 1)

    def test_zero_mean_of_unequal_values(self) -> None:
        result = estimate(np.array([[1.0, 2], [-1, -2], [3, 1], [-3, -1], [2, 2], [-2, -2]]))
        assert result.p == 1
        assert result.p_one_sided == 0.5


class TestProbabilities:
    @settings(max_examples=60, deadline=None)
    @given(
        st.integers(0, 2**32 - 1),
        st.integers(6, 30),
        st.integers(2, 12),
        st.tuples(st.floats(0, 3), st.floats(0, 3)),
        st.floats(-2, 2),
    )
    def test_interval_of_confidence_one_minus_p_just_touches_zero(
        self, seed: int, groups: int, seeds: int, sds: tuple[float, float], shift: float
    ) -> None:
        generator = np.random.default_rng(seed)
        values = shift + generator.normal(size=(groups, seeds))
        values += sds[0] * generator.normal(size=(groups, 1)) + sds[1] * generator.normal(size=(1, seeds))
        result = estimate(values)
        assert result.p is not None
        assert half_width(mean_squares(values), result.p) == pytest.approx(abs(result.mean), rel=1e-5, abs=1e-9)
        assert result.interval is not None
        assert (result.p < 0.05) == (result.interval[0] > 0 or result.interval[1] < 0)
        assert result.p_one_sided == result.p / 2
        flipped = estimate(-3 * values)
        assert flipped.p == pytest.approx(result.p, rel=1e-6)
        assert flipped.mean == pytest.approx(-3 * result.mean)

    def test_p_and_half_width_are_those_of_scipys_t_distribution(self) -> None:
        # Two terms, seeds fewer than groups: p solves t_group(p)**2 (MS_group - MS_res) + t_seed(p)**2 MS_seed = 192.
        squares = mean_squares(HAND)
        p = estimate(HAND).p
        assert p is not None

        def width(alpha: float) -> float:
            t_group, t_seed = (float(stats.t.isf(alpha / 2, degrees)) for degrees in (5, 1))
            return math.sqrt((t_group**2 * (11.2 - 3.2) + t_seed**2 * 12) / 12)

        for alpha in (0.2, 0.05, 1e-6):
            assert half_width(squares, alpha) == pytest.approx(width(alpha), rel=1e-12)
        assert width(p) == pytest.approx(4, rel=1e-12)
        groups = np.random.default_rng(12).normal(3, 1, size=30)
        judge = 2 * stats.t.sf(abs(groups.mean()) / stats.sem(groups), 29)
        assert 0 < judge < 1e-12
        assert estimate(np.repeat(groups[:, None], 3, axis=1)).p == pytest.approx(judge, rel=1e-9)

    def test_p_is_never_below_that_of_any_mean_square_alone(self) -> None:
        squares = mean_squares(HAND)
        target = 16 * 12
        p = estimate(HAND).p
        assert p is not None
        assert p >= student(target, float(squares.seed), 1)
        assert p >= student(target, float(squares.group), 5)
        assert p >= student(target, float(squares.residual), 5)

    def test_wilcoxon_ranks_zeros_by_pratts_rule(self) -> None:
        # |d| = 0, 1, 2, 3, 4, 5, 6, 7: zero takes rank 1; negative: d = -1 (rank 2). Normal approximation by hand:
        # positive ranks 3..8 sum to 33; mean (8*9 - 1*2)/4 = 17.5; variance (8*9*17 - 1*2*3)/24 = 50.75.
        means = np.array([0, -1, 2, 3, 4, 5, 6, 7], dtype=float)
        result = estimate(np.repeat(means[:, None], 2, axis=1))
        by_hand = 2 * stats.norm.sf((33 - 17.5) / math.sqrt(50.75))
        assert result.wilcoxon_p is not None
        # scipy computes the exact permutation distribution or the normal approximation, depending on its version
        assert result.wilcoxon_p == pytest.approx(by_hand, abs=0.006)

    def test_holm_by_hand(self) -> None:
        # sorted 0.005, 0.01, 0.03, 0.04 -> times 4, 3, 2, 1 = 0.02, 0.03, 0.06, 0.04 -> made monotone
        assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
        assert holm([0.9, 0.8]) == [1, 1]
        assert holm([0.2]) == [0.2]
        assert holm([]) == []


class TestWithheld:
    @pytest.mark.parametrize("groups", [2, 3, MIN_GROUPS - 1])
    def test_few_groups(self, groups: int) -> None:
        result = estimate(np.random.default_rng(6).normal(size=(groups, 3)))
        assert result.interval is not None
        assert (result.p, result.p_one_sided, result.wilcoxon_p) == (None, None, None)
        assert result.reason == f"p withheld: {groups} test groups, at least 6 are needed"

    def test_six_groups_are_enough(self) -> None:
        result = estimate(np.random.default_rng(6).normal(size=(6, 2)))
        assert result.p is not None
        assert result.reason == ""

    def test_one_seed_has_an_interval_over_groups_only(self) -> None:
        groups = np.random.default_rng(7).normal(size=10)
        result = estimate(groups[:, None])
        assert result.interval == pytest.approx(tuple(stats.ttest_1samp(groups, 0).confidence_interval()))
        assert (result.p, result.p_one_sided, result.wilcoxon_p) == (None, None, None)
        assert "one seed" in result.reason
        assert "over test groups only" in result.reason

    @pytest.mark.parametrize("seeds", [1, 4])
    def test_one_group_has_no_interval(self, seeds: int) -> None:
        result = estimate(np.full((1, seeds), 0.5))
        assert (result.mean, result.interval, result.standard_error, result.p) == (0.5, None, None, None)
        assert "no interval: one test group" in result.reason

    @pytest.mark.parametrize("values", [np.zeros((0, 3)), np.zeros(4), np.array([[1, np.nan], [0, 1]])])
    def test_tables_with_holes_are_refused(self, values: np.ndarray) -> None:
        with pytest.raises(QGBenchError, match="full table"):
            estimate(values)


class TestSkewedFewGroups:
    @staticmethod
    def squares(group: float, groups: int = 8, seeds: int = 5) -> MeanSquares:
        return MeanSquares(*(np.array(part) for part in (0.0, group, 1.0, 1.0)), groups, seeds)

    def test_share_by_hand(self) -> None:
        # 8 groups, 5 seeds: t**2 = 5.591 (7 degrees of freedom), 7.709 (4). With MS_seed = MS_res = 1 the groups' part
        # is 5.591 M of 5.591 (M - 1) + 7.709, which is 0.7 at M = 0.7 (7.709 - 5.591) / (0.3 * 5.591) = 0.884 < 1, so
        # that MS_seed = 6 decides: M = 0.7 (6 * 7.709 - 5.591) / (0.3 * 5.591) = 16.97.
        below, above = (self.squares(group)._replace(seed=np.array(6.0)) for group in (16.9, 17.1))
        assert not rests_on_few_groups(below)
        assert rests_on_few_groups(above)

    @pytest.mark.parametrize(("groups", "seeds", "expected"), [(19, 4, True), (20, 4, False), (19, 3, False)])
    def test_only_few_groups_with_several_seeds(self, groups: int, seeds: int, expected: bool) -> None:
        assert bool(rests_on_few_groups(self.squares(1e6, groups, seeds))) is expected

    def test_a_claim_is_warned_of_and_keeps_its_p(self) -> None:
        means = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 2.0])
        result = estimate(np.repeat(means[:, None], 4, axis=1))
        assert result.p == pytest.approx(stats.ttest_1samp(means, 0).pvalue, rel=1e-9)
        assert result.reason.startswith("p may be too small: it rests on 8 test groups")
        untested = without_p(result)
        assert (untested.p, untested.p_one_sided, untested.wilcoxon_p) == (None, None, None)
        assert untested.reason == "", "no warning of a p that nobody sees"
        assert (untested.mean, untested.interval) == (result.mean, result.interval)
        assert ";" not in result.reason

    def test_no_claim_no_warning(self) -> None:
        means = np.array([-0.5, 0.2, 0.3, -0.4, 0.5, -0.6, 0.7, 2.0])
        result = estimate(np.repeat(means[:, None], 4, axis=1))
        assert result.p is not None
        assert result.p > 0.05
        assert result.reason == ""
        assert estimate(np.repeat(means[:, None] + 9, 4, axis=1), tested=False).reason == ""


def test_groups_and_seeds_are_treated_alike() -> None:
    values = np.random.default_rng(8).normal(size=(3, 9, 6)) + np.arange(6)
    assert half_width(mean_squares(values)) == pytest.approx(half_width(mean_squares(values.swapaxes(1, 2))), rel=1e-12)


def simulated_rejections(groups: int, seeds: int, spreads: tuple[float, float, float], replicates: int = 4000) -> float:
    generator = np.random.default_rng(groups * 100 + seeds)
    sd_group, sd_seed, sd_residual = spreads
    tables = sd_residual * generator.standard_normal((replicates, groups, seeds))
    tables += sd_group * generator.standard_normal((replicates, groups, 1))
    tables += sd_seed * generator.standard_normal((replicates, 1, seeds))
    squares = mean_squares(tables)
    return float(np.mean(np.abs(squares.mean) > half_width(squares)))


@pytest.mark.parametrize("groups", [6, 8, 15, 40])
@pytest.mark.parametrize("seeds", [2, 3, 5])
class TestUnderTheNull:
    # Three standard errors of a rate of 5 % from 4000 replicates.
    ERROR = 3 * math.sqrt(0.05 * 0.95 / 4000)

    @pytest.mark.parametrize("spreads", [(0, 0, 1), (1, 0, 1), (0, 0.3, 1), (1, 0.3, 1), (1, 1, 1), (1, 0.5, 0.3)])
    def test_holds_its_level(self, groups: int, seeds: int, spreads: tuple[float, float, float]) -> None:
        assert simulated_rejections(groups, seeds, spreads) <= 0.05 + self.ERROR

    def test_rejects_five_percent_where_one_component_dominates(self, groups: int, seeds: int) -> None:
        assert abs(simulated_rejections(groups, seeds, (0, 1, 0.01)) - 0.05) <= self.ERROR
        assert abs(simulated_rejections(groups, seeds, (1, 0, 0.001)) - 0.05) <= self.ERROR


def test_neither_statistics_nor_reports_import_torch() -> None:
    modules = [
        f"qgbench.stats.{name}" for name in ("across", "crossed", "effects", "misses", "power", "sets", "simulate")
    ]
    code = f"import sys, qgbench.report.write, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_an_untested_mean_has_no_p() -> None:
    generator = np.random.default_rng(11)
    for groups, seeds in ((8, 3), (40, 5), (6, 2)):
        values = 0.3 + generator.standard_normal((groups, seeds))
        found, untested = estimate(values), estimate(values, tested=False)
        assert (untested.mean, untested.interval, untested.reason) == (found.mean, found.interval, found.reason)
        assert (untested.p, untested.p_one_sided, untested.wilcoxon_p) == (None, None, None)
