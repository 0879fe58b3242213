"""The only training loop: every method, with or without the add-on, goes through it."""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

from qgbench.base.cores import usable_cores
from qgbench.base.errors import QGBenchError, UserError
from qgbench.base.logs import logger
from qgbench.base.seeds import salted
from qgbench.data.experiment import ImageSet, TrainingData
from qgbench.data.views import Shared, labelled_view
from qgbench.engine.device import World
from qgbench.engine.state import load_scaler_state, new_scaler, random_states, scaler_state, set_random_states
from qgbench.methods import Batch, Method, PseudoLabel
from qgbench.methods.contract import optimiser_of
from qgbench.quality.audit import HELD, audited_after, correlations
from qgbench.quality.guide import Guide
from qgbench.quality.scores import (
    Labelling,
    flip_agreement,
    foreground_confidence,
    mean_of_held,
    overlap_by_class,
    predicted_dice,
    predicted_quality,
)
from qgbench.spec.protocol import Protocol, check_batches
from qgbench.training.ahead import Ahead
from qgbench.training.objective import Objective
from qgbench.training.streams import Streams
from qgbench.training.watch import optimism_has_grown

AUDIT_IMAGES = 128  # at most so many images in one audit
_LOG_EVERY = 10


@dataclass
class History:
    """What a run remembers beside its networks."""

    step: int = 0
    val_dice: list[tuple[int, float]] = field(default_factory=list)
    best_step: int | None = None
    best_state: dict[str, Tensor] = field(default_factory=dict)
    audited: dict[str, list[Any]] = field(default_factory=dict)  # score or 'dice' -> one list of values per quarter
    guidance: list[dict[str, float]] = field(default_factory=list)
    gaps: list[list[float]] = field(default_factory=list)  # q - Dice of the validation images, since QAR began
    val_gap: float | None = None  # mean q - mean Dice at the last validation
    warnings: list[str] = field(default_factory=list)
    log: list[dict[str, float | None]] = field(default_factory=list)


class Trainer:
    """Trains one method, in one process or in several that share each batch.

    Every process of a run makes a Trainer with the same arguments and calls the same of its methods in the same order.
    Weights, history and decisions are then the same in all of them.

    Parameters
    ----------
    method : Method
        On the processor; it is moved to the accelerator's device.
    guide : Guide
        The add-on's modes; no modes for a base method.
    predictor : nn.Module or None
        g, for the audit of pseudo-labels.
    data : TrainingData
    protocol : Protocol
    seed : int
    accelerator : Accelerator
    norm : 'weighted' or 'none'

    Raises
    ------
    UserError
        The processes cannot share the batches equally.
    """

    def __init__(
        self,
        method: Method,
        guide: Guide,
        predictor: nn.Module | None,
        data: TrainingData,
        protocol: Protocol,
        seed: int,
        accelerator: Accelerator,
        norm: Any = "weighted",
    ) -> None:
        self._world = World(accelerator)
        check_batches(protocol.train, self._world.size)
        if accelerator.device.type == "cuda" and self._world.size > 1:
            # timm's conversion keeps the activation of its joint normalisation layers, torch's loses it.
            method = convert_sync_batchnorm(method)
        self.method = method.to(accelerator.device)
        self._guide = guide
        self._predictor = predictor
        self._data = data
        self._settings = protocol.train
        self._accelerator = accelerator
        new_scaler(accelerator)
        streams = Streams(data, protocol.train, seed, self._world, accelerator.device, self.method.strong_views)
        self._streams = Ahead(streams) if core_to_spare(accelerator) else streams
        self._objective: nn.Module = Objective(self.method, guide, norm, self._world)
        new_scaler(accelerator)
        if self._world.size > 1:
            self._objective = accelerator.prepare_model(self._objective)
        self._optimiser = accelerator.prepare_optimizer(
            optimiser_of(self.method, protocol.train.lr, protocol.train.weight_decay)
        )
        # A group that begins with a rate of its own keeps its multiple of the protocol's.
        self._multiples = [group["lr"] / protocol.train.lr for group in self._optimiser.param_groups]
        self._audit_set, self._audit_index = self._choose_audit_images(seed)
        self.history = History()
        self._seed = seed
        torch.manual_seed(self._world.seed(salted("dropout", seed)))

    @property
    def steps(self) -> int:
        """The step budget."""
        return self._settings.steps

    @property
    def step(self) -> int:
        """Number of steps that are done."""
        return self.history.step

    @property
    def audited_on(self) -> str:
        """What pseudo-labels are audited on: 'validation images' or 'unlabelled training images'."""
        return "validation images" if self._audit_set is self._data.val else "unlabelled training images"

    def any_process(self, flag: bool) -> bool:
        """Return to every process whether any of them says yes; the flag itself in a run of one process."""
        return self._world.any(flag)

    def _choose_audit_images(self, seed: int) -> tuple[ImageSet, np.ndarray]:
        images, rows = self._data.unlabelled, np.flatnonzero(self._data.unlabelled.masked)  # held-back masks
        if self._data.unlabelled_are_labelled or len(rows) < 3:
            images, rows = self._data.val, np.arange(len(self._data.val))
        # Shuffled: neighbours by name are often frames of one video, and a batch is normalised as a whole.
        shuffled = np.random.default_rng(salted("audited images", seed)).permutation(rows)
        return images, shuffled[:AUDIT_IMAGES]

    def run(self) -> Iterator[int]:
        """Train to the end of the budget, yielding the number of finished steps after each.

        Raises
        ------
        QGBenchError
            The loss is not finite.
        UserError
            The method broke its contract.
        """
        self.method.train()
        validate_every = max(1, self.steps // self._settings.validations)
        audited = audited_after(self.steps, self.method.pseudo_labels)
        for step in range(self.history.step, self.steps):
            self._train_step(step)
            done = self.history.step = step + 1
            if done % validate_every == 0 or done == self.steps:
                self._validate(done)
            if done in audited:
                self._audit_pseudo_labels()
            yield done

    def _train_step(self, step: int) -> None:
        progress = step / self.steps
        batch, truth = self._streams.next(progress)
        rate = learning_rate(progress, self._settings.lr, self._settings.lr_end)
        for group, multiple in zip(self._optimiser.param_groups, self._multiples, strict=True):
            group["lr"] = multiple * rate
        with self._accelerator.autocast():
            total, parts = self._objective(batch, truth, step)
        parts = self._of_whole_batch(parts)
        if not math.isfinite(loss := float(parts["total"])):
            named = ", ".join(f"{name} {float(value):.4g}" for name, value in parts.items())
            raise QGBenchError(
                f"the loss is {loss} at step {step + 1} of {self.steps} ({named}). "
                "Try a lower learning rate (--set train.lr=...) or --precision fp32."
            )
        self._optimiser.zero_grad(set_to_none=True)
        self._accelerator.backward(total)
        self._accelerator.unscale_gradients(self._optimiser)
        for student in self.method.students:
            nn.utils.clip_grad_norm_(student.parameters(), self._settings.grad_clip)
        if heads := self.method.heads():
            nn.utils.clip_grad_norm_(heads, self._settings.grad_clip)
        self._optimiser.step()
        self._average_buffers()
        released = self._settings.ema == "release"
        self.method.update_teacher(decay_of_release(step) if released else self.method.teacher_decay(step))
        guidance = self._guide.take_log()
        if "kept_share" in guidance and float(parts["lambda_u"]) > 0:
            self.history.guidance.append(guidance)
        if step % _LOG_EVERY == 0 or step + 1 == self.steps:
            lr = self._optimiser.param_groups[0]["lr"]
            numbers = {name: float(value) for name, value in parts.items()} | guidance
            window = self._guide.take_window()
            if self._data.unlabelled_are_labelled:  # their masks are no secret, so they judge nothing
                window = {}
            self.history.log.append({"step": step + 1, "lr": lr, **numbers, **window})

    def _of_whole_batch(self, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        if self._world.size == 1:
            return parts
        device = self._accelerator.device
        joined = self._world.mean(torch.stack([value.to(device, torch.float64) for value in parts.values()]))
        return dict(zip(parts, joined, strict=True))

    def _average_buffers(self) -> None:
        """Average over the processes what each took from its own part of the batch (running statistics)."""
        if self._world.size == 1:
            return
        state = self.method.state_dict()  # without constants; the teacher's buffers follow the student's
        names = [name for name, _ in self.method.named_buffers() if name in state and not name.startswith("teacher.")]
        buffers = [state[name] for name in names if state[name].is_floating_point()]
        if buffers:
            averaged = self._world.mean(torch.cat([buffer.flatten() for buffer in buffers]))
            for buffer, value in zip(buffers, averaged.split([b.numel() for b in buffers]), strict=True):
                buffer.copy_(value.view_as(buffer))

    def _validate(self, done: int) -> None:
        judged = self._judge_validation()
        dice = self._world.of_main(float(judged["dice"].mean()))
        self.history.val_dice.append((done, dice))
        self.method.validated(dice)
        self._log_validation(done, dice, judged)
        # One rule for a method and its twins: only steps after the ramps of both method and add-on can be chosen.
        settings = self.method.settings
        ramped = max(settings.warmup + settings.ramp, self._guide.full_from)
        best = max((value for step, value in self.history.val_dice[:-1] if step >= ramped * self.steps), default=-1.0)
        if done >= ramped * self.steps and dice > best:
            self.history.best_step = done
            self.history.best_state = {k: v.detach().cpu().clone() for k, v in self.method.student.state_dict().items()}

    def _judge_validation(self) -> dict[str, np.ndarray]:
        """Return what the evaluated network's validation predictions are worth, at training size, each (V,).

        'dice' is true Dice, of several classes their mean; 'quality' is what the scores are of: that mean over the
        classes that the prediction holds, so that who misses a class loses in 'dice' alone. The scores are 'confidence'
        and, where there is a g, 'q'. Volumes are judged slice by slice.
        """
        task = self.method.task
        found: dict[str, list[Tensor]] = {}
        for image, mask in self._data.val.batches():
            image = image.to(self._accelerator.device)
            with self._accelerator.autocast(), torch.no_grad():
                prob = self.method.predict(image)
                label = prob.cpu()
                by_class = overlap_by_class(task, task.hard(label).bool(), mask > 0.5)
                scores = {
                    "dice": by_class.mean(1),
                    "quality": mean_of_held(task, by_class, label),
                    "confidence": foreground_confidence(Labelling(image, prob, self.method.student, None)),
                }
                if self._predictor is not None:
                    scores["q"] = predicted_quality(self._predictor, task, image, task.hard(prob))
            for name, values in scores.items():
                found.setdefault(name, []).append(values.float().cpu())
        return {name: torch.cat(parts).numpy() for name, parts in found.items()}

    def _log_validation(self, done: int, dice: float, judged: dict[str, np.ndarray]) -> None:
        scores = {name: values for name, values in judged.items() if name not in ("dice", "quality")}
        entry = {f"val_{name}": value for name, value in correlations(judged["quality"], **scores).items()}
        if "q" in judged:
            gaps = judged["q"] - judged["quality"]
            self.history.val_gap = float(gaps.mean())
            entry |= {"val_q": float(judged["q"].mean()), "val_q_minus_dice": self.history.val_gap}
            begins = self._guide.pleases_g_from
            if begins is not None and done >= begins * self.steps:
                self.history.gaps.append(gaps.tolist())
                self._warn_if_g_is_fooled(done)
        self.history.log.append({"step": done, "val_dice": dice, **entry})

    def _warn_if_g_is_fooled(self, done: int) -> None:
        if self.history.warnings or (rise := optimism_has_grown(self.history.gaps)) is None:
            return
        text = (
            f"QAR seems to fool g: at step {done} of {self.steps}, g's judgement of the validation predictions has "
            f"risen by {rise:.2f} over their true Dice since QAR began."
        )
        self.history.warnings.append(text)
        logger.warning(text)

    def _audit_pseudo_labels(self) -> None:
        """Judge the labels that the next steps would make of the audited images, in batches such as theirs."""
        task, g = self.method.task, self._predictor
        scores: dict[str, Callable[[Labelling], Tensor]] = {
            "confidence": foreground_confidence,
            "agreement": flip_agreement,
        }
        if g is not None:
            scores["g"] = lambda asked: predicted_dice(g, task, asked.image, task.hard(asked.prob))
        plugged = self._guide.plugin_scores
        scores |= plugged
        states = {name: copy.deepcopy(score.state_dict()) for name, score in plugged.items()}
        several = (HELD,) if len(task.classes) > 1 else ()
        values: dict[str, list[Tensor]] = {name: [] for name in ("dice", *several, *scores)}
        for index, label in self._labels_of_audited():
            with self._accelerator.autocast(), torch.no_grad():
                labelling = Labelling(label.image, label.prob, label.network, None)
                for name, score in scores.items():
                    values[name].append(score(labelling).cpu().float())
            hard = task.hard(label.prob.cpu()).bool()
            values["dice"].append(overlap_by_class(task, hard, self._audit_set.masks(index) > 0.5))
            if several:
                values[HELD].append(hard[:, task.lesions].flatten(2).any(2).float())
        for name, score in plugged.items():
            score.load_state_dict(states[name])
        for name, collected in values.items():
            # The last batch was filled up with the first images. What is of a whole label is of each of its classes.
            given = torch.cat(collected)[: len(self._audit_index)].view(len(self._audit_index), -1)
            self.history.audited.setdefault(name, []).append(given.expand(-1, len(task.classes)).flatten().tolist())

    def _labels_of_audited(self) -> Iterator[tuple[np.ndarray, PseudoLabel]]:
        """Yield the audited images, batch by batch, and what the method labels them with.

        A student's labels depend on the batch that normalises them: each is of a training batch's size, and has its
        labelled images. Strong views take part in no label and are left plain. Training finds everything as it was.
        """
        method, settings = self.method, self._settings
        size, share = (n // self._world.size for n in (settings.batch_unlabelled, settings.batch_labelled))
        labelled = self._data.labelled
        generator = torch.Generator().manual_seed(salted("views of the audit", self._seed))
        state = {name: value.clone() for name, value in method.state_dict().items()}
        devices = [self._accelerator.device] if self._accelerator.device.type == "cuda" else []
        progress = min(self.step, self.steps - 1) / self.steps
        for start in range(0, len(self._audit_index), size):
            index = np.take(self._audit_index, range(start, start + size), mode="wrap")
            order = torch.randperm(len(labelled), generator=generator).numpy()
            some = np.take(order, range(share), mode="wrap")
            x_l, y_l = labelled_view(labelled.images(some), labelled.masks(some), settings, Shared(generator))
            u_w = self._audit_set.images(index)
            uncut = torch.zeros_like(u_w[:, :1], dtype=torch.bool)
            batch = Batch(x_l, y_l, u_w, u_w, u_w, uncut, uncut, progress).to(self._accelerator.device)
            self._guide.begin(batch, self._audit_set.masks(index).to(self._accelerator.device))
            with torch.random.fork_rng(devices=devices), torch.no_grad(), self._accelerator.autocast():
                terms = method(batch).terms if method.pseudo_labels else []
                label = next((term.label for term in terms if term.label.view == "weak"), None)
                if label is None:  # the method does not label, or not yet
                    label = method.label(method.teacher or method.student, batch.u_w)
            yield index, label
        method.load_state_dict(state)

    def audited_labels(self) -> pd.DataFrame:
        """Return a row per audited pseudo-label and class, checkpoint after checkpoint, for `quality.audit.audits_of`.

        Scores of a whole label stand in the row of each class; true Dice and g are the class's own.
        """
        audited, classes = self.history.audited, self.method.task.classes
        checkpoints = len(audited.get("dice", []))
        images = [self._audit_set.ids[index] for index in self._audit_index for _ in classes]
        names = [
            *(name for name in ("dice", HELD, "g", "confidence", "agreement") if name in audited),
            *self._guide.plugin_scores,
        ]
        moments = list(audited_after(self.steps, self.method.pseudo_labels).values())[:checkpoints]
        when = np.repeat(moments, len(images))
        columns: dict[str, Any] = {"progress": when, "id": images * checkpoints}
        columns["class"] = list(classes) * (len(when) // len(classes))
        columns |= {name: np.concatenate([np.array(part) for part in audited[name]]) for name in names}
        return pd.DataFrame(columns)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the rest of the run depends on; every process calls this and gets the same."""
        return {
            "history": vars(self.history),
            "method": self.method.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "scaler": scaler_state(self._accelerator),
            "streams": self._streams.state_dict(),
            "guide": self._guide.state_dict(),
            "random": self._world.gather_object(random_states()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken: the result is that of an uninterrupted run, bit for bit on a CPU.

        Raises
        ------
        UserError
            Another number of processes made the state.
        """
        if (made_by := len(state["random"])) != self._world.size:
            raise UserError(
                f"the checkpoint was made by {made_by} process(es), this run has {self._world.size}: continue it with "
                f"{made_by}, or start anew in another folder (--output)."
            )
        self.history = History(**state["history"])
        self.method.load_state_dict(state["method"])
        self._optimiser.load_state_dict(state["optimiser"])
        load_scaler_state(self._accelerator, state["scaler"])
        self._streams.load_state_dict(state["streams"])
        self._guide.load_state_dict(state["guide"])
        set_random_states(state["random"][self._world.rank])


def core_to_spare(accelerator: Accelerator) -> bool:
    """Return whether another thread takes no core from a run, which computes on a GPU or on fewer cores than it has."""
    if accelerator.device.type == "cpu":
        return torch.get_num_threads() * accelerator.num_processes < usable_cores()
    return accelerator.device.type == "cuda"  # MPS is not to be asked by two threads at once


def learning_rate(progress: float, highest: float, lowest: float) -> float:
    """Return the learning rate, a cosine from `highest` at progress 0 to `lowest` at 1."""
    return lowest + 0.5 * (highest - lowest) * (1.0 + math.cos(math.pi * progress))


def decay_of_release(step: int) -> float:
    """Return the teacher's decay after a step, of which the first is 0, as the release of arXiv 2606.01753 has it.

    It rises from 0.5 to 0.999 in 1000 updates, the first of which counts as one.
    """
    return 0.5 + 0.499 * min(1.0, (step + 1) / 1000)
