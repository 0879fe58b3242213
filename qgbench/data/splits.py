"""Who is trained on, who is validated on, who is tested on; and which training images have labels under seed index k.

Two kinds of split: ``grouped`` (no patient, lesion or video crosses) and ``image`` (images at random, as papers do).
The splits of shipped data sets are committed as ``datasets/<name>/splits/<kind>-<train>-<val>-<test>.csv``, in
percentages, and are written anew, for the images that QGBENCH_DATA points at, by the command below. Those of volumes
list a volume a row with its number of slices; a patient is a group, and there is no kind ``image``::

    python -m qgbench.data.splits NAME...
"""

import hashlib
import math
import sys
from collections.abc import Collection, Mapping, Sequence
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from qgbench.base.errors import UserError
from qgbench.base.files import write_atomically
from qgbench.base.paths import base_name, is_path
from qgbench.base.text import read_table
from qgbench.data.cache import Prepared, prepare
from qgbench.data.cards import card_folder, card_names
from qgbench.data.readers import Source, name_some, open_source
from qgbench.data.volumes import slice_id
from qgbench.spec.regime import Regime, SplitKind

Fractions = tuple[float, float, float]
PARTS = ("train", "val", "test")
COLUMNS = ["id", "group", "split"]
_OF_VOLUMES = ["volume", "group", "split", "slices"]
HALF_TEST: Fractions = (0.4, 0.1, 0.5)
PAPER: Fractions = (0.7, 0.1, 0.2)

LEAST_PATIENTS = 5  # of volumes
_LEAST_IMAGES = 2  # in each part
_SHUFFLES = 1024
_WEIGHT_OF_NUMBERS = 4  # beside the balance of areas
_MEDIAN_DISTANCE = 0.8276  # median of the limiting distribution of sqrt(n) times the distance of n drawn from the whole


def make_split(
    ids: Sequence[str],
    groups: Sequence[str],
    kind: SplitKind,
    fractions: Fractions = HALF_TEST,
    seed: int = 0,
    areas: ArrayLike | None = None,
    of_volumes: bool = False,
) -> pd.DataFrame:
    """Return a random split of a data set, balanced in numbers of images and in lesion area.

    The units that are dealt out are groups or, for the kind ``image``, images. Their numbers follow the fractions (by
    largest remainder; at least 2 in each part, but 1 will do for validation where groups hold several images). Of 1024
    shuffles of the units the first is taken that gives every part 2 images and has the least miss: summed over the
    parts, 4 times how far its share of images is from the fraction, and how far its lesion areas are from those of the
    whole (Kolmogorov's distance), beyond what half of all random samples of its size reach. Of several classes it is
    the mean over those that an image shows.

    Of several classes, and of volumes, whose parts are few patients, shuffles that leave fewest classes out of a part
    go before all others, and among these those that leave fewest out of training: else the few patients of a part may
    be those that show nothing.

    Parameters
    ----------
    ids, groups : sequence of str, (N,)
        Images and the group of each. Their order does not matter.
    kind : {'grouped', 'image'}
    fractions : (train, val, test)
        Whole percentages that add up to 1.
    seed : int
    areas : (N,) or (N, K) float, optional
        Share of each image that is lesion, or each of K classes, 0 to 1; numbers of images alone count where it is
        None.
    of_volumes : bool
        Whether the images are slices of volumes.

    Returns
    -------
    DataFrame
        Columns id, group, split ('train', 'val' or 'test'); sorted by id.

    Raises
    ------
    UserError
        Fewer than 6 images or 5 groups, an unknown kind, or fractions that are not whole positive percentages adding up
        to 1.
    """
    if kind not in get_args(SplitKind):
        raise UserError(f"unknown split kind '{kind}'; expected one of: {', '.join(get_args(SplitKind))}.")
    percents = _percents(fractions)
    by_id = np.argsort(np.array(ids, dtype=str), kind="stable")
    table = pd.DataFrame({"id": list(ids), "group": list(groups)}).iloc[by_id].reset_index(drop=True)
    by_class = np.zeros((1, len(ids))) if areas is None else np.atleast_2d(np.asarray(areas, dtype=float).T)[:, by_id]
    units = table["group"] if kind == "grouped" else table["id"]
    names, unit_of_row, unit_sizes = np.unique(units.to_numpy(dtype=str), return_inverse=True, return_counts=True)
    least = np.array([2, 1 if len(names) < len(table) else 2, 2])
    if len(names) < least.sum():
        raise _too_few(kind, len(names), len(table), least)
    shown = by_class[by_class.any(axis=1)]
    by_class = shown if len(shown) else by_class[:1]
    shows = np.zeros((len(names), len(by_class)), dtype=bool)  # which unit shows which class
    if of_volumes or len(by_class) > 1:
        np.logical_or.at(shows, unit_of_row, by_class.T > 0)
    part_of_place = np.repeat(np.arange(3), _deal(len(names), percents, least))
    by_area = [np.argsort(area, kind="stable") for area in by_class]
    last_of_area = [np.append(np.diff(area[order]) > 0, True) for area, order in zip(by_class, by_area, strict=True)]
    stream = _stream("split", kind, str(seed))
    best, least_miss = part_of_place, (math.inf,) * 4
    for _ in range(_SHUFFLES):
        part_of_unit = part_of_place[_permutation(stream, len(names))]
        images = np.bincount(part_of_unit, weights=unit_sizes, minlength=3)
        distances = [
            _distance_of_areas(part_of_unit[unit_of_row][order], images, last)
            for order, last in zip(by_area, last_of_area, strict=True)
        ]
        distance = np.mean(distances, axis=0)
        off = _WEIGHT_OF_NUMBERS * np.abs(images / len(table) - percents / 100).sum() + distance.sum()
        shown_by = [shows[part_of_unit == part].any(axis=0) for part in range(3)]
        lacking = [int((shows.any(axis=0) & ~by_part).sum()) for by_part in shown_by]
        few = int((images < _LEAST_IMAGES).sum())
        miss = (few, sum(lacking), lacking[0], round(float(off), 9))  # rounded: ties are ties on every machine
        if miss < least_miss:
            best, least_miss = part_of_unit, miss
    return table[["id", "group"]].assign(split=np.array(PARTS)[best[unit_of_row]])


def _distance_of_areas(part_of_image: np.ndarray, images: np.ndarray, last_of_area: np.ndarray) -> np.ndarray:
    """Return Kolmogorov's distance of each part's areas from the whole's, beyond the median of random samples: (3,).

    Images are in the order of their areas; `last_of_area` marks the last one of those with equal areas.
    """
    whole = np.arange(1, len(part_of_image) + 1) / len(part_of_image)
    below = np.cumsum(part_of_image == np.arange(3)[:, None], axis=1) / np.maximum(images, 1)[:, None]
    distance = np.abs(below - whole)[:, last_of_area].max(axis=1)
    return np.maximum(distance - _MEDIAN_DISTANCE / np.sqrt(np.maximum(images, 1)), 0.0)


def lesion_areas(prepared: Prepared) -> NDArray[np.float64]:
    """Return each class's share of each image of a labelled data set, at its original size: (N, K), 0 to 1."""
    rows = range(len(prepared.ids))
    return np.array([shares(prepared.original_mask(row), len(prepared.classes)) for row in rows])


def shares(mask: NDArray[Any], classes: int) -> NDArray[np.float64]:
    """Return the share of a mask's pixels that each of K classes has: (K,), 0 to 1.

    Parameters
    ----------
    mask : (H, W) bool or uint8
        Of one class, or a label map.
    classes : int
        K.
    """
    return np.array([np.count_nonzero(mask == label) / mask.size for label in range(1, classes + 1)])


def load_split(
    dataset: Source | str,
    kind: SplitKind = "grouped",
    fractions: Fractions = HALF_TEST,
    prepared: Prepared | None = None,
) -> pd.DataFrame:
    """Return the split of a data set: the committed one where there is one, else a random one.

    Parameters
    ----------
    dataset : Source or str
        Images to be split; or the name of a shipped data set, whose committed split is returned as it is.
    kind : {'grouped', 'image'}
    fractions : (train, val, test)
    prepared : Prepared, optional
        The same images; where they are given, a random split is balanced in the areas of their classes.

    Returns
    -------
    DataFrame
        As `make_split`.

    Raises
    ------
    UserError
        The committed split lists other images or groups than the source has; a name without a committed split; or what
        `make_split` raises.
    """
    name = dataset if isinstance(dataset, str) else dataset.name
    file = f"{split_name(kind, fractions)}.csv"
    committed = _committed(name).joinpath(file) if _has_committed_split(name) else None
    if committed is None or not committed.is_file():
        if isinstance(dataset, str):
            raise UserError(f"no split {file} is committed for '{name}'; open its images and split those.")
        areas = None if prepared is None else lesion_areas(prepared)
        return split_source(dataset, kind, fractions, areas=areas)
    split = _read_committed(committed)
    if isinstance(dataset, Source):
        _check_same_images(split, dataset)
    return split


def split_source(
    source: Source, kind: SplitKind, fractions: Fractions, seed: int = 0, areas: ArrayLike | None = None
) -> pd.DataFrame:
    """Return a random split of a source, as `make_split`; raises UserError besides where it would part volumes."""
    if source.volumes and kind == "image":
        raise UserError(
            f"'{source.name}' is volumes: slices of one would be trained and tested on; give --split grouped."
        )
    if source.volumes and (patients := len(set(source.groups))) < LEAST_PATIENTS:
        raise UserError(
            f"'{source.name}' has {patients} patient{'s' if patients != 1 else ''}; a split needs {LEAST_PATIENTS} or "
            "more (2 to train on, 1 to validate on, 2 to test on): add patients."
        )
    return make_split(source.ids, source.groups, kind, fractions, seed, areas, bool(source.volumes))


def keeps_groups(dataset: str) -> bool:
    """Return whether other groups need another data set: the split is committed, or the folder named by its path."""
    return is_path(dataset) or _has_committed_split(dataset)


def _has_committed_split(name: str) -> bool:
    return name in card_names() and _committed(name).is_dir()


def _committed(name: str) -> Traversable:
    return card_folder(name).joinpath("splits")


def split_name(kind: SplitKind, fractions: Fractions) -> str:
    """Return a split's name, after its kind and its percentages: ``grouped-40-10-50``."""
    return "-".join([kind, *(str(percent) for percent in _percents(fractions))])


def draw_labelled(
    train: pd.DataFrame, budget: int, dataset: str, k: int, shown: Mapping[str, Collection[str]] | None = None
) -> list[str]:
    """Return the labelled images of a data set at seed index k.

    Groups are shuffled, then the images of each; one image is taken from each group in turn until the budget is full.
    So the draw of a smaller budget is the beginning of the draw of a larger one.

    Of several classes, each that a training image shows is shown by a labelled image if the budget has as many images
    as there are classes: the images that are the first to show a class, in that order, come before all others. So which
    images are drawn changes only where some class would be missing.

    Parameters
    ----------
    train : DataFrame
        Training rows, with the columns id and group. Their order does not matter.
    budget : int
        Number of labelled images, at least 1.
    dataset : str
        As in `qgbench.data.readers.open_source`: two data sets are drawn from independently.
    k : int
        Seed index.
    shown : mapping of str to collection of str, optional
        The classes that each image shows (`classes_shown`); None for one class, which most images show.

    Returns
    -------
    list of str
        Ids in the order of the draw.

    Raises
    ------
    UserError
        The budget is below 1 or above the number of training images.
    """
    if not 1 <= budget <= len(train):
        raise UserError(
            f"the labelled budget is {budget}; expected 1 to {len(train)}, the number of training images (--labelled "
            "all takes every one)."
        )
    stream = _stream("labelled", base_name(dataset), str(k))
    members = {str(group): sorted(rows["id"]) for group, rows in train.groupby("group")}
    order = [sorted(members)[i] for i in _permutation(stream, len(members))]
    queues = [[members[group][i] for i in _permutation(stream, len(members[group]))] for group in order]
    turns = max(map(len, queues))
    drawn = [queue[turn] for turn in range(turns) for queue in queues if turn < len(queue)]
    return (drawn if shown is None else _first_that_show(drawn, shown))[:budget]


def _first_that_show(drawn: list[str], shown: Mapping[str, Collection[str]]) -> list[str]:
    """Return a draw with those before all others that show a class which none before them shows."""
    met: set[str] = set()
    first = []
    for name in drawn:
        if not met.issuperset(shown[name]):
            first.append(name)
            met.update(shown[name])
    return first + [name for name in drawn if name not in first]


def draw_patients(
    train: pd.DataFrame, budget: int, dataset: str, k: int, shown: Mapping[str, Collection[str]] | None = None
) -> list[str]:
    """Return all slices of the labelled patients of a data set of volumes at seed index k.

    Of several classes, those patients come first that are the first to show one, as images do in `draw_labelled`.

    Parameters
    ----------
    train : DataFrame
        Training rows, with the columns id and group (patient). Their order does not matter.
    budget : int
        Number of patients, at least 1.
    dataset, k, shown
        As `draw_labelled`; a smaller draw is the beginning of a larger one.

    Returns
    -------
    list of str
        Ids, sorted by patient in the order of the draw.

    Raises
    ------
    UserError
        The budget is below 1 or above the number of patients.
    """
    members = {str(group): sorted(rows["id"]) for group, rows in train.groupby("group")}
    if not 1 <= budget <= len(members):
        raise UserError(
            f"the labelled budget is {budget} patients; expected 1 to {len(members)}, the number of patients to train "
            "on (--labelled all takes every one)."
        )
    order = _permutation(_stream("labelled", base_name(dataset), str(k)), len(members))
    drawn = [sorted(members)[i] for i in order]
    if shown is not None:
        drawn = _first_that_show(
            drawn, {name: set().union(*(shown[id] for id in ids)) for name, ids in members.items()}
        )
    return [id for patient in drawn[:budget] for id in members[patient]]


def draw_budget(
    train: pd.DataFrame, regime: Regime, dataset: str, k: int, shown: Mapping[str, Collection[str]] | None = None
) -> list[str]:
    """Return the labelled images of a regime at seed index k, by `draw_patients` or else by `draw_labelled`."""
    if regime.patients:
        assert regime.budget is not None, "patients are counted by a budget"
        return draw_patients(train, regime.budget, dataset, k, shown)
    return draw_labelled(train, regime.labelled(len(train)), dataset, k, shown)


def classes_shown(prepared: Prepared) -> dict[str, set[str]] | None:
    """Return the classes that each image's mask shows at its original size, by id; None where there is one class."""
    if len(prepared.classes) == 1:
        return None
    names = np.array(prepared.classes)
    return {id: set(names[areas > 0]) for id, areas in zip(prepared.ids, lesion_areas(prepared), strict=True)}


def draw_pool(ids: Sequence[str], pool: str, number: int, dataset: str, k: int) -> list[str]:
    """Return unlabelled images from a pool, for a data set at seed index k; a smaller draw is part of a larger one.

    Parameters
    ----------
    ids : sequence of str
        Images of the pool. Their order does not matter.
    pool : str
        Its name: two pools are drawn from independently.
    number : int
        At least 1.
    dataset : str
        As in `draw_labelled`: two data sets draw from a pool independently.
    k : int
        Seed index.

    Returns
    -------
    list of str
        As `draw_labelled`.

    Raises
    ------
    UserError
        The pool has fewer images.
    """
    if number > len(ids):
        raise UserError(f"{number} images are to be drawn from the pool '{pool}', which has {len(ids)}; take fewer.")
    order = _permutation(_stream("pool", pool, base_name(dataset), str(k)), len(ids))
    by_id = sorted(ids)
    return [by_id[i] for i in order[:number]]


def split_fingerprint(split: pd.DataFrame) -> str:
    """Return the SHA-256 (64 hexadecimal digits) of the rows id, group, split, whatever their order."""
    rows = sorted(map(tuple, split[COLUMNS].astype(str).to_numpy()))
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def write_committed_split(source: Source, folder: Path) -> list[Path]:
    """Write both kinds of split of a source, under both fractions, as CSV into a folder; return the files.

    Of volumes, the kind 'grouped' alone.
    """
    files = []
    areas = lesion_areas(prepare(source, 96))
    kinds: tuple[SplitKind, ...] = ("grouped",) if source.volumes else get_args(SplitKind)
    for kind in kinds:
        for fractions in (HALF_TEST, PAPER):
            file = folder / f"{split_name(kind, fractions)}.csv"
            split = split_source(source, kind, fractions, areas=areas)
            if source.volumes:
                split["volume"] = [source.volumes[id].volume for id in split["id"]]
                split = split.groupby(_OF_VOLUMES[:3], as_index=False).agg(slices=("id", "count"))
            write_atomically(file, split.to_csv(index=False, lineterminator="\n").encode())
            files.append(file)
    return files


def _read_committed(file: Traversable) -> pd.DataFrame:
    """Return a committed split, a row for each image; the slices of volumes are numbered."""
    table = read_table(file, [*COLUMNS, *_OF_VOLUMES]).reset_index(drop=True)
    if "volume" not in table.columns:
        return table
    rows = [
        (slice_id(volume, z), group, part)
        for volume, group, part, slices in table[_OF_VOLUMES].itertuples(index=False)
        for z in range(int(slices))
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _percents(fractions: Fractions) -> np.ndarray:
    percents = np.rint(100 * np.array(fractions)).astype(int)
    if not (percents.shape == (3,) and percents.sum() == 100 and (percents > 0).all()):
        raise UserError(f"the fractions are {fractions}; expected three positive whole percentages that add up to 1.")
    return percents


def _too_few(kind: SplitKind, units: int, images: int, least: np.ndarray) -> UserError:
    noun, given = "images", f"{images} image{'s' if images != 1 else ''}"
    if units < images:
        noun, given = "groups", f"{units} group{'s' if units != 1 else ''} of {images} images together"
    article = "an" if kind == "image" else "a"
    remedy = f"add {noun}"
    if noun == "groups" and images >= 3 * _LEAST_IMAGES:
        remedy += ", or give --split image (a group then has images in several parts)"
    return UserError(
        f"the data set has {given}; {article} {kind} split needs {least.sum()} {noun} or more ({least[0]} to train on, "
        f"{least[1]} to validate on, {least[2]} to test on): {remedy}."
    )


def _deal(count: int, percents: np.ndarray, least: np.ndarray) -> np.ndarray:
    """Return numbers of units (train, val, test) by largest remainder; test wins a tie, then validation."""
    numbers, remainders = np.divmod(count * percents, 100)
    by_need = np.argsort(-remainders[::-1], kind="stable")
    numbers[::-1][by_need[: count - numbers.sum()]] += 1
    while (short := numbers < least).any():
        numbers[short.argmax()] += 1
        numbers[(numbers - least).argmax()] -= 1
    return numbers


def _stream(*words: str) -> np.random.PCG64:
    digest = hashlib.sha256("/".join(words).encode()).digest()
    return np.random.PCG64(int.from_bytes(digest[:16], "big"))


def _permutation(stream: np.random.PCG64, count: int) -> np.ndarray:
    # numpy promises that raw numbers stay the same from version to version; it does not promise it of shuffles.
    return np.argsort(stream.random_raw(count), kind="stable")


def _check_same_images(split: pd.DataFrame, source: Source) -> None:
    listed = dict(zip(split["id"], split["group"], strict=True))
    present = dict(zip(source.ids, source.groups, strict=True))
    faults = {
        "missing from your folder": sorted(set(listed) - set(present)),
        "not listed in the split": sorted(set(present) - set(listed)),
        "in another group than listed": sorted(id for id in set(listed) & set(present) if listed[id] != present[id]),
    }
    if found := [f"{name_some(ids, source.noun)} {fault}" for fault, ids in faults.items() if ids]:
        raise UserError(
            f"the committed split of '{source.name}' lists {len(listed)} {source.noun}s and yours are {len(present)}: "
            f"{'; '.join(found)}. Complete the folder, or open it by its path under another name to split it anew."
        )


if __name__ == "__main__":
    for dataset_name in sys.argv[1:]:
        target = Path(str(card_folder(dataset_name))) / "splits"
        for written in write_committed_split(open_source(dataset_name), target):
            print(written)
