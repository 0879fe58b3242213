"""Checkpoints: whole or refused, and always one to go back to."""

from pathlib import Path

import pytest
import torch

from qgbench.base.errors import QGBenchError, UserError
from qgbench.engine.checkpoint import LAST_NAME, PREVIOUS_NAME, Checkpoints


def state(number: int) -> dict[str, object]:
    big = 2**100 + number  # numpy's generators have states of 128 bits
    return {"step": number, "tensor": torch.full((64,), float(number)), "rng": {"state": {"state": big}}, "none": None}


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path, {"images": "a", "split": "b"})


def test_what_was_saved_last_comes_back(checkpoints: Checkpoints, tmp_path: Path) -> None:
    assert checkpoints.load() is None
    checkpoints.save(state(1))
    checkpoints.save(state(2))
    loaded = checkpoints.load()
    assert loaded is not None
    assert loaded["step"] == 2
    assert torch.equal(loaded["tensor"], torch.full((64,), 2.0))
    assert loaded["rng"]["state"]["state"] == 2**100 + 2
    assert {path.name for path in tmp_path.iterdir()} == {LAST_NAME, PREVIOUS_NAME}
    checkpoints.discard_previous()
    assert {path.name for path in tmp_path.iterdir()} == {LAST_NAME}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    place = content.index(torch.full((4,), 2.0).numpy().tobytes())  # in the middle of the tensor
    content[place] ^= 1
    path.write_bytes(bytes(content))


def text(path: Path) -> None:
    path.write_text("not a checkpoint")


@pytest.mark.parametrize("damage", [cut, empty, flip_a_bit, text, Path.unlink])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    checkpoints: Checkpoints, tmp_path: Path, damage: object, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints.save(state(1))
    checkpoints.save(state(2))
    assert callable(damage)
    damage(tmp_path / LAST_NAME)
    loaded = checkpoints.load()
    assert loaded is not None
    assert loaded["step"] == 1
    checkpoints.save(state(3))
    loaded = checkpoints.load()
    assert loaded is not None
    assert loaded["step"] == 3


def test_two_damaged_checkpoints_mean_a_new_start(checkpoints: Checkpoints, tmp_path: Path) -> None:
    checkpoints.save(state(1))
    checkpoints.save(state(2))
    for name in (LAST_NAME, PREVIOUS_NAME):
        cut(tmp_path / name)
    assert checkpoints.load() is None


def test_a_disk_that_fills_up_leaves_the_old_checkpoints(
    checkpoints: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints.save(state(1))
    checkpoints.save(state(2))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(QGBenchError, match=r"No space left on device.*Free some space"):
        checkpoints.save(state(3))
    monkeypatch.undo()
    assert {path.name for path in tmp_path.iterdir()} == {LAST_NAME, PREVIOUS_NAME}
    loaded = checkpoints.load()
    assert loaded is not None
    assert loaded["step"] == 2


def test_a_checkpoint_of_other_images_is_refused_by_name(checkpoints: Checkpoints, tmp_path: Path) -> None:
    checkpoints.save(state(1))
    with pytest.raises(UserError, match=r"made with other images than there are now.*remove the folder"):
        Checkpoints(tmp_path, {"images": "changed", "split": "b"}).load()
    with pytest.raises(UserError, match="other images and other split"):
        Checkpoints(tmp_path, {"images": "changed", "split": "changed"}).load()
