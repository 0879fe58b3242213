"""Raw images on disk, or drawn on demand, behind one interface: `Source`.

Layout of a labelled data set (the suffix of a file may be any of `IMAGE_SUFFIXES`, whatever its case)::

    images/ID.jpg         grey or colour
    masks/ID.png          0 = background, one other value = lesion; ID_mask.png and ID_segmentation.png will do
    groups.csv            optional; columns stem, group: images of one patient, lesion or video
    unlabelled/ID.jpg     optional; further images without a mask
    card.toml             optional; see `qgbench.data.cards`

A pool is a folder that holds ``unlabelled/`` alone. A folder of neither kind may hold a distribution as its owners hand
it out, in a layout that the card describes (`qgbench.data.layouts`); files that match no pattern are passed over there.

Hidden files are passed over; so are files of other suffixes, with a warning. Names that differ in nothing but case are
refused: on a disk that ignores case one file would replace the other. Accented letters are equal however they are
composed (macOS decomposes them). How files become pixels, and which are refused: `qgbench.data.images`.
"""

import hashlib
import inspect
import os
import stat
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import scipy
from numpy.typing import NDArray

from qgbench.data import phantom
from qgbench.data.cards import CARD_NAME, Card, Kind, card_names, listed_ids, load_card, read_card
from qgbench.data.content import hash_files
from qgbench.data.images import read_image, read_mask, unreadable
from qgbench.data.layouts import MaskRule, match_layouts
from qgbench.errors import NotFoundError, QGBenchError, UserError, unknown_name
from qgbench.home import expanded
from qgbench.logs import logger

DATA_VARIABLE = "QGBENCH_DATA"
PHANTOM_NAME = "phantom"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
MASK_SUFFIXES = (*IMAGE_SUFFIXES, ".gif")
MASK_ENDINGS = ("", "_mask", "_segmentation")
_SYSTEM_FILES = ("thumbs.db", "desktop.ini")  # put into every folder by a desktop

_LAYOUT = {
    "labelled": "images/ID.jpg and masks/ID.png (and groups.csv with the columns stem, group, where groups are known)",
    "pool": "unlabelled/ID.jpg",
}


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
    """

    card: Card
    ids: list[str]
    groups: list[str]
    labelled: bool
    extra: "Source | None" = None

    @property
    def name(self) -> str:
        """Name of the data set, as records show it."""
        return self.card.name

    @abstractmethod
    def image(self, id: str) -> NDArray[np.uint8]:
        """Read an image: (H, W, 3) uint8, RGB. Raises UserError if it cannot be read."""

    @abstractmethod
    def mask(self, id: str) -> NDArray[np.bool_]:
        """Read a mask: (H, W) bool, of its image's size. Raises UserError if it cannot be read or is not binary."""

    @abstractmethod
    def content_key(self) -> str:
        """Return a fingerprint (64 hexadecimal digits) that changes whenever an image or a mask does."""


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
    rule : {'binary', 'half', 'nonzero'}
        What of a mask is the lesion, see `qgbench.data.images.read_mask`.
    """

    def __init__(
        self,
        card: Card,
        images: dict[str, Path],
        masks: dict[str, list[Path]] | None,
        groups: dict[str, str],
        extra: Source | None,
        rule: MaskRule = "binary",
    ) -> None:
        self.card = card
        self.ids = sorted(images)
        self.groups = [groups[id] for id in self.ids]
        self.labelled = masks is not None
        self.extra = extra
        self._images = images
        self._masks = masks or {}
        self._rule: MaskRule = rule

    def files(self, id: str) -> tuple[Path, list[Path]]:
        """Name the file of an image and those of its mask, whose foregrounds are joined; none for a pool."""
        return self._images[id], list(self._masks.get(id, []))

    def image(self, id: str) -> NDArray[np.uint8]:  # noqa: D102 (described by Source)
        return read_image(self._images[id])

    def mask(self, id: str) -> NDArray[np.bool_]:  # noqa: D102 (described by Source)
        files = self._masks[id]
        return np.logical_or.reduce([read_mask(file, self._images[id], self._rule) for file in files])

    def content_key(self) -> str:
        """Hash the name and the bytes of every image and mask file; only files that changed are read again."""
        masks = [(id, file) for id in sorted(self._masks) for file in self._masks[id]]
        parts = [sorted(self._images.items()), masks]
        hashes = iter(hash_files([file for part in parts for _, file in part]))
        digest = hashlib.sha256()
        if self._rule != "binary":
            digest.update(self._rule.encode())
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
        """Hash the generator's source text, its arguments and the libraries that it computes with: nothing is drawn."""
        parts = (inspect.getsource(phantom), self._arguments, np.__version__, scipy.__version__)
        return hashlib.sha256(repr(parts).encode()).hexdigest()


def open_source(dataset: str, data_dir: Path | None = None) -> Source:
    """Open a labelled data set.

    Parameters
    ----------
    dataset : str
        ``"phantom"``; the name of a shipped card, whose images are in ``<data_dir>/<name>/``; the path of a folder in
        the same layout; or the name of a folder in `data_dir` that has a card of its own. A shipped name wins over a
        folder of that name in the working directory; a folder elsewhere that bears a shipped name is taken for that
        data set.
    data_dir : Path, optional
        Folder that holds a folder per data set; the environment variable QGBENCH_DATA where None.

    Raises
    ------
    UserError
        Unknown name, missing folder, or a folder that does not hold a labelled data set.
    """
    if dataset == PHANTOM_NAME:
        return PhantomSource()
    folder, card = _locate(dataset, data_dir, "labelled")
    if (distribution := _open_unless_common(card, folder)) is not None:
        return distribution
    images = _image_files(folder / "images", "labelled", IMAGE_SUFFIXES)
    masks = _match_masks(images, folder)
    groups = _read_groups(folder / "groups.csv", images)
    extra = None
    if os.path.lexists(folder / "unlabelled"):
        pool_facts = {"name": f"{card.name}_unlabelled", "kind": "pool", "groups": "none known", "images": None}
        extra = _open_unlabelled(folder, card.model_copy(update={**pool_facts, "budget": None}))
    return FolderSource(card, images, {id: [file] for id, file in masks.items()}, groups, extra)


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
    _refuse_case_twins(found.images)
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
        The name of a shipped card of kind 'pool', or the path of a folder that holds ``unlabelled/``.
    data_dir : Path, optional
        As in `open_source`.

    Raises
    ------
    UserError
        Unknown name, missing folder, or a folder without unlabelled images.
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
    if name in card_names():
        kind = load_card(name).kind
    elif (folder := _own_folder(name, data_dir)) is None:
        if any(separator in name for separator in ("/", os.sep)):
            raise NotFoundError(f"there is no folder {name}; expected a data set or a pool.")
        raise unknown_name("dataset", name, card_names())
    elif os.path.lexists(folder / CARD_NAME):
        kind = read_card(folder / CARD_NAME).kind
    elif folder.name in card_names():
        kind = load_card(folder.name).kind
    else:
        kind = "pool" if (folder / "unlabelled").is_dir() and not (folder / "images").is_dir() else "labelled"
    return (open_pool if kind == "pool" else open_source)(name, data_dir)


def _open_unlabelled(folder: Path, card: Card) -> FolderSource:
    images = _image_files(folder / "unlabelled", "pool", IMAGE_SUFFIXES)
    return FolderSource(card, images, None, {id: id for id in images}, None)


def _locate(dataset: str, data_dir: Path | None, kind: Kind) -> tuple[Path, Card]:
    """Find the folder and the card of a data set given by name or by path."""
    if dataset in card_names():
        card = load_card(dataset)
        if card.kind != kind:
            given = {"labelled": "a labelled data set", "pool": "a pool of images without masks"}
            raise UserError(f"'{dataset}' is {given[card.kind]}; expected one of: {', '.join(card_names(kind))}.")
        return _named_folder(dataset, data_dir, kind), card
    if (folder := _own_folder(dataset, data_dir)) is not None:
        return folder, _own_card(folder, kind)
    if any(separator in dataset for separator in ("/", os.sep)):
        raise NotFoundError(f"there is no folder {dataset}; expected a data set with {_LAYOUT[kind]}.")
    raise unknown_name("dataset", dataset, card_names(kind))


def _own_folder(dataset: str, data_dir: Path | None) -> Path | None:
    """Find a folder given by its path, or by its name in the data folder if it has a card there."""
    folder = expanded(dataset)
    if folder.is_dir():
        return folder.resolve()
    given = data_dir or os.environ.get(DATA_VARIABLE)
    named = None if given is None else expanded(given) / dataset
    return named.resolve() if named is not None and (named / CARD_NAME).is_file() else None


def _named_folder(name: str, data_dir: Path | None, kind: Kind) -> Path:
    given = data_dir or os.environ.get(DATA_VARIABLE)
    if not given:
        raise NotFoundError(
            f"'{name}' needs its images: put them at DIR/{name}/{_LAYOUT[kind]}, then give --data-dir DIR or set "
            f"{DATA_VARIABLE}=DIR."
        )
    folder = expanded(given) / name
    if not folder.is_dir():
        raise NotFoundError(
            f"there is no folder {folder}; '{name}' is looked for in the data folder (--data-dir or {DATA_VARIABLE}), "
            f"with {_LAYOUT[kind]}."
        )
    return folder


def _own_card(folder: Path, kind: Kind) -> Card:
    """Read the folder's card, else take the shipped one of that name, else write down that nothing is known."""
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


def _image_files(folder: Path, kind: Kind, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """List the image files of a folder by stem; warn of files that are passed over."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; expected {_LAYOUT[kind]}.")
    files: dict[str, Path] = {}
    passed_over = []
    for file in _entries(folder):
        if file.name.startswith("."):
            continue
        if file.suffix.lower() not in suffixes:
            if file.name.lower() not in _SYSTEM_FILES:
                passed_over.append(file.name)
            continue
        _check_file(file)
        id = unicodedata.normalize("NFC", file.stem)
        if id in files:
            raise UserError(f"{files[id]} and {file.name} share the name '{id}'; keep one of them.")
        files[id] = file
    if not files:
        raise UserError(f"{folder} holds no images ({', '.join(suffixes)}); expected {_LAYOUT[kind]}.")
    _refuse_case_twins(files)
    if passed_over:
        logger.warning("%s: passed over %s: none of %s.", folder, name_some(passed_over, "file"), ", ".join(suffixes))
    return files


def _refuse_case_twins(files: dict[str, Path]) -> None:
    by_folded: dict[str, Path] = {}
    for id, file in files.items():
        if (other := by_folded.setdefault(id.casefold(), file)) is not file:
            raise UserError(
                f"{other} and {file.name} differ in nothing but case, and on a disk that ignores case one would "
                "replace the other; rename one of them (and its mask)."
            )


def _entries(folder: Path) -> list[Path]:
    """List a folder, sorted."""
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise unreadable(folder, error) from error


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


def _match_masks(images: dict[str, Path], folder: Path) -> dict[str, Path]:
    """Give each image its mask: the file of its own name, else of its name with one of `MASK_ENDINGS`."""
    files = _image_files(folder / "masks", "labelled", MASK_SUFFIXES)
    candidates = {id: [id + ending for ending in MASK_ENDINGS if id + ending in files] for id in images}
    if bare := [id for id in images if not candidates[id]]:
        folded = {stem.casefold() for stem in files}
        is_case = any((id + ending).casefold() in folded for id in bare for ending in MASK_ENDINGS)
        raise UserError(
            f"{name_some(bare, 'image')} of {folder / 'images'} without a mask in {folder / 'masks'}: add the masks "
            f"or move the images to {folder / 'unlabelled'}."
            + (" Some differ from their mask in nothing but case: give both the same name." if is_case else "")
        )
    chosen = {id: stems[0] for id, stems in candidates.items()}
    spare = set(files) - set(chosen.values())
    if second := sorted(spare.intersection(chain.from_iterable(candidates.values()))):
        raise UserError(
            f"{name_some(second, 'mask')} of {folder / 'masks'} beside another mask of the same image "
            f"({', '.join(f'ID{ending}' for ending in MASK_ENDINGS)} mean the same); keep one of them."
        )
    if spare:
        raise UserError(
            f"{name_some(sorted(spare), 'mask')} of {folder / 'masks'} without an image: remove or complete them."
        )
    return {id: files[stem] for id, stem in chosen.items()}


def _read_groups(file: Path, images: Iterable[str]) -> dict[str, str]:
    """Read ``groups.csv``; without the file every image is a group of its own."""
    for other in _entries(file.parent):
        if other.name != file.name and other.name.lower() == file.name:
            raise UserError(f"{other} is not read under that name; rename it to {file.name}.")
    if not os.path.lexists(file):
        return {id: id for id in images}
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read as CSV: {error}") from error
    if not {"stem", "group"} <= set(table.columns):
        raise UserError(
            f"{file} has the columns {', '.join(table.columns)}; expected stem and group, separated by commas."
        )
    stems = table["stem"].map(lambda stem: unicodedata.normalize("NFC", stem))
    groups = table["group"].str.strip()  # " 7" and "7" are one patient
    faults = {
        "listed twice": sorted(set(stems[stems.duplicated()])),
        "with no group": sorted(stems[groups == ""]),
        "listed without an image": sorted(set(stems) - set(images)),
        "not listed": sorted(set(images) - set(stems)),
    }
    for fault, ids in faults.items():
        if ids:
            raise UserError(f"{file}: {name_some(ids, 'image')} {fault}. Every image has one row (stem, group).")
    return dict(zip(stems, groups, strict=True))


def name_some(names: list[str], noun: str) -> str:
    """Count names and show the first five: ``7 images (a, b, c, d, e, ...)``."""
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"{len(names)} {noun}{'s' if len(names) > 1 else ''} ({shown})"
