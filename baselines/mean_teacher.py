"""Mean Teacher: consistency with an averaged teacher."""

from qgbench.methods import Batch, Method, Step, Term
from qgbench.methods.losses import segmentation_loss


class MeanTeacher(Method):
    """Squared error between the student's probabilities on the strong view and the EMA teacher's on the weak view.

    Source: Tarvainen & Valpola, arXiv 1703.01780; settings of arXiv 2606.01753, row MT.
    """

    def uses_teacher(self) -> bool:
        """Always: the teacher is the method."""
        return True

    def step(self, batch: Batch) -> Step:
        """One term: mean squared error of probabilities per image."""
        assert self.teacher is not None
        label = self.label(self.teacher, batch.u_w)
        pred_l, pred_u_s = self.student(batch.x_l), self.student(batch.u_s1)
        loss = (self.task.probabilities(pred_u_s) - label.prob).square().mean((1, 2, 3))
        return Step(segmentation_loss(self.task, pred_l, batch.y_l), [Term(loss, label)])
