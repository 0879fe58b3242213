"""Weak models: partially trained segmentation networks whose imperfect masks g learns from."""

import segmentation_models_pytorch as smp
import torch
from accelerate import Accelerator
from torch import Tensor

from qgbench.archs.build import SegmentationNetwork, normalisation
from qgbench.data.views import labelled_view
from qgbench.methods import probabilities, soft_dice_loss
from qgbench.progress import track
from qgbench.spec import QualitySettings


def weak_masks(
    image: Tensor, mask: Tensor, others: Tensor, settings: QualitySettings, seed: int, accelerator: Accelerator
) -> tuple[Tensor, Tensor]:
    """Train one U-Net from scratch and keep what it predicts after each of `settings.weak_epochs`.

    Settings of arXiv 2606.01753: ResNet-18 encoder without pretraining, Adam, Dice loss.

    Parameters
    ----------
    image : (N, 3, H, W)
        Labelled images in [0, 1].
    mask : (N, 1, H, W)
        Their masks, 0 or 1.
    others : (V, 3, H, W)
        Images that are predicted but not trained on.
    settings : QualitySettings
    seed : int
        Of the weights, the order and the views.
    accelerator : Accelerator

    Returns
    -------
    (E, N, 1, H, W) and (E, V, 1, H, W) bool, on the processor: E = number of `settings.weak_epochs`.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    body = smp.Unet(settings.weak_encoder, encoder_weights=None)
    network = SegmentationNetwork(body, *normalisation(settings.weak_encoder)).to(memory_format=torch.channels_last)
    network.to(accelerator.device).train()
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.weak_lr)
    batch = min(settings.weak_batch, max(2, len(image)))
    steps = max(settings.weak_epoch_min_steps, len(image) // batch)
    ends = {epoch * steps for epoch in settings.weak_epochs}
    total = max(ends)
    kept: list[tuple[Tensor, Tensor]] = []
    order = torch.empty(0, dtype=torch.long)
    for step in track(range(1, total + 1), "weak models", total):
        while len(order) < batch:
            order = torch.cat([order, torch.randperm(len(image), generator=generator)])
        chosen, order = order[:batch], order[batch:]
        x, y = image[chosen].to(accelerator.device), mask[chosen].to(accelerator.device)
        x, y = labelled_view(x, y, 20.0, 0.2, generator)
        with accelerator.autocast():
            loss = soft_dice_loss(torch.sigmoid(network(x)), y).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        if step in ends:
            kept.append((_predict(network, image, accelerator), _predict(network, others, accelerator)))
    return torch.stack([ours for ours, _ in kept]), torch.stack([theirs for _, theirs in kept])


def _predict(network: torch.nn.Module, image: Tensor, accelerator: Accelerator) -> Tensor:
    with accelerator.autocast():
        return torch.cat([probabilities(network, part.to(accelerator.device)).cpu() > 0.5 for part in image.split(64)])
