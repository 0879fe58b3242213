"""Standard output: names that no terminal is too narrow for, characters that it lacks, readers that have gone."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from qgbench.base.console import print_table, standard_output, written_out

NAME = "smoke-phantom-n12@grouped-unet-fixmatch+qw-k0-0439d71f"


def printed(width: int) -> list[str]:
    table = Table("run", "status", "note")
    table.add_row(NAME, Text("done"), "a note of some words")
    table.add_row("short", "", "")
    console = Console(file=io.StringIO(), width=width)
    print_table(table, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [1, 20, 60, 80, 100, 200])
def test_a_name_stands_unbroken_at_every_width(width: int) -> None:
    assert any(NAME in line for line in printed(width))


def test_where_the_table_is_too_wide_each_row_is_a_block() -> None:
    assert [line.rstrip() for line in printed(60)] == [NAME, "  status: done  note: a note of some words", "short", ""]
    assert printed(100)[1].split() == ["┃", "run", "┃", "status", "┃", "note", "┃"]


def test_nothing_is_broken_where_standard_output_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    standard_output().print("word " * 100)
    assert capsys.readouterr().out.count("\n") == 1


def test_characters_that_the_output_lacks_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding="ascii", newline=""))
    with written_out():
        print("Müller…")
    assert output.getvalue().strip() == b"M?ller?"


def qgbench(option: str, output: int) -> tuple[int, str]:
    """Run the command with a standard output, which --help writes through Rich and --version does not."""
    done = subprocess.run(
        [sys.executable, "-m", "qgbench", option], stdout=output, stderr=subprocess.PIPE, text=True, timeout=100
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("option", ["--help", "--version"])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_an_output_that_takes_nothing_is_one_sentence(option: str) -> None:
    with Path("/dev/full").open("w") as full:
        assert qgbench(option, full.fileno()) == (1, "error: standard output: No space left on device.\n")


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_a_reader_that_has_gone_ends_the_command_quietly(option: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert qgbench(option, writer) == (141, "")
    finally:
        os.close(writer)
