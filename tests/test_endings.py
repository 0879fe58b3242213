"""Every other way in which a run can end or collide: one clear message, and nothing is lost."""

import json
import shutil
import signal
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from qgbench.run.record import read_record
from tests.commands import QUICK_G, RUN, Command, has_checkpoint, only_run, small_data
from tests.test_kills import numbers

pytestmark = pytest.mark.slow

WORDS = [*RUN, "--method", "fixmatch", "--set", "method.threshold=0.5"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds one finished run, without the add-on; and, beside it, the cache that it filled."""
    home = tmp_path_factory.mktemp("endings")
    small_data(home / "mine")
    command = Command([*words_of(home), "--output", str(home / "runs")], home / "said", home / "cache", seconds=0.0)
    assert command.finish() == 0, command.said()
    return home


def words_of(home: Path) -> list[str]:
    """The run without the add-on, on the small data set of this module."""
    return [*WORDS, "--dataset", str(home / "mine")]


def copied(whole: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be damaged."""
    return only_run(shutil.copytree(whole / "runs", tmp_path / "runs")).path


def start(whole: Path, tmp_path: Path, *more: str, **options: float | int | None) -> Command:
    words = [*words_of(whole), "--output", str(tmp_path / "runs"), *more]
    return Command(words, tmp_path / "said", whole / "cache", **options)  # type: ignore[arg-type]  # both are numbers


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_same_command_continues(number: signal.Signals, whole: Path, tmp_path: Path) -> None:
    command = start(whole, tmp_path, "--steps", "200", seconds=0.0)
    command.wait_until(lambda: has_checkpoint(tmp_path / "runs"))
    command.signal(number)
    assert command.finish() == 128 + number
    folder = only_run(tmp_path / "runs")
    assert folder.status() == "interrupted"
    assert command.said().splitlines()[-1] == "interrupted; the same command continues where this one was."
    assert "Traceback" not in command.said()
    reached = folder.log()[-1]["step"]
    command = start(whole, tmp_path, "--steps", "200", "--verbose", seconds=0.0)
    command.wait_until(lambda: "continuing after step" in command.said())
    after = int(command.said().split("continuing after step ")[1].split()[0])
    assert reached <= after < 200
    command.signal(signal.SIGTERM)
    assert command.finish() == 128 + signal.SIGTERM
    assert any("continuing after step" in line for line in folder.text_log())


def test_a_signal_while_g_trains_keeps_its_steps(whole: Path, tmp_path: Path) -> None:
    long_g = ["--qg", *QUICK_G, "--set", "quality.steps=400"]
    command = start(whole, tmp_path, *long_g, seconds=0.0)
    command.wait_until(lambda: bool(list((tmp_path / "runs").glob("predictors/*/g/last.pt"))))
    command.signal(signal.SIGINT)
    assert command.finish() == 128 + signal.SIGINT
    assert only_run(tmp_path / "runs").status() == "interrupted"
    command = start(whole, tmp_path, *long_g, seconds=0.0)
    command.wait_until(lambda: "quality predictor g: continuing after step" in command.said())
    command.process.kill()
    command.process.join()
    assert only_run(tmp_path / "runs").status() == "interrupted"  # though its last word is 'running'


def test_a_second_process_waits_and_then_says_that_it_is_done(whole: Path, tmp_path: Path) -> None:
    first = start(whole, tmp_path, "--steps", "30")
    first.wait_until(lambda: bool(list((tmp_path / "runs").glob("*/status"))))
    second = Command(
        [*words_of(whole), "--steps", "30", "--output", str(tmp_path / "runs")], tmp_path / "second", whole / "cache"
    )
    second.wait_until(lambda: "another process is at this run" in second.said())
    assert first.process.exitcode is None
    assert first.finish() == 0, first.said()
    assert second.finish() == 0, second.said()
    assert "was done already" in second.said()
    assert "training fixmatch" not in second.said()


def test_two_runs_that_need_the_same_g_train_it_once(whole: Path, tmp_path: Path) -> None:
    slow_g = [*QUICK_G, "--set", "quality.steps=20"]
    first = start(whole, tmp_path, "--qg", *slow_g)
    first.wait_until(lambda: bool(list((tmp_path / "runs").glob("predictors/*/weak/0/last.pt"))))
    other = [
        *RUN,
        "--dataset",
        str(whole / "mine"),
        "--method",
        "mean_teacher",
        "--qg",
        *slow_g,
        "--output",
        str(tmp_path / "runs"),
    ]
    second = Command(other, tmp_path / "second", whole / "cache")
    second.wait_until(lambda: "another process is at this quality predictor" in second.said())
    assert first.finish() == 0, first.said()
    assert second.finish() == 0, second.said()
    assert "quality predictor g:" not in second.said()
    records = [read_record(path) for path in (tmp_path / "runs").glob("*/record.json")]
    assert sorted(record.times.g_reused for record in records) == [False, True]


def test_a_full_disk_stops_with_one_message_and_the_run_continues_once_there_is_space(
    whole: Path, tmp_path: Path
) -> None:
    """The limit of the operating system on the size of files stands for the disk: checkpoints no longer fit."""
    command = start(whole, tmp_path, seconds=0.0, file_limit=3_000_000)
    assert command.finish() == 1
    (message,) = (line for line in command.said().splitlines() if line.startswith("error: "))
    assert "cannot write" in message
    assert "Free some space" in message
    assert "Traceback" not in command.said()
    assert only_run(tmp_path / "runs").status() == "failed"
    assert not list((tmp_path / "runs").rglob(".*.partial"))
    command = start(whole, tmp_path)
    assert command.finish() == 0, command.said()
    assert numbers(read_record(only_run(tmp_path / "runs").path)) == numbers(read_record(only_run(whole / "runs").path))


def test_a_folder_that_vanishes_in_mid_run_is_made_anew(whole: Path, tmp_path: Path) -> None:
    command = start(whole, tmp_path, seconds=0.0)
    command.wait_until(lambda: has_checkpoint(tmp_path / "runs"))
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)  # the first may have met a checkpoint being written
    assert command.finish() == 0, command.said()
    assert "was removed in mid-run" in command.said()
    folder = only_run(tmp_path / "runs")
    assert folder.status() == "done"
    assert folder.record() is not None
    assert folder.spec() is not None


@pytest.mark.parametrize("name", ["record.json", "images.csv"])
def test_a_cut_off_record_is_measured_again_without_training(name: str, whole: Path, tmp_path: Path) -> None:
    folder = copied(whole, tmp_path)
    before = read_record(folder)
    (folder / name).write_bytes((folder / name).read_bytes()[:-200])
    command = start(whole, tmp_path)
    assert command.finish() == 0, command.said()
    assert command.said().count("measured again from its last checkpoint") == 1
    assert "training fixmatch" not in command.said()
    assert numbers(read_record(folder)) == numbers(before)
    assert (folder / "images.csv").read_bytes() == (only_run(whole / "runs").path / "images.csv").read_bytes()


def test_a_cut_off_checkpoint_falls_back_to_the_one_before(whole: Path, tmp_path: Path) -> None:
    command = start(whole, tmp_path, seconds=0.0)
    command.wait_until(lambda: has_checkpoint(tmp_path / "runs", 2))
    command.process.kill()
    command.process.join()
    folder = only_run(tmp_path / "runs").path
    (folder / "last.pt").write_bytes((folder / "last.pt").read_bytes()[:-1000])
    command = start(whole, tmp_path)
    assert command.finish() == 0, command.said()
    assert "is damaged or cut off; going back to the one before" in command.said()
    assert "continuing after step" in command.said()
    assert numbers(read_record(folder)) == numbers(read_record(only_run(whole / "runs").path))


def test_force_redoes_a_finished_run_in_a_new_place(whole: Path, tmp_path: Path) -> None:
    folder = copied(whole, tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    command = start(whole, tmp_path, "--force")
    assert command.finish() == 0, command.said()
    again = folder.with_name(folder.name + "~2")
    assert numbers(read_record(again)) == numbers(read_record(folder))
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    # The plain command shows the last.
    command = start(whole, tmp_path)
    assert command.finish() == 0
    assert "done already" in command.said()
    assert again.name in command.said()


def test_changed_images_are_not_mixed_into_an_interrupted_run(whole: Path, tmp_path: Path) -> None:
    data = shutil.copytree(whole / "mine", tmp_path / "mine")
    more = ["--dataset", str(data), "--steps", "100"]
    command = start(whole, tmp_path, *more, seconds=0.0)
    command.wait_until(lambda: has_checkpoint(tmp_path / "runs"))
    command.signal(signal.SIGTERM)
    command.finish()
    file = min((data / "images").iterdir())
    with Image.open(file) as image:
        ImageOps.invert(image).save(file)
    command = start(whole, tmp_path, *more)
    assert command.finish() == 2
    assert "was made with other images than there are now" in command.said()


def test_a_changed_method_file_is_another_run(whole: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    text = (Path(__file__).parents[1] / "baselines" / "supervised.py").read_text()
    file.write_text(text)
    words = [
        *RUN,
        "--dataset",
        str(whole / "mine"),
        "--steps",
        "2",
        "--method",
        str(file),
        "--output",
        str(tmp_path / "runs"),
    ]
    for count in (1, 2):
        command = Command(words, tmp_path / f"said{count}", whole / "cache")
        assert command.finish() == 0, command.said()
        assert len(list((tmp_path / "runs").glob("*/record.json"))) == count
        file.write_text(text + "# another version\n")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"size": 96}, "was trained at 96 px, but this run is at 64 px"),
        ({"data": "f" * 64}, "was trained on other images"),
        (
            {"labelled_ids": ["foreign_1"]},
            "was trained on 1 images that this run does not label (for example foreign_1)",
        ),
    ],
)
def test_a_g_made_for_something_else_is_refused(
    change: dict[str, object], expected: str, guided: Path, whole: Path, tmp_path: Path
) -> None:
    output = shutil.copytree(guided / "predictors", tmp_path / "runs" / "predictors").parent
    (card,) = output.glob("predictors/*/predictor.json")
    card.write_text(json.dumps(json.loads(card.read_text()) | change))
    command = start(whole, tmp_path, "--qg", *QUICK_G)
    assert command.finish() == 2
    assert expected in command.said()
    assert "Remove that folder" in command.said()


def test_a_cut_off_g_is_trained_anew(guided: Path, whole: Path, tmp_path: Path) -> None:
    output = shutil.copytree(guided / "predictors", tmp_path / "runs" / "predictors").parent
    (weights,) = output.glob("predictors/*/predictor.safetensors")
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    command = start(whole, tmp_path, "--qg", *QUICK_G)
    assert command.finish() == 0, command.said()
    assert weights.read_bytes() == content


@pytest.fixture(scope="module")
def guided(whole: Path) -> Path:
    """A folder of runs with one finished guided run and its g."""
    words = [*words_of(whole), "--qg", *QUICK_G, "--output", str(whole / "guided")]
    command = Command(words, whole / "said_guided", whole / "cache")
    assert command.finish() == 0, command.said()
    return whole / "guided"
