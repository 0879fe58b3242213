"""BCP against the equations of its paper (arXiv 2305.00673), image by image in numpy."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from skimage.measure import label as components
from torch.nn.functional import logsigmoid

from qgbench.methods import Batch, reduce_term
from qgbench.methods.regions import draw_patch, largest_component, paired_halves
from qgbench.plugins.registry import load
from qgbench.quality.guide import Guide
from qgbench.spec.task import Task
from qgbench.training.objective import Objective
from tests.baselines.test_unimatch import SIDE, assert_gradient, make, make_batch

PATCH = 21  # int(2/3 * 32)


def patch_of(seed: int) -> torch.Tensor:
    """The zero-centred mask M of the paper, drawn as the step will draw it: (H, W), 0 in the patch."""
    torch.manual_seed(seed)
    top, left = int(torch.randint(SIDE - PATCH + 1, ())), int(torch.randint(SIDE - PATCH + 1, ()))
    mask = torch.ones(SIDE, SIDE)
    mask[top : top + PATCH, left : left + PATCH] = 0
    return mask


def loss_in(logits: torch.Tensor, target: torch.Tensor, region: torch.Tensor) -> torch.Tensor:
    """(CE + Dice) / 2 of a batch (N, 1, H, W) inside a region of ones, as the authors' code for two classes has it."""
    chosen = region == 1
    x, t = logits.double()[:, 0, chosen], target.double()[:, 0, chosen]
    p = torch.sigmoid(x)
    entropy = -(t * logsigmoid(x) + (1 - t) * logsigmoid(-x)).mean()
    dice = [
        1 - (2 * (a * b).sum() + 1e-10) / ((a * a).sum() + (b * b).sum() + 1e-10) for a, b in ((p, t), (1 - p, 1 - t))
    ]
    return (entropy + sum(dice) / 2) / 2


def in_training(network: Any, image: torch.Tensor) -> torch.Tensor:
    """Probabilities of a copy in training mode."""
    with torch.no_grad():
        return torch.sigmoid(copy.deepcopy(network).train()(image))


def numpy_component(prob: torch.Tensor) -> torch.Tensor:
    """Largest component of (H, W) probabilities as scikit-image finds it: a mask."""
    parts = components(prob.numpy() > 0.5)
    if parts.max() == 0:
        return torch.zeros_like(prob)
    return torch.from_numpy((parts == np.argmax(np.bincount(parts.flat)[1:]) + 1).astype(np.float32))


def written_out(method: Any, batch: Batch, seed: int) -> dict[str, Any]:
    """L_in + L_out with x_in = x_l * M + x_u * (1 - M) and x_out = x_u * M + x_l * (1 - M)."""
    assert method.teacher is not None
    mask, network = patch_of(seed), copy.deepcopy(method.student).train()
    b, u = len(batch.x_l), len(batch.u_w)
    middle = (u + 1) // 2
    prob = torch.cat([in_training(method.teacher, half) for half in (batch.u_w[:middle], batch.u_w[middle:])])
    target = torch.stack([numpy_component(each[0])[None] for each in prob])
    first_l, second_l = [*range((b + 1) // 2)], [*range(b // 2, b)]
    first_u, second_u = [*range((u + 1) // 2)], [*range(u // 2, u)]
    rows = max(len(first_l), len(first_u))
    pair = [[half[n % len(half)] for n in range(rows)] for half in (first_l, second_l, first_u, second_u)]
    out_l, in_l, out_u, in_u = pair
    x_out = torch.stack([batch.u_w[k] * mask + batch.x_l[i] * (1 - mask) for i, k in zip(out_l, out_u, strict=True)])
    x_in = torch.stack([batch.x_l[i] * mask + batch.u_w[k] * (1 - mask) for i, k in zip(in_l, in_u, strict=True)])
    pred_out, pred_in = network(x_out), network(x_in)
    labelled = loss_in(pred_out, batch.y_l[out_l], 1 - mask) + loss_in(pred_in, batch.y_l[in_l], mask)
    unlabelled = [loss_in(pred_out, target[out_u], mask), loss_in(pred_in, target[in_u], 1 - mask)]
    total = labelled + 0.5 * sum(unlabelled)
    total.backward()
    return {
        "supervised": labelled.item(),
        "unlabelled": [0.5 * value.item() for value in unlabelled],
        "owners": [out_u, in_u],
        "total": total.item(),
        "target": target,
        "gradient": [parameter.grad for parameter in network.parameters()],
    }


def second_phase(bias: float = 0.0, **settings: object) -> Any:
    """A method whose teacher differs from its student and stays: the first phase is over."""
    method = make("bcp", bias, **settings)
    method.best.fill_(torch.inf)
    return method


@pytest.mark.parametrize(
    ("labelled", "unlabelled", "bias"),
    [(4, 8, 0.0), (8, 4, 0.0), (3, 5, 0.0), (4, 7, 0.0), (4, 6, -40.0), (4, 6, 40.0)],
)
def test_losses_and_gradient_are_the_authors(labelled: int, unlabelled: int, bias: float) -> None:
    method, batch = second_phase(bias), make_batch(labelled, unlabelled, progress=0.5)
    expected = written_out(method, batch, seed=11)
    torch.manual_seed(11)
    step = copy.deepcopy(method)(batch)
    assert float(step.supervised.detach()) == pytest.approx(expected["supervised"], rel=1e-5)
    for terms, value, owners in zip(
        (step.terms[:3], step.terms[3:]), expected["unlabelled"], expected["owners"], strict=True
    ):
        reduced = [term.coef * reduce_term(term, torch.ones(unlabelled)) for term in terms]
        assert float(sum(reduced).detach()) == pytest.approx(value, rel=1e-4)
        for term in terms:
            assert term.owner.tolist() == owners
            assert term.label.image is batch.u_w
            assert torch.equal((term.label.prob > 0.5).float(), expected["target"])  # judged is what supervises
    assert {owner for term in step.terms for owner in term.owner.tolist()} == set(range(unlabelled))
    torch.manual_seed(11)
    found = Objective(copy.deepcopy(method), Guide([]))(batch, None, 0)[0]
    assert float(found.detach()) == pytest.approx(expected["total"], rel=1e-5)
    assert_gradient(method, batch, expected["gradient"], seed=11)


@pytest.mark.parametrize("labelled", [2, 3, 8])
def test_the_first_phase_pastes_among_labelled_images(labelled: int) -> None:
    method, batch = make("bcp"), make_batch(labelled, 4, progress=0.2)
    mask, network = patch_of(13), copy.deepcopy(method.student).train()
    other = [labelled - 1, *range(labelled - 1)]
    logits = network(torch.stack([batch.x_l[i] * mask + batch.x_l[j] * (1 - mask) for i, j in enumerate(other)]))
    total = loss_in(logits, batch.y_l, mask) + loss_in(logits, batch.y_l[other], 1 - mask)
    total.backward()
    torch.manual_seed(13)
    step = copy.deepcopy(method)(batch)
    assert step.terms == []
    assert float(step.supervised.detach()) == pytest.approx(total.item(), rel=1e-5)
    assert_gradient(method, batch, [parameter.grad for parameter in network.parameters()], seed=13)


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in ours.items())


def push(network: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05)


def test_the_best_network_of_the_first_phase_begins_the_second_and_only_once() -> None:
    method = make("bcp", warmup=0.25)
    assert method.teacher is not None
    method(make_batch(progress=0.1))
    method.validated(0.6)
    best = copy.deepcopy(method.student)
    push(method.student)
    method.update_teacher(method.teacher_decay(0))
    method.validated(0.5)
    assert same(method.teacher, best)
    method(make_batch(progress=0.25))
    assert same(method.teacher, best)  # the step moved the student's running statistics, not the teacher's
    for ours, theirs in zip(method.student.parameters(), best.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    push(method.student)
    method.validated(0.9)
    assert same(method.teacher, best)
    before, after = best.state_dict(), method.student.state_dict()
    method.update_teacher(method.teacher_decay(6))  # 0.99 at once: not an average of the few students so far
    for name, value in method.teacher.state_dict().items():  # running statistics are averaged too
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.99 * before[name] + 0.01 * after[name])
    moved = copy.deepcopy(method.teacher)
    method(make_batch(progress=0.3))
    assert same(method.teacher, moved)
    assert not same(method.teacher, method.student)


def test_without_a_validation_the_last_network_begins_the_second_phase() -> None:
    method = make("bcp")
    push(method.student)
    student = copy.deepcopy(method.student)
    method(make_batch(progress=0.25))
    assert same(method.teacher, student)


def test_a_restored_run_does_not_begin_the_second_phase_again() -> None:
    first = make("bcp")
    first(make_batch(progress=0.25))
    push(first.student)
    first.update_teacher(0.9)
    second = make("bcp")
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    torch.manual_seed(4)
    expected = first(make_batch(progress=0.3)).terms[0].loss
    torch.manual_seed(4)
    assert torch.equal(second(make_batch(progress=0.3)).terms[0].loss, expected)
    assert same(first.teacher, second.teacher)


def test_the_largest_of_three_components_stays() -> None:
    prob = torch.full((1, 1, 9, 9), 0.2)
    prob[..., 0:2, 0:2] = 0.9  # 4 pixels
    prob[..., 5:8, 5:8] = 0.7  # 9 pixels
    prob[..., 8, 8] = 0.8  # touches the square by a corner
    prob[..., 0, 8] = 0.6
    found = largest_component(Task(), prob)
    expected = prob.clone()
    expected[..., 0:2, 0:2] = 0.0
    expected[..., 0, 8] = 0.0
    assert torch.equal(found, expected)


@pytest.mark.parametrize("value", [0.1, 0.9])
def test_empty_and_full_labels_stay(value: float) -> None:
    prob = torch.full((2, 1, 5, 5), value)
    assert torch.equal(largest_component(Task(), prob), prob)


def test_components_are_those_of_scikit_image() -> None:
    prob = torch.rand(30, 1, 12, 12, generator=torch.Generator().manual_seed(0)) * 0.85
    found = largest_component(Task(), prob)
    for row in range(30):
        assert torch.equal((found[row, 0] > 0.5).float(), numpy_component(prob[row, 0]))
    removed = (prob > 0.5) & (found <= 0.5)
    assert bool(removed.any())
    assert torch.equal(found[~removed], prob[~removed])


def test_patches_are_two_thirds_wide_and_anywhere() -> None:
    corners = set()
    for _ in range(300):
        inside = draw_patch(torch.zeros(2, 3, SIDE, SIDE), 2 / 3)
        rows, columns = inside[0, 0].any(1).nonzero().flatten(), inside[0, 0].any(0).nonzero().flatten()
        assert inside.sum() == PATCH**2 == len(rows) * len(columns)
        corners.add((int(rows[0]), int(columns[0])))
    assert {row for row, _ in corners} == {column for _, column in corners} == set(range(SIDE - PATCH + 1))


def test_halves_are_made_equally_long() -> None:
    (a, b), (c, d) = paired_halves(torch.zeros(2, 1), torch.zeros(5, 1))
    assert [index.tolist() for index in (a, b, c, d)] == [[0, 0, 0], [1, 1, 1], [0, 1, 2], [2, 3, 4]]
    ((first, second),) = paired_halves(torch.zeros(1, 1))
    assert (first.tolist(), second.tolist()) == ([0], [0])


def test_settings_are_the_papers() -> None:
    settings = load("method", "bcp").Settings().model_dump()
    assert settings == {"lambda_u": 1.0, "warmup": 0.25, "ramp": 0.0, "alpha": 0.5, "beta": 2 / 3}
