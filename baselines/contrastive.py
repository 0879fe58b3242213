"""Contrastive learning with pseudo-labels: pixels of one class attract, those of two repel."""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from qgbench.methods import Batch, Build, Method, MethodSettings, Step, Term, feature_shapes
from qgbench.methods.losses import certain_cross_entropy, segmentation_loss

_STRIDE = 8  # the coarsest features up to this stride are contrasted: coarser cells mix lesion and ground
_CHANNELS = 128


class Contrastive(Method):
    """Pseudo-labelling, and InfoNCE on projected features: class mean as the positive, other classes as negatives.

    Source: Chaitanya et al., arXiv 2112.09645 (its contrast within an image); head and temperature of arXiv 2101.11939;
    settings of arXiv 2606.01753, row CL. The fair twin of row CL-QW is threshold 0, labels_from teacher.
    Labelled and unlabelled images pass the student apart.

    Deviations
    ----------
    - The release of the row omits the method: how its settings act is read from the papers.
    - Chaitanya et al. label all unlabelled images with a network trained on labels alone, mend the masks by a CRF, and
      label anew every 5,000 steps; here student or teacher labels the images of each step, without a CRF.
    - They contrast 3 pixels a class of the decoder's last features, of labelled images, too, and mostly across images;
      here up to 256 of the encoder's features at stride 8, within each unlabelled image, so that no label leaves it.
    - With Chaitanya et al. labelled and unlabelled images are one batch of the student (setting apart = false); here,
      as in the release, they are two.
    - A student labels without dropout, normalised by the unlabelled images, in a pass that trains nothing: the papers
      label between trainings, not within a step.
    """

    strong_views = 0
    ema_decay = 0.999
    ema_buffers = "copied"

    class Settings(MethodSettings):
        """Settings of contrastive learning with pseudo-labels."""

        threshold: float = Field(0.9, ge=0, le=1, description="least confidence of a pixel that counts")
        labels_from: Literal["student", "teacher"] = Field("student", description="which network labels")
        weight: float = Field(0.1, ge=0, description="weight of the contrastive loss beside the pseudo-label loss")
        temperature: float = Field(0.1, gt=0, description="divisor of cosine similarities")
        apart: bool = Field(True, description="labelled and unlabelled images are batches of their own")
        negatives: int = Field(256, ge=1, le=4096, description="most pixels drawn of a class: anchors, and negatives")

    settings: Settings
    needs_features = True

    def __init__(self, build: Build, settings: Settings) -> None:
        super().__init__(build, settings)
        shapes, size = feature_shapes(self.student), self.student.size
        self.level = max((i for i, (_, side, _) in enumerate(shapes) if side * _STRIDE >= size), default=0)
        hidden = nn.Conv2d(shapes[self.level][0], _CHANNELS, 1)
        self.head = nn.Sequential(hidden, nn.ReLU(), nn.Conv2d(_CHANNELS, _CHANNELS, 1))

    def uses_teacher(self) -> bool:
        """Return whether the teacher labels."""
        return self.settings.labels_from == "teacher"

    def step(self, batch: Batch) -> Step:
        """Return two terms: the pseudo-label loss, and InfoNCE summed over anchors; their number is the denominator."""
        label = self.label(self.teacher or self.student, batch.u_w)
        images = [batch.x_l, batch.u_w]
        features = [self.student.encode(each) for each in (images if self.settings.apart else [torch.cat(images)])]
        preds = torch.cat([self.student.head(self.student.decode(each)) for each in features])
        pred_l, pred_u_w = preds.split([len(batch.x_l), len(batch.u_w)])
        loss = certain_cross_entropy(self.task, pred_u_w, label.prob, self.settings.threshold).mean((1, 2, 3))
        contrast, anchors = self._contrast(features[-1][self.level][-len(batch.u_w) :], label.prob)
        terms = [Term(loss, label), Term(contrast, label, anchors, coef=self.settings.weight)]
        return Step(segmentation_loss(self.task, pred_l, batch.y_l), terms)

    def _contrast(self, feature: Tensor, prob: Tensor) -> tuple[Tensor, Tensor]:
        """Return InfoNCE summed over each image's anchors (U,), and the numbers of these (U,)."""
        pixels = F.normalize(self.head(feature).float().flatten(2).transpose(1, 2), dim=2)
        cells = F.interpolate(prob, feature.shape[2:], mode="area")
        certain = (self.task.confidence(cells) >= self.settings.threshold).flatten(1)
        # As many numbers whatever the labels say: none acts on another image's draw.
        chance = torch.rand(certain.shape, device=cells.device)
        classes = [self._draw(pixels, chance, certain & own.flatten(1)) for own in self.task.pixels(cells)]
        loss = anchors = torch.zeros_like(chance[:, 0])
        for index, (own, present) in enumerate(classes):
            other, rival = (torch.cat(parts, 1) for parts in zip(*classes[:index], *classes[index + 1 :], strict=True))
            mean = F.normalize((own * present.unsqueeze(2)).sum(1, keepdim=True), dim=2)
            positive = (own @ mean.transpose(1, 2)).float() / self.settings.temperature
            negative = (own @ other.transpose(1, 2)).float() / self.settings.temperature
            negative = negative.masked_fill(~rival.unsqueeze(1), -torch.inf)
            anchor = present & rival.any(1, keepdim=True)
            nce = torch.cat([positive, negative], 2).logsumexp(2) - positive.squeeze(2)
            loss, anchors = loss + (nce * anchor).sum(1), anchors + anchor.sum(1)
        return loss, anchors

    def _draw(self, pixels: Tensor, chance: Tensor, candidate: Tensor) -> tuple[Tensor, Tensor]:
        """Return up to `negatives` candidates of each image (U, K, C), and which of the K places are taken."""
        drawn, index = torch.where(candidate, chance, -1.0).topk(min(self.settings.negatives, pixels.shape[1]), dim=1)
        return pixels.gather(1, index.unsqueeze(2).expand(-1, -1, pixels.shape[2])), drawn >= 0
