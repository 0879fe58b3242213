"""Images that a trained network is applied to, as it sees them: pictures, volumes, arrays."""

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qgbench.base.cores import in_threads
from qgbench.base.errors import UserError
from qgbench.base.logs import logger
from qgbench.data.cache import squeezed
from qgbench.data.images import IMAGE_SUFFIXES, read_image
from qgbench.data.readers import image_files
from qgbench.data.source import name_some
from qgbench.data.volume_files import HDF5_SUFFIXES, NIFTI_SUFFIXES, VolumeFiles, is_slice, read_volume, stem_of

if TYPE_CHECKING:
    from torch import Tensor

    Image = str | Path | NDArray[np.uint8] | Tensor

_ROUNDING = 1e-3  # beyond [0, 1]
_EXPECTED = (
    "expected the path of a picture or volume, an array of bytes (H, W, 3) or (H, W), or a tensor (3, H, W) in [0, 1]"
)


@dataclass(frozen=True, eq=False)
class Squeezed:
    """An image at a network's size.

    Attributes
    ----------
    slices : list of (S, S, 3) uint8
        RGB; one of a picture, those of a volume in the order of D.
    size : (int, int)
        Height and width of the original, or of its slices, in pixels.
    file : Path or None
        Where it was read from.
    is_volume : bool
    """

    slices: list[NDArray[np.uint8]]
    size: tuple[int, int]
    file: Path | None = None
    is_volume: bool = False


def find_images(folder: Path) -> dict[str, Path]:
    """Return the pictures or volumes of a folder by their names without suffix, sorted; folders in it are passed over.

    Raises
    ------
    UserError
        There is no such folder or no image in it, two have one name, but for case, or it holds images of both kinds.
    """
    suffixes = (*IMAGE_SUFFIXES, *NIFTI_SUFFIXES, *HDF5_SUFFIXES)
    found = dict(sorted(image_files(folder, suffixes, "a folder of pictures or volumes").items()))
    volumes = [file.name for file in found.values() if stem_of(file) is not None]
    if 0 < len(volumes) < len(found):
        raise UserError(f"{folder} holds pictures and {name_some(volumes, 'volume')}; give a folder of one kind.")
    if slices := [id for id, file in found.items() if is_slice(file)]:
        logger.warning(
            "%s: the greys of each are scaled alone, in training with those of its volume. Give whole volumes "
            "where there are any.",
            name_some(slices, "slice"),
        )
    return found


def squeeze(image: "Image", size: int) -> Squeezed:
    """Return an image squeezed to a square, as those of data sets are.

    Parameters
    ----------
    image : str, Path, array or tensor
        A file of a picture or a volume; bytes (H, W, 3), RGB, or (H, W), grey; or a tensor (3, H, W), RGB in [0, 1],
        which is rounded to bytes.
    size : int
        Side S in pixels.

    Raises
    ------
    UserError
        A file cannot be read, or it is something else.
    """
    if isinstance(image, str | Path):
        file = Path(image)
        if stem_of(file) is None:
            pixels = read_image(file)
            return Squeezed([squeezed(pixels, size)], pixels.shape[:2], file)
        volume = read_volume(VolumeFiles((file,), ()))
        slices = [squeezed(_rgb(grey), size) for grey in volume]
        return Squeezed(slices, volume.shape[1:], file, is_volume=True)
    pixels = _pixels(image)
    return Squeezed([squeezed(pixels, size)], pixels.shape[:2])


def squeeze_all(files: Sequence[Path], size: int) -> Generator[Squeezed]:
    """Yield files squeezed, in their order: pictures are read ahead of the caller, volumes one after the other.

    Raises
    ------
    UserError
        As `squeeze`.
    """
    one = partial(squeeze, size=size)
    if any(stem_of(file) for file in files):
        yield from map(one, files)
        return
    with closing(in_threads(one, files)) as ahead:
        yield from ahead


def _pixels(image: Any) -> NDArray[np.uint8]:
    """Return what was given in memory as bytes (H, W, 3)."""
    if not isinstance(image, np.ndarray) and hasattr(image, "detach"):  # a tensor, without importing torch
        if image.ndim != 3 or len(image) != 3 or not image.is_floating_point():
            raise UserError(f"the image is a tensor {tuple(image.shape)} of {image.dtype}; {_EXPECTED}.")
        low, high = float(image.min()), float(image.max())
        if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):
            raise UserError(f"the image is a tensor with values from {low:.3g} to {high:.3g}; {_EXPECTED}.")
        image = (255 * image.detach().float()).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
    if not isinstance(image, np.ndarray):
        raise UserError(f"the image is a {type(image).__name__}; {_EXPECTED}.")
    if image.dtype != np.uint8 or 0 in image.shape or (image.ndim != 2 and image.shape[2:] != (3,)):
        raise UserError(f"the image is an array {image.shape} of {image.dtype}; {_EXPECTED}.")
    return _rgb(image) if image.ndim == 2 else np.ascontiguousarray(image)


def _rgb(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(grey[..., None], 3, axis=2)
