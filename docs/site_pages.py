"""Lay out the pages of the documentation site: ``python docs/site_pages.py FOLDER RESULTS``.

The pages are those of docs/, its notebooks, and some documents of the repository's top, at the places that `PLACES`
gives them. Links between them are turned; one to a file that is not in the site ends the command. RESULTS is what
`make results` wrote. It is not in git, so that documents name a file of it, as `build/results/report.md`, and the site
makes a link of the name. `make site` goes on from there.
"""

import os
import re
import shutil
import sys
from pathlib import Path

from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PLACES = {
    "README.md": "index.md",
    "BENCHMARK.md": "explanation/protocol.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "docs/STATISTICS.md": "explanation/statistics.md",
    "docs/PERFORMANCE.md": "explanation/performance.md",
    "docs/index.md": "index.md",
    "docs/site.css": "site.css",
}
SHOWN = (".md", ".py", ".png", ".svg", ".html", ".css", ".js", ".json", ".csv", ".ipynb", ".jpg")
RESULTS = "build/results/"
_MADE = re.compile(f"`{RESULTS}(?P<file>[^`\\s]+)`")
_LINK = re.compile(r"\]\((?!\w+:)(?P<file>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")


def place(source: Path) -> str | None:
    """Return where a file of the repository stands in the site, a notebook as a page; None if it is not in it."""
    source = source.with_suffix(".md") if source.suffix == ".ipynb" else source
    name = source.relative_to(ROOT).as_posix() if source.is_relative_to(ROOT) else ""
    if name in PLACES:
        return PLACES[name]
    return name.removeprefix("docs/") if name.startswith("docs/") and source.suffix in (*SHOWN, "") else None


def turned(text: str, source: Path) -> str:
    """Return a page with its links as they are in the site, and with links to what it names of the results.

    Raises
    ------
    ValueError
        A link leads to a file that the site does not have.
    """
    here = place(source)
    assert here is not None

    def link(found: re.Match[str]) -> str:
        target = place((source.parent / found["file"]).resolve())
        if target is None:
            raise ValueError(f"{source.relative_to(ROOT)} links to {found['file']}, which is not in the site")
        return f"]({os.path.relpath(target, Path(here).parent)}{found['anchor'] or ''})"

    results = os.path.relpath("results", Path(here).parent)
    return _MADE.sub(rf"[`\g<file>`]({results}/\g<file>)", _LINK.sub(link, text))


def lay_out(folder: Path, results: Path) -> None:
    """Write every page and every file that pages show, and the results from their folder."""
    shutil.copytree(results, folder / "results", ignore=shutil.ignore_patterns("*.pdf", "*.tex", ".*"))
    written = [ROOT / name for name in PLACES if name != "README.md"]
    written += [file for file in DOCS.rglob("*") if file.suffix in SHOWN and file.parent != DOCS]
    for source in written:
        target = folder / (place(source) or "")
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".ipynb":
            text, shown = MarkdownExporter().from_filename(str(source))
            target.write_text(text, encoding="utf-8")
            for name, picture in shown["outputs"].items():
                target.with_name(name).write_bytes(picture)
        elif source.suffix == ".md":
            target.write_text(turned(source.read_text(encoding="utf-8"), source), encoding="utf-8")
        else:
            shutil.copyfile(source, target)


if __name__ == "__main__":
    try:
        lay_out(*map(Path, sys.argv[1:]))
    except ValueError as error:
        sys.exit(f"error: {error}")
