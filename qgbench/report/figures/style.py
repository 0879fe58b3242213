"""What all figures share: size, fonts, looks that colour-blind readers and grey print tell apart, and safe names.

Colours are those of Okabe & Ito (`qgbench.base.colors`). Whatever colour tells apart, a marker, a dash or a
hatch tells apart too. Lengths are in inches on the page.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from qgbench.base.colors import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILLION
from qgbench.metrics.table import Metric
from qgbench.report.analysis import Analysis
from qgbench.report.contrasts import is_control
from qgbench.report.lettering import printable, shortened
from qgbench.spec.arm import ArmName

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 6.9  # of every figure: the text of an A4 page or a page of two columns
FONT_SIZE = 7.0  # points
LINE = 0.13  # from one line of text to the next
_MARGIN = 0.06

BLACK, GREY, LIGHT_GREY = "#000000", "#767676", "#d9d9d9"

RC = {
    "font.family": ["sans-serif"],  # what a browser falls back on
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": FONT_SIZE,
    "axes.labelsize": FONT_SIZE,
    "axes.titlesize": FONT_SIZE,
    "xtick.labelsize": FONT_SIZE,
    "ytick.labelsize": FONT_SIZE,
    "legend.fontsize": FONT_SIZE,
    "legend.frameon": False,
    "legend.borderpad": 0,
    "legend.borderaxespad": 0,
    "text.parse_math": False,  # a name may hold dollar signs
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.major.pad": 2.0,
    "ytick.major.pad": 2.0,
    "axes.labelpad": 2.0,
    "axes.titlepad": 3.0,
    "lines.linewidth": 1.0,
    "lines.markersize": 3.5,
    "hatch.linewidth": 0.5,
    "pdf.fonttype": 42,  # journals refuse Type 3
    "savefig.dpi": 200,  # of what is rasterised
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "qgbench",  # equal figures, equal names within them
}

T = TypeVar("T")

Dashes = Literal["-", "none"] | tuple[float, tuple[float, ...]]
Filling = Literal["none", "full", "left", "top", "right", "bottom"]


class Look(NamedTuple):
    """How a method is drawn, whatever its add-on."""

    color: str
    marker: str


class AddonLook(NamedTuple):
    """How an add-on is drawn, whatever its method."""

    dashes: Dashes
    fillstyle: Filling


COLORS = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")  # 10 and 7 share no factor: 70 looks
_BASE = AddonLook((0, (4, 2)), "none")
_ADDONS = (
    AddonLook("-", "full"),
    AddonLook((0, (6, 1.5, 1, 1.5)), "left"),
    AddonLook((0, (1, 1.2)), "top"),
    AddonLook((0, (6, 1.5, 1, 1.5, 1, 1.5)), "right"),
    AddonLook((0, (9, 2)), "bottom"),
)


@dataclass(frozen=True)
class Plan:
    """The files of one kind of figure, not drawn yet, and what they do not show.

    Attributes
    ----------
    draws : list of callable
        Each draws the figure of one file. They hold what they draw and no more: they are sent to other processes.
    left_out : list of str
        What is not shown, and why.
    """

    draws: list[Callable[[], "Figure"]]
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Looks:
    """How the cells of an analysis are drawn, alike in all its figures."""

    methods: dict[tuple[str, str], Look]
    addons: dict[str, AddonLook]

    @classmethod
    def of(cls, analysis: Analysis) -> "Looks":
        """Return colours and markers, dealt out supervised first, then alphabetically; no add-on is dashed and open."""
        names = {name for section in analysis.sections for name in section.cells}
        methods = sorted({name.without_addon for name in names}, key=lambda name: name.order)
        addons = sorted({name.addon for name in names} - {""}, key=lambda addon: (is_control(addon), addon))
        return cls(
            {
                (name.method, name.variant): Look(COLORS[index % len(COLORS)], _MARKERS[index % len(_MARKERS)])
                for index, name in enumerate(methods)
            },
            {"": _BASE} | {addon: _ADDONS[index % len(_ADDONS)] for index, addon in enumerate(addons)},
        )

    def of_method(self, name: ArmName) -> Look:
        """Return the look of a cell's method, whatever its add-on."""
        return self.methods[name.method, name.variant]


def on_axes(analysis: Analysis) -> Metric:
    """Return the measure as axes call it: as a mean over classes where it is, and with a unit for all settings."""
    what = analysis.measure
    if analysis.over_classes:
        what = what.model_copy(update={"label": f"mean class {what.label.removesuffix(' (pooled)')}"})
    return what.model_copy(update={"unit": "own unit"}) if analysis.mixes_units else what


def measure_words(what: Metric) -> str:
    """Return a measure and its unit, for an axis."""
    return f"{what.label} ({what.unit})"


def fitted(text: str, width: float, size: float = FONT_SIZE, weight: str = "normal") -> str:
    """Return a text of the figures' font alone; if it is wider than `width` inches, its middle is left out."""
    text = shortened(printable(text), 300)  # no page holds more; measuring a novel takes seconds
    length = len(text)
    shown = text
    while length > 1 and (wide := text_width(shown, size, weight)) > width:
        length = min(length - 1, int(length * max(0.5, width / wide)) + 1)
        shown = shortened(text, length)
    return shown


@lru_cache(maxsize=10_000)  # a name stands in many panels
def text_width(text: str, size: float = FONT_SIZE, weight: str = "normal") -> float:
    """Return the width of one line of text: inches, with a little to spare for what rounding to pixels adds."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties(family="DejaVu Sans", weight=weight)))
    font.set_size(size, 720)
    font.set_text(text)
    return 1.02 * float(font.get_width_height()[0]) / 64 / 720


def wrapped(text: str, width: float = WIDTH - 2 * _MARGIN, most: int = 6) -> list[str]:
    """Return a text in lines of at most `width` inches; what `most` lines do not hold is cut with an ellipsis."""
    lines: list[str] = []
    for word in text.split():
        if lines and text_width(together := f"{lines[-1]} {printable(word)}") <= width:
            lines[-1] = together
        else:
            lines.append(fitted(word, width))
    if len(lines) > most:
        lines = [*lines[: most - 1], fitted(f"{lines[most - 1]} \N{HORIZONTAL ELLIPSIS}", width)]
    return lines


def blank(height: float, width: float = WIDTH) -> "Figure":
    """Return an empty figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def place(figure: "Figure", left: float, top: float, width: float, height: float) -> "Axes":
    """Add axes, in inches from the top left corner, and return them."""
    across, down = figure.get_size_inches()
    return figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))


def write(figure: "Figure", left: float, top: float, text: str, **style: Any) -> None:
    """Write one or more lines, in inches from the top left corner."""
    across, down = figure.get_size_inches()
    figure.text(left / across, 1 - top / down, text, **{"va": "top", "linespacing": 1.25, **style})


def write_lines(figure: "Figure", top: float, lines: Sequence[str]) -> None:
    """Write notes below a figure's axes, one under the other."""
    for index, line in enumerate(lines):
        write(figure, _MARGIN, top + LINE * index, line)


@dataclass(frozen=True)
class Layout:
    """Small multiples: panels of one size, each with a heading of two lines above it.

    Attributes
    ----------
    columns, rows : int
        Of a full file.
    height : float
        Of a panel.
    below : float
        Room under each panel, for tick labels and perhaps a label and a legend; the last row has a line more.
    left : float
        Room beside each panel, for tick labels and the axis label.
    right : float
        Room to its right.
    """

    columns: int
    rows: int
    height: float
    below: float
    left: float = 0.5
    right: float = 0.12

    @property
    def width(self) -> float:
        """Of a panel."""
        return WIDTH / self.columns - self.left - self.right

    @property
    def panels(self) -> int:
        """How many a file holds."""
        return self.columns * self.rows

    def draw(self, count: int, footer: float = 0.0) -> "tuple[Figure, list[Axes]]":
        """Return a new figure with `count` panels, row by row, and `footer` inches below all of them."""
        rows = -(-count // self.columns)
        pitch = 2 * LINE + 0.08 + self.height + self.below
        figure = blank(rows * pitch + LINE + footer + _MARGIN)
        return figure, [
            place(
                figure,
                self.left + index % self.columns * WIDTH / self.columns,
                index // self.columns * pitch + 2 * LINE + 0.08,
                self.width,
                self.height,
            )
            for index in range(count)
        ]

    def head(self, axes: "Axes", first: str, second: str) -> None:
        """Write what a panel shows above it."""
        width = self.width + self.right
        lines = [fitted(text, width) for text in (first, second) if text]
        axes.set_title("\n".join(lines), loc="left", y=1, linespacing=1.2)

    def label(self, panels: "Sequence[Axes]", x: str, y: str) -> None:
        """Label the y axis of each row's first panel and the x axis of each column's last."""
        for index, axes in enumerate(panels):
            if index % self.columns == 0:
                axes.set_ylabel(fitted(y, self.height + 2 * LINE))
            if index + self.columns >= len(panels):
                axes.set_xlabel(fitted(x, self.width + self.left + self.right))


def sheets(items: Sequence[T], size: int) -> list[list[T]]:
    """Return a list's parts of at most `size`."""
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def add_legend(figure: "Figure", handles: Sequence[Any], labels: Sequence[str], columns: int) -> None:
    """Put a legend at the bottom left of a figure; it takes `legend_height` inches."""
    figure.legend(
        handles,
        [fitted(label, WIDTH / columns - 0.6) for label in labels],
        loc="lower left",
        bbox_to_anchor=(_MARGIN / WIDTH, _MARGIN / figure.get_figheight()),
        ncols=columns,
        handlelength=3.0,
        labelspacing=0.3,
    )


def legend_height(count: int, columns: int) -> float:
    """Return how high a legend of `count` entries is: inches."""
    return -(-count // columns) * (LINE + 0.02) + 0.04


def line_handle(color: str, marker: str, dashes: Dashes, fillstyle: Filling = "full") -> Any:
    """Return a legend's sample of a line with its marker."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=color, marker=marker, linestyle=dashes, fillstyle=fillstyle)
