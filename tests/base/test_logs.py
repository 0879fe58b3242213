"""What is said, where, and how loudly."""

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from qgbench.base.logs import NORMAL, QUIET, SILENT, VERBOSE, logged_to, logger, set_verbosity, verbosity
from qgbench.base.progress import track


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        yield
    set_verbosity(NORMAL)
    logging.captureWarnings(False)


def say() -> None:
    logger.debug("detail")
    logger.info("note")
    logger.warning("take care")
    warnings.warn("a library's warning", stacklevel=1)
    list(track(range(3), "stage", 3))


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (SILENT, []),
        (QUIET, ["warning: take care"]),
        (NORMAL, ["note", "warning: take care", "stage: 3/3"]),
        (VERBOSE, ["detail", "note", "warning: take care", "a library's warning", "stage: 3/3"]),
    ],
)
def test_each_level_says_what_it_should_once(
    level: int, expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):  # a level replaces the one before
        set_verbosity(level)
    assert verbosity() == level
    say()
    shown = capsys.readouterr()
    assert shown.out == ""
    for text in ("detail", "note", "warning: take care", "a library's warning", "stage: 3/3"):
        assert sum(text in line for line in shown.err.splitlines() if "warnings.warn" not in line) == (text in expected)


def test_the_log_of_a_run_has_everything_with_its_time(tmp_path: Path) -> None:
    set_verbosity(QUIET)
    with logged_to(tmp_path / "run.log"):
        say()
    logger.warning("after the end")
    lines = (tmp_path / "run.log").read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in lines[:3]] == ["DEBUG detail", "INFO note", "WARNING take care"]
    assert "a library's warning" in lines[3]
    assert all(line[10] == "T" and line[19] == "Z" for line in lines[:3])
    assert "after the end" not in "".join(lines)


def test_a_log_that_cannot_be_written_ends_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_verbosity(NORMAL)
    with logged_to(tmp_path / "gone" / "run.log"):
        logger.warning("still said")
    assert capsys.readouterr().err == "warning: still said\n"
