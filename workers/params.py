"""Parameters of a model: a flat mapping from leaf path to array, as safetensors stores them.

Models, deltas, buffers and optimizer states are all of this one type, so that every layer (training,
wire format, aggregation, the saved file) names a leaf in the same way and nobody converts.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np

from workers.compression import Compressed

# A NumPy or a JAX array: whatever answers `__array_namespace__` (the array API standard). In a delta that the
# coordinator folds in also a `Compressed`.
Array: TypeAlias = Any
Params: TypeAlias = dict[str, Array]

# No sound delta comes near it, and what is below it can be weighted and summed without overflow of float32.
MAX_ABSOLUTE = 1e18
BLOCK = 2**16  # numbers


def num_bytes(params: Mapping[str, Array]) -> int:
    """Bytes that the arrays take, without their paths."""
    return sum(int(leaf.nbytes) for leaf in params.values())


def out_of_bounds(params: Mapping[str, Array]) -> str | None:
    """Path of the first leaf with a NaN, an infinity or a number beyond `MAX_ABSOLUTE`, or None."""
    return next((path for path, leaf in params.items() if not _is_within(leaf)), None)


def norm(params: Mapping[str, Array]) -> float:
    """The L2 norm over all leaves together, of numbers up to `MAX_ABSOLUTE`: their squares are float64's."""
    return math.sqrt(sum(map(_sum_of_squares, params.values())))


def blank(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """Zeros that take no memory, and that nobody can write to.

    Raises:
        ValueError: NumPy has no array of that shape.
    """
    return np.broadcast_to(np.zeros((), dtype), shape)


def is_blank(leaf: np.ndarray) -> bool:
    """Whether it is several zeros that take no memory."""
    return leaf.size > 1 and not any(leaf.strides) and not leaf.flat[0]


def under(prefix: str, params: Mapping[str, Array]) -> Params:
    """The same leaves, each path below `prefix`."""
    return {f"{prefix}/{path}": leaf for path, leaf in params.items()}


def below(prefix: str, params: Mapping[str, Array]) -> Params:
    """The leaves below `prefix`, without it: the inverse of `under`."""
    start = f"{prefix}/"
    return {path[len(start) :]: leaf for path, leaf in params.items() if path.startswith(start)}


def blockwise(
    function: Callable[..., Array], first: np.ndarray, *others: np.ndarray, out: np.ndarray | None = None
) -> np.ndarray:
    """The function of arrays of one shape, elementwise, a block at a time, into `out` if that is given.

    What comes in between stays in the processor's cache: 10 million numbers take a third of the time.
    """
    out = np.empty(first.shape, first.dtype) if out is None or not out.flags.writeable else out
    if first.size <= BLOCK:
        out[...] = function(first, *others)
        return out
    flat, into = [array.reshape(-1) for array in (first, *others)], out.reshape(-1)
    for begin in range(0, first.size, BLOCK):
        block = slice(begin, begin + BLOCK)
        into[block] = function(*(array[block] for array in flat))
    return out


def _blocks(leaf: np.ndarray) -> Iterator[np.ndarray]:
    flat = leaf.reshape(-1)
    return (flat[begin : begin + BLOCK] for begin in range(0, flat.size, BLOCK))


def _sum_of_squares(leaf: np.ndarray | Compressed) -> float:
    if isinstance(leaf, Compressed):
        return leaf.sum_of_squares()
    return sum(float(np.square(block, dtype=np.float64).sum()) for block in _blocks(leaf))


def _is_within(leaf: np.ndarray | Compressed) -> bool:
    """Whether all numbers are up to `MAX_ABSOLUTE`; of most, their sum of squares says so at once."""
    if isinstance(leaf, Compressed):
        return leaf.largest <= MAX_ABSOLUTE
    flat = leaf.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        if flat.dtype == np.float32 and np.dot(flat, flat) <= MAX_ABSOLUTE**2:
            return True
    return all(bool((np.abs(block) <= MAX_ABSOLUTE).all()) for block in _blocks(leaf))
