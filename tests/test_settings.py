import copy
import dataclasses

import pytest
from pydantic import TypeAdapter, ValidationError

from workers.settings import explain, settings
from workers.spec import Experiment

EXPERIMENT = {
    "name": "trial",
    "sites": ["lakeside", "southpark"],
    "data": {"dataset": "breast-cancer"},
    "model": {"kind": "logistic-regression"},
    "training": {"epochs": 1},
    "strategy": {"kind": "fedasync"},
    "stop": {"updates": 5},
}
SGD = {"name": "sgd", "learning_rate": 0.1}


def explained(written):
    with pytest.raises(ValidationError) as raised:
        TypeAdapter(Experiment).validate_python(written)
    return explain(raised.value, written)


def changed(**parts):
    return copy.deepcopy(EXPERIMENT) | parts


@settings
class Point:
    """Two numbers."""

    x: int
    y: float = 0.5


def test_settings_are_frozen_keyword_only_comparable_and_hashable():
    point = Point(x=1)
    assert point == Point(x=1, y=0.5) != Point(x=2)
    assert hash(point) == hash(Point(x=1))
    assert dataclasses.replace(point, x=3) == Point(x=3)
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'x'"):
        point.x = 2
    with pytest.raises(ValidationError, match="positional argument"):
        Point(1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"x": "one"}, "x\n  Input should be a valid integer"),
        ({"x": 1, "y": float("inf")}, "y\n  Input should be a finite number"),
        ({"x": 1, "z": 2}, "z\n  Unexpected keyword argument"),
        ({}, "x\n  Field required"),
    ],
)
def test_settings_check_their_values(options, message):
    with pytest.raises(ValidationError, match=message):
        Point(**options)


def test_the_experiment_that_the_other_tests_spoil_is_right():
    assert TypeAdapter(Experiment).validate_python(EXPERIMENT).name == "trial"


@pytest.mark.parametrize(
    ("part", "written", "line"),
    [
        # One of several kinds that is not known, or not said.
        (
            "strategy",
            {"kind": "fedprox"},
            "strategy.kind: expected one of 'fedasync', 'fedbuff', 'fedavg', got 'fedprox'",
        ),
        ("strategy", {}, "strategy.kind: is missing"),
        (
            "strategy",
            {"kind": "fedasync", "staleness": {"kind": "linear"}},
            "strategy.staleness.kind: expected one of 'constant', 'polynomial', 'hinge', got 'linear'",
        ),
        (
            "training",
            {"epochs": 1, "optimizer": {"name": "lion", "learning_rate": 0.1}},
            "training.optimizer.name: expected one of 'sgd', 'adam', 'adamw', 'adagrad', 'yogi', 'rmsprop', "
            "got 'lion'",
        ),
        (
            "data",
            {"dataset": "mnist"},
            "data.dataset: expected one of 'breast-cancer', 'breastmnist', 'diabetes', 'digits', "
            "'heart-disease', 'iris', 'khan', 'pneumoniamnist', 'tcga-brca', 'two-hospitals', 'wine', or a "
            "layout of what the sites have; got 'mnist'",
        ),
        # A number that is out of its range, or none.
        (
            "strategy",
            {"kind": "fedasync", "mixing_rate": 1.5},
            "strategy.mixing_rate: should be less than or equal to 1, got 1.5",
        ),
        (
            "strategy",
            {"kind": "fedasync", "mixing_rate": "half"},
            "strategy.mixing_rate: should be a valid number, got 'half'",
        ),
        (
            "strategy",
            {"kind": "fedasync", "staleness": {"kind": "hinge", "b": -1}},
            "strategy.staleness.b: should be greater than or equal to 0, got -1",
        ),
        (
            "training",
            {"epochs": 1, "optimizer": SGD | {"learning_rate": float("nan")}},
            "training.optimizer.learning_rate: should be a finite number, got nan",
        ),
        (
            "training",
            {"epochs": 1, "batch_size": 0},
            "training.batch_size: should be greater than 0, got 0",
        ),
        ("model", {"kind": "mlp", "hidden": [8, 0]}, "model.hidden.1: should be greater than 0, got 0"),
        ("data", {"dataset": "iris", "holdout": 1.0}, "data.holdout: should be less than 1, got 1.0"),
        # A field that is not known.
        ("colour", "red", "colour: is not a field that is known here, got 'red'"),
        (
            "strategy",
            {"kind": "fedasync", "mixing": 0.5},
            "strategy.mixing: is not a field that is known here, got 0.5",
        ),
        (
            "training",
            {"epochs": 1, "optimizer": SGD | {"b1": 0.9}},
            "training.optimizer.b1: is not a field that is known here, got 0.9",
        ),
        # A field that is missing, or one of another kind.
        ("data", {}, "data.dataset: is missing; or say which file has the examples of all sites"),
        (
            "training",
            {"epochs": 1, "optimizer": {"name": "sgd"}},
            "training.optimizer.learning_rate: is missing",
        ),
        ("sites", "lakeside", "sites: should be a list, got 'lakeside'"),
        ("sites", [], "sites: expected at least one"),
        ("data", "iris", "data: should be a dictionary or an instance of Data, got 'iris'"),
        (
            "sites",
            ["lakeside", "South Park"],
            "sites.1: expected lower-case letters, digits and hyphens, at most 63, got 'South Park'",
        ),
        # Fields that do not fit together.
        (
            "training",
            {"epochs": 1, "steps": 2},
            "training: expected either epochs or steps, and not both",
        ),
        ("training", {}, "training: expected either epochs or steps, and not both"),
        ("stop", {}, "stop: expected at least one of updates, versions, seconds, target, patience"),
        ("sites", ["lakeside", "lakeside"], "sites: expected each name once, got lakeside again"),
        (
            "model",
            {"kind": "linear-regression"},
            "model.kind: linear-regression predicts regression targets, and those of "
            "data.dataset = breast-cancer are binary",
        ),
        (
            "data",
            {"dataset": "diabetes"},
            "model.kind: logistic-regression predicts binary or multiclass targets, and those of "
            "data.dataset = diabetes are regression",
        ),
        (
            "evaluation",
            {"metric": "f1"},
            "evaluation.metric: expected 'accuracy', 'auroc', 'c_index', 'log_loss', 'mse' or 'r2', got 'f1'",
        ),
        (
            "evaluation",
            {"metric": "mse"},
            "evaluation.metric: mse is not measured on binary targets; "
            "expected one of auroc, accuracy, log_loss",
        ),
        (
            "stop",
            {"target": {"metric": "r2", "value": 0.5}},
            "stop.target.metric: r2 is not measured on binary targets; "
            "expected one of auroc, accuracy, log_loss",
        ),
        (
            "seconds_per_order",
            {"lakeside": 1.0, "riverside": 2.0},
            "seconds_per_order: riverside is not a site; expected one of lakeside, southpark, default",
        ),
        # A number or a table.
        (
            "seconds_per_order",
            {"lakeside": -1},
            "seconds_per_order.lakeside: should be greater than or equal to 0, got -1",
        ),
        (
            "seconds_per_order",
            {"lakeside": {"distribution": "normal", "mean": 1.0}},
            "seconds_per_order.lakeside.distribution: expected 'exponential', 'half-normal' or 'uniform', "
            "got 'normal'",
        ),
        (
            "seconds_per_order",
            {"lakeside": {"distribution": "uniform"}},
            "seconds_per_order.lakeside.mean: is missing",
        ),
        (
            "seconds_per_order",
            {"lakeside": {"distribution": "uniform", "mean": 1.0, "std": 1.0}},
            "seconds_per_order.lakeside.std: is not a field that is known here, got 1.0",
        ),
    ],
)
def test_a_mistake_is_one_line_with_its_written_path_what_was_expected_and_what_was_found(
    part, written, line
):
    assert explained(changed(**{part: written})) == [line]


@pytest.mark.parametrize("part", sorted(EXPERIMENT.keys() - {"sites"}))  # which a trial's table may name
def test_a_part_that_is_missing_is_named(part):
    written = changed()
    del written[part]
    assert explained(written) == [f"{part}: is missing"]


def test_every_mistake_has_its_line():
    assert explained(changed(strategy={"kind": "x"}, training={"epochs": 0, "bach_size": 3}, colour=1)) == [
        "training.epochs: should be greater than 0, got 0",
        "training.bach_size: is not a field that is known here, got 3",
        "strategy.kind: expected one of 'fedasync', 'fedbuff', 'fedavg', got 'x'",
        "colour: is not a field that is known here, got 1",
    ]


def test_what_is_no_table_at_all_is_said_to_be_none():
    assert explained("trial") == ["should be a dictionary or an instance of Experiment, got 'trial'"]


def test_an_unknown_field_is_answered_with_those_that_are_known_at_its_place():
    written = changed(strategy={"kind": "fedasync", "staleness": {"kind": "hinge", "c": 1}}, colour=1)
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Experiment).validate_python(written)
    assert explain(caught.value, written, Experiment) == [
        "strategy.staleness.c: is not a field that is known here; expected one of kind, a, b, got 1",
        "colour: is not a field that is known here; expected one of name, seed, sites, data, model, "
        "training, strategy, compression, evaluation, stop, personal, baselines, seconds_per_order, got 1",
    ]


def test_a_number_that_python_does_not_write_is_told_all_the_same():
    written = changed(stop={"updates": 16**4000})
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Experiment).validate_python(written)
    (told,) = explain(caught.value, written, Experiment)
    assert told == "stop.updates: should be less than 9007199254740992, got a number of thousands of digits"
