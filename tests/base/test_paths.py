"""The home folder in what is typed: ``--output=~/runs``, which a shell leaves as it is."""

import pwd
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from typer import Typer
from typer.testing import CliRunner

from qgbench.base.errors import UserError
from qgbench.base.paths import expanded
from qgbench.cli.main import app
from qgbench.data.content import default_cache_dir


def parameters(typer: Typer, words: str = "qgbench") -> Iterator[Any]:
    """Every option and argument whose values are paths."""
    for command in typer.registered_commands:
        assert command.callback is not None
        for name, hint in get_type_hints(command.callback, include_extras=True).items():
            if "Path" in str(hint):
                yield pytest.param(get_args(hint)[1], id=f"{words} {command.callback.__name__} {name}")
    for group in typer.registered_groups:
        assert group.typer_instance is not None
        yield from parameters(group.typer_instance, f"{words} {group.name}")


@pytest.mark.parametrize("declared", list(parameters(app)))
def test_every_path_that_a_command_takes_has_its_home_expanded(declared: Any) -> None:
    assert declared.parser is expanded


def test_no_folder_of_that_name_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")
    result = CliRunner().invoke(app, ["new", "method", "mine", "--output=~/methods"], catch_exceptions=False)
    assert result.stdout.strip() == str(home / "methods" / "mine.py")
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ["methods", "--plugin=~/a.py"],
        ["check", "~/a.py:Mine"],
        ["suite", "plan", "~/a.toml"],
        ["data", "verify", "~/images"],
        ["run", "--method=~/a.py"],
    ],
    ids=" ".join,
)
def test_where_a_name_or_a_path_is_taken_too(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    error = CliRunner().invoke(app, words).exception
    assert isinstance(error, UserError)
    assert f"{tmp_path}/" in str(error)


def test_a_home_that_nobody_knows_is_the_users_to_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"~nosuchuser/runs: .*give the whole path"):
        expanded("~nosuchuser/runs")

    def unknown(user: int) -> None:
        raise KeyError(user)

    for variable in ("HOME", "QGBENCH_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(UserError, match="set HOME"):
        default_cache_dir()
    assert expanded("runs") == Path("runs")


def test_an_empty_name_or_path_is_a_variable_that_is_not_set() -> None:
    for words in (["run", "--method", "supervised", "--dataset", ""], ["runs", ""], ["show", "x", "--output", ""]):
        refused = CliRunner().invoke(app, words).exception
        assert isinstance(refused, UserError)
        assert "variable of the shell" in str(refused)
