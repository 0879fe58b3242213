"""What may stand in the place of g: predictors that correct masks, segmenters, and a loss of pairs."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from qgbench.quality.pixel import BothPredictor, PixelPredictor
from qgbench.quality.predictor import FORMS, QualityPredictor, kind_of, load_predictor, ranking_loss, save_predictor
from qgbench.quality.segmenters import EnsemblePredictor, SecondPredictor
from qgbench.spec.arm import Arm, parse_row
from qgbench.spec.protocol import load_protocol
from qgbench.spec.task import Task
from tests.quality.test_predictor import card

SETTINGS = load_protocol("smoke").quality.model_copy(update={"weak_encoder": "mobilenet_v2"})
ONE, THREE = Task(), Task(("a", "b", "c"))


def predictor(form: str, task: Task = ONE) -> QualityPredictor:
    torch.manual_seed(0)
    return kind_of(form)(SETTINGS, "none", task, 64)


def batch(task: Task) -> tuple[Tensor, Tensor, Tensor]:
    """Return images, labels in all channels, and masks of the classes."""
    random = torch.Generator().manual_seed(1)
    image = torch.rand(3, 3, 64, 64, generator=random)
    label = task.hard(torch.rand(3, task.channels, 64, 64, generator=random))
    return image, label, label[:, task.lesions]


def dice(first: Tensor, second: Tensor) -> float:
    pixels = [{tuple(at) for at in mask.nonzero().tolist()} for mask in (first, second)]
    total = len(pixels[0]) + len(pixels[1])
    return 2 * len(pixels[0] & pixels[1]) / total if total else 1.0


@pytest.mark.parametrize("task", [ONE, THREE])
@pytest.mark.parametrize("form", FORMS)
def test_each_form_gives_what_g_gives_and_learns(form: str, task: Task) -> None:
    image, label, mask = batch(task)
    judge = predictor(form, task)
    true = torch.rand(3) if task is ONE else torch.rand(3, 3)
    loss = judge.loss(image, mask, true, label)
    loss.backward()
    assert loss.ndim == 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in judge.parameters()), "all parts learn"
    quality = judge.eval()(image, mask)
    assert quality.shape == true.shape
    assert quality.dtype == torch.float32
    assert ((quality >= 0) & (quality <= 1)).all()
    assert judge.score(image, label).shape == (3,)


@pytest.mark.parametrize("form", FORMS)
def test_a_stored_form_comes_back_as_it_was(form: str, tmp_path: Path) -> None:
    image, _, mask = batch(ONE)
    judge = predictor(form).eval()
    stored = card().model_copy(update={"settings": SETTINGS, "form": form, "size": 64})
    assert ("form" in stored.model_dump()) == (form != "regressor"), "cards of g stay what they were"
    save_predictor(tmp_path, judge, stored)
    found = load_predictor(tmp_path)
    assert found is not None
    assert type(found) is type(judge)
    assert torch.equal(found(image, mask), judge(image, mask))


def test_the_quality_of_a_corrector_is_the_soft_dice_with_the_corrected_mask() -> None:
    for task in (ONE, THREE):
        image, label, mask = batch(task)
        judge = predictor("pixel", task).eval()
        assert isinstance(judge, PixelPredictor)
        better = judge.refined(image, label)[:, task.lesions].double()
        better = better.detach()
        expected = [
            [(2 * float((p * m).sum()) + 1) / (float(p.sum() + m.sum()) + 1) for p, m in zip(*pair, strict=True)]
            for pair in zip(better, mask.double(), strict=True)
        ]
        assert judge(image, mask).view(3, -1).tolist() == [pytest.approx(row, rel=1e-5) for row in expected]
        assert torch.equal(judge.refined(image, label), judge.refined(image, 0.6 * label + 0.1)), "labels are cut"
        if task is THREE:
            assert torch.allclose(judge.refined(image, label).sum(1), torch.ones(3, 64, 64))


def test_with_both_heads_quality_is_between_them() -> None:
    image, _, mask = batch(ONE)
    judge = predictor("both").eval()
    assert isinstance(judge, BothPredictor)
    both = judge(image, mask)
    with torch.no_grad():
        judge.head[-1].weight.zero_()
        judge.head[-1].bias.fill_(math.log(3))  # a sigmoid of 3 / 4
    soft = PixelPredictor.forward(judge, image, mask)
    assert judge(image, mask).tolist() == pytest.approx(((soft + 0.75) / 2).tolist(), rel=1e-5)
    assert not torch.equal(both, soft)


def test_the_second_segmenter_is_compared_with_the_label_and_the_ensemble_with_itself() -> None:
    image, label, mask = batch(THREE)
    second, ensemble = predictor("second", THREE).eval(), predictor("ensemble", THREE).eval()
    assert isinstance(second, SecondPredictor)
    assert isinstance(ensemble, EnsemblePredictor)
    own = THREE.hard(second.refined(image, label))[:, 1:]
    for row, q in enumerate(second(image, mask)):
        assert q.tolist() == pytest.approx([dice(own[row, k], mask[row, k]) for k in range(3)])
    assert torch.equal(second(image, own), torch.ones(3, 3)), "its own prediction is perfect to it"
    members = [THREE.hard(each(image).softmax(1))[:, 1:] for each in ensemble.networks]
    for row, q in enumerate(ensemble(image, mask)):
        pairs = list(itertools.combinations(members, 2))
        expected = [sum(dice(a[row, k], b[row, k]) for a, b in pairs) / 3 for k in range(3)]
        assert q.tolist() == pytest.approx(expected, abs=1e-6)
    assert torch.equal(ensemble(image, mask), ensemble(image, 1 - mask)), "the label is not looked at"


def test_a_segmenter_is_chosen_by_the_dice_of_its_predictions() -> None:
    image, label, _ = batch(ONE)
    judge = predictor("second").eval()
    assert isinstance(judge, SecondPredictor)
    own = ONE.hard(judge.refined(image, label))
    assert judge.skill(image, own).tolist() == [1.0] * 3
    expected = [dice(mine, true) for mine, true in zip(own, label, strict=True)]
    assert judge.skill(image, label).tolist() == pytest.approx(expected)
    assert predictor("pixel").skill(image, label) is None


def test_the_loss_of_pairs_by_hand() -> None:
    quality, true = torch.tensor([0.75, 0.5, 0.2]), torch.tensor([0.9, 0.1, 0.1])
    first, second, third = (math.log(q / (1 - q)) for q in quality.tolist())
    expected = (math.log1p(math.exp(second - first)) + math.log1p(math.exp(third - first))) / 2
    assert float(ranking_loss(quality, true)) == pytest.approx(expected, rel=1e-5)
    assert float(ranking_loss(quality, torch.full((3,), 0.5))) == 0
    classes = torch.stack([quality, quality.flip(0)], 1), torch.stack([true, true.flip(0)], 1)
    assert float(ranking_loss(*classes)) == pytest.approx(expected, rel=1e-5), "pairs are of one class"


def test_a_setting_of_the_loss_is_told_apart_from_none() -> None:
    ranking = SETTINGS.model_copy(update={"loss": "ranking"})
    assert "loss" not in SETTINGS.telling()
    assert ranking.telling()["loss"] == "ranking"
    image, label, mask = batch(ONE)
    judge = QualityPredictor(SETTINGS, "none").eval()
    pairs = QualityPredictor(ranking, "none").eval()
    pairs.load_state_dict(judge.state_dict())
    true = torch.tensor([0.1, 0.5, 0.9])
    difference = pairs.loss(image, mask, true, label) - judge.loss(image, mask, true, label)
    assert float(difference.detach()) == pytest.approx(float(ranking_loss(judge(image, mask), true).detach()), rel=1e-4)


@pytest.mark.parametrize(
    ("row", "mode", "score"),
    [
        ("fixmatch+qw-second", "qw", "second"),
        ("fixmatch+select", "select", "g"),
        ("fixmatch+select-pixel", "select", "pixel"),
        ("fixmatch+refine-pixel", "refine", "pixel"),
        ("fixmatch+qw-mean-unnormalised", "qw", "mean"),
    ],
)
def test_rows_of_suites(row: str, mode: str, score: str) -> None:
    name, fields = parse_row(row)
    arm = Arm(method=name, **fields)
    assert (arm.qg_mode, arm.qg_score, arm.needs_g) == (mode, score, True)
    assert str(arm.arm.typed) == row
