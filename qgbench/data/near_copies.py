"""Near copies between what a run trains on and what it is measured on.

They are looked for among the prepared images, as `qgbench.data.duplicates` describes. What is taken of each image for
that is kept in the cache, as ``.waves-1/<fingerprint of the prepared arrays>.npy``: a later run reads it.
"""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from qgbench.base.cores import usable_cores
from qgbench.base.errors import QGBenchError
from qgbench.base.files import write_atomically
from qgbench.base.progress import Track, no_progress
from qgbench.data.cache import Prepared
from qgbench.data.cards import Card
from qgbench.data.content import default_cache_dir
from qgbench.data.duplicates import detail_of, near_pairs, waves_of
from qgbench.data.run_data import RunData
from qgbench.data.splits import keeps_groups

_FOLDER = ".waves-1"  # the number goes up when `waves_of` gives something else
_SHOWN = 3  # pairs in a warning


@dataclass(frozen=True)
class NearCopy:
    """An image to validate or test on, and an image to train on that is the same picture.

    Attributes
    ----------
    id, part : str
        The one, and what it is for: 'val' or 'test'.
    trained : str
        The other.
    labelled : bool
        Whether the other is trained on with its mask.
    pool : str
        Where the other comes from; '' where from the data set that is split.
    """

    id: str
    part: str
    trained: str
    labelled: bool
    pool: str = ""


def near_copies(data: RunData, track: Track = no_progress) -> list[NearCopy]:
    """Return the near copies of a run's validation and test images among all images that it trains on.

    Memory: 2 KB an image, whatever its size. The first search in a data set or pool reads all its prepared images.

    Parameters
    ----------
    data : RunData
    track : Track
        Shows progress where images are read.
    """
    part_of = dict(zip(data.split["id"], data.split["split"], strict=True))
    own = np.array([part_of.get(id, "") for id in data.prepared.ids])
    held_out, trained = np.flatnonzero((own == "val") | (own == "test")), np.flatnonzero(own == "train")
    parts = [("", data.prepared, held_out), ("", data.prepared, trained), *data.extra]
    waves = np.concatenate([_waves(images, track)[rows] for _, images, rows in parts])
    places = [(name, images, row) for name, images, rows in parts for row in rows.tolist()]

    def detail(index: int) -> NDArray[np.uint8]:
        _, images, row = places[index]
        return detail_of(images.images[row])

    labelled = set(data.training.labelled.ids)
    found = []
    for i, j, _ in near_pairs(waves, detail, first=len(held_out)):
        id = data.prepared.ids[places[i][2]]
        name, images, row = places[j]
        other = images.ids[row]
        found.append(NearCopy(id, part_of[id], other, not name and other in labelled, name))
    return found


def warning(found: Sequence[NearCopy], dataset: str, pools: Sequence[str], card: Card | None = None) -> str:
    """Return in words how many near copies there are, of which kind, and what to do about them.

    Parameters
    ----------
    found : sequence of NearCopy
    dataset : str
        As it was named.
    pools : sequence of str
    card : Card, optional
        Of the data set; pictures where None.
    """
    held_out = Counter(part for _, part in {(copy.id, copy.part) for copy in found})
    trained = Counter(copy.labelled for copy in {(copy.pool, copy.trained): copy for copy in found}.values())
    named = [f"{copy.id} ({copy.part}) and {'/'.join(filter(None, (copy.pool, copy.trained)))}" for copy in found]
    pairs = ", ".join(named[:_SHOWN]) + (", ..." if len(found) > _SHOWN else "")
    look, cures = f"qgbench data verify {' '.join([dataset, *pools])}", []
    if not all(copy.pool for copy in found):
        of_volumes = card is not None and card.volumes is not None  # these lie as their owner laid them out
        remedy = f"add NEW --from {dataset}" if of_volumes or keeps_groups(dataset) else f"prepare {dataset}"
        if card is not None and card.voxels:
            remedy += " --voxels"
        look += " --write-groups groups.csv"
        cures.append(f"'qgbench data {remedy} --groups groups.csv' then keeps copies in one part")
    if places := sorted({copy.pool for copy in found} - {""}):
        cures.append(f"remove copies from {' and '.join(places)}")
    return (
        f"the same pictures are trained on (labelled: {trained[True]}, unlabelled: {trained[False]}) and "
        f"measured on (val: {held_out['val']}, test: {held_out['test']}): {pairs}. Such scores say little about new "
        f"images. '{look}' lists all; {'; '.join(cures)}."
    )


def _waves_of_image(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    return waves_of(detail_of(image))


def _waves(images: Prepared, track: Track) -> NDArray[np.float32]:
    """Return what is compared of every prepared image, from the cache where it is there: (N, 16, 16)."""
    file = default_cache_dir() / _FOLDER / f"{images.fingerprint}.npy"
    count = len(images.ids)
    with suppress(OSError, ValueError, EOFError):
        waves: NDArray[np.float32] = np.load(file)
        if waves.shape == (count, 16, 16):
            return waves
    with ThreadPoolExecutor(usable_cores()) as pool:
        waves = np.stack(
            list(track(pool.map(_waves_of_image, images.images), f"Comparing {images.noun}s", count, f"{images.noun}s"))
        )
    with suppress(QGBenchError):  # it costs time only
        content = BytesIO()
        np.save(content, waves)
        write_atomically(file, content.getvalue())
    return waves
