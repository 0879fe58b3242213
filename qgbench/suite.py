"""Suites: what is run, and the statistical questions asked of it, declared beforehand. Imports no torch.

A suite is a TOML file, one of those that ship (``suites/``) or one's own:

- ``name``, ``about``, ``protocol``; ``threads``, if not the protocol's;
- ``[rows.NAME]``: a ``method`` with settings (``set``). A method as it is needs no row: its own name will do;
- ``[[block]]``: ``rows`` x ``regimes`` (by data set) x ``archs`` x ``seeds``, with settings for all (``set``) and
  settings that are varied (``vary``: every combination). Blocks come in the order of their importance. A row's name
  takes an add-on as the leaderboard writes it: ``fixmatch``, ``fixmatch+qw``, ``fixmatch+qw-oracle``;
- ``[primary]``: the one question; ``[secondary]``: the family of all others, under Holm.
"""

import itertools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from qgbench.errors import UserError, unknown_name
from qgbench.spec import SCORES, QGMode, Regime, RunSpec, Score, Settings, is_setting, load_protocol, protocol_names

_ADDON = re.compile(
    rf"(?P<name>[^+]+)(?:\+(?P<addon>qw\+qar|qw|qar)(?:-(?P<score>{'|'.join(SCORES[1:])}))?(?P<norm>-unnormalised)?)?"
)
_MODES: Mapping[str | None, QGMode] = {None: "none", "qw": "qw", "qar": "qar", "qw+qar": "both"}
_OF_ADDON = ("qg.", "quality.")


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


class Primary(Settings):
    """The one question of a suite: an add-on's difference, averaged over rows and archs, then over data sets."""

    question: str
    addon: str = Field(description="'qw', 'qar', ...: compared with the same rows without it")
    rows: tuple[str, ...] = Field(min_length=1)
    regimes: dict[str, str] = Field(min_length=1, description="one for each data set")
    archs: tuple[str, ...] = Field((), description="the protocol's if empty")
    metric: str = "dice"


class Secondary(Settings):
    """All other questions: every pair of twins, and what is named here; one family, under Holm."""

    question: str
    contrasts: tuple[str, ...] = Field((), description="'A:B', as `qgbench report --contrast` takes them")


@dataclass(frozen=True)
class Entry:
    """One run that a suite asks for, before anything is known of the machine that carries it out."""

    block: str
    row: str  # as the block names it
    protocol: str
    dataset: str
    regime: str
    method: str
    arch: str
    seed: int
    qg_mode: QGMode
    qg_score: Score
    qg_norm: str
    overrides: Mapping[str, Any]

    @cached_property
    def place(self) -> tuple[str, ...]:
        """Protocol, data set, regime, arch, method, add-on, variant and seed: what a record of this run says.

        Known without torch: device, threads and encoder, which only this or another machine decides, are no part of it.
        """
        known = load_protocol(self.protocol)
        spec = RunSpec.model_validate(
            {
                **{name: getattr(self, name) for name in ("protocol", "dataset", "regime", "method", "arch", "seed")},
                **{name: getattr(self, name) for name in ("qg_mode", "qg_score", "qg_norm")},
                "overrides": dict(self.overrides),
                "encoder": known.encoder,
                "precision": known.precision,
                "device": "cpu",
                "threads": known.threads,
            }
        )
        where = (spec.protocol, spec.dataset, spec.regime, spec.arch, spec.method, spec.addon, spec.variant)
        return (*where, str(self.seed))


class Suite(Settings):
    """A declared set of runs and questions (module docstring)."""

    name: str = Field(pattern=r"^[\w-]+$")
    about: str
    protocol: str
    threads: int | None = Field(None, ge=1, description="processor threads of every run; the protocol's if not given")
    rows: dict[str, Row] = Field(default_factory=dict)
    block: tuple[Block, ...] = Field(min_length=1)
    primary: Primary
    secondary: Secondary

    def entries(self) -> list[Entry]:
        """List the runs in the order in which they matter: by block, then seed, data set, regime, arch, row.

        A run that several blocks ask for is listed once, in the first.

        Raises
        ------
        UserError
            A row's name is not understood, or the protocol is unknown.
        """
        found: dict[tuple[str, ...], Entry] = {}
        for block in self.block:
            places = ((seed, dataset) for seed in block.seeds for dataset in block.regimes)
            for seed, dataset in places:
                for regime, arch in itertools.product(block.regimes[dataset], self.archs_of(block)):
                    for row in block.rows:
                        for entry in self._entries(block, row, dataset, regime, arch, seed):
                            found.setdefault(entry.place, entry)
        return list(found.values())

    def archs_of(self, part: Block | Primary) -> tuple[str, ...]:
        """The architectures of a block or of the primary question."""
        return part.archs or (load_protocol(self.protocol).arch,)

    def _entries(self, block: Block, row: str, dataset: str, regime: str, arch: str, seed: int) -> list[Entry]:
        name, mode, score, norm = parse_row(row)
        declared = self.rows.get(name, Row(method=name))
        combinations = [
            dict(zip(block.vary, values, strict=True)) for values in itertools.product(*block.vary.values())
        ]
        return [
            Entry(
                block=block.name,
                row=row,
                protocol=self.protocol,
                dataset=dataset,
                regime=str(Regime.parse(regime)),
                method=declared.method,
                arch=arch,
                seed=seed,
                qg_mode=mode,
                qg_score=score,
                qg_norm=norm,
                overrides={
                    key: value
                    for key, value in (declared.set | block.set | varied).items()
                    if mode != "none" or not key.startswith(_OF_ADDON)
                },
            )
            for varied in combinations
        ]


def parse_row(row: str) -> tuple[str, QGMode, Score, str]:
    """Split ``fixmatch+qw-oracle`` into row name, mode, score and norm of the add-on.

    Raises
    ------
    UserError
        The text is not of that form.
    """
    found = _ADDON.fullmatch(row)
    if found is None:
        raise UserError(
            f"row '{row}' is not understood: expected NAME, NAME+qw, NAME+qar or NAME+qw+qar, a control as "
            f"NAME+qw-SCORE with one of {', '.join(SCORES[1:])}, and -unnormalised for --qg-norm none."
        )
    score: Any = found["score"] or "g"
    return found["name"], _MODES[found["addon"]], score, "none" if found["norm"] else "weighted"


def suite_names() -> list[str]:
    """List the suites that ship with qgbench."""
    folder = resources.files("qgbench.suites")
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))


def load_suite(name: str) -> Suite:
    """Read a suite: one that ships, by its name, or a file.

    Parameters
    ----------
    name : str
        ``small``, or the path of a ``.toml`` file.

    Raises
    ------
    UserError
        There is no such suite or file, it is not TOML, or it breaks the form; every fault of the form is listed.
    """
    if name.endswith(".toml"):
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read the suite {name}: {error}. Shipped: {', '.join(suite_names())}.") from error
    elif name in suite_names():
        text = (resources.files("qgbench.suites") / f"{name}.toml").read_text(encoding="utf-8")
    else:
        raise unknown_name("suite", name, suite_names())
    try:
        suite = Suite.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"the suite {name} is not TOML: {error}.") from error
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise UserError(_listed(name, faults)) from error
    if faults := _inconsistencies(suite):
        raise UserError(_listed(name, faults))
    return suite


def _inconsistencies(suite: Suite) -> list[str]:
    """What can be found wrong in a suite by itself."""
    faults = (
        [] if suite.protocol in protocol_names() else [str(unknown_name("protocol", suite.protocol, protocol_names()))]
    )
    names = [block.name for block in suite.block]
    faults += [
        f"block '{name}' is there {names.count(name)} times" for name in dict.fromkeys(names) if names.count(name) > 1
    ]
    rows = {row for block in suite.block for row in block.rows} | set(suite.primary.rows)
    regimes = {regime for block in suite.block for regimes in block.regimes.values() for regime in regimes}
    for parse, texts in ((parse_row, rows), (Regime.parse, regimes | set(suite.primary.regimes.values()))):
        for text in sorted(texts):
            try:
                parse(text)
            except UserError as error:
                faults.append(str(error))
    keys = {key for block in suite.block for key in (*block.set, *block.vary)}
    keys |= {key for row in suite.rows.values() for key in row.set}
    faults += [
        f"setting '{key}' is not understood: expected method.NAME, train.NAME, quality.NAME, qg.NAME or encoder_weights"
        for key in sorted(keys)
        if not is_setting(key)
    ]
    used = {row.partition("+")[0] for block in suite.block for row in block.rows}
    faults += [f"[rows.{name}] is used by no block" for name in suite.rows if name not in used]
    if not faults:
        faults += _unanswerable(suite)
    return list(dict.fromkeys(faults))


def _unanswerable(suite: Suite) -> list[str]:
    """Rows of the primary question that no block runs."""
    run = {(entry.row, entry.dataset, entry.regime, entry.arch) for entry in suite.entries()}
    primary = suite.primary
    asked = (
        (row, dataset, str(Regime.parse(regime)), arch)
        for base in primary.rows
        for row in (base, f"{base}+{primary.addon}")
        for dataset, regime in primary.regimes.items()
        for arch in suite.archs_of(primary)
    )
    return [f"[primary] needs {' '.join(place)}, which no block runs" for place in asked if place not in run]


def _listed(name: str, faults: list[str]) -> str:
    return f"the suite {name} cannot be used:\n" + "\n".join(f"  {fault}" for fault in faults)
