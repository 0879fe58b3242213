"""What a rule of `qgbench.trust.verify` finds."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Severity = Literal["fault", "note"]
Found = Iterator[tuple[str, str]]  # rule and text
EXACT = 1e-9  # for what is recomputed from the same numbers in double precision


@dataclass(frozen=True)
class Fault:
    """Something that a rule found.

    Attributes
    ----------
    path : Path
        The record, or the first of several that share it.
    rule : str
        One of those listed in `qgbench.trust.verify`.
    text : str
        What was found and what was expected.
    severity : {'fault', 'note'}
    """

    path: Path
    rule: str
    text: str
    severity: Severity = "fault"
