"""The per-image table of a run as HTML, made from its CSV. Without Jinja: a report may hold a million of its rows."""

import csv
from collections.abc import Iterable

from markupsafe import Markup, escape

from qgbench.base.errors import QGBenchError
from qgbench.report.collect import Run
from qgbench.report.page.names import visible
from qgbench.report.page.words import MISSING
from qgbench.run.record import images_path

_COLUMNS = {  # name in the CSV -> heading, scale, digits; text where there are no digits
    "id": ("Image", 1.0, None),
    "group": ("Group", 1.0, None),
    "height": ("Height", 1.0, 0),
    "width": ("Width", 1.0, 0),
    "n_ref": ("Reference px", 1.0, 0),
    "n_pred": ("Predicted px", 1.0, 0),
    "n_tp": ("Both px", 1.0, 0),
    "dice": ("Dice %", 100.0, 1),
    "jaccard": ("Jaccard %", 100.0, 1),
    "precision": ("Precision %", 100.0, 1),
    "recall": ("Recall %", 100.0, 1),
    "hd95": ("HD95 px", 1.0, 1),
    "hd95_max": ("HD95 max px", 1.0, 1),
    "assd": ("ASSD px", 1.0, 1),
    "nsd_2px": ("NSD 2 px %", 100.0, 1),
    "nsd_2pct": ("NSD 2 % %", 100.0, 1),
    "status": ("Status", 1.0, None),
    "q": ("q", 1.0, 3),
    "confidence": ("Confidence", 1.0, 3),
}


def images_head() -> list[tuple[str, bool]]:
    """Return the headings, and whether a column holds numbers."""
    return [(heading, digits is not None) for heading, _, digits in _COLUMNS.values()]


def images_body(run: Run) -> Markup:
    """Return a run's test images as rows, sorted by id; end tags of cells and rows are left out, as HTML allows.

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
        if list(columns["id"]) != run.units.ids:
            raise ValueError("it has other images")
        shown = [_column(columns[name], scale, digits) for name, (_, scale, digits) in _COLUMNS.items()]
    except (OSError, ValueError, KeyError, IndexError, csv.Error) as error:
        raise QGBenchError(f"{path} was changed while the page was written: {error}") from error
    return Markup("\n".join(f'<tr><th scope="row">{"<td>".join(row)}' for row in zip(*shown, strict=True)))


def _column(texts: Iterable[str], scale: float, digits: int | None) -> list[str]:
    if digits is None:
        return [str(escape(visible(text))) for text in texts]
    return [f"{scale * float(text):.{digits}f}" if text else MISSING for text in texts]
