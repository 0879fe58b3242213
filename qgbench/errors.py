"""Errors that a user sees: what was given, what was expected, what to do next."""

import difflib
from collections.abc import Iterable
from importlib.resources.abc import Traversable
from pathlib import Path

_LISTED = 40  # longer lists of names are counted, not printed


class QGBenchError(Exception):
    """A failure that qgbench foresaw; the command line prints its text without a traceback and exits with 1."""

    exit_code = 1


class UserError(QGBenchError):
    """A mistake in the arguments or the data handed in; the command line exits with 2."""

    exit_code = 2


class AbsentDataError(UserError):
    """A data set or pool whose folder is not on this machine."""


class UnknownDataError(UserError):
    """A name that no data set or pool has on this machine; one's own, which were added elsewhere, are among these."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
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
        return UserError(f"unknown {kind} '{name}'.{hint}{others} {len(names)} are known.")
    return UserError(f"unknown {kind} '{name}'.{hint} Known: {', '.join(names) or 'none'}.")


def unreadable(path: Path | Traversable, error: OSError) -> UserError:
    """Build the error for a file or folder that the operating system does not hand out."""
    if isinstance(error, FileNotFoundError):
        return UserError(
            f"{path} is gone. Put it back (is the disk or network folder still there?) and give the same command again."
        )
    if isinstance(error, PermissionError):
        return UserError(f"{path} may not be read ({error.strerror}); give yourself permission to read it.")
    return UserError(f"{path} cannot be read ({error.strerror}); check the disk and give the same command again.")
