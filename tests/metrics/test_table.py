"""What follows from the table of metrics."""

import numpy as np
import pytest

from qgbench.base.errors import UserError
from qgbench.metrics.table import DISTANCE_COLUMNS, IMAGE_COLUMNS, METRICS, Metric, filled, require_further


def test_every_metric_but_the_percentages_of_others_has_a_column() -> None:
    assert set(METRICS) - set(IMAGE_COLUMNS) == {"hd95_percent"}
    assert set(DISTANCE_COLUMNS) == {name for name, metric in METRICS.items() if metric.unit == "px"}


def test_what_averages_are_taken_of_follows_the_table() -> None:
    depth = Metric(name="depth", label="Depth", highest=None, both_empty=0, one_empty=None)
    share = Metric(name="share", label="Share", highest=100, both_empty=0, one_empty=100, percent_of="depth")
    score = Metric(name="score", label="Score")
    columns = {
        "height": np.array([30.0, 60.0, 30.0]),
        "width": np.array([40.0, 80.0, 40.0]),  # diagonals of 50, 100, 50
        "depth": np.array([5.0, np.nan, 0.0]),
        "score": np.array([0.5, 0.0, np.nan]),
    }
    found = filled(columns, [depth, share, score])
    np.testing.assert_array_equal(found["depth"], [5, 100, 0])
    np.testing.assert_array_equal(found["share"], [10, 100, 0])
    np.testing.assert_array_equal(found["score"], [0.5, 0, np.nan])  # a score that is unknown stays so


@pytest.mark.parametrize(("unit", "said"), [("%", "points"), ("px", "px")])
def test_differences_of_percentages_are_in_points(unit: str, said: str) -> None:
    assert Metric(name="m", label="M", unit=unit).difference_unit == said


def test_a_metric_of_ones_own_is_not_labelled_as_one_that_ships() -> None:
    own = Metric(name="overlap", label="Dice", measure=lambda pred, ref, spacing: 1.0)
    with pytest.raises(UserError, match=r"the metric 'overlap' has the label of 'dice', 'Dice'; give it another"):
        require_further(own)
    require_further(own.model_copy(update={"label": "Overlap"}))
