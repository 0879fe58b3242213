"""What the runs of a folder are and how far they are: the list, and one run in full. Imports no torch."""

import difflib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

from qgbench.base.console import print_table
from qgbench.base.errors import UserError
from qgbench.base.paths import is_path
from qgbench.report.collect import DISTANCE_WORDS
from qgbench.report.outcome import outcome_tables
from qgbench.run.folder import CASES_NAME, LOG_NAME, SPEC_NAME, STATUS_NAME, TEXT_LOG_NAME, RunFolder, Status, find_runs
from qgbench.run.record import RECORD_NAME, Record
from qgbench.spec.protocol import load_protocol
from qgbench.spec.run_spec import RunSpec

_COLOURS: dict[Status | None, str] = {"running": "cyan", "interrupted": "yellow", "failed": "red", "done": "green"}
_LISTED = 10  # candidates of an ambiguous name, at most
_LOG_LINES = 15

T = TypeVar("T")


@dataclass(frozen=True)
class _State:
    """What could be read of a run, and why the rest could not."""

    status: Status | None
    changed: float | None
    """When the status file was written last, seconds since 1970; None without one."""
    spec: RunSpec | None
    total: int | None
    """Steps of the whole run; None if config.json does not say."""
    done: int | None
    """Steps that log.jsonl knows of; None if it is damaged."""
    text_log: list[str]
    record: Record | None
    faults: list[str]

    @property
    def age(self) -> str:
        """Time since the status changed: '12 s', '5 min', '3 h', '2 d'."""
        return "" if self.changed is None else _human(time.time() - self.changed)

    def describe(self) -> Text:
        """Return the status in its colour, with the steps done for a run that is not."""
        known = self.status != "done" and self.done is not None and self.total is not None
        steps = f" {self.done}/{self.total}" if known else ""
        return Text((self.status or "not started") + steps, style=_COLOURS.get(self.status, "dim"))


def print_runs(folders: list[RunFolder], console: Console) -> None:
    """Print a table of runs, one a row: id, status, Dice (%), HD95, age; the one changed last comes last.

    Of several classes Dice and HD95 are means over them. HD95 is in pixels; where some runs have it in mm or voxels,
    each names its unit. Below the table stands what is damaged of a run, and the cause.

    Parameters
    ----------
    folders : list of RunFolder
    console : Console
    """
    if not folders:
        console.print(Text("No runs yet. Start one, for example: qgbench run --method fixmatch --qg"))
        return
    states = sorted(((folder, _read(folder)) for folder in folders), key=_by_age)
    units = {state.record.distance_unit for _, state in states if state.record}
    table = Table()
    table.add_column("run")
    table.add_column("status", no_wrap=True)
    table.add_column("Dice %", justify="right", no_wrap=True)
    table.add_column("HD95 px" if units <= {"px"} else "HD95", justify="right", no_wrap=True)
    table.add_column("age", justify="right", no_wrap=True)
    notes: list[Text] = []
    for folder, state in states:
        notes += [Text(f"note: {folder.name}: {fault}", style="red") for fault in state.faults]
        dice, hd95 = "--", "--"
        if state.record is not None:
            means, unit = state.record.summary.means, DISTANCE_WORDS[state.record.distance_unit]
            dice, hd95 = f"{100 * means['dice']:.2f}", f"{means['hd95']:.2f}" + (f" {unit}" if units - {"px"} else "")
        table.add_row(Text(folder.name), state.describe(), dice, hd95, state.age)
    print_table(table, console)
    for note in notes:
        console.print(note, soft_wrap=True)


def _by_age(pair: tuple[RunFolder, _State]) -> tuple[float, str]:
    folder, state = pair
    return (state.changed or 0.0, folder.name)


def find_run(output: Path, name: str) -> RunFolder:
    """Return the one run that a name means.

    Parameters
    ----------
    output : Path
        Folder of runs.
    name : str
        The path of a run's folder; or the id of a run in `output`, or a part of it that no other run's id has: the
        whole id wins over its beginning, and its beginning over any other part.

    Raises
    ------
    UserError
        No run, or more than one, answers to the name; or there is no folder `output`.
    """
    if is_path(name) and (Path(name) / SPEC_NAME).is_file():
        return RunFolder(Path(name).resolve())
    known = {folder.name: folder for folder in find_runs(output)}
    if name in known:
        return known[name]
    for answers in (str.startswith, str.__contains__):
        found = [run for run in known if answers(run, name)]
        if len(found) == 1:
            return known[found[0]]
        if found:
            shown = "\n  ".join(found[:_LISTED])
            more = f"\n  and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
            raise UserError(f"'{name}' fits {len(found)} runs in {output}; give more of the id:\n  {shown}{more}")
    if not known:
        raise UserError(f"no run '{name}': {output} holds no runs. Start one with `qgbench run`, or give its folder.")
    nearest = "\n  ".join(sorted(known, key=lambda run: _likeness(name, run), reverse=True)[:3])
    raise UserError(
        f"no run '{name}' in {output}: expected an id, a part of one, or a run's folder (`qgbench runs` lists "
        f"them). Nearest:\n  {nearest}"
    )


def _likeness(name: str, run: str) -> float:
    """Return the share of a name's characters that a run's id has in the same order, long pieces counting more."""
    blocks = difflib.SequenceMatcher(None, run, name, autojunk=False).get_matching_blocks()
    return sum(block.size**2 for block in blocks) / len(name) ** 2


def print_run(folder: RunFolder, console: Console) -> None:
    """Print one run in full: what it is, its results, the end of its log, its files.

    What is damaged is replaced by a note with the cause.

    Parameters
    ----------
    folder : RunFolder
    console : Console
    """
    state = _read(folder)
    console.print(Text(folder.name, style="bold"), soft_wrap=True)
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    status = state.describe() + Text(f", {state.age} ago" if state.age else "")
    facts.add_row("status", status)
    if state.spec is not None:
        for fact, value in _facts(state.spec).items():
            facts.add_row(fact, Text(value))
    console.print(facts)
    for fault in state.faults:
        console.print(Text(f"note: {fault}", style="red"))
    if state.status in ("interrupted", "failed"):
        console.print(Text("The command that started this run continues it from its last checkpoint."))
    if state.record is not None:
        console.print()
        for outcome in outcome_tables(state.record):
            console.print(outcome)
    if state.text_log:
        console.print()
        console.print(Text(f"last lines of {TEXT_LOG_NAME}", style="bold"))
        for line in state.text_log[-_LOG_LINES:]:
            console.print(Text.from_ansi(line, overflow="fold"))
        console.print()
    for name in (RECORD_NAME, CASES_NAME):
        if (folder.path / name).is_file():
            console.print(Text(str(folder.path / name), overflow="fold"), soft_wrap=True)


def _facts(spec: RunSpec) -> dict[str, str]:
    try:
        protocol = f"{spec.protocol} v{load_protocol(spec.protocol).version}"
    except UserError:
        protocol = spec.protocol
    facts = {
        "method": spec.method,
        "add-on": spec.addon or "none",
        "data set": spec.dataset,
        "regime": spec.regime,
        "arch": f"{spec.arch}, encoder {spec.encoder}",
        "seed": str(spec.seed),
        "protocol": protocol,
        "computed in": f"{spec.precision} on {spec.device}, {spec.threads} thread{'s' * (spec.threads > 1)}",
    }
    return facts | ({"settings": spec.variant} if spec.variant else {})


def _read(folder: RunFolder) -> _State:
    """Read all there is of a run; whatever cannot be read becomes a fault and is left empty."""
    faults: list[str] = []

    def attempt(read: Callable[[], T | None], what: str) -> T | None:
        # However a file is damaged, the other runs of the list are still to be shown.
        try:
            return read()
        except Exception as error:
            cause = str(error).replace(f"{folder.path}{os.sep}", "") or type(error).__name__
            faults.append(f"{what} is damaged: {cause}")
            return None

    status: Status | None = attempt(folder.status, STATUS_NAME)
    spec = attempt(folder.spec, SPEC_NAME)
    total = None if spec is None else attempt(lambda: spec.resolve().train.steps, SPEC_NAME)
    if spec is None and not faults:
        faults.append(f"{SPEC_NAME} is missing or damaged")
    entries = attempt(folder.log, LOG_NAME)
    steps = [entry["step"] for entry in entries or [] if isinstance(entry, dict) and isinstance(entry.get("step"), int)]
    record = attempt(folder.record, "the record")
    if status == "done" and not (folder.path / RECORD_NAME).is_file():
        faults.append(f"{STATUS_NAME} says done, but there is no {RECORD_NAME}")
    return _State(
        status=status,
        changed=attempt(lambda: _changed(folder.path / STATUS_NAME), STATUS_NAME),
        spec=spec,
        total=total,
        done=None if entries is None else max(steps, default=0),
        text_log=attempt(folder.text_log, TEXT_LOG_NAME) or [],
        record=record,
        faults=faults,
    )


def _changed(file: Path) -> float | None:
    return file.stat().st_mtime if file.exists() else None


def _human(seconds: float) -> str:
    seconds = max(seconds, 0.0)  # the clock of a network drive may be ahead
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"
