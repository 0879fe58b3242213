"""Bring data sets into the data folder in the common layout (`qgbench.data.readers`): distributions and one's own.

A data set is built beside its place, as ``.<name>.partial/``, and moved there in one step. Image files are linked where
the disk allows it (a second name for the same file, which takes no room) and copied elsewhere; nothing is decoded
anew. Masks are written as PNG, 0 and 255.
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from PIL import Image
from pydantic import ValidationError

from qgbench.data.archives import unpack
from qgbench.data.cache import Track, no_progress
from qgbench.data.cards import CARD_NAME, Card, Kind, card_names
from qgbench.data.readers import DATA_VARIABLE, FolderSource, Source, open_distribution, open_pool, open_source
from qgbench.errors import QGBenchError, UserError
from qgbench.logs import logger
from qgbench.records import write_atomically

_ARCHIVE = ".zip"


def writable_data_dir(given: Path | None) -> Path:
    """Name the data folder, which is made if it is not there: `given`, else the variable QGBENCH_DATA.

    Raises
    ------
    UserError
        Neither is given, or the folder cannot be made.
    """
    named = given or os.environ.get(DATA_VARIABLE)
    if not named:
        raise UserError(f"no data folder is named: give --data-dir DIR or set {DATA_VARIABLE}=DIR.")
    folder = Path(named).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the data folder {folder} cannot be made ({error.strerror}); name another.") from error
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
        It is there already; a source is missing, or an archive refused (`qgbench.data.archives`); the sources are in
        none of the card's layouts or not complete; a mask cannot be read. The data folder is as it was.
    QGBenchError
        The data folder cannot be written.
    """
    unpacked = data_dir / f".{card.name}.unpacked"
    with _place(card.name, data_dir) as partial:
        folders = [folder for source in sources for folder in _folders(source, unpacked, track)]
        source = open_distribution(card, folders) or _common_layout(card, folders)
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
        Written beside the images.
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
    places = {"images" if masks else "unlabelled": images, "masks": masks, "groups.csv": groups}
    for place in places.values():
        if place is not None and not place.expanduser().exists():
            raise UserError(f"there is no file or folder {place}.")
    with _place(card.name, data_dir) as partial:
        given = partial.with_name(f".{card.name}.given")
        shutil.rmtree(given, ignore_errors=True)
        given.mkdir()
        try:
            for name, place in places.items():
                if place is not None:
                    (given / name).symlink_to(place.expanduser().absolute())
            write_atomically(given / CARD_NAME, card_text(card).encode())
            source = open_source(str(given.absolute())) if masks else open_pool(str(given.absolute()))
            assert isinstance(source, FolderSource)
            _write(source, partial, track)
            shutil.copyfile(given / CARD_NAME, partial / CARD_NAME)
        except UserError as error:
            message = str(error)
            for name, place in places.items():  # the user's names, not those of the links
                message = message.replace(str(given.resolve() / name), str(place))
            raise UserError(message) from error
        finally:
            shutil.rmtree(given, ignore_errors=True)
    return data_dir / card.name


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
    if not groups.expanduser().is_file():
        raise UserError(f"there is no file {groups}.")
    with _place(card.name, data_dir) as partial:
        _write(source, partial, track)
        shutil.copyfile(groups.expanduser(), partial / "groups.csv")
        write_atomically(partial / CARD_NAME, card_text(card).encode())
        try:
            open_source(str(partial.resolve()))
        except UserError as error:
            raise UserError(str(error).replace(str(partial.resolve() / "groups.csv"), str(groups))) from error
    return data_dir / card.name


def groups_text(group_of: Mapping[str, str]) -> str:
    """Write ``groups.csv``: the group of each image."""
    return pd.DataFrame(group_of.items(), columns=["stem", "group"]).to_csv(index=False, lineterminator="\n")


def own_card(name: str, title: str, groups: str, pool: bool, facts: Mapping[str, str]) -> Card:
    """Make the card of one's own data set.

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

    Raises
    ------
    UserError
        The name is taken or has other characters.
    """
    if name in card_names():
        raise UserError(
            f"'{name}' is a data set that qgbench knows: bring it in with qgbench data prepare {name}, or take another "
            "name."
        )
    kind: Kind = "pool" if pool else "labelled"
    try:
        return Card(name=name, title=title, kind=kind, groups=groups, homepage="not stated", **facts)
    except ValidationError as error:
        raise UserError(
            f"'{name}' cannot name a data set: letters, digits, '_', '.', '-' only, the first a letter or digit."
        ) from error


def card_text(card: Card) -> str:
    """Write the plain facts of a card as TOML."""
    facts = card.model_dump(mode="json", exclude_defaults=True, exclude={"grouping", "layout", "downloads", "defects"})
    return "".join(f"{name} = {_toml(value)}\n" for name, value in facts.items())


def _toml(value: str | int) -> str:
    if isinstance(value, int):
        return str(value)
    escaped = "".join(f"\\u{ord(c):04x}" if ord(c) < 32 or c in '"\\' or ord(c) == 127 else c for c in value)
    return f'"{escaped}"'


@contextmanager
def _place(name: str, data_dir: Path) -> Iterator[Path]:
    """Give the folder in which a data set is built (module docstring), with no other process at it."""
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
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise QGBenchError(f"the disk of {data_dir} is full; free some space and give the same command.") from error
        raise QGBenchError(f"'{name}' was not brought to {data_dir}: {error}.") from error


def _folders(source: Path, unpacked: Path, track: Track) -> list[Path]:
    """Give the folders that a source consists of, unpacking archives; those that were unpacked before stay."""
    if not source.exists():
        raise UserError(f"there is no file or folder {source}.")
    if source.is_dir():
        archives = sorted(file for file in source.iterdir() if file.suffix.lower() == _ARCHIVE)
        return [source, *(folder for file in archives for folder in _folders(file, unpacked, track))]
    state = source.stat()
    identity = f"{source.resolve()}/{state.st_size}/{state.st_mtime_ns}"
    folder = unpacked / hashlib.sha256(identity.encode()).hexdigest()[:12]
    if not folder.exists():
        unpacked.mkdir(exist_ok=True)
        unpack(source, folder, track)
    return [folder]


def _common_layout(card: Card, folders: Sequence[Path]) -> FolderSource | None:
    """Open the first folder that is in the common layout, or whose only folder is."""
    for folder in folders:
        for candidate in (folder, *(entry for entry in sorted(folder.iterdir()) if entry.is_dir())):
            if (candidate / ("images" if card.kind == "labelled" else "unlabelled")).is_dir():
                open_it = open_source if card.kind == "labelled" else open_pool
                source = open_it(str(candidate.resolve()))
                assert isinstance(source, FolderSource)
                return source
    return None


def _write(source: FolderSource, partial: Path, track: Track) -> None:
    """Write a data set in the common layout."""
    place = partial / ("images" if source.labelled else "unlabelled")
    place.mkdir()
    if source.labelled:
        (partial / "masks").mkdir()

    def write_one(id: str) -> None:
        image, masks = source.files(id)
        _link(image, place / f"{id}{image.suffix.lower()}")
        if masks:
            mask = Image.fromarray(source.mask(id).astype(np.uint8) * 255)
            mask.save(partial / "masks" / f"{id}.png")

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for _ in track(pool.map(write_one, source.ids), f"Installing {source.name}", len(source.ids), "images"):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    if source.groups != source.ids:
        text = groups_text(dict(zip(source.ids, source.groups, strict=True)))
        write_atomically(partial / "groups.csv", text.encode())
    if source.extra is not None:
        assert isinstance(source.extra, FolderSource)
        _write(source.extra, partial, track)


def _link(file: Path, target: Path) -> None:
    try:
        target.hardlink_to(file.resolve())
    except OSError:  # another disk, or one without links
        shutil.copyfile(file, target)
