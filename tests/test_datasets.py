from typing import get_args

import numpy as np
import pytest

from workers import datasets
from workers.datasets import LOADERS
from workers.spec import TARGET_KINDS, DatasetName


def test_loaders_names_and_target_kinds_speak_of_the_same_data_sets():
    assert set(LOADERS) == set(get_args(DatasetName)) == set(TARGET_KINDS)


@pytest.mark.parametrize("name", LOADERS.keys())
def test_every_data_set_is_a_table_of_finite_numbers(name):
    dataset = datasets.load(name, 0)
    num_examples = len(dataset.targets)
    assert dataset.features.shape == (num_examples, len(dataset.feature_names))
    assert dataset.targets.shape == (num_examples,)
    assert dataset.features.dtype == dataset.targets.dtype == np.float64
    assert np.isfinite(dataset.features).all() and np.isfinite(dataset.targets).all()
    assert len(set(dataset.feature_names)) == len(dataset.feature_names)
    assert dataset.groups is None or dataset.groups.shape == (num_examples,)


@pytest.mark.parametrize(("name", "target_kind"), TARGET_KINDS.items())
def test_the_kind_of_target_is_right_for_the_targets(name, target_kind):
    dataset = datasets.load(name, 0)
    if target_kind == "regression":
        assert dataset.classes == ()
        assert len(set(dataset.targets)) > 100
    else:
        assert sorted(set(dataset.targets)) == list(range(len(dataset.classes)))
        assert (len(dataset.classes) == 2) == (target_kind == "binary")


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [
        ("breast-cancer", (569, 30), ("malignant", "benign")),
        ("diabetes", (442, 10), ()),
        ("digits", (1797, 64), tuple("0123456789")),
        ("iris", (150, 4), ("setosa", "versicolor", "virginica")),
        ("two-hospitals", (2000, 1), ()),
        ("wine", (178, 13), ("class_0", "class_1", "class_2")),
    ],
)
def test_data_sets_are_the_published_ones(name, shape, classes):
    dataset = datasets.load(name, 0)
    assert (dataset.features.shape, dataset.classes) == (shape, classes)


def test_the_seed_draws_the_two_hospitals_and_changes_nothing_else():
    for name in LOADERS:
        one, same, other = (datasets.load(name, seed) for seed in (1, 1, 2))
        np.testing.assert_array_equal(one.features, same.features)
        np.testing.assert_array_equal(one.targets, same.targets)
        assert np.array_equal(one.features, other.features) == (name != "two-hospitals")


@pytest.mark.parametrize(("group", "low", "high", "slope"), [(0, 0, 10, 3), (1, 5, 15, 4)])
def test_two_hospitals_follow_the_law_that_is_documented(group, low, high, slope):
    dataset = datasets.two_hospitals(seed=0)
    chosen = dataset.groups == group
    x, y = dataset.features[chosen, 0], dataset.targets[chosen]
    noise = y - slope * x
    assert chosen.sum() == 1000
    assert low <= x.min() < low + 0.2 and high - 0.2 < x.max() < high
    assert 0 <= noise.min() < 0.05 and 1.95 < noise.max() < 2
    # Means of 1,000 uniform draws: standard errors 0.09 and 0.02.
    assert x.mean() == pytest.approx((low + high) / 2, abs=0.4)
    assert noise.mean() == pytest.approx(1.0, abs=0.08)
    assert abs(np.corrcoef(x, noise)[0, 1]) < 0.1
