"""Cards of methods and data sets, for those that the records name.

Only what ships with qgbench is described from its files. A record is somebody else's text: a file that it names as its
method's is never opened.
"""

import ast
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files

from qgbench.data.cards import Card, card_names, load_card
from qgbench.metrics.table import METRICS
from qgbench.plugins.registry import method_names
from qgbench.report.collect import Run, in_unit_of, noun_of
from qgbench.report.page.names import slug


@dataclass(frozen=True)
class MethodCard:
    """What a method's file says.

    Attributes
    ----------
    name : str
        As in records.
    anchor : str
        Of the card within its page.
    title : str
        First sentence of the file; empty for a method that does not ship with qgbench.
    text : list of str
        Paragraphs of the class's docstring.
    """

    name: str
    anchor: str
    title: str
    text: list[str]


@dataclass(frozen=True)
class DatasetCard:
    """What is known of a data set.

    Attributes
    ----------
    name : str
        As in records.
    anchor : str
    card : Card or None
        The shipped one, if there is one.
    facts : list of (str, str)
        What the records say: test images, groups, sizes, regimes, fingerprints.
    """

    name: str
    anchor: str
    card: Card | None
    facts: list[tuple[str, str]]


def method_cards(methods: Iterable[str]) -> list[MethodCard]:
    """Return descriptions of methods, sorted by name, without importing them (which would import torch)."""
    shipped = method_names()
    return [_described(name) if name in shipped else MethodCard(name, slug(name), "", []) for name in sorted(methods)]


def _described(name: str) -> MethodCard:
    tree = ast.parse(files("qgbench.baselines").joinpath(f"{name}.py").read_text(encoding="utf-8"))
    kind = next(node for node in tree.body if isinstance(node, ast.ClassDef) and _is_method(node))
    paragraphs = [" ".join(part.split()) for part in (ast.get_docstring(kind) or "").split("\n\n")]
    return MethodCard(name, slug(name), (ast.get_docstring(tree) or "").split("\n\n")[0], paragraphs)


def _is_method(node: ast.ClassDef) -> bool:
    return any(isinstance(part, ast.FunctionDef) and part.name == "step" for part in node.body)


def dataset_cards(runs: Sequence[Run]) -> list[DatasetCard]:
    """Return descriptions of the data sets of some runs, sorted by name."""
    by_name: dict[str, list[Run]] = {}
    for run in runs:
        by_name.setdefault(run.record.spec.dataset, []).append(run)
    shipped = card_names()
    return [
        DatasetCard(name, slug(name), load_card(name) if name in shipped else None, _facts(by_name[name]))
        for name in sorted(by_name)
    ]


def _facts(runs: list[Run]) -> list[tuple[str, str]]:
    """Return what the records of one data set tell about it."""
    tested = {run.units.key: run.units for run in runs}
    diagonals = [float(end) for units in tested.values() for end in (units.diagonal.min(), units.diagonal.max())]
    data = sorted({run.record.provenance.data for run in runs})
    noun = noun_of(runs)
    classes = dict.fromkeys(", ".join(run.record.classes) for run in runs if len(run.record.classes) > 1)
    unit = in_unit_of(METRICS["hd95"], runs).unit
    return [
        ("records", str(len(runs))),
        ("regimes", ", ".join(sorted({run.record.spec.regime for run in runs}))),
        *(("classes", named) for named in classes),
        (f"test {noun}s", _either(len(units.ids) for units in tested.values())),
        ("test groups", _either(len(units.group_names) for units in tested.values())),
        (f"diagonal of the test {noun}s", f"{min(diagonals):.0f} to {max(diagonals):.0f} {unit}"),
        ("fingerprints of images and masks", ", ".join(data)),
    ]


def _either(counts: Iterable[int]) -> str:
    return " or ".join(map(str, sorted(set(counts))))
