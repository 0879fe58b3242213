import io
import json
import math
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from qgbench.base.errors import UserError
from qgbench.data.readers import open_source
from qgbench.data.splits import draw_labelled, load_split
from qgbench.metrics.masks import measure
from qgbench.metrics.table import CLASS, Metric
from qgbench.plugins.registry import load
from qgbench.quality.audit import audits_of
from qgbench.run.predictions import write_predictions
from qgbench.run.record import (
    Record,
    images_path,
    labels_path,
    read_images,
    read_labels,
    read_record,
    result_path,
    settings_as_used,
    summarise,
    write_images,
    write_labels,
    write_record,
)
from qgbench.spec.addons import addon_settings
from qgbench.spec.arm import WeightingSettings
from qgbench.spec.protocol import Protocol, QualitySettings, TrainSettings
from qgbench.spec.run_spec import RunSpec
from qgbench.spec.settings import Settings
from qgbench.trust.reproduce import open_original
from qgbench.trust.verify import Fault, print_faults, record_files, verify_records
from tests.later import later_setting

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parents[1] / "golden/records/v1"
WITH_LABELS = Path(__file__).parents[1] / "golden/records/v2"
Change = Callable[[dict[str, Any], pd.DataFrame], object]
T = TypeVar("T")


def overlap_again(images: pd.DataFrame) -> None:
    """Recompute what follows from the counts, where both masks have foreground."""
    ref, pred, tp = images["n_ref"], images["n_pred"], images["n_tp"]
    images["dice"], images["jaccard"] = 2 * tp / (ref + pred), tp / (ref + pred - tp)
    images["precision"], images["recall"] = tp / pred, tp / ref


def present(seed: int = 0, **changes: Any) -> tuple[Record, pd.DataFrame]:
    """A record of the present protocol: the golden one on PH2, with up to 30 % fewer true pixels in each image."""
    record, images = read_record(GOLDEN), read_images(GOLDEN / "images.csv")
    fields = {name: getattr(record.spec, name) for name in ("protocol", "dataset", "regime", "method", "arch")}
    fields |= {"encoder": record.spec.encoder, "precision": "bf16", "device": "cpu", "threads": 1, "qg_mode": "qw"}
    spec = RunSpec(**fields | {"seed": seed} | changes)
    stream = np.random.default_rng(int(spec.id[-8:], 16))
    room = images["height"] * images["width"] - images["n_ref"] - images["n_pred"] + images["n_tp"]
    fewer = np.floor(stream.uniform(0, 0.3, len(images)) * images["n_tp"]).astype(int)
    images["n_tp"] -= np.minimum(fewer, room)
    overlap_again(images)
    data, protocol = record.model_dump(mode="json"), spec.resolve()
    own = Settings() if spec.source else load("method", spec.method).Settings(**spec.overrides_of("method"))
    settings = settings_as_used(protocol, own, addon_settings(spec))
    data |= {"run_id": spec.id, "spec": spec, "settings": settings}
    # As the run does: it validates in even intervals, the last time after the last step, which is the best here.
    every = protocol.train.steps // protocol.train.validations
    data["val_dice"] = [(step, 0.5 + step / 1e6) for step in range(every, protocol.train.steps + 1, every)]
    data["best_val_step"] = protocol.train.steps
    source = data["provenance"]
    source["encoder"], source["g_weights"] = "e" * 64, f"{seed + 1:064}"
    source["labelled_ids"] = labelled(seed)
    source["g"] = f"{spec.dataset}-n{len(source['labelled_ids'])}-{protocol.size}px-k{seed}-{'0' * 12}"
    if not spec.needs_g:
        source["g"] = source["g_weights"] = data["audit"] = None
        images["q"] = np.nan
    data["guidance"] = data["guidance"] if spec.addons else None
    data["pseudo_labels"] = audits_of(labels_of(spec))
    networks = ["student", *(["teacher"] if spec.method == "mean_teacher" else [])]
    data["summaries"] = dict.fromkeys(networks, summarise(images))
    return Record.model_validate(data), images


def labels_of(spec: RunSpec) -> pd.DataFrame:
    """The golden record's labels, with the scores that the run has, as if of 10 unlabelled images of PH2."""
    labels = read_labels(WITH_LABELS / "labels.csv").drop(columns=[] if spec.needs_g else ["g"])
    split = load_split("ph2")
    drawn = {id for seed in (0, 1, 2, spec.seed) for id in labelled(seed)}
    unlabelled = sorted({*split["id"][split["split"] == "train"]} - drawn)[:10]
    names = dict(zip(labels["id"].unique(), unlabelled, strict=False))
    return labels[labels["id"].isin(names)].assign(id=labels["id"].map(names))


def averaged(record: Record, images: pd.DataFrame, **changes: Any) -> Record:
    """The record with the averages of other rows, and of no other network than the student."""
    return record.model_copy(update={"summaries": {"student": summarise(images)}} | changes)


def labelled(seed: int) -> list[str]:
    split = load_split("ph2")
    return draw_labelled(split[split["split"] == "train"], 28, "ph2", seed)


def write_run(folder: Path, record: Record, images: pd.DataFrame) -> Path:
    write_images(folder / "images.csv", images, record.metrics)
    write_labels(folder / "labels.csv", labels_of(record.spec))
    parts = [record.run_id.encode(), *((folder / name).read_bytes() for name in ("images.csv", "labels.csv"))]
    write_record(folder, record.model_copy(update={"rows": sha256(b"\n".join(parts)).hexdigest()}))
    return folder


def write_result(results: Path, record: Record, images: pd.DataFrame) -> Path:
    target = results / result_path(record)
    write_run(target.parent, record, images)
    (target.parent / "record.json").rename(target)
    (target.parent / "images.csv").rename(images_path(target))
    (target.parent / "labels.csv").rename(labels_path(target))
    return target


def changed(folder: Path, change: Change, *, again: bool = False) -> list[Fault]:
    """Verify a record after a change to its JSON and rows; `again`: with the averages of the changed rows."""
    record, images = present()
    data = record.model_dump(mode="json")
    images = images.astype({"n_ref": float, "n_pred": float, "n_tp": float})
    change(data, images)
    folder.mkdir(exist_ok=True)
    if again and np.isfinite(list((averages := summarise(images)).means.values())).all():
        data["summaries"] = {"student": averages.model_dump()}
    (folder / "record.json").write_text(json.dumps(data))
    write_images(folder / "images.csv", images)
    write_labels(folder / "labels.csv", labels_of(present()[0].spec))
    return verify_records([folder])


def of_schema_1(folder: Path, where: str, value: Any) -> Path:
    """The golden record of schema 1 with another value in its JSON."""
    shutil.copytree(GOLDEN, folder)
    data = json.loads((folder / "record.json").read_text())
    in_json(where, value)(data, pd.DataFrame())
    (folder / "record.json").write_text(json.dumps(data))
    return folder


def rules(faults: list[Fault], severity: str = "fault") -> set[str]:
    return {fault.rule for fault in faults if fault.severity == severity}


def in_row(**values: Any) -> Change:
    def change(_: dict[str, Any], images: pd.DataFrame) -> None:
        for name, value in values.items():
            images.loc[3, name] = value

    return change


def in_json(where: str, value: Any) -> Change:
    def change(data: dict[str, Any], _: pd.DataFrame) -> None:
        *parents, last = where.split(".")
        for parent in parents:
            data = data[int(parent)] if isinstance(data, list) else data[parent]
        data[last] = value(data[last]) if callable(value) else value

    return change


# Sound records


def test_committed_results_have_no_fault() -> None:
    assert [fault for fault in verify_records([ROOT / "results"]) if fault.severity == "fault"] == []


def test_a_sound_record_of_the_present_protocol_has_neither_fault_nor_note(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        for mode in ("none", "qw"):
            write_result(tmp_path, *present(seed, qg_mode=mode))
    assert verify_records([tmp_path]) == []
    assert len(record_files([tmp_path, tmp_path / "v2"])) == 6


@pytest.mark.parametrize(
    "kind", [TrainSettings, QualitySettings, WeightingSettings, Protocol, RunSpec, load("method", "fixmatch").Settings]
)
def test_a_setting_that_came_after_a_record_changes_neither_its_id_nor_a_verdict(
    kind: type[Settings], tmp_path: Path
) -> None:
    record, images = present()
    write_run(tmp_path, record, images)
    found = verify_records([tmp_path, GOLDEN])
    assert rules(found) == set()
    with later_setting(kind):
        assert verify_records([tmp_path, GOLDEN]) == found
        assert open_original(tmp_path).record.spec.id == record.run_id


@pytest.mark.parametrize("kind", [TrainSettings, QualitySettings, WeightingSettings, Protocol])
def test_a_record_without_a_setting_is_compared_with_what_was_done_before_it(
    kind: type[Settings], tmp_path: Path
) -> None:
    write_run(tmp_path, *present())
    with later_setting(kind, before=0.5):
        assert rules(verify_records([tmp_path])) == set()
    with later_setting(kind, before=0.25):
        assert rules(verify_records([tmp_path])) == {"spec"}
        with pytest.raises(UserError, match=r"later 0\.25 \(here 0\.5\)"):
            open_original(tmp_path)


def test_masks_measured_by_qgbench_keep_every_rule(tmp_path: Path) -> None:
    stream = np.random.default_rng(0)
    record, images = present()
    for row in range(len(images)):
        height, width = images.loc[row, ["height", "width"]].astype(int) // 8
        pred, ref = (stream.random((height, width)) < stream.choice([0, 0.01, 0.1, 0.6, 1]) for _ in range(2))
        measured = vars(measure(pred if row % 9 else ref, ref))
        for name, value in {"height": height, "width": width, **measured}.items():
            images.loc[row, name] = value
    assert set(images["status"]) == {"ok", "missed", "spurious", "both_empty"}
    assert rules(verify_records([write_run(tmp_path, averaged(record, images), images)])) == set()


# Faults in the rows, each of which breaks one rule and no other


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ("image ids", in_row(group="")),
        ("image ids", in_row(**{"class": "polyp"})),
        ("counts", in_row(n_ref=12.5)),
        ("counts", in_row(n_pred=-1.0)),
        ("counts", in_row(n_tp=1e9)),
        ("counts", in_row(height=10, width=10)),
        ("counts", in_row(n_ref=np.nan)),
        ("overlap", in_row(dice=0.99)),
        ("overlap", in_row(dice=np.nan)),
        ("overlap", in_row(jaccard=1.2)),
        ("overlap", in_row(precision=-0.1)),
        ("overlap", in_row(recall=0.5)),
        ("status", in_row(status="missed")),
        ("status", in_row(status="")),
        ("distances", in_row(hd95=np.nan)),
        ("distances", in_row(hd95_max=-1.0)),
        ("distances", in_row(assd=1e5)),
        ("distances", in_row(hd95=np.inf)),
        ("surface dice", in_row(nsd_2px=1.1, nsd_2pct=1.1)),
        ("surface dice", in_row(nsd_2px=0.9, nsd_2pct=0.8)),
        ("surface dice", in_row(nsd_2pct=np.nan)),
        ("scores", in_row(q=1.01)),
        ("scores", in_row(q=np.nan)),
        ("scores", in_row(confidence=-0.01)),
        ("scores", in_row(confidence=np.nan)),
    ],
)
def test_an_impossible_row_breaks_the_rule_that_names_it(tmp_path: Path, rule: str, change: Change) -> None:
    faults = changed(tmp_path, change, again=True)
    no_average = {"summary"}
    consequences = {"image ids": {"test images"}} | dict.fromkeys(("distances", "overlap", "surface dice"), no_average)
    assert {rule} <= rules(faults) <= {rule} | consequences.get(rule, set())
    assert rule == "image ids" or "IMD0" in next(fault.text for fault in faults if fault.rule == rule)


def test_one_empty_mask_has_no_distance_and_scores_nothing(tmp_path: Path) -> None:
    nothing = {"n_pred": 0, "n_tp": 0, "dice": 0, "jaccard": 0, "precision": 0, "recall": 0, "status": "missed"}
    empty = {"hd95": np.nan, "hd95_max": np.nan, "assd": np.nan, "nsd_2px": 0, "nsd_2pct": 0}
    assert rules(changed(tmp_path, in_row(**nothing | empty), again=True)) == set()
    assert rules(changed(tmp_path, in_row(**nothing | empty | {"assd": 3.0}), again=True)) == {"distances"}
    assert rules(changed(tmp_path, in_row(**nothing | empty | {"nsd_2pct": 0.5}), again=True)) == {"surface dice"}


def test_equal_masks_are_at_no_distance(tmp_path: Path) -> None:
    equal = {"n_ref": 50, "n_pred": 50, "n_tp": 50, "dice": 1, "jaccard": 1, "precision": 1, "recall": 1}
    near = {"hd95": 0, "hd95_max": 0, "assd": 0, "nsd_2px": 1, "nsd_2pct": 1}
    assert rules(changed(tmp_path, in_row(**equal | near), again=True)) == set()
    assert rules(changed(tmp_path, in_row(**equal | near | {"assd": 0.5}), again=True)) == {"distances"}
    assert rules(changed(tmp_path, in_row(**equal | near | {"nsd_2px": 0.9}), again=True)) == {"surface dice"}


def test_an_image_that_is_there_twice_is_named(tmp_path: Path) -> None:
    faults = changed(tmp_path, in_row(id="IMD002", group="IMD002"), again=True)
    assert rules(faults) == {"image ids", "test images"}
    assert "1 image (IMD002) in more than one row" in faults[0].text


def test_a_better_average_is_found(tmp_path: Path) -> None:
    faults = changed(tmp_path, in_json("summaries.student.means.dice", 0.99))
    assert [(fault.rule, fault.path.name) for fault in faults if fault.severity == "fault"] == [
        ("summary", "images.csv")
    ]
    assert "the record says 0.99" in faults[0].text


def test_rows_of_other_networks_are_averaged_where_they_are_kept(tmp_path: Path) -> None:
    record, images = present(method="mean_teacher")
    write_run(tmp_path, record, images)
    write_images(tmp_path / "images.teacher.csv", images)
    assert rules(verify_records([tmp_path])) == set()
    write_images(tmp_path / "images.teacher.csv", images.assign(q=0.5, assd=images["assd"] / 2))
    faults = [fault for fault in verify_records([tmp_path]) if fault.severity == "fault"]
    assert [(fault.rule, fault.path.name) for fault in faults] == [("summary", "images.teacher.csv")]


# Audited labels


@pytest.fixture
def labelling(tmp_path: Path) -> Path:
    """The golden record that has audited labels, as a run."""
    return shutil.copytree(WITH_LABELS, tmp_path / "labelling")


def of_the_labels(run: Path) -> list[str]:
    found = [fault for fault in verify_records([run]) if fault.severity == "fault"]
    assert {(fault.path, fault.rule) for fault in found} <= {(run / "labels.csv", "audits")}
    return [fault.text for fault in found]


@pytest.mark.parametrize(("method", "found"), [("supervised", set()), ("fixmatch", {"audits"})])
def test_only_a_method_that_makes_no_labels_is_audited_at_its_end_alone(
    tmp_path: Path, method: str, found: set[str]
) -> None:
    record, images = present(method=method, qg_mode="none")
    write_run(tmp_path, record, images)
    assert rules(verify_records([tmp_path])) == set(), "at all four quarters, as every method was once"
    labels = labels_of(record.spec)
    at_end = labels[labels["progress"] == 1]
    write_labels(tmp_path / "labels.csv", at_end)
    write_record(tmp_path, record.model_copy(update={"pseudo_labels": audits_of(at_end)}))
    assert rules(verify_records([tmp_path])) == found


@pytest.mark.parametrize("column", ["dice", "g", "confidence", "agreement", "progress"])
def test_one_changed_label_is_found(labelling: Path, column: str) -> None:
    assert of_the_labels(labelling) == []
    labels = read_labels(labelling / "labels.csv")
    labels.loc[200, column] *= 0.99
    write_labels(labelling / "labels.csv", labels)
    (text,) = of_the_labels(labelling)
    said = "the checkpoints [0.25, 0.5, 0.75, 0.7424" if column == "progress" else "pseudo_labels: mae of"
    assert said in text
    assert column in ("progress", "dice") or f" of {column} at 75% is 0." in text


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda file: file.unlink(), "it is missing"),
        (lambda file: file.write_bytes(file.read_bytes()[:-7]), "cut off in its last row"),
        (lambda file: file.write_text(file.read_text().replace("dice", "iou")), "lacks the columns dice"),
        (lambda file: file.write_text(file.read_text().replace("0.25,", "early,")), "early"),
        (lambda file: file.write_text(file.read_text().replace("confidence", "entropy")), "not expected: entropy"),
        (lambda file: file.write_text("".join(file.open().readlines()[:-1])), "not of the same images"),
        (lambda file: file.write_text(file.open().readline()), "the checkpoints []; a run of 24 steps has"),
        (lambda file: file.write_bytes(b"\xff\n"), "cannot be read"),
    ],
)
def test_damaged_labels_are_a_fault_and_no_crash(labelling: Path, damage: Callable[[Path], object], said: str) -> None:
    damage(labelling / "labels.csv")
    (text,) = of_the_labels(labelling)
    assert said in text


def _foreign(run: Path, column: str, value: object) -> None:
    labels = read_labels(run / "labels.csv")
    labels[column] = labels[column].astype(object)
    labels.loc[3, column] = value
    write_labels(run / "labels.csv", labels)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [("class", "polyp", "another class"), ("g", 5.0, "outside"), ("dice", -0.25, "outside"), ("g", None, "missing")],
)
def test_labels_that_no_run_writes_are_found(labelling: Path, column: str, value: object, said: str) -> None:
    _foreign(labelling, column, value)
    assert any(said in text for text in of_the_labels(labelling))


def test_a_label_of_a_test_image_and_one_given_twice_are_found(labelling: Path) -> None:
    _foreign(labelling, "id", read_images(labelling / "images.csv")["id"][0])
    assert of_the_labels(labelling) == ["1 test image (g000_0), which no audit looks at"]
    labels = read_labels(labelling / "labels.csv")
    _foreign(labelling, "id", labels["id"][4])
    assert of_the_labels(labelling) == [f"1 image ({labels['id'][4]}) twice at one checkpoint"]


def test_records_of_schema_1_are_not_asked_for_labels(tmp_path: Path) -> None:
    run = shutil.copytree(GOLDEN, tmp_path / "a")
    assert read_record(run).pseudo_labels
    assert of_the_labels(run) == []


# A metric that does not ship

BOUNDARY = Metric(name="boundary", label="Boundary IoU")
DEPTH = Metric(
    name="depth", label="Depth", unit="px", scale=1, highest=None, higher_is_better=False, both_empty=0, one_empty=None
)


def with_metrics(folder: Path, **row: Any) -> list[Fault]:
    """Verify a record with two metrics that do not ship, in whose row 3 nothing was predicted."""
    record, images = present()
    nothing = {"n_pred": 0, "n_tp": 0, "dice": 0, "jaccard": 0, "precision": 0, "recall": 0, "status": "missed"}
    nothing |= {"hd95": np.nan, "hd95_max": np.nan, "assd": np.nan, "nsd_2px": 0, "nsd_2pct": 0}
    images = images.assign(boundary=images["jaccard"], depth=images["assd"] / 3)
    images = images.astype({"n_ref": float, "n_pred": float, "n_tp": float})
    in_row(**nothing | {"boundary": 0, "depth": np.nan} | row)({}, images)
    metrics = {metric.name: metric for metric in (BOUNDARY, DEPTH)}
    student = summarise(images, metrics.values())
    record = record.model_copy(update={"metrics": metrics, "summaries": {"student": student}})
    write_run(folder, record, images)
    assert read_record(folder).metrics == metrics
    return verify_records([folder])


def test_a_metric_that_does_not_ship_is_written_averaged_and_verified(tmp_path: Path) -> None:
    assert rules(with_metrics(tmp_path)) == set()
    images, means = read_images(tmp_path / "images.csv", ["depth"]), read_record(tmp_path).summary.means
    diagonal = math.hypot(*images.loc[3, ["height", "width"]])
    assert means["depth"] == pytest.approx((images["depth"].sum() + diagonal) / 100)
    images.loc[5, "depth"] += 1
    write_images(tmp_path / "images.csv", images.assign(boundary=images["jaccard"]), ["boundary", "depth"])
    assert rules(verify_records([tmp_path])) == {"summary"}
    write_images(tmp_path / "images.csv", images)
    (fault,) = (fault for fault in verify_records([tmp_path]) if fault.severity == "fault")
    assert (fault.rule, fault.text.partition("lacks ")[2]) == ("images", "the columns boundary, depth")


@pytest.mark.parametrize("row", [{"boundary": 0.5}, {"depth": 3.0}])
def test_a_metric_that_does_not_ship_has_its_value_for_an_empty_mask(tmp_path: Path, row: dict[str, float]) -> None:
    assert rules(with_metrics(tmp_path, **row)) == {"metrics"}


@pytest.mark.parametrize(("name", "value"), [("boundary", 1.1), ("boundary", -0.1), ("depth", -1.0)])
def test_a_metric_that_does_not_ship_keeps_its_range(tmp_path: Path, name: str, value: float) -> None:
    assert rules(with_metrics(tmp_path)) == set()
    images = read_images(tmp_path / "images.csv", ["boundary", "depth"])
    images.loc[5, name] = value
    write_images(tmp_path / "images.csv", images, ["boundary", "depth"])
    assert rules(verify_records([tmp_path])) == {"metrics", "summary"}


# Faults in the JSON


@pytest.mark.parametrize(
    ("rule", "where", "value"),
    [
        ("record", "peak_memory_mib", float("nan")),
        ("numbers spec", "settings.method.lambda_u", float("inf")),
        ("record", "times.train", -1.0),
        ("record", "val_dice", [[100, 0.5], [100, 0.6]]),
        ("record", "val_dice", [[20, 0.5], [100, 1.5]]),
        ("record", "val_dice", [[20, 0.5], [100, 0.5], [999, 0.6]]),
        ("record", "best_val_step", 7),
        ("record", "audit.synthetic.pearson", 1.2),
        ("record", "audit.weak_models.mae", -0.1),
        ("record", "guidance.kept_share", 1.5),
        ("record", "summaries.student.means.dice", 1.5),
        ("record", "summaries.student.means.hd95", -1.0),
        ("record", "summaries.student.missed", 101),
        ("protocol", "spec.protocol", "samll"),
        ("protocol", "spec.protocol_version", 99),
        ("spec", "run_id", "small-ph2"),
        ("spec", "spec.method", "unimatch"),
        ("spec contradiction", "spec.qg_mode", "none"),
        ("spec contradiction", "spec.qg_score", "confidence"),
        ("spec", "spec.encoder", "resnet34"),
        ("spec", "spec.precision", "fp32"),
        ("spec", "spec.threads", 2),
        ("spec", "spec.overrides", {"method.threshold": 0.5}),
        ("spec", "spec.overrides", {"train.steps": 400}),
        ("spec", "spec.overrides", {"train.speed": 400}),
        ("spec", "settings.protocol.train.steps", 1600),
        ("spec", "settings.protocol.train.lr", 0.5),
        ("spec", "settings.protocol.size", 224),
        ("record", "settings.protocol", "small"),
        ("record", "settings.protocol.g_version", "2"),
        ("record", "spec.surplus", 1),
        ("record", "spec.regime", "some"),
        ("record", "summaries.student.means", {"dice": 0.5}),
        ("labels", "provenance.labelled_ids", lambda ids: ids[:-1]),
        ("labels", "provenance.labelled_ids", lambda ids: [*ids[:-1], ids[0]]),
        ("labels", "provenance.labelled_ids", lambda ids: [*ids[:-1], "IMD002"]),
        ("labels", "provenance.labelled_ids", lambda ids: [*ids[:-1], "IMD404"]),
        ("split", "provenance.split", "0" * 64),
    ],
)
def test_what_the_json_claims_is_compared(tmp_path: Path, rule: str, where: str, value: Any) -> None:
    faults = changed(tmp_path, in_json(where, value))
    assert rules(faults) == set(rule.split())


def test_a_seed_without_its_draw_is_found(tmp_path: Path) -> None:
    record, images = present(seed=1)
    provenance = record.provenance.model_copy(update={"labelled_ids": labelled(2)})
    faults = verify_records([write_run(tmp_path, record.model_copy(update={"provenance": provenance}), images)])
    assert rules(faults) == {"labels"}
    assert "seed 1 draws 28" in faults[0].text


def test_a_record_of_schema_1_that_contradicts_itself_is_a_fault(tmp_path: Path) -> None:
    (fault,) = verify_records([of_schema_1(tmp_path / "a", "cell.method", "unimatch")])
    assert (fault.rule, fault.severity) == ("record", "fault")
    assert fault.text.endswith("says two things: cell.method is 'unimatch', elsewhere 'fixmatch'")


def test_other_test_images_or_groups_are_named(tmp_path: Path) -> None:
    record, images = present()
    images = images.drop(index=5)
    fewer = verify_records([write_run(tmp_path / "a", averaged(record, images), images)])
    assert rules(fewer) == {"test images"}
    assert "99 images, and the committed split has 100 to test on" in fewer[0].text
    other = changed(tmp_path / "b", in_row(group="IMD002"), again=True)
    assert rules(other) == {"test images"}


@pytest.mark.parametrize("name", ["record.json", "images.csv"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_file_that_is_cut_off_is_a_fault_and_no_crash(tmp_path: Path, name: str, share: float) -> None:
    path = write_run(tmp_path, *present()) / name
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert rules(verify_records([tmp_path])) == {name.partition(".")[0]}


@pytest.mark.parametrize(
    "text", ["[1]", '{"a": NaN}', "[" * 5000, '{"schema_version": ' + "9" * 5000 + "}", "\x00\xff"]
)
def test_what_is_no_record_is_a_fault_and_no_crash(tmp_path: Path, text: str) -> None:
    path = write_run(tmp_path, *present()) / "record.json"
    path.write_text(text, encoding="latin-1")
    assert rules(verify_records([tmp_path])) == {"record"}


@pytest.mark.parametrize("text", ["many", "99999999999999999999999", "0,5"])
def test_text_among_the_numbers_is_a_fault_and_no_crash(tmp_path: Path, text: str) -> None:
    path = write_run(tmp_path, *present()) / "images.csv"
    lines = path.read_text().splitlines()
    lines[7] = lines[7].replace(lines[7].split(",")[7], text)
    path.write_text("\n".join(lines) + "\n")
    assert rules(verify_records([tmp_path])) & {"images", "overlap"}


def test_a_table_without_rows_or_with_short_rows_is_a_fault_and_no_crash(tmp_path: Path) -> None:
    path = write_run(tmp_path, *present()) / "images.csv"
    header, *lines = path.read_text().splitlines()
    path.write_text(header + "\n")
    assert rules(verify_records([tmp_path])) == {"images"}
    path.write_text("\n".join([header, *lines[:50], "IMD003", "IMD003", *lines[50:]]) + "\n")
    assert {"image ids", "counts"} <= rules(verify_records([tmp_path]))


def test_a_newer_schema_says_to_upgrade(tmp_path: Path) -> None:
    faults = changed(tmp_path, in_json("schema_version", 3))
    assert rules(faults) == {"record"}
    assert "written by a newer qgbench" in faults[0].text


# Notes


def test_a_former_version_of_the_protocol_is_noted_once_and_not_compared_with_today(tmp_path: Path) -> None:
    for number in range(3):
        of_schema_1(tmp_path / str(number), "provenance.split", "0" * 64)
    found = verify_records([tmp_path])
    assert rules(found) == set()
    faults = [fault for fault in found if fault.rule == "older"]
    assert [fault.severity for fault in faults] == ["note"]
    assert "and in 2 more records" in faults[0].text


def test_a_former_g_is_noted_and_its_run_not_compared_with_today(tmp_path: Path) -> None:
    faults = changed(tmp_path, in_json("settings.protocol.g_version", 1))
    assert rules(faults) == set()
    assert [
        "guided by the g of 'small' version 1, and the present is 3" in fault.text
        for fault in faults
        if fault.rule == "older"
    ] == [True]
    faults = changed(tmp_path, in_json("settings.protocol.g_version", 99))
    assert [fault.rule for fault in faults if fault.severity == "fault"] == ["protocol"]


def test_a_run_that_no_g_guides_is_compared_with_today_whatever_g_was(tmp_path: Path) -> None:
    record, images = present(qg_mode="none")
    data = record.model_dump(mode="json")
    data["settings"]["protocol"]["g_version"] = 1
    data["settings"]["protocol"]["quality"]["steps"] = 1
    write_run(tmp_path, Record.model_validate(data), images)
    assert rules(verify_records([tmp_path])) == set()
    data["settings"]["protocol"]["size"] = 1
    write_run(tmp_path, Record.model_validate(data), images)
    assert rules(verify_records([tmp_path])) == {"spec"}


@pytest.mark.parametrize(
    ("last", "text"),
    [
        ([], "27 labelled images"),
        (["IMD058"], "there twice"),
        (["IMD002"], "(IMD002) labelled in training and tested on"),
    ],
)
def test_labels_of_a_former_version_are_checked_as_far_as_they_can_be(
    tmp_path: Path, last: list[str], text: str
) -> None:
    run = of_schema_1(tmp_path / "a", "provenance.labelled_ids", lambda ids: [*ids[:-1], *last])
    faults = verify_records([run])
    assert [fault.rule for fault in faults if fault.severity == "fault"] == ["labels"]
    assert text in faults[0].text


@pytest.mark.parametrize(("copies", "texts"), [(["a", "b"], ["2 test images (a, b) of {}"]), ([], [])])
def test_near_copies_among_the_test_images_are_noted(tmp_path: Path, copies: list[str], texts: list[str]) -> None:
    record, images = present()
    write_result(tmp_path, record.model_copy(update={"near_copies": {"val": ["v"], "test": copies}}), images)
    found = [fault.text for fault in verify_records([tmp_path]) if fault.rule == "near copies"]
    assert found == [f"{text.format(len(images))}: near copies of training images" for text in texts]


def test_outside_code_and_uncommitted_changes_are_noted(tmp_path: Path) -> None:
    record, images = present(method="lab.py:Mine", source="ab" * 32)
    dirty = record.provenance.model_copy(update={"git_commit": "abc+dirty"})
    write_result(tmp_path, record.model_copy(update={"provenance": dirty}), images)
    faults = verify_records([tmp_path])
    assert rules(faults) == set()
    assert rules(faults, "note") >= {"outside code", "uncommitted"}


def test_a_data_set_without_a_committed_split_is_noted(tmp_path: Path) -> None:
    faults = verify_records([write_result(tmp_path, *present(dataset="own")).parent])
    assert (rules(faults), rules(faults, "note")) == (set(), {"split unknown", "twin"})
    faults = verify_records([write_result(tmp_path / "b", *present(regime="n28@given-0123abcd")).parent])
    assert (rules(faults), rules(faults, "note")) == (set(), {"split unknown", "twin"})


# Records beside each other


def test_gaps_and_missing_twins_are_noted(tmp_path: Path) -> None:
    write_result(tmp_path, *present(seed=2))
    faults = verify_records([tmp_path])
    assert rules(faults) == set()
    assert [fault.text for fault in faults] == [
        "2 seeds of the cell missing, the first is 0",
        "the twin without 'qw' lacks seed 2",
    ]


def test_a_huge_seed_takes_no_time(tmp_path: Path) -> None:
    write_run(tmp_path, *present(seed=10**9))
    assert "gap" in rules(verify_records([tmp_path]), "note")


def test_a_record_in_another_place_and_a_lone_table_are_found(tmp_path: Path) -> None:
    target = write_result(tmp_path, *present())
    elsewhere = tmp_path / "v2/small/ph2/n28@grouped/unet/supervised"
    target.parent.rename(elsewhere)
    faults = verify_records([tmp_path])
    assert rules(faults) == {"place"}
    assert "belongs to v2/small/ph2/n28@grouped/unet/fixmatch+qw/seed0.json" in faults[0].text
    (elsewhere / "seed7.csv").write_text("")
    assert rules(verify_records([tmp_path])) == {"place", "pair"}


def test_two_records_of_one_cell_and_seed(tmp_path: Path) -> None:
    record, images = present()
    write_run(tmp_path / "a", record, images)
    write_run(tmp_path / "b", record, images)
    assert (rules(found := verify_records([tmp_path])), rules(found, "note")) == (set(), {"copy", "twin"})
    write_run(tmp_path / "b", record.model_copy(update={"peak_memory_mib": 1.0}), images)
    assert rules(verify_records([tmp_path])) == {"two records"}


@pytest.mark.parametrize(
    ("changes", "rule", "severity"),
    [
        ({"method": "unimatch"}, "same scores", "fault"),
        ({"arch": "unetplusplus"}, "same scores", "fault"),
        ({"seed": 1}, "same scores", "fault"),
        ({"regime": "n28+isic_pool@grouped"}, "same scores", "fault"),
        ({"qg_score": "one"}, "same scores", "note"),
        ({"overrides": {"method.threshold": 0.5}}, "same scores", "note"),
    ],
)
def test_copied_scores_are_found(tmp_path: Path, changes: dict[str, Any], rule: str, severity: str) -> None:
    record, images = present()
    write_run(tmp_path / "a", record, images)
    other, _ = present(**changes)
    write_run(tmp_path / "b", averaged(other, images), images.sample(frac=1))
    found = [fault for fault in verify_records([tmp_path]) if fault.rule == rule]
    assert [fault.severity for fault in found] == [severity]
    assert str(tmp_path / "a/record.json") in found[0].text


def test_supervised_training_with_a_pool_is_no_copy_of_the_one_without(tmp_path: Path) -> None:
    _, images = present()
    for pools, split in (("", "grouped"), ("+isic_pool", "grouped"), ("+isic_pool", "image")):
        record, _ = present(regime=f"n28{pools}@{split}", method="supervised", qg_mode="none")
        write_run(tmp_path / f"{pools}{split}", averaged(record, images), images)
    found = [fault for fault in verify_records([tmp_path]) if fault.rule == "same scores"]
    assert [(fault.path.parent.name, fault.severity) for fault in found] == [("+isic_poolimage", "fault")]


def test_the_same_scores_under_two_versions_of_a_protocol_are_noted(tmp_path: Path) -> None:
    record, _ = present()
    rows = read_images(GOLDEN / "images.csv")
    shutil.copytree(GOLDEN, tmp_path / "former")
    write_run(tmp_path / "present", averaged(record, rows), rows)
    found = [fault for fault in verify_records([tmp_path]) if fault.rule == "same scores"]
    assert [fault.severity for fault in found] == ["note"]


def test_methods_that_both_predict_nothing_are_no_copies(tmp_path: Path) -> None:
    nothing = {"n_pred": 0, "n_tp": 0, "dice": 0.0, "jaccard": 0.0, "precision": 0.0, "recall": 0.0, "status": "missed"}
    empty = {"hd95": np.nan, "hd95_max": np.nan, "assd": np.nan, "nsd_2px": 0.0, "nsd_2pct": 0.0}
    for method in ("fixmatch", "unimatch"):
        record, images = present(method=method)
        images = images.assign(**nothing | empty)
        write_run(tmp_path / method, averaged(record, images), images)
    assert rules(verify_records([tmp_path])) == set()


def test_data_that_differ_are_named_on_both_sides(tmp_path: Path) -> None:
    write_run(tmp_path / "a", *present())
    write_run(tmp_path / "b", *present(seed=1))
    record, images = present(seed=2)
    other = record.provenance.model_copy(update={"data": "f" * 64})
    write_run(tmp_path / "c", record.model_copy(update={"provenance": other}), images)
    faults = [fault for fault in verify_records([tmp_path]) if fault.severity == "fault"]
    assert [(fault.rule, fault.path) for fault in faults] == [("data", tmp_path / "c/record.json")]
    assert "ffffffffffff... in 1 record" in faults[0].text
    assert str(tmp_path / "a/record.json") in faults[0].text


def test_the_same_data_at_another_size_have_another_fingerprint(tmp_path: Path) -> None:
    write_run(tmp_path / "a", *present())
    record, images = present(overrides={"size": 64})
    other = record.provenance.model_copy(update={"data": "f" * 64})
    write_run(tmp_path / "b", record.model_copy(update={"provenance": other}), images)
    assert "data" not in {fault.rule for fault in verify_records([tmp_path])}


# Many records


@pytest.fixture
def pool_of_two(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Have records checked by two other processes from now on; this one then cannot check any."""

    def switch() -> None:
        monkeypatch.setattr("qgbench.trust.verify._WORTH_PROCESSES", 2)
        monkeypatch.setattr("qgbench.trust.verify._CHUNK", 2)
        for module in ("trust.verify", "base.cores"):
            monkeypatch.setattr(f"qgbench.{module}.usable_cores", lambda: 2)
        monkeypatch.setattr("qgbench.trust.verify._Verifier", None)

    return switch


def watched(folder: Path, judge: str | None = None) -> tuple[list[Fault], list[tuple[str, int, str]], int]:
    """Verify; give also what progress was announced and how many records were then shown."""
    announced, shown = [], 0

    def track(iterable: Iterable[T], description: str, total: int, unit: str, start: int = 0) -> Iterator[T]:
        nonlocal shown
        announced.append((description, total, unit))
        for item in iterable:
            yield item
            shown += 1

    return verify_records([folder], judge, track), announced, shown


def test_processes_find_what_one_alone_finds(tmp_path: Path, pool_of_two: Callable[[], None]) -> None:
    for seed in range(5):
        write_run(tmp_path / f"sound{seed}", *present(seed))
    write_run(tmp_path / "copied", present(6)[0], present(0)[1])
    planted = {"overlap": in_row(dice=0.99), "status": in_row(status="missed"), "spec": in_json("run_id", "r")}
    for rule, change in planted.items():
        changed(tmp_path / rule, change, again=True)
    (write_run(tmp_path / "record", *present()) / "record.json").write_text("[1]")
    (write_run(tmp_path / "images", *present()) / "images.csv").write_text("")
    alone = watched(tmp_path)
    assert alone[1:] == ([("verify", 11, "records")], 11)
    named = {(fault.path.parent.name, fault.rule) for fault in alone[0] if fault.severity == "fault"}
    assert named >= {(rule, rule) for rule in (*planted, "record", "images")}
    assert {"same scores", "two records", "summary"} <= {rule for _, rule in named}
    pool_of_two()
    assert watched(tmp_path) == alone


def test_processes_judge_what_one_alone_judges(judged: Path, pool_of_two: Callable[[], None]) -> None:
    write_run(judged / "without predictions", *present(seed=1))
    images = read_images(judged / "images.csv")
    images.loc[1, "hd95"] += 1e-5
    write_images(judged / "images.csv", images)
    alone = watched(judged, "medpy")
    assert {"judge"} <= rules(alone[0])
    assert {"not judged"} <= rules(alone[0], "note")
    pool_of_two()
    assert watched(judged, "medpy") == alone


def test_an_interrupt_stops_the_processes(tmp_path: Path, pool_of_two: Callable[[], None]) -> None:
    for seed in range(4):
        write_run(tmp_path / str(seed), *present(seed))
    pool_of_two()

    def interrupted(iterable: Iterable[T], description: str, total: int, unit: str, start: int = 0) -> Iterator[T]:
        yield next(iter(iterable))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        verify_records([tmp_path], track=interrupted)
    assert multiprocessing.active_children() == []
    assert caught.tb is not None  # its frames kept the records' iterator alive until here


# The command's side


def test_no_folder_no_records_and_no_such_judge_are_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder .*none"):
        verify_records([tmp_path / "none"])
    with pytest.raises(UserError, match="no records under"):
        verify_records([tmp_path])
    with pytest.raises(UserError, match="unknown judge 'monai'"):
        verify_records([tmp_path], judge="monai")


def test_faults_are_printed_as_they_are_and_counted() -> None:
    console = Console(file=io.StringIO(), width=60)
    found = [Fault(Path("[red]a"), "counts", "x" * 99 + "[/]"), Fault(Path("b"), "gap", "seed", "note")]
    print_faults(found, [Path("record.json")], console)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == [
        *("fault: counts", "  [red]a", "  " + "x" * 99 + "[/]"),
        *("note: gap", "  b", "  seed", "1 record checked: 1 fault, 1 note."),
    ]


def test_verifying_imports_neither_torch_nor_medpy() -> None:
    code = (
        "import sys; from pathlib import Path; from qgbench.trust.verify import verify_records;"
        f"verify_records([Path({str(GOLDEN)!r})]);"
        "assert not {'torch', 'medpy'} & set(sys.modules)"
    )
    path = os.pathsep.join(filter(None, sys.path))
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, check=True)


# The judge


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    """A run on the phantom whose predictions are its references, shifted or empty."""
    source = open_source("phantom")
    record, images = present(dataset="phantom", regime="n12@grouped")
    masks: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    for place, id in enumerate(source.ids[:4]):
        ref = source.mask(id)
        masks[id] = np.roll(ref, 2 * place, axis=0) if place < 3 else np.zeros_like(ref)
        size = {"height": ref.shape[0], "width": ref.shape[1]}
        rows.append(
            {
                "id": id,
                "class": CLASS,
                "group": id,
                **size,
                **vars(measure(masks[id], ref)),
                "q": 0.5,
                "confidence": 0.9,
            }
        )
    images = pd.DataFrame(rows)
    write_predictions(tmp_path / "predictions.npz", masks)
    return write_run(tmp_path, averaged(record, images), images)


def test_medpy_agrees_with_honest_rows(judged: Path) -> None:
    assert {"judge", "not judged"} & {fault.rule for fault in verify_records([judged], judge="medpy")} == set()


@pytest.mark.parametrize(
    ("name", "change"),
    [("hd95", 1e-5), ("assd", -1e-5), ("dice", 1e-8), ("n_ref", 1), ("n_pred", 1), ("n_tp", -1)],
)
def test_medpy_finds_a_changed_value(judged: Path, name: str, change: float) -> None:
    images = read_images(judged / "images.csv")
    images.loc[1, name] += change
    write_images(judged / "images.csv", images)
    texts = [fault.text for fault in verify_records([judged], judge="medpy") if fault.rule == "judge"]
    assert len(texts) == 1
    assert texts[0].startswith(f"{images.loc[1, 'id']}: {name} is ")


def test_predictions_of_other_images_or_sizes_are_faults(judged: Path) -> None:
    images = read_images(judged / "images.csv")
    masks = {id: np.zeros((9, 9), dtype=bool) for id in images["id"]}
    write_predictions(judged / "predictions.npz", masks)
    found = [fault for fault in verify_records([judged], judge="medpy") if fault.rule == "judge"]
    assert len(found) == len(images)
    assert "(9, 9) predicted" in found[0].text
    write_predictions(judged / "predictions.npz", dict(list(masks.items())[1:]))
    found = [fault for fault in verify_records([judged], judge="medpy") if fault.rule == "judge"]
    assert "not of the same images" in found[0].text
    (judged / "predictions.npz").write_bytes(b"PK")
    assert "judge" in rules(verify_records([judged], judge="medpy"))


@pytest.mark.parametrize(("name", "change"), [("hd95_max", 1e-5), ("assd", 0.1)])
def test_predictions_are_read_without_being_asked_for(judged: Path, name: str, change: float) -> None:
    """Distances that masks of these sizes could have, in rows and averages: the kept masks have others."""
    assert "judge" not in rules(verify_records([judged]))
    images = read_images(judged / "images.csv")
    images.loc[1, name] += change
    write_run(judged, averaged(read_record(judged), images), images)
    texts = [fault.text for fault in verify_records([judged]) if fault.rule == "judge"]
    assert [text.partition(" is ")[0] for text in texts] == [f"{images.loc[1, 'id']}: {name}"]


def test_what_cannot_be_judged_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QGBENCH_DATA", raising=False)
    write_run(tmp_path, *present())
    assert "not judged" in rules(verify_records([tmp_path], judge="medpy"), "note")
    write_predictions(tmp_path / "predictions.npz", {})
    notes = [fault for fault in verify_records([tmp_path], judge="medpy") if fault.rule == "not judged"]
    assert "the data cannot be opened (verify looks in the folder that QGBENCH_DATA names)" in notes[0].text
