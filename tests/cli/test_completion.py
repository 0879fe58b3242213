"""Completion by the shell: the right words, at once, without torch."""

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

import qgbench.cli.main
from qgbench.cli import completion
from qgbench.run.folder import RunFolder
from qgbench.spec.run_spec import RunSpec

ROOT = Path(__file__).parents[2]
KINDS = {
    file.parent.name: tomllib.loads(file.read_text())["kind"] for file in sorted(ROOT.glob("datasets/*/card.toml"))
}
# What each function may offer, told by the files of the tree.
OFFERED: dict[Callable[[str], list[str]], set[str]] = {
    completion.methods: {file.stem for file in ROOT.glob("baselines/*.py")} - {"__init__"},
    completion.protocols: {file.stem for file in ROOT.glob("qgbench/spec/protocols/*.toml")},
    completion.datasets: {name for name, kind in KINDS.items() if kind == "labelled"},
    completion.pools: {name for name, kind in KINDS.items() if kind == "pool"},
}
RUNS = ("small-ph2-all@image-unet-supervised-k1", "smoke-phantom-n12@grouped-unet-fixmatch-k0")

# The program as the shell calls it, which says at its end what it imported that a TAB should not wait for.
PROGRAM = """
import sys
sys.argv = ["qgbench"]
from qgbench.cli.main import main
try:
    main()
finally:
    print(*sorted({"torch", "pandas", "scipy"} & set(sys.modules)), file=sys.stderr)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder to work in: two runs in ./runs, another in ./elsewhere, and what else lies about in such folders."""
    fields = {"protocol": "smoke", "dataset": "phantom", "regime": "n12", "method": "fixmatch", "arch": "unet"}
    spec = RunSpec.model_validate(
        fields | {"encoder": "resnet18", "seed": 0, "precision": "fp32", "device": "cpu", "threads": 1}
    )
    for path in (*(tmp_path / "runs" / name for name in RUNS), tmp_path / "elsewhere" / "small-mine"):
        path.mkdir(parents=True)
        RunFolder(path).set_spec(spec)
    (tmp_path / "runs" / "smoke-predictors").mkdir()
    (tmp_path / "runs" / "smoke.txt").touch()
    return tmp_path


def tab(folder: Path, *words: str) -> tuple[list[str], str]:
    """Press TAB in bash after the last of the words (which may be ''): what is offered, and standard error."""
    asked = {"_QGBENCH_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    call = [sys.executable, "-c", PROGRAM]
    environment = os.environ | asked | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(call, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return sorted(done.stdout.split()), done.stderr


@pytest.mark.parametrize("function", OFFERED, ids=lambda function: function.__name__)
def test_every_name_is_offered_after_each_of_its_beginnings(function: Callable[[str], list[str]]) -> None:
    names = OFFERED[function]
    assert len(names) > 1
    for begun in {name[:length] for name in names for length in range(len(name) + 1)}:
        assert sorted(function(begun)) == sorted(name for name in names if name.startswith(begun))
    assert function("no such name") == []


def test_archs_are_those_that_can_be_built() -> None:
    """The names are written twice, because the registry of networks imports torch."""
    from qgbench.archs.registry import ARCHS

    assert set(completion.archs("")) == set(ARCHS)
    assert completion.archs("une") == ["unet", "unetpp"]
    assert completion.archs("zzz") == []


def test_every_encoder_that_is_offered_can_be_built() -> None:
    from qgbench.archs.build import build_network
    from qgbench.spec.protocol import load_protocol, protocol_names

    assert {load_protocol(name).encoder for name in protocol_names()} <= set(completion.encoders(""))
    assert sorted(completion.encoders("resnet")) == ["resnet18", "resnet34", "resnet50"]
    for name in completion.encoders(""):
        build_network("unet", name, "none", (64, 32, 16, 8, 8), 64)


def test_runs_are_those_of_the_output_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    context = typer.Context(typer.main.get_command(qgbench.cli.main.app))
    assert completion.runs(context, "") == sorted(RUNS)
    assert completion.runs(context, "smo") == [RUNS[1]]
    context.params = {"output": None}
    assert completion.runs(context, "small") == [RUNS[0]]
    context.params = {"output": Path("elsewhere")}
    assert completion.runs(context, "") == ["small-mine"]
    context.params = {"output": "absent"}
    assert completion.runs(context, "") == []


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("run --method fix", ["fixmatch"]),
        ("run --qg --method fixmatch --dataset ph", ["ph2", "phantom", "phantom3d"]),
        ("run --protocol sm", ["small", "smoke"]),
        ("run --pool isic_pool --pool k", ["kvasir_pool"]),
        ("run --arch un", ["unet", "unetpp"]),
        ("run --encoder resnet1", ["resnet18"]),
        ("check mean_", ["mean_teacher"]),
        ("show sm", sorted(RUNS)),
        ("show --output elsewhere sm", ["small-mine"]),
    ],
)
def test_a_tab_completes_the_word_at_once(words: str, offered: list[str], folder: Path) -> None:
    found, said = tab(folder, "qgbench", *words.split())
    assert found == offered
    assert "torch" not in said
    if words.split()[-2] in ("--method", "--dataset", "--pool", "--protocol", "--arch", "--encoder", "check"):
        assert said == "\n", "nothing is imported that takes long"


def test_what_was_added_to_the_data_folder_is_offered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, kind in (("photos", "labelled"), ("phones", "pool")):
        (folder / name).mkdir()
        card = (ROOT / "datasets/ph2/card.toml").read_text().replace('kind = "labelled"', f'kind = "{kind}"')
        (folder / name / "card.toml").write_text(
            "".join(line for line in card.splitlines(True) if "budget" not in line)
        )
    assert tab(folder, "qgbench", "run", "--dataset", "pho")[0] == [], "folders here are not names"
    monkeypatch.setenv("QGBENCH_DATA", str(folder))
    assert tab(folder, "qgbench", "run", "--dataset", "pho")[0] == ["photos"]
    assert completion.pools("pho") == ["phones"]
    assert sorted(completion.data_names("ph")) == ["ph2", "phantom", "phantom3d", "phones", "photos"]
    (folder / "phones" / "card.toml").write_text("name = ")
    assert completion.pools("k") == ["kvasir_pool"]


def test_where_nothing_fits_the_shell_is_left_to_complete_files(folder: Path) -> None:
    assert tab(folder, "qgbench", "run", "--method", "./mi")[0] == []
    (folder / "runs").rename(folder / "gone")
    assert tab(folder, "qgbench", "show", "sm")[0] == []
