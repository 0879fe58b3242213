"""FixMatch per pixel with CutMix, against its equation (arXiv 2001.07685, 2208.09910)."""

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
    make,
    make_batch,
    masked,
    pasted,
    split,
    student_label,
    supervised,
)


@pytest.mark.parametrize(("cutmix", "apart"), [(True, False), (False, False), (True, True)])
@pytest.mark.parametrize(("labelled", "unlabelled", "bias", "threshold"), CASES, ids=CASE_NAMES)
def test_rows_total_and_gradient_are_the_papers(
    labelled: int, unlabelled: int, bias: float, threshold: float, cutmix: bool, apart: bool
) -> None:
    """L = L_x + L_s of two passes, [x, u] and [s]; u, in training mode, is the label. Apart: of [x] and [s]."""
    method = make("fixmatch", bias, threshold=threshold, cutmix=cutmix, apart=apart)
    batch = make_batch(labelled, unlabelled)
    network = copy.deepcopy(method.student).train()
    partner = [unlabelled - 1, *range(unlabelled - 1)]
    cut = batch.cut1 if cutmix else torch.zeros_like(batch.cut1)
    if apart:
        pred_l, label = network(batch.x_l), student_label(method.student, batch.u_w)
    else:
        pred_l, pred_u = network(torch.cat([batch.x_l, batch.u_w])).split([labelled, unlabelled])
        label = torch.sigmoid(pred_u).detach()
    pixels = masked(network(pasted(batch.u_s1, cut, partner)), pasted(label, cut, partner), threshold)
    total = supervised(pred_l, batch.y_l) + pixels.mean()
    total.backward()

    (term,) = copy.deepcopy(method)(batch).terms
    assert term.label.image is batch.u_w
    torch.testing.assert_close(term.label.prob, label)
    loss, share = split(pixels, cut, partner, SIDE**2)
    np.testing.assert_allclose(term.loss.detach().numpy(), loss, rtol=2e-4, atol=1e-7)
    np.testing.assert_allclose(term.denominator.numpy(), share, rtol=1e-6)
    assert term.owner.tolist() == [*range(unlabelled), *partner]
    found = Objective(copy.deepcopy(method), Guide([]))(batch, None, 0)[0]
    assert float(found.detach()) == pytest.approx(total.item(), rel=1e-5)
    assert_gradient(method, batch, [parameter.grad for parameter in network.parameters()], seed=0)


def test_settings_are_the_papers() -> None:
    fixmatch = load("method", "fixmatch").Settings
    always = {"lambda_u": 1.0, "warmup": 0.0, "ramp": 0.0, "threshold": 0.95}
    assert fixmatch().model_dump() == always | {"cutmix": True, "apart": False}
    assert fixmatch.completed(always) == always | {"cutmix": False, "apart": True}  # what records without them did
