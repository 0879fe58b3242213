"""Data sets of several classes, from mask files to batches."""

import json
import re
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import ks_2samp
from torch import Generator
from typer.testing import CliRunner, Result

from qgbench.base.errors import UserError
from qgbench.cli.main import app
from qgbench.data.acquire.verify import verify
from qgbench.data.cache import Prepared, prepare, resize_mask
from qgbench.data.cards import Card, load_card, parse_classes
from qgbench.data.experiment import ImageSet, training_data, whole
from qgbench.data.images import MaskSizeError, MaskValuesError, read_labels, read_mask
from qgbench.data.packed_masks import PackedMasks
from qgbench.data.readers import FolderSource, Slice, open_source
from qgbench.data.run_data import open_run_data
from qgbench.data.sheet import draw_sheet
from qgbench.data.splits import HALF_TEST, PAPER, classes_shown, draw_labelled, lesion_areas, make_split
from qgbench.data.views import Shared, flip, labelled_view
from qgbench.run.predictions import read_predictions, write_predictions
from qgbench.spec.protocol import load_protocol
from qgbench.spec.regime import Regime
from qgbench.spec.task import Task
from tests.data.test_readers import listening

TRAIN = load_protocol("small").train
NUMBERS: dict[str, int | str] = {"edema": 3, "tumour": 7}
COLOURS: dict[str, int | str] = {"edema": "#ff0000", "tumour": "#00ff7f"}
LABELS = np.zeros((9, 12), np.uint8)
LABELS[1:4, 1:6], LABELS[5:8, 4:11] = 1, 2


def coloured(labels: np.ndarray, colours: Sequence[str]) -> Image.Image:
    table = np.array([list(bytes.fromhex(colour[1:])) for colour in ("#000000", *colours)], np.uint8)
    return Image.fromarray(table[labels])


def palette(labels: np.ndarray, numbers: Sequence[int], colours: Sequence[str]) -> Image.Image:
    """A picture that holds palette entries of these numbers, in these colours."""
    entries = bytearray(3 * 256)
    for number, colour in zip(numbers, colours, strict=True):
        entries[3 * number : 3 * number + 3] = bytes.fromhex(colour[1:])
    picture = Image.fromarray(np.array([0, *numbers], np.uint8)[labels])
    picture.putpalette(bytes(entries))
    return picture


def save(folder: Path, mask: Image.Image, suffix: str = "png") -> tuple[Path, Path]:
    """Write a mask and an image of its size; return both files."""
    Image.new("RGB", mask.size, (9, 9, 9)).save(image := folder / "image.png")
    mask.save(file := folder / f"mask.{suffix}")
    return file, image


def qgbench(*words: str) -> Result:
    result = CliRunner().invoke(app, ["data", *words])
    if isinstance(result.exception, UserError):
        raise result.exception
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


# Mask files


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "gif"])
@pytest.mark.parametrize("kind", ["grey", "grey as RGB", "palette", "colours", "colours of a palette"])
def test_numbers_and_colours_are_read_as_labels(tmp_path: Path, kind: str, suffix: str) -> None:
    grey = Image.fromarray(np.array([0, 3, 7], np.uint8)[LABELS])
    colours = [str(colour) for colour in COLOURS.values()]
    mask, classes = {
        "grey": (grey, NUMBERS),
        "grey as RGB": (grey.convert("RGB"), NUMBERS),
        "palette": (palette(LABELS, [3, 7], ["#ffffff", "#000000"]), NUMBERS),  # the numbers count, not the colours
        "colours": (coloured(LABELS, colours), COLOURS),
        "colours of a palette": (palette(LABELS, [1, 2], colours), COLOURS),
    }[kind]
    if suffix == "gif" and kind == "palette":
        pytest.skip("saved as GIF, the picture has another palette")
    labels = read_labels(*save(tmp_path, mask, suffix), classes)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, LABELS)


def test_a_palette_of_grey_levels_that_was_sorted_anew_keeps_its_classes(tmp_path: Path) -> None:
    files = save(tmp_path, palette(LABELS, [1, 2], ["#020202", "#010101"]))
    np.testing.assert_array_equal(read_labels(*files, {"a": 2, "b": 1}), LABELS)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_deep_grey_holds_the_numbers_as_they_are(tmp_path: Path, dtype: type) -> None:
    values = np.array([0, 3, 700], dtype)[LABELS]
    files = save(tmp_path, Image.fromarray(values), "tif")
    np.testing.assert_array_equal(read_labels(*files, {"edema": 3, "tumour": 700}), LABELS)
    with pytest.raises(UserError, match="grey mask of more than 8 bits, and classes are told by colours"):
        read_labels(*files, COLOURS)


@pytest.mark.parametrize(("value", "expected"), [(1, 1), (255, 1)])
def test_the_white_of_one_bit_is_one_or_255(tmp_path: Path, value: int, expected: int) -> None:
    files = save(tmp_path, Image.fromarray(LABELS == 1))
    np.testing.assert_array_equal(read_labels(*files, {"a": value, "b": 9}), (LABELS == 1) * expected)


def test_the_order_of_the_classes_is_the_order_of_the_labels(tmp_path: Path) -> None:
    files = save(tmp_path, Image.fromarray(LABELS))
    np.testing.assert_array_equal(read_labels(*files, {"b": 2, "a": 1}), np.array([0, 2, 1])[LABELS])


def test_a_value_of_no_class_gets_one_message_with_its_share_and_a_remedy(tmp_path: Path) -> None:
    file, image = save(tmp_path, Image.fromarray(LABELS))
    with pytest.raises(MaskValuesError) as caught:
        read_labels(file, image, {"edema": 1})
    assert str(caught.value) == (
        f"{file} holds values that are no class: 2 (19.4% of the pixels); name each as a class (--classes, or classes "
        "in the card), or make it 0, the background (smooth resizing and JPEG add values: save masks as PNG, resized "
        "by nearest pixel)."
    )
    file, image = save(tmp_path, coloured(LABELS, ["#ff0000", "#0000ff"]))
    with pytest.raises(MaskValuesError, match=r"colours that are no class: #0000ff \(19.4% .*make it black, the back"):
        read_labels(file, image, {"edema": "#ff0000"})
    with pytest.raises(UserError, match="has colours, and classes are told by numbers; give colours, such as NAME=#ff"):
        read_labels(file, image, NUMBERS)


def test_masks_that_lost_their_values_are_refused(tmp_path: Path) -> None:
    big = np.kron(LABELS, np.ones((9, 9), np.uint8)) * 100
    smooth = Image.fromarray(big).resize((70, 50), Image.Resampling.BICUBIC)
    file, image = save(tmp_path, smooth)
    with pytest.raises(MaskValuesError, match=r"and \d+ more; smooth resizing and JPEG add values: save masks as PNG"):
        read_labels(file, image, {"a": 100, "b": 200})
    file, image = save(tmp_path, Image.fromarray(np.zeros_like(big)), "jpg")
    with pytest.raises(MaskValuesError, match="is a JPEG, which changes the values that tell classes apart"):
        read_labels(file, image, {"a": 100, "b": 200})
    file, image = save(tmp_path, Image.fromarray(LABELS.T))
    Image.new("RGB", LABELS.T.shape, (9, 9, 9)).save(image)
    with pytest.raises(MaskSizeError):
        read_labels(file, image, NUMBERS)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (Image.fromarray(LABELS), 'value is a class, name them: --classes "NAME=1,NAME=2"'),
        (coloured(LABELS, ["#ff0000", "#0000ff"]), '"NAME=#0000ff,NAME=#ff0000"'),
        (palette(LABELS, [1, 2], ["#808080", "#ffffff"]), '"NAME=#808080,NAME=#ffffff"'),
    ],
)
def test_without_classes_a_mask_of_several_values_names_the_option(
    tmp_path: Path, mask: Image.Image, words: str
) -> None:
    file, image = save(tmp_path, mask)
    with pytest.raises(MaskValuesError, match=words):
        read_mask(file, image)
    typed = re.findall(r"NAME=([^,\"]+)", words)
    classes = parse_classes(",".join(f"c{n}={value}" for n, value in enumerate(typed)))
    np.testing.assert_array_equal(np.sort(np.unique(read_labels(file, image, classes))), [0, 1, 2])


def test_masks_of_one_image_are_joined_unless_they_contradict_each_other(tmp_path: Path) -> None:
    card = load_card("ph2").model_copy(update={"classes": {"a": 1, "b": 2}})
    _, image = save(tmp_path, Image.fromarray(LABELS))
    files = [tmp_path / "first.png", tmp_path / "second.png"]
    for label, file in enumerate(files, start=1):
        Image.fromarray(LABELS * (label == LABELS)).save(file)
    source = FolderSource(card, {"x": image}, {"x": files}, {"x": "x"}, None)
    np.testing.assert_array_equal(source.mask("x"), LABELS)
    Image.fromarray(np.full_like(LABELS, 1)).save(files[0])
    with pytest.raises(UserError, match="show two classes in 21 pixels"):
        source.mask("x")


# Cards


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("edema", "'edema' is not NAME=VALUE"),
        ("edema=red", "'edema=red' is not NAME=VALUE"),
        ("a=1,a=2", "'a' is there twice"),
        ("a=1,mean=2", "'mean' cannot name a class"),
        ("background=0,a=1", "'background' cannot name a class"),
        ("a b=1", "'a b' cannot name a class"),
        ("a=0,b=1", "a = 0: a class has a number from 1 to 65535"),
        ("a=#000000", "or black, is the background"),
        ("a=70000", "a number from 1 to 65535"),
        ("a=#ff00", "a = '#ff00': the value is a whole number, or a colour"),
        ("a=1,b=#ff0000", "by numbers or by colours, not by both"),
        ("a=1,b=1", "two classes have one value"),
        ("a=#FF0000,b=#ff0000", "two classes have one value: a and b have #ff0000"),
        ("Cyst=1,b=2,CYST=3", "'Cyst' and 'CYST' differ in nothing but case"),
        (",".join(f"c{n}={n}" for n in range(1, 256)), "255 classes; at most 254"),
    ],
)
def test_impossible_classes_get_one_message(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        qgbench("add", "x", "--images", ".", "--masks", ".", "--classes", text, "--data-dir", str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("words", [["--masks", ".", "--threshold", "9"], []])
def test_classes_need_masks_and_no_threshold(tmp_path: Path, words: list[str]) -> None:
    with pytest.raises(UserError, match="give it with --masks, and without --threshold"):
        qgbench("add", "x", "--images", ".", "--classes", "a=1", *words, "--data-dir", str(tmp_path))


def test_a_card_without_classes_has_the_one_class_lesion() -> None:
    assert load_card("ph2").classes == {}
    assert load_card("ph2").class_names == Task().classes == ("lesion",)


# Preparation


def test_a_label_that_covers_most_of_a_pixel_is_taken_and_the_lowest_of_equals() -> None:
    labels = np.array([[1, 1, 2, 2], [1, 2, 2, 0], [0, 1, 3, 2], [1, 0, 1, 0]], np.uint8)
    np.testing.assert_array_equal(resize_mask(labels, 2), [[1, 2], [0, 0]])
    thirds = np.repeat(np.array([[1, 1, 2]], np.uint8), 3, axis=0)
    assert resize_mask(thirds, 1) == 1
    np.testing.assert_array_equal(resize_mask(LABELS[:, :9], 9), LABELS[:, :9])


@settings(max_examples=40, deadline=None)
@given(data=st.data(), classes=st.integers(2, 5), size=st.integers(1, 9))
def test_resizing_agrees_with_counting_fine_pixels(data: st.DataObject, classes: int, size: int) -> None:
    """The judge repeats each pixel so often that new pixels consist of whole ones."""
    shape = data.draw(st.tuples(st.integers(1, 8), st.integers(1, 8)))
    seed = data.draw(st.integers(0, 999))
    labels = np.random.default_rng(seed).integers(classes + 1, size=shape).astype(np.uint8)
    fine = np.repeat(np.repeat(labels, size, 0), size, 1).reshape(size, shape[0], size, shape[1])
    counts = np.stack([(fine == label).sum((1, 3)) for label in range(classes + 1)])
    np.testing.assert_array_equal(resize_mask(labels, size), counts.argmax(0))


def test_one_class_relabelled_as_two_gives_the_same_masks(tmp_path: Path) -> None:
    """Away from ties, the two halves of a lesion together are the lesion."""
    lesion = np.zeros((37, 53), bool)
    lesion[5:30, 8:41] = True
    whole_mask = resize_mask(lesion, 16)
    halves = lesion.astype(np.uint8)
    halves[:, 24:] *= 2
    assert (resize_mask(halves, 16) == whole_mask * np.where(np.arange(16) < 7, 1, 2))[
        :, [*range(7), *range(8, 16)]
    ].all()


def folder(tmp_path: Path, classes: dict[str, int | str], count: int = 6, name: str = "own") -> Path:
    """A labelled folder whose card names classes; image i shows class i mod K alone, i // K + 1 pixels high."""
    place = tmp_path / name
    for part in ("images", "masks"):
        (place / part).mkdir(parents=True)
    rng = np.random.default_rng(1)
    for i in range(count):
        Image.fromarray(rng.integers(256, size=(16, 20, 3), dtype=np.uint8)).save(place / f"images/i{i:02d}.png")
        mask = np.zeros((16, 20), np.uint8)
        mask[: i // len(classes) + 1, :10] = list(classes.values())[i % len(classes)]
        Image.fromarray(mask).save(place / f"masks/i{i:02d}.png")
    facts = load_card("phantom").model_dump(include={"title", "kind", "domain", "modality", "terms", "citation"})
    lines = [f'{key} = "{value}"' for key, value in {"name": name, "homepage": "-", "groups": "-", **facts}.items()]
    inline = ", ".join(f'"{key}" = {json.dumps(value)}' for key, value in classes.items())
    (place / "card.toml").write_text("\n".join([*lines, f"classes = {{ {inline} }}"]) + "\n")
    return place


def test_prepared_masks_are_label_maps_at_both_sizes(tmp_path: Path) -> None:
    source = open_source(str(folder(tmp_path, {"a": 4, "b": 9, "c": 2})))
    assert (source.classes, dict(source.volumes)) == (("a", "b", "c"), {})
    prepared = prepare(source, 8, tmp_path / "cache")
    again = prepare(source, 8, tmp_path / "cache")
    assert prepared.fingerprint == again.fingerprint
    assert (prepared.classes, prepared.volumes) == (("a", "b", "c"), None)
    for row, id in enumerate(prepared.ids):
        original = prepared.original_mask(row)
        assert original.dtype == np.uint8
        assert set(np.unique(original)) == {0, row % 3 + 1}
        np.testing.assert_array_equal(original, source.mask(id))
        np.testing.assert_array_equal(prepared.masks[row], resize_mask(original, 8))  # type: ignore[index]
    np.testing.assert_array_equal(
        lesion_areas(prepared), [[(i // 3 + 1) / 32 if i % 3 == k else 0 for k in range(3)] for i in range(6)]
    )


def test_names_values_and_order_of_classes_are_part_of_what_is_prepared(tmp_path: Path) -> None:
    variants = [{"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 2, "b": 1}, {"a": 1, "c": 2}]
    prints = set()
    for number, classes in enumerate(variants):
        place = folder(tmp_path / str(number), {"a": 1, "b": 2})
        card = (place / "card.toml").read_text().splitlines()
        inline = ", ".join(f"{key} = {value}" for key, value in classes.items())
        (place / "card.toml").write_text("\n".join([*card[:-1], f"classes = {{ {inline} }}"]))
        prints.add(prepare(open_source(str(place)), 8, tmp_path / "cache").fingerprint)
    assert len(prints) == 4
    assert len([entry for entry in (tmp_path / "cache").iterdir() if entry.name.startswith("own-8-")]) == 4


def test_one_named_class_is_one_class(tmp_path: Path) -> None:
    prepared = prepare(open_source(str(folder(tmp_path, {"polyp": 7}))), 8, tmp_path / "cache")
    assert prepared.classes == ("polyp",)
    assert prepared.original_mask(0).dtype == np.bool_
    assert ImageSet([whole(prepared)]).masks(np.arange(2)).shape == (2, 1, 8, 8)
    assert classes_shown(prepared) is None


def test_slices_of_volumes_and_their_spacing_are_part_of_what_is_prepared(tmp_path: Path) -> None:
    source = open_source(str(folder(tmp_path, {"a": 1, "b": 2})))
    plain = prepare(source, 8, tmp_path / "cache")
    prints = {plain.fingerprint}
    for spacing in (None, (5.0, 1.0, 1.0)):
        source.volumes = {id: Slice("v", z, spacing) for z, id in enumerate(source.ids)}
        prepared = prepare(source, 8, tmp_path / "cache")
        assert prepared.volumes == [Slice("v", z, spacing) for z in range(6)]
        prints.add(prepared.fingerprint)
    assert len(prints) == 3


# Batches and views


def label_maps(labels: np.ndarray, classes: Sequence[str], masked: bool = True, name: str = "i") -> Prepared:
    count, size = labels.shape[:2]
    names = [f"{name}{n:03d}" for n in range(count)]
    images = np.random.default_rng(0).integers(256, size=(count, size, size, 3), dtype=np.uint8)
    return Prepared(
        *(names, names, images, labels if masked else None, np.full((count, 2), size), name),
        originals=labels.ravel() if masked else None,
        classes=tuple(classes),
    )


@settings(max_examples=30, deadline=None)
@given(classes=st.integers(2, 6), seed=st.integers(0, 999))
def test_masks_are_channels_that_partition_the_pixels_and_unknown_ones_are_zeros(classes: int, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(classes + 1, size=(5, 6, 6)).astype(np.uint8)
    names = [f"c{k}" for k in range(classes)]
    known = label_maps(labels, names)
    pool = label_maps(labels, ["lesion"], masked=False, name="p")
    images = ImageSet([whole(known), whole(pool)])
    assert images.task == Task(tuple(names))
    masks = images.masks(np.arange(10))
    assert masks.shape == (10, classes + 1, 6, 6)
    assert masks.dtype == torch.float32
    np.testing.assert_array_equal(masks[:5].argmax(1), labels)
    assert set(masks.unique().tolist()) <= {0.0, 1.0}
    assert (masks[:5].sum(1) == 1).all()
    assert (masks[5:] == 0).all()
    expected = torch.nn.functional.one_hot(torch.from_numpy(labels).long(), classes + 1).permute(0, 3, 1, 2)
    assert torch.equal(masks[:5], expected.float())


@settings(max_examples=40, deadline=None)
@given(classes=st.integers(2, 6), seed=st.integers(0, 999), degrees=st.floats(0, 180))
def test_views_keep_the_partition_and_the_border_is_background(classes: int, seed: int, degrees: float) -> None:
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(rng.integers(classes + 1, size=(4, 11, 11)))
    masks = torch.nn.functional.one_hot(labels, classes + 1).permute(0, 3, 1, 2).float()
    images = torch.ones(4, 3, 11, 11)
    still = TRAIN.model_copy(update={"rotation": degrees, "rotation_p": 0.7, "brightness": 0.0})
    seeded = [Shared(Generator().manual_seed(seed)) for _ in range(3)]
    seen, turned = labelled_view(images, masks, still, seeded[0])
    assert ((turned == 0) | (turned == 1)).all()
    assert (turned.sum(1) == 1).all()
    outside = seen.amax(1) == 0
    assert (turned[:, 0][outside] == 1).all()
    # Each lesion channel is what it would be as the mask of one class.
    for channel in range(1, classes + 1):
        alone = labelled_view(images, masks[:, [channel]], still, Shared(Generator().manual_seed(seed)))[1]
        assert torch.equal(alone[:, 0], turned[:, channel])
    flipped = flip(masks, seeded[1])
    assert (flipped.sum(1) == 1).all()


# Splits and draws


def test_areas_of_every_class_are_balanced_between_the_parts() -> None:
    """The classes' areas are independent, so that balancing one leaves the other as it falls: scipy's test judges."""
    rng = np.random.default_rng(0)
    areas = np.repeat(rng.random((40, 2)), 3, axis=0)
    ids, groups = [f"i{n:03d}" for n in range(120)], [f"g{n // 3:02d}" for n in range(120)]

    def distance(split: pd.DataFrame, of: int) -> float:
        parts = [areas[split.index[split["split"] == part], of] for part in ("train", "val", "test")]
        return sum(ks_2samp(part, areas[:, of]).statistic for part in parts)

    both, first, none = (
        [make_split(ids, groups, "grouped", seed=seed, areas=given) for seed in range(6)]
        for given in (areas, areas[:, 0], None)
    )
    mean = [
        np.mean([[distance(split, of) for of in (0, 1)] for split in splits], axis=0) for splits in (both, first, none)
    ]
    assert mean[0].max() < 0.8 * mean[2].min()
    assert mean[0][1] < 0.8 * mean[1][1]
    assert mean[1][0] < mean[0][0]


@pytest.mark.parametrize("kind", ["grouped", "image"])
def test_one_class_and_the_same_class_twice_give_one_split(kind: Any) -> None:
    areas = np.random.default_rng(2).random(60)
    ids, groups = [f"i{n:03d}" for n in range(60)], [f"g{n // 2:02d}" for n in range(60)]
    one = make_split(ids, groups, kind, areas=areas.tolist())
    pd.testing.assert_frame_equal(one, make_split(ids, groups, kind, areas=areas[:, None]))
    pd.testing.assert_frame_equal(one, make_split(ids, groups, kind, areas=np.stack([areas, areas], 1)))


@pytest.mark.parametrize("seed", range(6))
def test_every_part_shows_every_class_that_enough_patients_show(seed: int) -> None:
    """A class of all patients but one, one of half of them, one of three, one of a single one, and one of none."""
    rng = np.random.default_rng(seed)
    groups = [f"p{n // 5:02d}" for n in range(70)]
    order = rng.permutation(14)
    patients = (order[:13], order[2:9], order[:3], order[4:5], order[:0])
    has = np.array([[int(group[1:]) in some for some in patients] for group in groups])
    areas = np.where(has, rng.random(has.shape), 0.0)
    split = make_split([f"i{n:02d}" for n in range(70)], groups, "grouped", seed=seed, areas=areas, of_volumes=True)
    shown = {part: areas[split.index[split["split"] == part]].any(axis=0).tolist() for part in ("train", "val", "test")}
    assert [some[:3] for some in shown.values()] == [[True] * 3] * 3
    assert [some[3] for some in shown.values()] == [True, False, False]  # it can be learnt, at least
    shuffled = rng.permutation(70)
    again = make_split(
        [f"i{n:02d}" for n in shuffled],
        [groups[n] for n in shuffled],
        "grouped",
        HALF_TEST,
        seed,
        areas[shuffled],
        True,
    )
    pd.testing.assert_frame_equal(split, again)


def test_the_only_patient_to_validate_on_is_not_the_one_without_foreground() -> None:
    groups = [f"p{n // 5:02d}" for n in range(70)]
    for empty in range(14):
        areas = [0.0 if int(group[1:]) == empty else 0.01 * (n % 5) for n, group in enumerate(groups)]
        split = make_split([f"i{n:02d}" for n in range(70)], groups, "grouped", areas=areas, of_volumes=True)
        assert set(split.loc[split["split"] == "val", "group"]) != {f"p{empty:02d}"}


def test_a_class_that_nothing_shows_leaves_the_split_as_it_is() -> None:
    rng = np.random.default_rng(1)
    group_of = rng.integers(12, size=60)
    areas = rng.random((12, 2))[group_of]  # of each group one, so that the few groups of a part are never balanced
    ids, groups = [f"i{n:03d}" for n in range(60)], [f"g{group:02d}" for group in group_of]
    with_empty = np.insert(areas, 1, np.zeros((9, 60)), axis=1)
    for seed in range(4):
        split = make_split(ids, groups, "grouped", PAPER, seed, areas)
        pd.testing.assert_frame_equal(split, make_split(ids, groups, "grouped", PAPER, seed, with_empty))


@settings(max_examples=80, deadline=None)
@given(data=st.data(), k=st.integers(0, 5), classes=st.integers(2, 5))
def test_labelled_images_show_every_class_and_else_are_those_of_the_plain_draw(
    data: st.DataObject, k: int, classes: int
) -> None:
    count = data.draw(st.integers(classes, 20))
    names = [f"c{n}" for n in range(classes)]
    ids = [f"i{n:02d}" for n in range(count)]
    shown = {id: set(data.draw(st.lists(st.sampled_from(names), max_size=2))) for id in ids}
    train = pd.DataFrame({"id": ids, "group": [f"g{n // 2}" for n in range(count)]})
    budget = data.draw(st.integers(1, count))
    drawn, plain = draw_labelled(train, budget, "own", k, shown), draw_labelled(train, budget, "own", k)
    assert len(set(drawn)) == budget
    there = set().union(*shown.values())
    if budget >= len(there):
        assert set().union(*(shown[id] for id in drawn)) == there
    if set().union(*(shown[id] for id in plain)) == there:
        assert set(drawn) == set(plain)
    smaller = data.draw(st.integers(1, budget))
    assert draw_labelled(train, smaller, "own", k, shown) == drawn[:smaller]


def test_labelled_images_without_some_class_are_warned_of_and_without_any_refused() -> None:
    labels = np.zeros((10, 4, 4), np.uint8)
    labels[:8, 0, 0], labels[8:, 0, 0] = 1, 2  # the second class is in the test part alone
    data = label_maps(labels, ["a", "b"])
    split = pd.DataFrame({"id": data.ids, "group": data.ids, "split": ["train"] * 6 + ["val"] * 2 + ["test"] * 2})
    regime = Regime(budget=3, pools=(), split="grouped")
    with listening() as said:
        training = training_data(data, [], split, regime, "own", 0)
    assert training.labelled.task == training.unlabelled.task == training.val.task == Task(("a", "b"))
    (warning,) = said
    assert warning.startswith("none of the 3 labelled images (seed index 0) shows b at 4 x 4 pixels")
    labels[:] = 0
    with pytest.raises(UserError, match="none of the 3 labelled images"):
        training_data(data, [], split, regime, "own", 0)


def test_only_a_pool_is_unlabelled_and_its_masks_have_the_channels_of_the_task() -> None:
    labels = np.zeros((10, 4, 4), np.uint8)
    labels[:, 0, 0], labels[:, 1, 1] = 1, 2
    data, pool = label_maps(labels, ["a", "b"]), label_maps(labels, ["lesion"], masked=False, name="p")
    split = pd.DataFrame({"id": data.ids, "group": data.ids, "split": ["train"] * 6 + ["val"] * 2 + ["test"] * 2})
    training = training_data(data, [whole(pool)], split, Regime(budget=None, pools=("p",), split="grouped"), "own", 0)
    assert training.unlabelled.masks(np.arange(3)).shape == (3, 3, 4, 4)


# Packed masks


@settings(max_examples=60, deadline=None)
@given(shapes=st.lists(st.tuples(*[st.integers(1, 7)] * 3), min_size=1, max_size=4), seed=st.integers(0, 999))
@pytest.mark.parametrize("bits", [False, True])
def test_label_maps_and_volumes_survive_packing(
    bits: bool, shapes: list[tuple[int, int, int]], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = np.random.default_rng(seed)
    masks = {
        f"v{n}": rng.integers(2 if bits else 4, size=shape).astype(bool if bits else np.uint8)
        for n, shape in enumerate(shapes)
    }
    file = tmp_path_factory.mktemp("packed") / "p.npz"
    write_predictions(file, masks)
    back = read_predictions(file)
    assert list(back) == sorted(masks)
    for id, mask in masks.items():
        assert back[id].dtype == mask.dtype
        np.testing.assert_array_equal(back[id], mask)
    members = PackedMasks(masks).to_arrays()
    assert ("values" in members) == (not bits)
    if not bits:
        with pytest.raises(ValueError, match="number of runs"):
            PackedMasks.from_arrays(**{**members, "values": members["values"][:-1]})


# From `data add` to a run's data


def random_names(rng: np.random.Generator, count: int) -> list[str]:
    letters = list(string.ascii_letters + string.digits + "_-.")
    return ["x" + "".join(rng.choice(letters, rng.integers(1, 12))) for _ in range(count)]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("by_colour", [False, True])
def test_three_classes_of_random_names_from_data_add_to_a_runs_data(
    tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch, seed: int, by_colour: bool
) -> None:
    rng = np.random.default_rng(seed)
    names, name, ids = random_names(rng, 3), *random_names(rng, 1), sorted(set(random_names(rng, 24)))
    monkeypatch.setenv("QGBENCH_CACHE", str(cache_dir))
    monkeypatch.setenv("QGBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "400")
    numbers = [int(value) for value in rng.choice(np.arange(1, 256), 3, replace=False)]
    colours = [f"#{value:06x}" for value in rng.choice(np.arange(1, 1 << 24), 3, replace=False)]
    maps = {}
    for part in ("photos", "outlines"):
        (tmp_path / part).mkdir()
    for n, id in enumerate(ids):
        labels = np.zeros((40 + n, 50), np.uint8)
        labels[4:20, 5:30], labels[10:30, 20:45], labels[25:38, 3 : 8 + n % 3] = 1, 2, 3
        if n % 4:
            labels[labels == 3] = 0  # the third class is rare
        maps[id] = labels
        Image.fromarray(rng.integers(256, size=(*labels.shape, 3), dtype=np.uint8)).save(tmp_path / f"photos/{id}.png")
        mask = coloured(labels, colours) if by_colour else Image.fromarray(np.array([0, *numbers], np.uint8)[labels])
        mask.save(tmp_path / f"outlines/{id}_mask.png")
    values = colours if by_colour else numbers
    words = ("add", name, "--images", str(tmp_path / "photos"), "--masks", str(tmp_path / "outlines"))
    with pytest.raises(UserError, match="--classes"):
        qgbench(*words)
    typed = ",".join(f"{each}={value}" for each, value in zip(names, values, strict=True))
    assert qgbench(*words, "--classes", typed).stdout.strip() == str(tmp_path / "data" / name)
    source = open_source(name)
    assert source.classes == tuple(names)
    assert source.card.classes == dict(zip(names, values, strict=True))
    for id in ids:
        np.testing.assert_array_equal(source.mask(id), maps[id])

    assert (
        ", ".join(f"{each} ({value})" for each, value in zip(names, values, strict=True))
        in qgbench("list", name).stdout
    )
    (note,) = [finding for finding in verify([name]) if finding.rule == "classes"]
    assert [part.split()[0] for part in note.text.split("; ")] == names
    assert note.text.endswith(f"in {len(ids[::4])} of {len(ids)} masks")
    qgbench("show", name, "--output", str(tmp_path / "sheet.png"))
    shown = qgbench("split", name, "--labelled", "3").stdout
    assert all(shown.count(f"  {each}  ") == 3 + 5 for each in names), "a line for each part and draw"
    (tmp_path / "groups.csv").write_text("stem,group\n" + "".join(f"{id},{n // 2}\n" for n, id in enumerate(ids)))
    qgbench("add", "again", "--from", name, "--groups", str(tmp_path / "groups.csv"))
    assert open_source("again").card.classes == source.card.classes

    for k in range(4):
        data = open_run_data(name, Regime.parse("n3@grouped"), k, 32, HALF_TEST)
        task = Task(tuple(names))
        assert data.task == data.training.labelled.task == data.training.val.task == task
        masks = data.training.labelled.masks(np.arange(3))
        assert masks.shape == (3, 4, 32, 32)
        assert (masks.sum(1) == 1).all()
        assert (masks.amax((0, 2, 3)) == 1).all(), "every class is shown by a labelled image"


def test_a_class_that_no_mask_shows_is_told(tmp_path: Path) -> None:
    place = folder(tmp_path, {"a": 1, "b": 2})
    for file in (place / "masks").iterdir():
        Image.fromarray(np.asarray(Image.open(file)) // 2).save(file)
    rules = {finding.rule: finding for finding in verify([str(place)])}
    assert rules["absent class"].severity == "warning"
    assert "no mask shows b" in rules["absent class"].text
    Image.fromarray(np.full((16, 20), 9, np.uint8)).save(place / "masks/i00.png")
    rules = {finding.rule: finding for finding in verify([str(place)])}
    assert rules["unknown class"].images == ("i00",)
    raw = tmp_path / "data"
    raw.mkdir()
    words = ("--images", str(place / "images"), "--masks", str(place / "masks"), "--data-dir", str(raw))
    with listening() as said:
        qgbench("add", "new", *words, "--classes", "a=1,b=2,c=9")
    assert [text for text in said if "no mask shows b" in text]


def test_each_class_has_its_colour_in_the_sheet(tmp_path: Path) -> None:
    place = folder(tmp_path, {"a": 1, "b": 2, "c": 3}, count=3)
    draw_sheet(open_source(str(place)), ["i00", "i01"], tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
    assert sheet.shape == (8 + 240 + 8 + 16 + 16, 2 * 248 + 8, 3)
    pictures, legend = sheet[:248], sheet[264:]
    found = {}
    for label, colour in enumerate([(240, 228, 66), (86, 180, 233), (213, 94, 0)]):
        found[label] = [
            (part[:, half] == colour).all(2).any() for part in (pictures, legend) for half in (np.s_[:248], np.s_[248:])
        ]
    assert found == {0: [True, False, True, False], 1: [False, True, True, False], 2: [False, False, True, False]}


def test_a_card_refuses_what_is_no_number() -> None:
    facts = load_card("phantom").model_dump()
    for value in (True, 1.5, [1]):
        with pytest.raises(ValueError, match="classes"):
            Card(**{**facts, "classes": {"a": value}})
