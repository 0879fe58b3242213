"""Splits as others publish them."""

from pathlib import Path

import pandas as pd
import pytest

from qgbench.base.errors import UserError
from qgbench.data.acquire.given import read_given
from qgbench.data.cards import load_card
from qgbench.data.readers import FolderSource

IDS = [f"IMD{number:03d}" for number in range(2, 14)]
PARTS = {"train": IDS[:8], "val": IDS[8:10], "test": IDS[10:]}


def source(card: str, ids: list[str], groups: dict[str, str] | None = None) -> FolderSource:
    """A data set, or a pool, whose files nobody reads."""
    masks = None if load_card(card).kind == "pool" else {id: [Path(f"{id}.png")] for id in ids}
    return FolderSource(
        load_card(card), {id: Path(f"{id}.jpg") for id in ids}, masks, groups or {id: id for id in ids}, None
    )


def release(folder: Path, parts: dict[str, list[str]] = PARTS) -> Path:
    """Tables of image_path and mask_path, one for each part, as the paper's authors publish theirs."""
    folder.mkdir(exist_ok=True)
    for part, ids in parts.items():
        rows = [{"image_path": f"data/PH2/{id}.bmp", "mask_path": f"data/PH2/{id}_lesion.bmp"} for id in ids]
        pd.DataFrame(rows).to_csv(folder / f"ph2_{part}.csv", index=False)
    return folder


def parts_of(table: pd.DataFrame) -> dict[str, list[str]]:
    return {part: list(table.loc[table["split"] == part, "id"]) for part in ("train", "val", "test")}


def test_tables_of_paths_a_part_each(tmp_path: Path) -> None:
    folder = release(tmp_path / "splits")
    given = read_given([folder], source("ph2", IDS))
    assert parts_of(given.table) == PARTS
    assert list(given.table.columns) == ["id", "group", "split"]
    assert (given.labelled, given.pool) == (None, None)
    files = [folder / "ph2_val.csv", folder / "ph2_test.csv", folder / "ph2_train.csv"]
    assert read_given(files, source("ph2", IDS[::-1])).kind == given.kind


def test_a_table_with_a_column_of_parts(tmp_path: Path) -> None:
    file = tmp_path / "all.csv"
    rows = [(id, {"val": "Valid"}.get(part, part)) for part, ids in PARTS.items() for id in ids]
    pd.DataFrame(rows, columns=["ID", "Split"]).sample(frac=1, random_state=0).to_csv(file, index=False)
    assert read_given([file], source("ph2", IDS)).kind == read_given([release(tmp_path / "s")], source("ph2", IDS)).kind


def test_lists_of_labelled_and_unlabelled_images(tmp_path: Path) -> None:
    """An image and its mask a line, as UniMatch's splits."""
    lists = {"labeled": IDS[:3], "unlabeled": IDS[3:8], "val": IDS[8:10], "test": IDS[10:]}
    for name, ids in lists.items():
        lines = [f"JPEGImages/{id}.jpg SegmentationClass/{id}.png" for id in ids]
        (tmp_path / f"{name}.txt").write_text("\n".join(lines) + "\n\n")
    given = read_given([tmp_path], source("ph2", IDS))
    assert parts_of(given.table) == PARTS
    assert given.labelled == IDS[:3]
    assert given.pool is None
    other = read_given([release(tmp_path / "tables")], source("ph2", IDS))
    assert given.kind != other.kind  # the same parts, but here the labelled images are fixed


def test_names_are_matched_with_spaces_other_scripts_numbers_and_layouts(tmp_path: Path) -> None:
    ids = ["benign (1)", "бенигн 2", "001", "017", "mel_dermis_SSM1", "x.y"]
    written = [
        "benign (1).png",
        "a\\бенигн 2.JPG",
        "1",
        "17.tiff",
        "skin_data/melanoma/dermis/SSM1_orig.jpg",
        "x.y.png",
    ]
    (tmp_path / "train.txt").write_text("\n".join(written[:2]), encoding="utf-8-sig")
    (tmp_path / "val.txt").write_text("\n".join(written[2:4]))
    (tmp_path / "test.txt").write_text("\n".join(written[4:]))
    given = read_given([tmp_path], source("scd", ids))
    assert parts_of(given.table) == {"train": sorted(ids[:2]), "val": ids[2:4], "test": ids[4:]}


def test_a_list_of_pool_images_restricts_the_pool(tmp_path: Path) -> None:
    folder = release(tmp_path / "s")
    pd.DataFrame({"image_path": ["x/ISIC_3.jpg", "x/ISIC_1.jpg"], "mask_path": ["", ""]}).to_csv(
        tmp_path / "isic2020_5000_draw1.csv", index=False
    )
    pool = source("isic2020", ["ISIC_1", "ISIC_2", "ISIC_3"])
    paths = [folder, tmp_path / "isic2020_5000_draw1.csv"]
    given = read_given(paths, source("ph2", IDS), [pool])
    assert given.pool == ["ISIC_1", "ISIC_3"]
    assert parts_of(given.table) == PARTS
    assert given.kind != read_given([folder], source("ph2", IDS), [pool]).kind
    with pytest.raises(UserError, match="does not say which part its images belong to"):
        read_given(paths, source("ph2", IDS))
    with pytest.raises(UserError, match=r"images of pools, but none of isic_pool; leave that pool out"):
        read_given(paths, source("ph2", IDS), [pool, source("isic_pool", ["a"])])


def test_images_that_are_left_out_and_groups_that_cross_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    groups = {id: "one" if id in (IDS[0], IDS[9]) else id for id in IDS}
    given = read_given([release(tmp_path)], source("ph2", [*IDS, "IMD999"], {**groups, "IMD999": "IMD999"}))
    assert len(given.table) == len(IDS)
    assert "leaves out 1 image (IMD999) of 'ph2'" in caplog.text
    assert "1 groups" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": [*IDS[:8], "IMD999"]}, r"1 image \(data/PH2/IMD999.bmp\) not in 'ph2'"),
        ({"val": [*IDS[8:10], IDS[0]]}, r"1 image \(IMD002\) in two parts \(train and val\)"),
        ({"test": IDS[10:11]}, "has 1 images to test on; 2 or more are needed"),
    ],
)
def test_a_split_that_does_not_fit_is_refused(tmp_path: Path, change: dict[str, list[str]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_given([release(tmp_path, {**PARTS, **change})], source("ph2", IDS))


def test_labelled_and_unlabelled_at_once_is_refused(tmp_path: Path) -> None:
    release(tmp_path, {**PARTS, "labelled": IDS[:2], "unlabelled": IDS[1:4]})
    with pytest.raises(UserError, match=r"calls 1 image \(IMD003\) labelled and unlabelled"):
        read_given([tmp_path], source("ph2", IDS))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("train.csv", "picture,mask\na,b\n", "has the columns picture, mask; expected one of image_path"),
        ("all.csv", "id,split\nIMD002,fold3\n", "column split: fold3\\? Expected train, val, test"),
        ("list.txt", "IMD002\n", "does not say which part"),
        ("train_val.txt", "IMD002\n", "does not say which part"),
        ("train.csv", "", "cannot be read as CSV: it is empty"),
        ("all.csv", "id,split\nIMD002,train\nIMD003,\n", "column split is empty in line 3"),
        ("all.csv", "id,Split,split\nIMD002,train,test\n", "has 2 columns 'split'"),
        ("split.json", "{}", "is no split: expected a .csv, .txt or .list file"),
    ],
)
def test_a_file_that_cannot_be_understood_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_given([tmp_path / name], source("ph2", IDS))
    assert name in str(caught.value)


def test_a_missing_file_and_one_in_another_encoding_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no file or folder .*nowhere\.csv; name the files of the split"):
        read_given([tmp_path / "nowhere.csv"], source("ph2", IDS))
    (tmp_path / "train.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(UserError, match=r"train\.txt is not UTF-8 \(line 1\); save it as UTF-8"):
        read_given([tmp_path / "train.txt"], source("ph2", IDS))
