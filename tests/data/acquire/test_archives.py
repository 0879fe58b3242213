import errno
import io
import os
import shutil
import stat
import struct
import subprocess
import sys
import time
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import pytest
from PIL import Image, ImageDraw

from qgbench.base.errors import QGBenchError, UserError
from qgbench.data.acquire.archives import is_web_page, unpack

T = TypeVar("T")


@dataclass
class Member:
    """A member as bytes in a file, with whatever it states of itself."""

    name: bytes
    data: bytes = b"pixels"  # as stored: compressed where `method` says so
    size: int | None = None  # stated
    crc: int | None = None  # stated
    method: int = zipfile.ZIP_STORED
    flags: int = 0
    mode: int = 0
    extra: bytes = b""
    offset: int | None = None  # stated place of the local header, for members that share one


def write_raw(file: Path, members: Iterable[Member]) -> Path:
    """Write a ZIP field by field, as APPNOTE.TXT gives them, so that it can say anything."""
    body, directory, count = b"", b"", 0
    for member in members:
        count += 1
        size = len(member.data) if member.size is None else member.size
        crc = zlib.crc32(member.data) if member.crc is None else member.crc
        shared = (20, member.flags, member.method, 0, 33, crc, len(member.data), size, len(member.name))
        offset = len(body) if member.offset is None else member.offset
        if member.offset is None:
            body += struct.pack("<4s5H3I2H", b"PK\3\4", *shared, len(member.extra)) + member.name + member.extra
            body += member.data
        directory += struct.pack(
            "<4s6H3I5H2I", b"PK\1\2", 0x314, *shared, len(member.extra), 0, 0, 0, member.mode << 16, offset
        )
        directory += member.name + member.extra
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(directory), len(body), 0)
    file.write_bytes(body + directory + end)
    return file


def deflated(content: bytes) -> bytes:
    packer = zlib.compressobj(9, wbits=-15)
    return packer.compress(content) + packer.flush()


def zeros(mebibytes: int) -> bytes:
    """A deflate stream of so many MiB of zeros, made without making them."""
    packer = zlib.compressobj(9, wbits=-15)
    block = packer.compress(bytes(64 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * (mebibytes // 64) + deflated(b"")


def write_zip(file: Path, content: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return file


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refusal(archive: Path) -> str:
    """The message that an archive is refused with; nothing may be left of it."""
    before = sorted(archive.parent.rglob("*"))
    with pytest.raises(UserError) as caught:
        unpack(archive, archive.parent / "new/out")
    assert sorted(archive.parent.rglob("*")) in (before, sorted([*before, archive.parent / "new"]))
    assert str(archive) in str(caught.value)
    return str(caught.value)


# Honest archives


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_content_arrives_bit_for_bit(tmp_path: Path, method: int) -> None:
    content = {"Set/images/1.png": os.urandom(3_000_000), "Set/masks/1.png": b"", "read me.txt": b"x" * 100_000}
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("Set/", b"")
        for name, data in content.items():
            archive.writestr(name, data)
    unpack(tmp_path / "a.zip", tmp_path / "new/out")
    assert content_of(tmp_path / "new/out") == content
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["out"]


def test_what_another_program_packed(tmp_path: Path) -> None:
    if (program := shutil.which("zip")) is None:
        pytest.skip("no zip program")
    (tmp_path / "tree/a").mkdir(parents=True)
    content = {"a/žluť.txt": b"one", "病变.txt": b"two" * 1000, "plain.txt": b"three"}
    for name, data in content.items():
        (tmp_path / "tree" / name).write_bytes(data)
    subprocess.run([program, "-q", "-r", "../a.zip", "."], cwd=tmp_path / "tree", check=True)
    unpack(tmp_path / "a.zip", tmp_path / "out")
    assert content_of(tmp_path / "out") == content


def test_zip64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {"a.png": os.urandom(5000), "b.png": bytes(9000)}
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    write_zip(tmp_path / "a.zip", content)
    assert b"PK\6\6" in (tmp_path / "a.zip").read_bytes()
    unpack(tmp_path / "a.zip", tmp_path / "out")
    assert content_of(tmp_path / "out") == content


def test_archive_written_to_a_pipe_has_its_sizes_behind_the_data(tmp_path: Path) -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def tell(self) -> int:
            raise OSError("a pipe")

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", b"one" * 100)
        archive.writestr("b.txt", b"two")
    (tmp_path / "a.zip").write_bytes(pipe.getvalue())
    assert b"PK\7\10" in pipe.getvalue()
    unpack(tmp_path / "a.zip", tmp_path / "out")
    assert content_of(tmp_path / "out") == {"a.txt": b"one" * 100, "b.txt": b"two"}


def test_plain_files_without_rights_to_execute(tmp_path: Path) -> None:
    write_raw(tmp_path / "a.zip", [Member(b"run.sh", mode=stat.S_IFREG | 0o4777)])
    unpack(tmp_path / "a.zip", tmp_path / "out")
    rights = (tmp_path / "out/run.sh").stat().st_mode
    assert stat.S_ISREG(rights)
    assert rights & (stat.S_ISUID | 0o111) == 0
    assert abs((tmp_path / "out/run.sh").stat().st_mtime - time.time()) < 100


def test_litter_of_desktops_is_passed_over(tmp_path: Path) -> None:
    litter = ["__MACOSX/._a.png", "Set/__MACOSX/x", "Set/.DS_Store", "Set/Thumbs.db"]
    write_zip(tmp_path / "a.zip", {"Set/a.png": b"a", **dict.fromkeys(litter, b"litter")})
    unpack(tmp_path / "a.zip", tmp_path / "out")
    assert content_of(tmp_path / "out") == {"Set/a.png": b"a"}


def unicode_path(name: str, stands_for: bytes) -> bytes:
    data = struct.pack("<BL", 1, zlib.crc32(stands_for)) + name.encode()
    return struct.pack("<HH", 0x7075, len(data)) + data


@pytest.mark.parametrize(
    ("member", "name"),
    [
        (Member("Läsion.png".encode("cp437")), "Läsion.png"),
        (Member("Läsion.png".encode()), "Läsion.png"),  # UTF-8 that does not say so, as some systems write
        (Member("病变/皮肤.png".encode(), flags=0x800), "病变/皮肤.png"),
        (Member("آسیب‌ها.png".encode(), flags=0x800), "آسیب‌ها.png"),
        (Member(b"\xb2\xa1.png", extra=unicode_path("病.png", b"\xb2\xa1.png")), "病.png"),
        (Member(b"\x84.png", extra=unicode_path("病.png", b"another name")), "ä.png"),
        (Member(b"./a//b.png"), "a/b.png"),
    ],
)
def test_names_in_other_scripts(tmp_path: Path, member: Member, name: str) -> None:
    unpack(write_raw(tmp_path / "a.zip", [member]), tmp_path / "out")
    assert content_of(tmp_path / "out") == {name: b"pixels"}


def test_mostly_black_masks_are_no_bomb(tmp_path: Path) -> None:
    content = {}
    for index in range(200):
        mask = Image.new("RGB", (700, 500))
        ImageDraw.Draw(mask).ellipse((300, 200, 302 + index // 4, 240), fill="white")
        mask.save(buffer := io.BytesIO(), "BMP")
        content[f"masks/{index}.bmp"] = buffer.getvalue()
    archive = write_zip(tmp_path / "a.zip", content)
    assert sum(map(len, content.values())) > 200 * archive.stat().st_size
    unpack(archive, tmp_path / "out")
    assert content_of(tmp_path / "out") == content


# Members that are refused


@pytest.mark.parametrize(
    ("member", "why"),
    [
        (Member(b"/etc/passwd"), "would be written outside"),
        (Member(b"../b"), "would be written outside"),
        (Member(b"a/../../b"), "would be written outside"),
        (Member(b"a/.."), "would be written outside"),
        (Member(b"C:/b"), "would be written outside"),
        (Member(b"c:b"), "would be written outside"),
        (Member(b"..\\b"), "has a backslash"),
        (Member(b"\\\\host\\b"), "has a backslash"),
        (Member(b"a\0b.png"), "cannot be shown"),
        (Member(b"a\nb.png"), "cannot be shown"),
        (Member(b"\x1b[2Jb.png"), "cannot be shown"),
        (Member("\ud800.png".encode("utf-8", "surrogatepass"), flags=0x800), "cannot be shown"),
        (Member(b"\xff\xfe.png", flags=0x800), "cannot be shown"),
        (Member(b"a/" * 70 + b"b"), "lies 71 folders deep"),
        (Member(b"link", b"/etc/passwd", mode=stat.S_IFLNK | 0o777), "is a link"),
        (Member(b"disk", mode=stat.S_IFBLK | 0o600), "is a device"),
        (Member(b"tty", mode=stat.S_IFCHR | 0o600), "is a device"),
        (Member(b"pipe", mode=stat.S_IFIFO | 0o600), "a pipe"),
        (Member(b"a.png", flags=0x1), "is encrypted"),
        (Member(b"a.png", flags=0x41), "is encrypted"),
        (Member(b"a.png", method=9), "deflate64, number 9"),
        (Member(b"a.png", method=zipfile.ZIP_LZMA), "number 14"),
        (Member(b"a.png", method=77), "unknown, number 77"),
    ],
)
def test_refused_by_name(tmp_path: Path, member: Member, why: str) -> None:
    assert why in refusal(write_raw(tmp_path / "a.zip", [Member(b"good.png"), member]))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (("a/X.png", "a/x.png"), "differ only by case"),
        (("A/1.png", "a/2.png"), "differ only by case"),
        (("straße", "STRASSE"), "differ only by case"),
        (("é.png", unicodedata.normalize("NFD", "é.png")), "or accents"),
        (("a", "a/b"), "is a file and a folder"),
        (("a/b", "a"), "is a file and a folder"),
        (("a/", "a"), "is a file and a folder"),
        (("a", "./a"), "comes twice"),
    ],
)
def test_members_that_take_one_place(tmp_path: Path, names: tuple[str, str], why: str) -> None:
    members = [Member(name.encode(), b"" if name.endswith("/") else b"x", flags=0x800) for name in names]
    assert why in refusal(write_raw(tmp_path / "a.zip", members))
    assert not (tmp_path / "new").exists()


# Bombs


def test_ten_gigabytes_of_zeros(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = struct.pack("<HHQ", 1, 8, 10 << 30)
    bomb = Member(b"a.bmp", zeros(10 << 10), 0xFFFFFFFF, 0, zipfile.ZIP_DEFLATED, extra=size)
    archive = write_raw(tmp_path / "a.zip", [bomb])
    assert archive.stat().st_size < 12 << 20
    monkeypatch.delattr(zipfile.ZipFile, "open")  # refused by what the directory says: nothing is unpacked to see
    assert "'a.bmp' would grow from 10.0 MiB to 10.0 GiB" in refusal(archive)
    assert not (tmp_path / "new").exists()


def test_many_members_that_are_no_bombs_each(tmp_path: Path) -> None:
    data = zeros(192)
    members = [Member(b"%d.bmp" % index, data, 192 << 20, 0, zipfile.ZIP_DEFLATED) for index in range(30)]
    assert "it would grow from 5.6 MiB to 5.6 GiB" in refusal(write_raw(tmp_path / "a.zip", members))
    assert not (tmp_path / "new").exists()


def test_members_that_share_one_place(tmp_path: Path) -> None:
    members = [Member(b"a", offset=None if index == 0 else 0) for index in range(5)]
    assert "overlap" in refusal(write_raw(tmp_path / "a.zip", members))


def test_members_that_quote_the_headers_of_the_next(tmp_path: Path) -> None:
    """Each member is a stored block that holds the next one's header, then the next one itself (Fifield 2019)."""
    body, content, directory = deflated(bytes(1000)), bytes(1000), b""
    packed = body
    entries = []
    for name in (b"c", b"b", b"a"):
        sizes = (20, 0, 8, 0, 33, zlib.crc32(content), len(packed), len(content), 1)
        header = struct.pack("<4s5H3I2H", b"PK\3\4", *sizes, 0) + name
        body = header + packed
        entries.append((name, sizes, len(body)))
        packed = struct.pack("<BHH", 0, len(header), 0xFFFF ^ len(header)) + header + packed
        content = header + content
    for name, sizes, from_end in reversed(entries):
        directory += struct.pack("<4s6H3I5H2I", b"PK\1\2", 0x314, *sizes, 0, 0, 0, 0, 0, len(body) - from_end) + name
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 3, 3, len(directory), len(body), 0)
    (tmp_path / "a.zip").write_bytes(body + directory + end)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:  # the last member is honest, so the archive is well made
        assert archive.read("c") == bytes(1000)
    assert "overlap" in refusal(tmp_path / "a.zip")


def test_last_member_over_the_directory(tmp_path: Path) -> None:
    archive = write_raw(tmp_path / "a.zip", [Member(b"a.png", b"x" * 50)])
    raw = archive.read_bytes()
    directory = raw.index(b"PK\1\2")
    changed = bytearray(raw)
    changed[directory + 20 : directory + 28] = struct.pack("<2I", 60, 60)
    archive.write_bytes(changed)
    assert "its directory overlap" in refusal(archive)


@pytest.mark.parametrize(
    ("checksum", "why"),
    [(zlib.crc32(bytes(10)), "Bad CRC-32"), (zlib.crc32(bytes(11)), "'a.bmp' does not hold the 10 bytes")],
)
def test_member_that_holds_more_than_it_states(
    tmp_path: Path, checksum: int, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = [0]

    def counted(directory: str, **options: Any) -> None:
        most[0] = max(most[0], *(path.stat().st_size for path in Path(directory).rglob("*")), 0)
        remove(directory, **options)

    remove = shutil.rmtree
    liar = Member(b"a.bmp", zeros(2 << 10), 10, checksum, zipfile.ZIP_DEFLATED)
    archive = write_raw(tmp_path / "a.zip", [Member(b"good.png"), liar])
    monkeypatch.setattr(shutil, "rmtree", lambda path, **options: Path(path).exists() and counted(path, **options))
    assert why in refusal(archive)
    assert most[0] < 10_000


def test_member_that_holds_less_than_it_states(tmp_path: Path) -> None:
    liar = Member(b"a.bmp", deflated(b"short"), 500, zlib.crc32(b"short"), zipfile.ZIP_DEFLATED)
    assert "does not hold the 500 bytes" in refusal(write_raw(tmp_path / "a.zip", [liar]))


def test_larger_than_the_disk(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    members = [Member(b"%d" % i, b"", 200 << 20, method=zipfile.ZIP_STORED) for i in range(20)]
    archive = write_raw(tmp_path / "a.zip", members)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(free, free, 1 << 30))  # type: ignore[attr-defined]
        with pytest.raises(QGBenchError, match=r"takes 3\.9 GiB when it is unpacked, and .* has 1\.0 GiB left"):
            unpack(archive, tmp_path / "new/out")
    assert not (tmp_path / "new").exists()


# Damage, and files of other kinds


def test_wrong_checksum(tmp_path: Path) -> None:
    archive = write_raw(tmp_path / "a.zip", [Member(b"a.png", b"some pixels")])
    archive.write_bytes(archive.read_bytes().replace(b"some", b"sOme"))
    assert "is damaged or cut off (Bad CRC-32 for file 'a.png')" in refusal(archive)


def test_cut_off_anywhere(tmp_path: Path) -> None:
    whole = write_zip(tmp_path / "whole", {"a.png": os.urandom(300), "b.png": bytes(5000)}).read_bytes()
    (tmp_path / "whole").unlink()
    for length in range(4, len(whole)):
        (tmp_path / "a.zip").write_bytes(whole[:length])
        assert "is damaged or cut off" in refusal(tmp_path / "a.zip")


def test_random_damage_is_refused_or_harmless(tmp_path: Path) -> None:
    content = {"Set/a.png": os.urandom(100), "Set/ä.png": bytes(2000), "b/c.txt": b"text" * 40}
    whole = write_zip(tmp_path / "a.zip", content).read_bytes()
    rng = np.random.default_rng(4)
    refused = 0
    for _ in range(800):
        changed = bytearray(whole)
        for place in rng.integers(len(whole), size=rng.integers(1, 4)):
            changed[place] = rng.integers(256)
        (tmp_path / "a.zip").write_bytes(changed)
        try:
            unpack(tmp_path / "a.zip", tmp_path / "out")
        except QGBenchError:
            refused += 1
        else:
            # The checksums hold, so a change can only have reached names and fields of no account.
            assert set(content_of(tmp_path / "out").values()) <= set(content.values())
            shutil.rmtree(tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]
    assert refused > 400


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty (0 bytes)"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html><html><body>Log in", "a web page, probably a login form: download the file"),
        (b"<html lang='en'>", "a web page"),
        (b"Rar!\x1a\x07\x01\x00" + bytes(50), "a RAR archive. Unpack it first, for example with '7z x FILE'"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(50), "a 7z archive. Unpack it first, for example with '7z x FILE'"),
        (b"\x1f\x8b\x08" + bytes(50), "a gzip file (such as tar.gz). Unpack it first, for example with 'tar -xf FILE'"),
        (bytes(257) + b"ustar\x0000" + bytes(300), "a tar archive"),
        (b"\x89PNG\r\n\x1a\n", "is not a ZIP archive, whatever its name says"),
    ],
)
def test_not_a_zip(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    assert told in refusal(tmp_path / "a.zip")


def test_rar_around_a_zip_is_a_rar(tmp_path: Path) -> None:
    inner = write_zip(tmp_path / "inner", {"a.png": b"a"}).read_bytes()
    (tmp_path / "a.rar").write_bytes(b"Rar!\x1a\x07\x00" + bytes(20) + inner)
    assert "a RAR archive" in refusal(tmp_path / "a.rar")


def test_archive_without_files(tmp_path: Path) -> None:
    assert "holds no files" in refusal(write_zip(tmp_path / "a.zip", {"Set/": b"", "__MACOSX/x": b"x"}))


def test_missing_archive(tmp_path: Path) -> None:
    assert "is gone" in refusal(tmp_path / "a.zip")


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"  <!doctype HTML>\n", True),
        (b"<!-- c --><HTML>", True),
        (b"PK\x03\x04<html>", False),
        (b"id,group\n<html>,1", False),
        (b"<svg/>", False),
    ],
)
def test_is_web_page(head: bytes, expected: bool) -> None:
    assert is_web_page(head) is expected


# Whole or not at all


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write_zip(tmp_path / "a.zip", {f"{index}.png": bytes([index]) * 1000 for index in range(5)})


def test_folder_that_exists_is_left_alone(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="is there already"):
        unpack(archive, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_interrupted(archive: Path, tmp_path: Path) -> None:
    def interrupt(items: Iterable[T], description: str, total: int, unit: str) -> Iterator[T]:
        assert (description, total, unit) == ("Unpacking a.zip", 5, "files")
        for index, item in enumerate(items):
            if index == 3:
                assert len(list(tmp_path.glob(".out.partial/*"))) == 3
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        unpack(archive, tmp_path / "out", interrupt)
    assert list(tmp_path.iterdir()) == [archive]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_full_disk(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Path.open

    def to_a_full_disk(self: Path, mode: str = "r", *arguments: Any, **options: Any) -> IO:
        full = self.name == "2.png"
        return original(Path("/dev/full") if full else self, "wb" if full else mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", to_a_full_disk)
    with pytest.raises(QGBenchError, match=r"out: No space left on device\. Free some space") as caught:
        unpack(archive, tmp_path / "out")
    assert not isinstance(caught.value, UserError)
    assert list(tmp_path.iterdir()) == [archive]


def test_folder_that_cannot_be_written(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *arguments: Any, **options: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(QGBenchError, match="Read-only file system"):
        unpack(archive, tmp_path / "out")


KILLED = """
import os, sys
from pathlib import Path
from qgbench.data.acquire.archives import unpack

def die(items, description, total, unit):
    for index, item in enumerate(items):
        if index == 3:
            os.kill(os.getpid(), 9)
        yield item

unpack(Path(sys.argv[1]), Path(sys.argv[2]), die)
"""


def test_killed_process_leaves_no_folder_and_is_cleared_up_after(archive: Path, tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(archive), str(tmp_path / "out")])
    assert killed.returncode == -9
    assert not (tmp_path / "out").exists()
    (tmp_path / ".out.partial/9.png").write_bytes(b"of another archive")
    unpack(archive, tmp_path / "out")
    assert sorted(content_of(tmp_path / "out")) == [f"{index}.png" for index in range(5)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "out"]
