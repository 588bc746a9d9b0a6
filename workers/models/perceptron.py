"""Fully connected layers."""

import math
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from workers.models.linear import rows
from workers.models.targets import EVERY_KIND, Shape, TargetKind
from workers.params import Array, Params
from workers.settings import PositiveInt, settings


@settings
class MultilayerPerceptron:
    """Fully connected layers with a rectifier between them.

    On survival targets it is DeepSurv without its dropout (Katzman et al. 2018, arXiv 1606.00931).
    """

    kind: Literal["mlp"] = "mlp"
    hidden: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (32,)
    targets: ClassVar[tuple[TargetKind, ...]] = EVERY_KIND

    def init(self, rng: np.random.Generator, shape: Shape, num_outputs: int) -> Params:
        """Weights ~ N(0, 2 / fan_in), biases 0 (He et al. 2015, arXiv 1502.01852)."""
        params: Params = {}
        widths = (math.prod(shape), *self.hidden, num_outputs)
        for name, fan_in, fan_out in zip(self._layers(), widths[:-1], widths[1:], strict=True):
            spread = np.sqrt(2.0 / fan_in)
            params[f"{name}/weight"] = rng.normal(0.0, spread, (fan_in, fan_out)).astype(np.float32)
            params[f"{name}/bias"] = np.zeros(fan_out, np.float32)
        return params

    def apply(self, params: Params, features: Array) -> Array:
        """The last layer's outputs, `(batch, num_outputs)`."""
        *inner, last = self._layers()
        features = rows(features)
        for name in inner:
            features = features @ params[f"{name}/weight"] + params[f"{name}/bias"]
            features = features * (features > 0)
        return features @ params[f"{last}/weight"] + params[f"{last}/bias"]

    def _layers(self) -> Iterator[str]:
        return (f"layer{index}" for index in range(len(self.hidden) + 1))
