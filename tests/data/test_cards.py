import re
from importlib.resources import files
from pathlib import Path

import pytest

from qgbench.base.errors import UserError
from qgbench.data.cards import Card, card_folder, card_names, listed_ids, load_card, read_card

LABELLED = [
    "acdc",
    "busi",
    "cvc_clinicdb",
    "cvc_colondb",
    "dermofit",
    "dsb2018",
    "glas",
    "hippocampus",
    "isic2016",
    "isic2017",
    "isic2017_full",
    "isic2018",
    "kvasir_seg",
    "ph2",
    "phantom",
    "phantom3d",
    "scd",
]
POOLS = ["isic2020", "isic_pool", "kvasir_pool", "polyp_box_seg"]
VALID = """name = "own"
title = "Own"
kind = "labelled"
domain = "breast"
modality = "ultrasound"
terms = "-"
citation = "-"
homepage = "-"
groups = "patient"
"""


def test_shipped_cards_by_kind() -> None:
    assert card_names("labelled") == LABELLED
    assert card_names("pool") == POOLS
    assert card_names() == sorted(LABELLED + POOLS)


@pytest.mark.parametrize("name", LABELLED + POOLS)
def test_shipped_card_is_named_after_its_folder_and_says_whom_to_cite(name: str) -> None:
    card = load_card(name)
    assert card.name == name
    assert card.images
    assert card.citation
    assert card.terms
    assert (card.budget is None) == (card.kind == "pool")


@pytest.mark.parametrize("name", [name for name in LABELLED + POOLS if not name.startswith("phantom")])
def test_shipped_card_says_where_the_images_are(name: str) -> None:
    card = load_card(name)
    assert card.downloads or card.obtain
    assert card.homepage.startswith(("https://", "http://"))
    assert card.spacing
    assert all(defect.endswith(".") for defect in card.defects)
    for download in card.downloads:
        assert download.url.startswith("https://")
        assert download.url.endswith(f"/{download.file}")
        assert download.sha256 is None or re.fullmatch("[0-9a-f]{64}", download.sha256)


def test_a_subset_lists_the_images_of_every_committed_split() -> None:
    subsets = {name for name in LABELLED + POOLS if load_card(name).subset is not None}
    assert subsets == {"isic2017", "isic_pool", "kvasir_pool"}
    assert not set(listed_ids(load_card("isic_pool")) or []) & set(listed_ids(load_card("isic2017")) or [])
    for name in subsets:
        assert len(listed_ids(load_card(name)) or []) == load_card(name).images
    card = load_card("isic2017")
    listed = listed_ids(card)
    assert listed is not None
    assert len(listed) == card.images == 400
    for split in card_folder("isic2017").joinpath("splits").iterdir():
        rows = split.read_text().splitlines()[1:]
        assert sorted(row.split(",")[0] for row in rows) == listed
    assert listed_ids(load_card("isic2017_full")) is None
    with pytest.raises(UserError, match="only shipped data sets have such a table"):
        listed_ids(card.model_copy(update={"name": "own"}))


def test_each_pool_shares_its_domain_with_a_labelled_set() -> None:
    domains = {load_card(name).domain for name in LABELLED}
    assert {load_card(name).domain for name in POOLS} <= domains


def test_dataset_folder_holds_cards_and_splits_only() -> None:
    allowed = {".toml", ".csv"}
    for folder in (entry for entry in files("qgbench.datasets").iterdir() if entry.joinpath("card.toml").is_file()):
        for entry in folder.iterdir():
            names = [child.name for child in entry.iterdir()] if entry.is_dir() else [entry.name]
            assert all(any(name.endswith(suffix) for suffix in allowed) for name in names), names


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown dataset 'cvc_clinicbd'\. Did you mean 'cvc_clinicdb'\?"):
        load_card("cvc_clinicbd")


def test_card_folder_is_a_real_folder_here() -> None:
    assert card_folder("ph2").joinpath("splits").is_dir()


def test_own_card(tmp_path: Path) -> None:
    file = tmp_path / "card.toml"
    file.write_text(VALID)
    card = read_card(file)
    assert (card.domain, card.budget, card.images) == ("breast", None, None)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (VALID.replace('groups = "patient"', ""), "groups: Field required"),
        (VALID + "colour = 3\n", "colour: Extra inputs"),
        (VALID + "budget = 0\n", "budget"),
        (VALID.replace('"own"', '"a/b"'), "name"),
        (VALID.replace('"labelled"', '"pool"') + "budget = 3\n", "a pool has no labelled budget"),
        ("name = ", "not valid TOML"),
    ],
)
def test_bad_card_names_the_file_and_the_field(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "card.toml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        read_card(file)
    assert str(file) in str(caught.value)
    assert complaint in str(caught.value)


def test_a_card_of_any_editor(tmp_path: Path) -> None:
    file = tmp_path / "card.toml"
    text = VALID + '[grouping.ranges]\n"Re\u0301mi" = [1, 3]\n'
    file.write_text(text, encoding="utf-8-sig")
    card = read_card(file)
    assert card.grouping is not None
    assert list(card.grouping.ranges) == ["Rémi"], "composed, as ids and groups are"
    file.write_text(text, encoding="utf-16")
    with pytest.raises(UserError, match=r"card\.toml is not UTF-8 .*save it as UTF-8"):
        read_card(file)


def test_card_cannot_be_changed() -> None:
    card = load_card("ph2")
    with pytest.raises(ValueError, match="frozen"):
        card.budget = 3
    assert isinstance(card, Card)
