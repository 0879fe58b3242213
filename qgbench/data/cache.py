"""Decode and resize once: prepared arrays in a cache that is keyed by content and memory-mapped.

A cache entry is a folder ``<name>-<size>-<key>/`` with ``images.npy`` (N, S, S, 3), ``masks.npy`` (N, S, S),
``originals.bin`` (masks at their original sizes, one bit a pixel, each beginning on a byte) and ``index.json``. It is
built beside its place, as ``.<entry>.partial/``, and moved there in one step; what a killed process left there is
cleared by the next one. Its bytes are checked against its fingerprint when it is opened.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol, TypeVar

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image

from qgbench.data.readers import Source
from qgbench.errors import QGBenchError, UserError

CACHE_VARIABLE = "QGBENCH_CACHE"
# Part of every key: raised whenever the same raw files would give other arrays.
CACHE_VERSION = 2

_INDEX = "index.json"
_IMAGES = "images.npy"
_MASKS = "masks.npy"
_ORIGINALS = "originals.bin"

T = TypeVar("T")


class Track(Protocol):
    """Something that shows progress, such as a progress bar: hands through what it is given."""

    def __call__(self, iterable: Iterable[T], description: str, total: int, unit: str) -> Iterator[T]:
        """Yield the items of `iterable`, of which there are `total`."""


def no_progress(iterable: Iterable[T], description: str, total: int, unit: str) -> Iterator[T]:
    """Show nothing."""
    yield from iterable


@dataclass(frozen=True, eq=False)
class Prepared:
    """A data set as arrays, read-only and memory-mapped.

    Attributes
    ----------
    ids, groups : list of str
        As in the `Source`, sorted by id; every array is aligned with them.
    images : (N, S, S, 3) uint8
        RGB, squeezed to squares by antialiased bilinear interpolation.
    masks : (N, S, S) uint8, or None for a pool
        1 where at least half of the pixel's area was foreground, else 0.
    sizes : (N, 2) int64
        Height and width of the originals, in pixels.
    fingerprint : str
        SHA-256 of ids and arrays, 64 hexadecimal digits.
    originals : (B,) uint8, or None for a pool
        Masks at original size, packed; see `original_mask`.
    """

    ids: list[str]
    groups: list[str]
    images: NDArray[np.uint8]
    masks: NDArray[np.uint8] | None
    sizes: NDArray[np.int64]
    fingerprint: str
    originals: NDArray[np.uint8] | None

    def original_mask(self, index: int) -> NDArray[np.bool_]:
        """Return a mask at its original size: (H, W) bool.

        Raises
        ------
        QGBenchError
            The images have no masks.
        """
        if self.originals is None:
            raise QGBenchError("images of a pool have no masks")
        ends = np.cumsum(_packed_bytes(self.sizes))
        height, width = self.sizes[index]
        packed = self.originals[ends[index] - _packed_bytes(self.sizes[index]) : ends[index]]
        return np.unpackbits(packed, count=height * width).reshape(height, width).view(np.bool_)


def default_cache_dir() -> Path:
    """Name the folder of the cache: ``$QGBENCH_CACHE``, else ``~/.cache/qgbench``."""
    given = os.environ.get(CACHE_VARIABLE)
    return Path(given).expanduser() if given else Path.home() / ".cache" / "qgbench"


def prepare(source: Source, size: int, cache_dir: Path | None = None, track: Track = no_progress) -> Prepared:
    """Decode and resize every image of a source, or open the arrays of an earlier call with the same content.

    Parameters
    ----------
    source : Source
    size : int
        Side S of the squares in pixels, at least 1.
    cache_dir : Path, optional
        Where entries are kept; `default_cache_dir` where None.
    track : Track
        Shows progress while images are decoded; not called where the arrays are there already.

    Raises
    ------
    UserError
        A file is damaged, gone or changed meanwhile, a mask is not binary or of another size than its image, or `size`
        is below 1. No part of an entry is left.
    QGBenchError
        The cache cannot be written. No part of an entry is left.
    """
    if size < 1:
        raise UserError(f"the image size is {size}; give 1 or more pixels.")
    cache_dir = cache_dir or default_cache_dir()
    content = source.content_key()
    key = hashlib.sha256(f"{CACHE_VERSION}/{size}/{content}".encode()).hexdigest()[:16]
    folder = cache_dir / f"{source.name}-{size}-{key}"
    if (prepared := _load(folder, source)) is not None:
        return prepared
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        # Whoever waited here for another process finds that one's arrays.
        with FileLock(cache_dir / f".{folder.name}.lock"):
            if (prepared := _load(folder, source)) is None:
                _build(folder, source, content, size, track)
                prepared = _load(folder, source)
    except OSError as error:
        raise _not_written(cache_dir, error) from error
    if prepared is None:
        raise QGBenchError(f"the cache entry {folder} is damaged as soon as it is written; check the disk")
    return prepared


def _not_written(cache_dir: Path, error: OSError) -> QGBenchError:
    text = f"cannot write the cache {cache_dir}: {error.strerror}."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return QGBenchError(f"{text} Free some space, or set {CACHE_VARIABLE} to a folder on another disk.")
    if error.errno == errno.ENOENT:
        return QGBenchError(f"{text} It was removed meanwhile: give the same command again.")
    return QGBenchError(f"{text} Set {CACHE_VARIABLE} to a folder that you can write to.")


@dataclass(frozen=True)
class _Decoded:
    image: NDArray[np.uint8]  # (S, S, 3)
    mask: NDArray[np.uint8] | None  # (S, S)
    packed: NDArray[np.uint8]  # (ceil(H * W / 8),); empty without a mask
    size: tuple[int, int]  # H, W


def _decode(source: Source, id: str, size: int) -> _Decoded:
    original = source.image(id)
    image = np.asarray(Image.fromarray(original).resize((size, size), Image.Resampling.BILINEAR))
    height, width = original.shape[:2]
    if not source.labelled:
        return _Decoded(image, None, np.empty(0, np.uint8), (height, width))
    mask = source.mask(id)
    return _Decoded(image, resize_mask(mask, size), np.packbits(mask), (height, width))


def resize_mask(mask: NDArray[np.bool_], size: int) -> NDArray[np.uint8]:
    """Resize a mask by area: 1 where foreground covers at least half of the new pixel.

    Parameters
    ----------
    mask : (H, W) bool
    size : int
        Side S of the result in pixels.

    Returns
    -------
    (S, S) uint8
        0 or 1.
    """
    rows, columns = (_overlaps(length, size) for length in mask.shape)
    cover = rows @ mask.astype(np.float32) @ columns.T
    # The tolerance is that of sums in single precision: exactly one half counts as foreground.
    return (cover >= 0.5 - 1e-5).astype(np.uint8)


def _overlaps(length: int, size: int) -> NDArray[np.float32]:
    """Share of each of `size` equal cells that each of `length` pixels covers: (size, length), rows add up to 1."""
    edges = np.arange(size + 1) * length / size
    pixel = np.arange(length)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return (overlap.clip(min=0) * size / length).astype(np.float32)


def _build(folder: Path, source: Source, content: str, size: int, track: Track) -> None:
    """Write a cache entry beside its place, then move it there. To be called under the entry's lock."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        sizes = _write_arrays(partial, source, size, track)
        index = {"ids": source.ids, "sizes": sizes, "labelled": source.labelled}
        index["fingerprint"] = _fingerprint(partial, source.ids, sizes)
        (partial / _INDEX).write_text(json.dumps(index), encoding="utf-8")
        # An entry under the key of other files than it was made of would be believed for ever.
        if source.content_key() != content:
            raise UserError(
                f"files of '{source.name}' changed while they were prepared; wait until they are complete (is a copy "
                "still running?), then give the same command again."
            )
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write_arrays(partial: Path, source: Source, size: int, track: Track) -> list[tuple[int, int]]:
    """Write images and masks in the order of the ids; return the original sizes."""
    count = len(source.ids)
    sizes = []
    with ExitStack() as stack:
        # Appended to, not written through a memory map: a full disk then is an error and not a dead process.
        images = stack.enter_context((partial / _IMAGES).open("wb"))
        _write_header(images, (count, size, size, 3))
        if source.labelled:
            masks = stack.enter_context((partial / _MASKS).open("wb"))
            originals = stack.enter_context((partial / _ORIGINALS).open("wb"))
            _write_header(masks, (count, size, size))
        pool = ThreadPoolExecutor(os.cpu_count())
        stack.callback(pool.shutdown, cancel_futures=True)
        decoded_in_turn = pool.map(lambda id: _decode(source, id, size), source.ids)
        for decoded in track(decoded_in_turn, f"Preparing {source.name}", count, "images"):
            images.write(decoded.image.tobytes())
            if decoded.mask is not None:
                masks.write(decoded.mask.tobytes())
                originals.write(decoded.packed.tobytes())
            sizes.append(decoded.size)
    return sizes


def _write_header(file: IO[bytes], shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _fingerprint(folder: Path, ids: list[str], sizes: list[tuple[int, int]]) -> str:
    digest = hashlib.sha256(json.dumps([ids, sizes]).encode())
    for name in (_IMAGES, _MASKS, _ORIGINALS):
        if (file := folder / name).exists():
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _load(folder: Path, source: Source) -> Prepared | None:
    """Open a cache entry; None where it is missing, incomplete or damaged."""
    try:
        index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        if index["ids"] != source.ids or _fingerprint(folder, index["ids"], index["sizes"]) != index["fingerprint"]:
            return None
        labelled = index["labelled"]
        return Prepared(
            ids=source.ids,
            groups=source.groups,
            images=np.load(folder / _IMAGES, mmap_mode="r"),
            masks=np.load(folder / _MASKS, mmap_mode="r") if labelled else None,
            sizes=np.array(index["sizes"], dtype=np.int64),
            fingerprint=index["fingerprint"],
            originals=np.memmap(folder / _ORIGINALS, dtype=np.uint8, mode="r") if labelled else None,
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _packed_bytes(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bytes that masks of these sizes (..., 2) take at one bit a pixel."""
    return -(-sizes.prod(axis=-1) // 8)
