"""The reduction of a term to a scalar, which only the harness does: rows count by the quality of their labels."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from qgbench.methods.contract import Term


def row_weights(term: Term, weight: Tensor) -> Tensor:
    """Return the weight of every row: w[owner], and w_i**s * w_j**(1-s) for a row blended from two labels.

    Parameters
    ----------
    term : Term
    weight : (U,)
        Weight of every pseudo-label, in [0, 1].

    Returns
    -------
    (N,) one rejected source rejects a blend, unless its share is zero.
    """
    rows = weight if term.owner is None else weight[term.owner]
    if term.blend is not None:
        second, share = term.blend
        rows = rows**share * weight[second] ** (1.0 - share)
    return rows


def reduce_term(
    term: Term,
    weight: Tensor,
    norm: Literal["weighted", "none"] = "weighted",
    total: Callable[[Tensor], Tensor] = lambda value: value,
) -> Tensor:
    """Return a term as a scalar: the `weighted_mean` of its rows.

    Parameters
    ----------
    term : Term
    weight : (U,)
        Weight of every pseudo-label; ones when the add-on is off.
    norm : 'weighted' or 'none'
    total : callable
    """
    return weighted_mean(term.loss, row_weights(term, weight), term.denominator, norm, total)


def weighted_mean(
    loss: Tensor,
    weight: Tensor,
    denominator: Tensor | None = None,
    norm: Literal["weighted", "none"] = "weighted",
    total: Callable[[Tensor], Tensor] = lambda value: value,
) -> Tensor:
    """Return sum(w * loss) / sum(w * denominator) (arXiv 2606.01753, Eqn 7).

    Parameters
    ----------
    loss : (N,)
    weight : (N,)
    denominator : (N,), optional
        1 for each row if not given.
    norm : 'weighted' or 'none'
        'none' divides by sum(denominator): rejected rows then still count in the divisor.
    total : callable
        Combines the divisor over processes; the identity in one process.

    Returns
    -------
    scalar, attached to the graph even if every weight is zero (its value is then zero). Where the denominator carries a
    gradient, so does the ratio: of batch Dice, loss and denominator are the two sums of each row.
    """
    denominator = torch.ones_like(loss) if denominator is None else denominator
    numerator, parts = (weight * loss).sum(), (weight * denominator if norm == "weighted" else denominator).sum()
    divisor = total(parts.detach())
    divisor = torch.where(divisor > 0, divisor, torch.ones_like(divisor))
    if parts.requires_grad:  # the gradient of the ratio of the totals, whose value is that of the first line alone
        ratio = total(numerator.detach()) / divisor
        numerator = numerator - ratio * (parts - parts.detach())
    return numerator / divisor
