"""Data sets of volumes: their slices are images, their patients groups, and each slice knows its place."""

import hashlib
import inspect
import os
import threading
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from qgbench.base.errors import QGBenchError, UserError
from qgbench.base.text import read_table, refuse_empty
from qgbench.data import phantom3d
from qgbench.data.cards import Card, load_card
from qgbench.data.content import hash_files
from qgbench.data.images import MaskValuesError
from qgbench.data.source import Slice, Source, name_some, warn_of_alike
from qgbench.data.volume_files import Spacing, VolumeFiles, read_labels, read_shape, read_volume
from qgbench.data.volume_layouts import LAYOUTS, VolumeFolder, find_volumes

PHANTOM_3D = "phantom3d"
_READER = "volumes 1"  # part of every key: raised whenever the same files would give other slices
_KEPT = 16  # images and masks of volumes: of as many as threads may be at work on


def slice_id(volume: str, index: int) -> str:
    """Return the id of a volume's slice: ``patient001_frame01_z004``; `qgbench.data.units.volume_of` is its inverse."""
    return f"{volume}_z{index:03}"


class VolumeSource(Source):
    """Slices of volumes.

    A volume is decoded once for all its slices, as long as they are asked for one after the other.

    Parameters
    ----------
    card : Card
    depths : mapping of str to int
        Number of slices of each volume.
    spacings : mapping of str to (depth, height, width) or None
        In mm; None where it is not known.
    patients : mapping of str to str
        Of each volume.
    """

    def __init__(
        self,
        card: Card,
        depths: Mapping[str, int],
        spacings: Mapping[str, Spacing | None],
        patients: Mapping[str, str],
    ) -> None:
        self.card = card
        places = {
            slice_id(volume, z): Slice(volume, z, None if card.voxels else spacings[volume])
            for volume, depth in depths.items()
            for z in range(depth)
        }
        self.ids = sorted(places)
        self.volumes = {id: places[id] for id in self.ids}
        named = [patients[place.volume] for place in self.volumes.values()]
        self.groups = [card.same_patient.get(name, name) for name in named]
        self.labelled = True
        self._lock = threading.Lock()
        self._read: OrderedDict[tuple[str, str], Future[NDArray[Any]]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        kept = self.__dict__.copy()
        del kept["_lock"], kept["_read"]
        return kept

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()
        self._read = OrderedDict()

    @abstractmethod
    def greys(self, volume: str) -> NDArray[np.uint8]:
        """Return a volume's image: (D, H, W) uint8."""

    @abstractmethod
    def masks(self, volume: str) -> NDArray[Any]:
        """Return a volume's masks (D, H, W), as `mask` gives those of its slices."""

    def image(self, id: str) -> NDArray[np.uint8]:  # noqa: D102 (described by Source)
        place = self.volumes[id]
        return np.repeat(self._whole("image", place.volume)[place.index][..., None], 3, axis=2)

    def mask(self, id: str) -> NDArray[Any]:  # noqa: D102 (described by Source)
        place = self.volumes[id]
        return self._whole("mask", place.volume)[place.index]

    def _whole(self, what: str, volume: str) -> NDArray[Any]:
        """Return a volume's image or masks: whichever thread asks first reads them, the others wait."""
        with self._lock:
            future = self._read.get((what, volume))
            is_mine = future is None
            if future is None:
                future = self._read[what, volume] = Future()
                if len(self._read) > _KEPT:
                    self._read.popitem(last=False)
        if is_mine:
            try:
                future.set_result((self.greys if what == "image" else self.masks)(volume))
            except BaseException as error:
                future.set_exception(error)
                with self._lock:
                    self._read.pop((what, volume), None)
        return future.result()


class FileVolumes(VolumeSource):
    """Volumes in files.

    Parameters
    ----------
    card : Card
        Its `classes` say which value of a label is which class; without any, labels hold 0 and one other value.
    volumes : mapping of str to VolumeFiles
    patients : mapping of str to str

    Raises
    ------
    UserError
        The header of a file cannot be read, or classes are colours.
    """

    def __init__(self, card: Card, volumes: Mapping[str, VolumeFiles], patients: Mapping[str, str]) -> None:
        if any(isinstance(value, str) for value in card.classes.values()):
            raise UserError(f"the card '{card.name}' tells classes by colours; labels of volumes hold numbers.")
        shapes = {name: read_shape(files) for name, files in volumes.items()}
        depths = {name: shape[0] for name, (shape, _) in shapes.items()}
        super().__init__(card, depths, {name: spacing for name, (_, spacing) in shapes.items()}, patients)
        self.files = volumes

    def greys(self, volume: str) -> NDArray[np.uint8]:  # noqa: D102 (described by VolumeSource)
        return read_volume(self.files[volume])

    def masks(self, volume: str) -> NDArray[Any]:  # noqa: D102 (described by VolumeSource)
        file, labels = self.files[volume].labels[0], read_labels(self.files[volume])
        found = np.unique(labels)
        values = [int(value) for value in self.card.classes.values()]
        if unknown := [int(value) for value in found if value and value not in values]:
            if values:
                pairs = [f"{name}={value}" for name, value in self.card.classes.items()]
                names = ", ".join(pairs[:5]) + (f" and {len(pairs) - 5} more" if len(pairs) > 5 else "")
                share = float(np.isin(labels, unknown).mean())
                raise MaskValuesError(
                    f"{file} holds {name_some(list(map(str, unknown)), 'value')} that no class has ({share:.2%} of the "
                    f"voxels); the classes are {names}. Mend the label, or name the class."
                )
            if len(unknown) > 1:
                raise MaskValuesError(
                    f"{file} holds {name_some(list(map(str, unknown)), 'value')} beside 0: name the classes "
                    "(--classes heart=1,lung=2), or keep one value."
                )
        if len(values) < 2:
            return labels > 0
        table = np.zeros(max(values) + 1, np.uint8)
        table[values] = np.arange(1, len(values) + 1)
        return table[labels]

    def content_key(self) -> str:
        """Return a hash of every file's name and bytes and of the classes; only files that changed are read again."""
        files = [(name, file) for name, of_volume in self.files.items() for file in of_volume.all]
        digest = hashlib.sha256(f"{_READER}\0{list(self.card.classes.values())}\0".encode())
        for (name, file), content in zip(files, hash_files([file for _, file in files]), strict=True):
            digest.update(f"{name}\0{file.name}\0".encode() + content)
        return digest.hexdigest()


class PhantomVolumes(VolumeSource):
    """The generated data set of `qgbench.data.phantom3d`.

    Parameters
    ----------
    patients, depth, size, seed : int
        As `qgbench.data.phantom3d.draw_patient`.
    """

    def __init__(self, patients: int = 12, depth: int = 8, size: int = 64, seed: int = 2611) -> None:
        self._arguments = (depth, size, seed)
        self._places = {f"p{p:02}_{phase}": (p, phase) for p in range(patients) for phase in range(phantom3d.PHASES)}
        super().__init__(
            load_card(PHANTOM_3D),
            dict.fromkeys(self._places, depth),
            {name: phantom3d.draw_spacing(patient, seed) for name, (patient, _) in self._places.items()},
            {name: f"p{patient:02}" for name, (patient, _) in self._places.items()},
        )

    def greys(self, volume: str) -> NDArray[np.uint8]:  # noqa: D102 (described by VolumeSource)
        return self._drawn(volume).image

    def masks(self, volume: str) -> NDArray[Any]:  # noqa: D102 (described by VolumeSource)
        return self._drawn(volume).labels

    def _drawn(self, volume: str) -> phantom3d.PhantomVolume:
        patient, phase = self._places[volume]
        return phantom3d.draw_patient(patient, *self._arguments)[phase]

    def content_key(self) -> str:
        """Return a hash of the generator's source, its arguments and the libraries it computes with; draw nothing."""
        parts = (inspect.getsource(phantom3d), _READER, self._arguments, len(self._places))
        return hashlib.sha256(repr((*parts, np.__version__, scipy.__version__)).encode()).hexdigest()


def open_volumes(card: Card, folder: Path) -> FileVolumes:
    """Open a data set of volumes.

    Parameters
    ----------
    card : Card
        Its classes count, not those that the folder tells of.
    folder : Path
        In one of the layouts of `qgbench.data.volume_layouts`; a ``groups.csv`` in it (columns stem, group) names the
        patient of each volume.

    Raises
    ------
    UserError
        It holds no volumes, or what `find_volumes` and `FileVolumes` raise.
    """
    if (found := find_volumes(folder)) is None:
        raise UserError(f"there are no volumes in {folder}; expected {LAYOUTS}.")
    return FileVolumes(card, found.volumes, patients_of(found, folder / "groups.csv"))


def patients_of(found: VolumeFolder, table: Path | None) -> Mapping[str, str]:
    """Return the patient of each volume: as a CSV with the columns stem and group says, where it is there.

    It warns of patients that are one if somebody wrote it in two ways.

    Raises
    ------
    UserError
        It cannot be read, or a volume has no row or two.
    """
    if table is None or not os.path.lexists(table):
        if found.has_patients:
            warn_of_alike(found.patients.values(), str(found.folder))
        return found.patients
    rows = read_table(table, ("stem", "group"))
    if not {"stem", "group"} <= set(rows.columns):
        raise UserError(f"{table} has the columns {', '.join(rows.columns)}; expected stem and group.")
    refuse_empty(rows, "stem", table)
    refuse_empty(rows, "group", table)
    faults = {
        "listed twice": sorted(set(rows["stem"][rows["stem"].duplicated()])),
        "listed that are not there": sorted(set(rows["stem"]) - set(found.volumes)),
        "not listed": sorted(set(found.volumes) - set(rows["stem"])),
    }
    for fault, names in faults.items():
        if names:
            raise UserError(
                f"{table}: {name_some(names, 'volume')} {fault}. Every volume has one row (stem, group), and is called "
                f"{next(iter(found.volumes))} and the like, without suffix and channel (_0000)."
            )
    warn_of_alike(rows["group"], str(table.resolve()))
    return dict(zip(rows["stem"], rows["group"], strict=True))


def spacing_words(source: Source) -> str:
    """Return the spacing of volumes: ``5 to 10 x 1.4 x 1.4 mm``, or that it is not known."""
    known = [place.spacing for place in source.volumes.values() if place.spacing is not None]
    if len(known) < len(source.volumes):
        return "not known: distances are in voxels"
    ends = zip(np.min(known, axis=0), np.max(known, axis=0), strict=True)
    sides = [f"{low:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g} to {high:.3g}" for low, high in ends]
    return f"{' x '.join(sides)} mm (between slices, down, across)"


def counted(source: Source) -> tuple[int, int]:
    """Return the number of volumes and of patients; raises QGBenchError for pictures."""
    if not source.volumes:
        raise QGBenchError(f"'{source.name}' holds pictures, not volumes")
    return len({place.volume for place in source.volumes.values()}), len(set(source.groups))
