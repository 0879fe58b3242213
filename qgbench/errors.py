"""Errors that a user sees: what was given, what was expected, what to do next."""

import difflib
import errno
from collections.abc import Iterable
from pathlib import Path

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_LISTED = 40  # longer lists of names are counted, not printed


class QGBenchError(Exception):
    """A failure that qgbench foresaw; the command line prints its text without a traceback and exits with 1."""

    exit_code = 1


class UserError(QGBenchError):
    """A mistake in the arguments or the data handed in; the command line exits with 2."""

    exit_code = 2


class NotFoundError(UserError):
    """What was named does not exist."""


def in_one_line(error: BaseException) -> str:
    """Return the name of an exception and the first line of its text."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def not_written(path: Path, error: OSError, instead: str = "another folder") -> QGBenchError:
    """Build the error for what cannot be written: a mistake of whoever named it, unless the disk is full.

    Parameters
    ----------
    path : Path
    error : OSError
        What the operating system says.
    instead : str
        What else to choose.
    """
    reason = f"{error.filename} is no folder" if isinstance(error, FileExistsError) else error.strerror or error
    text = f"cannot write {path}: {reason}."
    if error.errno in DISK_FULL:
        return QGBenchError(f"{text} Free some space on that disk, or choose {instead}.")
    return UserError(f"{text} Choose {instead}.")


def unknown_name(kind: str, name: str, known: Iterable[str]) -> NotFoundError:
    """Build the error for a name that nothing is registered under.

    Parameters
    ----------
    kind : str
        What the name should have named, for example ``"method"``.
    name : str
        The name that was given.
    known : iterable of str
        All names that exist; the nearest is suggested.
    """
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=4, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    if len(names) > _LISTED:
        others = f" Others like it: {', '.join(near[1:])}." if near[1:] else ""
        return NotFoundError(f"unknown {kind} '{name}'.{hint}{others} {len(names)} are known.")
    return NotFoundError(f"unknown {kind} '{name}'.{hint} Known: {', '.join(names) or 'none'}.")
