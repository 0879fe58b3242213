"""Volumes in files: what is read of them, and one message for each that cannot be."""

import itertools
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest

from qgbench.base.errors import UserError
from qgbench.data.images import MaskSizeError, MaskValuesError
from qgbench.data.volume_files import (
    VolumeFiles,
    as_stored,
    label_file,
    read_labels,
    read_shape,
    read_volume,
    scaled,
    stem_of,
)

SHAPE = (5, 6, 7)  # of the file: to the left, to the back, to the head


def arrays() -> tuple[np.ndarray, np.ndarray]:
    """An image without a symmetry, and a label of three values."""
    rng = np.random.default_rng(0)
    image = rng.normal(100, 20, SHAPE).astype(np.float32)
    return image, (image > 90).astype(np.uint8) + (image > 110)


def lps(spacing: tuple[float, float, float] = (1.5, 2.0, 8.0)) -> np.ndarray:
    """The affine of a file whose axes run to the patient's left, back and head."""
    return np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])


def save(file: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nifti = nibabel.Nifti1Image(array, lps() if affine is None else affine)
    nifti.header.set_xyzt_units("mm")
    nibabel.save(nifti, file)
    return file


def pair(
    folder: Path,
    image: np.ndarray,
    label: np.ndarray,
    of_image: np.ndarray | None = None,
    of_label: np.ndarray | None = None,
) -> VolumeFiles:
    files = save(folder / "v.nii.gz", image, of_image), save(folder / "v_gt.nii.gz", label, of_label)
    return VolumeFiles(files[:1], files[1:])


def test_slices_lie_along_the_third_axis_and_rows_run_to_the_back(tmp_path: Path) -> None:
    image, label = arrays()
    files = pair(tmp_path, image, label)
    assert read_shape(files) == ((7, 6, 5), (8.0, 2.0, 1.5))
    np.testing.assert_array_equal(read_labels(files), label.transpose(2, 1, 0))
    np.testing.assert_array_equal(read_volume(files), scaled(image.transpose(2, 1, 0).astype(float)))


@pytest.mark.parametrize("flips", [(), (0,), (1,), (2,), (0, 1, 2)])
def test_a_label_that_is_stored_the_other_way_round_agrees_with_its_image(tmp_path: Path, flips: tuple) -> None:
    image, label = arrays()
    turned = lps()
    for axis in flips:  # the same voxels at the same places, in another order
        turned[:3, 3] += turned[:3, axis] * (SHAPE[axis] - 1)
        turned[:3, axis] *= -1
    files = pair(tmp_path, image, np.flip(label, flips), of_label=turned)
    np.testing.assert_array_equal(read_labels(files), label.transpose(2, 1, 0))


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz", "v.h5"])
@pytest.mark.parametrize("flips", [(), (0,), (1,), (2,), (0, 1, 2)])
@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (1, 2, 0)])
def test_a_label_is_written_where_its_image_lies(tmp_path: Path, order: tuple, flips: tuple, name: str) -> None:
    image = arrays()[0]
    affine = lps()[:, [*order, 3]]
    affine[:3, list(flips)] *= -1
    if name == "v.h5":
        with h5py.File(tmp_path / name, "w") as file:
            file["image"] = image
    else:
        save(tmp_path / name, image, affine)
    files = VolumeFiles((tmp_path / name,), (tmp_path / f"label_{name}",))
    volume = np.random.default_rng(1).integers(0, 3, read_shape(files)[0]).astype(np.uint8)
    stored = as_stored(files.images[0], volume)
    assert stored.shape == SHAPE
    files.labels[0].write_bytes(label_file(files.images[0], stored))
    if name != "v.h5":
        np.testing.assert_array_equal(read_labels(files), volume)
        written = nibabel.load(files.labels[0])
        np.testing.assert_array_equal(np.asarray(written.dataobj), stored)
        np.testing.assert_array_equal(written.affine, affine)
    else:
        with h5py.File(files.labels[0]) as file:
            np.testing.assert_array_equal(file["label"], volume)
    assert files.labels[0].read_bytes() == label_file(files.images[0], stored)


def test_a_labels_header_is_its_images_but_for_type_and_display(tmp_path: Path) -> None:
    nifti = nibabel.Nifti2Image(arrays()[0][..., None], lps())
    nifti.header["cal_max"], nifti.header["descrip"] = 900, b"a scan"
    nifti.header.set_slope_inter(2, 1)
    nibabel.save(nifti, tmp_path / "v.nii")
    (tmp_path / "v_gt.nii").write_bytes(label_file(tmp_path / "v.nii", arrays()[1]))
    written = nibabel.load(tmp_path / "v_gt.nii")
    assert isinstance(written, nibabel.Nifti2Image)
    assert (written.shape, written.get_data_dtype(), bytes(written.header["descrip"]).strip(b"\0")) == (
        SHAPE,
        np.uint8,
        b"a scan",
    )
    assert float(written.header["cal_max"]) == 0
    np.testing.assert_array_equal(written.get_fdata(), arrays()[1])


def test_exchanged_axes_in_a_slice_agree_too(tmp_path: Path) -> None:
    image, label = arrays()
    files = pair(tmp_path, image, label.swapaxes(0, 1), of_label=lps()[:, [1, 0, 2, 3]])
    np.testing.assert_array_equal(read_labels(files), label.transpose(2, 1, 0))


CODES = [
    "".join(pair[place] for pair, place in zip(axes, ends, strict=True))
    for axes in itertools.permutations(("LR", "PA", "IS"))
    for ends in itertools.product((0, 1), repeat=3)
]


@pytest.mark.parametrize("cubic", [False, True])
@pytest.mark.parametrize("of_image", ["LPS", "RAS", "PIR", "SLA"])
def test_a_label_is_brought_into_the_axes_of_its_image(tmp_path: Path, of_image: str, cubic: bool) -> None:
    """Whatever the axes of either, nibabel's being turned: the same voxels have the same label."""
    _, labels = arrays()
    labels = labels[:5, :5, :5] if cubic else labels
    affine = lps()
    affine[:3, 3] = 7, -30, 100
    whole = nibabel.Nifti1Image(labels, affine)
    whole.header.set_xyzt_units("mm")

    def turned(code: str, name: str) -> Path:
        to = nibabel.orientations.axcodes2ornt(code)
        start = nibabel.io_orientation(affine)
        file = tmp_path / f"{name}_{code}.nii"
        nibabel.save(whole.as_reoriented(nibabel.orientations.ornt_transform(start, to)), file)
        return file

    image = turned(of_image, "image")
    expected = read_labels(VolumeFiles((image,), (image,)))
    assert len(CODES) == 48
    for code in CODES:
        found = read_labels(VolumeFiles((image,), (turned(code, "label"),)))
        np.testing.assert_array_equal(found, expected)
    moved = nibabel.load(turned("PIR", "label"))
    moved.affine[0, 3] += 4
    nibabel.save(nibabel.Nifti1Image(np.asanyarray(moved.dataobj), moved.affine), tmp_path / "moved.nii")
    with pytest.raises(MaskSizeError, match=r"up to 4 mm apart\. Resample the label to the image; if only the header"):
        read_labels(VolumeFiles((image,), (tmp_path / "moved.nii",)))


def test_a_sagittal_volume_is_cut_along_its_own_third_axis(tmp_path: Path) -> None:
    image, label = arrays()
    affine = np.zeros((4, 4))
    affine[1, 0], affine[2, 1], affine[0, 2], affine[3, 3] = -1.0, -1.0, -3.0, 1.0  # to the back, the feet, the left
    files = pair(tmp_path, image, label, affine, affine)
    assert read_shape(files) == ((7, 6, 5), (3.0, 1.0, 1.0))
    np.testing.assert_array_equal(read_labels(files), label.transpose(2, 1, 0))  # rows to the feet, columns to the back


def test_a_volume_without_a_usable_affine_is_read_as_it_lies(tmp_path: Path) -> None:
    image, label = arrays()
    files = VolumeFiles((save(tmp_path / "v.nii", image),), (save(tmp_path / "v_gt.nii", label),))
    for file in files.all:
        raw = bytearray(file.read_bytes())
        raw[280:328] = bytes(48)  # the header's srow
        file.write_bytes(raw)
    np.testing.assert_array_equal(read_labels(files), label.transpose(2, 1, 0))


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1.0), ("micron", 0.001), ("meter", 1000.0), ("unknown", 1.0)])
def test_spacing_is_in_mm(tmp_path: Path, unit: str, factor: float) -> None:
    nifti = nibabel.Nifti1Image(arrays()[0], lps((2.0, 3.0, 4.0)))
    nifti.header.set_xyzt_units(unit)
    nibabel.save(nifti, tmp_path / "v.nii")
    _, spacing = read_shape(VolumeFiles((tmp_path / "v.nii",), ()))
    assert spacing == pytest.approx((4 * factor, 3 * factor, 2 * factor))


def test_intensities_are_scaled_between_two_percentiles_of_the_whole_volume() -> None:
    values = np.arange(1001, dtype=float).reshape(7, 11, 13)
    low, high = np.percentile(values, (0.5, 99.5))
    assert (low, high) == (5.0, 995.0)
    found = scaled(values)
    np.testing.assert_array_equal(found.ravel()[[0, 5, 500, 995, 1000]], [0, 0, 128, 255, 255])
    np.testing.assert_array_equal(found, scaled(3 * values - 40))  # whatever the units


def test_a_speck_in_a_constant_volume_is_seen_and_a_constant_volume_is_black() -> None:
    values = np.zeros((4, 100, 100))
    assert not scaled(values).any()
    values[0, 0, 0] = 7
    assert (scaled(values)[0, 0, 0], scaled(values).sum()) == (255, 255)


def test_a_last_axis_of_one_is_let_go(tmp_path: Path) -> None:
    image, label = arrays()
    files = pair(tmp_path, image[..., None], label[..., None])
    assert read_shape(files)[0] == (7, 6, 5)
    assert read_volume(files).shape == read_labels(files).shape == (7, 6, 5)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    image, label = arrays()
    image[1, 2, 3] = value
    with pytest.raises(UserError, match=r"v\.nii\.gz holds 1 value that is no finite number \(NaN"):
        read_volume(pair(tmp_path, image, label))


def test_several_channels_are_refused(tmp_path: Path) -> None:
    image, label = arrays()
    with pytest.raises(UserError, match=r"v\.nii\.gz holds 2 volumes .times or channels., 5 x 6 x 7 x 2 voxels"):
        read_shape(pair(tmp_path, np.stack([image, image], -1), label))


def test_a_picture_is_refused(tmp_path: Path) -> None:
    image, label = arrays()
    with pytest.raises(
        UserError, match="holds one slice, 5 x 6 pixels, where a volume is expected: save volumes whole"
    ):
        read_shape(pair(tmp_path, image[..., 0], label))


@pytest.mark.parametrize("value", [0.5, np.nan])
def test_labels_that_are_not_integers_are_refused(tmp_path: Path, value: float) -> None:
    image, label = arrays()
    odd = label.astype(np.float32)
    odd[0, 0, 0] = value
    with pytest.raises(MaskValuesError, match=rf"holds 1 value that is not an integer, such as {value:g}.*nearest"):
        read_labels(pair(tmp_path, image, odd))
    if value == 0.5:
        odd[0, 0, 0] = 1.0000001
        with pytest.raises(MaskValuesError, match=r"such as 1\.0000001: .*merely inexact, round"):
            read_labels(pair(tmp_path, image, odd))
        odd[0, 0, 0] = value
    odd[0, 0, 1] = value
    with pytest.raises(MaskValuesError, match="holds 2 values that are not integers, such"):
        read_labels(pair(tmp_path, image, odd))
    whole = pair(tmp_path, image, label.astype(np.float64))
    np.testing.assert_array_equal(read_labels(whole), label.transpose(2, 1, 0))


def test_labels_below_zero_are_refused(tmp_path: Path) -> None:
    image, label = arrays()
    with pytest.raises(MaskValuesError, match="holds the value -1"):
        read_labels(pair(tmp_path, image, label.astype(np.int16) - 1))


def test_a_label_of_another_shape_is_refused(tmp_path: Path) -> None:
    image, label = arrays()
    with pytest.raises(
        MaskSizeError, match=r"v_gt.nii.gz has 6 x 6 x 5 voxels .D x H x W., and its image .* 7 x 6 x 5"
    ):
        read_labels(pair(tmp_path, image, label[:, :, 1:]))


@pytest.mark.parametrize("change", ["moved", "stretched"])
def test_a_label_that_lies_elsewhere_is_refused(tmp_path: Path, change: str) -> None:
    image, label = arrays()
    other = lps((1.5, 2.0, 9.0)) if change == "stretched" else lps()
    if change == "moved":
        other[2, 3] += 4
    apart = {"moved": "4 mm", "stretched": "6 mm"}[change]  # 6 steps of 1 mm
    with pytest.raises(MaskSizeError, match=f"does not lie where its image .* {apart} apart"):
        read_labels(pair(tmp_path, image, label, of_label=other))


def test_rounding_of_a_header_is_forgiven(tmp_path: Path) -> None:
    image, label = arrays()
    other = lps()
    other[:3, 3] += 1e-3
    assert read_labels(pair(tmp_path, image, label, of_label=other)).shape == (7, 6, 5)


def test_a_voxel_without_size_is_refused(tmp_path: Path) -> None:
    file = save(tmp_path / "v.nii", arrays()[0])
    raw = bytearray(file.read_bytes())
    raw[80:84] = np.float32(np.nan).tobytes()  # pixdim[1]
    file.write_bytes(raw)
    with pytest.raises(UserError, match=r"says that a voxel is .* mm large; mend its header"):
        read_shape(VolumeFiles((file,), ()))


def test_an_empty_a_cut_off_and_a_strange_file_are_refused_by_name(tmp_path: Path) -> None:
    whole = save(tmp_path / "v.nii.gz", arrays()[0]).read_bytes()
    plain = save(tmp_path / "v.nii", arrays()[0]).read_bytes()
    words = "damaged, cut off, or not of the kind that its suffix says"
    for name, content, said in (
        ("empty.nii.gz", b"", r"empty \(0 bytes\)"),
        ("cut.nii.gz", whole[: len(whole) // 2], words),
        ("short.nii.gz", whole[:-4], words),
        ("sum.nii.gz", whole[:-8] + bytes(4) + whole[-4:], words),
        ("cut.nii", plain[: len(plain) // 2], words),
        ("text.nii.gz", b"no volume", words),
        ("text.nii", b"no volume", words),
        ("text.h5", b"no volume", words),
    ):
        file = tmp_path / name
        file.write_bytes(content)
        with pytest.raises(UserError, match=f"{name} is {said}.*fetch it again"):
            read_volume(VolumeFiles((file,), ()))
    with pytest.raises(UserError, match=r"gone\.nii is gone"):
        read_volume(VolumeFiles((tmp_path / "gone.nii",), ()))


def test_complex_voxels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds voxels of the kind complex64"):
        read_volume(VolumeFiles((save(tmp_path / "v.nii", arrays()[0].astype(np.complex64)),), ()))


def write_hdf5(file: Path, **datasets: np.ndarray) -> Path:
    with h5py.File(file, "w") as opened:
        for name, array in datasets.items():
            opened.create_dataset(name, data=array, compression="gzip")
    return file


def test_hdf5_is_read_as_it_lies_and_has_no_spacing(tmp_path: Path) -> None:
    image, label = arrays()
    file = write_hdf5(tmp_path / "patient001_frame01.h5", image=image, label=label, scribble=label)
    files = VolumeFiles((file,), (file,))
    assert read_shape(files) == (SHAPE, None)
    np.testing.assert_array_equal(read_labels(files), label)
    np.testing.assert_array_equal(read_volume(files), scaled(image.astype(float)))


def test_slices_in_hdf5_make_the_volume_that_they_were_cut_from(tmp_path: Path) -> None:
    image, label = arrays()
    slices = tuple(write_hdf5(tmp_path / f"{z}.h5", image=image[z], label=label[z]) for z in range(SHAPE[0]))
    files = VolumeFiles(slices, slices)
    assert read_shape(files) == (SHAPE, None)
    np.testing.assert_array_equal(read_labels(files), label)
    np.testing.assert_array_equal(read_volume(files), scaled(image.astype(float)))
    write_hdf5(tmp_path / "3.h5", image=image[3, :4], label=label[3, :4])
    with pytest.raises(UserError, match=r"3\.h5 has 4 x 7 pixels, and .*0\.h5 6 x 7"):
        read_volume(files)


def test_hdf5_without_a_label_or_with_another_shape_is_refused(tmp_path: Path) -> None:
    image, label = arrays()
    bare, other = (
        write_hdf5(tmp_path / "a.h5", image=image),
        write_hdf5(tmp_path / "b.h5", image=image, label=label[1:]),
    )
    with pytest.raises(UserError, match=r"a\.h5 has no dataset 'label' \(it has: image\)"):
        read_labels(VolumeFiles((bare,), (bare,)))
    with pytest.raises(MaskSizeError, match=r"b\.h5 has 4 x 6 x 7 voxels"):
        read_labels(VolumeFiles((other,), (other,)))


def test_names_of_files_without_their_suffixes() -> None:
    names = ("a_0000.nii.gz", "B.NII", "patient001_frame01.h5", "notes.txt", "x.hdf5")
    assert [stem_of(Path(name)) for name in names] == ["a_0000", "B", "patient001_frame01", None, "x"]


def with_bytes(file: Path, place: int, *values: float) -> Path:
    """Change numbers of a header: pixdim begins at 76, srow at 280."""
    raw = bytearray(file.read_bytes())
    raw[place : place + 4 * len(values)] = np.array(values, np.float32).tobytes()
    file.write_bytes(raw)
    return file


def test_spacing_is_that_of_the_affine_and_another_in_pixdim_is_refused(tmp_path: Path) -> None:
    file = save(tmp_path / "v.nii", arrays()[0])
    with_bytes(file, 80, 1.505, 2.0, 8.0)  # rounded otherwise
    assert read_shape(VolumeFiles((file,), ()))[1] == (8.0, 2.0, 1.5)
    with_bytes(file, 80, 1.0, 1.0, 1.0)
    with pytest.raises(UserError, match=r"1\.5 x 2 x 8 mm large by its affine, and 1 x 1 x 1 mm by its pixdim"):
        read_shape(VolumeFiles((file,), ()))


def test_an_affine_of_no_numbers_is_refused(tmp_path: Path) -> None:
    file = with_bytes(save(tmp_path / "v.nii", arrays()[0]), 280, np.nan)
    with pytest.raises(UserError, match=r"v\.nii does not say where its voxels are: its affine holds NaN"):
        read_shape(VolumeFiles((file,), ()))


@pytest.mark.parametrize(("shift", "apart"), [(1.0, "1e+03 mm"), (0.1, None)])
def test_how_far_a_label_lies_from_its_image_is_in_mm(tmp_path: Path, shift: float, apart: str | None) -> None:
    image, label = arrays()
    moved = lps()
    moved[2, 3] += shift  # of 8 m a voxel
    files = pair(tmp_path, image, label, of_label=moved)
    for file in files.all:
        nifti = nibabel.load(file)
        nifti = nibabel.Nifti1Image(np.asanyarray(nifti.dataobj), nifti.affine)
        nifti.header.set_xyzt_units("meter")
        nibabel.save(nifti, file)
    if apart is None:
        assert read_labels(files).shape == (7, 6, 5)
        return
    with pytest.raises(MaskSizeError, match=f"up to {apart.replace('+', '.')} apart"):
        read_labels(files)


def test_a_label_of_another_spacing_alone_is_refused_by_its_spacing(tmp_path: Path) -> None:
    image, label = arrays()  # of one slice, whose corners lie where those of a thicker one do
    with pytest.raises(MaskSizeError, match=r"has voxels of 9 x 2 x 1\.5 mm .* of 8 x 2 x 1\.5 mm"):
        read_labels(pair(tmp_path, image[..., :1], label[..., :1], of_label=lps((1.5, 2.0, 9.0))))


def test_a_label_at_45_degrees_is_read_as_its_image_is(tmp_path: Path) -> None:
    image, label = arrays()

    def turned(degrees: float) -> np.ndarray:
        angle = np.radians(degrees)
        rotation = np.eye(4)
        rotation[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        return rotation @ lps((2.0, 2.0, 8.0))

    alone = tmp_path / "alone"
    alone.mkdir()
    for one, other in ((44.999, 45.001), (45.001, 44.999), (-45.001, -44.999)):
        files = pair(tmp_path, image, label, turned(one), turned(other))
        expected = read_labels(pair(alone, image, label, turned(one), turned(one)))
        np.testing.assert_array_equal(read_labels(files), expected)


def test_hdf5_with_a_last_axis_of_one_and_with_a_group(tmp_path: Path) -> None:
    image, label = arrays()
    file = write_hdf5(tmp_path / "a.h5", image=image[..., None], label=label[..., None])
    files = VolumeFiles((file,), (file,))
    assert read_shape(files) == (SHAPE, None)
    np.testing.assert_array_equal(read_labels(files), label)
    np.testing.assert_array_equal(read_volume(files), scaled(image.astype(float)))
    with h5py.File(tmp_path / "b.h5", "w") as opened:
        opened.create_dataset("image/t1", data=image)
    with pytest.raises(UserError, match=r"b\.h5: 'image' is a group \(t1\); expected a dataset"):
        read_shape(VolumeFiles((tmp_path / "b.h5",), ()))


def test_labels_above_any_class_are_refused(tmp_path: Path) -> None:
    image, label = arrays()
    odd = label.astype(np.float32)
    odd[0, 0, 0] = 1e30
    with pytest.raises(MaskValuesError, match=r"holds the value 1e\+30: 0 is the background"):
        read_labels(pair(tmp_path, image, odd))
    odd[0, 0, 0] = 65536  # no card can name it
    with pytest.raises(MaskValuesError, match=r"holds the value 65536: .* above it, to 65535\."):
        read_labels(pair(tmp_path, image, odd))
    odd[0, 0, 0] = 65535
    assert read_labels(pair(tmp_path, image, odd)).max() == 65535
