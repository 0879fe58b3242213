"""SHA-256 of files, each read once: a hash is remembered until the file's size, times or inode change.

A table of hashes is a file of two lines, the SHA-256 of the second and JSON: ``{name: [[size, mtime, ctime, inode],
hash]}`` (times in nanoseconds, names relative to the folder that all files share). It is replaced as a whole, so that
processes may write it at once: the last one counts. A table that is damaged, gone or not to be written costs time only.
"""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from qgbench.base.amounts import amount
from qgbench.base.cores import usable_cores
from qgbench.base.errors import QGBenchError, unreadable
from qgbench.base.files import write_atomically
from qgbench.base.logs import logger
from qgbench.base.paths import expanded

CACHE_VARIABLE = "QGBENCH_CACHE"

# A file that changes twice within the resolution of its times (2 s on FAT) may look unchanged: it is not remembered.
_LEAST_AGE = 2_000_000_000  # nanoseconds
_FILES_BETWEEN_SAVES = 1000
_WORTH_A_NOTE = 1_000_000_000  # bytes

_Stamp = list[int]  # size, mtime, ctime, inode


def default_cache_dir() -> Path:
    """Return the folder of the cache: ``$QGBENCH_CACHE``, else ``~/.cache/qgbench``."""
    return expanded(os.environ.get(CACHE_VARIABLE) or "~/.cache/qgbench")


def hash_files(files: Sequence[Path], table: Path | None = None) -> list[bytes]:
    """Hash files on all cores, reading only those that are new or changed since the table was written.

    A change is noticed by a file's size, its times of modification and of status change, and its inode. What leaves all
    of them as they were (a failing disk) is not.

    Parameters
    ----------
    files : sequence of Path
        At least one.
    table : Path, optional
        Where hashes are remembered, for these files alone; where None, a file of `default_cache_dir` named after the
        folder that all files share.

    Returns
    -------
    list of bytes
        SHA-256 of each file, 32 bytes.

    Raises
    ------
    UserError
        A file is missing or cannot be read.
    """
    paths = [os.path.abspath(file) for file in files]  # noqa: PTH100 (a Path each takes longer than the rest)
    root = os.path.commonpath({os.path.dirname(path) for path in paths})  # noqa: PTH120
    names = [path[len(root) :] for path in paths]
    table = table or _default_table(root)
    remembered = read_checked(table) or {}
    stamps = [_stamp(file) for file in files]
    hashes = {
        name: remembered[name] for name, stamp in zip(names, stamps, strict=True) if _knows(remembered, name, stamp)
    }
    digests = {name: digest for name, (_, digest) in hashes.items()}
    changed = [n for n, name in enumerate(names) if name not in digests]
    if (size := sum(stamps[n][0] for n in changed)) >= _WORTH_A_NOTE:
        logger.info("Reading %d new or changed files of %s (%s).", len(changed), root, amount(size))
    with ThreadPoolExecutor(usable_cores()) as pool:
        for start in range(0, len(changed), _FILES_BETWEEN_SAVES):
            part = changed[start : start + _FILES_BETWEEN_SAVES]
            known_before = len(hashes)
            for n, (digest, stamp) in zip(part, pool.map(_hash, [files[n] for n in part]), strict=True):
                digests[names[n]] = digest
                if stamp is not None:
                    hashes[names[n]] = [stamp, digest]
            if len(hashes) > known_before:
                with suppress(QGBenchError):
                    write_atomically(table, checked(hashes))
    return [bytes.fromhex(digests[name]) for name in names]


def checked(value: Any) -> bytes:
    """Return a value as JSON, with a checksum in front that `read_checked` looks at."""
    text = json.dumps(value).encode()
    return hashlib.sha256(text).hexdigest().encode() + b"\n" + text


def read_checked(file: Path) -> Any:
    """Read what `checked` wrote; None where the file is missing or damaged."""
    try:
        checksum, text = file.read_bytes().split(b"\n", 1)
        return json.loads(text) if hashlib.sha256(text).hexdigest().encode() == checksum else None
    except (OSError, ValueError):
        return None


def _default_table(root: str) -> Path:
    name = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:16]
    return default_cache_dir() / ".hashes" / f"{name}.json"


def _knows(remembered: dict[str, Any], name: str, stamp: _Stamp) -> bool:
    return name in remembered and remembered[name][0] == stamp


def _stamp(file: Path) -> _Stamp:
    try:
        return _stamp_of(os.stat(file))  # noqa: PTH116 (Path.stat costs twice the time)
    except OSError as error:
        raise unreadable(file, error) from error


def _stamp_of(status: os.stat_result) -> _Stamp:
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _hash(file: Path) -> tuple[str, _Stamp | None]:
    """Hash a file; the stamp is None where a later change might leave it as it is."""
    try:
        with file.open("rb") as stream:
            begin = time.time_ns()
            stamp = _stamp_of(os.fstat(stream.fileno()))
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(file, error) from error
    _, modified, changed, _ = stamp
    return digest, stamp if max(modified, changed) + _LEAST_AGE < begin else None
