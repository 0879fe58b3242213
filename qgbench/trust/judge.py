"""Measure kept predictions anew with medpy, a library that shares no code with `qgbench.metrics.masks`.

medpy is under the GPL: it is imported here, when a judge is made, and nowhere else in the package.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from qgbench.base.errors import QGBenchError, UserError
from qgbench.data.readers import Source, name_some, open_source
from qgbench.run.predictions import read_predictions

_PIXELS = 1e-6
_DICE = 1e-9


class Judge:
    """Compares the rows of a record with what medpy measures on its predictions and the reference masks."""

    def __init__(self) -> None:
        from medpy.metric import binary

        self._binary = binary
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
            Columns `qgbench.metrics.table.IMAGE_COLUMNS`.

        Yields
        ------
        str
            What differs: counts at all, Dice by more than 1e-9, HD95 (pooled) or ASSD by more than 1e-6 pixels.

        Raises
        ------
        UserError
            The data set is not here, lacks an image, or has a damaged file.
        """
        if dataset not in self._sources:
            self._sources[dataset] = open_source(dataset)
        source = self._sources[dataset]
        ids = set(images["id"])
        if missing := sorted(ids - set(source.ids)):
            raise UserError(f"'{dataset}' here lacks {name_some(missing, 'image')}")
        try:
            masks = read_predictions(predictions)
        except QGBenchError as error:
            yield str(error)
            return
        if differing := sorted(ids ^ set(masks)):
            yield f"rows and predictions are not of the same images: {name_some(differing, 'image')}"
            return
        for row in images.to_dict("records"):
            pred, ref = masks[row["id"]], source.mask(row["id"])
            if not pred.shape == ref.shape == (row["height"], row["width"]):
                sizes = f"{pred.shape} predicted, {ref.shape} reference"
                yield f"{row['id']} is {row['height']} x {row['width']} pixels; measured: {sizes}"
                continue
            for name, value, slack in self._measured(pred, ref):
                if not abs(row[name] - value) <= slack:
                    yield f"{row['id']}: {name} is {row[name]:.9g}; measured: {value:.9g}"

    def _measured(self, pred: np.ndarray, ref: np.ndarray) -> Iterator[tuple[str, Any, float]]:
        """Yield name, value and the difference that is allowed; distances only where both masks have foreground."""
        yield "n_ref", np.count_nonzero(ref), 0
        yield "n_pred", np.count_nonzero(pred), 0
        yield "n_tp", np.count_nonzero(pred & ref), 0
        yield "dice", self._binary.dc(pred, ref), _DICE
        if pred.any() and ref.any():
            yield "hd95", self._binary.hd95(pred, ref), _PIXELS
            yield "assd", self._binary.assd(pred, ref), _PIXELS
