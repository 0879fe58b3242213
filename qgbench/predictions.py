"""The test predictions of a run in one small file, ``predictions.npz``. Imports no torch.

Members, all readable by `numpy.load` without pickle: ``ids`` (uint8: a JSON list in UTF-8), ``shapes`` ((N, 2): height
and width), ``counts`` ((N,): runs of each mask) and ``runs`` (uint32, all masks in turn). A mask, read row by row, is
runs of equal pixels: background first (0 long where the first pixel is foreground), then foreground, and so on.
"""

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qgbench.errors import QGBenchError
from qgbench.records import write_atomically

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip archive can name


class PackedMasks(Mapping[str, NDArray[np.bool_]]):
    """Masks by image id, held as lengths of runs: some kilobytes for one of a photograph of 24 megapixels.

    Every look-up unpacks its mask anew: (H, W) bool.

    Parameters
    ----------
    masks : mapping of str to (H, W) bool, optional
        Masks to begin with.
    """

    def __init__(self, masks: Mapping[str, NDArray[np.bool_]] | None = None) -> None:
        self._packed: dict[str, tuple[NDArray[np.uint32], tuple[int, int]]] = {}
        for id, mask in (masks or {}).items():
            self.add(id, mask)

    def add(self, id: str, mask: NDArray[np.bool_]) -> None:
        """Pack a mask (H, W)."""
        height, width = mask.shape
        changes = np.flatnonzero(np.diff(mask.ravel(), prepend=False))
        self._packed[id] = np.diff(changes, prepend=0, append=mask.size).astype("<u4"), (height, width)

    def __getitem__(self, id: str) -> NDArray[np.bool_]:
        runs, shape = self._packed[id]
        return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Give the members of the file, ids sorted."""
        ids = sorted(self._packed)
        packed = [self._packed[id] for id in ids]
        return {
            "ids": np.frombuffer(json.dumps(ids).encode(), dtype=np.uint8),
            "shapes": np.array([shape for _, shape in packed], dtype="<i8").reshape(len(ids), 2),
            "counts": np.array([len(runs) for runs, _ in packed], dtype="<i8"),
            "runs": np.concatenate([np.empty(0, dtype="<u4"), *(runs for runs, _ in packed)]),
        }

    @classmethod
    def from_arrays(cls, ids: NDArray, shapes: NDArray, counts: NDArray, runs: NDArray) -> "PackedMasks":
        """Take what `to_arrays` gave; raises ValueError where the members do not fit together."""
        if counts.sum() != len(runs):
            raise ValueError("the number of runs is not what it should be")
        masks = cls()
        ends = np.cumsum(counts)
        for id, (height, width), count, end in zip(json.loads(ids.tobytes()), shapes, counts, ends, strict=True):
            own = runs[end - count : end]
            if own.sum(dtype=np.int64) != height * width:
                raise ValueError("the runs of a mask do not add up to its size")
            masks._packed[id] = own, (int(height), int(width))
        return masks


def write_predictions(path: Path, masks: Mapping[str, NDArray[np.bool_]]) -> None:
    """Write masks into one compressed file, atomically. Equal masks give equal bytes, whatever their order.

    Parameters
    ----------
    path : Path
        The file to write.
    masks : mapping of str to (H, W) bool
        By image id, at the image's original resolution; each may be of another size.

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
            archive.writestr(header, content.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=9)
    write_atomically(path, file.getvalue())


def read_predictions(path: Path) -> PackedMasks:
    """Read the masks that `write_predictions` wrote.

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
        content = path.read_bytes()
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
        return {
            name: np.lib.format.read_array(io.BytesIO(archive.read(f"{name}.npy")), allow_pickle=False)
            for name in ("ids", "shapes", "counts", "runs")
        }
