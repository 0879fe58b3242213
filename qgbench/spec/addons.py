"""Add-ons and scores by name, and what is asked of them before a run begins. Imports no torch for those that ship."""

from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from qgbench.base.errors import UserError, unknown_name
from qgbench.plugins.registry import is_built_in, load
from qgbench.spec.arm import ADDON_SETTINGS, ASK_A_SCORE, AddOnSettings, Arm
from qgbench.spec.settings import apply_settings

ADDONS: Mapping[str, str] = MappingProxyType(
    {
        "qw": "qgbench.quality.guide:QualityWeighting",
        "qar": "qgbench.quality.guide:QualityRegularisation",
        "select": "qgbench.quality.guide:QualitySelection",
        "refine": "qgbench.quality.guide:Refinement",
    }
)
SCORES: Mapping[str, str] = MappingProxyType(
    {
        "g": "qgbench.quality.scores:PredictedQuality",
        "one": "qgbench.quality.scores:One",
        "pixel": "qgbench.quality.scores:PixelQuality",
        "both": "qgbench.quality.scores:BothQuality",
        "second": "qgbench.quality.scores:SecondQuality",
        "ensemble": "qgbench.quality.scores:EnsembleQuality",
        "mean": "qgbench.quality.scores:MeanQuality",
        "shuffled": "qgbench.quality.scores:ShuffledQuality",
        "confidence": "qgbench.quality.scores:Confidence",
        "agreement": "qgbench.quality.scores:Agreement",
        "entropy": "qgbench.quality.scores:Entropy",
        "oracle": "qgbench.quality.scores:TrueDice",
    }
)


def needs_score(addon: str) -> bool:
    """Return whether an add-on asks a score of pseudo-labels."""
    return addon in ASK_A_SCORE if is_built_in("addon", addon) else load("addon", addon).needs_score


def needs_g(addon: str) -> bool:
    """Return whether an add-on asks the quality predictor itself, whatever the score."""
    return addon == "qar" if is_built_in("addon", addon) else load("addon", addon).needs_g


def needs_truth(score: str) -> bool:
    """Return whether a score looks at held-back masks."""
    return score == "oracle" if is_built_in("score", score) else load("score", score).needs_truth


def settings_of(addon: str) -> type[AddOnSettings]:
    """Return the class of an add-on's settings."""
    return ADDON_SETTINGS[addon] if is_built_in("addon", addon) else load("addon", addon).Settings


def addon_settings(arm: Arm) -> list[AddOnSettings]:
    """Return the settings of each of an arm's add-ons, after the arm's overrides.

    Raises
    ------
    UserError
        An add-on is unknown, or a setting: to all of them (the nearest is named), or out of range. Two add-ons have a
        setting of one name.
    """
    kinds = [settings_of(name) for name in arm.addons]
    counted = Counter(name for kind in kinds for name in kind.model_fields)
    if shared := [name for name, count in counted.items() if count > 1]:
        raise UserError(
            f"add-ons {' and '.join(arm.addons)} both have a setting qg.{shared[0]}, and a value would be "
            "meant for either; rename it in one of them."
        )
    changes = arm.overrides_of("qg")
    for name in changes:
        if name not in counted:
            raise _unknown_setting(name, arm.addons, list(counted))
    return [
        apply_settings(kind(), {name: changes[name] for name in changes if name in kind.model_fields}, "qg.")
        for kind in kinds
    ]


def _unknown_setting(name: str, addons: Sequence[str], known: Sequence[str]) -> UserError:
    """Return the error for a setting that no chosen add-on has: it is another's, or misspelt."""
    settings = [f"qg.{field}" for field in known]
    owner = next((other for other, kind in ADDON_SETTINGS.items() if name in kind.model_fields), None)
    if owner is None or not addons:
        return unknown_name("setting", f"qg.{name}", settings)
    chosen = " and ".join(addons)
    return UserError(f"qg.{name} is a setting of {owner}, not of {chosen}, which has: {', '.join(settings) or 'none'}.")
