"""Time a few steps of every kind of run of a plan, and count the work of those that are for hardware elsewhere.

Each measurement is a process of its own (``python -m qgbench.launch.measure``), because the peak of a process's memory
never falls. Images are random and weights untrained: neither changes what a step costs, and nothing is downloaded.
"""

import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import median
from typing import Literal

import numpy as np
import psutil
import segmentation_models_pytorch as smp
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from qgbench.base.amounts import amount
from qgbench.base.errors import QGBenchError
from qgbench.base.logs import logger
from qgbench.base.progress import Track
from qgbench.base.progress import track as progress_bar
from qgbench.data.cache import Prepared
from qgbench.data.experiment import ImageSet, TrainingData, whole
from qgbench.engine.device import make_accelerator
from qgbench.launch.estimate import (
    Measured,
    PredictorWork,
    RunWork,
    hardware_kind,
    labelled_images,
    read_measured,
    write_measured,
)
from qgbench.launch.job import Job
from qgbench.launch.plan import Plan
from qgbench.methods import Batch, Method, probabilities
from qgbench.metrics.masks import measure as measure_masks
from qgbench.plugins.registry import load_arch, load_method
from qgbench.quality.fit import LabelledImages, PredictorFit
from qgbench.quality.guide import Guide
from qgbench.quality.predictor import QualityPredictor
from qgbench.quality.weak import WeakModels
from qgbench.run.carry_out import build_student, modes_of
from qgbench.run.provenance import hardware, peak_memory_mib
from qgbench.spec.run_spec import Protocol, RunSpec, Settings, apply_settings
from qgbench.training.loop import Trainer
from qgbench.training.objective import Objective

SHARED = "shared: g"
"""Name of the part of `gpu_hours` that no block has for itself."""
_WARM_UP = 2  # steps: the first ones also allocate and choose kernels
_GRACE = 60.0  # seconds beyond the limit for imports, networks and the step in progress
_SHARE_OF_MEMORY = 0.8  # of what is free when a measurement begins; one that takes more is stopped
_IMAGES = 32
_ORIGINAL = (450, 600)  # pixels, of a picture to evaluate on
_TFLOP_HOUR = 3600e12


class _Request(Settings):
    """What one process measures."""

    kind: Literal["g", "run"]
    spec: RunSpec
    steps: int
    into: Measured


def measure(plan: Plan, steps: int = 5, limit: float = 300.0, track: Track = progress_bar) -> list[Measured]:
    """Time training steps of every workload of a plan, after the ramps, when every loss is active.

    What was measured before on this kind of hardware is not measured again, unless it ran out of a shorter limit.
    Results are kept in the folder of runs after each measurement.

    Parameters
    ----------
    plan : Plan
    steps : int
        Timed steps of each workload, at least 1; their median counts.
    limit : float
        Seconds for each workload. One whose steps take longer is given up and says so.
    track : Track
        Shows progress.

    Returns
    -------
    list of Measured
        One for each workload, in the plan's order.

    Raises
    ------
    QGBenchError
        The results cannot be written.
    """
    output = plan.jobs[0].output
    here = hardware()
    jobs: dict[RunWork | PredictorWork, Job] = {}
    for job in plan.jobs:
        if job.kind != "data":
            jobs.setdefault(_work(job), job)
    stored = read_measured(output)
    known = {each.work: each for each in stored if each.hardware == hardware_kind(each.work.device, here)}
    missing = [work for work in jobs if work not in known or (known[work].failure and known[work].limit < limit)]
    for work in track(missing, "timing steps", len(missing), "workloads"):
        job = jobs[work]
        empty = Measured(work=work, hardware=hardware_kind(work.device, here), limit=limit)
        kind: Literal["g", "run"] = "g" if job.kind == "g" else "run"
        known[work] = taken = _in_own_process(_Request(kind=kind, spec=job.spec, steps=steps, into=empty))
        if taken.failure:
            logger.warning("not measured: %s: %s", work.words, taken.failure)
        kept = [each for each in read_measured(output) if (each.work, each.hardware) != (work, taken.hardware)]
        write_measured(output, [*kept, taken])
    return [known[work] for work in jobs]


def flops_per_step(job: Job) -> float:
    """Count the floating-point operations of one training step, a multiplication and an addition being two.

    Convolutions and matrix products are counted, forwards and backwards, of students, teachers and g; the rest of a
    step is a few per cent. A small batch is counted and scaled: every method's work is linear in the batch at a fixed
    ratio of labelled and unlabelled images.

    Parameters
    ----------
    job : Job
        Of kind 'run': a step after the ramps; of kind 'g': a step of g itself, without its weak models.

    Raises
    ------
    UserError
        As `qgbench.run.carry_out.run`, for method and architecture.
    """
    protocol = _without_weights(job.spec.resolve())
    if job.kind == "g":
        return _predictor_flops(protocol) * protocol.quality.batch
    labelled, unlabelled = _small_batch(protocol, job.spec)
    counted = _count(lambda: _objective_step(job.spec, protocol, labelled, unlabelled))
    return counted * protocol.train.batch_labelled / labelled


def gpu_hours(plan: Plan, tflops: float, track: Track = progress_bar) -> dict[str, float]:
    """Convert the work of a plan to hours of one GPU, by block.

    This is a count of operations over an assumed speed, not a measurement. The speed is what the GPU sustains over
    whole steps of such networks, not its peak: convolutional networks in mixed precision often reach a fifth to a third
    of the data sheet's dense tensor figure, and depthwise or small layers far less. To find it, time a few steps of one
    run on that GPU (``qgbench suite plan NAME --measure --only WORD``) and divide `flops_per_step` by the seconds of a
    step.
    Validation, evaluation and reading of data are left out.

    Parameters
    ----------
    plan : Plan
    tflops : float
        Sustained speed, 10^12 operations a second, above 0.
    track : Track
        Shows progress.

    Returns
    -------
    dict of str to float
        Hours, by block of the suite; predictors, which blocks share, are under `SHARED`.

    Raises
    ------
    UserError
        As `flops_per_step`.
    QGBenchError
        The number of labelled images, which decides the weak models' steps, is not known.
    """
    jobs = [job for job in plan.jobs if job.kind != "data"]
    by_work: dict[RunWork | PredictorWork, list[Job]] = {}
    for job in jobs:
        by_work.setdefault(_work(job), []).append(job)
    hours: dict[str, float] = dict.fromkeys([SHARED, *(plan.blocks[job.name] for job in plan.runs)], 0.0)
    for same in track(by_work.values(), "counting operations", len(by_work), "workloads"):
        per_step = flops_per_step(same[0])
        per_weak_step = _weak_flops(same[0].spec.resolve()) if same[0].kind == "g" else 0.0
        for job in same:
            protocol = job.spec.resolve()
            if job.kind == "g":
                operations = protocol.quality.steps * per_step + weak_steps(job.spec) * per_weak_step
            else:
                operations = protocol.train.steps * per_step
            hours[plan.blocks.get(job.name, SHARED)] += operations / (tflops * _TFLOP_HOUR)
    return hours


def weak_steps(spec: RunSpec) -> int:
    """Number of training steps of the weak models that a run's g learns from, all folds together.

    Raises
    ------
    QGBenchError
        The number of labelled images is not known: a share of a data set without a card.
    """
    quality = spec.resolve().quality
    if (labelled := labelled_images(spec)) is None:
        raise QGBenchError(
            f"the number of labelled images of {spec.dataset} {spec.regime} is not known without its data."
        )
    return (
        quality.weak_folds
        * max(quality.weak_epochs)
        * max(quality.weak_epoch_min_steps, labelled // quality.weak_batch)
    )


def _work(job: Job) -> RunWork | PredictorWork:
    spec, protocol = job.spec.model_dump(mode="json"), job.spec.resolve()
    if job.kind == "g":
        return PredictorWork.of(spec, protocol.size, protocol.quality.model_dump(mode="json"))
    return RunWork.of(spec, protocol.model_dump(mode="json"))


def _in_own_process(request: _Request) -> Measured:
    """Measure in a new process, and stop it when its time or the machine's memory is over."""
    allowed = _SHARE_OF_MEMORY * psutil.virtual_memory().available
    limit = request.into.limit
    environment = os.environ | {"OMP_NUM_THREADS": str(request.spec.threads)}
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as a job of a suite has it
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "qgbench.launch.measure"],
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=errors,
            env=environment,
        )
        assert process.stdin is not None, "a pipe was asked for"
        failure = ""
        try:
            process.stdin.write(request.model_dump_json().encode())
            process.stdin.close()
            end = time.monotonic() + limit + _GRACE
            while process.poll() is None and not failure:
                time.sleep(0.1)
                if time.monotonic() > end:
                    failure = f"a step takes more than the {limit:g} s that were allowed"
                elif _resident(process.pid) > allowed:
                    failure = f"a step takes more than the {amount(allowed)} of memory that can be used here"
        finally:
            process.kill()
            process.wait()
        if not failure and process.returncode != 0:
            errors.seek(0)
            last = errors.read().decode(errors="replace").strip().splitlines()[-1:]
            failure = last[0] if last else f"its process ended with code {process.returncode}"
        if failure:
            return request.into.model_copy(update={"failure": failure})
        said.seek(0)
        return Measured.model_validate_json(said.read())


def _resident(pid: int) -> int:
    try:
        return psutil.Process(pid).memory_info().rss
    except psutil.Error:  # it has just ended
        return 0


def _measure_run(request: _Request) -> Measured:
    spec = request.spec
    needed = _WARM_UP + request.steps
    budget = max(1000, 8 * needed)
    protocol = _without_weights(spec.resolve())
    # One validation, at the end: none falls among the timed steps, and neither does an audit, after each quarter.
    train = protocol.train.model_copy(update={"steps": budget, "validations": 1})
    protocol = protocol.model_copy(update={"train": train})
    accelerator = make_accelerator(spec.device, spec.precision, spec.threads)
    rng = np.random.default_rng(0)
    labelled, unlabelled, val = (
        _image_set(max(_IMAGES, batch), protocol.size, rng)
        for batch in (train.batch_labelled, train.batch_unlabelled, 2)
    )
    data = TrainingData(labelled, unlabelled, val, unlabelled_are_labelled=False)
    predictor = _frozen_predictor(spec, protocol)
    if predictor is not None:
        predictor.to(accelerator.device)
    method = _method(spec, protocol)
    guide = Guide(modes_of(spec, protocol, predictor))
    trainer = Trainer(method, guide, predictor, data, protocol, spec.seed, accelerator, spec.qg_norm)
    ramped = max(method.settings.warmup + method.settings.ramp, protocol.qg.qar_warmup + protocol.qg.qar_ramp)
    trainer.history.step = min(max(3 * budget // 4 + 1, math.ceil(ramped * budget)), budget - needed - 1)
    times = _time_steps(trainer.run(), request)
    image = data.val.images(np.arange(_IMAGES)).to(accelerator.device)
    mask, reference = _ellipses(2, _ORIGINAL, rng)
    with accelerator.autocast():
        forward = min(_seconds(lambda: probabilities(trainer.method.student, image)) for _ in range(2)) / _IMAGES
    metrics = min(_seconds(lambda: measure_masks(mask, reference)) for _ in range(2))
    return request.into.model_copy(
        update={
            "steps": len(times),
            "seconds_per_step": median(times),
            "seconds_per_image": forward + metrics,
            "peak_memory_mib": peak_memory_mib(),
        }
    )


def _measure_predictor(request: _Request) -> Measured:
    spec = request.spec
    protocol = _without_weights(spec.resolve())
    needed = _WARM_UP + request.steps
    changes = {"steps": 2 * needed, "validations": 1, "val_masks": 1, "weak_epochs": (2 * needed,)}
    settings = protocol.quality.model_copy(update=changes)
    accelerator = make_accelerator(spec.device, spec.precision, spec.threads)
    rng = np.random.default_rng(0)
    images = _image_set(_IMAGES, protocol.size, rng)
    every = np.arange(_IMAGES)
    labelled = LabelledImages(images.images(every), images.masks(every))
    weak = WeakModels(labelled.image, labelled.mask, [labelled.image[:2]], settings, spec.seed, accelerator)
    weak_times = _time_steps(weak.run(), request)
    masks = (labelled.mask > 0.5).unsqueeze(0)
    fit = PredictorFit(labelled, labelled, masks, settings, spec.seed, accelerator)
    times = _time_steps(fit.run(), request)
    return request.into.model_copy(
        update={
            "steps": len(times),
            "seconds_per_step": median(times),
            "seconds_per_weak_step": median(weak_times),
            "peak_memory_mib": peak_memory_mib(),
        }
    )


def _time_steps(run: Iterator[int], request: _Request) -> list[float]:
    """Seconds of each step after the warm-up; of the last step made, where the limit left no more."""
    end = time.monotonic() + request.into.limit
    times: list[float] = []
    while len(times) < _WARM_UP + request.steps and time.monotonic() < end:
        times.append(_seconds(lambda: next(run)))
    return times[_WARM_UP:] or times[-1:]


def _seconds(what: Callable[[], object]) -> float:
    begin = time.perf_counter()
    what()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def _without_weights(protocol: Protocol) -> Protocol:
    quality = protocol.quality.model_copy(update={"backbone_weights": "none"})
    return protocol.model_copy(update={"encoder_weights": "none", "quality": quality})


def _method(spec: RunSpec, protocol: Protocol) -> Method:
    method_class = load_method(spec.method)
    settings = apply_settings(method_class.Settings(), spec.overrides_of("method"), "method.")
    torch.manual_seed(spec.seed)
    return method_class(partial(build_student, protocol), settings).train()


def _frozen_predictor(spec: RunSpec, protocol: Protocol) -> QualityPredictor | None:
    return QualityPredictor(protocol.quality, "none").requires_grad_(False).eval() if spec.needs_g else None


def _ellipses(count: int, shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Draw masks of the size of lesions: (count, H, W)."""
    rows, columns = np.indices(shape) / np.reshape(shape, (2, 1, 1))
    centre, radius = rng.uniform(0.35, 0.65, (2, count, 1, 1)), rng.uniform(0.15, 0.3, (2, count, 1, 1))
    return ((rows - centre[0]) / radius[0]) ** 2 + ((columns - centre[1]) / radius[1]) ** 2 < 1


def _image_set(count: int, size: int, rng: np.random.Generator) -> ImageSet:
    masks = _ellipses(count, (size, size), rng).astype(np.uint8)
    ids = [str(number) for number in range(count)]
    images = rng.integers(0, 256, (count, size, size, 3), np.uint8)
    return ImageSet([whole(Prepared(ids, ids, images, masks, np.full((count, 2), size), "", None))])


def _small_batch(protocol: Protocol, spec: RunSpec) -> tuple[int, int]:
    """The smallest batches, labelled and unlabelled, in the protocol's ratio that the architecture takes."""
    labelled, unlabelled = protocol.train.batch_labelled, protocol.train.batch_unlabelled
    common = math.gcd(labelled, unlabelled)
    least = max(2, load_arch(spec.arch).min_batch)
    times = -(-least * common // min(labelled, unlabelled))
    return labelled // common * times, unlabelled // common * times


_Step = tuple[Sequence[nn.Module], Callable[[], Tensor]]
"""The modules of a step, and the step itself, which gives the loss."""


def _objective_step(spec: RunSpec, protocol: Protocol, labelled: int, unlabelled: int) -> _Step:
    predictor = _frozen_predictor(spec, protocol)
    objective = Objective(_method(spec, protocol), Guide(modes_of(spec, protocol, predictor)), spec.qg_norm)
    size = protocol.size

    def step() -> Tensor:
        def draw(count: int, channels: int) -> Tensor:
            return torch.rand(count, channels, size, size)

        batch = Batch(
            x_l=draw(labelled, 3),
            y_l=(draw(labelled, 1) > 0.5).float(),
            u_w=draw(unlabelled, 3),
            u_s1=draw(unlabelled, 3),
            u_s2=draw(unlabelled, 3),
            cut1=draw(unlabelled, 1) > 0.5,
            cut2=draw(unlabelled, 1) > 0.5,
            progress=1.0,
        )
        truth = (draw(unlabelled, 1) > 0.5).float() if spec.qg_score == "oracle" else None
        return objective(batch, truth, protocol.train.steps)[0]

    return [objective, *([predictor] if predictor is not None else [])], step


def _predictor_flops(protocol: Protocol) -> float:
    """Of one step of g on one image."""

    def make() -> _Step:
        predictor = QualityPredictor(protocol.quality, "none")
        side = protocol.size
        return [predictor], lambda: predictor(torch.rand(2, 3, side, side), torch.rand(2, 1, side, side)).sum()

    return _count(make) / 2


def _weak_flops(protocol: Protocol) -> float:
    """Of one step of the weak models."""

    def make() -> _Step:
        network = smp.Unet(protocol.quality.weak_encoder, encoder_weights=None)
        return [network], lambda: network(torch.rand(2, 3, protocol.size, protocol.size)).sum()

    return _count(make) / 2 * protocol.quality.weak_batch


def _count(make: Callable[[], _Step]) -> float:
    """Count the operations of a step and its backward pass.

    No number is computed where a step can do without; those that look at their numbers (``float(tensor)``, NumPy) are
    computed.
    """
    modules, step = make()
    with torch.random.fork_rng():
        try:
            mode = FakeTensorMode()
            _remove_numbers(modules, mode)
            with mode:
                return _flops(step)
        except RuntimeError:
            _, step = make()
            return _flops(step)


def _flops(step: Callable[[], Tensor]) -> float:
    # torch counts the backward pass of a depthwise convolution as if every channel met every other one.
    ours = {torch.ops.aten.convolution_backward: _convolution_backward}
    # Plain attention is made of matrix products, which are counted; fused attention on a processor is not.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=ours) as counter:
        step().backward()
    return float(counter.get_total_flops())


def _convolution_backward(
    gradient: Sequence[int],
    image: Sequence[int],
    weight: Sequence[int],
    bias: object,
    stride: object,
    padding: object,
    dilation: object,
    transposed: bool,
    output_padding: object,
    groups: int,
    wanted: Sequence[bool],
    out_shape: object = None,
) -> int:
    """Operations of a convolution's backward pass, from shapes: those of the forward pass for each wanted gradient.

    A gradient, by the image and by the weight, meets the same pairs of numbers as the forward pass.
    """
    places = math.prod((image if transposed else gradient)[2:])
    return 2 * image[0] * places * math.prod(weight) * sum(wanted[:2])


def _remove_numbers(modules: Sequence[nn.Module], mode: FakeTensorMode) -> None:
    """Replace all tensors of modules by such as have shapes and no numbers; what was shared stays so."""
    replaced: dict[int, Tensor] = {}
    for part in (part for module in modules for part in module.modules()):
        stores: tuple[dict[str, nn.Parameter | None] | dict[str, Tensor | None], ...] = (
            part._parameters,
            part._buffers,
        )
        for store in stores:
            for name, tensor in store.items():
                if tensor is None:
                    continue
                if id(tensor) not in replaced:
                    empty = mode.from_tensor(tensor.detach())
                    is_parameter = isinstance(tensor, nn.Parameter)
                    replaced[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
                store[name] = replaced[id(tensor)]  # type: ignore[assignment]


def main() -> None:
    """Carry out the request on standard input and print what was measured."""
    request = _Request.model_validate_json(sys.stdin.buffer.read())
    taken = (_measure_predictor if request.kind == "g" else _measure_run)(request)
    print(taken.model_dump_json())


if __name__ == "__main__":
    main()
