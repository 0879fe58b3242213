"""Training of g and of the weak models: continued after an interruption, bit for bit."""

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from qgbench.base.errors import UserError
from qgbench.engine.device import make_accelerator
from qgbench.engine.stage import Resumable
from qgbench.engine.state import random_states
from qgbench.methods import Network
from qgbench.methods.normalisation import normalising_layers
from qgbench.quality import fit as fit_module
from qgbench.quality.audit import agreement
from qgbench.quality.fit import (
    LabelledImages,
    PredictorFit,
    _judge,
    _synthetic,
    _TrainingMasks,
    fit_predictor,
    learning_rate,
    remove_checkpoints,
)
from qgbench.quality.release import ReleaseMixture
from qgbench.quality.views import colour_view, geometric_view
from qgbench.quality.weak import WeakMasks, WeakModels, draw_folds, epoch_batches, smp_dice_loss, weak_network
from qgbench.spec.protocol import QualitySettings, load_protocol
from qgbench.spec.task import Task

pytestmark = pytest.mark.slow

SETTINGS = load_protocol("smoke").quality.model_copy(
    update={"steps": 6, "batch": 4, "validations": 3, "val_masks": 2, "weak_epochs": (1, 3), "weak_batch": 4}
)


def shapes(count: int, seed: int) -> LabelledImages:
    """Bright ellipses on noise, 64 pixels."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    centre = 20 + 24 * torch.rand(count, 2, 1, 1, generator=generator)
    radius = 8 + 10 * torch.rand(count, 2, 1, 1, generator=generator)
    inside = ((rows - centre[:, 0]) / radius[:, 0]) ** 2 + ((columns - centre[:, 1]) / radius[:, 1]) ** 2 < 1
    mask = inside.float().unsqueeze(1)
    image = (0.3 + 0.4 * mask + 0.1 * torch.randn(count, 3, 64, 64, generator=generator)).clamp(0, 1)
    return LabelledImages(image, mask)


def smooth_shapes(count: int, seed: int) -> LabelledImages:
    """Ellipses with soft borders on even backgrounds, 64 pixels, without noise: the least noise in training shows."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    centre = 20 + 24 * torch.rand(count, 2, 1, 1, generator=generator)
    radius = 8 + 10 * torch.rand(count, 2, 1, 1, generator=generator)
    distance = ((rows - centre[:, 0]) / radius[:, 0]) ** 2 + ((columns - centre[:, 1]) / radius[:, 1]) ** 2
    tone = 0.3 + 0.3 * torch.rand(count, 3, 1, 1, generator=generator)
    slope = 0.2 * torch.rand(count, 1, 1, 1, generator=generator)
    image = tone + slope * rows / 64 + 0.15 * torch.sigmoid(4 * (1 - distance)).unsqueeze(1)
    return LabelledImages(image.clamp(0, 1), (distance < 1).float().unsqueeze(1))


LABELLED, VAL = shapes(6, 0), shapes(4, 1)


def flat(state: object, name: str = "") -> dict[str, object]:
    """Leaves of a nested state, by path."""
    if isinstance(state, dict):
        return {k: v for key, value in state.items() for k, v in flat(value, f"{name}/{key}").items()}
    if isinstance(state, list | tuple):
        return {k: v for i, value in enumerate(state) for k, v in flat(value, f"{name}/{i}").items()}
    return {name: state}


def differing(first: object, second: object) -> list[str]:
    ours, theirs = flat(first), flat(second)
    assert ours.keys() == theirs.keys()
    return [
        name
        for name, value in ours.items()
        # The two states have the same keys, hence leaves of the same kind, which the checker cannot know.
        if not (torch.equal(value, theirs[name]) if isinstance(value, Tensor) else value == theirs[name])  # type: ignore[arg-type]
    ]


def weak_models(precision: str) -> Resumable:
    accelerator = make_accelerator("cpu", precision, 1)
    return WeakModels(LABELLED.image, LABELLED.mask, SETTINGS, 3, accelerator)


def untrained(count: int) -> list[Network]:
    """Weak networks that have learnt nothing."""
    torch.manual_seed(5)
    return [weak_network("mobilenet_v2", 64).eval() for _ in range(count)]


def predictor_fit(precision: str) -> Resumable:
    weak = WeakMasks([untrained(2)], torch.zeros(6, dtype=torch.long))
    settings = SETTINGS.model_copy(update={"weak_share": 0.5})
    return PredictorFit(LABELLED, VAL, weak, settings, 3, make_accelerator("cpu", precision, 1))


def fit_of(form: str, precision: str) -> Resumable:
    weak = WeakMasks([untrained(2)], torch.zeros(6, dtype=torch.long))
    settings = SETTINGS.model_copy(update={"weak_share": 0.5})
    return PredictorFit(LABELLED, VAL, weak, settings, 3, make_accelerator("cpu", precision, 1), form)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("make", [weak_models, predictor_fit, partial(fit_of, "both"), partial(fit_of, "ensemble")])
def test_a_stage_continued_from_its_state_ends_in_the_same_state(
    make: Callable[[str], Resumable], precision: str
) -> None:
    """Networks, optimiser, order, generators, kept networks, best state: everything that the state holds."""
    whole = make(precision)
    list(whole.run())
    expected = copy.deepcopy(whole.state_dict())
    assert whole.step == whole.steps
    first = make(precision)
    for done in first.run():
        if done == 2:
            break
    state = copy.deepcopy(first.state_dict())
    second = make(precision)
    torch.rand(7)  # whatever the new process did with torch's generator
    second.load_state_dict(state)
    assert second.step == 2
    list(second.run())
    assert differing(expected, second.state_dict()) == []
    assert "/random/cpu" in flat(expected)
    assert torch.equal(random_states()["cpu"], expected["random"]["cpu"])


def test_patience_ends_the_training_and_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter([0.5, 0.3, 0.4, 0.9])
    monkeypatch.setattr(PredictorFit, "_score", lambda fit: next(found))
    fit = predictor_fit("fp32")
    assert isinstance(fit, PredictorFit)
    fit._settings = SETTINGS.model_copy(update={"patience": 2, "steps": 8, "validations": 4})
    assert list(fit.run())[-1] == 6  # validations after 2, 4 and 6 steps; the last two were no better
    assert fit.best_step == 2
    again = predictor_fit("fp32")
    assert isinstance(again, PredictorFit)
    again._settings = fit._settings
    again.load_state_dict(fit.state_dict())
    assert list(again.run()) == []


def test_a_fit_that_ends_early_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(PredictorFit, "_score", lambda fit: -fit.step)
    settings = SETTINGS.model_copy(update={"patience": 1, "steps": 4, "validations": 4})
    with caplog.at_level("INFO", logger="qgbench"):
        fit_predictor(LABELLED, VAL, settings, 3, make_accelerator("cpu", "bf16", 1), tmp_path, {})
    assert "quality predictor g: no better since step 1, so it ends at step 2 of 4." in caplog.text


def test_fit_predictor_leaves_nothing_behind_and_repeats_itself(tmp_path: Path) -> None:
    def fit(folder: Path, settings: QualitySettings = SETTINGS) -> dict[str, Tensor]:
        accelerator = make_accelerator("cpu", "bf16", 1)
        found = fit_predictor(LABELLED, VAL, settings, 3, accelerator, folder, {})
        assert found.seconds > 0
        assert found.synthetic.masks == found.synthetic_test.masks == 20 * len(VAL.image)
        assert found.synthetic != found.synthetic_test
        assert found.weak_models.masks == 2 * len(VAL.image)
        assert not found.predictor.training
        return found.predictor.state_dict()

    first = fit(tmp_path / "a")
    assert differing(first, fit(tmp_path / "b")) == []
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"weak", "g"}
    assert differing(first, fit(tmp_path / "a")) == []  # from the checkpoints, without training
    remove_checkpoints(tmp_path / "a")
    assert list((tmp_path / "a").iterdir()) == []


def test_g_in_evaluation_mode_judges_images_as_well_as_by_their_own_statistics() -> None:
    """What its running statistics are of must be like what it is asked about: a defect that a former g had."""
    labelled = smooth_shapes(6, 0)
    settings = load_protocol("small").quality.model_copy(
        update={"steps": 80, "batch": 16, "validations": 1, "val_masks": 1, "weak_share": 0.0}
    )
    accelerator = make_accelerator("cpu", "bf16", 1)
    no_weak = WeakMasks([[_Answers(0)]], torch.zeros(6, dtype=torch.long))
    fit = PredictorFit(labelled, smooth_shapes(4, 1), no_weak, settings, 3, accelerator)
    list(fit.run())
    g = fit.best()
    asked = _synthetic(labelled, 20, ReleaseMixture().degrade, 9)
    stored = agreement(_judge(g, labelled, asked, accelerator), asked.dice)
    for layer in normalising_layers(g):
        layer.reset_running_stats()
        layer.momentum = None  # all batches count alike
        layer.train()
    of_statistics = _synthetic(labelled, 40, ReleaseMixture().degrade, 11)
    with torch.no_grad(), accelerator.autocast():
        for chosen in torch.randperm(240, generator=torch.Generator().manual_seed(0)).split(16):
            g(labelled.image[of_statistics.image[chosen]], of_statistics.mask[chosen])
    own = agreement(_judge(g.eval(), labelled, asked, accelerator), asked.dice)
    assert stored.pearson is not None
    assert own.pearson is not None
    assert stored.pearson > own.pearson - 0.1
    assert stored.mae < own.mae + 0.03
    assert stored.pearson > 0.8, "it has learnt something"


def in_folds(folds: int) -> QualitySettings:
    return SETTINGS.model_copy(
        update={"weak_folds": folds, "weak_epochs": (1, 2), "weak_epoch_min_steps": 1, "weak_encoder": "mobilenet_v2"}
    )


@pytest.mark.parametrize("folds", [1, 4])
def test_weak_models_are_asked_about_the_images_outside_their_training_set(
    folds: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trained_on: list[tuple[Tensor, Tensor]] = []

    class Recorded(WeakModels):
        def __init__(self, image: Tensor, mask: Tensor, *others: object) -> None:
            trained_on.append((image, mask))
            super().__init__(image, mask, *others)  # type: ignore[arg-type]

        def networks(self) -> list[Network]:
            return [_Answers(10 * (len(trained_on) - 1) + stage) for stage in range(2)]

    monkeypatch.setattr(fit_module, "WeakModels", Recorded)
    accelerator = make_accelerator("cpu", "fp32", 1)
    weak, _ = fit_module._train_weak_models(LABELLED, in_folds(folds), 3, accelerator, tmp_path, {})
    places = {image.numpy().tobytes(): place for place, image in enumerate(LABELLED.image)}
    known = [[places[each.numpy().tobytes()] for each in image] for image, _ in trained_on]
    assert len(known) == folds
    for trained, (_, mask) in zip(known, trained_on, strict=True):
        assert torch.equal(mask, LABELLED.mask[trained])
    for place in range(6):
        asked = {
            int(weak.of_labelled(LABELLED.image[[place]], torch.tensor([place]), torch.tensor([stage])).sum())
            for stage in range(2)
        }
        (fold,) = {count // 10 for count in asked}
        assert asked == {10 * fold, 10 * fold + 1}, "both stages of one fold"
        assert (place in known[fold]) == (folds == 1)


class _Answers(nn.Module):
    """A network that predicts its own number of pixels, and keeps what it is asked about."""

    task = Task()

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.pixels = pixels
        self.asked: list[Tensor] = []

    def forward(self, image: Tensor) -> Tensor:
        self.asked.append(image.clone())
        logits = torch.full_like(image[:, :1], -1.0)
        logits.flatten(1)[:, : self.pixels] = 1.0
        return logits


def test_images_that_are_asked_of_one_network_are_asked_in_one_batch() -> None:
    networks = [[_Answers(10 * fold + stage) for stage in range(3)] for fold in range(2)]
    weak = WeakMasks(networks, torch.tensor([0, 1, 1, 0]))
    image = torch.rand(5, 3, 64, 64)
    found = weak.of_labelled(image, torch.tensor([0, 1, 2, 3, 0]), torch.tensor([2, 0, 0, 1, 2]))
    assert found.flatten(1).sum(1).tolist() == [2, 10, 10, 1, 2]
    asked = [network.asked for fold in networks for network in fold]
    assert [len(calls) for calls in asked] == [0, 1, 1, 1, 0, 0]
    assert torch.equal(asked[2][0], image[[0, 4]])
    assert weak.of_others(image, torch.device("cpu")).sum((2, 3, 4)).tolist() == [[0] * 5, [1] * 5, [2] * 5]


def training_masks(weak: WeakMasks, **changes: object) -> _TrainingMasks:
    settings = SETTINGS.model_copy(update={"batch": 12, **changes})
    return _TrainingMasks(LABELLED, weak, settings, 3, torch.device("cpu"))


def test_weak_models_see_the_image_as_it_is_turned_and_before_its_colours_change() -> None:
    network = _Answers(200)
    masks = training_masks(WeakMasks([[network]], torch.zeros(6, dtype=torch.long)), weak_share=1.0)
    views = torch.Generator()
    views.set_state(masks._views.get_state())
    order = np.random.default_rng()
    order.bit_generator.state = masks._order.bit_generator.state
    chosen = np.concatenate([order.permutation(6), order.permutation(6)])
    turned, truth = geometric_view(LABELLED.image[chosen], LABELLED.mask[chosen], views)
    image, mask, dice, _ = masks.next()
    assert torch.equal(network.asked[0], turned)
    assert torch.equal(image, colour_view(turned, "written", views))
    assert not torch.equal(image, turned)
    assert (mask.flatten(1).sum(1) == 200).all()
    both, total = (mask * truth).sum((1, 2, 3)), (mask + truth).sum((1, 2, 3))
    torch.testing.assert_close(dice, 2 * both / total)


def test_masks_are_degraded_as_they_are_turned_and_donors_are_the_other_images_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[np.ndarray, Sequence[np.ndarray]]] = []

    def kept(mask: np.ndarray, rng: np.random.Generator, donors: Sequence[np.ndarray]) -> tuple[np.ndarray, str]:
        asked.append((mask, donors))
        return mask.copy(), "unchanged"

    monkeypatch.setattr(fit_module, "_mixture", lambda settings, task: kept)
    masks = training_masks(WeakMasks([[_Answers(0)]], torch.zeros(6, dtype=torch.long)), weak_share=0.0)
    _, mask, dice, _ = masks.next()
    assert dice.tolist() == [1.0] * 12
    own = LABELLED.mask.squeeze(1).numpy() > 0.5
    moved = 0
    for found, (truth, donors) in zip(mask.squeeze(1).numpy() > 0.5, asked, strict=True):
        assert np.array_equal(found, truth)
        missing = [k for k in range(6) if not any(np.array_equal(own[k], donor) for donor in donors)]
        assert len(donors) == 5
        assert len(missing) == 1
        moved += not np.array_equal(truth, own[missing[0]])
        assert truth.sum() == pytest.approx(own[missing[0]].sum(), rel=0.1), "of the image that is no donor"
    assert moved > 6


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_the_share_of_weak_models_is_drawn_before_the_families(share: float) -> None:
    network = _Answers(0)
    masks = training_masks(WeakMasks([[network]], torch.zeros(6, dtype=torch.long)), weak_share=share, batch=1500)
    masks.next()
    (asked,) = network.asked
    assert len(asked) / 1500 == pytest.approx(share, abs=4 * (share * (1 - share) / 1500) ** 0.5)


@pytest.mark.parametrize("steps", [15, 600, 33000])
def test_the_learning_rate_is_that_of_cosine_annealing_with_warm_restarts(steps: int) -> None:
    settings = load_protocol("paper").quality.model_copy(update={"steps": steps})
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=settings.lr)
    judge = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimiser, steps // 15, T_mult=2, eta_min=1e-6)
    for done in range(steps):
        assert learning_rate(settings, done) == pytest.approx(judge.get_last_lr()[0], rel=1e-6)
        optimiser.step()
        judge.step()


def test_one_cycle_is_a_single_cosine() -> None:
    settings = SETTINGS.model_copy(update={"steps": 100, "cycles": 1, "lr": 2.0, "lr_end": 1.0})
    found = [learning_rate(settings, done) for done in (0, 25, 50, 99)]
    assert found == pytest.approx([2, 1.5 + 0.5**1.5, 1.5, 1.000247], abs=1e-5)


@pytest.mark.parametrize(("clip", "clipped"), [(1e-3, True), (0.0, False)])
def test_the_gradient_is_clipped_to_its_largest_norm(clip: float, clipped: bool) -> None:
    fit = predictor_fit("fp32")
    assert isinstance(fit, PredictorFit)
    fit._settings = SETTINGS.model_copy(update={"grad_clip": clip})
    next(fit.run())
    norm = torch.stack([p.grad.norm() for p in fit._predictor.parameters() if p.grad is not None]).norm()
    assert float(norm) == pytest.approx(clip, rel=1e-2) if clipped else float(norm) > 1e-2


def test_the_best_validation_is_that_of_least_loss_or_of_highest_correlation(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = predictor_fit("fp32")
    assert isinstance(fit, PredictorFit)
    dice = fit._select.dice
    near, ranked = (0.5 + 0 * dice).astype(np.float32), (0.1 * dice).astype(np.float32)
    near[0] += 0.01
    scores = {}
    for rule in ("loss", "correlation"):
        fit._settings = SETTINGS.model_copy(update={"select": rule})
        for name, quality in (("near", near), ("ranked", ranked)):
            monkeypatch.setattr(fit_module, "_judge", lambda *_, quality=quality: quality)
            scores[rule, name] = fit._score()
    assert scores["loss", "near"] == pytest.approx(-0.5 * np.mean((near - dice) ** 2), rel=1e-5)
    assert scores["loss", "near"] > scores["loss", "ranked"]
    assert scores["correlation", "near"] < scores["correlation", "ranked"] == pytest.approx(1)


@pytest.mark.parametrize("lesion", [True, False])
def test_the_loss_of_weak_models_is_the_dice_loss_of_segmentation_models_pytorch(lesion: bool) -> None:
    logits = torch.randn(5, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    target = (logits.roll(3, 2) > 0.3).float() * lesion
    judge = smp.losses.DiceLoss("binary", smooth=0.0, eps=1e-7)
    torch.testing.assert_close(smp_dice_loss(logits.sigmoid(), target), judge(logits, target))


@pytest.mark.parametrize(
    ("images", "sizes"), [(140, [16] * 8 + [12]), (16, [16]), (17, [17]), (33, [16, 17]), (1, [2])]
)
def test_an_epoch_of_weak_models_takes_every_image_once(images: int, sizes: list[int]) -> None:
    batches = epoch_batches(images, 16, torch.Generator().manual_seed(0))
    assert [len(batch) for batch in batches] == sizes
    assert sorted({place for batch in batches for place in batch}) == list(range(images))
    settings = SETTINGS.model_copy(update={"weak_batch": 16, "weak_epoch_min_steps": 1})
    assert settings.weak_epoch_steps(images) == len(sizes)
    assert batches != epoch_batches(images, 16, torch.Generator().manual_seed(1)) or images < 3


def test_of_many_images_some_are_taken_from_all_parts() -> None:
    images = LabelledImages(
        torch.arange(35.0).view(35, 1, 1, 1),
        -torch.arange(35.0).view(35, 1, 1, 1),
        groups=[str(n // 7) for n in range(35)],
    )
    assert images.at_most(35) is images
    kept = images.at_most(10)
    places = kept.image.flatten().int().tolist()
    assert len(set(places)) == 10
    assert kept.mask.flatten().tolist() == [-place for place in places]
    assert list(kept.groups or ()) == [str(place // 7) for place in places]
    assert Counter(kept.groups or ()) == dict.fromkeys("01234", 2)


def test_folds_are_even_and_follow_from_the_seed() -> None:
    folds = draw_folds(14, 4, 3)
    assert sorted(torch.bincount(folds).tolist()) == [3, 3, 4, 4]
    assert torch.equal(folds, draw_folds(14, 4, 3))
    assert not torch.equal(folds, draw_folds(14, 4, 4))
    assert draw_folds(5, 1, 0).tolist() == [0] * 5


def test_more_folds_than_labelled_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"weak_folds = 7, but there are 6 labelled images.*weak_folds=6"):
        fit_predictor(LABELLED, VAL, in_folds(7), 3, make_accelerator("cpu", "fp32", 1), tmp_path, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stop_at", [(0, 1), (1, 2)])
def test_weak_models_in_folds_are_continued_bit_for_bit(
    stop_at: tuple[int, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Stopped in fold i after step j, with a checkpoint after every step; what is done is not done again."""
    monkeypatch.setattr("qgbench.engine.stage.SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    steps_done: list[int] = []
    begun: list[int] = []

    class Counted(WeakModels):
        def __init__(self, *arguments: object) -> None:
            begun.append(len(begun))
            super().__init__(*arguments)  # type: ignore[arg-type]

        def run(self) -> Iterator[int]:
            for done in super().run():
                yield done
                steps_done.append(done)  # after its checkpoint
                if (begun[-1], done) == stop_now:
                    raise KeyboardInterrupt

    monkeypatch.setattr(fit_module, "WeakModels", Counted)

    def weights(folder: Path) -> list[dict[str, Tensor]]:
        begun.clear()
        steps_done.clear()
        accelerator = make_accelerator("cpu", "bf16", 1)
        weak, _ = fit_module._train_weak_models(LABELLED, in_folds(3), 3, accelerator, folder, {})
        return [network.state_dict() for fold in weak.networks for network in fold]

    stop_now: tuple[int, int] | None = None
    whole = weights(tmp_path / "whole")
    assert len(steps_done) == 6
    stop_now = stop_at
    with pytest.raises(KeyboardInterrupt):
        weights(tmp_path / "stopped")
    stop_now = None
    again = weights(tmp_path / "stopped")
    assert len(steps_done) == 6 - (2 * stop_at[0] + stop_at[1])
    assert len(whole) == 6
    assert differing(whole, again) == []
    assert differing(whole[0], whole[1]) != []
