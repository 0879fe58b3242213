"""Read records, put them into cells, and pair every cell with its twin.

Nothing is dropped in silence: whatever cannot be read, trusted, or compared becomes a `Problem` with its cause. Every
number is recomputed from the per-image CSVs; the averages in the JSON only serve to check that both belong together.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from qgbench.errors import QGBenchError, UserError
from qgbench.records import Cell, Record, find_records, images_path, read_images, read_record, summarise
from qgbench.stats.crossed import Estimate, estimate, holm

UNIT_COLUMNS = ["id", "group", "height", "width", "n_ref"]
"""What must be equal for two records to have been tested on the same images."""


class Problem(NamedTuple):
    """Something that was not used, and why."""

    where: str
    cause: str


@dataclass(frozen=True)
class Run:
    """A record that was read and checked, with its per-image rows sorted by id."""

    path: Path
    record: Record
    images: pd.DataFrame

    @property
    def seed(self) -> int:
        """Seed index k."""
        return self.record.cell.seed

    @property
    def processes(self) -> int:
        """How many processes shared each batch; batch statistics may be those of a process's part."""
        return self.record.spec.get("processes", 1)

    @property
    def device_class(self) -> str:
        """Kind of device, without its number: 'cpu', 'cuda'."""
        return self.record.device.partition(":")[0]


@dataclass(frozen=True)
class Collection:
    """All records that can be used (at most one for each cell and seed), and what went wrong."""

    runs: list[Run]
    problems: list[Problem]


class Setting(NamedTuple):
    """What all rows of one table share."""

    protocol: str
    protocol_version: int
    dataset: str
    regime: str
    arch: str
    encoder: str

    @classmethod
    def of(cls, cell: Cell) -> "Setting":
        """Take the setting out of a cell."""
        return cls(*(getattr(cell, field) for field in cls._fields))


class Name(NamedTuple):
    """What tells the cells of one setting apart, in the order of the tables: supervised first, then alphabetical."""

    method: str
    variant: str
    addon: str

    @classmethod
    def of(cls, cell: Cell) -> "Name":
        """Take the name out of a cell."""
        return cls(cell.method, cell.variant, cell.addon)

    def __str__(self) -> str:
        addon = f" + {self.addon}" if self.addon else ""
        return self.method + (f" ({self.variant})" if self.variant else "") + addon

    @property
    def order(self) -> tuple[bool, str, str, str]:
        """Sort key."""
        return (self.method != "supervised", *self)


@dataclass(frozen=True)
class Scores:
    """Averages of a cell, or the difference of two (add-on minus base). Dice in [0, 1]."""

    seeds: list[int]
    images: int
    dice: Estimate
    """Mean over test groups and seeds of a group's mean Dice, from the crossed model."""
    image_dice: float
    hd95: float
    """Pixels of the original image; images with an empty mask count with their diagonal."""
    hd95_percent: float
    missed: float
    """Images with a lesion of which nothing was predicted, for each seed."""


@dataclass(frozen=True)
class Row:
    """A method with one add-on (or, where none was run, alone), compared over the seeds that both have."""

    name: Name
    base: Scores | None
    addon: Scores | None
    difference: Scores | None
    refused: str
    """Why the two may not be compared; empty if they may, or if one is missing."""
    holm_p: float | None
    """The difference's p-value, Holm-adjusted for all differences of the table that have one."""


@dataclass(frozen=True)
class Section:
    """Everything about one setting."""

    setting: Setting
    runs: list[Run]
    cells: dict[Name, Scores]
    rows: list[Row]
    problems: list[Problem]


def collect(folders: Sequence[Path]) -> Collection:
    """Read every record under some folders.

    Parameters
    ----------
    folders : sequence of Path
        Runs (``record.json`` + ``images.csv``) or submitted results (``seed<k>.json`` + ``seed<k>.csv``), at any depth.

    Raises
    ------
    UserError
        A folder does not exist, or there is no record file in any of them.
    """
    if absent := [str(folder) for folder in folders if not folder.is_dir()]:
        raise UserError(f"no folder {', '.join(absent)}. Give the folders that hold runs or submitted results.")
    paths = {path.resolve(): path for folder in folders for path in find_records(folder)}
    if not paths:
        raise UserError(
            f"no records under {', '.join(map(str, folders)) or 'no folder'}: expected record.json of finished runs or "
            "seed<k>.json of submitted results. Finish a run with `qgbench run` and give the folder that holds it."
        )
    runs, problems = [], []
    for path in paths.values():
        try:
            runs.append(_read(path))
        except QGBenchError as error:
            problems.append(Problem(str(path), str(error)))
    unique, repeated = _without_repeats(runs)
    return Collection(unique, problems + repeated)


def _read(path: Path) -> Run:
    """Read one record and its CSV, and check that they belong together."""
    record = read_record(path)
    images = read_images(images_path(path))
    table = images_path(path).name
    if images.empty or images[["id", "group", "status", "dice"]].isna().any(axis=None):
        raise QGBenchError(f"{table} has no rows, or a row without id, group, status or Dice")
    if images["id"].duplicated().any():
        raise QGBenchError(f"{table} has two rows for image {images.loc[images['id'].duplicated(), 'id'].iloc[0]}")
    try:
        recomputed = summarise(images).model_dump()
    except (TypeError, ValueError) as error:
        raise QGBenchError(f"{table} has a cell that is not a number: {error}") from error
    stored = record.summary.model_dump()
    for name, value in recomputed.items():
        if not math.isclose(value, stored[name], rel_tol=1e-9, abs_tol=1e-9):
            raise QGBenchError(
                f"{table} gives {name} = {value:.6g}, the record says {stored[name]:.6g}: one of the two was changed"
            )
    return Run(path, record, images.sort_values("id", ignore_index=True))


def _without_repeats(runs: list[Run]) -> tuple[list[Run], list[Problem]]:
    """Keep one of equal records of a cell and seed, none of unequal ones."""
    by_cell: dict[Cell, list[Run]] = defaultdict(list)
    for run in runs:
        by_cell[run.record.cell].append(run)
    unique, problems = [], []
    for same in by_cell.values():
        first, *others = same
        differing = [run for run in others if run.record != first.record or not run.images.equals(first.images)]
        if differing:
            paths = ", ".join(str(run.path) for run in others)
            cause = f"another record of the same cell and seed, with other content: {paths}; none of them is used"
            problems.append(Problem(str(first.path), cause))
        else:
            unique.append(first)
            problems += [Problem(str(run.path), f"a copy of {first.path}, used once") for run in others]
    return unique, problems


def compare(collection: Collection) -> list[Section]:
    """Group records by setting and compare each cell with an add-on to its twin without.

    Twins agree in everything but the add-on. They are compared over the seeds that both have, and only if each pair has
    the same test images, precision and device class.

    Returns
    -------
    list of Section
        Sorted by protocol, version, data set, regime, architecture, encoder.
    """
    by_setting: dict[Setting, list[Run]] = defaultdict(list)
    for run in collection.runs:
        by_setting[Setting.of(run.record.cell)].append(run)
    return [_section(setting, by_setting[setting]) for setting in sorted(by_setting)]


def _section(setting: Setting, runs: list[Run]) -> Section:
    by_name: dict[Name, dict[int, Run]] = defaultdict(dict)
    for run in sorted(runs, key=lambda run: run.seed):
        by_name[Name.of(run.record.cell)][run.seed] = run
    problems: list[Problem] = []
    usable: dict[Name, dict[int, Run]] = {}
    for name, by_seed in by_name.items():
        if _units_differ(list(by_seed.values())):
            cause = f"refused: seeds {_listed(sorted(by_seed))} were tested on different images"
            problems.append(Problem(str(name), cause))
        else:
            usable[name] = by_seed

    rows = []
    for method, variant in {(name.method, name.variant) for name in by_name}:
        alone = Name(method, variant, "")
        addons = [name for name in by_name if name.addon and alone == name._replace(addon="")]
        rows += [_row(name, usable.get(alone, {}), usable.get(name, {}), problems) for name in addons]
        if not addons:
            rows.append(_row(alone, usable.get(alone, {}), {}, problems))
    rows.sort(key=lambda row: row.name.order)
    return Section(
        setting=setting,
        runs=runs,
        cells={name: _scores(list(usable[name].values())) for name in sorted(usable, key=lambda name: name.order)},
        rows=_adjusted(rows),
        problems=sorted(problems),
    )


def _row(name: Name, base: dict[int, Run], addon: dict[int, Run], problems: list[Problem]) -> Row:
    """Compare two cells, each a run by seed, either of which may be empty; append what was left out to `problems`."""
    lacking = [which for which, runs in (("without", base), ("with", addon)) if not runs]
    missing = f"no usable record {' or '.join(lacking)} an add-on" if lacking else ""
    common = sorted(base.keys() & addon.keys())
    refused = "" if missing else _refusal([(base[seed], addon[seed]) for seed in common])
    for cause in (missing, refused and f"refused: {refused}"):
        if cause:
            problems.append(Problem(str(name), cause))
    if missing or refused:
        return Row(
            name=name,
            base=_scores(list(base.values())) if base else None,
            addon=_scores(list(addon.values())) if addon else None,
            difference=None,
            refused=refused,
            holm_p=None,
        )
    for only, which in ((base.keys() - addon.keys(), "without"), (addon.keys() - base.keys(), "with")):
        if only:
            problems.append(Problem(str(name), f"seeds {_listed(sorted(only))} only {which} the add-on: left out"))
    with_addon, without = [addon[seed] for seed in common], [base[seed] for seed in common]
    return Row(name, _scores(without), _scores(with_addon), _scores(with_addon, without), refused="", holm_p=None)


def _refusal(pairs: list[tuple[Run, Run]]) -> str:
    """Say why runs may not be compared; empty if they may."""
    if not pairs:
        return "the two have no seed in common"
    for base, addon in pairs:
        for what, one, other in (
            ("precision", base.record.precision, addon.record.precision),
            ("device class", base.device_class, addon.device_class),
            ("number of processes", base.processes, addon.processes),
        ):
            if one != other:
                return f"{what} differs at seed {base.seed}: {one} without the add-on, {other} with"
    if _units_differ([run for pair in pairs for run in pair]):
        return "the test images differ"
    return ""


def _units_differ(runs: list[Run]) -> bool:
    return any(not run.images[UNIT_COLUMNS].equals(runs[0].images[UNIT_COLUMNS]) for run in runs[1:])


def _scores(runs: list[Run], minus: list[Run] | None = None) -> Scores:
    """Average the runs of a cell, one a seed, or their differences from the twins in `minus`, in the same order."""

    def averages(runs: list[Run]) -> tuple[np.ndarray, np.ndarray]:
        by_group = np.column_stack([run.images.groupby("group")["dice"].mean() for run in runs])
        summaries = [summarise(run.images) for run in runs]
        return by_group, np.mean([(s.dice, s.hd95, s.hd95_percent, s.missed) for s in summaries], axis=0)

    by_group, means = averages(runs)
    if minus is not None:
        base_by_group, base_means = averages(minus)
        by_group, means = by_group - base_by_group, means - base_means
    seeds = [run.seed for run in runs]
    return Scores(seeds, len(runs[0].images), estimate(by_group), *(float(mean) for mean in means))


def _adjusted(rows: list[Row]) -> list[Row]:
    """Fill in the Holm-adjusted p-values."""
    differences = {row.name: row.difference.dice for row in rows if row.difference is not None}
    p_values = {name: difference.p for name, difference in differences.items() if difference.p is not None}
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    return [replace(row, holm_p=adjusted.get(row.name)) for row in rows]


def _listed(seeds: list[int]) -> str:
    return ", ".join(map(str, seeds))
