"""Data sets of volumes: folders as they are laid out, slices and patients, and the generated one."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pandas as pd
import pytest

from qgbench.base.errors import UserError
from qgbench.data.acquire.install import add_volumes, install_distribution, own_card
from qgbench.data.acquire.verify import joined_groups, verify
from qgbench.data.cache import prepare
from qgbench.data.cards import Card, load_card
from qgbench.data.images import MaskValuesError
from qgbench.data.phantom3d import CLASSES, LV, MYO, RV, draw_patient
from qgbench.data.readers import open_source
from qgbench.data.run_data import open_run_data
from qgbench.data.sheet import draw_sheet, slices_of
from qgbench.data.source import Slice, name_any
from qgbench.data.splits import HALF_TEST, PAPER, classes_shown, draw_patients, load_split, split_source
from qgbench.data.volume_files import scaled
from qgbench.data.volume_layouts import find_volumes
from qgbench.data.volumes import (
    FileVolumes,
    PhantomVolumes,
    counted,
    open_volumes,
    patients_of,
    slice_id,
    spacing_words,
)
from qgbench.spec.regime import Regime

FACTS = {"domain": "heart", "modality": "MR", "terms": "mine", "citation": "none"}
SPACING = (1.5, 2.0, 8.0)  # of the file's axes


def volume(name: str, values: tuple[int, ...] = (1, 2, 3), depth: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """An image (W, H, D) and its label, different for each name; every value is there."""
    rng = np.random.default_rng(sum(map(ord, name)))
    labels = rng.choice((0, *values), size=(6, 7, depth)).astype(np.uint8)
    labels[0, 0, : len(values)] = values[:depth]
    return (100 * labels + rng.normal(0, 9, labels.shape)).astype(np.float32), labels


def nifti(file: Path, array: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(array, np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1.0]))
    image.header.set_xyzt_units("mm")
    nibabel.save(image, file)


def acdc(folder: Path, patients: int = 6) -> Path:
    """As the owners lay it out: two phases of each patient, and files beside them."""
    for p in range(1, patients + 1):
        patient = f"patient{p:03}"
        for frame in (1, 8 + p):
            image, labels = volume(f"{patient}{frame}")
            nifti(folder / "database" / "training" / patient / f"{patient}_frame{frame:02}.nii.gz", image)
            nifti(folder / "database" / "training" / patient / f"{patient}_frame{frame:02}_gt.nii.gz", labels)
        nifti(folder / "database" / "training" / patient / f"{patient}_4d.nii.gz", np.stack([image, image], -1))
        (folder / "database" / "training" / patient / "Info.cfg").write_text("ED: 1\n")
    (folder / "database" / "MANDATORY_CITATION.md").write_text("cite\n")
    return folder


def decathlon(folder: Path, ending: str = "", values: tuple[int, ...] = (1, 2), **told: object) -> Path:
    for n in range(6):
        image, labels = volume(f"case{n}", values)
        nifti(folder / "imagesTr" / f"liver_{n}{ending}.nii.gz", image)
        nifti(folder / "labelsTr" / f"liver_{n}.nii.gz", labels)
    nifti(folder / "imagesTs" / "liver_9.nii.gz", image)
    (folder / "imagesTr" / "._liver_0.nii.gz").write_text("of a Mac")
    facts = {
        "name": "Liver",
        "licence": "CC-BY-SA 4.0",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "2": "Second tumour", "1": "liver"},
    }
    (folder / "dataset.json").write_text(json.dumps(facts | told))
    return folder


def ssl4mis(folder: Path, slices: bool) -> Path:
    (folder / "data" / "slices").mkdir(parents=True)
    for p in range(1, 7):
        for frame in (1, 2):
            name = f"patient{p:03}_frame{frame:02}"
            image, labels = (array.transpose(2, 1, 0) for array in volume(name))
            for z in range(4):
                with h5py.File(folder / "data" / "slices" / f"{name}_slice_{z + 1}.h5", "w") as file:
                    file["image"], file["label"] = image[z], labels[z]
            if not slices:
                with h5py.File(folder / "data" / f"{name}.h5", "w") as file:
                    file["image"], file["label"] = image, labels
    return folder


def card(**facts: object) -> Card:
    plain = {"name": "mine", "title": "", "kind": "labelled", "groups": "patient", "homepage": "", "volumes": 12}
    return Card.model_validate({**plain, **FACTS, "classes": {"rv": 1, "myo": 2, "lv": 3}, **facts})


def test_acdc_as_its_owners_lay_it_out(tmp_path: Path) -> None:
    source = open_volumes(card(), acdc(tmp_path))
    assert counted(source) == (12, 6)
    assert source.ids == sorted(source.ids)
    assert source.ids[:5] == [*(f"patient001_frame01_z{z:03}" for z in range(4)), "patient001_frame09_z000"]
    assert source.groups[:9] == ["patient001"] * 8 + ["patient002"]
    assert source.volumes[source.ids[5]] == Slice("patient001_frame09", 1, (8.0, 2.0, 1.5))
    image, labels = (array.transpose(2, 1, 0) for array in volume("patient0019"))
    assert source.mask("patient001_frame09_z001").dtype == np.uint8
    np.testing.assert_array_equal(source.mask("patient001_frame09_z001"), labels[1])
    np.testing.assert_array_equal(
        source.image("patient001_frame09_z001"), np.repeat(scaled(image.astype(float))[1][..., None], 3, -1)
    )
    assert spacing_words(source) == "8 x 2 x 1.5 mm (between slices, down, across)"


def test_a_card_may_say_that_the_spacing_is_not_the_true_one(tmp_path: Path) -> None:
    source = open_volumes(card(voxels=True), acdc(tmp_path))
    assert {place.spacing for place in source.volumes.values()} == {None}
    assert spacing_words(source) == "not known: distances are in voxels"


@pytest.mark.parametrize("ending", ["", "_0000"])
def test_folders_of_decathlon_and_nnunet(tmp_path: Path, ending: str) -> None:
    found = find_volumes(decathlon(tmp_path / "x" / "Task99", ending).parent)
    assert found is not None
    assert list(found.volumes) == [f"liver_{n}" for n in range(6)]
    assert found.classes == {"liver": 1, "Second_tumour": 2}
    assert list(found.classes) == ["liver", "Second_tumour"]
    assert found.facts == {"title": "Liver", "terms": "CC-BY-SA 4.0"}
    assert (found.patients["liver_3"], found.has_patients) == ("liver_3", False)


def test_nnunet_maps_names_to_values(tmp_path: Path) -> None:
    labels = {"background": 0, "tumour": 4, "organ": 1}
    found = find_volumes(decathlon(tmp_path, labels=labels, channel_names={"0": "MR"}))
    assert found is not None
    assert list(found.classes.items()) == [("organ", 1), ("tumour", 4)]


@pytest.mark.parametrize("slices", [True, False])
def test_hdf5_of_ssl4mis_in_slices_or_whole(tmp_path: Path, slices: bool) -> None:
    source = open_volumes(card(), ssl4mis(tmp_path, slices))
    assert counted(source) == (12, 6)
    assert source.volumes["patient002_frame02_z003"] == Slice("patient002_frame02", 3, None)
    labels = volume("patient002_frame02")[1].transpose(2, 1, 0)
    np.testing.assert_array_equal(source.mask("patient002_frame02_z003"), labels[3])


def spoil_channel(folder: Path) -> None:
    shutil.copy(folder / "imagesTr" / "liver_0.nii.gz", folder / "imagesTr" / "liver_0_0001.nii.gz")


def spoil_json(folder: Path, **told: object) -> None:
    facts = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(facts | told))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_channel, r"several channels a case \(1 file \(liver_0_0001\.nii\.gz\)\)"),
        (
            lambda folder: (folder / "labelsTr" / "liver_1.nii.gz").unlink(),
            r"1 volume \(liver_1\) of .* without a label",
        ),
        (
            lambda folder: (folder / "imagesTr" / "liver_1.nii.gz").unlink(),
            r"1 label \(liver_1\) of .* without an image",
        ),
        (lambda folder: (folder / "labelsTr" / "p.PNG").touch(), r"pictures beside volumes \(1 file \(p\.PNG\)\)"),
        (lambda folder: shutil.rmtree(folder / "labelsTr"), "there is no folder .*labelsTr beside imagesTr"),
        (lambda folder: shutil.copytree(folder, folder / "again"), "holds several data sets"),
        (lambda folder: (folder / "dataset.json").write_text("{"), r"dataset\.json is not understood"),
        (lambda folder: (folder / "dataset.json").write_text("[]"), r"dataset\.json is not understood"),
        (lambda folder: spoil_json(folder, modality={"0": "T1", "1": "T2"}), r"tells of 2 channels \(T1, T2\)"),
        (lambda folder: spoil_json(folder, labels={"background": 0, "all": [1, 2]}), "labels that overlap"),
        (
            lambda folder: spoil_json(folder, labels={"background": 0, "a": 1, "ignore": 2}),
            "to be ignored .2. is not read",
        ),
        (lambda folder: spoil_json(folder, labels={"background": 0, "a": "x"}), "'a' has the value 'x'"),
        (lambda folder: spoil_json(folder, labels={"a b": 1, "a/b": 2}), "two labels are called 'a_b'"),
    ],
)
def test_a_folder_that_is_not_as_it_should_be_is_told_once(
    tmp_path: Path, spoil: Callable[[Path], object], words: str
) -> None:
    spoil(decathlon(tmp_path / "Task99"))
    with pytest.raises(UserError, match=words):
        find_volumes(tmp_path / "Task99")


def test_a_missing_slice_and_a_second_copy_are_told(tmp_path: Path) -> None:
    (ssl4mis(tmp_path / "a", True) / "data" / "slices" / "patient001_frame01_slice_2.h5").unlink()
    with pytest.raises(UserError, match=r"lacks 1 slice \(patient001_frame01_slice_2\)"):
        find_volumes(tmp_path / "a")
    shutil.copytree(acdc(tmp_path / "b") / "database", tmp_path / "b" / "copy")
    with pytest.raises(UserError, match="are both the volume 'patient001_frame01'"):
        find_volumes(tmp_path / "b")


def test_a_folder_without_volumes_is_none_of_them(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    assert find_volumes(tmp_path) is None
    with pytest.raises(UserError, match=r"there are no volumes in .*; expected imagesTr/"):
        open_volumes(card(), tmp_path)


def test_values_become_the_numbers_of_classes_in_the_order_of_the_card(tmp_path: Path) -> None:
    folder = decathlon(tmp_path, values=(1, 4))
    source = open_volumes(card(classes={"tumour": 4, "organ": 1}), folder)
    labels = volume("case0", (1, 4))[1].transpose(2, 1, 0)
    np.testing.assert_array_equal(source.mask("liver_0_z002"), np.select([labels[2] == 4, labels[2] == 1], [1, 2]))


def test_a_value_that_no_class_has_is_named_with_its_share(tmp_path: Path) -> None:
    source = open_volumes(card(classes={"rv": 1, "lv": 3}), acdc(tmp_path))
    share = (volume("patient0011")[1] == 2).mean()
    with pytest.raises(
        MaskValuesError, match=rf"1 value \(2\) that no class has \({share:.2%} of the voxels\).*rv=1, lv=3"
    ):
        source.mask("patient001_frame01_z000")


def test_one_class_is_a_mask_of_true_and_false(tmp_path: Path) -> None:
    folder = decathlon(tmp_path, values=(7,))
    for classes in ({}, {"liver": 7}):
        mask = open_volumes(card(classes=classes), folder).mask("liver_0_z001")
        assert mask.dtype == np.bool_
        np.testing.assert_array_equal(mask, volume("case0", (7,))[1][:, :, 1].T == 7)
    with pytest.raises(MaskValuesError, match=r"2 values \(1, 2\) beside 0: name the classes \(--classes"):
        open_volumes(card(classes={}), decathlon(tmp_path / "two")).mask("liver_0_z001")


def test_a_table_names_patients(tmp_path: Path) -> None:
    folder = decathlon(tmp_path)
    rows = [f"liver_{n},{'left' if n < 3 else 'right'}" for n in range(6)]
    (folder / "groups.csv").write_text("\n".join(["stem,group", *rows]))
    source = open_volumes(card(classes={"a": 1, "b": 2}), folder)
    assert counted(source) == (6, 2)
    for wrong in ("liver_0.nii.gz", "liver_0_0000"):
        (folder / "groups.csv").write_text("\n".join(["stem,group", f"{wrong},a", *rows[1:]]))
        with pytest.raises(UserError, match=rf"1 volume \({wrong}\) listed that .* is called liver_0 and the like, "):
            open_volumes(card(classes={"a": 1, "b": 2}), folder)
    (folder / "groups.csv").write_text("\n".join(["stem,group", *rows[1:]]))
    with pytest.raises(UserError, match=r"1 volume \(liver_0\) not listed"):
        open_volumes(card(classes={"a": 1, "b": 2}), folder)


def test_patients_and_volumes_that_are_written_in_two_ways_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = decathlon(tmp_path / "Task99") / "groups.csv"
    found = find_volumes(table.parent)
    assert found is not None
    patients = ("Bob", "bob", "007", "7", "Ann", "Ann")
    table.write_text("\n".join(["stem,group", *(f"liver_{n},{patient}" for n, patient in enumerate(patients))]))
    assert len(set(patients_of(found, table).values())) == 5
    assert "count as different ones, in 2 cases ('007' and '7', 'Bob' and 'bob')" in caplog.text
    caplog.clear()
    assert patients_of(found, None) == found.patients
    assert not caplog.records
    folder = next(acdc(tmp_path / "ACDC").rglob("patient006"))
    for file in folder.glob("*_frame14*"):
        file.rename(file.with_name(file.name.replace("patient006", "Patient006")))
    heart = find_volumes(tmp_path / "ACDC")
    assert heart is not None
    patients_of(heart, None)
    assert "in 1 case ('Patient006' and 'patient006')" in caplog.text
    for file in folder.glob("*_frame01*"):
        shutil.copy(file, file.with_name(file.name.replace("patient006", "PATIENT006")))
    with pytest.raises(UserError, match=r"006_frame01\.nii\.gz differ in nothing but case"):
        find_volumes(tmp_path / "ACDC")


def test_a_volume_is_decoded_once_for_all_its_slices_and_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_volumes(card(), acdc(tmp_path))
    expected = [source.mask(id) for id in source.ids]
    source = pickle.loads(pickle.dumps(source))
    read: list[str] = []
    whole = FileVolumes.masks
    monkeypatch.setattr(FileVolumes, "masks", lambda self, name: read.append(name) or whole(self, name))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(source.mask, source.ids))
    assert sorted(read) == sorted(source.files)
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def test_the_key_is_of_bytes_and_classes(tmp_path: Path) -> None:
    folder = acdc(tmp_path)
    key = open_volumes(card(), folder).content_key()
    assert open_volumes(card(title="another"), folder).content_key() == key
    assert open_volumes(card(classes={"rv": 1, "lv": 3, "myo": 2}), folder).content_key() != key
    image, _ = volume("other")
    nifti(next(folder.rglob("patient003_frame01.nii.gz")), image)
    assert open_volumes(card(), folder).content_key() != key


# The data folder


def test_a_folder_is_added_as_it_is_and_runs(tmp_path: Path) -> None:
    found = find_volumes(decathlon(tmp_path / "Task99"))
    assert found is not None
    data = tmp_path / "data"
    data.mkdir()
    own = own_card("mine", "Mine", "none known", False, FACTS, None, found.classes)
    add_volumes(own, found, None, False, data)
    assert sorted(path.relative_to(data / "mine").as_posix() for path in (data / "mine").rglob("*.*")) == sorted(
        ["card.toml", "dataset.json"]
        + [f"{part}/liver_{n}.nii.gz" for part in ("imagesTr", "labelsTr") for n in range(6)]
    )
    source = open_source("mine", data)
    assert (source.classes, counted(source)) == (("liver", "Second_tumour"), (6, 6))
    assert source.card.spacing == "8 x 2 x 1.5 mm (between slices, down, across)"
    run = open_run_data("mine", Regime.parse("n1patients"), 0, 16, HALF_TEST, data)
    assert run.task.classes == source.classes
    assert run.prepared.volumes is not None
    assert run.prepared.volumes[5] == source.volumes[source.ids[5]]
    assert len(run.training.labelled) == len(run.training.unlabelled) == 4  # slices of one patient each
    assert {id.partition("_z")[0] for id in run.training.labelled.ids} < set(found.volumes)
    assert not set(run.training.labelled.ids) & set(run.training.unlabelled.ids)
    np.testing.assert_array_equal(run.prepared.original_mask(3), source.mask(source.ids[3]))


def test_own_patients_and_voxels_are_kept_beside_the_volumes(tmp_path: Path) -> None:
    table = tmp_path / "patients.csv"
    table.write_text("\n".join(["stem,group", *(f"liver_{n},p{n // 2}" for n in range(6))]))
    found = find_volumes(decathlon(tmp_path / "Task99"))
    assert found is not None
    data = tmp_path / "data"
    data.mkdir()
    own = own_card("mine", "Mine", "patient", False, FACTS, None, found.classes)
    add_volumes(own, found, table, True, data)
    source = open_source("mine", data)
    assert (counted(source), source.volumes[source.ids[0]].spacing) == ((6, 3), None)
    assert source.card.spacing == "not known: distances are in voxels"


def test_a_label_that_cannot_be_read_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = decathlon(tmp_path / "Task99", values=(1, 2, 5))
    found = find_volumes(folder)
    assert found is not None
    data = tmp_path / "data"
    data.mkdir()
    with pytest.raises(MaskValuesError, match=r"1 value \(5\) that no class has"):
        add_volumes(own_card("mine", "", "x", False, FACTS, None, found.classes), found, None, False, data)
    assert not (data / "mine").exists()


def test_of_many_classes_a_message_names_a_few(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = find_volumes(decathlon(tmp_path / "Task99"))
    assert found is not None
    data = tmp_path / "data"
    data.mkdir()
    many = own_card("many", "", "x", False, FACTS, None, {f"c{n}": n for n in range(1, 255)})
    add_volumes(many, found, None, False, data)
    assert "no label shows c3, c4, c5, c6, c7 or any of 247 others: is the value right?" in caplog.text
    caplog.clear()
    open_run_data("many", Regime.parse("n1patients"), 0, 16, HALF_TEST, data)
    assert "shows c3, c4, c5, c6, c7 or any of 247 others at 16 x 16 pixels" in caplog.text
    odd = own_card("odd", "", "x", False, FACTS, None, {f"c{n}": n for n in range(2, 256)})
    with pytest.raises(MaskValuesError, match=r"the classes are c2=2, c3=3, c4=4, c5=5, c6=6 and 249 more\. Mend"):
        add_volumes(odd, found, None, False, data)
    assert name_any(["a"]) == "a"
    assert name_any([*"abcdef"]) == "a or b or c or d or e or f"


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_an_image_that_no_run_could_read_is_refused_when_it_is_added(tmp_path: Path, value: float) -> None:
    folder = decathlon(tmp_path / "Task99")
    image, _ = volume("case3")
    image[1, 2, 3] = value
    nifti(folder / "imagesTr" / "liver_3.nii.gz", image)
    found = find_volumes(folder)
    assert found is not None
    data = tmp_path / "data"
    data.mkdir()
    with pytest.raises(UserError, match=r"liver_3\.nii\.gz holds .* no finite number"):
        add_volumes(own_card("mine", "", "x", False, FACTS, None, found.classes), found, None, False, data)
    assert not (data / "mine").exists()


def test_a_partial_folder_and_a_constant_volume_are_warned_of_when_they_are_added(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    added = own_card("mine", "", "x", False, FACTS, None, {"liver": 1, "tumour": 2})
    for number, is_told in ((8, True), (6, False), ("six", False)):
        folder = decathlon(tmp_path / f"{number}", numTraining=number)
        data = tmp_path / f"data{number}"
        data.mkdir()
        caplog.clear()
        add_volumes(added, find_volumes(folder), None, False, data)  # type: ignore[arg-type]  # a folder was found
        words = f"{folder}/dataset.json says numTraining 8, and there are 6 volumes with labels"
        assert (words in caplog.text) == ("numTraining" in caplog.text) == is_told
        assert "every voxel" not in caplog.text
    nifti(folder / "imagesTr" / "liver_4.nii.gz", np.full((6, 7, 4), 13.5, np.float32))
    shutil.rmtree(data / "mine")
    add_volumes(added, find_volumes(folder), None, False, data)  # type: ignore[arg-type]  # a folder was found
    assert "1 volume (liver_4) with one and the same value in every voxel" in caplog.text


def test_shipped_volumes_are_installed_from_a_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = tmp_path / "data"
    data.mkdir()
    install_distribution(load_card("acdc"), [acdc(tmp_path / "ACDC")], data)
    assert counted(open_source("acdc", data)) == (12, 6)
    assert "'acdc' has 12 volumes; its card expects 200" in caplog.text


def test_a_folder_of_volumes_that_was_not_added_says_how(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds volumes; bring them in: qgbench data add NAME --from"):
        open_source(str(decathlon(tmp_path / "Task99")))


def test_verification_looks_at_volumes(tmp_path: Path) -> None:
    """A volume without any label, one that cannot be read, and two that are one; each is told once."""
    folder = acdc(tmp_path / "mine")
    files = sorted(folder.rglob("*_frame01.nii.gz"))
    shutil.copy(files[0], files[5])
    nifti(files[1].with_name(files[1].name.replace("frame01", "frame01_gt")), np.zeros((6, 7, 4), np.uint8))
    nifti(files[2], np.full((6, 7, 4), np.nan, np.float32))
    (folder / "card.toml").write_text(
        'name = "mine"\ntitle = ""\nkind = "labelled"\ndomain = ""\nmodality = ""\nterms = ""\ncitation = ""\n'
        'homepage = ""\ngroups = "patient"\nvolumes = 12\n[classes]\nrv = 1\nmyo = 2\nlv = 3\n'
    )
    found = verify([str(folder)], None, "grouped", HALF_TEST)
    of = {finding.rule: finding for finding in found}
    assert of["volumes"].text == (
        "12 of 6 groups (patient), 48 slices; spacing 8 x 2 x 1.5 mm (between slices, down, across)"
    )
    assert [finding.images for finding in found if finding.rule == "empty mask"] == [("patient002_frame01",)]
    assert [finding.images for finding in found if finding.rule == "unreadable image"] == [("patient003_frame01",)]
    copies = [finding for finding in found if finding.rule == "exact copy"]
    assert [finding.images for finding in copies] == [("patient001_frame01", "patient006_frame01")]
    joined = joined_groups(open_source(str(folder)), found)
    assert joined["patient006_frame01"] == joined["patient001_frame09"] == "patient001"
    assert len(joined) == 12


def test_a_sheet_draws_the_slices_of_a_volume(tmp_path: Path) -> None:
    source = PhantomVolumes(patients=2)
    ids = slices_of(source, ["p01_1", "p00_0_z003"])
    assert ids == [*(slice_id("p01_1", z) for z in range(8)), "p00_0_z003"]
    draw_sheet(source, ids, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 10_000


# Splits and budgets


def test_patients_are_dealt_out_and_volumes_stay_whole() -> None:
    source = PhantomVolumes()
    for fractions, patients in ((HALF_TEST, (5, 1, 6)), (PAPER, (8, 1, 3))):
        split = load_split(source, "grouped", fractions)
        assert load_split("phantom3d", "grouped", fractions).equals(split)
        assert split["id"].tolist() == source.ids
        assert (split.groupby("group")["split"].nunique() == 1).all()
        of_part = split.groupby("split")["group"].nunique()
        assert tuple(of_part[part] for part in ("train", "val", "test")) == patients
    with pytest.raises(UserError, match="'phantom3d' is volumes: slices of one would be trained and tested on"):
        load_split(source, "image")


def test_the_committed_split_is_the_one_that_is_drawn(tmp_path: Path) -> None:
    from qgbench.data.splits import lesion_areas

    source = PhantomVolumes()
    areas = lesion_areas(prepare(source, 96, tmp_path))
    assert split_source(source, "grouped", PAPER, areas=areas).equals(load_split(source, "grouped", PAPER))


@pytest.mark.parametrize(("name", "patients", "slices"), [("acdc", 99, 1902), ("hippocampus", 260, 9270)])
def test_committed_splits_of_patients(name: str, patients: int, slices: int) -> None:
    shares = {HALF_TEST: (0.4, 0.1, 0.5), PAPER: (0.7, 0.1, 0.2)}
    for fractions, expected in shares.items():
        split = load_split(name, "grouped", fractions)
        assert (len(split), split["group"].nunique(), split["id"].is_unique) == (slices, patients, True)
        numbers = split.groupby("split")["group"].nunique()
        for part, share in zip(("train", "val", "test"), expected, strict=True):
            assert abs(numbers[part] - patients * share) <= 0.5
        assert (split.groupby("group")["split"].nunique() == 1).all()


@pytest.mark.real
@pytest.mark.parametrize("name", ["acdc", "hippocampus"])
def test_committed_splits_fit_the_real_volumes(name: str) -> None:
    if "QGBENCH_DATA" not in os.environ:
        pytest.skip("QGBENCH_DATA is not set")
    source = open_source(name)
    for fractions in (HALF_TEST, PAPER):
        assert load_split(source, "grouped", fractions)["id"].tolist() == source.ids
    middle = source.ids[len(source.ids) // 2]
    assert source.mask(middle).shape == source.image(middle).shape[:2]
    assert (source.volumes[middle].spacing is None) == (name == "acdc")


def test_a_draw_takes_all_slices_of_a_patient_and_a_smaller_one_is_its_beginning() -> None:
    train = load_split("acdc", "grouped", PAPER).query("split == 'train'")
    drawn = draw_patients(train, 7, "acdc", 0)
    assert len({id[:10] for id in drawn}) == 7
    assert set(drawn) == set(train.loc[train["group"].isin({id[:10] for id in drawn}), "id"])
    assert (
        draw_patients(train.sample(frac=1, random_state=0), 3, "acdc", 0)
        == drawn[: len(draw_patients(train, 3, "acdc", 0))]
    )
    assert draw_patients(train, 7, "acdc", 1) != drawn
    with pytest.raises(UserError, match="the labelled budget is 70 patients; expected 1 to 69"):
        draw_patients(train, 70, "acdc", 0)


@pytest.mark.parametrize("k", range(6))
def test_labelled_patients_show_every_class_that_one_shows(k: int, tmp_path: Path) -> None:
    train = pd.DataFrame({"id": [f"p{n:02}_z{z:03}" for n in range(12) for z in range(3)]})
    train["group"] = train["id"].str[:3]
    shown = {id: {"organ"} if id.endswith("z001") else set[str]() for id in train["id"]}
    plain = list(dict.fromkeys(id[:3] for id in draw_patients(train, 12, "mine", k)))
    assert draw_patients(train, 5, "mine", k, shown) == draw_patients(train, 5, "mine", k)  # each shows every class
    shown[f"{plain[9]}_z002"] = {"rare"}
    shown[f"{plain[7]}_z000"] = {"tumour"}
    shown[f"{plain[8]}_z000"] = {"tumour", "organ"}
    drawn = [list(dict.fromkeys(id[:3] for id in draw_patients(train, n, "mine", k, shown))) for n in range(1, 13)]
    first = [plain[0], plain[7], plain[9]]
    assert drawn[-1] == first + [patient for patient in plain if patient not in first]
    assert all(fewer == drawn[-1][: len(fewer)] for fewer in drawn)
    heart = load_split("phantom3d").query("split == 'train'")
    of_heart = classes_shown(prepare(PhantomVolumes(), 32, tmp_path))
    assert of_heart is not None
    for n in (1, 3):
        assert draw_patients(heart, n, "phantom3d", k, of_heart) == draw_patients(heart, n, "phantom3d", k)


def test_a_run_on_volumes_labels_patients_that_show_every_class(tmp_path: Path) -> None:
    folder = decathlon(tmp_path / "Task99", values=(1,))
    for n in range(6, 14):
        for part, array in zip(("imagesTr", "labelsTr"), volume(f"case{n}", (1,)), strict=True):
            nifti(folder / part / f"liver_{n}.nii.gz", array)
    found = find_volumes(folder)
    assert found is not None
    data = tmp_path / "data"
    data.mkdir()
    add_volumes(own_card("mine", "", "x", False, FACTS, None, found.classes), found, None, False, data)
    for part, array in zip(("imagesTr", "labelsTr"), volume("case0", (1, 2)), strict=True):
        nifti(data / "mine" / part / "liver_8.nii.gz", array)
    for seed in range(3):
        labelled = open_run_data("mine", Regime.parse("n2patients"), seed, 16, HALF_TEST, data).training.labelled
        patients = {id.partition("_z")[0] for id in labelled.ids}
        assert (len(patients), "liver_8" in patients) == (2, True)  # the one that shows the second class


def test_a_regime_counts_patients_of_volumes_alone() -> None:
    regime = Regime.parse("7patients@grouped")
    assert (str(regime), regime.patients, regime.budget) == ("n7patients@grouped", True, 7)
    assert Regime.parse("n7").of_volumes() == regime
    assert str(Regime.parse("all").of_volumes()) == "all@grouped"
    with pytest.raises(UserError, match="of volumes a number of patients has labels, not a share"):
        Regime.parse("10%").of_volumes()
    with pytest.raises(UserError, match="labels nothing: its budget is 0"):
        Regime.parse("n0patients")
    for regime_text, dataset, words in (
        ("n3", "phantom3d", "'phantom3d' is volumes, whose budget counts patients; write 'n3patients@grouped'"),
        ("n3patients", "phantom", "'phantom' is pictures, whose budget counts images; write 'n3@grouped'"),
    ):
        with pytest.raises(UserError, match=words):
            open_run_data(dataset, Regime.parse(regime_text), 0, 32, HALF_TEST)


# The generated volumes


def test_the_phantom_is_a_heart_of_three_classes_that_touch() -> None:
    for patient in range(12):
        first, second = draw_patient(patient)
        assert first.spacing == second.spacing
        assert first.spacing[0] > 4 * first.spacing[1]
        areas = [[int((phase.labels == label).sum()) for label in (RV, MYO, LV)] for phase in (first, second)]
        assert min(areas[0] + areas[1]) > 100
        assert areas[1][2] < areas[0][2]  # the left cavity shrinks
        for labels in (*first.labels, *second.labels):
            around_left = np.zeros_like(labels, bool)
            left = labels == LV
            around_left[1:] |= left[:-1]
            around_left[:-1] |= left[1:]
            around_left[:, 1:] |= left[:, :-1]
            around_left[:, :-1] |= left[:, 1:]
            assert set(np.unique(labels[around_left & ~left])) <= {MYO}  # the wall closes around it
    whole = draw_patient(0)[0].labels[4]
    assert (whole[:, 1:] == MYO)[whole[:, :-1] == RV].any()  # the right cavity touches the wall


def test_the_phantom_is_the_same_every_time_and_another_for_another_seed() -> None:
    again = [draw_patient(3), draw_patient(3)]
    for one, other in zip(*again, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.labels, other.labels)
    assert not np.array_equal(draw_patient(3)[0].image, draw_patient(3, seed=1)[0].image)
    source = PhantomVolumes()
    assert source.classes == CLASSES
    assert (len(source.ids), *counted(source)) == (192, 24, 12)
    assert source.content_key() == PhantomVolumes().content_key() != PhantomVolumes(seed=1).content_key()
    np.testing.assert_array_equal(source.mask("p03_1_z004"), again[0][1].labels[4])
    np.testing.assert_array_equal(source.image("p03_1_z004")[..., 2], again[0][1].image[4])
    assert source.volumes["p03_1_z004"].spacing == again[0][0].spacing


def test_a_folder_of_the_right_layout_in_another_format_is_told_so(tmp_path: Path) -> None:
    for part in ("imagesTr", "labelsTr"):
        (tmp_path / "Task99" / part).mkdir(parents=True)
        (tmp_path / "Task99" / part / "a.mha").write_text("another format")
    with pytest.raises(UserError, match=r"imagesTr holds no \.nii or \.nii\.gz file; other formats are not read"):
        find_volumes(tmp_path)


def test_a_name_that_no_class_can_have_is_told_with_what_to_type(tmp_path: Path) -> None:
    found = find_volumes(decathlon(tmp_path, labels={"background": 0, "mean": 1, "rest": 2}))
    assert found is not None
    with pytest.raises(UserError, match=r"dataset\.json: the label 1 is called 'mean', .* --classes class1=1,rest=2"):
        found.named_classes()


def test_few_patients_are_warned_of_and_refused_by_their_number(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = find_volumes(acdc(tmp_path / "raw", patients=4))
    assert found is not None
    add_volumes(own_card("few", "", "patient", False, FACTS, None, found.classes), found, None, False, tmp_path)
    assert "'few' has 4 patients; a split needs 5 or more" in caplog.text
    with pytest.raises(UserError, match=r"'few' has 4 patients; a split needs 5 .* 2 to test on\): add patients\.$"):
        load_split(open_source("few", tmp_path))


def test_absent_volumes_are_not_asked_for_as_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QGBENCH_DATA", raising=False)
    for data_dir in (None, tmp_path):
        with pytest.raises(UserError, match="'qgbench data list acdc' says") as caught:
            open_source("acdc", data_dir)
        assert "images/" not in str(caught.value)
