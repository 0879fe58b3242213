"""Cases are the right ones, and their pictures show what they say: judged by the pixels of the file."""

import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageColor

from qgbench.base.errors import QGBenchError
from qgbench.metrics.table import IMAGE_COLUMNS
from qgbench.report.cases import Case, choose_cases, draw_cases, find_twin, pictures
from qgbench.report.figures import cases as drawn
from qgbench.run.folder import SPEC_NAME, RunFolder
from qgbench.run.record import IMAGES_NAME, RECORD_NAME
from tests.report.test_report import GROUP_DICE, make_record

Mask = NDArray[np.bool_]

SKIN = (200, 110, 90)
YELLOW, BLUE, WHITE = ((255, 225, 26), (47, 168, 255), (255, 255, 255))
HEIGHT, WIDTH = 60, 80


# Choosing


def rows(dice: dict[str, float], **columns: Any) -> pd.DataFrame:
    table = pd.DataFrame({"id": list(dice), "dice": list(dice.values()), "hd95": 5.0, "status": "ok", **columns})
    return table.reindex(columns=IMAGE_COLUMNS)


def ids(chosen: dict[str, list[Case]]) -> dict[str, list[str]]:
    return {kind: [case.id for case in cases] for kind, cases in chosen.items()}


def test_best_median_worst_and_most_changed() -> None:
    dice = {f"i{rank}": (10 + 9 * rank) / 100 for rank in range(9)}
    twin = dice | {"i4": 0.96, "i7": 0.03, "i0": 0.30, "i8": 0.83}
    assert ids(choose_cases(rows(dice), rows(twin), count=3)) == {
        "best": ["i8", "i7", "i6"],
        "median": ["i5", "i4", "i3"],
        "worst": ["i0", "i1", "i2"],
        "most changed": ["i7", "i4", "i0"],
    }


def test_equals_are_ordered_by_id() -> None:
    dice = dict.fromkeys("dbca", 0.5)
    chosen = choose_cases(rows(dice), rows(dict.fromkeys("abcd", 0.25)), count=2)
    assert ids(chosen) == {"best": ["a", "b"], "median": ["b", "c"], "worst": ["a", "b"], "most changed": ["a", "b"]}


def test_a_case_holds_its_row_and_its_twins_dice() -> None:
    images = rows({"a": 0.0, "b": 0.5}, hd95=[math.nan, 7.0], status=["missed", "ok"])
    missed, found = choose_cases(images, rows({"b": 0.75, "z": 1.0}))["worst"]
    assert (missed.dice, missed.twin_dice, missed.status) == (0.0, None, "missed")
    assert math.isnan(missed.hd95)
    assert found == Case("b", 0.5, 0.75, 7.0, "ok")


def test_only_images_that_the_twin_was_tested_on_too_can_have_changed() -> None:
    assert ids(choose_cases(rows({"a": 0.1, "b": 0.2}), rows({"b": 0.2, "c": 0.9})))["most changed"] == ["b"]
    assert "most changed" not in choose_cases(rows({"a": 0.1}), rows({"b": 0.2}))
    assert "most changed" not in choose_cases(rows({"a": 0.1}), None)


@settings(max_examples=100, deadline=None)
@given(
    dice=st.dictionaries(st.text("abc", min_size=1), st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=12),
    count=st.integers(1, 6),
)
def test_no_case_comes_twice_and_ranks_are_right(dice: dict[str, float], count: int) -> None:
    chosen = choose_cases(rows(dice), rows({id: 1 - value for id, value in dice.items()}), count)
    shuffled = dict(reversed(dice.items()))
    assert ids(choose_cases(rows(shuffled), rows({id: 1 - dice[id] for id in shuffled}), count)) == ids(chosen)
    values = sorted(dice.values())
    for cases in chosen.values():
        assert len({case.id for case in cases}) == len(cases) == min(count, len(dice))
    assert [case.dice for case in chosen["best"]] == values[::-1][:count]
    assert [case.dice for case in chosen["worst"]] == values[:count]
    # As many are left out above the middle as below, or one fewer.
    middle = [case.dice for case in chosen["median"]]
    left_out = len(values) - len(middle)
    assert middle == values[::-1][left_out // 2 : left_out // 2 + len(middle)]
    changes = [abs(2 * case.dice - 1) for case in chosen["most changed"]]
    assert changes == sorted((abs(2 * value - 1) for value in values), reverse=True)[:count]


# The twin


def finished(folder: Path, name: str, time: int, **changes: Any) -> RunFolder:
    """A finished run called `name`, finished at `time`."""
    file = make_record(folder / "made", GROUP_DICE, **changes)
    place = folder / "runs" / name
    shutil.copytree(file.parent, place)
    (place / SPEC_NAME).write_text("{}")
    os.utime(place / RECORD_NAME, (time, time))
    return RunFolder(place)


def twin_name(folder: RunFolder) -> str | None:
    record = folder.record()
    assert record is not None
    twin = find_twin(folder, record)
    return None if twin is None else twin.name


def test_twins_find_each_other(tmp_path: Path) -> None:
    base = finished(tmp_path, "base", 1)
    guided = finished(tmp_path, "guided", 2, addon="qw")
    assert twin_name(base) == "guided"
    assert twin_name(guided) == "base"


@pytest.mark.parametrize(
    "changes",
    [
        {"addon": ""},
        {"addon": "qw", "seed": 1},
        {"addon": "qw", "method": "fixmatch"},
        {"addon": "qw", "variant": "method.threshold=0.9"},
        {"addon": "qw", "protocol_version": 2},
        {"addon": "qw", "dataset": "ph2"},
        {"addon": "qw", "precision": "bf16"},
        {"addon": "qw", "device": "cuda"},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_a_run_that_differs_in_more_than_the_addon_is_no_twin(tmp_path: Path, changes: dict[str, Any]) -> None:
    base = finished(tmp_path, "base", 1)
    finished(tmp_path, "other", 2, **changes)
    assert twin_name(base) is None


def test_two_addons_are_no_twins(tmp_path: Path) -> None:
    guided = finished(tmp_path, "guided", 1, addon="qw", device="cuda")
    finished(tmp_path, "other", 2, addon="qar", device="cuda")
    assert twin_name(guided) is None
    finished(tmp_path, "base", 3, device="cuda")
    assert twin_name(guided) == "base"


def test_the_last_to_finish_is_the_twin(tmp_path: Path) -> None:
    base = finished(tmp_path, "base", 1)
    guided = finished(tmp_path, "guided", 5, addon="qw")
    again = finished(tmp_path, "guided~2", 5, addon="qw")
    assert twin_name(base) == "guided"
    os.utime(again.path / RECORD_NAME, (6, 6))
    assert twin_name(base) == "guided~2"
    os.utime(guided.path / RECORD_NAME, (7, 7))
    assert twin_name(base) == "guided"
    finished(tmp_path, "both", 8, addon="qw+qar")
    assert twin_name(base) == "both"


def test_runs_that_are_not_finished_or_not_readable_are_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qgbench.report.cases.logger.propagate", True)
    base = finished(tmp_path, "base", 1)
    running = finished(tmp_path, "running", 2, addon="qw")
    (running.path / RECORD_NAME).unlink()
    broken = finished(tmp_path, "broken", 3, addon="qw")
    (broken.path / RECORD_NAME).write_text("{")
    foreign = finished(tmp_path, "foreign", 4, addon="qw")
    table = (foreign.path / IMAGES_NAME).read_text().splitlines()
    (foreign.path / IMAGES_NAME).write_text("\n".join(table[:-1]) + "\n")
    assert twin_name(base) is None
    assert sorted(record.getMessage().partition(" ")[0] for record in caplog.records) == ["broken", "foreign"]


# Drawing


def square(top: int, left: int, side: int) -> Mask:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top : top + side, left : left + side] = True
    return mask


NOTHING = np.zeros((HEIGHT, WIDTH), bool)
CASE = Case("a", 0.5, None, 5.0, "ok")


def skin(id: str) -> NDArray[np.uint8]:
    return np.full((HEIGHT, WIDTH, 3), SKIN, np.uint8)


def draw(path: Path, cases: dict[str, list[Case]], reference: Mask, prediction: Mask, twin: Mask | None = None) -> Path:
    names = [case.id for row in cases.values() for case in row]
    twins = None if twin is None else dict.fromkeys(names, twin)
    draw_cases(
        path / "cases.png",
        "title",
        cases,
        skin,
        lambda id: reference,
        dict.fromkeys(names, prediction),
        twins,
        None if twin is None else "fixmatch",
    )
    return path / "cases.png"


def shown(file: Path, beyond: int = 2) -> NDArray[np.int64]:
    """The one picture of a file: the rectangle that holds the image's colour, and pixels beyond it on each side."""
    pixels = np.asarray(Image.open(file).convert("RGB")).astype(int)
    own = (pixels == SKIN).all(axis=2)
    rows, columns = np.flatnonzero(own.any(axis=1)), np.flatnonzero(own.any(axis=0))
    return pixels[rows[0] - beyond : rows[-1] + 1 + beyond, columns[0] - beyond : columns[-1] + 1 + beyond]


def places(picture: NDArray[np.int64], color: tuple[int, int, int]) -> NDArray[np.float64]:
    """Where a colour occurs on the image, (N, 2) row and column in its pixels, 0 being its upper left corner."""
    near = np.abs(picture - color).max(axis=2) < 40
    if color == WHITE:  # as the page
        near[[0, 1, 2, -3, -2, -1]] = near[:, [0, 1, 2, -3, -2, -1]] = False
    scale = (np.array(picture.shape[:2]) - 4) / (HEIGHT, WIDTH)
    found: NDArray[np.float64] = (np.argwhere(near) - 1.5) / scale
    return found


def distance_to_border(points: NDArray[np.float64], top: int, left: int, side: int) -> NDArray[np.float64]:
    """How far points lie from the outline of a square, in image pixels."""
    y, x = points[:, 0] - top - side / 2, points[:, 1] - left - side / 2
    beyond = np.stack([np.abs(y), np.abs(x)]) - side / 2
    distance: NDArray[np.float64] = np.abs(np.hypot(*np.maximum(beyond, 0)) + np.minimum(beyond.max(axis=0), 0))
    return distance


def covered(points: NDArray[np.float64], top: int, left: int, side: int) -> float:
    """Which part of a square's border, cut into steps of 0.5 image pixels, has a point within 0.6 of it."""
    along = np.arange(0.25, side, 0.5)
    near, far = np.zeros_like(along), np.full_like(along, side)
    sides = [(near, along), (far, along), (along, near), (along, far)]
    border = np.concatenate([np.column_stack(pair) for pair in sides]) + np.array((top, left))
    gaps = np.linalg.norm(border[:, None] - points[None], axis=2).min(axis=1)
    return float((gaps < 0.6).mean())


def test_each_mask_is_outlined_exactly_along_its_border_in_its_own_colour(tmp_path: Path) -> None:
    reference, prediction, twin = (5, 10, 30), (12, 22, 30), (30, 45, 25)
    file = draw(tmp_path, {"most changed": [CASE]}, square(*reference), square(*prediction), square(*twin))
    picture = shown(file)
    for color, place, least in ((YELLOW, reference, 0.9), (BLUE, prediction, 0.5), (WHITE, twin, 0.3)):
        found = places(picture, color)
        assert distance_to_border(found, *place).max() < 0.6
        assert covered(found, *place) > least


def test_solid_and_dashed_lines_can_be_told_apart_without_colour(tmp_path: Path) -> None:
    place = (15, 20, 30)
    shares = []
    for reference, prediction, twin, color in (
        (square(*place), NOTHING, NOTHING, YELLOW),
        (NOTHING, square(*place), NOTHING, BLUE),
        (NOTHING, NOTHING, square(*place), WHITE),
    ):
        picture = shown(draw(tmp_path, {"most changed": [CASE]}, reference, prediction, twin))
        shares.append(len(places(picture, color)) / len(places(picture, (0, 0, 0))))
    solid, dashed, dotted = shares
    assert solid > 1.3 * dashed
    assert dashed > 1.3 * dotted


# Machado, Oliveira, Fernandes (2009), severity 1, on linear RGB.
BLINDNESS = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("kind", BLINDNESS)
def test_reference_and_prediction_keep_apart_for_the_colour_blind(kind: str) -> None:
    def seen(color: str) -> NDArray[np.float64]:
        linear = (np.array(ImageColor.getrgb(color)) / 255) ** 2.2
        clipped: NDArray[np.float64] = np.clip(np.array(BLINDNESS[kind]) @ linear, 0, 1) ** (1 / 2.2)
        return clipped

    reference, prediction = seen(drawn._REFERENCE.color), seen(drawn._PREDICTION.color)
    skin_color = seen("#{:02x}{:02x}{:02x}".format(*SKIN))
    assert np.linalg.norm(reference - prediction) > 0.5
    for color in (reference, prediction):
        assert np.linalg.norm(color - skin_color) > 0.25


def test_a_mask_that_fills_the_image_is_outlined_on_all_four_sides(tmp_path: Path) -> None:
    # The line covers the outermost pixels of the image, so that its colour begins a few pixels within.
    picture = shown(draw(tmp_path, {"best": [CASE]}, np.ones((HEIGHT, WIDTH), bool), NOTHING), beyond=7)
    yellow = np.abs(picture - YELLOW).max(axis=2) < 90
    for side in (yellow[:7], yellow[-7:], yellow[:, :7].T, yellow[:, -7:].T):
        assert side.any(axis=0)[7:-7].all()
    assert not yellow[7:-7, 7:-7].any()
    middle = picture[:30, picture.shape[1] // 2]
    page, image = (middle == WHITE).all(axis=1), (middle == SKIN).all(axis=1)
    assert (~page & ~image).sum() >= 5  # the whole line with its halo, 2.4 points at 150 dots per inch


def test_a_mask_at_the_border_is_closed_there(tmp_path: Path) -> None:
    place = (0, 20, 30)
    found = places(shown(draw(tmp_path, {"best": [CASE]}, square(*place), NOTHING)), YELLOW)
    assert covered(found, *place) > 0.9


def test_a_single_pixel_is_outlined(tmp_path: Path) -> None:
    found = places(shown(draw(tmp_path, {"best": [CASE]}, square(20, 30, 1), NOTHING)), YELLOW)
    assert len(found) > 0
    assert distance_to_border(found, 20, 30, 1).max() < 0.6


def test_an_outline_parts_the_very_pixels_of_the_image(tmp_path: Path) -> None:
    image = np.full((12, 16, 3), SKIN, np.uint8)
    image[3:8, 5:12] = lesion = (60, 30, 20)
    mask = (image == lesion).all(axis=2)
    path = tmp_path / "cases.png"
    draw_cases(path, "", {"best": [CASE]}, lambda id: image, lambda id: mask, {"a": mask & False}, None, None)
    picture = shown(path, beyond=0)
    dark = np.argwhere((picture == lesion).all(axis=2))
    line = np.argwhere(np.abs(picture - YELLOW).max(axis=2) < 40)
    assert np.all((dark.min(axis=0) - line.min(axis=0) > 0) & (dark.min(axis=0) - line.min(axis=0) < 6))
    assert np.all((line.max(axis=0) - dark.max(axis=0) > 0) & (line.max(axis=0) - dark.max(axis=0) < 6))


@pytest.mark.parametrize("empty", ["reference", "prediction"])
def test_an_empty_mask_draws_nothing(tmp_path: Path, empty: str) -> None:
    masks = {"reference": square(15, 20, 30), "prediction": square(15, 20, 30), empty: NOTHING}
    picture = shown(draw(tmp_path, {"worst": [CASE]}, **masks))
    drawn = {"reference": len(places(picture, YELLOW)), "prediction": len(places(picture, BLUE))}
    assert drawn.pop(empty) == 0
    assert all(drawn.values())


def test_the_twin_is_outlined_only_where_it_changed(tmp_path: Path) -> None:
    masks = (square(5, 5, 20), square(6, 6, 20), square(30, 40, 20))
    assert len(places(shown(draw(tmp_path, {"worst": [CASE]}, *masks)), WHITE)) == 0
    assert len(places(shown(draw(tmp_path, {"most changed": [CASE]}, *masks)), WHITE)) > 0


# What is written beside the pictures


def compose(
    cases: dict[str, list[Case]],
    title: str = "title",
    image_of: Callable[[str], NDArray[np.uint8]] = skin,
    reference: Mask = NOTHING,
    prediction: Mask = NOTHING,
    twin: Mask | None = None,
    twin_name: str | None = None,
) -> Figure:
    names = [case.id for row in cases.values() for case in row]
    twins = None if twin is None else dict.fromkeys(names, twin)
    predictions = dict.fromkeys(names, prediction)
    rows = pictures(cases, image_of, lambda id: reference, predictions, twins)
    return drawn.compose(title, rows, twin_name or "")


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def test_a_row_for_each_kind_and_a_caption_for_each_case() -> None:
    some = [Case(f"i{number}", 0.873, 0.9, 12.44, "ok") for number in range(4)]
    cases = {"best": some, "median": some[:3], "worst": some[:1], "most changed": some[1:3]}
    figure = compose(cases, reference=square(1, 1, 9), prediction=square(1, 1, 9), twin=square(2, 2, 9))
    assert len(figure.axes) == 10
    caption = "Dice 87.3 %, HD95 12.4 px\ntwin: Dice 90.0 % (this run −2.7)"
    assert [text for text in texts(figure) if text.startswith("i")] == [
        f"{case.id}\n{caption}" for row in cases.values() for case in row
    ]
    first_words = [text.partition(":")[0] for text in texts(figure) if not text.startswith("i")]
    assert first_words == ["title", "Best", "Median", "Worst", "Most changed"]


def test_pictures_have_their_own_aspect_ratio_and_do_not_overlap() -> None:
    shapes = {"wide": (30, 90), "square": (50, 50), "tall": (90, 30)}
    some = [Case(id, 1.0, 1.0, 0.0, "both_empty") for id in shapes]  # the longest captions there are
    empty = {id: np.zeros(shape, bool) for id, shape in shapes.items()}
    shown = pictures(
        {"most changed": some, "worst": some[::-1]},
        lambda id: np.full((*shapes[id], 3), SKIN, np.uint8),
        lambda id: empty[id],
        empty,
        empty,
    )
    figure = drawn.compose("title", shown, "fixmatch")
    figure.draw_without_rendering()
    boxes = [axes.get_window_extent() for axes in figure.axes]
    for box, (height, width) in zip(boxes, [*shapes.values(), *reversed(shapes.values())], strict=True):
        assert box.height / box.width == pytest.approx(height / width, rel=1e-6)
    captions = [text.get_window_extent() for text in figure.texts if text.get_text().partition("\n")[0] in shapes]
    for box, caption in zip(boxes, captions, strict=True):
        assert 0 < box.y0 - caption.y1 < 0.1 * figure.dpi
        assert box.x0 + box.x1 == pytest.approx(caption.x0 + caption.x1, abs=2)
    everything = boxes + [text.get_window_extent() for text in figure.texts]
    everything += [legend.get_window_extent() for legend in figure.legends]
    for number, one in enumerate(everything):
        assert 0 <= one.x0 < one.x1 <= figure.bbox.x1
        assert 0 <= one.y0 < one.y1 <= figure.bbox.y1
        assert not any(one.overlaps(other) for other in everything[number + 1 :])


def test_what_is_empty_is_said() -> None:
    missed = Case("a", 0.0, None, math.nan, "missed")
    assert "a\nDice 0.0 %, HD95 undefined\nnothing predicted" in texts(
        compose({"worst": [missed]}, reference=square(1, 1, 9))
    )
    spurious = Case("a", 0.0, None, math.nan, "spurious")
    assert "a\nDice 0.0 %, HD95 undefined\nno lesion" in texts(
        compose({"worst": [spurious]}, prediction=square(1, 1, 9))
    )
    changed = Case("a", 0.75, 0.0, 3.0, "ok")
    full = compose({"most changed": [changed]}, reference=square(1, 1, 9), prediction=square(1, 1, 9), twin=NOTHING)
    assert "a\nDice 75.0 %, HD95 3.0 px\ntwin: Dice 0.0 % (this run +75.0)\ntwin: nothing predicted" in texts(full)


def test_the_legend_names_what_is_drawn() -> None:
    def legend(figure: Figure) -> list[str]:
        return [text.get_text() for text in figure.legends[0].get_texts()]

    assert legend(compose({"best": [CASE]}, twin=NOTHING, twin_name="x")) == ["reference", "prediction"]
    with_twin = compose({"most changed": [CASE]}, twin=NOTHING, twin_name="$fix_{match$")
    assert legend(with_twin)[2] == "prediction of the twin $fix_{match$"
    with_twin.draw_without_rendering()  # which fails on a formula that is not closed


@pytest.mark.parametrize(
    ("id", "shown_as"),
    [
        ("a" * 36, "a" * 36),
        ("start" + 60 * "-" + "end", "start" + 13 * "-" + "…" + 14 * "-" + "end"),
        ("$x_{1$ & ^", "$x_{1$ & ^"),
        ("病变\n7\udcff", r"\u75c5\u53d8\u000a7\udcff"),
        ("läsion", "läsion"),
    ],
)
def test_any_id_can_be_written_on_one_line(tmp_path: Path, id: str, shown_as: str) -> None:
    case = Case(id, 0.5, None, 5.0, "ok")
    figure = compose({"best": [case]}, title=f"about {id} ", reference=square(1, 1, 9), prediction=square(1, 1, 9))
    assert f"{shown_as}\nDice 50.0 %, HD95 5.0 px" in texts(figure)
    draw(tmp_path, {"best": [case]}, square(1, 1, 9), square(1, 1, 9))


def test_a_long_title_and_a_long_name_of_the_twin_stay_on_the_page() -> None:
    figure = compose({"most changed": [CASE]}, title="abcdefg-" * 30, twin=NOTHING, twin_name="abcdefg-" * 30)
    figure.draw_without_rendering()
    for artist in (*figure.texts, *figure.legends):
        box = artist.get_window_extent()
        assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
    assert figure.texts[0].get_text().replace("\n", "") == "abcdefg-" * 30


# The file


def test_one_image_alone_can_be_drawn(tmp_path: Path) -> None:
    images = rows({"only": 0.5})
    chosen = choose_cases(images, rows({"only": 0.25}))
    file = draw(tmp_path, chosen, square(1, 1, 9), square(2, 2, 9), square(3, 3, 9))
    assert file.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(compose(chosen, twin=NOTHING).axes) == 4


def test_equal_cases_give_equal_bytes_whatever_the_users_settings(tmp_path: Path) -> None:
    arguments = ({"most changed": [CASE]}, square(1, 1, 9), square(2, 2, 9), square(3, 3, 9))
    first = draw(tmp_path, *arguments).read_bytes()
    own: dict[Any, Any] = {
        "text.usetex": True,
        "font.size": 30,
        "savefig.bbox": "tight",
        "image.interpolation": "nearest",
    }
    with matplotlib.rc_context(own):
        second = draw(tmp_path, *arguments).read_bytes()
        assert matplotlib.rcParams["font.size"] == 30
    assert first == second
    assert [file.name for file in tmp_path.iterdir()] == ["cases.png"]


def test_the_file_stays_small_for_pictures_full_of_noise(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (560, 768, 3), dtype=np.uint8)
    mask = np.zeros((560, 768), bool)
    mask[100:300, 200:400] = True
    some = [Case(f"i{number}", 0.5, None, 5.0, "ok") for number in range(4)]
    cases = {"best": some, "median": some, "worst": some}
    names = [case.id for case in some]
    path = tmp_path / "cases.png"
    draw_cases(path, "noise", cases, lambda id: noise, lambda id: mask, dict.fromkeys(names, mask), None, None)
    assert path.stat().st_size <= 1_500_000


def test_a_large_image_keeps_its_outline_in_place(tmp_path: Path) -> None:
    """An image is averaged down before it is shown; its left half is black, and the outline runs along the step."""
    image = np.full((1999, 3001, 3), 250, np.uint8)
    image[:, :1000] = 0
    mask = (image == 0).all(axis=2)
    path = tmp_path / "cases.png"
    empty = {"a": np.zeros_like(mask)}
    draw_cases(path, "", {"best": [CASE]}, lambda id: image, lambda id: mask, empty, None, None)
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    row = pixels[np.argmax((pixels == 250).all(axis=2).sum(axis=1)) + 100]
    yellow = np.flatnonzero(np.abs(row - YELLOW).max(axis=1) < 90)
    left, step = yellow[0], yellow[-1]
    right = np.flatnonzero((row == 250).all(axis=1))[-1]
    assert (step - left) / (right - left) == pytest.approx(1000 / 3001, abs=0.01)


def test_failures_name_the_image_and_the_cause(tmp_path: Path) -> None:
    def gone(id: str) -> NDArray[np.uint8]:
        raise FileNotFoundError("the folder is gone")

    path = tmp_path / "cases.png"
    mask = square(1, 1, 9)
    cases = {"most changed": [CASE]}
    with pytest.raises(QGBenchError, match="image a cannot be shown: the folder is gone") as caught:
        draw_cases(path, "", cases, gone, lambda id: mask, {"a": mask}, None, None)
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    with pytest.raises(QGBenchError, match="image a cannot be shown: it has no prediction"):
        draw_cases(path, "", cases, skin, lambda id: mask, {}, None, None)
    with pytest.raises(QGBenchError, match="image a cannot be shown: it has no twin's prediction"):
        draw_cases(path, "", cases, skin, lambda id: mask, {"a": mask}, {}, None)
    with pytest.raises(QGBenchError, match="it is 80 x 60 pixels, its reference 79 x 60"):
        draw_cases(path, "", cases, skin, lambda id: mask[:, 1:], {"a": mask}, None, None)
    assert not path.exists()


def test_neither_torch_nor_pyplot_is_imported_and_matplotlib_only_to_draw(tmp_path: Path) -> None:
    command = """
import sys, numpy as np
from pathlib import Path
from qgbench.report.cases import Case, draw_cases
assert "matplotlib" not in sys.modules
mask, image = np.ones((8, 8), bool), np.zeros((8, 8, 3), np.uint8)
cases = {"best": [Case("a", 0.5, None, 5.0, "ok")]}
draw_cases(Path(sys.argv[1]), "", cases, lambda id: image, lambda id: mask, {"a": mask}, None, None)
assert "torch" not in sys.modules and "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", command, str(tmp_path / "cases.png")], check=True)
