"""Device, precision, threads and processes of a run, through accelerate."""

import os
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import (
    AutocastKwargs,
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
    broadcast,
    gather,
    gather_object,
    reduce,
)
from torch import Tensor

from qgbench.base.errors import QGBenchError, UserError, in_one_line
from qgbench.base.logs import logger
from qgbench.engine.here import LAUNCH, best_device, processes, whole_number

_MIXED = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
_OF_A_LAUNCH = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # where accelerate looks for one
_LONGEST_WAIT = timedelta(hours=6)  # the others wait while the main process prepares data and trains g

T = TypeVar("T")


class World:
    """The processes that share one run and the ways in which they exchange values.

    In a run of one process every method gives back what it was given. Methods that exchange must be called by every
    process, in the same order.

    Parameters
    ----------
    accelerator : Accelerator, optional
        None for a process that is alone.

    Attributes
    ----------
    rank : int
        Number of this process; 0 is the main one.
    size : int
        How many there are.
    """

    def __init__(self, accelerator: Accelerator | None = None) -> None:
        self.rank = 0 if accelerator is None else accelerator.process_index
        self.size = 1 if accelerator is None else accelerator.num_processes
        self._device = None if accelerator is None else accelerator.device

    def part(self, rows: Tensor) -> Tensor:
        """Return the own equal share of rows that every process has: (B, ...) -> (B / size, ...)."""
        if self.size == 1:
            return rows
        share = len(rows) // self.size
        return rows[self.rank * share : (self.rank + 1) * share]

    def gather(self, rows: Tensor) -> Tensor:
        """Return every process's rows, in order of rank, without gradient: (B, ...) -> (size * B, ...)."""
        return rows if self.size == 1 else gather(rows.detach())

    def gather_object(self, value: T) -> list[T]:
        """Return every process's value, in order of rank."""
        return [value] if self.size == 1 else gather_object([value])

    def mean(self, value: Tensor) -> Tensor:
        """Return the average of a tensor over the processes, without gradient."""
        return value if self.size == 1 else reduce(value.detach(), "mean")

    def any(self, flag: bool) -> bool:
        """Return to every process whether any of them says yes."""
        return flag if self.size == 1 else bool(reduce(torch.tensor(float(flag), device=self._device), "max"))

    def of_main(self, value: float) -> float:
        """Return every process the main one's number."""
        if self.size == 1:
            return value
        return float(broadcast(torch.tensor(value, dtype=torch.float64, device=self._device)))

    def seed(self, seed: int) -> int:
        """Return this process's own seed, derived from a common one; the main process keeps it as it is."""
        return seed if self.rank == 0 else int(np.random.SeedSequence([seed, self.rank]).generate_state(1)[0])


ALONE = World()


def what_cannot_repeat(device: str) -> str:
    """Return in a sentence which computations give other last bits when a run is repeated on a device; '' if none.

    Parameters
    ----------
    device : 'cpu', 'cuda' or 'mps'
    """
    if device == "cuda":
        # Plain bilinear upsampling is not among them: torch then takes a slower path whose backward keeps an order.
        return (
            "CUDA sums with atomics, in no fixed order, where torch has no deterministic algorithm (the backward "
            "passes of adaptive pooling and of antialiased bilinear resizing), so that a repeated run may differ in "
            "its last bits."
        )
    if device == "mps":
        return "MPS promises no fixed order of summation, so that a repeated run may differ in its last bits."
    return ""


def make_accelerator(device: str, precision: str, threads: int) -> Accelerator:
    """Set up accelerate for one run: for each of its processes, if it was started with several.

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
        The device is absent, cannot compute in this precision, or cannot take the processes that were started.
    """
    require_device(device)
    if device == "cpu" and precision == "fp16":
        raise UserError("fp16 needs a GPU; on a processor use --precision bf16 or fp32.")
    _check_launch(device)
    if device == "cuda":
        repeat_where_cuda_can()
    # Only accelerate's own record is reset (another precision may follow); a process group that exists is kept.
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        accelerator = Accelerator(
            cpu=device == "cpu",
            mixed_precision=_MIXED[precision],
            kwargs_handlers=[
                AutocastKwargs(cache_enabled=False),
                InitProcessGroupKwargs(timeout=_LONGEST_WAIT),
                # A method may leave a student out of a step.
                DistributedDataParallelKwargs(find_unused_parameters=True),
            ],
            step_scheduler_with_optimizer=False,
        )
    except Exception as error:  # whatever else an earlier launch left for accelerate to find
        raise QGBenchError(
            f"accelerate cannot start: {in_one_line(error).rstrip('.')}. Unset the variables of an earlier launch "
            f"(ACCELERATE_..., MASTER_ADDR, ...) for one process; {LAUNCH}."
        ) from error
    # Last, because accelerate chooses a number of threads itself when it finds several processes on a processor.
    torch.set_num_threads(threads)
    # `accelerate launch --cpu --num_processes N` prepares the environment for N processes and starts one.
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true" and "MASTER_PORT" in os.environ and processes() == 1:
        logger.warning(f"accelerate launch starts one process on a processor, whatever it was asked for; {LAUNCH}.")
    return accelerator


def require_device(device: str) -> None:
    """Raise UserError where a device, 'cpu', 'cuda' or 'mps', is absent."""
    if device != "cpu" and device != best_device():
        raise UserError(
            f"device '{device}' is not available here; this machine has '{best_device()}' (--device cpu works)."
        )


def autocast(device: str, precision: str) -> torch.autocast:
    """Return the context in which a run of a precision computes, as its accelerator's; fp32 for fp16 on a processor."""
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    used = kind is not None and (device, precision) != ("cpu", "fp16")
    return torch.autocast(device, kind, enabled=used, cache_enabled=False)


def repeat_where_cuda_can() -> None:
    """Let CUDA compute in a fixed order wherever torch has a way to; see `what_cannot_repeat`."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA's libraries are first used
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)


def _check_launch(device: str) -> None:
    """Refuse an environment that claims several processes and lacks what they need: accelerate fails, or waits."""
    claims = [name for name in _SIZES if whole_number(name, 1, least=1) > 1]
    claims += ["LOCAL_RANK"] if whole_number("LOCAL_RANK", -1, least=-1) >= 0 else []
    if not claims:
        return
    if missing := [name for name in _OF_A_LAUNCH if not os.environ.get(name)]:
        raise UserError(
            f"the environment says {claims[0]}={os.environ[claims[0]]}, but not {', '.join(missing)}: unset "
            f"{claims[0]} for one process{f' (and {claims[1]})' if claims[1:] else ''}; {LAUNCH}."
        )
    whole_number("RANK", 0)
    whole_number("MASTER_PORT", 0, most=2**16 - 1)
    if processes() == 1:
        return
    if device == "mps":
        raise UserError(f"{processes()} processes were started, but an MPS device takes one; start one process.")
    here = whole_number("LOCAL_WORLD_SIZE", 1)
    if device == "cuda" and here > torch.cuda.device_count():
        raise UserError(
            f"{here} processes were started on this machine, which has {torch.cuda.device_count()} CUDA device(s); "
            "start one process for each device."
        )
