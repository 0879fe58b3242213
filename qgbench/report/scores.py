"""A cell's scores over its seeds, or the difference of two cells'."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qgbench.metrics.table import Metric
from qgbench.report.collect import Run
from qgbench.stats.crossed import Estimate, estimate
from qgbench.stats.effects import Spread, spread


@dataclass(frozen=True, eq=False)
class Scores:
    """A cell over some seeds, or the difference of two (first minus second). In the measure's own unit: Dice in [0, 1].

    Attributes
    ----------
    seeds : list of int
    images : int
        Units: images, or volumes.
    groups : list of str
        Names of the test groups, in the order of `table`.
    table : (G, S) float
        Mean of the measure over the units of each group, for each seed.
    estimate : Estimate
        The mean over groups and seeds, from the crossed model.
    spread : Spread
        Standard deviations over images, groups and seeds.
    means : dict of str to float
        Each of `Run.values` averaged over units and seeds; ``missed`` and ``spurious``, images (or units and classes)
        for each seed.
    """

    seeds: list[int]
    images: int
    groups: list[str]
    table: NDArray[np.float64]
    estimate: Estimate
    spread: Spread
    means: dict[str, float]


def average(runs: Sequence[Run], what: Metric) -> Scores:
    """Return the scores of a cell's runs, one a seed."""
    means = {
        name: float(np.mean([run.values[name].mean() for run in runs]))
        for name in runs[0].values
        if all(name in run.values for run in runs)
    }
    means |= {
        name: float(np.mean([getattr(run.record.summary, name) for run in runs])) for name in ("missed", "spurious")
    }
    return _scored(runs, np.column_stack([run.values[what.name] for run in runs]), means, tested=False)


def average_difference(
    runs: Sequence[Run], others: Sequence[Run], scores: Scores, other_scores: Scores, what: Metric, tested: bool
) -> Scores:
    """Return the differences of runs from others of the same seeds, whose own scores are known; p if `tested`."""
    values = np.column_stack([a.values[what.name] - b.values[what.name] for a, b in zip(runs, others, strict=True)])
    means = {name: mean - other_scores.means[name] for name, mean in scores.means.items()}
    return _scored(runs, values, means, tested)


def _scored(runs: Sequence[Run], values: NDArray[np.float64], means: dict[str, float], tested: bool) -> Scores:
    units = runs[0].units
    table = np.column_stack([units.by_group(column) for column in values.T])
    return Scores(
        seeds=[run.seed for run in runs],
        images=len(units.ids),
        groups=units.group_names,
        table=table,
        estimate=estimate(table, tested),
        spread=spread(values, units.groups),
        means=means,
    )


def shared_tables(cells: Sequence[Scores]) -> NDArray[np.float64] | None:
    """Return the tables of cells over the seeds that all have: (M, G, S); None where test groups or seeds differ."""
    seeds = sorted(set.intersection(*(set(cell.seeds) for cell in cells)))
    if not seeds or any(cell.groups != cells[0].groups for cell in cells):
        return None
    return np.stack([cell.table[:, [cell.seeds.index(seed) for seed in seeds]] for cell in cells])
