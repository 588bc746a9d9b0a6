from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pandas
import pytest
import scipy.optimize
from lifelines import CoxPHFitter

from tests.conftest import REPOSITORY
from workers import objectives
from workers.models import Cox

BREAST_CANCER = REPOSITORY.parent / "shared" / "data" / "tcga-brca" / "brca.csv"


def survival(num_examples, num_times, seed=0):
    """Three features, times of which many are equal, events and censored examples."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(num_examples, 3))
    seen = rng.exponential(np.exp(-features @ [0.8, -0.5, 0.0]))
    times = np.ceil(seen / seen.max() * num_times)
    return features, times, (rng.random(num_examples) < 0.6).astype(float)


def of_batch(log_risk, times, events, ties="efron", padding=(50.0, 2.0, 1.0)):
    """The objective and its gradient; below the examples, rows of padding: risk, time and event."""
    rows = np.tile(np.float32(padding), (64, 1))
    rows[: len(times)] = np.stack([log_risk, times, events], axis=1)
    loss, gradient = value_and_gradient(rows[:, :1], rows[:, 1:], np.arange(64) < len(times), ties=ties)
    assert not gradient[len(times) :].any()
    return float(loss), np.asarray(gradient)[: len(times), 0]


@partial(jax.jit, static_argnames="ties")
def value_and_gradient(outputs, targets, is_example, ties):
    return jax.value_and_grad(
        lambda outputs: objectives.loss("survival", outputs, targets, is_example, ties=ties)
    )(outputs)


def by_definition(log_risk, times, events, ties):
    """The sum over the distinct times of events, as textbooks write it, in float64."""
    risk, total = np.exp(np.float64(log_risk)), 0.0
    for time in np.unique(times[events > 0]):
        at_risk, tied = risk[times >= time].sum(), (times == time) & (events > 0)
        for number in range(tied.sum()):
            share = number / tied.sum() if ties == "efron" else 0.0
            total += np.log(at_risk - share * risk[tied].sum())
        total -= np.float64(log_risk)[tied].sum()
    return total


def optimum(features, times, events, ties="efron"):
    """Coefficients at which the objective over all examples together is smallest, in float64."""
    with jax.enable_x64(True):
        targets, every = jnp.stack([times, events], axis=1), jnp.ones(len(times), bool)

        @jax.jit
        def value_and_gradient(weight):
            function = lambda weight: objectives.loss(  # noqa: E731  # of one argument, for its gradient
                "survival", features @ weight[:, None], targets, every, ties=ties
            )
            return jax.value_and_grad(function)(weight)

        start = np.zeros(features.shape[1])
        return scipy.optimize.minimize(value_and_gradient, start, jac=True, options={"gtol": 1e-4}).x


# The partial likelihood


def test_the_partial_likelihood_by_hand():
    # Risks 1, 2, 3; the first event (of risk 2) beats all, the second (of risk 1) only itself: 6/2, then 1/1.
    loss, _ = of_batch(np.log([1.0, 2.0, 3.0]), times=[5, 2, 4], events=[1, 1, 0])
    assert loss == pytest.approx(np.log(6 / 2) + np.log(1 / 1), rel=1e-6)


@pytest.mark.parametrize(("ties", "second"), [("efron", 6 - 3 / 2), ("breslow", 6)])
def test_two_events_at_one_time_by_hand(ties, second):
    # Risks 1 and 2 at time 1, 3 later: log(6 / 1) + log(second / 2).
    loss, _ = of_batch(np.log([1.0, 2.0, 3.0]), times=[1, 1, 2], events=[1, 1, 0], ties=ties)
    assert loss == pytest.approx(np.log(6) + np.log(second / 2), rel=1e-6)


def test_who_is_lost_to_sight_at_the_time_of_an_event_was_at_risk():
    assert of_batch([0.0, 0.0], times=[3, 3], events=[1, 0])[0] == pytest.approx(np.log(2), rel=1e-6)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
@pytest.mark.parametrize("num_times", [3, 20, 10_000])
def test_the_partial_likelihood_is_the_textbooks(num_times, ties):
    features, times, events = survival(60, num_times)
    log_risk = features @ [0.5, 2.0, -1.0]
    expected = by_definition(log_risk, times, events, ties)
    assert of_batch(log_risk, times, events, ties)[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_padding_has_no_part_in_the_partial_likelihood_or_its_gradient_bit_for_bit(ties):
    features, times, events = survival(20, 5)
    log_risk = features @ [0.5, 2.0, -1.0]
    # The padding would have events amid the others' at the highest risk, or the first, or be seen longest.
    one, *others = (
        of_batch(log_risk, times, events, ties, padding)
        for padding in [(50.0, 2.0, 1.0), (0.0, 0.0, 1.0), (3.0, 1e9, 0.0)]
    )
    for loss, gradient in others:
        assert loss == one[0]
        np.testing.assert_array_equal(gradient, one[1])


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_a_batch_without_events_has_no_loss_and_no_gradient(ties):
    loss, gradient = of_batch([3.0, -1.0, 90.0], [1, 1, 2], [0, 0, 0], ties)
    assert loss == 0
    assert not gradient.any()


@pytest.mark.parametrize("ties", ["efron", "breslow"])
@pytest.mark.parametrize("shift", [-1e4, 1e4])
def test_extreme_risks_give_a_finite_loss_and_gradient(ties, shift):
    log_risk = np.float32([0.0, 500.0, -500.0, 500.0]) + shift
    loss, gradient = of_batch(log_risk, [1, 1, 1, 2], [1, 1, 1, 0], ties)
    # Of the tied events at 0, 500 and -500, beside one of 500 that came later: 500 + 1000 and logarithms.
    few = {"efron": np.log([2, 2 - 1 / 3, 2 - 2 / 3]), "breslow": np.log([2, 2, 2])}[ties].sum()
    assert loss == pytest.approx(1500 + few, rel=1e-5)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("num_times", [6, 50])
def test_the_optimum_is_that_of_lifelines_with_ties(num_times):
    features, times, events = survival(300, num_times)
    table = pandas.DataFrame(features).assign(time=times, event=events)
    expected = CoxPHFitter().fit(table, "time", "event").params_.to_numpy()
    np.testing.assert_allclose(optimum(features, times, events), expected, atol=1e-3)
    # With so many ties, Breslow's approximation is elsewhere.
    assert num_times > 6 or np.abs(optimum(features, times, events, "breslow") - expected).max() > 0.01


def test_the_optimum_on_breast_cancer_is_that_of_lifelines():
    table = pandas.read_csv(BREAST_CANCER, index_col=0)
    times, events = table["T"].to_numpy(float), table["E"].to_numpy(float)
    features = table.drop(columns=["T", "E"]).to_numpy(float)[:, :6]
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    assert len(np.unique(times[events > 0])) < events.sum()  # it has ties
    known = pandas.DataFrame(features).assign(time=times, event=events)
    expected = CoxPHFitter().fit(known, "time", "event").params_.to_numpy()
    np.testing.assert_allclose(optimum(features, times, events), expected, atol=1e-3)


def test_the_models_outputs_are_log_risks():
    features, times, events = survival(30, 5)
    outputs = Cox().apply({"weight": np.float32([[0.5], [2.0], [-1.0]])}, np.float32(features))
    expected = by_definition(features @ [0.5, 2.0, -1.0], times, events, "efron")
    assert of_batch(outputs[:, 0], times, events)[0] == pytest.approx(expected, rel=1e-5)


# The others


@pytest.mark.parametrize(
    ("kind", "outputs", "targets", "losses"),
    [
        ("regression", [[1.0], [-2.0]], [3.0, -2.0], [4.0, 0.0]),
        ("binary", [[0.0], [np.log(3)], [np.log(3)]], [1.0, 1.0, 0.0], np.log([2, 4 / 3, 4])),
        ("multiclass", [[0.0, 0.0, 0.0], [0.0, np.log(2), 0.0]], [2.0, 1.0], np.log([3, 2])),
    ],
)
def test_losses_by_hand(kind, outputs, targets, losses):
    outputs, targets = jnp.asarray(outputs), jnp.asarray(targets)
    assert np.asarray(objectives.each(kind, outputs, targets)) == pytest.approx(losses, rel=1e-6)
    every = jnp.ones(len(targets), bool)
    assert objectives.loss(kind, outputs, targets, every) == pytest.approx(np.sum(losses), rel=1e-6)
    last = every.at[0].set(False)
    assert objectives.loss(kind, outputs, targets, last) == pytest.approx(np.sum(losses[1:]), rel=1e-6)
    weights = jnp.asarray([0.25, 2.0, 1.0][: len(targets)])
    weighted = objectives.loss(kind, outputs, targets, every, weights=weights)
    assert weighted == pytest.approx(np.dot(weights, losses), rel=1e-6)


def test_survival_has_no_loss_of_each_example():
    with pytest.raises(ValueError, match="no loss of its own"):
        objectives.each("survival", jnp.zeros((2, 1)), jnp.zeros((2, 2)))
