import jax
import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from workers.models import LinearRegression, LogisticRegression, Model, MultilayerPerceptron, predictions

EVERY_MODEL = [
    (LinearRegression(), 1),
    (LogisticRegression(), 1),
    (LogisticRegression(), 3),
    (MultilayerPerceptron(), 1),
    (MultilayerPerceptron(hidden=(8, 5)), 3),
]


def init(model, num_outputs, seed=0, num_features=4):
    return model.init(np.random.default_rng(seed), num_features, num_outputs)


def uneven(model, num_outputs, num_features=4):
    """Parameters of the model's shapes, none of them zero."""
    rng = np.random.default_rng(1)
    shapes = {path: leaf.shape for path, leaf in init(model, num_outputs, num_features=num_features).items()}
    return {path: rng.normal(size=shape).astype(np.float32) for path, shape in shapes.items()}


@pytest.mark.parametrize("model", [LinearRegression(), LogisticRegression()])
@pytest.mark.parametrize("num_outputs", [1, 3])
def test_linear_models_start_from_zero_in_float32(model, num_outputs):
    params = init(model, num_outputs)
    assert {path: leaf.shape for path, leaf in params.items()} == {
        "weight": (4, num_outputs),
        "bias": (num_outputs,),
    }
    assert all(leaf.dtype == np.float32 and not leaf.any() for leaf in params.values())


def test_a_perceptron_has_one_layer_more_than_it_has_hidden_ones():
    params = init(MultilayerPerceptron(hidden=(8, 5)), 3)
    assert {path: leaf.shape for path, leaf in params.items()} == {
        "layer0/weight": (4, 8),
        "layer0/bias": (8,),
        "layer1/weight": (8, 5),
        "layer1/bias": (5,),
        "layer2/weight": (5, 3),
        "layer2/bias": (3,),
    }
    assert all(leaf.dtype == np.float32 for leaf in params.values())


def test_a_perceptrons_first_weights_follow_the_seed_and_spread_by_fan_in():
    model = MultilayerPerceptron(hidden=(200,))
    one, same, other = (init(model, 1, seed, num_features=50) for seed in (7, 7, 8))
    for path, leaf in one.items():
        np.testing.assert_array_equal(leaf, same[path], strict=True)
    assert not np.array_equal(one["layer0/weight"], other["layer0/weight"])
    # N(0, 2 / fan_in) of 10,000 and 200 draws: the standard deviation is right to 3 and 15 %.
    assert one["layer0/weight"].std() == pytest.approx(np.sqrt(2 / 50), rel=0.03)
    assert one["layer1/weight"].std() == pytest.approx(np.sqrt(2 / 200), rel=0.15)
    assert not one["layer0/bias"].any()


@pytest.mark.parametrize("model", [LinearRegression(), LogisticRegression()])
def test_linear_models_multiply_and_add(model):
    params = {"weight": np.float32([[1, 0], [2, -1]]), "bias": np.float32([0.5, 10])}
    outputs = model.apply(params, np.float32([[1, 1], [3, -2]]))
    np.testing.assert_array_equal(outputs, np.float32([[3.5, 9], [-0.5, 12]]), strict=True)


def test_a_perceptron_rectifies_between_its_layers_and_not_after_the_last():
    # x = [1, 2]: hidden = max(0, [1 - 2, 1 + 2] + [0.5, 1]) = [0, 4]; output = 5 * 0 - 1 * 4 + 0.5 = -3.5
    params = {
        "layer0/weight": np.float32([[1, 1], [-1, 1]]),
        "layer0/bias": np.float32([0.5, 1]),
        "layer1/weight": np.float32([[5], [-1]]),
        "layer1/bias": np.float32([0.5]),
    }
    outputs = MultilayerPerceptron(hidden=(2,)).apply(params, np.float32([[1, 2]]))
    np.testing.assert_array_equal(outputs, np.float32([[-3.5]]), strict=True)


@pytest.mark.parametrize(("model", "num_outputs"), EVERY_MODEL)
def test_apply_under_numpy_equals_apply_under_a_compiled_jax(model, num_outputs):
    params = uneven(model, num_outputs)
    features = np.random.default_rng(2).normal(size=(6, 4)).astype(np.float32)
    outputs = model.apply(params, features)
    assert (outputs.shape, outputs.dtype) == ((6, num_outputs), np.float32)
    compiled = jax.jit(model.apply)(params, features)
    np.testing.assert_allclose(compiled, outputs, rtol=1e-6, atol=1e-6 * np.abs(outputs).max())


def test_models_are_hashable_and_equal_by_their_settings():
    # So that a compiled function can have them as static arguments.
    assert hash(MultilayerPerceptron(hidden=(8,))) == hash(MultilayerPerceptron(hidden=(8,)))
    assert MultilayerPerceptron(hidden=(8,)) != MultilayerPerceptron(hidden=(9,))


def test_kind_chooses_the_model():
    adapter = TypeAdapter(Model)
    assert adapter.validate_python({"kind": "mlp", "hidden": [3, 2]}) == MultilayerPerceptron(hidden=(3, 2))
    assert adapter.validate_python({"kind": "linear-regression"}) == LinearRegression()


@pytest.mark.parametrize(
    ("hidden", "message"),
    [((), "hidden\n  Tuple should have at least 1 item"), ((4, 0), "hidden.1\n  Input should be greater")],
)
def test_a_perceptron_without_hidden_units_is_refused(hidden, message):
    with pytest.raises(ValidationError, match=message):
        MultilayerPerceptron(hidden=hidden)


def test_predictions_of_a_regression_are_the_outputs():
    values = predictions("regression", np.float32([[1.5], [-2]]))
    np.testing.assert_array_equal(values, np.array([1.5, -2.0]), strict=True)


def test_predictions_of_two_classes_are_the_probabilities_of_class_1():
    logits = np.array([[0.0], [np.log(3)], [-np.log(3)]])
    assert predictions("binary", logits) == pytest.approx([0.5, 0.75, 0.25], rel=1e-12)


def test_probabilities_of_two_classes_are_stable_at_extreme_logits():
    probabilities = predictions("binary", np.float32([[1000], [-1000], [40], [-40]]))
    assert probabilities[:2].tolist() == [1.0, 0.0]
    assert probabilities[3] == pytest.approx(np.exp(-40), rel=1e-9)


def test_probabilities_of_several_classes_sum_to_one_even_at_extreme_logits():
    logits = np.array([[0.0, np.log(2), 0.0], [1000, 0, -1000], [-1000, -1000, -1000], [3e38, 0, -3e38]])
    probabilities = predictions("multiclass", logits)
    assert probabilities[0] == pytest.approx([0.25, 0.5, 0.25], rel=1e-12)
    assert probabilities[1].tolist() == [1, 0, 0]
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(4), rel=1e-12)
