"""How pseudo-labels are made: whose statistics normalise, and what stays as it is."""

import copy

import pytest
import torch
from torch import Tensor, nn

from qgbench.methods import Batch, Method, Step, label_probabilities, probabilities
from qgbench.trust.toys import ToySegmenter


class Averaged(Method):
    def uses_teacher(self) -> bool:
        return True

    def step(self, batch: Batch) -> Step:
        return Step(self.student(batch.x_l).mean())


@pytest.fixture
def method() -> Method:
    """Student and teacher whose running statistics are those of other images."""
    torch.manual_seed(0)
    method = Averaged(ToySegmenter, Averaged.Settings()).train()
    for _ in range(20):
        method.student(0.2 * torch.rand(4, 3, 16, 16))
    method.update_teacher(0.0)
    return method


@pytest.fixture
def image() -> Tensor:
    return torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def normalised(x: Tensor, layer: nn.BatchNorm2d) -> Tensor:
    """Batch normalisation from its definition, with the statistics of these rows."""
    mean = x.mean((0, 2, 3), keepdim=True)
    variance = (x - mean).square().mean((0, 2, 3), keepdim=True)
    return layer.weight.view(-1, 1, 1) * (x - mean) / (variance + layer.eps).sqrt() + layer.bias.view(-1, 1, 1)


def test_a_student_labels_with_the_statistics_of_the_images_and_without_dropout(method: Method, image: Tensor) -> None:
    student = copy.deepcopy(method.student)
    (first, norm1, _), (second, norm2, _) = student.encoder, student.decoder
    with torch.no_grad():
        hidden = normalised(first(image), norm1).relu()
        expected = torch.sigmoid(method.student.head[1](normalised(second(hidden), norm2).relu()))
    found = label_probabilities(method.student, image)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(label_probabilities(method.student, image), found)
    assert not torch.allclose(probabilities(method.student, image), found, atol=0.05)
    assert not found.requires_grad


def test_labelling_changes_neither_statistics_nor_mode_nor_random_numbers(method: Method, image: Tensor) -> None:
    before = {name: value.clone() for name, value in method.state_dict().items()}
    modes = [module.training for module in method.modules()]
    state = torch.get_rng_state()
    method.label(method.student, image)
    assert method.teacher is not None
    method.label(method.teacher, image)
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert [module.training for module in method.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)


def test_a_teacher_labels_with_its_averaged_statistics(method: Method, image: Tensor) -> None:
    assert method.teacher is not None
    with torch.no_grad():
        expected = torch.sigmoid(copy.deepcopy(method.teacher).eval()(image))
    assert torch.equal(method.label(method.teacher, image).prob, expected)


def test_in_evaluation_a_student_uses_its_running_statistics(method: Method, image: Tensor) -> None:
    method.eval()
    assert torch.equal(label_probabilities(method.student, image), probabilities(method.student, image))
