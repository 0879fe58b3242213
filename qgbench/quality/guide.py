"""Quality guidance: the two modes of the add-on (arXiv 2606.01753), behind one interface.

A mode may weigh pseudo-labels, add a loss, or correct a label. It knows nothing of methods, and methods nothing of it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from qgbench.base.errors import UserError
from qgbench.base.seeds import salted
from qgbench.engine.device import ALONE, World
from qgbench.methods import Batch, Method, PseudoLabel, Term, View
from qgbench.methods.contract import sums_to_other_than_one
from qgbench.methods.normalisation import frozen_statistics
from qgbench.plugins.hooks import call, told
from qgbench.plugins.registry import load
from qgbench.quality.audit import correlations
from qgbench.quality.scores import (
    Labelling,
    Score,
    Watched,
    foreground_confidence,
    in_unit_range,
    predicted_quality,
    true_quality,
)
from qgbench.spec.addons import SCORES, addon_settings
from qgbench.spec.arm import (
    AddOnSettings,
    Arm,
    RefinementSettings,
    RegularisationSettings,
    SelectionSettings,
    WeightingSettings,
    short_name,
)
from qgbench.spec.task import Task

_WINDOW = 256  # labels that a selection ranks


def ramp(progress: float, warmup: float, length: float, highest: float) -> float:
    """Return what rises linearly from 0 at `warmup` to `highest` at `warmup + length`, fractions of the step budget."""
    if progress < warmup:
        return 0.0
    return highest * min(1.0, (progress - warmup) / length) if length > 0 else highest


def quality_weight(quality: Tensor, tau: float, temperature: float) -> Tensor:
    """Return w = q**T where q >= tau, else 0 (arXiv 2606.01753, Eqn 7): (U,) -> (U,)."""
    return quality**temperature * (quality >= tau)


def lack_of_quality(predictor: nn.Module, task: Task, image: Tensor, prob: Tensor) -> Tensor:
    """Return mean(1 - g(image, prob)), a scalar; differentiable in the probabilities (arXiv 2606.01753, Eqn 5).

    Parameters
    ----------
    predictor : nn.Module
        g, frozen.
    task : Task
    image : (U, 3, H, W)
        In [0, 1].
    prob : (U, C, H, W)
        A network's probabilities. Of several classes, g's judgement is the mean over those that are predicted.
    """
    return (1.0 - predicted_quality(predictor, task, image, prob)).mean()


def regularisation_weight(settings: RegularisationSettings, progress: float) -> float:
    """Return lambda(t), QAR's weight at a fraction of the step budget (arXiv 2606.01753, Eqn 6)."""
    return ramp(progress, settings.qar_warmup, settings.qar_ramp, settings.lambda_qar)


def effective_sample_size(weight: Tensor) -> Tensor:
    """Return (sum w)^2 / (U * sum w^2), in [1/U, 1]; 1 for equal weights, 0 if all are zero: (U,) -> scalar."""
    largest = weight.max()
    scaled = weight / torch.where(largest > 0, largest, torch.ones_like(largest))
    squares = scaled.square().sum()
    return scaled.sum().square() / (len(weight) * torch.where(squares > 0, squares, torch.ones_like(squares)))


class AddOn:
    """One way of using quality: it may weigh pseudo-labels, add a loss or correct a label; the base does nothing.

    A subclass states its `Settings` (``--set qg.NAME=VALUE``) and what it needs.

    Parameters
    ----------
    settings : Settings, optional
        An instance of the class's `Settings`; its defaults if not given.
    score : Score, optional
        What ``--qg-score`` names, where the add-on `needs_score`.
    predictor : nn.Module, optional
        g, where the add-on or its score `needs_g`.
    seed : int
        Of random numbers of its own.

    Attributes
    ----------
    world : World
        The processes of the run; an add-on sees the rows of its own process.
    truths : list of ((U, 3, H, W), (U, C, H, W))
        Images of the step and their true masks: what the oracle alone may look at.
    """

    Settings: ClassVar[type[AddOnSettings]] = AddOnSettings
    needs_score: ClassVar[bool] = False  # it weighs pseudo-labels, which the method must then make
    needs_g: ClassVar[bool] = False
    world: World = ALONE
    truths: Sequence[tuple[Tensor, Tensor]] = ()

    def __init__(
        self,
        settings: AddOnSettings | None = None,
        score: Score | None = None,
        predictor: nn.Module | None = None,
        seed: int = 0,
    ) -> None:
        self.settings = self.Settings() if settings is None else settings
        self.score = score if score is None or isinstance(score, Watched) else Watched(score, type(score).__name__)
        self.predictor = predictor
        self.seed = seed

    @property
    def full_from(self) -> float:
        """Fraction of the step budget from which on it acts in full; checkpoints before are not chosen."""
        return 0.0

    @property
    def pleases_g_from(self) -> float | None:
        """Fraction of the step budget from which on it trains the student to please g; None if it does not."""
        return None

    def weigh(self, labelling: Labelling) -> Tensor | None:
        """Return a weight for every pseudo-label, (U,) in [0, 1]; None leaves the weights alone."""
        return None

    def take_log(self) -> dict[str, float]:
        """Return what the mode did in the last step, by the names of log.jsonl."""
        return {}

    def loss(self, batch: Batch, method: Method, step: int) -> Tensor | None:
        """Return a loss to add, a scalar that already holds its weight; None adds nothing."""
        return None

    def correct(self, image: Tensor, prob: Tensor) -> Tensor:
        """Return the pseudo-label (U, C, H, W) that the method uses in the place of its own."""
        return prob

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed run needs, but for the score's state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""


class QualityWeighting(AddOn):
    """QW: each pseudo-label's loss is weighted by its quality (Eqn 7)."""

    Settings = WeightingSettings
    needs_score = True
    settings: WeightingSettings

    def weigh(self, labelling: Labelling) -> Tensor:
        """Return w = q**T (q >= tau); the mean of these for every label where the score is `averaged`."""
        assert self.score is not None
        weight = quality_weight(self.score(labelling).float(), self.settings.tau, self.settings.temperature)
        return self.world.gather(weight).mean().expand_as(weight) if self.score.averages else weight


class QualitySelection(AddOn):
    """The labels of highest quality are trusted in full, the others not at all.

    Quality Sentinel (arXiv 2406.00327) and semiQCSeg (arXiv 2009.00584) choose so from all labels that a finished model
    made. Labels are made anew in each step here: one is chosen if its q is among the top share of the latest 256
    labels of unlabelled images, its own batch's included.

    Raises
    ------
    UserError
        The score is `averaged`, so that it tells no label from another.
    """

    Settings = SelectionSettings
    needs_score = True
    settings: SelectionSettings

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.score is not None and self.score.averages:
            raise UserError(
                f"the score {self.score.name} gives every label of a batch the same weight, so that none can be "
                "selected by it; use another --qg-score, or --qg-mode qw."
            )
        self._latest = torch.empty(0)

    def weigh(self, labelling: Labelling) -> Tensor:
        """Return 1 for the chosen, 0 for the others."""
        assert self.score is not None
        quality = self.score(labelling).float()
        seen = torch.cat([self._latest, self.world.gather(quality).cpu()])[-_WINDOW:]
        if labelling.unlabelled:
            self._latest = seen
        return (quality >= seen.quantile(1 - self.settings.keep).to(quality.device)).float()

    def state_dict(self) -> dict[str, Any]:
        """Return the latest qualities."""
        return {"latest": self._latest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        self._latest = state["latest"]


class Refinement(AddOn):
    """Labels are corrected: by a predictor of the true mask, by a second segmenter's prediction, or by the true mask.

    Error correcting supervision (Mendel et al., ECCV 2020) trains on labels that a second network corrects; ErrorNet
    (Tajbakhsh et al., ISBI 2020) corrects predictions. Here the second network is the quality predictor of the run.
    """

    Settings = RefinementSettings
    needs_score = True
    settings: RefinementSettings

    def correct(self, image: Tensor, prob: Tensor) -> Tensor:
        """Return the corrected label, or the mean of both."""
        assert self.score is not None
        truth = next((mask for known, mask in self.truths if torch.equal(known, image)), None)
        with torch.no_grad():
            better = self.score.refined(image, prob, truth).to(prob.dtype)
        return better if self.settings.refine == "replace" else (prob + better) / 2


class QualityRegularisation(AddOn):
    """QAR: lambda(t) * mean(1 - g(u_w, f(u_w))), gradients flow through the frozen g to f (Eqns 5 and 6).

    Of several classes, g sees the probabilities of each, and its judgement is the mean over those that are predicted.
    """

    Settings = RegularisationSettings
    needs_g = True
    settings: RegularisationSettings

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._log: dict[str, float] = {}

    @property
    def full_from(self) -> float:
        """The end of its ramp."""
        return self.settings.qar_warmup + self.settings.qar_ramp

    @property
    def pleases_g_from(self) -> float:
        """The end of its warm-up."""
        return self.settings.qar_warmup

    def loss(self, batch: Batch, method: Method, step: int) -> Tensor | None:
        """Return the sum over the students; None before the warm-up ends.

        The extra forward pass uses batch statistics but leaves the running ones alone, and draws its random numbers
        (dropout) from a generator of its own, so that a twin without QAR sees the same numbers.
        """
        assert self.predictor is not None
        self._log = {"lambda_qar": 0.0}
        if batch.progress < self.settings.qar_warmup:
            return None
        self._log["lambda_qar"] = weight = regularisation_weight(self.settings, batch.progress)
        devices = [batch.u_w.device] if batch.u_w.is_cuda else []
        total = batch.u_w.new_zeros(())
        with torch.random.fork_rng(devices=devices), frozen_statistics(method.students):
            torch.manual_seed(self.world.seed(salted("dropout of qar", self.seed, step)))
            for student in method.students:
                prob = method.task.probabilities(student(batch.u_w))
                total = total + lack_of_quality(self.predictor, method.task, batch.u_w, prob)
        return weight * total

    def take_log(self) -> dict[str, float]:
        """Return the weight of the regularisation."""
        return dict(self._log)


def weights_of(mode: AddOn, labelling: Labelling) -> Tensor | None:
    """Return the weights (U,) that an add-on gives; None where it leaves them alone.

    Raises
    ------
    UserError
        It fails, or gives something else.
    """
    who = f"add-on {type(mode).__name__}: weigh"
    given = call(who, mode.weigh, labelling)
    return None if given is None else in_unit_range(who, given, (len(labelling.prob),), labelling.prob)


def corrected(mode: AddOn, image: Tensor, prob: Tensor) -> Tensor:
    """Return the label (U, C, H, W) that an add-on makes of one.

    Raises
    ------
    UserError
        It fails, or gives something else.
    """
    who = f"add-on {type(mode).__name__}: correct"
    label = in_unit_range(who, call(who, mode.correct, image, prob), tuple(prob.shape), prob)
    if sums_to_other_than_one(label):
        raise UserError(f"{who} gave a label whose channels do not sum to 1; classes exclude each other.")
    return label


def _loss_of(mode: AddOn, batch: Batch, method: Method, step: int) -> Tensor | None:
    who = f"add-on {type(mode).__name__}: loss"
    given = call(who, mode.loss, batch, method, step)
    if given is not None and (not isinstance(given, Tensor) or given.ndim != 0):
        raise UserError(f"{who} gave {told(given)}; expected a scalar tensor, or None.")
    return given


class Guide:
    """The modes of one run. Scores each label once a step, however many terms trust it."""

    def __init__(self, modes: Sequence[AddOn]) -> None:
        self.modes = modes
        self._world = ALONE
        self._log: list[
            dict[str, Tensor]
        ] = []  # what weighing did to the unlabelled images, for each label of the step
        self._window: list[Tensor] = []  # (3, M) each: true Dice, quality and confidence of pseudo-labels

    def join(self, world: World) -> None:
        """Tell every mode which processes share the run."""
        self._world = world
        for mode in self.modes:
            mode.world = world

    def begin(self, batch: Batch, truth: Tensor | None) -> None:
        """Tell every mode the true masks of a batch's images: those of the weak views where they are known."""
        known = [(batch.x_l, batch.y_l), *([] if truth is None else [(batch.u_w, truth)])]
        for mode in self.modes:
            mode.truths = known

    @property
    def full_from(self) -> float:
        """Fraction of the step budget from which on all act in full: for twins' sake never before QAR's default."""
        default = RegularisationSettings()
        return max(default.qar_warmup + default.qar_ramp, *(mode.full_from for mode in self.modes), 0.0)

    @property
    def pleases_g_from(self) -> float | None:
        """Fraction of the step budget from which on an add-on trains the student to please g; None if none does."""
        return min((begin for mode in self.modes if (begin := mode.pleases_g_from) is not None), default=None)

    @property
    def plugin_scores(self) -> dict[str, Score]:
        """Scores that do not ship with qgbench and do not look at true masks, as a column is called."""
        scores = [mode.score for mode in self.modes if mode.score is not None]
        return {short_name(score.name): score for score in scores if score.name not in SCORES and not score.sees_truth}

    def attach(self, method: Method) -> None:
        """Let the modes correct the method's pseudo-labels, if any mode does."""
        correcting = [mode for mode in self.modes if type(mode).correct is not AddOn.correct]
        if not correcting:
            return

        def correct(image: Tensor, prob: Tensor) -> Tensor:
            for mode in correcting:
                prob = corrected(mode, image, prob)
            return prob

        method.corrector = correct

    def weights(self, terms: list[Term], masks: Mapping[View, Tensor | None]) -> list[Tensor]:
        """Return the weight of every pseudo-label of every term, ones where no mode weighs.

        Parameters
        ----------
        terms : list of Term
        masks : mapping of view to (U, C, H, W) or None
            True masks of the views that have some: held-back ones, for the oracle control and for the log, of the weak
            views, and those of the labelled images.

        Returns
        -------
        list of (U,) float32 tensors, detached.
        """
        known: dict[PseudoLabel, Tensor] = {}
        for label in (term.label for term in terms):
            if label not in known:
                truth, unlabelled = masks.get(label.view), label.view != "labelled"
                labelling = Labelling(label.image, label.prob, label.network, truth, self._world, unlabelled)
                given = [weight.detach() for mode in self.modes if (weight := weights_of(mode, labelling)) is not None]
                known[label] = math.prod(given, start=label.prob.new_ones(len(label), dtype=torch.float32))
                qualities = [score.take() for mode in self.modes if (score := mode.score) is not None]
                if given and unlabelled:
                    self._note(labelling, known[label], next((q for q in qualities if q is not None), None))
        return [known[term.label] for term in terms]

    def _note(self, labelling: Labelling, weight: Tensor, quality: Tensor | None) -> None:
        """Keep for the log what weighing did to the unlabelled images of all processes."""
        joined = self._world.gather(weight)
        noted = {"kept_share": (joined > 0).float().mean(), "effective_sample_size": effective_sample_size(joined)}
        if quality is not None:
            qualities = self._world.gather(quality)
            noted["mean_q"] = qualities.mean()
            if labelling.truth is not None:
                dice = true_quality(labelling.task, labelling.prob, labelling.truth)
                dice[labelling.truth[:, 0, 0, 0].isnan()] = torch.nan
                seen = (self._world.gather(dice), qualities, self._world.gather(foreground_confidence(labelling)))
                self._window.append(torch.stack(seen)[:, ~seen[0].isnan()].cpu())
        self._log.append(noted)

    def losses(self, batch: Batch, method: Method, step: int) -> Tensor | None:
        """Return the sum of the losses that modes add; None if none does."""
        given = [loss for mode in self.modes if (loss := _loss_of(mode, batch, method, step)) is not None]
        return torch.stack(given).sum() if given else None

    def take_log(self) -> dict[str, float]:
        """Return what the modes did in the last step, by the names of log.jsonl.

        Where any weighs: the mean over the step's labels of the share of weights above 0, their effective sample size
        and, where a score was asked, the mean quality.
        """
        entries, self._log = self._log, []
        means = {name: float(torch.stack([each[name] for each in entries]).mean()) for name in (entries or [{}])[0]}
        return means | {key: value for mode in self.modes for key, value in mode.take_log().items()}

    def take_window(self) -> dict[str, float | None]:
        """Return the true Dice of the pseudo-labels since the last call, and how well q and confidence predict it.

        Of several classes, Dice is averaged as q is: over those that a label holds. Held-back masks of unlabelled
        training images are the judge; {} where there are none, or no score was asked.
        """
        seen, self._window = self._window, []
        if not seen or (values := torch.cat(seen, 1)).shape[1] == 0:
            return {}
        dice, quality, confidence = values.numpy()
        return {"pseudo_dice": float(dice.mean()), **correlations(dice, q=quality, confidence=confidence)}

    def state_dict(self) -> dict[str, Any]:
        """Return what was seen since the last entry of the log, and the state of every mode and score."""
        return {
            "window": list(self._window),
            "modes": [mode.state_dict() for mode in self.modes],
            "scores": [{} if mode.score is None else mode.score.state_dict() for mode in self.modes],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self._window = state["window"]
        for mode, of_mode, of_score in zip(self.modes, state["modes"], state["scores"], strict=True):
            mode.load_state_dict(of_mode)
            if mode.score is not None:
                mode.score.load_state_dict(of_score)


def make_guide(arm: Arm, predictor: nn.Module | None, seed: int) -> Guide:
    """Return the guide of an arm; `predictor` is g, where it needs one (`Arm.needs_g`).

    Raises
    ------
    UserError
        As `addon_settings`; the score is unknown.
    """
    modes = []
    for name, own in zip(arm.addons, addon_settings(arm), strict=True):
        kind: type[AddOn] = load("addon", name)
        score = None
        if kind.needs_score:
            who = f"score {arm.qg_score}"
            score = Watched(call(who, load("score", arm.qg_score), predictor, seed), arm.qg_score)
        modes.append(call(f"add-on {kind.__name__}", kind, own, score, predictor, seed))
    return Guide(modes)
