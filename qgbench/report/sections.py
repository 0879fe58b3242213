"""One setting: its cells, which are best, and its contrasts.

A cell is a method (with its settings, with or without an add-on) in a setting (protocol, data set, regime,
architecture, encoder), over seeds.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from qgbench.metrics.table import METRICS, Metric
from qgbench.report.collect import Problem, Run, in_unit_of, noun_of
from qgbench.report.contrasts import Contrast, Kind, contrast, controls, listed, twins
from qgbench.report.pairing import refusal, units_differ
from qgbench.report.scores import Scores, average
from qgbench.spec.arm import OF_ADDON, Arm, ArmName
from qgbench.spec.regime import GIVEN
from qgbench.spec.run_spec import Setting
from qgbench.stats.crossed import estimate
from qgbench.stats.effects import headroom_share

FULL_BUDGET = "all"  # how a regime with all labels begins
COLLAPSE = 0.05
"""How far a run's mean Dice lies below that of supervised training with the same seed if it collapsed."""

Pairs = Sequence[tuple[ArmName, ArmName]]
FullMeans = Mapping[tuple[Setting, ArmName], float]


@dataclass(frozen=True, eq=False)
class Section:
    """Everything about one setting.

    Attributes
    ----------
    setting : Setting
    measure : Metric
        What the statistics are about, in the unit of these records.
    runs : list of Run
    cells : dict of ArmName to Scores
        In the order of `ArmName.order`.
    contrasts : list of Contrast
        Twins first; each kind in the order of its names.
    best : list of ArmName
        The cell with the best mean, and those whose paired difference from it has a 95 % interval with 0 in it, or one
        that allows no verdict. Each interval stands alone.
    collapsed : dict of ArmName to (int, int)
        Of each cell that has runs with the seeds of supervised training: how many of these are more than `COLLAPSE`
        below it in mean Dice over groups, and how many there are.
    problems : list of Problem
    """

    setting: Setting
    measure: Metric
    runs: list[Run]
    cells: dict[ArmName, Scores]
    contrasts: list[Contrast]
    best: list[ArmName]
    collapsed: dict[ArmName, tuple[int, int]]
    problems: list[Problem]

    @property
    def classes(self) -> tuple[str, ...]:
        """What the records segment."""
        return tuple(dict.fromkeys(name for run in self.runs for name in run.record.classes))

    @property
    def distance_unit(self) -> str:
        """What distances are in: 'px', 'mm' or 'voxels'."""
        return in_unit_of(METRICS["hd95"], self.runs).unit

    @property
    def noun(self) -> str:
        """What is measured one by one: 'image' or 'volume'."""
        return noun_of(self.runs)

    @property
    def partition(self) -> str:
        """How the data set is split, as `partition_of` tells."""
        return partition_of(self.setting, self.runs)

    @property
    def over_classes(self) -> bool:
        """Whether the measure is the mean over several classes."""
        return len(self.classes) > 1 and ":" not in self.measure.name

    def runs_of(self) -> dict[ArmName, list[Run]]:
        """Return the runs of each cell, in the order of `runs`."""
        found: dict[ArmName, list[Run]] = defaultdict(list)
        for run in self.runs:
            found[run.record.spec.arm].append(run)
        return dict(found)


def compare_cells(
    setting: Setting,
    runs: Sequence[Run],
    what: Metric,
    asked: Pairs,
    full: FullMeans,
    in_suite: bool,
) -> Section:
    """Return the comparison of a setting's cells.

    Parameters
    ----------
    setting : Setting
    runs : sequence of Run
    what : Metric
    asked : sequence of (ArmName, ArmName)
        Pairs that were asked for; they are missed where the setting has one of the two.
    full : mapping of (Setting, ArmName) to float
        As `supervised_with_all_labels` gives it.
    in_suite : bool
        A suite says which questions are tested: twins are not. What it lacks is named with its questions, and what it
        never declared is not missed.
    """
    by_name: dict[ArmName, dict[int, Run]] = defaultdict(dict)
    for run in sorted(runs, key=lambda run: run.seed):
        by_name[run.record.spec.arm][run.seed] = run
    usable, problems = _usable(by_name)
    cells = {name: average(list(by_seed.values()), what) for name, by_seed in usable.items()}
    pairs = [pair for pair in asked if any(name in by_name for name in pair)]
    families: dict[Kind, Pairs] = {"twin": twins(by_name), "control": controls(by_name), "asked": pairs}
    contrasts: list[Contrast] = []
    for kind, family in families.items():
        tested = kind == "asked" or (kind == "twin" and not in_suite)
        found = [contrast(kind, pair, usable, cells, what, tested) for pair in family]
        contrasts += [one for one, _ in found]
        problems += [
            problem for one, own in found for problem in own if kind == "asked" or not in_suite or not one.missing
        ]
    if not setting.regime.startswith(FULL_BUDGET):
        where = _any_budget(setting, runs)
        plain = {run.record.spec.arm: supervised_like(run.record.spec) for run in runs}
        ends = {name: (cells.get(own), full.get((where, own))) for name, own in plain.items()}
        contrasts = [_with_headroom(one, *ends.get(one.name, (None, None)), what) for one in contrasts]
    return Section(
        setting=setting,
        measure=in_unit_of(what, runs),
        runs=list(runs),
        cells=cells,
        contrasts=contrasts,
        best=_best(usable, cells, what),
        collapsed=_collapsed(usable),
        problems=sorted(problems),
    )


def _usable(by_name: Mapping[ArmName, dict[int, Run]]) -> tuple[dict[ArmName, dict[int, Run]], list[Problem]]:
    """Return the cells whose runs were tested on the same images, and what is wrong with others."""
    usable, problems = {}, []
    for name in sorted(by_name, key=lambda name: name.order):
        if units_differ(list(by_name[name].values())):
            noun = next(iter(by_name[name].values())).record.noun
            cause = f"refused: seeds {listed(by_name[name])} were tested on different {noun}s"
            problems.append(Problem(str(name), cause))
        else:
            usable[name] = by_name[name]
        for seed, run in by_name[name].items():
            if copies := (run.record.near_copies or {}).get("test"):
                what = run.record.picture
                text = f"{len(copies)} test {what}s are near copies of {what}s that it trains on"
                problems.append(Problem(f"{name}, seed {seed}", text))
    return usable, problems


def supervised_like(spec: Arm) -> ArmName:
    """Return supervised training with an arm's settings, those of its method and its add-on aside."""
    shared = {key: value for key, value in spec.overrides.items() if not key.startswith(("method.", *OF_ADDON))}
    return Arm(method="supervised", overrides=shared).arm


def partition_of(setting: Setting, runs: Iterable[Run]) -> str:
    """Return the kind of a setting's split; of one that someone else made, the fingerprint of its parts.

    The name of such a split tells who has labels, too, so that one partition has another name for each budget.
    """
    split = setting.regime.rpartition("@")[2]
    found = {run.record.provenance.split for run in runs} if split.startswith(GIVEN) else set()
    return found.pop() if len(found) == 1 else split


def supervised_with_all_labels(by_setting: Mapping[Setting, Sequence[Run]], what: Metric) -> FullMeans:
    """Return the mean of supervised training with all labels, by the setting without its budget, and by arm."""
    found: dict[tuple[Setting, ArmName], float] = {}
    for setting, runs in by_setting.items():
        if not setting.regime.startswith(f"{FULL_BUDGET}@"):
            continue
        by_arm: dict[ArmName, list[Run]] = defaultdict(list)
        for run in runs:
            if run.record.spec.arm == supervised_like(run.record.spec):
                by_arm[run.record.spec.arm].append(run)
        for name, alone in by_arm.items():
            if not units_differ(alone):
                means = [run.units.by_group(run.values[what.name]).mean() for run in alone]
                found[_any_budget(setting, runs), name] = float(np.mean(means))
    return found


def _any_budget(setting: Setting, runs: Iterable[Run]) -> Setting:
    return setting.model_copy(update={"regime": partition_of(setting, runs)})


def _with_headroom(one: Contrast, budget: Scores | None, full: float | None, what: Metric) -> Contrast:
    if budget is None or full is None or one.difference is None:
        return one
    ends = what.sign * budget.estimate.mean, what.sign * full
    return replace(one, headroom=headroom_share(what.sign * one.difference.estimate.mean, *ends))


def _best(usable: Mapping[ArmName, dict[int, Run]], cells: dict[ArmName, Scores], what: Metric) -> list[ArmName]:
    """Return the cell with the best mean, and those whose paired difference from it may be 0."""
    if not cells:
        return []
    top = max(cells, key=lambda name: what.sign * cells[name].estimate.mean)

    def below(name: ArmName) -> bool:
        common = sorted(usable[top].keys() & usable[name].keys())
        if name == top or refusal([(usable[top][seed], usable[name][seed]) for seed in common]):
            return False
        tables = (cells[one].table[:, [cells[one].seeds.index(seed) for seed in common]] for one in (top, name))
        found = estimate(np.subtract(*tables), tested=False)
        return found.interval is not None and not found.p_withheld and not found.interval[0] <= 0 <= found.interval[1]

    return [name for name in cells if not below(name)]


def _collapsed(usable: Mapping[ArmName, dict[int, Run]]) -> dict[ArmName, tuple[int, int]]:
    """Return of each cell how many runs collapsed, and how many have supervised training of their seed beside them."""
    dice = {
        name: {seed: float(run.units.by_group(run.values["dice"]).mean()) for seed, run in runs.items()}
        for name, runs in usable.items()
    }
    found = {}
    for name, runs in usable.items():
        plain = supervised_like(next(iter(runs.values())).record.spec)
        common = dice[name].keys() & dice.get(plain, {}).keys() if name != plain else ()
        if common:
            found[name] = sum(dice[name][seed] < dice[plain][seed] - COLLAPSE for seed in common), len(common)
    return found
