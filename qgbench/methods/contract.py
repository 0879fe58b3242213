"""The contract between a semi-supervised method and the harness, and the reduction that only the harness does.

A method says what it would minimise: a supervised scalar, and unlabelled losses with one value per row (`Term`). It
never averages over the batch, never calls backward and never mentions quality. The harness weighs rows by the quality
of the pseudo-label that they trust (arXiv 2606.01753, Eqn 7) and reduces them (`reduce_term`).
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from qgbench.base.errors import UserError
from qgbench.methods.normalisation import frozen_statistics, normalising_layers
from qgbench.spec.settings import Settings

Corrector = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Batch:
    """One step's images. Float RGB in [0, 1]; every network normalises its own input."""

    x_l: Tensor  # (B, 3, H, W) labelled images
    y_l: Tensor  # (B, 1, H, W) their masks, 0 or 1
    u_w: Tensor  # (U, 3, H, W) unlabelled, weak view: geometry (flips) happens once, here
    u_s1: Tensor  # (U, 3, H, W) strong view: photometric change of u_w, aligned with it
    u_s2: Tensor  # (U, 3, H, W) a second strong view
    cut1: Tensor  # (U, 1, H, W) bool, CutMix region for u_s1
    cut2: Tensor  # (U, 1, H, W) bool, CutMix region for u_s2
    progress: float  # fraction of the step budget that is done, in [0, 1]

    def to(self, device: torch.device) -> "Batch":
        """Move every tensor to a device."""
        moved = {
            f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self) if f.name != "progress"
        }
        return replace(self, **moved)


@dataclass
class Term:
    """One unlabelled loss of N rows, each trusting the pseudo-label of one image."""

    loss: Tensor  # (N,) one value per row, never averaged over the batch
    image: Tensor  # (U, 3, H, W) the views that the labels are aligned with: what quality is asked about
    label: Tensor  # (U, 1, H, W) the labelling network's probabilities, before any cut, detached
    denominator: Tensor | None = None  # (N,) for example certain pixels or a confidence; None = 1
    owner: Tensor | None = None  # (N,) long: whose label row n trusts; None = arange(N)
    blend: tuple[Tensor, Tensor] | None = None  # (second owner (N,), share of the first owner (N,)): rows of two labels
    coef: float = 1.0


@dataclass
class Step:
    """What a method would minimise on one batch."""

    supervised: Tensor  # scalar
    terms: list[Term] = field(default_factory=list)  # [] for a method without unlabelled losses


class MethodSettings(Settings):
    """Settings that every method has; the defaults are the paper's (lambda 0 -> 0.25)."""

    lambda_u: float = Field(0.25, ge=0, description="weight of the unlabelled losses after the ramp")
    warmup: float = Field(0.075, ge=0, le=1, description="fraction of the budget before the unlabelled losses start")
    ramp: float = Field(0.15, ge=0, le=1, description="fraction of the budget over which their weight rises linearly")


M = TypeVar("M", bound=MethodSettings)


class Method(nn.Module):
    """Base class of all methods.

    A subclass states its `Settings`, whether it keeps an averaged teacher (`uses_teacher`), and `step`.

    Parameters
    ----------
    build : callable
        Makes one segmentation network: images (B, 3, H, W) in [0, 1] -> logits (B, 1, H, W) in float32. Its ``encode``
        gives features (a list, fine to coarse), its ``decode`` turns them into logits, its ``size`` is the run's H = W.
        A head of the method's own finds its number of channels by `feature_shapes`.
    settings : MethodSettings
        An instance of the class's `Settings`.
    """

    Settings: ClassVar[type[MethodSettings]] = MethodSettings
    networks: ClassVar[int] = 1  # number of students
    pseudo_labels: ClassVar[bool] = True  # False: no Term is ever returned, QW has nothing to weigh
    needs_features: ClassVar[bool] = False  # True: `step` calls ``encode`` or ``decode`` of a network

    def __init__(self, build: Callable[[], nn.Module], settings: MethodSettings) -> None:
        super().__init__()
        self.settings = settings
        self.students = nn.ModuleList(build() for _ in range(self.networks))
        self.teacher: nn.Module | None = None
        if self.uses_teacher():
            self.teacher = copy.deepcopy(self.students[0]).requires_grad_(False)
            self.teacher.eval()
        self.corrector: Corrector | None = None
        self.labels: list[tuple[Tensor, nn.Module]] = []

    def heads(self) -> list[nn.Parameter]:
        """Trainable parameters that a method registered beside its students, such as a projection head."""
        return [p for name, p in self.named_parameters() if not name.startswith(("students.", "teacher."))]

    def trainable(self) -> list[nn.Parameter]:
        """Everything that the optimiser moves: the students, then the heads."""
        return [*self.students.parameters(), *self.heads()]

    @property
    def student(self) -> nn.Module:
        """The evaluated network: the first student."""
        return self.students[0]

    def uses_teacher(self) -> bool:
        """Tell whether an exponential moving average of the student is kept."""
        return False

    def step(self, batch: Batch) -> Step:
        """Give the losses on one batch; networks are in training mode."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> Step:
        """Forget the last step's pseudo-labels, then call `step`."""
        self.labels = []
        return self.step(batch)

    def train(self, mode: bool = True) -> "Method":
        """Set training mode; the teacher always stays in evaluation mode."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def predict(self, image: Tensor) -> Tensor:
        """Foreground probabilities (B, 1, H, W) of the evaluated network, in evaluation mode, without gradient."""
        return probabilities(self.student, image)

    def label(self, network: nn.Module, image: Tensor) -> Tensor:
        """Pseudo-label images: without gradient (`label_probabilities`), through `pseudo_label`.

        Parameters
        ----------
        network : nn.Module
            The student or teacher that labels.
        image : (B, 3, H, W)
            Weak views in [0, 1].

        Returns
        -------
        (B, 1, H, W) foreground probabilities, detached.
        """
        return self.pseudo_label(image, label_probabilities(network, image), network)

    def pseudo_label(self, image: Tensor, prob: Tensor, network: nn.Module | None = None) -> Tensor:
        """Pass a pseudo-label through the harness: detached and unchanged, unless an add-on corrects labels.

        Parameters
        ----------
        image : (B, 3, H, W)
            What was labelled.
        prob : (B, 1, H, W)
            Foreground probabilities in [0, 1].
        network : nn.Module, optional
            Which network labelled; the student if not given.
        """
        label = prob.detach()
        if self.corrector is not None:
            label = self.corrector(image, label).detach()
        self.labels.append((label, self.student if network is None else network))
        return label

    def labelled_by(self, label: Tensor) -> nn.Module | None:
        """Name the network that made a pseudo-label of the last step; None if it did not pass `pseudo_label`."""
        return next((network for known, network in self.labels if known is label), None)

    @torch.no_grad()
    def update_teacher(self, decay: float) -> None:
        """Move the teacher towards the first student, in place: t = decay * t + (1 - decay) * s.

        BatchNorm's floating-point buffers are averaged as the weights are; integer buffers are copied.
        """
        if self.teacher is None:
            return
        ours, theirs = self.teacher.state_dict(), self.student.state_dict()
        for name, value in ours.items():
            if value.is_floating_point():
                value.lerp_(theirs[name], 1.0 - decay)
            else:
                value.copy_(theirs[name])


def feature_shapes(network: nn.Module) -> list[tuple[int, int, int]]:
    """Shapes (C, H, W) of the features that a network gives for images of the run's size, fine to coarse."""
    encoder: Any = network
    training = network.training
    network.eval()
    with torch.no_grad():
        features = encoder.encode(torch.zeros(1, 3, encoder.size, encoder.size))
    network.train(training)
    return [tuple(feature.shape[1:]) for feature in features]


def probabilities(network: nn.Module, image: Tensor) -> Tensor:
    """Foreground probabilities (B, 1, H, W), float32, of a network in evaluation mode, without gradient.

    The network's mode is restored afterwards.
    """
    training = network.training
    network.eval()
    with torch.no_grad():
        prob = torch.sigmoid(network(image).float())
    network.train(training)
    return prob


def label_probabilities(network: nn.Module, image: Tensor) -> Tensor:
    """Foreground probabilities (B, 1, H, W), float32, that a pseudo-label is made of; no gradient, no dropout.

    A network in training mode, a student, normalises with the statistics of these very images and leaves its running
    ones alone. Those lag behind a student and mix labelled and strong views: labels made with them lose foreground, the
    student learns to lose it, and the next labels lose more. A teacher, in evaluation mode, has averaged statistics
    that belong to its averaged weights, and uses them.
    """
    if not network.training:
        return probabilities(network, image)
    network.eval()
    with torch.no_grad(), frozen_statistics(network):
        for layer in normalising_layers(network):
            layer.train()
        prob = torch.sigmoid(network(image).float())
    network.train()
    return prob


def row_weights(term: Term, weight: Tensor) -> Tensor:
    """Weight of every row: w[owner], and w_i**s * w_j**(1-s) for a row blended from two labels.

    Parameters
    ----------
    term : Term
    weight : (U,)
        Weight of every pseudo-label, in [0, 1].

    Returns
    -------
    (N,) one rejected source rejects a blend, unless its share is zero.
    """
    rows = weight if term.owner is None else weight[term.owner]
    if term.blend is not None:
        second, share = term.blend
        rows = rows**share * weight[second] ** (1.0 - share)
    return rows


def reduce_term(
    term: Term,
    weight: Tensor,
    norm: Literal["weighted", "none"] = "weighted",
    total: Callable[[Tensor], Tensor] = lambda value: value,
) -> Tensor:
    """Reduce a term to a scalar: sum(w * loss) / sum(w * denominator) (arXiv 2606.01753, Eqn 7).

    Parameters
    ----------
    term : Term
    weight : (U,)
        Weight of every pseudo-label; ones when the add-on is off.
    norm : 'weighted' or 'none'
        'none' divides by sum(denominator): rejected rows then still count in the divisor.
    total : callable
        Combines the divisor over processes; the identity in one process.

    Returns
    -------
    scalar, attached to the graph even if every weight is zero (its value is then zero).
    """
    rows = row_weights(term, weight)
    denominator = torch.ones_like(term.loss) if term.denominator is None else term.denominator
    divisor = total((rows * denominator if norm == "weighted" else denominator).sum().detach())
    return (rows * term.loss).sum() / torch.where(divisor > 0, divisor, torch.ones_like(divisor))


def check_step(step: Step, batch: Batch, method: Method) -> None:
    """Refuse a step that breaks the contract.

    Raises
    ------
    UserError
        Says which rule was broken, by which term.
    """
    name = type(method).__name__
    if step.supervised.ndim != 0:
        raise UserError(f"{name}.step: supervised must be a scalar, not of shape {tuple(step.supervised.shape)}.")
    for index, term in enumerate(step.terms):
        where = f"{name}.step: terms[{index}]"
        images = len(term.image)
        if term.loss.ndim != 1:
            raise UserError(f"{where}.loss must hold one value per row, (N,), not {tuple(term.loss.shape)}.")
        rows = len(term.loss)
        if term.label.requires_grad:
            raise UserError(f"{where}.label carries a gradient; labels must be detached (use self.pseudo_label).")
        if tuple(term.label.shape) != (images, 1, *term.image.shape[2:]):
            raise UserError(f"{where}.label has shape {tuple(term.label.shape)}, image {tuple(term.image.shape)}.")
        if method.labelled_by(term.label) is None:
            raise UserError(f"{where}.label did not pass self.pseudo_label (or self.label) in this step.")
        owners: Sequence[Tensor | None] = (term.owner, None if term.blend is None else term.blend[0])
        for owner in owners:
            if owner is not None and (owner.shape != (rows,) or int(owner.min()) < 0 or int(owner.max()) >= images):
                raise UserError(f"{where}.owner must be ({rows},) with values below {images}.")
        if term.owner is None and rows != images:
            raise UserError(f"{where} has {rows} rows for {images} labels; give owner.")
        for part, values in (
            ("denominator", term.denominator),
            ("blend", None if term.blend is None else term.blend[1]),
        ):
            if values is not None and (values.shape != (rows,) or values.requires_grad):
                raise UserError(f"{where}.{part} must be ({rows},), detached.")
