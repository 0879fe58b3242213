"""The images that one run may train and validate on. The test images are not among them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from qgbench.base.errors import UserError
from qgbench.base.logs import logger
from qgbench.data.cache import Prepared
from qgbench.data.source import name_any
from qgbench.data.splits import classes_shown, draw_budget
from qgbench.spec.regime import Regime
from qgbench.spec.task import Task

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_NO_LABEL = 255  # of a pixel, no class and no background
Part = tuple[Prepared, np.ndarray]  # a prepared data set and rows of it


def whole(prepared: Prepared) -> Part:
    """Return all images of a prepared data set."""
    return prepared, np.arange(len(prepared.ids))


class ImageSet:
    """Images of equal size, with masks where they are known, held as uint8 and converted batch by batch.

    Parameters
    ----------
    parts : list of (Prepared, rows)
        Prepared data sets and the rows that are taken from each.
    task : Task, optional
        What masks show; the classes of the first part where None.
    """

    def __init__(self, parts: list[Part], task: Task | None = None) -> None:
        self._parts = [part for part, _ in parts]
        self._part_of = np.concatenate([np.full(len(rows), index) for index, (_, rows) in enumerate(parts)])
        self._row_of = np.concatenate([rows for _, rows in parts]).astype(int)
        self.ids = [part.ids[row] for part, rows in parts for row in rows]
        self.groups = [part.groups[row] for part, rows in parts for row in rows]
        self.masked = np.concatenate([np.full(len(rows), part.masks is not None) for part, rows in parts])
        self.size = int(self._parts[0].images.shape[1])
        self.task = task or Task(self._parts[0].classes)

    def __len__(self) -> int:
        return len(self.ids)

    def images(self, index: np.ndarray, device: "torch.device | str" = "cpu") -> "Tensor":
        """Return images (B, 3, S, S), float in [0, 1]: bytes go to the device, and are numbers only there."""
        stack = _zeros((len(index), self.size, self.size, 3), device)
        for place, i in zip(stack.numpy(), index, strict=True):
            place[:] = self._parts[self._part_of[i]].images[self._row_of[i]]
        return as_input(stack.to(device, non_blocking=True))

    def masks(self, index: np.ndarray, device: "torch.device | str" = "cpu") -> "Tensor":
        """Return masks (B, C, S, S), float, 0 or 1; zeros in all channels for images without one (see `masked`)."""
        several = self.task.channels > 1
        stack = _zeros((len(index), 1, self.size, self.size), device)
        for place, i in zip(stack.numpy(), index, strict=True):
            masks = self._parts[self._part_of[i]].masks
            if masks is not None:
                place[0] = masks[self._row_of[i]]
            elif several:
                place[0] = _NO_LABEL
        labels = stack.to(device, non_blocking=True)
        return (labels == _labels(self.task.channels, device) if several else labels).float()

    def batches(self, size: int = 64) -> "Iterator[tuple[Tensor, Tensor]]":
        """Yield images and masks in order."""
        for index in np.array_split(np.arange(len(self)), max(1, -(-len(self) // size))):
            yield self.images(index), self.masks(index)


def as_input(pixels: "Tensor") -> "Tensor":
    """Return what networks take of images: (B, S, S, 3) uint8 -> (B, 3, S, S) float in [0, 1]."""
    return pixels.permute(0, 3, 1, 2).contiguous().float() / 255.0


def _labels(count: int, device: "torch.device | str") -> "Tensor":
    """Return the labels 0 to count - 1, each a channel: (1, count, 1, 1) uint8."""
    import torch  # late, as below

    return torch.arange(count, dtype=torch.uint8, device=device).view(1, count, 1, 1)


def _zeros(shape: tuple[int, ...], device: "torch.device | str") -> "Tensor":
    """Return bytes in the processor's memory; pinned where they go to a GPU, so that nobody waits for their copy."""
    import torch  # late: what only asks which images there are does not wait for it

    return torch.zeros(shape, dtype=torch.uint8, pin_memory=torch.device(device).type == "cuda")


@dataclass(frozen=True)
class TrainingData:
    """What a run sees before its end."""

    labelled: ImageSet
    unlabelled: ImageSet  # the other training images (their masks are held back), extra images and pools
    val: ImageSet
    unlabelled_are_labelled: bool  # no other image is there: the labelled images serve as unlabelled ones too


def training_data(
    prepared: Prepared,
    extra: list[Part],
    split: pd.DataFrame,
    regime: Regime,
    dataset: str,
    k: int,
    labelled_ids: list[str] | None = None,
) -> TrainingData:
    """Return the labelled images of seed index k, and the rest.

    Parameters
    ----------
    prepared : Prepared
        The labelled data set.
    extra : list of (Prepared, rows)
        Unlabelled images: those beside the data set, and those of the regime's pools.
    split : DataFrame
        Columns id, group, split.
    regime : Regime
    dataset : str
        Its name or path, of which the draw depends.
    k : int
        Seed index.
    labelled_ids : list of str, optional
        The labelled images, where the split's maker chose them; the same for every k.

    Raises
    ------
    UserError
        The budget is below 2, exceeds the training part or is not the number of `labelled_ids`, fewer than 2 images are
        to validate on, or no labelled image has a lesion.
    """
    row_of = {name: row for row, name in enumerate(prepared.ids)}
    part = {name: split.loc[split["split"] == name] for name in ("train", "val")}
    drawn = labelled_ids
    if drawn is None:
        drawn = draw_budget(part["train"], regime, dataset, k, classes_shown(prepared))
    budget, found, counted = regime.labelled(len(part["train"])), len(drawn), "images"
    if regime.patients:
        found, counted = part["train"].loc[part["train"]["id"].isin(drawn), "group"].nunique(), "patients"
    if found != budget:
        raise UserError(
            f"the split names {found} labelled {counted}, and the budget is {budget}; leave --labelled out."
        )
    chosen = set(drawn)
    rest = [row_of[name] for name in sorted(part["train"]["id"]) if name not in chosen]
    labelled = np.array([row_of[name] for name in drawn])
    unlabelled = list(extra)
    if rest:
        unlabelled.insert(0, (prepared, np.array(rest)))
    noun = prepared.noun
    if len(drawn) < 2:
        raise UserError(
            f"the labelled budget is {len(drawn)} {noun}; give --labelled 2 or more (there are {len(part['train'])} "
            f"training {noun}s)."
        )
    if len(part["val"]) < 2:
        raise UserError(
            f"of {len(split)} {noun}s {len(part['train'])} are to train on and {len(part['val'])} to validate on; at "
            f"least 2 of each are needed: add {'images' if noun == 'image' else 'patients'}."
        )
    to_train, to_validate = ([row_of[name] for name in sorted(part[each]["id"])] for each in ("train", "val"))
    _refuse_without_lesion(prepared, labelled, to_train, k)
    _warn_of_unseen(prepared, to_validate, to_train)
    task = Task(prepared.classes)
    return TrainingData(
        labelled=ImageSet([(prepared, labelled)], task),
        unlabelled=ImageSet(unlabelled or [(prepared, labelled)], task),
        val=ImageSet([(prepared, np.array(to_validate))], task),
        unlabelled_are_labelled=not unlabelled,
    )


def _refuse_without_lesion(prepared: Prepared, labelled: np.ndarray, train: list[int], k: int) -> None:
    """Refuse labelled images (rows of `prepared`) of which a network can only learn that there is nothing.

    Where they show some of several classes, warn of those that they do not.
    """
    masks = prepared.masks
    assert masks is not None, "a data set that is split has masks"
    noun, more = prepared.noun, "images" if prepared.volumes is None else "patients"
    if any(masks[row].any() for row in labelled):
        shown = {label for row in labelled for label in np.unique(masks[row]).tolist()}
        if absent := [name for label, name in enumerate(prepared.classes, start=1) if label not in shown]:
            logger.warning(
                "none of the %d labelled %ss (seed index %d) shows %s at %d x %d pixels, so nothing is learnt of "
                "it: take more labelled %s, or another seed.",
                *(len(labelled), noun, k, name_any(absent), *masks.shape[1:], more),
            )
        return
    others = sum(bool(masks[row].any()) for row in train)
    remedy = (
        f"{others} of the {len(train)} training {noun}s have one: take more labelled {more}, or another seed."
        if others
        else f"nor has any of the {len(train)} training {noun}s: see qgbench data verify, and mend the masks."
    )
    raise UserError(
        f"none of the {len(labelled)} labelled {noun}s (seed index {k}) has a foreground pixel in its mask, at "
        f"{masks.shape[1]} x {masks.shape[2]} pixels, so there is nothing to learn; {remedy}"
    )


def _warn_of_unseen(prepared: Prepared, val: list[int], train: list[int]) -> None:
    """Warn of classes that images to train on (rows of `prepared`) show and none of those to validate on does."""
    masks = prepared.masks
    assert masks is not None, "a data set that is split has masks"

    def shows(rows: list[int], label: int) -> bool:
        return any((masks[row] == label).any() for row in rows)

    labels = enumerate(prepared.classes, start=1)
    if unseen := [name for label, name in labels if not shows(val, label) and shows(train, label)]:
        pictures, more = f"{prepared.noun}s", "images" if prepared.volumes is None else "patients"
        logger.warning(
            "none of the %d %s to validate on shows %s at %d x %d pixels, and %s to train on do, so validation says "
            "nothing of it: add %s, or take another split.",
            *(len(val), pictures, name_any(unseen), *masks.shape[1:], pictures, more),
        )
