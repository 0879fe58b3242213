"""Views of images: geometry for labelled and unlabelled images, photometric changes, CutMix regions.

All random numbers come from a CPU generator that the caller owns, one value per image; the arithmetic runs on the
images' device. Images are float RGB (B, 3, H, W) in [0, 1], masks (B, C, H, W) 0 or 1.
"""

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def _uniform(count: int, low: float, high: float, generator: Generator, like: Tensor) -> Tensor:
    values = torch.rand(count, generator=generator) * (high - low) + low
    return values.to(like.device).view(-1, 1, 1, 1)


def _chosen(count: int, probability: float, generator: Generator, like: Tensor) -> Tensor:
    return (torch.rand(count, generator=generator) < probability).to(like.device).view(-1, 1, 1, 1)


def flip(stack: Tensor, generator: Generator) -> Tensor:
    """Flip every image left-right and up-down, each with probability 0.5; all channels alike."""
    count = len(stack)
    stack = torch.where(_chosen(count, 0.5, generator, stack), stack.flip(3), stack)
    return torch.where(_chosen(count, 0.5, generator, stack), stack.flip(2), stack)


def rotate(image: Tensor, mask: Tensor, degrees: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Rotate image (bilinear, reflected border) and mask (nearest, empty border) by one angle in [-degrees, degrees].

    Parameters
    ----------
    image : (B, 3, H, W)
    mask : (B, C, H, W)
        Any number of masks aligned with the image.
    """
    angle = _uniform(len(image), -degrees, degrees, generator, image).flatten() * (math.pi / 180.0)
    height, width = image.shape[2:]
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # In affine_grid's coordinates both sides span [-1, 1]; the ratio keeps the rotation rigid on oblong images.
    ratio = height / width
    theta = torch.stack([cos, -sin * ratio, zero, sin / ratio, cos, zero], 1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(image.shape), align_corners=False)
    turned = F.grid_sample(image, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    turned_mask = F.grid_sample(mask, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return turned, turned_mask


def brightness_contrast(image: Tensor, amount: float, generator: Generator) -> Tensor:
    """Scale contrast about the image's mean and shift brightness, each by a factor within 1 +- amount."""
    count = len(image)
    brightness = _uniform(count, 1 - amount, 1 + amount, generator, image)
    contrast = _uniform(count, 1 - amount, 1 + amount, generator, image)
    mean = image.mean((1, 2, 3), keepdim=True)
    return (((image - mean) * contrast + mean) * brightness).clamp(0, 1)


def colour_jitter(image: Tensor, saturation: float, hue: float, generator: Generator) -> Tensor:
    """Change saturation by a factor within 1 +- saturation and turn the hue by up to `hue` of a full circle.

    The hue is turned about the grey axis in YIQ space.
    """
    count = len(image)
    luma = (image * image.new_tensor(_LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    image = luma + (image - luma) * _uniform(count, 1 - saturation, 1 + saturation, generator, image)
    angle = _uniform(count, -hue, hue, generator, image).flatten() * (2 * math.pi)
    to_yiq = image.new_tensor([_LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)])
    one, zero = torch.ones_like(angle), torch.zeros_like(angle)
    turn = torch.stack([one, zero, zero, zero, angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos()], 1).view(
        -1, 3, 3
    )
    matrix = torch.linalg.inv(to_yiq) @ turn @ to_yiq
    return torch.einsum("bij,bjhw->bihw", matrix, image).clamp(0, 1)


def blur(image: Tensor, probability: float, generator: Generator) -> Tensor:
    """Blur with a Gaussian of 3 to 7 pixels' width at 224 pixels (sigma 0.5 to 1.4), scaled to the image's size."""
    count, channels, height, width = image.shape
    scale = min(height, width) / 224.0
    sigma = _uniform(count, 0.5, 1.4, generator, image) * max(scale, 0.4)
    chosen = _chosen(count, probability, generator, image)
    radius = max(1, math.ceil(3 * 1.4 * max(scale, 0.4)))
    offsets = torch.arange(-radius, radius + 1, device=image.device, dtype=image.dtype).view(1, 1, 1, -1)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum(3, keepdim=True)).repeat_interleave(channels, 0)
    flat = F.pad(image.reshape(1, -1, height, width), [radius] * 4, mode="reflect")
    flat = F.conv2d(flat, kernel, groups=count * channels)
    flat = F.conv2d(flat, kernel.transpose(2, 3), groups=count * channels)
    return torch.where(chosen, flat.view_as(image), image)


def labelled_view(
    image: Tensor, mask: Tensor, rotation: float, brightness: float, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Labelled training view: flips, rotation, brightness and contrast (arXiv 2606.01753, section 4)."""
    both = flip(torch.cat([image, mask], 1), generator)
    image, mask = rotate(both[:, :3], both[:, 3:], rotation, generator)
    return brightness_contrast(image, brightness, generator), mask


def strong_view(image: Tensor, generator: Generator) -> Tensor:
    """Photometric strong view, aligned with its input: brightness/contrast 0.3, colour jitter, blur 3-7."""
    image = brightness_contrast(image, 0.3, generator)
    image = colour_jitter(image, 0.3, 0.05, generator)
    return blur(image, 0.5, generator)


def cutmix_region(count: int, size: int, generator: Generator) -> Tensor:
    """Draw CutMix boxes: (count, 1, size, size) bool, True inside; empty with probability 0.5.

    A box covers 2 to 40 % of the image with an aspect ratio of 0.3 to 3.3 (settings of UniMatch, arXiv 2208.09910).
    """
    area = torch.rand(count, generator=generator) * 0.38 + 0.02
    aspect = torch.exp(torch.rand(count, generator=generator) * math.log(3.3 / 0.3) + math.log(0.3))
    height = ((area * aspect).sqrt() * size).clamp(1, size).round()
    width = ((area / aspect).sqrt() * size).clamp(1, size).round()
    top = (torch.rand(count, generator=generator) * (size - height + 1)).floor()
    left = (torch.rand(count, generator=generator) * (size - width + 1)).floor()
    used = torch.rand(count, generator=generator) < 0.5
    axis = torch.arange(size)
    rows = (axis >= top[:, None]) & (axis < (top + height)[:, None])
    columns = (axis >= left[:, None]) & (axis < (left + width)[:, None])
    return (rows[:, :, None] & columns[:, None, :] & used[:, None, None]).unsqueeze(1)
