"""Methods of several classes: a softmax of two against one sigmoid, the order of classes, and equations written out."""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

from qgbench.methods import Batch, Method, regions
from qgbench.plugins.registry import load, method_names
from qgbench.spec.task import Task
from tests.baselines import Toy, objective, student_logits, written_gradient
from tests.baselines.test_unimatch import SIDE, make_batch, pasted

HEART = Task(("ventricle", "muscle", "atrium"))
STRIDES = (2, 8, 16)
SHARPER = 4.0
"""Factor of a teacher's logits: running statistics of an untrained network leave it sure of nothing."""


@dataclass(frozen=True)
class TwoChannels(Task):
    """One class as a softmax of two channels, which qgbench has for several classes only."""

    @property
    def channels(self) -> int:
        return 2


class Both(nn.Module):
    """Makes of the logit of one class those of the background and of the class."""

    def forward(self, logit: Tensor) -> Tensor:
        return torch.cat([-logit / 2, logit / 2], 1)


class Sure(Toy):
    """The toy network, sure of some pixels; with the task `TwoChannels`, that of one class with both logits."""

    def __init__(
        self, strides: tuple[int, ...] = STRIDES, size: int = SIDE, bias: float = 0.0, task: Task = HEART
    ) -> None:
        super().__init__(strides, size, bias, Task() if isinstance(task, TwoChannels) else task)
        nn.init.normal_(self.head[0].weight, std=1.5)
        if isinstance(task, TwoChannels):
            self.task = task
            self.head.append(Both())


def batch_of(task: Task) -> Batch:
    """Images of `make_batch`; masks in which every class has some pixels."""
    batch = make_batch(progress=0.9)
    if isinstance(task, TwoChannels):
        return replace(batch, y_l=torch.cat([1 - batch.y_l, batch.y_l], 1))
    if task.channels == 1:
        return batch
    coarse = torch.randint(0, task.channels, (len(batch.x_l), 4, 4), generator=torch.Generator().manual_seed(6))
    labels = coarse.repeat_interleave(SIDE // 4, 1).repeat_interleave(SIDE // 4, 2)
    return replace(batch, y_l=F.one_hot(labels, task.channels).permute(0, 3, 1, 2).float())


def make(name: str, task: Task = HEART, **settings: object) -> Any:
    """A method whose teacher, if it has one, is another network than its student, and as sure in evaluation mode."""
    torch.manual_seed(1)
    kind = load("method", name)

    def build(arch: str = "") -> Any:
        return Sure(task=task)

    method: Any = kind(build, kind.Settings.model_validate(settings)).train()
    if method.teacher is not None:
        torch.manual_seed(2)
        for parameter in method.teacher.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
        method.teacher.head[0].weight.data.mul_(SHARPER)
    if name == "bcp":
        method.best.fill_(torch.inf)  # the second phase
    return method


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    """Equal but for rounding, which is all that a bias before a batch normalisation gets."""
    largest = max(float(value.abs().max()) for value in expected)
    assert largest > 1e-3
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=2e-5 * largest)


VARIANTS: list[tuple[str, dict[str, object]]] = [
    *((name, {}) for name in method_names()),
    ("pseudo_label", {"threshold": 0.6, "loss": "bce_dice", "labels_from": "teacher"}),
    ("unimatch", {"unlabelled_loss": "dice", "threshold": 0.7}),
    ("unimatch", {"apart": True}),
    ("contrastive", {"threshold": 0.6}),
    ("corrmatch", {"threshold": 0.6}),
]
every_variant = pytest.mark.parametrize(
    ("name", "settings"), VARIANTS, ids=["-".join([name, *map(str, settings.values())]) for name, settings in VARIANTS]
)


@every_variant
def test_two_channels_of_softmax_are_one_sigmoid(name: str, settings: dict[str, object]) -> None:
    (one, expected), (two, found) = (
        objective(make(name, task, **settings), batch_of(task)) for task in (Task(), TwoChannels())
    )
    assert two["total"] == pytest.approx(one["total"], rel=1e-5)
    assert two["supervised"] == pytest.approx(one["supervised"], rel=1e-5)
    assert_close(found, expected)


@every_variant
def test_classes_have_no_order(name: str, settings: dict[str, object]) -> None:
    order = [0, 2, 3, 1]
    method, batch = make(name, **settings), batch_of(HEART)
    other = copy.deepcopy(method)
    with torch.no_grad():
        for module in other.modules():
            if isinstance(module, Sure):
                for parameter in module.head.parameters():
                    parameter.copy_(parameter[order].clone())
    parts, gradient = objective(method, batch)
    renamed, found = objective(other, replace(batch, y_l=batch.y_l[:, order]))
    assert renamed["total"] == pytest.approx(parts["total"], rel=1e-4)
    names = [each for each, _ in method.named_parameters() if not each.startswith("teacher.")]
    assert len(names) == len(gradient)
    is_head = [len(theirs) == 4 and ".head." in place for place, theirs in zip(names, gradient, strict=True)]
    assert any(is_head)
    assert_close(found, [theirs[order] if own else theirs for own, theirs in zip(is_head, gradient, strict=True)])


# Equations


def softmax(logits: Tensor) -> Tensor:
    return logits.exp() / logits.exp().sum(1, keepdim=True)


def entropy_of(logits: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy of every pixel against class numbers (N, H, W)."""
    return -softmax(logits).log().gather(1, label[:, None])[:, 0]


def labelled_loss(logits: Tensor, target: Tensor) -> Tensor:
    """0.5 CE + 0.5 Dice of labelled images, the mean over these and over the three classes."""
    prob = softmax(logits)
    dice = [
        1 - (2 * (p[c] * t[c]).sum() + 1) / (p[c].sum() + t[c].sum() + 1)
        for p, t in zip(prob, target, strict=True)
        for c in (1, 2, 3)
    ]
    return 0.5 * entropy_of(logits, target.argmax(1)).mean() + 0.5 * torch.stack(dice).mean()


def dice_of_batch(prob: Tensor, label: Tensor, where: Tensor | None = None) -> Tensor:
    """The mean over four classes of 1 - 2 sum p t / sum (p^2 + t^2), over a batch's pixels that count."""
    inside = torch.ones(label.shape) if where is None else where.expand(label.shape).float()
    losses = []
    for c in range(4):
        p, t = prob[:, c], (label == c).float()
        losses.append(1 - (2 * p * t * inside).sum() / ((p * p + t * t) * inside).sum())
    return torch.stack(losses).mean()


def of_teacher(method: Method, image: Tensor) -> Tensor:
    with torch.no_grad():
        return softmax(copy.deepcopy(method.teacher)(image))


def of_student(method: Method, image: Tensor) -> Tensor:
    return softmax(student_logits(method.student, image))


def split(network: nn.Module, *images: Tensor) -> tuple[Tensor, ...]:
    """Logits of images that pass as one batch."""
    return network(torch.cat(images)).split([len(image) for image in images])


def supervised(method: Any, batch: Batch, network: Any) -> Tensor:
    return labelled_loss(network(batch.x_l), batch.y_l)


def mean_teacher(method: Any, batch: Batch, network: Any) -> Tensor:
    pred_l, pred_u = network(batch.x_l), network(batch.u_w)
    loss = (softmax(pred_u) - of_teacher(method, batch.u_w)).square().mean()
    return labelled_loss(pred_l, batch.y_l) + 0.25 * loss


def ua_mt(method: Any, batch: Batch, network: Any) -> Tensor:
    teacher, probs = copy.deepcopy(method.teacher).train(), []
    with torch.no_grad():
        for _ in range(9):
            noise = (0.1 * torch.randn_like(batch.u_w)).clamp(-0.2, 0.2) * batch.u_w.std((1, 2, 3), keepdim=True)
            probs.append(softmax(teacher(batch.u_w + noise)))
    mean = torch.stack(probs[1:]).mean(0)
    entropy = -(mean * mean.log()).sum(1)
    certain = entropy < (0.75 + 0.25 * math.exp(-5 * (1 - batch.progress) ** 2)) * math.log(4)
    assert 0.1 < certain.float().mean() < 1 or batch.progress == 1
    pred_l, pred_u = network(batch.x_l), network(batch.u_w)
    squares = (softmax(pred_u) - probs[0]).square().mean(1)
    return labelled_loss(pred_l, batch.y_l) + 0.25 * squares[certain].sum() / certain.sum()


def ict(method: Any, batch: Batch, network: Any) -> Tensor:
    share = torch.distributions.Beta(1.0, 1.0).sample()
    second, label = torch.randperm(len(batch.u_w)), of_teacher(method, batch.u_w)
    mixed, target = (share * x + (1 - share) * x[second] for x in (batch.u_w, label))
    loss = (softmax(network(mixed)) - target).square().mean()
    return labelled_loss(network(batch.x_l), batch.y_l) + 0.25 * loss


def pseudo_label(method: Any, batch: Batch, network: Any) -> Tensor:
    label = of_teacher(method, batch.u_w)
    pred_l, pred_u = network(batch.x_l), network(batch.u_w)
    certain, hard = label.amax(1) >= 0.6, label.argmax(1)
    assert 0.1 < certain.float().mean() < 1
    loss = 0.5 * (entropy_of(pred_u, hard) * certain).mean()
    for p, t, sure in zip(softmax(pred_u), hard, certain, strict=True):
        for c in (1, 2, 3):
            both, size = (p[c] * (t == c))[sure].sum(), p[c][sure].sum() + (t == c)[sure].sum()
            loss = loss + 0.5 * (1 - (2 * both + 1e-6) / (size + 1e-6)) / (3 * len(label))
    return labelled_loss(pred_l, batch.y_l) + 0.25 * loss


def pseudo_label_confidence(method: Any, batch: Batch, network: Any) -> Tensor:
    label = of_student(method, batch.u_w)
    certainty = label.amax(1).mean((1, 2))
    weight = torch.where(certainty >= method.settings.threshold, certainty * certainty, 0.0)
    assert 0 < int((weight > 0).sum()) < len(label)
    pred_l, pred_u = network(batch.x_l), network(batch.u_w)
    rows = entropy_of(pred_u, label.argmax(1)).mean((1, 2))
    return labelled_loss(pred_l, batch.y_l) + 0.25 * (weight * rows).sum() / weight.sum()


def contrastive(method: Any, batch: Batch, network: Any, head: Any) -> Tensor:
    label = of_student(method, batch.u_w) if method.teacher is None else of_teacher(method, batch.u_w)
    features, pred_l = network.encode(batch.u_w), network(batch.x_l)
    pred_u = network.head(network.decode(features))
    threshold = method.settings.threshold
    pseudo = (entropy_of(pred_u, label.argmax(1)) * (label.amax(1) >= threshold)).mean()
    vectors = features[STRIDES.index(8) + 1].flatten(2).transpose(1, 2)
    first, second = ((layer.weight.flatten(1).T, layer.bias) for layer in (head[0], head[2]))
    vectors = (vectors @ first[0] + first[1]).clamp(min=0) @ second[0] + second[1]
    cells = label.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).mean((3, 5)).flatten(2)
    losses, seen = [], []
    for own, prob in zip(vectors / vectors.norm(dim=2, keepdim=True), cells, strict=True):
        certain, classes = prob.amax(0) >= threshold, prob.argmax(0)
        sets = [own[certain & (classes == c)] for c in range(4)]
        for c, anchors in enumerate(sets):
            others = torch.cat([sets[k] for k in range(4) if k != c])
            if len(anchors) == 0 or len(others) == 0:
                continue
            seen.append(c)
            positive = anchors.mean(0) / anchors.mean(0).norm()
            for anchor in anchors:
                attract, repel = (anchor @ positive / 0.1).exp(), (others @ anchor / 0.1).exp().sum()
                losses.append(-(attract / (attract + repel)).log())
    assert len(set(seen)) >= 3
    assert (len(losses) == cells[:, 0].numel()) == (threshold == 0)
    return labelled_loss(pred_l, batch.y_l) + 0.25 * (pseudo + 0.1 * torch.stack(losses).mean())


def cps(method: Any, batch: Batch, first: Any, second: Any) -> Tensor:
    total = torch.zeros(())
    for image in (batch.x_l, batch.u_w):
        one, two = first(image), second(image)
        total = total + 0.25 * (entropy_of(one, two.argmax(1)).mean() + entropy_of(two, one.argmax(1)).mean())
    return total + labelled_loss(first(batch.x_l), batch.y_l) + labelled_loss(second(batch.x_l), batch.y_l)


def cross_teaching(method: Any, batch: Batch, first: Any, second: Any) -> Tensor:
    (l_1, u_1), (l_2, u_2) = (split(network, batch.x_l, batch.u_w) for network in (first, second))
    crossed = dice_of_batch(softmax(u_1), u_2.argmax(1)) + dice_of_batch(softmax(u_2), u_1.argmax(1))
    coef = 0.1 * math.exp(-5 * (1 - batch.progress) ** 2)
    return labelled_loss(l_1, batch.y_l) + labelled_loss(l_2, batch.y_l) + coef * crossed


def partner_of(batch: Batch) -> list[int]:
    return [len(batch.u_w) - 1, *range(len(batch.u_w) - 1)]


def fixmatch(method: Any, batch: Batch, network: Any) -> Tensor:
    pred_l, pred_u = split(network, batch.x_l, batch.u_w)
    label = pasted(softmax(pred_u).detach(), batch.cut1, partner_of(batch))
    pred_s = network(pasted(batch.u_s1, batch.cut1, partner_of(batch)))
    certain = label.amax(1) >= 0.6
    assert 0.1 < certain.float().mean() < 1
    return labelled_loss(pred_l, batch.y_l) + (entropy_of(pred_s, label.argmax(1)) * certain).mean()


def bcp(method: Any, batch: Batch, network: Any) -> Tensor:
    (inside,) = regions.draw_patch(batch.x_l, 2 / 3)[0]
    teacher, labels = copy.deepcopy(method.teacher).train(), []
    with torch.no_grad():
        for half in batch.u_w.chunk(2):
            labels.append(teacher(half).argmax(1))
    label = torch.zeros(batch.u_w[:, 0].shape, dtype=torch.long)
    for row, given in enumerate(torch.cat(labels).numpy()):
        for c in (1, 2, 3):
            parts, count = ndimage.label(given == c, np.ones((3, 3)))
            if count:
                sizes = [(parts == part).sum() for part in range(1, count + 1)]
                label[row][torch.from_numpy(parts == 1 + int(np.argmax(sizes)))] = c
    truth = batch.y_l.argmax(1)

    def loss(pred: Tensor, target: Tensor, where: Tensor) -> Tensor:
        pixels = (entropy_of(pred, target) * where).sum() / (where.sum() * len(pred))
        return 0.5 * pixels + 0.5 * dice_of_batch(softmax(pred), target, where)

    # three labelled and five unlabelled images: halves share the one in the middle, and repeat
    l_a, l_b, u_a, u_b = torch.tensor([[0, 1, 0], [1, 2, 1], [0, 1, 2], [2, 3, 4]])
    out = network(torch.where(inside, batch.x_l[l_a], batch.u_w[u_a]))
    into = network(torch.where(inside, batch.u_w[u_b], batch.x_l[l_b]))
    known = loss(out, truth[l_a], inside) + loss(into, truth[l_b], ~inside)
    return known + 0.5 * (loss(out, label[u_a], ~inside) + loss(into, label[u_b], inside))


def mc_net(method: Any, batch: Batch, network: Any, second: Any) -> Tensor:
    images = torch.cat([batch.x_l, batch.u_w])
    features = network.encode(images)
    probs = [softmax(each.head(each.decode(features))) for each in (network, second)]
    sharp = [(p**10 / (p**10 + (1 - p) ** 10)).detach() for p in probs]
    mutual = (probs[0] - sharp[1]).square().mean((1, 2, 3)) + (probs[1] - sharp[0]).square().mean((1, 2, 3))
    weight = 0.1 * math.exp(-5 * (1 - batch.progress) ** 2)
    labelled = len(batch.x_l)
    known = [dice_of_batch(p[:labelled], batch.y_l.argmax(1)) for p in probs]
    return known[0] + known[1] + weight * mutual.mean()


def unimatch(method: Any, batch: Batch, network: Any) -> Tensor:
    features = network.encode(torch.cat([batch.x_l, batch.u_w]))
    dropped = [F.dropout2d(each, 0.5) for each in features]
    decoded = network.decode([torch.cat(pair) for pair in zip(features, dropped, strict=True)])
    pred, pred_fp = network.head(decoded).chunk(2)
    labelled, partner = len(batch.x_l), partner_of(batch)
    label = softmax(pred[labelled:]).detach()
    views = [pasted(u, cut, partner) for u, cut in ((batch.u_s1, batch.cut1), (batch.u_s2, batch.cut2))]
    strong = split(network, *views)
    labels = [pasted(label, cut, partner) for cut in (batch.cut1, batch.cut2)]

    def loss(logits: Tensor, label: Tensor) -> Tensor:
        certain = label.amax(1) >= 0.6
        if method.settings.unlabelled_loss == "dice":
            return dice_of_batch(softmax(logits), label.argmax(1), certain)
        return (entropy_of(logits, label.argmax(1)) * certain).mean()

    terms = 0.25 * loss(strong[0], labels[0]) + 0.25 * loss(strong[1], labels[1])
    terms = terms + 0.5 * loss(pred_fp[labelled:], label)
    return (labelled_loss(pred[:labelled], batch.y_l) + terms) / 2


def unimatch_v2(method: Any, batch: Batch, network: Any) -> Tensor:
    label, images = of_teacher(method, batch.u_w), len(batch.u_w)
    partner = [*range(images)][::-1]
    views = [pasted(u, cut, partner) for u, cut in ((batch.u_s1, batch.cut1), (batch.u_s2, batch.cut2))]
    features = network.encode(torch.cat(views))
    kept = 2.0 * torch.randint(0, 2, (images, max(feature.shape[1] for feature in features), 1, 1))
    kept[torch.randperm(images)[: images // 2]] = 1.0
    dropped = []
    for first, second in (feature.chunk(2) for feature in features):
        own = kept[:, : first.shape[1]]
        dropped.append(torch.cat([first * own, second * (2.0 - own)]))
    strong = network.head(network.decode(dropped)).chunk(2)
    total = labelled_loss(network(batch.x_l), batch.y_l)
    for logits, cut in zip(strong, (batch.cut1, batch.cut2), strict=True):
        target = pasted(label, cut, partner)
        certain = target.amax(1) >= 0.6
        assert 0.1 < certain.float().mean() < 1
        total = total + 0.5 * (entropy_of(logits, target.argmax(1)) * certain).mean()
    return total / 2


def resized(maps: Tensor, side: int) -> Tensor:
    return F.interpolate(maps, (side, side), mode="bilinear", align_corners=True)


def correlated(head: Any, features: list[Tensor], logits: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax(f1^T f2 / sqrt(21)) over cells of stride 8, and the four logits spread along it, at full size."""
    grid, side = [resized(f, SIDE // 8) for f in features[STRIDES.index(8) + 1 :]], SIDE // 8
    first, second = head(torch.cat(grid, 1)).flatten(2).chunk(2, 1)
    scores = (first.transpose(1, 2) @ second / math.sqrt(21)).exp()
    correlation = scores / scores.sum(2, keepdim=True)
    spread = resized(logits.detach(), side).flatten(2) @ correlation
    return correlation, resized(spread.unflatten(2, (side, side)), SIDE)


def spread_label(prob: Tensor, maps: Tensor, threshold: Tensor) -> Tensor:
    """The label (4, H, W) in which certain regions of one class, one for each map (P,), vote for that class."""
    votes, certain, chosen = torch.zeros(prob.shape), prob.amax(0) >= threshold, prob.argmax(0)
    for one in maps:
        wide = resized(one.view(1, 1, SIDE // 8, SIDE // 8), SIDE)[0, 0]
        region = (wide - wide.min()) / (wide.max() - wide.min()) > 0.5
        counts = torch.stack([(region & certain & (chosen == c)).sum() for c in range(4)])
        if counts.sum() >= threshold * region.sum() and counts.max() > threshold * counts.sum():
            votes[int(counts.argmax())][region] += 1
    label, ranked = prob.clone(), votes.sort(0).values
    for c in range(4):
        label[:, (ranked[3] > ranked[2]) & (votes[c] == ranked[3])] = (torch.arange(4) == c)[:, None].to(label)
    return label


def corrmatch(method: Any, batch: Batch, network: Any, head: Any) -> Tensor:
    labelled, partner = len(batch.x_l), partner_of(batch)
    features = network.encode(torch.cat([batch.x_l, batch.u_w]))
    dropped = [F.dropout2d(each, 0.5) for each in features]
    decoded = network.decode([torch.cat(pair) for pair in zip(features, dropped, strict=True)])
    pred, pred_fp = network.head(decoded).chunk(2)
    correlation, corr = correlated(head, features, pred)
    prob = softmax(pred[labelled:]).detach()
    highest = [prob.amax(1)[prob.argmax(1) == c].max() for c in range(4) if (prob.argmax(1) == c).any()]
    assert len(highest) >= 3
    threshold = 0.999 * method.settings.threshold + 0.001 * torch.stack(highest).mean()
    maps = correlation[labelled:, torch.randint((SIDE // 8) ** 2, (128,))].detach()
    spread = torch.stack([spread_label(p, m, threshold) for p, m in zip(prob, maps, strict=True)])
    assert bool(((spread == 1) & (prob < threshold)).any())
    features_s = network.encode(pasted(batch.u_s1, batch.cut1, partner))
    pred_s = network.head(network.decode(features_s))
    _, corr_s = correlated(head, features_s, pred_s)
    hard, soft = pasted(spread, batch.cut1, partner), pasted(prob, batch.cut1, partner)

    def loss(logits: Tensor, label: Tensor) -> Tensor:
        return (entropy_of(logits, label.argmax(1)) * (label.amax(1) >= threshold)).mean()

    divergence = (soft * (soft / softmax(pred_s)).log()).sum(1)
    terms = loss(pred_s, hard) + (divergence * (soft.amax(1) >= threshold)).mean() + loss(pred_fp[labelled:], prob)
    spread_terms = 0.5 * loss(corr_s, hard) + 0.5 * loss(corr[labelled:], prob)
    known = 0.5 * labelled_loss(pred[:labelled], batch.y_l) + 0.5 * labelled_loss(corr[:labelled], batch.y_l)
    return (known + 0.25 * terms + 0.25 * spread_terms) / 2


EQUATIONS: list[tuple[Callable[..., Tensor], dict[str, object]]] = [
    (supervised, {}),
    (mean_teacher, {}),
    (ua_mt, {}),
    (ict, {}),
    (pseudo_label, {"threshold": 0.6, "loss": "bce_dice", "labels_from": "teacher"}),
    (pseudo_label_confidence, {"threshold": 0.75}),
    (contrastive, {"threshold": 0.6}),
    (contrastive, {"threshold": 0.0, "labels_from": "teacher"}),
    (cps, {}),
    (cross_teaching, {}),
    (fixmatch, {"threshold": 0.6}),
    (bcp, {}),
    (mc_net, {}),
    (unimatch, {"threshold": 0.6}),
    (unimatch, {"threshold": 0.6, "unlabelled_loss": "dice"}),
    (unimatch_v2, {"threshold": 0.6}),
    (corrmatch, {"threshold": 0.6}),
]


@pytest.fixture
def in_float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the package computes in float32 is computed in float64: a difference is then none of rounding."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_the_equation_of_every_method_is_written_out() -> None:
    assert {equation.__name__ for equation, _ in EQUATIONS} == set(method_names())


@pytest.mark.parametrize("progress", [0.6, 1.0])
@pytest.mark.parametrize(
    ("equation", "settings"),
    EQUATIONS,
    ids=["-".join([e.__name__, *map(str, settings.values())]) for e, settings in EQUATIONS],
)
@pytest.mark.usefixtures("in_float64")
def test_three_classes_are_the_written_equation(
    equation: Callable[..., Tensor], settings: dict[str, object], progress: float
) -> None:
    """Total and gradient on networks with batch normalisation and dropout; formulas hold class numbers, no channels."""
    method, batch = make(equation.__name__, **settings), replace(batch_of(HEART), progress=progress)
    networks: list[Any] = [copy.deepcopy(student) for student in method.students]
    if equation is mc_net:
        networks.append(copy.deepcopy(method.second))
        networks[1].encoder = networks[0].encoder
    if equation in (contrastive, corrmatch):
        networks.append(copy.deepcopy(method.head if equation is contrastive else method.compare.layers))
    torch.manual_seed(3)
    total = equation(method, batch, *networks)
    parts, found = objective(method, batch, seed=3)
    assert parts["total"] == pytest.approx(total.item(), rel=1e-6)
    expected = written_gradient(total, [nn.ModuleList(networks)])
    assert max(float(value.abs().max()) for value in expected) > 1e-2
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-8)


def test_labels_of_several_classes_keep_the_largest_part_of_each() -> None:
    """Two parts of each class; the smaller become background, and a class is no part of another."""
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[0, :2, :4], labels[0, 6:, :1] = 1, 1
    labels[0, :2, 4:], labels[0, 6:, 6:] = 2, 2
    prob = F.one_hot(labels, 4).permute(0, 3, 1, 2).float()
    kept = HEART.hard(regions.largest_component(HEART, prob)).argmax(1)
    expected = labels.clone()
    expected[0, 6:] = 0
    assert torch.equal(kept, expected)
