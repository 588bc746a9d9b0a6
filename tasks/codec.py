"""Trees of arrays to and from what msgpack carries, checked against a reference.

A tree is a list of [path, {dtype, shape, encoding, data}] with raw little-endian bytes. Decoding makes no
copy: the arrays are views of the message. A leaf that is blank (`params.blank`) has no bytes.

A message with a small tree is one msgpack map. Where a tree is large, its arrays lie apart, so that msgpack
neither packs nor parses them; the message is these msgpack objects, one after another:

    uint 32    bytes of the map
    bin 8      a random id, other for every message
    map        the message; a leaf's `data` is a number of bytes
    nil ...    so many that the arrays begin at a multiple of 64 bytes
    bin 32     the leaves' bytes in the order of the tree, each from a multiple of 64, with zeros between

From 4 GiB on, what `bin 32` says of its length is modulo 2^32.

Whoever wrote a message may be hostile, so what decoding one costs is bounded: its texts, lists and maps are
no longer than an honest one's, nor are there more of them. It may be nested as deep as the parser goes, which
is 1024; nothing here follows it down.
"""

import math
import secrets
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import msgpack
import numpy as np

from workers import compression as compressing
from workers import params as trees
from workers.compression import Compressed, Compression
from workers.errors import MalformedMessage
from workers.params import Array, Params

DTYPES = {"float32": "<f4", "float64": "<f8", "int32": "<i4", "int64": "<i8"}
LEAF_OVERHEAD = 512  # bytes, at most: a leaf's path, shape and names
MESSAGE_OVERHEAD = 4096  # bytes, at most: what else a message says
MAX_TEXT = 4096  # bytes of any text: an error's 500 characters, a leaf's path
MAX_DIMENSIONS = 32
BYTES_PER_LEAF = 42  # at least: an empty path, the names, no data
BYTES_PER_LIST = BYTES_PER_LEAF // 3  # for each list or map: a leaf has three
SHOWN = 200  # characters of what a message says, in an error
APART = 65_536  # bytes of a tree from which on its arrays lie apart
ALIGNMENT = 64  # bytes: a cache line, and what JAX takes without a copy
ID_BYTES = 8
BLANK = "blank"  # encoding of a leaf that has no bytes
PREFIX = 5 + 2 + ID_BYTES  # bytes that tell one message from another, and its map's length

PackedTree: TypeAlias = list[list[Any]]
Buffer: TypeAlias = bytes | memoryview


class Coding(NamedTuple):
    """How the float32 leaves of a tree are written; sender and receiver know it from the experiment."""

    compression: Compression | None = None  # None: as they are
    seed: int | None = 0  # None: nothing is drawn, integers are the nearest
    or_raw: bool = False  # or they may be as they are, like the last version of a model

    def of_leaf(self, number: int) -> int | None:
        """The seed of one of the tree's leaves."""
        return None if self.seed is None else (self.seed + number) % 2**63


RAW = Coding()


class Parts:
    """A message as the memory that it lies in, here and there, one after another; nothing is copied."""

    tree: Params  # that it is of, where it is known and just as it would be decoded; else empty

    def __init__(self, *parts: Buffer) -> None:
        """The message's bytes, of which the first part has the first `PREFIX`."""
        self._parts = parts
        self.tree = {}

    def __len__(self) -> int:
        """Bytes of the message."""
        return sum(map(len, self._parts))

    @property
    def is_apart(self) -> bool:
        """Whether its arrays lie apart, so that it has an id."""
        return self._parts[0][:1] == b"\xce"

    @property
    def begin(self) -> bytes:
        """The bytes that tell it from another."""
        return bytes(self._parts[0][:PREFIX])

    @cached_property
    def whole(self) -> Buffer:
        """All of it in one place."""
        if len(self._parts) == 1:
            return self._parts[0]
        message = memoryview(np.empty(len(self), np.uint8))  # type: ignore[arg-type]  # it is a buffer
        at = 0
        for part in self._parts:
            message[at : at + len(part)] = part
            at += len(part)
        return message

    def pieces(self, num_bytes: int) -> Iterator[Buffer]:
        """All of it in pieces of so many bytes, the last perhaps of fewer; few of them are copies."""
        piece: list[Buffer] = []
        room = num_bytes
        for part in self._parts:
            left = memoryview(part)
            while len(left):
                piece.append(left[:room])
                left, room = left[room:], room - len(piece[-1])
                if room == 0:
                    yield piece[0] if len(piece) == 1 else b"".join(piece)
                    piece, room = [], num_bytes
        if piece:
            yield b"".join(piece)


def pack_tree(tree: Mapping[str, Array], coding: Coding = RAW, *, may_be_blank: bool = False) -> PackedTree:
    """The tree as msgpack takes it; what is not compressed shares the arrays' memory.

    Raises:
        ValueError: a value is too large to be compressed, or not finite; names the leaf.
    """
    return [
        [path, _pack_leaf(path, np.asarray(leaf), coding, number, may_be_blank)]
        for number, (path, leaf) in enumerate(tree.items())
    ]


def unpack_tree(
    packed: object,
    reference: Mapping[str, Array] | None,
    coding: Coding = RAW,
    *,
    may_be_blank: bool = False,
    unpacked: bool = True,
) -> Params:
    """The tree, in the reference's order.

    `reference` has the paths, shapes and dtypes that are expected; None accepts any, for what we wrote
    ourselves. Compressed leaves can be left as `Compressed`, checked but not `unpacked`.

    Raises:
        MalformedMessage: it is not a tree, or not like the reference; names the leaf that differs.
    """
    tree: Params = {}
    for number, entry in enumerate(_checked(packed, list, "a list of leaves")):
        path, array = _named(entry)
        if path in tree:  # told before it is unpacked: a few bytes may be many values
            raise MalformedMessage(f"expected each leaf once, got {path!r:.{SHOWN}} again")
        tree[path] = _unpack_leaf(path, array, reference, coding, number, may_be_blank)
        if unpacked and isinstance(tree[path], Compressed):
            tree[path] = tree[path].decoded()
    if reference is None:
        return tree
    if differing := sorted(tree.keys() ^ reference.keys()):
        found = "unexpected" if differing[0] in tree else "missing"
        raise MalformedMessage(
            f"leaf {differing[0]!r:.{SHOWN}} is {found}; expected the leaves {sorted(reference)}"
        )
    for path, expected in reference.items():
        if (tree[path].shape, tree[path].dtype) != (expected.shape, expected.dtype):
            raise MalformedMessage(
                f"leaf {path!r}: expected {expected.dtype} {expected.shape}, "
                f"got {tree[path].dtype} {tree[path].shape}"
            )
    return {path: tree[path] for path in reference}


def encode_tree(tree: Mapping[str, Array], coding: Coding = RAW) -> Buffer:
    """A tree as a message of its own: a model, or a strategy's memory."""
    return tree_in_parts(tree, coding).whole


def tree_in_parts(tree: Mapping[str, Array], coding: Coding = RAW, identity: bytes | None = None) -> Parts:
    """The same, its arrays still where they are, and apart in any case if it is to have an id."""
    message = packed_in_parts(pack_tree(tree, coding, may_be_blank=True), identity)
    if coding.compression is None:
        message.tree = {path: np.asarray(leaf) for path, leaf in tree.items()}
    return message


def packed_in_parts(packed: PackedTree, identity: bytes | None = None) -> Parts:
    """The same of a tree that is packed."""
    return in_parts({"v": 1, "tree": packed}, tree_in="tree", identity=identity)


def decode_tree(
    data: Buffer,
    reference: Mapping[str, Array] | None,
    coding: Coding = RAW,
    *,
    unpacked: bool = True,
) -> Params:
    """The inverse of `encode_tree`, checked as `unpack_tree` does."""
    message = unpack(data, num_leaves(data, reference))
    if message.keys() != {"v", "tree"} or type(message["v"]) is not int or message["v"] != 1:
        raise MalformedMessage(f"expected a tree of format 1, got a map of {str(sorted(message)):.{SHOWN}}")
    return unpack_tree(message["tree"], reference, coding, may_be_blank=True, unpacked=unpacked)


def in_parts(
    fields: Mapping[str, Any],
    tree_in: str | None = None,
    default: Callable[[Any], Any] | None = None,
    identity: bytes | None = None,
) -> Parts:
    """The fields as a message; `tree_in` names the one that is a packed tree, `default` is msgpack's.

    With an `identity` a small tree's arrays lie apart, too, and that is the id.
    """
    tree = fields[tree_in] if tree_in else None
    sizes = [len(leaf["data"]) for _, leaf in tree or ()]
    if tree is None or (sum(sizes) < APART and identity is None):
        return Parts(msgpack.packb(fields, default=default))
    counted = [[path, {**leaf, "data": size}] for (path, leaf), size in zip(tree, sizes, strict=True)]
    header: bytes = msgpack.packb({**fields, str(tree_in): counted}, default=default)
    begin = _aligned(PREFIX + len(header) + 5)
    num_bytes = sum(map(_aligned, sizes[:-1])) + sizes[-1]
    padding = b"\xc0" * (begin - PREFIX - len(header) - 5)
    start = _unsigned(0xCE, len(header)) + b"\xc4\x08" + (identity or secrets.token_bytes(ID_BYTES))
    parts: list[Buffer] = [start + header + padding + _unsigned(0xC6, num_bytes % 2**32)]
    for (_, leaf), size in zip(tree, sizes, strict=True):
        parts += [leaf["data"], bytes(_aligned(size) - size)]
    return Parts(*parts[:-1])


def unpack(data: Buffer, num_leaves: int) -> dict[str, Any]:
    """The map that this message is; the data of a tree's leaves are views of it.

    It has no more lists and maps, and no longer ones, than a message with a tree of so many leaves.

    Raises:
        MalformedMessage: it is not one.
    """
    header, arrays = _apart(data) if data[:1] == b"\xce" else (data, None)
    longest = min(max(num_leaves, MAX_DIMENSIONS), len(header))
    left = 8 + min(3 * num_leaves, len(header) // BYTES_PER_LIST)  # lists and maps
    at = 0  # where in the arrays the next leaf's begin

    def counted(container: Any) -> object:
        nonlocal left, at
        left -= 1
        if left < 0:
            raise ValueError("it has more lists and maps than it should")
        if arrays is not None and type(container) is dict and type(container.get("data")) is int:
            end = at + container["data"]
            if not at <= end <= len(arrays):
                raise ValueError("it has leaves of more bytes than it has")
            container["data"] = arrays[at:end]
            at = _aligned(end)
        return container

    try:
        _pass_over(header)
        message = msgpack.unpackb(
            header,
            raw=False,
            strict_map_key=True,
            max_array_len=longest,
            max_map_len=longest,
            max_str_len=min(MAX_TEXT, len(header)),
            max_bin_len=len(header),
            max_ext_len=0,
            list_hook=counted,
            object_hook=counted,
        )
        if arrays is not None and at != _aligned(len(arrays)):
            raise ValueError("it has more bytes than its leaves")
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise MalformedMessage(
            f"expected a msgpack map, got {len(data)} bytes that are not: {error}"
        ) from error
    checked: dict[str, Any] = _checked(message, dict, "a msgpack map")
    for key in checked:
        _checked(key, str, "a msgpack map whose keys are text")
    return checked


def length(begin: Buffer) -> int | None:
    """Bytes of the message that begins so, if its arrays lie apart; None if it does not say."""
    size = int.from_bytes(begin[1:5], "big")
    arrays = _aligned(PREFIX + size + 5)
    if begin[:1] != b"\xce" or arrays > len(begin):
        return None
    return arrays + int.from_bytes(begin[arrays - 4 : arrays], "big")


def id_of(begin: Buffer) -> bytes:
    """The id of the message that begins so, which has one."""
    return bytes(begin[PREFIX - ID_BYTES : PREFIX])


def num_leaves(data: Buffer, reference: Mapping[str, Array] | None) -> int:
    """Leaves that a message with one tree like the reference may have: one too many, to name it."""
    return len(data) // BYTES_PER_LEAF if reference is None else len(reference) + 1


def size_limit(reference: Mapping[str, Array]) -> int:
    """Bytes that a message with one tree like the reference takes at most."""
    return trees.num_bytes(reference) + LEAF_OVERHEAD * len(reference) + MESSAGE_OVERHEAD


def _apart(data: Buffer) -> tuple[memoryview, memoryview]:
    """The map, and the arrays that lie apart from it.

    Raises:
        MalformedMessage: the message is not made of these.
    """
    view = memoryview(data)
    size = int.from_bytes(view[1:5], "big")
    begin = _aligned(PREFIX + size + 5)
    if begin > len(view):
        raise MalformedMessage(f"expected a map of {size} bytes and arrays, got {len(view)} bytes")
    between = bytes(view[PREFIX + size : begin])
    expected = b"\xc0" * (len(between) - 5) + _unsigned(0xC6, (len(view) - begin) % 2**32)
    if bytes(view[5:7]) != b"\xc4\x08" or between != expected:
        raise MalformedMessage(f"expected an id, a map and arrays of {len(view) - begin} bytes")
    return view[PREFIX : PREFIX + size], view[begin:]


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _unsigned(kind: int, number: int) -> bytes:
    """A number of four bytes after the byte that says what it is, as msgpack has it."""
    return bytes([kind]) + number.to_bytes(4, "big")


def _pass_over(data: Buffer) -> None:
    """Parse it all, keeping nothing.

    The parser reserves a list's memory by the length that the list claims; from here on the claims are true.
    """
    parser = msgpack.Unpacker(max_buffer_size=len(data))
    parser.feed(data)
    parser.skip()


def _pack_leaf(
    path: str, leaf: np.ndarray, coding: Coding, number: int, may_be_blank: bool
) -> dict[str, Any]:
    encoding: str = "raw"
    data: memoryview | bytes
    if coding.compression is not None and leaf.dtype == np.float32:
        try:
            encoding = coding.compression.kind
            data = compressing.encode(coding.compression, leaf, coding.of_leaf(number)).data
        except ValueError as error:
            raise ValueError(f"leaf {path!r}: {error}") from error
    elif may_be_blank and trees.is_blank(leaf):
        encoding, data = BLANK, b""
    else:
        data = np.ascontiguousarray(leaf, DTYPES[leaf.dtype.name]).reshape(-1).view(np.uint8).data
    return {"dtype": leaf.dtype.name, "shape": list(leaf.shape), "encoding": encoding, "data": data}


def _named(entry: object) -> tuple[str, object]:
    """A leaf's path, and what should be its array."""
    pair = _checked(entry, list, "a leaf [path, array]")
    if len(pair) != 2:
        raise MalformedMessage(f"expected a leaf [path, array], got a list of {len(pair)}")
    return _checked(pair[0], str, "a leaf's path"), pair[1]


def _unpack_leaf(
    path: str,
    array: object,
    reference: Mapping[str, Array] | None,
    coding: Coding,
    number: int,
    may_be_blank: bool,
) -> np.ndarray | Compressed:
    where = f"of leaf {path!r:.{SHOWN}}"
    fields = _checked(array, dict, f"the array {where}")
    compression = None if coding.or_raw and fields.get("encoding") == "raw" else coding.compression
    is_compressed = compression is not None and fields.get("dtype") == "float32"
    encoding = compression.kind if compression is not None and is_compressed else "raw"
    is_blank = may_be_blank and not is_compressed and fields.get("encoding") == BLANK
    if fields.keys() != {"dtype", "shape", "encoding", "data"} or not (
        is_blank or fields["encoding"] == encoding
    ):
        raise MalformedMessage(f"the array {where}: expected dtype, shape, encoding {encoding!r} and data")
    dtype = DTYPES.get(_checked(fields["dtype"], str, f"the dtype {where}"))
    if dtype is None:
        raise MalformedMessage(f"the dtype {where}: expected one of {', '.join(DTYPES)}")
    shape = _checked(fields["shape"], list, f"the shape {where}")
    if not all(type(size) is int and 0 <= size < 2**40 for size in shape) or len(shape) > MAX_DIMENSIONS:
        raise MalformedMessage(f"the shape {where}: expected up to {MAX_DIMENSIONS} sizes")
    data = fields["data"]
    if type(data) not in (bytes, memoryview):
        raise MalformedMessage(f"expected the data {where}, got {type(data).__name__}")
    if is_blank:
        return _blank(shape, dtype, where)
    if compression is None or not is_compressed:
        return _as_they_are(data, dtype, shape, where)
    if reference is not None and (path not in reference or reference[path].shape != tuple(shape)):
        return _blank(shape, dtype, where)  # it is refused for its shape: a few bytes may be many values
    try:
        return Compressed(compression, data, tuple(shape), coding.of_leaf(number))
    except ValueError as error:
        raise MalformedMessage(f"the data {where}: {error}") from error


def _as_they_are(data: Buffer, dtype: str, shape: list[int], where: str) -> np.ndarray:
    expected = math.prod(shape) * np.dtype(dtype).itemsize
    if len(data) != expected:
        raise MalformedMessage(f"the data {where}: expected {expected} bytes for {shape}, got {len(data)}")
    try:
        return np.frombuffer(data, dtype).reshape(shape)
    except ValueError as error:  # sizes whose product is 0 may still be more than NumPy has
        raise MalformedMessage(f"the shape {where}: {error}") from error


def _blank(shape: list[int], dtype: str, where: str) -> np.ndarray:
    try:
        return trees.blank(tuple(shape), np.dtype(dtype))
    except ValueError as error:
        raise MalformedMessage(f"the shape {where}: {error}") from error


def _checked(value: object, kind: type, what: str) -> Any:
    if type(value) is not kind:
        raise MalformedMessage(f"expected {what}, got {type(value).__name__}")
    return value
