"""Networks of segmentation-models-pytorch on encoders of that library or of timm.

U-Net (Ronneberger et al., arXiv 1505.04597), U-Net++ (Zhou et al., arXiv 1807.10165), MA-Net (Fan et al., IEEE Access
2020), DeepLabV3+ (Chen et al., arXiv 1802.02611), SegFormer's decoder (Xie et al., arXiv 2105.15203), UPerNet (Xiao et
al., arXiv 1807.10221) and a feature pyramid (Kirillov et al., arXiv 1901.02446).

Every builder takes the encoder's name, ``'imagenet'`` or ``'none'``, the protocol's ``decoder_channels`` (coarse to
fine), the side of the images in pixels and the number of logits, and returns a network with ``encoder``, ``decoder``
and ``segmentation_head``. All raise `UserError` for an encoder that is unknown or does not suit the network, and
`QGBenchError` for ImageNet weights that cannot be fetched. `library_network` makes the like of any other model of the
library.
"""

import warnings
from collections.abc import Callable
from typing import Any

import segmentation_models_pytorch as smp
import timm
from segmentation_models_pytorch.base import SegmentationModel

from qgbench.archs.dpt import ENCODER, other_arch
from qgbench.archs.weights import PACKAGED, Weights, hub_error, load_into, timm_names, unpublished
from qgbench.base.errors import UserError, unknown_name

_GROUPS = 32  # of the group normalisation in the feature pyramid's segmentation blocks


def build_unet(
    encoder: str, weights: Weights, decoder_channels: tuple[int, ...], size: int, classes: int = 1
) -> SegmentationModel:
    """Return a U-Net whose decoder's stages have `decoder_channels`, one for each halving in the encoder."""
    return _staged(smp.Unet, "unet", encoder, weights, decoder_channels, size, classes)


def build_unetpp(
    encoder: str, weights: Weights, decoder_channels: tuple[int, ...], size: int, classes: int = 1
) -> SegmentationModel:
    """Return a U-Net++ whose outermost stages have `decoder_channels`; its inner nodes have the encoder's.

    An encoder without features at stride 2 is refused: the nodes at that stride would have no channels.
    """
    network = _staged(smp.UnetPlusPlus, "unetpp", encoder, weights, decoder_channels, size, classes)
    if 0 in network.encoder.out_channels:
        raise unsuitable(encoder, "unetpp", "it has no features at half the resolution of the image")
    return network


def build_manet(
    encoder: str, weights: Weights, decoder_channels: tuple[int, ...], size: int, classes: int = 1
) -> SegmentationModel:
    """Return an MA-Net whose decoder's stages have `decoder_channels`, one for each halving in the encoder."""
    return _staged(smp.MAnet, "manet", encoder, weights, decoder_channels, size, classes)


def build_deeplabv3plus(
    encoder: str, weights: Weights, decoder_channels: tuple[int, ...], size: int, classes: int = 1
) -> SegmentationModel:
    """Return a DeepLabV3+ on a dilated encoder; the first of `decoder_channels` is its width."""
    return library_network(
        smp.DeepLabV3Plus,
        "deeplabv3plus",
        encoder,
        weights,
        size,
        classes=classes,
        decoder_channels=decoder_channels[0],
    )


def build_segformer(
    encoder: str, weights: Weights, decoder_channels: tuple[int, ...], size: int, classes: int = 1
) -> SegmentationModel:
    """Return a network with SegFormer's decoder of linear layers; the first of `decoder_channels` is its width."""
    return library_network(
        smp.Segformer,
        "segformer",
        encoder,
        weights,
        size,
        classes=classes,
        decoder_segmentation_channels=decoder_channels[0],
    )


def build_upernet(
    encoder: str, weights: Weights, decoder_channels: tuple[int, ...], size: int, classes: int = 1
) -> SegmentationModel:
    """Return a UPerNet; the first of `decoder_channels` is the width of its pyramid."""
    return library_network(
        smp.UPerNet, "upernet", encoder, weights, size, classes=classes, decoder_channels=decoder_channels[0]
    )


def build_fpn(
    encoder: str, weights: Weights, decoder_channels: tuple[int, ...], size: int, classes: int = 1
) -> SegmentationModel:
    """Return a feature pyramid as wide as the first of `decoder_channels`, its segmentation blocks as the second.

    Raises
    ------
    UserError
        Also if the second width is not a multiple of 32.
    """
    if decoder_channels[1] % _GROUPS:
        raise UserError(
            f"arch 'fpn' normalises the second of decoder_channels, {decoder_channels[1]}, in {_GROUPS} groups: give a "
            f"multiple of {_GROUPS}."
        )
    return library_network(
        smp.FPN,
        "fpn",
        encoder,
        weights,
        size,
        classes=classes,
        decoder_pyramid_channels=decoder_channels[0],
        decoder_segmentation_channels=decoder_channels[1],
    )


def library_network(
    model: type[SegmentationModel], arch: str, encoder: str, weights: Weights, size: int, **settings: Any
) -> SegmentationModel:
    """Return a network of segmentation-models-pytorch on an encoder of that library or of timm.

    Parameters
    ----------
    model : type
        Such as ``smp.Linknet``.
    arch : str
        Its name in messages.
    encoder : str
        A name of segmentation-models-pytorch or of timm.
    weights : 'imagenet' or 'none'
    size : int
        Side of the images, pixels.
    **settings
        Passed on to `model`; ``classes`` is the number of logits, 1 if not given.

    Raises
    ------
    UserError
        The encoder is unknown, does not suit the network, or has no published ImageNet weights.
    QGBenchError
        Its ImageNet weights cannot be fetched.
    """
    native = encoder in smp.encoders.encoders
    _require_known(encoder)
    packaged = weights == "imagenet" and encoder in PACKAGED
    from_hub = weights == "imagenet" and not packaged
    if from_hub and not has_imagenet(encoder):
        raise unpublished(encoder)
    if not native and (config := timm.get_pretrained_cfg(encoder)) is not None and config.fixed_input_size:
        settings["img_size"] = size  # such as Swin Transformers

    def construct(pretrained: Any) -> SegmentationModel:
        with warnings.catch_warnings():
            # Of smp: encoders under an older name, and nodes without channels, which `build_unetpp` refuses itself.
            warnings.filterwarnings("ignore", "`timm-` encoders are deprecated", DeprecationWarning)
            warnings.filterwarnings("ignore", "Initializing zero-element tensors", UserWarning)
            return model(encoder if native else f"tu-{encoder}", encoder_weights=pretrained, **settings)

    try:
        network = construct(("imagenet" if native else True) if from_hub else None)
    except Exception as error:
        refusal = _refusal(construct) if from_hub else error
        if refusal is None:
            raise hub_error(encoder, error) from error
        raise unsuitable(encoder, arch, refusal) from error
    if packaged:
        load_into(network.encoder.model, encoder)
    return network


def unsuitable(encoder: str, arch: str, reason: object) -> UserError:
    """Return the error that says why an encoder does not suit an architecture, and names one that does."""
    said = f"encoder '{encoder}' cannot be used with arch '{arch}': {' '.join(str(reason).split()).rstrip('.')}."
    if arch.startswith("dpt"):
        return UserError(f"{said} One that can: --encoder {ENCODER}.")
    return UserError(f"{said} Encoders that can: --encoder {PACKAGED[0]}, --encoder resnet34.{other_arch(encoder)}")


def _staged(
    model: type[SegmentationModel],
    arch: str,
    encoder: str,
    weights: Weights,
    decoder_channels: tuple[int, ...],
    size: int,
    classes: int,
) -> SegmentationModel:
    depth, widths = len(decoder_channels), list(decoder_channels)
    return library_network(
        model, arch, encoder, weights, size, classes=classes, encoder_depth=depth, decoder_channels=widths
    )


def _refusal(construct: Callable[[None], SegmentationModel]) -> Exception | None:
    """Return why a network cannot be built even without weights; None if it can, so that it is the hub that failed."""
    try:
        construct(None)
    except Exception as error:
        return error
    return None


def _require_known(encoder: str) -> None:
    known = {*smp.encoders.encoders, *timm_names()}
    if encoder not in known:
        raise unknown_name("encoder", encoder, known)


def has_imagenet(encoder: str) -> bool:
    """Return whether ImageNet weights of an encoder are published."""
    if encoder in smp.encoders.encoders:
        return "imagenet" in smp.encoders.encoders[encoder]["pretrained_settings"]
    return timm.models.is_model_pretrained(encoder)
