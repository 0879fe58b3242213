"""What a suite declares: which its runs are, questions that are tested in order, further ones; and the answers."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from qgbench.metrics.table import Metric, metric_named
from qgbench.report.collect import Run, in_unit_of, of_class
from qgbench.report.pairing import refusal
from qgbench.spec.arm import ArmName
from qgbench.spec.protocol import OWN_SEEDS, load_protocol
from qgbench.spec.run_spec import Place
from qgbench.spec.suite import Asked, Confirm, Suite
from qgbench.stats.crossed import Estimate, estimate, without_p
from qgbench.stats.sets import Population, image_weighted, interval, population, these_sets

_LISTED = 20  # missing cells that are named one by one
LEVEL = 0.05  # of each question that is tested


@dataclass(frozen=True)
class DeclaredQuestion:
    """A question whose answer is one number: a difference, averaged over pairs of cells, then over data sets.

    Attributes
    ----------
    name : str
        Short.
    text : str
        In words.
    pairs : tuple of (str, str)
        First minus second, as one types them: ``fixmatch+qw``, ``fixmatch(threshold=0.9)``. Averaged, with the
        networks, inside each data set.
    regimes : mapping of str to (str, str)
        Of the first and the second side, by data set. Data sets are averaged with equal weights.
    archs : tuple of str
    margin : float or None
        In points: what the 90 % interval has to lie inside to show that there is no larger difference.
    """

    name: str
    text: str
    pairs: tuple[tuple[str, str], ...]
    regimes: Mapping[str, tuple[str, str]]
    archs: tuple[str, ...]
    margin: float | None = None


@dataclass(frozen=True)
class DeclaredSuite:
    """The runs of a suite and its questions.

    Attributes
    ----------
    name : str
    places : frozenset of Place
        Of the runs that belong to it. A run's id will not do: it differs with the machine.
    version : int
        Of the protocol, the present one until records say otherwise.
    confirm : tuple of DeclaredQuestion
        Those that are tested, each only if all before it were shown.
    others : tuple of DeclaredQuestion
        Those that get estimates and intervals.
    metric : str
        What all questions are about: one of `qgbench.metrics.table.METRICS`, or one of a class, ``dice:liver``.
    """

    name: str
    places: frozenset[Place]
    version: int
    confirm: tuple[DeclaredQuestion, ...]
    others: tuple[DeclaredQuestion, ...] = ()
    metric: str = "dice"

    @property
    def protocol(self) -> str:
        """The protocol of all its runs."""
        return next(iter(self.places)).protocol


def declared(suite: Suite) -> DeclaredSuite:
    """Return what a report needs of a suite."""
    protocol = load_protocol(suite.protocol)
    typed: dict[str, str] = {}
    for entry in suite.entries():
        typed.setdefault(entry.row, entry.place.arm.typed)
    archs = {block.name: suite.archs_of(block) for block in suite.block}

    def of(question: Asked) -> DeclaredQuestion:
        return DeclaredQuestion(
            name=question.name,
            text=question.question,
            pairs=tuple((typed[first], typed[second]) for first, second in question.sides),
            regimes=suite.regimes_of(question),
            archs=archs[question.block],
            margin=question.equivalence if isinstance(question, Confirm) else None,
        )

    return DeclaredSuite(
        name=suite.name,
        places=frozenset(entry.place for entry in suite.entries()),
        version=protocol.version,
        confirm=tuple(map(of, suite.confirm)),
        others=tuple(map(of, suite.questions())),
        metric=suite.metric,
    )


@dataclass(frozen=True)
class Verdict:
    """What comes of a question that is tested.

    Attributes
    ----------
    tested : bool
        False where a question before it was not shown, or where there is no p.
    shown : bool
        Whether p is below 0.05: then the next question is tested.
    narrow : (float, float) or None
        The 90 % interval, where equivalence was asked for.
    equivalent : bool
        Whether that lies inside the margin.
    words : str
    """

    tested: bool
    shown: bool
    narrow: tuple[float, float] | None
    equivalent: bool
    words: str


@dataclass(frozen=True, eq=False)
class Answer:
    """What the records say about a question.

    Attributes
    ----------
    question : DeclaredQuestion
    lacking : list of str
        Cells, or seeds of cells, that the answer would need, and comparisons that are refused.
    by_dataset : dict of str to Estimate
        The mean over pairs in each data set that lacks nothing.
    estimate : Estimate or None
        The mean over these data sets, new groups and new seeds, with p if the question is tested. None as soon as one
        cell, or one seed of it that another one has, is lacking: an average over what happens to be there would answer
        another question.
    by_images : Estimate or None
        The same where every image counts alike inside its data set, in place of every group.
    sets : Population or None
        What the same means say of a population of data sets; None of one data set.
    verdict : Verdict or None
        None for a question that is not tested.
    tables : dict of str to (G, S) float
        What the estimates are of: differences by group and seed in each data set.
    seconds : dict of str to float
        What one seed of all these runs took in each data set, in seconds of a core: training and evaluation, g once.
    by_class : dict of str to dict of str to Estimate
        By data set of several classes, of which `by_dataset` is the mean: the same of each class.
    """

    question: DeclaredQuestion
    lacking: list[str]
    by_dataset: dict[str, Estimate]
    estimate: Estimate | None
    by_images: Estimate | None = None
    sets: Population | None = None
    verdict: Verdict | None = None
    tables: dict[str, np.ndarray] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    by_class: dict[str, dict[str, Estimate]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Answers:
    """What the records say about a suite.

    Attributes
    ----------
    suite : DeclaredSuite
    absent : list of str
        Its runs without a record that can be used, in words: cells with their seeds, or how many there are.
    missing : int
        How many runs that is.
    reason : str
        Why no question at all can be answered; empty if they can.
    confirm : list of Answer
    others : list of Answer
    units : dict of str to str
        What differences of the measure are in, by data set; of a distance it may differ.
    over_classes : bool
        Whether the measure is a mean over several classes in some data set.
    """

    suite: DeclaredSuite
    absent: list[str]
    missing: int
    reason: str
    confirm: list[Answer]
    others: list[Answer]
    units: dict[str, str]
    over_classes: bool

    def unit_of(self, question: DeclaredQuestion) -> str:
        """Return what the differences of a question are in."""
        return " / ".join(sorted({self.units[dataset] for dataset in question.regimes if dataset in self.units}))

    @property
    def all(self) -> list[Answer]:
        """Those that are tested first."""
        return [*self.confirm, *self.others]


def runs_of_suite(suite: DeclaredSuite, runs: Sequence[Run]) -> tuple[DeclaredSuite, list[Run], frozenset[Place]]:
    """Return the runs that belong to a suite, and the places that none of them takes.

    Versions of a protocol, or of g, are never mixed: the newest counts that any record has. The suite is returned with
    that version.
    """
    asked = [run for run in runs if _place(run) in suite.places]
    version = max((run.record.spec.protocol_version for run in asked), default=suite.version)
    kept = [run for run in asked if run.record.spec.protocol_version == version]
    g_version = max((run.record.g_version or 0 for run in kept), default=0)
    kept = [run for run in kept if run.record.g_version in (None, g_version)]
    return replace(suite, version=version), kept, suite.places - {_place(run) for run in kept}


def _place(run: Run) -> Place:
    cell = run.record.spec
    arm = ArmName(cell.method, cell.variant, cell.addon)
    return Place(cell.protocol, cell.dataset, cell.regime, cell.arch, arm, cell.seed)


def in_words(places: Iterable[Place]) -> list[str]:
    """Return runs by cell and seeds, in words; of many cells the first, and the number of the others."""
    seeds: dict[Place, list[str]] = {}
    for place in sorted(places):
        seeds.setdefault(place._replace(seed=0), []).append(str(place.seed))
    words = [
        f"{cell.arm} on {cell.dataset} {cell.regime}, {cell.arch}, seed {', '.join(of)}" for cell, of in seeds.items()
    ]
    if len(words) > _LISTED:
        words[_LISTED:] = [f"and {len(words) - _LISTED} cells more"]
    return words


def answers(suite: DeclaredSuite, runs: Sequence[Run], what: Metric, absent: frozenset[Place]) -> Answers:
    """Return the answers to a suite's questions, each if all that it needs is there.

    Parameters
    ----------
    suite : DeclaredSuite
    runs : sequence of Run
        Of the suite.
    what : Metric
        Nothing is answered where it is not the suite's.
    absent : frozenset of Place
        As `runs_of_suite` gives them.
    """
    metric, _, one_class = suite.metric.partition(":")
    asked = of_class(metric_named(metric), one_class) if one_class else metric_named(metric)
    questions = (*suite.confirm, *suite.others)
    reason = ""
    by_dataset: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_dataset[run.record.spec.dataset].append(run)
    measured = {dataset: in_unit_of(what, own) for dataset, own in by_dataset.items()}
    units = {dataset: own.difference_unit for dataset, own in measured.items()}
    if (
        what.unit == "%" and len({own.label for own in measured.values()}) > 1
    ):  # a tolerance is in px here, voxels there
        units = {dataset: f"{own.difference_unit} of {own.label}" for dataset, own in measured.items()}
    if asked.name != what.name:
        reason = f"it is about {asked.label}, and this report about {what.label}: report with --metric {suite.metric}"
        found = [Answer(question, [], {}, None) for question in questions]
    else:
        cells, shared = _Cells(runs), suite.version < OWN_SEEDS
        tested = len(suite.confirm)
        found = [_answer(one, cells, what, units, shared, place < tested) for place, one in enumerate(questions)]
    confirm = _in_order(found[: len(suite.confirm)])
    others = found[len(suite.confirm) :]
    over_classes = not one_class and any(len(run.record.classes) > 1 for run in runs)
    return Answers(suite, in_words(absent), len(absent), reason, confirm, others, units, over_classes)


def _in_order(answers: Sequence[Answer]) -> list[Answer]:
    """Return answers with their verdicts: each is tested only if all before it were shown, else its p is taken away."""
    found: list[Answer] = []
    stopped = ""  # by which question
    for one in answers:
        p = None if one.estimate is None else one.estimate.p
        narrow, margin = None if one.verdict is None else one.verdict.narrow, one.question.margin
        shown = not stopped and p is not None and p < LEVEL
        inside = margin is not None and narrow is not None and max(map(abs, narrow)) < margin
        if stopped:
            words, inside = f"not tested: '{stopped}' was not shown", False
            if one.estimate is not None:
                one = replace(one, estimate=without_p(one.estimate))
        elif p is None:
            words, inside = "not tested: " + ("not answered" if one.estimate is None else "p is withheld"), False
        else:
            words = "a difference is shown" if shown else "not shown"
            if inside:
                words += f"; shown to be within {margin:g}" if shown else f" to differ; shown to be within {margin:g}"
        tested = not stopped and p is not None
        found.append(replace(one, verdict=Verdict(tested, shown, narrow, inside, words)))
        stopped = stopped or ("" if shown else one.question.name)
    return found


class _Cells:
    """Runs of a suite, to be looked up."""

    def __init__(self, runs: Iterable[Run]) -> None:
        self._found: dict[tuple[str, ...], dict[str, dict[int, Run]]] = defaultdict(lambda: defaultdict(dict))
        for run in runs:
            cell = run.record.spec
            self._found[cell.dataset, cell.regime, cell.arch, cell.encoder][cell.arm.typed][run.seed] = run
        self.datasets = {dataset for dataset, *_ in self._found}

    def of(self, dataset: str, regime: str, arch: str) -> list[dict[str, dict[int, Run]]]:
        """Return runs by cell and seed, for each encoder."""
        return [cells for where, cells in self._found.items() if where[:3] == (dataset, regime, arch)]


def _answer(
    question: DeclaredQuestion, cells: _Cells, what: Metric, units: Mapping[str, str], shared: bool, tested: bool
) -> Answer:
    lacking: list[str] = []
    tables: dict[str, np.ndarray] = {}
    weighted: dict[str, np.ndarray] = {}
    seeds: dict[str, list[int]] = {}
    seconds: dict[str, float] = {}
    by_class: dict[str, dict[str, Estimate]] = {}
    for dataset, regimes in question.regimes.items():
        faults, pairs = _pairs(question, cells, dataset, regimes)
        faults += [f"{where}, refused: {cause}" for where, own, other in pairs if (cause := _refused(own, other))]
        lacking += faults
        if not faults:
            groups, differences = _differences(pairs, what.name)
            if any(each != groups[0] for each in groups):
                lacking.append(f"{dataset}: its cells were tested on different groups")
            else:
                tables[dataset] = np.mean(differences, axis=0)
                own = pairs[0][1]
                seeds[dataset] = sorted(own)
                seconds[dataset] = _seconds_of_seed(pairs)
                weighted[dataset] = image_weighted(tables[dataset], own[min(own)].units.group_sizes)
                by_class[dataset] = _by_class(pairs, what.name)
    if len(measured := sorted({units[dataset] for dataset in tables})) > 1:
        lacking.append(f"no mean over data sets that are measured in {' and in '.join(measured)}")
    of_seeds = seeds if shared else None
    narrow = interval(tables, of_seeds, 0.1) if question.margin is not None and not lacking else None
    if narrow is not None:
        narrow = (what.scale * narrow[0], what.scale * narrow[1])
    return Answer(
        question=question,
        lacking=list(dict.fromkeys(lacking)),
        by_dataset={dataset: estimate(table, tested=False) for dataset, table in tables.items()},
        estimate=None if lacking else these_sets(tables, of_seeds, tested),
        by_images=None if lacking else these_sets(weighted, of_seeds, tested=False),
        sets=None if lacking else population(tables, of_seeds),
        verdict=Verdict(False, False, narrow, False, "") if tested else None,
        tables=tables,
        seconds=seconds,
        by_class={dataset: found for dataset, found in by_class.items() if found},
    )


_Pair = tuple[str, dict[int, Run], dict[int, Run]]
"""What it is, in words, and the runs of both sides by seed."""


def _pairs(
    question: DeclaredQuestion, cells: _Cells, dataset: str, regimes: tuple[str, str]
) -> tuple[list[str], list[_Pair]]:
    """Return the pairs of a question on a data set; first what is lacking of them."""
    if dataset not in cells.datasets:
        return [f"{dataset}: no record"], []
    faults: list[str] = []
    sides: list[tuple[str, str, dict[int, Run]]] = []
    for arch in question.archs:
        for names in question.pairs:
            for name, regime in zip(names, regimes, strict=True):
                where = f"{dataset}, {regime}, {arch}"
                found = cells.of(dataset, regime, arch)
                if len(found) == 1:
                    sides.append((where, name, found[0].get(name, {})))
                else:
                    faults.append(f"{where}: {'records of several encoders' if found else 'no record'}")
    if faults:
        return list(dict.fromkeys(faults)), []
    seeds = {seed for *_, runs in sides for seed in runs}
    for where, name, runs in sides:
        absent = sorted(seeds - runs.keys())
        if not runs:
            faults.append(f"{where}: {name}, no record")
        elif absent:
            faults.append(f"{where}: {name}, seed {', '.join(map(str, absent))}")
    if faults:
        return faults, []
    both = zip(sides[::2], sides[1::2], strict=True)
    return [], [(f"{where}: {name} : {other}", own, others) for (where, name, own), (_, other, others) in both]


def _refused(own: dict[int, Run], other: dict[int, Run]) -> str:
    return refusal([(own[seed], other[seed]) for seed in sorted(own)])


def _differences(pairs: Sequence[_Pair], metric: str) -> tuple[list[list[str]], list[np.ndarray]]:
    """Return the test groups of every pair, and its difference by group and seed."""
    groups, differences = [], []
    for _, own, other in pairs:
        units = own[min(own)].units
        columns = [units.by_group(own[seed].values[metric] - other[seed].values[metric]) for seed in sorted(own)]
        groups.append(units.group_names)
        differences.append(np.column_stack(columns))
    return groups, differences


def _seconds_of_seed(pairs: Sequence[_Pair]) -> float:
    """Return what one seed of all runs of some pairs took, on average: training, evaluation, and g once.

    In seconds of a core: a run of two threads holds two.
    """
    cells = {str(run.record.spec.arm): side for _, *sides in pairs for side in sides for run in side.values()}
    times = [[(run.record.times, run.record.spec.threads) for run in side.values()] for side in cells.values()]
    trained = sum(float(np.mean([cores * (each.train + each.evaluate) for each, cores in cell])) for cell in times)
    of_g = [cores * each.g for of_cell in times for each, cores in of_cell if each.g]
    return trained + (float(np.mean(of_g)) if of_g else 0.0)


def _by_class(pairs: Sequence[_Pair], metric: str) -> dict[str, Estimate]:
    """Return the mean difference of each class; nothing of one class, and of a metric that is of one."""
    runs = [run for _, *sides in pairs for side in sides for run in side.values()]
    return {
        name: estimate(np.mean(_differences(pairs, f"{metric}:{name}")[1], axis=0), tested=False)
        for name in runs[0].record.classes
        if all(f"{metric}:{name}" in run.values for run in runs)
    }
