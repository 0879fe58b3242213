"""What resumability costs: seconds and bytes of one checkpoint, and its share of the training at the interval in use.

python perf/checkpoint_cost.py [FOLDER]    (protocol small, FixMatch on the phantom; FOLDER on the disk to be measured)
"""

import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch

from qgbench.data.cache import prepare
from qgbench.data.experiment import training_data
from qgbench.data.readers import open_source
from qgbench.data.splits import load_split
from qgbench.engine.checkpoint import LAST_NAME, Checkpoints
from qgbench.engine.device import make_accelerator
from qgbench.engine.stage import SECONDS_BETWEEN_CHECKPOINTS
from qgbench.plugins.registry import load
from qgbench.quality.guide import Guide
from qgbench.run.carry_out import build_student
from qgbench.spec.protocol import load_protocol
from qgbench.spec.regime import Regime
from qgbench.training.loop import Trainer

STEPS = 4  # after them the optimiser has its state
REPETITIONS = 7


def main() -> None:
    protocol = load_protocol("small")
    accelerator = make_accelerator("cpu", protocol.precision, 1)
    torch.manual_seed(0)
    source = open_source("phantom")
    prepared = prepare(source, protocol.size)
    data = training_data(prepared, [], load_split(source), Regime.parse("n12"), "phantom", 0)
    method_class = load("method", "fixmatch")
    method = method_class(partial(build_student, protocol, data.labelled.task), method_class.Settings())
    trainer = Trainer(method, Guide([]), None, data, protocol, 0, accelerator)
    for done in trainer.run():
        if done == STEPS:
            break
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        checkpoints = Checkpoints(Path(folder), {})
        saves, loads = [], []
        for _ in range(REPETITIONS):
            begin = time.perf_counter()
            checkpoints.save({"trainer": trainer.state_dict()})
            saves.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            checkpoints.load()
            loads.append(time.perf_counter() - begin)
        size = (Path(folder) / LAST_NAME).stat().st_size
    to_save, to_load = statistics.median(saves), statistics.median(loads)
    print(
        f"checkpoint {size / 2**20:.0f} MiB: written in {to_save:.2f} s, read and checked in {to_load:.2f} s (medians)"
    )
    share = to_save / SECONDS_BETWEEN_CHECKPOINTS
    print(f"one every {SECONDS_BETWEEN_CHECKPOINTS:.0f} s: {100 * share:.1f} % of the training")


if __name__ == "__main__":
    main()
