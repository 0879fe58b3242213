"""Which cells of a setting are compared, and what comes out.

A contrast compares two cells over the seeds that both have, and only if each pair of runs has the same test images,
precision, device class and number of processes. Contrasts are: each cell with an add-on against its twin without
(``twin``); QW by each control score against the twin, and QW by g against it (``control``); and pairs asked for by name
(``asked``). Tested are pairs asked for, and twins where no suite says which questions are; the others are estimates.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from qgbench.metrics.table import Metric
from qgbench.report.collect import Problem, Run
from qgbench.report.pairing import SIDE_WORDS, TWIN_WORDS, refusal
from qgbench.report.scores import Scores, average, average_difference
from qgbench.spec.arm import AddOnName, ArmName
from qgbench.stats.crossed import holm
from qgbench.stats.effects import effect_size, probability_of_improvement

Kind = Literal["twin", "control", "asked"]


@dataclass(frozen=True, eq=False)
class Contrast:
    """Two cells of one setting, compared over the seeds that both have.

    Attributes
    ----------
    kind : {'twin', 'control', 'asked'}
    name, reference : ArmName
        The cell that is compared, and what with. A twin's reference may be missing, and so may the cell itself.
    scores, reference_scores : Scores or None
        Over the common seeds; where there is no difference, over all seeds that they have. None: no usable record.
    difference : Scores or None
        `name` minus `reference`; None where one is missing or the comparison is refused.
    refused : str
        Why the two may not be compared; empty if they may, or if one is missing.
    holm_p : float or None
        The difference's p, adjusted for all of its kind in the report; None where it is not tested, or p is withheld.
    improvement : float or None
        Probability of improvement, by groups; in the direction in which the measure is better.
    effect : float or None
        Standardised mean difference over groups.
    headroom : float or None
        Share of the distance from supervised with the budget to supervised with all labels that the difference covers.
    missing : str
        Which side has no usable record; empty if both have one.
    tested : bool
        Whether it is asked if the difference is 0; its p may be withheld even so.
    """

    kind: Kind
    name: ArmName
    reference: ArmName
    scores: Scores | None
    reference_scores: Scores | None
    difference: Scores | None
    refused: str
    holm_p: float | None = None
    improvement: float | None = None
    effect: float | None = None
    headroom: float | None = None
    missing: str = ""
    tested: bool = False

    @property
    def any_scores(self) -> Scores | None:
        """The difference, or the side that is there."""
        return self.difference or self.reference_scores or self.scores

    @property
    def against_twin(self) -> bool:
        """Whether it shows what an add-on, or a control, does to its twin without."""
        return self.kind != "asked" and self.reference == self.name.without_addon != self.name


def twins(names: Iterable[ArmName]) -> list[tuple[ArmName, ArmName]]:
    """Return each cell with an add-on and its twin without; a cell that no add-on was run with beside itself."""
    names = list(names)
    with_addon = [name for name in names if name.addon and not is_control(name.addon)]
    alone = {name.without_addon for name in names if name.addon}
    single = [name for name in names if not name.addon and name not in alone]
    return sorted([(name, name.without_addon) for name in [*with_addon, *single]], key=lambda pair: pair[0].order)


def controls(names: Iterable[ArmName]) -> list[tuple[ArmName, ArmName]]:
    """Return QW by a control score against the twin without, and QW by g against QW by that score: g must beat it."""
    found = sorted((name for name in names if is_control(name.addon)), key=lambda name: name.order)
    by_g = [(name._replace(addon=str(AddOnName.parse(name.addon).by_g)), name) for name in found]
    return [(name, name.without_addon) for name in found] + by_g


def is_control(addon: str) -> bool:
    """Return whether another score stands in the place of g: ``qw-shuffled``, unlike ``qw-quality.steps=600``."""
    return AddOnName.parse(addon).is_control


def contrast(
    kind: Kind,
    pair: tuple[ArmName, ArmName],
    usable: Mapping[ArmName, dict[int, Run]],
    cells: Mapping[ArmName, Scores],
    what: Metric,
    tested: bool,
) -> tuple[Contrast, list[Problem]]:
    """Return the comparison of two cells, each a run by seed, either of which may be missing, and what was left out.

    With p if `tested`.
    """
    name, reference = pair
    own = usable.get(name, {})
    other = {} if name == reference else usable.get(reference, {})
    is_twin = reference == name.without_addon
    where = str(name) if is_twin else f"{name} : {reference}"
    common = sorted(own.keys() & other.keys())
    runs, other_runs = [own[seed] for seed in common], [other[seed] for seed in common]
    missing, refused = _missing(pair, own, other), ""
    if not missing:
        refused = refusal(list(zip(runs, other_runs, strict=True)), TWIN_WORDS if is_twin else SIDE_WORDS)
    if missing or refused:
        scores, other_scores = (cells[one] if found else None for one, found in zip(pair, (own, other), strict=True))
        if name == reference:  # a cell that has no twin stands where a base does
            scores, other_scores = None, scores
        without = Contrast(kind, name, reference, scores, other_scores, None, refused, missing=missing, tested=tested)
        return without, [Problem(where, missing or f"refused: {refused}")]
    words = ("with the add-on", "without the add-on") if is_twin else (f"of {name}", f"of {reference}")
    left_out = ((other.keys() - own.keys(), words[1]), (own.keys() - other.keys(), words[0]))
    problems = [Problem(where, f"seeds {listed(only)} only {word}: left out") for only, word in left_out if only]
    return _compared(kind, pair, (runs, other_runs), cells, what, tested), problems


def _compared(
    kind: Kind,
    pair: tuple[ArmName, ArmName],
    runs: tuple[list[Run], list[Run]],
    cells: Mapping[ArmName, Scores],
    what: Metric,
    tested: bool,
) -> Contrast:
    """Return the comparison of two cells by their runs of the same seeds."""
    common = [run.seed for run in runs[0]]
    scores, other_scores = (
        cells[name] if cells[name].seeds == common else average(chosen, what)
        for name, chosen in zip(pair, runs, strict=True)
    )
    difference = average_difference(*runs, scores, other_scores, what, tested)
    return Contrast(
        kind=kind,
        name=pair[0],
        reference=pair[1],
        scores=scores,
        reference_scores=other_scores,
        difference=difference,
        refused="",
        improvement=probability_of_improvement(what.sign * scores.table, what.sign * other_scores.table),
        effect=effect_size(difference.table),
        tested=tested,
    )


def _missing(pair: tuple[ArmName, ArmName], own: dict[int, Run], other: dict[int, Run]) -> str:
    """Return which side has no usable record, in words."""
    name, reference = pair
    if name == reference:
        return "no usable record" + (" with an add-on" if own else "")
    if own and other:
        return ""
    if reference == name.without_addon:
        lacking = [word for word, runs in (("without", other), ("with", own)) if not runs]
        return f"no usable record {' or '.join(lacking)} an add-on"
    lacking = [f"of {one}" for one, runs in ((name, own), (reference, other)) if not runs]
    return f"no usable record {' or '.join(lacking)}"


def listed(seeds: Iterable[int]) -> str:
    """Return seeds in words."""
    return ", ".join(map(str, sorted(seeds)))


def adjusted(contrasts: Sequence[Contrast]) -> list[Contrast]:
    """Return contrasts with the Holm-adjusted p-values of one family."""
    p_values = [None if c.difference is None else c.difference.estimate.p for c in contrasts]
    known = iter(holm([p for p in p_values if p is not None]))
    return [replace(c, holm_p=None if p is None else next(known)) for c, p in zip(contrasts, p_values, strict=True)]
