"""`qgbench check`: every method that ships passes, and each planted defect is found by the rule that names it."""

import copy
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qgbench.base.errors import UserError
from qgbench.baselines.contrastive import Contrastive
from qgbench.engine.device import make_accelerator
from qgbench.methods import (
    Batch,
    Build,
    Method,
    MethodSettings,
    Step,
    Term,
    feature_shapes,
    label_probabilities,
    probabilities,
)
from qgbench.methods.losses import pixel_cross_entropy, segmentation_loss
from qgbench.plugins.registry import load, method_names
from qgbench.trust.conformance import Bench, Finding, check_method
from tests.baselines.test_unimatch import WithoutCleanWeak


def broken_rules(method: type[Method]) -> list[str]:
    return [finding.rule for finding in check_method(method) if not finding.passed]


class _FewNegatives(Contrastive):
    """Contrastive learning whose loss takes a tenth of the time: the toy networks' features have 1,024 pixels each."""

    class Settings(Contrastive.Settings):
        """Those of the method, but for the number of pixels."""

        negatives: int = 32


@pytest.mark.parametrize("name", method_names())
def test_every_registered_method_keeps_the_contract(name: str) -> None:
    findings = list(check_method(_FewNegatives if name == "contrastive" else load("method", name)))
    assert [finding for finding in findings if not finding.passed] == []
    assert Finding("QAR with lambda 0 is bit-identical to no add-on", True, " differs") in findings
    if load("method", name).pseudo_labels:
        assert Finding("QW with g = 1 is bit-identical to no add-on", True, " differs") in findings


class _Consistency(Method):
    """A correct method to plant defects in: the student is trained towards a label of the weak view."""

    def step(self, batch: Batch) -> Step:
        label = self.label(self.student, batch.u_w)
        loss = pixel_cross_entropy(self.task, self.student(batch.u_s1), label.prob).mean((1, 2, 3))
        return Step(segmentation_loss(self.task, self.student(batch.x_l), batch.y_l), [Term(loss, label)])


def test_the_method_that_defects_are_planted_in_is_correct() -> None:
    assert broken_rules(_Consistency) == []


class _AttachedLabel(_Consistency):
    def step(self, batch: Batch) -> Step:
        step = super().step(batch)
        prob = self.task.probabilities(self.student(batch.u_w))
        return Step(step.supervised, [Term(step.terms[0].loss, replace(step.terms[0].label, prob=prob))])


class _ReducedLoss(_Consistency):
    def step(self, batch: Batch) -> Step:
        step = super().step(batch)
        return Step(step.supervised, [Term(step.terms[0].loss.mean(), step.terms[0].label)])


class _LabelBehindTheHarness(_Consistency):
    def step(self, batch: Batch) -> Step:
        step = super().step(batch)
        label = probabilities(self.student, batch.u_w)
        return Step(step.supervised, [Term(step.terms[0].loss, label)])


class _UnstatedFeatures(_Consistency):
    """It would fail late, on an architecture that has no features."""

    def step(self, batch: Batch) -> Step:
        feature_shapes(self.student)
        return super().step(batch)


class _LateReducedLoss(_Consistency):
    """Its labels begin after a warm-up, and only then is its loss an average that nothing can weigh."""

    def step(self, batch: Batch) -> Step:
        step = super().step(batch)
        if batch.progress < 0.5:
            return Step(step.supervised)
        return Step(step.supervised, [Term(step.terms[0].loss.mean(), step.terms[0].label)])


class _LateSecondTerm(_Consistency):
    """Its first term is right from the first step; the second begins later and is not."""

    def step(self, batch: Batch) -> Step:
        step = super().step(batch)
        late = [Term(step.terms[0].loss.mean(), step.terms[0].label)] if batch.progress >= 0.5 else []
        return Step(step.supervised, [*step.terms, *late])


class _LateAverage(_Consistency):
    """Its one term is right at first, and an average later."""

    def step(self, batch: Batch) -> Step:
        step = super().step(batch)
        (term,) = step.terms
        loss = term.loss if batch.progress < 0.5 else term.loss.mean()
        return Step(step.supervised, [Term(loss, term.label)])


@pytest.mark.parametrize("method", [_LateReducedLoss, _LateSecondTerm, _LateAverage])
def test_a_run_ends_at_the_first_step_whose_terms_break_the_contract(method: type[Method]) -> None:
    bench = Bench(method, make_accelerator("cpu", "fp32", 1))
    trainer, _ = bench.trainer(lambda g: [], 8)
    with pytest.raises(UserError, match="one value per row"):
        list(trainer.run())
    assert trainer.step == 4
    resumed, _ = bench.trainer(lambda g: [], 8)
    resumed.load_state_dict(trainer.state_dict())
    with pytest.raises(UserError, match="one value per row"):
        next(resumed.run())


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (_AttachedLabel, "carries a gradient"),
        (_ReducedLoss, "one value per row"),
        (_LateReducedLoss, "one value per row"),
        (_LateSecondTerm, r"terms[1].loss must hold one value per row"),
        (_LabelBehindTheHarness, "pseudo_label"),
        (_UnstatedFeatures, "state needs_features = True"),
    ],
)
def test_a_step_that_breaks_the_contract_is_refused_by_name(method: type[Method], message: str) -> None:
    (finding,) = check_method(method)
    assert not finding.passed
    assert message in finding.detail


class _OtherNetwork(_Consistency):
    """It takes its networks to be those of smp."""

    def step(self, batch: Batch) -> Step:
        return Step(segmentation_loss(self.task, self.student.body(batch.x_l), batch.y_l), [])


class _OtherChannels(_Consistency):
    """Its head fits no features but those of one encoder."""

    needs_features = True

    def step(self, batch: Batch) -> Step:
        torch.conv2d(self.student.encode(batch.x_l)[-1], torch.zeros(1, 320, 1, 1))
        return super().step(batch)


class _OtherBatch(_Consistency):
    """It fails with the batch that one of the later rules makes."""

    def step(self, batch: Batch) -> Step:
        if batch.progress == 1.0:
            raise ValueError("progress is\nbelow 1")
        return super().step(batch)


@pytest.mark.parametrize(
    ("method", "rule", "message"),
    [
        (
            _OtherNetwork,
            "the step keeps the contract",
            "AttributeError: 'FeaturelessSegmenter' object has no attribute",
        ),
        (_OtherChannels, "the step keeps the contract", "RuntimeError: .*320.*features of 8 channels"),
        (_OtherBatch, "the method runs to the end", r"ValueError: progress is \(test_conformance\.py, line \d+\)"),
    ],
)
def test_whatever_the_code_of_a_method_raises_is_a_finding(method: type[Method], rule: str, message: str) -> None:
    *_, last = check_method(method)
    assert not last.passed
    assert last.rule.startswith(rule)
    assert re.match(message, last.detail)


class _WrongOwner(_Consistency):
    def step(self, batch: Batch) -> Step:
        step = super().step(batch)
        owner = torch.arange(len(batch.u_w)).roll(1)
        return Step(step.supervised, [Term(step.terms[0].loss, step.terms[0].label, owner=owner)])


class _LossAgainstItself(_Consistency):
    """The teacher is compared with itself: zero for ever."""

    def uses_teacher(self) -> bool:
        return True

    def step(self, batch: Batch) -> Step:
        assert self.teacher is not None
        label = self.label(self.teacher, batch.u_w)
        loss = (probabilities(self.teacher, batch.u_w) - label.prob).square().mean((1, 2, 3))
        return Step(segmentation_loss(self.task, self.student(batch.x_l), batch.y_l), [Term(loss, label)])


class _FrozenTeacher(_LossAgainstItself):
    """The average is not written in place: the teacher never moves."""

    def step(self, batch: Batch) -> Step:
        assert self.teacher is not None
        label = self.label(self.teacher, batch.u_w)
        loss = (self.task.probabilities(self.student(batch.u_s1)) - label.prob).square().mean((1, 2, 3))
        return Step(segmentation_loss(self.task, self.student(batch.x_l), batch.y_l), [Term(loss, label)])

    def update_teacher(self, decay: float) -> None:
        assert self.teacher is not None
        for ours, theirs in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            ours = decay * ours + (1 - decay) * theirs


class _ForgottenBuffers(_FrozenTeacher):
    """Weights are averaged, BatchNorm's running statistics are not."""

    def update_teacher(self, decay: float) -> None:
        assert self.teacher is not None
        with torch.no_grad():
            for ours, theirs in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                ours.lerp_(theirs, 1 - decay)


class _HiddenState(_Consistency):
    """A running threshold that is no registered buffer is lost when a run resumes."""

    def step(self, batch: Batch) -> Step:
        step = super().step(batch)
        self.level: Tensor | float = 0.9 * getattr(self, "level", 0.0) + 0.1 * float(step.terms[0].label.prob.mean())
        term = copy.copy(step.terms[0])
        term.loss = term.loss * self.level
        return Step(step.supervised, [term])


class _StaleStatistics(_Consistency):
    """The student labels in evaluation mode: with running statistics, which lag behind."""

    def step(self, batch: Batch) -> Step:
        label = self.pseudo_label(batch.u_w, probabilities(self.student, batch.u_w))
        loss = pixel_cross_entropy(self.task, self.student(batch.u_s1), label.prob).mean((1, 2, 3))
        return Step(segmentation_loss(self.task, self.student(batch.x_l), batch.y_l), [Term(loss, label)])


class _StaleDecoder(_StaleStatistics):
    """A second decoder labels with its running statistics."""

    needs_features = True

    def __init__(self, build: Build, settings: MethodSettings) -> None:
        super().__init__(build, settings)
        self.second = self.student.new_decoder()

    def step(self, batch: Batch) -> Step:
        step = super().step(batch)
        label = self.pseudo_label(batch.u_w, probabilities(self.second, batch.u_w), self.second)
        loss = pixel_cross_entropy(self.task, self.second(batch.u_s1), label.prob).mean((1, 2, 3))
        return Step(step.supervised, [Term(loss, label)])


class _StaleTarget(_Consistency):
    """The label is right; the hard mask that the loss takes is one of running statistics."""

    def step(self, batch: Batch) -> Step:
        label = self.label(self.student, batch.u_w)
        target = self.task.hard(probabilities(self.student, batch.u_w))
        loss = pixel_cross_entropy(self.task, self.student(batch.u_s1), target).mean((1, 2, 3))
        return Step(segmentation_loss(self.task, self.student(batch.x_l), batch.y_l), [Term(loss, label)])


class _DroppedBesideLabelled(Method):
    """Labelled images are decoded in one batch with dropped features of weak views, and these do not come clean."""

    needs_features = True

    def decoded(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.in_one_batch([*self.student.encode(batch.x_l), self.dropped(batch.u_w)])

    def dropped(self, images: Tensor) -> Tensor:
        return F.dropout(self.student.encode(images)[0], 0.1)

    def in_one_batch(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return logits of the first features and of the last."""
        logits = self.student.head(self.student.decode([torch.cat(features)]))
        return logits[: len(features[0])], logits[-len(features[-1]) :]

    def step(self, batch: Batch) -> Step:
        label = self.label(self.student, batch.u_w)
        pred_l, pred_u = self.decoded(batch)
        loss = pixel_cross_entropy(self.task, pred_u, label.prob).mean((1, 2, 3))
        return Step(segmentation_loss(self.task, pred_l, batch.y_l), [Term(loss, label)])


class _DroppedApart(_DroppedBesideLabelled):
    """Right: dropped features are a batch of their own."""

    def decoded(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.student(batch.x_l), self.in_one_batch([self.dropped(batch.u_w)])[1]


class _CleanOnesToo(_DroppedBesideLabelled):
    """Right: the clean features of the same images are in the batch."""

    def decoded(self, batch: Batch) -> tuple[Tensor, Tensor]:
        clean = [self.student.encode(images)[0] for images in (batch.x_l, batch.u_w)]
        return self.in_one_batch([*clean, self.dropped(batch.u_w)])


class _AllDropped(_DroppedBesideLabelled):
    """Right: labelled images lose features as the others do."""

    def decoded(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.in_one_batch([self.dropped(batch.x_l), self.dropped(batch.u_w)])


class _NoiseBesideLabelled(_DroppedBesideLabelled):
    """Not judged: nothing is dropped."""

    def dropped(self, images: Tensor) -> Tensor:
        features = self.student.encode(images)[0]
        return features + 0.1 * torch.randn(features.shape)


@pytest.mark.parametrize("method", [_DroppedApart, _CleanOnesToo, _AllDropped, _NoiseBesideLabelled])
def test_features_that_are_dropped_otherwise_than_beside_labelled_images_are_right(method: type[Method]) -> None:
    assert broken_rules(method) == []


class _NotFlippedBack(_Consistency):
    """The flipped view is labelled, and its label passes for that of the view."""

    dim = 3

    def flipped(self, rows: Tensor) -> Tensor:
        return rows.flip(self.dim)

    def step(self, batch: Batch) -> Step:
        prob = label_probabilities(self.student, self.flipped(batch.u_w))
        label = self.pseudo_label(batch.u_w, prob)
        loss = pixel_cross_entropy(self.task, self.student(batch.u_s1), label.prob).mean((1, 2, 3))
        return Step(segmentation_loss(self.task, self.student(batch.x_l), batch.y_l), [Term(loss, label)])


class _Averaged(_Consistency):
    """The label is the mean of those of a view and of its flip, which is flipped back."""

    def prob(self, image: Tensor) -> Tensor:
        return label_probabilities(self.student, image)

    def step(self, batch: Batch) -> Step:
        prob = (self.prob(batch.u_w) + self.prob(batch.u_w.flip(3)).flip(3)) / 2
        label = self.pseudo_label(batch.u_w, prob)
        loss = pixel_cross_entropy(self.task, self.student(batch.u_s1), self.task.hard(label.prob)).mean((1, 2, 3))
        return Step(segmentation_loss(self.task, self.student(batch.x_l), batch.y_l), [Term(loss, label)])


class _MadeOfLabels(_Averaged):
    """It is made of two labels, which an add-on may have corrected."""

    def prob(self, image: Tensor) -> Tensor:
        return self.label(self.student, image, view="other").prob


class _SmoothedLabel(_Consistency):
    """A label is smoothed, and passes for what a network gave."""

    def step(self, batch: Batch) -> Step:
        prob = torch.nn.functional.avg_pool2d(self.label(self.student, batch.u_w).prob, 3, 1, 1)
        label = self.pseudo_label(batch.u_w, prob)
        loss = pixel_cross_entropy(self.task, self.student(batch.u_s1), label.prob).mean((1, 2, 3))
        return Step(segmentation_loss(self.task, self.student(batch.x_l), batch.y_l), [Term(loss, label)])


class _Relabelled(_Averaged):
    """Its first label says where images are mixed, and the mixed images are labelled."""

    def step(self, batch: Batch) -> Step:
        first = self.label(self.student, batch.u_w)
        mixed = torch.where(self.task.hard(first.prob).bool(), batch.u_w, batch.u_w.roll(1, 0))
        label = self.label(self.student, mixed, view="other")
        loss = pixel_cross_entropy(self.task, self.student(mixed), label.prob).mean((1, 2, 3))
        step = super().step(batch)
        return Step(step.supervised, [*step.terms, Term(loss, label)])


@pytest.mark.parametrize("method", [_MadeOfLabels, _SmoothedLabel])
def test_a_label_that_is_made_of_labels_is_the_one_thing_found(method: type[Method]) -> None:
    (finding,) = [finding for finding in check_method(method) if not finding.passed]
    assert finding.rule == "no label is made of another label"
    assert "label_probabilities(network, image) in the place of self.label" in finding.detail


@pytest.mark.parametrize("method", [_Averaged, _Relabelled])
def test_labels_that_are_made_of_networks_probabilities_keep_the_contract(method: type[Method]) -> None:
    assert "no label is made of another label" not in broken_rules(method)


class _HiddenLoss(_Consistency):
    """Its consistency is a part of the supervised loss, too, where no quality weighs it."""

    def step(self, batch: Batch) -> Step:
        step = super().step(batch)
        return Step(step.supervised + step.terms[0].loss.mean(), step.terms)


class _HiddenAlone(_Consistency):
    """Said to be without unlabelled losses, it minimises the entropy of unlabelled images."""

    pseudo_labels = False

    def step(self, batch: Batch) -> Step:
        entropy = self.task.entropy(self.task.probabilities(self.student(batch.u_w))).mean()
        return Step(segmentation_loss(self.task, self.student(batch.x_l), batch.y_l) + entropy)


class _HiddenInPastedPictures(_Consistency):
    """Labelled patches lie in unlabelled images, as BCP's; the loss around them passes for supervised."""

    def step(self, batch: Batch) -> Step:
        inside = torch.zeros_like(batch.y_l[:4], dtype=torch.bool)
        inside[..., 8:24, 8:24] = True
        label = self.label(self.student, batch.u_w)
        pred = self.student(torch.where(inside, batch.x_l, batch.u_w[:4]))
        target = torch.where(inside, batch.y_l, label.prob[:4])
        pixels = pixel_cross_entropy(self.task, pred, target)
        return Step(pixels.mean(), [Term((pixels * ~inside).mean((1, 2, 3)), label, owner=torch.arange(4))])


_STATISTICS = "a student labels with the statistics of the images, not with stale ones"
_LIES = "each label lies on its image"
_HIDDEN = "no unlabelled loss hides in supervised"
_DROPPED = "no labelled image is decoded with dropped features in the place of clean ones"


@pytest.mark.parametrize(
    ("method", "rule"),
    [
        (_StaleStatistics, _STATISTICS),
        (_StaleDecoder, _STATISTICS),
        (_StaleTarget, _STATISTICS),
        (_NotFlippedBack, _LIES),
        (_HiddenLoss, _HIDDEN),
        (_HiddenAlone, _HIDDEN),
        (_HiddenInPastedPictures, _HIDDEN),
        (_DroppedBesideLabelled, _DROPPED),
        (WithoutCleanWeak, _DROPPED),
    ],
)
def test_a_plant_is_found_by_its_rule_and_by_no_other(method: type[Method], rule: str) -> None:
    findings = [finding for finding in check_method(method) if not finding.passed]
    assert all(finding.detail for finding in findings)
    broken = [finding.rule for finding in findings]
    assert rule in broken
    assert not {_STATISTICS, _LIES, _HIDDEN, _DROPPED} & set(broken) - {rule}


@pytest.mark.parametrize("error", [SystemExit("enough"), RecursionError("too deep"), MemoryError()])
def test_no_error_of_a_method_passes_the_check(error: BaseException) -> None:
    def step(self: Method, batch: Batch) -> Step:
        raise error

    kind = type("Raising", (Method,), {"step": step, "__module__": "builtins"})  # a class without a file
    (finding,) = check_method(kind)
    assert not finding.passed
    assert finding.detail.startswith(type(error).__name__)


@pytest.mark.parametrize(
    ("method", "rule"),
    [
        (_WrongOwner, "with weight 0, replacing a pseudo-label leaves the gradient unchanged"),
        (_LossAgainstItself, "terms[0] reaches a student"),
        (_FrozenTeacher, "the teacher moves towards the student, buffers too"),
        (_ForgottenBuffers, "the teacher moves towards the student, buffers too"),
        (_HiddenState, "saved at step 3 and resumed equals the uninterrupted run, bit for bit"),
    ],
)
def test_a_planted_defect_is_found_by_its_rule(method: type[Method], rule: str) -> None:
    try:
        broken = broken_rules(method)
    except (RuntimeError, UserError) as error:
        pytest.fail(f"the check crashed: {error}")
    assert rule in broken


def test_the_method_in_contributing_keeps_the_contract(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs/how-to/method.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    file = tmp_path / "mine.py"
    file.write_text(code)
    assert broken_rules(load("method", str(file))) == []


# Several classes


class _Sigmoid(_Consistency):
    """Its label is of a sigmoid, which is right for one class alone."""

    def step(self, batch: Batch) -> Step:
        step = super().step(batch)
        prob = torch.sigmoid(self.student(batch.u_w).detach())
        return Step(step.supervised, [Term(step.terms[0].loss, self.pseudo_label(batch.u_w, prob))])


class _CutAtOneHalf(_Consistency):
    """Its target is a label cut at one half: of several classes none may reach that."""

    def step(self, batch: Batch) -> Step:
        prob = label_probabilities(self.student, batch.u_w)
        label = self.pseudo_label(batch.u_w, (prob > 0.5).float())
        loss = pixel_cross_entropy(self.task, self.student(batch.u_s1), label.prob).mean((1, 2, 3))
        return Step(super().step(batch).supervised, [Term(loss, label)])


class _SigmoidInTheLoss(_Consistency):
    def step(self, batch: Batch) -> Step:
        step = super().step(batch)
        label = step.terms[0].label
        loss = (torch.sigmoid(self.student(batch.u_s1)) - label.prob).square().mean((1, 2, 3))
        return Step(step.supervised, [Term(loss, label)])


class _FirstChannelIsTheLesion(_Consistency):
    """Of label and prediction it trains the first channel alone, as one class has it."""

    def step(self, batch: Batch) -> Step:
        step = super().step(batch)
        label = step.terms[0].label
        prob = self.task.probabilities(self.student(batch.u_s1))
        loss = (prob[:, :1] - label.prob[:, :1]).square().mean((1, 2, 3))
        return Step(step.supervised, [Term(loss, label)])


class _FirstChannelOfTheMask(_Consistency):
    def step(self, batch: Batch) -> Step:
        prob = self.task.probabilities(self.student(batch.x_l))
        return Step(F.binary_cross_entropy(prob[:, 0], batch.y_l[:, 0]), super().step(batch).terms)


class _OneLogit(_Consistency):
    """It gives a loss of the package the one channel that a single class has."""

    def step(self, batch: Batch) -> Step:
        loss = segmentation_loss(self.task, self.student(batch.x_l)[:, :1], batch.y_l[:, :1])
        return Step(loss, super().step(batch).terms)


@pytest.mark.parametrize(
    ("method", "rule", "message"),
    [
        (_Sigmoid, "the step keeps the contract", r"does not sum to 1 over its 4 channels.*in the place of a sigmoid"),
        (_CutAtOneHalf, "the step keeps the contract", r"does not sum to 1 over its 4 channels.*and of > 0\.5"),
        (_SigmoidInTheLoss, "added to all logits of a pixel", r"the loss of terms\[0\]: .*softmax"),
        (_FirstChannelIsTheLesion, "each class of the labels", r"channel 0 is the background"),
        (_FirstChannelOfTheMask, "each class of the masks", r"channel 0 is the background"),
        (_OneLogit, "the step keeps the contract", r"logits of this task have 4 channel\(s\), not 1"),
    ],
)
def test_what_is_right_for_one_class_alone_is_found(method: type[Method], rule: str, message: str) -> None:
    *others, broken, last = check_method(method)
    assert all(finding.passed for finding in others if not finding.detail.startswith("with three classes"))
    assert not last.passed
    found = [finding for finding in (*others, broken) if not finding.passed]
    assert any(
        rule in finding.rule and re.search(f"^with three classes: .*{message}", finding.detail) for finding in found
    )
