"""The command line: help, and one clear message with exit code 2 for every mistake."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from qgbench.base.errors import UserError
from qgbench.cli.main import app, main
from qgbench.run.carry_out import describe
from qgbench.run.record import read_record
from qgbench.spec.run_spec import RunSpec
from qgbench.spec.task import Task
from tests.data.acquire.test_verify import near_copy, parts_of, write_set


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


pytestmark = pytest.mark.usefixtures("brief_runs")
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
        (["--method", "fixmatch", "--set", "method.threshold=1.9"], "Expected: a number >= 0 and <= 1"),
        (["--method", "fixmatch", "--set", "method.threshold=high"], "Expected: a number >= 0 and <= 1"),
        (["--method", "pseudo_label", "--set", "method.labels_from=both"], "Expected: student or teacher"),
        (["--method", "fixmatch", "--set", "train.steps=0.5"], "Expected: an integer >= 1"),
        (["--method", "fixmatch", "--set", "train.batch_labelled=1000000000"], "an integer >= 2 and <= 4096"),
        (["--method", "fixmatch", "--qg", "--set", "quality.batch=1000000000"], "an integer >= 2 and <= 4096"),
        (["--method", "fixmatch", "--set", "threshold=0.9"], "expected method.NAME=VALUE"),
        (["--method", "fixmatch", "--set", "qg.tau=0.9"], "changes nothing without the add-on"),
        (["--method", "fixmatch", "--protocol", "smal"], "Did you mean 'small'?"),
        (["--method", "fixmatch", "--qg-mode", "qww"], "unknown addon 'qww'. Did you mean 'qw'?"),
        (
            ["--method", "fixmatch", "--qg", "--qg-score", "dice"],
            "unknown score 'dice'. Known: agreement, both, confidence, ensemble, entropy, g, mean, one",
        ),
        (["--method", "fixmatch", "--qg-score", "shuffled"], "add --qg"),
        (["--method", "fixmatch", "--qg", "--qg-score", "mean"], "add --qg-norm none"),
        (["--method", "fixmatch", "--qg-mode", "both", "--qg-score", "second"], "and a run trains one of them"),
        (["--method", "fixmatch", "--qg-mode", "refine"], "refine takes --qg-score pixel, both, second, oracle"),
        (
            ["--method", "fixmatch", "--qg", "--qg-score", "pixel", "--set", "quality.loss=ranking"],
            "quality.loss is of predictors with g's head",
        ),
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
        (["--method", "missing.py:Mine"], "missing.py does not exist"),
        (["--method", "fixmatch", "--plugin", "missing.py"], "missing.py does not exist"),
        (["--method", "fixmatch", "--plugin", "surely_missing"], "there is no module surely_missing"),
        (["--method", "fixmatch", "--arch", "missing.py"], "missing.py does not exist"),
        (["--method", "fixmatch", "--arch", "unetpp", "--encoder", "mit_b0"], "cannot be used with arch 'unetpp'"),
        (["--method", "fixmatch", "--arch", "swin_unet", "--encoder", "resnet34"], "made of Swin Transformer blocks"),
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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--method", "supervised", "--steps", "-5"], "Invalid value for '--steps': Input should be greater"),
        (["run", "--method", "supervised", "--seed", "9" * 20], "Invalid value for '--seed': Input should be less"),
        (["run"], "Missing option '--method'. See qgbench run --help."),
        (["data", "split"], "Missing argument 'name'. See qgbench data split --help."),
        (["runs", "--colour"], "No such option: --colour"),
        (["runz"], "No such command 'runz'"),
        (["runs", "missing"], "there is no folder missing"),
        (["runs", "--output", "missing"], "there is no folder missing"),
        (
            ["power", "--group-sd=1", "--run-sd=1", "--image-sd=8", "--gain=nan"],
            "--gain is in Dice points and above 0.",
        ),
        (["show", "one", "--output", "missing"], "there is no folder missing"),
        (
            ["new", "method", "mine", "--output", "taken"],
            "cannot write taken/mine.py: taken is no folder: choose another folder.",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    words: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("taken").touch()
    assert call(monkeypatch, *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (KeyError("step"), "error: KeyError: 'step' (an error of qgbench: --verbose"),
        (PermissionError(13, "Permission denied", "a.json"), "error: a.json: Permission denied."),
        (OSError(28, "No space left on device"), "error: standard output: No space left on device."),
    ],
    ids=repr,
)
def test_what_nobody_foresaw_is_one_line_and_its_traceback_is_to_be_had(
    raised: Exception, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(output: Path) -> None:
        raise raised

    monkeypatch.setattr("qgbench.run.folder.find_runs", fail)
    assert call(monkeypatch, "runs") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(message)
    assert call(monkeypatch, "runs", "--verbose") == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert shown.splitlines()[-1] == line


def test_runs_takes_the_folder_as_report_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["runs", str(tmp_path)], ["runs", "--output", str(tmp_path)]):
        assert call(monkeypatch, *words) == 0
        assert capsys.readouterr().out.startswith("No runs yet.")


@pytest.mark.parametrize(("given", "found"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_sleep_while_they_wait_unless_the_user_says_otherwise(
    given: str | None, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", given or "")
    if given is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.setenv("GOMP_SPINCOUNT", "")
    monkeypatch.delenv("GOMP_SPINCOUNT")
    call(monkeypatch, "--version")
    assert os.environ["OMP_WAIT_POLICY"] == found
    assert os.environ.get("GOMP_SPINCOUNT") == (None if given else "0")


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


@pytest.mark.slow
def test_a_run_warns_of_near_copies_and_its_record_keeps_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    parts = parts_of(tree := write_set(tmp_path / "own"))
    near_copy(tree, parts["train"][0], parts["test"][0])
    words = ["--method", "supervised", "--dataset", str(tree), "--labelled", "all"]
    CliRunner().invoke(app, [*RUN, *words, "--steps", "1", "--output", str(tmp_path / "runs")], catch_exceptions=False)
    (file,) = (tmp_path / "runs").rglob("record.json")
    assert read_record(file.parent).near_copies == {"val": [], "test": parts["test"][:1]}
    said = "are trained on (labelled: 1, unlabelled: 0) and measured on (val: 0, test: 1)"
    assert said in caplog.text
    assert said in (file.parent / "run.log").read_text()


def test_a_loss_that_is_not_finite_stops_the_run_with_its_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    method = tmp_path / "exploding.py"
    method.write_text(
        "from qgbench.methods.losses import segmentation_loss\n"
        "from qgbench.methods import Batch, Method, Step\n"
        "class Exploding(Method):\n"
        "    pseudo_labels = False\n"
        "    def step(self, batch: Batch) -> Step:\n"
        "        loss = segmentation_loss(self.task, self.student(batch.x_l), batch.y_l)\n"
        "        return Step(loss * float('nan') if batch.progress >= 0.5 else loss)\n"
    )
    words = [*RUN, "--method", str(method), "--steps", "4", "--output", str(tmp_path / "runs")]
    assert call(monkeypatch, *words) == 1
    shown = capsys.readouterr().err
    assert "the loss is nan at step 3 of 4" in shown
    assert "train.lr" in shown
    (run,) = (path for path in (tmp_path / "runs").iterdir() if path.name.startswith("smoke"))
    status, cause = (run / "status").read_text().split("\n", 1)
    assert status == "failed"
    assert cause.startswith("the loss is nan at step 3 of 4")


METHOD = """
from qgbench.methods.losses import pixel_cross_entropy, segmentation_loss
from qgbench.methods import Batch, Method, Step, Term


class Mine(Method):
    needs_features = False

    def step(self, batch: Batch) -> Step:
        label = self.label(self.student, batch.u_w)
        loss = pixel_cross_entropy(self.task, self.student(batch.u_s1), label.prob).mean((1, 2, 3))
        return Step(segmentation_loss(self.task, self.student(batch.x_l), batch.y_l), [Term(loss, label)])
"""
# Its network gives logits as its only features, and so says that it has none.
ARCH = """
from torch import nn
from qgbench.archs.registry import Arch


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder, self.segmentation_head = One(), Last(), nn.Identity()


class One(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 1, 1)

    def forward(self, image):
        return [self.layer(image)]


class Last(nn.Module):
    def forward(self, features):
        return features[-1]


flat = Arch(lambda encoder, weights, channels, size: Network(), "one convolution", "-", "nothing", (), "none")
"""


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            ("mean((1, 2, 3))", "mean()"),
            "Mine.step: terms[0].loss must hold one value per row, (N,), not a Tensor of shape ()",
        ),
        (
            ("mean((1, 2, 3))", "mean((2, 3))"),
            "Mine.step: terms[0].loss must hold one value per row, (N,), not a Tensor of shape (",
        ),
        (("Term(loss, label)", "Term(loss, label.prob)"), "is of qgbench 0.1; write Term(loss, label)"),
        (
            ("    def step(", "    strong_views = 0\n\n    def step("),
            "Its file reads batch.u_s1, which is not made at strong_views = 0: say there how many.",
        ),
    ],
    ids=["reduced", "not reduced", "no label", "a view that is not made"],
)
def test_a_method_that_breaks_a_rule_is_told_which_and_where(
    change: tuple[str, str],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    assert METHOD.count(change[0]) == 1
    file = tmp_path / "mine.py"
    file.write_text(METHOD.replace(*change))
    assert call(monkeypatch, "check", str(file)) == 2
    assert expected in " ".join(capsys.readouterr().out.split())
    assert call(monkeypatch, *RUN, "--method", str(file), "--output", str(tmp_path / "runs")) == 2
    (message,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert expected in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (METHOD + METHOD.replace("Mine", "Yours"), ("defines 2 subclasses", "say which of them: ")),
        (
            "from qgbench.methods import Method\n",
            ("defines 0 subclasses", "defines no method, add-on, score or metric"),
        ),
        ("class Mine(:\n", ("cannot be imported: SyntaxError",)),
    ],
    ids=["two methods", "none", "syntax error"],
)
@pytest.mark.parametrize("words", [["check"], [*RUN, "--method"], ["methods"]], ids=lambda words: words[0])
def test_a_file_that_is_no_method_is_refused_everywhere(
    words: list[str],
    text: str,
    expected: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(text)
    assert call(monkeypatch, *words, str(file)) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert shown.count("error: ") == 1
    assert any(each in shown.splitlines()[0] for each in expected)
    assert (f'File "{file}", line 1' in shown) == ("SyntaxError" in expected[0])
    assert "qgbench/plugins/registry.py" not in shown


def test_the_name_of_a_data_set_is_looked_up_before_torch_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "qgbench.run.carry_out", None)
    assert call(monkeypatch, *RUN, "--method", "fixmatch", "--dataset", "isic2071") == 2
    assert "unknown dataset 'isic2071'. Did you mean" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--seed", "1" + 30 * "0"], ["--threads", "1" + 9 * "0"]])
def test_numbers_beyond_any_machine_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert call(monkeypatch, "run", "--method", "fixmatch", *words) == 2
    assert f"Invalid value for '{words[0]}'" in capsys.readouterr().err


def test_a_method_that_needs_features_refuses_an_arch_without(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "nets.py").write_text(ARCH)
    words = [*RUN, "--method", str(tmp_path / "mine.py"), "--arch", "flat", "--plugin", str(tmp_path / "nets.py")]
    words += ["--dry-run"]
    (tmp_path / "mine.py").write_text(METHOD)
    assert call(monkeypatch, *words) == 0
    capsys.readouterr()
    (tmp_path / "mine.py").write_text(METHOD.replace("needs_features = False", "needs_features = True"))
    assert call(monkeypatch, *words) == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith("error: ")
    assert "needs features" in message
    assert "nets.py:flat" in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--arch", "swin_unet", "--encoder", "resnet18"], "encoder 'resnet18' is not"),
        (["--encoder", "vit_small_patch14_dinov2"], "An arch that takes 'vit_small_patch14_dinov2': --arch dpt."),
        (
            ["--arch", "dpt", "--encoder", "vit_small_patch14_dinov2"],
            "56 and 70. Or type --encoder vit_small_",
        ),
        (["--arch", "dpt_frozen", "--encoder", "resnet18"], "encoder 'resnet18' is none: type --encoder vit_small_"),
        (["--set", "train.batch_labelled=0"], "train.batch_labelled"),
        (["--labelled", "97"], "expected 1 to 96, the number of training images"),
        (["--pool", "isic_pol"], "unknown pool 'isic_pol'. Did you mean 'isic_pool'?"),
        (["--qg", "--set", "quality.backbone=resnet19"], "'resnet19'"),
        (["--qg", "--set", "quality.weak_encoder=resnet19"], "unknown quality.weak_encoder 'resnet19'"),
        (["--track", "nosuch"], "unknown tracker 'nosuch'"),
    ],
)
def test_a_dry_run_refuses_what_the_run_refuses(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, *RUN, "--method", "fixmatch", *words, "--dry-run") == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.out == ""


def test_a_dry_run_says_that_data_which_are_not_here_were_not_checked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("QGBENCH_DATA", raising=False)
    assert call(monkeypatch, *RUN, "--method", "fixmatch", "--dataset", "ph2", "--dry-run") == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["spec"]["regime"] == "n7@grouped", "the card says so"
    assert "the data were not looked at, so nothing was compared with them: 'ph2' needs its images" in shown.err


def test_a_batch_that_leaves_a_process_too_few_images_for_the_arch_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, *RUN, "--method", "fixmatch", "--arch", "upernet", "--dry-run") == 0
    fields = json.loads(capsys.readouterr().out)["spec"] | {"processes": 4}
    with pytest.raises(UserError, match=r"'upernet' needs 2 or more images.*train.batch_labelled=8"):
        describe(RunSpec.model_validate(fields), Task())
    assert describe(RunSpec.model_validate(fields | {"processes": 2}), Task())
    assert describe(RunSpec.model_validate(fields | {"arch": "unet"}), Task())


def test_the_code_of_an_own_arch_is_part_of_the_runs_id(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "nets.py"

    def planned(text: str) -> str:
        file.write_text(text)
        words = ["--method", "supervised", "--arch", f"{file}:flat", "--dry-run", "--set", "encoder_weights=none"]
        assert call(monkeypatch, *RUN, *words) == 0
        return json.loads(capsys.readouterr().out)["id"]

    first = planned(ARCH)
    assert "/" not in first
    assert ":" not in first
    assert "nets_flat" in first
    assert planned(ARCH + "\n# changed\n") != first
    assert planned(ARCH) == first


@pytest.mark.parametrize(
    "words",
    [
        [],
        *(
            [*verb.split(), "--help"]
            for verb in (
                "run",
                "predict",
                "export",
                "check",
                "report",
                "runs",
                "show",
                "doctor",
                "methods",
                "archs",
                "new method",
            )
        ),
        *(["quality", verb, "--help"] for verb in ("train", "score", "audit", "export")),
    ],
)
def test_help_teaches_with_an_example(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, *words) in (0, 2)
    shown = capsys.readouterr()
    assert "qgbench" in shown.out + shown.err
    if words:
        assert "Example" in shown.out


@pytest.mark.parametrize("words", ["export --help", "quality export --help"])
def test_help_names_an_extra_whole(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    assert call(monkeypatch, *words.split()) == 0
    assert "qgbench[onnx]" in capsys.readouterr().out  # and not swallowed as markup


@pytest.mark.parametrize(
    ("words", "absent", "shown"),
    [
        ("--help", "torch pandas numpy pydantic", "Usage: qgbench"),
        ("quality score --help", "torch pandas numpy", "the worst first"),
        ("methods", "torch pandas", "unimatch_v2"),
        ("methods fixmatch", "torch pandas", "Deviations that all methods share"),
        ("archs", "torch pandas", "deeplabv3plus"),
        ("suite plan small", "torch", "489 runs"),
    ],
)
def test_what_needs_no_model_imports_none(tmp_path: Path, words: str, absent: str, shown: str) -> None:
    import subprocess

    code = f"""
import sys
from qgbench.cli.main import main
sys.argv = ["qgbench", *{words.split()}]
try:
    main()
finally:
    print(set({absent.split()}) & set(sys.modules), file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert shown in done.stdout
    assert done.stderr == "set()\n"


def test_starting_up_imports_no_plug_in(tmp_path: Path) -> None:
    """Help is shown although a package with entry points, were it imported, would end the process."""
    import os
    import subprocess

    info = tmp_path / "lab-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lab\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[qgbench.methods]\nboom = lab:Mine\n[qgbench.archs]\nbang = lab:net\n")
    (tmp_path / "lab.py").write_text("import os\nos._exit(9)\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}

    def code(*words: str) -> int:
        command = [sys.executable, "-m", "qgbench", *words]
        return subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False).returncode

    assert code("run", "--help") == 0
    assert code("methods", "boom") == 9  # it is there


def test_verify_and_submit_from_the_command_line(tmp_path: Path) -> None:
    golden = Path(__file__).parents[1] / "golden/records/v1"
    place = tmp_path / "runs/one"
    shutil.copytree(golden, place)
    result = CliRunner().invoke(app, ["verify", str(tmp_path / "runs")])
    assert result.exit_code == 0, result.output
    images = place / "images.csv"
    images.write_text(images.read_text().replace("ok", "missed", 1))
    result = CliRunner().invoke(app, ["verify", str(tmp_path / "runs")])
    assert result.exit_code == 1
    assert "images.csv" in result.output
    result = CliRunner().invoke(app, ["submit", str(place), "--results", str(tmp_path / "results")])
    assert isinstance(result.exception, UserError)
    assert not (tmp_path / "results").exists()


def test_report_filters_and_metric_from_the_command_line(tmp_path: Path) -> None:
    golden = Path(__file__).parents[1] / "golden/records/v1"
    shutil.copytree(golden, tmp_path / "runs/one")
    words = ["report", str(tmp_path / "runs"), "--output", str(tmp_path / "out"), "--metric", "hd95", "--no-figures"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "HD95 (pooled)" in (tmp_path / "out/report.md").read_text()
    result = CliRunner().invoke(app, [*words, "--dataset", "nothing"])
    assert isinstance(result.exception, UserError)
    assert "no record has the dataset 'nothing'" in str(result.exception)
