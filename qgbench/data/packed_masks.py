"""Masks of many images held as lengths of runs. Imports no torch."""

import json
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray


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
        """Return the members of the file, ids sorted."""
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
        """Return the masks that `to_arrays` was taken of; raises ValueError where the members do not fit together."""
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
