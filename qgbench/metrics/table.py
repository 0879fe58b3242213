"""The metrics of a segmentation: one table that drives columns, averages, verification, report and page. No torch.

A metric of one's own is a `Metric` with `measure`, in a plug-in; runs that are told to, or a package that brings it as
an entry point of ``qgbench.metrics``, measure it beside those that ship.
"""

from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationInfo, field_validator

from qgbench.base.errors import QGBenchError, UserError, unknown_name
from qgbench.base.schema import Part
from qgbench.plugins.hooks import call, told

Measure = Callable[[NDArray[np.bool_], NDArray[np.bool_], tuple[float, ...]], float]
"""Of a predicted and a reference mask, neither of them empty, and the sides of a pixel: (H, W) masks of an image with
height and width; (D, H, W) masks of a volume with depth, height and width, in the unit of the record's distances."""


class Metric(Part):
    """One metric of a predicted mask against its reference; its smallest value is 0."""

    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", description="of its column in images.csv")
    label: str = Field(description="for people")
    unit: str = Field("%", description="of `scale` times the value: '%' or 'px'")
    scale: float = Field(100.0, description="what turns a value into the unit")
    higher_is_better: bool = True
    highest: float | None = Field(1.0, description="largest value possible; None where there is none")
    both_empty: float = Field(1.0, description="value where prediction and reference are empty")
    one_empty: float | None = Field(
        0.0, description="value where one of them is; None: empty in the column, and in averages the image's diagonal"
    )
    percent_of: str = Field(
        "", description="the distance that this one is in per cent of the image's diagonal; it has no column of its own"
    )
    measure: Measure | None = Field(
        None, exclude=True, description="of a plug-in; those that ship are measured together, by `metrics.masks`"
    )
    source: str = Field("", description="SHA-256 of the file of a plug-in; '' for those that ship")

    @field_validator("both_empty", "one_empty")
    @classmethod
    def _in_range(cls, value: float | None, info: ValidationInfo) -> float | None:
        highest = info.data.get("highest")
        if value is not None and not 0 <= value <= (np.inf if highest is None else highest):
            raise ValueError(f"{value} is not from 0 to {highest}, the largest value possible")
        return value

    @field_validator("measure")
    @classmethod
    def _is_not_derived(cls, measure: Measure | None, info: ValidationInfo) -> Measure | None:
        if measure is not None and info.data.get("percent_of"):
            raise ValueError("a metric that is another one in per cent (percent_of) is not measured itself")
        return measure

    @property
    def difference_unit(self) -> str:
        """Unit of a difference."""
        return "points" if self.unit == "%" else self.unit

    def of(self, pred: NDArray[np.bool_], ref: NDArray[np.bool_], spacing: tuple[float, ...] = (1.0, 1.0)) -> float:
        """Return the value for a predicted and a reference mask, of a metric that has a `measure`.

        Parameters
        ----------
        pred, ref : (H, W) or (D, H, W) bool
        spacing : tuple of float
            Sides of a pixel or voxel, in the order of the masks' dimensions.

        Raises
        ------
        QGBenchError
            What it gives is no number, or outside its range; its code fails.
        """
        assert self.measure is not None
        if not (pred.any() and ref.any()):
            both = pred.any() == ref.any()
            one_empty = np.nan if self.one_empty is None else self.one_empty
            return self.both_empty if both else one_empty
        given = call(f"the metric '{self.name}'", self.measure, pred, ref, spacing)
        if not isinstance(given, Real):
            raise QGBenchError(f"the metric '{self.name}' gives {told(given)}; expected a number.")
        if not 0 <= (value := float(given)) <= (np.inf if self.highest is None else self.highest):
            raise QGBenchError(f"the metric '{self.name}' gives {value}, which is not from 0 to {self.highest}.")
        return value

    @property
    def sign(self) -> int:
        """What turns a difference into a gain: 1, or -1 where lower is better."""
        return 1 if self.higher_is_better else -1

    @property
    def is_distance(self) -> bool:
        """Whether it has no value of its own where one mask is empty."""
        return self.one_empty is None


def _distance(name: str, label: str) -> Metric:
    return Metric(
        name=name,
        label=label,
        unit="px",
        scale=1.0,
        higher_is_better=False,
        highest=None,
        both_empty=0.0,
        one_empty=None,
    )


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric(name="dice", label="Dice"),
            Metric(name="jaccard", label="Jaccard"),
            Metric(name="precision", label="Precision"),
            Metric(name="recall", label="Recall"),
            Metric(name="nsd_2px", label="NSD at 2 px"),
            Metric(name="nsd_2pct", label="NSD at 2 % of the diagonal"),
            _distance("hd95", "HD95 (pooled)"),  # 95th percentile of both directed sets together, as medpy
            _distance("hd95_percent", "HD95 of the diagonal").model_copy(
                update={"unit": "%", "highest": 100.0, "one_empty": 100.0, "percent_of": "hd95"}
            ),
            _distance("hd95_max", "HD95 (max)"),  # larger of the two directed sets' 95th percentiles, as MONAI
            _distance("assd", "ASSD"),
        )
    }
)


def metric_named(name: str, further: Mapping[str, Metric] = MappingProxyType({})) -> Metric:
    """Return a metric that ships, or one of `further`.

    Raises
    ------
    UserError
        There is none of that name.
    """
    known = {**METRICS, **further}
    if name not in known:
        raise unknown_name("metric", name, list(known))
    return known[name]


EMPTY_MASK_RULE = (
    "both empty: Dice 1, distances 0, NSD 1; one empty: Dice 0, NSD 0, distances = the image diagonal in every average"
)

MISSED = Metric(name="missed_share", label="Missed", higher_is_better=False, both_empty=0.0, one_empty=1.0)
"""1 where there is something and nothing was predicted, else 0: of reports, no column of images.csv."""
ONE_EMPTY = Metric(name="one_empty_share", label="One empty", higher_is_better=False, both_empty=0.0, one_empty=1.0)
"""1 where one of the two masks is empty, so that a distance is the diagonal: missed, or predicted where nothing is."""
CLASS = "lesion"
"""The one class of a data set that names none."""
DistanceUnit = Literal["px", "mm", "voxel"]
"""Of distances in a record: of pictures pixels; of volumes mm, and voxels where their spacing is not known."""
TEXT_COLUMNS = ["id", "class", "group", "status"]
COUNT_COLUMNS = ["height", "width", "n_ref", "n_pred", "n_tp"]
METRIC_COLUMNS = [metric.name for metric in METRICS.values() if not metric.percent_of]
DISTANCE_COLUMNS = [metric.name for metric in METRICS.values() if metric.is_distance]
IMAGE_COLUMNS = [
    "id",  # the unit's name in its data set: of an image, or of a volume
    "class",  # what is segmented; one row per unit and class
    "group",  # patient, lesion or video; the id itself where none is known
    *COUNT_COLUMNS,  # pixels or voxels: sides at original resolution; foreground of reference, of prediction, of both
    *METRIC_COLUMNS,
    "status",  # ok | missed | spurious | both_empty
    "q",  # the quality that g predicts for the prediction; empty where no g was trained
    "confidence",  # mean probability of the predicted foreground
]
VOLUME_COLUMNS = ["depth", "spacing_depth", "spacing_height", "spacing_width"]
"""Beside a unit's height and width where it is a volume: its slices, and a voxel's sides (1 where not known)."""


def image_columns(volumes: bool) -> list[str]:
    """Return the columns of images.csv: `IMAGE_COLUMNS`, of volumes with `VOLUME_COLUMNS` after the width."""
    place = IMAGE_COLUMNS.index("width") + 1
    return [*IMAGE_COLUMNS[:place], *(VOLUME_COLUMNS if volumes else []), *IMAGE_COLUMNS[place:]]


def are_volumes(columns: Iterable[str]) -> bool:
    """Return whether rows with these columns are of volumes."""
    return VOLUME_COLUMNS[-1] in columns


def require_further(metric: Metric, taken: Iterable[str] = ()) -> None:
    """Refuse what cannot be measured beside the metrics that ship.

    Parameters
    ----------
    metric : Metric
    taken : iterable of str
        Names of further metrics.

    Raises
    ------
    UserError
        The metric ships, says no way to measure it, or has the name of a column or of another metric, or the label of
        one that ships.
    """
    if metric is METRICS.get(metric.name):
        raise UserError(f"the metric '{metric.name}' ships with qgbench and is measured already.")
    if metric.measure is None:
        raise UserError(f"the metric '{metric.name}' says no way to measure it: give it measure=.")
    if metric.name in (*image_columns(True), *METRICS, *taken):
        raise UserError(f"the metric '{metric.name}' is called as another column is; rename it.")
    require_own_label(metric)


def require_of_volumes(metric: Metric) -> None:
    """Refuse a metric that cannot be measured on a small volume with unequal spacing.

    Raises
    ------
    UserError
        What it raises, or is wrong with what it gives.
    """
    pred, ref = np.zeros((2, 3, 6, 6), bool)
    pred[:2, 1:4, 1:4], ref[1:, 2:5, 2:5] = True, True
    try:
        metric.of(pred, ref, UNEQUAL_SPACING)
    except QGBenchError as error:
        raise UserError(f"the metric '{metric.name}' cannot be measured on volumes: {error}") from error


UNEQUAL_SPACING = (5.0, 1.0, 1.5)
"""Of the volumes that a metric is tried on."""


def require_own_label(metric: Metric) -> None:
    """Refuse a metric that people would take for one that ships.

    Raises
    ------
    UserError
        Names the one whose label it has.
    """
    if same := next((known.name for known in METRICS.values() if known.label == metric.label), None):
        raise UserError(f"the metric '{metric.name}' has the label of '{same}', '{metric.label}'; give it another.")


def filled(columns: Mapping[str, NDArray[np.float64]], metrics: Iterable[Metric]) -> dict[str, NDArray[np.float64]]:
    """Return the values that averages are taken of: what is empty in a distance's column is the unit's diagonal.

    Parameters
    ----------
    columns : mapping of str to (N,) float
        Sides of the units and metrics, by the names of `image_columns`.
    metrics : iterable of Metric

    Returns
    -------
    dict of str to (N,) float
        By the names of `metrics`.
    """
    diagonal = diagonals(columns)
    found: dict[str, NDArray[np.float64]] = {}
    for metric in metrics:
        value = columns[metric.percent_of or metric.name]
        if metric.is_distance or metric.percent_of:
            value = np.where(np.isnan(value), diagonal, value)
        found[metric.name] = 100 * value / diagonal if metric.percent_of else value
    return found


def diagonals(columns: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the diagonal of every unit in the units of its distances: (N,).

    Parameters
    ----------
    columns : mapping of str to (N,) float
        Sides by the names of `image_columns`; further ones are left alone.
    """
    if not are_volumes(columns):
        return np.hypot(columns["height"], columns["width"])
    sides = [columns[side] * columns[f"spacing_{side}"] for side in ("depth", "height", "width")]
    return np.sqrt(np.square(sides).sum(axis=0))
