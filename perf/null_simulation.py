"""How often a true null is rejected, and how often intervals cover: ``python perf/null_simulation.py``.

Tables 1 and 2 test `qgbench.stats.crossed` on its own assumptions. 1: simulated tables of groups x seeds with a true
mean of 0, normal effects, over a grid of standard deviations: nominal 5 % test and 95 % interval, beside the same
variance with Satterthwaite's degrees of freedom. 2: the worst case over a fine grid of expected mean squares, which are
drawn directly; the chance of a rejection given the mean squares is exact, so that 40,000 draws leave an error of about
0.1 points. 3: how much of what the interval covers beyond 95 % could be taken away at all.

Tables 4 to 7 test it on records that look like real ones (`qgbench.stats.simulate`: bounded skewed Dice with misses,
unequal groups, correlated images, run-to-run noise, shared labelled draws). 4: single contrasts. 5: Holm's family of
twelve contrasts. 6: the mean over data sets (`qgbench.stats.combined`). 7: skewed differences of few groups, where
the level is exceeded.

``python perf/null_simulation.py 4 5 6`` prints some of them. All take about five minutes on one core.
"""

import itertools
import sys

import numpy as np
from scipy import optimize, sparse, stats
from scipy.special import erfc

from qgbench.stats import combined
from qgbench.stats.crossed import MIN_GROUPS, MeanSquares, half_width, mean_squares
from qgbench.stats.simulate import Scenario, simulate

REPLICATES = 20_000
DRAWS = 40_000
GROUPS = (6, 8, 15, 40)
SEEDS = (2, 3, 5)
SPREADS = [
    # standard deviations of (groups, seeds, residual)
    (0, 0, 1),
    (1, 0, 1),
    (0, 1, 1),
    (0, 0.3, 1),
    (1, 0.3, 1),
    (1, 1, 1),
    (1, 0.5, 0.3),
    (0.3, 1, 0.3),
    (3, 0.3, 1),
]
RECORDS = 4_000
SIZES = [(40, 5), (40, 6), (100, 8), (190, 8), (300, 15), (103, 40), (100, 100), (300, 100)]  # images, groups
GAINS = (0.005, 0.01, 0.02, 0.04)
RATIOS = (1, 1.1, 1.25, 1.5, 2, 3, 4, 6, 10, 20, 50, 200, 1000)


def satterthwaite_half_width(squares: MeanSquares) -> np.ndarray:
    variance = squares.variance * squares.groups * squares.seeds
    n_group, n_seed = squares.groups - 1, squares.seeds - 1
    spread = squares.group**2 / n_group + squares.seed**2 / n_seed + squares.residual**2 / (n_group * n_seed)
    return stats.t.isf(0.025, variance**2 / spread) * np.sqrt(squares.variance)


def normal_tables() -> None:
    generator = np.random.default_rng(0)
    print("groups seeds  SD groups, seeds, residual   rejected %   covered %   Satterthwaite rejects %")
    for groups, seeds, (sd_group, sd_seed, sd_residual) in itertools.product(GROUPS, SEEDS, SPREADS):
        tables = (
            sd_group * generator.standard_normal((REPLICATES, groups, 1))
            + sd_seed * generator.standard_normal((REPLICATES, 1, seeds))
            + sd_residual * generator.standard_normal((REPLICATES, groups, seeds))
        )
        squares = mean_squares(tables)
        rejected = 100 * np.mean(np.abs(squares.mean) > half_width(squares))
        plain = 100 * np.mean(np.abs(squares.mean) > satterthwaite_half_width(squares))
        spreads = f"{sd_group:g}, {sd_seed:g}, {sd_residual:g}"
        print(f"{groups:6} {seeds:5}  {spreads:26} {rejected:11.2f} {100 - rejected:11.2f} {plain:13.2f}")


def worst_case() -> None:
    generator = np.random.default_rng(1)
    print("E MS_res = 1, and the largest rate at (E MS_group, E MS_seed)")
    print("nominal %  groups seeds   rejected %       largest at        Satterthwaite rejects at most %")
    for alpha, groups, seeds in itertools.product((0.05, 0.01), (*GROUPS, 150), (*SEEDS, 8, 20, 100)):
        degrees = (groups - 1, seeds - 1, (groups - 1) * (seeds - 1))
        group, seed, residual = (generator.chisquare(n, DRAWS) / n for n in degrees)
        rates, plain = {}, 0.0
        for at_group, at_seed in itertools.product(RATIOS, RATIOS):
            squares = MeanSquares(np.zeros(DRAWS), at_group * group, at_seed * seed, residual, groups, seeds)
            scale = np.sqrt(2 * (at_group + at_seed - 1) / (groups * seeds))
            rates[at_group, at_seed] = 100 * float(erfc(half_width(squares, alpha) / scale).mean())
            if alpha == 0.05:
                plain = max(plain, 100 * float(erfc(satterthwaite_half_width(squares) / scale).mean()))
        where = max(rates, key=lambda key: rates[key])
        reach = f"{min(rates.values()):.2f}..{rates[where]:.2f}"
        largest = f"{plain:.2f}" if plain else ""
        print(f"{100 * alpha:9.0f}  {groups:6} {seeds:5}   {reach:14} {where!s:16} {largest}")


def narrowest() -> None:
    """Bound what any interval that is nowhere wider than ours, and holds its level, could cover less.

    In the limit of many groups MS_group and MS_res = 1 are known, and an interval is a set of (mean**2, MS_seed) that
    it excludes. Linear program: exclude most, on average over E MS_seed in 1..6, subject to at most 5 % at each E
    MS_seed in 1..10,000; more is excluded as the mean grows and as MS_seed falls; never narrower than with no seed
    effect. Cells of the plane may be excluded in part, so that this bounds randomised intervals too.
    """
    expected = np.geomspace(1, 1e4, 50)
    print("seeds  E MS_group   rejected % at E MS_seed = 1, 1.5, 2.1, 3.1, 4.5, 6.6: crossed | at most possible")
    for seeds, by_group in itertools.product(SEEDS, (1.0, 2.0, 4.0)):
        degrees = seeds - 1
        t_group, t_seed = stats.norm.isf(0.025) ** 2, stats.t.isf(0.025, degrees) ** 2
        floor = t_group * by_group

        def ours(
            by_seed: np.ndarray, slope: float = t_seed, least: float = floor, known: float = t_group
        ) -> np.ndarray:
            return np.maximum(least - known + slope * by_seed, least)

        variance = by_group - 1 + expected
        by_seed = np.concatenate([[0], np.geomspace(0.01, 1e5, 80), [np.inf]])
        squares = np.unique(np.concatenate([[0], ours(by_seed), np.geomspace(floor, 30 * floor, 24)]))
        of_seed = np.diff(stats.chi2.cdf(by_seed * degrees / expected[:, None], degrees), axis=1)
        of_mean = np.diff(stats.chi2.cdf(squares / variance[:, None], 1), axis=1)
        chances = (of_mean[:, :, None] * of_seed[:, None, :]).reshape(len(expected), -1)
        cells = np.arange(chances.shape[1]).reshape(len(squares) - 1, -1)
        less = np.concatenate([cells[:-1].ravel(), cells[:, 1:].ravel()])
        more = np.concatenate([cells[1:].ravel(), cells[:, :-1].ravel()])
        rows = np.arange(len(less))
        order = sparse.csr_matrix(
            (np.r_[np.ones_like(rows), -np.ones_like(rows)], (np.r_[rows, rows], np.r_[less, more]))
        )
        surely = squares[:-1, None] >= ours(by_seed[1:]) * (1 - 1e-9)
        possibly = np.broadcast_to(squares[:-1, None] >= floor * (1 - 1e-9), surely.shape)
        best = optimize.linprog(
            -chances[expected <= 6].mean(axis=0),
            A_ub=sparse.vstack([sparse.csr_matrix(chances), order]),
            b_ub=np.concatenate([np.full(len(expected), 0.05), np.zeros(len(rows))]),
            bounds=np.column_stack([surely.ravel(), possibly.ravel()]),
            method="highs-ipm",
        )
        drawn = expected[:, None] * stats.chi2.ppf((np.arange(4000) + 0.5) / 4000, degrees) / degrees
        now = stats.chi2.sf(ours(drawn) / variance[:, None], 1).mean(axis=1)
        columns = (" ".join(f"{100 * rate:4.1f}" for rate in rates[:12:2]) for rates in (now, chances @ best.x))
        print(f"{seeds:5}  {by_group:10.0f}   {' | '.join(columns)}")


def rejected(differences: np.ndarray, alpha: float = 0.05) -> np.ndarray:
    """Whether each table (..., G, S) has p < alpha."""
    squares = mean_squares(differences)
    return np.abs(squares.mean) > half_width(squares, alpha)


def wilcoxon_rate(differences: np.ndarray) -> float:
    """Share of rows (R, n) with Wilcoxon's p < 0.05."""
    method = "exact" if differences.shape[1] <= 50 else "asymptotic"
    return float(np.mean(stats.wilcoxon(differences, axis=1, zero_method="pratt", method=method).pvalue < 0.05))


def records() -> None:
    print(f"{RECORDS} experiments each, standard error of 5 % is 0.34; p is withheld below {MIN_GROUPS} groups")
    print(
        "images groups seeds ICC run SD leveling | rejected % under the null: crossed, Wilcoxon on groups, on images |"
        " covered %: null, +2 | power %: +0.5, +1, +2, +4 points"
    )
    spreads = [
        (0.0, 0.0, 0.0),
        (0.3, 0.0, 0.0),
        (0.0, 0.015, 0.0),
        (0.3, 0.005, 0.0),
        (0.3, 0.015, 0.0),
        (0.3, 0.005, 0.3),
    ]
    rates = []
    for number, ((images, groups), seeds, (icc, run_sd, leveling)) in enumerate(
        itertools.product(SIZES, SEEDS, spreads)
    ):
        scenario = Scenario(images, groups, seeds, icc=icc, run_sd=run_sd, leveling=leveling)
        drawn = simulate(scenario, RECORDS, (0.0,), seed=number)
        by_group = np.diff(drawn.by_group(), axis=0)[0]
        by_image = np.diff(drawn.dice, axis=0)[0].mean(axis=2)
        false = 100 * rejected(by_group).mean()
        naive = [100 * wilcoxon_rate(values) for values in (by_group.mean(axis=2), by_image)]
        twins = simulate(scenario, RECORDS // 4, GAINS, seed=number + 10_000).by_group()
        gains = twins[1:] - twins[0]
        shown = " ".join(f"{100 * rejected(table).mean():5.1f}" for table in gains)
        covered = 100 - 100 * rejected(gains[2] - GAINS[2]).mean()
        rates.append((groups, seeds, leveling, false, *naive, covered))
        print(
            f"{images:6} {groups:6} {seeds:5} {icc:3.1f} {100 * run_sd:6.1f} {leveling:8.1f} | {false:5.2f} "
            f"{naive[0]:6.2f} {naive[1]:6.2f} | {100 - false:5.1f} {covered:5.1f} | {shown}",
            flush=True,
        )
    table = np.array(rates)
    print(
        "\nsummary: rejected % by crossed (least, median, most) | most by Wilcoxon (groups, images) | covered % at +2"
    )
    for seeds, few in itertools.product(SEEDS, (True, False)):
        rows = table[(table[:, 1] == seeds) & ((table[:, 0] < MIN_GROUPS) == few)]
        least, median, most = np.quantile(rows[:, 3], (0, 0.5, 1))
        which = "5 groups (p withheld)" if few else "6 to 100 groups"
        print(
            f"{seeds} seeds, {which}: {least:.2f} {median:.2f} {most:.2f}"
            f" | {rows[:, 4].max():.2f} {rows[:, 5].max():.2f} | {rows[:, 6].min():.1f} to {rows[:, 6].max():.1f}"
        )


def skewed() -> None:
    print(
        "twins that help hard images and harm easy ones (leveling), ICC 0.3, run SD 0.5 points, about 12 images a group"
    )
    print(
        "groups seeds leveling | skewness of group means, E MS_group / E MS_res | rejected % at true difference 0, +2"
    )
    for groups, seeds, leveling in itertools.product((6, 8, 10, 15, 40), (3, 5), (0.1, 0.2, 0.3, 0.5)):
        scenario = Scenario(12 * groups, groups, seeds, run_sd=0.005, leveling=leveling)
        twins = simulate(scenario, RECORDS, (0.0, 0.02), seed=groups).by_group()
        tables = twins[1:] - twins[0]
        squares = mean_squares(tables[0])
        skewness = stats.skew(tables[0].mean(axis=2), axis=None)
        rates = [100 * rejected(table - gain).mean() for table, gain in zip(tables, (0.0, 0.02), strict=True)]
        ratio = squares.group.mean() / squares.residual.mean()
        print(
            f"{groups:6} {seeds:5} {leveling:8.1f} | {skewness:5.2f} {ratio:5.1f} | {rates[0]:5.2f} {rates[1]:5.2f}",
            flush=True,
        )


def holm_rejects(differences: np.ndarray) -> np.ndarray:
    """Which of m contrasts have a Holm-adjusted p < 0.05: (m, R) bool from tables (m, R, G, S)."""
    family = len(differences)
    squares = mean_squares(differences)
    below = np.stack([np.abs(squares.mean) > half_width(squares, 0.05 / (family - i)) for i in range(family)])
    # Step i (from 0) is passed if more than i p-values are below 0.05 / (m - i), and all steps before were passed.
    passed = np.logical_and.accumulate(below.sum(axis=1) > np.arange(family)[:, None], axis=0).sum(axis=0)
    last = np.maximum(passed - 1, 0)
    return below[last, :, np.arange(below.shape[2])].T & (passed > 0)


def families() -> None:
    print(
        "twelve contrasts, three to each of four baselines, of the same groups; share of families with a false claim, %"
    )
    print(
        "images groups seeds | all null: unadjusted, Holm | eight null, four at +4 points: Holm, claims among the four"
    )
    for (images, groups), seeds in itertools.product(((40, 6), (190, 8), (300, 15), (100, 100)), SEEDS):
        rates = []
        for gains in ((0.0,) * 3, (0.0, 0.0, 0.04)):
            tables = []
            for baseline in range(4):
                # Baselines have records of their own; contrasts of one baseline share it, its draws and groups.
                twins = simulate(
                    Scenario(images, groups, seeds, run_sd=0.005), RECORDS // 2, gains, seed=baseline
                ).by_group()
                tables.append(twins[1:] - twins[0])
            contrasts = np.concatenate(tables)
            null = np.array(gains * 4) == 0
            claims = holm_rejects(contrasts)
            rates += [rejected(contrasts)[null].any(axis=0).mean(), claims[null].any(axis=0).mean()]
            rates += [claims[~null].mean()] if not null.all() else []
        one, two, _, three, found = (100 * rate for rate in rates)
        print(f"{images:6} {groups:6} {seeds:5} | {one:5.1f} {two:5.2f} | {three:5.2f} {found:5.1f}")


def over_sets() -> None:
    print("mean over D data sets: the last D of 103 images in 83 groups, 100 in 100, 200 in 200, 300 in 14, 190 in 8")
    print(
        "rejected % under the null, power % at +0.5, +1, +2, +4 points: combined, and a t test over the D sets' means"
    )
    print(
        "D seeds | combined                      | t test                        | combined, null, run effects shared"
    )
    sizes = ((103, 83), (100, 100), (200, 200), (300, 14), (190, 8))
    for count, seeds in itertools.product((2, 5), SEEDS):
        rates, over_means = [], []
        for gain in (0.0, *GAINS):
            tables = []
            for index, (images, groups) in enumerate(sizes[-count:]):
                twins = simulate(Scenario(images, groups, seeds), RECORDS // 2, (gain,), seed=index).by_group()
                tables.append(twins[1] - twins[0])
            rates.append(over_sets_rate(tables))
            means = np.stack([table.mean(axis=(1, 2)) for table in tables])
            over_means.append(100 * np.mean(stats.ttest_1samp(means, 0, axis=0).pvalue < 0.05))
            if gain == 0:
                effects = 0.01 * np.random.default_rng(9).standard_normal((RECORDS // 2, 1, seeds))
                carried = over_sets_rate([table + effects for table in tables])
        shown = " | ".join(" ".join(f"{rate:5.1f}" for rate in each) for each in (rates, over_means))
        print(f"{count} {seeds:5} | {shown} | {carried:5.2f}")


def over_sets_rate(tables: list[np.ndarray]) -> float:
    """Percentage of replicates whose mean over data sets has p < 0.05."""
    squares = [mean_squares(table) for table in tables]
    mean = np.mean([each.mean for each in squares], axis=0)
    return float(100 * np.mean(np.abs(mean) > combined.half_width(squares)))


TABLES = {"1": normal_tables, "2": worst_case, "3": narrowest, "4": records, "5": families, "6": over_sets, "7": skewed}

if __name__ == "__main__":
    for name in sys.argv[1:] or TABLES:
        print(f"\nTable {name}")
        TABLES[name]()
