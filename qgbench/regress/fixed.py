"""Numbers of computations on fixed inputs, in which rounding cannot grow: they find a defect on any processor.

A trained network carries the last bits of its processor into every result, so that after some steps only large defects
stand out from rounding. These do not:

- ``data``: who is trained on, validated on and tested on, and their pixels as the loop gets them;
- ``evaluation``: a network that needs no training (darker than the image is lesion), evaluated as any other;
- ``steps``: a few steps of the real loop for every method that ships, without the add-on and with all of its modes, on
  a toy network and a toy g that compute in float64.

Of volumes and of several classes, which no run of ``smoke`` has, the phantom of volumes gives the same: who is trained
on, each class measured in 3D, and steps of two methods.
"""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from qgbench.data.experiment import ImageSet, TrainingData, training_data
from qgbench.data.phantom3d import CLASSES
from qgbench.data.run_data import RunData, open_run_data
from qgbench.data.splits import split_fingerprint
from qgbench.data.volumes import PHANTOM_3D
from qgbench.engine.device import make_accelerator
from qgbench.methods import Method, Network
from qgbench.plugins.registry import load, method_names
from qgbench.quality.guide import AddOn, Guide, QualityRegularisation, QualityWeighting
from qgbench.quality.scores import PredictedQuality
from qgbench.regress.outcome import averages, digest, logged
from qgbench.regress.reference import Numbers, Value
from qgbench.run.record import summarise
from qgbench.spec.protocol import Protocol
from qgbench.spec.regime import Regime
from qgbench.spec.run_spec import RunSpec
from qgbench.spec.task import Task
from qgbench.training.evaluation import evaluate
from qgbench.training.loop import Trainer
from qgbench.trust.toys import ToySegmenter

STEPS = 4
_SHORT = {
    **{"steps": STEPS, "lr": 1e-2, "validations": 2, "batch_labelled": 4, "batch_unlabelled": 6},
}
_IMAGES = {"labelled": 8, "unlabelled": 16, "val": 8}  # at most, of those of the first run
_VOLUMES = "n3patients@grouped"
_OF_SEVERAL_CLASSES = "fixmatch", "contrastive"
_ONE = Task()
_TOY_SIDE = 32
_GAIN = 12.0  # of the toy network's logits: an untrained network is certain of nothing, and no threshold lets it pass


class _Segmenter(nn.Module):
    """The toy network of `qgbench.trust.toys` in float64, on images pooled to 32 pixels and without dropout.

    Images (B, 3, H, W) -> logits (B, C, H, W); these and the features in between are float32, as a run's.
    """

    min_batch = 1

    def __init__(self, size: int, task: Task) -> None:
        super().__init__()
        self.size = size
        self.task = task
        self.network = ToySegmenter(task=task).double()
        self.network.head[0] = nn.Identity()
        for module in self.network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.5  # running statistics that are of use after a few steps

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.decode(self.encode(image)))

    def encode(self, image: Tensor) -> list[Tensor]:
        pooled = F.adaptive_avg_pool2d(image.double(), _TOY_SIDE)
        return [feature.float() for feature in self.network.encode(pooled)]

    def decode(self, features: list[Tensor]) -> Tensor:
        return self.network.decode([feature.double() for feature in features]).float()

    def head(self, decoded: Tensor) -> Tensor:
        logits = _GAIN * self.network.head(decoded.double())
        return F.interpolate(logits, (self.size, self.size), mode="bilinear", align_corners=False).float()

    def new_decoder(self) -> "_Segmenter":
        sibling = _Segmenter(self.size, self.task)
        sibling.network.encoder = self.network.encoder
        return sibling


class _Contrast(nn.Module):
    """A g without weights: (B, 3, H, W), (B, K, H, W) -> (B, K) in (0, 1), above 0.5 where a mask is on the darker.

    Of one class (B,).
    """

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        grey, inside = image.double().mean(1, keepdim=True), mask.double()
        means = [(part * grey).sum((2, 3)) / (part.sum((2, 3)) + 1.0) for part in (inside, 1.0 - inside)]
        return torch.sigmoid(5.0 * (means[1] - means[0])).float().squeeze(1)


class _DarkerThanTheImage(nn.Module):
    """Images (B, 3, H, W) -> logits (B, 1, H, W): how far a pixel, smoothed, is below the mean grey of its image."""

    task = _ONE

    def forward(self, image: Tensor) -> Tensor:
        return (-50.0 * _above_its_mean(image)).float()


class _BrightLeftAndRight(nn.Module):
    """Images (B, 3, H, W) -> logits (B, 4, H, W) of the phantom of volumes: background, rv, myo and lv.

    The cavities are the bright on the left and in the middle, the wall is the dark in the middle.
    """

    task = Task(CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        above = 50.0 * _above_its_mean(image)
        across = torch.linspace(-1.0, 1.0, image.shape[3], dtype=torch.float64).expand_as(above)
        middle = 5.0 - 25.0 * across.abs()
        return torch.cat(
            [torch.zeros_like(above), above - 25.0 * across - 10.0, middle - above, middle + above], 1
        ).float()


def _above_its_mean(image: Tensor) -> Tensor:
    """Return how far the grey of a pixel, smoothed, is above its image's mean: (B, 3, H, W) -> (B, 1, H, W) float64."""
    grey = F.avg_pool2d(image.double().mean(1, keepdim=True), 5, 1, 2)
    return grey - grey.mean((2, 3), keepdim=True)


def fixed_numbers(specs: Sequence[RunSpec], data_dir: Path | None = None) -> Numbers:
    """Return all numbers of fixed inputs, on the data of a suite's runs; steps and evaluation on the first run's.

    Those of several classes are on the phantom of volumes.

    Parameters
    ----------
    specs : sequence of RunSpec
        Of one suite, at least one.
    data_dir : Path, optional
        Folder that holds the data sets; the variable QGBENCH_DATA if not given.

    Raises
    ------
    UserError
        The data are missing or broken.
    """
    numbers: Numbers = {}
    first: RunData | None = None
    for spec in specs:
        item = f"data: {spec.dataset} {spec.regime}, seed {spec.seed}"
        if item in numbers:
            continue
        protocol = spec.resolve()
        regime = Regime.parse(spec.regime)
        data = open_run_data(spec.dataset, regime, spec.seed, protocol.size, protocol.fractions, data_dir)
        seeds = digest([str(spec.seed_of(purpose)) for purpose in ("weights", "training", "add-on")])
        numbers[item] = _of_data(data) | {"seeds": seeds}
        first = first or data
    assert first is not None
    accelerator = make_accelerator("cpu", "fp32", specs[0].threads)
    (found,) = _of_evaluation(_DarkerThanTheImage(), first, accelerator).values()
    numbers[f"evaluation: {specs[0].dataset}, darker is lesion"] = found
    few, protocol = _few(first), specs[0].resolve()
    for name in method_names():
        for guided in (False, True):
            item = f"steps: {name}{'+qg' if guided else ''}"
            numbers[item] = _of_steps(load("method", name), guided, few, protocol, accelerator)
    return numbers | _of_volumes(protocol, accelerator)


def _of_volumes(protocol: Protocol, accelerator: Accelerator) -> Numbers:
    """Return who is trained on, what each class of the test volumes measures, and steps, of the phantom of volumes."""
    data = open_run_data(PHANTOM_3D, Regime.parse(_VOLUMES), 0, protocol.size, protocol.fractions)
    numbers: Numbers = {f"data: {PHANTOM_3D} {_VOLUMES}, seed 0": _of_data(data)}
    for name, found in _of_evaluation(_BrightLeftAndRight(), data, accelerator).items():
        numbers[f"evaluation: {PHANTOM_3D}, {name}"] = found
    few = _few(data)
    for name in _OF_SEVERAL_CLASSES:
        for guided in (False, True):
            item = f"steps: {name}{'+qg' if guided else ''}, {len(CLASSES)} classes"
            numbers[item] = _of_steps(load("method", name), guided, few, protocol, accelerator)
    return numbers


def _of_data(data: RunData) -> dict[str, Value]:
    training = data.training
    test = data.split.loc[data.split["split"] == "test", "id"]
    seen = {*training.labelled.ids, *training.unlabelled.ids, *training.val.ids}
    found: dict[str, Value] = {"images": data.fingerprint, "split": split_fingerprint(data.split)}
    for name in ("labelled", "unlabelled", "val"):
        part = getattr(training, name)
        found |= {name: digest(part.ids), f"{name} pixels": _pixels(part)}
    return found | {"test": digest(test), "test images among the others": len(seen & set(test))}


def _pixels(images: ImageSet) -> str:
    """Return the SHA-256 of images and masks, as 8-bit numbers."""
    seen = hashlib.sha256()
    for image, mask in images.batches():
        for part in (image * 255, mask):
            seen.update(part.round().to(torch.uint8).numpy().tobytes())
    return seen.hexdigest()


def _of_evaluation(network: nn.Module, data: RunData, accelerator: Accelerator) -> Numbers:
    """Return sums of pixels and averages over the test images or volumes: of each class and, of several, of all."""
    tables, _ = evaluate({"student": cast(Network, network)}, None, data.prepared, data.split, accelerator)
    rows = tables["student"]
    parts = {name: rows[rows["class"] == name] for name in data.task.classes}
    if len(parts) > 1:
        parts["all classes"] = rows
    found: Numbers = {}
    for name, own in parts.items():
        summary = summarise(own).model_copy(update={"by_class": {}})  # each is a part by itself
        found[name] = {count: int(own[count].sum()) for count in ("n_ref", "n_pred", "n_tp")} | averages(summary)
    return found


def _few(data: RunData) -> TrainingData:
    """Return few images of each part, so that steps, validation and audits are quick."""
    training = data.training
    chosen = {name: getattr(training, name).ids[:most] for name, most in _IMAGES.items()}
    rows = data.split[data.split["id"].isin([id for ids in chosen.values() for id in ids])]
    labelled = chosen["labelled"]
    return training_data(data.prepared, [], rows, Regime(budget=len(labelled), pools=()), data.source.name, 0, labelled)


def _of_steps(
    method_class: type[Method], guided: bool, data: TrainingData, protocol: Protocol, accelerator: Accelerator
) -> dict[str, Value]:
    """Train, with every mode of the add-on that suits the method if `guided`, and return numbers of the steps."""
    quality = _Contrast()
    torch.manual_seed(0)
    network = partial(_Segmenter, data.labelled.size, data.labelled.task)
    method = method_class(lambda arch="": network(), method_class.Settings())
    modes: list[AddOn] = []
    if guided and method_class.pseudo_labels:
        modes.append(QualityWeighting(QualityWeighting.Settings(), PredictedQuality(quality)))
    if guided:
        modes.append(QualityRegularisation(QualityRegularisation.Settings(), predictor=quality))
    train = protocol.train.model_copy(update=_SHORT)
    short = protocol.model_copy(update={"train": train})
    before = _flat(method.student)
    trainer = Trainer(method, Guide(modes), quality, data, short, 0, accelerator)
    for _ in trainer.run():
        pass
    found = logged(trainer.history.log) | {"student moved": _length(_flat(method.student) - before)}
    if method.teacher is not None:
        found["teacher moved"] = _length(_flat(method.teacher) - before)
        found["teacher to student"] = _length(_flat(method.teacher) - _flat(method.student))
    return found


def _flat(network: Network) -> Tensor:
    """Return parameters and running statistics in one vector."""
    values = network.state_dict().values()
    return torch.cat([value.detach().double().flatten().clone() for value in values if value.is_floating_point()])


def _length(vector: Tensor) -> float:
    return float(torch.linalg.vector_norm(vector))
