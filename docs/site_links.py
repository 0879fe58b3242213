"""Tell every link of a built site that leads nowhere: ``python docs/site_links.py FOLDER``.

Zensical's strict mode checks links from page to page. This checks what was built: pages, files and anchors, in links,
pictures, scripts and styles. Links to other sites are left alone, and so are what a page's script reads, #name=value.
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class _Page(HTMLParser):
    """The anchors of a page, and where it leads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.targets: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note one element's."""
        for name, value in attrs:
            if value and (name == "id" or (tag == "a" and name == "name")):
                self.anchors.add(value)
            elif value and name in ("href", "src"):
                self.targets.add(value)


def broken(folder: Path) -> list[str]:
    """Return a line for each link inside a folder of HTML that leads to no file or to no anchor of it."""
    pages = {path.resolve(): _Page(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.html"))}
    faults = []
    for path, page in pages.items():
        for target in sorted(page.targets):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            # 404.html is shown at any address, so that its links begin at the site's top.
            base = folder if parts.path.startswith("/") else path.parent
            file = (base / unquote(parts.path).lstrip("/")).resolve() if parts.path else path
            file = file / "index.html" if file.is_dir() else file
            if not file.is_file():
                faults.append(f"{path.relative_to(folder.resolve())}: no file {target}")
            elif (
                file in pages
                and unquote(parts.fragment) not in pages[file].anchors | {""}
                and "=" not in parts.fragment
            ):
                faults.append(f"{path.relative_to(folder.resolve())}: no anchor {target}")
    return faults


if __name__ == "__main__":
    if found := broken(Path(sys.argv[1])):
        sys.exit("\n".join(["error: links that lead nowhere:", *found]))
