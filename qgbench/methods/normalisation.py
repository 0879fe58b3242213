"""Whose statistics batch normalisation uses."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _NormBase


def normalising_layers(module: nn.Module) -> list[_NormBase]:
    """Return the layers that normalise over the batch and keep running statistics."""
    return [m for m in module.modules() if isinstance(m, _NormBase) and m.track_running_stats]


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Let normalisation layers use batch statistics without updating their running ones.

    SyncBatchNorm's statistics remain those of all processes, in layers in training mode.
    """
    layers = normalising_layers(module)
    kept = [(layer.running_mean, layer.running_var) for layer in layers]
    for layer in layers:
        layer.track_running_stats = False
        layer.running_mean = layer.running_var = None
    try:
        yield
    finally:
        for layer, (mean, variance) in zip(layers, kept, strict=True):
            layer.track_running_stats = True
            layer.running_mean, layer.running_var = mean, variance
