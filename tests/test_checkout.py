"""What lies beside the package keeps up with it: scripts start, and what is installed with it is used."""

import ast
import importlib
import importlib.util
import re
import runpy
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from qgbench.spec.protocol import load_protocol

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("script", [*ROOT.glob("perf/*.py"), *ROOT.glob("docs/*.py")], ids=lambda path: path.name)
def test_a_script_finds_what_it_imports(script: Path) -> None:
    runpy.run_path(str(script), run_name="not main")


def test_every_package_that_is_required_is_imported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = {re.split(r"[<>=\[;]", line)[0] for line in project["dependencies"]}
    owners = packages_distributions()
    files = [*ROOT.glob("qgbench/**/*.py"), *ROOT.glob("baselines/*.py")]
    used = {
        owner.lower().replace("_", "-") for file in files for name in imported(file) for owner in owners.get(name, [])
    }
    judges = {"pytest"}  # asked for by name, to test plug-ins with; nothing of the package imports it
    assert not required - used - judges, "in pyproject.toml, but not in the code: is it for the tests (dev)?"


def imported(file: Path) -> set[str]:
    """Top-level names that a file imports, anywhere in it."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    whole = plain | {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    return {name.partition(".")[0] for name in whole}


def test_a_checkout_that_is_not_installed_says_what_to_type() -> None:
    call = [sys.executable, "-S", "-c", "import qgbench"]  # -S: without what is installed
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("is not installed; type: pip install -e .")


def test_the_command_line_of_such_a_checkout_says_that_alone() -> None:
    call = [sys.executable, "-S", "-m", "qgbench", "methods"]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: this is a checkout of qgbench that is not installed; type: pip install -e .\n"


def test_every_file_is_one_module() -> None:
    with pytest.raises(ImportError, match=r"qgbench\.qgbench"):
        importlib.import_module("qgbench.qgbench")


def test_the_top_of_the_package_holds_rooms() -> None:
    """`losses` is the one door that methods written for 0.1 come through."""
    files = {path.name for path in (ROOT / "qgbench").iterdir() if path.is_file()}
    assert files == {"__init__.py", "__main__.py", "losses.py", "py.typed"}


def test_the_check_for_a_gpu_runs_on_a_processor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("cuda_check", ROOT / "perf" / "cuda_check.py")
    assert spec is not None
    assert spec.loader is not None
    check = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check)
    smoke = load_protocol("smoke")
    train = smoke.train.model_copy(update={"batch_labelled": 2, "batch_unlabelled": 2})
    small = smoke.model_copy(update={"size": 32, "threads": 1, "train": train})
    monkeypatch.setattr(check, "load_protocol", lambda name: small)
    monkeypatch.setattr(check, "WARM_UP", 1)
    monkeypatch.setattr(check, "TOY_STEPS", 3)
    monkeypatch.setattr(sys, "argv", ["cuda_check.py", "--device", "cpu", "--steps", "1"])
    check.main()
    lines = capsys.readouterr().out.splitlines()
    parity = re.findall(r"(\S+) (?:apart|at step)", "\n".join(lines))
    assert parity == ["0.0e+00"] * 4, "a processor agrees with itself"
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line[:1] == "|"][2:]
    assert [row[0] for row in rows] == ["fixmatch", "fixmatch+qw", "supervised", "supervised+qar"]
    for _, step, waits, memory in rows:
        assert int(step) > 0
        assert 0 <= float(waits.removesuffix("%")) < 100
        assert memory == "-"
