"""Pseudo-labelling: the network's own confident predictions become targets."""

from typing import Literal

from pydantic import Field

from qgbench.methods import Batch, Method, MethodSettings, Step, Term
from qgbench.methods.losses import certain_cross_entropy, segmentation_loss, soft_dice_loss


class PseudoLabel(Method):
    """Train on hard labels that the student (or its EMA teacher) gives; uncertain pixels carry no loss.

    Source: Lee, ICML-W 2013; settings of arXiv 2606.01753, row PL-T. Its row PL-QW is threshold 0, labels_from teacher,
    loss bce_dice, with QW; the fair twin of that row is the same without QW.

    Deviations
    ----------
    - Lee says neither whether labels are made with dropout nor what normalises them, and the release ships no PL-T:
      here a student labels without dropout, normalised by the unlabelled images, in a pass that trains nothing.
    """

    strong_views = 0
    ema_decay = 0.999
    ema_buffers = "copied"

    class Settings(MethodSettings):
        """Settings of pseudo-labelling."""

        threshold: float = Field(0.9, ge=0, le=1, description="least confidence of a pixel that counts")
        labels_from: Literal["student", "teacher"] = Field("student", description="which network labels")
        loss: Literal["bce", "bce_dice"] = Field("bce", description="of an image: BCE, or 0.5 BCE + 0.5 Dice")

    settings: Settings

    def uses_teacher(self) -> bool:
        """Return whether the teacher labels."""
        return self.settings.labels_from == "teacher"

    def step(self, batch: Batch) -> Step:
        """Return one term: BCE against the hard label, averaged over all pixels; Dice over the certain ones."""
        task, threshold = self.task, self.settings.threshold
        label = self.label(self.teacher or self.student, batch.u_w)
        pred_l, pred_u_w = self.student(batch.x_l), self.student(batch.u_w)
        loss = certain_cross_entropy(task, pred_u_w, label.prob, threshold).mean((1, 2, 3))
        if self.settings.loss == "bce_dice":
            certain = task.confidence(label.prob) >= threshold
            masks = (mask * certain for mask in (task.probabilities(pred_u_w), task.hard(label.prob)))
            loss = 0.5 * loss + 0.5 * soft_dice_loss(task, *masks, smooth=1e-6)
        return Step(segmentation_loss(self.task, pred_l, batch.y_l), [Term(loss, label)])
