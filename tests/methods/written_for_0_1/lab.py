"""Methods and networks of a laboratory."""

from torch import Tensor, nn

from qgbench.archs.registry import Arch
from qgbench.losses import pixel_bce, segmentation_loss
from qgbench.methods import Batch, Method, Step, Term


class Hard(Method):
    """Hard labels of the weak view supervise the strong view."""

    def step(self, batch: Batch) -> Step:
        """One term: cross-entropy against the hard label."""
        label = self.label(self.student, batch.u_w)
        loss = pixel_bce(self.student(batch.u_s1), (label > 0.5).float()).mean((1, 2, 3))
        return Step(segmentation_loss(self.student(batch.x_l), batch.y_l), [Term(loss, batch.u_w, label)])


class Soft(Method):
    """Soft labels of an averaged teacher supervise the strong view."""

    def uses_teacher(self) -> bool:
        """Always."""
        return True

    def step(self, batch: Batch) -> Step:
        """One term: cross-entropy against the soft label."""
        assert self.teacher is not None
        label = self.label(self.teacher, batch.u_w)
        loss = pixel_bce(self.student(batch.u_s1), label).mean((1, 2, 3))
        return Step(segmentation_loss(self.student(batch.x_l), batch.y_l), [Term(loss, batch.u_w, label)])


class Convolutions(nn.Module):
    """Two convolutions at full resolution: images (B, 3, H, W) -> a list of one map of features (B, width, H, W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers = [nn.Conv2d(3, width, 5, padding=2), nn.BatchNorm2d(width), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, width, 5, padding=2), nn.ReLU())

    def forward(self, image: Tensor) -> list[Tensor]:
        """Give features, fine to coarse."""
        return [self.layers(image)]


class Last(nn.Module):
    """Passes the last of the features on."""

    def forward(self, features: list[Tensor]) -> Tensor:
        """Give what the segmentation head gets."""
        return features[-1]


class Network(nn.Module):
    """What an Arch builds has these three parts; input is normalised already, output are logits (B, 1, H, W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.encoder = Convolutions(width)
        self.decoder = Last()
        self.segmentation_head = nn.Conv2d(width, 1, 1)


def build_tiny(encoder: str, weights: str, decoder_channels: tuple[int, ...], size: int) -> nn.Module:
    """Build it; there is no encoder to choose, and so no weights."""
    return Network(decoder_channels[-1])


tiny = Arch(build_tiny, "two convolutions", "this file", "the last is the width", strides=(1,), own_encoder="none")
