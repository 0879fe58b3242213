"""The committed split of a data set, and the labelled images that a seed draws from it, beside those of a record."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from qgbench.base.errors import UserError
from qgbench.data.acquire.given import read_shipped
from qgbench.data.cards import card_names
from qgbench.data.readers import name_some
from qgbench.data.splits import draw_budget, draw_labelled, load_split, split_fingerprint
from qgbench.run.record import Record, images_path, labels_path
from qgbench.spec.protocol import Protocol
from qgbench.spec.regime import GIVEN, Regime
from qgbench.trust.found import Fault
from qgbench.trust.verify_labels import audited_ids
from qgbench.trust.verify_rows import unit_of


@dataclass(frozen=True)
class _CommittedSplit:
    """What is compared of a committed split."""

    fingerprint: str
    train: pd.DataFrame
    val: frozenset[str]
    test: dict[str, str]  # group by id
    labelled: list[str] | None  # where the split's maker chose them


class Splits:
    """Compares records with committed splits and draws, which it keeps for the next record."""

    def __init__(self) -> None:
        self._splits: dict[tuple[str, str, str], _CommittedSplit | None] = {}
        self._draws: dict[tuple[str, str, str, str, int], list[str]] = {}

    def compare(self, path: Path, record: Record, images: pd.DataFrame, protocol: Protocol) -> Iterator[Fault]:
        """Yield how split, test images, audited and labelled images differ from the committed split and the draw."""
        cell, regime = record.spec, Regime.parse(record.spec.regime)
        key = (cell.dataset, regime.split, cell.protocol)
        if key not in self._splits:
            self._splits[key] = _committed_split(cell.dataset, regime, protocol)
        committed = self._splits[key]
        if committed is None:
            text = f"no split of '{cell.dataset}' is committed that is '{regime.split}': test {record.noun}s and "
            text += f"audited {record.picture}s are not checked"
            yield Fault(path, "split unknown", text, "note")
            return
        provenance = record.provenance
        if provenance.split != committed.fingerprint:
            digests = f"{provenance.split[:12]}..., the committed split's {committed.fingerprint[:12]}..."
            yield Fault(path, "split", f"the fingerprint is {digests}")
        tested = dict(zip(images["id"].tolist(), images["group"].tolist(), strict=True))
        unit, noun = unit_of(record), record.noun
        to_test = {unit(id): group for id, group in committed.test.items()}
        if tested != to_test:
            text = f"{len(tested)} {noun}s, and the committed split has {len(to_test)} to test on; "
            yield Fault(images_path(path), "test images", text + _differences(tested, to_test, noun))
        audited_of = committed.val if record.pseudo_labels_on.startswith("validation") else set(committed.train["id"])
        if foreign := sorted(audited_ids(path) - audited_of - committed.test.keys()):
            text = f"{name_some(foreign, record.picture)}, which the committed split has not among the "
            yield Fault(labels_path(path), "audits", text + record.audited_on)
        draw = (*key, cell.regime, cell.seed)
        if draw not in self._draws:
            units = committed.train["group"].nunique() if regime.patients else len(committed.train)
            drawable = 1 <= regime.labelled(units) <= units
            self._draws[draw] = draw_budget(committed.train, regime, cell.dataset, cell.seed) if drawable else []
        drawn, labelled, shown = self._draws[draw], provenance.labelled_ids, record.picture
        if regime.patients:
            group_of = dict(zip(committed.train["id"], committed.train["group"], strict=True))
            patients = len({group_of.get(id, id) for id in labelled})
            if patients != regime.budget:
                yield Fault(path, "labels", f"{patients} labelled patients, and the regime is {regime}")
        if committed.labelled is not None:
            if labelled != committed.labelled:
                text = f"{len(labelled)} labelled {shown}s, and '{regime.split}' names {len(committed.labelled)}; "
                yield Fault(path, "labels", text + _differences(labelled, committed.labelled, shown))
        elif labelled != drawn and (regime.patients or not _shows_classes_first(labelled, committed.train, record)):
            text = f"{len(labelled)} labelled {shown}s, and seed {cell.seed} draws {len(drawn)}; "
            yield Fault(path, "labels", text + _differences(labelled, drawn, shown))


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
