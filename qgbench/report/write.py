"""Write a report: Markdown and LaTeX for people, CSV and JSON with full precision for programs.

The CSV tables read back exactly, names included: one that begins like a formula is left as it is, so import them into a
spreadsheet as text. The table that the page offers to people is guarded (`qgbench.report.page.board.board_csv`).
"""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from qgbench.base.files import write_atomically
from qgbench.base.schema import finite_or_none
from qgbench.report.analysis import Across, Analysis, Scores, Section
from qgbench.report.audit import AuditRow, audit
from qgbench.report.collect import Name, Problem, Setting
from qgbench.report.declared import Answer, Answers
from qgbench.report.drawing import drawing
from qgbench.report.figures import CAPTIONS, draw_figures, why_not
from qgbench.report.measures import MEASURES, Measure
from qgbench.report.overview import overview
from qgbench.report.page.build import write_page
from qgbench.report.tables import (
    Chapter,
    chapter,
    claims_chapter,
    escape_latex,
    latex_table,
    markdown_name,
    markdown_plain,
    markdown_table,
    suite_chapter,
    suite_words,
    summary,
)

TITLE = "qgbench: methods with and without the quality-guided add-on"

RESULT_COLUMNS = [
    "kind",  # cell | twin | control | asked; the last three are differences over common seeds
    "measure",  # of `qgbench.report.measures`: what mean, interval and tests are about
    *Setting._fields,
    *Name._fields,
    *(f"reference_{field}" for field in Name._fields),  # what the difference is from
    "seeds",  # seed indices, separated by blanks
    "images",
    "groups",
    "mean",  # over groups and seeds, or its difference; Dice and its like in [0, 1], distances in pixels
    "ci_low",
    "ci_high",
    "p_withheld",  # one seed or few groups: the interval allows no verdict; of cells too
    "standard_error",
    "sd_images",
    "sd_groups",
    "sd_seeds",
    "p",  # of differences only, as all up to headroom
    "p_holm",
    "p_false",  # probability that the true difference has the other sign
    "p_wilcoxon",
    "improvement",  # probability that a test group is better
    "effect",  # standardised mean difference over groups
    "headroom",  # share of the way to supervised training with all labels
    *(f"image_{name}" for name in MEASURES),  # means over images and seeds, or their differences
    "missed",  # images for each seed
    "spurious",
    "reason",  # why something was withheld or refused
]
AUDIT_COLUMNS = [
    *Setting._fields,
    *Name._fields,
    "part",  # predictor | pseudo_labels | run
    "progress",  # fraction of the run; empty for pooled checkpoints and for the other parts
    "quantity",
    "value",
    "defined",  # records in which the quantity is defined
    "records",
]


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
    sections = [(section, audit(section.runs)) for section in analysis.sections]
    chapters = [suite_chapter(analysis.answers, analysis.measure)] if analysis.answers is not None else []
    chapters += [summary(across, analysis.measure) for across in analysis.across]
    chapters += overview(analysis)
    chapters += [chapter(section, audits, analysis.measure) for section, audits in sections]
    chapters += [claims_chapter(analysis)] if analysis.claims else []
    rows = [row for section, _ in sections for row in _result_rows(section, analysis.measure)]
    audits = [row for pair in sections for row in _audit_rows(*pair)]
    drawn, absent = _drawn(analysis, output / "figures") if figures else ([], [])
    shown = [
        (caption, [path for path in drawn if path.stem == kind or path.stem.startswith(f"{kind}-")])
        for kind, caption in CAPTIONS.items()
    ]
    files = {
        "report.md": _markdown(chapters, shown, absent, analysis.problems),
        "report.tex": _latex(chapters, shown, absent, analysis.problems),
        "results.csv": pd.DataFrame(rows, columns=RESULT_COLUMNS).to_csv(index=False, float_format="%.17g"),
        "audit.csv": pd.DataFrame(audits, columns=AUDIT_COLUMNS).to_csv(index=False, float_format="%.17g"),
        "report.json": _json(analysis, rows),
        **_single_tables(chapters),
    }
    for name, text in files.items():
        write_atomically(output / name, text.encode())
    pictures = [path for path in drawn if path.suffix == ".png"]
    page = write_page(analysis, output / "page", pictures, run_pages) if html else []
    return [*(output / name for name in files), *drawn, *page[:1]]


def _drawn(analysis: Analysis, folder: Path) -> tuple[list[Path], list[Problem]]:
    """Draw the figures, and say which are absent and why."""
    with drawing("figures"):
        return draw_figures(analysis, folder), [Problem(kind, cause) for kind, cause in why_not(analysis).items()]
    return [], [Problem("all", "drawing failed; qgbench report warns of the cause")]


def _result_rows(section: Section, what: Measure) -> list[dict[str, Any]]:
    common = {"measure": what.name, **section.setting._asdict()}
    rows = [{"kind": "cell", **common, **_scored(name, scores)} for name, scores in section.cells.items()]
    for contrast in section.contrasts:
        if contrast.name == contrast.reference:
            continue
        named = {**common, **{f"reference_{key}": value for key, value in contrast.reference._asdict().items()}}
        if contrast.difference is None:
            reason = f"refused: {contrast.refused}" if contrast.refused else "one of the two is missing"
            rows.append({"kind": contrast.kind, **named, **contrast.name._asdict(), "reason": reason})
            continue
        found = contrast.difference.estimate
        tests = {"p": found.p, "p_holm": contrast.holm_p, "p_false": found.p_false, "p_wilcoxon": found.wilcoxon_p}
        tests |= {"improvement": contrast.improvement, "effect": contrast.effect, "headroom": contrast.headroom}
        rows.append({"kind": contrast.kind, **named, **_scored(contrast.name, contrast.difference), **tests})
    return rows


def _scored(name: Name, scores: Scores) -> dict[str, Any]:
    found = scores.estimate
    low, high = found.interval or (None, None)
    return {
        **name._asdict(),
        "seeds": " ".join(map(str, scores.seeds)),
        "images": scores.images,
        "groups": found.groups,
        "mean": found.mean,
        "ci_low": low,
        "ci_high": high,
        "p_withheld": found.p_withheld,
        "standard_error": found.standard_error,
        "sd_images": scores.spread.images,
        "sd_groups": scores.spread.groups,
        "sd_seeds": scores.spread.seeds,
        **{f"image_{measure}": scores.means[measure] for measure in MEASURES},
        "missed": scores.means["missed"],
        "spurious": scores.means["spurious"],
        "reason": found.reason,
    }


def _audit_rows(section: Section, audits: list[AuditRow]) -> list[dict[str, Any]]:
    return [
        {
            **section.setting._asdict(),
            **(row.name._asdict() if row.name is not None else {}),
            "part": row.part,
            "progress": row.progress,
            "quantity": quantity,
            "value": average.value,
            "defined": average.defined,
            "records": row.records,
        }
        for row in audits
        for quantity, average in row.averages.items()
    ]


def _json(analysis: Analysis, rows: list[dict[str, Any]]) -> str:
    """Everything in one file, for programs: the rows of results.csv, what holds across settings, and all problems."""
    whole = {
        "measure": asdict(analysis.measure),
        "suite": None if analysis.answers is None else _suite_json(analysis.answers, analysis.measure),
        "results": rows,
        "best": [
            {**section.setting._asdict(), "names": [name._asdict() for name in section.best]}
            for section in analysis.sections
        ],
        "across": [_across_json(across) for across in analysis.across],
        "claims": [claim.model_dump(mode="json") for claim in analysis.claims],
        "problems": [
            *(problem._asdict() for problem in analysis.problems),
            *({**s.setting._asdict(), **problem._asdict()} for s in analysis.sections for problem in s.problems),
        ],
    }
    return json.dumps(_finite(whole), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _suite_json(answers: Answers, what: Measure) -> dict[str, Any]:
    return {
        "name": answers.suite.name,
        "metric": answers.suite.metric,
        "primary": _answer_json(answers.primary),
        "questions": [_answer_json(one) for one in answers.others],
        "reason": answers.reason,
        "absent": answers.absent,
        "words": suite_words(answers, what),
    }


def _answer_json(answer: Answer) -> dict[str, Any]:
    return {
        **asdict(answer.question),
        "estimate": None if answer.estimate is None else asdict(answer.estimate),
        "p_holm": answer.holm_p,
        "by_dataset": {dataset: asdict(found) for dataset, found in answer.by_dataset.items()},
        "lacking": answer.lacking,
    }


def _across_json(across: Across) -> dict[str, Any]:
    return {
        "protocol": across.protocol,
        "protocol_version": across.protocol_version,
        "arch": across.arch,
        "encoder": across.encoder,
        "regimes": across.regimes,
        "settings": [setting._asdict() for setting in across.settings],
        "names": [name._asdict() for name in across.names],
        "left_out": [{**name._asdict(), "missing": count} for name, count in across.left_out.items()],
        "means": across.means.tolist(),
        "ranks": across.ranks.tolist(),
        "friedman_p": across.friedman_p,
        "least_p": across.least_p,
        "cliques": [[name._asdict() for name in clique] for clique in across.cliques],
        "rank_frequencies": across.frequencies.tolist(),
        "addons": [
            {
                "addon": addon.addon,
                "methods": addon.methods,
                "left_out": addon.left_out,
                "combined": None if addon.combined is None else asdict(addon.combined),
                "win_tie_loss": addon.win_tie_loss,
                "rope": addon.rope,
            }
            for addon in across.addons
        ],
    }


def _finite(value: Any) -> Any:
    """Put null where a number is not defined, as JSON has no other word for it."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return finite_or_none(value) if isinstance(value, float) else value


def _single_tables(chapters: list[Chapter]) -> dict[str, str]:
    """Each table as a file of its own, numbered in the order of the report."""
    named = [(part, table) for part in chapters for table in part.tables]
    files = {}
    for number, (part, table) in enumerate(named, start=1):
        words = re.sub(r"[^a-z0-9]+", "-", f"{part.title} {table.title}".casefold()).strip("-")
        needs = "% needs \\usepackage{booktabs,longtable}\n"
        files[f"tables/{number:03}-{words[:80]}.tex"] = needs + latex_table(table, part.above) + "\n"
    return files


Shown = list[tuple[str, list[Path]]]
"""Captions and the files that they stand under."""


def _markdown(chapters: list[Chapter], shown: Shown, absent: list[Problem], unread: list[Problem]) -> str:
    def listed(problems: list[Problem]) -> list[str]:
        return [f"- {markdown_name(problem.where)}: {markdown_plain(problem.cause)}" for problem in problems]

    blocks = [f"# {TITLE}"]
    for part in chapters:
        blocks.append(f"## {markdown_name(part.title)}")
        for table in part.tables:
            blocks += [f"### {table.title}", *map(markdown_plain, part.above), markdown_table(table)]
        blocks.append("\n".join(f"- {markdown_plain(line)}" for line in part.below))
        blocks += ["### Problems", "\n".join(listed(part.problems)) or "None."]
    pictures = [(caption, [path for path in paths if path.suffix == ".png"]) for caption, paths in shown]
    if any(paths for _, paths in pictures):
        blocks.append("## Figures")
        for caption, paths in pictures:
            blocks += [f"![{path.stem}](figures/{path.name})" for path in paths]
            blocks += [markdown_plain(caption)] if paths else []
    if absent:
        blocks += ["## Figures that were not drawn", "\n".join(listed(absent))]
    blocks += ["## Records that were not used", "\n".join(listed(unread)) or "None."]
    return "\n\n".join(blocks) + "\n"


def _latex(chapters: list[Chapter], shown: Shown, absent: list[Problem], unread: list[Problem]) -> str:
    def itemised(lines: list[str]) -> list[str]:
        # The bullet of mathematics: LaTeX's own is in a font that small installations lack.
        items = [rf"\item[$\bullet$] {line}" for line in lines]
        return [r"\begin{itemize}", *items, r"\end{itemize}"] if lines else ["None."]

    def listed(problems: list[Problem]) -> list[str]:
        return itemised([f"{escape_latex(problem.where)}: {escape_latex(problem.cause)}" for problem in problems])

    lines = [
        r"\documentclass{article}",
        r"\usepackage[a4paper,landscape,margin=12mm]{geometry}",
        r"\usepackage{booktabs,graphicx,longtable}",
        r"\setlength{\tabcolsep}{4pt}",
        r"\setlength{\LTleft}{0pt}",
        r"\setlength{\parindent}{0pt}",
        r"\begin{document}",
        r"\footnotesize\raggedright",
        rf"\section*{{{escape_latex(TITLE)}}}",
    ]
    for part in chapters:
        lines.append(rf"\section*{{{escape_latex(part.title)}}}")
        lines += [latex_table(table, part.above) for table in part.tables]
        lines += itemised([escape_latex(line) for line in part.below])
        lines += [r"\subsection*{Problems}", *listed(part.problems)]
    plots = [(caption, [path for path in paths if path.suffix == ".pdf"]) for caption, paths in shown]
    for caption, paths in plots:
        for path in paths:
            picture = (
                rf"\includegraphics[width=\linewidth,height=0.75\textheight,keepaspectratio]{{figures/{path.name}}}"
            )
            lines += [r"\clearpage", rf"\begin{{center}}{picture}\end{{center}}", escape_latex(caption), ""]
    if absent:
        lines += [r"\section*{Figures that were not drawn}", *listed(absent)]
    lines += [r"\section*{Records that were not used}", *listed(unread), r"\end{document}"]
    return "\n".join(lines) + "\n"
