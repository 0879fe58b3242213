"""AUROC, AURC, calibration and intervals of a score, against other implementations, closed forms and brute force."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from qgbench.quality.audit import CALIBRATION_BINS, audit_score, aurc, auroc

PAIRS = st.lists(st.tuples(st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]), st.floats(0, 1)), min_size=2, max_size=30)


@given(PAIRS)
def test_auroc_is_mann_whitneys_u_by_pairs(pairs: list[tuple[float, float]]) -> None:
    score, dice = map(np.array, zip(*pairs, strict=True))
    good, bad = score[dice >= 0.7], score[dice < 0.7]
    found = auroc(score, dice)
    if not len(good) or not len(bad):
        assert found is None
        return
    wins = [(g > b) + 0.5 * (g == b) for g in good for b in bad]
    assert found == pytest.approx(np.mean(wins))
    assert found == pytest.approx(stats.mannwhitneyu(good, bad).statistic / (len(good) * len(bad)))


def test_auroc_of_a_perfect_a_reversed_and_a_constant_score() -> None:
    dice = np.array([0.1, 0.6, 0.75, 0.9])
    assert [auroc(score, dice) for score in (dice, -dice, np.zeros(4))] == [1.0, 0.0, 0.5]
    assert auroc(dice, dice, failed=0.05) is None


def by_definition(score: np.ndarray, dice: np.ndarray) -> float:
    order = sorted(range(len(score)), key=lambda place: -score[place])
    risks = [1 - dice[place] for place in order]
    return float(np.mean([np.mean(risks[:kept]) for kept in range(1, len(risks) + 1)]))


def test_aurc_is_the_mean_risk_of_what_is_kept() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2, 7, 60):
        score, dice = rng.random(count), rng.random(count)
        assert aurc(score, dice) == pytest.approx(by_definition(score, dice))


def test_aurc_of_equal_scores_is_the_mean_over_all_orders() -> None:
    score, dice = np.array([0.8, 0.5, 0.5, 0.5, 0.2]), np.array([0.9, 0.1, 0.7, 0.4, 0.6])
    orders = [
        by_definition(score - 1e-6 * np.array([0, *order, 0]), dice) for order in itertools.permutations(range(3))
    ]
    assert aurc(score, dice) == pytest.approx(np.mean(orders))
    assert aurc(np.ones(5), dice) == pytest.approx(1 - dice.mean())


def test_aurc_in_closed_form_for_evenly_spread_risks() -> None:
    """Risks i / n in perfect order: the mean of the first k is (k + 1) / (2 n), that of all k (n + 3) / (4 n)."""
    n = 40
    dice = 1 - np.arange(1, n + 1) / n
    assert aurc(dice, dice) == pytest.approx((n + 3) / (4 * n))


def noisy(groups: int, each: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Scores that are off by the same amount within a group."""
    rng = np.random.default_rng(seed)
    dice = rng.uniform(0.2, 1, groups * each)
    shift = np.repeat(rng.normal(0, 0.2, groups), each)
    names = [f"p{place // each}" for place in range(len(dice))]
    return np.clip(dice + shift, 0, 1), dice, names


def test_an_audit_says_what_scipy_says() -> None:
    score, dice, groups = noisy(12, 8)
    elsewhere = np.stack([score[::-1], 1 - score])
    found = audit_score(score, dice, groups, elsewhere)
    assert (found.masks, found.groups) == (96, 12)
    assert found.failures == (dice < 0.7).sum()
    assert found.pearson.value == pytest.approx(stats.pearsonr(score, dice).statistic)
    assert found.spearman.value == pytest.approx(stats.spearmanr(score, dice).statistic)
    assert found.mae.value == pytest.approx(np.abs(score - dice).mean())
    assert found.aurc.value == pytest.approx(
        by_definition(score, dice), abs=1e-3
    )  # scores that were cut at 1 are equal
    assert found.aurc_random == pytest.approx((1 - dice).mean())
    assert found.aurc_best <= found.aurc.value
    assert found.image_dependence is not None
    assert found.image_dependence.value == pytest.approx(stats.pearsonr(score, score[::-1]).statistic)
    assert audit_score(score, dice, groups).image_dependence is None


def test_intervals_are_over_groups_and_hold_the_value() -> None:
    """Groups share their error, so that single masks would make intervals too narrow."""
    score, dice, groups = noisy(12, 20)
    of_groups = audit_score(score, dice, groups)
    of_masks = audit_score(score, dice, [str(place) for place in range(len(dice))])
    for name in ("mae", "aurc", "pearson", "spearman", "auroc"):
        wide, narrow = getattr(of_groups, name), getattr(of_masks, name)
        assert wide.low <= wide.value <= wide.high
        assert wide.value == narrow.value
    assert of_groups.mae.high - of_groups.mae.low > 2 * (of_masks.mae.high - of_masks.mae.low)
    assert audit_score(score, dice, groups) == of_groups
    alone = audit_score(score, dice, ["one"] * len(dice))
    assert alone.mae.value == of_groups.mae.value
    assert (alone.mae.low, alone.mae.high) == (None, None)


def test_the_interval_of_a_mean_is_that_of_the_mean_of_groups() -> None:
    """Groups of one size: the bootstrap of groups is that of their means, of which scipy has an interval."""
    score, dice, groups = noisy(40, 5)
    means = np.abs(score - dice).reshape(40, 5).mean(1)
    expected = stats.bootstrap((means,), np.mean, n_resamples=4000, method="percentile", rng=1).confidence_interval
    found = audit_score(score, dice, groups).mae
    width = expected.high - expected.low
    assert found.low == pytest.approx(expected.low, abs=0.1 * width)
    assert found.high == pytest.approx(expected.high, abs=0.1 * width)


def test_calibration_bins_hold_every_mask_once() -> None:
    score = np.array([0.0, 0.05, 0.1, 0.95, 1.0, 1.0])
    dice = np.array([0.2, 0.4, 0.6, 0.7, 0.9, 0.8])
    bins = audit_score(score, dice, list("abcdef")).calibration
    assert len(bins) == CALIBRATION_BINS
    assert [each.masks for each in bins] == [2, 1, *[0] * 7, 3]
    assert bins[0].mean_score == pytest.approx(0.025)
    assert [bins[place].dice.value for place in (0, 1, 9)] == pytest.approx([0.3, 0.6, 0.8])
    assert bins[4].mean_score is bins[4].dice.value is bins[4].dice.low is None
