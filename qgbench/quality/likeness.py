"""How far an image is from those that g was trained on: the Mahalanobis distance of its features.

Features are means and standard deviations of the channels of the first three stages of g's backbone, for the image with
an empty mask, so that a bad mask makes no image unlike. What the backbone hands to its head will not do: it is farther
from the phantom's pictures for skin, but for inverted phantoms it is nearer than for further phantoms.

The covariance is that of all images in g's folder, shrunk towards a multiple of the identity as Ledoit and Wolf do
(J. Multivariate Anal. 88, 2004), since there may be fewer images than features. Distances are given as a share of a
threshold: each tenth of the groups is held back in turn, and 95 % of all images held back so lie below it. So about one
in twenty images like those of the training is called unlike. A higher share would be that of the folder's oddest
pictures: with 99 %, g of PH2 took a third to two thirds of pictures of colons for its like, with 95 % none.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from qgbench.base.files import write_atomically
from qgbench.quality.predictor import QualityPredictor

LIKENESS_NAME = "likeness.safetensors"
_QUANTILE = 0.95
_FOLDS = 10
_STAGES = [0, 1, 2]
_LEAST = 1e-12  # of a variance and of the threshold, which images without any difference would leave at 0

Features = NDArray[np.float64]


@dataclass(frozen=True)
class Likeness:
    """The images that g was trained on, as its features show them.

    Attributes
    ----------
    centre : (F,)
    axes : (R, F)
        Orthonormal directions in which they vary.
    scales : (R,)
        Variance of features along these.
    beside : float
        Variance along every other direction.
    threshold : float
        Distance above which an image is unlike them.
    """

    centre: Features
    axes: Features
    scales: Features
    beside: float
    threshold: float

    @classmethod
    def of(cls, features: Features, groups: Sequence[str]) -> "Likeness":
        """Return what is remembered of images: features (N, F) and the group of each, at least two."""
        names = sorted(set(groups))
        order = np.random.default_rng(0).permutation(len(names))
        fold_of = {name: place % _FOLDS for name, place in zip(names, order.tolist(), strict=True)}
        folds = np.array([fold_of[name] for name in groups])
        distances = [cls._fitted(features[folds != fold]).of_images(features[folds == fold]) for fold in set(folds)]
        threshold = max(float(np.quantile(np.concatenate(distances), _QUANTILE)), _LEAST)
        return replace(cls._fitted(features), threshold=threshold)

    @classmethod
    def _fitted(cls, features: Features) -> "Likeness":
        centre = features.mean(0)
        spread = features - centre
        count, width = spread.shape
        _, lengths, axes = np.linalg.svd(spread, full_matrices=False)
        variances = lengths**2 / count
        kept = variances > variances.max(initial=0.0) * 1e-10
        variances, axes = variances[kept], axes[kept]
        even = max(float(variances.sum()) / width, _LEAST)
        share = _shrinkage(spread, variances, even)
        return cls(centre, axes, (1 - share) * variances + share * even, share * even, 1.0)

    def of_images(self, features: Features) -> NDArray[np.float64]:
        """Return the distances of images: features (N, F) -> (N,), above 1 where one is unlike the training's."""
        away = features - self.centre
        along = away @ self.axes.T
        rest = np.maximum((away**2).sum(1) - (along**2).sum(1), 0.0)
        squared = (along**2 / self.scales).sum(1) + rest / self.beside
        return np.sqrt(squared) / self.threshold

    def save(self, folder: Path) -> None:
        """Store it beside a predictor, in single precision."""
        parts = {"centre": self.centre, "axes": self.axes, "scales": self.scales}
        numbers = {"beside": self.beside, "threshold": self.threshold}
        tensors = {name: torch.tensor(value, dtype=torch.float32) for name, value in (parts | numbers).items()}
        write_atomically(folder / LIKENESS_NAME, save(tensors))

    @classmethod
    def load(cls, folder: Path) -> "Likeness | None":
        """Return what is stored beside a predictor; None where nothing is, as beside one that a run trained."""
        try:
            stored = load((folder / LIKENESS_NAME).read_bytes())
            centre, axes, scales = (stored[name].double().numpy() for name in ("centre", "axes", "scales"))
            return cls(centre, axes, scales, float(stored["beside"]), float(stored["threshold"]))
        except (OSError, SafetensorError, KeyError):
            return None


def _shrinkage(spread: Features, variances: Features, even: float) -> float:
    """Return the share of the identity by Ledoit and Wolf, of deviations (N, F) and their covariance's eigenvalues.

    It is at least one in ten thousand, so that no direction is without variance.
    """
    count, width = spread.shape
    size = float((variances**2).sum())  # of the covariance, Frobenius norm squared
    apart = size - width * even**2
    noise = (float(((spread**2).sum(1) ** 2).sum()) / count - size) / count
    return float(np.clip(noise / apart, 1e-4, 1.0)) if apart > 0 else 1.0


def features(predictor: QualityPredictor, images: Iterable[Tensor], classes: int) -> Iterator[Features]:
    """Yield the features of batches of images: (B, 3, H, W) in [0, 1] -> (B, F)."""
    for image in images:
        empty = image.new_zeros((len(image), classes, *image.shape[2:]))
        with torch.no_grad():
            stacked = (torch.cat([image, empty], 1) - predictor.mean) / predictor.std
            stages: Any = predictor.backbone  # one of timm's, which torch types as any module
            maps = stages.forward_intermediates(stacked, indices=_STAGES, intermediates_only=True)
            found = [statistic for each in maps for statistic in (each.mean((2, 3)), each.std((2, 3)))]
        yield torch.cat(found, 1).double().cpu().numpy()


def can_tell(predictor: QualityPredictor) -> bool:
    """Return whether g has a backbone that shows its stages, as all but a few of timm's do."""
    return hasattr(getattr(predictor, "backbone", None), "forward_intermediates")
