"""U-Net (Ronneberger et al., arXiv 1505.04597) with a pretrained encoder, from segmentation-models-pytorch."""

import segmentation_models_pytorch as smp
from torch import nn

from qgbench.archs.weights import PACKAGED, Weights, hub_error, load_into
from qgbench.errors import UserError, unknown_name


def build_unet(encoder: str, weights: Weights, decoder_channels: tuple[int, ...]) -> nn.Module:
    """Build a U-Net: images (B, 3, H, W), normalised -> logits (B, 1, H, W); H and W multiples of 32.

    Parameters
    ----------
    encoder : str
        A name of segmentation-models-pytorch (``resnet34``) or of timm (``tf_efficientnet_lite0``).
    weights : 'imagenet' or 'none'
    decoder_channels : tuple of int
        Channels of the decoder's stages, coarse to fine.

    Raises
    ------
    UserError
        The encoder is unknown or has no features at the strides that the decoder needs.
    QGBenchError
        ImageNet weights cannot be fetched.
    """
    import timm

    native = encoder in smp.encoders.encoders
    if not native and encoder.partition(".")[0] not in timm.list_models():
        raise unknown_name("encoder", encoder, [*smp.encoders.encoders, *timm.list_models()])
    packaged = weights == "imagenet" and encoder in PACKAGED
    from_hub = weights == "imagenet" and not packaged
    try:
        network = smp.Unet(
            encoder if native else f"tu-{encoder}",
            encoder_depth=len(decoder_channels),
            encoder_weights=("imagenet" if native else True) if from_hub else None,
            decoder_channels=decoder_channels,
        )
    except (RuntimeError, OSError) as error:
        if from_hub:
            raise hub_error(encoder, error) from error
        raise UserError(f"encoder '{encoder}' cannot be used in a U-Net: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"encoder '{encoder}' cannot be used in a U-Net: {error}") from error
    if packaged:
        load_into(network.encoder.model, encoder)
    return network
