"""Where quality predictors are kept: one per labelled draw, trained once, reused by every method."""

import hashlib
import json
from pathlib import Path

import torch
from accelerate import Accelerator

from qgbench.base.errors import QGBenchError, UserError
from qgbench.base.locks import locked
from qgbench.base.logs import logger
from qgbench.base.seeds import salted
from qgbench.data.experiment import ImageSet
from qgbench.data.run_data import RunData
from qgbench.data.splits import split_fingerprint
from qgbench.quality.audit import IMAGE_DEPENDENCE_LIMIT
from qgbench.quality.fit import LabelledImages, fit_predictor, remove_checkpoints
from qgbench.quality.predictor import PredictorCard, QualityPredictor, load_predictor, save_predictor
from qgbench.spec.protocol import Protocol
from qgbench.spec.run_spec import RunSpec

PREDICTORS = "predictors"


def find_or_fit(
    run: str,
    spec: RunSpec,
    protocol: Protocol,
    data: RunData,
    output: Path,
    accelerator: Accelerator,
) -> QualityPredictor:
    """Return g_k and its card, trained now if no run with this labelled draw has trained it.

    Two processes that want the same g wait for each other; the second finds the first one's.

    Parameters
    ----------
    run : str
        Name of the run that asks, for the card.
    spec : RunSpec
    protocol : Protocol
    data : RunData
        The labelled draw that g learns from, and the validation images that select it.
    output : Path
        Folder of all runs; predictors are kept in ``<output>/predictors``.
    accelerator : Accelerator

    Returns
    -------
    QualityPredictor
        Frozen, in evaluation mode.

    Raises
    ------
    UserError
        The stored predictor is of another size or data set, or has seen masks that this run holds back.
    QGBenchError
        Its loss is not finite, or the folder cannot be written.
    """
    folder = output / PREDICTORS / predictor_id(spec, protocol, data)
    if accelerator.is_main_process:
        with locked(folder, "quality predictor"):
            if load_predictor(folder) is None:
                _fit(folder, run, spec, protocol, data, accelerator)
            remove_checkpoints(folder)
    accelerator.wait_for_everyone()
    predictor = load_predictor(folder)
    if predictor is None:
        raise QGBenchError(f"the quality predictor {folder} is damaged as soon as it is written; check the disk.")
    card = predictor.card
    _check_card(card, folder, protocol, data)
    if not card.image_dependence < IMAGE_DEPENDENCE_LIMIT:
        logger.warning(
            "g judges shapes more than images: its output correlates %.2f with that for blacked-out or swapped images "
            "(limit %s).",
            card.image_dependence,
            IMAGE_DEPENDENCE_LIMIT,
        )
    return predictor


def predictor_id(spec: RunSpec, protocol: Protocol, data: RunData) -> str:
    """Return g_k's name, made of everything that its weights depend on; parameters as of `find_or_fit`."""
    what = {
        "version": protocol.g_version,
        "settings": protocol.quality.telling(),
        "data": data.prepared.fingerprint,
        "split": split_fingerprint(data.split),
        "labelled": sorted(data.training.labelled.ids),
        "seed": spec.seed,
        "size": protocol.size,
        "precision": spec.precision,
        "threads": spec.threads,
        "device": spec.device,
        **({} if spec.form == "regressor" else {"form": spec.form}),
    }
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]
    return f"{Path(spec.dataset).name}-n{len(data.training.labelled)}-{protocol.size}px-k{spec.seed}-{digest}"


def _fit(folder: Path, run: str, spec: RunSpec, protocol: Protocol, data: RunData, accelerator: Accelerator) -> None:
    training = data.training
    labelled, val = as_labelled(training.labelled), as_labelled(training.val)
    seed = _seed(spec, len(training.labelled))
    belongs_to = {"images or split": folder.name}
    fitted = fit_predictor(labelled, val, protocol.quality, seed, accelerator, folder, belongs_to, spec.form)
    card = PredictorCard(
        id=folder.name,
        version=protocol.g_version,
        form=spec.form,
        made_by=run,
        dataset=spec.dataset,
        classes=labelled.task.classes,
        seed=spec.seed,
        size=protocol.size,
        precision=spec.precision,
        settings=protocol.quality,
        labelled_ids=training.labelled.ids,
        data=data.prepared.fingerprint,
        split=split_fingerprint(data.split),
        **fitted.worth,
    )
    save_predictor(folder, fitted.predictor, card)


def _seed(spec: RunSpec, labelled: int) -> int:
    """Return the seed of g's random streams, which data sets and numbers of labels do not share; twins do."""
    return salted("g", spec.dataset_name, labelled, spec.seed)


def _check_card(card: PredictorCard, folder: Path, protocol: Protocol, data: RunData) -> None:
    """Refuse a predictor that was made for something else, or that has seen masks which this run holds back."""
    foreign = sorted(set(card.labelled_ids) - set(data.training.labelled.ids))
    if card.size != protocol.size:
        cause = f"at {card.size} px, but this run is at {protocol.size} px"
    elif card.data != data.prepared.fingerprint:
        cause = f"on other images (data set {card.dataset}) than this run has"
    elif foreign:
        cause = f"on {len(foreign)} images that this run does not label (for example {foreign[0]})"
    else:
        return
    raise UserError(
        f"the quality predictor in {folder} was trained {cause}. Remove that folder, so that it is trained anew, or "
        "choose another --output."
    )


def as_labelled(images: ImageSet) -> LabelledImages:
    """Return images with their masks as tensors, all in memory."""
    batches = list(images.batches())
    image, mask = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return LabelledImages(image, mask, images.task, images.groups)
