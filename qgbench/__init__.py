"""qgbench: semi-supervised medical image segmentation, with and without quality guidance."""

from importlib.util import find_spec

__version__ = "0.1.0"

if find_spec("qgbench.baselines") is None:  # it stands beside this package, and only an installation joins them
    raise ImportError("this is a checkout of qgbench that is not installed; type: pip install -e .")
