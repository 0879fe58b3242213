"""The alarm for a g that is being fooled, and the curves that a run leaves."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qgbench.engine.device import make_accelerator
from qgbench.methods import Batch, Method, Step
from qgbench.methods.losses import segmentation_loss
from qgbench.plugins.registry import load
from qgbench.quality.guide import Guide, QualityRegularisation, QualityWeighting
from qgbench.quality.scores import PredictedQuality, overlap
from qgbench.training.loop import Trainer
from qgbench.training.watch import optimism_has_grown
from qgbench.trust.toys import ToySegmenter, toy_data, toy_protocol


def test_a_steady_gap_is_no_alarm_however_large() -> None:
    rng = np.random.default_rng(0)
    first = 0.3 + 0.1 * rng.standard_normal(20)
    assert optimism_has_grown([first, first, first, first]) is None
    for seed in range(200):
        rng = np.random.default_rng(seed)
        gaps = [(first + 0.02 * rng.standard_normal(20)).tolist() for _ in range(6)]
        assert optimism_has_grown(gaps) is None


def test_a_rise_counts_when_two_validations_in_a_row_show_it() -> None:
    low, high = np.full(10, 0.1), np.full(10, 0.2)
    assert optimism_has_grown([low, high]) is None
    assert optimism_has_grown([low, low, high]) is None
    assert optimism_has_grown([low, high, low]) is None
    assert optimism_has_grown([low, low, high, high]) == pytest.approx(0.1)
    assert optimism_has_grown([high, low, low]) is None  # a fall is none


def test_a_rise_within_its_error_is_no_alarm() -> None:
    rng = np.random.default_rng(1)
    noisy = [rng.normal(0.0, 1.0, 5) for _ in range(2)]
    rise = [noise - noise.mean() + 0.2 for noise in noisy]  # mean 0.2, standard error about 0.4
    assert optimism_has_grown([np.zeros(5), *rise]) is None
    assert optimism_has_grown([np.zeros(5), *(np.full(5, 0.2) for _ in rise)]) == pytest.approx(0.2)


class LikesWhite(nn.Module):
    """A g that can be fooled: the more foreground, the better."""

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return mask.flatten(1).mean(1)


class Segmenter(Method):
    pseudo_labels = False

    def step(self, batch: Batch) -> Step:
        return Step(segmentation_loss(self.task, self.student(batch.x_l), batch.y_l))


def trained(method: type[Method], guide: Guide, predictor: nn.Module, steps: int) -> Trainer:
    protocol = toy_protocol(steps)
    train = protocol.train.model_copy(update={"validations": 10})
    protocol = protocol.model_copy(update={"train": train})
    torch.manual_seed(0)
    made = method(ToySegmenter, method.Settings())
    trainer = Trainer(made, guide, predictor, toy_data(), protocol, 0, make_accelerator("cpu", "fp32", 1))
    for _ in trainer.run():
        pass
    return trainer


@pytest.mark.parametrize(("strength", "warned"), [(20.0, True), (0.0, False)])
def test_qar_that_fools_g_is_warned_of(strength: float, warned: bool, caplog: pytest.LogCaptureFixture) -> None:
    g = LikesWhite()
    settings = QualityRegularisation.Settings(lambda_qar=strength, qar_warmup=0.4, qar_ramp=0.0)
    trainer = trained(Segmenter, Guide([QualityRegularisation(settings, predictor=g)]), g, 100)
    assert bool(trainer.history.warnings) == warned
    assert ("QAR seems to fool g" in caplog.text) == warned
    gaps = [entry["val_q_minus_dice"] for entry in trainer.history.log if "val_q_minus_dice" in entry]
    assert len(gaps) == 10
    assert all(gap is not None for gap in gaps)
    rise = gaps[-1] - gaps[3]  # type: ignore[operator]  # not None, see above
    assert (rise > 0.05) == warned
    weights = [entry["lambda_qar"] for entry in trainer.history.log if "lambda_qar" in entry]
    assert weights[0] == 0
    assert weights[-1] == strength


class Noisy(nn.Module):
    """A g that knows the truth of the toy images, bright where the object is, and is a little wrong."""

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        smooth = nn.functional.avg_pool2d(image.mean(1, keepdim=True), 3, stride=1, padding=1)
        return 0.9 * overlap(smooth > 0.5, mask > 0.5)


def test_curves_hold_the_agreement_of_q_with_the_true_dice_of_the_labels_in_use() -> None:
    settings = QualityWeighting.Settings(tau=0.0)
    guide = Guide([QualityWeighting(settings, PredictedQuality(Noisy()))])
    trainer = trained(load("method", "fixmatch"), guide, Noisy(), 30)
    entries = [entry for entry in trainer.history.log if "pseudo_dice" in entry]
    assert [entry["step"] for entry in entries] == [1, 11, 21, 30]
    for entry in entries:
        assert 0 <= entry["pseudo_dice"] <= 1  # type: ignore[operator]  # never None
        assert {"mean_q", "kept_share", "effective_sample_size", "lambda_u", "lr", "total"} <= set(entry)
    # A good judge is seen to be one, from the masks that training never sees.
    assert entries[-1]["pearson_q"] > 0.7  # type: ignore[operator]  # labels of 9 steps are not constant
    validations = [entry for entry in trainer.history.log if "val_dice" in entry]
    assert [entry["step"] for entry in validations] == list(range(3, 31, 3))
    last = validations[-1]
    assert last["val_q_minus_dice"] == pytest.approx(last["val_q"] - last["val_dice"])  # type: ignore[operator]
    assert {"val_pearson_q", "val_pearson_confidence"} <= set(last)


def test_images_without_a_known_mask_judge_nothing() -> None:
    """As with a pool: the curves of pseudo-labels are absent, those of the validation images are there."""
    import dataclasses

    data = toy_data()
    data.unlabelled.masked[:] = False
    settings = QualityWeighting.Settings(tau=0.0)
    method = load("method", "fixmatch")
    for known in (data, dataclasses.replace(toy_data(), unlabelled_are_labelled=True)):
        torch.manual_seed(0)
        guide = Guide([QualityWeighting(settings, PredictedQuality(Noisy()))])
        made = method(ToySegmenter, method.Settings())
        trainer = Trainer(made, guide, Noisy(), known, toy_protocol(3), 0, make_accelerator("cpu", "fp32", 1))
        list(trainer.run())
        assert not any("pseudo_dice" in entry for entry in trainer.history.log)
        assert any("val_q" in entry for entry in trainer.history.log)
