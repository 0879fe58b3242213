"""Bring data sets into the data folder in the common layout (`qgbench.data.readers`): distributions and one's own.

A data set is built beside its place, as ``.<name>.partial/``, and moved there in one step. Image files are linked where
the disk allows it (a second name for the same file, which takes no room) and copied elsewhere; nothing is decoded
anew. Masks are written as PNG, 0 and 255; those of named classes with the values that the card gives.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from qgbench.base.cores import in_threads
from qgbench.base.errors import UserError, unwritable
from qgbench.base.files import write_atomically
from qgbench.base.logs import logger
from qgbench.base.paths import expanded, list_folder, no_folder
from qgbench.base.progress import Track, no_progress
from qgbench.data.acquire.archives import unpack
from qgbench.data.cards import CARD_NAME, DATA_VARIABLE, Card, Kind, card_names
from qgbench.data.images import palette_misleads, read_bytes
from qgbench.data.readers import (
    FolderSource,
    Source,
    name_some,
    open_distribution,
    open_files,
    open_pool,
    open_source,
)
from qgbench.data.source import name_any
from qgbench.data.splits import LEAST_PATIENTS, keeps_groups
from qgbench.data.volume_layouts import LAYOUTS, VolumeFolder, find_volumes
from qgbench.data.volumes import FileVolumes, patients_of, spacing_words

_ARCHIVE = ".zip"


def writable_data_dir(given: Path | None) -> Path:
    """Return the data folder, which is made if it is not there: `given`, else the variable QGBENCH_DATA.

    Raises
    ------
    UserError
        Neither is given.
    QGBenchError
        The folder cannot be made.
    """
    named = given or os.environ.get(DATA_VARIABLE)
    if not named:
        raise UserError(f"no data folder is named: give --data-dir DIR or set {DATA_VARIABLE}=DIR.")
    folder = expanded(named)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(f"the data folder {folder}", error, "choose another --data-dir") from error
    return folder


def install_distribution(card: Card, sources: Sequence[Path], data_dir: Path, track: Track = no_progress) -> Path:
    """Bring a data set, as its owners distribute it, into the data folder.

    Archives that were unpacked are kept until the data set is complete, so that the same call goes on after them.

    Parameters
    ----------
    card : Card
    sources : sequence of Path
        ZIP archives, or folders: unpacked, or with the archives in them.
    data_dir : Path
    track : Track

    Returns
    -------
    Path
        The folder of the data set, ``<data_dir>/<name>``.

    Raises
    ------
    UserError
        It is there already; a source is missing, or an archive refused (`qgbench.data.acquire.archives`); the sources
        are in none of the card's layouts or not complete; a mask cannot be read. The data folder is as it was.
    QGBenchError
        The data folder cannot be written.
    """
    unpacked = data_dir / f".{card.name}.unpacked"
    with _place(card.name, data_dir) as partial:
        origins: dict[Path, Path] = {}
        for given in sources:
            origins |= _folders(given, unpacked, track)
        with _archives_named(origins):
            if card.volumes is not None:
                _install_volumes(card, list(origins), partial, track)
                shutil.rmtree(unpacked, ignore_errors=True)
                return data_dir / card.name
            source = open_distribution(card, list(origins)) or _common_layout(card, list(origins))
            if source is None:
                known = "; ".join(f"{layout.images} ({layout.about})" for layout in card.layout)
                raise UserError(
                    f"{', '.join(map(str, sources))}: no images of '{card.name}' were found there. Expected files like "
                    f"{known or 'images/ID.jpg'}, or the common layout (images/, masks/)."
                )
            _write(source, partial, track)
    shutil.rmtree(unpacked, ignore_errors=True)
    if card.images is not None and len(source.ids) != card.images:
        logger.warning("'%s' has %d images; its card expects %d.", card.name, len(source.ids), card.images)
    return data_dir / card.name


def _install_volumes(card: Card, folders: Sequence[Path], partial: Path, track: Track) -> None:
    found = next((found for folder in folders if (found := find_volumes(folder)) is not None), None)
    if found is None:
        raise UserError(f"{', '.join(map(str, folders))}: no volumes were found there; expected {LAYOUTS}.")
    _write_volumes(FileVolumes(card, found.volumes, patients_of(found, None)), found, partial, track)
    if len(found.volumes) != card.volumes:
        logger.warning("'%s' has %d volumes; its card expects %s.", card.name, len(found.volumes), card.volumes)


def add_own(
    card: Card,
    images: Path,
    masks: Path | None,
    groups: Path | None,
    data_dir: Path,
    track: Track = no_progress,
) -> Path:
    """Bring one's own images into the data folder, as a data set or, without masks, as a pool.

    Parameters
    ----------
    card : Card
        Written beside the images; its `threshold` says where soft masks are cut.
    images, masks : Path
        Folders of files; a mask bears its image's name, or that and _mask or _segmentation.
    groups : Path, optional
        CSV with the columns stem and group, a row for each image.
    data_dir, track
        As `install_distribution`, and so is what is returned.

    Raises
    ------
    UserError
        A data set of that name is there already; what opening it raises; a mask cannot be read.
    QGBenchError
        As `install_distribution`.
    """
    images, masks, groups = expanded(images), masks and expanded(masks), groups and expanded(groups)
    for folder in (images, masks):
        if folder is not None and not folder.is_dir():
            raise UserError(f"{no_folder(folder)}.")
    if groups is not None and not groups.is_file():
        raise UserError(f"there is no file {groups}.")
    with _place(card.name, data_dir) as partial:
        source = open_files(card, images, masks, groups, "binary" if card.threshold is None else card.threshold)
        _write(source, partial, track)
        (partial / CARD_NAME).write_text(card_text(card), encoding="utf-8")
    return data_dir / card.name


def add_volumes(
    card: Card, found: VolumeFolder, groups: Path | None, voxels: bool, data_dir: Path, track: Track = no_progress
) -> Path:
    """Bring a folder of volumes into the data folder, in the layout that it has.

    Parameters
    ----------
    card : Card
        Written beside the volumes, with their number and spacing.
    found : VolumeFolder
    groups : Path, optional
        CSV with the columns stem and group: the patient of each volume.
    voxels : bool
        Whether the spacing in the files is not the true one.
    data_dir, track
        As `install_distribution`, and so is what is returned.

    Raises
    ------
    UserError
        A data set of that name is there already; an image or a label cannot be read, or `groups` does not name the
        volumes; a card can be of no such classes.
    QGBenchError
        As `install_distribution`.
    """
    if groups is not None and not groups.is_file():
        raise UserError(f"there is no file {groups}.")
    card = card.model_copy(update={"volumes": len(found.volumes), "voxels": voxels})
    with _place(card.name, data_dir) as partial:
        patients = patients_of(found, groups)
        source = FileVolumes(card, found.volumes, patients)
        if (few := len(set(source.groups))) < LEAST_PATIENTS:
            logger.warning("'%s' has %d patients; a split needs %d or more.", card.name, few, LEAST_PATIENTS)
        if found.promised not in (None, card.volumes):
            logger.warning(
                "%s says numTraining %d, and there are %d volumes with labels: is the folder complete?",
                found.told_in,
                found.promised,
                card.volumes,
            )
        _write_volumes(source, found, partial, track)
        if groups is not None:
            (partial / "groups.csv").write_text(groups_text(patients), encoding="utf-8")
        card = card.model_copy(update={"spacing": spacing_words(source)})
        (partial / CARD_NAME).write_text(card_text(card), encoding="utf-8")
    return data_dir / card.name


def _write_volumes(source: FileVolumes, found: VolumeFolder, partial: Path, track: Track) -> None:
    """Link the files of volumes, after each was read; say which have one value, and which classes no label shows."""

    def look(name: str) -> tuple[bool, NDArray[Any]]:
        is_constant = np.ptp(source.greys(name)) == 0  # what a run could not read is refused here
        return bool(is_constant), np.unique(source.masks(name))

    with closing(in_threads(look, source.files)) as looked:
        seen = list(track(looked, f"Installing {source.name}", len(source.files), "volumes"))
    if constant := [name for name, (is_constant, _) in zip(source.files, seen, strict=True) if is_constant]:
        logger.warning(
            "%s with one and the same value in every voxel: fetch it again, or leave it out.",
            name_some(constant, "volume"),
        )
    shown = set(np.concatenate([labels for _, labels in seen]))
    if absent := [name for label, name in enumerate(source.classes, start=1) if label not in shown]:
        logger.warning("no label shows %s: is the value right?", name_any(absent))
    files = [file for of_volume in source.files.values() for file in of_volume.all]
    for file in (*files, *found.described_in):
        target = partial / file.relative_to(found.folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        _link(file, target)


def add_regrouped(card: Card, source: Source, groups: Path, data_dir: Path, track: Track = no_progress) -> Path:
    """Bring the images of a data set into the data folder once more, in other groups and under another name.

    Parameters
    ----------
    card : Card
        Written beside the images.
    source : Source
        A labelled data set.
    groups, data_dir, track
        As `add_own`, and so is what is returned and raised.
    """
    if not isinstance(source, FolderSource):
        raise UserError(f"the images of '{source.name}' are drawn, not files; its groups cannot be replaced.")
    regrouped = source.in_groups(groups)
    with _place(card.name, data_dir) as partial:
        _write(regrouped, partial, track)
        (partial / CARD_NAME).write_text(card_text(card), encoding="utf-8")
    return data_dir / card.name


def regroup(name: str, groups: Path, data_dir: Path) -> Path:
    """Return a data set in the data folder other groups, and so another split.

    Parameters
    ----------
    name : str
        A labelled data set that `install_distribution` or `add_own` brought there.
    groups : Path
        CSV with the columns stem and group.
    data_dir : Path

    Returns
    -------
    Path
        Its ``groups.csv``.

    Raises
    ------
    UserError
        Its split is committed, or it lies there as its owner laid it out; images and groups do not belong together.
    """
    source = open_source(name, data_dir)
    folder = data_dir / name
    if keeps_groups(name) or not (folder / "masks").is_dir():
        raise UserError(
            f"'{name}' keeps its groups: its split is committed, or it is no folder that qgbench laid out. Make a set "
            f"of these groups, under a name of its own: qgbench data add NEW --from {name} --groups {groups}."
        )
    assert isinstance(source, FolderSource)
    regrouped = source.in_groups(groups)
    file = folder / "groups.csv"
    write_atomically(file, groups_text(dict(zip(regrouped.ids, regrouped.groups, strict=True))).encode())
    return file


def groups_text(group_of: Mapping[str, str]) -> str:
    """Return the text of ``groups.csv``: the group of each image."""
    return pd.DataFrame(group_of.items(), columns=["stem", "group"]).to_csv(index=False, lineterminator="\n")


def own_card(
    name: str,
    title: str,
    groups: str,
    pool: bool,
    facts: Mapping[str, str],
    threshold: float | None = None,
    classes: Mapping[str, int | str] | None = None,
    told_in: str = "--classes",
) -> Card:
    """Return the card of one's own data set.

    Parameters
    ----------
    name : str
        Letters, digits, ``_``, ``.``, ``-``; not that of a shipped data set.
    title : str
    groups : str
        What a group is, or 'none known'.
    pool : bool
        Whether the images have no masks.
    facts : mapping of str to str
        domain, modality, terms, citation.
    threshold : float, optional
        Value above which pixels of soft masks become the lesion, see `qgbench.data.images.read_mask`.
    classes : mapping of str to int or str, optional
        Classes, with their values in masks.
    told_in : str
        Where that was said, for the message that refuses them.

    Raises
    ------
    UserError
        The name is taken or has other characters, or there can be no such classes.
    """
    if name in card_names():
        raise UserError(
            f"'{name}' is a data set that qgbench knows: bring it in with qgbench data prepare {name}, or take another "
            "name."
        )
    kind: Kind = "pool" if pool else "labelled"
    try:
        return Card(
            name=name,
            title=title,
            kind=kind,
            groups=groups,
            homepage="not stated",
            threshold=threshold,
            classes=classes or {},
            **facts,
        )
    except ValidationError as error:
        if faults := [fault["msg"] for fault in error.errors() if fault["loc"][0] == "classes"]:
            raise UserError(f"{told_in}: {faults[0].removeprefix('Value error, ')}.") from error
        raise UserError(
            f"'{name}' cannot name a data set: letters, digits, '_', '.', '-' only, the first a letter or digit."
        ) from error


def card_text(card: Card) -> str:
    """Return the plain facts of a card as TOML."""
    facts = card.model_dump(mode="json", exclude_defaults=True, exclude={"grouping", "layout", "downloads", "defects"})
    return "".join(f"{name} = {_toml(value)}\n" for name, value in facts.items())


def _toml(value: str | float | Mapping[str, int | str]) -> str:
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{_toml(key)} = {_toml(each)}' for key, each in value.items())} }}"
    if isinstance(value, int | float):
        return str(value).lower()  # of a bool
    escaped = "".join(f"\\u{ord(c):04x}" if ord(c) < 32 or c in '"\\' or ord(c) == 127 else c for c in value)
    return f'"{escaped}"'


@contextmanager
def _place(name: str, data_dir: Path) -> Iterator[Path]:
    """Return the folder in which a data set is built (module docstring), with no other process at it."""
    folder = data_dir / name
    if folder.exists():
        raise UserError(
            f"{folder} is there already: look at it with qgbench data verify {name}, or remove it to prepare it anew."
        )
    partial = data_dir / f".{name}.partial"
    try:
        with FileLock(data_dir / f".{name}.lock", blocking=False):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            try:
                yield partial
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except Timeout as error:
        raise UserError(f"another process is preparing '{name}'; wait for it.") from error
    except OSError as error:
        raise unwritable(f"to the data folder {data_dir}", error, "choose another --data-dir") from error


@contextmanager
def _archives_named(origins: Mapping[Path, Path]) -> Iterator[None]:
    """Put archives' names into errors that are about the folders that they were unpacked to."""
    try:
        yield
    except UserError as error:
        message = str(error)
        for folder, origin in origins.items():
            message = message.replace(str(folder.resolve()), str(origin)).replace(str(folder), str(origin))
        raise UserError(message) from error


def _folders(source: Path, unpacked: Path, track: Track) -> dict[Path, Path]:
    """Return the folders that a source consists of, with the archive that each was unpacked from, or itself.

    What was unpacked before stays.
    """
    if not source.exists():
        raise UserError(f"there is no file or folder {source}.")
    if source.is_dir():
        archives = [file for file in list_folder(source) if file.suffix.lower() == _ARCHIVE]
        folders = {source: source}
        for file in archives:
            folders |= _folders(file, unpacked, track)
        return folders
    state = source.stat()
    identity = f"{source.resolve()}/{state.st_size}/{state.st_mtime_ns}"
    folder = unpacked / hashlib.sha256(identity.encode()).hexdigest()[:12]
    if not folder.exists():
        unpacked.mkdir(exist_ok=True)
        unpack(source, folder, track)
    return {folder: source}


def _common_layout(card: Card, folders: Sequence[Path]) -> FolderSource | None:
    """Open the first folder that is in the common layout, or whose only folder is."""
    for folder in folders:
        for candidate in (folder, *(entry for entry in list_folder(folder) if entry.is_dir())):
            if (candidate / ("images" if card.kind == "labelled" else "unlabelled")).is_dir():
                open_it = open_source if card.kind == "labelled" else open_pool
                source = open_it(str(candidate.resolve()))
                assert isinstance(source, FolderSource)
                return source
    return None


def _write(source: FolderSource, partial: Path, track: Track) -> None:
    """Write a data set in the common layout, and say what is strange about its masks as a whole."""
    place = partial / ("images" if source.labelled else "unlabelled")
    place.mkdir()
    if source.labelled:
        (partial / "masks").mkdir()

    def write_one(id: str) -> tuple[set[int], bool]:
        image, masks = source.files(id)
        _link(image, place / f"{id}{image.suffix.lower()}")
        if not masks:
            return set(), False
        mask = source.mask(id)
        _mask_file(mask, source.card).save(partial / "masks" / f"{id}.png")
        return set(np.unique(mask).tolist()) - {0}, not source.card.classes and any(map(palette_misleads, masks))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            written = pool.map(write_one, source.ids)
            seen = list(track(written, f"Installing {source.name}", len(source.ids), "images"))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    _warn_of_masks(
        source,
        [id for id, (labels, _) in zip(source.ids, seen, strict=True) if source.labelled and not labels],
        [id for id, (_, is_misleading) in zip(source.ids, seen, strict=True) if is_misleading],
    )
    shown = set().union(*(labels for labels, _ in seen))
    absent = [name for label, name in enumerate(source.classes, start=1) if label not in shown]
    if source.labelled and shown and absent:
        logger.warning("no mask shows %s: is the value right?", name_any(absent))
    if source.groups != source.ids:
        text = groups_text(dict(zip(source.ids, source.groups, strict=True)))
        (partial / "groups.csv").write_text(text, encoding="utf-8")
    if source.extra is not None:
        assert isinstance(source.extra, FolderSource)
        _write(source.extra, partial, track)


def _mask_file(mask: NDArray[Any], card: Card) -> Image.Image:
    """Return what is saved of a mask: 255 for the one class; of named classes grey with their values, or a palette."""
    labels = mask.astype(np.uint8)
    values = list(card.classes.values())
    if not values:
        return Image.fromarray(labels * 255)
    if isinstance(values[0], str):
        picture = Image.fromarray(labels)
        picture.putpalette(b"".join(bytes.fromhex(str(value)[1:]) for value in ("#000000", *values)))
        return picture
    table = np.array([0, *values], dtype=np.uint8 if max(map(int, values)) < 256 else np.uint16)
    return Image.fromarray(table[labels])


def _warn_of_masks(source: FolderSource, empty: list[str], misleading: list[str]) -> None:
    """Say what makes one doubt that a data set's masks are meant as they were read."""
    if misleading:
        logger.warning(
            "%s with a palette whose colours and numbers disagree on the background. The colours were taken: black is "
            "the background. Look at the outlines (qgbench data show %s); if they are wrong, save the masks as grey.",
            name_some(misleading, "mask"),
            source.name,
        )
    if 2 * len(empty) > len(source.ids):
        logger.warning(
            "%s of %d without a single foreground pixel: a run on such images learns little or nothing.",
            name_some(empty, "mask"),
            len(source.ids),
        )


def _link(file: Path, target: Path) -> None:
    try:
        target.hardlink_to(file.resolve())
    except OSError:  # another disk, or one without links
        target.write_bytes(read_bytes(file))
