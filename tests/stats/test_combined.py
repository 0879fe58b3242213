"""The mean over data sets against closed forms and simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from qgbench.errors import QGBenchError
from qgbench.stats import combined, crossed
from qgbench.stats.combined import estimate_mean_of
from qgbench.stats.crossed import mean_squares


def tables(seed: int, shift: float = 0.0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [
        shift + generator.normal(size=(groups, seeds)) + generator.normal(size=(1, seeds))
        for groups, seeds in ((8, 3), (20, 5), (6, 2))
    ]


def test_one_table_is_the_crossed_estimate() -> None:
    table = tables(0, 0.7)[1]
    result, judge = estimate_mean_of([table]), crossed.estimate(table)
    assert (result.groups, result.seeds, result.reason) == (20, 5, "")
    assert result.mean == pytest.approx(judge.mean)
    assert result.interval == pytest.approx(judge.interval)
    assert result.standard_error == pytest.approx(judge.standard_error)
    assert result.p == pytest.approx(judge.p, rel=1e-8)
    assert result.p_false == pytest.approx(judge.p_false, rel=1e-8)


def test_two_tables_by_hand() -> None:
    # Seeds agree, so each half-width is Student's over groups.
    generator = np.random.default_rng(1)
    groups = [generator.normal(0.5, 1, size=n) for n in (7, 12)]
    result = estimate_mean_of([np.repeat(each[:, None], 4, axis=1) for each in groups])
    halves = [stats.ttest_1samp(each, 0).confidence_interval().high - each.mean() for each in groups]
    width = math.sqrt(halves[0] ** 2 + halves[1] ** 2) / 2
    middle = (groups[0].mean() + groups[1].mean()) / 2
    assert result.interval == pytest.approx((middle - width, middle + width))
    assert result.standard_error == pytest.approx(math.hypot(*(stats.sem(each) for each in groups)) / 2)
    assert (result.groups, result.seeds) == (19, 4)


def test_weights_are_equal_whatever_the_size() -> None:
    assert estimate_mean_of([np.full((100, 3), 0.0), np.full((6, 3), 1.0)]).mean == 0.5


@pytest.mark.parametrize("shift", [-1.0, 0.2, 3.0])
def test_interval_of_confidence_one_minus_p_just_touches_zero(shift: float) -> None:
    values = tables(2, shift)
    result = estimate_mean_of(values)
    assert result.p is not None
    assert result.interval is not None
    touching = combined.half_width([mean_squares(table) for table in values], result.p)
    assert float(touching) == pytest.approx(abs(result.mean), rel=1e-8)
    assert (result.p < 0.05) == (result.interval[0] > 0 or result.interval[1] < 0)
    assert result.p_false == result.p / 2
    scaled = estimate_mean_of([-5 * table for table in values])
    assert scaled.p == pytest.approx(result.p, rel=1e-8)


def test_all_zero_and_all_equal() -> None:
    zero = estimate_mean_of([np.zeros((6, 2)), np.zeros((9, 3))])
    assert (zero.mean, zero.interval, zero.p, zero.p_false) == (0, (0, 0), 1, 0.5)
    sure = estimate_mean_of([np.ones((6, 2)), np.ones((9, 3))])
    assert (sure.mean, sure.interval, sure.p) == (1, (1, 1), 0)


def test_rank_test_over_pooled_groups_is_never_given() -> None:
    assert estimate_mean_of(tables(3)).wilcoxon_p is None


class TestWithheld:
    def test_few_groups_in_one_table(self) -> None:
        result = estimate_mean_of([*tables(4), np.random.default_rng(5).normal(size=(4, 3))])
        assert result.interval is not None
        assert (result.p, result.p_false) == (None, None)
        assert result.reason == "p withheld: test groups are too few (4 in table 4), at least 6 are needed"

    def test_one_seed_in_one_table(self) -> None:
        values = [*tables(6), np.random.default_rng(7).normal(size=(10, 1))]
        result = estimate_mean_of(values)
        halves = [np.diff(interval)[0] / 2 for table in values if (interval := crossed.estimate(table).interval)]
        assert result.interval == pytest.approx(
            (result.mean - math.hypot(*halves) / 4, result.mean + math.hypot(*halves) / 4)
        )
        assert (result.p, result.seeds) == (None, 1)
        assert "one seed says nothing about other seeds (table 4)" in result.reason
        assert "over test groups only in table 4" in result.reason

    def test_one_group_in_one_table_leaves_no_interval(self) -> None:
        result = estimate_mean_of([np.ones((1, 3)), *tables(8)])
        assert (result.interval, result.standard_error, result.p) == (None, None, None)
        assert "no interval: one test group (table 1)" in result.reason

    def test_nothing_and_holes_are_refused(self) -> None:
        with pytest.raises(QGBenchError, match="at least one table"):
            estimate_mean_of([])
        with pytest.raises(QGBenchError, match="full table"):
            estimate_mean_of([np.array([[1, np.nan], [0, 1]])])


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
