"""How long the gradients of depthwise layers take: torch's own layers, and those of `qgbench.archs.depthwise`.

Run with qgbench installed: ``python perf/depthwise_speed.py [rounds]``. The depthwise layers of EfficientNet-Lite0 in
images of 96 px, 24 of them, one thread; forward and backward pass, ms of processor, the least of the rounds.
"""

import copy
import sys
import time

import torch
from torch import Tensor, nn

from qgbench.archs.depthwise import speed_up_depthwise

LAYERS = [  # channels, side of the input, side of the weight, stride
    (32, 48, 3, 1),
    (96, 48, 3, 2),
    (144, 24, 3, 1),
    (144, 24, 5, 2),
    (240, 12, 5, 1),
    (240, 12, 3, 2),
    (480, 6, 5, 1),
    (672, 6, 5, 1),
    (672, 6, 5, 2),
    (1152, 3, 5, 1),
    (1152, 3, 3, 1),
]


def least(layer: nn.Module, image: Tensor, rounds: int) -> float:
    """Return the least milliseconds of processor of a forward and backward pass."""
    found = []
    for _ in range(rounds + 2):
        begin = time.process_time()
        layer(image).sum().backward()
        found.append(time.process_time() - begin)
    return 1000 * min(found)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    torch.set_num_threads(1)
    print("| channels | image | weight | stride | fp32: torch's | ours | bf16: torch's | ours |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    for channels, side, size, stride in LAYERS:
        cells = []
        for kind in (torch.float32, torch.bfloat16):
            own = nn.Conv2d(channels, channels, size, stride, size // 2, groups=channels, bias=False).to(kind)
            ours = copy.deepcopy(own)
            speed_up_depthwise(ours)
            image = torch.rand(24, channels, side, side, dtype=kind).to(memory_format=torch.channels_last)
            cells += [f"{least(layer, image.requires_grad_(), rounds):.1f}" for layer in (own, ours)]
        print(f"| {channels} | {side} | {size} | {stride} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
