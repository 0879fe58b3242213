"""What the how-to pages type works, line by line, on generated images and with few steps.

Pages with tests of their own: your-images and report (tests/cli/test_classes.py), bad-masks
(tests/cli/test_quality.py), method, network, addon and package (tests/plugins), loop (tests/test_library_page.py), demo
(`make demo`). Engines of suites have theirs in tests/launch. That the command line understands every page,
tests/test_documents.py sees.
"""

import json
import shlex
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qgbench.cli.main import app
from tests.commands import QUICK_G
from tests.data.acquire.test_pairs import nnunet
from tests.test_documents import typed

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("brief_runs")]
QUICK = ["--protocol", "smoke", "--steps", "3", "--threads", "1"]
Said = dict[str, str]


def type_page(page: str, wanted: Callable[[str], bool], own: Mapping[str, str], quick: list[str]) -> Said:
    """Type the chosen lines of a page with these words in the place of its own; give what each line printed."""
    said: Said = {}
    for line in filter(wanted, typed(page)):
        words = [own.get(word, word) for word in shlex.split(line, comments=True)]
        if words[0] == "run":
            words += [*quick, *(QUICK_G if "--qg" in words else [])]
        result = CliRunner(env={"COLUMNS": "200"}).invoke(app, words, catch_exceptions=False)
        assert result.exit_code == 0, (line, result.output)
        said[line.partition(" #")[0].strip()] = result.output
    return said


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where what the page about runs types was typed: a run with g, under the page's name for it."""
    desk = tmp_path_factory.mktemp("desk")
    elsewhere = ("regress", "reproduce", "run --method unimatch")  # minutes; each has tests of its own
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(desk)
        said = type_page("docs/how-to/run.md", lambda line: not line.startswith(elsewhere), {}, QUICK)
        (run,) = [path for path in (desk / "runs").iterdir() if (path / "record.json").is_file()]
        (desk / "runs/ID").symlink_to(run)
        (desk / "said.json").write_text(json.dumps(said))
    return desk


def test_a_run_is_listed_and_shown(desk: Path) -> None:
    said = json.loads((desk / "said.json").read_text())
    assert "corrmatch" in said["methods"]
    assert "threshold" in said["methods unimatch"]
    assert "attention_unet" in said["archs"]
    assert "done" in said["runs"]
    assert "fixmatch + qw" in said["show fixmatch+qw"]
    assert "torch" in said["doctor"]


def test_a_record_is_compared_with_this_machine(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk)
    own = {"runs/ID": str((desk / "runs/ID").resolve())}
    said = type_page("docs/how-to/run.md", lambda line: line.startswith("reproduce") and "--dry-run" in line, own, [])
    assert said


def test_a_run_is_applied_and_exported(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")
    monkeypatch.chdir(desk)
    from tests.commands import small_data

    shutil.move(small_data(desk / "known") / "images", desk / "new")
    own = {"runs/ID": str((desk / "runs/ID").resolve()), "~/new": "new"}
    first, second, third = typed("docs/how-to/predict.md")
    for line in (first, second, third):
        shutil.rmtree(desk / "predicted", ignore_errors=True)
        type_page("docs/how-to/predict.md", line.__eq__, own, [])
    assert not (desk / "predicted").exists()
    assert (desk / "network/network.onnx").is_file()


def test_a_folder_of_nnunet_becomes_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    images, labels = nnunet(tmp_path / "made", cases=14)
    task = tmp_path / "Task09_Spleen"
    task.mkdir()
    images.rename(task / "imagesTr")
    for file in labels.glob("*.json"):
        file.unlink()
    labels.rename(task / "labelsTr")
    known = {"labels": {"background": 0, "rv": 1, "myo": 2, "lv": 3}, "channel_names": {"0": "MRI"}, "numTraining": 14}
    (task / "dataset.json").write_text(json.dumps(known | {"file_ending": ".nii.gz"}))
    own = {"~/Downloads/Task09_Spleen": str(task), "~/data": "data"}
    type_page("docs/how-to/nnunet.md", lambda line: True, own, QUICK)
    report = (tmp_path / "report/report.md").read_text()
    assert all(name in report for name in ("rv", "myo", "lv"))
    assert (tmp_path / "spleen.png").is_file()


def test_the_volumes_that_need_no_download_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = type_page("docs/how-to/acdc.md", lambda line: "phantom3d" in line, {}, QUICK[2:])
    assert "mean over 12 test volumes" in " ".join("".join(said.values()).split())


def test_a_suite_is_planned_for_every_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for page in ("suite", "slurm", "ray"):
        said = type_page(
            f"docs/how-to/{page}.md", lambda line: line.partition(" #")[0].strip() == "suite plan small", {}, []
        )
        assert said
