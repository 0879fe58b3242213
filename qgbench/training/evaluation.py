"""Evaluation of a finished run on the test images, which nothing that trains can import.

The test split is read once, at the end, for all networks of the run together; of volumes one after the other is held.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import nn

from qgbench.base.progress import track
from qgbench.data.cache import Prepared
from qgbench.data.experiment import ImageSet
from qgbench.data.packed_masks import PackedMasks
from qgbench.data.units import Unit, units_of
from qgbench.methods import Network
from qgbench.metrics.masks import measure
from qgbench.metrics.table import VOLUME_COLUMNS, Metric, image_columns
from qgbench.spec.task import Task
from qgbench.training.prediction import BATCH, Predicted, mask_at, predict, scores_of


def evaluate(
    networks: Mapping[str, Network],
    predictor: nn.Module | None,
    prepared: Prepared,
    split: pd.DataFrame,
    accelerator: Accelerator,
    metrics: Sequence[Metric] = (),
) -> tuple[dict[str, pd.DataFrame], Mapping[str, NDArray[Any]]]:
    """Measure networks on the test images at the images' original resolution, in each class by itself.

    Probabilities are resized bilinearly, then cut at 0.5; of several classes the likeliest is predicted. Slices of a
    volume are put together and measured in 3D with its spacing; q is the mean over them, and confidence that over the
    whole volume's foreground.

    Parameters
    ----------
    networks : mapping of str to Network
    predictor : nn.Module or None
        g, for the column q.
    prepared : Prepared
        The data set, with masks at original size.
    split : DataFrame
        Columns id, group, split.
    accelerator : Accelerator
    metrics : sequence of Metric
        Those to be measured beside those that ship.

    Returns
    -------
    tables : dict of str to DataFrame
        For each network one row per test image or volume and class, columns `qgbench.metrics.table.image_columns`,
        then those of `metrics`; sorted by id, and then in the order of the classes.
    masks : mapping of str to (H, W) or (D, H, W) array
        What the network 'student' predicted, by id of image or volume, at original resolution: bool, or a label map
        of several classes.
    """
    task, row_of = Task(prepared.classes), {name: row for row, name in enumerate(prepared.ids)}
    volumes = dict(zip(prepared.ids, prepared.volumes or [], strict=bool(prepared.volumes)))
    units = units_of(split.loc[split["split"] == "test", "id"], volumes)
    rows = [np.array([row_of[name] for name in unit.images]) for unit in units]
    images = ImageSet([(prepared, np.concatenate(rows))])
    predictions = _predictions(networks, predictor, images, accelerator)
    results: dict[str, list[dict[str, object]]] = {name: [] for name in networks}
    masks = PackedMasks()
    noun = "volumes" if volumes else "images"
    for unit, own_rows in zip(track(units, "evaluation", len(units), noun), rows, strict=True):
        slices = [next(predictions) for _ in own_rows]
        group, size = prepared.groups[own_rows[0]], tuple(prepared.sizes[own_rows[0]].tolist())
        reference = unit.whole([prepared.original_mask(row) for row in own_rows])
        for name in networks:
            found = [of_slice[name] for of_slice in slices]
            mask = unit.whole([mask_at(task, one.prob, size) for one in found])
            if name == "student":
                masks.add(unit.id, mask)
            scores = scores_of(found)
            known = {"id": unit.id, "group": group, **_sides(unit, mask.shape)}
            for k, one_class in enumerate(task.classes):
                pred, ref = (whole if task.channels == 1 else whole == k + 1 for whole in (mask, reference))
                results[name].append(
                    {
                        **known,
                        "class": one_class,
                        **vars(measure(pred, ref, unit.spacing)),
                        **{score: float(values[k]) for score, values in scores.items()},
                        **{metric.name: metric.of(pred, ref, unit.spacing) for metric in metrics},
                    }
                )
    columns = [*image_columns(bool(volumes)), *(metric.name for metric in metrics)]
    return {name: pd.DataFrame(found)[columns] for name, found in results.items()}, masks


def _sides(unit: Unit, shape: tuple[int, ...]) -> dict[str, float]:
    """Return the columns that say how large a unit is."""
    sides: dict[str, float] = dict(zip(("height", "width"), shape[-2:], strict=True))
    return {**sides, **dict(zip(VOLUME_COLUMNS, (shape[0], *unit.spacing), strict=True))} if unit.is_volume else sides


def _predictions(
    networks: Mapping[str, Network],
    predictor: nn.Module | None,
    images: ImageSet,
    accelerator: Accelerator,
) -> Iterator[dict[str, Predicted]]:
    """Yield what each network gives for every image in turn; images are predicted in batches."""
    for begin in range(0, len(images), BATCH):
        image = images.images(np.arange(begin, min(begin + BATCH, len(images)))).to(accelerator.device)
        outputs = [predict(network, predictor, image, accelerator.autocast) for network in networks.values()]
        for of_image in zip(*outputs, strict=True):
            yield dict(zip(networks, of_image, strict=True))
