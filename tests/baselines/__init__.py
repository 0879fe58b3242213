"""What the tests of single methods share: a network, a fixed batch, a loss and gradients written without the package.

The network has batch normalisation and dropout in encoder and decoder, so that a method whose passes are not put
together as its authors' are gives other numbers than the equations.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qgbench.methods import Batch, Method
from qgbench.quality.guide import Guide
from qgbench.spec.task import Task
from qgbench.training.objective import Objective

_ONE_CLASS = Task()


class Dropout(nn.Module):
    """Drops channels by their place in the batch and its size, the same ones in every pass of such a batch.

    A written equation may so make its passes in any order, and an image that passes with others loses other channels.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        generator = torch.Generator().manual_seed(1000 * x.shape[0] + x.shape[1])
        kept = torch.rand(x.shape[:2], generator=generator) > 0.2
        return x * kept[:, :, None, None] / 0.8


def block(channels: int, out: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(channels, out, 3, padding=1) if stride == 1 else nn.Conv2d(channels, out, stride, stride)
    return nn.Sequential(convolution, nn.BatchNorm2d(out), nn.ReLU(), Dropout())


class Toy(nn.Module):
    """A network with features of the strides given, and the image itself before them, as encoders have it.

    `bias` moves all logits: -40 predicts nothing, 40 everything.
    """

    min_batch = 1

    def __init__(
        self, strides: tuple[int, ...] = (1,), size: int = 16, bias: float = 0.0, task: Task = _ONE_CLASS
    ) -> None:
        super().__init__()
        self.size = size
        self.task = task
        self._strides = strides
        channels = [3, *(6 + 2 * level for level in range(len(strides)))]
        steps = [stride // before for before, stride in zip((1, *strides), strides, strict=False)]
        self.encoder = nn.ModuleList(map(block, channels, channels[1:], steps))
        self.decoder = block(sum(channels[1:]), 8)
        self.head = nn.Sequential(nn.Conv2d(8, task.channels, 1))
        with torch.no_grad():
            self.head[0].bias.fill_(bias)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.decode(self.encode(image)))

    def encode(self, image: Tensor) -> list[Tensor]:
        features = [image]
        for part in self.encoder:
            features.append(part(features[-1]))
        return features

    def decode(self, features: list[Tensor]) -> Tensor:
        return self.decoder(torch.cat([F.interpolate(f, features[0].shape[2:]) for f in features[1:]], 1))

    def new_decoder(self) -> "Toy":
        sibling = type(self)(self._strides, self.size, task=self.task)
        sibling.encoder = self.encoder
        return sibling


def student_logits(network: nn.Module, image: Tensor) -> Tensor:
    """Logits of a copy that is normalised by these very images, without dropout."""
    network = copy.deepcopy(network).eval()
    for module in network.modules():
        module.train(isinstance(module, nn.BatchNorm2d))
    with torch.no_grad():
        return network(image)


def student_label(network: nn.Module, image: Tensor) -> Tensor:
    """Probabilities of one class from `student_logits`."""
    return torch.sigmoid(student_logits(network, image))


def make_batch(unlabelled: int = 4, size: int = 16, progress: float = 1.0) -> Batch:
    """The same images on every call."""
    generator = torch.Generator().manual_seed(5)
    weak = torch.rand(unlabelled, 3, size, size, generator=generator)
    return Batch(
        x_l=torch.rand(3, 3, size, size, generator=generator),
        y_l=(torch.rand(3, 1, size, size, generator=generator) > 0.6).float(),
        u_w=weak,
        u_s1=(weak * 0.8).clamp(0, 1),
        u_s2=(weak * 1.2).clamp(0, 1),
        cut1=torch.zeros(unlabelled, 1, size, size, dtype=torch.bool),
        cut2=torch.zeros(unlabelled, 1, size, size, dtype=torch.bool),
        progress=progress,
    )


def objective(method: Method, batch: Batch, seed: int = 0) -> tuple[dict[str, float], list[Tensor]]:
    """Parts of the loss and the gradient of everything trainable, zeros where there is none, of a copy of a method."""
    method = copy.deepcopy(method)
    torch.manual_seed(seed)
    total, parts = Objective(method, Guide([]))(batch, None, 0)
    total.backward()
    gradient = [torch.zeros_like(p) if p.grad is None else p.grad for p in method.trainable()]
    return {name: float(value) for name, value in parts.items()}, gradient


def assert_same_gradient(ours: list[Tensor], theirs: list[Tensor]) -> None:
    """Equal but for rounding, which is all that a bias before a batch normalisation gets."""
    assert max(float(value.abs().max()) for value in theirs) > 1e-2
    for mine, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-6)


def written_gradient(loss: Tensor, modules: list[torch.nn.Module]) -> list[Tensor]:
    """Differentiate a loss written in a test by the parameters of the copies that it was written with."""
    parameters = [p for module in modules for p in module.parameters()]
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def half_bce_half_dice(prob: Tensor, target: Tensor) -> Tensor:
    """The supervised loss, from probabilities."""
    bce = -(target * prob.log() + (1 - target) * (1 - prob).log()).mean()
    overlap = 2 * (prob * target).sum((1, 2, 3)) + 1
    dice = 1 - overlap / (prob.sum((1, 2, 3)) + target.sum((1, 2, 3)) + 1)
    return 0.5 * bce + 0.5 * dice.mean()


def bce(prob: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of every pixel, from probabilities."""
    return -(target * prob.log() + (1 - target) * (1 - prob).log())


def buffers(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.named_buffers()}


def sharpen(network: Any, factor: float) -> None:
    """Scale a toy network's logits and centre them on the fixed images, so that probabilities spread over (0, 1)."""
    last = network.head[-1]
    with torch.no_grad():
        last.weight.mul_(factor)
        last.bias.sub_(copy.deepcopy(network).eval()(make_batch().u_w).mean())
