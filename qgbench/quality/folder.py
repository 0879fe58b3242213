"""g on anybody's images and masks, without a run: train it on two folders, score masks with it, audit it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator

from qgbench.base.errors import UserError
from qgbench.base.locks import locked
from qgbench.base.logs import logger
from qgbench.base.progress import track
from qgbench.base.seeds import salted
from qgbench.data.cache import Prepared, prepare
from qgbench.data.experiment import ImageSet, training_data, whole
from qgbench.data.source import Source, name_some
from qgbench.data.splits import split_fingerprint
from qgbench.data.units import units_of
from qgbench.quality.audit import ScoreAudit, audit_score
from qgbench.quality.fit import fit_predictor, judge_masks, remove_checkpoints
from qgbench.quality.likeness import Likeness, can_tell, features
from qgbench.quality.predictor import CARD_NAME, PredictorCard, QualityPredictor, load_predictor, save_predictor
from qgbench.quality.scores import mean_of_held, predicted_dice
from qgbench.quality.store import as_labelled
from qgbench.spec.protocol import Protocol
from qgbench.spec.regime import Regime
from qgbench.spec.task import Task

_HELD_BACK = 5  # one group of so many selects and audits
_LEAST = 2  # images in either part
_BATCH = 64
_ALL = Regime.parse("all")


@dataclass(frozen=True)
class StoredPredictor:
    """A g as it lies in its folder."""

    folder: Path
    predictor: QualityPredictor
    likeness: Likeness | None  # None where a run trained it, or its backbone hides its stages

    @property
    def card(self) -> PredictorCard:
        """What g was trained on."""
        return self.predictor.card

    @property
    def task(self) -> Task:
        """What it judges masks of."""
        return self.predictor.task

    def values_of(self, named: Mapping[str, int | str] | None) -> Mapping[str, int | str]:
        """Return the value of each class in masks to be judged: as named, as in those of its training, or 1 to K.

        Of one class nothing needs to be named: masks then hold 0 and one other value.

        Raises
        ------
        UserError
            Other classes are named than it knows.
        """
        known = self.card.classes
        if named is None:
            numbered = {name: value for value, name in enumerate(known, start=1)}
            return (self.card.values or numbered) if len(known) > 1 else {}
        if len(known) == len(named) == 1:
            return named
        if set(named) != set(known):
            raise UserError(f"--classes names {', '.join(named)}; {self.folder} was trained on {', '.join(known)}.")
        return {name: named[name] for name in known}


def open_predictor(folder: Path) -> StoredPredictor:
    """Open a stored g, frozen and in evaluation mode.

    Parameters
    ----------
    folder : Path
        Of `train_on_folder`, or one in ``<runs>/predictors``.

    Raises
    ------
    UserError
        There is none, or only a part of one.
    """
    if (stored := load_predictor(folder)) is None:
        if inside := sorted(card.parent.name for card in folder.glob(f"*/{CARD_NAME}")):
            raise UserError(f"{folder} holds {name_some(inside, 'quality predictor')}: name one, {folder / inside[0]}.")
        cause = "holds no whole quality predictor" if folder.is_dir() else "is no folder"
        raise UserError(
            f"{folder} {cause}: expected {CARD_NAME} and its weights, as qgbench quality train writes them (if that "
            "was interrupted, the same command continues) or as a run with --qg leaves them in runs/predictors/ID."
        )
    return StoredPredictor(folder, stored, Likeness.load(folder))


def hold_back(prepared: Prepared, seed: int) -> pd.DataFrame:
    """Return which images g learns from and which select and audit it: a fifth of the groups, drawn by the seed.

    Returns
    -------
    DataFrame
        Columns id, group, split ('train' or 'val'); more than a fifth where that would be fewer than 2 images.

    Raises
    ------
    UserError
        No such parts of 2 images each can be made of whole groups.
    """
    table = pd.DataFrame({"id": prepared.ids, "group": prepared.groups})
    sizes = table["group"].value_counts()
    names = np.array(sorted(sizes.index))
    order = names[np.random.default_rng(salted("groups held back from g", seed)).permutation(len(names))]
    images = sizes[order].cumsum().to_numpy()
    count = max(round(len(names) / _HELD_BACK), 1, int(np.searchsorted(images, _LEAST)) + 1)
    if count >= len(names) or len(table) - images[count - 1] < _LEAST:
        raise UserError(
            f"{len(table)} {prepared.noun}s in {len(names)} groups are too few: a fifth of the groups is held back "
            f"from training, and {_LEAST} {prepared.noun}s are needed in either part; add more, or mend the groups."
        )
    return table.assign(split=np.where(table["group"].isin(order[:count]), "val", "train"))


def train_on_folder(
    source: Source, output: Path, protocol: Protocol, seed: int, accelerator: Accelerator, precision: str
) -> StoredPredictor:
    """Train g on images and their true masks, and store it with what it needs to tell images unlike them.

    An interrupted call is continued by the next one with the same arguments; a finished one is only opened.

    Parameters
    ----------
    source : Source
        With the group of each image; a fifth of the groups is held back (`hold_back`).
    output : Path
        Folder of the predictor.
    protocol : Protocol
        Its image size, its settings of g and their version count.
    seed : int
    accelerator : Accelerator
    precision : str
        That of the accelerator, for the card.

    Raises
    ------
    UserError
        A file cannot be read, there are too few images, no mask has a foreground, or the folder holds a predictor of
        something else.
    QGBenchError
        The loss is not finite, or the folder cannot be written.
    """
    prepared = prepare(source, protocol.size, track=track)
    split = hold_back(prepared, seed)
    training = training_data(prepared, [], split, _ALL, source.name, seed)
    belongs_to = {
        "images, masks or groups": hashlib.sha256(
            f"{prepared.fingerprint}{split_fingerprint(split)}".encode()
        ).hexdigest(),
        "settings": _digest(protocol, seed, precision),
    }
    id = hashlib.sha256("".join(belongs_to.values()).encode()).hexdigest()[:12]
    id = f"{source.name}-n{len(training.labelled)}-{protocol.size}px-k{seed}-{id}"
    with locked(output, "quality predictor"):
        stored = load_predictor(output)
        if stored is not None and stored.card.id.rpartition("-")[2] != id.rpartition("-")[2]:
            raise UserError(
                f"{output} holds a quality predictor of other images, masks, groups or settings ({stored.card.id}); "
                "choose another --output, or remove that folder."
            )
        if stored is None:
            labelled, val = as_labelled(training.labelled), as_labelled(training.val)
            salt = salted("g", "folder", len(training.labelled), seed)
            fitted = fit_predictor(labelled, val, protocol.quality, salt, accelerator, output, belongs_to)
            if can_tell(fitted.predictor):
                _likeness(fitted.predictor, prepared, accelerator).save(output)
            card = PredictorCard(
                id=id,
                version=protocol.g_version,
                made_by="qgbench quality train",
                dataset=source.name,
                classes=source.classes,
                values=source.card.classes,
                seed=seed,
                size=protocol.size,
                precision=precision,
                settings=protocol.quality,
                labelled_ids=training.labelled.ids,
                data=prepared.fingerprint,
                split=split_fingerprint(split),
                **fitted.worth,
            )
            save_predictor(output, fitted.predictor, card)
        else:
            logger.info("%s is trained already.", output)
        remove_checkpoints(output)
    return open_predictor(output)


def _digest(protocol: Protocol, seed: int, precision: str) -> str:
    what = [protocol.g_version, protocol.quality.telling(), protocol.size, seed, precision]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def _likeness(predictor: QualityPredictor, prepared: Prepared, accelerator: Accelerator) -> Likeness:
    batches = (image.to(accelerator.device) for image, _ in ImageSet([whole(prepared)]).batches(_BATCH))
    found = np.concatenate(list(features(predictor, batches, len(prepared.classes))))
    return Likeness.of(found, prepared.groups)


def score_masks(stored: StoredPredictor, source: Source, accelerator: Accelerator) -> pd.DataFrame:
    """Return the predicted Dice of masks that nobody has checked, the worst first.

    Parameters
    ----------
    stored : StoredPredictor
    source : Source
        The images, with the masks to be judged.
    accelerator : Accelerator
        In fp32.

    Returns
    -------
    DataFrame
        A row for each picture or volume: image, quality (the mean over the classes that the mask holds; over all where
        it holds none), quality_CLASS for each of several classes, distance (above 1 where the image is unlike those of
        the training; missing where g does not know them) and unlike. Of a volume quality and distance are the mean and
        the median over its slices, and slices, worst_slice (from 0) and worst_quality are told.

    Raises
    ------
    UserError
        A file cannot be read, or a mask has another size than its image or other values than its classes.
    """
    prepared = prepare(source, stored.card.size, track=track)
    predictor, task = stored.predictor.to(accelerator.device), stored.task
    images = ImageSet([whole(prepared)], task)
    batches = track(images.batches(_BATCH), "Scoring", -(-len(images) // _BATCH), "parts")
    quality, of_class, distance = [], [], []
    with torch.no_grad():
        for image, mask in batches:
            image, mask = image.to(accelerator.device), mask.to(accelerator.device)
            dice = predicted_dice(predictor, task, image, mask)
            of_class.append(dice.cpu().numpy())
            quality.append(mean_of_held(task, dice, mask).cpu().numpy())
            if stored.likeness is not None:
                distance += [
                    stored.likeness.of_images(each) for each in features(predictor, [image], len(task.classes))
                ]
    table = pd.DataFrame({"image": prepared.ids, "quality": np.concatenate(quality)})
    if len(task.classes) > 1:
        for name, values in zip(task.classes, np.concatenate(of_class).T, strict=True):
            table[f"quality_{name}"] = values
    table["distance"] = np.concatenate(distance) if distance else np.nan
    if source.volumes:
        table = _of_volumes(table, source)
    table["unlike"] = (table["distance"] > 1).astype("boolean").mask(table["distance"].isna())
    return table.sort_values(["quality", "image"], kind="stable", ignore_index=True)


def _of_volumes(table: pd.DataFrame, source: Source) -> pd.DataFrame:
    by_slice = table.set_index("image")
    rows = []
    for unit in units_of(source.ids, source.volumes):
        own = by_slice.loc[unit.images]
        worst = int(own["quality"].to_numpy().argmin())
        means = own.drop(columns="distance").mean()
        rows.append(
            {
                "image": unit.id,
                **means.to_dict(),
                "distance": own["distance"].median(),
                "slices": len(own),
                "worst_slice": worst,
                "worst_quality": own["quality"].iloc[worst],
            }
        )
    return pd.DataFrame(rows)


def audit_on_folder(
    stored: StoredPredictor, truth: Source, accelerator: Accelerator, masks: Source | None = None
) -> ScoreAudit:
    """Return how well g predicts the true Dice of masks, of several classes the mean over them; at g's image size.

    Parameters
    ----------
    stored : StoredPredictor
    truth : Source
        Images with their true masks, and their groups. They should not be those that g was trained on.
    accelerator : Accelerator
        In fp32.
    masks : Source, optional
        The same images with the masks to be judged; where None, 20 synthetic masks of each, drawn as in the training.

    Raises
    ------
    UserError
        As `score_masks`; there is one image, or `masks` has other images than `truth`.
    """
    if masks is not None and masks.ids != truth.ids:
        differing = sorted(set(masks.ids) ^ set(truth.ids))
        raise UserError(
            f"{name_some(differing, truth.noun)} have a true mask or one to be judged, not both; complete them."
        )
    prepared = prepare(truth, stored.card.size, track=track)
    if len(prepared.ids) < _LEAST:
        raise UserError(f"an audit needs 2 {truth.noun}s or more: each is judged with another's mask, too.")
    _warn_of_trained(stored.card, prepared)
    known = as_labelled(ImageSet([whole(prepared)], stored.task))
    given = None
    if masks is not None:
        given = as_labelled(ImageSet([whole(prepare(masks, stored.card.size, track=track))], stored.task)).mask
    predictor = stored.predictor.to(accelerator.device)
    found = judge_masks(predictor, known, stored.card.settings, stored.card.seed, accelerator, given)
    groups: Sequence[str] = [prepared.groups[index] for index in found.index]
    return audit_score(found.quality, found.dice, groups, found.elsewhere)


def _warn_of_trained(card: PredictorCard, prepared: Prepared) -> None:
    """Warn of images that bear the name of one that g learnt from."""
    if trained := sorted(set(prepared.ids) & set(card.labelled_ids)):
        logger.warning(
            "%s bear the name of one that g was trained on: what an audit finds on those is too good.",
            name_some(trained, prepared.noun),
        )
