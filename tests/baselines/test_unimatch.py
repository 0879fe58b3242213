"""UniMatch against the equations of its paper (arXiv 2208.09910), written out over whole batches of pixels."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qgbench.baselines.unimatch import UniMatch
from qgbench.methods import Batch, Method, PseudoLabel, reduce_term
from qgbench.plugins.registry import load
from qgbench.quality.guide import Guide
from qgbench.training.objective import Objective
from tests.baselines import Toy, student_label

SIDE = 32


class Pyramid(Toy):
    """The toy network with features at strides 1 (the image itself), 2, 8 and 16, as encoders have them."""

    def __init__(self, bias: float = 0.0) -> None:
        super().__init__((2, 8, 16), SIDE, bias)
        nn.init.normal_(self.head[0].weight, std=0.9)


def make_batch(labelled: int = 3, unlabelled: int = 5, progress: float = 1.0) -> Batch:
    """Random images; CutMix boxes of different sizes, one of them empty."""
    generator = torch.Generator().manual_seed(5)

    def images(count: int) -> Tensor:
        coarse = torch.rand(count, 3, 4, 4, generator=generator)
        return (F.interpolate(coarse, (SIDE, SIDE)) + 0.3 * torch.rand(count, 3, SIDE, SIDE, generator=generator)) / 1.3

    weak = images(unlabelled)
    cuts = torch.zeros(2, unlabelled, 1, SIDE, SIDE, dtype=torch.bool)
    for row in range(1, unlabelled):
        cuts[0, row, :, row : row + 9, 3 : 4 + 4 * row] = True
        cuts[1, row, :, 2 : 6 + row, row:] = True
    return Batch(
        x_l=images(labelled),
        y_l=(F.interpolate(torch.rand(labelled, 1, 4, 4, generator=generator), (SIDE, SIDE)) > 0.6).float(),
        u_w=weak,
        u_s1=weak * 0.7,
        u_s2=(weak * 1.3).clamp(0, 1),
        cut1=cuts[0],
        cut2=cuts[1],
        progress=progress,
    )


def make(name: str, bias: float = 0.0, **settings: object) -> Any:
    """A method on networks like `Pyramid`, whose teacher, if it has one, differs from its student."""
    return prepared(load("method", name), bias, **settings)


def prepared(method_class: type[Method], bias: float = 0.0, **settings: object) -> Any:
    torch.manual_seed(1)
    method: Any = method_class(lambda: Pyramid(bias), method_class.Settings.model_validate(settings)).train()
    if method.teacher is not None:
        torch.manual_seed(2)
        for parameter in method.teacher.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return method


def evaluated(network: nn.Module, image: Tensor) -> Tensor:
    """Probabilities of a copy in evaluation mode."""
    with torch.no_grad():
        return torch.sigmoid(copy.deepcopy(network).eval()(image))


def bce(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of every pixel from its definition; float64."""
    logits, target = logits.double(), target.double()
    return -(target * F.logsigmoid(logits) + (1 - target) * F.logsigmoid(-logits))


def supervised(logits: Tensor, target: Tensor) -> Tensor:
    """0.5 BCE + 0.5 Dice, image by image."""
    prob = torch.sigmoid(logits.double())
    dice = [1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1) for p, t in zip(prob, target, strict=True)]
    return 0.5 * bce(logits, target).mean() + 0.5 * torch.stack(dice).mean()


def pasted(rows: Tensor, cut: Tensor, partner: list[int]) -> Tensor:
    """CutMix, row by row."""
    mixed = rows.clone()
    for row, other in enumerate(partner):
        inside = cut[row].expand_as(rows[row])
        mixed[row][inside] = rows[other][inside]
    return mixed


def masked(logits: Tensor, label: Tensor, threshold: float) -> Tensor:
    """The paper's indicator times cross-entropy, every pixel."""
    certain = (label >= threshold) | (1 - label >= threshold)
    return torch.where(certain, bce(logits, (label > 0.5)), 0.0)


def split(pixels: Tensor, cut: Tensor, partner: list[int], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the pixels that a view kept and that it was given, their numbers, as shares of an image: (2U,) each."""
    loss, share = [], []
    for inside in (False, True):
        for row in range(len(partner)):
            region = cut[row] == inside
            loss.append(float(pixels[row][region].detach().sum()) / size)
            share.append(float(region.sum()) / size)
    return np.array(loss), np.array(share)


def assert_gradient(method: Any, batch: Batch, expected: Sequence[Tensor | None], seed: int) -> None:
    """The loop's gradient of students and heads is the one of the written equation."""
    objective = Objective(copy.deepcopy(method), Guide([]))
    torch.manual_seed(seed)
    objective(batch, None, 0)[0].backward()
    # Biases before a batch normalisation have none but rounding errors of the others' size.
    rounding = 1e-5 * max(float(wanted.abs().max()) for wanted in expected if wanted is not None)
    for found, wanted in zip(objective.method.trainable(), expected, strict=True):
        assert found.grad is not None
        assert wanted is not None
        torch.testing.assert_close(found.grad, wanted.float(), rtol=2e-4, atol=rounding)


CASES = [
    (3, 5, 0.0, 0.6),
    (4, 3, 0.0, 0.75),
    (2, 2, 0.0, 0.6),
    (3, 5, -40.0, 0.95),
    (3, 5, 40.0, 0.95),
    (3, 4, 0.0, 1.0),
]
CASE_NAMES = [
    "more unlabelled",
    "more labelled",
    "two and two",
    "nothing predicted",
    "all predicted",
    "nothing certain",
]


@dataclass
class Written:
    """What the authors' equations give: the pixels of each unlabelled part, the label, and the network's gradient."""

    supervised: float
    total: float
    label: Tensor
    parts: list[Tensor]
    gradient: list[Tensor | None]


def written_out(method: Any, batch: Batch, threshold: float, seed: int) -> Written:
    """L = (L_x + 0.25 L_s1 + 0.25 L_s2 + 0.5 L_fp) / 2 of two passes, [x, u ; x_fp, u_fp] and [s1, s2]."""
    network = copy.deepcopy(method.student).train()
    labelled, unlabelled = len(batch.x_l), len(batch.u_w)
    partner = [unlabelled - 1, *range(unlabelled - 1)]
    features = network.encode(torch.cat([batch.x_l, batch.u_w]))
    torch.manual_seed(seed)
    masks = [F.dropout2d(torch.ones(len(f), f.shape[1], 1, 1), 0.5) for f in features]
    decoded = network.decode([torch.cat([f, f * mask]) for f, mask in zip(features, masks, strict=True)])
    pred_l, pred_u, _, pred_fp = network.head(decoded).split([labelled, unlabelled, labelled, unlabelled])
    label = torch.sigmoid(pred_u).detach()
    views = [pasted(batch.u_s1, batch.cut1, partner), pasted(batch.u_s2, batch.cut2, partner)]
    pred_s = network(torch.cat(views))
    labels = [pasted(label, batch.cut1, partner), pasted(label, batch.cut2, partner)]
    parts = [masked(p, q, threshold) for p, q in zip([*pred_s.chunk(2), pred_fp], [*labels, label], strict=True)]
    s1, s2, fp = (part.sum() / part.numel() for part in parts)
    loss_x = supervised(pred_l, batch.y_l)
    total = (loss_x + 0.25 * s1 + 0.25 * s2 + 0.5 * fp) / 2
    total.backward()
    gradient = [parameter.grad for parameter in network.parameters()]
    return Written(loss_x.item() / 2, total.item(), label, [part.detach() for part in parts], gradient)


def assert_as_written(method: Any, batch: Batch, threshold: float) -> None:
    """Rows, total and gradient of a UniMatch are those of its equations."""
    written, partner = written_out(method, batch, threshold, seed=7), [len(batch.u_w) - 1, *range(len(batch.u_w) - 1)]
    torch.manual_seed(7)
    step = copy.deepcopy(method)(batch)
    assert float(step.supervised.detach()) == pytest.approx(written.supervised, rel=1e-5)
    for term, pixels, cut in zip(step.terms, written.parts, (batch.cut1, batch.cut2, None), strict=True):
        assert term.label.image is batch.u_w
        torch.testing.assert_close(term.label.prob, written.label)
        if cut is None:
            loss = pixels.mean((1, 2, 3)).numpy()
            assert term.denominator is None
            assert term.owner is None
        else:
            loss, share = split(pixels, cut, partner, SIDE**2)
            np.testing.assert_allclose(term.denominator.numpy(), share, rtol=1e-6)
            assert term.owner.tolist() == [*range(len(batch.u_w)), *partner]
        np.testing.assert_allclose(term.loss.detach().numpy(), loss, rtol=2e-4, atol=1e-7)
    torch.manual_seed(7)
    found = Objective(copy.deepcopy(method), Guide([]))(batch, None, 0)[0]
    assert float(found.detach()) == pytest.approx(written.total, rel=1e-5)
    assert_gradient(method, batch, written.gradient, seed=7)


@pytest.mark.parametrize(("labelled", "unlabelled", "bias", "threshold"), CASES, ids=CASE_NAMES)
def test_rows_total_and_gradient_are_the_papers(labelled: int, unlabelled: int, bias: float, threshold: float) -> None:
    method, batch = make("unimatch", bias, threshold=threshold), make_batch(labelled, unlabelled)
    assert_as_written(method, batch, threshold)
    label = method(batch).terms[0].label.prob
    certain = float(((label - 0.5).abs() >= threshold - 0.5).float().mean())
    if threshold == 1.0:
        assert certain == 0.0
    elif bias:
        assert certain == 1.0
    else:
        assert 0.05 < certain < 0.95  # both sides of the threshold are met


class WithoutCleanWeak(UniMatch):
    """Decodes labelled images in one batch with dropped features, without the clean ones of weak views."""

    def _together(self, batch: Batch) -> tuple[Tensor, Tensor, PseudoLabel]:
        _, _, label = super()._together(batch)
        labelled = len(batch.x_l)
        features = self.student.encode(torch.cat([batch.x_l, batch.u_w]))
        dropped = [torch.cat([f[:labelled], F.dropout2d(f[labelled:], 0.5)]) for f in features]
        pred = self.student.head(self.student.decode(dropped))
        return pred[:labelled], pred[labelled:], label


class LabelledApart(UniMatch):
    """Decodes the weak views as the authors do, and labelled images in a pass of their own."""

    def _together(self, batch: Batch) -> tuple[Tensor, Tensor, PseudoLabel]:
        _, pred_u_fp, label = super()._together(batch)
        return self.student(batch.x_l), pred_u_fp, label


class LabelOfItsOwn(UniMatch):
    """Labels in a pass of its own, of weak views alone."""

    def _together(self, batch: Batch) -> tuple[Tensor, Tensor, PseudoLabel]:
        pred_l, pred_u_fp, _ = super()._together(batch)
        return pred_l, pred_u_fp, self.label(self.student, batch.u_w)


@pytest.mark.parametrize(
    ("variant", "settings"),
    [(WithoutCleanWeak, {}), (LabelledApart, {}), (LabelOfItsOwn, {}), (UniMatch, {"apart": True})],
    ids=["without clean weak", "labelled apart", "label of its own", "apart"],
)
def test_another_composition_of_batches_is_not_the_papers(variant: type[UniMatch], settings: dict[str, object]) -> None:
    method, batch = prepared(variant, threshold=0.6, **settings), make_batch()
    with pytest.raises(AssertionError):
        assert_as_written(method, batch, 0.6)


def test_nothing_certain_leaves_half_of_the_supervised_loss() -> None:
    method, batch = make("unimatch", threshold=1.0), make_batch()
    torch.manual_seed(7)
    total, parts = Objective(copy.deepcopy(method), Guide([]))(batch, None, 0)
    assert float(total.detach()) == float(parts["supervised"]) > 0
    assert [float(parts[f"unlabelled_{k}"]) for k in range(3)] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("name", ["unimatch", "unimatch_v2"])
def test_a_pasted_pixel_has_the_weight_of_the_image_it_came_from(name: str) -> None:
    method, batch = make(name, threshold=0.6), make_batch()
    weight = torch.tensor([0.3, 0.0, 1.0, 0.6, 0.8])
    torch.manual_seed(3)
    term = copy.deepcopy(method)(batch).terms[0]
    partner = term.owner[len(weight) :].tolist()
    pixels = pasted(weight.view(-1, 1, 1, 1).expand(-1, 1, SIDE, SIDE), batch.cut1, partner)
    whole = torch.zeros(5)
    for row in range(10):
        whole[row % 5] += weight[term.owner[row]] * term.loss[row].detach()
    assert float(reduce_term(term, weight).detach()) == pytest.approx(float(whole.sum() / pixels.mean((1, 2, 3)).sum()))
    rejected = term.owner == 1
    assert bool((term.loss[rejected] > 0).any())
    spoilt = replace(term, loss=torch.where(rejected, 1e6, term.loss))
    assert float(reduce_term(spoilt, weight).detach()) == float(reduce_term(term, weight).detach())


def test_apart_decodes_labelled_images_and_dropped_features_alone() -> None:
    method, batch = make("unimatch", apart=True), make_batch()
    network = copy.deepcopy(method.student).train()
    features = network.encode(torch.cat([batch.x_l, batch.u_w]))
    expected = supervised(network.head(network.decode([f[: len(batch.x_l)] for f in features])), batch.y_l)
    step = method(batch)
    assert float(step.supervised.detach()) == pytest.approx(0.5 * expected.item(), rel=1e-5)
    torch.testing.assert_close(step.terms[0].label.prob, student_label(make("unimatch").student, batch.u_w))


def test_settings_are_the_papers() -> None:
    settings = load("method", "unimatch").Settings().model_dump()
    shared = {"lambda_u": 0.5, "warmup": 0.0, "ramp": 0.0}
    assert settings == shared | {"threshold": 0.95, "dropout": 0.5, "unlabelled_loss": "ce", "apart": False}
