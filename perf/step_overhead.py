"""What the harness and the add-on cost: processor time of training steps, as ratios.

Run with qgbench installed: ``python perf/step_overhead.py [blocks]``. The phantom, protocol `small`, one thread. The
bare PyTorch loop is FixMatch on one ready-made batch: it labels, pastes, trains and clips; the harness also draws
images, makes views, reduces, checks and logs. All take turns, step by step; printed are the medians, and the
median of the ratios within a turn. Steps are those near the end of a run, where every loss is active.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from qgbench.data.readers import PHANTOM_NAME
from qgbench.data.run_data import open_run_data
from qgbench.engine.device import make_accelerator
from qgbench.launch.measure import late_trainer
from qgbench.methods import Batch
from qgbench.methods.losses import segmentation_loss
from qgbench.run.carry_out import build_student
from qgbench.spec.arm import Arm
from qgbench.spec.protocol import Protocol, load_protocol
from qgbench.spec.regime import Regime
from qgbench.spec.task import Task

WARM_UP = 3
ARMS = {
    "FixMatch": Arm(method="fixmatch"),
    "FixMatch + QW": Arm(method="fixmatch", qg_mode="qw"),
    "supervised": Arm(method="supervised"),
    "supervised + QAR": Arm(method="supervised", qg_mode="qar"),
}
BARE = "bare loop of FixMatch"
RATIOS = (("FixMatch", BARE), ("FixMatch + QW", "FixMatch"), ("supervised + QAR", "supervised"))


def bare_loop(protocol: Protocol, batch: Batch) -> Callable[[], None]:
    """Return a step of FixMatch without a harness, on one batch."""
    network = build_student(protocol, Task()).train()
    train = protocol.train
    optimiser = torch.optim.AdamW(network.parameters(), lr=train.lr, weight_decay=train.weight_decay, fused=True)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            pred_l, pred_u_w = network(torch.cat([batch.x_l, batch.u_w])).split([len(batch.x_l), len(batch.u_w)])
            label = torch.sigmoid(pred_u_w.detach().float())
            label, strong = (torch.where(batch.cut1, whole.roll(1, 0), whole) for whole in (label, batch.u_s1))
            loss = segmentation_loss(network.task, pred_l, batch.y_l)
            pixel = F.binary_cross_entropy_with_logits(network(strong), (label > 0.5).float(), reduction="none")
            loss = loss + (pixel * (torch.maximum(label, 1 - label) >= 0.95)).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()

    return step


def main() -> None:
    blocks = WARM_UP + (int(sys.argv[1]) if len(sys.argv) > 1 else 30)
    protocol = load_protocol("small").model_copy(update={"encoder_weights": "none"})
    accelerator = make_accelerator("cpu", protocol.precision, 1)
    data = open_run_data(PHANTOM_NAME, Regime.parse("n12@grouped"), 0, protocol.size, protocol.fractions).training
    trainers = {name: late_trainer(arm, protocol, data, accelerator, blocks) for name, arm in ARMS.items()}
    runs = {name: trainer.run() for name, trainer in trainers.items()}
    steps: dict[str, Callable[[], object]] = {name: run.__next__ for name, run in runs.items()}
    steps[BARE] = bare_loop(protocol, trainers["FixMatch"]._streams.next(0.0)[0])
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(blocks):
        for name, step in steps.items():
            begin = time.process_time()
            step()
            times[name].append(time.process_time() - begin)
    kept = {name: found[WARM_UP:] for name, found in times.items()}
    for name, found in kept.items():
        print(f"{name:22} {1000 * statistics.median(found):5.0f} ms of processor a step")
    for one, other in RATIOS:
        ratios = [a / b for a, b in zip(kept[one], kept[other], strict=True)]
        medians = statistics.median(kept[one]) / statistics.median(kept[other])
        print(f"{one} / {other}: {medians:.3f} by medians, {statistics.median(ratios):.3f} within a turn")


if __name__ == "__main__":
    main()
