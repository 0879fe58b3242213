"""Images and their masks in two folders, wherever they lie and whoever made the masks: pictures or volumes.

A mask bears its image's name, or that and an ending (``ID_mask.png``, ``ID_gt.nii.gz``). Of volumes the image may be
called ``CASE_0000`` and its mask ``CASE``, as nnU-Net's images and predictions are. Other files beside volumes, such as
the JSON that nnU-Net leaves with its predictions, are passed over.
"""

import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path

from qgbench.base.errors import UserError
from qgbench.base.paths import list_folder, no_folder
from qgbench.data.acquire.install import own_card
from qgbench.data.cards import Card
from qgbench.data.images import IMAGE_SUFFIXES
from qgbench.data.readers import MASK_ENDINGS, open_files
from qgbench.data.source import Source, name_some
from qgbench.data.volume_files import VolumeFiles, is_hdf5, stem_of
from qgbench.data.volume_layouts import VolumeFolder
from qgbench.data.volumes import FileVolumes, patients_of

_VOLUME_ENDINGS = (*MASK_ENDINGS, "_gt")
_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")
_UNKNOWN = dict.fromkeys(("domain", "modality", "terms", "citation"), "not stated")


def open_pairs(
    images: Path, masks: Path, classes: Mapping[str, int | str] | None = None, groups: Path | None = None
) -> Source:
    """Open two folders as a labelled data set.

    Parameters
    ----------
    images, masks : Path
        Folders of pictures (`qgbench.data.readers`) or of volumes (`qgbench.data.volume_files`).
    classes : mapping of str to int, or to str, optional
        Name and value, or colour, of each class in the masks; where None, masks hold 0 and one other value.
    groups : Path, optional
        CSV with the columns stem and group; where None, every picture or volume is a group of its own.

    Raises
    ------
    UserError
        A folder is missing or holds nothing that is read, an image has no mask or a mask no image, volumes are of
        several channels, a header or the table of groups cannot be read, or classes are impossible.
    """
    for folder in (images, masks):
        if not folder.is_dir():
            raise UserError(f"{no_folder(folder)}; name the folders of the images and of their masks.")
    if groups is not None and not groups.is_file():
        raise UserError(f"there is no file {groups}; expected a CSV with the columns stem and group.")
    card = own_card(_name(images.resolve()), "", "group", False, _UNKNOWN, classes=dict(classes or {}))
    if not _is_of_volumes(images):
        if _is_of_volumes(masks):
            raise UserError(f"{masks} holds volumes, and {images} pictures; masks are of the kind of their images.")
        return open_files(card, images, masks, groups, without_mask="leave the images out")
    return _open_volumes(card, images, masks, groups)


def _name(folder: Path) -> str:
    """Return a name for the cache; with a dash, which no shipped data set has."""
    above, own = (re.sub(r"[^A-Za-z0-9_]+", "_", part).strip("_") for part in (folder.parent.name, folder.name))
    return f"{above or 'root'}-{own}"


def _is_of_volumes(folder: Path) -> bool:
    names = [file for file in list_folder(folder) if not file.name.startswith(".")]
    pictures = any(file.suffix.lower() in IMAGE_SUFFIXES for file in names)
    return not pictures and any(stem_of(file) for file in names)


def _open_volumes(card: Card, images: Path, masks: Path, groups: Path | None) -> FileVolumes:
    found, labels = _volume_files(images), _volume_files(masks)
    if images.samefile(masks) and not all(map(is_hdf5, found.values())):
        raise UserError(
            f"{images} is named as the folder of the images and as that of the masks; only HDF5 holds both."
        )
    of_case = _cases(images, found, labels)
    label_of = {case: _label_of(case, labels) for case in of_case}
    if bare := sorted(case for case, label in label_of.items() if label is None):
        raise UserError(
            f"{name_some(bare, 'volume')} of {images} without a mask in {masks}: add the masks, or leave the volumes "
            "out."
        )
    if spare := sorted(set(labels) - set(label_of.values())):
        raise UserError(f"{name_some(spare, 'mask')} of {masks} without an image in {images}: remove or complete them.")
    volumes = {
        case: VolumeFiles((of_case[case],), (labels[label],)) for case, label in sorted(label_of.items()) if label
    }
    patients: Mapping[str, str] = {case: case for case in volumes}
    if groups is not None:
        patients = patients_of(VolumeFolder(images, volumes, patients, {}, {}), groups)
    return FileVolumes(card.model_copy(update={"volumes": len(volumes)}), volumes, patients)


def _volume_files(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for file in list_folder(folder):
        stem = stem_of(file)
        if stem is None or file.name.startswith("."):
            continue
        stem = unicodedata.normalize("NFC", stem)
        if stem in files:
            raise UserError(f"{files[stem]} and {file} are both the volume '{stem}'; keep one of them.")
        files[stem] = file
    if not files:
        raise UserError(f"{folder} holds no volumes (.nii.gz, .nii, .h5); put them there, or name another folder.")
    return files


def _cases(folder: Path, found: Mapping[str, Path], labels: Mapping[str, Path]) -> dict[str, Path]:
    """Return the image of each case: ``CASE_0000`` is that of CASE, unless a mask is called ``CASE_0000`` as well."""
    cases: dict[str, Path] = {}
    others = []
    for stem, file in found.items():
        numbered = None if _label_of(stem, labels) else _CHANNEL.fullmatch(stem)
        if numbered is not None and numbered["channel"] != "0000":
            others.append(file.name)
            continue
        case = stem if numbered is None else numbered["case"]
        if case in cases:
            raise UserError(f"{cases[case]} and {file} are both the volume '{case}'; keep one of them.")
        cases[case] = file
    if others:
        raise UserError(
            f"{folder} holds several channels a case ({name_some(sorted(others), 'file')}), and g sees one: make a "
            "folder of the files of one channel, ending in _0000."
        )
    return cases


def _label_of(case: str, labels: Mapping[str, Path]) -> str | None:
    return next((case + ending for ending in _VOLUME_ENDINGS if case + ending in labels), None)
