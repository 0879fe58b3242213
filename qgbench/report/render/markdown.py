"""Chapters in GitHub's Markdown."""

from qgbench.report.chapters.table import Table
from qgbench.report.collect import Problem
from qgbench.report.glossary import GLOSSARY
from qgbench.report.render.document import TITLE, Document
from qgbench.report.wording import MISSING


def markdown(document: Document) -> str:
    """Return a report in GitHub's Markdown."""

    def listed(problems: list[Problem]) -> list[str]:
        return [f"- {markdown_name(problem.where)}: {markdown_plain(problem.cause)}" for problem in problems]

    blocks = [f"# {TITLE}"]
    for part in document.chapters:
        blocks.append(f"## {markdown_name(part.title)}")
        for table in part.tables:
            said = [markdown_plain(line) for line in (*part.above, table.says) if line]
            blocks += [f"### {table.title}", *said, markdown_table(table)]
        blocks.append("\n".join(f"- {markdown_plain(line)}" for line in part.below))
        blocks += ["### Problems", "\n".join(listed(part.problems)) or "None."]
    blocks += ["## Words", "\n".join(f"- {word}: {markdown_plain(text)}" for word, text in GLOSSARY.items())]
    pictures = [(caption, [name for name in names if name.endswith(".svg")]) for caption, names in document.figures]
    if any(names for _, names in pictures):
        blocks.append("## Figures")
        for caption, names in pictures:
            blocks += [f"![{name.removesuffix('.svg')}](figures/{name})" for name in names]
            blocks += [markdown_plain(caption)] if names else []
    if document.undrawn:
        blocks += ["## Figures that were not drawn", "\n".join(listed(document.undrawn))]
    blocks += ["## Records that were not used", "\n".join(listed(document.unused)) or "None."]
    return "\n\n".join(blocks) + "\n"


def markdown_table(table: Table) -> str:
    """Return a table in GitHub's Markdown; free text stands in code spans."""

    def line(cells: list[str]) -> str:
        return f"| {' | '.join(cells)} |"

    def cell(row: int, column: int, text: str) -> str:
        if column in table.prose:
            return markdown_plain(text)
        if column < table.names and text != MISSING:
            return markdown_name(text)
        return f"**{text}**" if (row, column) in table.bold else text

    rows = [[cell(place, i, text) for i, text in enumerate(row)] for place, row in enumerate(table.rows)]
    rule = ["---" if i < table.names else "---:" for i in range(len(table.columns))]
    lines = map(line, [[column.replace("\n", " ") for column in table.columns], rule, *rows])
    return "\n".join([*lines, *(["", table.footnote] if table.footnote else [])])


def markdown_name(text: str) -> str:
    """Return free text as a code span that cannot end early, nor end a table's cell."""
    return "`" + " ".join(text.split()).replace("`", "'").replace("|", "\\|") + "`"


def markdown_plain(text: str) -> str:
    """Return text in which Markdown does not take names within a sentence for markup."""
    for char in "\\`*_<>|":
        text = text.replace(char, f"\\{char}")
    return " ".join(text.split())
