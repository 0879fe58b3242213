"""Paths: told from names, and with the home folder in its place."""

import os
import re
from pathlib import Path

from qgbench.base.errors import UserError, unreadable


def expanded(path: str | Path) -> Path:
    """Return a path with ``~`` replaced by the home folder: a shell leaves that of ``--output=~/runs`` as it is.

    Raises
    ------
    UserError
        The path is empty, or it is not known where that home is (no HOME, or no such user).
    """
    if path == "":
        raise UserError("a path is empty: is a variable of the shell not set?")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        remedy = "set HOME, or give" if str(path).partition("/")[0] == "~" else "there is no such user; give"
        raise UserError(f"{path}: where that home folder is, is not known; {remedy} the whole path.") from error


def is_path(name: str) -> bool:
    """Return whether it is a path, not a name: with a separator (``./mine``, ``mine/``), or ``.``, ``..`` or ``~``."""
    return "/" in name or os.sep in name or name in (".", "..") or name.startswith("~")


def base_name(dataset: str) -> str:
    """Return a data set's name in ids, seeds and draws: as given; of a folder its last part, wherever it lies."""
    return re.sub(r"\W+", "_", dataset.rstrip("/").rpartition("/")[2])


def no_folder(path: str | Path) -> str:
    """Return words for a message: that a path leads to no folder."""
    return f"{path} is a file, and a folder is needed" if Path(path).exists() else f"there is no folder {path}"


def list_folder(folder: Path) -> list[Path]:
    """Return what a folder holds, sorted; raises UserError if it cannot be read."""
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise unreadable(folder, error) from error
