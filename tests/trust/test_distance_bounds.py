"""Distances of all small masks, and of many larger ones, are possible; those beyond closed forms are not."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from qgbench.metrics.masks import measure
from qgbench.trust.distance_bounds import possible_distances

Pair = tuple[np.ndarray, np.ndarray, tuple[float, ...]]
KINDS = {"hd95": "pooled", "hd95_max": "max", "assd": ""}


def every(shape: tuple[int, ...]) -> list[np.ndarray]:
    pixels = int(np.prod(shape))
    return [np.array(bits, bool).reshape(shape) for bits in itertools.product([0, 1], repeat=pixels) if any(bits)]


def blobs() -> Iterator[Pair]:
    """Blobs, noise, rings, corners and stray pixels, alike and not, of pictures and volumes with spacing."""
    stream = np.random.default_rng(0)
    for number in range(400):
        spacing = (1.0, 1.0) if number % 2 else tuple(stream.uniform(0.3, 5, 3))
        shape = tuple(stream.integers(1, 40 if number % 2 else 12, len(spacing)))
        smooth = [gaussian_filter(stream.normal(size=shape), stream.choice([0, 1, 4])) for _ in range(2)]
        ref = smooth[0] >= np.quantile(smooth[0], stream.choice([0, 0.02, 0.5, 0.9, 1]))
        pred = smooth[1] >= np.quantile(smooth[1], stream.choice([0, 0.02, 0.5, 0.9, 1]))
        alike = ref.copy()
        alike[tuple(stream.integers(0, side) for side in shape)] ^= True
        corner = np.zeros(shape, bool)
        corner[(0,) * len(shape)] = True
        far = np.zeros(shape, bool)
        far[(-1,) * len(shape)] = True
        for one, other in (
            (ref, pred),
            (ref, alike),
            (corner, far),
            (ref, corner),
            (~corner, far),
            (ref, np.ones_like(ref)),
        ):
            if one.any() and other.any():
                yield one, other, spacing


def is_possible(pair: Pair) -> dict[str, bool]:
    pred, ref, spacing = pair
    found = measure(pred, ref, spacing)
    return {name: judged(getattr(found, name), name, pair) for name in KINDS}


def judged(distance: float, name: str, pair: Pair) -> bool:
    pred, ref, spacing = pair
    counts = [np.array([float(mask.sum())]) for mask in (ref, pred, ref & pred)]
    sides, spaces = (np.array(values, float)[:, None] for values in (ref.shape, spacing))
    return bool(possible_distances(np.array([distance]), KINDS[name], *counts, sides, spaces)[0])


@pytest.mark.parametrize("shape", [(1, 5), (2, 3), (2, 1, 3)])
def test_every_pair_of_small_masks_has_possible_distances(shape: tuple[int, ...]) -> None:
    spacing = tuple(np.linspace(1, 2.5, len(shape)))
    for ref, pred in itertools.product(every(shape), repeat=2):
        assert all(is_possible((pred, ref, spacing)).values()), (pred, ref)


def test_distances_of_larger_masks_are_possible() -> None:
    pairs = list(blobs())
    assert len(pairs) > 2000
    for pair in pairs:
        assert all(is_possible(pair).values()), pair


def square(side: int, begin: int = 0) -> np.ndarray:
    mask = np.zeros((100, 100), bool)
    mask[begin : begin + side, begin : begin + side] = True
    return mask


def test_a_large_mask_leaves_no_room_for_a_large_distance() -> None:
    pair = square(95), square(94), (1.0, 1.0)
    assert judged(1.0, "hd95", pair)
    for name in KINDS:  # 100^2 - 95^2 pixels hold no quarter of a disc of radius 80, 95^2 hold no disc of it
        assert judged(40.0, "hd95", pair)
        assert not judged(80.0, name, pair)


def test_one_pixel_that_differs_moves_no_twentieth_of_long_borders() -> None:
    one = square(100)
    other = one.copy()
    other[50, 50] = False
    assert is_possible((one, other, (1.0, 1.0))) == dict.fromkeys(KINDS, True)
    for name in ("hd95", "hd95_max"):
        assert judged(0.0, name, (one, other, (1.0, 1.0)))
        assert judged(1.0, name, (one[:20, :20], other[40:60, 40:60], (1.0, 1.0)))
    wide = np.ones((800, 800), bool)
    holed = wide.copy()
    holed[400, 400] = False
    assert not judged(3.0, "hd95", (wide, holed, (1.0, 1.0)))
    assert not judged(3.0, "hd95_max", (wide, holed, (1.0, 1.0)))


def test_the_border_of_a_large_mask_is_not_all_near_one_pixel() -> None:
    one = np.zeros((100, 100), bool)
    one[50, 50] = True
    for spacing in ((1.0, 1.0), (0.5, 0.5)):
        pair = square(60, 20), one, spacing
        assert is_possible(pair) == dict.fromkeys(KINDS, True)
        for name in ("hd95", "hd95_max"):  # 60 border pixels at least; nine lie within a pixel of one
            assert not judged(1.4 * spacing[0], name, pair)
            assert judged(4.0 * spacing[0], name, pair)
