"""Views of images: geometry for labelled and unlabelled images, photometric changes, CutMix regions.

All random numbers come from a CPU generator that the caller owns, one value per image (`Shared`); the arithmetic runs
on the images' device, and nothing here waits for what that device was asked before. Images are float RGB (B, 3, H, W)
in [0, 1], masks (B, C, H, W) 0 or 1.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from qgbench.spec.protocol import TrainSettings

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True)
class Shared:
    """A generator that processes draw from alike: numbers of the whole batch, of which each keeps those of its rows."""

    generator: Generator
    rank: int = 0
    size: int = 1

    def rows(self, count: int) -> slice:
        """Return where the `count` rows of this process stand in the batch of all."""
        return slice(self.rank * count, (self.rank + 1) * count)

    def rand(self, count: int, *shape: int) -> Tensor:
        """Return numbers in [0, 1) for the `count` rows of this process: (count, ...)."""
        return torch.rand(self.size * count, *shape, generator=self.generator)[self.rows(count)]


def _uniform(count: int, low: float, high: float, shared: Shared, like: Tensor) -> Tensor:
    values = shared.rand(count) * (high - low) + low
    return values.to(like.device, non_blocking=True).view(-1, 1, 1, 1)


def _chosen(count: int, probability: float, shared: Shared, like: Tensor) -> Tensor:
    return (shared.rand(count) < probability).to(like.device, non_blocking=True).view(-1, 1, 1, 1)


def flip(stack: Tensor, shared: Shared) -> Tensor:
    """Return images flipped left-right and up-down, each with probability 0.5; all channels alike."""
    count = len(stack)
    stack = torch.where(_chosen(count, 0.5, shared, stack), stack.flip(3), stack)
    return torch.where(_chosen(count, 0.5, shared, stack), stack.flip(2), stack)


def rotate(image: Tensor, mask: Tensor, degrees: float, probability: float, shared: Shared) -> tuple[Tensor, Tensor]:
    """Return image (bilinear) and mask (nearest), rotated by an angle in [-degrees, degrees]; the border is empty.

    Parameters
    ----------
    image : (B, 3, H, W)
    mask : (B, C, H, W)
        Any number of masks aligned with the image.
    degrees : float
        Largest angle.
    probability : float
        Share of the images that are turned.
    shared : Shared
    """
    angle = _uniform(len(image), -degrees, degrees, shared, image)
    angle = torch.where(_chosen(len(image), probability, shared, image), angle, 0.0).flatten() * (math.pi / 180.0)
    height, width = image.shape[2:]
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # In affine_grid's coordinates both sides span [-1, 1]; the ratio keeps the rotation rigid on oblong images.
    ratio = height / width
    theta = torch.stack([cos, -sin * ratio, zero, sin / ratio, cos, zero], 1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(image.shape), align_corners=False)
    turned = F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    turned_mask = F.grid_sample(mask, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    still = (angle == 0).view(-1, 1, 1, 1)
    return torch.where(still, image, turned), torch.where(still, mask, turned_mask)


def brightness_contrast(image: Tensor, amount: float, probability: float, shared: Shared) -> Tensor:
    """Return (1 + a) x + b for a share of the images, a and b in [-amount, amount] (arXiv 2606.01753, its release)."""
    count = len(image)
    contrast, brightness = (_uniform(count, -amount, amount, shared, image) for _ in range(2))
    changed = (image * (1 + contrast) + brightness).clamp_(0, 1)
    return torch.where(_chosen(count, probability, shared, image), changed, image)


def grey(image: Tensor) -> Tensor:
    """Return the luma of images: (B, 3, H, W) -> (B, 1, H, W)."""
    return (image * torch.tensor(_LUMA).view(1, 3, 1, 1).to(image, non_blocking=True)).sum(1, keepdim=True)


def scale_brightness(image: Tensor, factor: Tensor) -> Tensor:
    """Return images (B, 3, H, W) times factors (B, 1, 1, 1)."""
    return (image * factor).clamp_(0, 1)


def scale_contrast(image: Tensor, factor: Tensor) -> Tensor:
    """Return images whose distance from their mean grey is multiplied by a factor."""
    mean = grey(image).mean((1, 2, 3), keepdim=True)
    return (mean + (image - mean) * factor).clamp_(0, 1)


def scale_saturation(image: Tensor, factor: Tensor) -> Tensor:
    """Return images whose pixels' distance from their grey is multiplied by a factor."""
    luma = grey(image)
    return (luma + (image - luma) * factor).clamp_(0, 1)


def turn_hue(image: Tensor, turn: Tensor) -> Tensor:
    """Return images whose hue of HSV is turned by a share of the circle; saturation and value stay."""
    value, low = image.amax(1, keepdim=True), image.amin(1, keepdim=True)
    span = value - low
    red, green, blue = image.split(1, 1)
    sector = torch.where(
        value == red,
        (green - blue),
        torch.where(value == green, blue - red + 2 * span, red - green + 4 * span),
    ) / torch.where(span > 0, span, 1.0)
    hue = sector + 6 * turn
    # How far each channel is below the value, in spans: 0 within a sixth of the circle of its own colour.
    below = [(hue + offset).remainder_(6.0).sub_(3.0).abs_().sub_(1.0).clamp_(0, 1) for offset in (0.0, 4.0, 2.0)]
    return torch.cat([share.mul_(span).add_(low) for share in below], 1)


_CHANGES: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    scale_brightness,
    scale_contrast,
    scale_saturation,
    turn_hue,
)


def colour_jitter(
    image: Tensor, amounts: tuple[float, float, float, float], probability: float, shared: Shared
) -> Tensor:
    """Return images, a share of them with other brightness, contrast, saturation, hue, each in an order of its own.

    Parameters
    ----------
    image : (B, 3, H, W)
    amounts : (brightness, contrast, saturation, hue)
        The first three are factors within 1 +- amount; hue turns by up to its share of the circle.
    probability : float
    shared : Shared
    """
    count = len(image)
    centres = (1.0, 1.0, 1.0, 0.0)
    factors = [_uniform(count, c - a, c + a, shared, image) for c, a in zip(centres, amounts, strict=True)]
    order = shared.rand(count, len(_CHANGES)).argsort(1)
    order[shared.rand(count) >= probability] = -1
    if not image.numel():
        return image
    changed = image.clone()
    for turn in order.T:
        for which, change in enumerate(_CHANGES):
            rows = (turn == which).nonzero().flatten().to(image.device, non_blocking=True)
            if len(rows) and amounts[which] > 0:
                changed[rows] = change(changed[rows], factors[which][rows])
    return changed


def blur(image: Tensor, sigma: tuple[float, float], probability: float, shared: Shared) -> Tensor:
    """Return images, a share of them blurred by a Gaussian whose standard deviation in pixels is drawn from a range."""
    width_of = _uniform(len(image), *sigma, shared, image)
    rows = (shared.rand(len(image)) < probability).nonzero().flatten()
    if not len(rows) or not image.numel():
        return image
    rows = rows.to(image.device, non_blocking=True)
    sharp = image[rows]
    count, channels, height, width = sharp.shape
    radius = max(1, math.ceil(3 * sigma[1]))
    offsets = torch.arange(-radius, radius + 1, device=image.device, dtype=image.dtype).view(1, 1, 1, -1)
    kernel = torch.exp(-0.5 * (offsets / width_of[rows]) ** 2)
    kernel = (kernel / kernel.sum(3, keepdim=True)).repeat_interleave(channels, 0)
    flat = F.pad(sharp.reshape(1, -1, height, width), [radius] * 4, mode="reflect")
    flat = F.conv2d(flat, kernel, groups=count * channels)
    flat = F.conv2d(flat, kernel.transpose(2, 3), groups=count * channels)
    return image.index_copy(0, rows, flat.view_as(sharp))


def labelled_view(image: Tensor, mask: Tensor, settings: TrainSettings, shared: Shared) -> tuple[Tensor, Tensor]:
    """Return the training view of labelled images: flips, rotation, brightness and contrast (arXiv 2606.01753)."""
    both = flip(torch.cat([image, mask], 1), shared)
    image, mask = rotate(both[:, :3], both[:, 3:], settings.rotation, settings.rotation_p, shared)
    if mask.shape[1] > 1:
        mask[:, :1] = 1.0 - mask[:, 1:].sum(1, keepdim=True)  # the border is background
    return brightness_contrast(image, settings.brightness, settings.brightness_p, shared), mask


def strong_view(image: Tensor, settings: TrainSettings, shared: Shared) -> Tensor:
    """Return a strong view, aligned with its input: colour jitter, grey, blur (UniMatch, arXiv 2208.09910).

    Of images without pixels the same numbers are drawn, and nothing is computed.
    """
    image = colour_jitter(image, settings.jitter, settings.jitter_p, shared)
    image = torch.where(_chosen(len(image), settings.grey_p, shared, image), grey(image).expand_as(image), image)
    return blur(image, settings.blur_sigma, settings.blur_p, shared)


def cutmix_region(count: int, size: int, shared: Shared, device: torch.device | str = "cpu") -> Tensor:
    """Return CutMix boxes: (count, 1, size, size) bool on a device, True inside; empty with probability 0.5.

    A box has 2 to 40 % of the image's area and a ratio of height to width of 0.3 to 3.33, both uniform; ratio and place
    are drawn anew until it lies inside (UniMatch, arXiv 2208.09910, and its code).
    """
    own, generator, count = shared.rows(count), shared.generator, shared.size * count
    used = torch.rand(count, generator=generator) < 0.5
    area = (torch.rand(count, generator=generator).numpy() * 0.38 + 0.02) * size**2
    box = np.zeros((4, count), np.float32)  # top, left, height, width
    out = np.ones(count, bool)
    while out.any():  # in NumPy: so few numbers at a time take torch three times as long
        ratio, top, left = torch.rand(3, int(out.sum()), generator=generator).numpy()
        ratio = ratio * (1 / 0.3 - 0.3) + 0.3
        height, width = np.sqrt(area[out] * ratio), np.sqrt(area[out] / ratio)
        box[:, out] = np.floor([top * size, left * size, height, width])
        out = (box[0] + box[2] > size) | (box[1] + box[3] > size)
    box[2:, ~used.numpy()] = 0
    top, left, height, width = torch.from_numpy(box)[:, own, None].to(device, non_blocking=True)
    axis = torch.arange(size, device=device)
    rows = (axis >= top) & (axis < top + height)
    columns = (axis >= left) & (axis < left + width)
    return (rows[:, :, None] & columns[:, None, :]).unsqueeze(1)
