"""CorrMatch: labels spread along correlations between the features of pixels."""

import torch
from pydantic import Field
from torch import Tensor

from qgbench.baselines.unimatch import decode_twice
from qgbench.methods import Batch, Build, Method, MethodSettings, Step, Term, feature_shapes
from qgbench.methods.correlation import CorrelationHead, spread_over_regions
from qgbench.methods.cutmix import cutmix_term, paste
from qgbench.methods.losses import certain_cross_entropy, pixel_divergence, segmentation_loss


class CorrMatch(Method):
    """Certain labels spread over regions of correlated pixels; predictions spread along correlations are trained too.

    Source: Sun et al., arXiv 2306.04300 and its code: (0.5 L_x + 0.5 L_x_corr + 0.25 (L_hard + L_soft + L_fp) + 0.125
    (L_corr_s + L_corr_w)) / 2, no ramp; threshold from 0.85, momentum 0.999 a step; layers of its head. Labelled and
    weak images are decoded twice in one batch, clean and with dropped features, as in unimatch; the clean weak half is
    the label. The momentum is not scaled with the budget: it averages over batches, as BatchNorm's does, and in 200
    steps must not reach 1 in ten. Two classes: one logit is the difference of two and spreading is linear, so that
    nothing is lost.

    Deviations
    ----------
    - The authors take a CutMix box from another batch, and label it in evaluation mode; here it comes from the image
      before in the same batch, with the label that this has: each image has one label, which can be judged.
    - Their regions end at the box, and pixels in it keep the label that they have; here a label is spread over its
      whole image, then pasted, so that a pasted pixel trusts one image alone.
    - Where their regions overlap, the last of a random order decides; here most of them do, in no order.
    - Inside the box, their soft term holds the prediction to the probabilities of the image that is covered there; here
      to those of the image that is seen.
    - They compare the coarsest features, which dilation keeps at stride 8; here all of stride 8 or more, resized to 8.
    - Their compared vectors have an entry for each class, 21 on Pascal; here always 21: with two classes, correlations
      would have rank 2.
    - They drop channels of the finest and the coarsest features, all that their DeepLab decodes; here of all.
    - Their supervised losses are cross-entropy alone.
    - Their decoder learns at 10 times the encoder's rate; here both have one rate.
    """

    strong_views = 1

    class Settings(MethodSettings):
        """Settings of CorrMatch."""

        lambda_u: float = Field(0.5, ge=0, description="weight of the unlabelled losses; the supervised ones have 0.5")
        warmup: float = Field(0.0, ge=0, le=1, description="fraction of the budget before the unlabelled losses start")
        ramp: float = Field(0.0, ge=0, le=1, description="fraction of the budget over which it rises linearly")
        threshold: float = Field(0.85, ge=0.5, le=1, description="least confidence of a pixel that counts, at first")
        dropout: float = Field(0.5, ge=0, lt=1, description="share of the weak view's feature channels that is dropped")
        momentum: float = Field(0.999, ge=0, le=1, description="share of the threshold that a step keeps")
        regions: int = Field(128, ge=1, le=4096, description="pixels whose regions of correlated pixels are tried")
        compared: int = Field(21, ge=1, le=4096, description="length of the vectors that are compared")

    needs_features = True
    settings: Settings
    threshold: Tensor

    def __init__(self, build: Build, settings: Settings) -> None:
        super().__init__(build, settings)
        self.register_buffer("threshold", torch.tensor(settings.threshold))
        self.compare = CorrelationHead(feature_shapes(self.student), self.student.size, settings.compared)

    @torch.no_grad()
    def update_threshold(self, prob: Tensor) -> Tensor:
        """Move the threshold towards the mean of each predicted class's highest certainty, and return it."""
        confidence = self.task.confidence(prob)
        highest = [confidence[pixels].max() for pixels in self.task.pixels(prob) if pixels.any()]
        return self.threshold.lerp_(torch.stack(highest).mean(), 1.0 - self.settings.momentum)

    def step(self, batch: Batch) -> Step:
        """Return five terms: strong view (hard, soft), perturbed features, spread predictions (strong, weak)."""
        student = self.student
        u_w, cut, labelled = batch.u_w, batch.cut1, len(batch.x_l)
        features, pred, pred_fp = decode_twice(student, torch.cat([batch.x_l, u_w]), self.settings.dropout)
        correlation, pred_corr = self.compare(features, pred)
        prob = self.task.probabilities(pred[labelled:]).detach()
        threshold = self.update_threshold(prob)
        label = self.pseudo_label(u_w, prob)
        regions = spread_over_regions(self.task, prob, correlation[labelled:], self.threshold, self.settings.regions)
        spread = self.pseudo_label(u_w, regions)
        partner = torch.arange(len(u_w), device=u_w.device).roll(1)
        features_s = student.encode(paste(batch.u_s1, cut, partner))
        pred_s = student.head(student.decode(features_s))
        _, pred_s_corr = self.compare(features_s, pred_s)
        hard, soft = paste(spread.prob, cut, partner), paste(label.prob, cut, partner)
        divergence = pixel_divergence(self.task, pred_s, soft)
        pasted = (
            (certain_cross_entropy(self.task, pred_s, hard, threshold), spread, 0.25),
            (divergence * (self.task.confidence(soft) >= threshold), label, 0.25),
            (certain_cross_entropy(self.task, pred_s_corr, hard, threshold), spread, 0.125),
        )
        terms = [cutmix_term(pixels, judged, cut, partner, coef) for pixels, judged, coef in pasted]
        for weak, coef in ((pred_fp[labelled:], 0.25), (pred_corr[labelled:], 0.125)):
            loss = certain_cross_entropy(self.task, weak, label.prob, threshold).mean((1, 2, 3))
            terms.append(Term(loss, label, coef=coef))
        loss_x, loss_corr = (segmentation_loss(self.task, p[:labelled], batch.y_l) for p in (pred, pred_corr))
        return Step(0.25 * (loss_x + loss_corr), terms)
