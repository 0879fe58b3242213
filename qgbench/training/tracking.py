"""Curves of a run in progress for an experiment tracker, beside log.jsonl.

Trackers are those that accelerate knows (wandb, mlflow, tensorboard, ...), through its classes. The run's id names the
run, in a project ``qgbench`` where the tracker has projects; the RunSpec is its configuration. Accounts, servers and
folders are set as the tracker's own manual says, mostly by variables of the environment.

Each process that works at a run begins a run of the tracker and sends all entries of log.jsonl from the first step on,
each once. A run that was interrupted and continued is thus there twice under one name: cut off, and whole. TensorBoard
and DVCLive write to the run's folder, where the cut-off one is replaced.
"""

import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from accelerate.utils import LoggerType

from qgbench.base.errors import UserError, unknown_name
from qgbench.base.logs import logger

_PROJECT = "qgbench"
_IN_RUN_FOLDER = ("tensorboard", "dvclive")
_TO_INSTALL = {
    "tensorboard": "'qgbench[tensorboard]'",
    "aim": "'aim<4'",  # accelerate's class is for aim 3
    "comet_ml": "comet-ml",
}

Send = Callable[[list[dict[str, Any]]], None]


def require_tracker(name: str) -> None:
    """Refuse a tracker that is unknown or not installed.

    Raises
    ------
    UserError
        Lists what the installed accelerate knows, or says what to install.
    """
    known = {str(key): key for key in LOGGER_TYPE_TO_CLASS}
    if name not in known:
        raise unknown_name("tracker", name, known)
    is_own_package = name in LoggerType.list()  # others were registered by code that is there
    if is_own_package and find_spec(name) is None:
        raise UserError(
            f"--track {name} needs a package that is not installed: pip install {_TO_INSTALL.get(name, name)}"
        )


@contextmanager
def tracking(name: str | None, folder: Path, config: dict[str, Any]) -> Iterator[Send]:
    """Open a tracker for one run; one that fails, now or later, is warned of once and left alone.

    Parameters
    ----------
    name : str or None
        A name that accelerate knows; None tracks nothing.
    folder : Path
        The run's folder, named by its id.
    config : dict
        The RunSpec's fields; nested ones are flattened to ``outer.inner``.

    Yields
    ------
    callable
        Takes all entries of log.jsonl so far and sends those that it has not sent yet.

    Raises
    ------
    UserError
        As `require_tracker`.
    """
    if name is None:
        yield lambda entries: None
        return
    require_tracker(name)
    tracker: GeneralTracker | None = None
    sent = 0

    def attempt(act: Callable[[], None]) -> None:
        nonlocal tracker
        try:
            act()
        except (Exception, SystemExit) as error:
            first = (str(error).splitlines() or [""])[0]
            logger.warning("%s failed and gets no more curves: %s: %s", name, type(error).__name__, first)
            logger.debug("", exc_info=True)
            tracker = None

    def begin() -> None:
        nonlocal tracker
        tracker = _start(name, folder)
        tracker.store_init_configuration({"id": folder.name, **_flat(config)})

    def send_new(entries: list[dict[str, Any]]) -> None:
        nonlocal sent
        assert tracker is not None
        for entry in entries[sent:]:
            values = {key: value for key, value in entry.items() if key != "step" and value is not None}
            tracker.log(values, step=entry["step"])
            sent += 1

    def send(entries: list[dict[str, Any]]) -> None:
        if tracker is not None:
            attempt(lambda: send_new(entries))

    attempt(begin)
    try:
        yield send
    finally:
        if tracker is not None:
            attempt(tracker.finish)


def _start(name: str, folder: Path) -> GeneralTracker:
    """Begin a run of a tracker, named as its class permits; return the tracker."""
    if name in _IN_RUN_FOLDER:
        shutil.rmtree(folder / name, ignore_errors=True)
    run = folder.name
    of_class: dict[str, tuple[str, dict[str, Any]]] = {
        "tensorboard": ("tensorboard", {"logging_dir": str(folder)}),
        "aim": (run, {"logging_dir": str(folder.parent), "experiment": _PROJECT}),
        "mlflow": (_PROJECT, {"run_name": run}),
        "wandb": (_PROJECT, {"name": run}),
        "trackio": (_PROJECT, {"name": run}),
        "swanlab": (_PROJECT, {"experiment_name": run}),
        "comet_ml": (_PROJECT, {}),
        # Left to itself, ClearML registers every file that torch saves as a model.
        "clearml": (_PROJECT, {"task_name": run, "auto_connect_frameworks": False}),
        "dvclive": (run, {"dir": str(folder / "dvclive"), "save_dvc_exp": False, "dvcyaml": None}),
    }
    make = {str(key): value for key, value in LOGGER_TYPE_TO_CLASS.items()}[name]
    needed = {"logging_dir": str(folder)} if make.requires_logging_directory else {}
    first, options = of_class.get(name, (run, needed))
    with _kept_signal_handlers():
        tracker: GeneralTracker = make(first, **options)
        tracker.start()
    if name == "comet_ml":
        tracker.tracker.set_name(run)
    return tracker


@contextmanager
def _kept_signal_handlers() -> Iterator[None]:
    """Undo what a tracker does to signals: they save the run's state before anything else ends."""
    if threading.current_thread() is not threading.main_thread():  # there, Python forbids setting them
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _flat(fields: dict[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """Return nested fields in one dict; what trackers do not take (lists, None) becomes text."""
    flat: dict[str, bool | int | float | str] = {}
    for key, value in fields.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, bool | int | float | str) else str(value)
    return flat
