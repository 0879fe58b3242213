"""One run in two processes: the same numbers as in one, on every process, and no waiting for ever.

One launch carries out all cases; each process stores what it found, and the tests compare.
"""

import copy
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from qgbench.archs.build import build_network
from qgbench.base.errors import QGBenchError, UserError
from qgbench.base.seeds import salted
from qgbench.baselines.fixmatch import FixMatch
from qgbench.baselines.mean_teacher import MeanTeacher
from qgbench.baselines.pseudo_label import PseudoLabel
from qgbench.baselines.supervised import Supervised
from qgbench.engine.device import World, make_accelerator, what_cannot_repeat
from qgbench.engine.here import processes
from qgbench.methods import Batch, Method, Step, Term
from qgbench.methods.losses import pixel_cross_entropy, segmentation_loss
from qgbench.plugins.registry import load
from qgbench.quality.guide import AddOn, Guide, QualityRegularisation, QualitySelection, QualityWeighting
from qgbench.quality.scores import Labelling, Score, Watched
from qgbench.spec.task import Task
from qgbench.training.loop import Trainer, convert_sync_batchnorm
from qgbench.trust.toys import ToyQuality, ToySegmenter, toy_data, toy_protocol

STEPS = 6
SEED = 3
TIME_LIMIT = 100  # seconds; whoever waits for ever fails

Modes = Callable[[nn.Module], list[AddOn]]


class Smooth(nn.Module):
    """A network whose output for an image does not depend on the others, nor on random numbers."""

    task = Task()

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 1, 3, padding=1)
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image)


class Pooled(Method):
    """Two rows for each label, pooled by numbers of pixels that differ widely; the second student pauses."""

    networks = 2

    def step(self, batch: Batch) -> Step:
        label = self.label(self.students[0], batch.u_w)
        inside, outside = batch.cut1.double(), (~batch.cut1).double()
        pixels = pixel_cross_entropy(self.task, self.students[0](batch.u_s1), self.task.hard(label.prob).double())
        rows = torch.cat([(pixels * part).sum((1, 2, 3)) for part in (inside, outside)])
        count = torch.cat([part.sum((1, 2, 3)) for part in (inside, outside)])
        owner = torch.arange(len(label)).repeat(2)
        supervised = segmentation_loss(self.task, self.students[0](batch.x_l), batch.y_l)
        if batch.progress < 0.5:
            supervised = supervised + segmentation_loss(self.task, self.students[1](batch.x_l), batch.y_l)
        return Step(supervised, [Term(rows, label, denominator=count, owner=owner, coef=0.5)])


class Broken(Supervised):
    """Its loss is not a number on one of the processes, from the fourth step on."""

    def step(self, batch: Batch) -> Step:
        loss = super().step(batch).supervised
        if batch.progress >= 0.5 and World(Accelerator()).rank == 1:
            loss = loss * float("nan")
        return Step(loss)


class QualityOfRows(Score):
    """A score that gives the rows of the whole batch these values; it means nothing in an audit's batches."""

    needs_truth = True  # so that no audit asks it

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.values = torch.tensor(values)

    def __call__(self, labelling: Labelling) -> Tensor:
        return labelling.world.part(self.values)


def weighed(score: Score | str, tau: float = 0.5) -> Modes:
    settings = QualityWeighting.Settings(tau=tau)
    return lambda g: [
        QualityWeighting(settings, Watched(load("score", score)(g, SEED), score) if isinstance(score, str) else score)
    ]


def regularised(g: nn.Module) -> list[AddOn]:
    settings = QualityRegularisation.Settings(lambda_qar=0.5, qar_warmup=0.0, qar_ramp=0.2)
    return [QualityRegularisation(settings, predictor=g, seed=SEED)]


def selected(g: nn.Module) -> list[AddOn]:
    return [QualitySelection(None, Watched(load("score", "g")(g, SEED), "g"))]


def both(g: nn.Module) -> list[AddOn]:
    return [*weighed("g", 0.0)(g), *regularised(g)]


def plain(g: nn.Module) -> list[AddOn]:
    return []


UNEVEN = QualityOfRows(0.9, 0.55, 1.0, 0.3, 0.6, 0.1)
ONE_SIDED = QualityOfRows(0.9, 0.55, 1.0, 0.0, 0.0, 0.0)  # the second process rejects all it has
EAGER = {"warmup": 0.0, "ramp": 0.0}
NONE = QualityOfRows(*[0.0] * 6)
ALONE = {"cutmix": False}  # images are mixed within a process

# name: (method, its settings, modes, normalisation)
CASES: dict[str, tuple[type[Method], dict[str, Any], Modes, str]] = {
    "supervised": (Supervised, {}, plain, "weighted"),
    "fixmatch": (FixMatch, {"threshold": 0.52, **ALONE}, plain, "weighted"),
    "mean_teacher": (MeanTeacher, EAGER, plain, "weighted"),
    "pseudo_label": (PseudoLabel, {"threshold": 0.52, **EAGER}, plain, "weighted"),
    "pseudo_label of the teacher": (PseudoLabel, {"threshold": 0, "labels_from": "teacher"}, plain, "weighted"),
    "fixmatch, uneven weights": (FixMatch, {"threshold": 0.5, **ALONE}, weighed(UNEVEN), "weighted"),
    "fixmatch, one process rejects all": (FixMatch, {"threshold": 0.5, **ALONE}, weighed(ONE_SIDED), "weighted"),
    "fixmatch, both reject all": (
        FixMatch,
        {"threshold": 0.5, **ALONE},
        weighed(QualityOfRows(*[0.0] * 6)),
        "weighted",
    ),
    "mean_teacher, uneven weights": (MeanTeacher, EAGER, weighed(UNEVEN), "weighted"),
    "pseudo_label, one process rejects all": (PseudoLabel, {"threshold": 0, **EAGER}, weighed(ONE_SIDED), "weighted"),
    "fixmatch, unnormalised": (FixMatch, {"threshold": 0.5, **ALONE}, weighed(UNEVEN), "none"),
    "fixmatch, unnormalised, one rejects all": (
        FixMatch,
        {"threshold": 0.5, **ALONE},
        weighed(ONE_SIDED),
        "none",
    ),
    "denominators": (Pooled, EAGER, plain, "weighted"),
    "denominators, uneven weights": (Pooled, EAGER, weighed(UNEVEN), "weighted"),
    "denominators, unnormalised": (Pooled, EAGER, weighed(UNEVEN), "none"),
    "score g": (FixMatch, {"threshold": 0.5, **ALONE}, weighed("g", 0.0), "weighted"),
    "score shuffled": (FixMatch, {"threshold": 0.5, **ALONE}, weighed("shuffled", 0.0), "weighted"),
    "score confidence": (FixMatch, {"threshold": 0.5, **ALONE}, weighed("confidence", 0.0), "weighted"),
    "score agreement": (MeanTeacher, EAGER, weighed("agreement", 0.0), "weighted"),
    "score mean": (FixMatch, {"threshold": 0.5, **ALONE}, weighed("mean", 0.0), "none"),
    "score oracle": (FixMatch, {"threshold": 0.5, **ALONE}, weighed("oracle", 0.0), "weighted"),
    "selection": (FixMatch, {"threshold": 0.5, **ALONE}, selected, "weighted"),
    "QAR": (Supervised, {}, regularised, "weighted"),
    "QW and QAR": (FixMatch, {"threshold": 0.5, **ALONE}, both, "weighted"),
}


def trainer(
    accelerator: Accelerator,
    kind: type[Method] = FixMatch,
    changes: dict[str, Any] | None = None,
    modes: Modes = plain,
    norm: str = "weighted",
    build: Callable[[], nn.Module] = Smooth,
    batch_labelled: int = 4,
) -> Trainer:
    protocol = toy_protocol(STEPS)
    settings = {"validations": STEPS, "batch_labelled": batch_labelled}
    protocol = protocol.model_copy(update={"train": protocol.train.model_copy(update=settings)})
    torch.manual_seed(1)
    quality = ToyQuality().requires_grad_(False).eval()
    torch.manual_seed(0)
    method = kind(build, kind.Settings(**(changes or {})))
    return Trainer(method, Guide(modes(quality)), quality, toy_data(), protocol, SEED, accelerator, norm)


def snapshot(given: Trainer) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in given.method.state_dict().items()}


def gradients(given: Trainer) -> dict[str, Tensor]:
    named = given.method.named_parameters()
    return {name: p.grad.detach().clone() for name, p in named if p.grad is not None}


def outcome(given: Trainer) -> dict[str, Any]:
    steps = given.run()
    next(steps)
    first = gradients(given)
    for _ in steps:
        pass
    return {
        "gradients of the first step": first,
        "gradients of the last step": gradients(given),
        "weights": snapshot(given),
        "history": vars(given.history),
    }


def equal_trainings(accelerator: Accelerator) -> dict[str, Any]:
    """Carry out all cases in float64, where a wrong divisor cannot hide behind rounding."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        torch.set_default_dtype(torch.float64)
        try:
            return {
                name: outcome(trainer(accelerator, kind, changes, modes, norm))
                for name, (kind, changes, modes, norm) in CASES.items()
            }
        finally:
            torch.set_default_dtype(torch.float32)


def refusal(act: Callable[[], Any]) -> str:
    try:
        act()
    except QGBenchError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was refused"


def resumed(accelerator: Accelerator) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Whole training, the state after half of it, and what comes of that state; with running statistics and dropout."""

    def fresh() -> Trainer:
        return trainer(accelerator, MeanTeacher, EAGER, weighed("shuffled", 0.0), build=ToySegmenter)

    whole = outcome(fresh())
    first, second = fresh(), fresh()
    for _ in itertools.islice(first.run(), STEPS // 2):
        pass
    state = copy.deepcopy(first.state_dict())
    torch.manual_seed(99)
    second.load_state_dict(state)
    for _ in second.run():
        pass
    return whole, state, {"weights": snapshot(second), "history": vars(second.history)}


def work(folder: str) -> None:
    """What each process does; it stores what it found."""
    torch.set_printoptions(precision=10)
    earlier = make_accelerator("cpu", "bf16", 2)
    threads = torch.get_num_threads()
    accelerator = make_accelerator("cpu", "fp32", 1)
    world = World(accelerator)
    alone = torch.tensor([float(world.rank), 10.0])
    broken = trainer(accelerator, Broken)
    whole, state, continued = resumed(accelerator)
    found = {
        "rank": world.rank,
        "sizes": [earlier.num_processes, accelerator.num_processes, processes()],
        "threads": [threads, torch.get_num_threads()],
        "earlier still works": World(earlier).mean(alone).tolist(),
        "gathered": world.gather(alone).tolist(),
        "gathered objects": world.gather_object({"rank": world.rank}),
        "of the main one": world.of_main(0.1 + world.rank),
        "any": [broken.any_process(world.rank == 1), broken.any_process(False), broken.any_process(True)],
        "not a number": refusal(lambda: list(broken.run())),
        "steps before": broken.history.step,
        "odd batch": refusal(lambda: trainer(accelerator, batch_labelled=5)),
        "another number of processes": refusal(
            lambda: broken.load_state_dict({**state, "random": state["random"] * 2})
        ),
        "whole": whole,
        "state": state,
        "continued": continued,
        "trainings": equal_trainings(accelerator),
    }
    torch.save(found, Path(folder) / f"{world.rank}.pt")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes found."""
    folder = tmp_path_factory.mktemp("processes")
    run = "import sys; from tests.training.test_processes import work; work(sys.argv[1])"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--no-python"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    started = subprocess.Popen(
        [*launch, sys.executable, "-c", run, str(folder)],
        cwd=Path(__file__).parents[2],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _, said = started.communicate(timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        started.terminate()  # torchrun ends both processes
        pytest.fail(f"the processes wait for ever: {started.communicate()[1]}")
    assert started.returncode == 0, said
    assert "Warning" not in said
    found = [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]
    assert [one["rank"] for one in found] == [0, 1]
    assert all(one["sizes"] == [2, 2, 2] for one in found)
    return found


@pytest.fixture(scope="module")
def one() -> dict[str, Any]:
    """What one process finds."""
    accelerator = make_accelerator("cpu", "fp32", 1)
    assert accelerator.num_processes == 1
    return equal_trainings(accelerator)


def differences(first: Any, second: Any, where: str = "") -> Iterator[tuple[str, float]]:
    """Every number of two nested results, with the absolute difference."""
    if isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key, value in first.items():
            yield from differences(value, second[key], f"{where}/{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), where
        for place, (ours, theirs) in enumerate(zip(first, second, strict=True)):
            yield from differences(ours, theirs, f"{where}/{place}")
    elif isinstance(first, Tensor):
        assert first.shape == second.shape, where
        yield where, float((first.double() - second.double()).abs().max())
    elif isinstance(first, int | float):
        yield where, abs(first - second)
    else:
        assert first == second, where


def apart(first: Any, second: Any) -> tuple[str, float]:
    """Where two results differ most, and by how much."""
    return max(differences(first, second), key=lambda found: found[1])


# The numbers of one process


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_as_one_does(name: str, one: dict[str, Any], two: list[dict[str, Any]]) -> None:
    for found in two:
        where, difference = apart(one[name], found["trainings"][name])
        assert difference < 1e-10, where
    first = one[name]["gradients of the first step"].values()
    assert all(gradient.dtype == torch.float64 for gradient in first)
    assert any(bool(gradient.any()) for gradient in first)
    assert one[name]["history"]["best_step"] is not None


def test_the_cases_are_not_all_alike(one: dict[str, Any]) -> None:
    names = [name for name in CASES if name.startswith(("fixmatch", "score")) and name != "score agreement"]
    for first, second in itertools.combinations(names, 2):
        assert apart(one[first]["weights"], one[second]["weights"])[1] > 1e-6, (first, second)


def test_the_log_is_of_the_joined_batch(two: list[dict[str, Any]]) -> None:
    weight = torch.tensor([0.9, 0.55, 1.0]) ** 2
    share = float(weight.sum() ** 2 / (6 * (weight**2).sum()))
    for found in two:
        log = found["trainings"]["fixmatch, one process rejects all"]["history"]["log"]
        entries = [entry for entry in log if "mean_q" in entry]
        assert entries
        for entry in entries:
            assert entry["mean_q"] == pytest.approx(2.45 / 6)
            assert entry["kept_share"] == pytest.approx(0.5)
            assert entry["effective_sample_size"] == pytest.approx(share)


def test_a_student_that_pauses_keeps_its_weights_but_not_the_run(one: dict[str, Any]) -> None:
    assert not any(name.startswith("students.1") for name in one["denominators"]["gradients of the last step"])
    assert any(name.startswith("students.1") for name in one["denominators"]["gradients of the first step"])


# One state in all processes


def test_weights_running_statistics_and_history_are_the_same_in_all_processes(two: list[dict[str, Any]]) -> None:
    assert apart(two[0]["whole"], two[1]["whole"])[1] == 0
    assert any(name.endswith("running_var") for name in two[0]["whole"]["weights"])


def test_a_run_continues_bit_for_bit(two: list[dict[str, Any]]) -> None:
    for found in two:
        whole = {name: found["whole"][name] for name in ("weights", "history")}
        assert apart(whole, found["continued"])[1] == 0


def test_a_checkpoint_holds_the_random_state_of_every_process(two: list[dict[str, Any]]) -> None:
    states = [[own["cpu"] for own in found["state"]["random"]] for found in two]
    assert [len(found) for found in states] == [2, 2]
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))
    assert not torch.equal(states[0][0], states[0][1])  # dropout differs


def test_one_process_has_a_list_of_one_random_state_and_the_seed_that_it_was_given() -> None:
    given = trainer(make_accelerator("cpu", "fp32", 1))
    (own,) = given.state_dict()["random"]
    torch.manual_seed(salted("dropout", SEED))
    assert torch.equal(own["cpu"], torch.get_rng_state())
    assert given.any_process(True)
    assert not given.any_process(False)


# Errors


def test_a_loss_that_is_not_a_number_in_one_process_stops_both(two: list[dict[str, Any]]) -> None:
    assert two[0]["not a number"] == two[1]["not a number"]
    assert two[0]["not a number"].startswith("QGBenchError: the loss is nan at step 4 of 6 (supervised nan")
    assert [found["steps before"] for found in two] == [3, 3]


def test_a_batch_that_cannot_be_shared_is_refused(two: list[dict[str, Any]]) -> None:
    for found in two:
        assert "UserError: train.batch_labelled = 5" in found["odd batch"]
        assert "2 processes" in found["odd batch"]
        assert "--set train.batch_labelled=6" in found["odd batch"]


def test_a_checkpoint_of_another_number_of_processes_is_refused(two: list[dict[str, Any]]) -> None:
    for found in two:
        assert found["another number of processes"].startswith("UserError: the checkpoint was made by 4 process")
    given = trainer(make_accelerator("cpu", "fp32", 1), MeanTeacher, EAGER, weighed("shuffled"), build=ToySegmenter)
    with pytest.raises(UserError, match="made by 2 process"):
        given.load_state_dict(two[0]["state"])


# Exchange


def test_processes_exchange(two: list[dict[str, Any]]) -> None:
    for found in two:
        assert found["gathered"] == [0.0, 10.0, 1.0, 10.0]
        assert found["gathered objects"] == [{"rank": 0}, {"rank": 1}]
        assert found["of the main one"] == 0.1
        assert found["any"] == [True, False, True]


def test_a_second_accelerator_keeps_the_processes_together(two: list[dict[str, Any]]) -> None:
    for found in two:
        assert found["earlier still works"] == [0.5, 10.0]
        assert found["threads"] == [2, 1]


def test_seeds_of_processes_differ_and_the_main_one_keeps_its_own() -> None:
    def seed(rank: int, common: int) -> int:
        world = World()
        world.rank, world.size = rank, 4
        return world.seed(common)

    seeds = {(rank, common): seed(rank, common) for rank in range(4) for common in range(50)}
    assert len(set(seeds.values())) == len(seeds)
    assert all(seeds[0, common] == common for common in range(50))


# The launch


def test_the_number_of_processes_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert processes() == 1
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert processes() == 4


LAUNCHED = {
    "WORLD_SIZE": "2",
    "LOCAL_WORLD_SIZE": "2",
    "RANK": "0",
    "LOCAL_RANK": "0",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


@pytest.mark.parametrize(
    ("left_over", "message"),
    [
        (
            {"WORLD_SIZE": "2"},
            "says WORLD_SIZE=2, but not RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT: unset WORLD_SIZE for",
        ),
        (
            {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"},
            "but not MASTER_ADDR, MASTER_PORT: unset WORLD_SIZE for one process \\(and LOCAL",
        ),
        ({"LOCAL_RANK": "0"}, "says LOCAL_RANK=0, but not WORLD_SIZE, RANK"),
        ({"PMI_SIZE": "4"}, "says PMI_SIZE=4, but not WORLD_SIZE"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two, which is no number: unset WORLD_SIZE for one process"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0, which is not between 1 and"),
        (LAUNCHED | {"MASTER_PORT": "99999999"}, "MASTER_PORT=99999999, which is not between 0 and 65535"),
        ({"LOCAL_RANK": ""}, "LOCAL_RANK=, which is no number"),
        (LAUNCHED | {"MASTER_PORT": "http"}, "MASTER_PORT=http, which is no number"),
        (LAUNCHED | {"LOCAL_WORLD_SIZE": "x"}, "LOCAL_WORLD_SIZE=x, which is no number"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_what_a_launcher_left_behind_is_refused_at_once(
    left_over: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    for name, value in left_over.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message) as refused:
        make_accelerator("cpu", "fp32", 1)
    assert "torchrun" in str(refused.value)


def test_whatever_else_accelerate_refuses_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "many")
    with pytest.raises(QGBenchError, match=r"accelerate cannot start: ValueError: .*'many'\. Unset the variables"):
        make_accelerator("cpu", "fp32", 1)


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match=r"2 processes.*1 CUDA device"):
        make_accelerator("cuda", "fp32", 1)


def test_a_launch_that_starts_one_process_where_several_were_asked_for_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("qgbench.engine.device.logger.propagate", True)
    make_accelerator("cpu", "fp32", 1)
    assert not caplog.messages
    for name, value in {"ACCELERATE_USE_CPU": "True", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    make_accelerator("cpu", "fp32", 1)
    assert "torchrun" in caplog.text


# CUDA, as far as a processor can tell


def test_what_cannot_repeat() -> None:
    assert what_cannot_repeat("cpu") == ""
    assert "bilinear" in what_cannot_repeat("cuda")


@pytest.mark.parametrize("encoder", ["resnet18", "tf_efficientnet_lite0"])
def test_synchronised_batch_normalisation_computes_the_same(encoder: str) -> None:
    network = build_network("unet", encoder, "none", (32, 16, 16, 8, 8), 64).eval()
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = network(image)
        converted = convert_sync_batchnorm(network)
        assert torch.equal(converted(image), expected)
    assert any(isinstance(layer, nn.SyncBatchNorm) for layer in converted.modules())
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in converted.modules())
