"""Work on all cores: the order of the items, errors that arrive, a killed process that is reported."""

import os
import signal

import pytest

from qgbench.base.cores import on_all_cores
from qgbench.base.errors import QGBenchError, UserError


def process_of(item: int) -> tuple[int, int]:
    if item == 3:
        raise UserError("item 3 is refused")
    if item == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return item, os.getpid()


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qgbench.base.cores.usable_cores", lambda: 2)


def test_few_items_stay_in_this_process() -> None:
    assert list(on_all_cores(process_of, [2, 0, 1], worth=2)) == [(item, os.getpid()) for item in (2, 0, 1)]


def test_many_go_to_others_and_come_back_in_order() -> None:
    found = list(on_all_cores(process_of, [2, 0, 1, 2, 0], worth=2, chunk=2))
    assert [item for item, _ in found] == [2, 0, 1, 2, 0]
    assert os.getpid() not in {process for _, process in found}


@pytest.mark.parametrize(("item", "error", "words"), [(3, UserError, "refused"), (4, QGBenchError, "was killed")])
def test_errors_of_other_processes_arrive(item: int, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        list(on_all_cores(process_of, [0, 1, item], worth=1))
