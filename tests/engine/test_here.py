"""Which device a run takes, with and without torch at hand."""

import subprocess
import sys

import pytest
import torch

from qgbench.engine.device import autocast, make_accelerator
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


@pytest.mark.parametrize(
    ("precision", "kind"), [("bf16", torch.bfloat16), ("fp16", torch.float32), ("fp32", torch.float32)]
)
def test_a_run_is_applied_in_its_precision_where_the_processor_has_it(precision: str, kind: torch.dtype) -> None:
    with torch.autocast("cpu", torch.bfloat16), autocast("cpu", precision):  # whatever surrounds it
        assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype == kind


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_that_is_what_its_accelerator_does(precision: str) -> None:
    layer, image = torch.nn.Conv2d(3, 8, 3), torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with make_accelerator("cpu", precision, torch.get_num_threads()).autocast():
        expected = layer(image)
    with autocast("cpu", precision):
        found = layer(image)
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)
