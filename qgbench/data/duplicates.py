"""Copies of one picture, in any number of data sets: equal pixels, or the same picture saved anew.

The same picture saved anew is one that was compressed again, resized, made a little lighter or darker, mirrored or
turned by quarters, or that lost a narrow margin: what happens to a picture on its way from one database into another.
Another picture of the same lesion is none, nor is another frame of the same video, unless the camera hardly moved.

At a glance: each image is reduced to 32 x 32 grey values. They are faded out toward the border, which endoscopes and
dermatoscopes draw alike on all their pictures; of their cosine transform the 16 x 16 lowest frequencies are kept, the
very lowest (a dark lesion on light skin) damped, and scaled to unit length. The similarity of two images is the inner
product, the largest over the 8 ways to lay one on the other: mirroring changes signs of a cosine transform, a quarter
turn exchanges its axes besides. Every pair at `CANDIDATE` or above is found, by an upper bound.

In detail: these pairs are compared at 96 x 96 grey values. One is laid on the other (the best of the 8 ways, then an
affine map fitted from coarse to fine), and what is finer than about 4 pixels is correlated, at an even contrast. This
tells photographs of two eyes, alike in all but their vessels, from one that was saved anew. A pair at `LIMIT` or above
is one picture.

``python perf/duplicates.py`` measures this on 2,995 images of 256 pixels a side (PH2, SCD, CVC-ClinicDB, CVC-ColonDB
and parts of ISIC 2017 and Kvasir-SEG), in 4.48 million pairs, equal pixels left out: pairs that are similar enough,
by how far their detail agrees.

========================================== ===== ===== ===== ===== ===== =====
agreement at least                           any   0.5   0.6   0.7   0.8   0.9
========================================== ===== ===== ===== ===== ===== =====
frames of one video (ClinicDB, ColonDB)      252   211   167   146   101    58
pictures of one lesion (SCD)                   0     0     0     0     0     0
different groups                             106     7     2     2     2     2
========================================== ===== ===== ===== ===== ===== =====

Of different groups, looked at: the two above the limit are one picture (ISIC, agreement 0.995) and two frames of a
camera that stood still (Kvasir, 0.970); the next one has 0.59. Of 780 pairs of drawn photographs of two eyes, half have
a similarity above 0.974 (0.991 at most), none an agreement above 0.73.

Copies that are found, of 200 real images and of 40 drawn eyes (in per cent):

========================================================= ====== ======
copy                                                      real   eyes
========================================================= ====== ======
JPEG of quality 60; 70 % or half the size; brightness
+ 10 %; gamma 0.8, 1.2; mirrored; turned by a quarter;
several of these at once                                     100    100
a quarter of the size (64 pixels), JPEG of quality 60         83    100
2 % cropped, all round or from one side                      100    100
5 % cropped, all round                                        91      0
5 % cropped, from one side                                    32      0
10 % cropped, all round                                       28      0
turned by 3 degrees                                           91    100
turned by 5 degrees                                           66    100
========================================================= ====== ======

So crops of 5 % are found in most pictures, and in none that a dark frame surrounds: its edge is not where it was.

A fingerprint takes about 1 ms at 256 pixels, a second look 14 ms a pair; 80 of a million pairs of real images need
one. The search among 33,126 images takes 13 s and 49 MiB; that of 300 of them among the others 0.2 s (one core of a
busy machine).
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter, map_coordinates

CANDIDATE = 0.92  # least similarity of what is looked at a second time
LIMIT = 0.8  # least agreement of detail of one picture

_SIDE = 32  # of the reduced image, pixels
_KEPT = 16  # frequencies along each axis
_LOW = 8  # of these, those that the bound looks at one by one
_DAMPED = 4.0  # frequencies (cosine half-waves across the image) below this count less
_FLAT = 1.0  # length of a transform, in grey values, below which there is nothing to compare
_ROWS, _COLUMNS = 512, 1024  # pairs looked at in one go
_TOLERANCE = 1e-4  # of sums in single precision

_DETAIL = 96  # side of what is looked at a second time, pixels
_BANDS = (4, 2, 1)  # standard deviations of what is kept of it, pixels, coarse to fine
_WIDER = 4  # times as wide: what is taken off, and where the contrast is taken
_NOISE = 1.0  # grey levels of contrast that count for little
_STEPS = 3  # of the alignment, within each band


def _window(side: int) -> NDArray[np.float64]:
    """Return a window that fades out toward the border: (side, side), 0 to 1."""
    fade = np.sqrt(np.sin(np.pi * (np.arange(side) + 0.5) / side))
    return np.outer(fade, fade)


_WINDOW, _DETAIL_WINDOW = _window(_SIDE), _window(_DETAIL)
_GRID = np.mgrid[:_DETAIL, :_DETAIL] - (_DETAIL - 1) / 2  # of pixels, from the middle
_WEIGHTS = 1 - np.exp(-((np.hypot(*np.mgrid[:_KEPT, :_KEPT]) / _DAMPED) ** 2))


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """What of an image is compared.

    Attributes
    ----------
    pixels : bytes
        SHA-256 of height, width and RGB values: equal for equal pixels.
    waves : (16, 16) float32
        What `waves_of` gives.
    detail : (96, 96) uint8
        What `detail_of` gives.
    """

    pixels: bytes
    waves: NDArray[np.float32]
    detail: NDArray[np.uint8]


def fingerprint(image: NDArray[np.uint8]) -> Fingerprint:
    """Return the fingerprint of an image: (H, W, 3) uint8, RGB."""
    pixels = hashlib.sha256(repr(image.shape).encode())
    pixels.update(np.ascontiguousarray(image).data)
    detail = detail_of(image)
    return Fingerprint(pixels.digest(), waves_of(detail), detail)


def detail_of(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the grey values of an image (H, W, 3), reduced: (96, 96)."""
    return np.asarray(Image.fromarray(image).convert("L").resize((_DETAIL, _DETAIL), Image.Resampling.BILINEAR))


def waves_of(detail: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the weighted cosine transform of a reduced image (`detail_of`), of unit length: (16, 16).

    Zero for an image of one colour, which is like no other.
    """
    small = Image.fromarray(detail).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    grey = np.asarray(small, dtype=np.float64)
    contrast = (grey - np.average(grey, weights=_WINDOW)) * _WINDOW
    waves = dctn(contrast, norm="ortho")[:_KEPT, :_KEPT] * _WEIGHTS
    length = np.linalg.norm(waves)
    unit = waves / length if length > _FLAT else np.zeros_like(waves)
    return unit.astype(np.float32)


def similarity(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return how alike the images of each pair are at a glance.

    Parameters
    ----------
    a, b : (N, 16, 16) float32
        `Fingerprint.waves` of the one and the other image of each pair.

    Returns
    -------
    (N,) float32
        -1 to 1, and 1 for one picture, mirrored or turned by quarters as it may be.
    """
    best = np.full(len(a), -1, dtype=np.float32)
    halves = (-1, _KEPT // 2, 2, _KEPT // 2, 2)
    for turned in (b, b.swapaxes(1, 2)):
        # Sums over frequencies that are even or odd along either axis. Mirroring negates the odd ones of an axis.
        sums = np.einsum("nuivj,nuivj->ijn", a.reshape(halves), turned.reshape(halves))
        (even, across), (down, both) = sums
        best = np.maximum(best, even + both + np.abs(down + across))
        best = np.maximum(best, even - both + np.abs(down - across))
    return best


def agreement(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Return how far the details of two images agree when they are laid on each other as well as can be.

    Parameters
    ----------
    a, b : (96, 96) uint8
        What `detail_of` gives.

    Returns
    -------
    float
        Correlation, -1 to 1: about 0 for two pictures that share nothing but their layout.
    """
    b = max((np.rot90(side, turn) for side in (b, b.T) for turn in range(4)), key=lambda laid: _correlation(a, laid))
    affine: NDArray[np.float64] = np.eye(2, 3)
    for sigma in _BANDS:
        kept = (slice(sigma // 2, None, sigma),) * 2  # a coarse band is smooth: every sigma-th pixel tells all
        one, other = _band(a, sigma), _band(b, sigma)
        down, across = np.array(np.gradient(one))[:, *kept]
        y, x = _GRID[:, *kept]
        slopes = np.stack([down * y, down * x, down, across * y, across * x, across]).reshape(6, -1)
        weighted = slopes * _DETAIL_WINDOW[kept].ravel()
        solve = np.linalg.pinv(weighted @ slopes.T) @ weighted
        for _ in range(_STEPS):  # Gauss-Newton, as Lucas and Kanade (1981)
            missed = one[kept] - _sampled(other, _moved(affine)[:, *kept])
            affine += (solve @ missed.ravel()).reshape(2, 3)
    places = _moved(affine)
    inside = ((places >= 0) & (places <= _DETAIL - 1)).all(axis=0)
    if inside.mean() < 0.5:  # no alignment was found
        return 0.0
    return _correlation(one, _sampled(other, places), _DETAIL_WINDOW * inside)


def _moved(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return where in the other image each pixel lies: (2, 96, 96), in pixels."""
    return np.tensordot(affine[:, :2], _GRID, 1) + affine[:, 2, None, None] + (_DETAIL - 1) / 2


def _sampled(image: NDArray[np.float64], places: NDArray[np.float64]) -> NDArray[np.float64]:
    return map_coordinates(image, places, order=1, mode="nearest")


def _band(grey: NDArray[np.uint8], sigma: float) -> NDArray[np.float64]:
    """Return the detail of one size, at an even contrast: a strong edge counts no more than a faint one."""
    values = grey.astype(np.float64)
    detail = _blurred(values, sigma) - _blurred(values, _WIDER * sigma)
    return detail / np.sqrt(_blurred(detail**2, _WIDER * sigma) + _NOISE**2)


def _blurred(values: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    return gaussian_filter(values, sigma, truncate=2)  # half the usual reach, in half the time


def _correlation(a: NDArray[Any], b: NDArray[Any], weights: NDArray[np.float64] = _DETAIL_WINDOW) -> float:
    """Return the correlation of two images under weights; 0 where one is flat."""
    a, b = a - np.average(a, weights=weights), b - np.average(b, weights=weights)
    scale = np.sqrt((weights * a**2).sum() * (weights * b**2).sum())
    return float((weights * a * b).sum() / scale) if scale > 0 else 0.0


def near_pairs(
    waves: NDArray[np.float32], detail: Callable[[int], NDArray[np.uint8]], first: int | None = None
) -> Iterator[tuple[int, int, float]]:
    """Yield all pairs of images that are one picture.

    Parameters
    ----------
    waves : (N, 16, 16) float32
        What `waves_of` gives.
    detail : callable
        Gives what `detail_of` gives of an image, by its index; asked for few of them.
    first : int, optional
        Only pairs with one image among the first so many and one behind; all pairs where None.

    Yields
    ------
    (i, j, agreement)
        With i < j.
    """
    for i, j, _ in similar_pairs(waves, CANDIDATE, first):
        if (found := agreement(detail(i), detail(j))) >= LIMIT:
            yield i, j, found


def similar_pairs(
    waves: NDArray[np.float32], limit: float, first: int | None = None
) -> Iterator[tuple[int, int, float]]:
    """Yield all pairs of images that are alike at a glance.

    Parameters
    ----------
    waves, first
        As `near_pairs`.
    limit : float
        Least similarity.

    Yields
    ------
    (i, j, similarity)
        With i < j.
    """
    rows_end, columns_begin = (len(waves), 0) if first is None else (first, first)
    waves = waves.reshape(-1, _KEPT, _KEPT)  # of no image, too
    bounds = _bounds(waves)
    for top in range(0, rows_end, _ROWS):
        for left in range(max(top, columns_begin), len(waves), _COLUMNS):
            at_most = bounds[top : min(top + _ROWS, rows_end)] @ bounds[left : left + _COLUMNS].T
            # Of a flat array numpy finds the few hits in half the time.
            rows, columns = np.divmod(np.flatnonzero(at_most.ravel() >= limit - _TOLERANCE), at_most.shape[1])
            ahead = rows + top < columns + left
            yield from _confirmed(waves, rows[ahead] + top, columns[ahead] + left, limit)


def _bounds(waves: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return vectors whose inner products are never below the images' similarity: (N, 65) float32.

    Signs and axes, which mirroring and turning change, are forgotten: each two coefficients that turning exchanges
    stand in order of size. High frequencies count by their common length (Cauchy-Schwarz).
    """
    low = np.abs(waves[:, :_LOW, :_LOW])
    mirrored = low.swapaxes(1, 2)
    ordered = np.where(np.tri(_LOW, dtype=bool), np.maximum(low, mirrored), np.minimum(low, mirrored))
    high = np.square(waves).sum((1, 2)) - np.square(low).sum((1, 2))
    return np.column_stack([ordered.reshape(len(waves), _LOW * _LOW), np.sqrt(high.clip(min=0))])


def _confirmed(
    waves: NDArray[np.float32], rows: NDArray[np.intp], columns: NDArray[np.intp], limit: float
) -> Iterator[tuple[int, int, float]]:
    for start in range(0, len(rows), _COLUMNS):
        i, j = rows[start : start + _COLUMNS], columns[start : start + _COLUMNS]
        values = similarity(waves[i], waves[j])
        near = values >= limit
        yield from zip(i[near].tolist(), j[near].tolist(), values[near].tolist(), strict=True)
