"""Toy networks, images and protocol, small enough that a method's contract is checked in seconds."""

import numpy as np
import torch
from torch import Tensor, nn

from qgbench.base.errors import UserError
from qgbench.data.cache import Prepared
from qgbench.data.experiment import ImageSet, TrainingData
from qgbench.spec.protocol import Protocol, load_protocol
from qgbench.spec.task import Task

SIZE = 32
CHANNELS = 8


class ToySegmenter(nn.Module):
    """A small `Network` with batch normalisation in encoder and decoder, and dropout in its head.

    One map of features, 8 channels at full resolution. It is the same whatever architecture is asked for.
    """

    task = Task()
    size = SIZE
    min_batch = 1

    def __init__(self, arch: str = "") -> None:
        super().__init__()
        self.encoder = _normalised(3)
        self.decoder = _normalised(CHANNELS)
        self.head = _toy_head()

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (B, 1, H, W)."""
        return self.head(self.decoder(self.encoder(image)))

    def encode(self, image: Tensor) -> list[Tensor]:
        """Return features (B, 8, H, W), a list of one."""
        return [self.encoder(image)]

    def decode(self, features: list[Tensor]) -> Tensor:
        """Return the decoder's features (B, 8, H, W)."""
        return self.decoder(features[-1])

    def new_decoder(self) -> "ToySegmenter":
        """Return a network on this encoder, with a decoder and a head of its own."""
        sibling = ToySegmenter()
        sibling.encoder = self.encoder
        return sibling


def _normalised(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, CHANNELS, 3, padding=1), nn.BatchNorm2d(CHANNELS), nn.ReLU())


def _toy_head() -> nn.Sequential:
    return nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(CHANNELS, 1, 1))


class FeaturelessSegmenter(ToySegmenter):
    """The toy network of a method that does not state `needs_features`: it refuses to give any."""

    def encode(self, image: Tensor) -> list[Tensor]:
        """Refuse."""
        raise UserError("the method calls encode of a network; state needs_features = True.")

    def decode(self, features: list[Tensor]) -> Tensor:
        """Refuse."""
        raise UserError("the method calls decode of a network; state needs_features = True.")

    def new_decoder(self) -> ToySegmenter:
        """Refuse."""
        raise UserError("the method calls new_decoder of a network; state needs_features = True.")


class ToyQuality(nn.Module):
    """A fixed stand-in for g: (B, 3, H, W), (B, 1, H, W) -> (B,) in (0, 1), different for different masks."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(4, 4, 5, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 49, 1))

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """Return a quality per mask."""
        return torch.sigmoid(4.0 * self.layers(torch.cat([image, mask], 1))).squeeze(1)


def toy_protocol(steps: int) -> Protocol:
    """Return the smoke protocol with a budget of `steps`, for toy images."""
    smoke = load_protocol("smoke")
    train = smoke.train.model_copy(
        update={"steps": steps, "lr": 1e-2, "batch_labelled": 4, "batch_unlabelled": 6, "validations": 2}
    )
    return smoke.model_copy(update={"size": SIZE, "train": train})


def toy_data() -> TrainingData:
    """Return bright rectangles on a darker ground: 8 labelled, 16 unlabelled, 4 validation images of 32 pixels."""
    rng = np.random.default_rng(0)
    masks = np.zeros((28, SIZE, SIZE), np.uint8)
    for mask in masks:
        top, left = rng.integers(2, 14, 2)
        height, width = rng.integers(6, 16, 2)
        mask[top : top + height, left : left + width] = 1
    light = 90 + 100 * masks[..., None] + rng.normal(0, 25, (*masks.shape, 3))
    prepared = Prepared(
        ids=[f"toy{i:02d}" for i in range(len(masks))],
        groups=[f"toy{i:02d}" for i in range(len(masks))],
        images=light.clip(0, 255).astype(np.uint8),
        masks=masks,
        sizes=np.full((len(masks), 2), SIZE),
        fingerprint="toy",
        originals=None,
    )
    parts = [ImageSet([(prepared, rows)]) for rows in np.split(np.arange(28), [8, 24])]
    labelled, unlabelled, val = parts
    return TrainingData(labelled, unlabelled, val, unlabelled_are_labelled=False)
