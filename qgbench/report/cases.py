"""Pictures of single test cases after a run: the best, the median, the worst, and what an add-on changed most.

Imports no torch; matplotlib takes a second, so it is imported where a picture is drawn.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qgbench.base.errors import QGBenchError
from qgbench.base.files import write_atomically
from qgbench.base.logs import logged_to, logger
from qgbench.data.readers import Source
from qgbench.report.figures.cases import Picture, cases_png, reduced
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

Masks = Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True)
class Case:
    """One test image of a run.

    Attributes
    ----------
    id : str
        The image's name in its data set.
    dice : float
        In [0, 1].
    twin_dice : float or None
        Dice of the twin's prediction; None if there is no twin or it was not tested on this image.
    hd95 : float
        Pixels of the original image; NaN if one mask is empty.
    status : str
        ok | missed | spurious | both_empty
    """

    id: str
    dice: float
    twin_dice: float | None
    hd95: float
    status: str


def choose_cases(images: pd.DataFrame, twin: pd.DataFrame | None, count: int = 4) -> dict[str, list[Case]]:
    """Return the images to show, each at most once for each kind.

    Parameters
    ----------
    images : DataFrame
        Per-image rows of the run, columns `qgbench.metrics.table.IMAGE_COLUMNS`.
    twin : DataFrame, optional
        Per-image rows of its twin.
    count : int
        Images of each kind; fewer where there are fewer.

    Returns
    -------
    dict of str to list of Case
        'best' (highest Dice first), 'median' (the ranks around the middle one), 'worst' (lowest Dice first) and, if
        some images are the twin's too, 'most changed' (largest difference of Dice first, whichever of the two is the
        better). Equals are ordered by id.
    """
    twin_dice = {} if twin is None else dict(zip(twin["id"], twin["dice"].astype(float), strict=True))
    columns = (images[name] for name in ("id", "dice", "hd95", "status"))
    cases = [
        Case(id, float(dice), twin_dice.get(id), float(hd95), status)
        for id, dice, hd95, status in zip(*columns, strict=True)
    ]
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
    draw_cases(
        folder.path / CASES_NAME,
        title,
        choose_cases(read_images(folder.path / IMAGES_NAME), twin_images),
        source.image,
        source.mask,
        read_predictions(folder.path / PREDICTIONS_NAME),
        read_predictions(twin.path / PREDICTIONS_NAME) if twin is not None else None,
        _name_of(read_record(twin.path)) if twin is not None else None,
    )


def _name_of(record: Record) -> str:
    return record.spec.method + (f" + {record.spec.addon}" if record.spec.addon else "")


def draw_cases(
    path: Path,
    title: str,
    cases: Mapping[str, Sequence[Case]],
    image_of: Callable[[str], NDArray[np.uint8]],
    reference_of: Callable[[str], NDArray[np.bool_]],
    predictions: Mapping[str, NDArray[np.bool_]],
    twin_predictions: Mapping[str, NDArray[np.bool_]] | None,
    twin_name: str | None,
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
        Gives a reference mask by id: (H, W) bool.
    predictions : mapping of str to (H, W) bool
        Predicted masks by id.
    twin_predictions : mapping of str to (H, W) bool, optional
        The twin's; drawn where the kind is 'most changed'.
    twin_name : str, optional
        How the twin is called in the legend.

    Raises
    ------
    QGBenchError
        An image or a mask cannot be had, is of another size than its image, or the file cannot be written.
    """
    rows = pictures(cases, image_of, reference_of, predictions, twin_predictions)
    write_atomically(path, cases_png(title, rows, twin_name or ""))


def pictures(
    cases: Mapping[str, Sequence[Case]],
    image_of: Callable[[str], NDArray[np.uint8]],
    reference_of: Callable[[str], NDArray[np.bool_]],
    predictions: Masks,
    twin_predictions: Masks | None,
) -> dict[str, list[Picture]]:
    """Return cases with their pixels, by heading; the rest as `draw_cases`."""
    rows = {}
    for kind, row in cases.items():
        predicted = {_PREDICTION: predictions}
        if kind == MOST_CHANGED and twin_predictions is not None:
            predicted[_TWIN] = twin_predictions
        if row:
            rows[_HEADINGS[kind]] = [_picture(case, image_of, reference_of, predicted) for case in row]
    return rows


def _picture(
    case: Case,
    image_of: Callable[[str], NDArray[np.uint8]],
    reference_of: Callable[[str], NDArray[np.bool_]],
    predicted: Mapping[str, Masks],
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
    return Picture(
        reduced(image), masks[_REFERENCE], masks[_PREDICTION], masks.get(_TWIN), case.id, _caption(case, masks)
    )


def _caption(case: Case, masks: Masks) -> list[str]:
    hd95 = "undefined" if np.isnan(case.hd95) else f"{case.hd95:.1f} px"
    lines = [f"Dice {100 * case.dice:.1f} %, HD95 {hd95}"]
    if case.twin_dice is not None:
        gain = f"{100 * (case.dice - case.twin_dice):+.1f}".replace("-", "\N{MINUS SIGN}")
        lines.append(f"twin: Dice {100 * case.twin_dice:.1f} % (this run {gain})")
    empty = {_REFERENCE: "no lesion", _PREDICTION: "nothing predicted", _TWIN: "twin: nothing predicted"}
    return lines + [words for name, words in empty.items() if name in masks and not masks[name].any()]


def _size(pixels: NDArray[Any]) -> str:
    return " x ".join(map(str, pixels.shape[1::-1]))
