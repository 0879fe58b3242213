"""Layouts of data sets as their owners distribute them: patterns of paths in a card, matched against a folder.

A pattern is a path with ``/``; ``{field}`` stands for a part of a name without ``/``, ``*`` for any such part that does
not matter. The same field twice is the same text twice. Above the pattern's first folder there may be others, as an
unpacked archive often has them.
"""

import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from qgbench.errors import UserError

MaskRule = Literal["binary", "half", "nonzero"]
_TOKEN = re.compile(r"\{(\w+)\}|\*")


class GroupTable(BaseModel):
    """A CSV file of the distribution that names the group of each image."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str = Field(description="pattern of its path")
    image: str = Field(description="column that holds the id")
    group: str = Field(description="column that holds the group")
    optional: bool = Field(False, description="without the file every image is a group of its own")


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
    """

    layout: Layout
    images: dict[str, Path]
    masks: dict[str, list[Path]]
    groups: dict[str, str]


def match_layouts(layouts: Iterable[Layout], grouping: Grouping | None, folder: Path) -> Match | None:
    """Find the first layout that a folder holds images of.

    Parameters
    ----------
    layouts : iterable of Layout
    grouping : Grouping or None
        None where every image is a group of its own.
    folder : Path
        An unpacked distribution, or a folder above it. Links to folders are not followed, hidden files passed over.

    Returns
    -------
    Match or None
        None where no layout matches a single image.

    Raises
    ------
    UserError
        Two files have one id, or a group is not known.
    """
    files = sorted(_files(folder))
    for layout in layouts:
        if (match := _match(layout, grouping, folder, files)) is not None:
            return match
    return None


def _files(folder: Path) -> Iterable[str]:
    """Paths of all files below a folder, relative to it, with '/'."""
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        base = Path(where).relative_to(folder).as_posix()
        for name in names:
            if not name.startswith("."):
                yield name if base == "." else f"{base}/{name}"


def _match(layout: Layout, grouping: Grouping | None, folder: Path, files: list[str]) -> Match | None:
    image_pattern = _compiled(layout.images)
    mask_pattern = None if layout.masks is None else _compiled(layout.masks)
    masks: dict[tuple[str, ...], list[Path]] = {}
    shared = [] if layout.masks is None else sorted(set(_fields(layout.masks)))
    are_masks = set()
    if mask_pattern is not None and layout.masks != layout.images:
        for file in files:
            if found := mask_pattern.fullmatch(file):
                are_masks.add(file)
                masks.setdefault(tuple(found[field] for field in ("root", *shared)), []).append(folder / file)
    images: dict[str, Path] = {}
    masks_of: dict[str, list[Path]] = {}
    for file in files:
        if file in are_masks or not (found := image_pattern.fullmatch(file)):
            continue
        id = _id(layout, found.groupdict())
        if id in images:
            raise UserError(
                f"{images[id]} and {folder / file} are both the image '{id}' ({layout.about}); keep one of them."
            )
        images[id] = folder / file
        masks_of[id] = masks.get(tuple(found[field] for field in ("root", *shared)), [])
    if not images:
        return None
    return Match(layout, images, masks_of, _groups(grouping, list(images), folder, files))


def _fields(pattern: str) -> list[str]:
    return re.findall(r"\{(\w+)\}", pattern)


def _compiled(pattern: str) -> re.Pattern[str]:
    """Turn a pattern into a regular expression for a path; ``root`` is what lies above it."""
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


def _groups(grouping: Grouping | None, ids: list[str], folder: Path, files: list[str]) -> dict[str, str]:
    if grouping is None:
        return {id: id for id in ids}
    if grouping.pattern is not None:
        pattern = re.compile(grouping.pattern)
        groups = {id: found[1] for id in ids if (found := pattern.fullmatch(id)) is not None}
    elif grouping.table is not None:
        groups = _from_table(grouping.table, ids, folder, files)
    else:
        spans = grouping.ranges.items()
        groups = {id: group for id in ids if id.isdecimal() for group, (a, b) in spans if a <= int(id) <= b}
    if unknown := sorted(set(ids) - set(groups)):
        some = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        raise UserError(f"{folder}: the group of {len(unknown)} images is not known ({some}).")
    return {id: groups[id] for id in ids}


def _from_table(table: GroupTable, ids: list[str], folder: Path, files: list[str]) -> dict[str, str]:
    pattern = _compiled(table.file)
    found = [file for file in files if pattern.fullmatch(file)]
    if not found and table.optional:
        return {id: id for id in ids}
    if len(found) != 1:
        raise UserError(f"{folder} holds {len(found)} files {table.file}, which names the groups; expected one.")
    try:
        rows = pd.read_csv(folder / found[0], dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / found[0]} cannot be read as CSV: {error}") from error
    rows.columns = rows.columns.str.strip()
    if not {table.image, table.group} <= set(rows.columns):
        raise UserError(f"{folder / found[0]} has no columns {table.image} and {table.group}.")
    return dict(zip(rows[table.image].str.strip(), rows[table.group].str.strip(), strict=True))
