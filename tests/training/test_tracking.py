"""Curves in TensorBoard are those of log.jsonl."""

from pathlib import Path

import pytest

from qgbench.errors import UserError
from qgbench.training.tracking import require_tracker, tracking

ENTRIES = [
    {"step": 1, "total": 1.5, "lr": 1e-3},
    {"step": 2, "val_dice": 0.5, "val_q": None},
    {"step": 11, "total": 1.25, "lr": 9e-4},
]


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder / "tensorboard"))
    accumulator.Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]
    }


def test_every_number_is_sent_once_and_a_resumed_run_repeats_none(tmp_path: Path) -> None:
    expected = {"total": [(1, 1.5), (11, 1.25)], "lr": [(1, 1e-3), (11, 9e-4)], "val_dice": [(2, 0.5)]}

    def as_floats(found: dict[str, list[tuple[int, float]]]) -> dict[str, list[tuple[int, float]]]:
        return {tag: [(step, pytest.approx(value)) for step, value in values] for tag, values in found.items()}

    with tracking("tensorboard", tmp_path) as send:
        send(ENTRIES[:1])
        send(ENTRIES[:2])
        send(ENTRIES)
    assert events(tmp_path) == as_floats(expected)
    # A process that continues after the second entry sends all that its checkpoint knows.
    with tracking("tensorboard", tmp_path) as send:
        send(ENTRIES)
    assert events(tmp_path) == as_floats(expected)


def test_without_a_tracker_nothing_is_written(tmp_path: Path) -> None:
    with tracking(None, tmp_path) as send:
        send(ENTRIES)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_or_missing_tracker_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="Did you mean 'tensorboard'"):
        require_tracker("tensorbord")
    monkeypatch.setattr("qgbench.training.tracking.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'qgbench\[tensorboard\]'"):
        require_tracker("tensorboard")
