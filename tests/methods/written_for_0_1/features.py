"""Dropped features."""

import torch.nn.functional as F

from qgbench.losses import segmentation_loss
from qgbench.methods import Batch, Method, Step


class Features(Method):
    """Supervised training with dropped features."""

    needs_features = True
    pseudo_labels = False

    def step(self, batch: Batch) -> Step:
        """Decode what is left of the features: to logits, in qgbench 0.1."""
        features = [F.dropout2d(feature, 0.1) for feature in self.student.encode(batch.x_l)]
        return Step(segmentation_loss(self.student.decode(features), batch.y_l))
