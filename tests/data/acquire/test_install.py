"""Data sets are brought into the data folder: every distribution, from folders and from archives, and one's own."""

import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qgbench.base.errors import QGBenchError, UserError
from qgbench.data.acquire.install import add_own, card_text, install_distribution, own_card, writable_data_dir
from qgbench.data.acquire.verify import verify
from qgbench.data.cache import prepare
from qgbench.data.cards import card_names, load_card
from qgbench.data.readers import FolderSource, Source, open_distribution, open_pool, open_source
from tests.data.distributions import BUILDERS, build
from tests.data.test_readers import save_mask, write_tree

FACTS = {"domain": "breast", "modality": "ultrasound", "terms": 'mine: "all" \\ rights', "citation": "a\nb"}
# Trees with hundreds of listed images are opened elsewhere; one of them will do here.
NAMES = sorted({name for name, _ in BUILDERS} - {"isic2017", "isic_pool"})


def zipped(folder: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, path.relative_to(folder))
    return archive


def opened(name: str, data_dir: Path) -> Source:
    return (open_pool if load_card(name).kind == "pool" else open_source)(name, data_dir)


def assert_same_data(found: Source, expected: Source) -> None:
    assert found.ids == expected.ids
    assert found.labelled == expected.labelled
    for id in found.ids:
        np.testing.assert_array_equal(found.image(id), expected.image(id))
        if found.labelled:
            np.testing.assert_array_equal(found.mask(id), expected.mask(id))


@pytest.mark.parametrize("name", NAMES)
def test_a_distribution_becomes_the_common_layout(name: str, tmp_path: Path) -> None:
    raw, data_dir = build(name, tmp_path / "raw"), tmp_path / "data"
    data_dir.mkdir()
    card = load_card(name)
    expected = open_distribution(card, [raw])
    assert expected is not None
    folder = install_distribution(card, [raw], data_dir)
    assert folder == data_dir / name
    found = opened(name, data_dir)
    assert_same_data(found, expected)
    if found.labelled:
        assert found.groups == expected.groups
        assert {np.unique(np.asarray(Image.open(file))).tolist()[-1] for file in (folder / "masks").iterdir()} <= {
            0,
            255,
        }
    assert [entry.name for entry in data_dir.iterdir() if not entry.name.endswith(".lock")] == [name]


def test_archives_are_unpacked_one_by_one_or_all_that_a_folder_holds(tmp_path: Path) -> None:
    raw = build("isic2016", tmp_path / "raw")
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    archives = [zipped_part(raw, part, downloads) for part in sorted(raw.iterdir()) if part.is_dir()]
    assert len(archives) >= 2
    expected = open_distribution(load_card("isic2016"), [raw])
    assert expected is not None
    for place, sources in (("one", archives), ("two", [downloads])):
        data_dir = tmp_path / place
        data_dir.mkdir()
        install_distribution(load_card("isic2016"), sources, data_dir)
        assert_same_data(open_source("isic2016", data_dir), expected)
        assert not (data_dir / ".isic2016.unpacked").exists()


def zipped_part(raw: Path, part: Path, folder: Path) -> Path:
    archive = folder / f"{part.name}.ZIP"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(part.rglob("*")):
            file.write(path, path.relative_to(raw))
    return archive


def test_what_was_unpacked_before_a_failure_is_not_unpacked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = build("ph2", tmp_path / "raw")
    archive = zipped(raw, tmp_path / "PH2.zip")
    unpacked: list[Path] = []

    def fail(*args: object) -> None:
        raise UserError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr("qgbench.data.acquire.install._write", fail)
        with pytest.raises(UserError, match="stopped"):
            install_distribution(load_card("ph2"), [archive], tmp_path)
    assert not (tmp_path / "ph2").exists()
    monkeypatch.setattr("qgbench.data.acquire.install.unpack", lambda *args: unpacked.append(args[0]))
    install_distribution(load_card("ph2"), [archive], tmp_path)
    assert unpacked == []
    assert open_source("ph2", tmp_path).ids == [sample for sample in open_source("ph2", tmp_path).ids]


def test_images_take_no_room_twice(tmp_path: Path) -> None:
    raw = build("kvasir_seg", tmp_path / "raw")
    install_distribution(load_card("kvasir_seg"), [raw], tmp_path)
    found = open_source("kvasir_seg", tmp_path)
    assert isinstance(found, FolderSource)
    for id in found.ids:
        assert found.files(id)[0].stat().st_nlink == 2


def test_the_common_layout_is_taken_as_it_is(tmp_path: Path) -> None:
    write_tree(tmp_path / "raw/inner", ids=("IMD002", "IMD003"))
    install_distribution(load_card("ph2"), [tmp_path / "raw"], tmp_path)
    assert_same_data(open_source("ph2", tmp_path), open_source(str(tmp_path / "raw/inner")))


def test_what_cannot_be_brought_in_leaves_the_data_folder_as_it_was(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    raw = build("ph2", tmp_path / "raw")
    broken = next(raw.rglob("*_lesion.bmp"))
    broken.write_bytes(broken.read_bytes()[:100])
    cases = [
        ([tmp_path / "nowhere"], r"there is no file or folder .*nowhere"),
        ([tmp_path / "empty"], "no images of 'ph2' were found there. Expected files like PH2 Dataset images/"),
        ([raw], broken.name),
    ]
    (tmp_path / "empty").mkdir()
    for sources, message in cases:
        with pytest.raises(UserError, match=message):
            install_distribution(load_card("ph2"), sources, data_dir)
        assert [entry.name for entry in data_dir.iterdir() if not entry.name.endswith(".lock")] == []


def test_what_is_there_is_not_replaced(tmp_path: Path) -> None:
    write_tree(tmp_path / "ph2", ids=("IMD002",))
    with pytest.raises(UserError, match="is there already: look at it with qgbench data verify ph2"):
        install_distribution(load_card("ph2"), [build("ph2", tmp_path / "raw")], tmp_path)


def test_other_numbers_than_the_card_expects_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    raw = build("ph2", tmp_path / "raw")
    install_distribution(load_card("ph2"), [raw], tmp_path)
    count = len(open_source("ph2", tmp_path).ids)
    assert f"'ph2' has {count} images; its card expects 200" in caplog.text


# One's own


def test_own_images_become_a_data_set_of_that_name(tmp_path: Path) -> None:
    write_tree(tmp_path / "raw", mask_ending="_mask")
    groups = tmp_path / "patients.csv"
    groups.write_text("stem,group\na,p\nb,p\nc,q\n")
    card = own_card("mine", "My own", "patient", pool=False, facts=FACTS)
    folder = add_own(card, tmp_path / "raw/images", tmp_path / "raw/masks", groups, tmp_path / "raw")
    found = open_source(str(folder))
    assert_same_data(found, open_source(str(tmp_path / "raw")))
    assert found.groups == ["p", "p", "q"]
    assert found.card == card
    assert {entry.name for entry in folder.iterdir()} == {"images", "masks", "groups.csv", "card.toml"}


def test_own_images_without_masks_become_a_pool(tmp_path: Path) -> None:
    write_tree(tmp_path / "raw")
    folder = add_own(own_card("p", "P", "none known", True, FACTS), tmp_path / "raw/images", None, None, tmp_path)
    pool = open_pool(str(folder))
    assert (pool.ids, pool.labelled, pool.card.kind) == (["a", "b", "c"], False, "pool")


def added(raw: Path, data_dir: Path, threshold: float | None = None) -> Path:
    card = own_card("mine", "Mine", "none known", False, FACTS, threshold)
    return add_own(card, raw / "images", raw / "masks", None, data_dir)


def test_soft_masks_are_cut_when_they_are_added_and_the_card_says_where(tmp_path: Path) -> None:
    write_tree(tmp_path / "raw")
    expected = open_source(str(tmp_path / "raw"))
    masks = {id: expected.mask(id) for id in expected.ids}
    for id, mask in masks.items():
        soft = np.where(mask, 255 - np.arange(mask.shape[1]), 127).astype(np.uint8)
        save_mask(tmp_path / f"raw/masks/{id}.png", soft)
    with pytest.raises(UserError, match=r"qgbench data add --threshold LEVEL"):
        added(tmp_path / "raw", tmp_path)
    folder = added(tmp_path / "raw", tmp_path, 127)
    found = open_source(str(folder))
    assert found.card.threshold == 127
    for id, mask in masks.items():
        np.testing.assert_array_equal(found.mask(id), mask)
    assert [finding.rule for finding in verify([str(folder)]) if finding.rule.endswith("mask")] == []


def test_masks_that_make_one_doubt_their_reading_are_spoken_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_tree(tmp_path / "raw")
    black = Image.open(tmp_path / "raw/masks/a.png").point(lambda value: value // 255)
    black.putpalette([0, 0, 0, 0, 0, 0])
    black.save(tmp_path / "raw/masks/a.png")
    added(tmp_path / "raw", tmp_path)
    (message,) = caplog.messages  # one of three without a lesion is nothing strange
    assert message.startswith("1 mask (a) with a palette whose colours and numbers disagree on the background.")
    assert "qgbench data show mine" in message
    caplog.clear()
    for id in "ab":
        Image.new("L", Image.open(tmp_path / f"raw/images/{id}.png").size).save(tmp_path / f"raw/masks/{id}.png")
    shutil.rmtree(tmp_path / "mine")
    added(tmp_path / "raw", tmp_path)
    (message,) = caplog.messages
    assert message.startswith("2 masks (a, b) of 3 without a single foreground pixel")


def test_messages_name_the_folders_that_were_given(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    raw = tmp_path / "raw"
    write_tree(raw)
    turned = Image.Exif()
    turned[0x0112] = 3
    Image.open(raw / "images/a.png").save(raw / "images/a.png", exif=turned)
    Image.new("RGB", (9, 9)).save(raw / "images/spare.png")
    with pytest.raises(UserError) as caught:
        added(raw, tmp_path)
    assert str(caught.value) == (
        f"1 image (spare) of {raw / 'images'} without a mask in {raw / 'masks'}: add the masks or leave the images "
        "out, or add them as a pool of their own."
    )
    (raw / "images/spare.png").unlink()
    added(raw, tmp_path)
    (message,) = caplog.messages
    assert message.startswith(f"{raw / 'images/a.png'} is turned by its EXIF orientation")


def test_what_an_archive_holds_is_named_by_the_archive(tmp_path: Path) -> None:
    raw = build("ph2", tmp_path / "raw")
    broken = next(raw.rglob("*_lesion.bmp"))
    broken.write_bytes(broken.read_bytes()[:100])
    archive = zipped(raw, tmp_path / "PH2.zip")
    with pytest.raises(UserError) as caught:
        install_distribution(load_card("ph2"), [archive], tmp_path)
    assert str(caught.value).startswith(f"{archive / broken.relative_to(raw)} ")
    assert ".unpacked" not in str(caught.value)


def test_folders_that_are_not_there_are_named(tmp_path: Path) -> None:
    write_tree(tmp_path / "raw")
    card = own_card("mine", "Mine", "patient", False, FACTS)
    images, masks = tmp_path / "raw/images", tmp_path / "raw/masks"
    for given in ((images / "a.png", masks, None), (images, tmp_path / "nowhere", None), (images, masks, masks)):
        with pytest.raises(UserError, match=r"there is no .*(nowhere|masks)\.$|a\.png is a file, and a "):
            add_own(card, *given, tmp_path / "data")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a,p\nb,p\n", r"patients\.csv: 1 image \(c\) not listed"),
        ("a,p\nb,p\nc,q\nd,q\n", r"patients\.csv: 1 image \(d\) listed without an image"),
    ],
)
def test_groups_that_do_not_fit_are_refused_and_nothing_is_left(tmp_path: Path, rows: str, message: str) -> None:
    write_tree(tmp_path / "raw")
    (tmp_path / "patients.csv").write_text("stem,group\n" + rows)
    card = own_card("mine", "Mine", "patient", False, FACTS)
    with pytest.raises(UserError, match=message):
        add_own(card, tmp_path / "raw/images", tmp_path / "raw/masks", tmp_path / "patients.csv", tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir() if not entry.name.endswith(".lock")) == [
        "patients.csv",
        "raw",
    ]


def test_names_that_are_taken_or_cannot_be_names_are_refused() -> None:
    for name in card_names():
        with pytest.raises(UserError, match="is a data set that qgbench knows"):
            own_card(name, name, "-", False, FACTS)
    for name in ("a/b", "", ".hidden", "ä"):
        with pytest.raises(UserError, match="cannot name a data set"):
            own_card(name, name, "-", False, FACTS)


def test_a_card_survives_being_written(tmp_path: Path) -> None:
    card = own_card("mine", "Mäßig 'grün' \"x\" \x07 \U0001f600", "patient", False, FACTS)
    (tmp_path / "card.toml").write_text(card_text(card), encoding="utf-8")
    from qgbench.data.cards import read_card

    assert read_card(tmp_path / "card.toml") == card


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("qgbench.data.acquire.install._link", full)
    with pytest.raises(
        QGBenchError, match=r"cannot write to the data folder .*: No space left on device\. Free some space"
    ):
        install_distribution(load_card("ph2"), [build("ph2", tmp_path / "raw")], tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir() if not entry.name.endswith(".lock")) == ["raw"]


def test_no_data_folder_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("QGBENCH_DATA", raising=False)
    with pytest.raises(UserError, match="give --data-dir DIR or set QGBENCH_DATA=DIR"):
        writable_data_dir(None)
    assert writable_data_dir(tmp_path / "new/deep").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(QGBenchError, match="A part of that path is a file and not a folder: choose another --data-dir"):
        writable_data_dir(tmp_path / "file/below")


@pytest.mark.real
@pytest.mark.parametrize("name", ["ph2", "scd", "cvc_colondb", "cvc_clinicdb", "isic2017", "isic_pool", "kvasir_pool"])
def test_the_real_folders_are_brought_in_as_they_are(name: str, tmp_path: Path) -> None:
    if "QGBENCH_DATA" not in os.environ:
        pytest.skip("QGBENCH_DATA is not set")
    raw = Path(os.environ["QGBENCH_DATA"])
    install_distribution(load_card(name), [raw / name], tmp_path)
    found, expected = (prepare(opened(name, data_dir), 16, tmp_path / "cache") for data_dir in (tmp_path, raw))
    assert found.fingerprint == expected.fingerprint
    assert found.groups == expected.groups
