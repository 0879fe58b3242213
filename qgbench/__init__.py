"""qgbench: semi-supervised medical image segmentation, with and without quality guidance."""

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qgbench.quality.library import QualityGuide
    from qgbench.quality.predictor import QualityPredictor
    from qgbench.run.trained import load_run

__version__ = "0.3.0"

__all__ = ["QualityGuide", "QualityPredictor", "load_run"]

_MODULES = {  # of what is imported, with torch, when it is asked for
    "QualityGuide": "qgbench.quality.library",
    "QualityPredictor": "qgbench.quality.predictor",
    "load_run": "qgbench.run.trained",
}

if find_spec("qgbench.baselines") is None:  # it stands beside this package, and only an installation joins them
    _MISSING = "this is a checkout of qgbench that is not installed; type: pip install -e ."
    if sys.argv[:1] == ["-m"]:  # `python -m qgbench` still looks for its module
        print(f"error: {_MISSING}", file=sys.stderr)
        sys.exit(2)
    raise ImportError(_MISSING)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'qgbench' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
