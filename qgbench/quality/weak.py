"""Weak models: partially trained segmentation networks whose imperfect masks g learns from."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import segmentation_models_pytorch as smp
import torch
from accelerate import Accelerator
from torch import Tensor

from qgbench.archs.build import SegmentationNetwork
from qgbench.base.errors import unknown_name
from qgbench.data.views import Shared, rotate
from qgbench.engine.state import load_scaler_state, new_scaler, random_states, scaler_state, set_random_states
from qgbench.methods import probabilities
from qgbench.methods.losses import soft_dice_loss
from qgbench.spec.protocol import QualitySettings


class WeakModels:
    """Trains one U-Net from scratch and keeps what it predicts after each of `settings.weak_epochs`.

    Settings of arXiv 2606.01753: ResNet-18 encoder without pretraining, Adam, Dice loss.

    Parameters
    ----------
    image : (N, 3, H, W)
        Labelled images in [0, 1].
    mask : (N, 1, H, W)
        Their masks, 0 or 1.
    asked : sequence of (N_i, 3, H, W)
        Sets of images that are predicted, each by itself.
    settings : QualitySettings
    seed : int
        Of the weights, the order and the views.
    accelerator : Accelerator
    """

    def __init__(
        self,
        image: Tensor,
        mask: Tensor,
        asked: Sequence[Tensor],
        settings: QualitySettings,
        seed: int,
        accelerator: Accelerator,
    ) -> None:
        new_scaler(accelerator)
        torch.manual_seed(seed)
        network = weak_network(settings.weak_encoder, image.shape[-1])
        self._network = network.to(memory_format=torch.channels_last).to(accelerator.device).train()
        self._optimiser = accelerator.prepare_optimizer(
            torch.optim.Adam(network.parameters(), lr=settings.weak_lr, fused=True)
        )
        self._accelerator = accelerator
        self._image, self._mask, self._asked = image, mask, asked
        self._generator = torch.Generator().manual_seed(seed)
        self._batch = min(settings.weak_batch, max(2, len(image)))
        steps = max(settings.weak_epoch_min_steps, len(image) // self._batch)
        self._ends = {epoch * steps for epoch in settings.weak_epochs}
        self._order = torch.empty(0, dtype=torch.long)
        self._kept: list[list[Tensor]] = []
        self.step = 0

    @property
    def steps(self) -> int:
        """Number of steps until the last mask is kept."""
        return max(self._ends)

    def run(self) -> Iterator[int]:
        """Train to the end, yielding the number of finished steps after each."""
        for step in range(self.step + 1, self.steps + 1):
            while len(self._order) < self._batch:
                order = torch.randperm(len(self._image), generator=self._generator)
                self._order = torch.cat([self._order, order])
            chosen, self._order = self._order[: self._batch], self._order[self._batch :]
            device = self._accelerator.device
            shared = Shared(self._generator)
            x, y = rotate(self._image[chosen].to(device), self._mask[chosen].to(device), 20.0, 1.0, shared)
            task = self._network.task
            with self._accelerator.autocast():
                loss = soft_dice_loss(task, task.probabilities(self._network(x)), y).mean()
            self._optimiser.zero_grad(set_to_none=True)
            self._accelerator.backward(loss)
            self._optimiser.step()
            if step in self._ends:
                self._kept.append([self._predict(images) for images in self._asked])
            self.step = step
            yield step

    def masks(self) -> list[Tensor]:
        """Return what was kept, once `run` has ended.

        Returns
        -------
        (E, N_i, 1, H, W) bool for each set that was asked about, on the processor: E = number of
        `settings.weak_epochs`.
        """
        return [torch.stack(masks) for masks in zip(*self._kept, strict=True)]

    def _predict(self, image: Tensor) -> Tensor:
        parts = image.split(64)
        with self._accelerator.autocast():
            return torch.cat(
                [probabilities(self._network, part.to(self._accelerator.device)).cpu() > 0.5 for part in parts]
            )

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the rest of the training depends on, and the masks so far."""
        return {
            "step": self.step,
            "network": self._network.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "scaler": scaler_state(self._accelerator),
            "generator": self._generator.get_state(),
            "order": self._order.clone(),
            "kept": self._kept,
            "random": random_states(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken: bit for bit on a CPU."""
        self.step = state["step"]
        self._network.load_state_dict(state["network"])
        self._optimiser.load_state_dict(state["optimiser"])
        load_scaler_state(self._accelerator, state["scaler"])
        self._generator.set_state(state["generator"])
        self._order = state["order"]
        self._kept = state["kept"]
        set_random_states(state["random"])


def weak_network(encoder: str, size: int) -> SegmentationNetwork:
    """Return a weak U-Net, untrained, for images of `size` pixels.

    Raises
    ------
    UserError
        segmentation-models-pytorch has no such encoder.
    """
    try:
        return SegmentationNetwork(partial(smp.Unet, encoder, encoder_weights=None), encoder, size)
    except KeyError as error:
        raise unknown_name("quality.weak_encoder", encoder, smp.encoders.encoders) from error


def draw_folds(images: int, folds: int, seed: int) -> Tensor:
    """Return a random fold for each image; the folds' sizes differ by at most 1.

    Parameters
    ----------
    images : int
    folds : int
        At most `images`.
    seed : int

    Returns
    -------
    (images,) long, from 0 to folds - 1.
    """
    fold = torch.empty(images, dtype=torch.long)
    fold[torch.randperm(images, generator=torch.Generator().manual_seed(seed))] = torch.arange(images) % folds
    return fold
