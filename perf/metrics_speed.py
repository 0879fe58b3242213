"""Time of `qgbench.metrics.masks.measure` (all metrics of an image) beside that of medpy's `hd95` and `assd` alone.

Run ``python perf/metrics_speed.py`` with qgbench installed. The masks are blobs, the prediction a perturbed reference,
at 256 and 768 pixels a side. The two are timed in turn on each pair of masks, in one process on one thread; a pair
counts with the fastest of its repetitions. Printed: the median time per pair of either, and the median and range of
the pairs' ratios, medpy over qgbench.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from medpy.metric import binary as medpy_binary
from scipy.ndimage import gaussian_filter

from qgbench.metrics.masks import measure

SIZES = (256, 768)
PAIRS = 12
REPETITIONS = 5

Mask = npt.NDArray[np.bool_]


def blobs(size: int, rng: np.random.Generator) -> tuple[Mask, Mask]:
    field = gaussian_filter(rng.standard_normal((size, size)), size / 12)
    noise = gaussian_filter(rng.standard_normal((size, size)), size / 24)
    return field / field.std() + 0.3 * noise / noise.std() > 1, field / field.std() > 1


def medpy_distances(pred: Mask, ref: Mask) -> tuple[float, float]:
    return medpy_binary.hd95(pred, ref), medpy_binary.assd(pred, ref)


def seconds(compare: Callable[[Mask, Mask], object], pred: Mask, ref: Mask) -> float:
    start = time.perf_counter()
    compare(pred, ref)
    return time.perf_counter() - start


def main() -> None:
    rng = np.random.default_rng(0)
    print("side, px   qgbench, ms   medpy, ms   medpy / qgbench, median (least - most)")
    for size in SIZES:
        ours, medpys = [], []
        for _ in range(PAIRS):
            pred, ref = blobs(size, rng)
            times = [(seconds(measure, pred, ref), seconds(medpy_distances, pred, ref)) for _ in range(REPETITIONS)]
            ours.append(min(own for own, _ in times))
            medpys.append(min(other for _, other in times))
        ratios = [other / own for own, other in zip(ours, medpys, strict=True)]
        print(
            f"{size:8}   {1e3 * statistics.median(ours):11.2f}   {1e3 * statistics.median(medpys):9.2f}"
            f"   {statistics.median(ratios):.1f} ({min(ratios):.1f} - {max(ratios):.1f})"
        )


if __name__ == "__main__":
    main()
