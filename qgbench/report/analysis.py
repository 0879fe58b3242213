"""The one analysis behind every table, figure and page: cells, contrasts, and what holds across settings.

A cell is a method (with its settings, with or without an add-on) in a setting (protocol, data set, regime,
architecture, encoder), over seeds. A contrast compares two cells of a setting over the seeds that both have, and only
if each pair has the same test images, precision, device class and number of processes. Contrasts are: each cell with an
add-on against its twin without (``twin``); QW by each control score against the twin, and QW by g against it
(``control``); and pairs asked for by name (``asked``).
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qgbench.base.errors import UserError
from qgbench.report.collect import Collection, Name, Problem, Run, Setting
from qgbench.report.declared import Answers, DeclaredSuite, Place, answers, runs_of_suite, why_none
from qgbench.report.measures import MEASURES, Measure, measure
from qgbench.report.pairing import SIDE_WORDS, TWIN_WORDS, refusal, units_differ
from qgbench.spec.arm import AddOn
from qgbench.stats.across import average_ranks, cliques, friedman, least_p, rank_frequencies, rope, win_tie_loss
from qgbench.stats.combined import estimate_mean_of
from qgbench.stats.crossed import Estimate, estimate, holm, p_value
from qgbench.stats.effects import Spread, effect_size, headroom_share, probability_of_improvement, spread
from qgbench.trust.claims import Claim

Kind = Literal["twin", "control", "asked"]

FULL_BUDGET = "all"  # how a regime with all labels begins
_TOLD_APART = 0.05  # adjusted p below which two cells are
ROPE = 0.01  # in Dice: differences of one point or less are of no practical use


@dataclass(frozen=True, eq=False)
class Scores:
    """A cell over some seeds, or the difference of two (first minus second). In the measure's own unit: Dice in [0, 1].

    Attributes
    ----------
    seeds : list of int
    images : int
    groups : list of str
        Names of the test groups, in the order of `table`.
    table : (G, S) float
        Mean of the measure over the images of each group, for each seed.
    estimate : Estimate
        The mean over groups and seeds, from the crossed model.
    spread : Spread
        Standard deviations over images, groups and seeds.
    means : dict of str to float
        Each of `qgbench.report.measures.MEASURES` averaged over images and seeds; ``missed`` and ``spurious``, images
        for each seed.
    """

    seeds: list[int]
    images: int
    groups: list[str]
    table: NDArray[np.float64]
    estimate: Estimate
    spread: Spread
    means: dict[str, float]


@dataclass(frozen=True, eq=False)
class Contrast:
    """Two cells of one setting, compared over the seeds that both have.

    Attributes
    ----------
    kind : {'twin', 'control', 'asked'}
    name, reference : Name
        The cell that is compared, and what with. A twin's reference may be missing, and so may the cell itself.
    scores, reference_scores : Scores or None
        Over the common seeds; where there is no difference, over all seeds that they have. None: no usable record.
    difference : Scores or None
        `name` minus `reference`; None where one is missing or the comparison is refused.
    refused : str
        Why the two may not be compared; empty if they may, or if one is missing.
    holm_p : float or None
        The difference's p, adjusted for all of its kind in its setting.
    improvement : float or None
        Probability of improvement, by groups; in the direction in which the measure is better.
    effect : float or None
        Standardised mean difference over groups.
    headroom : float or None
        Share of the distance from supervised with the budget to supervised with all labels that the difference covers.
    """

    kind: Kind
    name: Name
    reference: Name
    scores: Scores | None
    reference_scores: Scores | None
    difference: Scores | None
    refused: str
    holm_p: float | None = None
    improvement: float | None = None
    effect: float | None = None
    headroom: float | None = None


@dataclass(frozen=True, eq=False)
class Section:
    """Everything about one setting.

    Attributes
    ----------
    setting : Setting
    runs : list of Run
    cells : dict of Name to Scores
        In the order of `Name.order`.
    contrasts : list of Contrast
        Twins first; each kind in the order of its names.
    best : list of Name
        The cells that are not told apart from the one with the best mean: those whose contrast with it has a
        Holm-adjusted p of 0.05 or more, or none. Never the best alone where others cannot be excluded.
    problems : list of Problem
    """

    setting: Setting
    runs: list[Run]
    cells: dict[Name, Scores]
    contrasts: list[Contrast]
    best: list[Name]
    problems: list[Problem]

    def runs_of(self) -> dict[Name, list[Run]]:
        """Give the runs of each cell, in the order of `runs`."""
        found: dict[Name, list[Run]] = defaultdict(list)
        for run in self.runs:
            found[Name.of(run.record.cell)].append(run)
        return dict(found)


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
    left_out : list of str
        Methods without a difference in some setting, each with how many it lacks.
    combined : Estimate or None
        Mean difference over these methods and all settings, averaged within data sets, which have equal weights.
    win_tie_loss : (int, int, int)
        Contrasts with Holm-adjusted p below 0.05 in favour, others, against.
    rope : (float, float, float) or None
        P(harm), P(difference within one Dice point), P(gain) by the Bayesian signed-rank test over the contrasts; for
        Dice only.
    """

    addon: str
    contrasts: list[tuple[Setting, Contrast]]
    methods: list[str]
    left_out: list[str]
    combined: Estimate | None
    win_tie_loss: tuple[int, int, int]
    rope: tuple[float, float, float] | None


@dataclass(frozen=True, eq=False)
class Across:
    """What holds over the data sets of one protocol, architecture, encoder and kind of regime.

    Attributes
    ----------
    protocol, protocol_version, arch, encoder
        As in `Setting`.
    settings : list of Setting
        The blocks of the comparison.
    names : list of Name
        The cells that every block has, best average rank first.
    left_out : dict of Name to int
        Cells that some blocks lack, and how many.
    means : (D, M) float
        Of the measure, by block and name.
    ranks : (M,) float
        Average ranks; 1 is best.
    friedman_p : float or None
    cliques : list of list of Name
        Names that Wilcoxon's test with Holm's correction does not tell apart.
    frequencies : (M, M) float
        Share of bootstrap draws over groups and seeds in which name m has rank r.
    least_p : float
        Least p that a signed-rank test over so many blocks can give.
    addons : list of AddonAcross
    """

    protocol: str
    protocol_version: int
    arch: str
    encoder: str
    settings: list[Setting]
    names: list[Name]
    left_out: dict[Name, int]
    means: NDArray[np.float64]
    ranks: NDArray[np.float64]
    friedman_p: float | None
    cliques: list[list[Name]]
    frequencies: NDArray[np.float64]
    least_p: float
    addons: list[AddonAcross]

    @property
    def regimes(self) -> str:
        """What the regimes of all blocks have in common: ``budget@grouped``, ``all+pool@image``."""
        return regime_kind(self.settings[0].regime)

    @property
    def scope(self) -> str:
        """What all blocks share, in words: no two of an analysis are alike."""
        return f"{self.regimes}, {self.arch}, {self.encoder}, {self.protocol} v{self.protocol_version}"


@dataclass(frozen=True, eq=False)
class Analysis:
    """Everything that a report shows.

    Attributes
    ----------
    measure : Measure
        What the statistics are about.
    sections : list of Section
        Sorted by protocol, version, data set, regime, architecture, encoder.
    across : list of Across
        For each protocol, version, architecture, encoder and kind of regime with two blocks or more.
    problems : list of Problem
        Records that were not used.
    claims : list of Claim
        Numbers that papers claim; nothing is computed from them.
    answers : Answers or None
        To the questions of the suite that the analysis is confined to.
    """

    measure: Measure
    sections: list[Section]
    across: list[Across]
    problems: list[Problem]
    claims: list[Claim] = field(default_factory=list)
    answers: Answers | None = None


@dataclass(frozen=True)
class Filters:
    """Which records a report is about; an empty tuple lets all pass."""

    dataset: tuple[str, ...] = ()
    regime: tuple[str, ...] = ()
    arch: tuple[str, ...] = ()
    method: tuple[str, ...] = ()

    def chosen(self, runs: Iterable[Run]) -> list[Run]:
        """Keep the runs that pass.

        Raises
        ------
        UserError
            A filter names something that no record has, or no record passes all of them.
        """
        runs = list(runs)
        for what in ("dataset", "regime", "arch", "method"):
            known = sorted({getattr(run.record.cell, what) for run in runs})
            for wanted in getattr(self, what):
                if wanted not in known:
                    raise UserError(f"no record has the {what} '{wanted}'; there are: {', '.join(known)}.")
        kept = [
            run
            for run in runs
            if all(
                not getattr(self, what) or getattr(run.record.cell, what) in getattr(self, what)
                for what in ("dataset", "regime", "arch", "method")
            )
        ]
        if runs and not kept:
            raise UserError("no record passes all filters together; give fewer of them.")
        return kept


def analyse(
    collection: Collection,
    filters: Filters | None = None,
    metric: str = "dice",
    asked: Sequence[str] = (),
    suite: DeclaredSuite | None = None,
) -> Analysis:
    """Compare whatever can be compared.

    Parameters
    ----------
    collection : Collection
    filters : Filters, optional
    metric : str
        One of `qgbench.report.measures.MEASURES`.
    asked : sequence of str
        Further contrasts, ``A:B`` (A minus B), each side ``method`` or ``method+addon``.
    suite : DeclaredSuite, optional
        Only its runs count; its questions are answered, its missing runs are named, and all comparisons of cells are
        one family for Holm's adjustment.

    Raises
    ------
    UserError
        An unknown metric, a filter or a contrast that names what no record has, no record of the suite.
    """
    what = measure(metric)
    runs = collection.runs
    absent: frozenset[Place] = frozenset()
    if suite is not None:
        runs, absent = runs_of_suite(suite, runs)
        if not runs:
            raise UserError(why_none(suite, collection.runs))
    runs = (filters or Filters()).chosen(runs)
    by_setting: dict[Setting, list[Run]] = defaultdict(list)
    for run in runs:
        by_setting[Setting.of(run.record.cell)].append(run)
    pairs = [_pair(text, runs) for text in asked]
    of_suite: list[tuple[Name, Name]] = []
    problems = list(collection.problems)
    if suite is not None:
        for text in suite.contrasts:
            try:
                of_suite.append(_pair(text, runs))
            except UserError as error:  # the suite is not finished
                problems.append(Problem(f"suite {suite.name}", str(error).removeprefix("--")))
    full = _supervised_with_all_labels(by_setting, what)
    sections = [
        _section(setting, by_setting[setting], what, pairs, full, None if suite is None else of_suite)
        for setting in sorted(by_setting)
    ]
    found = None
    if suite is not None:
        sections = _as_one_family(sections)
        found = answers(suite, runs, what, absent)
    return Analysis(what, sections, _across(sections, what), problems, collection.claims, found)


def _as_one_family(sections: Sequence[Section]) -> list[Section]:
    """Adjust p for all comparisons of a suite's cells, in whatever setting and table."""
    together = _adjusted([contrast for section in sections for contrast in section.contrasts])
    adjusted = iter(together)
    return [replace(section, contrasts=[next(adjusted) for _ in section.contrasts]) for section in sections]


def _pair(text: str, runs: Sequence[Run]) -> tuple[Name, Name]:
    first, colon, second = text.partition(":")
    if not colon:
        raise UserError(f"--contrast {text}: expected A:B, for example pseudo_label+qw:pseudo_label_confidence.")
    known = {name.typed: name for name in {Name.of(run.record.cell) for run in runs}}
    for side in (first, second):
        if side not in known:
            raise UserError(f"--contrast {text}: no record of '{side}'; there are: {', '.join(sorted(known))}.")
    return known[first], known[second]


def _supervised_with_all_labels(by_setting: dict[Setting, list[Run]], what: Measure) -> dict[Setting, float]:
    """Mean of supervised training with all labels, by the setting with its regime replaced by the kind of split."""
    found: dict[Setting, float] = {}
    for setting, runs in by_setting.items():
        alone = [run for run in runs if Name.of(run.record.cell) == Name("supervised", "", "")]
        if setting.regime.startswith(f"{FULL_BUDGET}@") and alone and not units_differ(alone):
            found[_any_budget(setting)] = float(
                np.mean([run.units.by_group(run.values[what.name]).mean() for run in alone])
            )
    return found


def _any_budget(setting: Setting) -> Setting:
    return setting._replace(regime=setting.regime.rpartition("@")[2])


def _section(
    setting: Setting,
    runs: list[Run],
    what: Measure,
    asked: Sequence[tuple[Name, Name]],
    full: dict[Setting, float],
    of_suite: Sequence[tuple[Name, Name]] | None,
) -> Section:
    """Compare the cells of a setting.

    `of_suite` are the pairs that a suite compares where it has both, None without a suite. What a suite lacks is named
    with its questions, and what it never declared is not missed; what was asked for besides is.
    """
    by_name: dict[Name, dict[int, Run]] = defaultdict(dict)
    for run in sorted(runs, key=lambda run: run.seed):
        by_name[Name.of(run.record.cell)][run.seed] = run
    problems: list[Problem] = []
    usable: dict[Name, dict[int, Run]] = {}
    for name in sorted(by_name, key=lambda name: name.order):
        if units_differ(list(by_name[name].values())):
            cause = f"refused: seeds {_listed(sorted(by_name[name]))} were tested on different images"
            problems.append(Problem(str(name), cause))
        else:
            usable[name] = by_name[name]
        problems += [
            Problem(f"{name}, seed {seed}", f"{len(copies)} test images are near copies of images that it trains on")
            for seed, run in by_name[name].items()
            if (copies := (run.record.near_copies or {}).get("test"))
        ]
    cells = {name: _scores(list(by_seed.values()), what) for name, by_seed in usable.items()}
    contrasts: list[Contrast] = []
    families: tuple[tuple[Kind, Sequence[tuple[Name, Name]]], ...] = (
        ("twin", _twins(by_name)),
        ("control", _controls(by_name)),
        (
            "asked",
            [
                *(pair for pair in asked if any(name in by_name for name in pair)),
                *(pair for pair in of_suite or () if all(name in by_name for name in pair)),
            ],
        ),
    )
    for kind, pairs in families:
        note_missing = kind == "asked" or of_suite is None
        contrasts += _adjusted(
            [_contrast(kind, pair, usable, cells, what, problems, note_missing=note_missing) for pair in pairs]
        )
    budget = cells.get(Name("supervised", "", ""))
    all_labels = full.get(_any_budget(setting))
    if budget is not None and all_labels is not None and not setting.regime.startswith(FULL_BUDGET):
        contrasts = [
            replace(
                c, headroom=headroom_share(_gain(c.difference.estimate.mean, what), *_toward(budget, all_labels, what))
            )
            if c.difference is not None
            else c
            for c in contrasts
        ]
    return Section(setting, runs, cells, contrasts, _best(usable, cells, what), sorted(problems))


def _gain(difference: float, what: Measure) -> float:
    return difference if what.higher_is_better else -difference


def _toward(budget: Scores, full: float, what: Measure) -> tuple[float, float]:
    return (budget.estimate.mean, full) if what.higher_is_better else (-budget.estimate.mean, -full)


def _twins(names: Iterable[Name]) -> list[tuple[Name, Name]]:
    """Each cell with an add-on and its twin without; a cell that no add-on was run with beside itself."""
    names = list(names)
    with_addon = [name for name in names if name.addon and not is_control(name.addon)]
    alone = {name.without_addon for name in names if name.addon}
    single = [name for name in names if not name.addon and name not in alone]
    return sorted([(name, name.without_addon) for name in [*with_addon, *single]], key=lambda pair: pair[0].order)


def _controls(names: Iterable[Name]) -> list[tuple[Name, Name]]:
    """QW by a control score against the twin without, and QW by g against QW by that score: the rival g must beat."""
    controls = sorted((name for name in names if is_control(name.addon)), key=lambda name: name.order)
    by_g = [(name._replace(addon=str(AddOn.parse(name.addon).by_g)), name) for name in controls]
    return [(name, name.without_addon) for name in controls] + by_g


def is_control(addon: str) -> bool:
    """Whether another score stands in the place of g: ``qw-shuffled``, unlike ``qw-quality.steps=600``."""
    return AddOn.parse(addon).is_control


def _contrast(
    kind: Kind,
    pair: tuple[Name, Name],
    usable: dict[Name, dict[int, Run]],
    cells: dict[Name, Scores],
    what: Measure,
    problems: list[Problem],
    *,
    note_missing: bool,
) -> Contrast:
    """Compare two cells, each a run by seed, either of which may be missing; append what was left out to `problems`."""
    name, reference = pair
    own = usable.get(name, {})
    other = {} if name == reference else usable.get(reference, {})
    twin = reference == name.without_addon
    where = str(name) if twin else f"{name} : {reference}"
    words = ("with", "without") if twin else (f"of {name}", f"of {reference}")
    lacking = [word for word, runs in zip(words, (own, other), strict=True) if not runs]
    missing = ""
    if lacking and twin:
        missing = f"no usable record {' or '.join(reversed(lacking))} an add-on"
        if name == reference:
            missing = "no usable record with an add-on" if own else "no usable record"
    elif lacking:
        missing = f"no usable record {' or '.join(lacking)}"
    common = sorted(own.keys() & other.keys())
    sides = TWIN_WORDS if twin else SIDE_WORDS
    refused = "" if missing else refusal([(own[seed], other[seed]) for seed in common], sides)
    for cause in (missing if note_missing else "", refused and f"refused: {refused}"):
        if cause:
            problems.append(Problem(where, cause))
    if missing or refused:
        scores, other_scores = (cells[one] if runs else None for one, runs in zip(pair, (own, other), strict=True))
        if name == reference:  # a cell that has no twin stands where a base does
            scores, other_scores = None, scores
        return Contrast(kind, name, reference, scores, other_scores, None, refused)
    for only, word in ((other.keys() - own.keys(), words[1]), (own.keys() - other.keys(), words[0])):
        if only:
            tail = " the add-on" if twin else ""
            problems.append(Problem(where, f"seeds {_listed(sorted(only))} only {word}{tail}: left out"))
    runs, other_runs = [own[seed] for seed in common], [other[seed] for seed in common]
    scores, other_scores = (
        cells[one] if cells[one].seeds == common else _scores(chosen, what)
        for one, chosen in ((name, runs), (reference, other_runs))
    )
    difference = _difference(runs, other_runs, scores, other_scores, what)
    sign = 1 if what.higher_is_better else -1
    return Contrast(
        kind=kind,
        name=name,
        reference=reference,
        scores=scores,
        reference_scores=other_scores,
        difference=difference,
        refused="",
        improvement=probability_of_improvement(sign * scores.table, sign * other_scores.table),
        effect=effect_size(difference.table),
    )


def _scores(runs: list[Run], what: Measure) -> Scores:
    """Average the runs of a cell, one a seed."""
    means = {name: float(np.mean([run.values[name].mean() for run in runs])) for name in MEASURES}
    means |= {
        name: float(np.mean([getattr(run.record.summary, name) for run in runs])) for name in ("missed", "spurious")
    }
    return _scored(runs, np.column_stack([run.values[what.name] for run in runs]), means, tested=False)


def _difference(runs: list[Run], others: list[Run], scores: Scores, other_scores: Scores, what: Measure) -> Scores:
    """Average the differences of runs from others of the same seeds, whose own averages are known."""
    values = np.column_stack([a.values[what.name] - b.values[what.name] for a, b in zip(runs, others, strict=True)])
    means = {name: mean - other_scores.means[name] for name, mean in scores.means.items()}
    return _scored(runs, values, means, tested=True)


def _scored(runs: list[Run], values: NDArray[np.float64], means: dict[str, float], tested: bool) -> Scores:
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


def _adjusted(contrasts: list[Contrast]) -> list[Contrast]:
    """Fill in the Holm-adjusted p-values of one family."""
    p_values = {
        index: contrast.difference.estimate.p
        for index, contrast in enumerate(contrasts)
        if contrast.difference is not None and contrast.difference.estimate.p is not None
    }
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    return [replace(contrast, holm_p=adjusted.get(index)) for index, contrast in enumerate(contrasts)]


def _best(usable: dict[Name, dict[int, Run]], cells: dict[Name, Scores], what: Measure) -> list[Name]:
    """The cells that cannot be told apart from the best one, by the test that a contrast with it would get."""
    if not cells:
        return []
    top = max(cells, key=lambda name: _gain(cells[name].estimate.mean, what))
    p_of: dict[Name, float] = {}
    for name in cells:
        common = sorted(usable[top].keys() & usable[name].keys())
        if name == top or refusal([(usable[top][seed], usable[name][seed]) for seed in common]):
            continue
        tables = (cells[one].table[:, [cells[one].seeds.index(seed) for seed in common]] for one in (top, name))
        if (p := p_value(np.subtract(*tables))) is not None:
            p_of[name] = p
    adjusted = dict(zip(p_of, holm(list(p_of.values())), strict=True))
    return [name for name in cells if adjusted.get(name, 1.0) >= _TOLD_APART]


def _across(sections: Sequence[Section], what: Measure) -> list[Across]:
    by_scope: dict[tuple[str, int, str, str, str], list[Section]] = defaultdict(list)
    for section in sections:
        protocol, version, _, regime, arch, encoder = section.setting
        by_scope[protocol, version, arch, encoder, regime_kind(regime)].append(section)
    return [_one_across(blocks, what) for blocks in by_scope.values() if len(blocks) > 1]


def regime_kind(regime: str) -> str:
    """Forget how many labels and which pools: ``budget``, ``all``, ``+pool``, and the kind of split."""
    body, _, split = regime.partition("@")
    budget, *pools = body.split("+")
    return ("all" if budget == FULL_BUDGET else "budget") + ("+pool" if pools else "") + f"@{split}"


def _one_across(blocks: Sequence[Section], what: Measure) -> Across:
    sign = 1 if what.higher_is_better else -1
    lacking = {
        name: sum(name not in block.cells for block in blocks) for name in {n for block in blocks for n in block.cells}
    }
    names = sorted((name for name, count in lacking.items() if not count), key=lambda name: name.order)
    means = np.array([[block.cells[name].estimate.mean for name in names] for block in blocks]).reshape(len(blocks), -1)
    ranks = average_ranks(sign * means) if names else np.empty(0)
    order = np.argsort(ranks, kind="stable")
    names, means, ranks = [names[i] for i in order], means[:, order], ranks[order]
    several = len(names) > 1
    tables = [_shared_tables([block.cells[name] for name in names]) for block in blocks] if several else []
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
        friedman_p=friedman(sign * means) if several else None,
        cliques=[[names[i] for i in clique] for clique in cliques(sign * means)] if several else [],
        frequencies=rank_frequencies([sign * t for t in tables if t is not None])
        if several and whole
        else np.full((len(names), len(names)), np.nan),
        least_p=least_p(len(blocks)),
        addons=[_addon_across(addon, blocks, what) for addon in _addons(blocks)],
    )


def _shared_tables(cells: Sequence[Scores]) -> NDArray[np.float64] | None:
    """Stack cells of one block over the seeds that all have: (M, G, S); None where test groups or seeds differ."""
    seeds = sorted(set.intersection(*(set(cell.seeds) for cell in cells)))
    if not seeds or any(cell.groups != cells[0].groups for cell in cells):
        return None
    return np.stack([cell.table[:, [cell.seeds.index(seed) for seed in seeds]] for cell in cells])


def _addons(blocks: Sequence[Section]) -> list[str]:
    found = {c.name.addon for block in blocks for c in block.contrasts if _adds(c)}
    return sorted(found - {""}, key=lambda addon: (is_control(addon), addon))


def _adds(contrast: Contrast) -> bool:
    """Whether the contrast shows what an add-on does to its twin."""
    is_twin = contrast.reference == contrast.name.without_addon != contrast.name
    return contrast.kind != "asked" and is_twin and contrast.difference is not None


def _addon_across(addon: str, blocks: Sequence[Section], what: Measure) -> AddonAcross:
    found = [
        (block.setting, contrast)
        for block in blocks
        for contrast in block.contrasts
        if _adds(contrast) and contrast.name.addon == addon
    ]
    settings = list(dict.fromkeys(setting for setting, _ in found))
    by_name: dict[Name, dict[Setting, Scores]] = defaultdict(dict)
    for setting, contrast in found:
        assert contrast.difference is not None
        by_name[contrast.name][setting] = contrast.difference
    core = [name for name, scores in by_name.items() if len(scores) == len(settings)]
    # One table a data set: its regimes, like its methods, share test groups and seeds.
    tables = {}
    for dataset in dict.fromkeys(setting.dataset for setting in settings):
        cells = [by_name[name][setting] for name in core for setting in settings if setting.dataset == dataset]
        table = _shared_tables(cells) if cells else None
        if table is not None:
            tables[dataset] = table.mean(axis=0)
    estimates = [c.difference.estimate for _, c in found if c.difference is not None]
    sign = 1 if what.higher_is_better else -1
    differences = np.array([each.mean for each in estimates])
    tested = any(not each.p_withheld for each in estimates)  # else it would be the verdict that p withholds
    return AddonAcross(
        addon=addon,
        contrasts=found,
        methods=[name.without_addon.typed for name in core],
        left_out=[
            f"{name.without_addon.typed} (in {len(settings) - len(scores)} of {len(settings)} settings)"
            for name, scores in by_name.items()
            if name not in core
        ],
        combined=estimate_mean_of(tables) if tables.keys() == {setting.dataset for setting in settings} else None,
        win_tie_loss=win_tie_loss([replace(e, mean=sign * e.mean) for e in estimates], [c.holm_p for _, c in found]),
        rope=rope(differences, ROPE) if what.name == "dice" and len(differences) > 1 and tested else None,
    )


def _listed(seeds: list[int]) -> str:
    return ", ".join(map(str, seeds))
