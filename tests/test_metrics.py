from typing import get_args

import pytest

from workers import metrics
from workers.metrics import LOWER_IS_BETTER, METRICS, MetricName
from workers.models import TargetKind


@pytest.mark.parametrize("metric", ["log_loss", "mse"])
def test_of_losses_the_lower_is_better(metric):
    assert metrics.is_better(metric, 0.1, than=0.2)
    assert not metrics.is_better(metric, 0.2, than=0.1)


@pytest.mark.parametrize("metric", ["accuracy", "auroc", "c_index", "r2"])
def test_of_all_others_the_higher_is_better(metric):
    assert metrics.is_better(metric, 0.2, than=0.1)
    assert not metrics.is_better(metric, 0.1, than=0.2)


@pytest.mark.parametrize("metric", get_args(MetricName))
def test_an_equal_value_is_not_better(metric):
    assert not metrics.is_better(metric, 0.5, than=0.5)


def test_every_kind_of_target_has_metrics_and_every_metric_a_kind_of_target():
    assert set(METRICS) == set(get_args(TargetKind))
    assert {name for names in METRICS.values() for name in names} == set(get_args(MetricName))
    assert set(LOWER_IS_BETTER) <= set(get_args(MetricName))
    assert {kind: names[0] for kind, names in METRICS.items()} == {
        "binary": "auroc",
        "multiclass": "accuracy",
        "regression": "mse",
        "survival": "c_index",
    }


def test_the_mean_over_sites_is_weighted_by_their_examples():
    # (30 * 0.9 + 10 * 0.5) / 40 = 0.8; (30 * 0.1 + 10 * 0.5) / 40 = 0.2
    measured = [(30, {"accuracy": 0.9, "log_loss": 0.1}), (10, {"accuracy": 0.5, "log_loss": 0.5})]
    assert metrics.weighted_mean(measured) == pytest.approx({"accuracy": 0.8, "log_loss": 0.2}, rel=1e-12)


def test_a_site_where_a_metric_is_not_defined_has_no_part_in_that_metrics_mean():
    measured = [(30, {"auroc": None, "accuracy": 1.0}), (10, {"auroc": 0.75, "accuracy": 0.0})]
    assert metrics.weighted_mean(measured) == {"auroc": 0.75, "accuracy": 0.75}


def test_a_metric_that_is_defined_nowhere_has_no_mean():
    assert metrics.weighted_mean([(3, {"auroc": None}), (5, {"auroc": None})]) == {"auroc": None}


def test_no_sites_have_no_metrics():
    assert metrics.weighted_mean([]) == {}


def test_a_value_of_zero_is_defined():
    assert metrics.weighted_mean([(1, {"r2": 0.0}), (1, {"r2": 1.0})]) == {"r2": 0.5}
