"""The server optimizer: x <- optimizer(x, g) with the pseudo-gradient g = -mean delta.

Any of the optimizers by name (FedAvgM, FedAdam, FedYogi: Reddi et al. 2021, arXiv 2003.00295). The usual
one, gradient descent without momentum, is x <- x + learning_rate * mean delta and is computed by NumPy.
For the others optax is loaded when first asked for: JAX costs a coordinator 120 MB and half a second, and
most experiments never need it there.
"""

import importlib
from typing import Any

import numpy as np

from workers.optimizers import Optimizer, Sgd
from workers.params import Array, Params, blockwise


def init(optimizer: Optimizer, params: Params) -> Params:
    """The optimizer's state before the first step, as a flat tree of arrays."""
    state: Params = {} if _is_plain(optimizer) else _optax().init(optimizer, params)
    return state


def step(
    optimizer: Optimizer, params: Params, state: Params, mean_delta: Params, *, reuse: bool = False
) -> tuple[Params, Params]:
    """One step: the new parameters and the new state; `reuse`, as of a strategy's `fold`, the parameters."""
    if _is_plain(optimizer):
        rate = optimizer.learning_rate

        def stepped(x: np.ndarray, mean: np.ndarray) -> Array:
            return x + rate * mean

        return {
            path: blockwise(stepped, leaf, mean_delta[path], out=leaf if reuse else None)
            for path, leaf in params.items()
        }, {}
    found: tuple[Params, Params] = _optax().step(optimizer, params, state, mean_delta)
    return found


def _is_plain(optimizer: Optimizer) -> bool:
    return isinstance(optimizer, Sgd) and not optimizer.momentum


def _optax() -> Any:
    return importlib.import_module("workers.server_optax")
