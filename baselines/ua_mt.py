"""Uncertainty-aware Mean Teacher: consistency where the teacher is certain."""

import math

import torch
from pydantic import Field
from torch import Tensor

from qgbench.baselines.mean_teacher import MeanTeacher
from qgbench.methods import Batch, Network, Step, Term
from qgbench.methods.losses import segmentation_loss
from qgbench.methods.normalisation import frozen_statistics


class UncertaintyAwareMeanTeacher(MeanTeacher):
    """Mean Teacher on pixels where the mean of T noisy passes of the teacher has little entropy; more as time goes on.

    Source: Yu et al., arXiv 1907.07034, settings of its code and of arXiv 2606.01753, row UA-MT. The target is a noisy
    pass of its own, as there. Noise is in units of each image's standard deviation (there images are standardised;
    SSL4MIS adds it to [0, 1]). Labelled and unlabelled images pass the student apart. As there, the teacher sees
    unlabelled images alone, in training mode in every pass, dropout and BatchNorm alike.

    Deviations
    ----------
    - The authors estimate the entropy from passes of two noisy copies of the batch at a time, which are normalised
      together; here each pass is of one copy, as that of the target is.
    - The authors' passes move the teacher's running statistics, which nothing in training uses; here the teacher has
      the student's, so that it can be evaluated.
    - The authors' code, of two classes, halves the sum of squares over these; here it is the mean over any number of
      classes, and the entropy's limit is a share of the ln of that number (SSL4MIS keeps 2 and ln 2 for four classes).
    - The authors' weight is 0.1 exp(-5 (1 - t)^2); here it rises linearly to 0.25, as in the release of the row.
    - The release averages the teacher at up to 0.999 in this row; here at up to 0.99, as the authors do, except in the
      protocol paper, where every method has the release's average.
    - The authors' student sees labelled and unlabelled images as one batch (setting apart = false); here, as in the
      release, they are two.
    """

    ema_decay = 0.99
    ema_buffers = "copied"

    class Settings(MeanTeacher.Settings):
        """Settings of the uncertainty-aware Mean Teacher."""

        passes: int = Field(8, ge=1, le=4096, description="noisy passes of the teacher that entropy is estimated from")
        noise: float = Field(0.1, ge=0, description="standard deviation of the teacher's input noise, 1 = the image's")
        clip: float = Field(0.2, ge=0, description="largest noise, in the same unit")
        threshold: float = Field(
            0.75, ge=0, le=1, description="entropy that is allowed at first, 1 = the largest, ln 2 for one class"
        )

    settings: Settings

    def step(self, batch: Batch) -> Step:
        """Return one term: squared error summed over certain pixels; their number is the denominator."""
        assert self.teacher is not None
        passes = self._noisy_passes(self.teacher, batch.u_w, self.settings.passes + 1)
        label = self.pseudo_label(batch.u_w, passes[0], self.teacher)
        mean = passes[1:].mean(0)
        entropy = self.task.entropy(mean)
        ramp = math.exp(-5 * (1 - batch.progress) ** 2)
        start = self.settings.threshold
        certain = (entropy < (start + (1 - start) * ramp) * math.log(len(self.task.classes) + 1)).float()
        pred_l, pred_u = self.predict_both(batch)
        squares = (self.task.probabilities(pred_u) - label.prob).square().mean(1, keepdim=True)
        loss = (squares * certain).sum((1, 2, 3))
        term = Term(loss, label, denominator=certain.sum((1, 2, 3)))
        return Step(segmentation_loss(self.task, pred_l, batch.y_l), [term])

    @torch.no_grad()
    def _noisy_passes(self, teacher: Network, image: Tensor, count: int) -> Tensor:
        """Return probabilities (count, U, C, H, W) with noise and dropout, by the statistics of the noisy images."""
        spread = image.std((1, 2, 3), keepdim=True)
        limit = self.settings.clip
        probs = []
        with frozen_statistics(teacher.train()):
            for _ in range(count):
                noise = (self.settings.noise * torch.randn_like(image)).clamp(-limit, limit)
                probs.append(self.task.probabilities(teacher(image + spread * noise)))
        teacher.eval()
        return torch.stack(probs)
