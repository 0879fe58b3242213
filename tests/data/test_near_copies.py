"""Near copies between what a run trains on and what it is measured on."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qgbench.base.progress import Track, no_progress
from qgbench.data import near_copies as module
from qgbench.data.content import CACHE_VARIABLE
from qgbench.data.near_copies import NearCopy, near_copies, warning
from qgbench.data.readers import open_pool
from qgbench.data.run_data import open_run_data
from qgbench.data.splits import HALF_TEST, draw_pool
from qgbench.spec.regime import Regime
from tests.data.acquire.test_verify import parts_of, save, write_pool, write_set
from tests.data.test_duplicates import encoded, smaller


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return write_set(tmp_path / "own")


def found(tree: Path, regime: str, track: Track = no_progress) -> list[NearCopy]:
    return near_copies(open_run_data(str(tree), Regime.parse(regime), 0, 64, HALF_TEST), track)


def saved_anew(file: Path) -> np.ndarray:
    return np.asarray(encoded(smaller(Image.open(file))).transpose(Image.Transpose.FLIP_LEFT_RIGHT))


def test_a_sound_data_set_has_none(tree: Path, tmp_path: Path) -> None:
    assert found(tree, f"n4+{write_pool(tmp_path / 'pool', 200)}@grouped") == []


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_copy_in_a_pool_is_found(tree: Path, tmp_path: Path, part: str) -> None:
    pool = write_pool(tmp_path / "pool", 200)
    id = parts_of(tree)[part][0]
    save(pool / "unlabelled/p1.png", saved_anew(tree / f"images/{id}.png"))
    assert found(tree, f"n4+{pool}@grouped") == [NearCopy(id, part, "p1", labelled=False, pool="pool")]


def test_a_copy_beside_the_data_set_is_found(tree: Path) -> None:
    id = parts_of(tree)["test"][0]
    save(tree / "unlabelled/u.png", saved_anew(tree / f"images/{id}.png"))
    assert found(tree, "n4@grouped") == [NearCopy(id, "test", "u", labelled=False, pool="own_unlabelled")]


def test_copies_in_the_training_part_are_found_whether_they_are_labelled_or_not(tree: Path) -> None:
    parts = parts_of(tree)
    original = Image.open(tree / f"images/{parts['test'][0]}.png")
    for id in parts["train"]:
        again = encoded(smaller(original)).resize(original.size)
        save(tree / f"images/{id}.png", np.asarray(again))
    copies = found(tree, "n4@grouped")
    assert {copy.trained for copy in copies} == set(parts["train"])
    assert {copy.id for copy in copies} == {parts["test"][0]}
    assert sum(copy.labelled for copy in copies) == 4


def test_copies_within_what_is_trained_on_or_measured_on_are_no_leak(tree: Path, tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool", 200)
    parts = parts_of(tree)
    save(pool / "unlabelled/p1.png", saved_anew(tree / f"images/{parts['train'][0]}.png"))
    save(tree / f"images/{parts['test'][1]}.png", np.asarray(Image.open(tree / f"images/{parts['test'][0]}.png")))
    assert found(tree, f"n4+{pool}@grouped") == []


def test_images_that_are_not_drawn_from_a_pool_are_none_that_are_trained_on(tree: Path, tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool", 200, 6)
    id = parts_of(tree)["test"][0]
    ids = sorted(file.stem for file in (pool / "unlabelled").iterdir())
    (first,) = draw_pool(ids, open_pool(str(pool)).name, 1, str(tree), 0)
    save(pool / f"unlabelled/{next(name for name in ids if name != first)}.png", saved_anew(tree / f"images/{id}.png"))
    drawn = [bool(found(tree, f"n4+{pool}~{number}@grouped")) for number in range(1, 7)]
    assert drawn == sorted(drawn)
    assert (drawn[0], drawn[-1]) == (False, True)


def test_images_are_read_once_for_all_runs(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = write_pool(tmp_path / "pool", 200)
    id = parts_of(tree)["test"][0]
    save(pool / "unlabelled/p1.png", saved_anew(tree / f"images/{id}.png"))
    first = found(tree, f"n4+{pool}@grouped")
    monkeypatch.setattr(module, "waves_of", None)
    assert found(tree, f"n4+{pool}@grouped") == first != []


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"no numbers"])
def test_what_is_kept_is_made_anew_where_it_is_damaged(tree: Path, content: bytes) -> None:
    id = parts_of(tree)["test"][0]
    save(tree / "unlabelled/u.png", saved_anew(tree / f"images/{id}.png"))
    first = found(tree, "n4@grouped")
    kept = list((tree.parent / "cache").glob(".waves-1/*.npy"))
    assert len(kept) == 2
    for file in kept:
        file.write_bytes(content)
    assert found(tree, "n4@grouped") == first != []


def test_the_warning_says_how_many_of_which_kind_and_what_to_do() -> None:
    ours, theirs = NearCopy("a", "test", "x", True), [NearCopy("b", "val", str(n), False, "pool") for n in range(4)]
    copies = [ours, *theirs]
    text = warning(copies, "own", ["pool"])
    assert "trained on (labelled: 1, unlabelled: 4) and measured on (val: 1, test: 1)" in text
    assert "a (test) and x, b (val) and pool/0, b (val) and pool/1, ..." in text
    assert "'qgbench data verify own pool --write-groups groups.csv'" in text
    assert "'qgbench data prepare own --groups groups.csv'" in text
    assert "'qgbench data add NEW --from ph2 --groups groups.csv'" in warning(copies, "ph2", [])
    assert "'qgbench data add NEW --from ./own --groups groups.csv'" in warning(copies, "./own", [])
    assert text.endswith("; remove copies from pool.")
    assert "pool" not in warning([ours], "own", [])
    assert "'qgbench data verify own pool' lists all; remove copies from pool." in warning(theirs, "own", ["pool"])
