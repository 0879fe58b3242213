"""Is g being fooled? A warning for runs with QAR, whose student is trained to please g."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

# g's optimism has grown when it rose by this much, and by this many standard errors, in so many validations in a row.
_RISE = 0.05
_STANDARD_ERRORS = 2.0
_IN_A_ROW = 2


def optimism_has_grown(gaps: Sequence[ArrayLike]) -> float | None:
    """Return how far g's judgement of the validation predictions has drifted from their true Dice; None if it has not.

    QAR trains the student to please g. If q rises while Dice does not, it pleases g by other means than better masks.

    Parameters
    ----------
    gaps : sequence of (V,) float
        q minus Dice of every validation image, one row for each validation since QAR began; the first is compared with.

    Returns
    -------
    float or None
        The mean rise, if it exceeds 0.05 and two standard errors (over images) at the last two validations, else None.
    """
    if len(gaps) <= _IN_A_ROW:
        return None
    rises = np.array(gaps[-_IN_A_ROW:]) - np.asarray(gaps[0])
    means = rises.mean(1)
    errors = rises.std(1, ddof=1) / math.sqrt(rises.shape[1])
    return float(means[-1]) if bool((means > np.maximum(_RISE, _STANDARD_ERRORS * errors)).all()) else None
