"""How often a true null is rejected, and how often intervals cover: ``python perf/null_simulation.py``.

Tables 1 and 2 test `qgbench.stats.crossed` on its own assumptions. 1: simulated tables of groups x seeds with a true
mean of 0, normal effects, over a grid of standard deviations: nominal 5 % test and 95 % interval, beside the same
variance with Satterthwaite's degrees of freedom. 2: the worst case over a fine grid of expected mean squares, which are
drawn directly; the chance of a rejection given the mean squares is exact, so that 40,000 draws leave an error of about
0.1 points. 3: how much of what the interval covers beyond 95 % could be taken away at all.

Tables 4, 5, 7 and 9 test it on records that look like real ones (`qgbench.stats.simulate`: bounded skewed Dice with
misses, unequal groups, correlated images, run-to-run noise, shared labelled draws). 4: single contrasts. 5: Holm's
family of twelve contrasts. 7: skewed differences of few groups, where the level is exceeded. 9: what remedies for 7
would cost. Tables 6 and 8 test the mean over these sets (`qgbench.stats.sets`). 6: sets with seeds of their own, beside
other rules, on normal mean squares and on such records. 8: sets that share their seeds.

``python perf/null_simulation.py 4 5 6`` prints some of them. All take about ten minutes on one core.
"""

import itertools
import sys
from dataclasses import replace

import numpy as np
from scipy import optimize, sparse, stats
from scipy.special import erfc, stdtrit

from qgbench.stats import sets
from qgbench.stats.crossed import MIN_GROUPS, MeanSquares, half_width, mean_squares, rests_on_few_groups
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
# Eight data sets: numbers of groups, images in a group, correlations, spreads between runs and methods all differ.
SETS = (
    Scenario(103, 83, run_sd=0.01),
    Scenario(100, 100, run_sd=0.005, taste=0.3),
    Scenario(200, 200, run_sd=0.01, difficulty=0.6),
    Scenario(300, 14, run_sd=0.015),
    Scenario(190, 8, run_sd=0.01, icc=0.1),
    Scenario(60, 30, run_sd=0.003, noise=0.5),
    Scenario(120, 60, run_sd=0.02),
    Scenario(80, 20, run_sd=0.01, taste=0.1),
)
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
    """Print how much less any interval that is nowhere wider than ours, and holds its level, could cover at best.

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
        best = optimize.linprog(  # type: ignore[call-overload]  # the stubs know no sparse matrix
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
    """Return whether each table (..., G, S) has p < alpha."""
    squares = mean_squares(differences)
    return np.abs(squares.mean) > half_width(squares, alpha)


def wilcoxon_rate(differences: np.ndarray) -> float:
    """Return the share of rows (R, n) with Wilcoxon's p < 0.05."""
    method = "exact" if differences.shape[1] <= 50 else "asymptotic"
    found = stats.wilcoxon(differences, axis=1, zero_method="pratt", method=method)  # type: ignore[call-overload]
    return float(np.mean(found.pvalue < 0.05))


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
        "twins that help hard images and harm easy ones (leveling), ICC 0.3, run SD 0.5 points, 12 images a group on "
        "average"
    )
    print(
        "groups seeds leveling | skewness of group means, E MS_group / E MS_res | true difference 0: rejected %, "
        "without a warning; +2 points: the same"
    )
    for groups, seeds, leveling in itertools.product((6, 8, 10, 15, 20, 40), (3, 4, 5, 10), (0.3, 0.5)):
        scenario = Scenario(12 * groups, groups, seeds, run_sd=0.005, leveling=leveling)
        twins = simulate(scenario, RECORDS, (0.0, 0.02), seed=groups).by_group()
        tables = twins[1:] - twins[0]
        squares = mean_squares(tables - np.array([0.0, 0.02])[:, None, None, None])
        skewness = stats.skew(tables[0].mean(axis=2), axis=None)
        ratio = squares.group[0].mean() / squares.residual[0].mean()
        claims = np.abs(squares.mean) > half_width(squares)
        silent = claims & ~rests_on_few_groups(squares)
        rates = " ".join(f"{100 * rate:5.2f}" for both in zip(claims, silent, strict=True) for rate in np.mean(both, 1))
        print(f"{groups:6} {seeds:5} {leveling:8.1f} | {skewness:5.2f} {ratio:5.1f} | {rates}", flush=True)


def remedied(squares: MeanSquares, skewness: np.ndarray) -> dict[str, np.ndarray]:
    """Return which tables (...) have p < 0.05 by the interval, and by remedies for skewed differences of few groups.

    `skewness` is that of the groups' means over seeds. "fewer": the groups' t quantile from 0.6 (G - 1) degrees of
    freedom; "growing": from down to 0.6 (G - 1) as MS_group grows over MS_res; "late": down to 0.5 (G - 1), beginning
    where MS_group is 3 MS_res and complete at 8; "Johnson": the mean shifted by its skewness (JASA 73, 1978, 536-544).
    """
    ratio, degrees = squares.group / squares.residual, squares.groups - 1
    factors = {
        "fewer": np.full_like(ratio, 0.6),
        "growing": 1 - 0.4 * np.clip(1 - 1 / ratio, 0, 1),
        "late": 1 - 0.5 * np.clip((ratio - 3) / 5, 0, 1),
    }
    width, mean = half_width(squares), np.abs(squares.mean)
    found = {"none": mean > width}
    (group, _), (seed, _) = squares.parts
    for name, factor in factors.items():
        wider = stats.t.isf(0.025, factor * degrees) ** 2
        total = np.maximum(wider * group + stats.t.isf(0.025, squares.seeds - 1) ** 2 * seed, wider * squares.group)
        found[name] = mean > np.maximum(width, np.sqrt(total / (squares.groups * squares.seeds)))
    spread = np.sqrt(squares.group / squares.seeds)
    shift = skewness * (spread / (6 * squares.groups) + squares.mean**2 / (3 * spread))
    found["Johnson"] = np.abs(squares.mean + shift) > width
    return found


def remedied_rates(scenario: Scenario, gains: tuple[float, ...], tested: tuple[float, ...]) -> np.ndarray:
    """Return percentages (remedies, gains) of tables whose mean differs from what is `tested`."""
    twins = simulate(scenario, RECORDS, gains, seed=scenario.groups).by_group()
    tables = twins[1:] - twins[0] - np.array(tested)[:, None, None, None]
    found = remedied(mean_squares(tables), stats.skew(tables.mean(axis=3), axis=2))
    return np.array([100 * claims.mean(axis=1) for claims in found.values()])


def remedies() -> None:
    print("remedies for table 7. Rejected %: true nulls with leveling 0.5 (at difference 0 or +2 points, the larger),")
    print("without it (taste 0.5; run SD 0.5, 1.5 points), and normal ones (SD of runs 1, residual 0.3);")
    print("then true differences of +1, +2, +4, -4 points (no leveling, run SD 0.5)")
    print("groups seeds | none, fewer, growing, late, Johnson")
    for groups, seeds in itertools.product((6, 8, 15), (5, 10)):
        plain = Scenario(12 * groups, groups, seeds, run_sd=0.005)
        skewed = remedied_rates(replace(plain, leveling=0.5), (0.0, 0.02), (0.0, 0.02))
        lines = {"null, leveling 0.5": skewed.max(axis=1)}
        for name, harmless in (("taste 0.5", replace(plain, taste=0.5)), ("run SD 1.5", replace(plain, run_sd=0.015))):
            lines[f"null, {name}"] = remedied_rates(harmless, (0.0,), (0.0,))[:, 0]
        generator = np.random.default_rng(groups)
        by_run = 0.3 * generator.standard_normal((RECORDS, groups, seeds))
        by_run += generator.standard_normal((RECORDS, 1, seeds))
        found = remedied(mean_squares(by_run), stats.skew(by_run.mean(axis=2), axis=1))
        lines["null, normal, runs"] = np.array([100 * claims.mean() for claims in found.values()])
        powers = remedied_rates(plain, (0.0, 0.01, 0.02, 0.04, -0.04), (0.0,) * 5)
        lines |= dict(zip(("null, run SD 0.5", "+1", "+2", "+4", "-4"), powers.T, strict=True))
        for name, rates in lines.items():
            print(f"{groups:6} {seeds:5} {name:18} | {' '.join(f'{rate:5.1f}' for rate in rates)}", flush=True)


def holm_rejects(differences: np.ndarray) -> np.ndarray:
    """Return which of m contrasts have a Holm-adjusted p < 0.05: (m, R) bool from tables (m, R, G, S)."""
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


def other_rules(squares: list[MeanSquares]) -> dict[str, np.ndarray]:
    """Return half-widths of the mean over sets by rules that were tried.

    "own": each set's own interval, their squares summed. "t": Student's over the sets' means. "all": Satterthwaite's
    degrees of freedom for the whole variance. "Welch": those of Welch for each kind of mean square. "pooled": seeds
    with D (S - 1) degrees of freedom. "if alike": so where Bartlett's test of equal seed variances has
    p > 0.25, else Welch.
    "these sets": the rule that is taken.
    """
    count = len(squares)
    scales = [1 / (each.groups * each.seeds * count**2) for each in squares]
    means = np.stack([each.mean for each in squares])
    group, seed = (np.stack([s * each.parts[i][0] for s, each in zip(scales, squares, strict=True)]) for i in (0, 1))
    residual = np.stack([s * each.residual for s, each in zip(scales, squares, strict=True)])
    floor = np.stack([s * each.group for s, each in zip(scales, squares, strict=True)])
    freedom = np.array([[each.groups - 1, each.seeds - 1] for each in squares], dtype=float)
    n_group, n_seed = (freedom[:, i].reshape(-1, *[1] * (means.ndim - 1)) for i in (0, 1))

    def t2(degrees: np.ndarray | float) -> np.ndarray:
        return stdtrit(np.asarray(degrees, dtype=float), 0.025) ** 2

    def welch(part: np.ndarray, degrees: np.ndarray) -> np.ndarray:
        return part.sum(0) ** 2 / np.maximum((part**2 / degrees).sum(0), 1e-300)

    variance = np.maximum.reduce([group.sum(0) + seed.sum(0), floor.sum(0), seed.sum(0), residual.sum(0)])
    spread = (floor**2 / n_group).sum(0) + (seed**2 / n_seed).sum(0)
    spread += (residual**2 / (n_group * n_seed)).sum(0)
    by_group = t2(np.maximum(welch(group, n_group), n_group.min())) * group.sum(0)
    alike = np.stack([each.seed / each.groups for each in squares])
    freedom_of_seeds = n_seed.sum()
    pooled_variance = (n_seed * alike).sum(0) / freedom_of_seeds
    bartlett = freedom_of_seeds * np.log(pooled_variance) - (n_seed * np.log(alike)).sum(0)
    bartlett /= 1 + ((1 / n_seed).sum() - 1 / freedom_of_seeds) / (3 * (count - 1))
    plain = welch(seed, n_seed)
    tested = np.where(stats.chi2.sf(bartlett, count - 1) > 0.25, freedom_of_seeds, plain)
    return {
        "own": np.sqrt(sum(half_width(each) ** 2 for each in squares)) / count,
        "t": np.sqrt(t2(count - 1) / count) * means.std(axis=0, ddof=1),
        "all": np.sqrt(t2(variance**2 / spread) * variance),
        "Welch": np.sqrt(by_group + t2(plain) * seed.sum(0)),
        "pooled": np.sqrt(by_group + t2(freedom_of_seeds) * seed.sum(0)),
        "if alike": np.sqrt(by_group + t2(tested) * seed.sum(0)),
        "these sets": sets.half_width(squares),
    }


def drawn_squares(
    groups: list[int], seeds: int, sds: np.ndarray, generator: np.random.Generator, mean: float = 0.0
) -> list[MeanSquares]:
    """Return mean squares of D normal tables; `sds` (D, 3) are of groups, seeds and residual."""
    found = []
    for count, (group, seed, residual) in zip(groups, sds**2, strict=True):
        degrees = (count - 1, seeds - 1, (count - 1) * (seeds - 1))
        expected = (seeds * group + residual, count * seed + residual, residual)
        by_group, by_seed, rest = (
            e * generator.chisquare(n, DRAWS // 4) / n for e, n in zip(expected, degrees, strict=True)
        )
        error = np.sqrt((expected[0] + expected[1] - expected[2]) / (count * seeds))
        means = mean + error * generator.standard_normal(DRAWS // 4)
        found.append(MeanSquares(means, by_group, by_seed, rest, count, seeds))
    return found


def rates(squares: list[MeanSquares]) -> dict[str, float]:
    """Return in how many percent of draws each rule rejects."""
    mean = np.abs(np.mean([each.mean for each in squares], axis=0))
    return {rule: 100 * float(np.mean(mean > width)) for rule, width in other_rules(squares).items()}


# Standard deviations, in points, of the differences that the primary question of `small` is about (protocol 2): groups,
# seeds, residual on PH2, SCD, ISIC 2017, CVC-ClinicDB, CVC-ColonDB.
AS_FOUND = np.array(
    [(0.35, 0.32, 1.68), (0.89, 1.00, 2.21), (1.73, 0.61, 3.81), (0.27, 0.22, 1.74), (0.43, 0.00, 2.72)]
)
AS_FOUND_GROUPS = [100, 83, 200, 14, 8]


def these_sets() -> None:
    generator = np.random.default_rng(6)
    print("normal mean squares, 40 groups; the seed SD of one set (or two) is R times the others'; the largest over")
    print("spreads of groups (SD 0 to 3 times the seeds') and residuals: rejected % of true nulls")
    rules = ("all", "Welch", "pooled", "if alike", "these sets")
    print(f"D seeds R | {', '.join(rules)}")
    for count, seeds, ratio in itertools.product((2, 5, 8), (2, 3, 5, 10), (1, 4, 10)):
        most = dict.fromkeys(rules, 0.0)
        for many, by_group, residual in itertools.product((1, 2), (0.1, 0.5, 1, 3), (0.1, 2)):
            sds = np.column_stack([np.full(count, by_group), np.ones(count), np.full(count, residual)])
            sds[:many, 1] *= ratio
            found = rates(drawn_squares([40] * count, seeds, sds, generator))
            most = {rule: max(rate, found[rule]) for rule, rate in most.items()}
        print(f"{count} {seeds:5} {ratio:2} | {' '.join(f'{rate:6.2f}' for rate in most.values())}", flush=True)

    print("\nspreads as found in the records of `small`: rejected % at a true mean of 0, +0.5, +1 point")
    print("seeds rule")
    for seeds in (3, 5, 10):
        gains = [rates(drawn_squares(AS_FOUND_GROUPS, seeds, AS_FOUND, generator, gain)) for gain in (0.0, 0.5, 1.0)]
        for rule in gains[0]:
            print(f"{seeds:5} {rule:10} | {' '.join(f'{found[rule]:6.2f}' for found in gains)}", flush=True)

    print("\nrecords: the first D of eight unequal sets, and D alike of few groups that are skewed (leveling 0.5):")
    print("rejected % under the null; power % at +0.5, +1, +2 points; by own, t, all, these sets")
    shown = ("own", "t", "all", "these sets")
    unequal = {f"{count} unequal": SETS[:count] for count in (2, 3, 5, 8)}
    few = {f"{c} of {g} groups": (Scenario(12 * g, g, 3, leveling=0.5),) * c for c, g in ((2, 6), (5, 6), (5, 15))}
    for seeds in (3, 5, 10):
        for name, scenarios in {**unequal, **few}.items():
            drawn = []
            for index, scenario in enumerate(scenarios):
                twins = simulate(
                    replace(scenario, seeds=seeds), RECORDS // 2, (0.0, *GAINS[:3]), seed=90 * seeds + index
                )
                scores = twins.by_group()
                drawn.append(mean_squares(scores[1:] - scores[0]))
            widths = other_rules(drawn)
            size = np.abs(np.mean([each.mean for each in drawn], axis=0))
            cells = [" ".join(f"{100 * rate:5.1f}" for rate in (size > widths[rule]).mean(axis=1)) for rule in shown]
            print(f"{name:16} {seeds:3} | {' | '.join(cells)}", flush=True)


def seeds_in_common() -> None:
    print(
        "seeds that all sets share, effect SD in points: rejected % of true nulls, by the rule for seeds of each set's"
    )
    print("own, by t over sets, with sets and seeds crossed; then power % of the last at +0.5, +1, +2 points")
    print("sets           seeds SD")
    count = RECORDS // 2
    for seeds, effect in itertools.product((2, 3, 5, 10), (0.3, 0.56)):
        for name, scenarios in {"2 unequal": SETS[:2], "5 unequal": SETS[:5], "8 unequal": SETS}.items():
            common = effect / 100 * np.random.default_rng(seeds).standard_normal((count, 1, seeds))
            tables = []
            for index, scenario in enumerate(scenarios):
                twins = simulate(
                    replace(scenario, seeds=seeds), count, (0.0, *GAINS[:3]), seed=70 * seeds + index
                ).by_group()
                tables.append(twins[1:] - twins[0] + common)
            squares = [mean_squares(table) for table in tables]
            shared = sets.shared_seeds(np.stack([table.mean(axis=2) for table in tables]))
            means = np.stack([each.mean for each in squares])
            mean = np.abs(means.mean(axis=0))
            t = stats.t.isf(0.025, len(means) - 1) * stats.sem(means, axis=0)
            false = [100 * np.mean(mean[0] > width[0]) for width in (sets.half_width(squares), t)]
            crossed = 100 * np.mean(mean > sets.half_width(squares, shared=shared), axis=1)
            shown = " ".join(f"{rate:5.2f}" for rate in (*false, crossed[0]))
            print(f"{name:14} {seeds:3} {effect:5.2f} | {shown} | {' '.join(f'{rate:5.1f}' for rate in crossed[1:])}")


TABLES = {
    "1": normal_tables,
    "2": worst_case,
    "3": narrowest,
    "4": records,
    "5": families,
    "6": these_sets,
    "7": skewed,
    "8": seeds_in_common,
    "9": remedies,
}


if __name__ == "__main__":
    for name in sys.argv[1:] or TABLES:
        print(f"\nTable {name}")
        TABLES[name]()
