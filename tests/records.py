"""Records for tests: what a run's cell, written as tables write it, says of its spec; rows of classes and volumes."""

import math
import tomllib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from qgbench.metrics.table import VOLUME_COLUMNS, image_columns
from qgbench.run.record import settings_as_used
from qgbench.spec.arm import AddOnName
from qgbench.spec.protocol import load_protocol
from qgbench.spec.run_spec import RunSpec
from qgbench.spec.settings import Settings

_MODES = {"": "none", "qw": "qw", "qar": "qar", "qw+qar": "both"}


def spec_of(addon: str = "", variant: str = "", **fields: Any) -> RunSpec:
    """The spec of a run by its cell and seed: ``spec_of("qw-oracle", "method.threshold=0.9", method="fixmatch")``."""
    parsed = AddOnName.parse(addon)
    pairs = [*filter(None, variant.split(",")), *filter(None, parsed.settings.split("-"))]
    overrides = {key: _value(text) for key, _, text in (pair.partition("=") for pair in pairs)}
    quality = {"qg_mode": _MODES.get(parsed.mode, parsed.mode), "qg_score": parsed.score, "qg_norm": parsed.norm}
    defaults: dict[str, Any] = {
        "protocol": "small",
        "protocol_version": 1,
        "dataset": "phantom",
        "regime": "n28@grouped",
        "arch": "unet",
        "encoder": "tf_efficientnet_lite0",
        "method": "mean_teacher",
        "seed": 0,
        "precision": "fp32",
        "device": "cpu",
        "threads": 2,
    }
    return RunSpec.model_validate(defaults | quality | fields | {"overrides": overrides})


def settings_of(spec: RunSpec, steps: int = 10) -> dict[str, Any]:
    """The settings of a record of few steps."""
    settings = settings_as_used(load_protocol(spec.protocol), Settings())
    settings["protocol"]["train"]["steps"] = steps
    return settings


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text


VOLUME = (10.0, 5.0, 1.25, 1.5)
"""Slices, and the sides of a voxel, of the volumes of `rows_of`."""


def rows_of(
    dice: np.ndarray, classes: Sequence[str], volumes: bool = False, missed: Sequence[tuple[int, int]] = ()
) -> pd.DataFrame:
    """Two units a group, 0.01 above and below the group's Dice, and a row for each class.

    Parameters
    ----------
    dice : (G, K) float
        By group and class.
    classes : sequence of str
    volumes : bool
        Of 10 slices, and voxels of 5 x 1.25 x 1.5.
    missed : sequence of (int, int)
        Places of units and classes of which nothing was predicted.
    """
    rows: list[dict[str, Any]] = []
    for unit in range(2 * len(dice)):
        for place, name in enumerate(classes):
            value = float(dice[unit // 2, place]) + (0.01 if unit % 2 else -0.01)
            lost = (unit, place) in missed
            shares = dict.fromkeys(("dice", "jaccard", "precision", "recall", "nsd_2px", "nsd_2pct"), value)
            distances = dict.fromkeys(("hd95", "hd95_max", "assd"), 20 * (1 - value))
            rows.append(
                {
                    "id": f"{'volume' if volumes else 'image'}{unit:03}",
                    "class": name,
                    "group": f"g{unit // 2}",
                    "height": 30,
                    "width": 40,
                    **(dict(zip(VOLUME_COLUMNS, VOLUME, strict=True)) if volumes else {}),
                    "n_ref": 100 * (place + 1) + unit,
                    "n_pred": 0 if lost else 100,
                    "n_tp": 0 if lost else 50,
                    **(dict.fromkeys(shares, 0.0) if lost else shares),
                    **(dict.fromkeys(distances, math.nan) if lost else distances),
                    "status": "missed" if lost else "ok",
                    "q": 0.8,
                    "confidence": 0.9,
                }
            )
    return pd.DataFrame(rows)[image_columns(volumes)]


def labels_of(classes: Sequence[str], seed: int = 0, masks: int = 12) -> pd.DataFrame:
    """Audited pseudo-labels at four checkpoints; g knows the first class best and the last one not at all."""
    noise = np.random.default_rng(seed)
    rows = []
    for progress in (0.25, 0.5, 0.75, 1.0):
        for mask in range(masks):
            whole = noise.random()
            for place, name in enumerate(classes):
                dice = float(np.clip(whole + 0.2 * noise.standard_normal(), 0, 1))
                known = 1 - place / max(1, len(classes) - 1)
                g = float(np.clip(known * dice + (1 - known) * noise.random(), 0, 1))
                rows.append((progress, f"u{mask:02}", name, dice, 1, g, whole, 0.5 * whole + 0.2))
    columns = ["progress", "id", "class", "dice", "held", "g", "confidence", "agreement"]
    labels = pd.DataFrame(rows, columns=columns)
    return labels if len(classes) > 1 else labels.drop(columns="held")
