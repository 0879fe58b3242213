"""The list of runs and one run in full, from folders made by hand."""

import io
import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from rich.console import Console

from qgbench.base.errors import QGBenchError, UserError
from qgbench.report.runs import find_run, print_run, print_runs
from qgbench.run.folder import RunFolder, Status, find_runs
from qgbench.spec.run_spec import RunSpec
from tests.report.test_report import GROUP_DICE, make_record


def make_run(
    output: Path,
    name: str,
    status: Status | None,
    *,
    steps: tuple[int, ...] = (),
    age: float = 0.0,
    done: bool = False,
    **spec: Any,
) -> RunFolder:
    """Write a run's folder; `age` in seconds, `steps` those that are in the log."""
    folder = RunFolder(output / name)
    if done:
        made = make_record(output, GROUP_DICE, method=name)
        made.parent.rename(folder.path)
    fields = {
        "protocol": "smoke",
        "dataset": "phantom",
        "regime": "n12@grouped",
        "method": "fixmatch",
        "arch": "unet",
        "encoder": "tf_efficientnet_lite0",
        "seed": 3,
        "precision": "bf16",
        "device": "cpu",
        "threads": 2,
    }
    folder.set_spec(RunSpec.model_validate(fields | spec))
    if status is not None:
        folder.set_status(status)
        os.utime(folder.path / "status", (time.time() - age,) * 2)
    folder.set_log([{"step": step, "total": 1.0 / step} for step in steps])
    return folder


def listed(folders: list[RunFolder], width: int = 80) -> str:
    file = io.StringIO()
    print_runs(folders, Console(file=file, width=width))
    return file.getvalue()


def shown(folder: RunFolder, width: int = 80) -> str:
    file = io.StringIO()
    print_run(folder, Console(file=file, width=width))
    return file.getvalue()


def rows(text: str) -> dict[str, list[str]]:
    """Cells of each row of a wide table, by the first."""
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]
    return {row[0]: row[1:] for row in cells}


def test_a_row_has_status_scores_and_age(tmp_path: Path) -> None:
    make_run(tmp_path, "finished", "done", done=True, age=3 * 86400 + 5)
    make_run(tmp_path, "stopped", "interrupted", steps=(1, 11), age=2 * 3600 + 5)
    make_run(tmp_path, "broken", "failed", steps=(1,), age=61)
    make_run(tmp_path, "fresh", None)
    table = rows(listed(find_runs(tmp_path), 140))
    # The mean of GROUP_DICE is 0.715; every image has an HD95 of 5 pixels.
    assert table["finished"] == ["done", "71.50", "5.00", "3 d"]
    assert table["stopped"] == ["interrupted 11/24", "--", "--", "2 h"]
    assert table["broken"] == ["failed 1/24", "--", "--", "1 min"]
    assert table["fresh"] == ["not started 0/24", "--", "--", ""]


def test_a_run_with_a_process_at_it_shows_its_steps_and_one_without_was_interrupted(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "now", "running", steps=(1, 11, 21), overrides={"train.steps": 40})
    with FileLock(folder.path / ".lock"):
        assert rows(listed([folder], 140))["now"][0] == "running 21/40"
    assert rows(listed([folder], 140))["now"][0] == "interrupted 21/40"


def test_the_run_changed_last_comes_last(tmp_path: Path) -> None:
    for name, age in (("a", 10), ("b", 5000), ("c", 100)):
        make_run(tmp_path, name, "interrupted", age=age)
    assert list(rows(listed(find_runs(tmp_path), 140))) == ["b", "c", "a"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (12.2, "12 s"),
        (59.2, "59 s"),
        (300.5, "5 min"),
        (3599.2, "59 min"),
        (3600.5, "1 h"),
        (86399.2, "23 h"),
        (86400.5, "1 d"),
        (40 * 86400 + 1, "40 d"),
        (-30, "0 s"),
    ],
)
def test_age(tmp_path: Path, seconds: float, text: str) -> None:
    assert rows(listed([make_run(tmp_path, "a", "done", age=seconds)], 140))["a"][-1] == text


@pytest.mark.parametrize("width", [60, 80, 140])
def test_no_id_is_cut(tmp_path: Path, width: int) -> None:
    name = "smoke-phantom-n12+some_pool@grouped-unet-pseudo_label+qw-shuffled-qg.tau=0.6-k0-12fa6733"
    make_run(tmp_path, name, "done", done=True)
    (tmp_path / name / "log.jsonl").write_text('{"st')
    lines = listed(find_runs(tmp_path), width).splitlines()
    assert any(name in line for line in lines[:-1])
    assert any("71.50" in line for line in lines)
    assert lines[-1].startswith(f"note: {name}: log.jsonl is damaged: ")


def test_damaged_runs_are_listed_with_the_cause(tmp_path: Path) -> None:
    for name in ("log", "record", "rows", "config", "bytes", "gone"):
        make_run(tmp_path, name, "done" if name != "log" else "failed", done=name != "log", steps=(1,))
    (tmp_path / "log" / "log.jsonl").write_text('{"step": 1}\n{"st')
    (tmp_path / "record" / "record.json").write_text('{"schema')
    (tmp_path / "rows" / "images.csv").unlink()
    (tmp_path / "config" / "config.json").write_text("[]")
    (tmp_path / "bytes" / "log.jsonl").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "gone" / "record.json").unlink()
    make_run(tmp_path, "sound", "done", done=True)
    flat = re.sub(r"\s+", " ", listed(find_runs(tmp_path), 200).replace("│", " "))
    for name, cause in (
        ("log failed -- -- 0 s", "note: log: log.jsonl is damaged: "),
        ("record done -- -- 0 s", "note: record: the record is damaged: record.json is not a record"),
        ("rows done -- -- 0 s", "note: rows: the record is damaged: images.csv cannot be read"),
        ("config done 71.50 5.00 0 s", "note: config: config.json is missing or damaged"),
        ("bytes done 71.50 5.00 0 s", "note: bytes: log.jsonl is damaged: "),
        ("gone done -- -- 0 s", "note: gone: status says done, but there is no record.json"),
    ):
        assert name in flat
        assert cause in flat
    assert "sound done 71.50 5.00 0 s" in flat
    assert flat.count("note:") == 6


def test_brackets_of_a_folder_are_no_markup(tmp_path: Path) -> None:
    assert "[red]mine" in listed([make_run(tmp_path, "[red]mine", "done")], 140)


def test_no_runs_says_how_to_start_one() -> None:
    text = listed([])
    assert len(text.splitlines()) == 1
    assert "qgbench run --method fixmatch" in text


NAMES = ["small-phantom-fixmatch-k0-aaaa", "small-phantom-fixmatch-k0-aaaa~2", "small-phantom-supervised-k0-bbbb"]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    for name in NAMES:
        make_run(tmp_path, name, "done")
    return tmp_path


@pytest.mark.parametrize(
    ("given", "found"),
    [(NAMES[0], 0), (NAMES[1], 1), ("~2", 1), ("small-phantom-s", 2), ("supervised", 2), ("bbbb", 2)],
)
def test_a_run_is_found_by_its_id_or_a_part_of_it(output: Path, given: str, found: int) -> None:
    assert find_run(output, given).name == NAMES[found]


def test_a_beginning_wins_over_other_parts(output: Path) -> None:
    make_run(output, "phantom-first", "done")
    assert find_run(output, "phantom").name == "phantom-first"


def test_a_run_is_found_by_its_folder(
    output: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    assert find_run(elsewhere, str(output / NAMES[2])).name == NAMES[2]
    monkeypatch.chdir(output / NAMES[2])
    assert find_run(elsewhere, ".").name == NAMES[2]


def test_an_ambiguous_name_lists_at_most_ten_candidates(output: Path) -> None:
    with pytest.raises(UserError, match="fits 2 runs") as raised:
        find_run(output, "fixmatch")
    assert NAMES[0] in str(raised.value)
    assert NAMES[1] in str(raised.value)
    assert NAMES[2] not in str(raised.value)
    for index in range(12):
        make_run(output, f"other-{index:02d}", "done")
    with pytest.raises(UserError, match="fits 12 runs") as raised:
        find_run(output, "other")
    assert str(raised.value).count("other-") == 10
    assert "and 2 more" in str(raised.value)


@pytest.mark.parametrize(("given", "nearest"), [("fixmach-k0", 0), ("supervized", 2), ("supervised-k1-bbbb", 2)])
def test_an_unknown_name_is_answered_with_the_nearest(output: Path, given: str, nearest: int) -> None:
    with pytest.raises(UserError, match="no run") as raised:
        find_run(output, given)
    assert str(raised.value).splitlines()[1].strip() == NAMES[nearest]


def test_a_folder_without_runs_and_no_folder_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no runs"):
        find_run(tmp_path, "a")
    with pytest.raises(QGBenchError, match="there is no folder"):
        find_run(tmp_path / "absent", "a")


def test_a_finished_run_is_shown_in_full(tmp_path: Path) -> None:
    folder = make_run(
        tmp_path,
        "mine",
        "done",
        done=True,
        steps=(1, 11, 21),
        age=130,
        qg_mode="qw",
        overrides={"method.threshold": 0.9},
    )
    lines = [f"2026-01-01T00:00:{second:02d}Z INFO [bold]line {second}.[/bold]" for second in range(30)]
    (folder.path / "run.log").write_text("\n".join(lines) + "\n")
    (folder.path / "cases.png").write_bytes(b"")
    text = shown(folder, 120)
    for fact in (
        r"status +done, 2 min ago",
        r"method +fixmatch",
        r"add-on +qw",
        r"data set +phantom",
        r"regime +n12@grouped",
        r"arch +unet, encoder tf_efficientnet_lite0",
        r"seed +3",
        r"protocol +smoke v3",
        r"settings +method.threshold=0.9",
    ):
        assert re.search(fact, text), fact
    assert re.search(r"Dice +│ +71.50 % │ mean over 16 test images, not over their 8 groups", text)
    assert lines[15] in text  # the last fifteen, markup as it was written
    assert lines[29] in text
    assert lines[14] not in text
    flat = text.replace("\n", "")
    assert str(folder.path / "record.json") in flat
    assert str(folder.path / "cases.png") in flat
    assert "continues" not in text


@pytest.mark.parametrize("status", ["interrupted", "failed"])
def test_an_unfinished_run_is_shown_with_what_continues_it(tmp_path: Path, status: Status) -> None:
    text = shown(make_run(tmp_path, "mine", status, steps=(1, 11)))
    assert f"{status} 11/24" in text
    assert "continues it" in text
    assert "record.json" not in text
    assert "cases.png" not in text


def test_a_damaged_run_is_shown_as_far_as_it_goes(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "mine", "done", done=True)
    (folder.path / "log.jsonl").write_text(json.dumps({"step": 1}) + "\n[1, 2]\n{")
    (folder.path / "record.json").write_text("{}")
    (folder.path / "config.json").unlink()
    text = re.sub(r"\s+", " ", shown(folder))
    assert "note: config.json is missing or damaged" in text
    assert "note: log.jsonl is damaged" in text
    assert "note: the record is damaged" in text
