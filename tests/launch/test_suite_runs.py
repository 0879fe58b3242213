"""Suites in processes of their own: killed, doubled, failing; the records are the uninterrupted suite's."""

import random
import re
import signal
import time
from contextlib import suppress
from pathlib import Path
from statistics import median

import psutil
import pytest

from qgbench.launch.estimate import Estimates
from qgbench.launch.plan import load_plan, make_plan
from qgbench.run.folder import RunFolder, find_runs
from qgbench.run.record import IMAGES_NAME, read_record
from qgbench.spec.suite import load_suite
from tests.commands import Command, small_data
from tests.spec.test_suite import written
from tests.test_kills import numbers

pytestmark = pytest.mark.slow

KILLS = 6

# Regress carries out the suite `smoke`, which has the same stages; these images are fewer, and so are the steps.
STAGES = """
name = "tiny"
about = "every stage: a shared g, QW, QAR; a base method with two seeds"
protocol = "smoke"
threads = 1

[[block]]
name = "core"
rows = ["supervised", "supervised+qar", "fixmatch+qw"]
seeds = [0]
[block.set]
"train.steps" = 4
"train.validations" = 1
"quality.steps" = 4
"quality.validations" = 1
"quality.val_masks" = 1
"quality.weak_epochs" = [1]
[block.regimes]
{data!r} = ["n6@grouped"]

[[block]]
name = "again"
rows = ["supervised"]
seeds = [1]
set = {{"train.steps" = 4, "train.validations" = 1}}
[block.regimes]
{data!r} = ["n6@grouped"]
"""


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(small_data(tmp_path_factory.mktemp("data") / "mine"))


class Whole:
    """The suite `STAGES`, carried out without interruption."""

    def __init__(self, folder: Path, mine: str) -> None:
        self.suite = written(folder, STAGES.format(data=mine))
        self.output = folder / "runs"
        begin = time.monotonic()
        command = self.command("run")
        assert command.finish(600) == 0, command.said()
        self.seconds = time.monotonic() - begin
        self.said = command.said()

    def command(self, verb: str) -> Command:
        """Start ``qgbench suite VERB`` for it."""
        home = self.output.parent
        return Command(["suite", verb, self.suite, "--output", str(self.output)], home / f"said-{verb}", home / "cache")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, mine: str) -> Whole:
    return Whole(tmp_path_factory.mktemp("whole"), mine)


def assert_equal_records(ours: Path, theirs: Path) -> None:
    runs = find_runs(ours)
    assert [run.name for run in runs] == [run.name for run in find_runs(theirs)]
    assert runs
    for run in runs:
        other = theirs / run.name
        assert numbers(read_record(run.path)) == numbers(read_record(other))
        assert (run.path / IMAGES_NAME).read_bytes() == (other / IMAGES_NAME).read_bytes()


def job_processes(command: Command) -> list[psutil.Process]:
    """Processes of jobs below a driver: leaders of a session, which the fork server and the tracker are not."""
    try:
        below = psutil.Process(command.process.pid).children(recursive=True)
        return [process for process in below if process.is_running() and _leads_session(process)]
    except psutil.NoSuchProcess:
        return []


def _leads_session(process: psutil.Process) -> bool:
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return int(fields[3]) == process.pid


def test_a_suite_ends_with_every_run_done_and_what_is_shared_made_once(whole: Whole) -> None:
    plan = load_plan("tiny", whole.output)
    assert {job.folder.status() for job in plan.jobs} == {"done"}
    assert len(list((whole.output / "predictors").glob("*/*.safetensors"))) == 1
    for run in find_runs(whole.output):
        assert "quality predictor: " not in "\n".join(run.text_log()), "g was trained by its own job"
    assert "6 of 6 jobs done, 0 failed" in whole.said
    made = [*whole.output.glob("*/record.json"), *whole.output.glob("predictors/*/*")]
    assert len(made) >= 4 + 2
    before = {file: file.stat().st_mtime_ns for file in made}
    assert whole.command("run").finish() == 0
    assert {file: file.stat().st_mtime_ns for file in made} == before, "nothing is done twice"


def test_finished_runs_tell_what_the_same_would_take(whole: Whole) -> None:
    plan = load_plan("tiny", whole.output)
    estimates = Estimates([whole.output])
    both = [[other for other in plan.runs if other.words[:-1] == job.words[:-1]] for job in plan.runs]  # of all seeds
    assert sorted(len(twins) for twins in both) == [1, 1, 2, 2]
    for job, twins in zip(plan.runs, both, strict=True):
        records = [read_record(other.folder.path) for other in twins]
        cost = estimates.of(job)
        assert cost.seconds == median(record.times.train + record.times.evaluate for record in records)
        assert cost.memory_mib == max(record.peak_memory_mib for record in records)
        assert cost.basis == "median of finished jobs like them"
    predictors = [job for job in plan.jobs if job.kind == "g"]
    times = {record.times.g for run in plan.runs if (record := read_record(run.folder.path)).provenance.g is not None}
    assert len(times) == len(predictors) == 1
    assert {estimates.of(job).seconds for job in predictors} == {median(times)}


def test_another_terminal_sees_how_far_a_suite_is(whole: Whole) -> None:
    command = whole.command("status")
    assert command.finish() == 0, command.said()
    for block, runs in (("core", 3), ("again", 1)):
        assert re.search(rf"{block}\s+│\s+{runs} │\s+\. │\s+\. │\s+\. │\s+\.", command.said())
    assert "6 of 6 jobs done, 0 failed." in command.said()


def test_kills_of_driver_and_jobs_change_no_number(whole: Whole, tmp_path: Path) -> None:
    chance = random.Random(7)
    kills = 0
    for attempt in range(KILLS):
        output = tmp_path / f"runs{attempt}"
        kills += killed_suite(whole, output, tmp_path, KILLS - kills, chance)
        assert_equal_records(output, whole.output)
        if kills == KILLS:
            break
    assert kills == KILLS


def killed_suite(whole: Whole, output: Path, home: Path, most: int, chance: random.Random) -> int:
    """Carry out the suite, killing drivers and jobs on the way; give the number of kills."""
    kills = 0
    while True:
        # retry: a job that was killed three times under one driver counts as failed
        command = Command(["suite", "retry", whole.suite, "--output", str(output)], home / "said", home / "cache")
        while kills < most:
            command.process.join(chance.uniform(0.01, 0.07) * whole.seconds)
            jobs = job_processes(command)
            if command.process.exitcode is not None:
                break
            if chance.random() < 0.4 or not jobs:
                command.signal(signal.SIGKILL)  # its jobs live on; the next driver finds them at work
                command.process.join()
            else:
                with suppress(psutil.NoSuchProcess):  # it ended just now
                    chance.choice(jobs).kill()
            kills += 1
        if kills == most:
            command.process.join(600)
        if command.process.exitcode == 0:
            return kills


FAILING = """
from pathlib import Path
from qgbench.methods.losses import segmentation_loss
from qgbench.methods import Batch, Method, Step

class Failing(Method):
    '''Its loss is not finite while a file is there.'''

    pseudo_labels = False

    def step(self, batch: Batch) -> Step:
        loss = segmentation_loss(self.task, self.student(batch.x_l), batch.y_l)
        return Step(loss * float("nan") if Path({flag!r}).exists() else loss)
"""
SUITE = """
name = "tiny"
about = "one row fails"
protocol = "smoke"
threads = 1

{failing}
[[block]]
name = "core"
rows = {rows}
seeds = [0]
[block.set]
"train.steps" = 2
"train.validations" = 1
"quality.steps" = 4
"quality.validations" = 1
"quality.val_masks" = 1
"quality.weak_epochs" = [1]
[block.regimes]
{data!r} = ["n6@grouped"]
"""


def small_suite(folder: Path, data: str, rows: list[str], method: str = "") -> str:
    """The suite `SUITE` of some rows, of which `failing` may be the one of a method."""
    failing = f"[rows.failing]\nmethod = {method!r}\n" if method else ""
    return written(folder, SUITE.format(failing=failing, data=data, rows=rows))


def test_two_commands_on_one_folder_do_no_run_twice(tmp_path: Path, cache_dir: Path, mine: str) -> None:
    suite = small_suite(tmp_path, mine, ["supervised", "supervised+qar"])
    words = ["suite", "run", suite, "--output", str(tmp_path / "runs")]
    both = [Command(words, tmp_path / f"said{n}", cache_dir) for n in range(2)]
    for command in both:
        assert command.finish(600) == 0, command.said()
    runs = find_runs(tmp_path / "runs")
    assert len(runs) == 2
    for run in runs:
        assert run.status() == "done"
        begun = [line for line in run.text_log() if re.search(r"process \d+ begins", line)]
        assert len(begun) == 1, "one process carried it out"


def test_a_failing_run_stops_no_other_and_is_begun_again_by_retry(tmp_path: Path, cache_dir: Path, mine: str) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    method = tmp_path / "failing.py"
    method.write_text(FAILING.format(flag=str(flag)))
    suite = small_suite(tmp_path, mine, ["failing", "supervised"], str(method))
    output = ["--output", str(tmp_path / "runs")]

    def command(*words: str) -> tuple[int, str]:
        said = tmp_path / "-".join(words).replace("/", "_")[-60:]
        started = Command(["suite", *words, suite, *output], said, cache_dir)
        return started.finish(), started.said()

    code, said = command("run")
    assert code == 1
    assert "the loss is nan at step 1 of 2" in said
    assert "2 of 3 jobs done, 1 failed" in said
    assert f"qgbench suite retry {suite}" in said
    code, said = command("status", "--once")
    assert code == 0
    assert "failed   " in said
    assert "2 of 3 jobs done, 1 failed." in said
    assert "the loss is nan at step 1 of 2" in " ".join(said.split())
    code, said = command("run", "-q")
    assert code == 1, "run leaves it alone"
    flag.unlink()
    code, said = command("retry")
    assert code == 0, said
    assert {run.status() for run in find_runs(tmp_path / "runs")} == {"done"}


def test_a_full_disk_is_named_and_loses_nothing(tmp_path: Path, cache_dir: Path, mine: str) -> None:
    suite = small_suite(tmp_path, mine, ["supervised+qar"])
    words = ["suite", "run", suite, "--output", str(tmp_path / "runs")]
    full = Command(words, tmp_path / "said", cache_dir, file_limit=3_000_000)  # data fit, checkpoints do not
    assert full.finish() == 1
    assert "File too large. Free some space" in full.said()
    roomy = Command(["suite", "retry", *words[2:]], tmp_path / "said2", cache_dir)
    assert roomy.finish() == 0, roomy.said()
    assert {run.status() for run in find_runs(tmp_path / "runs")} == {"done"}


def test_a_run_folder_that_cannot_be_written_is_named_and_stops_no_other(
    tmp_path: Path, cache_dir: Path, mine: str
) -> None:
    suite = small_suite(tmp_path, mine, ["supervised", "fixmatch"])
    words = ["suite", "run", suite, "--output", str(tmp_path / "runs")]
    plan = make_plan(load_suite(suite), tmp_path / "runs", None, "auto")
    (tmp_path / "runs").mkdir()
    blocked = plan.runs[0].folder.path
    blocked.write_text("not a folder")
    command = Command(words, tmp_path / "said", cache_dir)
    assert command.finish() == 1
    assert f"cannot write {blocked}" in command.said()
    done = [RunFolder(job.folder.path).status() for job in plan.runs if job.folder.path != blocked]
    assert done == ["done"]
