import hashlib
import inspect
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from skimage.color import rgb2hsv
from skimage.filters import threshold_otsu

from qgbench.base.errors import UserError
from qgbench.data import phantom
from qgbench.data.phantom import PhantomImage, generate_phantom

GROUPS = 60


@pytest.fixture(scope="module")
def pictures() -> list[PhantomImage]:
    return generate_phantom(groups=GROUPS)


def digest(pictures: Iterable[PhantomImage]) -> str:
    total = hashlib.sha256()
    for picture in pictures:
        total.update(picture.id.encode() + picture.image.tobytes() + picture.mask.tobytes())
    return total.hexdigest()


def luminance(picture: PhantomImage) -> np.ndarray:
    return picture.image.mean(-1) / 255


def rings(mask: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Bands of `width` pixels, a pixel away from the border, inside and outside the mask."""
    inner = ndimage.distance_transform_edt(mask)
    outer = ndimage.distance_transform_edt(~mask)
    return (inner > 1.5) & (inner <= width + 1.5), (outer > 1.5) & (outer <= width + 1.5)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_defaults_give_240_pictures_of_120_groups() -> None:
    parameters = inspect.signature(generate_phantom).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    assert defaults == {"groups": 120, "images_per_group": 2, "size": 128, "seed": 2606}


def test_ids_groups_shapes_and_types(pictures: list[PhantomImage]) -> None:
    assert [p.id for p in pictures] == [f"g{g:03d}_{i}" for g in range(GROUPS) for i in range(2)]
    for picture in pictures:
        assert picture.group == picture.id.split("_")[0]
        assert (picture.image.shape, picture.image.dtype) == ((128, 128, 3), np.dtype(np.uint8))
        assert (picture.mask.shape, picture.mask.dtype) == ((128, 128), np.dtype(bool))


def test_two_calls_and_another_process_agree_bit_for_bit() -> None:
    code = (
        "from tests.data.test_phantom import digest; from qgbench.data.phantom import generate_phantom; "
        "print(digest(generate_phantom(groups=4)))"
    )
    root = Path(__file__).parents[2]
    other = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert digest(generate_phantom(groups=4)) == digest(generate_phantom(groups=4)) == other.stdout.strip()


def test_fewer_groups_or_views_are_a_prefix(pictures: list[PhantomImage]) -> None:
    assert digest(generate_phantom(groups=5)) == digest(pictures[:10])
    assert digest(generate_phantom(groups=5, images_per_group=1)) == digest(pictures[:10:2])


def test_another_seed_gives_other_pictures(pictures: list[PhantomImage]) -> None:
    other = generate_phantom(groups=3, seed=1)
    assert all(not np.array_equal(a.mask, b.mask) for a, b in zip(other, pictures, strict=False))
    assert len({p.image.tobytes() for p in pictures}) == len(pictures)


def test_lesions_are_small_to_large_and_never_missing(pictures: list[PhantomImage]) -> None:
    shares = np.array([p.mask.mean() for p in pictures])
    assert shares.min() > 0.01
    assert shares.max() < 0.6
    assert shares.max() > 8 * shares.min()


@pytest.mark.parametrize("size", [32, 200])
def test_other_sizes_show_the_same_lesions(pictures: list[PhantomImage], size: int) -> None:
    for other, picture in zip(generate_phantom(groups=6, size=size), pictures, strict=False):
        assert other.image.shape == (size, size, 3)
        nearest = ((np.arange(size) + 0.5) * 128 / size).astype(int)
        assert dice(other.mask, picture.mask[np.ix_(nearest, nearest)]) > 0.85


def test_masks_have_one_or_two_large_parts_and_no_holes(pictures: list[PhantomImage]) -> None:
    holed = 0
    for picture in pictures:
        labels, _ = ndimage.label(picture.mask)
        areas = np.sort(np.bincount(labels.ravel())[1:])[::-1]
        assert areas[:2].sum() > 0.85 * areas.sum(), picture.id
        holed += not np.array_equal(ndimage.binary_fill_holes(picture.mask), picture.mask)
    assert holed == 0


def test_outlines_follow_a_visible_border(pictures: list[PhantomImage]) -> None:
    # The colour changes more across the outline than across the same outline laid elsewhere on the picture.
    wins = 0
    for picture in pictures:
        colour = ndimage.gaussian_filter(picture.image / 255, (1, 1, 0))

        def step(mask: np.ndarray, colour: np.ndarray = colour) -> float:
            inside, outside = rings(mask, 4)
            return float(np.linalg.norm(colour[inside].mean(0) - colour[outside].mean(0)))

        moved = [np.roll(picture.mask, shift, (0, 1)) for shift in ((40, 40), (-40, 40), (64, 0), (0, 64))]
        wins += step(picture.mask) > np.median([step(mask) for mask in moved])
    assert wins > 0.9 * len(pictures)


def test_border_contrast_exceeds_the_tissue_noise(pictures: list[PhantomImage]) -> None:
    clear = 0
    for picture in pictures:
        inside, outside = rings(picture.mask, 5)
        colour = ndimage.gaussian_filter(picture.image / 255, (1, 1, 0))
        contrast = np.abs(colour[inside].mean(0) - colour[outside].mean(0)).max()
        grain = np.median(np.abs(colour - ndimage.gaussian_filter(colour, (3, 3, 0)))[outside])
        clear += contrast > 2 * grain
    assert clear > 0.9 * len(pictures)


def test_no_threshold_of_brightness_finds_the_lesions(pictures: list[PhantomImage]) -> None:
    # With the better of both signs, chosen knowing the mask: what is left is what a network must learn.
    scores = []
    for picture in pictures:
        grey = ndimage.gaussian_filter(luminance(picture), 1.5)
        dark = grey < threshold_otsu(grey)
        scores.append(max(dice(dark, picture.mask), dice(~dark, picture.mask)))
    assert np.mean(scores) < 0.65


def test_lesions_are_darker_or_lighter_than_their_surroundings(pictures: list[PhantomImage]) -> None:
    signs = []
    for picture in pictures:
        inside, outside = rings(picture.mask, 5)
        signs.append(np.sign(luminance(picture)[inside].mean() - luminance(picture)[outside].mean()))
    assert signs.count(-1) > 0.5 * len(signs)
    assert signs.count(1) >= 0.04 * len(signs)


def test_tissue_spans_many_tones_and_hues(pictures: list[PhantomImage]) -> None:
    brightness, hues = [], []
    for picture in pictures:
        tissue = np.median(picture.image[~picture.mask], axis=0) / 255
        brightness.append(tissue.mean())
        hues.append((rgb2hsv(tissue)[0] + 0.5) % 1)  # red, the tissue's hue, is where hue wraps
    assert np.percentile(brightness, 95) - np.percentile(brightness, 5) > 0.25
    assert np.percentile(hues, 95) - np.percentile(hues, 5) > 0.05


def test_views_of_one_group_share_tone_and_differ_in_content(pictures: list[PhantomImage]) -> None:
    tones = np.array([np.median(p.image[~p.mask], axis=0) for p in pictures]).reshape(GROUPS, 2, 3)
    within = np.linalg.norm(tones[:, 0] - tones[:, 1], axis=1).mean()
    between = np.linalg.norm(tones[:, None, 0] - tones[None, :, 1], axis=-1).mean()
    assert within < 0.4 * between
    assert np.mean([dice(a.mask, b.mask) for a, b in zip(pictures[::2], pictures[1::2], strict=True)]) < 0.8


@pytest.mark.parametrize("name", ["patch", "freckles", "blood", "debris", "sticker", "ink"])
def test_distractor_leaves_the_mask_and_the_lesion_alone(name: str) -> None:
    mucosa = name in ("blood", "debris")
    shown = 0
    for g in range(24):
        patient = phantom._draw_patient(phantom._generator(7, g, 0))
        if patient.mucosa != mucosa:
            continue
        with_image, with_mask = phantom._draw_view(
            replace(patient, distractors=(name,)), 96, phantom._generator(7, g, 1)
        )
        image, mask = phantom._draw_view(replace(patient, distractors=()), 96, phantom._generator(7, g, 1))
        changed = np.abs(with_image.astype(int) - image).max(-1) > 12
        deep = ndimage.binary_erosion(mask, iterations=4)
        assert np.array_equal(with_mask, mask)
        assert changed[deep].sum() <= 0.05 * deep.sum()
        assert (changed & ~mask).sum() >= (changed & mask).sum()
        shown += changed.sum() > 20
    assert shown >= 4


def test_every_distractor_of_a_site_is_used() -> None:
    patients = [phantom._draw_patient(phantom._generator(2606, g, 0)) for g in range(120)]
    for mucosa, names in ((False, phantom._SKIN_DISTRACTORS), (True, phantom._MUCOSA_DISTRACTORS)):
        used = {name for patient in patients if patient.mucosa == mucosa for name in patient.distractors}
        assert used == set(names)


def test_lesions_are_textured_and_smooth_distractors_are_not() -> None:
    # The rule to be learnt. The distractor is where the picture differs from the one without it.
    lesions, distractors = [], []
    for g in range(60):
        patient = phantom._draw_patient(phantom._generator(11, g, 0))
        patient = replace(patient, hairs=0, grain=0.0, relief=0.0, blur=0.006)
        name = "blood" if patient.mucosa else "patch"
        image, mask = phantom._draw_view(replace(patient, distractors=(name,)), 128, phantom._generator(11, g, 1))
        plain, _ = phantom._draw_view(replace(patient, distractors=()), 128, phantom._generator(11, g, 1))
        spot = ndimage.binary_erosion((np.abs(image.astype(int) - plain).max(-1) > 20) & ~mask, iterations=6)
        deep = ndimage.binary_erosion(mask, iterations=6)
        if min(spot.sum(), deep.sum()) < 30:
            continue
        grey = np.log(image.mean(-1) + 1)
        fine = np.abs(grey - ndimage.gaussian_filter(grey, 2))
        lesions.append(np.median(fine[deep]))
        distractors.append(np.median(fine[spot]))
    assert len(lesions) >= 15
    assert np.mean(np.array(lesions) > 1.3 * np.array(distractors)) > 0.85


@pytest.mark.parametrize("argument", [{"groups": 0}, {"images_per_group": 0}, {"size": 16}, {"seed": -1}])
def test_impossible_arguments_are_refused_by_name(argument: dict[str, int]) -> None:
    with pytest.raises(UserError, match=next(iter(argument))):
        generate_phantom(**{"groups": 1, **argument})
