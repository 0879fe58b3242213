"""Simulated records have the truth that they state, and the statistics hold on them."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from qgbench.base.errors import QGBenchError
from qgbench.stats.crossed import half_width, mean_squares
from qgbench.stats.simulate import Scenario, simulate


def differences(scenario: Scenario, replicates: int, gain: float = 0.0, seed: int = 0) -> np.ndarray:
    base, twin = simulate(scenario, replicates, (gain,), seed).by_group()
    return twin - base


class TestTruth:
    @pytest.mark.parametrize("leveling", [0.0, 0.3])
    @pytest.mark.parametrize("gain", [-0.04, 0.0, 0.01, 0.04])
    def test_mean_difference_is_the_gain(self, gain: float, leveling: float) -> None:
        scenario = Scenario(images=60, groups=30, seeds=2, leveling=leveling, run_sd=0.015)
        means = differences(scenario, 4000, gain).mean(axis=(1, 2))
        assert means.mean() == pytest.approx(gain, abs=3 * means.std() / math.sqrt(4000))

    def test_mean_difference_is_the_gain_whatever_the_labelled_draws_do(self) -> None:
        scenario = Scenario(images=40, groups=40, seeds=5, draw_sd=0.15, leveling=0.5)
        means = differences(scenario, 4000, 0.1).mean(axis=(1, 2))
        assert means.mean() == pytest.approx(0.1, abs=3 * means.std() / math.sqrt(4000))

    def test_images_and_groups_have_the_same_truth(self) -> None:
        drawn = simulate(Scenario(images=40, groups=5), 6000, (0.03,))
        means = np.diff(drawn.dice, axis=0)[0].mean(axis=(1, 2))
        assert means.mean() == pytest.approx(0.03, abs=3 * means.std() / math.sqrt(6000))

    def test_dice_is_bounded_skewed_and_misses(self) -> None:
        dice = simulate(Scenario(images=100, groups=20, seeds=3), 300).dice
        assert dice.min() == 0
        assert dice.max() < 1
        assert np.mean(dice[0] == 0) == pytest.approx(0.03, abs=0.01)
        assert stats.skew(dice[0][dice[0] > 0]) < -0.5

    def test_groups_are_unequal_ascending_and_never_empty(self) -> None:
        group_of = simulate(Scenario(images=100, groups=15), 1).group_of
        sizes = np.bincount(group_of)
        assert (np.diff(group_of) >= 0).all()
        assert (len(sizes), sizes.sum(), sizes.min() >= 1, len(set(sizes)) > 3) == (15, 100, True, True)

    def test_by_group_averages_images(self) -> None:
        drawn = simulate(Scenario(images=12, groups=5, seeds=2), 3)
        for group in range(5):
            judge = drawn.dice[:, :, drawn.group_of == group].mean(axis=2)
            assert drawn.by_group()[:, :, group] == pytest.approx(judge)

    @pytest.mark.parametrize("icc", [0.0, 0.3])
    def test_icc_of_a_methods_differences(self, icc: float) -> None:
        # Without misses and run effects; equal groups of 4, one-way analysis of variance (ICC 1).
        scenario = Scenario(images=400, groups=100, seeds=1, icc=icc, run_sd=0, draw_sd=0, missed=0, difficulty=0.01)
        drawn = simulate(scenario, 200)
        values = np.diff(drawn.dice, axis=0)[0, :, :, 0]
        first = np.flatnonzero(np.diff(drawn.group_of, prepend=-1))
        pairs = first[np.bincount(drawn.group_of) > 1]
        correlation = np.corrcoef(values[:, pairs].ravel(), values[:, pairs + 1].ravel())[0, 1]
        assert correlation == pytest.approx(icc, abs=3 / math.sqrt(200 * len(pairs)) + 0.01)

    def test_run_noise_and_shared_draws(self) -> None:
        quiet = Scenario(images=300, groups=300, seeds=2, icc=0, run_sd=0.015, draw_sd=0.05, taste=0, noise=0)
        base, twin = simulate(quiet, 3000).dice.mean(axis=2)
        # Draws cancel in the difference of twins, run noise of both is left; the logistic curve flattens it a little.
        assert (twin - base).std() == pytest.approx(math.sqrt(2) * 0.015, rel=0.06)
        between_seeds = (base[:, 0] - base[:, 1]).std() / math.sqrt(2)
        assert between_seeds == pytest.approx(math.hypot(0.05, 0.015), rel=0.06)

    def test_leveling_skews_differences(self) -> None:
        plain, leveled = (
            differences(Scenario(images=100, groups=100, leveling=leveling, missed=0), 200).mean(axis=2).ravel()
            for leveling in (0.0, 0.4)
        )
        assert abs(stats.skew(plain)) < 0.2
        assert stats.skew(leveled) > 0.8

    def test_is_seeded(self) -> None:
        scenario = Scenario(images=10, groups=5)
        assert np.array_equal(simulate(scenario, 2).dice, simulate(scenario, 2).dice)
        assert not np.array_equal(simulate(scenario, 2).dice, simulate(scenario, 2, seed=1).dice)

    def test_refuses(self) -> None:
        with pytest.raises(QGBenchError, match="cannot fill"):
            simulate(Scenario(images=4, groups=5), 1)
        with pytest.raises(QGBenchError, match="leaves"):
            simulate(Scenario(), 1, (0.5,))


REPLICATES = 3000
ERROR = 3 * math.sqrt(0.05 * 0.95 / REPLICATES)
"""Three standard errors of a rate of 5 %."""


def rejection_rate(values: np.ndarray, truth: float = 0.0) -> float:
    squares = mean_squares(values)
    return float(np.mean(np.abs(squares.mean - truth) > half_width(squares)))


@pytest.mark.parametrize(("images", "groups"), [(40, 6), (100, 8), (190, 15), (103, 40), (100, 100)])
@pytest.mark.parametrize("seeds", [2, 3, 5])
class TestOnRecords:
    @pytest.mark.parametrize(("icc", "run_sd"), [(0.0, 0.0), (0.3, 0.0), (0.3, 0.015)])
    def test_a_true_null_is_rejected_in_at_most_five_percent(
        self, images: int, groups: int, seeds: int, icc: float, run_sd: float
    ) -> None:
        scenario = Scenario(images, groups, seeds, icc=icc, run_sd=run_sd)
        assert rejection_rate(differences(scenario, REPLICATES, seed=groups)) <= 0.05 + ERROR

    def test_intervals_cover_a_true_gain(self, images: int, groups: int, seeds: int) -> None:
        scenario = Scenario(images, groups, seeds, run_sd=0.005)
        assert rejection_rate(differences(scenario, REPLICATES, 0.02, seed=groups), truth=0.02) <= 0.05 + ERROR


def test_frames_of_a_few_videos_fool_wilcoxon() -> None:
    scenario = Scenario(images=190, groups=8, seeds=3, run_sd=0.005)
    drawn = simulate(scenario, 500, seed=1)
    frames = np.diff(drawn.dice, axis=0)[0].mean(axis=2)
    naive = np.mean(stats.wilcoxon(frames, axis=1, zero_method="pratt", method="asymptotic").pvalue < 0.05)
    assert naive > 0.4
    assert rejection_rate(np.diff(drawn.by_group(), axis=0)[0]) < 0.05


def test_holm_family_that_shares_a_baseline_makes_false_claims_in_at_most_five_percent() -> None:
    scenario = replace(Scenario(), images=190, groups=15, seeds=5, run_sd=0.005)
    tables = simulate(scenario, REPLICATES, (0.0,) * 8, seed=2).by_group()
    squares = mean_squares(tables[1:] - tables[0])
    # Holm claims something exactly where the least p is below 0.05 / 8.
    claims = (np.abs(squares.mean) > half_width(squares, 0.05 / 8)).any(axis=0).mean()
    unadjusted = (np.abs(squares.mean) > half_width(squares)).any(axis=0).mean()
    assert claims <= 0.05 + ERROR
    assert unadjusted > 0.1
