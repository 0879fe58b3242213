"""Uncertainty-aware Mean Teacher: sum(I(u < H) (p - t)**2) / sum(I(u < H)), u the entropy of T noisy passes' mean."""

import copy
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from qgbench.methods import Batch, Method, Term
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
from tests.baselines.test_equations import logits, make, passed, sigmoid


def ua_mt(**settings: object) -> Any:
    method: Any = make("ua_mt", **settings)
    assert method.teacher is not None
    sharpen(method.student, 2.0)
    sharpen(method.teacher, 12.0)
    return method


@dataclass
class Seen:
    """What the teacher was given and what it said in one step."""

    term: Term = field(init=False)
    inputs: list[Tensor] = field(default_factory=list)
    probs: list[np.ndarray] = field(default_factory=list)

    def target_and_passes(self) -> tuple[np.ndarray, list[np.ndarray]]:
        """The one pass that is the label, and the others."""
        labels = [i for i, prob in enumerate(self.probs) if np.allclose(prob, self.term.label.prob.numpy(), atol=1e-6)]
        (label,) = labels
        return self.probs[label], [prob for i, prob in enumerate(self.probs) if i != label]


def watched(method: Method, batch: Batch, seed: int = 0) -> Seen:
    """One step of a copy of a method."""
    method = copy.deepcopy(method)
    assert method.teacher is not None
    seen = Seen()
    method.teacher.register_forward_hook(lambda _, inputs, __: seen.inputs.append(inputs[0]))
    method.teacher.register_forward_hook(lambda _, __, output: seen.probs.append(sigmoid(output)))
    torch.manual_seed(seed)
    (seen.term,) = method(batch).terms
    return seen


def student_sees(method: Any, batch: Batch) -> np.ndarray:
    """Probabilities of unlabelled images, as they pass the student."""
    view = batch.u_w if method.settings.view == "weak" else batch.u_s1
    return passed(method, copy.deepcopy(method.student), batch.x_l, view)[1].detach().numpy()


def certain_pixels(passes: list[np.ndarray], progress: float) -> np.ndarray:
    mean = np.mean(passes, 0)
    entropy = -(mean * np.log(mean) + (1 - mean) * np.log(1 - mean))
    return entropy < (0.75 + 0.25 * math.exp(-5 * (1 - progress) ** 2)) * math.log(2)


@pytest.mark.parametrize("unlabelled", [2, 4])
@pytest.mark.parametrize(("view", "apart"), [("weak", True), ("strong", True), ("weak", False)])
@pytest.mark.parametrize("progress", [0.0, 0.6, 1.0])
def test_squared_error_is_summed_over_certain_pixels(unlabelled: int, view: str, apart: bool, progress: float) -> None:
    method, batch = ua_mt(view=view, apart=apart), make_batch(unlabelled, progress=progress)
    seen = watched(method, batch)
    target, passes = seen.target_and_passes()
    assert len(passes) == 8
    certain = certain_pixels(passes, progress)
    assert 0.05 < certain.mean() < 1 if progress < 1 else certain.all()
    prob = student_sees(method, batch)
    expected = ((prob - target) ** 2 * certain).sum((1, 2, 3))
    np.testing.assert_allclose(seen.term.loss.detach().numpy(), expected, rtol=1e-4)
    assert seen.term.denominator is not None
    np.testing.assert_array_equal(seen.term.denominator.numpy(), certain.sum((1, 2, 3)))
    assert seen.term.label.image is batch.u_w
    parts, _ = objective(method, batch)
    assert parts["unlabelled_0"] == pytest.approx(expected.sum() / certain.sum(), rel=1e-4)


def test_more_pixels_are_certain_later() -> None:
    method = ua_mt()
    counts = []
    for progress in (0.0, 0.5, 0.8, 1.0):
        term = watched(method, make_batch(progress=progress)).term
        assert term.denominator is not None
        counts.append(float(term.denominator.sum()))
    assert counts == sorted(counts)
    assert counts[0] < counts[2] < counts[3]


@pytest.mark.parametrize("apart", [True, False])
def test_the_gradient_is_that_of_the_mean_over_certain_pixels(apart: bool) -> None:
    method, batch = ua_mt(apart=apart), make_batch(progress=0.5)
    _, ours = objective(method, batch, seed=4)
    target, passes = watched(method, batch, seed=4).target_and_passes()
    certain = torch.from_numpy(certain_pixels(passes, 0.5))
    network = copy.deepcopy(method.student)
    prob_l, prob_u = passed(method, network, batch.x_l, batch.u_w)
    error = (prob_u - torch.from_numpy(target).float()) ** 2
    supervised = half_bce_half_dice(prob_l, batch.y_l)
    total = supervised + 0.25 * (error * certain).sum() / certain.sum()
    assert_same_gradient(ours, written_gradient(total, [network]))


def test_noise_is_gaussian_clipped_and_in_units_of_the_image_s_spread() -> None:
    batch = make_batch(size=32)
    batch.u_w[0] = 0.5 + 0.2 * (batch.u_w[0] - 0.5)
    batch.u_w[1] = 0.3  # a constant image: nothing to add to
    seen = watched(ua_mt(), batch)
    assert len(seen.inputs) == 9
    given = torch.stack(seen.inputs)
    assert given.min() < 0
    assert given.max() > 1  # nothing is cut off at black and white
    noise = given - batch.u_w
    assert not noise[:, 1].any()
    deviation = 0.1 * math.sqrt(stats.norm.expect(lambda x: np.clip(x, -2, 2) ** 2))
    for image in (0, 2, 3):
        units = (noise[:, image] / float(np.std(batch.u_w[image].numpy(), ddof=1))).flatten(1).numpy()
        assert np.abs(units).max() == pytest.approx(0.2, rel=1e-3)
        assert units.std() == pytest.approx(deviation, rel=0.02)
        assert units.mean() == pytest.approx(0, abs=0.003)
        assert np.abs(np.corrcoef(units) - np.eye(9)).max() < 0.1


def test_passes_use_the_statistics_of_the_noisy_images_and_leave_the_teacher_s_alone() -> None:
    method, batch = ua_mt(), make_batch()
    assert method.teacher is not None
    seen = watched(method, batch)
    for image, prob in zip(seen.inputs, seen.probs, strict=True):
        np.testing.assert_allclose(sigmoid(logits(method.teacher, image, True)), prob, rtol=1e-4)
    before = buffers(method.teacher)
    method(batch)
    assert all(torch.equal(value, before[name]) for name, value in method.teacher.named_buffers())
    assert not any(module.training for module in method.teacher.modules())


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_dropout_is_active_in_every_pass(dropout: float) -> None:
    def build() -> Toy:
        network = Toy()
        network.encoder[0][3] = network.decoder[3] = torch.nn.Dropout2d(dropout)
        return network

    method_class = load("method", "ua_mt")
    torch.manual_seed(0)
    method = method_class(build, method_class.Settings.model_validate({"noise": 0.0})).train()
    seen = watched(method, make_batch())
    assert all(torch.equal(image, seen.inputs[0]) for image in seen.inputs)
    different = {prob.tobytes() for prob in seen.probs}
    assert len(different) == (9 if dropout else 1)


def test_where_no_pixel_is_certain_only_the_labelled_images_train() -> None:
    method, batch = ua_mt(), make_batch()
    assert method.teacher is not None
    for parameter in method.teacher.head.parameters():
        parameter.data.zero_()  # probability one half, of the greatest entropy
    parts, ours = objective(method, batch)
    assert parts["unlabelled_0"] == 0
    network = copy.deepcopy(method.student)
    prob_l, _ = passed(method, network, batch.x_l, batch.u_w)
    supervised = half_bce_half_dice(prob_l, batch.y_l)
    assert_same_gradient(ours, written_gradient(supervised, [network]))


def test_a_saturated_teacher_is_certain_everywhere() -> None:
    method, batch = ua_mt(), make_batch(progress=0.0)
    assert method.teacher is not None
    method.teacher.head[-1].weight.data.zero_()
    method.teacher.head[-1].bias.data.fill_(200.0)  # probability exactly 1: 0 log 0 is 0
    (term,) = method(batch).terms
    assert term.denominator is not None
    assert term.denominator.tolist() == [256.0] * 4
    prob = student_sees(method, batch)
    np.testing.assert_allclose(term.loss.detach().numpy(), ((prob - 1) ** 2).sum((1, 2, 3)), rtol=0.02)


def test_settings_are_those_of_row_ua_mt() -> None:
    assert load("method", "ua_mt").Settings().model_dump() == {
        "lambda_u": 0.25,
        "warmup": 0.075,
        "ramp": 0.15,
        "view": "weak",
        "apart": True,
        "passes": 8,
        "noise": 0.1,
        "clip": 0.2,
        "threshold": 0.75,
    }
