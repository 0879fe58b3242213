import errno
import io
import itertools
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from skimage.transform import resize_local_mean
from typing_extensions import Buffer

from qgbench.base.errors import QGBenchError, UserError
from qgbench.data import cache
from qgbench.data import content as file_content
from qgbench.data.cache import Prepared, default_cache_dir, prepare, resize_mask
from qgbench.data.content import read_checked
from qgbench.data.readers import FolderSource, open_pool, open_source
from tests.data.test_readers import corner, save_mask, write_tree


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    write_tree(tmp_path / "own")
    (tmp_path / "own/groups.csv").write_text("stem,group\na,p\nb,p\nc,q\n")
    return tmp_path / "own"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the images that were decoded, in the order of decoding."""
    seen: list[str] = []
    original = FolderSource.image

    def image(self: FolderSource, id: str) -> np.ndarray:
        seen.append(id)
        return original(self, id)

    monkeypatch.setattr(FolderSource, "image", image)
    return seen


def masks_of(prepared: Prepared) -> np.ndarray:
    assert prepared.masks is not None
    return prepared.masks


def entries(folder: Path) -> list[Path]:
    """What may be taken for prepared arrays."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def partials(folder: Path) -> list[Path]:
    return sorted(folder.glob(".*.partial"))


def rows_recorded(folder: Path) -> list[int]:
    """Rows of each partial entry that the next process goes on from."""
    return [len(read_checked(partial / "progress.json")["sizes"]) for partial in partials(folder)]


def content_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


# Arrays


def test_arrays(tree: Path, tmp_path: Path) -> None:
    source = open_source(str(tree))
    prepared = prepare(source, 12, tmp_path / "cache")
    assert (prepared.ids, prepared.groups) == (["a", "b", "c"], ["p", "p", "q"])
    assert (prepared.images.shape, prepared.images.dtype) == ((3, 12, 12, 3), np.uint8)
    assert (masks_of(prepared).shape, masks_of(prepared).dtype) == ((3, 12, 12), np.uint8)
    np.testing.assert_array_equal(prepared.sizes, [[21, 30], [20, 31], [22, 29]])
    for index, id in enumerate(prepared.ids):
        expected = Image.open(tree / f"images/{id}.png").resize((12, 12), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(prepared.images[index], np.asarray(expected))
        np.testing.assert_array_equal(masks_of(prepared)[index], resize_mask(source.mask(id), 12))


def test_arrays_are_read_only_maps(tree: Path, tmp_path: Path) -> None:
    prepared = prepare(open_source(str(tree)), 12, tmp_path / "cache")
    assert isinstance(prepared.images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        prepared.images[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        masks_of(prepared)[0] = 0


def test_images_at_their_own_size_are_unchanged(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    pixels = rng.integers(256, size=(16, 16, 3), dtype=np.uint8)
    mask = (rng.random((16, 16)) < 0.5).astype(np.uint8) * 255
    for part, content in (("images", pixels), ("masks", mask)):
        (tmp_path / "own" / part).mkdir(parents=True)
        save_mask(tmp_path / "own" / part / "a.png", content)
    prepared = prepare(open_source(str(tmp_path / "own")), 16, tmp_path / "cache")
    np.testing.assert_array_equal(prepared.images[0], pixels)
    np.testing.assert_array_equal(masks_of(prepared)[0], mask // 255)


@settings(max_examples=60, deadline=None)
@given(mask=hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40)), size=st.integers(1, 24))
def test_mask_resize_agrees_with_skimage(mask: np.ndarray, size: int) -> None:
    cover = resize_local_mean(mask.astype(float), (size, size), grid_mode=True, preserve_range=True)
    clear = np.abs(cover - 0.5) > 1e-4
    np.testing.assert_array_equal(resize_mask(mask, size)[clear], (cover > 0.5)[clear])


def test_half_covered_pixel_is_foreground() -> None:
    mask = np.array([[1, 0, 0, 0], [1, 0, 0, 1], [1, 1, 0, 0], [1, 0, 0, 0]], dtype=bool)
    np.testing.assert_array_equal(resize_mask(mask, 2), [[1, 0], [1, 0]])


def test_pool_has_images_only(tree: Path, tmp_path: Path) -> None:
    (tree / "images").rename(tree / "unlabelled")
    prepared = prepare(open_pool(str(tree)), 12, tmp_path / "cache")
    assert prepared.images.shape == (3, 12, 12, 3)
    assert prepared.masks is None
    with pytest.raises(QGBenchError, match="no masks"):
        prepared.original_mask(0)


@settings(max_examples=15, deadline=None)
@given(
    masks=st.lists(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=23)), min_size=1, max_size=5),
)
def test_original_masks_are_bit_equal(masks: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("tree")
    for part in ("images", "masks"):
        (folder / "own" / part).mkdir(parents=True)
        for n, mask in enumerate(masks):
            save_mask(folder / f"own/{part}/{n}.png", mask.astype(np.uint8) * 255)
    prepared = prepare(open_source(str(folder / "own")), 8, folder / "cache")
    for n, mask in enumerate(masks):
        np.testing.assert_array_equal(prepared.original_mask(n), mask)
        assert prepared.original_mask(n).dtype == np.bool_
    np.testing.assert_array_equal(prepared.original_mask(-1), masks[-1])


def test_empty_and_full_masks_stay_so(tree: Path, tmp_path: Path) -> None:
    save_mask(tree / "masks/a.png", np.zeros((21, 30), dtype=np.uint8))
    save_mask(tree / "masks/b.png", np.full((20, 31), 255, dtype=np.uint8))
    prepared = prepare(open_source(str(tree)), 12, tmp_path / "cache")
    assert [int(masks_of(prepared)[n].sum()) for n in (0, 1)] == [0, 144]


# Keys


def test_second_call_decodes_nothing(tree: Path, tmp_path: Path, decoded: list[str]) -> None:
    first = prepare(open_source(str(tree)), 12, tmp_path / "cache")
    assert sorted(decoded) == ["a", "b", "c"]
    second = prepare(
        open_source(str(tree)), 12, tmp_path / "cache", track=lambda *args, **kwargs: pytest.fail("tracked")
    )
    assert len(decoded) == 3
    assert second.fingerprint == first.fingerprint
    np.testing.assert_array_equal(second.images, first.images)


def test_changed_pixel_gives_another_entry(tree: Path, tmp_path: Path, decoded: list[str]) -> None:
    first = prepare(open_source(str(tree)), 12, tmp_path / "cache")
    mask = corner(21, 30, 4)
    mask[10, 10] = 255
    save_mask(tree / "masks/a.png", mask)
    second = prepare(open_source(str(tree)), 12, tmp_path / "cache")
    assert len(decoded) == 6
    assert second.fingerprint != first.fingerprint
    assert second.original_mask(0)[10, 10]
    assert not first.original_mask(0)[10, 10]
    assert len(entries(tmp_path / "cache")) == 2


def test_changed_groups_reach_a_kept_entry(tree: Path, tmp_path: Path, decoded: list[str]) -> None:
    prepare(open_source(str(tree)), 12, tmp_path / "cache")
    (tree / "groups.csv").write_text("stem,group\na,p\nb,q\nc,q\n")
    assert prepare(open_source(str(tree)), 12, tmp_path / "cache").groups == ["p", "q", "q"]
    assert len(decoded) == 3


def test_size_and_name_are_in_the_key(tree: Path, tmp_path: Path) -> None:
    fingerprints = {prepare(open_source(str(tree)), size, tmp_path / "cache").fingerprint for size in (8, 9)}
    assert len(fingerprints) == 2
    assert [path.name.rsplit("-", 1)[0] for path in entries(tmp_path / "cache")] == ["own-8", "own-9"]


def test_fingerprint_does_not_depend_on_the_place(tree: Path, tmp_path: Path) -> None:
    first = prepare(open_source(str(tree)), 12, tmp_path / "cache").fingerprint
    shutil.copytree(tree, tmp_path / "elsewhere/own")
    assert prepare(open_source(str(tmp_path / "elsewhere/own")), 12, tmp_path / "cache2").fingerprint == first


def test_default_cache_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QGBENCH_CACHE", str(tmp_path))
    assert default_cache_dir() == tmp_path
    monkeypatch.delenv("QGBENCH_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_cache_dir() == tmp_path / "home/.cache/qgbench"


# Damage


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("harm", [Path.unlink, cut, flip])
@pytest.mark.parametrize("name", ["images.npy", "masks.npy", "originals.bin", "index.json"])
def test_damaged_entry_is_rebuilt(
    tree: Path, tmp_path: Path, decoded: list[str], harm: Callable[[Path], None], name: str
) -> None:
    source = open_source(str(tree))
    intact = prepare(source, 12, tmp_path / "cache")
    expected, fingerprint = np.array(intact.images), intact.fingerprint
    del intact
    (entry,) = entries(tmp_path / "cache")
    harm(entry / name)
    again = prepare(source, 12, tmp_path / "cache")
    assert len(decoded) == 6
    assert again.fingerprint == fingerprint
    np.testing.assert_array_equal(again.images, expected)
    for index, id in enumerate(again.ids):
        np.testing.assert_array_equal(again.original_mask(index), source.mask(id))
    assert entries(tmp_path / "cache") == [entry]


@pytest.mark.parametrize(("most", "some"), [(20, "2 images"), (2, "2 or more images"), (1, "")])
def test_bad_files_are_named_together(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, some: str
) -> None:
    monkeypatch.setattr(cache, "_MOST_FAULTS", most)
    for name in ("a", "b"):
        save_mask(tree / f"masks/{name}.png", corner(5, 5, 2))
    with pytest.raises(UserError) as caught:
        prepare(open_source(str(tree)), 12, tmp_path / "cache")
    first, *others = str(caught.value).splitlines()
    if not some:
        assert "a.png is 5 x 5" in first
        assert not others
        return
    assert first == f"{some} of 'own' cannot be used:"
    assert re.findall(r"(\w)\.png is 5 x 5", "\n".join(others)) == ["a", "b"]
    assert rows_recorded(tmp_path / "cache") == [], "c, which is sound, is not written in the place of a"


def test_bad_file_is_named_and_leaves_no_entry(tree: Path, tmp_path: Path) -> None:
    intact = (tree / "masks/c.png").read_bytes()
    save_mask(tree / "masks/c.png", corner(5, 5, 2))
    with pytest.raises(UserError, match=r"c\.png is 5 x 5"):
        prepare(open_source(str(tree)), 12, tmp_path / "cache")
    assert entries(tmp_path / "cache") == []
    assert rows_recorded(tmp_path / "cache") == [2]
    (tree / "masks/c.png").write_bytes(intact)
    prepare(open_source(str(tree)), 12, tmp_path / "cache")
    assert len(entries(tmp_path / "cache")) == 1
    assert partials(tmp_path / "cache") == []


def interrupted_after(images: int) -> Callable[..., Iterator]:
    def track(iterable: Iterable, description: str, total: int, unit: str, start: int = 0) -> Iterator:
        yield from itertools.islice(iterable, images)
        raise KeyboardInterrupt

    return track


# Going on


@pytest.fixture
def long_tree(tmp_path: Path) -> Path:
    write_tree(tmp_path / "own", ids=tuple("abcdefghi"))
    return tmp_path / "own"


def test_interrupted_preparation_goes_on(long_tree: Path, tmp_path: Path, decoded: list[str]) -> None:
    source, told = open_source(str(long_tree)), []
    for rows in (4, 2):
        with pytest.raises(KeyboardInterrupt):
            prepare(source, 12, tmp_path / "cache", interrupted_after(rows))
    assert entries(tmp_path / "cache") == []
    assert rows_recorded(tmp_path / "cache") == [6]
    decoded.clear()

    def track(iterable: Iterable, description: str, total: int, unit: str, start: int = 0) -> Iterator:
        told.append((total, start))
        yield from iterable

    prepare(source, 12, tmp_path / "cache", track)
    assert decoded == ["g", "h", "i"]
    assert told == [(9, 6)]
    (entry,) = entries(tmp_path / "cache")
    prepare(source, 12, tmp_path / "other")
    assert content_of(entry) == content_of(tmp_path / "other" / entry.name)
    assert partials(tmp_path / "cache") == []


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_killed_at_any_byte(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Rows after the last record may be there in part, in each file another part."""
    folder = tmp_path_factory.mktemp("killed")
    write_tree(folder / "own", ids=tuple("abcdefghi"))
    source = open_source(str(folder / "own"))
    with pytest.raises(KeyboardInterrupt):
        prepare(source, 12, folder / "cache", interrupted_after(3))
    (partial,) = partials(folder / "cache")
    record = (partial / "progress.json").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        prepare(source, 12, folder / "cache", interrupted_after(3))
    for name in ("images.npy", "masks.npy", "originals.bin"):
        recorded = json.loads(record.split(b"\n")[1])["files"][name][0]
        os.truncate(partial / name, data.draw(st.integers(recorded, (partial / name).stat().st_size)))
    (partial / "progress.json").write_bytes(record)
    (partial / "progress.json.new").write_bytes(record[: data.draw(st.integers(0, len(record)))])
    tracked: list[int] = []

    def track(iterable: Iterable, description: str, total: int, unit: str, start: int = 0) -> Iterator:
        tracked.append(start)
        yield from iterable

    prepare(source, 12, folder / "cache", track)
    assert tracked == [3]
    (entry,) = entries(folder / "cache")
    prepare(source, 12, folder / "other")
    assert content_of(entry) == content_of(folder / "other" / entry.name)


def flip_first_row(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[140 if file.suffix == ".npy" else 10] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("harm", [Path.unlink, flip_first_row, lambda file: os.truncate(file, 9)])
@pytest.mark.parametrize("name", ["images.npy", "masks.npy", "originals.bin", "progress.json"])
def test_damaged_partial_entry_is_begun_anew(
    long_tree: Path, tmp_path: Path, decoded: list[str], harm: Callable[[Path], None], name: str
) -> None:
    source = open_source(str(long_tree))
    with pytest.raises(KeyboardInterrupt):
        prepare(source, 12, tmp_path / "cache", interrupted_after(4))
    (partial,) = partials(tmp_path / "cache")
    harm(partial / name)
    decoded.clear()
    prepare(source, 12, tmp_path / "cache")
    assert sorted(decoded) == list("abcdefghi")
    (entry,) = entries(tmp_path / "cache")
    prepare(source, 12, tmp_path / "other")
    assert content_of(entry) == content_of(tmp_path / "other" / entry.name)


def test_other_pillow_begins_anew(
    long_tree: Path, tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        prepare(open_source(str(long_tree)), 12, tmp_path / "cache", interrupted_after(4))
    monkeypatch.setattr("PIL.__version__", "0.1")
    decoded.clear()
    prepare(open_source(str(long_tree)), 12, tmp_path / "cache")
    assert len(decoded) == 9


def test_partial_entries_of_other_content_are_cleared_unless_in_use(long_tree: Path, tmp_path: Path) -> None:
    for shade in (40, 41):
        with pytest.raises(KeyboardInterrupt):
            prepare(open_source(str(long_tree)), 12, tmp_path / "cache", interrupted_after(1))
        save_mask(long_tree / "images/a.png", np.full((20, 31, 3), shade, dtype=np.uint8))
        for size in (9, 10):
            with pytest.raises(KeyboardInterrupt):
                prepare(open_source(str(long_tree)), size, tmp_path / "cache", interrupted_after(1))
    sizes = [partial.name.split("-")[1] for partial in partials(tmp_path / "cache")]
    assert sorted(sizes) == ["10", "12", "9"]
    (stale,) = [partial for partial in partials(tmp_path / "cache") if partial.name.startswith(".own-12-")]
    with FileLock(stale.with_name(stale.name.replace(".partial", ".lock"))):
        prepare(open_source(str(long_tree)), 12, tmp_path / "cache")
        assert stale.exists()
    save_mask(long_tree / "images/a.png", np.full((20, 31, 3), 42, dtype=np.uint8))
    prepare(open_source(str(long_tree)), 12, tmp_path / "cache")
    assert not stale.exists()


def test_work_ahead_is_bounded(tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Results must not pile up where writing is slower than decoding."""
    write_tree(tmp_path / "own", ids=tuple(f"{n:02d}" for n in range(24)))
    monkeypatch.setattr("qgbench.base.cores.usable_cores", lambda: 2)
    most = 0

    def track(iterable: Iterable, description: str, total: int, unit: str, start: int = 0) -> Iterator:
        nonlocal most
        for number, item in enumerate(iterable):
            time.sleep(0.02)
            most = max(most, len(decoded) - number)
            yield item

    prepare(open_source(str(tmp_path / "own")), 12, tmp_path / "cache", track)
    assert 1 < most <= 5


def stop_after(images: int, act: Callable[[], object]) -> Callable[..., Iterator]:
    """A progress bar that does something in mid-preparation."""

    def track(iterable: Iterable, description: str, total: int, unit: str, start: int = 0) -> Iterator:
        for number, item in enumerate(iterable):
            if number == images:
                act()
            yield item

    return track


@pytest.fixture
def one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode the next image only when the one before is written."""

    class Serial:
        def __init__(self, workers: int) -> None:
            pass

        def submit(self, function: Callable, *arguments: object) -> SimpleNamespace:
            return SimpleNamespace(result=lambda: function(*arguments))

        def shutdown(self, cancel_futures: bool) -> None:
            pass

    monkeypatch.setattr("qgbench.base.cores.ThreadPoolExecutor", Serial)


@pytest.mark.parametrize("what", ["", "images", "masks", "images/b.png", "masks/c.png"])
@pytest.mark.usefixtures("one_at_a_time")
def test_data_that_vanish_in_mid_preparation(tree: Path, tmp_path: Path, what: str) -> None:
    source = open_source(str(tree))
    expected = prepare(source, 12, tmp_path / "other").fingerprint
    gone = tree / what
    with pytest.raises(
        UserError, match=r"own/(images|masks)/[bc]\.png is gone\. Put it back .* same command"
    ) as caught:
        prepare(source, 12, tmp_path / "cache", stop_after(1, lambda: gone.rename(tmp_path / "away")))
    assert "\n" not in str(caught.value)
    assert entries(tmp_path / "cache") == []
    (tmp_path / "away").rename(gone)
    assert prepare(open_source(str(tree)), 12, tmp_path / "cache").fingerprint == expected
    assert len(entries(tmp_path / "cache")) == 1


def test_file_that_vanishes_before_preparation(tree: Path, tmp_path: Path) -> None:
    source = open_source(str(tree))
    (tree / "masks/b.png").unlink()
    with pytest.raises(UserError, match=r"masks/b\.png is gone"):
        prepare(source, 12, tmp_path / "cache")


def test_file_that_changes_in_mid_preparation(tree: Path, tmp_path: Path) -> None:
    source = open_source(str(tree))
    mask = tree / "masks/a.png"
    original = mask.read_bytes()
    with pytest.raises(
        UserError, match=r"files of 'own' changed while they were prepared; wait until they are complete"
    ):
        prepare(source, 12, tmp_path / "cache", stop_after(1, lambda: save_mask(mask, corner(21, 30, 9))))
    assert entries(tmp_path / "cache") == []
    mask.write_bytes(original)  # what was made of the other one must not be gone on from
    assert prepare(source, 12, tmp_path / "cache").original_mask(0).sum() == 16


def test_cache_that_vanishes_in_mid_preparation(tree: Path, tmp_path: Path) -> None:
    source = open_source(str(tree))
    with pytest.raises(
        QGBenchError, match=r"the cache .*cache: No such file.*removed meanwhile, or cannot be made there: give"
    ):
        prepare(source, 12, tmp_path / "cache", stop_after(1, lambda: shutil.rmtree(tmp_path / "cache")))
    assert not (tmp_path / "cache").exists()
    assert len(prepare(source, 12, tmp_path / "cache").ids) == 3


class FullDisk(io.FileIO):
    """A file that takes 200 bytes, which is less than a header and a row."""

    def write(self, data: Buffer) -> int:
        if self.tell() + len(bytes(data)) > 200:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


@pytest.mark.parametrize("name", ["images.npy", "masks.npy", "originals.bin", "progress.json.new", "index.json"])
@pytest.mark.parametrize("rows", [0, 4])
def test_full_disk_in_mid_preparation(
    long_tree: Path, tmp_path: Path, name: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Path.open

    def open_on_full_disk(self: Path, mode: str = "r", *arguments: Any, **options: Any) -> IO:
        if self.name == name and mode in ("ab", "wb"):
            return io.BufferedWriter(FullDisk(self, mode))
        return original(self, mode, *arguments, **options)

    source = open_source(str(long_tree))
    if rows:
        with pytest.raises(KeyboardInterrupt):
            prepare(source, 12, tmp_path / "cache", interrupted_after(rows))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", open_on_full_disk)
        with pytest.raises(QGBenchError) as caught:
            prepare(source, 12, tmp_path / "cache")
    assert str(caught.value) == (
        f"cannot write the cache {tmp_path / 'cache'}: No space left on device. Free some space on that disk, or "
        "set QGBENCH_CACHE to a folder on another disk, and give the same command again."
    )
    assert entries(tmp_path / "cache") == []
    if rows:
        assert rows_recorded(tmp_path / "cache")[0] >= rows
    prepare(source, 12, tmp_path / "cache")
    (entry,) = entries(tmp_path / "cache")
    prepare(source, 12, tmp_path / "other")
    assert content_of(entry) == content_of(tmp_path / "other" / entry.name)


def test_disk_too_small_for_the_arrays(
    long_tree: Path, tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(str(long_tree))
    needed = 9 * 12 * 12 * 4
    free = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free._replace(free=needed - 1))
    with pytest.raises(
        QGBenchError, match=r"'own' at 12 x 12 pixels need 5\.1 KiB more, and 5\.1 KiB are free\. Free some space"
    ):
        prepare(source, 12, tmp_path / "cache")
    assert decoded == []
    assert not list((tmp_path / "cache").glob(".*.partial"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free._replace(free=needed))
    with pytest.raises(KeyboardInterrupt):
        prepare(source, 12, tmp_path / "cache", interrupted_after(8))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free._replace(free=12 * 12 * 4))  # for the row that is left
    assert len(prepare(source, 12, tmp_path / "cache").ids) == 9


KILLED = """
import sys, time
from pathlib import Path
from qgbench.data import cache
from qgbench.data.readers import open_source

def track(iterable, description, total, unit, start=0):
    for number, item in enumerate(iterable):
        if number == 3:
            print("three are written", flush=True)
            time.sleep(60)
        yield item

cache._SHARE_OF_SAVES = float("inf")
cache.prepare(open_source(sys.argv[1]), 12, Path(sys.argv[2]), track)
"""


@pytest.mark.timeout(60)
def test_killed_preparation_goes_on(long_tree: Path, tmp_path: Path, decoded: list[str]) -> None:
    arguments = [sys.executable, "-c", KILLED, str(long_tree), str(tmp_path / "cache")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "three are written\n"
        child.kill()
    assert entries(tmp_path / "cache") == []
    assert rows_recorded(tmp_path / "cache") == [3]
    prepare(open_source(str(long_tree)), 12, tmp_path / "cache")
    assert sorted(decoded) == list("defghi")
    (entry,) = entries(tmp_path / "cache")
    prepare(open_source(str(long_tree)), 12, tmp_path / "other")
    assert content_of(entry) == content_of(tmp_path / "other" / entry.name)


def test_intact_arrays_are_read_once(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(str(tree))
    prepare(source, 12, tmp_path / "cache")
    monkeypatch.setattr(file_content, "_LEAST_AGE", 0)
    fingerprint = prepare(source, 12, tmp_path / "cache").fingerprint
    monkeypatch.setattr(file_content, "_hash", lambda file: pytest.fail(f"{file} was read"))
    assert prepare(source, 12, tmp_path / "cache").fingerprint == fingerprint


def test_cache_that_cannot_be_written(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", Path("/proc/none/cache")):
        with pytest.raises(UserError, match=r"cannot write the cache .*set QGBENCH_CACHE"):
            prepare(open_source(str(tree)), 12, place)


def test_size_below_one(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="image size is 0"):
        prepare(open_source(str(tree)), 0, tmp_path / "cache")


def test_progress_is_told_what_is_coming(tree: Path, tmp_path: Path) -> None:
    told: list[object] = []

    def track(iterable: Iterable, description: str, total: int, unit: str, start: int = 0) -> Iterator:
        told.append((description, total, unit))
        for item in iterable:
            told.append("item")
            yield item

    prepare(open_source(str(tree)), 12, tmp_path / "cache", track=track)
    assert told == [("Preparing own", 3, "images"), "item", "item", "item"]


# Two processes


def prepare_in_child(tree: str, folder: str, start: Barrier, results: "Queue[tuple[str, int, int]]") -> None:
    tracked = []

    def track(iterable: Iterable, description: str, total: int, unit: str, start: int = 0) -> Iterator:
        tracked.append(total)
        yield from iterable

    source = open_source(tree)
    start.wait(30)
    prepared = prepare(source, 12, Path(folder), track)
    results.put((prepared.fingerprint, sum(tracked), int(prepared.images.sum())))


@pytest.mark.timeout(60)
def test_two_processes_at_once(tmp_path: Path) -> None:
    write_tree(tmp_path / "own", ids=tuple(f"{n:03d}" for n in range(9)))
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(2), context.Queue()
    arguments = (str(tmp_path / "own"), str(tmp_path / "cache"), start, results)
    children = [context.Process(target=prepare_in_child, args=arguments) for _ in range(2)]
    for child in children:
        child.start()
    answers = [results.get(timeout=40) for _ in children]
    for child in children:
        child.join(10)
        assert child.exitcode == 0
    assert sorted(decodes for _, decodes, _ in answers) == [0, 9]
    expected: Prepared = prepare(open_source(str(tmp_path / "own")), 12, tmp_path / "other")
    assert {(fingerprint, total) for fingerprint, _, total in answers} == {
        (expected.fingerprint, int(expected.images.sum()))
    }
    assert len(entries(tmp_path / "cache")) == 1


# The real images


@pytest.mark.real
def test_real_masks_at_their_original_size(tmp_path: Path) -> None:
    if "QGBENCH_DATA" not in os.environ:
        pytest.skip("QGBENCH_DATA is not set")
    source = open_source("scd")
    prepared = prepare(source, 96, tmp_path)
    for index in range(0, len(prepared.ids), 7):
        mask = source.mask(prepared.ids[index])
        np.testing.assert_array_equal(prepared.original_mask(index), mask)
        assert abs(masks_of(prepared)[index].mean() - mask.mean()) < 0.01


def test_version_is_in_the_key(tree: Path, tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(open_source(str(tree)), 12, tmp_path / "cache")
    monkeypatch.setattr(cache, "CACHE_VERSION", cache.CACHE_VERSION + 1)
    prepare(open_source(str(tree)), 12, tmp_path / "cache")
    assert len(decoded) == 6
