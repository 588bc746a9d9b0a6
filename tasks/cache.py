"""Trees that were read lately, kept in memory by the id that each large message begins with."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping

import redis

from tasks import codec, values
from tasks.codec import Parts
from workers import params as trees
from workers.params import Params

Kept = tuple[codec.Buffer, Params | None]  # as it is there, and its tree once somebody has asked for it


class Cache:
    """So that what is the same is not read again.

    Only large ones have an id, and are remembered: the others are read as fast as their id. Threads that want
    the same at once read it once.
    """

    def __init__(self, max_bytes: int, *, keeps_last: bool = False) -> None:
        """Remember so many bytes at most; or one tree, however large it is, if `keeps_last`."""
        self._max_bytes = max_bytes
        self._keeps_last = keeps_last
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._lock = threading.Lock()

    def tree(
        self, client: redis.Redis, key: str, decode: Callable[[codec.Buffer], Params]
    ) -> tuple[Params, int] | None:
        """The tree at this key, and how many bytes were read for it; None if there is none.

        Nobody can change one that is remembered. One that is too large for that is the caller's own.
        """
        with self._lock:
            kept = self._kept.pop(key, None)
            if kept is not None and values.identity(client, key) == kept[0][: codec.PREFIX]:
                value, tree = kept
                tree = decode(_read_only(value)) if tree is None else tree
                self._keep(key, value, tree)
                return tree, codec.PREFIX
            kept = None  # before the next is read
            self._let_go(self._max_bytes)
            found = values.read(client, key)
            if found is None:
                return None
            is_kept = codec.length(found) is not None and (self._keeps_last or len(found) <= self._max_bytes)
            tree = decode(_read_only(found) if is_kept else found)
            if is_kept:
                self._keep(key, found, tree)
            return tree, len(found)

    def take(self, client: redis.Redis, key: str, decode: Callable[[codec.Buffer], Params]) -> Params | None:
        """The tree at this key, for one who will change it, or None; it is remembered no more."""
        with self._lock:
            value, tree = self._kept.pop(key, (None, None))
        if value is not None and values.identity(client, key) == value[: codec.PREFIX]:
            return decode(value if tree is None else _read_only(value))
        value = tree = None
        found = values.read(client, key)
        return None if found is None else decode(found)

    def update(self, written: Mapping[str, Parts], deleted: Iterable[str]) -> None:
        """Remember trees that were just written, and let go of what is there no more."""
        with self._lock:
            for key in (*deleted, *written):
                self._kept.pop(key, None)
            for key, message in written.items():
                if message.is_apart and (self._keeps_last or len(message) <= self._max_bytes):
                    self._keep(key, message.whole, None)

    def _keep(self, key: str, value: codec.Buffer, tree: Params | None) -> None:
        for leaf in (tree or {}).values():
            leaf.flags.writeable = False
        self._kept[key] = (value, tree)
        self._let_go(self._max_bytes, 1 if self._keeps_last else 0)

    def _let_go(self, max_bytes: int, least: int = 0) -> None:
        """Of the oldest, until the others take no more bytes than this, or so few are left."""
        while len(self._kept) > least and sum(map(_num_bytes, self._kept.values())) > max_bytes:
            self._kept.popitem(last=False)


def _read_only(value: codec.Buffer) -> memoryview:
    return memoryview(value).toreadonly()


def _num_bytes(kept: Kept) -> int:
    """Bytes of memory: the tree of a compressed value is no view of it."""
    value, tree = kept
    return max(len(value), trees.num_bytes(tree or {}))
