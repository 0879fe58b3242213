"""Repeat the run of a record, compare, and mark the record with what came out.

A record can be repeated where the same experiment is possible: the protocol's version and settings, the data, the
split, the labelled images, and the code of a method or architecture that does not ship must be the record's; else it is
refused.

What the rerun is then measured by:

- On a CPU, with the same commit (without changes), packages, processor (its instructions too: those of several kinds
  have one name on rented machines) and starting weights, every number is expected to be the same (docs/explanation/
  repeatability.md). One that is not means a defect, a computation that does not repeat, or a record that was changed.
- Elsewhere the mean Dice may differ by the noise of one training, see `noise_of`.
- Ids, groups, sizes and reference masks' areas of the test images are no result of training and never differ.

What was found is kept beside the record: in ``reproductions.json`` of a run's folder, ``seed<k>.reproductions.json``
among submitted results. Reading these needs no torch; repeating a run does.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal
from typing import Protocol as Structural

import numpy as np
import pandas as pd
import scipy
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qgbench.base.errors import QGBenchError, UserError, unwritable
from qgbench.base.files import write_atomically
from qgbench.base.logs import logger
from qgbench.base.schema import first_fault
from qgbench.metrics.table import VOLUME_COLUMNS, Metric, are_volumes
from qgbench.run.record import (
    RECORD_NAME,
    Provenance,
    Record,
    Summary,
    content_hash,
    images_path,
    read_images,
    read_record,
    settings_that_differ,
    summarise,
)
from qgbench.spec.protocol import Protocol, load_protocol
from qgbench.spec.run_spec import RunSpec
from qgbench.spec.task import Task
from qgbench.trust.manifest import enter

Verdict = Literal["identical", "within noise", "disagrees"]
Role = Literal["experiment", "numbers", "none"]

_MARKS = "reproductions.json"
_ASSUMED_RUN_SD = 0.015
_LEAST_SIBLINGS = 3
_QUANTILE = 0.995  # two-sided: a sound record is called wrong once in a hundred reruns
_NOT_TRAINED = ["id", "class", "group", "height", "width", *VOLUME_COLUMNS, "n_ref"]  # of `image_columns`
_EXACT = 1e-9  # for averages of the same numbers
_DIGITS = 12  # of a hash, in what is printed


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Reproduction(_Part):
    """What one rerun of a record found."""

    created: str = Field(description="when it was compared: UTC, ISO 8601")
    verdict: Verdict
    reason: str = Field(description="why, in a sentence")
    exact_expected: bool = Field(description="every number was expected to be the same")
    differing: dict[str, tuple[str, str]] = Field(
        description="conditions that differ, by name: the record's value, the rerun's"
    )
    images_differing: int = Field(ge=0, description="test images, or volumes, whose Dice differs in any class")
    largest_dice_difference: float = Field(ge=0, description="of one image and class")
    differences: dict[str, float] = Field(description="the rerun's minus the record's, by name of an average")
    noise: float | None = Field(
        description="largest difference of mean Dice that counts as noise; None where exactness was expected"
    )
    git_commit: str | None = Field(description="of the rerun, as in `Provenance`")
    packages: dict[str, str] = Field(description="of the rerun")
    python: str = Field(description="of the rerun")
    hardware: dict[str, Any] = Field(description="of the rerun")
    record: str = Field(description="SHA-256 of the record's JSON and CSVs")
    rerun: str = Field(description="SHA-256 of the rerun's JSON and CSVs")


class _Reproductions(_Part):
    """The schema of the file beside a record."""

    schema_version: Literal[1] = 1
    reproductions: list[Reproduction] = Field(min_length=1, description="oldest first")


@dataclass(frozen=True, eq=False)
class Original:
    """A record that can be repeated.

    Attributes
    ----------
    path : Path
        Its JSON.
    record : Record
    images : DataFrame
        Its rows, columns `qgbench.metrics.table.image_columns`.
    """

    path: Path
    record: Record
    images: pd.DataFrame


@dataclass(frozen=True)
class Condition:
    """One thing that is, or is not, as it was.

    Attributes
    ----------
    name, record, here : str
    same : bool
    role : {'experiment', 'numbers', 'none'}
        What a difference means: another experiment, which is refused; other last bits; nothing.
    """

    name: str
    record: str
    here: str
    same: bool
    role: Role


class MadeWith(Structural):
    """What is known of where numbers come from: packages and hardware, as in `Provenance`."""

    @property
    def packages(self) -> dict[str, str]:
        """Versions by name."""

    @property
    def python(self) -> str:
        """Version."""

    @property
    def hardware(self) -> dict[str, Any]:
        """Processor, system, accelerator."""


@dataclass(frozen=True)
class Noise:
    """How far two trainings of one RunSpec may lie apart.

    Attributes
    ----------
    limit : float
        Of the difference of two mean Dice, share.
    source : str
        Where it comes from, in words.
    """

    limit: float
    source: str


# Marks


def reproductions_path(record_path: Path) -> Path:
    """Return the path of the file of reproductions that belongs to a record file."""
    return record_path.with_name(_MARKS if record_path.name == RECORD_NAME else f"{record_path.stem}.{_MARKS}")


def record_path_of(reproductions: Path) -> Path:
    """Return the path of the record that a file of reproductions belongs to: the inverse of `reproductions_path`."""
    stem = reproductions.name.removesuffix(_MARKS).removesuffix(".")
    return reproductions.with_name(f"{stem}.json" if stem else RECORD_NAME)


def is_of_reproductions(path: Path) -> bool:
    """Return whether a file is one of reproductions, by its name."""
    return path.name.endswith(_MARKS)


def read_reproductions(record_path: Path) -> list[Reproduction]:
    """Return what reruns of a record found.

    Parameters
    ----------
    record_path : Path
        ``record.json`` or ``seed<k>.json``.

    Returns
    -------
    list of Reproduction
        Oldest first; [] without any.

    Raises
    ------
    QGBenchError
        The file is cut off, no file of reproductions, or of another record (one that was there before, or the same one
        before it was changed).
    """
    file = reproductions_path(record_path)
    try:
        found = _Reproductions.model_validate_json(file.read_bytes()).reproductions
    except FileNotFoundError:
        return []
    except OSError as error:
        raise QGBenchError(f"{file} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise QGBenchError(f"{file} is no file of reproductions: {first_fault(error)}") from error
    content = content_hash(record_path)
    if any(reproduction.record != content for reproduction in found):
        raise QGBenchError(f"{file} is of another record, or the record or its rows were changed since; remove it")
    return found


def reproduction_of(record_path: Path) -> Reproduction | None:
    """Return what the last rerun of a record found; None where nobody repeated it.

    Parameters
    ----------
    record_path : Path
        ``record.json`` or ``seed<k>.json``.

    Raises
    ------
    QGBenchError
        As `read_reproductions`.
    """
    found = read_reproductions(record_path)
    return found[-1] if found else None


def mark(record_path: Path, reproduction: Reproduction) -> None:
    """Add what a rerun found to the file beside the record, once for each rerun.

    Processes that mark one record at a time wait for each other.

    Parameters
    ----------
    record_path : Path
        ``record.json`` or ``seed<k>.json``.
    reproduction : Reproduction

    Raises
    ------
    QGBenchError
        The folder cannot be written, the disk is full, or the file that is there cannot be read.
    """
    with _locked(record_path):
        known = read_reproductions(record_path)
        if any(one.rerun == reproduction.rerun for one in known):
            return
        ordered = sorted([*known, reproduction], key=lambda one: one.created)
        content = _Reproductions(reproductions=ordered).model_dump_json(indent=1)
        write_atomically(reproductions_path(record_path), f"{content}\n".encode())
        enter([reproductions_path(record_path)])


@contextmanager
def _locked(record_path: Path) -> Iterator[None]:
    """Lock the record itself: a lock file would stay behind among submitted results."""
    import fcntl  # late: verify and report, which only read, also run where it is missing

    try:
        with record_path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise unwritable(f"beside {record_path}", error, "reproduce a copy of the record") from error


# What is repeated, and under which conditions


def open_original(path: Path) -> Original:
    """Read a record and its rows, and rebuild its RunSpec.

    Parameters
    ----------
    path : Path
        A run's folder, ``record.json``, or ``seed<k>.json`` of submitted results.

    Raises
    ------
    UserError
        There is no whole record; rows or marks do not belong to it; it is of another version of the protocol or of its
        g, of other settings, of another number of processes, or of a method or architecture whose code is not at hand.
    """
    file = path / RECORD_NAME if path.is_dir() else path
    if not file.is_file():
        raise UserError(
            f"there is no record {file}. Give the folder of a finished run, its record.json, or a seed<k>.json of "
            "submitted results."
        )
    try:
        record = read_record(file)
        images = read_images(images_path(file), record.metrics)
        read_reproductions(file)
    except QGBenchError as error:
        raise UserError(f"{error}. It cannot be repeated.") from error
    if not _as_averaged(images, record.summary, record.metrics.values()):
        raise UserError(f"the averages of {file} are not those of {images_path(file).name}; see qgbench verify.")
    for what, version, present in record.versions(load_protocol(record.spec.protocol)):
        if version != present:
            raise UserError(
                f"{file} is {what} version {version}, and this qgbench has version {present}: that would be another "
                f"experiment. Repeat it with the qgbench that made it, {_code(record.provenance)}."
            )
    _refuse_other_code(record.spec)
    _refuse_other_settings(file, record)
    return Original(file.resolve(), record, images)


def _as_averaged(images: pd.DataFrame, stored: Summary, metrics: Iterable[Metric]) -> bool:
    try:
        averages = summarise(images, metrics).numbers()
    except (TypeError, ValueError):  # text where a number belongs
        return False
    said = stored.numbers()
    return all(
        math.isclose(value, said.get(name, math.nan), rel_tol=_EXACT, abs_tol=_EXACT)
        for name, value in averages.items()
    )


def _code(provenance: Provenance) -> str:
    version = provenance.packages.get("qgbench")
    parts = (version and f"version {version}", provenance.git_commit and f"commit {provenance.git_commit}")
    return ", ".join(filter(None, parts)) or "of which nothing more is known"


def _refuse_other_code(spec: RunSpec) -> None:
    from qgbench.engine.here import processes
    from qgbench.plugins.registry import source

    for kind, name, here, expected in (
        ("method", spec.method, source("method", spec.method), spec.source),
        ("architecture", spec.arch, source("arch", spec.arch), spec.arch_source),
    ):
        if here != expected:
            said = [text[:_DIGITS] or "one that ships with qgbench" for text in (here, expected)]
            raise UserError(
                f"the {kind} '{name}' here is {said[0]}, and the record's is {said[1]}: that would be another "
                "experiment. Get the file as it was, and give the command where the record's path leads to it."
            )
    if processes() != spec.processes:
        raise UserError(
            f"the record was made by {spec.processes} process{'' if spec.processes == 1 else 'es'}, and {processes()} "
            f"would repeat it: torchrun --nproc_per_node {spec.processes} -m qgbench reproduce ..."
        )


def _refuse_other_settings(file: Path, record: Record) -> None:
    from qgbench.plugins.registry import load
    from qgbench.run.carry_out import describe
    from qgbench.spec.addons import addon_settings

    spec = record.spec
    method, addons = load("method", spec.method).Settings, [type(own) for own in addon_settings(spec)]
    kinds = {"protocol": [Protocol], "method": [method], "qg": addons}
    if changed := settings_that_differ(record, describe(spec, Task(record.classes))["settings"], kinds):
        listed = ", ".join(f"{name} {was!r} (here {now!r})" for name, (was, now) in changed.items())
        raise UserError(
            f"{file} was made with other settings than its options give here: {listed}. That would be another "
            f"experiment; repeat it with the qgbench that made it, {_code(record.provenance)}."
        )


def compare_conditions(record: Record, now: Provenance) -> list[Condition]:
    """Return what is the same where a record's numbers come from and where a rerun's do, and what is not.

    Parameters
    ----------
    record : Record
        Of the same protocol version, settings, device class, precision, threads and processes.
    now : Provenance
        Of the rerun, or of one that would begin now; its g may not be known yet.
    """
    then = record.provenance

    def condition(name: str, was: Any, is_: Any, role: Role, same: bool | None = None) -> Condition:
        return Condition(name, _shown(was), _shown(is_), was == is_ if same is None else same, role)

    commits = (then.git_commit, now.git_commit)  # two that end in "+dirty" may be of different code
    same_code = commits[0] == commits[1] and not (commits[0] or "").endswith("+dirty")
    given = (
        ("protocol", f"{record.spec.protocol} v{record.spec.protocol_version}"),
        *((name, getattr(record.spec, name)) for name in ("device", "precision", "threads", "processes")),
    )
    found = [condition(name, value, value, "experiment") for name, value in given]
    found += [
        condition("data", then.data, now.data, "experiment"),
        condition("split", then.split, now.split, "experiment"),
        condition("labelled images", then.labelled_ids, now.labelled_ids, "experiment"),
        condition("encoder's weights", then.encoder, now.encoder, "numbers"),
    ]
    if now.g is not None:
        found.append(condition("g", then.g, now.g, "none"))
    found.append(condition("commit", *commits, "numbers", same_code))
    return found + compare_machines(then, now)


def compare_machines(then: MadeWith, now: MadeWith) -> list[Condition]:
    """Return which packages and hardware are the same for two sets of numbers, and which are not."""

    def condition(name: str, was: Any, is_: Any, role: Role) -> Condition:
        return Condition(name, _shown(was), _shown(is_), was == is_, role)

    names = sorted({*then.packages, *now.packages})
    found = [condition(name, then.packages.get(name), now.packages.get(name), "numbers") for name in names]
    found.append(condition("python", then.python, now.python, "none"))
    for name in ("processor", "instructions", "system", "accelerator"):
        if name in then.hardware or name in now.hardware:
            found.append(condition(name, then.hardware.get(name), now.hardware.get(name), "numbers"))
    return found


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"{len(value)}: {sha256(repr(value).encode()).hexdigest()[:_DIGITS]}"
    text = "unknown" if value is None else str(value)
    digest, plus, changes = text.partition("+")
    is_hash = len(digest) >= 40 and all(digit in "0123456789abcdef" for digit in digest)
    return f"{digest[:_DIGITS]}{plus}{changes}" if is_hash else text


def exact_expected(device: str, conditions: Sequence[Condition]) -> bool:
    """Return whether every number of a rerun must be the record's.

    Parameters
    ----------
    device : 'cpu', 'cuda' or 'mps'
    conditions : sequence of Condition
    """
    return device == "cpu" and all(condition.same for condition in conditions if condition.role != "none")


def refuse_another_experiment(conditions: Sequence[Condition]) -> None:
    """Refuse to repeat a record on other data, another split or other labelled images.

    Raises
    ------
    UserError
        Names what differs.
    """
    if other := [condition.name for condition in conditions if condition.role == "experiment" and not condition.same]:
        raise UserError(
            f"another experiment: {', '.join(other)} differ{'s' if len(other) == 1 else ''} from the record's. Point "
            "--data-dir (and --split-from) at the files that it was made with; qgbench data verify checks them."
        )


# What came out


def noise_of(siblings: Sequence[float]) -> Noise:
    """Return how far the mean Dice of two trainings may lie apart before they disagree.

    Two independent runs with standard deviation s differ by less than ``t * sqrt(2) * s`` in 99 of 100 cases, t the
    0.995 quantile of Student's distribution with the degrees of freedom of s (normal where s is assumed). s is the
    standard deviation over other seeds of the record's cell, the record itself left out since it is in question. Seeds
    also differ in their labelled images, which a rerun's do not, so that the limit is generous: a small defect of one
    record may pass. With fewer than 3 other seeds s is taken to be 1.5 Dice points: a trial on CVC-ClinicDB with 48
    labels gave 1.6, and the seeds of a cell in ``results/`` vary by 0.2 to 2.5 points on PH2 and CVC-ClinicDB.

    Parameters
    ----------
    siblings : sequence of float
        Mean Dice of records of the same cell with other seeds, shares.
    """
    number = len(siblings)
    if number < _LEAST_SIBLINGS:
        limit = float(scipy.stats.t.ppf(_QUANTILE, np.inf)) * math.sqrt(2) * _ASSUMED_RUN_SD
        return Noise(limit, f"a run's SD is taken to be {100 * _ASSUMED_RUN_SD:g} points")
    sd = float(np.std(siblings, ddof=1))
    limit = float(scipy.stats.t.ppf(_QUANTILE, number - 1)) * math.sqrt(2) * sd
    return Noise(limit, f"SD {100 * sd:.2f} points over {number} other seeds of the cell")


def sibling_dice(original: Original) -> list[float]:
    """Return the mean Dice of the records beside one that differ from it in nothing but the seed, one for each seed.

    Beside it are the other runs of its folder of runs, or the other seeds of its folder of results. Records that cannot
    be read do not count.
    """
    if original.path.name == RECORD_NAME:
        files = original.path.parent.parent.glob(f"*/{RECORD_NAME}")
    else:
        files = original.path.parent.glob("seed*.json")
    own, found = original.record.spec, dict[int, float]()
    for file in sorted(files):
        try:
            record = read_record(file)
        except QGBenchError:
            continue
        if record.spec.cell == own.cell and record.spec.seed != own.seed:
            found.setdefault(record.spec.seed, record.summary.means["dice"])
    return list(found.values())


def judge(original: Original, rerun_path: Path) -> Reproduction:
    """Return how a rerun compares with its record.

    Parameters
    ----------
    original : Original
    rerun_path : Path
        The rerun's ``record.json``.

    Raises
    ------
    QGBenchError
        The rerun's record cannot be read.
    """
    rerun = read_record(rerun_path)
    rows = read_images(images_path(rerun_path), rerun.metrics)
    if absent := [name for name in original.record.metrics if name not in rerun.metrics]:
        logger.warning("not compared, because no installed package measures it: %s", ", ".join(absent))
    conditions = compare_conditions(original.record, rerun.provenance)
    exact = exact_expected(original.record.spec.device, conditions)
    noise = None if exact else noise_of(sibling_dice(original))
    then = original.record.summary.numbers()
    columns = [name for name in original.images if name in rows]
    first, second = (
        images[columns].sort_values(["id", "class"], ignore_index=True) for images in (original.images, rows)
    )
    differences = {
        name: float(value - then[name])
        for name, value in rerun.summary.numbers().items()
        if name not in ("images", "groups") and name in then
    }
    verdict, reason = _verdict(first, second, differences["dice"], noise)
    both = first.merge(second, on=["id", "class"], suffixes=("_record", "_rerun"))
    dice = (both["dice_rerun"] - both["dice_record"]).abs()
    return Reproduction(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        verdict=verdict,
        reason=reason,
        exact_expected=exact,
        differing={found.name: (found.record, found.here) for found in conditions if not found.same},
        images_differing=both["id"][dice > 0].nunique(),
        largest_dice_difference=float(dice.max()) if len(dice) else 0.0,
        differences=differences,
        noise=None if noise is None else noise.limit,
        git_commit=rerun.provenance.git_commit,
        packages=rerun.provenance.packages,
        python=rerun.provenance.python,
        hardware=rerun.provenance.hardware,
        record=content_hash(original.path),
        rerun=content_hash(rerun_path),
    )


def _verdict(first: pd.DataFrame, second: pd.DataFrame, dice: float, noise: Noise | None) -> tuple[Verdict, str]:
    """Return the verdict over two tables of rows, sorted by id; noise is None where exactness is expected."""
    of_volumes = are_volumes(first.columns)
    noun = "volume" if of_volumes else "image"
    if first.equals(second):
        return "identical", f"every number of every {noun} is the same."
    given = [name for name in _NOT_TRAINED if name not in VOLUME_COLUMNS or of_volumes]
    if not first[given].equals(second[given]):
        return (
            "disagrees",
            f"ids, groups, sizes or reference masks of the test {noun}s differ, which no training changes.",
        )
    if noise is None:
        return "disagrees", (
            "code, packages, processor and weights are the same, and the numbers are not: a defect, a computation that "
            "does not repeat, or a record that was changed."
        )
    found = f"mean Dice differs by {100 * dice:+.2f} points"
    limit = f"{100 * noise.limit:.2f} points in 99 % of cases ({noise.source})"
    if abs(dice) <= noise.limit:
        return "within noise", f"{found}; two trainings differ by less than {limit}."
    return "disagrees", f"{found}; two trainings would differ by less than {limit}."


def reproduce(
    original: Original,
    output: Path,
    data_dir: Path | None = None,
    split_from: Sequence[Path] = (),
) -> Path:
    """Carry out the run of a record anew, g included; an interrupted rerun is continued, a finished one is taken.

    Parameters
    ----------
    original : Original
    output : Path
        Folder of all reruns.
    data_dir, split_from
        As in `qgbench.run.carry_out.run`.

    Returns
    -------
    Path
        The rerun's ``record.json``.

    Raises
    ------
    UserError
        The rerun's folder would be the record's own; what `qgbench.run.carry_out.run` raises.
    QGBenchError, Interrupted
        What `qgbench.run.carry_out.run` raises.
    """
    from qgbench.run.carry_out import run

    if (output / original.record.spec.id).resolve() == original.path.parent:
        raise UserError(f"{output} holds the very run that is to be repeated; choose another --output.")
    outcome = run(original.record.spec, output, data_dir, split_from=split_from)
    if outcome.was_done:
        logger.info(
            "this rerun was finished at %s, and is compared again; remove %s for another one.",
            outcome.record.provenance.created,
            outcome.folder,
        )
    return outcome.folder / RECORD_NAME


# What is printed


def print_conditions(conditions: Sequence[Condition], console: Console) -> None:
    """Print what is the same and what is not."""
    table = Table(title="conditions")
    for title in ("", "record", "here", ""):
        table.add_column(title, overflow="fold")
    words = {"experiment": "[red]another experiment[/red]", "numbers": "[yellow]differs[/yellow]", "none": "differs"}
    for condition in conditions:
        word = "same" if condition.same else words[condition.role]
        if not condition.same and condition.record == condition.here:
            word = "[yellow]may differ[/yellow]"
        table.add_row(condition.name, escape(condition.record), escape(condition.here), word)
    console.print(table)


def print_reproduction(original: Original, reproduction: Reproduction, console: Console) -> None:
    """Print the averages of record and rerun, and the verdict."""
    table = Table(title=f"averages over the test {original.record.noun}s")
    table.add_column("measure")
    for title in ("record", "rerun", "difference"):
        table.add_column(title, justify="right")
    averages = original.record.summary.numbers()
    for name, difference in reproduction.differences.items():
        value = averages[name]
        table.add_row(name, f"{value:.6g}", f"{value + difference:.6g}", f"{difference:+.3g}" if difference else "0")
    console.print(table)
    count, noun = original.record.summary.images, original.record.noun
    console.print(
        f"Dice differs in {reproduction.images_differing} of {count} {noun}s, at most by "
        f"{100 * reproduction.largest_dice_difference:.3g} points. Expected: "
        f"{'identical' if reproduction.exact_expected else 'alike up to noise'}.",
        highlight=False,
    )
    colour = "red" if reproduction.verdict == "disagrees" else "green"
    console.print(f"[bold {colour}]{reproduction.verdict}[/]: {reproduction.reason}", highlight=False)
