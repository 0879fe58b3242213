"""Pictures of single test cases after a run: the best, the median, the worst, and what an add-on changed most.

Imports no torch; matplotlib takes a second, so it is imported where a picture is drawn.
"""

import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qgbench.base.errors import QGBenchError
from qgbench.base.files import write_atomically
from qgbench.base.logs import logged_to, logger
from qgbench.data.readers import Source
from qgbench.report.collect import DISTANCE_WORDS
from qgbench.report.figures.cases import Picture, cases_png, reduced
from qgbench.report.lettering import printable, shortened
from qgbench.report.picture_guard import guarded
from qgbench.run.folder import CASES_NAME, PREDICTIONS_NAME, TEXT_LOG_NAME, RunFolder, find_runs
from qgbench.run.predictions import read_predictions
from qgbench.run.record import IMAGES_NAME, RECORD_NAME, Record, read_images, read_record

BEST, MEDIAN, WORST, MOST_CHANGED = "best", "median", "worst", "most changed"

_HEADINGS = {
    BEST: "Best: highest Dice",
    MEDIAN: "Median: the middle of the ranking by Dice",
    WORST: "Worst: lowest Dice",
    MOST_CHANGED: "Most changed: largest difference of Dice from the twin",
}
_REFERENCE, _PREDICTION, _TWIN = "reference", "prediction", "twin's prediction"

Masks = Mapping[str, NDArray[Any]]
_LINE = 36  # characters that fit under a picture


@dataclass(frozen=True)
class Case:
    """One test image or volume of a run.

    Attributes
    ----------
    id : str
        Its name in its data set.
    dice : float
        In [0, 1]; of several classes their mean, as all numbers here.
    twin_dice : float or None
        Dice of the twin's prediction; None if there is no twin or it was not tested on this image.
    hd95 : float
        Pixels of the original image, or the unit of the record's distances; NaN if one mask is empty.
    status : str
        ok | missed | spurious | both_empty; of several classes all that there are, with a blank between.
    by_class : dict of str to float
        Dice of each of several classes.
    note : str
        What else stands below its picture.
    """

    id: str
    dice: float
    twin_dice: float | None
    hd95: float
    status: str
    by_class: dict[str, float] = field(default_factory=dict)
    note: str = ""


def choose_cases(images: pd.DataFrame, twin: pd.DataFrame | None, count: int = 4) -> dict[str, list[Case]]:
    """Return the images or volumes to show, each at most once for each kind.

    Parameters
    ----------
    images : DataFrame
        Rows of the run by image (or volume) and class, columns `qgbench.metrics.table.image_columns`.
    twin : DataFrame, optional
        Those of its twin.
    count : int
        Images of each kind; fewer where there are fewer.

    Returns
    -------
    dict of str to list of Case
        'best' (highest Dice first), 'median' (the ranks around the middle one), 'worst' (lowest Dice first) and, if
        some images are the twin's too, 'most changed' (largest difference of Dice first, whichever of the two is the
        better). Equals are ordered by id.
    """
    twin_dice = {} if twin is None else {case.id: case.dice for case in _cases(twin, {})}
    cases = _cases(images, twin_dice)
    falling = sorted(cases, key=lambda case: (-case.dice, case.id))
    start = max(0, (len(cases) - count) // 2)
    chosen = {
        BEST: falling[:count],
        MEDIAN: falling[start : start + count],
        WORST: sorted(cases, key=lambda case: (case.dice, case.id))[:count],
    }
    change = {case.id: abs(case.dice - case.twin_dice) for case in cases if case.twin_dice is not None}
    if change:
        shared = [case for case in cases if case.id in change]
        chosen[MOST_CHANGED] = sorted(shared, key=lambda case: (-change[case.id], case.id))[:count]
    return chosen


def _cases(images: pd.DataFrame, twin_dice: Mapping[str, float]) -> list[Case]:
    """Return every image or volume, with the means of its rows, one a class."""
    rows: dict[str, list[tuple[str, float, float, str]]] = defaultdict(list)
    columns = [images[name] for name in ("class", "dice", "hd95", "status")]
    for id, *row in zip(images["id"], *columns, strict=True):
        rows[id].append(tuple(row))
    cases = []
    for id, own in rows.items():
        classes, dice, hd95, status = zip(*own, strict=True)
        means = float(np.mean(dice)), twin_dice.get(id), float(np.mean(hd95))
        by_class = dict(zip(classes, map(float, dice), strict=True)) if len(own) > 1 else {}
        cases.append(Case(id, *means, " ".join(dict.fromkeys(status)), by_class))
    return cases


def find_twin(folder: RunFolder, record: Record) -> RunFolder | None:
    """Return the run to compare with: the same cell with an add-on where this run has none, or the reverse.

    Parameters
    ----------
    folder : RunFolder
        A run; those beside it are searched.
    record : Record
        Its record.

    Returns
    -------
    RunFolder or None
        The one that finished last, if several would do; None if there is none. Runs that cannot be read are passed
        over with a warning.
    """
    twins: list[tuple[int, bool, str, RunFolder]] = []
    for other in find_runs(folder.path.parent):
        file = other.path / RECORD_NAME
        if other.name == folder.name or not file.is_file():
            continue
        try:
            # The per-image rows are checked only where they will be used.
            if _are_twins(record, read_record(file)) and other.record() is not None:
                twins.append((file.stat().st_mtime_ns, "~" not in other.name, other.name, other))
        except (QGBenchError, OSError) as error:
            logger.warning("%s is not compared with: %s", other.name, error)
    return max(twins, key=lambda twin: twin[:3])[-1] if twins else None


def _are_twins(one: Record, other: Record) -> bool:
    one_spec, other_spec = one.spec, other.spec
    return (
        (one_spec.addon == "") != (other_spec.addon == "")
        and one_spec.cell.twin == other_spec.cell.twin
        and one_spec.seed == other_spec.seed
        and one_spec.precision == other_spec.precision
        and one_spec.device == other_spec.device
    )


def draw_if_missing(run: RunFolder, source: Source | None) -> None:
    """Draw ``cases.png`` of a finished run that has none; what goes wrong is one warning, here and in its log.

    Parameters
    ----------
    run : RunFolder
    source : Source or None
        The data set; nothing is drawn without it.
    """
    path = run.path
    if source is None or (path / CASES_NAME).exists() or not (path / PREDICTIONS_NAME).exists():
        return
    with logged_to(path / TEXT_LOG_NAME), guarded(CASES_NAME):
        draw_run(run, read_record(path), source)


def draw_run(folder: RunFolder, record: Record, source: Source) -> None:
    """Draw ``cases.png`` of a run whose rows and predictions are written, beside its twin if that is finished.

    Parameters
    ----------
    folder : RunFolder
    record : Record
        The run's record, which need not be written yet.
    source : Source
        The data set, for images and reference masks at original resolution.

    Raises
    ------
    QGBenchError
        An image, rows or predictions cannot be read, or the picture cannot be written.
    """
    twin = find_twin(folder, record)
    twin_images = read_images(twin.path / IMAGES_NAME) if twin is not None else None
    cell = record.spec
    title = f"{_name_of(record)}, {cell.arch}, {cell.dataset} {cell.regime}, seed {cell.seed}, protocol {cell.protocol}"
    cases = choose_cases(read_images(folder.path / IMAGES_NAME), twin_images)
    image_of, reference_of = source.image, source.mask
    predictions: Masks = read_predictions(folder.path / PREDICTIONS_NAME)
    twin_predictions: Masks | None = read_predictions(twin.path / PREDICTIONS_NAME) if twin is not None else None
    if source.volumes:
        shown = _shown_slices(source, {case.id for row in cases.values() for case in row})
        cases = {kind: [replace(case, note=shown[case.id].words) for case in row] for kind, row in cases.items()}
        image_of, reference_of = (lambda id: source.image(shown[id].id)), (lambda id: source.mask(shown[id].id))
        predictions = _slices_of(predictions, shown)
        twin_predictions = None if twin_predictions is None else _slices_of(twin_predictions, shown)
    draw_cases(
        folder.path / CASES_NAME,
        title,
        cases,
        image_of,
        reference_of,
        predictions,
        twin_predictions,
        _name_of(read_record(twin.path)) if twin is not None else None,
        record.classes,
        DISTANCE_WORDS[record.distance_unit],
    )


class _Shown(NamedTuple):
    """The slice of a volume that stands for it: its id, its place from 0, and of how many."""

    id: str
    place: int
    depth: int

    @property
    def words(self) -> str:
        return f"slice {self.place + 1} of {self.depth}, largest reference area"


def _shown_slices(source: Source, volumes: Iterable[str]) -> dict[str, _Shown]:
    """Return the slice of each volume with the largest area of reference, the first of equals."""
    slices: dict[str, list[str]] = defaultdict(list)
    for id, where in sorted(source.volumes.items(), key=lambda item: item[1].index):
        slices[where.volume].append(id)
    shown = {}
    for volume in volumes:
        if volume not in slices:
            raise QGBenchError(f"volume {volume} cannot be shown: the data set has none of that name")
        ids = slices[volume]
        place = int(np.argmax([np.count_nonzero(source.mask(id)) for id in ids]))
        shown[volume] = _Shown(ids[place], place, len(ids))
    return shown


def _slices_of(predictions: Masks, shown: Mapping[str, _Shown]) -> dict[str, NDArray[Any]]:
    """Return the predictions (D, H, W) of volumes at the slices that are shown: (H, W)."""
    found = {}
    for volume, one in shown.items():
        if volume in predictions:
            if len(prediction := predictions[volume]) != one.depth:
                raise QGBenchError(
                    f"volume {volume} cannot be shown: it has {one.depth} slices, its prediction {len(prediction)}"
                )
            found[volume] = prediction[one.place]
    return found


def _name_of(record: Record) -> str:
    return record.spec.method + (f" + {record.spec.addon}" if record.spec.addon else "")


def draw_cases(
    path: Path,
    title: str,
    cases: Mapping[str, Sequence[Case]],
    image_of: Callable[[str], NDArray[np.uint8]],
    reference_of: Callable[[str], NDArray[Any]],
    predictions: Masks,
    twin_predictions: Masks | None,
    twin_name: str | None,
    classes: Sequence[str] = (),
    unit: str = "px",
) -> None:
    """Draw cases with the outlines of their masks, a row for each kind, into one PNG file, atomically.

    Equal arguments give equal bytes, whatever the user's own settings of matplotlib. An outline runs along the borders
    of the pixels of its mask.

    Parameters
    ----------
    path : Path
        The file to write; at most 1.5 MB.
    title : str
        Above all pictures.
    cases : mapping of str to sequence of Case
        What `choose_cases` gave.
    image_of : callable
        Gives an image by id: (H, W, 3) uint8, RGB.
    reference_of : callable
        Gives a reference mask by id: (H, W) bool, of several classes a label map: k where the k-th class is.
    predictions : mapping of str to (H, W)
        Predicted masks by id.
    twin_predictions : mapping of str to (H, W), optional
        The twin's; drawn where the kind is 'most changed'.
    twin_name : str, optional
        How the twin is called in the legend.
    classes : sequence of str
        Several have a colour each, and Dice below each picture.
    unit : str
        Of HD95.

    Raises
    ------
    QGBenchError
        An image or a mask cannot be had, is of another size than its image, or the file cannot be written.
    """
    rows = pictures(cases, image_of, reference_of, predictions, twin_predictions, classes, unit)
    write_atomically(path, cases_png(title, rows, twin_name or "", classes))


def pictures(
    cases: Mapping[str, Sequence[Case]],
    image_of: Callable[[str], NDArray[np.uint8]],
    reference_of: Callable[[str], NDArray[Any]],
    predictions: Masks,
    twin_predictions: Masks | None,
    classes: Sequence[str] = (),
    unit: str = "px",
) -> dict[str, list[Picture]]:
    """Return cases with their pixels, by heading; the rest as `draw_cases`."""
    rows = {}
    for kind, row in cases.items():
        predicted = {_PREDICTION: predictions}
        if kind == MOST_CHANGED and twin_predictions is not None:
            predicted[_TWIN] = twin_predictions
        if row:
            heading = _HEADINGS[kind] + (" (mean over classes)" if len(classes) > 1 else "")
            rows[heading] = [_picture(case, image_of, reference_of, predicted, classes, unit) for case in row]
    return rows


def _picture(
    case: Case,
    image_of: Callable[[str], NDArray[np.uint8]],
    reference_of: Callable[[str], NDArray[Any]],
    predicted: Mapping[str, Masks],
    classes: Sequence[str],
    unit: str,
) -> Picture:
    cannot = f"image {case.id} cannot be shown"
    try:
        image, masks = image_of(case.id), {_REFERENCE: reference_of(case.id)}
    except Exception as error:  # whatever the reader of the data set raises
        raise QGBenchError(f"{cannot}: {error}") from error
    for name, source in predicted.items():
        if case.id not in source:
            raise QGBenchError(f"{cannot}: it has no {name}")
        masks[name] = source[case.id]
    for name, mask in masks.items():
        if mask.shape != image.shape[:2]:
            raise QGBenchError(
                f"{cannot}: it is {_size(image)} pixels, its {name} {_size(mask)}; one of the two was changed"
            )
    caption = _caption(case, masks, classes, unit)
    return Picture(reduced(image), masks[_REFERENCE], masks[_PREDICTION], masks.get(_TWIN), case.id, caption)


def _caption(case: Case, masks: Masks, classes: Sequence[str], unit: str) -> list[str]:
    hd95 = "undefined" if np.isnan(case.hd95) else f"{case.hd95:.1f} {unit}"
    lines = [f"Dice {100 * case.dice:.1f} %, HD95 {hd95}"]
    if case.by_class:
        lines += _by_class(case.by_class)
    if case.twin_dice is not None:
        gain = f"{100 * (case.dice - case.twin_dice):+.1f}".replace("-", "\N{MINUS SIGN}")
        lines.append(f"twin: Dice {100 * case.twin_dice:.1f} % (this run {gain})")
    if case.note:
        lines.append(case.note)
    empty = {_REFERENCE: "no lesion", _PREDICTION: "nothing predicted", _TWIN: "twin: nothing predicted"}
    if len(classes) > 1:
        empty[_REFERENCE] = "no class is here"
    return lines + [words for name, words in empty.items() if name in masks and not masks[name].any()]


def _by_class(dice: Mapping[str, float]) -> list[str]:
    """Return Dice of every class in lines that fit under a picture."""
    parts = (f"{shortened(printable(name), 24)}\N{NO-BREAK SPACE}{100 * value:.1f}" for name, value in dice.items())
    wrapped = textwrap.TextWrapper(_LINE, break_long_words=False, break_on_hyphens=False).wrap(", ".join(parts))
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in wrapped]


def _size(pixels: NDArray[Any]) -> str:
    return " x ".join(map(str, pixels.shape[1::-1]))
