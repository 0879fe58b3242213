"""Train the quality predictor g on the labelled set alone (arXiv 2606.01753), and audit it on the validation images."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from qgbench.data.views import brightness_contrast, colour_jitter, flip, rotate
from qgbench.errors import QGBenchError
from qgbench.progress import track
from qgbench.quality.audit import agreement, correlation
from qgbench.quality.corruptions import degrade
from qgbench.quality.predictor import QualityPredictor
from qgbench.quality.scores import overlap
from qgbench.quality.weak import weak_masks
from qgbench.records import Agreement
from qgbench.spec import QualitySettings

IMAGE_DEPENDENCE_LIMIT = 0.7  # largest correlation with the output for a blacked-out or swapped image that passes
_AUDIT_MASKS = (
    20  # synthetic masks of each validation image in the audit, drawn apart from those that select the best step
)


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
    labelled: LabelledImages, val: LabelledImages, settings: QualitySettings, seed: int, accelerator: Accelerator
) -> FittedPredictor:
    """Train g: smooth L1 between q and the true Dice of degraded masks, the best validation step is kept.

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

    Raises
    ------
    QGBenchError
        The loss is not finite.
    """
    start = time.monotonic()
    weak, weak_val = weak_masks(labelled.image, labelled.mask, val.image, settings, seed, accelerator)
    select = _synthetic(val, settings.val_masks, seed + 1)
    torch.manual_seed(seed)
    predictor = QualityPredictor(settings, settings.backbone_weights).to(accelerator.device)
    optimiser = torch.optim.AdamW(predictor.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    optimiser = accelerator.prepare_optimizer(optimiser)
    every = max(1, settings.steps // settings.validations)
    best_error, best_step, best_state = math.inf, 0, {}
    stale = 0
    masks = _training_masks(labelled, weak, settings, seed)
    for step in track(range(1, settings.steps + 1), "quality predictor g", settings.steps):
        image, mask, dice = next(masks)
        for group in optimiser.param_groups:
            group["lr"] = settings.lr * 0.5 * (1 + math.cos(math.pi * (step - 1) / settings.steps))
        with accelerator.autocast():
            quality = predictor(image.to(accelerator.device), mask.to(accelerator.device))
        loss = F.smooth_l1_loss(quality, dice.to(accelerator.device))
        if not math.isfinite(value := float(loss.detach())):
            raise QGBenchError(f"the loss of the quality predictor is {value} at step {step}; try a lower quality.lr.")
        optimiser.zero_grad(set_to_none=True)
        accelerator.backward(loss)
        optimiser.step()
        if step % every == 0 or step == settings.steps:
            error = agreement(_judge(predictor, val, select, accelerator), select.dice).mae
            stale += 1
            if error < best_error:
                best_error, best_step, stale = error, step, 0
                best_state = {name: value.detach().clone() for name, value in predictor.state_dict().items()}
            if stale >= settings.patience:
                break
    predictor.load_state_dict(best_state)
    predictor.requires_grad_(False).eval()
    return _audit(predictor, val, weak_val, best_step, seed, accelerator, start)


def _audit(
    predictor: QualityPredictor,
    val: LabelledImages,
    weak_val: Tensor,
    best_step: int,
    seed: int,
    accelerator: Accelerator,
    start: float,
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
        seconds=time.monotonic() - start,
    )


def _training_masks(
    labelled: LabelledImages, weak: Tensor, settings: QualitySettings, seed: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield endless batches of images (B, 3, H, W), masks (B, 1, H, W) and true Dice (B,)."""
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    truths = labelled.mask.squeeze(1).numpy() > 0.5
    order = np.empty(0, int)
    while True:
        while len(order) < settings.batch:
            order = np.concatenate([order, rng.permutation(len(truths))])
        chosen, order = order[: settings.batch], order[settings.batch :]
        masks = []
        for index in chosen:
            if rng.random() < settings.weak_share:
                masks.append(weak[rng.integers(len(weak)), index, 0].numpy())
            else:
                donors = [truths[other] for other in range(len(truths)) if other != index]
                masks.append(degrade(truths[index], rng, donors)[0])
        image = labelled.image[chosen]
        stack = torch.from_numpy(np.stack([np.stack(masks), truths[chosen]], 1)).float()
        both = flip(torch.cat([image, stack], 1), generator)
        image, stack = rotate(both[:, :3], both[:, 3:], 20.0, generator)
        image = colour_jitter(brightness_contrast(image, 0.2, generator), 0.1, 0.02, generator)
        image = (image + 0.02 * torch.randn(image.shape, generator=generator)).clamp(0, 1)
        yield image, stack[:, :1], overlap(stack[:, :1] > 0.5, stack[:, 1:] > 0.5)


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
