import pytest
from pydantic import ValidationError

from workers.staleness import Constant, Hinge, Polynomial


@pytest.mark.parametrize("staleness", [0, 1, 5, 1000])
def test_constant_counts_every_update_in_full(staleness):
    assert Constant().weight(staleness) == 1.0


@pytest.mark.parametrize(
    ("a", "staleness", "weight"),
    [
        (0.5, 1, 2**-0.5),
        (0.5, 3, 0.5),
        (0.5, 99, 0.1),
        (1.0, 1, 0.5),
        (1.0, 9, 0.1),
        (2.0, 4, 0.04),
        (0.0, 7, 1.0),
    ],
)
def test_polynomial_is_one_plus_staleness_to_the_power_of_minus_a(a, staleness, weight):
    assert Polynomial(a=a).weight(staleness) == pytest.approx(weight, rel=1e-12)


@pytest.mark.parametrize(
    ("a", "b", "staleness", "weight"),
    [
        (10.0, 4, 4, 1.0),
        (10.0, 4, 5, 1 / 11),  # not 1 / 10: the paper's "+ 1" makes the hinge continuous
        (10.0, 4, 6, 1 / 21),
        (0.5, 0, 1, 1 / 1.5),
        (0.5, 0, 2, 0.5),
        (2.0, 1, 3, 0.2),
    ],
)
def test_hinge_falls_only_past_b_as_one_over_a_times_the_excess_plus_one(a, b, staleness, weight):
    assert Hinge(a=a, b=b).weight(staleness) == pytest.approx(weight, rel=1e-12)


@pytest.mark.parametrize(
    "rule", [Constant(), Polynomial(), Polynomial(a=3.0), Hinge(), Hinge(a=0.1, b=0), Hinge(a=100.0, b=0)]
)
def test_a_fresh_update_counts_in_full_and_none_counts_more_than_a_fresher_one(rule):
    weights = [rule.weight(staleness) for staleness in range(50)]
    assert weights[0] == 1.0
    assert weights == sorted(weights, reverse=True)
    assert weights[-1] > 0


def test_defaults_are_those_of_the_paper():
    assert Polynomial() == Polynomial(a=0.5)
    assert Hinge() == Hinge(a=10.0, b=4)


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        (Polynomial, {"a": -0.5}, "a\n  Input should be greater than or equal to 0"),
        (Polynomial, {"a": float("nan")}, "a\n  Input should be a finite number"),
        (Hinge, {"a": 0.0}, "a\n  Input should be greater than 0"),
        (Hinge, {"a": -1.0}, "a\n  Input should be greater than 0"),
        (Hinge, {"b": -1}, "b\n  Input should be greater than or equal to 0"),
        (Hinge, {"b": 1.5}, "b\n  Input should be a valid integer"),
        (Constant, {"a": 1.0}, "a\n  Unexpected keyword argument"),
        (Hinge, {"kind": "polynomial"}, "kind\n  Input should be 'hinge'"),
    ],
)
def test_bad_parameters_are_refused(rule, options, message):
    with pytest.raises(ValidationError, match=message):
        rule(**options)
