"""What a trained network predicts of images: the same for the evaluation of a run and for new images."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from qgbench.methods import Network, probabilities
from qgbench.spec.task import Task

BATCH = 32  # images that are predicted at once


@dataclass(frozen=True)
class Predicted:
    """What a network gives for one image, on the processor."""

    prob: Tensor  # (C, S, S)
    quality: Tensor  # (K,) predicted by g; NaN without
    sure: Tensor  # (K,) sum of the probabilities of a class, where it is predicted
    pixels: Tensor  # (K,) where it is


def predict(
    network: Network,
    predictor: nn.Module | None,
    image: Tensor,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> list[Predicted]:
    """Return what a network gives for each of some images.

    Parameters
    ----------
    network : Network
    predictor : nn.Module or None
        g, for the quality.
    image : (B, 3, S, S)
        In [0, 1], on the network's device; at most `BATCH`, as which others are in the batch changes rounding.
    autocast : callable
        Gives the context of the run's precision.
    """
    task = network.task
    quality = torch.full((len(image), len(task.classes)), torch.nan)
    with autocast(), torch.no_grad():
        prob = probabilities(network, image)
        lesions = task.hard(prob)[:, task.lesions]
        if predictor is not None:
            quality = predictor(image, lesions).view(quality.shape)
    sure = (prob[:, task.lesions] * lesions).flatten(2).sum(2)
    parts = (prob, quality, sure, lesions.flatten(2).sum(2))
    return [Predicted(*of_image) for of_image in zip(*(part.cpu() for part in parts), strict=True)]


def scores_of(found: Sequence[Predicted]) -> dict[str, Tensor]:
    """Return q, the mean over the slices of an image or volume, and the confidence of all its foreground: (K,) each."""
    sure, pixels = (torch.stack(parts).sum(0) for parts in zip(*((one.sure, one.pixels) for one in found), strict=True))
    return {"q": torch.stack([one.quality for one in found]).mean(0), "confidence": sure / pixels.clamp_min(1)}


def probabilities_at(prob: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return probabilities resized bilinearly: (C, S, S) -> (C, H, W)."""
    return F.interpolate(prob.unsqueeze(0), size, mode="bilinear", align_corners=False)[0]


def mask_at(task: Task, prob: Tensor, size: tuple[int, ...]) -> NDArray[Any]:
    """Return what is predicted at another size: probabilities (C, S, S) -> (H, W) bool, or labels uint8."""
    resized = probabilities_at(prob, size)
    return resized[0].numpy() > 0.5 if task.channels == 1 else resized.argmax(0).to(torch.uint8).numpy()
