"""Options that several verbs of the command line share."""

from pathlib import Path
from typing import Annotated

import typer

from qgbench.base.errors import UserError
from qgbench.base.logs import QUIET, VERBOSE, set_verbosity
from qgbench.base.paths import expanded


def name_or_path(text: str) -> str:
    """Return what was given; a path that begins with ``~`` with the home folder in its place.

    Raises
    ------
    UserError
        Nothing was given, as by a variable of the shell that is not set.
    """
    if not text:
        raise UserError("a name or path is empty: is a variable of the shell not set?")
    return str(expanded(text)) if text.startswith("~") else text


def _say_more(wanted: bool) -> None:
    if wanted:
        set_verbosity(VERBOSE)


def _say_less(wanted: bool) -> None:
    if wanted:
        set_verbosity(QUIET)


Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", callback=_say_more, help="Say more, and show the traceback of an error.")
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", callback=_say_less, help="No progress and no notes; warnings stay.")
]
Output = Annotated[Path, typer.Option(parser=expanded, help="Folder of all runs; each run has a folder in it.")]
DataDir = Annotated[
    Path | None,
    typer.Option(
        parser=expanded, help="Folder that holds the data sets, one folder each. (default: the variable QGBENCH_DATA)"
    ),
]
