"""The mean over data sets against closed forms, scipy, statsmodels and simulation."""

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.meta_analysis import combine_effects

from qgbench.base.errors import QGBenchError
from qgbench.stats import crossed, sets
from qgbench.stats.crossed import mean_squares
from qgbench.stats.sets import image_weighted, interval, population, these_sets


def tables(seed: int, shift: float = 0.0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        name: shift + generator.normal(size=(groups, seeds)) + generator.normal(size=(1, seeds))
        for name, groups, seeds in (("ph2", 8, 3), ("isic", 20, 5), ("clinic", 6, 3))
    }


def five(seed: int, shift: float = 0.0, seeds: int = 3, spread: float = 1.0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {name: shift + spread * generator.normal() + generator.normal(size=(9, seeds)) for name in "abcde"}


SAME_SEEDS = dict.fromkeys("abcde", (0, 1, 2))


def test_one_table_is_the_crossed_estimate() -> None:
    table = tables(0, 0.7)["isic"]
    assert these_sets({"isic": table}) == crossed.estimate(table)
    assert these_sets({"isic": table}, {"isic": range(5)}) == crossed.estimate(table)
    assert interval({"isic": table}) == pytest.approx(crossed.estimate(table).interval)
    assert sets.half_width([mean_squares(table)], 0.01) == pytest.approx(crossed.half_width(mean_squares(table), 0.01))


def test_two_sets_whose_seeds_agree_are_welchs_test_with_fewer_degrees() -> None:
    generator = np.random.default_rng(1)
    one, other = generator.normal(0.5, 1, size=7), generator.normal(0.5, 2, size=12)
    result = these_sets({name: np.repeat(each[:, None], 4, axis=1) for name, each in (("a", one), ("b", other))})
    judge = stats.ttest_ind(one, -other, equal_var=False)
    error = math.hypot(stats.sem(one), stats.sem(other)) / 2
    degrees = 6 + 5 / 7 * (judge.df - 6)
    width = stats.t.isf(0.025, degrees) * error
    middle = (one.mean() + other.mean()) / 2
    assert result.interval == pytest.approx((middle - width, middle + width))
    assert result.standard_error == pytest.approx(error)
    assert result.p == pytest.approx(2 * stats.t.sf(abs(middle) / error, degrees))
    assert (result.groups, result.seeds, result.method) == (19, 4, "these sets")


def test_two_seeds_leave_one_degree_of_freedom() -> None:
    effects = {name: np.tile([value, -value], (8, 1)) + 1.0 for name, value in (("a", 0.1), ("b", 0.2))}
    found = these_sets(effects)
    width = stats.t.isf(0.025, 1) * math.hypot(0.1, 0.2) / 2
    assert found.interval == pytest.approx((1 - width, 1 + width))


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_seeds_that_all_sets_share_are_students_test_over_seeds(shift: float) -> None:
    """No noise of groups: only what a seed does, alike on all sets, and a part of each set's own."""
    generator = np.random.default_rng(5)
    by_seed = shift + generator.normal(size=(1, 3)) + 0.3 * generator.normal(size=(5, 3))
    values = {name: np.tile(row, (9, 1)) for name, row in zip("abcde", by_seed, strict=True)}
    found = these_sets(values, SAME_SEEDS)
    judge = stats.ttest_1samp(by_seed.mean(axis=0), 0)
    assert found.interval == pytest.approx(tuple(judge.confidence_interval()))
    assert found.p == pytest.approx(judge.pvalue)
    assert found.method == "these sets, shared seeds"
    apart = these_sets(values)
    assert apart.interval is not None
    assert found.interval is not None
    assert np.diff(apart.interval) < np.diff(found.interval), "seeds of each set's own average out"


def test_weights_are_equal_whatever_the_size() -> None:
    assert these_sets({"large": np.full((100, 3), 0.0), "small": np.full((6, 3), 1.0)}).mean == 0.5


@pytest.mark.parametrize("seeds", [None, SAME_SEEDS])
@pytest.mark.parametrize("shift", [-1.0, 0.2, 3.0])
def test_interval_of_confidence_one_minus_p_just_touches_zero(
    shift: float, seeds: dict[str, tuple[int, ...]] | None
) -> None:
    values = five(2, shift)
    result = these_sets(values, seeds)
    assert result.p is not None
    assert result.interval is not None
    touching = interval(values, seeds, result.p)
    assert touching is not None
    assert min(map(abs, touching)) == pytest.approx(0, abs=1e-7)
    assert (result.p < 0.05) == (result.interval[0] > 0 or result.interval[1] < 0)
    assert result.p_one_sided == result.p / 2
    assert these_sets({name: -5 * table for name, table in values.items()}, seeds).p == pytest.approx(result.p)
    assert these_sets(values, seeds, tested=False).p is None


def test_all_zero_and_all_equal() -> None:
    zero = these_sets({"a": np.zeros((6, 2)), "b": np.zeros((9, 3))})
    assert (zero.mean, zero.interval, zero.p, zero.p_one_sided) == (0, (0, 0), 1, 0.5)
    sure = these_sets({"a": np.ones((6, 2)), "b": np.ones((9, 3))})
    assert (sure.mean, sure.interval, sure.p) == (1, (1, 1), 0)


def test_true_means_that_differ_between_these_sets_are_no_noise() -> None:
    values = five(3)
    moved = {name: table + 10 * index for index, (name, table) in enumerate(values.items())}
    one, other = (these_sets(each).interval for each in (values, moved))
    assert one is not None
    assert other is not None
    assert np.diff(one) == pytest.approx(np.diff(other))


def test_p_is_found_where_scipy_has_no_quantile_far_out() -> None:
    """Of 2.3 and other degrees of freedom ``stdtrit`` is NaN at 1e-131."""
    effects = {name: np.tile([value, 0, -value], (8, 1)) + 1 for name, value in (("a", 1.0), ("b", 0.12))}
    p = these_sets(effects).p
    assert p is not None
    found = interval(effects, alpha=p)
    assert found is not None
    assert found[0] == pytest.approx(0, abs=1e-9)


class TestPopulation:
    def test_is_students_test_of_the_sets_means_and_cochrans_q_is_statsmodels(self) -> None:
        values = five(0)
        found = population(values)
        assert found is not None
        means = np.array([table.mean() for table in values.values()])
        judge = stats.ttest_1samp(means, 0)
        assert found.estimate.interval == pytest.approx(tuple(judge.confidence_interval()))
        assert found.estimate.p is None
        errors = [crossed.estimate(table).standard_error or math.nan for table in values.values()]
        q = combine_effects(means, np.square(errors)).q
        assert found.cochran_q == pytest.approx(q)
        assert found.cochran_p == pytest.approx(stats.chi2.sf(q, 4))
        assert not found.too_narrow

    def test_means_that_agree_by_luck_are_flagged(self) -> None:
        values = {name: table - table.mean() + 0.5 for name, table in five(1).items()}
        found = population(values)
        assert found is not None
        assert found.estimate.standard_error == pytest.approx(0)
        assert found.too_narrow
        assert found.cochran_p == pytest.approx(1)

    def test_shared_seeds_are_crossed_with_sets(self) -> None:
        values = five(4)
        found = population(values, SAME_SEEDS)
        by_seed = np.stack([table.mean(axis=0) for table in values.values()])
        assert found is not None
        assert found.estimate.interval == pytest.approx(crossed.estimate(by_seed).interval)

    def test_equal_errors_are_not_flagged_for_their_last_digits(self) -> None:
        for number in range(30):
            steps = np.random.default_rng(number).normal(size=3)
            found = population(dict.fromkeys("abcde", np.tile(steps, (9, 1))), SAME_SEEDS)
            assert found is not None
            assert not found.too_narrow

    def test_one_set_is_no_sample(self) -> None:
        assert population({"a": np.ones((6, 3))}) is None


class TestImages:
    def test_every_image_counts_alike(self) -> None:
        generator = np.random.default_rng(0)
        sizes = generator.integers(1, 30, size=40)
        table = generator.normal(size=(40, 3)) + 0.02 * sizes[:, None]
        images = np.repeat(table, sizes, axis=0)
        assert image_weighted(table, sizes).mean(axis=0) == pytest.approx(images.mean(axis=0))
        assert image_weighted(table, np.full(40, 7)) == pytest.approx(table)

    def test_its_spread_over_groups_is_that_of_the_jackknife(self) -> None:
        generator = np.random.default_rng(1)
        sizes = generator.integers(5, 20, size=200)
        column = generator.normal(size=200) + 0.05 * sizes
        left = [np.average(np.delete(column, g), weights=np.delete(sizes, g)) for g in range(200)]
        judge = math.sqrt(199 * np.var(left))
        assert stats.sem(image_weighted(column[:, None], sizes)[:, 0]) == pytest.approx(judge, rel=0.02)


class TestWithheld:
    def test_few_groups_in_one_table(self) -> None:
        values = tables(4)
        values["clinic"] = values["clinic"][:4]
        result = these_sets(values)
        assert result.interval is not None
        assert (result.p, result.p_one_sided, result.p_withheld) == (None, None, True)
        assert result.reason == "p withheld: too few test groups (4 in clinic), at least 6 are needed"

    def test_one_seed_in_one_table(self) -> None:
        values = tables(6)
        values["clinic"] = values["clinic"][:, :1]
        result = these_sets(values)
        assert result.interval is not None
        assert (result.p, result.seeds) == (None, 1)
        assert result.reason == (
            "p withheld: one seed says nothing about other seeds (clinic); "
            "the interval is over test groups only in clinic"
        )
        assert interval(values) is None

    def test_one_seed_in_all_leaves_the_groups(self) -> None:
        generator = np.random.default_rng(0)
        one, other = generator.normal(size=9), generator.normal(size=9)
        found = these_sets({"a": one[:, None], "b": other[:, None]})
        assert found.standard_error == pytest.approx(math.hypot(stats.sem(one), stats.sem(other)) / 2)

    def test_one_group_in_one_table_leaves_no_interval(self) -> None:
        result = these_sets({"phantom": np.ones((1, 3)), "isic": tables(8)["isic"]})
        assert (result.interval, result.standard_error, result.p) == (None, None, None)
        assert "no interval: one test group (phantom)" in result.reason

    def test_shared_seeds_that_are_not_the_same(self) -> None:
        seeds = {**SAME_SEEDS, "e": (0, 1, 5)}
        result = these_sets(five(1), seeds)
        assert (result.interval, result.p) == (None, None)
        assert "share their seeds, and their records have different ones" in result.reason
        assert population(five(1), seeds) is None

    def test_nothing_and_holes_are_refused(self) -> None:
        with pytest.raises(QGBenchError, match="at least one table"):
            these_sets({})
        with pytest.raises(QGBenchError, match="full table"):
            these_sets({"ph2": np.array([[1, np.nan], [0, 1]])})


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


def rejection_rate(values: list[np.ndarray], shared: bool = False) -> float:
    squares = [mean_squares(table) for table in values]
    mean = np.mean([table.mean(axis=(1, 2)) for table in values], axis=0)
    by_seed = sets.shared_seeds(np.stack([table.mean(axis=1) for table in values])) if shared else None
    return float(np.mean(np.abs(mean) > sets.half_width(squares, shared=by_seed)))


@pytest.mark.parametrize("sizes", [[(6, 2), (6, 2)], [(8, 3), (15, 3), (40, 3)], [(6, 3), (40, 5)], [(8, 3)] * 5])
@pytest.mark.parametrize("spreads", [(1, 0, 0.3), (0, 1, 0.3), (1, 0.5, 1), (0, 0, 1)])
def test_holds_its_level(sizes: list[tuple[int, int]], spreads: tuple[float, float, float]) -> None:
    for scales in ([1.0] * len(sizes), [1.0, *[0.25] * (len(sizes) - 1)], [*[0.3] * (len(sizes) - 1), 1.0]):
        assert rejection_rate(null_tables(sizes, scales, spreads, seed=len(sizes))) <= 0.05 + ERROR


@pytest.mark.parametrize("effect", [0.3, 0.56])
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_seeds_that_sets_share_break_it_and_are_held_where_they_are_crossed(effect: float, seeds: int) -> None:
    values = null_tables([(40, seeds)] * 5, [1.0] * 5, (2, 0.3, 1), seed=2)
    common = effect * np.random.default_rng(3).standard_normal((REPLICATES, 1, seeds))
    values = [table + common for table in values]
    assert rejection_rate(values, shared=True) <= 0.05 + ERROR
    if effect > 0.5 and seeds > 2:
        assert rejection_rate(values) > 0.06


def test_more_power_than_the_sets_own_intervals_combined() -> None:
    values = [table + 1.2 for table in null_tables([(40, 3)] * 5, [1.0] * 5, (0.3, 1, 0.3), seed=6)]
    squares = [mean_squares(table) for table in values]
    mean = np.mean([each.mean for each in squares], axis=0)
    apart = np.sqrt(sum(crossed.half_width(each) ** 2 for each in squares)) / 5
    assert rejection_rate(values) > np.mean(np.abs(mean) > apart) + 0.2
