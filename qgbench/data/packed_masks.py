"""Masks of many images held as lengths of runs. Imports no torch."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class _Packed(NamedTuple):
    runs: NDArray[np.uint32]  # lengths
    values: NDArray[np.uint8] | None  # labels of the runs; None: background and foreground in turn
    shape: tuple[int, ...]


class PackedMasks(Mapping[str, NDArray[Any]]):
    """Masks by image or volume id, held as lengths of runs: some kilobytes for a photograph of 24 megapixels.

    Every look-up unpacks its mask anew: (H, W) or, of a volume, (D, H, W); bool, or uint8 for a label map.

    Parameters
    ----------
    masks : mapping of str to bool or uint8 array, optional
        Masks to begin with; all are of one kind.
    """

    def __init__(self, masks: Mapping[str, NDArray[Any]] | None = None) -> None:
        self._packed: dict[str, _Packed] = {}
        for id, mask in (masks or {}).items():
            self.add(id, mask)

    def add(self, id: str, mask: NDArray[Any]) -> None:
        """Pack a mask: bool, or uint8 for a label map."""
        flat = mask.ravel()
        if mask.dtype == np.bool_:
            values, starts = None, np.flatnonzero(np.diff(flat, prepend=False))
            runs = np.diff(starts, prepend=0, append=mask.size)
        else:
            starts = np.flatnonzero(np.append(True, flat[1:] != flat[:-1]))
            values, runs = flat[starts], np.diff(starts, append=mask.size)
        self._packed[id] = _Packed(runs.astype("<u4"), values, mask.shape)

    def __getitem__(self, id: str) -> NDArray[Any]:
        runs, values, shape = self._packed[id]
        return np.repeat(np.arange(len(runs)) % 2 == 1 if values is None else values, runs).reshape(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return the members of the file, ids sorted; ``values``, the labels of runs, for label maps alone."""
        ids = sorted(self._packed)
        packed = [self._packed[id] for id in ids]
        members: dict[str, NDArray[np.generic]] = {
            "ids": np.frombuffer(json.dumps(ids).encode(), dtype=np.uint8),
            "shapes": np.array([each.shape for each in packed] or np.empty((0, 2)), dtype="<i8"),
            "counts": np.array([len(each.runs) for each in packed], dtype="<i8"),
            "runs": np.concatenate([np.empty(0, dtype="<u4"), *(each.runs for each in packed)]),
        }
        if values := [each.values for each in packed if each.values is not None]:
            members["values"] = np.concatenate(values)
        return members

    @classmethod
    def from_arrays(
        cls, ids: NDArray, shapes: NDArray, counts: NDArray, runs: NDArray, values: NDArray | None = None
    ) -> "PackedMasks":
        """Return the masks that `to_arrays` was taken of; raises ValueError where the members do not fit together."""
        if counts.sum() != len(runs) or (values is not None and len(values) != len(runs)):
            raise ValueError("the number of runs is not what it should be")
        masks = cls()
        ends = np.cumsum(counts)
        for id, shape, count, end in zip(json.loads(ids.tobytes()), shapes, counts, ends, strict=True):
            own = slice(end - count, end)
            if runs[own].sum(dtype=np.int64) != shape.prod():
                raise ValueError("the runs of a mask do not add up to its size")
            masks._packed[id] = _Packed(runs[own], None if values is None else values[own], tuple(shape.tolist()))
        return masks
