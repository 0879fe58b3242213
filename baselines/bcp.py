"""Bidirectional copy-paste: patches are exchanged between labelled and unlabelled images."""

from collections.abc import Callable

import numpy as np
import torch
from pydantic import Field
from scipy import ndimage
from torch import Tensor, nn

from qgbench.methods import Batch, Method, MethodSettings, Step, Term, probabilities
from qgbench.methods.losses import pixel_bce, soft_dice_loss


def largest_component(prob: Tensor) -> Tensor:
    """Set the foreground outside each label's largest 8-connected component to 0: (U, 1, H, W) -> (U, 1, H, W)."""
    kept = []
    for foreground in (prob[:, 0] > 0.5).cpu().numpy():
        parts, _ = ndimage.label(foreground, np.ones((3, 3)))
        kept.append((parts == np.bincount(parts[foreground], minlength=1).argmax()) | ~foreground)
    return prob * torch.from_numpy(np.stack(kept)).to(prob.device).unsqueeze(1)


def region_loss(logits: Tensor, target: Tensor, region: Tensor) -> Tensor:
    """0.5 BCE + 0.5 Dice inside a region (1, 1, H, W): (N, 1, H, W) twice -> (N,)."""
    bce = (pixel_bce(logits, target) * region).sum((1, 2, 3)) / region.sum()
    return 0.5 * bce + 0.5 * soft_dice_loss(torch.sigmoid(logits.float()) * region, target * region)


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

    def __init__(self, build: Callable[[], nn.Module], settings: Settings) -> None:
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

    def step(self, batch: Batch) -> Step:
        """Two terms, the unlabelled regions around and inside labelled patches; none in the first phase."""
        x_l, y_l, u_w, inside = batch.x_l, batch.y_l, batch.u_w, self.patch(batch.x_l)
        if batch.progress < self.settings.warmup:
            pred_l = self.student(torch.where(inside, x_l.roll(1, 0), x_l))
            return Step((region_loss(pred_l, y_l, ~inside) + region_loss(pred_l, y_l.roll(1, 0), inside)).mean())
        assert self.teacher is not None
        if not self.pretrained:
            self.teacher.load_state_dict(self.student.state_dict())
            self.pretrained.fill_(True)
        label = self.pseudo_label(u_w, largest_component(probabilities(self.teacher, u_w)), self.teacher)
        target = (label > 0.5).float()
        (l_a, l_b), (u_a, u_b) = halves(x_l), halves(u_w)
        row = torch.arange(max(len(l_a), len(u_a)), device=u_w.device)
        l_a, l_b, u_a, u_b = (half[row % len(half)] for half in (l_a, l_b, u_a, u_b))
        pred_out = self.student(torch.where(inside, x_l[l_a], u_w[u_a]))
        pred_in = self.student(torch.where(inside, u_w[u_b], x_l[l_b]))
        supervised = region_loss(pred_out, y_l[l_a], inside) + region_loss(pred_in, y_l[l_b], ~inside)
        parts, alpha = ((pred_out, u_a, ~inside), (pred_in, u_b, inside)), self.settings.alpha
        terms = [Term(region_loss(p, target[u], r), u_w, label, owner=u, coef=alpha) for p, u, r in parts]
        return Step(supervised.mean(), terms)
