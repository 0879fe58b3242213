"""Which records a report is about, and which pairs of their cells are asked for."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qgbench.base.errors import UserError
from qgbench.report.collect import Run
from qgbench.spec.arm import ArmName


@dataclass(frozen=True)
class Filters:
    """Which records a report is about; an empty tuple lets all pass."""

    dataset: tuple[str, ...] = ()
    regime: tuple[str, ...] = ()
    arch: tuple[str, ...] = ()
    method: tuple[str, ...] = ()

    def chosen(self, runs: Iterable[Run]) -> list[Run]:
        """Return the runs that pass.

        Raises
        ------
        UserError
            A filter names something that no record has, or no record passes all of them.
        """
        runs = list(runs)
        for what in ("dataset", "regime", "arch", "method"):
            known = sorted({getattr(run.record.spec, what) for run in runs})
            for wanted in getattr(self, what):
                if wanted not in known:
                    raise UserError(f"no record has the {what} '{wanted}'; there are: {', '.join(known)}.")
        kept = [
            run
            for run in runs
            if all(
                not getattr(self, what) or getattr(run.record.spec, what) in getattr(self, what)
                for what in ("dataset", "regime", "arch", "method")
            )
        ]
        if runs and not kept:
            raise UserError("no record passes all filters together; give fewer of them.")
        return kept


def named_pair(text: str, runs: Sequence[Run]) -> tuple[ArmName, ArmName]:
    """Return the two cells of ``A:B``, each side as one types it.

    Raises
    ------
    UserError
        It is no pair, or no run is of one of its sides.
    """
    first, colon, second = text.partition(":")
    if not colon:
        raise UserError(f"--contrast {text}: expected A:B, for example pseudo_label+qw:pseudo_label_confidence.")
    known = {name.typed: name for name in {run.record.spec.arm for run in runs}}
    for side in (first, second):
        if side not in known:
            raise UserError(f"--contrast {text}: no record of '{side}'; there are: {', '.join(sorted(known))}.")
    return known[first], known[second]
