"""What a kind of compression answers: how it takes a leaf's values, and how it gives them back in pieces."""

from collections.abc import Callable, Iterator
from typing import ClassVar, Protocol, TypeAlias

import numpy as np

PIECE = 2**17  # values: few enough for a processor's cache, many for a call of NumPy; part of the format
LARGEST = 1e30  # of a value: far past any sound delta, and sums of it still fit float32

# Where the values belong, and the values themselves: float32, to be used before the next piece is asked for.
Piece: TypeAlias = tuple[slice | np.ndarray, np.ndarray]
# Memory for the values of a piece that belong there: contiguous float32, to be overwritten.
Room: TypeAlias = Callable[[slice], np.ndarray]


class Coding(Protocol):
    """What every kind answers, of values one after another: float32 `(num_values,)`."""

    needs_feedback: ClassVar[bool]  # it is biased: what it leaves out is to be sent later

    @property
    def kind(self) -> str:
        """Its name in the experiment file."""
        ...

    def num_bytes(self, num_values: int) -> int:
        """How many bytes so many values take, whatever they are."""
        ...

    def encode(self, values: np.ndarray, seed: int | None) -> np.ndarray:
        """The values as bytes, uint8 `(num_bytes,)`.

        Raises:
            ValueError: a value is not finite, or too large.
        """
        ...

    def largest(self, data: np.ndarray, num_values: int) -> float:
        """A magnitude that none of the values exceeds, of bytes of the right number; none is unpacked.

        Raises:
            ValueError: bytes that `encode` does not make.
        """
        ...

    def pieces(
        self, data: np.ndarray, num_values: int, seed: int | None, weight: float, room: Room
    ) -> Iterator[Piece]:
        """The values times the weight, in order and each once; those in no piece are 0.

        The bytes are such that `largest` does not refuse them. What is dense is written where `room` says.
        """
        ...


def check(values: np.ndarray, begin: int, limit: float = LARGEST) -> None:
    """Check values, of which there is at least one, and of which the first is the leaf's `begin`-th.

    Raises:
        ValueError: one is not finite, or beyond the limit.
    """
    if not (values.max() <= limit and values.min() >= -limit):
        wrong = int(np.argmin(np.abs(values) <= limit))
        raise ValueError(
            f"value {begin + wrong}: expected a finite number up to {limit:g}, got {values[wrong]}"
        )


def places(num_values: int) -> Iterator[slice]:
    """Where each piece of so many values belongs."""
    for begin in range(0, num_values, PIECE):
        yield slice(begin, min(begin + PIECE, num_values))
