import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter

from qgbench.data.duplicates import (
    CANDIDATE,
    LIMIT,
    Fingerprint,
    agreement,
    detail_of,
    fingerprint,
    near_pairs,
    similar_pairs,
    similarity,
    waves_of,
)


def picture(seed: int, size: tuple[int, int] = (120, 160)) -> np.ndarray:
    """A picture with coarse and fine detail, like no other of another seed: (H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    layers = [gaussian_filter(rng.standard_normal((*size, 3)), (sigma, sigma, 1)) for sigma in (2, 6, 15)]
    detail = sum(weight * layer / layer.std() for weight, layer in zip((0.3, 1, 0.7), layers, strict=True))
    return np.clip(128 + 35 * detail, 0, 255).astype(np.uint8)


def of_pair(a: Fingerprint, b: Fingerprint) -> float:
    return float(similarity(a.waves[None], b.waves[None])[0])


def found_in(images: list[np.ndarray], first: int | None = None) -> list[tuple[int, int]]:
    """The near copies among pictures."""
    waves = np.array([waves_of(detail_of(image)) for image in images])
    return [(i, j) for i, j, _ in near_pairs(waves, lambda index: detail_of(images[index]), first)]


def transposed(image: np.ndarray) -> list[np.ndarray]:
    """The 8 ways to lay down a picture."""
    return [np.ascontiguousarray(np.rot90(side, turn)) for side in (image, image[:, ::-1]) for turn in range(4)]


# Fingerprints


def test_equal_pixels_have_equal_hashes() -> None:
    assert fingerprint(picture(1)).pixels == fingerprint(picture(1).copy()).pixels


def test_one_changed_value_changes_the_hash() -> None:
    changed = picture(1)
    changed[-1, -1, 2] ^= 1
    assert fingerprint(changed).pixels != fingerprint(picture(1)).pixels


def test_the_same_bytes_in_another_shape_are_another_picture() -> None:
    image = picture(1)
    assert fingerprint(image.reshape(160, 120, 3)).pixels != fingerprint(image).pixels


def test_an_image_that_is_not_contiguous_in_memory_counts_by_its_pixels() -> None:
    mirrored = picture(1)[:, ::-1]
    assert fingerprint(mirrored).pixels == fingerprint(np.ascontiguousarray(mirrored)).pixels


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (31, 33)])
def test_small_images_have_fingerprints(size: tuple[int, int]) -> None:
    found = fingerprint(picture(1, size))
    assert found.waves.shape == (16, 16)
    assert np.isfinite(found.waves).all()


# Similarity


@pytest.mark.parametrize("turn", range(8))
def test_a_picture_is_found_however_it_is_laid_down(turn: int) -> None:
    image = picture(2)
    assert of_pair(fingerprint(image), fingerprint(transposed(image)[turn])) == pytest.approx(1, abs=1e-3)


def test_similarity_is_the_best_of_eight_inner_products() -> None:
    a = fingerprint(picture(3))
    for seed in range(4, 16):
        products = [float((a.waves * fingerprint(image).waves).sum()) for image in transposed(picture(seed))]
        assert of_pair(a, fingerprint(picture(seed))) == pytest.approx(max(products), abs=5e-3)


def encoded(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=60)
    return Image.open(buffer).convert("RGB")


def smaller(image: Image.Image) -> Image.Image:
    return image.resize((round(0.7 * image.width), round(0.7 * image.height)))


def adjusted(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Image.Image], Image.Image]:
    return lambda image: Image.fromarray(np.clip(change(np.asarray(image) / 255) * 255, 0, 255).astype(np.uint8))


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG of quality 60": encoded,
    "70 % of the size": smaller,
    "brighter": adjusted(lambda values: 1.1 * values),
    "gamma": adjusted(lambda values: values**0.8),
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "quarter turn": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "margin lost": lambda image: image.crop((1, 1, image.width - 1, image.height - 1)),
    "all at once": lambda image: encoded(smaller(image).transpose(Image.Transpose.ROTATE_270)),
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_are_similar(name: str) -> None:
    for seed in range(20):
        original = picture(seed)
        copy = np.asarray(COPIES[name](Image.fromarray(original)))
        assert found_in([original, copy]) == [(0, 1)]


def test_pictures_are_not_similar() -> None:
    assert found_in([picture(seed) for seed in range(60)]) == []


def test_the_next_frame_of_a_moving_camera_is_another_picture() -> None:
    wide = picture(5, (120, 200))
    first, moved = fingerprint(wide[:, :160]), fingerprint(wide[:, 5:165])
    assert 0.7 < of_pair(first, moved) < CANDIDATE


# Detail


def photograph(seed: int) -> np.ndarray:
    """The back of an eye: a disc with a bright spot, laid out as all others, and vessels of its own."""
    rng = np.random.default_rng(seed)
    side = 240
    y, x = np.mgrid[:side, :side] - side / 2
    spot = 120 * np.exp(-((y**2 + (x + 55) ** 2) / 150))
    vessels = np.zeros((side, side))
    for _ in range(14):
        angles = rng.uniform(-np.pi, np.pi) + np.cumsum(rng.normal(0, 0.06, 200))
        at = np.stack([120 + np.cumsum(np.sin(angles)), 65 + np.cumsum(np.cos(angles))]).astype(int).clip(0, side - 1)
        vessels[*at] = 1
    dark = 1 - 0.5 * (blurred := gaussian_filter(vessels, 1.5)) / blurred.max()
    eye = np.where(np.hypot(y, x) < 0.46 * side, (130 + spot) * dark, 0) + rng.normal(0, 2, (side, side))
    return np.repeat(eye.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def test_photographs_of_other_eyes_are_alike_at_a_glance_and_not_in_detail() -> None:
    eyes = [photograph(seed) for seed in range(8)]
    waves = np.array([waves_of(detail_of(eye)) for eye in eyes])
    assert len(list(similar_pairs(waves, 0.97))) > 5
    assert found_in(eyes) == []


@pytest.mark.parametrize("name", COPIES)
def test_a_photograph_that_was_saved_anew_is_found_among_those_of_other_eyes(name: str) -> None:
    eyes = [photograph(seed) for seed in range(4)]
    assert found_in([*eyes, np.asarray(COPIES[name](Image.fromarray(eyes[2])))]) == [(2, 4)]


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image.crop((4, 3, image.width - 4, image.height - 3)),  # 5 % of either side
        lambda image: image.rotate(3, Image.Resampling.BICUBIC),
    ],
)
def test_crops_and_turns_are_undone_before_detail_is_compared(change: Callable[[Image.Image], Image.Image]) -> None:
    for seed in range(5):
        original = picture(seed)
        changed = np.asarray(change(Image.fromarray(original)))
        assert agreement(detail_of(original), detail_of(changed)) > LIMIT


def test_the_detail_of_a_flat_image_agrees_with_nothing() -> None:
    flat = np.full((96, 96), 7, np.uint8)
    assert agreement(flat, flat) == agreement(flat, detail_of(picture(1))) == 0


# Search


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), limit=st.sampled_from([0.3, 0.6, 0.9]))
def test_every_pair_above_the_limit_is_found(seed: int, limit: float) -> None:
    rng = np.random.default_rng(seed)
    base = rng.standard_normal((8, 16, 16)) / (1 + np.hypot(*np.mgrid[:16, :16]))
    waves = (
        base[rng.integers(8, size=40)] + rng.uniform(0, 0.3, (40, 1, 1)) * rng.standard_normal((40, 16, 16))
    ).astype(np.float32)
    signs = rng.choice([-1, 1], size=(40, 2))  # mirrored at random
    odd = np.arange(16) % 2 == 1
    waves *= np.where(odd, signs[:, :1], 1)[:, :, None] * np.where(odd, signs[:, 1:], 1)[:, None, :]
    waves /= np.linalg.norm(waves, axis=(1, 2), keepdims=True)
    i, j = np.triu_indices(40, 1)
    values = similarity(waves[i], waves[j])
    expected = {(a, b) for a, b, value in zip(i.tolist(), j.tolist(), values, strict=True) if value >= limit}
    found = list(similar_pairs(waves, limit))
    assert {(a, b) for a, b, _ in found} == expected
    assert len(found) == len(expected)


def test_pairs_are_found_across_the_blocks_of_the_search() -> None:
    rng = np.random.default_rng(0)
    waves = rng.standard_normal((2600, 16, 16)).astype(np.float32)
    planted = [(0, 2599), (511, 512), (1023, 1024), (3, 7), (1000, 1540)]
    for i, j in planted:
        waves[j] = waves[i].T
    waves /= np.linalg.norm(waves, axis=(1, 2), keepdims=True)
    assert sorted((i, j) for i, j, _ in similar_pairs(waves, 0.98)) == sorted(planted)


@pytest.mark.parametrize("first", [1, 512, 600])
def test_of_two_lists_only_pairs_across_are_found(first: int) -> None:
    waves = np.random.default_rng(0).standard_normal((2600, 16, 16)).astype(np.float32)
    planted = [(0, 2599), (511, 512), (1023, 1024), (3, 7), (550, 1540), (0, 1)]
    for i, j in planted:
        waves[j] = waves[i]
    waves /= np.linalg.norm(waves, axis=(1, 2), keepdims=True)
    expected = {(i, j) for i, j in [*planted, (1, 2599)] if i < first <= j}
    assert {(i, j) for i, j, _ in similar_pairs(waves, 0.98, first)} == expected


def test_images_of_one_colour_are_like_no_other() -> None:
    black, grey = (np.full((50, 60, 3), level, np.uint8) for level in (0, 128))
    assert found_in([black, grey, black]) == []


def test_nothing_is_found_in_nothing() -> None:
    assert found_in([]) == []
