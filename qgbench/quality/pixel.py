"""Judges that correct a mask, and ask how far the corrected one is from it.

Error correcting supervision (Mendel et al., ECCV 2020) and ErrorNet (Tajbakhsh et al., ISBI 2020) train a second
network so on images with masks: to put the mask right. Here it learns from the masks that g learns from.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from qgbench.archs.build import SegmentationNetwork, build_network
from qgbench.archs.weights import Weights
from qgbench.methods.losses import segmentation_loss
from qgbench.quality.predictor import QualityPredictor, regression_head, widen
from qgbench.quality.scores import soft_overlap
from qgbench.spec.protocol import QualitySettings

DECODER = (128, 64, 32, 16, 16)  # widths, as those of the protocol small


def unet(settings: QualitySettings, weights: Weights, size: int, predictor: QualityPredictor) -> SegmentationNetwork:
    """Return a U-Net on g's backbone for a predictor's task.

    Raises
    ------
    UserError, QGBenchError
        As `build_network`.
    """
    return build_network("unet", settings.backbone, weights, DECODER, size, predictor.task)


class PixelPredictor(QualityPredictor):
    """A U-Net on RGB + masks that predicts the true mask; q is the soft Dice of the two masks.

    The first convolution is widened as g's; masks enter it as 0 and 1.
    """

    form = "pixel"

    def _build(self, settings: QualitySettings, weights: Weights, size: int) -> None:
        network, classes = unet(settings, weights, size, self), len(self.task.classes)
        widen(network.body.encoder, classes)
        for name, own in (("mean", 0.0), ("std", 1.0)):
            values = torch.cat([getattr(network, name), torch.full((1, classes, 1, 1), own)], 1)
            network.register_buffer(name, values, persistent=False)
        self.network = network

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """Return the soft Dice of masks with the corrected ones: parameters and result as of `QualityPredictor`."""
        return self._quality(self.network(torch.cat([image, mask], 1)), mask)

    def refined(self, image: Tensor, label: Tensor) -> Tensor:
        """Return the corrected masks of labels, as probabilities.

        Parameters
        ----------
        image : (B, 3, H, W)
            RGB in [0, 1].
        label : (B, C, H, W)
            Probabilities, which are cut first, as are the masks of its training.

        Returns
        -------
        (B, C, H, W) float32 in [0, 1].
        """
        hard = self.task.hard(label)[:, self.task.lesions]
        return self.task.probabilities(self.network(torch.cat([image, hard], 1)))

    def loss(self, image: Tensor, mask: Tensor, dice: Tensor, truth: Tensor) -> Tensor:
        """Return `segmentation_loss` with the true masks."""
        return segmentation_loss(self.task, self.network(torch.cat([image, mask], 1)), truth)

    def _quality(self, logits: Tensor, mask: Tensor) -> Tensor:
        prob = self.task.probabilities(logits)[:, self.task.lesions]
        return self._shaped(soft_overlap(prob, mask.float()))


class BothPredictor(PixelPredictor):
    """The same U-Net with g's head on the encoder's last features as well; q is the mean of what the two say."""

    form = "both"

    def _build(self, settings: QualitySettings, weights: Weights, size: int) -> None:
        super()._build(settings, weights, size)
        with torch.no_grad():
            width = self.network.eval().encode(torch.zeros(1, 3 + len(self.task.classes), size, size))[-1].shape[1]
        self.head = regression_head(settings, width, len(self.task.classes))

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """Return the mean of the soft Dice and of the head's: parameters and result as of `QualityPredictor`."""
        logits, told = self._told(image, mask)
        return (self._quality(logits, mask) + told) / 2

    def loss(self, image: Tensor, mask: Tensor, dice: Tensor, truth: Tensor) -> Tensor:
        """Return the sum of `segmentation_loss` with the true masks and of the smooth L1 of the head's q."""
        logits, told = self._told(image, mask)
        return segmentation_loss(self.task, logits, truth) + F.smooth_l1_loss(told, dice)

    def _told(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        features = self.network.encode(torch.cat([image, mask], 1))
        told = torch.sigmoid(self.head(features[-1].mean((2, 3))).float())
        return self.network.head(self.network.decode(features)), self._shaped(told)
