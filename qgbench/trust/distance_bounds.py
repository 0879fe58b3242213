"""Which distances the pixels of two masks and the image's size allow, whatever the masks' shapes.

Of masks that both have foreground, with borders as in `qgbench.metrics.masks`, k dimensions and d below the distance:

- A border pixel of one mask that lies at d from the other's border is outside the other mask, and then all of the image
  within d of it is; or it is inside, and then all within d of it is in that mask, and in the image. A box of half side
  d / sqrt(k) lies within d.
- A mask of n pixels has at least n^((k - 1) / k) border pixels (Loomis and Whitney: so large is one of its shadows) and
  at most n. A border pixel at no distance 0 is a pixel in which the masks differ, or a neighbour of one.
- Within h of a border pixel lie no more pixels than in a box of half side h.

A percentile of 95 leaves out a twentieth of the pixels, interpolated; hence the shares below.
"""

import numpy as np
from numpy.typing import NDArray

from qgbench.trust.found import EXACT

Numbers = NDArray[np.float64]
_BEYOND = 0.05  # share of border pixels that may lie beyond a percentile of 95


def possible_distances(
    distance: Numbers, percentile: str, n_ref: Numbers, n_pred: Numbers, n_tp: Numbers, sides: Numbers, spacing: Numbers
) -> NDArray[np.bool_]:
    """Return which distances are possible.

    Parameters
    ----------
    distance : (N,) float
        In units of `spacing`, of masks that are both not empty.
    percentile : {'pooled', 'max', ''}
        HD95 of the pooled border pixels, the larger of the two directed ones, or a mean ('').
    n_ref, n_pred, n_tp : (N,) float
        Pixels of the reference, of the prediction, of both.
    sides : (k, N) float
        Of the image or volume, in pixels.
    spacing : (k, N) float
        Sides of a pixel.
    """
    below, above = distance * (1 - EXACT), distance * (1 + EXACT)
    reached = np.ceil(below / (np.sqrt(len(sides)) * spacing))  # pixels of a half side, with the one in the middle
    corner, whole = (
        np.minimum(sides, np.maximum(reached, 1)).prod(axis=0),
        (2 * np.maximum(reached, 1) - 1).prod(axis=0),
    )
    outside = [(corner <= sides.prod(axis=0) - n) & (other > n_tp) for n, other in ((n_ref, n_pred), (n_pred, n_ref))]
    inside = [(whole < n) & (n_tp > 0) for n in (n_ref, n_pred)]
    possible = np.any([*outside, *inside, distance == 0], axis=0)
    if not percentile:
        return possible

    border_ref, border_pred = (n ** (1 - 1 / len(sides)) - EXACT for n in (n_ref, n_pred))
    least = border_ref + border_pred if percentile == "pooled" else np.minimum(border_ref, border_pred)
    moved = (2 * len(sides) + 1) * (n_ref + n_pred - 2 * n_tp)
    possible &= (distance == 0) | (moved >= _BEYOND * (least - 1))
    near = np.minimum(sides, 2 * np.floor(above / spacing) + 1).prod(axis=0) + _BEYOND
    for border, n in ((border_pred, n_ref), (border_ref, n_pred)):
        possible &= (1 - _BEYOND) * (border - 1) <= n * near
    return possible
