"""What a suite's first question needs: seeds, sets and test groups for an interval or a gain, and their price.

From the records' differences come three variances for each data set (`qgbench.stats.power.components`), and with them
the half-width to be expected by the rule of `qgbench.stats.sets`, for runs whose data sets have seeds of their own. A
variance from few seeds is no truth: the mean squares of a kind are drawn anew as the observed ones times the degrees of
freedom over chi-square (the fiducial distribution; Weerahandi, JASA 88, 1993, 899-905), by one factor for all sets,
with Welch's degrees of freedom of their sum. A factor for each set would lift the sum: of five factors 2 over
chi-square(2) some are huge, and the median half-width was 1.7 times the true one. Printed are the median of the draws
and the range that holds the middle 80 %. They still lie high where spreads are near 0, as these are cut there: of the
spreads of `small`, three seeds, the median is 1.21 times the true half-width, which lies below the range in 2 of 10
simulated experiments (perf/power_calibration.py).

Power is that of experiments with half-widths of their own: mean squares are drawn for each, and the mean, which is
independent of them, falls outside the half-width with a normal's probability.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from qgbench.base.errors import UserError
from qgbench.metrics.table import Metric
from qgbench.report.declared import Answers
from qgbench.stats import sets
from qgbench.stats.crossed import Component, MeanSquares, mean_squares

_DRAWS = 400
_EXPERIMENTS = 25  # of each draw, for power
_SEEDS = tuple(range(2, 41))
_SHOWN = (3, 5, 8, 12, 20, 40)
_POWER = 0.8


@dataclass(frozen=True)
class Need:
    """What one plan takes.

    Attributes
    ----------
    plan : str
        In words: which sets and test groups.
    widths : (seeds, draws) float
        Half-width to be expected with each number of `_SEEDS`.
    powers : (seeds, draws) float
        Probability that the interval leaves out 0 where the gain is true.
    seconds : float
        Of one seed.
    """

    plan: str
    widths: np.ndarray
    powers: np.ndarray
    seconds: float

    def seeds(self, reached: np.ndarray) -> list[int | None]:
        """Return the fewest seeds from which on `reached` (seeds, draws) holds; None where none of 40 does."""
        return [_SEEDS[int(column.argmax())] if column.any() else None for column in reached.T]


def needs_of(answers: Answers, gain: float) -> list[Need]:
    """Return what the suite's first question needs with these sets, twice their groups, and twice as many sets.

    Parameters
    ----------
    answers : Answers
    gain : float
        In the unit of the values: Dice in [0, 1].

    Raises
    ------
    UserError
        The suite confirms nothing, the question has no answer yet, or some data set has one seed or one group.
    """
    if not answers.confirm:
        raise UserError(f"the suite '{answers.suite.name}' has no [[confirm]]: its first question is what power is of.")
    answer = answers.confirm[0]
    if answer.estimate is None:
        lacking = answers.reason or "; ".join(answer.lacking)
        raise UserError(f"the records do not answer '{answer.question.name}' of the suite yet: {lacking}.")
    if any(min(table.shape) < 2 for table in answer.tables.values()):
        raise UserError("spreads need 2 seeds and 2 test groups in each data set; run more seeds.")
    generator = np.random.default_rng(0)
    observed = drawn([mean_squares(table) for table in answer.tables.values()], generator)
    seconds = sum(answer.seconds.values())
    plans = (
        ("these sets and test groups", observed, 1, 1.0),
        ("twice the test groups and images", observed, 2, 1.0),
        ("twice as many sets like these", [*observed, *observed], 1, 2.0),
    )
    return [Need(name, *_expected(found, more, gain), seconds * dearer) for name, found, more, dearer in plans]


def drawn(squares: Sequence[MeanSquares], generator: np.random.Generator) -> list[tuple[int, np.ndarray]]:
    """Return of each data set its number of groups and draws of its variances of groups, seeds and rest.

    Parameters
    ----------
    squares : sequence of MeanSquares
        One for each data set.
    generator : Generator

    Returns
    -------
    list of (int, (3, draws) float)
    """
    kinds = zip(*(each.floors for each in squares), strict=True)
    scales = np.array([1 / (each.groups * each.seeds) for each in squares])
    group, seed, rest = (np.outer([square for square, _ in kind], _factors(kind, scales, generator)) for kind in kinds)
    groups, seeds = (np.array([[getattr(each, name)] for each in squares]) for name in ("groups", "seeds"))
    by_group, by_seed = _cut((group - rest) / seeds, 1 / groups), _cut((seed - rest) / groups, np.ones_like(groups))
    return [
        (each.groups, np.stack(variances)) for each, *variances in zip(squares, by_group, by_seed, rest, strict=True)
    ]


def _cut(spreads: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return (sets, draws) variances with none below 0 and the weighted sum that they had, 0 if that was negative."""
    positive = np.maximum(spreads, 0)
    whole = (weights * positive).sum(axis=0)
    kept = np.maximum((weights * spreads).sum(axis=0), 0)
    return positive * np.divide(kept, whole, out=np.zeros_like(whole), where=whole > 0)


def _factors(kind: Sequence[Component], scales: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return what the sum over sets of one kind of mean square may truly be, as shares of the observed sum."""
    parts, degrees = scales * [float(square) for square, _ in kind], np.array([n for _, n in kind])
    squared = float((parts**2 / degrees).sum())
    welch = float(parts.sum()) ** 2 / squared if squared > 0 else float(degrees.min())
    return welch / generator.chisquare(welch, _DRAWS)


def _expected(found: Sequence[tuple[int, np.ndarray]], more: int, gain: float) -> tuple[np.ndarray, np.ndarray]:
    """Return half-widths and powers by number of seeds, with `more` times the groups."""
    widths, powers = [], []
    generator = np.random.default_rng(1)
    for seeds in _SEEDS:
        squares = [
            MeanSquares(
                np.zeros_like(rest), rest + seeds * group, rest + more * groups * seed, rest, more * groups, seeds
            )
            for groups, (group, seed, rest) in found
        ]
        widths.append(sets.half_width(squares))
        width, error = sets.half_width([_measured(each, generator) for each in squares]), sets.variance(squares) ** 0.5
        with np.errstate(divide="ignore"):
            shown = stats.norm.sf((width - gain) / error) + stats.norm.sf((width + gain) / error)
        powers.append(shown.mean(axis=0))
    return np.array(widths), np.array(powers)


def _measured(true: MeanSquares, generator: np.random.Generator) -> MeanSquares:
    """Return the mean squares, (experiments, draws), of experiments in which those (draws) are to be expected."""
    shape = (_EXPERIMENTS, _DRAWS)
    group, seed, residual = (square * generator.chisquare(n, shape) / n for square, n in true.floors)
    return true._replace(group=group, seed=seed, residual=residual)


def print_needs(answers: Answers, what: Metric, half_width: float, gain: float, console: Console) -> None:
    """Print what the suite's first question needs; `half_width` and `gain` in points, or the measure's unit."""
    needs = needs_of(answers, gain / what.scale)
    answer = answers.confirm[0]
    sizes: Mapping[str, tuple[int, ...]] = {name: table.shape for name, table in answer.tables.items()}
    console.print(answer.question.text, style="bold", markup=False, soft_wrap=True)
    now = ", ".join(f"{name} {groups} groups x {seeds} seeds" for name, (groups, seeds) in sizes.items())
    console.print(
        f"spreads from {now}; a seed of all runs takes {needs[0].seconds / 3600:.1f} core-hours", soft_wrap=True
    )
    first = Table(box=None, pad_edge=False)
    for heading in ("seeds", "core-hours", f"half-width ({what.difference_unit})", f"power at +{gain:g}"):
        first.add_column(heading, justify="right")
    for row in _by_seeds(needs[0], what):
        first.add_row(*row)
    console.print(first)
    second = Table(box=None, pad_edge=False)
    targets = (f"seeds for +-{half_width:g}", f"seeds for {_POWER:.0%} power at +{gain:g}")
    for heading in ("with", *(text for target in targets for text in (target, "core-hours"))):
        second.add_column(heading, justify="left" if heading == "with" else "right")
    for need in needs:
        row = [need.plan]
        for reached in (what.scale * need.widths <= half_width, need.powers >= _POWER):
            row += _range(need.seeds(reached), need.seconds)
        second.add_row(*row)
    console.print(second)
    console.print(
        "median and, in brackets, middle 80 % of what the spreads may truly be, as so few seeds tell them badly; for "
        "runs whose data sets have seeds of their own. Core-hours are those of the records' machines.",
        style="dim",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )


def _by_seeds(need: Need, what: Metric) -> Iterator[list[str]]:
    for seeds in _SHOWN:
        place = _SEEDS.index(seeds)
        cells = []
        for values, scale, digits in ((need.widths[place], what.scale, 2), (need.powers[place], 100, 0)):
            low, middle, high = np.quantile(values, (0.1, 0.5, 0.9))
            cells.append(f"{scale * middle:.{digits}f} [{scale * low:.{digits}f}, {scale * high:.{digits}f}]")
        yield [str(seeds), f"{seeds * need.seconds / 3600:.0f}", cells[0], f"{cells[1]} %"]


def _range(seeds: Sequence[int | None], seconds: float) -> list[str]:
    """Return the number of seeds with its range, and the core-hours of these."""
    most = _SEEDS[-1]
    numbers = np.array([math.inf if count is None else count for count in seeds])
    ends = np.quantile(numbers, (0.5, 0.1, 0.9), method="nearest")

    def told(factor: float) -> str:
        best, low, high = (f"> {factor * most:.0f}" if math.isinf(n) else f"{factor * n:.0f}" for n in ends)
        return f"{best} [{low}, {high}]"

    return [told(1.0), told(seconds / 3600)]
