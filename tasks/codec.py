"""Trees of arrays to and from what msgpack carries, checked against a reference.

A tree is a list of [path, {dtype, shape, encoding, data}] with raw little-endian bytes. Decoding makes no
copy: the arrays are read-only views of the message.

Whoever wrote a message may be hostile, so what decoding one costs is bounded: its texts, lists and maps are
no longer than an honest one's, nor are there more of them. It may be nested as deep as the parser goes, which
is 1024; nothing here follows it down.
"""

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import msgpack
import numpy as np

from workers import params as trees
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

PackedTree: TypeAlias = list[list[Any]]


def pack_tree(tree: Mapping[str, Array]) -> PackedTree:
    """The tree as msgpack takes it, sharing the arrays' memory."""
    return [[path, _pack_leaf(np.asarray(leaf))] for path, leaf in tree.items()]


def unpack_tree(packed: object, reference: Mapping[str, Array] | None) -> Params:
    """The tree, in the reference's order.

    `reference` has the paths, shapes and dtypes that are expected; None accepts any, for what we wrote
    ourselves.

    Raises:
        MalformedMessage: it is not a tree, or not like the reference; names the leaf that differs.
    """
    leaves = [_unpack_leaf(entry) for entry in _checked(packed, list, "a list of leaves")]
    tree = dict(leaves)
    if len(tree) != len(leaves):
        raise MalformedMessage(f"expected each leaf once, got {str([path for path, _ in leaves]):.{SHOWN}}")
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


def encode_tree(tree: Mapping[str, Array]) -> bytes:
    """A tree as a message of its own: a model, or a strategy's memory."""
    packed: bytes = msgpack.packb({"v": 1, "tree": pack_tree(tree)})
    return packed


def decode_tree(data: bytes, reference: Mapping[str, Array] | None) -> Params:
    """The inverse of `encode_tree`, checked as `unpack_tree` does."""
    message = unpack(data, num_leaves(data, reference))
    if message.keys() != {"v", "tree"} or type(message["v"]) is not int or message["v"] != 1:
        raise MalformedMessage(f"expected a tree of format 1, got a map of {str(sorted(message)):.{SHOWN}}")
    return unpack_tree(message["tree"], reference)


def unpack(data: bytes, num_leaves: int) -> dict[str, Any]:
    """The msgpack map that these bytes are.

    It has no more lists and maps, and no longer ones, than a message with a tree of so many leaves.

    Raises:
        MalformedMessage: they are not one.
    """
    longest = min(max(num_leaves, MAX_DIMENSIONS), len(data))
    left = 8 + min(3 * num_leaves, len(data) // BYTES_PER_LIST)  # lists and maps

    def counted(container: object) -> object:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError("it has more lists and maps than it should")
        return container

    try:
        _pass_over(data)
        message = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            max_array_len=longest,
            max_map_len=longest,
            max_str_len=min(MAX_TEXT, len(data)),
            max_bin_len=len(data),
            max_ext_len=0,
            list_hook=counted,
            object_hook=counted,
        )
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise MalformedMessage(
            f"expected a msgpack map, got {len(data)} bytes that are not: {error}"
        ) from error
    checked: dict[str, Any] = _checked(message, dict, "a msgpack map")
    for key in checked:
        _checked(key, str, "a msgpack map whose keys are text")
    return checked


def num_leaves(data: bytes, reference: Mapping[str, Array] | None) -> int:
    """Leaves that a message with one tree like the reference may have: one too many, to name it."""
    return len(data) // BYTES_PER_LEAF if reference is None else len(reference) + 1


def size_limit(reference: Mapping[str, Array]) -> int:
    """Bytes that a message with one tree like the reference takes at most."""
    return trees.num_bytes(reference) + LEAF_OVERHEAD * len(reference) + MESSAGE_OVERHEAD


def _pass_over(data: bytes) -> None:
    """Parse it all, keeping nothing.

    The parser reserves a list's memory by the length that the list claims; from here on the claims are true.
    """
    parser = msgpack.Unpacker(max_buffer_size=len(data))
    parser.feed(data)
    parser.skip()


def _pack_leaf(leaf: np.ndarray) -> dict[str, Any]:
    little_endian = np.ascontiguousarray(leaf, DTYPES[leaf.dtype.name])
    return {
        "dtype": leaf.dtype.name,
        "shape": list(leaf.shape),
        "encoding": "raw",
        "data": little_endian.reshape(-1).view(np.uint8).data,
    }


def _unpack_leaf(entry: object) -> tuple[str, np.ndarray]:
    pair = _checked(entry, list, "a leaf [path, array]")
    if len(pair) != 2:
        raise MalformedMessage(f"expected a leaf [path, array], got a list of {len(pair)}")
    path = _checked(pair[0], str, "a leaf's path")
    where = f"of leaf {path!r:.{SHOWN}}"
    fields = _checked(pair[1], dict, f"the array {where}")
    if fields.keys() != {"dtype", "shape", "encoding", "data"} or fields["encoding"] != "raw":
        raise MalformedMessage(f"the array {where}: expected dtype, shape, encoding 'raw' and data")
    dtype = DTYPES.get(_checked(fields["dtype"], str, f"the dtype {where}"))
    if dtype is None:
        raise MalformedMessage(f"the dtype {where}: expected one of {', '.join(DTYPES)}")
    shape = _checked(fields["shape"], list, f"the shape {where}")
    if not all(type(size) is int and 0 <= size < 2**40 for size in shape) or len(shape) > MAX_DIMENSIONS:
        raise MalformedMessage(f"the shape {where}: expected up to {MAX_DIMENSIONS} sizes")
    data = _checked(fields["data"], bytes, f"the data {where}")
    expected = math.prod(shape) * np.dtype(dtype).itemsize
    if len(data) != expected:
        raise MalformedMessage(f"the data {where}: expected {expected} bytes for {shape}, got {len(data)}")
    try:
        return path, np.frombuffer(data, dtype).reshape(shape)
    except ValueError as error:  # sizes whose product is 0 may still be more than NumPy has
        raise MalformedMessage(f"the shape {where}: {error}") from error


def _checked(value: object, kind: type, what: str) -> Any:
    if type(value) is not kind:
        raise MalformedMessage(f"expected {what}, got {type(value).__name__}")
    return value
