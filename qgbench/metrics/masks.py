"""Segmentation metrics of an image or a volume: overlap, boundary distances and surface Dice of two binary masks.

Border of a mask
    The mask minus its erosion with 4-connectivity, in a volume with 6-connectivity. Outside the image is background, so
    that a foreground pixel at the image's edge is border; of a volume, so are those of its first and last slice.
Distances
    Each border pixel's Euclidean distance to the nearest border pixel of the other mask: two directed sets, prediction
    to reference and back.
Empty masks
    Both empty: Dice, Jaccard, precision, recall and NSD 1, distances 0. One empty: Dice, Jaccard, precision, recall and
    NSD 0, distances NaN (what a NaN counts as in an average is for the reader of the records to say).

`ImageMetrics.hd95` and `ImageMetrics.assd` are those of medpy 0.5, `ImageMetrics.hd95_max` is MONAI's. The normalised
surface Dice (NSD) is that of Nikolov et al. (arXiv 1809.04430), with border pixels counted instead of border lengths.
A pixel stands for a voxel where the masks are of a volume; two of them are then twice the smallest of its three sides.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

Mask = npt.NDArray[np.bool_]
Status = Literal["ok", "missed", "spurious", "both_empty"]

NSD_PIXELS = 2.0
NSD_DIAGONAL_FRACTION = 0.02
_LOOKED_UP = 2.0  # smallest sides of a voxel; more steps cost more than they save
_LOOKED_UP_AT_MOST = 8.0  # of them, where the next slice is further away than that


@dataclass(frozen=True)
class ImageMetrics:
    """How one predicted mask compares with its reference; fields as in `qgbench.metrics.table.IMAGE_COLUMNS`.

    Distances are in units of `measure`'s spacing, pixels by default.
    """

    n_ref: int  # foreground pixels of the reference
    n_pred: int  # foreground pixels of the prediction
    n_tp: int  # foreground pixels of both
    dice: float  # 2 n_tp / (n_pred + n_ref), in [0, 1]
    jaccard: float  # n_tp / pixels in either mask, in [0, 1]
    precision: float  # n_tp / n_pred, in [0, 1]; prediction empty: 1 if the reference is too, else 0
    recall: float  # n_tp / n_ref, in [0, 1]; reference empty: 1 if the prediction is too, else 0
    hd95: float  # 95th percentile of the two directed sets pooled; NaN if one mask is empty, as for all distances
    hd95_max: float  # larger of the two sets' 95th percentiles
    assd: float  # mean of the two directed sets pooled (not MASD, the mean of the two sets' means)
    nsd_2px: float  # share of all border pixels within twice a pixel's smallest side of the other border, in [0, 1]
    nsd_2pct: float  # share of all border pixels within 2 % of the image's diagonal of the other border, in [0, 1]
    status: Status  # 'missed': only the prediction is empty; 'spurious': only the reference is


def measure(pred: npt.ArrayLike, ref: npt.ArrayLike, spacing: tuple[float, ...] | None = None) -> ImageMetrics:
    """Return every metric of a predicted mask against its reference.

    Parameters
    ----------
    pred, ref : (H, W) or (D, H, W) bool, or any numbers that are all 0 or 1
        Predicted and reference foreground, of an image or of a volume.
    spacing : (float, float) or (float, float, float), optional
        Height and width of a pixel, or depth, height and width of a voxel; distances come in its units. Each 1 if not
        given.

    Returns
    -------
    ImageMetrics
        Percentiles are interpolated linearly (numpy's default). The tolerances of NSD include equality: 2 pixels are
        twice the smallest side of a pixel or voxel, the diagonal is that of the whole image in units of `spacing`.

    Raises
    ------
    ValueError
        The masks are neither 2-D nor 3-D, differ in shape or hold other values than 0 and 1; `spacing` is not a
        positive number for each dimension.
    """
    pred_mask, ref_mask = _as_masks(pred, ref)
    spacing = (1.0,) * pred_mask.ndim if spacing is None else spacing
    if len(spacing) != pred_mask.ndim or not all(math.isfinite(side) and side > 0 for side in spacing):
        sides = (
            "height and width of a pixel, two" if pred_mask.ndim == 2 else "depth, height and width of a voxel, three"
        )
        raise ValueError(f"spacing is the {sides} positive numbers: got {spacing}")
    n_pred, n_ref, n_tp = _counts(pred_mask, ref_mask)
    if n_pred == 0 or n_ref == 0:
        both = n_pred == n_ref
        score = 1.0 if both else 0.0
        distance = 0.0 if both else math.nan
        return ImageMetrics(
            n_ref=n_ref,
            n_pred=n_pred,
            n_tp=0,
            dice=score,
            jaccard=score,
            precision=score,
            recall=score,
            hd95=distance,
            hd95_max=distance,
            assd=distance,
            nsd_2px=score,
            nsd_2pct=score,
            status="both_empty" if both else "missed" if n_pred == 0 else "spurious",
        )
    to_ref, to_pred = _directed_distances(pred_mask, ref_mask, spacing)
    pooled = np.concatenate((to_ref, to_pred))
    return ImageMetrics(
        n_ref=n_ref,
        n_pred=n_pred,
        n_tp=n_tp,
        dice=2 * n_tp / (n_pred + n_ref),
        jaccard=n_tp / (n_pred + n_ref - n_tp),
        precision=n_tp / n_pred,
        recall=n_tp / n_ref,
        hd95=float(np.percentile(pooled, 95)),
        hd95_max=float(max(np.percentile(to_ref, 95), np.percentile(to_pred, 95))),
        assd=float(pooled.mean()),
        nsd_2px=_share_within(pooled, NSD_PIXELS * min(spacing)),
        nsd_2pct=_share_within(pooled, NSD_DIAGONAL_FRACTION * diagonal(pred_mask.shape, spacing)),
        status="ok",
    )


def dice(pred: npt.ArrayLike, ref: npt.ArrayLike) -> float:
    """Return the Dice coefficient of two masks, in [0, 1]; 1 if both are empty, 0 if one is.

    Parameters
    ----------
    pred, ref : (H, W) or (D, H, W) bool, or any numbers that are all 0 or 1
        Predicted and reference foreground.

    Raises
    ------
    ValueError
        The masks are neither 2-D nor 3-D, differ in shape or hold other values than 0 and 1.
    """
    n_pred, n_ref, n_tp = _counts(*_as_masks(pred, ref))
    return 2 * n_tp / (n_pred + n_ref) if n_pred + n_ref else 1.0


def diagonal(shape: tuple[int, ...], spacing: tuple[float, ...] | None = None) -> float:
    """Return the length of the diagonal of an image or a volume in units of `spacing`.

    Parameters
    ----------
    shape : (int, int) or (int, int, int)
        Height and width, of a volume depth first; pixels.
    spacing : tuple of float, optional
        Sides of a pixel in the same order; each 1 if not given.
    """
    return math.hypot(*(side * unit for side, unit in zip(shape, spacing or (1.0,) * len(shape), strict=True)))


def _as_masks(pred: npt.ArrayLike, ref: npt.ArrayLike) -> tuple[Mask, Mask]:
    arrays = np.asarray(pred), np.asarray(ref)
    if arrays[0].ndim not in (2, 3) or arrays[0].shape != arrays[1].shape:
        raise ValueError(
            "prediction and reference must be (H, W) or (D, H, W) masks of one shape: "
            f"got {arrays[0].shape} and {arrays[1].shape}"
        )
    for name, array in zip(("prediction", "reference"), arrays, strict=True):
        # A probability map cast to bool would be foreground almost everywhere.
        if array.dtype != np.bool_ and not np.all((array == 0) | (array == 1)):
            raise ValueError(f"the {name} must hold only 0 and 1: got values from {array.min()} to {array.max()}")
    return arrays[0].astype(bool, copy=False), arrays[1].astype(bool, copy=False)


def _counts(pred: Mask, ref: Mask) -> tuple[int, int, int]:
    return int(np.count_nonzero(pred)), int(np.count_nonzero(ref)), int(np.count_nonzero(pred & ref))


def _directed_distances(
    pred: Mask, ref: Mask, spacing: tuple[float, ...]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return how far the prediction's border pixels are from the reference's border, and the reference's from its."""
    box = _box(pred | ref)
    pixel = np.array(spacing, dtype=np.float64)
    pred_border, ref_border = _border(pred[box]), _border(ref[box])
    if pred.ndim == 3:
        return _nearest_voxels(pred_border, ref_border, pixel), _nearest_voxels(ref_border, pred_border, pixel)
    pred_points, ref_points = np.argwhere(pred_border) * pixel, np.argwhere(ref_border) * pixel
    return _nearest(pred_points, ref_points), _nearest(ref_points, pred_points)


def _nearest_voxels(border: Mask, other: Mask, voxel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return how far each voxel of a border is from the other border, in the order of `np.argwhere`.

    Most are close where the prediction is good: what is near is looked up, in a fraction of the time of a tree.
    """
    near = max(_LOOKED_UP * voxel.min(), min(voxel.max(), _LOOKED_UP_AT_MOST * voxel.min()))
    reach = (near / voxel).astype(int)
    steps = np.indices(2 * reach + 1).reshape(3, -1).T - reach
    lengths = np.sqrt(np.square(steps * voxel).sum(axis=1))
    in_turn = [place for place in np.argsort(lengths, kind="stable") if lengths[place] <= near]
    padded = np.pad(other, [(side, side) for side in reach])
    is_border, strides = padded.ravel(), np.array(padded.strides)  # a byte a voxel
    points = np.argwhere(border)
    places, left = (points + reach) @ strides, np.arange(len(points))
    distances = np.empty(len(points))
    for place in in_turn:
        found = is_border[places + steps[place] @ strides]
        distances[left[found]] = lengths[place]
        places, left = places[~found], left[~found]
    if left.size:
        distances[left] = _nearest(points[left] * voxel, np.argwhere(other) * voxel)
    return distances


def _box(mask: Mask) -> tuple[slice, ...]:
    """Return the smallest box around the foreground, of which there is some."""
    box: list[slice] = []
    for axis in range(mask.ndim):
        held = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(held[0], held[-1] + 1))
    return tuple(box)


def _nearest(points: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    # A tree that is asked once and then dropped is not worth balancing: on speckled masks building it would dominate.
    return np.asarray(cKDTree(others, balanced_tree=False, compact_nodes=False).query(points)[0])


def _border(mask: Mask) -> Mask:
    """Return the border pixels; around the array is background."""
    padded = np.pad(mask, 1)
    inside = mask.copy()
    for axis, side in enumerate(mask.shape):
        for start in (0, 2):
            moved = [slice(1, -1)] * mask.ndim
            moved[axis] = slice(start, start + side)
            inside &= padded[tuple(moved)]
    return mask & ~inside


def _share_within(distances: npt.NDArray[np.float64], tolerance: float) -> float:
    # Coordinates times spacing are rounded: without slack, chance would decide on a distance equal to the tolerance.
    return float(np.mean(distances <= tolerance * (1 + 1e-9)))
