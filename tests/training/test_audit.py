"""The audit of pseudo-labels asks for those that training makes, and changes nothing."""

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from qgbench.engine.device import make_accelerator
from qgbench.methods import Batch, Step
from qgbench.plugins.registry import load
from qgbench.quality.guide import AddOn, Guide, QualityWeighting
from qgbench.quality.scores import Labelling, Score
from qgbench.training.loop import Trainer
from qgbench.trust.toys import ToySegmenter, toy_data, toy_protocol

STEPS = 4


class Brightness(Score):
    """A score of one's own, of another scale at each call."""

    calls = 0

    def __call__(self, labelling: Labelling) -> Tensor:
        self.calls += 1
        return labelling.image.mean((1, 2, 3)) / self.calls

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.calls = state["calls"]


class Capped(AddOn):
    needs_score = True

    def weigh(self, labelling: Labelling) -> Tensor:
        assert self.score is not None
        return self.score(labelling).clamp(max=0.2)


def trainer_of(name: str, modes: Sequence[AddOn] = (), **settings: Any) -> tuple[Trainer, list[tuple[Batch, Step]]]:
    """A trainer of a method that notes every batch it is asked about, and what it answers."""
    asked: list[tuple[Batch, Step]] = []
    kind = load("method", name)

    class Noting(kind):
        def step(self, batch: Batch) -> Step:
            asked.append((batch, super().step(batch)))
            return asked[-1][1]

    torch.manual_seed(0)
    method = Noting(ToySegmenter, kind.Settings(**settings))
    return Trainer(
        method, Guide(modes), None, toy_data(), toy_protocol(STEPS), 5, make_accelerator("cpu", "fp32", 1)
    ), asked


@pytest.mark.parametrize("name", ["fixmatch", "unimatch", "corrmatch", "mean_teacher", "cps"])
def test_audited_labels_are_those_of_whole_training_batches(name: str) -> None:
    trainer, asked = trainer_of(name)
    list(trainer.run())
    trained = [batch for batch, step in asked if step.supervised.requires_grad]
    audited = [(batch, step) for batch, step in asked if not step.supervised.requires_grad]
    assert len(trained) == STEPS
    assert (
        {(len(batch.x_l), len(batch.u_w)) for batch, _ in audited}
        == {(4, 6)}
        == {(len(batch.x_l), len(batch.u_w)) for batch in trained}
    )
    held_back = trainer._audit_set
    images = held_back.images(trainer._audit_index)
    masks = held_back.masks(trainer._audit_index)
    last = audited[-3:]  # 16 images in batches of 6
    assert torch.equal(torch.cat([batch.u_w for batch, _ in last])[:16], images)
    labels = torch.cat([step.terms[0].label.prob for _, step in last])[:16] > 0.5
    dice = [
        2 * (a & b).sum() / max(a.sum() + b.sum(), 1) for a, b in zip(labels.numpy(), masks.numpy() > 0.5, strict=True)
    ]
    table = trainer.audited_labels()
    np.testing.assert_allclose(table[table["progress"] == 1.0]["dice"], dice, atol=1e-6)
    assert sorted(table[table["progress"] == 1.0]["id"]) == sorted(held_back.ids)


@pytest.mark.parametrize("all_labelled", [False, True])
def test_audited_images_are_not_in_the_order_of_their_names(
    all_labelled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames of one video would share a batch: also among validation images, where no mask is held back."""
    data = dataclasses.replace(toy_data(), val=toy_data().unlabelled, unlabelled_are_labelled=all_labelled)
    monkeypatch.setattr(f"{__name__}.toy_data", lambda: data)
    trainer, _ = trainer_of("fixmatch")
    audited = trainer._audit_index.tolist()
    assert trainer.audited_on == ("validation images" if all_labelled else "unlabelled training images")
    assert sorted(audited) == list(range(16)) != audited


@pytest.mark.parametrize("kind", [Capped, QualityWeighting])
def test_a_score_of_ones_own_is_audited_and_its_add_on_told_of(kind: type[AddOn]) -> None:
    trainer, asked = trainer_of("fixmatch", [kind(score=Brightness())])
    list(trainer.run())
    table = trainer.audited_labels()
    assert list(table) == ["progress", "id", "class", "dice", "confidence", "agreement", "Brightness"]
    first = next(step.terms[0].label.image for _, step in asked if not step.supervised.requires_grad)
    np.testing.assert_allclose(table["Brightness"][: len(first)], first.mean((1, 2, 3)) / 2, rtol=1e-6)
    for noted in trainer.history.guidance:
        assert 0 < noted["mean_q"] < 1
        assert noted["kept_share"] == (1 if kind is Capped else 0)


@pytest.mark.parametrize("modes", [(), (Capped(score=Brightness()),)])
@pytest.mark.parametrize("name", ["fixmatch", "corrmatch", "bcp", "ua_mt"])
def test_training_does_not_notice_the_audit(name: str, modes: Sequence[AddOn], monkeypatch: pytest.MonkeyPatch) -> None:
    with_audit, _ = trainer_of(name, copy.deepcopy(modes))
    list(with_audit.run())
    without, _ = trainer_of(name, copy.deepcopy(modes))
    monkeypatch.setattr(Trainer, "_audit_pseudo_labels", lambda self: None)
    list(without.run())
    ours, theirs = with_audit.method.state_dict(), without.method.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_a_method_that_does_not_label_yet_is_asked_through_its_network() -> None:
    trainer, _ = trainer_of("bcp", warmup=1.0)
    list(trainer.run())
    assert len(trainer.audited_labels()) == 4 * 16


def test_a_method_that_makes_no_labels_is_audited_once_at_its_end() -> None:
    trainer, _ = trainer_of("supervised")
    list(trainer.run())
    table = trainer.audited_labels()
    assert table["progress"].tolist() == [1.0] * 16
    assert sorted(table["id"]) == sorted(trainer._audit_set.ids)
