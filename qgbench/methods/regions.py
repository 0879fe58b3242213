"""Patches, halves, labels and losses of methods that paste one image into another."""

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from qgbench.methods.losses import pixel_cross_entropy
from qgbench.spec.task import Task


def largest_component(task: Task, prob: Tensor) -> Tensor:
    """Return labels (U, C, H, W) that keep the largest 8-connected component of each class; the rest is background."""
    outside = task.hard(prob)[:, task.lesions].bool().cpu().numpy().copy()
    for mask in outside.reshape(-1, *prob.shape[2:]):
        parts, _ = ndimage.label(mask, np.ones((3, 3)))
        mask &= parts != np.bincount(parts[mask], minlength=1).argmax()
    # The likeliest class of no probabilities is the background.
    return torch.where(torch.from_numpy(outside).any(1, keepdim=True).to(prob.device), task.hard(0 * prob), prob)


def cross_entropy(task: Task, logits: Tensor, target: Tensor, region: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean cross-entropy of each image's region, and the divisor of their sum.

    Parameters
    ----------
    task : Task
    logits, target : (N, C, H, W)
    region : (1, 1, H, W)
        1 inside, the same for all images.

    Returns
    -------
    (N,), (N,)
    """
    pixels = (pixel_cross_entropy(task, logits, target) * region).sum((1, 2, 3)) / region.sum()
    return pixels, torch.ones_like(pixels)


def draw_patch(image: Tensor, share: float) -> Tensor:
    """Return one random square patch for all images, its sides a share of theirs: (1, 1, H, W) bool, True inside."""
    inside = torch.zeros_like(image[:1, :1], dtype=torch.bool)
    sides = [int(side * share) for side in image.shape[2:]]
    top, left = (int(torch.randint(n - side + 1, ())) for n, side in zip(image.shape[2:], sides, strict=True))
    inside[..., top : top + sides[0], left : left + sides[1]] = True
    return inside


def paired_halves(*batches: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return indices of the first and the second half of each batch, repeated until all halves are equally long.

    Of an odd batch, both halves have the row in the middle.
    """
    longest = max((len(batch) + 1) // 2 for batch in batches)
    found = []
    for batch in batches:
        index = torch.arange(len(batch), device=batch.device)
        row = torch.arange(longest, device=batch.device) % ((len(batch) + 1) // 2)
        found.append((index[row], index[len(batch) // 2 :][row]))
    return found
