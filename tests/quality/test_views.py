"""Views of g and its weak models: what the release's parameters say."""

import math
from collections.abc import Callable

import pytest
import torch
from scipy.stats import kstest
from torch import Generator, Tensor

from qgbench.quality import views
from qgbench.quality.views import Noise, colour_view, geometric_view


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


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


def test_half_of_the_images_turn_by_up_to_twenty_degrees_alike_often() -> None:
    """The angle of a long bar, from its second moments."""
    bar = torch.zeros(600, 1, 96, 96)
    bar[:, :, 45:51, 18:78] = 1
    _, turned = geometric_view(bar.expand(-1, 3, -1, -1), bar, generator(1))
    at = torch.arange(96.0) - 47.5
    rows, columns, both = (
        (turned[:, 0] * product).sum((1, 2)) for product in (at[:, None] ** 2, at[None] ** 2, at[:, None] * at[None])
    )
    angle = 0.5 * torch.atan2(2 * both, columns - rows).rad2deg()
    moved = angle[angle.abs() > 1e-3]
    assert len(moved) / 600 == pytest.approx(0.5, abs=0.07)
    assert kstest(moved.numpy(), "uniform", args=(-20, 40)).pvalue > 1e-3
    assert float(moved.abs().max()) == pytest.approx(20, abs=0.6)


@pytest.mark.parametrize(
    ("noise", "least", "most"), [("written", math.sqrt(5) / 255, math.sqrt(25) / 255), ("library", 0.2, 0.44)]
)
def test_noise_has_the_strength_that_is_said_and_is_grey(noise: Noise, least: float, most: float) -> None:
    drawn = views._noise(noise, torch.zeros(500, 3, 40, 40), generator())
    assert drawn.shape == (500, 1, 40, 40)
    strength = drawn.std((1, 2, 3)).sort().values
    assert float(strength[0]) == pytest.approx(least, rel=0.1)
    assert float(strength[-1]) == pytest.approx(most, rel=0.1)


def test_each_change_has_its_share_of_the_images_and_its_strength(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is replaced by a step of its own size, so that the sum tells which were made."""
    asked: list[tuple[object, float]] = []

    def step(size: float) -> Callable[..., Tensor]:
        def change(image: Tensor, amount: object, probability: float, generator: Generator) -> Tensor:
            asked.append((amount, probability))
            return image + size

        return change

    monkeypatch.setattr(views, "brightness_contrast", step(0.1))
    monkeypatch.setattr(views, "colour_jitter", step(0.2))
    monkeypatch.setattr(views, "_noise", lambda noise, like, _: torch.full((len(like), 1, 1, 1), 0.4))
    image = torch.zeros(3000, 3, 1, 1)
    found = colour_view(image, "written", generator())[:, 0, 0, 0]
    assert float(found.amin()) == pytest.approx(0.3)
    assert float((found > 0.5).float().mean()) == pytest.approx(0.2, abs=0.03)
    assert asked == [(0.2, 0.5), ((0.1, 0.1, 0.1, 0.05), 0.3)]
    assert float(colour_view(image, "none", generator()).max()) == pytest.approx(0.3)
    assert not image.any()


def test_colours_stay_within_their_range() -> None:
    image = torch.rand(200, 3, 8, 8, generator=generator())
    found = colour_view(image, "library", generator())
    assert float(found.min()) == 0
    assert float(found.max()) == 1
