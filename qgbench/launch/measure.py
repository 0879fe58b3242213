"""Time a few steps of every kind of job of a plan, so that what the plan takes is known before it begins.

Each measurement is a process of its own (``python -m qgbench.launch.measure``), because the peak of a process's memory
never falls. Images are the phantom's and weights untrained: neither changes what a step costs, and nothing is
downloaded.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import psutil
import torch
from accelerate import Accelerator

from qgbench.base.logs import QUIET, logger, set_verbosity
from qgbench.base.progress import track
from qgbench.data.experiment import TrainingData
from qgbench.data.readers import PHANTOM_NAME
from qgbench.data.run_data import open_run_data
from qgbench.engine.device import make_accelerator
from qgbench.launch.estimate import Measured, hardware_kind, read_measured, work_of, write_measured
from qgbench.launch.job import Job
from qgbench.launch.plan import Plan
from qgbench.plugins.registry import load
from qgbench.quality.fit import LabelledImages, PredictorFit
from qgbench.quality.guide import make_guide
from qgbench.quality.predictor import kind_of
from qgbench.quality.weak import WeakMasks, WeakModels
from qgbench.run.carry_out import build_student
from qgbench.run.provenance import hardware, peak_memory_mib
from qgbench.spec.arm import Arm
from qgbench.spec.protocol import Protocol
from qgbench.spec.regime import Regime
from qgbench.spec.run_spec import RunSpec
from qgbench.spec.settings import apply_settings
from qgbench.training.loop import Trainer

_WARM_UP = 2  # steps: the first ones also allocate and choose kernels
_STEPS = 5  # timed ones; their median counts
_LIMIT = 300.0  # seconds for the steps of one kind; a step that takes longer is given up
_GRACE = 60.0  # seconds beyond the limit, for imports, networks and the step in progress
_SHARE_OF_MEMORY = 0.8  # of what is free when a measurement begins


def measure(plan: Plan) -> list[Measured]:
    """Time training steps of each kind of job of a plan (`work_of`), after the ramps, when every loss is active.

    What was measured before on this kind of hardware is not measured again. Results are kept in the folder of
    runs after each measurement.

    Returns
    -------
    list of Measured
        One for each kind of job, in the plan's order.

    Raises
    ------
    QGBenchError
        The results cannot be written.
    """
    output, here = plan.jobs[0].output, hardware()
    jobs = {
        (work_of(job.kind, job.spec), hardware_kind(job.spec.device, here)): job
        for job in plan.jobs
        if job.kind != "data"
    }
    known = {(each.work, each.hardware): each for each in read_measured(output)}
    missing = [key for key in jobs if key not in known or known[key].failure]
    for key in track(missing, "timing steps", len(missing), "jobs"):
        work, kind = key
        taken = Measured(work=work, hardware=kind, **_in_own_process(jobs[key]))
        if taken.failure:
            logger.warning("not measured: %s: %s", jobs[key].words, taken.failure)
        kept = {(each.work, each.hardware): each for each in read_measured(output)}
        known[key] = taken
        write_measured(output, list((kept | {key: taken}).values()))
    return [known[key] for key in jobs]


def _in_own_process(job: Job) -> dict[str, Any]:
    """Return the fields of `Measured` that a new process finds, or the failure that ended it."""
    environment = {"OMP_WAIT_POLICY": "PASSIVE"} | os.environ | {"OMP_NUM_THREADS": str(job.spec.threads)}
    command = [sys.executable, "-m", "qgbench.launch.measure"]
    try:
        done = subprocess.run(
            command,
            input=job.model_dump_json(),
            capture_output=True,
            text=True,
            errors="replace",
            env=environment,
            timeout=_LIMIT + _GRACE,
        )
    except subprocess.TimeoutExpired:
        return {"failure": f"a step takes more than the {_LIMIT:g} s that were allowed"}
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:]
        return {"failure": last[0] if last else f"its process ended with code {done.returncode}"}
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def late_trainer(arm: Arm, protocol: Protocol, data: TrainingData, accelerator: Accelerator, steps: int) -> Trainer:
    """Return a trainer with untrained weights near the end of a long run, where every loss is active.

    The ramps are over, and the next steps are away from validation and audits, which come at quarters.

    Parameters
    ----------
    arm : Arm
    protocol : Protocol
        Its step budget does not count.
    data : TrainingData
    accelerator : Accelerator
    steps : int
        How many are to be taken.
    """
    budget = 1000 + 4 * steps
    train = protocol.train.model_copy(update={"steps": budget, "validations": 1})
    protocol = protocol.model_copy(update={"train": train, "encoder_weights": "none"})
    method_class = load("method", arm.method)
    settings = apply_settings(method_class.Settings(), arm.overrides_of("method"), "method.")
    method = method_class(partial(build_student, protocol, data.labelled.task), settings)
    predictor = None
    if arm.needs_g:
        predictor = (
            kind_of(arm.form)(protocol.quality, "none", data.labelled.task, protocol.size)
            .requires_grad_(False)
            .eval()
            .to(accelerator.device)
        )
    trainer = Trainer(method, make_guide(arm, predictor, 0), predictor, data, protocol, 0, accelerator, arm.qg_norm)
    trainer.history.step = budget - steps - 1
    return trainer


def _time_run(spec: RunSpec, protocol: Protocol, data: TrainingData) -> dict[str, float]:
    accelerator = make_accelerator(spec.device, spec.precision, spec.threads)
    trainer = late_trainer(spec, protocol, data, accelerator, _WARM_UP + _STEPS)
    return {"seconds_per_step": _seconds_per_step(trainer.run())}


def _time_g(spec: RunSpec, protocol: Protocol, data: TrainingData) -> dict[str, float]:
    steps = 2 * (_WARM_UP + _STEPS)
    changes = {"steps": steps, "validations": 1, "val_masks": 1, "weak_epochs": (steps,), "backbone_weights": "none"}
    settings = protocol.quality.model_copy(update=changes)
    accelerator = make_accelerator(spec.device, spec.precision, spec.threads)
    every = np.arange(len(data.labelled))
    labelled = LabelledImages(data.labelled.images(every), data.labelled.masks(every), data.labelled.task)
    models = WeakModels(labelled.image, labelled.mask, settings, spec.seed, accelerator, labelled.task)
    weak_seconds = _seconds_per_step(models.run())
    models.keep()
    weak = WeakMasks([models.networks()], torch.zeros(len(every), dtype=torch.long))
    fit = PredictorFit(labelled, labelled, weak, settings, spec.seed, accelerator, spec.form)
    return {"seconds_per_weak_step": weak_seconds, "seconds_per_step": _seconds_per_step(fit.run())}


def _seconds_per_step(run: Iterator[int]) -> float:
    """Return the median time of a step after the warm-up; that of the last step, where the limit left no more."""
    end = time.monotonic() + _LIMIT
    times: list[float] = []
    while len(times) < _WARM_UP + _STEPS and time.monotonic() < end:
        times.append(_seconds(lambda: next(run)))
    return median(times[_WARM_UP:] or times[-1:])


def _seconds(what: Callable[[], object]) -> float:
    begin = time.perf_counter()
    what()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def main() -> None:
    """Measure the job on standard input, as JSON, and print the fields of `Measured` that were found."""
    set_verbosity(QUIET)
    job = Job.model_validate_json(sys.stdin.buffer.read())
    if job.spec.device == "cpu":  # a step that wants more memory fails, and the machine stays usable
        allowed = int(_SHARE_OF_MEMORY * psutil.virtual_memory().available)
        resource.setrlimit(resource.RLIMIT_DATA, (allowed, allowed))
    protocol = job.spec.resolve()
    data = open_run_data(PHANTOM_NAME, Regime.parse("n28"), 0, protocol.size, protocol.fractions).training
    times = (_time_g if job.kind == "g" else _time_run)(job.spec, protocol, data)
    print(json.dumps({**times, "memory_mib": peak_memory_mib()}))


if __name__ == "__main__":
    main()
