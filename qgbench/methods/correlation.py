"""Correlations between the pixels of an image (CorrMatch, arXiv 2306.04300): learnt by a head, spread along by labels.

Pixels are those of a grid of stride 8: P = (H // 8) * (W // 8).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qgbench.spec.task import Task

_STRIDE = 8
_HIDDEN = 256


class CorrelationHead(nn.Module):
    """Compares the features of every two pixels, and spreads logits along the correlations.

    Parameters
    ----------
    shapes : list of (C, H, W)
        Of the network's features, fine to coarse (`qgbench.methods.feature_shapes`).
    size : int
        Side of the images, pixels.
    compared : int
        Length D of the vectors that are compared.
    """

    def __init__(self, shapes: list[tuple[int, int, int]], size: int, compared: int) -> None:
        super().__init__()
        # Features of stride 8 and more; the coarsest, if there are none.
        self.first = next((i for i, shape in enumerate(shapes) if _STRIDE * shape[1] <= size), len(shapes) - 1)
        channels = sum(shape[0] for shape in shapes[self.first :])
        project = nn.Conv2d(channels, _HIDDEN, 3, padding=1), nn.BatchNorm2d(_HIDDEN), nn.ReLU(), nn.Dropout2d(0.1)
        self.layers = nn.Sequential(*project, nn.Conv2d(_HIDDEN, 2 * compared, 1))

    def forward(self, features: list[Tensor], logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return correlations softmax(f1^T f2 / sqrt(D)), and logits times them.

        Parameters
        ----------
        features : list of (N, C_i, H_i, W_i)
        logits : (N, C, H, W)
            No gradient flows to them.

        Returns
        -------
        correlation : (N, P, P), each row sums to 1
        spread : (N, C, H, W) logits
        """
        height, width = logits.shape[2] // _STRIDE, logits.shape[3] // _STRIDE
        grid = torch.cat([_resized(feature, height, width) for feature in features[self.first :]], 1)
        query, key = self.layers(grid).flatten(2).chunk(2, 1)
        correlation = torch.softmax(query.transpose(1, 2) @ key / query.shape[1] ** 0.5, 2)
        coarse = _resized(logits.detach(), height, width)
        return correlation, _resized((coarse.flatten(2) @ correlation).view_as(coarse), *logits.shape[2:])


@torch.no_grad()
def spread_over_regions(task: Task, prob: Tensor, correlation: Tensor, threshold: Tensor, tried: int) -> Tensor:
    """Return labels whose regions of correlated pixels have the class of their certain ones, if nearly all agree.

    A region is where a random pixel's correlations exceed half of their range. Where regions disagree, the class of
    most of them decides; where none says anything, or two classes have as many, the label stays.

    Parameters
    ----------
    task : Task
        Regions vote for one of its classes or for the background.
    prob : (U, C, H, W)
    correlation : (U, P, P)
        See `CorrelationHead`.
    threshold : scalar
        Least probability of a certain pixel's likeliest class, and the share of them that must be certain and agree.
    tried : int
        Number of random pixels; the same for all images.

    Returns
    -------
    (U, C, H, W), 0 or 1 where a region decides.
    """
    height, width = prob.shape[2:]
    rows = correlation[:, torch.randint(correlation.shape[1], (tried,))]
    surest, hard = task.confidence(prob).flatten(1) >= threshold, torch.cat(task.pixels(prob), 1).flatten(2)
    rows = rows.unflatten(2, (height // _STRIDE, width // _STRIDE))
    labels = []
    for flat, maps, sure, classes in zip(prob.flatten(2), rows, surest, hard, strict=True):
        maps = _resized(maps[None], height, width)[0].flatten(1)
        region = 2 * maps > maps.amax(1, keepdim=True) + maps.amin(1, keepdim=True)
        certain = region & sure
        count = certain.sum(1)
        most, chosen = torch.stack([(certain & own).sum(1) for own in classes]).max(0)
        accepted = (most > threshold * count) & (count >= threshold * region.sum(1))
        votes = torch.stack([region[accepted & (chosen == index)].sum(0) for index in range(len(classes))])
        highest, winner = votes.max(0)
        decided = (votes == highest).sum(0) == 1
        labels.append(torch.where(decided, F.one_hot(winner, len(classes)).T[: len(flat)].to(flat), flat))
    return torch.stack(labels).view_as(prob)


def _resized(maps: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(maps.float(), (height, width), mode="bilinear", align_corners=True)
