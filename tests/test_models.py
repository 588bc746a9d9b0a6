import jax
import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from workers.errors import ExperimentError, SettingsError
from workers.models import (
    ConvolutionalNetwork,
    Cox,
    LinearRegression,
    LogisticRegression,
    Model,
    MultilayerPerceptron,
    OwnModel,
    own,
    predictions,
)

EVERY_MODEL = [
    (Cox(), 1),
    (LinearRegression(), 1),
    (LogisticRegression(), 1),
    (LogisticRegression(), 3),
    (MultilayerPerceptron(), 1),
    (MultilayerPerceptron(hidden=(8, 5)), 3),
]


def init(model, num_outputs, seed=0, num_features=4):
    return model.init(np.random.default_rng(seed), (num_features,), num_outputs)


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


def test_cox_starts_from_zero_and_has_no_bias():
    params = init(Cox(), 1)
    assert params.keys() == {"weight"}
    np.testing.assert_array_equal(params["weight"], np.zeros((4, 1), np.float32), strict=True)


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


# Images


def test_a_convolutional_network_has_a_block_for_each_number_of_channels_and_a_head():
    params = ConvolutionalNetwork(channels=(4, 8), groups=2).init(np.random.default_rng(0), (28, 28, 3), 5)
    assert {path: leaf.shape for path, leaf in params.items()} == {
        "block0/weight": (27, 4),
        "block0/scale": (4,),
        "block0/bias": (4,),
        "block1/weight": (36, 8),
        "block1/scale": (8,),
        "block1/bias": (8,),
        "head/weight": (8, 5),
        "head/bias": (5,),
    }
    assert all(leaf.dtype == np.float32 for leaf in params.values())
    assert (params["block0/scale"] == 1).all() and not params["block0/bias"].any()


def test_a_convolutional_networks_first_weights_spread_by_fan_in():
    params = ConvolutionalNetwork(channels=(64, 256)).init(np.random.default_rng(0), (8, 8, 1), 8)
    # Of 576, 147,456 and 2048 draws.
    assert params["block0/weight"].std() == pytest.approx(np.sqrt(2 / 9), rel=0.15)
    assert params["block1/weight"].std() == pytest.approx(np.sqrt(2 / 576), rel=0.01)
    assert params["head/weight"].std() == pytest.approx(np.sqrt(1 / 256), rel=0.1)


@pytest.mark.parametrize("shape", [(16, 16, 1), (9, 11, 3), (3, 1, 2)])
@pytest.mark.parametrize("channels", [(4,), (4, 8, 4)])
def test_a_convolutional_network_is_that_of_jaxs_own_operations(shape, channels):
    model = ConvolutionalNetwork(channels=channels, groups=2)
    rng = np.random.default_rng(1)
    shapes = {path: leaf.shape for path, leaf in model.init(rng, shape, 3).items()}
    params = {path: rng.normal(size=size).astype(np.float32) for path, size in shapes.items()}
    images = rng.normal(size=(6, *shape)).astype(np.float32)
    outputs = model.apply(params, images)
    assert (outputs.shape, outputs.dtype) == ((6, 3), np.float32)
    np.testing.assert_allclose(outputs, by_jax(params, images, channels, groups=2), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(outputs, jax.jit(model.apply)(params, images), rtol=1e-4, atol=1e-4)


def by_jax(params, images, channels, groups):
    """The same network, of XLA's convolution and pooling."""
    for index, width in enumerate(channels):
        kernel = params[f"block{index}/weight"].reshape(3, 3, images.shape[-1], width)
        images = jax.lax.conv_general_dilated(
            images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        parts = np.split(np.asarray(images), groups, axis=-1)
        normalized = [jax.nn.standardize(part, axis=(1, 2, 3), epsilon=1e-5) for part in parts]
        images = jax.numpy.concatenate(normalized, axis=-1)
        images = jax.nn.relu(images * params[f"block{index}/scale"] + params[f"block{index}/bias"])
        if min(images.shape[1:3]) > 1:
            window = (1, 2, 2, 1)
            images = jax.lax.reduce_window(images, -np.inf, jax.lax.max, window, window, "VALID")
    return images.mean(axis=(1, 2)) @ params["head/weight"] + params["head/bias"]


def test_a_convolutional_network_is_for_images():
    with pytest.raises(
        ValueError, match=r"expected images \(height, width, channels\), got examples of shape \(30,\)"
    ):
        init(ConvolutionalNetwork(), 1, num_features=30)


def test_channels_are_whole_groups():
    with pytest.raises(ValidationError, match="channels: expected multiples of 4 groups, got 6"):
        ConvolutionalNetwork(channels=(8, 6))


# A user's own


@pytest.fixture(autouse=True)
def nothing_is_allowed(monkeypatch):
    monkeypatch.setattr(own, "_allowed", set())
    monkeypatch.setattr(own, "_is_anything_allowed", False)


def own_model(function, num_outputs=1):
    return OwnModel(function=function, num_outputs=num_outputs)


def test_a_process_refuses_a_users_own_model_and_says_what_allows_it():
    model = own_model("tests.own_models:line")
    expected = (
        "model.function: tests.own_models:line is not allowed here. A site allows it by the line "
        'models = ["tests.own_models:line"] in its site.toml, and fedelta predict by '
        "--allow-model tests.own_models:line"
    )
    for use in (lambda: init(model, 1), lambda: model.apply({}, np.zeros((1, 4), np.float32))):
        with pytest.raises(SettingsError) as raised:
            use()
        assert str(raised.value) == expected


def test_refusing_comes_before_importing():
    with pytest.raises(SettingsError, match="not allowed"):
        init(own_model("tests.this_would_fail:line"), 1)


def test_what_is_allowed_is_that_function_alone():
    own.allow(["tests.own_models:line"])
    assert init(own_model("tests.own_models:line"), 1).keys() == {"slope", "offset"}
    with pytest.raises(SettingsError, match="not allowed"):
        init(own_model("tests.own_models:starts_from_nothing"), 1)
    own.allow(["another.package:model"])
    assert init(own_model("tests.own_models:line"), 1)


def test_in_a_trial_anything_is_allowed():
    own.allow_anything()
    params = init(own_model("tests.own_models:line"), 2)
    assert {path: (type(leaf), leaf.shape) for path, leaf in params.items()} == {
        "slope": (np.ndarray, (4, 2)),
        "offset": (np.ndarray, (2,)),
    }


@pytest.mark.parametrize(("shape", "num_outputs"), [((4,), 1), ((4,), 3), ((5, 4, 2), 2)])
def test_a_users_own_model_is_made_for_the_examples_shape_and_the_outputs(shape, num_outputs):
    own.allow_anything()
    model = own_model("tests.own_models:line", num_outputs)
    rng = np.random.default_rng(0)
    params = {
        path: rng.normal(size=leaf.shape).astype(np.float32)
        for path, leaf in model.init(rng, shape, num_outputs).items()
    }
    features = rng.normal(size=(7, *shape)).astype(np.float32)
    expected = features.reshape(7, -1) @ params["slope"].reshape(-1, num_outputs) + params["offset"]
    np.testing.assert_allclose(model.apply(params, features), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jax.jit(model.apply)(params, features), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("not_a_package.models:line", "is not installed here: No module named 'not_a_package'"),
        ("tests.own_models:lime", "tests.own_models is installed here, and has no lime"),
        ("tests.own_models:no_function", "tests.own_models:no_function is no function, but an int"),
    ],
)
def test_a_function_that_is_not_there_is_the_sites_to_install(function, message):
    own.allow_anything()
    with pytest.raises(SettingsError, match=message):
        init(own_model(function), 1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("returns_one_function", r"expected a pair of functions \(init, apply\), got a function"),
        ("returns_no_functions", r"expected a pair of functions \(init, apply\), got a tuple of 2"),
        ("starts_from_a_list", "expected a dict of arrays by their names, got a list of 1"),
        ("starts_from_nothing", "expected a dict of arrays by their names, got a dict of 0"),
        ("starts_in_float64", "leaf 'slope': expected an array of float32, got an array of float64"),
        ("starts_from_a_number", "leaf 'slope': expected an array of float32, got a float"),
    ],
)
def test_a_function_that_does_not_return_what_it_should_is_its_authors_to_correct(name, message):
    own.allow_anything()
    with pytest.raises(ExperimentError, match=message) as raised:
        init(own_model(f"tests.own_models:{name}"), 1)
    assert f"tests.own_models:{name}" in str(raised.value)


@pytest.mark.parametrize(
    ("name", "found"), [("forgets_a_dimension", r"an array \(2,\)"), ("gives_no_array", "list")]
)
def test_outputs_of_another_shape_are_its_authors_to_correct(name, found):
    own.allow_anything()
    model = own_model(f"tests.own_models:{name}")
    with pytest.raises(ExperimentError, match=rf"{name}: expected outputs \(2, 1\), got {found}"):
        model.apply(init(model, 1), np.zeros((2, 4), np.float32))


@pytest.mark.parametrize(
    "function", ["", "package", "package:", ":name", "a b:c", "os:system('x')", "a.b:c.d", "é:x"]
)
def test_a_function_is_written_as_module_and_name(function):
    with pytest.raises(ValidationError, match="function: expected package.module:name, got"):
        OwnModel(function=function)


def test_models_are_hashable_and_equal_by_their_settings():
    # So that a compiled function can have them as static arguments.
    assert hash(MultilayerPerceptron(hidden=(8,))) == hash(MultilayerPerceptron(hidden=(8,)))
    assert MultilayerPerceptron(hidden=(8,)) != MultilayerPerceptron(hidden=(9,))
    assert hash(own_model("a.b:c")) == hash(own_model("a.b:c"))
    assert own_model("a.b:c") != own_model("a.b:c", num_outputs=2)


def test_kind_chooses_the_model():
    adapter = TypeAdapter(Model)
    assert adapter.validate_python({"kind": "mlp", "hidden": [3, 2]}) == MultilayerPerceptron(hidden=(3, 2))
    assert adapter.validate_python({"kind": "linear-regression"}) == LinearRegression()
    assert adapter.validate_python({"kind": "cox"}) == Cox()
    assert adapter.validate_python({"kind": "cnn"}) == ConvolutionalNetwork(channels=(16, 32, 64), groups=4)
    assert adapter.validate_python({"kind": "own", "function": "a.b:c"}) == OwnModel(function="a.b:c")


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


def test_predictions_of_survival_are_risks_relative_to_an_output_of_0():
    risks = predictions("survival", np.log(np.float32([[1], [2], [0.25]])))
    assert risks == pytest.approx([1, 2, 0.25], rel=1e-6)
    assert np.isfinite(predictions("survival", np.float32([[1e30], [-1e30]]))).all()
