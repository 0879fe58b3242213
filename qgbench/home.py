"""Paths that begin with the home folder."""

from pathlib import Path

from qgbench.errors import UserError


def expanded(path: str | Path) -> Path:
    """Return a path with ``~`` replaced by the home folder: a shell leaves that of ``--output=~/runs`` as it is.

    Raises
    ------
    UserError
        It is not known where that home is (no HOME, or no such user).
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: where the home folder is, is not known; set HOME, or give the whole path.") from error
