import numpy as np
import pandas
import pytest
from lifelines.utils import concordance_index

from tests.conftest import REPOSITORY
from workers import scoring
from workers.metrics import METRICS


def logits(*probabilities):
    """One logit for each probability of class 1."""
    p = np.array(probabilities)
    return np.log(p / (1 - p))[:, None].astype(np.float32)


def test_binary_metrics_by_hand():
    measured = scoring.measure("binary", logits(0.75, 0.25, 0.75, 0.25), np.array([1.0, 0.0, 0.0, 1.0]))
    assert measured == pytest.approx(
        {
            "accuracy": 0.5,
            "auroc": 0.5,  # of the 4 pairs one is right, one wrong, two are ties
            "log_loss": (2 * np.log(4 / 3) + 2 * np.log(4)) / 4,
        },
        rel=1e-6,
    )


def test_auroc_is_the_share_of_pairs_in_the_right_order():
    # Positives 2 and 0, negatives 1 and -1: only (0, 1) is in the wrong order.
    outputs, targets = np.float32([[2], [1], [0], [-1]]), np.array([1.0, 0.0, 1.0, 0.0])
    assert scoring.measure("binary", outputs, targets)["auroc"] == 0.75
    assert scoring.measure("binary", outputs, 1 - targets)["auroc"] == 0.25


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_auroc_is_not_defined_where_there_is_one_class_and_the_rest_is(target):
    measured = scoring.measure("binary", logits(0.8, 0.8), np.full(2, target))
    assert measured["auroc"] is None
    assert measured["accuracy"] == target
    assert measured["log_loss"] == pytest.approx(-np.log(0.8 if target else 0.2), rel=1e-6)


def test_extreme_logits_give_finite_scores():
    measured = scoring.measure("binary", np.float32([[1000], [-1000]]), np.array([0.0, 1.0]))
    assert (measured["accuracy"], measured["auroc"]) == (0.0, 0.0)
    assert 10 < measured["log_loss"] < 1000


def test_multiclass_metrics_by_hand():
    outputs = np.log(np.array([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6], [0.1, 0.8, 0.1], [0.4, 0.3, 0.3]]))
    measured = scoring.measure("multiclass", outputs, np.array([0.0, 1.0, 1.0, 2.0]))
    assert measured == pytest.approx(
        {"accuracy": 0.5, "log_loss": -np.log([0.5, 0.2, 0.8, 0.3]).mean()}, rel=1e-12
    )


def test_a_class_that_nobody_here_has_does_no_harm():
    outputs = np.log(np.array([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]]))
    measured = scoring.measure("multiclass", outputs, np.array([0.0, 0.0]))
    assert measured == pytest.approx({"accuracy": 0.5, "log_loss": -np.log([0.5, 0.2]).mean()}, rel=1e-12)


def test_regression_metrics_by_hand():
    # Errors 0, 0, 2: mean square 4/3; around the mean 8/3 the targets' squares sum to 78/9.
    measured = scoring.measure("regression", np.float32([[1], [2], [3]]), np.array([1.0, 2.0, 5.0]))
    assert measured == pytest.approx({"mse": 4 / 3, "r2": 1 - 4 / (78 / 9)}, rel=1e-12)


@pytest.mark.parametrize("targets", [[2.0], [2.0, 2.0]])
def test_r2_is_not_defined_where_the_targets_do_not_vary(targets):
    outputs = np.ones((len(targets), 1), np.float32)
    assert scoring.measure("regression", outputs, np.array(targets)) == {"mse": 1.0, "r2": None}


@pytest.mark.parametrize(
    ("target_kind", "num_outputs"), [("binary", 1), ("multiclass", 2), ("regression", 1)]
)
def test_every_metric_of_the_kind_of_target_is_measured_as_a_plain_number(target_kind, num_outputs):
    outputs = np.random.default_rng(0).normal(size=(6, num_outputs)).astype(np.float32)
    measured = scoring.measure(target_kind, outputs, np.array([0.0, 1.0] * 3, np.float32))
    assert set(measured) == set(METRICS[target_kind])
    assert all(type(value) is float for value in measured.values())


def c_index(log_risk, times, events):
    outputs, targets = np.float32(log_risk)[:, None], np.stack([times, events], axis=1).astype(np.float32)
    return scoring.measure("survival", outputs, targets)["c_index"]


def test_the_c_index_by_hand():
    # Events at 1 (risk 2), 2 (risk 3) and 4 (risk 0), one lost at 3 (risk 2). Comparable are 1 with all,
    # and 2 with 3 and 4. (1, 4), (2, 3), (2, 4) are right, (1, 3) has equal risks, (1, 2) is wrong.
    assert c_index([2, 3, 2, 0], [1, 2, 3, 4], [1, 1, 0, 1]) == 3.5 / 5


def test_who_is_lost_to_sight_at_the_time_of_an_event_outlived_it_and_two_events_are_not_compared():
    assert c_index([1, 0], [5, 5], [1, 0]) == 1.0
    assert c_index([1, 0], [5, 5], [0, 1]) == 0.0
    assert c_index([1, 0], [5, 5], [1, 1]) is None


@pytest.mark.parametrize(("times", "events"), [([1, 2, 3], [0, 0, 0]), ([1, 2, 3], [0, 0, 1]), ([7], [1])])
def test_the_c_index_is_not_defined_without_comparable_pairs(times, events):
    assert c_index(np.zeros(len(times)), times, events) is None


@pytest.mark.parametrize("seed", range(5))
def test_the_c_index_is_lifelines_with_ties_in_times_and_risks(seed, monkeypatch):
    monkeypatch.setattr(scoring, "TABLE", 1000)  # a few events at a time
    rng = np.random.default_rng(seed)
    times, events = rng.integers(1, 30, 200), rng.random(200) < 0.5
    log_risk = np.round(rng.normal(size=200), 1)
    assert c_index(log_risk, times, events) == pytest.approx(concordance_index(times, -log_risk, events))


def test_the_c_index_on_breast_cancer_is_lifelines():
    table = pandas.read_csv(REPOSITORY.parent / "shared" / "data" / "tcga-brca" / "brca.csv")
    expected = concordance_index(table["T"], -table["age_at_index"], table["E"])
    assert c_index(table["age_at_index"], table["T"], table["E"]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("output", [np.nan, np.inf, 1e30])
def test_a_survival_model_that_has_diverged_has_no_c_index(output):
    assert c_index([output, 0], [1, 2], [1, 1]) is None


@pytest.mark.parametrize("kind", ["regression", "binary", "multiclass"])
@pytest.mark.parametrize("output", [np.nan, np.inf, 1e30])
def test_a_model_that_has_diverged_has_no_metrics(kind, output):
    outputs = np.array([[0.0, 1.0], [output, 0.0]])
    assert set(scoring.measure(kind, outputs, np.array([0.0, 1.0])).values()) == {None}
