"""Weak models: partially trained segmentation networks whose imperfect masks g learns from."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import segmentation_models_pytorch as smp
import torch
from accelerate import Accelerator
from torch import Tensor

from qgbench.archs.build import SegmentationNetwork
from qgbench.base.errors import unknown_name
from qgbench.base.seeds import salted
from qgbench.engine.state import random_states, set_random_states
from qgbench.methods import Network, probabilities
from qgbench.quality.views import geometric_view
from qgbench.spec.protocol import QualitySettings
from qgbench.spec.task import Task

_ONE_CLASS = Task()


class WeakModels:
    """Trains one U-Net from scratch and keeps it as it is after each of `settings.weak_epochs`.

    As the released code of arXiv 2606.01753 does: ResNet-18 encoder without pretraining, Adam, the Dice loss of a batch
    as a whole, flips and rotation, float32. Each epoch takes every image once.

    Parameters
    ----------
    image : (N, 3, H, W)
        Labelled images in [0, 1].
    mask : (N, C, H, W)
        Their masks, 0 or 1.
    settings : QualitySettings
    seed : int
        Of the weights, the order and the views.
    accelerator : Accelerator
    task : Task
    """

    def __init__(
        self,
        image: Tensor,
        mask: Tensor,
        settings: QualitySettings,
        seed: int,
        accelerator: Accelerator,
        task: Task = _ONE_CLASS,
    ) -> None:
        torch.manual_seed(salted("weights of weak models", seed))
        network = weak_network(settings.weak_encoder, image.shape[-1], task)
        self._network = network.to(memory_format=torch.channels_last).to(accelerator.device).train()
        self._optimiser = torch.optim.Adam(network.parameters(), lr=settings.weak_lr, fused=True)
        self._device = accelerator.device
        self._image, self._mask = image, mask
        self._order = torch.Generator().manual_seed(salted("order of weak models", seed))
        self._views = torch.Generator().manual_seed(salted("views of weak models", seed))
        self._batch = settings.weak_batch
        self._ends = {epoch * settings.weak_epoch_steps(len(image)) for epoch in settings.weak_epochs}
        self._left: list[list[int]] = []  # batches of the epoch that has begun
        self._kept: list[dict[str, Tensor]] = []
        self.step = 0

    @property
    def steps(self) -> int:
        """Number of steps until the last network is kept."""
        return max(self._ends)

    def run(self) -> Iterator[int]:
        """Train to the end, yielding the number of finished steps after each."""
        for step in range(self.step + 1, self.steps + 1):
            if not self._left:
                self._left = epoch_batches(len(self._image), self._batch, self._order)
            chosen = self._left.pop(0)
            x, y = geometric_view(
                self._image[chosen].to(self._device), self._mask[chosen].to(self._device), self._views
            )
            task = self._network.task
            loss = smp_dice_loss(task.probabilities(self._network(x)), y, task)
            self._optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self._optimiser.step()
            if step in self._ends:
                self.keep()
            self.step = step
            yield step

    def keep(self) -> None:
        """Keep the network as it is now."""
        self._kept.append({name: v.detach().cpu().clone() for name, v in self._network.state_dict().items()})

    def networks(self) -> list[Network]:
        """Return the networks that were kept so far, on the training's device, frozen, in evaluation mode."""
        networks: list[Network] = []
        for state in self._kept:
            network = copy.deepcopy(self._network)
            network.load_state_dict(state)
            networks.append(network.requires_grad_(False).eval())
        return networks

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the rest of the training depends on, and the networks so far."""
        return {
            "step": self.step,
            "network": self._network.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "order": self._order.get_state(),
            "views": self._views.get_state(),
            "left": [list(batch) for batch in self._left],
            "kept": self._kept,
            "random": random_states(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken: bit for bit on a CPU."""
        self.step = state["step"]
        self._network.load_state_dict(state["network"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._order.set_state(state["order"])
        self._views.set_state(state["views"])
        self._left = [list(batch) for batch in state["left"]]
        self._kept = list(state["kept"])
        set_random_states(state["random"])


@dataclass(frozen=True)
class WeakMasks:
    """Weak models, and which of them may be asked about which labelled image."""

    networks: Sequence[Sequence[Network]]  # by fold, then by the epoch after which they were kept
    fold_of: Tensor  # (N,) long: the fold whose networks are asked about a labelled image

    @property
    def stages(self) -> int:
        """Number of epochs after which networks were kept."""
        return len(self.networks[0])

    def of_labelled(self, image: Tensor, index: Tensor, stage: Tensor) -> Tensor:
        """Return the masks (B, C, H, W) bool that networks of some stages give of views of labelled images.

        What the same network is asked about, it is asked about in one batch.

        Parameters
        ----------
        image : (B, 3, H, W)
        index : (B,) long
            Which of the labelled images they are.
        stage : (B,) long
            From 0 to `stages` - 1.
        """
        channels = self.networks[0][0].task.channels
        masks = torch.empty(len(image), channels, *image.shape[2:], dtype=torch.bool, device=image.device)
        asked = self.fold_of[index] * self.stages + stage
        for number in asked.unique().tolist():
            rows = (asked == number).nonzero().flatten().to(image.device)
            network = self.networks[number // self.stages][number % self.stages]
            masks[rows] = _masks(network, image[rows])
        return masks

    def of_others(self, image: Tensor, device: torch.device) -> Tensor:
        """Return what the networks of the first fold give of other images: (V, 3, H, W) -> (E, V, C, H, W) bool."""
        return torch.stack(
            [
                torch.cat([_masks(network, part.to(device)).cpu() for part in image.split(64)])
                for network in self.networks[0]
            ]
        )


def _masks(network: Network, image: Tensor) -> Tensor:
    return network.task.hard(probabilities(network, image)).bool()


def epoch_batches(images: int, batch: int, generator: torch.Generator) -> list[list[int]]:
    """Return a shuffled epoch's batches, the last one smaller; a lone last image joins the others, or itself.

    Batch normalisation cannot take a lone image at its coarsest level.
    """
    batches = [part.tolist() for part in torch.randperm(images, generator=generator).split(batch)]
    if len(batches[-1]) == 1:
        lone = batches.pop()
        batches = [*batches[:-1], batches[-1] + lone] if batches else [lone * 2]
    return batches


def smp_dice_loss(prob: Tensor, target: Tensor, task: Task = _ONE_CLASS) -> Tensor:
    """Return 1 - 2 sum p t / (sum p + sum t), summed over the batch as a whole; 0 where it has no lesion: a scalar.

    Of several classes, the mean over those of each.

    Parameters
    ----------
    prob, target : (B, C, H, W)
    task : Task
    """

    def of_class(prob: Tensor, target: Tensor) -> Tensor:
        total = (prob.sum() + target.sum()).clamp_min(1e-7)
        return (1 - 2 * (prob * target).sum() / total) * (target.sum() > 0)

    classes = zip(*(maps[:, task.lesions].split(1, 1) for maps in (prob, target)), strict=True)
    return torch.stack([of_class(*each) for each in classes]).mean()


def weak_network(encoder: str, size: int, task: Task = _ONE_CLASS) -> SegmentationNetwork:
    """Return a weak U-Net, untrained, for images of `size` pixels.

    Raises
    ------
    UserError
        segmentation-models-pytorch has no such encoder.
    """
    try:
        build = partial(smp.Unet, encoder, encoder_weights=None, classes=task.channels)
        return SegmentationNetwork(build, encoder, size, task=task)
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
    generator = torch.Generator().manual_seed(salted("folds of weak models", seed))
    fold = torch.empty(images, dtype=torch.long)
    fold[torch.randperm(images, generator=generator)] = torch.arange(images) % folds
    return fold
