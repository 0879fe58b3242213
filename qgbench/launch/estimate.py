"""What a suite's jobs take: the median of finished jobs like them, else measured steps, else unknown. Imports no torch.

What was seen on this kind of hardware goes before what was seen elsewhere, which is named.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, Literal

from pydantic import ValidationError

from qgbench.base.errors import QGBenchError, UserError, in_one_line
from qgbench.base.files import write_atomically
from qgbench.base.logs import logger
from qgbench.data.cards import card_names, load_card
from qgbench.engine.here import best_device
from qgbench.launch.job import Job
from qgbench.run.provenance import accelerator, processor
from qgbench.run.record import Record, find_records, read_record
from qgbench.spec.protocol import load_protocol
from qgbench.spec.regime import GIVEN, Regime
from qgbench.spec.run_spec import RunSpec
from qgbench.spec.settings import Settings

MEASURED_NAME = "measured.json"
UNKNOWN = "unknown"
_DECIDE_G = ("protocol", "protocol_version", "device", "precision", "threads")


def work_of(kind: Literal["g", "run"], spec: RunSpec) -> str:
    """Return what decides the time of a job, as JSON: two jobs are *like* each other where it is the same.

    Of a run it is the RunSpec without seed, data set and regime: its steps cost the same on all images, and its
    evaluation is a few per cent of it. Of g it is the part of that which the training of g depends on.
    """
    fields = spec.telling()
    if kind == "g":
        settings = {key: value for key, value in spec.overrides.items() if key.startswith("quality.")}
        version = load_protocol(spec.protocol).g_version
        fields = {name: fields[name] for name in _DECIDE_G} | {"g_version": version, "overrides": settings}
    decisive = {name: value for name, value in fields.items() if name not in ("seed", "dataset", "regime")}
    return json.dumps(decisive, sort_keys=True)


class Measured(Settings):
    """A few timed steps of jobs that are like each other (`work_of`)."""

    work: str
    hardware: str
    """Kind of hardware (`hardware_kind`)."""
    seconds_per_step: float | None = None
    seconds_per_weak_step: float | None = None
    """Of the weak models that g learns from."""
    memory_mib: float | None = None
    """Peak of the process."""
    failure: str = ""
    """Why there are no times."""

    def seconds(self, job: Job) -> float | None:
        """Return what the steps of a job take; None where they were not timed, or their number is not known."""
        protocol = job.spec.resolve()
        if self.seconds_per_step is None:
            return None
        if job.kind == "run":
            return protocol.train.steps * self.seconds_per_step
        labelled, quality = _labelled_images(job.spec), protocol.quality
        if labelled is None or self.seconds_per_weak_step is None:
            return None
        weak_steps = quality.weak_folds * max(quality.weak_epochs) * quality.weak_epoch_steps(labelled)
        return quality.steps * self.seconds_per_step + weak_steps * self.seconds_per_weak_step


class _Measurements(Settings):
    measured: tuple[Measured, ...] = ()


def read_measured(output: Path) -> list[Measured]:
    """Return what was measured for a folder of runs; [] if nothing was or the file is not readable."""
    try:
        return list(_Measurements.model_validate_json((output / MEASURED_NAME).read_bytes()).measured)
    except FileNotFoundError:
        return []
    except (OSError, ValidationError) as error:
        logger.warning(
            "%s cannot be read and is left aside; measure again (%s).", output / MEASURED_NAME, in_one_line(error)
        )
        return []


def write_measured(output: Path, measured: Sequence[Measured]) -> None:
    """Keep measurements where `read_measured` finds them.

    Raises
    ------
    QGBenchError
        The disk is full or the folder cannot be written.
    """
    content = _Measurements(measured=tuple(measured)).model_dump_json(indent=1)
    write_atomically(output / MEASURED_NAME, content.encode())


def hardware_kind(device: str, hardware: Mapping[str, Any]) -> str:
    """Return what times may be compared on: ``AMD EPYC``, ``NVIDIA A100-SXM4-40GB``.

    Parameters
    ----------
    device : str
    hardware : mapping
        As `qgbench.run.provenance.hardware` gives it.
    """
    return str(hardware.get("accelerator" if device == "cuda" else "processor", UNKNOWN))


@dataclass(frozen=True)
class Cost:
    """What a job takes.

    Attributes
    ----------
    seconds : float or None
        Wall-clock on the device it is planned for; None where it is not known.
    memory_mib : float or None
        Peak of its process.
    basis : str
        Where the time comes from, for people.
    elsewhere : bool
        Whether the time was taken on other hardware.
    """

    seconds: float | None
    memory_mib: float | None
    basis: str
    elsewhere: bool = False


@dataclass(frozen=True)
class _Finished:
    work: str
    hardware: str
    seconds: float
    memory_mib: float | None


class Estimates:
    """What jobs will take (module docstring), as folders of runs and of submitted results tell when it is made.

    What cannot be read, or was done by another version of the protocol, is passed over.

    Parameters
    ----------
    folders : sequence of Path
    hardware : mapping, optional
        That jobs are planned for, as `qgbench.run.provenance.hardware` gives it; this machine's if not given.
    """

    def __init__(self, folders: Sequence[Path], hardware: Mapping[str, Any] | None = None) -> None:
        self._finished: dict[str, list[_Finished]] = {}
        for each in _finished(folders):
            self._finished.setdefault(each.work, []).append(each)
        self._measured = [each for folder in folders for each in read_measured(folder)]
        self._given_hardware = hardware
        self._known: dict[str, Cost] = {}

    def of(self, job: Job) -> Cost:
        """Return what a whole job takes."""
        if job.name not in self._known:
            self._known[job.name] = self._estimate(job)
        return self._known[job.name]

    def _estimate(self, job: Job) -> Cost:
        if job.kind == "data":
            return Cost(None, None, f"{UNKNOWN} (preparing data is not timed)")
        work = work_of(job.kind, job.spec)
        finished = self._finished.get(work, [])
        measured = [each for each in self._measured if each.work == work]
        seen: list[_Finished | Measured] = [*finished, *measured]
        memory = max((each.memory_mib for each in seen if each.memory_mib is not None), default=None)
        places = dict.fromkeys(each.hardware for each in seen)
        given, device = self._given_hardware, job.spec.device
        here = _kind_here(device) if given is None else hardware_kind(device, given)
        for place in dict.fromkeys((here, *places)):
            where = "" if place == here else f", on {place}"
            if times := [each.seconds for each in finished if each.hardware == place]:
                return Cost(median(times), memory, f"median of finished jobs like them{where}", place != here)
            steps = [
                seconds for each in measured if each.hardware == place if (seconds := each.seconds(job)) is not None
            ]
            if steps:
                basis = (
                    "measured steps, fewer if g stops early" if job.kind == "g" else "measured steps, evaluation aside"
                )
                return Cost(steps[0], memory, basis + where, place != here)
        failure = next((f"{UNKNOWN} ({each.failure})" for each in measured if each.failure), UNKNOWN)
        return Cost(None, memory, failure)


@cache
def _kind_here(device: str) -> str:
    """Return what `hardware_kind` says of this machine; torch is asked only where a GPU is."""
    if device != "cuda":
        return processor()
    return accelerator() if best_device() == "cuda" else UNKNOWN


def _labelled_images(spec: RunSpec) -> int | None:
    """Return the number of labelled images, by the data set's card and what ships with it; None where only they tell.

    That is so for a share or patients of the user's own data, and for a split of someone else that does not ship.
    """
    images = load_card(spec.dataset).images if spec.dataset in card_names() else None
    regime = Regime.parse(spec.regime)
    given = regime.split.startswith(GIVEN)
    if not given and not regime.patients:
        return regime.budget if images is None else regime.labelled(round(images * spec.resolve().fractions[0]))
    from qgbench.data.acquire.given import read_shipped  # late, as both import pandas
    from qgbench.data.splits import load_split

    with suppress(UserError):  # no split of it is committed
        listed = load_split(spec.dataset, fractions=spec.resolve().fractions)
        split = read_shipped(spec.dataset, regime.split, listed) if given else None
        if split is not None and split.labelled is not None:
            return len(split.labelled)
        if regime.patients:
            return round(len(listed) / listed["group"].nunique() * (regime.budget or 0))
        if split is not None:
            return regime.labelled(int((split.table["split"] == "train").sum()))
    return regime.budget


def _finished(folders: Sequence[Path]) -> Iterator[_Finished]:
    """Yield the runs that have a record, and each g, which several runs share, by the first record that names it."""
    known: set[str] = set()
    for record in (record for folder in folders for record in _records(folder)):
        spec = record.spec
        try:
            versions = record.versions(load_protocol(spec.protocol))
        except QGBenchError as error:
            logger.debug("left aside for estimates: %s: %s", record.run_id, error)
            continue
        if record.run_id in known or any(was != now for _, was, now in versions):  # a submitted one may be a copy
            continue
        known.add(record.run_id)
        times, hardware = record.times, hardware_kind(spec.device, record.provenance.hardware)
        yield _Finished(work_of("run", spec), hardware, times.train + times.evaluate, record.peak_memory_mib)
        if record.provenance.g is not None and record.provenance.g not in known:
            known.add(record.provenance.g)
            yield _Finished(work_of("g", spec), hardware, times.g, None)


def _records(folder: Path) -> Iterator[Record]:
    for path in find_records(folder):
        try:
            if _is_of_former_protocol(path):  # reading it whole, as a record, takes most of the time of all this
                continue
            yield read_record(path)
        except QGBenchError as error:
            logger.debug("left aside for estimates: %s", error)


def _is_of_former_protocol(file: Path) -> bool:
    try:
        match json.loads(file.read_bytes()):
            case {"cell": {"protocol": str(name), "protocol_version": int(version)}}:  # schema 1
                pass
            case {"spec": {"protocol": str(name), "protocol_version": int(version)}}:
                pass
            case _:
                return False
    except (OSError, ValueError):
        return False  # `read_record` says why
    return version != load_protocol(name).version
