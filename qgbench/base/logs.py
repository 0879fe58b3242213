"""What qgbench says beside its results: notes and warnings on standard error, and in the log of a run."""

import logging
import logging.handlers
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

logger = logging.getLogger("qgbench")
_of_libraries = logging.getLogger("py.warnings")  # where Python sends warnings once they are captured

SILENT, QUIET, NORMAL, VERBOSE = logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to whatever standard error is at that moment: a progress bar redirects it."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class _Spoken(logging.Formatter):
    """Notes as they are, warnings and errors with their level in front."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        return f"{record.levelname.lower()}: {text}" if record.levelno >= logging.WARNING else text


def set_verbosity(level: int) -> None:
    """Say more or less on standard error.

    Warnings of libraries are shown when `VERBOSE` only; a run's log has them in any case.

    Parameters
    ----------
    level : int
        `SILENT`, `QUIET` (warnings only, no progress), `NORMAL` or `VERBOSE` (details, and tracebacks of errors).
    """
    handler = _StandardError()
    handler.setLevel(level)
    handler.setFormatter(_Spoken())
    logging.captureWarnings(True)
    _of_libraries.propagate = False
    for source, wanted in ((logger, True), (_of_libraries, level == VERBOSE)):
        source.setLevel(logging.DEBUG)
        for former in [former for former in source.handlers if isinstance(former, _StandardError)]:
            source.removeHandler(former)
        if wanted:
            source.addHandler(handler)


def verbosity() -> int:
    """Return what `set_verbosity` was given last; `NORMAL` before that."""
    return next((handler.level for handler in logger.handlers if isinstance(handler, _StandardError)), NORMAL)


class _RunLog(logging.handlers.WatchedFileHandler):
    """A log file that never ends a run: what cannot be written to it (full disk, folder gone) is let go."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):  # opening the file
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (the standard library's name)
        """Do nothing: writing to the file."""


@contextmanager
def logged_to(file: Path) -> Iterator[None]:
    """Append everything that is said inside the block to a file, each line with its time (UTC)."""
    handler = _RunLog(file, encoding="utf-8", delay=True)
    formatter = logging.Formatter("%(asctime)sZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    for source in (logger, _of_libraries):
        source.addHandler(handler)
    try:
        yield
    finally:
        for source in (logger, _of_libraries):
            source.removeHandler(handler)
        handler.close()
