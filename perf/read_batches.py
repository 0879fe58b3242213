"""What reading costs: a step's images and masks from the prepared arrays, as a share of the step that trains on them.

    python perf/read_batches.py [threads]

The network of protocol `small` (a U-Net on an ImageNet encoder, the lightest in use) and one supervised pass over 8
labelled and 8 unlabelled images at 96 px, then over 32 and 64 at 224 px: an SSL method's step only takes longer. The
arrays are maps of random bytes, 2,000 images, in the system's file cache.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from qgbench.data.cache import Prepared
from qgbench.data.experiment import ImageSet
from qgbench.engine.device import make_accelerator
from qgbench.methods.losses import segmentation_loss
from qgbench.run.carry_out import build_student
from qgbench.spec.protocol import load_protocol
from qgbench.spec.task import Task

IMAGES = 2000


def mapped(folder: Path, name: str, shape: tuple[int, ...], values: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    np.save(folder / f"{name}.npy", rng.integers(values, size=shape, dtype=np.uint8))
    return np.load(folder / f"{name}.npy", mmap_mode="r")


def image_set(folder: Path, size: int) -> ImageSet:
    folder.mkdir()
    ids = [str(n) for n in range(IMAGES)]
    images = mapped(folder, "images", (IMAGES, size, size, 3), 256)
    masks = mapped(folder, "masks", (IMAGES, size, size), 2)
    sizes = np.full((IMAGES, 2), size)
    return ImageSet([(Prepared(ids, ids, images, masks, sizes, "", None), np.arange(IMAGES))])


def read(
    images: ImageSet, labelled: int, unlabelled: int, rng: np.random.Generator
) -> tuple[float, list[torch.Tensor]]:
    drawn = rng.integers(IMAGES, size=labelled), rng.integers(IMAGES, size=unlabelled)
    begin = time.perf_counter()
    tensors = [images.images(drawn[0]), images.masks(drawn[0]), images.images(drawn[1])]
    return time.perf_counter() - begin, tensors


def compare(size: int, labelled: int, unlabelled: int, repetitions: int, threads: int, folder: Path) -> str:
    """Time reading and the supervised step in turn; return the medians after one step to warm up, as a line."""
    protocol = load_protocol("small")
    accelerator = make_accelerator("cpu", protocol.precision, threads)
    network = build_student(protocol, Task()).train()
    train = protocol.train
    optimiser = torch.optim.AdamW(network.parameters(), lr=train.lr, weight_decay=train.weight_decay, fused=True)
    images = image_set(folder, size)
    rng = np.random.default_rng(1)
    reads, steps = [], []
    for _ in range(repetitions + 1):
        seconds, (x_l, y_l, u_w) = read(images, labelled, unlabelled, rng)
        begin = time.perf_counter()
        with accelerator.autocast():
            logits = network(torch.cat([x_l, u_w]))
        loss = segmentation_loss(network.task, logits[:labelled].float(), y_l)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        reads.append(seconds)
        steps.append(time.perf_counter() - begin)
    reading, step = statistics.median(reads[1:]), statistics.median(steps[1:])
    return (
        f"{labelled} + {unlabelled} images at {size} px: read in {1e3 * reading:.2f} ms, step of {1e3 * step:.0f} ms "
        f"({threads} threads): {100 * reading / step:.2f} %"
    )


def main() -> None:
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    with tempfile.TemporaryDirectory() as folder:
        print(compare(96, 8, 8, 30, threads, Path(folder) / "small"), flush=True)
        print(compare(224, 32, 64, 3, threads, Path(folder) / "large"))


if __name__ == "__main__":
    main()
