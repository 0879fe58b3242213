"""FixMatch for segmentation: confident labels of the weak view supervise the strong view."""

from pydantic import Field

from qgbench.methods import Batch, Method, MethodSettings, Step, Term
from qgbench.methods.losses import certain_cross_entropy, segmentation_loss


class FixMatch(Method):
    """Hard labels of the weak view, kept where the student is confident, supervise its prediction on the strong view.

    Source: Sohn et al., arXiv 2001.07685 (threshold 0.95, lambda 1, no ramp), per pixel as in arXiv 2208.09910.
    """

    class Settings(MethodSettings):
        """Settings of FixMatch."""

        lambda_u: float = Field(1.0, ge=0, description="weight of the unlabelled loss")
        warmup: float = Field(0.0, ge=0, le=1, description="fraction of the budget before the unlabelled loss starts")
        ramp: float = Field(0.0, ge=0, le=1, description="fraction of the budget over which its weight rises linearly")
        threshold: float = Field(0.95, ge=0, le=1, description="least max(p, 1 - p) of a pixel that counts")

    settings: Settings

    def step(self, batch: Batch) -> Step:
        """One term: BCE on the strong view against the weak view's hard label, averaged over all pixels."""
        label = self.label(self.student, batch.u_w)
        pred_l, pred_u_s = self.student(batch.x_l), self.student(batch.u_s1)
        loss = certain_cross_entropy(self.task, pred_u_s, label.prob, self.settings.threshold).mean((1, 2, 3))
        return Step(segmentation_loss(self.task, pred_l, batch.y_l), [Term(loss, label)])
