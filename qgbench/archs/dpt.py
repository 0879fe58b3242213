"""DPT (Ranftl et al., arXiv 2103.13413): a convolutional decoder on four levels of a plain vision transformer of timm.

The decoder, its blocks and its head are those of segmentation-models-pytorch. `smp.DPT` itself is not used: it takes
only grids of an even number of 16-pixel patches (DINOv2's have 14 pixels, and 98 pixels are 7 of them), decodes the
class token beside the features, for which `encode` has no place, and leaves out the encoder's last normalisation, which
DINOv2's and DINOv3's authors apply to each level. Of the same features, both give the same logits where both can.
"""

from collections.abc import Iterable
from typing import cast

import torch.nn.functional as F
from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
from segmentation_models_pytorch.decoders.dpt.decoder import DPTDecoder, DPTSegmentationHead, FusionBlock
from timm.models import model_entrypoint
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from qgbench.archs.vit_patches import ENCODER, LEVELS
from qgbench.archs.weights import Weights, timm_backbone, timm_names
from qgbench.base.errors import UserError, unknown_name

_FAMILIES = (VisionTransformer.__module__, Eva.__module__)  # DINOv3 is of the second


def is_plain_vit(encoder: str) -> bool:
    """Return whether a name is that of a plain vision transformer of timm, on which `dpt` can be built."""
    return bool(plain_vits(timm_names() & {encoder}))


def plain_vits(names: Iterable[str]) -> set[str]:
    """Return which of timm's names are those of plain vision transformers."""
    return {name for name in names if model_entrypoint(name).__module__ in _FAMILIES}


def other_arch(encoder: str) -> str:
    """Return the end of a message that refuses an encoder: the arch that takes it; '' if it is not `dpt` either."""
    return f" An arch that takes '{encoder}': --arch dpt." if is_plain_vit(encoder) else ""


class ViTEncoder(nn.Module):
    """timm's vision transformer without head: images (B, 3, H, W) -> four times (B, C, H / patch, W / patch).

    They are the patches' tokens after a quarter, a half, three quarters and all of the blocks (3, 6, 9 and 12 of the
    small and base models), each normalised by the last normalisation. Class and register tokens are left out.

    Parameters
    ----------
    model : VisionTransformer or Eva
        For images of one size.
    frozen : bool
        It gets no gradient and stays in evaluation mode.
    """

    def __init__(self, model: VisionTransformer | Eva, frozen: bool) -> None:
        super().__init__()
        self.model = model
        self.frozen = frozen
        blocks = len(cast(nn.Sequential, model.blocks))
        self.taps = model.prune_intermediate_layers([blocks * level // LEVELS - 1 for level in range(1, LEVELS + 1)])
        if frozen:
            self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "ViTEncoder":
        """Set training mode, evaluation mode if it is frozen; return the encoder."""
        return super().train(mode and not self.frozen)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the four levels, first blocks first."""
        found = self.model.forward_intermediates(image, indices=self.taps, norm=True, intermediates_only=True)
        return cast(list[Tensor], found)


class GridFusion(FusionBlock):
    """The library's block that adds a level to the coarser ones, of grids that are no exact halves: 7 and 4 patches."""

    def forward(self, feature: Tensor, previous_feature: Tensor | None = None) -> Tensor:
        """Return fused features (B, D, H, W), of a level (B, D, H, W) and what coarser ones gave (B, D, H', W')."""
        feature = self.residual_conv_block1(feature)
        if previous_feature is not None:
            feature = feature + F.interpolate(previous_feature, feature.shape[2:], mode="bilinear", align_corners=True)
        return self.project(self.residual_conv_block2(feature))


class GridDecoder(DPTDecoder):
    """The library's decoder: reassembles levels to 4, 2, 1 and 1/2 times the grid of patches, and fuses them.

    Parameters
    ----------
    width : int
        Channels C of each level; reassembled, they have C / 8, C / 4, C / 2 and C.
    fusion : int
        Channels D of the fused features.
    """

    def __init__(self, width: int, fusion: int) -> None:
        widths = [width >> level for level in reversed(range(LEVELS))]
        # Strides of 16 give these scales, whatever the patch.
        super().__init__([width] * LEVELS, [16] * LEVELS, False, "ignore", widths, fusion)
        self.fusion_blocks = nn.ModuleList(GridFusion(fusion) for _ in range(LEVELS))

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return features (B, D, 8G, 8G) of levels (B, C, G, G)."""
        fused = super().forward(features, [None] * LEVELS)
        return F.interpolate(fused, scale_factor=2, mode="bilinear", align_corners=True)


class Head(DPTSegmentationHead):
    """The library's head, whose logits have the side of the images, not twice that of the features.

    Parameters
    ----------
    channels : int
        Of the decoder's features.
    classes : int
        Number of logits.
    size : int
        Side of the images, pixels.
    """

    def __init__(self, channels: int, classes: int, size: int) -> None:
        super().__init__(channels, classes)
        self.size = size

    def forward(self, decoded: Tensor) -> Tensor:
        """Return logits (B, classes, size, size) of the decoder's features."""
        return F.interpolate(self.head(decoded), (self.size, self.size), mode="bilinear", align_corners=True)


class DPT(nn.Module):
    """Encoder, decoder and head, as in segmentation-models-pytorch.

    Parameters
    ----------
    encoder : ViTEncoder
    fusion : int
        Channels of the fused features.
    classes : int
        Number of logits.
    size : int
        Side of the images, pixels.
    """

    def __init__(self, encoder: ViTEncoder, fusion: int, classes: int, size: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = GridDecoder(encoder.model.embed_dim, fusion)
        self.segmentation_head = Head(fusion, classes, size)
        initialize_decoder(self.decoder)
        initialize_head(self.segmentation_head)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (B, classes, size, size), of normalised images (B, 3, size, size)."""
        return self.segmentation_head(self.decoder(self.encoder(image)))


def build_dpt(
    encoder: str, weights: Weights, decoder_channels: tuple[int, ...], size: int, classes: int = 1, frozen: bool = False
) -> DPT:
    """Return a DPT: normalised images (B, 3, size, size) -> logits (B, classes, size, size). All of it is trained.

    Its features are four levels of one size, H / patch, as UniMatch V2 perturbs them: the patches' tokens after each
    quarter of the blocks. Position embeddings are resampled once, for images of this size.

    Parameters
    ----------
    encoder : str
        A plain vision transformer of timm, such as ``vit_small_patch14_dinov2``, ``vit_base_patch14_reg4_dinov2`` or
        ``vit_small_patch16_dinov3``.
    weights : 'imagenet' or 'none'
        'imagenet' are those that timm has under that name, of DINOv2 and DINOv3 the self-supervised ones of other
        images (DINOv3's come under a licence of their own).
    decoder_channels : tuple of int
        The first is the width of the fused features.
    size : int
        Side of the images, pixels.
    classes : int
        Number of logits.
    frozen : bool
        The encoder keeps its weights.

    Raises
    ------
    UserError
        timm knows no such encoder, or it is no plain vision transformer.
    QGBenchError
        Its weights cannot be fetched.
    """
    if encoder not in timm_names():
        raise unknown_name("vision transformer", encoder, plain_vits(timm_names()))
    if not is_plain_vit(encoder):
        raise UserError(
            f"archs 'dpt' and 'dpt_frozen' need a plain vision transformer, encoder '{encoder}' is none: type "
            f"--encoder {ENCODER}, or --encoder vit_small_patch14_dinov2."
        )
    model = cast(VisionTransformer | Eva, timm_backbone(encoder, weights, img_size=size))
    return DPT(ViTEncoder(model, frozen), decoder_channels[0], classes, size)


def build_dpt_frozen(
    encoder: str, weights: Weights, decoder_channels: tuple[int, ...], size: int, classes: int = 1
) -> DPT:
    """Return the network of `dpt` whose encoder is frozen: it keeps its weights, and decoder and head are trained.

    The encoder gets no gradient and stays in evaluation mode. Parameters and errors are those of
    `qgbench.archs.dpt.build_dpt`.
    """
    return build_dpt(encoder, weights, decoder_channels, size, classes, frozen=True)
