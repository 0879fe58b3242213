"""CorrMatch: labels spread along correlations between the features of pixels."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from qgbench.baselines.unimatch import UniMatch, certain_bce, cutmix_term, paste
from torch import Tensor, nn

from qgbench.methods import Batch, Method, Step, Term, certainty, pixel_bce, probabilities, segmentation_loss


class CorrMatch(Method):
    """Certain labels spread over regions of correlated pixels; predictions spread along correlations are trained too.

    Source: Sun et al., arXiv 2306.04300 and its code: (0.5 L_x + 0.5 L_x_corr + 0.25 (L_hard + L_soft + L_fp) + 0.125
    (L_corr_s + L_corr_w)) / 2, no ramp; threshold from 0.85, averaged over 1000 of 52,900 steps; layers of its head.
    Two classes: one logit is the difference of two and spreading is linear, so that nothing is lost; the compared
    vectors keep the length that they have on Pascal, the number of classes there: with 2 their correlations had rank 2.
    """

    class Settings(UniMatch.Settings):
        """Settings of CorrMatch."""

        threshold: float = Field(0.85, ge=0.5, le=1, description="least max(p, 1 - p) of a pixel that counts, at first")
        span: float = Field(0.019, gt=0, description="fraction of the budget over which the threshold is averaged")
        regions: int = Field(128, ge=1, description="pixels whose regions of correlated pixels are tried")
        compared: int = Field(21, ge=1, description="length of the vectors that are compared")

    needs_features = True
    settings: Settings
    threshold: Tensor
    seen: Tensor  # progress at the threshold's last update

    def __init__(self, build: Callable[[], nn.Module], settings: Settings) -> None:
        super().__init__(build, settings)
        self.register_buffer("threshold", torch.tensor(settings.threshold))
        self.register_buffer("seen", torch.tensor(0.0))
        student: Any = self.student.eval()
        with torch.no_grad():
            channels = _grid(student.encode(torch.zeros(1, 3, 224, 224)), 224, 224).shape[1]
        student.train()
        project = nn.Conv2d(channels, 256, 3, padding=1), nn.BatchNorm2d(256), nn.ReLU(), nn.Dropout2d(0.1)
        self.compare = nn.Sequential(*project, nn.Conv2d(256, 2 * settings.compared, 1))

    def correlate(self, features: list[Tensor], logits: Tensor) -> tuple[Tensor, Tensor]:
        """Correlations of the pixels of a grid of stride 8, (N, P, P), and logits (N, 1, H, W) spread along them."""
        grid = _grid(features, *logits.shape[2:])
        query, key = self.compare(grid).flatten(2).chunk(2, 1)
        correlation = torch.softmax(query.transpose(1, 2) @ key / query.shape[1] ** 0.5, 2)
        coarse = _resized(logits.detach(), *grid.shape[2:])
        return correlation, _resized((coarse.flatten(2) @ correlation).view_as(coarse), *logits.shape[2:])

    @torch.no_grad()
    def update_threshold(self, prob: Tensor, progress: float) -> Tensor:
        """Average in the highest certainty of each class, over the classes that are predicted."""
        highest = [certainty(prob)[pixels].max() for pixels in (prob > 0.5, prob <= 0.5) if pixels.any()]
        share = -torch.expm1((self.seen - progress).clamp_max(0.0) / self.settings.span)
        self.seen.fill_(progress)
        return self.threshold.lerp_(torch.stack(highest).mean(), share)

    @torch.no_grad()
    def spread(self, prob: Tensor, correlation: Tensor) -> Tensor:
        """Give a region the class of its certain pixels if nearly all are certain and agree: (U, 1, H, W) -> the same.

        Where regions disagree, the majority of them decides.
        """
        height, width = prob.shape[2:]
        rows = correlation[:, torch.randint(correlation.shape[1], (self.settings.regions,))]
        labels = []
        for flat, maps in zip(prob.flatten(1), rows.unflatten(2, (height // 8, width // 8)), strict=True):
            maps = _resized(maps[None], height, width)[0].flatten(1)
            region = 2 * maps > maps.amax(1, keepdim=True) + maps.amin(1, keepdim=True)
            certain = region & (certainty(flat) >= self.threshold)
            count, foreground = certain.sum(1), (certain & (flat > 0.5)).sum(1)
            agreed = torch.maximum(foreground, count - foreground) > self.threshold * count
            accepted = agreed & (count >= self.threshold * region.sum(1))
            votes = ((accepted * (2 * foreground - count).sign())[:, None] * region).sum(0)
            labels.append(torch.where(votes == 0, flat, (votes > 0).float()))
        return torch.stack(labels).view_as(prob)

    def step(self, batch: Batch) -> Step:
        """Five terms: strong view (hard, soft), perturbed features, spread predictions (strong, weak)."""
        student: Any = self.student
        u_w, cut, labelled = batch.u_w, batch.cut1, len(batch.x_l)
        prob = probabilities(student, u_w)
        threshold = self.update_threshold(prob, batch.progress)
        features = student.encode(torch.cat([batch.x_l, u_w]))
        pred = student.decode([torch.cat([f, F.dropout2d(f[labelled:], self.settings.dropout)]) for f in features])
        pred, pred_fp = pred.split([labelled + len(u_w), len(u_w)])
        correlation, pred_corr = self.correlate(features, pred)
        label = self.pseudo_label(u_w, prob)
        spread = self.pseudo_label(u_w, self.spread(prob, correlation[labelled:]))
        partner = torch.arange(len(u_w), device=u_w.device).roll(1)
        features_s = student.encode(paste(batch.u_s1, cut, partner))
        pred_s = student.decode(features_s)
        _, pred_s_corr = self.correlate(features_s, pred_s)
        hard, soft = paste(spread, cut, partner), paste(label, cut, partner)
        divergence = pixel_bce(pred_s, soft) - torch.special.entr(soft) - torch.special.entr(1.0 - soft)
        pasted = (
            (certain_bce(pred_s, hard, threshold), spread, 0.25),
            (divergence * (certainty(soft) >= threshold), label, 0.25),
            (certain_bce(pred_s_corr, hard, threshold), spread, 0.125),
        )
        terms = [cutmix_term(pixels, u_w, judged, cut, partner, coef) for pixels, judged, coef in pasted]
        for weak, coef in ((pred_fp, 0.25), (pred_corr[labelled:], 0.125)):
            terms.append(Term(certain_bce(weak, label, threshold).mean((1, 2, 3)), u_w, label, coef=coef))
        loss_x = segmentation_loss(pred[:labelled], batch.y_l) + segmentation_loss(pred_corr[:labelled], batch.y_l)
        return Step(0.25 * loss_x, terms)


def _resized(maps: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(maps.float(), (height, width), mode="bilinear", align_corners=True)


def _grid(features: list[Tensor], height: int, width: int) -> Tensor:
    """Join the features of stride 8 and more (the coarsest, if there are none) on a grid of stride 8."""
    coarse = [f for f in features if 8 * f.shape[2] <= height] or features[-1:]
    return torch.cat([_resized(f, height // 8, width // 8) for f in coarse], 1)
