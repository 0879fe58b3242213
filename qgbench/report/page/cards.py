"""Cards of methods and data sets, for those that the records name.

Only what ships with qgbench is described from its files. A record is somebody else's text: a file that it names as its
method's is never opened.
"""

import ast
import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from qgbench.data.cards import Card, card_names, load_card
from qgbench.plugins.registry import method_names
from qgbench.report.collect import Run
from qgbench.report.page.names import slug

_BASE = "MethodSettings"
_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


@dataclass(frozen=True)
class Setting:
    """A setting of a method, as its file writes it."""

    name: str
    default: str
    allowed: str
    meaning: str


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
    settings : list of Setting
    """

    name: str
    anchor: str
    title: str
    text: list[str]
    settings: list[Setting]


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
    """Describe methods, sorted by name, without importing them (which would import torch)."""
    shipped = method_names()
    return [
        _described(name) if name in shipped else MethodCard(name, slug(name), "", [], []) for name in sorted(methods)
    ]


def _described(name: str) -> MethodCard:
    tree = _tree("qgbench.baselines", f"{name}.py")
    kind = next(node for node in tree.body if isinstance(node, ast.ClassDef) and _is_method(node))
    text = inspect.cleandoc(ast.get_docstring(kind) or "")
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]
    return MethodCard(name, slug(name), (ast.get_docstring(tree) or "").split("\n\n")[0], paragraphs, _settings(name))


@cache
def _tree(package: str, file: str) -> ast.Module:
    folder: Traversable = files(package)
    return ast.parse(folder.joinpath(file).read_text(encoding="utf-8"))


def _is_method(node: ast.ClassDef) -> bool:
    return any(isinstance(part, ast.FunctionDef) and part.name == "step" for part in node.body)


def _settings(name: str) -> list[Setting]:
    """Collect a method's settings: those that every method has, of the class that its own derive from, its own."""
    tree = _tree("qgbench.baselines", f"{name}.py")
    kind = next(node for node in tree.body if isinstance(node, ast.ClassDef) and _is_method(node))
    own = next((node for node in kind.body if isinstance(node, ast.ClassDef) and node.name == "Settings"), None)
    found = {setting.name: setting for setting in _inherited(tree, own)}
    if own is not None:
        found |= {setting.name: setting for setting in _fields(own)}
    return list(found.values())


def _inherited(tree: ast.Module, own: ast.ClassDef | None) -> list[Setting]:
    base = own.bases[0] if own is not None and own.bases else ast.Name(_BASE)
    if isinstance(base, ast.Attribute) and isinstance(base.value, ast.Name):  # UniMatch.Settings
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and any(alias.name == base.value.id for alias in node.names):
                return _settings(str(node.module).rpartition(".")[2])
    methods = _tree("qgbench", "methods/contract.py")
    common = next(node for node in methods.body if isinstance(node, ast.ClassDef) and node.name == _BASE)
    return _fields(common)


def _fields(kind: ast.ClassDef) -> list[Setting]:
    return [
        _field(node.target.id, node.annotation, node.value)
        for node in kind.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    ]


def _field(name: str, annotation: ast.expr, value: ast.expr | None) -> Setting:
    kind = ast.unparse(annotation)
    if not isinstance(value, ast.Call):
        return Setting(name, "" if value is None else ast.unparse(value), kind, "")
    given = {keyword.arg: keyword.value for keyword in value.keywords}
    meaning = given.get("description")
    bounds = [f"{sign} {ast.unparse(given[key])}" for key, sign in _BOUNDS.items() if key in given]
    return Setting(
        name,
        ast.unparse(value.args[0]) if value.args else "",
        ", ".join((kind, *bounds)),
        str(meaning.value) if isinstance(meaning, ast.Constant) else "",
    )


def dataset_cards(runs: Sequence[Run]) -> list[DatasetCard]:
    """Describe the data sets of some runs, sorted by name."""
    by_name: dict[str, list[Run]] = {}
    for run in runs:
        by_name.setdefault(run.record.cell.dataset, []).append(run)
    shipped = card_names()
    return [
        DatasetCard(name, slug(name), load_card(name) if name in shipped else None, _facts(by_name[name]))
        for name in sorted(by_name)
    ]


def _facts(runs: list[Run]) -> list[tuple[str, str]]:
    """Say what the records of one data set tell about it."""
    tested = {run.units.key: run.units for run in runs}
    diagonals = [float(end) for units in tested.values() for end in (units.diagonal.min(), units.diagonal.max())]
    data = sorted({run.record.provenance.data for run in runs})
    return [
        ("records", str(len(runs))),
        ("regimes", ", ".join(sorted({run.record.cell.regime for run in runs}))),
        ("test images", _either(len(units.ids) for units in tested.values())),
        ("test groups", _either(len(units.group_names) for units in tested.values())),
        ("diagonal of the test images", f"{min(diagonals):.0f} to {max(diagonals):.0f} px"),
        ("fingerprints of images and masks", ", ".join(data)),
    ]


def _either(counts: Iterable[int]) -> str:
    return " or ".join(map(str, sorted(set(counts))))
