"""The chapter of what holds over the settings of a protocol: add-ons, and ranks of the cells."""

import math
from functools import partial

from qgbench.metrics.table import Metric
from qgbench.report.across import Across, AddonAcross
from qgbench.report.chapters.suite import CLASSES_RULE, POPULATION_RULE, SHARED_RULE
from qgbench.report.chapters.table import Chapter, Columns, Table, abreast, part_title, table
from qgbench.report.wording import MISSING, in_points, p_words, protocol_line
from qgbench.spec.protocol import OWN_SEEDS

ACROSS_RULE = "Ranks are over the cells that every setting has; 1 is best. They describe: nothing here is tested."
COMBINED_RULE = (
    "Combined: mean difference over the methods that have it in every setting and over the settings, averaged inside "
    "data sets and then over these with equal weights; it is about these data sets, new patients (test groups) and new "
    "seeds."
)


def across_chapter(across: Across) -> Chapter:
    """Return what holds over the data sets and regimes of one protocol, architecture and encoder."""
    what, settings = across.measure, len(across.settings)
    combined = {addon.addon: addon.combined for addon in across.addons if addon.combined is not None}
    absent = [f"{name}: missing in {count} of {settings}" for name, count in across.left_out.items()]
    partly = [f"{addon.addon}: {'; '.join(addon.left_out)}" for addon in across.addons if addon.left_out]
    shared = across.protocol_version < OWN_SEEDS and any(addon.sets for addon in across.addons)
    return Chapter(
        title=f"Across settings: {across.title}",
        above=[protocol_line(across.protocol, across.protocol_version)],
        tables=[one for one in (_addons(across, what), *_ranks(across, what)) if one.rows],
        below=[
            ACROSS_RULE,
            *([CLASSES_RULE.format(label=what.label)] if across.over_classes else []),
            "First: share of bootstrap draws over groups and seeds in which the cell has the best rank.",
            COMBINED_RULE,
            *([SHARED_RULE.format(version=across.protocol_version)] if shared else []),
            *([POPULATION_RULE] if any(addon.sets for addon in across.addons) else []),
            *(f"{found.reason} (combined, {name})." for name, found in combined.items() if found.reason),
            *([f"Left out of the ranks: {'; '.join(absent)}."] if absent else []),
            *([f"Left out of 'combined': {'; '.join(partly)}."] if partly else []),
        ],
        problems=[],
    )


def _addons(across: Across, what: Metric) -> Table:
    def q(addon: AddonAcross) -> str:
        known = addon.sets is not None and addon.sets.cochran_p is not None
        return p_words(addon.sets.cochran_p) if known and addon.sets else MISSING

    columns: Columns[AddonAcross] = {
        "Add-on": lambda addon: addon.addon,
        "Methods": lambda addon: str(len(addon.methods)),
        f"Combined\n({what.difference_unit})": lambda addon: in_points(addon.combined, what),
        "A population\nof sets": lambda addon: in_points(addon.sets.estimate if addon.sets else None, what),
        "Q\n(p)": q,
        "Note": lambda addon: "too narrow" if addon.sets and addon.sets.too_narrow else MISSING,
    }
    return table("What the add-ons do over all settings", columns, across.addons, names=1)


def _ranks(across: Across, what: Metric) -> list[Table]:
    """Return ranks beside the means of the settings, as many of these in a table as a page is wide."""
    rows = range(len(across.names))
    parts = abreast([max(len(setting.dataset), len(setting.regime)) for setting in across.settings])
    title = f"Average ranks over {len(across.settings)} settings"

    def share(row: int) -> str:
        found = across.frequencies[row, 0]
        return MISSING if math.isnan(found) else f"{found:.2f}"

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
        tables.append(table(part_title(title, number, len(parts)), columns, rows, names=1))
    return tables
