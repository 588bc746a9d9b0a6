"""Personal models and what they are compared with, against plain loops, on real hospitals' examples."""

import dataclasses

import numpy as np
import pytest
from pydantic import TypeAdapter

from workers import batches, data, personal
from workers.data import Examples
from workers.errors import ExperimentError
from workers.personal_settings import LocalLayers
from workers.spec import Experiment, Spec

SITES = ("cleveland", "hungarian", "switzerland", "long-beach")
RATE = 0.1


def make_spec(model=None, training=None, **changes):
    written = {
        "name": "hearts",
        "sites": SITES,
        "data": {"dataset": "heart-disease", "holdout": "given"},
        "model": {"kind": "logistic-regression"} if model is None else model,
        "training": {"optimizer": {"name": "sgd", "learning_rate": RATE}, "batch_size": 8, "epochs": 2}
        | (training or {}),
        "strategy": {"kind": "fedasync"},
        "stop": {"updates": 10},
        **changes,
    }
    experiment = TypeAdapter(Experiment).validate_python(written)
    return Spec(experiment=experiment, schema=data.describe(experiment))


@pytest.fixture(scope="module")
def hospitals():
    """By site, what it trains on: four hospitals, of very different size."""
    spec = make_spec()
    return {site: data.load_site(spec, site).train for site in SITES}


@pytest.fixture(scope="module")
def base():
    """A global model that has learned something already."""
    rng = np.random.default_rng(1)
    return {
        "weight": rng.normal(size=(13, 1)).astype(np.float32),
        "bias": rng.normal(size=1).astype(np.float32),
    }


def loop(start, examples, training, seed, *, penalty=0.0, anchor=None):
    """Gradient descent on the mean log loss + penalty/2 ||v - anchor||², a batch at a time, in float64."""
    v = {path: np.asarray(leaf, np.float64) for path, leaf in start.items()}
    near = start if anchor is None else anchor
    for row in batches.plan(training, len(examples), seed):
        chosen = row[row >= 0]
        if not len(chosen):
            continue
        x, y = examples.features[chosen].astype(np.float64), examples.targets[chosen]
        error = 1 / (1 + np.exp(-(x @ v["weight"] + v["bias"])[:, 0])) - y
        gradient = {"weight": x.T @ error[:, None] / len(y), "bias": error.mean(keepdims=True)}
        v = {path: v[path] - RATE * (gradient[path] + penalty * (v[path] - near[path])) for path in v}
    return v


def assert_like(found, expected, tolerance=2e-6):
    assert found.keys() == expected.keys()
    for path, leaf in expected.items():
        np.testing.assert_allclose(found[path], leaf, rtol=0, atol=tolerance, err_msg=path)


def assert_same_bits(found, expected):
    assert found.keys() == expected.keys()
    for path, leaf in expected.items():
        assert found[path].tobytes() == np.asarray(leaf).tobytes(), path


def moved(start, trained):
    return {path: start[path] + leaf for path, leaf in trained.items()}


def distance(one, other):
    return sum(float(np.square(one[path] - other[path]).sum()) for path in other) ** 0.5


# Without a personal model, and fine-tuned


@pytest.mark.parametrize("chosen", [None, {"kind": "fine-tuning"}], ids=["none", "fine-tuning"])
def test_without_a_method_that_trains_along_an_order_is_plain_training_and_nothing_is_kept(
    hospitals, base, chosen
):
    spec = make_spec(personal=chosen)
    assert not spec.experiment.keeps_own
    trained = personal.carry_out(spec, base, {}, hospitals["cleveland"], seed=5)
    assert trained.own == {}
    assert_like(
        moved(base, trained.delta), loop(base, hospitals["cleveland"], spec.experiment.training, seed=5)
    )


@pytest.mark.parametrize("training", [{"epochs": 2}, {"epochs": None, "steps": 7}], ids=["epochs", "steps"])
def test_fine_tuning_is_so_many_epochs_of_gradient_descent_from_the_last_model(hospitals, base, training):
    spec = make_spec(training=training, personal={"kind": "fine-tuning", "epochs": 3})
    found = personal.finish(spec, base, {}, hospitals["hungarian"], seed=9)
    three = dataclasses.replace(spec.experiment.training, epochs=3, steps=None)
    assert_like(found, loop(base, hospitals["hungarian"], three, seed=9))


def test_fine_tuning_has_an_optimizer_of_its_own_if_it_names_one(hospitals, base):
    # Adam's first step has the length of its learning rate in every direction, whatever the gradient.
    tuning = {"kind": "fine-tuning", "epochs": 1, "optimizer": {"name": "adam", "learning_rate": 0.5}}
    spec = make_spec(training={"batch_size": 1000}, personal=tuning)
    found = personal.finish(spec, base, {}, hospitals["cleveland"], seed=9)
    for path, leaf in base.items():
        np.testing.assert_allclose(abs(found[path] - leaf), 0.5, rtol=1e-3, err_msg=path)


# Ditto


def test_ditto_trains_a_second_model_towards_the_orders_base_and_sends_the_same_delta(hospitals, base):
    examples, plain = hospitals["cleveland"], make_spec()
    spec = make_spec(personal={"kind": "ditto", "penalty": 0.7})
    own = {"weight": base["weight"] + 1, "bias": base["bias"] - 1}
    trained = personal.carry_out(spec, base, own, examples, seed=3)
    training = spec.experiment.training
    assert_like(trained.own, loop(own, examples, training, seed=3, penalty=0.7, anchor=base))
    assert_same_bits(trained.delta, personal.carry_out(plain, base, {}, examples, seed=3).delta)


def test_dittos_model_begins_as_the_base_of_the_sites_first_order(hospitals, base):
    spec = make_spec(personal={"kind": "ditto", "penalty": 0.7})
    trained = personal.carry_out(spec, base, {}, hospitals["cleveland"], seed=3)
    expected = loop(base, hospitals["cleveland"], spec.experiment.training, seed=3, penalty=0.7)
    assert_like(trained.own, expected)


def test_dittos_penalty_takes_the_place_of_fedproxs(hospitals, base):
    changes = {"personal": {"kind": "ditto", "penalty": 0.7}}
    trained = personal.carry_out(
        make_spec(training={"proximal": 0.4}, **changes), base, {}, hospitals["cleveland"], seed=3
    )
    training = make_spec().experiment.training
    mine, sent = (
        loop(base, hospitals["cleveland"], training, seed=3, penalty=penalty) for penalty in (0.7, 0.4)
    )
    assert_like(trained.own, mine)
    assert_like(moved(base, trained.delta), sent)


def orders_of_ditto(penalty, examples, bases):
    spec, own = make_spec(personal={"kind": "ditto", "penalty": penalty}), {}
    for seed, base in enumerate(bases):
        own = personal.carry_out(spec, base, own, examples, seed).own
    return own


def test_with_a_large_penalty_dittos_model_stays_at_the_base_and_with_none_it_trains_alone(hospitals, base):
    examples = hospitals["long-beach"]
    bases = [{path: leaf + shift for path, leaf in base.items()} for shift in (0.0, 0.5, 1.0)]
    # A step goes by rate * penalty to the base; beyond 1 / rate it would go too far, so this is the largest.
    near = orders_of_ditto(1 / RATE, examples, bases)
    assert distance(near, bases[-1]) < 0.15
    expected = base
    for seed in range(3):
        expected = loop(expected, examples, make_spec().experiment.training, seed)
    assert_like(orders_of_ditto(1e-12, examples, bases), expected, tolerance=5e-6)
    assert distance(orders_of_ditto(1.0, examples, bases), bases[-1]) < distance(expected, bases[-1])


def test_at_the_end_dittos_model_is_what_it_was_or_if_that_is_lost_trained_once_from_the_last(
    hospitals, base
):
    examples, spec = hospitals["cleveland"], make_spec(personal={"kind": "ditto", "penalty": 0.7})
    own = {"weight": base["weight"] + 1, "bias": base["bias"] - 1}
    assert_same_bits(personal.finish(spec, base, own, examples, seed=4), own)
    found = personal.finish(spec, base, {}, examples, seed=4)
    assert_like(found, loop(base, examples, spec.experiment.training, seed=4, penalty=0.7))


# Local layers


def test_own_layers_are_never_in_the_delta_bit_for_bit_and_go_on_from_where_they_were(hospitals, base):
    examples, spec = (
        hospitals["cleveland"],
        make_spec(personal={"kind": "local-layers", "layers": ["bias"]}),
    )
    own, expected = {}, base
    for seed in range(3):
        trained = personal.carry_out(spec, base, own, examples, seed)
        assert trained.delta["bias"].tobytes() == bytes(4)  # +0.0, not -0.0
        assert trained.delta["bias"].dtype == np.float32
        # The others' update is trained below the site's own bias, not below the global one.
        expected = loop({**base, "bias": expected["bias"]}, examples, spec.experiment.training, seed)
        assert_like(moved(base, {"weight": trained.delta["weight"]}), {"weight": expected["weight"]})
        assert_like(trained.own, {"bias": expected["bias"]})
        own = trained.own
    assert abs(own["bias"] - base["bias"]).item() > 0.01
    assert_same_bits(personal.finish(spec, base, own, examples, seed=4), {**base, **own})


def test_the_layers_of_a_network_stay_whole_and_no_other_with_them(hospitals):
    spec = make_spec(
        model={"kind": "mlp", "hidden": [8, 4]}, personal={"kind": "local-layers", "layers": ["layer1"]}
    )
    start = spec.model.init(np.random.default_rng(0), spec.schema.input_shape, 1)
    trained = personal.carry_out(spec, start, {}, hospitals["hungarian"], seed=1)
    mine = {path for path in start if path.startswith("layer1/")}
    assert len(mine) == 2 and trained.own.keys() == mine
    assert trained.delta.keys() == start.keys()
    for path, leaf in trained.delta.items():
        assert leaf.shape == start[path].shape
        assert leaf.any() == (path not in mine), path
    plain = personal.carry_out(make_spec(model=spec.experiment.model), start, {}, hospitals["hungarian"], 1)
    assert_same_bits(trained.own, {path: start[path] + plain.delta[path] for path in mine})


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        (["layer2", "layer7"], "the model has no layer 'layer7'; expected some of layer1, layer10, layer2"),
        (["layer"], "the model has no layer 'layer'"),
        (["layer1", "layer2", "layer10"], "and not all, or nothing is trained together"),
    ],
)
def test_layers_that_the_model_does_not_have_or_that_are_all_are_refused(layers, said):
    paths = ["layer1/weight", "layer1/bias", "layer10/weight", "layer2/weight"]
    with pytest.raises(ExperimentError, match=said):
        LocalLayers(layers=tuple(layers)).check(paths)


def test_a_layer_whose_name_begins_with_anothers_is_another():
    chosen = LocalLayers(layers=("layer1", "layer2/bias"))
    chosen.check(["layer1/weight", "layer10/weight", "layer2/weight", "layer2/bias"])
    assert chosen.keeps("layer1/weight") and chosen.keeps("layer2/bias")
    assert not chosen.keeps("layer10/weight") and not chosen.keeps("layer2/weight")


# The baselines


@pytest.mark.parametrize("training", [{}, {"proximal": 5.0}], ids=["plain", "fedprox"])
def test_alone_a_site_trains_as_many_orders_from_the_first_model_towards_nobody(hospitals, training):
    spec = make_spec(training=training, baselines=["alone"])
    expected = {"weight": np.zeros((13, 1)), "bias": np.zeros(1)}
    assert_same_bits(
        personal.alone(spec, hospitals["hungarian"], 0, seed=7),
        {path: leaf.astype(np.float32) for path, leaf in expected.items()},
    )
    for number in range(4):
        expected = loop(expected, hospitals["hungarian"], spec.experiment.training, seed=7 + number)
    assert_like(personal.alone(spec, hospitals["hungarian"], 4, seed=7), expected, tolerance=5e-6)


def test_pooled_is_one_training_on_all_examples_by_as_many_steps_as_the_sites_took(hospitals):
    spec = make_spec(training={"proximal": 5.0}, seed=11, baselines=["pooled"])
    orders = {"cleveland": 2, "hungarian": 1, "switzerland": 0, "long-beach": 3}
    steps = sum(2 * -(-len(hospitals[site]) // 8) * number for site, number in orders.items())
    together = Examples(
        features=np.concatenate([hospitals[site].features for site in SITES]),
        targets=np.concatenate([hospitals[site].targets for site in SITES]),
    )
    assert len(together) == 486  # FLamby's four training sets
    training = dataclasses.replace(spec.experiment.training, epochs=None, steps=steps)
    expected = loop({"weight": np.zeros((13, 1)), "bias": np.zeros(1)}, together, training, seed=11)
    assert_like(personal.pooled(spec, hospitals, orders), expected, tolerance=1e-5)


def test_pooled_is_the_first_model_if_nobody_has_trained(hospitals):
    found = personal.pooled(make_spec(baselines=["pooled"]), hospitals, dict.fromkeys(SITES, 0))
    assert not any(leaf.any() for leaf in found.values())


def test_the_baselines_begin_as_the_experiment_did(hospitals):
    spec = make_spec(model={"kind": "mlp", "hidden": [4]}, seed=21)
    first = spec.model.init(np.random.default_rng(21), spec.schema.input_shape, 1)
    assert_same_bits(personal.alone(spec, hospitals["cleveland"], 0, seed=1), first)
    assert_same_bits(personal.pooled(spec, hospitals, dict.fromkeys(SITES, 0)), first)


# All of them


@pytest.mark.parametrize(
    "chosen",
    [
        {"kind": "fine-tuning", "epochs": 1},
        {"kind": "ditto"},
        {"kind": "local-layers", "layers": ["bias"]},
    ],
    ids=lambda chosen: chosen["kind"],
)
def test_done_again_everything_is_the_same_bit_for_bit_and_what_was_given_is_unchanged(
    hospitals, base, chosen
):
    spec, examples = make_spec(personal=chosen), hospitals["long-beach"]
    given = {path: leaf.copy() for path, leaf in base.items()}
    own = {"bias": given["bias"] + 1} if chosen["kind"] == "local-layers" else {}
    one, again = (personal.carry_out(spec, given, own, examples, seed=3) for _ in range(2))
    assert_same_bits(one.delta, again.delta)
    assert_same_bits(one.own, again.own)
    assert one.loss == again.loss
    first, second = (personal.finish(spec, given, one.own, examples, seed=3) for _ in range(2))
    assert_same_bits(first, second)
    assert first.keys() == base.keys()
    assert all(type(leaf) is np.ndarray and leaf.dtype == np.float32 for leaf in first.values())
    assert_same_bits(given, base)
    other = personal.carry_out(spec, given, own, examples, seed=4)
    assert not np.array_equal(one.delta["weight"], other.delta["weight"])


def test_fine_tuning_with_another_optimizer_is_refused_where_that_has_no_step_for_l1():
    tuning = {"kind": "fine-tuning", "optimizer": {"name": "adam", "learning_rate": 0.1}}
    with pytest.raises(ValueError, match=r"personal.optimizer: training.l1 is for the training's own"):
        make_spec(training={"l1": 0.1}, personal=tuning)
