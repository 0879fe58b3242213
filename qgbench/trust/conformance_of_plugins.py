"""``qgbench check`` for add-ons, scores and metrics: do they keep their contract? Toys, the real loop, in seconds."""

import copy
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qgbench.base.errors import QGBenchError, UserError, in_one_line
from qgbench.base.logs import logger
from qgbench.engine.device import make_accelerator
from qgbench.metrics.table import METRICS, UNEQUAL_SPACING, Metric, require_further
from qgbench.plugins.registry import catalogue, kinds_of, load
from qgbench.quality.guide import AddOn, corrected, weights_of
from qgbench.quality.scores import Labelling, PixelQuality, Score, Watched
from qgbench.spec.task import Task
from qgbench.trust.conformance import (
    TWIN_STEPS,
    Bench,
    Finding,
    asked_twice,
    check_method,
    check_resume,
    difference,
    finish,
)
from qgbench.trust.toys import ToyQuality, ToySegmenter, toy_data

_RUNS = "it runs to the end of this check"


def findings(name: str, plugins: Iterable[str] = ()) -> Iterator[Finding]:
    """Yield findings on whatever a name or reference means.

    Parameters
    ----------
    name : str
        Of a method, an add-on, a score or a metric; a file that defines one thing, or one method beside others.
    plugins : iterable of str
        As ``--plugin`` takes them.

    Yields
    ------
    Finding

    Raises
    ------
    UserError
        Nothing that can be checked has that name, or several things have it.
    """
    checks: dict[str, Callable[[Any], Iterator[Finding]]] = {
        "method": check_method,
        "addon": check_addon,
        "score": check_score,
        "metric": check_metric,
    }
    found = [(kind, reference) for kind, reference in kinds_of(name, plugins) if kind in checks]
    methods = [each for each in found if each[0] == "method"]
    chosen = methods or found
    if len(chosen) != 1:
        if not chosen and (name.endswith(".py") or ":" in name):
            raise UserError(f"{name} defines no method, add-on, score or metric that could be checked.")
        if not chosen:
            catalogue("method", plugins).find(name)  # refuses it, and says what there is
        listed = ", ".join(reference for _, reference in chosen)
        raise UserError(f"{name} is several things that can be checked; say which of them: {listed}.")
    kind, reference = chosen[0]
    part = load(kind, reference)
    if kind == "metric" and part is METRICS.get(part.name):
        raise UserError(f"the metric '{name}' ships with qgbench and is measured with the others: see its tests.")
    try:
        yield from checks[kind](part)
    except QGBenchError as error:
        yield Finding(_RUNS, False, str(error))
    except Exception as error:
        logger.debug("%s", traceback.format_exc())
        yield Finding(_RUNS, False, in_one_line(error))


def check_addon(addon: type[AddOn]) -> Iterator[Finding]:
    """Yield whether an add-on weighs as it should, trains, resumes, and leaves g alone; with Mean Teacher on toys."""
    yield from asked_twice(partial(_of_addon, addon))


def _of_addon(addon: type[AddOn], task: Task) -> Iterator[Finding]:
    bench = Bench(load("method", "mean_teacher"), make_accelerator("cpu", "fp32", 1), task=task)

    def added(quality: nn.Module) -> list[AddOn]:
        """Return the add-on with what its class says that it needs, as a run does, and no more."""
        score = PixelQuality(quality) if addon.needs_score else None
        return [addon(addon.Settings(), score, quality if addon.needs_g else None, 0)]

    of_weights = list(_of_weights(added(ToyQuality(len(task.classes))), task))
    yield from of_weights
    if not all(finding.passed for finding in of_weights):
        return  # training would end in the same
    plain = finish(bench.trainer(lambda g: [], TWIN_STEPS)[0])
    trainer, quality = bench.trainer(added, TWIN_STEPS)
    before = _copy(quality)
    whole = finish(trainer)
    yield Finding("it changes the student", bool(difference(plain, whole)), "no tensor differs")
    changed = difference(before, _copy(quality))
    yield Finding("it never changes g", not changed, f"{changed} differs")
    yield check_resume(bench, added, whole)


def _of_weights(addons: list[AddOn], task: Task) -> Iterator[Finding]:
    labelling = _labelling(task)
    image, prob = labelling.image, labelling.prob
    for addon in addons:
        weigh, correct = partial(weights_of, addon, labelling), partial(corrected, addon, image, prob)
        yield _kept("its weights are one for each pseudo-label, in [0, 1]", weigh)
        yield _kept("a corrected label has the label's shape and holds probabilities, in [0, 1]", correct)


def _kept(rule: str, give: Callable[[], Any]) -> Finding:
    """Return whether a run takes what is given."""
    try:
        give()
    except QGBenchError as error:
        return Finding(rule, False, str(error))
    return Finding(rule, True)


def check_score(score: type[Score]) -> Iterator[Finding]:
    """Yield whether a score gives a number in [0, 1] for each pseudo-label, and draws none of training's numbers."""
    yield from asked_twice(partial(_of_score, score))


def _of_score(score: type[Score], task: Task) -> Iterator[Finding]:
    labelling = _labelling(task)
    judge = Watched(score(ToyQuality(len(task.classes)) if score.needs_g else None, 0), score.__name__)
    before = torch.get_rng_state()
    state = copy.deepcopy(judge.state_dict())
    first = _kept("it gives one quality for each pseudo-label, in [0, 1]", lambda: judge(labelling))
    yield first
    same = torch.equal(before, torch.get_rng_state())
    yield Finding("it draws no random numbers of the training's", same, "make a generator of its own from the seed")
    if first.passed:
        judge.load_state_dict(state)
        value = judge(labelling)
        yield Finding("it has no gradient", not value.requires_grad, "use torch.no_grad")
        judge.load_state_dict(state)
        yield Finding("from the same state it gives the same", torch.equal(value, judge(labelling)), "see state_dict")


def check_metric(metric: Metric) -> Iterator[Finding]:
    """Yield whether a metric stays in its range, on masks that overlap, are equal, touch at nothing, or are empty.

    It is asked of images and of volumes, unless it refuses these with a UserError of its own.
    """
    yield _kept("it can be measured, in a column of its own", partial(require_further, metric))
    if metric.measure is None:
        return
    masks = toy_data().labelled.masks(np.arange(4))[:, 0].numpy() > 0.5
    of_images = list(_of_masks(metric, masks, (1.0, 1.0), ""))
    yield from of_images
    if not all(finding.passed for finding in of_images):
        return  # of volumes the same would be said
    volumes = np.stack([masks, masks, np.roll(masks, 1, axis=0)], axis=1)
    try:
        metric.measure(volumes[0], volumes[1], UNEQUAL_SPACING)
    except UserError as error:
        yield Finding(f"it refuses volumes with a message: {error}", True)
        return
    except Exception:  # which is told of by name below
        logger.debug("%s", traceback.format_exc())
    for finding in _of_masks(metric, volumes, UNEQUAL_SPACING, " in a volume"):
        yield finding if finding.passed else replace(finding, detail=f"{finding.detail.rstrip('.')}; {_OF_VOLUMES}")


_OF_VOLUMES = "write it for any number of dimensions, or refuse volumes with a message (a UserError)"


def _of_masks(metric: Metric, masks: NDArray[np.bool_], spacing: tuple[float, ...], where: str) -> Iterator[Finding]:
    """Yield whether a metric keeps its range and order on four masks, each other, and none."""
    none = masks[0] & False
    pairs = {
        "masks that overlap": (masks[0], masks[1]),
        "equal masks": (masks[2], masks[2]),
        "masks that share nothing": (masks[3], ~masks[3]),
        "two empty masks": (none, none),
        "an empty prediction": (none, masks[0]),
        "an empty reference": (masks[0], none),
    }
    values: dict[str, float] = {}
    for what, pair in pairs.items():
        rule = f"it is in its range for {what}{where}"
        try:
            values[what] = metric.of(*pair, spacing)
        except QGBenchError as error:
            yield Finding(rule, False, str(error))
            return
        right = bool(np.isfinite(values[what])) or ("an empty" in what and metric.is_distance)
        yield Finding(rule, right, f"{values[what]}")
    best, other = values["equal masks"], values["masks that overlap"]
    better = best >= other if metric.higher_is_better else best <= other
    yield Finding(f"equal masks{where} are not worse than others", better, f"{best} against {other}")


def _labelling(task: Task) -> Labelling:
    torch.manual_seed(1)
    network = ToySegmenter(task=task)
    image, mask = next(iter(toy_data(task).unlabelled.batches()))
    with torch.no_grad():
        prob = task.probabilities(network.eval()(image))
    return Labelling(image, prob, network, mask)


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}
