"""The wheel: it holds what the package needs and nothing else, and does the main job far from any checkout."""

import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
pytest_plugins = ["tests.wheel"]

Call = Callable[..., str]

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
from qgbench.data.cards import card_folder, card_names, listed_ids, load_card
from qgbench.data.splits import load_split
from qgbench.plugins.registry import load, method_names
from qgbench.spec.run_spec import load_protocol, protocol_names

print(qgbench.__file__, *qgbench.__path__, *qgbench.baselines.__path__, sep="\\n")
print("methods", *(name for name in method_names() if load("method", name)))
print("protocols", *(load_protocol(name).name for name in protocol_names()))
print("cards", *card_names())
committed = [name for name in card_names("labelled") if card_folder(name).joinpath("splits").is_dir()]
print("lists", *(name for name in card_names() if listed_ids(load_card(name))))
for name in committed:
    for protocol in protocol_names():
        for kind in ("grouped", "image")[: 1 if load_card(name).volumes else 2]:
            split = load_split(name, kind, load_protocol(protocol).fractions)
            assert set(split["split"]) == {"train", "val", "test"}, (name, kind, protocol)
"""


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder to work in."""
    return tmp_path_factory.mktemp("desk")


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(source: Path, wheel: Path) -> None:
    """A folder or a kind of file that was added and not named in pyproject.toml is missing here."""
    expected = {
        f"{place}/{file.relative_to(source / part).as_posix()}": file
        for part, place in PARTS.items()
        for file in (source / part).rglob("*")
        if file.is_file() and file.suffix not in NOT_PACKAGED
    }
    # What must be among them, so that an empty comparison cannot pass.
    assert {"qgbench/py.typed", "qgbench/cli/main.py", "qgbench/baselines/fixmatch.py"} < set(expected)
    assert "qgbench/cli/templates/method.py.txt" in expected
    assert {"qgbench/spec/protocols/smoke.toml", "qgbench/datasets/phantom/splits/grouped-40-10-50.csv"} < set(expected)
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if not name.partition("/")[0].endswith(".dist-info")}
        assert held == set(expected)
        for name, file in expected.items():
            assert archive.read(name) == file.read_bytes(), name


def test_it_finds_its_methods_protocols_cards_and_splits(call: Call, home: Path, desk: Path, source: Path) -> None:
    lines = call(desk, "python", "-c", LOOK).splitlines()
    assert len(lines) == 7
    for path in lines[:3]:
        assert Path(path).is_relative_to(home)
    methods = {file.stem for file in (source / "baselines").glob("*.py")} - {"__init__"}
    assert set(lines[3].split()[1:]) == methods
    assert set(lines[4].split()[1:]) == {
        file.stem for file in (source / "qgbench" / "spec" / "protocols").glob("*.toml")
    }
    assert set(lines[5].split()[1:]) == {file.parent.name for file in (source / "datasets").glob("*/card.toml")}
    assert lines[6].split()[1:] == ["isic2017", "isic_pool", "kvasir_pool"]


def test_the_demo_runs_in_an_empty_folder(call: Call, desk: Path) -> None:
    from qgbench import __version__

    assert call(desk, "qgbench", "--version") == f"qgbench {__version__}\n"
    for options in ([], ["--qg", *QUICK_G]):
        shown = call(desk, "qgbench", *RUN, "fixmatch", "--steps", "4", *options)
        record = shown.split("record: ")[1].splitlines()[0]
        assert (desk / record).is_file()
    call(desk, "qgbench", "report", "--html")
    assert (desk / "report/page/index.html").is_file()
    table = (desk / "report" / "report.md").read_text()
    assert "fixmatch" in table
    assert "qw" in table


def files(wheel: Path) -> dict[str, bytes]:
    """What a wheel holds, its metadata left out."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if "dist-info" not in name}


def built(source: Path, folder: Path) -> Path:
    """The wheel that pip builds of a folder or an sdist, without the network."""
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True, timeout=300)
    (file,) = folder.glob("*.whl")
    return file


def test_the_sdist_builds_the_same_wheel_and_holds_what_the_readme_links_to(
    source: Path, wheel: Path, tmp_path: Path
) -> None:
    build = "from setuptools.build_meta import build_sdist; import sys; build_sdist(sys.argv[1])"
    copy = tmp_path / "source"  # a build leaves files in its folder
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("*.egg-info", "build"))
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=copy, check=True, capture_output=True, timeout=300)
    (sdist,) = tmp_path.glob("qgbench-*.tar.gz")
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    linked = set(re.findall(r"\]\((?!https?:|#)([^)#\s]+)", (source / "README.md").read_text()))
    assert "docs/pictures/answer.svg" in linked
    assert linked <= held
    assert files(built(sdist, tmp_path)) == files(wheel)


def test_the_steps_of_the_dockerfile_make_a_program(source: Path, wheel: Path, call: Call, tmp_path: Path) -> None:
    """What it copies is what the package is made of, and its ENTRYPOINT does the main job in a plain environment."""
    lines = [line.split() for line in (source / "Dockerfile").read_text().splitlines() if line and line[0] != "#"]
    image, work = tmp_path / "image", tmp_path / "work"
    image.mkdir()
    work.mkdir()
    copied = {name for step, *words in lines if step == "COPY" for name in words[:-1]}
    for step, *words in lines:
        for name in words[:-1] if step == "COPY" else []:
            if (source / name).is_dir():
                assert words == [name, name], "COPY of a folder copies what is in it"
                shutil.copytree(source / name, image / name)
            else:
                shutil.copy(source / name, image / words[-1])
    assert files(built(image, tmp_path)) == files(wheel)
    let_in = {line[1:] for line in (source / ".dockerignore").read_text().splitlines() if line[0] == "!"}
    assert copied == let_in
    first, second = (words for step, *words in lines if step == "RUN")
    assert first[:5] == ["pip", "install", "--no-cache-dir", "torch", "torchvision"], (
        "before the package asks for CUDA's"
    )
    assert second[:3] == ["pip", "install", "--no-cache-dir"]
    assert second[3].strip('"').startswith(".[")
    (entry,) = (json.loads(" ".join(words)) for step, *words in lines if step == "ENTRYPOINT")
    (default,) = (json.loads(" ".join(words)) for step, *words in lines if step == "CMD")
    assert "Usage: qgbench" in call(work, *entry, *default)
    assert "record: " in call(work, *entry, *RUN, "fixmatch", "--steps", "4")
