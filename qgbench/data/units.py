"""What is measured of a data set: its images or, where these are slices, whole volumes. Imports no torch."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qgbench.data.source import Slice
from qgbench.metrics.table import DistanceUnit


@dataclass(frozen=True)
class Unit:
    """One row of results in each class.

    Attributes
    ----------
    id : str
        Of the image or the volume.
    images : list of str
        Ids: of the image itself, or of the volume's slices in order.
    spacing : (float, float) or (float, float, float)
        Height and width of a pixel, or depth, height and width of a voxel, in the data set's `distance_unit`.
    """

    id: str
    images: list[str]
    spacing: tuple[float, ...]

    @property
    def is_volume(self) -> bool:
        """Whether it has slices."""
        return len(self.spacing) == 3

    def whole(self, masks: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Return masks of `images`, each (H, W), as one: (H, W), or (D, H, W) of a volume."""
        return np.stack(masks) if self.is_volume else masks[0]


def units_of(ids: Iterable[str], volumes: Mapping[str, Slice]) -> list[Unit]:
    """Return what is measured, sorted by id.

    Parameters
    ----------
    ids : iterable of str
        Images of a data set.
    volumes : mapping of str to Slice
        As `qgbench.data.source.Source.volumes`: empty for pictures.
    """
    if not volumes:
        return [Unit(id, [id], (1.0, 1.0)) for id in sorted(ids)]
    known = distance_unit(volumes) == "mm"
    slices: dict[str, list[str]] = {}
    for id in sorted(ids, key=lambda id: (volumes[id].volume, volumes[id].index)):
        slices.setdefault(volumes[id].volume, []).append(id)
    return [Unit(volume, own, (known and volumes[own[0]].spacing) or (1.0, 1.0, 1.0)) for volume, own in slices.items()]


def distance_unit(volumes: Mapping[str, Slice]) -> DistanceUnit:
    """Return the unit of distances in a data set: mm where the spacing of all its volumes is known, else voxels."""
    if not volumes:
        return "px"
    return "mm" if all(place.spacing is not None for place in volumes.values()) else "voxel"


def volume_of(id: str) -> str:
    """Return the volume of a slice, by the slice's id."""
    return id.rpartition("_z")[0]
