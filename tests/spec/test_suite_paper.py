"""Every kind of run of `paper`, and every predictor of `ablations`, takes its steps: on small images, untrained."""

from functools import partial
from itertools import product

import numpy as np
import pytest
import torch

from qgbench.data.cache import Prepared
from qgbench.data.experiment import ImageSet, TrainingData
from qgbench.engine.device import make_accelerator
from qgbench.plugins.registry import load
from qgbench.quality.guide import make_guide
from qgbench.quality.predictor import QualityPredictor
from qgbench.run.carry_out import build_student
from qgbench.run.request import make_spec
from qgbench.spec.protocol import load_protocol
from qgbench.spec.settings import apply_settings
from qgbench.spec.suite import Entry, load_suite
from qgbench.training.loop import Trainer

pytestmark = pytest.mark.slow

PAPER = load_suite("paper").entries()
ARCHS = ("attention_unet", "unetpp", "swin_unet")
# The add-on sees masks and no network: every row trains on one network; on the others two networks and QW, features and
# a teacher, and QAR. Each method runs on the network of its own in tests/test_every_method.py.
ON_ALL = ("cps+qw", "cl_teacher+qw", "supervised+qar")
KINDS = {(entry.arch, entry.row): entry for entry in PAPER if entry.arch == ARCHS[0] or entry.row in ON_ALL}
SMALL = {"size": 64, "decoder_channels": (64, 32, 16, 16, 16), "encoder_weights": "none"}
FEW = {"train.batch_labelled": 2, "train.batch_unlabelled": 2, "train.steps": 2, "train.validations": 1}
AT_ONCE = {"method.warmup": 0.0, "method.ramp": 0.0}
QUALITY = {"qw": {"qg.tau": 0.0}, "qar": {"qg.qar_warmup": 0.0, "qg.qar_ramp": 0.0}}


@pytest.fixture(scope="module")
def images() -> TrainingData:
    """Bright squares on a darker ground."""
    rng = np.random.default_rng(0)
    masks = np.zeros((10, 64, 64), np.uint8)
    for mask in masks:
        top, left = rng.integers(4, 28, 2)
        mask[top : top + 30, left : left + 30] = 1
    light = 90 + 100 * masks[..., None] + rng.normal(0, 25, (*masks.shape, 3))
    ids = [str(number) for number in range(len(masks))]
    prepared = Prepared(ids, ids, light.clip(0, 255).astype(np.uint8), masks, np.full((len(masks), 2), 64), "", None)
    labelled, unlabelled, val = (ImageSet([(prepared, rows)]) for rows in np.split(np.arange(len(masks)), [3, 8]))
    return TrainingData(labelled, unlabelled, val, unlabelled_are_labelled=False)


def trainer_of(entry: Entry, images: TrainingData) -> Trainer:
    """A trainer as `qgbench.run.carry_out` makes it, with every loss at its full weight from the first step on."""
    kind = load("method", entry.arm.method)
    changes = FEW | AT_ONCE
    for addon in entry.arm.addons:
        changes |= QUALITY[addon]
    if "threshold" in kind.Settings.model_fields:
        changes |= {"method.threshold": 0.5}  # an untrained network is sure of nothing
    changes |= entry.arm.overrides
    spec = make_spec(
        entry.protocol,
        entry.dataset,
        entry.regime,
        entry.arm.model_copy(update={"overrides": changes}),
        arch=entry.arch,
        precision="fp32",
        device="cpu",
        threads=1,
    )
    protocol = spec.resolve().model_copy(update=SMALL)
    torch.manual_seed(0)
    g = QualityPredictor(protocol.quality, "none").requires_grad_(False).eval() if spec.needs_g else None
    settings = apply_settings(kind.Settings(), spec.overrides_of("method"), "method.")
    method = kind(partial(build_student, protocol, images.labelled.task), settings)
    guide = make_guide(spec, g, spec.seed)
    return Trainer(method, guide, g, images, protocol, 0, make_accelerator("cpu", "fp32", 1), spec.qg_norm)


def test_the_kinds_are_every_row_and_three_on_every_network() -> None:
    rows = {entry.row for entry in PAPER}
    assert len(rows) == 16
    assert {row for arch, row in KINDS if arch == ARCHS[0]} == rows
    assert set(KINDS) >= set(product(ARCHS, ON_ALL))
    assert {arch for arch, _ in KINDS} == {entry.arch for entry in PAPER}


@pytest.mark.parametrize(("arch", "row"), KINDS)
def test_every_kind_of_run_of_the_paper_trains(arch: str, row: str, images: TrainingData) -> None:
    trainer = trainer_of(KINDS[arch, row], images)
    before = [parameter.detach().clone() for parameter in trainer.method.student.parameters()]
    assert list(trainer.run()) == [1, 2]
    moved = [not torch.equal(old, new) for old, new in zip(before, trainer.method.student.parameters(), strict=True)]
    assert sum(moved) > 0.9 * len(moved)
    assert all(new.isfinite().all() for new in trainer.method.student.parameters())
    last = [entry for entry in trainer.history.log if "total" in entry][-1]
    assert ("mean_q" in last) == row.endswith("+qw")
    assert ("added" in last) == row.endswith("+qar")
    assert ("unlabelled_0" in last) == (not row.startswith("supervised"))
    for name in ("unlabelled_0", "added"):
        assert name not in last or last[name] > 0, last
    assert (trainer.method.teacher is not None) == row.startswith(("pl_teacher", "mean", "ua_mt", "ict", "cl_teacher"))


@pytest.mark.parametrize(
    "backbone",
    sorted({entry.arm.overrides.get("quality.backbone", "") for entry in load_suite("ablations").entries()} - {""}),
)
def test_every_backbone_of_the_ablations_scores_masks_and_guides_them(backbone: str) -> None:
    torch.manual_seed(0)
    g = QualityPredictor(load_protocol("paper").quality.model_copy(update={"backbone": backbone}), "none").eval()
    mask = torch.rand(2, 1, 64, 64, requires_grad=True)
    q = g(torch.rand(2, 3, 64, 64), mask)
    assert q.shape == (2,)
    assert ((q > 0) & (q < 1)).all()
    q.sum().backward()
    assert mask.grad is not None
    assert (mask.grad.flatten(1) != 0).any(1).all()
