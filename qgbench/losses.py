"""The losses under the name that methods written for qgbench 0.1 import."""

from qgbench.methods.losses import *  # noqa: F403
