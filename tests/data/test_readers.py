import errno
import logging
import os
import pickle
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from qgbench.base.errors import UserError
from qgbench.base.logs import logger
from qgbench.data.cards import load_card
from qgbench.data.phantom import generate_phantom
from qgbench.data.readers import PhantomSource, Source, open_any, open_pool, open_source


def write_tree(
    folder: Path,
    ids: Sequence[str] = ("b", "a", "c"),
    *,
    suffix: str = ".png",
    mask_ending: str = "",
    mask_suffix: str = ".png",
) -> None:
    """A labelled data set of noise images, each of another size, with a mask in its upper left corner."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    for n, id in enumerate(ids):
        height, width = 20 + n, 31 - n
        Image.fromarray(rng.integers(256, size=(height, width, 3), dtype=np.uint8)).save(
            folder / f"images/{id}{suffix}"
        )
        save_mask(folder / f"masks/{id}{mask_ending}{mask_suffix}", corner(height, width, n + 3))


def corner(height: int, width: int, side: int) -> np.ndarray:
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[:side, :side] = 255
    return mask


def save_mask(file: Path, pixels: np.ndarray, mode: str | None = None) -> None:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(file)


def complaint(folder: Path) -> str:
    """The error of opening a labelled folder and reading everything in it, on one line."""
    with pytest.raises(UserError) as caught:
        read_all(open_source(str(folder)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@contextmanager
def listening() -> Iterator[list[str]]:
    """Warnings of the package, wherever else they go."""
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]  # its own
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)


def read_all(source: Source) -> None:
    for id in source.ids:
        source.image(id)
        source.mask(id)


# Layouts


def test_labelled_folder(tmp_path: Path) -> None:
    write_tree(tmp_path / "own")
    source = open_source(str(tmp_path / "own"))
    assert source.name == "own"
    assert source.ids == ["a", "b", "c"]
    assert source.groups == source.ids
    assert source.labelled
    assert source.extra is None
    assert source.card.budget is None
    image, mask = source.image("b"), source.mask("b")
    assert (image.dtype, image.shape, mask.dtype, mask.shape) == (np.uint8, (20, 31, 3), np.bool_, (20, 31))
    np.testing.assert_array_equal(image, np.asarray(Image.open(tmp_path / "own/images/b.png")))
    np.testing.assert_array_equal(mask, corner(20, 31, 3) > 0)


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".tif", ".TIFF", ".bmp"])
@pytest.mark.parametrize("ending", ["", "_mask", "_segmentation"])
def test_file_suffixes_and_mask_endings(tmp_path: Path, suffix: str, ending: str) -> None:
    write_tree(tmp_path / "own", suffix=suffix, mask_ending=ending, mask_suffix=".gif" if ending else ".bmp")
    source = open_source(str(tmp_path / "own"))
    assert source.ids == ["a", "b", "c"]
    assert source.mask("a").sum() == 16


def test_mask_of_the_same_name_wins_over_an_ending(tmp_path: Path) -> None:
    write_tree(tmp_path / "own", ids=("x", "x_mask"))
    source = open_source(str(tmp_path / "own"))
    assert [source.mask(id).sum() for id in ("x", "x_mask")] == [9, 16]


def test_hidden_and_foreign_files_are_passed_over(tmp_path: Path) -> None:
    write_tree(tmp_path)
    (tmp_path / "images/.DS_Store").write_bytes(b"x")
    (tmp_path / "images/._a.png").write_bytes(b"x")
    (tmp_path / "masks/Thumbs.db").write_bytes(b"x")
    assert open_source(str(tmp_path)).ids == ["a", "b", "c"]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "I;16", "I", "F"])
def test_binary_mask_in_any_mode(tmp_path: Path, mode: str) -> None:
    write_tree(tmp_path, ids=("a",))
    (tmp_path / "masks/a.png").unlink()
    save_mask(
        tmp_path / f"masks/a.{'tif' if mode in 'IF' else 'png'}", corner(20, 31, 5), None if mode == "L" else mode
    )
    np.testing.assert_array_equal(open_source(str(tmp_path)).mask("a"), corner(20, 31, 5) > 0)


@pytest.mark.parametrize("value", [1, 38, 255])
def test_any_other_value_is_foreground(tmp_path: Path, value: int) -> None:
    write_tree(tmp_path, ids=("a",))
    save_mask(tmp_path / "masks/a.png", corner(20, 31, 5) // 255 * np.uint8(value))
    assert open_source(str(tmp_path)).mask("a").sum() == 25


def test_dark_colour_on_black_is_foreground(tmp_path: Path) -> None:
    write_tree(tmp_path, ids=("a",))
    colour = np.zeros((20, 31, 3), dtype=np.uint8)
    colour[:5, :5, 2] = 1  # rounds to black if turned into grey
    save_mask(tmp_path / "masks/a.png", colour)
    assert open_source(str(tmp_path)).mask("a").sum() == 25


@pytest.mark.parametrize(("value", "share"), [(0, 0.0), (255, 1.0)])
def test_mask_of_one_level_is_empty_or_full(tmp_path: Path, value: int, share: float) -> None:
    write_tree(tmp_path, ids=("a",))
    save_mask(tmp_path / "masks/a.png", np.full((20, 31), value, dtype=np.uint8))
    assert open_source(str(tmp_path)).mask("a").mean() == share


def test_grey_image_becomes_rgb(tmp_path: Path) -> None:
    write_tree(tmp_path, ids=("a",))
    save_mask(tmp_path / "images/a.png", corner(20, 31, 7))
    image = open_source(str(tmp_path)).image("a")
    np.testing.assert_array_equal(image, np.repeat(corner(20, 31, 7)[..., None], 3, axis=2))


def test_groups_csv(tmp_path: Path) -> None:
    write_tree(tmp_path, ids=("01", "02", "NA"))
    (tmp_path / "groups.csv").write_text("\ufeffstem,group,remark\nNA,None\n02,1\n01,1\n".replace("\n02", ",x\n02"))
    source = open_source(str(tmp_path))
    assert dict(zip(source.ids, source.groups, strict=True)) == {"01": "1", "02": "1", "NA": "None"}


def test_extra_unlabelled_images(tmp_path: Path) -> None:
    write_tree(tmp_path / "own")
    write_tree(tmp_path / "more", ids=("u2", "u1"))
    (tmp_path / "more/images").rename(tmp_path / "own/unlabelled")
    extra = open_source(str(tmp_path / "own")).extra
    assert extra is not None
    assert (extra.ids, extra.groups, extra.labelled, extra.name) == (
        ["u1", "u2"],
        ["u1", "u2"],
        False,
        "own_unlabelled",
    )
    assert extra.card.kind == "pool"
    assert extra.image("u1").shape == (21, 30, 3)


def test_pool_folder(tmp_path: Path) -> None:
    write_tree(tmp_path / "own")
    (tmp_path / "own/images").rename(tmp_path / "own/unlabelled")
    pool = open_pool(str(tmp_path / "own"))
    assert (pool.ids, pool.labelled, pool.card.kind) == (["a", "b", "c"], False, "pool")


def test_own_card_inside_the_folder(tmp_path: Path) -> None:
    write_tree(tmp_path)
    facts = "".join(
        f'{name} = "-"\n' for name in ("title", "domain", "modality", "terms", "citation", "homepage", "groups")
    )
    (tmp_path / "card.toml").write_text('name = "busi"\nkind = "labelled"\nbudget = 2\n' + facts)
    assert (open_source(str(tmp_path)).name, open_source(str(tmp_path)).card.budget) == ("busi", 2)
    with pytest.raises(UserError, match="says kind = 'labelled'; expected 'pool'"):
        open_pool(str(tmp_path))


def test_shipped_name_is_looked_for_in_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(tmp_path / "given/ph2", ids=("g",))
    write_tree(tmp_path / "env/ph2", ids=("e",))
    monkeypatch.setenv("QGBENCH_DATA", str(tmp_path / "env"))
    assert open_source("ph2", tmp_path / "given").ids == ["g"]
    assert open_source("ph2").ids == ["e"]
    assert open_source("ph2").card == load_card("ph2")
    monkeypatch.chdir(tmp_path / "given")
    with listening() as said:
        assert open_source("ph2").ids == ["e"]
    assert said[0].endswith("type ./ph2.")
    assert open_source("./ph2").card == load_card("ph2")


def test_a_bare_name_is_never_a_folder_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, folder in (("labelled", "set"), ("pool", "pool")):
        for place, id in (("here", "h"), ("data", "d")):
            write_tree(tmp_path / place / folder, ids=(id,))
            if kind == "pool":
                (tmp_path / place / folder / "images").rename(tmp_path / place / folder / "unlabelled")
        facts = "".join(
            f'{name} = "-"\n' for name in ("title", "domain", "modality", "terms", "citation", "homepage", "groups")
        )
        (tmp_path / "data" / folder / "card.toml").write_text(f'name = "{folder}"\nkind = "{kind}"\n' + facts)
    monkeypatch.chdir(tmp_path / "here")
    for opened, name in ((open_source, "set"), (open_pool, "pool"), (open_any, "set"), (open_any, "pool")):
        with listening() as said:
            assert opened(name, tmp_path / "data").ids == ["d"]
        (warning,) = said
        assert f"'{name}' is the data set in {tmp_path / 'data' / name}; " in warning
        assert warning.endswith(f"for the folder of that name here type ./{name}.")
        with listening() as said:
            for path in (f"./{name}", f"{name}/", str(tmp_path / "here" / name)):
                assert opened(path, tmp_path / "data").ids == ["h"]
            monkeypatch.chdir(tmp_path / "data")
            assert opened(name, tmp_path / "data").ids == ["d"]  # the same folder: nothing to say
            monkeypatch.chdir(tmp_path / "here")
        assert said == []
        for data_dir in (None, tmp_path / "here"):
            monkeypatch.delenv("QGBENCH_DATA", raising=False)
            with pytest.raises(UserError, match=rf"'{name}' is no data set that is known; .* type \./{name}\.$"):
                opened(name, data_dir)


def test_a_folder_without_a_card_in_the_data_folder_is_named_by_its_path(tmp_path: Path) -> None:
    write_tree(tmp_path / "mine")
    with pytest.raises(UserError, match=f"'mine' is no data set that is known; .* type {tmp_path / 'mine'}"):
        open_source("mine", tmp_path)


def test_source_survives_pickling(tmp_path: Path) -> None:
    write_tree(tmp_path)
    source = open_source(str(tmp_path))
    copy = pickle.loads(pickle.dumps(source))
    assert copy.content_key() == source.content_key()
    np.testing.assert_array_equal(copy.mask("a"), source.mask("a"))


# Bad input: each one clear message


def test_name_without_a_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QGBENCH_DATA", raising=False)
    with pytest.raises(UserError, match=r"DIR/ph2/images/ID.jpg and masks/ID.png .* set QGBENCH_DATA=DIR"):
        open_source("ph2")


def test_name_whose_folder_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder .*ph2; .*QGBENCH_DATA.*images/ID.jpg"):
        open_source("ph2", tmp_path)
    with pytest.raises(UserError, match=r"no folder .*isic_pool; .*unlabelled/ID.jpg"):
        open_pool("isic_pool", tmp_path)


def test_unknown_name_and_wrong_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QGBENCH_DATA", raising=False)
    with pytest.raises(UserError, match=r"unknown dataset 'ph3'\. Did you mean 'ph2'.* QGBENCH_DATA, neither of which"):
        open_source("ph3")
    with pytest.raises(UserError, match=f"unknown dataset 'ph3'.* looked for in {re.escape(str(tmp_path))}\\.$"):
        open_source("ph3", tmp_path)
    with pytest.raises(
        UserError, match="'isic_pool' is a pool of images without masks; expected one of: acdc, busi, cvc_clinicdb"
    ):
        open_source("isic_pool")
    with pytest.raises(
        UserError, match="'ph2' is a labelled data set; expected one of: isic2020, isic_pool, kvasir_pool"
    ):
        open_pool("ph2")


def test_path_that_does_not_exist(tmp_path: Path) -> None:
    assert "there is no folder" in complaint(tmp_path / "none")


def test_empty_folder_and_empty_parts(tmp_path: Path) -> None:
    assert str(tmp_path / "images") in complaint(tmp_path)
    (tmp_path / "images").mkdir()
    assert "holds no images (.png, .jpg" in complaint(tmp_path)
    save_mask(tmp_path / "images/a.png", corner(9, 9, 2))
    assert f"there is no folder {tmp_path / 'masks'}" in complaint(tmp_path)
    with pytest.raises(UserError, match=r"unlabelled; expected unlabelled/ID\.jpg"):
        open_pool(str(tmp_path))


def test_folder_name_that_cannot_be_a_name(tmp_path: Path) -> None:
    write_tree(tmp_path / "my set")
    assert "'my set' cannot name a data set" in complaint(tmp_path / "my set")


def test_images_without_masks(tmp_path: Path) -> None:
    write_tree(tmp_path, ids=tuple("abcdefgh"))
    for id in "abcdefg":
        (tmp_path / f"masks/{id}.png").unlink()
    assert "7 images (a, b, c, d, e, ...)" in complaint(tmp_path)


def test_mask_without_image(tmp_path: Path) -> None:
    write_tree(tmp_path)
    (tmp_path / "images/b.png").unlink()
    assert "1 mask (b)" in complaint(tmp_path)


def test_mask_of_another_size(tmp_path: Path) -> None:
    write_tree(tmp_path)
    save_mask(tmp_path / "masks/b.png", corner(31, 20, 4))
    message = complaint(tmp_path)
    assert "masks/b.png is 20 x 31 pixels" in message
    assert "images/b.png is 31 x 20" in message


def test_mask_with_more_than_two_levels(tmp_path: Path) -> None:
    write_tree(tmp_path)
    pixels = corner(20, 31, 5)
    pixels[8, 8] = 254
    save_mask(tmp_path / "masks/b.png", pixels)
    message = complaint(tmp_path)
    assert "masks/b.png holds 3 values: 1 of 620 pixels (0.2%) are neither 0 nor 255. A mask holds 0 and one" in message
    assert "threshold it" in message


def test_mask_of_two_levels_without_zero(tmp_path: Path) -> None:
    write_tree(tmp_path)
    save_mask(tmp_path / "masks/b.png", corner(20, 31, 5) // 2 + np.uint8(1))
    assert "masks/b.png holds 2 values: 595 of 620 pixels (96.0%) are neither 0 nor 128" in complaint(tmp_path)


@pytest.mark.parametrize("part", ["images", "masks"])
@pytest.mark.parametrize("kept", [0, 10, 0.5])
def test_unreadable_and_truncated_files(tmp_path: Path, part: str, kept: float) -> None:
    write_tree(tmp_path)
    file = tmp_path / part / "b.png"
    # Noise in the mask's size: what half a file still holds must not decode to a whole image.
    if part == "masks":
        save_mask(file, (np.random.default_rng(1).random((20, 31)) < 0.5).astype(np.uint8) * 255)
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    message = complaint(tmp_path)
    assert str(file) in message
    assert "fetch it again" in message


def test_two_images_of_one_name(tmp_path: Path) -> None:
    write_tree(tmp_path)
    save_mask(tmp_path / "images/b.bmp", corner(20, 31, 5))
    assert "b.png share the name 'b'" in complaint(tmp_path)


def test_image_as_png_and_jpeg(tmp_path: Path) -> None:
    write_tree(tmp_path)
    save_mask(tmp_path / "images/b.jpg", corner(20, 31, 5))
    assert "images/b.jpg and b.png share the name 'b'; keep one of them" in complaint(tmp_path)


def test_two_masks_of_one_image(tmp_path: Path) -> None:
    write_tree(tmp_path)
    for ending in ("mask", "segmentation"):
        save_mask(tmp_path / f"masks/b_{ending}.png", corner(20, 31, 5))
    message = complaint(tmp_path)
    assert "2 masks (b_mask, b_segmentation)" in message
    assert "beside another mask of the same image" in message
    assert "keep one of them" in message


@pytest.mark.parametrize("part", ["images", "unlabelled"])
def test_names_that_differ_in_case_only(tmp_path: Path, part: str) -> None:
    write_tree(tmp_path)
    (tmp_path / "unlabelled").mkdir()
    for name in ("Lesion.png", "lESION.bmp"):
        save_mask(tmp_path / part / name, corner(20, 31, 5))
        save_mask(tmp_path / "masks" / f"{Path(name).stem}.png", corner(20, 31, 5))
    if part == "unlabelled":
        (tmp_path / "masks/Lesion.png").unlink()
        (tmp_path / "masks/lESION.png").unlink()
    message = complaint(tmp_path)
    assert f"{part}/Lesion.png and lESION.bmp differ in nothing but case" in message
    assert "rename one of them" in message


def test_image_and_mask_that_differ_in_case(tmp_path: Path) -> None:
    write_tree(tmp_path)
    (tmp_path / "masks/b.png").rename(tmp_path / "masks/B_mask.png")
    assert "differ from their mask in nothing but case: give both the same name" in complaint(tmp_path)
    (tmp_path / "masks/B_mask.png").unlink()
    assert "nothing but case" not in complaint(tmp_path)


def test_composed_and_decomposed_letters_are_one_name(tmp_path: Path) -> None:
    composed, decomposed = "l\u00e9sion", "le\u0301sion"
    write_tree(tmp_path, ids=(decomposed, "a"))
    (tmp_path / f"masks/{decomposed}.png").rename(tmp_path / f"masks/{composed}.png")
    (tmp_path / "groups.csv").write_text(f"stem,group\na,1\n{decomposed},2\n", encoding="utf-8")
    source = open_source(str(tmp_path))
    assert source.ids == ["a", composed]
    read_all(source)
    save_mask(tmp_path / f"images/{composed}.png", corner(20, 31, 5))
    if len(list((tmp_path / "images").iterdir())) == 3:  # not on a disk that composes names itself
        assert f"share the name '{composed}'" in complaint(tmp_path)


# What has the name of an image but is no file is not passed over


@pytest.mark.parametrize("part", ["images", "masks", "unlabelled"])
def test_folder_with_the_name_of_an_image(tmp_path: Path, part: str) -> None:
    write_tree(tmp_path)
    (tmp_path / part / "x.png").mkdir(parents=True)
    assert f"{part}/x.png has the name of an image but is a folder; move it elsewhere" in complaint(tmp_path)


@pytest.mark.parametrize("part", ["images", "masks", "unlabelled"])
def test_broken_link(tmp_path: Path, part: str) -> None:
    write_tree(tmp_path)
    (tmp_path / part).mkdir(exist_ok=True)
    (tmp_path / part / "x.png").symlink_to(tmp_path / "elsewhere.png")
    message = complaint(tmp_path)
    assert f"{part}/x.png is a link to {tmp_path / 'elsewhere.png'}, which cannot be reached (No such file" in message
    assert "mend or remove it" in message


def test_link_to_itself(tmp_path: Path) -> None:
    write_tree(tmp_path)
    (tmp_path / "images/x.png").symlink_to(tmp_path / "images/x.png")
    assert "images/x.png is a link to" in complaint(tmp_path)


def test_working_links_are_followed(tmp_path: Path) -> None:
    write_tree(tmp_path)
    (tmp_path / "images/b.png").rename(tmp_path / "stored")
    (tmp_path / "images/b.png").symlink_to(tmp_path / "stored")
    read_all(open_source(str(tmp_path)))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
@pytest.mark.timeout(20)
def test_pipe_with_the_name_of_an_image(tmp_path: Path) -> None:
    write_tree(tmp_path)
    os.mkfifo(tmp_path / "images/x.png")
    assert "images/x.png has the name of an image but is no regular file" in complaint(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="names are UTF-8 there")
def test_name_that_is_not_utf8(tmp_path: Path) -> None:
    write_tree(tmp_path)
    (tmp_path / "images" / os.fsdecode(b"l\xe9sion.png")).write_bytes((tmp_path / "images/b.png").read_bytes())
    message = complaint(tmp_path)
    assert r"images/l\xe9sion.png is not UTF-8; rename it" in message
    message.encode()


@pytest.mark.parametrize("name", ["groups.csv", "card.toml", "unlabelled"])
def test_broken_link_beside_the_images_is_not_passed_over(tmp_path: Path, name: str) -> None:
    write_tree(tmp_path)
    (tmp_path / name).symlink_to(tmp_path / "elsewhere")
    assert str(tmp_path / name) in complaint(tmp_path)


def test_groups_under_another_spelling_are_not_passed_over(tmp_path: Path) -> None:
    write_tree(tmp_path)
    (tmp_path / "Groups.csv").write_text("stem,group\na,1\nb,1\nc,2\n")
    if not (tmp_path / "groups.csv").exists():  # not on a disk that ignores case
        assert "Groups.csv is not read under that name; rename it to groups.csv" in complaint(tmp_path)


def test_files_of_other_suffixes_are_named(tmp_path: Path) -> None:
    write_tree(tmp_path)
    for name in ("d.webp", "notes.txt", "Thumbs.db", ".hidden"):
        (tmp_path / "images" / name).write_bytes(b"x")
    (tmp_path / "images/more").mkdir()
    with listening() as said:
        open_source(str(tmp_path))
    (message,) = said
    assert f"{tmp_path / 'images'}: passed over 3 files (d.webp, more, notes.txt): none of .png, .jpg" in message


def test_nothing_is_said_of_a_clean_folder(tmp_path: Path) -> None:
    write_tree(tmp_path)
    with listening() as said:
        read_all(open_source(str(tmp_path)))
    assert said == []


def test_folder_that_may_not_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(tmp_path)
    original = Path.iterdir

    def iterdir(self: Path) -> Iterator[Path]:
        if self.name == "masks":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return original(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert f"{tmp_path / 'masks'} may not be read (Permission denied); give yourself permission" in complaint(tmp_path)


def test_images_that_are_gone_since_the_folder_was_opened(tmp_path: Path) -> None:
    write_tree(tmp_path / "own")
    source = open_source(str(tmp_path / "own"))
    (tmp_path / "own").rename(tmp_path / "away")
    for read in (lambda: source.image("b"), lambda: source.mask("b"), source.content_key):
        with pytest.raises(
            UserError, match=r"own/(images|masks)/[abc]\.png is gone\. Put it back .* same command again"
        ):
            read()
    (tmp_path / "away").rename(tmp_path / "own")
    read_all(source)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("id,patient\na,1\n", "has the columns id, patient; expected stem and group"),
        ("stem,group\na,1\nb,1\n", "1 image (c) not listed"),
        ("stem,group\na,1\nb,1\nc,2\nd,2\n", "1 image (d) listed without an image"),
        ("stem,group\na,1\nb,1\nc,2\nb,2\n", "1 image (b) listed twice"),
        ("stem,group\na,1\nb,\nc,2\n", "1 image (b) with no group"),
        ("stem,group\na,1\nb,1\nc,2\n,2\n", "the column stem is empty in line 5"),
        ("stem,group,group\na,1,1\nb,1,2\nc,2,2\n", "has 2 columns 'group'"),
        ("", "cannot be read as CSV"),
        ('stem,group\na,1,2,3\n"b', "cannot be read as CSV"),
    ],
)
def test_bad_groups_csv(tmp_path: Path, text: str, expected: str) -> None:
    write_tree(tmp_path)
    (tmp_path / "groups.csv").write_text(text)
    message = complaint(tmp_path)
    assert "groups.csv" in message
    assert expected in message


# Content keys


def test_spaces_around_a_group_do_not_make_another(tmp_path: Path) -> None:
    write_tree(tmp_path)
    (tmp_path / "groups.csv").write_text("stem,group\na, p\nb,p \nc,q\n")
    assert open_source(str(tmp_path)).groups == ["p", "p", "q"]
    (tmp_path / "groups.csv").write_text("stem,group\na, \nb,p \nc,q\n")
    assert "1 image (a) with no group" in complaint(tmp_path)


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("six")
    write_tree(folder, ids=("a1", "a2", "b1", "b2", "c1", "c2"))
    return folder


def write_groups(folder: Path, groups: Sequence[str]) -> None:
    """Give each image of `six` a group."""
    table = pd.DataFrame({"stem": ["a1", "a2", "b1", "b2", "c1", "c2"], "group": groups})
    table.to_csv(folder / "groups.csv", index=False)


@settings(deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0\r")), min_size=3, max_size=3))
@example(["Müller", "José", "Å"])
def test_a_group_is_one_however_its_accents_are_composed(six: Path, names: list[str]) -> None:
    names = [f"{number}{name}x" for number, name in enumerate(names)]
    write_groups(six, [unicodedata.normalize(form, name) for name in names for form in ("NFC", "NFD")])
    groups = open_source(str(six)).groups
    assert groups[::2] == groups[1::2]
    assert len(set(groups)) == 3


@pytest.mark.parametrize("rename", [lambda id: f"{id}.png", lambda id: f"0{id}"])
def test_names_that_a_table_writes_otherwise_get_a_hint(six: Path, rename: Callable[[str], str]) -> None:
    ids = [f"{letter}{number}" for letter in "abc" for number in "12"]
    (six / "groups.csv").write_text("stem,group\n" + "".join(f"{rename(id)},g\n" for id in ids))
    with pytest.raises(UserError, match="with all zeros and without the suffix"):
        open_source(str(six))


@pytest.mark.parametrize(
    ("groups", "alike"),
    [
        (("p1", "p1", "P1", "P1", "q", "q"), "in 1 case ('P1' and 'p1')."),
        (("7", "7", "07", "007", "8", "8"), "in 1 case ('007' and '07' and '7')."),
        (("7", "7.0", "8", "8.0", "p01", "p1"), "in 3 cases ('7' and '7.0', '8' and '8.0', 'p01' and 'p1')."),
        (("p 1", "p\u00a01", "q", "q\u200b", "r", "r"), r"in 2 cases ('p 1' and 'p\xa01', 'q' and 'q\u200b')."),
        (("1.5", "1.05", "10", "1", "0", "100"), None),
        (("7.0", "7.0", "8.0", "8.0", "9.0", "9.0"), None),
    ],
)
def test_groups_that_may_be_one_are_named(six: Path, groups: Sequence[str], alike: str | None) -> None:
    write_groups(six, groups)
    with listening() as said:
        assert open_source(str(six)).groups == list(groups)
    if alike is None:
        assert said == []
    else:
        (warning,) = said
        assert warning.startswith(f"{six / 'groups.csv'}: groups that differ only in case, blanks, leading zeros or")
        assert alike in warning


def test_content_key_follows_the_bytes_only(tmp_path: Path) -> None:
    write_tree(tmp_path / "x/own")
    key = open_source(str(tmp_path / "x/own")).content_key()
    (tmp_path / "x").rename(tmp_path / "y")
    os.utime(tmp_path / "y/own/images/a.png", (0, 0))
    assert open_source(str(tmp_path / "y/own")).content_key() == key
    keys = {key}
    for part in ("masks", "images"):
        file = tmp_path / f"y/own/{part}/a.png"
        pixels = np.asarray(Image.open(file)).copy()
        pixels[0, 0] ^= 255
        save_mask(file, pixels)
        keys.add(open_source(str(tmp_path / "y/own")).content_key())
    for part in ("masks", "images"):
        (tmp_path / f"y/own/{part}/a.png").rename(tmp_path / f"y/own/{part}/z.png")
    keys.add(open_source(str(tmp_path / "y/own")).content_key())
    assert len(keys) == 4


# The phantom


def test_phantom_source_shows_what_the_generator_draws() -> None:
    source = PhantomSource(patients=3, views=2, size=32)
    pictures = generate_phantom(groups=3, images_per_group=2, size=32)
    assert list(zip(source.ids, source.groups, strict=True)) == sorted((p.id, p.group) for p in pictures)
    for picture in pictures:
        np.testing.assert_array_equal(source.image(picture.id), picture.image)
        np.testing.assert_array_equal(source.mask(picture.id), picture.mask)


def test_phantom_is_built_in_and_draws_nothing_before_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QGBENCH_DATA", raising=False)
    monkeypatch.setattr("qgbench.data.phantom.draw_group", lambda *arguments: pytest.fail("drawn"))
    source = open_source("phantom")
    assert len(source.ids) == source.card.images
    assert len(set(source.groups)) == 120
    assert source.content_key() == open_source("phantom").content_key()
    assert source.content_key() != PhantomSource(seed=1).content_key()


# The real images


@pytest.fixture(scope="module")
def data_dir() -> Path:
    if "QGBENCH_DATA" not in os.environ:
        pytest.skip("QGBENCH_DATA is not set")
    return Path(os.environ["QGBENCH_DATA"])


@pytest.mark.real
@pytest.mark.parametrize("name", ["cvc_clinicdb", "cvc_colondb", "isic2017", "ph2", "scd"])
def test_real_labelled_sets(data_dir: Path, name: str) -> None:
    source = open_source(name)
    assert len(source.ids) == source.card.images
    known = {"scd": 167, "cvc_clinicdb": 29, "cvc_colondb": 15}
    assert len(set(source.groups)) == known.get(name, len(source.ids))
    table = pd.read_csv(data_dir / name / "groups.csv", dtype=str)
    assert dict(zip(source.ids, source.groups, strict=True)) == dict(zip(table["stem"], table["group"], strict=True))
    shares = []
    for id in source.ids[::10]:
        assert source.image(id).shape[:2] == source.mask(id).shape
        shares.append(source.mask(id).mean())
    assert 0 < min(shares) <= max(shares) < 1


@pytest.mark.real
@pytest.mark.parametrize("name", ["isic_pool", "kvasir_pool"])
def test_real_pools(data_dir: Path, name: str) -> None:
    pool = open_pool(name, data_dir)
    assert len(pool.ids) == pool.card.images
    assert not pool.labelled
    assert pool.image(pool.ids[-1]).ndim == 3


@pytest.mark.real
def test_real_pool_shares_no_image_with_the_labelled_set(data_dir: Path) -> None:
    assert not set(open_pool("isic_pool").ids) & set(open_source("isic2017").ids)
