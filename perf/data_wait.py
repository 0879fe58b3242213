"""What training would wait for data on a device FASTER times as fast as this processor: ``python perf/data_wait.py``.

Of FixMatch on the phantom, protocols `small` and `paper` (or those that are named), one thread. Measured first, by the
processor's time: a batch, what of it the host does, and a step without its batch. Then the loop takes batches from the
thread that makes them, and in place of each step sleeps for its FASTER-th part; what it waits for a batch is timed.

What is assumed: the device makes views as many times faster as it computes steps, in its own time between two steps;
they are added to the wait. The host draws, reads, and starts the views' operations: that is timed as batches of images
of TINY px a side, whose views compute next to nothing, and the reading of whole images (with their conversion to
floats, which a device would do). The bus is not counted. Of `paper`, an eighth of the batch is trained on, for memory's
sake, and its time taken eightfold, in bf16; the batches are whole.
"""

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from torch import Tensor

from qgbench.data.experiment import TrainingData
from qgbench.data.readers import PHANTOM_NAME
from qgbench.data.run_data import open_run_data
from qgbench.engine.device import make_accelerator
from qgbench.launch.measure import late_trainer
from qgbench.methods import Batch
from qgbench.spec.arm import Arm
from qgbench.spec.protocol import Protocol, TrainSettings, load_protocol
from qgbench.spec.regime import Regime
from qgbench.training.ahead import Ahead
from qgbench.training.streams import Streams

FASTER = 20
TINY = 16
SHARES = {"paper": 8}  # what part of a batch is trained on
WARM_UP, STEPS, BATCHES = 1, 4, 20


class HostsPart(Streams):
    """What the host does for a batch of `whole` images."""

    def __init__(self, tiny: TrainingData, whole: TrainingData, settings: TrainSettings) -> None:
        super().__init__(tiny, settings, 0)
        counts = (settings.batch_labelled, settings.batch_unlabelled)
        self._read = [
            (images, np.arange(n) % len(images))
            for images, n in zip((whole.labelled, whole.unlabelled), counts, strict=True)
        ]

    def next(self, progress: float) -> tuple[Batch, Tensor]:
        """Return a batch of tiny images."""
        for images, index in self._read:
            images.images(index)
            images.masks(index)
        return super().next(progress)


def phantom(protocol: Protocol, size: int) -> TrainingData:
    return open_run_data(PHANTOM_NAME, Regime.parse("n28"), 0, size, protocol.fractions).training


def processor(what: Callable[[], object], times: int) -> float:
    """Return the median processor time of something, after a warm-up."""
    found = []
    for _ in range(WARM_UP + times):
        begin = time.process_time()
        what()
        found.append(time.process_time() - begin)
    return statistics.median(found[WARM_UP:])


def step_without_batch(protocol: Protocol, data: TrainingData, share: int) -> float:
    """Return the processor time of the network's part of a whole step."""
    train = protocol.train
    less = {"batch_labelled": train.batch_labelled // share, "batch_unlabelled": train.batch_unlabelled // share}
    protocol = protocol.model_copy(update={"train": train.model_copy(update=less)})
    trainer = late_trainer(Arm(method="fixmatch"), protocol, data, make_accelerator("cpu", "bf16", 1), STEPS + WARM_UP)
    ready = trainer._streams.next(1.0)
    trainer._streams.next = lambda progress: ready  # type: ignore[method-assign]  # its making is timed apart
    return share * processor(trainer.run().__next__, STEPS)


def waits(streams: Streams, sleep: float) -> float:
    """Return the median time that a loop waits for a batch that a thread makes while it sleeps."""
    ahead, found = Ahead(streams), []
    for _ in range(WARM_UP + BATCHES):
        begin = time.perf_counter()
        ahead.next(0.0)
        found.append(time.perf_counter() - begin)
        time.sleep(sleep)
    return statistics.median(found[WARM_UP:])


def main() -> None:
    print("| protocol | batch, ms | host's part | step without it | a device's step | waits | with views | share |")
    print(f"|---|{'---:|' * 7}")
    for name in sys.argv[1:] or ("small", "paper"):
        protocol = load_protocol(name)
        data, tiny = (phantom(protocol, size) for size in (protocol.size, TINY))
        step = step_without_batch(protocol, data, SHARES.get(name, 1))
        batch = processor(partial(Streams(data, protocol.train, 0).next, 0.0), BATCHES)
        hosts = HostsPart(tiny, data, protocol.train)
        host = processor(partial(hosts.next, 0.0), BATCHES)
        wait = waits(hosts, step / FASTER)
        views = max(batch - host, 0.0) / FASTER
        numbers = (batch, host, step, step / FASTER, wait, wait + views)
        cells = " | ".join(f"{1000 * number:.2f}" for number in numbers)
        print(f"| {name} | {cells} | {(wait + views) / (step / FASTER):.1%} |", flush=True)


if __name__ == "__main__":
    main()
