"""What a chapter is made of: tables of text."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from qgbench.report.collect import Problem
from qgbench.report.wording import MARK, MARK_RULE

T = TypeVar("T")

Columns = Mapping[str, Callable[[T], str]]
"""Headings, which may hold line breaks, each with what it says of a row's subject."""


@dataclass(frozen=True)
class Table:
    """Text in rows and columns; `columns` may hold line breaks; the first `names` columns hold free text."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    names: int
    bold: frozenset[tuple[int, int]] = frozenset()
    """Places (row, column) that are set in bold."""
    widths: tuple[int, ...] = (38, 18, 18)
    """Of the columns of free text on paper, mm."""
    prose: frozenset[int] = frozenset()
    """Columns of free text that are sentences, not names."""
    says: str = ""
    """What its numbers are: what is averaged, over what, and what the looks of a cell mean."""

    @property
    def footnote(self) -> str:
        """What the mark behind an interval says; empty where no interval has it."""
        cells = (cell for row in self.rows for cell in row[self.names :])
        return MARK_RULE if any(cell.endswith(MARK) for cell in cells) else ""


@dataclass(frozen=True)
class Chapter:
    """One setting of the report: what stands above the tables, the tables, and what stands below."""

    title: str
    above: list[str]
    tables: list[Table]
    below: list[str]
    problems: list[Problem]


def table(title: str, columns: Columns[T], subjects: Iterable[T], names: int, **looks: Any) -> Table:
    """Return a table with a row for each subject; `looks` are fields of `Table`."""
    rows = [[cell(subject) for cell in columns.values()] for subject in subjects]
    return Table(title, list(columns), rows, names, **looks)


_ABREAST = 125  # characters of the columns of numbers that a landscape page holds beside names


def abreast(widths: Iterable[int], room: int = _ABREAST) -> list[list[int]]:
    """Return columns, by their places and given their widths in characters, in parts that a page is wide enough for."""
    parts: list[list[int]] = [[]]
    left = room
    for index, width in enumerate(widths):
        if parts[-1] and width + 2 > left:
            parts.append([])
            left = room
        parts[-1].append(index)
        left -= width + 2
    return parts


def part_title(title: str, number: int, parts: int) -> str:
    """Return the title of a table that is cut in parts, where it is."""
    return f"{title}, part {number} of {parts}" if parts > 1 else title
