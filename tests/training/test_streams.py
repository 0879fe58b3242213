from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qgbench.base.errors import UserError
from qgbench.data.cache import Prepared
from qgbench.data.experiment import ImageSet, TrainingData
from qgbench.data.experiment import whole as all_of
from qgbench.engine.device import World
from qgbench.methods import Batch
from qgbench.spec.protocol import TrainSettings, check_batches, load_protocol
from qgbench.training.ahead import Ahead
from qgbench.training.streams import ShuffledOrder, Streams

SIZE = 32
TENSORS = ("x_l", "y_l", "u_w", "u_s1", "u_s2", "cut1", "cut2")
LABELLED, UNLABELLED = TENSORS[:2], TENSORS[2:]


def image_set(images: np.ndarray, masks: np.ndarray) -> ImageSet:
    count = len(images)
    names = [str(i) for i in range(count)]
    sizes = np.full((count, 2), images.shape[1])
    return ImageSet([(Prepared(names, names, images, masks, sizes, "", None), np.arange(count))])


def flat(count: int) -> ImageSet:
    """Image i is filled with the number i: views that move pixels leave it as it is."""
    numbers = np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1)
    return image_set(np.broadcast_to(numbers, (count, 8, 8, 3)).copy(), np.zeros((count, 8, 8), np.uint8))


def pictures(count: int, seed: int = 0) -> ImageSet:
    """Dark images with one bright block each, whose mask is exactly that block."""
    masks = np.zeros((count, SIZE, SIZE), np.uint8)
    for mask, (top, left) in zip(masks, np.random.default_rng(seed).integers(2, 24, (count, 2)), strict=True):
        mask[top : top + 6, left : left + 4] = 1
    return image_set(np.repeat(masks[..., None] * 255, 3, 3), masks)


def training(labelled: ImageSet, unlabelled: ImageSet) -> TrainingData:
    return TrainingData(labelled, unlabelled, labelled, unlabelled_are_labelled=False)


def train_settings(**changes: Any) -> TrainSettings:
    return load_protocol("smoke").train.model_copy(update={"batch_labelled": 4, "batch_unlabelled": 6, **changes})


def draw(streams: Streams | Ahead, steps: int) -> list[tuple[Batch, Tensor]]:
    return [streams.next(step / 100) for step in range(steps)]


def same(first: list[tuple[Batch, Tensor]], second: list[tuple[Batch, Tensor]], names: tuple[str, ...]) -> bool:
    return all(
        torch.equal(getattr(a, name), getattr(b, name))
        for (a, _), (b, _) in zip(first, second, strict=True)
        for name in names
    )


def numbers(images: Tensor) -> list[int]:
    return [round(255 * float(image.mean())) for image in images]


# Order


@settings(deadline=None)
@given(count=st.integers(1, 12), takes=st.lists(st.integers(1, 30), min_size=1, max_size=12))
def test_every_index_comes_once_an_epoch_however_many_are_taken_at_a_time(count: int, takes: list[int]) -> None:
    order = ShuffledOrder(count, torch.Generator().manual_seed(0))
    parts = [order.take(number) for number in takes]
    assert [len(part) for part in parts] == takes
    taken = np.concatenate(parts)
    for begin in range(0, len(taken) - count + 1, count):
        assert sorted(taken[begin : begin + count]) == list(range(count))
    rest = taken[len(taken) // count * count :]
    assert len(set(rest)) == len(rest)
    assert sorted([*rest, *order.left.tolist()]) in ([], list(range(count)))


def test_epochs_differ_in_order() -> None:
    order = ShuffledOrder(50, torch.Generator().manual_seed(0))
    assert not np.array_equal(order.take(50), order.take(50))


def test_both_streams_give_every_image_once_an_epoch() -> None:
    streams = Streams(training(flat(12), flat(18)), train_settings(rotation=0.0, brightness=0.0), 0)
    drawn = draw(streams, 6)
    labelled = [number for batch, _ in drawn for number in numbers(batch.x_l)]
    unlabelled = [number for batch, _ in drawn for number in numbers(batch.u_w)]
    assert sorted(labelled[:12]) == sorted(labelled[12:]) == list(range(12))
    assert sorted(unlabelled[:18]) == sorted(unlabelled[18:]) == list(range(18))
    assert labelled[:12] != labelled[12:]


# Independence


@pytest.mark.parametrize(
    ("unlabelled", "batch"), [(pictures(16), 2), (pictures(16), 11), (pictures(5, seed=1), 6), (pictures(40), 6)]
)
def test_the_labelled_stream_ignores_the_unlabelled_one(unlabelled: ImageSet, batch: int) -> None:
    plain = draw(Streams(training(pictures(8), pictures(16)), train_settings(), 3), 6)
    other = draw(Streams(training(pictures(8), unlabelled), train_settings(batch_unlabelled=batch), 3), 6)
    assert same(plain, other, LABELLED)
    assert not all(
        a.u_w.shape == b.u_w.shape and torch.equal(a.u_w, b.u_w) for (a, _), (b, _) in zip(plain, other, strict=True)
    )


@pytest.mark.parametrize(
    ("labelled", "batch", "rotation"), [(pictures(8), 2, 20.0), (pictures(3, seed=1), 4, 20.0), (pictures(8), 4, 0.0)]
)
def test_the_unlabelled_stream_ignores_the_labelled_one(labelled: ImageSet, batch: int, rotation: float) -> None:
    plain = draw(Streams(training(pictures(8), pictures(16)), train_settings(), 3), 6)
    changed = train_settings(batch_labelled=batch, rotation=rotation)
    other = draw(Streams(training(labelled, pictures(16)), changed, 3), 6)
    assert same(plain, other, UNLABELLED)


@pytest.mark.parametrize("made", [0, 1])
def test_strong_views_that_no_method_reads_are_drawn_and_not_made(made: int) -> None:
    """What is made is the same, now and later: the numbers of the others are taken from the generator all the same."""
    data = training(pictures(8), pictures(16))
    plain = draw(Streams(data, train_settings(), 3), 6)
    fewer = draw(Streams(data, train_settings(), 3, strong_views=made), 6)
    names = [name for name in TENSORS if name not in ("u_s1", "u_s2")[made:]]
    assert same(plain, fewer, names)
    for batch, _ in fewer:
        assert [view.numel() > 0 for view in (batch.u_s1, batch.u_s2)] == [made > 0, False]


def test_equal_seeds_give_equal_batches_other_seeds_others_whatever_the_global_generator() -> None:
    data = training(pictures(8), pictures(16))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = draw(Streams(data, train_settings(), 1), 4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(5)
    assert same(first, draw(Streams(data, train_settings(), 1), 4), TENSORS)
    other = draw(Streams(data, train_settings(), 2), 4)
    for name in TENSORS:
        assert not same(first, other, (name,)), name


# Alignment


def test_held_back_masks_are_aligned_with_the_weak_view() -> None:
    drawn = draw(Streams(training(pictures(8), pictures(24)), train_settings(), 0), 8)
    for batch, truth in drawn:
        assert truth.shape == (6, 1, SIZE, SIZE)
        assert torch.equal(batch.u_w, truth.expand(-1, 3, -1, -1))
    originals = [mask for _, masks in pictures(24).batches() for mask in masks]
    moved = [not any(torch.equal(mask, original) for original in originals) for _, truth in drawn for mask in truth]
    assert sum(moved) > 20  # of 48; three of four are flipped somehow


def test_labelled_masks_are_aligned_with_their_images() -> None:
    for batch, _ in draw(Streams(training(pictures(8), pictures(24)), train_settings(brightness=0.0), 0), 4):
        assert set(batch.y_l.unique().tolist()) == {0.0, 1.0}
        assert float(((batch.x_l[:, :1] > 0.5) == (batch.y_l > 0.5)).float().mean()) > 0.99


def test_strong_views_are_aligned_with_the_weak_view_and_differ_from_each_other() -> None:
    for batch, truth in draw(Streams(training(pictures(8), pictures(24)), train_settings(blur_sigma=(0.1, 1.0)), 0), 4):
        assert not torch.equal(batch.u_s1, batch.u_s2)
        for strong in (batch.u_s1, batch.u_s2):
            assert strong.shape == batch.u_w.shape
            assert not torch.allclose(strong, batch.u_w, atol=0.02)
            grey = strong.mean(1, keepdim=True)
            threshold = (grey.amax((1, 2, 3), keepdim=True) + grey.amin((1, 2, 3), keepdim=True)) / 2
            # Blur rounds the corners of a block, nothing else moves.
            assert int(((grey > threshold) != (truth > 0.5)).flatten(1).sum(1).max()) <= 4
            assert bool((grey[truth > 0.5].min() > grey[truth < 0.5].median()).all())


def test_a_batch_has_the_stated_shapes_and_the_progress_it_was_asked_for() -> None:
    batch, _ = Streams(training(pictures(8), pictures(16)), train_settings(), 0).next(0.25)
    assert batch.progress == 0.25
    assert batch.x_l.shape == (4, 3, SIZE, SIZE)
    assert batch.y_l.shape == (4, 1, SIZE, SIZE)
    for cut in (batch.cut1, batch.cut2):
        assert cut.shape == (6, 1, SIZE, SIZE)
        assert cut.dtype == torch.bool


# Several processes


def world(rank: int, size: int) -> World:
    given = World()
    given.rank, given.size = rank, size
    return given


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_parts_of_all_processes_put_together_are_the_batch_of_one(size: int) -> None:
    known, pool = (pictures(count, seed=count)._parts[0] for count in (10, 6))
    unlabelled = ImageSet([all_of(known), all_of(replace(pool, masks=None))])
    data, train = training(pictures(8), unlabelled), train_settings(batch_labelled=6, batch_unlabelled=12)
    processes = [Streams(data, train, 0, world(rank, size)) for rank in range(size)]
    alone = Streams(data, train, 0)
    for streams in (alone, *processes):
        streams.next(0.0)
    parts = [streams.next(0.25) for streams in processes]
    whole, truth = alone.next(0.25)
    for name in TENSORS:
        given = [getattr(batch, name) for batch, _ in parts]
        assert {len(part) for part in given} == {(6 if name in LABELLED else 12) // size}
        assert torch.equal(torch.cat(given), getattr(whole, name)), name
    torch.testing.assert_close(torch.cat([part for _, part in parts]), truth, rtol=0, atol=0, equal_nan=True)
    assert 0 < int(truth.isnan().all((1, 2, 3)).sum()) < 12
    assert {batch.progress for batch, _ in parts} == {0.25}


@pytest.mark.parametrize(
    ("labelled", "unlabelled", "size", "message"),
    [
        (5, 6, 2, r"train\.batch_labelled = 5 .* 2 processes; .*train\.batch_labelled=6"),
        (6, 8, 3, r"train\.batch_unlabelled = 8 .* 3 processes; .*train\.batch_unlabelled=9"),
        (4, 4, 8, r"train\.batch_labelled = 4 .* 8 processes; .*train\.batch_labelled=8"),
    ],
)
def test_batches_that_cannot_be_shared_equally_are_refused(
    labelled: int, unlabelled: int, size: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check_batches(train_settings(batch_labelled=labelled, batch_unlabelled=unlabelled), size)


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_batches_that_can_be_shared_equally_are_taken(size: int) -> None:
    check_batches(train_settings(batch_labelled=6, batch_unlabelled=12), size)


# Resuming


@pytest.mark.parametrize("done", [0, 1, 3, 7])
def test_a_restored_state_continues_bit_for_bit(done: int) -> None:
    data = training(pictures(7), pictures(10))  # batches of 4 and 6 end amid an epoch
    whole = draw(Streams(data, train_settings(), 0), done + 5)
    first = Streams(data, train_settings(), 0)
    draw(first, done)
    state = first.state_dict()
    draw(first, 2)  # what comes after the state was taken must not reach into it
    second = Streams(data, train_settings(), 9)
    draw(second, 2)
    second.load_state_dict(state)
    resumed = draw(second, 5)
    assert same(whole[done:], resumed, TENSORS)
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(whole[done:], resumed, strict=True))
