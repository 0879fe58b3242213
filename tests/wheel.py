"""The wheel, built once a session, in an environment of its own: fixtures for tests far from any checkout.

A module uses them by ``pytest_plugins = ["tests.wheel"]``; imported fixtures would be built once for each module.
"""

import json
import os
import shutil
import site
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.commands import BRIEF

ROOT = Path(__file__).parent.parent

# Reads a folder, words and two files for output a line; carries each out in a fork, and prints its exit code.
FORKER = """
import json, os, sys
import qgbench.cli.main, qgbench.quality.fit, qgbench.report.figures.cases, qgbench.run.carry_out, qgbench.training.loop

for name, value in json.loads(sys.argv[1]).items():
    module, _, of_it = name.rpartition(".")
    assert hasattr(sys.modules[module], of_it)
    setattr(sys.modules[module], of_it, value)
for line in sys.stdin:
    desk, words, *files = json.loads(line)
    if (child := os.fork()) == 0:
        os.chdir(desk)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, file in enumerate(files, 1):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.argv = ["qgbench", *words]
        qgbench.cli.main.main()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
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


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}


@pytest.fixture(scope="session")
def call(home: Path) -> Callable[..., str]:
    """Call a program of the new environment in a folder (``call(desk, "qgbench", "--version")``); give what it prints.

    Standard output only; the program must succeed.
    """

    def called(desk: Path, program: str, *words: str) -> str:
        command = [str(home / "bin" / program), *words]
        done = subprocess.run(
            command, cwd=desk, env=_environment(), capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return called


@pytest.fixture(scope="session")
def typed(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """Type ``qgbench WORDS`` in a folder (``typed(desk, "methods")``), as `call` does.

    Each is a process of its own, forked from one that has imported torch and nothing of a plug-in. Runs are brief.
    """
    files = [str(tmp_path_factory.mktemp("typed") / name) for name in ("out", "err")]
    command = [str(home / "bin" / "python"), "-P", "-c", FORKER, json.dumps(BRIEF)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=_environment()) as forker:
        assert forker.stdin is not None
        assert forker.stdout is not None
        asked, exit_codes = forker.stdin, forker.stdout

        def done(desk: Path, *words: str) -> str:
            print(json.dumps([str(desk), words, *files]), file=asked, flush=True)
            code = exit_codes.readline()
            said, errors = (Path(file).read_text() for file in files)
            assert code == "0\n", said + errors
            return said

        yield done
        asked.close()
