"""Which split of the processor ends a suite first: ``python perf/core_split.py [STEPS]``.

The same four runs of the protocol `small` on the phantom (supervised and FixMatch, two seeds), once with all cores in
one run after another, once with one thread each side by side. Printed are the seconds of both and their ratio; each
split is timed twice, in turn.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

from qgbench.launch.drive import drive
from qgbench.launch.local import LocalExecutor
from qgbench.launch.plan import make_plan
from qgbench.spec.suite import load_suite

SUITE = """
name = "split"
about = "four runs"
protocol = "small"
threads = {threads}

[primary]
question = "none"
addon = "qw-confidence"
rows = ["fixmatch"]
[primary.regimes]
phantom = "n12@grouped"

[secondary]
question = "none"

[[block]]
name = "core"
rows = ["fixmatch", "fixmatch+qw-confidence"]
seeds = [0, 1]
set = {{ "train.steps" = {steps} }}
[block.regimes]
phantom = ["n12@grouped"]
"""


def seconds(folder: Path, threads: int, slots: int, steps: int) -> float:
    file = folder / "suite.toml"
    file.write_text(SUITE.format(threads=threads, steps=steps))
    output = Path(tempfile.mkdtemp(dir=folder))
    plan = make_plan(load_suite(str(file)), output, None, "cpu")
    begin = time.monotonic()
    found = drive(plan, LocalExecutor([""] * slots), poll=0.2)
    assert not found.failed, found.causes
    return time.monotonic() - begin


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="?", type=int, default=60)
    asked = parser.parse_args()
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        os.environ["QGBENCH_CACHE"] = folder
        seconds(Path(folder), 1, cores, 1)  # the fork server imports torch, the images are prepared
        for _ in range(2):
            after = seconds(Path(folder), cores, 1, asked.steps)
            beside = seconds(Path(folder), 1, cores, asked.steps)
            print(
                f"{cores} threads, one after another: {after:.1f} s; 1 thread, {cores} side by side: {beside:.1f} s; "
                f"ratio {after / beside:.2f}"
            )
