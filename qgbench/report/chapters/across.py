"""The chapter of what holds over the settings of a protocol: add-ons, and ranks of the cells."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

from qgbench.metrics.table import Metric
from qgbench.report.across import Across, AddonAcross, Agreement, Noise
from qgbench.report.chapters.suite import CLASSES_RULE, POPULATION_RULE, SHARED_RULE
from qgbench.report.chapters.table import Chapter, Columns, Table, abreast, part_title, table
from qgbench.report.wording import MISSING, in_points, protocol_line, q_words
from qgbench.spec.protocol import OWN_SEEDS

RANKED_RULE = "Ranked by {label}, in {unit}: mean over images of a test group, groups and seeds, shown by setting."
ACROSS_RULE = "Ranks are over the cells that every setting has; 1 is best. They describe: nothing here is tested."
FIRST_RULE = "First: share of bootstrap draws over groups and seeds in which the cell has the best rank."
AGREEMENT_RULE = (
    "Kendall's tau between the average ranks above and those by another rule: 1 where all pairs of cells keep their "
    "order, 0 where half of them do, -1 where none does. By a single seed, and without one data set: over all choices."
)
NOISE_RULE = (
    "Between methods: standard deviation of the means of the cells that every setting has. Between seeds: that of a "
    "cell's runs, root mean square over cells. Ratio: the first by the second; were all cells alike, it would be "
    "about 1 by the root of the number of seeds (0.58 with 3), less where a seed moves all cells alike."
)
COMBINED_RULE = (
    "Combined: mean difference over the methods that have it in every setting and over the settings, averaged inside "
    "data sets and then over these with equal weights; it is about these data sets, new patients (test groups) and new "
    "seeds."
)


def across_chapter(across: Across, addons: bool = True) -> Chapter:
    """Return what holds over the data sets and regimes of one protocol, architecture and encoder.

    `addons`: with what the add-ons do; beside a suite's answers that would be said twice.
    """
    across = across if addons else replace(across, addons=[])
    what = across.measure
    combined = {addon.addon: addon.combined for addon in across.addons if addon.combined is not None}
    shared = across.protocol_version < OWN_SEEDS and any(addon.sets for addon in across.addons)
    return Chapter(
        title=f"Across settings: {across.title}",
        above=[protocol_line(across.protocol, across.protocol_version)],
        tables=[
            one
            for one in (_addons(across, what), *_ranks(across, what), _agreements(across), _noise(across, what))
            if one.rows
        ],
        below=[
            *([CLASSES_RULE.format(label=what.label)] if across.over_classes else []),
            *([SHARED_RULE.format(version=across.protocol_version)] if shared else []),
            *(f"{found.reason} (combined, {name})." for name, found in combined.items() if found.reason),
            *_left_out("of the ranks", {str(name): count for name, count in across.left_out.items()}),
            *(line for addon in across.addons for line in _left_out(f"of 'combined', {addon.addon}", addon.left_out)),
        ],
        problems=[],
    )


def _left_out(what: str, lacking: Mapping[str, int]) -> Iterator[str]:
    """Yield a line for each number of settings that something lacks."""
    for count in sorted(set(lacking.values())):
        names = [name for name, missing in lacking.items() if missing == count]
        lack = "1 setting lacks" if count == 1 else f"{count} settings lack"
        yield f"Left out {what}, as {lack} them: {', '.join(names)}."


def _addons(across: Across, what: Metric) -> Table:
    columns: Columns[AddonAcross] = {
        "Add-on": lambda addon: addon.addon,
        "Methods": lambda addon: str(len(addon.methods)),
        f"Combined\n({what.difference_unit})": lambda addon: in_points(addon.combined, what),
        "A population\nof sets": lambda addon: in_points(addon.sets.estimate if addon.sets else None, what),
        "Q\n(p)": lambda addon: q_words(addon.sets),
        "Note": lambda addon: "too narrow" if addon.sets and addon.sets.too_narrow else MISSING,
    }
    says = " ".join([COMBINED_RULE, *([POPULATION_RULE] if any(addon.sets for addon in across.addons) else [])])
    return table("What the add-ons do over all settings", columns, across.addons, names=1, says=says)


def _agreements(across: Across) -> Table:
    columns: Columns[Agreement] = {
        "Ranked instead": lambda one: one.rule,
        "Rankings": lambda one: str(one.rankings),
        "Kendall's tau,\nmean": lambda one: _two(one.mean),
        "Kendall's tau,\nleast": lambda one: _two(one.least),
    }
    return table("How far these ranks hold", columns, across.agreements, names=1, widths=(50,), says=AGREEMENT_RULE)


def _two(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else MISSING


def _noise(across: Across, what: Metric) -> Table:
    columns: Columns[Noise] = {
        "Setting": lambda one: f"{one.setting.dataset} {one.setting.regime}",
        f"SD between methods\n({what.difference_unit})": lambda one: f"{what.scale * one.cells:.2f}",
        f"SD between seeds\n({what.difference_unit})": lambda one: f"{what.scale * one.seeds:.2f}",
        "Ratio": lambda one: f"{one.cells / one.seeds:.2f}" if one.seeds > 0 else MISSING,
    }
    return table("Do methods differ by more than seeds?", columns, across.noise, names=1, widths=(60,), says=NOISE_RULE)


def _ranks(across: Across, what: Metric) -> list[Table]:
    """Return ranks beside the means of the settings, as many of these in a table as a page is wide."""
    rows = range(len(across.names))
    parts = abreast([max(len(setting.dataset), len(setting.regime)) for setting in across.settings])
    title = f"Average ranks over {len(across.settings)} settings"
    says = f"{ACROSS_RULE} {RANKED_RULE.format(label=what.label, unit=what.unit)} {FIRST_RULE}"

    def share(row: int) -> str:
        found = across.frequencies[row, 0]
        return _two(found)

    def mean(block: int, row: int) -> str:
        return f"{what.scale * across.means[block, row]:.2f}"

    tables = []
    for number, shown in enumerate(parts, start=1):
        columns: Columns[int] = {
            f"Cell ({what.label} {what.unit}: mean over groups)": lambda row: str(across.names[row]),
            "Average\nrank": lambda row: f"{across.ranks[row]:.2f}",
            "First": share,
            **{
                f"{across.settings[block].dataset}\n{across.settings[block].regime}": partial(mean, block)
                for block in shown
            },
        }
        tables.append(table(part_title(title, number, len(parts)), columns, rows, names=1, says=says))
    return tables
