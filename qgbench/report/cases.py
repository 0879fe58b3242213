"""Pictures of single test cases after a run: the best, the median, the worst, and what an add-on changed most.

Imports no torch; matplotlib takes a second, so it is imported where a picture is drawn.
"""

import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from qgbench.base.errors import QGBenchError
from qgbench.base.files import write_atomically
from qgbench.base.logs import logged_to, logger
from qgbench.data.readers import Source
from qgbench.report.drawing import drawing
from qgbench.report.lettering import printable, shortened
from qgbench.run.folder import CASES_NAME, PREDICTIONS_NAME, TEXT_LOG_NAME, RunFolder, find_runs
from qgbench.run.predictions import read_predictions
from qgbench.run.record import IMAGES_NAME, RECORD_NAME, Record, read_images, read_record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEST, MEDIAN, WORST, MOST_CHANGED = "best", "median", "worst", "most changed"

_HEADINGS = {
    BEST: "Best: highest Dice",
    MEDIAN: "Median: the middle of the ranking by Dice",
    WORST: "Worst: lowest Dice",
    MOST_CHANGED: "Most changed: largest difference of Dice from the twin",
}

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
_ID_LENGTH = 36  # characters that fit under a picture
_TWIN_NAME_LENGTH = 44
_RESOLUTIONS = (150, 120, 100, 80, 60, 40)  # dots per inch; the first whose file is small enough is taken
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


@dataclass(frozen=True)
class Case:
    """One test image of a run.

    Attributes
    ----------
    id : str
        The image's name in its data set.
    dice : float
        In [0, 1].
    twin_dice : float or None
        Dice of the twin's prediction; None if there is no twin or it was not tested on this image.
    hd95 : float
        Pixels of the original image; NaN if one mask is empty.
    status : str
        ok | missed | spurious | both_empty
    """

    id: str
    dice: float
    twin_dice: float | None
    hd95: float
    status: str


def choose_cases(images: pd.DataFrame, twin: pd.DataFrame | None, count: int = 4) -> dict[str, list[Case]]:
    """Choose the images to show, each at most once for each kind.

    Parameters
    ----------
    images : DataFrame
        Per-image rows of the run, columns `qgbench.metrics.table.IMAGE_COLUMNS`.
    twin : DataFrame, optional
        Per-image rows of its twin.
    count : int
        Images of each kind; fewer where there are fewer.

    Returns
    -------
    dict of str to list of Case
        'best' (highest Dice first), 'median' (the ranks around the middle one), 'worst' (lowest Dice first) and, if
        some images are the twin's too, 'most changed' (largest difference of Dice first, whichever of the two is the
        better). Equals are ordered by id.
    """
    twin_dice = {} if twin is None else dict(zip(twin["id"], twin["dice"].astype(float), strict=True))
    columns = (images[name] for name in ("id", "dice", "hd95", "status"))
    cases = [
        Case(id, float(dice), twin_dice.get(id), float(hd95), status)
        for id, dice, hd95, status in zip(*columns, strict=True)
    ]
    falling = sorted(cases, key=lambda case: (-case.dice, case.id))
    start = max(0, (len(cases) - count) // 2)
    chosen = {
        BEST: falling[:count],
        MEDIAN: falling[start : start + count],
        WORST: sorted(cases, key=lambda case: (case.dice, case.id))[:count],
    }
    change = {case.id: abs(case.dice - case.twin_dice) for case in cases if case.twin_dice is not None}
    if change:
        shared = [case for case in cases if case.id in change]
        chosen[MOST_CHANGED] = sorted(shared, key=lambda case: (-change[case.id], case.id))[:count]
    return chosen


def find_twin(folder: RunFolder, record: Record) -> RunFolder | None:
    """Find the run to compare with: the same cell with an add-on where this run has none, or the reverse.

    Parameters
    ----------
    folder : RunFolder
        A run; those beside it are searched.
    record : Record
        Its record.

    Returns
    -------
    RunFolder or None
        The one that finished last, if several would do; None if there is none. Runs that cannot be read are passed
        over with a warning.
    """
    twins: list[tuple[int, bool, str, RunFolder]] = []
    for other in find_runs(folder.path.parent):
        file = other.path / RECORD_NAME
        if other.name == folder.name or not file.is_file():
            continue
        try:
            # The per-image rows are checked only where they will be used.
            if _are_twins(record, read_record(file)) and other.record() is not None:
                twins.append((file.stat().st_mtime_ns, "~" not in other.name, other.name, other))
        except (QGBenchError, OSError) as error:
            logger.warning("%s is not compared with: %s", other.name, error)
    return max(twins, key=lambda twin: twin[:3])[-1] if twins else None


def _are_twins(one: Record, other: Record) -> bool:
    one_spec, other_spec = one.spec, other.spec
    return (
        (one_spec.addon == "") != (other_spec.addon == "")
        and one_spec.cell.twin == other_spec.cell.twin
        and one_spec.seed == other_spec.seed
        and one_spec.precision == other_spec.precision
        and one_spec.device == other_spec.device
    )


def draw_if_missing(run: RunFolder, source: Source | None) -> None:
    """Draw ``cases.png`` of a finished run that has none; what goes wrong is one warning, here and in its log.

    Parameters
    ----------
    run : RunFolder
    source : Source or None
        The data set; nothing is drawn without it.
    """
    path = run.path
    if source is None or (path / CASES_NAME).exists() or not (path / PREDICTIONS_NAME).exists():
        return
    with logged_to(path / TEXT_LOG_NAME), drawing(CASES_NAME):
        draw_run(run, read_record(path), source)


def draw_run(folder: RunFolder, record: Record, source: Source) -> None:
    """Draw ``cases.png`` of a run whose rows and predictions are written, beside its twin if that is finished.

    Parameters
    ----------
    folder : RunFolder
    record : Record
        The run's record, which need not be written yet.
    source : Source
        The data set, for images and reference masks at original resolution.

    Raises
    ------
    QGBenchError
        An image, rows or predictions cannot be read, or the picture cannot be written.
    """
    twin = find_twin(folder, record)
    twin_images = read_images(twin.path / IMAGES_NAME) if twin is not None else None
    cell = record.cell
    title = f"{_name_of(record)}, {cell.arch}, {cell.dataset} {cell.regime}, seed {cell.seed}, protocol {cell.protocol}"
    draw_cases(
        folder.path / CASES_NAME,
        title,
        choose_cases(read_images(folder.path / IMAGES_NAME), twin_images),
        source.image,
        source.mask,
        read_predictions(folder.path / PREDICTIONS_NAME),
        read_predictions(twin.path / PREDICTIONS_NAME) if twin is not None else None,
        _name_of(read_record(twin.path)) if twin is not None else None,
    )


def _name_of(record: Record) -> str:
    return record.cell.method + (f" + {record.cell.addon}" if record.cell.addon else "")


def draw_cases(
    path: Path,
    title: str,
    cases: Mapping[str, Sequence[Case]],
    image_of: Callable[[str], NDArray[np.uint8]],
    reference_of: Callable[[str], NDArray[np.bool_]],
    predictions: Mapping[str, NDArray[np.bool_]],
    twin_predictions: Mapping[str, NDArray[np.bool_]] | None,
    twin_name: str | None,
) -> None:
    """Draw cases with the outlines of their masks, a row for each kind, into one PNG file, atomically.

    Equal arguments give equal bytes, whatever the user's own settings of matplotlib. An outline runs along the borders
    of the pixels of its mask.

    Parameters
    ----------
    path : Path
        The file to write; at most 1.5 MB.
    title : str
        Above all pictures.
    cases : mapping of str to sequence of Case
        What `choose_cases` gave.
    image_of : callable
        Gives an image by id: (H, W, 3) uint8, RGB.
    reference_of : callable
        Gives a reference mask by id: (H, W) bool.
    predictions : mapping of str to (H, W) bool
        Predicted masks by id.
    twin_predictions : mapping of str to (H, W) bool, optional
        The twin's; drawn where the kind is 'most changed'.
    twin_name : str, optional
        How the twin is called in the legend.

    Raises
    ------
    QGBenchError
        An image or a mask cannot be had, is of another size than its image, or the file cannot be written.
    """
    import matplotlib.style

    with matplotlib.style.context("default"):
        figure = _compose(title, cases, image_of, reference_of, predictions, twin_predictions, twin_name)
        left = list(_RESOLUTIONS)
        while left:
            resolution = left.pop(0)
            file = io.BytesIO()
            figure.savefig(file, format="png", dpi=resolution, metadata={"Software": None})
            if (size := file.tell()) <= _LARGEST_FILE:
                break
            # A file grows with the number of its pixels: drawing takes a second, so hopeless resolutions are left out.
            expected = resolution * (_LARGEST_FILE / size) ** 0.5
            left = [other for other in left if other <= expected] or left[-1:]
    write_atomically(path, file.getvalue())


class _Picture(NamedTuple):
    """A case with its pixels; `twin` is None where it is not drawn."""

    case: Case
    image: NDArray[np.uint8]
    reference: NDArray[np.bool_]
    prediction: NDArray[np.bool_]
    twin: NDArray[np.bool_] | None

    @property
    def caption(self) -> list[str]:
        case = self.case
        hd95 = "undefined" if np.isnan(case.hd95) else f"{case.hd95:.1f} px"
        lines = [shortened(printable(case.id), _ID_LENGTH), f"Dice {100 * case.dice:.1f} %, HD95 {hd95}"]
        if case.twin_dice is not None:
            gain = f"{100 * (case.dice - case.twin_dice):+.1f}".replace("-", "\N{MINUS SIGN}")
            lines.append(f"twin: Dice {100 * case.twin_dice:.1f} % (this run {gain})")
        if not self.reference.any():
            lines.append("no lesion")
        if not self.prediction.any():
            lines.append("nothing predicted")
        if self.twin is not None and not self.twin.any():
            lines.append("twin: nothing predicted")
        return lines


def _load(
    case: Case,
    image_of: Callable[[str], NDArray[np.uint8]],
    reference_of: Callable[[str], NDArray[np.bool_]],
    predictions: Mapping[str, NDArray[np.bool_]],
    twin_predictions: Mapping[str, NDArray[np.bool_]] | None,
) -> _Picture:
    id = case.id
    try:
        image, reference = image_of(id), reference_of(id)
    except Exception as error:  # whatever the reader of the data set raises
        raise QGBenchError(f"image {id} cannot be shown: {error}") from error
    masks = {"reference": reference}
    for name, source in {"prediction": predictions, "twin's prediction": twin_predictions}.items():
        if source is not None and id not in source:
            raise QGBenchError(f"image {id} cannot be shown: it has no {name}")
        if source is not None:
            masks[name] = source[id]
    for name, mask in masks.items():
        if mask.shape != image.shape[:2]:
            raise QGBenchError(
                f"image {id} cannot be shown: it is {_size(image)} pixels, its {name} {_size(mask)}; one of the two "
                "was changed"
            )
    return _Picture(case, _reduced(image), reference, masks["prediction"], masks.get("twin's prediction"))


def _size(pixels: NDArray[Any]) -> str:
    return " x ".join(map(str, pixels.shape[1::-1]))


def _reduced(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Average an image down to at most `_LARGEST_IMAGE` pixels a side."""
    height, width = image.shape[:2]
    factor = max(height, width) / _LARGEST_IMAGE
    if factor <= 1:
        return image
    size = (max(1, round(width / factor)), max(1, round(height / factor)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def _compose(
    title: str,
    cases: Mapping[str, Sequence[Case]],
    image_of: Callable[[str], NDArray[np.uint8]],
    reference_of: Callable[[str], NDArray[np.bool_]],
    predictions: Mapping[str, NDArray[np.bool_]],
    twin_predictions: Mapping[str, NDArray[np.bool_]] | None,
    twin_name: str | None,
) -> "Figure":
    """Lay out the figure: everything from top to bottom, in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = {
        kind: [
            _load(case, image_of, reference_of, predictions, twin_predictions if kind == MOST_CHANGED else None)
            for case in row
        ]
        for kind, row in cases.items()
        if row
    }
    columns = max([_LEAST_COLUMNS, *(len(row) for row in rows.values())])
    width = 2 * _MARGIN + columns * (_PICTURE_WIDTH + _GAP) - _GAP
    title_lines = textwrap.wrap(printable(title), int(width / 0.1))
    named = {"reference": _REFERENCE, "prediction": _PREDICTION}
    if any(picture.twin is not None for row in rows.values() for picture in row):
        name = shortened(printable(twin_name or ""), _TWIN_NAME_LENGTH)
        named[f"prediction of the twin {name}".rstrip()] = _TWIN

    # From top to bottom; every row is as high as its highest picture and its longest caption.
    legend_columns = len(named) if columns > _LEAST_COLUMNS else 1
    legend_height = _LEGEND_LINE * len(named) / legend_columns
    header = _MARGIN + _TITLE_LINE * len(title_lines) + legend_height
    sizes = {kind: _row_size(row) for kind, row in rows.items()}
    height = header + sum(_HEADING + picture + caption for picture, caption in sizes.values()) + _MARGIN

    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)

    def write(x: float, y: float, text: str, **style: Any) -> None:
        figure.text(x / width, 1 - y / height, text, va="top", parse_math=False, **style)

    write(_MARGIN, _MARGIN / 2, "\n".join(title_lines), fontsize=11, fontweight="bold")
    _add_legend(figure, named, legend_columns, (_MARGIN / width, 1 - (header - legend_height) / height))
    top = header
    for kind, row in rows.items():
        picture_height, caption_height = sizes[kind]
        write(_MARGIN, top + 0.1, _HEADINGS[kind], fontsize=9.5, fontweight="bold")
        bottom = top + _HEADING + picture_height
        for column, picture in enumerate(row):
            left = _MARGIN + column * (_PICTURE_WIDTH + _GAP)
            box = (left / width, 1 - bottom / height, _PICTURE_WIDTH / width, picture_height / height)
            _draw(figure.add_axes(box, anchor="S"), picture)
            write(left + _PICTURE_WIDTH / 2, bottom + 0.05, "\n".join(picture.caption), ha="center", fontsize=8)
        top = bottom + caption_height
    return figure


def _row_size(row: list[_Picture]) -> tuple[float, float]:
    """Give the heights of a row's pictures and of its captions."""
    picture = _PICTURE_WIDTH * max(height / width for height, width in (p.reference.shape for p in row))
    return min(_LARGEST_PICTURE_HEIGHT, picture), _CAPTION_LINE * max(len(p.caption) for p in row) + 0.05


def _add_legend(figure: "Figure", named: Mapping[str, _Style], columns: int, corner: tuple[float, float]) -> None:
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.lines import Line2D

    def line(style: _Style) -> Line2D:
        return Line2D([], [], color=style.color, linewidth=style.width, linestyle=style.line)

    handles: list[Any] = [(line(_HALO), line(style)) for style in named.values()]
    legend = figure.legend(
        handles,
        list(named),
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


def _draw(axes: "Axes", picture: _Picture) -> None:
    """Show an image and the outlines of its masks, in the pixels of the image."""
    height, width = picture.reference.shape
    masks = [(picture.reference, _REFERENCE), (picture.prediction, _PREDICTION)]
    if picture.twin is not None:
        masks.append((picture.twin, _TWIN))
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
