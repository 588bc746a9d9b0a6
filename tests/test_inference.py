import math

import numpy as np
import pytest

from workers import inference
from workers.models import ConvolutionalNetwork, LogisticRegression


def model_of(shape):
    model = ConvolutionalNetwork(channels=(4,)) if len(shape) == 3 else LogisticRegression()
    params = model.init(np.random.default_rng(0), shape, 3)
    rng = np.random.default_rng(1)
    return model, {path: rng.normal(size=leaf.shape).astype(np.float32) for path, leaf in params.items()}


def features_of(num_examples, shape):
    return np.random.default_rng(2).normal(size=(num_examples, *shape)).astype(np.float32)


@pytest.mark.parametrize("shape", [(3,), (28, 28, 1)])
@pytest.mark.parametrize("remainder", [-1, 0, 1])
def test_outputs_in_batches_are_those_of_all_examples_at_once(shape, remainder):
    model, params = model_of(shape)
    features = features_of(2 * inference.batch_size(math.prod(shape)) + remainder, shape)
    outputs = inference.outputs(model, params, features)
    assert outputs.dtype == np.float32
    np.testing.assert_allclose(outputs, model.apply(params, features), rtol=1e-4, atol=1e-5)


def test_one_example_is_enough():
    model, params = model_of((3,))
    assert inference.outputs(model, params, features_of(1, (3,))).shape == (1, 3)


def test_any_number_of_examples_shares_one_compilation():
    model, params = model_of((5,))
    before = inference._apply._cache_size()
    for num_examples in (1, 7, 300, 5000):
        inference.outputs(model, params, features_of(num_examples, (5,)))
    assert inference._apply._cache_size() == before + 1


@pytest.mark.parametrize(
    ("num_features", "expected"),
    [(1, 1024), (30, 1024), (784, 64), (2308, 16), (224 * 224 * 3, 16)],
)
def test_batches_of_large_examples_are_small(num_features, expected):
    assert inference.batch_size(num_features) == expected
