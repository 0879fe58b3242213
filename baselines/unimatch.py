"""UniMatch: two strong views and perturbed features, all supervised by the weak view."""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from qgbench.methods import Batch, Method, MethodSettings, Network, PseudoLabel, Step, Term
from qgbench.methods.cutmix import cutmix_dice_terms, cutmix_term, paste
from qgbench.methods.losses import certain_cross_entropy, segmentation_loss


def decode_twice(network: Network, images: Tensor, dropout: float) -> tuple[list[Tensor], Tensor, Tensor]:
    """Return features of N images, their logits (N, C, H, W), and those of dropped channels, decoded in one batch."""
    features = network.encode(images)
    twice = [torch.cat([feature, F.dropout2d(feature, dropout)]) for feature in features]
    pred, pred_fp = network.head(network.decode(twice)).chunk(2)
    return features, pred, pred_fp


class UniMatch(Method):
    """Hard labels of the weak view supervise two CutMix strong views and the weak view with dropped feature channels.

    Source: Yang et al., arXiv 2208.09910 and its code: (L_x + 0.25 L_s1 + 0.25 L_s2 + 0.5 L_fp) / 2, each averaged over
    all pixels, certain or not; threshold 0.95, channel dropout 0.5, no ramp. Labelled and weak images are decoded twice
    in one batch, clean and with dropped features, [x, u ; x_fp, u_fp]; u is the label, x_fp is not used further.
    Their code for ACDC has, in the place of cross-entropy, the Dice of the batch over the certain pixels, averaged over
    classes and background: unlabelled_loss dice.

    Deviations
    ----------
    - The authors take a CutMix box from another batch, and label it in evaluation mode; here it comes from the image
      before in the same batch, with the label that this has: each image has one label, which can be judged.
    - They drop channels of the finest and the coarsest features, all that their DeepLab decodes (in their U-Net for
      ACDC of all features); here of all, because any network's decoder may use them.
    - Their supervised loss is cross-entropy alone (for ACDC half is Dice, of the batch and of the background, too).
    - Their decoder learns at 10 times the encoder's rate (not for ACDC); here both have one rate.
    """

    class Settings(MethodSettings):
        """Settings of UniMatch."""

        lambda_u: float = Field(0.5, ge=0, description="weight of the unlabelled losses; the supervised one has 0.5")
        warmup: float = Field(0.0, ge=0, le=1, description="fraction of the budget before the unlabelled losses start")
        ramp: float = Field(0.0, ge=0, le=1, description="fraction of the budget over which it rises linearly")
        threshold: float = Field(0.95, ge=0, le=1, description="least confidence of a pixel that counts")
        dropout: float = Field(0.5, ge=0, lt=1, description="share of the weak view's feature channels that is dropped")
        unlabelled_loss: Literal["ce", "dice"] = Field(
            "ce", description="cross-entropy over all pixels, or Dice of the batch over the certain ones, as for ACDC"
        )
        # Records of protocol 2 and before did neither: labelled images were decoded in one batch with dropped features.
        apart: bool = Field(
            False, description="decode labelled images and dropped features in batches of their own, and label apart"
        )

    needs_features = True
    settings: Settings

    def step(self, batch: Batch) -> Step:
        """Return a term for each strong view, then one for the perturbed features; of Dice, one for each class."""
        task, threshold, dice = self.task, self.settings.threshold, self.settings.unlabelled_loss == "dice"
        pred_l, pred_u_fp, label = (self._apart if self.settings.apart else self._together)(batch)
        partner = torch.arange(len(label), device=label.prob.device).roll(1)
        views = torch.cat([paste(batch.u_s1, batch.cut1, partner), paste(batch.u_s2, batch.cut2, partner)])
        terms = []
        for pred_u_s, cut in zip(self.student(views).chunk(2), (batch.cut1, batch.cut2), strict=True):
            prob = paste(label.prob, cut, partner)
            if dice:
                terms += cutmix_dice_terms(task, pred_u_s, prob, threshold, label, cut, partner, 0.25)
            else:
                pixels = certain_cross_entropy(task, pred_u_s, prob, threshold)
                terms.append(cutmix_term(pixels, label, cut, partner, 0.25))
        if dice:
            whole = torch.zeros_like(batch.cut1)
            terms += cutmix_dice_terms(task, pred_u_fp, label.prob, threshold, label, whole, partner, 0.5)
        else:
            loss_fp = certain_cross_entropy(task, pred_u_fp, label.prob, threshold).mean((1, 2, 3))
            terms.append(Term(loss_fp, label, coef=0.5))
        return Step(0.5 * segmentation_loss(task, pred_l, batch.y_l), terms)

    def _together(self, batch: Batch) -> tuple[Tensor, Tensor, PseudoLabel]:
        """Return logits of the labelled images and of the dropped features, and the label, all of one decoded batch."""
        _, *preds = decode_twice(self.student, torch.cat([batch.x_l, batch.u_w]), self.settings.dropout)
        (pred_l, pred_u_w), (_, pred_u_fp) = (pred.split([len(batch.x_l), len(batch.u_w)]) for pred in preds)
        return pred_l, pred_u_fp, self.pseudo_label(batch.u_w, self.task.probabilities(pred_u_w))

    def _apart(self, batch: Batch) -> tuple[Tensor, Tensor, PseudoLabel]:
        """Return the same, the label of a pass of its own, and both predictions of decoded batches of their own."""
        label = self.label(self.student, batch.u_w)
        features = self.student.encode(torch.cat([batch.x_l, batch.u_w]))
        labelled = len(batch.x_l)
        clean = [f[:labelled] for f in features]
        dropped = [F.dropout2d(f[labelled:], self.settings.dropout) for f in features]
        pred_l, pred_u_fp = (self.student.head(self.student.decode(each)) for each in (clean, dropped))
        return pred_l, pred_u_fp, label
