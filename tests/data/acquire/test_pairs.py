"""Images and masks in two folders: which are paired, and what is said where they are not."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from qgbench.base.errors import UserError
from qgbench.data.acquire.pairs import open_pairs
from qgbench.data.phantom3d import PhantomVolume, draw_patient

HEART: dict[str, int | str] = {"rv": 1, "myo": 2, "lv": 3}


def picture(file: Path, value: int = 90, size: tuple[int, int] = (40, 30)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size, value, np.uint8)).save(file)


def volume(file: Path, values: np.ndarray, drawn: PhantomVolume) -> None:
    """Write (D, H, W) as NIfTI, which is read back as it was."""
    file.parent.mkdir(parents=True, exist_ok=True)
    depth, height, width = drawn.spacing
    affine = np.diag([-width, -height, depth, 1.0])
    nibabel.save(nibabel.Nifti1Image(values.transpose(2, 1, 0), affine), file)


def test_pictures_are_paired_by_name_with_the_endings_that_masks_have(tmp_path: Path) -> None:
    for id, ending in (("a", ""), ("b", "_mask"), ("c", "_segmentation")):
        picture(tmp_path / f"images/{id}.jpg")
        picture(tmp_path / f"masks/{id}{ending}.png", 255)
    source = open_pairs(tmp_path / "images", tmp_path / "masks")
    assert source.ids == source.groups == ["a", "b", "c"]
    assert source.mask("b").all()
    (tmp_path / "groups.csv").write_text("stem,group\na,p\nb,p\nc,q\n")
    assert open_pairs(tmp_path / "images", tmp_path / "masks", groups=tmp_path / "groups.csv").groups == ["p", "p", "q"]


def nnunet(folder: Path, cases: int = 2) -> tuple[Path, Path]:
    """A folder of test images and one of predictions, as nnU-Net leaves them."""
    for case in range(cases):
        drawn = draw_patient(case, depth=4, size=32)[0]
        volume(folder / f"imagesTs/heart_{case:03}_0000.nii.gz", drawn.image, drawn)
        volume(folder / f"predictions/heart_{case:03}.nii.gz", drawn.labels, drawn)
    for name in ("dataset.json", "plans.json", "predict_from_raw_data_args.json"):
        (folder / "predictions" / name).write_text("{}")
    return folder / "imagesTs", folder / "predictions"


def test_predictions_of_nnunet_are_taken_as_they_are(tmp_path: Path) -> None:
    source = open_pairs(*nnunet(tmp_path), HEART)
    assert sorted({place.volume for place in source.volumes.values()}) == ["heart_000", "heart_001"]
    assert set(source.groups) == {"heart_000", "heart_001"}
    assert source.classes == ("rv", "myo", "lv")
    drawn = draw_patient(1, depth=4, size=32)[0]
    assert np.array_equal(source.mask("heart_001_z002"), drawn.labels[2])
    (tmp_path / "groups.csv").write_text("stem,group\nheart_000,p\nheart_001,p\n")
    assert set(open_pairs(*nnunet(tmp_path), HEART, tmp_path / "groups.csv").groups) == {"p"}


def test_labels_of_an_nnunet_training_folder_and_of_acdc_are_found_too(tmp_path: Path) -> None:
    drawn = draw_patient(0, depth=4, size=32)[0]
    volume(tmp_path / "imagesTr/heart_0000.nii.gz", drawn.image, drawn)  # a case that is called heart_0000
    volume(tmp_path / "labelsTr/heart_0000.nii.gz", drawn.labels, drawn)
    volume(tmp_path / "frames/patient001_frame01.nii.gz", drawn.image, drawn)
    volume(tmp_path / "truth/patient001_frame01_gt.nii.gz", drawn.labels, drawn)
    of = {
        name: open_pairs(tmp_path / images, tmp_path / masks, HEART).ids[0]
        for name, images, masks in (("nnunet", "imagesTr", "labelsTr"), ("acdc", "frames", "truth"))
    }
    assert of == {"nnunet": "heart_0000_z000", "acdc": "patient001_frame01_z000"}


def test_hdf5_holds_image_and_label_in_one_folder(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    drawn = draw_patient(0, depth=4, size=32)[0]
    with h5py.File(tmp_path / "case.h5", "w") as file:
        file["image"], file["label"] = drawn.image / 255, drawn.labels
    source = open_pairs(tmp_path, tmp_path, HEART)
    assert len(source.ids) == 4
    assert np.array_equal(source.mask("case_z001"), drawn.labels[1])


def test_each_mistake_is_named_in_one_message(tmp_path: Path) -> None:
    picture(tmp_path / "images/a.png")
    picture(tmp_path / "images/b.png")
    picture(tmp_path / "masks/a.png", 1)
    picture(tmp_path / "more/a.png", 1)
    picture(tmp_path / "more/b.png", 1)
    picture(tmp_path / "more/c.png", 1)
    (tmp_path / "empty").mkdir()
    images, predictions = nnunet(tmp_path)
    drawn = draw_patient(0, depth=4, size=32)[0]
    for case in ("x", "y"):
        volume(tmp_path / f"lone/{case}.nii.gz", drawn.image, drawn)
    volume(tmp_path / "lone_labels/x.nii.gz", drawn.labels, drawn)
    for channel in ("0000", "0001"):
        volume(tmp_path / f"channels/x_{channel}.nii.gz", drawn.image, drawn)
    cases: list[tuple[tuple[Path, Path], str]] = [
        ((tmp_path / "images", tmp_path / "masks"), r"1 image \(b\) of .* without a mask"),
        ((tmp_path / "images", tmp_path / "more"), r"1 mask \(c\) of .* without an image"),
        ((tmp_path / "empty", tmp_path / "masks"), "holds no images"),
        ((tmp_path / "images", tmp_path / "empty"), "holds no images"),
        ((tmp_path / "nothing", tmp_path / "masks"), "there is no folder"),
        ((images, tmp_path / "masks"), r"holds no volumes"),
        ((tmp_path / "images", predictions), "holds volumes, and .* pictures"),
        ((tmp_path / "lone", tmp_path / "lone_labels"), r"1 volume \(y\) of .* without a mask"),
        ((images, tmp_path / "lone_labels"), r"2 volumes \(heart_000, heart_001\) of .* without a mask"),
        ((tmp_path / "channels", tmp_path / "lone_labels"), r"several channels a case \(1 file \(x_0001.nii.gz\)\)"),
        ((images, images), "only HDF5 holds both"),
    ]
    for folders, said in cases:
        with pytest.raises(UserError, match=said):
            open_pairs(*folders, HEART if folders[0].name != "images" else None)
    volume(tmp_path / "lone_labels/z.nii.gz", drawn.labels, drawn)
    (tmp_path / "lone/y.nii.gz").unlink()
    with pytest.raises(UserError, match=r"1 mask \(z\) of .* without an image"):
        open_pairs(tmp_path / "lone", tmp_path / "lone_labels")
    with pytest.raises(UserError, match=r"there is no file .*absent\.csv"):
        open_pairs(images, predictions, HEART, tmp_path / "absent.csv")
    with pytest.raises(UserError, match="--classes: two classes have one value"):
        open_pairs(images, predictions, {"a": 1, "b": 1})
