"""Corruptions: rules that hold for all of them, closed forms for each, and the shares of the families."""

from collections import Counter

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from scipy import ndimage, stats
from scipy.spatial import ConvexHull
from skimage import draw, measure, morphology

from qgbench.quality.corruptions import (
    BLOBS,
    CATASTROPHES,
    CORRUPTIONS,
    FAMILY_SHARES,
    HEAVY,
    SIMILAR_DONORS,
    Corruption,
    degrade,
)

REGISTERED: dict[str, Corruption] = {
    **CORRUPTIONS,
    **{f"heavy-{name}": corruption for name, corruption in HEAVY.items()},
    **{f"catastrophe-{name}": corruption for name, corruption in CATASTROPHES.items()},
}
DRAWS = 60


def disk(side: int, radius: float, centre: tuple[float, float] | None = None) -> np.ndarray:
    y, x = np.mgrid[:side, :side]
    row, col = centre or (side / 2, side / 2)
    return (y - row) ** 2 + (x - col) ** 2 <= radius**2


def wavy(shape: tuple[int, int], seed: int) -> np.ndarray:
    """A lesion-like mask: a blob with a wavy border somewhere near the middle."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape) - (np.array(shape) * rng.uniform(0.35, 0.65, 2))[:, None, None]
    angle = np.arctan2(y, x)
    waves = sum(rng.normal(0, 0.1) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in range(2, 6))
    return np.hypot(y, x) < min(shape) * rng.uniform(0.1, 0.35) * (1 + waves)


def pixel(shape: tuple[int, int], row: int, col: int) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[row, col] = True
    return mask


def dice(a: np.ndarray, b: np.ndarray) -> float:
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return 2 * np.count_nonzero(a & b) / total if total else 1.0


def centroid(mask: np.ndarray) -> np.ndarray:
    return np.argwhere(mask).mean(axis=0)


def outcomes(name: str, mask: np.ndarray, draws: int = DRAWS) -> list[np.ndarray]:
    return [CORRUPTIONS[name](mask, np.random.default_rng(seed)) for seed in range(draws)]


def three_disks() -> list[np.ndarray]:
    return [disk(96, 12, (20, 20)), disk(96, 9, (70, 30)), disk(96, 6, (40, 75))]


MASKS = {
    "lesion": wavy((96, 96), 0),
    "tall_lesion": wavy((70, 41), 1),
    "wide_lesion": wavy((33, 90), 2),
    "at_the_edge": disk(64, 20, (0, 60)),
    "several_components": np.logical_or.reduce(three_disks()),
    "empty": np.zeros((48, 64), dtype=bool),
    "full": np.ones((48, 64), dtype=bool),
    "all_but_one_pixel": ~pixel((40, 30), 7, 9),
    "one_pixel": pixel((48, 64), 20, 31),
    "one_pixel_in_the_corner": pixel((48, 64), 47, 63),
    "one_row": np.arange(30)[:, None] * np.ones(50) == 11,
    "image_of_3_by_2": pixel((3, 2), 1, 1),
    "image_of_one_pixel": np.ones((1, 1), dtype=bool),
}


# --- every corruption ---------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("name", REGISTERED)
def test_returns_a_new_mask_of_the_same_shape(name: str, kind: str) -> None:
    mask = MASKS[kind].copy()
    mask.setflags(write=False)
    for seed in range(4):
        result = REGISTERED[name](mask, np.random.default_rng(seed))
        assert result.shape == mask.shape
        assert result.dtype == np.bool_
        assert not np.shares_memory(result, mask)
        assert np.array_equal(mask, MASKS[kind])
        assert np.array_equal(result, REGISTERED[name](mask, np.random.default_rng(seed)))


@pytest.mark.parametrize("name", sorted(set(CORRUPTIONS) - {"largest_component", "opening", "closing"}))
def test_changes_a_lesion(name: str) -> None:
    mask = wavy((96, 96), 3)
    assert np.mean([np.array_equal(result, mask) for result in outcomes(name, mask)]) < 0.1


@pytest.mark.parametrize("name", sorted(set(CORRUPTIONS) - {"islands", "holes_and_islands", *BLOBS}))
def test_finds_no_lesion_where_there_is_none(name: str) -> None:
    assert not any(result.any() for result in outcomes(name, MASKS["empty"], draws=10))


def test_names_what_the_paper_names() -> None:
    assert set(CORRUPTIONS) == {
        *("erosion", "dilation", "opening", "closing", "ellipse", "polygon_3", "polygon_5", "polygon_8"),
        *("convex_hull", "bounding_box", "jagged", "smoothed", "elastic", "grid_distortion", "holes", "islands"),
        *("holes_and_islands", "largest_component", "dropped_component", "dropped_rectangle", "shift", "scale"),
        *("rotation", "affine", "gaussian_blob", "circular_blob"),
    }


def test_registries_cannot_be_changed() -> None:
    for registry in (CORRUPTIONS, HEAVY, CATASTROPHES, FAMILY_SHARES):
        with pytest.raises(TypeError):
            registry["new"] = None  # type: ignore[index]


# --- each corruption ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "judge"),
    [
        ("erosion", morphology.erosion),
        ("dilation", morphology.dilation),
        ("opening", morphology.opening),
        ("closing", morphology.closing),
    ],
)
@pytest.mark.parametrize(("side", "radii"), [(40, {1}), (96, {1, 2}), (224, {2, 3, 4, 5})])
def test_morphology_by_disks_of_5_to_11_px_at_224(name: str, judge: Corruption, side: int, radii: set[int]) -> None:
    mask = disk(side, side / 6) & ~disk(side, side / 20, (side / 2, side / 3)) | disk(side, side / 15, (side / 3, 30))
    expected = {radius: judge(mask, morphology.disk(radius)) for radius in radii}
    seen = set()
    for result in outcomes(name, mask, draws=40):
        matching = {radius for radius in radii if np.array_equal(result, expected[radius])}
        assert matching
        seen |= matching
    assert seen == radii


def test_erosion_does_not_start_at_the_edge_of_the_image() -> None:
    mask = np.zeros((96, 96), dtype=bool)
    mask[:, :50] = True
    for result in outcomes("erosion", mask, draws=5):
        assert result[:, 0].all()
        assert result[:, :49].sum() in (48 * 96, 49 * 96)


def test_ellipse_of_an_ellipse_is_the_ellipse() -> None:
    mask = np.zeros((96, 96), dtype=bool)
    mask[draw.ellipse(45, 50, 30, 12, rotation=0.7)] = True
    assert dice(outcomes("ellipse", mask, draws=1)[0], mask) > 0.98


def test_ellipse_keeps_area_and_centroid_of_a_square() -> None:
    mask = np.zeros((96, 80), dtype=bool)
    mask[20:50, 30:60] = True
    # Equal second moments: r^2 / 4 = a^2 / 12, so the disk has pi / 3 of the square's area.
    result = outcomes("ellipse", mask, draws=1)[0]
    assert result.sum() == pytest.approx(np.pi / 3 * mask.sum(), rel=0.02)
    assert centroid(result) == pytest.approx(centroid(mask), abs=1e-9)


@pytest.mark.parametrize("kind", ["one_pixel", "one_pixel_in_the_corner", "image_of_one_pixel"])
def test_ellipse_of_one_pixel_is_the_pixel(kind: str) -> None:
    assert np.array_equal(outcomes("ellipse", MASKS[kind], draws=1)[0], MASKS[kind])


@pytest.mark.parametrize("sides", [3, 5, 8])
def test_polygon_is_inscribed(sides: int) -> None:
    mask = disk(200, 80)
    regular = sides / (2 * np.pi) * np.sin(2 * np.pi / sides)  # area of the regular polygon, in areas of the disk
    results = outcomes(f"polygon_{sides}", mask)
    ratios = [result.sum() / mask.sum() for result in results]
    assert not any((result & ~mask).any() for result in results)
    assert max(ratios) < regular + 0.03
    assert np.mean(ratios) > 0.85 * regular
    corners = [len(measure.approximate_polygon(measure.find_contours(np.pad(r, 1) * 1.0)[0], 4)) - 1 for r in results]
    assert np.median(corners) == sides


@pytest.mark.parametrize("kind", ["lesion", "tall_lesion", "several_components", "at_the_edge"])
def test_convex_hull_against_half_planes(kind: str) -> None:
    mask = MASKS[kind]
    result = outcomes("convex_hull", mask, draws=1)[0]
    hull = ConvexHull(np.argwhere(mask)).equations
    everywhere = np.moveaxis(np.indices(mask.shape), 0, -1) @ hull[:, :2].T + hull[:, 2]
    beyond = everywhere.max(axis=-1).reshape(mask.shape)
    assert result[beyond <= 1e-9].all()
    # Pixels have an extent: half a pixel beyond the hull of their centres at the most.
    assert (beyond[result] <= 0.5 + 1e-9).all()


@pytest.mark.parametrize("kind", ["lesion", "wide_lesion", "several_components", "one_pixel", "full", "one_row"])
def test_bounding_box_against_scipy(kind: str) -> None:
    mask = MASKS[kind]
    expected = np.zeros_like(mask)
    expected[ndimage.find_objects(mask.astype(int))[0]] = True
    assert np.array_equal(outcomes("bounding_box", mask, draws=1)[0], expected)


def test_jagged_lengthens_the_border_and_leaves_the_rest() -> None:
    mask = disk(224, 60)
    near = ndimage.distance_transform_edt(mask) + ndimage.distance_transform_edt(~mask) <= 21 / 2 * np.sqrt(2) + 1
    for result in outcomes("jagged", mask, draws=20):
        assert measure.perimeter(result) > 1.15 * measure.perimeter(mask)
        assert np.array_equal(result[~near], mask[~near])


def test_smoothed_shortens_a_jagged_border() -> None:
    rough = outcomes("jagged", disk(96, 25), draws=1)[0]
    for result in outcomes("smoothed", rough, draws=20):
        assert measure.perimeter(result) < 0.9 * measure.perimeter(rough)
        assert dice(result, rough) > 0.85


def test_smoothed_keeps_a_small_lesion() -> None:
    for result in outcomes("smoothed", disk(96, 3), draws=20):
        assert dice(result, disk(96, 3)) > 0.8


def test_elastic_moves_the_border_and_keeps_the_size_on_average() -> None:
    mask = disk(96, 25)
    results = outcomes("elastic", mask)
    assert 0.7 < np.median([dice(result, mask) for result in results]) < 0.95
    assert np.mean([result.sum() for result in results]) == pytest.approx(mask.sum(), rel=0.1)
    assert outcomes("elastic", MASKS["full"], draws=1)[0].all()


def test_grid_distortion_turns_a_rectangle_into_a_rectangle() -> None:
    mask = np.zeros((80, 120), dtype=bool)
    mask[20:50, 30:95] = True
    results = outcomes("grid_distortion", mask)
    for result in results:
        assert np.array_equal(result, outcomes("bounding_box", result, draws=1)[0])
    assert len({int(result.sum()) for result in results}) > DRAWS / 2


def test_holes_are_in_the_lesion_and_islands_outside() -> None:
    mask = disk(96, 25)
    assert all(np.array_equal(result & mask, result) for result in outcomes("holes", mask))
    assert all(np.array_equal(result | mask, result) for result in outcomes("islands", mask))
    for result in outcomes("holes_and_islands", mask):
        assert (mask & ~result).any()
        assert (result & ~mask).any()


def test_islands_appear_on_an_empty_mask() -> None:
    assert all(result.any() and not result.all() for result in outcomes("islands", MASKS["empty"]))


def test_largest_component_of_three() -> None:
    large, middle, small = three_disks()
    assert np.array_equal(outcomes("largest_component", middle | small | large, draws=1)[0], large)
    assert np.array_equal(outcomes("largest_component", middle | small, draws=1)[0], middle)


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_largest_component_against_skimage(mask: np.ndarray, seed: int) -> None:
    result = CORRUPTIONS["largest_component"](mask, np.random.default_rng(seed))
    sizes = [region.area for region in measure.regionprops(measure.label(mask, connectivity=1))]
    assert not (result & ~mask).any()
    assert result.sum() == max(sizes, default=0)
    assert measure.label(result, connectivity=1).max() == min(len(sizes), 1)


def test_dropped_component_of_three() -> None:
    parts = three_disks()
    without = [np.logical_or.reduce(parts[:i] + parts[i + 1 :]) for i in range(3)]
    seen = [
        next(i for i in range(3) if np.array_equal(result, without[i]))
        for result in outcomes("dropped_component", np.logical_or.reduce(parts))
    ]
    assert set(seen) == {0, 1, 2}


def test_dropped_component_of_one_cuts_it_by_a_line() -> None:
    mask = disk(96, 25)
    for result in outcomes("dropped_component", mask):
        dropped = mask & ~result
        assert not (result & ~mask).any()
        assert 0.1 - 0.01 <= dropped.sum() / mask.sum() <= 0.5
        # A chord of a disk is perpendicular to the line through the centroids of both parts.
        across = np.indices(mask.shape).T @ (centroid(dropped) - centroid(result))
        across /= np.linalg.norm(centroid(dropped) - centroid(result))
        assert across.T[dropped].min() > across.T[result].max() - 1.5


def test_dropped_rectangle_drops_a_rectangle() -> None:
    mask = disk(96, 25)
    for result in outcomes("dropped_rectangle", mask):
        dropped = mask & ~result
        assert not (result & ~mask).any()
        box = outcomes("bounding_box", dropped, draws=1)[0]
        assert np.array_equal(box & mask, dropped)
        assert np.ptp(np.argwhere(dropped), axis=0).max() < 0.8 * 51 + 1


def test_shift_is_a_translation_of_up_to_two_fifths_of_the_side() -> None:
    mask = disk(100, 6) & ~disk(100, 3, (48, 52))
    moves = []
    for result in outcomes("shift", mask, draws=200):
        move = centroid(result) - centroid(mask)
        assert np.array_equal(result, np.roll(mask, np.rint(move).astype(int), axis=(0, 1)))
        moves.append(move)
    assert 30 < np.abs(moves).max() <= 40
    assert stats.binomtest(int((np.ravel(moves) > 0).sum()), int(np.count_nonzero(moves))).pvalue > 0.01


def test_what_is_shifted_out_of_the_image_is_lost() -> None:
    mask = disk(64, 8, (0, 0))
    areas = [result.sum() for result in outcomes("shift", mask)]
    assert max(areas) == mask.sum()
    assert min(areas) == 0


def test_scale_is_uniform_from_half_to_1_6_about_the_centroid() -> None:
    mask = disk(160, 35, (70, 90))
    results = outcomes("scale", mask, draws=150)
    factors = np.sqrt([result.sum() / mask.sum() for result in results])
    assert stats.kstest(factors, stats.uniform(0.5, 1.1).cdf).pvalue > 0.01
    assert np.allclose([centroid(result) for result in results], centroid(mask), atol=0.3)


def test_rotation_turns_by_up_to_30_degrees_about_the_centroid() -> None:
    mask = np.zeros((128, 128), dtype=bool)
    mask[draw.ellipse(60, 66, 40, 12, rotation=0.3)] = True
    orientation = measure.regionprops(mask.astype(int))[0].orientation
    turns = []
    for result in outcomes("rotation", mask):
        region = measure.regionprops(result.astype(int))[0]
        turns.append(np.rad2deg((region.orientation - orientation + np.pi / 2) % np.pi - np.pi / 2))
        assert result.sum() == pytest.approx(mask.sum(), rel=0.02)
        assert centroid(result) == pytest.approx(centroid(mask), abs=0.3)
    assert min(turns) < -20
    assert max(turns) > 20
    assert np.abs(turns).max() < 31


def test_affine_maps_an_ellipse_to_an_ellipse() -> None:
    mask = disk(160, 35, (75, 85))
    ratios = []
    for result in outcomes("affine", mask):
        assert dice(result, outcomes("ellipse", result, draws=1)[0]) > 0.97
        assert np.abs(centroid(result) - centroid(mask)).max() <= 16.3
        ratios.append(result.sum() / mask.sum())
    assert np.exp(-0.75) < min(ratios) < 0.8
    assert 1.25 < max(ratios) < np.exp(0.75)


def test_circular_blob_is_a_disk_near_the_lesion() -> None:
    mask = disk(224, 20)
    for result in outcomes("circular_blob", mask):
        rows, cols = np.ptp(np.argwhere(result), axis=0) + 1
        assert abs(rows - cols) <= 1
        assert result.sum() == pytest.approx(np.pi / 4 * rows * cols, rel=0.06)
        assert 0.38 < result.sum() / mask.sum() < 2.6
        assert np.linalg.norm(centroid(result) - centroid(mask)) < 1.6 * 20 + 1


def test_gaussian_blob_is_of_the_lesions_order_of_size() -> None:
    mask = disk(224, 20)
    ratios = [result.sum() / mask.sum() for result in outcomes("gaussian_blob", mask)]
    assert min(ratios) > 0.05
    assert max(ratios) < 5
    assert 0.4 < np.median(ratios) < 1.6


def test_catastrophes() -> None:
    mask = MASKS["tall_lesion"]
    results = {name: corruption(mask, np.random.default_rng(0)) for name, corruption in CATASTROPHES.items()}
    assert np.array_equal(results["inverted"], np.logical_not(mask))
    assert not results["empty"].any()
    assert results["full"].all()
    assert abs(np.corrcoef(results["random"].ravel(), mask.ravel())[0, 1]) < 0.1


# --- the families -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn() -> list[tuple[np.ndarray, np.ndarray, str]]:
    """Four thousand (ground truth, degraded mask, family), the other masks as donors."""
    masks = [wavy((96, 96), seed) for seed in range(40)]
    rng = np.random.default_rng(5)
    triples = []
    for draw_index in range(4000):
        k = draw_index % len(masks)
        triples.append((masks[k], *degrade(masks[k], rng, masks[:k] + masks[k + 1 :])))
    return triples


def test_shares_of_the_families_are_the_papers(drawn: list[tuple[np.ndarray, np.ndarray, str]]) -> None:
    paper = {
        **{"unchanged": 0.20, "single": 0.28, "chain": 0.18, "other_mask": 0.10},
        **{"heavy": 0.12, "catastrophic": 0.05, "blob": 0.07},
    }
    counts = Counter(family for _, _, family in drawn)
    assert paper == FAMILY_SHARES
    assert set(counts) == set(paper)
    expected = [share * len(drawn) for share in paper.values()]
    assert stats.chisquare([counts[family] for family in paper], expected).pvalue > 0.01


def test_dice_is_spread_over_the_whole_range(drawn: list[tuple[np.ndarray, np.ndarray, str]]) -> None:
    scores = np.array([dice(mask, degraded) for mask, degraded, family in drawn if family != "unchanged"])
    shares = np.histogram(scores, bins=5, range=(0, 1))[0] / len(scores)
    assert shares.min() > 0.08
    assert shares.max() < 0.45
    assert (np.histogram(scores, bins=20, range=(0, 1))[0] / len(scores)).min() > 0.015


def test_heavy_is_worse_than_a_chain_and_a_chain_worse_than_one(
    drawn: list[tuple[np.ndarray, np.ndarray, str]],
) -> None:
    means = {
        family: np.mean([dice(mask, degraded) for mask, degraded, drawn_family in drawn if drawn_family == family])
        for family in FAMILY_SHARES
    }
    assert means["unchanged"] == 1
    assert means["single"] > means["chain"] + 0.08 > means["heavy"] + 0.16
    assert means["catastrophic"] < 0.25


def test_unchanged_is_a_copy() -> None:
    mask = MASKS["lesion"].copy()
    rng = np.random.default_rng(0)
    copies = [degraded for degraded, family in (degrade(mask, rng, []) for _ in range(60)) if family == "unchanged"]
    assert copies
    for degraded in copies:
        assert np.array_equal(degraded, mask)
        assert not np.shares_memory(degraded, mask)


def test_other_mask_is_one_of_the_donors_of_nearest_area() -> None:
    mask = disk(64, 15)
    donors = [disk(64, radius, (30, 34)) for radius in range(4, 28, 2)]
    # Radii 10, 12, 14, 16, 18 are the five whose areas lie nearest to that of radius 15.
    near = [donors[i] for i in range(3, 8)]
    assert len(near) == SIMILAR_DONORS
    rng = np.random.default_rng(1)
    seen = set()
    for _ in range(600):
        degraded, family = degrade(mask, rng, donors)
        if family == "other_mask":
            matching = [i for i, donor in enumerate(near) if np.array_equal(degraded, donor)]
            assert len(matching) == 1
            assert not np.shares_memory(degraded, near[matching[0]])
            seen.add(matching[0])
    assert seen == set(range(SIMILAR_DONORS))


def test_without_donors_other_mask_becomes_single() -> None:
    rng = np.random.default_rng(2)
    counts = Counter(degrade(MASKS["one_pixel"], rng, [])[1] for _ in range(2000))
    assert counts["other_mask"] == 0
    share = FAMILY_SHARES["single"] + FAMILY_SHARES["other_mask"]
    assert stats.binomtest(counts["single"], 2000, share).pvalue > 0.01


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=20)), st.integers(0, 2**32 - 1))
@settings(max_examples=200, deadline=None)
def test_degrade_takes_any_mask(mask: np.ndarray, seed: int) -> None:
    before = mask.copy()
    degraded, family = degrade(mask, np.random.default_rng(seed), [~mask])
    again, same_family = degrade(mask, np.random.default_rng(seed), [~mask])
    assert degraded.shape == mask.shape
    assert degraded.dtype == np.bool_
    assert np.array_equal(mask, before)
    assert family == same_family
    assert np.array_equal(degraded, again)
