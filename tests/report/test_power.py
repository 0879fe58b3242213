"""``qgbench power``: from stated spreads and from records."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from qgbench.base.errors import UserError
from qgbench.cli.main import app
from qgbench.report.analysis import analyse
from qgbench.report.collect import collect
from qgbench.report.power import cases_of, power_rows
from qgbench.stats.crossed import estimate
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
    ],
)
def test_mistakes_get_one_message(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        qgbench(*words)
