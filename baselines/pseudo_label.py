"""Pseudo-labelling: the network's own confident predictions become targets."""

from typing import Literal

from pydantic import Field

from qgbench.methods import Batch, Method, MethodSettings, Step, Term
from qgbench.methods.losses import certain_cross_entropy, segmentation_loss


class PseudoLabel(Method):
    """Train on hard labels that the student (or its EMA teacher) gives; uncertain pixels carry no loss.

    Source: Lee, ICML-W 2013; settings of arXiv 2606.01753, row PL-T.
    The fair twin of its row PL-QW is threshold 0, labels_from teacher.
    """

    class Settings(MethodSettings):
        """Settings of pseudo-labelling."""

        threshold: float = Field(0.9, ge=0, le=1, description="least max(p, 1 - p) of a pixel that counts")
        labels_from: Literal["student", "teacher"] = Field("student", description="which network labels")

    settings: Settings

    def uses_teacher(self) -> bool:
        """A teacher is kept only if it labels."""
        return self.settings.labels_from == "teacher"

    def step(self, batch: Batch) -> Step:
        """One term: BCE against the hard label, averaged over all pixels of the image."""
        label = self.label(self.teacher or self.student, batch.u_w)
        pred_l, pred_u_w = self.student(batch.x_l), self.student(batch.u_w)
        loss = certain_cross_entropy(self.task, pred_u_w, label.prob, self.settings.threshold).mean((1, 2, 3))
        return Step(segmentation_loss(self.task, pred_l, batch.y_l), [Term(loss, label)])
