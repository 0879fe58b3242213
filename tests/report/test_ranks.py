"""How far ranks hold, and whether methods differ by more than seeds: against scipy and by hand."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from qgbench.report.across import Across
from qgbench.report.analysis import analyse
from qgbench.report.chapters.across import across_chapter
from qgbench.report.collect import collect
from tests.report.test_report import GROUP_DICE, make_images, make_record

METHODS = ("bcp", "cps", "fixmatch", "ict")
GAINS = {"ph2": (0.03, 0.02, 0.01, 0.0), "scd": (0.0, 0.03, 0.02, 0.01), "busi": (0.03, 0.0, 0.02, 0.01)}
BY_SEED = np.array([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.04]])  # seed 1 turns the last method into the best


@pytest.fixture(scope="module")
def across(tmp_path_factory: pytest.TempPathFactory) -> Across:
    """Four methods on three data sets, two seeds; HD95 ranks them backwards."""
    folder = tmp_path_factory.mktemp("records")
    for dataset, gains in GAINS.items():
        for place, (method, gain) in enumerate(zip(METHODS, gains, strict=True)):
            for seed in range(2):
                images = make_images(GROUP_DICE + gain + BY_SEED[seed, place])
                images["hd95"] = 5 + 100 * gain
                make_record(folder, GROUP_DICE, images=images, dataset=dataset, method=method, seed=seed)
    (found,) = analyse(collect([folder])).across
    return found


def ranks_of(means: np.ndarray) -> np.ndarray:
    """Average ranks (M,) of means (D, M), worked out pair by pair."""
    above = (means[:, None, :] > means[:, :, None]).sum(axis=2)
    tied = (means[:, None, :] == means[:, :, None]).sum(axis=2)
    return (above + (tied + 1) / 2).mean(axis=0)


def test_agreements_are_kendalls_tau_with_ranks_by_other_rules(across: Across) -> None:
    gains = np.array(list(GAINS.values()))
    order = [METHODS.index(name.method) for name in across.names]
    by_seed = [gains + BY_SEED[seed] for seed in range(2)]
    whole = ranks_of(np.mean(by_seed, axis=0).round(9))
    assert across.ranks == pytest.approx(whole[order])

    def tau(*others: np.ndarray) -> list[float]:
        return [float(stats.kendalltau(whole, ranks_of(other.round(9))).statistic) for other in others]

    mean = np.mean(by_seed, axis=0)
    expected = {
        "by means over images": tau(mean),
        "by HD95": tau(-gains),
        "by a single seed": tau(*by_seed),
        "without one data set": tau(*(np.delete(mean, place, axis=0) for place in range(3))),
    }
    found = {one.rule: one for one in across.agreements}
    assert list(found) == list(expected)
    for rule, taus in expected.items():
        assert found[rule][1:] == pytest.approx((len(taus), np.mean(taus), min(taus))), rule
    assert found["by means over images"].mean == pytest.approx(1)
    assert found["by a single seed"].least < found["by a single seed"].mean < 1


def test_spread_between_methods_and_seeds_by_hand(across: Across) -> None:
    assert [one.setting.dataset for one in across.noise] == ["busi", "ph2", "scd"]
    for one in across.noise:
        means = np.array(GAINS[one.setting.dataset]) + BY_SEED.mean(axis=0)
        assert one.cells == pytest.approx(means.std(ddof=1))
        assert one.seeds == pytest.approx(np.sqrt(0.04**2 / 2 / 4))  # one of four cells has two runs 0.04 apart


def test_tables_say_what_they_show(across: Across) -> None:
    tables = {table.title: table for table in across_chapter(across).tables}
    holds, noise = tables["How far these ranks hold"], tables["Do methods differ by more than seeds?"]
    assert [row[:2] for row in holds.rows] == [
        ["by means over images", "1"],
        ["by HD95", "1"],
        ["by a single seed", "2"],
        ["without one data set", "3"],
    ]
    assert [row[3] for row in noise.rows] == [f"{one.cells / one.seeds:.2f}" for one in across.noise]
    assert "Kendall's tau" in holds.says
    assert all(table.says for table in tables.values())


def test_two_methods_or_one_seed_have_nothing_to_agree_on(tmp_path: Path) -> None:
    for dataset in ("ph2", "scd"):
        for method in METHODS[:2]:
            make_record(tmp_path, GROUP_DICE, dataset=dataset, method=method)
    (found,) = analyse(collect([tmp_path])).across
    assert (found.agreements, found.noise) == ([], [])
