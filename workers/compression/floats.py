"""Values as floating-point numbers of fewer bits, and as they are."""

from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np

from workers.compression.pieces import PIECE, Piece, checked, places
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

    def encode(self, values: np.ndarray, seed: int) -> np.ndarray:
        """The upper halves; the seed is not used.

        Raises:
            ValueError: a value is not finite, or beyond 1e30.
        """
        encoded = np.empty(len(values), "<u2")
        rounded = np.empty(min(PIECE, len(values)), np.uint32)
        for place, piece in checked(values):
            encoded[place] = upper_halves(piece, out=rounded[: len(piece)])
        return encoded.view(np.uint8)

    def pieces(self, data: np.ndarray, num_values: int, seed: int) -> Iterator[Piece]:
        """The values.

        Raises:
            ValueError: one is not finite.
        """
        halves = data.view("<u2")
        check_exponents(halves, 0x7F80)
        values = np.empty(min(PIECE, num_values), np.float32)
        for place in places(num_values):
            yield place, widened(halves[place], out=values[: place.stop - place.start])


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

    def encode(self, values: np.ndarray, seed: int) -> np.ndarray:
        """The nearest halves; the seed is not used.

        Raises:
            ValueError: a value is not finite, or beyond 65504.
        """
        encoded = np.empty(len(values), "<f2")
        for place, piece in checked(values, largest=65504.0):
            encoded[place] = piece
        return encoded.view(np.uint8)

    def pieces(self, data: np.ndarray, num_values: int, seed: int) -> Iterator[Piece]:
        """The values.

        Raises:
            ValueError: one is not finite.
        """
        halves = data.view("<u2")
        check_exponents(halves, 0x7C00)
        values = np.empty(min(PIECE, num_values), np.float32)
        for place in places(num_values):
            # A table is four times as fast as NumPy's conversion.
            yield place, np.take(FLOAT16, halves[place], out=values[: place.stop - place.start], mode="clip")


@settings
class Raw:
    """float32, as it is: for leaves too small to be worth anything else."""

    kind: Literal["raw"] = "raw"
    needs_feedback: ClassVar[bool] = False

    def num_bytes(self, num_values: int) -> int:
        """Four each."""
        return 4 * num_values

    def encode(self, values: np.ndarray, seed: int) -> np.ndarray:
        """The values' own bytes; the seed is not used.

        Raises:
            ValueError: a value is not finite, or beyond 1e30.
        """
        for _ in checked(values):
            pass
        return values.astype("<f4").view(np.uint8)

    def pieces(self, data: np.ndarray, num_values: int, seed: int) -> Iterator[Piece]:
        """The values, all at once.

        Raises:
            ValueError: one is not finite.
        """
        check_exponents(data.view("<u2")[1::2], 0x7F80)
        yield slice(0, num_values), data.view("<f4").astype(np.float32)


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


def check_exponents(halves: np.ndarray, infinity: int) -> None:
    """Check that all are finite, given the bits of infinity.

    Raises:
        ValueError: one is not.
    """
    for place in places(len(halves)):
        is_finite = (halves[place] & 0x7FFF) < infinity
        if not is_finite.all():
            raise ValueError(f"value {place.start + int(np.argmin(is_finite))} is not finite")
