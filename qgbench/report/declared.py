"""What a suite declared before its runs: which they are, and the one primary question; and the answer to it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from qgbench.report.measures import Measure, measure
from qgbench.spec import load_protocol
from qgbench.stats.combined import estimate_mean_of
from qgbench.stats.crossed import Estimate
from qgbench.suite import Suite

if TYPE_CHECKING:
    from qgbench.report.analysis import Contrast, Section
    from qgbench.report.collect import Run

_LISTED = 20  # missing cells that are named one by one

Place = tuple[str, ...]
"""Protocol, data set, regime, arch, method, add-on, variant, seed: which run of a suite a record is, on any machine."""


@dataclass(frozen=True)
class DeclaredSuite:
    """The runs of a suite, and its primary question: what an add-on changes, averaged over methods and data sets.

    Attributes
    ----------
    name : str
    question : str
        In words.
    places : frozenset of Place
        Of the runs that belong to it. A run's id will not do: it differs with the machine.
    version : int
        Of the protocol; records of another version are not the suite's.
    addon : str
        As the leaderboard writes it, ``qw``; compared with the same methods without.
    methods : tuple of str
        As one types them: ``fixmatch``, ``fixmatch(threshold=0.9)``. Averaged inside each data set.
    datasets : tuple of str
        Averaged with equal weights.
    metric : str
        One of `qgbench.report.measures.MEASURES`.
    regimes : mapping of str to str
        By data set; of one that is not named all regimes count.
    archs : tuple of str
        Empty: all that its records have.
    contrasts : tuple of str
        ``A:B``: what else is compared, beside twins and controls.
    """

    name: str
    question: str
    places: frozenset[Place]
    version: int
    addon: str
    methods: tuple[str, ...]
    datasets: tuple[str, ...]
    metric: str = "dice"
    regimes: Mapping[str, str] = field(default_factory=dict)
    archs: tuple[str, ...] = ()
    contrasts: tuple[str, ...] = ()


def declared(suite: Suite) -> DeclaredSuite:
    """Take out of a suite what a report needs."""
    primary = suite.primary
    return DeclaredSuite(
        name=suite.name,
        question=primary.question,
        places=frozenset(entry.place for entry in suite.entries()),
        version=load_protocol(suite.protocol).version,
        addon=primary.addon,
        methods=tuple(_typed(suite, row) for row in primary.rows),
        datasets=tuple(primary.regimes),
        metric=primary.metric,
        regimes=primary.regimes,
        archs=suite.archs_of(primary),
        contrasts=suite.secondary.contrasts,
    )


def _typed(suite: Suite, row: str) -> str:
    """A row of the primary question as the report names its cells."""
    entry = next(entry for entry in suite.entries() if entry.row == row)
    *_, method, _, variant, _ = entry.place
    return method + (f"({variant})" if variant else "")


@dataclass(frozen=True, eq=False)
class Answer:
    """What the records say about a suite.

    Attributes
    ----------
    suite : DeclaredSuite
    absent : list of str
        Its runs without a record that can be used, in words: cells with their seeds, or how many there are.
    missing : int
        How many runs that is.
    lacking : list of str
        Cells, or seeds of cells, that the primary estimate would need, and comparisons that are refused.
    estimate : Estimate or None
        The add-on's difference, averaged over the methods inside each data set, then over data sets.
    reason : str
        Why there is no estimate; empty if there is one.
    """

    suite: DeclaredSuite
    absent: list[str]
    missing: int
    lacking: list[str]
    estimate: Estimate | None
    reason: str


def runs_of_suite(suite: DeclaredSuite, runs: Sequence["Run"]) -> tuple[list["Run"], frozenset[Place]]:
    """Keep the runs that belong to a suite, and give the places that none of them takes."""
    kept = [run for run in runs if run.record.cell.protocol_version == suite.version and _place(run) in suite.places]
    return kept, suite.places - {_place(run) for run in kept}


def why_none(suite: DeclaredSuite, runs: Sequence["Run"]) -> str:
    """Say why no record belongs to a suite, and what to do."""
    versions = {run.record.cell.protocol_version for run in runs if _place(run) in suite.places}
    if versions:
        others = ", ".join(map(str, sorted(versions)))
        return (
            f"the records of the suite '{suite.name}' are of version {others} of its protocol, and the present is "
            f"{suite.version}; do its runs anew with qgbench suite run, or report without --suite."
        )
    return f"no record belongs to the suite '{suite.name}'; do its runs with qgbench suite run."


def _place(run: "Run") -> Place:
    cell = run.record.cell
    where = (cell.protocol, cell.dataset, cell.regime, cell.arch, cell.method, cell.addon, cell.variant)
    return (*where, str(cell.seed))


def in_words(places: Iterable[Place]) -> list[str]:
    """Name runs by cell and seeds; of many cells the first, and the number of the others."""
    seeds: dict[Place, list[str]] = {}
    for *cell, seed in sorted(places):
        seeds.setdefault(tuple(cell), []).append(seed)
    words = [
        f"{method}{f' ({variant})' if variant else ''}{f' + {addon}' if addon else ''} on {dataset} {regime}, {arch}, "
        f"seed {', '.join(of)}"
        for (_, dataset, regime, arch, method, addon, variant), of in seeds.items()
    ]
    if len(words) > _LISTED:
        words[_LISTED:] = [f"and {len(words) - _LISTED} cells more"]
    return words


def answer(suite: DeclaredSuite, sections: Sequence["Section"], what: Measure, absent: frozenset[Place]) -> Answer:
    """Answer a suite's primary question, or say why not.

    Parameters
    ----------
    suite : DeclaredSuite
    sections : sequence of Section
        Of its records, by `what`.
    what : Measure
        The estimate is withheld where it is not the suite's.
    absent : frozenset of Place
        As `runs_of_suite` gives them.

    Returns
    -------
    Answer
        The estimate is withheld as soon as one cell, or one seed of it that another one has, is lacking: an average
        over what happens to be there would answer another question.
    """
    asked = measure(suite.metric)
    if asked != what:
        reason = f"it is about {asked.label}, and this report about {what.label}: report with --metric {suite.metric}"
        return Answer(suite, in_words(absent), len(absent), [], None, reason)
    lacking: list[str] = []
    tables: dict[str, np.ndarray] = {}
    archs = suite.archs or sorted({s.setting.arch for s in sections if s.setting.dataset in suite.datasets})
    for dataset in suite.datasets:
        of_dataset = [section for section in sections if section.setting.dataset == dataset]
        regimes = sorted({section.setting.regime for section in of_dataset})
        if dataset in suite.regimes:
            regimes = [suite.regimes[dataset]]
        if not of_dataset:
            lacking.append(f"{dataset}: no record")
            continue
        found: list[Section] = []
        for regime, arch in product(regimes, archs):
            here = [s for s in of_dataset if (s.setting.regime, s.setting.arch) == (regime, arch)]
            found += here
            if len(here) != 1:
                count = "records of several protocols, versions or encoders" if here else "no record"
                lacking.append(f"{dataset}, {regime}, {arch}: {count}")
        seeds = sorted({run.seed for section in found for runs in _cells(section, suite).values() for run in runs})
        faults = [fault for section in found for fault in _faults(section, suite, seeds)]
        lacking += faults
        if not faults:
            differences = [c.difference for s in found for c in _twins(s, suite).values() if c.difference is not None]
            if any(one.groups != differences[0].groups for one in differences):
                lacking.append(f"{dataset}: its cells were tested on different groups")
            elif differences:
                tables[dataset] = np.mean([one.table for one in differences], axis=0)
    if lacking:
        return Answer(suite, in_words(absent), len(absent), lacking, None, "cells or seeds that it needs are missing")
    return Answer(suite, in_words(absent), len(absent), [], estimate_mean_of(tables), "")


def _cells(section: "Section", suite: DeclaredSuite) -> dict[tuple[str, str], list["Run"]]:
    """Runs of the methods asked about, by method and add-on, none or the suite's."""
    return {
        (name.without_addon.typed, name.addon): runs
        for name, runs in section.runs_of().items()
        if name.without_addon.typed in suite.methods and name.addon in ("", suite.addon)
    }


def _twins(section: "Section", suite: DeclaredSuite) -> dict[str, "Contrast"]:
    """The add-on's contrasts with the methods without, by method."""
    return {
        contrast.reference.typed: contrast
        for contrast in section.contrasts
        if contrast.kind != "asked"
        and contrast.name.addon == suite.addon
        and contrast.reference == contrast.name.without_addon
        and contrast.reference.typed in suite.methods
    }


def _faults(section: "Section", suite: DeclaredSuite, seeds: Sequence[int]) -> Iterator[str]:
    setting = section.setting
    where = f"{setting.dataset}, {setting.regime}, {setting.arch}"
    cells, twins = _cells(section, suite), _twins(section, suite)
    for method in suite.methods:
        whole = True
        for addon in ("", suite.addon):
            cell = f"{where}: {method}{f' + {addon}' if addon else ''}"
            absent = sorted(set(seeds) - {run.seed for run in cells.get((method, addon), [])})
            if (method, addon) not in cells:
                yield f"{cell}, no record"
            elif absent:
                yield f"{cell}, seed {', '.join(map(str, absent))}"
            whole = whole and (method, addon) in cells and not absent
        if whole and (method not in twins or twins[method].difference is None):
            cause = twins[method].refused if method in twins else ""
            yield f"{where}: {method}, refused: {cause or 'its seeds were tested on different images'}"
