"""The contract between a semi-supervised method and the harness.

A method says what it would minimise: a supervised scalar, and unlabelled losses with one value per row (`Term`). It
never averages over the batch, never calls backward and never mentions quality. The harness weighs rows by the quality
of the pseudo-label that they trust (arXiv 2606.01753, Eqn 7) and reduces them (`qgbench.methods.reduction`).
"""

import copy
import linecache
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from numbers import Real
from typing import Literal, cast

import torch
from torch import Tensor, nn

from qgbench.base.errors import UserError, in_one_line
from qgbench.methods.former import own_line, refusal
from qgbench.methods.network import Build, Network, label_probabilities, probabilities
from qgbench.plugins.hooks import told
from qgbench.spec.method import Declared, MethodSettings
from qgbench.spec.task import Task

Corrector = Callable[[Tensor, Tensor], Tensor]
View = Literal["weak", "labelled", "other"]
_ROUNDING = 1e-2  # of the sum of a pixel's probabilities, which autocast may have rounded


@dataclass
class Batch:
    """One step's images. Float RGB in [0, 1]; every network normalises its own input.

    A strong view that the method does not read (`Method.strong_views`) has no pixels: (U, 3, 0, 0).
    """

    x_l: Tensor  # (B, 3, H, W) labelled images
    y_l: Tensor  # (B, C, H, W) their masks, 0 or 1
    u_w: Tensor  # (U, 3, H, W) unlabelled, weak view: geometry (flips) happens once, here
    u_s1: Tensor  # (U, 3, H, W) strong view: photometric change of u_w, aligned with it
    u_s2: Tensor  # (U, 3, H, W) a second strong view
    cut1: Tensor  # (U, 1, H, W) bool, CutMix region for u_s1
    cut2: Tensor  # (U, 1, H, W) bool, CutMix region for u_s2
    progress: float  # fraction of the step budget that is done, in [0, 1]

    def to(self, device: torch.device) -> "Batch":
        """Return the batch with every tensor on a device."""
        moved = {
            f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self) if f.name != "progress"
        }
        return replace(self, **moved)


@dataclass(frozen=True, eq=False)
class PseudoLabel:
    """A pseudo-label of each of U images, as `Method.label` and `Method.pseudo_label` give it."""

    prob: Tensor  # (U, C, H, W) the labelling network's probabilities, before any cut, detached
    image: Tensor  # (U, 3, H, W) the views that it is aligned with: what quality is asked about
    view: View  # "weak": `image` is batch.u_w; "labelled": it is batch.x_l; "other": neither, and no mask is known
    network: Network  # that labelled

    def __len__(self) -> int:
        """Return U, the number of images."""
        return len(self.prob)


@dataclass
class Term:
    """One unlabelled loss of N rows, each trusting the pseudo-label of one image."""

    loss: Tensor  # (N,) one value per row, never averaged over the batch
    label: PseudoLabel
    # (N,) for example certain pixels; with a gradient where the loss is a ratio of sums, as batch Dice; None = 1
    denominator: Tensor | None = None
    owner: Tensor | None = None  # (N,) long: whose label row n trusts; None = arange(N)
    blend: tuple[Tensor, Tensor] | None = None  # (second owner (N,), share of the first owner (N,)): rows of two labels
    coef: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what is no label."""
        if not isinstance(self.label, PseudoLabel):
            given = type(self.label).__name__
            raise TypeError(f"Term(): label is a {given}; expected what self.label or self.pseudo_label gives.")


@dataclass
class Step:
    """What a method would minimise on one batch."""

    supervised: Tensor  # scalar
    terms: list[Term] = field(default_factory=list)  # [] for a method without unlabelled losses


class Method(Declared, nn.Module):
    """Base class of all methods.

    A subclass states its `Settings`, whether it keeps an averaged teacher (`uses_teacher`), and `step`.

    Parameters
    ----------
    build : Build
        Makes a network: of the run's architecture, ``build()``, or of another, ``build("swin_unet")``. A head of the
        method's own finds its number of channels by `feature_shapes`.
    settings : MethodSettings
        An instance of the class's `Settings`.
    """

    def __init__(self, build: Build, settings: MethodSettings) -> None:
        super().__init__()
        self.settings = settings
        self.students = nn.ModuleList(_built(build, self.archs(settings)))
        self.teacher: Network | None = None
        if self.uses_teacher():
            self.teacher = cast(Network, copy.deepcopy(self.students[0]).requires_grad_(False).eval())
        self.corrector: Corrector | None = None

    def optimiser(self, lr: float, weight_decay: float) -> torch.optim.Optimizer:
        """Return what moves `trainable`: AdamW, unless a method says otherwise.

        Parameters
        ----------
        lr, weight_decay : float
            The protocol's. The rate of every group follows the protocol's schedule, as a multiple of `lr` if it begins
            with another one.
        """
        return torch.optim.AdamW(self.trainable(), lr=lr, weight_decay=weight_decay, fused=True)

    def heads(self) -> list[nn.Parameter]:
        """Return the parameters that a method registered beside its students: a projection head, a second decoder."""
        return [p for name, p in self.named_parameters() if not name.startswith(("students.", "teacher."))]

    def trainable(self) -> list[nn.Parameter]:
        """Return everything that the optimiser moves: the students but for what is frozen, then the heads."""
        return [p for p in (*self.students.parameters(), *self.heads()) if p.requires_grad]

    def network(self, index: int) -> Network:
        """Return a student by its place."""
        return cast(Network, self.students[index])

    @property
    def student(self) -> Network:
        """The evaluated network: the first student."""
        return self.network(0)

    @property
    def task(self) -> Task:
        """What is segmented; asked for probabilities, masks and losses."""
        return self.student.task

    def step(self, batch: Batch) -> Step:
        """Return the losses on one batch; networks are in training mode."""
        raise NotImplementedError

    def validated(self, dice: float) -> None:
        """Hear of a validation of the evaluated network as it is now: its mean Dice, in [0, 1]; the base ignores it."""

    def forward(self, batch: Batch) -> Step:
        """Return the losses on one batch.

        Raises
        ------
        UserError
            A line of the method's file was right in qgbench 0.1; says which, and what to write there. Or a step failed
            that reads a strong view which was not made.
        """
        try:
            return self.step(batch)
        except Exception as error:
            refused = refusal(error, type(self)) or self._unmade(batch, error)
            if refused is not None:
                raise refused from error
            raise

    def _unmade(self, batch: Batch, error: Exception) -> UserError | None:
        """Return what to tell of a step that failed and reads a view without pixels; None if it reads none."""
        line = own_line(error, type(self))
        if line is None:
            return None
        code = "".join(linecache.getlines(line.filename))
        for view in ("u_s1", "u_s2"):
            if f".{view}" in code and not getattr(batch, view).numel():
                return UserError(
                    f"{type(self).__name__}.step failed: {in_one_line(error)} (line {line.lineno}). Its file reads "
                    f"batch.{view}, which is not made at strong_views = {self.strong_views}: say there how many."
                )
        return None

    def train(self, mode: bool = True) -> "Method":
        """Set training mode, the teacher always in evaluation mode; return the method."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def predict(self, image: Tensor) -> Tensor:
        """Return probabilities (B, C, H, W) of the evaluated network, in evaluation mode, without gradient."""
        return probabilities(self.student, image)

    def label(self, network: Network, image: Tensor, view: View = "weak") -> PseudoLabel:
        """Return a network's pseudo-label of images: without gradient (`label_probabilities`), by `pseudo_label`.

        Parameters
        ----------
        network : Network
            The student or teacher that labels.
        image : (U, 3, H, W)
            In [0, 1]; batch.u_w, unless `view` says otherwise.
        view : 'weak', 'labelled' or 'other'
            Which images these are, see `PseudoLabel`.
        """
        return self.pseudo_label(image, label_probabilities(network, image), network, view)

    def pseudo_label(
        self, image: Tensor, prob: Tensor, network: Network | None = None, view: View = "weak"
    ) -> PseudoLabel:
        """Return a pseudo-label of given probabilities: detached and unchanged, unless an add-on corrects labels.

        Parameters
        ----------
        image : (U, 3, H, W)
            What was labelled.
        prob : (U, C, H, W)
            Probabilities in [0, 1], of networks: `label_probabilities` gives them. Not those of another label, which an
            add-on may have corrected, and would correct again.
        network : Network, optional
            Which network labelled; the student if not given.
        view : 'weak', 'labelled' or 'other'
            Which images these are, see `PseudoLabel`.
        """
        prob = prob.detach()
        if self.corrector is not None:
            prob = self.corrector(image, prob).detach()
        return PseudoLabel(prob, image, view, self.student if network is None else network)

    def teacher_decay(self, step: int) -> float:
        """Return the share of itself that the teacher keeps after a step, of which the first is 0.

        The average of all students so far, until `ema_decay` is reached: min(1 - 1 / (step + 1), ema_decay).
        """
        return min(1.0 - 1.0 / (step + 1), self.ema_decay)

    @torch.no_grad()
    def update_teacher(self, decay: float) -> None:
        """Move the teacher towards the first student, in place: t = decay * t + (1 - decay) * s.

        BatchNorm's running statistics are averaged as the weights are, or copied, as `ema_buffers` says; integer
        buffers are copied.
        """
        if self.teacher is None:
            return
        ours, theirs = self.teacher.state_dict(), self.student.state_dict()
        averaged = set(ours if self.ema_buffers == "averaged" else dict(self.teacher.named_parameters()))
        for name, value in ours.items():
            if name in averaged and value.is_floating_point():
                value.lerp_(theirs[name], 1.0 - decay)
            else:
                value.copy_(theirs[name])


def optimiser_of(method: Method, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """Return a method's `optimiser`.

    Raises
    ------
    UserError
        The method gives something else.
    """
    optimiser = method.optimiser(lr, weight_decay)
    if not isinstance(optimiser, torch.optim.Optimizer):
        name = type(method).__name__
        raise UserError(f"{name}.optimiser returned {told(optimiser)}; expected a torch.optim.Optimizer.")
    return optimiser


def _built(build: Build, archs: Sequence[str]) -> Iterator[nn.Module]:
    for arch in archs:
        yield cast(nn.Module, build(arch) if arch else build())


def check_step(step: Step, batch: Batch, method: Method) -> None:
    """Refuse a step that breaks the contract.

    Raises
    ------
    UserError
        Says which rule was broken, by which term.
    """
    name = type(method).__name__
    if not isinstance(step, Step):
        raise UserError(f"{name}.step returned a {type(step).__name__}; expected Step(supervised, terms).")
    if not isinstance(step.supervised, Tensor) or step.supervised.ndim != 0:
        raise UserError(f"{name}.step: supervised must be a scalar, not {told(step.supervised)}.")
    if not isinstance(step.terms, Sequence) or not all(isinstance(term, Term) for term in step.terms):
        raise UserError(f"{name}.step: terms must be a list of Term, not {told(step.terms)}.")
    for index, term in enumerate(step.terms):
        where = f"{name}.step: terms[{index}]"
        _check_label(term.label, batch, method.task, where)
        _check_rows(term, where)


def _check_label(label: PseudoLabel, batch: Batch, task: Task, where: str) -> None:
    for part in (label.prob, label.image):
        if not isinstance(part, Tensor):
            raise UserError(
                f"{where}.label holds {told(part)}; expected tensors (use self.label or self.pseudo_label)."
            )
    if label.prob.requires_grad:
        raise UserError(f"{where}.label carries a gradient; labels must be detached (use self.pseudo_label).")
    expected = (len(label.image), task.channels, *label.image.shape[2:])
    if tuple(label.prob.shape) != expected:
        raise UserError(f"{where}.label has shape {tuple(label.prob.shape)}, image {tuple(label.image.shape)}.")
    if sums_to_other_than_one(label.prob):
        raise UserError(
            f"{where}.label does not sum to 1 over its {task.channels} channels, the background's and those of "
            f"{len(task.classes)} classes, which exclude each other: write self.task.probabilities(logits), a softmax, "
            "and self.task.hard(prob) in the place of a sigmoid and of > 0.5."
        )
    named = {"weak": batch.u_w, "labelled": batch.x_l}.get(label.view)
    if named is not None and (named.shape != label.image.shape or not torch.equal(named, label.image)):
        attribute = "u_w" if label.view == "weak" else "x_l"
        raise UserError(
            f"{where}.label is said to be of the {label.view} view, but its image is not this step's "
            f"batch.{attribute}; give view=... to self.label or self.pseudo_label ('weak', 'labelled' or 'other')."
        )


def sums_to_other_than_one(prob: Tensor) -> bool:
    """Return whether labels (U, C, H, W) of several classes are no probabilities of these; NaN is not told here."""
    return prob.shape[1] > 1 and bool(((prob.sum(1) - 1).abs() > _ROUNDING).any())


def _check_rows(term: Term, where: str) -> None:
    images = len(term.label)
    if not isinstance(term.loss, Tensor) or term.loss.ndim != 1:
        raise UserError(f"{where}.loss must hold one value per row, (N,), not {told(term.loss)}.")
    if not isinstance(term.coef, Real) and not (isinstance(term.coef, Tensor) and term.coef.ndim == 0):
        raise UserError(f"{where}.coef must be a number, not {told(term.coef)}.")
    if term.blend is not None and (not isinstance(term.blend, tuple | list) or len(term.blend) != 2):
        raise UserError(f"{where}.blend must be (second owner, share of the first owner), not {told(term.blend)}.")
    rows = len(term.loss)
    second, share = term.blend or (None, None)
    for owner in (term.owner, second):
        if owner is not None and not _is_owner(owner, rows, images):
            raise UserError(f"{where}.owner must be ({rows},) with values below {images}: a tensor of whole numbers.")
    if term.owner is None and rows != images:
        raise UserError(f"{where} has {rows} rows for {images} labels; give owner.")
    for part, values in (("denominator", term.denominator), ("blend", share)):
        if values is not None and (not isinstance(values, Tensor) or values.shape != (rows,)):
            raise UserError(f"{where}.{part} must be ({rows},), a tensor, not {told(values)}.")
    if share is not None and share.requires_grad:
        raise UserError(f"{where}.blend must be detached.")


def _is_owner(owner: object, rows: int, images: int) -> bool:
    if not isinstance(owner, Tensor) or owner.dtype not in (torch.int32, torch.int64) or owner.shape != (rows,):
        return False
    return int(owner.min()) >= 0 and int(owner.max()) < images
