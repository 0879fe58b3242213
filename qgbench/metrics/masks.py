"""Per-image segmentation metrics: overlap, boundary distances and surface Dice of one binary mask against another.

Border of a mask
    The mask minus its erosion with 4-connectivity. Outside the image is background, so that a foreground pixel at the
    image's edge is border.
Distances
    Each border pixel's Euclidean distance to the nearest border pixel of the other mask: two directed sets, prediction
    to reference and back.
Empty masks
    Both empty: Dice, Jaccard, precision, recall and NSD 1, distances 0. One empty: Dice, Jaccard, precision, recall and
    NSD 0, distances NaN (what a NaN counts as in an average is for the reader of the records to say).

`ImageMetrics.hd95` and `ImageMetrics.assd` are those of medpy 0.5, `ImageMetrics.hd95_max` is MONAI's. The normalised
surface Dice (NSD) is that of Nikolov et al. (arXiv 1809.04430), with border pixels counted instead of border lengths.
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
    nsd_2px: float  # share of all border pixels within 2 pixels of the other border, in [0, 1]
    nsd_2pct: float  # share of all border pixels within 2 % of the image's diagonal of the other border, in [0, 1]
    status: Status  # 'missed': only the prediction is empty; 'spurious': only the reference is


def measure(pred: npt.ArrayLike, ref: npt.ArrayLike, spacing: tuple[float, float] = (1.0, 1.0)) -> ImageMetrics:
    """Return every metric of a predicted mask against its reference.

    Parameters
    ----------
    pred, ref : (H, W) bool, or any numbers that are all 0 or 1
        Predicted and reference foreground.
    spacing : (float, float)
        Height and width of a pixel; distances come in its units.

    Returns
    -------
    ImageMetrics
        Percentiles are interpolated linearly (numpy's default). The tolerances of NSD include equality: 2 pixels are
        twice the smaller side of a pixel, the diagonal is that of the whole image in units of `spacing`.

    Raises
    ------
    ValueError
        The masks are not 2-D, differ in shape or hold other values than 0 and 1; `spacing` is not two positive numbers.
    """
    pred_mask, ref_mask = _as_masks(pred, ref)
    if len(spacing) != 2 or not all(math.isfinite(side) and side > 0 for side in spacing):
        raise ValueError(f"spacing is the height and width of a pixel, two positive numbers: got {spacing}")
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
    pred, ref : (H, W) bool, or any numbers that are all 0 or 1
        Predicted and reference foreground.

    Raises
    ------
    ValueError
        The masks are not 2-D, differ in shape or hold other values than 0 and 1.
    """
    n_pred, n_ref, n_tp = _counts(*_as_masks(pred, ref))
    return 2 * n_tp / (n_pred + n_ref) if n_pred + n_ref else 1.0


def diagonal(shape: tuple[int, ...], spacing: tuple[float, float] = (1.0, 1.0)) -> float:
    """Return the length of an image's diagonal in units of `spacing`: hypot(H * spacing[0], W * spacing[1]).

    Parameters
    ----------
    shape : (int, int)
        Height and width, pixels.
    spacing : (float, float)
        Height and width of a pixel.
    """
    height, width = shape
    return math.hypot(height * spacing[0], width * spacing[1])


def _as_masks(pred: npt.ArrayLike, ref: npt.ArrayLike) -> tuple[Mask, Mask]:
    arrays = np.asarray(pred), np.asarray(ref)
    if arrays[0].ndim != 2 or arrays[0].shape != arrays[1].shape:
        raise ValueError(
            f"prediction and reference must be (H, W) masks of one shape: got {arrays[0].shape} and {arrays[1].shape}"
        )
    for name, array in zip(("prediction", "reference"), arrays, strict=True):
        # A probability map cast to bool would be foreground almost everywhere.
        if array.dtype != np.bool_ and not np.all((array == 0) | (array == 1)):
            raise ValueError(f"the {name} must hold only 0 and 1: got values from {array.min()} to {array.max()}")
    return arrays[0].astype(bool, copy=False), arrays[1].astype(bool, copy=False)


def _counts(pred: Mask, ref: Mask) -> tuple[int, int, int]:
    return int(np.count_nonzero(pred)), int(np.count_nonzero(ref)), int(np.count_nonzero(pred & ref))


def _directed_distances(
    pred: Mask, ref: Mask, spacing: tuple[float, float]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return how far the prediction's border pixels are from the reference's border, and the reference's from its."""
    either = pred | ref
    rows, columns = np.flatnonzero(either.any(axis=1)), np.flatnonzero(either.any(axis=0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    pixel = np.array(spacing, dtype=np.float64)
    pred_points, ref_points = _border_points(pred[box]) * pixel, _border_points(ref[box]) * pixel
    return _nearest(pred_points, ref_points), _nearest(ref_points, pred_points)


def _nearest(points: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    # A tree that is asked once and then dropped is not worth balancing: on speckled masks building it would dominate.
    return np.asarray(cKDTree(others, balanced_tree=False, compact_nodes=False).query(points)[0])


def _border_points(mask: Mask) -> npt.NDArray[np.intp]:
    """Return row and column of each border pixel, (N, 2); around the array is background."""
    padded = np.pad(mask, 1)
    eroded = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.argwhere(mask & ~eroded)


def _share_within(distances: npt.NDArray[np.float64], tolerance: float) -> float:
    # Coordinates times spacing are rounded: without slack, chance would decide on a distance equal to the tolerance.
    return float(np.mean(distances <= tolerance * (1 + 1e-9)))
