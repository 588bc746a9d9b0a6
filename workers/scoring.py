"""Metrics of a model's outputs on held-out examples: scikit-learn's, and the C-index."""

import numpy as np
import sklearn.metrics

from workers.metrics import METRICS, Metrics
from workers.models import TargetKind, predictions
from workers.params import Array

MAX_OUTPUT = 1e12  # in absolute value; the square of the error is then a number that a mean can be taken of
TABLE = 2**22  # entries of a table of pairs that is held at once


def measure(target_kind: TargetKind, outputs: Array, targets: np.ndarray) -> Metrics:
    """Every metric of that kind of target, for outputs `(examples, num_outputs)` and targets `(examples,)`.

    Those of survival are `(examples, 2)`: time, and 1 for an event. A model that has diverged, with outputs
    that are not finite or beyond 1e12, has none.
    """
    if not (np.abs(outputs) <= MAX_OUTPUT).all():
        return dict.fromkeys(METRICS[target_kind])
    if target_kind == "survival":
        return {"c_index": concordance(outputs[:, 0], targets[:, 0], targets[:, 1])}
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


def concordance(log_risk: np.ndarray, time: np.ndarray, event: np.ndarray) -> float | None:
    """Harrell's C-index: in which share of the comparable pairs the first event came at the higher risk.

    A pair is comparable if one had its event while the other was still seen without one, at the same time
    included; of two events at the same time nobody was first. An equal risk counts half (Harrell et al. 1996,
    section 5.5). None where no pair is comparable. All arguments are `(examples,)`.
    """
    score, num_pairs = 0.0, 0
    is_event = event > 0
    places = np.flatnonzero(is_event)
    size = max(TABLE // len(time), 1)
    for start in range(0, len(places), size):
        first = places[start : start + size, None]
        is_later = (time > time[first]) | ((time == time[first]) & ~is_event)
        num_pairs += int(is_later.sum())
        score += int((is_later & (log_risk[first] > log_risk)).sum())
        score += int((is_later & (log_risk[first] == log_risk)).sum()) / 2
    return score / num_pairs if num_pairs else None
