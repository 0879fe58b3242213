"""Mean Teacher: consistency with an averaged teacher."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from qgbench.methods import Batch, Method, MethodSettings, Step, Term
from qgbench.methods.losses import segmentation_loss
from qgbench.spec.settings import Before


class MeanTeacher(Method):
    """Squared error between the student's probabilities and the EMA teacher's on unlabelled images.

    Source: Tarvainen & Valpola, arXiv 1703.01780 and its code; settings and view of arXiv 2606.01753, row MT. Labelled
    and unlabelled images pass the student apart; the teacher sees the unlabelled ones alone.

    Deviations
    ----------
    - The authors' teacher is in training mode, with dropout, normalised by its own batch; here, as in the release of
      the rows, it is in evaluation mode, its running statistics copied from the student. But its weights are averaged
      as the authors', over far more steps than those statistics are, so that early in a run it may label worse than
      the student does; the release's average, of two steps at first, does not part the two.
    - The authors draw a view for each network, with noise; here, as in the release, both see the same weak view. With
      view strong the student sees the strong one.
    - The authors' consistency counts on labelled images, too; here on unlabelled ones alone, as in most later code.
    - The authors' weight rises as exp(-5 (1 - t)^2); here linearly to 0.25, as in the release.
    - The authors' student sees labelled and unlabelled images as one batch (setting apart = false); here, as in the
      release, they are two.
    """

    strong_views = 1  # with view strong
    ema_decay = 0.999
    ema_buffers = "copied"

    class Settings(MethodSettings):
        """Settings of Mean Teacher."""

        view: Annotated[Literal["weak", "strong"], Before("strong")] = Field(
            "weak", description="which view of unlabelled images the student sees; the teacher sees the weak one"
        )
        apart: bool = Field(True, description="labelled and unlabelled images are batches of their own")

    settings: Settings

    def uses_teacher(self) -> bool:
        """Return True: the teacher is the method."""
        return True

    def predict_both(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the student's logits of labelled and of unlabelled images."""
        unlabelled = batch.u_w if self.settings.view == "weak" else batch.u_s1
        images = [batch.x_l, unlabelled]
        preds = torch.cat([self.student(each) for each in (images if self.settings.apart else [torch.cat(images)])])
        pred_l, pred_u = preds.split([len(batch.x_l), len(unlabelled)])
        return pred_l, pred_u

    def step(self, batch: Batch) -> Step:
        """Return one term: mean squared error of probabilities per image."""
        assert self.teacher is not None
        label = self.label(self.teacher, batch.u_w)
        pred_l, pred_u = self.predict_both(batch)
        loss = (self.task.probabilities(pred_u) - label.prob).square().mean((1, 2, 3))
        return Step(segmentation_loss(self.task, pred_l, batch.y_l), [Term(loss, label)])
