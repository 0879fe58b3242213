"""FixMatch for segmentation: confident labels of the weak view supervise the strong view."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from qgbench.methods import Batch, Method, MethodSettings, PseudoLabel, Step
from qgbench.methods.cutmix import cutmix_term, paste
from qgbench.methods.losses import certain_cross_entropy, segmentation_loss
from qgbench.spec.settings import Before


class FixMatch(Method):
    """Hard labels of the weak view, kept where the student is confident, supervise its prediction on the strong view.

    Source: Sohn et al., arXiv 2001.07685 (threshold 0.95, lambda 1, no ramp), per pixel and with CutMix as in arXiv
    2208.09910 and its code: labelled and weak images are one batch of the student in training mode, whose predictions
    of the weak ones are the label; strong views are another.

    Deviations
    ----------
    - Losses are added; the authors halve their sum.
    - The authors take a CutMix box from a second batch, and label it in evaluation mode; here it comes from the image
      before in the same batch, and is labelled in that one batch too.
    - The authors' supervised loss is cross-entropy alone.
    - Their decoder learns at 10 times the encoder's rate; here both have one rate.
    """

    strong_views = 1

    class Settings(MethodSettings):
        """Settings of FixMatch."""

        lambda_u: float = Field(1.0, ge=0, description="weight of the unlabelled loss")
        warmup: float = Field(0.0, ge=0, le=1, description="fraction of the budget before the unlabelled loss starts")
        ramp: float = Field(0.0, ge=0, le=1, description="fraction of the budget over which its weight rises linearly")
        threshold: float = Field(0.95, ge=0, le=1, description="least confidence of a pixel that counts")
        cutmix: Annotated[bool, Before(False)] = Field(True, description="paste regions of other images' strong views")
        apart: Annotated[bool, Before(True)] = Field(
            False, description="labelled and weak images are batches of their own, and the label is of a pass apart"
        )

    settings: Settings

    def step(self, batch: Batch) -> Step:
        """Return one term: BCE on the strong view against the weak view's hard label, averaged over all pixels."""
        pred_l, label = (self._apart if self.settings.apart else self._together)(batch)
        cut = batch.cut1 & self.settings.cutmix
        partner = torch.arange(len(label), device=label.prob.device).roll(1)
        pred_u_s = self.student(paste(batch.u_s1, cut, partner))
        pixels = certain_cross_entropy(self.task, pred_u_s, paste(label.prob, cut, partner), self.settings.threshold)
        return Step(segmentation_loss(self.task, pred_l, batch.y_l), [cutmix_term(pixels, label, cut, partner, 1.0)])

    def _together(self, batch: Batch) -> tuple[Tensor, PseudoLabel]:
        """Return logits of the labelled images and the label, both of one batch."""
        pred_l, pred_u_w = self.student(torch.cat([batch.x_l, batch.u_w])).split([len(batch.x_l), len(batch.u_w)])
        return pred_l, self.pseudo_label(batch.u_w, self.task.probabilities(pred_u_w))

    def _apart(self, batch: Batch) -> tuple[Tensor, PseudoLabel]:
        """Return the same, each of a batch of its own."""
        return self.student(batch.x_l), self.label(self.student, batch.u_w)
