"""Build a segmentation network by name."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import cast

import timm
import torch
from torch import Tensor, nn

from qgbench.archs.depthwise import keep_depthwise_in_float32
from qgbench.archs.unet import build_unet
from qgbench.archs.weights import Weights
from qgbench.errors import UserError, unknown_name

Builder = Callable[[str, Weights, tuple[int, ...]], nn.Module]
ARCHS: Mapping[str, Builder] = MappingProxyType({"unet": build_unet})
STRIDE = 32
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

    Parameters
    ----------
    body : nn.Module
        Its ``encoder`` makes features of normalised images (B, 3, H, W), a list from fine to coarse; its ``decoder``
        and then its ``segmentation_head`` turn them into logits (B, 1, H, W). As in segmentation-models-pytorch.
    mean, std : sequences of 3 floats
        Of the encoder's training data, for images in [0, 1].
    """

    body: EncoderDecoder
    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.body = cast(EncoderDecoder, body)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] -> logits (B, 1, H, W), float32."""
        return self.decode(self.encode(image))

    def encode(self, image: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) in [0, 1] -> features (B, C_i, H_i, W_i), from fine to coarse, for `decode`."""
        normalised = ((image - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        return self.body.encoder(normalised)

    def decode(self, features: list[Tensor]) -> Tensor:
        """Features, as `encode` makes them -> logits (B, 1, H, W), float32."""
        return self.body.segmentation_head(self.body.decoder(features)).float()


def normalisation(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of RGB in [0, 1] that a backbone's ImageNet weights expect.

    They are those of the same weights in timm; ImageNet's own where timm does not have them.
    """
    known = _NAMES_IN_TIMM.get(name, name.removeprefix("timm-"))
    config = timm.get_pretrained_cfg(known) if timm.is_model(known.partition(".")[0]) else None
    if config is None:
        return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return tuple(config.mean), tuple(config.std)


def build_network(
    arch: str, encoder: str, weights: Weights, decoder_channels: tuple[int, ...], size: int
) -> SegmentationNetwork:
    """Build a segmentation network: images (B, 3, size, size) in [0, 1] -> logits (B, 1, size, size).

    Raises
    ------
    UserError
        Unknown architecture or encoder, or a size that is not a multiple of 32.
    QGBenchError
        ImageNet weights cannot be fetched.
    """
    if arch not in ARCHS:
        raise unknown_name("arch", arch, ARCHS)
    if size % STRIDE:
        raise UserError(f"images of {size} pixels do not fit arch '{arch}': the side must be a multiple of {STRIDE}.")
    network = SegmentationNetwork(ARCHS[arch](encoder, weights, decoder_channels), *normalisation(encoder))
    keep_depthwise_in_float32(network)
    network.to(memory_format=torch.channels_last)
    try:
        with torch.no_grad():
            shape = tuple(network.eval()(torch.zeros(1, 3, size, size)).shape)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(f"encoder '{encoder}' does not work with arch '{arch}' at {size} pixels: {error}") from error
    if shape != (1, 1, size, size):
        raise UserError(f"encoder '{encoder}' with arch '{arch}' gives {shape} for {size} pixels; choose another.")
    return network.train()
