"""Find records whose rows agree but for a few pixels: measurements that were copied and then touched.

Two trainings never agree in most images. Of the nearest two of 489 records (25,671 pairs on the same test images) 26 %
of the images do; they are a method and the same with an add-on, trained on the same seven labels. Half is the limit.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

LIMIT = 0.5  # share of images that agree
_OF_REFERENCE = 0.003  # pixels that may differ, as a share of the reference's ...
_PIXELS = 4.0  # ... or so many, where that is more; and in either case no more than ...
_OF_ERROR = 0.1  # ... this share of the pixels in which the better prediction differs from the reference
_FEWEST = 10  # images that tell anything
_WITHIN = 0.01  # mean Dice; copies that differ in a few pixels of each image lie closer

Counts = NDArray[np.float64]


def telling(n_ref: Counts, n_pred: Counts, n_tp: Counts, pixels: Counts) -> NDArray[np.bool_]:
    """Return of which rows the counts tell anything: those of a prediction that is neither empty, full nor perfect."""
    wrong = n_ref + n_pred - 2 * n_tp
    return (n_pred > 0) & (n_pred < pixels) & (wrong > 0)


def agreeing(n_ref: Counts, first: Counts, second: Counts) -> Counts:
    """Return the share of telling images in which predictions agree but for a few pixels; 0 where few images tell.

    Parameters
    ----------
    n_ref : (N,) float
        Pixels of the reference.
    first : (2, N) float
        Predicted pixels and those of them that are right, of one record; NaN where they tell nothing.
    second : (K, 2, N) float
        The same of others.

    Returns
    -------
    (K,) float
        In [0, 1].
    """
    both = np.isfinite(second[:, 0]) & np.isfinite(first[0])
    wrong = np.minimum(n_ref + first[0] - 2 * first[1], n_ref + second[:, 0] - 2 * second[:, 1])
    differing = np.abs(second - first).sum(axis=1)
    near = (differing <= np.maximum(_PIXELS, _OF_REFERENCE * n_ref)) & (differing <= _OF_ERROR * wrong)
    told = both.sum(axis=1)
    return np.where(told >= max(_FEWEST, 0.5 * len(n_ref)), (near & both).sum(axis=1) / np.maximum(told, 1), 0.0)


def near_copies(n_ref: Counts, counts: Sequence[Counts], limit: float = LIMIT) -> Iterator[tuple[int, int, float]]:
    """Yield pairs of records on the same images that agree in a share of them, and this share.

    Parameters
    ----------
    n_ref : (N,) float
    counts : sequence of (2, N) float
        As `agreeing` takes them.
    limit : float
        Smallest share that is told.
    """
    every = np.stack(counts)
    told = np.isfinite(every[:, 0])
    of_images = np.where(told, 2 * every[:, 1] / np.maximum(every[:, 0] + n_ref, 1), 0.0)
    dice = of_images.sum(axis=1) / np.maximum(told.sum(axis=1), 1)
    order = np.argsort(dice, kind="stable")
    every, dice = every[order], dice[order]
    for one in range(len(every)):
        end = int(np.searchsorted(dice, dice[one] + _WITHIN, side="right"))
        shares = agreeing(n_ref, every[one], every[one + 1 : end])
        for other in np.flatnonzero(shares >= limit):
            first, second = sorted((int(order[one]), int(order[one + 1 + other])))
            yield first, second, float(shares[other])
