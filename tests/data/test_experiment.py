from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qgbench.base.errors import UserError
from qgbench.data.cache import Prepared
from qgbench.data.experiment import ImageSet, training_data, whole
from qgbench.data.splits import draw_labelled, make_split
from qgbench.spec.regime import Regime

SIZE = 4


def prepared(name: str, groups: list[int], first: int = 0, masked: bool = True) -> Prepared:
    """Image i is filled with the number first + i; so is its mask, cut to its parity but for a corner of lesion."""
    count = sum(groups)
    numbers = np.arange(first, first + count).astype(np.uint8).reshape(-1, 1, 1)
    masks = np.broadcast_to(numbers % 2, (count, SIZE, SIZE)).copy()
    masks[:, 0, 0] = 1
    return Prepared(
        ids=[f"{name}{i:03d}" for i in range(count)],
        groups=[f"g{group}" for group, size in enumerate(groups) for _ in range(size)],
        images=np.broadcast_to(numbers[..., None], (count, SIZE, SIZE, 3)).copy(),
        masks=masks if masked else None,
        sizes=np.full((count, 2), SIZE),
        fingerprint=name,
        originals=None,
    )


def regime(budget: int | None, *pools: str) -> Regime:
    return Regime(budget=budget, pools=pools, split="grouped")


def split_of(data: Prepared, parts: str) -> pd.DataFrame:
    names = {"t": "train", "v": "val", "x": "test"}
    return pd.DataFrame({"id": data.ids, "group": data.groups, "split": [names[part] for part in parts]})


def numbers(images: ImageSet) -> list[int]:
    """What the pixels say that the images are."""
    return [round(255 * float(image.mean())) for image in images.images(np.arange(len(images)))]


def part_ids(split: pd.DataFrame, part: str) -> set[str]:
    return set(split.loc[split["split"] == part, "id"])


# Who is in which set


@settings(max_examples=60, deadline=None)
@given(groups=st.lists(st.integers(1, 6), min_size=8, max_size=20), k=st.integers(0, 4), data=st.data())
def test_no_image_is_in_two_sets_and_no_test_image_in_any(groups: list[int], k: int, data: st.DataObject) -> None:
    images = prepared("i", groups)
    split = make_split(images.ids, images.groups, "grouped", (0.4, 0.3, 0.3))
    train = part_ids(split, "train")
    budget = data.draw(st.integers(2, len(train)))
    shuffled = split.sample(frac=1, random_state=k)
    result = training_data(images, [], shuffled, regime(budget), "own", k)
    labelled, unlabelled, val = (set(part.ids) for part in (result.labelled, result.unlabelled, result.val))
    assert len(result.labelled) == len(labelled) == budget
    assert val == part_ids(split, "val")
    if budget == len(train):
        assert result.unlabelled_are_labelled
        assert unlabelled == labelled
    else:
        assert not result.unlabelled_are_labelled
        assert labelled.isdisjoint(unlabelled)
    assert labelled | unlabelled == train
    assert (labelled | unlabelled | val).isdisjoint(part_ids(split, "test"))
    for part in (result.labelled, result.unlabelled, result.val):
        assert numbers(part) == [int(name[1:]) for name in part.ids]  # the pixels are those of the ids


def test_the_labelled_images_are_those_of_the_draw() -> None:
    images = prepared("i", [3, 2, 4, 1, 5])
    split = split_of(images, "t" * 12 + "vvx")
    for k in range(3):
        result = training_data(images, [], split, regime(6), "own", k)
        assert result.labelled.ids == draw_labelled(split[split["split"] == "train"], 6, "own", k)


def test_all_labels_with_a_pool_leave_only_the_pool_unlabelled() -> None:
    images, pool = prepared("i", [1] * 10), prepared("p", [1] * 5, first=100, masked=False)
    result = training_data(images, [whole(pool)], split_of(images, "ttttttvvxx"), regime(None, "p"), "own", 0)
    assert sorted(result.labelled.ids) == images.ids[:6]
    assert result.unlabelled.ids == pool.ids
    assert not result.unlabelled_are_labelled


def test_a_budget_of_all_without_a_pool_trains_the_unlabelled_losses_on_the_labelled_images() -> None:
    images = prepared("i", [1] * 10)
    result = training_data(images, [], split_of(images, "ttttttvvxx"), regime(None), "own", 0)
    assert result.unlabelled.ids == result.labelled.ids
    assert result.unlabelled_are_labelled


def test_labelled_images_without_any_lesion_are_refused_and_a_part_without_is_not() -> None:
    images = prepared("i", [1] * 10)
    assert images.masks is not None
    split = split_of(images, "ttttttvvxx")
    (lesion, *others) = training_data(images, [], split, regime(3), "own", 0).labelled.ids
    images.masks[[images.ids.index(id) for id in others]] = 0
    assert training_data(images, [], split, regime(3), "own", 0).labelled.ids == [lesion, *others]
    images.masks[images.ids.index(lesion)] = 0
    with pytest.raises(UserError, match="3 of the 6 training images have one: take more labelled images, or another"):
        training_data(images, [], split, regime(3), "own", 0)
    images.masks[:] = 0
    with pytest.raises(UserError, match="nor has any of the 6 training images: see qgbench data verify"):
        training_data(images, [], split, regime(3), "own", 0)


def test_classes_that_validation_does_not_show_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    images = prepared("i", [1] * 10)
    assert images.masks is not None
    images.masks[:] = 1
    split = split_of(images, "ttttttvvxx")
    training_data(images, [], split, regime(3), "own", 0)
    assert not caplog.records
    images.masks[6:8] = 0
    training_data(images, [], split, regime(3), "own", 0)
    assert "none of the 2 images to validate on shows lesion at 4 x 4 pixels, and images to train on do" in caplog.text
    caplog.clear()
    several = replace(images, classes=("a", "b", "c"))
    images.masks[0, 0, 0], images.masks[6], images.masks[8] = 2, 1, 3  # c is in the test alone
    training_data(several, [], split, regime(3), "own", 0, images.ids[:3])
    assert "to validate on shows b at 4 x 4 pixels" in caplog.text


def test_pools_join_the_unlabelled_images_and_are_marked_as_having_no_mask() -> None:
    images = prepared("i", [1] * 10)
    pools = [prepared("p", [1] * 3, first=100, masked=False), prepared("q", [1] * 2, first=200, masked=False)]
    unlabelled = training_data(
        images, [whole(pool) for pool in pools], split_of(images, "ttttttvvxx"), regime(2, "p", "q"), "own", 0
    ).unlabelled
    assert unlabelled.masked.tolist() == [True] * 4 + [False] * 5
    assert numbers(unlabelled)[4:] == [100, 101, 102, 200, 201]
    masks = unlabelled.masks(np.arange(9))
    assert masks.shape == (9, 1, SIZE, SIZE)
    assert [float(mask[0, -1, -1]) for mask in masks] == [number % 2 for number in numbers(unlabelled)[:4]] + [0.0] * 5


def test_a_budget_of_one_is_refused() -> None:
    images = prepared("i", [1] * 8)
    with pytest.raises(
        UserError, match=r"budget is 1 image; give --labelled 2 or more \(there are 4 training images\)"
    ):
        training_data(images, [], split_of(images, "ttttvvxx"), regime(1), "own", 0)


def test_a_single_validation_image_is_refused() -> None:
    images = prepared("i", [1] * 8)
    with pytest.raises(UserError, match="of 8 images 5 are to train on and 1 to validate on; at least 2 of each"):
        training_data(images, [], split_of(images, "tttttvxx"), regime(4), "own", 0)


@pytest.mark.parametrize("images", [6, 7, 11])
def test_the_least_sets_that_can_be_split_can_be_trained_on(images: int) -> None:
    data = prepared("i", [1] * images)
    result = training_data(data, [], make_split(data.ids, data.groups, "grouped"), regime(2), "own", 0)
    assert (len(result.labelled), len(result.val)) == (2, 2)


def test_a_budget_beyond_the_training_part_is_refused() -> None:
    images = prepared("i", [1] * 8)
    with pytest.raises(UserError, match="5; expected 1 to 4"):
        training_data(images, [], split_of(images, "ttttvvxx"), regime(5), "own", 0)


# Images as tensors


def test_images_come_as_rgb_in_0_to_1_in_the_order_asked_for() -> None:
    images = prepared("i", [1] * 4)
    images.images[2] = np.arange(SIZE * SIZE * 3).reshape(SIZE, SIZE, 3) * 5
    stack = ImageSet([(images, np.array([3, 2, 0]))]).images(np.array([1, 1, 0]))
    assert stack.shape == (3, 3, SIZE, SIZE)
    assert stack.dtype == torch.float32
    np.testing.assert_array_equal((stack[1] * 255).round().numpy(), images.images[2].transpose(2, 0, 1))
    assert round(255 * float(stack[2].mean())) == 3


@pytest.mark.parametrize("size", [1, 3, 7, 64])
def test_batches_give_every_image_once_in_order(size: int) -> None:
    part = ImageSet([(prepared("i", [1] * 7), np.array([6, 5, 4, 3, 2, 1, 0]))])
    batches = list(part.batches(size))
    assert all(1 <= len(image) == len(mask) <= size for image, mask in batches)
    assert [round(255 * float(image.mean())) for image in torch.cat([image for image, _ in batches])] == numbers(part)
    assert torch.equal(torch.cat([mask for _, mask in batches]), part.masks(np.arange(7)))
