"""``qgbench check``: does a method keep the contract? Toy networks and images, the real loop, in seconds."""

import copy
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from qgbench.base.errors import QGBenchError, in_one_line
from qgbench.base.logs import logger
from qgbench.engine.device import make_accelerator
from qgbench.methods import Batch, Method, Step, check_step
from qgbench.methods.former import own_line
from qgbench.methods.normalisation import normalising_layers
from qgbench.quality.guide import AddOn, Guide, QualityRegularisation, QualityWeighting
from qgbench.quality.scores import Labelling, One, PredictedQuality
from qgbench.spec.task import Task
from qgbench.training.loop import Trainer
from qgbench.training.objective import Objective
from qgbench.trust.conformance_of_pixels import (
    hidden_loss,
    misplaced_label,
    misplaced_target,
    unlike,
    with_pixels_apart,
)
from qgbench.trust.toys import (
    CHANNELS,
    ONE,
    SIZE,
    THREE,
    FeaturelessSegmenter,
    ToyQuality,
    ToySegmenter,
    toy_data,
    toy_protocol,
)

_STEP_RULE = "the step keeps the contract and its loss is finite"
_RUNS_RULE = "the method runs to the end of this check"
_OF_NETWORKS = (
    "self.pseudo_label gets probabilities that were made of a label's prob, which an add-on that corrects labels would "
    "correct twice; make them of networks' probabilities: label_probabilities(network, image) in the place of "
    "self.label(network, image).prob"
)
_SOFTMAX = (
    "logits of several classes are a softmax's; write self.task.probabilities(logits) and self.task.hard(prob) in the "
    "place of a sigmoid and of > 0.5"
)
_EXCHANGED = "two classes were exchanged in {} and {} did not change"
_CHANNELS_RULE = (
    "channel 0 is the background, each other one a class (self.task.lesions); give losses of qgbench.methods.losses "
    "all channels"
)
_WARM_UP = 100  # steps after which the toy network is confident on the toy images, each as a whole too
TWIN_STEPS, _SAVED_AT = 8, 3  # of the trainings that are compared bit for bit, and where one of them is interrupted


@dataclass(frozen=True)
class Finding:
    """One rule of the contract and whether the method keeps it."""

    rule: str
    passed: bool
    detail: str = ""


class _FixedWeights(AddOn):
    """Weigh label i with 0 and the others with 1."""

    def __init__(self, rejected: int) -> None:
        super().__init__(self.Settings())
        self._rejected = rejected

    def weigh(self, labelling: Labelling) -> Tensor:
        weight = torch.ones(len(labelling.prob))
        weight[self._rejected] = 0.0
        return weight


@dataclass(frozen=True)
class Bench:
    """Builds trainers that have the same weights and see the same batches."""

    method_class: type[Method]
    accelerator: Accelerator
    start: dict[str, Tensor] | None = None  # state of a warmed-up method
    task: Task = ONE

    def trainer(self, modes: Callable[[nn.Module], list[AddOn]], steps: int) -> tuple[Trainer, nn.Module]:
        """Return a trainer and its toy g, which `modes` gets."""
        torch.manual_seed(3)
        quality = ToyQuality(len(self.task.classes)).requires_grad_(False).eval()
        torch.manual_seed(0)
        network = ToySegmenter if self.method_class.needs_features else FeaturelessSegmenter
        method = self.method_class(partial(network, task=self.task), self.method_class.Settings())
        if self.start is not None:
            method.load_state_dict(self.start)
        guide = Guide(modes(quality))
        return Trainer(method, guide, quality, toy_data(self.task), toy_protocol(steps), 0, self.accelerator), quality


def finish(trainer: Trainer, until: int | None = None) -> dict[str, Tensor]:
    """Train to the end, or for so many steps, and return a copy of the method's state."""
    for done in trainer.run():
        if done == until:
            break
    return {name: value.clone() for name, value in trainer.method.state_dict().items()}


def difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> str:
    """Return the name of the first tensor that differs in any bit; '' if none does."""
    return next((name for name, value in first.items() if not torch.equal(value, second[name])), "")


def check_method(method_class: type[Method]) -> Iterator[Finding]:
    """Yield what each rule of the contract finds, in turn; whatever the method raises is the last finding.

    All rules are asked with one class. If the method keeps them, all are asked with three, and those that it then
    breaks are findings of their own, before a last one that it keeps all.

    Parameters
    ----------
    method_class : subclass of Method

    Yields
    ------
    Finding
    """
    yield from asked_twice(partial(_findings, method_class))


def asked_twice(find: Callable[[Task], Iterator[Finding]]) -> Iterator[Finding]:
    """Yield what is found with one class; if nothing is broken, what is broken with three, and whether anything is."""
    kept = True
    for finding in find(ONE):
        kept &= finding.passed
        yield finding
    if kept:
        broken = [finding for finding in find(THREE) if not finding.passed]
        yield from (replace(finding, detail=f"with three classes: {finding.detail}") for finding in broken)
        yield Finding("it keeps all of this with three classes, too", not broken, "see above")


def _findings(method_class: type[Method], task: Task) -> Iterator[Finding]:
    accelerator = make_accelerator("cpu", "fp32", 1)
    rule = _STEP_RULE
    try:
        for finding in _check(method_class, accelerator, task):
            rule = _RUNS_RULE
            yield finding
    except QGBenchError as error:
        yield Finding(rule, False, str(error))
    except (Exception, SystemExit) as error:
        logger.debug("%s", traceback.format_exc())
        yield Finding(rule, False, _where_it_failed(error, method_class))


def _where_it_failed(error: BaseException, method_class: type[Method]) -> str:
    """Return what somebody's code raised, in which line of it, and what networks it was given."""
    last = own_line(error, method_class) or traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"{in_one_line(error)} ({Path(last.filename).name}, line {last.lineno}). The networks of the check "
        f"are small: images of {SIZE} pixels, features of {CHANNELS} channels, and no attributes but task, size, "
        "min_batch, encode, decode, head and new_decoder."
    )


def _check(method_class: type[Method], accelerator: Accelerator, task: Task) -> Iterator[Finding]:
    trainer, _ = Bench(method_class, accelerator, task=task).trainer(lambda g: [], _WARM_UP)
    finish(trainer)
    yield Finding(_STEP_RULE, True)
    batch, _ = trainer._streams.next(0.9)
    method = trainer.method.train()
    yield from _check_terms(method, batch)
    if task.channels > 1:
        yield from _check_classes(method, batch)
    yield from _check_teacher(method)
    yield from _check_statistics(method, batch)
    if method_class.needs_features:
        yield _check_dropped_features(method, batch)
    apart = with_pixels_apart(method_class, task)
    yield from _check_pixels(apart, batch, trainer._streams.next(0.9)[0])
    if method_class.pseudo_labels:
        made_of_labels = _is_made_of_labels(method, batch)
        yield Finding("no label is made of another label", not made_of_labels, _OF_NETWORKS)
        if not made_of_labels:  # what follows corrects labels, each once
            detail = misplaced_target(apart, batch)
            yield Finding("each term compares a label with what was predicted at its place", not detail, detail)
            yield from _check_rejection(method, batch)
    # From here on trainers start warmed up: an untrained network's labels may pass no threshold, and all twins agree.
    bench = Bench(method_class, accelerator, copy.deepcopy(method.state_dict()), task)
    plain = finish(bench.trainer(lambda g: [], TWIN_STEPS)[0])
    yield from _check_twins(bench, plain)
    yield check_resume(bench, lambda g: [], plain)


def _check_terms(method: Method, batch: Batch) -> Iterator[Finding]:
    step = method(batch)
    check_step(step, batch, method)
    if method.pseudo_labels:
        advice = "no term at 90 % of the budget; set pseudo_labels = False"
        yield Finding("a method that makes pseudo-labels returns terms", bool(step.terms), advice)
    else:
        yield Finding("a method without pseudo-labels returns no terms", not step.terms, "set pseudo_labels = True")
    parameters = [p for p in method.students.parameters() if p.requires_grad]
    for index, term in enumerate(step.terms):
        touched = False
        if term.loss.requires_grad:
            gradients = torch.autograd.grad(term.loss.sum(), parameters, retain_graph=True, allow_unused=True)
            touched = any(gradient is not None and bool(gradient.any()) for gradient in gradients)
        positive = bool((term.loss >= 0).all()) and float(term.loss.detach().sum()) > 0
        yield Finding(f"terms[{index}] is finite and > 0 after a warm-up", positive, f"loss {term.loss.tolist()}")
        yield Finding(f"terms[{index}] reaches a student", touched, "no parameter gets a gradient")
    total = step.supervised + sum((term.coef * term.loss.sum() for term in step.terms), torch.zeros(()))
    for index, student in enumerate(method.students):
        gradients = torch.autograd.grad(total, list(student.parameters()), retain_graph=True, allow_unused=True)
        lost = [name for (name, _), g in zip(student.named_parameters(), gradients, strict=True) if g is None]
        yield Finding(f"students[{index}] is reached by the loss", not lost, f"no gradient for {', '.join(lost[:3])}")


def _check_classes(method: Method, batch: Batch) -> Iterator[Finding]:
    """Find whether several classes exclude each other, and whether each is told from the others."""
    shifted = copy.deepcopy(method)
    for module in shifted.modules():
        if isinstance(module, ToySegmenter):
            module.get_submodule("head.1").get_parameter("bias").data.add_(2.0)
    step, other = (_stepped(copy.deepcopy(each), batch) for each in (method, shifted))
    changed = [] if torch.allclose(step.supervised, other.supervised, rtol=1e-3) else ["supervised"]
    for index, (term, same) in enumerate(zip(step.terms, other.terms, strict=True)):
        if not torch.allclose(term.loss, same.loss, rtol=1e-3, atol=1e-5):
            changed.append(f"the loss of terms[{index}]")
    detail = f"{', '.join(changed)}: {_SOFTMAX}"
    yield Finding("a number that is added to all logits of a pixel changes no loss", not changed, detail)

    def exchanged(maps: Tensor) -> Tensor:
        return maps[:, [0, 2, 1, *range(3, maps.shape[1])]]

    other = _stepped(copy.deepcopy(method), replace(batch, y_l=exchanged(batch.y_l)))
    unmoved = torch.equal(step.supervised, other.supervised)
    detail = f"{_EXCHANGED.format('the masks of batch.y_l', 'supervised')}: {_CHANNELS_RULE}"
    yield Finding("each class of the masks is told from the others", not unmoved, detail)
    if step.terms:
        relabelled = copy.deepcopy(method)
        relabelled.corrector = lambda image, prob: exchanged(prob)
        other = _stepped(relabelled, batch)
        unmoved = all(torch.equal(a.loss, b.loss) for a, b in zip(step.terms, other.terms, strict=True))
        detail = f"{_EXCHANGED.format('the labels', 'the loss of any term')}: {_CHANNELS_RULE}"
        yield Finding("each class of the labels is told from the others", not unmoved, detail)


def _check_teacher(method: Method) -> Iterator[Finding]:
    teacher, student = method.teacher, method.student
    if teacher is None:
        return
    reached = sum(p.grad is not None or p.requires_grad for p in teacher.parameters())
    yield Finding("the teacher gets no gradient", not reached, f"{reached} of its parameters can get one")
    theirs = {t.data_ptr() for t in student.state_dict().values()}
    shared = [name for name, t in teacher.state_dict().items() if t.data_ptr() in theirs]
    yield Finding("teacher and student share no tensor", not shared, f"shared: {', '.join(shared[:3])}")
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    method.update_teacher(0.75)
    averaged = {name for name, value in before.items() if value.is_floating_point()}
    if method.ema_buffers == "copied":
        averaged &= dict(teacher.named_parameters()).keys()
    wrong = []
    for name, value in teacher.state_dict().items():
        target = student.state_dict()[name]
        expected = 0.75 * before[name] + 0.25 * target if name in averaged else target
        if not torch.allclose(value, expected, atol=1e-6):
            wrong.append(name)
    detail = f"neither averaged nor, as ema_buffers = {method.ema_buffers} has it, copied: {', '.join(wrong[:3])}"
    yield Finding("the teacher moves towards the student, buffers too", not wrong, detail)


def _stepped(method: Method, batch: Batch) -> Step:
    torch.manual_seed(7)
    return method.train()(batch)


def _check_pixels(method: Method, batch: Batch, other: Batch) -> Iterator[Finding]:
    detail = hidden_loss(method, batch, other)
    yield Finding("no unlabelled loss hides in supervised", not detail, detail)
    if method.pseudo_labels:
        detail = misplaced_label(method, batch)
        yield Finding("each label lies on its image", not detail, detail)


def _is_made_of_labels(method: Method, batch: Batch) -> bool:
    """Return whether probabilities change with the correction of labels before them, and their image does not.

    Where the image changes too, as one mixed by a label's mask does, a network has seen another image.
    """

    def labelled(correct: Callable[[Tensor], Tensor]) -> list[tuple[Tensor, Tensor]]:
        given: list[tuple[Tensor, Tensor]] = []

        def corrector(image: Tensor, prob: Tensor) -> Tensor:
            given.append((image, prob))
            return correct(prob)

        own = copy.deepcopy(method)
        own.corrector = corrector
        _stepped(own, batch)
        return given

    pairs = zip(labelled(lambda prob: prob), labelled(unlike), strict=False)
    return any(torch.equal(image, same) and not torch.equal(prob, other) for (image, prob), (same, other) in pairs)


def _check_statistics(method: Method, batch: Batch) -> Iterator[Finding]:
    """Move the running statistics of whatever is trained: in training mode, nothing of a step may follow."""
    moved = copy.deepcopy(method)
    for name, module in moved.named_modules():
        if not name.startswith("teacher") and normalising_layers(module) == [module]:
            module.get_buffer("running_mean").add_(1.0)
            module.get_buffer("running_var").mul_(4.0)
    step, other = (_stepped(each, batch) for each in (copy.deepcopy(method), moved))
    stale = [] if torch.equal(step.supervised, other.supervised) else ["supervised"]
    for index, (term, same) in enumerate(zip(step.terms, other.terms, strict=True)):
        if not torch.equal(term.label.prob, same.label.prob):
            stale.append(f"the label of terms[{index}]")
        elif not torch.equal(term.loss, same.loss):
            stale.append(f"the loss of terms[{index}] (not its label)")
    advice = "with the running statistics, which are stale; use self.label or label_probabilities"
    detail = f"{stale[0]} changes {advice}" if stale else ""
    yield Finding("a student labels with the statistics of the images, not with stale ones", not stale, detail)


def _check_dropped_features(method: Method, batch: Batch) -> Finding:
    """Follow features from the encoders to the decoders of whatever is trained: which images are decoded in one batch.

    An architecture's batch normalisation takes one mean of them all. Dropped features may be half of what it is taken
    of, as where all images are decoded twice; they may not stand in for the clean ones of their images.
    """
    method = copy.deepcopy(method)
    encoded: dict[bytes, tuple[bytes, Tensor]] = {}  # of features: their image, and they themselves
    labelled = {_bytes(image) for image in batch.x_l}
    alone: set[bytes] = set()

    def remember(_: nn.Module, images: tuple[Tensor], features: Tensor) -> None:
        encoded.update((_bytes(own), (_bytes(image), own)) for image, own in zip(images[0], features, strict=True))

    def compare(_: nn.Module, features: tuple[Tensor]) -> None:
        clean = {encoded[_bytes(own)][0] for own in features[0] if _bytes(own) in encoded}
        changed = [own for own in features[0] if _bytes(own) not in encoded]
        dropped = {image for image, whole in encoded.values() if any(_is_dropped(own, whole) for own in changed)}
        if clean & labelled:
            alone.update(dropped - clean)

    for name, module in method.named_modules():
        if isinstance(module, ToySegmenter) and name != "teacher":
            module.encoder.register_forward_hook(remember)
            module.decoder.register_forward_pre_hook(compare)
    _stepped(method, batch)
    advice = "decode their clean ones in that batch too, as [x, u ; x_dropped, u_dropped], or the dropped ones apart"
    detail = f"labelled images are decoded in one batch with dropped features of {len(alone)} images: {advice}"
    return Finding("no labelled image is decoded with dropped features in the place of clean ones", not alone, detail)


def _bytes(values: Tensor) -> bytes:
    return values.detach().numpy().tobytes()


def _is_dropped(features: Tensor, whole: Tensor) -> bool:
    """Return whether features are 0 at some places where whole ones are not, and elsewhere one multiple of these."""
    kept = features != 0
    scale = features[kept] / whole[kept]
    is_multiple = bool(scale.isfinite().all()) and torch.allclose(scale, scale[:1])
    return len(scale) > 0 and is_multiple and bool(whole[~kept].any())


def _gradient(method: Method, batch: Batch, modes: list[AddOn], corrector: Any) -> list[Tensor]:
    method = copy.deepcopy(method).train()
    method.zero_grad(set_to_none=True)
    objective = Objective(method, Guide(modes))
    method.corrector = corrector
    torch.manual_seed(7)
    objective(batch, None, 0)[0].backward()
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in method.students.parameters()]


def _check_rejection(method: Method, batch: Batch) -> Iterator[Finding]:
    batch = replace(batch, progress=1.0)

    def replaced(image: Tensor, prob: Tensor) -> Tensor:
        decided = prob[1:2].round() if prob.shape[1] == 1 else method.task.hard(prob[1:2])
        return torch.cat([prob[:1], unlike(decided), prob[2:]])

    plain = _gradient(method, batch, [_FixedWeights(1)], None)
    other = _gradient(method, batch, [_FixedWeights(1)], replaced)
    same = all(torch.equal(a, b) for a, b in zip(plain, other, strict=True))
    yield Finding("with weight 0, replacing a pseudo-label leaves the gradient unchanged", same, "see Term.owner")
    plain = _gradient(method, batch, [_FixedWeights(2)], None)
    other = _gradient(method, batch, [_FixedWeights(2)], replaced)
    changed = any(not torch.equal(a, b) for a, b in zip(plain, other, strict=True))
    advice = "no loss depends on the label that its term names"
    yield Finding("with weight 1, replacing a pseudo-label changes the gradient", changed, advice)


def _check_twins(bench: Bench, plain: dict[str, Tensor]) -> Iterator[Finding]:
    def qar(weight: float) -> Callable[[nn.Module], list[AddOn]]:
        settings = QualityRegularisation.Settings(lambda_qar=weight, qar_warmup=0.0, qar_ramp=0.0)
        return lambda g: [QualityRegularisation(settings, predictor=g)]

    if bench.method_class.pseudo_labels:
        weighted = finish(
            bench.trainer(lambda g: [QualityWeighting(QualityWeighting.Settings(), One())], TWIN_STEPS)[0]
        )
        name = difference(plain, weighted)
        yield Finding("QW with g = 1 is bit-identical to no add-on", not name, f"{name} differs")
        loose = QualityWeighting.Settings(tau=0.0)
        guided = finish(bench.trainer(lambda g: [QualityWeighting(loose, PredictedQuality(g))], TWIN_STEPS)[0])
        changed = bool(difference(plain, guided))
        yield Finding("QW with a varying g changes the student", changed, "no tensor differs")
    name = difference(plain, finish(bench.trainer(qar(0.0), TWIN_STEPS)[0]))
    yield Finding("QAR with lambda 0 is bit-identical to no add-on", not name, f"{name} differs")
    trainer, quality = bench.trainer(qar(1.0), TWIN_STEPS)
    before = {key: value.clone() for key, value in quality.state_dict().items()}
    changed = bool(difference(plain, finish(trainer)))
    yield Finding("QAR changes the student", changed, "no tensor differs")
    name = difference(before, dict(quality.state_dict()))
    yield Finding(
        "QAR never changes g", not name and all(p.grad is None for p in quality.parameters()), f"{name} differs"
    )


def check_resume(bench: Bench, modes: Callable[[nn.Module], list[AddOn]], expected: dict[str, Tensor]) -> Finding:
    """Return whether a run that was interrupted and continued ends in `expected`, the state of one that was not."""
    first, _ = bench.trainer(modes, TWIN_STEPS)
    finish(first, until=_SAVED_AT)
    state = copy.deepcopy(first.state_dict())
    second, _ = bench.trainer(modes, TWIN_STEPS)
    torch.manual_seed(99)
    second.load_state_dict(state)
    name = difference(expected, finish(second))
    rule = f"saved at step {_SAVED_AT} and resumed equals the uninterrupted run, bit for bit"
    return Finding(rule, not name, f"{name} differs")
