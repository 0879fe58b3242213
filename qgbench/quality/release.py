"""The release's mixture of variable-quality masks, on which the quality predictor g of arXiv 2606.01753 was trained.

Families, entries, weights and parameters are those of the paper's released code; `qgbench.quality.corruptions` holds
another, harsher mixture. A corruption takes a mask (H, W) bool and a random generator, returns a new mask and never
changes its input. Sizes in pixels are given at 224 px, the release's only size, and multiplied by min(H, W) / 224.
Nothing draws an unchanged or an empty result again: its true Dice is its target.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import numpy as np
from scipy import ndimage
from skimage.draw import disk, ellipse, polygon
from skimage.measure import EllipseModel, approximate_polygon, find_contours
from skimage.morphology import convex_hull_image

Corruption = Callable[[np.ndarray, np.random.Generator], np.ndarray]

_SIDE = 224  # pixels, for which the release gives its sizes
_EIGHT = np.ones((3, 3), bool)  # neighbours of a pixel, diagonal ones too
_FEWEST = 5  # points that an ellipse needs
_HALVINGS = 20  # of the tolerance, at most, in search of a number of corners
_RIM = 1e-6  # pixels: a disc holds the pixels at its radius too, as those of OpenCV do


@dataclass(frozen=True)
class Entry:
    """A corruption and how often it is drawn inside its family."""

    corrupt: Corruption
    weight: float = 1.0


def _scaled(pixels: float, mask: np.ndarray) -> float:
    return pixels * min(mask.shape) / _SIDE


def _kernel(side: int, mask: np.ndarray) -> np.ndarray:
    """Return an all-ones square whose side, odd and at least 3, is nearest to the scaled one."""
    odd = max(3, 2 * round((_scaled(side, mask) - 1) / 2) + 1)
    return np.ones((odd, odd), bool)


# --- borders ----------------------------------------------------------------------------------------------------------


def _erosion(mask: np.ndarray, rng: np.random.Generator, side: int) -> np.ndarray:
    return ndimage.binary_erosion(mask, _kernel(side, mask), border_value=1)


def _dilation(mask: np.ndarray, rng: np.random.Generator, side: int) -> np.ndarray:
    return ndimage.binary_dilation(mask, _kernel(side, mask))


def _opening(mask: np.ndarray, rng: np.random.Generator, side: int) -> np.ndarray:
    return _dilation(_erosion(mask, rng, side), rng, side)


def _closing(mask: np.ndarray, rng: np.random.Generator, side: int) -> np.ndarray:
    return _erosion(_dilation(mask, rng, side), rng, side)


def _jagged(mask: np.ndarray, rng: np.random.Generator, side: int) -> np.ndarray:
    """Return the mask, each pixel of the band between dilation and erosion drawn anew, 1 or 0 with equal chance."""
    band = _dilation(mask, rng, side) & ~_erosion(mask, rng, side)
    return np.where(band, rng.random(mask.shape) < 0.5, mask)


def _smoothed(mask: np.ndarray, rng: np.random.Generator, side: int) -> np.ndarray:
    """Return the mask, blurred with a Gaussian of `side` pixels and cut at one half; sigma as OpenCV derives it."""
    sigma = _scaled(0.3 * (0.5 * (side - 1) - 1) + 0.8, mask)
    return ndimage.gaussian_filter(mask.astype(float), sigma, mode="mirror", radius=len(_kernel(side, mask)) // 2) > 0.5


# --- simpler shapes ---------------------------------------------------------------------------------------------------


def _outline(mask: np.ndarray) -> np.ndarray:
    """Return the border (N, 2) that encloses the largest area, holes counted in; empty for an empty mask."""
    lines = find_contours(np.pad(mask, 1).astype(float), 0.5)
    if not lines:
        return np.empty((0, 2))

    def area(line: np.ndarray) -> float:
        rows, columns = line.T
        return abs(float(rows[:-1] @ columns[1:] - rows[1:] @ columns[:-1])) / 2

    return max(lines, key=area) - 1.0


def _filled(corners: np.ndarray, mask: np.ndarray) -> np.ndarray:
    out = np.zeros_like(mask)
    if len(corners):
        out[polygon(corners[:, 0], corners[:, 1], mask.shape)] = True
    return out


def _ellipse(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the ellipse that fits the outline with least squares; empty where none does."""
    out = np.zeros_like(mask)
    outline = _outline(mask)
    fitted = EllipseModel.from_estimate(outline) if len(outline) > _FEWEST else None
    if fitted:
        row, column = fitted.center
        rows, columns = fitted.axis_lengths
        out[ellipse(row, column, rows, columns, shape=mask.shape, rotation=fitted.theta)] = True
    return out


def _polygon(mask: np.ndarray, rng: np.random.Generator, corners: int) -> np.ndarray:
    """Return the outline with `corners` corners (Douglas-Peucker), or with the number nearest to it that is found."""
    outline = _outline(mask)
    if not len(outline):
        return np.zeros_like(mask)
    low, high = 0.0, float(np.linalg.norm(np.diff(outline, axis=0), axis=1).sum())
    best = outline
    for _ in range(_HALVINGS):
        tolerance = (low + high) / 2
        tried = approximate_polygon(outline, tolerance)
        if abs(len(tried) - 1 - corners) < abs(len(best) - 1 - corners):
            best = tried
        if len(tried) - 1 == corners:
            break
        low, high = (tolerance, high) if len(tried) - 1 > corners else (low, tolerance)
    return _filled(best, mask)


def _convex_hull(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return convex_hull_image(mask) if mask.any() else mask.copy()


def _bounding_box(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    out = np.zeros_like(mask)
    if mask.any():
        out[ndimage.find_objects(mask.astype(int))[0]] = True
    return out


def _moments(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return centroid and standard deviations (row, column) of a mask that is not empty."""
    places = np.argwhere(mask)
    return places.mean(0), places.std(0)


def _gaussian_blob(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the pixels where a Gaussian with the mask's centroid and spread is largest, as many as the mask has.

    The release has a second entry whose Gaussian is wider by 1.2: with the area kept, it gives the same mask.
    """
    if not mask.any():
        return mask.copy()
    centre, spread = _moments(mask)
    rows, columns = (
        ((np.arange(length) - middle) / max(sd, 1e-6)) ** 2
        for length, middle, sd in zip(mask.shape, centre, spread, strict=True)
    )
    distance = rows[:, None] + columns
    return distance <= np.partition(distance.ravel(), np.count_nonzero(mask) - 1)[np.count_nonzero(mask) - 1]


def _circular_blob(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the disc of the mask's centroid and area, both rounded down to whole pixels."""
    out = np.zeros_like(mask)
    if mask.any():
        centre = _moments(mask)[0].astype(int)
        out[disk(centre, int(np.sqrt(np.count_nonzero(mask) / np.pi)) + _RIM, shape=mask.shape)] = True
    return out


# --- deformations -----------------------------------------------------------------------------------------------------


def _elastic(mask: np.ndarray, rng: np.random.Generator, alpha: float, sigma: float) -> np.ndarray:
    """Return the mask moved by blurred normal noise times alpha (its deviation alpha / (2 sqrt(pi) sigma) pixels)."""
    share = min(mask.shape) / _SIDE
    moved = []
    for at, length in zip(np.indices(mask.shape), mask.shape, strict=True):
        noise = ndimage.gaussian_filter(rng.normal(size=mask.shape), share * sigma)
        moved.append(np.clip(at + share**2 * alpha * noise, 0, length - 1))
    rows, columns = (np.rint(at).astype(int) for at in moved)
    return mask[rows, columns]


def _grid(mask: np.ndarray, rng: np.random.Generator, cells: int, limit: float) -> np.ndarray:
    """Return the mask with a grid's rows and columns stretched by 1 + U(-limit, limit); the image's edges stay."""

    def source(length: int) -> np.ndarray:
        knots = np.concatenate([[0.0], np.cumsum(rng.uniform(1 - limit, 1 + limit, cells))])
        return np.interp(np.linspace(0, cells, length), np.arange(cells + 1), knots / knots[-1] * (length - 1))

    places = np.meshgrid(source(mask.shape[0]), source(mask.shape[1]), indexing="ij")
    return ndimage.map_coordinates(mask.astype(float), places, order=1) >= 0.5


def _warped(mask: np.ndarray, matrix: np.ndarray, centre: np.ndarray, move: np.ndarray, floor: bool) -> np.ndarray:
    """Return the mask mapped by x -> centre + matrix (x - centre) + move, bilinearly, and rounded.

    With `floor`, as in the release, which cuts fractions off: a pixel stays only if all that it is made of is lesion,
    which takes about half a pixel off all round.
    """
    inverse = np.linalg.inv(matrix)
    offset = centre - inverse @ (centre + move)
    value = ndimage.affine_transform(mask.astype(float), inverse, offset, order=1)
    return value > 1.0 - 1e-9 if floor else value >= 0.5


def _turn(degrees: float) -> np.ndarray:
    angle = np.deg2rad(degrees)
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _scale(mask: np.ndarray, rng: np.random.Generator, least: float, most: float, floor: bool) -> np.ndarray:
    if not mask.any():
        return mask.copy()
    return _warped(mask, np.eye(2) * rng.uniform(least, most), _moments(mask)[0], np.zeros(2), floor)


def _rotation(mask: np.ndarray, rng: np.random.Generator, degrees: float, floor: bool) -> np.ndarray:
    if not mask.any():
        return mask.copy()
    return _warped(mask, _turn(rng.uniform(-degrees, degrees)), _moments(mask)[0], np.zeros(2), floor)


def _affine(mask: np.ndarray, rng: np.random.Generator, floor: bool) -> np.ndarray:
    """Return the mask, scaled by 0.9 to 1.1, turned by up to 15 degrees about the centre, moved by up to a tenth."""
    sides = np.array(mask.shape)
    matrix = rng.uniform(0.9, 1.1) * _turn(rng.uniform(-15, 15))
    return _warped(mask, matrix, (sides - 1) / 2, rng.uniform(-0.1, 0.1, 2) * sides, floor)


def _shift(mask: np.ndarray, rng: np.random.Generator, share: float) -> np.ndarray:
    """Return the mask moved by up to a share of each side, in pixels rounded towards 0; what comes in is empty."""
    out = np.zeros_like(mask)
    moves = (np.array(mask.shape) * share * rng.uniform(-1, 1, 2)).astype(int)
    target = tuple(slice(max(m, 0), n + min(m, 0)) for m, n in zip(moves, mask.shape, strict=True))
    origin = tuple(slice(max(-m, 0), n - max(m, 0)) for m, n in zip(moves, mask.shape, strict=True))
    out[target] = mask[origin]
    return out


# --- parts ------------------------------------------------------------------------------------------------------------


def _discs(where: np.ndarray, rng: np.random.Generator, count: int, least: int, most: int) -> np.ndarray:
    """Return `count` filled discs, radius in whole pixels, centred on random pixels of `where`."""
    out = np.zeros_like(where)
    places = np.argwhere(where)
    for _ in range(count if len(places) else 0):
        radius = max(1, round(_scaled(float(rng.integers(least, most, endpoint=True)), where)))
        out[disk(places[rng.integers(len(places))], radius + _RIM, shape=where.shape)] = True
    return out


def _holes(mask: np.ndarray, rng: np.random.Generator, count: int, least: int, most: int) -> np.ndarray:
    return mask & ~_discs(mask, rng, count, least, most)


def _islands(mask: np.ndarray, rng: np.random.Generator, count: int, least: int, most: int) -> np.ndarray:
    return mask | _discs(~mask, rng, count, least, most)


def _holes_and_islands(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _islands(_holes(mask, rng, 2, 5, 15), rng, 2, 5, 15)


def _largest_component(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    labels, count = ndimage.label(mask, _EIGHT)
    return labels == 1 + np.bincount(labels.ravel())[1:].argmax() if count else mask.copy()


def _dropped_component(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    labels, count = ndimage.label(mask, _EIGHT)
    return mask & (labels != rng.integers(1, count, endpoint=True)) if count > 1 else mask.copy()


def _dropped_rectangle(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the mask without a rectangle that lies anywhere, its sides a tenth to three tenths of the image's."""
    out = mask.copy()
    sides = np.array(mask.shape)
    size = (rng.uniform(0.1, 0.3, 2) * sides).astype(int)
    corner = rng.integers(sides - size, endpoint=True)
    out[corner[0] : corner[0] + size[0], corner[1] : corner[1] + size[1]] = False
    return out


# --- what ruins a mask altogether -------------------------------------------------------------------------------------


def _inverted(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return ~mask


def _empty(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.zeros_like(mask)


def _full(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.ones_like(mask)


def _random(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.random(mask.shape) < 0.5


# --- the families -----------------------------------------------------------------------------------------------------

FAMILY_SHARES: Mapping[str, float] = MappingProxyType(
    {
        "unchanged": 0.20,
        "single": 0.28,
        "chain": 0.18,
        "donor": 0.10,
        "heavy": 0.12,
        "catastrophic": 0.05,
        "blob": 0.07,
    }
)
# Those of the release's separate test script, on which its printed r and mean absolute error were measured.
TEST_SHARES: Mapping[str, float] = MappingProxyType({**FAMILY_SHARES, "unchanged": 0.12, "donor": 0.18})


def _blobs() -> dict[str, Entry]:
    return {
        "gaussian_blob": Entry(_gaussian_blob, 1.0),
        "gaussian_blob_large": Entry(_gaussian_blob, 0.7),
        "circular_blob": Entry(_circular_blob, 0.8),
        "convex_hull": Entry(_convex_hull, 1.0),
        "bounding_box": Entry(_bounding_box, 0.5),
    }


def _singles(floor: bool) -> dict[str, Entry]:
    return {
        "erosion_5": Entry(partial(_erosion, side=5), 1.0),
        "erosion_7": Entry(partial(_erosion, side=7), 1.0),
        "erosion_9": Entry(partial(_erosion, side=9), 0.8),
        "dilation_5": Entry(partial(_dilation, side=5), 1.0),
        "dilation_7": Entry(partial(_dilation, side=7), 1.0),
        "dilation_9": Entry(partial(_dilation, side=9), 0.8),
        "opening": Entry(partial(_opening, side=5), 0.5),
        "closing": Entry(partial(_closing, side=5), 0.5),
        "ellipse": Entry(_ellipse, 1.0),
        "polygon_3": Entry(partial(_polygon, corners=3), 0.5),
        "polygon_5": Entry(partial(_polygon, corners=5), 0.8),
        "polygon_8": Entry(partial(_polygon, corners=8), 0.8),
        "jagged_3": Entry(partial(_jagged, side=3), 1.0),
        "jagged_5": Entry(partial(_jagged, side=5), 1.0),
        "smoothed_11": Entry(partial(_smoothed, side=11), 0.8),
        "smoothed_15": Entry(partial(_smoothed, side=15), 0.8),
        "elastic_light": Entry(partial(_elastic, alpha=30, sigma=4), 1.0),
        "elastic_heavy": Entry(partial(_elastic, alpha=60, sigma=5), 0.8),
        "grid_light": Entry(partial(_grid, cells=5, limit=0.2), 1.0),
        "grid_heavy": Entry(partial(_grid, cells=8, limit=0.4), 0.7),
        "holes_small": Entry(partial(_holes, count=2, least=3, most=8), 1.0),
        "holes_large": Entry(partial(_holes, count=3, least=8, most=15), 0.8),
        "islands_small": Entry(partial(_islands, count=2, least=3, most=8), 1.0),
        "holes_and_islands": Entry(_holes_and_islands, 1.0),
        "largest_component": Entry(_largest_component, 0.8),
        "dropped_component": Entry(_dropped_component, 0.5),
        "dropped_rectangle": Entry(_dropped_rectangle, 0.8),
        "shift_small": Entry(partial(_shift, share=0.1), 1.0),
        "shift_medium": Entry(partial(_shift, share=0.2), 0.8),
        "shift_large": Entry(partial(_shift, share=0.3), 0.5),
        "scale_down": Entry(partial(_scale, least=0.75, most=0.9, floor=floor), 1.0),
        "scale_up": Entry(partial(_scale, least=1.1, most=1.25, floor=floor), 1.0),
        "rotation_small": Entry(partial(_rotation, degrees=15, floor=floor), 1.0),
        "rotation_large": Entry(partial(_rotation, degrees=30, floor=floor), 0.7),
        "affine": Entry(partial(_affine, floor=floor), 0.8),
        **_blobs(),
    }


def _heavy(floor: bool) -> dict[str, Entry]:
    return {
        "erosion_11": Entry(partial(_erosion, side=11)),
        "dilation_11": Entry(partial(_dilation, side=11)),
        "shift_heavy": Entry(partial(_shift, share=0.4)),
        "scale_down_heavy": Entry(partial(_scale, least=0.5, most=0.7, floor=floor)),
        "scale_up_heavy": Entry(partial(_scale, least=1.4, most=1.6, floor=floor)),
        "grid_very_heavy": Entry(partial(_grid, cells=12, limit=0.6)),
        "holes_many": Entry(partial(_holes, count=5, least=10, most=20)),
    }


def _catastrophes() -> dict[str, Entry]:
    return {
        "inverted": Entry(_inverted, 1.0),
        "empty": Entry(_empty, 0.5),
        "full": Entry(_full, 0.5),
        "random": Entry(_random, 0.3),
    }


class ReleaseMixture:
    """Draws a family by its share and an entry of it by its weight, and degrades a mask by that.

    ============  ====================================================================================================
    unchanged     the mask itself (a copy)
    single        one of 40 entries, by weight
    chain         two or three different ones of the 35 that are no blob, each as likely, in the order drawn
    donor         another mask, drawn from the fifth of the donors whose areas are nearest
    heavy         one of 7
    catastrophic  inverted, empty, full, or random pixels, by weight
    blob          one of the 5 blobs, each as likely
    ============  ====================================================================================================

    Parameters
    ----------
    shares : mapping of str to float
        Of the families; they sum to 1. The release trains with `FAMILY_SHARES` and tests with `TEST_SHARES`.
    floor : bool
        Scaling, turning and affine maps cut fractions of pixels off, as the release's do (`_warped`).
    """

    def __init__(self, shares: Mapping[str, float] = FAMILY_SHARES, floor: bool = True) -> None:
        self._shares = shares
        self.singles = _singles(floor)
        self.families: Mapping[str, Mapping[str, Entry]] = {
            "single": self.singles,
            "heavy": _heavy(floor),
            "catastrophic": _catastrophes(),
            "blob": {name: Entry(entry.corrupt) for name, entry in _blobs().items()},
        }
        self.chained = [entry for name, entry in self.singles.items() if name not in _blobs()]

    def degrade(
        self, mask: np.ndarray, rng: np.random.Generator, donors: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, str]:
        """Return a degraded mask (H, W) bool, a new array, and the family that it was drawn from.

        Parameters
        ----------
        mask : (H, W) bool
            Ground truth as the image shows it; may be empty or full.
        rng : numpy.random.Generator
            The only source of chance: equal state, equal result.
        donors : sequence of (H, W) bool
            Masks of the other images, of the same shape. Without any, 'donor' gives the mask itself.
        """
        family = str(rng.choice(list(self._shares), p=list(self._shares.values())))
        if family == "unchanged" or (family == "donor" and not donors):
            return mask.copy(), family
        if family == "donor":
            return _donor(mask, rng, donors), family
        if family == "chain":
            degraded = mask
            for place in rng.permutation(len(self.chained))[: rng.integers(2, 4)]:
                degraded = self.chained[place].corrupt(degraded, rng)
            return degraded, family
        entries = list(self.families[family].values())
        weights = np.array([entry.weight for entry in entries])
        return entries[rng.choice(len(entries), p=weights / weights.sum())].corrupt(mask, rng), family


def _donor(mask: np.ndarray, rng: np.random.Generator, donors: Sequence[np.ndarray]) -> np.ndarray:
    """Return one of the fifth (at least one) of the donors whose areas are nearest to the mask's."""
    areas = np.array([np.count_nonzero(donor) for donor in donors])
    nearest = np.argsort(np.abs(areas - np.count_nonzero(mask)), kind="stable")
    return donors[rng.choice(nearest[: max(1, (len(donors) + 1) // 5)])].copy()
