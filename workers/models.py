"""Models: each a pair of pure functions, `init` and `apply`, of the settings that a person chose.

`init(rng, num_features, num_outputs)` gives float32 parameters; `apply(params, features)` gives outputs of
shape `(batch, num_outputs)` for features of shape `(batch, num_features)`. They are written against the
array API standard, so that one definition trains under JAX and predicts under NumPy, and neither the
coordinator nor the command line needs JAX. To add a model: write its class, add it to `Model`.
"""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, TypeAlias

import numpy as np
from pydantic import Field

from workers.params import Array, Params
from workers.settings import PositiveInt, settings

TargetKind: TypeAlias = Literal["regression", "binary", "multiclass"]


@settings
class LinearRegression:
    """outputs = features @ weight + bias, from zero."""

    kind: Literal["linear-regression"] = "linear-regression"
    targets: ClassVar[tuple[TargetKind, ...]] = ("regression",)

    def init(self, rng: np.random.Generator, num_features: int, num_outputs: int) -> Params:
        """Zeros: the problem is convex."""
        return _zero_layer(num_features, num_outputs)

    def apply(self, params: Params, features: Array) -> Array:
        """The regression's value, `(batch, 1)`."""
        return features @ params["weight"] + params["bias"]


@settings
class LogisticRegression:
    """logits = features @ weight + bias, from zero; one logit for two classes, else one per class."""

    kind: Literal["logistic-regression"] = "logistic-regression"
    targets: ClassVar[tuple[TargetKind, ...]] = ("binary", "multiclass")

    def init(self, rng: np.random.Generator, num_features: int, num_outputs: int) -> Params:
        """Zeros: the problem is convex."""
        return _zero_layer(num_features, num_outputs)

    def apply(self, params: Params, features: Array) -> Array:
        """The logits, `(batch, num_outputs)`."""
        return features @ params["weight"] + params["bias"]


@settings
class MultilayerPerceptron:
    """Fully connected layers with a rectifier between them."""

    kind: Literal["mlp"] = "mlp"
    hidden: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (32,)
    targets: ClassVar[tuple[TargetKind, ...]] = ("regression", "binary", "multiclass")

    def init(self, rng: np.random.Generator, num_features: int, num_outputs: int) -> Params:
        """Weights ~ N(0, 2 / fan_in), biases 0 (He et al. 2015, arXiv 1502.01852)."""
        params: Params = {}
        widths = (num_features, *self.hidden, num_outputs)
        for name, fan_in, fan_out in zip(self._layers(), widths[:-1], widths[1:], strict=True):
            spread = np.sqrt(2.0 / fan_in)
            params[f"{name}/weight"] = rng.normal(0.0, spread, (fan_in, fan_out)).astype(np.float32)
            params[f"{name}/bias"] = np.zeros(fan_out, np.float32)
        return params

    def apply(self, params: Params, features: Array) -> Array:
        """The last layer's outputs, `(batch, num_outputs)`."""
        *inner, last = self._layers()
        for name in inner:
            features = features @ params[f"{name}/weight"] + params[f"{name}/bias"]
            features = features * (features > 0)
        return features @ params[f"{last}/weight"] + params[f"{last}/bias"]

    def _layers(self) -> Iterator[str]:
        return (f"layer{index}" for index in range(len(self.hidden) + 1))


Model: TypeAlias = Annotated[
    LinearRegression | LogisticRegression | MultilayerPerceptron, Field(discriminator="kind")
]


def predictions(target_kind: TargetKind, outputs: Array) -> Array:
    """What people read, from a model's outputs `(batch, num_outputs)`.

    regression: values `(batch,)`; binary: probability of class 1 `(batch,)`; multiclass: probabilities
    `(batch, num_classes)`.
    """
    outputs = np.asarray(outputs, np.float64)
    if target_kind == "regression":
        return outputs[:, 0]
    if target_kind == "binary":
        return np.exp(-np.logaddexp(0.0, -outputs[:, 0]))
    shifted = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def _zero_layer(num_features: int, num_outputs: int) -> Params:
    return {
        "weight": np.zeros((num_features, num_outputs), np.float32),
        "bias": np.zeros(num_outputs, np.float32),
    }
