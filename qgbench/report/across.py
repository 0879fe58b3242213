"""What holds over the settings of one protocol: ranks of the cells, and each add-on's effect."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from qgbench.metrics.table import Metric
from qgbench.report.contrasts import Contrast, is_control
from qgbench.report.scores import Scores, shared_tables
from qgbench.report.sections import FULL_BUDGET, Section
from qgbench.spec.arm import ArmName
from qgbench.spec.protocol import OWN_SEEDS
from qgbench.spec.run_spec import Setting
from qgbench.stats.across import average_ranks, rank_frequencies
from qgbench.stats.crossed import Estimate
from qgbench.stats.sets import Population, population, these_sets

ROPE = 0.01  # in Dice: differences of one point or less are of no practical use


@dataclass(frozen=True, eq=False)
class AddonAcross:
    """What one add-on does over methods and settings.

    Attributes
    ----------
    addon : str
    contrasts : list of (Setting, Contrast)
        Against the twins without, wherever there is a difference.
    methods : list of str
        Those with a difference in every setting: what `combined` averages over.
    left_out : dict of str to int
        Methods without a difference in some setting, each with how many it lacks.
    combined : Estimate or None
        Mean difference over these methods and all settings, averaged within data sets, which have equal weights; of
        these data sets, without p.
    sets : Population or None
        What the same means say of a population of data sets.
    """

    addon: str
    contrasts: list[tuple[Setting, Contrast]]
    methods: list[str]
    left_out: dict[str, int]
    combined: Estimate | None
    sets: Population | None


class Agreement(NamedTuple):
    """How far ranks by another rule agree with the ranks that are shown: Kendall's tau (b, where ranks tie)."""

    rule: str
    rankings: int
    mean: float
    least: float


class Noise(NamedTuple):
    """How far the cells of a setting differ, and the runs of a cell: standard deviations, in the measure's unit."""

    setting: Setting
    cells: float
    """Over the cells' means."""
    seeds: float
    """Over a cell's runs, each a mean over groups; root mean square over cells."""


@dataclass(frozen=True, eq=False)
class Across:
    """What holds over the data sets of one protocol, architecture, encoder and kind of regime.

    Attributes
    ----------
    protocol, protocol_version, arch, encoder
        As in `Setting`.
    settings : list of Setting
        The blocks of the comparison.
    names : list of ArmName
        The cells that every block has, best average rank first.
    left_out : dict of ArmName to int
        Cells that some blocks lack, and how many.
    means : (D, M) float
        Of the measure, by block and name.
    ranks : (M,) float
        Average ranks; 1 is best.
    frequencies : (M, M) float
        Share of bootstrap draws over groups and seeds in which name m has rank r.
    agreements : list of Agreement
        Of the ranks with those by other rules; empty with fewer than three names.
    noise : list of Noise
        Of the settings in which all these names have two seeds or more.
    addons : list of AddonAcross
    measure : Metric
        What all of it is about, in the unit that all blocks have.
    over_classes : bool
        Whether that is a mean over several classes in some block.
    """

    protocol: str
    protocol_version: int
    arch: str
    encoder: str
    settings: list[Setting]
    names: list[ArmName]
    left_out: dict[ArmName, int]
    means: NDArray[np.float64]
    ranks: NDArray[np.float64]
    frequencies: NDArray[np.float64]
    agreements: list[Agreement]
    noise: list[Noise]
    addons: list[AddonAcross]
    measure: Metric
    over_classes: bool

    @property
    def regimes(self) -> str:
        """What the regimes of all blocks have in common: ``budget@grouped``, ``all+pool@image``."""
        return regime_kind(self.settings[0].regime)

    @property
    def scope(self) -> str:
        """What all blocks share, in words: no two of an analysis are alike."""
        return f"{self.title}, {self.protocol} v{self.protocol_version}"

    @property
    def title(self) -> str:
        """The same without the protocol; the unit of a distance, or of a tolerance, is named where it is not pixels."""
        told = self.measure.label if "2 voxels" in self.measure.label else self.measure.unit
        return f"{self.regimes}, {self.arch}, {self.encoder}" + ("" if told in ("%", "px") else f", {told}")


def compare_settings(sections: Sequence[Section], what: Metric) -> list[Across]:
    """Return what holds over settings that share protocol, architecture, encoder and kind of regime, if two or more.

    Distances in different units are kept apart, and so is what tolerates distances in different units.
    """
    by_scope: dict[tuple[Setting, str, str], list[Section]] = defaultdict(list)
    for section in sections:
        scope = {"dataset": "", "regime": regime_kind(section.setting.regime)}
        measure = section.measure
        by_scope[section.setting.model_copy(update=scope), measure.unit, measure.label].append(section)
    return [_one_across(blocks, what) for blocks in by_scope.values() if len(blocks) > 1]


def is_dice(what: Metric) -> bool:
    """Return whether a measure is Dice, over all classes or of one."""
    return what.name.partition(":")[0] == "dice"


def regime_kind(regime: str) -> str:
    """Return a regime without how many labels and which pools: ``budget@grouped``, ``all+pool@image``."""
    body, _, split = regime.partition("@")
    budget, *pools = body.split("+")
    return ("all" if budget == FULL_BUDGET else "budget") + ("+pool" if pools else "") + f"@{split}"


def _one_across(blocks: Sequence[Section], what: Metric) -> Across:
    lacking = {
        name: sum(name not in block.cells for block in blocks) for name in {n for block in blocks for n in block.cells}
    }
    names = sorted((name for name, count in lacking.items() if not count), key=lambda name: name.order)
    means = np.array([[block.cells[name].estimate.mean for name in names] for block in blocks]).reshape(len(blocks), -1)
    ranks = average_ranks(what.sign * means) if names else np.empty(0)
    order = np.argsort(ranks, kind="stable")
    names, means, ranks = [names[i] for i in order], means[:, order], ranks[order]
    several = len(names) > 1
    tables = [shared_tables([block.cells[name] for name in names]) for block in blocks] if several else []
    whole = all(table is not None for table in tables)
    first = blocks[0].setting
    return Across(
        protocol=first.protocol,
        protocol_version=first.protocol_version,
        arch=first.arch,
        encoder=first.encoder,
        settings=[block.setting for block in blocks],
        names=names,
        left_out={name: lacking[name] for name in sorted(lacking, key=lambda n: n.order) if lacking[name]},
        means=means,
        ranks=ranks,
        frequencies=rank_frequencies([what.sign * t for t in tables if t is not None])
        if several and whole
        else np.full((len(names), len(names)), np.nan),
        agreements=_agreements(blocks, names, what, ranks) if len(names) > 2 else [],
        noise=[_noise(block, names) for block in blocks if several and _least_seeds(block, names) > 1],
        addons=[_addon_across(addon, blocks) for addon in _addons(blocks)],
        measure=blocks[0].measure,
        over_classes=any(block.over_classes for block in blocks),
    )


def _agreements(
    blocks: Sequence[Section], names: Sequence[ArmName], what: Metric, ranks: NDArray[np.float64]
) -> list[Agreement]:
    """Return how far the ranks agree with those by images, by HD95, by single seeds, and without a data set."""

    def of(chosen: Iterable[Section], mean: Callable[[Scores], float], sign: int = what.sign) -> NDArray[np.float64]:
        return average_ranks(np.array([[sign * mean(block.cells[name]) for name in names] for block in chosen]))

    def by_seed(seed: int) -> NDArray[np.float64]:
        return of(blocks, lambda scores: float(scores.table[:, scores.seeds.index(seed)].mean()))

    seeds = set.intersection(*(set(block.cells[name].seeds) for block in blocks for name in names))
    datasets = list(dict.fromkeys(block.setting.dataset for block in blocks))
    others = {
        "by means over images": [of(blocks, lambda scores: scores.means[what.name])],
        "by HD95": [of(blocks, lambda scores: scores.beside["hd95"].mean, -1)],
        "by a single seed": [by_seed(seed) for seed in sorted(seeds)] if len(seeds) > 1 else [],
        "without one data set": [
            of((block for block in blocks if block.setting.dataset != dataset), lambda scores: scores.estimate.mean)
            for dataset in datasets
            if len(datasets) > 1
        ],
    }
    taus = {rule: [_tau(ranks, one) for one in found] for rule, found in others.items()}
    return [Agreement(rule, len(tau), float(np.mean(tau)), min(tau)) for rule, tau in taus.items() if tau]


def _tau(ranks: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """Return Kendall's tau of two rankings; NaN where one of them ranks nothing, all being tied."""
    return float(scipy.stats.kendalltau(ranks, others).statistic)


def _least_seeds(block: Section, names: Sequence[ArmName]) -> int:
    return min(len(block.cells[name].seeds) for name in names)


def _noise(block: Section, names: Sequence[ArmName]) -> Noise:
    cells = [block.cells[name] for name in names]
    between = float(np.std([scores.estimate.mean for scores in cells], ddof=1))
    variances = [float(scores.table.mean(axis=0).var(ddof=1)) for scores in cells]
    return Noise(block.setting, between, float(np.sqrt(np.mean(variances))))


def _addons(blocks: Sequence[Section]) -> list[str]:
    found = {c.name.addon for block in blocks for c in block.contrasts if c.against_twin and c.difference is not None}
    return sorted(found - {""}, key=lambda addon: (is_control(addon), addon))


def _addon_across(addon: str, blocks: Sequence[Section]) -> AddonAcross:
    found = [
        (block.setting, contrast)
        for block in blocks
        for contrast in block.contrasts
        if contrast.against_twin and contrast.difference is not None and contrast.name.addon == addon
    ]
    settings = list(dict.fromkeys(setting for setting, _ in found))
    by_name: dict[ArmName, dict[Setting, Scores]] = defaultdict(dict)
    for setting, contrast in found:
        assert contrast.difference is not None
        by_name[contrast.name][setting] = contrast.difference
    core = [name for name, scores in by_name.items() if len(scores) == len(settings)]
    tables = by_set([(setting, by_name[name][setting]) for name in core for setting in settings])
    return AddonAcross(
        addon=addon,
        contrasts=found,
        methods=[name.without_addon.typed for name in core],
        left_out={
            name.without_addon.typed: len(settings) - len(scores)
            for name, scores in by_name.items()
            if name not in core
        },
        combined=these_sets(*tables, tested=False) if tables else None,
        sets=population(*tables) if tables else None,
    )


def by_set(
    cells: Sequence[tuple[Setting, Scores]],
) -> tuple[dict[str, NDArray[np.float64]], dict[str, list[int]] | None] | None:
    """Return what `these_sets` takes: a table of each data set, the mean of its cells, and seeds that sets share.

    A data set's regimes, like its methods, share test groups and seeds: they are averaged inside one table.

    Parameters
    ----------
    cells : sequence of (Setting, Scores)
        Of one version of a protocol.

    Returns
    -------
    (dict of str to (G, S) float, dict of str to list of int or None) or None
        None where there is no cell, or where those of a data set differ in groups or have no seed in common.
    """
    tables: dict[str, NDArray[np.float64]] = {}
    seeds: dict[str, list[int]] = {}
    for dataset in dict.fromkeys(setting.dataset for setting, _ in cells):
        own = [scores for setting, scores in cells if setting.dataset == dataset]
        table = shared_tables(own)
        if table is None:
            return None
        tables[dataset] = table.mean(axis=0)
        seeds[dataset] = sorted(set.intersection(*(set(cell.seeds) for cell in own)))
    if not tables:
        return None
    return tables, seeds if cells[0][0].protocol_version < OWN_SEEDS else None
