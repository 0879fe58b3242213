"""Patterns of paths against trees of empty files."""

import csv
import os
import unicodedata
from pathlib import Path

import pytest

from qgbench.base.errors import UserError
from qgbench.data.cards import load_card
from qgbench.data.layouts import Grouping, Layout, id_of, match_layouts
from qgbench.data.readers import open_distribution


def tree(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


@pytest.mark.real
@pytest.mark.parametrize("name", ["scd", "cvc_colondb", "cvc_clinicdb"])
def test_the_rule_gives_the_groups_of_all_images(name: str, tmp_path: Path) -> None:
    grouping = load_card(name).grouping
    with (Path(os.environ["QGBENCH_DATA"]) / name / "groups.csv").open() as file:
        known = {row["stem"]: row["group"] for row in csv.DictReader(file)}
    layout = Layout(about="the common layout", images="images/{id}.jpg")
    found = match_layouts([layout], grouping, [tree(tmp_path, *(f"images/{id}.jpg" for id in known))])
    assert found is not None
    assert found.groups == known


def test_masks_of_one_image_are_all_found_and_are_no_images(tmp_path: Path) -> None:
    layout = Layout(about="ultrasound", images="{class}/{id}.png", masks="{class}/{id}_mask*.png")
    files = ["benign/benign (1).png", "benign/benign (1)_mask.png", "benign/benign (1)_mask_1.png", "normal/n.png"]
    found = match_layouts([layout], None, [tree(tmp_path, *files)])
    assert found is not None
    assert sorted(found.images) == ["benign (1)", "n"]
    assert [file.name for file in found.masks["benign (1)"]] == ["benign (1)_mask.png", "benign (1)_mask_1.png"]
    assert found.masks["n"] == []


def test_the_first_layout_with_an_image_is_taken_and_none_where_nothing_matches(tmp_path: Path) -> None:
    first, second = (Layout(about=name, images=f"{name}/{{id}}.png") for name in ("a", "b"))
    tree(tmp_path, "x/b/1.png", "x/.hidden/a/1.png")
    found = match_layouts([first, second], None, [tmp_path])
    assert found is not None
    assert found.layout is second
    assert match_layouts([first], None, [tmp_path]) is None


def test_two_files_of_one_id_are_refused(tmp_path: Path) -> None:
    tree(tmp_path, "copy/images/7.png", "images/7.png")
    with pytest.raises(UserError, match=r"are both the image '7' \(mirror\)"):
        match_layouts([Layout(about="mirror", images="images/{id}.png")], None, [tmp_path])


def test_an_image_without_a_group_is_refused(tmp_path: Path) -> None:
    tree(tmp_path, "1.png", "99.png")
    with pytest.raises(UserError, match=r"group of 1 images is not known \(99\)"):
        match_layouts([Layout(about="-", images="{id}.png")], Grouping(ranges={"s": (1, 38)}), [tmp_path])


def test_groups_may_be_in_a_table_of_the_distribution(tmp_path: Path) -> None:
    tree(tmp_path, "set/a.bmp", "set/b.bmp")
    (tmp_path / "set" / "Grade.csv").write_text("name, patient ID\na,  7\nb,8\n")
    rule = {"table": {"file": "Grade.csv", "image": "name", "group": "patient ID"}}
    grouping = Grouping.model_validate(rule)
    found = match_layouts([Layout(about="-", images="{id}.bmp")], grouping, [tmp_path])
    assert found is not None
    assert found.groups == {"a": "7", "b": "8"}
    (tmp_path / "set" / "Grade.csv").unlink()
    with pytest.raises(UserError, match=r"holds no Grade.csv with the columns name and patient ID"):
        match_layouts([Layout(about="-", images="{id}.bmp")], grouping, [tmp_path])


@pytest.mark.parametrize(
    ("tables", "groups"),
    [
        ({"v1.csv": "name,patient\na,7\nb,8\nz,9\n"}, {"a": "7", "b": "8"}),  # a row of an image that is not there
        ({"v1.csv": "name,patient\na,7\n", "v2.csv": "patient,name,age\n8,b,50\n7,a,60\n"}, {"a": "7", "b": "8"}),
        ({"v1.csv": "name,patient\na,7\nb,8\n", "pairs.csv": "first,second\na,b\n"}, {"a": "7", "b": "8"}),
        ({"v1.csv": "name,patient,age,age\na,7,1,2\n,6,3,4\nb,8\n,7,,\n"}, {"a": "7", "b": "8"}),
        ({"v1.csv": "name,patient\na,é\nb,e\u0301\n", "v2.csv": "name,patient\na,e\u0301\n"}, {"a": "é", "b": "é"}),
        ({"v1.csv": "name,patient\na,7\n"}, r"group of 1 images is not known from \*.csv \(b\)"),
        ({"v1.csv": "name,patient\na,7\nb, \n"}, r"group of 1 images is not known from \*.csv \(b\)"),
        ({"v1.csv": "name,patient\na,7\nb,8\n", "v2.csv": "name,patient\na,6\n"}, "several groups of the image 'a'"),
        ({"v1.csv": "name,patient\na,7\na,6\nb,8\n"}, "several groups of the image 'a'"),
        ({"pairs.csv": "first,second\na,b\n"}, r"holds no \*.csv with the columns name and patient"),
        ({"v1.csv": ""}, r"v1.csv cannot be read as CSV"),
    ],
)
def test_tables_of_groups_may_hold_more_but_not_less_and_must_agree(
    tables: dict[str, str], groups: dict[str, str] | str, tmp_path: Path
) -> None:
    tree(tmp_path, "a.png", "b.png")
    for name, text in tables.items():
        (tmp_path / name).write_text(text)
    rule = {"table": {"file": "*.csv", "image": "name", "group": "patient"}}
    layouts, grouping = [Layout(about="-", images="{id}.png")], Grouping.model_validate(rule)
    if isinstance(groups, str):
        with pytest.raises(UserError, match=groups):
            match_layouts(layouts, grouping, [tmp_path])
    else:
        found = match_layouts(layouts, grouping, [tmp_path])
        assert found is not None
        assert found.groups == groups


PAIR = Layout(about="pair", images="Data/{id}.jpg", masks="Truth/{id}_mask.png")


@pytest.mark.parametrize(
    "folders",
    [
        ["."],
        ["one", "two"],
        ["one/Data", "two/Truth"],
        ["two", "one/Data"],
        ["one", "one", "two", "two/Truth"],
    ],
)
def test_folders_of_a_distribution_may_be_given_one_by_one(folders: list[str], tmp_path: Path) -> None:
    tree(tmp_path, "one/Data/a.jpg", "one/Data/b.jpg", "two/Truth/a_mask.png", "two/Truth/b_mask.png")
    found = match_layouts([PAIR], None, [tmp_path / folder for folder in folders])
    assert found is not None
    assert found.images == {id: tmp_path / f"one/Data/{id}.jpg" for id in "ab"}
    assert found.masks == {id: [tmp_path / f"two/Truth/{id}_mask.png"] for id in "ab"}
    assert found.spare_masks == []


def test_a_mask_beside_its_image_wins_over_one_elsewhere_which_is_spare(tmp_path: Path) -> None:
    tree(tmp_path, "one/Data/a.jpg", "one/Truth/a_mask.png", "two/Truth/a_mask.png", "two/Truth/c_mask.png")
    found = match_layouts([PAIR], None, [tmp_path])
    assert found is not None
    assert found.masks == {"a": [tmp_path / "one/Truth/a_mask.png"]}
    assert found.spare_masks == [tmp_path / "two/Truth/a_mask.png", tmp_path / "two/Truth/c_mask.png"]


def test_masks_in_two_other_places_are_refused(tmp_path: Path) -> None:
    tree(tmp_path, "one/Data/a.jpg", "two/Truth/a_mask.png", "three/Truth/a_mask.png")
    with pytest.raises(UserError, match=r"three/Truth/a_mask.png and .*two/Truth/a_mask.png are masks of .*'a' in two"):
        match_layouts([PAIR], None, [tmp_path])


@pytest.mark.timeout(20)
def test_links_to_folders_are_not_followed_and_loops_end(tmp_path: Path) -> None:
    tree(tmp_path, "set/Data/a.jpg", "set/Truth/a_mask.png", "elsewhere/Data/b.jpg", "elsewhere/Truth/b_mask.png")
    (tmp_path / "set/Data/loop").symlink_to(tmp_path / "set", target_is_directory=True)
    (tmp_path / "set/self").symlink_to("self")
    (tmp_path / "set/other").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "set/Truth/c_mask.txt").symlink_to(tmp_path / "gone")
    (tmp_path / "link").symlink_to(tmp_path / "set", target_is_directory=True)
    for folder in (tmp_path / "set", tmp_path / "link"):
        found = match_layouts([PAIR], None, [folder])
        assert found is not None
        assert found.images == {"a": folder / "Data/a.jpg"}
    both = match_layouts([PAIR], None, [tmp_path / "link", tmp_path / "set"])
    assert both is not None
    assert both.images == {"a": tmp_path / "link/Data/a.jpg"}


@pytest.mark.parametrize(
    "id", ["病灶 一", "čočka-é", "آفة١", "พยาธิ", "a.b (2)", "emoji🔬", unicodedata.normalize("NFD", "Läsion é")]
)
def test_names_in_any_script(id: str, tmp_path: Path) -> None:
    other = unicodedata.normalize("NFC" if unicodedata.is_normalized("NFD", id) else "NFD", id)
    tree(tmp_path, f"数据/Data/{id}.jpg", f"数据/Truth/{other}_mask.png")
    found = match_layouts([PAIR], None, [tmp_path])
    assert found is not None
    assert found.masks == {unicodedata.normalize("NFC", id): [tmp_path / f"数据/Truth/{other}_mask.png"]}


def test_names_that_differ_only_by_case_are_refused(tmp_path: Path) -> None:
    tree(tmp_path, "Data/a.jpg", "Data/A.jpg", "Truth/a_mask.png", "Truth/A_mask.png")
    if len(list((tmp_path / "Data").iterdir())) < 2:
        pytest.skip("this disk ignores case")
    card = load_card("ph2").model_copy(update={"layout": (PAIR,)})
    with pytest.raises(UserError, match="differ in nothing but case"):
        open_distribution(card, [tmp_path])


def test_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone cannot be read \(No such file or directory\); check that the folder"):
        match_layouts([PAIR], None, [tmp_path / "gone"])


@pytest.mark.parametrize(
    ("path", "id"),
    [
        ("x/Data/a.jpg", "a"),
        ("data/A.JPG", "A"),
        ("Truth/a_mask.png", None),
        ("a.jpg", None),
        ("Data/a.jpg/more", None),
    ],
)
def test_id_of_a_path(path: str, id: str | None) -> None:
    assert id_of(PAIR, path) == id
    assert id_of(Layout(about="-", images="p{id}.tif", id="{id:03}"), "p7.tif") == "007"
    assert id_of(Layout(about="-", images="{id}.png", masks="{id}_m.png"), "x/7_m.png") is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"images": "/abs/{id}.png"}, "relative path"),
        ({"images": "../{id}.png"}, "relative path"),
        ({"images": "all.png"}, "needs a field"),
        ({"images": "{id}.png", "masks": "{other}.png"}, "other is no field of images"),
        ({"images": "{id}.png", "id": "{name}"}, "name is no field of images"),
    ],
)
def test_a_pattern_that_cannot_work_is_refused(fields: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Layout.model_validate({"about": "-", **fields})
