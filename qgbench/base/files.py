"""Files that are whole or not there."""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from qgbench.base.errors import UserError, unwritable

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


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give a folder to write into, which becomes `folder` in one step when the block ends, and vanishes if it fails.

    Parameters
    ----------
    folder : Path
        Not there yet, or empty. It is built as ``.<name>.partial`` beside its place; what a killed process left there
        is removed.

    Raises
    ------
    UserError
        It holds something, is a file, or another process is building it.
    UnwritableError
        The disk is full; it is a `UserError` as well where the place cannot be written.
    """
    folder = folder.absolute()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        kind = "holds files already" if folder.is_dir() else "is a file"
        raise UserError(f"{folder} {kind}, and nothing is overwritten: remove it, or choose another --output.")
    partial, lock = (folder.with_name(f".{folder.name}{end}") for end in (_PARTIAL_SUFFIX, ".lock"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock, blocking=False):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            try:
                yield partial
                partial.replace(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
                lock.unlink(missing_ok=True)
    except Timeout as error:
        raise UserError(f"another process is writing {folder}; wait for it, or choose another --output.") from error
    except OSError as error:
        raise unwritable(folder, error, "choose another --output") from error


def remove_partial_files(folder: Path) -> None:
    """Remove what `write_atomically` left behind where its process was killed; for a folder that nobody else writes."""
    for partial in folder.rglob(f".*{_PARTIAL_SUFFIX}"):
        partial.unlink(missing_ok=True)
