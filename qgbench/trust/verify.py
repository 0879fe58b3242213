"""Check records before they are believed: averages and overlap scores are recomputed, what is claimed is compared.

Distances (HD95, ASSD, NSD) cannot be recomputed without the predictions; they are checked for what is impossible, and
where predictions lie beside the record, every metric is measured anew. Each ``verify_*.py`` beside this file checks
what its name says.

A fault is something that no honest, undamaged record has; one is enough to refuse it. A note is to be known and proves
nothing. The rules, each record by itself:

============== ======== ===============================================================================================
rule           severity found
============== ======== ===============================================================================================
record         fault    JSON that is cut off, not a record, of a version of the schema that is not known, or of schema 1
                        and says one thing twice and differently; a number outside its range, a hash that is none
images         fault    CSV that is missing, cut off, empty, of other columns, or has text where a number belongs
image ids      fault    an image or volume twice in one class, without id or group, without a row of each class, of a
                        class that the record has not, or with another group or size in another class
counts         fault    sizes and counts that are no whole numbers, more pixels than the image has, also of all classes
                        together, n_tp above n_ref or n_pred; of volumes, sides of a voxel that are not positive, or not
                        1 where they are not known
overlap        fault    Dice, Jaccard, precision, recall that n_tp, n_ref, n_pred do not give (to 1e-9)
status         fault    another status than n_ref and n_pred give
distances      fault    HD95 (either) or ASSD that is empty though both masks have foreground or neither has, given
                        though one is empty, below 0, longer than the image, above 0 though the masks are equal, or
                        none that the areas allow (`qgbench.trust.distance_bounds`)
surface dice   fault    outside [0, 1], not 0 where one mask is empty, not 1 where the masks are equal, or higher at the
                        smaller of the two tolerances
scores         fault    q or confidence outside [0, 1]; q without a predictor g, or none with one
metrics        fault    of a metric that does not ship, a value outside its range, another one for empty masks, the
                        label of one that ships, or other facts than the installed one's
audits         fault    labels.csv that is missing, damaged, of other checkpoints or images than a run audits or the
                        committed split has, or does not give the agreement of scores with true Dice; records of schema
                        1 have none
summary        fault    an average that the CSV does not give, where its images are the right ones; another network's
                        too, where its CSV is there
numbers        fault    in the JSON: NaN or infinity
contradiction  fault    g, its weights, its audit or what the add-on did are there where the run has none, or the
                        reverse; an id of g that the run cannot have; other validations, best step or networks than
                        the settings give; mean q, kept share and effective sample size that no weights of QW have; q
                        above its true Dice by more than it can be, or than the run's log says; validation Dice that
                        the log does not say; a best network more than 10 points of Dice from the student where
                        validation Dice does not say so
rows           fault    rows that are not those of the run, as the record's hash of run id and rows tells; a note where
                        the record is from before there was one
data           fault    the phantom's fingerprint is not that of the phantom drawn here
classes        fault    other classes, or another unit of distances, than the card of the data set gives
protocol       fault    no protocol of this qgbench, or a newer version of one or of its g
spec           fault    a spec that does not resolve, names nothing known, or that run_id or settings contradict;
                        settings that came after the record are read as what was done before them
labels         fault    labelled images that repeat, are test images, are not as many as the regime says, or are not
                        those that the seed draws, or that the published split names; of several classes, which images
                        show them is believed, and of volumes without a committed split, whose they are
split          fault    another split than the committed one
test images    fault    other test images or groups than the committed split's
place          fault    submitted under a name that is not the record's (`qgbench.run.record.result_path`)
pair           fault    a submitted CSV, or what reruns found, without its JSON
reproduction   fault    what reruns found cannot be read or is of another record, or the last rerun disagrees
older          note     a former version of the protocol, or of the g that guides the run: run_id, settings, split,
                        labelled images and place are not compared with those of today (settings with each other's)
split unknown  note     no split is committed for this data set, or someone else made it and it does not ship: split,
                        test images and audited images are not checked
outside code   note     method, architecture, add-on or metric do not ship with qgbench; and whether what is here has
                        another source, or is a file, which is not run: then what it decides is not checked
uncommitted    note     trained by code with changes that no commit holds
near copies    note     test images that are near copies of training images, as the run found
judge          fault    kept predictions, where nothing is wrong with the rows by themselves, give other pixels, overlap
                        (to 1e-9), distances or NSD (to 1e-6), or are of other images, classes or sizes; with ``judge``
                        it is medpy that measures, whatever was found
not judged     note     the data are not here; with ``judge``, also: the predictions were not kept
============== ======== ===============================================================================================

and records beside each other:

============== ======== ===============================================================================================
data           fault    records of one version of a protocol, size, data set and pools whose data differ in fingerprint
g              fault    one g with different weights or audits; a note where code or processor differ and the weights
                        do, or are not known, which may be why
spec           fault    of former versions: a setting that is not what the spec overrides, or, where it overrides none,
                        not the default of that version (of a plug-in: not that of most records)
two records    fault    of one cell and seed, with different content
same scores    fault    equal Dice for every image in records of different methods, seeds, regimes or architectures, to
                        the last bit; unless all images have one Dice (nothing was predicted anywhere), or only the
                        pools of supervised training differ, which reads none. A note where only the add-on or settings
                        differ, which may have no effect (the score 'one' never has)
copied rows    fault    half of the images have, but for a few pixels, the pixels that they have in another record
                        (`qgbench.trust.near_copies`); a note, or nothing, where same scores are
copy           note     the same record twice
gap            note     a seed missing below the highest of its cell, or above it where a suite that ships asks for it
twin           note     a cell with an add-on whose twin without it is missing, lacks some of its seeds, or was trained
                        by another commit or on another processor
manifest       fault    a file of results that have a ``MANIFEST.sha256`` which was edited, added or removed since
claim          fault    a file of ``claims/`` that cannot be read (`qgbench.trust.claims`)
============== ======== ===============================================================================================

What nothing in a record can be compared with is believed: q and confidence of a row within [0, 1], scores of audited
labels, true Dice of audited labels, the audit of g on synthetic masks, mean q, kept share and effective sample size
within the bounds above, hashes of g, encoder and data, times, memory, machine; without predictions, also counts of
predicted and of true pixels, and distances within their bounds. Hashes and manifest tell of damage and of a hurried
hand, and nothing of who computes them anew. A rerun (`qgbench reproduce`) is what tells.

Left out because they do not always hold: HD95 (pooled) is not bounded by HD95 (max) (border distances 0, 1 and 0, 1:
percentiles are interpolated, 1 against 0.95), nor ASSD by either; masks at no distance need not be equal (a hole of
one pixel in a square of three has the square's border). Of all rules, only those of `verify_spec` need torch.
"""

from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from functools import cache, partial
from pathlib import Path

import pandas as pd
from rich.console import Console

from qgbench.base.cores import on_all_cores, usable_cores
from qgbench.base.errors import QGBenchError, UserError, unknown_name
from qgbench.base.paths import no_folder
from qgbench.base.progress import Track, no_progress
from qgbench.data.cache import joint_fingerprint, prepare
from qgbench.data.cards import DATA_VARIABLE, Card, card_names, load_card
from qgbench.data.readers import DRAWN, open_source
from qgbench.metrics.table import TEXT_COLUMNS, image_columns
from qgbench.run.folder import PREDICTIONS_NAME
from qgbench.run.record import RECORD_NAME, Record, find_records, hash_of_rows, images_path, read_record, summarise
from qgbench.spec.protocol import load_protocol, protocol_names
from qgbench.spec.regime import Regime
from qgbench.trust.claims import CLAIMS_NAME, read_claims
from qgbench.trust.found import Fault
from qgbench.trust.judge import Judge
from qgbench.trust.manifest import differing_files
from qgbench.trust.reproduce import is_of_reproductions, record_path_of
from qgbench.trust.verify_labels import differing_labels
from qgbench.trust.verify_record import (
    another_place,
    best_of_former,
    contradictions,
    differs_from_log,
    disagreeing_rerun,
    impossible_labels,
    notes_of,
)
from qgbench.trust.verify_rows import compared, further, image_ids, impossible_rows, other_network, read_table
from qgbench.trust.verify_spec import compare_with_spec, metrics_that_differ
from qgbench.trust.verify_split import Splits
from qgbench.trust.verify_together import Seen, across, seen_of

__all__ = ["Fault", "print_faults", "record_files", "verify_records"]

JUDGES = ("medpy",)

_WORTH_PROCESSES = 500  # records; a process takes a second to start
_CHUNK = 10  # records; a judge takes seconds for each, and progress shows no less than a chunk
_COLOURS = {"fault": "red", "note": "dim"}


def record_files(folders: Sequence[Path]) -> list[Path]:
    """Return the record files under some folders, each once.

    Raises
    ------
    UserError
        A folder does not exist.
    """
    if absent := [no_folder(folder) for folder in folders if not folder.is_dir()]:
        raise UserError(f"{'; '.join(absent)}. Give the folders that hold runs or submitted results.")
    return list({path.resolve(): path for folder in folders for path in find_records(folder)}.values())


def verify_records(folders: Sequence[Path], judge: str | None = None, track: Track = no_progress) -> list[Fault]:
    """Return the faults of every record under some folders, by itself and beside the others.

    Parameters
    ----------
    folders : sequence of Path
        Runs or submitted results, at any depth.
    judge : {'medpy'}, optional
        Measure kept predictions anew with this library, and not with qgbench; what has none is noted.
    track : Track
        Shows progress, record by record.

    Returns
    -------
    list of Fault
        Faults first, then notes; each sorted by path and rule.

    Raises
    ------
    UserError
        A folder does not exist, no record is in any of them, or there is no such judge.
    """
    if judge is not None and judge not in JUDGES:
        raise unknown_name("judge", judge, JUDGES)
    paths = record_files(folders)
    if not paths:
        raise UserError(
            f"no records under {', '.join(map(str, folders)) or 'no folder'}: expected record.json of finished runs or "
            "seed<k>.json of submitted results."
        )
    faults, seen = [], []
    # Closed at once on Ctrl-C: an open pool would check all other records before the interpreter could exit.
    with closing(_verify_each(paths, judge)) as checked:
        for found, own in track(checked, "verify", len(paths), "records"):
            faults += found
            if own is not None:
                seen.append(own)
    faults += [*across(seen), *_lone_tables(folders), *_claims(folders), *differing_files(folders)]
    whole = [fault for fault in faults if fault.severity == "fault"]
    notes = _gathered(fault for fault in faults if fault.severity == "note")
    return [*sorted(whole, key=_order), *sorted(notes, key=_order)]


def print_faults(faults: Sequence[Fault], records: Sequence[Path], console: Console) -> None:
    """Print what was found, and a line that sums it up.

    Parameters
    ----------
    faults : sequence of Fault
    records : sequence of Path
        Those that were looked at.
    console : Console
    """
    for fault in faults:
        console.print(f"{fault.severity}: {fault.rule}", style=_COLOURS[fault.severity], markup=False, highlight=False)
        console.print(f"  {fault.path}\n  {fault.text}", markup=False, highlight=False, soft_wrap=True)
    counts = [sum(fault.severity == severity for fault in faults) for severity in ("fault", "note")]
    summed = ", ".join(
        f"{number or 'no'} {noun}{'' if number == 1 else 's'}"
        for number, noun in zip(counts, ("fault", "note"), strict=True)
    )
    measured = sum(_predictions_of(record) is not None for record in records)
    checked = f"{len(records)} record{'' if len(records) == 1 else 's'} checked"
    checked += f", {measured} with predictions" if measured else ""
    console.print(f"{checked}: {summed}.", markup=False, highlight=False)


def _verify_each(paths: Sequence[Path], judge: str | None) -> Generator[tuple[list[Fault], Seen | None], None, None]:
    """Yield what is found in each record by itself, in the order of their paths; all cores look at many of them."""
    if len(paths) < _WORTH_PROCESSES or usable_cores() == 1:
        yield from map(_Verifier(judge).verify, paths)
    else:
        yield from on_all_cores(partial(_verify_in_worker, judge), paths, worth=1, chunk=_CHUNK)


def _verify_in_worker(judge: str | None, path: Path) -> tuple[list[Fault], Seen | None]:
    return _verifier_of_worker(judge).verify(path)


@cache
def _verifier_of_worker(judge: str | None) -> "_Verifier":
    """Return the one verifier of a process that ends with the pool; elsewhere it would outlive changes to the data."""
    return _Verifier(judge)


class _Verifier:
    """Checks records one by one, and keeps the committed splits and draws that several of them need.

    Parameters
    ----------
    judge : {'medpy'} or None
    """

    def __init__(self, judge: str | None) -> None:
        self._asked = judge is not None
        self._judge = Judge(medpy=judge == "medpy")
        self._protocols = {name: load_protocol(name) for name in protocol_names()}
        self._splits = Splits()
        self._phantoms: dict[tuple[str, int], str] = {}  # fingerprint by name and size
        self._cards: dict[str, Card | None] = {}

    def verify(self, path: Path) -> tuple[list[Fault], Seen | None]:
        """Return a record's faults, and what is compared with other records: None where it cannot be read."""
        try:
            record = read_record(path)
        except QGBenchError as error:
            return [Fault(path, "record", str(error))], None
        table = images_path(path)
        try:
            images = read_table(table, record)
        except QGBenchError as error:
            return [Fault(table, "images", str(error))], None
        names = [name for name in image_columns(record.of_volumes) if name not in TEXT_COLUMNS]
        numbers = dict(zip(names, images[names].to_numpy(dtype=float).T, strict=True))
        in_table = [*image_ids(images, record), *impossible_rows(images, numbers, record)]
        in_table += [found for metric in record.metrics.values() for found in further(images, metric, record.noun)]
        faults = [Fault(table, *found) for found in in_table]
        faults += differing_labels(path, record, set(images["id"]))
        faults += [Fault(path, *found) for found in (*contradictions(record), *impossible_labels(record, images))]
        faults += [Fault(path, *found) for found in (*metrics_that_differ(record), *differs_from_log(path, record))]
        faults += [*self._protocol(path, record, images), *notes_of(path, record), *disagreeing_rerun(path)]
        if not {fault.rule for fault in faults} & {"image ids", "test images"}:  # other rows have other averages
            averages = summarise(images, record.metrics.values())
            faults += [Fault(table, *found) for found in compared("the record", averages, record.summary)]
        faults += [fault for network in record.summaries for fault in other_network(table, network, record)]
        wrong = {fault.rule for fault in faults if fault.path == table} - {"test images"}
        if self._asked or not wrong:  # else the cause is told
            faults += self._judged(path, record, images)
        if all(fault.severity == "note" for fault in faults):  # else the cause is told
            faults += _unbound(path, record)
        present = self._protocols.get(record.spec.protocol)
        former = present is not None and any(version < known for _, version, known in record.versions(present))
        return faults, seen_of(path, record, images, former)

    def _protocol(self, path: Path, record: Record, images: pd.DataFrame) -> Iterator[Fault]:
        """Yield how a record of today differs from the protocol, the split and the draw of today."""
        cell = record.spec
        present = self._protocols.get(cell.protocol)
        if present is None:
            yield Fault(path, "protocol", str(unknown_name("protocol", cell.protocol, self._protocols)))
            return
        for what, version, known in record.versions(present):
            if version > known:
                text = (
                    f"{what} version {version}, which is newer than this qgbench: it has version {known}. "
                    "Upgrade: pip install --upgrade qgbench"
                )
                yield Fault(path, "protocol", text)
                return
            if version < known:
                text = (
                    f"{what} version {version}, and the present is {known}: run_id, settings, split, labelled images "
                    "and place are not compared with those of today"
                )
                yield Fault(path, "older", text, "note")
                yield from (Fault(path, *found) for found in best_of_former(record))
                return
        for rule, text in (*compare_with_spec(record), *another_place(path, record)):
            yield Fault(path, rule, text)
        yield from self._classes(path, record)
        if cell.dataset in DRAWN and not Regime.parse(cell.regime).pools:
            yield from self._phantom(path, cell.dataset, record.provenance.data, record.spec.resolve().size)
        yield from self._splits.compare(path, record, images, present)

    def _classes(self, path: Path, record: Record) -> Iterator[Fault]:
        """Compare classes and the unit of distances with those of a shipped card."""
        dataset = record.spec.dataset
        if dataset not in self._cards:
            self._cards[dataset] = load_card(dataset) if dataset in card_names("labelled") else None
        if (card := self._cards[dataset]) is None:
            return
        if record.classes != card.class_names:
            text = f"the classes are {', '.join(record.classes)}; the card of '{dataset}' has "
            yield Fault(path, "classes", text + ", ".join(card.class_names))
        possible = {"px"} if card.volumes is None else {"voxel"} if card.voxels else {"mm", "voxel"}
        if record.distance_unit not in possible:
            text = (
                f"distances are in {record.distance_unit}; those of '{dataset}' are in {' or '.join(sorted(possible))}"
            )
            yield Fault(path, "classes", text)

    def _phantom(self, path: Path, name: str, data: str, size: int) -> Iterator[Fault]:
        """Compare with a phantom: those data sets are here wherever qgbench is."""
        if (name, size) not in self._phantoms:
            try:
                self._phantoms[name, size] = joint_fingerprint([prepare(open_source(name), size)])
            except QGBenchError as error:
                yield Fault(path, "data", f"the phantom was not compared: {error}", "note")
                return
        if data != (drawn := self._phantoms[name, size]):
            text = f"the data's fingerprint is {data[:12]}..., that of the phantom drawn here {drawn[:12]}..."
            yield Fault(path, "data", text)

    def _judged(self, path: Path, record: Record, images: pd.DataFrame) -> Iterator[Fault]:
        predictions = _predictions_of(path)
        if predictions is None:
            if self._asked:
                yield Fault(path, "not judged", f"there is no {PREDICTIONS_NAME} beside the record", "note")
            return
        try:
            for text in self._judge.compare(predictions, record.spec.dataset, images):
                yield Fault(predictions, "judge", text)
        except QGBenchError as error:
            where = f"verify looks in the folder that {DATA_VARIABLE} names"
            yield Fault(path, "not judged", f"the data cannot be opened ({where}): {error}", "note")


def _predictions_of(path: Path) -> Path | None:
    """Return the kept predictions of a run's record; None where there are none."""
    predictions = path.with_name(PREDICTIONS_NAME)
    return predictions if path.name == RECORD_NAME and predictions.is_file() else None


def _unbound(path: Path, record: Record) -> Iterator[Fault]:
    """Yield rows that are not those of the run: nothing tells of records from before they were bound to it."""
    if record.rows is not None and record.rows != (found := hash_of_rows(path, record.run_id)):
        text = f"rows is {record.rows[:12]}..., {found[:12]}... of run_id and the CSVs: rows of another run, or changed"
        yield Fault(images_path(path), "rows", text)
    elif record.rows is None and record.read_from > 1:
        yield Fault(path, "rows", "from before rows were bound to their run: two runs may have exchanged them", "note")


def _lone_tables(folders: Sequence[Path]) -> Iterator[Fault]:
    files = {path.resolve(): path for folder in folders for path in folder.rglob("seed*") if path.is_file()}
    for file in files.values():
        if is_of_reproductions(file):
            record = record_path_of(file)
        elif file.suffix == ".csv":
            record = file.with_name(f"{file.name.partition('.')[0]}.json")
        else:
            continue
        if not record.is_file():
            yield Fault(file, "pair", f"there is no {record.name} beside it")


def _claims(folders: Sequence[Path]) -> Iterator[Fault]:
    for claims in {path.resolve(): path for folder in folders for path in folder.rglob(CLAIMS_NAME)}.values():
        try:
            read_claims(claims)
        except UserError as error:
            yield Fault(claims, "claim", str(error))


def _gathered(notes: Iterable[Fault]) -> Iterator[Fault]:
    """Yield once what is to be noted of many records."""
    same: dict[tuple[str, str], list[Fault]] = defaultdict(list)
    for note in notes:
        same[note.rule, note.text].append(note)
    for (rule, text), group in same.items():
        more = f" (and in {len(group) - 1} more record{'s' * (len(group) > 2)})" if len(group) > 1 else ""
        yield Fault(group[0].path, rule, text + more, "note")


def _order(fault: Fault) -> tuple[str, str, str]:
    return str(fault.path), fault.rule, fault.text
