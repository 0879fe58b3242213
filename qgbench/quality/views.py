"""Views of images that g and its weak models are trained on (arXiv 2606.01753, as its released code draws them).

All random numbers come from a CPU generator that the caller owns; the arithmetic runs on the images' device. Images
are float RGB (B, 3, H, W) in [0, 1], masks (B, 1, H, W) 0 or 1. Nothing is rounded to 8 bits on the way.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from qgbench.data.views import flip

Noise = Literal["none", "written", "library"]

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_DEGREES = 20.0  # largest rotation


def geometric_view(image: Tensor, mask: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Flip along each axis with probability 0.5, then rotate by up to 20 degrees with probability 0.5.

    What a rotation brings in from outside is black, and no lesion.

    Parameters
    ----------
    image : (B, 3, H, W)
    mask : (B, 1, H, W)
    generator : Generator
    """
    image, mask = flip(torch.cat([image, mask], 1), generator).split([3, 1], 1)
    drawn = torch.rand(len(image), generator=generator) < 0.5
    angle = (drawn * _uniform((len(image),), _DEGREES * math.pi / 180, generator)).to(image.device)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    ratio = image.shape[2] / image.shape[3]  # keeps the rotation rigid: both sides span [-1, 1] in the grid
    theta = torch.stack([cos, -sin * ratio, zero, sin / ratio, cos, zero], 1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(image.shape), align_corners=False)
    return (
        F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False),
        F.grid_sample(mask, grid, mode="nearest", padding_mode="zeros", align_corners=False),
    )


def colour_view(image: Tensor, noise: Noise, generator: Generator) -> Tensor:
    """Change brightness and contrast with probability 0.5, then jitter with 0.3, then add noise with 0.2.

    Parameters
    ----------
    image : (B, 3, H, W)
    noise : 'written', 'library' or 'none'
        Strength of the Gaussian noise, which is the same on all three channels. 'written': variance 5 to 25 on the
        scale of 0 to 255, as the release's code asks for. 'library': what the library that it pins does instead, which
        drops that argument: standard deviation 0.2 to 0.44 of the whole range.
    generator : Generator

    Returns
    -------
    (B, 3, H, W), a new tensor in [0, 1].
    """
    image = image.clone()
    for change, probability in ((_brightness_contrast, 0.5), (_jitter, 0.3)):
        rows = _drawn(len(image), probability, generator).to(image.device)
        image[rows] = change(image[rows], generator)
    if noise != "none":
        rows = _drawn(len(image), 0.2, generator)
        image[rows.to(image.device)] += _noise(noise, len(rows), image, generator)
    return image.clamp_(0, 1)


def _drawn(count: int, probability: float, generator: Generator) -> Tensor:
    """Return the rows that are drawn, each with the same probability, on the processor."""
    return (torch.rand(count, generator=generator) < probability).nonzero().flatten()


def _uniform(shape: tuple[int, ...], limit: float, generator: Generator) -> Tensor:
    return (2 * torch.rand(shape, generator=generator) - 1) * limit


def _brightness_contrast(image: Tensor, generator: Generator) -> Tensor:
    """Return x (1 + U) + U, both U within +- 0.2."""
    change = _uniform((2, len(image), 1, 1, 1), 0.2, generator).to(image.device)
    return (image * (1 + change[0]) + change[1]).clamp(0, 1)


def _jitter(image: Tensor, generator: Generator) -> Tensor:
    """Change brightness, contrast and saturation by up to a tenth, hue by 0.05 of a circle, in an order of its own."""
    changes = (_brightness, _contrast, _saturation, adjust_hue)
    order = torch.rand(len(image), len(changes), generator=generator).argsort(1)
    amount = _uniform((len(image), len(changes)), 1.0, generator) * torch.tensor([0.1, 0.1, 0.1, 0.05])
    for place in range(len(changes)):
        for number, change in enumerate(changes):
            rows = (order[:, place] == number).nonzero().flatten()
            by = amount[rows, number].view(-1, 1, 1, 1).to(image.device)
            image[rows.to(image.device)] = change(image[rows.to(image.device)], by).clamp(0, 1)
    return image


def _grey(image: Tensor) -> Tensor:
    return (image * image.new_tensor(_LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _brightness(image: Tensor, by: Tensor) -> Tensor:
    return image * (1 + by)


def _contrast(image: Tensor, by: Tensor) -> Tensor:
    mean = _grey(image).mean((2, 3), keepdim=True)
    return mean + (image - mean) * (1 + by)


def _saturation(image: Tensor, by: Tensor) -> Tensor:
    grey = _grey(image)
    return grey + (image - grey) * (1 + by)


def adjust_hue(image: Tensor, by: Tensor) -> Tensor:
    """Turn the hue in HSV space: images (B, 3, H, W) by shares (B, 1, 1, 1) of a full circle."""
    high, low = image.amax(1, keepdim=True), image.amin(1, keepdim=True)
    span = high - low
    red, green, blue = image.split(1, 1)
    safe = torch.where(span > 0, span, torch.ones_like(span))
    between = torch.where(high == green, 2 + (blue - red) / safe, 4 + (red - green) / safe)
    hue = torch.where(high == red, (green - blue) / safe, between) + 6 * by
    # A channel's value falls from the maximum to the minimum with its distance from the hue: 5, 3, 1 for R, G, B.
    place = (hue + image.new_tensor([5.0, 3.0, 1.0]).view(1, 3, 1, 1)) % 6
    return high - span * torch.minimum(place, 4 - place).clamp(0, 1)


def _noise(noise: Noise, count: int, like: Tensor, generator: Generator) -> Tensor:
    strength = torch.rand(count, 1, 1, 1, generator=generator)
    sd = (5 + 20 * strength).sqrt() / 255 if noise == "written" else 0.2 + 0.24 * strength
    return (sd * torch.randn(count, 1, *like.shape[2:], generator=generator)).to(like.device)
