"""The library: weights, reduction and regularisation of the harness, bit for bit, on plain tensors."""

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from monai.data import DataLoader, Dataset
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Resized, ScaleIntensityRanged
from PIL import Image
from torch import Tensor, nn

import qgbench
from qgbench import QualityGuide, QualityPredictor
from qgbench.base.errors import NotFoundError, UserError
from qgbench.methods import Method, Step, Term, reduce_term
from qgbench.methods.normalisation import frozen_statistics
from qgbench.quality.guide import Guide, QualityRegularisation, QualityWeighting
from qgbench.quality.predictor import CARD_NAME, WEIGHTS_NAME, save_predictor
from qgbench.quality.scores import PredictedQuality, Watched
from qgbench.spec.task import Task
from qgbench.training.streams import Streams
from qgbench.trust.toys import ONE, THREE, ToySegmenter, toy_data, toy_protocol
from tests.quality.test_predictor import SETTINGS, card

TASKS = {"K=1": ONE, "K=3": THREE}
every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
SIZE = 32


def fitted(task: Task) -> QualityPredictor:
    """A g whose statistics are no longer those that it started with, and whose q is spread."""
    return copy.deepcopy(fitted_once(task))


@cache
def fitted_once(task: Task) -> QualityPredictor:
    torch.manual_seed(0)
    g = QualityPredictor(SETTINGS, "none", task)
    image, prob = images_and_probs(task, 8)
    for _ in range(3):
        g(image, prob[:, task.lesions])
    with torch.no_grad():
        for parameter in g.head.parameters():
            parameter.mul_(6)
    return g


def images_and_probs(task: Task, count: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(count, task.channels, 4, 4, generator=generator)
    logits = nn.functional.interpolate(logits, SIZE, mode="bilinear")
    return torch.rand(count, 3, SIZE, SIZE, generator=generator), task.probabilities(logits)


@pytest.fixture(scope="module", params=TASKS.values(), ids=TASKS)
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("g")
    of = card().model_copy(update={"classes": request.param.classes, "size": SIZE})
    save_predictor(folder, fitted(request.param), of)
    return folder


@pytest.fixture(scope="module")
def guide(stored: Path) -> QualityGuide:
    return QualityGuide.load(stored)


class Plain(Method):
    def step(self, batch: Any) -> Step:
        return Step(self.student(batch.x_l).mean())


def method_of(task: Task) -> Method:
    def build() -> nn.Module:
        network = ToySegmenter(task=task)
        network.head[0] = nn.Identity()
        return network

    torch.manual_seed(0)
    return Plain(build, Plain.Settings()).train()


# The same numbers as the harness


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_weights_are_the_harness_s_bit_for_bit(stored: Path, precision: str) -> None:
    guide = QualityGuide.load(str(stored), tau=0.3, temperature=1.5)
    settings = QualityWeighting.Settings(tau=0.3, temperature=1.5)
    harness = Guide([QualityWeighting(settings, Watched(PredictedQuality(guide.predictor), "g"))])
    image, prob = images_and_probs(guide.task)
    label = method_of(guide.task).pseudo_label(image, prob)
    with torch.autocast("cpu", enabled=precision == "bf16"):
        (expected,) = harness.weights([Term(torch.ones(len(image)), label)], {})
        found = guide.weights(image, prob.clone().requires_grad_())
    assert torch.equal(found, expected)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert len(set(found.tolist())) > 2


def test_the_defaults_are_those_of_the_add_ons(guide: QualityGuide) -> None:
    image, prob = images_and_probs(guide.task)
    label = method_of(guide.task).pseudo_label(image, prob)
    harness = Guide([QualityWeighting(score=PredictedQuality(guide.predictor))])
    assert torch.equal(guide.weights(image, prob), harness.weights([Term(torch.ones(6), label)], {})[0])


def test_weights_are_equation_7_written_out(guide: QualityGuide) -> None:
    image, prob = images_and_probs(guide.task, 8, seed=1)
    for each, p, w in zip(image, prob, guide.weights(image, prob), strict=True):
        k = len(guide.task.classes)
        hard = (p > 0.5).float() if k == 1 else torch.stack([p.argmax(0) == c for c in range(k + 1)])[1:].float()
        dice = guide.predictor(each[None], hard[None]).view(-1)
        held = [c for c in range(k) if hard[c].any()] or range(k)
        q = float(sum(dice[c] for c in held) / len(held))
        assert float(w) == pytest.approx(q**2 if q >= 0.5 else 0.0, abs=1e-4)


@every_task
def test_the_reduction_is_the_harness_s_bit_for_bit(task: Task) -> None:
    guide = QualityGuide(fitted(task))
    torch.manual_seed(1)
    image, prob = images_and_probs(task)
    label = method_of(task).pseudo_label(image, prob)
    w, owner = torch.tensor([0.0, 0.9, 0.3, 1.0, 0.25, 0.6]), torch.tensor([0, 1, 1, 5, 3, 2, 0, 4])
    for rows, weight, term in (
        (6, w, {}),
        (6, w, {"denominator": torch.rand(6)}),
        (8, w[owner], {"owner": owner, "denominator": torch.rand(8)}),
        (6, 0 * w, {}),
    ):
        loss = torch.rand(rows, requires_grad=True)
        of_term = weight if rows == 6 else w
        expected = reduce_term(Term(loss, label, **term), of_term)
        found = guide.reduce(loss, weight, term.get("denominator"))
        assert torch.equal(found, expected)
        assert torch.equal(*(torch.autograd.grad(value, loss)[0] for value in (found, expected)))
    assert float(guide.reduce(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 0.5, 0.0]))) == pytest.approx(2 / 1.5)


@pytest.mark.parametrize("progress", [0.0, 0.2, 0.35, 1.0])
def test_the_regularisation_is_the_harness_s_bit_for_bit(guide: QualityGuide, progress: float) -> None:
    method, batch = method_of(guide.task), Streams(toy_data(guide.task), toy_protocol(10).train, 0).next(progress)[0]
    expected = QualityRegularisation(predictor=guide.predictor).loss(batch, method, 0)
    with frozen_statistics(method):
        prob = guide.task.probabilities(method.student(batch.u_w))
    found = guide.regularisation(batch.u_w, prob, progress=progress)
    if progress < 0.15:
        assert expected is None
        assert float(found) == 0
        return
    assert expected is not None
    assert torch.equal(found, expected)
    parameters = list(method.student.parameters())
    for mine, theirs in zip(*(torch.autograd.grad(loss, parameters) for loss in (found, expected)), strict=True):
        assert torch.equal(mine, theirs)


def test_the_weight_of_the_regularisation_rises_and_stays(stored: Path) -> None:
    guide = QualityGuide.load(stored, lambda_qar=0.5, qar_warmup=0.1, qar_ramp=0.4)
    image, prob = images_and_probs(guide.task)
    full = float(guide.regularisation(image, prob))
    found = [float(guide.regularisation(image, prob, progress=t)) for t in (0.05, 0.1, 0.2, 0.3, 0.5, 0.9)]
    assert found == pytest.approx([0, 0, full / 4, full / 2, full, full])
    held = [1 - float(guide.predictor.score(image[i : i + 1], prob[i : i + 1])) for i in range(len(image))]
    assert full == pytest.approx(0.5 * np.mean(held), abs=1e-4)


# Gradients, precision, devices, copies


def test_the_gradient_reaches_the_probabilities_and_never_g(guide: QualityGuide) -> None:
    image, prob = images_and_probs(guide.task)
    prob.requires_grad_()
    guide.regularisation(image, prob).backward()
    assert prob.grad is not None
    touched = prob.grad.flatten(2).abs().sum((0, 2)) > 0
    assert touched.tolist() == [index >= guide.task.lesions.start for index in range(guide.task.channels)]
    assert all(p.grad is None and not p.requires_grad for p in guide.predictor.parameters())
    moved = (prob - 50 * prob.grad).detach()  # downhill g is better pleased
    moved = moved.clamp(0, 1)
    moved = moved if guide.task.channels == 1 else moved / moved.sum(1, keepdim=True)
    assert float(guide.regularisation(image, moved)) < float(guide.regularisation(image, prob.detach()))


def test_g_stays_frozen_in_a_module_that_trains(stored: Path) -> None:
    class Lightning(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = nn.Conv2d(3, 1, 1)
            self.guide = QualityGuide.load(stored)

    model = Lightning().train().requires_grad_(True)
    g = model.guide.predictor
    assert not any(part.training for part in g.modules())
    assert not any(p.requires_grad for p in g.parameters())
    assert list(model.state_dict()) == ["network.weight", "network.bias"]
    own = fitted(g.task)  # in training mode, and trainable
    assert not QualityGuide(own).predictor.training
    assert not any(p.requires_grad for p in own.parameters())


def test_weights_leave_random_numbers_and_statistics_alone(guide: QualityGuide) -> None:
    before, state = torch.get_rng_state(), copy.deepcopy(guide.predictor.state_dict())
    image, prob = images_and_probs(guide.task)
    first = guide.weights(image, prob)
    assert torch.equal(first, guide.weights(image, prob))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, state[name]) for name, value in guide.predictor.state_dict().items())


def test_half_precision_gives_float32(guide: QualityGuide) -> None:
    image, prob = images_and_probs(guide.task)
    half = prob.bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        w, qar = guide.weights(image, half), guide.regularisation(image.bfloat16(), half)
        loss = guide.reduce(half.float().mean((1, 2, 3)).bfloat16(), w) + qar
    assert w.dtype == qar.dtype == loss.dtype == torch.float32
    loss.backward()
    assert half.grad is not None
    assert half.grad.dtype == torch.bfloat16
    exact = guide.weights(image, prob)
    assert torch.equal(guide.weights(image.double(), prob.double()), exact)
    agree = (w > 0) == (exact > 0)
    torch.testing.assert_close(w[agree], exact[agree], atol=0.1, rtol=0)


def test_a_copy_and_a_pickle_give_the_same_bits(stored: Path) -> None:
    guide = QualityGuide.load(stored, tau=0.2)
    image, prob = images_and_probs(guide.task)
    for twin in (copy.deepcopy(guide), pickle.loads(pickle.dumps(guide))):
        assert torch.equal(twin.weights(image, prob), guide.weights(image, prob))
        assert twin.predictor.card == guide.predictor.card
        assert twin.predictor is not guide.predictor


def test_g_moves_to_a_device_and_says_where_it_is(stored: Path) -> None:
    guide = QualityGuide.load(stored)
    image, prob = images_and_probs(guide.task)
    assert guide.to("meta") is guide
    assert {p.device.type for p in guide.predictor.parameters()} == {"meta"}
    with pytest.raises(UserError, match=r"g is on meta, images on cpu, masks on cpu: use .to"):
        guide.weights(image, prob)


# QualityPredictor


def test_a_score_is_the_mean_of_the_classes_that_a_mask_holds(stored: Path) -> None:
    g = QualityPredictor.load(stored)
    image, prob = images_and_probs(g.task)
    hard = g.task.hard(prob)
    labels = hard.argmax(1) if g.task.channels > 1 else hard[:, 0].long()
    labels[0] = 0  # empty
    labels[1][labels[1] == len(g.task.classes)] = 0  # the last class is not held
    by_class = g.score_by_class(image, labels)
    assert by_class.shape == (6, len(g.task.classes))
    mask = torch.stack([labels == c for c in range(1, len(g.task.classes) + 1)], 1).float()
    torch.testing.assert_close(by_class, g(image, mask).view(6, -1))
    for row, (values, holds) in enumerate(zip(by_class, mask.flatten(2).any(2), strict=True)):
        expected = values[holds].mean() if holds.any() else values.mean()
        assert float(g.score(image, labels)[row]) == pytest.approx(float(expected))
    full = mask if len(g.task.classes) == 1 else torch.cat([1 - mask.sum(1, keepdim=True), mask], 1)
    for other in (full, full.bool(), full.byte(), full.double(), labels.int()):
        assert torch.equal(g.score(image, other), g.score(image, labels))
    assert torch.equal(g.score(image.double(), labels), g.score(image, labels))
    assert not g.score(image, prob.requires_grad_()).requires_grad
    assert not torch.equal(g.score(image, prob), g.score(image, hard)), "probabilities are judged as they are"


def test_a_loaded_g_has_its_card_and_its_task(stored: Path) -> None:
    g = QualityPredictor.load(str(stored))
    assert g.card.labelled_ids == ["a", "b"]
    assert g.task == Task(g.card.classes)
    assert not g.training


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda f: (f / CARD_NAME).unlink(), "holds no stored g: predictor.json missing. qgbench run --qg leaves one"),
        (lambda f: (f / WEIGHTS_NAME).unlink(), "predictor.safetensors missing"),
        (lambda f: [p.unlink() for p in f.iterdir()], "predictor.json and predictor.safetensors missing"),
        (lambda f: (f / CARD_NAME).write_text("{"), "is damaged (JSONDecodeError"),
        (lambda f: (f / CARD_NAME).write_text("{}"), "is damaged (ValidationError"),
        (lambda f: (f / WEIGHTS_NAME).write_bytes(b"cut"), "is damaged (SafetensorError"),
        (
            lambda f: save_predictor(f, fitted(THREE), card().model_copy(update={"classes": ("one", "two")})),
            "is damaged (RuntimeError",
        ),
    ],
)
def test_what_is_missing_is_named(damage: Callable[[Path], Any], expected: str, tmp_path: Path) -> None:
    save_predictor(tmp_path, fitted(ONE), card())
    damage(tmp_path)
    for load in (QualityPredictor.load, QualityGuide.load):
        with pytest.raises(UserError) as refused:
            load(tmp_path)
        assert expected in str(refused.value)
        assert str(tmp_path) in str(refused.value)
    with pytest.raises(NotFoundError):
        QualityPredictor.load(tmp_path / "elsewhere")


IMAGE, PROB = images_and_probs(THREE)


@pytest.mark.parametrize(
    ("images", "probs", "expected"),
    [
        (IMAGE[:, :1], PROB, "images: expected (B, 3, H, W) floats in [0, 1], grey ones three times, not a Tensor of"),
        (IMAGE[0], PROB, "not a Tensor of shape (3, 32, 32)"),
        ((255 * IMAGE).byte(), PROB, "images: expected (B, 3, H, W) floats in [0, 1]"),
        (IMAGE.numpy(), PROB, "not a ndarray of shape (6, 3, 32, 32)"),
        (255 * IMAGE, PROB, "images: expected values in [0, 1], before any mean and standard deviation; these are"),
        ((IMAGE - 0.45) / 0.22, PROB, "images: expected values in [0, 1], before any mean"),
        (IMAGE, PROB[:, 1:], "masks: expected (6, 4, 32, 32), channels background, first, second, third, not a Tensor"),
        (IMAGE, PROB[:4], "masks: expected (6, 4, 32, 32)"),
        (IMAGE, PROB[..., 1:], "masks: expected (6, 4, 32, 32)"),
        (IMAGE, PROB.log(), "task.probabilities makes them of logits"),
        (IMAGE, PROB / 2, "over all channels 1 in sum"),
    ],
)
def test_what_g_cannot_judge_is_refused(images: Any, probs: Tensor, expected: str) -> None:
    guide = QualityGuide(fitted(THREE))
    for ask in (guide.weights, guide.regularisation, guide.predictor.score, guide.predictor.score_by_class):
        with pytest.raises(UserError) as refused:
            ask(images, probs)
        assert expected in str(refused.value)


def test_numbers_that_are_no_class_are_refused() -> None:
    labels = torch.zeros(6, SIZE, SIZE, dtype=torch.uint8)
    labels[0, 0, 0] = 255
    with pytest.raises(UserError, match="masks: expected numbers from 0 to 3; these are from 0 to 255"):
        fitted(THREE).score(IMAGE, labels)


def test_probabilities_of_a_training_that_diverges_pass() -> None:
    guide = QualityGuide(fitted(THREE))
    assert guide.weights(IMAGE, PROB * torch.nan).shape == (6,)


@pytest.mark.parametrize(
    ("loss", "w", "denominator", "name"),
    [
        (torch.tensor(1.0), torch.ones(3), None, "per_sample_loss"),
        (torch.ones(3, 1, 8, 8), torch.ones(3), None, "per_sample_loss"),
        (torch.ones(4), torch.ones(3), None, "per_sample_loss"),
        (torch.ones(3), torch.ones(3, 1), None, "per_sample_loss"),
        (torch.ones(3), torch.ones(3), torch.ones(4), "denominator"),
    ],
)
def test_a_loss_that_is_averaged_already_is_refused(
    loss: Tensor, w: Tensor, denominator: Tensor | None, name: str
) -> None:
    with pytest.raises(UserError, match=f"reduce: {name} must hold one value a row, as many as w"):
        QualityGuide(fitted(ONE)).reduce(loss, w, denominator)


@pytest.mark.parametrize("progress", [-0.1, 500, float("nan")])
def test_a_progress_that_is_no_fraction_is_refused(progress: float) -> None:
    with pytest.raises(UserError, match="give the step divided by the number of steps"):
        QualityGuide(fitted(ONE)).regularisation(torch.rand(2, 3, 64, 64), torch.rand(2, 1, 64, 64), progress)


def test_settings_out_of_range_are_refused(stored: Path) -> None:
    with pytest.raises(UserError, match=r"setting tau = 1.5: input should be less than or equal to 1"):
        QualityGuide.load(stored, tau=1.5)
    with pytest.raises(TypeError, match="taus"):
        QualityGuide.load(stored, taus=0.5)


def test_another_size_than_g_was_trained_at_is_warned_of(stored: Path, recwarn: pytest.WarningsRecorder) -> None:
    guide = QualityGuide.load(stored)
    image, prob = images_and_probs(guide.task)
    guide.weights(image, prob)
    assert not recwarn.list
    larger = nn.functional.interpolate(image, (64, 48)), nn.functional.interpolate(prob, (64, 48))
    with pytest.warns(UserWarning, match=r"g was trained at 32 x 32 pixels, and judges 64 x 48"):
        guide.weights(*larger)


# The package


def test_the_package_names_the_library_without_importing_torch() -> None:
    code = """
import sys, qgbench
assert {"QualityGuide", "QualityPredictor"} <= set(dir(qgbench)) & set(qgbench.__all__)
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="module 'qgbench' has no attribute 'QualityGuid'"):
        qgbench.QualityGuid  # noqa: B018
    assert qgbench.QualityGuide is QualityGuide


# MONAI


def test_dictionary_batches_of_monai_go_in_as_they_are(stored: Path, tmp_path: Path) -> None:
    guide = QualityGuide.load(stored)
    rng = np.random.default_rng(0)
    picture, labels = rng.integers(0, 256, (48, 64, 3), np.uint8), np.zeros((48, 64), np.uint8)
    labels[8:30, 10:50] = 1
    one = len(guide.task.classes) == 1
    Image.fromarray(picture).save(tmp_path / "image.png")
    Image.fromarray(255 * labels if one else labels).save(tmp_path / "label.png")
    keys = ["image", "label"]
    transform = Compose(
        [
            LoadImaged(keys, reader="PILReader", reverse_indexing=False),
            EnsureChannelFirstd(keys),
            ScaleIntensityRanged(keys if one else ["image"], 0, 255, 0, 1),
            Resized(keys, (guide.predictor.card.size,) * 2, mode=("bilinear", "nearest")),
        ]
    )
    files = {"image": tmp_path / "image.png", "label": tmp_path / "label.png"}
    batch = next(iter(DataLoader(Dataset([files] * 3, transform), batch_size=3)))
    expected = Image.fromarray(labels).resize((SIZE, SIZE), Image.Resampling.NEAREST)
    found = batch["label"][0, 0].numpy()
    assert (found != np.asarray(expected)).mean() < 0.05, "rows and columns as qgbench has them"

    label = batch["label"] if one else batch["label"][:, 0].long()
    plain = batch["image"].as_tensor(), label.as_tensor()
    assert torch.equal(guide.predictor.score(batch["image"], label), guide.predictor.score(*plain))
    prob = images_and_probs(guide.task, 3)[1].requires_grad_()
    w = guide.weights(batch["image"], prob)
    assert torch.equal(w, guide.weights(plain[0], prob))
    loss = guide.reduce(prob.mean((1, 2, 3)), w) + guide.regularisation(batch["image"], prob)
    loss.backward()
    assert prob.grad is not None


# Several processes


def half_of_a_step(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    gradient, value = step_of(slice(3 * rank, 3 * rank + 3))
    dist.all_reduce(gradient)
    dist.all_reduce(value)
    torch.save((gradient / 2, value / 2), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def step_of(rows: slice) -> tuple[Tensor, Tensor]:
    """Gradient and loss of some rows of a batch whose weights differ much between the halves."""
    guide = QualityGuide(fitted(THREE))
    scale = torch.ones((), requires_grad=True)
    w, loss = torch.tensor([0.0, 0.2, 0.0, 0.9, 1.0, 0.7])[rows], torch.arange(1.0, 7.0)[rows]
    total = guide.reduce(scale * loss, w) + guide.regularisation(IMAGE[rows], (scale * PROB[rows]).clamp(0, 1))
    total.backward()
    assert scale.grad is not None
    return scale.grad, total.detach()


@pytest.mark.slow
def test_two_processes_have_the_loss_of_the_whole_batch(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(half_of_a_step, (str(tmp_path),), nprocs=2)
    expected = step_of(slice(0, 6))
    for rank in (0, 1):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), expected, rtol=1e-4, atol=1e-6)
