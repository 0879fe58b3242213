"""Train the quality predictor g on the labelled set alone (arXiv 2606.01753), and audit it on the validation images."""

import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from qgbench.base.errors import QGBenchError, UserError
from qgbench.data.views import Shared, flip, rotate
from qgbench.engine.checkpoint import Checkpoints
from qgbench.engine.stage import train
from qgbench.engine.state import load_scaler_state, new_scaler, random_states, scaler_state, set_random_states
from qgbench.quality.audit import Agreement, agreement, correlation
from qgbench.quality.corruptions import degrade
from qgbench.quality.predictor import QualityPredictor
from qgbench.quality.scores import overlap
from qgbench.quality.weak import WeakModels, draw_folds
from qgbench.spec.protocol import QualitySettings

_AUDIT_MASKS = (
    20  # synthetic masks of each validation image in the audit, drawn apart from those that select the best step
)

_WEAK_STAGE, _PREDICTOR_STAGE = "weak", "g"  # folders of their checkpoints


@dataclass
class LabelledImages:
    """Images with masks at training resolution."""

    image: Tensor  # (N, 3, H, W) float in [0, 1]
    mask: Tensor  # (N, 1, H, W) float, 0 or 1


@dataclass
class FittedPredictor:
    """A trained g and what it is worth."""

    predictor: QualityPredictor
    synthetic: Agreement
    weak_models: Agreement
    weak_dice: list[float]
    image_dependence: float
    best_step: int
    seconds: float


@dataclass
class _Judged:
    """Masks to be judged, with their true Dice."""

    image: Tensor  # (M,) index of the image
    mask: Tensor  # (M, 1, H, W)
    dice: np.ndarray  # (M,)


def fit_predictor(
    labelled: LabelledImages,
    val: LabelledImages,
    settings: QualitySettings,
    seed: int,
    accelerator: Accelerator,
    folder: Path,
    belongs_to: dict[str, str],
) -> FittedPredictor:
    """Train the weak models, then g, then audit it; an interrupted call is continued by the next.

    Parameters
    ----------
    labelled : LabelledImages
        The run's labelled draw: all that g learns from.
    val : LabelledImages
        Images for selection and audit.
    settings : QualitySettings
    seed : int
        Fixes weights, order, views and degraded masks.
    accelerator : Accelerator
    folder : Path
        Where checkpoints are kept meanwhile; they are removed by `remove_checkpoints`.
    belongs_to : dict of str to str
        See `qgbench.engine.checkpoint.Checkpoints`.

    Raises
    ------
    UserError
        There are more folds than labelled images.
    QGBenchError
        The loss is not finite, or the folder cannot be written.
    """
    weak, weak_val, seconds = _weak_masks(labelled, val, settings, seed, accelerator, folder, belongs_to)
    fit = PredictorFit(labelled, val, weak, settings, seed, accelerator)
    seconds += train(fit, Checkpoints(folder / _PREDICTOR_STAGE, belongs_to), "quality predictor g")
    return _audit(fit.best(), val, weak_val, fit.best_step, seed, accelerator, time.monotonic() - seconds)


def _weak_masks(
    labelled: LabelledImages,
    val: LabelledImages,
    settings: QualitySettings,
    seed: int,
    accelerator: Accelerator,
    folder: Path,
    belongs_to: dict[str, str],
) -> tuple[Tensor, Tensor, float]:
    """Train weak models and ask them about images.

    One fold: they are trained on all labelled images and asked about the same. K folds: K times, on the images outside
    a fold and asked about those in it. Those of the first fold judge the validation images, which none of them was
    trained on, so that the audit has equally many masks whatever the number of folds.

    Returns
    -------
    (E, N, 1, H, W) bool for the labelled, (E, V, 1, H, W) bool for the validation images, seconds of training.
    """
    count, folds = len(labelled.image), settings.weak_folds
    if folds > count:
        raise UserError(
            f"quality.weak_folds = {folds}, but there are {count} labelled images, and each fold needs one; give "
            f"--set quality.weak_folds={count} or less."
        )
    fold_of = draw_folds(count, folds, seed)
    weak = torch.empty(len(settings.weak_epochs), *labelled.mask.shape, dtype=torch.bool)
    seconds = 0.0
    for fold in range(folds):
        inside = fold_of == fold
        outside = inside if folds == 1 else ~inside
        asked = [labelled.image[inside], *([val.image] if fold == 0 else [])]
        models = WeakModels(labelled.image[outside], labelled.mask[outside], asked, settings, seed, accelerator)
        what = "weak models" if folds == 1 else f"weak models, fold {fold + 1} of {folds}"
        seconds += train(models, Checkpoints(folder / _WEAK_STAGE / str(fold), belongs_to), what)
        masks = models.masks()
        weak[:, inside] = masks[0]
        if fold == 0:
            weak_val = masks[1]
    return weak, weak_val, seconds


def remove_checkpoints(folder: Path) -> None:
    """Remove what `fit_predictor` kept for the case of an interruption."""
    for stage in (_WEAK_STAGE, _PREDICTOR_STAGE):
        shutil.rmtree(folder / stage, ignore_errors=True)


class PredictorFit:
    """Trains g: smooth L1 between q and the true Dice of degraded masks, the best validation step is kept.

    Best is the highest correlation with the true Dice of degraded masks of the validation images. Their mean absolute
    error may be least at the first validation, when g misjudges a model's masks most.

    Parameters
    ----------
    labelled, val : LabelledImages
    weak : (E, N, 1, H, W) bool
        Masks of weak models for the labelled images.
    settings : QualitySettings
    seed : int
    accelerator : Accelerator
    """

    def __init__(
        self,
        labelled: LabelledImages,
        val: LabelledImages,
        weak: Tensor,
        settings: QualitySettings,
        seed: int,
        accelerator: Accelerator,
    ) -> None:
        new_scaler(accelerator)
        self._val = val
        self._select = _synthetic(val, settings.val_masks, seed + 1)
        torch.manual_seed(seed)
        self._predictor = QualityPredictor(settings, settings.backbone_weights).to(accelerator.device)
        self._optimiser = accelerator.prepare_optimizer(
            torch.optim.AdamW(
                self._predictor.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True
            )
        )
        self._accelerator = accelerator
        self._settings = settings
        self._masks = _TrainingMasks(labelled, weak, settings, seed)
        self._best_r = -math.inf
        self._best_state: dict[str, Tensor] = {}
        self._stale = 0  # validations since the best one
        self.best_step = 0
        self.step = 0

    @property
    def steps(self) -> int:
        """Number of steps at most."""
        return self._settings.steps

    def run(self) -> Iterator[int]:
        """Train until the budget or the patience ends, yielding the number of finished steps after each.

        Raises
        ------
        QGBenchError
            The loss is not finite.
        """
        settings = self._settings
        every = max(1, settings.steps // settings.validations)
        while self.step < self.steps and self._stale < settings.patience:
            step = self.step + 1
            self._train_step(step)
            if step % every == 0 or step == self.steps:
                self._validate(step)
            self.step = step
            yield step

    def _train_step(self, step: int) -> None:
        settings, device = self._settings, self._accelerator.device
        image, mask, dice = self._masks.next()
        for group in self._optimiser.param_groups:
            group["lr"] = settings.lr * 0.5 * (1 + math.cos(math.pi * (step - 1) / settings.steps))
        with self._accelerator.autocast():
            quality = self._predictor(image.to(device), mask.to(device))
        loss = F.smooth_l1_loss(quality, dice.to(device))
        if not math.isfinite(value := float(loss.detach())):
            raise QGBenchError(f"the loss of the quality predictor is {value} at step {step}; try a lower quality.lr.")
        self._optimiser.zero_grad(set_to_none=True)
        self._accelerator.backward(loss)
        self._optimiser.step()

    def _validate(self, step: int) -> None:
        r = correlation(_judge(self._predictor, self._val, self._select, self._accelerator), self._select.dice)
        self._stale += 1
        if r > self._best_r:
            self._best_r, self.best_step, self._stale = r, step, 0
            self._best_state = {name: v.detach().clone() for name, v in self._predictor.state_dict().items()}

    def best(self) -> QualityPredictor:
        """Return g as it was at the best validation step, frozen, in evaluation mode."""
        self._predictor.load_state_dict(self._best_state)
        self._predictor.requires_grad_(False).eval()
        return self._predictor

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the rest of the training depends on."""
        return {
            "step": self.step,
            "predictor": self._predictor.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "scaler": scaler_state(self._accelerator),
            "masks": self._masks.state_dict(),
            "best_r": self._best_r,
            "best_step": self.best_step,
            "best_state": self._best_state,
            "stale": self._stale,
            "random": random_states(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken: bit for bit on a CPU."""
        self.step = state["step"]
        self._predictor.load_state_dict(state["predictor"])
        self._optimiser.load_state_dict(state["optimiser"])
        load_scaler_state(self._accelerator, state["scaler"])
        self._masks.load_state_dict(state["masks"])
        self._best_r = state["best_r"]
        self.best_step = state["best_step"]
        self._best_state = state["best_state"]
        self._stale = state["stale"]
        set_random_states(state["random"])


def _audit(
    predictor: QualityPredictor,
    val: LabelledImages,
    weak_val: Tensor,
    best_step: int,
    seed: int,
    accelerator: Accelerator,
    begin: float,
) -> FittedPredictor:
    drawn = _synthetic(val, _AUDIT_MASKS, seed + 2)
    quality = _judge(predictor, val, drawn, accelerator)
    black = LabelledImages(torch.zeros_like(val.image), val.mask)
    swapped = LabelledImages(val.image.roll(1, 0), val.mask)
    dependence = max(correlation(quality, _judge(predictor, other, drawn, accelerator)) for other in (black, swapped))
    truth = val.mask > 0.5
    weak_dice = torch.stack([overlap(masks, truth) for masks in weak_val])
    weak = _Judged(
        torch.arange(len(truth)).repeat(len(weak_val)), weak_val.flatten(0, 1).float(), weak_dice.flatten().numpy()
    )
    return FittedPredictor(
        predictor=predictor,
        synthetic=agreement(quality, drawn.dice),
        weak_models=agreement(_judge(predictor, val, weak, accelerator), weak.dice),
        weak_dice=weak_dice.mean(1).tolist(),
        image_dependence=dependence,
        best_step=best_step,
        seconds=time.monotonic() - begin,
    )


class _TrainingMasks:
    """Endless batches of degraded masks of the labelled images, by degradation or by weak models.

    The images are flipped, rotated and change in colour, as in arXiv 2606.01753, but get none of its noise: running
    statistics of noisy images misjudge those that g is asked about.
    """

    def __init__(self, labelled: LabelledImages, weak: Tensor, settings: QualitySettings, seed: int) -> None:
        self._image = labelled.image
        self._truths = labelled.mask.squeeze(1).numpy() > 0.5
        self._weak = weak
        self._settings = settings
        self._rng = np.random.default_rng(seed)
        self._generator = torch.Generator().manual_seed(seed)
        self._order = np.empty(0, int)

    def next(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return images (B, 3, H, W), masks (B, 1, H, W) and true Dice (B,)."""
        truths, rng, generator, settings = self._truths, self._rng, self._generator, self._settings
        while len(self._order) < settings.batch:
            self._order = np.concatenate([self._order, rng.permutation(len(truths))])
        chosen, self._order = self._order[: settings.batch], self._order[settings.batch :]
        masks = []
        for index in chosen:
            if rng.random() < settings.weak_share:
                masks.append(self._weak[rng.integers(len(self._weak)), index, 0].numpy())
            else:
                donors = [truths[other] for other in range(len(truths)) if other != index]
                masks.append(degrade(truths[index], rng, donors)[0])
        image = self._image[chosen]
        stack = torch.from_numpy(np.stack([np.stack(masks), truths[chosen]], 1)).float()
        both = flip(torch.cat([image, stack], 1), Shared(generator))
        image, stack = rotate(both[:, :3], both[:, 3:], 20.0, 1.0, Shared(generator))
        return image, stack[:, :1], overlap(stack[:, :1] > 0.5, stack[:, 1:] > 0.5)

    def state_dict(self) -> dict[str, Any]:
        """Generators and what is left of the order."""
        return {
            "rng": self._rng.bit_generator.state,
            "generator": self._generator.get_state(),
            "order": self._order.tolist(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self._rng.bit_generator.state = state["rng"]
        self._generator.set_state(state["generator"])
        self._order = np.array(state["order"], int)


def _synthetic(images: LabelledImages, count: int, seed: int) -> _Judged:
    """Degrade every mask `count` times."""
    rng = np.random.default_rng(seed)
    truths = images.mask.squeeze(1).numpy() > 0.5
    index = np.repeat(np.arange(len(truths)), count)
    masks = []
    for i in index:
        donors = [truths[other] for other in range(len(truths)) if other != i]
        masks.append(degrade(truths[i], rng, donors)[0])
    mask = torch.from_numpy(np.stack(masks)).unsqueeze(1)
    dice = overlap(mask, torch.from_numpy(truths[index]).unsqueeze(1))
    return _Judged(torch.from_numpy(index), mask.float(), dice.numpy())


def _judge(
    predictor: QualityPredictor, images: LabelledImages, judged: _Judged, accelerator: Accelerator
) -> np.ndarray:
    """Predict the quality of masks in evaluation mode: (M,)."""
    training = predictor.training
    predictor.eval()
    parts = []
    with torch.no_grad(), accelerator.autocast():
        for index, mask in zip(judged.image.split(128), judged.mask.split(128), strict=True):
            parts.append(predictor(images.image[index].to(accelerator.device), mask.to(accelerator.device)).cpu())
    predictor.train(training)
    return torch.cat(parts).numpy()
