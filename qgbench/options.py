"""Options that several verbs of the command line share."""

from pathlib import Path
from typing import Annotated

import typer

from qgbench.logs import QUIET, VERBOSE, set_verbosity


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
Output = Annotated[Path, typer.Option(help="Folder of all runs; each run has a folder in it.")]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder that holds the data sets, one folder each. (default: the variable QGBENCH_DATA)"),
]
