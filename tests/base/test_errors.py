"""What the operating system refuses: each cause with the advice that helps against it."""

import errno
import os
from pathlib import Path

import pytest

from qgbench.base.errors import QGBenchError, UserError, unreadable, unwritable
from qgbench.base.files import write_atomically


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "No space left on device. Free some space on that disk, or choose another folder."),
        (errno.EDQUOT, "Your quota on that disk is used up: remove files of yours, or choose another folder."),
        (errno.EROFS, "That disk can only be read: choose another folder."),
        (errno.EACCES, "Give yourself permission to write there, or choose another folder."),
        (errno.ENOTDIR, "A part of that path is a file and not a folder: choose another folder."),
        (errno.EIO, "Check that disk, or choose another folder."),
    ],
)
def test_advice_on_writing_fits_the_cause(code: int, advice: str) -> None:
    message = str(unwritable("there", OSError(code, os.strerror(code))))
    assert message.startswith(f"cannot write there: {os.strerror(code)}. ")
    assert message.endswith(advice)
    assert ("Free some space" in message) == (code == errno.ENOSPC)


@pytest.mark.parametrize(
    ("place", "advice"),
    [
        ("file/x.csv", "file is no folder: choose another folder"),
        ("file/deeper/x.csv", "A part of that path is a file and not a folder"),
        ("folder", "There is a folder of that name: give another name."),
        (f"{'x' * 300}.csv", "Give a shorter name"),
    ],
)
def test_a_file_that_cannot_be_where_it_is_wanted(tmp_path: Path, place: str, advice: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(QGBenchError, match=advice):
        write_atomically(tmp_path / place, b"content")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOENT, "is gone. Put it back"),
        (errno.EACCES, "give yourself permission to read it"),
        (errno.ENOTDIR, "correct the path"),
        (errno.EISDIR, "correct the path"),
        (errno.ENAMETOOLONG, "correct the path"),
        (errno.EIO, "check the disk"),
    ],
)
def test_advice_on_reading_fits_the_cause(code: int, advice: str) -> None:
    error = unreadable(Path("there"), OSError(code, os.strerror(code)))
    assert isinstance(error, UserError)
    assert str(error).startswith("there ")
    assert advice in str(error)
