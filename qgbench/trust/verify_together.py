"""Records beside each other: what several must share, and what no two of them can."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from qgbench.run.record import Provenance, Record, content_hash
from qgbench.spec.run_spec import RunSpec
from qgbench.trust.found import Fault
from qgbench.trust.reproduce import compare_machines
from qgbench.trust.verify_rows import Column


@dataclass(frozen=True)
class Seen:
    """What the rules across records need of one of them."""

    path: Path
    spec: RunSpec
    provenance: Provenance
    content: str  # hash of its files
    dice: bytes | None  # hash of ids and Dice; None where all images have one Dice


def seen_of(path: Path, record: Record, images: pd.DataFrame, dice: Column) -> Seen:
    told = None
    if np.unique(dice).size > 1:
        told = sha256(repr(sorted(zip(images["id"].tolist(), dice.tolist(), strict=True))).encode()).digest()
    return Seen(path, record.spec, record.provenance, content_hash(path), told)


def across(seen: Sequence[Seen]) -> Iterator[Fault]:
    yield from _data_differ(seen)
    yield from _g_differs(seen)
    yield from _two_records(seen)
    yield from _same_scores(seen)
    yield from _gaps(seen)


def _by(seen: Iterable[Seen], key: Any) -> dict[Any, list[Seen]]:
    groups: dict[Any, list[Seen]] = defaultdict(list)
    for one in seen:
        groups[key(one)].append(one)
    return groups


def _data_differ(seen: Sequence[Seen]) -> Iterator[Fault]:
    def same_data(one: Seen) -> tuple[str, int, str, str]:
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


def _g_differs(seen: Sequence[Seen]) -> Iterator[Fault]:
    """Yield differing weights of one g; trained anew elsewhere they may honestly differ, as all numbers may."""
    for g, group in _by((one for one in seen if one.provenance.g_weights), lambda one: one.provenance.g).items():
        first = group[0]
        for other in group[1:]:
            if other.provenance.g_weights != first.provenance.g_weights:
                digests = [f"{one.provenance.g_weights:.12}..." for one in (other, first)]
                text = f"provenance.g_weights of {g} is {digests[0]}, and {digests[1]} in {first.path}"
                yield Fault(other.path, "g", text, "fault" if _on_one_machine(first, other) else "note")


def _on_one_machine(one: Seen, other: Seen) -> bool:
    """Return whether both were trained by the same code on the same processor, where g is expected to be the same."""
    first, second = one.provenance, other.provenance
    same_code = first.git_commit == second.git_commit and not (first.git_commit or "").endswith("+dirty")
    same = all(found.same for found in compare_machines(first, second) if found.role == "numbers")
    return same_code and same and one.spec.device == "cpu"


def _two_records(seen: Sequence[Seen]) -> Iterator[Fault]:
    for group in _by(seen, lambda one: (one.spec.cell, one.spec.seed)).values():
        first = group[0]
        for other in group[1:]:
            if other.content == first.content:
                yield Fault(other.path, "copy", f"a copy of {first.path}", "note")
            else:
                text = f"{first.path} is of the same cell and seed and has other content; remove one of the two"
                yield Fault(other.path, "two records", text)


def _same_scores(seen: Sequence[Seen]) -> Iterator[Fault]:
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


def _gaps(seen: Sequence[Seen]) -> Iterator[Fault]:
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


def _number(seen: Sequence[Seen]) -> str:
    return f"{len(seen)} record{'' if len(seen) == 1 else 's'}"
