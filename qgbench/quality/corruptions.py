"""Variable-quality masks: ground truth degraded by synthetic corruptions, on which the quality predictor g is trained.

A corruption takes a mask and a random generator and returns a new mask; it accepts any mask, also an empty, a full or a
one-pixel one, and never changes its input. Sizes "at 224 px" are multiplied by min(H, W) / 224. The image's edge is no
border of the lesion: nothing erodes from it, and what leaves the image is lost. Geometry is about the centroid.
Source: arXiv 2606.01753, variable-quality masks; where the paper gives only a name, the ranges below are ours.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
from scipy import ndimage
from skimage.draw import polygon
from skimage.morphology import convex_hull_image

Corruption = Callable[[np.ndarray, np.random.Generator], np.ndarray]
Degrade = Callable[[np.ndarray, np.random.Generator, Sequence[np.ndarray]], tuple[np.ndarray, str]]

FAMILY_SHARES: Mapping[str, float] = MappingProxyType(
    {
        "unchanged": 0.20,
        "single": 0.28,
        "chain": 0.18,
        "other_mask": 0.10,
        "heavy": 0.12,
        "catastrophic": 0.05,
        "blob": 0.07,
    }
)
SIMILAR_DONORS = 5  # a mask of another image is drawn among this many of nearest area
PAPER_SIDE = 224  # the side, in pixels, that the paper's sizes are given for

Range = tuple[float, float]


# --- measures and shapes ------------------------------------------------------------------------------------------


def _pixels(size: Range, shape: tuple[int, ...], rng: np.random.Generator) -> float:
    """Return a drawn size, given at 224 px, in pixels of this image."""
    return float(rng.uniform(*size)) * min(shape) / PAPER_SIDE


def _box(mask: np.ndarray, margin: int = 0) -> tuple[slice, slice]:
    """Return the bounding box of a mask that is not empty, widened by a margin and clipped to the image."""
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (
        slice(max(int(rows[0]) - margin, 0), int(rows[-1]) + 1 + margin),
        slice(max(int(cols[0]) - margin, 0), int(cols[-1]) + 1 + margin),
    )


def _centroid(mask: np.ndarray) -> np.ndarray:
    """Return the centroid (row, column) of a mask that is not empty."""
    rows, cols = mask.sum(axis=1), mask.sum(axis=0)
    return np.array([rows @ np.arange(len(rows)), cols @ np.arange(len(cols))]) / rows.sum()


def _anchor(mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Return centroid and radius of the disk of equal area; of an empty mask a random place and a tenth of the side."""
    if not mask.any():
        return rng.uniform(0, mask.shape), min(mask.shape) / 10
    return _centroid(mask), float(np.sqrt(np.count_nonzero(mask) / np.pi))


def _random_pixel(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the position (row, column) of a random foreground pixel."""
    pixels = np.flatnonzero(mask)
    return np.array(np.unravel_index(pixels[rng.integers(len(pixels))], mask.shape))


def _direction(rng: np.random.Generator) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi)
    return np.array([np.sin(angle), np.cos(angle)])


def _rotation_matrix(degrees: float) -> np.ndarray:
    angle = np.deg2rad(degrees)
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _filled_ellipse(shape: tuple[int, ...], centre: np.ndarray, form: np.ndarray) -> np.ndarray:
    """Return the pixels x with (x - centre)' inv(form) (x - centre) <= 1."""
    a, b, c = np.linalg.inv(form)[[0, 0, 1], [0, 1, 1]]
    y = np.arange(shape[0])[:, None] - centre[0]
    x = np.arange(shape[1])[None, :] - centre[1]
    return a * y**2 + 2 * b * y * x + c * x**2 <= 1


def _random_spot(shape: tuple[int, ...], centre: np.ndarray, radius: float, rng: np.random.Generator) -> np.ndarray:
    """Return an ellipse of random orientation, its axes in a ratio of 1 to 2 at most."""
    turn = _rotation_matrix(rng.uniform(0, 180))
    axes = np.diag([radius**2, (radius * rng.uniform(0.5, 1)) ** 2])
    return _filled_ellipse(shape, centre, turn @ axes @ turn.T)


def _smooth_noise(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Return Gaussian noise of unit variance, smoothed to the length sigma: bells on nodes that lie sigma apart."""

    def weights(length: int) -> np.ndarray:
        nodes = np.arange(-2 * sigma, length + 2 * sigma, sigma)
        bells = np.exp(-0.5 * ((np.arange(length)[:, None] - nodes) / sigma) ** 2)
        return bells / np.linalg.norm(bells, axis=1, keepdims=True)

    rows, cols = weights(shape[0]), weights(shape[1])
    return rows @ rng.normal(size=(rows.shape[1], cols.shape[1])) @ cols.T


def _eroded(mask: np.ndarray, radius: float) -> np.ndarray:
    """Return the mask without all pixels within `radius` of the background."""
    out = mask.copy()
    if mask.any():
        box = _box(mask, margin=1)
        if not mask[box].all():
            out[box] = ndimage.distance_transform_edt(mask[box]) > radius
    return out


def _dilated(mask: np.ndarray, radius: float) -> np.ndarray:
    """Return the mask with all pixels within `radius` of the foreground."""
    out = mask.copy()
    if mask.any():
        box = _box(mask, margin=int(np.ceil(radius)))
        out[box] = ndimage.distance_transform_edt(~mask[box]) <= radius
    return out


def _transformed(mask: np.ndarray, matrix: np.ndarray, shift: np.ndarray | float = 0.0) -> np.ndarray:
    """Return the lesion mapped by x -> centroid + matrix (x - centroid) + shift."""
    if not mask.any():
        return mask.copy()
    centre, inverse = _centroid(mask), np.linalg.inv(matrix)
    offset = centre - inverse @ (centre + shift)
    return ndimage.affine_transform(mask.view(np.uint8), inverse, offset, output=np.float32, order=1) > 0.5


# --- the corruptions; ranges are (least, most) of a uniform draw ----------------------------------------------------


def _kernel_radius(radius: Range, shape: tuple[int, ...], rng: np.random.Generator) -> int:
    """Return the radius of a disk-shaped kernel of 2 radius + 1 pixels (odd), at least 1 px; given at 224 px."""
    return max(1, round(_pixels(radius, shape, rng)))


def _erosion(mask: np.ndarray, rng: np.random.Generator, radius: Range = (2, 5)) -> np.ndarray:
    return _eroded(mask, _kernel_radius(radius, mask.shape, rng))


def _dilation(mask: np.ndarray, rng: np.random.Generator, radius: Range = (2, 5)) -> np.ndarray:
    return _dilated(mask, _kernel_radius(radius, mask.shape, rng))


def _opening(mask: np.ndarray, rng: np.random.Generator, radius: Range = (2, 5)) -> np.ndarray:
    drawn = _kernel_radius(radius, mask.shape, rng)
    return _dilated(_eroded(mask, drawn), drawn)


def _closing(mask: np.ndarray, rng: np.random.Generator, radius: Range = (2, 5)) -> np.ndarray:
    drawn = _kernel_radius(radius, mask.shape, rng)
    return _eroded(_dilated(mask, drawn), drawn)


def _ellipse(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the ellipse of the lesion's centroid and second moments."""
    if not mask.any():
        return mask.copy()
    # A pixel has a variance of 1/12 along each side, which keeps the moments of a line of pixels regular.
    moments = np.cov(np.nonzero(mask), ddof=0) + np.eye(2) / 12
    return _filled_ellipse(mask.shape, _centroid(mask), 4 * moments)


def _polygon(mask: np.ndarray, rng: np.random.Generator, sides: int) -> np.ndarray:
    """Return the polygon of the lesion pixels farthest out in `sides` directions, evenly spaced up to a jitter."""
    out = np.zeros_like(mask)
    if mask.any():
        angles = 2 * np.pi / sides * (np.arange(sides) + rng.uniform(0, sides) + rng.uniform(-0.25, 0.25, sides))
        rows, cols = np.nonzero(mask)
        outermost = (np.outer(np.sin(angles), rows) + np.outer(np.cos(angles), cols)).argmax(axis=1)
        out[polygon(rows[outermost], cols[outermost], mask.shape)] = True
    return out


def _convex_hull(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    out = mask.copy()
    if mask.any():
        box = _box(mask)
        out[box] = convex_hull_image(mask[box])
    return out


def _bounding_box(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    out = np.zeros_like(mask)
    if mask.any():
        out[_box(mask)] = True
    return out


def _jagged(mask: np.ndarray, rng: np.random.Generator, width: Range = (7, 21), grain: Range = (2, 6)) -> np.ndarray:
    """Return the mask, random squares of side `grain` flipped within a band of `width` at the border (at 224 px)."""
    side = max(1, round(_pixels(grain, mask.shape, rng)))
    band = max(3, round(_pixels(width, mask.shape, rng)))
    coarse = rng.uniform(-0.5, 0.5, [-(-length // side) for length in mask.shape])
    noise = coarse.repeat(side, axis=0).repeat(side, axis=1)[: mask.shape[0], : mask.shape[1]]
    share = ndimage.uniform_filter(mask.astype(np.float32), band, mode="nearest")
    # Off the band the share is 0 or 1 up to rounding, and 0.499 of the noise's range cannot carry it over one half.
    return share + 0.998 * noise > 0.5


def _smoothed(mask: np.ndarray, rng: np.random.Generator, sigma: Range = (4, 12)) -> np.ndarray:
    """Return the mask blurred, cut at one half; sigma at 224 px, at most half the radius lest a small lesion vanish."""
    if not mask.any():
        return mask.copy()
    _, radius = _anchor(mask, rng)
    blur = min(_pixels(sigma, mask.shape, rng), radius / 2)
    return ndimage.gaussian_filter(mask.astype(np.float32), blur, mode="nearest", truncate=3) > 0.5


def _elastic(
    mask: np.ndarray, rng: np.random.Generator, sigma: Range = (12, 30), strength: Range = (4, 14)
) -> np.ndarray:
    """Return the mask moved by a smooth random field: correlation length and standard deviation at 224 px."""
    length = max(2.0, _pixels(sigma, mask.shape, rng))
    size = _pixels(strength, mask.shape, rng)
    rows = np.arange(mask.shape[0])[:, None] + size * _smooth_noise(mask.shape, length, rng)
    cols = np.arange(mask.shape[1])[None, :] + size * _smooth_noise(mask.shape, length, rng)
    moved = ndimage.map_coordinates(
        mask.view(np.uint8), np.stack([rows, cols]), output=np.float32, order=1, mode="nearest"
    )
    return moved > 0.5


def _grid_distortion(mask: np.ndarray, rng: np.random.Generator, cells: int = 5, strength: float = 0.7) -> np.ndarray:
    """Return the mask with a grid's rows and columns stretched by factors within 1 +- strength; the edges stay."""

    def source(length: int) -> np.ndarray:
        widths = rng.uniform(1 - strength, 1 + strength, cells)
        knots = np.concatenate([[0.0], np.cumsum(widths) / widths.sum()]) * (length - 1)
        return np.rint(np.interp(np.arange(length), np.linspace(0, length - 1, cells + 1), knots)).astype(int)

    return mask[np.ix_(source(mask.shape[0]), source(mask.shape[1]))]


def _holes(
    mask: np.ndarray, rng: np.random.Generator, count: tuple[int, int] = (1, 5), size: Range = (0.1, 0.45)
) -> np.ndarray:
    """Return the mask with spots cut out of the lesion; size = their radius in radii of the lesion."""
    out = mask.copy()
    if mask.any():
        _, radius = _anchor(mask, rng)
        for _ in range(rng.integers(*count, endpoint=True)):
            out &= ~_random_spot(mask.shape, _random_pixel(mask, rng), radius * rng.uniform(*size), rng)
    return out


def _islands(
    mask: np.ndarray, rng: np.random.Generator, count: tuple[int, int] = (1, 5), size: Range = (0.1, 0.45)
) -> np.ndarray:
    """Return the mask with spots centred on the background; size = their radius in radii of the lesion."""
    out = mask.copy()
    if not mask.all():
        _, radius = _anchor(mask, rng)
        for _ in range(rng.integers(*count, endpoint=True)):
            out |= _random_spot(mask.shape, _random_pixel(~mask, rng), radius * rng.uniform(*size), rng)
    return out


def _holes_and_islands(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    # Both are drawn from the mask itself, so that no hole falls into a new island.
    islands = _islands(mask, rng) & ~mask
    return _holes(mask, rng) | islands


def _largest_component(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the largest of the 4-connected components; a mask of one component stays as it is."""
    labels, count = ndimage.label(mask)
    return labels == 1 + np.bincount(labels.ravel())[1:].argmax() if count else mask.copy()


def _cut(mask: np.ndarray, rng: np.random.Generator, share: Range = (0.1, 0.5)) -> np.ndarray:
    """Return the lesion without a share of its pixels: those on one side of a line of random direction."""
    out = mask.copy()
    rows, cols = np.nonzero(mask)
    dropped = int(len(rows) * rng.uniform(*share))
    normal = _direction(rng)
    if dropped:
        order = np.argpartition(normal[0] * rows + normal[1] * cols, dropped - 1)[:dropped]
        out[rows[order], cols[order]] = False
    return out


def _dropped_component(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the mask without one of several 4-connected components; a single one is cut and loses the smaller part."""
    labels, count = ndimage.label(mask)
    return mask & (labels != rng.integers(1, count, endpoint=True)) if count > 1 else _cut(mask, rng)


def _dropped_rectangle(mask: np.ndarray, rng: np.random.Generator, size: Range = (0.25, 0.8)) -> np.ndarray:
    """Return the mask without a rectangle round a random lesion pixel; size = its sides in the bounding box's."""
    out = mask.copy()
    if mask.any():
        sides = np.array([s.stop - s.start for s in _box(mask)]) * rng.uniform(*size, 2)
        corner = np.rint(_random_pixel(mask, rng) - sides / 2).astype(int).clip(0)
        end = corner + np.maximum(1, np.rint(sides)).astype(int)
        out[corner[0] : end[0], corner[1] : end[1]] = False
    return out


def _shift(mask: np.ndarray, rng: np.random.Generator, limit: Range = (0.1, 0.4), least: float = 0.0) -> np.ndarray:
    """Return the mask moved by whole pixels: each axis by `least` to 1 times a limit drawn once, in image sides."""
    reach = rng.uniform(*limit) * np.array(mask.shape)
    move = np.rint(reach * rng.uniform(least, 1, 2) * rng.choice([-1, 1], 2)).astype(int)
    out = np.zeros_like(mask)
    target = tuple(slice(max(m, 0), max(n + min(m, 0), 0)) for m, n in zip(move, mask.shape, strict=True))
    origin = tuple(slice(max(-m, 0), max(n - max(m, 0), 0)) for m, n in zip(move, mask.shape, strict=True))
    out[target] = mask[origin]
    return out


def _scale(mask: np.ndarray, rng: np.random.Generator, factor: Range = (0.5, 1.6)) -> np.ndarray:
    return _transformed(mask, np.eye(2) * rng.uniform(*factor))


def _rotation(mask: np.ndarray, rng: np.random.Generator, degrees: Range = (0, 30)) -> np.ndarray:
    return _transformed(mask, _rotation_matrix(rng.uniform(*degrees) * rng.choice([-1, 1])))


def _affine(mask: np.ndarray, rng: np.random.Generator, amount: float = 1.0) -> np.ndarray:
    """Return the lesion scaled, sheared, turned and moved.

    With an `amount` of 1, an axis is scaled by 0.7 to 1.43, the shear is up to 0.3, the turn up to 30 degrees, the
    move up to 0.1 of the side.
    """
    stretch = np.diag(np.exp(amount * rng.uniform(-0.36, 0.36, 2)))
    shear = np.array([[1.0, amount * rng.uniform(-0.3, 0.3)], [0.0, 1.0]])
    turn = _rotation_matrix(amount * rng.uniform(-30, 30))
    return _transformed(mask, turn @ shear @ stretch, amount * rng.uniform(-0.1, 0.1, 2) * mask.shape)


def _blob_place(mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Return centre and radius of a blob: up to 1.6 radii off the lesion's centroid, 0.4 to 2.5 times its area."""
    centre, radius = _anchor(mask, rng)
    return centre + _direction(rng) * radius * rng.uniform(0, 1.6), radius * float(np.sqrt(rng.uniform(0.4, 2.5)))


def _circular_blob(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a disk near the lesion."""
    centre, radius = _blob_place(mask, rng)
    return _filled_ellipse(mask.shape, centre, np.eye(2) * radius**2)


def _gaussian_blob(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the half-maximum set of a sum of 2 to 4 Gaussian bells near the lesion."""
    centre, radius = _blob_place(mask, rng)
    bells = np.zeros(mask.shape)
    for _ in range(rng.integers(2, 4, endpoint=True)):
        middle = centre + _direction(rng) * radius * rng.uniform(0, 0.8)
        widths = np.maximum(radius * rng.uniform(0.4, 0.9, 2), 0.5)
        rows, cols = (
            np.exp(-0.5 * ((np.arange(n) - m) / w) ** 2) for n, m, w in zip(mask.shape, middle, widths, strict=True)
        )
        bells += rng.uniform(0.5, 1) * rows[:, None] * cols
    return bells > 0.5 * bells.max()


CORRUPTIONS: Mapping[str, Corruption] = MappingProxyType(
    {
        "erosion": _erosion,
        "dilation": _dilation,
        "opening": _opening,
        "closing": _closing,
        "ellipse": _ellipse,
        "polygon_3": partial(_polygon, sides=3),
        "polygon_5": partial(_polygon, sides=5),
        "polygon_8": partial(_polygon, sides=8),
        "convex_hull": _convex_hull,
        "bounding_box": _bounding_box,
        "jagged": _jagged,
        "smoothed": _smoothed,
        "elastic": _elastic,
        "grid_distortion": _grid_distortion,
        "holes": _holes,
        "islands": _islands,
        "holes_and_islands": _holes_and_islands,
        "largest_component": _largest_component,
        "dropped_component": _dropped_component,
        "dropped_rectangle": _dropped_rectangle,
        "shift": _shift,
        "scale": _scale,
        "rotation": _rotation,
        "affine": _affine,
        "gaussian_blob": _gaussian_blob,
        "circular_blob": _circular_blob,
    }
)
# The two that keep nothing of the lesion's shape have a family of their own; singles and chains draw from the others.
BLOBS: tuple[str, ...] = ("gaussian_blob", "circular_blob")
SHAPE_KEEPING: tuple[str, ...] = tuple(name for name in CORRUPTIONS if name not in BLOBS)

HEAVY: Mapping[str, Corruption] = MappingProxyType(
    {
        "erosion": partial(_erosion, radius=(8, 25)),
        "dilation": partial(_dilation, radius=(10, 40)),
        "elastic": partial(_elastic, strength=(20, 45)),
        "holes": partial(_holes, count=(3, 8), size=(0.3, 0.7)),
        "islands": partial(_islands, count=(3, 8), size=(0.3, 0.8)),
        "cut": partial(_cut, share=(0.4, 0.85)),
        "dropped_rectangle": partial(_dropped_rectangle, size=(0.7, 1.4)),
        "shift": partial(_shift, limit=(0.1, 0.35), least=0.4),
        "shrink": partial(_scale, factor=(0.25, 0.6)),
        "growth": partial(_scale, factor=(1.5, 2.5)),
        "rotation": partial(_rotation, degrees=(45, 180)),
        "affine": partial(_affine, amount=2.0),
    }
)


# --- what ruins a mask altogether ------------------------------------------------------------------------------------


def _inverted(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return ~mask


def _empty(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.zeros_like(mask)


def _full(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.ones_like(mask)


def _random(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return independent pixels, their density drawn from 0.05 to 0.95."""
    return rng.random(mask.shape) < rng.uniform(0.05, 0.95)


CATASTROPHES: Mapping[str, Corruption] = MappingProxyType(
    {"inverted": _inverted, "empty": _empty, "full": _full, "random": _random}
)


# --- the families -----------------------------------------------------------------------------------------------------


def _similar_donor(mask: np.ndarray, rng: np.random.Generator, donors: Sequence[np.ndarray]) -> np.ndarray:
    """Return one of the `SIMILAR_DONORS` donors whose areas are nearest to the mask's."""
    areas = np.array([np.count_nonzero(donor) for donor in donors])
    nearest = np.argsort(np.abs(areas - np.count_nonzero(mask)), kind="stable")[:SIMILAR_DONORS]
    return donors[rng.choice(nearest)].copy()


def _chained(
    mask: np.ndarray,
    rng: np.random.Generator,
    corruptions: Mapping[str, Corruption],
    names: Sequence[str],
    length: int,
) -> np.ndarray:
    """Return the mask after `length` different corruptions of those named, one after the other."""
    for place in rng.permutation(len(names))[:length]:
        mask = corruptions[names[place]](mask, rng)
    return mask


def degrade(mask: np.ndarray, rng: np.random.Generator, donors: Sequence[np.ndarray]) -> tuple[np.ndarray, str]:
    """Return a mask degraded by a family drawn by `FAMILY_SHARES`, and the family's name.

    ============  ====================================================================================================
    unchanged     the mask itself (a copy)
    single        one of `SHAPE_KEEPING`
    chain         two or three different ones of `SHAPE_KEEPING`
    other_mask    one of the `SIMILAR_DONORS` donors of nearest area, each as likely
    heavy         two different ones of `HEAVY`: the same corruptions with parameters beyond the paper's ranges
    catastrophic  one of `CATASTROPHES`: inverted, empty, full, or random pixels
    blob          one of `BLOBS`: a disk or a lump of Gaussian bells near the lesion
    ============  ====================================================================================================

    Parameters
    ----------
    mask : (H, W) bool
        Ground truth; may be empty or full. It is not changed.
    rng : numpy.random.Generator
        The only source of chance: equal state, equal result.
    donors : sequence of (H, W) bool
        Masks of the other images, of the same shape. Without any, 'other_mask' becomes 'single'.

    Returns
    -------
    degraded : (H, W) bool
        A new array.
    family : str
        A key of `FAMILY_SHARES`.

    Notes
    -----
    Shares: arXiv 2606.01753, variable-quality masks; the share of outputs of weak models is the caller's.
    """
    family = str(rng.choice(list(FAMILY_SHARES), p=list(FAMILY_SHARES.values())))
    if family == "other_mask" and not len(donors):
        family = "single"
    match family:
        case "unchanged":
            degraded = mask.copy()
        case "single":
            degraded = _chained(mask, rng, CORRUPTIONS, SHAPE_KEEPING, length=1)
        case "chain":
            degraded = _chained(mask, rng, CORRUPTIONS, SHAPE_KEEPING, length=int(rng.integers(2, 4)))
        case "other_mask":
            degraded = _similar_donor(mask, rng, donors)
        case "heavy":
            degraded = _chained(mask, rng, HEAVY, tuple(HEAVY), length=2)
        case "catastrophic":
            degraded = _chained(mask, rng, CATASTROPHES, tuple(CATASTROPHES), length=1)
        case _:
            degraded = _chained(mask, rng, CORRUPTIONS, BLOBS, length=1)
    return degraded, family


# --- several classes --------------------------------------------------------------------------------------------------


class _OfClass(Sequence[np.ndarray]):
    """The masks of one class of label maps, each made when it is asked for."""

    def __init__(self, maps: Sequence[np.ndarray], label: int) -> None:
        self._maps, self._label = maps, label

    def __len__(self) -> int:
        return len(self._maps)

    def __getitem__(self, index: Any) -> Any:
        return self._maps[index] == self._label


def degrade_labels(
    mixture: Degrade, classes: int, labels: np.ndarray, rng: np.random.Generator, donors: Sequence[np.ndarray]
) -> tuple[np.ndarray, str]:
    """Return a label map whose classes are degraded, each by a draw of its own from a mixture, and the families drawn.

    Each class against the rest is a mask, and as such it is degraded; then they are laid over each other, the largest
    lowest, the background below them all: each pixel has one label again. Were all classes deformed alike, g could tell
    the Dice of one from the shape of another. What lies below others loses what they cover, as where a network takes
    one class for another. In a random order a small class would often be lost below one that is drawn full or inverted.

    Parameters
    ----------
    mixture : callable
        `degrade`, or that of `qgbench.quality.release.ReleaseMixture`.
    classes : int
        K.
    labels : (H, W) uint8
        0 for the background, 1 to K. It is not changed.
    rng : numpy.random.Generator
        The only source of chance.
    donors : sequence of (H, W) uint8
        Label maps of the other images.

    Returns
    -------
    degraded : (H, W) uint8
        A new array.
    families : str
        Of each class in order, joined by '+'.
    """
    drawn = [mixture(labels == label, rng, _OfClass(donors, label)) for label in range(1, classes + 1)]
    degraded = np.zeros_like(labels)
    for place in sorted(range(classes), key=lambda place: -np.count_nonzero(drawn[place][0])):
        degraded[drawn[place][0]] = place + 1
    return degraded, "+".join(family for _, family in drawn)
