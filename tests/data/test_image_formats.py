"""What files become: pixels known beforehand, or tifffile's, or one clear refusal."""

import errno
import io
import math
import os
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, UnidentifiedImageError

from qgbench.base.errors import UserError
from qgbench.data.images import palette_misleads, read_bytes, read_image, read_mask
from tests.data.test_readers import listening

SHAPE = (20, 31)
RNG = np.random.default_rng(0)
NOISE = RNG.integers(256, size=(*SHAPE, 3), dtype=np.uint8)
BINARY = (RNG.random(SHAPE) < 0.5).astype(np.uint8) * 255
DEEP = RNG.integers(1 << 16, size=(*SHAPE, 3)).astype(np.uint16)
# A picture whose eight orientations all differ.
ARROW = np.zeros((6, 4), dtype=np.uint8)
ARROW[0, :3] = ARROW[1, 0] = 255


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png(pixels: np.ndarray, colour_type: int, *chunks: tuple[bytes, bytes], late: bytes = b"") -> bytes:
    """A PNG written by hand: 8 or 16 bits; chunks go before the pixels, `late` (EXIF) behind them."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = pixels.shape[:2]
    bits = 8 * pixels.dtype.itemsize
    rows = b"".join(b"\0" + row.astype(row.dtype.newbyteorder(">")).tobytes() for row in pixels)
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0))]
    parts += [chunk(*given) for given in chunks]
    parts.append(chunk(b"IDAT", zlib.compress(rows)))
    if late:
        parts.append(chunk(b"eXIf", late))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def tiff(pixels: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    options.setdefault("photometric", "rgb" if pixels.ndim == 3 else "minisblack")
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def put(folder: Path, content: bytes, name: str = "x.png") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def refusal(file: Path, mask: Path | None = None) -> str:
    """The one-line message with which an image, or the mask of an image, is refused."""
    with pytest.raises(UserError) as caught:
        read_image(file) if mask is None else read_mask(mask, file)
    assert str(mask or file) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def attempt(read: Callable[[Path], np.ndarray], file: Path) -> tuple[np.ndarray | None, str]:
    """What is read, or the message of the refusal."""
    try:
        return read(file), ""
    except UserError as error:
        return None, str(error)


def grey(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(pixels[..., None], 3, axis=2)


# Kinds of pixels


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P"])
def test_lossless_kinds_are_exact(tmp_path: Path, kind: str, mode: str) -> None:
    pixels = {"RGB": NOISE, "L": grey(NOISE[..., 0]), "1": grey(BINARY), "P": NOISE // 128 * 255}[mode]
    picture = Image.fromarray(pixels)
    if mode == "P":
        picture = picture.quantize(8)
    file = put(tmp_path, encoded(picture if mode == "P" else picture.convert(mode), kind))
    assert Image.open(file).mode == mode
    np.testing.assert_array_equal(read_image(file), pixels)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_palette_of_few_bits(tmp_path: Path, bits: int) -> None:
    colours = NOISE.reshape(-1, 3)[: 1 << bits]
    picture = Image.fromarray(RNG.integers(1 << bits, size=SHAPE).astype(np.uint8), "P")
    picture.putpalette(colours.tobytes())
    expected = colours[np.asarray(picture)]
    np.testing.assert_array_equal(read_image(put(tmp_path, encoded(picture, "PNG", bits=bits))), expected)


@pytest.mark.parametrize("ink", range(8))
def test_cmyk_jpeg_of_known_colour(tmp_path: Path, ink: int) -> None:
    """Adobe's CMYK JPEGs are stored inverted; without inks paper is white."""
    inks = np.array([255 * (ink >> channel & 1) for channel in range(3)] + [0], dtype=np.uint8)
    flat = np.broadcast_to(inks, (16, 16, 4)).copy()
    file = put(tmp_path, encoded(Image.fromarray(flat, "CMYK"), "JPEG", quality=100), "x.jpg")
    assert b"Adobe" in file.read_bytes()
    np.testing.assert_allclose(read_image(file).astype(int), np.broadcast_to(255 - inks[:3], (16, 16, 3)), atol=3)


def test_black_ink_and_cmyk_tiff(tmp_path: Path) -> None:
    flat = np.broadcast_to(np.array([0, 255, 255, 51], dtype=np.uint8), (8, 8, 4)).copy()
    file = put(tmp_path, encoded(Image.fromarray(flat, "CMYK"), "TIFF"))
    assert read_image(file)[3, 3].tolist() == [204, 0, 0]


def test_jpeg_of_known_colours_in_ycbcr(tmp_path: Path) -> None:
    picture = Image.new("RGB", (16, 16), (200, 40, 90))
    for kind, stored in (("JPEG", picture), ("TIFF", picture.convert("YCbCr"))):
        pixels = read_image(put(tmp_path, encoded(stored, kind)))
        np.testing.assert_allclose(pixels[5, 5].astype(int), (200, 40, 90), atol=3)


@pytest.mark.parametrize("colour_type", [0, 2, 4, 6])
def test_sixteen_bit_png_gives_the_high_byte(tmp_path: Path, colour_type: int) -> None:
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour_type]
    pixels = RNG.integers(1 << 16, size=(*SHAPE, channels)).astype(np.uint16)
    if colour_type >= 4:
        pixels[..., -1] = 65535
    high = (pixels >> 8).astype(np.uint8)
    expected = high[..., :3] if channels >= 3 else grey(high[..., 0])
    np.testing.assert_array_equal(read_image(put(tmp_path, png(pixels, colour_type))), expected)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_sixteen_bit_tiff_gives_the_high_byte(tmp_path: Path, byteorder: str, compression: str | None) -> None:
    options = {"byteorder": byteorder, "compression": compression}
    expected = (DEEP >> 8).astype(np.uint8)
    np.testing.assert_array_equal(read_image(put(tmp_path, tiff(DEEP, **options))), expected)
    np.testing.assert_array_equal(read_image(put(tmp_path, tiff(DEEP[..., 0], **options))), grey(expected[..., 0]))


def test_eight_bits_stretched_to_sixteen_come_back(tmp_path: Path) -> None:
    stretched = NOISE.astype(np.uint16) * 257
    np.testing.assert_array_equal(read_image(put(tmp_path, png(stretched, 2))), NOISE)
    np.testing.assert_array_equal(read_image(put(tmp_path, png(stretched[..., 0], 0))), grey(NOISE[..., 0]))


@pytest.mark.parametrize("write", [lambda p: png(p, 2), lambda p: png(p[..., 0], 0), tiff, lambda p: tiff(p[..., 0])])
def test_fewer_bits_in_a_file_of_sixteen_are_refused(tmp_path: Path, write: Any) -> None:
    scaled = (DEEP >> 2).astype(np.uint16)
    scaled[0, 0] = (1 << 14) - 1
    message = refusal(put(tmp_path, write(scaled)))
    assert "has 16 bits per channel but no value above 16383" in message
    assert "save it with 8 bits per channel" in message
    scaled[0, 0] = 1 << 14
    read_image(put(tmp_path, write(scaled)))


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.int16])
def test_other_numbers_are_refused_as_images(tmp_path: Path, dtype: type) -> None:
    message = refusal(put(tmp_path, tiff((DEEP[..., 0] >> 1).astype(dtype))))
    assert "black and white levels are not known; scale them and save the image with 8 bits per channel" in message


def test_lab_is_refused_by_name(tmp_path: Path) -> None:
    file = put(tmp_path, encoded(Image.fromarray(NOISE, "LAB"), "TIFF"))
    assert "pixels of the kind LAB" in refusal(file)
    assert "pixels of the kind LAB" in refusal(file, file)


def test_signed_masks_are_read(tmp_path: Path) -> None:
    file = put(tmp_path, tiff((BINARY // 255).astype(np.int16)))
    np.testing.assert_array_equal(read_mask(file, file), BINARY > 0)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (tiff(DEEP.transpose(2, 0, 1).copy(), planarconfig="separate"), "channels of 16 bits apart"),
        (tiff(DEEP[..., 0], photometric="miniswhite"), "has 16 bits of which 0 is white"),
        (png(DEEP, 2, (b"tRNS", DEEP[0, 0].astype(">u2").tobytes())), "a transparent colour of 16 bits"),
    ],
)
def test_what_pillow_would_read_wrongly_is_refused(tmp_path: Path, content: bytes, what: str) -> None:
    file = put(tmp_path, content)
    for message in (refusal(file), refusal(file, file)):
        assert what in message
        assert "save it as PNG with 8 bits per channel" in message


def test_eight_bit_tiffs_that_look_alike_are_read(tmp_path: Path) -> None:
    planar = tiff(NOISE.transpose(2, 0, 1).copy(), planarconfig="separate")
    np.testing.assert_array_equal(read_image(put(tmp_path, planar)), NOISE)
    white_is_zero = tiff(NOISE[..., 0], photometric="miniswhite")
    np.testing.assert_array_equal(read_image(put(tmp_path, white_is_zero)), grey(255 - NOISE[..., 0]))


# Transparency


def with_alpha(mode: str, alpha: np.ndarray) -> Image.Image:
    picture = Image.fromarray(grey(BINARY)).convert("LA" if mode == "LA" else "RGBA")
    picture.putalpha(Image.fromarray(alpha))
    return picture if mode != "PA" else picture.convert("PA")


@pytest.mark.parametrize(
    ("mode", "kind"), [("RGBA", "PNG"), ("RGBA", "TIFF"), ("LA", "PNG"), ("LA", "TIFF"), ("PA", "TIFF")]
)
def test_alpha_is_taken_only_where_it_is_opaque(tmp_path: Path, mode: str, kind: str) -> None:
    alpha = np.full(SHAPE, 255, dtype=np.uint8)
    file = put(tmp_path, encoded(with_alpha(mode, alpha), kind))
    assert Image.open(file).mode == mode
    np.testing.assert_array_equal(read_image(file), grey(BINARY))
    np.testing.assert_array_equal(read_mask(file, file), BINARY > 0)
    alpha[4, 5:7] = 0, 254
    file = put(tmp_path, encoded(with_alpha(mode, alpha), kind))
    for message in (refusal(file), refusal(file, file)):
        assert (
            "2 of 620 pixels (0.3%) are transparent, so their colour is not known; lay it on its background" in message
        )


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_transparent_palette_entry_matters_only_if_it_is_used(tmp_path: Path, kind: str) -> None:
    indices = (BINARY // 255).astype(np.uint8)
    picture = Image.fromarray(indices, "P")
    picture.putpalette([0, 0, 0, 255, 255, 255, 9, 9, 9, 7, 7, 7])
    file = put(tmp_path, encoded(picture, kind, transparency=2, **({"optimize": False} if kind == "GIF" else {})))
    np.testing.assert_array_equal(read_mask(file, file), BINARY > 0)
    np.testing.assert_array_equal(read_image(file), grey(BINARY))
    file = put(tmp_path, encoded(picture, kind, transparency=0))
    count = (indices == 0).sum()
    assert f"{count} of 620 pixels" in refusal(file)
    assert f"{count} of 620 pixels" in refusal(file, file)


@pytest.mark.parametrize(
    ("pixels", "colour_type", "colour"), [(NOISE, 2, NOISE[3, 4]), (NOISE[..., 0], 0, NOISE[3, 4, :1])]
)
def test_transparent_colour_of_a_png(tmp_path: Path, pixels: np.ndarray, colour_type: int, colour: np.ndarray) -> None:
    file = put(tmp_path, png(pixels, colour_type, (b"tRNS", colour.astype(">u2").tobytes())))
    count = (pixels.reshape(620, -1) == colour).all(axis=1).sum()
    assert f"{count} of 620 pixels" in refusal(file)


# Colours that a TIFF calls grey


def with_tag(content: bytes, tag: int, value: int) -> bytes:
    """A TIFF with another value in one tag that holds a short."""
    order = "<" if content[:2] == b"II" else ">"
    changed = bytearray(content)
    start = struct.unpack_from(f"{order}I", content, 4)[0]
    count = struct.unpack_from(f"{order}H", content, start)[0]
    entry = next(
        at for n in range(count) if struct.unpack_from(f"{order}H", content, at := start + 2 + 12 * n)[0] == tag
    )
    struct.pack_into(f"{order}H", changed, entry + 8, value)
    return bytes(changed)


def colours_called_grey() -> list[bytes]:
    plain = [tiff(NOISE, byteorder=order, photometric="minisblack", planarconfig="contig") for order in "<>"]
    other = [tiff(NOISE, byteorder=order) for order in "<>"]
    other += [encoded(Image.fromarray(NOISE), "TIFF", compression=name) for name in ("tiff_lzw", "tiff_adobe_deflate")]
    return plain + [with_tag(content, 262, 1) for content in other]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("content", colours_called_grey())
def test_tiff_of_three_samples_that_is_labelled_grey_is_read_as_rgb(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(content))
    file = put(tmp_path, content)
    np.testing.assert_array_equal(read_image(file), NOISE)
    mask = put(tmp_path, encoded(Image.fromarray(BINARY), "PNG"), "m.png")
    np.testing.assert_array_equal(read_mask(mask, file), BINARY > 0)
    for kept in (*range(0, 200, 3), len(content) // 2, len(content) - 1):
        file.write_bytes(content[:kept])
        pixels, message = attempt(read_image, file)
        assert str(file) in message if pixels is None else np.array_equal(pixels, NOISE)


def test_mask_in_a_tiff_of_three_samples_that_is_labelled_grey(tmp_path: Path) -> None:
    file = put(tmp_path, tiff(grey(BINARY), photometric="minisblack", planarconfig="contig"))
    np.testing.assert_array_equal(read_mask(file, file), BINARY > 0)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_tiff_whose_directory_is_nowhere(tmp_path: Path) -> None:
    for start in (0, 4, 1 << 31):
        assert "fetch it again" in refusal(put(tmp_path, b"II*\0" + struct.pack("<I", start)))


# Pages and frames


def test_several_pages_or_frames_are_refused(tmp_path: Path) -> None:
    first, second = Image.fromarray(BINARY), Image.fromarray(255 - BINARY)
    for kind in ("TIFF", "GIF", "PNG"):
        file = put(tmp_path, encoded(first, kind, save_all=True, append_images=[second]))
        for message in (refusal(file), refusal(file, file)):
            assert "holds 2 pages or frames, and which one is meant is not known; save that one alone" in message


def test_channels_as_pages_are_refused(tmp_path: Path) -> None:
    assert "holds 3 pages" in refusal(put(tmp_path, tiff(NOISE.transpose(2, 0, 1).copy(), photometric="minisblack")))


def test_first_frame_of_a_phones_jpeg_is_the_picture(tmp_path: Path) -> None:
    picture, other = Image.fromarray(NOISE), Image.new("RGB", (5, 5))
    file = put(tmp_path, encoded(picture, "MPO", save_all=True, append_images=[other]), "x.jpg")
    assert Image.open(file).n_frames == 2  # type: ignore[attr-defined]  # GIF and TIFF have it
    alone = put(tmp_path, encoded(picture, "JPEG"), "y.jpg")
    np.testing.assert_array_equal(read_image(file), read_image(alone))


# EXIF orientation. The judge is the EXIF standard: where row 0 and column 0 of the stored picture are shown.

SHOWN = {
    1: ARROW,
    2: ARROW[:, ::-1],  # row 0 is the top, column 0 the right side
    3: ARROW[::-1, ::-1],  # bottom, right
    4: ARROW[::-1],  # bottom, left
    5: ARROW.T,  # left, top
    6: ARROW.T[:, ::-1],  # right, top
    7: ARROW.T[::-1, ::-1],  # right, bottom
    8: ARROW.T[::-1],  # left, bottom
}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("orientation", SHOWN)
def test_orientation_turns_images_and_masks(tmp_path: Path, kind: str, orientation: int) -> None:
    big = np.kron(ARROW, np.ones((16, 16), dtype=np.uint8))  # whole JPEG blocks
    tags = Image.Exif()
    tags[0x0112] = orientation
    file = put(tmp_path, encoded(Image.fromarray(big), kind, exif=tags))
    expected = np.kron(SHOWN[orientation], np.ones((16, 16), dtype=np.uint8))
    np.testing.assert_allclose(read_image(file).astype(int), grey(expected), atol=2)
    if kind != "JPEG":
        np.testing.assert_array_equal(read_mask(file, file), expected > 0)
    # A mask that is drawn on the shown picture fits, however the image is stored.
    mask = put(tmp_path, encoded(Image.fromarray(expected), "PNG"), "m.png")
    np.testing.assert_array_equal(read_mask(mask, file), expected > 0)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_mask_of_the_unturned_image(tmp_path: Path, orientation: int) -> None:
    image = put(tmp_path, encoded(Image.fromarray(ARROW), "JPEG", exif=exif(orientation)), "x.jpg")
    mask = put(tmp_path, encoded(Image.fromarray(ARROW), "PNG"), "m.png")
    message = refusal(image, mask)
    assert f"m.png is 4 x 6 pixels, its image {image} is 6 x 4 when it is turned" in message
    assert f"EXIF orientation ({orientation})" in message
    assert "turn the mask in the same way, or remove the orientation from the image" in message
    # With the same orientation of its own it fits.
    turned = put(tmp_path, encoded(Image.fromarray(ARROW), "PNG", exif=exif(orientation)), "m.png")
    np.testing.assert_array_equal(read_mask(turned, image), SHOWN[orientation] > 0)


def test_mask_that_fits_neither_way(tmp_path: Path) -> None:
    image = put(tmp_path, encoded(Image.fromarray(ARROW), "JPEG", exif=exif(6)), "x.jpg")
    mask = put(tmp_path, encoded(Image.fromarray(ARROW[:5]), "PNG"), "m.png")
    assert "m.png is 4 x 5 pixels" in (message := refusal(image, mask))
    assert "is 6 x 4; a mask has the size of its image" in message


@pytest.mark.parametrize(
    ("orientation", "sides", "doubtful"), [(3, (6, 4), True), (6, (4, 4), True), (1, (6, 4), False)]
)
def test_warns_where_the_size_cannot_show_a_turn(
    tmp_path: Path, orientation: int, sides: tuple[int, int], doubtful: bool
) -> None:
    pixels = np.zeros(sides, dtype=np.uint8)
    image = put(tmp_path, encoded(Image.fromarray(pixels), "JPEG", exif=exif(orientation)), "x.jpg")
    plain = put(tmp_path, encoded(Image.fromarray(pixels), "PNG"), "m.png")
    turned = put(tmp_path, encoded(Image.fromarray(pixels), "PNG", exif=exif(orientation)), "n.png")
    with listening() as said:
        read_mask(turned, image)
        assert said == []
        read_mask(plain, image)
    assert len(said) == doubtful
    assert all(
        f"{image} is turned by its EXIF orientation ({orientation}) and its mask is not" in text for text in said
    )


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("block", [exif(0), exif(9), b"Exif\0\0nonsense", exif(6)[:-9]])
def test_orientation_that_says_nothing(tmp_path: Path, block: bytes) -> None:
    file = put(tmp_path, encoded(Image.fromarray(ARROW), "PNG", exif=block))
    np.testing.assert_array_equal(read_image(file), grey(ARROW))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "GIF"])
def test_size_of_an_image_is_compared_without_decoding_it(tmp_path: Path, kind: str) -> None:
    mask = put(tmp_path, encoded(Image.fromarray(BINARY), "PNG"), "m.png")
    content = encoded(Image.fromarray(NOISE), kind)
    image = put(tmp_path, content[: len(content) * 4 // 5])
    np.testing.assert_array_equal(read_mask(mask, image), BINARY > 0)
    assert "cut off" in refusal(image)


def test_orientation_behind_the_pixels_of_a_png_is_left_alone_by_images_and_sizes_alike(tmp_path: Path) -> None:
    file = put(tmp_path, png(ARROW, 0, late=exif(6).removeprefix(b"Exif\0\0")))
    assert read_image(file).shape == (6, 4, 3)
    np.testing.assert_array_equal(read_mask(file, file), ARROW > 0)


# Masks


def test_antialiased_mask(tmp_path: Path) -> None:
    soft = np.zeros(SHAPE, dtype=np.uint8)
    soft[5:15, 5:15] = 255
    soft[5, 5:15] = 128
    soft[14, 5:15] = 64
    file = put(tmp_path, encoded(Image.fromarray(soft), "PNG"))
    message = refusal(file, file)
    assert "holds 4 values: 20 of 620 pixels (3.2%) are neither 0 nor 255" in message
    assert "threshold it, for example at half of its maximum, and save it as PNG" in message
    file = put(tmp_path, encoded(Image.fromarray((soft >= 128).astype(np.uint8) * 255), "PNG"))
    assert read_mask(file, file).sum() == 90


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_mask(tmp_path: Path, mode: str) -> None:
    disc = (np.hypot(*np.indices((64, 64)) - 31.5) < 20).astype(np.uint8) * 255
    file = put(tmp_path, encoded(Image.fromarray(disc).convert(mode), "JPEG", quality=75), "x.jpg")
    stored = np.asarray(Image.open(file).convert("L"))
    strays = ((stored != 0) & (stored != stored.max())).sum()
    assert strays > 100
    message = refusal(file, file)
    assert f"{strays} of 4096 pixels" in message
    assert "save it as PNG (JPEG adds values)" in message


def test_mask_of_several_colours(tmp_path: Path) -> None:
    colours = np.zeros((*SHAPE, 3), dtype=np.uint8)
    colours[:5, :5] = (255, 0, 0)
    colours[9, 9:12] = (0, 255, 0)
    file = put(tmp_path, encoded(Image.fromarray(colours), "PNG"))
    assert "holds 3 colours: 3 of 620 pixels (0.5%) are neither black nor #ff0000" in refusal(file, file)
    colours[9] = 0
    file = put(tmp_path, encoded(Image.fromarray(colours), "PNG"))
    assert read_mask(file, file).sum() == 25


@pytest.mark.parametrize("value", [1, 255, 4000, 65535])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_deep_grey_masks_are_exact(tmp_path: Path, value: int, byteorder: str) -> None:
    pixels = BINARY // 255 * np.uint16(value)
    for file in (put(tmp_path, tiff(pixels, byteorder=byteorder)), put(tmp_path, png(pixels, 0))):
        np.testing.assert_array_equal(read_mask(file, file), BINARY > 0)


def test_mask_in_deep_colours_is_refused_for_its_low_bytes(tmp_path: Path) -> None:
    pixels = grey(BINARY // 255).astype(np.uint16)
    for content in (png(pixels, 2), tiff(pixels)):
        file = put(tmp_path, content)
        assert "is a mask in 16-bit colours; save it as 8-bit greyscale" in refusal(file, file)


def test_float_masks(tmp_path: Path) -> None:
    pixels = BINARY.astype(np.float32) / 255
    file = put(tmp_path, tiff(pixels))
    np.testing.assert_array_equal(read_mask(file, file), BINARY > 0)
    for stray, what in ((0.5, "threshold it"), (-1.0, "threshold it"), (np.nan, "are infinite or no number")):
        pixels[0, 0] = stray
        file = put(tmp_path, tiff(pixels))
        assert what in refusal(file, file)


@pytest.mark.parametrize("value", [-1, 7])
def test_the_one_other_value_may_be_negative(tmp_path: Path, value: int) -> None:
    pixels = (BINARY // 255).astype(np.int32) * value
    file = put(tmp_path, encoded(Image.fromarray(pixels), "TIFF"))
    np.testing.assert_array_equal(read_mask(file, file), BINARY > 0)
    pixels[0, 0] = 2 * value
    file = put(tmp_path, encoded(Image.fromarray(pixels), "TIFF"))
    assert f"are neither 0 nor {pixels.max() or pixels.min()}." in refusal(file, file)


def test_few_strays_among_many_pixels_are_not_called_none(tmp_path: Path) -> None:
    pixels = np.zeros((200, 200), dtype=np.uint8)
    pixels[0, :2] = 255, 1
    file = put(tmp_path, encoded(Image.fromarray(pixels), "PNG"))
    assert "1 of 40000 pixels (below 0.1%) are neither 0 nor 255" in refusal(file, file)


@pytest.mark.parametrize(
    ("pixels", "level"),
    [
        (np.arange(256).astype(np.uint8), 127),
        (np.arange(0, 65536, 256).astype(np.uint16), 32767),
        (np.linspace(0, 1, 256, dtype=np.float32), 0.5),
        (np.arange(256).astype(np.uint8), 0),
        (np.repeat(np.arange(256).astype(np.uint8)[:, None], 3, axis=1), 200),
    ],
)
def test_what_is_above_a_grey_level_is_lesion(tmp_path: Path, pixels: np.ndarray, level: float) -> None:
    soft = pixels.reshape(16, 16, *pixels.shape[1:])
    file = put(tmp_path, tiff(soft))
    expected = (soft if soft.ndim == 2 else soft[..., 0]) > level
    np.testing.assert_array_equal(read_mask(file, file, level), expected)
    assert 0 < expected.sum() < expected.size


def test_a_mask_of_one_bit_has_no_levels_to_cut(tmp_path: Path) -> None:
    file = put(tmp_path, encoded(Image.fromarray(BINARY > 0), "PNG"))
    np.testing.assert_array_equal(read_mask(file, file, 127), BINARY > 0)


@pytest.mark.parametrize(
    ("kind", "level", "most"),
    [(np.uint8, 255, 255), (np.uint8, 0.5, 255), (np.uint8, math.nan, 255), (np.uint16, 7e4, 65535)],
)
def test_a_level_that_cuts_nothing_is_refused(tmp_path: Path, kind: type, level: float, most: int) -> None:
    file = put(tmp_path, tiff(BINARY.astype(kind)))
    with pytest.raises(UserError, match=rf"--threshold .* whole numbers 0 to {most}; half of them is {most // 2}\."):
        read_mask(file, file, level)


def palette(*colours: tuple[int, int, int]) -> Image.Image:
    """A mask of the numbers 0 and 1 in these colours."""
    picture = Image.fromarray(BINARY // 255, "P")
    picture.putpalette([channel for colour in colours for channel in colour])
    return picture


@pytest.mark.parametrize(
    ("picture", "misleads", "foreground"),
    [
        (palette((0, 0, 0), (255, 0, 0)), False, BINARY > 0),
        (palette((0, 0, 0), (0, 0, 0)), True, np.zeros(SHAPE, bool)),
        (palette((255, 255, 255), (0, 0, 0)), True, BINARY == 0),
        (Image.fromarray(BINARY), False, BINARY > 0),
    ],
)
def test_a_palette_whose_numbers_and_colours_disagree(
    tmp_path: Path, picture: Image.Image, misleads: bool, foreground: np.ndarray
) -> None:
    file = put(tmp_path, encoded(picture, "PNG"))
    assert palette_misleads(file) == misleads
    np.testing.assert_array_equal(read_mask(file, file), foreground)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF"])
@pytest.mark.parametrize("value", [0, 255])
def test_empty_and_full_masks(tmp_path: Path, kind: str, value: int) -> None:
    file = put(tmp_path, encoded(Image.new("L", (31, 20), value), kind))
    assert read_mask(file, file).mean() == value / 255


# Files that cannot be read


@pytest.mark.parametrize("part", ["image", "mask"])
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is empty (0 bytes); fetch it again"),
        (b"not a picture\n", "is damaged or not a PNG, JPEG, TIFF, BMP or GIF picture, whatever its name says"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "is damaged or not a PNG"),
    ],
)
def test_files_that_are_no_pictures(tmp_path: Path, content: bytes, what: str, part: str) -> None:
    file = put(tmp_path, content)
    assert what in refusal(file, file if part == "mask" else None)


def test_fault_that_pillow_reports_in_another_way(tmp_path: Path) -> None:
    text = b"k\0\0" + zlib.compress(b"x" * (1 << 21))  # more text than Pillow unpacks: a ValueError
    assert "is damaged or cut off (Decompressed data too large" in refusal(
        put(tmp_path, png(ARROW, 0, (b"zTXt", text)))
    )


def test_suffix_does_not_matter(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_image(put(tmp_path, encoded(Image.fromarray(NOISE), "TIFF"), "x.jpg")), NOISE)


@pytest.mark.parametrize(
    ("code", "what"),
    [
        (errno.EACCES, "may not be read (Permission denied); give yourself permission"),
        (errno.ENOENT, "is gone. Put it back"),
        (errno.EIO, "cannot be read (Input/output error); check the disk and give the same command again"),
    ],
)
@pytest.mark.parametrize("when", ["open", "load"])
def test_what_the_operating_system_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, what: str, when: str
) -> None:
    file = put(tmp_path, encoded(Image.fromarray(BINARY), "PNG"))

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(code, os.strerror(code), str(file))

    if when == "open":
        monkeypatch.setattr(Path, "open", refuse)
        monkeypatch.setattr(Path, "read_bytes", refuse)
        with pytest.raises(UserError) as caught:
            read_bytes(file)
        assert what in str(caught.value)
    else:
        monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", refuse)
    assert what in refusal(file)
    assert what in refusal(file, file)


def test_picture_of_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = put(tmp_path, encoded(Image.fromarray(NOISE), "PNG"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    assert "is too large (" in (message := refusal(file))
    assert "scale it down or cut it into tiles" in message


VARIANTS = [
    ("PNG", {}),
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("BMP", {}),
    ("GIF", {}),
]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize(("kind", "options"), VARIANTS)
def test_a_file_cut_off_anywhere_is_refused_or_whole(tmp_path: Path, kind: str, options: dict[str, Any]) -> None:
    content = encoded(Image.fromarray(BINARY), kind, **options)
    file = put(tmp_path, content)
    whole = read_image(file)
    refused = 0
    for kept in (*range(0, len(content), 7), *range(len(content) - 8, len(content))):
        file.write_bytes(content[:kept])
        pixels, message = attempt(read_image, file)
        if pixels is None:
            assert str(file) in message
            assert "fetch it again" in message
            refused += 1
        else:
            np.testing.assert_array_equal(pixels, whole)
    assert refused >= len(content) // 7 - 8


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF"])
def test_a_mask_cut_in_half_is_refused(tmp_path: Path, kind: str) -> None:
    content = encoded(Image.fromarray(BINARY), kind)
    image = put(tmp_path, content, "i")
    file = put(tmp_path, content[: len(content) // 2])
    assert "fetch it again" in refusal(image, file)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["PNG", "JPEG", "TIFF", "BMP", "GIF"]), seed=st.integers(0, 10_000), faults=st.integers(1, 10)
)
@pytest.mark.filterwarnings("ignore::Warning")
def test_a_damaged_file_is_refused_or_read_but_never_breaks_the_reader(
    tmp_path: Path, kind: str, seed: int, faults: int
) -> None:
    options = {"exif": exif(6)} if kind in ("PNG", "JPEG") else {}
    content = bytearray(encoded(Image.fromarray(NOISE), kind, **options))
    bytes_at = random.Random(seed)
    for _ in range(faults):
        content[bytes_at.randrange(min(len(content), 400))] = bytes_at.randrange(256)
    file = put(tmp_path, bytes(content))
    for read in (read_image, lambda file: read_mask(file, file)):
        pixels, message = attempt(read, file)
        assert str(file) in message if pixels is None else pixels.ndim >= 2
