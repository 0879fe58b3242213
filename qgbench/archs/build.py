"""Build a segmentation network by name."""

import inspect
from collections.abc import Callable
from functools import cache, partial
from types import MappingProxyType
from typing import TypeVar, cast

import timm
import torch
from torch import Tensor, nn

from qgbench.archs.depthwise import speed_up_depthwise
from qgbench.archs.library import has_imagenet, unsuitable
from qgbench.archs.registry import ARCHS, Arch, Builder, require_fitting
from qgbench.archs.weights import Weights, unpublished, weights_hash
from qgbench.base.errors import QGBenchError, UserError, in_one_line
from qgbench.plugins.registry import load
from qgbench.spec.task import Task

N = TypeVar("N", bound=nn.Module)
_ONE_CLASS = Task()

# Encoders that segmentation-models-pytorch names otherwise than timm does.
_NAMES_IN_TIMM = MappingProxyType(
    {"xception": "legacy_xception", "inceptionv4": "inception_v4", "inceptionresnetv2": "inception_resnet_v2.tf_in1k"}
)


class EncoderDecoder(nn.Module):
    """What `SegmentationNetwork` asks of a network; those of segmentation-models-pytorch have it."""

    encoder: nn.Module
    decoder: nn.Module
    segmentation_head: nn.Module


class SegmentationNetwork(nn.Module):
    """A network that normalises its own input and returns float32 logits under any autocast.

    It is what methods call a `qgbench.methods.Network`.

    Parameters
    ----------
    build : callable
        Makes the body: its ``encoder`` makes features of normalised images (B, 3, H, W), a list from fine to coarse;
        its ``decoder`` and then its ``segmentation_head`` turn them into logits (B, C, H, W). As in
        segmentation-models-pytorch.
    encoder : str
        Its name: images are normalised as those that it was trained on.
    size : int
        Side of the images that it was built for, pixels.
    min_batch : int
        Least number of images in training mode.
    task : Task
        What its C logits mean.
    """

    body: EncoderDecoder
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        build: Callable[[], nn.Module],
        encoder: str,
        size: int,
        min_batch: int = 1,
        task: Task = _ONE_CLASS,
    ) -> None:
        super().__init__()
        self.size = size
        self.min_batch = min_batch
        self.task = task
        self._build, self._encoder = build, encoder
        self.body = cast(EncoderDecoder, build())
        mean, std = normalisation(encoder)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (B, C, H, W), float32, of images (B, 3, H, W) in [0, 1]."""
        return self.head(self.decode(self.encode(image)))

    def encode(self, image: Tensor) -> list[Tensor]:
        """Return features (B, C_i, H_i, W_i), fine to coarse, of images (B, 3, H, W) in [0, 1]."""
        normalised = ((image - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        return self.body.encoder(normalised)

    def decode(self, features: list[Tensor]) -> Tensor:
        """Return the decoder's features (B, D, H', W') of those that `encode` gave.

        Raises
        ------
        UserError
            Fewer images than `min_batch` in training mode.
        """
        if self.training and len(features[-1]) < self.min_batch:
            raise UserError(
                f"this network was given a batch of {len(features[-1])} in training; it needs {self.min_batch} or "
                "more, because it pools features to one pixel and normalises them over the batch. Enlarge "
                "train.batch_labelled and train.batch_unlabelled, or take another arch."
            )
        return self.body.decoder(features)

    def head(self, decoded: Tensor) -> Tensor:
        """Return logits (B, C, H, W), float32, of what `decode` gave."""
        return self.body.segmentation_head(decoded).float()

    def new_decoder(self) -> "SegmentationNetwork":
        """Return a network on this very encoder, with a decoder and a head of its own whose weights are drawn anew."""
        sibling = SegmentationNetwork(self._build, self._encoder, self.size, self.min_batch, self.task)
        sibling.body.encoder = self.body.encoder
        return _for_training(sibling)


def _for_training(network: N) -> N:
    """Return a network, changed in place, as the trainer's devices compute it fastest."""
    speed_up_depthwise(network)
    return network.to(memory_format=torch.channels_last)


def normalisation(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of RGB in [0, 1] that a backbone's ImageNet weights expect.

    They are those of the same weights in timm; ImageNet's own where timm does not have them.
    """
    known = _NAMES_IN_TIMM.get(name, name.removeprefix("timm-"))
    config = timm.get_pretrained_cfg(known) if timm.is_model(known.partition(".")[0]) else None
    if config is None:
        return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return tuple(config.mean), tuple(config.std)


@cache
def require_buildable(
    arch: str,
    arch_source: str,
    encoder: str,
    weights: Weights,
    decoder_channels: tuple[int, ...],
    size: int,
    task: Task,
) -> None:
    """Refuse what `build_network` would, without fetching weights; `arch_source` is '' for an arch that ships."""
    build_network(arch, encoder, "none", decoder_channels, size, task)
    if weights == "imagenet" and not arch_source and not has_imagenet(encoder):
        raise unpublished(encoder)


def weights_in_truth(arch: str, encoder: str, decoder_channels: tuple[int, ...], size: int) -> Weights | None:
    """Return the weights of an encoder that was asked for ImageNet's: 'none' where it ignores that.

    It does where the encoder's tensors are those that it has without weights. None where these do not change with the
    random seed either: the architecture loads weights of its own choice, which cannot be told from outside.
    """

    def tensors(weights: Weights, seed: int) -> str:
        torch.manual_seed(seed)
        return weights_hash(build_network(arch, encoder, weights, decoder_channels, size).body.encoder)

    with torch.random.fork_rng(devices=[]):
        asked = tensors("imagenet", 0)
        if asked != tensors("none", 0):
            return "imagenet"
        return "none" if asked != tensors("imagenet", 1) else None


def build_network(
    arch: str,
    encoder: str,
    weights: Weights,
    decoder_channels: tuple[int, ...],
    size: int,
    task: Task = _ONE_CLASS,
) -> SegmentationNetwork:
    """Return a segmentation network: images (B, 3, size, size) in [0, 1] -> logits (B, C, size, size).

    Parameters
    ----------
    arch : str
        A name or reference as `qgbench.plugins.registry.load` takes them.
    encoder : str
        A name of segmentation-models-pytorch (``resnet34``) or of timm (``tf_efficientnet_lite0``).
    weights : 'imagenet' or 'none'
    decoder_channels : tuple of int
        Widths of the decoder, coarse to fine; each architecture's entry says what it takes from them.
    size : int
        Side of the images, pixels.
    task : Task
        Its classes; the network keeps it as `task`.

    Raises
    ------
    UserError
        Unknown architecture or encoder, an encoder that does not suit the architecture, a size that does not fit, or an
        architecture of one's own that segments one class only.
    QGBenchError
        ImageNet weights cannot be fetched.
    """
    entry = load("arch", arch)
    require_fitting(arch, entry, size, encoder)
    try:
        build = partial(_builder(arch, entry, task), encoder, weights, decoder_channels, size)
        network = SegmentationNetwork(build, encoder, size, entry.min_batch, task)
    except QGBenchError:
        raise
    except (Exception, SystemExit) as error:  # of somebody else's library, or of an architecture of one's own
        if arch in ARCHS:
            raise unsuitable(encoder, arch, in_one_line(error)) from error
        raise UserError(f"arch '{arch}' cannot be built with encoder '{encoder}': {in_one_line(error)}") from error
    _for_training(network)
    try:
        with torch.no_grad():
            shape = tuple(network.eval()(torch.zeros(1, 3, size, size)).shape)
    except Exception as error:
        raise unsuitable(encoder, arch, f"at {size} pixels, {error}") from error
    if shape != (1, task.channels, size, size):
        raise unsuitable(encoder, arch, f"for {size} pixels it gives logits of {shape}")
    return network.train()


def _builder(name: str, arch: Arch, task: Task) -> Builder:
    """Return what builds an architecture for a task; of one class, a builder need not know of classes."""
    if task.channels == 1:
        return arch.builder
    taken = inspect.signature(arch.builder).parameters
    if "classes" not in taken and all(each.kind != each.VAR_KEYWORD for each in taken.values()):
        raise UserError(
            f"arch '{name}' segments one class, and there are {len(task.classes)}: give what builds it a last argument "
            "'classes: int = 1', the number of logits that its segmentation_head shall have."
        )
    return partial(arch.builder, classes=task.channels)
