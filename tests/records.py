"""Records for tests: what a run's cell, written as tables write it, says of its spec."""

import tomllib
from typing import Any

from qgbench.run.record import settings_as_used
from qgbench.spec.arm import AddOnName
from qgbench.spec.protocol import load_protocol
from qgbench.spec.run_spec import RunSpec
from qgbench.spec.settings import Settings

_MODES = {"": "none", "qw": "qw", "qar": "qar", "qw+qar": "both"}


def spec_of(addon: str = "", variant: str = "", **fields: Any) -> RunSpec:
    """The spec of a run by its cell and seed: ``spec_of("qw-oracle", "method.threshold=0.9", method="fixmatch")``."""
    parsed = AddOnName.parse(addon)
    pairs = [*filter(None, variant.split(",")), *filter(None, parsed.settings.split("-"))]
    overrides = {key: _value(text) for key, _, text in (pair.partition("=") for pair in pairs)}
    quality = {"qg_mode": _MODES.get(parsed.mode, parsed.mode), "qg_score": parsed.score, "qg_norm": parsed.norm}
    defaults: dict[str, Any] = {
        "protocol": "small",
        "protocol_version": 1,
        "dataset": "phantom",
        "regime": "n28@grouped",
        "arch": "unet",
        "encoder": "tf_efficientnet_lite0",
        "method": "mean_teacher",
        "seed": 0,
        "precision": "fp32",
        "device": "cpu",
        "threads": 2,
    }
    return RunSpec.model_validate(defaults | quality | fields | {"overrides": overrides})


def settings_of(spec: RunSpec, steps: int = 10) -> dict[str, Any]:
    """The settings of a record of few steps."""
    settings = settings_as_used(load_protocol(spec.protocol), Settings())
    settings["protocol"]["train"]["steps"] = steps
    return settings


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text
