"""A finished run asked for again: shown with its own data, refused with others, and never lost to a picture."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from click.testing import Result
from PIL import Image, ImageOps
from typer.testing import CliRunner

from qgbench.base.errors import QGBenchError
from qgbench.cli.main import app
from qgbench.run.folder import RunFolder, find_runs
from qgbench.run.record import read_record
from tests.commands import QUICK_G, small_data

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("brief_runs")]

Change = Callable[[], object]


def run(*options: str) -> Result:
    words = ["--protocol", "smoke", "--threads", "1", "--steps", "1", "--method", "supervised", "--dataset", "./mine"]
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, ["run", *words, "--labelled", "6", *options])


def refusal(result: Result) -> str:
    assert result.exit_code == 1, "the runner's; main() gives the error's own"
    assert result.stdout == ""
    assert getattr(result.exception, "exit_code", None) == 2
    return str(result.exception)


def only_run() -> RunFolder:
    (folder,) = find_runs(Path("runs"))
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and one run."""
    home = tmp_path_factory.mktemp("finished")
    small_data(home / "mine")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        assert run().exit_code == 0
    return home


@pytest.fixture
def here(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a copy of it."""
    home = shutil.copytree(finished, tmp_path / "home")
    monkeypatch.chdir(home)
    return home


def invert() -> None:
    for file in Path("mine").glob("*s/*.png"):
        ImageOps.invert(Image.open(file).convert("L")).save(file)


def regroup() -> None:
    groups = Path("mine/groups.csv")
    names = [row.split(",")[0] for row in groups.read_text().splitlines()[1:]]
    groups.write_text("\n".join(["stem,group", *(f"{name},{place // 4}" for place, name in enumerate(names))]))


@pytest.mark.parametrize(("change", "what"), [(invert, "images or masks"), (regroup, "parts of the split")])
def test_a_finished_run_is_not_shown_with_other_data(here: Path, change: Change, what: str) -> None:
    folder = only_run().path
    before = {file: file.read_bytes() for file in folder.iterdir()}
    change()
    said = refusal(run())
    assert f"{folder} was finished with other {what} than there are now" in said
    assert "--force" in said
    assert run("--force").exit_code == 0
    assert read_record(folder.with_name(f"{folder.name}~2")).summary != read_record(folder).summary
    assert {file: file.read_bytes() for file in folder.iterdir()} == before
    assert f"{folder.name}~2" in run().stdout, "the last repetition is the run from now on"


def test_a_finished_run_is_not_shown_with_another_g(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("--qg", *QUICK_G).exit_code == 0
    assert "done already" in run("--qg", *QUICK_G).stdout
    monkeypatch.setattr("qgbench.run.carry_out.predictor_id", lambda *_: "another")
    assert "was finished with other g than" in refusal(run("--qg", *QUICK_G))


def test_a_finished_run_is_shown_where_its_data_are_not(here: Path) -> None:
    shutil.rmtree("mine")
    result = run()
    assert result.exit_code == 0
    assert "done already" in result.stdout
    (line,) = result.stderr.splitlines()
    assert "the data were not looked at, so nothing was compared with them: there is no folder ./mine" in line


def test_a_finished_run_is_shown_where_the_cache_cannot_be_written(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "file").write_text("")
    monkeypatch.setenv("QGBENCH_CACHE", str(here / "file"))
    result = run()
    assert result.exit_code == 0
    assert "done already" in result.stdout
    assert "nothing was compared with them: cannot write the cache" in result.stderr


def test_a_dry_run_refuses_what_the_run_refuses_of_its_output(here: Path) -> None:
    assert run("--dry-run").exit_code == 0
    (here / "file").write_text("")
    assert "cannot write file/runs" in refusal(run("--dry-run", "--output", "file/runs"))
    invert()
    assert "finished with other images or masks" in refusal(run("--dry-run"))


def test_data_that_are_here_and_broken_are_no_absent_data(here: Path) -> None:
    next(Path("mine/masks").iterdir()).unlink()
    assert "without a mask" in refusal(run())


def test_a_picture_that_a_kill_left_undone_is_drawn_by_the_next_command(here: Path) -> None:
    picture = only_run().path / "cases.png"
    drawn = picture.read_bytes()
    picture.unlink()
    assert "done already" in run().stdout
    assert picture.read_bytes() == drawn


def test_no_extra_costs_a_finished_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a picture, an old checkpoint that cannot be removed, or the status does, the record is there."""
    there: list[bool] = []
    set_status, unlink = RunFolder.set_status, Path.unlink

    def draw(folder: RunFolder, *_: Any) -> NoReturn:
        there.append((folder.path / "record.json").is_file())
        raise RuntimeError("no such canvas")

    def set_but_done(folder: RunFolder, status: Any, cause: str = "") -> None:
        if status == "done":
            raise QGBenchError("cannot write")
        set_status(folder, status, cause)

    def unlink_but_checkpoints(path: Path, missing_ok: bool = False) -> None:
        if path.name == "previous.pt":
            raise PermissionError(1, "busy")
        unlink(path, missing_ok)

    shutil.rmtree("runs")
    monkeypatch.setattr("qgbench.report.cases.draw_run", draw)
    monkeypatch.setattr(RunFolder, "set_status", set_but_done)
    monkeypatch.setattr(Path, "unlink", unlink_but_checkpoints)
    result = run()
    assert result.exit_code == 0
    assert there == [True], "drawn once the record is there"
    assert result.stderr.count("warning: ") == 1
    assert "warning: cases.png: not drawn: RuntimeError: no such canvas" in result.stderr
    assert only_run().status() == "done"
    assert "done already" in run().stdout
