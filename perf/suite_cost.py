"""Processor seconds of a suite's training steps: ``python perf/suite_cost.py [TREE ...]``.

Each TREE is a checkout of qgbench (default: this one), such as one of an earlier commit made by ``git worktree add``;
a process in each times every kind of run of the suite `small`, and its g, on the phantom: 2 steps to warm up, 5 timed,
of which the least counts, because other work on the machine disturbs it least. The trees take turns, kind by kind.
Printed are milliseconds of processor a step, how many jobs are of that kind, and the sum over all jobs and their steps,
in hours; validation, audits and evaluation come on top.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qgbench.data.readers import PHANTOM_NAME
from qgbench.data.run_data import open_run_data
from qgbench.launch import measure
from qgbench.launch.estimate import Measured, work_of
from qgbench.launch.job import Job
from qgbench.launch.plan import make_plan
from qgbench.spec.regime import Regime
from qgbench.spec.suite import load_suite

WORKER = "--of-this-tree"


def processor_seconds(what: Callable[[], object]) -> float:
    """Return the processor time of all threads of this process."""
    begin = time.process_time()
    what()
    return time.process_time() - begin


def kinds() -> list[list[Job]]:
    """Return the suite's runs and fits of g, those together that are like each other."""
    with tempfile.TemporaryDirectory() as folder:
        plan = make_plan(load_suite("small"), Path(folder), None, "cpu")
    like: dict[str, list[Job]] = defaultdict(list)
    for job in plan.jobs:
        if job.kind != "data":
            like[work_of(job.kind, job.spec)].append(job)
    return list(like.values())


def cost(jobs: list[Job]) -> dict[str, Any]:
    """Return what a step of these jobs takes, and all their steps together."""
    job = jobs[0]
    protocol = job.spec.resolve()
    quality = protocol.quality.model_copy(update={"backbone_weights": "none"})
    protocol = protocol.model_copy(update={"encoder_weights": "none", "quality": quality})
    data = open_run_data(PHANTOM_NAME, Regime.parse("n28"), 0, protocol.size, protocol.fractions).training
    found = (measure._time_g if job.kind == "g" else measure._time_run)(job.spec, protocol, data)
    measured = Measured(work="", hardware="", **found)
    name = "g" if job.kind == "g" else job.words.partition(" on ")[0]
    return {
        "name": name,
        "jobs": len(jobs),
        "step": found["seconds_per_step"],
        "all": sum(measured.seconds(each) or 0.0 for each in jobs),
    }


def work() -> None:
    """Answer each line of standard input with the cost of the next kind of jobs, and end with an empty answer."""
    # In the place of the clock and the median; a tree of an earlier commit has no other way to be told.
    measure._seconds, measure.median = processor_seconds, min  # type: ignore[assignment]
    for jobs in kinds():
        sys.stdin.readline()
        print(json.dumps(cost(jobs)), flush=True)


def start(tree: Path) -> "subprocess.Popen[str]":
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, str(Path(__file__).absolute()), WORKER]
    return subprocess.Popen(
        command, cwd=tree, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def ask(worker: "subprocess.Popen[str]") -> dict[str, Any] | None:
    """Return the cost of a tree's next kind of jobs; None when there is no other."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    try:
        print(file=worker.stdin, flush=True)
    except BrokenPipeError:
        return None
    return json.loads(answer) if (answer := worker.stdout.readline()) else None


def main() -> None:
    trees = [Path(name).absolute() for name in sys.argv[1:]] or [Path(__file__).absolute().parent.parent]
    workers = [start(tree) for tree in trees]
    sums = [0.0] * len(trees)
    print(f"| | jobs | {' | '.join(tree.name for tree in trees)} |\n|---|---:|{'---:|' * len(trees)}")
    while first := ask(workers[0]):
        found = [first, *(ask(worker) or {} for worker in workers[1:])]
        assert len({(each["name"], each["jobs"]) for each in found}) == 1, "the trees' suites differ"
        sums = [so_far + each["all"] for so_far, each in zip(sums, found, strict=True)]
        steps = " | ".join(f"{1000 * each['step']:.0f}" for each in found)
        print(f"| {first['name']} | {first['jobs']} | {steps} |", flush=True)
    print(f"| all steps, hours | | {' | '.join(f'{so_far / 3600:.1f}' for so_far in sums)} |")


if __name__ == "__main__":
    work() if WORKER in sys.argv else main()
