"""Cross teaching: Dice against the hard label of a network of another architecture (arXiv 2112.04894)."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qgbench.plugins.registry import load
from qgbench.spec.task import Task
from tests.baselines import Dropout, assert_same_gradient, half_bce_half_dice, make_batch, objective, written_gradient
from tests.baselines.test_unimatch import Pyramid


class Other(nn.Module):
    """A second architecture, with batch normalisation, dropout and no convolution wider than a pixel."""

    task = Task()

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.ReLU(), Dropout())
        self.head = nn.Sequential(nn.Conv2d(6, 1, 1), nn.BatchNorm2d(1))  # logits around 0

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.layers(image))


def cross_teaching(asked: list[str] | None = None) -> Any:
    def build(arch: str = "") -> nn.Module:
        if asked is not None:
            asked.append(arch)
        return Other() if arch else Pyramid()

    torch.manual_seed(1)
    kind = load("method", "cross_teaching")
    return kind(build, kind.Settings()).train()


def test_the_networks_are_the_runs_and_the_second_one() -> None:
    asked: list[str] = []
    method = cross_teaching(asked)
    assert asked == ["", "swin_unet"]
    assert isinstance(method.student, Pyramid)
    assert method.teacher is None


@pytest.mark.parametrize("unlabelled", [2, 5])
@pytest.mark.parametrize("progress", [0.3, 1.0])
def test_loss_and_gradient_are_the_written_ones(unlabelled: int, progress: float) -> None:
    method, batch = cross_teaching(), make_batch(unlabelled, size=32, progress=progress)
    networks = [copy.deepcopy(student) for student in method.students]
    probs = [torch.sigmoid(network(torch.cat([batch.x_l, batch.u_w]))) for network in networks]
    total = torch.zeros(())
    weight = 0.1 * math.exp(-5 * (1 - progress) ** 2)
    for prob, other in (probs, probs[::-1]):
        total = total + half_bce_half_dice(prob[:3], batch.y_l)
        hard = (other[3:] > 0.5).float().detach()
        assert 0.02 < float(hard.mean()) < 0.98
        for p, y in ((prob[3:], hard), (1 - prob[3:], 1 - hard)):
            total = total + weight * (1 - 2 * (p * y).sum() / ((p * p).sum() + (y * y).sum())) / 2
    found, ours = objective(method, batch)
    assert found["total"] == pytest.approx(float(total.detach()), rel=1e-5)
    assert_same_gradient(ours, written_gradient(total, networks))


def test_a_label_names_the_other_network_and_teaches_only_one() -> None:
    method, batch = cross_teaching(), make_batch(size=32)
    for place, term in enumerate(method(batch).terms):
        index = place // 2  # lesion and background
        assert term.label.network is method.students[1 - index]
        assert term.label.view == "weak"
        for which, student in enumerate(method.students):
            parameters = list(student.parameters())
            grads = torch.autograd.grad(term.loss.sum(), parameters, retain_graph=True, allow_unused=True)
            assert any(g is not None and bool(g.any()) for g in grads) == (which == index)


def test_settings_are_those_of_the_authors_code() -> None:
    settings = load("method", "cross_teaching").Settings().model_dump()
    assert settings == {"lambda_u": 0.1, "warmup": 0.0, "ramp": 0.0, "second_arch": "swin_unet"}
