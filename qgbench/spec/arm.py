"""Arms: what is compared within a setting. Imports no torch."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, cast

from pydantic import Field, field_validator

from qgbench.base.errors import UserError
from qgbench.spec.settings import Settings

OF_ADDON = ("qg.", "quality.")
"""What the names of settings begin with that change the add-on or its predictor, and so nothing of a base method."""

_MODES = {"none": "", "both": "qw+qar"}  # what --qg-mode calls otherwise than tables do
Form = Literal["regressor", "pixel", "both", "second", "ensemble"]
FORMS = ("pixel", "both", "second", "ensemble")  # of what is trained in the place of g; scores that ask it are named so
SCORES_OF_G = ("g", "mean", "shuffled", *FORMS)  # that ship and ask it
FREE_SCORES = ("one", "oracle", "confidence", "agreement", "entropy")  # that ship and need no predictor
CONTROL_SCORES = (*FREE_SCORES, "mean", "shuffled", "second", "ensemble")  # that stand in the place of g
CORRECTORS = ("pixel", "both", "second", "oracle")  # that ship and know a better label
ASK_A_SCORE = ("qw", "select", "refine")  # add-ons that ship
_FORM = "{0}qw, {0}qar or {0}qw+qar, another score as {0}qw-SCORE, and -unnormalised for --qg-norm none"
# A name has no hyphen; a file's may, so that its .py ends it. What begins with qw or qar is that add-on by a score.
_FILE = r"[^+=]*?\.py(?::\w+)?"
_MODE = rf"(?:(?:qw|qar)(?![^-+])|{_FILE}(?![^-+])|[^-+=]+)"
_SCORE = rf"(?!unnormalised\b|(?:qg|quality)\.(?!py\b))(?:{_FILE}|[^-+=]+)"
_ADDON = re.compile(
    rf"(?P<mode>{_MODE}(?:\+{_MODE})*)(?:-(?P<score>{_SCORE}))?(?P<norm>-unnormalised)?"
    r"(?P<settings>(?:-(?:qg|quality)\.\w+=.*)?)"
)


class AddOnSettings(Settings):
    """Base of the settings of an add-on: ``--set qg.NAME=VALUE``."""


class WeightingSettings(AddOnSettings):
    """Settings of QW (arXiv 2606.01753, Eqn 7)."""

    tau: float = Field(0.5, ge=0, le=1, description="pseudo-labels with q below tau get no weight")
    temperature: float = Field(2.0, gt=0, description="exponent T of the weight q**T")


class SelectionSettings(AddOnSettings):
    """Settings of selection by quality (arXiv 2406.00327, arXiv 2009.00584)."""

    keep: float = Field(0.5, gt=0, le=1, description="share of the pseudo-labels, by q, that are trusted")


class RefinementSettings(AddOnSettings):
    """Settings of the correction of labels."""

    refine: Literal["replace", "average"] = Field(
        "replace", description="the corrected mask takes the label's place, or both are averaged"
    )


class RegularisationSettings(AddOnSettings):
    """Settings of QAR (arXiv 2606.01753, Eqns 5 and 6)."""

    lambda_qar: float = Field(0.01, ge=0, description="largest weight of the quality-aware regularisation")
    qar_warmup: float = Field(0.15, ge=0, le=1, description="fraction of the budget before QAR starts")
    qar_ramp: float = Field(0.2, ge=0, le=1, description="fraction of the budget over which its weight rises")


ADDON_SETTINGS: Mapping[str, type[AddOnSettings]] = MappingProxyType(
    {"qw": WeightingSettings, "qar": RegularisationSettings, "select": SelectionSettings, "refine": RefinementSettings}
)
"""Settings of the add-ons that ship. They are here, and not with their code, because names are told without torch."""


class AddOnName(NamedTuple):
    """An add-on as the leaderboard writes it: ``qw``, ``qw+qar``, a control ``qw-shuffled``, ``qw-qg.tau=0.6``.

    Attributes
    ----------
    mode : str
        Names with a '+' between them: 'qw', 'qar', 'qw+qar'; '' for none.
    score : str
        What weighs: 'g', or a control.
    norm : 'weighted' or 'none'
        See `qgbench.methods.reduce_term`; 'none' is written ``-unnormalised``.
    settings : str
        Changed settings of the add-on and of g: ``-qg.tau=0.6-quality.steps=600``.
    """

    mode: str = ""
    score: str = "g"
    norm: str = "weighted"
    settings: str = ""

    @classmethod
    def parse(cls, text: str) -> "AddOnName":
        """Return the add-on that `str` writes so.

        Raises
        ------
        UserError
            The text is not of that form.
        """
        if not text:
            return cls()
        if (found := _ADDON.fullmatch(text)) is None:
            raise UserError(f"add-on '{text}' is not understood: expected {_FORM.format('')}.")
        norm = "none" if found["norm"] else "weighted"
        return cls(found["mode"], found["score"] or "g", norm, found["settings"])

    def __str__(self) -> str:
        score = "" if self.score == "g" else f"-{self.score}"
        return self.mode and self.mode + score + ("-unnormalised" if self.norm == "none" else "") + self.settings

    @property
    def is_control(self) -> bool:
        """Whether a control stands in the place of g: ``qw-shuffled``, unlike ``qw-quality.steps=600``.

        No label can be corrected by g, so nothing stands in its place there.
        """
        return self.score in CONTROL_SCORES and "refine" not in self.mode.split("+")

    @property
    def by_g(self) -> "AddOnName":
        """The add-on that a control stands beside: itself by g."""
        return self._replace(score="g")


class ArmName(NamedTuple):
    """What tells arms of one setting apart, in words."""

    method: str
    variant: str
    addon: str

    def __str__(self) -> str:
        addon = f" + {self.addon}" if self.addon else ""
        return self.method + (f" ({self.variant})" if self.variant else "") + addon

    @property
    def without_addon(self) -> "ArmName":
        """The twin without an add-on; itself if it has none."""
        return self._replace(addon="")

    @property
    def typed(self) -> str:
        """As one types it: ``fixmatch(threshold=0.9)+qw``."""
        variant = f"({self.variant})" if self.variant else ""
        return f"{self.method}{variant}" + (f"+{self.addon}" if self.addon else "")

    @property
    def order(self) -> tuple[bool, str, str, str]:
        """Sort key of tables: supervised first, then alphabetical."""
        return (self.method != "supervised", *self)


class Arm(Settings):
    """A method with its settings and its add-on."""

    method: str
    qg_mode: str = Field(
        "none", description="'none', 'both' (qw+qar), or references of add-ons with a '+' between them"
    )
    qg_score: str = Field("g", description="reference of a score")
    qg_norm: Literal["weighted", "none"] = Field("weighted", description="divide by sum(w*d), or by sum(d) ('none')")
    source: str = Field("", description="`qgbench.plugins.registry.source` of the method; '' for a built-in")
    addon_source: str = Field("", description="the same of the add-on and the score")
    plugin_needs_g: bool = Field(False, description="whether an add-on or a score that does not ship needs g")
    overrides: dict[str, Any] = Field(default_factory=dict, description="settings that differ: 'method.threshold': 0.9")

    @field_validator("qg_mode")
    @classmethod
    def _in_one_order(cls, mode: str) -> str:
        """Return the same add-ons written in one way: their arm has one id."""
        addons = addons_of(mode)
        if len(set(addons)) < len(addons):
            raise UserError(f"add-on '{mode}' names one add-on twice.")
        ours = ("qw", "qar")  # in this order; then the others
        text = "+".join(sorted(addons, key=lambda name: (ours.index(name) if name in ours else len(ours), name)))
        return next((mode for mode, meant in _MODES.items() if meant == text), text)

    def overrides_of(self, part: str) -> dict[str, Any]:
        """Return the overrides of one part ('method', 'train', 'quality', 'qg'), without the prefix."""
        return {
            key.removeprefix(f"{part}."): value for key, value in self.overrides.items() if key.startswith(f"{part}.")
        }

    @property
    def addons(self) -> tuple[str, ...]:
        """References of the add-ons; () for none."""
        return addons_of(self.qg_mode)

    @property
    def needs_g(self) -> bool:
        """Whether a quality predictor takes part: as QAR's, behind the scores that ask it, or for a plug-in."""
        asked_by_score = self.qg_score in SCORES_OF_G and any(name in ASK_A_SCORE for name in self.addons)
        return "qar" in self.addons or asked_by_score or self.plugin_needs_g

    @property
    def form(self) -> Form:
        """What the quality predictor is, which a score says that asks for another than g."""
        return cast(Form, self.qg_score) if self.qg_score in FORMS else "regressor"

    @property
    def addon(self) -> str:
        """The add-on as the leaderboard writes it (`AddOnName`); '' for none."""
        settings = "".join(f"-{key}={value}" for key, value in self._settings() if key.startswith(OF_ADDON))
        mode = "+".join(map(short_name, self.addons))
        return str(AddOnName(mode, short_name(self.qg_score), self.qg_norm, settings))

    @property
    def variant(self) -> str:
        """Settings that differ from the protocol's and the method's defaults, the add-on's aside, as text.

        Twins share it.
        """
        return ",".join(f"{key}={value}" for key, value in self._settings() if not key.startswith(OF_ADDON))

    def _settings(self) -> list[tuple[str, Any]]:
        return sorted(self.overrides.items())

    @property
    def arm(self) -> ArmName:
        """The arm's name."""
        return ArmName(self.method, self.variant, self.addon)


def addons_of(mode: str) -> tuple[str, ...]:
    """Return the references of the add-ons that `Arm.qg_mode` names; () for none."""
    return tuple(filter(None, _MODES.get(mode, mode).split("+")))


def parse_row(row: str) -> tuple[str, dict[str, Any]]:
    """Return the name of a row like ``fixmatch+qw-oracle``, and the fields of its add-on in `Arm`.

    Raises
    ------
    UserError
        The text is not of that form.
    """
    name, _, text = row.partition("+")
    try:
        addon = AddOnName.parse(text)
        if not name or addon.settings or row.endswith("+"):
            raise UserError("")
    except UserError:
        raise UserError(f"row '{row}' is not understood: expected NAME, {_FORM.format('NAME+')}.") from None
    modes = {text: mode for mode, text in _MODES.items()}
    return name, {"qg_mode": modes.get(addon.mode, addon.mode), "qg_score": addon.score, "qg_norm": addon.norm}


def short_name(reference: str) -> str:
    """Return a name or reference as it can be part of a file's name: lab.py:Mine -> lab_Mine."""
    return re.sub(r"\W+", "_", re.sub(r"\.py(?=:|$)", "", reference).rpartition("/")[2])
