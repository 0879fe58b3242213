"""Losses of the methods: per pixel or per image, never averaged over a batch of unlabelled images.

C is the task's number of channels: 1 for one class, K + 1 for K > 1.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from qgbench.spec.task import Task

_SMOOTH = 1e-10  # of the whole batch


def segmentation_loss(task: Task, logits: Tensor, target: Tensor) -> Tensor:
    """Return the supervised loss 0.5 CE + 0.5 Dice (arXiv 2606.01753, section 4), averaged over the images: a scalar.

    Parameters
    ----------
    task : Task
    logits : (B, C, H, W)
    target : (B, C, H, W)
        0 or 1.
    """
    entropy = _cross_entropy(task, logits, target, "mean")
    return 0.5 * entropy + 0.5 * soft_dice_loss(task, task.probabilities(logits), target).mean()


def soft_dice_loss(task: Task, prob: Tensor, target: Tensor, smooth: float = 1.0) -> Tensor:
    """Return 1 - (2 sum p t + s) / (sum p + sum t + s) of every image, averaged over the classes without background.

    Parameters
    ----------
    task : Task
    prob, target : (B, C, H, W)
    smooth : float
        s.

    Returns
    -------
    (B,)
    """
    prob, target = prob[:, task.lesions].flatten(2), target[:, task.lesions].flatten(2)
    overlap, total = (prob * target).sum(2), prob.sum(2) + target.sum(2)
    return (1.0 - (2.0 * overlap + smooth) / (total + smooth)).mean(1)


def batch_dice_loss(
    task: Task, prob: Tensor, target: Tensor, region: Tensor | float = 1.0
) -> list[tuple[Tensor, Tensor]]:
    """Return 1 - Dice of a whole batch, for each class and the background, each as two sums to be divided.

    Of one class sum(p^2 + t^2 - 2 p t) / sum(p^2 + t^2), as the code of UniMatch (ACDC), SSL4MIS and BCP has it. Both
    sums carry a gradient; as loss and denominator of a term, rows can be weighed before they are summed.

    Parameters
    ----------
    task : Task
    prob, target : (N, C, H, W)
    region : (1, 1, H, W) or (N, 1, H, W), optional
        1 inside, the same for all images or each one's own; everywhere if not given.

    Returns
    -------
    list of ((N,), (N,)), of K + 1 classes
    """
    both, truth = task.with_background(prob), task.with_background(target)
    overlap = (both * truth * region).sum((2, 3))
    size = ((both.square() + truth.square()) * region).sum((2, 3))
    return list(zip((size - 2 * overlap).T, (size + _SMOOTH / len(size)).T, strict=True))


def mean_quotient(sums: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the mean of quotients of sums, as of `batch_dice_loss`: a scalar."""
    return torch.stack([rows.sum() / divisor.sum() for rows, divisor in sums]).mean()


def pixel_cross_entropy(task: Task, logits: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy of every pixel, float32: (B, C, H, W) logits and targets in [0, 1] -> (B, 1, H, W)."""
    return _cross_entropy(task, logits, target, "none")


def pixel_divergence(task: Task, logits: Tensor, target: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence of every pixel from soft targets: (B, C, H, W) twice -> (B, 1, H, W)."""
    loss = pixel_cross_entropy(task, logits, target)
    if task.channels == 1:  # one after the other: the order of rounding that records were made with
        return loss - torch.special.entr(target) - torch.special.entr(1.0 - target)
    return loss - task.entropy(target)


def certain_cross_entropy(task: Task, logits: Tensor, prob: Tensor, threshold: float | Tensor) -> Tensor:
    """Return the cross-entropy of every pixel against the hard pseudo-label; 0 where it is not certain enough.

    Parameters
    ----------
    task : Task
    logits : (U, C, H, W)
    prob : (U, C, H, W)
        Of the labelling network.
    threshold : float or scalar Tensor
        Least probability of the likeliest class of a pixel that counts.

    Returns
    -------
    (U, 1, H, W) float32.
    """
    return pixel_cross_entropy(task, logits, task.hard(prob)) * (task.confidence(prob) >= threshold)


def _cross_entropy(task: Task, logits: Tensor, target: Tensor, reduction: str) -> Tensor:
    task.require_logits(logits)
    if task.channels == 1:
        return F.binary_cross_entropy_with_logits(logits.float(), target, reduction=reduction)
    loss = F.cross_entropy(logits.float(), target, reduction=reduction)
    return loss if reduction == "mean" else loss.unsqueeze(1)
