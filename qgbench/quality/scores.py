"""Scores of a pseudo-label's quality: g and the controls that it must beat.

A score maps weak views and their labels to one value per image in [0, 1], without gradient and without random numbers
of the training's own streams.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qgbench.base.errors import UserError
from qgbench.engine.device import ALONE, World
from qgbench.methods import Network, label_probabilities


@dataclass
class Labelling:
    """What a score may look at."""

    image: Tensor  # (U, 3, H, W) weak views in [0, 1]
    prob: Tensor  # (U, 1, H, W) the labelling network's probabilities
    network: Network  # the network that labelled
    truth: Tensor | None  # (U, 1, H, W) masks in the same geometry, NaN where unknown; for the oracle only
    world: World = ALONE  # the processes that label the other rows of the same batch
    unlabelled: bool = True  # False for labelled images, whose truth is no secret


ScoreFunction = Callable[[Labelling], Tensor]


def overlap(first: Tensor, second: Tensor) -> Tensor:
    """Dice of two bool masks per image, 1 if both are empty: (U, 1, H, W) twice -> (U,) float32."""
    both = (first & second).flatten(1).sum(1).float()
    total = (first.flatten(1).sum(1) + second.flatten(1).sum(1)).float()
    return torch.where(total > 0, 2 * both / total.clamp_min(1), torch.ones_like(total))


def one(labelling: Labelling) -> Tensor:
    """1 for every label: the add-on then changes nothing."""
    return labelling.prob.new_ones(len(labelling.prob))


def foreground_confidence(labelling: Labelling) -> Tensor:
    """Mean probability of the predicted foreground, in (0.5, 1]; 0 where none is predicted."""
    prob = labelling.prob.flatten(1)
    foreground = prob > 0.5
    return (prob * foreground).sum(1) / foreground.sum(1).clamp_min(1)


def flip_agreement(labelling: Labelling) -> Tensor:
    """Dice between the labelling network's prediction on a view and on its left-right flip."""
    flipped = label_probabilities(labelling.network, labelling.image.flip(3)).flip(3)
    return overlap(labelling.prob > 0.5, flipped > 0.5)


def true_dice(labelling: Labelling) -> Tensor:
    """Dice of the label with the held-back mask: not attainable in practice, an upper bound of what weighing can give.

    Raises
    ------
    UserError
        The masks were not handed in: the method labels other pictures than the weak views.
    """
    if labelling.truth is None:
        raise UserError("the oracle needs masks aligned with the labelled pictures; this method mixes or changes them.")
    return overlap(labelling.prob > 0.5, labelling.truth > 0.5)


class PredictedQuality:
    """The quality predictor g on the label cut at 0.5."""

    def __init__(self, predictor: nn.Module) -> None:
        self._predictor = predictor

    def __call__(self, labelling: Labelling) -> Tensor:
        """Q = g(image, label > 0.5), without gradient (arXiv 2606.01753, Eqn 7)."""
        with torch.no_grad():
            return self._predictor(labelling.image, (labelling.prob > 0.5).float())


class ShuffledQuality:
    """g's scores, permuted within the batch by a generator of its own: the same weights on the wrong images.

    The batch is that of all processes, whose generators are in the same state.
    """

    def __init__(self, predictor: nn.Module, seed: int) -> None:
        self._quality = PredictedQuality(predictor)
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, labelling: Labelling) -> Tensor:
        """Return q[permutation]."""
        quality = labelling.world.gather(self._quality(labelling))
        return labelling.world.part(quality[torch.randperm(len(quality), generator=self.generator).to(quality.device)])


def make_score(name: str, predictor: nn.Module | None, seed: int) -> ScoreFunction:
    """Build a score by its name on the command line.

    Parameters
    ----------
    name : str
        One of `qgbench.spec.run_spec.SCORES`.
    predictor : nn.Module or None
        g; needed by 'g' and 'shuffled'.
    seed : int
        Of the shuffling generator.

    Raises
    ------
    ValueError
        The name is unknown, or g is missing.
    """
    free: dict[str, ScoreFunction] = {
        "one": one,
        "confidence": foreground_confidence,
        "agreement": flip_agreement,
        "oracle": true_dice,
    }
    if name in free:
        return free[name]
    if predictor is None:
        raise ValueError(f"score '{name}' needs the quality predictor")
    if name == "g":
        return PredictedQuality(predictor)
    if name == "shuffled":
        return ShuffledQuality(predictor, seed)
    raise ValueError(f"unknown score '{name}'")
