"""Losses in closed form, written out with numpy, for one class and for three channels."""

import numpy as np
import pytest
import torch
from scipy import special

from qgbench import losses as former
from qgbench.base.errors import UserError
from qgbench.methods.losses import (
    certain_cross_entropy,
    pixel_cross_entropy,
    pixel_divergence,
    segmentation_loss,
    soft_dice_loss,
)
from qgbench.spec.task import Task

ONE, TWO = Task(), Task(("disc", "cup"))
Values = tuple[torch.Tensor, torch.Tensor, torch.Tensor, np.ndarray]


def values(task: Task) -> Values:
    """Logits, a true mask, soft labels, and the logits' probabilities of every class, the background first."""
    generator = torch.Generator().manual_seed(3)
    x, y, soft = (2 * torch.randn(4, task.channels, 5, 6, generator=generator) for _ in range(3))
    p = x.double().numpy()
    prob = special.softmax(p, 1) if task is TWO else np.concatenate([special.expit(-p), special.expit(p)], 1)
    return x, task.hard(task.probabilities(y)), task.probabilities(soft), prob


def all_classes(task: Task, target: torch.Tensor) -> np.ndarray:
    given = target.double().numpy()
    return given if task is TWO else np.concatenate([1 - given, given], 1)


@pytest.mark.parametrize("task", [ONE, TWO])
def test_cross_entropy_is_that_of_its_definition(task: Task) -> None:
    x, y, soft, prob = values(task)
    for target in (y, soft):
        expected = -(all_classes(task, target) * np.log(prob)).sum(1, keepdims=True)
        np.testing.assert_allclose(pixel_cross_entropy(task, x, target).numpy(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("task", [ONE, TWO])
def test_dice_is_averaged_over_the_classes_without_background(task: Task) -> None:
    x, y, _, _ = values(task)
    prob = task.probabilities(x).double()
    lesions = [0] if task is ONE else [1, 2]
    for image, found in enumerate(soft_dice_loss(task, task.probabilities(x), y)):
        pairs = [(prob[image, c].numpy(), y[image, c].numpy()) for c in lesions]
        expected = np.mean([1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1) for p, t in pairs])
        assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("task", [ONE, TWO])
def test_the_supervised_loss_is_half_of_each(task: Task) -> None:
    x, y, _, _ = values(task)
    dice = soft_dice_loss(task, task.probabilities(x), y).mean()
    expected = 0.5 * pixel_cross_entropy(task, x, y).mean() + 0.5 * dice
    torch.testing.assert_close(segmentation_loss(task, x, y), expected)


@pytest.mark.parametrize("task", [ONE, TWO])
def test_divergence_is_that_of_its_definition(task: Task) -> None:
    x, _, soft, prob = values(task)
    target = all_classes(task, soft)
    expected = special.rel_entr(target, prob).sum(1, keepdims=True)
    np.testing.assert_allclose(pixel_divergence(task, x, soft).numpy(), expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(pixel_divergence(task, x, task.probabilities(x)).numpy(), 0, atol=1e-5)


@pytest.mark.parametrize("task", [ONE, TWO])
def test_uncertain_pixels_carry_no_loss(task: Task) -> None:
    x, _, soft, prob = values(task)
    target = all_classes(task, soft)
    hard = np.moveaxis(np.eye(target.shape[1])[target.argmax(1)], 3, 1)
    certain = target.max(1, keepdims=True) >= 0.8
    assert 0.2 < certain.mean() < 0.8
    expected = -(hard * np.log(prob)).sum(1, keepdims=True) * certain
    np.testing.assert_allclose(certain_cross_entropy(task, x, soft, 0.8).numpy(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", [segmentation_loss, pixel_cross_entropy, pixel_divergence])
def test_features_that_pass_for_logits_are_refused(loss: object) -> None:
    features = torch.zeros(2, 16, 4, 4)
    with pytest.raises(UserError, match=r"write network\.head\(network\.decode\(features\)\)"):
        loss(ONE, features, features)  # type: ignore[operator]


def test_the_losses_of_0_1_are_those_of_one_class() -> None:
    x, y, soft, _ = values(ONE)
    assert torch.equal(former.segmentation_loss(x, y), segmentation_loss(ONE, x, y))
    assert torch.equal(former.soft_dice_loss(soft, y), soft_dice_loss(ONE, soft, y))
    assert torch.equal(former.pixel_bce(x, y), pixel_cross_entropy(ONE, x, y))
    assert torch.equal(former.certain_bce(x, soft, 0.7), certain_cross_entropy(ONE, x, soft, 0.7))
    assert torch.equal(former.certainty(soft), ONE.confidence(soft))
