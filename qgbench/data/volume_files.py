"""Read volumes, and write their labels: NIfTI (``.nii``, ``.nii.gz``) and HDF5.

HDF5 is as SSL4MIS writes it: datasets ``image`` and ``label``.

Arrays are (D, H, W). Of NIfTI, slices lie along the third axis of the image's file, whatever the anatomy: D runs
towards the head, the left or the back of the patient. In a slice, rows run towards the feet or the back and columns
towards the left or the back. A label is brought into its image's axes, however its file stores its own, before shape
and place are compared. HDF5 says nothing of axes: as it is.

Intensities are scaled by volume: its 0.5 percentile becomes 0 and its 99.5 percentile 255, what lies beyond is cut off.
Spacing is in mm, that of the affine; where pixdim has another, the file is refused. So are volumes of more than three
dimensions, values that are no numbers, and labels that are no integers or lie elsewhere than their image.
"""

import gzip
import io
import itertools
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qgbench.base.errors import UserError, unreadable
from qgbench.data.cards import LARGEST_VALUE
from qgbench.data.images import MaskSizeError, MaskValuesError

NIFTI_SUFFIXES = (".nii.gz", ".nii")
HDF5_SUFFIXES = (".h5", ".hdf5")
Spacing = tuple[float, float, float]

_PERCENTILES = (0.5, 99.5)
_MM = {"mm": 1.0, "meter": 1000.0, "micron": 0.001, "unknown": 1.0}
_FAR = 0.1  # voxels: corners of an image and its label that are further apart do not agree
_OTHER_SIZE = 0.01  # as a share: sizes of a voxel by affine and by pixdim that differ by more contradict each other
_CHUNK = 1 << 24  # bytes
_DAMAGE = (OSError, EOFError, ValueError, KeyError, RuntimeError, zlib.error, struct.error)


@dataclass(frozen=True)
class VolumeFiles:
    """The files of one volume.

    Attributes
    ----------
    images : tuple of Path
        One file, or one a slice in the order of D.
    labels : tuple of Path
        The same for its label; in HDF5 these are the image's files. Empty where there is none.
    """

    images: tuple[Path, ...]
    labels: tuple[Path, ...]

    @property
    def all(self) -> tuple[Path, ...]:
        """Every file once."""
        return tuple(dict.fromkeys((*self.images, *self.labels)))


def stem_of(file: Path) -> str | None:
    """Return the name of a volume's file without its suffix; None where it is none of those that are read."""
    name = file.name.lower()
    suffix = next((suffix for suffix in (*NIFTI_SUFFIXES, *HDF5_SUFFIXES) if name.endswith(suffix)), None)
    return None if suffix is None else file.name[: -len(suffix)]


def is_hdf5(file: Path) -> bool:
    """Return whether a file is HDF5, by its name."""
    return file.name.lower().endswith(HDF5_SUFFIXES)


def is_slice(file: Path) -> bool:
    """Return whether a file is HDF5 and its image has two dimensions. Raises UserError if it cannot be read."""
    return is_hdf5(file) and len(_hdf5_shape(file)) == 2


def read_shape(files: VolumeFiles) -> tuple[tuple[int, int, int], Spacing | None]:
    """Return the shape (D, H, W) of a volume and its spacing in mm, None where the format has none; of headers alone.

    Raises
    ------
    UserError
        A file is missing, empty, damaged, or of another number of dimensions.
    """
    first = files.images[0]
    if is_hdf5(first):
        shape = _hdf5_shape(first)
        if len(files.images) > 1:
            return (len(files.images), *_of_dimensions(first, shape, 2)), None
        return _of_dimensions(first, shape, 3), None
    grid = _grid(first)
    return grid.shape, grid.spacing


def read_volume(files: VolumeFiles) -> NDArray[np.uint8]:
    """Read a volume's image: (D, H, W) uint8, scaled as the top of this module says; of an HDF5 slice D is 1.

    Raises
    ------
    UserError
        What `read_shape` raises; a value is not finite, or no number; slices differ in size.
    """
    first = files.images[0]
    stored = _hdf5_values(files.images, "image") if is_hdf5(first) else _nifti(first, _grid(first))
    values = stored.astype(np.float64)
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        found = "1 value that is no finite number" if bad == 1 else f"{bad} values that are no finite numbers"
        raise UserError(
            f"{first} holds {found} (NaN or infinite): replace them, for example by the volume's least value."
        )
    return scaled(values)


def scaled(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return a volume's intensities as bytes: its 0.5 percentile is 0 and its 99.5 percentile 255; a constant is 0."""
    low, high = np.percentile(values, _PERCENTILES)
    if high <= low:  # nearly all of the volume has one value
        low, high = values.min(), values.max()
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    return np.rint(255 * ((values - low) / (high - low)).clip(0, 1)).astype(np.uint8)


def read_labels(files: VolumeFiles) -> NDArray[np.int64]:
    """Read a volume's label: (D, H, W) integers, as the file has them.

    Raises
    ------
    MaskSizeError
        It has another shape than its image, or lies elsewhere.
    MaskValuesError
        A value is not a whole number from 0.
    UserError
        What `read_shape` raises.
    """
    image, label = files.images[0], files.labels[0]
    if is_hdf5(label):
        values = _hdf5_values(files.labels, "label")
    else:
        values = _nifti(label, _like(image, _grid(image), label, _grid(label)))
    if (shape := read_shape(files)[0]) != values.shape:
        raise MaskSizeError(f"{label} has {_by(values.shape)} voxels (D x H x W), and its image {image} {_by(shape)}.")
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and (values == np.rint(values)).all()):
        odd = values[~(np.isfinite(values) & (values == np.rint(values)))]
        found = "1 value that is not an integer" if odd.size == 1 else f"{odd.size} values that are not integers"
        raise MaskValuesError(
            f"{label} holds {found}, such as {odd[0]!s}: labels are numbers of classes. Was it resampled with "
            "interpolation? Resample it by nearest neighbour; numbers that are merely inexact, round."
        )
    for value in (values.min(), values.max()):
        if not 0 <= value <= LARGEST_VALUE:
            raise MaskValuesError(
                f"{label} holds the value {value:g}: 0 is the background, and classes are above it, to {LARGEST_VALUE}."
            )
    return values.astype(np.int64)


def as_stored(file: Path, volume: NDArray[Any]) -> NDArray[Any]:
    """Return an array (D, H, W) with the axes of a volume's file, as nibabel or h5py would read it: undoes a reading.

    Raises
    ------
    UserError
        What `read_shape` raises.
    """
    if is_hdf5(file):
        return volume.reshape(_hdf5_shape(file))
    grid = _grid(file)
    unflipped = np.flip(volume, tuple(axis for axis in range(3) if grid.flipped[axis]))
    return unflipped.transpose(np.argsort(grid.order))


def label_file(image: Path, labels: NDArray[np.uint8]) -> bytes:
    """Return the content of a label's file that belongs to an image's: of its format, and lying where it does.

    Parameters
    ----------
    image : Path
        NIfTI, whose affine and header the label has; or HDF5.
    labels : uint8
        With the axes of the image's file (`as_stored`). HDF5 holds it as the dataset ``label``.

    Raises
    ------
    UserError
        The image's header cannot be read.
    """
    content = io.BytesIO()
    if is_hdf5(image):
        with _opened_hdf5(image):  # names h5py where it is missing
            import h5py
        with h5py.File(content, "w") as file:
            file.create_dataset("label", data=labels, compression="gzip")
        return content.getvalue()
    import nibabel

    with _named(image):
        like: Any = nibabel.load(image)
        header = like.header.copy()
        header.set_data_dtype(np.uint8)
        header["cal_min"] = header["cal_max"] = 0  # the image's display range would hide the label
        written = type(like)(labels, like.affine, header).to_bytes()
    return gzip.compress(written, mtime=0) if image.name.lower().endswith(".gz") else written


@dataclass(frozen=True)
class _Grid:
    """Where the voxels of a NIfTI file are."""

    stored: tuple[int, int, int]  # the file's shape
    affine: NDArray[np.float64]  # (4, 4): from the file's indices to mm
    sizes: NDArray[np.float64]  # of a voxel along the file's axes, mm
    order: tuple[int, int, int]  # the file's axes that become D, H, W
    flipped: tuple[bool, bool, bool]  # which of D, H, W run against the file's axis

    @property
    def shape(self) -> tuple[int, int, int]:
        """D, H, W."""
        depth, height, width = (self.stored[axis] for axis in self.order)
        return depth, height, width

    @property
    def spacing(self) -> Spacing:
        """Size of a voxel along D, H, W in mm."""
        depth, height, width = (float(self.sizes[axis]) for axis in self.order)
        return depth, height, width

    @property
    def corners(self) -> NDArray[np.float64]:
        """Positions of the corner voxels in mm, in the order of D, H, W: (8, 3)."""
        index = np.empty((8, 3))
        index[:, list(self.order)] = [
            [n - 1 - place if flip else place for place, n, flip in zip(corner, self.shape, self.flipped, strict=True)]
            for corner in itertools.product(*((0, n - 1) for n in self.shape))
        ]
        return index @ self.affine[:3, :3].T + self.affine[:3, 3]


def _grid(file: Path) -> _Grid:
    import nibabel

    with _named(file):
        image: Any = nibabel.load(file)  # of the header alone, until the voxels are asked for
        shape = _of_dimensions(file, image.shape, 3)
        if image.get_data_dtype().kind not in "iuf":
            raise UserError(f"{file} holds voxels of the kind {image.get_data_dtype()}; expected one number each.")
        unit = _MM[image.header.get_xyzt_units()[0]]
        affine = np.array(image.affine, dtype=np.float64)
        zooms = np.asarray(image.header.get_zooms()[:3], dtype=np.float64) * unit
    if not np.isfinite(affine).all():
        raise UserError(f"{file} does not say where its voxels are: its affine holds NaN or infinity; mend its header.")
    affine[:3] *= unit
    if not (np.isfinite(zooms).all() and (zooms > 0).all()):
        raise UserError(f"{file} says that a voxel is {_by(zooms)} mm large; mend its header (pixdim).")
    sizes = nibabel.affines.voxel_sizes(affine)
    if not (sizes > 0).all():  # no usable affine
        sizes = zooms
    if not np.allclose(zooms, sizes, rtol=_OTHER_SIZE, atol=0):
        raise UserError(
            f"{file} says that a voxel is {_by(sizes)} mm large by its affine, and {_by(zooms)} mm by its pixdim: "
            "distances in mm need one of them; mend its header."
        )
    return _Grid(shape, affine, sizes, *_axes(affine))


def _axes(affine: NDArray[np.float64]) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """Return which of a file's axes become D, H, W, and which of these are reversed (top of this module)."""
    import nibabel

    of_patient, direction = nibabel.io_orientation(affine).T  # 0 left to right, 1 back to front, 2 feet to head; +-1
    if not np.isfinite(of_patient).all():
        return (2, 1, 0), (False, False, False)
    columns, rows = sorted((0, 1), key=lambda axis: of_patient[axis])
    order = (2, rows, columns)
    to_the_head = of_patient[2] == 2
    depth, row, column = (bool(direction[axis] > 0) for axis in order)
    return order, (depth != to_the_head, row, column)


def _like(image: Path, of_image: _Grid, label: Path, of_label: _Grid) -> _Grid:
    """Return how a label is read so that it agrees with its image; raises MaskSizeError where it lies elsewhere."""
    # Axes at 45 degrees may be called one way in the image and another way in the label, by a rounded number.
    same = replace(of_label, order=of_image.order, flipped=of_image.flipped)
    if same.shape == of_image.shape and _apart(same, of_image) <= _FAR * min(of_image.spacing):
        of_label = same
    else:
        of_label = _turned(of_label, of_image)
    if of_label.shape != of_image.shape:
        raise MaskSizeError(
            f"{label} has {_by(of_label.shape)} voxels (D x H x W), and its image {image} {_by(of_image.shape)}."
        )
    remedy = "Resample the label to the image; if only the header is wrong, copy the image's."
    if (apart := _apart(of_label, of_image)) > _FAR * min(of_image.spacing):
        raise MaskSizeError(
            f"{label} does not lie where its image {image} does: by their headers (affine) voxels are up to "
            f"{apart:.3g} mm apart. {remedy}"
        )
    if not np.allclose(of_label.spacing, of_image.spacing, rtol=_FAR):
        raise MaskSizeError(
            f"{label} has voxels of {_by(of_label.spacing)} mm (D x H x W), and its image {image} of "
            f"{_by(of_image.spacing)} mm. {remedy}"
        )
    return of_label


def _turned(of_label: _Grid, of_image: _Grid) -> _Grid:
    """Return a label's grid with the axes of its image's: D, H, W run the same way through the patient."""
    import nibabel

    orientations = [nibabel.io_orientation(grid.affine) for grid in (of_label, of_image)]
    if not np.isfinite(orientations).all():
        return of_label
    axis_of, direction = nibabel.orientations.ornt_transform(*orientations).T  # of the label's axes: the image's
    depth, height, width = (int(np.flatnonzero(axis_of == axis)[0]) for axis in of_image.order)
    order = (depth, height, width)
    flipped = [flip != (direction[axis] < 0) for flip, axis in zip(of_image.flipped, order, strict=True)]
    return replace(of_label, order=order, flipped=(flipped[0], flipped[1], flipped[2]))


def _apart(one: _Grid, other: _Grid) -> float:
    """Return how far corners of equal place are apart at most, in mm."""
    return float(np.linalg.norm(one.corners - other.corners, axis=1).max())


def _nifti(file: Path, grid: _Grid) -> NDArray[Any]:
    """Return a volume (D, H, W) as its file holds it."""
    import nibabel

    with _named(file):
        image: Any = nibabel.load(file)
        values = np.asanyarray(image.dataobj)
        if file.suffix.lower() == ".gz":  # nibabel stops after the last voxel, before the checksum
            with gzip.open(file) as stream:
                while stream.read(_CHUNK):
                    pass
    values = values.reshape(values.shape[:3]).transpose(grid.order)
    return np.flip(values, tuple(axis for axis in range(3) if grid.flipped[axis]))


def _hdf5_values(files: tuple[Path, ...], dataset: str) -> NDArray[Any]:
    """Return a volume (D, H, W) as its files hold it; of a single slice D is 1."""
    if len(files) == 1:
        return _hdf5(files[0], dataset, 2)[None] if is_slice(files[0]) else _hdf5(files[0], dataset, 3)
    slices = [_hdf5(file, dataset, 2) for file in files]
    for file, values in zip(files, slices, strict=True):
        if values.shape != slices[0].shape:
            raise UserError(f"{file} has {_by(values.shape)} pixels, and {files[0]} {_by(slices[0].shape)}.")
    return np.stack(slices)


def _hdf5_shape(file: Path) -> tuple[int, ...]:
    with _opened_hdf5(file) as opened:
        return tuple(_dataset(file, opened, "image").shape)


def _hdf5(file: Path, name: str, dimensions: int) -> NDArray[Any]:
    with _opened_hdf5(file) as opened:
        values = np.asarray(_dataset(file, opened, name))
    values = values.reshape(_of_dimensions(file, values.shape, dimensions))
    if values.dtype.kind not in "iuf":
        raise UserError(f"{file} holds voxels of the kind {values.dtype} in '{name}'; expected one number each.")
    return values


def _dataset(file: Path, opened: Any, name: str) -> Any:
    if name not in opened:
        raise UserError(f"{file} has no dataset '{name}' (it has: {', '.join(opened) or 'none'}).")
    if not hasattr(opened[name], "shape"):
        raise UserError(f"{file}: '{name}' is a group ({', '.join(opened[name])}); expected a dataset of numbers.")
    return opened[name]


@contextmanager
def _opened_hdf5(file: Path) -> Iterator[Any]:
    try:
        import h5py
    except ImportError as error:
        raise UserError(
            f"{file}: HDF5 is read by h5py, which is not installed: pip install 'qgbench[hdf5]'."
        ) from error
    with _named(file), h5py.File(file, "r") as opened:
        yield opened


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """Turn what a library says of a file into a message that names the file and what to do."""
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    try:
        if file.stat().st_size == 0:
            raise UserError(f"{file} is empty (0 bytes); fetch it again.")
        yield
    except UserError:
        raise
    except (FileNotFoundError, PermissionError) as error:
        raise unreadable(file, error) from error
    except (*_DAMAGE, ImageFileError, HeaderDataError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{file} is damaged, cut off, or not of the kind that its suffix says ({said}); fetch it again."
        ) from error


def _of_dimensions(file: Path, shape: tuple[int, ...], wanted: int) -> Any:
    """Return a shape without ones at its end; refuse another number of dimensions than is wanted."""
    kept = tuple(int(n) for n in shape)
    while len(kept) > wanted and kept[-1] == 1:
        kept = kept[:-1]
    if len(kept) == 2 and wanted == 3 and 0 not in kept:
        raise UserError(
            f"{file} holds one slice, {_by(kept)} pixels, where a volume is expected: save volumes whole; of HDF5, "
            "slices may be files of their own, VOLUME_slice_1.h5 and so on."
        )
    if len(kept) != wanted or 0 in kept:
        several = f"{kept[3]} volumes (times or channels)" if len(kept) == 4 else f"{len(kept)} dimensions"
        raise UserError(
            f"{file} holds {several}, {_by(kept)} voxels; expected {wanted} dimensions. Save the one volume that is to "
            "be segmented as a file of its own."
        )
    return kept


def _by(numbers: Any) -> str:
    return " x ".join(f"{number:g}" for number in numbers)
