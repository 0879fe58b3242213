"""What the driver makes of jobs that end well, badly, or not at all. The engine is scripted; the folders are real."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Self

import pytest

from qgbench.launch.drive import Drive, drive
from qgbench.launch.executor import Ending, Executor, Request
from qgbench.launch.job import NOT_NOW, Job
from qgbench.launch.plan import Plan
from qgbench.run.folder import RunFolder
from qgbench.spec.run_spec import RunSpec

SPEC = RunSpec(
    protocol="smoke",
    dataset="phantom",
    regime="n12@grouped",
    method="supervised",
    arch="unet",
    encoder="tf_efficientnet_lite0",
    seed=0,
    precision="bf16",
    device="cpu",
    threads=1,
)
Act = Callable[[Job], Ending | None]


class Scripted(Executor):
    """Does each job at once, as `act` says, and remembers what it was handed, call by call."""

    def __init__(self, act: Act, slots: int | None = 2, queues: bool = False) -> None:
        self.act, self.slots, self.queues = act, slots, queues
        self.calls: list[list[str]] = []
        self.stopped = 0
        self._endings: dict[str, Ending] = {}

    @classmethod
    def start(cls, request: Request) -> Self:
        return cls(lambda job: None)

    def submit(self, jobs: Sequence[Job]) -> None:
        self.calls.append([job.name for job in jobs])
        for job in jobs:
            if (ending := self.act(job)) is not None:
                self._endings[job.name] = ending

    def alive(self) -> set[str]:
        return set()

    def endings(self) -> dict[str, Ending]:
        ended, self._endings = self._endings, {}
        return ended

    def stop(self) -> None:
        self.stopped += 1

    @property
    def order(self) -> list[str]:
        return [name for call in self.calls for name in call]


def finish(job: Job) -> None:
    job.folder.path.mkdir(parents=True, exist_ok=True)
    job.folder.set_status("done")


def make_plan(output: Path, *jobs: tuple[str, str, tuple[str, ...]]) -> Plan:
    made = tuple(
        Job.model_validate({"kind": kind, "name": name, "spec": SPEC, "output": output, "needs": needs})
        for kind, name, needs in jobs
    )
    return Plan(suite="s", question="?", jobs=made, blocks={job.name: "core" for job in made if job.kind == "run"})


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(
        tmp_path,
        ("data", "d", ()),
        ("run", "base", ("d",)),
        ("g", "g0", ("d",)),
        ("run", "qw", ("d", "g0")),
        ("run", "other", ("d",)),
    )


def test_jobs_begin_in_order_once_what_they_need_is_done_and_no_more_at_a_time_than_there_are_slots(plan: Plan) -> None:
    engine = Scripted(lambda job: finish(job))
    found = drive(plan, engine, poll=0)
    assert engine.calls == [["d"], ["base", "g0"], ["qw", "other"]]
    assert set(found.states.values()) == {"done"}
    assert engine.stopped == 1
    again = Scripted(lambda job: finish(job))
    drive(plan, again, poll=0)
    assert again.calls == []


def test_an_engine_that_queues_gets_everything_at_once(plan: Plan) -> None:
    engine = Scripted(lambda job: finish(job), slots=None, queues=True)
    drive(plan, engine, poll=0)
    assert engine.calls == [["d", "base", "g0", "qw", "other"]]


def test_one_failure_stops_only_what_needs_it_and_retry_begins_both_again(plan: Plan) -> None:
    def act(job: Job) -> Ending | None:
        finish(job)
        if job.name == "g0":
            job.folder.set_status("failed", "the loss is not finite\nat step 3")
            return Ending(1, "")
        return None

    engine = Scripted(act)
    found = drive(plan, engine, poll=0)
    assert found.states == {"d": "done", "base": "done", "g0": "failed", "qw": "failed", "other": "done"}
    assert found.causes["g0"] == "the loss is not finite\nat step 3"
    assert "g on phantom" in found.causes["qw"]
    assert "qw" not in engine.order
    assert RunFolder(plan.jobs[3].output / "qw").status() is None, "it was never begun, so nothing is held against it"

    unasked = Scripted(lambda job: finish(job))
    drive(plan, unasked, poll=0)
    assert unasked.order == [], "what failed is left alone by run"
    asked = Scripted(lambda job: finish(job))
    assert not drive(plan, asked, retry=True, poll=0).failed
    assert asked.order == ["g0", "qw"]


def test_a_lost_job_is_handed_out_three_times_and_then_failed_with_what_the_engine_knows(plan: Plan) -> None:
    def act(job: Job) -> Ending | None:
        if job.name != "base":
            finish(job)
            return None
        job.folder.path.mkdir(parents=True, exist_ok=True)
        job.folder.set_status("running")  # and no lock is held: its process is gone
        return Ending(-9, "its process was killed by SIGKILL (out of memory?)")

    engine = Scripted(act)
    found = drive(plan, engine, poll=0)
    assert engine.order.count("base") == 3
    assert found.states["base"] == "failed"
    assert found.states["other"] == "done"
    cause = plan.jobs[1].folder.cause()
    assert cause.startswith("ended 3 times without a result")
    assert "SIGKILL" in cause


def test_a_job_that_was_lost_once_and_then_ends_well_is_done(plan: Plan) -> None:
    deaths = ["base"]

    def act(job: Job) -> Ending | None:
        if job.name in deaths:
            deaths.remove(job.name)
            return None
        finish(job)
        return None

    found = drive(plan, Scripted(act), poll=0)
    assert set(found.states.values()) == {"done"}


def test_a_refusal_that_could_not_write_its_status_is_not_tried_again(plan: Plan) -> None:
    def act(job: Job) -> Ending | None:
        if job.name == "base":
            return Ending(2, "error: cannot write the folder")
        finish(job)
        return None

    engine = Scripted(act)
    found = drive(plan, engine, poll=0)
    assert engine.order.count("base") == 1
    assert found.causes["base"] == "error: cannot write the folder"


def test_a_job_that_somebody_else_is_at_is_waited_for_and_never_handed_out(plan: Plan) -> None:
    base = plan.jobs[1].folder
    looks = 0

    def on_change(found: Drive) -> None:
        nonlocal looks
        looks += 1
        if looks == 6:
            assert found.states["base"] == "elsewhere"
            base.set_status("done")

    engine = Scripted(lambda job: finish(job))
    with base.locked():
        base.set_status("running")
        found = drive(plan, engine, on_change=on_change, poll=0)
    assert "base" not in engine.order
    assert found.states["base"] == "done"


def test_a_job_that_finds_somebody_else_at_it_is_not_counted_as_lost(plan: Plan) -> None:
    tries = 0

    def act(job: Job) -> Ending | None:
        nonlocal tries
        if job.name == "base":
            tries += 1
            if tries <= 5:
                return Ending(NOT_NOW, "another process is at this run")
        finish(job)
        return None

    assert drive(plan, Scripted(act), poll=0).states["base"] == "done"


def test_when_time_is_over_jobs_are_asked_to_end_and_are_not_called_failed(plan: Plan) -> None:
    engine = Scripted(lambda job: None)
    found = drive(plan, engine, max_hours=0, poll=0)
    assert engine.calls == []
    assert engine.stopped == 1
    assert found.stopped == "0 hours are over"
    assert not found.failed


def test_a_disk_that_runs_full_stops_the_handing_out_and_says_so(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    def act(job: Job) -> None:
        finish(job)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100 * 2**20))

    engine = Scripted(act)
    found = drive(plan, engine, poll=0)
    assert engine.order == ["d"]
    assert "100.0 MiB left" in found.stopped
    assert not found.failed


def test_an_engine_that_raises_is_stopped(plan: Plan) -> None:
    def act(job: Job) -> None:
        raise RuntimeError("no answer")

    engine = Scripted(act)
    with pytest.raises(RuntimeError, match="no answer"):
        drive(plan, engine, poll=0)
    assert engine.stopped == 1
