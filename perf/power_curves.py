"""What gain an experiment can show: ``python perf/power_curves.py``.

First table: the chance that a gain of 0.5, 1, 2, 4 Dice points has p < 0.05, by `qgbench.stats.power` (normal model)
and by 2,000 simulated experiments with bounded, skewed Dice, misses and unequal groups (`qgbench.stats.simulate`);
components are estimated from all experiments at once. A share's standard error is at most 1.1 points. Second table: the
least gain shown with probability 0.8, and the groups that 1, 2 and 4 points need, from the same components. Takes about
half a minute on one core.
"""

import itertools
import math

import numpy as np

from qgbench.stats.crossed import half_width, mean_squares
from qgbench.stats.power import Components, groups_needed, least_gain, power
from qgbench.stats.simulate import Scenario, simulate

EXPERIMENTS = 2_000
GAINS = (0.005, 0.01, 0.02, 0.04)
SIZES = [(190, 8), (300, 15), (103, 40), (100, 100)]  # images, groups
SEEDS = (2, 3, 5, 10)


def true_components(differences: np.ndarray) -> Components:
    """Return components from the mean squares of many tables (R, G, S) of one experiment."""
    squares = mean_squares(differences)
    group, seed, residual = (float(part.mean()) for part in (squares.group, squares.seed, squares.residual))
    return Components(
        sd_group=math.sqrt(max(group - residual, 0) / squares.seeds),
        sd_seed=math.sqrt(max(seed - residual, 0) / squares.groups),
        sd_residual=math.sqrt(residual),
    )


def main() -> None:
    spreads: dict[tuple[int, int, float], Components] = {}
    print(
        "SDs of groups, runs, residual in Dice points; power % at +0.5, +1, +2, +4 points: by model | simulated records"
    )
    print("images groups seeds run SD |   SDs            | model                    | simulated")
    for (images, groups), seeds, run_sd in itertools.product(SIZES, SEEDS, (0.005, 0.015)):
        scenario = Scenario(images, groups, seeds, run_sd=run_sd)
        twins = simulate(scenario, EXPERIMENTS, GAINS, seed=groups).by_group()
        tables = twins[1:] - twins[0]
        spread = spreads[groups, seeds, run_sd] = true_components(tables[1])
        squares = mean_squares(tables)
        simulated = 100 * np.mean(np.abs(squares.mean) > half_width(squares), axis=1)
        model = [100 * power(gain, groups, seeds, spread) for gain in GAINS]
        sds = " ".join(f"{100 * sd:5.2f}" for sd in (spread.sd_group, spread.sd_seed, spread.sd_residual))
        shown = " | ".join(" ".join(f"{rate:5.1f}" for rate in rates) for rates in (model, simulated))
        print(f"{images:6} {groups:6} {seeds:5} {100 * run_sd:6.1f} | {sds} | {shown}", flush=True)

    print("\nDice points of gain shown with probability 0.8, and groups needed for 1, 2, 4 points (-- more than 5,000)")
    print("images/group groups seeds run SD | least gain | groups for 1, 2, 4")
    for (images, groups), seeds, run_sd in itertools.product(SIZES, SEEDS, (0.005, 0.015)):
        spread = spreads[groups, seeds, run_sd]
        needed = [groups_needed(gain, seeds, spread) for gain in (0.01, 0.02, 0.04)]
        listed = " ".join(f"{count or '--':>5}" for count in needed)
        gain = 100 * least_gain(groups, seeds, spread)
        print(f"{images / groups:12.1f} {groups:6} {seeds:5} {100 * run_sd:6.1f} | {gain:10.1f} | {listed}")


if __name__ == "__main__":
    main()
