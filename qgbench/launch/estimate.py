"""What jobs will take, from what was measured: finished runs, trained predictors, timed steps. Imports no torch.

The time of a run is read off the nearest thing that was measured on the same kind of hardware:

1. runs of the same cell with another seed;
2. runs of the same workload (`RunWork`) on other data: seconds a step carry over, evaluation goes by test images;
3. timed steps of that workload (`qgbench.launch.measure`);
4. other methods in the same surroundings (arch, size, batches, device, ...), times the ratio of the two methods where
   both were seen together;
5. else it is unknown.

Memory goes by the same order, but may come from any hardware of the same device class.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any, Self

from pydantic import ValidationError

from qgbench.base.errors import QGBenchError
from qgbench.base.files import write_atomically
from qgbench.base.logs import logger
from qgbench.data.cards import card_names, load_card
from qgbench.launch.job import JOBS, Job
from qgbench.run.folder import RunFolder
from qgbench.run.record import Record, find_records, read_record
from qgbench.spec.protocol import Protocol, QualitySettings
from qgbench.spec.regime import Regime
from qgbench.spec.run_spec import RunSpec
from qgbench.spec.settings import Settings

MEASURED_NAME = "measured.json"
PREDICTORS = "predictors"
_CARD_NAME = "predictor.json"
_UNKNOWN = "unknown"
_START = 8.0
"""Seconds that a process takes to import and to build its networks (7.6 s of CPU time on an AMD EPYC core)."""
_PER_IMAGE = 0.01
"""Seconds to decode and resize one image of 0.05 megapixels (6 to 10 ms on an AMD EPYC core)."""
_EVALUATED = 2
"""Networks that a run usually evaluates: that of the last step, and the teacher or that of the best validation."""


@dataclass(frozen=True)
class Cost:
    """What a job takes.

    Attributes
    ----------
    seconds : float or None
        Wall-clock of the whole job on the device it is planned for; None where nothing is known.
    memory_mib : float or None
        Peak of its process.
    basis : str
        Where the time comes from, for people.
    elsewhere : bool
        Whether the time was taken on other hardware of the device class.
    """

    seconds: float | None
    memory_mib: float | None
    basis: str
    elsewhere: bool = False


class RunWork(Settings):
    """What decides the time and memory of a run's training step, and nothing else."""

    method: str
    source: str
    method_settings: str
    qg_mode: str
    qg_score: str
    backbone: str
    """Of g; '' where none takes part."""
    arch: str
    arch_source: str
    encoder: str
    decoder_channels: tuple[int, ...]
    size: int
    batch_labelled: int
    batch_unlabelled: int
    device: str
    precision: str
    threads: int
    processes: int

    @classmethod
    def of(cls, spec: Mapping[str, Any], protocol: Mapping[str, Any]) -> Self:
        """Take it from a RunSpec and its resolved protocol, as JSON; a record has both.

        Raises
        ------
        KeyError
            A field is missing.
        """
        needs_g = RunSpec.model_construct(**{name: spec[name] for name in ("qg_mode", "qg_score")}).needs_g
        settings = {key: value for key, value in spec["overrides"].items() if key.startswith("method.")}
        same = ("method", "source", "qg_mode", "arch", "arch_source", "encoder", "device", "precision", "threads")
        return cls(
            **{name: spec[name] for name in (*same, "processes")},
            method_settings=json.dumps(settings, sort_keys=True),
            qg_score=spec["qg_score"] if spec["qg_mode"] in ("qw", "both") else "",
            backbone=protocol["quality"]["backbone"] if needs_g else "",
            decoder_channels=tuple(protocol["decoder_channels"]),
            size=protocol["size"],
            batch_labelled=protocol["train"]["batch_labelled"],
            batch_unlabelled=protocol["train"]["batch_unlabelled"],
        )

    @cached_property
    def what(self) -> tuple[str, ...]:
        """Method and add-on."""
        return (self.method, self.source, self.method_settings, self.qg_mode, self.qg_score, self.backbone)

    @cached_property
    def surroundings(self) -> str:
        """All but method and add-on, as JSON."""
        aside = {"method", "source", "method_settings", "qg_mode", "qg_score", "backbone"}
        return self.model_dump_json(exclude=aside)

    @property
    def words(self) -> str:
        """What it is, for people."""
        score = "" if self.qg_score in ("", "g") else f"-{self.qg_score}"
        addon = {"none": "", "both": "+qw+qar"}.get(self.qg_mode, f"+{self.qg_mode}") + score
        return (
            f"{self.method}{addon}, {self.arch}, {self.size} px, {self.batch_labelled}+{self.batch_unlabelled} images"
        )


class PredictorWork(Settings):
    """What decides the time and memory of the steps of g and its weak models, and nothing else."""

    settings: str
    """`QualitySettings` as JSON, without the number of steps of g."""
    size: int
    device: str
    precision: str
    threads: int

    @classmethod
    def of(cls, spec: Mapping[str, Any], size: int, quality: Mapping[str, Any]) -> Self:
        """Take it from a RunSpec, the images' side in pixels and `QualitySettings`, as JSON."""
        known = QualitySettings.completed(quality)
        settings = {"weak_folds": 1} | {name: value for name, value in known.items() if name != "steps"}
        return cls(
            settings=json.dumps(settings, sort_keys=True),
            size=size,
            **{name: spec[name] for name in ("device", "precision", "threads")},
        )

    @property
    def words(self) -> str:
        """What it is, for people."""
        return f"g, {json.loads(self.settings)['backbone']}, {self.size} px"


class Measured(Settings):
    """A few timed steps of a workload."""

    work: RunWork | PredictorWork
    hardware: str
    """Kind of hardware (`hardware_kind`)."""
    limit: float
    """Seconds that the measurement was given."""
    steps: int = 0
    seconds_per_step: float | None = None
    seconds_per_weak_step: float | None = None
    """Of the weak models that g learns from."""
    seconds_per_image: float | None = None
    """Evaluation of one network on one image, metrics included."""
    peak_memory_mib: float | None = None
    failure: str = ""
    """Why there are no times."""


class _Measurements(Settings):
    measured: tuple[Measured, ...] = ()


def read_measured(output: Path) -> list[Measured]:
    """List what was measured for a folder of runs; [] if nothing was or the file is not readable."""
    try:
        return list(_Measurements.model_validate_json((output / MEASURED_NAME).read_bytes()).measured)
    except FileNotFoundError:
        return []
    except (OSError, ValidationError) as error:
        logger.warning("%s cannot be read and is left aside: %s", output / MEASURED_NAME, error)
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
    """Name what times may be compared on: ``cpu AMD EPYC``, ``cuda NVIDIA A100-SXM4-40GB``.

    Parameters
    ----------
    device : str
    hardware : mapping
        As `qgbench.run.provenance.hardware` gives it.
    """
    return f"{device} {hardware.get('accelerator' if device == 'cuda' else 'processor', 'unknown')}"


@dataclass(frozen=True)
class _Seen:
    """A finished run, or timed steps of one."""

    work: RunWork
    place: tuple[str, str]  # data set, regime
    kind: str  # of hardware
    per_step: float
    evaluate: float
    test_images: int
    memory_mib: float

    @property
    def per_image(self) -> float:
        return self.evaluate / max(1, self.test_images)


@dataclass(frozen=True)
class _Predictor:
    work: PredictorWork
    kind: str
    per_step: float  # whole time divided by the steps of g
    memory_mib: float | None


class Estimates:
    """Estimates of jobs (module docstring); `read` makes it."""

    def __init__(
        self,
        runs: Sequence[_Seen],
        predictors: Sequence[_Predictor],
        measured: Sequence[Measured],
        hardware: Callable[[], Mapping[str, Any]],
    ) -> None:
        self._runs = runs
        self._predictors = predictors
        self._measured = measured
        self._hardware = hardware
        self._known: dict[str, Cost] = {}

    @classmethod
    def read(cls, folders: Sequence[Path], hardware: Mapping[str, Any] | None = None) -> Self:
        """Read what folders of runs, and of submitted results, tell of times.

        What cannot be read is passed over.

        Parameters
        ----------
        folders : sequence of Path
        hardware : mapping, optional
            That jobs are planned for, as `qgbench.run.provenance.hardware` gives it; this machine's if not given. A
            card of a predictor does not name its hardware: it is that of a finished run with this predictor, else this
            one.
        """
        by_id: dict[str, Record] = {}
        for record in (record for folder in folders if folder.is_dir() for record in _records(folder)):
            by_id.setdefault(record.run_id, record)  # a submitted one may be a copy
        records = list(by_id.values())
        here = (lambda: hardware) if hardware is not None else _Here()
        return cls(
            [seen for record in records if (seen := _seen(record)) is not None],
            list(_predictors(folders, records, here)),
            [each for folder in folders for each in read_measured(folder)],
            here,
        )

    def of(self, job: Job) -> Cost:
        """Estimate a whole job."""
        if job.name not in self._known:
            by_kind = {"data": self._of_data, "g": self._of_g, "run": self._of_run}
            self._known[job.name] = by_kind[job.kind](job)
        return self._known[job.name]

    def _of_data(self, job: Job) -> Cost:
        images = load_card(job.source).images if job.source in card_names() else None
        if images is None:
            return Cost(None, None, _UNKNOWN)
        basis = f"{1000 * _PER_IMAGE:.0f} ms an image, as measured at 0.05 megapixels; larger ones take longer"
        return Cost(_START + _PER_IMAGE * images, None, basis)

    def _of_g(self, job: Job) -> Cost:
        """From predictors with the same settings, scaled by steps; then from timed steps, patience left out."""
        spec, protocol = job.spec, job.spec.resolve()
        quality = protocol.quality
        work = PredictorWork.of(spec.model_dump(mode="json"), protocol.size, quality.model_dump(mode="json"))
        same = [each for each in self._predictors if each.work == work]

        def on(kind: str) -> Cost:
            return self._g_on(kind, spec, work, same)

        return self._on_this_hardware_or_other(spec, on)

    def _g_on(self, kind: str, spec: RunSpec, work: PredictorWork, same: Sequence[_Predictor]) -> Cost:
        memory = max((each.memory_mib for each in same if each.memory_mib is not None), default=None)
        quality = spec.resolve().quality
        timed = self._timed(work, kind)
        if memory is None and timed is not None:
            memory = timed.peak_memory_mib
        if rates := [each.per_step for each in same if each.kind == kind]:
            basis = f"measured: {len(rates)} predictor{'s' * (len(rates) > 1)} like it"
            return Cost(_START + median(rates) * quality.steps, memory, basis)
        if timed is None or timed.seconds_per_step is None or timed.seconds_per_weak_step is None:
            return Cost(None, memory, _UNKNOWN if timed is None else timed.failure)
        if (labelled := labelled_images(spec)) is None:
            return Cost(None, memory, "unknown: so is the number of labelled images")
        epoch = max(quality.weak_epoch_min_steps, labelled // quality.weak_batch)
        weak = quality.weak_folds * max(quality.weak_epochs) * epoch * timed.seconds_per_weak_step
        return Cost(_START + weak + quality.steps * timed.seconds_per_step, memory, "measured steps, at most")

    def _of_run(self, job: Job) -> Cost:
        spec, protocol = job.spec, job.spec.resolve()
        work = RunWork.of(spec.model_dump(mode="json"), protocol.model_dump(mode="json"))

        def on(kind: str) -> Cost:
            return self._run_on(kind, spec, protocol, work)

        return self._on_this_hardware_or_other(spec, on)

    def _run_on(self, kind: str, spec: RunSpec, protocol: Protocol, work: RunWork) -> Cost:
        memory, steps = self._memory(work), protocol.train.steps
        alike = [seen for seen in self._runs if seen.work == work and seen.kind == kind]
        here = [seen for seen in alike if seen.place == (spec.dataset, spec.regime)]
        test_images = self._test_images(spec)

        def whole(per_step: float, evaluate: float) -> float:
            return _START + per_step * steps + evaluate

        def evaluation(seen: Sequence[_Seen]) -> float:
            if test_images is None:
                return median(each.evaluate for each in seen)
            return median(each.per_image for each in seen) * test_images

        if here:
            basis = f"measured: {len(here)} run{'s' * (len(here) > 1)} like it"
            return Cost(whole(_rate(here), median(seen.evaluate for seen in here)), memory, basis)
        if alike:
            return Cost(whole(_rate(alike), evaluation(alike)), memory, f"measured on {_sets(alike)}")
        timed = self._timed(work, kind)
        if timed is not None and timed.seconds_per_step is not None and timed.seconds_per_image is not None:
            if test_images is None:
                return Cost(None, memory, "unknown: so is the number of test images")
            _, val, test = protocol.fractions
            images = test_images * (_EVALUATED + protocol.train.validations * val / test)
            return Cost(whole(timed.seconds_per_step, images * timed.seconds_per_image), memory, "measured steps")
        if (scaled := self._scaled(work, kind)) is not None:
            ratio, like = scaled
            basis = f"scaled from {like[0].work.method} on {_sets(like)}"
            return Cost(whole(ratio * _rate(like), evaluation(like)), memory, basis)
        return Cost(None, memory, timed.failure if timed is not None else _UNKNOWN)

    def _on_this_hardware_or_other(self, spec: RunSpec, on: Callable[[str], Cost]) -> Cost:
        """Ask for this kind of hardware; where nothing is known of it, for others. What failed here stays a failure."""
        if not self._kinds:
            return on("")
        here = on(self._kind(spec))
        if here.basis != _UNKNOWN:
            return here
        for kind in self._kinds:
            device, _, name = kind.partition(" ")
            if device == spec.device and (found := on(kind)).seconds is not None:
                return replace(found, basis=f"{found.basis}, on {name}", elsewhere=True)
        return here

    @cached_property
    def _kinds(self) -> list[str]:
        """All hardware that something was measured on, the most used first."""
        kinds = [seen.kind for seen in self._runs] + [each.kind for each in self._predictors]
        kinds += [each.hardware for each in self._measured]
        return [kind for kind, _ in Counter(kinds).most_common()]

    def _scaled(self, work: RunWork, kind: str) -> tuple[float, list[_Seen]] | None:
        """Find another method in the same surroundings, and how much longer a step of this one takes elsewhere."""
        near: dict[tuple[str, ...], list[_Seen]] = {}
        for seen in self._runs:
            if seen.kind == kind and seen.work.surroundings == work.surroundings:
                near.setdefault(seen.work.what, []).append(seen)
        found = []
        for what, like in near.items():
            if ratios := list(self._ratios(work.what, what)):
                found.append((median(ratios), len(ratios), like))
        if not found:
            return None
        ratio, _, like = max(found, key=lambda each: each[1])
        return ratio, like

    def _ratios(self, what: tuple[str, ...], other: tuple[str, ...]) -> Iterator[float]:
        """How much longer a step of one method takes than another's, in all surroundings where both were timed."""
        rates: dict[tuple[str, str], dict[tuple[str, ...], list[float]]] = {}
        timed = [(seen.work, seen.kind, seen.per_step) for seen in self._runs]
        timed += [
            (each.work, each.hardware, each.seconds_per_step)
            for each in self._measured
            if isinstance(each.work, RunWork) and each.seconds_per_step is not None
        ]
        for work, kind, per_step in timed:
            rates.setdefault((kind, work.surroundings), {}).setdefault(work.what, []).append(per_step)
        for of in rates.values():
            if what in of and other in of:
                yield median(of[what]) / median(of[other])

    def _memory(self, work: RunWork) -> float | None:
        """The largest peak of the same workload; else of any method in the same surroundings."""
        peaks = [(seen.work, seen.memory_mib) for seen in self._runs]
        peaks += [
            (each.work, each.peak_memory_mib)
            for each in self._measured
            if isinstance(each.work, RunWork) and each.peak_memory_mib is not None
        ]
        same = [peak for other, peak in peaks if other == work]
        near = [peak for other, peak in peaks if other.surroundings == work.surroundings]
        return max(same or near, default=None)

    def _timed(self, work: RunWork | PredictorWork, kind: str) -> Measured | None:
        return next((each for each in self._measured if each.work == work and each.hardware == kind), None)

    def _kind(self, spec: RunSpec) -> str:
        return hardware_kind(spec.device, self._hardware())

    def _test_images(self, spec: RunSpec) -> int | None:
        """As in a finished run on these data; else by the data set's card; None where neither is there."""
        split = Regime.parse(spec.regime).split
        for seen in self._runs:
            if seen.place[0] == spec.dataset and Regime.parse(seen.place[1]).split == split:
                return seen.test_images
        return _share(spec, 2)


class _Here:
    """The hardware of this machine, asked for once, and only if somebody wants to know: it takes torch to tell."""

    def __init__(self) -> None:
        self._found: Mapping[str, Any] | None = None

    def __call__(self) -> Mapping[str, Any]:
        if self._found is None:
            from qgbench.run.provenance import hardware

            self._found = hardware()
        return self._found


def _rate(seen: Iterable[_Seen]) -> float:
    return median(each.per_step for each in seen)


def _sets(seen: Iterable[_Seen]) -> str:
    return ", ".join(dict.fromkeys(each.place[0] for each in seen))


def _share(spec: RunSpec, part: int) -> int | None:
    """Images of the training (0), validation (1) or test part (2), by the data set's card."""
    images = load_card(spec.dataset).images if spec.dataset in card_names() else None
    return None if images is None else round(images * spec.resolve().fractions[part])


def labelled_images(spec: RunSpec) -> int | None:
    """Number of labelled images of a run, by the data set's card; None for a share of a set without one."""
    regime = Regime.parse(spec.regime)
    training = _share(spec, 0)
    return regime.budget if training is None else regime.labelled(training)


def _records(folder: Path) -> Iterator[Record]:
    for path in find_records(folder):
        try:
            yield read_record(path)
        except QGBenchError as error:
            logger.debug("left aside for estimates: %s", error)


def _seen(record: Record) -> _Seen | None:
    try:
        work = RunWork.of(record.spec.model_dump(mode="json"), record.settings["protocol"])
        regime = str(Regime.parse(record.cell.regime))
    except (KeyError, TypeError, ValidationError, QGBenchError):  # of a version that had not all of it
        return None
    return _Seen(
        work=work,
        place=(record.cell.dataset, regime),
        kind=hardware_kind(record.spec.device, record.provenance.hardware),
        per_step=record.times.train / record.steps,
        evaluate=record.times.evaluate,
        test_images=record.summary.images,
        memory_mib=record.peak_memory_mib,
    )


def _predictors(
    folders: Sequence[Path], records: Sequence[Record], here: Callable[[], Mapping[str, Any]]
) -> Iterator[_Predictor]:
    """Read the cards of predictors; device and threads are in the RunSpec of what made or used them."""
    used_by = {record.provenance.g: record for record in records if record.provenance.g is not None}
    with_card: set[str] = set()
    for folder in folders:
        for file in sorted(folder.glob(f"{PREDICTORS}/*/{_CARD_NAME}")):
            try:
                card = json.loads(file.read_bytes())
                record = used_by.get(card["id"])
                spec = _maker(folder, card["made_by"]) if record is None else record.spec.model_dump(mode="json")
                if spec is None:
                    continue
                hardware = here() if record is None else record.provenance.hardware
                yield _Predictor(
                    work=PredictorWork.of(spec, card["size"], card["settings"]),
                    kind=hardware_kind(spec["device"], hardware),
                    per_step=card["seconds"] / card["settings"]["steps"],
                    # The maker's peak includes g's training, and that of a run which found g there does not.
                    memory_mib=record.peak_memory_mib if record is not None and not record.times.g_reused else None,
                )
                with_card.add(card["id"])
            except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
                logger.debug("left aside for estimates: %s: %r", file, error)
    for name, record in used_by.items():
        if name not in with_card and record.times.g > 0 and (found := _submitted_predictor(record)) is not None:
            yield found


def _submitted_predictor(record: Record) -> _Predictor | None:
    """Read a predictor's time off a record that came without it, as submitted ones do."""
    try:
        protocol = record.settings["protocol"]
        return _Predictor(
            work=PredictorWork.of(record.spec.model_dump(mode="json"), protocol["size"], protocol["quality"]),
            kind=hardware_kind(record.spec.device, record.provenance.hardware),
            per_step=record.times.g / protocol["quality"]["steps"],
            memory_mib=None,
        )
    except (KeyError, TypeError, ValidationError):  # of a version that had not all of it
        return None


def _maker(folder: Path, name: str) -> dict[str, Any] | None:
    """The RunSpec of the run or job that trained a predictor, as JSON."""
    for place in (folder / JOBS / name, folder / name):
        if (spec := RunFolder(place).spec()) is not None:
            return spec.model_dump(mode="json")
    return None
