"""Where a verdict cannot be given, no output suggests one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.colors import to_hex

from qgbench.report.analysis import Analysis, analyse
from qgbench.report.collect import collect
from qgbench.report.declared import DeclaredQuestion
from qgbench.report.figures import forest, questions
from qgbench.report.figures.style import BLACK, BLUE, GREY
from qgbench.report.measures import MEASURES
from qgbench.report.page.words import headline
from qgbench.report.tables import suite_words
from qgbench.report.write import write_report
from tests.report.test_golden import declared_of
from tests.report.test_report import make_twins

RULE = "†: one seed or fewer than 6 test groups; p is withheld, and the interval allows no verdict."
QUESTION = DeclaredQuestion(
    name="primary",
    text="Does QW help?",
    pairs=(("mean_teacher+qw", "mean_teacher"),),
    regimes={"phantom": ("n28@grouped", "n28@grouped")},
    archs=("unet",),
)
Made = Callable[[int, int], Analysis]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Twins of so many seeds and test groups; the interval of their difference lies above 0."""

    def make(seeds: int, groups: int) -> Analysis:
        make_twins(tmp_path / "runs", seeds=seeds, groups=groups)
        collection = collect([tmp_path / "runs"])
        suite = declared_of([run.record.cell for run in collection.runs])
        return analyse(collection, suite=replace(suite, primary=QUESTION, others=()))

    return make


@pytest.mark.parametrize(("seeds", "groups", "is_open"), [(1, 8, True), (3, 5, True), (2, 8, False)])
class TestOfAnInterval:
    def test_tables_mark_it_and_say_why(
        self, made: Made, tmp_path: Path, seeds: int, groups: int, is_open: bool
    ) -> None:
        write_report(made(seeds, groups), tmp_path)
        rows = [
            line for line in (tmp_path / "report.md").read_text().splitlines() if line.startswith("| `mean_teacher")
        ]
        assert rows[0].count("]†") == (3 if is_open else 0)
        assert (RULE in (tmp_path / "report.md").read_text()) == is_open
        for file in (tmp_path / "report.tex", *(tmp_path / "tables").glob("*methods-with-and-without*")):
            text = file.read_text()
            assert (r"{]}$^\dagger$" in text) == (r"$^\dagger$: one seed or fewer" in text) == is_open
        assert set(pd.read_csv(tmp_path / "results.csv")["p_withheld"]) == {is_open}

    def test_the_page_has_no_colour_for_it(
        self, made: Made, tmp_path: Path, seeds: int, groups: int, is_open: bool
    ) -> None:
        write_report(made(seeds, groups), tmp_path, html=True)
        for name in ("index.html", "comparisons.html"):
            text = (tmp_path / "page" / name).read_text()
            assert ('class="ci open"' in text) == is_open
            assert ('class="ci gain"' in text) == (not is_open)
            assert ("†</small>" in text) == is_open
        (contrast,) = (tmp_path / "page" / "contrasts").glob("*.html")
        assert (RULE in contrast.read_text()) == is_open
        assert set(pd.read_csv(tmp_path / "page" / "leaderboard.csv")["p_withheld"].dropna()) == {is_open}

    def test_the_figure_is_hollow(self, made: Made, seeds: int, groups: int, is_open: bool) -> None:
        found = made(seeds, groups)
        (draw,) = forest.plan(found).draws
        (mean,) = draw().findobj(lambda artist: artist.get_gid() == "mean")
        assert to_hex(mean.get_color()) == to_hex(GREY if is_open else BLUE)
        assert to_hex(mean.get_markerfacecolor()) == to_hex("white" if is_open else BLUE)
        (draw,) = questions.plan(found).draws
        (diamond,) = draw().findobj(lambda artist: artist.get_gid() == "answer")
        assert to_hex(diamond.get_facecolor()) == to_hex("white" if is_open else BLACK)

    def test_sentences_mark_it(self, made: Made, seeds: int, groups: int, is_open: bool) -> None:
        found = made(seeds, groups)
        assert ("†" in headline(found.sections[0].contrasts[0], "phantom", MEASURES["dice"])) == is_open
        assert found.answers is not None
        (answer,) = [line for line in suite_words(found.answers, found.measure) if "Primary estimate" in line]
        assert ("†)" in answer) == is_open
