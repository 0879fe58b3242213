"""Slots of this machine: how many there are, what a job in one of them sees, and how its process ended."""

import json
import multiprocessing
import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from qgbench.base.errors import UserError
from qgbench.cli.main import app
from qgbench.launch import local
from qgbench.launch.executor import Ending
from qgbench.launch.local import LocalExecutor, processor_slots
from tests.launch.test_drive import make_plan

_FORK = multiprocessing.get_context("fork")  # of this process, so that its `main` is the one below


@pytest.mark.parametrize(
    ("threads", "memory", "cores", "available", "slots"),
    [
        (1, None, 2, 100.0, 2),  # nothing is known of the memory
        (2, None, 2, 100.0, 1),
        (3, None, 8, 100.0, 2),
        (4, None, 2, 100.0, 1),  # more threads than cores: one at a time
        (1, 2000.0, 8, 10_000.0, 4),
        (1, 2000.0, 8, 1000.0, 1),
    ],
)
def test_as_many_runs_go_side_by_side_as_cores_and_memory_carry(
    threads: int, memory: float | None, cores: int, available: float, slots: int
) -> None:
    assert processor_slots(threads, memory, cores, available) == slots


def test_slots_that_are_asked_for_are_given_whatever_the_cores(tmp_path: Path) -> None:
    words = ["suite", "plan", "smoke", "--only", "controls", "--slots", "7", "--output", str(tmp_path / "runs")]
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0
    assert "2 runs, 3 jobs to do, 7 side by side on this machine" in result.output
    assert len(result.output.splitlines()) < 15, "a plan is short"
    listed = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*words, "--all"], catch_exceptions=False).output
    assert len(re.findall(r"^ fixmatch.* seed [01] +controls ", listed, re.MULTILINE)) == 2
    assert listed.endswith(result.output)
    assert not (tmp_path / "runs").exists(), "a plan leaves nothing behind"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_suite_can_be_planned_for_gpus_elsewhere_and_is_not_begun_where_every_run_would_fail(tmp_path: Path) -> None:
    def suite(*words: str) -> Result:
        return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["suite", *words, "--output", str(tmp_path / "runs")])

    few = ["smoke", "--only", "controls", "--device", "cuda"]
    assert "3 jobs to do, one at a time" in suite("plan", *few).output
    assert "3 jobs to do, 2 side by side" in suite("plan", *few, "--slots", "2").output
    absent, unable = suite("run", *few).exception, suite("run", "paper", "--only", "supervised on ph2").exception
    assert isinstance(absent, UserError)
    assert "--device cuda: this machine has 'cpu'" in str(absent)
    assert isinstance(unable, UserError)
    assert "the suite paper trains in fp16, which needs a GPU" in str(unable)
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder in which each job says what it sees, and works until a file named after it appears."""

    def main(text: str) -> int:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a fork keeps the handler of this process, if it has one
        name = json.loads(text)["name"]
        (tmp_path / f"{name}.begun").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
        while not (tmp_path / name).exists():
            time.sleep(0.01)
        os.write(2, b"no luck\n")
        return 1

    monkeypatch.setattr(local, "main", main)
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: _FORK)
    return tmp_path


def wait(file: Path) -> str:
    """What a job saw, once it has begun."""
    end = time.monotonic() + 60
    while not file.exists() or not file.read_text():
        assert time.monotonic() < end
        time.sleep(0.01)
    return file.read_text()


def test_each_job_sees_the_gpu_of_its_slot_alone_and_says_how_it_ended(place: Path) -> None:
    first, second, third = make_plan(place / "runs", ("run", "a", ()), ("run", "b", ()), ("run", "c", ())).jobs
    executor = LocalExecutor(["3", "5"])
    assert executor.slots == 2
    executor.submit([first, second])
    assert (wait(place / "a.begun"), wait(place / "b.begun")) == ("3", "5")
    assert executor.alive() == {"a", "b"}
    (place / "a").touch()
    end = time.monotonic() + 60
    while "a" in executor.alive():
        assert time.monotonic() < end
    assert executor.endings() == {"a": Ending(1, "no luck")}
    executor.submit([third])
    assert wait(place / "c.begun") == "3", "the slot that is free again"
    executor.stop()
    assert executor.alive() == set()
    text = "its process was killed by SIGTERM"
    assert executor.endings() == {name: Ending(-signal.SIGTERM, text) for name in ("b", "c")}
