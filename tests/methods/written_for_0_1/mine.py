"""Soft pseudo-labels, sharpened."""

from pydantic import Field

from qgbench.losses import pixel_bce, segmentation_loss
from qgbench.methods import Batch, Method, MethodSettings, Step, Term


class Mine(Method):
    """The student's soft labels of the weak view supervise its prediction on the strong view."""

    class Settings(MethodSettings):
        """Settings of Mine."""

        sharpness: float = Field(1.0, gt=0, description="exponent of the soft labels")

    settings: Settings

    def step(self, batch: Batch) -> Step:
        """One term: cross-entropy against the sharpened label, averaged over the pixels of each image."""
        label = self.label(self.student, batch.u_w)
        sharp = label**self.settings.sharpness
        loss = pixel_bce(self.student(batch.u_s1), sharp).mean((1, 2, 3))
        return Step(segmentation_loss(self.student(batch.x_l), batch.y_l), [Term(loss, batch.u_w, label)])
