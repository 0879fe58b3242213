"""What a machine with a GPU should be asked once: ``python perf/cuda_check.py``, at most 8 minutes.

1. Parity: views, and a toy's training losses in fp32, on the device and on the processor.
2. A step of the protocol (default: `paper`) on the phantom, without weights from the network: FixMatch, FixMatch with
   QW, supervised with QAR. Printed are milliseconds a step, the share of it that waits for data, and peak memory.

``--device cpu --protocol smoke --steps 1`` tries the command itself on any machine. What no time is left for is said.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from qgbench.data.readers import PHANTOM_NAME
from qgbench.data.run_data import open_run_data
from qgbench.engine.device import make_accelerator
from qgbench.plugins.registry import load
from qgbench.quality.guide import Guide, make_guide
from qgbench.quality.predictor import QualityPredictor
from qgbench.run.carry_out import build_student
from qgbench.spec.arm import Arm
from qgbench.spec.protocol import load_protocol
from qgbench.spec.regime import Regime
from qgbench.training.loop import Trainer
from qgbench.training.streams import Streams
from qgbench.trust.toys import ToySegmenter, toy_data, toy_protocol

SECONDS = 8 * 60 - 30  # in which steps are begun
ARMS = (("fixmatch", "none"), ("fixmatch", "qw"), ("supervised", "qar"))
TOY_STEPS = 8
WARM_UP = 3
TENSORS = ("x_l", "y_l", "u_w", "u_s1", "u_s2")
HEADINGS = ("arm", "ms a step", "waits for data", "peak MiB")


def views(device: str) -> list[torch.Tensor]:
    """Return three batches of the toy, made on a device."""
    streams = Streams(toy_data(), toy_protocol(TOY_STEPS).train, 0, device=device)
    batches = [streams.next(0.0)[0] for _ in range(3)]
    return [getattr(batch, name).cpu() for batch in batches for name in TENSORS]


def toy_losses(device: str) -> torch.Tensor:
    """Return the losses of a toy's training in fp32."""
    torch.manual_seed(0)
    kind = load("method", "fixmatch")
    method, protocol = kind(ToySegmenter, kind.Settings()), toy_protocol(TOY_STEPS)
    trainer = Trainer(method, Guide([]), None, toy_data(), protocol, 0, make_accelerator(device, "fp32", 1))
    losses = []
    objective = trainer._objective
    objective.register_forward_hook(lambda module, given, found: losses.append(float(found[0].detach())))
    trainer.method.train()
    for step in range(TOY_STEPS):
        trainer._train_step(step)
    return torch.tensor(losses)


def parity(device: str) -> None:
    pairs = zip(views("cpu"), views(device), strict=True)
    print(f"views: at most {max(float((one - other).abs().max()) for one, other in pairs):.1e} apart")
    ours, theirs = toy_losses("cpu"), toy_losses(device)
    apart = ((ours - theirs).abs() / ours.abs()).tolist()
    print(f"toy's losses: {apart[0]:.1e} apart at step 1, {apart[-1]:.1e} at step {TOY_STEPS} (relative)")


def seconds(what: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Return how long something takes until the device has done it, and what it gives."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    given = what()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, given


def time_arm(arm: Arm, options: argparse.Namespace, end: float) -> tuple[str, ...]:
    """Return the cells of an arm's row; steps are those of a run's end, where every weight has its full size."""
    protocol, device = load_protocol(options.protocol), options.device
    budget = 1000
    train = protocol.train.model_copy(update={"steps": budget, "validations": 1})
    protocol = protocol.model_copy(update={"train": train, "encoder_weights": "none"})
    accelerator = make_accelerator(device, protocol.precision, protocol.threads)
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    data = open_run_data(PHANTOM_NAME, Regime.parse("n28"), 0, protocol.size, protocol.fractions).training
    kind = load("method", arm.method)
    predictor = None
    if arm.qg_mode != "none":
        predictor = QualityPredictor(protocol.quality, "none").requires_grad_(False).eval().to(accelerator.device)
    method = kind(partial(build_student, protocol), kind.Settings())
    trainer = Trainer(method, make_guide(arm, predictor, 0), predictor, data, protocol, 0, accelerator)
    trainer.method.train()
    waits: list[float] = []
    draw = trainer._streams.next

    def timed(progress: float) -> Any:
        waited, given = seconds(lambda: draw(progress), device)
        waits.append(waited)
        return given

    trainer._streams.next = timed  # type: ignore[method-assign]
    steps: list[float] = []
    for done in range(WARM_UP + options.steps):
        if time.monotonic() > end:
            break
        steps.append(seconds(partial(trainer._train_step, budget - WARM_UP - options.steps - 1 + done), device)[0])
    if len(steps) <= WARM_UP:
        return arm.arm.typed, "no time left", "", ""
    step, wait = (statistics.median(found[WARM_UP:]) for found in (steps, waits))
    memory = f"{torch.cuda.max_memory_allocated() / 2**20:.0f}" if device == "cuda" else "-"
    return arm.arm.typed, f"{1000 * step:.0f}", f"{wait / step:.0%}", memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--protocol", default="paper")
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    end = time.monotonic() + SECONDS
    parity(options.device)
    rows = [time_arm(Arm(method=method, qg_mode=mode), options, end) for method, mode in ARMS]
    print(f"\n| {' | '.join(HEADINGS)} |\n|---|---:|---:|---:|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
