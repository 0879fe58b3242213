import itertools
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from qgbench.base.errors import UserError
from qgbench.data.cache import prepare
from qgbench.data.cards import card_folder, card_names, load_card
from qgbench.data.readers import PhantomSource, open_source
from qgbench.data.splits import (
    HALF_TEST,
    PAPER,
    Fractions,
    SplitKind,
    draw_labelled,
    lesion_areas,
    load_split,
    make_split,
    split_fingerprint,
    split_name,
    write_committed_split,
)
from tests.data.test_readers import write_tree

LABELLED = [
    name
    for name in card_names("labelled")
    if card_folder(name).joinpath("splits").is_dir() and load_card(name).volumes is None
]
KINDS: tuple[SplitKind, ...] = get_args(SplitKind)

group_sizes = st.lists(st.integers(1, 12), min_size=6, max_size=25)
fractions = st.sampled_from([HALF_TEST, PAPER, (0.34, 0.33, 0.33), (0.9, 0.05, 0.05)])


def images_of(sizes: list[int]) -> tuple[list[str], list[str]]:
    groups = [f"g{n}" for n, size in enumerate(sizes) for _ in range(size)]
    return [f"{group}-{n}" for n, group in enumerate(groups)], groups


def parts(split: pd.DataFrame, column: str = "id") -> dict[str, set[str]]:
    return {part: set(split.loc[split["split"] == part, column]) for part in ("train", "val", "test")}


# Splits


@settings(max_examples=60, deadline=None)
@given(sizes=group_sizes, fractions=fractions, seed=st.integers(0, 3))
def test_no_group_crosses_and_no_image_is_lost(sizes: list[int], fractions: Fractions, seed: int) -> None:
    ids, groups = images_of(sizes)
    split = make_split(ids, groups, "grouped", fractions, seed)
    assert sorted(split["id"]) == sorted(ids)
    assert dict(zip(split["id"], split["group"], strict=True)) == dict(zip(ids, groups, strict=True))
    by_part = parts(split, "group")
    assert sum(map(len, by_part.values())) == len(sizes)
    assert len(by_part["train"]) >= 2
    assert len(by_part["val"]) >= 1
    assert len(by_part["test"]) >= 2
    assert min(map(len, parts(split).values())) >= 2


@settings(max_examples=40, deadline=None)
@given(sizes=group_sizes, kind=st.sampled_from(KINDS), order=st.randoms(use_true_random=False))
def test_order_of_rows_does_not_matter(sizes: list[int], kind: SplitKind, order: Random) -> None:
    ids, groups = images_of(sizes)
    rows = list(zip(ids, groups, strict=True))
    order.shuffle(rows)
    shuffled_ids, shuffled_groups = zip(*rows, strict=True)
    split = make_split(ids, groups, kind)
    pd.testing.assert_frame_equal(make_split(shuffled_ids, shuffled_groups, kind), split)
    shuffled_split = split.sample(frac=1, random_state=order.randrange(1000))
    assert split_fingerprint(shuffled_split) == split_fingerprint(split)
    train, shuffled_train = (s[s["split"] == "train"] for s in (split, shuffled_split))
    assert draw_labelled(shuffled_train, len(train), "own", 1) == draw_labelled(train, len(train), "own", 1)


@pytest.mark.parametrize(
    ("groups", "fractions", "expected"),
    [
        (120, HALF_TEST, (48, 12, 60)),
        (29, HALF_TEST, (12, 3, 14)),
        (15, HALF_TEST, (6, 1, 8)),  # 6, 1.5, 7.5: the test part wins the tie
        (15, PAPER, (10, 2, 3)),  # 10.5, 1.5, 3: validation wins the tie
        (5, PAPER, (2, 1, 2)),
        (5, (0.9, 0.05, 0.05), (2, 1, 2)),
    ],
)
def test_numbers_of_groups(groups: int, fractions: Fractions, expected: tuple[int, int, int]) -> None:
    ids, names = images_of([3] * groups)
    by_part = parts(make_split(ids, names, "grouped", fractions), "group")
    assert tuple(len(by_part[part]) for part in ("train", "val", "test")) == expected


def test_lesion_areas_are_balanced_between_the_parts() -> None:
    """Twenty groups, whose areas differ more between than within them: the judge is scipy's test."""
    ids, groups = images_of([10] * 20)
    noise = np.random.default_rng(0)
    areas = np.repeat(np.linspace(0.02, 0.8, 20), 10) + 0.01 * noise.random(200)
    for seed in range(5):
        distances = []
        for known in (None, areas.tolist()):
            split = make_split(ids, groups, "grouped", HALF_TEST, seed, known)
            assert Counter(split["split"]) == {"train": 80, "val": 20, "test": 100}
            area_of = dict(zip(ids, areas, strict=True))
            parts = [[area_of[id] for id in rows["id"]] for _, rows in split.groupby("split")]
            distances.append([ks_2samp(part, areas).statistic for part in parts])
        blind, balanced = distances
        assert max(balanced) < 0.46  # two groups in validation: 0.45 is the least
        assert sum(balanced) < sum(blind)


def test_areas_of_a_mask_are_its_share_of_the_original(tmp_path: Path) -> None:
    write_tree(tmp_path / "own", ids=("a", "b"))
    source = open_source(str(tmp_path / "own"))
    expected = [float(source.mask(id).mean()) for id in source.ids]
    assert lesion_areas(prepare(source, 8, tmp_path / "cache"))[:, 0] == pytest.approx(expected, abs=1e-15)


def test_image_split_follows_the_fractions_exactly() -> None:
    ids, groups = images_of([10] * 20)
    split = make_split(ids, groups, "image", PAPER)
    assert Counter(split["split"]) == {"train": 140, "val": 20, "test": 40}
    assert len(parts(split, "group")["test"]) > 4


def test_image_counts_come_near_the_fractions_where_groups_vary() -> None:
    ids, groups = images_of([1, 30, 2, 25, 3, 20, 4, 15, 5, 10, 6, 9, 7, 8, 40, 11, 12, 13, 14, 15])
    misses = []
    for seed in range(5):
        shares = make_split(ids, groups, "grouped", HALF_TEST, seed)["split"].value_counts(normalize=True)
        misses.append(
            max(abs(shares[part] - goal) for part, goal in zip(("train", "val", "test"), HALF_TEST, strict=True))
        )
    assert max(misses) < 0.02


def test_seeds_give_other_splits() -> None:
    ids, groups = images_of([2] * 30)
    assert len({split_fingerprint(make_split(ids, groups, "grouped", seed=seed)) for seed in range(6)}) == 6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("images", range(6, 16))
def test_small_sets_of_single_images_have_two_in_each_part(kind: SplitKind, images: int) -> None:
    by_part = parts(make_split(*images_of([1] * images), kind))
    assert min(map(len, by_part.values())) >= 2


@pytest.mark.parametrize("sizes", [[1] * 4 + [2], [2] + [1] * 13, [9] + [1] * 5, [1, 1, 3, 1, 1]])
def test_the_only_validation_group_has_two_images(sizes: list[int]) -> None:
    for seed in range(5):
        assert len(parts(make_split(*images_of(sizes), "grouped", seed=seed))["val"]) >= 2


@pytest.mark.parametrize(
    ("sizes", "kind", "expected"),
    [
        ([1], "image", "the data set has 1 image; an image split needs 6 images or more"),
        ([1], "grouped", "the data set has 1 image; a grouped split needs 6 images or more"),
        (
            [1] * 5,
            "grouped",
            "has 5 images; a grouped split needs 6 images or more (2 to train on, 2 to validate on, 2",
        ),
        ([5], "image", "has 5 images; an image split needs 6 images or more"),
        (
            [40],
            "grouped",
            "has 1 group of 40 images together; a grouped split needs 5 groups or more (2 to train on, 1",
        ),
        ([9, 1, 5, 7], "grouped", "has 4 groups of 22 images together; a grouped split needs 5 groups or more"),
    ],
)
def test_too_few_units(sizes: list[int], kind: SplitKind, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        make_split(*images_of(sizes), kind)
    message = str(caught.value)
    assert expected in message
    if kind == "grouped" and max(sizes) > 1:
        assert message.endswith("add groups, or give --split image (a group then has images in several parts).")
    else:
        assert message.endswith(": add images.")


def test_the_image_split_is_not_recommended_where_it_fails_too() -> None:
    with pytest.raises(UserError, match=r"has 2 groups of 5 images together; .*: add groups\.$"):
        make_split(*images_of([4, 1]), "grouped")


@pytest.mark.parametrize("bad", [(0.5, 0.1, 0.5), (0.5, 0.0, 0.5), (1.2, -0.4, 0.2), (0.5, 0.5)])
def test_bad_fractions(bad: Fractions) -> None:
    with pytest.raises(UserError, match="three positive whole percentages"):
        make_split(*images_of([1] * 9), "grouped", bad)


def test_unknown_kind() -> None:
    with pytest.raises(UserError, match="unknown split kind 'video'; expected one of: grouped, image"):
        make_split(*images_of([1] * 9), "video")  # type: ignore[arg-type]


def test_fingerprint_sees_part_and_group() -> None:
    split = make_split(*images_of([2] * 9), "grouped")
    prints = {split_fingerprint(split)}
    for column, value in (("split", "val"), ("group", "g99"), ("id", "x")):
        changed = split.copy()
        changed.loc[changed.index[split["split"] == "train"][0], column] = value
        prints.add(split_fingerprint(changed))
    assert len(prints) == 4


# Labelled draws


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=20), k=st.integers(0, 5), data=st.data())
def test_smaller_budget_is_inside_a_larger_one(sizes: list[int], k: int, data: st.DataObject) -> None:
    ids, groups = images_of(sizes)
    train = pd.DataFrame({"id": ids, "group": groups})
    larger = data.draw(st.integers(1, len(ids)))
    smaller = data.draw(st.integers(1, larger))
    drawn = draw_labelled(train, larger, "own", k)
    assert draw_labelled(train, smaller, "own", k) == drawn[:smaller]
    assert len(set(drawn)) == larger
    assert set(drawn) <= set(ids)


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=20), k=st.integers(0, 5), data=st.data())
def test_groups_are_taken_in_turn(sizes: list[int], k: int, data: st.DataObject) -> None:
    ids, groups = images_of(sizes)
    budget = data.draw(st.integers(1, len(ids)))
    drawn = Counter(
        dict(zip(ids, groups, strict=True))[id]
        for id in draw_labelled(pd.DataFrame({"id": ids, "group": groups}), budget, "own", k)
    )
    # A group may lag behind the fullest by more than one image only if it has no image left.
    fullest = max(drawn.values())
    for n, size in enumerate(sizes):
        assert drawn[f"g{n}"] >= min(size, fullest - 1)


def test_draws_of_other_seed_indices_and_data_sets_differ() -> None:
    ids, groups = images_of([4] * 20)
    train = pd.DataFrame({"id": ids, "group": groups})
    draws = [draw_labelled(train, 12, "own", k) for k in range(8)]
    assert len({frozenset(draw) for draw in draws}) == 8
    assert draw_labelled(train, 12, "/elsewhere/own/", 0) == draws[0] != draw_labelled(train, 12, "other", 0)
    # Each image is as likely as any other: with 400 draws of 20 of 80, 100 hits each, standard deviation 8.7.
    hits = Counter(id for k in range(400) for id in draw_labelled(train, 20, "own", k))
    assert len(hits) == 80
    assert 60 < min(hits.values()) <= max(hits.values()) < 140


@pytest.mark.parametrize("budget", [0, 10])
def test_budget_out_of_range(budget: int) -> None:
    ids, groups = images_of([3, 3, 3])
    with pytest.raises(UserError, match=f"labelled budget is {budget}; expected 1 to 9"):
        draw_labelled(pd.DataFrame({"id": ids, "group": groups}), budget, "own", 0)


def test_other_processes_agree() -> None:
    code = (
        "from tests.data.test_splits import *\n"
        "s = make_split(*images_of([3, 1, 4, 1, 5, 9, 2, 6]), 'grouped')\n"
        "print(split_fingerprint(s), draw_labelled(s[s['split'] == 'train'], 4, 'own', 7))"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("1", "2")
    }
    split = make_split(*images_of([3, 1, 4, 1, 5, 9, 2, 6]), "grouped")
    expected = f"{split_fingerprint(split)} {draw_labelled(split[split['split'] == 'train'], 4, 'own', 7)}\n"
    assert answers == {expected}


# Committed splits


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fractions", [HALF_TEST, PAPER])
def test_committed_split(name: str, kind: SplitKind, fractions: Fractions) -> None:
    split = load_split(name, kind, fractions)
    assert list(split.columns) == ["id", "group", "split"]
    assert split["id"].is_monotonic_increasing
    assert split["id"].is_unique
    shares = split["split"].value_counts(normalize=True)
    assert [shares[part] for part in ("train", "val", "test")] == pytest.approx(fractions, abs=0.03)
    if kind == "grouped":
        assert (split.groupby("group")["split"].nunique() == 1).all()


@pytest.mark.parametrize(
    "name", ["phantom", *(pytest.param(n, marks=pytest.mark.real) for n in LABELLED if n != "phantom")]
)
def test_committed_splits_are_made_by_the_rule_and_balanced(name: str) -> None:
    if name != "phantom" and "QGBENCH_DATA" not in os.environ:
        pytest.skip("QGBENCH_DATA is not set")
    prepared = prepare(open_source(name), 64)
    areas = lesion_areas(prepared)[:, 0]
    area_of = dict(zip(prepared.ids, areas, strict=True))
    for kind, fractions in itertools.product(KINDS, (HALF_TEST, PAPER)):
        split = load_split(name, kind, fractions)
        made = make_split(prepared.ids, prepared.groups, kind, fractions, areas=areas)
        pd.testing.assert_frame_equal(split, made, check_dtype=False)
        for _, part in split.groupby("split"):
            distance = ks_2samp([area_of[id] for id in part["id"]], areas).statistic
            assert distance * len(part) ** 0.5 < (1.51 if kind == "grouped" else 0.9)


def test_phantom_split_fits_the_phantom() -> None:
    assert len(load_split(PhantomSource(), "grouped", HALF_TEST)) == 240


def test_committed_split_of_other_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_split(PhantomSource(patients=119), "grouped")
    assert "'phantom' lists 240 images and yours are 238: 2 images (g119_0, g119_1) missing" in str(caught.value)
    write_tree(tmp_path / "ph2", ids=("IMD002", "other"))
    with pytest.raises(UserError, match=r"199 images \(IMD003, .*; 1 image \(other\) not listed"):
        load_split(open_source(str(tmp_path / "ph2")))


def test_committed_split_with_other_groups_is_refused() -> None:
    source = PhantomSource()
    source.groups = ["g001" if id == "g000_1" else group for id, group in zip(source.ids, source.groups, strict=True)]
    with pytest.raises(UserError, match=r"1 image \(g000_1\) in another group than listed"):
        load_split(source)


def test_split_of_own_data_is_drawn(tmp_path: Path) -> None:
    write_tree(tmp_path / "own", ids=tuple("abcdefgh"))
    source = open_source(str(tmp_path / "own"))
    pd.testing.assert_frame_equal(load_split(source), make_split(source.ids, source.groups, "grouped"))


def test_name_without_a_committed_split() -> None:
    with pytest.raises(UserError, match=r"no split grouped-60-20-20.csv is committed for 'ph2'"):
        load_split("ph2", "grouped", (0.6, 0.2, 0.2))
    with pytest.raises(UserError, match="is committed for 'nothing'"):
        load_split("nothing")


def test_write_committed_split(tmp_path: Path) -> None:
    write_tree(tmp_path / "own", ids=("01", "02", "NA", "null", "1e5", "x"))
    source = open_source(str(tmp_path / "own"))
    files = write_committed_split(source, tmp_path / "splits")
    assert [file.name for file in files] == [
        "grouped-40-10-50.csv",
        "grouped-70-10-20.csv",
        "image-40-10-50.csv",
        "image-70-10-20.csv",
    ]
    lines = files[0].read_text().splitlines()
    assert lines[0] == "id,group,split"
    assert [line.split(",")[0] for line in lines[1:]] == source.ids
    assert split_name("image", PAPER) == files[3].stem


@pytest.mark.real
@pytest.mark.parametrize("name", [name for name in LABELLED if name != "phantom"])
@pytest.mark.parametrize("fractions", [HALF_TEST, PAPER])
def test_committed_splits_fit_the_real_images(name: str, fractions: Fractions) -> None:
    if "QGBENCH_DATA" not in os.environ:
        pytest.skip("QGBENCH_DATA is not set")
    source = open_source(name)
    table = pd.read_csv(Path(os.environ["QGBENCH_DATA"]) / name / "groups.csv", dtype=str)
    for kind in KINDS:
        split = load_split(source, kind, fractions)
        joined = table.merge(split, left_on="stem", right_on="id", validate="one_to_one")
        assert len(joined) == len(source.ids) == len(split)
        crossing = (joined.groupby("group_x")["split"].nunique() > 1).any()
        assert crossing == (kind == "image" and table["group"].duplicated().any())
