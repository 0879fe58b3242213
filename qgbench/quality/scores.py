"""Scores of a pseudo-label's quality: g and the controls that it must beat.

A score maps weak views and their labels to one value per image in [0, 1], without gradient and without random numbers
of the training's own streams.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from qgbench.base.errors import UserError
from qgbench.engine.device import ALONE, World
from qgbench.methods import Network, label_probabilities
from qgbench.plugins.hooks import call, told
from qgbench.spec.arm import CORRECTORS
from qgbench.spec.task import Task

_ROUNDING = 1e-4  # of a mean of values in [0, 1]


@dataclass
class Labelling:
    """What a score may look at."""

    image: Tensor  # (U, 3, H, W) weak views in [0, 1]
    prob: Tensor  # (U, C, H, W) the labelling network's probabilities
    network: Network  # the network that labelled
    truth: Tensor | None  # (U, C, H, W) masks in the same geometry, NaN where unknown; for the oracle only
    world: World = ALONE  # the processes that label the other rows of the same batch
    unlabelled: bool = True  # False for labelled images, whose truth is no secret

    @property
    def task(self) -> Task:
        """What is segmented."""
        return self.network.task


class Score:
    """A quality of every pseudo-label, by which an add-on may weigh.

    Parameters
    ----------
    predictor : nn.Module or None
        g, where the score `needs_g`.
    seed : int
        Of a generator of its own, should it need random numbers.
    """

    needs_g: ClassVar[bool] = False
    needs_truth: ClassVar[bool] = False  # held-back masks of all unlabelled images; only a control may look at them
    form: ClassVar[str] = "regressor"  # of the predictor, where the score `needs_g`
    averaged: ClassVar[bool] = False  # every label of a batch gets the mean of the weights that the qualities give

    def __init__(self, predictor: nn.Module | None = None, seed: int = 0) -> None:
        if self.needs_g and predictor is None:
            raise ValueError(f"the score {type(self).__name__} needs the quality predictor")
        self.predictor = predictor
        self.seed = seed

    def __call__(self, labelling: Labelling) -> Tensor:
        """Return the qualities (U,) in [0, 1], without gradient and without numbers of the training's streams."""
        raise NotImplementedError

    def refined(self, image: Tensor, prob: Tensor, truth: Tensor | None) -> Tensor:
        """Return the mask that is right to this score, as probabilities, for the add-on `refine`.

        Parameters
        ----------
        image : (U, 3, H, W)
        prob : (U, C, H, W)
            The label.
        truth : (U, C, H, W) or None
            As of `Labelling`.

        Raises
        ------
        UserError
            It knows of none.
        """
        raise UserError(f"the score {type(self).__name__} corrects no label; use --qg-score {', '.join(CORRECTORS)}.")

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed run needs."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""


def in_unit_range(who: str, value: Any, shape: tuple[int, ...], prob: Tensor) -> Tensor:
    """Return what an add-on or a score handed back for pseudo-labels, if it is a tensor of this shape in [0, 1].

    Parameters
    ----------
    who : str
        'score Sharpness', 'add-on Capped: weigh'.
    value : Any
    shape : tuple of int
    prob : (U, C, H, W)
        The pseudo-labels: where these have NaN, as where training diverges, so may `value`.

    Raises
    ------
    UserError
        It is something else: says whose, and what.
    """
    expected = f"expected a tensor of shape {shape}, in [0, 1]"
    if not isinstance(value, Tensor) or value.shape != shape:
        raise UserError(f"{who} gave {told(value)}; {expected}.")
    if not bool(((value >= -_ROUNDING) & (value <= 1 + _ROUNDING)).all()) and bool(prob.isfinite().all()):
        given = value.detach().float()
        what = "NaN" if bool(given.isnan().any()) else f"values from {given.min():.4g} to {given.max():.4g}"
        raise UserError(f"{who} gave {what}; {expected}.")
    return value


class Watched(Score):
    """A score by its name, whose qualities are looked at.

    Parameters
    ----------
    score : Score
    name : str
        As ``--qg-score`` takes it.
    """

    def __init__(self, score: Score, name: str) -> None:
        super().__init__(score.predictor, score.seed)
        self._score = score
        self.name = name
        self.sees_truth = score.needs_truth
        self.averages = score.averaged
        self._given: Tensor | None = None
        self._who = f"score {name}"

    def __call__(self, labelling: Labelling) -> Tensor:
        """Return the qualities (U,).

        Raises
        ------
        UserError
            The score fails, or gives something else than one number in [0, 1] for each pseudo-label.
        """
        quality = call(self._who, self._score.__call__, labelling)
        self._given = in_unit_range(self._who, quality, (len(labelling.prob),), labelling.prob).detach().float()
        return self._given

    def take(self) -> Tensor | None:
        """Return the qualities (U,) that it gave last, once; None if it was not asked since."""
        given, self._given = self._given, None
        return given

    def state_dict(self) -> dict[str, Any]:
        """Return the score's state."""
        return self._score.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        self._score.load_state_dict(state)

    def refined(self, image: Tensor, prob: Tensor, truth: Tensor | None) -> Tensor:
        """Return the score's mask."""
        return self._score.refined(image, prob, truth)


def overlap(first: Tensor, second: Tensor) -> Tensor:
    """Return the Dice of two bool masks per image, 1 if both are empty: (U, 1, H, W) twice -> (U,) float32."""
    both = (first & second).flatten(1).sum(1).float()
    total = (first.flatten(1).sum(1) + second.flatten(1).sum(1)).float()
    return torch.where(total > 0, 2 * both / total.clamp_min(1), torch.ones_like(total))


def soft_overlap(first: Tensor, second: Tensor) -> Tensor:
    """Return the Dice of maps in [0, 1], (2 sum p m + 1) / (sum p + sum m + 1): (B, K, H, W) twice -> (B, K)."""
    both, total = (first * second).flatten(2).sum(2), first.flatten(2).sum(2) + second.flatten(2).sum(2)
    return (2 * both + 1) / (total + 1)


def hard_overlap(first: Tensor, second: Tensor) -> Tensor:
    """Return the Dice of each class, 1 where both are empty: masks (B, K, H, W), 0 or 1, twice -> (B, K) float32."""
    pairs = zip(first.bool().split(1, 1), second.bool().split(1, 1), strict=True)
    return torch.stack([overlap(*pair) for pair in pairs], 1)


def overlap_by_class(task: Task, first: Tensor, second: Tensor) -> Tensor:
    """Return the Dice of each class, 1 where both are empty: hard masks (U, C, H, W) bool twice -> (U, K) float32."""
    return hard_overlap(first[:, task.lesions], second[:, task.lesions])


def mean_of_held(task: Task, values: Tensor, label: Tensor) -> Tensor:
    """Return the mean of values of classes over those that a label holds; over all where it holds none.

    Parameters
    ----------
    task : Task
    values : (U, K)
    label : (U, C, H, W)
        Probabilities, or 0 and 1: a class is held where it is the likeliest of some pixel.

    Returns
    -------
    (U,)
    """
    if values.shape[1] == 1:
        return values.squeeze(1)
    held = task.hard(label.detach())[:, task.lesions].flatten(2).any(2)
    held = held | ~held.any(1, keepdim=True)
    return (values * held).sum(1) / held.sum(1)


def predicted_dice(predictor: nn.Module, task: Task, image: Tensor, mask: Tensor) -> Tensor:
    """Return the Dice of each class that g predicts: images (U, 3, H, W), masks (U, C, H, W) -> (U, K)."""
    dice: Tensor = predictor(image, mask[:, task.lesions])
    return dice.view(len(image), -1)


def predicted_quality(predictor: nn.Module, task: Task, image: Tensor, mask: Tensor) -> Tensor:
    """Return q, the mean of `predicted_dice` over the classes that a mask holds (`mean_of_held`): (U,)."""
    return mean_of_held(task, predicted_dice(predictor, task, image, mask), mask)


def label_quality(predictor: nn.Module, task: Task, image: Tensor, prob: Tensor) -> Tensor:
    """Return q = g(image, hard label), without gradient (arXiv 2606.01753, Eqn 7).

    Parameters
    ----------
    predictor : nn.Module
    task : Task
    image : (U, 3, H, W)
        In [0, 1].
    prob : (U, C, H, W)
        Probabilities of the label, before any cut.

    Returns
    -------
    (U,)
    """
    with torch.no_grad():
        return predicted_quality(predictor, task, image, task.hard(prob))


def foreground_confidence(labelling: Labelling) -> Tensor:
    """Return the mean probability of the class that is predicted, over the predicted foreground; 0 where there is none.

    The foreground is what is not predicted as background. Of one class the mean is in (0.5, 1].
    """
    prob, task = labelling.prob, labelling.task
    foreground = task.hard(prob)[:, task.lesions].bool().any(1).flatten(1)
    return (task.confidence(prob).flatten(1) * foreground).sum(1) / foreground.sum(1).clamp_min(1)


def flip_agreement(labelling: Labelling) -> Tensor:
    """Return the Dice between the labelling network's prediction on a view and on its left-right flip.

    Of several classes, the mean over those that the label holds.
    """
    task, flipped = labelling.task, label_probabilities(labelling.network, labelling.image.flip(3)).flip(3)
    return true_quality(task, labelling.prob, task.hard(flipped))


def certainty(labelling: Labelling) -> Tensor:
    """Return 1 - the mean entropy of the pixels, as a share of the largest, ln(K + 1): (U,)."""
    task = labelling.task
    share = task.entropy(labelling.prob.float()).flatten(1).mean(1) / math.log(len(task.classes) + 1)
    return (1 - share).clamp(0, 1)


def true_quality(task: Task, label: Tensor, truth: Tensor) -> Tensor:
    """Return the Dice of labels with masks, averaged as q is: over the classes that a label holds.

    Parameters
    ----------
    task : Task
    label : (U, C, H, W)
        Probabilities.
    truth : (U, C, H, W)
        0 or 1.

    Returns
    -------
    (U,)
    """
    return mean_of_held(task, overlap_by_class(task, task.hard(label).bool(), truth > 0.5), label)


class One(Score):
    """1 for every label: the add-on then changes nothing."""

    def __call__(self, labelling: Labelling) -> Tensor:
        """Return ones."""
        return labelling.prob.new_ones(len(labelling.prob))


class Confidence(Score):
    """How sure the labelling network is of the foreground that it predicts."""

    def __call__(self, labelling: Labelling) -> Tensor:
        """Return `foreground_confidence`."""
        return foreground_confidence(labelling)


class Agreement(Score):
    """How well the labelling network agrees with itself on the flipped view."""

    def __call__(self, labelling: Labelling) -> Tensor:
        """Return `flip_agreement`."""
        return flip_agreement(labelling)


def _known(truth: Tensor | None) -> Tensor:
    if truth is None:
        raise UserError("the oracle needs masks aligned with the labelled pictures; this method mixes or changes them.")
    return truth


class Entropy(Score):
    """How sure the labelling network is of every pixel, background or not."""

    def __call__(self, labelling: Labelling) -> Tensor:
        """Return `certainty`."""
        return certainty(labelling)


class TrueDice(Score):
    """Dice of the label with the held-back mask: unattainable in practice, an upper bound of what weighing gives.

    Of several classes, the mean over those that the label holds, as for g.
    """

    needs_truth = True

    def __call__(self, labelling: Labelling) -> Tensor:
        """Return the true Dice.

        Raises
        ------
        UserError
            The masks were not handed in: the method labels other pictures than the weak views.
        """
        return true_quality(labelling.task, labelling.prob, _known(labelling.truth))

    def refined(self, image: Tensor, prob: Tensor, truth: Tensor | None) -> Tensor:
        """Return the held-back mask: the most that correction can give.

        Raises
        ------
        UserError
            As when it is called.
        """
        return _known(truth)


class PredictedQuality(Score):
    """The quality predictor g on the hard label; of several classes, the mean over those that it holds."""

    needs_g = True

    def __call__(self, labelling: Labelling) -> Tensor:
        """Return `label_quality`."""
        assert self.predictor is not None
        return label_quality(self.predictor, labelling.task, labelling.image, labelling.prob)


class PixelQuality(PredictedQuality):
    """The same of a predictor that corrects the mask (`qgbench.quality.pixel`)."""

    form = "pixel"

    def refined(self, image: Tensor, prob: Tensor, truth: Tensor | None) -> Tensor:
        """Return the predictor's corrected mask."""
        predictor: Any = self.predictor
        better: Tensor = predictor.refined(image, prob)
        return better


class BothQuality(PixelQuality):
    """The same of a predictor that corrects the mask and has g's head."""

    form = "both"


class SecondQuality(PixelQuality):
    """Dice of the label with a second segmenter's prediction (`qgbench.quality.segmenters`), which corrects it, too."""

    form = "second"


class EnsembleQuality(PredictedQuality):
    """Mean Dice of the pairs of predictions of three small segmenters; it does not look at the label."""

    form = "ensemble"


class MeanQuality(PredictedQuality):
    """g's scores, of whose weights every label of the batch gets the mean: a smaller lambda_u, and no choice.

    A reduction that divides by the weights' sum undoes it; ``--qg-norm none`` does not.
    """

    averaged = True


class ShuffledQuality(PredictedQuality):
    """g's scores, permuted within the batch by a generator of its own: the same weights on the wrong images.

    The batch is that of all processes, whose generators are in the same state.
    """

    def __init__(self, predictor: nn.Module | None = None, seed: int = 0) -> None:
        super().__init__(predictor, seed)
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, labelling: Labelling) -> Tensor:
        """Return q[permutation]."""
        quality = labelling.world.gather(super().__call__(labelling))
        return labelling.world.part(quality[torch.randperm(len(quality), generator=self.generator).to(quality.device)])

    def state_dict(self) -> dict[str, Any]:
        """Return the generator's state."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the generator."""
        self.generator.set_state(state["generator"])
