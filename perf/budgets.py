"""How many steps are enough: what doubling a budget changes of a method's validation Dice, at the last step.

``python perf/budgets.py run RUNS`` trains protocol small with 200, 400 and 800 steps, five methods, three data sets,
three seeds, two at a time (the same command goes on); ``python perf/budgets.py table RUNS`` prints each method's mean
change with its 95 % interval. Only validation images are looked at. Data sets are found as by ``qgbench run``.
"""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

METHODS = ("supervised", "fixmatch", "unimatch", "cps", "bcp")
REGIMES = {"isic2017": "n7", "scd": "n7", "cvc_clinicdb": "n28"}
SEEDS = (0, 1, 2)
STEPS = (200, 400, 800)


def command(method: str, dataset: str, seed: int, settings: Sequence[str], output: Path) -> list[str]:
    """Return the command of one run."""
    where = ["--protocol", "small", "--threads", "1", "--dataset", dataset, "--regime", REGIMES[dataset]]
    sets = [part for setting in settings for part in ("--set", setting)]
    run = ["run", "--quiet", "--method", method, "--seed", str(seed), *where, *sets, "--output", str(output)]
    return [sys.executable, "-m", "qgbench", *run]


def run(output: Path) -> None:
    """Train whatever is missing."""
    cells = itertools.product(STEPS, SEEDS, REGIMES, METHODS)
    commands = [command(m, d, seed, [f"train.steps={steps}"], output) for steps, seed, d, m in cells]
    commands += [
        command(m, d, seed, ["train.steps=400", f"train.lr={lr}"], output)
        for seed, d, m, lr in itertools.product(SEEDS, REGIMES, ("fixmatch", "unimatch"), (3e-4,))
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    with ThreadPoolExecutor(2) as pool:
        codes = pool.map(lambda line: subprocess.run(line, env=environment, check=False).returncode, commands)
        for done, (line, code) in enumerate(zip(commands, codes, strict=True), 1):
            print(f"{done} of {len(commands)}", " ".join(line[3:]), "" if code == 0 else f"failed: {code}", flush=True)


def runs(output: Path) -> pd.DataFrame:
    """Return a row per finished run: what it is, validation Dice at the last step in points, seconds of a core."""
    rows = []
    for file in sorted(output.glob("*/record.json")):
        record = json.loads(file.read_text())
        log = [json.loads(line) for line in (file.parent / "log.jsonl").read_text().splitlines()]
        spec, train = record["spec"], record["settings"]["protocol"]["train"]
        rows.append(
            {
                **{name: spec[name] for name in ("method", "dataset", "seed")},
                "steps": train["steps"],
                "lr": train["lr"],
                "dice": 100 * [entry["val_dice"] for entry in log if "val_dice" in entry][-1],
                "seconds": record["seconds"]["training"],
            }
        )
    return pd.DataFrame(rows)


def interval(values: np.ndarray) -> str:
    """Return the mean of values with its 95 % interval by t."""
    half = stats.sem(values) * stats.t.ppf(0.975, len(values) - 1) if len(values) > 1 else np.nan
    return f"{values.mean():+.2f} [{values.mean() - half:+.2f}, {values.mean() + half:+.2f}]"


def table(output: Path) -> None:
    """Print mean Dice and the change by doubling, over data sets and seeds."""
    found = runs(output)
    lr = found["lr"].max()
    wide = found[found["lr"] == lr].pivot_table(index=["method", "dataset", "seed"], columns="steps", values="dice")
    seconds = found[found["lr"] == lr].pivot_table(index="method", columns="steps", values="seconds", aggfunc="median")
    for first, second in itertools.pairwise(wide.columns):
        change = (wide[second] - wide[first]).dropna()
        print(f"\nvalidation Dice, {first} -> {second} steps (runs of a kind; core-seconds at {second})")
        for method, values in change.groupby("method"):
            means = wide.loc[method, [first, second]].dropna().mean()
            cost = seconds.loc[method, second]
            text = f"{means.iloc[0]:6.1f} {means.iloc[1]:6.1f}  {interval(values.to_numpy())}"
            print(f"{method:12} {text}  {len(values)}  {cost:.0f} s")
        by_method = change.groupby("method").mean().to_numpy()
        print(f"{'mean':12} {'':13}  {interval(by_method)}  over {len(by_method)} methods")
    for other in sorted(set(found["lr"]) - {lr}):
        both = found.pivot_table(index=["method", "dataset", "seed", "steps"], columns="lr", values="dice")
        change = (both[other] - both[lr]).dropna()
        print(f"\nvalidation Dice, learning rate {lr:g} -> {other:g}")
        for (method, steps), values in change.groupby(["method", "steps"]):
            print(f"{method:12} {steps} steps  {interval(values.to_numpy())}  {len(values)}")


if __name__ == "__main__":
    {"run": run, "table": table}[sys.argv[1]](Path(sys.argv[2]))
