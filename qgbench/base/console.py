"""Standard output: tables that cut no name, characters that it cannot hold, and what happens when it is closed."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

_WIDE = 10_000  # columns; wider than any line that is printed
_NOBODY_READS = 128 + 13  # the exit code of a program that SIGPIPE ended


@contextmanager
def written_out() -> Iterator[None]:
    """Write out all of standard output by the end of the block; characters that it cannot hold are replaced.

    Raises
    ------
    OSError
        Standard output cannot be written.
    SystemExit
        Nobody reads it any more, as in ``qgbench methods | head -1``.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        yield
    except SystemExit as ending:  # of Rich and Typer, which meet a broken pipe first
        if isinstance(ending.__context__, BrokenPipeError):
            ending.code = _NOBODY_READS
        raise
    finally:
        try:
            if sys.stdout is not None:
                sys.stdout.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or else Python tries again as it ends
            if isinstance(error, BrokenPipeError):
                raise SystemExit(_NOBODY_READS) from None
            raise


def standard_output() -> Console:
    """Return the console of results: as wide as the terminal; in a pipe or a file as wide as the longest line."""
    console = Console()
    if not console.is_terminal:
        console.width = _WIDE
    return console


def print_table(table: Table, console: Console) -> None:
    """Print a table of text whose first column holds names, none of which is broken or cut.

    Where the console is too narrow, each row becomes a block: its name, and below it the other cells with their
    headings.
    """
    names, *others = table.columns
    anyhow = console.options.update(max_width=_WIDE)
    names.no_wrap = True
    longest = max((Measurement.get(console, anyhow, cell).maximum for cell in names.cells), default=0)
    names.min_width = max(longest, names.min_width or 0)
    if table.__rich_measure__(console, anyhow).minimum <= console.width:
        console.print(table)
        return
    if table.title:
        console.print(table.title)
    for name, *cells in zip(*(column.cells for column in table.columns), strict=True):
        console.print(name, soft_wrap=True)
        headings = (f"{other.header}: " if other.header else "" for other in others)
        facts = [Text.assemble(heading, cell) for heading, cell in zip(headings, cells, strict=True) if cell]
        console.print(Padding(Text("  ").join(facts), (0, 0, 0, 2)))
