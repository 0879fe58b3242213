"""Copies of one picture, in any number of data sets: equal pixels, or the same picture saved anew.

The same picture saved anew is one that was compressed again, resized, made a little lighter or darker, mirrored or
turned by quarters, or that lost a narrow margin: what happens to a picture on its way from one database into another.
Another picture of the same lesion is none, nor is another frame of the same video, unless the camera stood still.

Each image is reduced to 32 x 32 grey values. They are faded out toward the border, which endoscopes and dermatoscopes
draw alike on all their pictures; of their cosine transform the 16 x 16 lowest frequencies are kept, the very lowest
(a dark lesion on light skin) damped, and scaled to unit length. The similarity of two images is the inner product,
the largest over the 8 ways to lay one on the other: mirroring changes signs of a cosine transform, a quarter turn
exchanges its axes besides. Every pair at `LIMIT` or above is found, since candidates are chosen by an upper bound.

``python perf/duplicates.py`` measures, on 2,995 images of 256 pixels a side (PH2, SCD, CVC-ClinicDB, CVC-ColonDB and
parts of ISIC 2017 and Kvasir-SEG), how many of 4.48 million pairs reach a similarity, equal pixels left out:

========================================== ===== ===== ===== ===== ===== =====
similarity                                  0.94  0.95  0.96  0.97  0.98  0.99
========================================== ===== ===== ===== ===== ===== =====
frames of one video (ClinicDB, ColonDB)      154   120    88    68    48    24
pictures of one lesion (SCD)                   0     0     0     0     0     0
different groups                              20    12     2     2     2     1
========================================== ===== ===== ===== ===== ===== =====

Of different groups, looked at: the two above the limit are one picture (0.9998, ISIC) and two frames of a camera that
stood still (0.982, Kvasir); the next ones (0.9582, 0.9579, 0.9576) are different lesions, small and dark on light skin.
The frames of one video above the limit are of a camera that hardly moved: highlights and brightness differ. Two
pictures of one lesion (SCD) reach 0.90 at most.

Of copies of 600 images are found: JPEG of quality 60, 70 % of the size, brightness + 10 %, gamma 0.8 and 1.2, mirrored,
turned, and several of these at once, 100 % (least similarity 0.989); 2 % cropped, half of it from either side, 100 %
(0.970); 2 % from one side 90 %; 5 % cropped 44 %: larger crops are not looked for.

A fingerprint takes 0.3 ms at 256 pixels, 0.2 s at 6000 x 4000; the search among 33,126 images 4 s and 81 MiB, among
165,630 66 s and 405 MiB (one core of a busy machine).
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

LIMIT = 0.97

_SIDE = 32  # of the reduced image, pixels
_KEPT = 16  # frequencies along each axis
_LOW = 8  # of these, those that the bound looks at one by one
_DAMPED = 4.0  # frequencies (cosine half-waves across the image) below this count less
_FLAT = 1.0  # length of a transform, in grey values, below which there is nothing to compare
_ROWS, _COLUMNS = 512, 1024  # pairs looked at in one go
_TOLERANCE = 1e-4  # of sums in single precision

_FADE = np.sqrt(np.sin(np.pi * (np.arange(_SIDE) + 0.5) / _SIDE))
_WINDOW = np.outer(_FADE, _FADE)
_WEIGHTS = 1 - np.exp(-((np.hypot(*np.mgrid[:_KEPT, :_KEPT]) / _DAMPED) ** 2))


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """What of an image is compared.

    Attributes
    ----------
    pixels : bytes
        SHA-256 of height, width and RGB values: equal for equal pixels.
    waves : (16, 16) float32
        Weighted cosine transform of unit length; zero for an image of one colour, which is like no other.
    """

    pixels: bytes
    waves: NDArray[np.float32]


def fingerprint(image: NDArray[np.uint8]) -> Fingerprint:
    """Take the fingerprint of an image: (H, W, 3) uint8, RGB."""
    pixels = hashlib.sha256(repr(image.shape).encode())
    pixels.update(np.ascontiguousarray(image).data)
    small = Image.fromarray(image).convert("L").resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    grey = np.asarray(small, dtype=np.float64)
    contrast = (grey - np.average(grey, weights=_WINDOW)) * _WINDOW
    waves = dctn(contrast, norm="ortho")[:_KEPT, :_KEPT] * _WEIGHTS
    length = np.linalg.norm(waves)
    unit = waves / length if length > _FLAT else np.zeros_like(waves)
    return Fingerprint(pixels.digest(), unit.astype(np.float32))


def similarity(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compare pairs of images.

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


def near_pairs(fingerprints: Sequence[Fingerprint], limit: float = LIMIT) -> Iterator[tuple[int, int, float]]:
    """Find all pairs of similar images.

    Parameters
    ----------
    fingerprints : sequence of Fingerprint
    limit : float
        Least similarity.

    Yields
    ------
    (i, j, similarity)
        With i < j.
    """
    waves = np.array([each.waves for each in fingerprints]).reshape(len(fingerprints), _KEPT, _KEPT)
    bounds = _bounds(waves)
    for top in range(0, len(waves), _ROWS):
        for left in range(top, len(waves), _COLUMNS):
            at_most = bounds[top : top + _ROWS] @ bounds[left : left + _COLUMNS].T
            # Of a flat array numpy finds the few hits in half the time.
            rows, columns = np.divmod(np.flatnonzero(at_most.ravel() >= limit - _TOLERANCE), at_most.shape[1])
            ahead = rows + top < columns + left
            yield from _confirmed(waves, rows[ahead] + top, columns[ahead] + left, limit)


def _bounds(waves: NDArray[np.float32]) -> NDArray[np.float32]:
    """Make vectors whose inner products are never below the images' similarity: (N, 65) float32.

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
