import gc
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas
import pytest
import sklearn.linear_model
from lifelines import CoxPHFitter
from sklearn.datasets import load_breast_cancer

from workers import batches, client_update
from workers.batches import MIN_EXAMPLES, MIN_STEPS, PADDING
from workers.data import Examples
from workers.models import (
    ConvolutionalNetwork,
    Cox,
    LinearRegression,
    LogisticRegression,
    MultilayerPerceptron,
    OwnModel,
    own,
)
from workers.optimizers import Adam, Sgd
from workers.spec import LocalTraining

NUM_FEATURES = 3
LOGISTIC = LogisticRegression()
ONE_EPOCH = LocalTraining(optimizer=Adam(learning_rate=0.01), batch_size=8, epochs=1)


def examples_of(num_examples, num_classes=2, seed=0):
    """Features around the centre of each example's class; for no classes, a line with some noise."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(num_examples, NUM_FEATURES))
    if num_classes:
        targets = rng.integers(0, num_classes, num_examples)
        features[np.arange(num_examples), targets % NUM_FEATURES] += 2.0
    else:
        targets = features @ [1.0, -2.0, 0.5] + 0.1 * rng.normal(size=num_examples)
    return Examples(features=features.astype(np.float32), targets=targets.astype(np.float32))


def survivors(num_examples, seed=0):
    """Times of which some are equal, shorter for a large first feature; a third is lost to sight."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(num_examples, NUM_FEATURES))
    times = np.ceil(10 * rng.exponential(np.exp(-features @ [0.8, -0.5, 0.0])))
    targets = np.stack([times, rng.random(num_examples) < 2 / 3], axis=1)
    return Examples(features=features.astype(np.float32), targets=targets.astype(np.float32))


def pictures(num_examples, num_classes=2, seed=0):
    """Noise of 8x8 pixels, with a bright row or more where the class is not 0."""
    rng = np.random.default_rng(seed)
    features, targets = rng.normal(size=(num_examples, 8, 8, 1)), rng.integers(0, num_classes, num_examples)
    for image, target in zip(features, targets, strict=True):
        image[: 2 * target] += 2.0
    return Examples(features=features.astype(np.float32), targets=targets.astype(np.float32))


def a_line(*targets, x=1.0):
    """Examples of one feature whose value is always x."""
    return Examples(features=np.full((len(targets), 1), x, np.float32), targets=np.float32(targets))


def start(model, num_outputs=1, shape=(NUM_FEATURES,)):
    return model.init(np.random.default_rng(9), shape, num_outputs)


def train(examples, training, *, model=LOGISTIC, kind="binary", base=None, seed=4):
    base = start(model, shape=examples.features.shape[1:]) if base is None else base
    return client_update.train(base, examples, model=model, target_kind=kind, training=training, seed=seed)


def fit_line(examples, training, weight=0.0, bias=0.0):
    """Train weight * x + bias and give what was added to the two, and the loss."""
    base = {"weight": np.float32([[weight]]), "bias": np.float32([bias])}
    trained = train(examples, training, model=LinearRegression(), kind="regression", base=base)
    return trained.delta["weight"].item(), trained.delta["bias"].item(), trained.loss.item()


def assert_same_bits(one, other):
    assert one.keys() == other.keys()
    for path, leaf in one.items():
        np.testing.assert_array_equal(leaf, other[path], strict=True)


def batches_of(training, examples, seed):
    """The batches of the plan, as they are without any padding."""
    for indices in batches.plan(training, len(examples), seed):
        chosen = indices[indices != PADDING]
        if len(chosen):
            yield examples.features[chosen], examples.targets[chosen]


# The same as a loop that anybody would write


def test_training_equals_gradient_descent_written_in_numpy():
    examples = examples_of(45)
    training = LocalTraining(optimizer=Sgd(learning_rate=0.3), batch_size=8, epochs=3)
    trained = train(examples, training, seed=11)
    weight, bias, losses = np.zeros((NUM_FEATURES, 1)), np.zeros(1), []
    for features, targets in batches_of(training, examples, seed=11):
        probability = 1 / (1 + np.exp(-(features @ weight + bias)[:, 0]))
        losses += list(-np.log(np.where(targets == 1, probability, 1 - probability)))
        error = (probability - targets)[:, None] / len(targets)
        weight, bias = weight - 0.3 * features.T @ error, bias - 0.3 * error.sum(axis=0)
    assert len(losses) == 3 * 45
    np.testing.assert_allclose(trained.delta["weight"], weight, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(trained.delta["bias"], bias, rtol=1e-5, atol=1e-6)
    assert trained.loss == pytest.approx(np.mean(losses), rel=1e-5)


def test_training_a_perceptron_equals_a_plain_loop_of_value_and_grad_and_optax():
    model, examples = MultilayerPerceptron(hidden=(5,)), examples_of(32, num_classes=3)
    training = LocalTraining(
        optimizer=Adam(learning_rate=0.02), batch_size=8, epochs=2, proximal=0.5, clip_norm=0.7
    )
    base = start(model, num_outputs=3)
    trained = train(examples, training, model=model, kind="multiclass", base=base, seed=3)

    transform = optax.chain(optax.clip_by_global_norm(0.7), optax.adam(0.02))

    def objective(params, features, targets):
        scores = jax.nn.log_softmax(model.apply(params, features))
        loss = -scores[jnp.arange(len(targets)), targets.astype(int)].mean()
        distance = sum(((params[path] - base[path]) ** 2).sum() for path in base)
        return loss + 0.5 / 2 * distance, loss

    @jax.jit
    def step(params, state, features, targets):
        (_, loss), gradient = jax.value_and_grad(objective, has_aux=True)(params, features, targets)
        updates, state = transform.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, loss

    params, state, losses = base, transform.init(base), []
    for features, targets in batches_of(training, examples, seed=3):
        params, state, loss = step(params, state, features, targets)
        losses.append(loss.item())
    assert len(losses) == 2 * 4
    for path, leaf in trained.delta.items():
        np.testing.assert_allclose(leaf, params[path] - base[path], rtol=1e-4, atol=2e-6)
    assert trained.loss == pytest.approx(np.mean(losses), rel=1e-5)


# By hand: x = 1, prediction w + b, squared error, so the gradient of both is 2 (w + b - y)


def test_one_step_of_gradient_descent():
    # From 0 toward y = 1: gradient -2, and the loss as it was before the step.
    training = LocalTraining(optimizer=Sgd(learning_rate=0.1), batch_size=1, steps=1)
    assert fit_line(a_line(1.0), training) == pytest.approx((0.2, 0.2, 1.0), rel=1e-6)


def test_a_batch_that_is_not_full_is_averaged_over_the_examples_that_it_has():
    # Batches of 2 and 1 at x = 0, y = 1: bias 0 -> 0.25 * 2 = 0.5 -> 0.5 + 0.25 * 1 = 0.75.
    training = LocalTraining(optimizer=Sgd(learning_rate=0.25), batch_size=2, epochs=1)
    weight, bias, loss = fit_line(a_line(1.0, 1.0, 1.0, x=0.0), training)
    assert (weight, bias) == (0.0, pytest.approx(0.75, rel=1e-6))
    # Over the three examples, not over the two batches: (1 + 1 + 0.25) / 3.
    assert loss == pytest.approx(0.75, rel=1e-6)


def test_the_reported_loss_is_that_of_each_example_as_it_was_seen():
    # Two steps from 0 toward 1: errors 1 and 0.6, so (1 + 0.36) / 2; FedProx's term is no part of it.
    training = LocalTraining(optimizer=Sgd(learning_rate=0.1), batch_size=1, steps=2)
    assert fit_line(a_line(1.0), training)[2] == pytest.approx(0.68, rel=1e-6)


@pytest.mark.parametrize(("proximal", "expected"), [(0.0, 0.32), (3.0, 0.26)])
def test_fedprox_pulls_toward_the_base_model(proximal, expected):
    # Base w = 1, b = 0, y = 2: the first step adds 0.2 to both; then the gradient is -1.2 + μ 0.2.
    training = LocalTraining(optimizer=Sgd(learning_rate=0.1), batch_size=1, steps=2, proximal=proximal)
    weight, bias, loss = fit_line(a_line(2.0), training, weight=1.0)
    assert (weight, bias) == pytest.approx((expected, expected), rel=1e-5)
    assert loss == pytest.approx(0.68, rel=1e-5)


def test_fedprox_does_nothing_to_the_first_step():
    training = LocalTraining(optimizer=Sgd(learning_rate=0.1), batch_size=1, steps=1, proximal=100.0)
    assert fit_line(a_line(2.0), training, weight=1.0)[:2] == pytest.approx((0.2, 0.2), rel=1e-6)


@pytest.mark.parametrize(("clip_norm", "expected"), [(2**0.5, 0.1), (3.0, 0.2)])
def test_the_gradient_is_clipped_by_its_norm_over_all_leaves(clip_norm, expected):
    # The gradient (-2, -2) has norm 2 √2: scaled to the clip norm where that is smaller.
    training = LocalTraining(optimizer=Sgd(learning_rate=0.1), batch_size=1, steps=1, clip_norm=clip_norm)
    assert fit_line(a_line(1.0), training)[:2] == pytest.approx((expected, expected), rel=1e-6)


# Penalties and weights


def test_l2_draws_weights_to_zero_and_no_biases():
    # At x = 1, from w = b = 1 to y = 2 there is no error: the gradient is l2 w for the weight alone.
    training = LocalTraining(optimizer=Sgd(learning_rate=0.1), batch_size=1, steps=1, l2=2.0)
    assert fit_line(a_line(2.0), training, weight=1.0, bias=1.0) == pytest.approx((-0.2, 0.0, 0.0), abs=1e-6)


@pytest.mark.parametrize(("weight", "moved"), [(1.0, -0.2), (0.1, -0.1), (-1.0, 0.2), (0.0, 0.0)])
def test_l1_shrinks_weights_by_learning_rate_times_l1_and_not_past_zero(weight, moved):
    training = LocalTraining(optimizer=Sgd(learning_rate=0.1), batch_size=1, steps=1, l1=2.0)
    found = fit_line(a_line(weight + 1), training, weight=weight, bias=1.0)
    assert found == pytest.approx((moved, 0.0, 0.0), abs=1e-6)


def test_l1_shrinks_after_the_step_by_the_gradient():
    # From 0 toward y = 1 the gradient's step is 0.2; shrunk by 0.1 * 0.5.
    training = LocalTraining(optimizer=Sgd(learning_rate=0.1), batch_size=1, steps=1, l1=0.5)
    assert fit_line(a_line(1.0), training)[:2] == pytest.approx((0.15, 0.2), rel=1e-6)


@pytest.fixture(scope="module")
def tumours():
    """The breast cancer of scikit-learn, standardized, with a fifth of the benign left out."""
    features, targets = load_breast_cancer(return_X_y=True)
    chosen = np.flatnonzero((targets == 0) | (np.arange(len(targets)) % 5 == 0))
    features = ((features - features.mean(axis=0)) / features.std(axis=0))[chosen]
    return Examples(features=features.astype(np.float32), targets=targets[chosen].astype(np.float32))


def fit_all(examples, steps, **options):
    """Gradient descent on all examples together."""
    optimizer = Sgd(learning_rate=0.3)
    training = LocalTraining(optimizer=optimizer, batch_size=len(examples), steps=steps, **options)
    return train(examples, training).delta


@pytest.mark.parametrize("class_weights", [None, "balanced", (2.0, 0.5)])
def test_the_optimum_with_l2_is_scikit_learns(tumours, class_weights):
    l2 = 0.1
    found = fit_all(tumours, steps=2000, l2=l2, class_weights=class_weights)
    as_dict = dict(enumerate(class_weights)) if isinstance(class_weights, tuple) else class_weights
    reference = sklearn.linear_model.LogisticRegression(
        C=1 / (l2 * len(tumours)), class_weight=as_dict, tol=1e-10, max_iter=1000
    ).fit(tumours.features.astype(float), tumours.targets)
    np.testing.assert_allclose(found["weight"][:, 0], reference.coef_[0], atol=1e-4)
    np.testing.assert_allclose(found["bias"], reference.intercept_, atol=1e-4)


def test_the_optimum_with_l1_is_scikit_learns_with_the_same_zeros(tumours):
    l1 = 0.03
    found = fit_all(tumours, steps=12_000, l1=l1)
    reference = sklearn.linear_model.LogisticRegression(
        C=1 / (l1 * len(tumours)), l1_ratio=1.0, solver="saga", tol=1e-10, max_iter=10_000, random_state=0
    ).fit(tumours.features.astype(float), tumours.targets)
    np.testing.assert_allclose(found["weight"][:, 0], reference.coef_[0], atol=1e-3)
    is_zero = found["weight"][:, 0] == 0
    assert 10 < is_zero.sum() < 29
    np.testing.assert_array_equal(is_zero, reference.coef_[0] == 0)


def test_class_weights_multiply_each_examples_loss_and_divide_by_their_number():
    # At 0 the gradient of the logit is 1/2 - y: of one of class 0 with weight 3, and one of class 1 with 1.
    training = LocalTraining(
        optimizer=Sgd(learning_rate=1.0), batch_size=2, steps=1, class_weights=(3.0, 1.0)
    )
    trained = train(a_line(0.0, 1.0, x=0.0), training)
    assert trained.delta["bias"].item() == pytest.approx(-(3 * 0.5 - 0.5) / 2, rel=1e-6)
    assert trained.loss == pytest.approx(4 * np.log(2) / 2, rel=1e-6)


def test_the_optimum_of_cox_is_that_of_lifelines():
    examples = survivors(120)
    table = pandas.DataFrame(examples.features).assign(
        time=examples.targets[:, 0], event=examples.targets[:, 1]
    )
    expected = CoxPHFitter().fit(table, "time", "event").params_.to_numpy()
    training = LocalTraining(optimizer=Sgd(learning_rate=0.5), batch_size=len(examples), steps=200)
    trained = train(examples, training, model=Cox(), kind="survival")
    assert trained.delta.keys() == {"weight"}
    np.testing.assert_allclose(trained.delta["weight"][:, 0], expected, atol=1e-3)


def test_the_loss_of_cox_is_its_sum_over_events_by_the_number_of_examples_in_the_batch():
    # Batches of one example have nothing to compare: log(1) each. One batch of three: log(3) + log(2).
    examples = Examples(features=np.zeros((3, 1), np.float32), targets=np.float32([[1, 1], [2, 1], [3, 0]]))
    losses = [
        train(
            examples,
            LocalTraining(optimizer=Sgd(learning_rate=0.1), batch_size=batch_size, epochs=1),
            model=Cox(),
            kind="survival",
        ).loss
        for batch_size in (1, 3)
    ]
    assert losses == pytest.approx([0, np.log(6) / 3], rel=1e-6)


@pytest.mark.parametrize(("ties", "second"), [("efron", 1), ("breslow", 2)])
def test_ties_are_handled_as_the_training_says(ties, second):
    # Two events at one time, at equal risk: log(2) + log(2 or 1).
    examples = Examples(features=np.zeros((2, 1), np.float32), targets=np.float32([[1, 1], [1, 1]]))
    training = LocalTraining(optimizer=Sgd(learning_rate=0.1), batch_size=2, epochs=1, ties=ties)
    trained = train(examples, training, model=Cox(), kind="survival")
    assert trained.loss == pytest.approx((np.log(2) + np.log(second)) / 2, rel=1e-6)


# Purity and order


def test_the_same_order_gives_the_same_delta_bit_for_bit_and_another_seed_another():
    examples = examples_of(40)
    one, same, other = (train(examples, ONE_EPOCH, seed=seed) for seed in (1, 1, 2))
    assert_same_bits(one.delta, same.delta)
    assert one.loss == same.loss
    assert not np.array_equal(one.delta["weight"], other.delta["weight"])


def test_training_changes_nothing_that_it_is_given():
    examples, base = examples_of(20), {"weight": np.ones((3, 1), np.float32), "bias": np.ones(1, np.float32)}
    before = examples.features.copy(), examples.targets.copy()
    train(examples, ONE_EPOCH, base=base)
    assert all((leaf == 1).all() for leaf in base.values())
    np.testing.assert_array_equal(examples.features, before[0])
    np.testing.assert_array_equal(examples.targets, before[1])


def test_the_delta_has_the_models_paths_shapes_and_dtypes_as_numpy_arrays():
    trained = train(examples_of(20), ONE_EPOCH)
    assert {path: leaf.shape for path, leaf in trained.delta.items()} == {"weight": (3, 1), "bias": (1,)}
    assert all(type(leaf) is np.ndarray and leaf.dtype == np.float32 for leaf in trained.delta.values())


def test_examples_are_padded_for_the_first_order_and_let_go_of_with_their_site(monkeypatch):
    gc.collect()
    padded, pad, before = [], batches.pad, len(client_update._placed)
    monkeypatch.setattr(batches, "pad", lambda rows, *rest: padded.append(len(rows)) or pad(rows, *rest))
    here, there = examples_of(40), examples_of(41)
    for examples in (here, there, here, there):
        train(examples, ONE_EPOCH)
    assert padded == [40, 40, 41, 41]  # features and targets, of each site once
    assert len(client_update._placed) == before + 2
    del here, there, examples
    gc.collect()
    assert len(client_update._placed) == before


# Padding


def trained_padded_to(num_rows, num_steps, *, filling=0.0, num_examples=45):
    examples = examples_of(num_examples, num_classes=3)
    training = LocalTraining(optimizer=Adam(learning_rate=0.05), batch_size=8, epochs=2)
    model = MultilayerPerceptron(hidden=(4,))
    return client_update.client_update(
        start(model, num_outputs=3),
        batches.pad(examples.features, filling, num_rows),
        batches.pad(examples.targets, 0.0, num_rows),
        batches.pad(batches.plan(training, num_examples, seed=7), PADDING, num_steps),
        model=model,
        target_kind="multiclass",
        training=training,
    )


def test_what_the_padding_of_the_examples_holds_does_not_matter_bit_for_bit():
    zeros = trained_padded_to(MIN_EXAMPLES, MIN_STEPS)
    noise = trained_padded_to(MIN_EXAMPLES, MIN_STEPS, filling=1e6)
    assert_same_bits(zeros.delta, noise.delta)
    assert zeros.loss == noise.loss


@pytest.mark.parametrize(
    ("num_rows", "num_steps"), [(MIN_EXAMPLES, 4 * MIN_STEPS), (4 * MIN_EXAMPLES, MIN_STEPS)]
)
def test_more_padding_does_not_change_the_delta(num_rows, num_steps):
    # To 1e-7: each shape is compiled by itself, and nothing keeps XLA from ordering its sums anew.
    few = trained_padded_to(MIN_EXAMPLES, MIN_STEPS)
    more = trained_padded_to(num_rows, num_steps)
    for path, leaf in few.delta.items():
        np.testing.assert_allclose(more.delta[path], leaf, rtol=0, atol=1e-7)
    assert more.loss.item() == pytest.approx(few.loss.item(), abs=1e-7)


def test_a_site_whose_examples_fill_their_rows_never_sees_the_last_one_in_place_of_padding():
    # Index -1 is the last row, here a real example: it is masked, else its target would blow the bias up.
    targets = np.ones(MIN_EXAMPLES, np.float32)
    training = LocalTraining(optimizer=Sgd(learning_rate=0.25), batch_size=100, steps=3)
    examples = a_line(*targets, x=0.0)
    # Batches of 100, 100 and 56: each halves the bias's distance to 1.
    assert fit_line(examples, training)[1] == pytest.approx(0.875, rel=1e-6)
    last_at = np.argmax((batches.plan(training, MIN_EXAMPLES, seed=4) == MIN_EXAMPLES - 1).any(axis=1))
    far = a_line(*targets[:-1], 101.0, x=0.0)
    size = 100 if last_at < 2 else 56
    # The one far example pulls once, in its own batch, by 0.25 * 2 * 100 / size, halved by each step after.
    expected = 0.875 + 50 / size * 0.5 ** (2 - last_at)
    assert fit_line(far, training)[1] == pytest.approx(expected, rel=1e-5)


def test_skipped_steps_do_not_move_the_optimizers_state():
    # Momentum would go on moving the parameters in steps that see nothing: 0.2, then 0.9 * 0.2 + 0.12.
    training = LocalTraining(optimizer=Sgd(learning_rate=0.1, momentum=0.9), batch_size=1, steps=2)
    assert fit_line(a_line(1.0), training)[0] == pytest.approx(0.2 + 0.18 + 0.12, rel=1e-6)


# Compilation


def test_sites_with_up_to_256_examples_share_one_compilation():
    training = LocalTraining(optimizer=Sgd(learning_rate=0.0625), batch_size=16, epochs=1)
    before = client_update.client_update._cache_size()
    for num_examples in (5, 57, 130, MIN_EXAMPLES):
        train(examples_of(num_examples), training, seed=num_examples)
    assert client_update.client_update._cache_size() == before + 1
    train(examples_of(MIN_EXAMPLES + 1), training)
    assert client_update.client_update._cache_size() == before + 2


def test_settings_that_are_equal_share_one_compilation():
    before = client_update.client_update._cache_size()
    for _ in range(2):  # each order's worker has decoded its own copy
        training = LocalTraining(optimizer=Adam(learning_rate=0.03125), batch_size=16, epochs=1)
        train(examples_of(20), training, model=MultilayerPerceptron(hidden=(3,)))
    assert client_update.client_update._cache_size() == before + 1


def test_each_padded_shape_is_compiled_once_and_nothing_beside_it(caplog):
    training = LocalTraining(optimizer=Sgd(learning_rate=0.04), batch_size=16, epochs=1, l2=0.02)
    with jax.log_compiles():
        for num_examples in (5, 57, MIN_EXAMPLES, MIN_EXAMPLES + 1, 300, 512, 700):
            for seed in range(2):
                train(examples_of(num_examples), training, seed=seed)
    finished = re.findall(r"Finished XLA compilation of (\S+)", caplog.text)
    # 256 rows, 512, 1024: jnp.zeros or the like outside of the jitted function would be one more.
    assert finished == ["jit(client_update)"] * 3


# Every kind of target, with every model that is for it

CNN = ConvolutionalNetwork(channels=(4, 8), groups=2)
OWN = OwnModel(function="tests.own_models:line", num_outputs=1)
EVERYTHING = [
    ("binary", examples_of(80), LOGISTIC, 1),
    ("binary", examples_of(80), OWN, 1),
    ("binary", pictures(80), CNN, 1),
    ("multiclass", examples_of(80, 3), LOGISTIC, 3),
    ("multiclass", examples_of(80, 3), MultilayerPerceptron(hidden=(8,)), 3),
    ("multiclass", pictures(80, 3), CNN, 3),
    ("regression", examples_of(80, 0), LinearRegression(), 1),
    ("regression", examples_of(80, 0), MultilayerPerceptron(hidden=(8,)), 1),
    ("survival", survivors(80), Cox(), 1),
    ("survival", survivors(80), MultilayerPerceptron(hidden=(8,)), 1),
]


@pytest.fixture(autouse=True)
def own_model_is_allowed(monkeypatch):
    monkeypatch.setattr(own, "_allowed", {OWN.function})


@pytest.mark.parametrize(("kind", "examples", "model", "num_outputs"), EVERYTHING)
def test_everything_trains_the_same_bit_for_bit_whatever_the_padding_with_one_compilation(
    kind, examples, model, num_outputs
):
    training = LocalTraining(optimizer=Adam(learning_rate=0.03), batch_size=16, epochs=4)
    shape, before = examples.features.shape[1:], client_update.client_update._cache_size()
    first, losses = start(model, num_outputs, shape), []
    params = first
    for order in range(4):
        trained = train(examples, training, model=model, kind=kind, base=params, seed=order)
        params = {path: leaf + trained.delta[path] for path, leaf in params.items()}
        losses.append(trained.loss.item())
    assert losses[1] < losses[0]
    assert losses[-1] < (0.95 if kind == "survival" else 0.75) * losses[0]

    once, again = (train(examples, training, model=model, kind=kind, base=first, seed=0) for _ in range(2))
    assert_same_bits(once.delta, again.delta)
    assert client_update.client_update._cache_size() == before + 1
    noise = client_update.client_update(
        first,
        batches.pad(examples.features, 1e3, MIN_EXAMPLES),
        batches.pad(examples.targets, 1.0, MIN_EXAMPLES),
        batches.plan(training, len(examples), seed=0),
        None,
        None,
        model=model,
        target_kind=kind,
        training=training,
    )
    assert_same_bits(once.delta, noise.delta)
    assert once.loss == noise.loss
