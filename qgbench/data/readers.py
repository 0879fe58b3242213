"""Raw images on disk, or drawn on demand, behind one interface: `Source`.

Layout of a labelled data set (the suffix of a file may be any of `IMAGE_SUFFIXES`, whatever its case)::

    images/ID.jpg         grey or colour
    masks/ID.png          0 = background, one other value = lesion, or the values of the classes that the card names;
                          ID_mask.png and ID_segmentation.png will do
    groups.csv            optional; columns stem, group: images of one patient, lesion or video
    unlabelled/ID.jpg     optional; further images without a mask
    card.toml             optional; see `qgbench.data.cards`

A data set is named by a word, which is a shipped card or a folder of the data folder, or by a path, which has a
separator: ``./mine``. A word never names a folder of the working directory.

A pool is a folder that holds ``unlabelled/`` alone. A folder of neither kind may hold a distribution as its owners hand
it out, in a layout that the card describes (`qgbench.data.layouts`); files that match no pattern are passed over there.

Hidden files are passed over; so are files of other suffixes, with a warning. Names that differ in nothing but case are
refused: on a disk that ignores case one file would replace the other. Accented letters are equal however they are
composed (macOS decomposes them). How files become pixels, and which are refused: `qgbench.data.images`.
"""

import copy
import hashlib
import inspect
import os
import stat
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from qgbench.base.errors import AbsentDataError, QGBenchError, UnknownDataError, UserError, unknown_name, unreadable
from qgbench.base.logs import logger
from qgbench.base.paths import expanded, is_path, list_folder, no_folder
from qgbench.base.text import read_table, refuse_empty
from qgbench.data import phantom
from qgbench.data.cards import (
    CARD_NAME,
    DATA_VARIABLE,
    Card,
    Kind,
    card_names,
    folder_of_data,
    listed_ids,
    load_card,
    own_names,
    read_card,
)
from qgbench.data.content import hash_files
from qgbench.data.images import IMAGE_SUFFIXES, read_image, read_labels, read_mask
from qgbench.data.layouts import MaskRule, match_layouts
from qgbench.data.source import Slice as Slice
from qgbench.data.source import Source, name_some, refuse_case_twins, warn_of_alike
from qgbench.data.volume_layouts import find_volumes
from qgbench.data.volumes import PHANTOM_3D, PhantomVolumes, open_volumes

PHANTOM_NAME = "phantom"
DRAWN = (PHANTOM_NAME, PHANTOM_3D)  # data sets that need no files
MASK_SUFFIXES = (*IMAGE_SUFFIXES, ".gif")
MASK_ENDINGS = ("", "_mask", "_segmentation")
_SYSTEM_FILES = ("thumbs.db", "desktop.ini")  # put into every folder by a desktop

_LAYOUT = {
    "labelled": "images/ID.jpg and masks/ID.png (and groups.csv with the columns stem, group, where groups are known)",
    "pool": "unlabelled/ID.jpg",
}


class FolderSource(Source):
    """Images in files.

    Parameters
    ----------
    card : Card
    images : dict of str to Path
        File of each image by id.
    masks : dict of str to list of Path, optional
        Files of each mask by id, whose foregrounds are joined; None for a pool.
    groups : dict of str to str
        Group of each image by id.
    extra : Source, optional
        Further images without a mask.
    rule : {'binary', 'half', 'nonzero'} or float
        What of a mask is the lesion, see `qgbench.data.images.read_mask`; the card's classes go before it.
    """

    def __init__(
        self,
        card: Card,
        images: dict[str, Path],
        masks: dict[str, list[Path]] | None,
        groups: dict[str, str],
        extra: Source | None,
        rule: MaskRule | float = "binary",
    ) -> None:
        self.card = card
        self.ids = sorted(images)
        self.groups = [groups[id] for id in self.ids]
        self.labelled = masks is not None
        self.extra = extra
        self._images = images
        self._masks = masks or {}
        self._rule: MaskRule | float = rule

    def files(self, id: str) -> tuple[Path, list[Path]]:
        """Return the file of an image and those of its mask, whose foregrounds are joined; none for a pool."""
        return self._images[id], list(self._masks.get(id, []))

    def in_groups(self, file: Path) -> "FolderSource":
        """Return the same images in the groups that a CSV with the columns stem and group gives them.

        Raises
        ------
        UserError
            The file is not there or cannot be read, or an image has no row or two.
        """
        if not file.is_file():
            raise UserError(f"there is no file {file}.")
        group_of = _read_groups(file, self.ids)
        other = copy.copy(self)
        other.groups = [group_of[id] for id in self.ids]
        return other

    def image(self, id: str) -> NDArray[np.uint8]:  # noqa: D102 (described by Source)
        return read_image(self._images[id])

    def mask(self, id: str) -> NDArray[Any]:  # noqa: D102 (described by Source)
        files = self._masks[id]
        if self.card.classes:
            maps = [read_labels(file, self._images[id], self.card.classes) for file in files]
            labels = np.maximum.reduce(maps)
            for file, own in zip(files, maps, strict=True):
                if clash := np.count_nonzero((own != 0) & (own != labels)):
                    raise UserError(
                        f"{file} and other masks of '{id}' show two classes in {clash} pixels; classes exclude each "
                        "other: mend the masks."
                    )
            return labels if len(self.classes) > 1 else labels.astype(np.bool_)
        return np.logical_or.reduce([read_mask(file, self._images[id], self._rule) for file in files])

    def content_key(self) -> str:
        """Return a hash of every image's and mask's name and bytes; only files that changed are read again."""
        masks = [(id, file) for id in sorted(self._masks) for file in self._masks[id]]
        parts = [sorted(self._images.items()), masks]
        hashes = iter(hash_files([file for part in parts for _, file in part]))
        digest = hashlib.sha256()
        if self.card.classes:
            digest.update(repr(list(self.card.classes.values())).encode())
        elif self._rule != "binary":
            digest.update(str(self._rule).encode())
        for part in parts:
            for id, file in part:
                digest.update(f"{id}\0{file.name}\0".encode())
                digest.update(next(hashes))
            digest.update(b"\0masks\0")
        return digest.hexdigest()


class PhantomSource(Source):
    """The generated data set of `qgbench.data.phantom`; a patient's pictures are drawn when one of them is asked for.

    Parameters
    ----------
    patients, views, size, seed : int
        As ``groups``, ``images_per_group``, ``size`` and ``seed`` of `generate_phantom`.
    """

    def __init__(self, patients: int = 120, views: int = 2, size: int = 128, seed: int = 2606) -> None:
        self.card = load_card(PHANTOM_NAME)
        places = {f"g{p:03d}_{view}": (p, view) for p in range(patients) for view in range(views)}
        self.ids = sorted(places)
        self.groups = [f"g{places[id][0]:03d}" for id in self.ids]
        self.labelled = True
        self._places = places
        self._arguments = {"groups": patients, "images_per_group": views, "size": size, "seed": seed}
        self._drawn: dict[int, list[phantom.PhantomImage]] = {}  # by patient

    def _picture(self, id: str) -> phantom.PhantomImage:
        patient, view = self._places[id]
        if patient not in self._drawn:
            views, size, seed = (self._arguments[name] for name in ("images_per_group", "size", "seed"))
            self._drawn[patient] = phantom.draw_group(patient, views, size, seed)
        picture = self._drawn[patient][view]
        if picture.id != id:
            raise QGBenchError("the phantom's generator names its pictures otherwise than its reader expects")
        return picture

    def image(self, id: str) -> NDArray[np.uint8]:  # noqa: D102 (described by Source)
        return self._picture(id).image

    def mask(self, id: str) -> NDArray[np.bool_]:  # noqa: D102 (described by Source)
        return self._picture(id).mask

    def content_key(self) -> str:
        """Return a hash of the generator's source, its arguments and the libraries it computes with; draw nothing."""
        parts = (inspect.getsource(phantom), self._arguments, np.__version__, scipy.__version__)
        return hashlib.sha256(repr(parts).encode()).hexdigest()


def open_source(dataset: str, data_dir: Path | None = None) -> Source:
    """Open a labelled data set.

    Parameters
    ----------
    dataset : str
        ``"phantom"`` or ``"phantom3d"``; the name of a shipped card, whose images are in ``<data_dir>/<name>/``; the
        name of a folder in `data_dir` that has a card of its own; or the path of a folder in the same layout, see
        `qgbench.base.paths.is_path`. A folder elsewhere that bears a shipped name is taken for that data set.
    data_dir : Path, optional
        Folder that holds a folder per data set; the environment variable QGBENCH_DATA where None.

    Raises
    ------
    UnknownDataError, AbsentDataError
        Unknown name, missing folder.
    UserError
        A folder that does not hold a labelled data set.
    """
    if dataset in DRAWN:
        _name_what_is_not_meant(dataset)
        return PhantomSource() if dataset == PHANTOM_NAME else PhantomVolumes()
    folder, card = _locate(dataset, data_dir, "labelled")
    if card.volumes is not None:
        return open_volumes(card, folder)
    if (distribution := _open_unless_common(card, folder)) is not None:
        return distribution
    if not (folder / "images").is_dir() and find_volumes(folder) is not None:
        raise UserError(f"{folder} holds volumes; bring them in: qgbench data add NAME --from {dataset}.")
    spare = f"move the images to {folder / 'unlabelled'}"
    source = open_files(card, folder / "images", folder / "masks", _groups_file(folder), without_mask=spare)
    if os.path.lexists(folder / "unlabelled"):
        pool_facts = {"name": f"{card.name}_unlabelled", "kind": "pool", "groups": "none known", "images": None}
        source.extra = _open_unlabelled(folder, card.model_copy(update={**pool_facts, "budget": None}))
    return source


def open_files(
    card: Card,
    images: Path,
    masks: Path | None,
    groups: Path | None = None,
    rule: MaskRule | float = "binary",
    without_mask: str = "leave the images out, or add them as a pool of their own",
) -> FolderSource:
    """Open a data set or, without masks, a pool, wherever its parts lie.

    Parameters
    ----------
    card : Card
    images, masks : Path
        Folders of files; a mask bears its image's name, or that and one of `MASK_ENDINGS`.
    groups : Path, optional
        CSV with the columns stem and group; where None, every image is a group of its own.
    rule : {'binary', 'half', 'nonzero'} or float
        What of a mask is the lesion, see `qgbench.data.images.read_mask`.
    without_mask : str
        What to do with images that have no mask, for the message that names them.

    Raises
    ------
    UserError
        A folder or file is missing or cannot be read, or the images, masks and groups do not belong together.
    """
    files = image_files(images, IMAGE_SUFFIXES, _LAYOUT[card.kind])
    matched = None if masks is None else _match_masks(files, images, masks, without_mask)
    group_of = {id: id for id in files} if groups is None else _read_groups(groups, files)
    return FolderSource(card, files, matched, group_of, None, rule)


def open_distribution(card: Card, folders: Sequence[Path]) -> FolderSource | None:
    """Open a data set as its owners distribute it, in one of the layouts of its card.

    Parameters
    ----------
    card : Card
    folders : sequence of Path
        Unpacked archives, or folders above them; see `qgbench.data.layouts.match_layouts`.

    Returns
    -------
    FolderSource or None
        With the images that the card lists, where it lists some. None where no layout matches a single image.

    Raises
    ------
    UserError
        An image without a mask or the reverse, a listed image that is missing, names that differ in nothing but case,
        a file that cannot be reached, or what `match_layouts` raises.
    """
    found = match_layouts(card.layout, card.grouping, folders)
    if found is None:
        return None
    where = f"{', '.join(map(str, folders))} ({found.layout.about})"
    refuse_case_twins(found.images)
    if found.spare_masks:
        spare = [file.name for file in found.spare_masks]
        raise UserError(
            f"{where} holds {name_some(spare, 'mask')} without an image or beside another copy: unpack the archive of "
            "the images there too, fetch what is missing, or remove the copy."
        )
    ids = listed_ids(card) or sorted(found.images)
    if missing := [id for id in ids if id not in found.images]:
        raise UserError(f"'{card.name}' is {len(ids)} listed images, and {where} lacks {name_some(missing, 'image')}.")
    images = {id: found.images[id] for id in ids}
    masks = {id: found.masks[id] for id in ids}
    for file in [*images.values(), *chain.from_iterable(masks.values())]:
        _check_file(file)
    if card.grouping is not None:
        warn_of_alike((found.groups[id] for id in ids), where)
    if card.kind == "pool":
        return FolderSource(card, images, None, found.groups, None)
    if bare := [id for id, files in masks.items() if not files]:
        raise UserError(
            f"{name_some(bare, 'image')} of {where} without a mask: unpack the archive of the masks there too, or "
            "fetch what is missing."
        )
    return FolderSource(card, images, masks, found.groups, None, found.layout.mask)


def _open_unless_common(card: Card, folder: Path) -> FolderSource | None:
    """Open a folder as a distribution; None where it is in the common layout, or its card describes no other."""
    if (folder / "images").is_dir() or (folder / "unlabelled").is_dir() or not card.layout:
        return None
    if (distribution := open_distribution(card, [folder])) is not None:
        return distribution
    part = "images" if card.kind == "labelled" else "unlabelled"
    others = "; ".join(f"{layout.images} ({layout.about})" for layout in card.layout)
    raise UserError(f"there is no folder {folder / part}; expected {_LAYOUT[card.kind]}. Or: {others}.")


def open_pool(pool: str, data_dir: Path | None = None) -> Source:
    """Open a pool of unlabelled images.

    Parameters
    ----------
    pool : str
        The name of a shipped card of kind 'pool', or, as in `open_source`, the name or the path of a folder that
        holds ``unlabelled/``.
    data_dir : Path, optional
        As in `open_source`.

    Raises
    ------
    UnknownDataError, AbsentDataError
        Unknown name, missing folder.
    UserError
        A folder without unlabelled images.
    """
    folder, card = _locate(pool, data_dir, "pool")
    if (distribution := _open_unless_common(card, folder)) is not None:
        return distribution
    return _open_unlabelled(folder, card)


def open_any(name: str, data_dir: Path | None = None) -> Source:
    """Open a data set or a pool, whichever it is by its card or, without one, by its folders.

    Raises
    ------
    UserError
        As `open_source` and `open_pool`.
    """
    kind = load_card(name).kind if name in card_names() else _kind_of(_own_folder(name, data_dir, None))
    return (open_pool if kind == "pool" else open_source)(name, data_dir)


def _kind_of(folder: Path) -> Kind:
    if os.path.lexists(folder / CARD_NAME):
        return read_card(folder / CARD_NAME).kind
    if folder.name in card_names():
        return load_card(folder.name).kind
    return "pool" if (folder / "unlabelled").is_dir() and not (folder / "images").is_dir() else "labelled"


def find_card(dataset: str, data_dir: Path | None, kind: Kind) -> Card:
    """Return the card of a data set or pool that `open_source` or `open_pool` would open.

    The images of a shipped one need not be there.

    Raises
    ------
    UserError
        It is not known, or of the other kind.
    """
    if dataset not in card_names():
        return _own_card(_own_folder(dataset, data_dir, kind), kind)
    card = load_card(dataset)
    if card.kind != kind:
        given = {"labelled": "a labelled data set", "pool": "a pool of images without masks"}
        raise UserError(f"'{dataset}' is {given[card.kind]}; expected one of: {', '.join(card_names(kind))}.")
    return card


def _open_unlabelled(folder: Path, card: Card) -> FolderSource:
    return open_files(card, folder / "unlabelled", None)


def _locate(dataset: str, data_dir: Path | None, kind: Kind) -> tuple[Path, Card]:
    """Return the folder and the card of a data set given by name or by path."""
    card = find_card(dataset, data_dir, kind)
    folder = _named_folder(dataset, data_dir, kind) if dataset in card_names() else _own_folder(dataset, data_dir, kind)
    if not is_path(dataset):
        _name_what_is_not_meant(dataset, folder)
    return folder, card


def _own_folder(dataset: str, data_dir: Path | None, kind: Kind | None) -> Path:
    """Return a folder given by its path, or by its name in the data folder if it has a card there."""
    if is_path(dataset):
        folder = expanded(dataset)
        if not folder.is_dir():
            expected = "a data set or a pool" if kind is None else f"a data set with {_LAYOUT[kind]}"
            raise AbsentDataError(f"{no_folder(dataset)}; expected {expected}.")
        return folder.resolve()
    data_folder = folder_of_data(data_dir)
    if data_folder is not None and (data_folder / dataset / CARD_NAME).is_file():
        return (data_folder / dataset).resolve()
    for path in (_here(dataset), "" if data_folder is None else str(data_folder / dataset)):
        if path and Path(path).is_dir():
            raise UserError(f"'{dataset}' is no data set that is known; for the folder of that name type {path}.")
    known = [*card_names(kind), *own_names(data_dir)]
    unknown = unknown_name("pool" if kind == "pool" else "dataset", dataset, known)
    raise UnknownDataError(f"{unknown} {_where_own_are(data_folder)}")


def _where_own_are(data_folder: Path | None) -> str:
    """Return the sentence that says where data sets of one's own are looked for."""
    if data_folder is None:
        return "Your own are found with --data-dir or QGBENCH_DATA, neither of which is given."
    return f"Your own are looked for in {data_folder}."


def _here(name: str) -> str:
    """Return the path of a folder of the working directory, so spelled that it is no name."""
    return f"{os.curdir}{os.sep}{name}"


def _name_what_is_not_meant(name: str, folder: Path | None = None) -> None:
    """Warn of a folder in the working directory that has the name of the data set which is used, found in `folder`."""
    if Path(name).is_dir() and not (folder is not None and folder.samefile(name)):
        where = "that qgbench draws" if folder is None else f"in {folder}"
        logger.warning("'%s' is the data set %s; for the folder of that name here type %s.", name, where, _here(name))


def _named_folder(name: str, data_dir: Path | None, kind: Kind) -> Path:
    data_folder, volumes = folder_of_data(data_dir), load_card(name).volumes is not None
    if data_folder is None:
        files = f"volumes: put them at DIR/{name}" if volumes else f"images: put them at DIR/{name}/{_LAYOUT[kind]}"
        raise AbsentDataError(
            f"'{name}' needs its {files}, then give --data-dir DIR or set {DATA_VARIABLE}=DIR. "
            f"'qgbench data list {name}' says how to get them."
        )
    folder = data_folder / name
    if not folder.is_dir():
        layout = f"as 'qgbench data list {name}' says" if volumes else f"with {_LAYOUT[kind]}"
        raise AbsentDataError(
            f"there is no folder {folder}; '{name}' is looked for in the data folder (--data-dir or {DATA_VARIABLE}), "
            f"{layout}."
        )
    return folder


def _own_card(folder: Path, kind: Kind) -> Card:
    """Return the folder's card, else the shipped one of that name, else one that says that nothing is known."""
    if os.path.lexists(folder / CARD_NAME):
        card = read_card(folder / CARD_NAME)
        if card.kind != kind:
            raise UserError(f"{folder / CARD_NAME} says kind = '{card.kind}'; expected '{kind}' here.")
        return card
    if folder.name in card_names(kind):
        return load_card(folder.name)
    unknown = "not stated"
    try:
        return Card(
            name=folder.name,
            title=folder.name,
            kind=kind,
            domain=unknown,
            modality=unknown,
            terms=unknown,
            citation=unknown,
            homepage=unknown,
            groups=unknown,
        )
    except ValueError as error:
        raise UserError(
            f"the folder's name '{folder.name}' cannot name a data set (letters, digits, '_', '.', '-' only); rename "
            f"it or put a {CARD_NAME} with a name inside."
        ) from error


def image_files(folder: Path, suffixes: tuple[str, ...], expected: str) -> dict[str, Path]:
    """Return the image files of a folder by their names without suffix; warn of files that are passed over.

    Parameters
    ----------
    folder : Path
    suffixes : tuple of str
        In lower case; of two that end alike (``.nii.gz``, ``.gz``) the longer first.
    expected : str
        What the folder should be, in words.

    Raises
    ------
    UserError
        There is no such folder or no image in it, or two have one name, but for case.
    """
    if not folder.is_dir():
        raise UserError(f"{no_folder(folder)}; expected {expected}.")
    files: dict[str, Path] = {}
    passed_over = []
    for file in list_folder(folder):
        if file.name.startswith("."):
            continue
        suffix = next((suffix for suffix in suffixes if file.name.lower().endswith(suffix)), None)
        if suffix is None:
            if file.name.lower() not in _SYSTEM_FILES:
                passed_over.append(file.name)
            continue
        _check_file(file)
        id = unicodedata.normalize("NFC", file.name[: -len(suffix)])
        if id in files:
            raise UserError(f"{files[id]} and {file.name} share the name '{id}'; keep one of them.")
        files[id] = file
    if not files:
        raise UserError(f"{folder} holds no images ({', '.join(suffixes)}); put them there, or name another folder.")
    refuse_case_twins(files)
    if passed_over:
        logger.warning("%s: passed over %s: none of %s.", folder, name_some(passed_over, "file"), ", ".join(suffixes))
    return files


def _check_file(file: Path) -> None:
    """Refuse what has the name of an image but is no file, rather than lose it; and names that no message can show."""
    try:
        mode = file.stat().st_mode
        str(file).encode()
    except OSError as error:
        if file.is_symlink():
            raise UserError(
                f"{file} is a link to {file.readlink()}, which cannot be reached ({error.strerror}); mend or remove it."
            ) from error
        raise unreadable(file, error) from error
    except UnicodeEncodeError as error:
        shown = os.fsencode(file).decode(errors="backslashreplace")
        raise UserError(f"the name of {shown} is not UTF-8; rename it.") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "no regular file"
        raise UserError(f"{file} has the name of an image but is {kind}; move it elsewhere.")


def _match_masks(images: dict[str, Path], folder: Path, masks: Path, without_mask: str) -> dict[str, list[Path]]:
    """Return each image its mask: the file of its own name, else of its name with one of `MASK_ENDINGS`."""
    files = image_files(masks, MASK_SUFFIXES, _LAYOUT["labelled"])
    candidates = {id: [id + ending for ending in MASK_ENDINGS if id + ending in files] for id in images}
    if bare := [id for id in images if not candidates[id]]:
        folded = {stem.casefold() for stem in files}
        is_case = any((id + ending).casefold() in folded for id in bare for ending in MASK_ENDINGS)
        raise UserError(
            f"{name_some(bare, 'image')} of {folder} without a mask in {masks}: add the masks or {without_mask}."
            + (" Some differ from their mask in nothing but case: give both the same name." if is_case else "")
        )
    chosen = {id: stems[0] for id, stems in candidates.items()}
    spare = set(files) - set(chosen.values())
    if second := sorted(spare.intersection(chain.from_iterable(candidates.values()))):
        raise UserError(
            f"{name_some(second, 'mask')} of {masks} beside another mask of the same image "
            f"({', '.join(f'ID{ending}' for ending in MASK_ENDINGS)} mean the same); keep one of them."
        )
    if spare:
        raise UserError(f"{name_some(sorted(spare), 'mask')} of {masks} without an image: remove or complete them.")
    return {id: [files[stem]] for id, stem in chosen.items()}


def _groups_file(folder: Path) -> Path | None:
    """Return the ``groups.csv`` of a folder; None where it has none."""
    file = folder / "groups.csv"
    for other in list_folder(folder):
        if other.name != file.name and other.name.lower() == file.name:
            raise UserError(f"{other} is not read under that name; rename it to {file.name}.")
    return file if os.path.lexists(file) else None


def _read_groups(file: Path, images: Iterable[str]) -> dict[str, str]:
    """Read a table of groups: a row for each image."""
    table = read_table(file, ("stem", "group"))
    if not {"stem", "group"} <= set(table.columns):
        raise UserError(
            f"{file} has the columns {', '.join(table.columns)}; expected stem and group, separated by commas."
        )
    refuse_empty(table, "stem", file)
    stems, groups = table["stem"], table["group"]
    faults = {
        "listed twice": sorted(set(stems[stems.duplicated()])),
        "with no group": sorted(stems[groups == ""]),
        "listed without an image": sorted(set(stems) - set(images)),
        "not listed": sorted(set(images) - set(stems)),
    }
    meant = set(map(_plain, stems)) == set(map(_plain, images))
    hint = " Write names as the files have them, with all zeros and without the suffix." if meant else ""
    for fault, ids in faults.items():
        if ids:
            raise UserError(f"{file}: {name_some(ids, 'image')} {fault}. Every image has one row (stem, group).{hint}")
    warn_of_alike(groups, str(file.resolve()))  # of a link, the file that somebody wrote
    return dict(zip(stems, groups, strict=True))


def _plain(name: str) -> str:
    """Return a name without what spreadsheets and lists of files lose or add: zeros in front, a suffix."""
    stem = next((name[: -len(suffix)] for suffix in IMAGE_SUFFIXES if name.lower().endswith(suffix)), name)
    return stem.lstrip("0")
