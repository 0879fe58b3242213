"""A contact sheet: images of a data set side by side, each with the outline of its mask, to be looked at."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_dilation, binary_erosion

from qgbench.base.files import write_atomically
from qgbench.data.readers import Source

_PICTURE = 240  # pixels, longer side
_GAP = 8
_CAPTION = 16
_COLUMNS = 6
_OUTLINE, _HALO = (255, 225, 26), (0, 0, 0)
_FONT = ImageFont.load_default(11)


def choose_images(source: Source, count: int) -> list[str]:
    """Return images chosen evenly over the ids, so that a sheet shows every part of a data set; in their order."""
    places = np.unique(np.linspace(0, len(source.ids) - 1, min(count, len(source.ids))).round().astype(int))
    return [source.ids[place] for place in places]


def draw_sheet(source: Source, ids: Sequence[str], file: Path) -> None:
    """Draw a contact sheet as PNG.

    The outline is yellow between two black lines; under each picture stand its id, its original size and the lesion's
    share of it.

    Parameters
    ----------
    source : Source
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
    cell = (_PICTURE + _GAP, _PICTURE + _GAP + _CAPTION)
    sheet = Image.new("RGB", (columns * cell[0] + _GAP, rows * cell[1] + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for place, id in enumerate(ids):
        left, top = _GAP + place % columns * cell[0], _GAP + place // columns * cell[1]
        picture, caption = _picture(source, id)
        sheet.paste(picture, (left + (_PICTURE - picture.width) // 2, top + (_PICTURE - picture.height) // 2))
        draw.text((left, top + _PICTURE + 1), _cut(caption), fill="black", font=_FONT)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    write_atomically(file, buffer.getvalue())


def _picture(source: Source, id: str) -> tuple[Image.Image, str]:
    pixels = source.image(id)
    height, width = pixels.shape[:2]
    scale = _PICTURE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
    if not source.labelled:
        return Image.fromarray(small), f"{id}  {width} x {height}"
    mask = source.mask(id)
    shown = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)) >= 128
    outline = shown & ~binary_erosion(shown, border_value=0)
    small[binary_dilation(outline)] = _HALO
    small[outline] = _OUTLINE
    return Image.fromarray(small), f"{id}  {width} x {height}  {mask.mean():.1%}"


def _cut(caption: str) -> str:
    while _FONT.getlength(caption) > _PICTURE:
        caption = f"{caption[: len(caption) // 2 - 2]}..{caption[len(caption) // 2 + 2 :]}"
    return caption
