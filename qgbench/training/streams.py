"""Endless streams of shuffled images and of their views, each with its own random generator."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qgbench.base.errors import UserError
from qgbench.base.seeds import salted
from qgbench.data.experiment import ImageSet, TrainingData
from qgbench.data.views import cutmix_region, flip, labelled_view, strong_view
from qgbench.engine.device import World
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


def check_batches(settings: TrainSettings, size: int) -> None:
    """Refuse batches that processes cannot share equally: unequal shares would give some images more weight.

    Parameters
    ----------
    settings : TrainSettings
    size : int
        Number of processes.

    Raises
    ------
    UserError
        Names the batch, the number of processes and the nearest batch that fits.
    """
    for name in ("batch_labelled", "batch_unlabelled"):
        batch = getattr(settings, name)
        if batch % size != 0:
            raise UserError(
                f"train.{name} = {batch} cannot be shared equally by {size} processes; choose a multiple of {size} "
                f"(--set train.{name}={size * -(-batch // size)}) or another number of processes."
            )


def own_part(batch: Batch, truth: Tensor, world: World) -> tuple[Batch, Tensor]:
    """Return the share of one process from a batch that every process drew alike: rows r*B/P to (r+1)*B/P.

    Parameters
    ----------
    batch : Batch
        Of the whole run; labelled and unlabelled rows are shared apart.
    truth : (U, 1, H, W)
        Held-back masks of the unlabelled rows.
    world : World
        Its size P divides both batches (`check_batches`).
    """
    parts: dict[str, Any] = {f.name: world.part(getattr(batch, f.name)) for f in fields(batch) if f.name != "progress"}
    return replace(batch, **parts), world.part(truth)


class Streams:
    """Batches of labelled and unlabelled views.

    Labelled and unlabelled images have generators of their own: what one stream draws never shifts the other, and
    neither is touched by networks or by g. Equal seeds give equal batches in every process of a run (`own_part`).

    Parameters
    ----------
    data : TrainingData
    settings : TrainSettings
    seed : int
    """

    def __init__(self, data: TrainingData, settings: TrainSettings, seed: int) -> None:
        self._data = data
        self._settings = settings
        self._generators = {
            name: torch.Generator().manual_seed(salted(name, seed)) for name in ("labelled", "unlabelled")
        }
        sets: dict[str, ImageSet] = {"labelled": data.labelled, "unlabelled": data.unlabelled}
        self._orders = {name: ShuffledOrder(len(images), self._generators[name]) for name, images in sets.items()}

    def next(self, progress: float) -> tuple[Batch, Tensor]:
        """Return a batch, and the held-back masks (U, 1, H, W) of its unlabelled images in the weak view's geometry.

        Masks are NaN for images whose mask is not known (those of a pool).

        Parameters
        ----------
        progress : float
            Fraction of the step budget that is done.
        """
        settings, labelled, unlabelled = self._settings, self._generators["labelled"], self._generators["unlabelled"]
        index = self._orders["labelled"].take(settings.batch_labelled)
        x_l, y_l = self._data.labelled.images(index), self._data.labelled.masks(index)
        x_l, y_l = labelled_view(x_l, y_l, settings, labelled)
        index = self._orders["unlabelled"].take(settings.batch_unlabelled)
        masks = self._data.unlabelled.masks(index)
        masks[torch.from_numpy(~self._data.unlabelled.masked[index])] = torch.nan
        both = flip(torch.cat([self._data.unlabelled.images(index), masks], 1), unlabelled)
        u_w, truth = both[:, :3].contiguous(), both[:, 3:].contiguous()
        batch = Batch(
            x_l=x_l,
            y_l=y_l,
            u_w=u_w,
            u_s1=strong_view(u_w, settings, unlabelled),
            u_s2=strong_view(u_w, settings, unlabelled),
            cut1=cutmix_region(len(u_w), u_w.shape[-1], unlabelled),
            cut2=cutmix_region(len(u_w), u_w.shape[-1], unlabelled),
            progress=progress,
        )
        return batch, truth

    def state_dict(self) -> dict[str, Any]:
        """Return generators and what is left of each order."""
        generators = {name: generator.get_state() for name, generator in self._generators.items()}
        return {"generators": generators, "left": {name: order.left.clone() for name, order in self._orders.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        for name, generator in self._generators.items():
            generator.set_state(state["generators"][name])
            self._orders[name].left = state["left"][name]
