"""What jobs will take: the median of finished jobs like them, else measured steps, else unknown."""

from pathlib import Path
from statistics import median

import pytest

from qgbench.launch.estimate import (
    Estimates,
    Measured,
    _labelled_images,
    hardware_kind,
    read_measured,
    work_of,
    write_measured,
)
from qgbench.launch.job import Job
from qgbench.launch.measure import measure
from qgbench.launch.plan import Plan, make_plan
from qgbench.launch.status import Standing, summary
from qgbench.run import provenance
from qgbench.run.folder import Status
from qgbench.run.record import Record, find_records, read_record, write_record
from qgbench.spec.protocol import Protocol, load_protocol
from qgbench.spec.suite import load_suite
from tests.records import spec_of

RESULTS = Path(__file__).parents[2] / "results"
HARDWARE = {"processor": "some"}


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return make_plan(load_suite("smoke"), tmp_path_factory.mktemp("runs"), None, "cpu")


@pytest.fixture(scope="module")
def records() -> list[Record]:
    """Of FixMatch guided by g: three data sets, two regimes, two seeds; told to be of the present protocol."""
    small = load_protocol("small")
    places = ("cvc_clinicdb/n28@grouped", "isic2017/n7@grouped", "ph2/n7@grouped")
    folders = [RESULTS / "v1/small" / place / "unet/fixmatch+qw" for place in places]
    read = [read_record(folder / f"seed{seed}.json") for folder, seed in zip(folders, (0, 1, 0), strict=True)]
    return [present(record, small) for record in read]


def present(record: Record, protocol: Protocol) -> Record:
    spec = record.spec.model_copy(update={"protocol_version": protocol.version})
    of_protocol = record.settings["protocol"] | {"g_version": protocol.g_version}
    settings = record.settings | {"protocol": of_protocol}
    return record.model_copy(update={"spec": spec, "settings": settings})


def run_of(plan: Plan, row: str) -> Job:
    return next(job for job in plan.runs if job.words.startswith(f"{row} "))


def g_of(plan: Plan) -> Job:
    return next(job for job in plan.jobs if job.kind == "g")


def measured(job: Job, per_step: float, memory: float, hardware: str) -> Measured:
    return Measured(work=work_of(job.kind, job.spec), hardware=hardware, seconds_per_step=per_step, memory_mib=memory)


def finished(record: Record, folder: Path, seconds: float, memory: float = 1.0, processor: str = "some") -> None:
    """Write a record of a run that took so long."""
    folder.mkdir(parents=True)
    times = record.times.model_copy(update={"train": seconds - 1, "evaluate": 1.0, "g": 10 * seconds})
    where = record.provenance.model_copy(update={"hardware": {"processor": processor}})
    write_record(folder, record.model_copy(update={"times": times, "peak_memory_mib": memory, "provenance": where}))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    plan = make_plan(load_suite("small"), tmp_path_factory.mktemp("runs"), None, "cpu")
    return plan.only(["n7@grouped, unet, seed 0", "n7@grouped, unet, seed 1"])


def _here() -> str:
    return hardware_kind("cpu", provenance.hardware())


def test_nothing_is_claimed_where_nothing_was_seen(smoke: Plan, tmp_path: Path) -> None:
    for job in smoke.jobs:
        cost = Estimates([tmp_path, tmp_path / "absent"], HARDWARE).of(job)
        assert (cost.seconds, cost.memory_mib) == (None, None)
        assert cost.basis == ("unknown (preparing data is not timed)" if job.kind == "data" else "unknown")


@pytest.mark.parametrize(
    ("seconds", "unknown", "said"),
    [
        (7200.0, 0, "2.0 h"),
        (7200.0, 3, "at least 2.0 h, 3 jobs unknown"),
        (7200.0, 1, "at least 2.0 h, 1 job unknown"),
        (0.0, 3, "unknown"),
    ],
)
def test_what_is_known_of_the_time_left_is_said(smoke: Plan, seconds: float, unknown: int, said: str) -> None:
    states: dict[str, Status | None] = {job.name: None for job in smoke.jobs}
    whole = f"0 of {len(smoke.jobs)} jobs done, 0 failed; time left: {said}."
    assert summary(Standing(smoke, states, {}, seconds, unknown)) == whole


def test_a_finished_run_is_like_a_job_that_differs_in_seed_data_set_and_regime_alone(
    small: Plan, records: list[Record], tmp_path: Path
) -> None:
    for n, (record, seconds) in enumerate(zip(records, (10.0, 30.0, 20.0), strict=True)):
        finished(record, tmp_path / str(n), seconds, memory=100.0 + n)
    estimates = Estimates([tmp_path], HARDWARE)
    of_all_data = [run_of(small, f"fixmatch+qw on {name}") for name in ("ph2", "scd", "isic2017")]
    costs = {estimates.of(job) for job in of_all_data}
    assert len(costs) == 1
    cost = costs.pop()
    assert (cost.seconds, cost.memory_mib) == (20.0, 102.0), "the median time, the largest memory"
    assert (cost.basis, cost.elsewhere) == ("median of finished jobs like them", False)
    assert estimates.of(run_of(small, "fixmatch")).seconds is None, "no g takes part in it"
    assert estimates.of(run_of(small, "fixmatch+qw-oracle")).seconds is None
    assert estimates.of(run_of(small, "mean_teacher+qw")).seconds is None


def test_each_g_counts_once_however_many_runs_share_it(small: Plan, records: list[Record], tmp_path: Path) -> None:
    first, second = records[:2]
    for n in range(3):  # runs of other rows, with the same g
        finished(first.model_copy(update={"run_id": f"run {n}"}), tmp_path / f"a{n}", 10.0)
    finished(second, tmp_path / "b", 20.0)
    cost = Estimates([tmp_path], HARDWARE).of(g_of(small))
    assert cost.seconds == median([100.0, 200.0])
    assert cost.memory_mib is None, "the run's peak is not that of g's training"


def test_a_record_in_two_folders_counts_once(small: Plan, records: list[Record], tmp_path: Path) -> None:
    finished(records[0], tmp_path / "own" / "run", 10.0)
    finished(records[1], tmp_path / "own" / "other", 20.0)
    finished(records[0], tmp_path / "copy" / "run", 10.0)
    cost = Estimates([tmp_path / "own", tmp_path / "copy"], HARDWARE).of(run_of(small, "fixmatch+qw"))
    assert cost.seconds == 15.0


def test_a_record_of_another_version_of_the_protocol_tells_nothing(
    small: Plan, records: list[Record], tmp_path: Path
) -> None:
    spec = records[0].spec.model_copy(update={"protocol_version": 1})
    finished(records[0].model_copy(update={"spec": spec}), tmp_path / "run", 10.0)
    assert Estimates([tmp_path], HARDWARE).of(run_of(small, "fixmatch+qw")).seconds is None


def test_finished_jobs_go_before_measured_steps_and_this_hardware_before_any_other(
    small: Plan, records: list[Record], tmp_path: Path
) -> None:
    job = run_of(small, "fixmatch+qw")
    steps = job.spec.resolve().train.steps

    def cost() -> tuple[float | None, str, bool]:
        found = Estimates([tmp_path], HARDWARE).of(job)
        return found.seconds, found.basis, found.elsewhere

    write_measured(tmp_path, [measured(job, 0.3, 1.0, "other")])
    assert cost() == (pytest.approx(0.3 * steps), "measured steps, evaluation aside, on other", True)
    finished(records[0], tmp_path / "elsewhere", 10.0, processor="other")
    assert cost() == (10.0, "median of finished jobs like them, on other", True)
    write_measured(tmp_path, [measured(job, 0.5, 1.0, "some")])
    assert cost() == (pytest.approx(0.5 * steps), "measured steps, evaluation aside", False)
    finished(records[1], tmp_path / "here", 20.0)
    assert cost() == (20.0, "median of finished jobs like them", False)


def test_measured_steps_of_g_are_those_of_its_weak_models_and_its_own_at_most(smoke: Plan, tmp_path: Path) -> None:
    job = g_of(smoke)
    taken = measured(job, 0.5, 700.0, "some").model_copy(update={"seconds_per_weak_step": 0.2})
    write_measured(tmp_path, [taken])
    quality = job.spec.resolve().quality
    assert quality.weak_folds == 1
    epoch = max(quality.weak_epoch_min_steps, 2)  # of 12 images in batches of 8, the last of 4
    cost = Estimates([tmp_path], HARDWARE).of(job)
    assert cost.seconds == pytest.approx(0.5 * quality.steps + 0.2 * epoch * quality.weak_epochs[-1])
    assert (cost.memory_mib, cost.basis) == (700.0, "measured steps, fewer if g stops early")


def test_steps_that_could_not_be_timed_leave_the_time_unknown_and_say_why(smoke: Plan, tmp_path: Path) -> None:
    job = run_of(smoke, "fixmatch")
    broken = Measured(work=work_of("run", job.spec), hardware="some", failure="out of memory")
    write_measured(tmp_path, [broken])
    cost = Estimates([tmp_path], HARDWARE).of(job)
    assert (cost.seconds, cost.basis) == (None, "unknown (out of memory)")


def test_submitted_records_tell_what_a_suite_takes(small: Plan) -> None:
    estimates = Estimates([RESULTS], HARDWARE)
    submitted = [read_record(path) for path in find_records(RESULTS)]
    processors = {record.provenance.hardware["processor"] for record in submitted}
    versions = {record.spec.protocol_version for record in submitted if record.spec.protocol == "small"}
    assert versions
    for job in small.jobs:
        cost = estimates.of(job)
        if job.kind == "data" or job.spec.protocol_version not in versions:
            assert cost.seconds is None
        else:
            assert cost.seconds
            assert cost.basis.rpartition(", on ")[2] in processors


@pytest.mark.parametrize("content", ["{", '{"measured": [{"work": {"method": "fixmatch"}}]}'])
def test_a_damaged_file_of_measurements_is_left_aside(content: str, smoke: Plan, tmp_path: Path) -> None:
    (tmp_path / "measured.json").write_text(content, encoding="utf-8")
    assert Estimates([tmp_path], HARDWARE).of(smoke.runs[0]).seconds is None


@pytest.mark.slow
def test_steps_are_timed_in_processes_of_their_own_and_not_twice(smoke: Plan) -> None:
    only = smoke.only(["supervised+qar on phantom n12@grouped, unet, seed 0"])
    taken = measure(only)
    assert len(taken) == 2, "g and the run"
    assert all(not each.failure and each.seconds_per_step for each in taken)
    assert all(each.memory_mib and each.memory_mib > 200 for each in taken)
    output = only.jobs[0].output
    file = output / "measured.json"
    before = file.stat().st_mtime_ns
    assert measure(only) == taken == read_measured(output)
    assert file.stat().st_mtime_ns == before
    estimates = Estimates([output])
    run = only.runs[0]
    assert estimates.of(run).basis == "measured steps, evaluation aside"
    assert estimates.of(run).seconds == 24 * (taken[-1].seconds_per_step or 0)
    assert estimates.of(g_of(only)).basis == "measured steps, fewer if g stops early"


@pytest.mark.slow
def test_what_cannot_be_timed_is_kept_with_its_cause_and_tried_again(smoke: Plan, tmp_path: Path) -> None:
    job = run_of(smoke, "fixmatch")
    spec = job.spec.model_copy(update={"encoder": "no_such_encoder"})
    only = smoke.model_copy(update={"jobs": (job.model_copy(update={"spec": spec, "output": tmp_path}),)})
    write_measured(tmp_path, [Measured(work=work_of("run", spec), hardware=_here(), failure="of before")])
    (taken,) = measure(only)
    assert "no_such_encoder" in taken.failure
    assert read_measured(tmp_path) == [taken]


def test_how_many_have_labels_in_a_given_split_is_counted_where_it_ships_and_not_guessed_elsewhere() -> None:
    known = {
        "n7patients@given-aeb7378a": 136,  # as SSL4MIS counts them
        "all@given-4c7ca4e1": 1312,  # of the lists' 70 patients: SSL4MIS's own count of training slices
        "p10@given-4c7ca4e1": 131,
        "all@given-00000000": None,
        "n28@given-4c7ca4e1": 28,
        "n28@grouped": 28,
    }
    for regime, images in known.items():
        assert _labelled_images(spec_of(dataset="acdc", regime=regime)) == images
    ours = (spec_of(dataset="acdc", regime=regime) for regime in ("all@grouped", "n7patients@grouped"))
    assert all(_labelled_images(spec) for spec in ours)
