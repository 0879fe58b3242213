"""What logits mean: closed forms for one class and for several, and no torch before it is asked for."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from qgbench.base.errors import UserError
from qgbench.spec.task import Task

TWO = Task(("disc", "cup"))


def logits(channels: int, seed: int) -> torch.Tensor:
    return 3 * torch.randn(2, channels, 4, 5, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("classes", "channels"), [(("a",), 1), (("a", "b"), 3), (("a", "b", "c"), 4)])
def test_channels(classes: tuple[str, ...], channels: int) -> None:
    assert Task(classes).channels == channels


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000))
def test_one_class_by_its_formulas(seed: int) -> None:
    task, x = Task(), logits(1, seed)
    p = special.expit(x.double().numpy())
    prob = task.probabilities(x)
    np.testing.assert_allclose(prob.numpy(), p, rtol=1e-5)
    np.testing.assert_array_equal(task.hard(prob).numpy(), (prob.numpy() > 0.5).astype(float))
    np.testing.assert_allclose(task.confidence(prob).numpy(), np.maximum(p, 1 - p), rtol=1e-5)
    np.testing.assert_allclose(task.entropy(prob).numpy(), stats.bernoulli(p).entropy(), rtol=1e-4, atol=1e-6)
    lesion, ground = task.pixels(prob)
    np.testing.assert_array_equal(lesion.numpy(), prob.numpy() > 0.5)
    assert torch.equal(ground, ~lesion)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000))
def test_several_classes_by_their_formulas(seed: int) -> None:
    x = logits(3, seed)
    p = special.softmax(x.double().numpy(), 1)
    prob = TWO.probabilities(x)
    np.testing.assert_allclose(prob.numpy(), p, rtol=1e-4, atol=1e-7)
    np.testing.assert_array_equal(TWO.hard(prob).numpy(), np.moveaxis(np.eye(3)[p.argmax(1)], 3, 1))
    np.testing.assert_allclose(TWO.confidence(prob).numpy()[:, 0], p.max(1), rtol=1e-5)
    np.testing.assert_allclose(TWO.entropy(prob).numpy()[:, 0], stats.entropy(p, axis=1), rtol=1e-4, atol=1e-6)
    for channel, mask in enumerate(TWO.pixels(prob)):
        np.testing.assert_array_equal(mask.numpy()[:, 0], p.argmax(1) == channel)


def test_at_one_half_and_at_nothing_the_background_is_meant() -> None:
    assert Task().hard(torch.full((1, 1, 1, 1), 0.5)).item() == 0
    assert TWO.hard(torch.zeros(1, 3, 1, 1)).flatten().tolist() == [1, 0, 0]


@pytest.mark.parametrize("task", [Task(), TWO])
def test_entropy_of_what_is_wholly_certain_has_a_gradient(task: Task) -> None:
    """float32 rounds these probabilities to 0 and 1, where the derivative of p ln p is infinite."""
    logits = torch.tensor([200.0, -200.0, 1.0])[: task.channels].view(1, -1, 1, 1).requires_grad_()
    task.entropy(task.probabilities(logits)).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("task", [Task(), TWO])
def test_entropy_is_largest_where_all_classes_are_as_likely(task: Task) -> None:
    even = task.probabilities(torch.zeros(1, task.channels, 1, 1))
    assert task.entropy(even).item() == pytest.approx(math.log(len(task.classes) + 1))
    certain = task.hard(even)
    assert task.entropy(certain).item() == 0


@pytest.mark.parametrize(("task", "channels"), [(Task(), 2), (Task(), 16), (TWO, 1), (TWO, 2)])
def test_logits_of_another_number_of_channels_are_refused(task: Task, channels: int) -> None:
    with pytest.raises(UserError, match=rf"logits of this task have {task.channels} channel\(s\), not {channels}\."):
        task.probabilities(logits(channels, 0))


def test_it_imports_no_torch() -> None:
    code = "import sys; import qgbench.spec.task; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
