"""The server optimizer: x <- optimizer(x, g) with the pseudo-gradient g = -mean delta.

Any of the optimizers by name (FedAvgM, FedAdam, FedYogi: Reddi et al. 2021, arXiv 2003.00295). The usual
one, gradient descent without momentum, is x <- x + learning_rate * mean delta and is computed by NumPy.
For the others optax is loaded when first asked for: JAX costs a coordinator 120 MB and half a second, and
most experiments never need it there.
"""

import importlib
from typing import Any

from workers.optimizers import Optimizer, Sgd
from workers.params import Params


def init(optimizer: Optimizer, params: Params) -> Params:
    """The optimizer's state before the first step, as a flat tree of arrays."""
    state: Params = {} if _is_plain(optimizer) else _optax().init(optimizer, params)
    return state


def step(optimizer: Optimizer, params: Params, state: Params, mean_delta: Params) -> tuple[Params, Params]:
    """One step: the new parameters and the new state."""
    if _is_plain(optimizer):
        rate = optimizer.learning_rate
        return {
            path: (leaf + rate * mean_delta[path]).astype(leaf.dtype) for path, leaf in params.items()
        }, {}
    stepped: tuple[Params, Params] = _optax().step(optimizer, params, state, mean_delta)
    return stepped


def _is_plain(optimizer: Optimizer) -> bool:
    return isinstance(optimizer, Sgd) and not optimizer.momentum


def _optax() -> Any:
    return importlib.import_module("workers.server_optax")
