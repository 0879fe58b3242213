from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from qgbench.base.colors import CLASS_COLORS
from qgbench.data import sheet
from qgbench.data.readers import open_pool, open_source
from qgbench.data.sheet import choose_images, draw_sheet
from qgbench.data.source import Slice

YELLOW = (255, 225, 26)


def picture(folder: Path, id: str, size: tuple[int, int], box: tuple[int, int, int, int] | None) -> None:
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 40, 40)).save(folder / f"images/{id}.png")
    mask = Image.new("L", size)
    if box is not None:
        mask.paste(255, box)
    mask.save(folder / f"masks/{id}.png")


def test_the_outline_lies_on_the_edge_of_the_mask(tmp_path: Path) -> None:
    picture(tmp_path / "own", "wide", (480, 240), (120, 60, 240, 180))
    picture(tmp_path / "own", "none", (100, 100), None)
    draw_sheet(open_source(str(tmp_path / "own")), ["wide", "none"], tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (8 + 240 + 8 + 16, 2 * (240 + 8) + 8, 3)
    rows, columns = np.nonzero((sheet == YELLOW).all(2))
    # Half size, from the left upper corner (8, 8 + 60): the lesion covers columns 60..119 and rows 30..89.
    assert (columns.min(), columns.max()) == (8 + 60, 8 + 119)
    assert (rows.min(), rows.max()) == (8 + 60 + 30, 8 + 60 + 89)
    assert len(rows) == 4 * 60 - 4
    assert (sheet[8 + 60 + 60, 8 + 90] == (90, 40, 40)).all()


def test_a_pool_has_no_outlines_and_long_rows_and_captions_are_broken(tmp_path: Path) -> None:
    (tmp_path / "pool/unlabelled").mkdir(parents=True)
    for number in range(8):
        Image.new("RGB", (30, 40), (20, 20, 200)).save(tmp_path / f"pool/unlabelled/{'x' * 60}{number}.png")
    source = open_pool(str(tmp_path / "pool"))
    draw_sheet(source, source.ids, tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    lines = 2  # of 61 letters and a size
    assert sheet.shape[:2] == (2 * (240 + 8 + lines * 16) + 8, 6 * 248 + 8)
    below = sheet[8 + 240 : 8 + 240 + lines * 16, 8:248]
    assert all((band < 128).any() for band in np.split(below, lines))
    assert not (sheet == YELLOW).all(2).any()


class Slices:
    """One slice of 20 x 40 voxels, of which the left half is the second of three classes."""

    labelled = True
    classes = ("first", "second", "a class of a long name")

    def __init__(self, spacing: tuple[float, float, float] | None) -> None:
        self.volumes = {"v_z000": Slice("v", 0, spacing)}

    def image(self, id: str) -> NDArray[np.uint8]:
        return np.full((20, 40, 3), 90, np.uint8)

    def mask(self, id: str) -> NDArray[np.uint8]:
        mask = np.zeros((20, 40), np.uint8)
        mask[:, :20] = 2
        return mask


@pytest.mark.parametrize(
    ("spacing", "size"), [(None, (120, 240)), ((9.0, 2.0, 1.0), (240, 240)), ((1.0, 4.0, 1.0), (240, 120))]
)
def test_voxels_have_their_shape_where_the_spacing_is_known(
    tmp_path: Path, spacing: tuple[float, float, float] | None, size: tuple[int, int]
) -> None:
    draw_sheet(Slices(spacing), ["v_z000"], tmp_path / "sheet.png")
    picture = np.asarray(Image.open(tmp_path / "sheet.png"))[8 : 8 + 240]
    rows, columns = np.nonzero((picture != 255).any(2))
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == size
    rows, columns = np.nonzero((picture == sheet.class_colours(3)[1]).all(2))
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (size[0], size[1] // 2)


def test_a_caption_parts_the_name_of_a_class_from_its_share() -> None:
    _, caption = sheet._picture(Slices(None), "v_z000")
    assert caption == ["v_z000", "40 x 20", "second: 50.0%"]  # and not the classes that it does not show


@pytest.mark.parametrize(
    "parts", [["a_z000", "40 x 20", "second: 50.0%"], ["w" * 99, "9 x 9"], ["some class: 1.0%"] * 30, ["short"]]
)
def test_captions_are_whole(parts: list[str]) -> None:
    lines = sheet._wrapped(parts)
    assert "".join(lines).replace(" ", "") == "".join(parts).replace(" ", "")
    assert all(lines)
    assert max(sheet._FONT.getlength(line) for line in lines) <= 240
    assert all(any(part in line for line in lines) for part in parts if len(part) < 40)


@pytest.mark.parametrize(("count", "expected"), [(1, ["a"]), (2, ["a", "e"]), (3, ["a", "c", "e"]), (9, list("abcde"))])
def test_images_are_chosen_over_all_ids(tmp_path: Path, count: int, expected: list[str]) -> None:
    for id in "abcde":
        picture(tmp_path / "own", id, (8, 8), (0, 0, 4, 4))
    assert choose_images(open_source(str(tmp_path / "own")).ids, count) == expected


def test_a_class_has_the_colour_that_it_has_in_case_pictures() -> None:
    colours = ["#" + bytes(colour).hex() for colour in sheet.class_colours(len(CLASS_COLORS) + 1)]
    assert colours == [*CLASS_COLORS, CLASS_COLORS[0]]
    assert sheet.class_colours(1) == [(255, 225, 26)]
