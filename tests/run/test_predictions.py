"""Predictions come back as they were written, from a file that says when it is damaged."""

import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from qgbench.base.errors import QGBenchError
from qgbench.run.predictions import read_predictions, write_predictions

Masks = dict[str, NDArray[np.bool_]]

sizes = st.tuples(st.integers(1, 17), st.integers(1, 17))
random = sizes.flatmap(lambda size: arrays(bool, size))
constant = st.builds(np.full, sizes, st.booleans())
# A file name that is not UTF-8 comes from the system as lone surrogates.
names = st.text(st.characters(exclude_categories=[]), max_size=8)


def equal(one: Masks, other: Masks) -> bool:
    return one.keys() == other.keys() and all(
        other[id].dtype == bool and mask.shape == other[id].shape and np.array_equal(mask, other[id])
        for id, mask in one.items()
    )


def example() -> Masks:
    y, x = np.mgrid[:40, :50]
    ellipse = (y - 20) ** 2 / 100 + (x - 22) ** 2 / 300 < 1
    return {"b": ellipse, "a/../ä\n": ~ellipse.T, "none": np.zeros((3, 7), bool), "": np.ones((1, 1), bool)}


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(names, st.one_of(random, constant), max_size=5))
def test_masks_of_any_size_and_name_come_back(tmp_path_factory: pytest.TempPathFactory, masks: Masks) -> None:
    path = tmp_path_factory.getbasetemp() / "round_trip.npz"
    write_predictions(path, masks)
    back = read_predictions(path)
    assert equal(masks, back)
    assert list(back) == sorted(masks)


def test_masks_that_are_not_contiguous_come_back(tmp_path: Path) -> None:
    mask = example()["b"]
    views = {
        "transposed": mask.T,
        "every second": mask[::2, 1::3],
        "backwards": mask[::-1],
        "fortran": np.asarray(mask, order="F"),
    }
    write_predictions(tmp_path / "p.npz", views)
    assert equal(views, read_predictions(tmp_path / "p.npz"))


def test_equal_masks_give_equal_bytes_at_another_time_and_in_another_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_predictions(tmp_path / "one.npz", example())
    monkeypatch.setattr(time, "time", lambda: 2e9)
    monkeypatch.setattr(time, "localtime", lambda *_: time.gmtime(2e9))
    write_predictions(tmp_path / "two.npz", dict(reversed(example().items())))
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


def test_a_hundred_ellipses_take_less_than_half_a_kilobyte_each(tmp_path: Path) -> None:
    y, x = np.mgrid[:560, :768]
    rng = np.random.default_rng(0)
    ellipses = {}
    for number in range(100):
        centre, (a, b), angle = rng.uniform(170, 390, 2), rng.uniform(50, 220, 2), rng.uniform(0, np.pi)
        along = (x - centre[1]) * np.cos(angle) + (y - centre[0]) * np.sin(angle)
        across = (y - centre[0]) * np.cos(angle) - (x - centre[1]) * np.sin(angle)
        ellipses[f"image{number:03}"] = (along / a) ** 2 + (across / b) ** 2 < 1
    write_predictions(tmp_path / "p.npz", ellipses)
    assert (tmp_path / "p.npz").stat().st_size < 50 * 1024
    assert equal(ellipses, read_predictions(tmp_path / "p.npz"))


def test_numpy_opens_the_file_without_pickle(tmp_path: Path) -> None:
    write_predictions(tmp_path / "p.npz", {"one": np.array([[True, True, False], [False, False, True]])})
    with np.load(tmp_path / "p.npz", allow_pickle=False) as members:
        assert members["shapes"].tolist() == [[2, 3]]
        assert members["runs"].tolist() == [0, 2, 3, 1]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(QGBenchError, match=r"p\.npz cannot be read: No such file"):
        read_predictions(tmp_path / "p.npz")


def test_a_file_that_is_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    write_predictions(path, example())
    whole = path.read_bytes()
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        with pytest.raises(QGBenchError, match="cut off, damaged"):
            read_predictions(path)


@pytest.mark.parametrize("change", [0x01, 0x80, 0xFF])
def test_no_damaged_byte_ever_gives_other_masks(tmp_path: Path, change: int) -> None:
    path = tmp_path / "p.npz"
    write_predictions(path, example())
    whole = path.read_bytes()
    refused = 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ change]) + whole[place + 1 :])
        try:
            masks = read_predictions(path)
        except QGBenchError:
            refused += 1
        else:  # a byte that means nothing here, such as the system's name
            assert equal(example(), masks)
    assert refused > len(whole) / 2


@pytest.mark.parametrize(
    "members",
    [
        {"ids": np.frombuffer(b'["a"]', np.uint8)},
        {"ids": np.frombuffer(b'["a"]', np.uint8), "shapes": [[2, 2]], "counts": [1], "runs": np.array([3], "<u4")},
        {"ids": np.frombuffer(b'["a"]', np.uint8), "shapes": [[2, 2]], "counts": [2], "runs": np.array([4], "<u4")},
        {
            "ids": np.frombuffer(b'["a", "b"]', np.uint8),
            "shapes": [[2, 2]],
            "counts": [1],
            "runs": np.array([4], "<u4"),
        },
        {
            "ids": np.frombuffer(b'["a"]', np.uint8),
            "shapes": [[2, 2]],
            "counts": [1],
            "runs": np.array([4, 9], "<u4"),
        },
    ],
    ids=["a member is missing", "runs too short", "runs missing", "a mask is missing", "runs left over"],
)
def test_members_that_do_not_fit_together_are_refused(tmp_path: Path, members: dict[str, Any]) -> None:
    np.savez(tmp_path / "p.npz", **members)
    with pytest.raises(QGBenchError, match="not a file of predictions"):
        read_predictions(tmp_path / "p.npz")


class Explosive:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('unpickled')",)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    bare = tmp_path / "bare.npz"
    bare.write_bytes(pickle.dumps(Explosive()))
    inside = tmp_path / "inside.npz"
    np.savez(inside, ids=np.array([Explosive()], dtype=object), shapes=[[1, 1]], counts=[1], runs=[1])
    for path in (bare, inside):
        with pytest.raises(QGBenchError, match="not a file of predictions"):
            read_predictions(path)


def test_torch_is_not_imported() -> None:
    command = "import sys, qgbench.run.predictions; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0
