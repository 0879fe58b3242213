"""CutMix of unlabelled views: a region of each is its partner's, and its loss trusts the partner's label."""

import torch
from torch import Tensor

from qgbench.methods.contract import PseudoLabel, Term
from qgbench.methods.losses import batch_dice_loss
from qgbench.spec.task import Task


def paste(rows: Tensor, cut: Tensor, partner: Tensor) -> Tensor:
    """Return rows (U, C, H, W) whose region `cut` (U, 1, H, W) is their partner's."""
    return torch.where(cut, rows[partner], rows)


def cutmix_term(pixels: Tensor, label: PseudoLabel, cut: Tensor, partner: Tensor, coef: float) -> Term:
    """Return losses of pixels (U, 1, H, W) of pasted views as two rows a view: what it kept, what its partner gave.

    A row's loss and its denominator are shares of the whole view, so that the mean stays one over all pixels.
    """
    regions, owner = _rows(cut, partner)
    loss = (pixels.repeat(2, 1, 1, 1) * regions).mean((1, 2, 3))
    return Term(loss, label, denominator=regions.float().mean((1, 2, 3)), owner=owner, coef=coef)


def cutmix_dice_terms(
    task: Task,
    logits: Tensor,
    prob: Tensor,
    threshold: float,
    label: PseudoLabel,
    cut: Tensor,
    partner: Tensor,
    coef: float,
) -> list[Term]:
    """Return the Dice loss of a batch of pasted views, a term for each class and the background, two rows a view.

    Pixels whose label is not certain enough count in neither sum of the Dice.

    Parameters
    ----------
    task : Task
    logits, prob : (U, C, H, W)
        Of the pasted views, and their pasted labels.
    threshold : float
        Least probability of the likeliest class of a pixel that counts.
    label : PseudoLabel
        Of the views before they were pasted.
    cut : (U, 1, H, W) bool
    partner : (U,) long
    coef : float
        Of the mean over the classes.
    """
    regions, owner = _rows(cut, partner)
    certain = (task.confidence(prob) >= threshold).repeat(2, 1, 1, 1)
    pred, target = (maps.repeat(2, 1, 1, 1) for maps in (task.probabilities(logits), task.hard(prob)))
    sums = batch_dice_loss(task, pred, target, regions & certain)
    return [Term(rows, label, divisor, owner, coef=coef / len(sums)) for rows, divisor in sums]


def _rows(cut: Tensor, partner: Tensor) -> tuple[Tensor, Tensor]:
    """Return the regions (2U, 1, H, W) that U views kept, then those that they were given, and whose they are (2U,)."""
    return torch.cat([~cut, cut]), torch.cat([torch.arange(len(cut), device=cut.device), partner])
