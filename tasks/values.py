"""Large values of Redis: read in pieces, and remembered by the id that each begins with.

A client's GET copies a large answer several times while it grows; pieces that fit the processor's cache, put
where they belong, take a fraction of the time and no more memory than the value.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import redis

from tasks import codec
from workers import params as trees
from workers.params import Params

PIECE = 2**20  # bytes

Kept = tuple[codec.Buffer, Params | None]  # as it is there, and its tree once somebody has asked for it


def read(client: redis.Redis, key: str, limit: int | None = None) -> codec.Buffer | None:
    """The value, at most a byte more of it than the limit; None if there is none, or it is empty.

    One that is written anew meanwhile is read again.
    """
    last = -1 if limit is None else limit
    while True:
        first: bytes = client.getrange(key, 0, PIECE - 1 if limit is None else min(PIECE - 1, limit))
        if len(first) < PIECE:
            return first or None
        num_bytes = codec.length(first)
        if num_bytes is None or (limit is not None and num_bytes > limit):
            whole: bytes = client.getrange(key, 0, last)  # whoever wrote it did not use `codec`
            return whole
        value = _in_pieces(client, key, first[:num_bytes], num_bytes)
        if client.getrange(key, 0, codec.PREFIX - 1) == value[: codec.PREFIX]:
            return value.toreadonly()


def _in_pieces(client: redis.Redis, key: str, first: bytes, num_bytes: int) -> memoryview:
    """The value, shorter than it says if it is, or is gone."""
    value = memoryview(np.empty(num_bytes, np.uint8))  # type: ignore[arg-type]  # it is a buffer
    value[: len(first)] = first
    for begin in range(len(first), num_bytes, PIECE):
        piece: bytes = client.getrange(key, begin, min(begin + PIECE, num_bytes) - 1)
        value[begin : begin + len(piece)] = piece
        if len(piece) < min(PIECE, num_bytes - begin):
            return value[: begin + len(piece)]
    return value


class Memory:
    """Trees that were read lately, so that what is the same is not read again.

    Only large ones have an id, and are remembered: the others are read as fast as their id. Threads that want
    the same at once read it once.
    """

    def __init__(self, max_bytes: int) -> None:
        """Remember so many bytes at most, and at least what was last read or written."""
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._lock = threading.Lock()

    def tree(
        self, client: redis.Redis, key: str, decode: Callable[[codec.Buffer], Params]
    ) -> tuple[Params, int] | None:
        """The tree at this key, and how many bytes were read for it; None if there is none."""
        with self._lock:
            if key in self._kept:
                value, tree = self._kept.pop(key)
                if client.getrange(key, 0, codec.PREFIX - 1) == value[: codec.PREFIX]:
                    tree = decode(value) if tree is None else tree
                    self._keep(key, value, tree)
                    return tree, codec.PREFIX
            found = read(client, key)
            if found is None:
                return None
            tree = decode(found)
            if codec.length(found) is not None:
                self._keep(key, found, tree)
            return tree, len(found)

    def update(self, written: Mapping[str, codec.Buffer], deleted: Iterable[str]) -> None:
        """Remember trees that were just written, and let go of what is there no more."""
        with self._lock:
            for key in (*deleted, *written):
                self._kept.pop(key, None)
            for key, value in written.items():
                if codec.length(value) is not None:
                    self._keep(key, memoryview(value).toreadonly(), None)

    def _keep(self, key: str, value: codec.Buffer, tree: Params | None) -> None:
        self._kept[key] = (value, tree)
        while len(self._kept) > 1 and sum(map(_num_bytes, self._kept.values())) > self._max_bytes:
            self._kept.popitem(last=False)


def _num_bytes(kept: Kept) -> int:
    """Bytes of memory: the tree of a compressed value is no view of it."""
    value, tree = kept
    return max(len(value), trees.num_bytes(tree or {}))
