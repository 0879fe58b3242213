import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from qgbench.base.errors import UserError
from qgbench.data import content
from qgbench.data.content import checked, default_cache_dir, hash_files, read_checked
from qgbench.data.readers import FolderSource, open_source
from tests.data.test_readers import write_tree

ANY_AGE = -(10**18)  # nanoseconds


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pool"
    for name in ("a", "sub/b", "sub/c"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode() * 1000)
    return folder


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read, in no order."""
    names: list[str] = []
    original = content._hash

    def spy(file: Path) -> tuple[str, list[int] | None]:
        names.append(file.name)
        return original(file)

    monkeypatch.setattr(content, "_hash", spy)
    return names


@pytest.fixture
def old_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take files for old enough as soon as they are written, since no test can set a time of status change."""
    monkeypatch.setattr(content, "_LEAST_AGE", ANY_AGE)


def files_of(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def expected(folder: Path) -> list[bytes]:
    return [hashlib.sha256(file.read_bytes()).digest() for file in files_of(folder)]


@pytest.mark.usefixtures("old_files")
def test_unchanged_files_are_read_once(folder: Path, tmp_path: Path, read: list[str]) -> None:
    for _ in range(3):
        assert hash_files(files_of(folder), tmp_path / "table") == expected(folder)
    assert sorted(read) == ["a", "b", "c"]
    assert hash_files(files_of(folder)[::-1], tmp_path / "table") == expected(folder)[::-1]
    assert len(read) == 3


def same_size(file: Path) -> None:
    file.write_bytes(b"x" * file.stat().st_size)


def same_size_and_mtime(file: Path) -> None:
    status = file.stat()
    same_size(file)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def replaced_by_an_older_file(file: Path) -> None:
    status = file.stat()
    other = file.with_name("other")
    other.write_bytes(b"y" * status.st_size)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(file)


def longer(file: Path) -> None:
    with file.open("ab") as stream:
        stream.write(b"!")


@pytest.mark.usefixtures("old_files")
@pytest.mark.parametrize("change", [same_size, same_size_and_mtime, replaced_by_an_older_file, longer])
def test_only_a_changed_file_is_read_again(
    folder: Path, tmp_path: Path, read: list[str], change: Callable[[Path], None]
) -> None:
    before = hash_files(files_of(folder), tmp_path / "table")
    read.clear()
    change(folder / "sub/b")
    after = hash_files(files_of(folder), tmp_path / "table")
    assert read == ["b"]
    assert after == expected(folder) != before


def test_fresh_files_are_not_remembered(folder: Path, tmp_path: Path, read: list[str]) -> None:
    for _ in range(2):
        assert hash_files(files_of(folder), tmp_path / "table") == expected(folder)
    assert len(read) == 6
    for file in files_of(folder):
        os.utime(file, (10**9, 10**9))  # anyone can set this time, but not that of the status change
    hash_files(files_of(folder), tmp_path / "table")
    hash_files(files_of(folder), tmp_path / "table")
    assert len(read) == 12


def test_file_of_two_seconds_ago_is_remembered(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = folder / "a"
    for seconds, remembered in ((1.9, False), (2.1, True)):
        with monkeypatch.context() as patch:
            later = file.stat().st_ctime_ns + int(seconds * 1e9)
            patch.setattr(content.time, "time_ns", lambda later=later: later)
            hash_files([file], tmp_path / "table")
        assert (read_checked(tmp_path / "table") is not None) == remembered


def test_file_that_changes_while_it_is_hashed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "_LEAST_AGE", ANY_AGE)
    original = hashlib.file_digest

    def digest_and_change(stream: object, name: str) -> object:
        digest = original(stream, name)  # type: ignore[arg-type]
        longer(folder / "a")
        return digest

    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", digest_and_change)
        hash_files([folder / "a"], tmp_path / "table")
    assert hash_files([folder / "a"], tmp_path / "table") == expected(folder)[:1]


@pytest.mark.usefixtures("old_files")
def test_new_removed_and_moved_files(folder: Path, tmp_path: Path, read: list[str]) -> None:
    hash_files(files_of(folder), tmp_path / "table")
    read.clear()
    (folder / "d").write_bytes(b"new")
    (folder / "a").unlink()
    assert hash_files(files_of(folder), tmp_path / "table") == expected(folder)
    assert read == ["d"]
    folder.rename(tmp_path / "moved")
    assert hash_files(files_of(tmp_path / "moved"), tmp_path / "table") == expected(tmp_path / "moved")
    assert read == ["d"]


@pytest.mark.usefixtures("old_files")
@pytest.mark.parametrize("part", ["start", "middle", "end", "cut", "empty"])
def test_damaged_table_is_rebuilt(folder: Path, tmp_path: Path, read: list[str], part: str) -> None:
    table = tmp_path / "table"
    hash_files(files_of(folder), table)
    whole = table.read_bytes()
    damaged = bytearray(whole)
    if part in ("start", "middle", "end"):
        damaged[{"start": 0, "middle": len(whole) // 2, "end": len(whole) - 1}[part]] ^= 1
    table.write_bytes({"cut": damaged[:-20], "empty": b""}.get(part, damaged))
    read.clear()
    assert hash_files(files_of(folder), table) == expected(folder)
    assert len(read) == 3
    assert table.read_bytes() == whole


def test_table_that_cannot_be_written(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert hash_files(files_of(folder), tmp_path / "file/table") == expected(folder)


@pytest.mark.usefixtures("old_files")
def test_interrupted_hashing_keeps_what_is_done(
    folder: Path, tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "_FILES_BETWEEN_SAVES", 2)
    spied = content._hash

    def interrupt(file: Path) -> object:
        if file.name == "c":
            raise KeyboardInterrupt
        return spied(file)

    with monkeypatch.context() as patch:
        patch.setattr(content, "_hash", interrupt)
        with pytest.raises(KeyboardInterrupt):
            hash_files(files_of(folder), tmp_path / "table")
    read.clear()
    assert hash_files(files_of(folder), tmp_path / "table") == expected(folder)
    assert read == ["c"]


WRITER = """
import sys
from pathlib import Path
from qgbench.data import content
content._LEAST_AGE, content._FILES_BETWEEN_SAVES = -10**18, 1
files = sorted(Path(sys.argv[1]).iterdir())
for _ in range(3):
    Path(sys.argv[2]).unlink(missing_ok=True)
    content.hash_files(files, Path(sys.argv[2]))
"""


@pytest.mark.timeout(60)
def test_two_processes_at_once(tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pool").mkdir()
    for n in range(30):
        (tmp_path / f"pool/{n:02d}").write_bytes(bytes(n + 1))
    table = tmp_path / "tables/table"
    arguments = [sys.executable, "-c", WRITER, str(tmp_path / "pool"), str(table)]
    children = [subprocess.Popen(arguments) for _ in range(2)]
    while any(child.poll() is None for child in children):
        with suppress(FileNotFoundError):
            checksum, text = table.read_bytes().split(b"\n")
            assert hashlib.sha256(text).hexdigest().encode() == checksum
    assert [child.returncode for child in children] == [0, 0]
    assert [file.name for file in table.parent.iterdir()] == ["table"]
    assert hash_files(files_of(tmp_path / "pool"), table) == expected(tmp_path / "pool")
    assert read == []


def test_missing_file_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pool/gone is gone"):
        hash_files([folder / "a", folder / "gone"], tmp_path / "table")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_that_may_not_be_read(folder: Path, tmp_path: Path) -> None:
    (folder / "a").chmod(0)
    with pytest.raises(UserError, match=r"pool/a may not be read"):
        hash_files([folder / "a"], tmp_path / "table")


def test_checked_values() -> None:
    file = default_cache_dir() / "value"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(checked({"a": [1, "\n"]}))
    assert read_checked(file) == {"a": [1, "\n"]}


# The content key of a folder of images


def key_by_hand(folder: Path, ids: str) -> str:
    """The key as entries in use were named by: ids, file names and hashes of files, images first."""
    text = b""
    for part in ("images", "masks"):
        for id in ids:
            file = folder / part / f"{id}.png"
            text += f"{id}\0{file.name}\0".encode() + hashlib.sha256(file.read_bytes()).digest()
        text += b"\0masks\0"
    return hashlib.sha256(text).hexdigest()


@pytest.mark.usefixtures("old_files")
def test_content_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: list[str]) -> None:
    monkeypatch.setenv("QGBENCH_CACHE", str(tmp_path / "cache"))
    write_tree(tmp_path / "own")
    for _ in range(2):
        assert open_source(str(tmp_path / "own")).content_key() == key_by_hand(tmp_path / "own", "abc")
    assert len(read) == 6
    same_size(tmp_path / "own/masks/b.png")
    assert open_source(str(tmp_path / "own")).content_key() == key_by_hand(tmp_path / "own", "abc")
    assert len(read) == 7
    assert len(list((tmp_path / "cache/.hashes").iterdir())) == 1


@pytest.mark.usefixtures("old_files")
def test_data_sets_do_not_share_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: list[str]) -> None:
    monkeypatch.setenv("QGBENCH_CACHE", str(tmp_path / "cache"))
    write_tree(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    same_size(tmp_path / "two/images/a.png")
    for _ in range(2):
        for name in ("one", "two"):
            assert open_source(str(tmp_path / name)).content_key() == key_by_hand(tmp_path / name, "abc")
    assert len(read) == 12


def test_content_key_with_another_rule_and_several_masks(tmp_path: Path) -> None:
    write_tree(tmp_path)
    plain = open_source(str(tmp_path))
    images = {id: tmp_path / f"images/{id}.png" for id in "ab"}
    masks = {"a": [tmp_path / "masks/a.png", tmp_path / "masks/c.png"], "b": [tmp_path / "masks/b.png"]}
    source = FolderSource(plain.card, images, masks, {"a": "a", "b": "b"}, None, "nonzero")
    text = b"nonzero"
    for named in ([("a", images["a"]), ("b", images["b"])], [(id, file) for id in "ab" for file in masks[id]]):
        for id, file in named:
            text += f"{id}\0{file.name}\0".encode() + hashlib.sha256(file.read_bytes()).digest()
        text += b"\0masks\0"
    assert source.content_key() == hashlib.sha256(text).hexdigest()
