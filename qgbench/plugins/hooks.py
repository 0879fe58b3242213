"""Calls into code of plug-ins: what it raises, or hands over, is told with its name."""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qgbench.base.errors import QGBenchError, UserError, in_one_line


def call(who: str, hook: Callable[..., Any], *args: Any) -> Any:
    """Return what a hook gives.

    Parameters
    ----------
    who : str
        'the metric area_error', 'add-on Capped: weigh'.
    hook : callable
    *args : Any

    Raises
    ------
    UserError
        A hook that does not ship failed: says whose, how, and in which line of its file.
    """
    try:
        return hook(*args)
    except QGBenchError:
        raise
    except Exception as error:
        if getattr(hook, "__module__", "").startswith("qgbench."):
            raise
        file = getattr(getattr(hook, "__code__", None), "co_filename", "")
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        where = f" ({Path(file).name}, line {lines[-1]})" if lines else ""
        raise UserError(f"{who} failed: {in_one_line(error)}{where}.") from error


def told(value: object) -> str:
    """Return what was handed over, in words: 'a Tensor of shape (8,)', 'a list', '3.0', 'None'."""
    if (shape := getattr(value, "shape", None)) is not None:
        return f"a {type(value).__name__} of shape {tuple(shape)}"
    return str(value) if value is None or isinstance(value, int | float | str) else f"a {type(value).__name__}"
