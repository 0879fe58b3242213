"""qgbench: semi-supervised medical image segmentation, with and without quality guidance."""

from pathlib import Path

__version__ = "0.1.0"

# `baselines/` and `datasets/` stand at the top of the repository and are installed as `qgbench.baselines` and
# `qgbench.datasets`. In a checkout without installation they are found by looking one folder up.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "pyproject.toml").is_file() and (_checkout / "baselines").is_dir():
    __path__.append(str(_checkout))
