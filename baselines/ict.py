"""Interpolation consistency training: predictions of mixed images are mixed predictions."""

import torch
from pydantic import Field
from torch.distributions import Beta

from qgbench.methods import Batch, Method, MethodSettings, Step, Term
from qgbench.methods.losses import segmentation_loss


class InterpolationConsistency(Method):
    """Squared error between the student on a mixture of two images and the same mixture of the EMA teacher's labels.

    Source: Verma et al., arXiv 1903.03825, Algorithm 1; alpha of arXiv 2606.01753, row ICT. As in the paper, one share
    is drawn per step and probabilities are mixed (SSL4MIS draws a share per pair from Beta(0.2)). The second images are
    a permutation of the first. Both networks see the weak view: mixing is the perturbation. Labelled images and
    mixtures pass the student apart.

    Deviations
    ----------
    - The authors' code mixes the teacher's logits; here probabilities are mixed, as in their Algorithm 1.
    - The authors' teacher is in training mode, normalised by its own batch; here, as in the release of the row, it is
      in evaluation mode, its running statistics copied from the student.
    - The authors' code passes the unmixed images through the student as well, without a loss, which moves its running
      statistics; here it sees mixtures alone.
    - The authors' weight rises as exp(-5 (1 - t)^2); here linearly to 0.25, as in the release.
    """

    strong_views = 0
    ema_decay = 0.999
    ema_buffers = "copied"

    class Settings(MethodSettings):
        """Settings of interpolation consistency training."""

        alpha: float = Field(1.0, gt=0, description="the share of the first image is drawn from Beta(alpha, alpha)")

    settings: Settings

    def uses_teacher(self) -> bool:
        """Return True: the teacher makes the labels that are mixed."""
        return True

    def step(self, batch: Batch) -> Step:
        """Return one term: mean squared error of probabilities per mixed image, a row of two labels."""
        assert self.teacher is not None
        label = self.label(self.teacher, batch.u_w)
        share = Beta(self.settings.alpha, self.settings.alpha).sample().to(label.prob)
        second = torch.randperm(len(label), device=label.prob.device)
        mixed = share * batch.u_w + (1 - share) * batch.u_w[second]
        target = share * label.prob + (1 - share) * label.prob[second]
        pred_l, pred_mixed = self.student(batch.x_l), self.student(mixed)
        loss = (self.task.probabilities(pred_mixed) - target).square().mean((1, 2, 3))
        blend = (second, share.expand(len(label)))
        return Step(segmentation_loss(self.task, pred_l, batch.y_l), [Term(loss, label, blend=blend)])
