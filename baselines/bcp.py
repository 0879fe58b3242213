"""Bidirectional copy-paste: patches are exchanged between labelled and unlabelled images."""

import numpy as np
import torch
from pydantic import Field
from scipy import ndimage
from torch import Tensor

from qgbench.methods import Batch, Build, Method, MethodSettings, Step, Task, Term, probabilities
from qgbench.methods.losses import pixel_cross_entropy, soft_dice_loss


def largest_component(task: Task, prob: Tensor) -> Tensor:
    """Return labels (U, C, H, W) that keep the largest 8-connected component of each class; the rest is background."""
    outside = task.hard(prob)[:, task.lesions].bool().cpu().numpy().copy()
    for mask in outside.reshape(-1, *prob.shape[2:]):
        parts, _ = ndimage.label(mask, np.ones((3, 3)))
        mask &= parts != np.bincount(parts[mask], minlength=1).argmax()
    # The likeliest class of no probabilities is the background.
    return torch.where(torch.from_numpy(outside).any(1, keepdim=True).to(prob.device), task.hard(0 * prob), prob)


def halves(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of the first and the second half of a batch; of an odd one, both have the row in the middle."""
    index = torch.arange(len(rows), device=rows.device)
    return index[: (len(rows) + 1) // 2], index[len(rows) // 2 :]


class BCP(Method):
    """Labelled patches are pasted into unlabelled images and the reverse; truth and EMA teacher label their own parts.

    Source: Bai et al., arXiv 2305.00673: L_in + L_out, alpha 0.5, patch 2/3 of the side, no ramp; the first phase
    (copy-paste among labelled images, whose network then is the teacher too) is 10,000 of 40,000 steps: `warmup`.
    """

    class Settings(MethodSettings):
        """Settings of bidirectional copy-paste."""

        lambda_u: float = Field(1.0, ge=0, description="weight of the unlabelled losses")
        warmup: float = Field(0.25, ge=0, le=1, description="fraction of the budget for training on labels alone")
        ramp: float = Field(0.0, ge=0, le=1, description="fraction of the budget over which it rises linearly")
        alpha: float = Field(0.5, ge=0, description="weight of unlabelled regions beside labelled ones")
        beta: float = Field(2 / 3, ge=0.05, lt=1, description="side of the patch as a share of the image's")

    settings: Settings
    pretrained: Tensor  # bool: the first phase is over

    def __init__(self, build: Build, settings: Settings) -> None:
        super().__init__(build, settings)
        self.register_buffer("pretrained", torch.tensor(False))

    def uses_teacher(self) -> bool:
        """Always: it labels."""
        return True

    def patch(self, image: Tensor) -> Tensor:
        """Draw the one patch of this step: (1, 1, H, W) bool, True inside."""
        inside = torch.zeros_like(image[:1, :1], dtype=torch.bool)
        sides = [int(side * self.settings.beta) for side in image.shape[2:]]
        top, left = (int(torch.randint(n - side + 1, ())) for n, side in zip(image.shape[2:], sides, strict=True))
        inside[..., top : top + sides[0], left : left + sides[1]] = True
        return inside

    def region_loss(self, logits: Tensor, target: Tensor, region: Tensor) -> Tensor:
        """Return 0.5 CE + 0.5 Dice inside a region (1, 1, H, W): (N, C, H, W) twice -> (N,)."""
        pixels = pixel_cross_entropy(self.task, logits, target) * region
        dice = soft_dice_loss(self.task, self.task.probabilities(logits) * region, target * region)
        return 0.5 * (pixels.sum((1, 2, 3)) / region.sum()) + 0.5 * dice

    def step(self, batch: Batch) -> Step:
        """Two terms, the unlabelled regions around and inside labelled patches; none in the first phase."""
        x_l, y_l, u_w, inside, loss = batch.x_l, batch.y_l, batch.u_w, self.patch(batch.x_l), self.region_loss
        if batch.progress < self.settings.warmup:
            pred_l = self.student(torch.where(inside, x_l.roll(1, 0), x_l))
            return Step((loss(pred_l, y_l, ~inside) + loss(pred_l, y_l.roll(1, 0), inside)).mean())
        assert self.teacher is not None
        if not self.pretrained:
            self.teacher.load_state_dict(self.student.state_dict())
            self.pretrained.fill_(True)
        label = self.pseudo_label(u_w, largest_component(self.task, probabilities(self.teacher, u_w)), self.teacher)
        target = self.task.hard(label.prob)
        (l_a, l_b), (u_a, u_b) = halves(x_l), halves(u_w)
        row = torch.arange(max(len(l_a), len(u_a)), device=u_w.device)
        l_a, l_b, u_a, u_b = (half[row % len(half)] for half in (l_a, l_b, u_a, u_b))
        pred_out = self.student(torch.where(inside, x_l[l_a], u_w[u_a]))
        pred_in = self.student(torch.where(inside, u_w[u_b], x_l[l_b]))
        supervised = loss(pred_out, y_l[l_a], inside) + loss(pred_in, y_l[l_b], ~inside)
        parts, alpha = ((pred_out, u_a, ~inside), (pred_in, u_b, inside)), self.settings.alpha
        terms = [Term(loss(p, target[u], r), label, owner=u, coef=alpha) for p, u, r in parts]
        return Step(supervised.mean(), terms)
