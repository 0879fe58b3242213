"""Folders of volumes, as their owners or the field's tools lay them out; told by what they hold.

================= ==================================================================================================
nnU-Net, Decathlon ``imagesTr/CASE.nii.gz`` or ``CASE_0000.nii.gz``, ``labelsTr/CASE.nii.gz``, ``dataset.json``
ACDC               ``patientNNN/patientNNN_frameMM.nii.gz`` and ``patientNNN_frameMM_gt.nii.gz``
SSL4MIS            ``VOLUME.h5``, or ``VOLUME_slice_N.h5`` where there is no such volume (image and label in each)
================= ==================================================================================================

There may be folders above and between; hidden files and all others are passed over, so are ``imagesTs`` and ACDC's
``_4d`` files. A patient is what ``patientNNN_frameMM`` names, else each volume is a patient of its own.
"""

import json
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qgbench.base.errors import UserError
from qgbench.base.text import read_text
from qgbench.data.cards import NO_CLASSES
from qgbench.data.images import IMAGE_SUFFIXES
from qgbench.data.source import name_some, refuse_case_twins
from qgbench.data.volume_files import VolumeFiles, is_hdf5, stem_of

LAYOUTS = (
    "imagesTr/, labelsTr/ and dataset.json (nnU-Net, Decathlon); patientNNN_frameMM.nii.gz and ..._gt.nii.gz (ACDC); "
    "VOLUME.h5 or VOLUME_slice_N.h5 (SSL4MIS)"
)
FRAME = re.compile(r"(?P<patient>patient\d+)_frame(?P<number>\d+)", re.IGNORECASE)
SLICE = re.compile(r"(?P<volume>.+)_slice_?(?P<number>\d+)", re.IGNORECASE)
_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")
_HEART: Mapping[str, int] = {"rv": 1, "myo": 2, "lv": 3}


@dataclass(frozen=True)
class VolumeFolder:
    """What a folder of volumes holds.

    Attributes
    ----------
    folder : Path
        Below which all files lie.
    volumes : mapping of str to VolumeFiles
        By the volume's name, sorted.
    patients : mapping of str to str
        Of each volume.
    classes : mapping of str to int
        Name and value of each class, in the order of the values; empty where the folder does not say.
    facts : mapping of str to str
        What the folder says of itself: title, terms, citation.
    described_in : tuple of Path
        Files that this was read from, beside the volumes.
    promised : int, optional
        How many volumes ``dataset.json`` says there are (``numTraining``); None where it does not say.
    """

    folder: Path
    volumes: Mapping[str, VolumeFiles]
    patients: Mapping[str, str]
    classes: Mapping[str, int]
    facts: Mapping[str, str]
    described_in: tuple[Path, ...] = ()
    promised: int | None = None

    @property
    def has_patients(self) -> bool:
        """Whether names tell patients; otherwise each volume is one."""
        return any(volume != patient for volume, patient in self.patients.items())

    @property
    def told_in(self) -> str:
        """The file that tells the classes, or the folder."""
        return str((*self.described_in, self.folder)[0])

    def named_classes(self) -> Mapping[str, int]:
        """Return the classes; raise UserError where a name in ``dataset.json`` can be that of none."""
        if wrong := [name for name in self.classes if not name or name in NO_CLASSES]:
            others = {name: f"class{value}" if name in wrong else name for name, value in self.classes.items()}
            typed = ",".join(f"{others[name]}={value}" for name, value in self.classes.items())
            raise UserError(
                f"{self.told_in}: the label {self.classes[wrong[0]]} is called '{wrong[0]}', which cannot name "
                f"a class; give names of your own: --classes {typed}"
            )
        return self.classes


def find_volumes(folder: Path) -> VolumeFolder | None:
    """Return what a folder of volumes holds; None where it is in none of the layouts. Nothing is decoded.

    Raises
    ------
    UserError
        Images without a label or the reverse, several files of one volume, names that differ in nothing but case,
        several channels, a ``dataset.json`` that cannot be understood; or the folder cannot be read.
    """
    files = list(_files(folder))
    roots = {where.parent for where, _ in _walked(folder) if where.name == "imagesTr"}
    if len(roots) > 1:
        raise UserError(f"{folder} holds several data sets ({name_some(sorted(map(str, roots)), 'folder')}); name one.")
    found = _of_nnunet(roots.pop()) if roots else _of_acdc(folder, files) or _of_ssl4mis(folder, files)
    if found is not None:
        refuse_case_twins({name: of_volume.images[0] for name, of_volume in found.volumes.items()})
    return found


def _files(folder: Path) -> Iterator[Path]:
    for where, names in _walked(folder):
        yield from (where / name for name in names if not name.startswith(".") and stem_of(Path(name)))


def _pictures(folder: Path) -> Iterator[str]:
    for _, names in _walked(folder):
        yield from (name for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith("."))


def _walked(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield each folder that is looked into, and the names of its files."""

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read ({error.strerror}); may you read it?") from error

    for where, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        yield Path(where), sorted(names)


def _of_acdc(folder: Path, files: list[Path]) -> VolumeFolder | None:
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    for file in files:
        stem = _name(file)
        found = labels if stem.lower().endswith("_gt") else images
        stem = stem[:-3] if found is labels else stem
        if FRAME.fullmatch(stem) and not is_hdf5(file):
            _keep_one(found, stem, file)
    if not images and not labels:
        return None
    return VolumeFolder(folder, _paired(folder, images, labels), _patients(images), _HEART, {})


def _of_nnunet(root: Path) -> VolumeFolder:
    labels: dict[str, Path] = {}
    images: dict[str, Path] = {}
    if not (root / "labelsTr").is_dir():
        raise UserError(f"there is no folder {root / 'labelsTr'} beside imagesTr; complete the data set.")
    for file in _files(root / "labelsTr"):
        _keep_one(labels, _name(file), file)
    several = []
    for file in _files(root / "imagesTr"):
        name = _name(file)
        numbered = None if name in labels else _CHANNEL.fullmatch(name)
        if numbered is not None and numbered["channel"] != "0000":
            several.append(file.name)
        else:
            _keep_one(images, name if numbered is None else numbered["case"], file)
    pictures = [name for part in ("imagesTr", "labelsTr") for name in _pictures(root / part)]
    if pictures and (images or labels):
        raise UserError(
            f"{root} holds pictures beside volumes ({name_some(pictures, 'file')}): keep one kind, or make two data "
            "sets."
        )
    if several:
        raise UserError(
            f"{root / 'imagesTr'} holds several channels a case ({name_some(several, 'file')}), and one is segmented "
            "here: keep the files of one channel, ending in _0000."
        )
    if not images and not labels:
        raise UserError(f"{root / 'imagesTr'} holds no .nii or .nii.gz file; other formats are not read.")
    return VolumeFolder(root, _paired(root, images, labels), _patients(images), *_described(root / "dataset.json"))


def _of_ssl4mis(folder: Path, files: list[Path]) -> VolumeFolder | None:
    whole: dict[str, Path] = {}
    slices: dict[str, dict[int, Path]] = {}
    for file in filter(is_hdf5, files):
        if found := SLICE.fullmatch(_name(file)):
            of_volume = slices.setdefault(found["volume"], {})
            if (place := int(found["number"])) in of_volume:
                raise UserError(f"{of_volume[place]} and {file} are one slice; keep one of them.")
            of_volume[place] = file
        else:
            _keep_one(whole, _name(file), file)
    volumes: dict[str, tuple[Path, ...]] = {name: (file,) for name, file in whole.items()}
    for name, of_volume in slices.items():
        places = sorted(of_volume)
        if name in whole:
            continue
        if places != list(range(places[0], places[0] + len(places))) or places[0] > 1:
            missing = sorted(set(range(1, places[-1])) - set(places))
            raise UserError(f"{folder} lacks {name_some([f'{name}_slice_{n}' for n in missing], 'slice')}; fetch them.")
        volumes[name] = tuple(of_volume[place] for place in places)
    if not volumes:
        return None
    classes = _HEART if all(map(FRAME.fullmatch, volumes)) else {}
    paired = {name: VolumeFiles(volumes[name], volumes[name]) for name in sorted(volumes)}
    return VolumeFolder(folder, paired, _patients(volumes), classes, {})


def _name(file: Path) -> str:
    return unicodedata.normalize("NFC", stem_of(file) or file.name)


def _keep_one(found: dict[str, Path], name: str, file: Path) -> None:
    if name in found:
        raise UserError(f"{found[name]} and {file} are both the volume '{name}'; keep one of them.")
    found[name] = file


def _paired(folder: Path, images: Mapping[str, Path], labels: Mapping[str, Path]) -> dict[str, VolumeFiles]:
    if bare := sorted(set(images) - set(labels)):
        raise UserError(
            f"{name_some(bare, 'volume')} of {folder} without a label: fetch the labels, or leave them out."
        )
    if spare := sorted(set(labels) - set(images)):
        raise UserError(
            f"{name_some(spare, 'label')} of {folder} without an image: fetch the images, or leave them out."
        )
    return {name: VolumeFiles((images[name],), (labels[name],)) for name in sorted(images)}


def _patients(volumes: Mapping[str, Any]) -> dict[str, str]:
    frames = {name: FRAME.fullmatch(name) for name in volumes}
    if not all(frames.values()):
        return {name: name for name in sorted(volumes)}
    return {name: found["patient"] for name, found in sorted(frames.items()) if found}


def _described(file: Path) -> tuple[dict[str, int], dict[str, str], tuple[Path, ...], int | None]:
    """Return what a ``dataset.json`` tells, as the last fields of `VolumeFolder`; nothing where it is not there."""
    if not file.is_file():
        return {}, {}, (), None
    try:
        told = json.loads(read_text(file))
        labels = told.get("labels", {})
        channels = told.get("channel_names") or told.get("modality") or {}
        if not isinstance(labels, dict) or not isinstance(channels, dict):
            raise ValueError("labels and modality (or channel_names) are tables")
    except (ValueError, AttributeError) as error:
        raise UserError(f"{file} is not understood ({error}); mend it.") from error
    if len(channels) > 1:
        raise UserError(
            f"{file} tells of {len(channels)} channels ({', '.join(map(str, channels.values()))}), and one is "
            "segmented here: make a folder of one channel, with a dataset.json of one."
        )
    facts = {"title": told.get("name"), "terms": told.get("licence"), "citation": told.get("reference")}
    told_facts = {name: str(text) for name, text in facts.items() if text}
    promised = told.get("numTraining")
    return _classes(file, labels), told_facts, (file,), promised if isinstance(promised, int) else None


def _classes(file: Path, labels: Mapping[str, Any]) -> dict[str, int]:
    """Return name and value of each class: Decathlon has ``"1": "Anterior"``, nnU-Net ``"Anterior": 1``."""
    by_value = all(key.isdecimal() for key in labels)
    classes: dict[str, int] = {}
    for key, told in labels.items():
        name, value = (told, key) if by_value else (key, told)
        if isinstance(value, list):
            raise UserError(f"{file}: the label '{name}' is made of {value}: labels that overlap are not read.")
        if str(name).lower() == "ignore":
            raise UserError(f"{file}: a label to be ignored ({value}) is not read; give those voxels a class.")
        if not str(value).isdecimal():
            raise UserError(f"{file}: the label '{name}' has the value {value!r}; expected a whole number.")
        if int(value) > 0:
            plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", unicodedata.normalize("NFKD", str(name))).strip("_")
            if plain in classes:
                raise UserError(f"{file}: two labels are called '{plain}'; give each a name of its own.")
            classes[plain] = int(value)
    return dict(sorted(classes.items(), key=lambda item: item[1]))
