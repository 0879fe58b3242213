"""``qgbench power``: from stated spreads and from records."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from typer.testing import CliRunner, Result

from qgbench.base.errors import UserError
from qgbench.cli.main import app
from qgbench.report.analysis import analyse
from qgbench.report.answer_power import Need, drawn, needs_of
from qgbench.report.collect import collect
from qgbench.report.declared import declared
from qgbench.report.power import cases_of, power_rows
from qgbench.spec.suite import load_suite
from qgbench.stats.crossed import estimate, mean_squares
from tests.report.test_report import GROUP_DICE, GROUP_GAIN, make_record


def qgbench(*words: str) -> Result:
    result = CliRunner().invoke(app, ["power", *words])
    if isinstance(result.exception, UserError):
        raise result.exception
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def noisy_twins(folder: Path, seeds: int = 3) -> np.ndarray:
    """Twins whose differences are random; give the differences."""
    noise = np.random.default_rng(3)
    differences = 0.01 + 0.01 * noise.standard_normal((8, 1)) + 0.02 * noise.standard_normal((8, seeds))
    for seed in range(seeds):
        make_record(folder, GROUP_DICE, seed=seed)
        make_record(folder, GROUP_DICE + differences[:, seed], addon="qw", seed=seed)
    return differences


def test_what_is_needed_is_what_a_simulation_shows(tmp_path: Path) -> None:
    """The number of groups that is printed gives p < 0.05 in 8 of 10 simulated experiments; a quarter fewer do not."""
    file = tmp_path / "power.csv"
    words = ("--group-sd", "2", "--run-sd", "0.3", "--image-sd", "3", "--gain", "2", "--seeds", "5")
    qgbench(*words, "--output", str(tmp_path))
    (row,) = pd.read_csv(file).to_dict("records")
    needed = int(row["groups_needed"])
    assert row["images_needed"] == needed  # one image a group, unless stated
    assert 6 <= needed < 100
    noise = np.random.default_rng(0)

    def shown(groups: int) -> float:
        found = 0
        for _ in range(400):
            table = 0.02 + 0.02 * noise.standard_normal((groups, 1)) + 0.003 * noise.standard_normal((1, 5))
            p = estimate(table + 0.03 * noise.standard_normal((groups, 5))).p
            found += p is not None and p < 0.05
        return found / 400

    assert shown(needed) == pytest.approx(0.8, abs=0.07)  # three standard errors
    assert shown(needed * 3 // 4) < 0.78
    assert {path.name for path in tmp_path.iterdir()} == {"power.csv", "power.pdf", "power.svg"}


def test_a_contrast_of_records_says_what_it_could_have_shown(tmp_path: Path) -> None:
    noisy_twins(tmp_path)
    cases, unknown = cases_of(analyse(collect([tmp_path])))
    assert unknown == []
    (case,) = cases
    assert (case.groups, case.seeds, case.images_per_group) == (8, 3, 2)
    table = power_rows(cases, [0.01, 0.04], [3, 5])
    assert table["least_gain"].nunique() == 1
    least = float(table["least_gain"].iloc[0])
    (at_least,) = power_rows(cases, [least], [3])["power"]
    assert at_least == pytest.approx(0.8, abs=0.005)
    assert list(table["images_needed"]) == [2 * groups for groups in table["groups_needed"]]
    shown = qgbench(str(tmp_path), "--gain", "1").stdout
    assert "mean_teacher + qw : mean_teacher, phantom n28@grouped" in shown
    assert f"it would have shown a gain of {100 * least:.2f} points in 8 of 10 cases" in shown


def test_each_contrast_has_a_row_of_its_own_and_curves_that_name_it(tmp_path: Path) -> None:
    noisy_twins(tmp_path / "runs")
    for seed in range(3):
        make_record(tmp_path / "runs", GROUP_DICE + 0.01 * seed * GROUP_GAIN, method="ict", addon="qw", seed=seed)
        make_record(tmp_path / "runs", GROUP_DICE, method="ict", seed=seed)
    qgbench(str(tmp_path / "runs"), "--gain", "2", "--seeds", "5", "--groups", "8", "--output", str(tmp_path / "out"))
    table = pd.read_csv(tmp_path / "out" / "power.csv")
    assert [name.split()[0] for name in table["name"]] == ["ict", "mean_teacher"]
    files = {f"power-{number}.{suffix}" for number in (1, 2) for suffix in ("pdf", "svg")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"power.csv", *files}
    first, second = ((tmp_path / "out" / f"power-{number}.svg").read_bytes() for number in (1, 2))
    assert first != second


def test_one_seed_has_no_known_spread(tmp_path: Path) -> None:
    noisy_twins(tmp_path, seeds=1)
    with pytest.raises(UserError, match="no contrast of these records has 2 test groups and 2 seeds"):
        qgbench(str(tmp_path))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give either folders of records, or all of --group-sd"),
        (["--group-sd", "2"], "a stated spread needs all of"),
        (["--group-sd", "2", "--run-sd", "1", "--image-sd", "-1"], "expected a standard deviation"),
        (["--group-sd", "2", "--run-sd", "1", "--image-sd", "1", "--icc", "2"], "ICC is 2"),
        (["--group-sd", "2", "--run-sd", "1", "--image-sd", "1", "--gain", "0"], "above 0"),
        (["results", "--group-sd", "2"], "give either folders"),
        (["--suite", "smoke", "--seeds", "3"], "--suite goes with --gain and --half-width alone"),
        (["--suite", "smoke", "--gain", "1", "--gain", "2"], "give one --gain"),
    ],
)
def test_mistakes_get_one_message(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        qgbench(*words)


class TestSuite:
    """``qgbench power --suite``: the first question of the suite smoke, on records of known spread."""

    @staticmethod
    def records(folder: Path, by_seed: float = 0.0, by_group: float = 1.0, seeds: int = 2) -> np.ndarray:
        """Twins of the suite smoke, of which two seeds belong to it; give the differences by group and seed."""
        gains = by_group * GROUP_GAIN[:, None] + by_seed * (np.arange(seeds) - (seeds - 1) / 2)
        cell = {"method": "fixmatch", "dataset": "phantom", "regime": "n12@grouped", "protocol": "smoke"}
        for seed in range(seeds):
            make_record(folder, GROUP_DICE, seed=seed, **cell)
            make_record(folder, GROUP_DICE + gains[:, seed], addon="qw", seed=seed, **cell)
        return gains

    @staticmethod
    def needs(folder: Path, gain: float) -> list[Need]:
        found = analyse(collect([folder]), suite=declared(load_suite("smoke"))).answers
        assert found is not None
        return needs_of(found, gain)

    def test_where_groups_alone_differ_the_half_width_is_students_whatever_the_seeds(self, tmp_path: Path) -> None:
        gains = self.records(tmp_path)
        now, more, _ = self.needs(tmp_path, 0.02)
        variance = gains[:, 0].var(ddof=1)
        judge = stats.t.isf(0.025, 7) * np.sqrt(variance * 7 / stats.chi2.median(7) / 8)
        assert np.median(now.widths, axis=1) == pytest.approx(judge, rel=0.05)  # of 400 draws
        twice = stats.t.isf(0.025, 15) * np.sqrt(variance * 7 / stats.chi2.median(7) / 16)
        assert np.median(more.widths, axis=1) == pytest.approx(twice, rel=0.05)
        far = stats.t.isf(0.025, 7)
        at = 0.02 / (now.widths[0] / far)
        shown = stats.nct.sf(far, 7, at) + stats.nct.cdf(-far, 7, at)  # taking the half-width as known: 0.009 more
        assert now.powers.mean() == pytest.approx(shown.mean(), abs=0.003)
        assert now.powers[0] == pytest.approx(shown, abs=0.15)

    def test_where_seeds_alone_differ_the_half_width_is_students_over_seeds(self, tmp_path: Path) -> None:
        gains = self.records(tmp_path, by_seed=0.01, by_group=0)
        now, more, sets = self.needs(tmp_path, 0.02)
        seeds = np.arange(2, 41)
        drawn = gains[0].var(ddof=1) / stats.chi2.median(1)
        judge = stats.t.isf(0.025, seeds - 1) * np.sqrt(drawn / seeds)
        assert np.median(now.widths, axis=1) == pytest.approx(judge, rel=0.1)
        assert more.widths == pytest.approx(now.widths), "more patients do not average out what a run shares"
        assert (sets.widths < now.widths).all()
        seed = 2 * 2 * (60.5 + 3)  # two runs of two threads, trained and evaluated
        assert (now.seconds, more.seconds, sets.seconds) == (seed, seed, 2 * seed)
        assert (np.diff(now.widths, axis=0) < 0).all()

    def test_core_hours_count_every_thread(self, tmp_path: Path) -> None:
        self.records(tmp_path)
        for file in tmp_path.glob("*/record.json"):
            record = json.loads(file.read_text())
            record["spec"]["threads"] = 4
            file.write_text(json.dumps(record))
        assert self.needs(tmp_path, 0.02)[0].seconds == 2 * 4 * (60.5 + 3)

    def test_what_the_spread_of_seeds_over_five_sets_may_be_lies_around_the_truth(self) -> None:
        """Sets of 50 groups, 3 seeds; groups alone would need no seeds: the truth is 5 x 1."""
        noise = np.random.default_rng(4)
        medians, below, above = [], 0, 0
        for _ in range(200):
            tables = [noise.standard_normal((1, 3)) + 0.1 * noise.standard_normal((50, 3)) for _ in range(5)]
            squares = [mean_squares(table) for table in tables]
            low, middle, high = np.quantile(sum(found[1] for _, found in drawn(squares, noise)), (0.1, 0.5, 0.9))
            medians.append(middle)
            below, above = below + (low > 5), above + (high < 5)
        assert 4 < np.median(medians) < 6.5  # 11.4 with a factor for each set
        assert below < 0.25 * 200  # 0.41 with a factor for each set; nominal 0.1
        assert above < 0.25 * 200

    def test_a_spread_that_is_not_there_is_not_made_by_cutting_each_set_at_nothing(self) -> None:
        """Ten sets without a spread of seeds: about half of the estimates are below 0, and their sum is about 0."""
        noise = np.random.default_rng(1)
        alone, found = [], []
        for _ in range(200):
            squares = [mean_squares(noise.standard_normal((50, 3))) for _ in range(10)]
            alone.append(sum(max(float(one.seed - one.residual), 0) / one.groups for one in squares))
            found.append(np.median(sum(variances[1] for _, variances in drawn(squares, noise))))
        assert np.mean(found) < 0.5 * np.mean(alone)

    def test_the_fewest_seeds_are_those_from_which_on_the_target_is_reached(self, tmp_path: Path) -> None:
        self.records(tmp_path, by_seed=0.01, by_group=0)
        now = self.needs(tmp_path, 0.02)[0]
        target = float(np.median(now.widths[8]))  # of 10 seeds
        fewest = now.seeds(now.widths <= target)
        assert np.median([count or np.inf for count in fewest]) == pytest.approx(10, abs=1)
        assert set(now.seeds(now.widths < 0)) == {None}

    def test_the_command_prints_plans_and_their_price(self, tmp_path: Path) -> None:
        self.records(tmp_path)
        shown = qgbench(str(tmp_path), "--suite", "smoke", "--half-width", "5", "--gain", "9").stdout
        assert "Does QW change Dice?" in shown
        assert "spreads from phantom 8 groups x 2 seeds" in shown
        for plan in ("these sets and test groups", "twice the test groups and images", "twice as many sets like these"):
            (line,) = [line for line in shown.splitlines() if line.startswith(plan)]
            assert re.findall(r"\d+ \[\d+, \d+\]", line)[::2] == ["2 [2, 2]"] * 2
        assert "seeds for +-5" in shown
        assert "seeds for 80% power at +9" in shown

    def test_a_suite_without_records_or_without_an_answer_says_what_is_lacking(self, tmp_path: Path) -> None:
        noisy_twins(tmp_path / "others")
        with pytest.raises(UserError, match="no record belongs to the suite 'smoke'; do its runs with qgbench suite"):
            qgbench(str(tmp_path / "others"), "--suite", "smoke")
        with pytest.raises(UserError, match="nowhere"):
            qgbench(str(tmp_path / "nowhere"), "--suite", "smoke")
        self.records(tmp_path / "whole")
        shutil.rmtree(next((tmp_path / "whole").glob("fixmatch--qw-k1*")))
        with pytest.raises(UserError, match=r"do not answer 'primary' of the suite yet: phantom.*fixmatch\+qw, seed 1"):
            qgbench(str(tmp_path / "whole"), "--suite", "smoke")
        self.records(tmp_path / "one", seeds=1)
        with pytest.raises(UserError, match="spreads need 2 seeds and 2 test groups"):
            qgbench(str(tmp_path / "one"), "--suite", "smoke")
        with pytest.raises(UserError, match="above 0"):
            qgbench(str(tmp_path / "whole"), "--suite", "smoke", "--half-width", "0")

    def test_help_says_what_it_does(self) -> None:
        shown = " ".join(qgbench("--help").stdout.split())
        assert "--suite" in shown
        assert "--half-width" in shown
        assert "core-hours" in shown
