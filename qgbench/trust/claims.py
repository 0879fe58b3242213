"""Numbers that a paper claims, to stand beside measured ones and never among them.

A file ``claims/<name>.toml`` beside the submitted results holds what one source claims::

    source = "QG-SSL"                     # how tables name it
    reference = "arXiv 2606.01753"        # arXiv number or DOI

    [[claim]]
    table = "Table 2"                     # where in the source; "" where that is not known
    about = "segmentation"                # or "predictor": the quality predictor g itself
    dataset = "ph2"                       # "" for several at once
    method = "fixmatch"                   # "" for the predictor
    addon = "qw"                          # "" for none
    metric = "dice"                       # of several classes their mean; "dice:liver" is of one
    least = 0.913                         # one number has least = most; an open end is left out
    most = 0.913
    unit = "share"                        # Dice of 91.3 is a share of 0.913
    note = "three seeds, as published"    # what else the source says of it
    differs = "all labels; here 28"       # between the source's setting and ours: what a reader must know to compare

What all claims of a file share, `differs` too, may stand above the first. Nothing is computed from a claim.
"""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from qgbench.base.errors import UserError
from qgbench.base.text import parse_toml, read_text

CLAIMS_NAME = "claims"


class Claim(BaseModel):
    """One claimed number."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    source: str = Field(min_length=1, description="short name of the paper")
    reference: str = Field(
        pattern=r"^(arXiv \d{4}\.\d{4,5}(v\d+)?|10\.\d{4,9}/\S+)$", description="'arXiv 2606.01753', or a DOI"
    )
    table: str = Field("", description="where in the source; '' where that is not known")
    about: Literal["segmentation", "predictor"]
    dataset: str = Field("", description="'' for several at once")
    labelled: str = Field("", description="the budget, as a regime begins: 'n7patients', 'all'; '' for any")
    method: str = Field("", description="'' for the predictor")
    addon: str = ""
    metric: str = Field(min_length=1)
    least: float | None = Field(None, description="None for an open end")
    most: float | None = Field(None, description="None for an open end")
    unit: Literal["share", "pixels", "percent of diagonal", "correlation"]
    note: str = ""
    differs: str = Field(min_length=1, description="between the source's setting and ours")

    @model_validator(mode="after")
    def _has_a_possible_value(self) -> Self:
        given = [value for value in (self.least, self.most) if value is not None]
        if not given or given != sorted(given):
            raise ValueError("least and most: give at least one of them, and least not above most")
        lowest, highest = {"share": (0, 1), "correlation": (-1, 1), "percent of diagonal": (0, 100)}.get(
            self.unit, (0, float("inf"))
        )
        if not all(lowest <= value <= highest for value in given):
            raise ValueError(f"a value in '{self.unit}' is between {lowest} and {highest}")
        if (self.about == "predictor") != (self.method == ""):
            raise ValueError("a claim about segmentation names a method, one about the predictor names none")
        return self

    @property
    def text(self) -> str:
        """The value as text: '0.913', '> 0.92', '< 0.1', '0.043 to 0.088'."""
        if self.least is None:
            return f"< {self.most:g}"
        if self.most is None:
            return f"> {self.least:g}"
        return f"{self.least:g}" if self.least == self.most else f"{self.least:g} to {self.most:g}"


def read_claims(folder: Path) -> list[Claim]:
    """Return what papers claim.

    Parameters
    ----------
    folder : Path
        Holds ``*.toml``, as `qgbench.trust.claims` describes them; it need not exist.

    Returns
    -------
    list of Claim
        By file name, then in the order of the file; [] without any.

    Raises
    ------
    UserError
        A file cannot be read, or a field is missing, unknown or out of range.
    """
    return [claim for file in sorted(folder.glob("*.toml")) for claim in _read(file)]


def _read(file: Path) -> list[Claim]:
    content = parse_toml(read_text(file), file)
    claims = content.pop("claim", None)
    if not isinstance(claims, list) or not all(isinstance(claim, dict) for claim in claims):
        raise UserError(f"{file} holds no claims; expected [[claim]] tables, see qgbench/trust/claims.py.")
    found = []
    for number, claim in enumerate(claims, start=1):
        try:
            found.append(Claim.model_validate({**content, **claim}))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the claim"
            raise UserError(f"{file}, claim {number}: {where}: {first['msg']}") from error
    return found
