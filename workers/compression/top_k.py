"""The values of largest magnitude, and where they are."""

import math
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, Strict

from workers.compression.floats import largest_bfloat16, upper_halves, widened
from workers.compression.pieces import LARGEST, Piece, Room, check, places
from workers.settings import settings

STRETCH = 2**16  # values, within which a place takes two bytes
SAMPLE = 2**16  # values, at most, that tell about how large the largest are


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

    def encode(self, values: np.ndarray, seed: int | None) -> np.ndarray:
        """Counts of all stretches, then places, then values; the seed is not used.

        Raises:
            ValueError: a value is not finite, or beyond 1e30.
        """
        kept, sent = _largest(values, self._num_kept(len(values)))
        if not (np.abs(sent) <= LARGEST).all():
            check(values, 0)
        begins = np.searchsorted(kept, np.arange(_num_stretches(len(values)) + 1) * STRETCH)
        within = kept & (STRETCH - 1)
        halves = upper_halves(sent, out=np.empty(len(sent), np.uint32))
        parts = (np.diff(begins).astype("<u4"), within.astype("<u2"), halves.astype("<u2"))
        return np.concatenate([part.view(np.uint8) for part in parts])

    def largest(self, data: np.ndarray, num_values: int) -> float:
        """Of the values kept.

        Raises:
            ValueError: places do not increase, or are beyond the leaf; a value is not finite.
        """
        num_kept = self._num_kept(num_values)
        counts, _, halves = self._parts(data, num_values)
        if counts.sum() != num_kept:
            raise ValueError(f"expected {num_kept} values kept, got {counts.sum()}")
        kept = self._kept(data, num_values)
        is_wrong = kept[1:] <= kept[:-1]
        if is_wrong.any():
            place = int(np.argmax(is_wrong))
            raise ValueError(f"expected places that increase, got {kept[place]} and then {kept[place + 1]}")
        if num_kept and kept[-1] >= num_values:
            raise ValueError(f"expected places below {num_values}, got {kept[-1]}")
        return largest_bfloat16(halves)

    def pieces(
        self, data: np.ndarray, num_values: int, seed: int | None, weight: float, room: Room
    ) -> Iterator[Piece]:
        """The values kept, times the weight, all at once, and their places."""
        _, _, halves = self._parts(data, num_values)
        values = widened(halves, out=np.empty(len(halves), np.float32))
        values *= np.float32(weight)
        yield self._kept(data, num_values), values

    def _parts(self, data: np.ndarray, num_values: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Counts, places within their stretch, and values' upper halves, as views."""
        counted = 4 * _num_stretches(num_values)
        within, halves = data[counted:].view("<u2").reshape(2, -1)
        return data[:counted].view("<u4"), within, halves

    def _kept(self, data: np.ndarray, num_values: int) -> np.ndarray:
        """The places, of counts whose sum is right."""
        counts, within, _ = self._parts(data, num_values)
        kept: np.ndarray = np.repeat(np.arange(len(counts)) * STRETCH, counts) + within
        return kept

    def _num_kept(self, num_values: int) -> int:
        return min(num_values, max(1, round(self.fraction * num_values)))


def _num_stretches(num_values: int) -> int:
    return -(-num_values // STRETCH)


def _largest(values: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the values of largest magnitude are, in order, and they; NaN is the largest, then infinity.

    Of the few that are not smaller than what a sample says (some more than are needed: 4 standard deviations
    of their number), the largest are found exactly; of all, should these be too few.
    """
    sample = _magnitudes(values[:: -(-len(values) // SAMPLE)])
    expected = number * len(sample) / len(values)
    rank = min(len(sample), math.ceil(expected + 4 * math.sqrt(expected)))
    found, candidates = _at_least(values, _of_rank(sample, rank))
    if len(found) < number:
        found, candidates = np.arange(len(values)), values
    magnitudes = _magnitudes(candidates)
    least = _of_rank(magnitudes, number)
    is_kept = magnitudes >= least
    ties = np.flatnonzero(magnitudes == least)
    is_kept[ties[len(ties) - (np.count_nonzero(is_kept) - number) :]] = False
    return found[is_kept], candidates[is_kept]


def _at_least(values: np.ndarray, least: np.int32) -> tuple[np.ndarray, np.ndarray]:
    """Where the values are whose magnitude is at least so much, by its bits, and they."""
    found, candidates = [], []
    for place in places(len(values)):
        within = np.flatnonzero(_magnitudes(values[place]) >= least)
        found.append(place.start + within)
        candidates.append(values[place][within])
    return np.concatenate(found), np.concatenate(candidates)


def _magnitudes(values: np.ndarray) -> np.ndarray:
    """Their bits, which are ordered as they are: NumPy finds the n-th of integers three times as fast."""
    bits: np.ndarray = np.abs(values).view(np.int32)
    return bits


def _of_rank(magnitudes: np.ndarray, rank: int) -> np.int32:
    """The `rank`-th largest."""
    place = len(magnitudes) - rank
    found: np.int32 = np.partition(magnitudes, place)[place]
    return found
