"""Bidirectional copy-paste: patches are exchanged between labelled and unlabelled images."""

import numpy as np
import torch
from pydantic import Field
from scipy import ndimage
from torch import Tensor

from qgbench.methods import Batch, Build, Method, MethodSettings, Step, Task, Term, training_probabilities
from qgbench.methods.losses import pixel_cross_entropy


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

    Source: Bai et al., arXiv 2305.00673 and its code for ACDC: 0.5 cross-entropy + 0.5 Dice of the whole batch, for
    each region alone; alpha 0.5, patch 2/3 of the side, no ramp; the teacher labels in training mode, decay 0.99. The
    first phase, copy-paste among labelled images, is 10,000 of 40,000 steps (`warmup`); its best network on the
    validation images begins the second, as student and as teacher.

    Deviations
    ----------
    - In the first phase every labelled image gets a patch of another; the authors paste one half of the batch into the
      other half and so train on half as many mixed images.
    - The optimiser goes on where the first phase ended; the authors go back to its state at the best validation.
    - The first phase is validated as often as the rest of the run, at equal intervals; the authors validate 50 times.
    """

    class Settings(MethodSettings):
        """Settings of bidirectional copy-paste."""

        lambda_u: float = Field(1.0, ge=0, description="weight of the unlabelled losses")
        warmup: float = Field(0.25, ge=0, le=1, description="fraction of the budget for training on labels alone")
        ramp: float = Field(0.0, ge=0, le=1, description="fraction of the budget over which it rises linearly")
        alpha: float = Field(0.5, ge=0, description="weight of unlabelled regions beside labelled ones")
        beta: float = Field(2 / 3, ge=0.05, lt=1, description="side of the patch as a share of the image's")

    settings: Settings
    ema_decay = 0.99
    ema_buffers = "averaged"
    best: Tensor  # highest validation Dice of the first phase; infinite once that is over

    def __init__(self, build: Build, settings: Settings) -> None:
        super().__init__(build, settings)
        self.register_buffer("best", torch.tensor(-1.0))

    def uses_teacher(self) -> bool:
        """Always: it labels."""
        return True

    def teacher_decay(self, step: int) -> float:
        """Return the constant decay: the teacher begins as a trained network."""
        return self.ema_decay

    def update_teacher(self, decay: float) -> None:
        """Average, in the second phase; in the first the teacher is the best student so far."""
        if self.best > 1:
            super().update_teacher(decay)

    def validated(self, dice: float) -> None:
        """Keep the best student of the first phase."""
        if self.best < dice:
            self._keep(dice)

    def _keep(self, dice: float) -> None:
        assert self.teacher is not None
        self.teacher.load_state_dict(self.student.state_dict())
        self.best.fill_(dice)

    def patch(self, image: Tensor) -> Tensor:
        """Draw the one patch of this step: (1, 1, H, W) bool, True inside."""
        inside = torch.zeros_like(image[:1, :1], dtype=torch.bool)
        sides = [int(side * self.settings.beta) for side in image.shape[2:]]
        top, left = (int(torch.randint(n - side + 1, ())) for n, side in zip(image.shape[2:], sides, strict=True))
        inside[..., top : top + sides[0], left : left + sides[1]] = True
        return inside

    def region_losses(self, logits: Tensor, target: Tensor, region: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return losses of a region (1, 1, H, W) as sums to be divided: cross-entropy, then Dice of each class.

        Each is a pair (N,), (N,) of rows whose sums' quotient is the loss of the batch; Dice with squared
        denominators, the background's among them.
        """
        pixels = (pixel_cross_entropy(self.task, logits, target) * region).sum((1, 2, 3)) / region.sum()
        prob, truth = self.task.with_background(self.task.probabilities(logits)), self.task.with_background(target)
        overlap = (prob * truth * region).sum((2, 3))
        size = ((prob.square() + truth.square()) * region).sum((2, 3))
        dice = zip((size - 2 * overlap).T, (size + 1e-10 / len(logits)).T, strict=True)
        return [(pixels, torch.ones_like(pixels)), *dice]

    def coefficients(self) -> list[float]:
        """Return the weights of what `region_losses` gives: half for cross-entropy, half for the mean of Dice."""
        classes = len(self.task.classes) + 1
        return [0.5] + [0.5 / classes] * classes

    def supervised_loss(self, logits: Tensor, target: Tensor, region: Tensor) -> Tensor:
        """Return the loss of a region whose truth is known: a scalar."""
        losses = self.region_losses(logits, target, region)
        quotients = torch.stack([rows.sum() / divisor.sum().clamp_min(1e-10) for rows, divisor in losses])
        return (quotients * quotients.new_tensor(self.coefficients())).sum()

    def step(self, batch: Batch) -> Step:
        """Return the losses of each unlabelled region, around and inside labelled patches; none in the first phase."""
        x_l, y_l, u_w, inside, loss = batch.x_l, batch.y_l, batch.u_w, self.patch(batch.x_l), self.supervised_loss
        if batch.progress < self.settings.warmup:
            pred_l = self.student(torch.where(inside, x_l.roll(1, 0), x_l))
            return Step(loss(pred_l, y_l, ~inside) + loss(pred_l, y_l.roll(1, 0), inside))
        assert self.teacher is not None
        if self.best <= 1:
            if self.best < 0:
                self._keep(0.0)
            self.student.load_state_dict(self.teacher.state_dict())
            self.best.fill_(torch.inf)
        prob = torch.cat([training_probabilities(self.teacher, half) for half in u_w.chunk(2)])
        label = self.pseudo_label(u_w, largest_component(self.task, prob), self.teacher)
        target = self.task.hard(label.prob)
        (l_a, l_b), (u_a, u_b) = halves(x_l), halves(u_w)
        row = torch.arange(max(len(l_a), len(u_a)), device=u_w.device)
        l_a, l_b, u_a, u_b = (half[row % len(half)] for half in (l_a, l_b, u_a, u_b))
        pred_out = self.student(torch.where(inside, x_l[l_a], u_w[u_a]))
        pred_in = self.student(torch.where(inside, u_w[u_b], x_l[l_b]))
        supervised = loss(pred_out, y_l[l_a], inside) + loss(pred_in, y_l[l_b], ~inside)
        terms = [
            Term(rows, label, denominator=divisor, owner=owner, coef=self.settings.alpha * coef)
            for pred, owner, region in ((pred_out, u_a, ~inside), (pred_in, u_b, inside))
            for coef, (rows, divisor) in zip(
                self.coefficients(), self.region_losses(pred, target[owner], region), strict=True
            )
        ]
        return Step(supervised, terms)
