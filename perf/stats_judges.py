"""The crossed model beside two judges, on committed records: ``python perf/stats_judges.py results``.

For the mean of five pairs of twins that the first question of `small` is about, on three data sets: the variances and
the standard error by `qgbench.stats` (mean squares) and by statsmodels' mixed model (REML, crossed random effects of
groups and seeds), which agree where no variance is cut at 0; and p of sign flips over groups (all 2**G where G <= 14,
else 100,000 draws), which sees groups alone. A minute or two; trains nothing.
"""

import itertools
import math
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import statsmodels.formula.api as smf

from qgbench.report.analysis import analyse
from qgbench.report.collect import collect
from qgbench.report.declared import declared
from qgbench.spec.suite import load_suite
from qgbench.stats.crossed import estimate
from qgbench.stats.power import components

SETS = ("cvc_colondb", "cvc_clinicdb", "scd")
FLIPS = 100_000


def by_mixed_model(table: np.ndarray) -> tuple[float, float, float, float]:
    """Return SDs of groups, seeds and residual, and the standard error of the mean, by REML."""
    groups, seeds = table.shape
    place = [(f"g{g}", f"s{s}") for g in range(groups) for s in range(seeds)]
    frame = pd.DataFrame(place, columns=["group", "seed"]).assign(y=table.ravel(), one=1)
    parts = {"group": "0 + C(group)", "seed": "0 + C(seed)"}
    model = smf.mixedlm("y ~ 1", frame, groups="one", vc_formula=parts, re_formula="0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a variance at its limit, 0
        fitted = model.fit(reml=True, method=["powell", "lbfgs"])
    group, seed = (float(v) for v in fitted.vcomp)
    return math.sqrt(group), math.sqrt(seed), math.sqrt(float(fitted.scale)), float(fitted.bse["Intercept"])


def sign_flips(table: np.ndarray) -> float:
    """Return two-sided p of the groups' means over seeds, their signs flipped."""
    means = table.mean(axis=1)
    if len(means) <= 14:
        signs = np.array(list(itertools.product((-1, 1), repeat=len(means))))
    else:
        signs = np.random.default_rng(0).choice((-1, 1), size=(FLIPS, len(means)))
    return float(np.mean(np.abs(signs @ means) >= abs(means.sum()) * (1 - 1e-12)))


def main(results: Path) -> None:
    """Print a row for each data set and judge, in points."""
    suite = declared(load_suite("small"))
    found = analyse(collect([results]), suite=suite)
    assert found.answers is not None
    tables = found.answers.confirm[0].tables
    print(
        "| set | by | SD of groups, seeds, residual | standard error | p | p, sign flips |\n"
        "|---|---|---|---:|---:|---:|"
    )
    for name in SETS:
        table = 100 * tables[name]
        spread, own = components(table), estimate(table)
        ours = (spread.sd_group, spread.sd_seed, spread.sd_residual, own.standard_error or math.nan)
        for judge, values in (("mean squares", ours), ("REML", by_mixed_model(table))):
            sds = ", ".join(f"{value:.3f}" for value in values[:3])
            rest = f"{own.p:.3f} | {sign_flips(table):.3f}" if judge == "mean squares" else "-- | --"
            print(f"| {name} | {judge} | {sds} | {values[3]:.3f} | {rest} |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
