"""Records are repeated: what is refused, what counts as the same, and the mark that stays beside the record."""

import errno
import json
import math
import os
import re
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from qgbench.base.errors import QGBenchError, UserError
from qgbench.cli.main import app
from qgbench.run import provenance
from qgbench.run.folder import RunFolder
from qgbench.run.record import images_path, labels_path, read_images, read_record, summarise, write_images, write_record
from qgbench.trust import reproduce
from qgbench.trust.reproduce import (
    compare_conditions,
    exact_expected,
    judge,
    mark,
    noise_of,
    open_original,
    print_reproduction,
    record_path_of,
    reproduction_of,
    reproductions_path,
    sibling_dice,
)
from qgbench.trust.submit import submit
from qgbench.trust.verify import verify_records
from tests.commands import Command, small_data
from tests.trust.test_verify import overlap_again, present, with_metrics, write_result, write_run

COMMIT = "0123456789abcdef0123456789abcdef01234567"
RUN = ["run", "--protocol", "smoke", "--threads", "1", "--steps", "3", "--labelled", "6", "-q"]
pytestmark = pytest.mark.usefixtures("brief_runs")
Change = Callable[[dict[str, Any], pd.DataFrame], object]


@pytest.fixture(scope="module", autouse=True)
def committed() -> Any:
    """The checkout under test may have changes, of which nobody can say whether they were the same before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provenance, "git_commit", lambda: COMMIT)
        yield


def command(*words: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, list(words))


def refusal(result: Result) -> str:
    assert isinstance(result.exception, UserError), result.output
    return str(result.exception)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a method in a file of its own, on a data set of 40 images that can be changed."""
    folder = tmp_path_factory.mktemp("trained")
    data = small_data(folder / "data")
    assert command("new", "method", "mine", "--output", str(folder)).exit_code == 0
    words = [*RUN, "--dataset", str(data), "--method", str(folder / "mine.py")]
    result = CliRunner().invoke(app, [*words, "--output", str(folder / "runs")], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return Path(result.stdout.strip()).parent


@pytest.fixture(scope="module")
def reruns(trained: Path) -> Path:
    """A folder with a finished rerun, so that the comparisons below train nothing."""
    folder = trained.parents[1] / "reruns"
    shutil.copytree(trained, trained.parents[1] / "first" / trained.name)
    result = command("reproduce", str(trained.parents[1] / "first" / trained.name), "--output", str(folder))
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the record, in a folder of runs of its own."""
    folder = tmp_path / "runs" / trained.name
    folder.mkdir(parents=True)
    for name in ("record.json", "images.csv", "labels.csv"):
        shutil.copy(trained / name, folder)
    return folder


def change(run: Path, how: Change) -> None:
    """Change a record and its rows, and make its averages those of the rows."""
    data, images = json.loads((run / "record.json").read_text()), read_images(run / "images.csv")
    how(data, images)
    data["summaries"] = {"student": summarise(images).model_dump()}
    write_images(run / "images.csv", images)
    (run / "record.json").write_text(json.dumps(data))


def one_pixel_less(_: dict[str, Any], images: pd.DataFrame) -> None:
    images["n_tp"] = (images["n_tp"] - 1).clip(lower=0)
    overlap_again(images)
    images[["dice", "jaccard", "precision", "recall"]] = images[["dice", "jaccard", "precision", "recall"]].fillna(0)


def in_provenance(name: str, value: Any) -> Change:
    def how(data: dict[str, Any], _: pd.DataFrame) -> None:
        *parents, last = ["provenance", *name.split(".")]
        for parent in parents:
            data = data[parent]
        data[last] = value

    return how


def both(*hows: Change) -> Change:
    return lambda data, images: [how(data, images) for how in hows]


OTHER_TORCH = in_provenance("packages.torch", "1.0")


# Verdicts


def test_a_rerun_is_identical_and_the_record_is_marked_so(trained: Path, reruns: Path) -> None:
    first = trained.parents[1] / "first" / trained.name
    rerun = reruns / trained.name
    assert (rerun / "images.csv").read_bytes() == (trained / "images.csv").read_bytes()
    found = reproduction_of(first / "record.json")
    assert found is not None
    assert (found.verdict, found.exact_expected, found.differing) == ("identical", True, {})
    assert set(found.differences.values()) == {0}
    assert (found.images_differing, found.largest_dice_difference, found.noise) == (0, 0, None)
    assert found.git_commit == COMMIT
    assert [fault.rule for fault in verify_records([first]) if fault.severity == "fault"] == []
    text = (first / "reproductions.json").read_text()
    assert str(trained.parents[1]) not in text
    assert trained.name not in text


def test_the_same_command_again_trains_nothing_and_marks_nothing_twice(run: Path, reruns: Path) -> None:
    before = (reruns / run.name / "record.json").read_bytes()
    for _ in range(2):
        result = command("reproduce", str(run), "--output", str(reruns))
        assert result.exit_code == 0
        assert "identical" in result.stdout
        assert "torch" in result.stdout
    assert (reruns / run.name / "record.json").read_bytes() == before
    assert len(json.loads((run / "reproductions.json").read_text())["reproductions"]) == 1


def test_one_pixel_disagrees_where_everything_is_the_same(run: Path, reruns: Path) -> None:
    change(run, one_pixel_less)
    result = command("reproduce", str(run / "record.json"), "--output", str(reruns))
    assert result.exit_code == 1
    assert "disagrees: code, packages, processor and weights are the same" in " ".join(result.stdout.split())
    found = reproduction_of(run / "record.json")
    assert found is not None
    assert found.verdict == "disagrees"
    first, second = (read_images(folder / "images.csv") for folder in (run, reruns / run.name))
    differing = (first["dice"] != second["dice"]).sum()
    assert 0 < found.images_differing == differing
    assert found.largest_dice_difference == (first["dice"] - second["dice"]).abs().max()
    assert found.differences["dice"] == second["dice"].mean() - first["dice"].mean()
    (fault,) = [fault for fault in verify_records([run]) if fault.severity == "fault"]
    assert fault.rule == "reproduction"
    assert fault.text.startswith("its rerun disagrees")


def test_one_pixel_is_noise_with_another_version_of_a_package(run: Path, reruns: Path) -> None:
    change(run, both(one_pixel_less, OTHER_TORCH))
    result = command("reproduce", str(run), "--output", str(reruns))
    assert result.exit_code == 0, result.output
    found = reproduction_of(run / "record.json")
    assert found is not None
    assert (found.verdict, found.exact_expected) == ("within noise", False)
    assert found.differing == {"torch": ("1.0", provenance.package_versions()["torch"])}
    assert found.noise == pytest.approx(2.5758293 * math.sqrt(2) * 0.015)
    # Nothing but that the rows are no longer those that the record was written with.
    assert [fault.rule for fault in verify_records([run]) if fault.severity == "fault"] == ["rows"]


def half_of_it(_: dict[str, Any], images: pd.DataFrame) -> None:
    images["n_tp"] //= 2
    images["n_pred"] = images["n_pred"].clip(lower=1)
    overlap_again(images)


def test_more_than_noise_disagrees_with_another_version_too(run: Path, reruns: Path) -> None:
    change(run, both(half_of_it, OTHER_TORCH))
    result = command("reproduce", str(run), "--output", str(reruns))
    assert result.exit_code == 1
    assert "would differ by less than 5.46 points in 99 % of cases" in " ".join(result.stdout.split())


@pytest.mark.parametrize("column", ["n_ref", "height", "group"])
def test_what_no_training_changes_disagrees_whatever_the_noise(run: Path, reruns: Path, column: str) -> None:
    def how(_: dict[str, Any], images: pd.DataFrame) -> None:
        images.loc[0, column] = images.loc[0, column] * 2  # pixels; or a group's name twice

    change(run, both(how, OTHER_TORCH))
    found = judge(open_original(run), reruns / run.name / "record.json")
    assert found.verdict == "disagrees"
    assert "which no training changes" in found.reason


def test_a_metric_that_does_not_ship_is_compared_too(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with_metrics(tmp_path / name)
    found = judge(open_original(tmp_path / "a"), tmp_path / "b/record.json")
    assert (found.verdict, found.differences["depth"]) == ("identical", 0)
    images = read_images(tmp_path / "b/images.csv", ["boundary", "depth"])
    images.loc[5, "depth"] += 1
    record = read_record(tmp_path / "b")
    student = summarise(images, record.metrics.values())
    write_images(tmp_path / "b/images.csv", images, record.metrics)
    write_record(tmp_path / "b", record.model_copy(update={"summaries": {"student": student}}))
    found = judge(open_original(tmp_path / "a"), tmp_path / "b/record.json")
    assert (found.verdict, found.images_differing) == ("disagrees", 0)
    assert {name for name, value in found.differences.items() if value} == {"depth"}
    assert found.differences["depth"] == pytest.approx(1 / len(images))
    print_reproduction(open_original(tmp_path / "a"), found, console := Console(record=True, width=120))
    assert re.search(r"depth .* \+0\.01 ", console.export_text())


def test_a_metric_that_a_rerun_does_not_measure_is_named_and_not_compared(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "b"):
        with_metrics(tmp_path / name)
    record, images = read_record(tmp_path / "b"), read_images(tmp_path / "b/images.csv")
    write_images(tmp_path / "b/images.csv", images)
    student = summarise(images)
    write_record(tmp_path / "b", record.model_copy(update={"metrics": {}, "summaries": {"student": student}}))
    found = judge(open_original(tmp_path / "a"), tmp_path / "b/record.json")
    assert found.verdict == "identical"
    assert "dice" in found.differences
    assert "depth" not in found.differences
    assert caplog.messages == ["not compared, because no installed package measures it: boundary, depth"]


def test_noise_is_students_quantile_over_the_other_seeds(run: Path) -> None:
    # Tables: t(0.995) with 2 degrees of freedom is 9.925, with 3 it is 5.841; the normal quantile is 2.576.
    assert noise_of([0.80, 0.82, 0.84]).limit == pytest.approx(9.925 * math.sqrt(2) * 0.02, rel=1e-4)
    assert noise_of([0.80, 0.80, 0.80, 0.84]).limit == pytest.approx(5.841 * math.sqrt(2) * 0.02, rel=1e-4)
    assert noise_of([0.1, 0.9]).limit == noise_of([]).limit == pytest.approx(2.576 * math.sqrt(2) * 0.015, rel=1e-4)


def test_two_trainings_of_equal_spread_are_called_wrong_once_in_a_hundred() -> None:
    stream = np.random.default_rng(0)
    drawn = 0.8 + 0.02 * stream.standard_normal((4000, 5))
    wrong = [abs(first - second) > noise_of(list(others)).limit for first, second, *others in drawn]
    assert 0.006 < np.mean(wrong) < 0.014  # standard error 0.0016


def test_siblings_are_other_seeds_of_the_cell_each_once(run: Path, tmp_path: Path) -> None:
    def put(name: str, **changes: Any) -> None:
        record = read_record(run)
        means = record.summary.means | {"dice": changes["seed"] / 10}
        student = record.summary.model_copy(update={"means": means})
        update = {"spec": record.spec.model_copy(update=changes), "summaries": {"student": student}}
        write_record(run.parent / name, record.model_copy(update=update))

    for seed in (1, 2, 3):
        put(f"seed{seed}", seed=seed)
    put("seed1~2", seed=1)
    put("own~2", seed=0)
    put("twin", seed=4, qg_mode="qw")
    put("other", seed=5, method="mean_teacher")
    (run.parent / "broken").mkdir()
    (run.parent / "broken/record.json").write_text("{")
    assert sorted(sibling_dice(open_original(run))) == [0.1, 0.2, 0.3]


def test_siblings_among_results_are_the_other_seeds_beside(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        target = write_result(tmp_path, *present(seed))
    original = reproduce.Original(target, *present(2))
    expected = [present(seed)[0].summary.means["dice"] for seed in (0, 1)]
    assert sibling_dice(original) == expected


@pytest.mark.parametrize(
    ("what", "exact"),
    [
        ({}, True),
        ({"packages": {"torch": "1.0"}}, False),
        ({"git_commit": "f" * 40}, False),
        ({"hardware": {**provenance.hardware(), "processor": "another"}}, False),
        ({"hardware": {**provenance.hardware(), "instructions": "AVX2"}}, False),
        ({"hardware": {**provenance.hardware(), "cores": 999}}, True),
        ({"encoder": "f" * 64}, False),
        ({"python": "3.99"}, True),
    ],
)
def test_what_must_be_the_same_for_equal_numbers(run: Path, what: dict[str, Any], exact: bool) -> None:
    record = read_record(run)
    conditions = compare_conditions(record, record.provenance.model_copy(update=what))
    assert exact_expected("cpu", conditions) is exact
    assert not exact_expected("cuda", conditions)


def test_uncommitted_changes_are_never_the_same_code(run: Path) -> None:
    change(run, in_provenance("git_commit", f"{COMMIT}+dirty"))
    record = read_record(run)
    assert not exact_expected("cpu", compare_conditions(record, record.provenance))


def test_a_run_that_no_g_guides_can_be_repeated_whatever_g_was(run: Path) -> None:
    def former(data: dict[str, Any], _: pd.DataFrame) -> None:
        data["settings"]["protocol"]["g_version"] = 1
        data["settings"]["protocol"]["quality"]["steps"] = 1

    change(run, former)
    assert open_original(run).record.g_version is None


# Refused


def guided_by_a_former_g(data: dict[str, Any], _: pd.DataFrame) -> None:
    data["provenance"]["g"] = "g of then"
    data["settings"]["protocol"]["g_version"] = 1


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (in_provenance("data", "0" * 64), "another experiment: data differs"),
        (in_provenance("split", "0" * 64), "another experiment: split differs"),
        (in_provenance("labelled_ids", ["a"]), "another experiment: labelled images differs"),
        (lambda data, _: data["spec"].update(protocol_version=1), r"'smoke' version 1, and this qgbench has version"),
        (guided_by_a_former_g, r"by the g of 'smoke' version 1, and this qgbench"),
        (lambda data, _: data["spec"].update(protocol="smoky"), "unknown protocol 'smoky'. Did you mean 'smoke'"),
        (lambda data, _: data["settings"]["method"].update(threshold=0.1), "method.threshold 0.1 (here 0.8)"),
        (lambda data, _: data["spec"].update(processes=2), "torchrun --nproc_per_node 2 -m qgbench reproduce"),
        (
            lambda data, _: data["spec"].pop("method"),
            "is not a record: spec.method: Field required. It cannot be repeated",
        ),
        (lambda data, _: data["spec"].update(source="a" * 64), "and the record's is aaaaaaaaaaaa: that"),
        (lambda data, _: data["spec"].update(dataset="nowhere"), "nowhere"),
    ],
)
def test_another_experiment_is_refused_before_anything_is_trained(
    run: Path, tmp_path: Path, how: Change, said: str
) -> None:
    change(run, how)
    result = command("reproduce", str(run), "--output", str(tmp_path / "reruns"))
    assert said in refusal(result)
    assert not (tmp_path / "reruns").exists()
    assert not (run / "reproductions.json").exists()


def test_changed_images_are_another_experiment(trained: Path, tmp_path: Path) -> None:
    data = Path(read_record(trained).spec.dataset)
    before = (data / "images").rename(tmp_path / "kept")
    try:
        shutil.copytree(before, data / "images")
        names = sorted((data / "images").iterdir())
        shutil.copy(names[0], names[1])
        assert "another experiment: data differs" in refusal(command("reproduce", str(trained), "--dry-run"))
    finally:
        shutil.rmtree(data / "images")
        before.rename(data / "images")


def test_a_method_file_that_was_edited_is_refused_by_name(trained: Path) -> None:
    file = Path(read_record(trained).spec.method)
    before = file.read_text()
    try:
        file.write_text(before + "# edited\n")
        assert f"the method '{file}' here is" in refusal(command("reproduce", str(trained)))
        file.unlink()
        assert f"method file {file} cannot be read" in refusal(command("reproduce", str(trained)))
    finally:
        file.write_text(before)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda run: shutil.rmtree(run), "there is no record"),
        (lambda run: (run / "record.json").unlink(), "there is no record"),
        (lambda run: (run / "record.json").write_bytes((run / "record.json").read_bytes()[:500]), "is not a record"),
        (lambda run: (run / "images.csv").unlink(), "images.csv cannot be read"),
        (lambda run: write_images(run / "images.csv", read_images(run / "images.csv")[1:]), "averages of"),
        (lambda run: (run / "reproductions.json").write_text('{"schema'), "is no file of reproductions"),
    ],
)
def test_what_is_not_a_whole_record_is_refused(run: Path, damage: Callable[[Path], object], said: str) -> None:
    damage(run)
    assert said in refusal(command("reproduce", str(run)))


def test_the_record_s_own_folder_is_no_place_for_its_rerun(run: Path) -> None:
    assert "choose another --output" in refusal(command("reproduce", str(run), "--output", str(run.parent)))


def test_a_dry_run_only_compares(run: Path, tmp_path: Path) -> None:
    change(run, OTHER_TORCH)
    result = command("reproduce", str(run), "--dry-run", "--output", str(tmp_path / "reruns"))
    assert result.exit_code == 0
    line = next(line for line in result.stdout.splitlines() if " torch " in line)
    assert "1.0" in line
    assert "differs" in line
    assert not (tmp_path / "reruns").exists()
    assert not (run / "reproductions.json").exists()


# The mark


@pytest.fixture
def found(run: Path, reruns: Path) -> reproduce.Reproduction:
    return judge(open_original(run), reruns / run.name / "record.json")


def test_marks_lie_beside_their_record() -> None:
    for record, marks in (
        ("runs/a/record.json", "runs/a/reproductions.json"),
        ("x/seed12.json", "x/seed12.reproductions.json"),
    ):
        assert reproductions_path(Path(record)) == Path(marks)
        assert record_path_of(Path(marks)) == Path(record)


def test_marks_are_in_the_order_of_time_and_the_last_one_counts(run: Path, found: reproduce.Reproduction) -> None:
    path = run / "record.json"
    assert reproduction_of(path) is None
    for day, verdict in ((3, "disagrees"), (1, "identical"), (2, "within noise")):
        update = {"created": f"2026-01-0{day}T00:00:00+00:00", "verdict": verdict, "rerun": str(day)}
        mark(path, found.model_copy(update=update))
    last = reproduction_of(path)
    assert last is not None
    assert last.verdict == "disagrees"
    mark(path, found.model_copy(update={"created": "2027-01-01T00:00:00+00:00", "rerun": "4"}))
    assert [fault.rule for fault in verify_records([run]) if fault.severity == "fault"] == []


def test_marks_made_at_one_time_are_all_kept(run: Path, found: reproduce.Reproduction) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: mark(run / "record.json", found.model_copy(update={"rerun": str(n)})), range(24)))
    assert {one.rerun for one in reproduce.read_reproductions(run / "record.json")} == set(map(str, range(24)))
    assert sorted(path.name for path in run.iterdir()) == [
        *("images.csv", "labels.csv", "record.json", "reproductions.json"),
    ]


def test_a_mark_of_a_record_that_was_changed_since_is_a_fault(run: Path, found: reproduce.Reproduction) -> None:
    mark(run / "record.json", found)
    change(run, one_pixel_less)
    with pytest.raises(QGBenchError, match="is of another record"):
        reproduction_of(run / "record.json")
    assert "reproduction" in {fault.rule for fault in verify_records([run]) if fault.severity == "fault"}


@pytest.mark.parametrize("content", ["", "{", '{"schema_version": 2, "reproductions": []}', '{"reproductions": [{}]}'])
def test_a_broken_file_of_marks_is_a_fault(run: Path, content: str) -> None:
    (run / "reproductions.json").write_text(content)
    faults = [fault for fault in verify_records([run]) if fault.severity == "fault"]
    assert [fault.rule for fault in faults] == ["reproduction"]
    assert "is no file of reproductions" in faults[0].text


def test_where_nothing_can_be_written_the_verdict_is_still_given(
    run: Path, reruns: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    original = Path.open

    def read_only(path: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if path.parent == run.resolve() and mode != "rb":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return original(path, mode, *rest, **options)

    monkeypatch.setattr(Path, "open", read_only)
    with caplog.at_level("WARNING", logger="qgbench"):
        result = command("reproduce", str(run), "--output", str(reruns))
    assert result.exit_code == 0, result.output
    assert "identical" in result.stdout
    assert "the record is not marked: cannot write beside" in caplog.text


@pytest.fixture
def declared_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qgbench.trust.submit._is_provisional", lambda record: False)


@pytest.mark.usefixtures("declared_protocol")
def test_marks_travel_with_a_submitted_record_and_join_those_that_are_there(
    tmp_path: Path, found: reproduce.Reproduction
) -> None:
    run = write_run(tmp_path / "run", *present())
    results = tmp_path / "results"

    def marked(path: Path, rerun: str) -> None:
        mark(path, found.model_copy(update={"record": reproduce.content_hash(path), "rerun": rerun}))

    marked(run / "record.json", "a")
    target, *_, marks = submit(run, results)
    assert marks == target.with_name("seed0.reproductions.json")
    marked(target, "b")
    marked(run / "record.json", "c")
    submit(run, results)
    assert {one.rerun for one in reproduce.read_reproductions(target)} == {"a", "b", "c"}
    assert {fault.rule for fault in verify_records([results])} == {"twin"}
    for file in (images_path(target), labels_path(target), target):
        file.unlink()
    write_result(results, *present(1))
    (fault,) = [fault for fault in verify_records([results]) if fault.severity == "fault"]
    assert (fault.path, fault.rule) == (marks, "pair")


@pytest.mark.usefixtures("declared_protocol")
def test_a_record_that_its_rerun_disagrees_with_is_not_submitted(tmp_path: Path, found: reproduce.Reproduction) -> None:
    run = write_run(tmp_path / "run", *present())
    path = run / "record.json"
    mark(path, found.model_copy(update={"record": reproduce.content_hash(path), "verdict": "disagrees"}))
    with pytest.raises(UserError, match="its rerun disagrees"):
        submit(run, tmp_path / "results")


def test_reports_take_no_mark_for_a_record(tmp_path: Path, found: reproduce.Reproduction) -> None:
    from qgbench.report.collect import collect

    target = write_result(tmp_path / "results", *present())
    mark(target, found.model_copy(update={"record": reproduce.content_hash(target)}))
    collection = collect([tmp_path / "results"])
    assert (len(collection.runs), collection.problems) == (1, [])


# Interruptions


@pytest.mark.slow
def test_a_killed_rerun_is_continued_by_the_same_command(trained: Path, run: Path, tmp_path: Path) -> None:
    words = ["reproduce", str(run), "--output", str(tmp_path / "reruns")]
    cache = Path(os.environ["QGBENCH_CACHE"])
    place = RunFolder(tmp_path / "reruns" / run.name)
    command = Command(words, tmp_path / "said", cache, seconds=0.0)
    command.wait_until(lambda: bool(place.log()))
    command.signal(signal.SIGKILL)
    assert command.finish() == -signal.SIGKILL
    assert place.status() == "interrupted"
    assert not (run / "reproductions.json").exists()
    again = Command(words, tmp_path / "said", cache)
    assert again.finish() == 0, again.said()
    assert (place.path / "images.csv").read_bytes() == (trained / "images.csv").read_bytes()
    last = reproduction_of(run / "record.json")
    assert last is not None
    assert last.verdict == "identical"


def test_conditions_print_whatever_they_hold(capsys: pytest.CaptureFixture[str]) -> None:
    odd = reproduce.Condition("processor", "[/red] x", "[bold]", same=False, role="none")
    reproduce.print_conditions([odd], Console())
    assert "[/red] x" in capsys.readouterr().out
