from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qgbench.base.errors import UserError
from qgbench.methods import Batch, Method, PseudoLabel, Step, Term, check_step, reduce_term, row_weights
from qgbench.training.streams import Streams
from qgbench.trust.toys import ToySegmenter, toy_data, toy_protocol

LOSS = [0.5, 2.0, 1.0, 4.0]
WEIGHT = [0.25, 1.0, 0.0, 0.64]

weights = st.lists(st.floats(0.01, 1), min_size=4, max_size=4)


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def unknown(images: int) -> PseudoLabel:
    return PseudoLabel(torch.zeros(images, 1, 2, 2), torch.zeros(images, 3, 2, 2), "other", ToySegmenter())


def term(loss: Any = LOSS, images: int = 4, **parts: Any) -> Term:
    values = loss if isinstance(loss, Tensor) else tensor(loss)
    return Term(values, unknown(images), **parts)


# Reduction


@settings(deadline=None)
@given(level=st.floats(0.01, 1))
def test_uniform_weights_cancel(level: float) -> None:
    found = reduce_term(term(), tensor([level] * 4))
    assert float(found) == pytest.approx(np.mean(LOSS))


@pytest.mark.parametrize("parts", [1, 2])
def test_a_ratio_of_weighted_sums_has_its_own_gradient(parts: int) -> None:
    """Batch Dice, 1 - sum(w I) / sum(w D): against autograd of the quotient; also where processes share the rows."""
    above, below = tensor(LOSS), tensor([1.0, 5.0, 2.0, 3.0])
    weight = tensor(WEIGHT)
    free = [above.clone().requires_grad_(), below.clone().requires_grad_()]
    expected = (weight * free[0]).sum() / (weight * free[1]).sum()
    expected.backward()
    mine = [above.clone().requires_grad_(), below.clone().requires_grad_()]
    values = []
    for rows in torch.arange(4).chunk(parts):
        # What every process would add: half of the sum over both is the mean that is taken over processes.
        sums = iter([(weight * below).sum() / parts, (weight * above).sum() / parts])
        share = Term(mine[0][rows], unknown(len(rows)), mine[1][rows])
        values.append(reduce_term(share, weight[rows], total=lambda value, sums=sums: next(sums)))
    found = torch.stack(values).mean()
    found.backward()
    assert float(found.detach()) == pytest.approx(float(expected.detach()))
    for ours, theirs in zip(mine, free, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_weights_of_one_give_the_mean_bit_for_bit() -> None:
    loss = torch.rand(7)
    given = Term(loss, unknown(7))
    assert torch.equal(reduce_term(given, torch.ones(7)), loss.sum() / 7)


def test_the_weighted_mean_by_hand() -> None:
    assert float(reduce_term(term(), tensor(WEIGHT))) == pytest.approx(np.average(LOSS, weights=WEIGHT))


@settings(deadline=None)
@given(values=weights, scale=st.floats(1e-4, 1), denominator=weights)
def test_the_scale_of_the_weights_cancels(values: list[float], scale: float, denominator: list[float]) -> None:
    given = term(denominator=tensor(denominator))
    expected = float(reduce_term(given, tensor(values)))
    assert float(reduce_term(given, scale * tensor(values))) == pytest.approx(expected)
    assert float(reduce_term(given, scale * tensor(values), "none")) == pytest.approx(
        scale * float(reduce_term(given, tensor(values), "none"))
    )


def test_a_denominator_pools_over_rows() -> None:
    pixels = [10.0, 0.0, 3.0, 7.0]
    found = reduce_term(term(denominator=tensor(pixels)), tensor(WEIGHT))
    assert float(found) == pytest.approx(np.dot(WEIGHT, LOSS) / np.dot(WEIGHT, pixels))
    plain = reduce_term(term(denominator=tensor(pixels)), tensor([1.0] * 4))
    assert float(plain) == pytest.approx(7.5 / 20)


def test_without_normalisation_rejected_rows_still_count_in_the_divisor() -> None:
    assert float(reduce_term(term(), tensor(WEIGHT), "none")) == pytest.approx(np.dot(WEIGHT, LOSS) / 4)
    pixels = [10.0, 0.0, 3.0, 7.0]
    found = reduce_term(term(denominator=tensor(pixels)), tensor(WEIGHT), "none")
    assert float(found) == pytest.approx(np.dot(WEIGHT, LOSS) / 20)


@pytest.mark.parametrize("norm", ["weighted", "none"])
@pytest.mark.parametrize("denominator", [None, [1.0, 2.0, 3.0, 4.0], [0.0] * 4])
def test_zero_weights_give_a_zero_that_is_attached(norm: Any, denominator: list[float] | None) -> None:
    parameter = tensor(LOSS).requires_grad_()
    given = term(parameter * 2, denominator=None if denominator is None else tensor(denominator))
    found = reduce_term(given, tensor([0.0] * 4), norm)
    assert float(found.detach()) == 0.0
    assert found.requires_grad
    found.backward()
    assert parameter.grad is not None
    assert parameter.grad.tolist() == [0.0] * 4


def test_no_certain_pixel_at_all_gives_zero() -> None:
    found = reduce_term(term([0.0] * 4, denominator=tensor([0.0] * 4)), tensor([1.0] * 4))
    assert float(found) == 0.0


def test_the_gradient_is_that_of_the_weighted_mean() -> None:
    loss = tensor(LOSS).requires_grad_()
    pixels = np.array([10.0, 0.0, 3.0, 7.0])
    reduce_term(term(loss, denominator=tensor(pixels)), tensor(WEIGHT)).backward()
    assert loss.grad is not None
    np.testing.assert_allclose(loss.grad.numpy(), np.array(WEIGHT) / np.dot(WEIGHT, pixels))


def test_the_divisor_is_combined_over_processes() -> None:
    # Two processes, whose gradients are averaged: together they must give the pooled mean.
    halves = [(LOSS[:2], WEIGHT[:2]), (LOSS[2:], WEIGHT[2:])]
    mean_divisor = tensor(sum(WEIGHT) / 2)
    parts = [
        float(reduce_term(term(loss, 2), tensor(weight), total=lambda divisor: mean_divisor)) for loss, weight in halves
    ]
    assert np.mean(parts) == pytest.approx(np.average(LOSS, weights=WEIGHT))


# Rows


def test_a_row_has_the_weight_of_its_owner() -> None:
    owner = [3, 3, 0, 1, 2, 2]
    given = term([1.0, 2, 3, 4, 5, 6], owner=torch.tensor(owner))
    rows = np.array(WEIGHT)[owner]
    np.testing.assert_allclose(row_weights(given, tensor(WEIGHT)).numpy(), rows)
    assert float(reduce_term(given, tensor(WEIGHT))) == pytest.approx(np.average([1, 2, 3, 4, 5, 6], weights=rows))


def test_a_cut_image_split_by_region_equals_its_pixelwise_weighted_mean() -> None:
    # Image 0 with a region of image 1: 12 pixels of loss 0.5 owned by 0, 4 pixels of loss 2 owned by 1.
    given = term([12 * 0.5, 4 * 2.0], images=2, owner=torch.tensor([0, 1]), denominator=tensor([12.0, 4.0]))
    pixels, owners = np.array([0.5] * 12 + [2.0] * 4), np.array([0.64] * 12 + [0.25] * 4)
    assert float(reduce_term(given, tensor([0.64, 0.25]))) == pytest.approx(np.average(pixels, weights=owners))


def test_a_blend_is_the_geometric_mean_of_its_two_sources() -> None:
    share = [0.3, 0.5, 1.0, 0.0]
    given = term(blend=(torch.tensor([1, 3, 0, 1]), tensor(share)))
    first, second = np.array([0.25, 1.0, 0.36, 0.64]), np.array([1.0, 0.64, 0.25, 1.0])
    expected = first ** np.array(share) * second ** (1 - np.array(share))
    np.testing.assert_allclose(row_weights(given, tensor([0.25, 1.0, 0.36, 0.64])).numpy(), expected)


@pytest.mark.parametrize(("share", "expected"), [(0.01, 0.0), (0.5, 0.0), (1.0, 0.0), (0.0, 0.81)])
def test_one_rejected_source_rejects_a_blend_unless_its_share_is_zero(share: float, expected: float) -> None:
    given = term([1.0], images=2, owner=torch.tensor([0]), blend=(torch.tensor([1]), tensor([share])))
    assert row_weights(given, tensor([0.0, 0.81])).tolist() == pytest.approx([expected])
    swapped = replace(given, owner=torch.tensor([1]), blend=(torch.tensor([0]), tensor([1 - share])))
    assert row_weights(swapped, tensor([0.0, 0.81])).tolist() == pytest.approx([expected])


# The contract


class Conforming(Method):
    """One term; `spoil` turns its step into one that breaks a rule."""

    spoil: Callable[[Step, Batch, "Conforming"], Step] = staticmethod(lambda step, batch, method: step)

    def step(self, batch: Batch) -> Step:
        label = self.label(self.student, batch.u_w)
        loss = (self.student(batch.u_s1) - label.prob).square().mean((1, 2, 3))
        step = Step(self.student(batch.x_l).mean(), [Term(loss, label)])
        return type(self).spoil(step, batch, self)


def with_term(**changes: Any) -> Callable[[Step, Batch, Conforming], Step]:
    """Replace parts of the only term; a callable is called with the term."""

    def spoil(step: Step, batch: Batch, method: Conforming) -> Step:
        old = step.terms[0]
        return Step(step.supervised, [replace(old, **{k: v(old) if callable(v) else v for k, v in changes.items()})])

    return spoil


def with_label(**changes: Any) -> Callable[[Step, Batch, Conforming], Step]:
    """Replace parts of the only term's label."""

    def spoil(old: PseudoLabel) -> PseudoLabel:
        return replace(old, **{k: v(old) if callable(v) else v for k, v in changes.items()})

    return with_term(label=lambda term: spoil(term.label))


def spoilt(spoil: Callable[[Step, Batch, Conforming], Step]) -> Method:
    kind = type("Broken", (Conforming,), {"spoil": staticmethod(spoil)})
    torch.manual_seed(0)
    return kind(ToySegmenter, Conforming.Settings())


def check(spoil: Callable[[Step, Batch, Conforming], Step]) -> None:
    method = spoilt(spoil)
    batch, _ = Streams(toy_data(), toy_protocol(4).train, 0).next(0.5)
    check_step(method(batch), batch, method)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda step, batch, method: step,
        lambda step, batch, method: Step(step.supervised),
        with_term(owner=torch.tensor([5, 4, 3, 2, 1, 0])),
        with_term(
            loss=lambda old: old.loss[:2], owner=torch.tensor([5, 5]), blend=(torch.tensor([0, 1]), torch.rand(2))
        ),
        with_term(denominator=torch.ones(6)),
        with_label(prob=lambda old: old.prob.clone(), image=lambda old: old.image.clone()),
        with_label(image=lambda old: old.image + 1, view="other"),
    ],
    ids=["plain", "no terms", "owner", "rows of two labels", "denominator", "clones", "another view"],
)
def test_a_step_that_keeps_the_contract_passes(spoil: Callable[[Step, Batch, Conforming], Step]) -> None:
    check(spoil)


BROKEN: dict[str, tuple[Callable[[Step, Batch, Conforming], Step], str]] = {
    "supervised per image": (
        lambda step, batch, method: Step(step.supervised.expand(4), step.terms),
        r"supervised must be a scalar, not a Tensor of shape \(4,\)",
    ),
    "loss averaged over the batch": (
        with_term(loss=lambda old: old.loss.mean()),
        r"terms\[0\]\.loss must hold one value per row, \(N,\), not a Tensor of shape \(\)",
    ),
    "loss per pixel": (
        with_term(loss=lambda old: old.label.image.mean(1, keepdim=True)),
        r"terms\[0\]\.loss must hold one value per row, \(N,\), not a Tensor of shape \(6, 1, 32, 32\)",
    ),
    "label with a gradient": (
        with_label(prob=lambda old: old.prob.clone().requires_grad_()),
        r"terms\[0\]\.label carries a gradient.*self\.pseudo_label",
    ),
    "label without channel": (
        with_label(prob=lambda old: old.prob.squeeze(1)),
        r"terms\[0\]\.label has shape \(6, 32, 32\), image \(6, 3, 32, 32\)",
    ),
    "label of another image": (
        with_label(prob=lambda old: old.prob[:3]),
        r"terms\[0\]\.label has shape \(3, 1, 32, 32\)",
    ),
    "label of the strong view said to be of the weak one": (
        lambda step, batch, method: Step(
            step.supervised, [replace(step.terms[0], label=method.label(method.student, batch.u_s1))]
        ),
        r"terms\[0\]\.label is said to be of the weak view, but its image is not this step's batch\.u_w; give view=",
    ),
    "label of the weak view said to be of the labelled images": (
        with_label(view="labelled"),
        r"terms\[0\]\.label is said to be of the labelled view, but its image is not this step's batch\.x_l",
    ),
    "no Step": (lambda step, batch, method: step.terms, r"returned a list; expected Step"),
    "no tensor": (lambda step, batch, method: Step(0.0), r"supervised must be a scalar, not 0\.0"),
    "no list of terms": (
        lambda step, batch, method: replace(step, terms=None),
        "terms must be a list of Term, not None",
    ),
    "a term alone": (lambda step, batch, method: replace(step, terms=step.terms[0]), "terms must be .*, not a Term"),
    "labels for terms": (
        lambda step, batch, method: replace(step, terms=[step.terms[0].label]),
        "terms must be a list",
    ),
    # Each of these is a mistake that a type checker would find.
    "supervised None": (lambda step, batch, method: Step(None), "supervised must be a scalar, not None"),  # type: ignore[arg-type]
    "loss a number": (with_term(loss=0.3), r"terms\[0\]\.loss must hold one value per row, \(N,\), not 0\.3"),
    "loss a list": (with_term(loss=[0.3] * 6), r"terms\[0\]\.loss must hold .* not a list"),
    "coefficient a list": (with_term(coef=[1.0]), r"terms\[0\]\.coef must be a number, not a list"),
    "owner a list": (
        with_term(owner=[0, 1, 2, 3, 4, 5]),
        r"terms\[0\]\.owner must be \(6,\) .* a tensor of whole numbers",
    ),
    "owner of floats": (with_term(owner=torch.arange(6.0)), r"terms\[0\]\.owner must be .* a tensor of whole numbers"),
    "owner a mask": (with_term(owner=torch.ones(6, dtype=torch.bool)), r"terms\[0\]\.owner must be .* whole numbers"),
    "blend without a share": (with_term(blend=torch.arange(6)), r"terms\[0\]\.blend must be \(second owner, share"),
    "share a number": (
        with_term(blend=(torch.arange(6), 0.5)),
        r"terms\[0\]\.blend must be \(6,\), a tensor",
    ),
    "denominator a number": (with_term(denominator=3.0), r"terms\[0\]\.denominator must be \(6,\), a tensor, not 3\.0"),
    "label of no probabilities": (with_label(prob=None), r"terms\[0\]\.label holds None; expected tensors"),
    "too few rows": (with_term(loss=lambda old: old.loss[:4]), r"terms\[0\] has 4 rows for 6 labels; give owner"),
    "owner beyond the labels": (
        with_term(owner=torch.tensor([0, 1, 2, 3, 4, 6])),
        r"terms\[0\]\.owner must be \(6,\) with values below 6",
    ),
    "negative owner": (with_term(owner=torch.tensor([0, 1, 2, 3, 4, -1])), r"terms\[0\]\.owner must be \(6,\)"),
    "owner of other rows": (with_term(owner=torch.tensor([0, 1])), r"terms\[0\]\.owner must be \(6,\)"),
    "second owner beyond the labels": (
        with_term(blend=(torch.tensor([0, 1, 2, 3, 4, 9]), torch.rand(6))),
        r"terms\[0\]\.owner must be \(6,\)",
    ),
    "share of other rows": (
        with_term(blend=(torch.arange(6), torch.rand(1))),
        r"terms\[0\]\.blend must be \(6,\), a tensor, not a Tensor of shape \(1,\)",
    ),
    "denominator of other rows": (
        with_term(denominator=torch.ones(())),
        r"terms\[0\]\.denominator must be \(6,\), a tensor, not a Tensor of shape \(\)",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_rule_is_named(spoil: Callable[[Step, Batch, Conforming], Step], message: str) -> None:
    with pytest.raises(UserError, match=rf"^Broken\.step:? {message}"):
        check(spoil)


def test_a_label_of_an_earlier_step_is_refused() -> None:
    kept: list[PseudoLabel] = []

    def stale(step: Step, batch: Batch, method: Conforming) -> Step:
        kept.append(step.terms[0].label)
        return Step(step.supervised, [replace(step.terms[0], label=kept[0])])

    method = spoilt(stale)
    streams = Streams(toy_data(), toy_protocol(4).train, 0)
    batch, _ = streams.next(0.0)
    check_step(method(batch), batch, method)
    batch, _ = streams.next(0.1)
    with pytest.raises(UserError, match=r"its image is not this step's batch\.u_w"):
        check_step(method(batch), batch, method)


def test_the_second_of_two_terms_is_named() -> None:
    def spoil(step: Step, batch: Batch, method: Conforming) -> Step:
        return Step(step.supervised, [step.terms[0], replace(step.terms[0], loss=step.terms[0].loss.sum())])

    with pytest.raises(UserError, match=r"terms\[1\]\.loss must hold one value per row"):
        check(spoil)
