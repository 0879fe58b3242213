"""Checkpoints of a run in progress: written atomically, read back in full."""

import io
from pathlib import Path
from typing import Any

import torch

from qgbench.records import write_atomically

CHECKPOINT_NAME = "last.pt"


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write a state of tensors, numbers, strings, lists and dicts."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(folder / CHECKPOINT_NAME, buffer.getvalue())


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Read the last checkpoint; None if there is none."""
    path = folder / CHECKPOINT_NAME
    return torch.load(path, map_location="cpu", weights_only=True) if path.is_file() else None
