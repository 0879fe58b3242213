"""How well g and its rivals tell the true Dice of pseudo-labels within a checkpoint, on the same labels and images.

Run with qgbench installed and QGBENCH_DATA set: ``python perf/judges.py QUESTION [workers]``. On each set, budget and
seed FixMatch is trained once with the protocol's settings; at 25, 50, 75 and 100 % its pseudo-labels of held-back
training images are kept (of validation images where every label is used). Then each judge is trained on the labels and
asked about them. Selection is on validation images; no test image is read. ``all`` asks on five sets, few and all
labels, three seeds; ``trial`` on the phantom in a few steps, to see that the command works. Results are kept in
``perf/kept/judges.jsonl``, so that the same command continues; changed code must begin without that file.
"""

import itertools
import json
import math
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t

from qgbench.base.seeds import salted
from qgbench.data.run_data import open_run_data
from qgbench.engine.checkpoint import Checkpoints
from qgbench.engine.device import make_accelerator
from qgbench.engine.stage import train
from qgbench.plugins.registry import load
from qgbench.quality.audit import agreement, audited_after
from qgbench.quality.fit import PredictorFit, _train_weak_models
from qgbench.quality.guide import Guide
from qgbench.quality.predictor import QualityPredictor
from qgbench.quality.scores import (
    Labelling,
    certainty,
    flip_agreement,
    foreground_confidence,
    label_quality,
    true_quality,
)
from qgbench.quality.store import as_labelled
from qgbench.run.carry_out import build_student
from qgbench.spec.protocol import load_protocol
from qgbench.spec.regime import Regime
from qgbench.spec.settings import apply_settings
from qgbench.spec.suite import load_suite
from qgbench.spec.task import Task
from qgbench.training.loop import Trainer

KEPT = Path(__file__).parent / "kept" / "judges.jsonl"
_CORE = next(block.regimes for block in load_suite("small").block if block.name == "core")
FEW = {dataset: regimes[0] for dataset, regimes in _CORE.items()}
RIVALS = ("second", "confidence", "agreement")  # that r is to lie above
FREE = {"confidence": foreground_confidence, "agreement": flip_agreement, "entropy": certainty}
JUDGES: dict[str, tuple[str, dict[str, Any]]] = {
    "g": ("regressor", {}),
    "g, half of the masks weak": ("regressor", {"weak_share": 0.5}),
    "g, half of the masks weak, out of fold": ("regressor", {"weak_share": 0.5, "weak_folds": 4}),
    "g, ranking": ("regressor", {"loss": "ranking"}),
    "pixel": ("pixel", {}),
    "both": ("both", {}),
    "second": ("second", {}),
    "ensemble": ("ensemble", {}),
}
BY_RULE = {
    "g": "correlation",
    "g, selected by loss": "loss",
    "g, last step": "",
}  # one training, selected in three ways
NAMES = (*BY_RULE, *(name for name in JUDGES if name not in BY_RULE))
Place = tuple[str, str, int]  # data set, regime, seed


@dataclass(frozen=True)
class Question:
    """Where the judges are compared, and what is changed of the protocol."""

    protocol: str
    places: tuple[tuple[str, str], ...]
    seeds: int
    train: dict[str, Any]
    quality: dict[str, Any]


_EVERYWHERE = (*FEW.items(), *((dataset, "all@grouped") for dataset in FEW))
QUESTIONS = {
    "all": Question("small", _EVERYWHERE, 3, {}, {}),
    "trial": Question("smoke", (("phantom", "n12@grouped"),), 1, {"steps": 4}, {"steps": 2, "validations": 1}),
}


class ByEveryRule(PredictorFit):
    """g that trains to its last step and keeps what it was, and was worth, at each validation."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._patience, self._settings = (
            self._settings.patience,
            self._settings.model_copy(update={"patience": self._settings.validations}),
        )
        self._seen: list[tuple[dict[str, float], dict[str, torch.Tensor]]] = []

    def _validate(self, step: int) -> None:
        scores = {}
        for rule in ("correlation", "loss"):
            self._settings = self._settings.model_copy(update={"select": rule})
            scores[rule] = self._score()
        self._seen.append((scores, {name: v.detach().clone() for name, v in self._predictor.state_dict().items()}))

    def chosen(self, rule: str) -> QualityPredictor:
        """Return g as a rule selects it, with the patience of its settings; by no rule, as it was at the last step."""
        best, at = -math.inf, len(self._seen) - 1
        for place, (scores, _) in enumerate(self._seen if rule else []):
            if scores[rule] > best:
                best, at = scores[rule], place
            elif place - at >= self._patience:
                break
        self._best_state = self._seen[at][1]
        return self.best()


def fit(asked: Question, place: Place) -> None:
    """Train FixMatch at one place, then each judge; keep one line that holds what all of them are worth."""
    begin, (dataset, regime, seed) = time.process_time(), place
    protocol = load_protocol(asked.protocol)
    protocol = protocol.model_copy(
        update={
            "train": apply_settings(protocol.train, asked.train, "train."),
            "quality": apply_settings(protocol.quality, asked.quality, "quality."),
        }
    )
    data = open_run_data(dataset, Regime.parse(regime), seed, protocol.size, protocol.fractions).training
    accelerator = make_accelerator("cpu", protocol.precision, 1)
    checkpoints = pseudo_labels(protocol, data, salted("judges", *place), accelerator)
    found = {name: [values[name] for values, _ in checkpoints] for name in FREE}
    labelled, val, of_g = (
        as_labelled(data.labelled),
        as_labelled(data.val),
        salted("g", dataset, len(data.labelled), seed),
    )
    weak: dict[int, Any] = {}  # by the number of folds
    for name, (form, values) in JUDGES.items():
        settings = apply_settings(protocol.quality, values, "quality.")
        with tempfile.TemporaryDirectory() as folder:
            if (folds := settings.weak_folds) not in weak:
                weak[folds], _ = _train_weak_models(labelled, settings, of_g, accelerator, Path(folder), {})
            kind = ByEveryRule if name in BY_RULE else PredictorFit
            judge = kind(labelled, val, weak[folds], settings, of_g, accelerator, form)
            train(judge, Checkpoints(Path(folder) / "judge", {}), name)
        if isinstance(judge, ByEveryRule):
            found |= {each: worth(judge.chosen(rule), labelled.task, checkpoints) for each, rule in BY_RULE.items()}
        else:
            found[name] = worth(judge.best(), labelled.task, checkpoints)
    keep({"place": place, "protocol": asked.protocol, "s": time.process_time() - begin, "judges": found})


def worth(
    judge: QualityPredictor, task: Task, checkpoints: list[tuple[dict[str, Any], list[Any]]]
) -> list[dict[str, Any]]:
    """Return how well a judge tells the true Dice of each checkpoint's labels."""
    found = []
    for true, labels in checkpoints:
        quality = torch.cat([label_quality(judge, task, image, prob) for image, prob in labels])
        found.append(agreement(quality[: len(true["dice"])].numpy(), true["dice"]).model_dump())
    return found


def pseudo_labels(protocol: Any, data: Any, seed: int, accelerator: Any) -> list[tuple[dict[str, Any], list[Any]]]:
    """Return, of each checkpoint, true Dice and what the free scores are worth, and the labels with their images."""
    kind, task = load("method", "fixmatch"), data.labelled.task
    torch.manual_seed(seed)
    trainer = Trainer(
        kind(partial(build_student, protocol, task), kind.Settings()),
        Guide([]),
        None,
        data,
        protocol,
        seed,
        accelerator,
    )
    checkpoints = []
    for done in trainer.run():
        if done not in audited_after(trainer.steps, pseudo_labels=True):
            continue
        seen: dict[str, list[torch.Tensor]] = {name: [] for name in ("dice", *FREE)}
        labels = []
        for index, label in trainer._labels_of_audited():
            with torch.no_grad(), accelerator.autocast():
                asked = Labelling(label.image, label.prob, label.network, None)
                for name, score in FREE.items():
                    seen[name].append(score(asked).float())
            seen["dice"].append(true_quality(task, label.prob, trainer._audit_set.masks(index)))
            labels.append((label.image, label.prob))
        images = len(trainer._audit_index)  # with which the last batch was filled up again
        values: dict[str, np.ndarray] = {name: torch.cat(parts)[:images].numpy() for name, parts in seen.items()}
        of_free = {name: agreement(values[name], values["dice"]).model_dump() for name in FREE}
        checkpoints.append(({"dice": values["dice"], **of_free}, labels))
    return checkpoints


def keep(found: dict[str, Any]) -> None:
    """Append one result, whole."""
    with KEPT.open("a") as kept:
        kept.write(json.dumps(found) + "\n")


def kept(protocol: str) -> list[dict[str, Any]]:
    """Return all results of a protocol kept so far."""
    lines = KEPT.read_text().splitlines() if KEPT.exists() else []
    return [one for one in map(json.loads, lines) if one["protocol"] == protocol]


def cell(values: list[float]) -> str:
    """Return the mean of the places, each a mean over checkpoints, with its 95 % interval (Student's t)."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:.3f}"
    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.3f} [{mean - half:.3f}, {mean + half:.3f}]"


def of_seeds(here: list[dict[str, Any]], judge: str, what: str) -> list[float]:
    """Return a judge's mean over the checkpoints in each line; what cannot be computed counts as 0."""
    return [statistics.mean(each[what] or 0.0 for each in one["judges"][judge]) for one in here]


def main() -> None:
    asked, workers = QUESTIONS[sys.argv[1]], int(sys.argv[2]) if len(sys.argv) > 2 else 2
    KEPT.parent.mkdir(exist_ok=True)
    places = [(*where, seed) for seed, where in itertools.product(range(asked.seeds), asked.places)]
    have = {tuple(one["place"]) for one in kept(asked.protocol)}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(fit, asked, place) for place in places if place not in have]):
            done.result()
    found = kept(asked.protocol)
    for dataset, regime in asked.places:
        here = [one for one in found if tuple(one["place"][:2]) == (dataset, regime)]
        print(f"\n{dataset}, {regime}: {statistics.mean(one['s'] for one in here):.0f} s of a core a seed\n")
        print(
            "| judge | r | rho | MAE | "
            + " | ".join(f"r above {rival}" for rival in RIVALS)
            + " |\n"
            + "|---" * 7
            + "|"
        )
        for name in (*NAMES, *FREE):
            told = [of_seeds(here, name, what) for what in ("pearson", "spearman", "mae")]
            above = [
                [own - other for own, other in zip(told[0], of_seeds(here, rival, "pearson"), strict=True)]
                for rival in RIVALS
            ]
            print(f"| {name} | " + " | ".join(map(cell, [*told, *above])) + " |")


if __name__ == "__main__":
    main()
