"""Where quality predictors are kept: one per labelled draw, trained once, reused by every method."""

import hashlib
import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from filelock import FileLock

from qgbench.data.experiment import ImageSet, TrainingData
from qgbench.errors import QGBenchError, UserError
from qgbench.quality.fit import IMAGE_DEPENDENCE_LIMIT, LabelledImages, fit_predictor
from qgbench.quality.predictor import PredictorCard, QualityPredictor, load_predictor, save_predictor
from qgbench.spec import Protocol, RunSpec

PREDICTORS = "predictors"


def find_or_fit(
    spec: RunSpec,
    protocol: Protocol,
    training: TrainingData,
    data_fingerprint: str,
    split: str,
    output: Path,
    accelerator: Accelerator,
) -> tuple[QualityPredictor, PredictorCard, bool]:
    """Load g_k, or train it if no run with this labelled draw has.

    Two processes that want the same g wait for each other; the second finds the first one's.

    Parameters
    ----------
    spec : RunSpec
    protocol : Protocol
    training : TrainingData
        The labelled draw that g learns from, and the validation images that select it.
    data_fingerprint, split : str
        Fingerprints of the prepared data set and of the split.
    output : Path
        Folder of all runs; predictors are kept in ``<output>/predictors``.
    accelerator : Accelerator

    Returns
    -------
    predictor, its card, and whether it was there already

    Raises
    ------
    UserError
        The stored predictor has seen masks that this run holds back.
    QGBenchError
        Its loss is not finite, or the folder cannot be written.
    """
    what = {
        "settings": protocol.quality.model_dump(mode="json"),
        "data": data_fingerprint,
        "split": split,
        "labelled": sorted(training.labelled.ids),
        "seed": spec.seed,
        "size": protocol.size,
        "precision": spec.precision,
        "threads": spec.threads,
        "device": spec.device,
    }
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]
    count = len(training.labelled)
    name = f"{Path(spec.dataset).name}-n{count}-{protocol.size}px-k{spec.seed}-{digest}"
    folder = output / PREDICTORS / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise QGBenchError(f"cannot write {folder}: {error.strerror}. Choose another --output.") from error
    with FileLock(folder / ".lock"):
        if (stored := load_predictor(folder)) is not None:
            _check_draw(stored[1], training)
            return stored[0], stored[1], True
        labelled, val = _as_labelled(training.labelled), _as_labelled(training.val)
        fitted = fit_predictor(labelled, val, protocol.quality, spec.seed, accelerator)
        card = PredictorCard(
            id=name,
            dataset=spec.dataset,
            seed=spec.seed,
            size=protocol.size,
            precision=spec.precision,
            settings=protocol.quality,
            labelled_ids=training.labelled.ids,
            data=data_fingerprint,
            split=split,
            synthetic=fitted.synthetic,
            weak_models=fitted.weak_models,
            weak_dice=fitted.weak_dice,
            image_dependence=fitted.image_dependence,
            best_step=fitted.best_step,
            seconds=fitted.seconds,
        )
        save_predictor(folder, fitted.predictor, card)
    if card.image_dependence >= IMAGE_DEPENDENCE_LIMIT:
        print(
            f"warning: g judges shapes more than images: its output correlates {card.image_dependence:.2f} with that "
            f"for blacked-out or swapped images (limit {IMAGE_DEPENDENCE_LIMIT}).",
            file=sys.stderr,
        )
    return fitted.predictor, card, False


def _check_draw(card: PredictorCard, training: TrainingData) -> None:
    """Refuse a predictor that has seen masks which this run holds back."""
    if foreign := sorted(set(card.labelled_ids) - set(training.labelled.ids)):
        raise UserError(
            f"the quality predictor {card.id} was trained on {len(foreign)} images that this run does not label "
            f"(for example {foreign[0]}); remove its folder or choose another --output."
        )


def _as_labelled(images: ImageSet) -> LabelledImages:
    batches = list(images.batches())
    return LabelledImages(torch.cat([image for image, _ in batches]), torch.cat([mask for _, mask in batches]))
