"""What the files that qgbench writes as JSON have in common.

A schema has None for what is unknown, and no NaN.
"""

import math
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

SLACK = 1e-5  # what was averaged in single precision may leave its range by as much
Share = Annotated[float, Field(ge=-SLACK, le=1 + SLACK)]
Correlation = Annotated[float, Field(ge=-1 - SLACK, le=1 + SLACK)]


def _not_zeros(digest: str) -> str:
    if not digest.strip("0"):
        raise ValueError("expected the SHA-256 of something, and not zeros")
    return digest


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$"), AfterValidator(_not_zeros)]


class Part(BaseModel):
    """Base of what a record holds: frozen, unknown fields refused."""

    # NaN in a free-form field is written as NaN, which whoever writes then refuses, and not as a silent null.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


def first_fault(error: ValidationError) -> str:
    """Return a file's first fault of form, and where it is: ``times.g: Input should be a valid number, not 'x'``."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "the file"
    told = isinstance(first["input"], str | int | float | None)
    return f"{where}: {first['msg']}" + (f", not {first['input']!r}" if told else "")


def not_finite(value: Any, where: str = "") -> Iterator[str]:
    """Yield the names of numbers within dicts and lists that are NaN or infinite: ``times.train``."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from not_finite(part, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from not_finite(part, where)
    elif isinstance(value, float) and not math.isfinite(value):
        yield where


def finite_or_none(value: float) -> float | None:
    """Return the number, or None for NaN and infinity, as the schema writes what is unknown."""
    return float(value) if math.isfinite(value) else None
