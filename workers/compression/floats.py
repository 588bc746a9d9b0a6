"""Values as floating-point numbers of fewer bits, and as they are."""

from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np

from workers.compression.pieces import PIECE, Piece, Room, check, places
from workers.settings import settings

FLOAT16 = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)  # by their bits


@settings
class BFloat16:
    """The upper half of a float32, rounded to nearest, ties to even: half the bytes, and float32's range.

    |error| <= 2^-8 |x|, and 2^-134 for what float32 holds with fewer bits (below 2^-126). Not at random, so
    the errors of one leaf do not average out over updates; they are far below a step's own noise.
    """

    kind: Literal["bfloat16"] = "bfloat16"
    needs_feedback: ClassVar[bool] = False

    def num_bytes(self, num_values: int) -> int:
        """Two each."""
        return 2 * num_values

    def encode(self, values: np.ndarray, seed: int | None) -> np.ndarray:
        """The upper halves; the seed is not used.

        Raises:
            ValueError: a value is not finite, or beyond 1e30.
        """
        encoded = np.empty(len(values), "<u2")
        rounded = np.empty(min(PIECE, len(values)), np.uint32)
        for place in places(len(values)):
            piece = values[place]
            check(piece, place.start)
            encoded[place] = upper_halves(piece, out=rounded[: len(piece)])
        return encoded.view(np.uint8)

    def largest(self, data: np.ndarray, num_values: int) -> float:
        """Of the values as they are.

        Raises:
            ValueError: one is not finite.
        """
        return largest_bfloat16(data.view("<u2"))

    def pieces(
        self, data: np.ndarray, num_values: int, seed: int | None, weight: float, room: Room
    ) -> Iterator[Piece]:
        """The values, times the weight."""
        halves = data.view("<u2")
        for place in places(num_values):
            yield place, times(weight, widened(halves[place], out=room(place)))


@settings
class Float16:
    """IEEE 754 half precision, rounded to nearest, ties to even: half the bytes, and 65504 at most.

    |error| <= 2^-11 |x|, and 2^-25 below 2^-14: what is smaller than 2^-25, about 3e-8, becomes 0. A value
    beyond 65504 is refused rather than made smaller: no sound delta has one, and nobody would be told.
    """

    kind: Literal["float16"] = "float16"
    needs_feedback: ClassVar[bool] = False

    def num_bytes(self, num_values: int) -> int:
        """Two each."""
        return 2 * num_values

    def encode(self, values: np.ndarray, seed: int | None) -> np.ndarray:
        """The nearest halves; the seed is not used.

        Raises:
            ValueError: a value is not finite, or beyond 65504.
        """
        encoded = np.empty(len(values), "<f2")
        for place in places(len(values)):
            check(values[place], place.start, limit=65504.0)
            encoded[place] = values[place]
        return encoded.view(np.uint8)

    def largest(self, data: np.ndarray, num_values: int) -> float:
        """Of the values as they are.

        Raises:
            ValueError: one is not finite.
        """
        return float(FLOAT16[_largest_half(data.view("<u2"), 0x7C00)])

    def pieces(
        self, data: np.ndarray, num_values: int, seed: int | None, weight: float, room: Room
    ) -> Iterator[Piece]:
        """The values, times the weight."""
        halves = data.view("<u2")
        for place in places(num_values):
            # A table is four times as fast as NumPy's conversion.
            values = np.take(FLOAT16, halves[place], out=room(place), mode="clip")
            yield place, times(weight, values)


@settings
class Raw:
    """float32, as it is: for leaves too small to be worth anything else."""

    kind: Literal["raw"] = "raw"
    needs_feedback: ClassVar[bool] = False

    def num_bytes(self, num_values: int) -> int:
        """Four each."""
        return 4 * num_values

    def encode(self, values: np.ndarray, seed: int | None) -> np.ndarray:
        """The values' own bytes; the seed is not used.

        Raises:
            ValueError: a value is not finite, or beyond 1e30.
        """
        for place in places(len(values)):
            check(values[place], place.start)
        return values.astype("<f4").view(np.uint8)

    def largest(self, data: np.ndarray, num_values: int) -> float:
        """Of the values as they are.

        Raises:
            ValueError: one is not finite.
        """
        _largest_half(data.view("<u2")[1::2], 0x7F80)
        return float(np.abs(data.view("<f4")).max(initial=0))

    def pieces(
        self, data: np.ndarray, num_values: int, seed: int | None, weight: float, room: Room
    ) -> Iterator[Piece]:
        """The values, times the weight."""
        for place in places(num_values):
            values = room(place)
            values[...] = data.view("<f4")[place]
            yield place, times(weight, values)


def times(weight: float, values: np.ndarray) -> np.ndarray:
    """The values, in place times the weight."""
    if weight != 1:
        values *= np.float32(weight)
    return values


def upper_halves(values: np.ndarray, out: np.ndarray) -> np.ndarray:
    """The bits of the nearest bfloat16, ties to even, of finite values, written to `out`, which is uint32."""
    bits = values.view(np.uint32)
    np.right_shift(bits, 16, out=out)
    out &= 1
    out += 0x7FFF
    out += bits
    out >>= 16
    return out


def widened(halves: np.ndarray, out: np.ndarray) -> np.ndarray:
    """The values of which these are the upper halves, written to `out`."""
    bits = out.view(np.uint32)
    bits[...] = halves
    bits <<= 16
    return out


def largest_bfloat16(halves: np.ndarray) -> float:
    """The largest magnitude of values of which these are the upper halves.

    Raises:
        ValueError: one is not finite.
    """
    return float(np.uint32(_largest_half(halves, 0x7F80) << 16).view(np.float32))


def _largest_half(halves: np.ndarray, infinity: int) -> int:
    """The bits of the largest magnitude, which are ordered as magnitudes are, given the bits of infinity.

    Raises:
        ValueError: a value is not finite.
    """
    if not len(halves):
        return 0
    # Of those with a sign the greatest is the largest, too; where there are none, it has none and is smaller.
    largest = max(int(halves.view("<i2").max()), int(halves.max()) & 0x7FFF)
    if largest >= infinity:
        wrong = int(np.argmax((halves & 0x7FFF) >= infinity))
        raise ValueError(f"value {wrong} is not finite")
    return largest
