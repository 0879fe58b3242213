import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from skimage.transform import resize_local_mean

from qgbench.data import cache
from qgbench.data.cache import Prepared, default_cache_dir, prepare, resize_mask
from qgbench.data.readers import FolderSource, open_pool, open_source
from qgbench.errors import QGBenchError, UserError
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
    return sorted(path for path in folder.iterdir() if not path.name.endswith(".lock"))


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


def test_bad_file_leaves_nothing_behind(tree: Path, tmp_path: Path) -> None:
    save_mask(tree / "masks/c.png", corner(5, 5, 2))
    with pytest.raises(UserError, match=r"c\.png is 5 x 5"):
        prepare(open_source(str(tree)), 12, tmp_path / "cache")
    assert entries(tmp_path / "cache") == []


def test_interruption_leaves_nothing_behind(tree: Path, tmp_path: Path) -> None:
    def interrupt(iterable: Iterable, description: str, total: int, unit: str) -> Iterator:
        yield next(iter(iterable))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(open_source(str(tree)), 12, tmp_path / "cache", track=interrupt)
    assert entries(tmp_path / "cache") == []
    assert prepare(open_source(str(tree)), 12, tmp_path / "cache").images.shape[0] == 3


def stop_after(images: int, act: Callable[[], object]) -> Callable[..., Iterator]:
    """A progress bar that does something in mid-preparation."""

    def track(iterable: Iterable, description: str, total: int, unit: str) -> Iterator:
        for number, item in enumerate(iterable):
            if number == images:
                act()
            yield item

    return track


@pytest.fixture
def one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode the next image only when the one before is written."""

    class Serial:
        def __init__(self, workers: int | None) -> None:
            pass

        def map(self, function: Callable, items: Iterable) -> Iterator:
            return map(function, items)

        def shutdown(self, cancel_futures: bool) -> None:
            pass

    monkeypatch.setattr(cache, "ThreadPoolExecutor", Serial)


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
    mask.write_bytes(original)
    assert prepare(source, 12, tmp_path / "cache").original_mask(0).sum() == 16


def test_cache_that_vanishes_in_mid_preparation(tree: Path, tmp_path: Path) -> None:
    source = open_source(str(tree))
    with pytest.raises(
        QGBenchError, match=r"the cache .*cache: No such file.* It was removed meanwhile: give the same"
    ):
        prepare(source, 12, tmp_path / "cache", stop_after(1, lambda: shutil.rmtree(tmp_path / "cache")))
    assert not (tmp_path / "cache").exists()
    assert len(prepare(source, 12, tmp_path / "cache").ids) == 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("name", ["images.npy", "masks.npy", "originals.bin", "index.json"])
def test_full_disk_in_mid_preparation(tree: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Path.open

    def to_a_full_disk(self: Path, mode: str = "r", *arguments: Any, **options: Any) -> IO:
        full = self.name == name and "w" in mode
        return original(Path("/dev/full") if full else self, mode, *arguments, **options)

    def write_text(self: Path, text: str, encoding: str) -> None:
        with self.open("w", encoding=encoding) as file:
            file.write(text)

    source = open_source(str(tree))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", to_a_full_disk)
        patch.setattr(Path, "write_text", write_text)
        with pytest.raises(QGBenchError) as caught:
            prepare(source, 12, tmp_path / "cache")
    assert str(caught.value) == (
        f"cannot write the cache {tmp_path / 'cache'}: No space left on device. "
        "Free some space, or set QGBENCH_CACHE to a folder on another disk."
    )
    assert entries(tmp_path / "cache") == []
    assert len(prepare(source, 12, tmp_path / "cache").ids) == 3


KILLED = """
import sys, time
from pathlib import Path
from qgbench.data.cache import prepare
from qgbench.data.readers import open_source

def track(iterable, description, total, unit):
    for item in iterable:
        yield item
        print("one is written", flush=True)
        time.sleep(60)

prepare(open_source(sys.argv[1]), 12, Path(sys.argv[2]), track)
"""


@pytest.mark.timeout(60)
def test_remains_of_a_killed_process_are_cleared(tree: Path, tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", KILLED, str(tree), str(tmp_path / "cache")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "one is written\n"
        child.kill()
    (partial,) = entries(tmp_path / "cache")
    assert (partial / "images.npy").exists()
    prepared = prepare(open_source(str(tree)), 12, tmp_path / "cache")
    (entry,) = entries(tmp_path / "cache")
    assert entry != partial
    assert prepared.fingerprint == prepare(open_source(str(tree)), 12, tmp_path / "other").fingerprint


def test_cache_that_cannot_be_written(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(QGBenchError, match=r"cannot write the cache .*QGBENCH_CACHE"):
        prepare(open_source(str(tree)), 12, tmp_path / "file")


def test_size_below_one(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="image size is 0"):
        prepare(open_source(str(tree)), 0, tmp_path / "cache")


def test_progress_is_told_what_is_coming(tree: Path, tmp_path: Path) -> None:
    told: list[object] = []

    def track(iterable: Iterable, description: str, total: int, unit: str) -> Iterator:
        told.append((description, total, unit))
        for item in iterable:
            told.append("item")
            yield item

    prepare(open_source(str(tree)), 12, tmp_path / "cache", track=track)
    assert told == [("Preparing own", 3, "images"), "item", "item", "item"]


# Two processes


def prepare_in_child(tree: str, folder: str, start: Barrier, results: "Queue[tuple[str, int, int]]") -> None:
    tracked = []

    def track(iterable: Iterable, description: str, total: int, unit: str) -> Iterator:
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
