"""qgbench: semi-supervised medical image segmentation, with and without quality guidance."""

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

__version__ = "0.1.0"

_MODULE_OF = {
    "load_run": "qgbench.run.trained",
}
"""What `import qgbench` offers, and where it is: imported when it is asked for, as torch takes seconds."""


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'qgbench' has no attribute '{name}'")
    return getattr(import_module(_MODULE_OF[name]), name)


if find_spec("qgbench.baselines") is None:  # it stands beside this package, and only an installation joins them
    _MISSING = "this is a checkout of qgbench that is not installed; type: pip install -e ."
    if sys.argv[:1] == ["-m"]:  # `python -m qgbench` still looks for its module
        print(f"error: {_MISSING}", file=sys.stderr)
        sys.exit(2)
    raise ImportError(_MISSING)
