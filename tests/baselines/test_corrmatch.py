"""CorrMatch against the equations of its paper (arXiv 2306.04300), in their form for two classes with a softmax."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qgbench.methods import Batch, Term
from qgbench.methods.correlation import spread_over_regions
from qgbench.plugins.registry import load
from qgbench.quality.guide import Guide
from qgbench.spec.task import Task
from qgbench.training.objective import Objective
from tests.baselines.test_unimatch import (
    SIDE,
    assert_gradient,
    make,
    make_batch,
    masked,
    pasted,
    split,
    supervised,
)

GRID = SIDE // 8


def make_corrmatch(bias: float = 0.0, **settings: object) -> Any:
    """Without dropout in the head, so that two passes agree."""
    method = make("corrmatch", bias, **settings)
    method.compare.layers[3].p = 0.0
    with torch.no_grad():
        method.compare.layers[4].weight.mul_(2)  # correlations that differ from 1/P
    return method


def resize(maps: Tensor, side: int) -> Tensor:
    return F.interpolate(maps, (side, side), mode="bilinear", align_corners=True)


def written_correlation(head: torch.nn.Module, features: list[Tensor], logits: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax(f1^T f2 / sqrt(D)) over the last axis, and two-class logits times it, pixel by pixel of the grid."""
    joined = torch.cat([features[2], resize(features[3], GRID)], 1)  # strides 8 and 16 of `Pyramid`
    first, second = head(joined).chunk(2, 1)
    count = first.shape[1]
    scores = torch.einsum("ncp,ncq->npq", first.flatten(2), second.flatten(2)) / math.sqrt(count)
    correlation = scores.exp() / scores.exp().sum(2, keepdim=True)
    classes = torch.cat([torch.zeros_like(logits), logits], 1).detach()
    coarse = resize(classes, GRID).flatten(2)
    spread = torch.zeros_like(coarse)
    for p in range(GRID**2):
        spread = spread + coarse[:, :, p, None] * correlation[:, p, None, :]
    return correlation, resize(spread.unflatten(2, (GRID, GRID)), SIDE)


def written_regions(rows: Tensor) -> np.ndarray:
    """Above half of each map's own range, at full size: (S, H, W) bool."""
    maps = resize(rows.detach().view(-1, 1, GRID, GRID), SIDE)[:, 0].double().numpy()
    low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    return (maps - low) / np.maximum(high - low, 1e-300) > 0.5


def votes_of(prob: np.ndarray, regions: np.ndarray, threshold: float) -> np.ndarray:
    """Accepted regions of the foreground minus those of the background, at each pixel."""
    votes = np.zeros(prob.shape, int)
    for region in regions:
        certain = region & (np.maximum(prob, 1 - prob) >= threshold)
        if certain.sum() == 0 or certain.sum() / region.sum() < threshold:
            continue
        classes, counts = np.unique(prob[certain] > 0.5, return_counts=True)
        if counts.max() / counts.sum() > threshold:
            votes[region] += 1 if classes[counts.argmax()] else -1
    return votes


def written_threshold(prob: np.ndarray, old: float, momentum: float = 0.999) -> float:
    """Exponential average of the mean over predicted classes of the highest confidence."""
    both = np.stack([1 - prob, prob])
    predicted = both[1] > 0.5
    highest = [both[c][predicted == bool(c)].max() for c in (0, 1) if (predicted == bool(c)).any()]
    return momentum * old + (1 - momentum) * float(np.mean(highest))


def written_out(method: Any, batch: Batch, seed: int) -> dict[str, Any]:
    """The losses of the paper over whole batches, of two passes, [x, u ; x_fp, u_fp] and [s], and their gradient."""
    settings = method.settings
    network, head = copy.deepcopy(method.student).train(), copy.deepcopy(method.compare.layers).train()
    labelled, unlabelled = len(batch.x_l), len(batch.u_w)
    partner = [unlabelled - 1, *range(unlabelled - 1)]
    torch.manual_seed(seed)
    features = network.encode(torch.cat([batch.x_l, batch.u_w]))
    masks = [F.dropout2d(torch.ones(len(f), f.shape[1], 1, 1), settings.dropout) for f in features]
    index = torch.randint(GRID**2, (settings.regions,))
    decoded = network.decode([torch.cat([f, f * mask]) for f, mask in zip(features, masks, strict=True)])
    pred, dropped = network.head(decoded).chunk(2)
    pred_fp, prob = dropped[labelled:], torch.sigmoid(pred[labelled:]).detach()
    threshold = written_threshold(prob.numpy(), settings.threshold, settings.momentum)
    correlation, corr = written_correlation(head, features, pred)
    corr = corr[:, 1:] - corr[:, :1]
    with torch.no_grad():  # the very numbers, or a pixel on the edge of a region falls to either side by rounding
        found, _ = copy.deepcopy(method.compare)(features, pred)
    torch.testing.assert_close(found, correlation.detach(), rtol=1e-3, atol=1e-6)
    correlation = found
    spread = prob.clone()
    votes = []
    for row in range(unlabelled):
        votes.append(votes_of(prob[row, 0].numpy(), written_regions(correlation[labelled + row, index]), threshold))
        spread[row, 0][torch.from_numpy(votes[-1] > 0)] = 1.0
        spread[row, 0][torch.from_numpy(votes[-1] < 0)] = 0.0
    features_s = network.encode(pasted(batch.u_s1, batch.cut1, partner))
    pred_s = network.head(network.decode(features_s))
    _, corr_s = written_correlation(head, features_s, pred_s)
    corr_s = corr_s[:, 1:] - corr_s[:, :1]
    hard, soft = pasted(spread, batch.cut1, partner), pasted(prob, batch.cut1, partner)
    log_s = F.log_softmax(torch.cat([torch.zeros_like(pred_s), pred_s], 1).double(), 1)
    classes = torch.cat([1 - soft, soft], 1).double()
    divergence = F.kl_div(log_s, classes, reduction="none").sum(1, keepdim=True)
    parts = {
        "hard": masked(pred_s, hard, threshold),
        "soft": torch.where((soft >= threshold) | (1 - soft >= threshold), divergence, 0.0),
        "corr_s": masked(corr_s, hard, threshold),
        "fp": masked(pred_fp, prob, threshold),
        "corr_w": masked(corr[labelled:], prob, threshold),
    }
    h, s, c, f, w = (part.mean() for part in parts.values())
    sup = 0.5 * supervised(pred[:labelled], batch.y_l) + 0.5 * supervised(corr[:labelled], batch.y_l)
    total = (sup + 0.25 * h + 0.25 * s + 0.25 * f + 0.25 * (0.5 * c + 0.5 * w)) / 2
    total.backward()
    return {
        "total": total.item(),
        "parts": parts,
        "threshold": threshold,
        "spread": spread,
        "partner": partner,
        "prob": prob,
        "gradient": [p.grad for p in [*network.parameters(), *head.parameters()]],
    }


CASES = [
    (3, 5, 0.0, 0.6),
    (4, 3, 0.0, 0.55),
    (2, 2, 0.0, 0.6),
    (3, 4, -30.0, 0.85),
    (3, 4, 30.0, 0.85),
    (3, 4, 0.0, 0.9999),
]
NAMES = ["more unlabelled", "more labelled", "two and two", "nothing predicted", "all predicted", "nothing certain"]


@pytest.mark.parametrize(("labelled", "unlabelled", "bias", "threshold"), CASES, ids=NAMES)
def test_rows_total_and_gradient_are_the_papers(labelled: int, unlabelled: int, bias: float, threshold: float) -> None:
    method, batch = make_corrmatch(bias, threshold=threshold, regions=16), make_batch(labelled, unlabelled)
    expected = assert_as_written(method, batch)
    changed = float((expected["spread"] != expected["prob"]).float().mean())
    if threshold > 0.99:
        assert changed == 0.0
    elif not bias:
        assert changed > 0.01


def assert_as_written(method: Any, batch: Batch) -> dict[str, Any]:
    """Threshold, labels, rows, total and gradient are those of the equations, which are returned."""
    unlabelled, expected = len(batch.u_w), written_out(method, batch, seed=17)
    torch.manual_seed(17)
    stepped = copy.deepcopy(method)
    step = stepped(batch)
    assert float(stepped.threshold) == pytest.approx(expected["threshold"], rel=1e-6)
    judged = [expected["spread"], expected["prob"], expected["spread"], expected["prob"], expected["prob"]]
    for term, (name, pixels), label in zip(step.terms, expected["parts"].items(), judged, strict=True):
        torch.testing.assert_close(term.label.prob, label)
        assert term.label.image is batch.u_w
        if name in ("hard", "soft", "corr_s"):
            loss, share = split(pixels, batch.cut1, expected["partner"], SIDE**2)
            np.testing.assert_allclose(term.denominator.numpy(), share, rtol=1e-6)
            assert term.owner.tolist() == [*range(unlabelled), *expected["partner"]]
        else:
            loss = pixels.mean((1, 2, 3)).detach().numpy()
            assert term.owner is None
            assert term.denominator is None
        np.testing.assert_allclose(term.loss.detach().numpy(), loss, rtol=5e-4, atol=1e-6)
    torch.manual_seed(17)
    found = Objective(copy.deepcopy(method), Guide([]))(batch, None, 0)[0]
    assert float(found.detach()) == pytest.approx(expected["total"], rel=1e-5)
    assert_gradient(method, batch, expected["gradient"], seed=17)
    return expected


def decode_apart(network: Any, images: Tensor, dropout: float) -> tuple[list[Tensor], Tensor, Tensor]:
    """Features, clean and dropped logits, each decoded in a batch of its own."""
    features = network.encode(images)
    dropped = [F.dropout2d(feature, dropout) for feature in features]
    return features, *(network.head(network.decode(each)) for each in (features, dropped))


def decode_with_dropped_weak(network: Any, images: Tensor, dropout: float) -> tuple[list[Tensor], Tensor, Tensor]:
    """Of the dropped features, only those of the (five) weak images are decoded beside the clean ones."""
    features = network.encode(images)
    masks = [F.dropout2d(torch.ones(len(f), f.shape[1], 1, 1), dropout) for f in features]
    both = [torch.cat([f, (f * mask)[-5:]]) for f, mask in zip(features, masks, strict=True)]
    pred, pred_fp = network.head(network.decode(both)).split([len(images), 5])
    return features, pred, torch.cat([pred[:-5], pred_fp])


@pytest.mark.parametrize("composition", [decode_apart, decode_with_dropped_weak])
def test_another_composition_of_batches_is_not_the_papers(composition: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    method, batch = make_corrmatch(threshold=0.6, regions=16), make_batch(3, 5)
    monkeypatch.setattr("qgbench.baselines.corrmatch.decode_twice", composition)
    with pytest.raises(AssertionError):
        assert_as_written(method, batch)


def drawn(picture: list[list[int]]) -> Tensor:
    """A map of correlations on the grid: (P,)."""
    return torch.tensor(picture, dtype=torch.float32).flatten()


LEFT = drawn([[1, 0, 0, 0]] * GRID)
RIGHT = drawn([[0, 0, 0, 1]] * GRID)
FLAT = drawn([[1, 1, 1, 1]] * GRID)


def spread_with(method: Any, prob: Tensor, maps: list[Tensor]) -> Tensor:
    """Spread one label (1, H, W) with these maps and no others, however they are drawn."""
    correlation = torch.stack([maps[row % len(maps)] for row in range(GRID**2)])
    return spread_over_regions(Task(), prob[None], correlation[None], method.threshold, method.settings.regions)[0, 0]


def test_a_certain_region_gives_its_class_to_its_uncertain_pixels() -> None:
    method = make_corrmatch(threshold=0.85)
    prob = torch.full((1, SIDE, SIDE), 0.55)
    prob[:, :, :8] = 0.99
    prob[:, 3, :8] = 0.4  # one row in 32 is uncertain
    found = spread_with(method, prob, [LEFT])
    inside = written_regions(LEFT[None])[0]
    assert 1 < inside.sum() < SIDE**2 / 4
    assert bool((found[torch.from_numpy(inside)] == 1.0).all())
    assert torch.equal(found[torch.from_numpy(~inside)], prob[0][torch.from_numpy(~inside)])


@pytest.mark.parametrize("spoilt", ["uncertain", "of two classes"])
def test_a_region_that_is_uncertain_or_of_two_classes_gives_nothing(spoilt: str) -> None:
    method = make_corrmatch(threshold=0.85)
    prob = torch.full((1, SIDE, SIDE), 0.99)
    prob[:, ::4] = 0.6 if spoilt == "uncertain" else 0.01  # 25 % of the rows
    assert torch.equal(spread_with(method, prob, [LEFT]), prob[0])


def test_the_background_spreads_too_and_a_flat_map_has_no_region() -> None:
    method = make_corrmatch(threshold=0.85)
    prob = torch.full((1, SIDE, SIDE), 0.01)
    prob[:, 3] = 0.6
    found = spread_with(method, prob, [RIGHT])
    inside = torch.from_numpy(written_regions(RIGHT[None])[0])
    assert bool((found[inside] == 0.0).all())
    assert torch.equal(spread_with(method, prob, [FLAT]), prob[0])


def test_without_overlap_the_order_of_the_authors_loop_does_not_matter() -> None:
    """Their loop writes region after region into the label and counts classes in what it has written."""
    method = make_corrmatch(threshold=0.7)
    generator = torch.Generator().manual_seed(3)
    prob = torch.rand(1, SIDE, SIDE, generator=generator)
    prob[:, :, :12] = 1 - 0.15 * prob[:, :, :12]
    prob[:, :, 20:] = 0.15 * prob[:, :, 20:]
    found = spread_with(method, prob, [LEFT, RIGHT])
    mask, written = prob[0] > 0.5, torch.maximum(prob[0], 1 - prob[0]) >= 0.7
    for region in torch.from_numpy(written_regions(torch.stack([LEFT, RIGHT, LEFT]))):
        certain = region & (torch.maximum(prob[0], 1 - prob[0]) >= 0.7)
        values, counts = mask[certain].unique(return_counts=True)
        if certain.sum() / region.sum() >= 0.7 and counts.max() / counts.sum() > 0.7:
            mask[region] = values[counts.argmax()]
            written |= region
    assert torch.equal(found > 0.5, mask)
    assert torch.equal(torch.maximum(found, 1 - found) >= 0.7, written)


def test_where_regions_disagree_most_of_them_decide() -> None:
    method = make_corrmatch(threshold=0.7)
    prob = torch.full((1, SIDE, SIDE), 0.99)
    prob[:, :, 16:] = 0.01
    wide = [drawn([[90, 90, 40, 0]] * GRID), drawn([[0, 40, 90, 90]] * GRID), drawn([[0, 38, 90, 90]] * GRID)]
    regions = written_regions(torch.stack(wide))
    assert (regions[0] & regions[1]).any()
    index = torch.tensor([row % 3 for row in range(GRID**2)])
    torch.manual_seed(0)
    found = spread_with(method, prob, wide)
    torch.manual_seed(0)
    sampled = index[torch.randint(GRID**2, (128,))].numpy()
    votes = votes_of(prob[0].numpy(), regions[sampled], 0.7)
    assert {-1, 1} <= set(np.sign(votes).ravel())
    expected = np.where(votes == 0, prob[0].numpy(), votes > 0)
    np.testing.assert_array_equal(found.numpy(), expected.astype(np.float32))
    overlap = regions[0] & regions[1]
    assert set(np.sign(votes[overlap])) == {-1}  # two maps in three are background


def test_the_threshold_follows_the_highest_confidences() -> None:
    method, expected = make_corrmatch(), 0.85
    generator = torch.Generator().manual_seed(1)
    for low, high in ((0.1, 0.8), (0.1, 0.97), (0.02, 0.4), (0.6, 0.9)):
        prob = low + (high - low) * torch.rand(4, 1, 8, 8, generator=generator)
        method.update_threshold(prob)
        expected = written_threshold(prob.numpy(), expected)
        assert float(method.threshold) == pytest.approx(expected, rel=1e-6)
    assert expected != 0.85


def test_a_short_budget_does_not_saturate_the_threshold() -> None:
    """Certain pixels from the first step on leave 200 steps below 0.88, so that lesions' pixels still count."""
    method = make_corrmatch()
    for _ in range(200):
        method.update_threshold(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1))
    assert float(method.threshold) == pytest.approx(1.0 - 0.15 * 0.999**200, abs=1e-5)


def test_the_threshold_survives_a_restart() -> None:
    first = make_corrmatch()
    for progress in (0.0, 0.1, 0.2):
        first(make_batch(progress=progress))
    second = make_corrmatch()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert float(second.threshold) == float(first.threshold) != pytest.approx(0.85)
    batch = make_batch(progress=0.25)
    torch.manual_seed(2)
    expected = [term.loss for term in first(batch).terms]
    torch.manual_seed(2)
    for found, wanted in zip(second(batch).terms, expected, strict=True):
        assert torch.equal(found.loss, wanted)
    assert float(second.threshold) == float(first.threshold)


def test_a_rejected_label_has_no_part_in_any_row_that_counts() -> None:
    """Replacing label 1 before it is used leaves all rows of the other owners as they are."""
    method, batch = make_corrmatch(threshold=0.6), make_batch()

    def terms(corrector: Any) -> list[Term]:
        twin = copy.deepcopy(method)
        twin.corrector = corrector
        torch.manual_seed(6)
        return twin(batch).terms

    def replaced(image: Tensor, prob: Tensor) -> Tensor:
        return torch.cat([prob[:1], 1.0 - prob[1:2].round(), prob[2:]])

    for plain, other in zip(terms(None), terms(replaced), strict=True):
        owner = torch.arange(5) if plain.owner is None else plain.owner
        assert torch.equal(plain.loss[owner != 1], other.loss[owner != 1])
        assert not torch.equal(plain.loss[owner == 1], other.loss[owner == 1])


def test_the_head_is_trained() -> None:
    method = make_corrmatch()
    assert {id(p) for p in method.heads()} == {id(p) for p in method.compare.parameters()}
    assert method.compare.layers[0].in_channels == 8 + 10  # features of strides 8 and 16


def test_settings_are_the_papers() -> None:
    settings = load("method", "corrmatch").Settings().model_dump()
    assert settings == {
        "lambda_u": 0.5,
        "warmup": 0.0,
        "ramp": 0.0,
        "threshold": 0.85,
        "dropout": 0.5,
        "momentum": 0.999,
        "regions": 128,
        "compared": 21,
    }
