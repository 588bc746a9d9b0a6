"""What a hostile sender could make of an honest message: random accidents, repeatable by their seed."""

import math
import random
import struct
from collections.abc import Sequence

import msgpack

MARK = "@mark@"
_PACKED_MARK = msgpack.packb(MARK)

# What goes where something else is expected: values of all kinds, packed,
VALUES = [
    msgpack.packb(value)
    for value in (
        *(None, True, False, 0, 1, -1, 2**53, 2**63 - 1, 2**63, 2**64 - 1, -(2**63)),
        *(0.0, -0.0, 1e-320, 1e30, 1.1e39, 1.7e308, -1.7e308, math.nan, math.inf, -math.inf),
        *("", "1", "nan", "w", "a/1", "raw", "\x1b[2J\r\n", "\u202e", "\0" * 9, "é" * 600),
        *("float32", "float64", "int32", "int64", "<f4", "object"),
        *(b"", b"\xff", bytes(4), bytes(8), b"\x80" * 64, "x" * 4000, "x" * 5000),
        *([], {}, [[]], [{}], {"": None}, {"v": 1}, [1] * 40, [2**40], [0, 2**39, 2**39], [True, 1], [1.0]),
        *({"kind": []}, {"kind": "adam"}, {"name": {}}, {str(key): key for key in range(60)}),
        *([[]] * 30, [[]] * 3000, [{}] * 3000, ["ab"] * 3000, {str(key): [] for key in range(500)}),
    )
]
VALUES += [struct.pack(">Bf", 0xCA, number) for number in (1e-45, math.nan, math.inf)]
VALUES += [b"\x91" * depth + b"\xc0" for depth in (2, 30, 500)]
# and what msgpack has no place for, or we have none for.
BROKEN = [
    b"\xa3\xff\xfe\xfd",  # text that is none
    b"\xa3\xed\xa0\x80",  # ... and one of half a pair
    b"\xc1",  # no type at all
    b"\xd4\x05a",  # types of somebody's own
    b"\xc7\x00\x05",
    b"\xd6\xff\x00\x00\x00\x01",  # moments, the last of which is none
    b"\xd7\xff" + b"\xff" * 8,
    b"\xc7\x0c\xff" + b"\xff" * 12,
    *(kind + b"\xff" * 4 for kind in (b"\xc6", b"\xc9", b"\xdb", b"\xdd", b"\xdf")),  # lengths of 4 GiB
    b"\x91" * 1500 + b"\xc0",  # nested deeper than the parser goes
    b"\x81\xa0" * 1500 + b"\xc0",
    b"\xdc\x0f\xff" * 1000 + b"\xc0" * 4095,  # nested lists that each claim to be long
    b"\xdc\xff\xff" * 1000,
    b"\xdd\x00\x00\x20\x00" * 1000 + b"\xc0" * 8192,
    b"\xdf\x00\x00\x20\x00" * 1000,
    b"\x81\x81\xa0\x01\x01",  # maps and lists as keys
    b"\x81\x90\x01",
    b"\x82\xa1v\x01\xa1v\x02",  # a key that comes twice
]
TYPES = [*b"\xc0\xc1\xc2\xc3\xc4\xc5\xc6\xc7\xc8\xc9\xca\xcb\xcc\xcd\xce\xcf"]
TYPES += [
    *b"\xd0\xd1\xd2\xd3\xd4\xd5\xd6\xd7\xd8\xd9\xda\xdb\xdc\xdd\xde\xdf\x80\x81\x90\x91\xa0\xa1\x00\xff"
]


def mutated(rng: random.Random, fields: object, others: Sequence[bytes]) -> bytes:
    """The message of these fields after accidents to what it says, or to its bytes, or to both."""
    chance = rng.random()
    if chance < 0.85:
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            fields = _changed(rng, fields)
    hostile = rng.choice(VALUES if rng.random() < 0.85 else BROKEN)
    data = msgpack.packb(fields).replace(_PACKED_MARK, hostile)
    return damaged(rng, data, others, BROKEN) if chance > 0.7 else data


def damaged(rng: random.Random, data: bytes, others: Sequence[bytes], tokens: Sequence[bytes]) -> bytes:
    """The bytes after one to four accidents; they may go on as one of the others, or have tokens in them."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        begin = rng.randrange(len(changed) + 1)
        length = rng.choice((1, 1, 2, 4, 8, 30))
        old = changed[begin : begin + length]
        end = begin
        match rng.randrange(9):
            case 0:
                end, new = begin + length, bytes(byte ^ 1 << rng.randrange(8) for byte in old)
            case 1:
                end, new = begin + 1, bytes([rng.choice(TYPES)])
            case 2:
                new = rng.randbytes(length)
            case 3:
                end, new = begin + length, b""
            case 4:
                new = old * rng.choice((1, 1, 2, 50))
            case 5:
                end, new = len(changed), b""
            case 6:
                other = rng.choice(others)
                end, new = len(changed), other[rng.randrange(len(other) + 1) :]
            case 7:
                end, new = begin + length, rng.choice((0, 2**31, 2**32 - 1)).to_bytes(4, "big")
            case _:
                new = rng.choice(tokens)
        changed[begin:end] = new
    return bytes(changed)


def _changed(rng: random.Random, value: object) -> object:
    """The value with one of its parts, however deep, missing, repeated, renamed, added or `MARK`."""
    if not value or rng.random() < 0.1:
        return MARK
    if isinstance(value, dict):
        return _changed_map(rng, value)
    if isinstance(value, list):
        return _changed_list(rng, value)
    if isinstance(value, bytes) and rng.random() < 0.7:
        return damaged(
            rng, value, [value], [struct.pack("<f", number) for number in (7, 7.5, 1e18, math.nan)]
        )
    if type(value) is float and rng.random() < 0.5:
        return value * rng.choice((-1.0, 0.5, 1e9))
    if type(value) is int and rng.random() < 0.5:
        number = value * rng.choice((-1, 0, 1, 2)) + rng.choice((-1, 0, 1))
        return max(min(number, 2**64 - 1), -(2**63))
    return MARK


def _changed_map(rng: random.Random, value: dict[object, object]) -> object:
    key = rng.choice(list(value))
    match rng.randrange(12):
        case 0:
            return {name: part for name, part in value.items() if name != key}
        case 1:
            return value | {rng.choice(("extra", "", b"v", 1, MARK, "x" * 300, "a\nb")): value[key]}
        case 2:
            return value | {key: value[rng.choice(list(value))]}
        case _:
            return value | {key: _changed(rng, value[key])}


def _changed_list(rng: random.Random, value: list[object]) -> object:
    place = rng.randrange(len(value))
    match rng.randrange(12):
        case 0:
            return value[:place] + value[place + 1 :]
        case 1:
            return value + value[place : place + 1] * rng.choice((1, 2, 60))
        case 2:
            return value[::-1]
        case _:
            return [*value[:place], _changed(rng, value[place]), *value[place + 1 :]]
