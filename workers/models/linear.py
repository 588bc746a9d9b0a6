"""Models that are one weight for each input: their training is a convex problem."""

import math
from typing import ClassVar, Literal

import numpy as np

from workers.models.targets import Shape, TargetKind
from workers.params import Array, Params
from workers.settings import settings


@settings
class LinearRegression:
    """outputs = features @ weight + bias, from zero."""

    kind: Literal["linear-regression"] = "linear-regression"
    targets: ClassVar[tuple[TargetKind, ...]] = ("regression",)

    def init(self, rng: np.random.Generator, shape: Shape, num_outputs: int) -> Params:
        """Zeros: the problem is convex."""
        return _zero_weight(shape, num_outputs) | _zero_bias(num_outputs)

    def apply(self, params: Params, features: Array) -> Array:
        """The regression's value, `(batch, 1)`."""
        return rows(features) @ params["weight"] + params["bias"]


@settings
class LogisticRegression:
    """logits = features @ weight + bias, from zero; one logit for two classes, else one per class."""

    kind: Literal["logistic-regression"] = "logistic-regression"
    targets: ClassVar[tuple[TargetKind, ...]] = ("binary", "multiclass")

    def init(self, rng: np.random.Generator, shape: Shape, num_outputs: int) -> Params:
        """Zeros: the problem is convex."""
        return _zero_weight(shape, num_outputs) | _zero_bias(num_outputs)

    def apply(self, params: Params, features: Array) -> Array:
        """The logits, `(batch, num_outputs)`."""
        return rows(features) @ params["weight"] + params["bias"]


@settings
class Cox:
    """Proportional hazards: log risk = features @ weight, from zero (Cox 1972, eq. 9).

    It has no bias: the partial likelihood compares examples with each other, so a bias would cancel.
    """

    kind: Literal["cox"] = "cox"
    targets: ClassVar[tuple[TargetKind, ...]] = ("survival",)

    def init(self, rng: np.random.Generator, shape: Shape, num_outputs: int) -> Params:
        """Zeros: the problem is convex."""
        return _zero_weight(shape, num_outputs)

    def apply(self, params: Params, features: Array) -> Array:
        """The logarithm of each example's risk, relative to that of an example of zeros, `(batch, 1)`."""
        return rows(features) @ params["weight"]


def rows(features: Array) -> Array:
    """Each example as one row: an image's pixels are features like any other."""
    return features.reshape(len(features), -1)


def _zero_weight(shape: Shape, num_outputs: int) -> Params:
    return {"weight": np.zeros((math.prod(shape), num_outputs), np.float32)}


def _zero_bias(num_outputs: int) -> Params:
    return {"bias": np.zeros(num_outputs, np.float32)}
