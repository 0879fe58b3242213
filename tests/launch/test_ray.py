"""Suites on a real Ray of this machine: the same numbers as with the local executor, whatever is lost on the way."""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from filelock import FileLock

from qgbench.base.errors import QGBenchError, UserError
from qgbench.launch import ray as module
from qgbench.launch.drive import Drive, drive
from qgbench.launch.job import NOT_NOW, Job
from qgbench.launch.local import LocalExecutor
from qgbench.launch.plan import Plan, make_plan
from qgbench.launch.ray import RayExecutor, task_options
from qgbench.run.record import IMAGES_NAME, read_record
from qgbench.spec.suite import load_suite
from tests.commands import small_data

ray = pytest.importorskip("ray", reason="needs the extra: pip install 'qgbench[ray]'")
pytestmark = pytest.mark.slow

_SUITE = """
name = "tiny"
about = "three runs that share g, and one whose images are nowhere"
protocol = "smoke"
threads = 1

[[block]]
name = "core"
rows = ["supervised", "supervised+qar", "fixmatch+qw"]
seeds = [0]
set = {{ "train.steps" = 6, "quality.steps" = 4, "quality.weak_epochs" = [1] }}

[block.regimes]
{data!r} = ["n6@grouped"]

[[block]]
name = "absent"
rows = ["supervised"]
seeds = [0]

[block.regimes]
kvasir_seg = ["n6@grouped"]
"""


def tiny_plan(folder: Path, mine: Path) -> Plan:
    """The plan of `_SUITE` in a folder of its own, with a data folder that is empty."""
    (folder / "data").mkdir(parents=True)
    (folder / "tiny.toml").write_text(_SUITE.format(data=str(mine)))
    plan = make_plan(load_suite(str(folder / "tiny.toml")), folder / "runs", folder / "data", "cpu")
    plan.save(folder / "runs")
    return plan


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_data(tmp_path_factory.mktemp("pictures") / "mine")


@pytest.fixture(scope="module")
def by_processes(tmp_path_factory: pytest.TempPathFactory, mine: Path) -> tuple[Plan, Drive]:
    plan = tiny_plan(tmp_path_factory.mktemp("local"), mine)
    return plan, drive(plan, LocalExecutor(["", ""]), poll=0.2)


@pytest.fixture(scope="module")
def by_ray(tmp_path_factory: pytest.TempPathFactory, mine: Path) -> tuple[Plan, Drive]:
    plan = tiny_plan(tmp_path_factory.mktemp("ray"), mine)
    return plan, drive(plan, RayExecutor(), poll=0.2)


def core(plan: Plan) -> list[Job]:
    return [job for job in plan.runs if plan.blocks[job.name] == "core"]


def assert_equal_numbers(plan: Plan, judge: Plan) -> None:
    assert [job.name for job in core(plan)] == [job.name for job in core(judge)]
    for ours, theirs in zip(core(plan), core(judge), strict=True):
        assert (ours.folder.path / IMAGES_NAME).read_bytes() == (theirs.folder.path / IMAGES_NAME).read_bytes()
        one, other = read_record(ours.folder.path), read_record(theirs.folder.path)
        assert one.summary == other.summary
        assert one.provenance.g == other.provenance.g


def test_a_local_ray_gives_the_numbers_of_local_processes(
    by_ray: tuple[Plan, Drive], by_processes: tuple[Plan, Drive]
) -> None:
    plan, found = by_ray
    assert {found.states[job.name] for job in core(plan)} == {"done"}
    assert_equal_numbers(plan, by_processes[0])
    (g,) = {read_record(job.folder.path).provenance.g for job in core(plan)} - {None, ""}
    assert (plan.jobs[0].output / "predictors" / str(g)).is_dir()  # one for the two that need it


def test_a_failed_job_is_reported_with_its_cause_and_stops_no_other(
    by_ray: tuple[Plan, Drive], by_processes: tuple[Plan, Drive]
) -> None:
    plan, found = by_ray
    absent = [job for job in plan.jobs if "kvasir_seg" in job.name]
    assert sorted(found.failed) == sorted(job.name for job in absent)
    data, run = (next(job for job in absent if job.kind == kind) for kind in ("data", "run"))
    # The cause as the local executor gives it, but for the folder's name.
    causes = [
        each.causes[data.name].replace(str(where.jobs[0].data_dir), "DATA")
        for where, each in ((plan, found), by_processes)
    ]
    assert causes[0] == causes[1]
    assert "kvasir_seg" in causes[0]
    assert "failed" in found.causes[run.name]
    assert run.folder.status() != "done"


def test_a_ray_of_our_own_is_gone_afterwards(by_ray: tuple[Plan, Drive]) -> None:
    assert not ray.is_initialized()
    assert not [child for child in psutil.Process().children(recursive=True) if "raylet" in child.name()]


class _NodeKiller:
    """Kills a node of a cluster while a run trains on it, and holds the run as a process that outlived it would."""

    def __init__(self, plan: Plan, cluster: Any, node: Any) -> None:
        self._plan = plan
        self._cluster = cluster
        self._node = node
        self._raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        self._replaced: float | None = None
        self._lock: FileLock
        self.victim: Job | None = None
        self.released = False

    def __call__(self, _: Drive) -> None:
        if self.victim is None:
            for job, _process in self._at_work(self._raylet.children()):
                if job.folder.status() == "running":
                    self.victim = job
                    self._lock = FileLock(job.folder.path / ".lock")
                    self._cluster.remove_node(self._node, allow_graceful=False)
                    self._lock.acquire(timeout=20)  # its process ends with the node, and the next is not there yet
                    return
        elif not self.released:
            replaced = any(job == self.victim for job, _process in self._at_work(psutil.process_iter()))
            if replaced and self._replaced is None:
                self._replaced = time.monotonic()
            if self._replaced is not None and time.monotonic() > self._replaced + 15:
                assert replaced, "it waits for the process that outlived its node"
                self._lock.release()
                self.released = True

    def _at_work(self, processes: Any) -> Iterator[tuple[Job, psutil.Process]]:
        for process in processes:
            try:
                title = " ".join(process.cmdline())
            except psutil.Error:
                continue
            for job in core(self._plan):
                if title.startswith(f"ray::{job.name}"):
                    yield job, process


def test_a_node_that_dies_in_mid_run_changes_no_number(
    tmp_path: Path, mine: Path, by_processes: tuple[Plan, Drive]
) -> None:
    from ray.cluster_utils import Cluster

    plan = tiny_plan(tmp_path, mine).only(["core"])
    size: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    settings = {"worker_niceness": 0}  # else its processes starve beside other tests
    head = {**size, "include_dashboard": False, "_system_config": settings}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        killer = _NodeKiller(plan, cluster, cluster.add_node(**size))
        found = drive(plan, RayExecutor(cluster.address), on_change=killer, poll=0.1)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert killer.victim is not None
    assert killer.released
    assert set(found.states.values()) == {"done"}
    assert_equal_numbers(plan, by_processes[0])
    words = [" ".join(line.split()[2:]) for line in killer.victim.folder.text_log() if " DEBUG " in line]
    begun = [line for line in words if line.startswith("process")]
    assert len(begun) == len(set(begun)) == 2
    assert words.count("done") == 1
    assert words[-1] == "done"


def test_stop_lets_a_run_save_its_state(tmp_path: Path, mine: Path) -> None:
    run = core(tiny_plan(tmp_path, mine))[0]
    spec = run.spec.model_copy(update={"overrides": run.spec.overrides | {"train.steps": 2000}})
    job = run.model_copy(update={"name": spec.id, "spec": spec, "needs": ()})
    executor = RayExecutor()
    try:
        executor.submit([job])
        wait_until(lambda: (job.folder.path / "run.log").exists(), 120, executor)
        time.sleep(2)
    finally:
        executor.stop()
    assert (job.folder.path / "status").read_text().strip() == "interrupted"  # its own word, as it ended
    assert (job.folder.path / "last.pt").is_file()
    assert executor.endings()[job.name].code == 128 + signal.SIGINT
    assert executor.alive() == set()


def wait_until(condition: Callable[[], bool], seconds: float, executor: RayExecutor) -> None:
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() < begin + seconds, executor.endings()
        executor.alive()
        time.sleep(0.1)


def test_jobs_that_follow_a_lost_one_are_given_back(
    tmp_path: Path, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(text: str, directory: str, *_: object) -> tuple[int, str]:
        with (Path(directory) / "begun").open("a") as file:
            file.write(text.split('"name":"')[1].split('"')[0] + "\n")
        if '"kind":"g"' in text:
            os.kill(os.getpid(), signal.SIGKILL)
        return 0, "here"

    monkeypatch.setattr(module, "carry_out_json", crash)
    monkeypatch.chdir(tmp_path)
    plan = tiny_plan(tmp_path / "plan", mine).only(["core"])
    executor = RayExecutor()
    try:
        executor.submit(plan.jobs)
        wait_until(lambda: not executor.alive(), 120, executor)
        endings = executor.endings()
    finally:
        executor.stop()
    begun = (tmp_path / "begun").read_text().split()
    (data,), (g,) = ([job.name for job in plan.jobs if job.kind == kind] for kind in ("data", "g"))
    assert begun[0] == data  # which all others need
    assert begun.count(g) == 3
    assert endings[g].code == 1
    assert "lost 3 times" in endings[g].text
    for job in plan.runs:
        assert begun.count(job.name) == (g not in job.needs)
        if g in job.needs:
            assert endings[job.name].code == NOT_NOW
        else:  # it says that it is done, and its folder is not there
            assert endings[job.name].code == 0
            assert "shared --output" in endings[job.name].text


def test_a_ray_that_goes_away_is_an_error_that_says_what_to_do(
    tmp_path: Path, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sleep(text: str, directory: str, *_: object) -> tuple[int, str]:
        time.sleep(600)
        return 0, ""

    monkeypatch.setattr(module, "carry_out_json", sleep)
    monkeypatch.setattr(module, "_SILENCE_SECONDS", 2.0)
    monkeypatch.setattr(module, "_SAVING_SECONDS", 2.0)
    executor = RayExecutor()
    try:
        executor.submit(tiny_plan(tmp_path, mine).jobs[:1])
        assert executor.alive()
        (head,) = [child for child in psutil.Process().children() if child.name() == "gcs_server"]
        head.kill()
        with pytest.raises(QGBenchError, match=r"went away .* give the same command again"):
            wait_until(lambda: False, 30, executor)
    finally:
        executor.stop()
    assert executor.alive() == set()


def test_an_address_that_does_not_answer_is_named_within_seconds() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and says nothing
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        begin = time.monotonic()
        with pytest.raises(QGBenchError, match=rf"{address} does not answer .*ray status") as caught:
            RayExecutor(address)
    assert time.monotonic() - begin < 25
    assert caught.value.exit_code == 1
    assert not ray.is_initialized()


def test_without_ray_the_pip_line_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'qgbench\[ray\]'"):
        RayExecutor()


def test_a_part_of_a_gpu_is_asked_for_by_jobs_that_train(
    tmp_path: Path, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = tiny_plan(tmp_path, mine).only(["core"])
    for job in plan.jobs:
        assert task_options(job, 0.5)["num_gpus"] == (0.0 if job.kind == "data" else 0.5)
        assert task_options(job, 0)["num_gpus"] == 0
        on_gpu = job.model_copy(update={"spec": job.spec.model_copy(update={"device": "cuda", "threads": 3})})
        assert task_options(on_gpu, 0)["num_gpus"] == (0.0 if job.kind == "data" else 1.0)
        assert task_options(on_gpu, 0)["num_cpus"] == 3
    with pytest.raises(UserError, match=r"--gpus 1\.5"):
        RayExecutor(gpus=1.5)
    executor = RayExecutor(gpus=99)
    try:
        executor.submit([job for job in plan.jobs if job.kind == "data"])
        with pytest.raises(UserError, match="takes 1 processor and 99 GPU"):
            executor.submit([job for job in plan.jobs if job.kind == "g"])
    finally:
        executor.stop()


def test_variables_of_the_driver_travel_to_the_workers(
    tmp_path: Path, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QGBENCH_CACHE", "somewhere")
    monkeypatch.setenv("QGBENCH_DATA", "elsewhere")
    monkeypatch.delenv("OMP_WAIT_POLICY")
    sent = task_options(tiny_plan(tmp_path, mine).jobs[0], 0)["runtime_env"]["env_vars"]
    assert sent == {
        "QGBENCH_CACHE": "somewhere",
        "QGBENCH_DATA": "elsewhere",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
