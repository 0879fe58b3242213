"""Keep other processes out of a folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from qgbench.base.errors import QGBenchError, unwritable
from qgbench.base.files import remove_partial_files
from qgbench.base.logs import logger

_LOCK_NAME = ".lock"


class BusyError(QGBenchError):
    """Another process is in the folder, and this one was not to wait for it."""


@contextmanager
def locked(folder: Path, what: str, wait: bool = True) -> Iterator[None]:
    """Keep every other process out of a folder inside the block; wait for one that is in it, and say so.

    The lock is the operating system's: it is free as soon as its process has ended, however it ended. What a killed
    process left half-written is removed.

    Parameters
    ----------
    folder : Path
        Made if it is missing.
    what : str
        What the folder is of ('run'), for the message.
    wait : bool
        False: raise `BusyError` instead of waiting.

    Raises
    ------
    QGBenchError
        The disk is full, or, a `UserError`, the folder cannot be made or written.
    BusyError
        Another process is in it, and `wait` is False.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / _LOCK_NAME)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            if not wait:
                raise BusyError(f"another process is at this {what} ({folder}).") from error
            logger.info("another process is at this %s (%s); waiting for it to end.", what, folder)
            lock.acquire()
    except OSError as error:
        raise unwritable(folder, error, "choose another --output") from error
    try:
        remove_partial_files(folder)
        yield
    finally:
        lock.release()


def is_locked(folder: Path) -> bool:
    """Return whether a process is in a folder now; True where that cannot be seen, as in somebody else's folder."""
    try:
        with FileLock(folder / _LOCK_NAME).acquire(timeout=0):
            return False
    except (Timeout, OSError):
        return True
