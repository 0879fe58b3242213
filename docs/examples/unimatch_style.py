"""QW in a loop of UniMatch's style (arXiv 2208.09910): one weak view, two CutMix strong ones, perturbed features.

python docs/examples/unimatch_style.py ARRAYS G STEPS (docs/how-to/loop.md). The lines with `guide` are what QW adds.
"""

import json
import sys
from pathlib import Path

import numpy as np
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import Tensor

import qgbench

BATCH, THRESHOLD = 4, 0.95


def strong_view(image: Tensor) -> Tensor:
    """Return images (B, 3, H, W) in [0, 1] with another brightness, and noise."""
    return (image * (0.6 + 0.8 * torch.rand(len(image), 3, 1, 1)) + 0.05 * torch.randn_like(image)).clamp(0, 1)


def cutmix_boxes(image: Tensor) -> Tensor:
    """Return a box for each image, half as high and wide: (B, 3, H, W) -> (B, H, W) bool."""
    box = torch.zeros(len(image), *image.shape[2:], dtype=torch.bool)
    height, width = image.shape[2] // 2, image.shape[3] // 2
    for each in box:
        top, left = int(torch.randint(height, ())), int(torch.randint(width, ()))
        each[top : top + height, left : left + width] = True
    return box


def certain_loss(pred: Tensor, mask: Tensor, conf: Tensor) -> Tensor:
    """Return cross-entropy where the label is sure: logits (B, N, H, W), label (B, H, W) -> (B, H, W)."""
    return F.cross_entropy(pred, mask, reduction="none") * (conf >= THRESHOLD)


def mixed_loss(
    guide: qgbench.QualityGuide, pred: Tensor, mask: Tensor, conf: Tensor, w: Tensor, box: Tensor, partner: Tensor
) -> Tensor:
    """Return the loss of CutMix views, a scalar: the label of what lies in the box is the partner's, and so its weight.

    Each view has two rows, what it kept and what it was given; their shares of its pixels are the denominators.
    """
    mask, conf = (torch.where(box, of_label[partner], of_label) for of_label in (mask, conf))
    loss = certain_loss(pred, mask, conf)
    rows = torch.cat([(loss * ~box).mean((1, 2)), (loss * box).mean((1, 2))])
    shares = torch.cat([(~box).float().mean((1, 2)), box.float().mean((1, 2))])
    return guide.reduce(rows, torch.cat([w, w[partner]]), shares)


def main(arrays: Path, g: Path, steps: int) -> None:
    """Train on the images that `qgbench run` prepared, labelled as those of a stored g."""
    guide = qgbench.QualityGuide.load(g)
    images = torch.from_numpy(np.load(arrays / "images.npy")).permute(0, 3, 1, 2) / 255
    masks = torch.from_numpy(np.load(arrays / "masks.npy")).long()  # (N, H, W), 0 is the background
    ids = json.loads((arrays / "index.json").read_text())["ids"]
    known = torch.tensor([id in guide.predictor.card.labelled_ids for id in ids])
    labelled, unlabelled = known.nonzero().flatten(), (~known).nonzero().flatten()
    classes = len(guide.task.classes) + 1

    torch.manual_seed(0)
    network = smp.Unet("resnet18", encoder_weights=None, classes=classes)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9)
    partner = torch.arange(BATCH).roll(1)
    for step in range(steps):
        chosen = labelled[torch.randint(len(labelled), (BATCH,))]
        img_u_w = images[unlabelled[torch.randint(len(unlabelled), (BATCH,))]]
        boxes, img_u_s = [], []
        for _ in range(2):
            boxes.append(cutmix_boxes(img_u_w))
            view = strong_view(img_u_w)
            img_u_s.append(torch.where(boxes[-1].unsqueeze(1), view[partner], view))

        features = network.encoder(2 * torch.cat([images[chosen], img_u_w]) - 1)
        features = [torch.cat([feature, F.dropout2d(feature[BATCH:])]) for feature in features]
        pred_x, pred_u_w, pred_u_w_fp = network.segmentation_head(network.decoder(features)).chunk(3)
        pred_u_s = network(2 * torch.cat(img_u_s) - 1).chunk(2)

        prob_u_w = pred_u_w.detach().softmax(1)
        conf_u_w, mask_u_w = prob_u_w.max(1)
        w = guide.weights(img_u_w, prob_u_w[:, -guide.task.channels :])  # of one class without the background's

        loss_x = F.cross_entropy(pred_x, masks[chosen])
        views = zip(pred_u_s, boxes, strict=True)
        loss_s = sum(mixed_loss(guide, pred, mask_u_w, conf_u_w, w, box, partner) for pred, box in views)
        loss_fp = guide.reduce(certain_loss(pred_u_w_fp, mask_u_w, conf_u_w).mean((1, 2)), w)
        loss = (loss_x + 0.25 * loss_s + 0.5 * loss_fp) / 2
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if (step + 1) % 5 == 0:
            print(f"step {step + 1}: loss {loss.item():.3f}, mean weight {w.mean().item():.2f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
