"""Intervals of misses, HD95 and NSD: where the rules give one, it holds its level in simulated experiments."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import stats

from qgbench.stats.misses import LEAST_OF_MEAN, carrying

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    spec = importlib.util.spec_from_file_location("miss_simulation", ROOT / "perf" / "miss_simulation.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_groups_that_show_a_miss_with_any_seed_are_counted() -> None:
    missed = np.array([[0, 0, 0], [0, 0.5, 0], [1, 1, 1], [0, 0, 0.25]])
    assert carrying(missed) == 3
    assert carrying(missed - missed[::-1]) == 4
    assert list(carrying(np.stack([missed, 0 * missed]))) == [3, 0]


def test_simulated_truths_are_those_that_are_stated(simulation: ModuleType) -> None:
    drawn = simulation.draw(40, 4, 3, 0.1, replicates=1500)
    assert drawn.truth["missed"] == pytest.approx((0.1, 0.05), abs=1e-4)
    for name in ("missed", "hd95", "nsd"):
        for table, truth in zip(getattr(drawn, name), drawn.truth[name], strict=True):
            means = table.mean(axis=(1, 2))
            assert means.mean() == pytest.approx(truth, abs=4 * stats.sem(means)), name


@pytest.mark.parametrize(
    ("groups", "images", "seeds", "share"), [(10, 4, 3, 0.15), (20, 4, 5, 0.06), (40, 4, 5, 0.06), (100, 1, 3, 0.06)]
)
def test_intervals_that_are_given_hold_their_level(
    simulation: ModuleType, groups: int, images: int, seeds: int, share: float
) -> None:
    drawn = simulation.draw(groups, images, seeds, share)
    of_mean, of_difference = simulation.given(drawn)
    error = 3 * np.sqrt(0.05 * 0.95 / 2000)

    def level(name: str, shown: np.ndarray, difference: bool) -> float:
        one, other = getattr(drawn, name)
        first, second = drawn.truth[name]
        table, truth = (one - other, first - second) if difference else (one, first)
        return float(simulation.held(table, truth)[shown].mean())

    for name in ("missed", "hd95"):
        assert level(name, of_mean, False) > 0.94 - error
        assert level(name, of_difference, True) > 0.95 - error
    every = np.ones(len(of_mean), dtype=bool)
    assert level("nsd", every, False) > 0.95 - error
    assert level("nsd", every, True) > 0.95 - error


def test_without_the_rule_they_would_not(simulation: ModuleType) -> None:
    drawn = simulation.draw(20, 1, 5, 0.02)
    for name in ("missed", "hd95"):
        assert simulation.held(getattr(drawn, name)[0], drawn.truth[name][0]).mean() < 0.85
    assert simulation.given(drawn)[0].mean() < 0.02
    assert LEAST_OF_MEAN > 2
