"""Processor milliseconds of AdamW's step, plain and fused: ``python perf/optimiser.py [PROTOCOL]``, `small` by default.

Both move the protocol's network along the same gradients, in turn; printed are the medians, and how far apart the
weights are at the end.
"""

import statistics
import sys
import time

import torch
from torch import Tensor

from qgbench.archs.build import build_network
from qgbench.spec.protocol import load_protocol

STEPS = 30


def main() -> None:
    protocol = load_protocol(sys.argv[1] if len(sys.argv) > 1 else "small")
    torch.set_num_threads(1)
    weights: dict[str, list[Tensor]] = {}
    optimisers: dict[str, torch.optim.Optimizer] = {}
    for name in ("plain", "fused"):
        torch.manual_seed(0)
        network = build_network(protocol.arch, protocol.encoder, "none", protocol.decoder_channels, protocol.size)
        weights[name] = list(network.parameters())
        optimisers[name] = torch.optim.AdamW(
            weights[name], lr=protocol.train.lr, weight_decay=protocol.train.weight_decay, fused=name == "fused"
        )
    times: dict[str, list[float]] = {name: [] for name in weights}
    for _ in range(STEPS):
        for pair in zip(*weights.values(), strict=True):
            grad = 0.01 * torch.randn(pair[0].shape)
            for weight in pair:
                weight.grad = torch.empty_like(weight).copy_(grad)  # laid out as autograd lays it
        for name, optimiser in optimisers.items():
            start = time.process_time()
            optimiser.step()
            times[name].append(1e3 * (time.process_time() - start))
    for name, spent in times.items():
        print(f"{name}: {statistics.median(spent):.1f} ms of processor")
    apart = max(float((one - other).abs().max().detach()) for one, other in zip(*weights.values(), strict=True))
    print(f"weights after {STEPS} steps differ by at most {apart:.1e}")


if __name__ == "__main__":
    main()
