"""Decode image and mask files: what converts without loss of meaning is taken, everything else is refused by name.

- 1-bit, grey, palette, RGB, YCbCr and CMYK become RGB: CMYK by Pillow's plain formula; no colour profile is applied.
- Alpha and transparent palette entries are taken if every pixel is opaque and refused otherwise: the file does not say
  what is behind a transparent pixel.
- Of 16 bits per channel the high byte is taken, v // 256 (exact for v = 257 * w). An image without a value of 2 ** 14
  or more is refused: such files hold 10 to 14 bits, and their white level is not known.
- 32 bits, floating point and LAB are refused for images: their black and white levels are not known.
- Several pages and animations are refused: which of them is meant is not known. Of a phone's multi-picture JPEG (MPO)
  the first frame is the picture.
- A TIFF of three samples that is labelled grey (BlackIsZero), as CVC-ClinicDB has some, is read as RGB.
- The EXIF orientation is applied, as every viewer does, to images and to masks, to each its own.

Masks hold only 0 and one other value, or grey levels that are cut at one of them, so grey ones may have any number of
bits; 16-bit colours are refused there. Of a palette the colours count, not their numbers.

Label maps, masks of named classes, hold 0 or black and the values of classes, and nothing else. Where these are
numbers, the numbers of a palette count, unless its colours are grey levels that all are classes, as programs that
shrink files may have it; where they are colours, its colours.
"""

import io
import struct
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from qgbench.base.errors import UserError, unreadable
from qgbench.base.logs import logger
from qgbench.data.layouts import MaskRule

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF")  # Pillow opens MPO as a kind of JPEG

_GREY_MODES = ("1", "L")
_MODES = (*_GREY_MODES, "P", "PA", "LA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
_LEAST_16_BIT = 1 << 14  # a 16-bit image below this in every pixel holds fewer bits
_FEW = 16  # values that a label map may well hold
_STRAYS = 5  # values that a message names

_ORIENTATION = 0x0112  # EXIF and TIFF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES = 5  # orientations from here on exchange width and height

_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLES, _PLANAR, _EXTRA_SAMPLES = 258, 262, 277, 284, 338  # TIFF tags
_UNKNOWN_TAG = 65000  # private: read by nobody
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _SEPARATE_PLANES = 0, 1, 2, 2
_TIFF_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_TIFF_SHORT = 3  # type of a tag's value


class MaskSizeError(UserError):
    """A mask has another size than its image."""


class MaskValuesError(UserError):
    """A mask holds more than two values, or a label map one that is no class."""


def read_image(file: Path) -> NDArray[np.uint8]:
    """Read an image.

    Parameters
    ----------
    file : Path
        PNG, JPEG, MPO, TIFF, BMP or GIF, told by its content.

    Returns
    -------
    (H, W, 3) uint8
        RGB, turned as its EXIF orientation says.

    Raises
    ------
    UserError
        The file is missing, unreadable, empty, damaged or cut off; or of a kind that is refused (top of this module).
    """
    with _opened(file) as image:
        deep = _is_16_bit(image)
        if image.mode not in _MODES and not image.mode.startswith("I;16"):
            raise UserError(
                f"{file} has pixels of the kind {image.mode}, whose black and white levels are not known; scale them "
                "and save the image with 8 bits per channel."
            )
        picture = _decoded(file, image)
        _check_opaque(file, picture)
        if picture.mode.startswith("I;16"):
            high_byte = (np.asarray(picture) >> 8).astype(np.uint8)
            pixels = np.repeat(high_byte[..., None], 3, axis=2)
        else:
            pixels = np.asarray(picture.convert("RGB"))
    if deep and pixels.max() < _LEAST_16_BIT >> 8:
        raise UserError(
            f"{file} has 16 bits per channel but no value above {_LEAST_16_BIT - 1}, so its white level is not known; "
            "scale it and save it with 8 bits per channel."
        )
    return pixels


def read_mask(file: Path, image_file: Path, rule: MaskRule | float = "binary") -> NDArray[np.bool_]:
    """Read a mask, of which 0 (or black) is the background.

    Of the image only the header is read.

    Parameters
    ----------
    file : Path
        In any format of `read_image`, with any number of bits if it is grey.
    image_file : Path
        The image that it belongs to.
    rule : {'binary', 'half', 'nonzero'} or float
        What the lesion is: the one other value; what is above half of the largest value that the mask's bits can hold
        (for masks in JPEG); every other value (for numbered lesions); or what is above this grey level, in the file's
        own values (0 to 255 where it has 8 bits). Of colours it is the mean. A mask of 1 bit has no levels to cut.

    Returns
    -------
    (H, W) bool
        Turned as its own EXIF orientation says.

    Raises
    ------
    MaskSizeError
        The mask has not the size that the image is shown in.
    MaskValuesError
        It holds more than 0 and one other value under the rule 'binary'.
    UserError
        A file cannot be read (see `read_image`), the mask has bits without a largest value under the rule 'half', or
        the grey level cuts nothing of whole numbers: a fraction below 1, or their largest.
    """
    picture = _mask_picture(file, image_file)
    is_grey = _is_grey(picture)
    pixels = np.asarray(picture if is_grey else picture.convert("RGB"))
    _check_finite(file, pixels)
    if rule == "half":
        return _above(file, pixels, None)
    if not isinstance(rule, str):
        return _above(file, pixels, rule)
    if not is_grey:
        is_grey = bool((pixels == pixels[..., :1]).all())
        pixels = pixels[..., 0] if is_grey else _colour_numbers(pixels)
    foreground = pixels != 0
    if rule == "nonzero":
        return foreground
    top = pixels.max() or pixels.min()  # the one other value may be negative
    if strays := np.count_nonzero(foreground & (pixels != top)):
        top_name, zero, kind = (str(top), "0", "value") if is_grey else (f"#{top:06x}", "black", "colour")
        values = np.unique(pixels)
        named = ""
        if len(values) <= _FEW and pixels.dtype.kind == "u":
            by_colour = not is_grey or picture.mode in ("P", "PA")
            scale = 0x010101 if by_colour and is_grey else 1
            typed = [f"#{value * scale:06x}" if by_colour else value for value in values[values != 0].tolist()]
            example = ",".join(f"NAME={value}" for value in typed)
            named = f' If each {kind} is a class, name them: --classes "{example}".'
        raise MaskValuesError(
            f"{file} holds {values.size} {kind}s: {strays} of {pixels.size} pixels "
            f"({_percent(strays / pixels.size)}) are neither {zero} nor {top_name}. A mask holds "
            f"{zero} and one other {kind}: threshold it, for example at half of its maximum, and save it as PNG (JPEG "
            f"adds values); or bring it in with qgbench data add --threshold LEVEL.{named}"
        )
    return foreground


def read_labels(file: Path, image_file: Path, classes: Mapping[str, int | str]) -> NDArray[np.uint8]:
    """Read a mask of named classes.

    Parameters
    ----------
    file : Path
        In any format of `read_image` but JPEG, which changes values, with any number of bits if it is grey.
    image_file : Path
        The image that it belongs to.
    classes : mapping of str to int, or to str
        Value of each class: a number, which is a grey level (white is 255 in a mask of 1 bit, or 1 where no class is
        255) or an entry's number in a palette (top of this module); or the colour '#rrggbb'. What is 0 or black is the
        background.

    Returns
    -------
    (H, W) uint8
        0 for the background, k for the k-th class; turned as its own EXIF orientation says.

    Raises
    ------
    MaskSizeError
        The mask has not the size that the image is shown in.
    MaskValuesError
        It holds another value, or is a JPEG.
    UserError
        A file cannot be read (see `read_image`), or has colours where classes are numbers.
    """
    picture = _mask_picture(file, image_file)
    if picture.format in ("JPEG", "MPO"):
        raise MaskValuesError(
            f"{file} is a JPEG, which changes the values that tell classes apart; save what it was made of as PNG."
        )
    values = list(classes.values())
    by_colour = any(isinstance(value, str) for value in values)
    if by_colour:
        if picture.mode.startswith(("I", "F")):
            raise UserError(
                f"{file} is a grey mask of more than 8 bits, and classes are told by colours; give their numbers."
            )
        pixels = _colour_numbers(np.asarray(picture.convert("RGB")))
        values = [int(str(value)[1:], 16) for value in values]
    else:
        pixels = _numbers(file, picture, values)
    labels = np.zeros(pixels.shape, np.uint8)
    known = pixels == 0
    for label, value in enumerate(values, start=1):
        labels[is_class := pixels == value] = label
        known |= is_class
    if not known.all():
        _refuse_strays(file, pixels, np.unique(pixels[~known]).tolist(), "colour" if by_colour else "value")
    return labels


def _mask_picture(file: Path, image_file: Path) -> Image.Image:
    """Return a mask, decoded and turned; refuse what is not of its image's size, and pixels that cannot be a mask's."""
    with _opened(file) as mask, _opened(image_file) as image:
        _check_same_size(file, mask, image_file, image)
        if _is_16_bit(mask) and mask.mode in _MODES:
            raise UserError(f"{file} is a mask in 16-bit colours; save it as 8-bit greyscale.")
        if mask.mode not in _MODES and not mask.mode.startswith(("I", "F")):
            raise UserError(f"{file} is a mask with pixels of the kind {mask.mode}; save it as 8-bit greyscale.")
        kind = mask.format
        picture = _decoded(file, mask)
        _check_opaque(file, picture)
        picture.format = kind  # which a picture that was turned has lost
        return picture


def _is_grey(picture: Image.Image) -> bool:
    return picture.mode in _GREY_MODES or picture.mode.startswith(("I", "F"))


def _check_finite(file: Path, pixels: NDArray[Any]) -> None:
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise UserError(f"{file} is a mask with pixels that are infinite or no number; save it as 8-bit greyscale.")


def _colour_numbers(pixels: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Return one number per colour, 0xrrggbb: (H, W, 3) -> (H, W)."""
    return pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)


def _numbers(file: Path, picture: Image.Image, values: list[int | str]) -> NDArray[Any]:
    """Return the numbers that tell classes of these values apart, as `read_labels` describes them: (H, W)."""
    if picture.mode == "1":
        return np.asarray(picture).astype(np.uint8) * (255 if 255 in values else 1)
    pixels = np.asarray(picture if _is_grey(picture) else picture.convert("RGB"))
    _check_finite(file, pixels)
    if pixels.ndim == 2:
        return pixels
    is_grey = bool((pixels == pixels[..., :1]).all())
    if picture.mode in ("P", "PA") and not (is_grey and np.isin(pixels, [0, *values]).all()):
        return np.asarray(picture).reshape(picture.height, picture.width, -1)[..., 0]  # without alpha
    if not is_grey:
        raise UserError(f"{file} has colours, and classes are told by numbers; give colours, such as NAME=#ff0000.")
    return pixels[..., 0]


def _refuse_strays(file: Path, pixels: NDArray[Any], strays: list[float], kind: str) -> None:
    """Say which values of a label map are no class, how many pixels have them, and what to do."""

    def named(value: float) -> str:
        name = f"#{value:06x}" if kind == "colour" else f"{value:g}"
        return f"{name} ({_percent(np.count_nonzero(pixels == value) / pixels.size)} of the pixels)"

    more = f" and {len(strays) - _STRAYS} more" if len(strays) > _STRAYS else ""
    zero = "black" if kind == "colour" else "0"
    cause = "smooth resizing and JPEG add values: save masks as PNG, resized by nearest pixel"
    named_or_none = f"name each as a class (--classes, or classes in the card), or make it {zero}, the background"
    remedy = cause if len(strays) > _FEW else f"{named_or_none} ({cause})"
    raise MaskValuesError(
        f"{file} holds {kind}s that are no class: {', '.join(map(named, strays[:_STRAYS]))}{more}; {remedy}."
    )


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 else "below 0.1%"


def _above(file: Path, pixels: NDArray[Any], level: float | None) -> NDArray[np.bool_]:
    """Return where grey, or the mean of three colours, is above a level; above half of what its type holds if None."""
    if pixels.dtype == np.bool_:
        return pixels
    most = np.iinfo(pixels.dtype).max if pixels.dtype in (np.uint8, np.uint16) else None
    if level is None:
        if most is None:
            raise UserError(
                f"{file} is a mask of {pixels.dtype} values, whose largest is not known; save it with 8 bits."
            )
        level = most / 2
    elif most is not None and not (level == 0 or 1 <= level < most):
        raise UserError(
            f"--threshold {level:g} does not cut {file}, whose grey levels are the whole numbers 0 to {most}; half of "
            f"them is {most // 2}."
        )
    return (pixels if pixels.ndim == 2 else pixels.mean(2)) > level


def palette_misleads(file: Path) -> bool:
    """Return whether a mask's palette shows its number 0 in a colour, or another of its numbers in black.

    Who looks at the numbers, as numpy and ImageJ do, then sees another background than who looks at the colours.

    Raises
    ------
    UserError
        The file cannot be read (see `read_image`).
    """
    with _opened(file) as mask:
        if mask.mode not in ("P", "PA"):
            return False
        picture = _decoded(file, mask)
        numbers = np.asarray(picture).reshape(picture.height, picture.width, -1)[..., 0]  # without alpha
        return bool(((numbers != 0) != np.asarray(picture.convert("RGB")).any(2)).any())


def read_bytes(file: Path) -> bytes:
    """Read a whole file.

    Raises
    ------
    UserError
        It is missing or cannot be read.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        raise unreadable(file, error) from error


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    """Read an image's header; refuse what cannot be one picture read truly."""
    with ExitStack() as stack:
        with _damage_named(file):
            # Not by name: Pillow would map an uncompressed TIFF into memory and misread it if it is to be turned.
            stream = _colours_labelled(stack.enter_context(file.open("rb")))
            image = stack.enter_context(Image.open(stream, formats=FORMATS))
            frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":
            raise UserError(
                f"{file} holds {frames} pages or frames, and which one is meant is not known; save that one alone, as "
                "PNG."
            )
        if fault := _misread(image):
            raise UserError(f"{file} {fault}, which is not read truly; save it as PNG with 8 bits per channel.")
        yield image


def _colours_labelled(stream: IO[bytes]) -> IO[bytes]:
    """Return the file; a TIFF of three samples labelled grey, which Pillow refuses, is labelled RGB in it."""
    entries: dict[
        int, tuple[int, int]
    ] = {}  # tag -> where its entry is in the file, and its value if that is one short
    if (order := _TIFF_BYTE_ORDERS.get(stream.read(4))) is not None and len(start := stream.read(4)) == 4:
        position = stream.seek(struct.unpack(f"{order}I", start)[0]) + 2
        count = int.from_bytes(stream.read(2), "little" if order == "<" else "big")
        table = stream.read(12 * count)
        for tag, kind, values, value, _ in struct.iter_unpack(f"{order}HHIHH", table[: len(table) // 12 * 12]):
            entries[tag] = position, value if (kind, values) == (_TIFF_SHORT, 1) else -1
            position += 12
    stream.seek(0)
    if [entries.get(tag, (0, -1))[1] for tag in (_SAMPLES, _PHOTOMETRIC)] != [3, _BLACK_IS_ZERO]:
        return stream
    content = bytearray(stream.read())
    struct.pack_into(f"{order}H", content, entries[_PHOTOMETRIC][0] + 8, _RGB)
    if _EXTRA_SAMPLES in entries:  # calls the second and the third sample extra
        struct.pack_into(f"{order}H", content, entries[_EXTRA_SAMPLES][0], _UNKNOWN_TAG)
    return io.BytesIO(content)


@contextmanager
def _damage_named(file: Path) -> Iterator[None]:
    """Turn what Pillow raises on a bad file into one message. To be put around Pillow's own calls only."""
    try:
        yield
    except UnidentifiedImageError as error:
        if not read_bytes(file):
            raise UserError(f"{file} is empty (0 bytes); fetch it again.") from error
        raise UserError(
            f"{file} is damaged or not a PNG, JPEG, TIFF, BMP or GIF picture, whatever its name says; convert it to "
            "PNG or fetch it again."
        ) from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{file} is too large ({error}); scale it down or cut it into tiles.") from error
    except Exception as error:  # Pillow's decoders raise anything where a damaged file misleads them
        if isinstance(error, OSError) and error.errno is not None:
            raise unreadable(file, error) from error
        cause = str(error) or type(error).__name__
        raise UserError(f"{file} is damaged or cut off ({cause}); fetch it again.") from error


def _misread(image: Image.Image) -> str | None:
    """Return what Pillow would read wrongly without a word; None if there is nothing."""
    if _is_16_bit(image) and "transparency" in image.info:
        return "has a transparent colour of 16 bits"
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tags = image.tag_v2
        bits = max(cast(tuple[int, ...], tags.get(_BITS_PER_SAMPLE, (1,))))
        if bits > 8 and tags.get(_PLANAR) == _SEPARATE_PLANES:
            return f"keeps its channels of {bits} bits apart (planar TIFF)"
        if bits > 8 and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
            return f"has {bits} bits of which 0 is white (TIFF)"
    return None


def _is_16_bit(image: Image.Image) -> bool:
    """Return whether an image that is not decoded yet has 16 bits per channel, though Pillow hands out 8 of colours."""
    layouts = (tile[3][0] if isinstance(tile[3], tuple) else tile[3] for tile in getattr(image, "tile", []))
    return image.mode.startswith("I;16") or any(";16" in layout for layout in layouts if isinstance(layout, str))


def _decoded(file: Path, image: Image.Image) -> Image.Image:
    """Return the decoded picture, turned as the EXIF orientation says."""
    turn = None if image.format == "TIFF" else _TURNS.get(_orientation(image))  # Pillow turns TIFF while decoding it
    with _damage_named(file):
        image.load()
        return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8, from the header; 1 where there is none or it cannot be read."""
    try:
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            given = image.tag_v2.get(_ORIENTATION)
        else:
            # The base class's method: that of PNG decodes the picture to look for EXIF behind it.
            given = Image.Image.getexif(image).get(_ORIENTATION)
    except Exception:  # a damaged EXIF block says nothing, and viewers show the picture all the same
        return 1
    return given if given in _TURNS else 1


def _shown_size(image: Image.Image) -> tuple[int, int]:
    """Return width and height after turning, by the header."""
    if image.format != "TIFF" and _orientation(image) >= _SWAPS_SIDES:
        return image.height, image.width
    return image.size


def _check_same_size(file: Path, mask: Image.Image, image_file: Path, image: Image.Image) -> None:
    size, expected = _shown_size(mask), _shown_size(image)
    turned = _orientation(image)
    if size == expected:
        # Where turning leaves the size as it is, the size does not show which of the two the mask was drawn on.
        if turned != 1 and _orientation(mask) == 1 and (turned < _SWAPS_SIDES or size[0] == size[1]):
            logger.warning(
                "%s is turned by its EXIF orientation (%d) and its mask is not: check that they lie on each other.",
                image_file,
                turned,
            )
        return
    sizes = f"{file} is {size[0]} x {size[1]} pixels, its image {image_file} is {expected[0]} x {expected[1]}"
    if turned >= _SWAPS_SIDES and size == expected[::-1]:
        raise MaskSizeError(
            f"{sizes} when it is turned as its EXIF orientation ({turned}) says. The mask fits the unturned image: "
            "turn the mask in the same way, or remove the orientation from the image (exiftool -Orientation= FILE)."
        )
    raise MaskSizeError(f"{sizes}; a mask has the size of its image.")


def _check_opaque(file: Path, image: Image.Image) -> None:
    if not image.has_transparency_data:
        return
    alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    if clear := np.count_nonzero(alpha < 255):
        raise UserError(
            f"{file}: {clear} of {alpha.size} pixels ({clear / alpha.size:.1%}) are transparent, so their colour is "
            "not known; lay it on its background (black for a mask) and save it without transparency."
        )
