"""Ctrl-C and the signals that ask a process to end: a run stops between two steps, with its state saved."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# SIGUSR2 is what batch systems are told to send before a job's time is over. Windows has only the first two.
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR2") if hasattr(signal, name))


class Interrupted(BaseException):
    """A signal asked the process to end. Not a KeyboardInterrupt, which the command line's library would swallow.

    Parameters
    ----------
    number : int
        The signal; a shell expects the exit code 128 + number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)  # as given, so that it can be unpickled
        self.number = number

    def __str__(self) -> str:
        return signal.Signals(self.number).name


def _stop(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number)


class Held:
    """A signal that waits for the end of a step."""

    def __init__(self) -> None:
        self.number: int | None = None

    def remember(self, number: int, frame: FrameType | None) -> None:
        """Keep the first signal back; a second one stops at once."""
        if self.number is not None:
            raise Interrupted(number)
        self.number = number


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # there, Python forbids it, and no signal arrives
        yield
        return
    before = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn Ctrl-C, SIGTERM, SIGHUP and SIGUSR2 into `Interrupted` inside the block."""
    with _handled_by(_stop):
        yield


@contextmanager
def held_signals() -> Iterator[Held]:
    """Hold these signals back inside the block, for code that must reach the end of a step first.

    Yields
    ------
    Held
        Its `number` is set once a signal came; the block is expected to look at it and to raise `Interrupted`.
    """
    held = Held()
    with _handled_by(held.remember):
        yield held
