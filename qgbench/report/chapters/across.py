"""The chapter of what holds over the settings of a protocol: add-ons, and ranks of the cells."""

import math
from functools import partial

from qgbench.metrics.table import Metric
from qgbench.report.across import Across, AddonAcross
from qgbench.report.chapters.suite import CLASSES_RULE, OVER_SETS_RULE, over_sets
from qgbench.report.chapters.table import Chapter, Columns, Table, abreast, part_title, table
from qgbench.report.wording import MISSING, in_points, p_words, protocol_line

ACROSS_RULE = (
    "Ranks are over the cells that every setting has; 1 is best. Settings are taken as they are: a p-value or an "
    "interval here speaks of these data sets, averaged, not of others. {least}"
)
COMBINED_RULE = (
    "Combined: mean difference over the methods that have it in every setting and over the settings, with equal "
    "weights. P(harm), P(gain): probability that the typical difference is below -1 or above +1 Dice point (Bayesian "
    "signed-rank test over the contrasts)."
)


def across_chapter(across: Across) -> Chapter:
    """Return what holds over the data sets and regimes of one protocol, architecture and encoder."""
    what, settings = across.measure, len(across.settings)
    least = f"With {settings} settings no signed-rank test can give p below {p_words(across.least_p)}."
    friedman = "" if across.friedman_p is None else f"Friedman's test of equal ranks: p {p_words(across.friedman_p)}. "
    tied = "; ".join(", ".join(map(str, clique)) for clique in across.cliques if len(clique) > 1)
    combined = {addon.addon: addon.combined for addon in across.addons if addon.combined is not None}
    by_sets = [name for name, found in combined.items() if over_sets(found)]
    absent = [f"{name}: missing in {count} of {settings}" for name, count in across.left_out.items()]
    partly = [f"{addon.addon}: {'; '.join(addon.left_out)}" for addon in across.addons if addon.left_out]
    return Chapter(
        title=f"Across settings: {across.title}",
        above=[protocol_line(across.protocol, across.protocol_version)],
        tables=[one for one in (_addons(across, what), *_ranks(across, what)) if one.rows],
        below=[
            friedman + ACROSS_RULE.format(least=least),
            *([f"Not told apart (Wilcoxon, Holm): {tied}."] if tied else []),
            *([CLASSES_RULE.format(label=what.label)] if across.over_classes else []),
            "First: share of bootstrap draws over groups and seeds in which the cell has the best rank.",
            COMBINED_RULE,
            *([OVER_SETS_RULE.format(addons=", ".join(by_sets))] if by_sets else []),
            *(f"{found.reason} (combined, {name})." for name, found in combined.items() if found.reason),
            *([f"Left out of the ranks: {'; '.join(absent)}."] if absent else []),
            *([f"Left out of 'combined': {'; '.join(partly)}."] if partly else []),
        ],
        problems=[],
    )


def _addons(across: Across, what: Metric) -> Table:
    def test(addon: AddonAcross, name: str) -> str:
        return MISSING if addon.combined is None else p_words(getattr(addon.combined, name))

    def share(part: int, addon: AddonAcross) -> str:
        return MISSING if addon.rope is None else f"{addon.rope[part]:.2f}"

    columns: Columns[AddonAcross] = {
        "Add-on": lambda addon: addon.addon,
        "Methods": lambda addon: str(len(addon.methods)),
        f"Combined\n({what.difference_unit})": lambda addon: in_points(addon.combined, what),
        "p": lambda addon: test(addon, "p"),
        "P(claim\nfalse)": lambda addon: test(addon, "p_false"),
        "Win / tie\n/ loss": lambda addon: " / ".join(map(str, addon.win_tie_loss)),
        "P(harm)": partial(share, 0),
        "P(within 1\npoint)": partial(share, 1),
        "P(gain)": partial(share, 2),
    }
    return table("What the add-ons do over all settings", columns, across.addons, names=1)


def _ranks(across: Across, what: Metric) -> list[Table]:
    """Return ranks beside the means of the settings, as many of these in a table as a page is wide."""
    first = next((clique for clique in across.cliques if across.names and across.names[0] in clique), across.names[:1])
    bold = frozenset((row, 1) for row, name in enumerate(across.names) if name in first)
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
        tables.append(table(part_title(title, number, len(parts)), columns, rows, names=1, bold=bold))
    return tables
