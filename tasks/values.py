"""Large values of Redis: written and read in pieces.

A client's GET copies a large answer several times while it grows; pieces that fit the processor's cache, put
where they belong, take a fraction of the time and no more memory than the value.

A small message is a string. A large one is a hash, as a string has at most 512 MB, has to be sent within one
timeout however slow the line is, and of 160 MB takes Redis three times as long:

    field 0        the message's first `codec.PREFIX` bytes, and its length as 8 bytes
    field 1 ...    the message in pieces of `PIECE` bytes, the last perhaps of fewer

It is written beside its place (`keys.unfinished`), and a transaction puts it there as a whole.
"""

import itertools
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import NoReturn

import numpy as np
import redis

from tasks import codec, keys
from tasks.codec import Parts
from workers.errors import MalformedMessage

PIECE = 2**20 - 64  # bytes; with what Redis adds they are no more than a MiB, of which it would take 1.25
LARGE = 16 * 2**20  # bytes of a message that is still a string
START = codec.PREFIX + 8  # bytes of a hash's field 0
UNFINISHED_SECONDS = 600  # after its last piece, until what a writer has not finished is gone
ATTEMPTS = 100  # to read what is written anew each time


class _Changed(Exception):
    """The value is of another type, or another than it was a moment ago."""


def read(client: redis.Redis, key: str, limit: int | None = None) -> codec.Buffer | None:
    """The value, of a string at most a byte more than the limit; None if there is none, or it is empty.

    One that is written anew meanwhile is read again. A large one is the caller's to change.

    Raises:
        MalformedMessage: it is a hash, and larger than the limit, or not the pieces of a message.
    """
    for _ in range(ATTEMPTS):
        for read_it in (_of_string, _of_hash):
            with suppress(_Changed), _one_type():
                return read_it(client, key, limit)
    raise MalformedMessage(f"{key}: expected a message, got something else each of {ATTEMPTS} times")


def length(client: redis.Redis, key: str) -> int:
    """Bytes of a string; of what is there instead by now, none."""
    with suppress(_Changed), _one_type():
        found: int = client.strlen(key)
        return found
    return 0


def identity(client: redis.Redis, key: str) -> bytes:
    """The first bytes of the value, which tell a large one from another; empty if there is none."""
    with suppress(_Changed), _one_type():
        begin: bytes = client.getrange(key, 0, codec.PREFIX - 1)
        return begin
    with suppress(_Changed), _one_type():
        start: bytes = client.hget(key, 0) or b""
        return start[: codec.PREFIX]
    return b""


class Upload:
    """Messages on their way to their keys, to be put there by a transaction; see `uploaded`."""

    def __init__(self, client: redis.Redis, written: Mapping[str, Parts]) -> None:
        """Nothing is written yet."""
        self._client = client
        self._written = written
        large = (key for key, message in written.items() if len(message) > LARGE)
        self._beside = {key: keys.unfinished(key, secrets.token_hex(8)) for key in large}

    def begin(self) -> None:
        """Write what is large beside its place."""
        for key, beside in self._beside.items():
            message = self._written[key]
            start = message.begin + len(message).to_bytes(8, "big")
            for number, piece in enumerate(itertools.chain([start], message.pieces(PIECE))):
                with self._client.pipeline() as pipe:
                    pipe.hset(beside, number, piece)
                    pipe.expire(beside, UNFINISHED_SECONDS)
                    pipe.execute()

    def watch(self, pipe: redis.client.Pipeline) -> None:
        """See that it is all there; the transaction fails if it does not stay.

        Raises:
            RedisError: it is not, because writing it took too long.
        """
        for key, beside in self._beside.items():
            pipe.watch(beside)
            if not pipe.hstrlen(beside, 0):  # what was written first goes first
                raise redis.RedisError(f"{key}: its beginning was gone before its end was written; again")

    def put(self, pipe: redis.client.Pipeline) -> None:
        """Queue, in the transaction, what puts each message in its place."""
        for key, message in self._written.items():
            if key in self._beside:
                pipe.rename(self._beside[key], key)
                pipe.persist(key)
            else:
                pipe.set(key, message.whole)

    def end(self) -> None:
        """Do away with what no transaction has put in its place."""
        if self._beside:
            with suppress(redis.RedisError):  # it goes by itself, later
                self._client.delete(*self._beside.values())


@contextmanager
def uploaded(client: redis.Redis, written: Mapping[str, Parts]) -> Iterator[Upload]:
    """Messages that are ready to be put in their places, by key; in the end none is left beside its place."""
    upload = Upload(client, written)
    try:
        upload.begin()
        yield upload
    finally:
        upload.end()


@contextmanager
def _one_type() -> Iterator[None]:
    """Commands that Redis refuses if the value is of another type."""
    try:
        yield
    except redis.ResponseError as error:
        if "WRONGTYPE" not in str(error):
            raise
        raise _Changed from error


def _of_string(client: redis.Redis, key: str, limit: int | None) -> codec.Buffer | None:
    last = -1 if limit is None else limit
    first: bytes = client.getrange(key, 0, PIECE - 1 if limit is None else min(PIECE - 1, limit))
    if len(first) < PIECE:
        return first or None
    num_bytes = codec.length(first)
    if num_bytes is None or (limit is not None and num_bytes > limit):
        whole: bytes = client.getrange(key, 0, last)  # whoever wrote it did not use `codec`
        return whole
    value = _room(num_bytes)
    value[:PIECE] = first[:num_bytes]
    for begin in range(PIECE, num_bytes, PIECE):
        piece: bytes = client.getrange(key, begin, min(begin + PIECE, num_bytes) - 1)
        value[begin : begin + len(piece)] = piece
        if len(piece) < min(PIECE, num_bytes - begin):
            value = value[: begin + len(piece)]  # it is shorter than it says, or gone
            break
    if identity(client, key) != value[: codec.PREFIX]:
        raise _Changed
    return value


def _of_hash(client: redis.Redis, key: str, limit: int | None) -> memoryview:
    """The message whose pieces these are.

    Redis has no command that reads a field in part, so where a site writes, lengths are looked at first. One
    that is written anew in that very moment is read, as large as Redis lets it be, and refused.
    """
    if limit is not None and (length := client.hstrlen(key, 0)) not in (0, START):
        raise MalformedMessage(f"expected {START} bytes of piece 0, got {length}")
    start: bytes | None = client.hget(key, 0)
    if start is None:
        raise _Changed
    num_bytes = int.from_bytes(start[codec.PREFIX :], "big")
    if limit is not None and num_bytes > limit:
        raise MalformedMessage(f"expected at most {limit} bytes, got {num_bytes}")
    sizes = {number: min(PIECE, num_bytes - at) for number, at in enumerate(range(0, num_bytes, PIECE), 1)}
    if limit is not None:
        _check_pieces(client, key, start, sizes)
    value = _room(num_bytes)
    at = 0
    for number, size in sizes.items():
        piece: bytes = client.hget(key, number) or b""
        if len(piece) != size:
            _refuse_piece(client, key, start, f"expected {size} bytes of piece {number}, got {len(piece)}")
        value[at : at + size] = piece
        at += size
    if client.hget(key, 0) != start:
        raise _Changed
    return value


def _check_pieces(client: redis.Redis, key: str, start: bytes, sizes: Mapping[int, int]) -> None:
    """See that the pieces are of these lengths."""
    with client.pipeline(transaction=False) as reads:
        for number in sizes:
            reads.hstrlen(key, number)
        lengths = dict(zip(sizes, reads.execute(), strict=True))
    for number, size in sizes.items():
        if lengths[number] != size:
            _refuse_piece(
                client, key, start, f"expected {size} bytes of piece {number}, got {lengths[number]}"
            )


def _refuse_piece(client: redis.Redis, key: str, start: bytes, why: str) -> NoReturn:
    """A piece is not as it should be, unless it is another message's by now."""
    if client.hget(key, 0) == start:
        raise MalformedMessage(why)
    raise _Changed


def _room(num_bytes: int) -> memoryview:
    return memoryview(np.empty(num_bytes, np.uint8))  # type: ignore[arg-type]  # it is a buffer
