"""The short leaderboard: means over data sets, recomputed from the rows of the records."""

from pathlib import Path

import numpy as np
import pytest

from qgbench.report.analysis import Analysis, analyse
from qgbench.report.collect import Collection, collect
from qgbench.report.page.words import where_words
from qgbench.report.standings import standings
from qgbench.spec.arm import ArmName
from tests.report.test_report import GROUP_DICE, make_record

BETTER = {"fixmatch": 0.03, "cps": 0.0, "supervised": -0.02}


def made(folder: Path, datasets: tuple[str, ...] = ("ph2", "scd", "cvc")) -> Analysis:
    """Data sets of different difficulty; FixMatch and CPS with QW, FixMatch with a control, BCP on one of them only."""
    for harder, dataset in enumerate(datasets):
        for seed in range(2):
            for method, more in BETTER.items():
                dice = GROUP_DICE - 0.05 * harder + 0.01 * seed + more
                make_record(folder, dice, method=method, dataset=dataset, seed=seed)
                if method != "supervised":
                    make_record(
                        folder, dice + 0.01 * (harder + 1), method=method, addon="qw", dataset=dataset, seed=seed
                    )
            make_record(folder, dice, method="fixmatch", addon="qw-shuffled", dataset=dataset, seed=seed)
    make_record(folder, GROUP_DICE + 0.1, method="bcp", dataset=datasets[0])
    return analyse(collect([folder]))


def test_rows_are_means_over_data_sets_with_equal_weights_the_best_first(tmp_path: Path) -> None:
    found = standings(made(tmp_path))
    assert [(row.name.method, row.addon) for row in found.rows] == [
        ("fixmatch", "qw"),
        ("cps", "qw"),
        ("supervised", ""),
    ]
    mean = GROUP_DICE.mean() - 0.05 + 0.005
    for row in found.rows:
        assert row.plain is not None
        assert row.plain.mean == pytest.approx(mean + BETTER[row.name.method])
        assert row.plain.interval is not None
        if row.addon:
            assert row.guided is not None
            assert row.gain is not None
            assert row.guided.mean == pytest.approx(row.plain.mean + 0.02)
            assert row.gain.mean == pytest.approx(np.mean([0.01, 0.02, 0.03]))
    assert {section.setting.dataset for section in found.sections} == {"ph2", "scd", "cvc"}
    assert found.across is not None
    assert where_words(found, {"ph2": "PH2", "scd": "SCD", "cvc": "CVC"}) == "3 data sets, 28 labels"


def test_of_one_setting_rows_are_its_cells(tmp_path: Path) -> None:
    what = made(tmp_path, ("ph2",))
    found = standings(what)
    (section,) = what.sections
    assert found.rows[0].name == ArmName("bcp", "", ""), "every cell of the setting is there"
    for row in found.rows:
        own = section.cells[row.name].estimate
        assert row.plain is not None
        assert (row.plain.mean, row.plain.interval) == (pytest.approx(own.mean), pytest.approx(own.interval))


def test_of_no_records_there_are_none() -> None:
    assert standings(analyse(Collection([], []))).rows == []
