"""Which device a run takes, with and without torch at hand."""

import subprocess
import sys

import pytest
import torch

from qgbench.engine.here import best_device


def test_the_answer_without_torch_is_torchs() -> None:
    code = "import sys; from qgbench.engine.here import best_device; print(best_device())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"{best_device()}\n"


@pytest.mark.parametrize(("cuda", "mps", "best"), [(True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_torch_is_asked_where_it_is_loaded(monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, best: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert best_device() == best
