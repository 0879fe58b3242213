"""The segmentation networks that can be named, and what is known of each before it is built. Imports no torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import count
from types import MappingProxyType
from typing import TYPE_CHECKING

from qgbench.archs import swin_sizes, vit_patches
from qgbench.base.errors import UserError
from qgbench.plugins.registry import named

if TYPE_CHECKING:
    from torch import nn

Builder = Callable[..., "nn.Module"]


def _multiple_of_32(size: int) -> bool:
    return size % 32 == 0


@dataclass(frozen=True)
class Arch:
    """One architecture.

    Attributes
    ----------
    build : callable or str
        (encoder, weights, decoder_channels, size) -> a network with encoder, decoder and segmentation_head, which gives
        one logit a pixel; or where that is, ``module:function``, which is imported when it is asked for (`builder`). It
        takes ``classes``, too, the number of logits, if it is to segment several classes.
    description : str
        One line.
    source : str
        Where it was published and where its parts come from.
    decoder : str
        What it takes from the protocol's ``decoder_channels``.
    strides : tuple of int
        Of the features that `SegmentationNetwork.encode` gives, fine to coarse. Encoders that begin with patches of
        4 x 4 pixels give features without channels at stride 2.
    own_encoder : str or None
        The encoder that it takes unless told otherwise, if it cannot take the protocol's.
    sizes : str
        Which sides of an image fit, in words: "a multiple of 32".
    fits : callable
        Tells whether a side in pixels fits.
    min_batch : int
        Least number of images of one process in a training step.
    patch : callable or None
        Tells the side of an encoder's patches, pixels, by its name, where sizes and strides are multiples of it (`on`).
    """

    build: Builder | str
    description: str
    source: str
    decoder: str
    strides: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    own_encoder: str | None = None
    sizes: str = "a multiple of 32"
    fits: Callable[[int], bool] = _multiple_of_32
    min_batch: int = 1
    patch: Callable[[str], int] | None = None

    def on(self, encoder: str) -> "Arch":
        """Return what is known of it on an encoder: its sizes and strides are then those of the encoder's patches."""
        if self.patch is None:
            return self
        side = self.patch(encoder)
        named = f"patch{side}" in encoder
        why = f"the patch of encoder '{encoder}'" if named else f"as encoder '{encoder}' names no patch"
        sizes = f"a multiple of {side}, {why}"
        return replace(self, strides=(side,) * len(self.strides), sizes=sizes, fits=lambda size: size % side == 0)

    @property
    def builder(self) -> Builder:
        """What builds it."""
        return named(self.build) if isinstance(self.build, str) else self.build


_STAGES = "one stage for each width"
_WIDTH = "the first is the width of the decoder"
_SMP = "segmentation-models-pytorch"


def _dpt(build: str, description: str) -> Arch:
    side = vit_patches.patch(vit_patches.ENCODER)
    return Arch(
        build,
        description,
        f"arXiv 2103.13413, decoder of {_SMP}, encoder of timm",
        _WIDTH,
        strides=(side,) * vit_patches.LEVELS,
        own_encoder=vit_patches.ENCODER,
        sizes=f"a multiple of the encoder's patch, {side} pixels unless --encoder says otherwise",
        fits=lambda size: size % side == 0,
        patch=vit_patches.patch,
    )


ARCHS: Mapping[str, Arch] = MappingProxyType(
    {
        "unet": Arch(
            "qgbench.archs.library:build_unet",
            "U-Net: encoder, decoder, skip connections",
            f"arXiv 1505.04597, {_SMP}",
            _STAGES,
        ),
        "unetpp": Arch(
            "qgbench.archs.library:build_unetpp",
            "U-Net++: nested, densely connected skip connections",
            f"arXiv 1807.10165, {_SMP}",
            f"{_STAGES}; the nodes in between have the encoder's",
        ),
        "attention_unet": Arch(
            "qgbench.archs.attention_unet:build_attention_unet",
            "U-Net with additive attention gates on its skip connections",
            f"arXiv 1804.03999, U-Net of {_SMP}",
            _STAGES,
        ),
        "swin_unet": Arch(
            "qgbench.archs.swin_unet:build_swin_unet",
            "Swin-Unet: Swin Transformer blocks in encoder and decoder",
            "arXiv 2105.05537, blocks of timm",
            "nothing: the decoder has the encoder's widths",
            strides=swin_sizes.STRIDES,
            own_encoder=swin_sizes.ENCODER,
            sizes="a multiple of 32 whose 32nd part can be divided by a window of 2 to 7 patches",
            fits=swin_sizes.fits,
        ),
        "deeplabv3plus": Arch(
            "qgbench.archs.library:build_deeplabv3plus",
            "DeepLabV3+: dilated encoder, atrous spatial pyramid pooling",
            f"arXiv 1802.02611, {_SMP}",
            _WIDTH,
            strides=(1, 2, 4, 8, 16, 16),
            min_batch=2,
        ),
        "segformer": Arch(
            "qgbench.archs.library:build_segformer",
            "SegFormer's decoder of linear layers",
            f"arXiv 2105.15203, {_SMP}",
            _WIDTH,
        ),
        "upernet": Arch(
            "qgbench.archs.library:build_upernet",
            "UPerNet: pyramid pooling and a feature pyramid",
            f"arXiv 1807.10221, {_SMP}",
            _WIDTH,
            min_batch=2,
        ),
        "manet": Arch(
            "qgbench.archs.library:build_manet",
            "MA-Net: U-Net with attention over positions and channels",
            f"doi 10.1109/ACCESS.2020.3025372, {_SMP}",
            _STAGES,
        ),
        "fpn": Arch(
            "qgbench.archs.library:build_fpn",
            "Feature pyramid network",
            f"arXiv 1901.02446, {_SMP}",
            "the first is the width of its pyramid, the second, a multiple of 32, that of its last blocks",
        ),
        "dpt": _dpt("qgbench.archs.dpt:build_dpt", "DPT: convolutions on four levels of a plain vision transformer"),
        "dpt_frozen": _dpt("qgbench.archs.dpt:build_dpt_frozen", "DPT whose vision transformer keeps its weights"),
    }
)


def nearest_sizes(arch: Arch, size: int) -> list[int]:
    """Return the largest side below `size` pixels that fits, if there is one, and the smallest above."""
    below = next((side for side in range(size - 1, 31, -1) if arch.fits(side)), None)
    above = next(side for side in count(size + 1) if arch.fits(side))
    return [side for side in (below, above) if side is not None]


def require_fitting(name: str, arch: Arch, size: int, encoder: str) -> None:
    """Refuse images of a side, in pixels, that an architecture cannot take on an encoder.

    Raises
    ------
    UserError
        Says which sides fit, and on which encoder this one does.
    """
    here = arch.on(encoder)
    if not here.fits(size):
        near = " and ".join(str(side) for side in nearest_sizes(here, size))
        own = arch.own_encoder if arch.own_encoder and arch.on(arch.own_encoder).fits(size) else None
        raise UserError(
            f"images of {size} pixels do not fit arch '{name}': the side must be {here.sizes}; the nearest: {near}."
            + (f" Or type --encoder {own}." if own else "")
        )
