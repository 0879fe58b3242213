"""Endless streams of shuffled images and of their views, each with its own random generator."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from qgbench.base.seeds import salted
from qgbench.data.experiment import ImageSet, TrainingData
from qgbench.data.views import Shared, cutmix_region, flip, labelled_view, strong_view
from qgbench.engine.device import ALONE, World
from qgbench.methods import Batch
from qgbench.spec.protocol import TrainSettings


class ShuffledOrder:
    """Indices of a set in random order, shuffled anew each time all were given.

    Parameters
    ----------
    count : int
        Size of the set.
    generator : torch.Generator
    """

    def __init__(self, count: int, generator: torch.Generator) -> None:
        self._count = count
        self._generator = generator
        self._left = torch.empty(0, dtype=torch.long)

    def take(self, number: int) -> np.ndarray:
        """Return the next indices: (number,) int."""
        while len(self._left) < number:
            self._left = torch.cat([self._left, torch.randperm(self._count, generator=self._generator)])
        taken, self._left = self._left[:number], self._left[number:]
        return taken.numpy()

    @property
    def left(self) -> Tensor:
        """Indices that are still to come before the next shuffle."""
        return self._left

    @left.setter
    def left(self, value: Tensor) -> None:
        self._left = value


class Streams:
    """Batches of labelled and unlabelled views.

    Labelled and unlabelled images have generators of their own: what one stream draws never shifts the other, and
    neither is touched by networks or by g. Every process of a run draws the numbers of the whole batch, and makes the
    views of its own rows: of B images, process r of P has rows r*B/P to (r+1)*B/P.

    Parameters
    ----------
    data : TrainingData
    settings : TrainSettings
    seed : int
    world : World
        Its size P divides both batches (`check_batches`).
    device : torch.device or str
        Where views are made; the numbers are drawn on the processor.
    strong_views : int
        How many are made; of others, and of their CutMix regions, the numbers are drawn alone.
    """

    def __init__(
        self,
        data: TrainingData,
        settings: TrainSettings,
        seed: int,
        world: World = ALONE,
        device: torch.device | str = "cpu",
        strong_views: int = 2,
    ) -> None:
        self._data = data
        self._world = world
        self._device = device
        self._settings = settings
        self._strong_views = strong_views
        self._generators = {
            name: torch.Generator().manual_seed(salted(name, seed)) for name in ("labelled", "unlabelled")
        }
        sets: dict[str, ImageSet] = {"labelled": data.labelled, "unlabelled": data.unlabelled}
        self._orders = {name: ShuffledOrder(len(images), self._generators[name]) for name, images in sets.items()}

    def next(self, progress: float) -> tuple[Batch, Tensor]:
        """Return a batch, and the held-back masks (U, C, H, W) of its unlabelled images in the weak view's geometry.

        Both have the rows of this process alone. Masks are NaN for images whose mask is not known (those of a pool).

        Parameters
        ----------
        progress : float
            Fraction of the step budget that is done.
        """
        settings, data, device = self._settings, self._data, self._device
        labelled, unlabelled = (
            Shared(generator, self._world.rank, self._world.size) for generator in self._generators.values()
        )
        index = self._own("labelled", settings.batch_labelled)
        x_l, y_l = data.labelled.images(index, device), data.labelled.masks(index, device)
        x_l, y_l = labelled_view(x_l, y_l, settings, labelled)
        index = self._own("unlabelled", settings.batch_unlabelled)
        unknown = torch.from_numpy(~data.unlabelled.masked[index]).view(-1, 1, 1, 1).to(device, non_blocking=True)
        masks = data.unlabelled.masks(index, device).masked_fill(unknown, torch.nan)
        both = flip(torch.cat([data.unlabelled.images(index, device), masks], 1), unlabelled)
        u_w, truth = both[:, :3].contiguous(), both[:, 3:].contiguous()
        strong = [
            strong_view(u_w if number < self._strong_views else u_w[..., :0, :0], settings, unlabelled)
            for number in range(2)
        ]
        batch = Batch(
            x_l=x_l,
            y_l=y_l,
            u_w=u_w,
            u_s1=strong[0],
            u_s2=strong[1],
            cut1=cutmix_region(len(u_w), u_w.shape[-1], unlabelled, device),
            cut2=cutmix_region(len(u_w), u_w.shape[-1], unlabelled, device),
            progress=progress,
        )
        return batch, truth

    def _own(self, name: str, batch: int) -> np.ndarray:
        """Take the next indices of a whole batch, and return those of this process."""
        return self._world.part(torch.from_numpy(self._orders[name].take(batch))).numpy()

    def state_dict(self) -> dict[str, Any]:
        """Return generators and what is left of each order."""
        generators = {name: generator.get_state() for name, generator in self._generators.items()}
        return {"generators": generators, "left": {name: order.left.clone() for name, order in self._orders.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        for name, generator in self._generators.items():
            generator.set_state(state["generators"][name])
            self._orders[name].left = state["left"][name]
