"""Pseudo-labelling in which confident images count more."""

from pydantic import Field

from qgbench.methods import Batch, Method, MethodSettings, Step, Term
from qgbench.methods.losses import pixel_cross_entropy, segmentation_loss


class PseudoLabelConfidence(Method):
    """Train on the student's own hard labels, each image weighted by how confident the student is of it.

    Source: Lee, ICML-W 2013; settings of arXiv 2606.01753, row PL-C.

    Deviations
    ----------
    - The release names the row's settings, threshold 0.9 and temperature 2, and omits the method: here the weight is
      the paper's own (Eqn 7) with an image's mean certainty c in the place of quality: c**temperature, 0 below the
      threshold. Other code cuts single pixels; here the threshold is one of whole images, all of whose pixels then
      count.
    - What normalises labels is not said either: here a student labels without dropout, normalised by the unlabelled
      images, in a pass that trains nothing.
    """

    strong_views = 0

    class Settings(MethodSettings):
        """Settings of pseudo-labelling weighted by confidence."""

        threshold: float = Field(0.9, ge=0, le=1, description="least mean confidence of an image that counts")
        temperature: float = Field(2.0, ge=0, description="exponent of that mean in an image's weight")

    settings: Settings

    def step(self, batch: Batch) -> Step:
        """Return one term: BCE against the hard label, averaged over the image, times the image's weight."""
        label = self.label(self.student, batch.u_w)
        pred_l, pred_u_w = self.student(batch.x_l), self.student(batch.u_w)
        confidence = self.task.confidence(label.prob).mean((1, 2, 3))
        weight = confidence**self.settings.temperature * (confidence >= self.settings.threshold)
        loss = weight * pixel_cross_entropy(self.task, pred_u_w, self.task.hard(label.prob)).mean((1, 2, 3))
        return Step(segmentation_loss(self.task, pred_l, batch.y_l), [Term(loss, label, denominator=weight)])
