"""A U-Net, a few labels, QW and QAR: python docs/examples/plain_loop.py ARRAYS G STEPS (docs/how-to/loop.md)."""

import json
import sys
from pathlib import Path

import numpy as np
import segmentation_models_pytorch as smp
import torch
from torch.nn.functional import binary_cross_entropy_with_logits as bce

import qgbench

arrays, steps = Path(sys.argv[1]), int(sys.argv[3])
guide = qgbench.QualityGuide.load(sys.argv[2], tau=0.5, lambda_qar=0.01)
images = torch.from_numpy(np.load(arrays / "images.npy")).permute(0, 3, 1, 2) / 255  # (N, 3, H, W) in [0, 1]
masks = torch.from_numpy(np.load(arrays / "masks.npy")).unsqueeze(1).float()  # (N, 1, H, W), 0 or 1
ids = json.loads((arrays / "index.json").read_text())["ids"]
known = torch.tensor([id in guide.predictor.card.labelled_ids for id in ids])  # whose masks g was trained on
labelled, unlabelled = known.nonzero().flatten(), (~known).nonzero().flatten()

torch.manual_seed(0)
network = smp.Unet("resnet18", encoder_weights=None)
optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
for step in range(steps):
    chosen = labelled[torch.randint(len(labelled), (8,))]
    u_w = images[unlabelled[torch.randint(len(unlabelled), (8,))]]  # weak view
    u_s = (u_w * (0.6 + 0.8 * torch.rand(8, 3, 1, 1)) + 0.05 * torch.randn_like(u_w)).clamp(0, 1)  # strong view
    pred_l, pred_u_w, pred_u_s = network(2 * torch.cat([images[chosen], u_w, u_s]) - 1).chunk(3)
    prob_u_w = pred_u_w.sigmoid()
    w = guide.weights(u_w, prob_u_w)  # QW: how far each pseudo-label is trusted
    loss_u = bce(pred_u_s, (prob_u_w > 0.5).float(), reduction="none").mean((1, 2, 3))  # one value per image
    loss = bce(pred_l, masks[chosen]) + guide.reduce(loss_u, w)
    loss = loss + guide.regularisation(u_w, prob_u_w, progress=step / steps)  # QAR
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    if (step + 1) % 5 == 0:
        print(f"step {step + 1}: loss {loss.item():.3f}, mean weight {w.mean().item():.2f}")
