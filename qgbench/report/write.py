"""Write a report: Markdown and LaTeX for people, CSV with full precision for programs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from qgbench.records import write_atomically
from qgbench.report.audit import AuditRow, audit
from qgbench.report.collect import Name, Problem, Scores, Section, Setting, collect, compare
from qgbench.report.tables import (
    Chapter,
    chapter,
    escape_latex,
    latex_table,
    markdown_name,
    markdown_table,
)

TITLE = "qgbench: methods with and without the quality-guided add-on"

RESULT_COLUMNS = [
    "kind",  # cell | contrast (add-on minus base over their common seeds)
    *Setting._fields,
    *Name._fields,
    "seeds",  # seed indices, separated by blanks
    "images",
    "groups",
    "dice",  # in [0, 1]: mean over groups and seeds, or its difference
    "ci_low",
    "ci_high",
    "standard_error",
    "p",  # contrasts only, as the next three
    "p_holm",
    "p_false",  # probability that the true difference has the other sign
    "p_wilcoxon",
    "image_dice",  # in [0, 1]: mean over images and seeds
    "hd95",  # pixels
    "hd95_percent",  # of the image diagonal
    "missed",  # images for each seed
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


def write_report(folders: Sequence[Path], output: Path) -> list[Path]:
    """Write ``report.md``, ``report.tex``, ``results.csv`` and ``audit.csv``.

    Parameters
    ----------
    folders : sequence of Path
        Where records are looked for, at any depth.
    output : Path
        Folder to write to; made if it does not exist.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    UserError
        A folder does not exist, or no record is found.
    QGBenchError
        The output cannot be written.
    """
    collection = collect(folders)
    sections = [(section, audit(section.runs)) for section in compare(collection)]
    chapters = [chapter(section, audits) for section, audits in sections]
    results = pd.DataFrame([row for section, _ in sections for row in _result_rows(section)], columns=RESULT_COLUMNS)
    audits = pd.DataFrame([row for pair in sections for row in _audit_rows(*pair)], columns=AUDIT_COLUMNS)
    files = {
        "report.md": _markdown(chapters, collection.problems),
        "report.tex": _latex(chapters, collection.problems),
        "results.csv": results.to_csv(index=False, float_format="%.17g"),
        "audit.csv": audits.to_csv(index=False, float_format="%.17g"),
    }
    for name, text in files.items():
        write_atomically(output / name, text.encode())
    return [output / name for name in files]


def _result_rows(section: Section) -> list[dict[str, Any]]:
    cells = [_result_row("cell", section.setting, name, scores) for name, scores in section.cells.items()]
    contrasts = []
    for row in section.rows:
        if row.difference is not None:
            result = _result_row("contrast", section.setting, row.name, row.difference)
            dice = row.difference.dice
            result |= {"p": dice.p, "p_holm": row.holm_p, "p_false": dice.p_false, "p_wilcoxon": dice.wilcoxon_p}
            contrasts.append(result)
        elif row.refused:
            named = {**section.setting._asdict(), **row.name._asdict()}
            contrasts.append({"kind": "contrast", **named, "reason": f"refused: {row.refused}"})
    return cells + contrasts


def _result_row(kind: str, setting: Setting, name: Name, scores: Scores) -> dict[str, Any]:
    low, high = scores.dice.interval or (None, None)
    return {
        "kind": kind,
        **setting._asdict(),
        **name._asdict(),
        "seeds": " ".join(map(str, scores.seeds)),
        "images": scores.images,
        "groups": scores.dice.groups,
        "dice": scores.dice.mean,
        "ci_low": low,
        "ci_high": high,
        "standard_error": scores.dice.standard_error,
        "image_dice": scores.image_dice,
        "hd95": scores.hd95,
        "hd95_percent": scores.hd95_percent,
        "missed": scores.missed,
        "reason": scores.dice.reason,
    }


def _audit_rows(section: Section, audits: list[AuditRow]) -> list[dict[str, Any]]:
    return [
        {
            **section.setting._asdict(),
            **(row.name._asdict() if row.name is not None else {}),
            "part": row.part,
            "progress": row.progress,
            "quantity": quantity,
            "value": mean.value,
            "defined": mean.defined,
            "records": row.records,
        }
        for row in audits
        for quantity, mean in row.means.items()
    ]


def _markdown(chapters: list[Chapter], unread: list[Problem]) -> str:
    def listed(problems: list[Problem]) -> list[str]:
        return [f"- {markdown_name(problem.where)}: {_plain(problem.cause)}" for problem in problems]

    blocks = [f"# {TITLE}"]
    for part in chapters:
        blocks.append(f"## {markdown_name(part.title)}")
        for table in part.tables:
            blocks += [f"### {table.title}", *map(_plain, part.above), markdown_table(table)]
        blocks.append("\n".join(f"- {_plain(line)}" for line in part.below))
        blocks += ["### Problems", "\n".join(listed(part.problems)) or "None."]
    blocks += ["## Records that were not used", "\n".join(listed(unread)) or "None."]
    return "\n\n".join(blocks) + "\n"


def _plain(text: str) -> str:
    """Keep Markdown from reading names within a sentence as markup."""
    for char in "\\`*_<>|":
        text = text.replace(char, f"\\{char}")
    return " ".join(text.split())


def _latex(chapters: list[Chapter], unread: list[Problem]) -> str:
    def itemised(lines: list[str]) -> list[str]:
        # The bullet of mathematics: LaTeX's own is in a font that small installations lack.
        items = [rf"\item[$\bullet$] {line}" for line in lines]
        return [r"\begin{itemize}", *items, r"\end{itemize}"] if lines else ["None."]

    def listed(problems: list[Problem]) -> list[str]:
        return itemised([f"{escape_latex(problem.where)}: {escape_latex(problem.cause)}" for problem in problems])

    lines = [
        r"\documentclass{article}",
        r"\usepackage[a4paper,landscape,margin=12mm]{geometry}",
        r"\usepackage{booktabs,longtable}",
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
    lines += [r"\section*{Records that were not used}", *listed(unread), r"\end{document}"]
    return "\n".join(lines) + "\n"
