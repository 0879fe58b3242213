"""A stage of training that can be interrupted anywhere: saved at intervals, continued by the same call."""

import signal
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from qgbench.base.interruption import Interrupted, held_signals
from qgbench.base.logs import logger
from qgbench.base.progress import track
from qgbench.engine.checkpoint import Checkpoints

SECONDS_BETWEEN_CHECKPOINTS = 30.0


class Resumable(Protocol):
    """Something that trains step by step and can be continued from its state, bit for bit on a CPU."""

    @property
    def steps(self) -> int:
        """Number of steps of the whole stage."""

    @property
    def step(self) -> int:
        """Number of steps that are done."""

    def run(self) -> Iterator[int]:
        """Do the steps that are left, yielding the number of finished steps after each; may end early."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the rest of the stage depends on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""


def train(
    trainer: Resumable,
    checkpoints: Checkpoints,
    description: str,
    saved: Callable[[], None] = lambda: None,
    agree: Callable[[bool], bool] = lambda flag: flag,
    writes: bool = True,
) -> float:
    """Train to the end of the stage, from the last checkpoint if there is one.

    A checkpoint is written every `SECONDS_BETWEEN_CHECKPOINTS`, at the end, and when a signal asks to stop: that waits
    for the end of the step.

    Parameters
    ----------
    trainer : Resumable
    checkpoints : Checkpoints
    description : str
        Name of the stage, for the progress bar.
    saved : callable
        Called after each checkpoint.
    agree : callable
        Gives every process the same answer: whether any of them says yes.
    writes : bool
        This process writes the checkpoints; with several processes one does.

    Returns
    -------
    float
        Seconds of training, those before interruptions included.

    Raises
    ------
    Interrupted
        A signal asked to stop; the state is saved.
    """
    seconds = 0.0
    if (content := checkpoints.load()) is not None:
        trainer.load_state_dict(content["trainer"])
        seconds = content["seconds"]
        if trainer.step < trainer.steps:
            logger.info("%s: continuing after step %d of %d.", description, trainer.step, trainer.steps)
    begin = time.monotonic() - seconds
    last = time.monotonic()

    def save() -> None:
        nonlocal last
        state = trainer.state_dict()
        if writes:
            checkpoints.save({"trainer": state, "seconds": time.monotonic() - begin})
            saved()
        last = time.monotonic()

    saved_at = None if content is None else trainer.step
    with held_signals() as held:
        for done in track(trainer.run(), description, trainer.steps, "steps", trainer.step):
            stop = agree(held.number is not None)
            if agree(stop or time.monotonic() - last >= SECONDS_BETWEEN_CHECKPOINTS):
                save()
                saved_at = done
            if stop:
                raise Interrupted(held.number or signal.SIGTERM)  # none of its own: another process was asked to stop
        if saved_at != trainer.step:
            save()
    return time.monotonic() - begin
