"""The images of one data set behind one interface, `Source`, whatever they are read from. Imports no torch."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qgbench.base.errors import UserError
from qgbench.base.logs import logger
from qgbench.data.cards import Card


@dataclass(frozen=True)
class Slice:
    """Where an image lies in a volume.

    Attributes
    ----------
    volume : str
        Its id.
    index : int
        Place of the slice, from 0.
    spacing : (depth, height, width), or None
        Size of a voxel in mm; None where it is not known, and voxels are counted.
    """

    volume: str
    index: int
    spacing: tuple[float, float, float] | None


class Source(ABC):
    """The images of one data set, read one at a time.

    Attributes
    ----------
    card : Card
        Its facts; `name` is the card's.
    ids : list of str
        Names of the images, sorted.
    groups : list of str
        Patient, lesion or video of each image, aligned with `ids`; the id itself where none is known.
    labelled : bool
        Whether every image has a mask; otherwise none has.
    extra : Source or None
        Further images of the same data set without a mask.
    volumes : mapping of str to Slice
        Of images that are slices of volumes, where each lies; empty for pictures.
    """

    card: Card
    ids: list[str]
    groups: list[str]
    labelled: bool
    extra: "Source | None" = None
    volumes: Mapping[str, Slice] = MappingProxyType({})

    @property
    def name(self) -> str:
        """Name of the data set, as records show it."""
        return self.card.name

    @property
    def noun(self) -> str:
        """What an image is: 'image', or 'slice' of a volume."""
        return "slice" if self.volumes else "image"

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes that masks show."""
        return self.card.class_names

    @abstractmethod
    def image(self, id: str) -> NDArray[np.uint8]:
        """Read an image: (H, W, 3) uint8, RGB. Raises UserError if it cannot be read."""

    @abstractmethod
    def mask(self, id: str) -> NDArray[Any]:
        """Read a mask: (H, W), of its image's size.

        For one class it is bool; for K > 1 a label map, uint8: 0 is the background, k the k-th of `classes`.

        Raises
        ------
        UserError
            It cannot be read, or holds other values than the card names.
        """

    @abstractmethod
    def content_key(self) -> str:
        """Return a fingerprint (64 hexadecimal digits) that changes whenever an image or a mask does."""


def name_some(names: list[str], noun: str) -> str:
    """Return how many names there are, and the first five: ``7 images (a, b, c, d, e, ...)``."""
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"{len(names)} {noun}{'s' if len(names) > 1 else ''} ({shown})"


def name_any(names: list[str]) -> str:
    """Return names as alternatives, of many the first five: ``a or b``; ``a, b, c, d, e or any of 3 others``."""
    if len(names) <= 6:
        return " or ".join(names)
    return f"{', '.join(names[:5])} or any of {len(names) - 5} others"


def refuse_case_twins(files: Mapping[str, Path]) -> None:
    """Refuse images or volumes, by name, that would be one on a disk that ignores case."""
    by_folded: dict[str, Path] = {}
    for id, file in files.items():
        if (other := by_folded.setdefault(id.casefold(), file)) is not file:
            raise UserError(
                f"{other} and {file.name} differ in nothing but case, and on a disk that ignores case one would "
                "replace the other; rename one of them (and its mask or label)."
            )


def warn_of_alike(groups: Iterable[str], where: str) -> None:
    """Warn of groups that are one if somebody, or a spreadsheet, wrote it in two ways: they may part a patient."""
    ways: dict[str, list[str]] = {}
    for group in sorted(set(groups)):
        plain = re.sub(r"[\s\u200b-\u200d\ufeff]+", " ", group)
        plain = re.sub(r"^([0-9]+)\.0+$", r"\1", plain.replace(" ", ""))
        ways.setdefault(re.sub(r"(?<![0-9.])0+(?=[0-9])", "", plain).casefold(), []).append(group)
    if alike := [" and ".join(map(repr, written)) for written in ways.values() if len(written) > 1]:
        logger.warning(
            "%s: groups that differ only in case, blanks, leading zeros or '.0' count as different ones, in %s. Write "
            "each group in one way.",
            where,
            name_some(alike, "case"),
        )
