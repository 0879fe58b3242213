"""What the answers of the suite `small` rest on: single runs, seeds, and the sets' own errors.

``python perf/answer_robustness.py results`` reads the per-image tables of submitted records and prints, for QW (the
primary question) and for QAR: the answer by seed, with a test of whether a seed has one effect on all data sets; the
pairs of runs that make most of it; and the intervals of these sets and of a population of sets, with sets and seeds
crossed and as if each set had seeds of its own. Then supervised Dice as a mean over groups and over images. Takes
seconds; trains nothing.
"""

import math
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from qgbench.stats.crossed import mean_squares
from qgbench.stats.sets import population, these_sets

REGIMES = {
    "ph2": "n7@grouped",
    "scd": "n7@grouped",
    "isic2017": "n7@grouped",
    "cvc_clinicdb": "n28@grouped",
    "cvc_colondb": "n28@grouped",
}
SEEDS = range(3)
QUESTIONS = {
    "QW, five methods (primary)": [
        (f"{method}+qw", method)
        for method in ("pseudo_label", "pseudo_label_confidence", "mean_teacher", "fixmatch", "unimatch")
    ],
    "QAR, supervised training": [("supervised+qar", "supervised")],
}
SHOWN = 2


def images_of(results: Path, dataset: str, cell: str, seed: int) -> pd.DataFrame:
    path = results / "v1" / "small" / dataset / REGIMES[dataset] / "unet" / cell / f"seed{seed}.csv"
    return pd.read_csv(path, dtype={"id": str, "group": str})


def by_group(results: Path, dataset: str, cell: str, seed: int) -> pd.Series:
    """Return Dice in % of each test group."""
    return 100 * images_of(results, dataset, cell, seed).groupby("group")["dice"].mean()


def interval(means: pd.Series) -> str:
    low, high = stats.t.interval(0.95, len(means) - 1, means.mean(), stats.sem(means))
    return f"{means.mean():.2f} [{low:.2f}, {high:.2f}]"


def about(results: Path, title: str, pairs: list[tuple[str, str]]) -> None:
    gains = {
        (dataset, own, other, seed): by_group(results, dataset, own, seed) - by_group(results, dataset, other, seed)
        for dataset, (own, other), seed in product(REGIMES, pairs, SEEDS)
    }
    single = pd.Series({key: gain.mean() for key, gain in gains.items()})
    single.index.names = ["dataset", "own", "other", "seed"]
    sets = single.groupby("dataset").mean()
    p = stats.ttest_1samp(sets, 0).pvalue
    print(f"\n{title}: {interval(sets)}, t over sets, p {p:.3f}; {len(single)} pairs of runs")

    table = single.groupby(["dataset", "seed"]).mean().unstack().loc[list(REGIMES)]
    print(table.round(2).to_string())
    print(f"by seed: {', '.join(f'{value:.2f}' for value in table.mean())}")
    grand, rows, columns = float(table.to_numpy().mean()), table.mean(axis=1), table.mean()
    residual = table.sub(rows, axis=0).sub(columns, axis=1) + grand
    degrees = (len(columns) - 1, (len(rows) - 1) * (len(columns) - 1))
    f = (len(rows) * columns.var()) / ((residual**2).to_numpy().sum() / degrees[1])
    print(f"an effect of the seed that all sets share: F{degrees} = {f:.2f}, p {stats.f.sf(f, *degrees):.3f}")

    largest = single.reindex(single.abs().sort_values(ascending=False).index[:SHOWN])
    named = ", ".join(
        f"{' '.join(map(str, place))} {value:.2f}" for place, value in zip(largest.index, largest, strict=True)
    )
    left = single.drop(largest.index).groupby("dataset").mean()
    print(f"the {SHOWN} largest of {len(single)} (set, pair, seed): {named}")
    print(f"their share of the sum: {largest.sum() / single.sum():.0%}; without them {interval(left)}")

    tables = {
        dataset: np.mean([np.column_stack([gains[dataset, a, b, seed] for seed in SEEDS]) for a, b in pairs], axis=0)
        for dataset in REGIMES
    }
    same = dict.fromkeys(tables, tuple(SEEDS))
    for about_whom, seeds in (("seeds crossed with sets", same), ("as if each set had its own seeds", None)):
        these, like = these_sets(tables, seeds), population(tables, seeds)
        assert these.interval is not None
        assert like is not None
        assert like.estimate.interval is not None
        print(f"{about_whom}: these five sets [{these.interval[0]:.2f}, {these.interval[1]:.2f}], p {these.p:.3f},")
        print(
            f"  standard error {these.standard_error:.2f}; a population of sets [{like.estimate.interval[0]:.2f}, "
            f"{like.estimate.interval[1]:.2f}], standard error {like.estimate.standard_error:.2f}, "
            f"Cochran's Q {like.cochran_q:.1f}, p {like.cochran_p:.2f}{'; too narrow' if like.too_narrow else ''}"
        )
    print(f"seeds pooled over sets, as if each had its own: {pooled(tables)}")


def pooled(tables: dict[str, np.ndarray]) -> str:
    """Return Satterthwaite's interval with one seed variance for all sets, which holds its level only if that is so."""
    squares, count = [mean_squares(table) for table in tables.values()], len(tables)
    scale = np.array([1 / (each.groups * each.seeds * count**2) for each in squares])
    group, seed, rest = (
        scale * np.array([float(getattr(each, name)) for each in squares]) for name in ("group", "seed", "residual")
    )
    freedom = np.array([(each.groups - 1, each.seeds - 1) for each in squares])
    spread = (group**2 / freedom[:, 0]).sum() + seed.sum() ** 2 / freedom[:, 1].sum()
    variance = (group + seed - rest).sum()
    degrees = variance**2 / (spread + (rest**2 / freedom.prod(axis=1)).sum())
    mean, width = (
        np.mean([table.mean() for table in tables.values()]),
        stats.t.isf(0.025, degrees) * math.sqrt(variance),
    )
    return f"[{mean - width:.2f}, {mean + width:.2f}]"


def main(results: Path) -> None:
    for title, pairs in QUESTIONS.items():
        about(results, title, pairs)
    print("\nsupervised, Dice in %, mean over seeds")
    for dataset in REGIMES:
        groups = np.mean([by_group(results, dataset, "supervised", seed).mean() for seed in SEEDS])
        images = np.mean([100 * images_of(results, dataset, "supervised", seed)["dice"].mean() for seed in SEEDS])
        print(f"{dataset}: {groups:.1f} over groups, {images:.1f} over images")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
