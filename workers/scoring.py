"""Metrics of a model's outputs on held-out examples, measured by scikit-learn."""

import numpy as np
import sklearn.metrics

from workers.metrics import METRICS, Metrics
from workers.models import TargetKind, predictions
from workers.params import Array

MAX_OUTPUT = 1e12  # in absolute value; the square of the error is then a number that a mean can be taken of


def measure(target_kind: TargetKind, outputs: Array, targets: np.ndarray) -> Metrics:
    """Every metric of that kind of target, for outputs `(examples, num_outputs)` and `(examples,)`.

    A model that has diverged, with outputs that are not finite or beyond 1e12, has none.
    """
    if not (np.abs(outputs) <= MAX_OUTPUT).all():
        return dict.fromkeys(METRICS[target_kind])
    predicted = predictions(target_kind, outputs)
    if target_kind == "regression":
        is_defined = len(targets) > 1 and np.ptp(targets) > 0
        return {
            "mse": float(sklearn.metrics.mean_squared_error(targets, predicted)),
            "r2": float(sklearn.metrics.r2_score(targets, predicted)) if is_defined else None,
        }
    classes = np.arange(2 if target_kind == "binary" else predicted.shape[1])
    if target_kind == "binary":
        chosen, probabilities = predicted > 0.5, np.stack([1 - predicted, predicted], axis=1)
    else:
        chosen, probabilities = predicted.argmax(axis=1), predicted
    found: Metrics = {
        "accuracy": float(np.mean(chosen == targets)),
        "log_loss": float(sklearn.metrics.log_loss(targets, probabilities, labels=classes)),
    }
    if target_kind == "binary":
        has_both = len(np.unique(targets)) == 2
        found["auroc"] = float(sklearn.metrics.roc_auc_score(targets, predicted)) if has_both else None
    return found
