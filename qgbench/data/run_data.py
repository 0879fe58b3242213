"""Everything that one run reads of its data set and pools, in accordance with its regime."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file
from pathlib import Path

import numpy as np
import pandas as pd

from qgbench.base.errors import QGBenchError, UserError
from qgbench.base.logs import logger
from qgbench.base.progress import Track, no_progress
from qgbench.data.acquire.given import GivenSplit, read_given
from qgbench.data.cache import Prepared, joint_fingerprint, prepare
from qgbench.data.cards import card_folder
from qgbench.data.experiment import Part, TrainingData, training_data, whole
from qgbench.data.readers import Source, name_some, open_pool, open_source
from qgbench.data.splits import Fractions, draw_pool, load_split
from qgbench.spec.regime import GIVEN, Regime
from qgbench.spec.task import Task


@dataclass(frozen=True)
class RunData:
    """The data of one run.

    Attributes
    ----------
    prepared : Prepared
        The labelled data set as arrays; `source` reads the same images from their files.
    split : DataFrame
        Columns id, group, split ('train', 'val' or 'test').
    training : TrainingData
        What may be seen before the end.
    extra : list of (str, Prepared, rows)
        What `training` has of images beside the split: those beside the data set, and those of pools, with their name.
    fingerprint : str
        SHA-256 over the arrays of data set and pools, 64 hexadecimal digits.
    """

    source: Source
    prepared: Prepared
    split: pd.DataFrame
    training: TrainingData
    extra: list[tuple[str, Prepared, np.ndarray]]
    fingerprint: str

    @property
    def task(self) -> Task:
        """The classes of the data set."""
        return Task(self.prepared.classes)


def open_run_data(
    dataset: str,
    regime: Regime,
    seed: int,
    size: int,
    fractions: Fractions,
    data_dir: Path | None = None,
    split_from: Sequence[Path] = (),
    track: Track = no_progress,
) -> RunData:
    """Open data set and pools, split the data set, and draw the labelled images of a seed index.

    Parameters
    ----------
    dataset : str
        As in `qgbench.data.readers.open_source`.
    regime : Regime
    seed : int
        Seed index k: of the labelled images and of the images drawn from a pool.
    size : int
        Side of the images in pixels.
    fractions : (train, val, test)
        Shares of a split by qgbench.
    data_dir : Path, optional
    split_from : sequence of Path
        Files of the split, where the regime's split is one that someone else made (`qgbench.data.acquire.given`); one
        that ships, as ``datasets/NAME/splits/given-*.csv``, needs none.
    track : Track

    Raises
    ------
    UserError
        What opening, splitting and drawing raise; the files are not those of the regime's split; a pool holds images
        that are to validate or test on; the budget counts images of volumes, or patients of pictures.
    """
    source = open_source(dataset, data_dir)
    regime.require_unit(source.name, bool(source.volumes))
    pools = [open_pool(name, data_dir) for name in regime.pool_names]
    given = _given(regime, split_from, source, pools)
    chosen = [_drawn(pool, given, draw, dataset, seed) for pool, draw in zip(pools, regime.pool_draws, strict=True)]
    prepared = prepare(source, size, track=track)
    split = load_split(source, regime.split_kind, fractions, prepared) if given is None else given.table
    parts = [] if source.extra is None else [whole(prepare(source.extra, size, track=track))]
    for pool, ids in zip(pools, chosen, strict=True):
        images = prepare(pool, size, track=track)
        row_of = {id: row for row, id in enumerate(images.ids)}
        parts.append((images, np.array([row_of[id] for id in ids])))
    _refuse_leaks(prepared, split, parts, [pool.name for pool in pools])
    labelled = None if given is None else given.labelled
    names = [one.name for one in (source.extra, *pools) if one is not None]
    return RunData(
        source=source,
        prepared=prepared,
        split=split,
        training=training_data(prepared, parts, split, regime, dataset, seed, labelled),
        extra=[(name, images, rows) for name, (images, rows) in zip(names, parts, strict=True)],
        fingerprint=joint_fingerprint([prepared, *(images for images, _ in parts)]),
    )


@contextmanager
def said_if(*causes: type[QGBenchError]) -> Iterator[None]:
    """Say, where the block raises one of these errors, that the data were not looked at; nothing of it is raised."""
    try:
        yield
    except causes as error:
        logger.warning("the data were not looked at, so nothing was compared with them: %s", error)


def _drawn(pool: Source, given: GivenSplit | None, draw: int | None, dataset: str, seed: int) -> list[str]:
    """Return the images of a pool that a run uses."""
    ids = pool.ids if given is None or given.pool is None else sorted(set(pool.ids) & set(given.pool))
    return ids if draw is None else draw_pool(ids, pool.name, draw, dataset, seed)


def _given(regime: Regime, split_from: Sequence[Path], source: Source, pools: Sequence[Source]) -> GivenSplit | None:
    if not regime.split.startswith(GIVEN):
        if split_from:
            raise UserError(f"--split-from gives a split, and the regime '{regime}' names another; give one of them.")
        return None
    with as_file(card_folder(source.name).joinpath("splits", f"{regime.split}.csv")) as shipped:
        if not split_from and not shipped.is_file():
            raise UserError(f"the regime '{regime}' has a split from files; name them with --split-from.")
        given = read_given(split_from or [shipped], source, pools)
    if given.kind != regime.split:
        raise UserError(
            f"the files of --split-from are the split '{given.kind}', and the regime is '{regime}': they, or the "
            "images, are not those of that run. Give its files, or leave the split out of --regime."
        )
    return given


def _refuse_leaks(prepared: Prepared, split: pd.DataFrame, parts: Sequence[Part], names: Sequence[str]) -> None:
    """Refuse unlabelled images that are, pixel by pixel, images to validate or to test on."""
    row_of = {id: row for row, id in enumerate(prepared.ids)}
    middle = prepared.images.shape[1] // 2
    held_out: dict[bytes, list[int]] = {}  # by the pixels of the middle row; whole images are compared where it agrees
    for id in split.loc[split["split"] != "train", "id"]:
        held_out.setdefault(prepared.images[row_of[id], middle].tobytes(), []).append(row_of[id])
    for images, rows in parts:
        leaked = sorted(
            images.ids[row]
            for row in rows
            for other in held_out.get(images.images[row, middle].tobytes(), [])
            if np.array_equal(images.images[row], prepared.images[other])
        )
        if leaked:
            noun = prepared.noun
            raise UserError(
                f"of the unlabelled {noun}s, {name_some(leaked, noun)} are {noun}s to validate or test on: remove "
                f"them from the pool ({', '.join(names) or 'unlabelled/'}). qgbench data verify names the pairs."
            )
