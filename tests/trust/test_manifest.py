import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qgbench.base.errors import UserError
from qgbench.trust.manifest import MANIFEST_NAME, differing_files, enter, write_manifest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for name in ("v2/a/seed0.json", "v2/a/seed0.csv", "v2/b/seed0.json", "claims/paper.toml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    write_manifest(tmp_path)
    return tmp_path


def found(*folders: Path) -> list[tuple[str, str]]:
    return [(fault.path.name, fault.text) for fault in differing_files(folders)]


def test_what_was_edited_added_and_removed_is_named(results: Path) -> None:
    assert found(results) == found(results / "v2") == []
    (results / "v2/a/seed0.csv").write_text("better")
    (results / "v2/b/seed0.json").unlink()
    (results / "v2/b/seed1.json").write_text("new")
    edited = ("seed0.csv", "edited since it was entered")
    removed, added = (
        ("seed0.json", "removed since it was entered"),
        ("seed1.json", f"{MANIFEST_NAME} has no entry of it"),
    )
    assert found(results) == found(results.parent) == found(results, results / "v2") == [edited, removed, added]
    assert found(results / "v2/a") == [edited]
    assert found(results / "claims") == []
    write_manifest(results)
    assert found(results) == []


def test_what_is_entered_is_no_difference_and_nothing_else_is_believed(results: Path) -> None:
    (results / "v2/a/seed0.csv").write_text("better")
    (results / "v2/b/seed1.json").write_text("new")
    enter([results / "v2/b/seed1.json"])
    assert found(results) == [("seed0.csv", "edited since it was entered")]


def test_what_several_processes_enter_at_a_time_is_all_there(results: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from qgbench.trust.manifest import enter\n"
        "sys.stdin.readline()\n"
        "for file in sorted(Path(sys.argv[1]).glob(sys.argv[2])): enter([file])"
    )
    for process in range(3):
        for number in range(20):
            (results / f"v2/p{process}n{number}.json").write_text(f"{process} {number}")
    command = [sys.executable, "-c", script, str(results / "v2")]
    running = [
        subprocess.Popen([*command, f"p{process}n*.json"], stdin=subprocess.PIPE, text=True) for process in range(3)
    ]
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert found(results) == []
    assert {file.name for file in results.iterdir()} == {"v2", "claims", MANIFEST_NAME}, "no lock stays behind"


def test_without_a_manifest_nothing_is_entered_or_found(tmp_path: Path) -> None:
    (tmp_path / "seed0.json").write_text("")
    enter([tmp_path / "seed0.json"])
    assert (found(tmp_path), [file.name for file in tmp_path.iterdir()]) == ([], ["seed0.json"])


def test_a_damaged_manifest_is_named(results: Path) -> None:
    (results / MANIFEST_NAME).write_text("hello\n")
    ((name, text),) = found(results)
    assert name == MANIFEST_NAME
    assert "is damaged" in text


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs sha256sum")
def test_sha256sum_reads_it(results: Path) -> None:
    check = ["sha256sum", "--check", "--quiet", MANIFEST_NAME]
    assert subprocess.run(check, cwd=results, check=False).returncode == 0
    (results / "claims/paper.toml").write_text("other")
    assert subprocess.run(check, cwd=results, check=False, capture_output=True).returncode == 1


def test_the_command_writes_it_anew_and_says_what_is_wrong(results: Path) -> None:
    before = (results / MANIFEST_NAME).read_bytes()
    (results / MANIFEST_NAME).unlink()
    command = [sys.executable, "-m", "qgbench.trust.manifest"]
    subprocess.run([*command, str(results)], check=True)
    assert (results / MANIFEST_NAME).read_bytes() == before
    ran = subprocess.run([*command, str(results / "nowhere")], check=False, capture_output=True, text=True)
    assert (ran.returncode, "Traceback" in ran.stderr) == (1, False)
    with pytest.raises(UserError, match="Give the folder of submitted results"):
        write_manifest(results / "nowhere")


def test_the_committed_results_are_those_that_were_entered() -> None:
    assert found(ROOT / "results") == []
