import math

import numpy as np
import pytest

from workers import params as trees


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ({}, 0.0),
        ({"w": np.zeros((0, 3), np.float32)}, 0.0),
        ({"w": np.float32([[3.0], [-4.0]])}, 5.0),
        ({"w": np.float32([1.0, -2.0]), "b": np.float32(2.0), "count": np.int64([4])}, 5.0),
        ({"w": np.full((3, 3), 1e18, np.float32)}, 3e18),  # whose squares float32 does not have
        ({"w": np.full(4, 1e18), "b": np.full(12, -1e18)}, 4e18),
        ({"w": np.full(16, 2**62, np.int64)}, 2.0**64),
        ({"w": np.full(10_000, 1e-30, np.float32)}, 1e-28),  # nor these
    ],
)
def test_the_norm_is_over_all_leaves_together_and_overflows_nowhere(tree, expected):
    assert trees.norm(tree) == pytest.approx(expected, rel=1e-6)


def test_a_million_small_numbers_add_up_in_float64():
    assert trees.norm({"w": np.full(1_000_000, 0.1, np.float32)}) == pytest.approx(100.0, rel=1e-7)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1.1e18])
def test_a_number_that_is_not_finite_or_too_large_is_found_by_its_leaf(number):
    tree = {"w": np.float32([1.0, 1e18]), "b": np.float32([0.0, number])}
    assert trees.out_of_bounds(tree) == "b"
    assert trees.out_of_bounds({"w": tree["w"]}) is None


@pytest.mark.parametrize("size", [0, 1, trees.BLOCK, trees.BLOCK + 1, 3 * trees.BLOCK + 7])
@pytest.mark.parametrize("shape", [(-1,), (1, -1), (-1, 1)])
def test_a_function_of_arrays_is_the_same_a_block_at_a_time(size, shape):
    rng = np.random.default_rng(size)
    x, y = (rng.normal(size=size).astype(np.float32).reshape(shape if size else (0,)) for _ in range(2))
    expected = x + np.float32(0.1) * y

    def added(x, y):
        return x + np.float32(0.1) * y

    np.testing.assert_array_equal(trees.blockwise(added, x, y), expected, strict=True)
    assert trees.blockwise(added, x, y, out=x) is x
    np.testing.assert_array_equal(x, expected)


def test_what_may_not_be_written_is_not_written():
    x = np.ones(3, np.float32)
    x.flags.writeable = False
    np.testing.assert_array_equal(trees.blockwise(np.negative, x, out=x), [-1, -1, -1])
    np.testing.assert_array_equal(trees.blockwise(np.negative, np.float32(2.0).reshape(())), -2)
