"""Training of g and of the weak models: continued after an interruption, bit for bit."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from qgbench.quality.fit import LabelledImages, PredictorFit, fit_predictor, remove_checkpoints
from qgbench.quality.weak import WeakModels
from qgbench.spec import QualitySettings, load_protocol
from qgbench.training.device import make_accelerator
from qgbench.training.stage import Resumable
from qgbench.training.state import random_states

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
    return WeakModels(LABELLED.image, LABELLED.mask, VAL.image, SETTINGS, 3, accelerator)


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
    errors = iter([0.1, 0.3, 0.2, 0.05])

    class Judged:
        def __init__(self, score: object, dice: object) -> None:
            self.mae = next(errors)

    monkeypatch.setattr("qgbench.quality.fit.agreement", Judged)
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
