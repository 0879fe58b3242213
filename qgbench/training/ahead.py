"""The next batch, made by a thread while the present one is trained on."""

from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any

from torch import Tensor

from qgbench.methods import Batch
from qgbench.training.streams import Streams


class Ahead:
    """The batches of streams, and their states: those that the streams give by themselves, one made in advance.

    Whatever makes a batch fail is raised by the `next` that asks for it. The thread ends with this object, and the last
    batch of a run is made in vain.

    Parameters
    ----------
    streams : Streams
        Used by nobody else.
    """

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._thread = ThreadPoolExecutor(1)  # started once: whoever starts a thread waits until it runs
        self._waiting: Future[tuple[Batch, Tensor]] | None = None
        self._before: dict[str, Any] = {}  # the streams' state without the batch that waits

    def next(self, progress: float) -> tuple[Batch, Tensor]:
        """Return what `Streams.next` does, and have the next batch begun."""
        batch, truth = (self._waiting or self._begin()).result()
        self._waiting = self._begin()
        return replace(batch, progress=progress), truth

    def _begin(self) -> Future[tuple[Batch, Tensor]]:
        self._before = self._streams.state_dict()
        return self._thread.submit(self._streams.next, 0.0)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that continues with the batch that waits."""
        return self._before if self._waiting else self._streams.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        if self._waiting:
            wait([self._waiting])
            self._waiting = None
        self._streams.load_state_dict(state)
