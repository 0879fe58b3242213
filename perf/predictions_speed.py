"""Processor seconds and size of ``predictions.npz`` by level of deflate: ``python perf/predictions_speed.py``.

The masks are blobs with a rough border in as many photographs as the test part of ISIC 2017 has, 600 of 1000 x 750.
The levels are timed in turn, REPEATS times; printed is the least of each.
"""

import time
import zlib

import numpy as np
from scipy.ndimage import gaussian_filter

from qgbench.data.packed_masks import PackedMasks

IMAGES, SIDES = 600, (750, 1000)
LEVELS = (1, 6, 9)
REPEATS = 3


def blobs(rng: np.random.Generator) -> np.ndarray:
    """Return a mask (H, W) whose border is as rough as that of a network's prediction."""
    coarse, fine = (gaussian_filter(rng.standard_normal(SIDES), sigma) for sigma in (90, 3))
    return coarse / coarse.std() + 0.1 * fine / fine.std() > 1


def main() -> None:
    rng = np.random.default_rng(0)
    content = b"".join(
        array.tobytes() for array in PackedMasks({f"{n:07}": blobs(rng) for n in range(IMAGES)}).to_arrays().values()
    )
    times: dict[int, list[float]] = {level: [] for level in LEVELS}
    for _ in range(REPEATS):
        for level in LEVELS:
            start = time.process_time()
            zlib.compress(content, level)
            times[level].append(time.process_time() - start)
    print(f"{len(content) / 1e6:.2f} MB of runs")
    for level, seconds in times.items():
        print(f"level {level}: {min(seconds):.2f} s, {len(zlib.compress(content, level)) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
