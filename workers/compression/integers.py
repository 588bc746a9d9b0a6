"""Values as small integers times their block's scale, rounded at random so that they are right on average.

Or rounded to the nearest, where what is lost is sent later.
"""

import math
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import AfterValidator

from workers.compression.pieces import LARGEST, PIECE, Piece, Room, check, places
from workers.compression.rotation import GROWTH, Rotation
from workers.settings import PositiveInt, settings

LARGEST_BLOCK = 2**16  # values
SMALLEST_SCALE = 2.0**-100  # so that its inverse is finite
MARGIN = 1 + 2.0**-21  # of a scale, so that no rounding of float32 carries a value past the last integer
OFFSET = 128  # of an integer while it is a float32: from here to 256 that has 16 bits for the fraction
ROUNDING = 1  # of a seed's streams of random numbers


def _power_of_two(block: int) -> int:
    if not 16 <= block <= LARGEST_BLOCK or block & (block - 1):
        raise ValueError(f"expected a power of two from 16 to {LARGEST_BLOCK}")
    return block


Block = Annotated[PositiveInt, AfterValidator(_power_of_two)]


@settings
class Quantization:
    """What the integers share: for each block of values a float32 scale s = max |x| / levels, then integers.

    An integer is q = floor(x / s + u) with u uniform on [0, 1), in steps of 2^-16. So E[s q] = x within
    2^-15 s, |s q - x| <= s (1 + 2^-15), and the variance, s² f (1 - f) for a fraction f of x / s, is at most
    s² / 4. Any two of a leaf's u are independent (`Dither`): the variance of a sum of values is the sum of
    theirs. s is at least 2^-100 (8e-31), and larger than said by a factor of 1 + 2^-21.

    Without a seed u = 1/2: |s q - x| is at most s (1/2 + 2^-15), and no more than |x| + 2^-15 s. That is not
    right on average, but no error is larger than the values, which error feedback asks for; random rounding
    to few integers does not give it.

    With `rotation` the values are rotated before and back after (`rotation.py`). Then the same holds of the
    rotated values, and of the leaf: E ||error||² <= sum of s² / 4 over its values. It is worth its time where
    a few values are far larger than their neighbours; of normally distributed values it changes nothing.
    """

    block: Block = 256  # values
    rotation: bool = False
    levels: ClassVar[int]
    needs_feedback: ClassVar[bool] = False

    def num_bytes(self, num_values: int) -> int:
        """Four for each block, and the integers."""
        return 4 * self._num_blocks(num_values) + self._num_code_bytes(num_values)

    def encode(self, values: np.ndarray, seed: int | None) -> np.ndarray:
        """The scales of all blocks, then the integers.

        Raises:
            ValueError: a value is not finite, or beyond 1e30.
        """
        encoded = np.empty(self.num_bytes(len(values)), np.uint8)
        scales, codes = self._parts(encoded, len(values))
        size = min(PIECE, len(values))
        rounded = _nearest if seed is None else Dither(seed, size).rounded
        rotation = self._rotation(seed, size)
        scaled, integers = np.empty(size, np.float32), np.empty(size, np.uint8)
        for place in places(len(values)):
            x, memory = values[place], scaled[: place.stop - place.start]
            if rotation:
                check(x, place.start)
                x = x.copy()
                rotation.rotate(x)
            largest = self._largest(np.abs(x, out=memory))
            if not rotation and not (largest <= LARGEST).all():
                check(x, place.start)
            found = scales[self._scale_place(place)]
            np.maximum(largest * np.float32(MARGIN / self.levels), np.float32(SMALLEST_SCALE), out=found)
            self._times(x, 1 / found, out=memory)
            self._pack(rounded(memory, out=integers[: len(x)]), out=codes[self._code_place(place)])
        return encoded

    def largest(self, data: np.ndarray, num_values: int) -> float:
        """What the largest scale allows, and what a rotation can make of that.

        Raises:
            ValueError: a scale is negative, not finite or beyond 1e30, or 1.6e31 of rotated values.
        """
        scales, _ = self._parts(data, num_values)
        growth = GROWTH if self.rotation else 1
        most = growth * MARGIN * LARGEST
        is_right = (scales >= 0) & (scales <= most)
        if not is_right.all():
            wrong = int(np.argmin(is_right))
            raise ValueError(f"scale of block {wrong}: expected 0 to {most:g}, got {scales[wrong]}")
        return float(scales.max()) * (self.levels + 1) * growth

    def pieces(
        self, data: np.ndarray, num_values: int, seed: int | None, weight: float, room: Room
    ) -> Iterator[Piece]:
        """The values, times the weight."""
        scales, codes = self._parts(data, num_values)
        factor, rotation = np.float32(weight), self._rotation(seed, min(PIECE, num_values))
        for place in places(num_values):
            values = room(place)
            self._unpack(codes[self._code_place(place)], out=values)
            self._times(values, factor * scales[self._scale_place(place)], out=values)
            if rotation:
                rotation.rotate_back(values)
            yield place, values

    def _parts(self, data: np.ndarray, num_values: int) -> tuple[np.ndarray, np.ndarray]:
        """The scales and the codes, as views."""
        num_bytes = 4 * self._num_blocks(num_values)
        return data[:num_bytes].view("<f4"), data[num_bytes:]

    def _rotation(self, seed: int | None, size: int) -> Rotation | None:
        return Rotation(seed or 0, size) if self.rotation else None

    def _num_blocks(self, num_values: int) -> int:
        return -(-num_values // self.block)

    def _scale_place(self, place: slice) -> slice:
        """Where the scales of these values are; they begin at a multiple of `PIECE`, as do their codes."""
        return slice(self._num_blocks(place.start), self._num_blocks(place.stop))

    def _code_place(self, place: slice) -> slice:
        return slice(self._num_code_bytes(place.start), self._num_code_bytes(place.stop))

    def _largest(self, magnitudes: np.ndarray) -> np.ndarray:
        """Of each block. The bits of magnitudes are ordered as they are, and faster to compare."""
        begins = np.arange(0, len(magnitudes), self.block)
        largest: np.ndarray = np.maximum.reduceat(magnitudes.view(np.int32), begins).view(np.float32)
        return largest

    def _times(self, values: np.ndarray, factors: np.ndarray, out: np.ndarray) -> None:
        """Each block's values times its factor; the last block may have fewer."""
        shape = (len(values) // self.block, self.block)
        end = math.prod(shape)
        np.multiply(
            values[:end].reshape(shape), factors[: shape[0], np.newaxis], out=out[:end].reshape(shape)
        )
        np.multiply(values[end:], factors[shape[0] :], out=out[end:])

    def _num_code_bytes(self, num_values: int) -> int:
        raise NotImplementedError

    def _pack(self, integers: np.ndarray, out: np.ndarray) -> None:
        """Write the bytes of integers, which are uint8, `OFFSET` too large, and overwritten."""
        raise NotImplementedError

    def _unpack(self, codes: np.ndarray, out: np.ndarray) -> None:
        """Write the integers, as float32, of their bytes."""
        raise NotImplementedError


@settings
class Int8(Quantization):
    """A byte for each value and four for each block: about a quarter of the bytes (see `Quantization`)."""

    kind: Literal["int8"] = "int8"
    levels: ClassVar[int] = 127

    def _num_code_bytes(self, num_values: int) -> int:
        return num_values

    def _pack(self, integers: np.ndarray, out: np.ndarray) -> None:
        np.subtract(integers, OFFSET, out=out)

    def _unpack(self, codes: np.ndarray, out: np.ndarray) -> None:
        out[...] = codes.view(np.int8)


class _Packed(Quantization):
    """Several values to a byte.

    Of a piece of 131,072 values, or of what is left at the leaf's end, the first half (or quarter) is in the
    lowest bits of the bytes, the next in those above, so that neighbours are packed and unpacked at once. An
    integer is written as its lowest bits, in two's complement.
    """

    bits: ClassVar[int]

    def _num_code_bytes(self, num_values: int) -> int:
        return -(-num_values * self.bits // 8)

    def _pack(self, integers: np.ndarray, out: np.ndarray) -> None:
        integers &= 2**self.bits - 1
        *lower, highest = (integers[begin : begin + len(out)] for begin in range(0, len(integers), len(out)))
        out[: len(highest)] = highest
        out[len(highest) :] = 0
        for part in reversed(lower):
            out *= 2**self.bits  # NumPy's shift of bytes takes ten times as long
            out |= part

    def _unpack(self, codes: np.ndarray, out: np.ndarray) -> None:
        for number, begin in enumerate(range(0, len(out), len(codes))):
            part = out[begin : begin + len(codes)]
            above = 8 - self.bits * (number + 1)
            highest = codes[: len(part)] * np.uint8(2**above)
            part[...] = highest.view(np.int8) >> (8 - self.bits)


@settings
class Int4(_Packed):
    """Half a byte for each value, four for each block: about an eighth of the bytes (see `Quantization`)."""

    kind: Literal["int4"] = "int4"
    levels: ClassVar[int] = 7
    bits: ClassVar[int] = 4


@settings
class Int3(_Packed):
    """Three bits for each value, four bytes for each block: about a tenth of the bytes (see `Quantization`).

    Of a piece, the integers' halves, rounded down, are written as `int2` writes integers, and after them what
    is left, 0 or 1, as bits, a byte's highest first.
    """

    kind: Literal["int3"] = "int3"
    levels: ClassVar[int] = 3
    bits: ClassVar[int] = 2  # of the half

    def _num_code_bytes(self, num_values: int) -> int:
        return super()._num_code_bytes(num_values) - (-num_values // 8)

    def _pack(self, integers: np.ndarray, out: np.ndarray) -> None:
        num_bytes = super()._num_code_bytes(len(integers))
        out[num_bytes:] = np.packbits(integers & 1)
        super()._pack(integers // 2, out=out[:num_bytes])

    def _unpack(self, codes: np.ndarray, out: np.ndarray) -> None:
        num_bytes = super()._num_code_bytes(len(out))
        super()._unpack(codes[:num_bytes], out=out)
        out *= 2
        out += np.unpackbits(codes[num_bytes:], count=len(out))


@settings
class Int2(_Packed):
    """Two bits for each value and four bytes for each block: -s, 0 or s (see `Quantization`).

    Ternary, as in Wen et al. 2017 (TernGrad, arXiv 1705.07878), here with a scale for each block.
    """

    kind: Literal["int2"] = "int2"
    levels: ClassVar[int] = 1
    bits: ClassVar[int] = 2


class Dither:
    """Random roundings: u = r_i xor c_j for the i-th value of the j-th piece, r and c uniform, of 16 bits.

    Any two of them are independent (they differ in i or in j), which is all that the variance of a sum needs,
    and there is one draw for each of a piece's values rather than one for each of the leaf's. They are kept
    as `OFFSET` + u: of a float32 from 128 to 129, u is the last 16 bits.
    """

    def __init__(self, seed: int, size: int) -> None:
        """Draw what pieces of so many values need."""
        self._source = np.random.PCG64([seed, ROUNDING])
        drawn = self._source.random_raw(-(-size // 4)).view(np.uint16)[:size]
        self._offsets = np.full(size, OFFSET, np.float32)
        self._bits = self._offsets.view(np.uint32)
        self._bits |= drawn

    def rounded(self, scaled: np.ndarray, out: np.ndarray) -> np.ndarray:
        """floor(x + u) + `OFFSET` of the next piece x, which is overwritten, to `out`, which is uint8."""
        self._bits ^= np.uint32(self._source.random_raw() & 0xFFFF)
        scaled += self._offsets[: len(scaled)]
        np.copyto(out, scaled, casting="unsafe")
        return out


def _nearest(scaled: np.ndarray, out: np.ndarray) -> np.ndarray:
    """The same with u = 1/2."""
    scaled += OFFSET + 0.5
    np.copyto(out, scaled, casting="unsafe")
    return out
