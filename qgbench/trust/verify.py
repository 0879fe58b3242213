"""Check records before they are believed: averages and overlap scores are recomputed, what is claimed is compared.

Distances (HD95, ASSD, NSD) cannot be recomputed without the predictions; they are checked for what is impossible, and
measured anew where predictions were kept (``judge``).

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
                        though one is empty, below 0, longer than the image, or above 0 though the masks are equal
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
                        above its true Dice by more than it can be, or than the run's log says
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
                        labelled images and place are not compared with those of today
split unknown  note     no split is committed for this data set, or someone else made it and it does not ship: split,
                        test images and audited images are not checked
outside code   note     method, architecture, add-on or metric do not ship with qgbench; and whether what is here has
                        another source, or is a file, which is not run: then what it decides is not checked
uncommitted    note     trained by code with changes that no commit holds
near copies    note     test images that are near copies of training images, as the run found
judge          fault    the judge counts other pixels, Dice (to 1e-9), HD95 or ASSD (to 1e-6 pixels, mm or voxels), or
                        finds other images, classes or sizes in the predictions
not judged     note     the predictions were not kept, or the data are not here
============== ======== ===============================================================================================

and records beside each other:

============== ======== ===============================================================================================
data           fault    records of one version of a protocol, data set and pools whose data differ in fingerprint
g              fault    one g with different weights; a note where code or processor differ, which may be why
two records    fault    of one cell and seed, with different content
same scores    fault    equal Dice for every image in records of different methods, seeds, regimes or architectures, to
                        the last bit; unless all images have one Dice (nothing was predicted anywhere), or only the
                        pools of supervised training differ, which reads none. A note where only the add-on or settings
                        differ, which may have no effect (the score 'one' never has)
copy           note     the same record twice
gap            note     a seed missing below the highest of its cell
twin           note     a cell with an add-on whose twin without it is missing, or lacks some of its seeds
claim          fault    a file of ``claims/`` that cannot be read (`qgbench.trust.claims`)
============== ======== ===============================================================================================

What nothing in a record can be compared with is believed: q and confidence of a row within [0, 1], scores of audited
labels, true Dice of audited labels, the audit of g on synthetic masks, mean q, kept share and effective sample size
within the bounds above, hashes of g, encoder and data, times, memory, machine. Distances are believed without
predictions. A rerun (`qgbench reproduce`) is what tells.

Left out because they do not always hold: HD95 (pooled) is not bounded by HD95 (max) (border distances 0, 1 and 0, 1:
percentiles are interpolated, 1 against 0.95), nor ASSD by either. Of all rules, only those of `verify_spec` need torch.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cache, partial
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console

from qgbench.base.cores import on_all_cores, usable_cores
from qgbench.base.errors import QGBenchError, UserError, unknown_name
from qgbench.base.paths import no_folder
from qgbench.base.progress import Track, no_progress
from qgbench.base.schema import SLACK, not_finite
from qgbench.data.acquire.given import read_shipped
from qgbench.data.cache import joint_fingerprint, prepare
from qgbench.data.cards import Card, card_names, load_card
from qgbench.data.readers import DRAWN, name_some, open_source
from qgbench.data.splits import draw_budget, draw_labelled, load_split, split_fingerprint
from qgbench.data.units import volume_of
from qgbench.metrics.masks import NSD_DIAGONAL_FRACTION, NSD_PIXELS
from qgbench.metrics.table import (
    DISTANCE_COLUMNS,
    TEXT_COLUMNS,
    VOLUME_COLUMNS,
    Metric,
    diagonals,
    image_columns,
)
from qgbench.quality.audit import (
    HELD,
    IMAGE_DEPENDENCE_LIMIT,
    LABEL_COLUMNS,
    CheckpointAudit,
    audited_after,
    audits_of,
)
from qgbench.run.folder import PREDICTIONS_NAME, RunFolder
from qgbench.run.record import (
    IMAGES_NAME,
    RECORD_NAME,
    Provenance,
    Record,
    Summary,
    content_hash,
    find_records,
    images_path,
    labels_path,
    read_images,
    read_labels,
    read_record,
    result_path,
    summarise,
)
from qgbench.spec.arm import CONTROL_SCORES, short_name
from qgbench.spec.protocol import Protocol, load_protocol, protocol_names
from qgbench.spec.regime import GIVEN, Regime
from qgbench.spec.run_spec import RunSpec
from qgbench.trust.claims import CLAIMS_NAME, read_claims
from qgbench.trust.judge import Judge
from qgbench.trust.reproduce import compare_machines, is_of_reproductions, record_path_of, reproduction_of
from qgbench.trust.verify_spec import Found, compare_with_spec, metrics_that_differ, outside_code

JUDGES = ("medpy",)
Severity = Literal["fault", "note"]

_WORTH_PROCESSES = 500  # records; a process takes a second to start
_CHUNK = 10  # records; a judge takes seconds for each, and progress shows no less than a chunk

_TOLD = 3  # of many numbers that differ
_OF_WHOLE_LABELS = ("confidence", "agreement")  # of several classes, in the row of each
_EXACT = 1e-9  # for what is recomputed from the same numbers in double precision
_COLOURS = {"fault": "red", "note": "dim"}

Column = NDArray[np.float64]
T = TypeVar("T")


@dataclass(frozen=True)
class Fault:
    """Something that a rule found.

    Attributes
    ----------
    path : Path
        The record, or the first of several that share it.
    rule : str
        One of those listed in `qgbench.trust.verify`.
    text : str
        What was found and what was expected.
    severity : {'fault', 'note'}
    """

    path: Path
    rule: str
    text: str
    severity: Severity = "fault"


@dataclass(frozen=True)
class _Seen:
    """What the rules across records need of one of them."""

    path: Path
    spec: RunSpec
    provenance: Provenance
    content: str  # hash of its files
    dice: bytes | None  # hash of ids and Dice; None where all images have one Dice


@dataclass(frozen=True)
class _CommittedSplit:
    """What is compared of a committed split."""

    fingerprint: str
    train: pd.DataFrame
    val: frozenset[str]
    test: dict[str, str]  # group by id
    labelled: list[str] | None  # where the split's maker chose them


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
        Measure kept predictions anew with this library.
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
    faults += [*_across(seen), *_lone_tables(folders), *_claims(folders)]
    whole = [fault for fault in faults if fault.severity == "fault"]
    notes = _gathered(fault for fault in faults if fault.severity == "note")
    return [*sorted(whole, key=_order), *sorted(notes, key=_order)]


def print_faults(faults: Sequence[Fault], checked: int, console: Console) -> None:
    """Print what was found, and a line that sums it up.

    Parameters
    ----------
    faults : sequence of Fault
    checked : int
        How many records were looked at.
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
    console.print(f"{checked} record{'' if checked == 1 else 's'} checked: {summed}.", markup=False, highlight=False)


def _verify_each(paths: Sequence[Path], judge: str | None) -> Generator[tuple[list[Fault], _Seen | None], None, None]:
    """Yield what is found in each record by itself, in the order of their paths; all cores look at many of them."""
    if len(paths) < _WORTH_PROCESSES or usable_cores() == 1:
        yield from map(_Verifier(judge).verify, paths)
    else:
        yield from on_all_cores(partial(_verify_in_worker, judge), paths, worth=1, chunk=_CHUNK)


def _verify_in_worker(judge: str | None, path: Path) -> tuple[list[Fault], _Seen | None]:
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
        self._judge = None if judge is None else Judge()
        self._protocols = {name: load_protocol(name) for name in protocol_names()}
        self._splits: dict[tuple[str, str, str], _CommittedSplit | None] = {}
        self._draws: dict[tuple[str, str, str, str, int], list[str]] = {}
        self._phantoms: dict[tuple[str, int], str] = {}  # fingerprint by name and size
        self._cards: dict[str, Card | None] = {}

    def verify(self, path: Path) -> tuple[list[Fault], _Seen | None]:
        """Return a record's faults, and what is compared with other records: None where it cannot be read."""
        try:
            record = read_record(path)
        except QGBenchError as error:
            return [Fault(path, "record", str(error))], None
        table = images_path(path)
        try:
            images = _read_table(table, record)
        except QGBenchError as error:
            return [Fault(table, "images", str(error))], None
        names = [name for name in image_columns(record.of_volumes) if name not in TEXT_COLUMNS]
        numbers = dict(zip(names, images[names].to_numpy(dtype=float).T, strict=True))
        in_table = [*_image_ids(images, record), *_rows(images, numbers, record)]
        in_table += [found for metric in record.metrics.values() for found in _further(images, metric, record.noun)]
        faults = [Fault(table, *found) for found in in_table]
        faults += _audited(path, record, set(images["id"]))
        faults += [Fault(path, *found) for found in (*_contradictions(record), *_labels(record, images))]
        faults += [Fault(path, *found) for found in (*metrics_that_differ(record), *_logged(path, record))]
        faults += [*self._protocol(path, record, images), *_notes(path, record), *_reproduced(path)]
        if not {fault.rule for fault in faults} & {"image ids", "test images"}:  # other rows have other averages
            averages = summarise(images, record.metrics.values())
            faults += [Fault(table, *found) for found in _compared("the record", averages, record.summary)]
        faults += [fault for network in record.summaries for fault in _other(table, network, record)]
        if self._judge is not None:
            faults += self._judged(path, record, images)
        return faults, _seen(path, record, images, numbers["dice"])

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
                return
        for rule, text in (*compare_with_spec(record), *_place(path, record)):
            yield Fault(path, rule, text)
        yield from self._classes(path, record)
        if cell.dataset in DRAWN and not Regime.parse(cell.regime).pools:
            yield from self._phantom(path, cell.dataset, record.provenance.data, record.spec.resolve().size)
        yield from self._split(path, record, images, present)

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

    def _split(self, path: Path, record: Record, images: pd.DataFrame, protocol: Protocol) -> Iterator[Fault]:
        cell, regime = record.spec, Regime.parse(record.spec.regime)
        key = (cell.dataset, regime.split, cell.protocol)
        if key not in self._splits:
            self._splits[key] = _committed_split(cell.dataset, regime, protocol)
        committed = self._splits[key]
        if committed is None:
            text = f"no split of '{cell.dataset}' is committed that is '{regime.split}': test and audited images "
            text += "are not checked"
            yield Fault(path, "split unknown", text, "note")
            return
        provenance = record.provenance
        if provenance.split != committed.fingerprint:
            digests = f"{provenance.split[:12]}..., the committed split's {committed.fingerprint[:12]}..."
            yield Fault(path, "split", f"the fingerprint is {digests}")
        tested = dict(zip(images["id"].tolist(), images["group"].tolist(), strict=True))
        unit, noun = _unit_of(record), record.noun
        to_test = {unit(id): group for id, group in committed.test.items()}
        if tested != to_test:
            text = f"{len(tested)} {noun}s, and the committed split has {len(to_test)} to test on; "
            yield Fault(images_path(path), "test images", text + _differences(tested, to_test, noun))
        audited_of = committed.val if record.pseudo_labels_on.startswith("validation") else set(committed.train["id"])
        if foreign := sorted(_audited_ids(path) - audited_of - committed.test.keys()):
            text = f"{name_some(foreign, _picture(record))}, which the committed split has not among the "
            yield Fault(labels_path(path), "audits", text + record.pseudo_labels_on)
        draw = (*key, cell.regime, cell.seed)
        if draw not in self._draws:
            units = committed.train["group"].nunique() if regime.patients else len(committed.train)
            drawable = 1 <= regime.labelled(units) <= units
            self._draws[draw] = draw_budget(committed.train, regime, cell.dataset, cell.seed) if drawable else []
        drawn, labelled, picture = self._draws[draw], provenance.labelled_ids, _picture(record)
        if regime.patients:
            group_of = dict(zip(committed.train["id"], committed.train["group"], strict=True))
            patients = len({group_of.get(id, id) for id in labelled})
            if patients != regime.budget:
                yield Fault(path, "labels", f"{patients} labelled patients, and the regime is {regime}")
        if committed.labelled is not None:
            if labelled != committed.labelled:
                text = f"{len(labelled)} labelled {picture}s, and '{regime.split}' names {len(committed.labelled)}; "
                yield Fault(path, "labels", text + _differences(labelled, committed.labelled, picture))
        elif labelled != drawn and (regime.patients or not _shows_classes_first(labelled, committed.train, record)):
            text = f"{len(labelled)} labelled {picture}s, and seed {cell.seed} draws {len(drawn)}; "
            yield Fault(path, "labels", text + _differences(labelled, drawn, picture))

    def _judged(self, path: Path, record: Record, images: pd.DataFrame) -> Iterator[Fault]:
        assert self._judge is not None
        predictions = path.with_name(PREDICTIONS_NAME)
        if path.name != RECORD_NAME or not predictions.is_file():
            yield Fault(path, "not judged", f"there is no {PREDICTIONS_NAME} beside the record", "note")
            return
        try:
            for text in self._judge.compare(predictions, record.spec.dataset, images):
                yield Fault(predictions, "judge", text)
        except QGBenchError as error:
            yield Fault(path, "not judged", f"the data cannot be opened: {error}", "note")


# The table


def _read_table(path: Path, record: Record) -> pd.DataFrame:
    """Read rows whose numbers are numbers; what is missing of a text is empty.

    Raises
    ------
    QGBenchError
        As `read_images`; there are no rows, other columns, or text where a number belongs.
    """
    images = read_images(path, record.metrics)
    columns = [*image_columns(record.of_volumes), *record.metrics]
    columns = [name for name in columns if record.read_from > 1 or name != "class"]
    _refuse_form(path, images, columns, set(TEXT_COLUMNS))
    if images.empty:
        raise QGBenchError(f"{path} has no rows")
    for name in TEXT_COLUMNS:
        if images[name].hasnans:
            images[name] = images[name].fillna("")
    return images


def _refuse_form(path: Path, rows: pd.DataFrame, columns: Iterable[str], text: Collection[str]) -> None:
    """Refuse a file of rows whose header is not of these columns, each once, or with text where a number belongs."""
    with path.open(encoding="utf-8") as file:
        header = Counter(file.readline().strip().split(","))
    for found, expected, what in (
        (header, Counter(columns), "has columns that are not expected"),
        (Counter(columns), header, "lacks the columns"),
    ):
        if differing := sorted((found - expected).keys()):
            raise QGBenchError(f"{path} {what}: {', '.join(differing)}")
    for name in rows.columns.difference([*text]):
        if len(rows) and rows[name].dtype.kind not in "iuf":
            wrong = pd.to_numeric(rows[name], errors="coerce").isna() & rows[name].notna()
            said = f"{rows[name][wrong].iloc[0]!r} for {rows['id'][wrong].iloc[0]}" if wrong.any() else "no number"
            raise QGBenchError(f"{path} has text where a number belongs: {name} is {said}")


def _picture(record: Record) -> str:
    """Return what a network sees, and a label is of."""
    return "slice" if record.of_volumes else "image"


def _unit_of(record: Record) -> Callable[[str], str]:
    """Return what gives the unit that an image is of."""
    return volume_of if record.of_volumes else str


def _image_ids(images: pd.DataFrame, record: Record) -> Found:
    noun, classes = record.noun, record.classes
    if (twice := images.duplicated(["id", "class"])).any():
        yield "image ids", f"{name_some(sorted(set(images['id'][twice])), noun)} in more than one row of a class"
    for name in ("id", "group"):
        if "" in images[name].tolist():
            yield "image ids", f"a row without {name}"
    if others := sorted(set(images["class"]) - set(classes)):
        known = f"the one class is '{classes[0]}'" if len(classes) == 1 else f"the classes are {', '.join(classes)}"
        yield "image ids", f"rows of {', '.join(map(repr, others))}; {known}"
    if len(classes) > 1:
        units = images.groupby("id")
        if lacking := units.size().loc[lambda rows: rows < len(classes)].index.tolist():
            yield "image ids", f"{name_some(lacking, noun)} without a row of each class: {', '.join(classes)}"
        same = ["group", "height", "width", *(VOLUME_COLUMNS if record.of_volumes else [])]
        if differing := units[same].nunique(dropna=False).max(axis=1).loc[lambda most: most > 1].index.tolist():
            yield "image ids", f"{name_some(differing, noun)} of another group or size in another class"


def _rows(images: pd.DataFrame, numbers: Mapping[str, Column], record: Record) -> Found:
    """Yield where a row's numbers break the rules."""

    def faulty(rule: str, text: str, right: NDArray[np.bool_]) -> Found:
        if not right.all():
            yield rule, f"{text}: {name_some(list(dict.fromkeys(images['id'][~right])), record.noun)}"

    dots = "voxels" if record.of_volumes else "pixels"
    has_g, sides = record.provenance.g is not None, ["height", "width", *(["depth"] if record.of_volumes else [])]
    n_ref, n_pred, n_tp = (numbers[name] for name in ("n_ref", "n_pred", "n_tp"))
    whole_numbers, lengths = [n_ref, n_pred, n_tp], [numbers[side] for side in sides]
    whole = np.asarray(np.isfinite([*whole_numbers, *lengths]).all(axis=0))
    whole &= np.array([np.floor(column) == column for column in (*whole_numbers, *lengths)]).all(axis=0)
    whole &= (np.array(lengths) >= 1).all(axis=0) & (np.array(whole_numbers) >= 0).all(axis=0)
    pixels = np.prod(lengths, axis=0)
    possible = whole & (n_tp <= np.minimum(n_ref, n_pred)) & (n_ref + n_pred - n_tp <= pixels)
    if len(record.classes) > 1:  # which exclude each other
        of_unit = images.groupby("id")[["n_ref", "n_pred"]].transform("sum").to_numpy(float)
        possible &= (of_unit <= pixels[:, None]).all(axis=1)
    voxel = np.array([numbers[name] for name in VOLUME_COLUMNS[1:]]) if record.of_volumes else np.ones((1, len(n_ref)))
    sound = (np.isfinite(voxel) & (voxel > 0) & ((voxel == 1) | (record.distance_unit == "mm"))).all(axis=0)
    if not (possible & sound).all():
        yield from faulty("counts", "sides of a voxel that are not positive, or not 1 though they are not known", sound)
        yield from faulty("counts", "sizes or counts that are no whole numbers", whole)
        yield from faulty("counts", f"more {dots} than there are, or n_tp above n_ref or n_pred", possible | ~whole)
        return

    both_empty = n_ref + n_pred == 0
    one_empty = ~both_empty & ((n_ref == 0) | (n_pred == 0))
    equal = (n_tp == n_ref) & (n_tp == n_pred)
    for name, part, of in (
        ("dice", 2 * n_tp, n_ref + n_pred),
        ("jaccard", n_tp, n_ref + n_pred - n_tp),
        ("precision", n_tp, n_pred),
        ("recall", n_tp, n_ref),
    ):
        expected = np.where(both_empty, 1.0, part / np.maximum(of, 1))
        right = np.abs(numbers[name] - expected) <= _EXACT
        yield from faulty("overlap", f"{name} is not what n_tp, n_ref and n_pred give", right)

    status = np.select([both_empty, n_pred == 0, n_ref == 0], ["both_empty", "missed", "spurious"], "ok")
    yield from faulty("status", "not what n_ref and n_pred give", np.array(images["status"].tolist()) == status)

    longest = np.where(equal, 0.0, diagonals({**numbers, **{side: numbers[side] - 1 for side in sides}})) + _EXACT
    for name in DISTANCE_COLUMNS:
        distance = numbers[name]
        given = (distance >= 0) & (distance <= longest)
        text = f"{name} is not between 0 and the longest possible, or not empty exactly where one mask is"
        yield from faulty("distances", text, np.where(one_empty, np.isnan(distance), given))

    near, far = numbers["nsd_2px"], numbers["nsd_2pct"]
    for name, share in (("nsd_2px", near), ("nsd_2pct", far)):
        right = (share >= 0) & (share <= 1) & (~one_empty | (share == 0)) & (~equal | (share == 1))
        yield from faulty("surface dice", f"{name} is outside [0, 1], or not what empty or equal masks give", right)
    wider = np.asarray(NSD_DIAGONAL_FRACTION * diagonals(numbers) >= NSD_PIXELS * voxel.min(axis=0))
    yield from faulty(
        "surface dice",
        "nsd_2px and nsd_2pct: the smaller tolerance has more",
        np.where(wider, far >= near, far <= near),
    )

    q, confidence = numbers["q"], numbers["confidence"]
    in_range = (q >= 0) & (q <= 1 + SLACK)
    text = "no q between 0 and 1, though the record names a predictor" if has_g else "q, and the record names no g"
    yield from faulty("scores", text, in_range if has_g else np.isnan(q))
    yield from faulty("scores", "no confidence between 0 and 1", (confidence >= 0) & (confidence <= 1 + SLACK))


def _further(images: pd.DataFrame, metric: Metric, noun: str) -> Found:
    """Yield where a metric that does not ship leaves its range, or what it says of empty masks."""
    value, status = images[metric.name].to_numpy(float), images["status"]
    one_empty = status.isin(["missed", "spurious"]).to_numpy()
    right = (value >= 0) & (value <= _highest(metric))
    right &= (status != "both_empty").to_numpy() | (value == metric.both_empty)
    right = np.where(one_empty, np.isnan(value) if metric.is_distance else value == metric.one_empty, right)
    if not right.all():
        text = f"{metric.name} is outside its range, or not what it says of empty masks: "
        yield "metrics", text + name_some(list(dict.fromkeys(images["id"][~right])), noun)


def _highest(metric: Metric) -> float:
    return math.inf if metric.highest is None else metric.highest + _EXACT


def _compared(who: str, recomputed: Summary, stored: Summary) -> Found:
    said = stored.numbers()
    if recomputed.images != stored.images:  # which explains all else
        rows = "units with rows" if recomputed.by_class else "rows"
        yield "summary", f"there are {recomputed.images} {rows}, and {who} says images = {stored.images}"
        return
    given = recomputed.numbers()
    for name in (*given, *(name for name in said if name not in given)):
        value, claimed = given.get(name, math.nan), said.get(name, math.nan)
        if not math.isclose(value, claimed, rel_tol=_EXACT, abs_tol=_EXACT):
            yield "summary", f"the rows give {name} = {value:.9g}, {who} says {claimed:.9g}"


def _other(table: Path, network: str, record: Record) -> Iterator[Fault]:
    """Yield where averages of another network of the run differ from its rows, where these are kept."""
    path = table.with_name(f"images.{network}.csv")
    if table.name != IMAGES_NAME or not path.is_file():
        return
    try:
        images = _read_table(path, record)
    except QGBenchError as error:
        yield Fault(path, "images", str(error))
        return
    averages = summarise(images, record.metrics.values())
    for found in _compared(f"the record of '{network}'", averages, record.summaries[network]):
        yield Fault(path, *found)


def _audited(path: Path, record: Record, tested: Collection[str]) -> Iterator[Fault]:
    """Yield where audits differ from those of the labels, which records of schema 1 did not keep."""
    if record.read_from == 1:
        return
    file = labels_path(path)
    if not file.is_file():
        yield Fault(file, "audits", "it is missing: a run audits its pseudo-labels, and keeps a row for each")
        return
    scores = [*([] if record.provenance.g is None else ["g"]), "confidence", "agreement"]
    try:
        labels = read_labels(file)
        scores += sorted({short_name(record.spec.qg_score)}.intersection(labels) - {*CONTROL_SCORES, *scores})
        held = [HELD] if len(record.classes) > 1 else []
        _refuse_form(file, labels, [*LABEL_COLUMNS, *held, *scores], {"id", "class"})
    except QGBenchError as error:
        yield Fault(file, "audits", str(error))
        return
    # What is wrong with the rows makes their agreement wrong: only the cause is told.
    text = next(_label_rows(labels, record, tested), None) or _differing_audits(audits_of(labels), record)
    if text:
        yield Fault(file, "audits", text)


def _audited_ids(path: Path) -> set[str]:
    with suppress(QGBenchError):  # which `_audited` says
        return set(read_labels(labels_path(path))["id"])
    return set()


def _label_rows(labels: pd.DataFrame, record: Record, tested: Collection[str]) -> Iterator[str]:
    """Yield what is in rows that no run writes."""
    classes = record.classes
    if others := sorted(set(labels["class"]) - set(classes)):
        yield f"it has rows of another class than {', '.join(classes)}: {', '.join(map(repr, others))}"
    if (twice := labels.duplicated(["progress", "id", "class"])).any():
        yield f"{name_some(labels['id'][twice].tolist(), _picture(record))} twice at one checkpoint"
    if len(classes) > 1:
        of_label = labels.groupby(["progress", "id"])
        if (lacking := of_label.size() < len(classes)).any():
            names = sorted(set(lacking.index[lacking].get_level_values("id")))
            yield f"{name_some(names, _picture(record))} without a row of each class: {', '.join(classes)}"
        if (differing := (of_label[[*_OF_WHOLE_LABELS]].nunique(dropna=False) > 1).any(axis=1)).any():
            names = sorted(set(differing.index[differing].get_level_values("id")))
            named = name_some(names, _picture(record))
            yield f"{' or '.join(_OF_WHOLE_LABELS)} is another one in another class: {named}"
        if (overlaps := (labels[HELD] != 1) & (labels["dice"] > 0) & (labels["dice"] < 1)).any():
            named = name_some(labels["id"][overlaps].tolist(), _picture(record))
            yield f"a class that the label does not hold overlaps the mask: {named}"
    unit, ids = _unit_of(record), set(labels["id"])
    tested_too = sorted(id for id in ids if unit(id) in tested)
    for known, what in ((tested_too, "test"), (sorted(ids & set(record.provenance.labelled_ids)), "labelled")):
        if known:
            yield f"{name_some(known, f'{what} {_picture(record)}')}, which no audit looks at"
    numbers = labels.drop(columns=["id", "class"])
    for name, right in ((numbers >= 0) & (numbers <= 1)).items():
        if not right.all():
            yield f"{name} is missing or outside [0, 1]: {name_some(labels['id'][~right].tolist(), _picture(record))}"
    # `compare_with_spec` knows which of them; records of before had all where a method makes no labels, too.
    whole, last = (list(audited_after(record.steps, labels_are_made).values()) for labels_are_made in (True, False))
    if (found := labels["progress"].unique().tolist()) not in (whole, last):
        yield f"it is of the checkpoints {found}; a run of {record.steps} steps has {whole}"
    if labels.groupby("progress")["id"].apply(frozenset).nunique() > 1:
        yield f"its checkpoints are not of the same {_picture(record)}s"


def _differing_audits(found: Sequence[CheckpointAudit], record: Record) -> str:
    """Return which numbers of the record's audits its labels do not give, by checkpoint and score; '' if none."""
    stored, given = (_audit_numbers(audits) for audits in (record.pseudo_labels, found))
    differing = [
        f"{where} is {_told(stored.get(where))}, the rows give {_told(given.get(where))}"
        for where in sorted(stored.keys() | given.keys())
        if not _close(stored.get(where), given.get(where))
    ]
    if len(differing) > _TOLD:
        differing[_TOLD:] = [f"{len(differing) - _TOLD} more differ"]
    return "; ".join(differing) and f"pseudo_labels: {'; '.join(differing)}"


def _told(number: float | None) -> str:
    return "null" if number is None else f"{number:.9g}"


def _audit_numbers(audits: Iterable[CheckpointAudit]) -> dict[str, float | None]:
    """Return every number by where it stands: 'pearson of g at 25 %', 'mean_dice, pooled'."""
    numbers: dict[str, float | None] = {}
    for audit in audits:
        where = ", pooled" if audit.progress is None else f" at {audit.progress:.0%}"
        numbers[f"mean_dice{where}"] = audit.mean_dice
        for score, agreement in audit.scores.items():
            numbers |= {f"{name} of {score}{where}": value for name, value in agreement.model_dump().items()}
    return numbers


def _close(one: float | None, other: float | None) -> bool:
    """Return whether numbers agree to a part in 10^9: other processors sum in another order."""
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=_EXACT, abs_tol=_EXACT)


# The record


def _contradictions(record: Record) -> Found:
    """Yield numbers that are not finite, and what of g and the add-on is there and should not be, or the reverse."""
    for where in not_finite(record.model_dump()):
        yield "numbers", f"{where} is not finite"
    spec, source, audit = record.spec, record.provenance, record.audit
    has_g = f"a run {'without a' if source.g is None else 'with a'} g"
    present: list[tuple[str, Any, bool, str]] = [
        ("guidance", record.guidance, bool(spec.addons), f"a run of {spec.arm.typed}"),
        ("audit", audit, source.g is not None, has_g),
    ]
    gap = None if record.guidance is None else record.guidance.val_q_minus_dice
    if record.guidance is not None:
        present.append(("guidance.val_q_minus_dice", gap, source.g is not None, has_g))
    if record.read_from > 1:
        present.append(("provenance.g_weights", source.g_weights, source.g is not None, has_g))
        present.append(("provenance.encoder", source.encoder, True, "a run"))
    for field, value, expected, run in present:
        if (value is not None) != expected:
            there, needed = ("null", "a value") if expected else ("given", "null")
            yield "contradiction", f"{field} is {there}; {run} has {needed}"
    if gap is not None and record.val_dice and not -SLACK <= gap + (dice := record.val_dice[-1][1]) <= 1 + SLACK:
        text = f"guidance.val_q_minus_dice is {gap:g}; with the last val_dice = {dice:g} q is {gap + dice:g}"
        yield "contradiction", text
    begin, end = f"{Path(spec.dataset).name}-n", f"px-k{spec.seed}-"
    if source.g is not None and not re.fullmatch(rf"{re.escape(begin)}\d+-\d+{end}[0-9a-f]{{12}}", source.g):
        expected_g = f"{begin}<labels>-<size>{end}<12 hexadecimal digits>"
        yield "contradiction", f"provenance.g is {source.g!r}; expected {expected_g}"
    if audit is not None and audit.image_dependent != (audit.image_dependence < IMAGE_DEPENDENCE_LIMIT):
        says = f"image_dependence = {audit.image_dependence:g} says otherwise"
        yield "contradiction", f"audit.image_dependent is {audit.image_dependent}; {says}"


def _logged(path: Path, record: Record) -> Found:
    """Compare with the run's log, which lies beside the record in its folder."""
    log: list[dict[str, Any]] = []
    if path.name == RECORD_NAME:
        with suppress(ValueError):
            log = RunFolder(path.parent).log()
    for entry in log:
        match entry:
            case {"step": record.steps, "val_q_minus_dice": float(logged)} if record.guidance is not None:
                if not _close(said := record.guidance.val_q_minus_dice, logged):
                    yield "contradiction", f"guidance.val_q_minus_dice is {_told(said)}; log.jsonl says {_told(logged)}"


def _labels(record: Record, images: pd.DataFrame) -> Found:
    labelled, unit = record.provenance.labelled_ids, _unit_of(record)
    if len(set(labelled)) < len(labelled):
        yield "labels", f"labelled {_picture(record)}s are there twice"
    if both := sorted(set(map(unit, labelled)) & set(images["id"])):
        yield "labels", f"{name_some(both, record.noun)} labelled in training and tested on"
    regime = Regime.parse(record.spec.regime)
    if regime.patients != (record.of_volumes and regime.budget is not None):
        yield "labels", f"the regime is {regime}: a budget counts patients of volumes and images of pictures"
    elif regime.patients and (volumes := len(set(map(unit, labelled)))) < (regime.budget or 0):
        yield "labels", f"{volumes} labelled volumes, and the regime is {regime}: a patient has one or more"
    elif not regime.patients and regime.budget is not None and len(labelled) != regime.budget:
        yield "labels", f"{len(labelled)} labelled images, and the regime is {record.spec.regime}"


def _place(path: Path, record: Record) -> Found:
    """Yield where a submitted record should lie, if it lies elsewhere."""
    if path.name == RECORD_NAME:
        return
    expected = result_path(record)
    if path.resolve().parts[-len(expected.parts) :] != expected.parts:
        yield "place", f"the record belongs to {expected}"


def _notes(path: Path, record: Record) -> Iterator[Fault]:
    for text in outside_code(record):
        yield Fault(path, "outside code", text, "note")
    if (record.provenance.git_commit or "").endswith("+dirty"):
        text = f"trained by code with changes that commit {record.provenance.git_commit} does not hold"
        yield Fault(path, "uncommitted", text, "note")
    if copies := (record.near_copies or {}).get("test"):
        images = sorted(set(map(_unit_of(record), copies))), f"test {record.noun}"
        near = "near copies of training images"
        if record.of_volumes:
            near = "with slices that are near copies of slices to train on"
        text = f"{name_some(*images)} of {record.summary.images}: {near}"
        yield Fault(path, "near copies", text, "note")


def _reproduced(path: Path) -> Iterator[Fault]:
    try:
        last = reproduction_of(path)
    except QGBenchError as error:
        yield Fault(path, "reproduction", str(error))
        return
    if last is not None and last.verdict == "disagrees":
        yield Fault(path, "reproduction", f"its rerun disagrees ({last.created}): {last.reason}")


def _committed_split(dataset: str, regime: Regime, protocol: Protocol) -> _CommittedSplit | None:
    """Return the committed split of a data set, or a published one that ships; None where there is none."""
    if dataset not in card_names("labelled"):
        return None
    labelled = None
    try:
        split = load_split(dataset, regime.split_kind, protocol.fractions)
        if regime.split.startswith(GIVEN):
            if (given := read_shipped(dataset, regime.split, split)) is None:
                return None
            split, labelled = given.table, given.labelled
    except UserError:
        return None
    test = split[split["split"] == "test"]
    return _CommittedSplit(
        fingerprint=split_fingerprint(split),
        train=split[split["split"] == "train"],
        val=frozenset(split["id"][split["split"] == "val"]),
        test=dict(zip(test["id"], test["group"], strict=True)),
        labelled=labelled,
    )


def _shows_classes_first(labelled: list[str], train: pd.DataFrame, record: Record) -> bool:
    """Return whether labelled images are those of a draw, after some that are the first to show a class.

    Which these are, no record says: at most as many as there are classes, in the order of the draw. Of volumes nobody
    asks: each patient of the data sets that ship shows every class.
    """
    spec, classes = record.spec, len(record.classes)
    budget = Regime.parse(spec.regime).labelled(len(train))
    if classes == 1 or len(labelled) != budget:
        return False
    order = draw_labelled(train, len(train), spec.dataset, spec.seed)
    for first in range(min(classes, budget) + 1):
        front, rest = set(labelled[:first]), labelled[first:]
        of_front = [id for id in order if id in front]
        if of_front + [id for id in order if id not in front][: len(rest)] == labelled:
            return True
    return False


def _differences(found: Iterable[str], expected: Iterable[str], noun: str) -> str:
    surplus, missing = sorted(set(found) - set(expected)), sorted(set(expected) - set(found))
    said = [f"{name_some(ids, noun)} {what}" for ids, what in ((surplus, "too many"), (missing, "missing")) if ids]
    return "; ".join(said) or f"the {noun}s are the same, in another order or with other groups"


# Records beside each other


def _seen(path: Path, record: Record, images: pd.DataFrame, dice: Column) -> _Seen:
    told = None
    if np.unique(dice).size > 1:
        told = sha256(repr(sorted(zip(images["id"].tolist(), dice.tolist(), strict=True))).encode()).digest()
    return _Seen(path, record.spec, record.provenance, content_hash(path), told)


def _across(seen: Sequence[_Seen]) -> Iterator[Fault]:
    yield from _data_differ(seen)
    yield from _g_differs(seen)
    yield from _two_records(seen)
    yield from _same_scores(seen)
    yield from _gaps(seen)


def _by(seen: Iterable[_Seen], key: Any) -> dict[Any, list[_Seen]]:
    groups: dict[Any, list[_Seen]] = defaultdict(list)
    for one in seen:
        groups[key(one)].append(one)
    return groups


def _data_differ(seen: Sequence[_Seen]) -> Iterator[Fault]:
    def same_data(one: _Seen) -> tuple[str, int, str, str]:
        pools = one.spec.regime.partition("@")[0].partition("+")[2]
        return one.spec.protocol, one.spec.protocol_version, one.spec.dataset, pools

    for group in _by(seen, same_data).values():
        by_data = _by(group, lambda one: one.provenance.data)
        most = max(by_data.values(), key=len)
        for data, others in by_data.items():
            if data != (usual := most[0].provenance.data):
                text = (
                    f"the data's fingerprint is {data[:12]}... in {_number(others)}, {usual[:12]}... in "
                    f"{_number(most)}, for example {most[0].path}"
                )
                yield Fault(others[0].path, "data", text)


def _g_differs(seen: Sequence[_Seen]) -> Iterator[Fault]:
    """Yield differing weights of one g; trained anew elsewhere they may honestly differ, as all numbers may."""
    for g, group in _by((one for one in seen if one.provenance.g_weights), lambda one: one.provenance.g).items():
        first = group[0]
        for other in group[1:]:
            if other.provenance.g_weights != first.provenance.g_weights:
                digests = [f"{one.provenance.g_weights:.12}..." for one in (other, first)]
                text = f"provenance.g_weights of {g} is {digests[0]}, and {digests[1]} in {first.path}"
                yield Fault(other.path, "g", text, "fault" if _on_one_machine(first, other) else "note")


def _on_one_machine(one: _Seen, other: _Seen) -> bool:
    """Return whether both were trained by the same code on the same processor, where g is expected to be the same."""
    first, second = one.provenance, other.provenance
    same_code = first.git_commit == second.git_commit and not (first.git_commit or "").endswith("+dirty")
    same = all(found.same for found in compare_machines(first, second) if found.role == "numbers")
    return same_code and same and one.spec.device == "cpu"


def _two_records(seen: Sequence[_Seen]) -> Iterator[Fault]:
    for group in _by(seen, lambda one: (one.spec.cell, one.spec.seed)).values():
        first = group[0]
        for other in group[1:]:
            if other.content == first.content:
                yield Fault(other.path, "copy", f"a copy of {first.path}", "note")
            else:
                text = f"{first.path} is of the same cell and seed and has other content; remove one of the two"
                yield Fault(other.path, "two records", text)


def _same_scores(seen: Sequence[_Seen]) -> Iterator[Fault]:
    def but_for_settings(spec: RunSpec) -> tuple[Any, ...]:
        where = spec.setting.model_copy(update={"protocol_version": 0})
        return where, spec.method, spec.seed

    def without_pools(spec: RunSpec) -> tuple[Any, ...]:
        """Return what decides a training: not the pool of a supervised one, which reads labelled images alone."""
        setting = spec.setting
        if spec.method == "supervised" and not spec.addon:
            budget, at, split = spec.regime.partition("@")
            setting = setting.model_copy(update={"regime": budget.partition("+")[0] + at + split})
        return setting, spec.arm, spec.seed

    for dice, group in _by(seen, lambda one: one.dice).items():
        if dice is None:
            continue
        first = group[0]
        for other in group[1:]:
            if (other.spec.cell, other.spec.seed) == (first.spec.cell, first.spec.seed):
                continue  # `_two_records` says so
            if without_pools(other.spec) == without_pools(first.spec):
                continue
            related = but_for_settings(other.spec) == but_for_settings(first.spec)
            text = f"every image has the very Dice that it has in {first.path}" + (
                ": the add-on or the settings had no effect, or one is a copy" if related else ""
            )
            yield Fault(other.path, "same scores", text, "note" if related else "fault")


def _gaps(seen: Sequence[_Seen]) -> Iterator[Fault]:
    cells = _by(seen, lambda one: one.spec.cell)
    seeds = {cell: {one.spec.seed for one in group} for cell, group in cells.items()}
    for cell, group in cells.items():
        if gaps := max(seeds[cell]) + 1 - len(seeds[cell]):
            first = next(seed for seed in count() if seed not in seeds[cell])
            yield Fault(
                group[0].path, "gap", f"{gaps} seed{'s' * (gaps > 1)} of the cell missing, the first is {first}", "note"
            )
        if not cell.arm.addon:
            continue
        lacking = sorted(seeds[cell] - seeds.get(cell.twin, set()))
        if lacking:
            numbers = f"seed{'s' * (len(lacking) > 1)} {', '.join(map(str, lacking))}"
            text = f"the twin without '{cell.arm.addon}' lacks {numbers}"
            yield Fault(group[0].path, "twin", text, "note")


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


def _number(seen: Sequence[_Seen]) -> str:
    return f"{len(seen)} record{'' if len(seen) == 1 else 's'}"


def _order(fault: Fault) -> tuple[str, str, str]:
    return str(fault.path), fault.rule, fault.text
