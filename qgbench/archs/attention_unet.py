"""Attention U-Net (Oktay et al., arXiv 1804.03999): additive gates on the skip connections of a U-Net."""

from typing import Any

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.base import SegmentationModel
from segmentation_models_pytorch.base.initialization import initialize_decoder
from torch import Tensor, nn

from qgbench.archs.library import build_unet
from qgbench.archs.weights import Weights


class AttentionGate(nn.Module):
    """Scales the features of a skip connection by what the coarser stage of the decoder asks for.

    ``alpha = sigmoid(psi(relu(Wx x + Wg g)))``, computed at the resolution of g, where Wx has stride 2, and resized to
    that of x bilinearly; the output is ``alpha * x`` (their Eqns 1 and 2). Biases are in Wg and psi alone, and half as
    many channels as x has are compared, as in the authors' code.

    Parameters
    ----------
    channels : int
        Of the skip connection x.
    gating : int
        Channels of the gating signal g.
    """

    def __init__(self, channels: int, gating: int) -> None:
        super().__init__()
        inner = max(1, channels // 2)
        self.wx = nn.Conv2d(channels, inner, kernel_size=2, stride=2, bias=False)
        self.wg = nn.Conv2d(gating, inner, kernel_size=1)
        self.psi = nn.Conv2d(inner, 1, kernel_size=1)

    def forward(self, x: Tensor, g: Tensor) -> Tensor:
        """Return gated features (B, C, 2H, 2W), of features of that shape and the coarser signal (B, G, H, W)."""
        alpha = torch.sigmoid(self.psi(F.relu(self.wx(x) + self.wg(g))))
        return x * F.interpolate(alpha, size=x.shape[2:], mode="bilinear")


class GatedBlock(nn.Module):
    """A block of a U-Net decoder whose skip connection passes through a gate first.

    Parameters
    ----------
    block : nn.Module
        Called with the coarser features, sizes, and the skip connection as a keyword.
    gate : nn.Module
        Called with the skip connection and the coarser features.
    """

    def __init__(self, block: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.block = block
        self.gate = gate

    def forward(self, coarser: Tensor, *sizes: Any, skip_connection: Tensor) -> Tensor:
        """Return finer features, of coarser ones (B, G, H, W) and a skip connection (B, C, 2H, 2W)."""
        return self.block(coarser, *sizes, skip_connection=self.gate(skip_connection, coarser))


def build_attention_unet(
    encoder: str, weights: Weights, decoder_channels: tuple[int, ...], size: int, classes: int = 1
) -> SegmentationModel:
    """Return the U-Net of `qgbench.archs.library.build_unet` with a gate on each skip connection that it has."""
    network = build_unet(encoder, weights, decoder_channels, size, classes)
    skips = network.encoder.out_channels[-2:0:-1]
    gating = (network.encoder.out_channels[-1], *decoder_channels)
    for i, (channels, coarser) in enumerate(zip(skips, gating, strict=False)):
        if channels:  # an encoder of patches of 4 x 4 pixels has no features at stride 2
            gate = AttentionGate(channels, coarser)
            initialize_decoder(gate)
            network.decoder.blocks[i] = GatedBlock(network.decoder.blocks[i], gate)
    return network
