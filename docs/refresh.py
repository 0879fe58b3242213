"""Copy into documents what they quote, tables of a report and docstrings of methods: ``python docs/refresh.py``.

A document quotes a table of build/results/report.md, which `make results` writes, between two comments, and everything
between them is replaced::

    <!-- table: Suite small > The same in each data set (points) -->
    <!-- end -->

The title follows that of its chapter. ``; rows 1-5, qar, qw-*`` after it quotes the first five
rows and those with such names only, ``; columns 1, 4-6`` some columns.

docs/reference/methods.md has what all methods do otherwise than their authors after ``<!-- shared -->``, and what each
does after ``<!-- deviations -->``, up to the next ``<!-- end -->``. docs/pictures has the figure that README shows.
"""

import re
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar

from qgbench.cli.listing import deviations
from qgbench.plugins.registry import method_names
from qgbench.spec.method import Declared, declared

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "build" / "results"
PICTURE = ROOT / "docs" / "pictures" / "answer.svg"
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "findings" / "small.md")
METHODS = ROOT / "docs" / "reference" / "methods.md"

T = TypeVar("T")

_QUOTE = re.compile(
    r"(?P<begin><!-- table: (?P<title>[^;\n]+?)(?P<parts>(?:;\s(?:rows|columns) [\w, *-]+?)*) -->\n)"
    r".*?(?P<end><!-- end -->)",
    re.DOTALL,
)


def refreshed(document: str, report: str) -> str:
    """Return the document with every quoted table as it is in the report.

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
        for what, places in re.findall(r";\s(rows|columns) ([\w, *-]+)", found["parts"]):
            if what == "rows":
                rows = _chosen_rows(rows, places)
            else:
                head, rule, *rows = (_chosen(row, places) for row in (head, rule, *rows))
        lines = [f"| {' | '.join(row)} |" for row in (head, rule, *rows)]
        return found["begin"] + "\n".join(lines) + "\n" + found["end"]

    return _QUOTE.sub(quoted, document)


def with_deviations(document: str) -> str:
    """Return the document with what all methods do otherwise than their authors, and each that ships."""
    rows = ["| method | deviation |", "|---|---|"]
    for name in method_names():
        rows += [f"| {name} | {text} |" for text in deviations(declared(name))]
    for name, lines in (("shared", [f"- {text}" for text in deviations(Declared)]), ("deviations", rows)):
        begin, end = f"<!-- {name} -->\n", "<!-- end -->"
        before, _, rest = document.partition(begin)
        document = before + begin + "\n".join(lines) + "\n" + end + rest.partition(end)[2]
    return document


def words(picture: str) -> list[str]:
    """Return every word and number that an SVG shows; versions of matplotlib draw the same ones otherwise."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", picture)


def _tables(report: str) -> dict[str, list[list[str]]]:
    """Return each table's rows of cells, by the headings above it."""
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
    for part in _parts(places):
        first, _, last = part.partition("-")
        if not 1 <= int(first) <= int(last or first) <= len(items):
            raise ValueError(f"there is no {part} among {len(items)}")
        chosen += items[int(first) - 1 : int(last or first)]
    return chosen


def _chosen_rows(rows: list[list[str]], wanted: str) -> list[list[str]]:
    """Return rows chosen by place, or by a name in a code span: each once, in the table's order."""
    places: set[int] = set()
    for part in _parts(wanted):
        if part[0].isdigit():
            places.update(_chosen(list(range(len(rows))), part))
            continue
        named = [
            place
            for place, row in enumerate(rows)
            if any(cell.startswith("`") and fnmatchcase(cell.strip("`"), part) for cell in row)
        ]
        if not named:
            raise ValueError(f"no row is called {part}")
        places.update(named)
    return [rows[place] for place in sorted(places)]


def _parts(places: str) -> list[str]:
    return places.replace(" ", "").split(",")


def main() -> None:
    report = (RESULTS / "report.md").read_text(encoding="utf-8")
    drawn = (RESULTS / "figures" / PICTURE.name).read_text(encoding="utf-8")
    if words(drawn) != words(PICTURE.read_text(encoding="utf-8")):
        PICTURE.write_text(drawn, encoding="utf-8")
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        try:
            document.write_text(refreshed(text, report), encoding="utf-8")
        except ValueError as error:
            sys.exit(f"{document.name}: {error}")
    METHODS.write_text(with_deviations(METHODS.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
