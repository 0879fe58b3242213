"""Cross teaching: a convolutional network and a transformer label for each other."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field

from qgbench.methods import Batch, Method, MethodSettings, Step, Term
from qgbench.methods.losses import batch_dice_loss, segmentation_loss


class CrossTeaching(Method):
    """Each of two networks of different architectures learns by the batch's Dice loss from the other's hard label.

    Source: Luo et al., arXiv 2112.04894, and its code (SSL4MIS): U-Net and Swin-Unet, one view for both, labelled and
    unlabelled images in one batch of each network, whose predictions are the labels; weight 0.1 exp(-5 (1 - t)^2), t
    the done share of the budget; the first network is evaluated.

    Deviations
    ----------
    - The authors' transformer alone is pretrained; here both networks have the protocol's kind of weights, ImageNet's
      or none.
    """

    strong_views = 0

    class Settings(MethodSettings):
        """Settings of cross teaching."""

        lambda_u: float = Field(0.1, ge=0, description="weight of the unlabelled losses at the end of the budget")
        warmup: float = Field(0.0, ge=0, le=1, description="fraction of the budget before the unlabelled losses start")
        ramp: float = Field(0.0, ge=0, le=1, description="fraction of a linear rise, beside exp(-5 (1 - t)^2)")
        second_arch: str = Field("swin_unet", min_length=1, description="architecture of the second network")

    networks: ClassVar[int] = 2
    settings: Settings

    @classmethod
    def archs(cls, settings: Settings) -> Sequence[str]:
        """Return the run's architecture and the second one."""
        return ("", settings.second_arch)

    def step(self, batch: Batch) -> Step:
        """Return terms of each network's Dice loss against the other's hard label: of each class and the background."""
        first, second = self.network(0), self.network(1)
        images, sizes = torch.cat([batch.x_l, batch.u_w]), [len(batch.x_l), len(batch.u_w)]
        (pred_l_1, pred_u_1), (pred_l_2, pred_u_2) = (network(images).split(sizes) for network in (first, second))
        coef = math.exp(-5 * (1 - batch.progress) ** 2)
        terms = []
        for pred, other, labeller in ((pred_u_1, pred_u_2, second), (pred_u_2, pred_u_1, first)):
            label = self.pseudo_label(batch.u_w, self.task.probabilities(other), labeller)
            dice = batch_dice_loss(self.task, self.task.probabilities(pred), self.task.hard(label.prob))
            terms += [Term(rows, label, divisor, coef=coef / len(dice)) for rows, divisor in dice]
        loss_1, loss_2 = (segmentation_loss(self.task, pred, batch.y_l) for pred in (pred_l_1, pred_l_2))
        return Step(loss_1 + loss_2, terms)
