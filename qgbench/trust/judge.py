"""Measure kept predictions anew: with `qgbench.metrics.masks`, or with medpy, a library that shares no code with it.

medpy is under the GPL: it is imported here, when a judge is made that uses it, and nowhere else in the package.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qgbench.base.errors import QGBenchError, UserError
from qgbench.data.readers import Source, name_some, open_source
from qgbench.data.units import units_of
from qgbench.metrics.masks import measure
from qgbench.metrics.table import COUNT_COLUMNS, DISTANCE_COLUMNS, METRIC_COLUMNS, VOLUME_COLUMNS
from qgbench.run.predictions import read_predictions

_PIXELS = 1e-6
_OVERLAP = 1e-9
_OF_BORDERS = (*DISTANCE_COLUMNS, "nsd_2px", "nsd_2pct")
_SPACING = 1e-6  # as a share

Number = tuple[str, Any, float]
"""Name, value and the difference that is allowed."""
Measured = Callable[[NDArray[np.bool_], NDArray[np.bool_], tuple[float, ...]], Iterator[Number]]


class Judge:
    """Compares the rows of a record with what is measured on its predictions and the reference masks.

    Parameters
    ----------
    medpy : bool
        Measure with medpy, and not with `qgbench.metrics.masks`.
    """

    def __init__(self, medpy: bool) -> None:
        self._measured = _by_medpy() if medpy else _by_qgbench
        self._sources: dict[str, Source] = {}

    def compare(self, predictions: Path, dataset: str, images: pd.DataFrame) -> Iterator[str]:
        """Yield the numbers of a record's images that the judge measures otherwise.

        Parameters
        ----------
        predictions : Path
            The run's ``predictions.npz``.
        dataset : str
            As in `qgbench.data.readers.open_source`: it has the reference masks.
        images : DataFrame
            Columns `qgbench.metrics.table.image_columns`.

        Yields
        ------
        str
            What differs: counts at all, overlap by more than 1e-9, distances and NSD by more than 1e-6 (pixels, or in
            volumes mm or voxels). medpy measures no other overlap than Dice, no HD95 (max) and no NSD.

        Raises
        ------
        UserError
            The data set is not here, lacks an image, or has a damaged file.
        """
        if dataset not in self._sources:
            self._sources[dataset] = open_source(dataset)
        source = self._sources[dataset]
        noun = "volume" if source.volumes else "image"
        ids, units = set(images["id"]), {unit.id: unit for unit in units_of(source.ids, source.volumes)}
        if missing := sorted(ids - set(units)):
            raise UserError(f"'{dataset}' here lacks {name_some(missing, noun)}")
        if differing := sorted(set(images["class"]) ^ set(source.classes)):
            yield f"rows and the data set are not of the same classes: {', '.join(differing)}"
            return
        try:
            masks = read_predictions(predictions)
        except QGBenchError as error:
            yield str(error)
            return
        if differing := sorted(ids ^ set(masks)):
            yield f"rows and predictions are not of the same {noun}s: {name_some(differing, noun)}"
            return
        several = len(source.classes) > 1
        for id, rows in images.groupby("id", sort=False):
            unit, pred = units[str(id)], masks[str(id)]
            ref = unit.whole([source.mask(image) for image in unit.images])
            sides = [*(["depth"] if unit.is_volume else []), "height", "width"]
            expected = tuple(rows.iloc[0][side] if side in rows else 1 for side in sides)
            if not pred.shape == ref.shape == expected:
                sizes = f"{pred.shape} predicted, {ref.shape} reference"
                words = "voxels" if unit.is_volume else "pixels"
                yield f"{id} is {' x '.join(map(str, expected))} {words}; measured: {sizes}"
                continue
            for row in rows.to_dict("records"):
                where = f"{id}, {row['class']}" if several else f"{id}"
                label = source.classes.index(row["class"]) + 1
                own_pred, own_ref = (pred == label, ref == label) if several else (pred, ref)
                spacing = dict(zip(VOLUME_COLUMNS[1:], unit.spacing, strict=True)) if unit.is_volume else {}
                of_voxel = [(name, side, _SPACING * side) for name, side in spacing.items()]
                for name, value, slack in (*of_voxel, *self._measured(own_pred, own_ref, unit.spacing)):
                    if not abs(row.get(name, np.nan) - value) <= slack:
                        yield f"{where}: {name} is {row.get(name, np.nan):.9g}; measured: {value:.9g}"


def _by_medpy() -> Measured:
    from medpy.metric import binary

    def measured(pred: NDArray[np.bool_], ref: NDArray[np.bool_], spacing: tuple[float, ...]) -> Iterator[Number]:
        """Yield what medpy has a number for: of empty masks, only counts and, unless both are empty, Dice."""
        yield "n_ref", np.count_nonzero(ref), 0
        yield "n_pred", np.count_nonzero(pred), 0
        yield "n_tp", np.count_nonzero(pred & ref), 0
        if pred.any() or ref.any():
            yield "dice", binary.dc(pred, ref), _OVERLAP
        if pred.any() and ref.any():
            yield "hd95", binary.hd95(pred, ref, spacing), _PIXELS
            yield "assd", binary.assd(pred, ref, spacing), _PIXELS

    return measured


def _by_qgbench(pred: NDArray[np.bool_], ref: NDArray[np.bool_], spacing: tuple[float, ...]) -> Iterator[Number]:
    found = measure(pred, ref, spacing)
    for name in METRIC_COLUMNS + [name for name in COUNT_COLUMNS if name.startswith("n_")]:
        if not np.isnan(value := getattr(found, name)):  # distances where one mask is empty
            yield name, value, 0 if name in COUNT_COLUMNS else _PIXELS if name in _OF_BORDERS else _OVERLAP
