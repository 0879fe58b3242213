"""The contract of methods, and what they are written with."""

from qgbench.methods.contract import (
    Batch,
    Corrector,
    Method,
    PseudoLabel,
    Step,
    Term,
    View,
    check_step,
)
from qgbench.methods.network import (
    Build,
    Network,
    feature_shapes,
    label_probabilities,
    probabilities,
    training_probabilities,
)
from qgbench.methods.reduction import reduce_term, row_weights
from qgbench.spec.method import MethodSettings
from qgbench.spec.task import Task

__all__ = [
    "Batch",
    "Build",
    "Corrector",
    "Method",
    "MethodSettings",
    "Network",
    "PseudoLabel",
    "Step",
    "Task",
    "Term",
    "View",
    "check_step",
    "feature_shapes",
    "label_probabilities",
    "probabilities",
    "reduce_term",
    "row_weights",
    "training_probabilities",
]
