"""Quality guidance in anybody's own training loop: the functions that the harness uses, on plain tensors."""

from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from qgbench.base.errors import UserError
from qgbench.methods.reduction import weighted_mean
from qgbench.plugins.hooks import told
from qgbench.quality.guide import lack_of_quality, quality_weight, regularisation_weight
from qgbench.quality.predictor import QualityPredictor
from qgbench.quality.scores import label_quality
from qgbench.spec.arm import RegularisationSettings, WeightingSettings
from qgbench.spec.settings import apply_settings
from qgbench.spec.task import Task

_QW, _QAR = WeightingSettings(), RegularisationSettings()


class QualityGuide:
    """QW and QAR by a stored g (arXiv 2606.01753): weights of pseudo-labels, their reduction, a regularisation.

    It is no `torch.nn.Module`: where it is an attribute of one, g stays out of its parameters, its state and its modes.

    Parameters
    ----------
    predictor : QualityPredictor
        g; it is frozen and put into evaluation mode.
    tau : float
        Pseudo-labels with q below tau get no weight.
    temperature : float
        Exponent T of the weight q**T.
    lambda_qar : float
        Largest weight of the regularisation.
    qar_warmup, qar_ramp : float
        Fraction of the training before the regularisation begins, and over which its weight rises.

    Raises
    ------
    UserError
        A number is out of range.
    """

    def __init__(
        self,
        predictor: QualityPredictor,
        tau: float = _QW.tau,
        temperature: float = _QW.temperature,
        lambda_qar: float = _QAR.lambda_qar,
        qar_warmup: float = _QAR.qar_warmup,
        qar_ramp: float = _QAR.qar_ramp,
    ) -> None:
        self.predictor = predictor.requires_grad_(False).eval()
        self._qw = apply_settings(_QW, {"tau": tau, "temperature": temperature}, "")
        self._qar = apply_settings(_QAR, {"lambda_qar": lambda_qar, "qar_warmup": qar_warmup, "qar_ramp": qar_ramp}, "")

    @classmethod
    def load(cls, path: str | Path, **settings: float) -> "QualityGuide":
        """Return the guide by a g that is stored in a folder: arguments and errors as of `QualityPredictor.load`."""
        return cls(QualityPredictor.load(path), **settings)

    @property
    def task(self) -> Task:
        """The classes that g judges."""
        return self.predictor.task

    def to(self, device: torch.device | str) -> "QualityGuide":
        """Move g to a device; return the guide."""
        self.predictor.to(device)
        return self

    def weights(self, images: Tensor, probs: Tensor) -> Tensor:
        """Return w = q**T where q >= tau, else 0, for q = g(image, hard label) (Eqn 7).

        Parameters
        ----------
        images : (B, 3, H, W)
            What was labelled, RGB in [0, 1], before any mean and standard deviation.
        probs : (B, C, H, W)
            Probabilities of the pseudo-labels before any cut: of a sigmoid for one class (C = 1), of a softmax over
            K + 1 channels for several, the first the background's.

        Returns
        -------
        (B,) float32 in [0, 1], detached.

        Raises
        ------
        UserError
            Images or probabilities are something else.
        """
        self.predictor.require(images, probs)
        quality = label_quality(self.predictor, self.task, images.float(), probs.float())
        return quality_weight(quality.float(), self._qw.tau, self._qw.temperature)

    def reduce(self, per_sample_loss: Tensor, w: Tensor, denominator: Tensor | None = None) -> Tensor:
        """Return sum(w * loss) / sum(w * denominator), over the rows of all processes.

        Where a process group of `torch.distributed` is at work, the divisor is averaged over its processes, as DDP does
        with gradients: each must call this, in the same order.

        Parameters
        ----------
        per_sample_loss : (N,)
            One value a row, not averaged over the batch.
        w : (N,)
            Of each row: `weights`, repeated or indexed where a label has several rows.
        denominator : (N,), optional
            Share of each row that counts, for example of certain pixels, if losses of others are 0 and are to be left
            out of the mean; 1 if not given.

        Returns
        -------
        scalar, 0 with a graph where every weight is 0.

        Raises
        ------
        UserError
            The three are not of one length.
        """
        for name, rows in (("per_sample_loss", per_sample_loss), ("w", w), ("denominator", denominator)):
            if rows is not None and (not isinstance(rows, Tensor) or rows.ndim != 1 or rows.shape != w.shape):
                raise UserError(
                    f"reduce: {name} must hold one value a row, as many as w, not {told(rows)}: average a loss over "
                    "its pixels alone, loss.mean((1, 2, 3))."
                )
        return weighted_mean(per_sample_loss, w, denominator, total=_mean_over_processes)

    def regularisation(self, images: Tensor, probs: Tensor, progress: float = 1.0) -> Tensor:
        """Return lambda(t) * mean(1 - g(image, probabilities)) (Eqns 5 and 6), a loss to add.

        Parameters
        ----------
        images : (B, 3, H, W)
            As of `weights`.
        probs : (B, C, H, W)
            Probabilities with their gradient, which it is handed; g has none.
        progress : float
            Fraction of the training that is done, in [0, 1], for warm-up and ramp; full weight if not given.

        Returns
        -------
        scalar; 0 without a graph, and g is not asked, where lambda(t) is 0.

        Raises
        ------
        UserError
            As of `weights`; `progress` is no fraction.
        """
        if not 0 <= progress <= 1:
            raise UserError(f"regularisation: progress is {progress}; give the step divided by the number of steps.")
        weight = regularisation_weight(self._qar, progress)
        if weight == 0:
            return torch.zeros((), device=probs.device)
        self.predictor.require(images, probs)
        return weight * lack_of_quality(self.predictor, self.task, images.float(), probs.float())


def _mean_over_processes(value: Tensor) -> Tensor:
    if not (dist.is_available() and dist.is_initialized()):
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
