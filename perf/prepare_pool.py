"""What a large pool costs: images per second and peak memory of preparing it, seconds of opening it again.

    python perf/prepare_pool.py [--images N] [--pixels 640x480 ...] [--size S] [--folder DIR]

The pool is generated: pictures of the given sizes (three of 1 to 3 megapixels by default), each written again and again
as JPEG with a comment of its own, so that no two files are equal. ISIC 2020 has 33,126 images (here about 11 GB at the
default sizes). Every figure is taken in a process of its own; files are read from the system's file cache.
"""

import argparse
import io
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from qgbench.base.cores import usable_cores
from qgbench.data.cache import prepare
from qgbench.data.content import CACHE_VARIABLE
from qgbench.data.readers import open_pool

PIXELS = ("1024x768", "1600x1200", "2000x1500")
START_OF_IMAGE, COMMENT = b"\xff\xd8", b"\xff\xfe"  # JPEG markers


def draw(width: int, height: int, rng: np.random.Generator) -> bytes:
    """Return a picture of blobs under camera noise; about as many bytes a pixel as a photograph of skin."""
    coarse = gaussian_filter(rng.standard_normal((height // 8, width // 8, 3)), (8, 8, 0))
    picture = Image.fromarray((128 + 60 * coarse / coarse.std()).clip(0, 255).astype(np.uint8))
    pixels = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC)).astype(np.float32)
    pixels += rng.normal(0, 4, pixels.shape).astype(np.float32)
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def write_pool(folder: Path, images: int, pixels: list[str]) -> int:
    """Write the pool and return its size in bytes."""
    rng = np.random.default_rng(0)
    sizes = [tuple(map(int, size.split("x"))) for size in pixels]
    drawn = [draw(width, height, rng) for width, height in sizes]
    folder.mkdir(parents=True)
    total = 0
    for number in range(images):
        comment = f"image {number:06d}".encode()
        content = drawn[number % len(drawn)].removeprefix(START_OF_IMAGE)
        segment = COMMENT + (len(comment) + 2).to_bytes(2, "big") + comment
        total += (folder / f"{number:06d}.jpg").write_bytes(START_OF_IMAGE + segment + content)
    return total


def peak_mib() -> float:
    """Return the peak of resident memory (Linux), without that of the parent, which `ru_maxrss` may have in it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def prepare_and_tell(folder: Path, size: int) -> None:
    """Prepare the pool in this process and print what it took."""
    at_start = peak_mib()
    begin = time.perf_counter()
    source = open_pool(str(folder))
    listed = time.perf_counter()
    source.content_key()
    keyed = time.perf_counter()
    prepared = prepare(source, size)
    end = time.perf_counter()
    print(
        f"{end - begin:7.2f} s (listing {listed - begin:.2f}, content key {keyed - listed:.2f}, arrays "
        f"{end - keyed:.2f}), {len(prepared.ids) / (end - keyed):.1f} images/s; peak memory {peak_mib():.0f} MiB, "
        f"{at_start:.0f} of them imports",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--pixels", nargs="+", default=list(PIXELS), metavar="WxH")
    parser.add_argument("--size", type=int, default=96, help="side of the prepared squares")
    parser.add_argument("--folder", type=Path, help="where a temporary folder is made")
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)  # what the processes of their own are given
    given = parser.parse_args()
    if given.prepare:
        prepare_and_tell(given.prepare, given.size)
        return
    folder = Path(tempfile.mkdtemp(dir=given.folder))
    try:
        total = write_pool(folder / "pool/unlabelled", given.images, given.pixels)
        print(
            f"{given.images} images of {', '.join(given.pixels)} pixels, {total / 1e9:.2f} GB; {usable_cores()} cores"
        )
        command = [sys.executable, __file__, "--size", str(given.size), "--prepare", str(folder / "pool")]
        for name in ("prepared", "opened again", "and again"):  # the arrays are too young to be remembered at first
            time.sleep(2.5)
            print(f"{name:12s}", end=" ", flush=True)
            subprocess.run(["env", f"{CACHE_VARIABLE}={folder / 'cache'}", *command], check=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
