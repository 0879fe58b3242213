"""Do intervals of misses, HD95 and NSD hold their level? ``python perf/miss_simulation.py``, two minutes of a core.

Images are missed where a latent ease falls below a cut: shared by the images of a group (30 % of its variance), by the
seeds of a method, and partly by two twins. HD95 is log-normal in it, and 100 (the diagonal) where an image is missed;
NSD is logistic in it, and 0 there. Printed, in per cent: how often the crossed model's 95 % interval holds the truth,
over all experiments, and over those in which the rules of `qgbench.stats.misses` give one, with the share of these.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import expit, ndtri

from qgbench.stats.crossed import half_width, mean_squares
from qgbench.stats.misses import LEAST_OF_DIFFERENCE, LEAST_OF_MEAN, carrying

REPLICATES = 2000
SD_SEED, SD_RUN = 0.15, 0.5
SD = float(np.sqrt(1 + SD_SEED**2 + SD_RUN**2))


class Drawn(NamedTuple):
    """Tables (replicates, groups, seeds) of two methods, the second with half the misses, and the true means."""

    missed: tuple[np.ndarray, np.ndarray]
    hd95: tuple[np.ndarray, np.ndarray]
    nsd: tuple[np.ndarray, np.ndarray]
    truth: dict[str, tuple[float, float]]


def draw(groups: int, images: int, seeds: int, share: float, replicates: int = REPLICATES, seed: int = 0) -> Drawn:
    """Return experiments with `images` in each group; `share` is the first method's true share of missed images."""
    generator = np.random.default_rng([seed, groups, images, seeds, int(1000 * share)])
    normal = generator.standard_normal
    ease = np.sqrt(0.3) * normal((replicates, groups, 1, 1)) + np.sqrt(0.7) * normal((replicates, groups, images, 1))
    shares = (share, share / 2)
    latent = [
        ease + SD_SEED * normal((replicates, 1, 1, seeds)) + SD_RUN * normal((replicates, groups, images, seeds))
        for _ in shares
    ]
    population = SD * ndtri((np.arange(200_000) + 0.5) / 200_000)
    measures: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {"missed": _missed, "hd95": _hd95, "nsd": _nsd}

    def tables(name: str) -> tuple[np.ndarray, np.ndarray]:
        one, other = (measures[name](ease, part).mean(axis=2) for ease, part in zip(latent, shares, strict=True))
        return one, other

    def truth(name: str) -> tuple[float, float]:
        one, other = (float(measures[name](population, part).mean()) for part in shares)
        return one, other

    return Drawn(tables("missed"), tables("hd95"), tables("nsd"), {name: truth(name) for name in measures})


def _missed(latent: np.ndarray, share: float) -> np.ndarray:
    return (latent < SD * ndtri(share)).astype(float)


def _hd95(latent: np.ndarray, share: float) -> np.ndarray:
    return np.where(_missed(latent, share) > 0, 100.0, np.exp(1.5 - 0.7 * latent))


def _nsd(latent: np.ndarray, share: float) -> np.ndarray:
    return np.where(_missed(latent, share) > 0, 0.0, expit(0.3 + latent))


def held(table: np.ndarray, truth: float) -> np.ndarray:
    """Return whether the interval of each replicate holds the truth."""
    squares = mean_squares(table)
    return np.abs(squares.mean - truth) <= half_width(squares)


def given(drawn: Drawn) -> tuple[np.ndarray, np.ndarray]:
    """Return in which replicates a mean of the first method, and a difference of misses, has an interval."""
    one, other = drawn.missed
    return carrying(one) >= LEAST_OF_MEAN, carrying(one - other) >= LEAST_OF_DIFFERENCE


def main() -> None:
    print(
        "groups images seeds missed % | mean: missed | HD95 | NSD | difference: missed | HD95 | NSD; "
        "all, given of so many"
    )
    for groups, images in ((6, 1), (6, 4), (10, 1), (10, 4), (20, 1), (20, 4), (40, 1), (40, 4), (100, 1)):
        for seeds in (3, 5):
            for share in (0.02, 0.06, 0.15, 0.3):
                drawn = draw(groups, images, seeds, share)
                of_mean, of_difference = given(drawn)
                cells = [
                    _words(held(getattr(drawn, name)[0], drawn.truth[name][0]), of_mean if name != "nsd" else None)
                    for name in ("missed", "hd95", "nsd")
                ]
                for name in ("missed", "hd95", "nsd"):
                    one, other = getattr(drawn, name)
                    found = held(one - other, drawn.truth[name][0] - drawn.truth[name][1])
                    cells.append(_words(found, of_difference if name != "nsd" else None))
                print(f"{groups:6} {images:6} {seeds:5} {100 * share:7.0f} | " + " | ".join(cells), flush=True)


def _words(found: np.ndarray, shown: np.ndarray | None) -> str:
    every = f"{100 * found.mean():5.1f}"
    if shown is None:
        return every
    ruled = f"{100 * found[shown].mean():5.1f}" if shown.sum() > 20 else "   --"
    return f"{every}, {ruled} of {100 * shown.mean():3.0f}"


if __name__ == "__main__":
    main()
