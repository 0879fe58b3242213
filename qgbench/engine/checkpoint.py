"""Checkpoints of something in training: the last one and the one before, written atomically, read back in full."""

import io
import pickle
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from qgbench.base.errors import UserError, unreadable
from qgbench.base.files import write_atomically
from qgbench.base.logs import logger

LAST_NAME = "last.pt"
PREVIOUS_NAME = "previous.pt"


class Checkpoints:
    """The two latest checkpoints in a folder.

    Parameters
    ----------
    folder : Path
    belongs_to : dict of str to str
        What the state depends on, by name ('images', 'split', ...). A checkpoint of something else is refused.
    """

    def __init__(self, folder: Path, belongs_to: dict[str, str]) -> None:
        self._last = folder / LAST_NAME
        self._previous = folder / PREVIOUS_NAME
        self._belongs_to = belongs_to

    def save(self, state: dict[str, Any]) -> None:
        """Write a state of tensors, numbers, strings, lists and dicts.

        The checkpoint before stays until the new one is whole.

        Raises
        ------
        QGBenchError
            The disk is full or the folder cannot be written; older checkpoints are untouched.
        """
        buffer = io.BytesIO()
        torch.save({"belongs_to": self._belongs_to, "state": state}, buffer)
        fresh = self._last.with_name("next.pt")
        write_atomically(fresh, buffer.getvalue())
        if self._last.exists():
            self._last.replace(self._previous)
        fresh.replace(self._last)

    def load(self) -> dict[str, Any] | None:
        """Read the last checkpoint that is whole; None if there is none.

        Raises
        ------
        UserError
            It belongs to other images, another split, or another predictor, or may not be read.
        """
        for path in (self._last, self._previous):
            if not path.exists():
                continue
            if (content := _read(path)) is None:
                logger.warning("the checkpoint %s is damaged or cut off; going back to the one before.", path)
                continue
            self._check_owner(path, content["belongs_to"])
            return content["state"]
        return None

    def discard_previous(self) -> None:
        """Remove the older one, once the last will not be written again."""
        with suppress(OSError):  # one that cannot be removed takes space, and no more
            self._previous.unlink()

    def _check_owner(self, path: Path, belongs_to: dict[str, str]) -> None:
        if other := [name for name, value in self._belongs_to.items() if belongs_to.get(name) != value]:
            raise UserError(
                f"{path} was made with other {' and other '.join(other)} than there are now; bring those back, or "
                f"remove the folder {path.parent} to start anew."
            )


def _read(path: Path) -> dict[str, Any] | None:
    """Read a checkpoint whose every byte is checked (CRC-32 of the archive); None if it is not whole."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return None
        content = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise unreadable(path, error) from error
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, zipfile.BadZipFile, pickle.UnpicklingError):
        return None
    return content if isinstance(content, dict) and {"belongs_to", "state"} <= set(content) else None
