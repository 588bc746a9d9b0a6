"""A random rotation of a leaf's values: what is large in one of them is spread over 256 neighbours.

Konečný et al. 2016, arXiv 1610.05492, section 4: y = H D x, with H the orthonormal Walsh-Hadamard matrix and
D a diagonal of random signs. It is done in blocks of 256 values, all with the same signs; what is left over
in blocks of 64, 16 and 4, and up to three values stay. Blocks are the columns of a matrix meanwhile, so that
all steps are sums and differences of whole rows: no library of linear algebra, whose threads would fight
over a core, and the same bits on every machine.
"""

from collections.abc import Iterator

import numpy as np

SIZES = (256, 64, 16, 4)  # squares: an even number of steps ends where it began
GROWTH = 16  # times as large as it was a value becomes at most: the root of the largest size
STRIP = 32  # rows
SIGNS = 2  # of a seed's streams of random numbers


class Rotation:
    """The rotation of a seed, and the memory that it needs for so many values at once."""

    def __init__(self, seed: int, size: int) -> None:
        """Draw the diagonal D."""
        drawn = np.random.PCG64([seed, SIGNS]).random_raw(SIZES[0] // 64)
        self._signs = 1 - 2 * np.unpackbits(drawn.view(np.uint8)).astype(np.float32)
        self._memory = np.empty((2, size), np.float32)

    def rotate(self, values: np.ndarray) -> None:
        """H D x, in place."""
        for blocks, columns, other, diagonal in self._blocks(values):
            blocks *= diagonal
            _transpose(blocks, columns)
            _transform(columns, other)
            _transpose(columns, blocks)

    def rotate_back(self, values: np.ndarray) -> None:
        """The inverse of `rotate`, in place."""
        for blocks, columns, other, diagonal in self._blocks(values):
            _transpose(blocks, columns)
            _transform(columns, other)
            _transpose(columns, blocks)
            blocks *= diagonal

    def _blocks(self, values: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
        """The blocks as rows, memory for them as columns, twice, and D over the root of their size."""
        for size in SIZES:
            num_whole = len(values) // size * size
            columns, other = self._memory[:, :num_whole].reshape(2, size, -1)
            diagonal = self._signs[:size] / np.float32(np.sqrt(size))
            yield values[:num_whole].reshape(-1, size), columns, other, diagonal
            values = values[num_whole:]


def _transpose(source: np.ndarray, target: np.ndarray) -> None:
    """Write the transposed source to the target, in strips whose cache lines do not drive out each other."""
    for begin in range(0, len(source), STRIP):
        target[:, begin : begin + STRIP] = source[begin : begin + STRIP].T


def _transform(x: np.ndarray, memory: np.ndarray) -> None:
    """The matrix of 1 and -1 times x `(size, blocks)`, in place: the fast transform, log2(size) steps."""
    size, num_blocks = x.shape
    source, target = x, memory
    for half in (2**step for step in range(size.bit_length() - 1)):
        pairs, results = (
            array.reshape(size // half // 2, 2, half * num_blocks) for array in (source, target)
        )
        np.add(pairs[:, 0], pairs[:, 1], out=results[:, 0])
        np.subtract(pairs[:, 0], pairs[:, 1], out=results[:, 1])
        source, target = target, source
