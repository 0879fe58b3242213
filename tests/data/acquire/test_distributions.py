"""Every distribution that a card describes, on a small tree in its layout and file formats."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qgbench.base.errors import UserError
from qgbench.data.cards import card_names, load_card
from qgbench.data.readers import FolderSource, open_distribution, open_pool, open_source
from tests.data.distributions import BUILDERS, Sample, build, write

LAYOUTS = [(name, n) for name in card_names() for n, _ in enumerate(load_card(name).layout)]
MASKED = [(name, n) for name, n in LAYOUTS if load_card(name).kind == "labelled"]
LOSSY = 8  # what JPEG changes at most in a smooth picture, in grey levels


def opened(name: str, *folders: Path) -> FolderSource:
    source = open_distribution(load_card(name), folders)
    assert source is not None
    return source


def check(source: FolderSource, samples: list[Sample]) -> None:
    """Ids, groups, and every pixel."""
    assert source.ids == [sample.id for sample in samples]
    assert source.groups == [sample.group for sample in samples]
    for sample in samples:
        image = source.image(sample.id)
        assert image.shape == sample.image.shape
        lossy = sample.image_file.suffix == ".jpg"
        np.testing.assert_allclose(image.astype(int), sample.image, atol=LOSSY if lossy else 0)
        if sample.mask is not None:
            np.testing.assert_array_equal(source.mask(sample.id), sample.mask)


def test_every_layout_of_every_card_has_a_builder() -> None:
    assert sorted(BUILDERS) == LAYOUTS


@pytest.mark.parametrize(("name", "layout"), LAYOUTS)
def test_a_distribution_is_read_to_the_pixel(name: str, layout: int, tmp_path: Path) -> None:
    samples = write(name, tmp_path, layout)
    source = opened(name, tmp_path)
    assert source.card == load_card(name)
    assert source.labelled == (source.card.kind == "labelled")
    check(source, samples)
    for sample in samples:
        assert source.files(sample.id) == (sample.image_file, sorted(sample.mask_files))


@pytest.mark.parametrize(("name", "layout"), LAYOUTS)
def test_a_distribution_in_the_data_folder_is_opened_by_name(name: str, layout: int, tmp_path: Path) -> None:
    samples = write(name, tmp_path / name, layout)
    source = (open_source if load_card(name).kind == "labelled" else open_pool)(name, tmp_path)
    assert isinstance(source, FolderSource)
    assert source.ids == [sample.id for sample in samples]
    assert source.groups == [sample.group for sample in samples]


@pytest.mark.parametrize(("name", "layout"), LAYOUTS)
def test_archives_may_be_unpacked_apart(name: str, layout: int, tmp_path: Path) -> None:
    samples = write(name, tmp_path / "all", layout)
    for n, entry in enumerate(sorted((tmp_path / "all").iterdir())):
        (tmp_path / f"apart/{n}").mkdir(parents=True)
        entry.rename(tmp_path / f"apart/{n}" / entry.name)
    several, above = opened(name, *sorted((tmp_path / "apart").iterdir())), opened(name, tmp_path / "apart")
    for source in (several, above):
        assert source.ids == [sample.id for sample in samples]
        assert source.groups == [sample.group for sample in samples]
        assert [len(source.files(sample.id)[1]) for sample in samples] == [len(s.mask_files) for s in samples]


@pytest.mark.parametrize(("name", "layout"), MASKED)
def test_an_image_without_its_mask_is_named(name: str, layout: int, tmp_path: Path) -> None:
    last = write(name, tmp_path, layout)[-1]
    for file in last.mask_files:
        file.unlink()
    with pytest.raises(UserError, match="without a mask: unpack the archive of the masks there too") as caught:
        opened(name, tmp_path)
    assert f"1 image ({last.id})" in str(caught.value)


@pytest.mark.parametrize(("name", "layout"), MASKED)
def test_a_mask_without_its_image_is_named(name: str, layout: int, tmp_path: Path) -> None:
    last = write(name, tmp_path, layout)[-1]
    last.image_file.unlink()
    with pytest.raises(UserError, match=r"without an image .*unpack the archive of the images there too") as caught:
        opened(name, tmp_path)
    assert last.mask_files[0].name in str(caught.value)


@pytest.mark.parametrize(("name", "layout"), LAYOUTS)
def test_files_that_match_no_pattern_are_passed_over(name: str, layout: int, tmp_path: Path) -> None:
    samples = write(name, tmp_path, layout)
    for sample in samples[:2]:
        for file in [sample.image_file, *sample.mask_files]:
            (file.parent / "notes.txt").write_text("of no one")
            (file.parent / "Thumbs.db").write_bytes(b"x")
            (file.parent / f"._{file.name}").write_bytes(b"x")
            shadow = tmp_path / "__MACOSX" / file.relative_to(tmp_path)
            shadow.parent.mkdir(parents=True, exist_ok=True)
            shadow.write_bytes(b"x")
    source = opened(name, tmp_path)
    assert source.ids == [sample.id for sample in samples]
    assert source.groups == [sample.group for sample in samples]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize(("name", "layout"), LAYOUTS)
def test_a_damaged_file_is_refused_by_name_when_it_is_read(name: str, layout: int, tmp_path: Path) -> None:
    first = write(name, tmp_path, layout)[0]
    for file in [first.image_file, *first.mask_files[-1:]]:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 3])
    source = opened(name, tmp_path)
    with pytest.raises(UserError, match="fetch it again") as caught:
        source.image(first.id)
    assert str(first.image_file) in str(caught.value)
    if first.mask_files:
        with pytest.raises(UserError, match="fetch it again"):
            source.mask(first.id)


@pytest.mark.parametrize(("name", "layout"), LAYOUTS)
def test_a_copy_of_a_distribution_beside_it_is_refused(name: str, layout: int, tmp_path: Path) -> None:
    build(name, tmp_path / "one", layout)
    build(name, tmp_path / "two", layout)
    with pytest.raises(UserError, match=r"are both the image .*keep one of them"):
        opened(name, tmp_path / "one", tmp_path / "two")
    assert opened(name, tmp_path / "one", tmp_path / "one").ids == opened(name, tmp_path / "one").ids


def test_the_files_are_what_the_mask_rules_are_for(tmp_path: Path) -> None:
    levels = {}
    for name in ("kvasir_seg", "cvc_colondb", "glas", "busi"):
        file = write(name, tmp_path / name)[0].mask_files[0]
        with Image.open(file) as picture:
            levels[name] = (picture.mode, np.unique(np.asarray(picture)))
    assert levels["kvasir_seg"][0] == "RGB"
    assert levels["kvasir_seg"][1].size > 2
    assert levels["cvc_colondb"][1].tolist() == [0, 110, 140, 255]
    assert levels["glas"][1].tolist() == [0, 1, 2, 3]
    assert levels["busi"][0] == "1"


def test_a_tiff_of_clinicdb_is_one_that_pillow_refuses(tmp_path: Path) -> None:
    refused = 0
    for sample in write("cvc_clinicdb", tmp_path):
        try:
            Image.open(sample.image_file).close()
        except OSError:
            refused += 1
    assert refused == 2


def test_a_subset_takes_the_images_that_its_table_lists(tmp_path: Path) -> None:
    samples = write("isic2017", tmp_path)
    assert len(samples) == load_card("isic2017").images == 400
    full = opened("isic2017_full", tmp_path)
    assert set(full.ids) - set(opened("isic2017", tmp_path).ids) == {"ISIC_0099999"}
    for file in (samples[7].image_file, *samples[7].mask_files):
        file.unlink()
    with pytest.raises(UserError, match=rf"'isic2017' is 400 listed images, and .* lacks 1 image \({samples[7].id}\)"):
        opened("isic2017", tmp_path)


def test_a_folder_of_nothing_that_is_known_is_refused_with_both_layouts(tmp_path: Path) -> None:
    (tmp_path / "busi").mkdir()
    assert open_distribution(load_card("busi"), [tmp_path / "busi"]) is None
    with pytest.raises(UserError, match=r"no folder .*busi/images; expected images/ID.jpg .*Dataset_BUSI_with_GT/"):
        open_source("busi", tmp_path)


def test_the_patients_of_isic2020_are_known_only_with_the_table(tmp_path: Path) -> None:
    samples = write("isic2020", tmp_path)
    for table in tmp_path.glob("*GroundTruth*.csv"):
        table.unlink()
    assert opened("isic2020", tmp_path).groups == [sample.id for sample in samples]
    (tmp_path / "train.csv").write_text("image_name,patient_id\nISIC_0015719,IP_1\nISIC_0052212,\n")
    with pytest.raises(UserError, match=r"group of 2 images is not known from \*.csv \(ISIC_0052212, ISIC_0068279\)"):
        opened("isic2020", tmp_path)


def test_glas_without_its_table_of_patients_is_refused(tmp_path: Path) -> None:
    table = next(build("glas", tmp_path).rglob("Grade.csv"))
    table.unlink()
    with pytest.raises(UserError, match=r"holds no Grade.csv with the columns name and patient ID"):
        opened("glas", tmp_path)
