"""The one analysis behind every table, figure and page: settings, what holds across them, a suite's questions."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import get_args

from qgbench.base.errors import UserError
from qgbench.metrics.table import METRICS, Metric, metric_named
from qgbench.report.across import Across, compare_settings
from qgbench.report.collect import Collection, Problem, Run, in_unit_of, of_class
from qgbench.report.contrasts import Kind, adjusted
from qgbench.report.declared import Answers, DeclaredSuite, Place, answers, runs_of_suite
from qgbench.report.sections import Section, compare_cells, supervised_with_all_labels
from qgbench.report.select import Filters, named_pair
from qgbench.spec.run_spec import Setting
from qgbench.trust.claims import Claim


@dataclass(frozen=True, eq=False)
class Analysis:
    """Everything that a report shows.

    Attributes
    ----------
    measure : Metric
        What the statistics are about; a distance in the units of all records, 'mm / px' where they differ.
    sections : list of Section
        Sorted by protocol, version, data set, regime, architecture, encoder.
    across : list of Across
        For each protocol, version, architecture, encoder and kind of regime with two blocks or more.
    problems : list of Problem
        Records that were not used.
    claims : list of Claim
        Numbers that papers claim of these data sets, or of none; nothing is computed from them.
    answers : Answers or None
        To the questions of the suite that the analysis is confined to.
    """

    measure: Metric
    sections: list[Section]
    across: list[Across]
    problems: list[Problem]
    claims: list[Claim] = field(default_factory=list)
    answers: Answers | None = None

    @property
    def over_classes(self) -> bool:
        """Whether the measure is a mean over several classes in some setting."""
        return any(section.over_classes for section in self.sections)

    @property
    def tested(self) -> dict[Kind, int]:
        """How many comparisons of cells have a p, by kind."""
        found = [one.kind for section in self.sections for one in section.contrasts if one.holm_p is not None]
        return {kind: found.count(kind) for kind in get_args(Kind)}

    @property
    def mixes_units(self) -> bool:
        """Whether the measure is a distance, and settings have it in different units."""
        return len({section.measure.unit for section in self.sections}) > 1


def analyse(
    collection: Collection,
    filters: Filters | None = None,
    metric: str = "dice",
    asked: Sequence[str] = (),
    suite: DeclaredSuite | None = None,
) -> Analysis:
    """Return the comparisons of whatever can be compared.

    Parameters
    ----------
    collection : Collection
    filters : Filters, optional
    metric : str
        One of `qgbench.metrics.table.METRICS`, or one that the records have beside; of one class ``dice:liver``.
    asked : sequence of str
        Further contrasts, ``A:B`` (A minus B), each side ``method`` or ``method+addon``.
    suite : DeclaredSuite, optional
        Only its runs count; its questions are answered, its missing runs are named, and of its cells only pairs that
        are `asked` for are tested.

    Raises
    ------
    UserError
        An unknown metric, a filter or a contrast that names what no record has, no record of the suite.
    """
    what = metric_named(metric, _further(collection.runs))
    runs, absent = collection.runs, frozenset[Place]()
    if suite is not None:
        suite, runs, absent = runs_of_suite(suite, runs)
        if not runs:
            raise UserError(f"no record belongs to the suite '{suite.name}'; do its runs with qgbench suite run.")
    runs, unmeasured = _measured((filters or Filters()).chosen(runs), what)
    by_setting: dict[Setting, list[Run]] = defaultdict(list)
    for run in runs:
        by_setting[run.record.spec.setting].append(run)
    pairs = [named_pair(text, runs) for text in asked]
    full = supervised_with_all_labels(by_setting, what)
    sections = [
        compare_cells(setting, by_setting[setting], what, pairs, full, suite is not None)
        for setting in sorted(by_setting, key=lambda each: tuple(dict(each).values()))
    ]
    sections = _adjusted(sections)
    found = None if suite is None else answers(suite, runs, what, absent)
    across = compare_settings(sections, what)
    datasets = {"", *(section.setting.dataset for section in sections)}
    claims = [claim for claim in collection.claims if claim.dataset in datasets]
    shown = in_unit_of(what, runs)
    return Analysis(shown, sections, across, [*collection.problems, *unmeasured], claims, found)


def _further(runs: Sequence[Run]) -> dict[str, Metric]:
    """Return the metrics that the records have beside those that ship: others, and all of single classes."""
    others = {name: own for run in runs for name, own in run.record.metrics.items()}
    classes = dict.fromkeys(name for run in runs if len(run.record.classes) > 1 for name in run.record.classes)
    single = (of_class(metric, name) for name in classes for metric in {**METRICS, **others}.values())
    return others | {metric.name: metric for metric in single}


def _measured(runs: Sequence[Run], what: Metric) -> tuple[list[Run], list[Problem]]:
    """Return the runs that have a metric, and those that were finished without it."""
    cause = f"finished without the metric '{what.name}'" if ":" not in what.name else f"has no {what.label}"
    lacking = [Problem(str(run.path), cause) for run in runs if what.name not in run.values]
    return [run for run in runs if what.name in run.values], lacking


def _adjusted(sections: Sequence[Section]) -> list[Section]:
    """Return sections with p adjusted for all comparisons of a kind (twins; pairs asked for), in whatever setting."""
    by_kind = {
        kind: iter(adjusted([one for section in sections for one in section.contrasts if one.kind == kind]))
        for kind in get_args(Kind)
    }
    return [replace(section, contrasts=[next(by_kind[one.kind]) for one in section.contrasts]) for section in sections]
