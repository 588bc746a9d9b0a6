import dataclasses
import inspect
from typing import get_args

import numpy as np
import optax
import pytest
from pydantic import TypeAdapter, ValidationError

from workers import optax_transforms
from workers.optimizers import Adam, Optimizer, RmsProp, Sgd

KINDS = get_args(get_args(Optimizer)[0])


def name_of(kind):
    return kind(learning_rate=0.1).name


def options_of(kind):
    return [field for field in dataclasses.fields(kind) if field.name != "name"]


def test_the_optimizers_are_the_six_that_are_documented():
    assert [name_of(kind) for kind in KINDS] == ["sgd", "adam", "adamw", "adagrad", "yogi", "rmsprop"]


@pytest.mark.parametrize("kind", KINDS, ids=name_of)
def test_every_option_is_one_of_optax_by_name(kind):
    accepted = inspect.signature(getattr(optax, name_of(kind))).parameters
    assert {field.name for field in options_of(kind)} <= accepted.keys()


@pytest.mark.parametrize("kind", KINDS, ids=name_of)
def test_every_default_is_that_of_optax(kind):
    accepted = inspect.signature(getattr(optax, name_of(kind))).parameters
    declared = {field.name: field.default for field in options_of(kind)}
    assert declared.pop("learning_rate") is dataclasses.MISSING  # a person chooses it
    assert declared == {name: accepted[name].default for name in declared}


@pytest.mark.parametrize("kind", KINDS, ids=name_of)
def test_every_optimizer_is_built_and_steps_against_the_gradient(kind):
    transform = optax_transforms.build(kind(learning_rate=0.1))
    params = {"w": np.zeros(2, np.float32)}
    updates, _ = transform.update({"w": np.float32([1, -2])}, transform.init(params), params)
    assert np.sign(updates["w"]).tolist() == [-1, 1]


def test_options_reach_optax():
    params, gradient = {"w": np.zeros(1, np.float32)}, {"w": np.ones(1, np.float32)}

    def second_step(optimizer):
        transform = optax_transforms.build(optimizer)
        _, state = transform.update(gradient, transform.init(params), params)
        return transform.update(gradient, state, params)[0]["w"].item()

    # -0.1 (1 + momentum); with nesterov -0.1 (1 + momentum + momentum²)
    assert second_step(Sgd(learning_rate=0.1)) == pytest.approx(-0.1, rel=1e-6)
    assert second_step(Sgd(learning_rate=0.1, momentum=0.5)) == pytest.approx(-0.15, rel=1e-6)
    assert second_step(Sgd(learning_rate=0.1, momentum=0.5, nesterov=True)) == pytest.approx(-0.175, rel=1e-6)


def test_the_name_chooses_the_optimizer():
    given = {"name": "rmsprop", "learning_rate": 0.01, "decay": 0.5}
    assert TypeAdapter(Optimizer).validate_python(given) == RmsProp(learning_rate=0.01, decay=0.5)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (Sgd, {}, "learning_rate\n  Field required"),
        (Sgd, {"learning_rate": 0}, "learning_rate\n  Input should be greater than 0"),
        (Sgd, {"learning_rate": float("inf")}, "learning_rate\n  Input should be a finite number"),
        (Sgd, {"learning_rate": 0.1, "momentum": 1.0}, "momentum\n  Input should be less than 1"),
        (Adam, {"learning_rate": 0.1, "b2": -0.1}, "b2\n  Input should be greater than or equal to 0"),
        (Adam, {"learning_rate": 0.1, "momentum": 0.9}, "momentum\n  Unexpected keyword argument"),
    ],
)
def test_bad_options_are_refused(kind, options, message):
    with pytest.raises(ValidationError, match=message):
        kind(**options)
