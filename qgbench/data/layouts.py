"""Layouts of data sets as their owners distribute them: patterns of paths in a card, matched against folders.

A pattern is a path with ``/``; ``{field}`` stands for a part of a name without ``/``, ``*`` for any such part that does
not matter. The same field twice is the same text twice; upper and lower case are equal. Above the pattern's first
folder there may be others, as an unpacked archive often has them, and the folder that is given counts as one of them.
A distribution may lie in several folders, as it does that comes as several archives.
"""

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from qgbench.base.errors import UserError
from qgbench.base.text import read_table

MaskRule = Literal["binary", "half", "nonzero"]
_TOKEN = re.compile(r"\{(\w+)\}|\*")


class GroupTable(BaseModel):
    """CSV files of the distribution that name the group of each image.

    A file without both columns is passed over; files that have them must agree. Rows of other images do no harm.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str = Field(description="pattern of their paths")
    image: str = Field(description="column that holds the id")
    group: str = Field(description="column that holds the group")
    optional: bool = Field(False, description="without a file every image is a group of its own")


class Grouping(BaseModel):
    """How the group of an image is told from its id: by one of three rules."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pattern: str | None = Field(None, description="regular expression for the whole id; its first group is the group")
    ranges: Mapping[str, tuple[int, int]] = Field({}, description="group -> first and last id, which are numbers")
    table: GroupTable | None = None

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if sum(map(bool, (self.pattern, self.ranges, self.table))) != 1:
            raise ValueError("give one of pattern, ranges and table")
        return self


class Layout(BaseModel):
    """Where the images, masks and groups of a distribution are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    about: str = Field(description="which distribution this is, for messages")
    images: str = Field(description="pattern of an image's path, with at least one field")
    masks: str | None = Field(None, description="pattern of its masks' paths, joined if several; None for a pool")
    id: str = Field("{id}", description="the image's id, made of the fields of its path; {id:03} pads a number")
    names: Mapping[str, Mapping[str, str]] = Field({}, description="field -> text in the path -> text in the id")
    mask: MaskRule = Field(
        "binary", description="'binary': 0 and one other value; 'half': above half of 255 (JPEG); 'nonzero': labels"
    )

    @field_validator("images", "masks")
    @classmethod
    def _relative(cls, pattern: str | None) -> str | None:
        if pattern is not None and (pattern.startswith("/") or "\\" in pattern or ".." in pattern.split("/")):
            raise ValueError("a pattern is a relative path with '/'")
        return pattern

    @model_validator(mode="after")
    def _fields_are_known(self) -> Self:
        fields = set(_fields(self.images))
        if not fields:
            raise ValueError("images: a pattern needs a field, such as {id}")
        if missing := set(re.findall(r"\{(\w+)", self.id)) - fields:
            raise ValueError(f"id: {', '.join(sorted(missing))} is no field of images")
        if self.masks is not None and (missing := set(_fields(self.masks)) - fields):
            raise ValueError(f"masks: {', '.join(sorted(missing))} is no field of images")
        return self


@dataclass(frozen=True)
class Match:
    """A layout and the files that it found.

    Attributes
    ----------
    layout : Layout
    images : dict of str to Path
        Image file by id.
    masks : dict of str to list of Path
        Mask files by id; empty lists where there is none.
    groups : dict of str to str
        Group by id; the id itself where none is known.
    spare_masks : list of Path
        Masks that belong to no image, or are a second copy.
    """

    layout: Layout
    images: dict[str, Path]
    masks: dict[str, list[Path]]
    groups: dict[str, str]
    spare_masks: list[Path]


class _File(NamedTuple):
    name: str  # path with '/' that begins with the given folder's own name; accents composed
    path: Path
    top: Path  # the given folder


def match_layouts(layouts: Iterable[Layout], grouping: Grouping | None, folders: Sequence[Path]) -> Match | None:
    """Return the first layout that folders hold images of.

    An image's masks are looked for in its own place (the same folders above the pattern) and, if none is there, in the
    one other place that has some: archives may be unpacked side by side.

    Parameters
    ----------
    layouts : iterable of Layout
    grouping : Grouping or None
        None where every image is a group of its own.
    folders : sequence of Path
        An unpacked distribution: its own folder or folders, or any above them. Links to folders are not followed,
        hidden files are passed over.

    Returns
    -------
    Match or None
        None where no layout matches a single image.

    Raises
    ------
    UserError
        Two files have one id, masks of one image are in several places, a group is not known, or a folder cannot be
        read.
    """
    files = _files(folders)
    where = ", ".join(map(str, folders))
    for layout in layouts:
        if (match := _match(layout, grouping, files, where)) is not None:
            return match
    return None


def id_of(layout: Layout, path: str) -> str | None:
    """Return the id of the image that a path with '/' names, whether the file is there or not; None if none."""
    if layout.masks is not None and layout.masks != layout.images and _compiled(layout.masks).fullmatch(path):
        return None
    found = _compiled(layout.images).fullmatch(path)
    return None if found is None else _id(layout, found.groupdict())


def _files(folders: Sequence[Path]) -> list[_File]:
    """Return the files below all folders, each once, sorted."""
    found: dict[Path, _File] = {}
    for folder in folders:
        top = folder.resolve()
        for path in _walk(folder):
            relative = path.relative_to(folder)
            name = unicodedata.normalize("NFC", f"{top.name}/{relative.as_posix()}")
            found.setdefault(top / relative, _File(name, path, folder))
    return sorted(found.values())


def _walk(folder: Path) -> Iterator[Path]:
    for where, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        yield from (Path(where, name) for name in names if not name.startswith("."))


def _refuse(error: OSError) -> None:
    raise UserError(
        f"{error.filename} cannot be read ({error.strerror}); check that the folder is there and that you may read it."
    ) from error


def _match(layout: Layout, grouping: Grouping | None, files: list[_File], where: str) -> Match | None:
    masks = {} if layout.masks is None else _masks(layout, layout.masks, files)
    are_masks = {path for places in masks.values() for paths in places.values() for path in paths}
    shared = _shared_fields(layout)
    pattern = _compiled(layout.images)
    images: dict[str, Path] = {}
    masks_of: dict[str, list[Path]] = {}
    for file in files:
        if file.path in are_masks or not (found := pattern.fullmatch(file.name)):
            continue
        id = _id(layout, found.groupdict())
        if id in images:
            raise UserError(
                f"{images[id]} and {file.path} are both the image '{id}' ({layout.about}); keep one of them."
            )
        places = masks.get(tuple(found[field] for field in shared), {})
        place = (file.top, found["root"])
        if place not in places and len(places) > 1:
            several = " and ".join(str(paths[0]) for paths in list(places.values())[:2])
            raise UserError(
                f"{several} are masks of the image '{id}' in two places ({layout.about}); keep one of them."
            )
        images[id] = file.path
        masks_of[id] = places.get(place) or next(iter(places.values()), [])
    if not images:
        return None
    used = {path for paths in masks_of.values() for path in paths}
    return Match(layout, images, masks_of, _groups(grouping, list(images), files, where), sorted(are_masks - used))


def _masks(
    layout: Layout, pattern: str, files: list[_File]
) -> dict[tuple[str, ...], dict[tuple[Path, str], list[Path]]]:
    """Return masks by the fields that they share with their image, then by place."""
    masks: dict[tuple[str, ...], dict[tuple[Path, str], list[Path]]] = {}
    compiled = _compiled(pattern)
    for file in files:
        if found := compiled.fullmatch(file.name):
            places = masks.setdefault(tuple(found[field] for field in _shared_fields(layout)), {})
            places.setdefault((file.top, found["root"]), []).append(file.path)
    return masks


def _shared_fields(layout: Layout) -> list[str]:
    return [] if layout.masks is None else sorted(set(_fields(layout.masks)))


def _fields(pattern: str) -> list[str]:
    return re.findall(r"\{(\w+)\}", pattern)


def _compiled(pattern: str) -> re.Pattern[str]:
    """Return a pattern as a regular expression for a path; ``root`` is what lies above it."""
    seen: set[str] = set()
    parts, end = [], 0
    for token in _TOKEN.finditer(pattern):
        parts.append(re.escape(pattern[end : token.start()]))
        end, field = token.end(), token[1]
        if field is None:
            parts.append("[^/]*")
        else:
            parts.append(f"(?P={field})" if field in seen else f"(?P<{field}>[^/]+)")
            seen.add(field)
    parts.append(re.escape(pattern[end:]))
    return re.compile(rf"(?P<root>(?:.*/)?){''.join(parts)}", re.IGNORECASE)


def _id(layout: Layout, fields: dict[str, str]) -> str:
    values: dict[str, str | int] = {}
    for field, text in fields.items():
        text = layout.names.get(field, {}).get(text, text)
        numeric = re.search(rf"\{{{field}:\d+\}}", layout.id) is not None and text.isdecimal()
        values[field] = int(text) if numeric else text
    return unicodedata.normalize("NFC", layout.id.format_map(values))


def _groups(grouping: Grouping | None, ids: list[str], files: list[_File], where: str) -> dict[str, str]:
    if grouping is None:
        return {id: id for id in ids}
    if grouping.pattern is not None:
        pattern = re.compile(grouping.pattern)
        groups = {id: found[1] for id in ids if (found := pattern.fullmatch(id)) is not None}
    elif grouping.table is not None:
        groups = _from_tables(grouping.table, ids, files, where)
    else:
        spans = grouping.ranges.items()
        groups = {id: group for id in ids if id.isdecimal() for group, (a, b) in spans if a <= int(id) <= b}
    if unknown := sorted(set(ids) - set(groups)):
        some = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        source = "" if grouping.table is None else f" from {grouping.table.file}"
        raise UserError(f"{where}: the group of {len(unknown)} images is not known{source} ({some}).")
    return {id: groups[id] for id in ids}


def _from_tables(table: GroupTable, ids: list[str], files: list[_File], where: str) -> dict[str, str]:
    pattern = _compiled(table.file)
    tables = [rows for file in files if pattern.fullmatch(file.name) and (rows := _rows(table, file.path)) is not None]
    if not tables and table.optional:
        return {id: id for id in ids}
    if not tables:
        raise UserError(
            f"{where} holds no {table.file} with the columns {table.image} and {table.group}, which names the groups; "
            "fetch it too."
        )
    rows = set().union(*tables)
    groups = dict(rows)
    if twice := sorted({id for id, group in rows if groups[id] != group}):
        raise UserError(f"{where}: {table.file} names several groups of the image '{twice[0]}'.")
    return groups


def _rows(table: GroupTable, file: Path) -> set[tuple[str, str]] | None:
    """Return the pairs of id and group of a table, without empty cells; None if it has not both columns."""
    columns = (table.image, table.group)
    rows = read_table(file, columns)
    if not set(columns) <= set(rows.columns):
        return None
    return {(id, group) for id, group in zip(rows[table.image], rows[table.group], strict=True) if id and group}
