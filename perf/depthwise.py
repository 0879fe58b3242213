"""Speed of training in float32, in bfloat16, and in bfloat16 with depthwise convolutions kept in float32.

Run with qgbench installed: ``python perf/depthwise.py [threads]``. Prints images per second of forward + backward of
the `small` U-Net at 96 px, batch 24, the best of 5 steps, the three ways in turn.
"""

import sys
import time

import segmentation_models_pytorch as smp
import torch
from torch import nn

from qgbench.archs.depthwise import keep_depthwise_in_float32


def images_per_second(network: nn.Module, bf16: bool) -> float:
    """Time one training step of 24 images; the best of 5."""
    network.to(memory_format=torch.channels_last)
    image = torch.rand(24, 3, 96, 96).contiguous(memory_format=torch.channels_last)
    times = []
    for _ in range(6):
        begin = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16, cache_enabled=False):
            loss = network(image).float().mean()
        loss.backward()
        times.append(time.perf_counter() - begin)
    return len(image) / min(times[1:])


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
    for name, bf16, keep in (("fp32", False, False), ("bf16", True, False), ("bf16, depthwise fp32", True, True)):
        network = smp.Unet("tu-tf_efficientnet_lite0", encoder_weights=None, decoder_channels=(128, 64, 32, 16, 16))
        if keep:
            keep_depthwise_in_float32(network)
        print(f"{name:22s} {images_per_second(network, bf16):6.1f} images/s", flush=True)


if __name__ == "__main__":
    main()
