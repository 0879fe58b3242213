"""Files that are whole or not there."""

import errno
import os
import secrets
from pathlib import Path

from qgbench.base.errors import unwritable

_PARTIAL_SUFFIX = ".partial"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old content or the new one, never a part.

    A device or a pipe (``/dev/stdout``) is written to, and stays.

    Raises
    ------
    UnwritableError
        The disk is full; it is a `UserError` as well where the place cannot be written.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if path.exists() and not path.is_file():
            path.write_bytes(data)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_PARTIAL_SUFFIX}")
        try:
            with partial.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise unwritable(path, error) from error


def remove_partial_files(folder: Path) -> None:
    """Remove what `write_atomically` left behind where its process was killed; for a folder that nobody else writes."""
    for partial in folder.rglob(f".*{_PARTIAL_SUFFIX}"):
        partial.unlink(missing_ok=True)
