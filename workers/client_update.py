"""The whole local training of one order: parameters and examples in, delta out. Importing this imports JAX.

Pure: the same arguments give the same delta, bit for bit, on the same machine.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from workers import batches, objectives, optax_transforms
from workers.data import Examples
from workers.models import Model, TargetKind
from workers.params import Array, Params
from workers.spec import LocalTraining


class Trained(NamedTuple):
    """What came of an order."""

    delta: Params  # final minus base parameters
    loss: Array  # mean over all examples seen, each as it was seen: float32 scalar


def train(
    base: Params,
    examples: Examples,
    *,
    model: Model,
    target_kind: TargetKind,
    training: LocalTraining,
    seed: int,
) -> Trained:
    """Train `base` on `examples` as `training` says, shuffled by `seed`; NumPy arrays in and out."""
    trained = client_update(
        base,
        batches.pad(examples.features, 0.0, batches.MIN_EXAMPLES),
        batches.pad(examples.targets, 0.0, batches.MIN_EXAMPLES),
        batches.plan(training, len(examples), seed),
        model=model,
        target_kind=target_kind,
        training=training,
    )
    delta = {path: np.asarray(leaf) for path, leaf in trained.delta.items()}
    return Trained(delta=delta, loss=np.asarray(trained.loss))


@partial(jax.jit, static_argnames=("model", "target_kind", "training"))
def client_update(
    base: Params,
    features: Array,
    targets: Array,
    steps: Array,
    *,
    model: Model,
    target_kind: TargetKind,
    training: LocalTraining,
) -> Trained:
    """Train: x <- x - optimizer(gradient of loss(x; batch) + μ/2 ||x - x_base||²), once per row of `steps`.

    FedAvg's ClientUpdate (McMahan et al. 2017, alg. 1) with FedProx's term (Li et al. 2020, eq. 2).
    `features` is `(examples, num_features)`, `targets` `(examples,)`; `steps`, `(steps, batch_size)`, holds
    indices into them.
    """
    transform = _transform(training)

    def objective(params: Params, indices: Array) -> tuple[Array, Array]:
        is_example = indices >= 0
        outputs = model.apply(params, features[indices])
        losses = objectives.loss(target_kind, outputs, targets[indices])
        loss_sum = jnp.sum(losses, where=is_example)
        distance = sum(jnp.sum(jnp.square(leaf - base[path])) for path, leaf in params.items())
        return loss_sum / is_example.sum() + training.proximal / 2 * distance, loss_sum

    def step(
        state: tuple[Params, optax.OptState, Array], indices: Array
    ) -> tuple[Params, optax.OptState, Array]:
        params, optimizer_state, loss_sum = state
        gradient, batch_loss = jax.grad(objective, has_aux=True)(params, indices)
        updates, optimizer_state = transform.update(gradient, optimizer_state, params)
        return optax.apply_updates(params, updates), optimizer_state, loss_sum + batch_loss

    def step_or_skip(state: tuple[Params, optax.OptState, Array], indices: Array):  # type: ignore[no-untyped-def]  # scan's own shape
        return jax.lax.cond((indices >= 0).any(), step, lambda state, _: state, state, indices), None

    (params, _, loss_sum), _ = jax.lax.scan(step_or_skip, (base, transform.init(base), jnp.zeros(())), steps)
    delta = {path: leaf - base[path] for path, leaf in params.items()}
    return Trained(delta=delta, loss=loss_sum / (steps >= 0).sum())


def _transform(training: LocalTraining) -> optax.GradientTransformation:
    optimizer = optax_transforms.build(training.optimizer)
    if training.clip_norm is None:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(training.clip_norm), optimizer)
