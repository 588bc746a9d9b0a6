"""Trees that were read lately, kept in memory by the id that each large message begins with."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import redis

from tasks import codec, values
from tasks.codec import Parts
from workers import params as trees
from workers.params import Params

Decode: TypeAlias = Callable[[codec.Buffer], Params]
Step: TypeAlias = Callable[[Params, int], Params | None]


class Kept(NamedTuple):
    """A message, or its tree, or both."""

    begin: bytes  # what tells it from another
    value: codec.Buffer = b""
    tree: Params = {}  # of a value only once somebody has asked for it

    @property
    def num_bytes(self) -> int:
        """Bytes of memory: the tree of a compressed value is no view of it."""
        return max(len(self.value), trees.num_bytes(self.tree))


class Cache:
    """So that what is the same is not read again.

    Only those with an id are remembered, which most small ones have not: they are read as fast as it. The
    oldest goes first, whoever has asked for it since, as a newer version is what is asked for next. Threads
    that want the same at once read it once.
    """

    def __init__(self, max_bytes: int, *, keeps_last: bool = False) -> None:
        """Remember the newest tree, of at most so many bytes, and before it others of half as many together.

        `keeps_last`: the newest, however large it is.
        """
        self._max_bytes = max_bytes
        self._keeps_last = keeps_last
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._lock = threading.Lock()

    def tree(self, client: redis.Redis, key: str, decode: Decode) -> tuple[Params, int] | None:
        """The tree at this key, and how many bytes were read for it; None if there is none.

        Nobody can change one that is remembered. One that is too large for that is the caller's own.
        """
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None and values.identity(client, key) == kept.begin:
                tree = _tree_of(kept, decode)
                self._kept[key] = kept._replace(tree=tree)
                return tree, codec.PREFIX
            kept = None  # before the next is read
            self._kept.pop(key, None)
            self._let_go(beside=0)
            found = values.read(client, key)
            if found is None:
                return None
            if codec.length(found) is None or not self._has_room_for(len(found)):
                return decode(found), len(found)
            kept = Kept(bytes(found[: codec.PREFIX]), found)
            tree = _tree_of(kept, decode)
            self._keep(key, kept._replace(tree=tree))
            return tree, len(found)

    def take(self, client: redis.Redis, key: str, decode: Decode) -> Params | None:
        """The tree at this key, for one who will change it, or None; it is remembered no more.

        Leaves that somebody else may have cannot be written to.
        """
        with self._lock:
            kept = self._kept.pop(key, None)
        if kept is not None and values.identity(client, key) == kept.begin:
            return kept.tree or decode(kept.value)
        kept = None  # before the next is read
        found = values.read(client, key)
        return None if found is None else decode(found)

    def made(self, path: Sequence[tuple[str, bytes]], step: Step) -> Params | None:
        """The tree at the path's end, made of the last one on it that is remembered, or None.

        The path is of keys, and their messages' ids. `step` makes, of a tree on it, the next, of which it is
        told the place, or None if it cannot; a tree that can be written to it may change.
        """
        with self._lock:
            places = [place for place, (key, id_) in enumerate(path) if self._is_at(key, id_)]
            if not places:
                return None
            begin, _, tree = self._kept[path[places[-1]][0]]
            made: Params | None = tree
            for place in range(places[-1] + 1, len(path)):
                made = step(made, place) if made else None
            if made and made is not tree:
                key, id_ = path[-1]
                self._keep(key, Kept(begin[: -codec.ID_BYTES] + id_, tree=_frozen(made)))
            return made

    def update(self, written: Mapping[str, Parts], deleted: Iterable[str]) -> None:
        """Remember trees that were just written, and let go of what is there no more.

        Nobody can change those trees any more.
        """
        with self._lock:
            for key in (*deleted, *written):
                self._kept.pop(key, None)
            for key, message in written.items():
                if message.is_apart and self._has_room_for(len(message)):
                    value = b"" if message.tree else message.whole
                    self._keep(key, Kept(message.begin, value, _frozen(message.tree)))

    def _has_room_for(self, num_bytes: int) -> bool:
        return self._keeps_last or num_bytes <= self._max_bytes

    def _is_at(self, key: str, id_: bytes) -> bool:
        """Whether the tree of the message with this id is remembered at the key."""
        kept = self._kept.get(key)
        return kept is not None and codec.id_of(kept.begin) == id_ and bool(kept.tree)

    def _keep(self, key: str, kept: Kept) -> None:
        self._kept[key] = kept
        self._let_go(beside=1)

    def _let_go(self, beside: int) -> None:
        """Of the oldest, until the others, beside so many of the newest, take no more bytes than they may."""
        sizes = [kept.num_bytes for kept in self._kept.values()]
        while sum(sizes[: len(sizes) - beside]) > self._max_bytes // 2:
            self._kept.popitem(last=False)
            del sizes[0]


def _tree_of(kept: Kept, decode: Decode) -> Params:
    return kept.tree or _frozen(decode(memoryview(kept.value).toreadonly()))


def _frozen(tree: Params) -> Params:
    for leaf in tree.values():
        leaf.flags.writeable = False
    return tree
