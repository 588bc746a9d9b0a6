"""Outputs of a model for any number of examples, in batches of one shape. Importing this imports JAX."""

from functools import partial

import jax
import numpy as np

from workers import batches
from workers.models import Model
from workers.params import Array, Params

BATCH_NUMBERS = 2**16  # features of a batch, all examples together: they stay in a processor's cache ...
MIN_BATCH = 16  # ... unless the examples are large


def outputs(model: Model, params: Params, features: np.ndarray) -> np.ndarray:
    """Outputs `(examples, num_outputs)` for features `(examples, *shape)`; at least one example is needed."""
    size = batch_size(features[0].size)
    found = [
        np.asarray(_apply(model, params, batches.pad(batch, 0.0, size)))[: len(batch)]
        for batch in (features[start : start + size] for start in range(0, len(features), size))
    ]
    return np.concatenate(found)


def batch_size(num_features: int) -> int:
    """Examples of a batch, by the numbers in one of them: a power of two."""
    wanted = max(BATCH_NUMBERS // num_features, MIN_BATCH)
    return min(1 << (wanted.bit_length() - 1), 1024)


@partial(jax.jit, static_argnums=0)
def _apply(model: Model, params: Params, features: Array) -> Array:
    return model.apply(params, features)
