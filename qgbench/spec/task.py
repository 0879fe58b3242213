"""What is segmented: the classes, and how logits, probabilities and masks of them look. Imports no torch itself."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qgbench.base.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


MEAN = "mean"
"""How the mean over classes is called beside them; no class may be."""


@dataclass(frozen=True)
class Task:
    """The classes of a segmentation.

    One class (K = 1) has one logit and a sigmoid. Several classes (K > 1) exclude each other: K + 1 logits and a
    softmax, channel 0 is the background. C is the number of logits; masks and probabilities have as many channels.

    Attributes
    ----------
    classes : tuple of str
        Names, without the background.
    """

    classes: tuple[str, ...] = ("lesion",)

    @property
    def channels(self) -> int:
        """C, the number of logits of a pixel: 1 for one class, K + 1 for K > 1."""
        return 1 if len(self.classes) == 1 else len(self.classes) + 1

    @property
    def lesions(self) -> slice:
        """The channels without the background's."""
        return slice(0 if self.channels == 1 else 1, None)

    def probabilities(self, logits: "Tensor") -> "Tensor":
        """Return the probability of each channel: (N, C, H, W) logits -> (N, C, H, W) float32 in [0, 1].

        Raises
        ------
        UserError
            As `require_logits`.
        """
        self.require_logits(logits)
        return logits.float().sigmoid() if self.channels == 1 else logits.float().softmax(1)

    def hard(self, prob: "Tensor") -> "Tensor":
        """Return the mask of the likeliest class: (N, C, H, W) -> the same, 0 or 1; cut at 0.5 for one class."""
        if self.channels == 1:
            return (prob > 0.5).float()
        return prob.new_zeros(prob.shape).scatter_(1, prob.argmax(1, keepdim=True), 1.0)

    def pixels(self, prob: "Tensor") -> "list[Tensor]":
        """Return the pixels of each class, of one class those of the background last: K + 1 masks (N, 1, H, W) bool."""
        hard = self.hard(prob).bool()
        return [hard, ~hard] if self.channels == 1 else list(hard.split(1, 1))

    def with_background(self, prob: "Tensor") -> "Tensor":
        """Return the maps of all classes, of one class the background's last: (N, C, H, W) -> (N, K + 1, H, W)."""
        from torch import cat  # late, as the rest of torch

        return cat([prob, 1.0 - prob], 1) if self.channels == 1 else prob

    def confidence(self, prob: "Tensor") -> "Tensor":
        """Return the probability of each pixel's likeliest class: (N, C, H, W) -> (N, 1, H, W) in [1 / (K + 1), 1]."""
        return prob.maximum(1.0 - prob) if self.channels == 1 else prob.amax(1, keepdim=True)

    def entropy(self, prob: "Tensor") -> "Tensor":
        """Return the entropy of each pixel's classes in nats: (N, C, H, W) -> (N, 1, H, W), at most ln(K + 1).

        A probability of exactly 0 has no gradient; its true one is infinite.
        """
        from torch.special import entr  # late, as the rest of torch

        def finite(share: "Tensor") -> "Tensor":
            return entr(share.where(share > 0, 1.0))

        return finite(prob) + finite(1 - prob) if self.channels == 1 else finite(prob).sum(1, keepdim=True)

    def require_logits(self, logits: "Tensor") -> None:
        """Refuse what has another number of channels than this task has logits.

        Raises
        ------
        UserError
            Says how many there are, and how logits are made of a decoder's features.
        """
        if (given := logits.shape[1]) == self.channels:
            return
        advice = "Where they are features of a decoder, write network.head(network.decode(features))."
        if given in (1, len(self.classes)):
            advice = "The first is the background's, and each class has one: give all."
        raise UserError(f"logits of this task have {self.channels} channel(s), not {given}. {advice}")
