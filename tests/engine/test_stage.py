"""A stage that is stopped anywhere and continued gives what an uninterrupted one gives."""

import os
import pickle
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from qgbench.base.interruption import Interrupted
from qgbench.engine import stage
from qgbench.engine.checkpoint import Checkpoints
from qgbench.engine.stage import train


class Walk:
    """A random walk: each step depends on all before and on a generator."""

    def __init__(self, steps: int = 12) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.value = torch.zeros(3)
        self.step = 0
        self.steps = steps
        self.signal_in: int | None = None

    def run(self) -> Iterator[int]:
        for step in range(self.step, self.steps):
            if step == self.signal_in:
                os.kill(os.getpid(), signal.SIGTERM)
            self.value = 0.9 * self.value + torch.randn(3, generator=self.generator)
            self.step = step + 1
            yield self.step

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state(), "value": self.value, "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"])
        self.value, self.step = state["value"], state["step"]


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path, {})


def whole(tmp_path: Path) -> torch.Tensor:
    walk = Walk()
    train(walk, Checkpoints(tmp_path / "whole", {}), "walk")
    return walk.value


@pytest.mark.parametrize("moment", [0, 5, 11])
def test_a_signal_is_held_until_the_step_is_whole_and_the_next_call_continues(
    checkpoints: Checkpoints, tmp_path: Path, moment: int
) -> None:
    walk = Walk()
    walk.signal_in = moment
    with pytest.raises(Interrupted) as stopped:
        train(walk, checkpoints, "walk")
    assert stopped.value.number == signal.SIGTERM
    saved = checkpoints.load()
    assert saved is not None
    assert saved["trainer"]["step"] == moment + 1
    again = Walk()
    train(again, checkpoints, "walk")
    assert torch.equal(again.value, whole(tmp_path))


def test_a_second_signal_does_not_wait(checkpoints: Checkpoints) -> None:
    class Stuck(Walk):
        def run(self) -> Iterator[int]:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("the second signal was held back")
            yield 1

    with pytest.raises(Interrupted):
        train(Stuck(), checkpoints, "walk")


def test_former_handlers_are_restored(checkpoints: Checkpoints) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    train(Walk(), checkpoints, "walk")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_finished_stage_trains_nothing_and_keeps_its_seconds(checkpoints: Checkpoints) -> None:
    train(Walk(), checkpoints, "walk")
    saved = checkpoints.load()
    assert saved is not None
    checkpoints.save(saved | {"seconds": 1000.0})
    again = Walk()
    assert 1000.0 <= train(again, checkpoints, "walk") < 1010.0
    assert again.step == again.steps


def test_saved_is_called_when_the_checkpoint_is_there_and_others_do_not_write(
    checkpoints: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    steps = []

    def saved() -> None:
        content = checkpoints.load()
        assert content is not None
        steps.append(content["trainer"]["step"])

    train(Walk(3), checkpoints, "walk", saved)
    assert steps == [1, 2, 3]
    train(Walk(3), Checkpoints(tmp_path / "other", {}), "walk", saved, writes=False)
    assert steps == [1, 2, 3]
    assert not (tmp_path / "other").exists()


def test_one_process_that_is_asked_to_stop_stops_all(checkpoints: Checkpoints) -> None:
    """`agree` stands for the other processes: one of them got a signal in the third step."""
    walk = Walk()
    with pytest.raises(Interrupted):
        train(walk, checkpoints, "walk", agree=lambda flag: flag or walk.step == 3)
    saved = checkpoints.load()
    assert saved is not None
    assert saved["trainer"]["step"] == 3


def test_an_interruption_crosses_processes() -> None:
    """A pool of processes sends its exceptions pickled."""
    again = pickle.loads(pickle.dumps(Interrupted(signal.SIGTERM)))
    assert isinstance(again, Interrupted)
    assert again.number == signal.SIGTERM
    assert str(again) == "SIGTERM"
