"""The members of a zip that a stranger may have made: what they unpack to is bounded, damage is told."""

import os
import zipfile
import zlib
from collections.abc import Collection, Iterator
from typing import Any

import msgpack

from tasks import messages
from workers.errors import MalformedMessage

CHUNK = 2**16  # bytes that are unpacked at once
SHOWN = 80  # characters of what a file says, in an error

# What reading a damaged zip may raise.
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError)


class Members:
    """What is in a zip; closed with `close`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Read its directory.

        Raises:
            OSError: it cannot be read.
            MalformedMessage: it is no zip, or a damaged one.
        """
        try:
            self._file = zipfile.ZipFile(path)
        except OSError:
            raise
        except DAMAGE as error:
            raise MalformedMessage(f"it is no zip, or damaged: {error}") from error
        self._num_bytes = os.path.getsize(path)
        self._infos = {info.filename: info for info in self._file.infolist()}

    def close(self) -> None:
        """Read no more of it."""
        self._file.close()

    def expect(self, names: Collection[str]) -> None:
        """See that these are there, once each, and no others, packed as we do.

        Raises:
            MalformedMessage: names the first that is not so.
        """
        if missing := sorted(set(names) - self._infos.keys()):
            raise MalformedMessage(f"{missing[0]}: is missing")
        if unknown := sorted(self._infos.keys() - set(names)):
            raise MalformedMessage(f"{unknown[0]!r:.{SHOWN}}: is no part of an experiment")
        if len(self._file.infolist()) != len(self._infos):
            raise MalformedMessage("a member is there more than once")

    def bound(self, names: Collection[str], *, least: int, ratio: int) -> None:
        """See that these together are at most `ratio` times as large as the file is, or `least` bytes.

        Raises:
            MalformedMessage: they are not.
        """
        most = max(least, ratio * self._num_bytes)
        if (total := sum(self._infos[name].file_size for name in names)) > most:
            raise MalformedMessage(f"{', '.join(names):.{SHOWN}}: expected at most {most} bytes, got {total}")

    def size(self, name: str) -> int:
        """Bytes that a member, which is there, says it has; it gives no more."""
        return self._infos[name].file_size

    def read(self, name: str, limit: int) -> bytes:
        """All of a member.

        Raises:
            MalformedMessage: it is not there, damaged, or larger than the limit.
        """
        info = self._infos.get(name)
        if info is not None and info.file_size > limit:
            raise MalformedMessage(f"{name}: expected at most {limit} bytes, got {info.file_size}")
        return b"".join(self._chunks(name))

    def rows(self, name: str) -> Iterator[bytes]:
        """The byte strings that a member is a sequence of, one at a time.

        Raises:
            MalformedMessage: it is not there, damaged, or no such sequence.
        """
        unpacker, num_bytes, complete = _unpacker(), 0, 0
        for chunk in self._chunks(name):
            num_bytes += len(chunk)
            for row in _unpacked(name, unpacker, chunk):
                complete = unpacker.tell()  # where the row ends
                yield row
        if complete != num_bytes:
            raise MalformedMessage(f"{name}: ends within a row")

    def _chunks(self, name: str) -> Iterator[bytes]:
        """A member's bytes; the zip's reader gives no more than the member said that it has."""
        info = self._infos.get(name)
        if info is None:
            raise MalformedMessage(f"{name}: is missing")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise MalformedMessage(f"{name}: expected a member that is stored or deflated")
        left = info.file_size
        try:
            with self._file.open(info) as member:
                while chunk := member.read(CHUNK):
                    left -= len(chunk)
                    yield chunk
        except DAMAGE as error:
            raise MalformedMessage(f"{name}: is damaged: {error}") from error
        if left:
            raise MalformedMessage(f"{name}: is damaged: {left} bytes are missing")


def pack_row(row: bytes) -> bytes:
    """The row as a member has it."""
    packed: bytes = msgpack.packb(row)
    return packed


def _unpacker() -> Any:
    """One that takes byte strings alone."""
    most = messages.MAX_BYTES
    nothing_else = {"max_str_len": 0, "max_array_len": 0, "max_map_len": 0, "max_ext_len": 0}
    return msgpack.Unpacker(max_bin_len=most, max_buffer_size=CHUNK + 2 * most, **nothing_else)


def _unpacked(name: str, unpacker: Any, chunk: bytes) -> Iterator[bytes]:
    """The rows that are complete with this chunk."""
    try:
        unpacker.feed(chunk)
        for row in unpacker:
            if type(row) is not bytes:
                raise MalformedMessage(f"{name}: expected byte strings, got {type(row).__name__}")
            yield row
    except (ValueError, msgpack.UnpackException) as error:
        raise MalformedMessage(f"{name}: expected rows of at most {messages.MAX_BYTES} bytes") from error
