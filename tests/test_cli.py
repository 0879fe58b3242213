"""The command line: help, and one clear message with exit code 2 for every mistake."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qgbench.cli import main


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["qgbench", *words])
    with pytest.raises(SystemExit) as stopped:
        main()
    code = stopped.value.code
    assert isinstance(code, int)
    return code


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small data set of one's own: 12 images with masks."""
    home = tmp_path / "mine"
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (home / part).mkdir(parents=True)
    for index in range(12):
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), np.uint8)).save(home / "images" / f"a{index:02d}.png")
        mask = np.zeros((40, 50), np.uint8)
        mask[10 : 20 + index, 10:30] = 255
        Image.fromarray(mask).save(home / "masks" / f"a{index:02d}.png")
    return home


RUN = ["run", "--protocol", "smoke", "--threads", "1"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--method", "fixmach"], "unknown method 'fixmach'. Did you mean 'fixmatch'?"),
        (["--method", "fixmatch", "--dataset", "phantm"], "phantom"),
        (["--method", "fixmatch", "--arch", "unett"], "Did you mean 'unet'?"),
        (["--method", "fixmatch", "--encoder", "resnet35"], "unknown encoder 'resnet35'. Did you mean 'resnet"),
        (["--method", "fixmatch", "--set", "method.treshold=0.9"], "Did you mean 'method.threshold'?"),
        (["--method", "fixmatch", "--set", "method.threshold=1.9"], "less than or equal to 1"),
        (["--method", "fixmatch", "--set", "threshold=0.9"], "expected method.NAME=VALUE"),
        (["--method", "fixmatch", "--set", "qg.tau=0.9"], "changes nothing without the add-on"),
        (["--method", "fixmatch", "--protocol", "smal"], "Did you mean 'small'?"),
        (["--method", "fixmatch", "--qg-mode", "qww"], "expected none, qw, qar or both"),
        (["--method", "fixmatch", "--qg", "--qg-score", "dice"], "expected g, one"),
        (["--method", "fixmatch", "--qg-score", "shuffled"], "add --qg"),
        (["--method", "supervised", "--qg-mode", "qw"], "makes no pseudo-labels"),
        (["--method", "fixmatch", "--qg-mode", "qar", "--qg-score", "oracle"], "QAR needs a differentiable score"),
        (["--method", "fixmatch", "--regime", "28@both"], "is not understood"),
        (["--method", "fixmatch", "--regime", "n28", "--labelled", "28"], "not both"),
        (["--method", "fixmatch", "--labelled", "97"], "expected 1 to 96, the number of training images"),
        (["--method", "fixmatch", "--labelled", "1"], "give --labelled 2 or more"),
        (["--method", "fixmatch", "--precision", "fp16", "--device", "cpu"], "fp16 needs a GPU"),
        (["--method", "fixmatch", "--precision", "bf8"], "expected fp32, bf16 or fp16"),
        (["--method", "fixmatch", "--pool", "isic_pol"], "isic_pool"),
        (["--method", "missing.py"], "missing.py does not exist"),
    ],
    ids=lambda value: " ".join(value[2:]) or value[1] if isinstance(value, list) else "",
)
def test_a_mistake_gets_one_message_and_exit_code_2(
    words: list[str], expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert call(monkeypatch, *RUN, *words, "--output", str(tmp_path)) == 2
    shown = capsys.readouterr().err
    (message,) = (line for line in shown.splitlines() if not line.startswith("Preparing"))
    assert message.startswith("error: ")
    assert expected in message


def test_verbose_adds_the_traceback_and_keeps_the_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, *RUN, "--method", "fixmach", "--verbose") == 2
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert shown.splitlines()[-1].startswith("error: unknown method 'fixmach'")


def test_each_defect_of_a_data_folder_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = [*RUN, "--method", "supervised", "--labelled", "2", "--output", str(tmp_path / "runs")]

    def message(dataset: Path) -> str:
        assert call(monkeypatch, *words, "--dataset", str(dataset)) == 2
        return capsys.readouterr().err

    assert "absent" in message(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    assert "images" in message(tmp_path / "empty")
    without = shutil.copytree(folder, tmp_path / "without")
    (without / "masks" / "a03.png").unlink()
    assert "a03" in message(without)
    other_size = shutil.copytree(folder, tmp_path / "other_size")
    Image.fromarray(np.zeros((30, 50), np.uint8)).save(other_size / "masks" / "a04.png")
    shown = message(other_size)
    assert "a04" in shown
    assert "30" in shown
    assert "40" in shown
    cut_off = shutil.copytree(folder, tmp_path / "cut_off")
    (cut_off / "images" / "a05.png").write_bytes((folder / "images" / "a05.png").read_bytes()[:500])
    assert "a05" in message(cut_off)


@pytest.mark.slow
def test_a_folder_of_ones_own_runs_with_groups_and_extra_images(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Ten more images and a groups.csv: a run on a folder, as the README shows it."""
    rng = np.random.default_rng(1)
    for index in range(12, 30):
        shutil.copy(folder / "masks" / f"a{index % 12:02d}.png", folder / "masks" / f"a{index:02d}.png")
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), np.uint8)).save(folder / "images" / f"a{index:02d}.png")
    (folder / "groups.csv").write_text("stem,group\n" + "".join(f"a{i:02d},p{i // 3}\n" for i in range(30)))
    (folder / "unlabelled").mkdir()
    for index in range(5):
        Image.fromarray(rng.integers(0, 255, (64, 48, 3), np.uint8)).save(folder / "unlabelled" / f"x{index}.jpg")
    output = ["--output", str(tmp_path / "runs")]
    monkeypatch.setattr(
        sys,
        "argv",
        ["qgbench", *RUN, "--method", "fixmatch", "--dataset", str(folder), "--labelled", "4", "--steps", "4", *output],
    )
    main_exit = None
    try:
        main()
    except SystemExit as stopped:
        main_exit = stopped.code
    assert main_exit in (None, 0)
    assert "record: " in capsys.readouterr().out


def test_a_loss_that_is_not_finite_stops_the_run_with_its_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    method = tmp_path / "exploding.py"
    method.write_text(
        "from qgbench.methods import Batch, Method, Step, segmentation_loss\n"
        "class Exploding(Method):\n"
        "    pseudo_labels = False\n"
        "    def step(self, batch: Batch) -> Step:\n"
        "        loss = segmentation_loss(self.student(batch.x_l), batch.y_l)\n"
        "        return Step(loss * float('nan') if batch.progress >= 0.5 else loss)\n"
    )
    words = [*RUN, "--method", str(method), "--steps", "4", "--output", str(tmp_path / "runs")]
    assert call(monkeypatch, *words) == 1
    shown = capsys.readouterr().err
    assert "the loss is nan at step 3 of 4" in shown
    assert "train.lr" in shown
    (run,) = (path for path in (tmp_path / "runs").iterdir() if path.name.startswith("smoke"))
    assert (run / "status").read_text() == "failed\n"


@pytest.mark.parametrize(
    "words", [[], *([verb, "--help"] for verb in ("run", "check", "report", "runs", "show", "doctor"))]
)
def test_help_teaches_with_an_example(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, *words) in (0, 2)
    shown = capsys.readouterr()
    assert "qgbench" in shown.out + shown.err
    if words:
        assert "Example" in shown.out


def test_starting_up_imports_no_torch() -> None:
    import subprocess

    code = "import sys, qgbench.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
