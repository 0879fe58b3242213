"""Train the quality predictor g on the labelled set alone (arXiv 2606.01753), and audit it on the validation images."""

import math
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from qgbench.base.errors import QGBenchError, UserError
from qgbench.base.logs import logger
from qgbench.base.seeds import salted
from qgbench.engine.checkpoint import Checkpoints
from qgbench.engine.stage import train
from qgbench.engine.state import load_scaler_state, new_scaler, random_states, scaler_state, set_random_states
from qgbench.quality.audit import Agreement, agreement, correlation
from qgbench.quality.corruptions import Degrade, degrade, degrade_labels
from qgbench.quality.predictor import QualityPredictor, kind_of
from qgbench.quality.release import TEST_SHARES, ReleaseMixture
from qgbench.quality.scores import mean_of_held, overlap_by_class
from qgbench.quality.views import colour_view, geometric_view
from qgbench.quality.weak import WeakMasks, WeakModels, draw_folds
from qgbench.spec.protocol import QualitySettings
from qgbench.spec.task import Task

_MOST_VAL = 200  # images with which g is selected and audited, or the masks of many volumes take longer than training
_AUDIT_MASKS = 20  # synthetic masks of each validation image, drawn apart from those that select the best step
_WEAK_STAGE, _PREDICTOR_STAGE = "weak", "g"  # folders of their checkpoints


@dataclass
class LabelledImages:
    """Images with masks at training resolution."""

    image: Tensor  # (N, 3, H, W) float in [0, 1]
    mask: Tensor  # (N, C, H, W) float, 0 or 1
    task: Task = field(default_factory=Task)
    groups: Sequence[str] | None = None  # (N,) patient, lesion or video of each; None: each is one

    def swapped(self) -> "LabelledImages":
        """Return the masks with other images: each the last one before it of another group, if there is another."""
        count, groups = len(self.image), self.groups or range(len(self.image))

        def other(index: int) -> int:
            before = [(index - step) % count for step in range(1, count)]
            return next((each for each in before if groups[each] != groups[index]), before[0])

        return replace(self, image=self.image[[other(index) for index in range(count)]])

    def at_most(self, count: int) -> "LabelledImages":
        """Return `count` of the images, evenly spaced in their order, so that each volume keeps its share; or all."""
        if len(self.image) <= count:
            return self
        kept = np.linspace(0, len(self.image) - 1, count).round().astype(int)
        groups = None if self.groups is None else [self.groups[place] for place in kept]
        return replace(self, image=self.image[kept], mask=self.mask[kept], groups=groups)


@dataclass
class FittedPredictor:
    """A trained g and what it is worth."""

    predictor: QualityPredictor
    synthetic: Agreement
    synthetic_test: Agreement
    weak_models: Agreement
    weak_dice: list[float]
    image_dependence: float
    best_step: int
    seconds: float

    @property
    def worth(self) -> dict[str, Any]:
        """All but the predictor, by the names that its card has for it."""
        return {name: value for name, value in vars(self).items() if name != "predictor"}


@dataclass(frozen=True)
class Verdicts:
    """What g says of masks, and of the same masks on other images; of several classes, means over them."""

    index: np.ndarray  # (M,) of the image that each mask is of
    dice: np.ndarray  # (M,) true
    quality: np.ndarray  # (M,) predicted
    elsewhere: np.ndarray  # (2, M) predicted with the image blacked out, and swapped for another group's

    @property
    def image_dependence(self) -> float:
        """Largest correlation of q with q of the same masks on other images."""
        return max(correlation(self.quality, other) for other in self.elsewhere)


@dataclass
class _Judged:
    """Masks to be judged, with their true Dice."""

    image: Tensor  # (M,) index of the image
    mask: Tensor  # (M, C, H, W)
    dice: np.ndarray  # (M,), of several classes (M, K)


def fit_predictor(
    labelled: LabelledImages,
    val: LabelledImages,
    settings: QualitySettings,
    seed: int,
    accelerator: Accelerator,
    folder: Path,
    belongs_to: dict[str, str],
    form: str = "regressor",
) -> FittedPredictor:
    """Train the weak models, then g, then audit it; an interrupted call is continued by the next.

    Parameters
    ----------
    labelled : LabelledImages
        The run's labelled draw: all that g learns from.
    val : LabelledImages
        Images for selection and audit; of more than 200, as slices of volumes are, 200 of them.
    settings : QualitySettings
    seed : int
        Fixes weights, order, views and degraded masks.
    accelerator : Accelerator
    folder : Path
        Where checkpoints are kept meanwhile; they are removed by `remove_checkpoints`.
    belongs_to : dict of str to str
        See `qgbench.engine.checkpoint.Checkpoints`.
    form : str
        Which of `qgbench.quality.predictor.FORMS` is trained in the place of g, with its masks, steps and batches.

    Raises
    ------
    UserError
        There are more folds than labelled images.
    QGBenchError
        The loss is not finite, or the folder cannot be written.
    """
    weak, seconds = _train_weak_models(labelled, settings, seed, accelerator, folder, belongs_to)
    val = val.at_most(_MOST_VAL)
    fit = PredictorFit(labelled, val, weak, settings, seed, accelerator, form)
    seconds += train(fit, Checkpoints(folder / _PREDICTOR_STAGE, belongs_to), "quality predictor g")
    if fit.step < fit.steps:
        best, end = fit.best_step, fit.step
        logger.info("quality predictor g: no better since step %d, so it ends at step %d of %d.", best, end, fit.steps)
    begin = time.monotonic() - seconds
    return _audit(fit.best(), fit.best_step, val, weak, settings, seed, accelerator, begin)


def _train_weak_models(
    labelled: LabelledImages,
    settings: QualitySettings,
    seed: int,
    accelerator: Accelerator,
    folder: Path,
    belongs_to: dict[str, str],
) -> tuple[WeakMasks, float]:
    """Train weak models; return their masks and the seconds that it took.

    One fold: they are trained on all labelled images and asked about the same. K folds: K times, on the images outside
    a fold and asked about those in it.
    """
    count, folds = len(labelled.image), settings.weak_folds
    if folds > count:
        raise UserError(
            f"quality.weak_folds = {folds}, but there are {count} labelled images, and each fold needs one; give "
            f"--set quality.weak_folds={count} or less."
        )
    fold_of = draw_folds(count, folds, seed)
    networks, seconds = [], 0.0
    for fold in range(folds):
        trained_on = fold_of >= 0 if folds == 1 else fold_of != fold
        image, mask = labelled.image[trained_on], labelled.mask[trained_on]
        models = WeakModels(image, mask, settings, seed, accelerator, labelled.task)
        what = "weak models" if folds == 1 else f"weak models, fold {fold + 1} of {folds}"
        checkpoints = Checkpoints(folder / _WEAK_STAGE / str(fold), belongs_to)
        seconds += train(models, checkpoints, what)
        checkpoints.discard_previous()
        networks.append(models.networks())
    return WeakMasks(networks, fold_of), seconds


def remove_checkpoints(folder: Path) -> None:
    """Remove what `fit_predictor` kept for the case of an interruption."""
    for stage in (_WEAK_STAGE, _PREDICTOR_STAGE):
        shutil.rmtree(folder / stage, ignore_errors=True)


class PredictorFit:
    """Trains g: smooth L1 between q and the true Dice of variable-quality masks; the best validation step is kept.

    Validations judge the same synthetic masks each time, so that two of them differ by g alone; in the release of arXiv
    2606.01753 they are drawn anew. The best, by `settings.select`, has the least loss, as there, or the highest
    correlation with true Dice. On polyps the loss may be least at the first validation, when g misjudges a model's
    masks most; the correlation is blind to that error (docs/decisions/g-2.md and g-3.md).

    Parameters
    ----------
    labelled, val : LabelledImages
    weak : WeakMasks
        Weak models that are asked about the labelled images.
    settings : QualitySettings
    seed : int
    accelerator : Accelerator
    form : str
        As of `fit_predictor`.
    """

    def __init__(
        self,
        labelled: LabelledImages,
        val: LabelledImages,
        weak: WeakMasks,
        settings: QualitySettings,
        seed: int,
        accelerator: Accelerator,
        form: str = "regressor",
    ) -> None:
        new_scaler(accelerator)
        self._val = val
        self._select = _synthetic(
            val, settings.val_masks, _mixture(settings, val.task), salted("masks that select g", seed)
        )
        torch.manual_seed(salted("weights of g", seed))
        size = labelled.image.shape[-1]
        predictor = kind_of(form)(settings, settings.backbone_weights, labelled.task, size)
        self._predictor = predictor.to(accelerator.device)
        self._optimiser = accelerator.prepare_optimizer(
            torch.optim.AdamW(
                self._predictor.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True
            )
        )
        self._accelerator = accelerator
        self._settings = settings
        self._masks = _TrainingMasks(labelled, weak, settings, seed, accelerator.device)
        self._best_score = -math.inf
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
        settings = self._settings
        image, mask, dice, truth = self._masks.next()
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate(settings, step - 1)
        with self._accelerator.autocast():
            loss = self._predictor.loss(image, mask, dice, truth)
        if not math.isfinite(value := float(loss.detach())):
            raise QGBenchError(f"the loss of the quality predictor is {value} at step {step}; try a lower quality.lr.")
        self._optimiser.zero_grad(set_to_none=True)
        self._accelerator.backward(loss)
        if settings.grad_clip:
            self._accelerator.unscale_gradients(self._optimiser)
            nn.utils.clip_grad_norm_(self._predictor.parameters(), settings.grad_clip)
        self._optimiser.step()

    def _validate(self, step: int) -> None:
        score = self._score()
        self._stale += 1
        if score > self._best_score:
            self._best_score, self.best_step, self._stale = score, step, 0
            self._best_state = {name: v.detach().clone() for name, v in self._predictor.state_dict().items()}

    def _score(self) -> float:
        if (skill := self._skill()) is not None:
            return skill
        quality, dice = _judge(self._predictor, self._val, self._select, self._accelerator), self._select.dice
        if self._settings.select == "correlation":
            return correlation(*(_of_whole(self._val.task, self._select, values) for values in (quality, dice)))
        return -float(F.smooth_l1_loss(torch.from_numpy(quality), torch.from_numpy(dice)))

    @torch.no_grad()
    def _skill(self) -> float | None:
        """Return the mean of the predictor's own measure of itself on the validation images, where it has one."""
        self._predictor.eval()
        parts = []
        for image, truth in zip(self._val.image.split(128), self._val.mask.split(128), strict=True):
            with self._accelerator.autocast():
                part = self._predictor.skill(image.to(self._accelerator.device), truth.to(self._accelerator.device))
            if part is not None:
                parts.append(part)
        self._predictor.train()
        return float(torch.cat(parts).mean()) if parts else None

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
            "best_score": self._best_score,
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
        self._best_score = state["best_score"]
        self.best_step = state["best_step"]
        self._best_state = state["best_state"]
        self._stale = state["stale"]
        set_random_states(state["random"])


def learning_rate(settings: QualitySettings, done: int) -> float:
    """Return the learning rate of g's next step: cosines from `lr` to `lr_end`, each twice as long as the one before.

    The release of arXiv 2606.01753 restarts after 10, 30 and 70 of 150 epochs: four cycles. It changes the rate after
    each epoch, one epoch late; here it changes with every step.

    Parameters
    ----------
    settings : QualitySettings
    done : int
        Steps before, from 0 to `settings.steps` - 1.
    """
    first = settings.steps / (2**settings.cycles - 1)
    cycle = int(math.log2(done / first + 1))
    begin, length = first * (2**cycle - 1), first * 2**cycle
    share = 0.5 * (1 + math.cos(math.pi * (done - begin) / length))
    return settings.lr_end + (settings.lr - settings.lr_end) * share


def _audit(
    predictor: QualityPredictor,
    best_step: int,
    val: LabelledImages,
    weak: WeakMasks,
    settings: QualitySettings,
    seed: int,
    accelerator: Accelerator,
    begin: float,
) -> FittedPredictor:
    drawn = judge_masks(predictor, val, settings, seed, accelerator)
    of_test = _of_classes(ReleaseMixture(TEST_SHARES, settings.warp_floor).degrade, val.task)
    drawn_test = _synthetic(val, _AUDIT_MASKS, of_test, salted("masks that audit g, test shares", seed))

    def agreement_on(judged: _Judged) -> Agreement:
        quality = _judge(predictor, val, judged, accelerator)
        return agreement(*(_of_whole(val.task, judged, values) for values in (quality, judged.dice)))

    truth, weak_val = val.mask > 0.5, weak.of_others(val.image, accelerator.device)
    weak_dice = torch.stack([_dice(val.task, masks, truth) for masks in weak_val])
    of_weak = _Judged(
        torch.arange(len(truth)).repeat(len(weak_val)), weak_val.flatten(0, 1).float(), weak_dice.flatten(0, 1).numpy()
    )
    return FittedPredictor(
        predictor=predictor,
        synthetic=agreement(drawn.quality, drawn.dice),
        synthetic_test=agreement_on(drawn_test),
        weak_models=agreement_on(of_weak),
        weak_dice=weak_dice.flatten(1).mean(1).tolist(),
        image_dependence=drawn.image_dependence,
        best_step=best_step,
        seconds=time.monotonic() - begin,
    )


def judge_masks(
    predictor: QualityPredictor,
    images: LabelledImages,
    settings: QualitySettings,
    seed: int,
    accelerator: Accelerator,
    masks: Tensor | None = None,
) -> Verdicts:
    """Return what g says of masks whose true Dice is known.

    Parameters
    ----------
    predictor : QualityPredictor
    images : LabelledImages
        With their true masks.
    settings : QualitySettings
        Of g's training, whose mixture synthetic masks are drawn from.
    seed : int
        Of synthetic masks.
    accelerator : Accelerator
    masks : (N, C, H, W), optional
        The masks to be judged, 0 or 1, one for each image; 20 synthetic ones of every image where None.
    """
    if masks is None:
        judged = _synthetic(images, _AUDIT_MASKS, _mixture(settings, images.task), salted("masks that audit g", seed))
    else:
        dice = _dice(images.task, masks > 0.5, images.mask > 0.5)
        judged = _Judged(torch.arange(len(masks)), masks, dice.numpy())
    elsewhere = (replace(images, image=torch.zeros_like(images.image)), images.swapped())
    found = (judged.dice, *(_judge(predictor, on, judged, accelerator) for on in (images, *elsewhere)))
    true, quality, *others = (_of_whole(images.task, judged, values) for values in found)
    return Verdicts(judged.image.numpy(), true, quality, np.stack(others))


def _of_whole(task: Task, judged: _Judged, values: np.ndarray) -> np.ndarray:
    """Return values of masks, of several classes as the mean over those that each holds: (M,) or (M, K) -> (M,).

    Pooled over classes, g would seem to know masks where it knew which class is the easier one.
    """
    return mean_of_held(task, torch.from_numpy(values).view(len(values), -1), judged.mask).numpy()


class _TrainingMasks:
    """Endless batches of variable-quality masks of the labelled images: degraded, or made by weak models.

    Images are flipped and rotated with their masks; then a mask is degraded, or a weak model is asked about the image;
    then the image changes in colour. The true Dice is that with the mask as it is flipped and rotated. Of several
    classes, masks are label maps.
    """

    def __init__(
        self, labelled: LabelledImages, weak: WeakMasks, settings: QualitySettings, seed: int, device: torch.device
    ) -> None:
        self._labelled = labelled
        self._donors = list(_label_maps(labelled.mask))
        self._weak = weak
        self._settings = settings
        self._degrade = _mixture(settings, labelled.task)
        self._device = device
        self._order = np.random.default_rng(salted("order of g", seed))
        self._rng = np.random.default_rng(salted("masks of g", seed))
        self._views = torch.Generator().manual_seed(salted("views of g", seed))
        self._left = np.empty(0, int)

    def next(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return images (B, 3, H, W), masks (B, K, H, W), true Dice and true masks (B, C, H, W), on the device.

        Of one class Dice is (B,), of several (B, K).
        """
        size, rng = self._settings.batch, self._rng
        while len(self._left) < size:
            self._left = np.concatenate([self._left, self._order.permutation(len(self._donors))])
        chosen, self._left = torch.from_numpy(self._left[:size]), self._left[size:]
        image, truth = geometric_view(
            self._labelled.image[chosen].to(self._device), self._labelled.mask[chosen].to(self._device), self._views
        )
        by_weak = torch.from_numpy(rng.random(size) < self._settings.weak_share)
        stage = torch.from_numpy(rng.integers(self._weak.stages, size=size))
        mask = truth > 0.5
        mask[~by_weak] = self._degraded(mask[~by_weak], chosen[~by_weak])
        mask[by_weak] = self._weak.of_labelled(image[by_weak], chosen[by_weak], stage[by_weak])
        task = self._labelled.task
        view = colour_view(image, self._settings.noise, self._views)
        return view, mask[:, task.lesions].float(), _dice(task, mask, truth > 0.5), (truth > 0.5).float()

    def _degraded(self, truths: Tensor, index: Tensor) -> Tensor:
        masks = [
            self._degrade(truth, self._rng, self._donors[:own] + self._donors[own + 1 :])[0]
            for truth, own in zip(_label_maps(truths.cpu()), index.tolist(), strict=True)
        ]
        return _channels(np.stack(masks), truths.shape[1]).to(truths.device) if masks else truths

    def state_dict(self) -> dict[str, Any]:
        """Return generators and what is left of the order."""
        return {
            "order": self._order.bit_generator.state,
            "rng": self._rng.bit_generator.state,
            "views": self._views.get_state(),
            "left": self._left.tolist(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self._order.bit_generator.state = state["order"]
        self._rng.bit_generator.state = state["rng"]
        self._views.set_state(state["views"])
        self._left = np.array(state["left"], int)


def _mixture(settings: QualitySettings, task: Task) -> Degrade:
    release = ReleaseMixture(floor=settings.warp_floor).degrade
    return _of_classes(release if settings.mixture == "release" else degrade, task)


def _of_classes(degrade: Degrade, task: Task) -> Degrade:
    return degrade if task.channels == 1 else partial(degrade_labels, degrade, len(task.classes))


def _label_maps(mask: Tensor) -> np.ndarray:
    """Return masks (N, C, H, W), 0 or 1, as what is degraded: (N, H, W) bool, of several classes uint8 label maps."""
    return mask.squeeze(1).numpy() > 0.5 if mask.shape[1] == 1 else mask.byte().argmax(1).byte().numpy()


def _channels(maps: np.ndarray, channels: int) -> Tensor:
    """Return (N, C, H, W) bool of what `_label_maps` gives."""
    masks = torch.from_numpy(maps).unsqueeze(1)
    return masks if channels == 1 else masks == torch.arange(channels, dtype=torch.uint8).view(1, -1, 1, 1)


def _dice(task: Task, mask: Tensor, truth: Tensor) -> Tensor:
    """Return true Dice as g predicts it: of masks (B, C, H, W) bool, (B,), of several classes (B, K)."""
    return overlap_by_class(task, mask, truth).squeeze(1)


def _synthetic(images: LabelledImages, count: int, degrade: Degrade, seed: int) -> _Judged:
    """Return `count` degraded masks of every image."""
    rng = np.random.default_rng(seed)
    truths = list(_label_maps(images.mask))
    index = np.repeat(np.arange(len(truths)), count)
    masks = [degrade(truths[i], rng, truths[:i] + truths[i + 1 :])[0] for i in index]
    mask = _channels(np.stack(masks), images.task.channels)
    dice = _dice(images.task, mask, images.mask[index] > 0.5)
    return _Judged(torch.from_numpy(index), mask.float(), dice.numpy())


def _judge(
    predictor: QualityPredictor, images: LabelledImages, judged: _Judged, accelerator: Accelerator
) -> np.ndarray:
    """Return the predicted Dice of masks, in evaluation mode: (M,), of several classes (M, K)."""
    training = predictor.training
    predictor.eval()
    parts = []
    with torch.no_grad(), accelerator.autocast():
        for index, mask in zip(judged.image.split(128), judged.mask.split(128), strict=True):
            lesions = mask[:, images.task.lesions]
            parts.append(predictor(images.image[index].to(accelerator.device), lesions.to(accelerator.device)).cpu())
    predictor.train(training)
    return torch.cat(parts).numpy()
