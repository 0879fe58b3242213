"""Time of `qgbench.metrics.masks.measure` (all metrics of an image or volume) beside medpy's `hd95` and `assd` alone.

Run ``python perf/metrics_speed.py`` with qgbench installed. The masks are blobs, the prediction a perturbed reference:
images of 256 and 768 pixels a side, and volumes of 10 x 256 x 256 voxels of 10 x 1.4 x 1.4 mm and of 40 x 60 x 40 of
1 mm, with a few per cent of foreground, as organs have, and with a sixth. The two are timed in turn on each pair of
masks, in one process on one thread; a pair counts with the fastest of its repetitions. Printed: the median time per
pair of either, and the median and range of the pairs' ratios, medpy over qgbench.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from medpy.metric import binary as medpy_binary
from scipy.ndimage import gaussian_filter

from qgbench.metrics.masks import measure

Shape = tuple[int, ...]
CASES: tuple[tuple[Shape, tuple[float, ...], float], ...] = (  # shape, spacing, threshold in standard deviations
    ((256, 256), (1.0, 1.0), 1.0),
    ((768, 768), (1.0, 1.0), 1.0),
    ((10, 256, 256), (10.0, 1.4, 1.4), 1.8),
    ((10, 256, 256), (10.0, 1.4, 1.4), 1.0),
    ((40, 60, 40), (1.0, 1.0, 1.0), 1.8),
    ((40, 60, 40), (1.0, 1.0, 1.0), 1.0),
)
PAIRS = 12
REPETITIONS = 5

Mask = npt.NDArray[np.bool_]


def blobs(shape: Shape, threshold: float, rng: np.random.Generator) -> tuple[Mask, Mask]:
    """Return two masks that are not empty."""
    while True:
        field, noise = (
            gaussian_filter(rng.standard_normal(shape), [side / part for side in shape]) for part in (12, 24)
        )
        pred, ref = field / field.std() + 0.3 * noise / noise.std() > threshold, field / field.std() > threshold
        if pred.any() and ref.any():
            return pred, ref


def medpy_distances(pred: Mask, ref: Mask, spacing: tuple[float, ...]) -> tuple[float, float]:
    return medpy_binary.hd95(pred, ref, spacing), medpy_binary.assd(pred, ref, spacing)


def seconds(compare: Callable[[Mask, Mask, tuple[float, ...]], object], *given: Any) -> float:
    start = time.perf_counter()
    compare(*given)
    return time.perf_counter() - start


def main() -> None:
    rng = np.random.default_rng(0)
    print("           shape   foreground   qgbench, ms   medpy, ms   medpy / qgbench, median (least - most)")
    for shape, spacing, threshold in CASES:
        ours, medpys, shares = [], [], []
        for _ in range(PAIRS):
            pred, ref = blobs(shape, threshold, rng)
            shares.append(ref.mean())
            given = pred, ref, spacing
            times = [(seconds(measure, *given), seconds(medpy_distances, *given)) for _ in range(REPETITIONS)]
            ours.append(min(own for own, _ in times))
            medpys.append(min(other for _, other in times))
        ratios = [other / own for own, other in zip(ours, medpys, strict=True)]
        print(
            f"{' x '.join(map(str, shape)):>16}   {statistics.median(shares):10.1%}"
            f"   {1e3 * statistics.median(ours):11.2f}   {1e3 * statistics.median(medpys):9.2f}"
            f"   {statistics.median(ratios):.1f} ({min(ratios):.1f} - {max(ratios):.1f})"
        )


if __name__ == "__main__":
    main()
