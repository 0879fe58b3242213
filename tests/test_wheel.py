"""The wheel: it holds what the package needs and nothing else, and does the main job far from any checkout."""

import os
import shutil
import site
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
# Folder of the checkout -> where the wheel has it.
PARTS = {
    "qgbench": "qgbench",
    "baselines": "qgbench/baselines",
    "datasets": "qgbench/datasets",
    "suites": "qgbench/suites",
}
NOT_PACKAGED = {".md"}  # read by people who look at the checkout
RUN = ["run", "--protocol", "smoke", "--threads", "1", "--method"]
QUICK_G = ["--set", "quality.steps=4", "--set", "quality.weak_epochs=[1]", "--set", "quality.weak_epoch_min_steps=1"]

# Run by the new environment's Python: what is found, and where.
LOOK = """
import qgbench, qgbench.baselines
from qgbench.data.cards import card_names, load_card
from qgbench.data.splits import load_split
from qgbench.registry import load_method, method_names
from qgbench.spec import load_protocol, protocol_names

print(qgbench.__file__, *qgbench.__path__, *qgbench.baselines.__path__, sep="\\n")
print("methods", *(name for name in method_names() if load_method(name)))
print("protocols", *(load_protocol(name).name for name in protocol_names()))
print("cards", *card_names())
for name in card_names("labelled"):
    for protocol in protocol_names():
        for kind in ("grouped", "image"):
            split = load_split(name, kind, load_protocol(protocol).fractions)
            assert set(split["split"]) == {"train", "val", "test"}, (name, kind, protocol)
"""


def _left_by_builds() -> dict[Path, int]:
    """What a build inside the checkout would leave there or touch, with times of change."""
    patterns = ("build", "dist", "*.whl", "*.egg-info", "*.egg-info/*")
    return {path: path.stat().st_mtime_ns for pattern in patterns for path in ROOT.glob(pattern)}


def _made(folder: str, names: list[str]) -> set[str]:
    """What is no source: caches anywhere; at the top also environments, runs, tables and what builds leave."""
    made = {"__pycache__"}
    if Path(folder) == ROOT:
        made |= {"build", "dist", "report", "runs", Path(sys.prefix).name}
        made |= {name for name in names if name.startswith(".") or name.endswith((".egg-info", ".whl"))}
    return made


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout: files that git tracks or would offer to; without git, all but what is made from them."""
    copy = tmp_path_factory.mktemp("source") / "qgbench"
    asked = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(asked, capture_output=True, check=True, timeout=60).stdout.decode().split("\0")
    except (OSError, subprocess.CalledProcessError):
        shutil.copytree(ROOT, copy, ignore=_made)
        return copy
    for name in listed:
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built by the setuptools of this environment: nothing is downloaded."""
    folder = tmp_path_factory.mktemp("wheel")
    before = _left_by_builds()
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", str(folder)]
    call = [sys.executable, "-m", "pip", "wheel", *options, "."]
    subprocess.run(call, cwd=source, check=True, timeout=300)
    assert _left_by_builds() == before
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def home(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel in it.

    It sees the dependencies by a path in a .pth file. Python does not process the .pth files that it finds in a folder
    which was added in this way, so an editable qgbench beside the dependencies stays hidden.
    """
    home = tmp_path_factory.mktemp("home") / "venv"
    venv.create(home, with_pip=False)
    options = ["--no-deps", "--no-index", "--quiet"]
    call = [sys.executable, "-m", "pip", "--python", str(home), "install", *options, str(wheel)]
    subprocess.run(call, check=True, timeout=300)
    packages = sysconfig.get_path("purelib", scheme="venv", vars={"base": str(home)})
    Path(packages, "dependencies.pth").write_text("".join(f"{path}\n" for path in site.getsitepackages()))
    return home


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder to work in."""
    return tmp_path_factory.mktemp("desk")


def call(home: Path, desk: Path, program: str, *words: str) -> str:
    """Call a program of the new environment in an otherwise empty place; return what it prints."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    program = str(home / "bin" / program)
    done = subprocess.run(
        [program, *words], cwd=desk, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(source: Path, wheel: Path) -> None:
    """A folder or a kind of file that was added and not named in pyproject.toml is missing here."""
    expected = {
        f"{place}/{file.relative_to(source / part).as_posix()}": file
        for part, place in PARTS.items()
        for file in (source / part).rglob("*")
        if file.is_file() and file.suffix not in NOT_PACKAGED
    }
    # What must be among them, so that an empty comparison cannot pass.
    assert {"qgbench/py.typed", "qgbench/cli.py", "qgbench/baselines/fixmatch.py"} < set(expected)
    assert {"qgbench/protocols/smoke.toml", "qgbench/datasets/phantom/splits/grouped-40-10-50.csv"} < set(expected)
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if not name.partition("/")[0].endswith(".dist-info")}
        assert held == set(expected)
        for name, file in expected.items():
            assert archive.read(name) == file.read_bytes(), name


def test_it_finds_its_methods_protocols_cards_and_splits(home: Path, desk: Path, source: Path) -> None:
    lines = call(home, desk, "python", "-c", LOOK).splitlines()
    assert len(lines) == 6
    for path in lines[:3]:
        assert Path(path).is_relative_to(home)
    methods = {file.stem for file in (source / "baselines").glob("*.py")} - {"__init__"}
    assert set(lines[3].split()[1:]) == methods
    assert set(lines[4].split()[1:]) == {file.stem for file in (source / "qgbench" / "protocols").glob("*.toml")}
    assert set(lines[5].split()[1:]) == {file.parent.name for file in (source / "datasets").glob("*/card.toml")}


def test_the_demo_runs_in_an_empty_folder(home: Path, desk: Path) -> None:
    from qgbench import __version__

    assert call(home, desk, "qgbench", "--version") == f"qgbench {__version__}\n"
    for options in ([], ["--qg", *QUICK_G]):
        shown = call(home, desk, "qgbench", *RUN, "fixmatch", "--steps", "4", *options)
        record = shown.split("record: ")[1].splitlines()[0]
        assert (desk / record).is_file()
    call(home, desk, "qgbench", "report")
    table = (desk / "report" / "report.md").read_text()
    assert "fixmatch" in table
    assert "qw" in table


def test_a_method_of_an_outsider_is_checked_and_run(home: Path, desk: Path, source: Path) -> None:
    """The file that CONTRIBUTING.md shows, put beside the runs."""
    code = (source / "CONTRIBUTING.md").read_text().split("```python\n")[1].split("```")[0]
    (desk / "mine.py").write_text(code)
    assert "FAIL" not in (shown := call(home, desk, "qgbench", "check", "mine.py"))
    assert "QW with g = 1 is bit-identical to no add-on" in shown
    shown = call(home, desk, "qgbench", *RUN, "mine.py", "--steps", "4", "--set", "method.sharpness=2")
    assert (desk / shown.split("record: ")[1].splitlines()[0]).is_file()
