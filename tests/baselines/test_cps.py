"""Cross pseudo supervision: CE(p1, y2) + CE(p2, y1), y the hard labels of the same passes (arXiv 2106.01226)."""

import copy

import numpy as np
import pytest
import torch

from qgbench.methods import Method
from qgbench.plugins.registry import load
from qgbench.quality.guide import AddOn, Guide
from qgbench.quality.scores import Labelling
from qgbench.training.objective import Objective
from tests.baselines import (
    assert_same_gradient,
    bce,
    half_bce_half_dice,
    make_batch,
    objective,
    sharpen,
    written_gradient,
)
from tests.baselines.test_equations import cross_entropy, logits, make, sigmoid, supervised_loss


def cps() -> Method:
    method = make("cps")
    for student in method.students:
        sharpen(student, 2.0)
    return method


def test_the_students_start_differently() -> None:
    first, second = cps().students
    assert not any(
        torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True) if p.ndim > 1
    )
    assert {p.data_ptr() for p in first.parameters()}.isdisjoint(p.data_ptr() for p in second.parameters())


@pytest.mark.parametrize("unlabelled", [2, 4])
def test_each_student_is_held_to_the_other_s_hard_label(unlabelled: int) -> None:
    method, batch = cps(), make_batch(unlabelled)
    batch.u_w[0] = 0.5  # a constant image
    probs = [sigmoid(logits(student, batch.u_w, True)) for student in method.students]
    assert ((probs[0] > 0.5) != (probs[1] > 0.5)).mean() > 0.05
    step = method(batch)
    assert len(step.terms) == 4
    of_labelled = [sigmoid(logits(student, batch.x_l, True)) for student in method.students]
    for place, term in enumerate(step.terms):
        index = place % 2
        mine, other = (probs if place < 2 else of_labelled)[index], (probs if place < 2 else of_labelled)[1 - index]
        expected = cross_entropy(mine, other > 0.5).mean((1, 2, 3))
        np.testing.assert_allclose(term.loss.detach().numpy(), expected, rtol=1e-4)
        np.testing.assert_allclose(term.label.prob.numpy(), other, rtol=1e-4)
        assert term.label.network is method.students[1 - index]
        assert term.label.view == ("weak" if place < 2 else "labelled")
        assert term.label.image is (batch.u_w if place < 2 else batch.x_l)
        assert term.denominator is None
        assert term.owner is None
        assert term.coef == 1


def test_both_students_are_supervised() -> None:
    method, batch = cps(), make_batch()
    expected = sum(supervised_loss(sigmoid(logits(s, batch.x_l, True)), batch.y_l.numpy()) for s in method.students)
    assert float(copy.deepcopy(method)(batch).supervised.detach()) == pytest.approx(expected, rel=1e-5)


def test_the_gradient_is_that_of_the_written_sum() -> None:
    method, batch = cps(), make_batch()
    _, ours = objective(method, batch)
    first, second = (copy.deepcopy(student).train() for student in method.students)
    supervised = sum(half_bce_half_dice(torch.sigmoid(s(batch.x_l)), batch.y_l) for s in (first, second))
    crossed = torch.zeros(())
    for image in (batch.u_w, batch.x_l):  # L_cps = L_cps^u + L_cps^l, each a mean over its own images
        p1, p2 = torch.sigmoid(first(image)), torch.sigmoid(second(image))
        crossed = crossed + bce(p1, (p2.detach() > 0.5).float()).mean() + bce(p2, (p1.detach() > 0.5).float()).mean()
    assert_same_gradient(ours, written_gradient(supervised + 0.25 * crossed, [first, second]))


def test_a_label_teaches_only_the_other_student() -> None:
    method, batch = cps(), make_batch()
    terms = method(batch).terms
    for index, term in enumerate(terms):
        for which, student in enumerate(method.students):
            grads = torch.autograd.grad(
                term.loss.sum(), list(student.parameters()), retain_graph=True, allow_unused=True
            )
            assert any(g is not None and bool(g.any()) for g in grads) == (which == index % 2)


class _RejectLabelsOf(AddOn):
    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self._network = network

    def weigh(self, labelling: Labelling) -> torch.Tensor:
        return torch.full((len(labelling.prob),), float(labelling.network is not self._network))


def test_rejecting_one_student_s_labels_leaves_the_other_supervised_alone() -> None:
    method, batch = cps(), make_batch()
    Objective(method, Guide([_RejectLabelsOf(method.students[1])]))(batch, None, 0)[0].backward()
    network = copy.deepcopy(method.student).train()
    supervised = half_bce_half_dice(torch.sigmoid(network(batch.x_l)), batch.y_l)
    ours = [p.grad for p in method.students[0].parameters() if p.grad is not None]
    assert_same_gradient(ours, written_gradient(supervised, [network]))


def test_no_pass_is_made_for_labels_alone() -> None:
    """Running statistics move with the labelled and the unlabelled pass of each student."""
    method = cps()
    method(make_batch())
    tracked = [value for name, value in method.named_buffers() if name.endswith("num_batches_tracked")]
    assert [int(value) for value in tracked] == [2, 2, 2, 2]
    assert method.teacher is None


def test_settings_are_those_of_row_cps() -> None:
    assert load("method", "cps").Settings().model_dump() == {"lambda_u": 0.25, "warmup": 0.075, "ramp": 0.15}
