"""A cell's scores over its seeds, or the difference of two cells'."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qgbench.metrics.table import METRICS, MISSED, ONE_EMPTY, Metric
from qgbench.report.collect import Run
from qgbench.stats.crossed import Estimate, estimate
from qgbench.stats.effects import Shape, Spread, shape, spread
from qgbench.stats.misses import LEAST_OF_DIFFERENCE, LEAST_OF_MEAN, carrying

BESIDE = (*(METRICS[name] for name in ("hd95", "hd95_percent", "nsd_2px")), MISSED)
"""What is shown beside the measure, averaged as it is: over the units of a group, then over groups and seeds."""


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
    beside : dict of str to Estimate
        Of each of `BESIDE` the mean over groups and seeds; where the measure is of one class, of that class. Of misses
        and distances without an interval where too few groups show a miss (`qgbench.stats.misses`).
    shapes : dict of str to Shape
        How the measure, and HD95, are spread over the units of a run; empty of a difference.
    """

    seeds: list[int]
    images: int
    groups: list[str]
    table: NDArray[np.float64]
    estimate: Estimate
    spread: Spread
    means: dict[str, float]
    beside: dict[str, Estimate]
    shapes: dict[str, Shape]


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
    shapes = {
        name: shape(_columns(runs, name), one.higher_is_better)
        for name, one in ((what.name, what), (_of_same(what, METRICS["hd95"]), METRICS["hd95"]))
    }
    beside = {one.name: _columns(runs, _of_same(what, one)) for one in (*BESIDE, ONE_EMPTY)}
    return _scored(runs, _columns(runs, what.name), means, beside, shapes, tested=False)


def average_difference(
    runs: Sequence[Run], others: Sequence[Run], scores: Scores, other_scores: Scores, what: Metric, tested: bool
) -> Scores:
    """Return the differences of runs from others of the same seeds, whose own scores are known; p if `tested`."""

    def difference(name: str) -> NDArray[np.float64]:
        return _columns(runs, name) - _columns(others, name)

    means = {name: mean - other_scores.means[name] for name, mean in scores.means.items()}
    beside = {one.name: difference(_of_same(what, one)) for one in (*BESIDE, ONE_EMPTY)}
    return _scored(runs, difference(what.name), means, beside, {}, tested)


def _columns(runs: Sequence[Run], name: str) -> NDArray[np.float64]:
    """Return a metric by unit and seed."""
    return np.column_stack([run.values[name] for run in runs])


def _of_same(what: Metric, one: Metric) -> str:
    """Return the name of a metric, of the class that `what` is of if it is of one."""
    return one.name + "".join(what.name.partition(":")[1:])


def _scored(
    runs: Sequence[Run],
    values: NDArray[np.float64],
    means: dict[str, float],
    beside: dict[str, NDArray[np.float64]],
    shapes: dict[str, Shape],
    tested: bool,
) -> Scores:
    units = runs[0].units

    def by_group(columns: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.column_stack([units.by_group(column) for column in columns.T])

    table = by_group(values)
    return Scores(
        seeds=[run.seed for run in runs],
        images=len(units.ids),
        groups=units.group_names,
        table=table,
        estimate=estimate(table, tested),
        spread=spread(values, units.groups),
        means=means,
        beside=_beside({name: by_group(columns) for name, columns in beside.items()}, of_difference=not shapes),
        shapes=shapes,
    )


def _beside(tables: dict[str, NDArray[np.float64]], of_difference: bool) -> dict[str, Estimate]:
    """Return the estimates of `BESIDE`, those of misses and distances with an interval where that holds its level."""
    found = {one.name: estimate(tables[one.name], tested=False) for one in BESIDE}
    least = LEAST_OF_DIFFERENCE if of_difference else LEAST_OF_MEAN
    for one in BESIDE:
        # The diagonal stands for a distance where something is predicted and nothing is there, too.
        counted, shown = (MISSED, "a miss") if one is MISSED else (ONE_EMPTY, "an empty mask beside one that is not")
        count = int(carrying(tables[counted.name]))
        unharmed = of_difference and one is not MISSED and count == 0
        if count < least and not unharmed and not one.higher_is_better:
            reason = f"no interval: {count} test groups show {shown}, at least {least} are needed"
            found[one.name] = replace(found[one.name], interval=None, standard_error=None, reason=reason)
        elif not of_difference and (ends := found[one.name].interval):
            # A mean is nowhere outside what its metric can be: the interval loses nothing that it could hold.
            most = np.inf if one.highest is None else one.highest
            found[one.name] = replace(found[one.name], interval=(max(ends[0], 0.0), min(ends[1], most)))
    return found


def shared_tables(cells: Sequence[Scores]) -> NDArray[np.float64] | None:
    """Return the tables of cells over the seeds that all have: (M, G, S); None where test groups or seeds differ."""
    seeds = sorted(set.intersection(*(set(cell.seeds) for cell in cells)))
    if not seeds or any(cell.groups != cells[0].groups for cell in cells):
        return None
    return np.stack([cell.table[:, [cell.seeds.index(seed) for seed in seeds]] for cell in cells])
