"""The wheel, built once a session, in an environment of its own: fixtures for tests far from any checkout.

A module uses them by ``pytest_plugins = ["tests.wheel"]``; imported fixtures would be built once for each module.
"""

import os
import shutil
import site
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


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


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def call(home: Path) -> Callable[..., str]:
    """Call a program of the new environment in a folder (``call(desk, "qgbench", "--version")``); give what it prints.

    Standard output only; the program must succeed.
    """

    def called(desk: Path, program: str, *words: str) -> str:
        hidden = ("PYTHON", "VIRTUAL_ENV")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
        command = [str(home / "bin" / program), *words]
        done = subprocess.run(
            command, cwd=desk, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return called
