import itertools
import math
import re
import subprocess
import sys
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from scipy.linalg import hadamard

from workers import compression
from workers.compression import (
    BFloat16,
    Compressed,
    Compression,
    Float16,
    Int2,
    Int3,
    Int4,
    Int8,
    TopK,
    integers,
)
from workers.compression.leaves import SMALL
from workers.compression.pieces import PIECE
from workers.compression.rotation import Rotation
from workers.compression.top_k import SAMPLE, STRETCH

thorough = settings(max_examples=100, deadline=None, derandomize=True)

KINDS = [
    BFloat16(),
    Float16(),
    Int8(),
    Int8(block=16, rotation=True),
    Int4(),
    Int4(block=64, rotation=True),
    Int3(),
    Int3(block=64, rotation=True),
    Int2(),
    Int2(block=64, rotation=True),
    TopK(),
    TopK(fraction=0.3),
]
QUANTIZED = [kind for kind in KINDS if isinstance(kind, integers.Quantization)]
SHAPES = [
    (),
    (0,),
    (3, 0),
    (1,),
    (63,),
    (64,),
    (65,),
    (66,),
    (67,),
    (7, 43),
    (16, 16),
    (PIECE,),
    (PIECE + 301,),
    (2, PIECE),
]
LEAVES = st.tuples(
    st.integers(0, 1200), st.integers(0, 2**32), st.sampled_from([1e-44, 1e-38, 1e-8, 1.0, 300.0, 1e29])
).map(lambda drawn: leaf_of(*drawn))


def leaf_of(size, seed=0, scale=1.0):
    """Values of which some are far larger than others, and some stretches are 0."""
    rng = np.random.default_rng(seed)
    values = rng.standard_t(3, size).clip(-10, 10) * scale
    values[rng.integers(0, size + 1) : rng.integers(0, size + 1)] = 0
    return values.astype(np.float32)


def round_trip(kind, leaf, seed=1):
    return compression.decode(kind, compression.encode(kind, leaf, seed), leaf.shape, seed)


def scales_of(kind, leaf, seed=1):
    """Of each value, as they were sent."""
    sent = compression.encode(kind, leaf, seed)[: 4 * math.ceil(leaf.size / kind.block)].view("<f4")
    return np.repeat(sent, kind.block)[: leaf.size].astype(np.float64)


# What every kind does


@pytest.mark.parametrize("kind", KINDS, ids=repr)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_leaf_of_any_shape_takes_the_bytes_that_were_said_and_comes_back_in_its_shape(kind, shape):
    leaf = leaf_of(math.prod(shape)).reshape(shape)
    data = compression.encode(kind, leaf, 1)
    assert (data.dtype, data.shape) == (np.uint8, (compression.num_bytes(kind, shape),))
    assert data.flags.c_contiguous
    decoded = compression.decode(kind, data, shape, 1)
    assert (decoded.dtype, decoded.shape) == (np.float32, shape)
    if leaf.size < SMALL:
        np.testing.assert_array_equal(decoded, leaf)
    elif isinstance(kind, Int2 | Int3):
        assert np.linalg.norm(decoded - leaf) < 0.6 * np.linalg.norm(scales_of(kind, leaf))
    elif not isinstance(kind, TopK):
        assert np.linalg.norm(decoded - leaf) < 0.4 * np.linalg.norm(leaf)


@pytest.mark.parametrize(
    ("kind", "num_bytes"),
    [
        (BFloat16(), 2000),
        (Float16(), 2000),
        (Int8(), 1000 + 4 * 4),
        (Int8(block=16), 1000 + 4 * 63),
        (Int4(), 500 + 4 * 4),
        (Int4(rotation=True), 500 + 4 * 4),
        (Int3(), 250 + 125 + 4 * 4),
        (Int2(), 250 + 4 * 4),
        (Int2(block=1024, rotation=True), 250 + 4),
        (TopK(), 4 + 4 * 10),
        (TopK(fraction=0.1), 4 + 4 * 100),
    ],
    ids=repr,
)
def test_the_bytes_of_a_thousand_values(kind, num_bytes):
    assert compression.num_bytes(kind, (10, 100)) == num_bytes


@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_leaves_below_64_values_are_sent_as_they_are_and_none_takes_more_than_that(kind):
    assert [compression.num_bytes(kind, (size,)) for size in (0, 1, 63)] == [0, 4, 252]
    assert all(compression.num_bytes(kind, (size,)) < 4 * size for size in range(64, 2000))


@pytest.mark.parametrize("kind", KINDS, ids=repr)
@given(leaf=LEAVES, weight=st.floats(-3, 3, width=32), seed=st.integers(0, 2**53))
@settings(thorough, max_examples=30)
def test_adding_and_measuring_agree_with_decoding(kind, leaf, weight, seed):
    if isinstance(kind, Float16):
        leaf = leaf.clip(-65504, 65504)
    data = compression.encode(kind, leaf, seed)
    np.testing.assert_array_equal(compression.encode(kind, leaf.copy(), seed), data)
    compressed = Compressed(kind, data, leaf.shape, seed)
    decoded = compression.decode(kind, data, leaf.shape, seed)
    np.testing.assert_array_equal(compressed.decoded(), decoded)
    exact = decoded.astype(np.float64)
    added = np.zeros_like(leaf)
    compressed.add_to(added, weight)
    # A rotated value is a sum of many, each at most `largest` / 16.
    atol = 2.0**-20 * abs(weight) * compressed.largest if getattr(kind, "rotation", False) else 2.0**-148
    np.testing.assert_allclose(added, weight * exact, rtol=2.0**-22, atol=atol)
    buffer = leaf_of(leaf.size, seed=2)
    expected = buffer + added
    compressed.add_to(buffer, weight)
    np.testing.assert_array_equal(buffer, expected)
    assert compressed.sum_of_squares() == pytest.approx(np.square(exact).sum(), rel=1e-12)


@pytest.mark.parametrize("kind", KINDS, ids=repr)
@given(leaf=LEAVES)
@settings(thorough, max_examples=30)
def test_no_value_is_larger_than_said(kind, leaf):
    if isinstance(kind, Float16):
        leaf = leaf.clip(-65504, 65504)
    compressed = Compressed(kind, compression.encode(kind, leaf, 1), leaf.shape, 1)
    largest = np.abs(compressed.decoded()).max(initial=0)
    if kind not in QUANTIZED or leaf.size < SMALL:
        assert compressed.largest == largest
    else:
        most = max(np.abs(leaf).max(), kind.levels * 2.0**-100) * (kind.levels + 1) / kind.levels
        growth = 256 if kind.rotation else 1 + 2.0**-20  # 16 as they are rotated, and 16 back
        assert largest <= compressed.largest <= growth * most


@pytest.mark.parametrize("kind", QUANTIZED, ids=repr)
@pytest.mark.parametrize("scale", [3, 1e-44])
def test_no_bytes_hold_a_value_larger_than_said(kind, scale):
    code = {Int8: 0x80, Int4: 0x88, Int3: 0xAA, Int2: 0xAA}[type(kind)]  # the most negative integers
    data = np.full(compression.num_bytes(kind, (256,)), code, np.uint8)
    if isinstance(kind, Int3):
        data[-256 // 8 :] = 0  # the bits that would be added
    data.view("<f4")[: 256 // kind.block] = scale
    compressed = Compressed(kind, data, (256,), 1)
    expected = np.float32(scale) * (kind.levels + 1) * (16 if kind.rotation else 1)
    assert compressed.largest == np.abs(compressed.decoded()).max() == expected


@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_pieces_are_added_where_they_belong(kind):
    leaf = leaf_of(2 * PIECE + 301).reshape(-1, 1)
    data = compression.encode(kind, leaf, 5)
    buffer = np.ones_like(leaf)
    Compressed(kind, data, leaf.shape, 5).add_to(buffer, 2.0)
    np.testing.assert_array_equal(buffer, 1 + 2 * compression.decode(kind, data, leaf.shape, 5))


@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_bytes_that_lie_anywhere_in_a_message_are_decoded_and_not_changed(kind):
    leaf = leaf_of(300)
    data = compression.encode(kind, leaf, 1)
    for where in (1, 2, 3):
        message = bytes(where) + data.tobytes()
        decoded = compression.decode(kind, memoryview(message)[where:], leaf.shape, 1)
        np.testing.assert_array_equal(decoded, compression.decode(kind, data, leaf.shape, 1))
        assert message == bytes(where) + data.tobytes()


@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_a_leaf_that_is_not_contiguous_is_encoded_in_its_own_order_and_not_changed(kind):
    leaf = leaf_of(400).reshape(20, 20)
    before = leaf.copy()
    np.testing.assert_array_equal(
        compression.encode(kind, leaf.T, 1), compression.encode(kind, leaf.T.copy(), 1)
    )
    np.testing.assert_array_equal(leaf, before)


@pytest.mark.parametrize("kind", KINDS, ids=repr)
@pytest.mark.parametrize("size", [10, 100, PIECE + 100])
def test_zeros_come_back_as_zeros(kind, size):
    assert not round_trip(kind, np.zeros(size, np.float32)).any()


@pytest.mark.parametrize("kind", KINDS, ids=repr)
@pytest.mark.parametrize("size", [10, 100, PIECE + 100])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, -2e30])
def test_a_value_that_cannot_be_sent_is_refused_and_its_place_is_told(kind, size, wrong):
    leaf = leaf_of(size)
    leaf[size - 3] = wrong
    with pytest.raises(
        ValueError, match=rf"value {size - 3}: expected a finite number up to .*, got -?[ni2]"
    ):
        compression.encode(kind, leaf, 1)


@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_anything_but_float32_is_refused(kind):
    with pytest.raises(ValueError, match="expected float32, got float64"):
        compression.encode(kind, np.zeros(100), 1)
    compressed = Compressed(kind, compression.encode(kind, np.zeros((10, 10), np.float32), 1), (10, 10), 1)
    for buffer in (np.zeros((10, 10)), np.zeros((10, 20), np.float32)[:, ::2], np.zeros(100, np.float32)):
        with pytest.raises(
            ValueError, match=r"expected a contiguous buffer of float32 \(10, 10\), got float"
        ):
            compressed.add_to(buffer, 1.0)


def test_importing_it_imports_neither_jax_nor_its_number_types():
    check = "import sys, workers.compression; print({'jax', 'ml_dtypes'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# bfloat16 and float16


def test_bfloat16_is_rounded_as_ml_dtypes_does():
    below, above = np.float32(-1e30).view(np.uint32), np.float32(1e30).view(np.uint32)
    ties = np.arange(0, above, 0x8000, np.uint32)  # every bfloat16 and every middle of two
    bits = np.concatenate([ties - 1, ties, ties + 1, np.arange(2**31, below, 99_991, np.uint32)])[1:]
    leaf = bits.view(np.float32)
    expected = leaf.astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(
        compression.encode(BFloat16(), leaf, 0).view("<u2"), expected.view(np.uint16)
    )
    np.testing.assert_array_equal(round_trip(BFloat16(), leaf), expected.astype(np.float32))


def test_float16_is_rounded_as_numpy_does():
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = np.sort(every[np.isfinite(every)]).astype(np.float32)
    leaf = np.concatenate([finite, (finite[1:] + finite[:-1]) / 2])
    np.testing.assert_array_equal(round_trip(Float16(), leaf), leaf.astype(np.float16).astype(np.float32))


@given(leaf=LEAVES)
@thorough
def test_the_error_of_bfloat16_and_float16_is_as_said(leaf):
    exact = leaf.astype(np.float64)
    errors = np.abs(round_trip(BFloat16(), leaf) - exact)
    assert (errors <= np.maximum(2.0**-8 * np.abs(exact), 2.0**-134)).all()
    exact = exact.clip(-65504, 65504)
    errors = np.abs(round_trip(Float16(), exact.astype(np.float32)) - exact)
    assert (errors <= np.maximum(2.0**-11 * np.abs(exact), 2.0**-25)).all()


def test_float16_refuses_what_it_cannot_hold():
    leaf = leaf_of(100)
    leaf[7] = 65504
    assert round_trip(Float16(), leaf)[7] == 65504
    leaf[7] = -65505
    with pytest.raises(ValueError, match="value 7: expected a finite number up to 65504, got -65505"):
        compression.encode(Float16(), leaf, 1)


# int8, int4, int3 and int2


@pytest.mark.parametrize(
    ("kind", "levels"),
    [(Int8(block=64), 127), (Int4(block=64), 7), (Int3(block=64), 3), (Int2(block=64), 1)],
    ids=repr,
)
def test_the_scale_is_the_largest_magnitude_over_the_levels(kind, levels):
    leaf = np.tile(np.arange(64, dtype=np.float32), 3)
    leaf[64:128] *= -2
    sent = compression.encode(kind, leaf, 1)[:12].view("<f4")
    np.testing.assert_allclose(sent, [63 / levels, 126 / levels, 63 / levels], rtol=1e-6)


def test_the_bytes_of_int8_are_scales_then_integers():
    leaf = np.zeros(65, np.float32)
    leaf[:3], leaf[64] = [127, -127, 0], -1
    data = compression.encode(Int8(block=64), leaf, 1)
    np.testing.assert_allclose(data[:8].view("<f4"), [1, 1 / 127], rtol=1e-6)
    codes = data[8:].view(np.int8)
    assert abs(codes[0] - 127) <= 1 and abs(codes[1] + 127) <= 1 and abs(codes[64] + 127) <= 1
    assert not codes[2:64].any()


def test_the_bytes_of_int4_are_scales_then_pairs_of_a_value_and_one_half_a_piece_after_it():
    data = np.concatenate([np.array([2, 10], "<f4").view(np.uint8), np.zeros(33, np.uint8)])
    data[8], data[39], data[40] = 0x71, 0xE0, 0xF8  # 1 and 7; -2; -8, and what nobody reads
    decoded = compression.decode(Int4(block=64), data, (65,), 1)
    assert {place: decoded[place] for place in np.flatnonzero(decoded)} == {0: 2, 33: 14, 64: -20, 32: -16}


def test_the_bytes_of_int4_are_those_of_the_nearest_integers():
    leaf = np.tile(np.arange(-7, 8, dtype=np.float32), 9)  # 135 values, 68 bytes
    data = compression.encode(Int4(block=256), leaf * (1 + 2.0**-15), 1)[4:].view(np.int8)
    integers = np.concatenate([(data << 4) >> 4, data[:67] >> 4])
    assert np.abs(integers - leaf).max() <= 1 and (integers == leaf).mean() > 0.9
    assert data[67] >> 4 == 0  # what nobody reads


def test_the_bytes_of_int2_are_scales_then_four_values_each_a_quarter_of_a_piece_after_the_one_before():
    data = np.concatenate([np.array([2, 10], "<f4").view(np.uint8), np.zeros(17, np.uint8)])
    data[8], data[9], data[21] = 0b01_11_00_01, 0b10_00_11_00, 0b01_00_00_00  # of values 0, 1 and 13
    data[24] = 0b11_01_11_01  # of 16, 33 and 50, and what nobody reads
    decoded = compression.decode(Int2(block=64), data, (65,), 1)
    expected = {0: 2, 34: -2, 51: 2, 18: -2, 52: -4, 64: 10, 16: 2, 33: -2, 50: 2}
    assert {place: decoded[place] for place in np.flatnonzero(decoded)} == expected


@pytest.mark.parametrize("size", [64, 65, 66, 67, PIECE, PIECE + 1, PIECE + 6, PIECE + 301])
def test_the_bytes_of_int2_are_those_of_whole_numbers_and_0_where_nobody_reads(size, monkeypatch):
    """Rounded to nearest, -1, 0 and 1 are themselves; the pattern has another value in every quarter."""

    def nearest(self, scaled, out):
        return np.add(scaled, np.float32(128.5), out=out, casting="unsafe")

    def used_before(*arguments):
        found = empty(*arguments)
        found.fill(255)
        return found

    empty = np.empty
    monkeypatch.setattr(np, "empty", used_before)
    monkeypatch.setattr(integers.Dither, "rounded", nearest)
    leaf = np.random.default_rng(size).integers(-1, 2, size).astype(np.float32)
    data = compression.encode(Int2(block=2**16), leaf, 1)[4 * math.ceil(size / 2**16) :]
    for begin in range(0, size, PIECE):
        piece = leaf[begin : begin + PIECE].astype(np.int64)
        codes = data[begin // 4 : begin // 4 + math.ceil(len(piece) / 4)].astype(np.int64)
        padded = np.concatenate([piece, np.zeros(4 * len(codes) - len(piece), np.int64)])
        quarters = padded.reshape(4, -1) & 3
        np.testing.assert_array_equal(codes, quarters.T @ [1, 4, 16, 64])
    np.testing.assert_allclose(round_trip(Int2(block=2**16), leaf), leaf, rtol=1e-6)


def test_the_bytes_of_int3_are_scales_then_halves_as_int2_has_integers_then_a_bit_for_each_value():
    data = np.concatenate([np.array([2, 10], "<f4").view(np.uint8), np.zeros(17 + 9, np.uint8)])
    data[8], data[24] = 0b01_11_00_01, 0b11_01_11_10  # halves of values 0, 34 and 51; of 16, 33, 50, nobody's
    data[25], data[27], data[33] = (
        0b1100_0000,
        0b1000_0000,
        0b1111_1111,
    )  # bits of 0, 1 and 16; of 64, nobody's
    decoded = compression.decode(Int3(block=64), data, (65,), 1)
    expected = {0: 6, 1: 2, 34: -4, 51: 4, 16: -6, 33: -4, 50: 4, 64: 10}
    assert {place: decoded[place] for place in np.flatnonzero(decoded)} == expected


@pytest.mark.parametrize("size", [64, 65, 66, 67, PIECE, PIECE + 1, PIECE + 6, PIECE + 301])
@pytest.mark.parametrize("kind", [Int8(block=2**16), Int4(block=2**16), Int3(block=2**16), Int2(block=2**16)])
def test_without_a_seed_an_integer_is_the_nearest_one(kind, size):
    rng = np.random.default_rng(size)
    integers = rng.integers(-kind.levels, kind.levels + 1, size)
    integers[:: kind.block] = kind.levels  # so that the scale is 1
    leaf = (integers + rng.uniform(-0.499, 0.499, size)).astype(np.float32)
    leaf[:: kind.block] = kind.levels
    leaf = leaf.clip(-kind.levels, kind.levels)
    np.testing.assert_allclose(round_trip(kind, leaf, None), integers, rtol=1e-6)


@pytest.mark.parametrize("kind", QUANTIZED, ids=repr)
@given(leaf=LEAVES)
@settings(thorough, max_examples=30)
def test_without_a_seed_no_error_is_larger_than_the_leaf(kind, leaf):
    """What error feedback asks for (EF21-P), and random rounding does not give, here of int2 least of all."""
    error = np.linalg.norm(round_trip(kind, leaf, None).astype(np.float64) - leaf)
    assert error <= np.linalg.norm(leaf.astype(np.float64)) * (1 + 2.0**-12) + 2.0**-90


def test_with_a_seed_the_error_of_int2_is_larger_than_the_leaf():
    leaf = np.random.default_rng(0).normal(size=10_000).astype(np.float32)
    errors = [np.linalg.norm(round_trip(Int2(), leaf, seed) - leaf) for seed in (1, None)]
    assert errors[0] > 1.1 * np.linalg.norm(leaf) > 1.1 * errors[1]


def test_int2_is_minus_a_scale_nothing_or_a_scale():
    leaf = leaf_of(PIECE + 301)
    for kind in (Int2(), Int2(block=16)):
        decoded, s = round_trip(kind, leaf), scales_of(kind, leaf).astype(np.float32)
        assert set(np.unique(decoded / s)) == {-1, 0, 1}
        assert (decoded * leaf >= 0).all()


@pytest.mark.parametrize(
    "kind", [Int8(), Int8(block=16), Int4(), Int4(block=64), Int3(), Int2(), Int2(block=16)], ids=repr
)
@given(leaf=LEAVES, seed=st.integers(0, 2**53))
@thorough
def test_the_error_of_integers_is_at_most_a_scale(kind, leaf, seed):
    if leaf.size < SMALL:
        return
    errors = np.abs(round_trip(kind, leaf, seed).astype(np.float64) - leaf)
    assert (errors <= scales_of(kind, leaf, seed) * (1 + 2.0**-15)).all()


@pytest.mark.parametrize("kind", [Int8(block=16), Int4(block=16), Int3(block=16), Int2(block=16)], ids=repr)
def test_no_rounding_of_float32_carries_the_largest_value_past_the_last_integer(kind, monkeypatch):
    """It would become the most negative one, once in 65536 times."""

    def rounded_up(self, scaled, out):
        return np.add(scaled, np.float32(129 - 2.0**-16), out=out, casting="unsafe")

    monkeypatch.setattr(integers.Dither, "rounded", rounded_up)
    largest = np.arange(2**23, 2**24, 37, np.uint32).astype(np.float32)  # 7 significands in 100,000 are hard
    leaf = largest.repeat(kind.block)
    for sign in (1, -1):
        assert (round_trip(kind, sign * leaf) * sign > 0).all()


@pytest.mark.parametrize("kind", QUANTIZED, ids=repr)
def test_decoding_is_right_on_average(kind):
    """Within Bernstein's bound for the mean of so many draws, of 301 values all at once, failing once in 1e9.

    Of a draw: its variance is at most s² / 4, and no error is larger than `span`. With rotation an error is a
    mean of errors with weights whose squares sum to 1, so at most their norm, 16 s.
    """
    leaf, num_draws = leaf_of(301, seed=3), 2000
    draws = [round_trip(kind, leaf, seed) for seed in range(num_draws)]
    s = np.array([scales_of(kind, leaf, seed) for seed in range(20 if kind.rotation else 1)]).max(axis=0)
    if kind.rotation:
        s = np.full(301, 1.5 * s.max())  # the scales differ from draw to draw
    span = 16 * s if kind.rotation else s
    log = math.log(2 * 301 / 1e-9) / num_draws
    bound = log * span / 3 + np.sqrt((log * span / 3) ** 2 + log * s**2 / 2) + 2.0**-15 * span
    errors = np.abs(np.mean(draws, axis=0, dtype=np.float64) - leaf)
    assert (errors <= bound).all()
    assert bound.max() < s.max() / 4  # or it would say little


@pytest.mark.parametrize("kind", [Int8(), Int4(), Int3(), Int2()], ids=repr)
def test_the_error_of_a_sum_over_pieces_varies_as_that_of_independent_errors(kind):
    """x / s has the fraction 1/2, so an error's variance is s² / 4, the largest that it can be.

    The variance of 300 such sums is that within 0.5, which is 6 standard deviations of (2 / 300)^½.
    """
    leaf = np.full(3 * PIECE, 0.5, np.float32)
    leaf[:: kind.block] = kind.levels
    sums = [float((round_trip(kind, leaf, seed) - leaf).sum(dtype=np.float64)) for seed in range(300)]
    assert 0.5 < np.var(sums) / (leaf.size / 4) < 1.5


def test_any_two_roundings_of_a_leaf_have_nothing_in_common():
    """Of two independent ones every 256th has the same upper, or lower, byte; 6 standard deviations."""
    drawn = np.zeros((2000, 2, 4), np.float32)  # seeds, pieces, values
    for seed, pieces in enumerate(drawn):
        dither = integers.Dither(seed, 4)
        for piece in pieces:
            dither.rounded(piece, out=np.empty(4, np.uint8))
    assert (np.abs(drawn.mean(axis=0) - 128.5) < 6 * math.sqrt(1 / 12 / 2000)).all()
    values = drawn.reshape(2000, 8).view(np.uint32).T
    for one, other in itertools.combinations(values, 2):
        for byte in (0xFF00, 0x00FF):
            assert np.mean((one ^ other) & byte == 0) < 1 / 256 + 6 * math.sqrt(1 / 256 / 2000)


def test_errors_differ_between_seeds():
    leaf = leaf_of(1000)
    assert (round_trip(Int8(), leaf, 1) != round_trip(Int8(), leaf, 2)).mean() > 0.2


# Rotation


def rotated(leaf, seed):
    rotated = leaf.copy()
    Rotation(seed, leaf.size).rotate(rotated)
    return rotated


def signs_of(seed):
    return np.array([rotated(unit, seed)[0] for unit in np.eye(256, dtype=np.float32)]) * 16


def test_the_rotation_is_hadamards_matrix_times_random_signs():
    signs = signs_of(9)
    assert set(signs) == {-1, 1} and abs(signs.sum()) < 96  # 6 standard deviations
    columns = np.array([rotated(unit, 9) for unit in np.eye(256, dtype=np.float32)])
    np.testing.assert_array_equal(columns.T, hadamard(256) * signs / 16)


def test_what_is_left_over_of_blocks_of_256_is_rotated_in_smaller_ones():
    leaf = leaf_of(1024 + 128 + 48 + 12 + 3)
    found, begin = rotated(leaf, 9), 0
    for size, end in ((256, 1024), (64, 1152), (16, 1200), (4, 1212)):
        blocks = leaf[begin:end].reshape(-1, size) * signs_of(9)[:size] / math.sqrt(size)
        np.testing.assert_allclose(found[begin:end], (blocks @ hadamard(size)).ravel(), atol=1e-5)
        begin = end
    np.testing.assert_array_equal(found[begin:], leaf[begin:])


@pytest.mark.parametrize("size", [64, 255, 256, 257, 301, 1023, PIECE - 1])
def test_the_rotation_keeps_lengths_and_is_undone(size):
    leaf = leaf_of(size)
    found = rotated(leaf, 4)
    assert np.linalg.norm(found - leaf) > np.linalg.norm(leaf) / 2
    assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(leaf), rel=1e-5)
    Rotation(4, size).rotate_back(found)
    np.testing.assert_allclose(found, leaf, atol=1e-5)


def test_the_rotation_makes_int4_far_better_where_few_values_are_large():
    leaf = np.random.default_rng(0).normal(size=2**14).astype(np.float32)
    leaf[::256] = 100
    errors = [np.linalg.norm(round_trip(Int4(rotation=rotation), leaf) - leaf) for rotation in (False, True)]
    assert errors[1] < errors[0] / 2


@pytest.mark.parametrize("kind", QUANTIZED, ids=repr)
def test_the_largest_values_are_sent_however_they_are_rotated(kind):
    leaf = signs_of(1).astype(np.float32) * np.float32(1e30)  # all of it is in one value when it is rotated
    assert np.abs(round_trip(kind, leaf) - leaf).max() < 1e30 / 127


def test_a_rotated_leaf_needs_the_seed_with_which_it_was_encoded():
    leaf = leaf_of(512)
    data = compression.encode(Int8(rotation=True), leaf, 1)
    assert np.linalg.norm(compression.decode(Int8(rotation=True), data, (512,), 2) - leaf) > 1
    assert np.linalg.norm(compression.decode(Int8(rotation=True), data, (512,), 1) - leaf) < 0.5


# top-k


def test_top_k_keeps_the_largest_and_of_equal_ones_the_first():
    leaf = np.zeros(100, np.float32)
    leaf[[5, 10, 20, 30, 40, 50]] = [1, -3, 2, -2, 2, 2]
    expected = np.where(np.isin(np.arange(100), [10, 20, 30]), leaf, 0)
    np.testing.assert_array_equal(round_trip(TopK(fraction=0.03), leaf), expected)


def test_the_bytes_of_top_k_are_counts_then_places_then_values():
    leaf = np.zeros(2 * STRETCH + 10, np.float32)
    leaf[[3, STRETCH + 2, 2 * STRETCH + 1, 2 * STRETCH + 9]] = [1, -1, 2, 1]
    data = compression.encode(TopK(fraction=4 / leaf.size), leaf, 1)
    assert data[:12].view("<u4").tolist() == [1, 1, 2]
    assert data[12:20].view("<u2").tolist() == [3, 2, 1, 9]
    assert data[20:].tobytes().hex() == "803f" + "80bf" + "0040" + "803f"


@pytest.mark.parametrize("fraction", [1e-9, 0.01, 0.5, 1 - 1e-9])
@given(leaf=LEAVES)
@thorough
def test_top_k_contracts_as_its_analysis_asks(fraction, leaf):
    if leaf.size < SMALL:
        return
    exact = leaf.astype(np.float64)
    kept = max(1, round(fraction * leaf.size))
    left = np.sum((round_trip(TopK(fraction=fraction), leaf) - exact) ** 2)
    bound = (1 - (1 - 2.0**-16) * kept / leaf.size) * np.sum(exact**2)
    assert left <= bound * (1 + 1e-12) + leaf.size * 2.0**-268  # what float32 holds with fewer bits


@given(leaf=LEAVES)
@thorough
def test_top_k_keeps_as_much_as_any_choice_of_so_many(leaf):
    if leaf.size < SMALL:
        return
    decoded = round_trip(TopK(fraction=0.1), leaf)
    kept = round(0.1 * leaf.size)
    largest = np.sort(np.abs(leaf))[-kept:].astype(np.float64)
    found = np.sort(np.abs(decoded))[-kept:]
    np.testing.assert_allclose(found, largest, rtol=2.0**-8, atol=2.0**-133)


@pytest.mark.parametrize("sampled", [1000, 1, 0, 1e27], ids=["larger", "as large", "smaller", "far larger"])
@pytest.mark.parametrize("fraction", [1e-6, 0.01, 0.6])
def test_top_k_keeps_the_largest_whatever_a_sample_says_of_them(sampled, fraction):
    """Every fourth value is in the sample."""
    leaf = np.random.default_rng(0).integers(-400, 401, 4 * SAMPLE - 2).astype(np.float32)
    leaf[::4] *= sampled
    order = np.lexsort((np.arange(leaf.size), -np.abs(leaf)))  # of equal ones the first
    expected = np.zeros_like(leaf)
    kept = order[: max(1, round(fraction * leaf.size))]
    expected[kept] = round_trip(BFloat16(), leaf)[kept]
    np.testing.assert_array_equal(round_trip(TopK(fraction=fraction), leaf), expected)


def test_with_feedback_nothing_is_left_out_for_long():
    """Of the same delta x again and again, what was sent differs from what was to be sent by the residual.

    Its norm stays below q / (1 - q) ||x||, with q² the contraction's factor: ||e'|| <= q (||x|| + ||e||).
    """
    kind, x = TopK(fraction=0.05), leaf_of(400, seed=3).reshape(20, 20)
    residual, sent = np.zeros_like(x), np.zeros((20, 20))
    for count in range(1, 201):
        decoded = round_trip(kind, x + residual, count)
        residual = x + residual - decoded
        sent += decoded
        np.testing.assert_allclose(sent + residual, count * x.astype(np.float64), rtol=1e-4, atol=1e-4)
        q = math.sqrt(1 - (1 - 2.0**-16) * 0.05)
        assert np.linalg.norm(residual) <= q / (1 - q) * np.linalg.norm(x)
    assert np.linalg.norm(sent / 200 - x) < 0.1 * np.linalg.norm(x)


def test_only_top_k_needs_feedback():
    assert {kind.kind for kind in KINDS if kind.needs_feedback} == {"top-k"}


# What a hostile sender may write


@pytest.mark.parametrize("kind", KINDS, ids=repr)
@pytest.mark.parametrize("size", [10, 100])
def test_bytes_of_another_number_are_refused(kind, size):
    data = compression.encode(kind, leaf_of(size), 1).tobytes()
    for wrong in (b"", data[:-1], data + b"\0"):
        told = rf"expected {len(data)} bytes of {kind.kind if size == 100 else 'raw'} for \({size},\), got "
        with pytest.raises(ValueError, match=told + str(len(wrong))):
            compression.decode(kind, wrong, (size,), 1)


def assert_refused(kind, data, size, told):
    """Before there is anything that could be decoded or added."""
    for read in (Compressed, compression.decode):
        with pytest.raises(ValueError, match=told):
            read(kind, data, (size,), 1)


@pytest.mark.parametrize("kind", QUANTIZED, ids=repr)
@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf, -1, -1e-45, 2])
def test_a_scale_that_no_encoder_makes_is_refused(kind, scale):
    most = "1.6e+31" if kind.rotation else "1e+30"
    data = compression.encode(kind, leaf_of(2 * PIECE), 1)
    last = 2 * PIECE // kind.block - 1
    data.view("<f4")[last] = scale * float(most) if scale == 2 else scale
    assert_refused(kind, data, 2 * PIECE, f"scale of block {last}: expected 0 to {re.escape(most)}, got ")


@pytest.mark.parametrize(("kind", "infinity"), [(BFloat16(), 0x7F80), (Float16(), 0x7C00)], ids=repr)
@pytest.mark.parametrize("more", [0, 1, 0x8000])
@pytest.mark.parametrize("others", [1, -1])
def test_a_half_that_is_not_finite_is_refused(kind, infinity, more, others):
    data = compression.encode(kind, others * np.abs(leaf_of(2 * PIECE)), 1)
    data.view("<u2")[2 * PIECE - 2] = infinity + more
    assert_refused(kind, data, 2 * PIECE, f"value {2 * PIECE - 2} is not finite")


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_small_leaf_that_is_not_finite_is_refused(wrong):
    data = np.array([0, 1, wrong], "<f4").tobytes()
    assert_refused(Int8(), data, 3, "value 2 is not finite")


def top_k_bytes(counts, places, halves):
    parts = np.array(counts, "<u4"), np.array(places, "<u2"), np.array(halves, "<u2")
    return b"".join(part.tobytes() for part in parts)


@pytest.mark.parametrize(
    ("counts", "places", "halves", "told"),
    [
        ([2, 2], [0, 1, 0, 1], [0, 0, 0, 0x7F80], "value 3 is not finite"),
        ([2, 2], [0, 1, 0, 1], [0xFFFF, 0, 0, 0], "value 0 is not finite"),
        ([2, 2], [5, 5, 0, 1], [0] * 4, "expected places that increase, got 5 and then 5"),
        ([2, 2], [5, 6, 9, 8], [0] * 4, "expected places that increase, got 65545 and then 65544"),
        ([2, 2], [5, 6, 8, 10], [0] * 4, "expected places below 65546, got 65546"),
        ([2, 2], [5, 6, 8, 65535], [0] * 4, "expected places below 65546, got 131071"),
        ([2, 1], [0, 1, 0, 1], [0] * 4, "expected 4 values kept, got 3"),
        ([2**32 - 1, 5], [0, 1, 0, 1], [0] * 4, "expected 4 values kept, got 4294967300"),
    ],
)
def test_what_no_encoder_of_top_k_makes_is_refused(counts, places, halves, told):
    kind = TopK(fraction=4 / (STRETCH + 10))
    right = top_k_bytes([2, 2], [0, 1, 0, 9], [0] * 4)
    assert not compression.decode(kind, right, (STRETCH + 10,), 1).any()
    assert_refused(kind, top_k_bytes(counts, places, halves), STRETCH + 10, told)


@pytest.mark.parametrize("kind", KINDS, ids=repr)
@given(data=st.data())
@thorough
def test_arbitrary_bytes_are_refused_or_are_finite_values(kind, data):
    size = data.draw(st.integers(0, 300))
    number = compression.num_bytes(kind, (size,))
    written = data.draw(st.binary(min_size=number, max_size=number))
    try:
        compressed = Compressed(kind, written, (size,), 1)
    except ValueError:
        return
    decoded, added = compressed.decoded(), np.zeros(size, np.float32)
    compressed.add_to(added, -1.0)
    np.testing.assert_array_equal(added, -decoded)
    assert np.isfinite(decoded).all() and np.abs(decoded).max(initial=0) <= compressed.largest


@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_adding_takes_little_memory_besides_the_buffer(kind):
    buffer = leaf_of(32 * PIECE)
    data = compression.encode(kind, buffer, 1)
    tracemalloc.start()
    try:
        Compressed(kind, data, buffer.shape, 1).add_to(buffer, 1.0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Pieces and scales; of top-k, what was kept is there at once.
    assert peak < (40 * round(kind.fraction * buffer.size) if isinstance(kind, TopK) else buffer.nbytes / 8)


# Settings


def parsed(given):
    return TypeAdapter(Compression).validate_python(given)


def test_kinds_are_chosen_by_name():
    assert parsed({"kind": "int8"}) == Int8(block=256, rotation=False)
    assert parsed({"kind": "int4", "block": 64, "rotation": True}) == Int4(block=64, rotation=True)
    assert parsed({"kind": "int3", "block": 512}) == Int3(block=512, rotation=False)
    assert parsed({"kind": "int2", "block": 1024}) == Int2(block=1024, rotation=False)
    assert [parsed({"kind": name}) for name in ("bfloat16", "float16")] == [BFloat16(), Float16()]
    assert parsed({"kind": "top-k"}) == TopK(fraction=0.01)
    assert all(one != other for one, other in itertools.combinations(KINDS, 2))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"kind": "raw"}, "does not match any of the expected tags"),
        ({"kind": "int8", "block": 100}, "expected a power of two from 16 to 65536"),
        ({"kind": "int8", "block": 8}, "expected a power of two from 16 to 65536"),
        ({"kind": "int4", "block": 2**17}, "expected a power of two from 16 to 65536"),
        ({"kind": "int8", "levels": 3}, "Unexpected keyword argument"),
        ({"kind": "int2", "bits": 3}, "Unexpected keyword argument"),
        ({"kind": "top-k", "fraction": 0}, "greater than 0"),
        ({"kind": "top-k", "fraction": 1.0}, "less than 1"),
        ({"kind": "bfloat16", "block": 256}, "Unexpected keyword argument"),
    ],
)
def test_bad_settings_are_refused(given, told):
    with pytest.raises(ValidationError, match=told):
        parsed(given)
