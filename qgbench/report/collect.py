"""Read records and check each; nothing is dropped in silence.

Whatever cannot be read or trusted becomes a `Problem` with its cause. Every average of a report is recomputed from the
per-image CSVs; the averages in the JSON only serve to check that both belong together.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Sequence
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
from qgbench.metrics.table import DISTANCE_COLUMNS, IMAGE_COLUMNS, METRICS, TEXT_COLUMNS, filled
from qgbench.run.record import Record, find_records, images_path, read_images, read_record, summarise
from qgbench.spec.run_spec import Cell
from qgbench.trust.claims import CLAIMS_NAME, Claim, read_claims
from qgbench.trust.reproduce import Reproduction, reproduction_of

_WORTH_PROCESSES = 500  # records; a process takes a second to start
_CHUNK = 50
_NUMBERS = [name for name in IMAGE_COLUMNS if name not in TEXT_COLUMNS]
_MAY_BE_EMPTY = [*DISTANCE_COLUMNS, "q", "confidence"]


class Problem(NamedTuple):
    """Something that was not used, and why."""

    where: str
    cause: str


@dataclass(frozen=True, eq=False)
class Units:
    """The test images of a run, sorted by id; one object for all runs that were tested on the same.

    Attributes
    ----------
    ids : list of str
    groups : list of str
        Group of each image.
    diagonal : (N,) float
        Of the original image, pixels.
    key : bytes
        Equal exactly where ids, groups, sizes and reference masks' areas are.
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
    def _group_of(self) -> NDArray[np.intp]:
        place = {name: index for index, name in enumerate(self.group_names)}
        return np.array([place[group] for group in self.groups])

    def by_group(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return averages of values (N,) over the images of each group: (G,), in the order of `group_names`."""
        count = len(self.group_names)
        return np.bincount(self._group_of, values, count) / np.bincount(self._group_of, minlength=count)


@dataclass(frozen=True, eq=False)
class Run:
    """A record that was read and checked, with its per-image values.

    Attributes
    ----------
    path : Path
    record : Record
    units : Units
    values : dict of str to (N,) float
        Each of `METRICS` by image, in the order of `units`; distances of images with an empty mask are the diagonal.
    content : bytes
        Equal for records with the same rows.
    rerun : Reproduction or None
        What the last rerun of the record found; None where nobody repeated it.
    rerun_fault : str
        Why that is not known, where a file of reruns is there; else empty.
    """

    path: Path
    record: Record
    units: Units
    values: dict[str, NDArray[np.float64]]
    content: bytes
    rerun: Reproduction | None = None
    rerun_fault: str = ""

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
    for found in on_all_cores(_read_or_say, list(paths.values()), _WORTH_PROCESSES, _CHUNK):
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
    numbers = _checked_numbers(images, [*_NUMBERS, *record.metrics], may_be_empty, file)
    recomputed, stored = (summary.numbers() for summary in (summarise(images, record.metrics.values()), record.summary))
    for name, value in recomputed.items():
        if not math.isclose(value, stored[name], rel_tol=1e-9, abs_tol=1e-9):
            raise QGBenchError(
                f"{file} gives {name} = {value:.6g}, the record says {stored[name]:.6g}: one of the two was changed"
            )
    ids, group_of = images["id"].tolist(), images["group"].tolist()
    order = sorted(range(len(ids)), key=ids.__getitem__)
    names, groups = [ids[row] for row in order], [group_of[row] for row in order]
    columns = dict(zip([*_NUMBERS, *record.metrics], numbers[order].T, strict=True))
    sizes = np.array([columns[name] for name in ("height", "width", "n_ref")])
    key = hashlib.sha256("\0".join([*names, *groups]).encode() + sizes.tobytes()).digest()
    units = Units(names, groups, np.hypot(sizes[0], sizes[1]), key)
    measured = [columns[name] for name in metrics if name in columns]
    content = hashlib.sha256(key + np.array(measured).tobytes()).digest()
    values = filled(columns, metrics.values())
    return Run(path, record, units, values, content)


def _checked_numbers(images: pd.DataFrame, names: list[str], may_be_empty: list[str], file: str) -> NDArray[np.float64]:
    """Return the columns of numbers (N, names); refuse rows of which no average can be taken, by the image's name."""
    if images.empty or any(images[name].hasnans for name in TEXT_COLUMNS):
        raise QGBenchError(f"{file} has no rows, or a row without {', '.join(TEXT_COLUMNS)}")
    ids = images["id"].tolist()
    if len(set(ids)) < len(ids):
        raise QGBenchError(f"{file} has two rows for image {images.loc[images['id'].duplicated(), 'id'].iloc[0]}")
    try:
        numbers = images[names].to_numpy(float)
    except (TypeError, ValueError) as error:
        raise QGBenchError(f"{file} has a cell that is not a number: {error}") from error
    lacking = ~np.isfinite(numbers) & ~(np.isnan(numbers) & np.isin(names, may_be_empty))
    if lacking.any():
        row, column = np.argwhere(lacking)[0]
        raise QGBenchError(f"{file} has no finite {names[column]} for image {ids[row]}")
    return numbers


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
