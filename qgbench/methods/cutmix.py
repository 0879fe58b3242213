"""CutMix of unlabelled views: a region of each is its partner's, and its loss trusts the partner's label."""

import torch
from torch import Tensor

from qgbench.methods.contract import PseudoLabel, Term


def paste(rows: Tensor, cut: Tensor, partner: Tensor) -> Tensor:
    """Return rows (U, C, H, W) whose region `cut` (U, 1, H, W) is their partner's."""
    return torch.where(cut, rows[partner], rows)


def cutmix_term(pixels: Tensor, label: PseudoLabel, cut: Tensor, partner: Tensor, coef: float) -> Term:
    """Return losses of pixels (U, 1, H, W) of pasted views as two rows a view: what it kept, what its partner gave.

    A row's loss and its denominator are shares of the whole view, so that the mean stays one over all pixels.
    """
    regions = torch.cat([~cut, cut])
    loss = (pixels.repeat(2, 1, 1, 1) * regions).mean((1, 2, 3))
    owner = torch.cat([torch.arange(len(label), device=label.prob.device), partner])
    return Term(loss, label, denominator=regions.float().mean((1, 2, 3)), owner=owner, coef=coef)
