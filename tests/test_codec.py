import re
import tracemalloc
from io import BytesIO

import msgpack
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tasks import codec, messages
from tasks.codec import DTYPES
from tasks.messages import Submission
from workers.errors import MalformedMessage
from workers.models import MultilayerPerceptron
from workers.optimizers import Adam
from workers.strategies import FedBuff

thorough = settings(max_examples=300, deadline=None, derandomize=True)

REFERENCE = {
    "layer0/weight": np.arange(6, dtype=np.float32).reshape(3, 2),
    "layer0/bias": np.array([-1.5, 2.0], np.float32),
    "count": np.array(7, np.int64),
}


def assert_same_bits(one, other):
    assert list(one) == list(other)
    for path, leaf in one.items():
        assert (leaf.shape, leaf.dtype.name) == (other[path].shape, other[path].dtype.name)
        assert leaf.tobytes() == np.ascontiguousarray(other[path], leaf.dtype).tobytes()


def leaf_of(**fields):
    """A packed tree of one leaf, as it should be but for these fields."""
    right = {"dtype": "float32", "shape": [2], "encoding": "raw", "data": bytes(8)}
    return [["w", right | fields]]


def refusal(packed):
    with pytest.raises(MalformedMessage) as raised:
        codec.unpack_tree(packed, None)
    return str(raised.value)


# Round trips


@given(
    st.dictionaries(
        st.text(max_size=30),
        st.sampled_from(sorted(DTYPES)).flatmap(
            lambda dtype: arrays.arrays(
                dtype, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
            )
        ),
        max_size=5,
    )
)
@settings(thorough, max_examples=100)
def test_any_tree_round_trips_bit_for_bit(tree):
    data = codec.encode_tree(tree)
    assert_same_bits(codec.decode_tree(data, None), tree)
    assert_same_bits(codec.decode_tree(data, tree), tree)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_round_trips_at_its_limits(dtype):
    limits = np.finfo(dtype) if dtype.startswith("float") else np.iinfo(dtype)
    tree = {"w": np.array([limits.min, 0, 1, limits.max], dtype)}
    decoded = codec.decode_tree(codec.encode_tree(tree), tree)
    np.testing.assert_array_equal(decoded["w"], tree["w"], strict=True)


def test_not_a_number_and_infinities_round_trip():
    # Whether they are welcome is for others to say.
    tree = {"w": np.array([np.nan, np.inf, -np.inf, -0.0], np.float32)}
    assert_same_bits(codec.decode_tree(codec.encode_tree(tree), tree), tree)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1, 1, 1)])
def test_scalars_and_empty_arrays_round_trip(shape):
    tree = {"w": np.zeros(shape, np.float64)}
    decoded = codec.decode_tree(codec.encode_tree(tree), tree)["w"]
    assert (decoded.shape, decoded.dtype) == (shape, np.float64)


def test_an_empty_tree_round_trips():
    assert codec.decode_tree(codec.encode_tree({}), {}) == {}


@pytest.mark.parametrize(
    "leaf",
    [
        np.array([[1, 2], [3, 4]], ">f4"),
        np.array([1, -2], ">i8"),
        np.arange(12, dtype=np.float32).reshape(3, 4).T,
        np.arange(12, dtype=np.int32)[::-2],
        np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
        np.broadcast_to(np.float32(3), (2, 2)),
        np.float32(1.25),
    ],
    ids=["big-endian", "big-endian integers", "transposed", "strided", "by columns", "broadcast", "scalar"],
)
def test_an_array_of_any_layout_arrives_as_little_endian_rows(leaf):
    decoded = codec.decode_tree(codec.encode_tree({"w": leaf}), None)["w"]
    np.testing.assert_array_equal(decoded, leaf)
    assert decoded.dtype == np.dtype(DTYPES[leaf.dtype.name])
    assert decoded.flags.c_contiguous


def test_the_bytes_are_as_documented():
    message = msgpack.unpackb(codec.encode_tree({"w": np.array([[1.0], [-2.0]], np.float32)}))
    data = bytes.fromhex("0000803f000000c0")
    leaf = {"dtype": "float32", "shape": [2, 1], "encoding": "raw", "data": data}
    assert message == {"v": 1, "tree": [["w", leaf]]}


def test_decoding_makes_no_copy_and_its_arrays_are_read_only():
    decoded = codec.decode_tree(codec.encode_tree(REFERENCE), REFERENCE)
    assert not any(leaf.flags.writeable or leaf.flags.owndata for leaf in decoded.values())


def test_the_tree_comes_in_the_references_order():
    written = codec.encode_tree(dict(reversed(REFERENCE.items())))
    assert_same_bits(codec.decode_tree(written, REFERENCE), REFERENCE)


# Trees unlike the reference


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (
            {path: leaf for path, leaf in REFERENCE.items() if path != "layer0/bias"},
            "leaf 'layer0/bias' is missing; expected the leaves ['count', 'layer0/bias', 'layer0/weight']",
        ),
        (
            REFERENCE | {"layer1/bias": np.zeros(1, np.float32)},
            "leaf 'layer1/bias' is unexpected; expected the leaves ['count', 'layer0/bias', 'layer0/weight']",
        ),
        (
            REFERENCE | {"layer0/bias": np.zeros(3, np.float32)},
            "leaf 'layer0/bias': expected float32 (2,), got float32 (3,)",
        ),
        (
            REFERENCE | {"layer0/weight": np.zeros((2, 3), np.float32)},
            "leaf 'layer0/weight': expected float32 (3, 2), got float32 (2, 3)",
        ),
        (
            REFERENCE | {"layer0/bias": np.zeros((2, 1), np.float32)},
            "leaf 'layer0/bias': expected float32 (2,), got float32 (2, 1)",
        ),
        (
            REFERENCE | {"layer0/bias": np.zeros(2, np.float64)},
            "leaf 'layer0/bias': expected float32 (2,), got float64 (2,)",
        ),
        ({}, "leaf 'count' is missing; expected the leaves ['count', 'layer0/bias', 'layer0/weight']"),
    ],
)
def test_a_tree_unlike_its_reference_is_refused_by_the_leaf_that_differs(tree, message):
    with pytest.raises(MalformedMessage) as raised:
        codec.decode_tree(codec.encode_tree(tree), REFERENCE)
    assert str(raised.value) == message


# Trees that are none


@pytest.mark.parametrize(
    ("packed", "message"),
    [
        (None, "expected a list of leaves, got NoneType"),
        ({"w": []}, "expected a list of leaves, got dict"),
        (["w"], "expected a leaf [path, array], got str"),
        ([["w"]], "expected a leaf [path, array], got a list of 1"),
        ([["w", {}, {}]], "expected a leaf [path, array], got a list of 3"),
        ([[b"w", {}]], "expected a leaf's path, got bytes"),
        ([["w", []]], "expected the array of leaf 'w', got list"),
        ([["w", {}]], "the array of leaf 'w': expected dtype, shape, encoding 'raw' and data"),
        (leaf_of(order="F"), "the array of leaf 'w': expected dtype, shape, encoding 'raw' and data"),
        (leaf_of(encoding="zip"), "the array of leaf 'w': expected dtype, shape, encoding 'raw' and data"),
        (leaf_of(encoding=[]), "the array of leaf 'w': expected dtype, shape, encoding 'raw' and data"),
        (leaf_of(dtype=4), "expected the dtype of leaf 'w', got int"),
        (leaf_of(dtype="object"), "the dtype of leaf 'w': expected one of float32, float64, int32, int64"),
        (leaf_of(dtype="<f4"), "the dtype of leaf 'w': expected one of float32, float64, int32, int64"),
        (leaf_of(shape=2), "expected the shape of leaf 'w', got int"),
        (leaf_of(shape=[-2]), "the shape of leaf 'w': expected up to 32 sizes"),
        (leaf_of(shape=[2.0]), "the shape of leaf 'w': expected up to 32 sizes"),
        (leaf_of(shape=[True, 2]), "the shape of leaf 'w': expected up to 32 sizes"),
        (leaf_of(shape=[2**40]), "the shape of leaf 'w': expected up to 32 sizes"),
        (leaf_of(shape=[1] * 33), "the shape of leaf 'w': expected up to 32 sizes"),
        (leaf_of(data="12345678"), "expected the data of leaf 'w', got str"),
        (leaf_of(data=bytes(7)), "the data of leaf 'w': expected 8 bytes for [2], got 7"),
        (leaf_of(data=bytes(12)), "the data of leaf 'w': expected 8 bytes for [2], got 12"),
        (leaf_of(shape=[]), "the data of leaf 'w': expected 4 bytes for [], got 8"),
        (leaf_of(shape=[0]), "the data of leaf 'w': expected 0 bytes for [0], got 8"),
        (leaf_of(dtype="int64"), "the data of leaf 'w': expected 16 bytes for [2], got 8"),
        (
            leaf_of(shape=[2**39, 2**39]),
            f"the data of leaf 'w': expected {4 * 2**78} bytes for [{2**39}, {2**39}], got 8",
        ),
    ],
)
def test_what_is_no_tree_is_refused_and_its_leaf_named(packed, message):
    assert refusal(packed) == message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (msgpack.packb({"v": 2, "tree": []}), "expected a tree of format 1, got a map of ['tree', 'v']"),
        (msgpack.packb({"tree": []}), "expected a tree of format 1, got a map of ['tree']"),
        (msgpack.packb({"v": 1, "tree": [], "w": 0}), "expected a tree of format 1, got a map of "),
        (msgpack.packb([1, 2]), "expected a msgpack map, got list"),
        (msgpack.packb({"v": 1, "tree": 3}), "expected a list of leaves, got int"),
        (b"", "expected a msgpack map, got 0 bytes that are not: "),
        (b"\xc1", "expected a msgpack map, got 1 bytes that are not: "),
        (msgpack.packb({}) + b"\x00", "expected a msgpack map, got 2 bytes that are not: "),
        (msgpack.packb({1: 2}), "expected a msgpack map, got 3 bytes that are not: "),
        (b"\x81\xa1v\xdd\xff\xff\xff\xff", "expected a msgpack map, got 8 bytes that are not: "),
        (b"\x81\xa1v\xc6\xff\xff\xff\xff", "expected a msgpack map, got 8 bytes that are not: "),
        (b"\x81\xa1v" + b"\x91" * 5000, "expected a msgpack map, got 5003 bytes that are not: "),
        (b"\x81\xa1\xff\x00", "expected a msgpack map, got 4 bytes that are not: "),
    ],
    ids=[
        "another version",
        "no version",
        "a field more",
        "a list",
        "no tree",
        "nothing",
        "no msgpack",
        "bytes left over",
        "a number for a key",
        "a list longer than the message",
        "bytes longer than the message",
        "nested too deeply",
        "no unicode",
    ],
)
def test_bytes_that_are_no_tree_are_refused(data, message):
    with pytest.raises(MalformedMessage) as raised:
        codec.decode_tree(data, REFERENCE)
    assert str(raised.value).startswith(message)


# Garbage


def decode_or_refuse(data, reference):
    """Either something that satisfies the reference, or MalformedMessage; anything else is raised."""
    try:
        tree = codec.decode_tree(data, reference)
    except MalformedMessage:
        return
    assert list(tree) == list(reference)
    for path, leaf in tree.items():
        assert (leaf.shape, leaf.dtype) == (reference[path].shape, reference[path].dtype)


def mutated(message):
    """The message after up to four accidents: bytes flipped, overwritten, cut off, left out, repeated."""
    size = len(message)
    places = st.integers(0, size - 1)
    flip = st.tuples(st.just("flip"), places, st.integers(0, 7))
    write = st.tuples(st.just("write"), places, st.binary(min_size=1, max_size=5))
    cut = st.tuples(st.just("cut"), places, st.none())
    drop = st.tuples(st.just("drop"), places, st.integers(1, 30))
    repeat = st.tuples(st.just("repeat"), places, st.tuples(places, st.integers(1, 30)))

    def apply(accidents):
        data = bytearray(message)
        for kind, place, detail in accidents:
            match kind:
                case "flip" if place < len(data):
                    data[place] ^= 1 << detail
                case "write":
                    data[place : place + len(detail)] = detail
                case "cut":
                    del data[place:]
                case "drop":
                    del data[place : place + detail]
                case "repeat":
                    begin, length = detail
                    data[place:place] = message[begin : begin + length]
        return bytes(data)

    return st.lists(st.one_of(flip, write, cut, drop, repeat), min_size=1, max_size=4).map(apply)


@given(st.binary(max_size=200))
@thorough
def test_arbitrary_bytes_are_refused_and_nothing_else_is_raised(data):
    with pytest.raises(MalformedMessage):
        codec.decode_tree(data, REFERENCE)


@given(mutated(codec.encode_tree(REFERENCE)))
@thorough
def test_a_damaged_tree_is_refused_or_satisfies_the_reference(data):
    decode_or_refuse(data, REFERENCE)


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=24),
    st.sampled_from(["w", "float32", "raw", bytes(8), 0, 1, 2]),
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
)
leaves = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*DTYPES, "bool"]) | anything,
        "shape": st.lists(st.integers(-1, 3), max_size=4) | anything,
        "encoding": st.just("raw") | anything,
        "data": st.sampled_from([bytes(size) for size in (0, 4, 8, 12, 16)]) | anything,
    }
)


@given(st.lists(st.tuples(st.sampled_from(["w", "b"]) | anything, leaves | anything), max_size=2) | anything)
@example([("w", {"dtype": "float32", "shape": [2], "encoding": "raw", "data": bytes(8)})])
@thorough
def test_a_well_formed_message_of_the_wrong_things_is_refused_or_satisfies_the_reference(tree):
    decode_or_refuse(msgpack.packb({"v": 1, "tree": tree}), {"w": np.zeros(2, np.float32)})


# How large a message may be


@pytest.mark.parametrize(
    "tree",
    [
        {},
        REFERENCE,
        {f"layer{index}/{'x' * 200}": np.zeros((1,) * 32, np.float64) for index in range(20)},
        MultilayerPerceptron(hidden=(64, 64, 64)).init(np.random.default_rng(0), (30,), 10),
        FedBuff(server_optimizer=Adam(learning_rate=0.1)).init(
            MultilayerPerceptron(hidden=(8,)).init(np.random.default_rng(0), (30,), 10)
        ),
    ],
    ids=["empty", "small", "long paths and shapes", "a perceptron", "a memory"],
)
def test_the_size_limit_bounds_every_message_with_such_a_tree(tree):
    limit = codec.size_limit(tree)
    assert len(codec.encode_tree(tree)) <= limit
    longest = Submission(
        order="a" * 63 + f"/{2**53 - 1}",
        issued=2e9 / 3,
        delta=codec.pack_tree(tree),
        error="\N{OLD PERSIAN SIGN A}" * 500,  # of four bytes each
        num_examples=2**53 - 1,
        loss=1e39,
        started=2e9 / 3,
        seconds=1e9 / 3,
        bytes_down=2**53 - 1,
    )
    assert len(messages.encode(longest)) <= limit


def test_the_size_limit_is_little_more_than_the_arrays_of_a_large_model():
    params = MultilayerPerceptron(hidden=(512, 512)).init(np.random.default_rng(0), (100,), 10)
    num_bytes = sum(leaf.nbytes for leaf in params.values())
    assert num_bytes < codec.size_limit(params) < 1.01 * num_bytes


@pytest.mark.parametrize("shape", [[0, 2**39, 2**39], [2**39, 2**39, 0], [0, 2**39, 2**39, 2**39]])
def test_a_shape_that_numpy_cannot_have_is_refused(shape):
    leaf = {"dtype": "float32", "shape": shape, "encoding": "raw", "data": b""}
    with pytest.raises(MalformedMessage, match="the shape of leaf 'w'"):
        codec.unpack_tree([["w", leaf]], {"w": np.zeros(2, np.float32)})


def test_a_map_with_keys_of_text_and_of_bytes_is_refused():
    with pytest.raises(MalformedMessage, match="expected a msgpack map whose keys are text, got bytes"):
        codec.decode_tree(msgpack.packb({"v": 1, b"tree": []}), None)


def test_a_leaf_that_comes_twice_is_refused():
    packed = msgpack.unpackb(msgpack.packb(codec.pack_tree({"w": np.zeros(2, np.float32)}))) * 2
    with pytest.raises(MalformedMessage, match="expected each leaf once"):
        codec.unpack_tree(packed, {"w": np.zeros(2, np.float32)})


# What decoding may cost


def nested_claims(size, depth=1000):
    """Lists in one another, each of which claims to be this long; the innermost is."""
    return b"\x81\xa1v" + (b"\xdd" + size.to_bytes(4, "big")) * depth + b"\xc0" * size


def allocated_by(decode):
    """The most bytes that were allocated at once while it ran."""
    tracemalloc.start()
    try:
        decode()
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


@pytest.mark.parametrize(
    "data",
    [
        nested_claims(5000),
        b"\x81\xa1v\xdd\x00\x00\xff\xff" + b"\x80" * 65535,
        b"\x81\xa1v" + b"\xdc\x00\x20" * 1000 + b"\xc0" * 32,
        msgpack.packb({"v": [[["ab"] * 30] * 30] * 30}),
    ],
    ids=[
        "lists that claim to be long",
        "many empty maps",
        "lists that claim to be short",
        "many small texts",
    ],
)
@pytest.mark.parametrize("reference", [REFERENCE, None], ids=["with a reference", "without"])
def test_a_small_message_cannot_make_the_decoder_allocate_much(data, reference):
    def decode():
        with pytest.raises(MalformedMessage):
            codec.decode_tree(data, reference)

    assert allocated_by(decode) < 2**21


def test_what_lists_claim_is_checked_before_memory_is_reserved_for_it():
    # 1000 lists of 5000 places of 8 bytes would be 40 MB, of a message of 10 kB.
    def decode():
        with pytest.raises(MalformedMessage, match="No more data to unpack"):
            codec.unpack(nested_claims(5000), num_leaves=5000)

    assert allocated_by(decode) < 2**20


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ([0] * 33, "33 exceeds max_array_len(32)"),
        ({str(key): 0 for key in range(33)}, "33 exceeds max_map_len(32)"),
        ("x" * 4097, "4097 exceeds max_str_len(4096)"),
        (msgpack.ExtType(1, b"x"), "2 exceeds max_ext_len(0)"),
        ([[[]] * 5] * 5, "it has more lists and maps than it should"),
    ],
    ids=["a long list", "a long map", "a long text", "a type of its own", "many lists"],
)
def test_a_message_larger_in_any_way_than_one_with_such_a_tree_is_refused(value, complaint):
    padding = {"padding": bytes(5000)}
    with pytest.raises(MalformedMessage, match=re.escape(complaint)):
        codec.unpack(msgpack.packb({"v": value, **padding}), num_leaves=3)


def test_the_longest_lists_and_texts_and_the_most_leaves_that_are_allowed_are_decoded():
    fields = {"list": [0] * 32, "text": "x" * 4096, "map": {str(key): 0 for key in range(32)}}
    assert codec.unpack(msgpack.packb(fields), num_leaves=3) == fields
    empty = np.zeros(0, np.int32)
    tree = {letter: empty for letter in ["", *map(chr, range(33, 127))]}  # a leaf takes no fewer bytes
    assert_same_bits(codec.decode_tree(codec.encode_tree(tree), None), tree)
    assert_same_bits(codec.decode_tree(codec.encode_tree(tree), tree), tree)


@pytest.mark.parametrize(
    "tree",
    [
        {"w" * 4000: np.zeros(2, np.float32)},
        {f"{index}-{'w' * 200}": np.zeros(2, np.float32) for index in range(4)},
    ],
    ids=["a long path", "many paths"],
)
def test_a_refusal_shows_little_of_a_hostile_message(tree):
    for packed in (codec.pack_tree(tree), codec.pack_tree(tree) * 2):
        with pytest.raises(MalformedMessage) as raised:
            codec.unpack_tree(msgpack.unpackb(msgpack.packb(packed)), {"w": np.zeros(2, np.float32)})
        assert len(str(raised.value)) < 400


def test_the_format_is_a_whole_number():
    with pytest.raises(MalformedMessage, match="expected a tree of format 1"):
        codec.decode_tree(msgpack.packb({"v": 1.0, "tree": []}), {})


# Large trees, whose arrays lie apart

LARGE = {
    "weight": np.arange(20_000, dtype=np.float32).reshape(100, 200),
    "empty": np.zeros((0, 3), np.float32),
    "bias": np.array([1.5, -2.0, 3.0], np.float32),
    "count": np.array(7, np.int64),
    "last": np.array([1, 2, 3], np.int32),
}


def large():
    return bytes(codec.encode_tree(LARGE))


def arrays_at(data):
    return -(-(codec.PREFIX + int.from_bytes(data[1:5], "big") + 5) // 64) * 64


def test_a_large_tree_is_the_same_after_a_round_trip_and_its_arrays_are_views_at_a_cache_line():
    data = memoryview(large())
    tree = codec.decode_tree(data, LARGE)
    assert_same_bits(tree, LARGE)
    start = np.frombuffer(data, np.uint8).ctypes.data
    for leaf in tree.values():
        assert not leaf.size or (leaf.ctypes.data - start) % 64 == 0
        assert not leaf.size or np.shares_memory(leaf, np.frombuffer(data, np.uint8))
    assert codec.length(data) == codec.length(data[:10_000]) == len(data) <= codec.size_limit(LARGE)


def test_a_large_message_is_a_sequence_of_msgpack_objects():
    objects = list(msgpack.Unpacker(BytesIO(large())))
    assert objects[0] == len(msgpack.packb(objects[2])) and len(objects[1]) == codec.ID_BYTES
    assert [leaf["data"] for _, leaf in objects[2]["tree"]] == [80_000, 0, 12, 8, 12]
    assert set(objects[3:-1]) <= {None} and type(objects[-1]) is bytes


def test_a_tree_that_is_not_large_is_one_map_and_says_no_length():
    data = codec.encode_tree({"w": np.zeros(codec.APART // 4 - 1, np.float32)})
    assert type(msgpack.unpackb(data)) is dict and codec.length(data) is None
    assert codec.length(codec.encode_tree({"w": np.zeros(codec.APART // 4, np.float32)})) is not None


def test_two_large_messages_differ_in_their_ids_and_in_nothing_else():
    one, other = large(), large()
    assert one[: codec.PREFIX] != other[: codec.PREFIX]
    assert one[codec.PREFIX :] == other[codec.PREFIX :]


def test_a_large_submission_is_decoded_with_its_other_fields():
    written = Submission(
        order="a/1", issued=1.5, delta=codec.pack_tree(LARGE), error="x" * 70, num_examples=3
    )
    data = messages.encode(written)
    assert codec.length(data) == len(data)
    read = messages.decode(Submission, data, LARGE)
    assert (read.order, read.issued, read.error, read.num_examples) == ("a/1", 1.5, "x" * 70, 3)
    assert_same_bits(codec.unpack_tree(read.delta, LARGE), LARGE)
    assert bytes(messages.encode(read))[codec.PREFIX :] == bytes(data)[codec.PREFIX :]


@pytest.mark.parametrize("size", [0, 1, 5, 14, 15, 16, 100, 400, 500, 80_000, -64, -1])
def test_a_large_message_that_was_cut_off_is_refused(size):
    data = large()
    with pytest.raises(MalformedMessage):
        codec.decode_tree(data[:size], LARGE)
    with pytest.raises(MalformedMessage, match="expected an id, a map and arrays of"):
        codec.decode_tree(data + b"x", LARGE)


@pytest.mark.parametrize(
    ("leaf", "size", "complaint"),
    [
        ("weight", 2**40, "leaves of more bytes than it has"),
        ("weight", -4, "leaves of more bytes than it has"),
        ("weight", 79_000, "more bytes than its leaves"),
        ("last", 0, "more bytes than its leaves"),
        ("last", 4, "the data of leaf 'last': expected 12 bytes for [3], got 4"),
        ("bias", 16, "the data of leaf 'bias': expected 12 bytes for [3], got 16"),
        ("weight", True, "more bytes than its leaves"),
        ("empty", True, "expected the data of leaf 'empty', got bool"),
        ("weight", bytes(80_000), "more bytes than its leaves"),
    ],
)
def test_leaves_that_are_not_the_arrays_are_refused(leaf, size, complaint):
    data = large()
    fields = msgpack.unpackb(data[codec.PREFIX :][: int.from_bytes(data[1:5], "big")])
    dict(fields["tree"])[leaf]["data"] = size
    header = msgpack.packb(fields)
    between = b"\xc0" * (-(codec.PREFIX + len(header) + 5) % 64)
    start = b"\xce" + len(header).to_bytes(4, "big") + data[5 : codec.PREFIX]
    arrays = data[arrays_at(data) :]
    with pytest.raises(MalformedMessage, match=re.escape(complaint)):
        codec.decode_tree(start + header + between + b"\xc6" + len(arrays).to_bytes(4, "big") + arrays, LARGE)


@pytest.mark.parametrize("place", [5, 6])
def test_what_is_between_the_map_and_the_arrays_is_as_we_write_it(place):
    data = bytearray(large())
    data[place] ^= 1
    with pytest.raises(MalformedMessage, match="expected an id, a map and arrays"):
        codec.decode_tree(bytes(data), LARGE)
    data = bytearray(large())
    data[arrays_at(data) - 5] = 0xC7
    with pytest.raises(MalformedMessage, match="expected an id, a map and arrays"):
        codec.decode_tree(bytes(data), LARGE)
