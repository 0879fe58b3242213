"""Folders that are whole or not there."""

from pathlib import Path

import pytest
from filelock import FileLock

from qgbench.base.errors import UserError
from qgbench.base.files import whole_folder


def test_a_folder_appears_when_its_block_ends(tmp_path: Path) -> None:
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial/old").write_text("of a killed process")
    with whole_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("a")
        assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]


def test_an_empty_folder_is_filled_and_another_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with whole_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("a")
    with pytest.raises(UserError, match="holds files already"), whole_folder(tmp_path / "out"):
        raise AssertionError("it must not begin")
    with pytest.raises(UserError, match="is a file"), whole_folder(tmp_path / "out/a"):
        raise AssertionError("it must not begin")


def test_a_block_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with whole_folder(tmp_path / "out") as folder:
            (folder / "a").write_text("a")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_two_processes_do_not_build_one_folder(tmp_path: Path) -> None:
    with (
        FileLock(tmp_path / ".out.lock"),
        pytest.raises(UserError, match="another process is writing"),
        whole_folder(tmp_path / "out"),
    ):
        raise AssertionError("it must not begin")


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another --output"), whole_folder(tmp_path / "file/out"):
        raise AssertionError("it must not begin")
