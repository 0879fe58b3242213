"""One run from end to end: data, quality predictor, training, evaluation, record."""

import hashlib
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import torch
from accelerate import Accelerator
from torch import nn

from qgbench import provenance
from qgbench.archs.build import build_network
from qgbench.data.cache import Prepared, prepare
from qgbench.data.experiment import TrainingData, training_data
from qgbench.data.readers import open_pool, open_source
from qgbench.data.splits import load_split, split_fingerprint
from qgbench.errors import UserError
from qgbench.methods import Method
from qgbench.progress import track
from qgbench.quality.fit import IMAGE_DEPENDENCE_LIMIT
from qgbench.quality.guide import Guide, Mode, QualityRegularisation, QualityWeighting
from qgbench.quality.predictor import PredictorCard
from qgbench.quality.scores import make_score
from qgbench.quality.store import find_or_fit
from qgbench.records import (
    IMAGES_NAME,
    RECORD_NAME,
    Cell,
    Guidance,
    Provenance,
    QualityAudit,
    Record,
    Times,
    read_record,
    summarise,
    write_atomically,
    write_images,
    write_record,
)
from qgbench.registry import load_method
from qgbench.spec import Protocol, Regime, RunSpec, apply_settings
from qgbench.training.checkpoint import load_checkpoint, save_checkpoint
from qgbench.training.device import make_accelerator
from qgbench.training.evaluate import evaluate
from qgbench.training.loop import Trainer

STATUS_NAME = "status"
SPEC_NAME = "config.json"
LOG_NAME = "log.jsonl"


@dataclass(frozen=True)
class Outcome:
    """A finished run."""

    record: Record
    folder: Path
    was_done: bool  # the record was there already and nothing was trained


@dataclass(frozen=True)
class _Data:
    prepared: Prepared
    split: pd.DataFrame
    training: TrainingData
    fingerprint: str


def run(spec: RunSpec, output: Path, data_dir: Path | None = None, cache_dir: Path | None = None) -> Outcome:
    """Carry out a run, or give its record if it is done already.

    The folder ``<output>/<id>`` holds status, config.json, log.jsonl, the last checkpoint, record.json and images.csv;
    g is stored in ``<output>/predictors/<id of g>`` and reused by every run with the same labelled draw.

    Parameters
    ----------
    spec : RunSpec
    output : Path
    data_dir : Path, optional
        Folder that holds the data sets; the variable QGBENCH_DATA if not given.
    cache_dir : Path, optional
        Where prepared arrays are kept.

    Raises
    ------
    UserError
        Unknown names, settings out of range, data that are missing or broken.
    QGBenchError
        A loss that is not finite, a disk that is full.
    """
    protocol = spec.resolve()
    method_class = load_method(spec.method)
    settings = apply_settings(method_class.Settings(), spec.overrides_of("method"), "method.")
    regime = Regime.parse(spec.regime)
    _refuse_contradictions(spec, method_class, regime)
    folder = output / spec.id
    if (folder / RECORD_NAME).is_file():
        return Outcome(read_record(folder), folder, was_done=True)
    accelerator = make_accelerator(spec.device, spec.precision, spec.threads)
    torch.manual_seed(spec.seed)
    # Networks come first: an unknown architecture shall not be found out after minutes spent on data and g.
    method = method_class(lambda: _build(protocol), settings)
    data = _open_data(spec, protocol, regime, data_dir, cache_dir)
    write_atomically(folder / SPEC_NAME, (spec.model_dump_json(indent=1) + "\n").encode())
    write_atomically(folder / STATUS_NAME, b"running\n")
    try:
        record = _carry_out(spec, protocol, method, data, folder, output, accelerator)
    except KeyboardInterrupt:
        write_atomically(folder / STATUS_NAME, b"interrupted\n")
        raise
    except Exception:
        write_atomically(folder / STATUS_NAME, b"failed\n")
        raise
    write_atomically(folder / STATUS_NAME, b"done\n")
    return Outcome(record, folder, was_done=False)


def _refuse_contradictions(spec: RunSpec, method_class: type[Method], regime: Regime) -> None:
    if spec.qg_mode in ("qw", "both") and not method_class.pseudo_labels:
        raise UserError(
            f"method '{spec.method}' makes no pseudo-labels, so QW has nothing to weigh; use --qg-mode qar."
        )
    idle = [key for key in spec.overrides if key.startswith(("qg.", "quality."))]
    if spec.qg_mode == "none" and idle:
        raise UserError(f"{idle[0]} changes nothing without the add-on; add --qg or leave the setting out.")
    if spec.qg_mode == "qar" and spec.qg_score != "g":
        raise UserError("QAR needs a differentiable score: --qg-score is for QW; use --qg-mode qw or --qg-score g.")
    if spec.qg_score == "oracle" and regime.pools:
        raise UserError("the oracle needs the masks of all unlabelled images, which a pool has not; leave --pool out.")


def _open_data(
    spec: RunSpec, protocol: Protocol, regime: Regime, data_dir: Path | None, cache_dir: Path | None
) -> _Data:
    source = open_source(spec.dataset, data_dir)
    prepared = prepare(source, protocol.size, cache_dir, track)
    extra = [prepare(source.extra, protocol.size, cache_dir, track)] if source.extra is not None else []
    extra += [prepare(open_pool(pool, data_dir), protocol.size, cache_dir, track) for pool in regime.pools]
    if spec.qg_score == "oracle" and extra:
        raise UserError("the oracle needs the masks of all unlabelled images; this data set has images without one.")
    split = load_split(source, regime.split, protocol.fractions)
    fingerprint = hashlib.sha256("".join(part.fingerprint for part in (prepared, *extra)).encode()).hexdigest()
    return _Data(prepared, split, training_data(prepared, extra, split, regime, spec.seed), fingerprint)


def _carry_out(
    spec: RunSpec,
    protocol: Protocol,
    method: Method,
    data: _Data,
    folder: Path,
    output: Path,
    accelerator: Accelerator,
) -> Record:
    predictor, card, reused = None, None, False
    if spec.qg_mode != "none" and (spec.qg_score in ("g", "shuffled") or spec.qg_mode == "both"):
        predictor, card, reused = find_or_fit(
            spec, protocol, data.training, data.prepared.fingerprint, split_fingerprint(data.split), output, accelerator
        )
        predictor.to(accelerator.device)
    guide = Guide(_modes(spec, protocol, predictor))
    trainer = Trainer(method, guide, predictor, data.training, protocol, spec.seed, accelerator, spec.qg_norm)
    train_seconds = 0.0
    if (checkpoint := load_checkpoint(folder)) is not None:
        trainer.load_state_dict(checkpoint["trainer"])
        train_seconds = checkpoint["seconds"]
    begin = time.monotonic() - train_seconds
    save_every = max(1, trainer.steps // 4)
    left = track(trainer.run(), f"training {spec.method}", trainer.steps, "steps", trainer.history.step)
    for done in left:
        if done % save_every == 0 or done == trainer.steps:
            state = {"trainer": trainer.state_dict(), "seconds": time.monotonic() - begin}
            save_checkpoint(folder, state)
            trainer.write_log(folder / LOG_NAME)
    train_seconds = time.monotonic() - begin
    begin = time.monotonic()
    networks = _networks_to_evaluate(trainer, protocol)
    tables = evaluate(networks, predictor, data.prepared, data.split, accelerator)
    record = _make_record(spec, protocol, data, trainer, tables, card)
    times = Times(
        g=card.seconds if card else 0.0,
        g_reused=reused,
        train=train_seconds,
        evaluate=time.monotonic() - begin,
    )
    record = record.model_copy(update={"times": times, "peak_memory_mib": provenance.peak_memory_mib()})
    for name, table in tables.items():
        write_images(folder / (IMAGES_NAME if name == "student" else f"images.{name}.csv"), table)
    write_record(folder, record)
    return record


def _build(protocol: Protocol) -> nn.Module:
    return build_network(
        protocol.arch, protocol.encoder, protocol.encoder_weights, protocol.decoder_channels, protocol.size
    )


def _modes(spec: RunSpec, protocol: Protocol, predictor: nn.Module | None) -> list[Mode]:
    modes: list[Mode] = []
    if spec.qg_mode in ("qw", "both"):
        modes.append(QualityWeighting(make_score(spec.qg_score, predictor, spec.seed), protocol.qg))
    if spec.qg_mode in ("qar", "both"):
        assert predictor is not None
        modes.append(QualityRegularisation(predictor, protocol.qg, spec.seed))
    return modes


def _networks_to_evaluate(trainer: Trainer, protocol: Protocol) -> dict[str, nn.Module]:
    networks: dict[str, nn.Module] = {"student": trainer.method.student}
    if trainer.method.teacher is not None:
        networks["teacher"] = trainer.method.teacher
    if trainer.history.best_step not in (None, trainer.steps):
        best = _build(protocol).to(next(trainer.method.parameters()).device)
        best.load_state_dict(trainer.history.best_state)
        networks["best_val"] = best
    return networks


def _make_record(
    spec: RunSpec,
    protocol: Protocol,
    data: _Data,
    trainer: Trainer,
    tables: dict[str, pd.DataFrame],
    card: PredictorCard | None,
) -> Record:
    history = trainer.history
    audit = None
    if card is not None:
        audit = QualityAudit(
            synthetic=card.synthetic,
            weak_models=card.weak_models,
            image_dependence=card.image_dependence,
            image_dependent=card.image_dependence < IMAGE_DEPENDENCE_LIMIT,
        )
    guidance = None
    if spec.qg_mode != "none":
        logged = pd.DataFrame(history.guidance, columns=["mean_q", "kept_share", "effective_sample_size"])
        means = {str(name): None if column.empty else float(column.mean()) for name, column in logged.items()}
        gap = None
        if card is not None:
            gap = float(trainer.validation_quality().mean() - trainer.validation_dice().mean())
        guidance = Guidance(**means, val_q_minus_dice=gap)
    return Record(
        run_id=spec.id,
        cell=Cell(
            protocol=protocol.name,
            protocol_version=protocol.version,
            dataset=spec.dataset,
            regime=spec.regime,
            arch=spec.arch,
            encoder=spec.encoder,
            method=spec.method,
            addon=spec.addon,
            variant=spec.variant,
            seed=spec.seed,
        ),
        spec=spec.model_dump(mode="json"),
        settings={
            "protocol": protocol.model_dump(mode="json"),
            "method": trainer.method.settings.model_dump(mode="json"),
        },
        steps=trainer.steps,
        precision=spec.precision,
        device=spec.device,
        threads=spec.threads,
        summary=summarise(tables["student"]),
        others={name: summarise(table) for name, table in tables.items() if name != "student"},
        best_val_step=history.best_step,
        val_dice=history.val_dice,
        audit=audit,
        pseudo_labels=trainer.pseudo_label_audits(),
        pseudo_labels_on=trainer.audited_on,
        guidance=guidance,
        times=Times(g=0.0, g_reused=False, train=0.0, evaluate=0.0),
        peak_memory_mib=0.0,
        provenance=Provenance(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            git_commit=provenance.git_commit(),
            packages=provenance.package_versions(),
            python=sys.version.split()[0],
            hardware=provenance.hardware(),
            data=data.fingerprint,
            split=split_fingerprint(data.split),
            labelled_ids=data.training.labelled.ids,
            g=card.id if card else None,
        ),
    )
