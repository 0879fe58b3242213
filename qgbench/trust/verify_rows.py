"""The rows of a record, ``images.csv``: ids, counts, overlap, distances, and the averages that they give."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qgbench.base.errors import QGBenchError
from qgbench.base.schema import SLACK
from qgbench.data.readers import name_some
from qgbench.data.units import volume_of
from qgbench.metrics.masks import NSD_DIAGONAL_FRACTION, NSD_PIXELS
from qgbench.metrics.table import DISTANCE_COLUMNS, TEXT_COLUMNS, VOLUME_COLUMNS, Metric, diagonals, image_columns
from qgbench.run.record import IMAGES_NAME, Record, Summary, read_images, summarise
from qgbench.trust.distance_bounds import possible_distances
from qgbench.trust.found import EXACT, Fault, Found

Column = NDArray[np.float64]
_PERCENTILES = {"hd95": "pooled", "hd95_max": "max"}


def read_table(path: Path, record: Record) -> pd.DataFrame:
    """Read rows whose numbers are numbers; what is missing of a text is empty.

    Raises
    ------
    QGBenchError
        As `read_images`; there are no rows, other columns, or text where a number belongs.
    """
    images = read_images(path, record.metrics)
    columns = [*image_columns(record.of_volumes), *record.metrics]
    columns = [name for name in columns if record.read_from > 1 or name != "class"]
    refuse_form(path, images, columns, set(TEXT_COLUMNS))
    if images.empty:
        raise QGBenchError(f"{path} has no rows")
    for name in TEXT_COLUMNS:
        if images[name].hasnans:
            images[name] = images[name].fillna("")
    return images


def refuse_form(path: Path, rows: pd.DataFrame, columns: Iterable[str], text: Collection[str]) -> None:
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


def unit_of(record: Record) -> Callable[[str], str]:
    """Return what gives the unit that an image is of."""
    return volume_of if record.of_volumes else str


def image_ids(images: pd.DataFrame, record: Record) -> Found:
    """Yield ids and classes that are there too often, not at all, or with another group or size."""
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


def impossible_rows(images: pd.DataFrame, numbers: Mapping[str, Column], record: Record) -> Found:
    """Yield where a row's numbers break the rules."""

    def faulty(rule: str, text: str, right: NDArray[np.bool_]) -> Found:
        if not right.all():
            yield rule, f"{text}: {name_some(list(dict.fromkeys(images['id'][~right])), record.noun)}"

    dots = "voxels" if record.of_volumes else "pixels"
    has_g, sides = record.provenance.g is not None, [*(["depth"] if record.of_volumes else []), "height", "width"]
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
    voxel = np.array([numbers[name] for name in VOLUME_COLUMNS[1:]]) if record.of_volumes else np.ones((2, len(n_ref)))
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
        right = np.abs(numbers[name] - expected) <= EXACT
        yield from faulty("overlap", f"{name} is not what n_tp, n_ref and n_pred give", right)

    status = np.select([both_empty, n_pred == 0, n_ref == 0], ["both_empty", "missed", "spurious"], "ok")
    yield from faulty("status", "not what n_ref and n_pred give", np.array(images["status"].tolist()) == status)

    longest = np.where(equal, 0.0, diagonals({**numbers, **{side: numbers[side] - 1 for side in sides}})) + EXACT
    for name in DISTANCE_COLUMNS:
        distance = numbers[name]
        given = (distance >= 0) & (distance <= longest)
        text = f"{name} is not between 0 and the longest possible, or not empty exactly where one mask is"
        right = np.where(one_empty, np.isnan(distance), given)
        yield from faulty("distances", text, right)
        masks = np.flatnonzero(right & ~one_empty & ~both_empty)
        of_masks = [column[..., masks] for column in (n_ref, n_pred, n_tp, np.array(lengths), voxel)]
        possible = np.ones(len(right), bool)
        possible[masks] = possible_distances(distance[masks], _PERCENTILES.get(name, ""), *of_masks)
        yield from faulty("distances", f"{name} is none that n_ref, n_pred, n_tp and the size allow", possible)

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


def further(images: pd.DataFrame, metric: Metric, noun: str) -> Found:
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
    return math.inf if metric.highest is None else metric.highest + EXACT


def compared(who: str, recomputed: Summary, stored: Summary) -> Found:
    """Yield the averages of a record that its rows do not give."""
    said = stored.numbers()
    if recomputed.images != stored.images:  # which explains all else
        rows = "units with rows" if recomputed.by_class else "rows"
        yield "summary", f"there are {recomputed.images} {rows}, and {who} says images = {stored.images}"
        return
    given = recomputed.numbers()
    for name in (*given, *(name for name in said if name not in given)):
        value, claimed = given.get(name, math.nan), said.get(name, math.nan)
        if not math.isclose(value, claimed, rel_tol=EXACT, abs_tol=EXACT):
            yield "summary", f"the rows give {name} = {value:.9g}, {who} says {claimed:.9g}"


def other_network(table: Path, network: str, record: Record) -> Iterator[Fault]:
    """Yield where averages of another network of the run differ from its rows, where these are kept."""
    path = table.with_name(f"images.{network}.csv")
    if table.name != IMAGES_NAME or not path.is_file():
        return
    try:
        images = read_table(path, record)
    except QGBenchError as error:
        yield Fault(path, "images", str(error))
        return
    averages = summarise(images, record.metrics.values())
    for found in compared(f"the record of '{network}'", averages, record.summaries[network]):
        yield Fault(path, *found)
