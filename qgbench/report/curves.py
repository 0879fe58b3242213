"""Training curves in a terminal, from the entries of log.jsonl. Imports no torch."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

_ROWS = 12  # of one chart, its axis included
_LEAST_WIDTH, _MOST_WIDTH = 30, 80
_MARKERS = "*o+x#%&@"  # where colours cannot tell the curves apart
_COLOURS = (6, 3, 5, 2, 1, 4, 7, 8)  # numbers of the terminal's own palette
_FRAME_IN_ASCII = str.maketrans("┌┐└┘┬┴├┤─│┼", "++++++||-|+")


@dataclass(frozen=True)
class Curve:
    """One quantity over the steps of a run: finite values only, by rising step."""

    name: str
    steps: list[float]
    values: list[float]
    right: bool
    """Drawn against the right-hand axis."""


class _Chart(NamedTuple):
    title: str
    left: dict[str, str]
    """Key in the log -> name in the chart. A key that ends in an underscore stands for all that begin with it."""
    right: dict[str, str]


_CHARTS = (
    _Chart(
        "losses",
        {"total": "total", "supervised": "supervised", "unlabelled_": "unlabelled ", "added": "added (QAR)"},
        {},
    ),
    _Chart("validation images", {"val_dice": "Dice", "val_q": "mean q of g"}, {}),
    _Chart(
        "pseudo-labels",
        {
            "mean_q": "mean q",
            "pseudo_dice": "true Dice",
            "kept_share": "kept share",
            "effective_sample_size": "effective sample size",
        },
        {},
    ),
    _Chart(
        "Pearson correlation with true Dice",
        {
            "pearson_q": "q, pseudo-labels",
            "pearson_confidence": "confidence, pseudo-labels",
            "val_pearson_q": "q, validation",
            "val_pearson_confidence": "confidence, validation",
        },
        {},
    ),
    _Chart(
        "learning rate (left axis) and loss weights (right axis)",
        {"lr": "learning rate"},
        {"lambda_u": "lambda_u", "lambda_qar": "lambda_qar"},
    ),
)


def print_curves(entries: list[dict[str, Any]], console: Console) -> None:
    """Draw what a run logged: losses, validation, pseudo-labels, correlations, learning rate and weights.

    Each chart has the steps below it, its range on the left and, under it, the last, least and largest value of every
    curve. Curves are told apart by colour, or by their marks where the console has no colours or no Unicode. What was
    not logged is not drawn.

    Parameters
    ----------
    entries : list of dict
        Entries of log.jsonl. Keys may be missing; values that are null, not numbers or not finite are passed over.
    console : Console
        Two charts stand side by side from 120 columns on.
    """
    charts = [(chart.title, curves_of(entries, chart.left, chart.right)) for chart in _CHARTS]
    charts = [(title, curves) for title, curves in charts if curves]
    if not charts:
        console.print("No curves: nothing was logged yet.")
        return
    columns = 2 if console.width >= 120 else 1
    width = min(_MOST_WIDTH, max(_LEAST_WIDTH, (console.width - 2 * (columns - 1)) // columns))
    steps = [step for _, curves in charts for curve in curves for step in curve.steps]
    drawn = [_draw(title, curves, min(steps), max(steps), width, console) for title, curves in charts]
    for start in range(0, len(drawn), columns):
        row = _grid(columns)
        row.add_row(*drawn[start : start + columns])
        console.print(row)


def curves_of(entries: list[dict[str, Any]], left: dict[str, str], right: dict[str, str]) -> list[Curve]:
    """Pick curves out of a log, in the order of the given keys; those without any finite value are left out.

    Parameters
    ----------
    entries : list of dict
        Entries of log.jsonl; those without a step are passed over.
    left, right : dict of str to str
        Key -> name of the curve, by axis. A key that ends in an underscore stands for every key that begins with it.
    """
    logged = sorted({key for entry in entries for key in entry})
    curves = []
    for names, is_right in ((left, False), (right, True)):
        for key, name in names.items():
            family = [found for found in logged if key.endswith("_") and found.startswith(key)]
            for found in family or [key]:
                pairs = sorted(
                    (entry["step"], entry[found])
                    for entry in entries
                    if _finite(entry.get("step")) and _finite(entry.get(found))
                )
                if pairs:
                    steps, values = (list(column) for column in zip(*pairs, strict=True))
                    curves.append(Curve(name + found[len(key) :], steps, values, is_right))
    return curves


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _draw(title: str, curves: list[Curve], first: float, last: float, width: int, console: Console) -> Group:
    import plotext  # takes 0.15 s, most of it for its documentation

    ascii_only = console.options.ascii_only
    coloured = console.color_system is not None and not console.no_color
    blocks = coloured and not ascii_only
    figure = plotext.figure
    figure.clear()
    figure.theme("colorless")
    figure.plot_size(width, _ROWS)
    figure.label("step")
    legend = _grid(5)
    for index, curve in enumerate(curves):
        colour = _COLOURS[index % len(_COLOURS)]
        mark = _MARKERS[index % len(_MARKERS)]
        marker = plotext.marker("hd" if blocks else mark, colour if coloured else None)
        signal = figure.signal(curve.steps, curve.values, marker=marker, yside="right" if curve.right else "left")
        figure.draw(signal.lines())
        legend.add_row(
            Text("█" if blocks else mark, style=f"color({colour})"),
            Text(curve.name),
            *(
                Text(f"{word} {_short(value)}")
                for word, value in (
                    ("last", curve.values[-1]),
                    ("min", min(curve.values)),
                    ("max", max(curve.values)),
                )
            ),
        )
    _set_ticks(figure.ruler("x"), *_padded(first, last), 5, whole=True)
    for side, is_right in (("left", False), ("right", True)):
        values = [value for curve in curves if curve.right == is_right for value in curve.values]
        if values:
            _set_ticks(figure.ruler("y", side), *_padded(min(values), max(values)), 3)
    text = figure.build().string().rstrip("\n")
    figure.clear()
    chart = Text.from_ansi(text.translate(_FRAME_IN_ASCII) if ascii_only else text, no_wrap=True, overflow="crop")
    return Group(Text(title, style="bold", overflow="fold"), chart, legend, Text(""))


def _grid(columns: int) -> Table:
    """Make a table without lines, whose cells fold: the dots that rich puts after a cut are not ASCII."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(columns):
        grid.add_column(overflow="fold")
    return grid


def _padded(low: float, high: float) -> tuple[float, float]:
    """Widen a range that is a single value: the axis needs a length."""
    margin = 0.0 if high > low else max(abs(low) * 0.1, 1e-6)
    return low - margin, high + margin


def _set_ticks(ruler: Any, low: float, high: float, count: int, whole: bool = False) -> None:
    places = [low + (high - low) * index / (count - 1) for index in range(count)]
    if whole:
        places = sorted({float(place) for place in map(round, places) if low <= place <= high})
    ruler.lim(low, high).ticks(places, [f"{place:.0f}" if whole else _short(place) for place in places])


def _short(value: float) -> str:
    return f"{value:.3g}"
