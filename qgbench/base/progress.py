"""Progress of long stages: a bar with speed and time left in a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from qgbench.base.logs import QUIET, verbosity

T = TypeVar("T")
_SECONDS_BETWEEN_LINES = 10.0


class _Speed(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text(_speed_words(task.finished_speed or task.speed or 0.0, self._unit))


def _speed_words(speed: float, unit: str) -> str:
    """Return items per second, or seconds per item where an item takes longer than one, as text."""
    if not speed:
        return f"- {unit}/s"
    return f"{speed:.1f} {unit}/s" if speed >= 1 else f"{1 / speed:.1f} s/{unit.removesuffix('s')}"


def track(iterable: Iterable[T], description: str, total: int, unit: str = "steps", start: int = 0) -> Iterator[T]:
    """Yield the items while showing how far the stage is, on standard error, unless told to be quiet.

    Parameters
    ----------
    iterable : iterable
        What is worked through.
    description : str
        Name of the stage, in front of the bar.
    total : int
        Number of items of the whole stage.
    unit : str
        What an item is, for the speed.
    start : int
        Items that an earlier, interrupted process has finished already.
    """
    console = Console(stderr=True)
    if verbosity() >= QUIET:
        yield from iterable
    elif console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Speed(unit),
            TimeRemainingColumn(compact=True),
        )
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(description, total=total, completed=start)
            for item in iterable:
                yield item
                progress.advance(task)
    else:
        yield from _plain(iterable, description, total, unit, start)


def _plain(iterable: Iterable[T], description: str, total: int, unit: str, start: int) -> Iterator[T]:
    begin = last = time.monotonic()
    done = start
    for item in iterable:
        yield item
        done += 1
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_LINES or done == total:
            last = now
            speed = (done - start) / max(now - begin, 1e-9)
            left = (total - done) / speed
            words = f"{description}: {done}/{total} {unit}, {_speed_words(speed, unit)}, {left:.0f} s left"
            print(words, file=sys.stderr, flush=True)


class Track(Protocol):
    """Something that shows progress, such as a progress bar: hands through what it is given."""

    def __call__(self, iterable: Iterable[T], description: str, total: int, unit: str, start: int = 0) -> Iterator[T]:
        """Yield the items of `iterable`; with the `start` that are done already there are `total`."""


def no_progress(iterable: Iterable[T], description: str, total: int, unit: str, start: int = 0) -> Iterator[T]:
    """Yield the items, and show nothing."""
    yield from iterable
