import subprocess
import sys

import numpy as np
import optax
import pytest

from tasks import codec
from workers import server_optax, server_optimizer
from workers.optimizers import Adagrad, Adam, AdamW, RmsProp, Sgd, Yogi

EVERY_OPTIMIZER = [
    Sgd(learning_rate=0.1),
    Sgd(learning_rate=0.1, momentum=0.9),
    Adam(learning_rate=0.1),
    AdamW(learning_rate=0.1),
    Adagrad(learning_rate=0.1),
    Yogi(learning_rate=0.1),
    RmsProp(learning_rate=0.1),
    RmsProp(learning_rate=0.1, momentum=0.9),
]
TRANSFORMS = [
    optax.sgd(0.1),
    optax.sgd(0.1, momentum=0.9),
    optax.adam(0.1),
    optax.adamw(0.1),
    optax.adagrad(0.1),
    optax.yogi(0.1),
    optax.rmsprop(0.1),
    optax.rmsprop(0.1, momentum=0.9),
]


def params_of():
    return {
        "weight": np.array([[1.0, -2.0], [0.5, 0.0]], np.float32),
        "bias": np.array([0.25, -0.75], np.float32),
    }


def deltas_of(count):
    rng = np.random.default_rng(3)
    return [
        {path: rng.normal(size=leaf.shape).astype(np.float32) for path, leaf in params_of().items()}
        for _ in range(count)
    ]


def assert_same_bits(one, other):
    assert list(one) == list(other)
    for path, leaf in one.items():
        np.testing.assert_array_equal(leaf, other[path], strict=True)


def test_plain_sgd_adds_the_learning_rate_times_the_mean_delta():
    params, state = server_optimizer.step(
        Sgd(learning_rate=0.5), {"w": np.float32([1, 2])}, {}, {"w": np.float32([4, -2])}
    )
    np.testing.assert_array_equal(params["w"], np.float32([3, 1]), strict=True)
    assert state == {}


def test_plain_sgd_by_numpy_equals_sgd_by_optax_to_a_rounding():
    optimizer = Sgd(learning_rate=0.3)
    by_numpy = by_optax = params_of()
    state = server_optax.init(optimizer, by_optax)
    for delta in deltas_of(5):
        by_numpy, _ = server_optimizer.step(optimizer, by_numpy, {}, delta)
        by_optax, state = server_optax.step(optimizer, by_optax, state, delta)
        for path, leaf in by_numpy.items():
            np.testing.assert_allclose(leaf, by_optax[path], rtol=1e-6, atol=1e-7)
            assert leaf.dtype == by_optax[path].dtype == np.float32


@pytest.mark.parametrize("optimizer", EVERY_OPTIMIZER)
def test_the_first_step_goes_in_the_direction_of_the_mean_delta(optimizer):
    params = {"w": np.zeros(4, np.float32)}  # at 0, where AdamW's decay does nothing
    state = server_optimizer.init(optimizer, params)
    delta = np.array([1.0, -1.0, 0.1, -3.0], np.float32)
    stepped, _ = server_optimizer.step(optimizer, params, state, {"w": delta})
    np.testing.assert_array_equal(np.sign(stepped["w"]), np.sign(delta))


@pytest.mark.parametrize(("optimizer", "transform"), list(zip(EVERY_OPTIMIZER, TRANSFORMS, strict=True)))
def test_several_steps_equal_optax_used_directly(optimizer, transform):
    params = expected = params_of()
    state = server_optimizer.init(optimizer, params)
    expected_state = transform.init(expected)
    for delta in deltas_of(4):
        params, state = server_optimizer.step(optimizer, params, state, delta)
        gradient = {path: -leaf for path, leaf in delta.items()}
        changes, expected_state = transform.update(gradient, expected_state, expected)
        expected = optax.apply_updates(expected, changes)
        for path, leaf in params.items():
            np.testing.assert_allclose(leaf, expected[path], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("optimizer", EVERY_OPTIMIZER)
def test_the_state_is_a_flat_tree_that_round_trips_without_changing_a_bit(optimizer):
    kept, kept_state = params_of(), server_optimizer.init(optimizer, params_of())
    carried, carried_state = kept, kept_state
    for delta in deltas_of(3):
        carried_state = codec.decode_tree(
            codec.encode_tree(carried_state), server_optimizer.init(optimizer, params_of())
        )
        kept, kept_state = server_optimizer.step(optimizer, kept, kept_state, delta)
        carried, carried_state = server_optimizer.step(optimizer, carried, carried_state, delta)
        assert all(type(leaf) is np.ndarray for leaf in carried_state.values())
        assert_same_bits(carried_state, kept_state)
        assert_same_bits(carried, kept)


def test_the_states_leaves_are_named_by_their_place_in_it():
    state = server_optimizer.init(Adam(learning_rate=0.1), params_of())
    assert list(state) == ["0/count", "0/mu/bias", "0/mu/weight", "0/nu/bias", "0/nu/weight"]
    assert server_optimizer.init(Sgd(learning_rate=0.1), params_of()) == {}


def test_a_coordinator_with_plain_sgd_never_loads_jax():
    script = (
        "import sys, numpy as np\n"
        "from workers.strategies import FedBuff, Server, Update\n"
        "x = {'w': np.zeros(1, np.float32)}\n"
        "fedbuff = FedBuff(buffer_size=1)\n"
        "server = Server(params=x, version=0, memory=fedbuff.init(x))\n"
        "update = Update(delta={'w': np.ones(1, np.float32)}, base=x, num_examples=1, staleness=0)\n"
        "assert fedbuff.close(fedbuff.fold(server, update), 0, num_sites=1).version == 1\n"
        "assert not {'jax', 'optax'} & set(sys.modules), 'JAX was loaded'\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
