from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qgbench.base.colors import CLASS_COLORS
from qgbench.data import sheet
from qgbench.data.readers import open_pool, open_source
from qgbench.data.sheet import choose_images, draw_sheet

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


def test_a_pool_has_no_outlines_and_long_rows_are_broken(tmp_path: Path) -> None:
    (tmp_path / "pool/unlabelled").mkdir(parents=True)
    for number in range(8):
        Image.new("RGB", (30, 40), (20, 20, 200)).save(tmp_path / f"pool/unlabelled/{'x' * 60}{number}.png")
    source = open_pool(str(tmp_path / "pool"))
    draw_sheet(source, source.ids, tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape[:2] == (2 * (240 + 8 + 16) + 8, 6 * 248 + 8)
    assert not (sheet == YELLOW).all(2).any()


@pytest.mark.parametrize(("count", "expected"), [(1, ["a"]), (2, ["a", "e"]), (3, ["a", "c", "e"]), (9, list("abcde"))])
def test_images_are_chosen_over_all_ids(tmp_path: Path, count: int, expected: list[str]) -> None:
    for id in "abcde":
        picture(tmp_path / "own", id, (8, 8), (0, 0, 4, 4))
    assert choose_images(open_source(str(tmp_path / "own")).ids, count) == expected


def test_a_class_has_the_colour_that_it_has_in_case_pictures() -> None:
    colours = ["#" + bytes(colour).hex() for colour in sheet.class_colours(8)]
    assert colours == [*CLASS_COLORS, CLASS_COLORS[0]]
    assert sheet.class_colours(1) == [(255, 225, 26)]
