"""Files as qgbench 0.1's CONTRIBUTING.md and `new method` gave them: they run, or are told the lines to change."""

import re
import shutil
import sys
from pathlib import Path

import pytest
import torch

from qgbench.archs.build import build_network
from qgbench.base.errors import UserError
from qgbench.cli.main import main
from qgbench.engine.device import make_accelerator
from qgbench.plugins.registry import load
from qgbench.trust.conformance import Bench, check_method

FILES = Path(__file__).parent / "written_for_0_1"
PROB = "write label.prob"
TERM = r"write Term\(loss, label\)"

# What is refused in turn, and the change that its message asks for.
CHANGES: dict[str, list[tuple[str, str, str]]] = {
    "mine.py": [
        (PROB, "sharp = label**self", "sharp = label.prob**self"),
        (TERM, "Term(loss, batch.u_w, label)", "Term(loss, label)"),
    ],
    "lab.py:Hard": [
        (PROB, "(label > 0.5)", "(label.prob > 0.5)"),
        (TERM, "Term(loss, batch.u_w, label)", "Term(loss, label)"),
    ],
    "lab.py:Soft": [
        (PROB, "pixel_bce(self.student(batch.u_s1), label)", "pixel_bce(self.student(batch.u_s1), label.prob)"),
        (TERM, "Term(loss, batch.u_w, label)", "Term(loss, label)"),
    ],
    "fresh.py": [
        (PROB, "certainty(label)", "certainty(label.prob)"),
        (PROB, "(label > 0.5)", "(label.prob > 0.5)"),
        (TERM, "Term(loss, image=batch.u_w, label=label)", "Term(loss, label)"),
    ],
    "features.py": [
        (
            r"write network\.head\(network\.decode\(features\)\)",
            "self.student.decode(features)",
            "self.student.head(self.student.decode(features))",
        )
    ],
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_line_to_change_is_named_until_the_file_keeps_the_contract(name: str, tmp_path: Path) -> None:
    file, _, kind = name.partition(":")
    shutil.copy(FILES / file, tmp_path)
    reference = str(tmp_path / name)
    for advice, old, new in CHANGES[name]:
        text = (tmp_path / file).read_text()
        at = text.index(f"class {kind}(") if kind else 0
        line = text[: text.index(old, at)].count("\n") + 1
        method = load("method", reference)
        said = rf"{file}, line {line}: `.*` is of qgbench 0\.1; {advice}[^\n]*\.$"
        with pytest.raises(UserError, match=said):  # as in a run
            list(Bench(method, make_accelerator("cpu", "fp32", 1)).trainer(lambda g: [], 1)[0].run())
        (finding,) = check_method(method)
        assert not finding.passed
        assert f"{file}, line {line}: " in finding.detail
        (tmp_path / file).write_text(text[:at] + text[at:].replace(old, new))
    # What it then is, it is for one class, which is what there was.
    broken = [finding for finding in check_method(load("method", reference)) if not finding.passed]
    assert [each for each in broken if "three classes" not in each.detail + each.rule] == []


@pytest.mark.parametrize(("name", "class_line"), [("mine.py", ""), ("lab.py:Hard", "class Hard("), ("fresh.py", "")])
def test_the_first_message_names_all_lines_to_change(name: str, class_line: str) -> None:
    file = FILES / name.partition(":")[0]
    text = file.read_text()
    method = load("method", str(FILES / name))
    with pytest.raises(UserError) as refused:
        next(Bench(method, make_accelerator("cpu", "fp32", 1)).trainer(lambda g: [], 1)[0].run())
    at = text.index(class_line)
    for advice, old, _ in CHANGES[name]:
        number = text[: text.index(old, at)].count("\n") + 1
        told = rf"line {number}(: `.*` is of qgbench 0\.1;| too, `[^`]*{re.escape(old)}[^`]*`:) {advice}"
        assert re.search(told, str(refused.value))


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ("image = terms[0].image", r"write term\.label\.image"),
        ("network = self.labelled_by(label)", r"write label\.network"),
        ("mean = label.mean()", r"write label\.prob"),
        ("one = label[0]", r"write label\.prob"),
        ("mixed = torch.where(batch.cut1, label, label)", r"write label\.prob"),
        ("terms = [Term(loss, label.prob)]", TERM),
        ("loss = F.binary_cross_entropy_with_logits(self.student.decode(features), batch.y_l)", r"write network\.head"),
    ],
)
def test_what_else_was_right_in_0_1_is_told(line: str, advice: str, tmp_path: Path) -> None:
    (tmp_path / "old.py").write_text(
        "import torch\nimport torch.nn.functional as F\nfrom qgbench.methods import Batch, Method, Step, Term\n"
        "class Old(Method):\n    needs_features = True\n    def step(self, batch: Batch) -> Step:\n"
        "        features, label = self.student.encode(batch.x_l), self.label(self.student, batch.u_w)\n"
        "        loss = self.student(batch.u_w).mean((1, 2, 3))\n        terms = [Term(loss, label)]\n"
        f"        {line}\n        return Step(loss.mean(), terms)\n"
    )
    method = load("method", str(tmp_path / "old.py"))
    with pytest.raises(UserError, match=rf"old\.py, line 10: `.*` is of qgbench 0\.1; {advice}"):
        next(Bench(method, make_accelerator("cpu", "fp32", 1)).trainer(lambda g: [], 1)[0].run())


@pytest.mark.parametrize(
    ("line", "name"), [("batch.x_1", "x_1"), ("self.label(self.student, batch.u_w).probb", "probb")]
)
def test_an_error_of_another_kind_is_left_as_it_is(line: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "slip.py").write_text(
        "from qgbench.methods import Batch, Method, Step\nclass Slip(Method):\n"
        f"    def step(self, batch: Batch) -> Step:\n        return Step({line})\n"
    )
    method = load("method", str(tmp_path / "slip.py"))
    with pytest.raises(AttributeError, match=name):
        next(Bench(method, make_accelerator("cpu", "fp32", 1)).trainer(lambda g: [], 1)[0].run())


def test_a_run_ends_with_that_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["run", "--protocol", "smoke", "--threads", "1", "--steps", "1", "--labelled", "6", "--quiet"]
    words += ["--method", str(FILES / "mine.py"), "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["qgbench", *words])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {FILES / 'mine.py'}, line 22: `sharp = label**self.settings.sharpness` is of")


def test_the_network_of_a_file_of_0_1_still_runs() -> None:
    network = build_network(str(FILES / "lab.py") + ":tiny", "resnet18", "none", (8,), 32)
    image = torch.rand(2, 3, 32, 32)
    assert torch.equal(network(image), network.body.segmentation_head(network.encode(image)[-1]))


def test_a_new_mistake_is_not_said_to_be_an_old_one(tmp_path: Path) -> None:
    """A target of another shape, where no decoder's features are taken for logits."""
    (tmp_path / "new.py").write_text(
        "import torch.nn.functional as F\nfrom qgbench.methods import Batch, Method, Step\n"
        "class New(Method):\n    pseudo_labels = False\n    def step(self, batch: Batch) -> Step:\n"
        "        return Step(F.binary_cross_entropy_with_logits(self.student(batch.x_l), batch.y_l[:, 0]))\n"
    )
    kind = load("method", str(tmp_path / "new.py"))
    (finding,) = [finding for finding in check_method(kind) if not finding.passed][:1]
    assert "must be the same as input size" in finding.detail
    assert "0.1" not in finding.detail
