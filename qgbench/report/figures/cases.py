"""Test cases of a run: images with the outlines of their masks."""

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qgbench.base.colors import CLASS_COLORS
from qgbench.report.figures.style import blank, place, write
from qgbench.report.lettering import printable, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Lengths on the page in inches.
_MARGIN = 0.25
_GAP = 0.14
_PICTURE_WIDTH = 2.45
_LARGEST_PICTURE_HEIGHT = 3.0
_TITLE_LINE = 0.22
_LEGEND_LINE = 0.22
_HEADING = 0.34
_CAPTION_LINE = 0.155

_LEAST_COLUMNS = 2  # a title and a legend need some room, even above a single case
_NAME_LENGTH = 36  # characters that fit under a picture
_TWIN_NAME_LENGTH = 44
_RESOLUTION = 150.0  # dots per inch; fewer where the file would be too large
_LARGEST_FILE = 1_500_000  # bytes
_LARGEST_IMAGE = 800  # pixels; twice what is shown of an image, so that a photograph of 24 megapixels is not kept


class _Style(NamedTuple):
    color: str
    width: float  # points
    line: Literal["-"] | tuple[float, tuple[float, ...]] = "-"  # dashes: offset and lengths, in line widths


# Yellow, blue and white differ from each other under every kind of colour blindness, and from skin and mucosa; in grey,
# brightness and dashes differ. The dark halo is solid, so that a dashed line can be followed through its gaps.
_REFERENCE = _Style("#ffe11a", 1.2)
_PREDICTION = _Style("#2fa8ff", 1.2, (0, (3.2, 1.8)))
_TWIN = _Style("#ffffff", 1.2, (0, (1.2, 2.2)))
_HALO = _Style("#000000", 2.4)

# Of several classes: the colour is the class's, and dashes tell reference, prediction and twin apart.
_ANY_CLASS = "#ffffff"
_CLASS_NAME_LENGTH = 18
_LEGEND_ENTRY = 1.75  # inches, at least


class Picture(NamedTuple):
    """An image and its masks; `twin` is None where it is not drawn. Its name and the lines of `caption` stand below.

    Masks are label maps: pixels of the k-th class have the value k, of one class True.
    """

    image: NDArray[np.uint8]
    reference: NDArray[Any]
    prediction: NDArray[Any]
    twin: NDArray[Any] | None
    name: str
    caption: list[str]


def cases_png(title: str, rows: Mapping[str, Sequence[Picture]], twin_name: str, classes: Sequence[str] = ()) -> bytes:
    """Return rows of pictures by their headings as a PNG file of at most 1.5 MB; as `compose` takes them."""
    import matplotlib.style

    with matplotlib.style.context("default"):
        figure = compose(title, rows, twin_name, classes)
        resolution = _RESOLUTION
        while True:
            file = io.BytesIO()
            figure.savefig(file, format="png", dpi=resolution, metadata={"Software": None})
            if (size := file.tell()) <= _LARGEST_FILE:
                return file.getvalue()
            resolution *= 0.97 * (_LARGEST_FILE / size) ** 0.7  # the file grows less than its pixels do


def compose(title: str, rows: Mapping[str, Sequence[Picture]], twin_name: str, classes: Sequence[str] = ()) -> "Figure":
    """Return the figure: from top to bottom a title, a legend, and the rows, each with its heading.

    Each of several `classes` has a colour of its own; of one none is named.
    """
    columns = max([_LEAST_COLUMNS, *(len(row) for row in rows.values())])
    width = 2 * _MARGIN + columns * (_PICTURE_WIDTH + _GAP) - _GAP
    title_lines = textwrap.wrap(printable(title), int(width / 0.1))
    named = [("reference", _REFERENCE), ("prediction", _PREDICTION)]
    if any(picture.twin is not None for row in rows.values() for picture in row):
        name = shortened(printable(twin_name), _TWIN_NAME_LENGTH)
        named.append((f"prediction of the twin {name}".rstrip(), _TWIN))
    legend_columns = len(named) if columns > _LEAST_COLUMNS else 1
    if len(classes) > 1:
        named = [(name, style._replace(color=_ANY_CLASS)) for name, style in named]
        named += [
            (shortened(printable(name), _CLASS_NAME_LENGTH), _Style(_class_color(place), 1.6))
            for place, name in enumerate(classes)
        ]
        legend_columns = min(len(named), int((width - 2 * _MARGIN) / _LEGEND_ENTRY))
    legend_top = _MARGIN + _TITLE_LINE * len(title_lines)
    top = legend_top + _LEGEND_LINE * math.ceil(len(named) / legend_columns)
    sizes = {heading: _row_size(row) for heading, row in rows.items()}
    height = top + sum(_HEADING + picture + caption for picture, caption in sizes.values()) + _MARGIN
    figure = blank(height, width)
    write(figure, _MARGIN, _MARGIN / 2, "\n".join(title_lines), fontsize=11, fontweight="bold", parse_math=False)
    _add_legend(figure, named, legend_columns, (_MARGIN / width, 1 - legend_top / height))
    for heading, row in rows.items():
        _add_row(figure, top, heading, row, sizes[heading][0], len(classes))
        top += _HEADING + sum(sizes[heading])
    return figure


def _add_row(figure: "Figure", top: float, heading: str, row: Sequence[Picture], height: float, classes: int) -> None:
    write(figure, _MARGIN, top + 0.1, heading, fontsize=9.5, fontweight="bold")
    top += _HEADING
    for column, picture in enumerate(row):
        left = _MARGIN + column * (_PICTURE_WIDTH + _GAP)
        axes = place(figure, left, top, _PICTURE_WIDTH, height)
        axes.set_anchor("S")
        _draw(axes, picture, classes)
        lines = "\n".join([shortened(printable(picture.name), _NAME_LENGTH), *picture.caption])
        middle = left + _PICTURE_WIDTH / 2
        write(figure, middle, top + height + 0.05, lines, ha="center", fontsize=8, linespacing=1.2, parse_math=False)


def _row_size(row: Sequence[Picture]) -> tuple[float, float]:
    """Return the height of a row's highest picture, and of its longest caption."""
    picture = _PICTURE_WIDTH * max(height / width for height, width in (p.reference.shape for p in row))
    return min(_LARGEST_PICTURE_HEIGHT, picture), _CAPTION_LINE * max(1 + len(p.caption) for p in row) + 0.05


def _add_legend(
    figure: "Figure", named: Sequence[tuple[str, _Style]], columns: int, corner: tuple[float, float]
) -> None:
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.lines import Line2D

    def line(style: _Style) -> Line2D:
        return Line2D([], [], color=style.color, linewidth=style.width, linestyle=style.line)

    handles: list[Any] = [(line(_HALO), line(style)) for _, style in named]
    legend = figure.legend(
        handles,
        [name for name, _ in named],
        handler_map={tuple: HandlerTuple(ndivide=1)},
        loc="upper left",
        bbox_to_anchor=corner,
        ncols=columns,
        frameon=False,
        fontsize=9,
        handlelength=3.5,
        borderpad=0,
        borderaxespad=0,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _class_color(place: int) -> str:
    return CLASS_COLORS[place % len(CLASS_COLORS)]


def _draw(axes: "Axes", picture: Picture, classes: int) -> None:
    """Show an image and the outlines of its masks, of each class, in the pixels of the image."""
    height, width = picture.reference.shape
    masks = [(picture.reference, _REFERENCE), (picture.prediction, _PREDICTION)]
    if picture.twin is not None:
        masks.append((picture.twin, _TWIN))
    if classes > 1:
        masks = [
            (labels == place + 1, style._replace(color=_class_color(place)))
            for labels, style in masks
            for place in range(classes)
        ]
    axes.imshow(picture.image, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    # All halos lie below all lines: where outlines meet, each shows in the gaps of the next.
    for mask, _ in masks:
        _outline(axes, mask, _HALO)
    for mask, style in masks:
        _outline(axes, mask, style)
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    axes.set_axis_off()


def _outline(axes: "Axes", mask: NDArray[np.bool_], style: _Style) -> None:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return
    (top, bottom), (left, right) = rows[[0, -1]], columns[[0, -1]]
    lesion = np.pad(mask[top : bottom + 1, left : right + 1], 1)  # zeros around it close an outline at the border
    axes.contour(
        np.arange(left - 1, right + 2),
        np.arange(top - 1, bottom + 2),
        lesion,
        levels=[0.5],
        colors=[style.color],
        linewidths=style.width,
        linestyles=[style.line],
    ).set(clip_on=False)


def reduced(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image averaged down to at most `_LARGEST_IMAGE` pixels a side."""
    height, width = image.shape[:2]
    factor = max(height, width) / _LARGEST_IMAGE
    if factor <= 1:
        return image
    size = (max(1, round(width / factor)), max(1, round(height / factor)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
