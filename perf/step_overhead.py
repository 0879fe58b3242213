"""What the harness costs: its training step against a bare PyTorch loop that makes the same network passes.

Run with qgbench installed: ``python perf/step_overhead.py [threads]``. FixMatch on the phantom, protocol `small`. The
bare loop labels, trains and clips on one ready-made batch; the harness also draws images, makes views, reduces, checks
and logs. Both take turns, step by step; printed is the ratio of their median times.
"""

import statistics
import sys
import time
from functools import partial

import torch
import torch.nn.functional as F

from qgbench.data.cache import prepare
from qgbench.data.experiment import training_data
from qgbench.data.readers import open_source
from qgbench.data.splits import load_split
from qgbench.engine.device import make_accelerator
from qgbench.methods.losses import segmentation_loss
from qgbench.plugins.registry import load
from qgbench.quality.guide import Guide
from qgbench.run.carry_out import build_student
from qgbench.spec.protocol import load_protocol
from qgbench.spec.regime import Regime
from qgbench.training.loop import Trainer

_BLOCKS, _STEPS = 30, 1


def main() -> None:
    protocol = load_protocol("small")
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    accelerator = make_accelerator("cpu", protocol.precision, threads)
    source = open_source("phantom")
    data = training_data(
        prepare(source, protocol.size), [], load_split(source), Regime.parse("n12@grouped"), "phantom", 0
    )
    fixmatch = load("method", "fixmatch")
    trainer = Trainer(
        fixmatch(partial(build_student, protocol), fixmatch.Settings()), Guide([]), None, data, protocol, 0, accelerator
    )
    trainer.method.train()
    network = build_student(protocol).train()
    train = protocol.train
    optimiser = torch.optim.AdamW(network.parameters(), lr=train.lr, weight_decay=train.weight_decay, fused=True)
    batch, _ = trainer._streams.next(0.0)

    def bare() -> None:
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            network.eval()
            with torch.no_grad():
                label = torch.sigmoid(network(batch.u_w))
            network.train()
            loss = segmentation_loss(network.task, network(batch.x_l), batch.y_l)
            pixel = F.binary_cross_entropy_with_logits(network(batch.u_s1), (label > 0.5).float(), reduction="none")
            loss = loss + (pixel * (torch.maximum(label, 1 - label) >= 0.95)).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()

    times: dict[str, list[float]] = {"harness": [], "bare": []}
    step = 0
    for block in range(_BLOCKS + 1):
        for name in times:
            begin = time.perf_counter()
            for _ in range(_STEPS):
                if name == "harness":
                    trainer._train_step(step)
                    step += 1
                else:
                    bare()
            if block:
                times[name].append((time.perf_counter() - begin) / _STEPS)
    harness, plain = statistics.median(times["harness"]), statistics.median(times["bare"])
    ratios = [a / b for a, b in zip(times["harness"], times["bare"], strict=True)]
    print(f"harness {1000 * harness:.0f} ms, bare loop {1000 * plain:.0f} ms a step ({threads} threads)")
    print(f"ratio of medians {harness / plain:.3f}; median of the pairs {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
