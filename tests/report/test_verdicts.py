"""Where a verdict cannot be given, no output suggests one."""

import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from rich.console import Console
from scipy import stats

from qgbench.metrics.table import METRICS
from qgbench.quality.audit import Agreement, CheckpointAudit, QualityAudit
from qgbench.report.analysis import Analysis, analyse
from qgbench.report.audit import PREDICTS_RULE, predicts
from qgbench.report.chapters.suite import suite_words
from qgbench.report.collect import Run, collect
from qgbench.report.declared import DeclaredQuestion
from qgbench.report.figures import forest, questions
from qgbench.report.figures.style import BLACK, BLUE, GREY
from qgbench.report.outcome import outcome_table
from qgbench.report.page.words import headline
from qgbench.report.write import write_report
from tests.report.test_golden import declared_of
from tests.report.test_report import GROUP_DICE, make_record, make_twins

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
        suite = declared_of([run.record.spec for run in collection.runs])
        return analyse(collection, suite=replace(suite, confirm=(QUESTION,), others=()))

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
            assert ('class="ci gain"' in text) == (not is_open)
            assert ("†</small>" in text) == is_open
        (contrast,) = (tmp_path / "page" / "contrasts").glob("*.html")
        assert (RULE in contrast.read_text()) == is_open
        assert set(pd.read_csv(tmp_path / "page" / "results.csv")["p_withheld"].dropna()) == {is_open}

    def test_the_figure_is_hollow(self, made: Made, seeds: int, groups: int, is_open: bool) -> None:
        found = made(seeds, groups)
        (draw,) = forest.plan(found).draws
        (mean,) = draw().findobj(lambda artist: artist.get_gid() == "mean")
        assert to_hex(mean.get_color()) == to_hex(GREY if is_open else BLUE)
        assert to_hex(mean.get_markerfacecolor()) == to_hex("white" if is_open else BLUE)
        (draw,) = questions.plan_confirm(found).draws
        (diamond,) = draw().findobj(lambda artist: artist.get_gid() == "answer")
        assert to_hex(diamond.get_facecolor()) == to_hex("white" if is_open else BLACK)

    def test_sentences_mark_it(self, made: Made, seeds: int, groups: int, is_open: bool) -> None:
        found = made(seeds, groups)
        assert ("†" in headline(found.sections[0].contrasts[0], "phantom", METRICS["dice"])) == is_open
        assert found.answers is not None
        (answer,) = [line for line in suite_words(found.answers, found.measure) if line.startswith("Answer")]
        assert ("†)" in answer) == is_open


def of_g(synthetic: float, weak: float | None, at_end: float, folder: Path, **cell: Any) -> Run:
    """A run whose g has such r with true Dice: on 50 synthetic masks, 50 of weak models, 20 pseudo-labels."""

    def on(masks: int, r: float | None) -> Agreement:
        return Agreement(masks=masks, pearson=r, spearman=r, mae=0.1)

    quality = QualityAudit(
        synthetic=on(50, synthetic), weak_models=on(50, weak), image_dependence=0.3, image_dependent=True
    )
    labels = [
        CheckpointAudit(progress=moment, mean_dice=0.7, scores={"g": on(masks, r)})
        for moment, masks, r in ((0.5, 20, -0.4), (1.0, 20, at_end), (None, 40, 0.9))
    ]
    fields = {"audit": quality, "pseudo_labels": labels}
    path = make_record(folder, GROUP_DICE, addon="qw", fields=fields, **cell)
    return next(run for run in collect([folder]).runs if run.path == path)


WORKS = (0.9, 0.8, 0.6)
FAILS = {
    "synthetic masks": (0.2, 0.8, 0.6),  # 0.279 is the least for 50 masks, 0.444 for 20
    "weak models' masks": (0.9, -0.08, 0.6),
    "pseudo-labels at the end": (0.9, 0.8, 0.44),
    "weak models' masks and pseudo-labels at the end": (0.9, None, -0.5),
}


def printed(run: Run) -> str:
    console = Console(width=300, record=True, file=io.StringIO())
    console.print(outcome_table(run.record))
    return console.export_text()


class TestOfG:
    def test_a_useful_g_predicts_quality(self, tmp_path: Path) -> None:
        (line,) = [line for line in printed(of_g(*WORKS, tmp_path)).splitlines() if "g predicts quality" in line]
        assert "yes" in line
        assert PREDICTS_RULE in line

    @pytest.mark.parametrize("masks", FAILS)
    def test_a_useless_g_is_called_so_though_it_depends_on_the_image(self, tmp_path: Path, masks: str) -> None:
        text = printed(of_g(*FAILS[masks], tmp_path))
        (line,) = [line for line in text.splitlines() if "g predicts quality" in line]
        assert re.search(r"│ +no │", line)
        assert f"lies above 0 on all masks; it does not on {masks} " in line
        assert "passes" not in text

    def test_the_least_r_is_where_scipys_interval_begins_above_0(self) -> None:
        rng = np.random.default_rng(0)
        seen = set()
        for masks in range(4, 60):
            x = rng.standard_normal(masks)
            found = stats.pearsonr(x, 0.3 * x + rng.standard_normal(masks))
            above = bool(found.confidence_interval(0.95).low > 0)
            r = Agreement(masks=masks, pearson=float(found.statistic), spearman=0.0, mae=0.0)
            assert predicts(r) == above
            seen.add(above)
        assert seen == {True, False}
        assert not predicts(Agreement(masks=3, pearson=0.99, spearman=1.0, mae=0.0))

    def test_report_and_page_count_and_name_it(self, tmp_path: Path) -> None:
        runs = tmp_path / "runs"
        for seed, r in enumerate((WORKS, FAILS["weak models' masks"], FAILS["pseudo-labels at the end"])):
            of_g(*r, runs, seed=seed, dataset="ph2")
        of_g(*WORKS, runs, dataset="scd")
        write_report(analyse(collect([runs])), tmp_path / "out", html=True)
        text = (tmp_path / "out" / "report.md").read_text()
        assert "g does not predict quality here: ph2 n28@grouped, 2 of 3 runs. It would if" in text
        predictors, labels = (
            [line for line in text.splitlines() if line.startswith(begin)]
            for begin in ("| `g` | 3 | ", "| `mean_teacher` | `qw` | 3 | ")
        )
        assert predictors[0].endswith("| 3 of 3 | 2 of 3 |"), "all depend on the image, one is useless on weak masks"
        assert [line.split(" | ")[-1] for line in labels if " %" in line or "pooled" in line] == [
            "0 of 3 |",
            "2 of 3 |",
            "-- |",
        ]
        pages = sorted((tmp_path / "out" / "page" / "runs").glob("ph2*.html"))
        verdicts = [re.findall(r"g (?:does not )?predicts? quality on ([^:]*):", page.read_text()) for page in pages]
        assert sorted(verdicts) == [["all masks"], ["pseudo-labels at the end"], ["weak models&#39; masks"]]
