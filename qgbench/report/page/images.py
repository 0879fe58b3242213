"""The per-image table of a run as HTML, made from its CSV. Without Jinja: a report may hold a million of its rows."""

import csv
from collections.abc import Iterable

from markupsafe import Markup, escape

from qgbench.base.errors import QGBenchError
from qgbench.metrics.table import METRICS
from qgbench.report.collect import Run, in_unit_of
from qgbench.report.page.names import visible
from qgbench.report.page.words import MISSING
from qgbench.run.record import images_path

_Column = tuple[str, float, int | None]  # heading, scale, digits; text where there are no digits


def _columns(run: Run) -> dict[str, _Column]:
    """Return the columns that are shown, by their names in the CSV."""
    record = run.record
    unit = in_unit_of(METRICS["hd95"], [run]).unit
    point = "voxels" if record.of_volumes else "px"
    class_column: dict[str, _Column] = {"class": ("Class", 1.0, None)} if len(record.classes) > 1 else {}
    volume_columns: dict[str, _Column] = {"depth": ("Depth", 1.0, 0)} if record.of_volumes else {}
    return {
        "id": (record.noun.capitalize(), 1.0, None),
        **class_column,
        "group": ("Group", 1.0, None),
        **volume_columns,
        "height": ("Height", 1.0, 0),
        "width": ("Width", 1.0, 0),
        "n_ref": (f"Reference {point}", 1.0, 0),
        "n_pred": (f"Predicted {point}", 1.0, 0),
        "n_tp": (f"Both {point}", 1.0, 0),
        "dice": ("Dice %", 100.0, 1),
        "jaccard": ("Jaccard %", 100.0, 1),
        "precision": ("Precision %", 100.0, 1),
        "recall": ("Recall %", 100.0, 1),
        "hd95": (f"HD95 {unit}", 1.0, 1),
        "hd95_max": (f"HD95 max {unit}", 1.0, 1),
        "assd": (f"ASSD {unit}", 1.0, 1),
        "nsd_2px": (f"NSD 2 {point} %", 100.0, 1),
        "nsd_2pct": ("NSD 2 % %", 100.0, 1),
        "status": ("Status", 1.0, None),
        "q": ("q", 1.0, 3),
        "confidence": ("Confidence", 1.0, 3),
    }


def images_head(run: Run) -> list[tuple[str, bool]]:
    """Return the headings, and whether a column holds numbers."""
    return [(heading, digits is not None) for heading, _, digits in _columns(run).values()]


def images_body(run: Run) -> Markup:
    """Return a run's test images or volumes as rows by id and class, without end tags, which HTML allows.

    Raises
    ------
    QGBenchError
        The CSV was changed since it was checked.
    """
    path = images_path(run.path)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            heading, *rows = csv.reader(file)
        place = heading.index("id")
        columns = dict(zip(heading, zip(*sorted(rows, key=lambda row: row[place]), strict=True), strict=True))
        if list(columns["id"]) != [id for id in run.units.ids for _ in run.record.classes]:
            raise ValueError("it has other images")
        shown = [_column(columns[name], scale, digits) for name, (_, scale, digits) in _columns(run).items()]
    except (OSError, ValueError, KeyError, IndexError, csv.Error) as error:
        raise QGBenchError(f"{path} was changed while the page was written: {error}") from error
    return Markup("\n".join(f'<tr><th scope="row">{"<td>".join(row)}' for row in zip(*shown, strict=True)))


def _column(texts: Iterable[str], scale: float, digits: int | None) -> list[str]:
    if digits is None:
        return [str(escape(visible(text))) for text in texts]
    form = f"%.{digits}f"  # made once: a third of the time
    return [form % (scale * float(text)) if text else MISSING for text in texts]
