"""What a claim needs: groups and seeds for a given gain, and the least gain that a contrast could have shown."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from qgbench.records import write_atomically
from qgbench.report.analysis import Analysis
from qgbench.stats.crossed import MIN_GROUPS
from qgbench.stats.power import Components, components, groups_needed, least_gain, power

_MOST_GROUPS = 5000
_CURVE_GAINS = np.linspace(0.0025, 0.06, 24)  # in Dice
_TARGET = 0.8
_CURVES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
_DASHES = ("-", "--", "-.", ":", (0, (1, 1)))


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
    """

    name: str
    spread: Components
    groups: int | None
    seeds: int | None


def cases_of(analysis: Analysis) -> tuple[list[Case], list[str]]:
    """Take the spread of every contrast's differences; say of which it is not known, and why."""
    cases, unknown = [], []
    for section in analysis.sections:
        for contrast in section.contrasts:
            if contrast.difference is None:
                continue
            where = f"{contrast.name} : {contrast.reference}, {section.setting.dataset} {section.setting.regime}"
            groups, seeds = contrast.difference.table.shape
            if groups < 2 or seeds < 2:
                unknown.append(f"{where}: {groups} test groups x {seeds} seeds do not tell its spreads apart")
            else:
                cases.append(Case(where, components(contrast.difference.table), groups, seeds))
    return cases, unknown


def power_rows(cases: Sequence[Case], gains: Sequence[float], seeds: Sequence[int]) -> pd.DataFrame:
    """Compute what each gain needs.

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
        5000 is enough, because the seeds are too few).
    """
    rows = []
    for case in cases:
        run = None if case.groups is None or case.seeds is None else (case.groups, case.seeds)
        if run is not None and run[0] < MIN_GROUPS:
            run = None  # its p is withheld
        least = None if run is None else least_gain(*run, case.spread, _TARGET)
        for gain in gains:
            shown = None if run is None else power(gain, *run, case.spread)
            for count in seeds:
                rows.append(
                    {
                        "name": case.name,
                        "sd_group": case.spread.sd_group,
                        "sd_seed": case.spread.sd_seed,
                        "sd_residual": case.spread.sd_residual,
                        "run_groups": case.groups,
                        "run_seeds": case.seeds,
                        "least_gain": least,
                        "gain": gain,
                        "power": shown,
                        "seeds": count,
                        "groups_needed": groups_needed(gain, count, case.spread, _TARGET, _MOST_GROUPS),
                    }
                )
    return pd.DataFrame(rows)


def print_power(table: pd.DataFrame, console: Console) -> None:
    """Print the rows of `power_rows`, in Dice points, a block for each case."""
    for name, rows in table.groupby("name", sort=False):
        first = rows.iloc[0]
        spreads = ", ".join(f"{100 * first[f'sd_{part}']:.2f} ({part})" for part in ("group", "seed", "residual"))
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
        headings = ["gain (points)", *(["shown as run"] if has_power else []), *(f"groups, {n} seeds" for n in counts)]
        for heading in headings:
            grid.add_column(heading, justify="right")
        for gain, alike in rows.groupby("gain", sort=False):
            needed = [f"> {_MOST_GROUPS}" if pd.isna(n) else str(int(n)) for n in alike["groups_needed"]]
            shown = [f"{alike['power'].iloc[0]:.2f}"] if has_power else []
            grid.add_row(f"{100 * float(str(gain)):.2f}", *shown, *needed)
        console.print(grid)
    console.print(
        "groups: test groups that a gain needs, for p < 0.05 in 8 of 10 cases. Spreads from few seeds are rough.",
        highlight=False,
        soft_wrap=True,
        style="dim",
    )


def draw_power(case: Case, groups: Sequence[int], seeds: Sequence[int], output: Path) -> list[Path]:
    """Draw the probability of showing a gain: a panel for each number of groups, a curve for each number of seeds.

    Parameters
    ----------
    case : Case
    groups, seeds : sequence of int
    output : Path
        Folder; ``power.pdf`` and ``power.png`` are written into it.

    Raises
    ------
    QGBenchError
        A file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.9, 2.6), layout="constrained")
    panels = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    for panel, number in zip(panels, groups, strict=True):
        for place, count in enumerate(seeds):
            shown = [power(gain, number, count, case.spread) for gain in _CURVE_GAINS]
            style = {"color": _CURVES[place % len(_CURVES)], "linestyle": _DASHES[place % len(_DASHES)]}
            panel.plot(100 * _CURVE_GAINS, shown, label=f"{count} seeds", **style)
        panel.axhline(_TARGET, color="0.6", linewidth=0.8)
        panel.set_title(f"{number} test groups", fontsize=8)
        panel.set_xlabel("true gain (Dice points)", fontsize=8)
        panel.tick_params(labelsize=7)
        panel.set_ylim(0, 1.02)
    panels[0].set_ylabel("probability of p < 0.05", fontsize=8)
    panels[-1].legend(fontsize=7, frameon=False, loc="lower right")
    files = []
    for suffix, options in (("pdf", {"metadata": {"CreationDate": None}}), ("png", {"dpi": 200})):
        content = io.BytesIO()
        figure.savefig(content, format=suffix, **options)
        files.append(output / f"power.{suffix}")
        write_atomically(files[-1], content.getvalue())
    return files
