"""Hand in a finished run: its record, checked, in its place among the submitted results, and what reruns of it found.

What is refused, beside every fault of `qgbench.trust.verify`: a run that is not done; the smoke protocol, whose scores
mean nothing; a former version of a protocol, which cannot be checked in full; a provisional one, which may change; code
with changes that no commit holds, since nobody else could run it; a data set that was named by its path, which means
nothing elsewhere; and a place that holds another record, which is never overwritten. A method or architecture that does
not ship is taken, and its place is named after a hash of its source, so that it cannot be mistaken for another of that
name.
"""

from pathlib import Path

from qgbench.base.errors import UserError
from qgbench.base.files import write_atomically
from qgbench.base.logs import logger
from qgbench.base.paths import is_path
from qgbench.run.folder import RunFolder
from qgbench.run.record import RECORD_NAME, Record, images_path, labels_path, read_record, result_path
from qgbench.spec.protocol import load_protocol
from qgbench.trust.manifest import enter
from qgbench.trust.reproduce import mark, read_reproductions, reproductions_path
from qgbench.trust.verify import verify_records

_MEANINGLESS = "smoke"
_OF_SEVERAL = ("gap", "twin")  # say nothing of one run by itself


def submit(run: Path, results: Path) -> list[Path]:
    """Copy the record of a finished run, with its rows, to its place among submitted results.

    Parameters
    ----------
    run : Path
        A run's folder.
    results : Path
        Folder of submitted results; made if it is missing.

    Returns
    -------
    list of Path
        The JSON, the CSVs and, where the run was repeated, what the reruns found; whether they were written now or were
        there already.

    Raises
    ------
    UserError
        The run is refused, for one of the reasons above.
    QGBenchError
        The disk is full or the folder cannot be written.
    """
    if (status := RunFolder(run).status()) != "done":
        raise UserError(
            f"{run} is not a finished run (status: {status or 'none, it is no run'}). Give the folder of one that is "
            "done; the command that began it continues it."
        )
    record = read_record(run)
    _refuse(run, record)
    found = verify_records([run])
    if faults := [fault for fault in found if fault.severity == "fault"]:
        listed = "\n".join(f"  {fault.path.name}: {fault.rule}: {fault.text}" for fault in faults)
        raise UserError(f"{run} does not pass `qgbench verify`, and is not submitted:\n{listed}")
    for note in found:
        if note.rule not in _OF_SEVERAL:
            logger.info("note: %s: %s", note.rule, note.text)
    source, target = run / RECORD_NAME, results / result_path(record)
    beside = [(name(target), name(source)) for name in (images_path, labels_path)]
    contents = {file: own.read_bytes() for file, own in [*beside, (target, source)] if own.exists()}
    if target.exists():
        if any(file.exists() and file.read_bytes() != content for file, content in contents.items()):
            raise UserError(
                f"{target} is another record of the same cell and seed{_of_version(target, record)}, and is not "
                "overwritten. If this one is to replace it, remove its files first, and say why in the pull request."
            )
        if images_path(target).exists():
            logger.info("%s is there already, and is the same.", target)
    # A record is found by its JSON, which comes last: until then the CSV counts for nothing and may be replaced.
    for file, content in contents.items():
        write_atomically(file, content)
    reruns = read_reproductions(source)
    for rerun in reruns:
        mark(target, rerun)  # beside those that are there already
    written = [target, *(file for file in contents if file != target)]
    enter(written)
    return [*written, *([reproductions_path(target)] if reruns else [])]


def _refuse(run: Path, record: Record) -> None:
    cell = record.spec
    commit = record.provenance.git_commit or ""
    if cell.protocol == _MEANINGLESS:
        raise UserError(f"{run} is of the protocol '{cell.protocol}', whose scores mean nothing; it is not submitted.")
    for what, version, present in record.versions(load_protocol(cell.protocol)):
        if version != present:
            raise UserError(
                f"{run} is {what} version {version}, and the present is {present}; run it anew with this qgbench."
            )
    if _is_provisional(record):
        raise UserError(
            f"{run} is of version {cell.protocol_version} of the protocol '{cell.protocol}', which is provisional: "
            "it may still change, and its runs are not submitted before it is declared."
        )
    if commit.endswith("+dirty"):
        raise UserError(
            f"{run} was trained by code with changes that commit {commit.removesuffix('+dirty')[:12]} does not hold. "
            "Commit them, and repeat the run with --force."
        )
    if is_path(cell.dataset):
        raise UserError(
            f"{run} names its data set by a path, '{cell.dataset}', which means nothing elsewhere. Put the folder "
            "below QGBENCH_DATA and run it by its name."
        )


def _is_provisional(record: Record) -> bool:
    return bool(record.settings["protocol"].get("provisional"))


def _of_version(target: Path, record: Record) -> str:
    """Return of which version of the protocol or of g a record is, where it is of another one."""
    there = read_record(target)
    if there.spec.protocol_version != record.spec.protocol_version:
        return f", of version {there.spec.protocol_version} of the protocol"
    return "" if there.g_version == record.g_version else f", by version {there.g_version} of g"
