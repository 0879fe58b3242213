"""How far an image is from those of the training: the distance, its shrunk covariance, its threshold."""

from pathlib import Path

import numpy as np
import pytest

from qgbench.quality.likeness import LIKENESS_NAME, Likeness


def ledoit_wolf(points: np.ndarray) -> np.ndarray:
    """The covariance of Ledoit and Wolf (2004), letter by letter."""
    count, width = points.shape
    spread = points - points.mean(0)
    sample = spread.T @ spread / count
    even = np.trace(sample) / width
    apart = ((sample - even * np.eye(width)) ** 2).sum() / width
    noise = sum(((np.outer(row, row) - sample) ** 2).sum() / width for row in spread) / count**2
    share = min(noise, apart) / apart
    return share * even * np.eye(width) + (1 - share) * sample


def distance(points: np.ndarray, trained: np.ndarray) -> np.ndarray:
    """Mahalanobis, by the inverse of that covariance."""
    away = points - trained.mean(0)
    return np.sqrt(np.einsum("ni,ij,nj->n", away, np.linalg.inv(ledoit_wolf(trained)), away))


@pytest.mark.parametrize(("count", "width"), [(6, 30), (30, 30), (80, 10)])
def test_the_distance_is_mahalanobis_with_a_shrunk_covariance(count: int, width: int) -> None:
    rng = np.random.default_rng(count)
    trained, other = rng.normal(size=(count, width)) * np.linspace(0.2, 3, width) + 5, rng.normal(size=(9, width)) * 4
    found = Likeness.of(trained, [str(place) for place in range(count)])
    assert found.of_images(other) * found.threshold == pytest.approx(distance(other, trained))


def test_the_threshold_is_of_images_that_others_judge() -> None:
    """Of at most ten groups each is held back by itself."""
    rng = np.random.default_rng(2)
    points, groups = rng.normal(size=(12, 5)), list("aaabbbcccddd")
    held = np.array(groups)
    outside = np.concatenate([distance(points[held == one], points[held != one]) for one in "abcd"])
    assert Likeness.of(points, groups).threshold == pytest.approx(np.quantile(outside, 0.95))


def test_few_images_like_those_of_the_training_are_unlike_and_all_others() -> None:
    rng = np.random.default_rng(0)
    found = Likeness.of(rng.normal(size=(200, 40)), [str(place) for place in range(200)])
    assert (found.of_images(rng.normal(size=(2000, 40))) > 1).mean() == pytest.approx(0.05, abs=0.03)
    assert (found.of_images(rng.normal(size=(50, 40)) + 2) > 1).all()


def test_images_without_any_variation_have_a_distance() -> None:
    found = Likeness.of(np.ones((4, 3)), list("abcd"))
    assert (found.of_images(np.zeros((2, 3))) > 1).all()
    assert not (found.of_images(np.ones((2, 3))) > 1).any()


def test_what_is_stored_gives_the_same_distances(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    points = rng.normal(size=(5, 64))
    found = Likeness.of(rng.normal(size=(12, 64)), list("abcdefghijkl"))
    found.save(tmp_path)
    stored = Likeness.load(tmp_path)
    assert stored is not None
    assert stored.of_images(points) == pytest.approx(found.of_images(points), rel=1e-4)
    (tmp_path / LIKENESS_NAME).write_bytes(b"damaged")
    assert Likeness.load(tmp_path) is None
    assert Likeness.load(tmp_path / "nothing") is None
