"""What this process may compute on: its device, and how many share a run. Asks torch only where there may be a GPU."""

import ctypes
import os
import sys
from functools import cache
from pathlib import Path

from qgbench.base.errors import UserError

LAUNCH = "for several processes: torchrun --nproc_per_node N -m qgbench run OPTIONS"


def processes() -> int:
    """Return the number of this run's processes, by the environment that `torchrun` and `accelerate launch` set.

    Raises
    ------
    UserError
        The environment says no number.
    """
    return whole_number("WORLD_SIZE", 1, least=1)


def whole_number(variable: str, otherwise: int, least: int = 0, most: int = 2**31) -> int:
    """Return a whole number that a launcher set."""
    text = os.environ.get(variable, str(otherwise))
    fault = ""
    try:
        number = int(text)
        fault = "" if least <= number <= most else f"not between {least} and {most}"
    except ValueError:
        fault = "no number"
    if fault:
        raise UserError(
            f"the environment says {variable}={text}, which is {fault}: unset {variable} for one process; {LAUNCH}."
        )
    return number


def best_device() -> str:
    """Return the device class that a run takes unless told otherwise: 'cuda', 'mps' or 'cpu'."""
    if "torch" not in sys.modules and not _may_have_gpu():
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


@cache
def _may_have_gpu() -> bool:
    """Return whether torch may find a GPU: on Linux it needs the driver of one, by these names."""
    if sys.platform != "linux" or Path("/dev/kfd").exists():  # AMD's
        return True
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True
