"""The whole local training of one order: parameters and examples in, delta out. Importing this imports JAX.

Pure: the same arguments give the same delta, bit for bit, on the same machine.
"""

from functools import partial
from typing import NamedTuple
from weakref import WeakKeyDictionary

import jax
import jax.numpy as jnp
import numpy as np
import optax

from workers import batches, objectives, optax_transforms
from workers.data import Examples
from workers.models import Model, TargetKind
from workers.params import Array, Params
from workers.spec import LocalTraining

# Nobody does anything else while an order trains, and to hand it to another thread of XLA's takes longer than
# a small site's whole training. It counts from the process's first use of JAX.
jax.config.update("jax_cpu_enable_async_dispatch", False)


# Every order of a site trains on the same examples, which are let go of with those that they were made of.
_placed: WeakKeyDictionary[Examples, tuple[Array, Array]] = WeakKeyDictionary()


class Trained(NamedTuple):
    """What came of an order."""

    delta: Params  # final minus base parameters
    loss: Array  # mean over all examples seen, each as it was seen: float32 scalar


class _State(NamedTuple):
    """Between two steps."""

    number: Array  # of the step that comes
    params: Params
    optimizer: optax.OptState
    loss_sum: Array


def train(
    base: Params,
    examples: Examples,
    *,
    model: Model,
    target_kind: TargetKind,
    training: LocalTraining,
    seed: int,
    anchor: Params | None = None,
) -> Trained:
    """Train `base` on `examples` as `training` says, shuffled by `seed`; NumPy arrays in and out.

    The proximal term draws to `anchor`, which is `base` itself by default.
    """
    weights = batches.class_weights(training, examples.targets)
    trained = client_update(
        base,
        *_on_device(examples),
        batches.plan(training, len(examples), seed),
        None if weights is None else batches.pad(weights, 0.0, batches.MIN_EXAMPLES),
        anchor,
        model=model,
        target_kind=target_kind,
        training=training,
    )
    delta = {path: np.asarray(leaf) for path, leaf in trained.delta.items()}
    return Trained(delta=delta, loss=np.asarray(trained.loss))


def _on_device(examples: Examples) -> tuple[Array, Array]:
    """Features and targets, padded."""
    found = _placed.get(examples)
    if found is None:
        rows = (examples.features, examples.targets)
        features, targets = jax.device_put([batches.pad(part, 0.0, batches.MIN_EXAMPLES) for part in rows])
        found = _placed[examples] = features, targets
    return found


@partial(jax.jit, static_argnames=("model", "target_kind", "training"))
def client_update(
    base: Params,
    features: Array,
    targets: Array,
    steps: Array,
    weights: Array | None = None,
    anchor: Params | None = None,
    *,
    model: Model,
    target_kind: TargetKind,
    training: LocalTraining,
) -> Trained:
    """Train: x <- x - optimizer(gradient of objective(x; batch)), once per row of `steps`.

    FedAvg's ClientUpdate (McMahan et al. 2017, alg. 1). The objective is the batch's mean loss, with
    μ/2 ||x - x_anchor||² of FedProx (Li et al. 2020, eq. 2; x_anchor is x_base by default), and l2/2 ||w||²
    over the weights w of x. After each step w <- sign(w) max(|w| - learning_rate l1, 0), the proximal step of
    l1 ||w||_1: weights become exactly 0 (Beck and Teboulle 2009, eq. 1.5), where a subgradient would leave
    them small.

    `features` is `(examples, *shape)`, `targets` `(examples,)` or of survival `(examples, 2)`; `weights`,
    where there are any, `(examples,)`; `steps`, `(steps, batch_size)`, holds indices into them. Rows of
    `steps` that see nothing come last, and take no time.
    """
    transform = _transform(training)
    near = base if anchor is None else anchor

    num_seen = (steps >= 0).sum(axis=1)
    shares = 1 / num_seen  # outside of the loop, which it would make longer by a twentieth

    def objective(params: Params, indices: Array, share: Array) -> tuple[Array, Array]:
        outputs = model.apply(params, features[indices])
        loss_sum = objectives.loss(
            target_kind,
            outputs,
            targets[indices],
            indices >= 0,
            ties=training.ties,
            weights=None if weights is None else weights[indices],
        )
        return loss_sum * share + _penalty(params, near, training), loss_sum

    def sees_any(state: _State) -> Array:
        return (state.number < len(steps)) & (steps[state.number, 0] >= 0)

    def step(state: _State) -> _State:
        number = state.number
        gradient, loss = jax.grad(objective, has_aux=True)(state.params, steps[number], shares[number])
        updates, optimizer = transform.update(gradient, state.optimizer, state.params)
        params = _shrunk(optax.apply_updates(state.params, updates), training)
        return _State(number + 1, params, optimizer, state.loss_sum + loss)

    begin = _State(jnp.zeros((), jnp.int32), base, transform.init(base), jnp.zeros(()))
    _, params, _, loss_sum = jax.lax.while_loop(sees_any, step, begin)
    delta = {path: leaf - base[path] for path, leaf in params.items()}
    return Trained(delta=delta, loss=loss_sum / num_seen.sum())


def _transform(training: LocalTraining) -> optax.GradientTransformation:
    optimizer = optax_transforms.build(training.optimizer)
    if training.clip_norm is None:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(training.clip_norm), optimizer)


def _penalty(params: Params, near: Params, training: LocalTraining) -> Array:
    """FedProx's and L2's; one of factor 0 is left out here, since XLA would compute it."""
    penalty: Array = 0.0
    if training.proximal:
        distance = sum(jnp.sum(jnp.square(leaf - near[path])) for path, leaf in params.items())
        penalty += training.proximal / 2 * distance
    if training.l2:
        size = sum(jnp.sum(jnp.square(leaf)) for path, leaf in params.items() if _is_weight(path))
        penalty += training.l2 / 2 * size
    return penalty


def _is_weight(path: str) -> bool:
    """Whether a leaf is one of those that are kept small: no bias, no scale."""
    return path.rpartition("/")[2] == "weight"


def _shrunk(params: Params, training: LocalTraining) -> Params:
    """The parameters after the proximal step of the L1 penalty."""
    if not training.l1:
        return params
    threshold = training.l1 * training.optimizer.learning_rate
    return {
        path: _toward_zero(leaf, threshold) if _is_weight(path) else leaf for path, leaf in params.items()
    }


def _toward_zero(leaf: Array, threshold: float) -> Array:
    return jnp.sign(leaf) * jnp.maximum(jnp.abs(leaf) - threshold, 0.0)
