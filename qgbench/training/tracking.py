"""Curves of a run in progress for an experiment tracker, beside log.jsonl."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from qgbench.errors import UserError, unknown_name

TRACKERS = ("tensorboard",)
_FOLDER = "tensorboard"

Send = Callable[[list[dict[str, Any]]], None]


def require_tracker(name: str) -> None:
    """Refuse a tracker that is unknown or not installed.

    Raises
    ------
    UserError
        Says what to install.
    """
    if name not in TRACKERS:
        raise unknown_name("tracker", name, TRACKERS)
    if find_spec("tensorboard") is None:
        raise UserError("--track tensorboard needs TensorBoard: pip install 'qgbench[tensorboard]'.")


@contextmanager
def tracking(name: str | None, folder: Path) -> Iterator[Send]:
    """Open a tracker for one run.

    Parameters
    ----------
    name : str or None
        One of `TRACKERS`; None tracks nothing.
    folder : Path
        The run's folder; event files are written to ``<folder>/tensorboard``, anew at each start, so that steps which
        an interrupted process did after its last checkpoint do not appear twice.

    Yields
    ------
    callable
        Takes all entries of log.jsonl so far and sends those that it has not sent yet.
    """
    if name is None:
        yield lambda entries: None
        return
    require_tracker(name)
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(folder / _FOLDER, ignore_errors=True)
    writer = SummaryWriter(str(folder / _FOLDER))
    sent = 0

    def send(entries: list[dict[str, Any]]) -> None:
        nonlocal sent
        for entry in entries[sent:]:
            for key, value in entry.items():
                if key != "step" and value is not None:
                    writer.add_scalar(key, value, entry["step"])
        sent = len(entries)
        writer.flush()

    try:
        yield send
    finally:
        writer.close()
