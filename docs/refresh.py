"""Copy tables of docs/results/report.md into the documents that quote them: ``python docs/refresh.py``.

A document quotes a table between two comments, and everything between them is replaced::

    <!-- table: Suite small > The same in each data set (points) -->
    <!-- end -->

The title follows that of its chapter; ``; rows A-B`` after the title quotes some rows only, counted from 1;
``; columns 1, 4-6`` likewise.
"""

import re
import sys
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parents[1]
REPORT = ROOT / "docs" / "results" / "report.md"
DOCUMENTS = (ROOT / "README.md", ROOT / "BENCHMARK.md")

T = TypeVar("T")

_QUOTE = re.compile(
    r"(?P<begin><!-- table: (?P<title>[^;\n]+?)(?P<parts>(?:; (?:rows|columns) [\d, -]+?)*) -->\n)"
    r".*?(?P<end><!-- end -->)",
    re.DOTALL,
)


def refreshed(document: str, report: str) -> str:
    """Replace every quoted table by the report's.

    Parameters
    ----------
    document, report : str
        Markdown.

    Raises
    ------
    ValueError
        The report has no table of that title, or no such row or column.
    """
    tables = _tables(report)

    def quoted(found: re.Match[str]) -> str:
        title = found["title"]
        if title not in tables:
            raise ValueError(f"the report has no table '{title}'; it has: {'; '.join(tables)}")
        head, rule, *rows = tables[title]
        for what, places in re.findall(r"; (rows|columns) ([\d, -]+)", found["parts"]):
            if what == "rows":
                rows = _chosen(rows, places)
            else:
                head, rule, *rows = (_chosen(row, places) for row in (head, rule, *rows))
        lines = [f"| {' | '.join(row)} |" for row in (head, rule, *rows)]
        return found["begin"] + "\n".join(lines) + "\n" + found["end"]

    return _QUOTE.sub(quoted, document)


def _tables(report: str) -> dict[str, list[list[str]]]:
    """Rows of cells, for each table, by the headings above it."""
    found: dict[str, list[list[str]]] = {}
    chapter = title = ""
    for line in report.splitlines():
        if line.startswith("## "):
            chapter = line[3:].strip("`")
        elif line.startswith("### "):
            title = f"{chapter} > {line[4:]}"
        elif line.startswith("|"):
            found.setdefault(title, []).append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return found


def _chosen(items: list[T], places: str) -> list[T]:
    chosen: list[T] = []
    for part in places.replace(" ", "").split(","):
        first, _, last = part.partition("-")
        if not 1 <= int(first) <= int(last or first) <= len(items):
            raise ValueError(f"there is no {part} among {len(items)}")
        chosen += items[int(first) - 1 : int(last or first)]
    return chosen


def main() -> None:
    report = REPORT.read_text(encoding="utf-8")
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        try:
            document.write_text(refreshed(text, report), encoding="utf-8")
        except ValueError as error:
            sys.exit(f"{document.name}: {error}")


if __name__ == "__main__":
    main()
