"""Each method's loss and gradient on a fixed batch against its paper's equations, written out independently."""

import ast
import copy
import io
import math
import tokenize
from pathlib import Path

import numpy as np
import pytest
import torch

from qgbench.methods import Batch, Method, Step
from qgbench.plugins.registry import load, method_names
from qgbench.quality.guide import Guide
from qgbench.training.objective import Objective
from qgbench.trust.toys import ToySegmenter
from tests.baselines import make_batch


@pytest.fixture
def batch() -> Batch:
    return make_batch()


def make(name: str, **settings: object) -> Method:
    """A method on a network without dropout, so that two passes agree."""
    torch.manual_seed(1)

    def build() -> ToySegmenter:
        network = ToySegmenter()
        network.head[0] = torch.nn.Identity()
        return network

    method_class = load("method", name)
    method = method_class(build, method_class.Settings.model_validate(settings)).train()
    if method.teacher is not None:
        torch.manual_seed(2)
        for parameter in method.teacher.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return method


def sigmoid(logits: torch.Tensor) -> np.ndarray:
    return 1 / (1 + np.exp(-logits.detach().double().numpy()))


def supervised_loss(prob: np.ndarray, target: np.ndarray) -> float:
    """0.5 BCE + 0.5 Dice, in plain numpy."""
    bce = -(target * np.log(prob) + (1 - target) * np.log(1 - prob)).mean()
    losses = []
    for p, t in zip(prob, target, strict=True):
        losses.append(1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1))
    return 0.5 * bce + 0.5 * float(np.mean(losses))


def logits(network: torch.nn.Module, image: torch.Tensor, train: bool) -> torch.Tensor:
    """Pass through a copy, so that the method's own batch statistics stay as they are."""
    return copy.deepcopy(network).train(train)(image)


def cross_entropy(prob: np.ndarray, target: np.ndarray) -> np.ndarray:
    return -(target * np.log(prob) + (1 - target) * np.log(1 - prob))


def step_of(method: Method, batch: Batch) -> Step:
    return copy.deepcopy(method)(batch)


def test_supervised_is_half_bce_half_dice(batch: Batch) -> None:
    method = make("supervised")
    step = step_of(method, batch)
    expected = supervised_loss(sigmoid(logits(method.student, batch.x_l, True)), batch.y_l.numpy())
    assert float(step.supervised.detach()) == pytest.approx(expected, rel=1e-5)
    assert step.terms == []


@pytest.mark.parametrize("labels_from", ["student", "teacher"])
@pytest.mark.parametrize("threshold", [0.0, 0.55])
def test_pseudo_label_is_masked_cross_entropy_on_the_same_view(
    batch: Batch, labels_from: str, threshold: float
) -> None:
    method = make("pseudo_label", threshold=threshold, labels_from=labels_from)
    labeller = method.student if labels_from == "student" else method.teacher
    assert labeller is not None
    (term,) = step_of(method, batch).terms
    label = sigmoid(logits(labeller, batch.u_w, labeller is method.student))
    # Statistics of the labelled pass come first in training mode; batch normalisation uses each batch's own.
    prob = sigmoid(logits(method.student, batch.u_w, True))
    certain = np.maximum(label, 1 - label) >= threshold
    expected = (cross_entropy(prob, label > 0.5) * certain).mean((1, 2, 3))
    np.testing.assert_allclose(term.loss.detach().numpy(), expected, rtol=1e-4)
    np.testing.assert_allclose(term.label.prob.numpy(), label, rtol=1e-5)
    if threshold:
        assert 0 < certain.mean() < 1


def test_fixmatch_labels_the_weak_view_and_trains_the_strong_one(batch: Batch) -> None:
    method = make("fixmatch", threshold=0.55)
    (term,) = step_of(method, batch).terms
    label = sigmoid(logits(method.student, batch.u_w, True))  # of the batch's own statistics
    prob = sigmoid(logits(method.student, batch.u_s1, True))
    certain = np.maximum(label, 1 - label) >= 0.55
    expected = (cross_entropy(prob, label > 0.5) * certain).mean((1, 2, 3))
    np.testing.assert_allclose(term.loss.detach().numpy(), expected, rtol=1e-4)
    assert term.label.image is not batch.u_s1
    assert torch.equal(term.label.image, batch.u_w)


def test_mean_teacher_is_the_squared_error_to_the_teacher(batch: Batch) -> None:
    method = make("mean_teacher")
    assert method.teacher is not None
    (term,) = step_of(method, batch).terms
    target = sigmoid(logits(method.teacher, batch.u_w, False))
    prob = sigmoid(logits(method.student, batch.u_s1, True))
    np.testing.assert_allclose(term.loss.detach().numpy(), ((prob - target) ** 2).mean((1, 2, 3)), rtol=1e-4)


@pytest.mark.parametrize("name", ["pseudo_label", "mean_teacher", "fixmatch"])
def test_the_gradient_is_that_of_the_written_equation(batch: Batch, name: str) -> None:
    """Total = supervised + lambda_u * mean over images, differentiated by autograd from a formula of its own."""
    settings = {} if name == "mean_teacher" else {"threshold": 0.55}
    method = make(name, **settings)
    objective = Objective(copy.deepcopy(method), Guide([]))
    objective(batch, None, 0)[0].backward()
    ours = [parameter.grad for parameter in objective.method.students.parameters()]

    network = copy.deepcopy(method.student).train()
    labeller = method.teacher if method.teacher is not None else method.student
    label = torch.sigmoid(logits(labeller, batch.u_w, labeller is method.student)).detach()
    prob_l = torch.sigmoid(network(batch.x_l))
    view = batch.u_w if name == "pseudo_label" else batch.u_s1
    prob_u = torch.sigmoid(network(view))
    bce = -(batch.y_l * prob_l.log() + (1 - batch.y_l) * (1 - prob_l).log()).mean()
    overlap = 2 * (prob_l * batch.y_l).sum((1, 2, 3)) + 1
    dice = 1 - overlap / (prob_l.sum((1, 2, 3)) + batch.y_l.sum((1, 2, 3)) + 1)
    if name == "mean_teacher":
        unlabelled = ((prob_u - label) ** 2).mean()
    else:
        hard = (label > 0.5).float()
        certain = (label >= 0.55) | (label <= 0.45)
        unlabelled = (-(hard * prob_u.log() + (1 - hard) * (1 - prob_u).log()) * certain).mean()
    lambda_u = 1.0 if name == "fixmatch" else 0.25
    (0.5 * bce + 0.5 * dice.mean() + lambda_u * unlabelled).backward()
    for mine, parameter in zip(ours, network.parameters(), strict=True):
        assert mine is not None
        assert parameter.grad is not None
        torch.testing.assert_close(mine, parameter.grad, rtol=1e-4, atol=1e-7)


def test_the_teacher_averages_as_the_paper_writes_it() -> None:
    """t <- a t + (1 - a) s, three times, against the closed form for a constant student."""
    method = make("mean_teacher")
    assert method.teacher is not None
    start = {name: value.clone() for name, value in method.teacher.state_dict().items()}
    for _ in range(3):
        method.update_teacher(0.9)
    for name, value in method.teacher.state_dict().items():
        target = method.student.state_dict()[name]
        if value.is_floating_point():
            expected = math.pow(0.9, 3) * start[name] + (1 - math.pow(0.9, 3)) * target
            torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)


def test_settings_are_those_of_the_papers() -> None:
    fixmatch = load("method", "fixmatch").Settings()
    assert fixmatch.model_dump() == {"lambda_u": 1.0, "warmup": 0.0, "ramp": 0.0, "threshold": 0.95}
    for name in ("pseudo_label", "mean_teacher"):
        settings = load("method", name).Settings()
        assert (settings.lambda_u, settings.warmup, settings.ramp) == (0.25, 0.075, 0.15)


def lines_of_code(file: Path) -> int:
    """Lines that hold a token of code: no blank lines, comments or docstrings."""
    source = file.read_text()
    documented: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            documented |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    empty = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    lines = {line for t in tokens if t.type not in empty for line in range(t.start[0], t.end[0] + 1)}
    return len(lines - documented)


@pytest.mark.parametrize("name", method_names())
def test_a_method_is_a_short_file_that_knows_nothing_of_quality(name: str) -> None:
    file = Path(__file__).parents[2] / "baselines" / f"{name}.py"
    assert 0 < lines_of_code(file) <= 60
    code = "".join(line for line in file.read_text().splitlines(keepends=True) if "qgbench" not in line)
    assert "quality" not in code.replace("in the place of quality", "")  # how row PL-C's weight is worded
