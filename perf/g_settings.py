"""How the settings of g in `small` were chosen: what each change is worth on validation images, and what it costs.

Run with qgbench installed and QGBENCH_DATA set: ``python perf/g_settings.py QUESTION [workers]``. Trains g of `small` on
few labels, as it is and with settings changed: ``worth`` asks of one setting each on two sets, two seeds; ``cost`` asks
of cheaper ones on five sets, three seeds. Judged are synthetic masks, by the shares of training and of the release's
test script, and the masks of weak models, which depend on data and seed alone and so are the same in a row; r within
one weak model is averaged over them. Results are kept in ``runs/g_settings.jsonl``, so that the same command continues.
BENCHMARK.md and docs/PERFORMANCE.md say what came out.
"""

import itertools
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from qgbench.base.seeds import salted
from qgbench.data.run_data import open_run_data
from qgbench.engine.device import make_accelerator
from qgbench.quality.fit import fit_predictor
from qgbench.quality.store import _as_labelled
from qgbench.spec.protocol import load_protocol
from qgbench.spec.regime import Regime
from qgbench.spec.settings import apply_settings

KEPT = Path("runs/g_settings.jsonl")
SETS = {"ph2": "n7@grouped", "cvc_clinicdb": "n28@grouped"}
SEEDS = (0, 1)
CHANGES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "mask channel scaled": {"mask_scaled": True},
    "one cosine": {"cycles": 1},
    "our former masks": {"mixture": "harsh"},
    "head as released": {"head_init": "kaiming"},
    "selected by loss": {"select": "loss"},
    "three times the weak masks": {"weak_share": 0.15},
}
MASKS = ("synthetic", "synthetic_test", "weak_models")


def fit(name: str, dataset: str, seed: int) -> dict[str, Any]:
    """Train one g and return what it is worth."""
    protocol = load_protocol("small")
    settings = apply_settings(protocol.quality, CHANGES[name], "quality.")
    data = open_run_data(dataset, Regime.parse(SETS[dataset]), seed, protocol.size, protocol.fractions).training
    labelled, val = _as_labelled(data.labelled), _as_labelled(data.val)
    accelerator = make_accelerator("cpu", protocol.precision, 1)
    with tempfile.TemporaryDirectory() as folder:
        fitted = fit_predictor(
            labelled, val, settings, salted("g", dataset, len(data.labelled), seed), accelerator, Path(folder), {}
        )
    found = {masks: asdict(getattr(fitted, masks)) for masks in MASKS}
    return {"change": name, "dataset": dataset, "seed": seed, "step": fitted.best_step, "s": fitted.seconds, **found}


def cells(found: list[dict[str, Any]]) -> Iterator[str]:
    """Yield r and MAE on each kind of masks, averaged over sets and seeds, and the least r; then the kept steps."""
    for masks in MASKS:
        r, mae = ([one[masks][what] for one in found] for what in ("pearson", "mae"))
        yield f"{statistics.mean(r):.3f} (least {min(r):.2f}) / {statistics.mean(mae):.3f}"
    yield ", ".join(str(one["step"]) for one in found)
    yield f"{statistics.mean(one['s'] for one in found):.0f}"


def main() -> None:
    KEPT.parent.mkdir(exist_ok=True)
    known = [json.loads(line) for line in KEPT.read_text().splitlines()] if KEPT.exists() else []
    have = {(one["change"], one["dataset"], one["seed"]) for one in known}
    asked = [(name, dataset, seed) for seed, name, dataset in itertools.product(SEEDS, CHANGES, SETS)]
    workers = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool, KEPT.open("a") as kept:
        for done in as_completed([pool.submit(fit, *one) for one in asked if one not in have]):
            known.append(done.result())
            kept.write(json.dumps(known[-1]) + "\n")
            kept.flush()
    print("| change | synthetic r / MAE | test shares r / MAE | weak models r / MAE | best steps | s |")
    print("|---|---|---|---|---|---:|")
    for name in CHANGES:
        print(f"| {name} | " + " | ".join(cells([one for one in known if one["change"] == name])) + " |")


if __name__ == "__main__":
    main()
