"""Records beside each other: what several must share, and what no two of them can."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from hashlib import sha256
from importlib.resources import files
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qgbench.run.record import Provenance, Record, content_hash, flat
from qgbench.spec.run_spec import Place, RunSpec
from qgbench.spec.suite import load_suite, suite_names
from qgbench.trust.found import Fault, Severity
from qgbench.trust.near_copies import near_copies, telling
from qgbench.trust.reproduce import compare_machines

_PARTS = {"protocol": "", "method": "method.", "qg": "qg."}  # of settings, and what their names begin with in overrides
_NO_EFFECT = {"fault": "", "note": ": the add-on or the settings had no effect, or one is a copy"}


@dataclass(frozen=True)
class Seen:
    """What the rules across records need of one of them."""

    path: Path
    spec: RunSpec
    provenance: Provenance
    content: str  # hash of its files
    dice: bytes | None  # hash of ids and Dice; None where all images have one Dice
    audit: dict[str, Any]  # of g; empty where there is none
    settings: dict[str, dict[str, Any]]  # by part, of a record of a former version; empty for those of today
    tested: bytes  # hash of units, classes and their reference pixels
    counts: NDArray[np.float64]  # (3, N): pixels of reference and prediction, and of both; NaN where they tell nothing


def seen_of(path: Path, record: Record, images: pd.DataFrame, former: bool) -> Seen:
    """Return what is kept of a record and its rows.

    Parameters
    ----------
    path : Path
    record : Record
    images : DataFrame
        Columns `qgbench.metrics.table.image_columns`.
    former : bool
        Whether it is of a former version of its protocol or of g.
    """
    dice, told = images["dice"].to_numpy(float), None
    if np.unique(dice).size > 1:
        told = sha256(repr(sorted(zip(images["id"].tolist(), dice.tolist(), strict=True))).encode()).digest()
    ordered = images.sort_values(["id", "class"])
    names = ["n_ref", "n_pred", "n_tp", "height", "width", *(["depth"] if record.of_volumes else [])]
    n_ref, n_pred, n_tp, *sides = ordered[names].to_numpy(float).T
    counts = np.where(telling(n_ref, n_pred, n_tp, np.prod(sides, axis=0)), [n_pred, n_tp], np.nan)
    units = (ordered["id"].tolist(), ordered["class"].tolist(), n_ref.tolist())
    return Seen(
        path,
        record.spec,
        record.provenance,
        content_hash(path),
        told,
        {} if record.audit is None else flat(record.audit.model_dump()),
        {part: flat(record.settings[part]) for part in _PARTS} if former else {},
        sha256(repr(units).encode()).digest(),
        np.vstack([n_ref[None], counts]),
    )


def across(seen: Sequence[Seen]) -> Iterator[Fault]:
    """Yield what is found in records beside each other."""
    yield from _data_differ(seen)
    yield from _g_differs(seen)
    yield from _settings_differ(seen)
    yield from _two_records(seen)
    yield from _same_scores(seen)
    yield from _copied_rows(seen)
    yield from _gaps(seen)
    yield from _last_seeds(seen)
    yield from _twins_made_otherwise(seen)


def _by(seen: Iterable[Seen], key: Any) -> dict[Any, list[Seen]]:
    groups: dict[Any, list[Seen]] = defaultdict(list)
    for one in seen:
        groups[key(one)].append(one)
    return groups


def _data_differ(seen: Sequence[Seen]) -> Iterator[Fault]:
    def same_data(one: Seen) -> tuple[Any, ...]:
        pools = one.spec.regime.partition("@")[0].partition("+")[2]
        return one.spec.protocol, one.spec.protocol_version, one.spec.overrides.get("size"), one.spec.dataset, pools

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
    """Yield differing weights or audits of one g; trained anew elsewhere these may honestly differ."""
    for g, group in _by((one for one in seen if one.provenance.g is not None), lambda one: one.provenance.g).items():
        weighed = [one for one in group if one.provenance.g_weights]
        most = _most(weighed, lambda one: one.provenance.g_weights)
        others = [one for one in weighed if one.provenance.g_weights != most[0].provenance.g_weights]
        for other in others:
            digests = [f"{one.provenance.g_weights:.12}..." for one in (other, most[0])]
            text = f"provenance.g_weights of {g} is {digests[0]}, and {digests[1]} in {most[0].path}"
            yield Fault(other.path, "g", text, "fault" if _on_one_machine_as_any(other, most) else "note")
        rest = [one for one in group if one.audit and one not in others]
        most = _most(rest, lambda one: sorted(one.audit.items(), key=str))
        for other in rest:
            differing = (name for name, value in most[0].audit.items() if other.audit.get(name) != value)
            if (name := next(differing, None)) is not None:
                says = f"audit.{name} of {g} is {other.audit.get(name)}, and {most[0].audit[name]} in {most[0].path}"
                same = other.provenance.g_weights is not None or _on_one_machine_as_any(other, most)
                yield Fault(other.path, "g", says, "fault" if same else "note")


def _most(seen: Sequence[Seen], value: Callable[[Seen], Any]) -> list[Seen]:
    """Return those of the value that most of them have, the first of equally frequent ones; [] of none."""
    return max(_by(seen, lambda one: repr(value(one))).values(), key=len, default=[])


def _on_one_machine_as_any(one: Seen, others: Iterable[Seen]) -> bool:
    return any(_on_one_machine(other, one) for other in others)


def _on_one_machine(one: Seen, other: Seen) -> bool:
    """Return whether both were trained by the same code on the same processor, where g is expected to be the same."""
    first, second = one.provenance, other.provenance
    same_code = first.git_commit == second.git_commit and not (first.git_commit or "").endswith("+dirty")
    same = all(found.same for found in compare_machines(first, second) if found.role == "numbers")
    return same_code and same and one.spec.device == "cpu"


def _settings_differ(seen: Sequence[Seen]) -> Iterator[Fault]:
    """Yield settings, of records of former versions, that are neither overridden nor what they were in that version.

    The defaults of a former version are in ``former/PROTOCOL-VERSION.json``: those that its published records shared
    when the next version came. Where none are kept, as of a plug-in, the others' setting is what most records have.
    Some may lack it: it came after them.
    """
    for part in _PARTS:
        for kind, group in _by((one for one in seen if one.settings), partial(_kind, part)).items():
            kept = _former(kind[0], kind[1])[part]
            kept = kept if part == "protocol" else kept.get(kind[2][0], {})
            for name in dict.fromkeys(name for one in group for name in one.settings[part]):
                yield from _setting_differs([one for one in group if name in one.settings[part]], part, name, kept)


def _setting_differs(having: Sequence[Seen], part: str, name: str, kept: dict[str, Any]) -> Iterator[Fault]:
    key = f"{_PARTS[part]}{name}"
    most = _most([one for one in having if key not in one.spec.overrides], lambda one: one.settings[part][name])
    for one in having:
        value, overrides = one.settings[part][name], one.spec.overrides
        if key in overrides:
            expected, why = overrides[key], "its override"
        elif name in kept:
            expected, why = kept[name], f"the default of version {one.spec.protocol_version}"
        else:
            expected, why = most[0].settings[part][name], f"that of {most[0].path}, which overrides it as little"
        if repr(value) != repr(expected) and not (part == "protocol" and key.partition(".")[0] in one.spec.idle_parts):
            yield Fault(one.path, "spec", f"settings.{part}.{name} is {value!r}, expected {expected!r}, {why}")


@cache
def _former(protocol: str, version: int) -> dict[str, dict[str, Any]]:
    """Return the defaults of a former version that are kept: protocol, method (by name), qg (by name)."""
    file = files("qgbench.trust") / "former" / f"{protocol}-{version}.json"
    return json.loads(file.read_text("utf-8")) if file.is_file() else {part: {} for part in _PARTS}


def _kind(part: str, one: Seen) -> tuple[Any, ...]:
    """Return what decides the defaults of a part of the settings."""
    spec = one.spec
    of_g = one.settings["protocol"]["g_version"] if spec.needs_g else None
    of_part = {"protocol": of_g, "method": (spec.method, spec.source), "qg": (spec.addon, spec.addon_source)}
    return spec.protocol, spec.protocol_version, of_part[part]


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
    for dice, group in _by(seen, lambda one: one.dice).items():
        for other in group[1:] if dice is not None else ():
            if (severity := _if_copied(group[0].spec, other.spec)) is not None:
                text = f"every image has the very Dice that it has in {group[0].path}"
                yield Fault(other.path, "same scores", f"{text}{_NO_EFFECT[severity]}", severity)


def _copied_rows(seen: Sequence[Seen]) -> Iterator[Fault]:
    """Yield rows that are those of another record but for a few pixels, and not to the last."""
    for group in _by(seen, lambda one: one.tested).values():
        for first, second, share in near_copies(group[0].counts[0], [one.counts[1:] for one in group]):
            one, other = group[first], group[second]
            if one.dice == other.dice:
                continue  # `_same_scores` says so
            if (severity := _if_copied(one.spec, other.spec)) is not None:
                text = f"{share:.0%} of the images have the pixels that they have in {one.path}, but for a few"
                yield Fault(other.path, "copied rows", f"{text}{_NO_EFFECT[severity]}", severity)


def _if_copied(one: RunSpec, other: RunSpec) -> Severity | None:
    """Return what it is if two records have the same rows; None if it is nothing, or another rule says so.

    A fault of different methods, seeds, regimes or architectures. A note where only the add-on or settings differ. None
    where only the pools of supervised training do, which reads none.
    """

    def trained(spec: RunSpec) -> tuple[Any, ...]:
        setting = spec.setting
        if spec.method == "supervised" and not spec.addon:
            budget, at, split = spec.regime.partition("@")
            setting = setting.model_copy(update={"regime": budget.partition("+")[0] + at + split})
        return setting, spec.arm, spec.seed

    def but_for_settings(spec: RunSpec) -> tuple[Any, ...]:
        return spec.setting.model_copy(update={"protocol_version": 0}), spec.method, spec.seed

    if trained(one) == trained(other):
        return None  # of one cell and seed: `_two_records` says so
    return "note" if but_for_settings(one) == but_for_settings(other) else "fault"


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
            text = f"the twin without '{cell.arm.addon}' lacks {_seeds(lacking)}"
            yield Fault(group[0].path, "twin", text, "note")


def _last_seeds(seen: Sequence[Seen]) -> Iterator[Fault]:
    """Yield the seeds that a suite asks for above the highest that there is; those below are gaps."""
    held: dict[Place, list[Seen]] = _by(seen, lambda one: one.spec.place._replace(seed=0))
    protocols = {place.protocol for place in held}
    for suite in filter(lambda suite: suite.protocol in protocols, map(load_suite, suite_names())):
        asked: dict[Place, set[int]] = defaultdict(set)
        for entry in suite.entries():
            asked[entry.place._replace(seed=0)].add(entry.seed)
        for place in held.keys() & asked.keys():
            highest = max(one.spec.seed for one in held[place])
            if lacking := sorted(seed for seed in asked[place] if seed > highest):
                text = f"the suite '{suite.name}' asks for {_seeds(lacking)} of the cell as well"
                yield Fault(held[place][0].path, "gap", text, "note")


def _twins_made_otherwise(seen: Sequence[Seen]) -> Iterator[Fault]:
    """Yield runs with an add-on whose twin without it was made by another commit or on another processor."""
    runs = {(one.spec.cell, one.spec.seed): one for one in seen}
    for one in seen:
        twin = runs.get((one.spec.cell.twin, one.spec.seed)) if one.spec.addon else None
        if twin is None:
            continue
        own, other = one.provenance, twin.provenance
        for what, differs in (
            ("by another commit", own.git_commit != other.git_commit),
            ("on another processor", own.hardware.get("processor") != other.hardware.get("processor")),
        ):
            if differs:
                yield Fault(one.path, "twin", f"trained {what} than its twin without the add-on", "note")


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def _number(seen: Sequence[Seen]) -> str:
    return f"{len(seen)} record{'' if len(seen) == 1 else 's'}"
