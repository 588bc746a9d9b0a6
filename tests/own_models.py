"""Models of users' own, as they would write them: for tests."""

import jax.numpy as jnp
import numpy as np


def line(shape, num_outputs):
    """A weight for each feature, in JAX."""

    def init(rng):
        return {"slope": jnp.zeros((*shape, num_outputs)), "offset": np.zeros(num_outputs, np.float32)}

    def apply(params, features):
        return jnp.tensordot(features, params["slope"], len(shape)) + params["offset"]

    return init, apply


def returns_one_function(shape, num_outputs):
    return lambda rng: {}


def returns_no_functions(shape, num_outputs):
    return 1, 2


def starts_from_a_list(shape, num_outputs):
    return lambda rng: [1.0], lambda params, features: features


def starts_from_nothing(shape, num_outputs):
    return lambda rng: {}, lambda params, features: features


def starts_in_float64(shape, num_outputs):
    return lambda rng: {"slope": np.zeros(shape)}, lambda params, features: features


def starts_from_a_number(shape, num_outputs):
    return lambda rng: {"slope": 1.0}, lambda params, features: features


def forgets_a_dimension(shape, num_outputs):
    return lambda rng: {
        "slope": np.zeros(shape, np.float32)
    }, lambda params, features: features @ params["slope"]


def gives_no_array(shape, num_outputs):
    return lambda rng: {"slope": np.zeros(shape, np.float32)}, lambda params, features: [0.0]


no_function = 3
