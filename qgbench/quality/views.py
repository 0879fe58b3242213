"""Views of images that g and its weak models are trained on (arXiv 2606.01753, as its released code draws them).

All random numbers come from a CPU generator that the caller owns; the arithmetic runs on the images' device. Images
are float RGB (B, 3, H, W) in [0, 1], masks (B, C, H, W) 0 or 1. Nothing is rounded to 8 bits on the way.
"""

from typing import Literal

import torch
from torch import Generator, Tensor

from qgbench.data.views import Shared, brightness_contrast, colour_jitter, flip, rotate

Noise = Literal["none", "written", "library"]


def geometric_view(image: Tensor, mask: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Return image and mask, each axis flipped with probability 0.5, then turned by up to 20 degrees with 0.5.

    What a rotation brings in from outside is black, and no lesion: background.

    Parameters
    ----------
    image : (B, 3, H, W)
    mask : (B, C, H, W)
    generator : Generator
    """
    shared = Shared(generator)
    both = flip(torch.cat([image, mask], 1), shared)
    return rotate(both[:, :3], both[:, 3:], 20.0, 0.5, shared)


def colour_view(image: Tensor, noise: Noise, generator: Generator) -> Tensor:
    """Return images with other brightness and contrast (probability 0.5), then jitter (0.3), then noise (0.2).

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
    (B, 3, H, W) in [0, 1].
    """
    shared = Shared(generator)
    image = brightness_contrast(image, 0.2, 0.5, shared)
    image = colour_jitter(image, (0.1, 0.1, 0.1, 0.05), 0.3, shared)
    if noise == "none":
        return image
    chosen = torch.rand(len(image), 1, 1, 1, generator=generator) < 0.2
    return (image + chosen.to(image.device) * _noise(noise, image, generator)).clamp(0, 1)


def _noise(noise: Noise, like: Tensor, generator: Generator) -> Tensor:
    strength = torch.rand(len(like), 1, 1, 1, generator=generator)
    sd = (5 + 20 * strength).sqrt() / 255 if noise == "written" else 0.2 + 0.24 * strength
    return (sd * torch.randn(len(like), 1, *like.shape[2:], generator=generator)).to(like.device)
