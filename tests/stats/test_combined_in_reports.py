"""What reports say of the mean over data sets."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from qgbench.report.across import AddonAcross
from qgbench.report.analysis import Analysis, analyse
from qgbench.report.collect import collect
from qgbench.report.figures.forest import plan
from qgbench.report.write import write_report
from tests.report.test_figures import only_figure, texts
from tests.report.test_report import GROUP_DICE, make_record

GAINS = {"ph2": 0.01, "isic": 0.02, "clinic": 0.04, "kvasir": 0.02, "busi": 0.03}


def analysed(folder: Path, sets: int, seeds: int = 3, regimes: tuple[str, ...] = ("n28@grouped",)) -> Analysis:
    """Twins on several data sets; a group's gain is the same in all regimes."""
    for index, (dataset, gain) in enumerate(list(GAINS.items())[:sets]):
        by_group = gain + 0.01 * np.random.default_rng(index).standard_normal(8).round(2)
        for regime in regimes:
            for seed in range(seeds):
                cell: dict[str, Any] = {"dataset": dataset, "regime": regime, "seed": seed}
                make_record(folder, GROUP_DICE, **cell)
                make_record(folder, GROUP_DICE + by_group, addon="qw", **cell)
    return analyse(collect([folder]))


def only_addon(analysis: Analysis) -> AddonAcross:
    (across,) = analysis.across
    (addon,) = across.addons
    return addon


def test_five_sets_with_three_seeds_are_tested_by_their_means_and_every_report_says_so(tmp_path: Path) -> None:
    analysis = analysed(tmp_path / "runs", 5)
    found = only_addon(analysis)
    assert found.combined is not None
    means = [contrast.difference.estimate.mean for _, contrast in found.contrasts if contrast.difference is not None]
    assert found.combined.p == pytest.approx(stats.ttest_1samp(means, 0).pvalue)

    write_report(analysis, tmp_path / "report", figures=False)
    rule = "Interval and p over data sets (qw): Student's t over the data sets' means"
    assert rule in (tmp_path / "report" / "report.md").read_text()
    (written,) = json.loads((tmp_path / "report" / "report.json").read_text())["across"][0]["addons"]
    assert written["combined"]["method"] == "t over sets"
    assert "(a) one test an add-on: p is not adjusted; Student's t over the data sets' means" in " ".join(
        texts(only_figure(plan(analysis)))
    )


def test_five_sets_with_four_seeds_are_not(tmp_path: Path) -> None:
    analysis = analysed(tmp_path / "runs", 5, seeds=4)
    found = only_addon(analysis)
    assert found.combined is not None
    assert found.combined.method == "combined"
    write_report(analysis, tmp_path / "report", figures=False)
    assert "Student's t over" not in (tmp_path / "report" / "report.md").read_text()


def test_regimes_of_a_data_set_are_not_counted_as_independent_sets(tmp_path: Path) -> None:
    once = only_addon(analysed(tmp_path / "once", 2)).combined
    twice = only_addon(analysed(tmp_path / "twice", 2, regimes=("n28@grouped", "n14@grouped"))).combined
    assert once is not None
    assert twice is not None
    assert (twice.method, twice.groups, twice.interval, twice.p) == (
        "combined",
        once.groups,
        pytest.approx(once.interval),
        pytest.approx(once.p),
    )


def test_why_the_combined_p_is_withheld_is_said_by_data_set(tmp_path: Path) -> None:
    analysis = analysed(tmp_path / "runs", 2, seeds=1)
    write_report(analysis, tmp_path / "report", figures=False)
    text = (tmp_path / "report" / "report.md").read_text()
    assert "one seed says nothing about other seeds (isic, ph2)" in text
    assert "(combined, qw)" in text
