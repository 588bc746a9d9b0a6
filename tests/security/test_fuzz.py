"""Every decoder against hostile bytes: what is not refused by an error of ours is what it should be.

`FEDELTA_FUZZ_CASES` says how many cases, over all decoders; `make fuzz` has a million. A case that fails is
printed as hex; `FEDELTA_FUZZ_SEED` gives other cases.
"""

import logging
import math
import os
import random
import resource
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import msgpack
import numpy as np
import pytest

from orchestrator import experiment
from tasks import aggregate, bell, codec, connection, messages, state
from tasks.aggregate import Drain
from tasks.bell import Call
from tasks.messages import Event, HistoryRow, Submission
from tasks.state import Head, SiteRecord
from tasks.turn import Turn
from tests.conftest import REPOSITORY, constant, make_spec, zeros
from tests.security.mutations import damaged, mutated
from tests.test_messages import FLAT, FULL_HEAD, FULL_RECORD, SPEC, SUBMISSION
from workers import params as trees
from workers.compression import BFloat16, Float16, Int2, Int3, Int4, Int8, TopK
from workers.errors import FedeltaError
from workers.params import Params
from workers.spec import Spec
from workers.strategies import Server

CASES = int(os.environ.get("FEDELTA_FUZZ_CASES", "20000"))
SEED = int(os.environ.get("FEDELTA_FUZZ_SEED", "1"))
MEMORY = 50 * 2**20  # bytes that all cases of a process together may add to it
SECONDS = 1.0  # of processor time that a case may take
CORES = 2

REFERENCE = {
    "layer0/weight": np.arange(6, dtype=np.float32).reshape(3, 2),
    "layer0/bias": np.array([-1.5, 2.0], np.float32),
    "count": np.array(7, np.int64),
}
LARGE = {"weight": np.ones((codec.APART // 4, 1), np.float32), "bias": np.arange(3, dtype=np.float32)}
MAX_NORM = 10.0
WEIGHTS = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
COMPRESSED = {"weight": WEIGHTS, "bias": np.arange(3, dtype=np.float32), "count": np.array(7, np.int64)}
KINDS = [BFloat16(), Float16(), Int8(block=32), Int4(rotation=True), Int3(), Int2(), TopK(fraction=0.1)]
CODINGS = {f"tree in {kind.kind}": codec.Coding(kind, seed=1) for kind in KINDS}


@dataclass(frozen=True)
class Target:
    """A decoder: its share of the cases, honest messages, what hostile ones are made of them, the check.

    `check` says whether it took the message, and raises one of our errors, or nothing else, if it did not.
    """

    share: float
    honest: Sequence[bytes]
    make: Callable[[random.Random, bytes], bytes]
    check: Callable[[bytes], bool]


# How each decoder is checked


def check_tree(data: bytes) -> bool:
    tree = codec.decode_tree(data, REFERENCE)
    assert_like(tree, REFERENCE)
    assert_same_bits(codec.decode_tree(codec.encode_tree(tree), REFERENCE), tree)
    return True


def check_tree_apart(data: bytes) -> bool:
    tree = codec.decode_tree(data, LARGE)
    assert_like(tree, LARGE)
    assert_same_bits(codec.decode_tree(codec.encode_tree(tree), LARGE), tree)
    return True


def check_tree_in(coding: codec.Coding) -> Callable[[bytes], bool]:
    def check(data: bytes) -> bool:
        tree = codec.decode_tree(data, COMPRESSED, coding)
        assert_like(tree, COMPRESSED)
        assert all(np.isfinite(leaf).all() for leaf in tree.values())
        return True

    return check


def check_any_tree(data: bytes) -> bool:
    tree = codec.decode_tree(data, None)
    assert_same_bits(codec.decode_tree(codec.encode_tree(tree), None), tree)
    return True


def check_unpack(data: bytes) -> bool:
    fields = codec.unpack(data, codec.num_leaves(data, None))
    assert type(fields) is dict and all(type(key) is str for key in fields)
    packed = msgpack.packb(fields)
    assert msgpack.packb(msgpack.unpackb(packed)) == packed
    return True


def check_message(kind: type) -> Callable[[bytes], bool]:
    encode = messages.encode_spec if kind is Spec else messages.encode

    def check(data: bytes) -> bool:
        decoded = messages.decode(kind, data)
        if getattr(decoded, "delta", None) is not None:
            codec.unpack_tree(decoded.delta, None)  # it may be anything so far
        encoded = encode(decoded)
        assert encode(messages.decode(kind, encoded)) == encoded
        return True

    return check


def check_hash(kind: type) -> Callable[[bytes], bool]:
    def check(data: bytes) -> bool:
        decoded = messages.from_hash(kind, hash_of(data))
        written = {name.encode(): value.encode() for name, value in messages.to_hash(decoded).items()}
        assert messages.from_hash(kind, written) == decoded
        return True

    return check


def check_call(data: bytes) -> bool:
    assert len(data) <= bell.MAX_BYTES or not bell.decode(data)
    call = bell.decode(data)
    assert bell.decode(messages.encode(call)) == call
    return True


def check_submission(data: bytes) -> bool:
    """As a coordinator's turn takes in what a site stored, up to the rows that it commits."""
    turn = turn_with(data)
    params = turn.model(0)
    so_far = Drain(state=turn.state, server=Server(params=params, version=0, memory={}))
    aggregate.take_in(turn, so_far, "a")
    for event in so_far.events:
        assert event.site == "a" and event.kind == "refused" and event.detail
        assert event.detail.isprintable()
        assert messages.decode(Event, messages.encode(event)) == event
    for row in so_far.history:
        assert messages.decode(HistoryRow, messages.encode(row)) == row
        assert row.num_examples >= 1
    assert_like(so_far.server.params, zeros())
    # x <- 0.5 x + 0.5 (x + delta), so the model has moved by half a delta.
    assert 2 * trees.norm(so_far.server.params) <= MAX_NORM
    assert len(so_far.events) + len(so_far.history) <= 1
    return bool(so_far.history)


def check_file(read: Callable[[Path], object]) -> Callable[[bytes], bool]:
    def check(data: bytes) -> bool:
        path = folder() / "written.toml"
        path.write_bytes(data)
        return read(path) == read(path)

    return check


def assert_like(tree: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]) -> None:
    assert list(tree) == list(reference)
    for path, leaf in tree.items():
        assert (leaf.shape, leaf.dtype) == (reference[path].shape, reference[path].dtype)


def assert_same_bits(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> None:
    assert_like(one, other)
    for path, leaf in one.items():
        if trees.is_blank(leaf):  # which may be of any size
            assert trees.is_blank(other[path])
        else:
            assert leaf.tobytes() == other[path].tobytes()


class Stored:
    """A Redis with one site's submission in it, as far as a turn asks; a real one is too slow here."""

    def __init__(self, delta: bytes) -> None:
        self._delta = delta

    def pipeline(self, *, transaction: bool) -> "Batch":
        return Batch(self._delta)

    def hgetall(self, key: str) -> dict[bytes, bytes]:
        return kept_state()[key.rpartition(":")[2]]

    def time(self) -> tuple[int, int]:
        return (1_750_000_000, 0)

    def lrange(self, key: str, first: int, last: int) -> list[bytes]:
        return [b"a"]

    def getrange(self, key: str, first: int, last: int) -> bytes:
        if not key.endswith("delta:a"):
            return kept_model()
        assert 0 <= first <= last <= codec.size_limit(zeros())  # no more is read, however much there is
        return self._delta[first : last + 1]

    def strlen(self, key: str) -> int:
        return len(self._delta)

    def exists(self, key: str) -> bool:
        return True


class Batch:
    """Its pipeline: what is asked of it, all at the end."""

    def __init__(self, delta: bytes) -> None:
        self._stored, self._answers = Stored(delta), []

    def __enter__(self) -> "Batch":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __getattr__(self, name: str) -> Callable[..., "Batch"]:
        def ask(*arguments: object) -> Batch:
            self._answers.append(getattr(self._stored, name)(*arguments))
            return self

        return ask

    def execute(self, *, raise_on_error: bool = True) -> list[object]:
        return self._answers


def turn_with(delta: bytes) -> Turn:
    pipe = Stored(delta)
    return Turn(pipe, pipe, "trial", kept_spec())


@cache
def kept_spec() -> Spec:
    strategy = {"kind": "fedasync", "mixing_rate": 0.5, "max_norm": MAX_NORM, "max_staleness": 3}
    return make_spec(strategy=strategy)


@cache
def kept_state() -> dict[str, dict[bytes, bytes]]:
    begun = state.begin(["a"], now=1.75e9)
    head = {name.encode(): value.encode() for name, value in messages.to_hash(begun.head).items()}
    return {"head": head, "sites": {b"a": messages.encode(begun.sites["a"])}}


@cache
def kept_model() -> bytes:
    return codec.encode_tree(zeros())


@cache
def folder() -> Path:
    """Where this process writes files, with those that a connection names."""
    found = Path(tempfile.mkdtemp(dir=os.environ["FEDELTA_FUZZ_FOLDER"]))
    for name in ("password", "ca.crt", "client.crt", "client.key"):
        (found / name).touch()
    return found


# How hostile messages are made

CALLS = [
    Call(kind="started", holder="0123456789abcdef"),
    Call(kind="submitted", experiment="trial", number=3, seconds=0.5),
]
DELTA = Submission(
    order="a/1", issued=1.75e9, delta=codec.pack_tree(constant(1.0)), num_examples=10, seconds=0.5
)
FAILURE = Submission(order="a/1", issued=1.75e9, error="no such file: «Akte»")
LARGE_ARRAYS = bytes(codec.encode_tree(LARGE))[-(codec.APART + 12) :]
TREES: list[Params] = [REFERENCE, {}, {"w": np.zeros((0, 3)), "scalar": np.array(1.5)}]
EVERYTHING = [
    *map(messages.encode, [*FLAT, SUBMISSION, FULL_RECORD, *CALLS, DELTA, FAILURE]),
    *map(codec.encode_tree, TREES),
    messages.encode_spec(SPEC),
]
CONNECTION = b"""
[connection]
url = "rediss://fedelta.example.org:6379/0"
username = "site.lakeside"
password_file = "password"
ca = "ca.crt"
certificate = "client.crt"
key = "client.key"
"""
TOML = [b"[" * 2000, b"= [" + b"[" * 2000, b"= " + b"{ a = " * 2000, b"9" * 5000, b"0x" + b"f" * 5000]
TOML += [b"= inf", b"= nan", b"= -1", b"= 1e999", b"= true", b"= []", b"= {}", b'= "' + b"x" * 5000 + b'"']
TOML += [b"= 1979-05-27T07:32:00Z", b"= 0000-00-00", b'= "\\u0000"', b"\\ud800", b"\xff", b"\0", b"'''", b"."]
TOML += [b"[training]", b"[[strategy]]", b"a.b.c = 1\n", b'kind = "adam"\n', b'= "rediss://["', b'= "../.."']


@cache
def fields_of(data: bytes) -> object:
    return msgpack.unpackb(data)


def make_message(rng: random.Random, honest: bytes) -> bytes:
    return mutated(rng, fields_of(honest), EVERYTHING)


def make_apart(rng: random.Random, honest: bytes) -> bytes:
    """A message whose arrays lie apart: another map, a damaged one, or cut and lengthened arrays."""
    size = int.from_bytes(honest[1:5], "big")
    arrays = honest[codec.PREFIX + size :]
    header = honest[codec.PREFIX : codec.PREFIX + size]
    if rng.random() < 0.5:
        header = mutated(rng, fields_of(header), EVERYTHING)
        between = -(codec.PREFIX + len(header) + 5) % codec.ALIGNMENT
        start = b"\xce" + len(header).to_bytes(4, "big") + honest[5 : codec.PREFIX]
        length = rng.choice([len(LARGE_ARRAYS), 0, 2**32 - 1])
        rest = b"\xc0" * between + b"\xc6" + length.to_bytes(4, "big") + LARGE_ARRAYS
        return start + header + rest[: rng.choice([len(rest), len(rest), rng.randrange(len(rest))])]
    begin = damaged(
        rng, honest[: codec.PREFIX] + header, [honest[: codec.PREFIX]], [b"\xce", b"\xc0", b"\xc6"]
    )
    return begin + arrays[: rng.choice([len(arrays), len(arrays), rng.randrange(len(arrays))])]


def make_hash(rng: random.Random, honest: bytes) -> bytes:
    return damaged(
        rng, honest, [honest], [b"\0", b"=", b"nan", b"inf", b"1e999", b"-1", b"9" * 5000, b"\xff"]
    )


def make_file(rng: random.Random, honest: bytes) -> bytes:
    return damaged(rng, honest, [honest], TOML)


def written_hash(fields: object) -> bytes:
    return b"\0".join(f"{name}={value}".encode() for name, value in messages.to_hash(fields).items())


def hash_of(data: bytes) -> dict[bytes, bytes]:
    return {name: value for name, _, value in (pair.partition(b"=") for pair in data.split(b"\0"))}


def targets() -> dict[str, Target]:
    trees = [codec.encode_tree(tree) for tree in TREES]
    by_kind: dict[type, list[bytes]] = {}
    for message in [*FLAT, SUBMISSION, FULL_RECORD]:
        by_kind.setdefault(type(message), []).append(messages.encode(message))
    submissions = [messages.encode(message) for message in (DELTA, DELTA, FAILURE)]
    examples = [path.read_bytes() for path in sorted((REPOSITORY / "examples").glob("*.toml"))]
    hashes = {Head: [written_hash(FULL_HEAD)], SiteRecord: [written_hash(FULL_RECORD)]}
    return {
        "tree": Target(0.1, trees[:1], make_message, check_tree),
        "tree apart": Target(0.1, [bytes(codec.encode_tree(LARGE))], make_apart, check_tree_apart),
        "tree without a reference": Target(0.1, trees, make_message, check_any_tree),
        "unpack": Target(0.1, EVERYTHING, make_message, check_unpack),
        **{
            kind.__name__: Target(0.03, honest, make_message, check_message(kind))
            for kind, honest in by_kind.items()
        },
        "Spec": Target(0.02, [messages.encode_spec(SPEC)], make_message, check_message(Spec)),
        **{
            f"hash of {kind.__name__}": Target(0.04, honest, make_hash, check_hash(kind))
            for kind, honest in hashes.items()
        },
        "call": Target(0.06, [messages.encode(call) for call in CALLS], make_message, check_call),
        "submission in a turn": Target(0.2, submissions, make_message, check_submission),
        "connection file": Target(0.01, [CONNECTION], make_file, check_file(connection.read)),
        "experiment file": Target(0.01, examples, make_file, check_file(experiment.read)),
        **{
            name: Target(0.03, [codec.encode_tree(COMPRESSED, coding)], make_message, check_tree_in(coding))
            for name, coding in CODINGS.items()
        },
    }


TARGETS = targets()


# Running them


def run_share(name: str, cases: range) -> tuple[int, int, str]:
    """Of these cases of a target: how many were taken, how many refused, and the first failure."""
    target, taken, refused = TARGETS[name], 0, 0
    for case in cases:
        rng = random.Random((SEED << 64) + (list(TARGETS).index(name) << 32) + case)
        data = target.make(rng, rng.choice(target.honest))
        begun = time.process_time()
        try:
            if target.check(data):
                taken += 1
            else:
                refused += 1
        except FedeltaError as error:
            refused += 1
            if target.make is make_message and not (len(str(error)) <= 1200 and str(error).isprintable()):
                return taken, refused, failure(name, case, data, "a refusal too long, or of several lines")
        except BaseException:
            return taken, refused, failure(name, case, data, traceback.format_exc(limit=-8))
        if time.process_time() - begun > SECONDS:
            return taken, refused, failure(name, case, data, f"took more than {SECONDS} s")
    return taken, refused, ""


def failure(name: str, case: int, data: bytes, what: str) -> str:
    return f"{name}, FEDELTA_FUZZ_SEED={SEED}, case {case}: {what}\ndata = bytes.fromhex({data.hex()!r})"


def confine() -> None:
    """Make warnings errors, and whatever takes more memory than is allowed a MemoryError."""
    logging.disable()
    warnings.simplefilter("error")
    for target in TARGETS.values():  # whatever is loaded or compiled once
        for honest in target.honest:
            target.check(honest)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessPoolExecutor]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("FEDELTA_FUZZ_FOLDER", str(tmp_path_factory.mktemp("fuzz")))
        with ProcessPoolExecutor(CORES, mp_context=get_context("spawn"), initializer=confine) as found:
            yield found


@pytest.mark.parametrize("name", TARGETS)
def test_a_decoder_takes_what_is_sound_and_refuses_the_rest(pool, name):
    cases = math.ceil(CASES * TARGETS[name].share)
    shares = [range(first, cases, 4 * CORES) for first in range(4 * CORES)]
    results = list(pool.map(run_share, [name] * len(shares), shares))
    failures = [failed for *_, failed in results if failed]
    assert not failures, failures[0]
    taken, refused = (sum(counts) for counts in list(zip(*results, strict=True))[:2])
    assert taken + refused == cases
    assert taken > 0 and refused > 0  # else the cases say nothing of the decoder


@pytest.mark.parametrize("name", TARGETS)
def test_every_honest_message_is_taken(name, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDELTA_FUZZ_FOLDER", str(tmp_path))
    folder.cache_clear()
    accepted = [TARGETS[name].check(honest) for honest in TARGETS[name].honest]
    assert any(accepted)


FOUND = [  # by earlier runs
    ("connection file", CONNECTION.replace(b"ca.crt", b"x" * 5000)),  # a name longer than the system has
    ("connection file", b"connection = " + b"[" * 2000),
    ("experiment file", b"name = " + b"[" * 2000),
    ("experiment file", b"seed = " + b"9" * 5000),
    ("Spec", b"\x81\xa1v" + b"\xdd\x00\x00\x20\x00" * 1000 + b"\xc0" * 20_000),
    ("hash of Head", b"started=\xff"),
]


@pytest.mark.parametrize(("name", "data"), FOUND)
def test_what_was_found_once_is_refused(name, data, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDELTA_FUZZ_FOLDER", str(tmp_path))
    folder.cache_clear()
    with pytest.raises(FedeltaError):
        TARGETS[name].check(data)
