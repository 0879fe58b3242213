"""The folder of one run: its files, its status, and the lock that keeps a second process out. Imports no torch.

``runs/<id>/`` holds ``status`` (running | interrupted | failed | done; below it, why a run failed), ``config.json``
(the RunSpec), ``log.jsonl`` (numbers, a JSON object a line), ``run.log`` (what was said, with times), ``last.pt`` and
``previous.pt`` (checkpoints), and, once the run is done, ``record.json``, ``images*.csv``, ``predictions.npz`` and
``cases.png``, which comes after the record.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

from qgbench.base.errors import QGBenchError, UserError
from qgbench.base.files import write_atomically
from qgbench.base.locks import is_locked, locked
from qgbench.base.paths import no_folder
from qgbench.run.record import IMAGES_NAME, RECORD_NAME, Record, read_images, read_record, summarise
from qgbench.spec.run_spec import RunSpec

STATUS_NAME = "status"
SPEC_NAME = "config.json"
LOG_NAME = "log.jsonl"
TEXT_LOG_NAME = "run.log"
PREDICTIONS_NAME = "predictions.npz"
CASES_NAME = "cases.png"

Status = Literal["running", "interrupted", "failed", "done"]


class RunFolder:
    """One run on disk.

    Parameters
    ----------
    path : Path
        ``<output>/<id of the run>``; need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        """The run's id; a repetition made with ``--force`` has ``~2``, ``~3``, ... appended."""
        return self.path.name

    def status(self) -> Status | None:
        """Return where the run stands; None if it was never started.

        A run with a record is done, whatever its status says; one that says 'running' but whose process is gone (it
        holds no lock any more) was interrupted.
        """
        if (self.path / RECORD_NAME).is_file():
            return "done"
        text, _ = self._status_and_cause()
        if text is None:
            return None
        if text == "running" and not self.is_locked():
            return "interrupted"
        known: dict[str, Status] = {status: status for status in get_args(Status)}
        return known.get(text, "failed")

    def cause(self) -> str:
        """Return why the run failed, in words; '' if it did not, or did without a word."""
        return self._status_and_cause()[1]

    def _status_and_cause(self) -> tuple[str | None, str]:
        try:
            status, _, cause = (self.path / STATUS_NAME).read_text(encoding="utf-8").partition("\n")
        except OSError:
            return None, ""
        return status.strip(), cause.strip()

    def is_locked(self) -> bool:
        """Return whether a process is at this run now."""
        return is_locked(self.path)

    @contextmanager
    def locked(self, wait: bool = True) -> Iterator[None]:
        """Keep every other process out of this run, as `locked` does."""
        with locked(self.path, "run", wait):
            yield

    def set_status(self, status: Status, cause: str = "") -> None:
        """Write the status and, of a run that failed, why.

        Raises
        ------
        QGBenchError
            The disk is full or the folder cannot be written.
        """
        write_atomically(self.path / STATUS_NAME, f"{status}\n{cause}".strip().encode() + b"\n")

    def spec(self) -> RunSpec | None:
        """Return the RunSpec in config.json; None if it is missing or not readable."""
        try:
            return RunSpec.model_validate(RunSpec.completed(json.loads((self.path / SPEC_NAME).read_bytes())))
        except (OSError, ValueError, AttributeError, QGBenchError):
            return None

    def set_spec(self, spec: RunSpec) -> None:
        """Write config.json."""
        write_atomically(self.path / SPEC_NAME, (spec.model_dump_json(indent=1) + "\n").encode())

    def log(self) -> list[dict[str, Any]]:
        """Return the entries of log.jsonl in order; [] if there is none."""
        try:
            lines = (self.path / LOG_NAME).read_text(encoding="utf-8").splitlines()
        except OSError:
            return []
        return [json.loads(line) for line in lines]

    def set_log(self, entries: list[dict[str, Any]]) -> None:
        """Write log.jsonl."""
        write_atomically(self.path / LOG_NAME, "".join(json.dumps(entry) + "\n" for entry in entries).encode())

    def text_log(self) -> list[str]:
        """Return the lines of run.log; [] if there is none."""
        try:
            return (self.path / TEXT_LOG_NAME).read_text(encoding="utf-8").splitlines()
        except OSError:
            return []

    def record(self) -> Record | None:
        """Return the record of a finished run, checked against its per-image rows; None if the run is not finished.

        Raises
        ------
        QGBenchError
            The record or its rows are missing, cut off, or do not belong together.
        """
        if not (self.path / RECORD_NAME).is_file():
            return None
        record = read_record(self.path)
        rows = read_images(self.path / IMAGES_NAME, record.metrics)
        if summarise(rows, record.metrics.values()) != record.summary:
            raise QGBenchError(f"{self.path / IMAGES_NAME} does not belong to the record beside it")
        return record


def find_runs(output: Path) -> list[RunFolder]:
    """Return the runs in a folder of runs, by name.

    Raises
    ------
    UserError
        The folder is missing.
    """
    if not output.is_dir():
        raise UserError(f"{no_folder(output)}; runs are kept in ./runs unless --output says otherwise.")
    return [RunFolder(path.parent) for path in sorted(output.glob(f"*/{SPEC_NAME}"))]


def place_for(output: Path, spec: RunSpec, force: bool) -> RunFolder:
    """Return the folder of a run.

    Parameters
    ----------
    output : Path
        Folder of all runs.
    spec : RunSpec
    force : bool
        Do not return a finished run.

    Returns
    -------
    RunFolder
        The last that is there of ``<id>``, ``<id>~2``, ``<id>~3``, ...: whoever redid a run means the new one, and a
        repetition that was interrupted is continued. Where it is finished and `force` is given, the one after it.
    """
    place, number = RunFolder(output / spec.id), 2
    while (later := output / f"{spec.id}~{number}").is_dir() or (force and (place.path / RECORD_NAME).is_file()):
        place, number = RunFolder(later), number + 1
    return place
