"""Interpolation consistency: MSE(f(Mix(u_j, u_k)), Mix(t(u_j), t(u_k))) with one share per step (arXiv 1903.03825)."""

import copy

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from qgbench.methods import Method, Term, reduce_term
from qgbench.plugins.registry import load
from qgbench.spec.task import Task
from tests.baselines import (
    assert_same_gradient,
    buffers,
    half_bce_half_dice,
    make_batch,
    objective,
    sharpen,
    written_gradient,
)
from tests.baselines.test_equations import logits, make, sigmoid


def ict(**settings: object) -> Method:
    method = make("ict", **settings)
    assert method.teacher is not None
    for network in (method.student, method.teacher):
        sharpen(network, 4.0)
    return method


def step(method: Method, unlabelled: int, seed: int) -> tuple[Term, Tensor, Tensor, Tensor]:
    """The term of one step, what the student saw of unlabelled images, the second owners and their shares."""
    seen: list[Tensor] = []
    method = copy.deepcopy(method)
    method.student.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    torch.manual_seed(seed)
    (term,) = method(make_batch(unlabelled)).terms
    assert term.blend is not None
    assert len(seen) == 2
    return term, seen[1], *term.blend


@pytest.mark.parametrize("unlabelled", [2, 4])
@pytest.mark.parametrize("seed", range(4))
def test_the_student_sees_the_mixture_and_is_held_to_the_mixed_labels(unlabelled: int, seed: int) -> None:
    method, batch = ict(), make_batch(unlabelled)
    term, seen, second, share = step(method, unlabelled, seed)
    assert method.teacher is not None
    label = sigmoid(logits(method.teacher, batch.u_w, False))
    np.testing.assert_allclose(term.label.prob.numpy(), label, rtol=1e-5)
    assert sorted(second.tolist()) == list(range(unlabelled))
    assert len(set(share.tolist())) == 1
    lam, image = float(share[0]), batch.u_w.numpy()
    mixed = np.stack([lam * image[i] + (1 - lam) * image[j] for i, j in enumerate(second.tolist())])
    np.testing.assert_allclose(seen.numpy(), mixed, rtol=1e-5)
    prob = sigmoid(logits(method.student, torch.from_numpy(mixed.astype(np.float32)), True))
    target = np.stack([lam * label[i] + (1 - lam) * label[j] for i, j in enumerate(second.tolist())])
    np.testing.assert_allclose(term.loss.detach().numpy(), ((prob - target) ** 2).mean((1, 2, 3)), rtol=1e-4)
    assert term.owner is None
    assert term.denominator is None
    assert term.label.image is not seen


def test_some_pairs_are_of_two_images() -> None:
    method = ict()
    assert any(step(method, 4, seed)[2].tolist() != [0, 1, 2, 3] for seed in range(3))


def test_the_gradient_is_that_of_the_mean_over_mixtures() -> None:
    method, batch = ict(), make_batch()
    _, ours = objective(method, batch, seed=3)
    _, _, second, share = step(method, 4, 3)
    assert method.teacher is not None
    network, lam = copy.deepcopy(method.student).train(), share[0]
    label = torch.sigmoid(logits(method.teacher, batch.u_w, False)).detach()
    prob = torch.sigmoid(network(lam * batch.u_w + (1 - lam) * batch.u_w[second]))
    unlabelled = (prob - lam * label - (1 - lam) * label[second]).square().mean()
    supervised = half_bce_half_dice(torch.sigmoid(network(batch.x_l)), batch.y_l)
    assert_same_gradient(ours, written_gradient(supervised + 0.25 * unlabelled, [network]))


def test_a_rejected_label_rejects_every_mixture_that_holds_it() -> None:
    term, _, second, share = step(ict(), 4, 1)
    weight = torch.tensor([1.0, 0.0, 0.5, 1.0])
    lam = float(share[0])
    rows = np.array([float(weight[i]) ** lam * float(weight[j]) ** (1 - lam) for i, j in enumerate(second.tolist())])
    loss = term.loss.detach().numpy()
    assert float(reduce_term(term, weight).detach()) == pytest.approx((rows * loss).sum() / rows.sum(), rel=1e-5)
    assert rows[1] == rows[second.tolist().index(1)] == 0


class _Pixel(nn.Module):
    """The smallest network."""

    task = Task()

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.layer(image)


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_the_share_is_drawn_from_beta(alpha: float) -> None:
    method_class = load("method", "ict")
    method = method_class(_Pixel, method_class.Settings.model_validate({"alpha": alpha})).train()
    batch = make_batch(2, size=2)
    torch.manual_seed(0)
    shares = [float(term.blend[1][0]) for _ in range(800) for term in method(batch).terms if term.blend is not None]
    assert stats.kstest(shares, stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_constant_and_equal_images_mix_to_themselves() -> None:
    batch = make_batch()
    batch.u_w[:] = 0.5
    method = ict()
    (term,) = copy.deepcopy(method)(batch).terms
    assert method.teacher is not None
    label = sigmoid(logits(method.teacher, batch.u_w, False))
    prob = sigmoid(logits(method.student, batch.u_w, True))
    np.testing.assert_allclose(term.loss.detach().numpy(), ((prob - label) ** 2).mean((1, 2, 3)), rtol=1e-4)


def test_a_step_leaves_the_teacher_s_buffers_alone() -> None:
    method = ict()
    assert method.teacher is not None
    before = buffers(method.teacher)
    method(make_batch())
    assert all(torch.equal(value, before[name]) for name, value in method.teacher.named_buffers())
    assert not method.teacher.training


def test_settings_are_those_of_row_ict() -> None:
    assert load("method", "ict").Settings().model_dump() == {
        "lambda_u": 0.25,
        "warmup": 0.075,
        "ramp": 0.15,
        "alpha": 1.0,
    }
