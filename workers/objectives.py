"""What training minimizes, one for each kind of target. Importing this imports JAX."""

from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jax.nn import logsumexp

from workers.models import TargetKind
from workers.params import Array

Ties = Literal["efron", "breslow"]


def loss(
    target_kind: TargetKind,
    outputs: Array,
    targets: Array,
    is_example: Array,
    *,
    ties: Ties = "efron",
    weights: Array | None = None,
) -> Array:
    """Sum over a batch's examples, a scalar, for outputs `(batch, num_outputs)`.

    regression: squared error; binary: log loss of one logit; multiclass: cross entropy of the logits; for
    targets `(batch,)`, each times the example's weight, if there are weights `(batch,)`. survival: Cox's
    partial likelihood, whose terms compare the batch's examples with each other. What is no example,
    `(batch,)`, counts nowhere.
    """
    if target_kind == "survival":
        return partial_likelihood(outputs[:, 0], targets[:, 0], targets[:, 1], is_example, ties)
    losses = each(target_kind, outputs, targets)
    return jnp.sum(losses if weights is None else weights * losses, where=is_example)


def each(target_kind: TargetKind, outputs: Array, targets: Array) -> Array:
    """Loss of each example, `(batch,)`."""
    losses: jax.Array
    match target_kind:
        case "regression":
            losses = jnp.square(outputs[:, 0] - targets)
        case "binary":
            losses = optax.sigmoid_binary_cross_entropy(outputs[:, 0], targets)
        case "multiclass":
            losses = optax.softmax_cross_entropy_with_integer_labels(outputs, targets.astype(jnp.int32))
        case "survival":
            raise ValueError("an example's survival has no loss of its own")
    return losses


def partial_likelihood(log_risk: Array, time: Array, event: Array, is_example: Array, ties: Ties) -> Array:
    """Negative logarithm of Cox's partial likelihood over a batch, a scalar; all arguments are `(batch,)`.

    Sum over events i of log(R_i - c_i E_i) - log_risk_i, where R_i sums exp(log_risk) over the examples
    whose time is not before i's, and E_i over the events at i's time. Of d events at one time, c is 0 for
    all (Breslow 1974), or 0, 1/d, ..., (d-1)/d (Efron 1977). Without events it is 0, and so is its
    gradient. The memory that it takes grows with the square of the batch.
    """
    is_event = is_example & (event > 0)
    itself = jnp.eye(len(time), dtype=bool)  # so that no row is empty: a sum over none has no gradient
    at_risk = itself | (is_example & (time >= time[:, None]))
    log_sum = _log_sum(log_risk, at_risk)
    if ties == "efron":
        tied = is_event & is_event[:, None] & (time == time[:, None])
        share = jnp.tril(tied, -1).sum(axis=1) / jnp.maximum(tied.sum(axis=1), 1)
        log_sum += jnp.log1p(-share * jnp.exp(_log_sum(log_risk, itself | tied) - log_sum))
    return jnp.sum(log_sum - log_risk, where=is_event)


def _log_sum(values: Array, where: Array) -> Array:
    """log(sum(exp(values))) over the marked ones of each row, `(batch,)`."""
    return logsumexp(jnp.broadcast_to(values, where.shape), axis=1, where=where)
