"""Apply a run to a folder of images: masks, and what g says of them.

The folder that is written appears in one step, whole::

    masks/ID.png              0 and 255; of several classes a palette whose numbers are 0 for the background and k for
                              the k-th class
    masks/ID.nii.gz           of a volume, in its format (.nii, .h5), with its affine and header: 0, and k from 1
    probabilities/ID.npz      if asked for: ``probabilities``, float16, (C, ...) with the shape of the mask
    quality.csv               if asked for: image, class, quality, confidence
    contact_sheet.png         some of the images with the outlines of their masks
    prediction.json           the run, and the value of each class
"""

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image

from qgbench.base.colors import CLASS_COLORS
from qgbench.base.files import whole_folder, write_atomically
from qgbench.base.progress import track
from qgbench.data.images import read_image
from qgbench.data.inputs import find_images, squeeze_all
from qgbench.data.packed_masks import PackedMasks
from qgbench.data.sheet import choose_images, draw_sheet
from qgbench.data.source import Slice
from qgbench.data.volume_files import VolumeFiles, is_hdf5, label_file, read_shape, read_volume, stem_of
from qgbench.data.volumes import slice_id
from qgbench.engine.device import repeat_where_cuda_can
from qgbench.run.trained import Prediction, TrainedRun, load_run

_SHOWN = 24
_WHITE = 255


def predict_folder(
    run: Path, images: Path, output: Path, probabilities: bool = False, quality: bool = False, device: str = "auto"
) -> dict[str, int]:
    """Write what a run predicts of a folder of pictures and volumes (module docstring).

    Parameters
    ----------
    run, device :
        As `load_run`. Processor threads are those of the run, as they change rounding.
    images : Path
    output : Path
        Not there yet, or empty.
    probabilities, quality : bool
        Write these, too.

    Returns
    -------
    dict of str to int
        The value of each class in the masks.

    Raises
    ------
    UserError
        As `load_run`; there are no images, one cannot be read, or `output` holds something.
    UnwritableError
        The disk is full.
    """
    files = find_images(images)
    with whole_folder(output) as folder:  # refuses before anything is computed
        trained = load_run(run, device, quality)
        torch.set_num_threads(trained.spec.threads)
        if trained.device == "cuda":
            repeat_where_cuda_can()
        values = trained.card.values
        if trained.task.channels == 1 and not any(map(stem_of, files.values())):
            values = dict.fromkeys(values, _WHITE)
        scores, sheet = [], _Sheet(trained.task.classes, files)
        for id, prediction in zip(files, _predicted(trained, list(files.values())), strict=True):
            _write_mask(folder / "masks", files[id], id, prediction.mask)
            if probabilities:
                _write_probabilities(folder / "probabilities" / f"{id}.npz", prediction.probabilities())
            scores += _rows(trained.task.classes, id, prediction)
            sheet.keep(id, prediction)
        if quality:
            table = pd.DataFrame(scores).to_csv(index=False, float_format="%.17g")
            write_atomically(folder / "quality.csv", table.encode())
        draw_sheet(sheet, sheet.ids, folder / "contact_sheet.png")
        told = {"run": trained.card.run_id, "images": len(files), "values": values}
        write_atomically(folder / "prediction.json", (json.dumps(told, indent=1) + "\n").encode())
    return values


def _predicted(trained: TrainedRun, files: Sequence[Path]) -> Iterator[Prediction]:
    with closing(squeeze_all(files, trained.card.size)) as squeezed:
        noun = "volumes" if any(map(stem_of, files)) else "images"
        yield from track(trained.predict_each(squeezed), "predicting", len(files), noun)


def _write_mask(folder: Path, image: Path, id: str, mask: NDArray[Any]) -> None:
    if stem_of(image) is not None:
        suffix = image.name[len(str(stem_of(image))) :]
        write_atomically(folder / f"{id}{suffix}", label_file(image, mask.astype(np.uint8)))
        return
    content = io.BytesIO()
    picture = Image.fromarray(mask.astype(np.uint8) * _WHITE if mask.dtype == np.bool_ else mask)
    if mask.dtype != np.bool_:
        colours = (CLASS_COLORS[place % len(CLASS_COLORS)] for place in range(_WHITE))
        picture.putpalette(bytes(3) + b"".join(bytes.fromhex(colour[1:]) for colour in colours))
    picture.save(content, "PNG")
    write_atomically(folder / f"{id}.png", content.getvalue())


def _write_probabilities(file: Path, values: NDArray[np.float32]) -> None:
    content = io.BytesIO()
    np.savez_compressed(content, probabilities=values.astype(np.float16))
    write_atomically(file, content.getvalue())


def _rows(classes: Iterable[str], id: str, found: Prediction) -> list[dict[str, object]]:
    return [
        {"image": id, "class": name, "quality": float(quality), "confidence": float(confidence)}
        for name, quality, confidence in zip(classes, found.quality, found.confidence, strict=True)
    ]


class _Sheet:
    """Some of the images, evenly chosen, and what was predicted; of a volume its slice with the largest prediction."""

    labelled = True

    def __init__(self, classes: tuple[str, ...], files: dict[str, Path]) -> None:
        self.classes = classes
        self.ids: list[str] = []
        self.volumes: dict[str, Slice] = {}
        self._chosen = set(choose_images(list(files), _SHOWN))
        self._files = files
        self._place: dict[str, tuple[Path, int | None]] = {}
        self._masks = PackedMasks()

    def keep(self, id: str, prediction: Prediction) -> None:
        """Keep what was predicted of an image, if it is one of those that are shown."""
        if id not in self._chosen:
            return
        file, place, masks = self._files[id], 0, prediction.slices
        if stem_of(file) is not None:
            place = int((masks != 0).sum((1, 2)).argmax())
            volume, id = id, slice_id(id, place)
            self.volumes[id] = Slice(volume, place, None if is_hdf5(file) else read_shape(VolumeFiles((file,), ()))[1])
        self.ids.append(id)
        self._place[id] = file, place
        self._masks.add(id, masks[place])

    def image(self, id: str) -> NDArray[np.uint8]:
        """Read an image again."""
        file, place = self._place[id]
        if stem_of(file) is None:
            return read_image(file)
        return np.repeat(read_volume(VolumeFiles((file,), ()))[place][..., None], 3, axis=2)

    def mask(self, id: str) -> NDArray[Any]:
        """Return a predicted mask."""
        return self._masks[id]
