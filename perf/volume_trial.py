"""What small's training reaches on ACDC's validation volumes, measured whole as a run's test volumes are.

Run with qgbench installed and QGBENCH_DATA set: ``python perf/volume_trial.py METHOD REGIME [STEPS] [NAME=VALUE ...]``,
for example ``supervised all@given-4c7ca4e1 800``: protocol small at 128 px, 200 steps if not given, seed 0, one thread;
NAME=VALUE are settings as ``--set`` takes them. No test volume is read. Printed are Dice (%) and HD95 (voxels) of each
class over the 20 volumes, mean Dice, and seconds of a core.
"""

import sys
import time
from functools import partial

import torch

from qgbench.data.run_data import open_run_data
from qgbench.engine.device import make_accelerator
from qgbench.plugins.registry import load
from qgbench.quality.guide import Guide
from qgbench.run.carry_out import build_student
from qgbench.run.request import make_spec
from qgbench.spec.arm import Arm
from qgbench.spec.regime import Regime
from qgbench.spec.settings import apply_settings
from qgbench.training.evaluation import evaluate
from qgbench.training.loop import Trainer


def main() -> None:
    name, regime, *others = sys.argv[1:]
    steps = int(others.pop(0)) if others and others[0].isdecimal() else 200
    overrides = {"size": 128, "train.steps": steps, **dict(each.split("=", 1) for each in others)}
    arm = Arm(method=name, overrides=overrides)
    spec = make_spec("small", "acdc", regime, arm, device="cpu", threads=1)
    protocol, accelerator = spec.resolve(), make_accelerator("cpu", spec.precision, 1)
    data = open_run_data("acdc", Regime.parse(regime), spec.seed, protocol.size, protocol.fractions)
    kind = load("method", name)
    torch.manual_seed(spec.seed_of("weights"))  # as a run does, before its networks are built
    settings = apply_settings(kind.Settings(), spec.overrides_of("method"), "method.")
    method = kind(partial(build_student, protocol, data.task), settings)
    begin = time.process_time()
    trainer = Trainer(method, Guide([]), None, data.training, protocol, spec.seed_of("training"), accelerator)
    for _ in trainer.run():
        pass
    seconds = time.process_time() - begin
    validation = data.split[data.split["split"] == "val"].assign(split="test")
    method.eval()
    tables, _ = evaluate({"student": method.student}, None, data.prepared, validation, accelerator)
    found = tables["student"]
    for one, rows in found.groupby("class", sort=False):
        print(f"{one}: Dice {100 * rows['dice'].mean():.1f}, HD95 {rows['hd95'].mean():.1f}")
    print(f"mean Dice {100 * found['dice'].mean():.1f}, {found['id'].nunique()} volumes; trained in {seconds:.0f} s")


if __name__ == "__main__":
    main()
