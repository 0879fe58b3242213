"""What a claim needs: images, groups and seeds for a gain, and the least gain that a contrast could have shown."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from qgbench.base.files import write_atomically
from qgbench.base.logs import logger
from qgbench.report.analysis import Analysis
from qgbench.report.figures import render
from qgbench.report.figures.style import COLORS, FONT_SIZE, GREY, WIDTH, blank, fitted
from qgbench.report.picture_guard import guarded
from qgbench.stats.crossed import MIN_GROUPS
from qgbench.stats.power import Components, components, groups_needed, least_gain, power

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_GROUPS = 5000
_CURVE_GAINS = np.linspace(0.0025, 0.06, 24)  # in Dice
_TARGET = 0.8
_DASHES = ("-", "--", "-.", ":", (0, (1, 1)))
_MOST_DRAWN = 12  # cases
_PARTS = ("group", "seed", "residual")


@dataclass(frozen=True)
class Case:
    """Differences of a kind whose spread is known.

    Attributes
    ----------
    name : str
        The contrast and its setting, or 'stated'.
    spread : Components
        In Dice.
    groups, seeds : int or None
        What was run; None where the spread was only stated.
    images_per_group : float
        Test images in a group, on average; more groups are taken to be as large.
    """

    name: str
    spread: Components
    groups: int | None
    seeds: int | None
    images_per_group: float


def cases_of(analysis: Analysis) -> tuple[list[Case], list[str]]:
    """Return the spread of every contrast's differences; and of which it is not known, and why."""
    cases, unknown = [], []
    for section in analysis.sections:
        for contrast in section.contrasts:
            if contrast.difference is None:
                continue
            where = f"{contrast.name} : {contrast.reference}, {section.setting.dataset} {section.setting.regime}"
            where += ", mean over classes" if section.over_classes else ""
            groups, seeds = contrast.difference.table.shape
            if groups < 2 or seeds < 2:
                unknown.append(f"{where}: {groups} test groups x {seeds} seeds do not tell its spreads apart")
            else:
                size = contrast.difference.images / groups
                cases.append(Case(where, components(contrast.difference.table), groups, seeds, size))
    return cases, unknown


def power_rows(cases: Sequence[Case], gains: Sequence[float], seeds: Sequence[int]) -> pd.DataFrame:
    """Return what each gain needs.

    Parameters
    ----------
    cases : sequence of Case
    gains : sequence of float
        In Dice.
    seeds : sequence of int
        Numbers of seeds, each 2 or more.

    Returns
    -------
    DataFrame
        A row for each case, gain and number of seeds: name, sd_group, sd_seed, sd_residual (in Dice), run_groups,
        run_seeds, least_gain (that the contrast as run would have shown with a probability of 0.8), power (of the
        contrast as run to show this gain), gain, seeds, groups_needed (for a power of 0.8; empty where no number up to
        5000 is enough, because the seeds are too few), images_needed (in so many groups of the size that they have).
    """
    return pd.DataFrame([row for case in cases for row in _rows(case, gains, seeds)])


def _rows(case: Case, gains: Sequence[float], seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
    run = None if case.groups is None or case.seeds is None else (case.groups, case.seeds)
    if run is not None and run[0] < MIN_GROUPS:
        run = None  # its p is withheld
    spreads = {f"sd_{part}": getattr(case.spread, f"sd_{part}") for part in _PARTS}
    least = None if run is None else least_gain(*run, case.spread, _TARGET)
    for gain in gains:
        shown = None if run is None else power(gain, *run, case.spread)
        for count in seeds:
            needed = groups_needed(gain, count, case.spread, _TARGET, _MOST_GROUPS)
            yield {
                "name": case.name,
                **spreads,
                "run_groups": case.groups,
                "run_seeds": case.seeds,
                "least_gain": least,
                "gain": gain,
                "power": shown,
                "seeds": count,
                "groups_needed": needed,
                "images_needed": None if needed is None else math.ceil(needed * case.images_per_group),
            }


def print_power(table: pd.DataFrame, console: Console) -> None:
    """Print the rows of `power_rows`, in Dice points, a block for each case."""
    for name, rows in table.groupby("name", sort=False):
        first = rows.iloc[0]
        spreads = ", ".join(f"{100 * first[f'sd_{part}']:.2f} ({part})" for part in _PARTS)
        console.print(str(name), style="bold", markup=False, soft_wrap=True)
        console.print(f"  standard deviations of the difference, in points: {spreads}", highlight=False, soft_wrap=True)
        if pd.notna(first["run_groups"]):
            run = f"  as run: {int(first['run_groups'])} test groups, {int(first['run_seeds'])} seeds"
            if pd.notna(first["least_gain"]):
                run += f"; it would have shown a gain of {100 * first['least_gain']:.2f} points in 8 of 10 cases"
            else:
                run += f"; p is withheld below {MIN_GROUPS} test groups"
            console.print(run, highlight=False, soft_wrap=True)
        grid = Table(box=None, pad_edge=False)
        counts = list(dict.fromkeys(rows["seeds"]))
        has_power = rows["power"].notna().any()
        headings = ["gain (points)", *(["shown as run"] if has_power else []), *(f"{n} seeds" for n in counts)]
        for heading in headings:
            grid.add_column(heading, justify="right")
        for gain, alike in rows.groupby("gain", sort=False):
            needed = [
                f"> {_MOST_GROUPS}" if pd.isna(groups) else f"{int(groups)} ({int(images)})"
                for groups, images in zip(alike["groups_needed"], alike["images_needed"], strict=True)
            ]
            shown = [f"{alike['power'].iloc[0]:.2f}"] if has_power else []
            grid.add_row(f"{100 * float(str(gain)):.2f}", *shown, *needed)
        console.print(grid)
    console.print(
        "by number of seeds: test groups (and test images or volumes, in groups of the size that they have) that a "
        "gain needs for p < 0.05 in 8 of 10 cases. Spreads from few seeds are rough.",
        highlight=False,
        soft_wrap=True,
        style="dim",
    )


def draw_power(cases: Sequence[Case], groups: Sequence[int], seeds: Sequence[int], output: Path) -> list[Path]:
    """Draw the probability of showing a gain: a panel for each number of groups, a curve for each number of seeds.

    Parameters
    ----------
    cases : sequence of Case
        Of more than twelve the first are drawn, and a warning says so.
    groups, seeds : sequence of int
    output : Path
        Folder; ``power.pdf`` and ``power.svg`` are written into it, of several cases ``power-1.pdf`` and so on.

    Returns
    -------
    list of Path
        The files written; those before a curve that could not be drawn, which is warned of.
    """
    if len(cases) > _MOST_DRAWN:
        logger.warning(
            "curves of the first %d of %d contrasts are drawn; choose others by --dataset and --method.",
            _MOST_DRAWN,
            len(cases),
        )
    files = []
    with guarded("curves"):
        for number, case in enumerate(cases[:_MOST_DRAWN], start=1):
            stem = "power" if len(cases) == 1 else f"power-{number}"
            for suffix, content in render(partial(_curves, case, groups, seeds)).items():
                write_atomically(output / f"{stem}.{suffix}", content)
                files.append(output / f"{stem}.{suffix}")
    return files


def _curves(case: Case, groups: Sequence[int], seeds: Sequence[int]) -> "Figure":
    figure = blank(2.6)
    figure.set_layout_engine("constrained")
    figure.suptitle(fitted(case.name, WIDTH - 0.2), x=0.01, ha="left", fontsize=FONT_SIZE)
    panels = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    for panel, number in zip(panels, groups, strict=True):
        for count, color, dashes in zip(seeds, cycle(COLORS), cycle(_DASHES), strict=False):
            shown = [power(gain, number, count, case.spread) for gain in _CURVE_GAINS]
            panel.plot(100 * _CURVE_GAINS, shown, label=f"{count} seeds", color=color, linestyle=dashes)
        panel.axhline(_TARGET, color=GREY, linewidth=0.8)
        panel.set(title=f"{number} test groups", xlabel="true gain (Dice points)", ylim=(0, 1.02))
    panels[0].set_ylabel("probability of p < 0.05")
    panels[-1].legend(loc="lower right")
    return figure
