"""One run from end to end: data, quality predictor, training, evaluation, record."""

import os
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import Accelerator
from torch import nn

from qgbench.archs.build import SegmentationNetwork, build_network, require_buildable, weights_in_truth
from qgbench.archs.weights import weights_hash
from qgbench.base.errors import (
    AbsentDataError,
    QGBenchError,
    UnknownDataError,
    UnwritableError,
    UserError,
    refuse_unwritable,
)
from qgbench.base.interruption import Interrupted, interruptible
from qgbench.base.logs import logged_to, logger
from qgbench.base.progress import track
from qgbench.base.schema import finite_or_none
from qgbench.data.cards import Card
from qgbench.data.near_copies import NearCopy, near_copies, warning
from qgbench.data.readers import Source, find_card
from qgbench.data.run_data import RunData, open_run_data, said_if
from qgbench.data.splits import split_fingerprint
from qgbench.data.units import distance_unit
from qgbench.engine.checkpoint import Checkpoints
from qgbench.engine.device import make_accelerator, what_cannot_repeat
from qgbench.engine.stage import train
from qgbench.methods import Method, MethodSettings, Network
from qgbench.metrics.table import CLASS, Metric
from qgbench.plugins.registry import load, source
from qgbench.quality.audit import IMAGE_DEPENDENCE_LIMIT, QualityAudit, audits_of
from qgbench.quality.guide import make_guide
from qgbench.quality.predictor import PredictorCard, kind_of
from qgbench.quality.store import find_or_fit, predictor_id
from qgbench.quality.weak import weak_network
from qgbench.run import provenance
from qgbench.run.check import checked, encoder_of
from qgbench.run.folder import PREDICTIONS_NAME, SPEC_NAME, TEXT_LOG_NAME, RunFolder, place_for
from qgbench.run.predictions import write_predictions
from qgbench.run.record import (
    IMAGES_NAME,
    LABELS_NAME,
    RECORD_NAME,
    Guidance,
    Provenance,
    Record,
    Times,
    hash_of_rows,
    read_record,
    settings_as_used,
    summarise,
    write_images,
    write_labels,
    write_record,
)
from qgbench.run.request import metrics_of
from qgbench.spec.addons import addon_settings, needs_truth
from qgbench.spec.protocol import Protocol
from qgbench.spec.regime import Regime
from qgbench.spec.run_spec import RunSpec
from qgbench.spec.task import Task
from qgbench.training.evaluation import evaluate
from qgbench.training.loop import Trainer
from qgbench.training.tracking import require_tracker, tracking


@dataclass(frozen=True)
class Outcome:
    """A finished run."""

    record: Record
    folder: Path
    was_done: bool  # the record was there already and nothing was trained
    source: Source | None  # the data set; None where it is not on this machine


def run(
    spec: RunSpec,
    output: Path,
    data_dir: Path | None = None,
    force: bool = False,
    tracker: str | None = None,
    split_from: Sequence[Path] = (),
    wait: bool = True,
    metrics: Sequence[str] = (),
) -> Outcome:
    """Carry out a run, continue an interrupted one, or give the record of one that is done already.

    A finished run is given only where its data are those that it would have now; where they are not on this machine, it
    is given with a word on that.

    The files of the folder ``<output>/<id>`` are described in `qgbench.run.folder`; g is stored in
    ``<output>/predictors/<id of g>`` and reused by every run with the same labelled draw.

    Parameters
    ----------
    spec : RunSpec
    output : Path
    data_dir : Path, optional
        Folder that holds the data sets; the variable QGBENCH_DATA if not given.
    force : bool
        Redo a finished run in a new folder, ``<id>~2`` and so on.
    tracker : str, optional
        Also send the curves to a tracker, see `qgbench.training.tracking`.
    split_from : sequence of Path
        Files of the split, where someone else made it (`qgbench.data.acquire.given`).
    wait : bool
        Wait for another process that is at this run.
    metrics : sequence of str
        References of what to measure beside the metrics that ship and those of installed packages.

    Raises
    ------
    UserError
        Unknown names, settings out of range, data that are missing or broken, or a run that was finished with others.
    QGBenchError
        A loss that is not finite, a disk that is full.
    BusyError
        Another process is at this run, and `wait` is False.
    Interrupted
        A signal asked to stop; the same call continues.
    """
    if tracker is not None:
        require_tracker(tracker)
    method_class = load("method", spec.method)
    protocol, settings, _ = checked(spec, method_class)
    further = metrics_of(metrics, _measures_volumes(spec, data_dir))
    folder = place_for(output, spec, force)
    record: Record | None = None
    with suppress(QGBenchError):  # of a damaged record it is said below, once, that the run is measured again
        record = folder.record()
    if record is not None:
        with interruptible():
            here: RunData | None = None
            with said_if(AbsentDataError, UnknownDataError, UnwritableError):
                here = _open_data(spec, protocol, data_dir, split_from)
            return _give_finished(folder, record, spec, protocol, here, further)
    with interruptible():
        accelerator = make_accelerator(spec.device, spec.precision, spec.threads)
        if what_differs := what_cannot_repeat(spec.device):
            logger.info(what_differs)
        protocol = _with_weights_in_truth(spec, protocol)
        method, encoder_hash = _make_method(spec, protocol, _task_of(spec, data_dir), method_class, settings)
        data = _open_data(spec, protocol, data_dir, split_from)
        alone = folder.locked(wait) if accelerator.is_main_process else nullcontext()
        with alone:
            accelerator.wait_for_everyone()
            if (record := _finished(folder)) is not None:  # by the process that this one waited for
                return _give_finished(folder, record, spec, protocol, data, further)
            job = _Job(spec, protocol, method, encoder_hash, data, folder, output, accelerator, tracker, further)
            if accelerator.is_main_process:
                _with_status(job)
            else:
                _carry_out(job)
            accelerator.wait_for_everyone()
            return Outcome(read_record(folder.path), folder.path, False, data.source)


def describe(spec: RunSpec, task: Task) -> dict[str, Any]:
    """Return what a run would be, as its record will say it: its id, its RunSpec, and its settings as used.

    Parameters
    ----------
    spec : RunSpec
    task : Task
        The classes of its data set.

    Raises
    ------
    UserError
        As `run`, for all that can be known without data and without fetching weights; the network is built.
    """
    protocol, settings, archs = checked(spec, load("method", spec.method))
    for arch in archs:
        require_buildable(
            arch,
            source("arch", arch),
            encoder_of(arch, protocol),
            protocol.encoder_weights,
            protocol.decoder_channels,
            protocol.size,
            task,
        )
    return {
        "id": spec.id,
        "spec": spec.model_dump(mode="json"),
        "settings": settings_as_used(protocol, settings, addon_settings(spec)),
    }


def rehearse(
    spec: RunSpec,
    output: Path,
    data_dir: Path | None = None,
    split_from: Sequence[Path] = (),
    force: bool = False,
    tracker: str | None = None,
    metrics: Sequence[str] = (),
) -> dict[str, Any]:
    """Do what a run does before it trains, weights aside, and return a description; absent data are not checked.

    Parameters and what is raised are those of `run`, the result is that of `describe`.
    """
    if tracker is not None:
        require_tracker(tracker)
    refuse_unwritable(output)
    task = _task_of(spec, data_dir)
    described = describe(spec, task)
    metrics_of(metrics, _measures_volumes(spec, data_dir))
    method_class = load("method", spec.method)
    protocol, settings, _ = checked(spec, method_class)
    folder = place_for(output, spec, force)
    with interruptible():
        make_accelerator(spec.device, spec.precision, spec.threads)
        _make_method(spec, protocol.model_copy(update={"encoder_weights": "none"}), task, method_class, settings)
        if spec.needs_g:
            kind_of(spec.form)(protocol.quality, "none", task, protocol.size)
            weak_network(protocol.quality.weak_encoder, protocol.size, task)
        with said_if(AbsentDataError):
            data = _open_data(spec, protocol, data_dir, split_from)
            if (record := _finished(folder)) is not None:
                _refuse_other_data(folder, record, spec, protocol, data)
    return described


def foresee(spec: RunSpec, data_dir: Path | None = None, split_from: Sequence[Path] = ()) -> Provenance:
    """Return where a run's numbers would come from if it began here and now; g, which may have to be trained, is None.

    Raises
    ------
    UserError
        As `run`, for all that can be known before anything is trained.
    """
    method_class = load("method", spec.method)
    protocol, settings, _ = checked(spec, method_class)
    with interruptible():
        make_accelerator(spec.device, spec.precision, spec.threads)
        _, encoder_hash = _make_method(spec, protocol, _task_of(spec, data_dir), method_class, settings)
        data = _open_data(spec, protocol, data_dir, split_from)
    return _provenance(data, encoder_hash)


@dataclass(frozen=True)
class _Job:
    spec: RunSpec
    protocol: Protocol
    method: Method
    encoder_hash: str  # of the weights that training starts from
    data: RunData
    folder: RunFolder
    output: Path
    accelerator: Accelerator
    tracker: str | None
    metrics: Sequence[Metric]


def _finished(folder: RunFolder) -> Record | None:
    try:
        return folder.record()
    except QGBenchError as error:
        logger.warning("%s. The run is measured again from its last checkpoint.", error)
        return None


def _give_finished(
    folder: RunFolder,
    record: Record,
    spec: RunSpec,
    protocol: Protocol,
    data: RunData | None,
    metrics: Sequence[Metric],
) -> Outcome:
    """Return a finished run.

    Raises
    ------
    UserError
        Its data are not those that it would have now.
    """
    if data is not None:
        _refuse_other_data(folder, record, spec, protocol, data)
    if absent := [metric.name for metric in metrics if metric.name not in record.metrics]:
        logger.warning("%s was finished without the metric '%s'; --force measures it.", folder.path, absent[0])
    return Outcome(record, folder.path, True, None if data is None else data.source)


def _refuse_other_data(folder: RunFolder, record: Record, spec: RunSpec, protocol: Protocol, data: RunData) -> None:
    was, split = record.provenance, split_fingerprint(data.split)
    g = predictor_id(spec, protocol, data) if spec.needs_g else None
    same = {
        "images or masks": was.data == data.fingerprint,
        "parts of the split": was.split == split,
        "labelled images": was.labelled_ids == data.training.labelled.ids,
        "g": was.g == g,
    }
    # Each of them decides those that follow: the first is the cause.
    if other := next((name for name, is_same in same.items() if not is_same), None):
        raise UserError(
            f"{folder.path} was finished with other {other} than there are now; its record stays as it is. Bring those "
            "back, or redo the run with --force, in a new folder (ID~2)."
        )


def _with_status(job: _Job) -> None:
    """Carry out a job and keep status, config.json and run.log beside it."""
    folder = job.folder
    folder.set_spec(job.spec)
    folder.set_status("running")
    with logged_to(folder.path / TEXT_LOG_NAME):
        logger.debug("process %d begins", os.getpid())
        try:
            _carry_out(job)
        except BaseException as error:
            logger.debug("stopped by %s", repr(error), exc_info=True)
            # The status may not be writable either (a full disk): the error that matters is the one being handled.
            with suppress(QGBenchError):
                if isinstance(error, Interrupted | KeyboardInterrupt | SystemExit):
                    folder.set_status("interrupted")
                else:
                    folder.set_status("failed", str(error) or type(error).__name__)
            raise
        with suppress(QGBenchError):  # the record says so, too
            folder.set_status("done")
        logger.debug("done")


def _make_method(
    spec: RunSpec, protocol: Protocol, task: Task, method_class: type[Method], settings: MethodSettings
) -> tuple[Method, str]:
    """Return the method with its networks, and the hash of the encoder that it starts from; of all, if they differ.

    They come before data and g: an unknown architecture shall not be found out after minutes spent on those.
    """
    torch.manual_seed(spec.seed_of("weights"))
    method = method_class(partial(build_student, protocol, task), settings)
    encoders = [student.get_submodule("body.encoder") for student in method.students]
    # Students of one architecture begin with the same weights, or with none.
    several = len(set(method.archs(settings))) > 1
    return method, weights_hash(nn.ModuleList(encoders) if several else encoders[0])


def _task_of(spec: RunSpec, data_dir: Path | None) -> Task:
    """Return the classes that the data set's card names; one where it is not here."""
    card = _card_of(spec, data_dir)
    return Task() if card is None else Task(card.class_names)


def _measures_volumes(spec: RunSpec, data_dir: Path | None) -> bool:
    card = _card_of(spec, data_dir)
    return card is not None and card.volumes is not None


def _card_of(spec: RunSpec, data_dir: Path | None) -> Card | None:
    """Return the data set's card; None where it is not here, which opening the data refuses."""
    try:
        return find_card(spec.dataset, data_dir, "labelled")
    except (AbsentDataError, UnknownDataError):
        return None


def _with_weights_in_truth(spec: RunSpec, protocol: Protocol) -> Protocol:
    """Return the protocol with the weights that the encoder has: an arch that does not ship may ignore those asked."""
    if not spec.arch_source or protocol.encoder_weights == "none":
        return protocol
    truth = weights_in_truth(protocol.arch, protocol.encoder, protocol.decoder_channels, protocol.size)
    if truth is None:
        logger.warning(
            "arch '%s' begins with one encoder, whatever weights and seed are asked for; which weights it has is not "
            "known, and encoder_weights = imagenet in the record is what was asked for.",
            spec.arch,
        )
    elif truth == "none":
        logger.warning("arch '%s' takes no ImageNet weights; the record says encoder_weights = none.", spec.arch)
    return protocol.model_copy(update={"encoder_weights": truth or "imagenet"})


def _open_data(spec: RunSpec, protocol: Protocol, data_dir: Path | None, split_from: Sequence[Path]) -> RunData:
    data = open_run_data(
        spec.dataset,
        Regime.parse(spec.regime),
        spec.seed,
        protocol.size,
        protocol.fractions,
        data_dir,
        split_from,
        track,
    )
    if needs_truth(spec.qg_score) and not data.training.unlabelled.masked.all():
        raise UserError("the oracle needs the masks of all unlabelled images; this data set has images without one.")
    return data


def _carry_out(job: _Job) -> None:
    """Train, measure, and write the record; with several processes, the main one writes."""
    spec, protocol, data, folder, accelerator = job.spec, job.protocol, job.data, job.folder, job.accelerator
    main = accelerator.is_main_process
    copies = _warn_of_near_copies(job) if main else []
    predictor, card = None, None
    if spec.needs_g:
        predictor = find_or_fit(folder.name, spec, protocol, data, job.output, accelerator).to(accelerator.device)
        card = predictor.card
    guide = make_guide(spec, predictor, spec.seed_of("add-on"))
    seed = spec.seed_of("training")
    trainer = Trainer(job.method, guide, predictor, data.training, protocol, seed, accelerator, spec.qg_norm)
    belongs_to = {"images": data.fingerprint, "split": split_fingerprint(data.split), "g": card.id if card else ""}
    checkpoints = Checkpoints(folder.path, belongs_to)
    with tracking(job.tracker if main else None, folder.path, spec.model_dump(mode="json")) as send:

        def saved() -> None:
            _restore_if_gone(job)
            folder.set_log(trainer.history.log)
            send(trainer.history.log)

        seconds = train(trainer, checkpoints, f"training {spec.method}", saved, trainer.any_process, main)
    if main:
        checkpoints.discard_previous()  # before the record: a run that has one is finished, and nobody would come back
        _measure(job, trainer, predictor, card, seconds, copies)


def _warn_of_near_copies(job: _Job) -> list[NearCopy]:
    copies = near_copies(job.data, track)
    if copies:
        pools = Regime.parse(job.spec.regime).pool_names
        logger.warning("%s", warning(copies, job.spec.dataset, pools, job.data.source.card))
    return copies


def _restore_if_gone(job: _Job) -> None:
    """Write config.json and status anew where somebody removed the folder of a run in progress."""
    if not (job.folder.path / SPEC_NAME).exists():
        logger.warning("the folder %s was removed in mid-run; it is made anew.", job.folder.path)
        job.folder.set_spec(job.spec)
        job.folder.set_status("running")


def _measure(
    job: _Job,
    trainer: Trainer,
    predictor: nn.Module | None,
    card: PredictorCard | None,
    train_seconds: float,
    copies: Sequence[NearCopy],
) -> None:
    """Evaluate on the test images, and write rows, predictions and the record."""
    begin = time.monotonic()
    _restore_if_gone(job)
    networks = _networks_to_evaluate(trainer, job.protocol)
    tables, masks = evaluate(networks, predictor, job.data.prepared, job.data.split, job.accelerator, job.metrics)
    times = Times(
        g=card.seconds if card else 0.0,
        g_reused=card is not None and card.made_by != job.folder.name,
        train=train_seconds,
        evaluate=time.monotonic() - begin,
    )
    record = _make_record(job, trainer, tables, predictor, card, times, copies)
    path = job.folder.path
    for name, table in tables.items():
        file = IMAGES_NAME if name == "student" else f"images.{name}.csv"
        write_images(path / file, table, [metric.name for metric in job.metrics])
    write_labels(path / LABELS_NAME, trainer.audited_labels())
    write_predictions(path / PREDICTIONS_NAME, masks)
    record = record.model_copy(update={"rows": hash_of_rows(path / RECORD_NAME, record.run_id)})
    write_record(path, record)  # it marks the run as done: what its numbers need comes before


def build_student(protocol: Protocol, task: Task, arch: str = "") -> SegmentationNetwork:
    """Return a network of a protocol, as each student and teacher of a run is built.

    Parameters
    ----------
    protocol : Protocol
    task : Task
        The classes of the data set.
    arch : str
        Another architecture than the protocol's; with its own encoder, where it cannot take the protocol's.
    """
    arch = arch or protocol.arch
    encoder = encoder_of(arch, protocol)
    return build_network(arch, encoder, protocol.encoder_weights, protocol.decoder_channels, protocol.size, task)


def _networks_to_evaluate(trainer: Trainer, protocol: Protocol) -> dict[str, Network]:
    networks: dict[str, Network] = {"student": trainer.method.student}
    if trainer.method.teacher is not None:
        networks["teacher"] = trainer.method.teacher
    if trainer.history.best_step not in (None, trainer.steps):
        best = build_student(protocol, trainer.method.task).to(next(trainer.method.parameters()).device)
        best.load_state_dict(trainer.history.best_state)
        networks["best_val"] = best
    return networks


def _make_record(
    job: _Job,
    trainer: Trainer,
    tables: dict[str, pd.DataFrame],
    predictor: nn.Module | None,
    card: PredictorCard | None,
    times: Times,
    copies: Sequence[NearCopy],
) -> Record:
    spec, protocol, data, history = job.spec, job.protocol, job.data, trainer.history
    audit = None
    if card is not None:
        audit = QualityAudit(
            synthetic=card.synthetic,
            synthetic_test=card.synthetic_test,
            weak_models=card.weak_models,
            image_dependence=card.image_dependence,
            image_dependent=card.image_dependence < IMAGE_DEPENDENCE_LIMIT,
        )
    guidance = None
    if spec.addons:
        logged = pd.DataFrame(history.guidance, columns=["mean_q", "kept_share", "effective_sample_size"])
        means = {str(name): finite_or_none(float(column.mean())) for name, column in logged.items()}
        guidance = Guidance(**means, val_q_minus_dice=history.val_gap)
    return Record(
        run_id=spec.id,
        spec=spec,
        settings=settings_as_used(protocol, trainer.method.settings, addon_settings(spec)),
        metrics={metric.name: metric for metric in job.metrics},
        summaries={name: summarise(table, job.metrics) for name, table in tables.items()},
        best_val_step=history.best_step,
        val_dice=history.val_dice,
        audit=audit,
        pseudo_labels=audits_of(trainer.audited_labels()),
        pseudo_labels_on=trainer.audited_on,
        guidance=guidance,
        warnings=history.warnings,
        near_copies={part: sorted({copy.id for copy in copies if copy.part == part}) for part in ("val", "test")},
        times=times,
        peak_memory_mib=provenance.peak_memory_mib(),
        provenance=_provenance(data, job.encoder_hash, card, predictor),
    )


def _provenance(
    data: RunData, encoder_hash: str, card: PredictorCard | None = None, predictor: nn.Module | None = None
) -> Provenance:
    prepared = data.prepared
    return Provenance(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        git_commit=provenance.git_commit(),
        packages=provenance.package_versions(),
        python=sys.version.split()[0],
        hardware=provenance.hardware(),
        data=data.fingerprint,
        classes=None if prepared.classes == (CLASS,) else prepared.classes,
        distance_unit=distance_unit(data.source.volumes),
        split=split_fingerprint(data.split),
        labelled_ids=data.training.labelled.ids,
        encoder=encoder_hash,
        g=None if card is None else card.id,
        g_weights=None if predictor is None else weights_hash(predictor),
    )
