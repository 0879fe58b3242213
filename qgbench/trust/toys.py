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
        sibling = type(self)()
        sibling.encoder = self.encoder
        return sibling


def _normalised(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, CHANNELS, 3, padding=1), nn.BatchNorm2d(CHANNELS), nn.ReLU())


def _toy_head() -> nn.Sequential:
    return nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(CHANNELS, 1, 1))


class FeaturelessSegmenter(ToySegmenter):
    """The toy network of a method that does not state `needs_features`: it refuses to give any."""

    def encode(self, image: Tensor) -> list[Tensor]:
        """Raise UserError: `encode` was not asked for."""
        raise UserError("the method calls encode of a network; state needs_features = True.")

    def decode(self, features: list[Tensor]) -> Tensor:
        """Raise UserError: `decode` was not asked for."""
        raise UserError("the method calls decode of a network; state needs_features = True.")

    def new_decoder(self) -> ToySegmenter:
        """Raise UserError: `new_decoder` was not asked for."""
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


class PointwiseSegmenter(ToySegmenter):
    """The toy network without normalisation and with kernels of one pixel: no pixel acts on another.

    It is sure of itself: bright is lesion, whatever channel is dropped.
    """

    def __init__(self, arch: str = "") -> None:
        super().__init__(arch)
        first, second, last = nn.Conv2d(3, CHANNELS, 1), nn.Conv2d(CHANNELS, CHANNELS, 1), nn.Conv2d(CHANNELS, 1, 1)
        side = torch.tensor([1.0, -1.0]).repeat(CHANNELS // 2)  # half the channels see bright pixels
        slope = side * torch.linspace(1, 2, CHANNELS)
        with torch.no_grad():
            first.weight.copy_((slope / 3).view(-1, 1, 1, 1).expand_as(first.weight))
            first.bias = nn.Parameter(-slope / 2)
            second.weight.copy_(torch.eye(CHANNELS)[..., None, None])
            last.weight.copy_(4 * side.view(1, -1, 1, 1))
            second.bias = nn.Parameter(torch.zeros(CHANNELS))
            last.bias = nn.Parameter(torch.zeros(1))
        self.encoder = nn.Sequential(first, nn.ReLU())
        self.decoder = nn.Sequential(second, nn.ReLU())
        self.head = nn.Sequential(nn.Dropout2d(0.1), last)


def two_colours(alike: bool) -> tuple[Tensor, Tensor]:
    """Return six images of a bright rectangle on dark ground, (6, 3, 32, 32), and their masks (6, 1, 32, 32).

    Half of an image is bright, and no flip or turn leaves it as it is. All are the same (`alike`), or all differ.
    """
    mask = torch.zeros(6, 1, SIZE, SIZE)
    for index, image in enumerate(mask):
        place = 0 if alike else index
        image[:, 1 + place : 25 + place // 2 * 2 - place % 2, 8 - place : 30 - place] = 1.0
    return (0.1 + 0.8 * mask).expand(-1, 3, -1, -1), mask
