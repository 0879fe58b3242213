"""Views of g and its weak models, against torchvision and what the release's parameters say."""

import math

import pytest
import torch
from torch import Generator, Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as judge

from qgbench.quality import views
from qgbench.quality.views import Noise, adjust_hue, colour_view, geometric_view


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def images(count: int, seed: int = 0) -> Tensor:
    """Colours within the middle of the range, grey and pure ones among them."""
    image = 0.3 + 0.4 * torch.rand(count, 3, 24, 32, generator=generator(seed))
    image[:, :, :4] = image[:, :1, :4]
    image[:, :, 4:8] = (image[:, :, 4:8] > 0.5).float()
    return image


def test_flips_and_rotations_move_image_and_mask_alike() -> None:
    mask = torch.zeros(200, 1, 64, 64)
    mask[:, :, 10:30, 20:50] = 1
    image, turned = geometric_view(mask.expand(-1, 3, -1, -1), mask, generator())
    agree = (image[:, :1] > 0.5) == (turned > 0.5)
    assert float(agree.float().mean()) > 0.999
    flips = [mask[0], mask[0].flip(1), mask[0].flip(2), mask[0].flip(1, 2)]
    straight = [sum(torch.equal(one, flipped) for one in turned) / 200 for flipped in flips]
    assert straight == pytest.approx([0.125] * 4, abs=0.1)
    assert sum(straight) == pytest.approx(0.5, abs=0.15)


def test_a_rotation_is_torchvisions_and_brings_in_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "flip", lambda stack, _: stack)
    image = images(20)
    image[:, :, :, :3] = 1
    mask = (image[:, :1] > 0.5).float()
    found, found_mask = geometric_view(image, mask, generator(3))
    again = generator(3)
    drawn = torch.rand(20, generator=again) < 0.5
    angles = (2 * torch.rand(20, generator=again) - 1) * 20 * drawn
    assert float(angles.abs().max()) > 15
    for row, angle in enumerate(angles.tolist()):
        expected = judge.rotate(image[row], angle, InterpolationMode.BILINEAR)
        expected_mask = judge.rotate(mask[row], angle, InterpolationMode.NEAREST)
        torch.testing.assert_close(found[row], expected, atol=1e-3, rtol=0)
        assert float((found_mask[row] != expected_mask).float().mean()) < 0.01  # pixels on the edge between two


def test_brightness_and_contrast_are_x_times_one_plus_u_plus_u() -> None:
    image = torch.tensor([0.4, 0.5]).view(1, 1, 1, 2).expand(2000, 3, 1, 2)
    low, high = views._brightness_contrast(image, generator())[:, 0, 0].T
    slope, offset = (high - low) / 0.1 - 1, high - 0.5 * (high - low) / 0.1
    for change in (slope, offset):
        assert float(change.abs().max()) == pytest.approx(0.2, abs=0.005)
        assert float(change.std()) == pytest.approx(0.2 / math.sqrt(3), rel=0.05)
    assert abs(float(torch.corrcoef(torch.stack([slope, offset]))[0, 1])) < 0.1


@pytest.mark.parametrize("by", [-0.3, -0.05, 0.0, 0.02, 0.5])
def test_the_hue_is_turned_as_torchvision_turns_it(by: float) -> None:
    image = images(6)
    expected = judge.adjust_hue(image, by)
    torch.testing.assert_close(adjust_hue(image, torch.full((6, 1, 1, 1), by)), expected, atol=1e-5, rtol=0)


def test_a_jitter_is_torchvisions_in_the_order_that_is_drawn() -> None:
    image = images(40)
    found = views._jitter(image.clone(), generator(1))
    again = generator(1)
    order = torch.rand(40, 4, generator=again).argsort(1)
    amounts = 2 * torch.rand(40, 4, generator=again) - 1
    for one, own, places, amount in zip(found, image, order.tolist(), amounts.tolist(), strict=True):
        expected = own
        for place in places:
            change = (judge.adjust_brightness, judge.adjust_contrast, judge.adjust_saturation, judge.adjust_hue)[place]
            expected = change(expected, 0.05 * amount[3] if place == 3 else 1 + 0.1 * amount[place])
        torch.testing.assert_close(one, expected, atol=2e-4, rtol=0)  # torchvision's grey has weights of four digits
    assert len({tuple(places) for places in order.tolist()}) > 15


@pytest.mark.parametrize(
    ("noise", "least", "most"), [("written", math.sqrt(5) / 255, math.sqrt(25) / 255), ("library", 0.2, 0.44)]
)
def test_noise_has_the_strength_that_is_said_and_is_grey(noise: Noise, least: float, most: float) -> None:
    drawn = views._noise(noise, 500, torch.zeros(1, 3, 40, 40), generator())
    assert drawn.shape == (500, 1, 40, 40)
    strength = drawn.std((1, 2, 3)).sort().values
    assert float(strength[0]) == pytest.approx(least, rel=0.1)
    assert float(strength[-1]) == pytest.approx(most, rel=0.1)


def test_each_change_has_its_share_of_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is replaced by a step of its own size, so that the sum tells which were made."""
    monkeypatch.setattr(views, "_brightness_contrast", lambda image, _: image + 0.1)
    monkeypatch.setattr(views, "_jitter", lambda image, _: image + 0.2)
    monkeypatch.setattr(views, "_noise", lambda noise, count, like, _: torch.full((count, 1, 1, 1), 0.4))
    image = torch.zeros(3000, 3, 1, 1)
    made = (colour_view(image, "written", generator())[:, 0, 0, 0] * 10).round().long()
    shares = [float(((made >> bit) & 1).float().mean()) for bit in range(3)]
    assert shares == pytest.approx([0.5, 0.3, 0.2], abs=0.04)
    without = (colour_view(image, "none", generator())[:, 0, 0, 0] * 10).round().long()
    assert int(without.max()) == 3
    assert not image.any()


def test_colours_stay_within_their_range() -> None:
    image = torch.rand(200, 3, 8, 8, generator=generator())
    found = colour_view(image, "library", generator())
    assert float(found.min()) == 0
    assert float(found.max()) == 1
