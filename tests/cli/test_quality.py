"""The verbs of ``qgbench quality``: what docs/how-to/bad-masks.md types works, and each mistake is one message."""

import csv
import json
import re
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from qgbench.cli.main import app
from qgbench.cli.quality import _print_worth
from tests.cli.test_main import call
from tests.commands import QUICK_G, small_data
from tests.data.acquire.test_pairs import nnunet, picture
from tests.test_documents import typed

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("brief_runs")]
HEART_FOLDER = Path("nnUNet_raw/Dataset007_Heart")


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as table:
        return list(csv.DictReader(table))


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that docs/how-to/bad-masks.md names, and everything typed there done in it."""
    desk = tmp_path_factory.mktemp("desk")
    known = small_data(desk / "known")
    for part, own in (("images", "photos"), ("masks", "outlines")):
        shutil.copytree(known / part, desk / own)
    shutil.copy(known / "groups.csv", desk / "patients.csv")
    for part, own in (("images", "new"), ("masks", "checked")):
        (desk / own).mkdir()
        for file in sorted((known / part).iterdir())[:10]:
            shutil.copy(file, desk / own / f"n{file.name}")
    (desk / "patients_new.csv").write_text(
        "stem,group\n" + "".join(f"{file.stem},{file.stem[:-2]}\n" for file in (desk / "new").iterdir())
    )
    (desk / "predicted").mkdir()
    for file in (desk / "checked").iterdir():
        Image.fromarray(np.roll(np.asarray(Image.open(file)), 15, axis=0)).save(desk / "predicted" / file.name)
    images, labels = nnunet(desk, cases=6)
    (desk / HEART_FOLDER).mkdir(parents=True)
    shutil.copytree(images, desk / HEART_FOLDER / "imagesTr")
    shutil.copytree(labels, desk / HEART_FOLDER / "labelsTr")
    images.rename(desk / HEART_FOLDER / "imagesTs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(desk)
        for line in typed("docs/how-to/bad-masks.md"):
            words = shlex.split(line, comments=True)
            if words[1] == "export":
                pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")
            else:
                words += ["--threads", "1"]
            if words[1] == "train":
                words += ["--size", "32", *QUICK_G]
            result = CliRunner(env={"COLUMNS": "200"}).invoke(app, words, catch_exceptions=False)
            assert result.exit_code == 0, result.output
    return desk


def test_scores_are_a_table_and_a_page_the_worst_first(desk: Path) -> None:
    scored = rows(desk / "scored/quality.csv")
    assert list(scored[0]) == ["image", "quality", "distance", "unlike"]
    assert sorted(row["image"] for row in scored) == sorted(file.stem for file in (desk / "new").iterdir())
    qualities = [float(row["quality"]) for row in scored]
    assert qualities == sorted(qualities)
    assert {row["unlike"] for row in scored} <= {"True", "False"}
    page = (desk / "scored/index.html").read_text()
    assert page.index(scored[0]["image"]) < page.index(scored[-1]["image"])
    assert len(list((desk / "scored/thumbnails").glob("*.jpg"))) == 10


def test_predictions_of_nnunet_are_scored_by_case_and_class(desk: Path) -> None:
    scored = rows(desk / "scored_heart/quality.csv")
    assert sorted(row["image"] for row in scored) == [f"heart_{case:03}" for case in range(6)]
    assert {"quality_rv", "quality_myo", "quality_lv", "worst_slice", "worst_quality"} <= set(scored[0])
    for row in scored:
        assert float(row["worst_quality"]) <= float(row["quality"])
    page = (desk / "scored_heart/index.html").read_text()
    assert f"worst slice {scored[0]['worst_slice']} of 4" in page
    assert "myo</text>" in page


def test_an_audit_is_printed_drawn_and_kept(desk: Path) -> None:
    found = json.loads((desk / "audit/audit.json").read_text())
    assert (found["masks"], found["groups"]) == (10, 5)
    assert found["mae"]["low"] <= found["mae"]["value"] <= found["mae"]["high"]
    assert b"<svg" in (desk / "audit/calibration.svg").read_bytes()
    assert (desk / "audit/calibration.pdf").read_bytes().startswith(b"%PDF")
    assert (desk / "exported/predictor.onnx").is_file()
    assert json.loads((desk / "exported/predictor.onnx.json").read_text())["onnx"]["mask"] == ["batch", 1, 32, 32]


def test_a_g_of_a_run_scores_but_knows_no_unlike_images(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk)
    of_run = desk / "of_run"
    of_run.mkdir()
    for name in ("predictor.json", "predictor.safetensors"):
        shutil.copy(desk / "g" / name, of_run)
    words = [
        "quality",
        "score",
        "of_run",
        "--threads",
        "1",
        "--images",
        "new",
        "--masks",
        "predicted",
        "--output",
        "by_run",
    ]
    assert call(monkeypatch, *words) == 0
    table = rows(desk / "by_run/quality.csv")
    assert {(row["distance"], row["unlike"]) for row in table} == {("", "")}
    assert [row["quality"] for row in table] == [row["quality"] for row in rows(desk / "scored/quality.csv")]
    page = (desk / "by_run/index.html").read_text()
    assert 'name="unlike"' not in page
    assert 'class="unlike"' not in page
    assert "does not know which images are unlike" in page


def test_each_mistake_is_one_message(
    desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(desk)
    small, broken, coloured = tmp_path / "small", tmp_path / "broken", tmp_path / "coloured"
    for folder in (small, broken, coloured):
        shutil.copytree(desk / "predicted", folder)
    name = sorted(file.name for file in small.iterdir())[3]
    picture(small / name, 255)
    (broken / name).write_bytes((broken / name).read_bytes()[:60])
    Image.fromarray(np.arange(128 * 128, dtype=np.uint8).reshape(128, 128)).save(coloured / name)
    shutil.copytree(desk / "predicted", tmp_path / "fewer")
    (tmp_path / "fewer" / name).unlink()
    (tmp_path / "none").mkdir()
    score = ["quality", "score", "g", "--images", "new", "--output", str(tmp_path / "out"), "--masks"]
    train = ["quality", "train", "--images", "photos", "--masks", "outlines", "--output", str(tmp_path / "g")]
    blank = tmp_path / "blank"
    for file in (desk / "outlines").iterdir():
        picture(blank / file.name, 0, (128, 128))
    cases = [
        ([*score, str(small)], f"{small / name} is 30 x 40 pixels, its image new/{name} is 128 x 128"),
        ([*score, str(broken)], f"{broken / name} is damaged or cut off"),
        ([*score, str(coloured)], f"{coloured / name} holds 256 values"),
        ([*score, str(tmp_path / "fewer")], f"1 image ({Path(name).stem}) of new without a mask"),
        ([*score, str(tmp_path / "none")], f"{tmp_path / 'none'} holds no images"),
        ([*score, "absent"], "there is no folder absent"),
        ([*score, "predicted", "--device", "tpu"], "--device tpu: expected auto, cpu, cuda or mps."),
        (["quality", "score", "new", *score[3:], "predicted"], "new holds no whole quality predictor"),
        (
            ["quality", "score", "g", "h", *score[3:], "predicted"],
            "2 quality predictors are named (g, h): run this once",
        ),
        ([*train, "--set", "train.steps=3"], "--set train.steps: g has settings quality.NAME=VALUE"),
        ([*train, "--set", "quality.stepps=3"], "Did you mean 'quality.steps'?"),
        ([*train, "--set", "quality.lr=-1"], "setting quality.lr = -1"),
        ([*train, "--classes", "a"], "--classes a: 'a' is not NAME=VALUE"),
        ([*train, "--groups", "absent.csv"], "there is no file absent.csv"),
        ([*train, "--masks", str(blank), *QUICK_G], "foreground pixel"),
        (["quality", "audit", "g", "--images", "new", "--truth", "none"], "there is no folder none"),
        ([*train[:-1], "g", "--set", "quality.steps=9"], "g holds a quality predictor of other images, masks, groups"),
    ]
    for words, said in cases:
        assert call(monkeypatch, *words) == 2, words
        shown = capsys.readouterr()
        assert said in shown.err, shown.err
        assert shown.err.count("error: ") == 1
        assert "Traceback" not in shown.err
    assert not (tmp_path / "out").exists()


def test_export_without_its_extra_says_what_to_install(
    desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(desk)
    monkeypatch.setattr("qgbench.engine.onnx.find_spec", lambda name: None)
    assert call(monkeypatch, "quality", "export", "g", "--output", str(tmp_path / "out")) == 2
    assert "pip install 'qgbench[onnx]'" in capsys.readouterr().err


def test_of_a_g_that_predicts_nothing_it_is_said_when_one_predicts(caplog: pytest.LogCaptureFixture) -> None:
    none = SimpleNamespace(pearson=0.1, spearman=0.1, mae=0.3, masks=20)
    card = SimpleNamespace(labelled_ids=["a"], synthetic=none, weak_models=none, image_dependence=0.0)
    _print_worth(cast(Any, SimpleNamespace(card=card, folder="g")))
    (said,) = [record.getMessage() for record in caplog.records]
    assert "does not predict" in said
    assert re.search(r"\. One predicts it if the 95 % interval of r .* lies above 0\.$", said)
