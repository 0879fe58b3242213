"""Which pixels a method's losses and labels are of, told by networks in which no pixel acts on another."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qgbench.methods import Batch, Method, PseudoLabel, Step, label_probabilities
from qgbench.methods.contract import Corrector
from qgbench.methods.normalisation import normalising_layers
from qgbench.quality.scores import overlap
from qgbench.spec.task import Task
from qgbench.trust.toys import ONE, PointwiseSegmenter, few_colours

# A loss may begin and end within the budget, and a view may be turned by chance.
_TIMES = ((0.1, 0), (0.3, 1), (0.5, 2), (0.7, 3), (0.9, 4))  # progress and seed of a step
_Turn = Callable[[Tensor], Tensor]
_TURNS: tuple[_Turn, ...] = (
    lambda x: x.flip(3),
    lambda x: x.flip(2),
    lambda x: x.flip(2, 3),
    lambda x: x.mT,
    lambda x: x.mT.flip(3),
    lambda x: x.mT.flip(2),
    lambda x: x.mT.flip(2, 3),
)


def _shifts(pixels: int) -> tuple[_Turn, ...]:
    """Return shifts by so many pixels to the four sides."""
    return tuple(partial(torch.roll, shifts=shift, dims=dim) for dim in (3, 2) for shift in (pixels, -pixels))


_NEAR, _FAR = _shifts(1), _shifts(3)  # a smoothed label fits hardly worse one pixel aside, and much worse three


_WEIGHTS = torch.tensor([1.0, 2.0, 4.0]) / 7  # of red, green and blue in a number that differs for each colour


class _PerImage(nn.Module):
    """Normalises each image by itself, so that none acts on another: (N, C, ...) -> the same."""

    def forward(self, x: Tensor) -> Tensor:
        dims = tuple(range(2, x.ndim))
        return (x - x.mean(dims, keepdim=True)) / (x.var(dims, keepdim=True, correction=0) + 1e-5).sqrt() if dims else x


def with_pixels_apart(method_class: type[Method], task: Task = ONE) -> Method:
    """Return a method on networks in which no pixel acts on another; nor do images, in layers of the method's own."""
    torch.manual_seed(0)
    method = method_class(partial(PointwiseSegmenter, task=task), method_class.Settings())
    for module in list(method.modules()):
        for name, child in module.named_children():
            if normalising_layers(child) == [child]:
                setattr(module, name, _PerImage())
    return method.train()


def _stepped(method: Method, batch: Batch, seed: int, corrector: Corrector | None = None) -> Step:
    method = copy.deepcopy(method)
    method.corrector = corrector
    torch.manual_seed(seed)
    return method(batch)


def unlike(prob: Tensor) -> Tensor:
    """Return labels (N, C, H, W) that say of each pixel what these do not: the other class, or the next of several."""
    return 1.0 - prob if prob.shape[1] == 1 else prob.roll(1, 1)


def hidden_loss(method: Method, batch: Batch, other: Batch) -> str:
    """Return when `supervised` is a loss of unlabelled images, too; '' if it never is.

    Parameters
    ----------
    method : Method
        As `with_pixels_apart` gives it.
    batch, other : Batch
        Of different images.
    """
    for progress, seed in _TIMES:
        if _trains_on_unlabelled(method, replace(batch, progress=progress), other, seed):
            return (
                f"at progress {progress} it changes with the unlabelled images; what an unlabelled image is trained on "
                "is a Term"
            )
    return ""


def _trains_on_unlabelled(method: Method, batch: Batch, other: Batch, seed: int) -> bool:
    value, trained = _supervised(method, batch, seed)
    exchanged = replace(batch, u_w=other.u_w, u_s1=other.u_s1, u_s2=other.u_s2)
    if torch.equal(value, _supervised(method, exchanged, seed)[0]):
        return False
    inverted = _stepped(method, batch, seed, lambda image, prob: unlike(prob)).supervised
    if not torch.equal(value, inverted):
        return True
    # Left are blends of a labelled and an unlabelled picture: each pixel that is trained on is a labelled one's, too.
    _, others = _supervised(method, replace(batch, x_l=other.x_l), seed)
    pairs = zip(trained, others, strict=True)
    return any(bool((gradient & (seen == changed)).any()) for (seen, gradient), (changed, _) in pairs)


def _supervised(method: Method, batch: Batch, seed: int) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Return `supervised`; of each batch that students saw, (N, H, W): its values, and which `supervised` trains."""
    method = copy.deepcopy(method)
    seen: list[Tensor] = []

    def watched(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        seen.append(inputs[0].detach().clone().requires_grad_())
        return (seen[-1],)

    for student in method.students:
        student.get_submodule("encoder").register_forward_pre_hook(watched)
    torch.manual_seed(seed)
    value = method(batch).supervised
    grads: tuple[Tensor | None, ...] = (None,) * len(seen)
    if value.requires_grad and seen:
        grads = torch.autograd.grad(value, seen, allow_unused=True)
    pictures = [
        (picture.detach().sum(1), torch.zeros_like(picture[:, 0], dtype=torch.bool) if grad is None else grad.any(1))
        for picture, grad in zip(seen, grads, strict=True)
    ]
    return value.detach(), pictures


def misplaced_label(method: Method, batch: Batch) -> str:
    """Return which label does not lie on its image; '' if all do.

    In an image of few colours whose pixels do not act on each other, a label has one value in each colour: beside other
    colours aside, where a label may be smoothed. A label that layers of the method's own, untrained here, spread over
    the image agrees with the prediction better than with the prediction turned.
    """
    for scene, seed in _scenes(method.task, batch, alike=False):
        labels, unspread = (
            [term.label for term in _stepped(each, scene, seed).terms]
            for each in (method, _with_own_layers_silent(method))
        )
        for index, (label, same) in enumerate(zip(labels, unspread, strict=True)):
            lies = _agrees_best(label) if not torch.equal(label.prob, same.prob) else not _varies_in_a_colour(label)
            if not lies:
                return (
                    f"the label of terms[{index}] is turned or moved against its image: undo what was done to the view "
                    "that was labelled"
                )
    return ""


def _scenes(task: Task, batch: Batch, alike: bool) -> Iterator[tuple[Batch, int]]:
    image, mask = few_colours(alike, task)
    rows = len(batch.x_l)
    for progress, seed in _TIMES:
        yield (
            replace(batch, x_l=image[:rows], y_l=mask[:rows], u_w=image, u_s1=image, u_s2=image, progress=progress),
            seed,
        )


def _varies_in_a_colour(label: PseudoLabel) -> bool:
    for image, prob in zip(label.image, label.prob, strict=True):
        around = F.pad(image, (1, 1, 1, 1), mode="replicate")
        alike = (F.max_pool2d(around, 3, 1) + F.max_pool2d(-around, 3, 1)).amax(0) < 1e-3
        colour = (1000 * torch.einsum("chw,c->hw", image, _WEIGHTS)).round()
        for value in colour[alike].unique():
            within = prob[:, alike & (colour == value)]
            if float((within.amax(1) - within.amin(1)).max()) > 0.1:
                return True
    return False


def _agrees_best(label: PseudoLabel) -> bool:
    task = label.network.task
    given, prediction = (
        task.hard(prob).bool() for prob in (label.prob, label_probabilities(label.network, label.image))
    )
    agreement = overlap(given, prediction).mean()
    return all(
        agreement >= overlap(given, turn(prediction)).mean() for turn in (*_TURNS, *_NEAR, lambda x: x.roll(1, 0))
    )


def _with_own_layers_silent(method: Method) -> Method:
    method = copy.deepcopy(method)
    for name, module in method.named_children():
        if name not in ("students", "teacher") and not isinstance(module, PointwiseSegmenter):
            for parameter in module.parameters():
                nn.init.zeros_(parameter)
    return method


def misplaced_target(method: Method, batch: Batch) -> str:
    """Return which term compares a prediction with its label at another place; '' if none does.

    All views are one image, and the networks agree on it: no turned or shifted label fits better than the label.
    """

    def misplaced(method: Method) -> str:
        for scene, seed in islice(_scenes(method.task, batch, alike=True), 0, None, 2):
            right, *turned = (
                [float(term.loss.detach().sum()) for term in _stepped(method, scene, seed, corrector).terms]
                for corrector in (None, *map(_by, (*_NEAR, *_TURNS, *_FAR)))
            )
            for index, (loss, losses) in enumerate(zip(right, zip(*turned, strict=True), strict=True)):
                best_turned, worst = min(losses[len(_NEAR) :]), max(losses)
                half = best_turned < 1.1 * loss and 0.05 * worst < loss < 0.99 * worst  # a part fits a turned one
                if min(losses) < 0.99 * loss or half:
                    return f"in terms[{index}] a turned or shifted label fits as well: turn the label as the view"
        return ""

    return misplaced(method) and misplaced(_with_own_layers_silent(method))


def _by(turn: _Turn) -> Corrector:
    return lambda image, prob: turn(prob)
