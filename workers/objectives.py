"""Losses that training minimizes, one for each kind of target. Importing this imports JAX."""

import jax
import jax.numpy as jnp
import optax

from workers.models import TargetKind


def loss(target_kind: TargetKind, outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Loss of each example, `(batch,)`, for outputs `(batch, num_outputs)` and targets `(batch,)`.

    regression: squared error; binary: log loss of one logit; multiclass: cross entropy of the logits.
    """
    losses: jax.Array
    match target_kind:
        case "regression":
            losses = jnp.square(outputs[:, 0] - targets)
        case "binary":
            losses = optax.sigmoid_binary_cross_entropy(outputs[:, 0], targets)
        case "multiclass":
            losses = optax.softmax_cross_entropy_with_integer_labels(outputs, targets.astype(jnp.int32))
    return losses
