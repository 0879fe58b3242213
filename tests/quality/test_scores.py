import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import entropy
from torch import Tensor, nn

from qgbench.base.errors import UserError
from qgbench.metrics.masks import dice
from qgbench.plugins.registry import load
from qgbench.quality.audit import agreement, correlation
from qgbench.quality.predictor import QualityPredictor
from qgbench.quality.scores import (
    Entropy,
    Labelling,
    One,
    PredictedQuality,
    ShuffledQuality,
    TrueDice,
    flip_agreement,
    foreground_confidence,
    overlap,
)
from qgbench.spec.addons import SCORES
from qgbench.spec.protocol import load_protocol
from qgbench.spec.task import Task
from qgbench.trust.toys import ToyQuality, ToySegmenter

masks = arrays(bool, (3, 1, 5, 6))


def labelling(prob: Any, truth: Any = None, network: nn.Module | None = None) -> Labelling:
    prob = torch.as_tensor(prob, dtype=torch.float32)
    image = torch.rand(len(prob), 3, *prob.shape[2:], generator=torch.Generator().manual_seed(0))
    mask = None if truth is None else torch.as_tensor(truth, dtype=torch.float32)
    return Labelling(image, prob, ToySegmenter() if network is None else network, mask)


def picture(*rows: list[float]) -> list[list[list[float]]]:
    return [list(rows)]


EMPTY = picture([0.1, 0.5], [0.49, 0.0])  # exactly 0.5 is background
FULL = picture([0.9, 0.9], [0.9, 0.9])
CORNER = picture([0.8, 0.1], [0.1, 0.1])
COLUMN = picture([0.9, 0.4], [0.6, 0.2])


# Confidence


def test_confidence_is_the_mean_probability_of_the_foreground_alone() -> None:
    found = foreground_confidence(labelling([EMPTY, FULL, CORNER, COLUMN]))
    assert found.tolist() == pytest.approx([0.0, 0.9, 0.8, 0.75])


@settings(deadline=None)
@given(arrays(np.float32, (4, 1, 5, 6), elements=st.floats(0, 1, width=32)))
def test_confidence_against_numpy(prob: np.ndarray) -> None:
    expected = [image[image > 0.5].mean(dtype=float) if (image > 0.5).any() else 0.0 for image in prob]
    assert foreground_confidence(labelling(prob)).tolist() == pytest.approx(expected, abs=1e-6)


# Entropy


def test_entropy_by_hand() -> None:
    found = Entropy()(labelling([picture([0.5, 0.5], [0.5, 0.5]), picture([0, 1], [1, 0]), FULL]))
    of_nine_tenths = -(0.9 * math.log2(0.9) + 0.1 * math.log2(0.1))
    assert found.tolist() == pytest.approx([0.0, 1.0, 1 - of_nine_tenths])


def test_entropy_of_classes_against_scipy() -> None:
    task = Task(("a", "b", "c"))
    prob = torch.rand(5, 4, 6, 7).softmax(1)
    found = Entropy()(Labelling(torch.rand(5, 3, 6, 7), prob, ToySegmenter(task=task), None))
    expected = 1 - entropy(prob.numpy(), base=4, axis=1).mean((1, 2))
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    even = Entropy()(Labelling(torch.rand(1, 3, 6, 7), torch.full((1, 4, 6, 7), 0.25), ToySegmenter(task=task), None))
    assert even.tolist() == pytest.approx([0.0], abs=1e-6)


# Overlap and the oracle


def test_overlap_of_pictures_drawn_by_hand() -> None:
    truth = [picture([0, 0], [0, 0]), picture([1, 1], [1, 1]), picture([1, 1], [0, 0]), picture([0, 1], [0, 0])]
    found = TrueDice()(labelling([EMPTY, FULL, CORNER, COLUMN], truth))
    assert found.tolist() == pytest.approx([1.0, 1.0, 2 / 3, 0.0])
    assert TrueDice()(labelling([EMPTY, FULL], truth[1::-1])).tolist() == [0.0, 0.0]


@settings(deadline=None)
@given(pred=masks, truth=masks)
def test_the_oracle_is_the_dice_of_the_metrics(pred: np.ndarray, truth: np.ndarray) -> None:
    found = TrueDice()(labelling(0.3 + 0.4 * pred, truth))
    assert found.dtype == torch.float32
    expected = [dice(a[0], b[0]) for a, b in zip(pred, truth, strict=True)]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)
    assert torch.equal(overlap(torch.from_numpy(pred), torch.from_numpy(truth)), found)


def test_the_oracle_without_masks_is_refused() -> None:
    with pytest.raises(UserError, match="masks aligned with the labelled pictures"):
        TrueDice()(labelling([FULL]))


# Agreement under a flip


class LeftHalf(nn.Module):
    """Whatever the image, foreground is the left half."""

    task = Task()

    def forward(self, image: Tensor) -> Tensor:
        logits = torch.full_like(image[:, :1], -5.0)
        logits[..., : image.shape[3] // 2] = 5.0
        return logits


def labelled_by(network: nn.Module, image: Tensor) -> Labelling:
    with torch.no_grad():
        return Labelling(image, torch.sigmoid(network.eval()(image)), network, None)


def test_a_network_that_commutes_with_flips_agrees_with_itself() -> None:
    torch.manual_seed(0)
    pointwise: Any = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Tanh(), nn.Conv2d(4, 1, 1), nn.InstanceNorm2d(1))
    pointwise.task = Task()
    found = labelled_by(pointwise, torch.rand(5, 3, 16, 16))
    assert 0.2 < float((found.prob > 0.5).float().mean()) < 0.8
    assert flip_agreement(found).tolist() == [1.0] * 5


def test_a_network_that_ignores_the_image_disagrees_with_its_flip() -> None:
    image = torch.rand(3, 3, 8, 8)
    assert flip_agreement(labelled_by(LeftHalf(), image)).tolist() == [0.0] * 3
    # 4 of 9 columns on the left, 4 on the right
    assert flip_agreement(labelled_by(LeftHalf(), torch.rand(1, 3, 8, 9))).tolist() == [0.0]


def test_agreement_asks_the_network_in_evaluation_mode_and_leaves_its_mode() -> None:
    torch.manual_seed(0)
    network = ToySegmenter()
    found = labelled_by(network, torch.rand(4, 3, 32, 32))
    network.train()
    before = torch.get_rng_state()
    buffers = {name: value.clone() for name, value in network.state_dict().items()}
    first = flip_agreement(found)
    assert network.training
    assert torch.equal(flip_agreement(found), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, buffers[name]) for name, value in network.state_dict().items())


# g and its shuffle


@pytest.fixture
def toy() -> tuple[nn.Module, Labelling]:
    torch.manual_seed(0)
    prob = torch.rand(9, 1, 32, 32)
    return ToyQuality().requires_grad_(False).eval(), labelling(prob)


def test_g_is_asked_about_the_label_cut_at_one_half(toy: tuple[nn.Module, Labelling]) -> None:
    g, given_labels = toy
    found = PredictedQuality(g)(given_labels)
    expected = [g(given_labels.image[i : i + 1], given_labels.prob[i : i + 1].round())[0] for i in range(9)]
    torch.testing.assert_close(found, torch.stack(expected))
    assert len(set(found.tolist())) == 9


def test_the_score_of_g_carries_no_gradient() -> None:
    assert not PredictedQuality(ToyQuality())(labelling(torch.rand(2, 1, 32, 32))).requires_grad


def test_shuffled_is_a_permutation_of_g_by_its_own_generator(toy: tuple[nn.Module, Labelling]) -> None:
    g, given_labels = toy
    plain = PredictedQuality(g)(given_labels)
    score, twin = ShuffledQuality(g, 5), ShuffledQuality(g, 5)
    before = torch.get_rng_state()
    found = [score(given_labels) for _ in range(20)]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(7)
    for values in found:
        assert sorted(values.tolist()) == sorted(plain.tolist())
        assert torch.equal(values, twin(given_labels))
    assert len({tuple(values.tolist()) for values in found}) > 15
    assert not torch.equal(found[0], ShuffledQuality(g, 6)(given_labels))
    # every place gets other places' values about as often as chance says: 1 in 9 stays
    stays = np.mean([(values == plain).float().mean() for values in found])
    assert stays < 0.35


def test_scoring_by_the_real_g_consumes_no_random_numbers() -> None:
    settings = load_protocol("smoke").quality
    assert settings.dropout > 0
    g = QualityPredictor(settings, "none").requires_grad_(False).eval()
    given_labels = labelling(torch.rand(3, 1, 64, 64))
    before = torch.get_rng_state()
    first = PredictedQuality(g)(given_labels)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(PredictedQuality(g)(given_labels), first)


# Names


@pytest.mark.parametrize("name", SCORES)
def test_every_score_gives_one_value_in_0_to_1_per_label_without_gradient(name: str) -> None:
    torch.manual_seed(0)
    network = ToySegmenter()
    found = labelled_by(network, torch.rand(6, 3, 32, 32))
    found.truth = (torch.rand(6, 1, 32, 32) > 0.5).float()
    values = load("score", name)(ToyQuality())(found)
    assert values.shape == (6,)
    assert values.dtype == torch.float32
    assert not values.requires_grad
    assert bool(((values >= 0) & (values <= 1)).all())


def test_names_lead_to_their_scores() -> None:
    found = labelling([COLUMN, FULL], [FULL, FULL])
    assert One()(found).tolist() == load("score", "one")()(found).tolist() == [1.0, 1.0]
    assert load("score", "confidence")()(found).tolist() == foreground_confidence(found).tolist()
    assert load("score", "oracle")()(found).tolist() == TrueDice()(found).tolist()
    assert (load("score", "g"), load("score", "shuffled")) == (PredictedQuality, ShuffledQuality)


@pytest.mark.parametrize("name", ["g", "shuffled"])
def test_a_score_of_g_without_g_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="needs the quality predictor"):
        load("score", name)()


# How well a score predicts Dice


def test_agreement_with_dice_against_numbers_by_hand() -> None:
    score, truth = np.array([0.1, 0.4, 0.6, 0.9]), np.array([0.2, 0.3, 0.8, 0.7])
    found = agreement(score, truth)
    assert found.masks == 4
    assert found.pearson == pytest.approx(np.corrcoef(score, truth)[0, 1])
    assert found.spearman == pytest.approx(1 - 6 * 2 / (4 * 15))  # ranks 1234 against 1243
    assert found.mae == pytest.approx((0.1 + 0.1 + 0.2 + 0.2) / 4)


@pytest.mark.parametrize(
    ("score", "truth"), [([0.5] * 3, [0.1, 0.2, 0.3]), ([0.1, 0.2, 0.3], [0.5] * 3), ([0.1, 0.2], [0.1, 0.2])]
)
def test_agreement_of_constants_or_of_two_masks_is_unknown(score: list[float], truth: list[float]) -> None:
    found = agreement(np.array(score), np.array(truth))
    assert found.pearson is None
    assert found.spearman is None
    assert found.mae == pytest.approx(np.abs(np.subtract(score, truth)).mean())


def test_correlation_with_a_constant_is_zero() -> None:
    rising = np.array([0.1, 0.2, 0.4])
    assert correlation(rising, np.full(3, 0.5)) == correlation(np.full(3, 0.5), rising) == 0.0
    assert correlation(rising, -rising) == pytest.approx(-1.0)
