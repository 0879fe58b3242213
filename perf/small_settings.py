"""How the settings of `small` were chosen: training on the real sets, judged by validation images alone.

Run with qgbench installed and QGBENCH_DATA set: ``python perf/small_settings.py QUESTION [workers]``, where QUESTION is
one of those in `QUESTIONS`. Every training is timed, validated after its last step, and forgotten; no test image is
read. Results are kept in ``runs/small_settings.jsonl``, so that the same command continues, and changed code must begin
without that file. Printed is a table: mean validation Dice in % over seeds (SD over seeds), and seconds of training.
"""

import itertools
import json
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from qgbench.data.run_data import open_run_data
from qgbench.quality.guide import Guide
from qgbench.registry import load_method
from qgbench.request import make_spec
from qgbench.run import build_student
from qgbench.spec import Regime, apply_settings
from qgbench.training.device import make_accelerator
from qgbench.training.loop import Trainer

SETS = ("ph2", "scd", "isic2017", "cvc_clinicdb", "cvc_colondb")
KEPT = Path("runs/small_settings.jsonl")


@dataclass(frozen=True)
class Trial:
    """One training: what is varied, under the name that its column has."""

    column: str
    dataset: str
    budget: str
    seed: int
    method: str = "supervised"
    precision: str = "bf16"
    overrides: dict[str, Any] = field(default_factory=dict)


def trials(columns: dict[str, dict[str, Any]], sets: tuple[str, ...], budgets: tuple[str, ...]) -> list[Trial]:
    """Every column on every set and budget, with three seeds; whole seeds first."""
    return [
        Trial(column=name, dataset=dataset, budget=budget, seed=seed, **changes)
        for seed, dataset, budget, (name, changes) in itertools.product(range(3), sets, budgets, columns.items())
    ]


def _steps(*numbers: int, **more: Any) -> dict[str, dict[str, Any]]:
    return {f"{number} steps": {"overrides": {"train.steps": number}, **more} for number in numbers}


QUESTIONS = {
    "steps": trials(_steps(200, 400, 800), SETS, ("n28",)),
    "steps_all": trials(_steps(200, 400, 800), SETS, ("all",)),
    "budgets": trials({"supervised": {}}, SETS, ("n4", "n7", "n14", "n28", "all")),
    "arithmetic": trials({"bf16": {}, "fp32": {"precision": "fp32"}}, SETS, ("n14",)),
}


def train(trial: Trial) -> dict[str, Any]:
    """Train once; give the trial, the last validation Dice in [0, 1], and seconds."""
    spec = make_spec(
        "small",
        trial.dataset,
        f"{trial.budget}@grouped",
        trial.method,
        seed=trial.seed,
        precision=trial.precision,
        device="cpu",
        threads=1,
        overrides=trial.overrides,
    )
    protocol = spec.resolve()
    accelerator = make_accelerator("cpu", spec.precision, 1)
    method = load_method(spec.method)
    settings = apply_settings(method.Settings(), spec.overrides_of("method"), "method.")
    data = open_run_data(spec.dataset, Regime.parse(spec.regime), spec.seed, protocol.size, protocol.fractions)
    torch.manual_seed(spec.seed)  # as a run does, before its networks are built
    trainer = Trainer(
        method(lambda: build_student(protocol), settings),
        Guide([]),
        None,
        data.training,
        protocol,
        spec.seed,
        accelerator,
    )
    begin = time.perf_counter()
    for _ in trainer.run():
        pass
    return {"trial": asdict(trial), "dice": trainer.history.val_dice[-1][1], "seconds": time.perf_counter() - begin}


def main() -> None:
    asked = QUESTIONS[sys.argv[1]]
    workers = int(sys.argv[2]) if len(sys.argv) > 2 else 2
    KEPT.parent.mkdir(exist_ok=True)
    known = [json.loads(line) for line in KEPT.read_text().splitlines()] if KEPT.exists() else []
    missing = [trial for trial in asked if not any(each["trial"] == asdict(trial) for each in known)]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool, KEPT.open("a") as kept:
        for done in as_completed([pool.submit(train, trial) for trial in missing]):
            known.append(done.result())
            kept.write(json.dumps(known[-1]) + "\n")
            kept.flush()
    columns = list(dict.fromkeys(trial.column for trial in asked))
    print("| set | budget | " + " | ".join(columns) + " |\n|---|---|" + "---:|" * len(columns))
    for dataset, budget in dict.fromkeys((trial.dataset, trial.budget) for trial in asked):
        cells = []
        for column in columns:
            here = [
                each
                for each in known
                if any(
                    each["trial"] == asdict(t)
                    for t in asked
                    if (t.column, t.dataset, t.budget) == (column, dataset, budget)
                )
            ]
            dice = [100 * each["dice"] for each in here]
            seconds = statistics.mean(each["seconds"] for each in here)
            cells.append(f"{statistics.mean(dice):.1f} ({statistics.stdev(dice):.1f}), {seconds:.0f} s")
        print(f"| {dataset} | {budget} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
