"""The documentation site: every page is in it, what it shows of Python runs, and a link that leads nowhere is found."""

import doctest
import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from typer.main import get_command

from qgbench.cli.main import app
from qgbench.plugins.registry import method_names
from qgbench.run.record import Record
from qgbench.spec.protocol import QualitySettings, TrainSettings

ROOT = Path(__file__).parents[1]
MADE = {"reference/cli.md", "reference/settings.md", "reference/record.md"}
BESIDE = {"results/report.md"}  # linked to, not in the navigation


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages(small_report: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    script("site_pages").lay_out(folder, small_report)
    return folder


class _Loader(yaml.SafeLoader):
    """Reads mkdocs.yml without making the objects that it names."""


_LoaderType: Any = _Loader
_LoaderType.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def leaves(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for part in nav.values() if isinstance(nav, dict) else nav:
            yield from leaves(part)


def test_the_navigation_has_every_page_once(pages: Path) -> None:
    nav = list(leaves(yaml.load((ROOT / "mkdocs.yml").read_text(), _Loader)["nav"]))
    assert len(nav) == len(set(nav))
    assert set(nav) | BESIDE == {str(page.relative_to(pages)) for page in pages.rglob("*.md")} | MADE | BESIDE


def test_links_between_documents_are_turned_to_pages(pages: Path) -> None:
    statistics = (pages / "explanation/statistics.md").read_text()
    assert "](protocol.md#statistics-qgbenchstatscrossedpy)" in statistics
    assert "](../decisions/protocol-3.md)" in (pages / "explanation/protocol.md").read_text()
    assert "](../examples/plain_loop.py)" in (pages / "how-to/loop.md").read_text()
    assert (pages / "examples/plain_loop.py").is_file()
    assert "| [`page/index.html`](../results/page/index.html) |" in (pages / "findings/index.md").read_text()
    assert (pages / "results/page/index.html").is_file()
    assert "](../pictures/answer.svg)" in (pages / "findings/index.md").read_text()


def test_a_link_out_of_the_site_is_refused() -> None:
    turned = script("site_pages").turned
    page = ROOT / "docs" / "start" / "install.md"
    assert turned("[a](https://b.org) [c](#d)", page) == "[a](https://b.org) [c](#d)"
    with pytest.raises(ValueError, match=r"docs/start/install.md links to ../../qgbench/cli/main.py, which is not"):
        turned("[a](../../qgbench/cli/main.py)", page)


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/reference/api-*.md")), ids=lambda page: page.stem)
def test_the_python_that_a_page_shows_runs(page: Path) -> None:
    test = doctest.DocTestParser().get_doctest(
        "\n".join(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)),
        {},
        page.name,
        None,
        0,
    )
    assert len(test.examples) >= 3
    assert doctest.DocTestRunner(verbose=False).run(test).failed == 0


def test_the_reference_has_every_command_setting_and_field() -> None:
    reference = script("site_reference")
    commands = reference.command_line()
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]  # it is a group
        assert f"\n## `qgbench {name}`\n" in commands
        options = [option for param in command.params for option in param.opts if option.startswith("--")]
        assert all(f"{option}" in commands for option in options)
    assert "* `run`: Train one method on one data set, with or without quality guidance, and measure it" in commands
    assert not re.search(r"^\* .*\.\.\.$", commands, re.MULTILINE)
    assert commands.count("qgbench[onnx]") == 3
    assert "span" not in commands
    assert "[bold]" not in commands
    settings = reference.settings()
    assert "typing." not in settings
    for prefix, kind in (("train", TrainSettings), ("quality", QualitySettings)):
        assert all(f"| `{prefix}.{name}` |" in settings for name in kind.model_fields)
    assert all(f"## The method `{name}`" in settings for name in method_names())
    assert "| `qg.tau` | `0.5` | a number >= 0 and <= 1 |" in settings
    record = reference.record()
    assert all(f"| `{name}` |" in record for name in Record.model_fields)
    links = set(re.findall(r"\]\(#(\w+)\)", record))
    assert links <= {heading.lower() for heading in re.findall(r"^## (\S+)$", record, re.MULTILINE)}


def test_links_that_lead_nowhere_are_told(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "picture.png").touch()
    (tmp_path / "index.html").write_text(
        '<h1 id="top">a</h1><img src="picture.png"><a href="deep/">b</a><a href="#to p">c</a>'
    )
    (tmp_path / "deep/index.html").write_text(
        '<a href="../index.html#top">a</a><a href="../index.html#gone">b</a><script src="no.js"></script>'
        '<a href="https://example.org/x">c</a><a href="../index.html#q=1">what a script reads</a>'
    )
    assert script("site_links").broken(tmp_path) == [
        "deep/index.html: no anchor ../index.html#gone",
        "deep/index.html: no file no.js",
        "index.html: no anchor #to p",
    ]


def test_the_demo_page_types_what_make_demo_types() -> None:
    page = (ROOT / "docs/start/demo.md").read_text().partition("```sh\n")[2].partition("```")[0]
    demo = (ROOT / "Makefile").read_text().partition("\ndemo: install\n")[2].partition("\n\n")[0]
    assert page.splitlines() == [line.replace("\t$(BIN)/", "") for line in demo.splitlines() if "qgbench " in line]


@pytest.mark.slow
def test_the_site_is_built_without_a_broken_link(small_report: Path, tmp_path: Path) -> None:
    """What `make site` does, elsewhere."""
    pytest.importorskip("zensical", reason="the extra 'docs' is not installed")
    folder = tmp_path / "build/site/pages"
    calls = (["docs/site_pages.py", folder, small_report], ["docs/site_reference.py", folder / "reference"])
    for words in calls:
        subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, check=True)
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    (tmp_path / "qgbench").symlink_to(ROOT / "qgbench")
    built = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    html = tmp_path / "build/site/html"
    assert script("site_links").broken(html) == []
    assert 'id="qgbench.methods.losses.soft_dice_loss"' in (html / "reference/api-losses.html").read_text()
    outside = {
        target
        for page in html.rglob("*.html")
        if "results/page" not in page.as_posix()
        for target in re.findall(r'<(?:script|link)[^>]*(?:src|href)="(https?:[^"]+)"', page.read_text())
        if "canonical" not in target
    }
    assert not outside, "pages load from other sites"
