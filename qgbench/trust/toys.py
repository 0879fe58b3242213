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
ONE, THREE = Task(), Task(("first", "second", "third"))


class ToySegmenter(nn.Module):
    """A small `Network` with batch normalisation in encoder and decoder, and dropout in its head.

    One map of features, 8 channels at full resolution. It is the same whatever architecture is asked for.
    """

    size = SIZE
    min_batch = 1

    def __init__(self, arch: str = "", task: Task = ONE) -> None:
        super().__init__()
        self.task = task
        self.encoder = _normalised(3)
        self.decoder = _normalised(CHANNELS)
        self.head = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(CHANNELS, task.channels, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (B, C, H, W)."""
        return self.head(self.decoder(self.encoder(image)))

    def encode(self, image: Tensor) -> list[Tensor]:
        """Return features (B, 8, H, W), a list of one."""
        return [self.encoder(image)]

    def decode(self, features: list[Tensor]) -> Tensor:
        """Return the decoder's features (B, 8, H, W)."""
        return self.decoder(features[-1])

    def new_decoder(self) -> "ToySegmenter":
        """Return a network on this encoder, with a decoder and a head of its own."""
        sibling = type(self)(task=self.task)
        sibling.encoder = self.encoder
        return sibling


def _normalised(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, CHANNELS, 3, padding=1), nn.BatchNorm2d(CHANNELS), nn.ReLU())


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
    """A fixed stand-in for g, in (0, 1), different for different masks; shapes are those of `QualityPredictor`."""

    def __init__(self, classes: int = 1) -> None:
        super().__init__()
        widened = nn.Conv2d(3 + classes, 4, 5, stride=4)
        self.layers = nn.Sequential(widened, nn.ReLU(), nn.Flatten(), nn.Linear(4 * 49, classes))

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """Return a quality per mask, of several classes (B, K)."""
        return torch.sigmoid(4.0 * self.layers(torch.cat([image, mask], 1))).squeeze(1)

    def refined(self, image: Tensor, label: Tensor) -> Tensor:
        """Return labels (B, C, H, W), blurred."""
        return nn.functional.avg_pool2d(label, 3, 1, 1, count_include_pad=False)


def toy_protocol(steps: int) -> Protocol:
    """Return the smoke protocol with a budget of `steps`, for toy images."""
    smoke = load_protocol("smoke")
    train = smoke.train.model_copy(
        update={"steps": steps, "lr": 1e-2, "batch_labelled": 4, "batch_unlabelled": 6, "validations": 2}
    )
    return smoke.model_copy(update={"size": SIZE, "train": train})


def toy_data(task: Task = ONE) -> TrainingData:
    """Return bright rectangles on a darker ground: 8 labelled, 16 unlabelled, 4 validation images of 32 pixels.

    Those of three classes are red, green and blue.
    """
    rng = np.random.default_rng(0)
    masks = np.zeros((28, SIZE, SIZE), np.uint8)
    for mask in masks:
        for label in range(1, len(task.classes) + 1):
            top, left = rng.integers(2, 14, 2)
            height, width = rng.integers(6, 16, 2)
            mask[top : top + height, left : left + width] = label
    several = task.channels > 1  # one channel tells a class: it is brighter, lest a network need longer to be as sure
    least, contrast = (40, 200) if several else (90, 100)
    bright = masks[..., None] == (np.arange(1, 4) if several else 1)
    light = least + contrast * bright + rng.normal(0, 25, (*masks.shape, 3))
    prepared = Prepared(
        ids=[f"toy{i:02d}" for i in range(len(masks))],
        groups=[f"toy{i:02d}" for i in range(len(masks))],
        images=light.clip(0, 255).astype(np.uint8),
        masks=masks,
        sizes=np.full((len(masks), 2), SIZE),
        fingerprint="toy",
        originals=None,
        classes=task.classes,
    )
    parts = [ImageSet([(prepared, rows)]) for rows in np.split(np.arange(28), [8, 24])]
    labelled, unlabelled, val = parts
    return TrainingData(labelled, unlabelled, val, unlabelled_are_labelled=False)


class PointwiseSegmenter(ToySegmenter):
    """The toy network without normalisation and with kernels of one pixel: no pixel acts on another.

    It is sure of itself: bright is lesion, whatever channel is dropped; of three classes red, green and blue are one
    each.
    """

    def __init__(self, arch: str = "", task: Task = ONE) -> None:
        super().__init__(arch, task)
        first, second = nn.Conv2d(3, CHANNELS, 1), nn.Conv2d(CHANNELS, CHANNELS, 1)
        last = nn.Conv2d(CHANNELS, task.channels, 1)
        colours, least, sides = _one_seen() if task.channels == 1 else _three_seen()
        with torch.no_grad():
            first.weight.copy_(colours[..., None, None])
            first.bias = nn.Parameter(-least)
            second.weight.copy_(torch.eye(CHANNELS)[..., None, None])
            last.weight.copy_(sides[..., None, None])
            second.bias = nn.Parameter(torch.zeros(CHANNELS))
            last.bias = nn.Parameter(torch.zeros(task.channels))
        self.encoder = nn.Sequential(first, nn.ReLU())
        self.decoder = nn.Sequential(second, nn.ReLU())
        self.head = nn.Sequential(nn.Dropout2d(0.1), last)


def _one_seen() -> tuple[Tensor, Tensor, Tensor]:
    """Return how much of each colour channels see (8, 3), the least of it (8,), and what it says of classes (C, 8)."""
    side = torch.tensor([1.0, -1.0]).repeat(CHANNELS // 2)  # half the channels see bright pixels
    slope = side * torch.linspace(1, 2, CHANNELS)
    return (slope / 3).view(-1, 1).expand(-1, 3), slope / 2, 4 * side.view(1, -1)


def _three_seen() -> tuple[Tensor, Tensor, Tensor]:
    """Return the same for three classes: two channels see that it is a colour or not, two for each, and for none."""
    seen = torch.cat([torch.ones(1, 3), torch.eye(3)])  # of any colour, of each
    least = torch.tensor([0.7, 0.5, 0.5, 0.5])
    says = 12 * torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]))
    return torch.cat([seen, -seen]), torch.cat([least, -least]), torch.cat([says, -says], 1)


def few_colours(alike: bool, task: Task = ONE) -> tuple[Tensor, Tensor]:
    """Return six images of a bright rectangle on dark ground, (6, 3, 32, 32), and their masks (6, C, 32, 32).

    Half of an image is bright, and no flip or turn leaves it as it is. All are the same (`alike`), or all differ. Of
    three classes the rectangle has a red, a green and a blue band.
    """
    mask = torch.zeros(6, 1, SIZE, SIZE)
    for index, image in enumerate(mask):
        place = 0 if alike else index
        image[:, 1 + place : 25 + place // 2 * 2 - place % 2, 8 - place : 30 - place] = 1.0
    if task.channels == 1:
        return (0.1 + 0.8 * mask).expand(-1, 3, -1, -1), mask
    bands = torch.zeros(6, 3, SIZE, SIZE)
    for index, begin in enumerate((0, 9, 18)):
        bands[:, index, begin : begin + (9 if index < 2 else SIZE)] = 1.0
    lesions = mask * bands
    return 0.1 + 0.8 * lesions, torch.cat([1 - mask, lesions], 1)
