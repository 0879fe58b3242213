"""Arms: what is compared within a setting. Imports no torch."""

import re
from typing import Any, Literal, NamedTuple

from pydantic import Field

from qgbench.base.errors import UserError
from qgbench.spec.settings import Settings

Score = Literal["g", "one", "shuffled", "confidence", "agreement", "oracle"]
SCORES: tuple[Score, ...] = ("g", "one", "shuffled", "confidence", "agreement", "oracle")
QGMode = Literal["none", "qw", "qar", "both"]
OF_ADDON = ("qg.", "quality.")
"""What the names of settings begin with that change the add-on or its predictor, and so nothing of a base method."""

_MODES: dict[QGMode, str] = {"none": "", "qw": "qw", "qar": "qar", "both": "qw+qar"}
_ADDON = re.compile(
    rf"(?P<mode>qw\+qar|qw|qar)(?:-(?P<score>{'|'.join(SCORES[1:])}))?(?P<norm>-unnormalised)?"
    r"(?P<settings>(?:-(?:qg|quality)\.\w+=.*)?)"
)


class AddOn(NamedTuple):
    """An add-on as the leaderboard writes it: ``qw``, ``qw+qar``, a control ``qw-shuffled``, ``qw-qg.tau=0.6``.

    Attributes
    ----------
    mode : str
        'qw', 'qar', 'qw+qar', '' for none.
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
    def parse(cls, text: str) -> "AddOn":
        """Read what `str` writes.

        Raises
        ------
        UserError
            The text is not of that form.
        """
        if not text:
            return cls()
        if (found := _ADDON.fullmatch(text)) is None:
            raise UserError(
                f"add-on '{text}' is not understood: expected qw, qar or qw+qar, a control as qw-SCORE with one of "
                f"{', '.join(SCORES[1:])}, and -unnormalised for --qg-norm none."
            )
        norm = "none" if found["norm"] else "weighted"
        return cls(found["mode"], found["score"] or "g", norm, found["settings"])

    def __str__(self) -> str:
        score = "" if self.score == "g" else f"-{self.score}"
        return self.mode and self.mode + score + ("-unnormalised" if self.norm == "none" else "") + self.settings

    @property
    def is_control(self) -> bool:
        """Whether another score stands in the place of g: ``qw-shuffled``, unlike ``qw-quality.steps=600``."""
        return self.score != "g"

    @property
    def by_g(self) -> "AddOn":
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
    qg_mode: QGMode = "none"
    qg_score: Score = "g"
    qg_norm: Literal["weighted", "none"] = Field("weighted", description="divide by sum(w*d), or by sum(d) ('none')")
    source: str = Field("", description="`qgbench.plugins.registry.method_source` of the method; '' for a built-in")
    overrides: dict[str, Any] = Field(default_factory=dict, description="settings that differ: 'method.threshold': 0.9")

    def overrides_of(self, part: str) -> dict[str, Any]:
        """Overrides of one part ('method', 'train', 'quality', 'qg'), without the prefix."""
        return {
            key.removeprefix(f"{part}."): value for key, value in self.overrides.items() if key.startswith(f"{part}.")
        }

    @property
    def needs_g(self) -> bool:
        """Whether a quality predictor takes part: as QAR's, or behind the scores g and shuffled."""
        return self.qg_mode in ("qar", "both") or (self.qg_mode == "qw" and self.qg_score in ("g", "shuffled"))

    @property
    def addon(self) -> str:
        """The add-on as the leaderboard writes it (`AddOn`); '' for none."""
        settings = "".join(f"-{key}={value}" for key, value in self._settings() if key.startswith(OF_ADDON))
        return str(AddOn(_MODES[self.qg_mode], self.qg_score, self.qg_norm, settings))

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


def parse_row(row: str) -> tuple[str, dict[str, Any]]:
    """Split ``fixmatch+qw-oracle`` into a row's name and the fields of its add-on in `Arm`.

    Raises
    ------
    UserError
        The text is not of that form.
    """
    name, _, text = row.partition("+")
    try:
        addon = AddOn.parse(text)
        if not name or addon.settings or row.endswith("+"):
            raise UserError("")
    except UserError:
        raise UserError(
            f"row '{row}' is not understood: expected NAME, NAME+qw, NAME+qar or NAME+qw+qar, a control as "
            f"NAME+qw-SCORE with one of {', '.join(SCORES[1:])}, and -unnormalised for --qg-norm none."
        ) from None
    modes = {text: mode for mode, text in _MODES.items()}
    return name, {"qg_mode": modes[addon.mode], "qg_score": addon.score, "qg_norm": addon.norm}
