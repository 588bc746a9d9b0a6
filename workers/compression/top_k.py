"""The values of largest magnitude, and where they are."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, Strict

from workers.compression.floats import check_exponents, upper_halves, widened
from workers.compression.pieces import LARGEST, Piece
from workers.settings import settings

STRETCH = 2**16  # values, within which a place takes two bytes


@settings
class TopK:
    """The k values of largest magnitude of each leaf, as bfloat16; the others are 0 (Stich et al. 2018).

    It is leaf by leaf: a leaf has a number of bytes of its own, and a layer whose gradients are small is not
    left out for long. It is biased, and converges where the site keeps what it left out and adds it to its
    next delta (error feedback: Seide et al. 2014; Karimireddy et al. 2019, arXiv 1901.09847). The rounding to
    bfloat16 is kept likewise, so that two bytes for a value lose nothing in the end.

    With C(x) the values sent, ||x - C(x)||² <= (1 - (1 - 2^-16) k / n) ||x||²: the contraction that Stich et
    al. (arXiv 1809.07599, definition 2.1) ask for. Equal magnitudes: the first ones count.

    Four bytes for each value kept: where it is within a stretch of 65536 values, and what it is. And four for
    each stretch: how many of its values were kept.
    """

    kind: Literal["top-k"] = "top-k"
    fraction: Annotated[float, Strict(), Field(gt=0, lt=1)] = 0.01  # k / n, rounded; at least one value
    needs_feedback: ClassVar[bool] = True

    def num_bytes(self, num_values: int) -> int:
        """Four for each stretch and for each value kept."""
        return 4 * _num_stretches(num_values) + 4 * self._num_kept(num_values)

    def encode(self, values: np.ndarray, seed: int) -> np.ndarray:
        """Counts of all stretches, then places, then values; the seed is not used.

        Raises:
            ValueError: a value is not finite, or beyond 1e30.
        """
        kept = _largest(values, self._num_kept(len(values)))
        largest = values[kept]
        if not (np.abs(largest) <= LARGEST).all():
            place = int(kept[np.argmin(np.abs(largest) <= LARGEST)])
            raise ValueError(
                f"value {place}: expected a finite number up to {LARGEST:g}, got {values[place]}"
            )
        counts = np.bincount(kept // STRETCH, minlength=_num_stretches(len(values)))
        halves = upper_halves(largest, out=np.empty(len(largest), np.uint32))
        parts = (counts.astype("<u4"), (kept % STRETCH).astype("<u2"), halves.astype("<u2"))
        return np.concatenate([part.view(np.uint8) for part in parts])

    def pieces(self, data: np.ndarray, num_values: int, seed: int) -> Iterator[Piece]:
        """The values kept, all at once, and their places.

        Raises:
            ValueError: places do not increase, or are beyond the leaf; a value is not finite.
        """
        num_stretches, num_kept = _num_stretches(num_values), self._num_kept(num_values)
        counts = data[: 4 * num_stretches].view("<u4")
        if counts.sum() != num_kept:
            raise ValueError(f"expected {num_kept} values kept, got {counts.sum()}")
        rest = data[4 * num_stretches :].view("<u2")
        within, halves = rest[:num_kept], rest[num_kept:]
        kept = np.repeat(np.arange(num_stretches) * STRETCH, counts) + within
        if (np.diff(kept) <= 0).any():
            place = int(np.argmax(np.diff(kept) <= 0))
            raise ValueError(f"expected places that increase, got {kept[place]} and then {kept[place + 1]}")
        if num_kept and kept[-1] >= num_values:
            raise ValueError(f"expected places below {num_values}, got {kept[-1]}")
        check_exponents(halves, 0x7F80)
        yield kept, widened(halves, out=np.empty(num_kept, np.float32))

    def _num_kept(self, num_values: int) -> int:
        return min(num_values, max(1, round(self.fraction * num_values)))


def _num_stretches(num_values: int) -> int:
    return -(-num_values // STRETCH)


def _largest(values: np.ndarray, number: int) -> np.ndarray:
    """Where the values of largest magnitude are, in order; NaN is the largest, then infinity.

    By their bits, which are ordered as magnitudes are: NumPy finds the n-th of integers three times as fast.
    """
    magnitudes = np.abs(values).view(np.uint32)
    if not number:
        return np.arange(0)
    least = np.partition(magnitudes, len(values) - number)[len(values) - number]
    found = np.flatnonzero(magnitudes >= least)
    ties = np.flatnonzero(magnitudes[found] == least)
    return np.delete(found, ties[len(ties) - (len(found) - number) :])
