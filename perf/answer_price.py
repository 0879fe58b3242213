"""The price of an answer: core-hours until the 95 % interval of a suite's primary question is +-0.3 points.

``python perf/answer_price.py results [SUITE]`` reads submitted records (the per-image tables, and the seconds of every
run) and trains nothing. From the spread of the primary question's differences over test groups and seeds it gives the
half-width to be expected with more seeds, on the same test images, by the rule that reports apply
(`qgbench.stats.combined`): for new patients, whose number seeds cannot raise, and beside it for these very patients.
A seed costs the training and evaluation of its runs, and g once for each set; seconds are of the clock, one thread
each, as two runs went side by side.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from qgbench.spec.suite import Suite, load_suite
from qgbench.stats.combined import half_width
from qgbench.stats.crossed import MeanSquares
from qgbench.stats.power import Components, components

ASKED = 0.003  # half-width, in Dice
MOST_SEEDS = 200


def runs_of(results: Path, suite: Suite, dataset: str, row: str) -> list[Path]:
    """Return the records of a row of the primary question on a set, by seed."""
    (arch,) = suite.archs_of(suite.primary)
    folder = results / "v1" / suite.name / dataset / suite.primary.regimes[dataset] / arch / row
    return sorted(folder.glob("seed*.json"))


def by_group(record: Path) -> pd.Series:
    """Return the mean Dice of each test group."""
    images = pd.read_csv(record.with_suffix(".csv"), dtype={"id": str, "group": str})
    return images.groupby("group")["dice"].mean()


def table(results: Path, suite: Suite, dataset: str) -> np.ndarray:
    """Return the mean over rows of what the add-on changes: (G, S)."""
    differences = []
    for row in suite.primary.rows:
        own, base = (runs_of(results, suite, dataset, name) for name in (f"{row}+{suite.primary.addon}", row))
        differences.append(np.column_stack([by_group(a) - by_group(b) for a, b in zip(own, base, strict=True)]))
    return np.mean(differences, axis=0)


def seconds_of_seed(results: Path, suite: Suite, dataset: str) -> tuple[float, float]:
    """Return what one seed costs on a set, on average: training and evaluating its runs, and g."""
    rows = [name for row in suite.primary.rows for name in (row, f"{row}+{suite.primary.addon}")]
    known: list[list[dict[str, Any]]] = [
        [json.loads(path.read_text())["times"] for path in runs_of(results, suite, dataset, row)] for row in rows
    ]
    runs = sum(np.mean([times["train"] + times["evaluate"] for times in of_row]) for of_row in known)
    return float(runs), float(np.mean([times["g"] for of_row in known for times in of_row if times["g"]]))


def expected(spread: Components, groups: int, seeds: int, new_patients: bool = True) -> MeanSquares:
    """Return the mean squares to be expected; without the spread of the groups where these very patients are meant."""
    residual = spread.sd_residual**2
    group = residual + (seeds * spread.sd_group**2 if new_patients else 0.0)
    seed = residual + groups * spread.sd_seed**2
    return MeanSquares(np.zeros(()), np.array(group), np.array(seed), np.array(residual), groups, seeds)


def width(spreads: dict[str, tuple[Components, int]], seeds: int, new_patients: bool = True) -> float:
    """Return the half-width of the mean over sets to be expected, in Dice."""
    return float(half_width([expected(*of_set, seeds, new_patients) for of_set in spreads.values()]))


def main() -> None:
    results, suite = Path(sys.argv[1]), load_suite(sys.argv[2] if len(sys.argv) > 2 else "small")
    print(f"{suite.primary.question} ({suite.name})\n")
    print("| set | groups | seeds | SD of groups, seeds, residual (points) | runs of a seed (s) | g (s) |")
    print("|---|---:|---:|---|---:|---:|")
    spreads, seconds = {}, 0.0
    for dataset in suite.primary.regimes:
        differences = table(results, suite, dataset)
        spread = components(differences)
        spreads[dataset] = spread, len(differences)
        runs, g = seconds_of_seed(results, suite, dataset)
        seconds += runs + g
        sds = ", ".join(f"{100 * sd:.2f}" for sd in (spread.sd_group, spread.sd_seed, spread.sd_residual))
        print(f"| {dataset} | {len(differences)} | {differences.shape[1]} | {sds} | {runs:.0f} | {g:.0f} |")
    print(f"\nA seed costs {seconds / 3600:.2f} core-hours on all sets.\n")
    print("| seeds | core-hours | half-width, new patients (points) | these patients |\n|---:|---:|---:|---:|")
    for seeds in (4, 6, 8, 12, 20, 40):
        both = [f"{100 * width(spreads, seeds, new):.2f}" for new in (True, False)]
        print(f"| {seeds} | {seeds * seconds / 3600:.1f} | {both[0]} | {both[1]} |")
    for new, whom in ((True, "new patients"), (False, "these patients")):
        enough = next((n for n in range(2, MOST_SEEDS + 1) if width(spreads, n, new) <= ASKED), None)
        if enough is None:
            price = f"not with {MOST_SEEDS} seeds (+-{100 * width(spreads, MOST_SEEDS, new):.2f})"
        else:
            price = f"{enough} seeds, {enough * seconds / 3600:.1f} core-hours"
        print(f"\n+-{100 * ASKED:.1f} points for {whom}: {price}")


if __name__ == "__main__":
    main()
