"""Effect sizes against hand-computed tables, scipy and statsmodels."""

import math

import numpy as np
import pytest
from scipy import stats

from qgbench.base.errors import QGBenchError
from qgbench.stats.effects import Spread, effect_size, headroom_share, probability_of_improvement, shape, spread


def test_spread_by_hand() -> None:
    # Image means over seeds 1, 3, 5, 7; groups a = (1, 3), b = (5), c = (7): means 2, 5, 7.
    # Runs: seed 0 has groups 1, 4, 6, seed 1 has 3, 6, 8: means 11/3 and 17/3, SD sqrt(2).
    values = np.array([[0, 2], [2, 4], [4, 6], [6, 8]], dtype=float)
    result = spread(values, ["a", "a", "b", "c"])
    assert result.images == pytest.approx(math.sqrt(20 / 3))
    assert result.groups == pytest.approx(math.sqrt(19 / 3))
    assert result.seeds == pytest.approx(math.sqrt(2))


def test_shape_by_hand() -> None:
    # Seed 0: 0 to 7, twice; a quarter of 16 is 4: the middle half is 2, 2 to 5, 5; the worst tenth is two images.
    first = np.repeat(np.arange(8.0), 2)
    values = np.column_stack([first, first + 10])
    found = shape(values[::-1])
    assert (found.median, found.interquartile_mean, found.worst_tenth) == (8.5, 8.5, 5)
    assert shape(values, higher_is_better=False).worst_tenth == 12
    skewed = np.array([[0.0], [0.8], [0.9], [0.9]])
    assert shape(skewed).interquartile_mean == pytest.approx(stats.trim_mean(skewed, 0.25)[0]) == pytest.approx(0.85)
    assert shape(np.array([[0.3, 0.5]])) == shape(np.array([[0.4]]))


def test_spread_counts_each_group_once_whatever_its_images() -> None:
    values = np.array([[0.2, 0.4], [0.2, 0.4], [0.2, 0.4], [0.8, 0.2]])
    result = spread(values, ["big", "big", "big", "small"])
    assert result.seeds == pytest.approx(np.std([0.5, 0.3], ddof=1))


def test_spread_of_what_there_is_one_of_is_none() -> None:
    assert spread(np.array([[0.5]]), ["a"]) == Spread(images=None, groups=None, seeds=None)
    result = spread(np.array([[0.1], [0.3]]), ["a", "a"])
    assert result.images == pytest.approx(math.sqrt(0.02))
    assert (result.groups, result.seeds) == (None, None)


@pytest.mark.parametrize("values", [np.zeros((0, 2)), np.zeros((3, 2)), np.array([[np.nan], [1]])])
def test_spread_refuses_holes(values: np.ndarray) -> None:
    with pytest.raises(QGBenchError, match="as many groups"):
        spread(values, ["a", "b"])


def test_probability_of_improvement_by_hand() -> None:
    a = np.array([[3, 1], [2, 2], [5, 0]], dtype=float)
    b = np.array([[1, 1], [3, 1], [5, 1]], dtype=float)
    # pairs: win, tie, loss, win, tie, loss
    assert probability_of_improvement(a, b) == pytest.approx((1 + 0.5 + 0 + 1 + 0.5 + 0) / 6)
    assert probability_of_improvement(b, a) == pytest.approx(1 - 0.5)
    assert probability_of_improvement(a + 9, b) == 1
    assert probability_of_improvement(b, b) == 0.5


def test_probability_of_improvement_estimates_the_same_with_any_number_of_seeds() -> None:
    generator = np.random.default_rng(0)
    expected = stats.norm.cdf(0.5 / math.sqrt(1 + 1))
    for seeds in (2, 20):
        group, run = generator.normal(size=(4000, 1)), generator.normal(size=(4000, seeds))
        share = probability_of_improvement(0.5 + group + run, np.zeros((4000, seeds)))
        assert share == pytest.approx(expected, abs=3 * 0.5 / math.sqrt(4000))


def test_probability_of_improvement_keeps_the_pairing() -> None:
    difficulty = np.random.default_rng(1).normal(size=(50, 1)) * 10
    a, b = np.repeat(difficulty + 0.1, 3, axis=1), np.repeat(difficulty, 3, axis=1)
    assert probability_of_improvement(a, b) == 1


def test_tables_of_unlike_shape_are_refused() -> None:
    with pytest.raises(QGBenchError, match="one shape"):
        probability_of_improvement(np.zeros((3, 2)), np.zeros((2, 3)))


def test_effect_size_by_hand() -> None:
    # Group means 1, 2, 3, 4, 5: d_z = 3 / sqrt(2.5). J(4) = gamma(2) / (sqrt(2) gamma(1.5)) = 0.79788456.
    table = np.array([[0, 2], [1, 3], [2, 4], [3, 5], [4, 6]], dtype=float)
    assert effect_size(table) == pytest.approx(0.79788456 * 3 / math.sqrt(2.5), rel=1e-7)
    assert effect_size(-table) == pytest.approx(-0.79788456 * 3 / math.sqrt(2.5), rel=1e-7)


def test_effect_size_is_unbiased_with_few_groups() -> None:
    generator = np.random.default_rng(2)
    sizes = [effect_size(generator.normal(0.8, 1, size=(6, 1))) for _ in range(6000)]
    error = np.std(sizes) / math.sqrt(6000)
    assert np.mean(sizes) == pytest.approx(0.8, abs=3 * error)  # d_z itself is 19 % too large here: 0.95


def test_effect_size_is_none_where_undefined() -> None:
    assert effect_size(np.ones((5, 2))) is None
    assert effect_size(np.array([[0.1], [0.2]])) is None


def test_headroom_share() -> None:
    assert headroom_share(0.02, budget=0.7, full=0.8) == pytest.approx(0.2)
    assert headroom_share(-0.02, budget=0.7, full=0.8) == pytest.approx(-0.2)
    assert headroom_share(0.02, budget=0.8, full=0.8) is None
    assert headroom_share(0.02, budget=0.9, full=0.8) is None
