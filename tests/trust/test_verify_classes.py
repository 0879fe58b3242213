"""Records of several classes and of volumes: a sound one passes, medpy agrees, and what was changed is found."""

import json
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from qgbench.data.acquire.given import read_given
from qgbench.data.cache import joint_fingerprint, prepare
from qgbench.data.readers import open_source
from qgbench.data.source import Source
from qgbench.data.splits import draw_labelled, draw_patients, load_split, split_fingerprint
from qgbench.data.units import units_of
from qgbench.metrics.masks import measure
from qgbench.metrics.table import VOLUME_COLUMNS
from qgbench.quality.audit import audits_of
from qgbench.run.predictions import write_predictions
from qgbench.run.record import (
    Record,
    read_images,
    read_labels,
    read_record,
    summarise,
    write_images,
    write_labels,
    write_record,
)
from qgbench.spec.protocol import load_protocol
from qgbench.trust.reproduce import Original, judge
from qgbench.trust.verify import Fault, verify_records
from qgbench.trust.verify_split import _shows_classes_first
from tests.trust.test_verify import present, rules

HEART = ["rv", "myo", "lv"]
DATASET = "phantom3d"
Change = Callable[[dict[str, Any], pd.DataFrame, pd.DataFrame], tuple[pd.DataFrame, pd.DataFrame] | None]


def rows_of(source: Source, ids: list[str]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Rows and predictions: references moved by a row, or two in every other volume; one class of one is missed."""
    rows, masks = [], {}
    for place, unit in enumerate(units_of(ids, source.volumes)):
        ref = np.stack([source.mask(id) for id in unit.images])
        masks[unit.id] = pred = np.roll(ref, 1 + place % 2, axis=1)
        if place == 1:
            pred[pred == 3] = 0
        sides = {"height": ref.shape[1], "width": ref.shape[2], "depth": ref.shape[0]}
        for k, name in enumerate(HEART, start=1):
            known = {"id": unit.id, "class": name, "group": source.groups[source.ids.index(unit.images[0])], **sides}
            voxel = dict(zip(VOLUME_COLUMNS[1:], unit.spacing, strict=True))
            scores = vars(measure(pred == k, ref == k, unit.spacing))
            rows.append({**known, **voxel, **scores, "q": 0.5, "confidence": 0.9})
    return pd.DataFrame(rows), masks


def labels_of(ids: list[str]) -> pd.DataFrame:
    stream = np.random.default_rng(0)
    rows = []
    for progress in (0.25, 0.5, 0.75, 1.0):
        for id in ids:
            whole = {"confidence": stream.random(), "agreement": stream.random()}
            for name in HEART:
                row = {"progress": progress, "id": id, "class": name, "dice": stream.random(), "held": 1}
                row["g"] = stream.random()
                rows.append(row | whole)
    return pd.DataFrame(rows)


def write_run(folder: Path, regime: str, split: pd.DataFrame, labelled: list[str]) -> None:
    """Write a run on volumes of three classes."""
    source = open_source(DATASET)
    record, _ = present(dataset=DATASET, regime=regime)
    part = {name: split[split["split"] == name] for name in ("train", "test")}
    images, masks = rows_of(source, part["test"]["id"].tolist())
    labels = labels_of(sorted({*part["train"]["id"]} - {*labelled})[:6])
    data = record.model_dump(mode="json")
    size = load_protocol("small").size
    data["provenance"] |= {
        "classes": HEART,
        "distance_unit": "mm",
        "data": joint_fingerprint([prepare(source, size)]),
        "split": split_fingerprint(split),
        "labelled_ids": labelled,
        "g": f"{DATASET}-n{len(labelled)}-{size}px-k0-{'0' * 12}",
    }
    data["pseudo_labels"] = [audit.model_dump() for audit in audits_of(labels)]
    data["pseudo_labels_on"] = "unlabelled training images"
    data["summaries"] = {"student": summarise(images)}
    write_images(folder / "images.csv", images)
    write_labels(folder / "labels.csv", labels)
    write_predictions(folder / "predictions.npz", masks)
    parts = [data["run_id"].encode(), *((folder / name).read_bytes() for name in ("images.csv", "labels.csv"))]
    write_record(folder, Record.model_validate({**data, "rows": sha256(b"\n".join(parts)).hexdigest()}))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on volumes of three classes, with 3 labelled patients."""
    folder = tmp_path_factory.mktemp("sound")
    split = load_split(DATASET)
    labelled = draw_patients(split[split["split"] == "train"], 3, DATASET, 0)
    write_run(folder, "n3patients@grouped", split, labelled)
    return folder


def changed(sound: Path, folder: Path, change: Change, judge: str | None = None, again: bool = True) -> list[Fault]:
    """Verify after a change to JSON, rows and labels; `again`: with the averages of the changed rows."""
    shutil.copytree(sound, folder, dirs_exist_ok=True)
    data, images = json.loads((folder / "record.json").read_text()), read_images(folder / "images.csv")
    labels = read_labels(folder / "labels.csv")
    images, labels = change(data, images, labels) or (images, labels)
    if again:
        data["summaries"] = {"student": summarise(images).model_dump()}
    (folder / "record.json").write_text(json.dumps(data))
    write_images(folder / "images.csv", images)
    write_labels(folder / "labels.csv", labels)
    return [fault for fault in verify_records([folder], judge) if fault.severity == "fault"]


def test_a_sound_record_passes_and_medpy_agrees(sound: Path) -> None:
    found = verify_records([sound], judge="medpy")
    assert rules(found) == set(), found
    assert rules(found, "note") == {"twin"}
    record, data = read_record(sound), json.loads((sound / "record.json").read_text())
    assert (record.classes, record.distance_unit, record.of_volumes) == (tuple(HEART), "mm", True)
    assert [*data["summaries"]["student"]["by_class"]] == HEART
    assert record.summary.images == 12
    assert record.summary.missed == 1
    numbers = record.summary.numbers()
    assert numbers["dice"] == pytest.approx(np.mean([numbers[f"dice of {name}"] for name in HEART]))


def set_in(name: str, value: Any, row: int = 0) -> Change:
    def change(_: dict[str, Any], images: pd.DataFrame, __: pd.DataFrame) -> None:
        images[name] = images[name].where(images.index != row, value)

    return change


def provenance(**values: Any) -> Change:
    def change(data: dict[str, Any], _: pd.DataFrame, __: pd.DataFrame) -> None:
        data["provenance"] |= values

    return change


def without(row: int) -> Change:
    return lambda _, images, labels: (images.drop(index=row), labels)


def of_label(name: str, value: Any) -> Change:
    """Change the first row; of ids, those of the first label."""

    def change(_: dict[str, Any], __: pd.DataFrame, labels: pd.DataFrame) -> None:
        rows = labels["id"] == labels["id"][0] if name == "id" else labels.index == 0
        labels[name] = labels[name].where(~rows, value)

    return change


def relabelled(change: Callable[[list[str]], list[str]]) -> Change:
    def changed(data: dict[str, Any], _: pd.DataFrame, __: pd.DataFrame) -> None:
        data["provenance"]["labelled_ids"] = change(data["provenance"]["labelled_ids"])

    return changed


@pytest.mark.parametrize(
    ("rule", "change", "said"),
    [
        ("image ids", without(1), "without a row of each class: rv, myo, lv"),
        ("image ids", set_in("class", "rv", 1), "in more than one row of a class"),
        ("image ids", set_in("class", "la", 1), "rows of 'la'; the classes are rv, myo, lv"),
        ("image ids", set_in("group", "p11", 1), "of another group or size in another class"),
        ("image ids", set_in("spacing_depth", 3.0, 1), "of another group or size in another class"),
        ("counts", set_in("n_pred", 8 * 64 * 64 - 100), "more voxels than there are"),
        ("counts", set_in("depth", 7.5), "no whole numbers"),
        ("counts", set_in("spacing_width", 0.0), "sides of a voxel that are not positive"),
        ("counts", provenance(distance_unit="voxel"), "not 1 though they are not known"),
        ("distances", set_in("hd95", 200.0), "not between 0 and the longest possible"),
        ("surface dice", set_in("nsd_2pct", 0.0), "the smaller tolerance has more"),
        ("classes", provenance(classes=["lv", "myo", "rv"]), "the card of 'phantom3d' has rv, myo, lv"),
        ("labels", relabelled(lambda ids: ids[::-1]), "in another order"),
        ("labels", relabelled(lambda ids: ids[:16]), "2 labelled vol"),
        ("labels", relabelled(lambda ids: ids[:32]), "2 labelled patients, and the regime is n3patients@grouped"),
        ("audits", of_label("class", "la"), "rows of another class than rv, myo, lv: 'la'"),
        ("audits", lambda _, images, labels: (images, labels.drop(index=2)), "without a row of each class"),
        ("audits", of_label("confidence", 0.123), "confidence or agreement is another one in another class"),
        ("audits", of_label("g", 0.123), "pearson of g"),
        ("audits", of_label("id", "p00_0_z003"), "test slice"),
    ],
)
def test_what_was_changed_is_found(sound: Path, tmp_path: Path, rule: str, change: Change, said: str) -> None:
    found = changed(sound, tmp_path, change)
    assert any(fault.rule == rule and said in fault.text for fault in found), found


def test_averages_of_classes_are_recomputed(sound: Path, tmp_path: Path) -> None:
    def better(data: dict[str, Any], *_: pd.DataFrame) -> None:
        data["summaries"]["student"]["by_class"]["lv"]["dice"] += 1e-6

    texts = [fault.text for fault in changed(sound, tmp_path, better, again=False) if fault.rule == "summary"]
    assert len(texts) == 1
    assert "dice of lv" in texts[0]

    def without_class(data: dict[str, Any], *_: pd.DataFrame) -> None:
        del data["summaries"]["student"]["by_class"]["lv"]

    assert "summary" in rules(changed(sound, tmp_path, without_class, again=False))


def test_rows_of_volumes_need_their_columns_and_those_of_pictures_have_none(sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path, dirs_exist_ok=True)
    write_images(tmp_path / "images.csv", read_images(sound / "images.csv").drop(columns=VOLUME_COLUMNS))
    texts = [fault.text for fault in verify_records([tmp_path]) if fault.rule == "images"]
    assert "lacks the columns: depth, spacing_depth" in texts[0]
    found = changed(sound, tmp_path / "pictures", provenance(distance_unit="px"))
    assert any(fault.rule == "images" and "columns that are not expected" in fault.text for fault in found)


@pytest.mark.parametrize(("name", "by"), [("hd95", 1e-5), ("dice", 1e-8), ("n_tp", -1), ("spacing_height", 1e-3)])
def test_medpy_finds_a_changed_value_by_class(sound: Path, tmp_path: Path, name: str, by: float) -> None:
    def change(_: dict[str, Any], images: pd.DataFrame, __: pd.DataFrame) -> None:
        images.loc[7, name] += by

    texts = [fault.text for fault in changed(sound, tmp_path, change, "medpy") if fault.rule == "judge"]
    images = read_images(sound / "images.csv")
    assert len(texts) == 1
    assert texts[0].startswith(f"{images.loc[7, 'id']}, myo: {name} is ")


def test_predictions_of_another_depth_are_faults(sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path, dirs_exist_ok=True)
    ids = read_images(sound / "images.csv")["id"].unique()
    write_predictions(tmp_path / "predictions.npz", {id: np.zeros((7, 64, 64), np.uint8) for id in ids})
    texts = [fault.text for fault in verify_records([tmp_path], "medpy") if fault.rule == "judge"]
    assert len(texts) == len(ids)
    assert "is 8 x 64 x 64 voxels; measured: (7, 64, 64) predicted" in texts[0]


def test_a_draw_may_begin_with_the_first_images_of_each_class() -> None:
    record, _ = present(dataset="phantom", regime="n5@grouped")
    several = record.model_copy(update={"provenance": record.provenance.model_copy(update={"classes": ("a", "b")})})
    train = pd.DataFrame({"id": [f"i{n:02}" for n in range(20)], "group": [f"g{n // 2}" for n in range(20)]})
    order = draw_labelled(train, 20, "phantom", 0)
    shown = {id: ["a"] if place < 9 else ["a", "b"] for place, id in enumerate(order)}
    drawn = draw_labelled(train, 5, "phantom", 0, shown)
    assert drawn == [order[0], order[9], *order[1:4]]
    for labelled, right in (
        (drawn, True),
        (order[:5], True),
        (drawn[:4], False),
        ([*drawn[:4], order[15]], False),
        ([order[9], *order[1:5]], False),  # the first is not the first of the draw, and shows a class, too
        ([*order[7:10], *order[:2]], False),  # three first images of two classes
    ):
        assert _shows_classes_first(labelled, train, several) == right
    assert not _shows_classes_first(drawn, train, record), "of one class there is one draw"


def test_a_rerun_is_compared_class_by_class(sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path, dirs_exist_ok=True)
    images = read_images(sound / "images.csv")
    original = Original(sound / "record.json", read_record(sound), images.copy())
    write_images(tmp_path / "images.csv", images.iloc[::-1])
    assert judge(original, tmp_path / "record.json").verdict == "identical"
    images.loc[[3, 4], "dice"] += 0.25  # two classes of one volume
    write_images(tmp_path / "images.csv", images)
    found = judge(original, tmp_path / "record.json")
    assert (found.verdict, found.images_differing) == ("disagrees", 1)
    assert found.largest_dice_difference == pytest.approx(0.25)
    assert {"dice of rv", "hd95 of lv"} <= found.differences.keys()
    images.loc[5, "spacing_depth"] += 1
    write_images(tmp_path / "images.csv", images)
    assert "sizes or reference masks" in judge(original, tmp_path / "record.json").reason


def test_a_published_split_that_ships_is_compared(tmp_path: Path, sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    committed = load_split(DATASET)
    patients = committed.drop_duplicates("group").set_index("group")["split"]
    to_train = patients.index[patients == "train"][:2].tolist()
    words = patients.where(~patients.index.isin(to_train), "labelled")
    words = words.where(words != "train", "unlabelled").replace({"val": "test", "test": "val"})  # another test part
    folder = tmp_path / "card" / "splits"
    folder.mkdir(parents=True)
    words.rename_axis("image").rename("split").to_csv(folder / "given.csv")
    given = read_given([folder / "given.csv"], open_source(DATASET))
    assert given.labelled is not None
    run = tmp_path / "run"
    run.mkdir()
    write_run(run, f"n2patients@{given.kind}", given.table, given.labelled)
    monkeypatch.setattr("qgbench.data.acquire.given.card_folder", lambda name: tmp_path / "card")
    assert rules(verify_records([run]), "note") == {"twin", "split unknown"}
    (folder / "given.csv").rename(folder / f"{given.kind}.csv")
    found = verify_records([run])
    assert (rules(found), rules(found, "note")) == (set(), {"twin"}), found
    other = committed[committed["split"] == "train"]
    ids = draw_patients(other[~other["group"].isin(to_train)], 2, DATASET, 0)
    for place, (change, rule, said) in enumerate(
        [
            (relabelled(lambda _: ids), "labels", f"'{given.kind}' names 32; "),
            (relabelled(lambda listed: listed[:16]), "labels", "1 labelled patients, and the regime is n2patients@"),
            (provenance(split="0" * 64), "split", "the fingerprint is 0000"),
            (set_in("id", "p99_0"), "test images", "p99_0"),
            (of_label("id", f"{patients.index[patients == 'test'][0]}_0_z003"), "audits", "not among the unlab"),
        ]
    ):
        faults = changed(run, tmp_path / f"changed{place}", change)
        assert any(fault.rule == rule and said in fault.text for fault in faults), faults


def test_near_copies_of_slices_are_told_by_volume(sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path / "run")
    data = json.loads((sound / "record.json").read_text())
    test = read_images(sound / "images.csv")["id"][0]
    data["near_copies"] = {"val": [], "test": [f"{test}_z001", f"{test}_z002"]}
    (tmp_path / "run" / "record.json").write_text(json.dumps(data))
    notes = [fault.text for fault in verify_records([tmp_path / "run"]) if fault.rule == "near copies"]
    assert notes == [f"1 test volume ({test}) of 12: with slices that are near copies of slices to train on"]
