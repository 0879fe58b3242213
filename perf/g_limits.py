"""What limits g where few images have labels: new images, or the statistics that normalise them.

Run with qgbench installed and QGBENCH_DATA set: ``python perf/g_limits.py RUNS [DATASET ...]``. RUNS is the folder of
the suite `small`: its quality predictors of the present version are read, those of few labels and those of all. All
judge the same masks: new synthetic ones of the few labelled images (which all have seen), synthetic ones of the test
images, and the masks that weak models, trained on the few labels, give of the test images. For the last, r is taken
within each of six stages of that training, and averaged: what counts for QW is the order among masks of one moment.
Each predictor judges twice: with the running statistics of its batch normalisation as they are stored, and with those
of the labelled images as they are, which is how it is asked about images: the two should differ little. Means over
seeds. Nothing is chosen by these numbers. docs/decisions/g-2.md says what came out.
"""

import copy
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from qgbench.data.experiment import ImageSet
from qgbench.data.run_data import open_run_data
from qgbench.engine.device import make_accelerator
from qgbench.methods.normalisation import normalising_layers
from qgbench.quality.audit import Agreement, agreement
from qgbench.quality.predictor import CARD_NAME, PredictorCard, QualityPredictor, load_predictor
from qgbench.quality.release import ReleaseMixture
from qgbench.quality.scores import overlap
from qgbench.quality.weak import WeakMasks, WeakModels
from qgbench.spec.protocol import load_protocol
from qgbench.spec.regime import Regime
from qgbench.spec.suite import load_suite

DRAWS = 5
"""Synthetic masks of every image."""
CALIBRATION = 512
"""Masks, at least, that clean statistics are averaged over."""
COLUMNS = ("r, its images", "MAE", "r, test images", "MAE", "r within, weak masks", "MAE", "Dice of weak masks", "SD")


@dataclass(frozen=True)
class Judged:
    """Images, a mask of each, and its true Dice."""

    image: Tensor  # (N, 3, S, S)
    mask: Tensor  # (N, 1, S, S)
    dice: np.ndarray  # (N,)


def tensors(images: ImageSet) -> tuple[Tensor, Tensor]:
    index = np.arange(len(images))
    return images.images(index), images.masks(index)


def synthetic(image: Tensor, truth: Tensor, seed: int, draws: int = DRAWS) -> Judged:
    """Return `draws` degraded masks of each image, as g's training makes them."""
    rng = np.random.default_rng(seed)
    truths = truth.squeeze(1).numpy() > 0.5
    index = np.repeat(np.arange(len(truths)), draws)
    degrade = ReleaseMixture().degrade
    masks = [degrade(truths[i], rng, [truths[j] for j in range(len(truths)) if j != i])[0] for i in index]
    mask = torch.from_numpy(np.stack(masks)).unsqueeze(1)
    return Judged(image[index], mask.float(), overlap(mask, truth[index] > 0.5).numpy())


def judge(g: QualityPredictor, masks: Judged, accelerator: Accelerator) -> Agreement:
    parts = []
    with torch.no_grad(), accelerator.autocast():
        for image, mask in zip(masks.image.split(128), masks.mask.split(128), strict=True):
            parts.append(g(image, mask))
    return agreement(torch.cat(parts).float().numpy(), masks.dice)


def with_statistics(g: QualityPredictor, masks: Judged, accelerator: Accelerator) -> QualityPredictor:
    """Return a copy whose running statistics are averages over batches; the weights stay."""
    calibrated = copy.deepcopy(g)
    for layer in normalising_layers(calibrated):
        layer.reset_running_stats()
        layer.momentum = None  # all batches count alike
        layer.train()
    order = torch.randperm(len(masks.image), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), accelerator.autocast():
        for chosen in order[: len(order) - len(order) % 32].split(32) if len(order) >= 32 else [order]:
            calibrated(masks.image[chosen], masks.mask[chosen])
    return calibrated.eval()


def measure(cards: list[tuple[str, Path]], dataset: str, few: Regime, seed: int) -> Iterator[tuple[str, list[float]]]:
    """Yield labels and columns of every predictor of a set and seed."""
    protocol = load_protocol("small")
    accelerator = make_accelerator("cpu", "bf16", 1)
    data = open_run_data(dataset, few, seed, protocol.size, protocol.fractions)
    held_out = set(data.split.loc[data.split["split"] == "test", "id"])
    rows = np.array([row for row, id in enumerate(data.prepared.ids) if id in held_out])
    own, test = tensors(data.training.labelled), tensors(ImageSet([(data.prepared, rows)]))
    models = WeakModels(*own, protocol.quality, seed, accelerator)
    for _ in models.run():
        pass
    weak = WeakMasks([models.networks()], torch.zeros(len(own[0]), dtype=torch.long))
    masks = weak.of_others(test[0], accelerator.device)
    stages = [Judged(test[0], mask.float(), overlap(mask, test[1] > 0.5).numpy()) for mask in masks]
    of_own, of_test = synthetic(*own, seed + 1000), synthetic(*test, seed + 2000)
    clean = synthetic(*own, seed + 3000, CALIBRATION // len(own[0]) + 1)
    for labels, folder in cards:
        stored = load_predictor(folder)
        assert stored is not None
        seen = set(stored.card.labelled_ids)
        if seen & held_out or not seen.issuperset(data.training.labelled.ids):
            continue  # of another split
        for statistics_of, g in (("stored", stored), ("own", with_statistics(stored, clean, accelerator))):
            yield f"{labels} | {statistics_of}", columns_of(g, of_own, of_test, stages, accelerator)


def columns_of(
    g: QualityPredictor, of_own: Judged, of_test: Judged, stages: list[Judged], accelerator: Accelerator
) -> list[float]:
    within = [judge(g, stage, accelerator) for stage in stages]
    found = [judge(g, masks, accelerator) for masks in (of_own, of_test)]
    columns = [value for each in found for value in (each.pearson or 0.0, each.mae)]
    columns += [statistics.mean(each.pearson or 0.0 for each in within), statistics.mean(e.mae for e in within)]
    return columns + [statistics.mean(float(function(s.dice)) for s in stages) for function in (np.mean, np.std)]


def main() -> None:
    regimes = {
        name: Regime.parse(regime[0])
        for name, regime in next(block for block in load_suite("small").block if block.name == "core").regimes.items()
    }
    rows: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    cards: dict[tuple[str, int], list[tuple[str, Path]]] = defaultdict(list)
    for file in sorted(Path(sys.argv[1]).glob(f"predictors/*/{CARD_NAME}")):
        card = PredictorCard.model_validate_json(file.read_text())
        if card.version != load_protocol("small").g_version:
            continue
        is_few = len(card.labelled_ids) == regimes[card.dataset].budget
        cards[card.dataset, card.seed].append((str(len(card.labelled_ids)) if is_few else "all", file.parent))
    for (dataset, seed), of_seed in sorted(cards.items()):
        if dataset in (sys.argv[2:] or regimes):
            for labels, columns in measure(sorted(of_seed), dataset, regimes[dataset], seed):
                rows[dataset, labels].append(columns)
    print("| set | labels of g | statistics | " + " | ".join(COLUMNS) + " |\n|---|---:|---|" + "---:|" * len(COLUMNS))
    for (dataset, labels), found in rows.items():
        means = [f"{statistics.mean(each):.2f}" for each in zip(*found, strict=True)]
        print(f"| {dataset} | {labels} | " + " | ".join(means) + " |")


if __name__ == "__main__":
    main()
