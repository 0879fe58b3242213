"""Regimes: which labels and which unlabelled images a run gets. Imports no torch."""

import math
import re
from typing import Literal

from pydantic import Field

from qgbench.base.errors import UserError
from qgbench.spec.settings import Settings

SplitKind = Literal["grouped", "image"]


GIVEN = "given-"  # begins the name of a split that someone else made; 8 digits of its hash follow


_SPLIT = re.compile(rf"grouped|image|{GIVEN}[0-9a-f]{{8}}")


_PATIENTS = "patients"
_POOL = re.compile(r"(?P<name>.+?)(?:~(?P<draw>[1-9]\d*))?")


class Regime(Settings):
    """Which labels and which unlabelled images a run gets, and how the data set is split.

    Written ``n28+isic_pool@grouped``: the labelled budget (``n28`` images, ``n7patients`` of volumes, ``p10`` per cent
    of the training part, or ``all``), external pools (``isic2020~5000``: so many images drawn from one), and the kind
    of split: ``grouped``, ``image``, or ``given-`` and 8 hexadecimal digits for a split that someone else made.
    """

    budget: int | None = Field(description="labelled images; None = `percent` of the training part, or all of it")
    patients: bool = Field(False, description="the budget counts patients, all of whose slices have labels")
    percent: float | None = Field(None, gt=0, le=100, description="labelled share of the training part, in per cent")
    pools: tuple[str, ...] = Field(description="external unlabelled pools")
    split: str = Field("grouped", pattern=_SPLIT.pattern)

    def __str__(self) -> str:
        if self.percent is not None:
            budget = f"p{self.percent:g}"
        else:
            budget = "all" if self.budget is None else f"n{self.budget}{_PATIENTS if self.patients else ''}"
        return "+".join((budget, *self.pools)) + f"@{self.split}"

    @classmethod
    def parse(cls, text: str) -> "Regime":
        """Return the regime ``n28+isic_pool@grouped``; ``28`` and ``10%`` will do for ``n28`` and ``p10``.

        ``7patients`` will do for ``n7patients``.

        Raises
        ------
        UserError
            The text is not of that form.
        """
        body, _, split = text.partition("@")
        budget, *pools = body.split("+")
        number = re.fullmatch(rf"n?(\d+)({_PATIENTS})?", budget)
        percent = re.fullmatch(r"p(\d+(?:\.\d+)?)|(\d+(?:\.\d+)?)%", budget)
        understood = number or percent or budget == "all"
        if not understood or "" in pools or (split and not _SPLIT.fullmatch(split)):
            raise UserError(
                f"regime '{text}' is not understood. Expected a budget (n28, n7patients of volumes, p10 for 10 % or "
                "all), any pools, a split kind (grouped or image): for example 'n28@grouped' or 'all+isic_pool@image'."
            )
        if number and int(number[1]) == 0:
            raise UserError(f"regime '{text}' labels nothing: its budget is 0; give at least 1.")
        share = float(percent[1] or percent[2]) if percent else None
        if share is not None and not 0 < share <= 100:
            raise UserError(f"regime '{text}' has a budget of {share:g} %; give more than 0 and at most 100.")
        return cls(
            budget=int(number[1]) if number else None,
            patients=bool(number and number[2]),
            percent=share,
            pools=tuple(pools),
            split=split or "grouped",
        )

    def of_volumes(self) -> "Regime":
        """Return the same regime for a data set of volumes, where a budget counts patients.

        Raises
        ------
        UserError
            It has a share of the training part, which would part patients.
        """
        if self.percent is not None:
            raise UserError(
                f"regime '{self}': of volumes a number of patients has labels, not a share of the slices; give a "
                "number (--labelled 7), or all."
            )
        return self.model_copy(update={"patients": self.budget is not None})

    def require_unit(self, dataset: str, volumes: bool) -> None:
        """Refuse a budget that counts images of volumes, or patients of pictures, and a split that parts volumes.

        Raises
        ------
        UserError
            Says what to write.
        """
        if volumes and self.of_volumes() != self:
            raise UserError(
                f"regime '{self}': '{dataset}' is volumes, whose budget counts patients; write '{self.of_volumes()}'."
            )
        if volumes and self.split == "image":
            raise UserError(
                f"regime '{self}': '{dataset}' is volumes, and slices of one would be trained and tested on; write "
                f"'{self.model_copy(update={'split': 'grouped'})}'."
            )
        if self.patients and not volumes:
            pictures = self.model_copy(update={"patients": False})
            raise UserError(
                f"regime '{self}': '{dataset}' is pictures, whose budget counts images; write '{pictures}'."
            )

    @property
    def pool_names(self) -> list[str]:
        """The pools without the numbers of images drawn from them."""
        return [self._pool(pool)["name"] for pool in self.pools]

    @property
    def pool_draws(self) -> list[int | None]:
        """How many images are drawn from each pool; None: all."""
        draws = [self._pool(pool)["draw"] for pool in self.pools]
        return [None if draw is None else int(draw) for draw in draws]

    @staticmethod
    def _pool(pool: str) -> re.Match[str]:
        found = _POOL.fullmatch(pool)
        assert found is not None, "a pool has a name"
        return found

    @property
    def split_kind(self) -> SplitKind:
        """The kind of a split by qgbench."""
        return "image" if self.split == "image" else "grouped"

    def labelled(self, training: int) -> int:
        """Return the number of labelled images among so many of the training part; a share is rounded, half up.

        Where the budget counts patients, it is their number, and so is `training`.
        """
        if self.percent is not None:
            return math.floor(training * self.percent / 100 + 0.5)
        return training if self.budget is None else self.budget
