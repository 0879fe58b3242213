"""What ``qgbench report`` says in the terminal."""

from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from qgbench.cli.main import app
from qgbench.metrics.table import metric_named
from qgbench.report.analysis import analyse
from qgbench.report.brief import _print_twins, print_report
from qgbench.report.collect import collect
from qgbench.run.record import find_records, read_record
from tests.report.test_golden import declared_of
from tests.report.test_report import GROUP_DICE, make_record, make_twins, only_section
from tests.report.test_verdicts import QUESTION, RULE


def said(folder: Path, *options: str) -> str:
    words = ["report", str(folder), "--output", str(folder / "out"), "--no-figures", *options]
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_the_comparison_comes_first_then_where_the_files_are(tmp_path: Path) -> None:
    make_twins(tmp_path, dataset="ph2", method="lab.py:[b]Mine[/b]")
    make_record(tmp_path, GROUP_DICE, dataset="ph2", method="supervised")
    lines = said(tmp_path, "--html").splitlines()
    assert lines[0].startswith("Dice %, mean over test groups and seeds")
    (row,) = [" ".join(line.split()) for line in lines if "ph2, n28@grouped" in line]
    assert row == "lab.py:[b]Mine[/b] + qw ph2, n28@grouped 3 73.50 75.50 2.00 [0.91, 3.09] 0.003"
    assert RULE not in lines
    assert lines[-2].startswith(f"report: {tmp_path / 'out' / 'report.md'};")
    assert lines[-1] == f"page: {tmp_path / 'out' / 'page' / 'index.html'}"


def test_of_one_seed_it_says_why_there_is_no_p(tmp_path: Path) -> None:
    make_twins(tmp_path, seeds=1)
    text = said(tmp_path)
    assert "2.00 [0.91, 3.09]†  withheld" in text
    assert "have a p" not in text
    assert RULE in text.splitlines()


def test_scripts_get_the_names_of_all_files(tmp_path: Path) -> None:
    make_twins(tmp_path)
    files = said(tmp_path, "--quiet").split()
    assert len(files) > 8
    assert all(Path(file).is_file() for file in files)


def test_of_many_comparisons_the_first_are_shown_and_the_others_counted(tmp_path: Path) -> None:
    for number in range(15):
        make_twins(tmp_path, method=f"method{number:02}")
    lines = said(tmp_path).splitlines()
    assert sum(" + qw" in line for line in lines) == 12
    assert "The first 12 of 15 comparisons; the report has all." in lines


def test_without_an_add_on_there_is_nothing_to_compare(tmp_path: Path) -> None:
    make_record(tmp_path, GROUP_DICE)
    assert said(tmp_path).startswith("No method is there with and without an add-on: nothing to compare yet.")


def test_what_was_not_used_is_counted_and_named(tmp_path: Path) -> None:
    make_twins(tmp_path, seeds=1)
    broken = next(path for path in find_records(tmp_path) if read_record(path).spec.addon)
    broken.write_text(broken.read_text()[:200])
    assert f"Not used: 1, at the end of the report ({broken}: " in said(tmp_path)


def test_what_the_numbers_are_is_said_at_every_width(tmp_path: Path) -> None:
    make_twins(tmp_path)
    console = Console(width=40, file=StringIO(), force_terminal=True)
    _print_twins(
        [("setting", contrast) for contrast in only_section(tmp_path).contrasts], metric_named("dice"), console
    )
    assert isinstance(console.file, StringIO)
    assert "Dice %, mean over test groups and seeds" in " ".join(console.file.getvalue().split())


def test_near_copies_are_told_beside_the_numbers_that_they_spoil(tmp_path: Path) -> None:
    make_record(tmp_path, GROUP_DICE, fields={"near_copies": {"val": [], "test": ["a", "b"]}})
    told = [problem.cause for problem in only_section(tmp_path).problems]
    assert "2 test images are near copies of images that it trains on" in told


def test_a_suites_first_question_is_answered_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_twins(tmp_path)
    collection = collect([tmp_path])
    suite = replace(declared_of([run.record.spec for run in collection.runs]), confirm=(QUESTION,), others=())
    print_report(analyse(collection, suite=suite), [tmp_path / "report.md"])
    question, answer, title, *_ = capsys.readouterr().out.splitlines()
    assert question == "Confirmatory question, declared before the runs: Does QW help?"
    assert answer.startswith("Answer: Dice differs by +2.00 (points; 95 % confidence interval 0.91 to 3.09)")
    assert title.startswith("Dice %")
