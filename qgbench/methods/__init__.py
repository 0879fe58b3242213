"""The contract of methods, and what they are written with."""

from qgbench.methods.contract import (
    Batch,
    Corrector,
    Method,
    MethodSettings,
    Step,
    Term,
    check_step,
    feature_shapes,
    label_probabilities,
    probabilities,
    reduce_term,
    row_weights,
)

__all__ = [
    "Batch",
    "Corrector",
    "Method",
    "MethodSettings",
    "Step",
    "Term",
    "check_step",
    "feature_shapes",
    "label_probabilities",
    "probabilities",
    "reduce_term",
    "row_weights",
]
