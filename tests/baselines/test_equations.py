"""Each method's loss and gradient on a fixed batch against its paper's equations, written out independently."""

import ast
import copy
import io
import math
import tokenize
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qgbench.methods import Batch, Method, Step
from qgbench.plugins.registry import load, method_names
from qgbench.quality.guide import Guide
from qgbench.training.objective import Objective
from tests.baselines import Toy, make_batch, sharpen, student_label


@pytest.fixture
def batch() -> Batch:
    return make_batch()


def make(name: str, **settings: object) -> Method:
    """A method on the flat toy network, whose teacher, if it has one, differs from its student."""
    torch.manual_seed(1)
    method_class = load("method", name)
    method = method_class(Toy, method_class.Settings.model_validate(settings)).train()
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


def labels_of(method: Method, image: torch.Tensor) -> torch.Tensor:
    """Labels of a teacher, by its running statistics, or of a student, by the images'; without dropout."""
    if method.teacher is None:
        return student_label(method.student, image)
    return torch.sigmoid(logits(method.teacher, image, False)).detach()


def together(network: torch.nn.Module, *images: torch.Tensor) -> list[torch.Tensor]:
    """Probabilities of images that pass a network as one batch, in training mode."""
    return list(torch.sigmoid(network.train()(torch.cat(images))).split([len(image) for image in images]))


def passed(method: Any, network: Any, *images: torch.Tensor) -> list[torch.Tensor]:
    """Probabilities of images that pass a network as one batch, or apart if the method has that setting."""
    if method.settings.apart:
        return [prob for image in images for prob in together(network, image)]
    return together(network, *images)


def dice_of(prob: torch.Tensor, target: torch.Tensor, smooth: float) -> torch.Tensor:
    overlap, total = (prob * target).sum((1, 2, 3)), (prob + target).sum((1, 2, 3))
    return 1 - (2 * overlap + smooth) / (total + smooth)


def written_out(name: str, method: Method, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """The unlabelled loss of each image, the total, and its gradient; differentiated from formulas of its own."""
    network, label, settings = copy.deepcopy(method.student), labels_of(method, batch.u_w), method.settings.model_dump()
    if name == "mean_teacher":
        view = batch.u_w if settings["view"] == "weak" else batch.u_s1
        prob_l, prob_u = passed(method, network, batch.x_l, view)
        losses = ((prob_u - label) ** 2).mean((1, 2, 3))
    else:
        (prob_l,), (prob_u,) = together(network, batch.x_l), together(network, batch.u_w)
        threshold, hard = settings["threshold"], (label > 0.5).float()
        certain = (label >= threshold) | (label <= 1 - threshold)
        losses = (-(hard * prob_u.log() + (1 - hard) * (1 - prob_u).log()) * certain).mean((1, 2, 3))
        if settings["loss"] == "bce_dice":
            losses = 0.5 * losses + 0.5 * dice_of(prob_u * certain, hard * certain, 1e-6)
    bce = -(batch.y_l * prob_l.log() + (1 - batch.y_l) * (1 - prob_l).log()).mean()
    total = 0.5 * bce + 0.5 * dice_of(prob_l, batch.y_l, 1).mean() + 0.25 * losses.mean()
    total.backward()
    return losses.detach(), total.detach(), [p.grad for p in network.parameters() if p.grad is not None]


PL_QW = {"threshold": 0.0, "labels_from": "teacher", "loss": "bce_dice"}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("pseudo_label", {"threshold": 0.55}),
        ("pseudo_label", {"threshold": 0.0}),
        ("pseudo_label", {"threshold": 0.55, "labels_from": "teacher"}),
        ("pseudo_label", {"threshold": 0.55, "loss": "bce_dice"}),
        ("pseudo_label", PL_QW),
        ("mean_teacher", {}),
        ("mean_teacher", {"view": "strong"}),
        ("mean_teacher", {"apart": False}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())) or "default",
)
def test_rows_total_and_gradient_are_those_of_the_written_equation(
    batch: Batch, name: str, settings: dict[str, object]
) -> None:
    """Total = supervised + lambda_u * mean over images; what passes together is what the authors pass together."""
    method = make(name, **settings)
    sharpen(method.student, 2.0)
    if method.teacher is not None:
        sharpen(method.teacher, 12.0)
    losses, total, gradient = written_out(name, method, batch)
    (term,) = step_of(method, batch).terms
    torch.testing.assert_close(term.loss.detach(), losses, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(term.label.prob, labels_of(method, batch.u_w))
    assert term.label.image is batch.u_w
    if settings.get("threshold"):
        assert 0.05 < float((term.label.prob - 0.5).abs().ge(0.05).float().mean()) < 0.95
    objective = Objective(copy.deepcopy(method), Guide([]))
    found = objective(batch, None, 0)[0]
    found.backward()
    assert float(found.detach()) == pytest.approx(float(total), rel=1e-5)
    for mine, expected in zip(objective.method.students.parameters(), gradient, strict=True):
        assert mine.grad is not None
        torch.testing.assert_close(mine.grad, expected, rtol=1e-4, atol=1e-6)


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


@pytest.mark.parametrize(
    ("name", "decay", "buffers"),
    [
        ("mean_teacher", 0.999, "copied"),
        ("pseudo_label", 0.999, "copied"),
        ("contrastive", 0.999, "copied"),
        ("ict", 0.999, "copied"),
        ("ua_mt", 0.99, "copied"),
        ("unimatch_v2", 0.996, "averaged"),
    ],
)
def test_a_teacher_states_its_average(name: str, decay: float, buffers: str) -> None:
    kind = load("method", name)
    assert (kind.ema_decay, kind.ema_buffers) == (decay, buffers)


@pytest.mark.parametrize(("name", "highest"), [("mean_teacher", 0.999), ("ua_mt", 0.99), ("unimatch_v2", 0.996)])
def test_a_teacher_is_the_mean_of_all_students_until_its_decay_is_reached(name: str, highest: float) -> None:
    """Mean Teacher's code: min(1 - 1/(t + 1), decay) after step t = 0, 1, ...: the mean of t + 1 students."""
    found = [make(name).teacher_decay(step) for step in (0, 1, 9, 98, 998, 5000)]
    assert found == pytest.approx([min(share, highest) for share in (0, 1 / 2, 9 / 10, 98 / 99, 998 / 999, 1)])


def test_settings_are_those_of_the_papers() -> None:
    ramped = {"lambda_u": 0.25, "warmup": 0.075, "ramp": 0.15}
    pseudo_label = {"threshold": 0.9, "labels_from": "student", "loss": "bce"}
    assert load("method", "pseudo_label").Settings().model_dump() == ramped | pseudo_label
    mean_teacher = load("method", "mean_teacher").Settings
    assert mean_teacher().model_dump() == ramped | {"view": "weak", "apart": True}
    assert mean_teacher.completed(ramped)["view"] == "strong"  # what records without it did


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
