"""The guard of the numbers: sound code passes, here and with other kernels, and each planted defect is found."""

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import Result
from typer.testing import CliRunner

from qgbench.base.errors import UserError
from qgbench.base.interruption import Interrupted
from qgbench.baselines.mean_teacher import MeanTeacher
from qgbench.baselines.unimatch import UniMatch
from qgbench.cli.main import app
from qgbench.data.content import CACHE_VARIABLE, default_cache_dir
from qgbench.data.experiment import ImageSet
from qgbench.data.run_data import training_data
from qgbench.launch.executor import Ending, Executor, Request
from qgbench.launch.job import Job, main
from qgbench.launch.plan import make_plan
from qgbench.methods import Batch, Method, probabilities, reduce_term
from qgbench.methods.losses import soft_dice_loss
from qgbench.metrics.masks import measure
from qgbench.plugins.registry import method_names
from qgbench.regress import reference as references
from qgbench.regress.compare import FAULTS, Finding, compare, exact, measured_noise
from qgbench.regress.fixed import fixed_numbers
from qgbench.regress.reference import Noise, Numbers, Reference, Tolerance
from qgbench.regress.rerun import _own_cache, origin, rerun
from qgbench.run import provenance
from qgbench.spec.run_spec import RunSpec
from qgbench.spec.suite import load_suite, suite_names
from qgbench.spec.task import Task
from qgbench.trust.reproduce import compare_machines
from tests.commands import small_data

SUITE = """
name = "tiny"
about = "two runs of two steps; no g is trained"
protocol = "smoke"
threads = 1

[[block]]
name = "core"
rows = ["mean_teacher", "mean_teacher+qw-confidence"]
seeds = [0]
set = {{ "train.steps" = 2 }}
[block.regimes]
{data!r} = ["n6@grouped"]
"""


class Here(Executor):
    """Carries out every job in this process, where a defect can be planted."""

    queues = False
    slots = 1

    @classmethod
    def start(cls, request: Request) -> Self:
        return cls()

    def submit(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            main(job.model_dump_json())

    def alive(self) -> set[str]:
        return set()

    def endings(self) -> dict[str, Ending]:
        return {}

    def stop(self) -> None:
        pass


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Four methods in place of all, one of several classes, arrays prepared once: what is planted shows in these."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "qgbench.regress.fixed.method_names", lambda: ["fixmatch", "mean_teacher", "pseudo_label", "unimatch"]
        )
        patch.setattr("qgbench.regress.fixed._OF_SEVERAL_CLASSES", ["fixmatch"])
        patch.setattr("qgbench.regress.rerun._own_cache", lambda _: nullcontext())
        patch.setattr("qgbench.regress.rerun.this_machine", lambda _: Here())
        patch.setattr(provenance, "git_commit", lambda: "0" * 40)
        yield


def command(*words: str) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, ["regress", *words])


def refusal(result: Result) -> str:
    assert isinstance(result.exception, UserError), result.output
    return str(result.exception)


@dataclass(frozen=True)
class Checked:
    """A suite with a reference that was written by the command, and the numbers of the same code with two threads."""

    suite: Path
    reference: Reference
    two_threads: Numbers

    @property
    def file(self) -> Path:
        return self.suite.with_suffix(".reference.json")

    def numbers(self, folder: Path, only: Sequence[str] = (), threads: int = 1) -> Numbers:
        suite = load_suite(str(self.suite)).model_copy(update={"threads": threads})
        return rerun(make_plan(suite, folder / "rerun", None, "cpu"), Here(), only)

    def fixed(self) -> Numbers:
        """Those of no run."""
        plan = make_plan(load_suite(str(self.suite)), self.suite.parent, None, "cpu")
        return fixed_numbers([job.spec for job in plan.runs], None)


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Checked:
    folder = tmp_path_factory.mktemp("regress")
    data = small_data(folder / "data")
    suite = folder / "tiny.toml"
    suite.write_text(SUITE.format(data=str(data)))
    written = command("--suite", str(suite), "--update", "--why", "the first")
    assert written.exit_code == 0, written.output
    first = Checked(suite, references.read(str(suite), load_suite(str(suite))), {})
    other = first.numbers(folder, threads=2)
    noise = measured_noise(first.reference.numbers, {"2 threads": other}, origin())
    reference = first.reference.model_copy(update={"noise": noise})
    references.write(str(suite), reference)
    return Checked(suite, reference, other)


def elsewhere(reference: Reference) -> Reference:
    """The reference as another processor would have made it."""
    hardware = reference.origin.hardware | {"processor": "Another 9000"}
    return reference.model_copy(update={"origin": reference.origin.model_copy(update={"hardware": hardware})})


def faults(findings: Sequence[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.verdict in FAULTS]


def test_sound_code_gives_every_number_again(checked: Checked) -> None:
    again = command("--suite", str(checked.suite))
    assert again.exit_code == 0, again.output
    assert "every number must be the same" in again.output
    assert "as the reference" in again.output
    assert [change.why for change in checked.reference.history] == ["the first"]


def test_other_kernels_change_last_bits_and_stay_within_tolerance(checked: Checked) -> None:
    strict = compare(checked.reference, checked.two_threads, is_exact=True)
    changed = {finding.item.partition(":")[0] for finding in faults(strict)}
    assert changed == {"run"} or changed == {"run", "steps"}, "and nothing that no training changes"
    loose = compare(elsewhere(checked.reference), checked.two_threads, is_exact=False)
    assert not faults(loose)
    assert {finding.verdict for finding in loose} >= {"same", "within tolerance"}


# Defects: how each is planted, and numbers that it changes. All are found by both rules.


def wrong_average(patch: pytest.MonkeyPatch) -> None:
    """The teacher takes the share of the student that it should keep of itself."""
    right = Method.update_teacher
    patch.setattr(Method, "update_teacher", lambda self, decay: right(self, 1.0 - decay))


def buffers_averaged(patch: pytest.MonkeyPatch) -> None:
    """The teacher's running statistics are averaged where the method copies them."""
    patch.setattr(MeanTeacher, "ema_buffers", "averaged")


def decoded_with_dropped_features(patch: pytest.MonkeyPatch) -> None:
    """UniMatch decodes labelled images in one batch with dropped features, and without the clean weak ones."""

    def wrong(self: UniMatch, batch: Batch) -> Any:
        label, labelled = self.label(self.student, batch.u_w), len(batch.x_l)
        features = self.student.encode(torch.cat([batch.x_l, batch.u_w]))
        dropped = [F.dropout2d(f[labelled:], self.settings.dropout) for f in features]
        both = [torch.cat([f[:labelled], d]) for f, d in zip(features, dropped, strict=True)]
        pred_l, pred_u_fp = self.student.head(self.student.decode(both)).split([labelled, len(batch.u_w)])
        return pred_l, pred_u_fp, label

    patch.setattr(UniMatch, "_together", wrong)


def stale_statistics(patch: pytest.MonkeyPatch) -> None:
    """A student labels with its running statistics."""
    patch.setattr("qgbench.methods.contract.label_probabilities", probabilities)


def shared_seeds(patch: pytest.MonkeyPatch) -> None:
    """All data sets and regimes have the seeds of the index alone."""
    patch.setattr(RunSpec, "seed_of", lambda self, purpose: self.seed)


def dropped_weight(patch: pytest.MonkeyPatch) -> None:
    """QW logs its weights, and the loss is reduced without them."""
    patch.setattr(
        "qgbench.training.objective.reduce_term",
        lambda term, weight, *rest: reduce_term(term, torch.ones_like(weight), *rest),
    )


def training_mask_shifted(patch: pytest.MonkeyPatch) -> None:
    right = ImageSet.masks
    patch.setattr(ImageSet, "masks", lambda self, *where: right(self, *where).roll(1, dims=3))


def predicted_mask_shifted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("qgbench.training.evaluation.measure", lambda mask, *rest: measure(np.roll(mask, 1, axis=1), *rest))


def distances_swapped(patch: pytest.MonkeyPatch) -> None:
    def wrong(*given: Any) -> Any:
        found = measure(*given)
        return replace(found, hd95=found.hd95_max, hd95_max=found.hd95)

    patch.setattr("qgbench.training.evaluation.measure", wrong)


def other_spacing(patch: pytest.MonkeyPatch) -> None:
    """Slices lie as close to each other as pixels do."""
    patch.setattr(
        "qgbench.training.evaluation.measure",
        lambda pred, ref, spacing: measure(pred, ref, (*spacing[-1:], *spacing[-2:])[-len(spacing) :]),
    )


def quality_of_absent_classes(patch: pytest.MonkeyPatch) -> None:
    """A label's q is the mean over all classes, whatever the label holds."""
    patch.setattr("qgbench.quality.scores.mean_of_held", lambda task, values, label: values.mean(1))


def background_is_a_class(patch: pytest.MonkeyPatch) -> None:
    """The supervised Dice is averaged over the background, too."""

    def wrong(task: Task, prob: torch.Tensor, target: torch.Tensor, smooth: float = 1.0) -> torch.Tensor:
        channels = [(prob[:, [c]], target[:, [c]]) for c in range(task.channels)]
        return torch.stack([soft_dice_loss(Task(), *channel, smooth) for channel in channels]).mean(0)

    patch.setattr("qgbench.methods.losses.soft_dice_loss", wrong)


def leaked_test_image(patch: pytest.MonkeyPatch) -> None:
    def wrong(prepared: Any, extra: Any, split: Any, *rest: Any) -> Any:
        leaky = split.copy()
        leaky.loc[leaky.index[leaky["split"] == "test"][0], "split"] = "train"
        return training_data(prepared, extra, leaky, *rest)

    patch.setattr("qgbench.data.run_data.training_data", wrong)


TEACHER = {("steps: mean_teacher", "teacher moved"), ("steps: mean_teacher+qg", "teacher to student")}
EVALUATION = "evaluation: DATA, darker is lesion"
DEFECTS: list[tuple[Callable[[pytest.MonkeyPatch], None], set[tuple[str, str]], str]] = [
    (wrong_average, TEACHER, "steps: fixmatch"),
    (buffers_averaged, TEACHER, "steps: fixmatch"),
    (decoded_with_dropped_features, {("steps: unimatch", "step 1 supervised")}, "steps: fixmatch"),
    (stale_statistics, {("steps: pseudo_label", "step 1 unlabelled_0")}, "steps: fixmatch"),
    (shared_seeds, {("data: DATA n6@grouped, seed 0", "seeds")}, EVALUATION),
    (dropped_weight, {("steps: fixmatch+qg", "step 1 unlabelled_0")}, "steps: fixmatch"),
    (
        training_mask_shifted,
        {("data: DATA n6@grouped, seed 0", "labelled pixels"), ("steps: fixmatch", "step 1 supervised")},
        EVALUATION,
    ),
    (predicted_mask_shifted, {(EVALUATION, "n_tp"), (EVALUATION, "hd95")}, "steps: fixmatch"),
    (distances_swapped, {(EVALUATION, "hd95"), (EVALUATION, "hd95_max")}, "steps: fixmatch"),
    (
        other_spacing,
        {(f"evaluation: phantom3d, {part}", "hd95") for part in ("myo", "all classes")},
        EVALUATION,
    ),
    (quality_of_absent_classes, {("steps: fixmatch+qg, 3 classes", "step 4 mean_q")}, "steps: fixmatch+qg"),
    (background_is_a_class, {("steps: fixmatch, 3 classes", "step 1 supervised")}, "steps: fixmatch"),
    (
        leaked_test_image,
        {("data: DATA n6@grouped, seed 0", name) for name in ("unlabelled", "test images among the others")},
        EVALUATION,
    ),
]
# The suite is of mean_teacher, on pictures of one class.
IN_NO_RUN = (
    *(decoded_with_dropped_features, stale_statistics),
    *(other_spacing, quality_of_absent_classes, background_is_a_class),
)


@pytest.mark.parametrize(("plant", "expected", "sound"), DEFECTS, ids=[plant.__name__ for plant, *_ in DEFECTS])
def test_a_planted_defect_is_found_here_and_on_another_processor(
    plant: Callable[[pytest.MonkeyPatch], None],
    expected: set[tuple[str, str]],
    sound: str,
    checked: Checked,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant(monkeypatch)
    numbers = checked.fixed() if plant in IN_NO_RUN else checked.numbers(tmp_path, only=["+qw-confidence"])
    data = str(checked.suite.with_name("data"))
    for reference, is_exact in ((checked.reference, True), (elsewhere(checked.reference), False)):
        findings = compare(reference, numbers, is_exact, whole=False)
        found = {(each.item.replace(data, "DATA"), each.name) for each in faults(findings)}
        assert expected <= found, is_exact
        assert sound not in {item for item, _ in found}, "what the defect does not touch is as it was"
        if is_exact and plant not in IN_NO_RUN:
            assert any(item.startswith("run: ") for item, _ in found)


def test_the_command_shows_what_differs_and_by_how_much_is_allowed(
    checked: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    references.write(str(checked.suite), elsewhere(checked.reference))
    try:
        distances_swapped(monkeypatch)
        result = command("--suite", str(checked.suite))
    finally:
        references.write(str(checked.suite), checked.reference)
    assert result.exit_code == 1
    assert "Another 9000" in result.output
    assert "numbers may differ by their tolerances" in result.output
    row = next(line for line in result.output.splitlines() if "│ hd95 " in line)
    then = checked.reference.numbers[f"evaluation: {checked.suite.with_name('data')}, darker is lesion"]
    assert f"{then['hd95']:.6g}" in row
    assert f"{then['hd95_max']:.6g}" in row
    assert f"qgbench regress --suite {checked.suite} --update --why TEXT" in result.output


def test_images_are_prepared_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays that a sound code prepared would hide a defect in the reading of images."""
    monkeypatch.setenv(CACHE_VARIABLE, "warm")
    with _own_cache(tmp_path / "cold"):
        assert default_cache_dir() == tmp_path / "cold"
    assert default_cache_dir() == Path("warm")


def test_a_rerun_begins_with_nothing(checked: Checked, tmp_path: Path) -> None:
    """Finished runs would be compared in place of what is there now."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "left").touch()
    said = refusal(command("--suite", str(checked.suite), "--output", str(tmp_path)))
    assert "is not empty" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: None, "has no reference"),
        (lambda data: "{", "is damaged"),
        (lambda data: [], "is damaged"),
        (lambda data: data | {"numbers": 3}, "is damaged: numbers: "),
        (lambda data: data | {"schema_version": 0}, "is of schema version 0, and this qgbench reads 1"),
        (
            lambda data: data | {"protocol_version": 1},
            "is of protocol smoke v1, g v3, and the suite now follows smoke v3, g v3",
        ),
        (
            lambda data: data | {"g_version": 1},
            "is of protocol smoke v3, g v1, and the suite now follows smoke v3, g v3",
        ),
        (lambda data: data | {"suite": "0" * 64}, "is of other runs than the suite"),
    ],
)
def test_a_reference_that_cannot_be_used_is_refused_with_what_to_type(
    change: Callable[[Any], Any], said: str, checked: Checked, tmp_path: Path
) -> None:
    suite = tmp_path / "tiny.toml"
    suite.write_text(checked.suite.read_text())
    changed = change(json.loads(checked.file.read_text()))
    if changed is not None:
        text = changed if isinstance(changed, str) else json.dumps(changed)
        suite.with_suffix(".reference.json").write_text(text)
    message = refusal(command("--suite", str(suite)))
    assert said in message
    assert message.endswith(f"qgbench regress --suite {suite} --update --why TEXT")


def test_without_measured_noise_another_processor_is_refused_before_anything_is_trained(
    checked: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = elsewhere(checked.reference).model_copy(update={"noise": None})
    monkeypatch.setattr(references, "read", lambda *_: bare)
    monkeypatch.setattr("qgbench.regress.command.rerun", lambda *_: pytest.fail("something was trained"))
    assert "python perf/regress_noise.py" in refusal(command("--suite", str(checked.suite)))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--suite", "smke"], "unknown suite 'smke'. Did you mean 'smoke'?"),
        (["--update"], "--update and --why TEXT go together"),
        (["--update", "--why", " "], "--update and --why TEXT go together"),
        (["--why", "a reason"], "--update and --why TEXT go together"),
        (["--update", "--why", "a reason", "--only", "k0"], "leave --only out"),
    ],
)
def test_a_mistake_in_the_options_has_one_message(words: list[str], said: str) -> None:
    assert said in refusal(command(*words))


def test_an_interruption_does_not_promise_to_continue(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> bool:
        raise Interrupted(signal.SIGINT)

    monkeypatch.setattr("qgbench.regress.command.regress", interrupted)
    result = CliRunner().invoke(app, ["regress"])
    assert result.exit_code == 128 + signal.SIGINT
    assert result.stderr == "interrupted; nothing was compared or written, and the same command begins anew.\n"


def test_numbers_that_come_go_or_were_left_out() -> None:
    reference = Reference.model_construct(
        numbers={"steps: a": {"x": 1.0, "gone": 2.0}, "run: b": {"dice": 0.5}, "run: c": {"dice": 0.5}}, noise=None
    )
    here: Numbers = {"steps: a": {"x": 1.0}, "steps: new": {"x": 1.0}, "run: b": {"dice": 0.5}}
    verdicts = {(f.item, f.name): f.verdict for f in compare(reference, here, True)}
    assert verdicts == {
        ("steps: a", "x"): "same",
        ("steps: a", "gone"): "missing",
        ("run: b", "dice"): "same",
        ("run: c", "dice"): "missing",
        ("steps: new", "x"): "new",
    }
    assert ("run: c", "dice") not in {(f.item, f.name) for f in compare(reference, here, True, whole=False)}


def test_tolerances_are_five_times_the_largest_difference_of_a_name_and_stage() -> None:
    reference: Numbers = {"run: a": {"dice": 0.5, "best": None, "rows": "x"}, "run: b": {"dice": 0.75, "best": 4}}
    variants: dict[str, Numbers] = {
        "one": {"run: a": {"dice": 0.5, "best": 3, "rows": "y"}, "run: b": {"dice": 0.875, "best": 4}},
        "two": {"run: a": {"dice": 0.53125, "best": None, "rows": "y"}, "run: b": {"dice": 0.75, "best": 4}},
    }
    noise = measured_noise(reference, variants, origin())
    assert noise.tolerances == {
        "run: dice": Tolerance(limit=0.63, largest=0.125, differences=4),  # 0.625, rounded up
        "run: best": Tolerance(limit=None, largest=None, differences=4),  # not always a number
    }
    known = Reference.model_construct(numbers=reference, noise=noise)

    def verdict(dice: float, best: int | None) -> list[str]:
        numbers: Numbers = {"run: a": reference["run: a"], "run: b": {"dice": dice, "best": best}}
        return [found.verdict for found in compare(known, numbers, False) if found.item == "run: b"]

    assert verdict(0.75 - 0.625, 2) == ["within tolerance", "not compared"]
    assert verdict(0.75 - 0.635, 4) == ["differs", "same"]


def test_a_count_of_few_things_that_never_moved_is_not_compared_elsewhere() -> None:
    reference: Numbers = {
        "run: a": {"missed": 1.0, "spurious": 2.0, "guidance kept_share": 0.5, "n_ref": 100.0},
        "steps: a": {"step 1 kept_share": 0.5},
    }
    moved = reference | {"run: a": reference["run: a"] | {"spurious": 3.0}}
    noise = measured_noise(reference, {"one": reference, "two": moved}, origin())
    assert {name: tolerance.limit for name, tolerance in noise.tolerances.items()} == {
        "run: missed": None,  # one image more on another processor is no defect
        "run: spurious": 5.0,
        "run: guidance kept_share": None,
        "run: n_ref": 0.001,  # no result of training
        "steps: step 1 kept_share": 5.1e-6,  # in float64 nothing flips; rounded up
    }


def test_processors_of_one_name_and_other_instructions_are_others() -> None:
    here = origin()
    assert exact(compare_machines(here, here))
    hardware = here.hardware | {"instructions": "AVX2"}
    assert not exact(compare_machines(here, here.model_copy(update={"hardware": hardware})))
    packages = here.packages | {"torch": "2.6.0"}
    assert not exact(compare_machines(here, here.model_copy(update={"packages": packages})))
    assert "qgbench" not in here.packages, "a new version of what is tested does not excuse other numbers"


def test_the_reference_that_ships_is_whole_small_and_of_a_commit() -> None:
    with_reference = [name for name in suite_names() if references.locate(name).is_file()]
    assert with_reference == ["smoke"]
    reference = references.read("smoke", load_suite("smoke"))
    assert len(references.locate("smoke").read_bytes()) < 200_000
    assert reference.origin.git_commit is not None
    assert "dirty" not in reference.origin.git_commit
    assert isinstance(reference.noise, Noise)
    compare(reference, reference.numbers, is_exact=False)  # no tolerance is missing
    steps = {item.removeprefix("steps: ") for item in reference.numbers if item.startswith("steps: ")}
    several = [(name, ", 3 classes") for name in ("fixmatch", "contrastive")]
    expected = [*((name, "") for name in method_names()), *several]
    assert steps == {f"{name}{addon}{classes}" for name, classes in expected for addon in ("", "+qg")}
    assert any(item.startswith("evaluation: phantom3d, ") for item in reference.numbers)
    assert sum(item.startswith("run: ") for item in reference.numbers) == len(load_suite("smoke").entries())
