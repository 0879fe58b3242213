"""Read records and check each; nothing is dropped in silence.

Whatever cannot be read or trusted becomes a `Problem` with its cause. Every average of a report is recomputed from the
per-image CSVs; the averages in the JSON only serve to check that both belong together.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qgbench.base.cores import on_all_cores
from qgbench.base.errors import QGBenchError, UserError
from qgbench.base.paths import no_folder
from qgbench.base.schema import not_finite
from qgbench.metrics.table import (
    DISTANCE_COLUMNS,
    METRICS,
    MISSED,
    ONE_EMPTY,
    TEXT_COLUMNS,
    VOLUME_COLUMNS,
    Metric,
    are_volumes,
    diagonals,
    filled,
    image_columns,
)
from qgbench.quality.audit import CheckpointAudit, audits_of
from qgbench.run.record import (
    Record,
    find_records,
    images_path,
    labels_path,
    read_images,
    read_labels,
    read_record,
    summarise,
)
from qgbench.spec.run_spec import Cell
from qgbench.trust.claims import CLAIMS_NAME, Claim, read_claims
from qgbench.trust.reproduce import Reproduction, reproduction_of

_WORTH_A_PROCESS = 1000  # records
_CHUNK = 50
_MAY_BE_EMPTY = [*DISTANCE_COLUMNS, "q", "confidence"]


class Problem(NamedTuple):
    """Something that was not used, and why."""

    where: str
    cause: str


@dataclass(frozen=True, eq=False)
class Units:
    """The test images or volumes of a run, sorted by id; one object for all runs that were tested on the same.

    Attributes
    ----------
    ids : list of str
    groups : list of str
        Group of each.
    diagonal : (N,) float
        Of the original image or volume, in the unit of its distances.
    key : bytes
        Equal exactly where ids, groups, classes, sizes and the references' areas by class are.
    """

    ids: list[str]
    groups: list[str]
    diagonal: NDArray[np.float64]
    key: bytes

    @cached_property
    def group_names(self) -> list[str]:
        """The groups, sorted."""
        return sorted(set(self.groups))

    @cached_property
    def group_sizes(self) -> NDArray[np.intp]:
        """How many units each group has, in the order of `group_names`."""
        return np.bincount(self._group_of, minlength=len(self.group_names))

    @cached_property
    def _group_of(self) -> NDArray[np.intp]:
        place = {name: index for index, name in enumerate(self.group_names)}
        return np.array([place[group] for group in self.groups])

    def by_group(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return averages of values (N,) over the units of each group: (G,), in the order of `group_names`."""
        count = len(self.group_names)
        return np.bincount(self._group_of, values, count) / np.bincount(self._group_of, minlength=count)


@dataclass(frozen=True, eq=False)
class Run:
    """A record that was read and checked, with the values of its units.

    Attributes
    ----------
    path : Path
    record : Record
    units : Units
    values : dict of str to (N,) float
        Each of `METRICS`, `MISSED` and `ONE_EMPTY` by unit, in the order of `units`; distances where a mask is empty
        are the diagonal. Of several classes it is their mean, and those of each class stand under the names that
        `of_class` gives: ``dice:liver``.
    content : bytes
        Equal for records with the same rows.
    rerun : Reproduction or None
        What the last rerun of the record found; None where nobody repeated it.
    rerun_fault : str
        Why that is not known, where a file of reruns is there; else empty.
    audits_by_class : dict of str to list of CheckpointAudit
        As `Record.pseudo_labels`, of each class; empty where there is one, or no pseudo-label was kept.
    """

    path: Path
    record: Record
    units: Units
    values: dict[str, NDArray[np.float64]]
    content: bytes
    rerun: Reproduction | None = None
    rerun_fault: str = ""
    audits_by_class: dict[str, list[CheckpointAudit]] = field(default_factory=dict)

    @property
    def disputed(self) -> bool:
        """Whether the record's last rerun disagrees with it."""
        return self.rerun is not None and self.rerun.verdict == "disagrees"

    @property
    def seed(self) -> int:
        """Seed index k."""
        return self.record.spec.seed

    @property
    def processes(self) -> int:
        """How many processes shared each batch; batch statistics may be those of a process's part."""
        return self.record.spec.processes

    @property
    def device_class(self) -> str:
        """Kind of device, without its number: 'cpu', 'cuda'."""
        return self.record.spec.device


def of_class(metric: Metric, name: str) -> Metric:
    """Return a metric of one class, as reports call it: ``dice:liver``, 'Dice of liver'."""
    return metric.model_copy(update={"name": f"{metric.name}:{name}", "label": f"{metric.label} of {name}"})


def noun_of(runs: Iterable[Run]) -> str:
    """Return what is measured one by one in some records: 'image', or 'volume' where any has them."""
    return max((run.record.noun for run in runs), default="image")  # volume is the later word


DISTANCE_WORDS = {"px": "px", "mm": "mm", "voxel": "voxels"}
"""Units of records' distances, as people read them."""


def in_unit_of(what: Metric, runs: Iterable[Run]) -> Metric:
    """Return a metric in the unit that distances have in some records, of a distance in 'mm / px' where they differ."""
    units = sorted({run.record.distance_unit for run in runs})
    if units in ([], ["px"]):
        return what
    if what.unit == "px":
        return what.model_copy(update={"unit": " / ".join(DISTANCE_WORDS[unit] for unit in units)})
    label = what.label.replace("2 px", "2 px / voxels" if "px" in units else "2 voxels")  # NSD's tolerance
    return what.model_copy(update={"label": label})


@dataclass(frozen=True)
class Collection:
    """All records that can be used (at most one for each cell and seed), what went wrong, and what papers claim."""

    runs: list[Run]
    problems: list[Problem]
    claims: list[Claim] = field(default_factory=list)


def collect(folders: Sequence[Path]) -> Collection:
    """Read every record under some folders.

    Parameters
    ----------
    folders : sequence of Path
        Runs (``record.json`` + ``images.csv``) or submitted results (``seed<k>.json`` + ``seed<k>.csv``), at any depth;
        claims of papers in ``claims/``.

    Raises
    ------
    UserError
        A folder does not exist, or there is no record file in any of them.
    """
    if absent := [no_folder(folder) for folder in folders if not folder.is_dir()]:
        raise UserError(f"{'; '.join(absent)}. Give the folders that hold runs or submitted results.")
    paths = {path.resolve(): path for folder in folders for path in find_records(folder)}
    if not paths:
        raise UserError(
            f"no records under {', '.join(map(str, folders)) or 'no folder'}: expected record.json of finished runs or "
            "seed<k>.json of submitted results. Finish a run with `qgbench run` and give the folder that holds it."
        )
    runs, problems = [], []
    known: dict[bytes, Units] = {}
    for found in on_all_cores(_read_or_say, list(paths.values()), _WORTH_A_PROCESS, _CHUNK):
        if isinstance(found, Problem):
            problems.append(found)
        else:
            runs.append(replace(found, units=known.setdefault(found.units.key, found.units)))
            problems += [Problem(str(found.path), found.rerun_fault)] if found.rerun_fault else []
    present, former = _without_former_g(runs)
    unique, repeated = _without_repeats(present)
    claims: list[Claim] = []
    for folder in folders:
        try:
            claims += read_claims(folder / CLAIMS_NAME)
        except UserError as error:
            problems.append(Problem(str(folder / CLAIMS_NAME), str(error)))
    return Collection(unique, problems + former + repeated, claims)


def _read_or_say(path: Path) -> Run | Problem:
    try:
        run = _read(path)
    except QGBenchError as error:
        return Problem(str(path), str(error))
    try:
        return replace(run, rerun=reproduction_of(path))
    except QGBenchError as error:  # the record is good all the same
        return replace(run, rerun_fault=str(error))


def _read(path: Path) -> Run:
    """Read one record and its CSV, and check that they belong together."""
    record = read_record(path)
    if where := next(not_finite(record.model_dump()), ""):
        raise QGBenchError(f"{path.name} has no number for {where}, but NaN or infinity")
    images = read_images(images_path(path), record.metrics)
    file = images_path(path).name
    metrics = {**METRICS, **record.metrics}
    may_be_empty = [*_MAY_BE_EMPTY, *(name for name, metric in record.metrics.items() if metric.is_distance)]
    volumes = are_volumes(images.columns)
    names = [name for name in (*image_columns(volumes), *record.metrics) if name not in TEXT_COLUMNS]
    numbers = _checked_numbers(images, names, may_be_empty, file, record.noun)
    rows = _rows_by_unit(images, record, file)
    recomputed, stored = (summary.numbers() for summary in (summarise(images, record.metrics.values()), record.summary))
    for name, value in recomputed.items():
        said = stored.get(name, math.nan)
        if not math.isclose(value, said, rel_tol=1e-9, abs_tol=1e-9):
            raise QGBenchError(
                f"{file} gives {name} = {value:.6g}, the record says {said:.6g}: one of the two was changed"
            )
    ids, groups = ([column[row] for row in rows[:, 0]] for column in (images["id"].tolist(), images["group"].tolist()))
    columns = dict(zip(names, numbers[rows.ravel()].T, strict=True))
    sides = ["height", "width", *(VOLUME_COLUMNS if volumes else [])]
    sizes = np.array([columns[name] for name in (*sides, "n_ref")])
    told = "\0".join([*ids, *groups, *record.classes, record.distance_unit])
    key = hashlib.sha256(told.encode() + sizes.tobytes()).digest()
    units = Units(ids, groups, diagonals(columns)[:: len(record.classes)], key)
    measured = [columns[name] for name in metrics if name in columns]
    content = hashlib.sha256(key + np.array(measured).tobytes()).digest()
    missed = ((columns["n_ref"] > 0) & (columns["n_pred"] == 0)).astype(float)
    one_empty = ((columns["n_ref"] > 0) != (columns["n_pred"] > 0)).astype(float)
    whole = {**filled(columns, metrics.values()), MISSED.name: missed, ONE_EMPTY.name: one_empty}
    values = _by_unit(whole, record.classes)
    return Run(path, record, units, values, content, audits_by_class=_audits_by_class(path, record))


def _by_unit(values: dict[str, NDArray[np.float64]], classes: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """Return values (N K,) as means over the classes of each unit (N,), and of several classes as those of each."""
    tables = {name: column.reshape(-1, len(classes)) for name, column in values.items()}
    found = {name: table.mean(axis=1) for name, table in tables.items()}
    if len(classes) > 1:
        found |= {
            f"{name}:{one}": table[:, place] for name, table in tables.items() for place, one in enumerate(classes)
        }
    return found


def _audits_by_class(path: Path, record: Record) -> dict[str, list[CheckpointAudit]]:
    if len(record.classes) == 1 or not (file := labels_path(path)).is_file():
        return {}
    labels = read_labels(file)
    try:
        return {name: audits_of(labels[labels["class"] == name]) for name in record.classes}
    except ValueError as error:
        raise QGBenchError(f"{file.name} has a value that no score or Dice can have: {error}") from error


def _checked_numbers(
    images: pd.DataFrame, names: list[str], may_be_empty: list[str], file: str, noun: str
) -> NDArray[np.float64]:
    """Return the columns of numbers (N, names); refuse rows of which no average can be taken, by the unit's name."""
    if images.empty or any(images[name].hasnans for name in TEXT_COLUMNS):
        raise QGBenchError(f"{file} has no rows, or a row without {', '.join(TEXT_COLUMNS)}")
    try:
        numbers = images[names].to_numpy(float)
    except (TypeError, ValueError) as error:
        raise QGBenchError(f"{file} has a cell that is not a number: {error}") from error
    lacking = ~np.isfinite(numbers) & ~(np.isnan(numbers) & np.isin(names, may_be_empty))
    if lacking.any():
        row, column = np.argwhere(lacking)[0]
        raise QGBenchError(f"{file} has no finite {names[column]} for {noun} {images['id'].iloc[row]}")
    return numbers


def _rows_by_unit(images: pd.DataFrame, record: Record, file: str) -> NDArray[np.intp]:
    """Return the rows of each unit, sorted by id, and class, in the record's order: (N, K); refuse what is not so."""
    classes, noun = record.classes, record.noun
    ids, named = images["id"].tolist(), images["class"].tolist()
    rows = {each: row for row, each in enumerate(zip(ids, named, strict=True))}
    whole = [[(id, name) for name in classes] for id in sorted(set(ids))]
    if len(rows) < len(ids):
        raise QGBenchError(
            f"{file} has two rows for {noun} {images.loc[images.duplicated(['id', 'class']), 'id'].iloc[0]}"
        )
    if odd := rows.keys() ^ {each for unit in whole for each in unit}:
        raise QGBenchError(f"{file}: {noun} {min(odd)[0]} has not one row for each of {', '.join(classes)}")
    found = np.array([[rows[each] for each in unit] for unit in whole])
    for name in ("group", "height", "width", *(VOLUME_COLUMNS if are_volumes(images.columns) else [])):
        values = images[name].to_numpy()[found]
        if (differs := (values != values[:, :1]).any(axis=1)).any():
            raise QGBenchError(
                f"{file} gives classes of {noun} {whole[int(differs.argmax())][0][0]} each its own {name}"
            )
    return found


def _without_former_g(runs: list[Run]) -> tuple[list[Run], list[Problem]]:
    """Return the runs that no g guides, or one of the newest version that the records of their protocol know."""
    newest: dict[tuple[str, int], int] = defaultdict(int)
    for run in runs:
        newest[_protocol(run)] = max(newest[_protocol(run)], run.record.g_version or 0)
    present, problems = [], []
    for run in runs:
        if run.record.g_version in (None, newest[_protocol(run)]):
            present.append(run)
        else:
            cause = (
                f"guided by a g of version {run.record.g_version}, others here by {newest[_protocol(run)]}; run it anew"
            )
            problems.append(Problem(str(run.path), cause))
    return present, problems


def _protocol(run: Run) -> tuple[str, int]:
    return run.record.spec.protocol, run.record.spec.protocol_version


def _without_repeats(runs: list[Run]) -> tuple[list[Run], list[Problem]]:
    """Return one of equal records of a cell and seed, none of unequal ones."""
    by_cell: dict[tuple[Cell, int], list[Run]] = defaultdict(list)
    for run in runs:
        by_cell[run.record.spec.cell, run.seed].append(run)
    unique, problems = [], []
    for same in by_cell.values():
        first, *others = same
        differing = [run for run in others if run.record != first.record or run.content != first.content]
        if differing:
            paths = ", ".join(str(run.path) for run in others)
            cause = f"another record of the same cell and seed, with other content: {paths}; none of them is used"
            problems.append(Problem(str(first.path), cause))
        else:
            unique.append(first)
            problems += [Problem(str(run.path), f"a copy of {first.path}, used once") for run in others]
    return unique, problems
