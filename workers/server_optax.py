"""Server optimizers by optax, between flat trees of NumPy arrays. Importing this imports JAX."""

import jax
import numpy as np

from workers import optax_transforms
from workers.optimizers import Optimizer
from workers.params import Params


def init(optimizer: Optimizer, params: Params) -> Params:
    """The state of optax for these parameters, its leaves named by their place in it."""
    return _flat(optax_transforms.build(optimizer).init(params))


def step(optimizer: Optimizer, params: Params, state: Params, mean_delta: Params) -> tuple[Params, Params]:
    """One step on the pseudo-gradient -mean_delta (Reddi et al. 2021, algorithm 1)."""
    transform = optax_transforms.build(optimizer)
    structure = jax.tree.structure(jax.eval_shape(transform.init, params))
    gradient = {path: -leaf for path, leaf in mean_delta.items()}
    updates, new_state = transform.update(gradient, jax.tree.unflatten(structure, state.values()), params)
    stepped = {path: np.asarray(leaf + updates[path], leaf.dtype) for path, leaf in params.items()}
    return stepped, _flat(new_state)


def _flat(state: object) -> Params:
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in leaves}
