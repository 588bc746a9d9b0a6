import math

import numpy as np
import pytest

from workers import compression
from workers import params as trees
from workers.compression import BFloat16, Compressed, Float16, Int2, Int3, Int4, Int8, TopK


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


# Leaves that are still as they were sent

KINDS = [BFloat16(), Float16(), Int8(), Int8(rotation=True), Int4(), Int3(), Int2(), TopK(fraction=0.1)]


def compressed(kind, leaf):
    return Compressed(kind, compression.encode(kind, leaf, 1), leaf.shape, 1)


@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_the_norm_of_compressed_leaves_is_that_of_what_decoding_gives(kind):
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(2, 70_001)).astype(np.float32)  # more than a piece
    tree = {"w": compressed(kind, weight), "b": compressed(kind, weight[0, :3]), "c": weight[0, :500]}
    plain = {"w": tree["w"].decoded(), "b": weight[0, :3], "c": weight[0, :500]}
    exact = np.sqrt(sum(np.square(leaf.astype(np.float64)).sum() for leaf in plain.values()))
    assert trees.norm(tree) == pytest.approx(trees.norm(plain), rel=1e-12) == pytest.approx(exact, rel=1e-12)
    assert trees.norm({"w": tree["w"]}) == pytest.approx(trees.norm({"w": plain["w"]}), rel=1e-12)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != Float16()], ids=repr)
def test_the_norm_of_compressed_leaves_overflows_nowhere(kind):
    leaf = np.full(256, 1e18, np.float32)
    decoded = compressed(kind, leaf).decoded().astype(np.float64)
    assert trees.norm({"w": compressed(kind, leaf)}) == pytest.approx(np.linalg.norm(decoded), rel=1e-12)
    assert trees.norm({"w": compressed(kind, leaf)}) > 4e18


# A code of integers holds one more below than above, which an encoder does not write: it counts, too.
WITHIN = [
    (BFloat16(), 1.0),
    (TopK(), 1.0),
    (Int8(), 127 / 128),
    (Int4(), 7 / 8),
    (Int3(), 3 / 4),
    (Int2(), 1 / 2),
]


@pytest.mark.parametrize(("kind", "share"), WITHIN, ids=repr)
@pytest.mark.parametrize("size", [3, 300, 140_000])
def test_compressed_numbers_up_to_1e18_are_taken_and_a_larger_one_is_found_by_its_leaf(kind, share, size):
    share = share if size > 3 else 1.0  # a small leaf is as it is
    found = {}
    for name, times in (("in", 0.999), ("out", 1.01)):
        leaf = np.ones(size, np.float32)
        leaf[-2] = -1e18 * share * times
        found[name] = compressed(kind, leaf)
    assert trees.out_of_bounds({"w": found["in"], "b": np.ones(3, np.float32)}) is None
    assert trees.out_of_bounds({"w": found["in"], "b": found["out"], "c": found["in"]}) == "b"
    assert trees.out_of_bounds({"w": found["in"], "b": np.float32([2e18])}) == "b"


def test_whether_leaves_are_out_of_bounds_is_told_without_unpacking_them(monkeypatch):
    leaf = compressed(Int8(), np.ones(300, np.float32))
    monkeypatch.setattr(Int8, "pieces", None)
    assert trees.out_of_bounds({"w": leaf}) is None
