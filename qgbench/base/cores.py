"""Long work on all cores: processes where it is Python's own work, threads where it is that of a library."""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from qgbench.base.errors import QGBenchError

MOST_THREADS = 4096  # that a run may ask for

T = TypeVar("T")
R = TypeVar("R")


def on_all_cores(function: Callable[[T], R], items: Sequence[T], worth: int, chunk: int = 1) -> Iterator[R]:
    """Yield what a function returns for each item, in the order of the items; processes on all cores do the work.

    Parameters
    ----------
    function : callable
        Of a module's top level; it and the items are sent to other processes.
    items : sequence
    worth : int
        So many items are worth a process, which takes a second or two to start; what is worth one stays in this one.
    chunk : int
        How many items are sent at once.

    Raises
    ------
    QGBenchError
        A process was killed.
    """
    cores = min(usable_cores(), len(items) // worth)
    if cores <= 1:
        yield from map(function, items)
        return
    spawn = multiprocessing.get_context("spawn")
    try:
        # Ctrl-C reaches all processes: this one answers it, and ends the others.
        with ProcessPoolExecutor(cores, spawn, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
            yield from pool.map(function, items, chunksize=chunk)
    except BrokenProcessPool as error:
        raise QGBenchError(
            "a process at work on the records was killed, most often because the memory was full. Free some, or give "
            "fewer records at a time, and try again."
        ) from error


def in_threads(function: Callable[[T], R], items: Iterable[T]) -> Generator[R]:
    """Yield what a function returns for each item, in the order of the items; threads do the work.

    It is only so far ahead of the caller that no core waits for it; whoever may stop before the end closes it.
    """
    cores = usable_cores()
    ahead: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(cores)
    try:
        for item in items:
            ahead.append(pool.submit(function, item))
            if len(ahead) > 2 * cores:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def usable_cores() -> int:
    """Return the number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
