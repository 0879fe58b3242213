"""The audited pseudo-labels of a record, ``labels.csv``: r, rho and MAE of each score are recomputed from them."""

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd

from qgbench.base.errors import QGBenchError
from qgbench.data.readers import name_some
from qgbench.quality.audit import HELD, LABEL_COLUMNS, CheckpointAudit, audited_after, audits_of
from qgbench.run.record import Record, labels_path, read_labels
from qgbench.spec.arm import CONTROL_SCORES, short_name
from qgbench.trust.found import EXACT, Fault
from qgbench.trust.verify_rows import refuse_form, unit_of

_SHOWN = 3  # of many numbers that differ
_OF_WHOLE_LABELS = ("confidence", "agreement")  # of several classes, in the row of each


def differing_labels(path: Path, record: Record, tested: Collection[str]) -> Iterator[Fault]:
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
        refuse_form(file, labels, [*LABEL_COLUMNS, *held, *scores], {"id", "class"})
    except QGBenchError as error:
        yield Fault(file, "audits", str(error))
        return
    # What is wrong with the rows makes their agreement wrong: only the cause is told.
    text = next(_label_rows(labels, record, tested), None) or _differing_audits(audits_of(labels), record)
    if text:
        yield Fault(file, "audits", text)


def audited_ids(path: Path) -> set[str]:
    """Return the images of which a record has audited labels; none where these cannot be read."""
    with suppress(QGBenchError):  # which `differing_labels` says
        return set(read_labels(labels_path(path))["id"])
    return set()


def _label_rows(labels: pd.DataFrame, record: Record, tested: Collection[str]) -> Iterator[str]:
    """Yield what is in rows that no run writes."""
    classes = record.classes
    if others := sorted(set(labels["class"]) - set(classes)):
        yield f"it has rows of another class than {', '.join(classes)}: {', '.join(map(repr, others))}"
    if (twice := labels.duplicated(["progress", "id", "class"])).any():
        yield f"{name_some(labels['id'][twice].tolist(), record.picture)} twice at one checkpoint"
    if len(classes) > 1:
        of_label = labels.groupby(["progress", "id"])
        if (lacking := of_label.size() < len(classes)).any():
            names = sorted(set(lacking.index[lacking].get_level_values("id")))
            yield f"{name_some(names, record.picture)} without a row of each class: {', '.join(classes)}"
        if (differing := (of_label[[*_OF_WHOLE_LABELS]].nunique(dropna=False) > 1).any(axis=1)).any():
            names = sorted(set(differing.index[differing].get_level_values("id")))
            named = name_some(names, record.picture)
            yield f"{' or '.join(_OF_WHOLE_LABELS)} is another one in another class: {named}"
        if (overlaps := (labels[HELD] != 1) & (labels["dice"] > 0) & (labels["dice"] < 1)).any():
            named = name_some(labels["id"][overlaps].tolist(), record.picture)
            yield f"a class that the label does not hold overlaps the mask: {named}"
    unit, ids = unit_of(record), set(labels["id"])
    tested_too = sorted(id for id in ids if unit(id) in tested)
    for known, what in ((tested_too, "test"), (sorted(ids & set(record.provenance.labelled_ids)), "labelled")):
        if known:
            yield f"{name_some(known, f'{what} {record.picture}')}, which no audit looks at"
    numbers = labels.drop(columns=["id", "class"])
    for name, right in ((numbers >= 0) & (numbers <= 1)).items():
        if not right.all():
            yield f"{name} is missing or outside [0, 1]: {name_some(labels['id'][~right].tolist(), record.picture)}"
    # `compare_with_spec` knows which of them; records of before had all where a method makes no labels, too.
    whole, last = (list(audited_after(record.steps, labels_are_made).values()) for labels_are_made in (True, False))
    if (found := labels["progress"].unique().tolist()) not in (whole, last):
        yield f"it is of the checkpoints {found}; a run of {record.steps} steps has {whole}"
    if labels.groupby("progress")["id"].apply(frozenset).nunique() > 1:
        yield f"its checkpoints are not of the same {record.picture}s"


def _differing_audits(found: Sequence[CheckpointAudit], record: Record) -> str:
    """Return which numbers of the record's audits its labels do not give, by checkpoint and score; '' if none."""
    stored, given = (_audit_numbers(audits) for audits in (record.pseudo_labels, found))
    differing = [
        f"{where} is {told(stored.get(where))}, the rows give {told(given.get(where))}"
        for where in sorted(stored.keys() | given.keys())
        if not close(stored.get(where), given.get(where))
    ]
    if len(differing) > _SHOWN:
        differing[_SHOWN:] = [f"{len(differing) - _SHOWN} more differ"]
    return "; ".join(differing) and f"pseudo_labels: {'; '.join(differing)}"


def told(number: float | None) -> str:
    """Return a number, or null, as a fault prints it."""
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


def close(one: float | None, other: float | None) -> bool:
    """Return whether numbers agree to a part in 10^9: other processors sum in another order."""
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=EXACT, abs_tol=EXACT)
