"""Chapters as a LaTeX document, and tables that go into any."""

import re
import textwrap

from qgbench.report.chapters.table import Chapter, Table
from qgbench.report.collect import Problem
from qgbench.report.glossary import GLOSSARY
from qgbench.report.render.document import TITLE, Document
from qgbench.report.wording import MARK, MISSING

_LINE = 150
"""Characters of a line above a table: what a landscape page is wide."""


def latex(document: Document) -> str:
    """Return a report as a LaTeX document."""

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
    for part in document.chapters:
        lines.append(rf"\section*{{{escape_latex(part.title)}}}")
        lines += [latex_table(table, part.above) for table in part.tables]
        lines += itemised([escape_latex(line) for line in part.below])
        lines += [r"\subsection*{Problems}", *listed(part.problems)]
    lines += [r"\section*{Words}", *itemised([escape_latex(f"{word}: {text}") for word, text in GLOSSARY.items()])]
    for caption, names in document.figures:
        for name in names:
            if name.endswith(".pdf"):
                picture = (
                    rf"\includegraphics[width=\linewidth,height=0.75\textheight,keepaspectratio]{{figures/{name}}}"
                )
                lines += [r"\clearpage", rf"\begin{{center}}{picture}\end{{center}}", escape_latex(caption), ""]
    if document.undrawn:
        lines += [r"\section*{Figures that were not drawn}", *listed(document.undrawn)]
    lines += [r"\section*{Records that were not used}", *listed(document.unused), r"\end{document}"]
    return "\n".join(lines) + "\n"


def single_tables(chapters: list[Chapter]) -> dict[str, str]:
    """Return each table as a file of its own, by names that are numbered in the order of the report."""
    named = [(part, table) for part in chapters for table in part.tables]
    files = {}
    for number, (part, table) in enumerate(named, start=1):
        words = re.sub(r"[^a-z0-9]+", "-", f"{part.title} {table.title}".casefold()).strip("-")
        needs = "% needs \\usepackage{booktabs,longtable}\n"
        files[f"{number:03}-{words[:80]}.tex"] = needs + latex_table(table, part.above) + "\n"
    return files


def latex_table(table: Table, above: list[str]) -> str:
    """Return a table, with its title and the lines above it, as a booktabs longtable, which may run over pages."""

    def cell(row: int, index: int, text: str) -> str:
        if text == MISSING:
            return text
        if index >= table.names:
            return rf"\textbf{{{_latex_numbers(text)}}}" if (row, index) in table.bold else _latex_numbers(text)
        return r"\raggedright " + re.sub("[,=]", r"\g<0>\\allowbreak{}", escape_latex(text))

    def spanning(text: str) -> str:
        # Of no width: a line longer than the table would push its last column to the right.
        return rf"\multicolumn{{{len(table.columns)}}}{{@{{}}l@{{}}}}{{\rlap{{{text}}}}} \\"

    head = [r"\toprule", " & ".join(map(_latex_header, table.columns)) + r" \\", r"\midrule"]
    footnote = [r"\bottomrule", spanning(escape_latex(table.footnote)), r"\endlastfoot"] if table.footnote else []
    size = _size(table)
    widths = [f"p{{{width}mm}}" for width in table.widths[: table.names]]
    body = [
        " & ".join(cell(place, i, text) for i, text in enumerate(row)) + r" \\" for place, row in enumerate(table.rows)
    ]
    return "\n".join(
        [
            *([rf"\begingroup{size}"] if size else []),
            rf"\begin{{longtable}}{{@{{}}{''.join(widths)}{'r' * (len(table.columns) - table.names)}@{{}}}}",
            # The title is part of the table's first head, so that no page ends between the two.
            spanning(rf"\large\bfseries {escape_latex(table.title)}"),
            *(spanning(escape_latex(line)) for text in (*above, table.says) for line in textwrap.wrap(text, _LINE)),
            r"\addlinespace",
            *head,
            r"\endfirsthead",
            *head,
            r"\endhead",
            r"\bottomrule",
            r"\endfoot",
            *footnote,
            *body,
            r"\end{longtable}",
            *([r"\endgroup"] if size else []),
        ]
    )


_PAGE = 273.0  # mm that a table may be wide
_CHARACTER, _GAP = 1.5, 2.9  # mm of a digit at 8 points, and between two columns
_SMALLER = (("", 1.0), (r"\scriptsize", 0.875), (r"\tiny", 0.625))  # sizes below the document's


def _size(table: Table) -> str:
    """Return the command for the largest type in which a table is not wider than a page; "" where it fits as it is."""
    columns = zip(table.columns, *table.rows, strict=True)
    numbers = [max(len(line) for cell in column for line in cell.split("\n")) for column in columns][table.names :]
    fixed = sum(table.widths[: table.names]) + _GAP * len(table.columns)
    fitting = (size for size, scale in _SMALLER if fixed + scale * _CHARACTER * sum(numbers) <= _PAGE)
    return next(fitting, _SMALLER[-1][0])


def _latex_header(column: str) -> str:
    lines = [_latex_numbers(line) for line in column.split("\n")]
    return lines[0] if len(lines) == 1 else rf"\shortstack{{{lines[0]}\\{lines[1]}}}"


def _latex_numbers(text: str) -> str:
    """Return a cell of numbers for LaTeX: true minus signs, "--" left as it is."""
    return re.sub(r"(?<![-\w])-(?=\d)", r"$-$", escape_latex(text).replace("-{}-", "--"))


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_\allowbreak{}",
    "/": r"/\allowbreak{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    # At the start of a row these would be taken for an option of the line break before it.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    MARK: r"$^\dagger$",
    "±": r"$\pm$",
}


def escape_latex(text: str) -> str:
    r"""Return any text so that pdflatex sets it as it is.

    White space becomes single spaces, characters beyond ASCII become ``U+XXXX``, and long names may break after
    ``_`` and ``/``.
    """
    plain = "".join(
        _LATEX.get(char, char if char.isascii() else f"U+{ord(char):04X}") for char in " ".join(text.split())
    )
    return re.sub("-(?=-)", "-{}", "".join(char for char in plain if char.isprintable()))
