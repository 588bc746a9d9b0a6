"""A leaf's values to bytes and back, and into a sum."""

import math
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import numpy as np

from workers.compression.floats import Raw
from workers.compression.kinds import Compression
from workers.compression.pieces import Coding, Piece

Shape: TypeAlias = tuple[int, ...]
Data: TypeAlias = bytes | memoryview | np.ndarray

SMALL = 64  # values: below it a leaf is sent as it is, since a bias costs little and counts for much


class Extent(NamedTuple):
    """How large a leaf's values are."""

    largest: float  # magnitude
    sum_of_squares: float


def num_bytes(compression: Compression, shape: Shape) -> int:
    """Bytes that a leaf of this shape takes, whatever its values are."""
    return _coding(compression, shape).num_bytes(math.prod(shape))


def encode(compression: Compression, leaf: np.ndarray, seed: int) -> np.ndarray:
    """The leaf as bytes, uint8 `(num_bytes,)`; the same leaf and seed give the same bytes.

    Raises:
        ValueError: it is not float32, or one of its values is not finite or too large.
    """
    if leaf.dtype != np.float32:
        raise ValueError(f"expected float32, got {leaf.dtype}")
    return _coding(compression, leaf.shape).encode(np.ascontiguousarray(leaf).reshape(-1), seed)


def encode_with_feedback(
    compression: Compression, leaf: np.ndarray, residual: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The bytes of leaf plus residual, and the next residual: e <- (x + e) - C(x + e).

    Karimireddy et al. 2019, arXiv 1901.09847, algorithm 2, without its learning rate, which is in the delta
    already. The first residual is 0. Neither argument is changed.

    Raises:
        ValueError: as `encode` does, or the residual is not like the leaf.
    """
    if (residual.shape, residual.dtype) != (leaf.shape, leaf.dtype):
        raise ValueError(
            f"expected a residual of {leaf.dtype} {leaf.shape}, got {residual.dtype} {residual.shape}"
        )
    left = np.ascontiguousarray(leaf + residual).reshape(leaf.shape)
    data = encode(compression, left, seed)
    values = left.reshape(-1)
    for place, piece in _pieces(compression, data, leaf.shape, seed):
        values[place] -= piece
    return data, left


def decode(compression: Compression, data: Data, shape: Shape, seed: int) -> np.ndarray:
    """The leaf, float32 and finite, of bytes that anybody may have written.

    Raises:
        ValueError: they are not such a leaf: their number, a scale, a place or a value is wrong.
    """
    pieces = _pieces(compression, data, shape, seed)
    values = np.zeros(math.prod(shape), np.float32)
    for place, piece in pieces:
        values[place] = piece
    return values.reshape(shape)


def add_to(compression: Compression, buffer: np.ndarray, data: Data, weight: float, seed: int) -> None:
    """Add weight * decoded to the buffer, in place; the decoded leaf is never there as a whole.

    Raises:
        ValueError: as `decode` does, or the buffer is not contiguous float32; it is as it was then.
    """
    if buffer.dtype != np.float32 or not buffer.flags.c_contiguous:
        raise ValueError(f"expected a contiguous float32 buffer, got {buffer.dtype} {buffer.shape}")
    values, w = buffer.reshape(-1), np.float32(weight)
    for place, piece in _pieces(compression, data, buffer.shape, seed):
        piece *= w
        values[place] += piece


def extent(compression: Compression, data: Data, shape: Shape, seed: int) -> Extent:
    """How large the decoded values are, likewise in pieces.

    Raises:
        ValueError: as `decode` does.
    """
    largest = sum_of_squares = 0.0
    for _, piece in _pieces(compression, data, shape, seed):
        if piece.size:
            largest = max(largest, float(np.abs(piece).max()))
            sum_of_squares += float(np.square(piece, dtype=np.float64).sum())
    return Extent(largest=largest, sum_of_squares=sum_of_squares)


def _coding(compression: Compression, shape: Shape) -> Coding:
    """The kind itself, or float32 for what is small; both sides know from the shape."""
    return Raw() if math.prod(shape) < SMALL else compression


def _pieces(compression: Compression, data: Data, shape: Shape, seed: int) -> Iterator[Piece]:
    coding, num_values = _coding(compression, shape), math.prod(shape)
    received = np.frombuffer(data, np.uint8)
    expected = coding.num_bytes(num_values)
    if len(received) != expected:
        raise ValueError(f"expected {expected} bytes of {coding.kind} for {shape}, got {len(received)}")
    return coding.pieces(received, num_values, seed)
