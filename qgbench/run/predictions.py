"""The test predictions of a run in one small file, ``predictions.npz``. Imports no torch.

Members, all readable by `numpy.load` without pickle: ``ids`` (uint8: a JSON list in UTF-8), ``shapes`` ((N, 2): height
and width; (N, 3) for volumes: depth, too), ``counts`` ((N,): runs of each mask) and ``runs`` (uint32, all masks in
turn). A mask, read row by row, is runs of equal pixels: background first (0 long where the first pixel is foreground),
then foreground, and so on. Of several classes, ``values`` (uint8) holds the label of each run.
"""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qgbench.base.errors import QGBenchError
from qgbench.base.files import write_atomically
from qgbench.data.packed_masks import PackedMasks

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip archive can name


def write_predictions(path: Path, masks: Mapping[str, NDArray[Any]]) -> None:
    """Write masks into one compressed file, atomically. Equal masks give equal bytes, whatever their order.

    Parameters
    ----------
    path : Path
        The file to write.
    masks : mapping of str to (H, W) or (D, H, W) array
        By id of image or volume, at its original resolution; each may be of another size. All are bool or, of several
        classes, uint8 label maps.

    Raises
    ------
    QGBenchError
        The disk is full or the folder cannot be written.
    """
    packed = masks if isinstance(masks, PackedMasks) else PackedMasks(masks)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in packed.to_arrays().items():
            content = io.BytesIO()
            np.lib.format.write_array(content, array, version=(1, 0), allow_pickle=False)
            # `numpy.savez` leaves the time and the system in a member's header to Python.
            header = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
            header.create_system = 3
            archive.writestr(header, content.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=6)
    write_atomically(path, file.getvalue())


def read_predictions(path: Path | str) -> PackedMasks:
    """Return the masks that `write_predictions` wrote.

    Returns
    -------
    PackedMasks
        By image id, sorted by id.

    Raises
    ------
    QGBenchError
        The file is missing, cut off, damaged, or not a file of predictions.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise QGBenchError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return PackedMasks.from_arrays(**_read_members(content))
    except Exception as error:  # a damaged archive makes zipfile, zlib and numpy raise almost anything
        raise QGBenchError(
            f"{path} is cut off, damaged or not a file of predictions ({error}); do the run again with --force."
        ) from error


def _read_members(content: bytes) -> dict[str, NDArray]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:  # reading a whole member verifies its checksum
        known = ("ids", "shapes", "counts", "runs", *(["values"] if "values.npy" in archive.namelist() else []))
        return {
            name: np.lib.format.read_array(io.BytesIO(archive.read(f"{name}.npy")), allow_pickle=False)
            for name in known
        }
