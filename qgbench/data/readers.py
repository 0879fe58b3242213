"""Raw images on disk, or drawn on demand, behind one interface: `Source`.

Layout of a labelled data set (the suffix of a file may be any of `IMAGE_SUFFIXES`, whatever its case)::

    images/ID.jpg         8-bit, grey or colour
    masks/ID.png          0 = background, one other value = lesion; ID_mask.png and ID_segmentation.png will do
    groups.csv            optional; columns stem, group: images of one patient, lesion or video
    unlabelled/ID.jpg     optional; further images without a mask
    card.toml             optional; see `qgbench.data.cards`

A pool is a folder that holds ``unlabelled/`` alone. Files of other suffixes and hidden files are passed over. Pixels
are taken as they are stored: an EXIF orientation is applied neither to images nor to masks.
"""

import hashlib
import inspect
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import scipy
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from qgbench.data import phantom
from qgbench.data.cards import CARD_NAME, Card, Kind, card_names, load_card, read_card
from qgbench.errors import QGBenchError, UserError, unknown_name

DATA_VARIABLE = "QGBENCH_DATA"
PHANTOM_NAME = "phantom"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
MASK_SUFFIXES = (*IMAGE_SUFFIXES, ".gif")
MASK_ENDINGS = ("", "_mask", "_segmentation")

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
    masks : dict of str to Path, optional
        File of each mask by id; None for a pool.
    groups : dict of str to str
        Group of each image by id.
    extra : Source, optional
        Further images without a mask.
    """

    def __init__(
        self,
        card: Card,
        images: dict[str, Path],
        masks: dict[str, Path] | None,
        groups: dict[str, str],
        extra: Source | None,
    ) -> None:
        self.card = card
        self.ids = sorted(images)
        self.groups = [groups[id] for id in self.ids]
        self.labelled = masks is not None
        self.extra = extra
        self._images = images
        self._masks = masks or {}

    def image(self, id: str) -> NDArray[np.uint8]:  # noqa: D102 (described by Source)
        file = self._images[id]
        with _opened(file) as image:
            if image.mode.startswith(("I", "F")):
                raise UserError(f"{file} has more than 8 bits per channel ({image.mode}); convert it to 8-bit RGB.")
            return np.asarray(_decoded(file, image, "RGB"))

    def mask(self, id: str) -> NDArray[np.bool_]:  # noqa: D102 (described by Source)
        file = self._masks[id]
        with _opened(file) as mask, _opened(self._images[id]) as image:
            if mask.size != image.size:
                raise UserError(
                    f"{file} is {mask.width} x {mask.height} pixels, its image {self._images[id]} is "
                    f"{image.width} x {image.height}; a mask has the size of its image."
                )
            has_levels = mask.mode in ("1", "L") or mask.mode.startswith(("I", "F"))
            pixels = np.asarray(_decoded(file, mask, mask.mode if has_levels else "RGB"))
        if pixels.ndim == 3:  # one number per colour
            pixels = pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
        foreground = pixels != 0
        if not (pixels[foreground] == pixels.max()).all():
            raise UserError(
                f"{file} holds {np.unique(pixels).size} levels; a mask holds 0 and one other value. Threshold it anew, "
                "for example at half of its maximum, and save it as PNG (JPEG adds levels)."
            )
        return foreground

    def content_key(self) -> str:
        """Hash the name and the bytes of every image and mask file."""
        digest = hashlib.sha256()
        for files in (self._images, self._masks):
            for id in sorted(files):
                digest.update(f"{id}\0{files[id].name}\0".encode())
                digest.update(hashlib.sha256(_file_bytes(files[id])).digest())
            digest.update(b"\0masks\0")
        return digest.hexdigest()


class PhantomSource(Source):
    """The generated data set of `qgbench.data.phantom`; its pictures are drawn when the first of them is asked for.

    Parameters
    ----------
    patients, views, size, seed : int
        As ``groups``, ``images_per_group``, ``size`` and ``seed`` of `generate_phantom`.
    """

    def __init__(self, patients: int = 120, views: int = 2, size: int = 128, seed: int = 2606) -> None:
        self.card = load_card(PHANTOM_NAME)
        pairs = [(f"g{patient:03d}_{view}", f"g{patient:03d}") for patient in range(patients) for view in range(views)]
        self.ids, self.groups = (list(column) for column in zip(*sorted(pairs), strict=True))
        self.labelled = True
        self._arguments = {"groups": patients, "images_per_group": views, "size": size, "seed": seed}

    @cached_property
    def _pictures(self) -> dict[str, phantom.PhantomImage]:
        pictures = {picture.id: picture for picture in phantom.generate_phantom(**self._arguments)}
        if [(id, pictures[id].group) for id in sorted(pictures)] != list(zip(self.ids, self.groups, strict=True)):
            raise QGBenchError("the phantom's generator names its pictures otherwise than its reader expects")
        return pictures

    def image(self, id: str) -> NDArray[np.uint8]:  # noqa: D102 (described by Source)
        return self._pictures[id].image

    def mask(self, id: str) -> NDArray[np.bool_]:  # noqa: D102 (described by Source)
        return self._pictures[id].mask

    def content_key(self) -> str:
        """Hash the generator's source text, its arguments and the libraries that it computes with: nothing is drawn."""
        parts = (inspect.getsource(phantom), self._arguments, np.__version__, scipy.__version__)
        return hashlib.sha256(repr(parts).encode()).hexdigest()


def open_source(dataset: str, data_dir: Path | None = None) -> Source:
    """Open a labelled data set.

    Parameters
    ----------
    dataset : str
        ``"phantom"``; the name of a shipped card, whose images are in ``<data_dir>/<name>/``; or the path of a folder
        in the same layout. A shipped name wins over a folder of that name in the working directory; a folder elsewhere
        that bears a shipped name is taken for that data set.
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
    images = _image_files(folder / "images", "labelled", IMAGE_SUFFIXES)
    masks = _match_masks(images, folder)
    groups = _read_groups(folder / "groups.csv", images)
    extra = None
    if (folder / "unlabelled").is_dir():
        pool_facts = {"name": f"{card.name}_unlabelled", "kind": "pool", "groups": "none known", "images": None}
        extra = _open_unlabelled(folder, card.model_copy(update={**pool_facts, "budget": None}))
    return FolderSource(card, images, masks, groups, extra)


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
    return _open_unlabelled(folder, card)


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
    folder = Path(dataset).expanduser()
    is_path = any(separator in dataset for separator in ("/", os.sep))
    if folder.is_dir():
        folder = folder.resolve()
        return folder, _own_card(folder, kind)
    if is_path:
        raise UserError(f"there is no folder {dataset}; expected a data set with {_LAYOUT[kind]}.")
    raise unknown_name("dataset", dataset, card_names(kind))


def _named_folder(name: str, data_dir: Path | None, kind: Kind) -> Path:
    given = data_dir or os.environ.get(DATA_VARIABLE)
    if not given:
        raise UserError(
            f"'{name}' needs its images: put them at DIR/{name}/{_LAYOUT[kind]}, then give --data-dir DIR or set "
            f"{DATA_VARIABLE}=DIR."
        )
    folder = Path(given).expanduser() / name
    if not folder.is_dir():
        raise UserError(
            f"there is no folder {folder}; '{name}' is looked for in the data folder (--data-dir or {DATA_VARIABLE}), "
            f"with {_LAYOUT[kind]}."
        )
    return folder


def _own_card(folder: Path, kind: Kind) -> Card:
    """Read the folder's card, else take the shipped one of that name, else write down that nothing is known."""
    if (folder / CARD_NAME).is_file():
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
    """List the image files of a folder by stem."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; expected {_LAYOUT[kind]}.")
    files: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() not in suffixes or file.name.startswith(".") or not file.is_file():
            continue
        if file.stem in files:
            raise UserError(f"{files[file.stem]} and {file.name} share the name '{file.stem}'; keep one of them.")
        files[file.stem] = file
    if not files:
        raise UserError(f"{folder} holds no images ({', '.join(suffixes)}); expected {_LAYOUT[kind]}.")
    return files


def _match_masks(images: dict[str, Path], folder: Path) -> dict[str, Path]:
    """Give each image its mask: the file of its own name, else of its name with one of `MASK_ENDINGS`."""
    files = _image_files(folder / "masks", "labelled", MASK_SUFFIXES)
    stems = {id: next((id + ending for ending in MASK_ENDINGS if id + ending in files), None) for id in images}
    if bare := [id for id, stem in stems.items() if stem is None]:
        raise UserError(
            f"{name_some(bare, 'image')} of {folder / 'images'} without a mask in {folder / 'masks'}: add the masks "
            f"or move the images to {folder / 'unlabelled'}."
        )
    if spare := sorted(set(files) - set(stems.values())):
        raise UserError(f"{name_some(spare, 'mask')} of {folder / 'masks'} without an image: remove or complete them.")
    return {id: files[stem] for id, stem in stems.items() if stem is not None}


def _read_groups(file: Path, images: Iterable[str]) -> dict[str, str]:
    """Read ``groups.csv``; without the file every image is a group of its own."""
    if not file.is_file():
        return {id: id for id in images}
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read as CSV: {error}") from error
    if not {"stem", "group"} <= set(table.columns):
        raise UserError(f"{file} has the columns {', '.join(table.columns)}; expected stem and group.")
    stems = table["stem"]
    faults = {
        "listed twice": sorted(set(stems[stems.duplicated()])),
        "with no group": sorted(stems[table["group"] == ""]),
        "listed without an image": sorted(set(stems) - set(images)),
        "not listed": sorted(set(images) - set(stems)),
    }
    for fault, ids in faults.items():
        if ids:
            raise UserError(f"{file}: {name_some(ids, 'image')} {fault}. Every image has one row (stem, group).")
    return dict(zip(stems, table["group"], strict=True))


def name_some(names: list[str], noun: str) -> str:
    """Count names and show the first five: ``7 images (a, b, c, d, e, ...)``."""
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"{len(names)} {noun}{'s' if len(names) > 1 else ''} ({shown})"


def _opened(file: Path) -> Image.Image:
    """Open an image file and read its header only."""
    try:
        return Image.open(file)
    except UnidentifiedImageError as error:
        raise UserError(f"{file} is not an image that Pillow can read; convert it to PNG or fetch it again.") from error
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error


def _decoded(file: Path, image: Image.Image, mode: str) -> Image.Image:
    try:
        return image.convert(mode)
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise UserError(f"{file} is damaged or cut off ({error}); fetch it again.") from error


def _file_bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error
