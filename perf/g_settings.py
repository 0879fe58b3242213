"""How the settings of g in `small` were chosen: what each change is worth on validation images, and what it costs.

Run with qgbench installed and QGBENCH_DATA set: ``python perf/g_settings.py QUESTION [workers]``. Trains g of `small`
on few labels, as it is and with settings changed: ``worth`` asks of single settings on two sets, two seeds; ``cost`` of
cheaper ones on five sets, three seeds. Judged are synthetic masks, by the shares of training and of the release's test
script, and the masks of weak models, all of them and within each (r averaged over the models). Weak models depend on
data and seed alone: they are trained once, and their seconds stand before those of each g. No test image is read.
Results are kept in ``perf/kept/g_settings.jsonl``, so that the same command continues; changed code must begin without
that file. docs/decisions/g-2.md and docs/PERFORMANCE.md say what came out.
"""

import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from qgbench.base.seeds import salted
from qgbench.data.run_data import open_run_data
from qgbench.engine.checkpoint import Checkpoints
from qgbench.engine.device import make_accelerator
from qgbench.engine.stage import train
from qgbench.quality.audit import correlation
from qgbench.quality.fit import PredictorFit, _audit, _judge, _Judged, _train_weak_models
from qgbench.quality.scores import overlap
from qgbench.quality.store import as_labelled
from qgbench.spec.protocol import load_protocol
from qgbench.spec.regime import Regime
from qgbench.spec.settings import apply_settings
from qgbench.spec.suite import load_suite

KEPT = Path(__file__).parent / "kept" / "g_settings.jsonl"
FEW = {name: regimes[0] for name, regimes in load_suite("small").block[0].regimes.items()}
MASKS = ("synthetic", "synthetic_test", "weak_models")


@dataclass(frozen=True)
class Question:
    """Which changes of g are asked about, where. None touches the weak models."""

    changes: dict[str, dict[str, Any]]
    sets: tuple[str, ...]
    seeds: int


QUESTIONS = {
    "worth": Question(
        {
            "as it is": {},
            "mask channel scaled": {"mask_scaled": True},
            "one cosine": {"cycles": 1},
            "our former masks": {"mixture": "harsh"},
            "head as released": {"head_init": "kaiming"},
            "selected by loss": {"select": "loss"},
            "three times the weak masks": {"weak_share": 0.15},
        },
        ("ph2", "cvc_clinicdb"),
        2,
    ),
    "cost": Question({"as it is": {}, "300 steps": {"steps": 300}, "batch 16": {"batch": 16}}, tuple(FEW), 3),
}


def fit(dataset: str, seed: int, changes: dict[str, dict[str, Any]]) -> None:
    """Train the weak models of a set and seed, then each g; keep what each is worth and its seconds of a core."""
    protocol = load_protocol("small")
    data = open_run_data(dataset, Regime.parse(FEW[dataset]), seed, protocol.size, protocol.fractions).training
    labelled, val = as_labelled(data.labelled), as_labelled(data.val)
    accelerator = make_accelerator("cpu", protocol.precision, 1)
    of_g = salted("g", dataset, len(data.labelled), seed)
    with tempfile.TemporaryDirectory() as name:
        folder, begin = Path(name), time.process_time()
        weak, _ = _train_weak_models(labelled, protocol.quality, of_g, accelerator, folder, {})
        weak_seconds = time.process_time() - begin
        of_weak = weak.of_others(val.image, accelerator.device)
        for number, (change, values) in enumerate(changes.items()):
            settings, begin = apply_settings(protocol.quality, values, "quality."), time.process_time()
            g = PredictorFit(labelled, val, weak, settings, of_g, accelerator)
            train(g, Checkpoints(folder / str(number), {}), change)
            fitted = _audit(g.best(), g.best_step, val, weak, settings, of_g, accelerator, time.monotonic())
            seconds = time.process_time() - begin
            within = []
            for of_one in of_weak:
                dice = overlap(of_one, val.mask > 0.5).numpy()
                judged = _Judged(torch.arange(len(dice)), of_one.float(), dice)
                within.append(correlation(_judge(fitted.predictor, val, judged, accelerator), dice))
            keep(
                {
                    "change": change,
                    "dataset": dataset,
                    "seed": seed,
                    "step": fitted.best_step,
                    "last": g.step,
                    "weak_s": weak_seconds,
                    "s": seconds,
                    "within": statistics.mean(within),
                    **{masks: getattr(fitted, masks).model_dump() for masks in MASKS},
                }
            )


def keep(found: dict[str, Any]) -> None:
    """Append one result, whole."""
    with KEPT.open("a") as kept:
        kept.write(json.dumps(found) + "\n")


def kept() -> list[dict[str, Any]]:
    """Return all results kept so far."""
    return [json.loads(line) for line in KEPT.read_text().splitlines()] if KEPT.exists() else []


def cells(found: list[dict[str, Any]]) -> Iterator[str]:
    """Yield r and MAE on each kind of masks, averaged over sets and seeds, and the least r; then steps and seconds."""
    for masks in MASKS:
        r, mae = ([one[masks][what] or 0.0 for one in found] for what in ("pearson", "mae"))
        yield f"{statistics.mean(r):.3f} (least {min(r):.2f}) / {statistics.mean(mae):.3f}"
    yield f"{statistics.mean(one['within'] for one in found):.3f}"
    yield f"{statistics.mean(one['step'] for one in found):.0f} of {statistics.mean(one['last'] for one in found):.0f}"
    weak, own = (statistics.mean(one[what] for one in found) for what in ("weak_s", "s"))
    yield f"{weak:.0f} + {own:.0f}"


def main() -> None:
    asked, workers = QUESTIONS[sys.argv[1]], int(sys.argv[2]) if len(sys.argv) > 2 else 2
    KEPT.parent.mkdir(exist_ok=True)
    have = {(one["dataset"], one["seed"], one["change"]) for one in kept()}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs = []
        for seed, dataset in itertools.product(range(asked.seeds), asked.sets):
            missing = {name: values for name, values in asked.changes.items() if (dataset, seed, name) not in have}
            if missing:
                jobs.append(pool.submit(fit, dataset, seed, missing))
        for done in as_completed(jobs):
            done.result()
    places = set(itertools.product(asked.sets, range(asked.seeds)))
    print("| change | synthetic r / MAE | test shares r / MAE | weak models r / MAE | within one | kept step | s |")
    print("|---|---|---|---|---:|---:|---:|")
    for name in asked.changes:
        here = [one for one in kept() if one["change"] == name and (one["dataset"], one["seed"]) in places]
        print(f"| {name} | " + " | ".join(cells(here)) + " |")


if __name__ == "__main__":
    main()
