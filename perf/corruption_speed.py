"""Time of the mask corruptions on lesion-like masks.

Usage: ``python -m perf.corruption_speed [side of the mask in pixels, default 96]``. Prints the mean time of a call of
`degrade` and of every corruption, slowest first, on one core.
"""

import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from qgbench.quality.corruptions import CATASTROPHES, CORRUPTIONS, HEAVY, degrade

MASKS = 28  # as many as the least labelled budget


def lesion(side: int, rng: np.random.Generator) -> np.ndarray:
    """Return a lesion with a wavy border, its radius 0.1 to 0.35 of the side; (side, side) bool."""
    y, x = np.mgrid[:side, :side] - side * rng.uniform(0.35, 0.65, (2, 1, 1))
    angle = np.arctan2(y, x)
    waves = sum(rng.normal(0, 0.1) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in range(2, 6))
    return np.hypot(y, x) < side * rng.uniform(0.1, 0.35) * (1 + waves)


def mean_milliseconds(corruption: Callable[..., object], masks: list[np.ndarray], repeats: int) -> float:
    rng = np.random.default_rng(1)
    start = time.perf_counter()
    for _ in range(repeats):
        for mask in masks:
            corruption(mask, rng)
    return 1000 * (time.perf_counter() - start) / (repeats * len(masks))


def main() -> None:
    side = int(sys.argv[1]) if len(sys.argv) > 1 else 96
    rng = np.random.default_rng(0)
    masks = [lesion(side, rng) for _ in range(MASKS)]
    print(f"degrade, {side} x {side}: {mean_milliseconds(partial(degrade, donors=masks), masks, 60):.3f} ms a call")
    registered = {
        **CORRUPTIONS,
        **{f"heavy {name}": corruption for name, corruption in HEAVY.items()},
        **{f"catastrophic {name}": corruption for name, corruption in CATASTROPHES.items()},
    }
    times = {name: mean_milliseconds(corruption, masks, 5) for name, corruption in registered.items()}
    for name, milliseconds in sorted(times.items(), key=lambda pair: -pair[1]):
        print(f"{milliseconds:8.3f} ms  {name}")


if __name__ == "__main__":
    main()
