"""Trees of arrays to and from what msgpack carries, checked against a reference.

A tree is a list of [path, {dtype, shape, encoding, data}] with raw little-endian bytes. Decoding makes no
copy: the arrays are read-only views of the message.
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
        raise MalformedMessage(f"expected each leaf once, got {[path for path, _ in leaves]}")
    if reference is None:
        return tree
    if differing := sorted(tree.keys() ^ reference.keys()):
        found = "unexpected" if differing[0] in tree else "missing"
        raise MalformedMessage(f"leaf {differing[0]!r} is {found}; expected the leaves {sorted(reference)}")
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
    message = unpack(data)
    if message.keys() != {"v", "tree"} or message["v"] != 1:
        raise MalformedMessage(f"expected a tree of format 1, got a map of {sorted(message)}")
    return unpack_tree(message["tree"], reference)


def unpack(data: bytes) -> dict[str, Any]:
    """The msgpack map that these bytes are.

    Raises:
        MalformedMessage: they are not one.
    """
    try:
        # Lengths inside are checked against the message's own, nesting against the parser's limit.
        message = msgpack.unpackb(data, raw=False, strict_map_key=True)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise MalformedMessage(
            f"expected a msgpack map, got {len(data)} bytes that are not: {error}"
        ) from error
    checked: dict[str, Any] = _checked(message, dict, "a msgpack map")
    for key in checked:
        _checked(key, str, "a msgpack map whose keys are text")
    return checked


def size_limit(reference: Mapping[str, Array]) -> int:
    """Bytes that a message with one tree like the reference takes at most."""
    return trees.num_bytes(reference) + LEAF_OVERHEAD * len(reference) + MESSAGE_OVERHEAD


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
    where = f"of leaf {path!r}"
    fields = _checked(pair[1], dict, f"the array {where}")
    if fields.keys() != {"dtype", "shape", "encoding", "data"} or fields["encoding"] != "raw":
        raise MalformedMessage(f"the array {where}: expected dtype, shape, encoding 'raw' and data")
    dtype = DTYPES.get(_checked(fields["dtype"], str, f"the dtype {where}"))
    if dtype is None:
        raise MalformedMessage(f"the dtype {where}: expected one of {', '.join(DTYPES)}")
    shape = _checked(fields["shape"], list, f"the shape {where}")
    if not all(type(size) is int and 0 <= size < 2**40 for size in shape) or len(shape) > 32:
        raise MalformedMessage(f"the shape {where}: expected up to 32 sizes")
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
