"""What a method may ask of the networks that it is given, and how they label."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from qgbench.methods.normalisation import frozen_statistics, normalising_layers
from qgbench.spec.task import Task


class Network(Protocol):
    """A segmentation network, a `torch.nn.Module`: images (B, 3, H, W) in [0, 1] -> logits (B, C, H, W) in float32.

    Attributes
    ----------
    task : Task
        What its logits mean.
    size : int
        Side of the run's images, H = W, pixels.
    min_batch : int
        Least number of images in training mode.
    """

    task: Task
    size: int
    min_batch: int
    training: bool

    def __call__(self, image: Tensor, /) -> Tensor:
        """Return logits: those of ``head(decode(encode(image)))``."""

    def encode(self, image: Tensor, /) -> list[Tensor]:
        """Return features (B, C_i, H_i, W_i) of images (B, 3, H, W), fine to coarse."""

    def decode(self, features: list[Tensor], /) -> Tensor:
        """Return the decoder's features (B, D, H', W') of what `encode` gave."""

    def head(self, decoded: Tensor, /) -> Tensor:
        """Return logits (B, C, H, W), float32, of what `decode` gave."""

    def new_decoder(self) -> "Network":
        """Return a network on this very encoder, with a decoder and a head of its own whose weights are drawn anew."""

    # Of torch.nn.Module, what methods use.

    def apply(self, fn: Callable[[nn.Module], None]) -> Any:
        """Call a function with every part."""

    def train(self, mode: bool = True) -> Any:
        """Set training mode."""

    def eval(self) -> Any:
        """Set evaluation mode."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return an iterator over what is trained."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Return an iterator over names and what is trained."""

    def state_dict(self) -> dict[str, Any]:
        """Return parameters and buffers by name."""

    def load_state_dict(self, state: Mapping[str, Any], /) -> Any:
        """Take over what `state_dict` gave."""


class Build(Protocol):
    """Makes the networks of a run."""

    def __call__(self, arch: str = "") -> Network:
        """Return a new network, of the run's architecture unless another is named."""


def feature_shapes(network: Network) -> list[tuple[int, int, int]]:
    """Return the shapes (C, H, W) of the features that a network gives for images of its size, fine to coarse."""
    training = network.training
    network.eval()
    with torch.no_grad():
        features = network.encode(torch.zeros(1, 3, network.size, network.size))
    network.train(training)
    return [(feature.shape[1], feature.shape[2], feature.shape[3]) for feature in features]


def probabilities(network: Network, image: Tensor) -> Tensor:
    """Return the probabilities (B, C, H, W), float32, of a network in evaluation mode, without gradient.

    The network's mode is restored afterwards.
    """
    training = network.training
    network.eval()
    with torch.no_grad():
        prob = network.task.probabilities(network(image))
    network.train(training)
    return prob


def label_probabilities(network: Network, image: Tensor) -> Tensor:
    """Return the probabilities (B, C, H, W), float32, that a pseudo-label is made of; no gradient, no dropout.

    A network in training mode, a student, normalises with the statistics of these very images and leaves its running
    ones alone. Those lag behind a student and mix labelled and strong views: labels made with them lose foreground, the
    student learns to lose it, and the next labels lose more. A teacher, in evaluation mode, uses its running
    statistics, copied from the student or averaged as its weights are.
    """
    if not network.training:
        return probabilities(network, image)
    network.eval()
    module = cast(nn.Module, network)
    with torch.no_grad(), frozen_statistics(module):
        for layer in normalising_layers(module):
            layer.train()
        prob = network.task.probabilities(network(image))
    network.train()
    return prob


@torch.no_grad()
def training_probabilities(network: Network, image: Tensor) -> Tensor:
    """Return the probabilities (B, C, H, W), float32, of a network in training mode: batch statistics and dropout.

    Its running statistics stay as they are, and its mode is restored afterwards.
    """
    training = network.training
    network.train()
    with frozen_statistics(cast(nn.Module, network)):
        prob = network.task.probabilities(network(image))
    network.train(training)
    return prob
