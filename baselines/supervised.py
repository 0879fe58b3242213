"""Supervised training on the labelled images alone."""

from qgbench.methods import Batch, Method, Step
from qgbench.methods.losses import segmentation_loss


class Supervised(Method):
    """The lower bound of every semi-supervised method, and with all labels the upper bound.

    Source: arXiv 2606.01753, row SUP; loss 0.5 BCE + 0.5 Dice.

    Deviations
    ----------
    - None known beside those that all methods share.
    """

    strong_views = 0
    pseudo_labels = False

    def step(self, batch: Batch) -> Step:
        """Return the supervised loss and no unlabelled term."""
        return Step(segmentation_loss(self.task, self.student(batch.x_l), batch.y_l))
