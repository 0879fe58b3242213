"""Splits of volumes as others publish them: lists of SSL4MIS and UniMatch, tables, names of patients."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from qgbench.base.errors import UserError
from qgbench.data.acquire.given import read_given
from qgbench.data.cards import load_card
from qgbench.data.splits import split_source
from qgbench.data.volumes import VolumeSource, slice_id

# As in ACDC: the second phase, and for one patient the first one too, has a number of its own.
FRAMES = {
    "patient001": (1, 12),
    "patient002": (1, 9),
    "patient003": (4, 11),
    "patient004": (1, 2),
    "patient005": (2, 10),
}
FRAMES |= {f"patient{n:03}": (1, 10) for n in range(6, 11)}
DEPTH = 3


class Listed(VolumeSource):
    """Volumes that nobody reads."""

    def __init__(self, same_patient: Mapping[str, str] | None = None) -> None:
        patient_of = {f"{patient}_frame{n:02}": patient for patient, frames in FRAMES.items() for n in frames}
        depths, spacings = dict.fromkeys(patient_of, DEPTH), dict.fromkeys(patient_of)
        card = load_card("acdc").model_copy(update={"same_patient": same_patient or {}})
        super().__init__(card, depths, spacings, patient_of)

    def greys(self, volume: str) -> None:
        raise AssertionError

    masks = content_key = greys


def volumes(*patients: str) -> set[str]:
    return {f"{patient}_frame{n:02}" for patient in patients for n in FRAMES[patient]}


def slices(names: set[str]) -> list[str]:
    return sorted(slice_id(name, z) for name in names for z in range(DEPTH))


def write(file: Path, lines: list[str]) -> Path:
    file.write_text("\n".join(lines) + "\n")
    return file


TRAIN, VAL, TEST = sorted(FRAMES)[:7], sorted(FRAMES)[7:8], sorted(FRAMES)[8:]


def ssl4mis(folder: Path) -> Path:
    """Frames are counted 1 and 2, slices from 1; training slices are listed one by one, in any order."""
    write(folder / "train_slices.list", [f"{p}_frame0{f}_slice_{z}" for p in TRAIN for f in (2, 1) for z in (2, 3, 1)])
    write(folder / "train.list", [f"{p}_frame0{f}" for p in TRAIN for f in (1, 2)])
    write(folder / "val.list", [f"{p}_frame0{f}" for p in VAL for f in (1, 2)])
    write(folder / "test.list", [f"{p}_frame0{f}" for p in TEST for f in (1, 2)])
    return folder


def test_lists_of_ssl4mis_are_matched_by_patient_then_by_order(tmp_path: Path) -> None:
    given = read_given([ssl4mis(tmp_path)], Listed())
    for part, patients in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        rows = given.table[given.table["split"] == part]
        assert rows["id"].tolist() == slices(volumes(*patients))
        assert set(rows["group"]) == set(patients)
    assert given.labelled is None


def test_lists_of_unimatch_name_files_and_labelled_slices(tmp_path: Path) -> None:
    lines = {p: [f"data/slices/{p}_frame0{f}_slice_{z}.h5" for f in (1, 2) for z in (1, 2, 3)] for p in TRAIN}
    files = [
        write(tmp_path / "labeled.txt", lines["patient003"] + lines["patient005"]),
        write(
            tmp_path / "unlabeled.txt",
            [line for p in TRAIN if p not in ("patient003", "patient005") for line in lines[p]],
        ),
        write(tmp_path / "val.txt", [f"data/{p}_frame0{f}.h5" for p in VAL for f in (1, 2)]),
        write(tmp_path / "test.txt", [f"data/{p}_frame0{f}.h5" for p in TEST for f in (1, 2)]),
    ]
    given = read_given(files, Listed())
    assert given.labelled == slices(volumes("patient003", "patient005"))
    assert given.table.loc[given.table["split"] == "train", "id"].tolist() == slices(volumes(*TRAIN))


def test_names_of_the_data_and_patients_mean_what_they_say(tmp_path: Path) -> None:
    """Frames 1 and 2 of patient004 are there under those numbers, and those of patient005 are 2 and 10."""
    files = [
        write(tmp_path / "train.txt", ["patient005_frame02", "patient005_frame10", "patient004_frame02", "patient001"]),
        write(tmp_path / "val.txt", ["patient004_frame01.nii.gz", *slices({"patient002_frame01"})]),
        write(tmp_path / "test.txt", ["patient003", "patient006"]),
    ]
    table = read_given(files, Listed()).table
    parts = {part: set(rows["id"].str.rpartition("_z")[0]) for part, rows in table.groupby("split")}
    assert parts == {
        "train": volumes("patient005", "patient001") | {"patient004_frame02"},
        "val": {"patient004_frame01", "patient002_frame01"},
        "test": volumes("patient003", "patient006"),
    }


def test_patients_of_the_same_pictures_are_one_group_and_each_of_their_names_means_its_own_volumes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = Listed({"patient009": "patient001"})  # one is to train on, the other to test on
    given = read_given([ssl4mis(tmp_path)], source)
    assert given.table["id"].tolist() == slices(volumes(*FRAMES))
    assert set(given.table["split"][given.table["group"] == "patient001"]) == {"train", "test"}
    assert "1 groups (patient" in caplog.text
    ours = split_source(source, "grouped", (0.4, 0.1, 0.5))
    assert ours["group"].nunique() == len(FRAMES) - 1
    assert ours.loc[ours["id"].str.startswith(("patient001", "patient009")), "split"].nunique() == 1


def test_slices_counted_from_0_are_told_by_a_slice_0(tmp_path: Path) -> None:
    ssl4mis(tmp_path)
    counted = [f"{p}_frame0{f}_slice_{z}" for p in TRAIN for f in (1, 2) for z in (0, 1, 2)]
    write(tmp_path / "train_slices.list", counted)
    assert len(read_given([tmp_path], Listed()).table) == DEPTH * 2 * len(FRAMES)


def test_a_volume_that_a_split_parts_or_does_not_name_whole_is_refused(tmp_path: Path) -> None:
    ssl4mis(tmp_path)
    (tmp_path / "train.list").unlink()
    lines = (tmp_path / "train_slices.list").read_text().splitlines()
    write(tmp_path / "train_slices.list", lines[1:])
    with pytest.raises(UserError, match=r"1 volume \(patient001_frame12\) in several parts, or leaves some out"):
        read_given([tmp_path], Listed())


def test_patients_that_are_not_there_are_named(tmp_path: Path) -> None:
    write(ssl4mis(tmp_path) / "val.list", ["patient099_frame01", "patient001_frame03"])
    with pytest.raises(UserError, match=r"2 volumes \(patient099_frame01, patient001_frame03\) not in 'acdc'"):
        read_given([tmp_path], Listed())


@pytest.mark.parametrize("apart", ["patient003_frame04", "patient003_frame04_z001"])
def test_a_patient_of_whom_some_is_labelled_is_refused(tmp_path: Path, apart: str) -> None:
    own = slices(volumes("patient003"))
    labelled = [id for id in own if id.startswith(apart)]
    files = [
        write(tmp_path / "labelled.txt", ["patient001", *labelled]),
        write(tmp_path / "unlabelled.txt", [*sorted({*own} - {*labelled}), *TRAIN[3:]]),
        write(tmp_path / "val.txt", VAL),
        write(tmp_path / "test.txt", TEST),
    ]
    with pytest.raises(UserError, match=r"only some slices of 1 patient \(patient003\) labelled"):
        read_given(files, Listed())
    write(files[0], ["patient001"])
    write(files[1], ["patient003", *TRAIN[3:]])
    assert read_given(files, Listed()).labelled == slices(volumes("patient001"))
