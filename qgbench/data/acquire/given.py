"""Splits that someone else made: read from the files they published, and matched to the images at hand.

Read are CSV files with a column of images (`IMAGE_COLUMNS`; paths, file names or ids) and text files (.txt, .list) with
an image a line, before whose mask there is a space. The part that an image belongs to is in a column (`PART_COLUMNS`),
or a word of the file's name: train, val, test; labelled, unlabelled, which together are the training part. A file that
names no part lists the images that are used of the pools.

Of volumes a line names a patient, a volume or a slice, also as SSL4MIS does: ``VOLUME_slice_1`` is the first slice, and
where a patient's frames have other numbers than the data, ``_frame01`` is the first of them, ``_frame02`` the second.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import as_file
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qgbench.base.errors import UserError, unreadable
from qgbench.base.logs import logger
from qgbench.base.text import read_table, read_text, refuse_empty
from qgbench.data.cards import Card, card_folder, load_card
from qgbench.data.images import IMAGE_SUFFIXES
from qgbench.data.layouts import id_of
from qgbench.data.readers import Source, name_some
from qgbench.data.source import Slice
from qgbench.data.splits import PARTS
from qgbench.data.units import volume_of
from qgbench.data.volume_files import stem_of
from qgbench.data.volume_layouts import FRAME, SLICE
from qgbench.data.volumes import slice_id

IMAGE_COLUMNS = ("image_path", "image", "id", "stem", "image_id", "image_name", "filename", "name")
PART_COLUMNS = ("split", "set", "part", "subset")
_LABELLED, _UNLABELLED = "labelled", "unlabelled"
_WORDS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
    _LABELLED: ("labelled", "labeled"),
    _UNLABELLED: ("unlabelled", "unlabeled"),
}
_PART_OF_WORD = {word: part for part, words in _WORDS.items() for word in words}
_PURPOSE = {"train": "train on", "val": "validate on", "test": "test on"}
_SUFFIXES = (".csv", ".txt", ".list")
_SUFFIX = re.compile(rf"(?:{'|'.join(map(re.escape, IMAGE_SUFFIXES))})$", re.IGNORECASE)
_FIRST_FILE = re.compile(rf".*?(?:{'|'.join(map(re.escape, IMAGE_SUFFIXES))})(?=\s|$)", re.IGNORECASE)
_LEAST_IMAGES = 2  # in each part


@dataclass(frozen=True, eq=False)
class GivenSplit:
    """A split that someone else made.

    Attributes
    ----------
    table : DataFrame
        Columns id, group, split ('train', 'val' or 'test'); sorted by id. Images that no file names are not in it.
    labelled : list of str or None
        The labelled images, sorted; None where the files leave the choice open.
    pool : list of str or None
        The images that are used of the pools, sorted; None for all.
    """

    table: pd.DataFrame
    labelled: list[str] | None
    pool: list[str] | None

    @property
    def kind(self) -> str:
        """Its name in a regime: ``given-`` and 8 hexadecimal digits of a hash over everything that it says."""
        rows = sorted(map(tuple, self.table[["id", "split"]].astype(str).to_numpy()))
        return f"given-{hashlib.sha256(repr((rows, self.labelled, self.pool)).encode()).hexdigest()[:8]}"


def read_given(paths: Sequence[Path], source: Source, pools: Sequence[Source] = ()) -> GivenSplit:
    """Read a published split.

    Parameters
    ----------
    paths : sequence of Path
        Files, or folders whose .csv and .txt files are all read.
    source : Source
        The data set that is split.
    pools : sequence of Source
        Pools of which the files may list images.

    Raises
    ------
    UserError
        A file cannot be read or does not say which image or part a row means; an image is not there, or in two parts;
        a part has fewer than 2 images; a pool is given of which the files that list pool images name none.
    """
    ids_of_part: dict[str, set[str]] = {part: set() for part in _WORDS}
    of_source: _Names | _VolumeNames = _VolumeNames(source) if source.volumes else _Names(source)
    of_pools = [_Names(pool) for pool in pools]
    from_pools: dict[str, set[str]] = {pool.name: set() for pool in pools}
    for file in _files(paths):
        for part, names in _rows(file):
            found, absent = of_source.match(names)
            if part in (None, _UNLABELLED):
                for pool, in_pool in zip(pools, of_pools, strict=True):
                    ids, absent = in_pool.match(absent)
                    from_pools[pool.name] |= ids
            if part is None and (found or not pools):
                raise UserError(
                    f"{file} does not say which part its {source.noun}s belong to: give it a column "
                    f"({', '.join(PART_COLUMNS)}) or a name with one of {', '.join(_WORDS)}; or, to qgbench run, "
                    "name the pool that it lists (--pool)."
                )
            if absent:
                places = " or ".join(f"'{place.name}'" for place in (source, *pools))
                raise UserError(
                    f"{file}: {name_some(absent, 'volume' if source.volumes else 'image')} not in {places}. Complete "
                    "the folder, or take the split of what is in it."
                )
            ids_of_part[part or _UNLABELLED] |= found
    return _assembled(ids_of_part, from_pools, source)


def read_shipped(dataset: str, kind: str, listed: pd.DataFrame) -> GivenSplit | None:
    """Read a published split that ships, without the images; None where it does not ship.

    Parameters
    ----------
    dataset : str
        Name of a shipped data set.
    kind : str
        As `GivenSplit.kind`.
    listed : DataFrame
        Its images and their groups: columns id and group, as in a committed split.
    """
    with as_file(card_folder(dataset).joinpath("splits", f"{kind}.csv")) as file:
        return read_given([file], _Listed(load_card(dataset), listed)) if file.is_file() else None


class _Listed(Source):
    """Names of images and their groups, of which none is here."""

    def __init__(self, card: Card, listed: pd.DataFrame) -> None:
        self.card, self.labelled = card, True
        group_of = dict(zip(listed["id"], listed["group"], strict=True))
        self.ids = sorted(group_of)
        self.groups = [group_of[id] for id in self.ids]
        if card.volumes is not None:
            places = {id: (volume_of(id), int(id.rpartition("_z")[2])) for id in self.ids}
            self.volumes = {id: Slice(volume, index, None) for id, (volume, index) in places.items()}

    def image(self, id: str) -> NDArray[np.uint8]:
        raise NotImplementedError

    mask = image

    def content_key(self) -> str:
        raise NotImplementedError


class _Names:
    """What may be meant by a path, a file name, an id, or a line "image mask": the images of one source."""

    def __init__(self, source: Source) -> None:
        self._layouts = source.card.layout
        self._ids = set(source.ids)
        self._by_number: dict[int, list[str]] = {}  # 7 may be written for 007
        for id in source.ids:
            if id.isdecimal():
                self._by_number.setdefault(int(id), []).append(id)

    def match(self, names: list[str]) -> tuple[set[str], list[str]]:
        """Return the ids that are meant, and the names that mean none."""
        found = [self._match(name) for name in names]
        absent = [name for name, id in zip(names, found, strict=True) if id is None]
        return {id for id in found if id is not None}, absent

    def _match(self, written: str) -> str | None:
        before_mask = _FIRST_FILE.match(written)
        for text in (written, *([before_mask[0]] if before_mask else []), *written.split()[:1]):
            path = unicodedata.normalize("NFC", text.replace("\\", "/"))
            name = PurePosixPath(path).name
            stem = _SUFFIX.sub("", name)
            for candidate in (name, stem, *(id_of(layout, path) for layout in self._layouts)):
                if candidate in self._ids:
                    return candidate
            if stem.isdecimal() and len(same := self._by_number.get(int(stem), [])) == 1:
                return same[0]
        return None


class _VolumeNames:
    """What may be meant by the name or the file of a slice, a volume or a patient: slices of one source."""

    def __init__(self, source: Source) -> None:
        self._ids = set(source.ids)
        self._volumes: dict[str, list[str]] = {}
        of_group: dict[str, list[str]] = {}  # volumes
        of_frames: dict[str, list[str]] = {}  # by the names of volumes: two patients of a list may be one group
        for id, patient in zip(source.ids, source.groups, strict=True):
            volume = source.volumes[id].volume
            if volume not in self._volumes:
                of_group.setdefault(patient, []).append(volume)
                if frame := FRAME.fullmatch(volume):
                    of_frames.setdefault(frame["patient"], []).append(volume)
            self._volumes.setdefault(volume, []).append(id)
        self._of_patient = of_group | of_frames

    def match(self, names: list[str]) -> tuple[set[str], list[str]]:
        """Return the slices that are meant, and the names that mean none."""
        plain = [self._plain(name) for name in names]
        slices = [SLICE.fullmatch(name) for name in plain]
        named = [cut["volume"] if cut else name for name, cut in zip(plain, slices, strict=True)]
        volume_of = self._volumes_named(set(named))
        first = min((int(cut["number"]) for cut in slices if cut), default=1)
        ids: set[str] = set()
        absent = []
        for written, name, cut in zip(names, plain, slices, strict=True):
            if name in self._ids:
                meant = {name}
            elif cut is None:
                volumes = self._of_patient.get(name) or ([volume_of[name]] if name in volume_of else [])
                meant = {id for volume in volumes for id in self._volumes[volume]}
            else:
                volume, place = volume_of.get(cut["volume"]), int(cut["number"]) - min(first, 1)
                meant = set() if volume is None else {slice_id(volume, place)} & self._ids
            ids |= meant
            if not meant:
                absent.append(written)
        return ids, absent

    @staticmethod
    def _plain(written: str) -> str:
        name = PurePosixPath(unicodedata.normalize("NFC", written.split()[0].replace("\\", "/"))).name
        return stem_of(Path(name)) or name

    def _volumes_named(self, names: set[str]) -> dict[str, str]:
        """Return the volume that each name means, if it means one; frames of a patient by their order (module)."""
        found = {name: name for name in names if name in self._volumes}
        frames: dict[str, dict[int, str]] = {}
        for name in names:
            if frame := FRAME.fullmatch(name):
                frames.setdefault(frame["patient"], {})[int(frame["number"])] = name
        for patient, named in frames.items():
            volumes = sorted(self._of_patient.get(patient, []), key=_frame_number)
            if not all(name in self._volumes for name in named.values()):
                in_order = dict(enumerate(volumes, start=1))
                found |= {name: in_order[number] for number, name in named.items() if number in in_order}
        return found


def _frame_number(volume: str) -> int:
    frame = FRAME.fullmatch(volume)
    return int(frame["number"]) if frame else 0


def _files(paths: Iterable[Path]) -> list[Path]:
    files = []
    for path in paths:
        if not path.exists():
            raise UserError(f"there is no file or folder {path}; name the files of the split, or their folder.")
        try:
            inside = sorted(path.iterdir()) if path.is_dir() else [path]
        except OSError as error:
            raise unreadable(path, error) from error
        inside = [file for file in inside if file.suffix.lower() in _SUFFIXES]
        if not inside:
            raise UserError(
                f"{path} is no split: expected a {', '.join(_SUFFIXES[:-1])} or {_SUFFIXES[-1]} file, or a folder with "
                "such files."
            )
        files += inside
    return files


def _rows(file: Path) -> list[tuple[str | None, list[str]]]:
    """Return a file's pairs of a part (None where it says none) and images as they are written."""
    part = _part_of_name(file)
    if file.suffix.lower() != ".csv":
        return [(part, [line.strip() for line in read_text(file).splitlines() if line.strip()])]
    table = read_table(file, (*IMAGE_COLUMNS, *PART_COLUMNS))
    image = next((name for name in IMAGE_COLUMNS if name in table.columns), None)
    if image is None:
        raise UserError(
            f"{file} has the columns {', '.join(table.columns)}; expected one of {', '.join(IMAGE_COLUMNS)}."
        )
    refuse_empty(table, image, file)
    parts = [name for name in PART_COLUMNS if name in table.columns]
    if len(parts) > 1:
        raise UserError(f"{file} has the columns {' and '.join(parts)}, which both name parts; keep one of them.")
    column = parts[0] if parts else None
    if column is None:
        return [(part, table[image].tolist())]
    refuse_empty(table, column, file)
    words = table[column].str.casefold()
    if unknown := sorted(set(words) - set(_PART_OF_WORD)):
        raise UserError(f"{file}, column {column}: {', '.join(unknown)}? Expected {', '.join(_WORDS)}.")
    return [(p, table.loc[words.map(_PART_OF_WORD) == p, image].tolist()) for p in _WORDS]


def _part_of_name(file: Path) -> str | None:
    words = re.split(r"[^a-z]+", file.stem.casefold())
    parts = {_PART_OF_WORD[word] for word in words if word in _PART_OF_WORD}
    for whole in (_UNLABELLED, _LABELLED):  # train_unlabelled.txt
        if whole in parts:
            return whole
    return parts.pop() if len(parts) == 1 else None


def _assembled(ids_of_part: dict[str, set[str]], from_pools: dict[str, set[str]], source: Source) -> GivenSplit:
    labelled = ids_of_part[_LABELLED]
    if twice := sorted(labelled & ids_of_part[_UNLABELLED]):
        raise UserError(f"the split calls {name_some(twice, source.noun)} labelled and unlabelled.")
    ids_of_part = {**ids_of_part, "train": ids_of_part["train"] | labelled | ids_of_part[_UNLABELLED]}
    part_of: dict[str, str] = {}
    for part in PARTS:
        if twice := sorted(set(part_of) & ids_of_part[part]):
            where = f"{part_of[twice[0]]} and {part}"
            raise UserError(f"the split has {name_some(twice, source.noun)} in two parts ({where}).")
        part_of.update(dict.fromkeys(ids_of_part[part], part))
        if len(ids_of_part[part]) < _LEAST_IMAGES:
            raise UserError(
                f"the split has {len(ids_of_part[part])} {source.noun}s to {_PURPOSE[part]}; 2 or more are needed. "
                f"Name another file with --split-from, whose name says {part}."
            )
    _refuse_parted(source, part_of)
    _refuse_parted_labels(source, labelled, ids_of_part["train"])
    group_of = dict(zip(source.ids, source.groups, strict=True))
    rows = [(id, group_of[id], part) for id, part in sorted(part_of.items())]
    table = pd.DataFrame(rows, columns=["id", "group", "split"])
    if left_out := sorted(set(source.ids) - set(part_of)):
        logger.warning("the split leaves out %s of '%s'.", name_some(left_out, source.noun), source.name)
    if crossing := int((table.groupby("group")["split"].nunique() > 1).sum()):
        logger.warning(
            "in this split %d groups (%s) have %ss in several parts: scores on its test part are too good.",
            crossing,
            source.card.groups,
            source.noun,
        )
    pool = sorted(set().union(*from_pools.values()))
    if pool and (unused := [name for name, ids in from_pools.items() if not ids]):
        raise UserError(f"the split lists images of pools, but none of {', '.join(unused)}; leave that pool out.")
    return GivenSplit(table, sorted(labelled) or None, pool or None)


def _refuse_parted_labels(source: Source, labelled: set[str], train: set[str]) -> None:
    """Refuse a patient of volumes of whom only some slices to train on are labelled: budgets count patients."""
    if not (source.volumes and labelled):
        return
    group_of = dict(zip(source.ids, source.groups, strict=True))
    if parted := sorted({group_of[id] for id in labelled} & {group_of[id] for id in train - labelled}):
        raise UserError(
            f"the split calls only some slices of {name_some(parted, 'patient')} labelled: list all slices or volumes "
            "of a patient, or the patient, as labelled or as unlabelled."
        )


def _refuse_parted(source: Source, part_of: dict[str, str]) -> None:
    """Refuse slices of one volume in several parts, or of which only some are listed: volumes are measured whole."""
    parts: dict[str, set[str | None]] = {}
    for id, place in source.volumes.items():
        parts.setdefault(place.volume, set()).add(part_of.get(id))
    if parted := sorted(volume for volume, of_volume in parts.items() if len(of_volume) > 1):
        raise UserError(
            f"the split has slices of {name_some(parted, 'volume')} in several parts, or leaves some out: list all "
            "slices of a volume in one part, or the volume itself."
        )
