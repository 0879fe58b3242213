"""A split to be looked at: numbers, groups and lesion areas of its parts, and the labelled draws of a budget."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from qgbench.base.errors import UserError
from qgbench.base.files import write_atomically
from qgbench.base.progress import Track, no_progress
from qgbench.data.acquire.given import read_given
from qgbench.data.cache import prepare
from qgbench.data.readers import open_source
from qgbench.data.splits import (
    PARTS,
    Fractions,
    SplitKind,
    classes_shown,
    draw_budget,
    lesion_areas,
    load_split,
    split_fingerprint,
    split_source,
)
from qgbench.data.units import volume_of
from qgbench.spec.regime import Regime

_SIZE = 96  # pixels; areas are those of the originals, whatever it is


@dataclass(frozen=True, eq=False)
class ShownSplit:
    """A split with what is known of its images.

    Attributes
    ----------
    name : str
        The data set.
    table : DataFrame
        Columns id, group, split, and labelled_k for each draw k: 'yes' or ''; sorted by id.
    areas : DataFrame
        Each class's share of each image, 0 to 1: a row for each id, a column for each class.
    of_volumes : bool
        Whether images are slices of volumes, and groups patients.
    """

    name: str
    table: pd.DataFrame
    areas: pd.DataFrame
    of_volumes: bool = False


def split_of(
    name: str,
    data_dir: Path | None,
    kind: SplitKind,
    fractions: Fractions,
    seed: int,
    split_from: Sequence[Path] = (),
    budget: str | None = None,
    draws: int = 5,
    track: Track = no_progress,
) -> ShownSplit:
    """Return a split, drawn or read.

    Parameters
    ----------
    name : str
        Labelled data set: a name or a folder.
    data_dir : Path or None
    kind : {'grouped', 'image'}
    fractions : (train, val, test)
    seed : int
        0: the split that runs use, which is the committed one where there is one.
    split_from : sequence of Path
        Files of a published split, which is taken instead.
    budget : str, optional
        Labelled images, as in a regime: ``n28``, ``p10``, ``all``.
    draws : int
        Number of labelled draws, from k = 0.
    track : Track

    Raises
    ------
    UserError
        What opening, splitting, drawing and reading raise.
    """
    source = open_source(name, data_dir)
    given = read_given(split_from, source) if split_from else None
    if given is not None and given.labelled is not None and budget is not None:
        raise UserError("the published split names its labelled images; leave --labelled out.")
    regime = None if budget is None else Regime.parse(budget)
    if regime is not None and source.volumes:
        regime = regime.of_volumes()
    if regime is not None:
        regime.require_unit(source.name, bool(source.volumes))
    prepared = prepare(source, _SIZE, track=track)
    areas = lesion_areas(prepared)
    if given is not None:
        table = given.table
    elif seed == 0:
        table = load_split(source, kind, fractions, prepared)
    else:
        table = split_source(source, kind, fractions, seed, areas)
    if given is not None and given.labelled is not None:
        table = table.assign(labelled_0=_marks(table, given.labelled))
    elif regime is not None:
        train = table.loc[table["split"] == "train"]
        shown = classes_shown(prepared)
        columns = {f"labelled_{k}": _marks(table, draw_budget(train, regime, name, k, shown)) for k in range(draws)}
        table = table.assign(**columns)
    shares = pd.DataFrame(areas, index=source.ids, columns=source.classes)
    return ShownSplit(source.name, table, shares, bool(source.volumes))


def _marks(table: pd.DataFrame, labelled: Sequence[str]) -> "pd.Series[str]":
    return table["id"].isin(labelled).map({True: "yes", False: ""})


def print_split(shown: ShownSplit, console: Console) -> None:
    """Print a line for each part, and one for each labelled draw; of several classes one for each class."""
    classes = list(shown.areas.columns)
    several = len(classes) > 1
    counted: dict[str, Callable[[str], str]] = {"images": str}
    if shown.of_volumes:
        counted = {"volumes": volume_of, "slices": str}
    groups = "patients" if shown.of_volumes else "groups"
    size = ", ".join(f"{shown.table['id'].map(unit).nunique()} {noun}" for noun, unit in counted.items())
    grid = Table(box=None, pad_edge=False, title=f"{shown.name}, {size}", title_justify="left")
    area = ["class", "area: mean"] if several else ["lesion area: mean"]
    headings = ["part", *counted, groups, *area, "smallest", "median", "largest"]
    for heading in headings:
        grid.add_column(heading, justify="left" if heading in ("part", "class") else "right")
    rows = {part: shown.table["split"] == part for part in PARTS}
    draws = [column for column in shown.table.columns if column.startswith("labelled_")]
    rows |= {f"labelled, draw {column.removeprefix('labelled_')}": shown.table[column] == "yes" for column in draws}
    for name, chosen in rows.items():
        part = shown.table.loc[chosen]
        for place, each in enumerate(classes):
            areas = shown.areas.loc[part["id"], each]
            numbers = (areas.mean(), areas.min(), areas.median(), areas.max())
            numbers_of = [*(part["id"].map(unit).nunique() for unit in counted.values()), part["group"].nunique()]
            counts = [name, *map(str, numbers_of)] if place == 0 else [""] * (1 + len(numbers_of))
            named = (each,) if several else ()
            grid.add_row(*counts, *named, *(f"{100 * area:.1f} %" for area in numbers))
    console.print(grid)
    crossing = int((shown.table.groupby("group")["split"].nunique() > 1).sum())
    console.print(f"{groups} in several parts: {crossing}", highlight=False)
    console.print(f"fingerprint: {split_fingerprint(shown.table)}", highlight=False, soft_wrap=True)


def write_split(shown: ShownSplit, file: Path) -> None:
    """Write the table as CSV, which ``--split-from`` reads.

    Raises
    ------
    QGBenchError
        The file cannot be written.
    """
    write_atomically(file, shown.table.to_csv(index=False, lineterminator="\n").encode())
