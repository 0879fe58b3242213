"""The folder of a run: status, lock, places."""

import json
import multiprocessing
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from qgbench.base.errors import QGBenchError
from qgbench.run.folder import RunFolder, find_runs, place_for
from qgbench.run.record import RECORD_NAME
from qgbench.spec.run_spec import RunSpec


def spec(**changes: object) -> RunSpec:
    known = {"protocol": "smoke", "dataset": "phantom", "regime": "n12", "method": "fixmatch", "arch": "unet"}
    known |= {"encoder": "tf_efficientnet_lite0", "seed": 0, "precision": "bf16", "device": "cpu", "threads": 2}
    return RunSpec.model_validate(known | changes)


def hold(path: Path, seconds: float) -> None:
    with RunFolder(path).locked():
        (path / "held").write_text("")
        time.sleep(seconds)
        (path / "let_go").write_text("")


def started(path: Path) -> RunFolder:
    folder = RunFolder(path)
    folder.set_spec(spec())
    folder.set_status("running")
    return folder


def wait_for(path: Path) -> None:
    begin = time.monotonic()
    while not path.exists():
        assert time.monotonic() - begin < 60
        time.sleep(0.02)


def test_a_second_process_waits_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "qgbench")
    folder = started(tmp_path / "run")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        other = pool.submit(hold, folder.path, 1.5)
        wait_for(folder.path / "held")
        assert folder.is_locked()
        assert folder.status() == "running"
        assert not (folder.path / "let_go").exists()
        with folder.locked():
            assert (folder.path / "let_go").exists()
        other.result()
    assert "another process is at this run" in caplog.text


def test_a_run_whose_process_was_killed_counts_as_interrupted(tmp_path: Path) -> None:
    folder = started(tmp_path / "run")
    process = multiprocessing.get_context("spawn").Process(target=hold, args=(folder.path, 600.0))
    process.start()
    wait_for(folder.path / "held")
    assert process.pid is not None
    (folder.path / ".last.pt.0123.partial").write_text("half of it")
    assert folder.status() == "running"
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert folder.status() == "interrupted"
    with folder.locked():
        assert not list(folder.path.glob(".*.partial"))


@pytest.mark.parametrize("status", ["interrupted", "failed", "done"])
def test_status_is_what_was_written(tmp_path: Path, status: str) -> None:
    folder = RunFolder(tmp_path / "run")
    assert folder.status() is None
    folder.set_status(status)  # type: ignore[arg-type]  # parametrised names are plain text
    assert folder.status() == status


def test_a_run_with_a_record_is_done_whatever_its_status_says(tmp_path: Path) -> None:
    folder = started(tmp_path / "run")
    (folder.path / RECORD_NAME).write_text("{}")
    assert folder.status() == "done"
    with pytest.raises(QGBenchError, match="is not a record"):
        folder.record()


def test_spec_and_log_come_back(tmp_path: Path) -> None:
    folder = started(tmp_path / "run")
    assert folder.spec() == spec()
    assert folder.log() == []
    entries = [{"step": 1, "total": 0.5}, {"step": 2, "val_q": None}]
    folder.set_log(entries)
    assert folder.log() == entries
    assert json.loads((folder.path / "config.json").read_text())["method"] == "fixmatch"
    (folder.path / "config.json").write_text("{")
    assert folder.spec() is None


def test_runs_are_found_by_their_config(tmp_path: Path) -> None:
    started(tmp_path / "b")
    started(tmp_path / "a")
    (tmp_path / "predictors" / "g").mkdir(parents=True)
    assert [folder.name for folder in find_runs(tmp_path)] == ["a", "b"]
    with pytest.raises(QGBenchError, match="there is no folder"):
        find_runs(tmp_path / "absent")


def test_the_last_repetition_counts_and_force_begins_another(tmp_path: Path) -> None:
    one = spec()
    assert place_for(tmp_path, one, False).name == one.id
    assert place_for(tmp_path, one, True).name == one.id
    for number, name in enumerate((one.id, f"{one.id}~2"), 2):
        (tmp_path / name).mkdir()
        (tmp_path / name / RECORD_NAME).write_text("{}")
        assert place_for(tmp_path, one, False).name == name
        assert place_for(tmp_path, one, True).name == f"{one.id}~{number}"
    # One that was interrupted is continued, not passed over.
    started(tmp_path / f"{one.id}~3")
    assert {place_for(tmp_path, one, force).name for force in (False, True)} == {f"{one.id}~3"}


def test_a_file_in_the_place_of_the_folder_is_one_clear_message(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(QGBenchError, match=r"cannot write .*--output"), RunFolder(tmp_path / "runs" / "one").locked():
        pass


def test_threads_precision_device_processes_and_source_are_in_the_id() -> None:
    ids = {
        spec().id,
        spec(threads=1).id,
        spec(precision="fp32").id,
        spec(device="cuda").id,
        spec(processes=2).id,
        spec(source="0" * 64).id,
    }
    assert len(ids) == 6
