"""Volumes from the command line: added as they are, listed, and labelled by patient."""

import json
import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from qgbench.data.cards import read_card
from qgbench.data.near_copies import NearCopy, warning
from qgbench.data.phantom3d import draw_patient
from qgbench.run.record import read_images, read_record
from tests.cli.test_main import call
from tests.data.test_volumes import acdc, decathlon


@pytest.mark.parametrize(
    ("words", "regime"),
    [
        (["--labelled", "4"], "n4patients@grouped"),
        (["--regime", "n4patients"], "n4patients@grouped"),
        (["--labelled", "all"], "all@grouped"),
        ([], "n3patients@grouped"),  # as the card says
    ],
)
def test_a_budget_of_volumes_counts_patients(
    words: list[str], regime: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["run", "--protocol", "smoke", "--method", "supervised", "--dataset", "phantom3d", *words, "--dry-run"]
    assert call(monkeypatch, *run) == 0
    assert json.loads(capsys.readouterr().out)["spec"]["regime"] == regime


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--labelled", "10%"], "a number of patients has labels, not a share of the slices"),
        (["--labelled", "6"], "the labelled budget is 6 patients; expected 1 to 5"),
        (["--regime", "n4@grouped"], "whose budget counts patients; write 'n4patients@grouped'"),
        (["--split", "image"], "slices of one would be trained and tested on"),
    ],
)
def test_a_budget_or_split_that_parts_patients_is_refused(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["run", "--protocol", "smoke", "--method", "supervised", "--dataset", "phantom3d", *words, "--dry-run"]
    assert call(monkeypatch, *run) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("brief_runs")
def test_a_folder_of_ssl4mis_and_its_lists_come_to_a_record(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Three patients: slices to train on, volumes to validate and to test on, as its scripts and lists have them."""
    monkeypatch.chdir(tmp_path)
    slices, volumes = tmp_path / "ssl4mis/data/slices", tmp_path / "ssl4mis/data"
    slices.mkdir(parents=True)
    named: dict[str, list[str]] = {"train_slices": [], "val": [], "test": []}
    for patient, part in enumerate(named, start=1):
        for frame, drawn in enumerate(draw_patient(patient, depth=3, size=40), start=1):
            name = f"patient{patient:03}_frame{frame:02}"
            content = {"image": (drawn.image / 255).astype(np.float32), "label": drawn.labels}
            with h5py.File(volumes / f"{name}.h5", "w") as file:
                file.update(content)
            if part != "train_slices":
                named[part].append(name)
                continue
            for place in range(3):
                with h5py.File(slices / f"{name}_slice_{place + 1}.h5", "w") as file:
                    file.update({key: values[place] for key, values in content.items()})
                named[part].append(f"{name}_slice_{place + 1}")
    for part, lines in named.items():
        (tmp_path / f"ssl4mis/{part}.list").write_text("\n".join(lines) + "\n")
    assert call(monkeypatch, "data", "add", "mine", "--from", "./ssl4mis", "--data-dir", "data") == 0
    run = ["run", "--protocol", "smoke", "--dataset", "mine", "--data-dir", "data", "--output", "runs", "--steps", "2"]
    assert call(monkeypatch, *run, "--method", "supervised", "--split-from", "ssl4mis", "--labelled", "1") == 0
    record = read_record(next((tmp_path / "runs").glob("*/record.json")))
    assert (record.classes, record.distance_unit) == (("rv", "myo", "lv"), "voxel")
    assert record.provenance.labelled_ids == [f"patient001_frame0{f}_z00{z}" for f in (1, 2) for z in range(3)]
    rows = read_images(next((tmp_path / "runs").glob("*/images.csv")))
    assert set(rows["id"]) == {"patient003_frame01", "patient003_frame02"}
    label = draw_patient(3, depth=3, size=40)[0].labels
    first = rows[rows["id"] == "patient003_frame01"].set_index("class")["n_ref"]
    assert first.to_dict() == {name: int((label == k).sum()) for k, name in enumerate(record.classes, start=1)}


def test_a_folder_of_volumes_is_added_and_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    data = ["--data-dir", str(tmp_path / "data")]
    task, heart = decathlon(tmp_path / "Task99"), acdc(tmp_path / "ACDC")
    assert call(monkeypatch, "data", "add", "liver", "--from", str(task), *data) == 0
    assert call(monkeypatch, "data", "add", "heart", "--from", str(heart), "--voxels", *data) == 0
    liver, other = (read_card(tmp_path / "data" / name / "card.toml") for name in ("liver", "heart"))
    assert (liver.title, liver.terms, liver.groups, liver.volumes) == ("Liver", "CC-BY-SA 4.0", "none known", 6)
    assert (liver.classes, liver.voxels) == ({"liver": 1, "Second_tumour": 2}, False)
    assert (other.groups, other.volumes, other.voxels, dict(other.classes)) == (
        *("patient", 12, True),
        {"rv": 1, "myo": 2, "lv": 3},
    )
    capsys.readouterr()
    assert call(monkeypatch, "data", "list", "heart", *data) == 0
    shown = capsys.readouterr().out
    assert "12 of 6 patients" in shown
    assert "any number, 48 there" in shown
    assert call(monkeypatch, "data", "list", *data) == 0
    assert "12 volumes" in capsys.readouterr().out


def test_what_a_warning_of_near_copies_says_to_type_of_volumes_does_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    data = ["--data-dir", str(tmp_path / "data")]
    assert call(monkeypatch, "data", "add", "heart", "--from", str(acdc(tmp_path / "ACDC")), "--voxels", *data) == 0
    card = read_card(tmp_path / "data" / "heart" / "card.toml")
    copy = NearCopy("patient001_frame01_z000", "test", "patient002_frame01_z000", labelled=True)
    typed = re.findall(r"'qgbench ([^']*)'", warning([copy], "heart", [], card))
    assert typed == [
        "data verify heart --write-groups groups.csv",
        "data add NEW --from heart --voxels --groups groups.csv",
    ]
    for command in typed:
        call(monkeypatch, *command.split(), *data)
    other = read_card(tmp_path / "data" / "NEW" / "card.toml")
    assert (other.volumes, other.voxels, other.classes) == (12, True, card.classes)
    plain = warning([copy], "heart", [], card.model_copy(update={"voxels": False}))
    assert "'qgbench data add NEW --from heart --groups groups.csv' then keeps copies in one part" in plain


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"a": 1, "b": 1}, "two classes have one value: a and b have 1."),
        ({"a": 70000}, "a = 70000: a class has a number from 1 to 65535"),
        ({f"c{n}": n for n in range(1, 301)}, "300 classes; at most 254 are possible."),
    ],
)
def test_classes_that_cannot_be_are_told_where_they_were_said(
    labels: dict[str, int],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    task = decathlon(tmp_path / "Task99", labels=labels)
    add = ["data", "add", "a", "--from", str(task), "--data-dir", str(tmp_path / "data")]
    assert call(monkeypatch, *add) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"dataset.json: {words}" in said
    assert "--classes" not in said
    assert call(monkeypatch, *add, "--classes", ",".join(f"{name}={value}" for name, value in labels.items())) == 2
    assert f"--classes: {words}" in " ".join(capsys.readouterr().err.split())


def test_what_is_said_of_pictures_is_refused_of_volumes_and_the_reverse(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    task, data = str(decathlon(tmp_path / "Task99")), ["--data-dir", str(tmp_path / "data")]
    assert call(monkeypatch, "data", "add", "a", "--from", task, "--masks", task, *data) == 2
    assert "leave --images, --masks and --threshold out" in capsys.readouterr().err
    assert call(monkeypatch, "data", "add", "a", "--images", task, "--voxels", *data) == 2
    assert "--voxels is said of volumes" in capsys.readouterr().err
