"""The total loss of one step: the only place where unlabelled losses are weighted and reduced."""

from typing import Literal

import torch
from torch import Tensor, nn

from qgbench.engine.device import ALONE, World
from qgbench.methods import Batch, Method, check_step, reduce_term
from qgbench.quality.guide import Guide, ramp


class Objective(nn.Module):
    """supervised + lambda_u(t) * sum_k coef_k R_k + what the add-on's modes add (for QAR lambda_qar(t) * mean(1 - g)).

    One forward pass a step computes everything, so that it can be wrapped for several processes. Each of them has an
    equal part of the batch; the mean of their totals, and of their gradients, is that of the whole batch.

    Parameters
    ----------
    method : Method
    guide : Guide
    norm : 'weighted' or 'none'
        See `qgbench.methods.reduce_term`.
    world : World
        The processes of the run.
    """

    def __init__(
        self,
        method: Method,
        guide: Guide,
        norm: Literal["weighted", "none"] = "weighted",
        world: World = ALONE,
    ) -> None:
        super().__init__()
        self.method = method
        self.guide = guide
        self._norm: Literal["weighted", "none"] = norm
        self._world = world
        self._checked = -1  # terms of a step that was checked; a method may begin without any, or with fewer
        guide.attach(method)
        guide.join(world)
        if world.size > 1:
            # Told to look for unused parameters, DDP warns in each process unless it finds one. None of a method's is
            # known to be unused; this one is, and no optimiser has it.
            self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, batch: Batch, truth: Tensor | None, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss on one batch, and its parts.

        Parameters
        ----------
        batch : Batch
        truth : (U, C, H, W) or None
            Held-back masks for the oracle control; methods never see them.
        step : int
            Number of the step, the first is 0.

        Returns
        -------
        total : scalar
        parts : dict of detached scalars, for the log; as `total`, they are to be averaged over the processes

        Raises
        ------
        UserError
            The method broke the contract, in this step.
        """
        self.guide.begin(batch, truth)
        losses = self.method(batch)
        check_step(losses, batch, self.method)
        total = losses.supervised
        parts = {"supervised": losses.supervised.detach()}
        settings = self.method.settings
        lambda_u = ramp(batch.progress, settings.warmup, settings.ramp, settings.lambda_u)
        weights = self.guide.weights(losses.terms, {"weak": truth, "labelled": batch.y_l})
        for index, (term, weight) in enumerate(zip(losses.terms, weights, strict=True)):
            # The mean, not the sum, of the processes' divisors: their gradients are averaged too.
            reduced = reduce_term(term, weight, self._norm, self._world.mean)
            total = total + lambda_u * term.coef * reduced
            parts[f"unlabelled_{index}"] = reduced.detach()
        if (added := self.guide.losses(batch, self.method, step)) is not None:
            total = total + added
            parts["added"] = added.detach()
        return total, parts | {"total": total.detach(), "lambda_u": torch.tensor(lambda_u)}
