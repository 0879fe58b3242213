"""Power against brute-force simulation of whole tables, scipy's t test and closed forms."""

import math

import numpy as np
import pytest
from scipy import stats

from qgbench.base.errors import QGBenchError, UserError
from qgbench.stats.crossed import half_width, mean_squares
from qgbench.stats.power import Components, components, groups_needed, least_gain, power, stated

TYPICAL = Components(sd_group=0.015, sd_seed=0.008, sd_residual=0.04)


def draw(spread: Components, gain: float, groups: int, seeds: int, replicates: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (
        gain
        + spread.sd_group * generator.standard_normal((replicates, groups, 1))
        + spread.sd_seed * generator.standard_normal((replicates, 1, seeds))
        + spread.sd_residual * generator.standard_normal((replicates, groups, seeds))
    )


@pytest.mark.parametrize(("groups", "seeds"), [(6, 2), (8, 5), (14, 3), (40, 5)])
@pytest.mark.parametrize("spread", [TYPICAL, Components(0.03, 0.001, 0.01), Components(0.001, 0.03, 0.01)])
@pytest.mark.parametrize("gain", [0.0, 0.02, -0.05])
def test_power_is_the_share_of_simulated_tables_that_are_rejected(
    groups: int, seeds: int, spread: Components, gain: float
) -> None:
    squares = mean_squares(draw(spread, gain, groups, seeds, 10_000, seed=groups))
    simulated = float(np.mean(np.abs(squares.mean) > half_width(squares)))
    error = 3 * math.sqrt(max(simulated * (1 - simulated), 0.001) / 10_000)
    assert power(gain, groups, seeds, spread) == pytest.approx(simulated, abs=error + 0.001)


@pytest.mark.parametrize("gain", [0.0, 0.01, 0.03])
def test_groups_alone_give_the_power_of_students_test(gain: float) -> None:
    groups, sd = 12, 0.03
    shift = gain / (sd / math.sqrt(groups))
    t = stats.t.isf(0.025, groups - 1)
    judge = stats.nct.sf(t, groups - 1, shift) + stats.nct.cdf(-t, groups - 1, shift)
    assert power(gain, groups, 3, Components(sd, 0, 1e-9)) == pytest.approx(judge, abs=0.002)


def test_power_is_nothing_where_p_is_withheld() -> None:
    assert power(1, 5, 5, TYPICAL) == 0
    assert power(1, 100, 1, TYPICAL) == 0
    assert least_gain(5, 5, TYPICAL) == math.inf
    assert groups_needed(1, 1, TYPICAL) is None


def test_no_spread_shows_anything() -> None:
    nothing = Components(0, 0, 0)
    assert (power(0.001, 6, 2, nothing), power(0, 6, 2, nothing)) == (1, 0)
    assert least_gain(6, 2, nothing) == 0


def test_power_repeats_and_grows() -> None:
    values = [power(gain, 14, 3, TYPICAL) for gain in np.linspace(0, 0.1, 20)]
    assert values == sorted(values)
    assert values[-1] > 0.9
    assert power(-0.03, 14, 3, TYPICAL) == power(0.03, 14, 3, TYPICAL)
    assert power(0.03, 14, 5, TYPICAL) > power(0.03, 14, 3, TYPICAL) > power(0.03, 14, 2, TYPICAL)


@pytest.mark.parametrize("target", [0.5, 0.8, 0.95])
def test_least_gain_has_the_power_asked_for(target: float) -> None:
    gain = least_gain(14, 3, TYPICAL, target)
    assert power(gain, 14, 3, TYPICAL) == pytest.approx(target, abs=1e-4)


@pytest.mark.parametrize("gain", [0.02, 0.03, 0.06, 0.5])
def test_groups_needed_is_the_fewest(gain: float) -> None:
    groups = groups_needed(gain, 5, TYPICAL)
    assert groups is not None
    assert power(gain, groups, 5, TYPICAL) >= 0.8
    assert groups == 6 or power(gain, groups - 1, 5, TYPICAL) < 0.8


def test_more_groups_do_not_average_out_what_a_run_shares() -> None:
    spread = Components(0.01, 0.02, 0.03)
    assert groups_needed(0.02, 3, spread) is None
    # With endless groups the runs' means are left: Student's test over seeds.
    shift, t = 0.02 / (0.02 / math.sqrt(3)), stats.t.isf(0.025, 2)
    judge = stats.nct.sf(t, 2, shift) + stats.nct.cdf(-t, 2, shift)
    assert power(0.02, 200_000, 3, spread) == pytest.approx(judge, abs=0.005)
    assert groups_needed(0.02, 20, spread) is not None


def test_groups_needed_is_bounded() -> None:
    wanted = groups_needed(0.02, 5, TYPICAL)
    assert wanted is not None
    assert groups_needed(0.02, 5, TYPICAL, most=wanted) == wanted
    assert groups_needed(0.02, 5, TYPICAL, most=wanted - 1) is None


@pytest.mark.parametrize("target", [0.05, 1.0, -1, 80])
def test_power_out_of_range_is_refused(target: float) -> None:
    with pytest.raises(UserError, match=r"for example 0\.8"):
        least_gain(14, 3, TYPICAL, target)
    with pytest.raises(UserError, match=r"for example 0\.8"):
        groups_needed(0.1, 3, TYPICAL, target)


class TestComponents:
    def test_by_hand(self) -> None:
        # test_crossed.py's table: MS_group 11.2, MS_seed 12, MS_res 3.2 of 6 groups x 2 seeds.
        table = np.array([[1, 1], [2, 2], [2, 4], [5, 5], [4, 8], [4, 10]], dtype=float)
        result = components(table)
        assert result.sd_group == pytest.approx(math.sqrt(4))
        assert result.sd_seed == pytest.approx(math.sqrt(8.8 / 6))
        assert result.sd_residual == pytest.approx(math.sqrt(3.2))

    def test_equals_a_mixed_model_by_statsmodels(self) -> None:
        import pandas as pd
        import statsmodels.formula.api as smf

        # Balanced data with positive estimates: REML equals the analysis of variance.
        table = draw(Components(0.5, 0.4, 0.3), 0.2, 12, 6, 1, seed=5)[0]
        result = components(table)
        rows = pd.DataFrame(
            {"y": table.ravel(), "g": np.repeat(np.arange(12), 6), "s": np.tile(np.arange(6), 12), "all": 0}
        )
        model = smf.mixedlm("y ~ 1", rows, groups="all", vc_formula={"g": "0 + C(g)", "s": "0 + C(s)"}).fit()
        by_name = dict(zip(model.model.exog_vc.names, model.vcomp, strict=True))
        assert result.sd_group == pytest.approx(math.sqrt(by_name["g"]), rel=1e-3)
        assert result.sd_seed == pytest.approx(math.sqrt(by_name["s"]), rel=1e-3)
        assert result.sd_residual == pytest.approx(math.sqrt(model.scale), rel=1e-3)

    def test_negative_estimates_are_cut(self) -> None:
        table = np.array([[1.0, -1], [-1, 1], [1, -1], [-1, 1]])
        result = components(table)
        assert (result.sd_group, result.sd_seed) == (0, 0)

    def test_refuses(self) -> None:
        for shape in ((1, 3), (8, 1)):
            with pytest.raises(UserError, match="Run more seeds, or state"):
                components(np.zeros(shape))
        with pytest.raises(QGBenchError, match="full table"):
            components(np.full((3, 3), np.nan))


class TestStated:
    def test_residual_is_the_spread_of_simulated_group_means(self) -> None:
        generator = np.random.default_rng(0)
        icc, images, sd = 0.3, 5, 0.1
        common = math.sqrt(icc) * generator.standard_normal((40_000, 1))
        means = sd * (common + math.sqrt(1 - icc) * generator.standard_normal((40_000, images))).mean(axis=1)
        result = stated(0.02, 0.01, sd, icc, images)
        assert (result.sd_group, result.sd_seed) == (0.02, 0.01)
        assert result.sd_residual == pytest.approx(means.std(), rel=0.015)

    def test_limits(self) -> None:
        assert stated(0, 0, 0.1, 0, 4).sd_residual == pytest.approx(0.05)
        assert stated(0, 0, 0.1, 1, 4).sd_residual == pytest.approx(0.1)
        assert stated(0, 0, 0.1).sd_residual == pytest.approx(0.1)

    @pytest.mark.parametrize(
        ("values", "said"),
        [
            ((-0.1, 0, 0), "group SD"),
            ((0, math.inf, 0), "run SD"),
            ((0, 0, math.nan), "image SD"),
            ((0, 0, 0.1, 1.5), "ICC"),
            ((0, 0, 0.1, 0.3, 0.5), "images per group"),
        ],
    )
    def test_refuses(self, values: tuple[float, ...], said: str) -> None:
        with pytest.raises(UserError, match=said):
            stated(*values)
