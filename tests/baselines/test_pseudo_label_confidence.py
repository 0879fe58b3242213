"""Pseudo-labels weighted by an image's confidence: sum(c l) / sum(c) with c = (mean certainty)**T or 0."""

import copy

import numpy as np
import pytest
import torch

from qgbench.methods import Method
from qgbench.plugins.registry import load
from tests.baselines import (
    assert_same_gradient,
    bce,
    half_bce_half_dice,
    make_batch,
    objective,
    sharpen,
    student_label,
    written_gradient,
)
from tests.baselines.test_equations import cross_entropy, logits, make, sigmoid, step_of


def confident(temperature: float, threshold: float) -> Method:
    method = make("pseudo_label_confidence", temperature=temperature, threshold=threshold)
    sharpen(method.student, 4.0)
    return method


def confidences(method: Method, image: torch.Tensor) -> np.ndarray:
    label = student_label(method.student, image).numpy()
    return np.abs(label - 0.5).mean((1, 2, 3)) + 0.5


@pytest.mark.parametrize("unlabelled", [2, 4])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 3.0])
def test_rows_are_the_weighted_cross_entropy_and_the_denominator_is_the_weight(
    unlabelled: int, temperature: float
) -> None:
    batch = make_batch(unlabelled)
    between = float(np.median(confidences(confident(1.0, 0.0), batch.u_w)))
    method = confident(temperature, between)
    (term,) = step_of(method, batch).terms
    certainty = confidences(method, batch.u_w)
    weight = np.where(certainty >= between, certainty**temperature, 0)
    assert 0 < np.count_nonzero(weight) < unlabelled
    label = student_label(method.student, batch.u_w).numpy()
    prob = sigmoid(logits(method.student, batch.u_w, True))
    loss = cross_entropy(prob, label > 0.5).mean((1, 2, 3))
    assert term.denominator is not None
    np.testing.assert_allclose(term.denominator.numpy(), weight, rtol=1e-5)
    np.testing.assert_allclose(term.loss.detach().numpy(), weight * loss, rtol=1e-4)
    np.testing.assert_allclose(term.label.prob.numpy(), label, rtol=1e-5)
    assert term.label.image is batch.u_w
    assert term.owner is None
    parts, _ = objective(method, batch)
    assert parts["unlabelled_0"] == pytest.approx((weight * loss).sum() / weight.sum(), rel=1e-4)


def test_the_gradient_is_that_of_the_weighted_mean() -> None:
    batch = make_batch()
    between = float(np.median(confidences(confident(1.0, 0.0), batch.u_w)))
    method = confident(2.0, between)
    _, ours = objective(method, batch)
    network = copy.deepcopy(method.student).train()
    label = student_label(method.student, batch.u_w)
    certainty = torch.maximum(label, 1 - label).mean((1, 2, 3))
    weight = certainty**2 * (certainty >= between)
    loss = bce(torch.sigmoid(network(batch.u_w)), label.round()).mean((1, 2, 3))
    supervised = half_bce_half_dice(torch.sigmoid(network(batch.x_l)), batch.y_l)
    total = supervised + 0.25 * (weight * loss).sum() / weight.sum()
    assert_same_gradient(ours, written_gradient(total, [network]))


def test_where_no_image_is_confident_only_the_labelled_images_train() -> None:
    batch = make_batch()
    method = confident(2.0, 1.0)
    (term,) = step_of(method, batch).terms
    assert term.denominator is not None
    assert not term.denominator.any()
    parts, ours = objective(method, batch)
    assert parts["unlabelled_0"] == 0
    network = copy.deepcopy(method.student).train()
    supervised = half_bce_half_dice(torch.sigmoid(network(batch.x_l)), batch.y_l)
    assert_same_gradient(ours, written_gradient(supervised, [network]))


def test_a_constant_image_counts_as_its_label_says() -> None:
    batch = make_batch()
    batch.u_w[1] = 0.5
    method = confident(2.0, 0.0)
    (term,) = step_of(method, batch).terms
    assert term.denominator is not None
    np.testing.assert_allclose(term.denominator.numpy(), confidences(method, batch.u_w) ** 2, rtol=1e-5)
    assert torch.isfinite(term.loss).all()


def test_labelling_leaves_the_running_statistics_alone() -> None:
    """They are moved by the labelled and the unlabelled pass, in training mode, and by no other."""
    method, batch = confident(2.0, 0.9), make_batch()
    network = copy.deepcopy(method.student).train()
    network(batch.x_l)
    network(batch.u_w)
    method(batch)
    for name, value in network.named_buffers():
        torch.testing.assert_close(method.student.get_buffer(name), value)


def test_settings_are_those_of_row_pl_c() -> None:
    assert load("method", "pseudo_label_confidence").Settings().model_dump() == {
        "lambda_u": 0.25,
        "warmup": 0.075,
        "ramp": 0.15,
        "threshold": 0.9,
        "temperature": 2.0,
    }
