"""Calibration and speed of `qgbench.data.duplicates`.

Run ``python perf/duplicates.py`` with qgbench installed and QGBENCH_DATA set. Printed: how many pairs of real images
reach a similarity, by where the two are from; the pairs of different groups that come nearest to the limit on either
side, to be looked at; the similarity of real images to copies made of them; the time of fingerprints, and of the
search in 33,126 and 165,630 made-up fingerprints (each two real ones mixed) with the memory that it took.
"""

import io
import itertools
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable

import numpy as np
from PIL import Image

from qgbench.data.duplicates import LIMIT, Fingerprint, fingerprint, near_pairs, similarity
from qgbench.data.readers import Source, open_pool, open_source

SETS = ("ph2", "scd", "cvc_clinicdb", "cvc_colondb", "isic2017")
POOLS = ("isic_pool", "kvasir_pool")
LIMITS = (0.93, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99, 0.995)
COPIED = 600
SHOWN = 6
LARGE = (33_126, 5 * 33_126)


def jpeg(image: Image.Image, quality: int = 60) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def resized(image: Image.Image) -> Image.Image:
    return image.resize((round(0.7 * image.width), round(0.7 * image.height)), Image.Resampling.BICUBIC)


def gamma(image: Image.Image, power: float) -> Image.Image:
    return Image.fromarray((255 * (np.asarray(image) / 255) ** power).round().astype(np.uint8))


def cropped(image: Image.Image, share: float) -> Image.Image:
    x, y = (max(1, round(share / 2 * length)) for length in image.size)
    return image.crop((x, y, image.width - x, image.height - y))


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG 60": jpeg,
    "70 % of the size": resized,
    "brightness + 10 %": lambda image: image.point([min(255, round(1.1 * value)) for value in range(256)] * 3),
    "gamma 0.8": lambda image: gamma(image, 0.8),
    "gamma 1.2": lambda image: gamma(image, 1.2),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "quarter turn": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "70 %, JPEG 60, gamma 1.2, turned": lambda image: jpeg(
        gamma(resized(image), 1.2).transpose(Image.Transpose.TRANSVERSE)
    ),
    "2 % cropped, all round": lambda image: cropped(image, 0.02),
    "5 % cropped, all round": lambda image: cropped(image, 0.05),
    "2 % cropped, one side": lambda image: image.crop((round(0.02 * image.width), 0, image.width, image.height)),
}


def main() -> None:
    sources: list[Source] = [*map(open_source, SETS), *map(open_pool, POOLS)]
    names = [(source.name, id) for source in sources for id in source.ids]
    groups = [(source.name, group) for source in sources for group in source.groups]
    images = [source.image(id) for source in sources for id in source.ids]
    start = time.perf_counter()
    prints = [fingerprint(image) for image in images]
    print(
        f"{len(prints)} fingerprints of 256 px images: {1e3 * (time.perf_counter() - start) / len(prints):.2f} ms each"
    )
    large = np.random.default_rng(0).integers(256, size=(4000, 6000, 3), dtype=np.uint8)
    start = time.perf_counter()
    fingerprint(large)
    print(f"fingerprint of a 6000 x 4000 px image: {time.perf_counter() - start:.2f} s")
    print_pairs(names, groups, prints)
    print_recall(images, prints)
    print_speed(prints)


def print_pairs(names: list[tuple[str, str]], groups: list[tuple[str, str]], prints: list[Fingerprint]) -> None:
    found = [(value, i, j) for i, j, value in near_pairs(prints, LIMITS[0]) if prints[i].pixels != prints[j].pixels]
    places = {(i, j): " - ".join(dict.fromkeys((names[i][0], names[j][0]))) for _, i, j in found}
    total = len(prints) * (len(prints) - 1) // 2
    print(f"\npairs of {total} at a similarity or above, equal pixels left out")
    for limit in LIMITS:
        among = [(i, j) for value, i, j in found if value >= limit]
        one_group = Counter(places[i, j] for i, j in among if groups[i] == groups[j])
        others = Counter(places[i, j] for i, j in among if groups[i] != groups[j])
        print(f"  {limit:.3f}: of one group {dict(one_group)}, of different groups {dict(others)}")
    across = sorted(((v, i, j) for v, i, j in found if groups[i] != groups[j]), reverse=True)
    for verdict, side in itertools.groupby(across, lambda pair: pair[0] >= LIMIT):
        print(f"of different groups, {'taken for copies' if verdict else 'not taken for copies'}:")
        for value, i, j in list(side)[:SHOWN]:
            print(f"  {value:.4f} {'/'.join(names[i])} {'/'.join(names[j])}")


def print_recall(images: list[np.ndarray], prints: list[Fingerprint]) -> None:
    chosen = np.random.default_rng(0).choice(len(images), COPIED, replace=False)
    originals = np.stack([prints[i].waves for i in chosen])
    print(f"\nsimilarity of {COPIED} images to copies: found at {LIMIT}, least, 1st and 5th percentile, median")
    for name, copy in COPIES.items():
        copies = [fingerprint(np.asarray(copy(Image.fromarray(images[i])))).waves for i in chosen]
        values = similarity(originals, np.stack(copies))
        low = " ".join(f"{value:.3f}" for value in np.quantile(values, [0, 0.01, 0.05, 0.5]))
        print(f"  {name:34} {(values >= LIMIT).mean():6.1%}  {low}")


def print_speed(prints: list[Fingerprint]) -> None:
    rng = np.random.default_rng(0)
    real = np.stack([each.waves for each in prints])
    print()
    for count in LARGE:
        one, other = real[rng.integers(len(real), size=(2, count))]
        share = rng.uniform(0.6, 0.9, size=(count, 1, 1)).astype(np.float32)
        waves = share * one + (1 - share) * other
        waves /= np.linalg.norm(waves, axis=(1, 2), keepdims=True)
        mixed = [Fingerprint(b"", each) for each in waves]
        tracemalloc.start()
        start = time.perf_counter()
        found = sum(1 for _ in near_pairs(mixed))
        seconds, (_, peak) = time.perf_counter() - start, tracemalloc.get_traced_memory()
        tracemalloc.stop()
        print(f"search in {count} images: {seconds:.1f} s, {peak / 2**20:.0f} MiB, {found} pairs")


if __name__ == "__main__":
    main()
