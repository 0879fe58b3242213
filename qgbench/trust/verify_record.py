"""What a record says of itself: numbers, g, labelled images, place, reruns."""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from qgbench.base.errors import QGBenchError
from qgbench.base.schema import SLACK, not_finite
from qgbench.data.readers import name_some
from qgbench.quality.audit import IMAGE_DEPENDENCE_LIMIT
from qgbench.run.folder import RunFolder
from qgbench.run.record import RECORD_NAME, Record, result_path
from qgbench.spec.regime import Regime
from qgbench.trust.found import Fault, Found
from qgbench.trust.reproduce import reproduction_of
from qgbench.trust.verify_labels import close, told
from qgbench.trust.verify_rows import unit_of
from qgbench.trust.verify_spec import outside_code

_FAR = 0.1  # Dice; of 390 records whose best step is not the last the student differs by 0.068 at most


def contradictions(record: Record) -> Found:
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
    if record.best_val_step is not None and (best := record.summaries.get("best_val")) is not None:
        curve, last = dict(record.val_dice), record.summary.means["dice"]
        on_test, on_val = best.means["dice"] - last, curve[record.best_val_step] - record.val_dice[-1][1]
        if abs(on_test) > _FAR and abs(on_test - on_val) > _FAR:
            text = f"summaries.best_val.means.dice is {100 * on_test:+.1f} points from the student's"
            yield "contradiction", f"{text}; on validation images, {100 * on_val:+.1f}"
    begin, end = f"{Path(spec.dataset).name}-n", f"px-k{spec.seed}-"
    if source.g is not None and not re.fullmatch(rf"{re.escape(begin)}\d+-\d+{end}[0-9a-f]{{12}}", source.g):
        expected_g = f"{begin}<labels>-<size>{end}<12 hexadecimal digits>"
        yield "contradiction", f"provenance.g is {source.g!r}; expected {expected_g}"
    if audit is not None and audit.image_dependent != (audit.image_dependence < IMAGE_DEPENDENCE_LIMIT):
        says = f"image_dependence = {audit.image_dependence:g} says otherwise"
        yield "contradiction", f"audit.image_dependent is {audit.image_dependent}; {says}"


def differs_from_log(path: Path, record: Record) -> Found:
    """Compare with the run's log, which lies beside the record in its folder."""
    log: list[dict[str, Any]] = []
    if path.name == RECORD_NAME:
        with suppress(ValueError):
            log = RunFolder(path.parent).log()
    for entry in log:
        match entry:
            case {"step": record.steps, "val_q_minus_dice": float(logged)} if record.guidance is not None:
                if not close(said := record.guidance.val_q_minus_dice, logged):
                    yield "contradiction", f"guidance.val_q_minus_dice is {told(said)}; log.jsonl says {told(logged)}"
    curve = {entry["step"]: entry["val_dice"] for entry in log if {"step", "val_dice"} <= entry.keys()}
    differing = [(step, dice) for step, dice in record.val_dice if curve and not close(dice, curve.get(step))]
    for step, dice in differing[:1]:
        text = f"val_dice at step {step} is {told(dice)}; log.jsonl says {told(curve.get(step))}"
        yield "contradiction", text + (f", and {len(differing) - 1} more differ" if len(differing) > 1 else "")


def best_of_former(record: Record) -> Found:
    """Yield a best step of a record of a former version that its curve does not give, whatever the ramps were."""
    curve = dict(record.val_dice)
    best = record.best_val_step
    if better := [step for step, dice in record.val_dice if best is not None and step > best and dice > curve[best]]:
        yield "contradiction", f"best_val_step is {best}; val_dice is higher after step {better[0]}"
    elif ("best_val" in record.summaries) != (best not in (None, record.steps)):
        yield "contradiction", f"best_val_step is {best}; summaries are of {', '.join(record.summaries)}"


def impossible_labels(record: Record, images: pd.DataFrame) -> Found:
    """Yield what is wrong with the labelled images, whatever the split."""
    labelled, unit = record.provenance.labelled_ids, unit_of(record)
    if len(set(labelled)) < len(labelled):
        yield "labels", f"labelled {record.picture}s are there twice"
    if both := sorted(set(map(unit, labelled)) & set(images["id"])):
        yield "labels", f"{name_some(both, record.noun)} labelled in training and tested on"
    regime = Regime.parse(record.spec.regime)
    if regime.patients != (record.of_volumes and regime.budget is not None):
        yield "labels", f"the regime is {regime}: a budget counts patients of volumes and images of pictures"
    elif regime.patients and (volumes := len(set(map(unit, labelled)))) < (regime.budget or 0):
        yield "labels", f"{volumes} labelled volumes, and the regime is {regime}: a patient has one or more"
    elif not regime.patients and regime.budget is not None and len(labelled) != regime.budget:
        yield "labels", f"{len(labelled)} labelled images, and the regime is {record.spec.regime}"


def another_place(path: Path, record: Record) -> Found:
    """Yield where a submitted record should lie, if it lies elsewhere."""
    if path.name == RECORD_NAME:
        return
    expected = result_path(record)
    if path.resolve().parts[-len(expected.parts) :] != expected.parts:
        yield "place", f"the record belongs to {expected}"


def notes_of(path: Path, record: Record) -> Iterator[Fault]:
    """Yield what a reader should know of a record, and is no fault."""
    for text in outside_code(record):
        yield Fault(path, "outside code", text, "note")
    if (record.provenance.git_commit or "").endswith("+dirty"):
        text = f"trained by code with changes that commit {record.provenance.git_commit} does not hold"
        yield Fault(path, "uncommitted", text, "note")
    if copies := (record.near_copies or {}).get("test"):
        images = sorted(set(map(unit_of(record), copies))), f"test {record.noun}"
        near = "near copies of training images"
        if record.of_volumes:
            near = "with slices that are near copies of slices to train on"
        text = f"{name_some(*images)} of {record.summary.images}: {near}"
        yield Fault(path, "near copies", text, "note")


def disagreeing_rerun(path: Path) -> Iterator[Fault]:
    """Yield that the last rerun of a record disagrees, or that what reruns found cannot be read."""
    try:
        last = reproduction_of(path)
    except QGBenchError as error:
        yield Fault(path, "reproduction", str(error))
        return
    if last is not None and last.verdict == "disagrees":
        yield Fault(path, "reproduction", f"its rerun disagrees ({last.created}): {last.reason}")
