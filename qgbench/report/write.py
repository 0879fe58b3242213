"""Write a report: for people and for programs, with figures and a page."""

from collections.abc import Sequence
from pathlib import Path

from qgbench.base.files import write_atomically
from qgbench.report.analysis import Analysis
from qgbench.report.audit import AuditRow, audit
from qgbench.report.chapters.across import across_chapter
from qgbench.report.chapters.claims import claims_chapter
from qgbench.report.chapters.overview import overview
from qgbench.report.chapters.setting import setting_chapter
from qgbench.report.chapters.suite import suite_chapter
from qgbench.report.chapters.table import Chapter
from qgbench.report.collect import Problem
from qgbench.report.data import data_files
from qgbench.report.figures import CAPTIONS, draw_figures, why_not
from qgbench.report.page.build import write_page
from qgbench.report.picture_guard import guarded
from qgbench.report.render.document import Document
from qgbench.report.render.latex import latex, single_tables
from qgbench.report.render.markdown import markdown


def write_report(
    analysis: Analysis, output: Path, figures: bool = False, html: bool = False, run_pages: bool = True
) -> list[Path]:
    """Write an analysis for people and for programs.

    Parameters
    ----------
    analysis : Analysis
    output : Path
        Folder to write to; made if it does not exist.
    figures : bool
        Also draw the figures, into ``figures/``; ``report.tex`` and ``report.md`` then show them.
    html : bool
        Also build the page that opens from disk, ``page/``.
    run_pages : bool
        Give each run a page of its own there, with its data.

    Returns
    -------
    list of Path
        The files written: ``report.md`` and ``report.tex`` for people, ``tables/*.tex`` to be put into a paper one by
        one, ``results.csv`` and ``audit.csv`` with full precision, ``report.json`` with all of it; then figures and
        the page's beginning.

    Raises
    ------
    QGBenchError
        The output cannot be written.
    """
    audits = [audit(section.runs) for section in analysis.sections]
    chapters = _chapters(analysis, audits)
    drawn, undrawn = _drawn(analysis) if figures else ({}, [])
    # The page begins with "answer"; paper has "questions" and "forest", which hold as much and more.
    shown = [(caption, list(drawn.get(kind, {}))) for kind, caption in CAPTIONS.items() if kind != "answer"]
    document = Document(chapters, shown, undrawn, analysis.problems)
    files = {
        "report.md": markdown(document).encode(),
        "report.tex": latex(document).encode(),
        **{name: text.encode() for name, text in data_files(analysis, audits).items()},
        **{f"tables/{name}": text.encode() for name, text in single_tables(chapters).items()},
        **{f"figures/{name}": content for found in drawn.values() for name, content in found.items()},
    }
    for name, content in files.items():
        write_atomically(output / name, content)
    pages = [write_page(analysis, output / "page", _svg(drawn), run_pages)] if html else []
    return [*(output / name for name in files), *pages]


def _chapters(analysis: Analysis, audits: Sequence[list[AuditRow]]) -> list[Chapter]:
    """Return what is read on paper, in its order; an audit belongs to each section."""
    what = analysis.measure
    chapters = [] if analysis.answers is None else [suite_chapter(analysis.answers, what)]
    chapters += [across_chapter(across) for across in analysis.across]
    chapters += overview(analysis)
    chapters += [setting_chapter(*pair, analysis.tested) for pair in zip(analysis.sections, audits, strict=True)]
    chapters += [claims_chapter(analysis)] if analysis.claims else []
    return chapters


Drawn = dict[str, dict[str, bytes]]


def _drawn(analysis: Analysis) -> tuple[Drawn, list[Problem]]:
    """Return the figures by kind and name, and which are absent and why."""
    with guarded("figures"):
        drawn = draw_figures(analysis)
        return drawn, [Problem(kind, cause) for kind, cause in why_not(analysis).items()]
    return {}, [Problem("all", "drawing failed; qgbench report warns of the cause")]


def _svg(drawn: Drawn) -> Drawn:
    return {kind: {name: found[name] for name in found if name.endswith(".svg")} for kind, found in drawn.items()}
