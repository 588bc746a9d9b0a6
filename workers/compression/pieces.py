"""What a kind of compression answers: how it takes a leaf's values, and how it gives them back in pieces."""

from collections.abc import Iterator
from typing import ClassVar, Protocol, TypeAlias

import numpy as np

PIECE = 2**16  # values, about what a core's cache holds with what else is needed; part of the format
LARGEST = 1e30  # of a value: far past any sound delta, and sums of it still fit float32

# Where the values belong, and the values themselves: float32, to be used before the next piece is asked for.
Piece: TypeAlias = tuple[slice | np.ndarray, np.ndarray]


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

    def encode(self, values: np.ndarray, seed: int) -> np.ndarray:
        """The values as bytes, uint8 `(num_bytes,)`.

        Raises:
            ValueError: a value is not finite, or too large.
        """
        ...

    def pieces(self, data: np.ndarray, num_values: int, seed: int) -> Iterator[Piece]:
        """The values of bytes of the right number, in order and each once; those in no piece are 0.

        Raises:
            ValueError: bytes that `encode` does not make; before the first piece, not after it.
        """
        ...


def checked(values: np.ndarray, largest: float = LARGEST) -> Iterator[tuple[slice, np.ndarray]]:
    """The values in pieces, and where each belongs.

    Raises:
        ValueError: one is not finite, or beyond `largest`.
    """
    for begin in range(0, len(values), PIECE):
        piece = values[begin : begin + PIECE]
        if not (piece.max() <= largest and piece.min() >= -largest):
            place = begin + int(np.argmin(np.abs(piece) <= largest))
            raise ValueError(
                f"value {place}: expected a finite number up to {largest:g}, got {values[place]}"
            )
        yield slice(begin, begin + len(piece)), piece


def places(num_values: int) -> Iterator[slice]:
    """Where each piece of so many values belongs."""
    for begin in range(0, num_values, PIECE):
        yield slice(begin, min(begin + PIECE, num_values))
