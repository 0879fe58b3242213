"""The pages about parts of one's own, typed as they are written: in an empty folder, with the installed wheel."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qgbench.run.folder import RunFolder
from qgbench.trust.verify import Fault, verify_records

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # some twenty commands
pytest_plugins = ["tests.wheel"]

Call = Callable[..., str]
ROOT = Path(__file__).parents[2]
PAGES = "\n".join((ROOT / f"docs/how-to/{name}.md").read_text() for name in ("method", "network", "addon", "package"))
# A file to write, named at the end of the paragraph above it; or commands, one a line.
BLOCK = re.compile(r"(?:`(?P<file>[\w./]+)`(?: has[^\n]*)?:\n\n)?```(?P<language>\w+)\n(?P<text>.*?)```", re.DOTALL)


def blocks() -> Iterator[tuple[str | None, str, str]]:
    for found in BLOCK.finditer(PAGES):
        yield found["file"], found["language"], found["text"]


def install(home: Path, folder: Path) -> str:
    """Do what `pip install FOLDER` does, without the network."""
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    words = [sys.executable, "-m", "pip", "--python", str(home), "install", *options, str(folder)]
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=300).stdout


@pytest.fixture(scope="module")
def walked(typed: Call, home: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], Path]:
    """Follow the pages; give what each command printed (the last time that it was typed), and the folder."""
    desk = tmp_path_factory.mktemp("outsider")
    printed: dict[str, str] = {}
    for file, language, text in blocks():
        if file is not None:
            (desk / file).parent.mkdir(exist_ok=True)
            (desk / file).write_text(text)
            continue
        assert language == "sh", f"a block of {language} that names no file"
        for line in text.splitlines():
            program, *words = shlex.split(line)
            if program == "qgbench":
                printed[line] = typed(desk, *words)
            elif program == "cp":
                shutil.copyfile(*(desk / word for word in words))
            else:
                assert [program, *words[:-1]] == ["pip", "install"], f"unknown command: {line}"
                printed[line] = install(home, desk / words[-1])
    return printed, desk


def only(printed: dict[str, str], *parts: str) -> str:
    """What the one command printed that has all these parts."""
    (line,) = (line for line in printed if all(part in line for part in parts))
    return printed[line]


def test_every_block_is_understood() -> None:
    """A file that nobody writes or a command that nobody types would make the other tests hollow."""
    found = list(blocks())
    assert len(found) == PAGES.count("\n```") / 2
    assert [file for file, _, _ in found if file] == [
        "mine.py",
        "lab.py",
        "linknet.py",
        "parts.py",
        "package/pyproject.toml",
    ]


def test_every_check_keeps_every_rule(walked: tuple[dict[str, str], Path]) -> None:
    checks = {line.split()[2]: text for line, text in walked[0].items() if line.startswith("qgbench check")}
    said = {
        **dict.fromkeys(("mine.py", "Soft", "hard_labels"), "QW with g = 1 is bit-identical to no add-on"),
        **dict.fromkeys(("parts.py:Capped", "capped"), "resumed equals the uninterrupted run, bit for bit"),
        "parts.py:Sharpness": "it gives one quality for each pseudo-label, in [0, 1]",
        "parts.py:area_error": "it is in its range for masks that overlap",
    }
    assert checks.keys() == said.keys()
    for name, shown in checks.items():
        assert "FAIL" not in shown
        assert said[name] in shown


def test_the_runs_leave_records_that_name_what_was_run(walked: tuple[dict[str, str], Path]) -> None:
    printed, desk = walked
    shown = [text for line, text in printed.items() if line.startswith("qgbench run") and "--dry-run" not in line]
    records = [json.loads((desk / text.split("record: ")[1].splitlines()[0]).read_text()) for text in shown]
    assert [(record["spec"]["method"], record["spec"]["arch"]) for record in records] == [
        ("mine.py", "unet"),
        ("lab.py:Hard", "lab.py:tiny"),
        ("fixmatch", "unet"),
    ]
    assert records[2]["spec"]["qg_mode"] == "parts.py:Capped"
    assert records[2]["settings"]["qg"] == {"cap": 0.4}
    assert 0 <= records[2]["summaries"]["student"]["means"]["area_error"] <= 1
    assert records[0]["settings"]["method"]["sharpness"] == 2
    for text in shown:  # typed again, each is done already: its rows are the record's, the further metric's too
        assert RunFolder((desk / text.split("record: ")[1].splitlines()[0]).parent).record() is not None
    used = [record["settings"]["protocol"]["encoder_weights"] for record in records]
    assert used == ["imagenet", "none", "imagenet"], "lab.py's network takes none, whatever the protocol says"
    assert rules_broken(desk / "runs") == []
    again = json.loads(only(printed, "--method lab.py:Hard"))
    assert again["id"] == records[1]["run_id"]


def rules_broken(runs: Path) -> list[Fault]:
    return [fault for fault in verify_records([runs]) if fault.severity == "fault"]


def test_settings_are_shown_with_their_ranges(walked: tuple[dict[str, str], Path]) -> None:
    row = next(line for line in only(walked[0], "methods mine.py").splitlines() if "sharpness" in line)
    assert "1.0" in row
    assert "a number > 0" in row


def test_plug_ins_and_packages_are_listed_beside_the_built_ins(walked: tuple[dict[str, str], Path]) -> None:
    of_file = only(walked[0], "methods --plugin lab.py")
    assert "plug-in lab.py" in of_file
    assert {"fixmatch", "Hard", "Soft"} <= set(of_file.split())
    of_package = walked[0]["qgbench methods"]
    assert "package lab 0.1" in of_package
    assert {"fixmatch", "hard_labels", "soft_labels"} <= set(of_package.split())
    assert "Soft labels of an averaged teacher" in only(walked[0], "methods soft_labels")
    assert "two convolutions" in only(walked[0], "archs tiny")


def test_the_package_gives_its_methods_to_every_process(
    walked: tuple[dict[str, str], Path], call: Call, typed: Call, home: Path
) -> None:
    """The spec of the dry run is enough for another process, elsewhere; an edited module is no longer the same run."""
    printed, desk = walked
    planned = json.loads(only(printed, "--method hard_labels", "--dry-run"))
    assert planned["spec"]["method"] == "hard_labels"
    assert planned["spec"]["source"] == planned["spec"]["arch_source"] != planned["spec"]["addon_source"] != ""
    elsewhere = desk / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "spec.json").write_text(json.dumps(planned["spec"]))
    code = (
        "from pathlib import Path; from qgbench.run.carry_out import describe;"
        "from qgbench.spec.run_spec import RunSpec; from qgbench.spec.task import Task;"
        "print(describe(RunSpec.model_validate_json(Path('spec.json').read_text()), Task())['id'])"
    )
    assert call(elsewhere, "python", "-c", code) == f"{planned['id']}\n"
    with (desk / "package" / "lab.py").open("a") as file:
        file.write("\n# changed\n")
    install(home, desk / "package")
    words = shlex.split(next(line for line in printed if "--method hard_labels" in line))
    changed = json.loads(typed(desk, *words[1:]))
    assert changed["id"] != planned["id"]
