"""Calibration and speed of `qgbench.data.duplicates`.

Run ``python perf/duplicates.py`` with qgbench installed and QGBENCH_DATA set. Printed: how many pairs of real images
are alike enough to be looked at a second time, and how far the detail of these agrees, by where the two are from; the
pairs of different groups that come nearest to the limit on either side, to be looked at; how many copies made of real
images and of drawn photographs of eyes are found, and how many photographs of two eyes are taken for one; the time of
fingerprints and of a second look, and of the search in 33,126 made-up fingerprints (each two real ones
mixed), all pairs and those of 300 images with the others, with the memory that it took.
"""

import io
import itertools
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from qgbench.data.duplicates import CANDIDATE, LIMIT, Fingerprint, agreement, fingerprint, similar_pairs, similarity
from qgbench.data.readers import Source, open_pool, open_source

SETS = ("ph2", "scd", "cvc_clinicdb", "cvc_colondb", "isic2017")
POOLS = ("isic_pool", "kvasir_pool")
LIMITS = (0.92, 0.94, 0.96, 0.98, 0.99)
AGREEMENTS = (-1.0, 0.5, 0.6, 0.7, 0.8, 0.9)
COPIED = 200
EYES = 40
HELD_OUT = 300
SHOWN = 6
LARGE = 33_126


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
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "a quarter of the size, JPEG 60": lambda image: jpeg(image.resize((image.width // 4, image.height // 4))),
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
    "10 % cropped, all round": lambda image: cropped(image, 0.1),
    "2 % cropped, one side": lambda image: image.crop((round(0.02 * image.width), 0, image.width, image.height)),
    "5 % cropped, one side": lambda image: image.crop((round(0.05 * image.width), 0, image.width, image.height)),
    "turned by 3 degrees": lambda image: image.rotate(3, Image.Resampling.BICUBIC),
    "turned by 5 degrees": lambda image: image.rotate(5, Image.Resampling.BICUBIC),
}


def eye(seed: int, side: int = 300) -> np.ndarray:
    """Return a drawn back of an eye: a disc with a bright spot, laid out as all others, and vessels of its own."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side - 0.5
    spot_y, spot_x = rng.normal(0, 0.012), -0.22 + rng.normal(0, 0.012)
    vessels = np.zeros((side, side))
    for _ in range(14):
        angles = rng.uniform(-np.pi, np.pi) + np.cumsum(rng.normal(0, 0.06, side))
        at_y, at_x = spot_y + np.cumsum(np.sin(angles)) / side, spot_x + np.cumsum(np.cos(angles)) / side
        vessels[*(((np.stack([at_y, at_x]) + 0.5) * side).astype(int).clip(0, side - 1))] = 1
    vessels = gaussian_filter(vessels, 1.6)
    light = 1 - 0.3 * np.hypot(y, x) + 0.8 * np.exp(-((y - spot_y) ** 2 + (x - spot_x) ** 2) / 0.0025)
    disc = light * (np.hypot(y, x) < 0.46) * (1 - 0.5 * vessels / vessels.max())
    noise = rng.normal(0, 2, (side, side, 3))
    return (disc[..., None] * np.array([150, 90, 45]) + noise).clip(0, 255).astype(np.uint8)


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
    eyes = [eye(seed) for seed in range(EYES)]
    print_pairs(names, groups, prints)
    print_eyes([fingerprint(image) for image in eyes])
    chosen = np.random.default_rng(0).choice(len(images), COPIED, replace=False)
    print_recall("real images", [images[index] for index in chosen])
    print_recall("drawn eyes", eyes)
    print_speed(prints)


def print_pairs(names: list[tuple[str, str]], groups: list[tuple[str, str]], prints: list[Fingerprint]) -> None:
    waves = np.stack([each.waves for each in prints])
    alike = [pair for pair in similar_pairs(waves, CANDIDATE) if prints[pair[0]].pixels != prints[pair[1]].pixels]
    start = time.process_time()
    found = [(agreement(prints[i].detail, prints[j].detail), value, i, j) for i, j, value in alike]
    print(f"second look: {1e3 * (time.process_time() - start) / len(found):.1f} ms a pair")
    total = len(prints) * (len(prints) - 1) // 2
    print(f"\npairs of {total} at a similarity and an agreement or above, equal pixels left out")
    for limit, least in itertools.product(LIMITS, AGREEMENTS):
        among = [(i, j) for agreed, value, i, j in found if value >= limit and agreed >= least]
        places = Counter(names[i][0] for i, j in among if groups[i] == groups[j])
        others = sum(groups[i] != groups[j] for i, j in among)
        print(f"  {limit:.2f}, {least:4.1f}: of one group {dict(places)}, of different groups {others}")
    across = sorted((pair for pair in found if groups[pair[2]] != groups[pair[3]]), reverse=True)
    for verdict, side in itertools.groupby(across, lambda pair: pair[0] >= LIMIT):
        print(f"of different groups, {'taken for copies' if verdict else 'not taken for copies'}:")
        for agreed, value, i, j in list(side)[:SHOWN]:
            print(f"  {agreed:.3f}, similarity {value:.4f} {'/'.join(names[i])} {'/'.join(names[j])}")


def print_eyes(prints: list[Fingerprint]) -> None:
    pairs = list(itertools.combinations(prints, 2))
    first, second = (np.stack([each.waves for each in side]) for side in zip(*pairs, strict=True))
    values = similarity(first, second)
    agreed = np.array([agreement(a.detail, b.detail) for a, b in pairs])
    print(
        f"\ndrawn photographs of two eyes, {len(pairs)} pairs: similarity {np.median(values):.3f}, {values.max():.3f} "
        f"at most; agreement {np.median(agreed):.2f}, {agreed.max():.2f} at most; taken for one: "
        f"{((values >= CANDIDATE) & (agreed >= LIMIT)).sum()}"
    )


def print_recall(title: str, images: list[np.ndarray]) -> None:
    originals = [fingerprint(image) for image in images]
    print(f"\ncopies of {len(images)} {title}: found; least, 1st, 5th percentile, median of similarity; of agreement")
    for name, copy in COPIES.items():
        copies = [fingerprint(np.asarray(copy(Image.fromarray(image)))) for image in images]
        values = similarity(np.stack([each.waves for each in originals]), np.stack([each.waves for each in copies]))
        agreed = np.array([agreement(a.detail, b.detail) for a, b in zip(originals, copies, strict=True)])
        low = "; ".join(
            " ".join(f"{v:.3f}" for v in np.quantile(side, [0, 0.01, 0.05, 0.5])) for side in (values, agreed)
        )
        print(f"  {name:34} {((values >= CANDIDATE) & (agreed >= LIMIT)).mean():6.1%}  {low}")


def print_speed(prints: list[Fingerprint]) -> None:
    rng = np.random.default_rng(0)
    real = np.stack([each.waves for each in prints])
    print()
    one, other = real[rng.integers(len(real), size=(2, LARGE))]
    share = rng.uniform(0.6, 0.9, size=(LARGE, 1, 1)).astype(np.float32)
    waves = share * one + (1 - share) * other
    waves /= np.linalg.norm(waves, axis=(1, 2), keepdims=True)
    for first, what in ((None, "all pairs"), (HELD_OUT, f"{HELD_OUT} of them with the others")):
        tracemalloc.start()
        start = time.process_time()
        found = sum(1 for _ in similar_pairs(waves, CANDIDATE, first))
        seconds, (_, peak) = time.process_time() - start, tracemalloc.get_traced_memory()
        tracemalloc.stop()
        print(f"search in {LARGE} images, {what}: {seconds:.1f} s, {peak / 2**20:.0f} MiB, {found} to look at again")


if __name__ == "__main__":
    main()
