from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Generator, Tensor
from torchvision.transforms.v2 import functional as judges

from qgbench.data.views import (
    Shared,
    blur,
    brightness_contrast,
    colour_jitter,
    cutmix_region,
    flip,
    labelled_view,
    rotate,
    scale_brightness,
    scale_contrast,
    scale_saturation,
    strong_view,
    turn_hue,
)
from qgbench.spec.protocol import load_protocol

TRAIN = load_protocol("small").train
STILL = TRAIN.model_copy(update={"brightness": 0.0})


def seeded(seed: int = 0) -> Shared:
    return Shared(Generator().manual_seed(seed))


def drawn(seed: int, count: int = 1) -> np.ndarray:
    """The first numbers in [0, 1) that a view draws from a generator of this seed, one per image."""
    return torch.rand(count, generator=seeded(seed).generator).numpy().astype(float)


def smooth(count: int, height: int, width: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Images without sharp edges, in [low, high]."""
    noise = np.random.default_rng(5).random((count, 3, height, width))
    soft = np.stack([[ndimage.gaussian_filter(channel, 3, mode="wrap") for channel in image] for image in noise])
    soft = (soft - soft.min()) / np.ptp(soft)
    return torch.from_numpy(low + (high - low) * soft).float()


def bright_pixel(count: int, size: int) -> tuple[Tensor, np.ndarray]:
    """Grey images with one bright pixel each, at least 6 pixels from the border, and its (row, column)."""
    places = np.random.default_rng(1).integers(6, size - 6, (count, 2))
    images = torch.full((count, 3, size, size), 0.3)
    for image, (row, column) in zip(images, places, strict=True):
        image[:, row, column] = 0.8
    return images, places


def brightest(images: Tensor) -> np.ndarray:
    flat = images.sum(1).flatten(1).argmax(1).numpy()
    return np.stack(np.unravel_index(flat, images.shape[2:]), 1)


# Flips


def test_each_of_the_four_flips_occurs_and_moves_image_and_mask_alike() -> None:
    one = torch.arange(4 * 3 * 5, dtype=torch.float32).view(4, 3, 5)  # image and mask: 4 channels of an oblong picture
    pictures = [one, one.flip(2), one.flip(1), one.flip(1).flip(2)]
    flipped = flip(one.repeat(400, 1, 1, 1), seeded())
    counts = [sum(torch.equal(result, picture) for result in flipped) for picture in pictures]
    assert sum(counts) == 400
    assert min(counts) > 60  # 100 expected, standard deviation 8.7


# Rotation


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 80), (80, 48)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rotation_agrees_with_scipy(height: int, width: int, seed: int) -> None:
    image = smooth(1, height, width)
    mask = (smooth(2, height, width)[1:, :1] > 0.5).float()
    angle = (2 * drawn(seed)[0] - 1) * 40.0
    turned, turned_mask = rotate(image, mask, 40.0, 1.0, seeded(seed))
    for channel, result in zip(image[0], turned[0], strict=True):
        expected = ndimage.rotate(channel.numpy(), angle, order=1, mode="grid-constant", reshape=False)
        np.testing.assert_allclose(result.numpy(), expected, atol=1e-4)
    expected_mask = ndimage.rotate(mask[0, 0].numpy(), angle, order=0, mode="grid-constant", reshape=False)
    # A pixel that falls between two pixels to within rounding may take either.
    assert np.mean(turned_mask[0, 0].numpy() != expected_mask) < 1e-3


def test_every_image_of_a_batch_is_rotated_by_its_own_angle() -> None:
    image, mask = smooth(1, 32, 32).repeat(6, 1, 1, 1), torch.ones(6, 1, 32, 32)
    turned, _ = rotate(image, mask, 90.0, 1.0, seeded())
    for angle, result in zip((2 * drawn(0, 6) - 1) * 90.0, turned, strict=True):
        expected = ndimage.rotate(image[0, 0].numpy(), angle, order=1, mode="grid-constant", reshape=False)
        np.testing.assert_allclose(result[0].numpy(), expected, atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (40, 88)])
def test_rotation_moves_image_and_masks_together(height: int, width: int) -> None:
    mask = torch.zeros(8, 1, height, width)
    mask[:, :, 12:20, 14:26] = 1
    image = mask.repeat(1, 3, 1, 1)
    turned, turned_mask = rotate(image, torch.cat([mask, 1 - mask], 1), 20.0, 1.0, seeded())
    first, second = turned_mask[:, :1], turned_mask[:, 1:]
    assert not torch.equal(first, mask)
    assert float(((turned[:, :1] > 0.5) != (first > 0.5)).float().mean()) < 0.003
    assert not bool((first * second).any())  # two masks that exclude each other still do


def test_rotation_by_zero_degrees_is_the_identity() -> None:
    image, mask = smooth(2, 32, 48), (smooth(2, 32, 48)[:, :1] > 0.5).float()
    turned, turned_mask = rotate(image, mask, 0.0, 1.0, seeded())
    torch.testing.assert_close(turned, image, atol=1e-5, rtol=0)
    assert torch.equal(turned_mask, mask)


def test_image_and_mask_are_empty_where_the_rotation_looks_beyond_the_image() -> None:
    image, mask = torch.full((8, 3, 64, 64), 0.7), torch.ones(8, 1, 64, 64)
    turned, turned_mask = rotate(image, mask, 45.0, 1.0, seeded())
    visibly = torch.from_numpy(abs(2 * drawn(0, 8) - 1) * 45.0 > 5)
    assert int(visibly.sum()) > 4
    assert bool((turned_mask[visibly, 0, 0, 0] == 0).all())
    assert bool((turned[visibly, :, 0, 0] == 0).all())
    assert bool((turned_mask[:, 0, 32, 32] == 1).all())


# Brightness, contrast, colour


def test_brightness_and_contrast_against_the_formula() -> None:
    image = smooth(3, 16, 16, 0.2, 0.8)
    numbers = torch.rand(6, generator=seeded(4).generator).numpy().astype(float)
    contrast, brightness = 0.3 * (2 * numbers[:3] - 1), 0.3 * (2 * numbers[3:] - 1)
    result = brightness_contrast(image, 0.3, 1.0, seeded(4)).numpy()
    for index, pixels in enumerate(image.numpy().astype(float)):
        expected = pixels * (1 + contrast[index]) + brightness[index]
        np.testing.assert_allclose(result[index], expected.clip(0, 1), atol=1e-5)


FACTORS = torch.tensor([0.3, 0.8, 1.0, 1.4]).view(4, 1, 1, 1)
TURNS = torch.tensor([-0.45, -0.1, 0.0, 0.3]).view(4, 1, 1, 1)


@pytest.mark.parametrize(
    ("change", "judge", "values"),
    [
        (scale_brightness, judges.adjust_brightness, FACTORS),
        (scale_contrast, judges.adjust_contrast, FACTORS),
        (scale_saturation, judges.adjust_saturation, FACTORS),
        (turn_hue, judges.adjust_hue, TURNS),
    ],
    ids=["brightness", "contrast", "saturation", "hue"],
)
def test_each_change_of_colour_is_that_of_torchvision(
    change: Callable[[Tensor, Tensor], Tensor], judge: Callable[[Tensor, float], Tensor], values: Tensor
) -> None:
    noise = torch.rand(4, 3, 24, 24, generator=seeded(2).generator)
    few = (noise * 2).round() / 2  # equal channels, black and white among them
    for image in (smooth(4, 24, 24), noise, few):
        for value, before, after in zip(values.flatten().tolist(), image, change(image, values), strict=True):
            torch.testing.assert_close(after, judge(before, value), atol=2e-4, rtol=0)


def test_jitter_changes_its_share_of_images() -> None:
    image = smooth(1, 12, 12).repeat(600, 1, 1, 1)
    changed = (colour_jitter(image, (0.5, 0.5, 0.5, 0.25), 0.8, seeded()) != image).flatten(1).any(1)
    assert abs(float(changed.float().mean()) - 0.8) < 0.07  # four standard deviations


def test_a_jitter_is_that_of_torchvision_in_the_order_that_is_drawn() -> None:
    image = 0.3 + 0.4 * smooth(40, 24, 24)
    found = colour_jitter(image, (0.5, 0.4, 0.3, 0.25), 1.0, seeded(1))
    again = seeded(1).generator
    factors = (2 * torch.rand(4, 40, generator=again) - 1) * torch.tensor([0.5, 0.4, 0.3, 0.25])[:, None]
    order = torch.rand(40, 4, generator=again).argsort(1)
    changes = (judges.adjust_brightness, judges.adjust_contrast, judges.adjust_saturation, judges.adjust_hue)
    for one, own, places, amount in zip(found, image, order.tolist(), factors.T.tolist(), strict=True):
        expected = own
        for place in places:
            expected = changes[place](expected, amount[3] if place == 3 else 1 + amount[place])
        torch.testing.assert_close(one, expected, atol=1e-3, rtol=0)  # its grey has weights of four digits
    assert len({tuple(places) for places in order.tolist()}) > 15


def test_grey_images_have_no_colour_to_jitter() -> None:
    pictures = smooth(4, 16, 16)[:, :1].repeat(1, 3, 1, 1)
    torch.testing.assert_close(colour_jitter(pictures, (0, 0, 0.9, 0.5), 1.0, seeded()), pictures, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "change",
    [
        lambda image: brightness_contrast(image, 0.0, 1.0, seeded()),
        lambda image: brightness_contrast(image, 0.5, 0.0, seeded()),
        lambda image: colour_jitter(image, (0, 0, 0, 0), 1.0, seeded()),
        lambda image: blur(image, (0.1, 2.0), 0.0, seeded()),
    ],
    ids=["no change", "no image", "no jitter", "blur of no image"],
)
def test_an_amount_or_share_of_zero_is_the_identity(change: Callable[[Tensor], Tensor]) -> None:
    image = smooth(3, 16, 16)
    torch.testing.assert_close(change(image), image, atol=1e-5, rtol=0)


# Blur


@pytest.mark.parametrize(("height", "width"), [(96, 96), (32, 64)])
def test_blur_agrees_with_scipy(height: int, width: int) -> None:
    image = torch.rand(2, 3, height, width, generator=seeded(9).generator)
    result = blur(image, (0.1, 2.0), 1.0, seeded(7))
    for number, before, after in zip(drawn(7, 2), image, result, strict=True):
        for channel, blurred in zip(before.numpy().astype(float), after.numpy(), strict=True):
            expected = ndimage.gaussian_filter(channel, 0.1 + 1.9 * number, mode="mirror", radius=6)
            np.testing.assert_allclose(blurred, expected, atol=1e-5)


def test_blur_takes_the_share_of_images_that_is_asked_for_and_leaves_the_others_alone() -> None:
    image = torch.rand(1, 3, 16, 16, generator=seeded().generator).repeat(400, 1, 1, 1)
    untouched = (blur(image, (1.0, 2.0), 0.25, seeded()) == image).flatten(1).all(1).float().mean()
    assert abs(float(untouched) - 0.75) < 0.09  # four standard deviations


# Whole views


def test_the_labelled_view_keeps_masks_binary_and_aligned() -> None:
    mask = torch.zeros(32, 1, 64, 64)
    mask[:, :, 10:30, 15:40] = 1
    image, turned = labelled_view(mask.repeat(1, 3, 1, 1) * 0.5 + 0.2, mask, STILL, seeded())
    assert set(turned.unique().tolist()) == {0.0, 1.0}
    assert float(((image[:, :1] > 0.45) == (turned > 0.5)).float().mean()) > 0.995
    assert len({tuple(place) for place in brightest(turned).tolist()}) > 8  # views differ from each other
    assert 0.0 <= float(image.min()) <= float(image.max()) <= 1.0


@pytest.mark.parametrize("size", [32, 96, 224])
def test_the_strong_view_never_moves_a_bright_pixel(size: int) -> None:
    images, places = bright_pixel(24, size)
    strong = strong_view(images, TRAIN, seeded())
    assert not torch.allclose(strong, images, atol=0.05)
    assert np.array_equal(brightest(strong), places)
    excess = (strong - strong[:, :, :1, :1]).sum(1).numpy()  # above the ground, whose corner no blur reaches
    centres = np.array([ndimage.center_of_mass(picture) for picture in excess])
    np.testing.assert_allclose(centres, places, atol=0.02)


def test_the_strong_view_stays_in_range_and_differs_between_calls() -> None:
    images = torch.rand(24, 3, 32, 32, generator=seeded().generator).round()  # black and full colours
    generator = seeded(1)
    first, second = strong_view(images, TRAIN, generator), strong_view(images, TRAIN, generator)
    assert 0.0 <= float(first.min()) <= float(first.max()) <= 1.0
    assert not torch.equal(first, second)


# CutMix


def test_cutmix_regions_are_rectangles_of_the_stated_area_and_ratio_and_half_are_empty() -> None:
    size = 96
    regions = cutmix_region(1000, size, seeded())
    assert regions.shape == (1000, 1, size, size)
    assert regions.dtype == torch.bool
    shares, ratios = [], []
    for region in regions[:, 0].numpy():
        if not region.any():
            continue
        rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert height * width == region.sum()
        assert 0.02 * size**2 - height - width <= region.sum() <= 0.40 * size**2  # sides are cut to whole pixels
        assert 0.3 * width - 1 <= height <= (width + 1) / 0.3
        shares.append(region.mean())
        ratios.append(height / width)
    assert abs(len(shares) - 500) < 64  # four standard deviations
    assert min(shares) < 0.04
    assert max(shares) > 0.36
    assert np.mean(np.array(ratios) > 1) > 0.6  # the ratio is uniform, so that tall boxes are the more frequent


def test_cutmix_regions_reach_every_border() -> None:
    regions = cutmix_region(1000, 32, seeded())[:, 0]
    for edge in (regions[:, 0], regions[:, -1], regions[:, :, 0], regions[:, :, -1]):
        assert bool(edge.any())


# Random numbers

VIEWS: dict[str, Callable[[Shared], tuple[Tensor, ...]]] = {
    "flip": lambda generator: (flip(smooth(8, 16, 16), generator),),
    "rotate": lambda generator: rotate(smooth(8, 16, 16), torch.ones(8, 1, 16, 16), 20.0, 0.5, generator),
    "labelled_view": lambda generator: labelled_view(smooth(8, 16, 16), torch.ones(8, 1, 16, 16), TRAIN, generator),
    "strong_view": lambda generator: (strong_view(smooth(8, 16, 16), TRAIN, generator),),
    "cutmix_region": lambda generator: (cutmix_region(8, 16, generator),),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_views_depend_on_their_generator_alone(view: Callable[[Shared], tuple[Tensor, ...]]) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = view(seeded(3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert all(torch.equal(a, b) for a, b in zip(first, view(seeded(3)), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, view(seeded(4)), strict=True))
