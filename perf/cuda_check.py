"""What a machine with a GPU should be asked once: ``python perf/cuda_check.py``, at most 8 minutes.

1. Parity: views, and a toy's training in fp32 (losses, the gradient of its first step), on the device and on the
   processor; whether the making of a batch waits for the device.
2. Steps of the protocol (default: `paper`) on the phantom, with untrained weights and with their data: FixMatch,
   FixMatch with QW, supervised, supervised with QAR. Printed are milliseconds a step, the share of it that waits for
   data, and peak memory.

``--compile`` compiles the students; ``--precision`` is another than the protocol's. ``--device cpu --protocol smoke
--steps 1`` tries the command itself on any machine. What no time is left for is said.
"""

import argparse
import time
from typing import Any

import torch
from torch import Tensor

from qgbench.data.readers import PHANTOM_NAME
from qgbench.data.run_data import open_run_data
from qgbench.engine.device import make_accelerator
from qgbench.launch.measure import late_trainer
from qgbench.plugins.registry import load
from qgbench.quality.guide import Guide
from qgbench.spec.arm import Arm
from qgbench.spec.protocol import load_protocol
from qgbench.spec.regime import Regime
from qgbench.training.loop import Trainer
from qgbench.training.streams import Streams
from qgbench.trust.toys import ToySegmenter, toy_data, toy_protocol

SECONDS = 8 * 60 - 30  # in which steps are begun
ARMS = (("fixmatch", "none"), ("fixmatch", "qw"), ("supervised", "none"), ("supervised", "qar"))
TOY_STEPS = 8
WARM_UP = 3
TENSORS = ("x_l", "y_l", "u_w", "u_s1", "u_s2", "cut1", "cut2")
HEADINGS = ("arm", "ms a step", "waits for data", "peak MiB")


def views(device: str) -> Tensor:
    """Return every number of three batches of the toy, made on a device."""
    streams = Streams(toy_data(), toy_protocol(TOY_STEPS).train, 0, device=device)
    batches = [streams.next(0.0)[0] for _ in range(3)]
    return torch.cat([getattr(batch, name).cpu().float().flatten() for batch in batches for name in TENSORS])


def toy_training(device: str) -> tuple[Tensor, Tensor]:
    """Return the losses of a toy's training in fp32, and the gradient of its first step."""
    torch.manual_seed(0)
    kind = load("method", "fixmatch")
    method, protocol = kind(ToySegmenter, kind.Settings()), toy_protocol(TOY_STEPS)
    trainer = Trainer(method, Guide([]), None, toy_data(), protocol, 0, make_accelerator(device, "fp32", 1))
    losses: list[float] = []
    trainer._objective.register_forward_hook(lambda module, given, found: losses.append(float(found[0].detach())))
    run = trainer.run()
    next(run)
    grads = [weight.grad for weight in method.parameters() if weight.grad is not None]
    gradient = torch.cat([grad.detach().cpu().clone().flatten() for grad in grads])
    for _ in run:
        pass
    return torch.tensor(losses), gradient


def parity(device: str) -> None:
    print(f"views: at most {float((views('cpu') - views(device)).abs().max()):.1e} apart")
    (ours, gradient), (theirs, other) = toy_training("cpu"), toy_training(device)
    apart = ((ours - theirs).abs() / ours.abs()).tolist()
    print(f"toy's losses: {apart[0]:.1e} apart at step 1, {apart[-1]:.1e} at step {TOY_STEPS} (relative)")
    print(f"gradient of step 1: {float((gradient - other).norm() / gradient.norm()):.1e} apart (relative)")


def a_batch_waits() -> str:
    """Return where the making of a batch waits for a CUDA device; '' if nowhere."""
    streams = Streams(toy_data(), toy_protocol(TOY_STEPS).train, 0, device="cuda")
    streams.next(0.0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        streams.next(0.0)
    except RuntimeError as error:
        return str(error)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return ""


def synchronised() -> float:
    """Return the time at which the device has done all that it was asked."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def time_arm(arm: Arm, options: argparse.Namespace, end: float) -> tuple[str, ...]:
    """Return the cells of an arm's row."""
    protocol, device = load_protocol(options.protocol), options.device
    accelerator = make_accelerator(device, options.precision or protocol.precision, protocol.threads)
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    data = open_run_data(PHANTOM_NAME, Regime.parse("n28"), 0, protocol.size, protocol.fractions).training
    trainer = late_trainer(arm, protocol, data, accelerator, WARM_UP + options.steps)
    if options.compile:
        for student in trainer.method.students:
            student.compile()
    waits: list[float] = []
    draw = trainer._streams.next

    def timed(progress: float) -> Any:
        begin = time.perf_counter()
        given = draw(progress)
        waits.append(time.perf_counter() - begin)
        return given

    trainer._streams.next = timed  # type: ignore[method-assign]  # to look at the loop from outside
    run = trainer.run()
    done = 0
    for step in range(WARM_UP + options.steps):
        if time.monotonic() > end:
            break
        if step == WARM_UP:
            begin = synchronised()
        next(run)
        done = step + 1 - WARM_UP
    if done < 1:
        return arm.arm.typed, "no time left", "", ""
    spent = synchronised() - begin
    memory = f"{torch.cuda.max_memory_allocated() / 2**20:.0f}" if device == "cuda" else "-"
    return arm.arm.typed, f"{1000 * spent / done:.0f}", f"{sum(waits[WARM_UP:]) / spent:.1%}", memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--protocol", default="paper")
    parser.add_argument("--precision")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    end = time.monotonic() + SECONDS
    parity(options.device)
    if options.device == "cuda":
        print(f"making a batch waits for the device: {a_batch_waits() or 'nowhere'}")
    print(f"\n| {' | '.join(HEADINGS)} |\n|---|---:|---:|---:|")
    for method, mode in ARMS:
        print(f"| {' | '.join(time_arm(Arm(method=method, qg_mode=mode), options, end))} |", flush=True)


if __name__ == "__main__":
    main()
