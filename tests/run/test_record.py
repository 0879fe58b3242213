import errno
import inspect
import json
import math
import os
import re
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any, NoReturn, get_args, get_type_hints

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from qgbench.base.errors import QGBenchError, UserError
from qgbench.base.files import write_atomically
from qgbench.base.schema import finite_or_none
from qgbench.metrics.table import CLASS, DISTANCE_COLUMNS, IMAGE_COLUMNS, image_columns
from qgbench.quality.audit import LABEL_COLUMNS, Agreement, CheckpointAudit, QualityAudit, audits_of
from qgbench.run import record as records
from qgbench.run.record import (
    IMAGES_NAME,
    RECORD_NAME,
    SCHEMA_VERSION,
    Guidance,
    Provenance,
    Record,
    Times,
    find_records,
    images_path,
    migrate,
    read_images,
    read_labels,
    read_record,
    summarise,
    write_images,
    write_labels,
    write_record,
)
from tests.records import settings_of, spec_of


def image(**values: Any) -> dict[str, Any]:
    """One row: 30 x 40 pixels (a diagonal of 50), scores 0.5, distances 5 pixels."""
    row: dict[str, Any] = dict.fromkeys(IMAGE_COLUMNS, 0.5)
    row |= {
        "id": "a",
        "class": CLASS,
        "group": "g",
        "height": 30,
        "width": 40,
        "n_ref": 10,
        "n_pred": 10,
        "n_tp": 5,
        "status": "ok",
    }
    return row | dict.fromkeys(DISTANCE_COLUMNS, 5.0) | values


def empty(status: str, score: float, distance: float) -> dict[str, Any]:
    scores = dict.fromkeys(("dice", "jaccard", "precision", "recall", "nsd_2px", "nsd_2pct"), score)
    return image(status=status, **scores, **dict.fromkeys(DISTANCE_COLUMNS, distance))


def table(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=IMAGE_COLUMNS)


def record(**changes: Any) -> Record:
    some = Agreement(masks=4, pearson=0.5, spearman=None, mae=0.1)
    spec = spec_of("qw", dataset="phantom", regime="n8@grouped", encoder="resnet18", method="fixmatch", threads=1)
    fields: dict[str, Any] = {
        "run_id": "r",
        "spec": spec,
        "settings": settings_of(spec),
        "summaries": {"student": summarise(table(image(), image(id="b", group="h", dice=1 / 3)))},
        "best_val_step": None,
        "val_dice": [(5, 0.25), (10, 2 / 3)],
        "audit": QualityAudit(synthetic=some, weak_models=some, image_dependence=0.1, image_dependent=True),
        "pseudo_labels": [CheckpointAudit(progress=None, mean_dice=0.5, scores={"g": some})],
        "pseudo_labels_on": "validation images",
        "guidance": Guidance(mean_q=0.7, kept_share=1.0, effective_sample_size=None, val_q_minus_dice=-0.1),
        "times": Times(g=1.0, g_reused=False, train=2.0, evaluate=3.0),
        "peak_memory_mib": 100.5,
        "provenance": Provenance(
            created="2030-01-01T00:00:00Z",
            git_commit=None,
            packages={"torch": "2.6"},
            python="3.11",
            hardware={"cores": 2},
            data="d",
            split="s",
            labelled_ids=["a", "ä"],
            g=None,
        ),
    }
    return Record(**fields | changes)


# Atomic writing


def test_a_file_is_written_whole_and_its_folder_made(tmp_path: Path) -> None:
    target = tmp_path / "new" / "deeper" / "file"
    write_atomically(target, b"first")
    write_atomically(target, b"second, which is longer")
    assert target.read_bytes() == b"second, which is longer"
    assert list(target.parent.iterdir()) == [target]


def test_a_full_disk_leaves_the_old_content_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "file"
    write_atomically(target, b"old")

    def full(handle: int) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(QGBenchError, match=r"No space left on device.*Free some space") as caught:
        write_atomically(target, b"new")
    assert str(target) in str(caught.value)
    assert str(caught.value).startswith(f"cannot write {tmp_path}")
    assert "--output" not in str(caught.value), "it may be the data folder or the cache"
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_an_interrupt_while_writing_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "file"
    write_atomically(target, b"old")

    def interrupt(handle: int) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(target, b"new")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_that_cannot_be_made_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(QGBenchError, match="cannot write"):
        write_atomically(tmp_path / "file" / "below", b"")


@pytest.mark.parametrize("place", [".", "/", "here"])
def test_a_folder_is_no_file_to_write(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    with pytest.raises(UserError, match="a folder of that name"):
        write_atomically(Path(place), b"")
    assert [entry.name for entry in tmp_path.iterdir()] == ["here"]


def test_a_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(pipe, b"text")
    assert os.read(reader, 9) == b"text"
    os.close(reader)
    assert pipe.is_fifo()


# The record


def test_a_record_survives_being_written_and_read(tmp_path: Path) -> None:
    write_record(tmp_path, record())
    assert read_record(tmp_path) == read_record(tmp_path / RECORD_NAME) == record()


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("place", ["summaries", "val_dice", "settings"])
def test_nan_and_infinity_are_refused_and_nothing_is_written(tmp_path: Path, value: float, place: str) -> None:
    sound = record()
    means = sound.summary.means | {"dice": value}
    broken: dict[str, Any] = {
        "summaries": {"student": sound.summary.model_copy(update={"means": means})},
        "val_dice": [(1, value)],
        "settings": sound.settings | {"method": {"lr": value}},
    }
    with pytest.raises((ValueError, QGBenchError)):
        write_record(tmp_path, record(**{place: broken[place]}))
    assert not (tmp_path / RECORD_NAME).exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_record_cut_off_is_refused(tmp_path: Path, share: float) -> None:
    write_record(tmp_path, record())
    file = tmp_path / RECORD_NAME
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(QGBenchError, match=r"record\.json is not a record"):
        read_record(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peak_memory_mib": "much"}, "is not a record: peak_memory_mib"),
        (
            {"schema_version": 3},
            r"record\.json was written by a newer qgbench: schema version 3, .*reads up to 2.*Upgrade",
        ),
        ({"schema_version": 0}, "is not a record: schema_version is 0; expected 1 to 2"),
        ({"schema_version": True}, "is not a record: schema_version is True"),
        ({"schema_version": "1"}, "is not a record: schema_version is '1'"),
        ({"surplus": 1}, "is not a record: surplus"),
        ({"spec": {"protocol": "small"}}, "is not a record: spec.dataset"),
        ({"settings": {"protocol": "small", "method": {}}}, "is not a record: settings: .*g_version and train.steps"),
        ({"settings": {"protocol": {"g_version": 2, "train": {"steps": 1}}}}, "is not a record: settings"),
        ({"summaries": {"student": {}}}, "is not a record: summaries.student.images"),
        ({"summaries": {}}, "is not a record: .*expected a summary of 'student'"),
    ],
)
def test_a_record_of_another_schema_is_refused_by_field(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write_record(tmp_path, record())
    file = tmp_path / RECORD_NAME
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(QGBenchError, match=message):
        read_record(file)


@pytest.mark.parametrize("content", ["[]", "null", "{}", '"record"'])
def test_a_record_that_names_no_version_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / RECORD_NAME).write_text(content)
    with pytest.raises(QGBenchError, match=r"record\.json is not a record: schema_version is None"):
        read_record(tmp_path)


def test_a_missing_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QGBenchError, match=r"record\.json cannot be read"):
        read_record(tmp_path)


def test_records_of_runs_and_of_results_are_found_with_their_images(tmp_path: Path) -> None:
    for name in ("runs/a/record.json", "runs/a/config.json", "results/x/seed0.json", "results/x/seed12.json"):
        write_atomically(tmp_path / name, b"{}")
    found = [str(path.relative_to(tmp_path)) for path in find_records(tmp_path)]
    assert found == ["results/x/seed0.json", "results/x/seed12.json", "runs/a/record.json"]
    assert images_path(Path("runs/a/record.json")) == Path("runs/a") / IMAGES_NAME
    assert images_path(Path("results/x/seed12.json")) == Path("results/x/seed12.csv")


def test_reading_records_needs_no_torch() -> None:
    code = "import sys, qgbench.run.record; assert 'torch' not in sys.modules"
    path = os.pathsep.join(filter(None, sys.path))
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, check=True)


def test_what_is_unknown_is_none() -> None:
    assert finite_or_none(math.nan) is finite_or_none(math.inf) is finite_or_none(-math.inf) is None
    assert finite_or_none(np.float64(0.25)) == 0.25


# Versions of the schema

GOLDEN = Path(__file__).parents[1] / "golden/records"
RESULTS = Path(__file__).parents[2] / "results"


def structure() -> dict[str, Any]:
    """What a record consists of: type and necessity of every field of every part, and the columns of the rows."""
    parts: dict[str, Any] = {
        "images.csv": IMAGE_COLUMNS,
        "images.csv of volumes": image_columns(volumes=True),
        "labels.csv": LABEL_COLUMNS,
    }
    waiting: list[Any] = [Record]
    while waiting:
        part = waiting.pop()
        if isinstance(part, type) and not get_args(part) and issubclass(part, BaseModel):
            types = get_type_hints(part)  # without ranges
            parts[part.__name__] = {
                name: re.sub(
                    r"(qgbench\.[\w.]+|typing)\.|Optional\[(\w+)\]",
                    lambda part: f"{part[2]} | None" if part[2] else "",
                    inspect.formatannotation(types[name]),
                )
                + ("" if field.is_required() else ", may be missing")
                for name, field in part.model_fields.items()
                if not field.exclude
            }
            waiting += [field.annotation for field in part.model_fields.values() if not field.exclude]
        waiting += get_args(part)
    return parts


def test_the_schema_is_the_one_that_is_kept_for_its_version() -> None:
    kept = json.loads((GOLDEN / f"v{SCHEMA_VERSION}/schema.json").read_text())
    assert structure() == kept, "raise SCHEMA_VERSION, add a step to migrate, and a folder to tests/golden/records"


def test_there_is_a_golden_record_of_every_version() -> None:
    versions = [f"v{version + 1}" for version in range(SCHEMA_VERSION)]
    assert sorted(path.name for path in GOLDEN.iterdir()) == ["present", *versions]  # of today's protocol
    for version in versions:
        assert f"v{json.loads((GOLDEN / version / RECORD_NAME).read_text())['schema_version']}" == version


# From images.csv by csv, statistics.fmean and math.hypot; no mask of these runs is empty.
NUMBERS = {
    1: {
        "images": 100,
        "groups": 100,
        "dice": 0.9145001701825204,
        "jaccard": 0.8487515249029659,
        "precision": 0.9427050313385769,
        "recall": 0.9019803140817888,
        "hd95": 14.29306230323394,
        "hd95_max": 16.440781310242656,
        "hd95_percent": 4.465616828029455,
        "assd": 5.103495282666944,
        "nsd_2px": 0.43092680250574267,
        "nsd_2pct": 0.7993917146216944,
        "missed": 0,
        "spurious": 0,
    },
    2: {
        "images": 120,
        "groups": 60,
        "dice": 0.5819577374489187,
        "jaccard": 0.45497070857185745,
        "precision": 0.5627201507387223,
        "recall": 0.7237871667190084,
        "hd95": 48.47995258619734,
        "hd95_max": 51.67486121888212,
        "hd95_percent": 26.781643144767536,
        "assd": 15.43155034398657,
        "nsd_2px": 0.32032629771787013,
        "nsd_2pct": 0.4403536574133306,
        "missed": 0,
        "spurious": 0,
    },
}


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION + 1))
def test_a_golden_record_of_every_version_gives_its_numbers(version: int) -> None:
    folder = GOLDEN / f"v{version}"
    record = read_record(folder)
    assert (record.schema_version, record.read_from) == (SCHEMA_VERSION, version)
    assert record.summary.numbers() == pytest.approx(NUMBERS[version], rel=1e-14)
    assert summarise(read_images(folder / IMAGES_NAME)).numbers() == pytest.approx(NUMBERS[version], rel=1e-14)
    assert (record.spec.method, record.spec.addon, record.spec.seed) == ("fixmatch", "qw", 0)
    assert record.warnings == []
    assert record.val_dice[-1] == {1: (200, 0.9032756686210632), 2: (24, 0.4511125087738037)}[version]


def test_the_golden_record_s_labels_give_its_audits() -> None:
    record, labels = read_record(GOLDEN / "v2"), read_labels(GOLDEN / "v2/labels.csv")
    assert labels["id"].nunique() * 4 == len(labels) == 336
    # From labels.csv by csv, statistics.correlation of the values and of their ranks, and statistics.fmean.
    expected = {
        0.25: ("agreement", 0.31911610652293476, 0.745632856044614, 0.6898653437278526, 0.09415070277949174),
        1.0: ("confidence", 0.5062040561738069, 0.795658228323538, 0.7972056292396477, 0.20663654775680265),
        None: ("g", 0.4397742946977295, 0.06329355574923487, 0.0625120659210017, 0.2853060527891752),
    }
    for audits in (record.pseudo_labels, audits_of(labels)):
        assert [audit.progress for audit in audits] == [0.25, 0.5, 0.75, 1.0, None]
        for audit in audits:
            if audit.progress in expected:
                score, *numbers = expected[audit.progress]
                found = audit.scores[score]
                assert [audit.mean_dice, found.pearson, found.spearman, found.mae] == pytest.approx(numbers, rel=1e-12)


# Records of schema 1


def of_schema_1(folder: Path, change: Callable[[dict[str, Any]], object]) -> Record:
    data = json.loads((GOLDEN / "v1" / RECORD_NAME).read_text())
    change(data)
    (folder / RECORD_NAME).write_text(json.dumps(data))
    return read_record(folder)


def test_every_number_of_submitted_records_is_kept() -> None:
    files = list(find_records(RESULTS))
    assert len(files) > 400
    for file in files:
        data, record = json.loads(file.read_bytes()), read_record(file)
        kept = record.model_dump(mode="json")
        summaries = {network: summary.numbers() for network, summary in record.summaries.items()}
        assert summaries == {"student": data.pop("summary"), **data.pop("others")}
        said = {**kept["spec"], "addon": record.spec.addon, "variant": record.spec.variant, "steps": record.steps}
        for name, value in (data.pop("cell") | data.pop("spec")).items():
            assert said[name] == value
        for name in ("precision", "device", "threads", "steps"):
            assert said[name] == data.pop(name)
        settings = data.pop("settings")
        again = {**kept["settings"]["protocol"], **{name: said[of] for name, of in records.SAID_BY_SPEC.items()}}
        assert settings["method"] == kept["settings"]["method"]
        assert kept["settings"]["qg"].items() <= settings["protocol"].pop("qg").items()
        for name, value in settings["protocol"].items():
            assert again[name] == value if not isinstance(value, dict) else value.items() <= again[name].items()
        assert data.pop("schema_version") == 1
        for name, value in data.items():
            assert kept[name] == value if not isinstance(value, dict) else value.items() <= kept[name].items()


def test_what_came_after_a_record_is_what_was_done_before() -> None:
    record = read_record(GOLDEN / "v1")
    assert (record.spec.processes, record.spec.source, record.settings["protocol"]["g_version"]) == (1, "", 1)
    assert (record.provenance.encoder, record.provenance.g_weights, record.near_copies) == (None, None, None)
    assert record.metrics == {}


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        ("cell.protocol", "paper", "cell.protocol is 'paper', elsewhere 'small'"),
        ("cell.protocol_version", 2, "settings.protocol.version is 1, elsewhere 2"),
        ("cell.dataset", "phantom", "cell.dataset is 'phantom', elsewhere 'ph2'"),
        ("cell.regime", "n29@grouped", "cell.regime is 'n29@grouped', elsewhere 'n28@grouped'"),
        ("cell.method", "unimatch", "cell.method is 'unimatch', elsewhere 'fixmatch'"),
        ("cell.addon", "", "cell.addon is '', elsewhere 'qw'"),
        ("cell.variant", "method.threshold=0.5", "cell.variant is 'method.threshold=0.5', elsewhere ''"),
        ("cell.encoder", "resnet34", "cell.encoder is 'resnet34', elsewhere 'tf_efficientnet_lite0'"),
        ("cell.seed", 1, "cell.seed is 1, elsewhere 0"),
        ("spec.qg_score", "confidence", "cell.addon is 'qw', elsewhere 'qw-confidence'"),
        ("spec.overrides", {"train.steps": 400}, "cell.variant is '', elsewhere 'train.steps=400'"),
        ("steps", 400, "steps is 400, elsewhere 200"),
        ("precision", "fp32", "precision is 'fp32', elsewhere 'bf16'"),
        ("device", "cuda", "device is 'cuda', elsewhere 'cpu'"),
        ("threads", 2, "threads is 2, elsewhere 1"),
        ("settings.protocol.name", "paper", "settings.protocol.name is 'paper', elsewhere 'small'"),
        ("settings.protocol.encoder", "x", "settings.protocol.encoder is 'x', elsewhere 'tf_efficientnet_lite0'"),
    ],
)
def test_a_record_of_schema_1_that_says_two_things_is_refused(
    tmp_path: Path, where: str, value: Any, said: str
) -> None:
    def change(data: dict[str, Any]) -> None:
        *parents, last = where.split(".")
        reduce(getitem, parents, data)[last] = value

    with pytest.raises(QGBenchError, match=rf"record\.json says two things: {re.escape(said)}$"):
        of_schema_1(tmp_path, change)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data.pop("cell"), "KeyError 'cell'"),
        (lambda data: data["settings"].update(protocol="small"), "AttributeError"),
        (lambda data: data["spec"].pop("method"), "method: Field required"),
        (lambda data: data["spec"].update(surplus=1), "surplus: Extra inputs are not permitted"),
        (lambda data: data["spec"].update(regime="some"), "some"),
        (lambda data: data["cell"].update(surplus=1), "AttributeError"),
        (lambda data: data["summary"].pop("dice"), "the mean of every metric"),
        (lambda data: data.update(surplus=1), "surplus"),
    ],
)
def test_what_is_no_record_of_schema_1_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    with pytest.raises(QGBenchError, match=rf"record\.json .*{re.escape(said)}"):
        of_schema_1(tmp_path, change)


# Versions of the schema, one after the other


def test_records_are_brought_up_step_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = {
        1: lambda data: data | {"schema_version": 2, "seen": ["from 1"]},
        2: lambda data: data | {"schema_version": 3, "seen": [*data["seen"], "from 2"]},
    }
    monkeypatch.setattr(records, "SCHEMA_VERSION", 3)
    monkeypatch.setattr(records, "_MIGRATIONS", steps)
    assert migrate({"schema_version": 1}) == {"schema_version": 3, "seen": ["from 1", "from 2"]}
    assert migrate({"schema_version": 2, "seen": []})["seen"] == ["from 2"]
    assert migrate({"schema_version": 3}) == {"schema_version": 3}
    with pytest.raises(QGBenchError, match="newer qgbench: schema version 4, and this one reads up to 3"):
        migrate({"schema_version": 4})


def test_every_version_has_its_step() -> None:
    assert sorted(records._MIGRATIONS) == list(range(1, SCHEMA_VERSION))


# Rows per image

names = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=8).map(str.strip)
rows = st.builds(
    image,
    id=names.filter(bool),
    group=names.filter(bool).map(lambda name: unicodedata.normalize("NFC", name)),
    height=st.integers(1, 5000),
    dice=st.floats(0, 1),
    hd95=st.floats(0, 5000) | st.just(math.nan),
    q=st.floats(0, 1) | st.just(math.nan),
    status=st.sampled_from(["ok", "missed", "spurious", "both_empty"]),
)


@settings(max_examples=60, deadline=None)
@given(data=st.lists(rows, min_size=1, max_size=5))
def test_rows_survive_being_written_and_read(tmp_path_factory: pytest.TempPathFactory, data: list[Any]) -> None:
    file = tmp_path_factory.mktemp("rows") / IMAGES_NAME
    write_images(file, table(*data))
    # Whole numbers may come back as integers; every value is the same to the last bit.
    pd.testing.assert_frame_equal(read_images(file), table(*data), check_exact=True, check_dtype=False)


def test_groups_are_composed_as_in_data(tmp_path: Path) -> None:
    write_images(tmp_path / IMAGES_NAME, table(image(id="a", group="Rene\u0301"), image(id="b", group="René")))
    assert read_images(tmp_path / IMAGES_NAME)["group"].tolist() == ["René", "René"]


@pytest.mark.parametrize("name", ["007", "1e5", "NA", "None", "nan", "null", "True", "a,b", 'a"b'])
def test_names_stay_the_names_that_they_are(tmp_path: Path, name: str) -> None:
    file = tmp_path / IMAGES_NAME
    write_images(file, table(image(id=name, group=name)))
    found = read_images(file)
    assert (found["id"][0], found["group"][0]) == (name, name)


def test_labels_survive_being_written_and_read(tmp_path: Path) -> None:
    labels = pd.DataFrame(
        {"progress": [0.25, 1.0], "id": ["NA", "007"], "class": CLASS, "dice": [1 / 3, 0.0], "mine": [math.nan, 0.1]}
    )
    write_labels(tmp_path / "labels.csv", labels)
    pd.testing.assert_frame_equal(read_labels(tmp_path / "labels.csv"), labels, check_exact=True)


def test_more_columns_are_left_out_and_their_order_is_fixed(tmp_path: Path) -> None:
    file = tmp_path / IMAGES_NAME
    shuffled = table(image()).assign(surplus=1)[["surplus", *IMAGE_COLUMNS[::-1]]]
    write_images(file, shuffled)
    assert file.read_text().splitlines()[0].split(",") == IMAGE_COLUMNS
    shuffled.to_csv(file, index=False)
    assert list(read_images(file).columns) == IMAGE_COLUMNS


@pytest.mark.parametrize("name", ["id", "dice", "confidence"])
def test_a_missing_column_is_refused_by_name(tmp_path: Path, name: str) -> None:
    file = tmp_path / IMAGES_NAME
    table(image()).drop(columns=name).to_csv(file, index=False)
    with pytest.raises(QGBenchError, match=f"lacks the columns {name}$"):
        read_images(file)


def test_a_missing_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QGBenchError, match=r"images\.csv cannot be read"):
        read_images(tmp_path / IMAGES_NAME)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.6, 0.9])
def test_a_table_cut_off_is_refused(tmp_path: Path, share: float) -> None:
    file = tmp_path / IMAGES_NAME
    write_images(file, table(*(image(id=f"image{i}", dice=i / 7) for i in range(5))))
    content = file.read_bytes()
    cut = int(share * len(content))
    assert content[cut - 1 : cut] != b"\n"  # amid a row
    file.write_bytes(content[:cut])
    with pytest.raises(QGBenchError, match=r"images\.csv"):
        read_images(file)


# Averages


def test_averages_by_hand_under_the_rule_for_empty_masks() -> None:
    summary = summarise(
        table(
            image(id="a", group="g", dice=0.6, hd95=10.0, assd=2.0),
            image(id="b", group="g", dice=0.8, hd95=20.0, hd95_max=8.0, height=60, width=80),
            empty("missed", 0.0, math.nan) | {"id": "c", "group": "h"},
            empty("missed", 0.0, math.nan) | {"id": "d", "group": "h", "height": 60, "width": 80},
            empty("spurious", 0.0, math.nan) | {"id": "e", "group": "i"},
            empty("both_empty", 1.0, 0.0) | {"id": "f", "group": "j"},
        )
    )
    expected = {
        "images": 6,
        "groups": 4,
        "dice": (0.6 + 0.8 + 0 + 0 + 0 + 1) / 6,
        "jaccard": (0.5 + 0.5 + 1) / 6,
        "precision": (0.5 + 0.5 + 1) / 6,
        "recall": (0.5 + 0.5 + 1) / 6,
        "hd95": (10 + 20 + 50 + 100 + 50 + 0) / 6,
        "hd95_max": (5 + 8 + 50 + 100 + 50 + 0) / 6,
        "hd95_percent": (20 + 20 + 100 + 100 + 100 + 0) / 6,
        "assd": (2 + 5 + 50 + 100 + 50 + 0) / 6,
        "nsd_2px": (0.5 + 0.5 + 1) / 6,
        "nsd_2pct": (0.5 + 0.5 + 1) / 6,
        "missed": 2,
        "spurious": 1,
    }
    assert summary.numbers() == pytest.approx(expected)


def test_missing_a_lesion_never_improves_an_average() -> None:
    found = summarise(table(image(), image(dice=0.01, hd95=49.0, hd95_max=49.0, assd=49.0)))
    missed = summarise(table(image(), empty("missed", 0.0, math.nan)))
    assert missed.means["dice"] < found.means["dice"]
    for name in (*DISTANCE_COLUMNS, "hd95_percent"):
        assert missed.means[name] > found.means[name]


def test_averages_are_the_same_after_the_table_was_written_and_read(tmp_path: Path) -> None:
    rows = table(*(image(id=str(i), dice=i / 7, hd95=i / 3) for i in range(7)), empty("missed", 0.0, math.nan))
    write_images(tmp_path / IMAGES_NAME, rows)
    assert summarise(read_images(tmp_path / IMAGES_NAME)) == summarise(rows)


def test_rows_of_a_part_of_the_table_are_averaged_as_they_are() -> None:
    rows = table(image(id="a", dice=0.1), image(id="b", dice=0.9), empty("missed", 0.0, math.nan))
    assert summarise(rows.iloc[1:]) == summarise(rows.iloc[1:].reset_index(drop=True))
