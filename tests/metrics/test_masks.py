"""Per-image metrics against hand-drawn pictures, medpy, MONAI, exact integer arithmetic and their own invariances."""

import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from medpy.metric import binary as medpy_binary
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from monai.metrics.utils import get_mask_edges
from scipy.ndimage import binary_erosion, gaussian_filter

from qgbench.metrics.masks import ImageMetrics, diagonal, dice, measure
from qgbench.metrics.table import IMAGE_COLUMNS

Mask = npt.NDArray[np.bool_]
DISTANCES = ("hd95", "hd95_max", "assd")
SCORES = ("dice", "jaccard", "precision", "recall", "nsd_2px", "nsd_2pct")


def draw(*rows: str) -> Mask:
    """Turn '#' and '.' into a mask."""
    return np.array([[character == "#" for character in row] for row in rows])


def block(shape: tuple[int, int], rows: slice, columns: slice) -> Mask:
    mask = np.zeros(shape, bool)
    mask[rows, columns] = True
    return mask


def values(metrics: ImageMetrics, names: tuple[str, ...]) -> list[float]:
    return [getattr(metrics, name) for name in names]


# ---------------------------------------------------------------------------------------------------- drawn by hand


def test_fields_are_the_columns_of_the_record() -> None:
    names = [field.name for field in dataclasses.fields(ImageMetrics)]
    assert sorted([*names, "id", "class", "group", "height", "width", "q", "confidence"]) == sorted(IMAGE_COLUMNS)


def test_one_pixel_away() -> None:
    metrics = measure(draw("#...", "...."), draw(".#..", "...."))
    assert metrics == ImageMetrics(1, 1, 0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, "ok")


def test_one_pixel_away_diagonally() -> None:
    metrics = measure(draw("#.", ".."), draw("..", ".#"))
    assert values(metrics, DISTANCES) == pytest.approx([math.sqrt(2)] * 3, abs=1e-12)


def test_half_overlapping_strips() -> None:
    metrics = measure(draw("###.."), draw(".####"))
    assert (metrics.n_ref, metrics.n_pred, metrics.n_tp) == (4, 3, 2)
    assert values(metrics, ("dice", "jaccard", "precision", "recall")) == pytest.approx([4 / 7, 2 / 5, 2 / 3, 2 / 4])
    # to the reference 1, 0, 0; to the prediction 0, 0, 1, 2
    assert metrics.assd == pytest.approx(4 / 7)
    assert metrics.nsd_2px == 1.0
    assert metrics.nsd_2pct == pytest.approx(4 / 7)


def test_two_squares_2_px_apart_are_within_2_px() -> None:
    left, right = block((9, 12), slice(3, 6), slice(1, 4)), block((9, 12), slice(3, 6), slice(5, 8))
    metrics = measure(left, right)
    # each ring of 8 has 3 pixels 2 px away, 2 pixels 3 px away (its middle is not border), 3 pixels 4 px away
    assert metrics.nsd_2px == 6 / 16
    assert metrics.hd95 == metrics.hd95_max == 4.0
    assert metrics.assd == pytest.approx((3 * 2 + 2 * 3 + 3 * 4) / 8)
    assert metrics.dice == 0.0
    assert metrics.status == "ok"


def test_two_squares_3_px_apart_are_not_within_2_px() -> None:
    left, right = block((9, 12), slice(3, 6), slice(1, 4)), block((9, 12), slice(3, 6), slice(6, 9))
    assert measure(left, right).nsd_2px == 0.0


def test_line_against_its_end_pixel_tells_the_definitions_apart() -> None:
    metrics = measure(np.ones((1, 20), bool), block((1, 20), slice(0, 1), slice(0, 1)))
    # to the reference 0, 1, ..., 19; to the prediction 0
    assert metrics.hd95 == pytest.approx(18.0)  # pooled: the 20th of 21 sorted distances
    assert metrics.hd95_max == pytest.approx(0.95 * 19)
    assert metrics.assd == pytest.approx(190 / 21)  # the mean of the two means would be 4.75
    assert metrics.nsd_2px == pytest.approx(4 / 21)
    assert metrics.nsd_2pct == pytest.approx(2 / 21)
    assert (metrics.precision, metrics.recall) == (1 / 20, 1.0)


def test_hole_in_the_prediction_is_border() -> None:
    ring = draw("#####", "#####", "##.##", "#####", "#####")
    metrics = measure(ring, np.ones((5, 5), bool))
    # the outer 16 pixels agree; the hole's 4 neighbours lie 1 px from the outer ring, its corners are not border
    assert metrics.assd == pytest.approx(4 * 1 / (20 + 16))
    assert metrics.hd95_max == 1.0


def test_border_is_of_4_connectivity() -> None:
    # The plus leaves one pixel inside, the 3 x 3 square too: borders of 4 and of 8 pixels.
    metrics = measure(draw(".....", "..#..", ".###.", "..#..", "....."), block((5, 5), slice(1, 4), slice(1, 4)))
    assert metrics.assd == pytest.approx(4 * 1 / (4 + 8))


def test_full_against_full_is_perfect() -> None:
    full = np.ones((6, 8), bool)
    assert measure(full, full) == ImageMetrics(48, 48, 48, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, "ok")


def test_pixels_at_the_image_edge_are_border() -> None:
    # Were the frame of a full mask not border, it would have none, and no distance to the centre pixel.
    metrics = measure(np.ones((5, 5), bool), block((5, 5), slice(2, 3), slice(2, 3)))
    ring = [2.0] * 4 + [math.sqrt(5)] * 8 + [math.sqrt(8)] * 4
    assert metrics.assd == pytest.approx((sum(ring) + 2.0) / 17)
    assert metrics.nsd_2px == pytest.approx(5 / 17)


def test_empty_prediction() -> None:
    metrics = measure(np.zeros((4, 5), bool), block((4, 5), slice(0, 2), slice(0, 2)))
    assert (metrics.n_ref, metrics.n_pred, metrics.n_tp, metrics.status) == (4, 0, 0, "missed")
    assert values(metrics, SCORES) == [0.0] * 6
    assert np.isnan(values(metrics, DISTANCES)).all()


def test_empty_reference() -> None:
    metrics = measure(block((4, 5), slice(0, 2), slice(0, 2)), np.zeros((4, 5), bool))
    assert (metrics.n_ref, metrics.n_pred, metrics.n_tp, metrics.status) == (0, 4, 0, "spurious")
    assert values(metrics, SCORES) == [0.0] * 6
    assert np.isnan(values(metrics, DISTANCES)).all()


@pytest.mark.parametrize("shape", [(4, 5), (1, 1), (0, 3)])
def test_both_empty(shape: tuple[int, int]) -> None:
    empty = np.zeros(shape, bool)
    assert measure(empty, empty) == ImageMetrics(0, 0, 0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, "both_empty")
    assert dice(empty, empty) == 1.0


def test_spacing_is_height_then_width() -> None:
    above, left, pixel = draw("#.", ".."), draw("..", "#."), draw("..", ".#")
    assert measure(left, pixel, (3.0, 5.0)).hd95 == 5.0
    assert measure(above, left, (3.0, 5.0)).hd95 == 3.0
    assert measure(above, pixel, (3.0, 5.0)).hd95 == pytest.approx(math.sqrt(34))


def test_2_px_are_twice_the_smaller_side_of_a_pixel() -> None:
    pixel = draw("#....", ".....", ".....")
    two_down, two_right = draw(".....", ".....", "#...."), draw("..#..", ".....", ".....")
    assert measure(pixel, two_down, (3.0, 5.0)).nsd_2px == 1.0
    assert measure(pixel, two_right, (3.0, 5.0)).nsd_2px == 0.0
    assert measure(pixel, two_right, (5.0, 3.0)).nsd_2px == 1.0


@pytest.mark.parametrize(("gap", "share"), [(4, 1.0), (5, 1.0), (6, 0.0)])
def test_2_percent_of_a_diagonal_of_250_px_are_5_px(gap: int, share: float) -> None:
    first = block((150, 200), slice(7, 8), slice(90, 91))
    second = block((150, 200), slice(7, 8), slice(90 + gap, 91 + gap))
    assert measure(first, second).nsd_2pct == share


def test_diagonal() -> None:
    assert diagonal((30, 40)) == 50.0
    assert diagonal((30, 40), (4.0, 0.75)) == pytest.approx(math.hypot(120, 30))


# -------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("compare", [measure, dice])
@pytest.mark.parametrize(
    ("pred", "ref"), [((4, 5), (5, 4)), ((4,), (4,)), ((1, 1, 4, 5), (1, 1, 4, 5)), ((4, 5), (1, 4, 5))]
)
def test_shapes_that_do_not_fit_are_both_named(
    compare: Callable[[Mask, Mask], object], pred: tuple[int, ...], ref: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="one shape") as caught:
        compare(np.zeros(pred, bool), np.zeros(ref, bool))
    assert f"{pred} and {ref}" in str(caught.value)


@pytest.mark.parametrize("value", [0.3, 255, math.nan, -1])
def test_a_map_that_is_no_mask_is_refused(value: float) -> None:
    mask = np.ones((3, 3), bool)
    with pytest.raises(ValueError, match="the prediction must hold only 0 and 1"):
        measure(np.full((3, 3), value), mask)
    with pytest.raises(ValueError, match="the reference must hold only 0 and 1"):
        dice(mask, np.full((3, 3), value))


@pytest.mark.parametrize("spacing", [(0.0, 1.0), (1.0, -2.0), (math.nan, 1.0), (math.inf, 1.0), (1.0, 1.0, 1.0)])
def test_impossible_spacing_is_refused(spacing: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="two positive numbers"):
        measure(np.ones((3, 3), bool), np.ones((3, 3), bool), spacing)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_zeros_and_ones_of_any_type_are_masks(dtype: type) -> None:
    pred, ref = draw("##.", ".#."), draw(".##", ".#.")
    assert measure(pred.astype(dtype), ref.astype(dtype).tolist()) == measure(pred, ref)


# --------------------------------------------------------------------------------------------------- outside judges

SHAPES = [(1, 1), (1, 9), (8, 1), (2, 2), (3, 5), (7, 7), (16, 11), (24, 40), (64, 48)]
SPACINGS = [(1.0, 1.0), (0.5, 2.0), (0.7, 0.31), (3.3, 1.1)]


def random_mask(rng: np.random.Generator, shape: tuple[int, int]) -> Mask:
    """Draw a non-empty mask: noise, blob, box (often at the edge), pixel, line, full, nearly full or checkerboard."""
    height, width = shape
    kind = rng.integers(8)
    if kind == 0:
        mask = rng.random(shape) < rng.choice([0.02, 0.2, 0.5, 0.9])
    elif kind == 1:
        field = gaussian_filter(rng.standard_normal(shape), max(shape) / 8)
        mask = field > np.quantile(field, rng.uniform(0.1, 0.95))
    elif kind == 2:
        rows, columns = np.sort(rng.integers(0, height + 1, 2)), np.sort(rng.integers(0, width + 1, 2))
        mask = block(shape, slice(*rows), slice(*columns))
    elif kind == 3:
        mask = np.zeros(shape, bool)
    elif kind == 4:
        mask = np.zeros(shape, bool)
        mask[rng.integers(height)] = True
    elif kind == 5:
        mask = np.ones(shape, bool)
    elif kind == 6:
        mask = rng.random(shape) > 2 / (height * width)
    else:
        mask = np.add.outer(np.arange(height), np.arange(width)) % 2 == 0
    if not mask.any():
        mask[rng.integers(height), rng.integers(width)] = True
    return mask


def random_pairs(count: int, seed: int) -> Iterator[tuple[tuple[float, float], list[Mask], list[Mask]]]:
    """Yield, for each shape and spacing, `count` pairs of non-empty masks, independent or near each other."""
    for index, shape in enumerate(SHAPES):
        for place, spacing in enumerate(SPACINGS):
            rng = np.random.default_rng((seed, index, place))
            refs = [random_mask(rng, shape) for _ in range(count)]
            preds = [np.roll(ref, rng.integers(-2, 3, 2), (0, 1)) ^ (rng.random(shape) < 0.02) for ref in refs]
            yield spacing, [p if p.any() and i % 2 else random_mask(rng, shape) for i, p in enumerate(preds)], refs


def test_distances_and_overlap_equal_medpy() -> None:
    judged = 0
    for spacing, preds, refs in random_pairs(60, seed=1):
        for pred, ref in zip(preds, refs, strict=True):
            metrics = measure(pred, ref, spacing)
            ours = values(metrics, ("hd95", "assd", "dice", "jaccard", "precision", "recall"))
            theirs = [medpy_binary.hd95(pred, ref, spacing), medpy_binary.assd(pred, ref, spacing)]
            theirs += [getattr(medpy_binary, name)(pred, ref) for name in ("dc", "jc", "precision", "recall")]
            assert ours == pytest.approx(theirs, rel=0, abs=1e-9), (pred.shape, spacing)
            judged += 1
    assert judged == 60 * len(SHAPES) * len(SPACINGS)


@pytest.mark.parametrize("size", [200, 513])
def test_distances_equal_medpy_on_large_images(size: int) -> None:
    rng = np.random.default_rng(size)
    for _ in range(3):
        field = gaussian_filter(rng.standard_normal((size, size - 20)), size / 20)
        ref = field > field.std()
        pred = field + 0.5 * gaussian_filter(rng.standard_normal(field.shape), size / 30) > field.std()
        pred ^= rng.random(field.shape) < 0.001
        metrics = measure(pred, ref)
        theirs = [medpy_binary.hd95(pred, ref), medpy_binary.assd(pred, ref)]
        assert [metrics.hd95, metrics.assd] == pytest.approx(theirs, rel=0, abs=1e-9)


def as_batch(masks: list[Mask]) -> torch.Tensor:
    return torch.from_numpy(np.stack(masks)[:, None].astype(np.float32))


def test_border_equals_monai_up_to_its_crop() -> None:
    # MONAI crops to the joint foreground with a margin of 1, padded with background where the image ends: the same
    # border pixels as ours, also for full and edge-touching masks, so that no class of masks needs an exception below.
    compared = 0
    for _, preds, refs in random_pairs(5, seed=2):
        for pred, ref in zip(preds, refs, strict=True):
            for mask, theirs in zip((pred, ref), get_mask_edges(pred, ref), strict=True):
                rows, columns = np.nonzero(pred | ref)
                ours = np.pad(mask ^ binary_erosion(mask), 1)[
                    rows.min() : rows.max() + 3, columns.min() : columns.max() + 3
                ]
                np.testing.assert_array_equal(np.asarray(theirs), ours)
                compared += 1
    assert compared == 2 * 5 * len(SHAPES) * len(SPACINGS)


def test_hd95_max_equals_monai() -> None:
    for spacing, preds, refs in random_pairs(30, seed=3):
        theirs = compute_hausdorff_distance(
            as_batch(preds), as_batch(refs), include_background=True, percentile=95, spacing=spacing
        )
        ours = [measure(pred, ref, spacing).hd95_max for pred, ref in zip(preds, refs, strict=True)]
        np.testing.assert_allclose(ours, theirs[:, 0], rtol=0, atol=1e-4)


def test_nsd_equals_monai() -> None:
    for spacing, preds, refs in random_pairs(12, seed=4):
        metrics = [measure(pred, ref, spacing) for pred, ref in zip(preds, refs, strict=True)]
        tolerances = {
            "nsd_2px": 2 * min(spacing),
            "nsd_2pct": 0.02 * math.hypot(refs[0].shape[0] * spacing[0], refs[0].shape[1] * spacing[1]),
        }
        for name, tolerance in tolerances.items():
            # MONAI's distances are float32: without slack, those equal to the tolerance would count or not by chance.
            theirs = compute_surface_dice(
                as_batch(preds), as_batch(refs), [tolerance * (1 + 1e-6)], include_background=True, spacing=spacing
            )
            np.testing.assert_allclose([getattr(m, name) for m in metrics], theirs[:, 0], rtol=0, atol=1e-6)


def test_on_empty_masks_monai_has_no_number_and_the_written_rule_holds() -> None:
    empty, pixel = np.zeros((6, 6), bool), block((6, 6), slice(2, 3), slice(2, 3))
    preds, refs = [empty, empty, pixel], [empty, pixel, empty]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hausdorff = compute_hausdorff_distance(as_batch(preds), as_batch(refs), include_background=True, percentile=95)
        surface_dice = compute_surface_dice(as_batch(preds), as_batch(refs), [2.0], include_background=True)
    assert not torch.isfinite(hausdorff).any()
    np.testing.assert_array_equal(surface_dice[:, 0], [math.nan, 0.0, 0.0])
    metrics = [measure(pred, ref) for pred, ref in zip(preds, refs, strict=True)]
    np.testing.assert_array_equal([m.hd95_max for m in metrics], [0.0, math.nan, math.nan])
    np.testing.assert_array_equal([m.nsd_2px for m in metrics], [1.0, 0.0, 0.0])


def exact_nsd(pred: Mask, ref: Mask, sides: tuple[int, int]) -> tuple[float, float]:
    """NSD at 2 px and at 2 % of the diagonal by comparing squared distances of all border pairs, in integers."""
    height, width = sides[0] * pred.shape[0], sides[1] * pred.shape[1]
    points = [np.argwhere(mask ^ binary_erosion(mask)) * sides for mask in (pred, ref)]
    squared = ((points[0][:, None] - points[1]) ** 2).sum(axis=2)
    nearest = np.concatenate((squared.min(axis=1), squared.min(axis=0)))
    return float(np.mean(nearest <= (2 * min(sides)) ** 2)), float(np.mean(2500 * nearest <= height**2 + width**2))


@pytest.mark.parametrize("sides", [(10, 10), (7, 7), (7, 3), (33, 11), (1, 2)])
def test_nsd_is_exact_also_where_distances_equal_the_tolerance(sides: tuple[int, int]) -> None:
    spacing = (sides[0] / 10, sides[1] / 10)
    rng = np.random.default_rng(sides)
    for shape in [(1, 30), (12, 16), (30, 40), (45, 60)]:
        for _ in range(30):
            pred, ref = random_mask(rng, shape), random_mask(rng, shape)
            metrics = measure(pred, ref, spacing)
            assert (metrics.nsd_2px, metrics.nsd_2pct) == pytest.approx(exact_nsd(pred, ref, sides), abs=1e-12)


# --------------------------------------------------------------------------------------------------------- volumes

VOLUMES = [(1, 1, 1), (1, 7, 5), (4, 1, 6), (3, 9, 8), (10, 24, 24), (14, 12, 10)]
VOXELS = [(1.0, 1.0, 1.0), (10.0, 1.4, 1.4), (0.7, 0.31, 2.2), (25.0, 1.0, 1.0)]


def random_volume(rng: np.random.Generator, shape: tuple[int, ...]) -> Mask:
    """Draw a mask that is not empty: noise, a blob, a box, a voxel, or full."""
    kind = rng.integers(5)
    if kind == 0:
        mask = rng.random(shape) < rng.choice([0.02, 0.3, 0.9])
    elif kind == 1:
        field = gaussian_filter(rng.standard_normal(shape), [side / 6 for side in shape])
        mask = field > np.quantile(field, rng.uniform(0.3, 0.98))
    elif kind == 2:
        mask = np.zeros(shape, bool)
        mask[tuple(slice(*np.sort(rng.integers(0, side + 1, 2))) for side in shape)] = True
    else:
        mask = np.full(shape, kind == 4)
    if not mask.any():
        mask[tuple(rng.integers(side) for side in shape)] = True
    return mask


def volume_pairs(number: int, seed: int) -> Iterator[tuple[tuple[float, ...], Mask, Mask]]:
    rng = np.random.default_rng(seed)
    for spacing in VOXELS:
        for shape in VOLUMES:
            for _ in range(number):
                yield spacing, random_volume(rng, shape), random_volume(rng, shape)


def test_boxes_apart_in_a_volume_by_hand() -> None:
    mask = np.zeros((6, 4, 4), bool)
    pred, ref = mask.copy(), mask.copy()
    pred[1, 1:3, 1:3], ref[3, 1:3, 1:3] = True, True
    metrics = measure(pred, ref, (5.0, 2.0, 3.0))  # two slices of 5 mm apart, each voxel from its own
    assert values(metrics, DISTANCES) == [10.0] * 3
    assert (metrics.n_ref, metrics.n_pred, metrics.n_tp, metrics.nsd_2px) == (4, 4, 0, 0.0)
    assert measure(pred, ref, (1.0, 2.0, 3.0)).nsd_2px == 1.0, "2 px are twice the smallest of the three sides"
    assert measure(pred, ref).hd95 == 2.0, "without a spacing in voxels"
    assert diagonal((6, 4, 4), (5.0, 2.0, 3.0)) == pytest.approx(math.sqrt(30**2 + 8**2 + 12**2))
    # 2 % of the diagonal of 300 x 400 x 1200 mm, 1300 mm, are 26 mm.
    for gap, share in ((26, 1.0), (27, 0.0)):
        far = np.zeros((300, 4, 4), bool), np.zeros((300, 4, 4), bool)
        far[0][100, 0, 0], far[1][100 + gap, 0, 0] = True, True
        assert measure(*far, (1.0, 100.0, 300.0)).nsd_2pct == share


def test_spacing_of_a_volume_is_three_positive_numbers() -> None:
    mask = np.ones((2, 3, 3), bool)
    for spacing in [(1.0, 1.0), (1.0, 1.0, 0.0)]:
        with pytest.raises(ValueError, match="depth, height and width of a voxel, three positive numbers"):
            measure(mask, mask, spacing)


def test_empty_volumes_follow_the_rule_of_images() -> None:
    empty, full = np.zeros((2, 3, 4), bool), np.ones((2, 3, 4), bool)
    assert measure(empty, empty) == ImageMetrics(0, 0, 0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, "both_empty")
    assert measure(full, empty).status == "spurious"
    assert np.isnan(values(measure(empty, full), DISTANCES)).all()


def test_volumes_equal_medpy() -> None:
    for spacing, pred, ref in volume_pairs(6, seed=6):
        metrics = measure(pred, ref, spacing)
        theirs = [getattr(medpy_binary, name)(pred, ref, spacing) for name in ("hd95", "assd")]
        assert [metrics.hd95, metrics.assd] == pytest.approx(theirs, abs=1e-9)
        assert metrics.dice == pytest.approx(medpy_binary.dc(pred, ref), abs=1e-12)
        assert metrics.jaccard == pytest.approx(medpy_binary.jc(pred, ref), abs=1e-12)


def test_volumes_equal_monai() -> None:
    for spacing, pred, ref in volume_pairs(2, seed=7):
        metrics, sides = measure(pred, ref, spacing), list(spacing)
        batches = as_batch([pred]), as_batch([ref])
        hausdorff = compute_hausdorff_distance(*batches, include_background=True, percentile=95, spacing=sides)
        assert metrics.hd95_max == pytest.approx(float(hausdorff[0, 0]), abs=1e-3)
        length = math.hypot(*(side * unit for side, unit in zip(pred.shape, spacing, strict=True)))
        for name, tolerance in {"nsd_2px": 2 * min(spacing), "nsd_2pct": 0.02 * length}.items():
            theirs = compute_surface_dice(*batches, [tolerance * (1 + 1e-6)], include_background=True, spacing=sides)
            assert getattr(metrics, name) == pytest.approx(float(theirs[0, 0]), abs=1e-6)


def test_turning_a_volume_with_its_spacing_changes_nothing() -> None:
    for spacing, pred, ref in volume_pairs(2, seed=8):
        for axes in ((1, 2, 0), (2, 1, 0)):
            turned = measure(pred.transpose(axes), ref.transpose(axes), tuple(spacing[axis] for axis in axes))
            assert_same(measure(pred, ref, spacing), turned)


# ------------------------------------------------------------------------------------------------------- properties

unhurried = settings(deadline=None)  # a loaded machine is no failure


@st.composite
def mask_pairs(draw_value: st.DrawFn) -> tuple[Mask, Mask]:
    shape = draw_value(array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9))
    masks = arrays(bool, shape, elements=st.booleans(), fill=st.just(False))
    return draw_value(masks), draw_value(masks)


sides_of_a_pixel = st.tuples(*[st.sampled_from([0.3, 0.5, 1.0, 1.7, 4.0])] * 2)


def assert_same(first: ImageMetrics, second: ImageMetrics, names: tuple[str, ...] = (*SCORES, *DISTANCES)) -> None:
    np.testing.assert_allclose(values(first, names), values(second, names), rtol=1e-12, atol=1e-12)


@unhurried
@given(mask_pairs(), sides_of_a_pixel)
def test_range(pair: tuple[Mask, Mask], spacing: tuple[float, float]) -> None:
    metrics = measure(*pair, spacing)
    assert all(0 <= value <= 1 for value in values(metrics, SCORES))
    empty = metrics.status in ("missed", "spurious")
    for value in values(metrics, DISTANCES):
        assert math.isnan(value) if empty else 0 <= value <= diagonal(pair[0].shape, spacing)
    assert (metrics.n_pred, metrics.n_ref, metrics.n_tp) == (pair[0].sum(), pair[1].sum(), (pair[0] & pair[1]).sum())


@unhurried
@given(mask_pairs(), sides_of_a_pixel)
def test_swapping_the_masks_swaps_precision_and_recall_only(
    pair: tuple[Mask, Mask], spacing: tuple[float, float]
) -> None:
    forth, back = measure(*pair, spacing), measure(*pair[::-1], spacing)
    assert_same(forth, back, ("dice", "jaccard", "nsd_2px", "nsd_2pct", *DISTANCES))
    assert (forth.precision, forth.n_pred, forth.n_tp) == (back.recall, back.n_ref, back.n_tp)
    swapped = {"ok": "ok", "both_empty": "both_empty", "missed": "spurious", "spurious": "missed"}
    assert forth.status == swapped[back.status]


@unhurried
@given(mask_pairs(), sides_of_a_pixel)
def test_transposing_masks_and_spacing_changes_nothing(pair: tuple[Mask, Mask], spacing: tuple[float, float]) -> None:
    transposed = measure(pair[0].T, pair[1].T, spacing[::-1])
    assert_same(measure(*pair, spacing), transposed)


@unhurried
@given(mask_pairs(), sides_of_a_pixel)
def test_flipping_changes_nothing(pair: tuple[Mask, Mask], spacing: tuple[float, float]) -> None:
    flipped = measure(pair[0][::-1, ::-1], pair[1][::-1, ::-1], spacing)
    assert_same(measure(*pair, spacing), flipped)


@unhurried
@given(mask_pairs(), sides_of_a_pixel, *[st.tuples(st.integers(0, 6), st.integers(0, 6))] * 2)
def test_moving_both_masks_within_an_image_changes_nothing_not_even_rounding(
    pair: tuple[Mask, Mask], spacing: tuple[float, float], first: tuple[int, int], second: tuple[int, int]
) -> None:
    moved = []
    for offset in (first, second):
        margins = [(offset[axis], 6 - offset[axis]) for axis in (0, 1)]
        moved.append(measure(np.pad(pair[0], margins), np.pad(pair[1], margins), spacing))
    np.testing.assert_equal(dataclasses.astuple(moved[0]), dataclasses.astuple(moved[1]))


@unhurried
@given(mask_pairs(), sides_of_a_pixel, st.integers(1, 5))
def test_padding_changes_only_what_depends_on_the_diagonal(
    pair: tuple[Mask, Mask], spacing: tuple[float, float], margin: int
) -> None:
    metrics, padded = measure(*pair, spacing), measure(np.pad(pair[0], margin), np.pad(pair[1], margin), spacing)
    names = tuple(name for name in (*SCORES, *DISTANCES) if name != "nsd_2pct")
    assert_same(metrics, padded, names)
    assert padded.nsd_2pct >= metrics.nsd_2pct


@unhurried
@given(mask_pairs(), sides_of_a_pixel, st.sampled_from([0.1, 3.0, 7.3]))
def test_distances_scale_with_the_spacing_and_scores_do_not(
    pair: tuple[Mask, Mask], spacing: tuple[float, float], factor: float
) -> None:
    metrics, scaled = measure(*pair, spacing), measure(*pair, (spacing[0] * factor, spacing[1] * factor))
    assert_same(metrics, scaled, SCORES)
    np.testing.assert_allclose(
        factor * np.array(values(metrics, DISTANCES)), values(scaled, DISTANCES), rtol=1e-12, atol=1e-12
    )


@unhurried
@given(mask_pairs())
def test_relations_between_overlap_scores(pair: tuple[Mask, Mask]) -> None:
    metrics = measure(*pair)
    assert metrics.dice == dice(*pair)
    assert metrics.dice == pytest.approx(2 * metrics.jaccard / (1 + metrics.jaccard))
    assert (metrics.dice == 1.0) == np.array_equal(*pair)
    if metrics.n_tp:
        assert metrics.dice == pytest.approx(2 / (1 / metrics.precision + 1 / metrics.recall))


@unhurried
@given(mask_pairs(), sides_of_a_pixel)
def test_a_mask_against_itself_is_perfect(pair: tuple[Mask, Mask], spacing: tuple[float, float]) -> None:
    metrics = measure(pair[0], pair[0], spacing)
    assert values(metrics, SCORES) == [1.0] * 6
    assert values(metrics, DISTANCES) == [0.0] * 3


@unhurried
@given(mask_pairs(), st.data())
def test_finding_one_more_reference_pixel_never_lowers_the_overlap(
    pair: tuple[Mask, Mask], data: st.DataObject
) -> None:
    pred, ref = pair
    missing = np.argwhere(ref & ~pred)
    assume(len(missing) > 0)
    better = pred.copy()
    better[tuple(data.draw(st.sampled_from(missing.tolist())))] = True
    before, after = measure(pred, ref), measure(better, ref)
    assert after.dice > before.dice
    assert after.recall > before.recall
    assert after.precision >= before.precision
