"""Values as small integers times their block's scale, rounded at random so that they are right on average."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import AfterValidator

from workers.compression.pieces import LARGEST, PIECE, Piece, checked, places
from workers.compression.rotation import Rotation
from workers.settings import PositiveInt, settings

ONE = 2.0**16  # a scale, in the fixed-point numbers that are rounded
SMALLEST_SCALE = 2.0**-100  # so that its inverse is finite
MARGIN = 1 + 2.0**-21  # of a scale, so that no rounding of float32 carries a value past the last integer
ROUNDING = 1  # of a seed's streams of random numbers


def _power_of_two(block: int) -> int:
    if not 16 <= block <= PIECE or block & (block - 1):
        raise ValueError(f"expected a power of two from 16 to {PIECE}")
    return block


Block = Annotated[PositiveInt, AfterValidator(_power_of_two)]


@settings
class Quantization:
    """What int8 and int4 share: for each block of values a float32 scale s = max |x| / levels, then integers.

    An integer is q = floor(x / s + u) with u uniform on [0, 1), in steps of 2^-16. So E[s q] = x within
    2^-15 s, |s q - x| <= s (1 + 2^-15), and the variance, s² f (1 - f) for a fraction f of x / s, is at most
    s² / 4. Any two of a leaf's u are independent (`Dither`): the variance of a sum of values is the sum of
    theirs. s is at least 2^-100 (8e-31), and larger than said by a factor of 1 + 2^-21.

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

    def encode(self, values: np.ndarray, seed: int) -> np.ndarray:
        """The scales of all blocks, then the integers.

        Raises:
            ValueError: a value is not finite, or beyond 1e30.
        """
        encoded = np.empty(self.num_bytes(len(values)), np.uint8)
        scales, codes = self._parts(encoded, len(values))
        dither, rotation = Dither(seed, len(values)), self._rotation(seed, len(values))
        scaled = np.empty(self._padded(min(PIECE, len(values))), np.float32)
        other = np.empty_like(scaled)
        for place, piece in checked(values):
            size = len(piece)
            scaled[:size], scaled[size:] = piece, 0
            if rotation:
                rotation.rotate(scaled[:size])
            blocks = self._blocks(scaled, size)
            magnitudes = np.abs(blocks, out=self._blocks(other, size))
            found = scales[self._scale_place(place)]
            found[...] = _scales(magnitudes, self.levels)
            blocks *= np.float32(ONE) / found[:, np.newaxis]
            self._pack(dither.round(scaled[:size]), out=codes[self._code_place(place)])
        return encoded

    def pieces(self, data: np.ndarray, num_values: int, seed: int) -> Iterator[Piece]:
        """The values.

        Raises:
            ValueError: a scale is negative, not finite or beyond 1e30.
        """
        scales, codes = self._parts(data, num_values)
        is_right = (scales >= 0) & (scales <= LARGEST)
        if not is_right.all():
            wrong = int(np.argmin(is_right))
            raise ValueError(f"scale of block {wrong}: expected 0 to {LARGEST:g}, got {scales[wrong]}")
        rotation = self._rotation(seed, num_values)
        values = np.empty(self._padded(min(PIECE, num_values)), np.float32)
        for place in places(num_values):
            size = place.stop - place.start
            values[:size], values[size:] = self._unpacked(codes[self._code_place(place)], size), 0
            blocks = self._blocks(values, size)
            blocks *= scales[self._scale_place(place), np.newaxis]
            if rotation:
                rotation.rotate_back(values[:size])
            yield place, values[:size]

    def _parts(self, data: np.ndarray, num_values: int) -> tuple[np.ndarray, np.ndarray]:
        """The scales and the codes, as views."""
        num_bytes = 4 * self._num_blocks(num_values)
        return data[:num_bytes].view("<f4"), data[num_bytes:]

    def _rotation(self, seed: int, num_values: int) -> Rotation | None:
        return Rotation(seed, min(PIECE, num_values)) if self.rotation else None

    def _num_blocks(self, num_values: int) -> int:
        return -(-num_values // self.block)

    def _padded(self, num_values: int) -> int:
        return self._num_blocks(num_values) * self.block

    def _blocks(self, values: np.ndarray, size: int) -> np.ndarray:
        """So many of the values, and what pads them, as `(blocks, block)`."""
        return values[: self._padded(size)].reshape(-1, self.block)

    def _scale_place(self, place: slice) -> slice:
        """Where the scales of these values are; they begin at a multiple of `PIECE`, as do their codes."""
        return slice(self._num_blocks(place.start), self._num_blocks(place.stop))

    def _code_place(self, place: slice) -> slice:
        return slice(self._num_code_bytes(place.start), self._num_code_bytes(place.stop))

    def _num_code_bytes(self, num_values: int) -> int:
        raise NotImplementedError

    def _pack(self, integers: np.ndarray, out: np.ndarray) -> None:
        """Write the bytes of integers, which are int32."""
        raise NotImplementedError

    def _unpacked(self, codes: np.ndarray, size: int) -> np.ndarray:
        """So many integers, of their bytes."""
        raise NotImplementedError


@settings
class Int8(Quantization):
    """A byte for each value and four for each block: about a quarter of the bytes (see `Quantization`)."""

    kind: Literal["int8"] = "int8"
    levels: ClassVar[int] = 127

    def _num_code_bytes(self, num_values: int) -> int:
        return num_values

    def _pack(self, integers: np.ndarray, out: np.ndarray) -> None:
        out[...] = integers

    def _unpacked(self, codes: np.ndarray, size: int) -> np.ndarray:
        integers: np.ndarray = codes.view(np.int8)
        return integers


@settings
class Int4(Quantization):
    """Half a byte for each value and four for each block: about an eighth of the bytes (see `Quantization`).

    Of two values the first is in the lower half, each as its integer plus 8.
    """

    kind: Literal["int4"] = "int4"
    levels: ClassVar[int] = 7

    def _num_code_bytes(self, num_values: int) -> int:
        return -(-num_values // 2)

    def _pack(self, integers: np.ndarray, out: np.ndarray) -> None:
        codes = np.zeros(2 * len(out), np.uint8)
        np.add(integers, 8, out=codes[: len(integers)], casting="unsafe")
        pairs = codes.view("<u2")
        pairs |= pairs >> 4
        out[...] = pairs

    def _unpacked(self, codes: np.ndarray, size: int) -> np.ndarray:
        pairs = codes.astype("<u2")
        pairs |= pairs << 4
        pairs &= 0x0F0F
        integers: np.ndarray = pairs.view(np.int8)[:size]
        integers -= 8
        return integers


class Dither:
    """Random roundings: u = (r_i + c_j) mod 1 for the i-th value of the j-th piece, r and c uniform.

    Any two of them are independent (they differ in i or in j), which is all that the variance of a sum needs,
    and there is one draw for each of a piece's values rather than one for each of the leaf's.
    """

    def __init__(self, seed: int, num_values: int) -> None:
        """Draw what so many values need."""
        self._source = np.random.PCG64([seed, ROUNDING])
        size = min(PIECE, num_values)
        self._drawn = self._source.random_raw(-(-size // 4)).view(np.uint16)[:size]
        self._shifted = np.empty_like(self._drawn)
        self._fixed: np.ndarray = np.empty(size, np.int32)

    def round(self, scaled: np.ndarray) -> np.ndarray:
        """floor(x + u) of the next piece, given x times 2^16, which is overwritten: int32."""
        size = len(scaled)
        shifted, fixed = self._shifted[:size], self._fixed[:size]
        fixed[...] = np.rint(scaled, out=scaled)
        np.add(self._drawn[:size], np.uint16(self._source.random_raw() & 0xFFFF), out=shifted)
        fixed += shifted
        fixed >>= 16
        return fixed


def _scales(magnitudes: np.ndarray, levels: int) -> np.ndarray:
    """The scale of each row. The bits of magnitudes are ordered as they are, and faster to compare."""
    largest = magnitudes.view(np.int32).max(axis=1).view(np.float32)
    scales: np.ndarray = np.maximum(largest * np.float32(MARGIN / levels), np.float32(SMALLEST_SCALE))
    return scales
