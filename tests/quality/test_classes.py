"""Several classes: label maps that are degraded, g with a Dice for each class, its weak models, scores and audits."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import segmentation_models_pytorch as smp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from medpy.metric.binary import dc
from torch import Tensor, nn

from qgbench.engine.device import make_accelerator
from qgbench.plugins.registry import load
from qgbench.quality.audit import audits_of
from qgbench.quality.corruptions import Degrade, degrade, degrade_labels
from qgbench.quality.fit import LabelledImages, fit_predictor
from qgbench.quality.guide import Guide, QualityRegularisation, QualityWeighting
from qgbench.quality.predictor import PredictorCard, QualityPredictor, load_predictor, save_predictor
from qgbench.quality.release import ReleaseMixture
from qgbench.quality.scores import (
    Labelling,
    PredictedQuality,
    TrueDice,
    Watched,
    flip_agreement,
    foreground_confidence,
    mean_of_held,
    overlap_by_class,
    predicted_quality,
    true_quality,
)
from qgbench.quality.weak import smp_dice_loss
from qgbench.spec.protocol import load_protocol
from qgbench.spec.task import Task
from qgbench.training.loop import Trainer
from qgbench.trust.toys import THREE, ToyQuality, ToySegmenter, toy_data, toy_protocol

SMALL = load_protocol("smoke").quality.model_copy(
    update={"steps": 4, "batch": 4, "validations": 2, "val_masks": 2, "weak_epochs": (1, 2), "weak_batch": 4}
    | {"backbone_weights": "none"}
)
MIXTURES = {"release": ReleaseMixture().degrade, "paper": degrade}
every_mixture = pytest.mark.parametrize("mixture", MIXTURES.values(), ids=MIXTURES)
maps = arrays(np.uint8, (12, 14), elements=st.integers(0, 3))


def heart() -> np.ndarray:
    """A ring round a disc, and a blob beside them: classes that touch each other, 64 pixels."""
    rows, columns = np.mgrid[:64, :64]
    distance = np.hypot(rows - 34, columns - 26)
    labels = np.zeros((64, 64), np.uint8)
    labels[np.hypot(rows - 28, columns - 46) < 9] = 1
    labels[distance < 15] = 2
    labels[distance < 8] = 3
    return labels


# Label maps


@settings(deadline=None, max_examples=40)
@given(labels=maps, donor=maps, seed=st.integers(0, 2**32 - 1), name=st.sampled_from(list(MIXTURES)))
def test_a_degraded_label_map_is_a_label_map(labels: np.ndarray, donor: np.ndarray, seed: int, name: str) -> None:
    before = labels.copy()
    found, families = degrade_labels(MIXTURES[name], 3, labels, np.random.default_rng(seed), [donor])
    assert (found.shape, found.dtype) == (labels.shape, np.uint8)
    assert set(np.unique(found)) <= {0, 1, 2, 3}
    assert len(families.split("+")) == 3
    assert np.array_equal(labels, before)
    again, _ = degrade_labels(MIXTURES[name], 3, labels, np.random.default_rng(seed), [donor])
    assert np.array_equal(found, again)


@every_mixture
def test_one_class_of_a_label_map_is_degraded_as_its_mask(mixture: Degrade) -> None:
    labels = (heart() > 1).astype(np.uint8)
    for seed in range(30):
        found, family = degrade_labels(mixture, 1, labels, np.random.default_rng(seed), [labels[::-1]])
        mask, alone = mixture(labels > 0, np.random.default_rng(seed), [labels[::-1] > 0])
        assert np.array_equal(found > 0, mask)
        assert family == alone


@every_mixture
def test_the_dice_of_each_class_is_spread(mixture: Degrade) -> None:
    """Each class has masks of all qualities, and the Dice of one says little of another's."""
    labels, rng = heart(), np.random.default_rng(0)
    drawn = [degrade_labels(mixture, 3, labels, rng, [labels.T, labels[::-1]])[0] for _ in range(300)]
    dice = np.array([[dc(found == c, labels == c) for c in (1, 2, 3)] for found in drawn])
    assert ((dice.std(0) > 0.2) & (dice.mean(0) > 0.3) & (dice.mean(0) < 0.9)).all()
    assert ((dice < 0.5).mean(0) > 0.15).all()
    assert ((dice > 0.9).mean(0) > 0.15).all()
    assert np.corrcoef(dice.T)[np.triu_indices(3, 1)].max() < 0.6
    masks = {c: ((labels == c), [other == c for other in (labels.T, labels[::-1])]) for c in (1, 2, 3)}
    own = [[mixture(mask, rng, donors)[0] for mask, donors in masks.values()] for _ in range(300)]
    alone = np.array([[dc(found, labels == c) for c, found in enumerate(of, start=1)] for of in own])
    assert np.abs(dice.mean(0) - alone.mean(0)).max() < 0.08, "as the mixture spreads it, but for what others cover"
    assert ((dice < 0.1).mean(0) - (alone < 0.1).mean(0)).max() < 0.08, "no class is lost below the others"


# g


def test_g_of_one_class_is_as_it_was_and_of_three_it_has_a_channel_and_an_output_for_each() -> None:
    torch.manual_seed(0)
    one = QualityPredictor(SMALL, "none").eval()
    torch.manual_seed(0)
    three = QualityPredictor(SMALL, "none", THREE).eval()
    first, widened = (next(m for m in g.modules() if isinstance(m, nn.Conv2d)).weight for g in (one, three))
    assert widened.shape[1] == 6
    assert torch.equal(widened[:, :4], first)
    assert all(torch.equal(widened[:, channel], first[:, 3]) for channel in (4, 5))
    image, mask = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
    assert one(image, mask[:, :1]).shape == (2,)
    assert three(image, mask).shape == (2, 3)
    assert three.mean.shape == three.std.shape == (1, 6, 1, 1)


def test_r_of_several_classes_is_of_each_labels_mean() -> None:
    """A score that knows the class alone, and one that knows each label's mean: r of 0 and of 1."""
    rng = np.random.default_rng(0)
    dice = np.clip(np.array([0.6, 0.75, 0.9]) + rng.normal(0, 0.05, (200, 3)), 0, 1)
    rows = {
        "progress": 1.0,
        "id": np.repeat([f"i{number}" for number in range(200)], 3),
        "class": ["rv", "myo", "lv"] * 200,
        "dice": dice.ravel(),
        "held": 1,
        "g": np.tile([0.6, 0.75, 0.9], 200) + rng.normal(0, 1e-3, 600),
        "confidence": dice.mean(1).repeat(3),
    }
    audit, _ = audits_of(pd.DataFrame(rows))
    assert audit.scores["g"].masks == 200
    assert abs(audit.scores["g"].pearson or 1) < 0.2
    assert audit.scores["confidence"].pearson == pytest.approx(1)
    assert audit.mean_dice == pytest.approx(dice.mean())


def test_a_label_is_audited_on_the_classes_that_it_holds_as_q_weighs_it() -> None:
    """Labels that lost a class here and there: the score that QW takes is right about them, and r says so."""
    stream = torch.Generator().manual_seed(0)
    truth = THREE.hard(torch.rand(40, 4, 8, 8, generator=stream))
    label = THREE.hard(truth + 0.7 * torch.rand(40, 4, 8, 8, generator=stream))
    for channel in range(1, 4):
        lost = torch.rand(40, generator=stream) < 0.3
        label[lost, 0] += label[lost, channel]
        label[lost, channel] = 0
    label[:2], label[:2, 0] = 0, 1  # no class at all: all count
    dice = overlap_by_class(THREE, label.bool(), truth.bool())
    q = true_quality(THREE, label, truth)
    rows = pd.DataFrame(
        {
            "progress": 1.0,
            "id": np.repeat(np.arange(40).astype(str), 3),
            "class": ["rv", "myo", "lv"] * 40,
            "dice": dice.flatten().tolist(),
            "held": label[:, 1:].flatten(2).any(2).int().flatten().tolist(),
            "oracle": q.repeat_interleave(3).tolist(),
        }
    )
    audit, _ = audits_of(rows)
    assert audit.scores["oracle"].pearson == pytest.approx(1)
    assert audit.scores["oracle"].mae == pytest.approx(0, abs=1e-6)
    assert audit.mean_dice == pytest.approx(float(q.mean()))
    assert audit.mean_dice > float(dice.mean()) + 0.05, "classes that a label lost would count as wrong"


def test_the_swapped_image_is_of_another_group() -> None:
    image, mask = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 3, 2, 2), torch.zeros(5, 1, 2, 2)
    swapped = LabelledImages(image, mask, groups=["a", "a", "a", "b", "b"]).swapped()
    assert swapped.image[:, 0, 0, 0].tolist() == [4, 4, 4, 2, 2]
    assert LabelledImages(image, mask).swapped().image[:, 0, 0, 0].tolist() == [4, 0, 1, 2, 3]
    assert LabelledImages(image, mask, groups=["a"] * 5).swapped().image[:, 0, 0, 0].tolist() == [4, 0, 1, 2, 3]


def channels(labels: list[list[int]], task: Task = THREE) -> Tensor:
    """Label maps of a row of pixels each -> (U, C, 1, W)."""
    hot = torch.nn.functional.one_hot(torch.tensor(labels), task.channels)
    return hot.permute(0, 2, 1).unsqueeze(2).float()


def test_quality_is_the_mean_over_the_classes_that_a_label_holds() -> None:
    label = channels([[0, 1, 1, 3], [2, 2, 0, 0], [0, 0, 0, 0]])
    values = torch.tensor([[0.2, 0.9, 0.4], [0.1, 0.6, 0.0], [0.3, 0.6, 0.9]])
    expected = [0.3, 0.6, 0.6]
    assert mean_of_held(THREE, values, label).tolist() == pytest.approx(expected)
    image = torch.zeros(3, 3, 1, 4)
    asked = []

    class Given(nn.Module):
        def forward(self, image: Tensor, mask: Tensor) -> Tensor:
            asked.append(mask)
            return values

    assert predicted_quality(Given(), THREE, image, label).tolist() == pytest.approx(expected)
    assert torch.equal(asked[0], label[:, 1:])
    torch.manual_seed(0)
    g, soft = QualityPredictor(SMALL, "none", THREE).eval(), torch.rand(2, 4, 64, 64).softmax(1).requires_grad_()
    quality = predicted_quality(g, THREE, torch.rand(2, 3, 64, 64), soft)
    assert quality.shape == (2,)
    assert torch.autograd.grad(quality.sum(), soft)[0].abs().sum() > 0


def test_a_card_names_its_classes_where_there_are_several(tmp_path: Path) -> None:
    facts: dict[str, Any] = dict(
        id="g", dataset="heart", seed=0, size=64, precision="fp32", settings=SMALL, labelled_ids=[], data="", split="",
        synthetic={"masks": 1, "pearson": None, "spearman": None, "mae": 0}, weak_dice=[], image_dependence=0,
        weak_models={"masks": 1, "pearson": None, "spearman": None, "mae": 0}, best_step=1, seconds=1,
    )  # fmt: skip
    card, one = PredictorCard(**facts, classes=THREE.classes), PredictorCard(**facts)
    assert "classes" not in one.model_dump_json()
    g = QualityPredictor(SMALL, "none", THREE)
    save_predictor(tmp_path, g, card)
    stored = load_predictor(tmp_path)
    assert stored is not None
    assert stored.card == card
    assert stored.card.classes == ("first", "second", "third")
    assert all(torch.equal(value, stored.state_dict()[name]) for name, value in g.state_dict().items())


# Weak models and the fit


def test_the_loss_of_weak_models_is_the_library_s_averaged_over_the_classes() -> None:
    logits = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 3, (3, 8, 8), generator=torch.Generator().manual_seed(1))  # none of the third class
    judge = smp.losses.DiceLoss("multiclass", classes=[1, 2, 3])
    target = torch.nn.functional.one_hot(labels, 4).permute(0, 3, 1, 2).float()
    torch.testing.assert_close(smp_dice_loss(logits.softmax(1), target, THREE), judge(logits, labels))


def hearts(count: int, seed: int) -> LabelledImages:
    rng = np.random.default_rng(seed)
    labels = [np.roll(heart(), rng.integers(-6, 6, 2), (0, 1)) for _ in range(count)]
    mask = channels([each.ravel().tolist() for each in labels]).view(count, 4, 64, 64)
    image = 0.1 + 0.6 * mask[:, 1:] + 0.1 * torch.from_numpy(rng.normal(size=(count, 3, 64, 64))).float()
    return LabelledImages(image.clamp(0, 1), mask, THREE)


@pytest.mark.slow
def test_g_of_three_classes_is_fitted_and_audited_for_each(tmp_path: Path) -> None:
    labelled, val = hearts(5, 0), hearts(3, 1)
    accelerator = make_accelerator("cpu", "fp32", 1)
    fitted = fit_predictor(labelled, val, SMALL, 0, accelerator, tmp_path, {})
    assert fitted.synthetic.masks == fitted.synthetic_test.masks == 3 * 20  # images, masks of each
    assert fitted.weak_models.masks == 2 * 3  # models, images
    assert len(fitted.weak_dice) == 2
    assert fitted.predictor(val.image, val.mask[:, 1:]).shape == (3, 3)
    assert -1 <= fitted.image_dependence <= 1


# Scores


def judged() -> Labelling:
    torch.manual_seed(0)
    network = ToySegmenter(task=THREE)
    image = torch.rand(5, 3, 32, 32)
    prob = (4 * torch.randn(5, 4, 32, 32)).softmax(1)
    truth = (4 * torch.randn(5, 4, 32, 32)).argmax(1)
    prob[4, 2] = 0.0  # a label without the second class
    return Labelling(image, prob, network, torch.nn.functional.one_hot(truth, 4).permute(0, 3, 1, 2).float())


def test_the_dice_of_each_class_is_medpy_s() -> None:
    labelling = judged()
    assert labelling.truth is not None
    hard = labelling.prob.argmax(1).numpy()
    truth = labelling.truth.argmax(1).numpy()
    found = overlap_by_class(THREE, THREE.hard(labelling.prob).bool(), labelling.truth > 0.5)
    expected = [[dc(h == c, t == c) for c in (1, 2, 3)] for h, t in zip(hard, truth, strict=True)]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
    oracle = TrueDice()(labelling)
    np.testing.assert_allclose(oracle[:4].numpy(), np.mean(expected[:4], 1), atol=1e-6)
    assert float(oracle[4]) == pytest.approx((expected[4][0] + expected[4][2]) / 2, abs=1e-6)
    empty = torch.zeros(1, 4, 2, 2)
    empty[:, 0] = 1
    assert overlap_by_class(THREE, empty.bool(), empty.bool()).tolist() == [[1.0, 1.0, 1.0]]


def test_confidence_is_the_mean_of_the_largest_probability_where_a_class_is_predicted() -> None:
    labelling = judged()
    for prob, found in zip(labelling.prob, foreground_confidence(labelling), strict=True):
        inside = prob.argmax(0) > 0
        assert float(found) == pytest.approx(float(prob.amax(0)[inside].mean()), rel=1e-5)
    agreement = flip_agreement(labelling)
    assert agreement.shape == (5,)
    assert ((agreement >= 0) & (agreement < 1)).all()


def test_two_channels_are_scored_as_the_one_class_of_a_sigmoid() -> None:
    """K = 1 written as a softmax of two: the same confidence and Dice."""

    class Two(Task):
        channels = 2  # type: ignore[assignment]

    prob, truth = torch.rand(4, 1, 16, 16), (torch.rand(4, 1, 16, 16) > 0.5).float()
    one, two = ToySegmenter(), ToySegmenter()
    two.task = Two()
    asked = Labelling(torch.rand(4, 3, 16, 16), prob, one, truth)
    both = Labelling(asked.image, torch.cat([1 - prob, prob], 1), two, torch.cat([1 - truth, truth], 1))
    torch.testing.assert_close(foreground_confidence(both), foreground_confidence(asked))
    torch.testing.assert_close(TrueDice()(both), TrueDice()(asked))
    g = ToyQuality().requires_grad_(False)
    asked, both = (
        Labelling(torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)), p, n, None)
        for p, n in ((torch.rand(4, 1, 32, 32), one), (None, two))
    )
    both.prob = torch.cat([1 - asked.prob, asked.prob], 1)
    torch.testing.assert_close(PredictedQuality(g)(both), PredictedQuality(g)(asked))


# Add-ons and audits in the loop


def trainer_of(modes: Any, steps: int = 4) -> tuple[Trainer, nn.Module]:
    torch.manual_seed(0)
    g = ToyQuality(3).requires_grad_(False).eval()
    kind = load("method", "mean_teacher")
    method = kind(lambda: ToySegmenter(task=THREE), kind.Settings())
    accelerator = make_accelerator("cpu", "fp32", 1)
    return Trainer(method, Guide(modes(g)), g, toy_data(THREE), toy_protocol(steps), 0, accelerator), g


def test_qar_is_one_minus_the_mean_over_the_classes_that_are_predicted() -> None:
    options = QualityRegularisation.Settings(lambda_qar=0.7, qar_warmup=0.0, qar_ramp=0.0)
    trainer, g = trainer_of(lambda g: [])
    method, (batch, _) = trainer.method.train(), trainer._streams.next(0.5)
    for dropout in method.student.head[:1]:  # type: ignore[attr-defined]
        dropout.p = 0.0
    found = QualityRegularisation(options, predictor=g).loss(batch, method, 0)
    assert found is not None
    prob = method.student(batch.u_w).softmax(1)
    dice = g(batch.u_w, prob[:, 1:])
    rows = []
    for row, labels in enumerate(prob.argmax(1)):
        held = [c for c in (1, 2, 3) if (labels == c).any()] or [1, 2, 3]
        rows.append(1 - torch.stack([dice[row, c - 1] for c in held]).mean())
    expected = 0.7 * torch.stack(rows).mean()
    torch.testing.assert_close(found, expected)
    parameters = list(method.student.parameters())
    for mine, theirs in zip(
        torch.autograd.grad(found, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-7)


def test_a_network_that_misses_classes_is_not_the_best_on_validation_images() -> None:
    """medpy judges: 1 of the class that is found, 0 of those that are missed, 1 of those that are not there."""
    trainer, _ = trainer_of(lambda g: [])
    trainer.method.settings = trainer.method.settings.model_copy(update={"warmup": 0.0, "ramp": 0.0})
    batches = [mask for _, mask in trainer._data.val.batches()]
    dice = []
    for step, missed in ((1, (1, 2)), (2, ()), (3, (2, 3))):
        found = [mask.clone() for mask in batches]
        for mask in found:
            mask[:, missed] = 0.0
            mask[:, 3, ::4] = 0.0  # of the last class a quarter of the rows is never found
            mask[:, 0] = 1.0 - mask[:, 1:].sum(1)
        masks = iter(found)
        trainer.method.predict = lambda image, masks=masks: next(masks)
        trainer._validate(step)
        hard, truth = torch.cat(found).bool().numpy(), torch.cat(batches).bool().numpy()
        pairs = [(h[c], t[c]) for h, t in zip(hard, truth, strict=True) for c in (1, 2, 3)]
        dice.append(np.mean([dc(h, t) if h.any() or t.any() else 1.0 for h, t in pairs]))
    assert [value for _, value in trainer.history.val_dice] == pytest.approx(dice, abs=1e-6)
    assert dice[1] > dice[0] + 0.2
    assert trainer.history.best_step == 2


def test_labels_are_audited_by_class() -> None:
    trainer, g = trainer_of(
        lambda g: [QualityWeighting(QualityWeighting.Settings(tau=0.0), Watched(PredictedQuality(g), "g"))]
    )
    for _ in trainer.run():
        pass
    table = trainer.audited_labels()
    assert list(table) == ["progress", "id", "class", "dice", "held", "g", "confidence", "agreement"]
    assert table["class"].tolist() == list(THREE.classes) * (len(table) // 3)
    assert len(table) == 4 * 16 * 3
    whole = table.groupby(["progress", "id"], sort=False)
    assert (whole[["confidence", "agreement"]].nunique() == 1).all().all()
    assert (whole["g"].nunique() == 3).all()
    (index, label), *_ = trainer._labels_of_audited()
    last = table[table["progress"] == 1.0].iloc[: 3 * len(index)]
    hard = THREE.hard(label.prob)
    np.testing.assert_allclose(last["g"], g(label.image, hard[:, 1:]).numpy().ravel(), atol=1e-5)
    truth = trainer._audit_set.masks(index).numpy()
    expected = [
        [dc(h[c], t[c]) if h[c].any() or t[c].any() else 1.0 for c in (1, 2, 3)]
        for h, t in zip(hard.numpy(), truth, strict=True)
    ]
    np.testing.assert_allclose(last["dice"], np.ravel(expected), atol=1e-6)
    assert last["held"].tolist() == hard[:, 1:].flatten(2).any(2).float().flatten().tolist()
    assert 0 <= trainer.history.val_dice[-1][1] <= 1
    assert {"mean_q", "kept_share"} <= set(trainer.history.guidance[-1])
