"""By what the best step of g is told: what each validation sees, and what g is worth for model outputs then.

Run with qgbench installed and QGBENCH_DATA set: ``python perf/g_selection.py SEED [DATASET ...]``. Trains g of suite
`small` to the end, without patience. At every validation: r and mean absolute error on synthetic masks of the
validation images, which may select a step; and what selection is for, r and error within each of the six stages of a
weak model's training, on its masks of the same validation images, averaged. Test images are not read.
docs/decisions/g-2.md says what came out.
"""

import statistics
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from qgbench.data.run_data import open_run_data
from qgbench.engine.device import make_accelerator
from qgbench.quality.audit import agreement
from qgbench.quality.fit import LabelledImages, PredictorFit, _judge, _Judged, _train_weak_models
from qgbench.quality.scores import overlap
from qgbench.quality.store import as_labelled
from qgbench.spec.protocol import load_protocol
from qgbench.spec.regime import Regime
from qgbench.spec.suite import load_suite

THREADS = 1


def stages_of(val: LabelledImages, weak: Tensor) -> list[_Judged]:
    """Return masks (E, V, 1, H, W) of weak models, by the stage of their training."""
    index = torch.arange(len(val.image))
    return [_Judged(index, mask.float(), overlap(mask, val.mask > 0.5).numpy()) for mask in weak]


def follow(dataset: str, regime: Regime, seed: int) -> None:
    protocol = load_protocol("small")
    settings = protocol.quality.model_copy(update={"patience": protocol.quality.validations + 1})
    accelerator = make_accelerator("cpu", protocol.precision, THREADS)
    data = open_run_data(dataset, regime, seed, protocol.size, protocol.fractions)
    own, val = as_labelled(data.training.labelled), as_labelled(data.training.val)
    with tempfile.TemporaryDirectory() as folder:
        weak, _ = _train_weak_models(own, settings, seed, accelerator, Path(folder), {})
    stages = stages_of(val, weak.of_others(val.image, accelerator.device))
    fit = PredictorFit(own, val, weak, settings, seed, accelerator)
    for step in fit.run():
        if step % (settings.steps // settings.validations) == 0:
            g = fit._predictor
            seen = agreement(_judge(g, val, fit._select, accelerator), fit._select.dice)
            within = [agreement(_judge(g, val, stage, accelerator), stage.dice) for stage in stages]
            r, mae = statistics.mean(each.pearson or 0.0 for each in within), statistics.mean(e.mae for e in within)
            columns = " | ".join(f"{value:.2f}" for value in (seen.pearson or 0.0, seen.mae, r, mae))
            print(f"| {dataset} | {len(own.image)} | {step} | {columns} |", flush=True)


def main() -> None:
    regimes = {
        name: Regime.parse(regime[0])
        for name, regime in next(block for block in load_suite("small").block if block.name == "core").regimes.items()
    }
    print("| set | labels | step | r, synthetic | MAE | r within, weak masks | MAE |\n|---|---:|---:|" + "---:|" * 4)
    for dataset in sys.argv[2:] or regimes:
        follow(dataset, regimes[dataset], int(sys.argv[1]))


if __name__ == "__main__":
    main()
