import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from orchestrator import experiment as experiment_file
from workers.compression import BFloat16, Float16, Int2, Int4, Int8, TopK
from workers.data_settings import TARGET_KINDS, Data
from workers.errors import ExperimentError
from workers.metrics import METRICS
from workers.models import (
    ConvolutionalNetwork,
    Cox,
    LinearRegression,
    LogisticRegression,
    MultilayerPerceptron,
    OwnModel,
)
from workers.optimizers import Adam, Sgd
from workers.schema import Schema
from workers.spec import (
    Delay,
    Evaluation,
    Experiment,
    LocalTraining,
    Spec,
    Stop,
    Target,
    Traffic,
)
from workers.standardization import Preprocessing
from workers.strategies import FedAsync, FedBuff


def experiment_of(**options):
    given = {
        "name": "trial",
        "sites": ("lakeside", "southpark"),
        "data": Data(dataset="breast-cancer"),
        "model": LogisticRegression(),
        "training": LocalTraining(epochs=1),
        "strategy": FedAsync(),
        "stop": Stop(updates=1),
    }
    return Experiment(**given | options)


# Delays


@pytest.mark.parametrize("distribution", ["exponential", "half-normal", "uniform"])
def test_a_delays_draws_have_the_mean_that_was_asked_for(distribution):
    delay = Delay(distribution=distribution, mean=2.5)
    draws = np.array([delay.draw(seed) for seed in range(10_000)])
    assert draws.min() >= 0
    # The standard error of the widest, the exponential, is 1 %.
    assert draws.mean() == pytest.approx(2.5, rel=0.03)


@pytest.mark.parametrize(
    ("distribution", "share"),
    [("exponential", np.exp(-2)), ("half-normal", 0.1105), ("uniform", 0.0)],
)
def test_a_delays_draws_spread_as_their_distribution_says(distribution, share):
    # How many are more than twice the mean: e^-2; 2 (1 - Φ(2 √(2/π))) = 0.1105; none.
    draws = np.array([Delay(distribution=distribution, mean=1.0).draw(seed) for seed in range(10_000)])
    assert (draws > 2.0).mean() == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("distribution", ["exponential", "half-normal", "uniform"])
def test_a_delay_is_drawn_from_its_seed_alone_and_scales_with_its_mean(distribution):
    one, same = (Delay(distribution=distribution, mean=1.0) for _ in range(2))
    assert one.draw(5) == same.draw(5) != one.draw(6)
    assert Delay(distribution=distribution, mean=3.0).draw(5) == pytest.approx(3 * one.draw(5), rel=1e-12)


def test_seconds_per_order_are_the_sites_own_else_the_default_else_none():
    delay = Delay(distribution="uniform", mean=1.0)
    table = {"distribution": "uniform", "mean": 1.0}
    experiment = experiment_of(
        sites=("a", "b", "c"), seconds_per_order={"default": 0.1, "b": 2.0, "c": table}
    )
    assert experiment.seconds_per_order["c"] == delay
    assert [experiment.delay(site, seed=7) for site in "abc"] == [0.1, 2.0, delay.draw(7)]
    assert experiment_of().delay("lakeside", seed=7) == 0.0


def test_a_site_can_be_given_no_delay_beside_a_default():
    experiment = experiment_of(seconds_per_order={"default": 0.5, "lakeside": 0})
    assert [experiment.delay(site, seed=1) for site in experiment.sites] == [0.0, 0.5]


def test_the_default_can_be_drawn_too():
    experiment = experiment_of(seconds_per_order={"default": Delay(distribution="exponential", mean=1.0)})
    assert experiment.delay("lakeside", seed=3) == experiment.delay("southpark", seed=3) > 0


# What fits together


@pytest.mark.parametrize(("dataset", "target_kind"), TARGET_KINDS.items())
@pytest.mark.parametrize("model", [LinearRegression(), LogisticRegression(), MultilayerPerceptron()])
def test_a_model_is_accepted_exactly_where_it_predicts_the_data_sets_kind_of_target(
    dataset, target_kind, model
):
    if target_kind in model.targets:
        experiment = experiment_of(data=Data(dataset=dataset), model=model)
        assert experiment.target_kind == target_kind
        assert experiment.watched_metric == METRICS[target_kind][0]
    else:
        with pytest.raises(ValidationError, match=f"model.kind: {model.kind} predicts .* are {target_kind}"):
            experiment_of(data=Data(dataset=dataset), model=model)


def test_the_watched_metric_is_the_one_asked_for():
    assert experiment_of(evaluation=Evaluation(metric="log_loss")).watched_metric == "log_loss"


@pytest.mark.parametrize(
    "options",
    [
        {"updates": 1},
        {"versions": 1},
        {"seconds": 0.5},
        {"target": Target(metric="auroc", value=0.0)},
        {"patience": 1},
    ],
)
def test_any_one_condition_is_enough_to_stop(options):
    assert experiment_of(stop=Stop(**options)).stop == Stop(**options)


def test_training_counts_epochs_or_steps():
    assert LocalTraining(epochs=2).steps is None
    assert LocalTraining(steps=2).epochs is None
    for both_or_neither in ({}, {"epochs": 1, "steps": 1}):
        with pytest.raises(ValidationError, match="expected either epochs or steps, and not both"):
            LocalTraining(**both_or_neither)


def test_local_training_is_hashable_so_that_a_compiled_function_can_have_it():
    one, same = (LocalTraining(optimizer=Adam(learning_rate=0.1), epochs=1) for _ in range(2))
    assert hash(one) == hash(same) and one == same


@pytest.mark.parametrize("name", ["a", "0", "site-1", "a" * 63])
def test_a_name_is_of_small_letters_digits_and_hyphens(name):
    assert experiment_of(name=name, sites=(name,)).sites == (name,)


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a b", "a/b", "a:b", "a\n", "é", "a" * 64])
def test_any_other_name_is_refused(name):
    for options in ({"name": name}, {"sites": (name,)}):
        with pytest.raises(ValidationError, match="String should"):
            experiment_of(**options)


def test_an_experiment_is_equal_to_itself_by_way_of_json():
    experiment = experiment_of(
        seconds_per_order={"default": Delay(distribution="half-normal", mean=0.5), "southpark": 1.0},
        evaluation=Evaluation(every=3, metric="accuracy"),
    )
    adapter = TypeAdapter(Experiment)
    assert adapter.validate_json(adapter.dump_json(experiment)) == experiment


# Schema


def schema_of(target_kind, classes=()):
    return Schema(
        features=("x", "y"),
        target="z",
        target_kind=target_kind,
        classes=classes,
        preprocessing=Preprocessing(fill=(1.0, -2.0), shift=(1.0, -2.0), scale=(2.0, 0.5)),
    )


@pytest.mark.parametrize(
    ("target_kind", "classes", "num_outputs"),
    [("regression", (), 1), ("binary", ("no", "yes"), 1), ("multiclass", ("a", "b", "c"), 3)],
)
def test_a_model_has_one_output_or_one_for_each_of_several_classes(target_kind, classes, num_outputs):
    assert schema_of(target_kind, classes).num_outputs == num_outputs


def test_features_are_standardized_by_mean_and_scale():
    standardized = schema_of("regression").prepared(np.array([[1.0, -2.0], [5.0, -1.0], [-1.0, -3.0]]))
    np.testing.assert_array_equal(standardized, np.float32([[0, 0], [2, 2], [-1, -2]]), strict=True)


def test_a_buffer_that_the_run_can_never_fill_is_refused():
    with pytest.raises(ValidationError, match="strategy.buffer_size: 50 updates never come together"):
        experiment_of(strategy=FedBuff(buffer_size=50), stop=Stop(updates=40))


# Training and models that do not go together


SURVIVAL = {"data": Data(dataset="tcga-brca"), "model": Cox()}
WINE = {"data": Data(dataset="wine")}


@pytest.mark.parametrize(
    ("options", "training", "message"),
    [
        (
            SURVIVAL,
            {"class_weights": "balanced"},
            "class_weights: is for classes, and the targets are survival",
        ),
        ({}, {"class_weights": (1.0, 2.0, 3.0)}, "class_weights: expected two numbers, got 3"),
        ({}, {"ties": "breslow"}, "ties: is for survival, and the targets are binary"),
        ({"model": OwnModel(function="a.b:c")}, {"l2": 0.1}, "l1 and l2 are for fedelta's own models"),
        ({"model": OwnModel(function="a.b:c", num_outputs=1)}, {}, "num_outputs: is not to be given"),
        (SURVIVAL | {"model": LogisticRegression()}, {}, "logistic-regression predicts binary or multiclass"),
        (
            {"model": Cox()},
            {},
            "cox predicts survival targets, and those of data.dataset = breast-cancer are binary",
        ),
    ],
)
def test_training_that_does_not_fit_the_target_or_the_model_is_refused(options, training, message):
    with pytest.raises(ValidationError, match=message):
        experiment_of(training=LocalTraining(epochs=1, **training), **options)


@pytest.mark.parametrize(
    ("options", "training"),
    [
        (SURVIVAL, {"ties": "breslow", "l2": 0.1}),
        (SURVIVAL | {"model": MultilayerPerceptron()}, {}),
        ({}, {"class_weights": "balanced", "l1": 0.1}),
        ({}, {"class_weights": (1.0, 2.0)}),
        (WINE, {"class_weights": "balanced"}),
        (WINE, {"class_weights": (1.0, 2.0, 3.0)}),
        ({"model": OwnModel(function="a.b:c")}, {"class_weights": "balanced"}),
    ],
)
def test_training_that_fits_the_target_and_the_model_is_accepted(options, training):
    experiment = experiment_of(training=LocalTraining(epochs=1, **training), **options)
    adapter = TypeAdapter(Experiment)
    assert adapter.validate_json(adapter.dump_json(experiment)) == experiment
    hash(experiment.training)


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": Adam(learning_rate=0.1)},
        {"optimizer": Sgd(learning_rate=0.1, momentum=0.9)},
        {"optimizer": Sgd(learning_rate=0.1), "clip_norm": 1.0},
    ],
)
def test_l1_is_for_steps_by_the_whole_gradient(options):
    with pytest.raises(ValidationError, match="l1: is for the optimizer sgd, without momentum and clip_norm"):
        LocalTraining(epochs=1, l1=0.1, **options)


def schema_with(*classes, size=None):
    kind = "multiclass" if len(classes) > 2 else "binary"
    return Schema(features=("x",), target="y", target_kind=kind, classes=classes, size=size)


def test_there_is_a_class_weight_for_each_class():
    experiment = experiment_of(training=LocalTraining(epochs=1, class_weights=(1.0, 2.0)), **WINE)
    with pytest.raises(ValidationError, match="class_weights: expected 3 numbers, for a, b, c; got 2"):
        Spec(experiment=experiment, schema=schema_with("a", "b", "c"))
    assert Spec(experiment=experiment, schema=schema_with("a", "b")).model == LogisticRegression()


def test_a_convolutional_network_is_for_images():
    experiment = experiment_of(model=ConvolutionalNetwork())
    with pytest.raises(ValidationError, match="model.kind: cnn is for images, and the examples are rows"):
        Spec(experiment=experiment, schema=schema_with("a", "b"))
    assert Spec(experiment=experiment, schema=schema_with("a", "b", size=(28, 28))).model == experiment.model


@pytest.mark.parametrize(("classes", "num_outputs"), [(("a", "b"), 1), (("a", "b", "c"), 3)])
def test_a_users_own_model_is_told_of_how_many_outputs_the_target_needs(classes, num_outputs):
    spec = Spec(experiment=experiment_of(model=OwnModel(function="a.b:c")), schema=schema_with(*classes))
    assert spec.model == OwnModel(function="a.b:c", num_outputs=num_outputs)


# Compression of what travels


@pytest.mark.parametrize(
    "traffic",
    [
        Traffic(),
        Traffic(up=Int8()),
        Traffic(up=Int4(block=64, rotation=True), down=BFloat16()),
        Traffic(up=Int2(block=1024, rotation=True), down=Int4()),
        Traffic(up=TopK(fraction=0.05), down=Int8(block=16)),
        Traffic(down=Float16()),
    ],
)
def test_an_experiment_with_compression_is_equal_to_itself_by_way_of_json_and_of_its_file(traffic):
    experiment = experiment_of(compression=traffic)
    adapter = TypeAdapter(Experiment)
    assert adapter.validate_json(adapter.dump_json(experiment)) == experiment
    assert experiment_file.parse(experiment_file.text(experiment), "mine.toml") == experiment


def test_nothing_is_compressed_unless_it_is_asked_for():
    assert experiment_of().compression == Traffic() == Traffic(up=None, down=None)
    assert not experiment_of().keeps_own


def test_a_site_keeps_what_its_top_k_has_left_out_and_nothing_of_any_other_kind():
    kept = [
        experiment_of(compression=Traffic(up=kind)).keeps_own
        for kind in (BFloat16(), Float16(), Int8(), Int4(), Int2(), TopK())
    ]
    assert kept == [False, False, False, False, False, True]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (
            'up = { kind = "int5" }',
            "compression.up.kind: expected one of 'bfloat16', 'float16', 'int8', 'int4', 'int3', 'int2', ",
        ),
        ("up = { fraction = 0.1 }", "compression.up.kind: is missing"),
        ('up = "int8"', "compression.up: "),
        ('sideways = { kind = "int8" }', "compression.sideways: is not a field that is known here"),
        (
            'down = { kind = "top-k" }',
            "compression.down: top-k is for deltas; a model has no values that can be left out",
        ),
        (
            'down = { kind = "int8", block = 100 }',
            "compression.down.block: expected a power of two from 16 to 65536, got 100",
        ),
        (
            'down = { kind = "differences", coding = { kind = "int4", block = 100 } }',
            "compression.down.coding.block: expected a power of two from 16 to 65536, got 100",
        ),
        (
            'down = { kind = "differences", coding = { kind = "differences" } }',
            "compression.down.coding.kind: expected one of 'bfloat16', 'float16', 'int8', ",
        ),
        (
            'down = { kind = "differences", block = 1024 }',
            "compression.down.block: is not a field that is known here; expected one of kind, coding",
        ),
        (
            'up = { kind = "differences" }',
            "compression.up.kind: expected one of 'bfloat16', 'float16', 'int8', 'int4', 'int3', 'int2', ",
        ),
        ('up = { kind = "int8", block = 8 }', "compression.up.block: expected a power of two from 16 to"),
        ('up = { kind = "int2", block = 96 }', "compression.up.block: expected a power of two from 16 to"),
        ('up = { kind = "int8", rotation = 2 }', "compression.up.rotation: should be a valid boolean"),
        ('up = { kind = "top-k", fraction = 1.0 }', "compression.up.fraction: should be less than 1, got 1"),
        ('up = { kind = "top-k", fraction = 0.0 }', "compression.up.fraction: should be greater than 0"),
        (
            'up = { kind = "bfloat16", block = 16 }',
            "compression.up.block: is not a field that is known here; expected one of kind",
        ),
    ],
)
def test_a_mistake_in_the_compression_is_named_with_its_field(written, said):
    text = experiment_file.text(experiment_of()).replace("[compression]", f"[compression]\n{written}")
    with pytest.raises(ExperimentError) as raised:
        experiment_file.parse(text, "mine.toml")
    (line,) = str(raised.value).splitlines()[1:]
    assert line.strip().startswith(said)
