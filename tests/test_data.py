import dataclasses

import numpy as np
import pytest

from workers import data, datasets
from workers.data_settings import Data, Dirichlet, Layout, Natural, NumberTarget
from workers.datasets import LOADERS, Dataset
from workers.errors import DataError
from workers.models import LinearRegression, LogisticRegression
from workers.spec import Experiment, LocalTraining, Spec, Stop
from workers.strategies import FedAsync


def experiment_of(dataset="breast-cancer", sites=("a", "b", "c"), seed=3, **options):
    is_regression = dataset in ("diabetes", "two-hospitals")
    return Experiment(
        name="trial",
        seed=seed,
        sites=sites,
        data=Data(dataset=dataset, **options),
        model=LinearRegression() if is_regression else LogisticRegression(),
        training=LocalTraining(epochs=1),
        strategy=FedAsync(),
        stop=Stop(updates=1),
    )


def load_all(experiment):
    spec = Spec(experiment=experiment, schema=data.describe(experiment))
    return [data.load_site(spec, site) for site in experiment.sites]


def rows(*tables):
    return sorted(map(tuple, np.concatenate(tables).tolist()))


def with_targets(examples):
    return np.column_stack([examples.features, examples.targets])


SHARED_OUT = [
    experiment_of(partition=Dirichlet(alpha=1.0), standardize="none"),
    experiment_of("iris", standardize="none"),
    experiment_of("diabetes", sites=("a", "b"), standardize="none"),
    experiment_of("two-hospitals", sites=("a", "b"), partition=Natural(), standardize="none"),
]


@pytest.mark.parametrize("experiment", SHARED_OUT, ids=lambda experiment: experiment.data.dataset)
def test_every_example_is_trained_on_or_held_out_by_exactly_one_site(experiment):
    dataset = datasets.load(experiment.data.dataset, experiment.seed)
    whole = np.column_stack([dataset.features, dataset.targets]).astype(np.float32)
    sites = load_all(experiment)
    parts = [with_targets(examples) for site in sites for examples in (site.train, site.holdout)]
    assert rows(*parts) == rows(whole)


@pytest.mark.parametrize("experiment", SHARED_OUT, ids=lambda experiment: experiment.data.dataset)
def test_every_site_holds_out_its_share(experiment):
    for site in load_all(experiment):
        num_examples = len(site.train) + len(site.holdout)
        assert len(site.holdout) == pytest.approx(0.25 * num_examples, abs=1)
        assert len(site.train) == len(site.train.features) == len(site.train.targets)


def test_examples_are_float32_and_the_same_each_time_they_are_loaded():
    experiment = experiment_of(partition=Dirichlet())
    for one, same in zip(load_all(experiment), load_all(experiment), strict=True):
        for examples, again in ((one.train, same.train), (one.holdout, same.holdout)):
            assert examples.features.dtype == examples.targets.dtype == np.float32
            np.testing.assert_array_equal(examples.features, again.features)
            np.testing.assert_array_equal(examples.targets, again.targets)


def test_raw_examples_of_a_site_are_all_of_it_as_the_data_set_has_them():
    experiment = experiment_of("iris", standardize="none")
    site = load_all(experiment)[1]
    features, targets = data.load_raw(experiment, "b")
    assert features.dtype == np.float64
    np.testing.assert_array_equal(
        np.column_stack([features, targets]).astype(np.float32),
        np.concatenate([with_targets(site.train), with_targets(site.holdout)]),
    )


@pytest.mark.parametrize("name", ["breast-cancer", "diabetes", "iris", "wine"])
def test_pooled_standardization_gives_all_training_examples_together_mean_0_and_deviation_1(name):
    features = np.concatenate([site.train.features for site in load_all(experiment_of(name))])
    assert features.mean(axis=0, dtype=np.float64) == pytest.approx(np.zeros(features.shape[1]), abs=1e-6)
    assert features.std(axis=0, dtype=np.float64) == pytest.approx(np.ones(features.shape[1]), abs=1e-6)


def test_pooled_mean_and_scale_are_what_sums_over_sites_give():
    # What each site would send: its count, sum and sum of squares of what it trains on.
    experiment = experiment_of("wine", standardize="none")
    counted = [site.train.features.astype(np.float64) for site in load_all(experiment)]
    count = sum(len(features) for features in counted)
    mean = sum(features.sum(axis=0) for features in counted) / count
    square = sum((features**2).sum(axis=0) for features in counted) / count
    schema = data.describe(experiment_of("wine"))
    assert schema.preprocessing.fill == schema.preprocessing.shift == pytest.approx(mean, rel=1e-6)
    assert schema.preprocessing.scale == pytest.approx(np.sqrt(square - mean**2), rel=1e-4)


def made_of(features, num_classes=2):
    """A data set of that many classes, of these features; they stand for the whole world here."""
    return Dataset(
        features=features,
        targets=np.arange(len(features)) % num_classes * 1.0,
        feature_names=tuple(f"x{column}" for column in range(features.shape[1])),
        target_name="y",
        classes=tuple(f"class {label}" for label in range(num_classes)),
    )


def test_held_out_examples_do_not_enter_mean_and_scale(monkeypatch):
    features = np.arange(80.0)[:, None]  # each example's feature is its own number
    monkeypatch.setitem(LOADERS, "breast-cancer", lambda seed: made_of(features))
    data._whole_of.cache_clear()
    raw = load_all(experiment_of(sites=("a", "b"), standardize="none"))
    held_out = np.concatenate([site.holdout.features[:, 0] for site in raw]).astype(int)
    trained_on = np.concatenate([site.train.features[:, 0] for site in raw]).astype(int)
    before = data.describe(experiment_of(sites=("a", "b")))
    changed = features.copy()
    changed[held_out] += 1e6
    monkeypatch.setitem(LOADERS, "breast-cancer", lambda seed: made_of(changed))
    data._whole_of.cache_clear()
    assert data.describe(experiment_of(sites=("a", "b"))) == before
    changed[trained_on[0]] += 1.0
    after = data.describe(experiment_of(sites=("a", "b")))
    data._whole_of.cache_clear()
    assert after.preprocessing.shift[0] - before.preprocessing.shift[0] == pytest.approx(1 / 60, rel=1e-6)


def test_without_standardization_features_stay_as_they_are():
    schema = data.describe(experiment_of("iris", standardize="none"))
    assert (schema.preprocessing.shift, schema.preprocessing.scale) == ((0.0,) * 4, (1.0,) * 4)


def test_a_constant_feature_becomes_0():
    schema = data.describe(experiment_of("digits"))
    assert (schema.preprocessing.shift[0], schema.preprocessing.scale[0]) == (
        0.0,
        1.0,
    )  # the top left pixel is never inked
    for site in load_all(experiment_of("digits")):
        assert not site.train.features[:, 0].any()
        assert not site.holdout.features[:, 0].any()


def test_the_schema_says_what_the_examples_are():
    schema = data.describe(experiment_of("iris"))
    assert schema.features[0] == "sepal length (cm)" and len(schema.features) == 4
    assert (schema.target, schema.target_kind) == ("species", "multiclass")
    assert schema.classes == ("setosa", "versicolor", "virginica")
    assert schema.num_outputs == 3
    assert data.describe(experiment_of("breast-cancer")).num_outputs == 1
    assert data.describe(experiment_of("diabetes")).num_outputs == 1


def test_a_site_with_too_few_examples_is_named():
    with pytest.raises(DataError) as raised:
        data.describe(experiment_of("iris", sites=tuple(f"site{number}" for number in range(100))))
    assert str(raised.value).startswith("site site")
    assert "expected enough examples to train on and to hold out 0.25 of; got" in str(raised.value)


def test_a_partition_that_cannot_be_made_is_a_data_error():
    with pytest.raises(DataError, match="natural needs a data set with 3 groups"):
        data.describe(experiment_of("iris", partition=Natural()))


def test_a_feature_that_is_constant_but_for_rounding_becomes_0(monkeypatch):
    monkeypatch.setitem(LOADERS, "breast-cancer", lambda seed: made_of(np.full((80, 1), 0.1)))
    data._whole_of.cache_clear()
    assert data.describe(experiment_of(sites=("a", "b"))).preprocessing.scale == (1.0,)


def test_hospitals_that_are_called_by_their_names_have_their_own_examples_in_whatever_order():
    names = ("va", "cleveland", "switzerland", "hungarian")
    experiment = experiment_of("heart-disease", sites=names, holdout="given", standardize="local")
    sizes = {site: len(data.parts(experiment, site)[0]) for site in names}
    assert sizes == {"cleveland": 199, "hungarian": 172, "switzerland": 30, "va": 85}
    experiment = experiment_of("heart-disease", sites=("a", "b", "c", "d"), holdout="given")
    assert [len(data.parts(experiment, site)[0]) for site in experiment.sites] == [199, 172, 30, 85]


def test_a_site_that_a_trials_table_does_not_have_is_named(tmp_path):
    table = tmp_path / "trial.csv"
    table.write_text("x,y,hospital\n" + "1,2,North\n3,4,South\n" * 9 + "5,6,North\n")
    layout = Layout(features=("x",), target=NumberTarget(kind="regression", column="y"))
    told = Data(file=str(table), site_column="hospital", layout=layout)
    assert data.sites_of(told) == ("north", "south")
    assert data.sites_of(dataclasses.replace(told, min_examples=10)) == ("north",)
    assert data.num_sites_in(dataclasses.replace(told, min_examples=10)) == 2
    experiment = dataclasses.replace(experiment_of("diabetes", sites=("north", "east")), data=told)
    assert len(data.parts(experiment, "north")[0]) > 0
    with pytest.raises(
        DataError, match="site east: .*trial.csv has none of that name in its column hospital"
    ):
        data.parts(experiment, "east")
