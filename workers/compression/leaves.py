"""A leaf's values to bytes and back, and into a sum."""

import math
from collections.abc import Iterator
from typing import ClassVar, TypeAlias

import numpy as np

from workers.compression.floats import Raw
from workers.compression.kinds import Compression
from workers.compression.pieces import PIECE, Coding, Piece, Room

Shape: TypeAlias = tuple[int, ...]
Data: TypeAlias = bytes | memoryview | np.ndarray

SMALL = 64  # values: below it a leaf is sent as it is, since a bias costs little and counts for much


def num_bytes(compression: Compression, shape: Shape) -> int:
    """Bytes that a leaf of this shape takes, whatever its values are."""
    return _coding(compression, shape).num_bytes(math.prod(shape))


def encode(compression: Compression, leaf: np.ndarray, seed: int | None) -> np.ndarray:
    """The leaf as bytes, uint8 `(num_bytes,)`; the same leaf and seed give the same bytes.

    Without a seed integers are the nearest rather than right on average.

    Raises:
        ValueError: it is not float32, or one of its values is not finite or too large.
    """
    if leaf.dtype != np.float32:
        raise ValueError(f"expected float32, got {leaf.dtype}")
    return _coding(compression, leaf.shape).encode(np.ascontiguousarray(leaf).reshape(-1), seed)


def decode(compression: Compression, data: Data, shape: Shape, seed: int | None) -> np.ndarray:
    """The leaf, float32 and finite, of bytes that anybody may have written.

    Raises:
        ValueError: they are not such a leaf: their number, a scale, a place or a value is wrong.
    """
    return Compressed(compression, data, shape, seed).decoded()


class Compressed:
    """A leaf as bytes that anybody may have written: checked, and unpacked only as it is used."""

    dtype: ClassVar[np.dtype[np.float32]] = np.dtype(np.float32)
    shape: Shape
    largest: float  # a magnitude that none of its values exceeds; of integers not the least such

    def __init__(self, compression: Compression, data: Data, shape: Shape, seed: int | None) -> None:
        """Check the bytes, which it does not copy.

        Raises:
            ValueError: they are not such a leaf: their number, a scale, a place or a value is wrong.
        """
        self.shape = shape
        self._coding, self._seed = _coding(compression, shape), seed
        self._data, self._num_values = np.frombuffer(data, np.uint8), math.prod(shape)
        kind, expected = self._coding.kind, self._coding.num_bytes(self._num_values)
        if len(self._data) != expected:
            raise ValueError(f"expected {expected} bytes of {kind} for {shape}, got {len(self._data)}")
        self.largest = self._coding.largest(self._data, self._num_values)

    def decoded(self) -> np.ndarray:
        """The leaf itself, float32."""
        values = np.zeros(self._num_values, np.float32)
        for place, piece in self._pieces(1.0, values.__getitem__):
            if isinstance(place, np.ndarray):
                values[place] = piece
        return values.reshape(self.shape)

    def add_to(self, buffer: np.ndarray, weight: float) -> None:
        """Add weight * decoded to the buffer, in place; the decoded leaf is never there as a whole.

        The weight is multiplied by scales where there are any, so the sum may differ in its last bits from
        that of the decoded leaf. `weight * largest` must be within float32.

        Raises:
            ValueError: the buffer is not contiguous float32 of this shape; it is as it was then.
        """
        is_like_it = buffer.dtype == np.float32 and buffer.shape == self.shape
        if not is_like_it or not buffer.flags.c_contiguous:
            raise ValueError(
                f"expected a contiguous buffer of float32 {self.shape}, got {buffer.dtype} {buffer.shape}"
            )
        values = buffer.reshape(-1)
        for place, piece in self._pieces(weight, _room(self._num_values)):
            if isinstance(place, slice):
                values[place] += piece
            else:
                np.add.at(values, place, piece)

    def sum_of_squares(self) -> float:
        """Of the decoded values, in float64."""
        pieces = self._pieces(1.0, _room(self._num_values))
        return sum(float(np.square(piece, dtype=np.float64).sum()) for _, piece in pieces)

    def _pieces(self, weight: float, room: Room) -> Iterator[Piece]:
        return self._coding.pieces(self._data, self._num_values, self._seed, weight, room)


def _coding(compression: Compression, shape: Shape) -> Coding:
    """The kind itself, or float32 for what is small; both sides know from the shape."""
    return Raw() if math.prod(shape) < SMALL else compression


def _room(num_values: int) -> Room:
    """The same memory for every piece."""
    memory = np.empty(min(PIECE, num_values), np.float32)
    return lambda place: memory[: place.stop - place.start]
