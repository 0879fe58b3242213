"""State beside networks and optimisers: random generators, the loss scaler of fp16."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType

from qgbench.engine.device import make_accelerator
from qgbench.engine.state import load_scaler_state, new_scaler, random_states, scaler_state, set_random_states


def test_random_numbers_go_on_where_they_were() -> None:
    torch.manual_seed(5)
    torch.rand(3)
    states = random_states()
    expected = torch.rand(4), torch.randperm(9)
    torch.manual_seed(6)
    set_random_states(states)
    assert all(torch.equal(*pair) for pair in zip(expected, (torch.rand(4), torch.randperm(9)), strict=True))


def with_scaler(**settings: Any) -> Any:
    """Stands for an accelerator in fp16, which needs a GPU: torch's scaler itself also works on a processor."""
    return SimpleNamespace(
        scaler=torch.amp.GradScaler("cpu", **settings), distributed_type=DistributedType.NO, device=torch.device("cpu")
    )


def overflow(accelerator: Any) -> None:
    """One step whose gradient is infinite: the scaler lowers its scale."""
    weight = torch.nn.Parameter(torch.ones(1))
    optimiser = torch.optim.SGD([weight], lr=0.1)
    accelerator.scaler.scale(weight * torch.inf).sum().backward()
    accelerator.scaler.step(optimiser)
    accelerator.scaler.update()
    assert float(weight.detach()) == 1.0


def test_the_scale_after_an_overflow_comes_back() -> None:
    first, second = with_scaler(init_scale=1024.0), with_scaler(init_scale=2.0)
    overflow(first)
    assert first.scaler.get_scale() == 512.0
    load_scaler_state(second, scaler_state(first))
    assert scaler_state(second) == scaler_state(first)
    overflow(second)
    assert second.scaler.get_scale() == 256.0


@pytest.mark.filterwarnings("ignore:torch.cuda.amp.GradScaler is enabled")
def test_a_new_training_begins_with_a_new_scaler() -> None:
    accelerator = with_scaler(init_scale=1024.0)
    overflow(accelerator)
    before = accelerator.scaler
    new_scaler(accelerator)
    assert accelerator.scaler is not before
    assert accelerator.scaler.get_scale() != 512.0


def test_without_fp16_there_is_no_scaler() -> None:
    accelerator = make_accelerator("cpu", "bf16", 1)
    new_scaler(accelerator)
    assert accelerator.scaler is None
    assert scaler_state(accelerator) == {}
    load_scaler_state(accelerator, {})
