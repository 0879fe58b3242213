"""How the settings of `small` were chosen: training on the real sets, judged by validation images alone.

Run with qgbench installed and QGBENCH_DATA set: ``python perf/small_settings.py QUESTION [workers]``, where QUESTION is
one of those in `QUESTIONS`. Every training is timed, validated after its last step, and forgotten; no test image is
read. Results are kept in ``perf/kept/small_settings.jsonl``, so that the same command continues, and changed code must
begin without that file. Printed is a table: mean validation Dice in % over seeds (SD over seeds), and seconds of a
core. docs/PERFORMANCE.md holds what came out.
"""

import itertools
import json
import statistics
import sys
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from scipy import stats

from qgbench.data.run_data import open_run_data
from qgbench.engine.device import make_accelerator
from qgbench.plugins.registry import load
from qgbench.quality.guide import Guide
from qgbench.run.carry_out import build_student
from qgbench.run.request import make_spec
from qgbench.spec.arm import Arm
from qgbench.spec.regime import Regime
from qgbench.spec.settings import apply_settings
from qgbench.training.loop import Trainer

KEPT = Path(__file__).parent / "kept" / "small_settings.jsonl"


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


def trials(columns: dict[str, dict[str, Any]], budgets: dict[str, tuple[str, ...]], seeds: int = 3) -> list[Trial]:
    """Return every column on every budget of every set; whole seeds first."""
    places = [(dataset, budget) for dataset, of_set in budgets.items() for budget in of_set]
    return [
        Trial(column=name, dataset=dataset, budget=budget, seed=seed, **changes)
        for seed, (dataset, budget), (name, changes) in itertools.product(range(seeds), places, columns.items())
    ]


FEW = {"ph2": "n7", "scd": "n7", "isic2017": "n7", "cvc_clinicdb": "n28", "cvc_colondb": "n28"}
AT_FEW: dict[str, tuple[str, ...]] = {dataset: (budget,) for dataset, budget in FEW.items()}
BUDGETS = {
    **dict.fromkeys(("ph2", "scd"), ("n4", "n6", "n7", "n14", "n28", "all")),
    **dict.fromkeys(("isic2017", "cvc_clinicdb", "cvc_colondb"), ("n4", "n7", "n14", "n28", "all")),
}
LAMBDA_U = (0.25, 1.0, 4.0)  # weight of the unlabelled losses: 0.25 is the paper's, 1 FixMatch's
OF_HALF = (0.125, 0.5, 2.0)  # the same beside a supervised loss of weight 0.5: 0.5 is UniMatch's and CorrMatch's
TUNED = {
    **dict.fromkeys(("pseudo_label", "pseudo_label_confidence", "mean_teacher", "fixmatch"), LAMBDA_U),
    **dict.fromkeys(("ua_mt", "ict", "cps", "contrastive", "bcp"), LAMBDA_U),
    "unimatch": tuple(sorted(OF_HALF + LAMBDA_U)),  # the second three were tried first, by mistake
    **dict.fromkeys(("unimatch_v2", "corrmatch"), OF_HALF),
}
APART = {"apart": True}  # labelled images in batches of their own
RISING: dict[str, dict[str, Any]] = {"supervised": {}, "fixmatch": APART, "unimatch": APART, "cps": {}, "bcp": {}}
RATES: list[dict[str, Any]] = [{"lr": 5e-4}, {}]
THREE = {name: AT_FEW[name] for name in ("isic2017", "scd", "cvc_clinicdb")}


def column(method: str, steps: int, **overrides: float) -> dict[str, dict[str, Any]]:
    """Return a column of a method with a budget and other settings of training."""
    settings: dict[str, Any] = {"train.steps": steps}
    for name, value in overrides.items():
        settings[f"{'method' if name == 'apart' else 'train'}.{name}"] = value
    name = " ".join([method, str(steps), *(f"{name} {value:g}" for name, value in overrides.items())])
    return {name: {"method": method, "overrides": settings}}


def columns(*each: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return several columns."""
    return {name: changes for one in each for name, changes in one.items()}


QUESTIONS = {
    "doubling": [  # the first doubling first: it may settle the budget
        trial
        for budgets in ((200, 400), (800,))
        for trial in trials(columns(*(column(m, n, **how) for n in budgets for m, how in RISING.items())), THREE)
    ],
    "rates": trials(
        columns(*(column(m, 800, **APART, **rate) for m in ("fixmatch", "unimatch") for rate in RATES)), THREE
    ),
    "apart": trials(columns(*(column(m, 400, **how) for m in ("fixmatch", "unimatch") for how in ({}, APART))), THREE),
    "budgets": trials({"supervised": {}}, BUDGETS),
    "batch": trials(
        {
            "8 labelled": {},
            "16": {"overrides": {"train.batch_labelled": 16}},
            "16, lr 2e-3": {"overrides": {"train.batch_labelled": 16, "train.lr": 2e-3}},
            "8, lr 2e-3": {"overrides": {"train.lr": 2e-3}},
        },
        {name: AT_FEW[name] for name in ("scd", "cvc_clinicdb")},
        seeds=1,
    ),
    "arithmetic": trials({"bf16": {}, "fp32": {"precision": "fp32"}}, AT_FEW, seeds=2),
    **{
        f"tune_{method}": trials(
            {f"lambda_u {value:g}": {"method": method, "overrides": {"method.lambda_u": value}} for value in values},
            {name: AT_FEW[name] for name in ("isic2017", "cvc_clinicdb")},
            seeds=1,
        )
        for method, values in TUNED.items()
    },
}


def train(trial: Trial) -> dict[str, Any]:
    """Train once; return the trial, the last validation Dice in [0, 1], and seconds of a core."""
    spec = make_spec(
        "small",
        trial.dataset,
        f"{trial.budget}@grouped",
        Arm(method=trial.method, overrides=trial.overrides),
        seed=trial.seed,
        precision=trial.precision,
        device="cpu",
        threads=1,
    )
    protocol = spec.resolve()
    accelerator = make_accelerator("cpu", spec.precision, 1)
    method = load("method", spec.method)
    settings = apply_settings(method.Settings(), spec.overrides_of("method"), "method.")
    data = open_run_data(spec.dataset, Regime.parse(spec.regime), spec.seed, protocol.size, protocol.fractions)
    torch.manual_seed(spec.seed_of("weights"))  # as a run does, before its networks are built
    trainer = Trainer(
        method(partial(build_student, protocol, data.training.labelled.task), settings),
        Guide([]),
        None,
        data.training,
        protocol,
        spec.seed_of("training"),
        accelerator,
    )
    begin = time.process_time()
    for _ in trainer.run():
        pass
    dice = [dice for _, dice in trainer.history.val_dice]
    return {"trial": asdict(trial), "dice": dice[-1], "validations": dice, "seconds": time.process_time() - begin}


def key(trial: dict[str, Any]) -> str:
    """Return what was trained, whatever the column is called."""
    return json.dumps({name: value for name, value in trial.items() if name != "column"}, sort_keys=True)


def judged(result: dict[str, Any], question: str) -> float:
    """Return the last validation; for settings of methods, which one seed decides, the mean of the last three."""
    return statistics.mean(result["validations"][-3:]) if question.startswith("tune_") else result["dice"]


def changes(asked: list[Trial], known: dict[str, dict[str, Any]]) -> None:
    """Print what doubled steps change of each method, in points, over sets and seeds: mean, 95 % interval by t.

    The last line is of the methods' average in each set and seed, which they share.
    """
    dice: dict[tuple[str, int], dict[tuple[str, int], float]] = defaultdict(dict)
    for trial in asked:
        dice[trial.method, trial.overrides["train.steps"]][trial.dataset, trial.seed] = (
            100 * known[key(asdict(trial))]["dice"]
        )
    for steps in sorted({steps for _, steps in dice})[:-1]:
        found = []
        print(f"\n{steps} -> {2 * steps} steps")
        for method in dict.fromkeys(method for method, _ in dice):
            before, after = dice[method, steps], dice[method, 2 * steps]
            found.append(change := [after[place] - before[place] for place in before])
            print(f"{method:12} {statistics.mean(after.values()):6.1f}  {interval(change)}")
        print(f"{'all':12}         {interval([statistics.mean(each) for each in zip(*found, strict=True)])}")


def interval(values: list[float]) -> str:
    """Return a mean with its 95 % interval by Student's t."""
    mean, half = statistics.mean(values), stats.sem(values) * stats.t.ppf(0.975, len(values) - 1)
    return f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]"


def main() -> None:
    asked = QUESTIONS[sys.argv[1]]
    workers = int(sys.argv[2]) if len(sys.argv) > 2 else 2
    KEPT.parent.mkdir(exist_ok=True)
    lines = KEPT.read_text().splitlines() if KEPT.exists() else []
    known = {key(each["trial"]): each for each in map(json.loads, lines)}
    missing = [trial for trial in asked if key(asdict(trial)) not in known]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool, KEPT.open("a") as kept:
        for done in as_completed([pool.submit(train, trial) for trial in missing]):
            result = done.result()
            known[key(result["trial"])] = result
            kept.write(json.dumps(result) + "\n")
            kept.flush()
    names = list(dict.fromkeys(trial.column for trial in asked))
    print("| set | budget | " + " | ".join(names) + " |\n|---|---|" + "---:|" * len(names))
    for dataset, budget in dict.fromkeys((trial.dataset, trial.budget) for trial in asked):
        row = [trial for trial in asked if (trial.dataset, trial.budget) == (dataset, budget)]
        cells = []
        for name in names:
            here = [known[key(asdict(trial))] for trial in row if trial.column == name]
            dice = [100 * judged(each, sys.argv[1]) for each in here]
            seconds = statistics.mean(each["seconds"] for each in here)
            spread = f" ({statistics.stdev(dice):.1f})" if len(dice) > 1 else ""
            cells.append(f"{statistics.mean(dice):.1f}{spread}, {seconds:.0f} s")
        print(f"| {dataset} | {budget} | " + " | ".join(cells) + " |")
    if sys.argv[1] == "doubling":
        changes(asked, known)


if __name__ == "__main__":
    main()
