"""Decode and resize once: prepared arrays in a cache that is keyed by content and memory-mapped.

A cache entry is a folder ``<name>-<size>-<key>/`` with ``images.npy`` (N, S, S, 3), ``masks.npy`` (N, S, S),
``originals.bin`` (masks at their original sizes, one bit a pixel, each beginning on a byte; of several classes one byte
a pixel) and ``index.json``. It is built beside its place, as ``.<entry>.partial/``, and moved there in one step.

An interrupted preparation goes on where it stopped: ``progress.json`` in the partial entry says how many rows are whole
and what their bytes hash to. What follows them is cut off; if anything before is not as recorded, all begins again.
Partial entries of the same data set and size but of other content are cleared, unless a process is writing them.

When damage is noticed: an entry's bytes are compared with its fingerprint when it is opened, but read again only after
a change of a file's size, times or inode (`hash_files`). So a file that was cut, overwritten or replaced is noticed at
the next opening; bits that a disk loses silently only up to the first opening later than 2 s after the entry was made.
"""

import hashlib
import io
import json
import os
import re
import shutil
import time
from collections.abc import Iterable
from contextlib import ExitStack, closing, suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import PIL
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from PIL import Image

from qgbench.base.amounts import amount
from qgbench.base.cores import in_threads
from qgbench.base.errors import QGBenchError, UnwritableError, UserError, unwritable
from qgbench.base.progress import Track, no_progress
from qgbench.data.content import CACHE_VARIABLE, checked, default_cache_dir, hash_files, read_checked
from qgbench.data.source import Slice, Source
from qgbench.spec.task import Task

# Part of every key: raised whenever the same raw files would give other arrays.
CACHE_VERSION = 2

_INDEX = "index.json"
_IMAGES = "images.npy"
_MASKS = "masks.npy"
_ORIGINALS = "originals.bin"
_PROGRESS = "progress.json"
_PARTIAL = ".partial"
_KEY_DIGITS = 16
_BLOCK = 1 << 20  # bytes read at once
_SHARE_OF_SAVES = 0.05  # of the time; what is written since the last one is lost with a killed process
_MOST_FAULTS = 20  # files that cannot be read are named together, up to so many
_ROUNDING = 1e-5  # of a share of a pixel
_ELSEWHERE = f"set {CACHE_VARIABLE} to a folder on another disk, and give the same command again"

T = TypeVar("T")


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
        1 where at least half of the pixel's area was foreground, else 0. For K > 1 the class 1 to K, or 0 for the
        background, that has most of the pixel's area; the lowest of equals.
    sizes : (N, 2) int64
        Height and width of the originals, in pixels.
    fingerprint : str
        SHA-256 of ids and arrays, and of classes and volumes that are not the usual; 64 hexadecimal digits.
    originals : (B,) uint8, or None for a pool
        Masks at original size, packed; see `original_mask`.
    classes : tuple of str
        Names of the K classes of the masks.
    volumes : list of Slice, or None for pictures
        Where each image lies in its volume.
    """

    ids: list[str]
    groups: list[str]
    images: NDArray[np.uint8]
    masks: NDArray[np.uint8] | None
    sizes: NDArray[np.int64]
    fingerprint: str
    originals: NDArray[np.uint8] | None
    classes: tuple[str, ...] = Task().classes
    volumes: list[Slice] | None = None

    @property
    def noun(self) -> str:
        """What an image is: 'image', or 'slice' of a volume."""
        return "image" if self.volumes is None else "slice"

    def original_mask(self, index: int) -> NDArray[Any]:
        """Return a mask at its original size, as `Source.mask`: (H, W), bool for one class, uint8 0 to K for K > 1.

        Raises
        ------
        QGBenchError
            The images have no masks.
        """
        if self.originals is None:
            raise QGBenchError("images of a pool have no masks")
        several = len(self.classes) > 1
        ends = np.cumsum(_packed_bytes(self.sizes, several))
        height, width = self.sizes[index]
        packed = self.originals[ends[index] - _packed_bytes(self.sizes[index], several) : ends[index]]
        if several:
            return np.array(packed).reshape(height, width)
        return np.unpackbits(packed, count=height * width).reshape(height, width).view(np.bool_)


def prepare(source: Source, size: int, cache_dir: Path | None = None, track: Track = no_progress) -> Prepared:
    """Return every image of a source, decoded and resized now or by an earlier call with the same content.

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
        A file is damaged, gone or changed meanwhile, or a mask is not binary or of another size than its image: such
        files are named together, up to 20. Or `size` is below 1.
    QGBenchError
        The cache cannot be written, or its disk has not the space for the arrays.

    After every error, as after Ctrl-C or a kill, the next call with the same content goes on where this one stopped;
    until then nothing is taken for an entry.
    """
    if size < 1:
        raise UserError(f"the image size is {size}; give 1 or more pixels.")
    cache_dir = cache_dir or default_cache_dir()
    content = source.content_key()
    key = hashlib.sha256(f"{CACHE_VERSION}/{size}/{content}{_unusual(source)}".encode()).hexdigest()[:_KEY_DIGITS]
    folder = cache_dir / f"{source.name}-{size}-{key}"
    if (prepared := _load(folder, source)) is not None:
        return prepared
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        # Whoever waited here for another process finds that one's arrays.
        with _lock(folder):
            if (prepared := _load(folder, source)) is None:
                _build(folder, source, content, size, track)
                prepared = _load(folder, source)
    except OSError as error:
        raise unwritable(f"the cache {cache_dir}", error, _ELSEWHERE) from error
    if prepared is None:
        raise QGBenchError(f"the cache entry {folder} is damaged as soon as it is written; check the disk")
    return prepared


@dataclass(frozen=True)
class _Decoded:
    image: NDArray[np.uint8]  # (S, S, 3)
    mask: NDArray[np.uint8] | None  # (S, S)
    packed: NDArray[np.uint8]  # (ceil(H * W / 8),), for K > 1 (H * W,); empty without a mask
    size: tuple[int, int]  # H, W


def joint_fingerprint(parts: Iterable[Prepared]) -> str:
    """Return the fingerprint of what one run reads, a data set and its pools in order: 64 hexadecimal digits."""
    return hashlib.sha256("".join(part.fingerprint for part in parts).encode()).hexdigest()


def _decode(source: Source, id: str, size: int) -> _Decoded:
    original = source.image(id)
    image = squeezed(original, size)
    height, width = original.shape[:2]
    if not source.labelled:
        return _Decoded(image, None, np.empty(0, np.uint8), (height, width))
    mask = source.mask(id)
    packed = np.packbits(mask) if mask.dtype == np.bool_ else mask.ravel()
    return _Decoded(image, resize_mask(mask, size), packed, (height, width))


def squeezed(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Return an image as networks see it, squeezed to a square by antialiased bilinear interpolation.

    Parameters
    ----------
    image : (H, W, 3) uint8
        RGB.
    size : int
        Side S of the result in pixels.

    Returns
    -------
    (S, S, 3) uint8
    """
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


def resize_mask(mask: NDArray[Any], size: int) -> NDArray[np.uint8]:
    """Return a mask resized by area.

    Parameters
    ----------
    mask : (H, W) bool or uint8
        Of one class, or a label map.
    size : int
        Side S of the result in pixels.

    Returns
    -------
    (S, S) uint8
        Of one class: 1 where foreground covers at least half of the new pixel, else 0. Of a label map: the label that
        covers most of it, the background's 0 included; the lowest of equals.
    """
    rows, columns = (_overlaps(length, size) for length in mask.shape)
    # The tolerance is that of sums in single precision: exactly one half counts as foreground, equals are equal.
    if mask.dtype == np.bool_:
        return (rows @ mask.astype(np.float32) @ columns.T >= 0.5 - _ROUNDING).astype(np.uint8)
    labels = np.unique(mask)
    covers = np.stack([rows @ (mask == label).astype(np.float32) @ columns.T for label in labels])
    return labels[(covers >= covers.max(0) - _ROUNDING).argmax(0)]


def _overlaps(length: int, size: int) -> NDArray[np.float32]:
    """Return the share of each of `size` equal cells that each of `length` pixels covers.

    Its shape is (size, length), and rows add up to 1.
    """
    edges = np.arange(size + 1) * length / size
    pixel = np.arange(length)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return (overlap.clip(min=0) * size / length).astype(np.float32)


class _GrowingFile:
    """A file that is written front to back, and hashed on the way."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # Appended to, not written through a memory map: a full disk then is an error and not a dead process.
        self._stream = path.open("ab")
        self._length = 0
        self._hash = hashlib.sha256()

    def begin(self) -> None:
        """Cut off everything."""
        self._stream.truncate(0)
        self._length = 0
        self._hash = hashlib.sha256()

    def go_on(self, length: int, digest: str) -> bool:
        """Cut off what follows `length` bytes; return whether those are the ones that hash to `digest`."""
        with self._path.open("rb") as stream:
            while block := stream.read(min(length - self._length, _BLOCK)):
                self._hash.update(block)
                self._length += len(block)
        self._stream.truncate(self._length)
        return self.state == (length, digest)

    @property
    def state(self) -> tuple[int, str]:
        """Length in bytes and SHA-256."""
        return self._length, self._hash.hexdigest()

    def write(self, data: bytes) -> None:
        self._stream.write(data)
        self._hash.update(data)
        self._length += len(data)

    def sync(self) -> None:
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        self._stream.close()


class _PartialEntry:
    """The arrays of an entry while they are written, row by row. To be used under the entry's lock.

    What `save` recorded stays: whatever happens afterwards, the next process goes on from there.
    """

    def __init__(self, folder: Path, source: Source, content: str, size: int, stack: ExitStack) -> None:
        self._folder = folder
        self._source = source
        self._content = content
        self._sizes: list[tuple[int, int]] = []
        folder.mkdir(exist_ok=True)
        self._files = {name: _GrowingFile(folder / name) for name in _array_names(source.labelled)}
        for file in self._files.values():
            stack.callback(file.close)
        record = read_checked(folder / _PROGRESS)
        # Another release of Pillow may decode to other pixels.
        if record is not None and record["pillow"] == PIL.__version__ and self._go_on(record["files"]):
            self._sizes = [(height, width) for height, width in record["sizes"]]
        else:
            self._begin(size)
        self._whole = self._state()

    def _go_on(self, states: dict[str, tuple[int, str]]) -> bool:
        return all([file.go_on(*states[name]) for name, file in self._files.items()])

    def _begin(self, size: int) -> None:
        shape = (len(self._source.ids), size, size)
        for name, file in self._files.items():
            file.begin()
            if name != _ORIGINALS:
                file.write(_header((*shape, 3) if name == _IMAGES else shape))

    def _state(self) -> tuple[int, dict[str, tuple[int, str]]]:
        return len(self._sizes), {name: file.state for name, file in self._files.items()}

    @property
    def rows(self) -> int:
        """Rows that are whole."""
        return self._whole[0]

    def append(self, decoded: _Decoded) -> None:
        """Write one row to every array."""
        self._files[_IMAGES].write(decoded.image.tobytes())
        if decoded.mask is not None:
            self._files[_MASKS].write(decoded.mask.tobytes())
            self._files[_ORIGINALS].write(decoded.packed.tobytes())
        self._sizes.append(decoded.size)
        self._whole = self._state()

    def save(self) -> None:
        """Record which rows are whole.

        Raises
        ------
        UserError
            The source's files are not what they were when the entry was begun: the former record stays.
        OSError
            The disk is full.
        """
        for file in self._files.values():
            file.sync()
        # Rows under the key of other files than they were made of would be believed for ever.
        if self._source.content_key() != self._content:
            raise UserError(
                f"files of '{self._source.name}' changed while they were prepared; wait until they are complete (is a "
                "copy still running?), then give the same command again."
            )
        rows, states = self._whole
        record = {"pillow": PIL.__version__, "sizes": self._sizes[:rows], "files": states}
        new = self._folder / f"{_PROGRESS}.new"
        _write_durably(new, checked(record))
        new.replace(self._folder / _PROGRESS)

    def finish(self) -> None:
        """Write the index, which makes a whole entry of the folder."""
        self.save()
        ids = self._source.ids
        hashes = [bytes.fromhex(digest) for _, digest in self._whole[1].values()]
        index = {"ids": ids, "sizes": self._sizes, "labelled": self._source.labelled}
        index["fingerprint"] = _fingerprint(self._source, self._sizes, hashes)
        _write_durably(self._folder / _INDEX, json.dumps(index).encode())


def _build(folder: Path, source: Source, content: str, size: int, track: Track) -> None:
    """Write a cache entry beside its place, then move it there. To be called under the entry's lock."""
    partial_folder = folder.with_name(f".{folder.name}{_PARTIAL}")
    _clear_stale(partial_folder)
    with ExitStack() as stack:
        partial = _PartialEntry(partial_folder, source, content, size, stack)
        try:
            _check_space(folder.parent, source, size, len(source.ids) - partial.rows)
            _write_rows(partial, source, size, track)
            partial.finish()
        except BaseException:
            if partial.rows:
                with suppress(OSError, QGBenchError):
                    partial.save()
            else:
                shutil.rmtree(partial_folder, ignore_errors=True)  # nothing to go on from
            raise
    shutil.rmtree(folder, ignore_errors=True)
    partial_folder.rename(folder)
    (folder / _PROGRESS).unlink()


def _clear_stale(partial: Path) -> None:
    """Remove partial entries of the same data set and size, but of other content, that no process is writing."""
    stem = partial.name.rpartition("-")[0]
    alike = re.compile(rf"\.({re.escape(stem[1:])}-[0-9a-f]{{{_KEY_DIGITS}}}){re.escape(_PARTIAL)}")
    for other in partial.parent.iterdir():
        if other != partial and (match := alike.fullmatch(other.name)):
            with suppress(Timeout), _lock(partial.parent / match[1], timeout=0):
                shutil.rmtree(other, ignore_errors=True)


def _lock(folder: Path, timeout: float = -1) -> FileLock:
    return FileLock(folder.with_name(f".{folder.name}.lock"), timeout)


def _check_space(cache_dir: Path, source: Source, size: int, rows: int) -> None:
    """Refuse to begin what the disk cannot hold; masks at original size come on top, at most a byte a pixel."""
    needed = rows * size * size * (4 if source.labelled else 3)
    if (free := shutil.disk_usage(cache_dir).free) < needed:
        raise UnwritableError(
            f"cannot write the cache {cache_dir}: the {source.noun}s of '{source.name}' at {size} x {size} pixels need "
            f"{amount(needed)} more, and {amount(free)} are free. Free some space, or {_ELSEWHERE}."
        )


def _write_rows(partial: _PartialEntry, source: Source, size: int, track: Track) -> None:
    """Write the rows that are missing, in the order of the ids; record now and then how many are whole."""
    done, count = partial.rows, len(source.ids)
    save_at = time.monotonic()
    # Threads, as Pillow holds the interpreter's lock for a seventh of the time: they keep about 7 cores busy, and
    # processes did no better on 2.
    faults: list[UserError] = []
    with closing(in_threads(lambda id: _decoded_or_fault(source, id, size), source.ids[done:])) as decoded_in_turn:
        for decoded in track(decoded_in_turn, f"Preparing {source.name}", count, f"{source.noun}s", done):
            if isinstance(decoded, UserError):
                faults.append(decoded)
                if len(faults) == _MOST_FAULTS:
                    break
            elif not faults:  # else the rest is read to name all that cannot be
                partial.append(decoded)
                if (begin := time.monotonic()) >= save_at:
                    partial.save()
                    end = time.monotonic()
                    save_at = end + (end - begin) / _SHARE_OF_SAVES
    if len(faults) > 1:
        some = f"{len(faults)} or more" if len(faults) == _MOST_FAULTS else str(len(faults))
        raise UserError(
            f"{some} {source.noun}s of '{source.name}' cannot be used:\n  " + "\n  ".join(map(str, faults))
        ) from faults[0]
    if faults:
        raise faults[0]


def _decoded_or_fault(source: Source, id: str, size: int) -> _Decoded | UserError:
    try:
        return _decode(source, id, size)
    except UserError as fault:
        return fault


def _header(shape: tuple[int, ...]) -> bytes:
    """Return what an .npy file of these bytes begins with."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return header.getvalue()


def _write_durably(file: Path, data: bytes) -> None:
    with file.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _array_names(labelled: bool) -> list[str]:
    return [_IMAGES, _MASKS, _ORIGINALS] if labelled else [_IMAGES]


def _fingerprint(source: Source, sizes: list[tuple[int, int]], hashes: list[bytes]) -> str:
    """Return the SHA-256 of ids, original sizes, the SHA-256 of each array's file, and what `_unusual` says."""
    text = json.dumps([source.ids, sizes]) + _unusual(source)
    return hashlib.sha256(text.encode() + b"".join(hashes)).hexdigest()


def _volumes(source: Source) -> list[Slice] | None:
    return [source.volumes[id] for id in source.ids] if source.volumes else None


def _unusual(source: Source) -> str:
    """Return what numbers depend on beside arrays: classes and volumes; nothing for pictures with the one class."""
    classes, volumes = source.classes if source.labelled else Task().classes, _volumes(source)
    if classes == Task().classes and volumes is None:
        return ""
    return json.dumps([classes, volumes and [astuple(each) for each in volumes]])


def _load(folder: Path, source: Source) -> Prepared | None:
    """Open a cache entry; None where it is missing, incomplete or damaged."""
    try:
        index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        labelled = index["labelled"]
        files = [folder / name for name in _array_names(labelled)]
        # Remembered outside of the entry, which another process may be replacing.
        hashes = hash_files(files, folder.parent / ".hashes" / f"{folder.name}.json")
        if index["ids"] != source.ids or _fingerprint(source, index["sizes"], hashes) != index["fingerprint"]:
            return None
        return Prepared(
            ids=source.ids,
            groups=source.groups,
            images=np.load(folder / _IMAGES, mmap_mode="r"),
            masks=np.load(folder / _MASKS, mmap_mode="r") if labelled else None,
            sizes=np.array(index["sizes"], dtype=np.int64),
            fingerprint=index["fingerprint"],
            originals=np.memmap(folder / _ORIGINALS, dtype=np.uint8, mode="r") if labelled else None,
            classes=source.classes,
            volumes=_volumes(source),
        )
    except (OSError, UserError, ValueError, KeyError, TypeError):
        return None


def _packed_bytes(sizes: NDArray[np.int64], several: bool) -> NDArray[np.int64]:
    """Return the bytes that masks of these sizes (..., 2) take: at one bit a pixel, or one byte for several classes."""
    pixels: NDArray[np.int64] = sizes.prod(axis=-1)
    return pixels if several else -(-pixels // 8)
