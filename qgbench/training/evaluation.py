"""Evaluation of a finished run on the test images, which nothing that trains can import.

The test split is read once, at the end, for all networks of the run together.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import nn

from qgbench.base.progress import track
from qgbench.data.cache import Prepared
from qgbench.data.experiment import ImageSet
from qgbench.data.packed_masks import PackedMasks
from qgbench.methods import Network, probabilities
from qgbench.metrics.masks import measure
from qgbench.metrics.table import CLASS, IMAGE_COLUMNS, Metric
from qgbench.quality.scores import Labelling, foreground_confidence

_BATCH = 32


def evaluate(
    networks: Mapping[str, Network],
    predictor: nn.Module | None,
    prepared: Prepared,
    split: pd.DataFrame,
    accelerator: Accelerator,
    metrics: Sequence[Metric] = (),
) -> tuple[dict[str, pd.DataFrame], Mapping[str, NDArray[np.bool_]]]:
    """Measure networks on the test images at the images' original resolution.

    Probabilities are resized bilinearly, then cut at 0.5.

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
        For each network one row per test image, columns `qgbench.metrics.table.IMAGE_COLUMNS`, then those of
        `metrics`.
    masks : mapping of str to (H, W) bool
        What the network 'student' predicted, by image id, at original resolution.
    """
    row_of = {name: row for row, name in enumerate(prepared.ids)}
    rows = np.array([row_of[name] for name in sorted(split.loc[split["split"] == "test", "id"])])
    images = ImageSet([(prepared, rows)])
    results: dict[str, list[dict[str, object]]] = {name: [] for name in networks}
    masks = PackedMasks()
    for place in track(range(len(rows)), "evaluation", len(rows), "images"):
        if place % _BATCH == 0:
            block = np.arange(place, min(place + _BATCH, len(rows)))
            outputs = {name: _predict(net, predictor, images, block, accelerator) for name, net in networks.items()}
        row = int(rows[place])
        height, width = (int(side) for side in prepared.sizes[row])
        reference = prepared.original_mask(row)
        for name, (probs, quality, confidence) in outputs.items():
            prob = probs[place % _BATCH].unsqueeze(0)
            resized = F.interpolate(prob, (height, width), mode="bilinear", align_corners=False)[0, 0]
            mask = resized.numpy() > 0.5
            if name == "student":
                masks.add(prepared.ids[row], mask)
            measured = measure(mask, reference)
            known = {
                "id": prepared.ids[row],
                "class": CLASS,
                "group": prepared.groups[row],
                "height": height,
                "width": width,
            }
            scores = {"q": quality[place % _BATCH], "confidence": confidence[place % _BATCH]}
            further = {metric.name: metric.of(mask, reference) for metric in metrics}
            results[name].append({**known, **vars(measured), **scores, **further})
    columns = [*IMAGE_COLUMNS, *(metric.name for metric in metrics)]
    return {name: pd.DataFrame(found)[columns] for name, found in results.items()}, masks


def _predict(
    network: Network, predictor: nn.Module | None, images: ImageSet, block: np.ndarray, accelerator: Accelerator
) -> tuple[torch.Tensor, list[float], list[float]]:
    image = images.images(block).to(accelerator.device)
    with accelerator.autocast(), torch.no_grad():
        prob = probabilities(network, image)
        quality = (
            predictor(image, (prob > 0.5).float()).tolist() if predictor is not None else [float("nan")] * len(block)
        )
    confidence = foreground_confidence(Labelling(image, prob, network, None)).tolist()
    return prob.cpu(), quality, confidence
