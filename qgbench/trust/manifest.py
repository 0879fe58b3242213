"""The manifest of submitted results: SHA-256 of every file, so that a later edit shows. Imports no torch.

``results/MANIFEST.sha256`` has the form of ``sha256sum``: ``cd results && sha256sum --check MANIFEST.sha256``. What
`qgbench submit` and `qgbench reproduce` write among results that have one is entered; files that were changed on
purpose are entered, and those removed taken out, by ``python -m qgbench.trust.manifest results``.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from qgbench.base.errors import QGBenchError, UserError
from qgbench.base.files import write_atomically
from qgbench.base.paths import no_folder
from qgbench.trust.found import Fault

MANIFEST_NAME = "MANIFEST.sha256"


def write_manifest(folder: Path) -> Path:
    """Write the manifest of all files below a folder anew, and return its path.

    Raises
    ------
    UserError
        There is no such folder.
    QGBenchError
        The disk is full or the folder cannot be written.
    """
    if not folder.is_dir():
        raise UserError(f"{no_folder(folder)}. Give the folder of submitted results.")
    with _locked(folder):
        return _write(folder / MANIFEST_NAME, {name: _digest(folder / name) for name in _names(folder)})


def enter(files: Iterable[Path]) -> None:
    """Enter files into the manifest above them, where there is one; processes that enter at a time wait for each other.

    Raises
    ------
    QGBenchError
        The manifest is damaged, the disk is full or the folder cannot be written.
    """
    for file in files:
        if (manifest := _above(file.parent)) is not None:
            name = file.resolve().relative_to(manifest.parent.resolve()).as_posix()
            with _locked(manifest.parent):
                _write(manifest, _read(manifest) | {name: _digest(file)})


def differing_files(folders: Sequence[Path]) -> Iterator[Fault]:
    """Yield the files under some folders that were edited, added or removed since they were entered."""
    found: dict[Path, Path] = {}
    for folder in folders:
        inside = list(folder.rglob(MANIFEST_NAME))
        for manifest in inside or filter(None, [_above(folder)]):
            found.setdefault(manifest.resolve(), folder if manifest not in inside else manifest.parent)
    for manifest, folder in found.items():
        try:
            entered = _read(manifest)
        except QGBenchError as error:
            yield Fault(manifest, "manifest", str(error))
            continue
        root = manifest.parent
        within = folder.resolve().relative_to(root).as_posix()
        known = {name for name in entered if within == "." or name.startswith(f"{within}/")}
        here = {name if within == "." else f"{within}/{name}" for name in _names(folder)}
        for name in sorted(known | here):
            if name not in here:
                yield Fault(root / name, "manifest", "removed since it was entered")
            elif name not in known:
                yield Fault(root / name, "manifest", f"{MANIFEST_NAME} has no entry of it")
            elif entered[name] != _digest(root / name):
                yield Fault(root / name, "manifest", "edited since it was entered")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock the folder itself: the manifest is replaced as a whole, and a lock file would stay among the results."""
    import fcntl  # late: verify, which only reads, also runs where it is missing

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _names(folder: Path) -> list[str]:
    """Return the files below a folder but for manifests and what begins with a dot, sorted."""
    files = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file() and file.name != MANIFEST_NAME)
    return sorted(file.as_posix() for file in files if not any(part.startswith(".") for part in file.parts))


def _above(folder: Path) -> Path | None:
    whole = folder.resolve()
    return next((one / MANIFEST_NAME for one in (whole, *whole.parents) if (one / MANIFEST_NAME).is_file()), None)


def _digest(file: Path) -> str:
    try:
        return sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise QGBenchError(f"{file} cannot be read: {error.strerror}") from error


def _read(manifest: Path) -> dict[str, str]:
    """Return the digests by name."""
    try:
        lines = [line.partition("  ") for line in manifest.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise QGBenchError(f"{manifest} cannot be read: {error}") from error
    if any(len(digest) != 64 or not name for digest, _, name in lines):
        raise QGBenchError(f"{manifest} is damaged: expected lines of a SHA-256, two spaces and a name")
    return {name: digest for digest, _, name in lines}


def _write(manifest: Path, entries: dict[str, str]) -> Path:
    write_atomically(manifest, "".join(f"{entries[name]}  {name}\n" for name in sorted(entries)).encode())
    return manifest


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m qgbench.trust.manifest FOLDER")
    try:
        print(write_manifest(Path(sys.argv[1])))
    except QGBenchError as error:
        raise SystemExit(f"error: {error}") from error
