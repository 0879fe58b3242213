"""What makes a training step of `small` faster on a processor: arithmetic, layout, decoder, threads, compiling.

Run with qgbench installed: ``python perf/step_speed.py [rounds]``. The U-Net of `small` at 96 px, 24 images forward and
backward. The ways take turns, round by round; printed are the median seconds of the clock and of the processor, and the
ratio of the former to that of the first way.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import nn

from qgbench.archs.build import build_network
from qgbench.archs.depthwise import DepthwiseConv2d, DepthwiseConv2dSame

_DECODER = (128, 64, 32, 16, 16)


def network(decoder: tuple[int, ...] = _DECODER, channels_last: bool = True, fast_depthwise: bool = True) -> nn.Module:
    """Return the network of `small`, with random weights."""
    built = build_network("unet", "tf_efficientnet_lite0", "none", decoder, 96).train()
    if not fast_depthwise:
        for module in built.modules():
            if isinstance(module, DepthwiseConv2d | DepthwiseConv2dSame):
                module.__class__ = type(module).__mro__[2]  # torch's or timm's own layer
    layout = torch.channels_last if channels_last else torch.contiguous_format
    built.to(memory_format=layout)
    if not channels_last:
        encoder = built.get_submodule("body.encoder")
        encoder.register_forward_pre_hook(lambda _, given: (given[0].contiguous(),))
    return built


def step(net: nn.Module, bf16: bool = True, threads: int = 1) -> Callable[[torch.Tensor], None]:
    """Return a function that does one forward and backward pass."""

    def run(image: torch.Tensor) -> None:
        torch.set_num_threads(threads)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16, cache_enabled=False):
            loss = net(image).mean()
        loss.backward()

    return run


def alternate(ways: dict[str, Callable[[torch.Tensor], None]], rounds: int) -> dict[str, tuple[float, float]]:
    """Return median seconds of the clock and of the processor of each way."""
    image = torch.rand(24, 3, 96, 96)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for count in range(rounds + 2):
        for name, way in ways.items():
            clock, processor = time.perf_counter(), time.process_time()
            way(image)
            if count >= 2:
                taken[name].append((time.perf_counter() - clock, time.process_time() - processor))
    return {name: tuple(map(statistics.median, zip(*times, strict=True))) for name, times in taken.items()}


def show(found: dict[str, tuple[float, float]], first: float) -> None:
    for name, (clock, processor) in found.items():
        print(f"| {name} | {1000 * clock:.0f} | {1000 * processor:.0f} | {clock / first:.2f} |", flush=True)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    now = network()
    print("| way | clock, ms | processor, ms | clock / first |\n|---|---:|---:|---:|")
    found = alternate(
        {
            "as it is: bf16, channels_last, 1 thread": step(now),
            "fp32": step(now, bf16=False),
            "torch's own depthwise layers": step(network(fast_depthwise=False)),
            "bf16, contiguous": step(network(channels_last=False)),
            "decoder 256 128 64 32 16": step(network((256, 128, 64, 32, 16))),
            "decoder 64 32 16 8 8": step(network((64, 32, 16, 8, 8))),
            "2 threads": step(now, threads=2),
        },
        rounds,
    )
    show(found, next(iter(found.values()))[0])
    compiled = network()
    compiled.compile()
    begin = time.perf_counter()
    step(compiled)(torch.rand(24, 3, 96, 96))
    print(f"compiling took {time.perf_counter() - begin:.0f} s")
    found = alternate({"as it is, again": step(now), "torch.compile": step(compiled)}, rounds)
    show(found, found["as it is, again"][0])


if __name__ == "__main__":
    main()
