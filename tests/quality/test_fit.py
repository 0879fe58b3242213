"""Training of g and of the weak models: continued after an interruption, bit for bit."""

import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from qgbench.base.errors import UserError
from qgbench.engine.device import make_accelerator
from qgbench.engine.stage import Resumable
from qgbench.engine.state import random_states
from qgbench.methods.normalisation import normalising_layers
from qgbench.quality import fit as fit_module
from qgbench.quality.audit import agreement
from qgbench.quality.fit import LabelledImages, PredictorFit, _judge, _synthetic, fit_predictor, remove_checkpoints
from qgbench.quality.weak import WeakModels, draw_folds
from qgbench.spec.protocol import QualitySettings, load_protocol

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
    return WeakModels(LABELLED.image, LABELLED.mask, [LABELLED.image, VAL.image], SETTINGS, 3, accelerator)


def predictor_fit(precision: str) -> Resumable:
    weak = torch.stack([LABELLED.mask > 0.5, LABELLED.mask.roll(5, 2) > 0.5])
    return PredictorFit(LABELLED, VAL, weak, SETTINGS, 3, make_accelerator("cpu", precision, 1))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("make", [weak_models, predictor_fit])
def test_a_stage_continued_from_its_state_ends_in_the_same_state(
    make: Callable[[str], Resumable], precision: str
) -> None:
    """Networks, optimiser, order, generators, kept masks, best state: everything that the state holds."""
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
    monkeypatch.setattr("qgbench.quality.fit.correlation", lambda quality, dice: next(found))
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


def test_fit_predictor_leaves_nothing_behind_and_repeats_itself(tmp_path: Path) -> None:
    def fit(folder: Path, settings: QualitySettings = SETTINGS) -> dict[str, Tensor]:
        accelerator = make_accelerator("cpu", "bf16", 1)
        found = fit_predictor(LABELLED, VAL, settings, 3, accelerator, folder, {})
        assert found.seconds > 0
        assert found.synthetic.masks == 20 * len(VAL.image)
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
    no_weak = torch.zeros(1, *labelled.mask.shape, dtype=torch.bool)
    fit = PredictorFit(labelled, smooth_shapes(4, 1), no_weak, settings, 3, accelerator)
    list(fit.run())
    g = fit.best()
    asked = _synthetic(labelled, 20, 9)
    stored = agreement(_judge(g, labelled, asked, accelerator), asked.dice)
    for layer in normalising_layers(g):
        layer.reset_running_stats()
        layer.momentum = None  # all batches count alike
        layer.train()
    of_statistics = _synthetic(labelled, 40, 11)
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
    """A stand-in answers with a mask that can be told from the image, so that a mask of another image shows."""
    asked_about: list[tuple[Tensor, Tensor, Sequence[Tensor]]] = []

    class Recorded(WeakModels):
        def __init__(self, image: Tensor, mask: Tensor, asked: Sequence[Tensor], *others: object) -> None:
            asked_about.append((image, mask, asked))
            super().__init__(image, mask, asked, *others)  # type: ignore[arg-type]

        def _predict(self, image: Tensor) -> Tensor:
            return image[:, :1] > 0.5

    monkeypatch.setattr(fit_module, "WeakModels", Recorded)
    accelerator = make_accelerator("cpu", "fp32", 1)
    weak, weak_val, _ = fit_module._weak_masks(LABELLED, VAL, in_folds(folds), 3, accelerator, tmp_path, {})
    assert torch.equal(weak, (LABELLED.image[:, :1] > 0.5).expand(2, -1, -1, -1, -1))
    assert torch.equal(weak_val, (VAL.image[:, :1] > 0.5).expand(2, -1, -1, -1, -1))
    places = {image.numpy().tobytes(): place for place, image in enumerate(LABELLED.image)}
    known = [
        ([places[each.numpy().tobytes()] for each in image], [places[each.numpy().tobytes()] for each in asked[0]])
        for image, _, asked in asked_about
    ]
    for (trained, asked), (_, mask, _) in zip(known, asked_about, strict=True):
        assert set(trained) & set(asked) == (set(range(6)) if folds == 1 else set())
        assert torch.equal(mask, LABELLED.mask[trained])
    assert sorted(place for _, asked in known for place in asked) == list(range(6))
    assert [len(asked) for _, _, asked in asked_about] == [2] + [1] * (folds - 1)


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

    def masks(folder: Path) -> tuple[Tensor, Tensor]:
        begun.clear()
        steps_done.clear()
        accelerator = make_accelerator("cpu", "bf16", 1)
        return fit_module._weak_masks(LABELLED, VAL, in_folds(3), 3, accelerator, folder, {})[:2]

    stop_now: tuple[int, int] | None = None
    whole = masks(tmp_path / "whole")
    assert len(steps_done) == 6
    stop_now = stop_at
    with pytest.raises(KeyboardInterrupt):
        masks(tmp_path / "stopped")
    stop_now = None
    again = masks(tmp_path / "stopped")
    assert len(steps_done) == 6 - (2 * stop_at[0] + stop_at[1])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(whole, again, strict=True))
