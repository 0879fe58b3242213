"""Bidirectional copy-paste: patches are exchanged between labelled and unlabelled images."""

import torch
from pydantic import Field
from torch import Tensor

from qgbench.methods import Batch, Build, Method, MethodSettings, Step, Term, regions, training_probabilities
from qgbench.methods.losses import batch_dice_loss


class BCP(Method):
    """Labelled patches are pasted into unlabelled images and the reverse; truth and EMA teacher label their own parts.

    Source: Bai et al., arXiv 2305.00673 and its code for ACDC: 0.5 cross-entropy + 0.5 Dice of the whole batch, for
    each region alone; alpha 0.5, patch 2/3 of the side, no ramp; the teacher labels in training mode, decay 0.99. The
    first phase, copy-paste among labelled images, is 10,000 of 40,000 steps (`warmup`); its best network on the
    validation images, whose masks so take part in the training, begins the second, as student and as teacher.

    Deviations
    ----------
    - Where there are more unlabelled images than labelled ones, a labelled image is mixed with several, and counts
      several times in a batch's normalisation and Dice; the authors have as many of both.
    - One learning rate falls along a cosine through both phases; the authors' is constant in each.
    - In the first phase every labelled image gets a patch of another; the authors paste one half of the batch into the
      other half and so train on half as many mixed images.
    - The optimiser goes on where the first phase ended; the authors go back to its state at the best validation.
    - The first phase is validated as often as the rest of the run, at equal intervals: 2 times where a run is 10 times,
      and the last fifth of its steps is then given up. The authors validate it 50 times.
    """

    strong_views = 0

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
        """Return True: the teacher labels."""
        return True

    def teacher_decay(self, step: int) -> float:
        """Return 0.99, from the first update of the second phase on."""
        return self.ema_decay

    def update_teacher(self, decay: float) -> None:
        """Average, in the second phase; in the first the teacher is the best student so far."""
        if self.best > 1:
            super().update_teacher(decay)

    def validated(self, dice: float) -> None:
        """Keep the best student of the first phase."""
        if self.best < dice:
            assert self.teacher is not None
            self.teacher.load_state_dict(self.student.state_dict())
            self.best.fill_(dice)

    def losses(self, logits: Tensor, target: Tensor, region: Tensor) -> list[tuple[Tensor, Tensor, float]]:
        """Return rows, divisors and weights of the losses of a region: half is cross-entropy, half the mean of Dice."""
        dsc = batch_dice_loss(self.task, self.task.probabilities(logits), target, region)
        return [(*regions.cross_entropy(self.task, logits, target, region), 0.5), *((*d, 0.5 / len(dsc)) for d in dsc)]

    def supervised(self, logits: Tensor, target: Tensor, region: Tensor) -> Tensor:
        """Return the loss of a region whose truth is known: a scalar."""
        return torch.stack([c * a.sum() / b.sum() for a, b, c in self.losses(logits, target, region)]).sum()

    def step(self, batch: Batch) -> Step:
        """Return the losses of each unlabelled region, around and inside labelled patches; none in the first phase."""
        x_l, y_l, u_w, loss = batch.x_l, batch.y_l, batch.u_w, self.supervised
        inside = regions.draw_patch(x_l, self.settings.beta)
        if batch.progress < self.settings.warmup:
            pred_l = self.student(torch.where(inside, x_l.roll(1, 0), x_l))
            return Step(loss(pred_l, y_l, ~inside) + loss(pred_l, y_l.roll(1, 0), inside))
        assert self.teacher is not None
        if self.best <= 1:
            self.validated(0.0)  # where no validation came before
            self.student.load_state_dict(self.teacher.state_dict())
            self.best.fill_(torch.inf)
        prob = torch.cat([training_probabilities(self.teacher, half) for half in u_w.chunk(2)])
        label = self.pseudo_label(u_w, regions.largest_component(self.task, prob), self.teacher)
        target = self.task.hard(label.prob)
        (l_a, l_b), (u_a, u_b) = regions.paired_halves(x_l, u_w)
        pred_out = self.student(torch.where(inside, x_l[l_a], u_w[u_a]))
        pred_in = self.student(torch.where(inside, u_w[u_b], x_l[l_b]))
        terms = [
            Term(rows, label, divisor, owner, coef=self.settings.alpha * coef)
            for pred, owner, region in ((pred_out, u_a, ~inside), (pred_in, u_b, inside))
            for rows, divisor, coef in self.losses(pred, target[owner], region)
        ]
        return Step(loss(pred_out, y_l[l_a], inside) + loss(pred_in, y_l[l_b], ~inside), terms)
