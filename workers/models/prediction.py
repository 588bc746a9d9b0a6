"""From a model's outputs to what people read."""

import numpy as np

from workers.models.targets import TargetKind
from workers.params import Array

MAX_LOG_RISK = 700.0  # beyond it, in absolute value, the risk is no number of a float64


def predictions(target_kind: TargetKind, outputs: Array) -> Array:
    """What people read, from a model's outputs `(batch, num_outputs)`; float64.

    regression: values `(batch,)`; binary: probability of class 1 `(batch,)`; multiclass: probabilities
    `(batch, num_classes)`; survival: relative risk `(batch,)`, exp(output): how many times the hazard of an
    example whose output is 0 (of `cox`: whose inputs are all 0, the mean of what was standardized). It is no
    probability, and compares examples with each other.
    """
    outputs = np.asarray(outputs, np.float64)
    if target_kind == "regression":
        return outputs[:, 0]
    if target_kind == "binary":
        return np.exp(-np.logaddexp(0.0, -outputs[:, 0]))
    if target_kind == "survival":
        return np.exp(np.clip(outputs[:, 0], -MAX_LOG_RISK, MAX_LOG_RISK))
    shifted = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)
