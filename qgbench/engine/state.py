"""State outside networks and optimisers that the rest of a training depends on: random generators, the loss scaler."""

from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import get_grad_scaler


def random_states() -> dict[str, Any]:
    """Return the states of torch's default generators, of the processor and of the current accelerator."""
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Restore what `random_states` gave."""
    torch.set_rng_state(states["cpu"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def new_scaler(accelerator: Accelerator) -> None:
    """Return an accelerator a loss scaler in its initial state, if it has one (fp16).

    Otherwise the scale that one training ended with would be that with which the next one in this process begins, and
    a run would depend on whether its g was trained before it or loaded. To be called before optimisers are prepared.
    """
    if accelerator.scaler is not None:
        accelerator.scaler = get_grad_scaler(accelerator.distributed_type)


def scaler_state(accelerator: Accelerator) -> dict[str, Any]:
    """Return the state of the loss scaler; {} where there is none."""
    return accelerator.scaler.state_dict() if accelerator.scaler is not None else {}


def load_scaler_state(accelerator: Accelerator, state: dict[str, Any]) -> None:
    """Restore what `scaler_state` gave."""
    if accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(state)
