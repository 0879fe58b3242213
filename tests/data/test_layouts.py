"""Distributions as their owners hand them out, on small trees of generated files."""

import csv
import os
from pathlib import Path

import pytest

from qgbench.data.cards import load_card
from qgbench.data.layouts import Grouping, Layout, match_layouts
from qgbench.errors import UserError


def tree(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


DISTRIBUTIONS = {
    "ph2": (
        ["PH2Dataset/PH2 Dataset images/IMD002/IMD002_Dermoscopic_Image/IMD002.bmp"],
        ["PH2Dataset/PH2 Dataset images/IMD002/IMD002_lesion/IMD002_lesion.bmp"],
        ["PH2Dataset/PH2_dataset.xlsx", "PH2Dataset/PH2 Dataset images/IMD002/IMD002_roi/IMD002_R1_Label.bmp"],
        {"IMD002": "IMD002"},
    ),
    "scd": (
        [
            "skin_data/melanoma/dermis/SSM1_orig.jpg",
            "skin_data/melanoma/dermquest/SSM1_orig.jpg",
            "skin_data/melanoma/dermquest/SSM1_2_orig.jpg",
            "skin_data/notmelanoma/dermis/10_orig.jpg",
        ],
        [
            "skin_data/melanoma/dermis/SSM1_contour.png",
            "skin_data/melanoma/dermquest/SSM1_contour.png",
            "skin_data/melanoma/dermquest/SSM1_2_contour.png",
            "skin_data/notmelanoma/dermis/10_contour.png",
        ],
        ["skin_data/readme.txt"],
        {
            "mel_dermis_SSM1": "mel_dermis_SSM1",
            "mel_dermquest_SSM1": "mel_dermquest_SSM1",
            "mel_dermquest_SSM1_2": "mel_dermquest_SSM1",
            "not_dermis_10": "not_dermis_10",
        },
    ),
    "cvc_colondb": (
        ["CVC-ColonDB/1.tiff", "CVC-ColonDB/301.tiff"],
        ["CVC-ColonDB/p1.tiff", "CVC-ColonDB/p301.tiff"],
        [],
        {"001": "seq01", "301": "seq04"},
    ),
    "cvc_clinicdb": (
        ["CVC-ClinicDB/Original/26.tif", "CVC-ClinicDB/Original/612.tif"],
        ["CVC-ClinicDB/Ground Truth/26.tif", "CVC-ClinicDB/Ground Truth/612.tif"],
        [],
        {"026": "seq02", "612": "seq29"},
    ),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_distribution_is_matched_file_by_file(name: str, tmp_path: Path) -> None:
    images, masks, others, groups = DISTRIBUTIONS[name]
    card = load_card(name)
    found = match_layouts(card.layout, card.grouping, tree(tmp_path, *images, *masks, *others))
    assert found is not None
    assert found.images == {id: tmp_path / file for id, file in zip(groups, images, strict=True)}
    assert found.masks == {id: [tmp_path / file] for id, file in zip(groups, masks, strict=True)}
    assert found.groups == groups


@pytest.mark.real
@pytest.mark.parametrize("name", ["scd", "cvc_colondb", "cvc_clinicdb"])
def test_the_rule_gives_the_groups_of_all_images(name: str, tmp_path: Path) -> None:
    grouping = load_card(name).grouping
    with (Path(os.environ["QGBENCH_DATA"]) / name / "groups.csv").open() as file:
        known = {row["stem"]: row["group"] for row in csv.DictReader(file)}
    layout = Layout(about="the common layout", images="images/{id}.jpg")
    found = match_layouts([layout], grouping, tree(tmp_path, *(f"images/{id}.jpg" for id in known)))
    assert found is not None
    assert found.groups == known


def test_masks_of_one_image_are_all_found_and_are_no_images(tmp_path: Path) -> None:
    layout = Layout(about="ultrasound", images="{class}/{id}.png", masks="{class}/{id}_mask*.png")
    files = ["benign/benign (1).png", "benign/benign (1)_mask.png", "benign/benign (1)_mask_1.png", "normal/n.png"]
    found = match_layouts([layout], None, tree(tmp_path, *files))
    assert found is not None
    assert sorted(found.images) == ["benign (1)", "n"]
    assert [file.name for file in found.masks["benign (1)"]] == ["benign (1)_mask.png", "benign (1)_mask_1.png"]
    assert found.masks["n"] == []


def test_the_first_layout_with_an_image_is_taken_and_none_where_nothing_matches(tmp_path: Path) -> None:
    first, second = (Layout(about=name, images=f"{name}/{{id}}.png") for name in ("a", "b"))
    tree(tmp_path, "x/b/1.png", "x/.hidden/a/1.png")
    found = match_layouts([first, second], None, tmp_path)
    assert found is not None
    assert found.layout is second
    assert match_layouts([first], None, tmp_path) is None


def test_two_files_of_one_id_are_refused(tmp_path: Path) -> None:
    tree(tmp_path, "copy/images/7.png", "images/7.png")
    with pytest.raises(UserError, match=r"are both the image '7' \(mirror\)"):
        match_layouts([Layout(about="mirror", images="images/{id}.png")], None, tmp_path)


def test_an_image_without_a_group_is_refused(tmp_path: Path) -> None:
    tree(tmp_path, "1.png", "99.png")
    with pytest.raises(UserError, match=r"group of 1 images is not known \(99\)"):
        match_layouts([Layout(about="-", images="{id}.png")], Grouping(ranges={"s": (1, 38)}), tmp_path)


def test_groups_may_be_in_a_table_of_the_distribution(tmp_path: Path) -> None:
    tree(tmp_path, "set/a.bmp", "set/b.bmp")
    (tmp_path / "set" / "Grade.csv").write_text("name, patient ID\na,  7\nb,8\n")
    rule = {"table": {"file": "Grade.csv", "image": "name", "group": "patient ID"}}
    grouping = Grouping.model_validate(rule)
    found = match_layouts([Layout(about="-", images="{id}.bmp")], grouping, tmp_path)
    assert found is not None
    assert found.groups == {"a": "7", "b": "8"}
    (tmp_path / "set" / "Grade.csv").unlink()
    with pytest.raises(UserError, match=r"holds 0 files Grade.csv"):
        match_layouts([Layout(about="-", images="{id}.bmp")], grouping, tmp_path)


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
