"""What ``qgbench report`` prints of what it writes: the first answers, the twins, and where the files are."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from qgbench.base.console import print_table, standard_output
from qgbench.metrics.table import Metric
from qgbench.report.analysis import Analysis
from qgbench.report.chapters.setting import difference_words, seeds_words
from qgbench.report.chapters.suite import suite_words
from qgbench.report.contrasts import Contrast
from qgbench.report.wording import MARK, MARK_RULE, MISSING, in_points, p_words, setting_words

_MOST_ROWS = 12


def print_report(analysis: Analysis, written: Sequence[Path]) -> None:
    """Print the answer to a suite's first question, the twins with and without the add-on, and where the files are.

    Parameters
    ----------
    analysis : Analysis
    written : sequence of Path
        Files of the report, as `qgbench.report.write.write_report` gives them: its first is ``report.md``.
    """
    console = standard_output()
    if analysis.answers is not None:
        for line in suite_words(analysis.answers, analysis.measure)[:2]:
            console.print(Text(line), soft_wrap=True)
    twins = [
        (setting_words(section.setting, analysis), contrast)
        for section in analysis.sections
        for contrast in section.contrasts
        if contrast.kind == "twin" and contrast.name != contrast.reference
    ]
    if twins:
        over = "classes, test groups" if analysis.over_classes else "test groups"
        _print_twins(twins, analysis.measure, console, over)
        if any(contrast.tested for _, contrast in twins):
            if count := analysis.tested["twin"]:
                console.print(f"{count} of these pairs have a p, adjusted for so many (Holm).", highlight=False)
        else:
            console.print("A suite says which questions are tested; these rows are exploratory.", highlight=False)
    else:
        console.print("No method is there with and without an add-on: nothing to compare yet.", soft_wrap=True)
    if problems := analysis.problems:
        shown = f"{problems[0].where}: {problems[0].cause}" + (", ..." if len(problems) > 1 else "")
        console.print(Text(f"Not used: {len(problems)}, at the end of the report ({shown})"), soft_wrap=True)
    report, *_ = written
    console.print(Text(f"report: {report}; LaTeX, tables and data are beside it"), soft_wrap=True)
    for page in (path for path in written if path.name == "index.html"):
        console.print(Text(f"page: {page}"), soft_wrap=True)


def _print_twins(
    twins: Sequence[tuple[str, Contrast]], what: Metric, console: Console, over: str = "test groups"
) -> None:
    table = Table(title=f"{what.label} {what.unit}, mean over {over} and seeds", title_justify="left", box=None)
    for heading in ("method", "setting"):
        table.add_column(heading, overflow="fold")
    tested = any(contrast.tested for _, contrast in twins)
    for heading in ("seeds", "without", "with", "difference", *(["p (Holm)"] if tested else [])):
        table.add_column(heading, justify="right", no_wrap=True)
    rows = [_row(setting, contrast, what) for setting, contrast in twins[:_MOST_ROWS]]
    for row in rows:
        table.add_row(*map(Text, row))
    print_table(table, console)
    if len(twins) > _MOST_ROWS:
        console.print(f"The first {_MOST_ROWS} of {len(twins)} comparisons; the report has all.", highlight=False)
    better = "above" if what.higher_is_better else "below"
    console.print(
        f"Difference: with the add-on minus without, in {what.difference_unit}, and its 95 % interval; {better} 0 the "
        "add-on is better.",
        highlight=False,
        soft_wrap=True,
    )
    if any(cell.endswith(MARK) for row in rows for cell in row):
        console.print(Text(MARK_RULE), soft_wrap=True)


def _row(setting: str, contrast: Contrast, what: Metric) -> list[str]:
    sides = (contrast.reference_scores, contrast.scores)
    means = (MISSING if side is None else f"{what.scale * side.estimate.mean:.2f}" for side in sides)
    difference = difference_words(contrast, lambda found: in_points(found, what))
    p = [difference_words(contrast, lambda _: p_words(contrast.holm_p))] if contrast.tested else []
    return [str(contrast.name), setting, seeds_words(contrast), *means, difference, *p]
