"""Suites: what is run, and the statistical questions asked of it, declared beforehand. Imports no torch.

A suite is a TOML file, one of those that ship (``suites/``) or one's own:

- ``name``, ``about``, ``protocol``; ``threads``, if not the protocol's;
- ``[rows.NAME]``: a ``method`` with settings (``set``). A method as it is needs no row: its own name will do;
- ``[[block]]``: ``rows`` x ``regimes`` (by data set) x ``archs`` x ``seeds``, with settings for all (``set``) and
  settings that are varied (``vary``: every combination). Blocks come in the order of their importance. A row's name
  takes an add-on as the leaderboard writes it: ``fixmatch``, ``fixmatch+qw``, ``fixmatch+qw-oracle``;
- ``[[confirm]]``: the few questions that are tested, in this order, each only if all before it were shown;
  ``[[question]]``: further ones, which get estimates and intervals. Each is answered by one mean over data sets, in
  ``metric`` (Dice if not given).
"""

import itertools
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from qgbench.base.errors import UserError, unknown_name
from qgbench.base.text import parse_toml, read_text
from qgbench.spec.arm import OF_ADDON, Arm, parse_row
from qgbench.spec.protocol import load_protocol, protocol_names
from qgbench.spec.regime import Regime
from qgbench.spec.run_spec import Place, RunSpec
from qgbench.spec.settings import Settings, is_setting


class Row(Settings):
    """A method with settings, under a name of its own."""

    method: str = Field(description="as --method takes it")
    set: dict[str, Any] = Field(default_factory=dict, description="settings, as --set takes them")


class Block(Settings):
    """Runs that are asked for together."""

    name: str
    about: str = ""
    rows: tuple[str, ...] = Field(min_length=1)
    regimes: dict[str, tuple[str, ...]] = Field(min_length=1, description="by data set")
    archs: tuple[str, ...] = Field((), description="the protocol's if empty")
    seeds: tuple[int, ...] = Field(min_length=1)
    set: dict[str, Any] = Field(
        default_factory=dict, description="settings of all rows; those of the add-on reach only rows that have one"
    )
    vary: dict[str, tuple[Any, ...]] = Field(default_factory=dict, description="every combination is run")


class Asked(Settings):
    """One difference, averaged over rows and archs, then over the data sets of a block."""

    name: str = Field(pattern=r"^[\w-]+$")
    question: str
    compare: str = Field(description="'A:B', A minus B; * stands for each of `rows`, as in '*+qw:*'")
    rows: tuple[str, ...] = ()
    block: str = Field(description="whose data sets, regimes and archs it is about; one regime for each data set")
    against: str = Field("", description="block whose regimes side B has; `block` if empty")

    @property
    def sides(self) -> tuple[tuple[str, str], ...]:
        """The rows compared, first minus second."""
        first, _, second = self.compare.partition(":")
        return tuple((first.replace("*", row), second.replace("*", row)) for row in self.rows or ("*",))


class Confirm(Asked):
    """A question that is tested, two-sided at 5 %, if all that stand before it were shown."""

    equivalence: float | None = Field(
        None, gt=0, description="margin in points: the 90 % interval inside it shows that there is no larger difference"
    )


class Question(Asked):
    """A further question, which gets an estimate and an interval."""

    each: bool = Field(False, description="a question for each row, named NAME-ROW; * in `question` stands for it")


@dataclass(frozen=True)
class Entry:
    """One run that a suite asks for, before anything is known of the machine that carries it out."""

    block: str
    row: str  # as the block names it
    protocol: str
    dataset: str
    regime: str
    arch: str
    arm: Arm
    seed: int

    @cached_property
    def place(self) -> Place:
        """What a record of this run says of itself; known without torch."""
        known = load_protocol(self.protocol)
        where = {name: getattr(self, name) for name in ("protocol", "dataset", "regime", "arch", "seed")}
        any_machine = {"precision": known.precision, "device": "cpu", "threads": known.threads}
        return RunSpec.model_validate({**where, **dict(self.arm), **any_machine, "encoder": known.encoder}).place


class Suite(Settings):
    """A declared set of runs and questions (module docstring)."""

    name: str = Field(pattern=r"^[\w-]+$")
    about: str
    protocol: str
    threads: int | None = Field(None, ge=1, description="processor threads of every run; the protocol's if not given")
    rows: dict[str, Row] = Field(default_factory=dict)
    block: tuple[Block, ...] = Field(min_length=1)
    metric: str = Field("dice", description="of `qgbench.metrics.table`; 'dice:liver' is of one class, not of the mean")
    confirm: tuple[Confirm, ...] = ()
    question: tuple[Question, ...] = ()

    def entries(self) -> list[Entry]:
        """Return the runs in the order in which they matter: by block, then seed, data set, regime, arch, row.

        A run that several blocks ask for is listed once, in the first.

        Raises
        ------
        UserError
            A row's name is not understood, or the protocol is unknown.
        """
        found: dict[Place, Entry] = {}
        for block in self.block:
            arms = [(row, arm) for row in block.rows for arm in self._arms(block, row)]
            for seed, dataset in itertools.product(block.seeds, block.regimes):
                for text, arch in itertools.product(block.regimes[dataset], self.archs_of(block)):
                    regime = str(Regime.parse(text))
                    for row, arm in arms:
                        entry = Entry(block.name, row, self.protocol, dataset, regime, arch, arm, seed)
                        found.setdefault(entry.place, entry)
        return list(found.values())

    def archs_of(self, block: Block) -> tuple[str, ...]:
        """Return the architectures of a block."""
        return block.archs or (load_protocol(self.protocol).arch,)

    def questions(self) -> list[Question]:
        """Return the further questions; one that asks something of each row counts as one for each."""
        found: list[Question] = []
        for question in self.question:
            if not question.each:
                found.append(question)
                continue
            for row in question.rows:
                own = {"name": f"{question.name}-{row}", "question": question.question.replace("*", row)}
                found.append(question.model_copy(update={**own, "rows": (row,), "each": False}))
        return found

    def regimes_of(self, question: Asked) -> dict[str, tuple[str, str]]:
        """Return the regimes of both sides of a question, by data set."""
        of = {
            block.name: {dataset: str(Regime.parse(regimes[0])) for dataset, regimes in block.regimes.items()}
            for block in self.block
        }
        other = of[question.against or question.block]
        return {dataset: (regime, other[dataset]) for dataset, regime in of[question.block].items()}

    def _arms(self, block: Block, row: str) -> list[Arm]:
        """Return the arms of a row: one, or one for each combination of what the block varies."""
        name, addon = parse_row(row)
        declared = self.rows.get(name, Row(method=name))
        varied = [dict(zip(block.vary, values, strict=True)) for values in itertools.product(*block.vary.values())]
        return [
            Arm(
                method=declared.method,
                **addon,
                overrides={
                    key: value
                    for key, value in (declared.set | block.set | combination).items()
                    if addon["qg_mode"] != "none" or not key.startswith(OF_ADDON)
                },
            )
            for combination in varied
        ]


def suite_names() -> list[str]:
    """Return the names of the suites that ship with qgbench."""
    folder = resources.files("qgbench.suites")
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))


def load_suite(name: str) -> Suite:
    """Return a suite: one that ships, by its name, or a file's.

    Parameters
    ----------
    name : str
        ``small``, or the path of a ``.toml`` file.

    Raises
    ------
    UserError
        There is no such suite or file, it is not TOML, or it breaks the form; every fault of the form is listed.
    """
    if name in suite_names():
        file: Path | Traversable = resources.files("qgbench.suites") / f"{name}.toml"
    elif not name.endswith(".toml"):
        raise unknown_name("suite", name, suite_names())
    elif not (file := Path(name)).exists():
        raise UserError(f"there is no file {name}. Suites that ship with qgbench: {', '.join(suite_names())}.")
    try:
        suite = Suite.model_validate(_of_now(parse_toml(read_text(file), file), name))
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise UserError(_listed(name, faults)) from error
    if faults := _inconsistencies(suite):
        raise UserError(_listed(name, faults))
    return suite


def _of_now(data: dict[str, Any], name: str) -> dict[str, Any]:
    """Return what a file says, unless it is of the form of 0.1."""
    if former := data.keys() & {"primary", "secondary"}:
        raise UserError(
            f"the suite {name} has [{min(former)}], of a former form: [[confirm]] holds the questions that are tested, "
            "as docs/how-to/suite.md shows, and [secondary] is left out."
        )
    return data


def _inconsistencies(suite: Suite) -> list[str]:
    """Return what can be found wrong in a suite by itself."""
    faults = (
        [] if suite.protocol in protocol_names() else [str(unknown_name("protocol", suite.protocol, protocol_names()))]
    )
    names = [block.name for block in suite.block]
    faults += [
        f"block '{name}' is there {names.count(name)} times" for name in dict.fromkeys(names) if names.count(name) > 1
    ]
    rows = {row for block in suite.block for row in block.rows}
    regimes = {regime for block in suite.block for regimes in block.regimes.values() for regime in regimes}
    for parse, texts in ((parse_row, rows), (Regime.parse, regimes)):
        for text in sorted(texts):
            try:
                parse(text)
            except UserError as error:
                faults.append(str(error))
    keys = {key for block in suite.block for key in (*block.set, *block.vary)}
    keys |= {key for row in suite.rows.values() for key in row.set}
    faults += [
        f"setting '{key}' is not understood: expected method.NAME, train.NAME, quality.NAME, qg.NAME, encoder_weights "
        "or size"
        for key in sorted(keys)
        if not is_setting(key)
    ]
    used = {row.partition("+")[0] for block in suite.block for row in block.rows}
    faults += [f"[rows.{name}] is used by no block" for name in suite.rows if name not in used]
    if not faults:
        faults += _ill_formed(suite) or _unanswerable(suite)
    return list(dict.fromkeys(faults))


def _ill_formed(suite: Suite) -> list[str]:
    """Return what is wrong with the form of the questions."""
    blocks = {block.name: block for block in suite.block}
    names = [question.name for question in (*suite.confirm, *suite.questions())]
    faults = [f"question '{name}' is there twice" for name in dict.fromkeys(names) if names.count(name) > 1]
    for question in (*suite.confirm, *suite.question):
        where = f"question '{question.name}'"
        for name in filter(None, (question.block, question.against)):
            if name not in blocks:
                faults.append(f"{where}: {unknown_name('block', name, list(blocks))}")
            elif any(len(regimes) > 1 for regimes in blocks[name].regimes.values()):
                faults.append(f"{where}: block '{name}' has several regimes on one data set, so there is no one answer")
            elif blocks[name].set or blocks[name].vary:
                faults.append(f"{where}: block '{name}' sets or varies settings; give the rows compared as [rows.NAME]")
        if question.block in blocks and question.against in blocks:
            absent = set(blocks[question.block].regimes) - set(blocks[question.against].regimes)
            if absent:
                faults.append(f"{where}: block '{question.against}' has no regime for {', '.join(sorted(absent))}")
        if question.compare.count(":") != 1 or not all(question.compare.split(":")):
            faults.append(f"{where}: compare = '{question.compare}' is not understood: expected 'A:B'")
        if ("*" in question.compare) != bool(question.rows):
            faults.append(f"{where}: give rows if compare has a *, and only then")
        if isinstance(question, Question) and question.each and not question.rows:
            faults.append(f"{where}: each = true needs rows")
    return faults


def _unanswerable(suite: Suite) -> list[str]:
    """Return rows of the questions that no block runs."""
    run = {
        (row, dataset, str(Regime.parse(regime)), arch)
        for block in suite.block
        for dataset, regimes in block.regimes.items()
        for row, regime, arch in itertools.product(block.rows, regimes, suite.archs_of(block))
    }
    archs = {block.name: suite.archs_of(block) for block in suite.block}
    asked = [
        (f"question '{question.name}'", row, dataset, regime, arch)
        for question in (*suite.confirm, *suite.questions())
        for sides in question.sides
        for dataset, regimes in suite.regimes_of(question).items()
        for row, regime in zip(sides, regimes, strict=True)
        for arch in archs[question.block]
    ]
    return [f"{who} needs {' '.join(place)}, which no block runs" for who, *place in asked if tuple(place) not in run]


def _listed(name: str, faults: list[str]) -> str:
    return f"the suite {name} cannot be used:\n" + "\n".join(f"  {fault}" for fault in faults)
