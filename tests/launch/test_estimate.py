"""What jobs will take: unknown without evidence, timed steps, and a count of operations."""

from pathlib import Path

import pytest
import torch
from timm.models.swin_transformer import WindowAttention
from torch import Tensor, nn

from qgbench.launch.estimate import Estimates, Measured, RunWork, hardware_kind, read_measured, write_measured
from qgbench.launch.job import Job
from qgbench.launch.measure import flops_per_step, gpu_hours, measure
from qgbench.launch.plan import Plan, make_plan
from qgbench.launch.status import Standing, summary
from qgbench.plugins.registry import load_arch
from qgbench.quality.predictor import QualityPredictor
from qgbench.run.carry_out import build_student
from qgbench.run.folder import Status
from qgbench.run.record import find_records, read_record
from qgbench.spec.suite import load_suite

RESULTS = Path(__file__).parents[2] / "results"
HARDWARE = {"processor": "some", "accelerator": None}


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return make_plan(load_suite("smoke"), tmp_path_factory.mktemp("runs"), None, "cpu")


def run_of(plan: Plan, row: str) -> Job:
    return next(job for job in plan.runs if job.words.startswith(f"{row} "))


def work_of(job: Job) -> RunWork:
    return RunWork.of(job.spec.model_dump(mode="json"), job.spec.resolve().model_dump(mode="json"))


def measured(job: Job, per_step: float, memory: float, hardware: str) -> Measured:
    times = {"seconds_per_step": per_step, "seconds_per_image": 0.01, "peak_memory_mib": memory}
    return Measured(work=work_of(job), hardware=hardware, limit=1.0, steps=5, **times)


def test_nothing_is_claimed_where_nothing_was_measured(smoke: Plan, tmp_path: Path) -> None:
    for job in smoke.runs:
        cost = Estimates.read([tmp_path], HARDWARE).of(job)
        assert (cost.seconds, cost.memory_mib, cost.basis) == (None, None, "unknown")


@pytest.mark.parametrize(
    ("seconds", "unknown", "said"),
    [
        (7200.0, 0, "0 of {} jobs done, 0 failed; about 2.0 h left."),
        (7200.0, 3, "0 of {} jobs done, 0 failed; about 2.0 h left and 3 jobs of unknown time."),
        (0.0, 3, "0 of {} jobs done, 0 failed; time left unknown: nothing like it was measured yet."),
    ],
)
def test_what_is_known_of_the_time_left_is_said(smoke: Plan, seconds: float, unknown: int, said: str) -> None:
    states: dict[str, Status | None] = {job.name: None for job in smoke.jobs}
    assert summary(Standing(smoke, states, {}, seconds, unknown)) == said.format(len(smoke.jobs))


def test_timed_steps_count_on_their_own_kind_of_hardware_only(smoke: Plan, tmp_path: Path) -> None:
    job = run_of(smoke, "fixmatch")
    here = hardware_kind("cpu", HARDWARE)
    write_measured(tmp_path, [measured(job, 0.5, 700.0, here), measured(job, 0.1, 900.0, "cpu other")])
    assert read_measured(tmp_path) == [measured(job, 0.5, 700.0, here), measured(job, 0.1, 900.0, "cpu other")]
    cost = Estimates.read([tmp_path], HARDWARE).of(job)
    steps, test_images, validations = 24, 120, 4
    evaluated = (2 * test_images + validations * 24) * 0.01
    start = Estimates.read([tmp_path], HARDWARE).of(smoke.jobs[0]).seconds
    assert start is not None
    start -= 240 * 0.01  # a data job of 240 images
    assert cost.seconds == pytest.approx(start + steps * 0.5 + evaluated)
    assert cost.memory_mib == 900.0, "memory is the same on any hardware of the device class"
    assert cost.basis == "measured steps"
    other = Estimates.read([tmp_path], HARDWARE).of(run_of(smoke, "supervised"))
    assert other.seconds is None, "no ratio of the two methods is known"
    assert other.memory_mib == 900.0, "of a method in the same surroundings"


def test_times_of_other_hardware_count_where_there_are_no_own_and_say_so(smoke: Plan, tmp_path: Path) -> None:
    job = run_of(smoke, "fixmatch")
    own, other = hardware_kind("cpu", HARDWARE), "cpu other"
    write_measured(tmp_path, [measured(job, 0.1, 900.0, "cuda card"), measured(job, 0.1, 900.0, other)])
    found = Estimates.read([tmp_path], HARDWARE).of(job)
    write_measured(tmp_path, [measured(job, 0.1, 900.0, own)])
    same = Estimates.read([tmp_path], HARDWARE).of(job)
    assert found.seconds == same.seconds
    assert (found.elsewhere, found.basis) == (True, "measured steps, on other")
    assert (same.elsewhere, same.basis) == (False, "measured steps")
    write_measured(tmp_path, [measured(job, 0.1, 900.0, "cuda card")])
    assert Estimates.read([tmp_path], HARDWARE).of(job).seconds is None, "a GPU says nothing about a processor"
    broken = Measured(work=work_of(job), hardware=own, limit=1.0, failure="out of memory")
    write_measured(tmp_path, [broken, measured(job, 0.1, 900.0, other)])
    found = Estimates.read([tmp_path], HARDWARE).of(job)
    assert (found.seconds, found.basis) == (None, "out of memory")


def test_submitted_records_tell_what_runs_and_predictors_take(tmp_path: Path) -> None:
    plan = make_plan(load_suite("small"), tmp_path, None, "cpu")
    core = [job for job in plan.runs if plan.blocks[job.name] == "core"]
    predictor = next(job for job in plan.jobs if job.kind == "g")
    records = [read_record(path) for path in find_records(RESULTS) if "+qw" in str(path)]
    processors = {record.provenance.hardware["processor"] for record in records}
    estimates = Estimates.read([RESULTS], {"processor": "some", "accelerator": None})
    assert all(estimates.of(job).seconds and estimates.of(job).elsewhere for job in core)
    slowest = max(record.times.g for record in records)
    cost = estimates.of(predictor)
    assert cost.seconds is not None
    assert min(record.times.g for record in records) < cost.seconds < slowest + 60
    assert cost.basis.rpartition(", on ")[2] in processors
    once, twice = Estimates.read([RESULTS]), Estimates.read([RESULTS, RESULTS])
    assert [once.of(job) for job in core] == [twice.of(job) for job in core], "a record in two folders counts once"


def test_a_damaged_file_of_measurements_is_left_aside(smoke: Plan, tmp_path: Path) -> None:
    write_measured(tmp_path, [])
    (tmp_path / "measured.json").write_text("{", encoding="utf-8")
    assert Estimates.read([tmp_path], HARDWARE).of(smoke.runs[0]).seconds is None


def test_operations_are_linear_in_the_batch_and_grow_with_what_a_method_does(smoke: Plan) -> None:
    def bigger(job: Job, times: int) -> Job:
        train = {"train.batch_labelled": 4 * times, "train.batch_unlabelled": 8 * times}
        return job.model_copy(update={"spec": job.spec.model_copy(update={"overrides": train})})

    plain, weighed = run_of(smoke, "fixmatch"), run_of(smoke, "fixmatch+qw")
    once = flops_per_step(plain)
    assert flops_per_step(bigger(plain, 3)) == pytest.approx(3 * once, rel=1e-6)
    assert flops_per_step(run_of(smoke, "supervised")) < once < flops_per_step(weighed)
    # A forward pass through the labelled images and the strong views, each followed by a backward pass of twice its
    # work (but that no gradient goes to the images), and one forward pass for the labels: 3 (4 + 8) + 8 against 3 x 4.
    assert once / flops_per_step(run_of(smoke, "supervised")) == pytest.approx((3 * 12 + 8) / (3 * 4), rel=0.01)


def forward_operations(network: nn.Module, *inputs: Tensor) -> tuple[float, float]:
    """Operations of a forward pass and of its first convolution, from the shapes of layers: 2 a multiplication."""
    counts: list[float] = []

    def count(module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            places = given[0] if isinstance(module, nn.ConvTranspose2d) else out
            counts.append(2 * module.weight.numel() * places[:, 0].numel())
        elif isinstance(module, nn.Linear):
            counts.append(2 * given[0].numel() * module.out_features)
        else:  # attention: of queries to keys, and of weights to values
            windows, tokens, width = given[0].shape
            counts.append(4 * windows * tokens**2 * width)

    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, WindowAttention)
    hooks = [part.register_forward_hook(count) for part in network.modules() if isinstance(part, kinds)]
    with torch.no_grad():
        network.eval()(*inputs)
    for hook in hooks:
        hook.remove()
    return sum(counts), counts[0]


@pytest.mark.parametrize("arch", ["attention_unet", "swin_unet"])
def test_operations_are_those_of_the_shapes_of_layers(arch: str, smoke: Plan) -> None:
    job = run_of(smoke, "fixmatch+qw")
    where = {"arch": arch, "encoder": load_arch(arch).own_encoder or job.spec.encoder}
    spec = job.spec.model_copy(update={**where, "overrides": {"encoder_weights": "none"}})
    protocol = spec.resolve()
    image, mask = torch.rand(1, 3, 64, 64), torch.rand(1, 1, 64, 64)
    forward, first = forward_operations(build_student(protocol), image)
    score, _ = forward_operations(QualityPredictor(protocol.quality, "none"), image, mask)
    # Trained on 4 labelled images and 8 strong views, of which nothing asks a gradient; 8 labels are made and scored.
    by_hand = 12 * (3 * forward - first) + 8 * forward + 8 * score
    assert flops_per_step(job.model_copy(update={"spec": spec})) == pytest.approx(by_hand, rel=1e-4)


def test_gpu_hours_are_operations_over_the_stated_speed(smoke: Plan) -> None:
    only = smoke.only(["fixmatch+qw on phantom n12@grouped, unet, seed 0"])
    hours = gpu_hours(only, 2.0)
    assert set(hours) == {"shared: g", "core"}
    assert hours["core"] == pytest.approx(24 * flops_per_step(only.runs[0]) / 2e12 / 3600)
    assert gpu_hours(only, 4.0)["shared: g"] == pytest.approx(hours["shared: g"] / 2)


@pytest.mark.slow
def test_steps_are_timed_in_processes_of_their_own_and_not_twice(smoke: Plan, tmp_path: Path) -> None:
    only = smoke.only(["supervised+qar on phantom n12@grouped, unet, seed 0"])
    taken = measure(only, steps=2)
    assert len(taken) == 2, "g and the run"
    assert all(not each.failure and each.seconds_per_step for each in taken)
    assert all(each.peak_memory_mib and each.peak_memory_mib > 200 for each in taken)
    output = only.jobs[0].output
    file = output / "measured.json"
    before = file.stat().st_mtime_ns
    assert measure(only, steps=2) == taken
    assert file.stat().st_mtime_ns == before
    cost = Estimates.read([output]).of(only.runs[0])
    assert cost.basis == "measured steps"
    assert cost.seconds is not None
    assert cost.seconds > 24 * (taken[-1].seconds_per_step or 0)
