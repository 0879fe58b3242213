"""Errors that a user sees: what was given, what was expected, what to do next."""

import difflib
import errno
import os
from collections.abc import Iterable, Mapping
from importlib.resources.abc import Traversable
from pathlib import Path
from types import MappingProxyType

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


_LISTED = 40  # longer lists of names are counted, not printed

_WRITING: Mapping[int, str] = MappingProxyType(
    {
        errno.ENOSPC: "Free some space on that disk, or {elsewhere}.",
        errno.EDQUOT: "Your quota on that disk is used up: remove files of yours, or {elsewhere}.",
        errno.EFBIG: "Free some space there or raise the limit of a file's size (ulimit -f), or {elsewhere}.",
        errno.EROFS: "That disk can only be read: {elsewhere}.",
        errno.EACCES: "Give yourself permission to write there, or {elsewhere}.",
        errno.EPERM: "Give yourself permission to write there, or {elsewhere}.",
        errno.ENOTDIR: "A part of that path is a file and not a folder: {elsewhere}.",
        errno.EISDIR: "There is a folder of that name: give another name.",
        errno.ENAMETOOLONG: "Give a shorter name, or {elsewhere}.",
        errno.ENOENT: "It was removed meanwhile, or cannot be made there: give the same command again, or {elsewhere}.",
    }
)


class QGBenchError(Exception):
    """A failure that qgbench foresaw; the command line prints its text without a traceback and exits with 1."""

    exit_code = 1


class UserError(QGBenchError):
    """A mistake in the arguments or the data handed in; the command line exits with 2."""

    exit_code = 2


class UnwritableError(QGBenchError):
    """Something cannot be written."""


class UnwritablePlaceError(UnwritableError, UserError):
    """Something cannot be written where the user wants it."""


class NotFoundError(UserError):
    """What was named does not exist."""


class AbsentDataError(NotFoundError):
    """A data set or pool whose folder is not on this machine."""


class UnknownDataError(NotFoundError):
    """A name that no data set or pool has on this machine; one's own, which were added elsewhere, are among these."""


def in_one_line(error: BaseException) -> str:
    """Return the name of an exception and the first line of its text."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def unknown_name(kind: str, name: str, known: Iterable[str]) -> NotFoundError:
    """Return the error for a name that nothing is registered under.

    Parameters
    ----------
    kind : str
        What the name should have named, for example ``"method"``.
    name : str
        The name that was given.
    known : iterable of str
        All names that exist; the nearest is suggested: the shortest that holds the given one, or else the most alike.
    """
    names = sorted(set(known))
    holding = sorted((known for known in names if len(name) > 3 and name.lower() in known.lower()), key=len)
    near = holding[:4] or difflib.get_close_matches(name, names, n=4, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    if len(names) > _LISTED:
        others = f" Others like it: {', '.join(near[1:])}." if near[1:] else ""
        return NotFoundError(f"unknown {kind} '{name}'.{hint}{others} {len(names)} are known.")
    return NotFoundError(f"unknown {kind} '{name}'.{hint} Known: {', '.join(names) or 'none'}.")


def unwritable(what: Path | str, error: OSError, elsewhere: str = "choose another folder") -> UnwritableError:
    """Return the error for what cannot be written: a mistake of whoever named it, unless the disk is full.

    Parameters
    ----------
    what : Path or str
        What cannot be written, for example ``the cache /tmp/cache``.
    error : OSError
    elsewhere : str
        How to write to another place, in words that follow "or".
    """
    if isinstance(error, FileExistsError):
        return UnwritablePlaceError(f"cannot write {what}: {error.filename} is no folder: {elsewhere}.")
    advice = _WRITING.get(error.errno or 0, "Check that disk, or {elsewhere}.").format(elsewhere=elsewhere)
    kind = UnwritableError if error.errno in DISK_FULL else UnwritablePlaceError
    return kind(f"cannot write {what}: {error.strerror or error}. {advice}")


def refuse_unwritable(folder: Path) -> None:
    """Raise UserError where a folder, or the nearest one above it that is there, cannot be written; makes nothing."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    cause = errno.ENOTDIR if not there.is_dir() else None if os.access(there, os.W_OK) else errno.EACCES
    if cause is not None:
        raise unwritable(folder, OSError(cause, os.strerror(cause)), "choose another --output")


def unreadable(path: Path | Traversable, error: OSError) -> UserError:
    """Return the error for a file or folder that was there and that the operating system does not hand out."""
    if isinstance(error, FileNotFoundError):
        return UserError(
            f"{path} is gone. Put it back (is the disk or network folder still there?) and give the same command again."
        )
    if isinstance(error, PermissionError):
        return UserError(f"{path} may not be read ({error.strerror}); give yourself permission to read it.")
    if isinstance(error, NotADirectoryError | IsADirectoryError) or error.errno == errno.ENAMETOOLONG:
        return UserError(f"{path} cannot be read ({error.strerror}); correct the path.")
    return UserError(f"{path} cannot be read ({error.strerror}); check the disk and give the same command again.")
