"""Text files that people write with programs of their own: plain text, TOML, and CSV from any spreadsheet. No torch.

All are UTF-8. The mark that some editors put first is passed over; a file in another encoding is refused, since a name
that is guessed wrongly would become another name.
"""

import csv
import re
import tomllib
import unicodedata
from collections.abc import Collection
from importlib.resources.abc import Traversable
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qgbench.base.errors import UserError, unreadable

if TYPE_CHECKING:
    import pandas as pd


def read_text(file: Path | Traversable) -> str:
    r"""Return the text of a file, its lines ended by ``\n``.

    Raises
    ------
    UserError
        It is missing, may not be read, or is not UTF-8.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise unreadable(file, error) from error
    except UnicodeDecodeError as error:
        raise _other_encoding(file, error.object[: error.start].decode()) from error
    before, nul, _ = text.partition("\0")  # UTF-16 without a mark is UTF-8 as well, to the letter
    if nul:
        raise _other_encoding(file, before)
    return text


def _other_encoding(file: Path | Traversable, before: str) -> UserError:
    line = before.count("\n") + 1
    hint = " (a spreadsheet calls that 'CSV UTF-8')" if file.name.endswith(".csv") else ""
    return UserError(f"{file} is not UTF-8 (line {line}); save it as UTF-8 in the program that wrote it{hint}.")


def parse_toml(text: str, file: Path | Traversable) -> dict[str, Any]:
    """Return the content of TOML; `file` is for messages.

    Raises
    ------
    UserError
        It is not valid; line and column are named.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{file} is not valid TOML: {error}.") from error


def read_table(file: Path | Traversable, columns: Collection[str]) -> "pd.DataFrame":
    """Return a CSV file, every cell as text; the index holds the numbers of the lines.

    Blanks around headings and cells, lines without any text, and empty cells beyond the last heading are let go.
    Accented letters are composed (NFC). A line with fewer cells than there are headings ends in empty ones.

    Parameters
    ----------
    file : Path
    columns : collection of str
        The columns that matter. A heading that is one of them but for its case is spelled as here; other columns
        are returned as they are.

    Raises
    ------
    UserError
        What `read_text` raises; there is no heading; quotes do not match; a line has more cells than there are
        headings; one of `columns` is there twice.
    """
    import pandas as pd  # late: a TAB of the shell does not wait for it

    text = unicodedata.normalize("NFC", read_text(file))
    text = re.sub(r"\Asep=,?\n", "\n", text)  # a hint for spreadsheets, which they write first
    reader = csv.reader(StringIO(text), skipinitialspace=True, strict=True)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise UserError(f"{file} cannot be read as CSV: {error} (line {reader.line_num}).") from error
    rows = [(line, row) for line, row in rows if any(row)]
    if not rows:
        raise UserError(f"{file} cannot be read as CSV: it is empty.")
    spelled = {column.casefold(): column for column in columns}
    headings = [spelled.get(heading.casefold(), heading) for heading in rows.pop(0)[1]]
    if twice := [column for column in columns if headings.count(column) > 1]:
        raise UserError(f"{file} has {headings.count(twice[0])} columns '{twice[0]}'; keep one of them.")
    width = len(headings)
    for line, row in rows:
        if any(row[width:]):
            raise UserError(
                f"{file} cannot be read as CSV: line {line} has {len(row)} cells for {width} columns. A cell that "
                "holds a comma is put in double quotes."
            )
    cells = [row[:width] + [""] * (width - len(row)) for _, row in rows]
    return pd.DataFrame(cells, index=[line for line, _ in rows], columns=headings, dtype=str)


def refuse_empty(table: "pd.DataFrame", column: str, file: Path) -> None:
    """Raise UserError where a table of `read_table` has an empty cell in a column."""
    if not (lines := table.index[table[column] == ""]).empty:
        raise UserError(f"{file}: the column {column} is empty in line {lines[0]}; fill the cell or remove the line.")
