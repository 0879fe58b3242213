"""Losses of the methods: per pixel or per image, never averaged over a batch of unlabelled images."""

import torch
import torch.nn.functional as F
from torch import Tensor


def segmentation_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Supervised loss 0.5 BCE + 0.5 Dice (arXiv 2606.01753, section 4), averaged over the images: a scalar.

    Parameters
    ----------
    logits : (B, 1, H, W)
    target : (B, 1, H, W)
        0 or 1.
    """
    logits = logits.float()
    bce = F.binary_cross_entropy_with_logits(logits, target)
    return 0.5 * bce + 0.5 * soft_dice_loss(torch.sigmoid(logits), target).mean()


def soft_dice_loss(prob: Tensor, target: Tensor) -> Tensor:
    """1 - (2 sum p t + 1) / (sum p + sum t + 1) of every image: (B, 1, H, W) twice -> (B,)."""
    overlap = (prob * target).flatten(1).sum(1)
    total = prob.flatten(1).sum(1) + target.flatten(1).sum(1)
    return 1.0 - (2.0 * overlap + 1.0) / (total + 1.0)


def pixel_bce(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of every pixel, float32: (B, 1, H, W) logits and targets -> (B, 1, H, W)."""
    return F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")


def certainty(prob: Tensor) -> Tensor:
    """Probability of the likelier class of every pixel, max(p, 1 - p), in [0.5, 1]."""
    return torch.maximum(prob, 1.0 - prob)


def certain_bce(logits: Tensor, label: Tensor, threshold: float | Tensor) -> Tensor:
    """Binary cross-entropy of every pixel against a pseudo-label cut at 0.5; 0 where it is not certain enough.

    Parameters
    ----------
    logits : (U, 1, H, W)
    label : (U, 1, H, W)
        Foreground probabilities of the labelling network.
    threshold : float or scalar Tensor
        Least max(p, 1 - p) of a pixel that counts.

    Returns
    -------
    (U, 1, H, W) float32.
    """
    return pixel_bce(logits, (label > 0.5).float()) * (certainty(label) >= threshold)
