"""Unpack a ZIP archive that nobody vouches for: whole, or not at all.

What the archive's directory says is judged before anything is written; what its members really hold, while they are
written. Names, sizes and links that would do harm are refused, and nothing is mended.
"""

import copy
import os
import re
import shutil
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from qgbench.base.amounts import amount
from qgbench.base.errors import QGBenchError, UserError, unreadable, unwritable
from qgbench.base.progress import Track, no_progress

# Photographs shrink at most 4 times by deflate, but a mask of one colour stored as BMP up to 1000 times, near deflate's
# own limit of 1032: a ratio alone tells no bomb from honest masks. So a ratio above 100 is refused only together with
# a size that images do not have: for one member that of the largest picture Pillow opens without taking it for a bomb
# (89,478,485 pixels of 3 bytes), for the archive sixteen of those (or 700 masks of 6 megapixels at 8 bits).
_RATIO = 100
_MEMBER_BYTES = 256 << 20
_TOTAL_BYTES = 4 << 30

_DEPTH = 64  # folders within folders; more would overrun the longest path of common systems
_CHUNK = 1 << 20

_ENCRYPTED = 0x1 | 0x40 | 0x2000  # flags of a member: encrypted, strongly encrypted, masked header
_UTF8_NAME = 0x800
_UNICODE_PATH = 0x7075  # extra field of Info-ZIP: the name in UTF-8
_LOCAL_HEADER = 30  # bytes, before name and extra field, whose lengths are its last two numbers

_OTHER_KINDS = (
    (0, b"Rar!\x1a\x07", "a RAR archive", "7z x"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", "7z x"),
    (0, b"\x1f\x8b", "a gzip file (such as tar.gz)", "tar -xf"),
    (0, b"BZh", "a bzip2 file (such as tar.bz2)", "tar -xf"),
    (0, b"\xfd7zXZ\x00", "an xz file (such as tar.xz)", "tar -xf"),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard file", "tar -xf"),
    (257, b"ustar", "a tar archive", "tar -xf"),
)
_HEAD = 1024  # bytes that tell the kind of a file


def unpack(archive: Path, folder: Path, track: Track = no_progress) -> None:
    """Unpack a ZIP archive into a new folder.

    The folder appears in one step, complete; it is built as ``.<name>.partial`` beside its place, and what a killed
    process left there is cleared. Two processes must not unpack to one folder at once: the caller holds a lock. Files
    get no rights to be executed and the present time. ``__MACOSX``, ``.DS_Store``, ``Thumbs.db`` and empty folders are
    passed over.

    Parameters
    ----------
    archive : Path
        ZIP (also ZIP64) with stored or deflated members.
    folder : Path
        Must not exist; the folders above it are made.
    track : Track
        Shows progress, in files.

    Raises
    ------
    UserError
        The folder exists; the archive cannot be read, is damaged or not a ZIP; or a member is refused: it would leave
        the folder, is a link or device, encrypted or packed by another method, has a name that cannot be shown or that
        another member has but for case, overlaps another one, or the archive grows beyond reason. Nothing is left.
    QGBenchError
        The disk is full or cannot be written. Nothing is left.
    """
    if os.path.lexists(folder):
        raise UserError(f"{folder} is there already; name a folder that does not exist, or remove it.")
    with _damage_named(archive):
        stream = archive.open("rb")
    with stream:
        with _damage_named(archive):
            _check_kind(archive, stream.read(_HEAD))
            opened = zipfile.ZipFile(stream)
            _check_places(archive, stream, opened)
            members = _members(archive, opened)
        _check_sizes(archive, list(members))
        _check_space(archive, folder, sum(info.file_size for info in members))
        _build(archive, opened, members, folder, track)


def is_web_page(head: bytes) -> bool:
    """Return whether a file is an HTML page, by its first bytes (a thousand are enough)."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return text.startswith(b"<") and any(tag in text for tag in (b"<!doctype html", b"<html", b"<head", b"<body"))


@contextmanager
def _damage_named(archive: Path) -> Iterator[None]:
    """Turn what a bad archive raises into one message."""
    try:
        yield
    except QGBenchError:
        raise
    except OSError as error:
        raise unreadable(archive, error) from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{archive} holds a name that cannot be shown ({error.object!r} is not UTF-8). {_by_hand('7z x')}"
        ) from error
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, OverflowError, MemoryError) as error:
        raise UserError(f"{archive} is damaged or cut off ({error}); fetch it again.") from error
    except (NotImplementedError, RuntimeError) as error:
        raise UserError(f"{archive} is a ZIP of a kind that is not read ({error}). {_by_hand('7z x')}") from error


def _by_hand(command: str) -> str:
    return f"Unpack it first, for example with '{command} FILE', and give the folder."


def _refused(archive: Path, why: str) -> UserError:
    return UserError(
        f"{archive} is refused, nothing was unpacked: {why}. Fetch it again from its owner; if you trust it, unpack it "
        "yourself and give the folder."
    )


def _check_kind(archive: Path, head: bytes) -> None:
    if not head:
        raise UserError(f"{archive} is empty (0 bytes); fetch it again.")
    if is_web_page(head):
        raise UserError(
            f"{archive} is not a ZIP archive but a web page, probably a login form: download the file with a browser."
        )
    for offset, magic, kind, command in _OTHER_KINDS:
        if head.startswith(magic, offset):
            raise UserError(f"{archive} is not a ZIP archive but {kind}. {_by_hand(command)}")
    if not head.startswith((b"PK", b"MZ")):  # MZ: archives that unpack themselves on Windows
        raise UserError(f"{archive} is not a ZIP archive, whatever its name says; give a ZIP or an unpacked folder.")


def _check_places(archive: Path, stream: BinaryIO, opened: zipfile.ZipFile) -> None:
    """Refuse members that share bytes: a few of them can stand for any amount."""
    end, before = 0, ""
    for info in sorted(opened.infolist(), key=lambda info: info.header_offset):
        if info.header_offset < end:
            raise _refused(archive, f"its members {before!r} and {info.filename!r} overlap")
        stream.seek(info.header_offset + _LOCAL_HEADER - 4)
        name_length, extra_length = struct.unpack("<HH", stream.read(4))
        end = info.header_offset + _LOCAL_HEADER + name_length + extra_length + info.compress_size
        before = info.filename
    if end > opened.start_dir:
        raise _refused(archive, f"its member {before!r} and its directory overlap")


def _members(archive: Path, opened: zipfile.ZipFile) -> dict[zipfile.ZipInfo, Path]:
    """Return the files to be written, each with its path inside the folder."""
    files: dict[zipfile.ZipInfo, Path] = {}
    taken: dict[str, tuple[Path, bool]] = {}
    for info in opened.infolist():
        name = _name(info)
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if not parts or "__MACOSX" in parts or parts[-1] in (".DS_Store", "Thumbs.db"):
            continue
        if fault := _fault(info, name, parts):
            raise _refused(archive, f"its member {name!r} {fault}")
        _take(archive, taken, parts, info.is_dir())
        if not info.is_dir():
            files[info] = Path(*parts)
    if not files:
        raise UserError(f"{archive} holds no files; fetch it again.")
    return files


def _name(info: zipfile.ZipInfo) -> str:
    """Return a member's name in the script it was written in, as far as the archive tells."""
    if info.flag_bits & _UTF8_NAME or info.orig_filename.isascii():
        return info.orig_filename
    raw = info.orig_filename.encode("cp437")
    extra = info.extra
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        # Version 1, then the checksum of the name that it replaces.
        if kind == _UNICODE_PATH and extra[4:9] == struct.pack("<BL", 1, zlib.crc32(raw)):
            return extra[9 : 4 + length].decode("utf-8")
        extra = extra[4 + length :]
    # Several systems write UTF-8 and do not say so; text in another code is hardly ever valid UTF-8.
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return info.orig_filename


def _fault(info: zipfile.ZipInfo, name: str, parts: list[str]) -> str | None:
    """Return why a member is refused; None if it is not."""
    kind = stat.S_IFMT(info.external_attr >> 16)
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name):
        return "has a name that cannot be shown"
    if "\\" in name:
        return "has a backslash in its name, which is a folder on one system and a letter on another"
    if name.startswith("/") or re.match("[A-Za-z]:", name) or ".." in parts:
        return "would be written outside the folder"
    if len(parts) > _DEPTH:
        return f"lies {len(parts)} folders deep"
    if kind == stat.S_IFLNK:
        return "is a link"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a device, a pipe or a socket"
    if info.flag_bits & _ENCRYPTED:
        return "is encrypted"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # The standard library has these names, the types that mypy knows of it do not.
        method = zipfile.compressor_names.get(info.compress_type, "unknown")  # type: ignore[attr-defined]
        return f"is packed by a method that is not read here ({method}, number {info.compress_type})"
    return None


def _take(archive: Path, taken: dict[str, tuple[Path, bool]], parts: list[str], is_folder: bool) -> None:
    """Note the places that a member takes, its folders too; refuse it if another one has them."""
    for depth in range(1, len(parts) + 1):
        path = Path(*parts[:depth])
        place = (path, is_folder or depth < len(parts))
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", path.as_posix()).casefold())
        if key not in taken:
            taken[key] = place
            continue
        other, other_is_folder = taken[key]
        if other != path:
            raise _refused(archive, f"its members {str(other)!r} and {str(path)!r} differ only by case or accents")
        if other_is_folder != place[1]:
            raise _refused(archive, f"its member {str(path)!r} is a file and a folder")
        if not other_is_folder:
            raise _refused(archive, f"its member {str(path)!r} comes twice")


def _check_sizes(archive: Path, members: list[zipfile.ZipInfo]) -> None:
    for info in members:
        if info.file_size > max(_MEMBER_BYTES, _RATIO * info.compress_size):
            raise _refused(
                archive,
                f"its member {_name(info)!r} would grow from {amount(info.compress_size)} to "
                f"{amount(info.file_size)}, which no image does",
            )
    total, packed = sum(info.file_size for info in members), sum(info.compress_size for info in members)
    if total > max(_TOTAL_BYTES, _RATIO * packed):
        raise _refused(archive, f"it would grow from {amount(packed)} to {amount(total)}, which no set of images does")


def _check_space(archive: Path, folder: Path, needed: int) -> None:
    above = next(parent for parent in folder.absolute().parents if parent.exists())
    if needed > (free := shutil.disk_usage(above).free):
        raise QGBenchError(
            f"{archive} takes {amount(needed)} when it is unpacked, and {above} has {amount(free)} left: free some "
            "space, or unpack it to another disk and give the folder."
        )


def _build(
    archive: Path, opened: zipfile.ZipFile, members: dict[zipfile.ZipInfo, Path], folder: Path, track: Track
) -> None:
    partial = folder.with_name(f".{folder.name}.partial")
    with _write_faults_named(archive, folder):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    try:
        for info, path in track(members.items(), f"Unpacking {archive.name}", len(members), "files"):
            _write(archive, opened, info, partial / path, folder)
        with _write_faults_named(archive, folder):
            partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write(archive: Path, opened: zipfile.ZipFile, info: zipfile.ZipInfo, file: Path, folder: Path) -> None:
    written = 0
    with _write_faults_named(archive, folder):
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("xb") as target:
            for chunk in _chunks(archive, opened, info):
                written += target.write(chunk)
    if written != info.file_size:
        raise _refused(archive, f"its member {_name(info)!r} does not hold the {info.file_size} bytes that it states")


def _chunks(archive: Path, opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    # One byte more than the directory states is asked for, so that a member which holds more is found out.
    asked = copy.copy(info)
    asked.file_size += 1
    with _damage_named(archive), opened.open(asked) as source:
        while chunk := source.read(_CHUNK):
            yield chunk


@contextmanager
def _write_faults_named(archive: Path, folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise unwritable(f"what {archive} holds to {folder}", error, "unpack it and give the folder") from error
