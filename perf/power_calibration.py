"""How well ``qgbench power --suite`` foresees: ``python perf/power_calibration.py [records]``.

Takes the spreads of the first question of the suite `small` from the records (default: results) and three more truths:
no spread of seeds, all sets alike, one set that spreads much more. Of each truth, 400 experiments with 3 and with 5
seeds are drawn (normal mean squares); each foresees the half-width of 8 seeds as the command does. Printed: the true
half-width (that of the true variances, in points), the median of what was foreseen as a share of it, and how often the
truth lay below and above the printed range, which holds the middle 80 % (nominal: 10 % each). Takes a minute.
"""

import sys
from pathlib import Path

import numpy as np

from qgbench.report.analysis import analyse
from qgbench.report.answer_power import drawn
from qgbench.report.collect import collect
from qgbench.report.declared import declared
from qgbench.spec.suite import load_suite
from qgbench.stats import sets
from qgbench.stats.crossed import MeanSquares, mean_squares

EXPERIMENTS = 400
FORESEEN = 8

Spreads = list[tuple[int, np.ndarray]]
"""Of each data set its groups, and variances of groups, seeds and rest, (3, ...)."""


def squares_of(spreads: Spreads, seeds: int) -> list[MeanSquares]:
    """Return the mean squares to be expected."""
    return [
        MeanSquares(np.zeros_like(c), c + seeds * a, c + groups * b, c, groups, seeds) for groups, (a, b, c) in spreads
    ]


def experiment(spreads: Spreads, seeds: int, noise: np.random.Generator) -> list[MeanSquares]:
    """Return mean squares as an experiment with normal differences has them."""
    drawn_squares = []
    for one in squares_of(spreads, seeds):
        group, seed, rest = (square * noise.chisquare(degrees) / degrees for square, degrees in one.floors)
        drawn_squares.append(one._replace(group=group, seed=seed, residual=rest))
    return drawn_squares


def foresee(truth: Spreads, seeds: int, noise: np.random.Generator) -> np.ndarray:
    """Return draws of the half-width with `FORESEEN` seeds, from one experiment."""
    return sets.half_width(squares_of(drawn(experiment(truth, seeds, noise), noise), FORESEEN))


def main() -> None:
    records = Path(sys.argv[1] if len(sys.argv) > 1 else "results")
    answers = analyse(collect([records]), suite=declared(load_suite("small"))).answers
    assert answers is not None
    found: Spreads = []
    for table in answers.confirm[0].tables.values():
        one = mean_squares(table)
        rest = float(one.residual)
        spread = [max(float(one.group) - rest, 0) / one.seeds, max(float(one.seed) - rest, 0) / one.groups, rest]
        found.append((one.groups, np.array(spread)))
    mean = np.mean([spread for _, spread in found], axis=0)
    truths: dict[str, Spreads] = {
        "as the records": found,
        "no spread of seeds": [(groups, spread * [1, 0, 1]) for groups, spread in found],
        "sets alike": [(groups, mean) for groups, _ in found],
        "one set's seeds spread": [(n, mean * [1, 1 if number else 16, 1]) for number, (n, _) in enumerate(found)],
    }
    print("truth                  | seeds | half-width | median foreseen | truth below | above the range")
    for name, truth in truths.items():
        for seeds in (3, 5):
            noise = np.random.default_rng(seeds)
            true = float(sets.half_width(squares_of(truth, FORESEEN)))
            foreseen = [foresee(truth, seeds, noise) for _ in range(EXPERIMENTS)]
            low, middle, high = np.quantile(foreseen, (0.1, 0.5, 0.9), axis=1)
            print(
                f"{name:22} | {seeds:5} | {100 * true:10.2f} | {np.median(middle) / true:15.2f} | "
                f"{np.mean(true < low):11.0%} | {np.mean(true > high):.0%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
