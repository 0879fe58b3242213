"""Device, precision and threads of a run, through accelerate."""

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import AutocastKwargs

from qgbench.errors import UserError

_MIXED = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def best_device() -> str:
    """Name the device class that a run takes unless told otherwise: 'cuda', 'mps' or 'cpu'."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def make_accelerator(device: str, precision: str, threads: int) -> Accelerator:
    """Set up accelerate for one run.

    Autocast's cache of converted weights is off: a weight converted inside the no-gradient pass that labels images
    would be reused in the pass that trains, and cut off its gradient.

    Parameters
    ----------
    device : 'cpu', 'cuda' or 'mps'
    precision : 'fp32', 'bf16' or 'fp16'
    threads : int
        Processor threads of this process.

    Raises
    ------
    UserError
        The device is absent, or cannot compute in this precision.
    """
    if device != "cpu" and device != best_device():
        raise UserError(
            f"device '{device}' is not available here; this machine has '{best_device()}' (--device cpu works)."
        )
    if device == "cpu" and precision == "fp16":
        raise UserError("fp16 needs a GPU; on a processor use --precision bf16 or fp32.")
    torch.set_num_threads(threads)
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(
        cpu=device == "cpu",
        mixed_precision=_MIXED[precision],
        kwargs_handlers=[AutocastKwargs(cache_enabled=False)],
        step_scheduler_with_optimizer=False,
    )
