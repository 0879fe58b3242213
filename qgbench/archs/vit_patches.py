"""Which patches plain vision transformers cut images into, told from timm's names. Imports no torch."""

import re

ENCODER = "vit_small_patch16_dinov3"  # its patches tile the images of every protocol, DINOv2's only those of `paper`
LEVELS = 4


def patch(encoder: str) -> int:
    """Return the side of an encoder's patches, pixels: 14 of ``vit_small_patch14_dinov2``, 16 where none is named."""
    named = re.search(r"_patch(\d+)", encoder)
    return int(named[1]) if named else 16
