"""UniMatch V2: two strong views with complementary dropout, supervised by an averaged teacher."""

import torch
from pydantic import Field
from torch import Tensor

from qgbench.methods import Batch, Method, MethodSettings, Step
from qgbench.methods.cutmix import cutmix_term, paste
from qgbench.methods.losses import certain_cross_entropy, segmentation_loss


class UniMatchV2(Method):
    """The EMA teacher's hard labels of the weak view supervise two CutMix strong views with complementary channels.

    Source: Yang et al., TPAMI 2025, arXiv 2410.10777: (L_x + 0.5 L_s1 + 0.5 L_s2) / 2, threshold 0.95, no ramp; of each
    image's features one view keeps the channels that the other drops, except for half of the images. The labelled
    images pass alone, the two strong views in one batch; the teacher labels in evaluation mode.
    Chosen for 2025-26 because it needs one ordinary network and neither a foundation model nor a second student, its
    training logs are public (Pascal, 183 labels, one encoder: 87.9 mIoU, UniMatch 87.5), and later work still takes it
    as the rival.

    Deviations
    ----------
    - Most of its published lead over UniMatch with a ResNet is DINOv2's, which is used here only with --arch dpt
      --encoder vit_small_patch14_dinov2, and then by every method: the run's encoder is all methods'.
    - The four levels of the authors' transformer are equally wide and share one mask, as those of dpt do here; where
      levels differ, as those of convolutional encoders do, each takes the mask's first channels.
    - Their decoder has no batch normalisation; the networks here have some, which sees the two strong views together,
      as they are decoded, and the labelled images alone.
    - Their supervised loss is cross-entropy alone.
    - Their decoder learns at 40 times the encoder's rate; here both have one rate.
    """

    ema_decay = 0.996
    ema_buffers = "averaged"

    class Settings(MethodSettings):
        """Settings of UniMatch V2."""

        lambda_u: float = Field(0.5, ge=0, description="weight of the unlabelled losses; the supervised one has 0.5")
        warmup: float = Field(0.0, ge=0, le=1, description="fraction of the budget before the unlabelled losses start")
        ramp: float = Field(0.0, ge=0, le=1, description="fraction of the budget over which it rises linearly")
        threshold: float = Field(0.95, ge=0, le=1, description="least confidence of a pixel that counts")
        whole: float = Field(0.5, ge=0, le=1, description="share of the images whose features are left whole")

    needs_features = True
    settings: Settings

    def uses_teacher(self) -> bool:
        """Return True: the teacher labels."""
        return True

    def drop(self, features: list[Tensor]) -> list[Tensor]:
        """Return features (2U, C_i, H_i, W_i), all first views first; the two views lose complementary channels.

        All levels have one mask, as far as they have channels.
        """
        images, width = len(features[0]) // 2, max(feature.shape[1] for feature in features)
        kept = torch.randint(0, 2, (images, width, 1, 1)) * 2.0
        kept[torch.randperm(images)[: int(self.settings.whole * images)]] = 1.0
        masks = torch.cat([kept, 2.0 - kept])
        return [feature * masks[:, : feature.shape[1]].to(feature) for feature in features]

    def step(self, batch: Batch) -> Step:
        """Return two terms, one for each strong view."""
        assert self.teacher is not None
        student = self.student
        label = self.label(self.teacher, batch.u_w)
        partner = torch.arange(len(label), device=label.prob.device).flip(0)
        views = torch.cat([paste(batch.u_s1, batch.cut1, partner), paste(batch.u_s2, batch.cut2, partner)])
        pred_l = student(batch.x_l)
        pred_u_s = student.head(student.decode(self.drop(student.encode(views))))
        terms = []
        for pred, cut in zip(pred_u_s.chunk(2), (batch.cut1, batch.cut2), strict=True):
            pixels = certain_cross_entropy(self.task, pred, paste(label.prob, cut, partner), self.settings.threshold)
            terms.append(cutmix_term(pixels, label, cut, partner, 0.5))
        return Step(0.5 * segmentation_loss(self.task, pred_l, batch.y_l), terms)
