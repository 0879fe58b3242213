"""The measures that a report can be about: what they are called, their unit, which way is better."""

from dataclasses import dataclass

from qgbench.base.errors import unknown_name


@dataclass(frozen=True)
class Measure:
    """A column of the per-image tables.

    Attributes
    ----------
    name : str
        As in `qgbench.metrics.table.IMAGE_COLUMNS`, and ``hd95_percent``.
    label : str
        For people.
    unit : str
        Of `scale` times the value: '%' or 'px'. Differences of percentages are in points.
    scale : float
    higher_is_better : bool
    """

    name: str
    label: str
    unit: str
    scale: float
    higher_is_better: bool

    @property
    def sign(self) -> int:
        """1 where higher is better, -1 where lower is."""
        return 1 if self.higher_is_better else -1

    @property
    def difference_unit(self) -> str:
        """Unit of a difference."""
        return "points" if self.unit == "%" else self.unit


MEASURES = {
    measure.name: measure
    for measure in (
        Measure("dice", "Dice", "%", 100.0, True),
        Measure("jaccard", "Jaccard", "%", 100.0, True),
        Measure("precision", "Precision", "%", 100.0, True),
        Measure("recall", "Recall", "%", 100.0, True),
        Measure("nsd_2px", "NSD at 2 px", "%", 100.0, True),
        Measure("nsd_2pct", "NSD at 2 % of the diagonal", "%", 100.0, True),
        Measure("hd95", "HD95 (pooled)", "px", 1.0, False),
        Measure("hd95_percent", "HD95 of the diagonal", "%", 1.0, False),
        Measure("hd95_max", "HD95 (max)", "px", 1.0, False),
        Measure("assd", "ASSD", "px", 1.0, False),
    )
}


def measure(name: str) -> Measure:
    """Look a measure up.

    Raises
    ------
    UserError
        There is none of that name.
    """
    if name not in MEASURES:
        raise unknown_name("metric", name, list(MEASURES))
    return MEASURES[name]
