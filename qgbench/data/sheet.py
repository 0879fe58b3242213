"""A contact sheet: images side by side, each with the outline of its mask, to be looked at."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_dilation, binary_erosion

from qgbench.base.colors import CLASS_COLORS
from qgbench.base.files import write_atomically
from qgbench.data.readers import Source
from qgbench.data.source import Slice
from qgbench.data.splits import shares

_PICTURE = 240  # pixels, longer side
_GAP = 8
_LINE = 16
_COLUMNS = 6
_OUTLINE, _HALO = (255, 225, 26), (0, 0, 0)
_FONT = ImageFont.load_default(11)


class Shown(Protocol):
    """Images that can be shown, with masks or without: a `Source`, or something alike."""

    labelled: bool

    @property
    def volumes(self) -> Mapping[str, Slice]:
        """Where images that are slices of volumes lie; of pictures empty."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes that masks show."""

    def image(self, id: str) -> NDArray[np.uint8]:
        """Return an image: (H, W, 3) RGB."""

    def mask(self, id: str) -> NDArray[Any]:
        """Return a mask: (H, W) bool, or a label map of several classes."""


def choose_images(ids: Sequence[str], count: int) -> list[str]:
    """Return images chosen evenly over the ids, so that a sheet shows every part of a data set; in their order."""
    places = np.unique(np.linspace(0, len(ids) - 1, min(count, len(ids))).round().astype(int))
    return [ids[place] for place in places]


def slices_of(source: Source, names: Sequence[str]) -> list[str]:
    """Return names of images with each that is a volume's replaced by those of its slices."""
    slices: dict[str, list[str]] = {}
    for id, place in source.volumes.items():
        slices.setdefault(place.volume, []).append(id)
    return [id for name in names for id in slices.get(name, [name])]


def draw_sheet(source: Shown, ids: Sequence[str], file: Path) -> None:
    """Draw a contact sheet as PNG.

    The outline is yellow between two black lines; under each picture stand its id, its original size and the lesion's
    share of it. Several classes have a colour each, told below the pictures, and under each picture stand those that
    it shows. Slices of volumes whose spacing is known have the shape that they have in mm.

    Parameters
    ----------
    source : Shown
    ids : sequence of str
        The images, in the order shown.
    file : Path

    Raises
    ------
    UserError
        An image or a mask cannot be read.
    QGBenchError
        The file cannot be written.
    """
    rows = -(-len(ids) // _COLUMNS)
    columns = min(_COLUMNS, len(ids))
    drawn = [_picture(source, id) for id in ids]
    captions = [_wrapped(caption) for _, caption in drawn]
    cell = (_PICTURE + _GAP, _PICTURE + _GAP + _LINE * max(map(len, captions), default=1))
    legend = _legend(source.classes, columns * cell[0]) if source.labelled and len(source.classes) > 1 else []
    height = rows * cell[1] + _GAP + len(legend) * _LINE
    sheet = Image.new("RGB", (columns * cell[0] + _GAP, height), "white")
    draw = ImageDraw.Draw(sheet)
    for line, entries in enumerate(legend):
        top = rows * cell[1] + line * _LINE
        for left, colour, name in entries:
            draw.rectangle((_GAP + left, top + 2, _GAP + left + 10, top + 12), fill=colour, outline=_HALO)
            draw.text((_GAP + left + 14, top), name, fill="black", font=_FONT)
    for place, ((picture, _), caption) in enumerate(zip(drawn, captions, strict=True)):
        left, top = _GAP + place % columns * cell[0], _GAP + place // columns * cell[1]
        sheet.paste(picture, (left + (_PICTURE - picture.width) // 2, top + (_PICTURE - picture.height) // 2))
        for line, text in enumerate(caption):
            draw.text((left, top + _PICTURE + 1 + line * _LINE), text, fill="black", font=_FONT)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    write_atomically(file, buffer.getvalue())


def outlined(
    pixels: NDArray[np.uint8], mask: NDArray[Any], classes: int, side: int, voxel: tuple[float, float] = (1.0, 1.0)
) -> Image.Image:
    """Return an image with the outline of each class of its mask, between two black lines.

    Parameters
    ----------
    pixels : (H, W, 3) uint8
    mask : (H, W)
        bool or, of several classes, labels; as `Source.mask`.
    classes : int
    side : int
        The longer side of the result, pixels.
    voxel : (height, width)
        Of a pixel, in any unit.
    """
    small, size = _resized(pixels, side, voxel)
    outlines = []
    for label in range(1, classes + 1):
        drawn = Image.fromarray((mask == label).astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)
        shown = np.asarray(drawn) >= 128
        outlines.append(shown & ~binary_erosion(shown, border_value=0))
        small[binary_dilation(outlines[-1])] = _HALO
    for outline, colour in zip(outlines, class_colours(len(outlines)), strict=True):
        small[outline] = colour
    return Image.fromarray(small)


def _resized(
    pixels: NDArray[np.uint8], side: int, voxel: tuple[float, float]
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    height, width = (n * length for n, length in zip(pixels.shape[:2], voxel, strict=True))
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)), size


def _picture(source: Shown, id: str) -> tuple[Image.Image, list[str]]:
    """Return a picture, and the parts of its caption."""
    pixels = source.image(id)
    place = source.volumes.get(id)
    voxel = (1.0, 1.0) if place is None or place.spacing is None else place.spacing[1:]
    caption = [id, f"{pixels.shape[1]} x {pixels.shape[0]}"]
    if not source.labelled:
        return Image.fromarray(_resized(pixels, _PICTURE, voxel)[0]), caption
    mask = source.mask(id)
    covers = [f"{share:.1%}" for share in shares(mask, len(source.classes))]
    if len(covers) > 1:
        present = set(np.unique(mask).tolist())
        named = enumerate(zip(source.classes, covers, strict=True), start=1)
        # A colon, because the font draws a space so narrow that "c10 5.8%" reads "c105.8%".
        covers = [f"{name}: {cover}" for label, (name, cover) in named if label in present]
    return outlined(pixels, mask, len(source.classes), _PICTURE, voxel), caption + covers


def class_colours(classes: int) -> list[tuple[int, int, int]]:
    """Return the colours of outlines; of several classes, the same as in case pictures of a report."""
    if classes == 1:
        return [_OUTLINE]
    chosen = [bytes.fromhex(CLASS_COLORS[place % len(CLASS_COLORS)][1:]) for place in range(classes)]
    return [(red, green, blue) for red, green, blue in chosen]


def _legend(classes: Sequence[str], width: int) -> list[list[tuple[int, tuple[int, int, int], str]]]:
    """Return lines of (left, colour, name) that fit into a width in pixels."""
    lines: list[list[tuple[int, tuple[int, int, int], str]]] = [[]]
    left = 0
    for name, colour in zip(classes, class_colours(len(classes)), strict=True):
        step = 28 + round(_FONT.getlength(name))
        if lines[-1] and left + step > width:
            lines.append([])
            left = 0
        lines[-1].append((left, colour, name))
        left += step
    return lines


def _wrapped(caption: Sequence[str]) -> list[str]:
    """Return lines as wide as a picture at most: broken between parts, and within those that are wider."""
    lines = [""]
    for part in caption:
        longer = f"{lines[-1]}  {part}" if lines[-1] else part
        if _FONT.getlength(longer) <= _PICTURE:
            lines[-1] = longer
            continue
        lines += [""] if lines[-1] else []
        for char in part:
            if _FONT.getlength(lines[-1] + char) > _PICTURE:
                lines.append("")
            lines[-1] += char
    return lines
