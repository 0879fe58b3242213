"""Swin-Unet (Cao et al., arXiv 2105.05537): a U-Net of Swin Transformer blocks, on timm's.

Each stage has two blocks, in the encoder and in the decoder: the encoder keeps the first two of each stage of the model
in timm that is named. Skip connections carry the output of a stage.

Attention windows are fitted to the images: each stage's is the largest square of at most 7 x 7 patches that tiles the
stage's grid exactly, so that nothing is padded and no patch attends to padding. At 224 pixels all are 7, as published;
at 96 they are 6, 6, 6 and 3. timm then resizes the pretrained tables of relative positions, so that an offset of so
many patches keeps its bias.
"""

import warnings
from typing import cast

import torch
from timm.layers import PatchEmbed
from timm.models import model_entrypoint
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock, SwinTransformerStage
from torch import Tensor, nn

from qgbench.archs.dpt import other_arch
from qgbench.archs.swin_sizes import ENCODER, STRIDES, windows
from qgbench.archs.weights import Weights, timm_backbone, timm_names
from qgbench.base.errors import UserError

_BLOCKS = 2
_DROP_PATH = 0.2  # largest rate of stochastic depth, as in the authors' configuration


def _stages(model: SwinTransformer) -> list[SwinTransformerStage]:
    return [cast(SwinTransformerStage, stage) for stage in model.layers]


def _blocks(stage: SwinTransformerStage) -> list[SwinTransformerBlock]:
    return [cast(SwinTransformerBlock, block) for block in stage.blocks]


class SwinEncoder(nn.Module):
    """timm's Swin Transformer without classifier: images (B, 3, H, W) -> (B, C_i, H / s_i, W / s_i), s in `STRIDES`.

    Parameters
    ----------
    model : SwinTransformer
    size : int
        Side of the images, pixels.
    """

    def __init__(self, model: SwinTransformer, size: int) -> None:
        super().__init__()
        self.model = model
        cast(PatchEmbed, model.patch_embed).set_input_size(img_size=(size, size))
        for stage, stride, window in zip(_stages(model), STRIDES, windows(size), strict=True):
            stage.blocks = stage.blocks[:_BLOCKS]
            merged = stride if isinstance(stage.downsample, nn.Identity) else stride // 2  # merging is done first
            with warnings.catch_warnings():
                # Resizing tables, timm indexes in a way that torch warns of; tests/archs/test_swin_unet.py judges it.
                warnings.filterwarnings("ignore", module=r"timm\.layers\.interpolate")
                stage.set_input_size((size // merged, size // merged), window)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the output of each stage, fine to coarse; the last is normalised."""
        return cast(list[Tensor], self.model.forward_intermediates(image, norm=True, intermediates_only=True))


def expand_pixels(x: Tensor, scale: int) -> Tensor:
    """Return channels as pixels, (B, H, W, scale**2 * C) -> (B, scale * H, scale * W, C): patch merging undone.

    The order is that of timm's `PatchMerging`: of the channels of one patch, those of its first column come first.
    """
    b, h, w, c = x.shape
    x = x.view(b, h, w, scale, scale, c // scale**2).permute(0, 1, 4, 2, 3, 5)
    return x.reshape(b, h * scale, w * scale, -1)


class PatchExpand(nn.Module):
    """A linear layer, then channels into pixels, then normalisation.

    Parameters
    ----------
    channels, out : int
        Before and after.
    scale : int
        How many times larger the output is.
    """

    def __init__(self, channels: int, out: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.expand = nn.Linear(channels, scale**2 * out, bias=False)
        self.norm = nn.LayerNorm(out)

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, scale * H, scale * W, out), of features (B, H, W, channels)."""
        return self.norm(expand_pixels(self.expand(x), self.scale))


class UpStage(nn.Module):
    """Expands patches twofold, joins the skip connection by a linear layer, then Swin blocks as the encoder's.

    Parameters
    ----------
    channels : int
        Of the input; the output has half.
    mirrored : SwinTransformerStage
        The encoder's stage of the same resolution: this stage has its heads, windows and rates of stochastic depth.
    """

    def __init__(self, channels: int, mirrored: SwinTransformerStage) -> None:
        super().__init__()
        out = channels // 2
        blocks = _blocks(mirrored)
        attention = blocks[0].attn
        self.up = PatchExpand(channels, out, 2)
        self.join = nn.Linear(2 * out, out)
        self.stage = SwinTransformerStage(
            dim=out,
            out_dim=out,
            input_resolution=cast(tuple[int, int], blocks[0].input_resolution),
            depth=len(blocks),
            downsample=False,
            num_heads=attention.num_heads,
            window_size=attention.window_size,
            drop_path=[getattr(block.drop_path1, "drop_prob", 0.0) for block in blocks],
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Return features (B, 2H, 2W, C / 2) of coarser (B, H, W, C) and the skip connection (B, 2H, 2W, C / 2)."""
        return self.stage(self.join(torch.cat([self.up(x), skip], dim=-1)))


class SwinDecoder(nn.Module):
    """Three `UpStage`, then patches of 4 x 4 into pixels.

    Parameters
    ----------
    model : SwinTransformer
        The encoder that is mirrored.
    """

    def __init__(self, model: SwinTransformer) -> None:
        super().__init__()
        stages = _stages(model)[-2::-1]
        self.stages = nn.ModuleList(UpStage(2 * _blocks(stage)[0].dim, stage) for stage in stages)
        channels = _blocks(stages[-1])[0].dim
        self.norm = nn.LayerNorm(channels)
        self.up = PatchExpand(channels, channels, STRIDES[0])
        self.apply(_initialise)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return features (B, C, H, W), of the encoder's, fine to coarse."""
        x, *skips = (feature.permute(0, 2, 3, 1) for feature in reversed(features))
        for stage, skip in zip(self.stages, skips, strict=True):
            x = stage(x, skip)
        return self.up(self.norm(x)).permute(0, 3, 1, 2)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class SwinUnet(nn.Module):
    """Encoder, decoder and head, as in segmentation-models-pytorch.

    Parameters
    ----------
    model : SwinTransformer
    size : int
        Side of the images, pixels.
    classes : int
        Number of logits.
    """

    def __init__(self, model: SwinTransformer, size: int, classes: int = 1) -> None:
        super().__init__()
        self.encoder = SwinEncoder(model, size)
        self.decoder = SwinDecoder(model)
        self.segmentation_head = nn.Conv2d(_blocks(_stages(model)[0])[0].dim, classes, kernel_size=1, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (B, C, H, W), of normalised images (B, 3, H, W)."""
        return self.segmentation_head(self.decoder(self.encoder(image)))


def build_swin_unet(
    encoder: str, weights: Weights, decoder_channels: tuple[int, ...], size: int, classes: int = 1
) -> SwinUnet:
    """Return a Swin-Unet: normalised images (B, 3, size, size) -> logits (B, classes, size, size).

    With ImageNet weights each stage of the decoder starts from the blocks of the encoder's stage that it mirrors, as in
    the authors' code.

    Parameters
    ----------
    encoder : str
        One of timm's Swin Transformers.
    weights : 'imagenet' or 'none'
        Those of ImageNet-1k or -22k, as the encoder's name says.
    decoder_channels : tuple of int
        Not used: the decoder's stages have the channels of the encoder's.
    size : int
        Side of the images, pixels.
    classes : int
        Number of logits.

    Raises
    ------
    UserError
        The encoder is not a Swin Transformer.
    QGBenchError
        Its weights cannot be fetched.
    """
    if encoder in timm_names() and model_entrypoint(encoder).__module__ != SwinTransformer.__module__:
        raise UserError(
            f"arch 'swin_unet' is made of Swin Transformer blocks, encoder '{encoder}' is not: type "
            f"--encoder {ENCODER}, or another name of timm that begins with 'swin_'.{other_arch(encoder)}"
        )
    model = cast(SwinTransformer, timm_backbone(encoder, weights, drop_path_rate=_DROP_PATH))
    network = SwinUnet(model, size, classes)
    if weights == "imagenet":
        for up, stage in zip(network.decoder.stages, _stages(model)[-2::-1], strict=True):
            cast(UpStage, up).stage.blocks.load_state_dict(stage.blocks.state_dict())
    return network
