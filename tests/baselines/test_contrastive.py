"""Contrastive learning with pseudo-labels: InfoNCE written as loops over anchors, and the pseudo-label loss."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qgbench.methods import Batch
from qgbench.plugins.registry import load
from tests.baselines import (
    Toy,
    assert_same_gradient,
    buffers,
    half_bce_half_dice,
    make_batch,
    objective,
    sharpen,
    written_gradient,
)
from tests.baselines.test_equations import cross_entropy, labels_of, logits, make, passed, sigmoid

CL = {"threshold": 0.65, "labels_from": "student"}
TWIN_OF_CL_QW = {"threshold": 0.0, "labels_from": "teacher"}
TOGETHER = CL | {"apart": False}


def contrastive(**settings: object) -> Any:
    method: Any = make("contrastive", **settings)
    for network in (method.student, method.teacher):
        if network is not None:
            sharpen(network, 16.0)
    with torch.no_grad():  # projections that point in many directions
        method.head[0].weight.mul_(4.0)
        method.head[2].bias.zero_()
    return method


def encoded(method: Any, network: Any, batch: Batch) -> list[list[Tensor]]:
    """Features of labelled and unlabelled images, of each batch that they are."""
    images = [batch.x_l, batch.u_w]
    return [network.train().encode(each) for each in (images if method.settings.apart else [torch.cat(images)])]


def unlabelled_features(method: Any, batch: Batch) -> Tensor:
    return encoded(method, copy.deepcopy(method.student), batch)[-1][1][-len(batch.u_w) :]


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def info_nce(pixels: np.ndarray, prob: np.ndarray, threshold: float, temperature: float) -> tuple[float, int]:
    """One image: pixels (P, C), probabilities (P,); the sum over anchors and their number."""
    certain = np.maximum(prob, 1 - prob) >= threshold
    sets = [unit(pixels[certain & (prob > 0.5)]), unit(pixels[certain & (prob <= 0.5)])]
    loss, count = 0.0, 0
    for own, other in (sets, sets[::-1]):
        if not len(own) or not len(other):
            continue
        positive = unit(own.mean(0))
        for anchor in own:
            attract = np.exp(anchor @ positive / temperature)
            repel = sum(np.exp(anchor @ negative / temperature) for negative in other)
            loss -= np.log(attract / (attract + repel))
            count += 1
    return loss, count


def pixels_of(method: Any, feature: Tensor) -> np.ndarray:
    return copy.deepcopy(method.head)(feature).detach().double().flatten(2).transpose(1, 2).numpy()


@pytest.mark.parametrize("settings", [CL, TWIN_OF_CL_QW, TOGETHER])
@pytest.mark.parametrize("unlabelled", [2, 4])
def test_both_terms_are_those_of_the_equations(settings: dict[str, object], unlabelled: int) -> None:
    """At most 256 pixels of each class: at 16 x 16 none is left to chance."""
    method, batch = contrastive(**settings), make_batch(unlabelled)
    threshold = float(str(settings["threshold"]))
    prob = labels_of(method, batch.u_w)
    pixels = pixels_of(method, unlabelled_features(method, batch))
    pseudo, contrast = method(batch).terms
    label = prob.double().numpy()
    certain = np.maximum(label, 1 - label) >= threshold
    assert certain.all() == (threshold == 0)
    together = batch.u_w if method.settings.apart else torch.cat([batch.x_l, batch.u_w])
    student = sigmoid(logits(method.student, together, True))[-unlabelled:]
    expected = (cross_entropy(student, label > 0.5) * certain).mean((1, 2, 3))
    np.testing.assert_allclose(pseudo.loss.detach().numpy(), expected, rtol=1e-4)
    assert pseudo.denominator is None
    pairs = [info_nce(p, q, threshold, 0.1) for p, q in zip(pixels, label.reshape(unlabelled, -1), strict=True)]
    assert all(count > 20 for _, count in pairs)
    np.testing.assert_allclose(contrast.loss.detach().numpy(), [loss for loss, _ in pairs], rtol=1e-4)
    assert contrast.denominator is not None
    assert contrast.denominator.tolist() == [count for _, count in pairs]
    assert (pseudo.coef, contrast.coef) == (1.0, 0.1)
    for term in (pseudo, contrast):
        assert term.label.image is batch.u_w
        assert term.owner is None
        torch.testing.assert_close(term.label.prob, prob)


@pytest.mark.parametrize("settings", [CL, TWIN_OF_CL_QW, TOGETHER])
def test_the_gradient_is_that_of_the_written_sum(settings: dict[str, object]) -> None:
    """Through the student and the head, anchors, positives and negatives alike; the labels are constants."""
    method, batch = contrastive(**settings), make_batch()
    threshold = float(str(settings["threshold"]))
    _, ours = objective(method, batch)
    prob = labels_of(method, batch.u_w)
    network, head = copy.deepcopy(method.student), copy.deepcopy(method.head)
    certain = (prob >= threshold) | (prob <= 1 - threshold)
    features = encoded(method, network, batch)
    pred_l, pred_u = torch.cat([network.head(network.decode(each)) for each in features]).split([3, 4])
    pseudo = (F.binary_cross_entropy_with_logits(pred_u, prob.round(), reduction="none") * certain).mean()
    projected = F.normalize(head(features[-1][1][-4:]), dim=1)
    losses = []
    for pixels, label, sure in zip(projected, prob, certain, strict=True):
        lesion = pixels[:, sure[0] & (label[0] > 0.5)].T
        ground = pixels[:, sure[0] & (label[0] <= 0.5)].T
        for own, other in ((lesion, ground), (ground, lesion)):
            positive = (own @ F.normalize(own.mean(0), dim=0) / 0.1).exp()
            losses.append(-(positive / (positive + (own @ other.T / 0.1).exp().sum(1))).log())
    contrast = torch.cat(losses).mean()
    supervised = half_bce_half_dice(torch.sigmoid(pred_l), batch.y_l)
    total = supervised + 0.25 * (pseudo + 0.1 * contrast)
    assert_same_gradient(ours, written_gradient(total, [network, head]))


def test_an_image_of_one_class_has_no_anchors() -> None:
    method, batch = contrastive(threshold=0.65), make_batch()
    prob = labels_of(method, batch.u_w)
    method.corrector = lambda _, label: torch.cat([label[:1], torch.full_like(label[1:2], 0.01), label[2:]])
    _, contrast = method(batch).terms
    assert contrast.denominator is not None
    assert contrast.denominator[1] == 0
    assert contrast.loss[1] == 0
    assert (contrast.denominator[[0, 2, 3]] > 0).all()
    assert torch.equal(contrast.label.prob[2:], prob[2:])


@pytest.mark.parametrize("value", [0.5, 0.99])
def test_without_anchors_there_is_no_contrast(value: float) -> None:
    """Labels of no certain pixel, or of one class alone."""
    method, batch = contrastive(threshold=0.65), make_batch()
    method.corrector = lambda _, label: torch.full_like(label, value)
    batch.u_w[0] = 0.5
    network, head = copy.deepcopy(method.student), copy.deepcopy(method.head)
    prob_l, prob = passed(method, network, batch.x_l, batch.u_w)
    supervised = half_bce_half_dice(prob_l, batch.y_l)
    pseudo = -prob.log().mean() if value > 0.5 else 0 * prob.sum()
    expected = written_gradient(supervised + 0.25 * pseudo, [network, head])
    method_parts = method(batch)
    _, contrast = method_parts.terms
    assert contrast.denominator is not None
    assert not contrast.denominator.any()
    total = method_parts.supervised + 0.25 * (method_parts.terms[0].loss.mean() + 0.1 * contrast.loss.sum())
    total.backward()
    ours = [torch.zeros_like(p) if p.grad is None else p.grad for p in method.trainable()]
    assert_same_gradient(ours, expected)


def test_pixels_are_drawn_at_random_from_the_certain_ones() -> None:
    """One pixel a class: the positive is the anchor itself, and every pair of certain pixels turns up alike."""
    method, batch = contrastive(threshold=0.65, negatives=1), make_batch(2, size=4)
    prob = labels_of(method, batch.u_w).flatten(1).double().numpy()
    pixels = unit(pixels_of(method, unlabelled_features(method, batch)))
    found: dict[float, int] = {}
    torch.manual_seed(0)
    for _ in range(400):
        _, contrast = copy.deepcopy(method)(batch).terms
        assert contrast.denominator is not None
        assert contrast.denominator.tolist() == [2, 2]
        value = round(float(contrast.loss[0].detach()), 5)
        found[value] = found.get(value, 0) + 1
    certain = np.maximum(prob[0], 1 - prob[0]) >= 0.65
    lesion, ground = np.flatnonzero(certain & (prob[0] > 0.5)), np.flatnonzero(certain & (prob[0] <= 0.5))
    pairs = [2 * np.log1p(np.exp((pixels[0, i] @ pixels[0, j] - 1) / 0.1)) for i in lesion for j in ground]
    assert len(pairs) >= 4
    np.testing.assert_allclose(sorted(found), sorted(pairs), atol=1e-5)
    assert max(found.values()) < 3 * 400 / len(pairs)


def test_a_label_acts_on_no_other_image() -> None:
    """Neither by its pixels nor by the random numbers that they take."""
    method, batch = contrastive(threshold=0.65, negatives=5), make_batch()
    terms = []
    for value in (None, 0.99, 0.5):
        changed = copy.deepcopy(method)
        if value is not None:
            changed.corrector = lambda _, label, value=value: torch.cat([torch.full_like(label[:1], value), label[1:]])
        torch.manual_seed(3)
        terms.append(changed(batch).terms[1])
    for term in terms[1:]:
        assert term.loss[0] != terms[0].loss[0]
        assert torch.equal(term.loss[1:], terms[0].loss[1:])


def test_labels_are_averaged_over_the_cells_of_a_map_of_stride_8_at_most() -> None:
    method_class = load("method", "contrastive")
    torch.manual_seed(1)
    settings = method_class.Settings.model_validate({"threshold": 0.6, "temperature": 0.2})
    method: Any = method_class(lambda: Toy((4, 16), 32), settings).train()
    batch = make_batch(2, size=32)
    chance = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(2))
    coarse = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    label = (0.8 * F.interpolate(coarse, scale_factor=4.0) + 0.2 * chance).clamp(0, 1)
    method.corrector = lambda _, __: label
    pixels = pixels_of(method, unlabelled_features(method, batch))
    _, contrast = method(batch).terms
    cells = label.double().numpy().reshape(2, 8, 4, 8, 4).mean((2, 4)).reshape(2, 64)
    pairs = [info_nce(p, q, 0.6, 0.2) for p, q in zip(pixels, cells, strict=True)]
    assert all(10 < count < 64 for _, count in pairs)
    np.testing.assert_allclose(contrast.loss.detach().numpy(), [loss for loss, _ in pairs], rtol=1e-4)
    assert contrast.denominator is not None
    assert contrast.denominator.tolist() == [count for _, count in pairs]


def test_the_head_is_trained_and_the_student_is_left_in_training_mode() -> None:
    method_class = load("method", "contrastive")
    method: Any = method_class(Toy, method_class.Settings())
    assert {id(p) for p in method.heads()} == {id(p) for p in method.head.parameters()}
    assert method.student.training
    assert all(int(value) == 0 for name, value in method.named_buffers() if name.endswith("num_batches_tracked"))


@pytest.mark.parametrize("settings", [CL, TWIN_OF_CL_QW, TOGETHER])
def test_running_statistics_move_with_the_training_passes_alone(settings: dict[str, object]) -> None:
    method = contrastive(**settings)
    before = {} if method.teacher is None else buffers(method.teacher)
    method(make_batch())
    tracked = [value for name, value in method.student.named_buffers() if name.endswith("num_batches_tracked")]
    assert [int(value) for value in tracked] == ([2, 2] if method.settings.apart else [1, 1])
    if method.teacher is not None:
        assert all(torch.equal(value, before[name]) for name, value in method.teacher.named_buffers())


def test_settings_are_those_of_row_cl() -> None:
    assert load("method", "contrastive").Settings().model_dump() == {
        "lambda_u": 0.25,
        "warmup": 0.075,
        "ramp": 0.15,
        "threshold": 0.9,
        "labels_from": "student",
        "weight": 0.1,
        "temperature": 0.1,
        "apart": True,
        "negatives": 256,
    }
    assert load("method", "contrastive")(Toy, load("method", "contrastive").Settings()).teacher is None
