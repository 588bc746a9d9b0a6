"""Redis 7's append-only file: every write, in the order in which it was done."""

from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

Command: TypeAlias = list[bytes]
Unit: TypeAlias = list[Command]  # a transaction, or one command


def units(folder: Path) -> Iterator[Unit]:
    """What was written: all of a transaction at once; what is unfinished at the end was never done.

    `folder` is the server's `dir`, and the server one that never rewrites its file.
    """
    transaction: Unit | None = None
    for command in commands(file(folder).read_bytes()):
        name = command[0].upper()
        if name == b"MULTI":
            transaction = []
        elif name == b"EXEC":
            assert transaction is not None, "EXEC without MULTI"
            yield transaction
            transaction = None
        elif transaction is not None:
            transaction.append(command)
        elif name != b"SELECT":
            yield [command]


def commands(written: bytes) -> Iterator[Command]:
    """The commands in these bytes; half a command at the end is left out."""
    return (command for command, _ in _commands_and_ends(written))


def _commands_and_ends(written: bytes) -> Iterator[tuple[Command, int]]:
    """The same, each with the place where it ends."""
    place = 0
    while place < len(written):
        if written[place : place + 1] == b"#":  # a timestamp
            place = written.index(b"\r\n", place) + 2
            continue
        command: Command = []
        try:
            number, place = _number(written, place, b"*")
            for _ in range(number):
                length, place = _number(written, place, b"$")
                command.append(written[place : place + length])
                place += length + 2
        except EOFError:
            return
        if place > len(written):
            return
        yield command, place


def cut(folder: Path, num_bytes: int) -> None:
    """Take away the last bytes, as a power failure does; the server must not run."""
    path = file(folder)
    with path.open("r+b") as opened:
        opened.truncate(path.stat().st_size - num_bytes)


def repair(folder: Path) -> None:
    """Take away a transaction that was begun and not finished, as `redis-check-aof --fix` does.

    Redis 7.0 itself takes away only the last command, if that was cut in two. What is left of the transaction
    is not carried out, until the file is read once more: then it is, merged with whatever came after it.
    """
    written = file(folder).read_bytes()
    whole, is_open = 0, False
    for command, end in _commands_and_ends(written):
        name = command[0].upper()
        is_open = name == b"MULTI" or (is_open and name != b"EXEC")
        whole = whole if is_open else end
    cut(folder, len(written) - whole)


def file(folder: Path) -> Path:
    """The file to which the server appends.

    Raises:
        FileNotFoundError: there is none yet.
    """
    folder = folder / "appendonlydir"
    parts = [line.split() for line in (folder / "appendonly.aof.manifest").read_text().splitlines()]
    names = [words[1] for words in parts if words[5] == "i"]
    assert len(names) == 1, f"expected one incremental file, since nothing rewrites it; got {names}"
    return folder / names[0]


def encoded(written: Iterator[Unit] | list[Unit]) -> bytes:
    """The inverse of `units`."""
    lines = []
    for unit in written:
        for command in [[b"MULTI"], *unit, [b"EXEC"]] if len(unit) > 1 else unit:
            lines.append(b"*%d\r\n" % len(command))
            lines += [b"$%d\r\n%s\r\n" % (len(word), word) for word in command]
    return b"".join(lines)


def _number(written: bytes, place: int, kind: bytes) -> tuple[int, int]:
    """The number in the line that begins here, and where the next begins."""
    end = written.find(b"\r\n", place)
    if end < 0:
        raise EOFError
    assert written[place : place + 1] == kind, f"expected {kind!r} at byte {place}"
    return int(written[place + 1 : end]), end + 2
