"""The mean over data sets against closed forms, scipy and simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from qgbench.base.errors import QGBenchError
from qgbench.stats import combined, crossed
from qgbench.stats.combined import estimate_mean_of
from qgbench.stats.crossed import mean_squares


def tables(seed: int, shift: float = 0.0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        name: shift + generator.normal(size=(groups, seeds)) + generator.normal(size=(1, seeds))
        for name, groups, seeds in (("ph2", 8, 3), ("isic", 20, 5), ("clinic", 6, 2))
    }


def five(seed: int, shift: float = 0.0, seeds: tuple[int, ...] = (3,) * 5) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        name: shift + generator.normal(size=(7, 1)) + generator.normal(size=(7, count))
        for name, count in zip("abcde", seeds, strict=True)
    }


def test_one_table_is_the_crossed_estimate() -> None:
    table = tables(0, 0.7)["isic"]
    assert estimate_mean_of({"isic": table}) == crossed.estimate(table)


def test_one_skewed_table_keeps_its_warning() -> None:
    means = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 2.0])
    assert "p may be too small" in estimate_mean_of({"ph2": np.repeat(means[:, None], 4, axis=1)}).reason


def test_two_tables_by_hand() -> None:
    # Seeds agree, so each half-width is Student's over groups.
    generator = np.random.default_rng(1)
    groups = [generator.normal(0.5, 1, size=n) for n in (7, 12)]
    result = estimate_mean_of({str(len(each)): np.repeat(each[:, None], 4, axis=1) for each in groups})
    halves = [stats.ttest_1samp(each, 0).confidence_interval().high - each.mean() for each in groups]
    width = math.sqrt(halves[0] ** 2 + halves[1] ** 2) / 2
    middle = (groups[0].mean() + groups[1].mean()) / 2
    assert result.interval == pytest.approx((middle - width, middle + width))
    assert result.standard_error == pytest.approx(math.hypot(*(stats.sem(each) for each in groups)) / 2)
    assert (result.groups, result.seeds, result.method) == (19, 4, "combined")


def test_weights_are_equal_whatever_the_size() -> None:
    assert estimate_mean_of({"large": np.full((100, 3), 0.0), "small": np.full((6, 3), 1.0)}).mean == 0.5


@pytest.mark.parametrize("shift", [-1.0, 0.2, 3.0])
def test_interval_of_confidence_one_minus_p_just_touches_zero(shift: float) -> None:
    values = tables(2, shift)
    result = estimate_mean_of(values)
    assert result.method == "combined"
    assert result.p is not None
    assert result.interval is not None
    touching = combined.half_width([mean_squares(table) for table in values.values()], result.p)
    assert float(touching) == pytest.approx(abs(result.mean), rel=1e-8)
    assert (result.p < 0.05) == (result.interval[0] > 0 or result.interval[1] < 0)
    assert result.p_false == result.p / 2
    scaled = estimate_mean_of({name: -5 * table for name, table in values.items()})
    assert scaled.p == pytest.approx(result.p, rel=1e-8)


def test_all_zero_and_all_equal() -> None:
    zero = estimate_mean_of({"a": np.zeros((6, 2)), "b": np.zeros((9, 3))})
    assert (zero.mean, zero.interval, zero.p, zero.p_false) == (0, (0, 0), 1, 0.5)
    sure = estimate_mean_of({"a": np.ones((6, 2)), "b": np.ones((9, 3))})
    assert (sure.mean, sure.interval, sure.p) == (1, (1, 1), 0)
    zeros, ones = ({name: np.full((6, 2), value) for name in "abcd"} for value in (0.0, 1.0))
    assert (estimate_mean_of(zeros).interval, estimate_mean_of(zeros).p) == ((0, 0), 1)
    assert (estimate_mean_of(ones).interval, estimate_mean_of(ones).p) == ((1, 1), 0)


def test_rank_test_over_pooled_groups_is_never_given() -> None:
    assert estimate_mean_of(tables(3)).wilcoxon_p is None
    assert estimate_mean_of(five(3)).wilcoxon_p is None


class TestStudentOverSets:
    @pytest.mark.parametrize("shift", [0.0, 0.4, -2.0])
    def test_is_scipys_one_sample_test_of_the_means(self, shift: float) -> None:
        values = five(0, shift)
        result = estimate_mean_of(values)
        means = [table.mean() for table in values.values()]
        judge = stats.ttest_1samp(means, 0)
        assert result.method == "t over sets"
        assert result.p == pytest.approx(judge.pvalue, rel=1e-12)
        assert result.p_false == pytest.approx(judge.pvalue / 2, rel=1e-12)
        assert result.interval == pytest.approx(tuple(judge.confidence_interval()), rel=1e-12)
        assert result.standard_error == pytest.approx(stats.sem(means), rel=1e-12)
        assert (result.groups, result.seeds, result.reason) == (35, 3, "")

    @pytest.mark.parametrize(
        ("seeds", "method"),
        [
            ((3, 3, 3, 3), "t over sets"),
            ((3, 3, 3), "combined"),
            ((4, 4, 4, 4), "combined"),
            ((9, 9, 9, 3), "t over sets"),
            ((1, 1, 1, 1, 1), "t over sets"),
            ((2, 2), "combined"),
        ],
    )
    def test_is_taken_from_four_sets_on_if_one_has_fewer_than_four_seeds(
        self, seeds: tuple[int, ...], method: str
    ) -> None:
        assert combined.rule(seeds) == method

    def test_the_rule_does_not_look_at_results(self) -> None:
        assert {estimate_mean_of(five(seed, shift)).method for seed in range(5) for shift in (0, 5)} == {"t over sets"}

    def test_one_seed_needs_no_withholding(self) -> None:
        result = estimate_mean_of(five(1, seeds=(1, 3, 3, 3, 3)))
        assert result.p is not None
        assert (result.seeds, result.reason) == (1, "")

    def test_few_groups_withhold_p_and_keep_the_interval(self) -> None:
        values = five(2) | {"clinic": np.ones((1, 3)), "ph2": np.ones((5, 3))}
        result = estimate_mean_of(values)
        judge = stats.ttest_1samp([table.mean() for table in values.values()], 0).confidence_interval()
        assert result.interval == pytest.approx(tuple(judge))
        assert (result.p, result.p_false) == (None, None)
        assert result.reason == "p withheld: too few test groups (1 in clinic, 5 in ph2), at least 6 are needed"


class TestWithheld:
    def test_few_groups_in_one_table(self) -> None:
        values = tables(4)
        values["clinic"] = values["clinic"][:4]
        result = estimate_mean_of(values)
        assert result.interval is not None
        assert (result.p, result.p_false) == (None, None)
        assert result.reason == "p withheld: too few test groups (4 in clinic), at least 6 are needed"

    def test_one_seed_in_one_table(self) -> None:
        values = tables(6)
        values["clinic"] = values["clinic"][:, :1]
        result = estimate_mean_of(values)
        halves = [
            np.diff(interval)[0] / 2 for table in values.values() if (interval := crossed.estimate(table).interval)
        ]
        assert result.interval == pytest.approx(
            (result.mean - math.hypot(*halves) / 3, result.mean + math.hypot(*halves) / 3)
        )
        assert (result.p, result.seeds) == (None, 1)
        assert result.reason == (
            "p withheld: one seed says nothing about other seeds (clinic); "
            "the interval is over test groups only in clinic"
        )

    def test_one_group_in_one_table_leaves_no_interval(self) -> None:
        result = estimate_mean_of({"phantom": np.ones((1, 3)), "isic": tables(8)["isic"]})
        assert (result.interval, result.standard_error, result.p) == (None, None, None)
        assert "no interval: one test group (phantom)" in result.reason

    def test_nothing_and_holes_are_refused(self) -> None:
        with pytest.raises(QGBenchError, match="at least one table"):
            estimate_mean_of({})
        with pytest.raises(QGBenchError, match="full table"):
            estimate_mean_of({"ph2": np.array([[1, np.nan], [0, 1]])})


REPLICATES = 4000
ERROR = 3 * math.sqrt(0.05 * 0.95 / REPLICATES)
"""Three standard errors of a rate of 5 %."""


def null_tables(
    sizes: list[tuple[int, int]], scales: list[float], spreads: tuple[float, float, float], seed: int
) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    group, run, rest = spreads
    return [
        scale
        * (
            group * generator.standard_normal((REPLICATES, groups, 1))
            + run * generator.standard_normal((REPLICATES, 1, seeds))
            + rest * generator.standard_normal((REPLICATES, groups, seeds))
        )
        for (groups, seeds), scale in zip(sizes, scales, strict=True)
    ]


def rejection_rate(values: list[np.ndarray]) -> float:
    squares = [mean_squares(table) for table in values]
    mean = np.mean([table.mean(axis=(1, 2)) for table in values], axis=0)
    return float(np.mean(np.abs(mean) > combined.half_width(squares)))


@pytest.mark.parametrize("sizes", [[(6, 2), (6, 2)], [(8, 3), (15, 3), (40, 3)], [(6, 2), (40, 5)], [(8, 5)] * 5])
@pytest.mark.parametrize("spreads", [(1, 0, 0.3), (0, 1, 0.3), (1, 0.5, 1), (0, 0, 1)])
def test_holds_its_level(sizes: list[tuple[int, int]], spreads: tuple[float, float, float]) -> None:
    for scales in ([1.0] * len(sizes), [1.0, *[0.1] * (len(sizes) - 1)], [*[0.3] * (len(sizes) - 1), 1.0]):
        assert rejection_rate(null_tables(sizes, scales, spreads, seed=len(sizes))) <= 0.05 + ERROR


def test_rejects_five_percent_where_one_mean_square_of_one_table_dominates() -> None:
    values = null_tables([(8, 3), (15, 3)], [1.0, 0.01], (1, 0, 0.01), seed=1)
    assert rejection_rate(values) == pytest.approx(0.05, abs=ERROR)


def test_seeds_shared_by_data_sets_would_break_it() -> None:
    # The same run effect added to every table: the proof's independence is needed, not a nicety.
    values = null_tables([(40, 5)] * 5, [1.0] * 5, (0.1, 0, 0.1), seed=2)
    shared = np.random.default_rng(3).standard_normal((REPLICATES, 1, 5))
    assert rejection_rate([table + shared for table in values]) > 0.1


@pytest.mark.parametrize("sets", [4, 5, 8])
@pytest.mark.parametrize("least", [1.0, 0.3, 0.01])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_student_over_sets_holds_its_level_whatever_the_variances(sets: int, least: float, alpha: float) -> None:
    scales = np.geomspace(1, least, sets)[:, None]
    means = scales * np.random.default_rng(sets).standard_normal((sets, 20_000))
    rate = np.mean(np.abs(means.mean(axis=0)) > combined.half_width_over_sets(means, alpha))
    assert rate <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / 20_000)
    if least == 1:
        assert rate == pytest.approx(alpha, abs=3 * math.sqrt(alpha * (1 - alpha) / 20_000))


def test_student_over_sets_breaks_where_one_set_alone_is_noisy_and_lies_apart() -> None:
    # The documented limit: true means fixed, their mean 0, and standard errors ten times apart.
    truth, errors = np.array([1, -0.25, -0.25, -0.25, -0.25]), np.array([1, 0.1, 0.1, 0.1, 0.1])
    means = (truth + errors * np.random.default_rng(0).standard_normal((20_000, 5))).T
    assert np.mean(np.abs(means.mean(axis=0)) > combined.half_width_over_sets(means)) > 0.1


def test_three_seeds_and_sets_alike_favour_student_over_sets_and_five_seeds_and_sets_that_differ_do_not() -> None:
    def powers(seeds: int, spread: float) -> tuple[float, float]:
        drawn = null_tables([(20, seeds)] * 5, [0.01] * 5, (3, 1, 5), seed=4)
        shifts = 0.015 + spread * np.linspace(-1, 1, 5)
        squares = [mean_squares(table + shift) for table, shift in zip(drawn, shifts, strict=True)]
        means = np.stack([each.mean for each in squares])
        widths = combined.half_width_over_sets(means), combined.half_width(squares)
        over_sets, by_tables = (float(np.mean(np.abs(means.mean(axis=0)) > width)) for width in widths)
        return over_sets, by_tables

    alike, apart = powers(3, 0.0), powers(5, 0.015)
    assert alike[0] > alike[1] + 0.1
    assert apart[1] > apart[0] + 0.1
