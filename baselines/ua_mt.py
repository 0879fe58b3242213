"""Uncertainty-aware Mean Teacher: consistency where the teacher is certain."""

import math

import torch
from pydantic import Field
from torch import Tensor

from qgbench.methods import Batch, Method, MethodSettings, Network, Step, Term
from qgbench.methods.losses import segmentation_loss
from qgbench.methods.normalisation import frozen_statistics


class UncertaintyAwareMeanTeacher(Method):
    """Mean Teacher on pixels where the mean of T noisy passes of the teacher has little entropy; more as time goes on.

    Source: Yu et al., arXiv 1907.07034, settings of its code and of arXiv 2606.01753, row UA-MT. The target is a noisy
    pass of its own, as there. Noise is in units of each image's standard deviation (there images are standardised;
    SSL4MIS adds it to [0, 1]). As there, the teacher is in training mode in every pass, dropout and BatchNorm alike;
    its running statistics stay the averages of the student's. The student sees the strong view, as in mean_teacher.
    """

    class Settings(MethodSettings):
        """Settings of the uncertainty-aware Mean Teacher."""

        passes: int = Field(8, ge=1, le=4096, description="noisy passes of the teacher that entropy is estimated from")
        noise: float = Field(0.1, ge=0, description="standard deviation of the teacher's input noise, 1 = the image's")
        clip: float = Field(0.2, ge=0, description="largest noise, in the same unit")
        threshold: float = Field(
            0.75, ge=0, le=1, description="entropy that is allowed at first, 1 = the largest, ln 2 for one class"
        )

    settings: Settings

    def uses_teacher(self) -> bool:
        """Always: the teacher labels and is asked for its uncertainty."""
        return True

    def step(self, batch: Batch) -> Step:
        """One term: squared error summed over certain pixels; their number is the denominator."""
        assert self.teacher is not None
        passes = self._noisy_passes(self.teacher, batch.u_w, self.settings.passes + 1)
        label = self.pseudo_label(batch.u_w, passes[0], self.teacher)
        mean = passes[1:].mean(0)
        entropy = self.task.entropy(mean)
        ramp = math.exp(-5 * (1 - batch.progress) ** 2)
        start = self.settings.threshold
        certain = (entropy < (start + (1 - start) * ramp) * math.log(len(self.task.classes) + 1)).float()
        pred_l, pred_u_s = self.student(batch.x_l), self.student(batch.u_s1)
        loss = ((self.task.probabilities(pred_u_s) - label.prob).square() * certain).sum((1, 2, 3))
        term = Term(loss, label, denominator=certain.sum((1, 2, 3)))
        return Step(segmentation_loss(self.task, pred_l, batch.y_l), [term])

    @torch.no_grad()
    def _noisy_passes(self, teacher: Network, image: Tensor, count: int) -> Tensor:
        """Probabilities (count, U, C, H, W) with noise and dropout, normalised by statistics of the noisy images."""
        spread = image.std((1, 2, 3), keepdim=True)
        limit = self.settings.clip
        probs = []
        with frozen_statistics(teacher.train()):
            for _ in range(count):
                noise = (self.settings.noise * torch.randn_like(image)).clamp(-limit, limit)
                probs.append(self.task.probabilities(teacher(image + spread * noise)))
        teacher.eval()
        return torch.stack(probs)
