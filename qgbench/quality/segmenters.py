"""Judges that are plain segmentation networks of the labels: what g must beat that costs no more than g."""

from itertools import combinations

import torch
from torch import Tensor, nn

from qgbench.archs.weights import Weights
from qgbench.methods.losses import segmentation_loss
from qgbench.quality.pixel import unet
from qgbench.quality.predictor import QualityPredictor
from qgbench.quality.scores import hard_overlap
from qgbench.quality.weak import weak_network
from qgbench.spec.protocol import QualitySettings

_MEMBERS = 3


class SecondPredictor(QualityPredictor):
    """A second segmenter, a U-Net on g's backbone; q is the Dice of a mask with its own prediction.

    It sees the images that g would see, as often, in the same views, and learns from their true masks. The validation
    whose predictions have the highest mean Dice is kept.
    """

    form = "second"

    def _build(self, settings: QualitySettings, weights: Weights, size: int) -> None:
        self.networks = nn.ModuleList([unet(settings, weights, size, self)])

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """Return the Dice of masks with the predicted ones: parameters and result as of `QualityPredictor`."""
        return self._shaped(hard_overlap(self._masks(image)[0], (mask > 0.5).float()))

    def refined(self, image: Tensor, label: Tensor) -> Tensor:
        """Return its own probabilities, whatever the label: parameters and result as of `PixelPredictor`."""
        return self.task.probabilities(self.networks[0](image))

    def loss(self, image: Tensor, mask: Tensor, dice: Tensor, truth: Tensor) -> Tensor:
        """Return `segmentation_loss` of the predictions, averaged over the networks, which share the batch."""
        count = len(self.networks)
        parts = [slice(first, None, count) if len(image) >= 2 * count else slice(None) for first in range(count)]
        losses = [
            segmentation_loss(self.task, network(image[part]), truth[part])
            for network, part in zip(self.networks, parts, strict=True)
        ]
        return torch.stack(losses).mean()

    def skill(self, image: Tensor, truth: Tensor) -> Tensor:
        """Return the mean Dice of its predictions with the true masks: (B, 3, H, W), (B, C, H, W) -> (B,)."""
        found = [hard_overlap(masks, truth[:, self.task.lesions]) for masks in self._masks(image)]
        return torch.stack(found).mean((0, 2))

    def _masks(self, image: Tensor) -> list[Tensor]:
        return [self.task.hard(self.task.probabilities(each(image)))[:, self.task.lesions] for each in self.networks]


class EnsemblePredictor(SecondPredictor):
    """Three small segmenters, as weak models are; q is the mean Dice of their pairs of predictions.

    The mask is not looked at: q says how hard the image is. Each of them sees a third of every batch.
    """

    form = "ensemble"

    def _build(self, settings: QualitySettings, weights: Weights, size: int) -> None:
        members = [weak_network(settings.weak_encoder, size, self.task) for _ in range(_MEMBERS)]
        self.networks = nn.ModuleList(members)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """Return the mean Dice of the three pairs: parameters and result as of `QualityPredictor`."""
        pairs = [hard_overlap(*pair) for pair in combinations(self._masks(image), 2)]
        return self._shaped(torch.stack(pairs).mean(0))
