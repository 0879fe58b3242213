import copy
import gc
import os
import signal
import threading
import traceback
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from accelerate import Accelerator

from qgbench.engine.device import make_accelerator
from qgbench.plugins.registry import load
from qgbench.quality.guide import Guide
from qgbench.training import loop
from qgbench.training.ahead import Ahead
from qgbench.training.streams import Streams
from qgbench.trust.toys import ToySegmenter, toy_data, toy_protocol

from .test_streams import TENSORS, draw, pictures, same, train_settings, training

# Both batches end amid an epoch.
DATA = training(pictures(7), pictures(10))


def streams(seed: int = 0) -> Streams:
    return Streams(DATA, train_settings(), seed)


def test_batches_are_those_of_the_streams_alone() -> None:
    alone, ahead = draw(streams(), 6), draw(Ahead(streams()), 6)
    assert same(alone, ahead, TENSORS)
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(alone, ahead, strict=True))
    assert [batch.progress for batch, _ in ahead] == [batch.progress for batch, _ in alone]


@pytest.mark.parametrize("done", [0, 1, 4])
@pytest.mark.parametrize("continues", [lambda: streams(9), lambda: Ahead(streams(9))], ids=["alone", "ahead"])
def test_a_state_is_that_without_the_batch_that_waits(done: int, continues: Callable[[], Any]) -> None:
    whole = draw(streams(), done + 4)
    first = Ahead(streams())
    draw(first, done)
    state = first.state_dict()
    draw(first, 2)  # what comes after the state was taken must not reach into it
    second = continues()
    draw(second, 3)
    second.load_state_dict(state)
    assert same(whole[done:], draw(second, 4), TENSORS)


def trainer(spare: bool, monkeypatch: pytest.MonkeyPatch) -> loop.Trainer:
    monkeypatch.setattr(loop, "core_to_spare", lambda accelerator: spare)
    kind = load("method", "fixmatch")
    torch.manual_seed(0)
    method = kind(ToySegmenter, kind.Settings())
    return loop.Trainer(method, Guide([]), None, toy_data(), toy_protocol(6), 0, make_accelerator("cpu", "fp32", 1))


def test_a_run_that_is_cut_and_continued_with_a_thread_is_the_run_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trainer(False, monkeypatch)
    list(whole.run())
    first = trainer(True, monkeypatch)
    for done in first.run():
        if done == 3:
            break
    state = copy.deepcopy(first.state_dict())
    second = trainer(True, monkeypatch)
    second.load_state_dict(state)
    list(second.run())
    for name, value in whole.method.state_dict().items():
        assert torch.equal(value, second.method.state_dict()[name]), name
    assert whole.history.val_dice == second.history.val_dice


class Source:
    """In place of streams: calls `act` for every batch but the first."""

    def __init__(self, act: Callable[[], None]) -> None:
        self.act: Callable[[], None] = lambda: None
        self._later = act

    def next(self, progress: float) -> Any:
        self.act()
        self.act = self._later
        return draw(streams(), 1)[0]

    def state_dict(self) -> dict[str, Any]:
        return {}


def ahead_of(source: Source) -> Ahead:
    return Ahead(cast(Streams, source))


def test_the_next_batch_is_begun_before_it_is_asked_for_by_a_thread() -> None:
    begun = threading.Event()
    makers = []

    def act() -> None:
        makers.append(threading.current_thread())
        begun.set()

    ahead_of(Source(act)).next(0.0)
    assert begun.wait(10)
    assert makers[0] is not threading.current_thread()


def test_what_fails_in_the_thread_is_raised_where_the_batch_is_asked_for_with_its_own_traceback() -> None:
    def disk_is_gone() -> None:
        raise OSError("the disk is gone")

    ahead = ahead_of(Source(disk_is_gone))
    ahead.next(0.0)
    with pytest.raises(OSError, match="the disk is gone") as caught:
        ahead.next(0.5)
    assert "disk_is_gone" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]


def test_ctrl_c_ends_the_wait_for_a_batch_and_no_thread_is_left() -> None:
    before, free = set(threading.enumerate()), threading.Event()

    def interrupted() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        free.wait(10)

    source = Source(interrupted)
    source.act = interrupted
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)  # a worker of pytest-xdist ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            ahead_of(source).next(0.0)
    finally:
        signal.signal(signal.SIGINT, earlier)
    free.set()
    gc.collect()  # what was being waited for when the exception came
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize(
    ("device", "processes", "cores", "spare"),
    [
        ("cpu", 1, 3, True),
        ("cpu", 1, 2, False),
        ("cpu", 2, 4, False),
        ("cpu", 2, 5, True),
        ("cuda", 1, 1, True),
        ("mps", 1, 64, False),
    ],
)
def test_a_core_is_to_spare_where_the_run_computes_on_a_gpu_or_on_fewer_cores(
    device: str, processes: int, cores: int, spare: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "usable_cores", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    accelerator = SimpleNamespace(device=torch.device(device), num_processes=processes)
    assert loop.core_to_spare(cast(Accelerator, accelerator)) is spare
