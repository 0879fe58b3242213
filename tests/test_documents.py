"""Documents that quote results say what the records in results/ give."""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from qgbench.cli.main import app
from qgbench.report.analysis import Analysis
from qgbench.report.figures import answer, render

ROOT = Path(__file__).parents[1]
RESULTS = "docs/findings/small.md"
DOCUMENTS = [*ROOT.glob("*.md"), *sorted(ROOT.glob("docs/**/*.md"))]
MADE = (
    "reference/cli.md",
    "reference/settings.md",
    "reference/record.md",
)  # by `make site`, which checks links to them
REPORT = """# Report

## `Suite small`

### Questions

| Question | p | q |
| --- | ---: | ---: |
| `a` | 1 | 4 |
| `b \\| c` | 2 | 5 |
| `d` | 3 | 6 |
"""
HEAD = ["| Question | p | q |", "| --- | ---: | ---: |"]


@pytest.fixture(scope="module")
def refresh() -> ModuleType:
    spec = importlib.util.spec_from_file_location("refresh", ROOT / "docs" / "refresh.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["README.md", RESULTS])
def test_quoted_tables_are_those_of_the_records(refresh: ModuleType, small_report: Path, name: str) -> None:
    text, report = (ROOT / name).read_text(), (small_report / "report.md").read_text()
    assert text.count("<!-- table: ") == text.count("<!-- end -->") > 0
    assert refresh.refreshed(text, report) == text, "results/ or the report changed: run make results"


def test_the_picture_of_the_readme_is_that_of_the_records(refresh: ModuleType, small: Analysis) -> None:
    """Its words and numbers: what else is in the file, versions of matplotlib write otherwise."""
    kept = refresh.PICTURE.read_bytes()
    (draw,) = answer.plan(small).draws
    shown = refresh.words(kept.decode())
    assert "scd" in shown
    assert shown == refresh.words(render(draw)["svg"].decode()), "results/ or the figure changed: run make results"
    assert len(kept) < 60_000
    assert f"]({refresh.PICTURE.relative_to(ROOT)})" in (ROOT / "README.md").read_text()


def test_what_documents_name_of_the_results_is_written(small_report: Path) -> None:
    named = {file for page in DOCUMENTS for file in re.findall(r"`build/results/([^`\s]+)`", page.read_text())}
    assert {"report.md", "page/index.html"} <= named
    assert not [file for file in named if not (small_report / file).is_file()]


def test_the_page_of_methods_lists_what_their_docstrings_say(refresh: ModuleType) -> None:
    text = refresh.METHODS.read_text()
    assert refresh.with_deviations(text) == text, "run python docs/refresh.py"


def test_the_readme_says_what_the_primary_question_is_answered(small_report: Path) -> None:
    found = json.loads((small_report / "report.json").read_text())["suite"]["confirm"][0]["estimate"]
    mean, (low, high) = 100 * found["mean"], (100 * end for end in found["interval"])
    text = " ".join((ROOT / "README.md").read_text().split())
    assert f"{mean:.2f} points (95 % interval {low:.2f} to {high:.2f})" in text
    assert ("Whether quality weighting (QW) helps is not settled" in text) == (low < 0 < high)


def test_what_the_answers_rest_on_is_what_the_script_prints() -> None:
    command = [sys.executable, "perf/answer_robustness.py", "results"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    section = (ROOT / RESULTS).read_text().partition("## What these answers rest on\n")[2].partition("\n## ")[0]
    printed = set(re.findall(r"-?\d+\.\d+", said))
    # Single runs' Dice and the earlier g's answer are not the script's: the text names where they come from.
    elsewhere = {"65.5", "63.8", "76.5", "80.0", "77.4", "74.3", "0.15", "-0.33", "0.63"}
    assert set(re.findall(r"-?\d+\.\d+", section)) - elsewhere <= printed


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_links_to_is_there(document: Path) -> None:
    text = document.read_text()
    links = re.findall(r"\]\((?!https?:)([^)\s]*?)(?:#([^)\s]+))?\)", text)
    for file, anchor in links:
        target = document.parent / file if file else document
        assert target.exists() or file.endswith(MADE), file
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            anchors = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor in anchors, anchor


def typed(document: str) -> list[str]:
    """What stands in the document to be typed after ``qgbench``, line by line."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL)
    return re.findall(r"^(?:nice )?qgbench (.+)$", "\n".join(blocks), re.MULTILINE)


def test_documents_type_commands() -> None:
    """A pattern that finds no command would make the next test hollow."""
    assert len([document for document in DOCUMENTS if typed(str(document.relative_to(ROOT)))]) >= 20


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_command_line_understands_what_a_document_types(document: Path) -> None:
    for line in typed(str(document.relative_to(ROOT))):
        verb, words = get_command(app), shlex.split(line, comments=True)
        while hasattr(verb, "commands"):
            assert words[0] in verb.commands, line
            verb = verb.commands[words.pop(0)]
        verb.make_context(line, words)  # refuses unknown options and wrong values


def test_the_power_line_works_on_the_committed_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    line, _ = [line for line in typed("docs/how-to/report.md") if line.startswith("power ")]  # the other is of a suite
    result = CliRunner().invoke(app, shlex.split(line, comments=True), catch_exceptions=False)
    assert result.exit_code == 0
    assert "3 seeds" in result.output


@pytest.mark.parametrize(
    ("parts", "lines"),
    [
        (
            "",
            [
                "| Question | p | q |",
                "| --- | ---: | ---: |",
                "| `a` | 1 | 4 |",
                r"| `b \| c` | 2 | 5 |",
                "| `d` | 3 | 6 |",
            ],
        ),
        ("; rows 1, 3", ["| Question | p | q |", "| --- | ---: | ---: |", "| `a` | 1 | 4 |", "| `d` | 3 | 6 |"]),
        ("; rows d*, a", [*HEAD, "| `a` | 1 | 4 |", "| `d` | 3 | 6 |"]),
        ("; rows 2-3; columns 1, 3", ["| Question | q |", "| --- | ---: |", r"| `b \| c` | 5 |", "| `d` | 6 |"]),
    ],
)
def test_rows_and_columns_can_be_chosen(refresh: ModuleType, parts: str, lines: list[str]) -> None:
    begin = f"text\n<!-- table: Suite small > Questions{parts} -->\n"
    found = refresh.refreshed(f"{begin}old\n<!-- end -->\nmore\n", REPORT)
    assert found == begin + "\n".join(lines) + "\n<!-- end -->\nmore\n"


@pytest.mark.parametrize(
    ("quote", "said"),
    [
        ("Suite small > Answers", "it has: Suite small > Questions"),
        ("Suite small > Questions; rows 3-4", "no 3-4 among 3"),
        ("Suite small > Questions; rows a, e*", r"no row is called e\*"),
    ],
)
def test_what_is_not_in_the_report_is_said(refresh: ModuleType, quote: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        refresh.refreshed(f"<!-- table: {quote} -->\n<!-- end -->", REPORT)
