"""Losses and labels are told apart by pixels: each plant is found, and nothing honest is taken for one."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from qgbench.methods import Batch, Build, Method, MethodSettings, Step, Term, label_probabilities
from qgbench.methods.losses import pixel_cross_entropy, segmentation_loss
from qgbench.training.streams import Streams
from qgbench.trust.conformance_of_pixels import hidden_loss, misplaced_label, misplaced_target, with_pixels_apart
from qgbench.trust.toys import toy_data, toy_protocol


def batches() -> tuple[Batch, Batch]:
    streams = Streams(toy_data(), toy_protocol(10).train, 0)
    return streams.next(0.9)[0], streams.next(0.9)[0]


class _Honest(Method):
    """What defects are planted in: the label, what is minimised beside it, and what it is compared with."""

    def prob(self, image: Tensor) -> Tensor:
        return label_probabilities(self.student, image)

    def beside(self, batch: Batch, prob: Tensor) -> Tensor:
        return torch.zeros(())

    def target(self, prob: Tensor) -> Tensor:
        return prob

    def step(self, batch: Batch) -> Step:
        label = self.pseudo_label(batch.u_w, self.prob(batch.u_w))
        pixels = pixel_cross_entropy(self.task, self.student(batch.u_s1), self.target(label.prob))
        supervised = segmentation_loss(self.task, self.student(batch.x_l), batch.y_l)
        return Step(supervised + self.beside(batch, label.prob), [Term(pixels.mean((1, 2, 3)), label)])

    def entropy(self, image: Tensor) -> Tensor:
        return 0.1 * self.task.entropy(self.task.probabilities(self.student(image))).mean()


class _HiddenUnderNoGrad(_Honest):
    """Blends of unlabelled images, made without gradient, are drawn to a label of their own."""

    def beside(self, batch: Batch, prob: Tensor) -> Tensor:
        with torch.no_grad():
            mixed = 0.7 * batch.u_w + 0.3 * batch.u_w.flip(0)
            target = label_probabilities(self.student, mixed)
        return (self.task.probabilities(self.student(mixed)) - target).square().mean()


class _HiddenBehindPasted(_Honest):
    """A labelled picture is pasted somewhere, and unlabelled ones are trained on beside it."""

    def beside(self, batch: Batch, prob: Tensor) -> Tensor:
        self.student(torch.where(batch.cut1[:4], batch.x_l, batch.u_w[:4]))
        return self.entropy(batch.u_s1)


class _HiddenForAWhile(_Honest):
    """It begins after a quarter of the budget and ends before the last fifth."""

    def beside(self, batch: Batch, prob: Tensor) -> Tensor:
        return self.entropy(batch.u_s1) if 0.25 < batch.progress < 0.8 else torch.zeros(())


class _HiddenInEightBits(_Honest):
    """No gradient leads back to the images."""

    def beside(self, batch: Batch, prob: Tensor) -> Tensor:
        return self.entropy((255 * batch.u_s1).round() / 255)


class _HiddenTarget(_Honest):
    """The second strong view is trained by the label, without a row that could be weighed."""

    def beside(self, batch: Batch, prob: Tensor) -> Tensor:
        return pixel_cross_entropy(self.task, self.student(batch.u_s2), self.task.hard(prob)).mean()


class _HiddenConsistency(_Honest):
    """Two views are drawn to each other; no label is made for it."""

    def beside(self, batch: Batch, prob: Tensor) -> Tensor:
        first, second = (self.task.probabilities(self.student(view)) for view in (batch.u_s1, batch.u_s2))
        return (first - second).square().mean()


class _Blended(_Honest):
    """Blends of a labelled and an unlabelled picture, as MixMatch's: the label's share of the loss is supervised."""

    def beside(self, batch: Batch, prob: Tensor) -> Tensor:
        pred = self.student(0.6 * batch.x_l + 0.4 * batch.u_w[:4])
        return 0.6 * pixel_cross_entropy(self.task, pred, batch.y_l).mean()


class _BlendedByLabel(_Blended):
    """The pseudo-label's share is called supervised, too."""

    def beside(self, batch: Batch, prob: Tensor) -> Tensor:
        pred = self.student(0.6 * batch.x_l + 0.4 * batch.u_w[:4])
        target = 0.6 * batch.y_l + 0.4 * self.task.hard(prob[:4])
        return pixel_cross_entropy(self.task, pred, target).mean()


class _HiddenBehindBlended(_Blended):
    """Unlabelled pictures are trained on beside the blends."""

    def beside(self, batch: Batch, prob: Tensor) -> Tensor:
        return super().beside(batch, prob) + self.entropy(batch.u_s1)


class _OneBatch(_Honest):
    """Labelled and unlabelled images are normalised together."""

    def step(self, batch: Batch) -> Step:
        label = self.label(self.student, batch.u_w)
        pred_l, pred_u = self.student(torch.cat([batch.x_l, batch.u_s1])).split([len(batch.x_l), len(batch.u_w)])
        loss = pixel_cross_entropy(self.task, pred_u, label.prob).mean((1, 2, 3))
        return Step(segmentation_loss(self.task, pred_l, batch.y_l), [Term(loss, label)])


@pytest.mark.parametrize("kind", [_Honest, _Blended, _OneBatch])
def test_supervised_may_see_unlabelled_pictures_only_in_blends(kind: type[Method]) -> None:
    assert hidden_loss(with_pixels_apart(kind), *batches()) == ""


@pytest.mark.parametrize(
    "kind",
    [
        _HiddenUnderNoGrad,
        _HiddenBehindPasted,
        _HiddenForAWhile,
        _HiddenInEightBits,
        _HiddenTarget,
        _HiddenConsistency,
        _BlendedByLabel,
        _HiddenBehindBlended,
    ],
)
def test_a_hidden_loss_is_found(kind: type[Method]) -> None:
    when = "0.3" if kind is _HiddenForAWhile else "0.1"
    assert f"at progress {when} it changes" in hidden_loss(with_pixels_apart(kind), *batches())


class _Averaged(_Honest):
    """Four views are labelled, and each label is turned back."""

    def prob(self, image: Tensor) -> Tensor:
        dims: list[tuple[int, ...]] = [(), (2,), (3,), (2, 3)]
        return torch.stack([super(_Averaged, self).prob(image.flip(d)).flip(d) for d in dims]).mean(0)


class _UpsideDown(_Honest):
    """The view is flipped, its label is not."""

    def prob(self, image: Tensor) -> Tensor:
        return super().prob(image.flip(2))


class _OneNotTurnedBack(_Honest):
    """One of four is not."""

    def prob(self, image: Tensor) -> Tensor:
        one, other = super().prob(image), super().prob(image.flip(3))
        return (3 * one + other) / 4


class _HalfNotTurnedBack(_Honest):
    """One of two is not."""

    def prob(self, image: Tensor) -> Tensor:
        return (super().prob(image) + super().prob(image.flip(3))) / 2


class _TurnedWrongly(_Honest):
    """A quarter turn is done again, not undone."""

    def prob(self, image: Tensor) -> Tensor:
        return super().prob(image.rot90(1, (2, 3))).rot90(1, (2, 3))


class _Shifted(_Honest):
    """The label lies three pixels aside."""

    def prob(self, image: Tensor) -> Tensor:
        return super().prob(image.roll(3, 3))


class _TurnedByChance(_Honest):
    """Half of the steps label a flipped view."""

    def prob(self, image: Tensor) -> Tensor:
        return super().prob(image.flip(3) if torch.rand(()) < 0.5 else image)


class _OfAnother(_Honest):
    """Labels are in another order than the images."""

    def prob(self, image: Tensor) -> Tensor:
        return super().prob(image).roll(1, 0)


class _Smoothed(_Honest):
    """A label is an average over neighbours."""

    def prob(self, image: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(super().prob(image), 3, 1, 1, count_include_pad=False)


@pytest.mark.parametrize("kind", [_Honest, _Averaged, _Smoothed])
def test_a_label_that_lies_on_its_image_is_no_defect(kind: type[Method]) -> None:
    method, (batch, _) = with_pixels_apart(kind), batches()
    assert (misplaced_label(method, batch), misplaced_target(method, batch)) == ("", "")


@pytest.mark.parametrize(
    "kind", [_UpsideDown, _OneNotTurnedBack, _HalfNotTurnedBack, _TurnedWrongly, _Shifted, _TurnedByChance, _OfAnother]
)
def test_a_misplaced_label_is_found(kind: type[Method]) -> None:
    assert "the label of terms[0] is turned or moved" in misplaced_label(with_pixels_apart(kind), batches()[0])


class _TurnedTarget(_Honest):
    """The label lies on its image, and is compared with the prediction on another side."""

    def target(self, prob: Tensor) -> Tensor:
        return prob.flip(3)


class _ShiftedTarget(_Honest):
    """It is compared with the pixel beside."""

    def target(self, prob: Tensor) -> Tensor:
        return prob.roll(1, 2)


class _HalfTurnedTarget(_Honest):
    """One of two losses is of a view that is turned."""

    def turned(self, view: Tensor) -> Tensor:
        return view.flip(3)

    def step(self, batch: Batch) -> Step:
        step = super().step(batch)
        (term,) = step.terms
        pred = self.student(self.turned(batch.u_s1))
        other = pixel_cross_entropy(self.task, pred, term.label.prob).mean((1, 2, 3))
        return Step(step.supervised, [replace(term, loss=term.loss + other)])


class _TurnedViews(_Honest):
    """The views are flipped, and the label with them."""

    def step(self, batch: Batch) -> Step:
        step = super().step(replace(batch, u_s1=batch.u_s1.flip(3)))
        (term,) = step.terms
        pred = self.student(batch.u_s1.flip(3))
        loss = pixel_cross_entropy(self.task, pred, term.label.prob.flip(3)).mean((1, 2, 3))
        return Step(step.supervised, [replace(term, loss=loss)])


class _Agreeing(_Honest):
    """Two views are drawn to each other; the label only says how much."""

    def step(self, batch: Batch) -> Step:
        step = super().step(batch)
        first, second = (self.task.probabilities(self.student(view)) for view in (batch.u_s1, batch.u_s2))
        return Step(step.supervised, [replace(step.terms[0], loss=(first - second).square().mean((1, 2, 3)))])


class _HalfShiftedTarget(_HalfTurnedTarget):
    """One of two losses is of a view that lies three pixels aside."""

    def turned(self, view: Tensor) -> Tensor:
        return view.roll(3, 2)


class _SmoothedTarget(_Honest):
    """What is learnt of a label is its average over neighbours."""

    def target(self, prob: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(prob, 5, 1, 2, count_include_pad=False)


@pytest.mark.parametrize("kind", [_TurnedViews, _Agreeing, _SmoothedTarget])
def test_a_target_at_its_place_is_no_defect(kind: type[Method]) -> None:
    assert misplaced_target(with_pixels_apart(kind), batches()[0]) == ""


@pytest.mark.parametrize("kind", [_TurnedTarget, _ShiftedTarget, _HalfTurnedTarget, _HalfShiftedTarget])
def test_a_misplaced_target_is_found(kind: type[Method]) -> None:
    assert "in terms[0]" in misplaced_target(with_pixels_apart(kind), batches()[0])


class _Spreading(_Honest):
    """A layer of its own, which is to be learnt, spreads a label over the image."""

    def __init__(self, build: Build, settings: MethodSettings) -> None:
        super().__init__(build, settings)
        self.spread = torch.nn.Conv2d(1, 1, 9, padding=4)

    def prob(self, image: Tensor) -> Tensor:
        return torch.sigmoid(6 * super().prob(image) - 3 + 0.5 * self.spread(super().prob(image)))


class _SpreadingTurned(_Spreading):
    """Its labels are flipped."""

    def prob(self, image: Tensor) -> Tensor:
        return super().prob(image.flip(3))


def test_a_label_that_is_spread_lies_where_it_agrees_best() -> None:
    assert misplaced_label(with_pixels_apart(_Spreading), batches()[0]) == ""
    assert "terms[0]" in misplaced_label(with_pixels_apart(_SpreadingTurned), batches()[0])
