"""UniMatch V2 against the equations of its paper (arXiv 2410.10777)."""

import copy

import numpy as np
import pytest
import torch

from qgbench.plugins.registry import load
from qgbench.quality.guide import Guide
from qgbench.training.objective import Objective
from tests.baselines.test_unimatch import (
    CASE_NAMES,
    CASES,
    SIDE,
    assert_gradient,
    evaluated,
    make,
    make_batch,
    masked,
    pasted,
    split,
    supervised,
)

SHAPES = [(40, 3), (7, 1), (40, 2)]


@pytest.mark.parametrize(("labelled", "unlabelled", "bias", "threshold"), CASES, ids=CASE_NAMES)
def test_rows_total_and_gradient_are_the_papers(labelled: int, unlabelled: int, bias: float, threshold: float) -> None:
    """L = (L_x + (L_s1 + L_s2) / 2) / 2, labels by the teacher, partners in reverse; passes [x] and [s1, s2]."""
    method, batch = make("unimatch_v2", bias, threshold=threshold), make_batch(labelled, unlabelled)
    assert method.teacher is not None
    network, label = copy.deepcopy(method.student).train(), evaluated(method.teacher, batch.u_w)
    assert not torch.allclose(label, evaluated(method.student, batch.u_w), atol=1e-3) or bias
    partner = [*range(unlabelled)][::-1]
    views = [pasted(batch.u_s1, batch.cut1, partner), pasted(batch.u_s2, batch.cut2, partner)]
    features = network.encode(torch.cat(views))
    torch.manual_seed(7)
    masks = method.drop([torch.ones(2 * unlabelled, f.shape[1], 1, 1) for f in features])
    pred_s = network.head(network.decode([f * mask for f, mask in zip(features, masks, strict=True)]))
    labels = [pasted(label, batch.cut1, partner), pasted(label, batch.cut2, partner)]
    parts = [masked(p, q, threshold) for p, q in zip(pred_s.chunk(2), labels, strict=True)]
    total = (supervised(network(batch.x_l), batch.y_l) + (parts[0].mean() + parts[1].mean()) / 2) / 2
    total.backward()

    torch.manual_seed(7)
    step = copy.deepcopy(method)(batch)
    for term, pixels, cut in zip(step.terms, parts, (batch.cut1, batch.cut2), strict=True):
        loss, share = split(pixels, cut, partner, SIDE**2)
        np.testing.assert_allclose(term.loss.detach().numpy(), loss, rtol=2e-4, atol=1e-9)
        np.testing.assert_allclose(term.denominator.numpy(), share, rtol=1e-6)
        assert term.owner.tolist() == [*range(unlabelled), *partner]
        assert term.label.image is batch.u_w
        torch.testing.assert_close(term.label.prob, label)
    torch.manual_seed(7)
    found = Objective(copy.deepcopy(method), Guide([]))(batch, None, 0)[0]
    assert float(found.detach()) == pytest.approx(float(total.detach()), rel=1e-5)
    assert_gradient(method, batch, [parameter.grad for parameter in network.parameters()], seed=7)


@pytest.mark.parametrize(("images", "whole", "left"), [(5, 0.5, 2), (2, 0.5, 1), (1, 0.5, 0), (4, 1.0, 4), (4, 0.0, 0)])
def test_two_views_share_out_the_channels(images: int, whole: float, left: int) -> None:
    method = make("unimatch_v2", whole=whole)
    torch.manual_seed(0)
    wide, narrow, other = method.drop([torch.ones(2 * images, count, side, side) for count, side in SHAPES])
    first, second = wide.chunk(2)
    assert bool((first + second == 2).all())
    assert bool((wide == wide[:, :, :1, :1]).all())  # whole channels
    untouched = {row for row in range(images) if bool((first[row] == 1).all())}
    assert len(untouched) == left
    rest = [row for row in range(images) if row not in untouched]
    assert set(first[rest].unique().tolist()) == ({0.0, 2.0} if rest else set())
    if rest:
        assert 0.3 < float(first[rest].mean()) / 2 < 0.7
    for level in (narrow, other):  # one mask, as far as a level has channels
        assert torch.equal(level[:, :, 0, 0], wide[:, : level.shape[1], 0, 0])


def test_the_teacher_is_left_alone_by_the_step() -> None:
    method, batch = make("unimatch_v2"), make_batch()
    before = {name: value.clone() for name, value in method.teacher.state_dict().items()}
    method(batch)
    assert all(torch.equal(value, before[name]) for name, value in method.teacher.state_dict().items())


def test_settings_are_the_papers() -> None:
    settings = load("method", "unimatch_v2").Settings().model_dump()
    assert settings == {"lambda_u": 0.5, "warmup": 0.0, "ramp": 0.0, "threshold": 0.95, "whole": 0.5}
