"""Slurm for real: a cluster of one node carries out small suites, and the records are this machine's own."""

import os
import pickle
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qgbench.base.errors import QGBenchError, UserError
from qgbench.launch import slurm
from qgbench.launch.drive import drive
from qgbench.launch.job import NOT_NOW, Job
from qgbench.launch.local import LocalExecutor
from qgbench.launch.plan import Plan, make_plan
from qgbench.launch.slurm import SlurmExecutor, carry_out_json, parse_options
from qgbench.run.folder import RunFolder
from qgbench.run.record import read_record
from qgbench.spec.suite import load_suite
from tests.commands import small_data
from tests.launch.slurm_cluster import slurm_cluster, why_not
from tests.test_kills import numbers

SUITE = """
name = "tiny"
about = "as small as it gets"
protocol = "smoke"
threads = {threads}

[rows.troubled]
method = "{desk}/troubled.py"

[[block]]
name = "core"
rows = ["fixmatch", "fixmatch+qw"]
seeds = [0]
regimes = {{"{desk}/mine" = ["n6@grouped"]}}

[block.set]
"train.steps" = 8
"quality.steps" = 6
"quality.weak_epochs" = [1, 2]
"quality.weak_epoch_min_steps" = 2

[[block]]
name = "accidents"
rows = ["troubled"]
seeds = [0, 1]
regimes = {{"{desk}/mine" = ["n6@grouped"]}}
set = {{"train.steps" = 8}}
"""
TROUBLED = '''
import os
import signal
import subprocess
import time
from pathlib import Path

from qgbench.baselines.supervised import Supervised

SECONDS = {"warning": 2, "wait": 2, "limit": 8}


def accident():
    """What this process is to suffer: the first that no other has taken."""
    for path in sorted(Path(os.environ.get("ACCIDENTS", "nowhere")).glob("[0-9]-*")):
        try:
            return path.rename(path.with_name("taken-" + path.name)).name.rpartition("-")[2]
        except FileNotFoundError:
            pass
    return ""


class Troubled(Supervised):
    """Supervised, with an accident from the fourth step of a process on."""

    calls = 0
    accident = ""

    def step(self, batch):
        self.calls += 1
        if self.calls == 4:
            self.accident = accident()
            job = os.environ.get("SLURM_JOB_ID")
            if self.accident == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif self.accident == "warning":
                subprocess.run(["scancel", "--signal=USR2", job], check=True)
            elif self.accident == "limit":  # whose warning is due within half a minute, Slurm's resolution
                subprocess.run(["scontrol", "update", "JobId=" + job, "EndTime=now+150"], check=True)
        time.sleep(SECONDS.get(self.accident, 0))
        return super().step(batch)
'''
ANSWERS = {  # of a Slurm that is a few shell scripts
    "scontrol": "echo 'MaxArraySize            = 3'",
    "squeue": 'cat "$HERE/queue"',
    "scancel": 'echo "$@" >> "$HERE/cancelled"; : > "$HERE/queue"',
    "srun": "",
    "sbatch": 'echo "$1" >> "$HERE/batches"; echo "Submitted batch job $(wc -l < "$HERE/batches")"',
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    if reason := why_not():
        pytest.skip(reason)
    with slurm_cluster() as config, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(config))
        yield


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set, and a method that meets with accidents."""
    folder = tmp_path_factory.mktemp("desk")
    small_data(folder / "mine")
    (folder / "troubled.py").write_text(TROUBLED)
    return folder


@pytest.fixture(scope="module")
def local(desk: Path) -> Path:
    """The runs that Slurm carries out, by processes of this machine that nothing disturbs."""
    output = desk / "local"
    output.mkdir()
    plan = planned(desk, output).only(["fixmatch+qw", "accidents"])
    assert set(drive(plan, LocalExecutor(["", ""])).states.values()) == {"done"}
    return output


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands of a Slurm that says what the files beside them say."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    (folder / "queue").touch()
    for name, answer in ANSWERS.items():
        script(folder / name, answer)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    return folder


@pytest.fixture
def warned(desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A job that gets Slurm's warning as it begins."""

    def carry_out(job: Job) -> None:
        signal.raise_signal(signal.SIGUSR2)

    monkeypatch.setattr(slurm, "carry_out", carry_out)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(slurm, "set_verbosity", lambda level: None)
    return planned(desk, tmp_path).jobs[0].model_dump_json()


def script(file: Path, text: str) -> None:
    file.write_text(f'#!/bin/sh\nHERE="{file.parent}"\n{text}\n')
    file.chmod(0o700)


def queue(scripted: Path, *ids: str, reason: str = "Resources") -> None:
    (scripted / "queue").write_text("".join(f"{id}|{reason}\n" for id in ids))


def batches(scripted: Path) -> list[dict[str, str]]:
    """Options of each script that sbatch was given."""
    files = (scripted / "batches").read_text().splitlines()
    return [dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", Path(file).read_text(), re.MULTILINE)) for file in files]


def meet_with(folder: Path, accidents: list[str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have the method `Troubled` meet with accidents; their files are renamed once a process has taken one."""
    place = folder / "accidents"
    place.mkdir()
    for name in accidents:
        (place / name).touch()
    monkeypatch.setenv("ACCIDENTS", str(place))
    return place


def planned(desk: Path, output: Path, only: str = "", threads: int = 1) -> Plan:
    file = desk / f"{threads}.toml"
    file.write_text(SUITE.format(desk=desk, threads=threads))
    return make_plan(load_suite(str(file)), output, None, "cpu").only([only] if only else [])


def assert_same(run: Path, reference: Path) -> None:
    assert numbers(read_record(run)) == numbers(read_record(reference))
    names = sorted(path.name for path in reference.iterdir())
    assert sorted(path.name for path in run.iterdir()) == names
    for name in names:
        if name.startswith(("images", "predictions", "log.jsonl")):
            assert (run / name).read_bytes() == (reference / name).read_bytes(), name


def wait_until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def continued(run: RunFolder) -> list[str]:
    """After which steps a run was continued."""
    return re.findall(r"continuing after step (\d+) of 8", "\n".join(run.text_log()))


@pytest.mark.slow
def test_a_suite_on_slurm_has_this_machines_numbers_and_a_hopeless_job_stops_nothing(
    cluster: None, desk: Path, local: Path, tmp_path: Path
) -> None:
    plan = planned(desk, tmp_path, "fixmatch+qw")
    hopeless = plan.jobs[0].model_copy(update={"name": "data-nowhere", "source": "nowhere"})
    found = drive(plan.model_copy(update={"jobs": (hopeless, *plan.jobs)}), SlurmExecutor(tmp_path))
    assert found.states == {"data-nowhere": "failed"} | {job.name: "done" for job in plan.jobs}
    assert "unknown dataset 'nowhere'" in found.causes["data-nowhere"]
    assert len(plan.runs) == 1
    for job in plan.runs:
        assert_same(tmp_path / job.name, local / job.name)
    pickles = list((tmp_path / "jobs/slurm").glob("*_submitted.pkl"))
    assert len(pickles) == 4
    for file in pickles:
        submission = pickle.loads(file.read_bytes())
        assert [type(each) for each in submission.args] == [str], "jobs travel as text"


@pytest.mark.slow
def test_jobs_that_are_killed_warned_and_at_their_time_limit_end_with_the_same_numbers(
    cluster: None, desk: Path, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accidents = meet_with(tmp_path, ["1-limit", "2-kill", "3-warning"], monkeypatch)
    output = tmp_path / "output"
    output.mkdir()
    plan = planned(desk, output, "accidents")
    found = drive(plan, SlurmExecutor(output, {"time": "10"}))
    assert set(found.states.values()) == {"done"}
    assert {path.name for path in accidents.iterdir()} == {"taken-1-limit", "taken-2-kill", "taken-3-warning"}
    for job in plan.runs:
        assert_same(output / job.name, local / job.name)
    assert any(continued(job.folder) for job in plan.runs)
    assert list((output / "jobs/slurm").glob("*_1_submitted.pkl")), "both runs were one array"


@pytest.mark.slow
def test_stop_lets_runs_save_their_state_and_cancels_what_is_queued(
    cluster: None, desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accidents = meet_with(tmp_path, ["1-wait"], monkeypatch)
    plan = planned(desk, tmp_path / "output", "accidents", threads=2)
    executor = SlurmExecutor(tmp_path / "output")
    executor.submit(plan.jobs)
    wait_until(lambda: (accidents / "taken-1-wait").exists())
    assert len(executor.alive()) == 2, "one runs, one waits for the processors"
    executor.stop()
    assert executor.alive() == set()
    states = [job.folder.status() for job in plan.jobs]
    assert states == ["done", "interrupted", None]
    assert executor.endings()[plan.jobs[1].name] == (128 + signal.SIGTERM, "stopped by SIGTERM")
    (accidents / "taken-1-wait").rename(accidents / "1-wait")
    executor.submit(plan.jobs[1:2])
    wait_until(lambda: bool(continued(plan.jobs[1].folder)))
    executor.stop()


def test_jobs_wait_for_what_they_need_in_arrays_no_larger_than_slurm_takes(
    desk: Path, scripted: Path, tmp_path: Path
) -> None:
    plan = planned(desk, tmp_path)
    kinds = ("data", "g", "run")
    data, g, plain, weighted, *troubled = sorted(plan.jobs, key=lambda job: kinds.index(job.kind))
    executor = SlurmExecutor(tmp_path, {"partition": "short", "time": "30"}, gpus=1)
    executor.submit([plain, weighted, *troubled, g, data])
    first, second, third, fourth, fifth = batches(scripted)
    assert first.items() >= {"partition": "short", "time": "30", "cpus-per-task": "1", "signal": "SIGUSR2@120"}.items()
    assert not {"array", "dependency", "gpus-per-node"} & first.keys()
    assert second.items() >= {"dependency": "afterany:1", "gpus-per-node": "1"}.items()
    assert [each["dependency"] for each in (third, fourth, fifth)] == ["afterany:1", "afterany:1", "afterany:1:2"]
    assert [each.get("array") for each in (third, fourth, fifth)] == ["0-1%2", None, None]
    queue(scripted, "2", "3_0", "4")
    assert executor.alive() == {g.name, plain.name, troubled[1].name}
    assert executor.endings().keys() == {data.name, troubled[0].name, weighted.name}
    executor.submit([weighted])
    assert batches(scripted)[5]["dependency"] == "afterany:2", "what has ended is not waited for"


def test_a_silent_controller_is_borne_for_a_while_and_then_given_up_without_hanging(
    desk: Path,
    scripted: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    executor = SlurmExecutor(tmp_path)
    jobs = planned(desk, tmp_path).jobs[:1]
    executor.submit(jobs)
    script(scripted / "squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    monkeypatch.setattr(slurm, "_SILENCE_SECONDS", 0.5)
    for _ in range(2):
        assert executor.alive() == {jobs[0].name}
    assert caplog.text.count("Unable to contact slurm controller") == 1
    time.sleep(0.6)
    with pytest.raises(QGBenchError, match=r"squeue .*Unable to contact.*scontrol ping"):
        executor.alive()
    executor.stop()
    assert "scancel 1" in caplog.text
    script(scripted / "squeue", 'cat "$HERE/queue"')
    queue(scripted, "1")
    assert executor.alive() == {jobs[0].name}


def test_a_job_that_slurm_holds_is_reported_once(
    desk: Path, scripted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    executor = SlurmExecutor(tmp_path)
    jobs = planned(desk, tmp_path).jobs[:1]
    executor.submit(jobs)
    queue(scripted, "1", reason="launch failed requeued held")
    for _ in range(2):
        assert executor.alive() == {jobs[0].name}
    assert caplog.text.count("launch failed requeued held") == 1


def test_what_sbatch_refuses_is_said_in_its_words(desk: Path, scripted: Path, tmp_path: Path) -> None:
    script(scripted / "sbatch", "echo 'sbatch: error: invalid partition specified: shrot' >&2; exit 1")
    executor = SlurmExecutor(tmp_path, {"partition": "shrot"})
    with pytest.raises(QGBenchError, match=r"invalid partition specified: shrot.*--slurm"):
        executor.submit(planned(desk, tmp_path).jobs)


def test_a_controller_that_hangs_or_refuses_is_found_out_at_once(
    scripted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(scripted / "scontrol", "exec sleep 60")
    monkeypatch.setattr(slurm, "_ANSWER_SECONDS", 0.5)
    begin = time.monotonic()
    with pytest.raises(QGBenchError, match=r"scontrol show: no answer within 0.5 s"):
        SlurmExecutor(tmp_path)
    assert time.monotonic() - begin < 5
    script(scripted / "scontrol", "echo 'slurm_load_ctl_conf error: Connection refused' >&2; exit 1")
    with pytest.raises(QGBenchError, match="Connection refused"):
        SlurmExecutor(tmp_path)


def test_missing_parts_are_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(QGBenchError, match="sbatch, srun, squeue, scancel, scontrol not found on the PATH"):
        SlurmExecutor(tmp_path)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"pip install 'qgbench\[slurm\]'"):
        SlurmExecutor(tmp_path)


def test_a_part_of_a_gpu_is_refused(scripted: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="whole GPUs"):
        SlurmExecutor(tmp_path, gpus=0.5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("partition", "KEY=VALUE"),
        ("=gpu", "KEY=VALUE"),
        ("time=2:00:00", "whole minutes"),
        ("time=0", "whole minutes"),
        ("--array=0-3", "sets array itself"),
        ("cpus_per_task=4", "threads of a run"),
    ],
)
def test_settings_of_sbatch_that_cannot_be_are_refused(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_options([text])


def test_settings_of_sbatch_are_read_with_dashes_or_underscores() -> None:
    texts = ["--mail_type=END", "time=90", "comment=a=b"]
    assert parse_options(texts) == {"mail-type": "END", "time": "90", "comment": "a=b"}


@pytest.mark.parametrize(
    ("restarts", "answer", "code", "text"),
    [
        ("20", "", 128 + signal.SIGUSR2, "reached its time limit 21 times"),
        ("19", "echo 'Requested operation is presently disabled' >&2; exit 1", NOT_NOW, "presently disabled"),
    ],
)
def test_a_warned_job_that_cannot_be_requeued_goes_back_to_the_driver(
    scripted: Path, restarts: str, answer: str, code: int, text: str, warned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(scripted / "scontrol", answer)
    monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    found = carry_out_json(warned)
    assert found[0] == code
    assert text in found[1]


def test_a_warned_job_requeues_itself_and_leaves_no_result(scripted: Path, warned: str) -> None:
    script(scripted / "scontrol", 'echo "$@" >> "$HERE/told"')
    with pytest.raises(SystemExit):
        carry_out_json(warned)
    assert (scripted / "told").read_text() == "requeue 7\n"
