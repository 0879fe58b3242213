"""Which images Swin-Unet takes, and on which encoder. Imports no torch."""

ENCODER = "swin_tiny_patch4_window7_224.ms_in22k"
STRIDES = (4, 8, 16, 32)
_WINDOW = 7


def windows(size: int) -> tuple[int, ...]:
    """Return the side of each stage's attention windows in patches, fine to coarse, for images of `size` pixels."""
    grids = [size // stride for stride in STRIDES]
    return tuple(max(side for side in range(1, _WINDOW + 1) if grid % side == 0) for grid in grids)


def fits(size: int) -> bool:
    """Return whether images of `size` pixels can be tiled: a multiple of 32, all windows at least 2 x 2 patches."""
    return size % STRIDES[-1] == 0 and min(windows(size)) > 1
