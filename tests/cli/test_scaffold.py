"""`qgbench new method`: what it writes keeps the contract and the house's style, and it overwrites nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

from qgbench.base.errors import UserError
from qgbench.cli.main import main
from qgbench.cli.scaffold import write_method
from qgbench.plugins.registry import load
from qgbench.trust.conformance import check_method

ROOT = Path(__file__).parents[2]


def test_the_file_keeps_every_rule(tmp_path: Path) -> None:
    file = write_method("my_method_2", tmp_path / "new" / "folder")
    assert file == tmp_path / "new" / "folder" / "my_method_2.py"
    kind = load("method", str(file))
    assert kind.__name__ == "MyMethod2"
    assert kind.pseudo_labels
    own = set(kind.Settings.model_fields) - {"lambda_u", "warmup", "ramp"}
    assert own == {"threshold"}
    findings = list(check_method(kind))
    assert len(findings) > 10
    assert [finding for finding in findings if not finding.passed] == []


@pytest.mark.parametrize("name", ["x", "a_method_with_a_name_of_forty_letters_____"[:40]])
@pytest.mark.parametrize("check", [["check"], ["format", "--check", "--diff"]], ids=lambda check: check[0])
def test_the_file_is_clean_under_ruff(name: str, check: list[str], tmp_path: Path) -> None:
    file = write_method(name, tmp_path)
    words = [sys.executable, "-m", "ruff", *check, "--no-cache", "--config", str(ROOT / "pyproject.toml"), str(file)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("MyMethod", "Did you mean 'my_method'?"),
        ("my-method", "Did you mean 'my_method'?"),
        ("mine.py", "Did you mean 'mine'?"),
        ("2stage", "Did you mean 'stage'?"),
        ("class", "expected lower-case letters"),
        ("", "expected lower-case letters"),
        ("_mine", "expected lower-case letters"),
        ("../mine", "Did you mean 'mine'?"),
        ("größe", "expected lower-case letters"),
        ("m" * 41, "expected lower-case letters"),
        ("none", "a class None"),
        ("term", "a class Term"),
        ("method_settings", "a class MethodSettings"),
        ("fixmatch", "the name of a method already (built-in)"),
        ("random", "a Python module"),
        ("torch", "a Python module"),
    ],
)
def test_a_bad_name_is_refused(name: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        write_method(name, tmp_path)
    assert expected in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_exists_stays(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("# mine\n")
    with pytest.raises(UserError, match=r"mine\.py exists"):
        write_method("mine", tmp_path)
    assert (tmp_path / "mine.py").read_text() == "# mine\n"


def test_the_command_prints_the_file_and_what_comes_next(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for words, shown in (
        (["mine"], ("mine.py\n", "next: edit it, then qgbench check mine.py\n")),
        (["quiet_one", "--quiet", "--output", "there"], ("there/quiet_one.py\n", "")),
    ):
        monkeypatch.setattr(sys, "argv", ["qgbench", "new", "method", *words])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 0
        assert tuple(capsys.readouterr()) == shown
    assert (tmp_path / "mine.py").is_file()
    assert (tmp_path / "there" / "quiet_one.py").is_file()
