"""What it would be worth to keep freed memory in the process, where glibc manages it.

A training step frees and takes the same large buffers again. By default glibc hands some of them back to the operating
system and asks anew, and each page is cleared and mapped again.

Run with qgbench installed: ``python perf/allocation.py [method] [steps]``. Trains on the phantom, protocol `small`, one
thread, in processes of their own, without and with it in turn, twice each. Printed for each: processor time and page
faults of a step, the peak of memory, and the last loss, which must be the same in every bit.
"""

import ctypes
import multiprocessing
import resource
import sys
from functools import partial

import torch

from qgbench.data.run_data import open_run_data
from qgbench.engine.device import make_accelerator
from qgbench.plugins.registry import load
from qgbench.quality.guide import Guide
from qgbench.run.carry_out import build_student
from qgbench.spec.protocol import load_protocol
from qgbench.spec.regime import Regime
from qgbench.training.loop import Trainer

_FIRST = 3  # steps that are not counted
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


def train(name: str, steps: int, keep: bool) -> None:
    """Train some steps and print what they took."""
    if keep:
        libc = ctypes.CDLL(None)
        assert libc.mallopt(_M_MMAP_MAX, 0), "not glibc"
        assert libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    protocol = load_protocol("small")
    accelerator = make_accelerator("cpu", protocol.precision, 1)
    data = open_run_data("phantom", Regime.parse("n12@grouped"), 0, protocol.size, protocol.fractions)
    torch.manual_seed(0)
    method = load("method", name)
    built = method(partial(build_student, protocol, data.training.labelled.task), method.Settings())
    trainer = Trainer(built, Guide([]), None, data.training, protocol, 0, accelerator)
    running = trainer.run()
    for _ in range(_FIRST):
        next(running)
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(steps):
        next(running)
    after = resource.getrusage(resource.RUSAGE_SELF)
    loss = [entry["total"] for entry in trainer.history.log if "total" in entry][-1]
    user, system = ((getattr(after, key) - getattr(before, key)) / steps for key in ("ru_utime", "ru_stime"))
    print(
        f"{'kept' if keep else 'given back':10s}  user {1000 * user:.0f} ms, system {1000 * system:.0f} ms, "
        f"{(after.ru_minflt - before.ru_minflt) / steps:.0f} page faults a step; peak {after.ru_maxrss // 1024} MiB; "
        f"loss {loss!r}",
        flush=True,
    )


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "fixmatch"
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else 17
    for keep in (False, True) * 2:
        process = multiprocessing.get_context("spawn").Process(target=train, args=(name, steps, keep))
        process.start()
        process.join()


if __name__ == "__main__":
    main()
