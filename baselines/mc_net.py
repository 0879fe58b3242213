"""MC-Net: two decoders on one encoder teach each other."""

import math
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from qgbench.methods import Batch, Build, Method, MethodSettings, Network, Step, Term, View
from qgbench.methods.losses import batch_dice_loss, mean_quotient


def interpolate_linearly(block: Any) -> None:
    """Let a block of a decoder that repeats pixels to upsample interpolate between them."""
    if getattr(block, "interpolation_mode", "") == "nearest":
        block.interpolation_mode = "bilinear"


class MCNet(Method):
    """Each of two slightly different decoders on one encoder is drawn to the other's sharpened probabilities.

    Source: Wu et al., arXiv 2103.02911, and its code for pictures (mcnet2d_v1): Dice of the batch alone on the labelled
    images, averaged over lesion and background;
    squared error on labelled and unlabelled images, which are one batch; weight 0.1 exp(-5 (1 - t)^2), t the done share
    of the budget; the first decoder is evaluated.

    Deviations
    ----------
    - The authors' sharpened labels pass a gradient; here labels are constants, as every label of the contract.
    - The authors' decoders upsample by linear interpolation and by transposed convolutions; here the first decoder is
      the architecture's, the second one interpolates linearly where that one repeats pixels, as U-Net's does, and
      elsewhere differs by its weights alone.
    """

    strong_views = 0

    class Settings(MethodSettings):
        """Settings of MC-Net."""

        lambda_u: float = Field(0.1, ge=0, description="weight of the consistency at the end of the budget")
        warmup: float = Field(0.0, ge=0, le=1, description="fraction of the budget before the consistency starts")
        ramp: float = Field(0.0, ge=0, le=1, description="fraction of a linear rise, beside exp(-5 (1 - t)^2)")
        temperature: float = Field(0.1, gt=0, description="sharpening: p**(1/T) / (p**(1/T) + (1 - p)**(1/T))")

    needs_features = True
    settings: Settings

    def __init__(self, build: Build, settings: Settings) -> None:
        super().__init__(build, settings)
        self.second = self.student.new_decoder()
        self.second.apply(interpolate_linearly)

    def mutual(self, image: Tensor, probs: tuple[Tensor, ...], view: View, coef: float) -> list[Term]:
        """Return two terms: each decoder's squared error to the other's sharpened probabilities."""
        first, second = probs
        pairs: tuple[tuple[Tensor, Tensor, Network], ...] = (first, second, self.second), (second, first, self.student)
        terms = []
        for prob, other, labeller in pairs:
            label = self.pseudo_label(image, other, labeller, view)
            lesion, rest = (p ** (1 / self.settings.temperature) for p in (label.prob, 1 - label.prob))
            terms.append(Term((prob - lesion / (lesion + rest)).square().mean((1, 2, 3)), label, coef=coef))
        return terms

    def step(self, batch: Batch) -> Step:
        """Return four terms: two of the unlabelled images, then two of the labelled ones, by their share of a batch."""
        sizes = [len(batch.x_l), len(batch.u_w)]
        features = self.student.encode(torch.cat([batch.x_l, batch.u_w]))
        logits = [decoder.head(decoder.decode(features)) for decoder in (self.student, self.second)]
        probs_l, probs_u = zip(*(self.task.probabilities(each).split(sizes) for each in logits), strict=True)
        loss_1, loss_2 = (mean_quotient(batch_dice_loss(self.task, prob, batch.y_l)) for prob in probs_l)
        labelled, unlabelled = (math.exp(-5 * (1 - batch.progress) ** 2) * size / sum(sizes) for size in sizes)
        terms = self.mutual(batch.u_w, probs_u, "weak", unlabelled)
        return Step(loss_1 + loss_2, terms + self.mutual(batch.x_l, probs_l, "labelled", labelled))
