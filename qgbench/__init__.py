"""qgbench: semi-supervised medical image segmentation, with and without quality guidance."""

import sys
from importlib.util import find_spec

__version__ = "0.1.0"

if find_spec("qgbench.baselines") is None:  # it stands beside this package, and only an installation joins them
    _MISSING = "this is a checkout of qgbench that is not installed; type: pip install -e ."
    if sys.argv[:1] == ["-m"]:  # `python -m qgbench` still looks for its module
        print(f"error: {_MISSING}", file=sys.stderr)
        sys.exit(2)
    raise ImportError(_MISSING)
